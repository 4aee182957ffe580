"""IPv6 and dual stack: what holds for IPv4 holds for IPv6, with real packets.

Rows A7, C16, D1, D4-D8, D14, D16-D18, E5, E8, E9 of the feature table and S01-S18 of the threat
model in IPv6. What only IPv6 has (router advertisements, neighbour discovery) is at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple

import pytest

from netkit import Conflict, InvalidSpec, NetkitError
from netkit.engine import Engine
from netkit.model import EndpointRecord, NetworkRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.firewalls import each, in_nftables, on_nftables, sees_bridges, take_away
from scenarios.lab import (
    BRIEF_S,
    PATIENCE_S,
    Host,
    join,
    legacy_rules,
    netkit,
    ready,
    run,
    snapshot,
    until,
)

OURS, SECOND, THEIRS = "2001:db8:9::1", "2001:db8:9::11", "2001:db8:9::2"
FOURS, SIXES = IPv4Network("172.25.0.0/24"), IPv6Network("fd00:25::/64")
GATEWAY = "fd00:25::1"
FORGED = "02:66:66:66:66:66"
pytestmark = each


class Town(NamedTuple):
    """A host with a neighbour and a dual-stack network, mallory and bob on it."""

    host: Host
    engine: Engine
    lan: str
    net: NetworkRecord
    mallory: EndpointRecord
    bob: EndpointRecord

    def publish(self, name: str, *ports: str) -> tuple[str, list[str]]:
        """A container; its place, and its ports as `ps` shows them."""
        found = join(self.engine, "town", name, *ports)
        return found, [str(p) for p in self.endpoint(name).ports]

    def endpoint(self, name: str) -> EndpointRecord:
        return self.engine.endpoints(sandbox=self.engine.sandbox(name).id)[0]


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{OURS}/64", f"{THEIRS}/64")
    run(f"ip addr add {SECOND}/64 dev lan0 nodad")
    run("sysctl -qw net.ipv6.conf.all.forwarding=1")  # a router before netkit came
    engine = host.engine()
    net = engine.create_network(NetworkSpec("town", subnets=(FOURS, SIXES), ipv6=True))
    mallory, bob = (engine.connect("town", name=name) for name in ("mallory", "bob"))
    ready(mallory), ready(bob)
    return Town(host, engine, lan, net, mallory, bob)


def place(ep: EndpointRecord) -> str:
    assert ep.netns is not None
    return ep.netns


def six(ep: EndpointRecord) -> str:
    address = ep.address(6)
    assert address is not None
    return str(address.ip)


def neighbour(where: str | None, address: str) -> str:
    return run(f"ip -6 neigh show {address}", place=where)


def counted(what: str) -> int:
    """How much of it the host's IPv6 has heard."""
    return int(run(f"nstat -asz {what}").split()[-2])


def unguard(ep: EndpointRecord) -> None:
    take_away("ports", ep.host_ifname)


# -- networks and addresses


def test_a7_a_dual_stack_container_has_an_address_and_a_way_out_of_each_version(town: Town) -> None:
    shown = run("ip -o addr show eth0", place=place(town.bob))
    assert "172.25.0.3/24" in shown
    assert "fd00:25::3/64" in shown
    assert "tentative" not in shown.replace("fe80::", "")[: shown.find("fe80")]
    assert f"default via {GATEWAY} dev eth0" in run("ip -6 route", place=place(town.bob))
    for address in ("172.25.0.2", "fd00:25::2", "172.25.0.1", GATEWAY, OURS):
        assert town.host.ping(place(town.bob), address), address
    assert town.host.ping(None, six(town.bob))


@on_nftables
def test_a7_without_a_subnet_ipv6_takes_a_private_one_of_this_machines_own(host: Host) -> None:
    """A unique local /64: the same /48 each time, and another /64 for each network."""
    nets = [
        host.engine().create_network(NetworkSpec(name, ipv6=True, ipv4=name == "a"))
        for name in ("a", "b")
    ]
    subnets = [subnet for net in nets for subnet in net.subnets if subnet.version == 6]
    assert [net.versions for net in nets] == [(4, 6), (6,)]
    assert all(s.subnet_of(IPv6Network("fd00::/8")) and s.prefixlen == 64 for s in subnets)
    assert len({int(s.network_address) >> 80 for s in subnets}) == 1
    assert len(set(subnets)) == 2


