"""What a container, and a neighbour on the LAN, may not do: trust.md S01-S20, by trying it.

Each attack is tried twice: as things are, and, to show that it is one, with the single thing that
stops it taken away. The rows E5, E7, E9, B21 and D19 of features.md are here as well.
"""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec
from scenarios import frames
from scenarios.firewalls import (
    admin,
    admins,
    each,
    in_nftables,
    on_nftables,
    sees_bridges,
    take_away,
)
from scenarios.lab import BRIEF_S, Host, join, legacy_rules, ready, run, snapshot, until

OURS, THEIRS = "10.9.0.1", "10.9.0.2"  # the host's address on the LAN, and its neighbour's
SECOND = "10.9.0.11"  # another address of the host
FORGED = "02:66:66:66:66:66"
pytestmark = each


class Town(NamedTuple):
    """A host with a neighbour, a network, and two containers on it: mallory and bob."""

    host: Host
    engine: Engine
    lan: str
    net: NetworkRecord
    mallory: EndpointRecord
    bob: EndpointRecord

    def connect(self, network: str, name: str, *ports: str, ip: str | None = None) -> str:
        """A container on *network*; its place."""
        return join(self.engine, network, name, *ports, addresses=(IPv4Address(ip),) if ip else ())

    def network(self, name: str, subnet: str, *, internal: bool = False) -> NetworkRecord:
        return self.engine.create_network(
            NetworkSpec(name, subnets=(IPv4Network(subnet),), internal=internal)
        )


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    run(f"ip addr add {SECOND}/24 dev lan0")
    run("sysctl -qw net.ipv4.ip_forward=1")  # a router before netkit came, and not by it
    engine = host.engine()
    net = engine.create_network(NetworkSpec("town", subnets=(IPv4Network("172.25.0.0/24"),)))
    mallory, bob = (engine.connect("town", name=name) for name in ("mallory", "bob"))
    ready(mallory), ready(bob)
    return Town(host, engine, lan, net, mallory, bob)


def place(ep: EndpointRecord) -> str:
    assert ep.netns is not None
    return ep.netns


def ip(ep: EndpointRecord) -> str:
    assert ep.addresses
    return str(ep.addresses[0].ip)


def unguard(ep: EndpointRecord) -> None:
    """Take away what holds a port to its own MAC and address."""
    take_away("ports", ep.host_ifname)


def unisolate(net: NetworkRecord) -> None:
    """Take away what keeps others out of a network, and its containers out of the host's 127/8."""
    take_away("inside", net.bridge)


def neighbour(where: str | None, address: str) -> str:
    return run(f"ip neigh show {address}", place=where)


# -- on the bridge


@sees_bridges
def test_s01_a_container_cannot_announce_the_gateways_address_to_its_sibling(town: Town) -> None:
    gateway = str(town.net.gateway())
    assert town.host.ping(place(town.bob), gateway)
    before = neighbour(place(town.bob), gateway)
    assert town.net.mac in before
    forged = [
        frames.arp(town.mallory.mac, town.mallory.mac, gateway),
        frames.arp(town.net.mac, town.mallory.mac, gateway),  # in a frame said to be the gateway's
        frames.arp(town.mallory.mac, FORGED, gateway),
        frames.arp(town.mallory.mac, FORGED, ip(town.mallory)),  # its own address, not its own MAC
    ]
    with frames.hear(place(town.bob), "eth0", lambda frame: frame[12:14] == b"\x08\x06") as heard:
        frames.send(place(town.mallory), "eth0", *forged)
    assert heard == []
    assert town.net.mac in neighbour(place(town.bob), gateway)
    unguard(town.mallory)
    run(f"ip neigh del {gateway} dev eth0", place=place(town.bob))
    assert town.host.ping(place(town.bob), gateway)
    frames.send(place(town.mallory), "eth0", forged[0])
    assert until(lambda: town.mallory.mac in neighbour(place(town.bob), gateway))


@sees_bridges
def test_s02_a_container_cannot_announce_its_siblings_address_to_the_host(town: Town) -> None:
    assert town.host.ping(None, ip(town.bob))
    forged = frames.arp(town.mallory.mac, town.mallory.mac, ip(town.bob))
    with frames.hear(None, town.net.bridge, frames.of(town.mallory.mac)) as heard:
        frames.send(place(town.mallory), "eth0", forged)
    assert heard == []
    assert town.bob.mac in neighbour(None, ip(town.bob))
    unguard(town.mallory)
    run(f"ip neigh del {ip(town.bob)} dev {town.net.bridge}")
    assert town.host.ping(None, ip(town.bob))
    frames.send(place(town.mallory), "eth0", forged)
    assert until(lambda: town.mallory.mac in neighbour(None, ip(town.bob)))


