"""The routed driver: a pair for each container, no bridge; what it gives, and what it keeps away.

What a bridge's tests show for IPv4 (S09-S16, S18) is tried here for both versions: an attack fails
as things are, and succeeds with the one thing that stops it taken away.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec
from netkit.model import EndpointRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.firewalls import each, on_nftables, take_away
from scenarios.lab import BRIEF_S, Host, run, snapshot, until

OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
THEIRS = {4: "10.9.0.2", 6: "2001:db8:9::2"}
SECOND = {4: "10.9.0.11", 6: "2001:db8:9::11"}
SUBNET = {4: "172.25.0.0/24", 6: "fd00:25::/64"}
GATEWAY = {4: "172.25.0.1", 6: "fd00:25::1"}
FORGED = {4: "172.25.0.99", 6: "fd00:25::99"}
LENGTH = {4: 32, 6: 128}
ANY = {4: "", 6: "::"}
both = pytest.mark.parametrize("v", [4, 6])
pytestmark = each


class Town(NamedTuple):
    """A host with a neighbour, and a routed network with two containers: mallory and bob."""

    host: Host
    engine: Engine
    lan: str
    mallory: EndpointRecord
    bob: EndpointRecord

    def connect(self, name: str, *ports: str, net: str = "town", **wanted: object) -> str:
        return place(connect(self.engine, net, name, *ports, **wanted))


def connect(engine: Engine, net: str, name: str, *ports: str, **wanted: object) -> EndpointRecord:
    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    return engine.connect(net, request=Request(ports=specs, **wanted), name=name)  # type: ignore[arg-type]


def network(engine: Engine, name: str = "town", n: int = 25, **wanted: object) -> None:
    subnets = ip_network(f"172.{n}.0.0/24"), ip_network(f"fd00:{n}::/64")
    wanted = {"driver": "veth", "subnets": subnets, "ipv6": True, **wanted}
    engine.create_network(NetworkSpec(name, **wanted))  # type: ignore[arg-type]


def place(ep: EndpointRecord) -> str:
    assert ep.netns is not None
    return ep.netns


def ip(ep: EndpointRecord, v: int) -> str:
    address = ep.address(v)
    assert address is not None
    return str(address.ip)


@pytest.fixture
def wired(host: Host) -> str:
    """A neighbour on a LAN of both versions, and a host that forwarded before netkit came."""
    lan = host.neighbour("lan", f"{OURS[4]}/24", f"{THEIRS[4]}/24")
    run(
        f"ip addr add {SECOND[4]}/24 dev lan0",
        *(f"ip addr add {ours[6]}/64 dev lan0 nodad" for ours in (OURS, SECOND)),
        "ip addr add fe80::1/64 dev lan0 nodad",  # a router looks for neighbours from such a one
        f"ip -n lan addr add {THEIRS[6]}/64 dev eth0 nodad",
        f"ip -n lan route add default via {OURS[6]}",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    return lan


@pytest.fixture
def town(host: Host, wired: str) -> Town:
    engine = host.engine()
    network(engine)
    mallory, bob = (connect(engine, "town", name) for name in ("mallory", "bob"))
    return Town(host, engine, wired, mallory, bob)


# -- what it gives


@on_nftables
@both
def test_b12_an_address_is_alone_and_the_gateways_is_on_the_link(town: Town, v: int) -> None:
    near, own = f"{GATEWAY[v]} dev eth0", ip(town.bob, v)
    assert f"{own}/{LENGTH[v]} " in run(f"ip -{v} -o addr show eth0", place=place(town.bob))
    routes = run(f"ip -{v} route", place=place(town.bob))
    assert f"\n{near}" in f"\n{routes}"
    assert f"default via {near}" in routes
    assert str(ip_network(SUBNET[v])) not in routes
    outside = town.bob.host_ifname
    assert f"{GATEWAY[v]}/{LENGTH[v]} " in run(f"ip -{v} -o addr show {outside}")
    assert f"{own} dev {outside}" in run(f"ip -{v} route")
    assert run("ip -o link show type bridge") == ""
    assert town.engine.check() == []


@both
def test_b12_a_container_reaches_its_gateway_its_siblings_and_what_is_outside(
    town: Town, v: int
) -> None:
    """Siblings and host see its own address, the neighbour that of the host."""
    host, own = town.host, ip(town.mallory, v)
    mallory = place(town.mallory)
    assert host.ping(mallory, GATEWAY[v])
    for protocol in ("tcp", "udp"):
        with (
            host.serve(None, protocol, 80, ANY[v]),
            host.serve(place(town.bob), protocol, 80, ANY[v]),
            host.serve(town.lan, protocol, 80, ANY[v]),
        ):
            assert host.ask(mallory, GATEWAY[v], 80, protocol) == own
            assert host.ask(mallory, ip(town.bob, v), 80, protocol) == own
            assert host.ask(mallory, THEIRS[v], 80, protocol) in (OURS[v], SECOND[v])
            assert host.ask(None, ip(town.bob, v), 80, protocol) == GATEWAY[v]


@both
def test_b12_a_published_port_answers_everybody(town: Town, v: int) -> None:
    """The neighbour and its own siblings, the host, localhost, and itself."""
    host = town.host
    web = town.connect("web", "8080:80")
    with host.serve(web, "tcp", 80, ANY[v]), host.serve(web, "udp", 80, ANY[v]):
        assert host.ask(town.lan, OURS[v], 8080) == THEIRS[v]
        assert host.ask(None, OURS[v], 8080) == OURS[v]
        assert host.ask(place(town.bob), OURS[v], 8080)
        assert host.ask(web, OURS[v], 8080)
        if v == 4:  # there is no route_localnet for ::1
            assert host.ask(None, "127.0.0.1", 8080)
        assert host.ask(town.lan, OURS[v], 8080, "udp", patience_s=BRIEF_S) is None
    town.engine.disconnect("town", "web")
    assert host.ask(town.lan, OURS[v], 8080) is None


@both
@pytest.mark.parametrize("first", ["veth", "bridge"])
def test_a_published_port_answers_whichever_network_has_the_default_route(
    town: Town, v: int, first: str
) -> None:
    network(town.engine, "a-bridge", 26, driver="bridge")
    priority = {"veth": -1, "bridge": 1}[first]
    web = town.connect("web", "8080:80")
    town.engine.connect("a-bridge", "web", Request(gateway_priority=priority))
    default = run(f"ip -{v} route show default", place=web)
    assert {"veth": "dev eth0", "bridge": "dev eth1"}[first] in default
    with town.host.serve(web, "tcp", 80, ANY[v]):
        assert town.host.ask(town.lan, OURS[v], 8080) == THEIRS[v]


@on_nftables
def test_the_options_of_an_interface_are_as_asked_for(host: Host) -> None:
    engine = host.engine()
    network(engine, mtu=1400)
    mac = "02:00:00:00:00:07"
    at = place(connect(engine, "town", "c1", mac=mac, ifname="lan0", host_ifname="outside0"))
    link = run("ip -o link show lan0", place=at)
    assert ("mtu 1400" in link, mac in link) == (True, True)
    assert "mtu 1400" in run("ip -o link show outside0")
    with pytest.raises(Conflict, match="'outside0' exists already"):
        connect(engine, "town", "c2", host_ifname="outside0")
    with pytest.raises(InvalidSpec, match="without an address"):
        connect(engine, "town", "c2", addressless=True)


def test_a_container_that_leaves_takes_nothing_of_the_others_along(town: Town) -> None:
    """The gateway's address is on every pair, and rules speak of a subnet they share."""
    connect(town.engine, "town", "carol")
    town.engine.disconnect("town", "mallory")
    for v in (4, 6):
        assert town.host.ping(place(town.bob), GATEWAY[v])
        with town.host.serve("/run/netns/carol", "tcp", 80, ANY[v]):
            carol = town.engine.endpoints()[-1]
            assert town.host.ask(place(town.bob), ip(carol, v), 80) == ip(town.bob, v)
    assert town.engine.check() == []