def test_a_network_of_ipv6_only_has_no_ipv4_at_all(host: Host) -> None:
    lan = host.neighbour("lan", f"{OURS}/64", f"{THEIRS}/64")
    engine = host.engine()
    engine.create_network(NetworkSpec("six", subnets=(SIXES,), ipv6=True, ipv4=False))
    web = join(engine, "six", "web", "8080:80")
    assert run("ip -4 -o addr show eth0", place=web) == ""
    assert run("ip -4 route", place=web) == ""
    with host.serve(web, "tcp", 80, "::"):
        assert host.ask(lan, OURS, 8080) == THEIRS
        assert host.ask(None, "127.0.0.1", 8080, patience_s=BRIEF_S) is None
    with host.serve(lan, "tcp", 80, "::"):
        assert host.ask(web, THEIRS, 80) == OURS


@on_nftables
def test_a6_an_ipv6_address_may_be_asked_for_and_is_refused_if_it_cannot_be_had(
    town: Town,
) -> None:
    wanted = Request(addresses=(IPv6Address("fd00:25::77"),))
    ep = town.engine.connect("town", request=wanted, name="c")
    assert [str(ip.ip) for ip in ep.addresses] == ["172.25.0.4", "fd00:25::77"]
    for address, why in (
        ("fd00:25::77", "is leased to c/eth0"),
        (GATEWAY, "is the gateway"),
        ("fd00:25::", "subnet-router anycast"),
        ("fd00:26::5", "is not in 172.25.0.0/24, fd00:25::/64"),
    ):
        with pytest.raises(NetkitError, match=why):
            town.engine.connect("town", request=Request(addresses=(ip_address(address),)))


@on_nftables
def test_subnets_overlap_in_ipv6_too(town: Town) -> None:
    with pytest.raises(Conflict, match="overlaps network 'town'"):
        town.engine.create_network(
            NetworkSpec("other", subnets=(IPv6Network("fd00:25::/56"),), ipv6=True)
        )
    with pytest.raises(Conflict, match="overlaps the host's route to 2001:db8:9::/64"):
        town.engine.create_network(
            NetworkSpec("other", subnets=(IPv6Network("2001:db8::/32"),), ipv6=True)
        )


@on_nftables
def test_c20_each_version_has_a_default_route_of_its_own(town: Town) -> None:
    """The network with the higher priority has both, if it speaks both."""

    def ways() -> list[str]:
        both = run("ip route; ip -6 route", place=place(town.bob)).splitlines()
        return [line.split()[4] for line in both if line.startswith("default")]

    four = NetworkSpec("a-four", subnets=(IPv4Network("172.26.0.0/24"),))
    town.engine.create_network(four)
    assert ways() == ["eth0", "eth0"]
    town.engine.connect("a-four", "bob")
    assert ways() == ["eth1", "eth0"]
    town.engine.disconnect("town", "bob")
    assert ways() == ["eth1"]
    town.engine.connect("town", "bob", Request(gateway_priority=1))
    assert ways() == ["eth0", "eth0"]
    assert town.engine.check() == []


@on_nftables
def test_the_hosts_file_names_the_container_at_both_addresses(host: Host) -> None:
    netkit("network create --subnet 172.25.0.0/24 --subnet fd00:25::/64 town")
    netkit("connect --net town --name bob")
    lines = netkit("exec bob -- cat /etc/hosts").splitlines()
    assert "::1\tlocalhost ip6-localhost ip6-loopback" in lines
    assert [line for line in lines if line.endswith("\tbob")] == [
        "172.25.0.2\tbob",
        "fd00:25::2\tbob",
    ]


# -- what leaves, and what is published


def test_d1_what_leaves_is_masqueraded_and_what_stays_is_not(town: Town) -> None:
    with town.host.serve(town.lan, "tcp", 80, "::"), town.host.serve(None, "tcp", 81, "::"):
        assert town.host.ask(place(town.bob), THEIRS, 80) in (OURS, SECOND)
        assert town.host.ask(place(town.bob), GATEWAY, 81) == six(town.bob)
    with town.host.serve(place(town.mallory), "tcp", 80, "::"):
        assert town.host.ask(place(town.bob), six(town.mallory), 80) == six(town.bob)