@sees_bridges
def test_s03_a_container_cannot_move_its_siblings_mac_to_its_own_port(town: Town) -> None:
    """Nor by frames to link-local groups, which take another way through a bridge's netfilter."""

    def port_of_bob() -> str:
        lines = run(f"bridge fdb show br {town.net.bridge}").splitlines()
        found = [line for line in lines if line.startswith(town.bob.mac) and "self" not in line]
        return found[0].split()[2] if found else ""

    def steal(group: str) -> None:
        stolen = frames.ethernet(group, town.bob.mac, frames.EXPERIMENTAL, b"")
        frames.send(place(town.mallory), "eth0", stolen)

    groups = [f"01:80:c2:00:00:{n:02x}" for n in range(16)]

    assert town.host.ping(place(town.bob), str(town.net.gateway()))
    assert port_of_bob() == town.bob.host_ifname
    for group in (frames.BROADCAST, town.net.mac, *groups):
        steal(group)
        assert port_of_bob() == town.bob.host_ifname, group
    unguard(town.mallory)
    for group in (frames.BROADCAST, *groups):
        if group == groups[1]:
            continue  # pause frames go no further than the next interface
        steal(group)
        assert until(lambda: port_of_bob() == town.mallory.host_ifname), group
        assert town.host.ping(place(town.bob), str(town.net.gateway()))
        assert port_of_bob() == town.bob.host_ifname


def test_s04_a_container_cannot_send_from_its_siblings_address(town: Town) -> None:
    """Nor from one outside, the gateway's, or none; from its own it can."""
    gateway = str(town.net.gateway())

    def send(source: str) -> None:
        macs, ports = (town.mallory.mac, town.net.mac), (5000, 9999)
        frame = frames.udp(macs, (source, gateway), ports)
        frames.send(place(town.mallory), "eth0", frame)

    with town.host.serve(None, "udp", 9999) as seen:
        with frames.hear(None, town.net.bridge, frames.of(town.mallory.mac)) as heard:
            for source in (ip(town.bob), THEIRS, gateway, "0.0.0.0"):
                send(source)
        assert seen == []
        assert heard == [] or not in_nftables()
        send(ip(town.mallory))
        assert until(lambda: seen == [ip(town.mallory)])
        unguard(town.mallory)
        send(ip(town.bob))
        assert until(lambda: seen == [ip(town.mallory), ip(town.bob)])


@sees_bridges
def test_s04_nothing_passes_within_a_vlan_tag(town: Town) -> None:
    """Neither a lie, which the tag might hide, nor the truth, where no VLAN is anybody's."""
    macs, addresses = (town.mallory.mac, town.net.mac), (ip(town.mallory), str(town.net.gateway()))
    plain = frames.udp(macs, addresses, (5000, 9999))
    forged = frames.arp(town.mallory.mac, town.mallory.mac, ip(town.bob))
    tagged = [frames.tagged(frame, vlan) for frame in (plain, forged) for vlan in (0, 7)]
    tagged.append(frames.tagged(tagged[0], 7))

    def heard(awaited: int) -> int:
        of_mallory = frames.of(town.mallory.mac)
        with frames.hear(None, town.net.bridge, of_mallory, awaited) as found:
            frames.send(place(town.mallory), "eth0", *tagged)
        return len(found)

    assert heard(0) == 0
    unguard(town.mallory)
    assert heard(len(tagged)) >= len(tagged)  # and what its kernel says to the answers


