"""Ports that several attachments of one container claim: one has them, whoever stays keeps them.

Podman publishes the ports of a container on every network it is on, in any order.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cni import delegate
from netkit import sharing
from netkit.engine import Engine
from netkit.errors import Conflict
from netkit.kernel import Kernel, sockets
from netkit.model import AttachmentRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.chains import published
from scenarios.lab import Host, run, snapshot
from scenarios.plugins import Json, Plugins, Refused
from tests.cni.test_plugin import dies_at, points

PORTS = [published(8080, 80), published(5353, 53, "udp"), *(published(n, n) for n in (90, 91))]
HERE = {"front": "10.77.0.", "inner": "10.79.0.", "third": "10.81.0."}


class Networks:
    """Bridges with portmap behind them; containers are on as many as they like."""

    def __init__(self, cni: Plugins) -> None:
        self.cni = cni
        self.results: dict[tuple[str, str], Json] = {}

    def _conf(self, kind: str, network: str, **more: object) -> Json:
        conf: Json = {"cniVersion": "1.1.0", "name": network, **more}
        if kind == "bridge":
            ipam = self.cni.ipam(f"{HERE[network]}0/24")
            conf |= {"bridge": f"br-{network}", "isGateway": True, "ipam": ipam}
        return conf

    def join(self, network: str, container: str = "c1") -> None:
        """Attach a container to a network, not yet its ports."""
        conf = self._conf("bridge", network)
        self.results[container, network] = self.cni.add("bridge", conf, container, ifname=network)

    def publish(self, network: str, container: str = "c1", ports: list[Json] = PORTS) -> None:
        more = {"portMappings": ports}, self.results[container, network]
        conf = self._conf("portmap", network, runtimeConfig=more[0], prevResult=more[1])
        self.cni.add("portmap", conf, container, ifname=network)

    def withdraw(self, network: str, container: str = "c1") -> None:
        self.cni.delete("portmap", self._conf("portmap", network), container, ifname=network)

    def check(self, network: str) -> None:
        result = self.results["c1", network]
        self.cni.check("portmap", self._conf("portmap", network), result, ifname=network)

    def leads_to(self) -> set[str]:
        """The networks that published ports lead to."""
        rules = run("nft list table inet netkit") if "netkit" in run("nft list tables") else ""
        found = re.findall(r"map (?:wildcard|ranges)4 \{.*?\n\t\}", rules, re.DOTALL)
        addresses = set(re.findall(r": (\d+\.\d+\.\d+\.)\d+", " ".join(found)))
        return {network for network, beginning in HERE.items() if beginning in addresses}


@pytest.fixture
def nets(host: Host) -> Networks:
    made = Networks(Plugins(host.base))
    for network in ("front", "inner"):
        made.join(network)
    return made


def test_the_second_stands_by_and_gets_the_ports_when_the_first_goes(nets: Networks) -> None:
    before = snapshot()
    nets.publish("front")
    alone = run("nft list ruleset | sed 's/^.*siblings.*//'")
    nets.publish("inner")
    assert nets.leads_to() == {"front"}
    assert len(run("nft list map inet netkit wildcard4")) <= len(alone)
    nets.check("front")
    nets.check("inner")
    nets.withdraw("front")
    assert nets.leads_to() == {"inner"}
    nets.check("inner")
    nets.publish("front")
    assert nets.leads_to() == {"inner"}
    nets.withdraw("front")
    assert nets.leads_to() == {"inner"}
    nets.withdraw("inner")
    assert snapshot() == before


def test_of_several_the_oldest_is_next(nets: Networks) -> None:
    nets.join("third")
    for network in ("front", "inner", "third"):
        nets.publish(network)
    for network in ("front", "inner", "third"):
        assert nets.leads_to() == {network}
        nets.withdraw(network)
    assert nets.leads_to() == set()


def test_s19_no_other_container_gets_them_at_any_time(nets: Networks) -> None:
    nets.join("front", "c2")

    def refused(*ports: Json) -> None:
        with pytest.raises(Refused, match=r"already allocated \(by container 'c1/"):
            nets.publish("front", "c2", [*ports])

    nets.publish("front")
    nets.publish("inner")
    for network in ("front", "inner"):
        refused(published(8080, 80))
        refused(published(8080, 80, ip="10.77.0.1"))
        refused(published(5353, 1, "udp"))
        nets.withdraw(network)
    nets.publish("front", "c2")
    refused_now = pytest.raises(Refused, match=r"already allocated \(by container 'c2/")
    with refused_now:
        nets.publish("inner")


@pytest.mark.parametrize(("container", "place"), [("c1", "c2"), ("c2", "c1")])
def test_s19_one_of_the_same_name_or_namespace_is_another(
    nets: Networks, container: str, place: str
) -> None:
    nets.publish("front")
    result = {"interfaces": [], "ips": [{"address": f"{HERE['inner']}9/24"}]}
    conf: Json = {"cniVersion": "1.1.0", "name": "inner", "prevResult": result}
    conf["runtimeConfig"] = {"portMappings": PORTS}
    with pytest.raises(Refused, match="already allocated"):
        nets.cni.add("portmap", conf, container, ifname="inner", at=nets.cni.netns(place))


def test_what_overlaps_but_is_not_the_same_is_a_clash(nets: Networks) -> None:
    nets.publish("front", ports=[published(n, n) for n in range(90, 95)])
    for ports in (
        [published(92, 92)],
        [published(n, n) for n in range(94, 99)],
        [published(90, 90, ip="10.77.0.1")],
    ):
        with pytest.raises(Refused, match="already allocated"):
            nets.publish("inner", ports=ports)
    assert nets.leads_to() == {"front"}


def test_what_only_one_of_them_publishes_is_its_own(nets: Networks) -> None:
    one, other, both = (published(n, 80) for n in (1001, 1003, 1005))
    nets.publish("front", ports=[one, both])
    nets.publish("inner", ports=[other, both])
    assert nets.leads_to() == {"front", "inner"}
    nets.withdraw("front")
    listed = run("nft list map inet netkit wildcard4")
    assert ("1001" in listed, "1003" in listed, "1005" in listed) == (False, True, True)
    nets.withdraw("inner")
    assert nets.leads_to() == set()


def test_kill_9_while_the_first_goes_leaves_the_ports_to_the_second(nets: Networks) -> None:
    """Whichever of the two is asked for next."""
    nets.publish("front")
    nets.publish("inner")
    passed = points(lambda: nets.withdraw("front"))
    nets.withdraw("inner")
    places = [i for i, name in enumerate(passed) if not name.endswith(" before")]
    for number in [*places, *(-i for i in places if "Rules" in passed[i])]:
        where = f"killed at {passed[abs(number)]!r}, point {number}"
        nets.publish("front")
        nets.publish("inner")
        assert dies_at(abs(number), lambda: nets.withdraw("front"))
        if number >= 0:
            nets.withdraw("front")
            assert nets.leads_to() == {"inner"}, where
            nets.check("inner")
        nets.withdraw("inner")
        assert nets.leads_to() <= {"front"}, where
        nets.withdraw("front")
        assert nets.leads_to() == set(), where


def test_kill_9_while_the_second_comes_or_goes_leaves_the_ports_to_the_first(
    nets: Networks,
) -> None:
    nets.publish("front")

    def second() -> None:
        nets.publish("inner")
        nets.withdraw("inner")

    passed = points(second)
    for number in [i for i, name in enumerate(passed) if not name.endswith(" before")]:
        assert dies_at(number, second)
        assert nets.leads_to() == {"front"}, f"killed at {passed[number]!r}"
        nets.withdraw("inner")
        nets.check("front")
    nets.withdraw("front")
    assert nets.leads_to() == set()


def test_an_heir_that_is_undone_meanwhile_by_somebody_else_leaves_nothing(
    nets: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read while it stood by; when its turn comes it has the ports."""
    before = snapshot()
    nets.publish("front")
    nets.publish("inner")
    original = sharing.locked
    went: list[str] = []

    def locked(store: object, record: AttachmentRecord) -> object:
        if record.sandbox == "c1/inner" and not went:
            went.append("front")
            nets.withdraw("front")
            assert nets.leads_to() == {"inner"}
        return original(store, record)  # type: ignore[arg-type]

    monkeypatch.setattr(sharing, "locked", locked)
    nets.withdraw("inner")
    assert went == ["front"]
    assert snapshot() == before