def test_d2_without_masquerade_the_source_stays(town: Town) -> None:
    spec = NetworkSpec(
        "bare", subnets=(IPv6Network("fd00:26::/64"),), ipv6=True, ipv4=False, masquerade=False
    )
    town.engine.create_network(spec)
    bob = join(town.engine, "bare", "bare-bob")
    run("ip -6 route add fd00:26::/64 via " + OURS, place=town.lan)
    with town.host.serve(town.lan, "tcp", 80, "::"):
        assert town.host.ask(bob, THEIRS, 80) == "fd00:26::2"


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_d17_a_port_is_published_at_every_address_of_both_versions(
    town: Town, protocol: str
) -> None:
    """The LAN's client keeps its address; the host reaches it too, by [::1] it cannot."""
    web, ports = town.publish("web", f"8080:80/{protocol}")
    assert ports == [f"0.0.0.0:8080->80/{protocol}", f"[::]:8080->80/{protocol}"]
    ask = town.host.ask
    with town.host.serve(web, protocol, 80, "::"):
        assert [ask(town.lan, a, 8080, protocol) for a in (OURS, SECOND)] == [THEIRS, THEIRS]
        assert ask(None, OURS, 8080, protocol) == OURS
    with town.host.serve(web, protocol, 80):
        assert ask(None, "127.0.0.1", 8080, protocol) == "172.25.0.1"


@pytest.mark.parametrize("port", ["[::]:8080:80", f"[{OURS}]:8080:80", f"[{OURS}]::80"])
def test_d17_s15_a_binding_of_one_version_opens_nothing_of_the_other(town: Town, port: str) -> None:
    web, (shown,) = town.publish("web", port)
    number = int(shown.partition("->")[0].rpartition(":")[2])
    run("ip addr add 10.9.0.1/24 dev lan0; ip -n lan addr add 10.9.0.2/24 dev eth0")
    ask = town.host.ask
    with town.host.serve(web, "tcp", 80, "::"), town.host.serve(web, "tcp", 80):
        assert ask(town.lan, OURS, number) == THEIRS
        assert ask(town.lan, "10.9.0.1", number, patience_s=BRIEF_S) is None
        if OURS in port:
            assert ask(town.lan, SECOND, number, patience_s=BRIEF_S) is None
    assert netkit("port web 80").strip() == shown.partition("->")[0]
    assert netkit("port web").strip() == f"80/tcp -> {shown.partition('->')[0]}"


@on_nftables
def test_d7_a_random_port_is_the_same_of_both_versions(town: Town) -> None:
    _, ports = town.publish("web", "80", "53/udp")
    numbers = [port.partition("->")[0].rpartition(":")[2] for port in ports]
    assert len(ports) == 4
    assert numbers[0] == numbers[1]
    assert numbers[2] == numbers[3]


@on_nftables
def test_d10_s19_s20_ports_clash_within_a_version_only(town: Town) -> None:
    town.publish("web", "[::]:8080:80")
    town.publish("other", "0.0.0.0:8080:80")
    for port in ("8080:80", "[::]:8080:80", f"[{OURS}]:8080:80"):
        with pytest.raises(Conflict, match="already allocated"):
            town.publish("third", port)
    with town.host.serve(None, "tcp", 9090, "::"):
        with pytest.raises(Conflict, match="9090 failed: port is already in use"):
            town.publish("third", "9090:80")
        with pytest.raises(NetkitError, match="no such container"):
            town.engine.sandbox("third")


def test_d24_a_range_is_one_element_however_long(town: Town) -> None:
    web, _ = town.publish("web", "[::]:20000-29999:20000-29999")
    with town.host.serve(web, "tcp", 20000, "::"), town.host.serve(web, "tcp", 29999, "::"):
        assert town.host.ask(town.lan, OURS, 20000) == THEIRS
        assert town.host.ask(town.lan, OURS, 29999) == THEIRS
    found = run("nft list ruleset") + legacy_rules()
    assert len(re.findall("20000[-:]29999", found)) == 1


def test_d16_a_container_meets_itself_and_its_sibling_through_a_published_port(town: Town) -> None:
    web, _ = town.publish("web", "8080:80")
    with town.host.serve(web, "tcp", 80, "::"):
        assert town.host.ask(web, OURS, 8080) == GATEWAY
        assert town.host.ask(place(town.bob), OURS, 8080) == GATEWAY


def test_d18_s17_a_flow_does_not_outlive_its_publication(town: Town) -> None:
    import socket

    from scenarios.lab import at

    def client() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.connect((OURS, 5353))
        return sock

    def answered(sock: socket.socket, patience_s: float = PATIENCE_S) -> bool:
        sock.settimeout(patience_s)
        sock.send(b"?")
        try:
            return bool(sock.recv(64))
        except OSError:
            return False

    web, _ = town.publish("web", "5353:53/udp")
    with at(town.lan, client) as sock:
        with town.host.serve(web, "udp", 53, "::"):
            assert answered(sock)
            town.engine.disconnect("town", "web")
            assert not answered(sock, BRIEF_S)
        again, _ = town.publish("again", "5353:53/udp")
        with town.host.serve(again, "udp", 53, "::"):
            assert answered(sock)


