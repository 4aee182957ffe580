"""A node goes over from the reference's plugins to netkit's, and back, while its pods run."""

from __future__ import annotations

import os

import pytest

from cni import delegate
from netkit.kernel import netns
from scenarios.lab import Host, run, until
from scenarios.plugins import Json, Plugins

REFERENCE = "/usr/lib/cni"
CHAIN = ("bridge", "portmap", "firewall")

pytestmark = pytest.mark.skipif(
    not os.access(f"{REFERENCE}/portmap", os.X_OK),
    reason="the reference's plugins are not there: Debian's containernetworking-plugins",
)


class Node:
    """Pods of one network, attached by either set of plugins."""

    def __init__(self, host: Host, *, masquerade: bool = True) -> None:
        self.masquerade = masquerade
        self.ours = Plugins(host.base)
        self.theirs = Plugins(host.base, REFERENCE)
        self.results: dict[str, Json] = {}

    def confs(self, port: int) -> list[Json]:
        base: Json = {"cniVersion": "0.4.0", "name": "pods"}
        ports = {"portMappings": [{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]}
        gateway = {"isDefaultGateway": True, "ipMasq": self.masquerade, "bridge": "cni0"}
        return [
            {**base, **gateway, "ipam": self.ours.ipam("10.22.0.0/24")},
            {**base, "runtimeConfig": ports},
            base,
        ]

    def add(self, by: Plugins, pod: str, port: int) -> str:
        said: Json = {}
        for kind, conf in zip(CHAIN, self.confs(port), strict=True):
            said = by.add(kind, {**conf, **({"prevResult": said} if said else {})}, pod)
        self.results[pod] = said
        address: str = said["ips"][0]["address"]
        return address.partition("/")[0]

    def delete(self, by: Plugins, pod: str, port: int) -> None:
        for kind, conf in reversed([*zip(CHAIN, self.confs(port), strict=True)]):
            by.delete(kind, {**conf, "prevResult": self.results[pod]}, pod)


def rules() -> str:
    """What iptables has of the reference's for single pods, whichever its tables are."""
    return run(
        "for ip in iptables-nft ip6tables-nft iptables-legacy; do $ip-save 2>/dev/null; done "
        "| grep -E '10.22.0|CNI-DN-|CNI-[0-9a-f]{24}' || true"
    )


def test_pods_of_the_reference_are_let_go_by_ours_and_leave_nothing(host: Host) -> None:
    node = Node(host)
    old = node.add(node.theirs, "p1", 8081)
    stays = node.add(node.theirs, "p2", 8082)
    new = node.add(node.ours, "p3", 8083)
    assert len({old, stays, new}) == 3
    assert old in rules()
    assert host.ping(netns.named("p1"), new)
    node.delete(node.ours, "p1", 8081)
    assert old not in rules()
    assert "eth0" not in run("ip -n p1 link")
    assert node.ours.leases("pods") == sorted([stays, new])
    assert host.ping(netns.named("p2"), new), "who was not let go goes on"
    assert stays in rules()


def test_published_ports_of_both_answer_side_by_side(host: Host) -> None:
    node = Node(host)
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
    node.add(node.theirs, "p1", 8081)
    node.add(node.ours, "p2", 8082)
    with host.serve(netns.named("p1"), "tcp", 80), host.serve(netns.named("p2"), "tcp", 80):
        assert host.ask(lan, "10.9.0.1", 8081) == "10.9.0.2"
        assert host.ask(lan, "10.9.0.1", 8082) == "10.9.0.2"
    node.delete(node.ours, "p1", 8081)
    assert until(lambda: host.ask(lan, "10.9.0.1", 8081) is None)


def test_pods_of_ours_are_let_go_by_the_reference(host: Host) -> None:
    """It knows nothing of our records; what it leaves goes when the namespace has gone.

    With ipMasq its DEL does all that, and then fails: it misses a chain that it did not make.
    """
    node = Node(host, masquerade=False)
    mine = node.add(node.ours, "p1", 8081)
    other = node.add(node.theirs, "p2", 8082)
    node.delete(node.theirs, "p1", 8081)
    assert node.ours.leases("pods") == [other]
    assert "eth0" not in run("ip -n p1 link")
    run("ip netns del p1")
    engine = host.engine()
    engine.changes.call = delegate.release
    engine.gc()
    assert mine not in run("nft list ruleset")
    assert host.ping(netns.named("p2"), "10.22.0.1")


def test_a_foreign_interface_is_never_taken_for_the_predecessors(host: Host) -> None:
    node = Node(host)
    node.add(node.theirs, "p1", 8081)
    run("ip -n p1 link set eth0 address 02:00:00:00:00:07")
    node.delete(node.ours, "p1", 8081)
    assert "eth0" in run("ip -n p1 link")