def test_s05_a_container_cannot_advertise_itself_as_the_hosts_router(town: Town) -> None:
    """Not by default, when the bridge has no IPv6; nor where somebody has switched it on."""
    advertisement = frames.router_advertisement(town.mallory.mac, "2001:db8:bad::")

    def believed() -> bool:
        return "proto ra" in run("ip -6 route show table all")

    frames.send(place(town.mallory), "eth0", advertisement)
    assert run(f"ip -6 addr show dev {town.net.bridge}") == ""
    # the host's own forwarding does not matter to accept_ra=2
    run(
        f"sysctl -qw net.ipv6.conf.{town.net.bridge}.accept_ra=2",
        f"sysctl -qw net.ipv6.conf.{town.net.bridge}.disable_ipv6=0",
    )
    assert until(lambda: "fe80::" in run(f"ip -6 addr show dev {town.net.bridge} -tentative"))
    with frames.hear(None, town.net.bridge, frames.of(town.mallory.mac)) as heard:
        frames.send(place(town.mallory), "eth0", advertisement)
    assert heard == [] or not in_nftables()
    assert not believed()
    unguard(town.mallory)
    frames.send(place(town.mallory), "eth0", advertisement)
    assert until(believed)


@sees_bridges
def test_s06_a_container_cannot_give_its_sibling_a_route(town: Town) -> None:
    """Even if the sibling has IPv6 switched on: the bridge is of an IPv4 network."""
    advertisement = frames.router_advertisement(town.mallory.mac, "2001:db8:bad::")
    run("sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0", place=place(town.bob))
    assert until(lambda: "fe80::" in run("ip -6 addr show -tentative", place=place(town.bob)))

    def believed() -> bool:
        return "proto ra" in run("ip -6 route", place=place(town.bob))

    with frames.hear(place(town.bob), "eth0", frames.of(town.mallory.mac)) as heard:
        frames.send(place(town.mallory), "eth0", advertisement)
    assert heard == []
    assert not believed()
    unguard(town.mallory)
    frames.send(place(town.mallory), "eth0", advertisement)
    assert until(believed)


def test_s07_no_interface_of_an_ipv4_network_has_an_ipv6_address(town: Town) -> None:
    assert run("ip -6 addr show dev eth0", place=place(town.bob)) == ""
    assert run(f"ip -6 addr show dev {town.net.bridge}") == ""
    assert "fe80::" in run("ip -6 addr show dev eth0", place=town.lan)  # the kernel's default


@sees_bridges
def test_s08_a_container_cannot_answer_for_a_dhcp_server(town: Town) -> None:
    """From port 67 nothing gets through; from its neighbour 66 the same datagram does."""

    def offered(port: int, awaited: int) -> int:
        macs, addresses = (
            (town.mallory.mac, frames.BROADCAST),
            (ip(town.mallory), "255.255.255.255"),
        )
        of_mallory = frames.of(town.mallory.mac)
        with frames.hear(place(town.bob), "eth0", of_mallory, awaited) as heard:
            offer = frames.udp(macs, addresses, (port, 68))
            frames.send(place(town.mallory), "eth0", offer)
        return len(heard)

    assert (offered(67, 0), offered(66, 1)) == (0, 1)
    unguard(town.mallory)
    assert offered(67, 1) == 1


def test_s08_a_container_cannot_take_part_in_spanning_tree(town: Town) -> None:
    """The bridge does not listen for BPDUs, and of nftables' no sibling hears any."""

    def heard(awaited: int) -> int:
        of_bridges = frames.to(frames.BPDU_GROUP)
        with frames.hear(place(town.bob), "eth0", of_bridges, awaited) as found:
            frames.send(place(town.mallory), "eth0", frames.bpdu(town.mallory.mac))
        return len(found)

    assert "stp_state 0" in run(f"ip -d link show {town.net.bridge}")
    if in_nftables():
        assert heard(0) == 0
        unguard(town.mallory)
    assert heard(1) == 1


# -- between networks, the LAN and the host