def test_a_flush_keeps_nobody_from_leaving(nets: Networks) -> None:
    before = snapshot()
    nets.publish("front")
    nets.publish("inner")
    run("nft flush ruleset")
    nets.withdraw("front")
    with pytest.raises(Refused, match="not as added"):
        nets.check("inner")
    nets.withdraw("inner")
    assert snapshot()["links"] == before["links"]


def test_a_namespace_that_is_gone_keeps_no_port(nets: Networks) -> None:
    nets.publish("front")
    nets.publish("inner")
    run("ip netns del c1")
    engine = Engine()
    engine.changes.call = delegate.release
    try:
        assert engine.bury_attachments()
        assert not engine.store.all(AttachmentRecord)
    finally:
        engine.close()
    assert nets.leads_to() == set()


# -- type netkit: what the second one asks for stays with the first


def _whole(network: str, *ports: Json, **more: object) -> Json:
    subnet = f"{HERE[network]}0/24"
    runtime = {"portMappings": [*ports]}
    conf: Json = {"cniVersion": "1.1.0", "name": network, "subnets": [subnet]}
    return {**conf, "runtimeConfig": runtime, **more}


def test_of_type_netkit_the_second_network_leaves_the_ports_to_the_first(host: Host) -> None:
    nets = Networks(Plugins(host.base))
    front, third = _whole("front", *PORTS), _whole("third", *PORTS, published(1001, 80))
    inner = _whole("inner", *PORTS, internal=True)
    for conf in (inner, front, third):
        nets.cni.add("netkit", conf, ifname=conf["name"])
    assert nets.leads_to() == {"front", "third"}
    listed = run("nft list map inet netkit wildcard4")
    assert "tcp . 1001 : 10.81.0.2 . 80" in listed
    assert "tcp . 8080 : 10.77.0.2 . 80" in listed
    with pytest.raises(Refused, match="already allocated"):
        nets.cni.add("netkit", front, "c2")
    for conf in (front, third):  # as `podman network reload` does
        nets.cni.delete("netkit", conf, ifname=conf["name"])
    nets.cni.add("netkit", third, ifname="third")
    assert nets.leads_to() == {"third"}


