"""Gateway modes, isolation and where ports are published, in both IP versions.

Rows B24, D2, D3, D26, E1, E6 of the feature table; docs/nat.md is their prose.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import Any, NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import InvalidSpec
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, join, netkit, ready, run, snapshot

OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
THEIRS = {4: "10.9.0.2", 6: "2001:db8:9::2"}
WAN_OURS = {4: "10.8.0.1", 6: "2001:db8:8::1"}
WAN = {4: "10.8.0.2", 6: "2001:db8:8::2"}
SUBNETS = {4: IPv4Network("172.25.0.0/24"), 6: IPv6Network("fd00:25::/64")}
OTHERS = {4: IPv4Network("172.26.0.0/24"), 6: IPv6Network("fd00:26::/64")}
VERSIONS = pytest.mark.parametrize("v", [4, 6])
FORWARD = ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
ANY = {4: "", 6: "::"}


class Town(NamedTuple):
    """A host between two neighbours, all of both versions."""

    host: Host
    engine: Engine
    lan: str
    wan: str

    def network(self, name: str = "net", subnets: dict[int, Any] = SUBNETS, **given: Any) -> None:
        both = tuple(subnets.values())
        self.engine.create_network(NetworkSpec(name, subnets=both, ipv6=True, **given))

    def asked(
        self, place: str | None, address: str, port: int = 80, *, awaited: bool = False
    ) -> str | None:
        """What somebody is answered who is expected not to be, or perhaps is."""
        patience_s = PATIENCE_S if awaited else BRIEF_S
        return self.host.ask(place, address, port, patience_s=patience_s)


@pytest.fixture
def town(host: Host) -> Town:
    places = []
    for name, ours, theirs in (("lan", OURS, THEIRS), ("wan", WAN_OURS, WAN)):
        places.append(host.neighbour(name, f"{ours[4]}/24", f"{theirs[4]}/24"))
        run(
            f"ip addr add {ours[6]}/64 dev {name}0 nodad",
            f"ip addr add fe80::1/64 dev {name}0 nodad",  # a router asks for neighbours by it
            f"ip -n {name} addr add {theirs[6]}/64 dev eth0 nodad",
            f"ip -n {name} route add default via {ours[6]}",
        )
    return Town(host, host.engine(), *places)


def address(v: int, number: int = 2, subnets: dict[int, Any] = SUBNETS) -> str:
    return str(subnets[v][number])


# -- B24: the four modes


@each
@VERSIONS
@pytest.mark.parametrize("mode", ["nat", "nat-unprotected", "routed"])
def test_b24_what_leaves_and_what_gets_in_by_gateway_mode(town: Town, mode: str, v: int) -> None:
    """The columns of docs/nat.md: the LAN at a published port of the host, and at the container's
    own address, where it is published and where it is not; and as whom the container is seen.
    """
    netkit(
        f"network create --subnet {SUBNETS[4]} --subnet {SUBNETS[6]} "
        f"-o gateway_mode_ipv4={mode} -o com.docker.network.bridge.gateway_mode_ipv6={mode} net"
    )
    assert netkit("network inspect net").count(f'"{mode}"') == 2
    web, own, ask = join(town.engine, "net", "web", "8080:80"), address(v), town.host.ask
    with town.host.serve(town.lan, "tcp", 80, ANY[v]):
        seen = ask(web, THEIRS[v], 80)
        assert seen == (own if mode == "routed" else OURS[v])
    with town.host.serve(web, "tcp", 80, ANY[v]), town.host.serve(web, "tcp", 81, ANY[v]):
        host_port = town.asked(town.lan, OURS[v], 8080, awaited=mode != "routed")
        assert host_port == (None if mode == "routed" else THEIRS[v])
        published = town.asked(town.lan, own, awaited=mode != "nat")
        other = town.asked(town.lan, own, 81, awaited=mode == "nat-unprotected")
        assert published == (None if mode == "nat" else THEIRS[v])
        assert other == (THEIRS[v] if mode == "nat-unprotected" else None)
        patience_s = BRIEF_S if mode == "nat" else PATIENCE_S
        assert town.host.ping(town.lan, own, patience_s=patience_s) == (mode != "nat")
        assert ask(None, own, 81) is not None


@each
@VERSIONS
@pytest.mark.parametrize("driver", ["bridge", "veth"])
def test_b24_what_answers_the_lans_pings_hears_none_of_its_siblings_or_of_other_networks(
    town: Town, driver: str, v: int
) -> None:
    """On a closed network, not even by way of the host."""
    town.network(driver=driver, icc=False, gateway_modes={4: "routed", 6: "routed"})
    town.network("other", OTHERS)
    siblings = [town.engine.connect("net", name=name) for name in ("web", "eve")]
    web, eve = (ready(ep) if driver == "bridge" else str(ep.netns) for ep in siblings)
    stranger = join(town.engine, "other", "stranger")
    assert town.host.ping(town.lan, address(v))
    run(f"ip route replace {address(v)} via {address(v, 1)} onlink dev eth0", place=eve)
    with frames.hear(web, "eth0", _is_ping) as heard:
        assert not town.host.ping(eve, address(v), patience_s=BRIEF_S)
        assert not town.host.ping(stranger, address(v), patience_s=BRIEF_S)
    assert heard == []


def _is_ping(frame: bytes) -> bool:
    if frame[12:14] == b"\x08\x00":
        return (frame[23], frame[34]) == (1, 8)
    return frame[12:14] == b"\x86\xdd" and (frame[20], frame[54]) == (58, 128)


@VERSIONS
def test_b24_each_version_has_a_mode_of_its_own(town: Town, v: int) -> None:
    """What one of them opens the other does not."""
    town.network(gateway_modes={v: "routed"})
    web = join(town.engine, "net", "web", "8080:80")
    other = 10 - v
    with town.host.serve(web, "tcp", 80, ANY[v]), town.host.serve(web, "tcp", 80, ANY[other]):
        assert town.host.ask(town.lan, address(v), 80) == THEIRS[v]
        assert town.asked(town.lan, OURS[v], 8080) is None
        assert town.asked(town.lan, address(other)) is None
        assert town.host.ask(town.lan, OURS[other], 8080) == THEIRS[other]


@each
@VERSIONS
def test_b24_an_isolated_networks_bridge_has_no_address_and_its_containers_only_each_other(
    town: Town, v: int
) -> None:
    town.network(internal=True, gateway_modes={4: "isolated", 6: "isolated"})
    a, b = join(town.engine, "net", "a"), join(town.engine, "net", "b")
    bridge = town.engine.network("net").bridge
    addresses = run(f"ip -o addr show {bridge}").splitlines()
    assert [line for line in addresses if "fe80" not in line] == []
    assert run("ip route show default; ip -6 route show default", place=a) == ""
    ends = [ep.address(v) for ep in town.engine.endpoints()]
    here, there = (str(own.ip) for own in ends if own is not None)
    for n in range(1, 4):
        taken = address(v, n) in (here, there)
        patience_s = PATIENCE_S if taken else BRIEF_S
        assert town.host.ping(a, address(v, n), patience_s=patience_s) is taken
    with town.host.serve(b, "tcp", 80, ANY[v]):
        assert f"{there}/" in run("ip -o addr show eth0", place=b)
        assert town.host.ask(a, there, 80) is not None
        assert town.asked(None, there) is None
        assert town.asked(town.lan, there) is None
    run(f"ip route add {THEIRS[v]} dev eth0", place=a)
    with town.host.serve(town.lan, "tcp", 80, ANY[v]):
        assert town.asked(a, THEIRS[v]) is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("-o gateway_mode_ipv4=isolated net", "is for internal networks"),
        ("-o gateway_mode_ipv6=bogus net", "invalid gateway mode 'bogus' for IPv6"),
    ],
)
def test_b24_a_mode_that_makes_no_sense_is_refused(host: Host, given: str, why: str) -> None:
    before = snapshot()
    assert why in netkit(f"network create {given}", code=1)
    assert snapshot() == before


# -- D2, D3


@each
@VERSIONS
@pytest.mark.parametrize("masquerade", [True, False])
def test_d2_without_masquerade_what_leaves_keeps_its_source(
    town: Town, masquerade: bool, v: int
) -> None:
    """It is about what leaves only: published ports and hairpin are as ever."""
    town.network(masquerade=masquerade)
    web, sibling = join(town.engine, "net", "web", "8080:80"), join(town.engine, "net", "sibling")
    with town.host.serve(town.lan, "tcp", 80, ANY[v]):
        assert town.host.ask(web, THEIRS[v], 80) == (OURS[v] if masquerade else address(v))
    with town.host.serve(web, "tcp", 80, ANY[v]):
        assert town.host.ask(town.lan, OURS[v], 8080) == THEIRS[v]
        assert town.host.ask(sibling, OURS[v], 8080) == address(v, 1)


@pytest.mark.parametrize("values", [("0", "0"), ("1", "0"), ("0", "1"), ("1", "1")])
def test_d3_with_ip_forward_false_neither_switch_is_ever_touched(
    town: Town, values: tuple[str, str]
) -> None:
    """Not by the network, its containers, or their end; and `check` finds it as it should be."""
    for key, value in zip(FORWARD, values, strict=True):
        run(f"sysctl -qw {key}={value}")

    def switches() -> tuple[str, ...]:
        return tuple(run(f"sysctl -n {key}").strip() for key in FORWARD)

    before = snapshot()
    netkit(f"network create --subnet {SUBNETS[4]} --subnet {SUBNETS[6]} --ip-forward=false net")
    assert switches() == values
    web = join(town.engine, "net", "web", "8080:80")
    assert switches() == values
    for v, value in zip((4, 6), values, strict=True):
        with town.host.serve(town.lan, "tcp", 80, ANY[v]):
            found = town.asked(web, THEIRS[v], awaited=value == "1")
            assert found == (OURS[v] if value == "1" else None)
    assert town.engine.check() == []
    town.engine.delete_network("net", force=True)
    assert switches() == values
    assert snapshot() == before


def test_d3_switches_are_looked_at_apart(town: Town) -> None:
    """A host that forwards IPv4 for others goes on, and of IPv6 only what is netkit's."""
    run(f"sysctl -qw {FORWARD[0]}=1")
    town.network()
    join(town.engine, "net", "web")
    for v in (4, 6):
        with town.host.serve(town.wan, "tcp", 80, ANY[v]):
            assert (town.asked(town.lan, WAN[v], awaited=v == 4) is not None) == (v == 4)


