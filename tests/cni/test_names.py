"""Names by the plugin type `netkit` (I25): what a container is called, and whom it is to ask."""

from __future__ import annotations

import pytest

from cni.spec import Json
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec
from scenarios.lab import Host
from scenarios.plugins import Plugins, Refused
from scenarios.served import resolve, served

PODMANS = "IgnoreUnknown=1;K8S_POD_NAME={}"


@pytest.fixture
def cni(host: Host) -> Plugins:
    return Plugins(host.base)


def conf(*aliases: str, **more: object) -> Json:
    runtime = {"aliases": {"web": list(aliases), "other": ["elsewhere"]}}
    subnets = ["10.77.0.0/24", "fd00:77::/64"]
    found: Json = {"cniVersion": "1.0.0", "name": "web", "subnets": subnets, "ipv6": True}
    return {**found, "runtimeConfig": runtime, **more}


def aliases(host: Host) -> list[tuple[str, ...]]:
    return [ep.wanted.aliases for ep in host.engine().store.all(EndpointRecord)]


def test_i25_it_is_called_what_the_runtime_says_and_told_to_ask_the_gateways(
    host: Host, cni: Plugins
) -> None:
    with served(host):
        web = conf("store", "shop.example", names=True, dns={"nameservers": ["192.0.2.53"]})
        said = cni.add("netkit", web, "a" * 64, args=PODMANS.format("web_1"))
        assert said["dns"] == {"nameservers": ["10.77.0.1", "fd00:77::1"]}
        assert aliases(host) == [("web_1", "store", "shop.example")]
        (ep,) = host.engine().store.all(EndpointRecord)
        for name in ("web_1", "store", "shop.example", "a" * 12, "web_1.web"):
            assert resolve(ep.netns, "10.77.0.1", name) == [str(ep.addresses[0].ip)], name
        assert resolve(ep.netns, "10.77.0.1", "elsewhere") is None
    net = host.engine().store.get(NetworkRecord, "web")
    assert net.servers == ("192.0.2.53",)
    cni.check("netkit", web, said, "a" * 64)
    cni.delete("netkit", web, "a" * 64)
    assert aliases(host) == []


def test_without_names_they_are_of_no_account(host: Host, cni: Plugins) -> None:
    said = cni.add("netkit", conf("store", dns={"nameservers": ["192.0.2.53"]}))
    assert said["dns"] == {"nameservers": ["192.0.2.53"]}
    assert aliases(host) == [()]


def test_a_network_that_netkit_made_has_names_as_it_was_told(host: Host, cni: Plugins) -> None:
    host.engine().create_network(NetworkSpec("web", names=True))
    cni.add("netkit", conf("store"))
    assert aliases(host) == [("store",)]


@pytest.mark.parametrize("name", ["localhost", "two words", "x.y", "", "wpad"])
def test_a_pods_name_that_can_be_nobodys_is_left_out(host: Host, cni: Plugins, name: str) -> None:
    cni.add("netkit", conf(names=True), args=PODMANS.format(name))
    assert aliases(host) == [()]


@pytest.mark.parametrize("alias", ["two words", "a\nb", "localhost"])
def test_an_alias_that_can_be_nobodys_is_refused(host: Host, cni: Plugins, alias: str) -> None:
    with pytest.raises(Refused):
        cni.add("netkit", conf(alias, names=True))
    assert host.engine().store.everything() == []
