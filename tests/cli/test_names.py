"""Names by the command line and the Python API: networks that have them, aliases, links."""

from __future__ import annotations

import json
from typing import Any

import pytest

from netkit import Netkit
from netkit.errors import InvalidSpec
from netkit.model import NetworkRecord
from scenarios.lab import Host
from scenarios.served import served
from tests.faces import netkit, ok, refused

pytestmark = pytest.mark.usefixtures("host")
UNSERVED = (
    "Warning: names on network 'web' are not served: netkitd does not run, and NETKIT_DAEMON=no "
    "forbids to start it\n"
)


def inspected(name: str, network: str = "web") -> Any:
    (found,) = json.loads(ok("inspect", name))
    return found["NetworkSettings"]["Networks"][network]


# -- networks


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], False),  # nobody may start netkitd here
        (["--dns-enabled"], True),
        (["--dns-enabled=false"], False),
        (["--disable-dns"], False),
        (["-d", "veth", "--dns-enabled"], True),
    ],
)
def test_a_network_has_names_where_it_is_told_so(words: list[str], names: bool) -> None:
    ok("network", "create", *words, "web")
    (found,) = json.loads(ok("network", "inspect", "web"))
    assert found["DNSEnabled"] is names


def test_networks_have_names_where_netkitd_may_serve_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NETKIT_DAEMON")
    ok("network", "create", "web")
    ok("network", "create", "--disable-dns", "plain")
    ok("network", "create", "-d", "dummy", "dummy")
    shown = "{{.Name}} {{.DNSEnabled}}"
    lines = ok("network", "inspect", "-f", shown, "web", "plain", "dummy").splitlines()
    assert lines == ["web true", "plain false", "dummy false"]


def test_its_servers_and_that_it_knows_hostnames_are_shown() -> None:
    ok(
        *("network", "create", "--dns-enabled", "--dns=192.0.2.1", "--dns=2001:DB8::1"),
        *("-o", "hostnames=true", "web"),
    )
    (found,) = json.loads(ok("network", "inspect", "web"))
    assert found["DNSServers"] == ["192.0.2.1", "2001:db8::1"]
    assert found["Options"]["hostnames"] == "true"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["-d", "macvlan", "--dns-enabled"], "the host has no address there"),
        (["--dns-enabled", "--internal", "-o", "gateway_mode_ipv4=isolated"], "has no address"),
        (["--dns=192.0.2.1"], "cannot have --dns on network 'web': it has no names"),
        (["-o", "hostnames=true"], "cannot have hostnames on network 'web': it has no names"),
        (["--dns-enabled", "--dns=127.0.0.53"], "it is asked by the host"),
        (["--dns-enabled", "--dns=fe80::1%eth0"], "it is asked by the host"),
        (["--dns-enabled", "--dns=ns.example"], "invalid nameserver 'ns.example'"),
        (["--dns-enabled", "-o", "hostnames=maybe"], "not true or false"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], why: str) -> None:
    assert why in refused("network", "create", *words, "web")
    assert ok("network", "ls", "-q", "--filter=name=web") == ""


# -- endpoints


@pytest.mark.parametrize("option", ["--network-alias", "--net-alias", "--alias"])
def test_aliases_and_links_are_shown_with_all_it_is_called(host: Host, option: str) -> None:
    ok("network", "create", "--dns-enabled", "web")
    with served(host):
        ok("connect", "--net=web", "--name=db")
        ok(
            *("connect", "--net=web", "--name=shop", f"{option}=Store", option, "*.shop.test"),
            *("--link=db:database", "--link", "db", f"{option}=Store"),
        )
    shop = inspected("shop")
    assert shop["Aliases"] == ["Store", "*.shop.test"]
    assert shop["Links"] == ["db:database", "db:db"]
    short = ok("ps", "-q", "--filter=name=shop").strip()
    assert shop["DNSNames"] == ["shop", short, "store", "*.shop.test"]
    assert inspected("db")["Aliases"] == []


def test_network_connect_and_run_take_them_too(host: Host) -> None:
    ok("network", "create", "--dns-enabled", "web")
    ok("network", "create", "--dns-enabled", "back")
    with served(host):
        ok("run", "-d", "--name=db", "--net=web", "--network-alias=store", "--", "sleep", "60")
        ok("network", "connect", "--alias=vault", "--link=db:self", "back", "db")
        long = "name=web,alias=long,link=db:data"
        ok("run", "-d", "--name=two", f"--net={long}", "--", "sleep", "60")
        twice = refused("run", f"--net={long}", "--net-alias=short", "--", "true", code=125)
        assert "conflicting options: --network-alias" in twice
    assert inspected("db")["Aliases"] == ["store"]
    assert inspected("db", "back")["Aliases"] == ["vault"]
    assert inspected("db", "back")["Links"] == ["db:self"]
    assert (inspected("two")["Aliases"], inspected("two")["Links"]) == (["long"], ["db:data"])
    ok("rm", "-f", "db", "two")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--alias=a b"], "invalid alias 'a b'"),
        (["--alias=*"], "invalid alias"),
        (["--alias=localhost"], "it means the same to everybody"),
        (["--alias=db"], "'db' is the name of db on network 'web' already"),
        (["--link=nobody:x"], "cannot link to 'nobody': there is no container of that name"),
        (["--link=db:a b"], "invalid alias 'a b'"),
        (["--link=:x"], "invalid container name ''"),
    ],
)
def test_what_nobody_can_be_called_is_refused(words: list[str], why: str) -> None:
    ok("network", "create", "--dns-enabled", "web")
    assert netkit("connect", "--net=web", "--name=db") == (0, "db\n", UNSERVED)
    assert why in refused("connect", "--net=web", "--name=two", *words)
    assert why in refused("connect", "--net=web", "--name=two", *words, "--dry-run")
    assert ok("ps", "-q", "--filter=name=two") == ""


@pytest.mark.parametrize("option", ["--network-alias=a", "--link=db"])
@pytest.mark.parametrize("mode", ["host", "none"])
def test_they_are_of_networks_one_joins(option: str, mode: str) -> None:
    assert "conflicting options" in refused(
        *("run", f"--net={mode}", option, "--", "true"), code=125
    )


def test_a_dry_run_asks_nobody_to_serve_names() -> None:
    ok("network", "create", "--dns-enabled", "web")
    assert "ip link add" in ok("connect", "--net=web", "--name=db", "--alias=store", "--dry-run")


# -- the Python API


def test_the_python_api_takes_the_same(host: Host) -> None:
    with served(host), Netkit() as nk:
        net = nk.networks.create("web", dns_enabled=True, dns=["192.0.2.1"], hostnames=True)
        record = net.record
        assert isinstance(record, NetworkRecord)
        assert (record.names, record.servers, record.hostnames) == (True, ("192.0.2.1",), True)
        net.connect(name="db")
        net.connect(name="shop", aliases=["store", "store"], links=["db:database"])
        assert inspected("shop")["Aliases"] == ["store"]
        assert inspected("shop")["Links"] == ["db:database"]
        with pytest.raises(InvalidSpec):
            net.connect(name="bad", aliases=["a b"])
        with pytest.raises(InvalidSpec):
            nk.networks.create("bad", dns_enabled=True, dns=["nowhere"])
        net.remove(force=True)