# -- D26: on one network, on one interface of the host


@each
@VERSIONS
def test_d26_a_port_is_published_on_the_network_that_is_named(town: Town, v: int) -> None:
    """It answers by that one's address, and goes with that one."""
    town.network("front")
    town.network("back", OTHERS)
    netkit("run -d --name web --net front --net back -p 8080:80@back -- sleep 60")
    try:
        (front,) = town.engine.endpoints(network=town.engine.network("front").id)
        (back,) = town.engine.endpoints(network=town.engine.network("back").id)
        assert front.ports == ()
        assert len(back.ports) == 2
        assert front.netns is not None
        with town.host.serve(front.netns, "tcp", 80, address(v, 2, OTHERS)):
            assert town.host.ask(town.lan, OURS[v], 8080) == THEIRS[v]
        with town.host.serve(front.netns, "tcp", 80, address(v)):
            assert town.asked(town.lan, OURS[v], 8080) is None
        netkit("disconnect --net front web")
        with town.host.serve(front.netns, "tcp", 80, address(v, 2, OTHERS)):
            assert town.host.ask(town.lan, OURS[v], 8080) == THEIRS[v]
    finally:
        netkit("rm -f web")


@each
@VERSIONS
@pytest.mark.parametrize("publish", ["nat", "proxy"])
def test_d26_a_port_is_published_on_the_interface_that_is_named(
    town: Town, publish: str, v: int
) -> None:
    """What comes in by another reaches nothing, whichever of the host's addresses it is for."""
    town.network(publish=publish)
    web = join(town.engine, "net", "web", "lan0:8080:80")
    ports = [str(port) for ep in town.engine.endpoints() for port in ep.ports]
    assert ports == ["lan0:8080->80/tcp"] * 2
    with town.host.serve(web, "tcp", 80, ANY[v]):
        assert town.host.ask(town.lan, OURS[v], 8080) is not None
        assert town.host.ask(town.lan, WAN_OURS[v], 8080) is not None
        assert town.asked(town.wan, WAN_OURS[v], 8080) is None
        assert town.asked(town.wan, OURS[v], 8080) is None
        if publish == "nat":  # else the host may talk to its own process
            assert town.asked(None, OURS[v], 8080) is None