def test_s09_e5_networks_do_not_reach_each_other(town: Town) -> None:
    """In neither direction, by no protocol, whatever routes are added in the container."""
    town.network("other", "172.26.0.0/24")
    carol = town.connect("other", "carol")
    bob, host = place(town.bob), town.host
    with host.serve(carol, "tcp", 80), host.serve(carol, "udp", 53), host.serve(bob, "tcp", 80):
        assert host.ask(None, "172.26.0.2", 80) == "172.26.0.1"
        assert host.ask(bob, "172.26.0.2", 80, patience_s=BRIEF_S) is None
        assert host.ask(bob, "172.26.0.2", 53, "udp", patience_s=BRIEF_S) is None
        assert host.ask(carol, ip(town.bob), 80, patience_s=BRIEF_S) is None
        assert not host.ping(bob, "172.26.0.2", patience_s=BRIEF_S)
        unisolate(town.engine.network("other"))
        assert host.ask(bob, "172.26.0.2", 80)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_s10_a_port_published_on_loopback_is_closed_to_the_lan(town: Town, protocol: str) -> None:
    """Even where the neighbour sends to 127.0.0.1 itself, and somebody opened 127/8 to the LAN."""
    web = town.connect("town", "web", f"127.0.0.1:8080:80/{protocol}")
    run("sysctl -qw net.ipv4.conf.lan0.route_localnet=1")
    with town.host.serve(web, protocol, 80) as seen, town.host.serve(None, "udp", 9999) as control:
        assert town.host.ask(None, "127.0.0.1", 8080, protocol)
        seen.clear()
        assert town.host.ask(town.lan, OURS, 8080, protocol, patience_s=BRIEF_S) is None
        with frames.hear(web, "eth0", lambda frame: frame[34:36] == b"\x13\x88") as heard:
            frames.send(town.lan, "eth0", _from_lan("127.0.0.1", 8080, protocol))
            frames.send(town.lan, "eth0", _from_lan("127.0.0.1", 9999, "udp"))
        assert until(lambda: control == [THEIRS])
        assert (seen, heard) == ([], [])


def test_s11_a_service_on_the_hosts_loopback_is_closed_to_the_lan(town: Town) -> None:
    town.connect("town", "web", "8080:80")  # no publication opens it either
    with town.host.serve(None, "udp", 9999, "127.0.0.1") as seen:
        with frames.hear(None, "lan0", lambda frame: frame[30:34] == b"\x7f\0\0\1", 1) as heard:
            frames.send(town.lan, "eth0", _from_lan("127.0.0.1", 9999))
        assert (len(heard), seen) == (1, [])
        run("sysctl -qw net.ipv4.conf.lan0.route_localnet=1")
        frames.send(town.lan, "eth0", _from_lan("127.0.0.1", 9999))
        assert until(lambda: seen == [THEIRS])


@pytest.mark.parametrize("port", [9999, 8080])
def test_s12_loopback_of_the_host_is_closed_to_a_container(town: Town, port: int) -> None:
    """To one with NET_ADMIN that routes 127/8 to the gateway; published on loopback or not."""
    town.connect("town", "web", "127.0.0.1:8080:80")
    mallory = place(town.mallory)
    run(
        "ip addr del 127.0.0.1/8 dev lo",
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        f"ip route add 127.0.0.0/8 via {town.net.gateway()} dev eth0 src {ip(town.mallory)}",
        place=mallory,
    )
    with town.host.serve(None, "tcp", 9999, "127.0.0.1") as seen:
        assert town.host.ask(None, "127.0.0.1", 9999) == "127.0.0.1"
        assert town.host.ask(mallory, "127.0.0.1", port, patience_s=BRIEF_S) is None
        assert seen == ["127.0.0.1"]
        if port == 9999:
            unisolate(town.net)
            assert town.host.ask(mallory, "127.0.0.1", 9999) == ip(town.mallory)


@pytest.mark.parametrize("published", [None, "127.0.0.1:8080:80", f"{SECOND}:8080:80", "8080:80"])
def test_s13_s14_d19_a_neighbour_cannot_route_to_a_container(
    town: Town, published: str | None
) -> None:
    """Past the published port, or where there is none."""
    web = town.connect("town", "web", *filter(None, [published]), ip="172.25.0.80")
    with town.host.serve(web, "tcp", 80), town.host.serve(web, "udp", 80) as seen:
        assert town.host.ask(town.lan, "172.25.0.80", 80, patience_s=BRIEF_S) is None
        assert town.host.ask(town.lan, "172.25.0.80", 80, "udp", patience_s=BRIEF_S) is None
        assert not town.host.ping(town.lan, "172.25.0.80", patience_s=BRIEF_S)
        assert seen == []
        unisolate(town.net)
        assert town.host.ask(town.lan, "172.25.0.80", 80) == THEIRS


def test_s15_a_port_published_on_one_address_is_closed_on_the_others(town: Town) -> None:
    web = town.connect("town", "web", f"{SECOND}:8080:80")
    with town.host.serve(web, "tcp", 80):
        assert town.host.ask(town.lan, SECOND, 8080) == THEIRS
        assert town.host.ask(None, SECOND, 8080)
        for where in (town.lan, None):
            assert town.host.ask(where, OURS, 8080) is None
        assert town.host.ask(None, "127.0.0.1", 8080) is None
    run("ip -6 addr add 2001:db8::1/64 dev lan0 nodad")
    with frames.hear(web, "eth0", lambda frame: frame[12:14] == b"\x86\xdd") as heard:
        assert town.host.ask(None, "2001:db8::1", 8080) is None
    assert heard == []