def test_the_host_is_as_it_was_when_all_have_left(host: Host, wired: str) -> None:
    before = snapshot()
    engine = host.engine()
    network(engine)
    connect(engine, "town", "a", "8080:80", "53:53/udp", "9000-9009:9000-9009")
    network(engine, "inner", 26, internal=True)
    connect(engine, "inner", "b")
    engine.connect("town", "b")
    for name in ("town", "inner"):
        engine.delete_network(name, force=True)
    assert snapshot() == before


# -- what it keeps away


@both
def test_s04_what_bears_anothers_source_reaches_nobody(town: Town, v: int) -> None:
    """A sibling's, the gateway's, a neighbour's, or one nobody has; not the host, not a sibling."""
    host, mallory = town.host, place(town.mallory)
    sources = (ip(town.bob, v), GATEWAY[v], THEIRS[v], FORGED[v])
    nodad = "nodad" if v == 6 else ""
    target = SECOND[v]

    def ask(where: str, source: str) -> str | None:
        run(f"ip addr add {source} dev lo {nodad}", place=mallory)
        answer = host.ask(mallory, where, 9999, "udp", source=source, patience_s=BRIEF_S / 4)
        run(f"ip addr del {source} dev lo", place=mallory)
        return answer

    with (
        host.serve(None, "udp", 9999, ANY[v]) as seen,
        host.serve(town.lan, "udp", 9999, ANY[v]) as outside,
    ):
        for source in sources:
            assert ask(target, source) is None
            assert source == THEIRS[v] or ask(THEIRS[v], source) is None
        assert (seen, outside) == ([], [])
        assert host.ask(mallory, GATEWAY[v], 9999, "udp") == ip(town.mallory, v)
        take_away("guarded", town.mallory.host_ifname)
        ask(target, FORGED[v])  # which does not wait for an answer
        assert until(lambda: seen == [ip(town.mallory, v), FORGED[v]])