def test_b24_in_routed_mode_nothing_is_translated_and_only_what_is_published_is_open(
    town: Town,
) -> None:
    spec = NetworkSpec(
        "routed",
        subnets=(IPv4Network("172.26.0.0/24"), IPv6Network("fd00:26::/64")),
        ipv6=True,
        gateway_modes={6: "routed"},
    )
    town.engine.create_network(spec)
    web = join(town.engine, "routed", "web", "80:80")
    run(f"ip -6 route add fd00:26::/64 via {OURS}", place=town.lan)
    ask = town.host.ask
    with town.host.serve(web, "tcp", 80, "::"), town.host.serve(web, "tcp", 81, "::"):
        assert ask(town.lan, "fd00:26::2", 80) == THEIRS
        assert ask(town.lan, "fd00:26::2", 81, patience_s=BRIEF_S) is None
        assert ask(town.lan, OURS, 80, patience_s=BRIEF_S) is None
        assert town.host.ping(town.lan, "fd00:26::2")
    with town.host.serve(town.lan, "tcp", 80, "::"):
        assert ask(web, THEIRS, 80) == "fd00:26::2"
    with town.host.serve(web, "tcp", 80):
        assert ask(None, "127.0.0.1", 80) == "172.26.0.1"


# -- isolation


def test_e5_networks_whose_bridges_are_almost_namesakes_do_not_reach_each_other(town: Town) -> None:
    """python-iptables compares the lowest bit of each letter only, unless told otherwise."""
    for n, name in ((26, "br0"), (27, "br2")):
        subnets = (IPv6Network(f"fd00:{n}::/64"),)
        spec = NetworkSpec(name, subnets=subnets, ipv6=True, ipv4=False, bridge=name)
        town.engine.create_network(spec)
    one, other = join(town.engine, "br0", "one"), join(town.engine, "br2", "other")
    with town.host.serve(other, "tcp", 80, "::"):
        assert town.host.ask(one, "fd00:27::2", 80, patience_s=BRIEF_S) is None
        take_away("inside", "br2")
        assert town.host.ask(one, "fd00:27::2", 80)


def test_e5_s09_networks_do_not_reach_each_other(town: Town) -> None:
    town.engine.create_network(
        NetworkSpec("other", subnets=(IPv6Network("fd00:26::/64"),), ipv6=True, ipv4=False)
    )
    web = join(town.engine, "other", "web", "8080:80")
    with town.host.serve(web, "tcp", 80, "::"):
        assert town.host.ask(place(town.bob), "fd00:26::2", 80, patience_s=BRIEF_S) is None
        assert town.host.ask(place(town.bob), OURS, 8080) == six(town.bob)


@pytest.mark.parametrize("port", [None, "8080:80", f"[{OURS}]:8080:80"])
def test_s13_s14_d19_a_neighbour_cannot_route_to_a_container(town: Town, port: str | None) -> None:
    web, _ = town.publish("web", *([port] if port else []))
    run(f"ip -6 route add {SIXES} via {OURS}", place=town.lan)
    with town.host.serve(web, "tcp", 80, "::"):
        assert town.host.ask(town.lan, "fd00:25::4", 80, patience_s=BRIEF_S) is None
        take_away("inside", town.net.bridge)
        assert town.host.ask(town.lan, "fd00:25::4", 80) == THEIRS


def test_b21_an_internal_network_leads_nowhere(town: Town) -> None:
    spec = NetworkSpec(
        "quiet", subnets=(IPv6Network("fd00:26::/64"),), ipv6=True, ipv4=False, internal=True
    )
    town.engine.create_network(spec)
    quiet = join(town.engine, "quiet", "q")
    assert "default" not in run("ip -6 route", place=quiet)
    run("ip -6 route add default via fd00:26::1", place=quiet)
    run(f"ip -6 route add fd00:26::/64 via {OURS}", place=town.lan)
    with town.host.serve(town.lan, "tcp", 80, "::"), town.host.serve(quiet, "tcp", 80, "::"):
        assert town.host.ask(quiet, THEIRS, 80, patience_s=BRIEF_S) is None
        assert town.host.ask(town.lan, "fd00:26::2", 80, patience_s=BRIEF_S) is None


