"""Another tool's firewall drops what it does not know: networks work nonetheless (E16, F16).

Docker's chains, ufw's and a bare policy, of iptables-nft and legacy; then those that nobody but
their owner can open, which are named.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from ipaddress import ip_network

import pytest

from netkit.engine import Engine
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, legacy_rules, run, until, without_iptables
from tests.faces import netkit, ok

OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
THEIRS = {4: "10.9.0.2", 6: "2001:db8:9::2"}
ANY = {4: "", 6: "::"}
DOCKER = (
    "{0} -P FORWARD DROP",
    "{0} -N DOCKER-USER",
    "{0} -N DOCKER-FORWARD",
    "{0} -A DOCKER-USER -j RETURN",
    "{0} -A FORWARD -j DOCKER-USER",
    "{0} -A FORWARD -j DOCKER-FORWARD",
    "{0} -A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "{0} -A DOCKER-FORWARD -i docker0 -j ACCEPT",
    "{0} -A DOCKER-FORWARD -o docker0 -j DROP",
)
UFW = (
    "{0} -P FORWARD DROP",
    "{0} -N ufw-before-forward",
    "{0} -N ufw-reject-forward",
    "{0} -A FORWARD -j ufw-before-forward",
    "{0} -A FORWARD -j ufw-reject-forward",
    "{0} -A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "{0} -A ufw-reject-forward -j REJECT",
)
BARE = ("{0} -P FORWARD DROP",)
NAMED = "table inet mine { chain f { type filter hook forward priority 5; policy drop; }; }"
both = pytest.mark.parametrize("driver", ["bridge", "veth"])


@pytest.fixture
def lan(host: Host) -> str:
    """A neighbour of both versions, whose packets were forwarded before netkit came."""
    place = host.neighbour("lan", f"{OURS[4]}/24", f"{THEIRS[4]}/24")
    run(
        f"ip addr add {OURS[6]}/64 dev lan0 nodad",
        "ip addr add fe80::1/64 dev lan0 nodad",
        f"ip -n lan addr add {THEIRS[6]}/64 dev eth0 nodad",
        f"ip -n lan route add default via {OURS[6]}",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    return place


def make(kind: str, lines: Sequence[str]) -> None:
    for program in (f"iptables-{kind}", f"ip6tables-{kind}"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install iptables")
        run(*(line.format(program) for line in lines))


def network(engine: Engine, driver: str) -> str:
    """A dual-stack network with a container that publishes a port; its place."""
    subnets = (ip_network("172.25.0.0/24"), ip_network("fd00:25::/64"))
    engine.create_network(NetworkSpec("web", subnets=subnets, ipv6=True, driver=driver))
    ports = PortSpec.parse("8080:80")
    ep = engine.connect("web", request=Request(ports=ports), name="c1")
    assert ep.netns is not None
    return ep.netns


def reachable(host: Host, lan: str, web: str, patience_s: float = PATIENCE_S) -> list[bool]:
    """Outwards, and at a published port: over IPv4 and IPv6."""
    found = []
    for v in (4, 6):
        with host.serve(lan, "tcp", 81, ANY[v]), host.serve(web, "tcp", 80, ANY[v]):
            found.append(host.ask(web, THEIRS[v], 81, patience_s=patience_s) == OURS[v])
            found.append(host.ask(lan, OURS[v], 8080, patience_s=patience_s) == THEIRS[v])
    return found


def rules() -> str:
    return run("nft -s list ruleset") + legacy_rules()


@each
@both
@pytest.mark.parametrize(
    ("kind", "lines"),
    [("nft", DOCKER), ("nft", UFW), ("legacy", BARE), ("legacy", DOCKER)],
    ids=["docker", "ufw", "legacy", "legacy-docker"],
)
def test_f16_a_chain_that_drops_what_it_does_not_know_lets_networks_pass(
    host: Host, lan: str, driver: str, kind: str, lines: Sequence[str]
) -> None:
    """In and out, over both versions; what is not published stays closed; and nothing stays."""
    if kind == "legacy" and (reason := without_iptables()):
        pytest.skip(reason)
    make(kind, lines)
    before = rules()
    engine = host.engine()
    web = network(engine, driver)
    assert until(lambda: all(reachable(host, lan, web)))
    with host.serve(web, "tcp", 82):
        assert host.ask(lan, "172.25.0.2", 82, patience_s=BRIEF_S) is None
    assert engine.check() == []
    engine.delete_network("web", force=True)
    assert rules() == before


@each
@both
def test_f16_one_that_comes_later_is_told_by_check_with_the_lines_that_open_it(
    host: Host, lan: str, driver: str
) -> None:
    """Typed in, they do; and they go with the network."""
    engine = host.engine()
    web = network(engine, driver)
    assert until(lambda: all(reachable(host, lan, web)))
    make("nft", DOCKER)
    assert reachable(host, lan, web, BRIEF_S) == [False] * 4
    told = [str(drift) for drift in engine.check()]
    assert len(told) == 1
    said, _, lines = told[0].partition(" firewall: ")
    assert said.endswith("forwards is dropped by another tool's")
    typed = lines.split("; ")
    assert len(typed) == 4
    assert "iptables-nft -w -I DOCKER-USER -i " in typed[0]
    run(*typed)
    assert reachable(host, lan, web) == [True] * 4
    assert engine.check() == []
    engine.delete_network("web", force=True)
    assert "nk:" not in rules()
    assert "DOCKER-USER" in rules()


@both
def test_f16_one_that_only_its_owner_can_open_is_named_when_it_matters(
    host: Host, lan: str, driver: str
) -> None:
    """On stderr when the network is made, or its first pair, and by `check`; it is left alone."""
    run(f"nft '{NAMED}'")
    mine = run("nft list table inet mine")
    made = netkit(*f"network create -d {driver} --subnet 172.25.0.0/24 web".split())
    joined = netkit(*["connect", "--net", "web", "--name", "c1"])
    assert (made.code, joined.code) == (0, 0)
    said = (made.err, joined.err) if driver == "bridge" else (joined.err, made.err)
    assert said[0].startswith("Warning: chain f of table inet mine drops what is forwarded from")
    assert said[1] == ""
    assert "chain f of table inet mine drops" in netkit("check").out
    with host.serve(lan, "tcp", 80):
        assert host.ask("/run/netns/c1", THEIRS[4], 80, patience_s=BRIEF_S) is None
        run("nft insert rule inet mine f accept")
        assert until(lambda: host.ask("/run/netns/c1", THEIRS[4], 80, patience_s=1) == OURS[4])
    run("nft flush chain inet mine f")
    assert run("nft list table inet mine") == mine
    ok("network", "rm", "-f", "web")
    assert run("nft list table inet mine") == mine


def test_f16_an_internal_network_needs_no_way_past_anybody(host: Host) -> None:
    make("nft", DOCKER)
    before = rules()
    ok("network", "create", "--internal", "quiet")
    assert "nk:" not in rules().replace(before, "")
    ok("network", "rm", "quiet")
    assert rules() == before