@both
@pytest.mark.parametrize("driver", ["veth", "bridge"])
def test_s09_networks_do_not_reach_each_other(town: Town, v: int, driver: str) -> None:
    network(town.engine, "other", 26, driver=driver)
    carol = connect(town.engine, "other", "carol")
    host, bob = town.host, place(town.bob)
    with (
        host.serve(place(carol), "tcp", 80, ANY[v]),
        host.serve(place(carol), "udp", 53, ANY[v]),
        host.serve(bob, "tcp", 80, ANY[v]),
    ):
        assert host.ask(None, ip(carol, v), 80)
        assert host.ask(bob, ip(carol, v), 80, patience_s=BRIEF_S) is None
        assert host.ask(bob, ip(carol, v), 53, "udp", patience_s=BRIEF_S) is None
        assert host.ask(place(carol), ip(town.bob, v), 80, patience_s=BRIEF_S) is None
        link = carol.host_ifname if driver == "veth" else town.engine.network("other").bridge
        take_away("inside", link)
        assert host.ask(bob, ip(carol, v), 80)


@both
def test_s10_s15_a_port_published_on_one_address_is_closed_on_the_others(
    town: Town, v: int
) -> None:
    bracketed = f"[{SECOND[6]}]" if v == 6 else SECOND[4]
    web = town.connect("web", f"{bracketed}:8080:80", "127.0.0.1:8081:80")
    with town.host.serve(web, "tcp", 80, ANY[v]):
        assert town.host.ask(town.lan, SECOND[v], 8080) == THEIRS[v]
        assert town.host.ask(town.lan, OURS[v], 8080) is None
        assert town.host.ask(town.lan, OURS[v], 8081, patience_s=BRIEF_S) is None
        if v == 4:
            assert town.host.ask(None, "127.0.0.1", 8081)


@pytest.mark.parametrize("port", [9999, 8080])
def test_s12_loopback_of_the_host_is_closed_to_a_container(town: Town, port: int) -> None:
    """To one with NET_ADMIN that routes 127/8 to the gateway; published on loopback or not."""
    town.connect("web", "127.0.0.1:8080:80")
    mallory, own = place(town.mallory), ip(town.mallory, 4)
    run(
        "ip addr del 127.0.0.1/8 dev lo",
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        f"ip route add 127.0.0.0/8 via {GATEWAY[4]} dev eth0 src {own}",
        place=mallory,
    )
    with town.host.serve(None, "tcp", 9999, "127.0.0.1") as seen:
        assert town.host.ask(mallory, "127.0.0.1", port, patience_s=BRIEF_S) is None
        assert seen == []
        if port == 9999:
            take_away("inside", town.mallory.host_ifname)
            assert town.host.ask(mallory, "127.0.0.1", 9999) == own


@both
@pytest.mark.parametrize("published", [None, "8080:80"])
def test_s13_s14_a_neighbour_cannot_route_to_a_container(
    town: Town, v: int, published: str | None
) -> None:
    """Past the published port, or where there is none."""
    web = connect(town.engine, "town", "web", *filter(None, [published]))
    with (
        town.host.serve(place(web), "tcp", 80, ANY[v]),
        town.host.serve(place(web), "udp", 80, ANY[v]) as seen,
    ):
        assert town.host.ask(town.lan, ip(web, v), 80, patience_s=BRIEF_S) is None
        assert town.host.ask(town.lan, ip(web, v), 80, "udp", patience_s=BRIEF_S) is None
        assert not town.host.ping(town.lan, ip(web, v), patience_s=BRIEF_S)
        assert seen == []
        take_away("inside", web.host_ifname)
        assert town.host.ask(town.lan, ip(web, v), 80) == THEIRS[v]


def test_s16_a_published_port_does_not_capture_what_is_for_others(town: Town) -> None:
    wan = town.host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    web = town.connect("web", "8080:80")
    with town.host.serve(web, "tcp", 80) as captured, town.host.serve(wan, "tcp", 8080):
        assert town.host.ask(place(town.bob), "10.8.0.2", 8080) == "10.8.0.1"
        assert town.host.ask(town.lan, "10.8.0.2", 8080) == THEIRS[4]
        assert captured == []