# -- E1: siblings that may not meet


@each
@VERSIONS
@pytest.mark.parametrize(
    ("driver", "publish", "call_iptables"),
    [("bridge", "nat", 0), ("bridge", "proxy", 1), ("veth", "nat", 1), ("veth", "proxy", 1)],
)
def test_e1_without_icc_siblings_meet_at_published_ports_and_nowhere_else(
    town: Town, driver: str, publish: str, call_iptables: int, v: int
) -> None:
    """Where br_netfilter is in force (call_iptables) it is the bridge that passes on what is
    translated, from port to port, so there translation does not do: docs/limits.md.
    """
    for which in ("iptables", "ip6tables"):
        run(f"sysctl -qw net.bridge.bridge-nf-call-{which}={call_iptables} || true")
    town.network(icc=False, driver=driver, publish=publish)
    mallory, web = (
        join_any(town, name, *ports) for name, ports in (("mallory", ()), ("web", ("8080:80",)))
    )
    own = address(v, 3)
    with town.host.serve(web, "tcp", 80, ANY[v]), town.host.serve(web, "tcp", 81, ANY[v]):
        assert town.host.ask(None, own, 81) is not None
        assert town.asked(mallory, own) is None
        assert not town.host.ping(mallory, own, patience_s=BRIEF_S)
        assert town.host.ask(mallory, OURS[v], 8080) is not None
        assert town.host.ask(web, OURS[v], 8080) is not None
        assert town.host.ask(town.lan, OURS[v], 8080) is not None
    with town.host.serve(town.lan, "tcp", 80, ANY[v]):
        assert town.host.ask(mallory, THEIRS[v], 80) == OURS[v]