def test_s16_a_published_port_does_not_capture_what_is_for_others(town: Town) -> None:
    """CVE-2025-67499: of what passes the host to its own port 8080 elsewhere, nothing."""
    host = town.host
    wan = host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    web = town.connect("town", "web", "8080:80", "9000-9009:9000-9009")
    with (
        host.serve(web, "tcp", 80) as captured,
        host.serve(web, "tcp", 9005) as captured_too,
        host.serve(wan, "tcp", 8080),
        host.serve(wan, "tcp", 9005),
    ):
        assert host.ask(town.lan, "10.8.0.1", 8080) == host.ask(town.lan, OURS, 9005) == THEIRS
        assert (captured, captured_too) == ([THEIRS], [THEIRS])
        for port in (8080, 9005):
            assert host.ask(town.lan, "10.8.0.2", port) == THEIRS
            assert host.ask(None, "10.8.0.2", port) == "10.8.0.1"
            assert host.ask(place(town.bob), "10.8.0.2", port) == "10.8.0.1"
        assert (captured, captured_too) == ([THEIRS], [THEIRS])


@pytest.mark.parametrize("published", ["8080:80", f"{OURS}:8080:80", "8080-8082:80-82"])
def test_s17_a_port_is_closed_once_its_container_has_left(town: Town, published: str) -> None:
    """Also when somebody else has its address by then, and listens there."""
    web = town.connect("town", "web", published, ip="172.25.0.80")
    with town.host.serve(web, "tcp", 80):
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS
    town.engine.disconnect("town", "web")
    assert town.host.ask(town.lan, OURS, 8080) is None
    heir = town.connect("town", "heir", ip="172.25.0.80")
    with town.host.serve(heir, "tcp", 80) as seen:
        assert town.host.ask(place(town.bob), "172.25.0.80", 80) == ip(town.bob)
        for where, address in ((town.lan, OURS), (None, OURS), (None, "127.0.0.1")):
            assert town.host.ask(where, address, 8080) is None
        assert seen == [ip(town.bob)]


@pytest.mark.parametrize("call_iptables", [0, 1])
def test_s18_the_server_sees_who_its_client_is(town: Town, call_iptables: int) -> None:
    """A sibling as itself, and a neighbour of the host by its own address; br_netfilter or not."""
    run(f"sysctl -qw net.bridge.bridge-nf-call-iptables={call_iptables}")
    web = town.connect("town", "web", "8080:80", ip="172.25.0.80")
    with town.host.serve(web, "tcp", 80):
        assert town.host.ask(place(town.bob), "172.25.0.80", 80) == ip(town.bob)
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS


@on_nftables
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("8080:80", "8080:81"),
        ("8080:80", f"{SECOND}:8080:80"),
        (f"{SECOND}:8080:80", "8080:80"),
        (f"{SECOND}:8080:80", f"{SECOND}:8080:80"),
        ("8000-8099:8000-8099", f"{SECOND}:8050:80"),
        (f"{SECOND}:8050:80", "8000-8099:8000-8099"),
        ("8000-8099:8000-8099", "8099-8100:99-100"),
    ],
)
def test_s19_a_host_port_is_not_given_twice(town: Town, first: str, second: str) -> None:
    """A port of all addresses and the same of one address are the same."""
    town.connect("town", "web", first)
    before = snapshot()
    with pytest.raises(Conflict, match=r"port is already allocated \(by container 'web'\)"):
        town.connect("town", "thief", second)
    assert snapshot() == before
    town.engine.disconnect("town", "web")
    town.connect("town", "thief", second)


@on_nftables
def test_s19_ports_of_different_addresses_or_protocols_do_not_clash(town: Town) -> None:
    names = ("a", "b", "c", "d")
    ports = (f"{SECOND}:53:53", f"{OURS}:53:53", "53:53/udp", "127.0.0.1:53:53")
    places = [town.connect("town", name, port) for name, port in zip(names, ports, strict=True)]
    asked = [(SECOND, "tcp"), (OURS, "tcp"), (OURS, "udp"), ("127.0.0.1", "tcp")]
    for where, (address, protocol) in zip(places, asked, strict=True):
        with town.host.serve(where, protocol, 53) as seen:
            assert town.host.ask(None, address, 53, protocol)
        assert len(seen) == 1