@on_nftables
@both
def test_s05_a_container_is_no_router_of_the_hosts(town: Town, v: int) -> None:
    """Its end takes no advertisement: IPv6's are not heard, and of IPv4 there are none."""
    outside = town.mallory.host_ifname
    assert run(f"sysctl -n net.ipv6.conf.{outside}.accept_ra").strip() == "0"
    if v == 4:
        network(town.engine, "four", 26, ipv6=False, subnets=(ip_network("172.26.0.0/24"),))
        ep = connect(town.engine, "four", "eve")
        assert run(f"ip -6 addr show {ep.host_ifname}") == ""
        assert run("ip -6 addr show eth0", place=place(ep)) == ""


@both
def test_without_icc_siblings_meet_at_published_ports_only(host: Host, wired: str, v: int) -> None:
    engine = host.engine()
    network(engine, icc=False)
    bob = connect(engine, "town", "bob")
    web = connect(engine, "town", "web", "8080:80")
    with host.serve(place(web), "tcp", 80, ANY[v]):
        assert host.ask(place(bob), ip(web, v), 80, patience_s=BRIEF_S) is None
        assert host.ask(place(bob), OURS[v], 8080)
        assert host.ask(place(web), OURS[v], 8080)  # and one meets itself there
        assert host.ask(wired, OURS[v], 8080) == THEIRS[v]


@both
def test_e4_b21_an_internal_network_is_the_host_and_nothing_else(
    host: Host, wired: str, v: int
) -> None:
    """Whatever routes a container adds: no sibling, no neighbour, no other network's container."""
    engine = host.engine()
    network(engine, internal=True)
    network(engine, "other", 26)
    eve, ann = (connect(engine, "town", name) for name in ("eve", "ann"))
    web = connect(engine, "other", "web", "8080:80")
    assert run(f"ip -{v} route show default", place=place(eve)) == ""
    with pytest.raises(InvalidSpec, match="internal"):
        connect(engine, "town", "port", "8081:80")
    with (
        host.serve(None, "tcp", 80, ANY[v]),
        host.serve(wired, "tcp", 80, ANY[v]) as outside,
        host.serve(place(ann), "tcp", 80, ANY[v]) as sibling,
        host.serve(place(web), "tcp", 80, ANY[v]) as other,
    ):
        assert host.ask(place(eve), GATEWAY[v], 80) == ip(eve, v)
        assert host.ask(None, ip(ann, v), 80) == GATEWAY[v]
        sibling.clear()
        run(f"ip route add default via {GATEWAY[v]} dev eth0", place=place(eve))
        for address, port in (
            (THEIRS[v], 80),
            (ip(ann, v), 80),
            (ip(web, v), 80),
            (OURS[v], 8080),
        ):
            assert host.ask(place(eve), address, port, patience_s=BRIEF_S / 2) is None
        assert host.ask(wired, ip(ann, v), 80, patience_s=BRIEF_S) is None
        assert (outside, sibling, other) == ([], [], [])
        take_away("internal", eve.host_ifname)
        assert host.ask(place(eve), THEIRS[v], 80)


# -- NAT modes


@both
def test_d14_a_routed_network_is_met_at_its_own_addresses(host: Host, wired: str, v: int) -> None:
    """Nothing is translated; its published ports and pings pass, the rest does not."""
    engine = host.engine()
    network(engine, gateway_modes={4: "routed", 6: "routed"})
    web = connect(engine, "town", "web", "8080:80")
    with (
        host.serve(place(web), "tcp", 80, ANY[v]),
        host.serve(place(web), "tcp", 81, ANY[v]),
        host.serve(wired, "tcp", 80, ANY[v]),
    ):
        assert host.ask(wired, ip(web, v), 80) == THEIRS[v]
        assert host.ask(wired, ip(web, v), 81, patience_s=BRIEF_S) is None
        assert host.ask(wired, OURS[v], 8080, patience_s=BRIEF_S) is None
        assert host.ping(wired, ip(web, v))
        assert host.ask(place(web), THEIRS[v], 80) == ip(web, v)


@both
@pytest.mark.parametrize("how", ["plain", "source"])
def test_d2_d23_what_leaves_bears_the_address_it_is_told_to(
    host: Host, wired: str, v: int, how: str
) -> None:
    """Its own where nothing is masqueraded, or one the host was given for it."""
    engine = host.engine()
    sources = tuple(ip_address(SECOND[each]) for each in (4, 6))
    if how == "plain":
        network(engine, masquerade=False)
    else:
        network(engine, sources=sources)
    bob = connect(engine, "town", "bob")
    with host.serve(wired, "tcp", 80, ANY[v]):
        expected = {"plain": ip(bob, v), "source": SECOND[v]}[how]
        assert host.ask(place(bob), THEIRS[v], 80) == expected