@each
@VERSIONS
def test_e1_a_route_by_the_gateway_leads_no_container_to_its_sibling(town: Town, v: int) -> None:
    """With a control: between the same two on a network with icc that way is open."""
    town.network(icc=False)
    town.network("open", OTHERS)
    for name, subnets in (("net", SUBNETS), ("open", OTHERS)):
        mallory = join(town.engine, name, f"{name}-mallory")
        web = join(town.engine, name, f"{name}-web")
        gateway, sibling = address(v, 1, subnets), address(v, 3, subnets)
        run(f"ip route add {sibling} via {gateway}", place=mallory)
        run(f"ip route add {address(v, 2, subnets)} via {gateway}", place=web)
        with town.host.serve(web, "tcp", 80, ANY[v]):
            answer = town.asked(mallory, sibling, awaited=name == "open")
            assert (answer is not None) == (name == "open")


def test_e1_nor_does_the_link_local_address_or_a_neighbour_entry_by_hand(town: Town) -> None:
    """Frames do not pass from one of them to the other, whatever is in them."""
    town.network(icc=False)
    mallory, web = join(town.engine, "net", "mallory"), join(town.engine, "net", "web")
    mac = run("ip -br link show eth0", place=web).split()[2]
    local = run("ip -6 -br addr show eth0 scope link", place=web).split()[2].partition("/")[0]
    assert not town.host.ping(mallory, f"{local}%eth0", patience_s=BRIEF_S)
    for there in (local, address(6, 3), address(4, 3)):
        run(f"ip neigh replace {there} lladdr {mac} dev eth0 nud permanent", place=mallory)
    assert not town.host.ping(mallory, f"{local}%eth0", patience_s=BRIEF_S)
    for v in (4, 6):
        with town.host.serve(web, "udp", 53, ANY[v]) as seen:
            there = address(v, 3)
            assert town.host.ask(mallory, there, 53, "udp", patience_s=BRIEF_S) is None
            assert town.host.ask(None, there, 53, "udp") is not None
        assert len(seen) == 1


# -- E6: netavark's words for it


@each
@VERSIONS
@pytest.mark.parametrize("isolate", ["true", "strict"])
def test_e6_networks_are_apart_as_with_netavarks_isolate(town: Town, isolate: str, v: int) -> None:
    """What is between two networks passes by published ports only, if at all.

    netavark's "true" keeps isolated networks from each other, "strict" from all others: netkit's
    are as "strict"; internal ones meet not even at published ports.
    """
    town.network("a")
    town.network("b", OTHERS, internal=isolate == "strict")
    a = join(town.engine, "a", "a", "8080:80")
    b = join(town.engine, "b", "b")
    if isolate == "strict":
        run(f"ip route add default via {address(v, 1, OTHERS)}", place=b)
    with town.host.serve(a, "tcp", 80, ANY[v]), town.host.serve(b, "tcp", 80, ANY[v]):
        assert town.asked(b, address(v)) is None
        assert town.asked(a, address(v, 2, OTHERS)) is None
        found = town.asked(b, OURS[v], 8080, awaited=isolate == "true")
        assert (found is None) == (isolate == "strict")


def join_any(town: Town, name: str, *ports: str) -> str:
    """As `join`, with a driver that has no bridge, too."""
    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    place = town.engine.connect("net", request=Request(ports=specs), name=name).netns
    assert place is not None
    return place


def test_an_internal_network_publishes_nothing(town: Town) -> None:
    town.network(internal=True)
    with pytest.raises(InvalidSpec, match="it is internal"):
        town.engine.connect("net", request=Request(ports=PortSpec.parse("8080:80")))
