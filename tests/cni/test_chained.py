"""What every chained plugin type holds to: all that ADD made goes, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from netkit import steps
from netkit.errors import KernelRefused
from netkit.firewall import Obstacle, foreign
from scenarios.chains import Chain, published
from scenarios.lab import Host, inside, run, snapshot, until
from scenarios.plugins import Json, Plugins, Refused
from tests.kernel import test_shaping

LIMITS = {
    "ingressRate": 1_000_000,
    "ingressBurst": 80_000,
    "egressRate": 1_000_000,
    "egressBurst": 80_000,
}
TUNED = {"mac": "c2:11:22:33:44:55", "mtu": 1400, "promisc": True, "txQLen": 7, "allmulti": True}
CONFS: dict[str, Json] = {
    "portmap": {
        "masqAll": True,
        "conditionsV4": ["!", "-d", "192.0.2.0/24"],
        "runtimeConfig": {"portMappings": [published(8080, 80), published(53, 53, "udp")]},
    },
    "firewall": {"ingressPolicy": "isolated", "iptablesAdminChainName": "MINE"},
    "tuning": {"sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"}, **TUNED},
    "bandwidth": LIMITS,
}
of_each_kind = pytest.mark.parametrize("kind", CONFS)


class World:
    """A container on a bridge, and the configuration of a plugin behind that."""

    def __init__(self, host: Host, kind: str) -> None:
        if kind == "bandwidth" and (reason := test_shaping.missing()):
            pytest.skip(reason)
        self.cni, self.kind = Plugins(host.base), kind
        self.chain = Chain(self.cni)
        self.at = self.chain.add("c1")
        if kind == "firewall":  # what iptables-nft once made stays, empty
            run("iptables -w -P FORWARD ACCEPT", "ip6tables -w -P FORWARD ACCEPT")
        self.plain: Json = {"cniVersion": "1.1.0", "name": "web"}
        self.conf = {**self.plain, **CONFS[kind], "prevResult": self.chain.results["c1"]}

    def state(self) -> object:
        queues = run("tc qdisc | grep -v noqueue || true")
        return snapshot(), inside(self.at), run("bridge -d link show"), queues

    def add(self) -> Json:
        return self.cni.add(self.kind, self.conf)

    def delete(self, **more: str) -> None:
        self.cni.delete(self.kind, self.plain, **more)


@pytest.fixture
def world(host: Host, kind: str) -> World:
    return World(host, kind)


@of_each_kind
def test_del_undoes_add_and_needs_no_more_than_the_networks_name(world: World) -> None:
    before = world.state()
    world.delete()
    result = world.add()
    world.cni.check(world.kind, world.conf, result)
    assert world.state() != before
    world.delete(at="")
    assert world.state() == before
    world.delete()
    assert world.state() == before


@of_each_kind
def test_a_second_add_is_refused_and_the_first_stays(world: World) -> None:
    result = world.add()
    before = world.state()
    with pytest.raises(Refused, match="attached already"):
        world.add()
    assert world.state() == before
    world.cni.check(world.kind, world.conf, result)


@of_each_kind
def test_gc_undoes_what_is_not_valid_and_nothing_else(world: World) -> None:
    before = world.state()
    world.add()
    there = world.state()
    world.cni.gc(world.kind, world.plain, ("c1", "eth0"))
    assert world.state() == there
    world.cni.gc(world.kind, world.plain, ("c1", "eth1"))
    assert world.state() == before


@of_each_kind
def test_status_is_fine(world: World) -> None:
    assert world.cni.call(world.kind, "STATUS", {**world.plain, **CONFS[world.kind]}) is None


@of_each_kind
def test_check_of_what_was_never_added_fails(world: World) -> None:
    with pytest.raises(Refused, match="is not attached"):
        world.cni.check(world.kind, world.conf, world.chain.results["c1"])


@of_each_kind
def test_whatever_fails_nothing_of_an_add_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each point of making it, one after the other."""
    before = world.state()
    names: list[str] = []
    monkeypatch.setattr(steps, "point", names.append)
    world.add()
    world.delete()
    assert world.state() == before
    points = names[: names.index("committed") + 1]
    assert len(points) >= 4
    for fail in range(len(points) - 1):  # at the last it is made
        with monkeypatch.context() as patch:
            patch.setattr(steps, "point", _fails_at(fail))
            with suppress(Refused, _Interrupted):
                world.add()
                pytest.fail(f"{points[fail]} was not passed")
    assert world.state() == before
    world.add()


class _Interrupted(BaseException):
    """As ^C is: what a step had done by then may have been all of it."""


def _fails_at(number: int) -> Callable[[str], None]:
    passed: list[str] = []

    def point(name: str) -> None:
        passed.append(name)
        if len(passed) == number + 1:
            raise _Interrupted if name.endswith(" after") else KernelRefused(f"at {name}")

    return point


@pytest.mark.parametrize("kind", ["portmap"])
def test_a_namespace_that_is_gone_keeps_no_port(world: World) -> None:
    world.add()
    run("ip netns del c1")
    assert until(lambda: "veth" not in run("ip -br link"))
    world.delete(at="")
    assert "8080" not in run("nft list ruleset")
    world.chain.confs.clear()
    world.chain.add("c2")
    world.cni.add("portmap", {**world.conf, "prevResult": world.chain.results["c2"]}, "c2")


def test_a_zone_of_firewalld_is_where_the_link_is_put() -> None:
    found = Obstacle(
        program="firewall-cmd", family="inet", table="firewalld", chain="x", into="internal"
    )
    lines = foreign.lines("cni0", [found])
    assert lines == ["firewall-cmd -q --zone=internal --add-interface=cni0"]