def test_e8_netkit_makes_a_router_of_the_host_for_its_networks_only(host: Host) -> None:
    lan = host.neighbour("lan", f"{OURS}/64", f"{THEIRS}/64")
    wan = host.neighbour("wan", "2001:db8:8::1/64", "2001:db8:8::2/64")
    before = snapshot()
    engine = host.engine()
    engine.create_network(NetworkSpec("town", subnets=(SIXES,), ipv6=True, ipv4=False))
    bob = join(engine, "town", "bob")
    assert run("sysctl -n net.ipv6.conf.all.forwarding").strip() == "1"
    with host.serve(wan, "tcp", 80, "::"):
        assert host.ask(bob, "2001:db8:8::2", 80) == "2001:db8:8::1"
        assert host.ask(lan, "2001:db8:8::2", 80, patience_s=BRIEF_S) is None
    engine.disconnect("town", "bob")
    engine.delete_network("town")
    assert snapshot() == before


@on_nftables
def test_a_host_that_learns_its_routes_from_a_router_goes_on_doing_so(host: Host) -> None:
    """A kernel that forwards ignores advertisements, unless an interface is told to listen."""
    router = host.neighbour("isp", f"{OURS}/64", f"{THEIRS}/64")
    mac = run("ip -o link show eth0", place=router).partition("link/ether ")[2].split()[0]
    advert = frames.router_advertisement(mac, "2001:db8:77::", "fe80::2")

    def learnt() -> bool:
        return "proto ra" in run("ip -6 route show dev isp0")

    frames.send(router, "eth0", advert)
    assert until(learnt)
    engine = host.engine()
    engine.create_network(NetworkSpec("town", subnets=(SIXES,), ipv6=True))
    assert run("sysctl -n net.ipv6.conf.isp0.accept_ra").strip() == "2"
    run("ip -6 route flush dev isp0 proto ra")
    frames.send(router, "eth0", advert)
    assert until(learnt)
    engine.delete_network("town")
    assert run("sysctl -n net.ipv6.conf.isp0.accept_ra").strip() == "1"


# -- what only IPv6 has


def test_s05_a_container_is_nobodys_router_on_the_host(town: Town) -> None:
    advert = frames.router_advertisement(town.mallory.mac, "fd00:bad::", "fe80::42:acff:fe19:2")
    adverts = frames.icmp(134, sender=town.mallory.mac)

    def heard() -> bool:
        before = counted("Icmp6InRouterAdvertisements")
        with frames.hear(None, town.net.bridge, adverts) as seen:
            frames.send(place(town.mallory), "eth0", advert)
        assert not seen or not in_nftables() or unguarded
        now = partial(counted, "Icmp6InRouterAdvertisements")
        return until(lambda: now() > before) if unguarded else now() > before

    unguarded = False
    assert not heard()
    unguard(town.mallory)
    unguarded = True
    assert heard()
    assert "proto ra" not in run("ip -6 route")  # and were it heard, it would not be believed


@sees_bridges
def test_s06_nor_its_siblings_and_redirects_nothing(town: Town) -> None:
    redirect = frames.icmpv6(
        (town.mallory.mac, town.bob.mac),
        ("fe80::42:acff:fe19:2", six(town.bob)),
        137,
        bytes(4) + IPv6Address(six(town.mallory)).packed + IPv6Address(THEIRS).packed,
    )
    forged = [frames.router_advertisement(town.mallory.mac, "fd00:bad::"), redirect]
    of_routers = frames.icmp(134, 137, sender=town.mallory.mac)
    with frames.hear(place(town.bob), "eth0", of_routers) as heard:
        frames.send(place(town.mallory), "eth0", *forged)
    assert heard == []
    assert "ra" not in run("ip -6 route", place=place(town.bob)).split()
    unguard(town.mallory)
    with frames.hear(place(town.bob), "eth0", of_routers, 2) as heard:
        frames.send(place(town.mallory), "eth0", *forged)
    assert len(heard) == 2
    assert "proto ra" not in run("ip -6 route", place=place(town.bob))