@on_nftables
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("address", ["", "127.0.0.1"])
def test_s20_a_port_that_a_process_of_the_host_has_is_refused(
    town: Town, protocol: str, address: str
) -> None:
    """And the process is named, and keeps it; on another address the port is free."""
    before = snapshot()
    with town.host.serve(None, protocol, 8080, address):
        with pytest.raises(Conflict, match=rf"already in use by '\S+' \(pid {os.getpid()}\)"):
            town.connect("town", "web", f"8080:80/{protocol}")
        with pytest.raises(Conflict, match="already in use"):
            town.connect("town", "web", f"8079-8081:79-81/{protocol}")
        assert snapshot() == before
        assert town.host.ask(None, "127.0.0.1", 8080, protocol) == "127.0.0.1"
        if address:
            town.connect("town", "web", f"{SECOND}:8080:80/{protocol}")


@on_nftables
def test_s40_no_parameter_but_forwarding_is_changed(host: Host) -> None:
    """Of those that were there before: an interface of ours has its own."""
    host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    before = set(snapshot()["sysctls"].splitlines())
    engine = host.engine()
    engine.create_network(NetworkSpec("web"))
    join(engine, "web", "a", "8080:80")
    changed = {line.partition("=")[0] for line in before - set(snapshot()["sysctls"].splitlines())}
    # ip_forward is that of every interface, and with it the kernel stops heeding redirects
    kernels = ("/forwarding", "/conf/all/accept_redirects")
    assert [path for path in changed if not path.endswith(kernels)] == [
        "/proc/sys/net/ipv4/ip_forward"
    ]


# -- the chains themselves


def test_b21_an_internal_network_leads_nowhere(town: Town) -> None:
    """Not out, not to other networks, not in; its containers have each other and the host."""
    net = town.network("inner", "172.27.0.0/24", internal=True)
    eve, ann = (town.connect("inner", name) for name in ("eve", "ann"))
    web = town.connect("town", "web", "8080:80")
    host = town.host
    assert run("ip route show default", place=eve) == ""
    with pytest.raises(InvalidSpec, match="internal"):
        town.connect("inner", "port", "8081:80")
    with (
        host.serve(town.lan, "tcp", 80) as seen,
        host.serve(web, "tcp", 80),
        host.serve(eve, "tcp", 80),
    ):
        assert host.ask(ann, "172.27.0.2", 80) == "172.27.0.3"
        assert host.ask(None, "172.27.0.2", 80) == "172.27.0.1"
        run("ip route add default via 172.27.0.1", place=eve)
        run("ip route add default via 172.27.0.1", place=ann)
        for address, port in ((THEIRS, 80), (OURS, 8080), ("172.25.0.4", 80)):
            assert host.ask(eve, address, port, patience_s=BRIEF_S) is None
        for outside in (town.lan, place(town.bob)):
            assert host.ask(outside, "172.27.0.2", 80, patience_s=BRIEF_S) is None
        assert seen == []
        take_away("internal", net.bridge)
        assert host.ask(eve, THEIRS, 80)


def test_b21_not_one_datagram_passes_an_internal_networks_edge(town: Town) -> None:
    """In either direction by itself; not even one that some other table's rule sends inside."""
    net = town.network("inner", "172.27.0.0/24", internal=True)
    eve = town.connect("inner", "eve")
    run("ip route add default via 172.27.0.1", place=eve)
    run(
        "nft add table ip theirs",
        "nft add chain ip theirs pre '{ type nat hook prerouting priority -150; }'",
        "nft add rule ip theirs pre udp dport 9999 dnat to 172.27.0.2:53",
    )
    host = town.host
    with host.serve(town.lan, "udp", 53) as out, host.serve(eve, "udp", 53) as into:
        assert host.ask(eve, THEIRS, 53, "udp", patience_s=BRIEF_S) is None
        assert host.ask(town.lan, OURS, 9999, "udp", patience_s=BRIEF_S) is None
        assert (out, into) == ([], [])
        take_away("internal", net.bridge)
        assert host.ask(eve, THEIRS, 53, "udp") == "172.27.0.2"
        assert host.ask(town.lan, OURS, 9999, "udp") == THEIRS