def test_of_type_netkit_the_containers_own_monitor_may_have_its_port_open(host: Host) -> None:
    nets = Networks(Plugins(host.base))
    front = _whole("front", published(8080, 80))
    with holding(8080, "-c", "c1"):
        nets.cni.add("netkit", front)
        assert nets.leads_to() == {"front"}
        nets.cni.delete("netkit", front)
        with pytest.raises(Refused, match="already in use by"):
            nets.cni.add("netkit", front, "c2")
        engine = host.engine()
        engine.create_network(NetworkSpec("web"))
        with pytest.raises(Conflict, match="already in use by"):
            engine.connect("web", request=Request(ports=PortSpec.parse("8080:80")))


# -- what podman's monitor of a container has open


@contextmanager
def holding(port: int, *words: str, called: str = "/usr/bin/conmon") -> Iterator[int]:
    """A process that is *called* so, with *words* as arguments, and listens; its pid."""
    with socket.create_server(("", port)) as listening:
        process = subprocess.Popen(
            [called, "-c", "read line", *words],
            executable="/bin/sh",
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
        )
    with process:
        assert process.stdin is not None
        yield process.pid
        process.stdin.close()


def test_a_port_that_the_containers_own_monitor_has_open_is_free_to_it(nets: Networks) -> None:
    with holding(8080, "-c", "c1", "-n", "web"):
        nets.publish("front")
        nets.publish("inner")
        nets.withdraw("front")
        nets.publish("front")
        assert nets.leads_to() == {"inner"}


@pytest.mark.parametrize(
    ("words", "called"),
    [
        (("-c", "c2"), "conmon"),
        (("-c", "c"), "conmon"),
        (("-n", "c1"), "conmon"),
        (("-c", "c1"), "conmonster"),
        (("-c", "c1"), "python3"),
    ],
)
def test_s20_nobody_elses_is(nets: Networks, words: tuple[str, ...], called: str) -> None:
    before = snapshot()
    with holding(8080, *words, called=called), pytest.raises(Refused, match="already in use by"):
        nets.publish("front")
    assert snapshot() == before


def test_s20_nor_one_that_somebody_else_has_open_as_well(
    nets: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(8080, "-c", "c1") as monitor:
        assert {*sockets.holders("tcp", 8080)} == {monitor}
        monkeypatch.setattr(Kernel, "port_holders", lambda *_: {monitor, 1})
        with pytest.raises(Refused, match="already in use by"):
            nets.publish("front")
        monkeypatch.setattr(Kernel, "port_holders", lambda *_: set())
        with pytest.raises(Refused, match="already in use by"):
            nets.publish("front")