@sees_bridges
def test_s01_a_container_cannot_advertise_the_gateways_address(town: Town) -> None:
    bob = place(town.bob)
    assert town.host.ping(bob, GATEWAY)
    assert town.net.mac in neighbour(bob, GATEWAY)
    own = six(town.mallory)
    forged = [
        frames.neighbour_advertisement(town.mallory.mac, own, GATEWAY, town.mallory.mac),
        frames.neighbour_advertisement(town.mallory.mac, GATEWAY, GATEWAY, town.mallory.mac),
        frames.neighbour_advertisement(town.net.mac, own, GATEWAY, town.mallory.mac),
        frames.neighbour_solicitation(town.mallory.mac, GATEWAY, six(town.bob)),
    ]
    theirs = frames.icmp(135, 136, sender=town.mallory.mac)
    nobody = bytes(16)  # the kernel's own question whether its link-local address is free
    with frames.hear(bob, "eth0", lambda f: theirs(f) and f[22:38] != nobody) as heard:
        frames.send(place(town.mallory), "eth0", *forged)
    assert heard == []
    assert town.net.mac in neighbour(bob, GATEWAY)
    unguard(town.mallory)
    frames.send(place(town.mallory), "eth0", forged[0])
    assert until(lambda: town.mallory.mac in neighbour(bob, GATEWAY))


def test_s04_the_host_hears_nothing_from_an_address_that_is_not_the_containers(
    town: Town,
) -> None:
    def spoofed(source: str) -> bytes:
        return frames.icmpv6((town.mallory.mac, town.net.mac), (source, GATEWAY), 128, bytes(8))

    of_mallory = frames.icmp(128, sender=town.mallory.mac)
    for source in (six(town.bob), "fe80::bad", "2001:db8::5", "::"):
        before = counted("Icmp6InEchos")
        with frames.hear(None, town.net.bridge, of_mallory) as heard:
            frames.send(place(town.mallory), "eth0", spoofed(source))
        assert counted("Icmp6InEchos") == before, source
        assert heard == [] or not in_nftables(), source
    for source in (six(town.mallory), "fe80::42:acff:fe19:2"):
        before = counted("Icmp6InEchos")
        frames.send(place(town.mallory), "eth0", spoofed(source))
        assert until(lambda: counted("Icmp6InEchos") > before), source  # noqa: B023


def test_s07_a_network_of_ipv4_lets_no_ipv6_in(host: Host) -> None:
    engine = host.engine()
    net = engine.create_network(NetworkSpec("four", subnets=(FOURS,)))
    a, b = (engine.connect("four", name=name) for name in "ab")
    ready(a), ready(b)
    assert run("ip -6 -o addr show eth0", place=a.netns) == ""
    asked = frames.neighbour_solicitation(a.mac, "::", "fe80::1")
    with frames.hear(b.netns, "eth0", frames.icmp(135, sender=a.mac)) as heard:
        frames.send(a.netns, "eth0", asked)
    assert heard == [] or not in_nftables()
    with pytest.raises(InvalidSpec, match="network 'four' has no IPv6"):
        engine.connect("four", request=Request(ports=PortSpec.parse("[2001:db8::1]:80:80")))
    assert net.versions == (4,)


@on_nftables
def test_c16_neighbours_learn_at_once_that_an_address_has_a_new_owner(town: Town) -> None:
    """A sibling that remembers the former owner's MAC meets the new one with its first packet."""
    fixed: Callable[[str, str], Request] = lambda ip, mac: Request(  # noqa: E731
        addresses=(ip_address(ip),), mac=mac
    )
    town.engine.connect("town", request=fixed("fd00:25::99", "02:00:00:00:00:99"), name="old")
    assert town.host.ping(place(town.bob), "fd00:25::99")
    old_four = str(town.endpoint("old").addresses[0].ip)
    assert town.host.ping(place(town.bob), old_four)
    town.engine.disconnect("town", "old")
    assert "02:00:00:00:00:99" in neighbour(place(town.bob), "fd00:25::99")
    town.engine.connect("town", request=fixed("fd00:25::99", "02:00:00:00:00:aa"), name="new")
    assert until(lambda: "02:00:00:00:00:aa" in neighbour(place(town.bob), "fd00:25::99"))
    assert str(town.endpoint("new").addresses[0].ip) == old_four
    assert until(
        lambda: "02:00:00:00:00:aa" in run(f"ip neigh show {old_four}", place=place(town.bob))
    )


def test_exact_undo_of_a_dual_stack_network(host: Host) -> None:
    before = snapshot()
    netkit("network create --ipv6 town")
    netkit("connect --net town --name c -p 8080:80 -p 53:53/udp")
    assert netkit("check") == ""
    netkit("disconnect --net town c")
    netkit("network rm town")
    assert snapshot() == before