def test_e7_the_admins_chain_runs_first_and_is_the_admins(town: Town) -> None:
    """Nothing of netkit's is in it, and its rules outlive every network."""
    assert admins() == []
    web = town.connect("town", "web", "8080:80")
    with town.host.serve(web, "tcp", 80):
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS
        admin(f"saddr {THEIRS} drop")
        assert town.host.ask(town.lan, OURS, 8080, patience_s=BRIEF_S) is None
        admin("dport 80 accept")
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS
    rules = admins()
    assert len(rules) == 2
    for name in ("web", "mallory", "bob"):
        town.engine.disconnect("town", name)
    town.engine.delete_network("town")
    assert admins() == rules
    assert in_nftables() is (town.host.firewall == "nftables")
    if in_nftables():
        assert run("nft list tables").split() == ["table", "inet", "netkit"]
        assert run("nft list table inet netkit").count("chain") == 1
    else:
        assert legacy_rules().count("NETKIT") == 1 + len(rules)
    town.network("again", "172.25.0.0/24")
    web = town.connect("again", "web", "8080:80", "8081:81")
    assert admins() == rules
    with town.host.serve(web, "tcp", 80), town.host.serve(web, "tcp", 81):
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS
        assert town.host.ask(town.lan, OURS, 8081, patience_s=BRIEF_S) is None


def test_e9_answers_pass_and_what_belongs_to_no_connection_does_not(town: Town) -> None:
    """A segment no connection can have would leave untranslated, with the container's address."""
    host, bob = town.host, place(town.bob)
    with host.serve(town.lan, "tcp", 80):
        assert host.ask(bob, THEIRS, 80) == OURS
    syn, fin = 0x02, 0x01

    def left(frame: bytes) -> bool:
        return frame[23] == 6 and frame[36:38] == b"\0\x50"

    def leaves(flags: int, port: int, awaited: int) -> int:
        macs, addresses = (town.bob.mac, town.net.mac), (ip(town.bob), THEIRS)
        with frames.hear(town.lan, "eth0", left, awaited) as heard:
            frames.send(bob, "eth0", frames.tcp(macs, addresses, (port, 80), flags))
        return len(heard)

    assert leaves(syn, 4001, 1) == 1
    assert leaves(syn | fin, 4002, 0) == 0
    unisolate(town.net)
    assert leaves(syn | fin, 4003, 1) == 1


def test_forwarding_between_other_interfaces_is_none_of_our_business(town: Town) -> None:
    """What was reachable through the host before netkit is so with it, unfiltered, untranslated."""
    wan = town.host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    with town.host.serve(wan, "tcp", 80):
        assert town.host.ask(town.lan, "10.8.0.2", 80) == THEIRS


@pytest.mark.parametrize("transit", [False, True])
def test_e8_netkit_makes_a_router_of_the_host_for_its_networks_only(
    host: Host, transit: bool
) -> None:
    """Unless told so: a host that forwarded nothing before forwards nothing else after."""
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    wan = host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    engine = host.engine()
    spec = NetworkSpec("town", subnets=(IPv4Network("172.25.0.0/24"),), transit=transit)
    engine.create_network(spec)
    bob = join(engine, "town", "bob")
    with host.serve(wan, "tcp", 80), host.serve(lan, "tcp", 80):
        assert host.ask(bob, "10.8.0.2", 80) == "10.8.0.1"
        assert (host.ask(lan, "10.8.0.2", 80, patience_s=BRIEF_S) is None) is not transit
        assert (host.ask(wan, THEIRS, 80, patience_s=BRIEF_S) is None) is not transit
    engine.disconnect("town", "bob")
    engine.delete_network("town")
    assert run("sysctl -n net.ipv4.ip_forward").strip() == "0"


def _from_lan(address: str, port: int, protocol: str = "udp") -> bytes:
    """A frame the neighbour sends to the host's MAC, for whatever address."""
    macs = mac_of("eth0", "/run/netns/lan"), mac_of("lan0")
    if protocol == "udp":
        return frames.udp(macs, (THEIRS, address), (5000, port))
    return frames.tcp(macs, (THEIRS, address), (5000, port), 0x02)


def mac_of(ifname: str, where: str | None = None) -> str:
    return run(f"ip -o link show {ifname}", place=where).partition("link/ether ")[2].split()[0]
