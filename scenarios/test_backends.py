"""The iptables back end by itself: rules between namespaces made by hand, and real packets.

No engine and no driver: what is shown here is what the rules of netkit.firewall mean in iptables,
for IPv4 and IPv6. It is what they mean in nftables, on which all other scenarios run; what only
nftables can is marked so, and docs/limits.md says what follows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

import pytest

from netkit.firewall import (
    Admit,
    Allow,
    Firewall,
    Guard,
    Isolate,
    Masquerade,
    NoTransit,
    Outgoing,
    Publish,
    Rule,
    Siblings,
    Source,
    foreign,
    load,
)
from scenarios import frames
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, run, until, without_iptables


class Version(NamedTuple):
    """The addresses of a town in one IP version; all prefixes are /24 or /64."""

    number: int
    ours: str  # the host's on the LAN, and another of it
    second: str
    lan: str
    gateway: str  # of br0, br1
    others_gateway: str
    web: str  # on br0, as is mallory; carol is on br1
    mallory: str
    carol: str
    any: str
    bits: int

    def subnet(self, address: str) -> str:
        return str(ip_network(f"{address}/{self.bits}", strict=False))


VERSIONS = (
    Version(4, "10.9.0.1", "10.9.0.11", "10.9.0.2", "10.88.0.1", "10.89.0.1",
            "10.88.0.2", "10.88.0.3", "10.89.0.2", "", 24),
    Version(6, "2001:db8:9::1", "2001:db8:9::11", "2001:db8:9::2", "fd00:88::1", "fd00:89::1",
            "fd00:88::2", "fd00:88::3", "fd00:89::2", "::", 64),
)  # fmt: skip
MACS = {name: f"02:00:00:00:00:0{n}" for n, name in enumerate(("br0", "web", "mallory"))}
FORGED = "02:66:66:66:66:66"
BRIDGES = ("br0", "br1")
# no link-local address of its own: it would be tentative now, and send when it likes
# whether what a bridge passes from port to port passes iptables too, which is not ours to switch on
BRIDGED = "for t in iptables ip6tables; do sysctl -qw net.bridge.bridge-nf-call-$t={}; done"
QUIET = "ip link set {} addrgenmode none || true"


class Town(NamedTuple):
    """A host between a LAN and two bridges: web and mallory on br0, carol on br1."""

    host: Host
    firewall: Firewall
    v: Version

    def place(self, name: str) -> str:
        return f"/run/netns/{name}"

    def ask(self, name: str | None, address: str, port: int = 80) -> str | None:
        return self.host.ask(name and self.place(name), address, port)

    def refuses(self, name: str | None, address: str, port: int = 80) -> bool:
        place = name and self.place(name)
        return self.host.ask(place, address, port, patience_s=BRIEF_S) is None


def build(host: Host, v: Version) -> None:
    """Links, addresses, routes and switches, as a driver would make them."""
    host.neighbour("lan", f"{v.ours}/{v.bits}", f"{v.lan}/{v.bits}")
    nodad = " nodad" if v.number == 6 else ""
    run(
        # deprecated: else the kernel would prefer the younger of two of IPv6
        f"ip addr add {v.second}/{v.bits} dev lan0{nodad}" + " preferred_lft 0" * (v.number == 6),
        f"ip link add br0 address {MACS['br0']} type bridge",
        "ip link add br1 type bridge",
        f"ip addr add {v.gateway}/{v.bits} dev br0{nodad}",
        f"ip addr add {v.others_gateway}/{v.bits} dev br1{nodad}",
        *(f"{QUIET.format(bridge)}; ip link set {bridge} up" for bridge in BRIDGES),
        # who forwards asks for neighbours from a link-local address, settled at once
        *(f"ip addr add fe80::1/64 dev {link} nodad" for link in BRIDGES if nodad),
        "ip -n lan addr flush dev eth0 scope link",  # tentative for a second, and it would wait
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        "sysctl -qw net.ipv4.conf.br0.route_localnet=1",
        BRIDGED.format(0) + " 2>/dev/null || true",
    )
    for name, bridge, address, gateway in (
        ("web", "br0", v.web, v.gateway),
        ("mallory", "br0", v.mallory, v.gateway),
        ("carol", "br1", v.carol, v.others_gateway),
    ):
        mac = f"address {MACS[name]}" if name in MACS else ""
        run(
            f"ip netns add {name}",
            f"ip link add v-{name} type veth peer name eth0 {mac} netns {name}",
            QUIET.format(f"v-{name}"),
            QUIET.format("eth0").replace("ip", f"ip -n {name}"),
            f"ip link set v-{name} master {bridge} up; bridge link set dev v-{name} hairpin on",
            f"ip -n {name} link set lo up",
            f"ip -n {name} addr add {address}/{v.bits} dev eth0{nodad}",
            f"ip -n {name} link set eth0 up; ip -n {name} route add default via {gateway}",
        )
        port = f"bridge link show dev v-{name}"
        assert until(lambda port=port: "state forwarding" in run(port))  # type: ignore[misc]


@pytest.fixture(params=VERSIONS, ids=["IPv4", "IPv6"])
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


# nftables is what all other scenarios run on
@pytest.fixture(params=["iptables"])
def town(request: pytest.FixtureRequest, host: Host, version: Version) -> Iterator[Town]:
    """Two isolated networks; one may reach the LAN, masqueraded."""
    if request.param == "iptables" and (reason := without_iptables()):
        pytest.skip(reason)
    v = version
    build(host, v)
    firewall = load(request.param)
    firewall.open()
    firewall.add(
        [
            *(
                Isolate(bridge, (ip_network(v.subnet(gateway)),))
                for bridge, gateway in zip(BRIDGES, (v.gateway, v.others_gateway), strict=True)
            ),
            Masquerade("br0", v.number),
        ]
    )
    yield Town(host, firewall, v)
    firewall.close()


def test_what_leaves_is_masqueraded_and_answers_come_back(town: Town) -> None:
    with town.host.serve(town.place("lan"), "tcp", 80, town.v.any):
        assert town.ask("web", town.v.lan) == town.v.ours
        town.firewall.delete([Masquerade("br0", town.v.number)])
        assert town.ask("web", town.v.lan) == town.v.web  # lan's default route is the host
        town.firewall.add([Masquerade("br0", town.v.number, ip_address(town.v.second))])
        assert town.ask("web", town.v.lan) == town.v.second


def test_an_endpoint_may_leave_by_an_address_of_its_own(town: Town) -> None:
    v = town.v
    with town.host.serve(town.place("lan"), "tcp", 80, v.any):
        town.firewall.add([Outgoing(ip_address(v.web), ip_address(v.second))])
        assert (town.ask("web", v.lan), town.ask("mallory", v.lan)) == (v.second, v.ours)


def test_among_themselves_nothing_is_translated(town: Town) -> None:
    v = town.v
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        assert town.ask("mallory", v.web) == v.mallory
        assert town.ask(None, v.web) == v.gateway


def test_networks_do_not_reach_each_other_and_the_lan_reaches_none(town: Town) -> None:
    v = town.v
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        assert town.refuses("carol", v.web)
        assert town.refuses("lan", v.web)
        town.firewall.add([Isolate("br0", open=(v.number,))])
        assert town.ask("lan", v.web) == v.lan
        assert town.refuses("carol", v.web)  # open to what is outside, not to other networks


def test_siblings_behind_links_of_their_own_are_one_network(town: Town) -> None:
    """By their addresses: hence only where both links are held to theirs."""
    v = town.v
    wide = ip_network("10.88.0.0/15" if v.number == 4 else "fd00:88::/31")
    for bridge, gateway in (("br0", v.gateway), ("br1", v.others_gateway)):
        town.firewall.delete([Isolate(bridge, (ip_network(v.subnet(gateway)),))])
        town.firewall.add([Isolate(bridge)])
    held: list[Rule] = [Source("br0", (ip_address(v.web),)), Source("br1", (ip_address(v.carol),))]
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        town.firewall.add(held)
        assert town.refuses("carol", v.web)
        town.firewall.add([Siblings(wide)])
        assert town.ask("carol", v.web) == v.carol
        assert town.refuses("lan", v.web)
        town.firewall.delete(held[1:])
        assert town.refuses("carol", v.web)


def test_what_is_allowed_is_reached_at_its_own_address(town: Town) -> None:
    v, web = town.v, ip_address(town.v.web)
    place = town.place("web")
    with town.host.serve(place, "tcp", 80, v.any), town.host.serve(place, "tcp", 81, v.any):
        town.firewall.add([Allow(web, 80, "tcp")])
        assert town.ask("lan", v.web) == v.lan
        assert town.refuses("lan", v.web, 81)
        assert not town.host.ping(town.place("lan"), v.web, patience_s=BRIEF_S)
        town.firewall.add([Isolate("br0", routed=(v.number,))])
        assert town.host.ping(town.place("lan"), v.web)


def test_an_internal_network_leads_nowhere(town: Town) -> None:
    v = town.v
    lan, web = town.place("lan"), town.place("web")
    with town.host.serve(lan, "tcp", 80, v.any), town.host.serve(lan, "udp", 53, v.any) as seen:
        assert town.ask("web", v.lan)
        town.firewall.add([Isolate("br0", (), True)])
        assert town.refuses("web", v.lan)
        assert town.host.ask(web, v.lan, 53, "udp", patience_s=BRIEF_S) is None
        assert seen == []
        with town.host.serve(web, "tcp", 81, v.any):
            assert town.ask("mallory", v.web, 81) == v.mallory
            assert town.refuses("lan", v.web, 81)
        with town.host.serve(web, "udp", 53, v.any) as seen:
            town.firewall.add([Publish(None, 53, ip_address(v.web), 53, "udp")])
            assert town.host.ask(lan, v.ours, 53, "udp", patience_s=BRIEF_S) is None
            assert seen == []


def test_a_port_is_published_and_closed_again(town: Town) -> None:
    """At every address of the host, for the LAN, the host itself, and whoever is behind it."""
    v = town.v
    rule = Publish(None, 8080, ip_address(v.web), 80, "tcp")
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        town.firewall.add([rule])
        assert town.ask("lan", v.ours, 8080) == v.lan
        assert town.ask("lan", v.second, 8080) == v.lan
        assert town.ask(None, v.ours, 8080) in (v.ours, v.gateway)
        assert town.ask("carol", v.ours, 8080) == v.carol
        # its own network, and itself, must see the host, or the answer would go astray
        assert town.ask("mallory", v.ours, 8080) == v.gateway
        assert town.ask("web", v.ours, 8080) == v.gateway
        town.firewall.delete([rule])
        assert town.refuses("lan", v.ours, 8080)


@pytest.mark.parametrize("version", VERSIONS[1:], ids=["IPv6"])
def test_a_published_port_leaves_the_hosts_own_loopback_alone(town: Town) -> None:
    """What would be sent from ::1 to a container never left: whoever listens there is asked."""
    v = town.v
    town.firewall.add([Publish(None, 8080, ip_address(v.web), 80, "tcp")])
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        assert town.ask(None, v.ours, 8080)
        begin = time.monotonic()
        assert town.ask(None, "::1", 8080) is None
        assert time.monotonic() - begin < PATIENCE_S  # refused, not left waiting
        with town.host.serve(None, "tcp", 8080, "::1"):
            assert town.ask(None, "::1", 8080) == "::1"


def test_a_port_is_published_where_it_says(town: Town) -> None:
    v, web = town.v, ip_address(town.v.web)
    with town.host.serve(town.place("web"), "tcp", 80, v.any):
        town.firewall.add([Publish(ip_address(v.second), 8080, web, 80, "tcp")])
        assert town.ask("lan", v.second, 8080) == v.lan
        assert town.refuses("lan", v.ours, 8080)
        town.firewall.add([Publish(None, 8081, web, 80, "tcp", device="lan0")])
        assert town.ask("lan", v.ours, 8081) == v.lan
        assert town.refuses("carol", v.ours, 8081)
        town.firewall.add([Publish(None, 8082, web, 80, "tcp", device="br1")])
        assert town.refuses("lan", v.ours, 8082)
        assert town.ask("carol", v.ours, 8082) == v.carol


def test_a_range_leads_each_port_to_its_own(town: Town) -> None:
    v, web = town.v, ip_address(town.v.web)
    place = town.place("web")
    with town.host.serve(place, "tcp", 81, v.any), town.host.serve(place, "tcp", 9001, v.any):
        town.firewall.add([Publish(None, 8000, web, 80, "tcp", 3)])
        town.firewall.add([Publish(None, 9000, web, 9000, "tcp", 3)])
        assert town.ask("lan", v.ours, 8001) == v.lan
        assert town.ask("lan", v.ours, 9001) == v.lan
        assert town.refuses("lan", v.ours, 8000)


def test_a_published_port_does_not_capture_what_is_for_others(town: Town) -> None:
    """S16: only what is for the host itself."""
    v = town.v
    town.firewall.add([Publish(None, 8080, ip_address(v.web), 80, "tcp")])
    with (
        town.host.serve(town.place("web"), "tcp", 80, v.any) as seen,
        town.host.serve(town.place("lan"), "tcp", 8080, v.any),
    ):
        assert town.ask("mallory", v.lan, 8080) == v.ours
        assert seen == []


def test_what_is_not_ours_is_forwarded_unless_we_made_the_host_a_router(town: Town) -> None:
    v = town.v
    other = ("10.7.0.1/24", "10.7.0.2/24") if v.number == 4 else ("fd07::1/64", "fd07::2/64")
    place = town.host.neighbour("away", *other)
    with town.host.serve(town.place("lan"), "tcp", 80, v.any):
        assert town.host.ask(place, v.lan, 80)
        town.firewall.add([NoTransit(v.number)])
        assert town.host.ask(place, v.lan, 80, patience_s=BRIEF_S) is None
        assert town.ask("web", v.lan) == v.ours


def test_a_routed_pair_sends_from_its_own_addresses_only(town: Town) -> None:
    v = town.v
    with town.host.serve(town.place("lan"), "tcp", 80, v.any):
        town.firewall.add([Source("br0", (ip_address(v.mallory),))])
        assert town.refuses("web", v.lan)
        town.firewall.add([Admit("br0", None, (ip_address(v.web),))])
        assert town.ask("web", v.lan) == v.ours
        town.firewall.delete([Admit("br0", None, (ip_address(v.web),))])
        assert town.refuses("web", v.lan)


def test_rules_move_from_one_back_end_to_the_other_without_a_gap(town: Town) -> None:
    """With both, a packet must pass both; so the new one is filled before the old one goes."""
    if reason := without_iptables():
        pytest.skip(reason)
    v = town.v
    rules: list[Rule] = [
        Isolate("br0", (ip_network(v.subnet(v.gateway)),)),
        Isolate("br1", (ip_network(v.subnet(v.others_gateway)),)),
        Masquerade("br0", v.number),
        Publish(None, 8080, ip_address(v.web), 80, "tcp"),
        *guards(v),
    ]
    town.firewall.add(rules)
    other = load("iptables" if town.firewall.name == "nftables" else "nftables")

    def holds() -> bool:
        return (
            town.ask("lan", v.ours, 8080) == v.lan
            and town.ask("mallory", v.ours, 8080) == v.gateway
            and town.ask("mallory", v.lan) == v.ours
            and town.refuses("carol", v.web)
            and town.refuses("lan", v.web)
        )

    with (
        town.host.serve(town.place("web"), "tcp", 80, v.any),
        town.host.serve(town.place("lan"), "tcp", 80, v.any),
    ):
        assert holds()
        other.open()
        other.add(rules)
        assert holds()
        town.firewall.close()
        assert holds()
        other.close()
        assert not town.refuses("carol", v.web)


# -- 127.0.0.0/8, which only IPv4 has


@pytest.mark.parametrize("version", VERSIONS[:1], ids=["IPv4"])
def test_localhost_reaches_published_ports_and_containers_do_not_reach_localhost(
    town: Town,
) -> None:
    """S10 and S12, where route_localnet is on."""
    v = town.v
    town.firewall.add([Publish(IPv4Address("127.0.0.1"), 8080, IPv4Address(v.web), 80, "tcp")])
    with (
        town.host.serve(town.place("web"), "tcp", 80),
        town.host.serve(None, "tcp", 9999, "127.0.0.1"),
    ):
        assert town.ask(None, "127.0.0.1", 8080) == v.gateway
        assert town.refuses("lan", v.ours, 8080)
        run(
            "ip addr del 127.0.0.1/8 dev lo",
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
            f"ip route add 127.0.0.0/8 via {v.gateway} dev eth0 src {v.mallory}",
            place=town.place("mallory"),
        )
        assert town.refuses("mallory", "127.0.0.1", 9999)
        assert town.refuses("mallory", "127.0.0.1", 8080)
        town.firewall.delete([Isolate("br0", (ip_network(v.subnet(v.gateway)),))])
        assert town.ask("mallory", "127.0.0.1", 9999) == v.mallory


# -- who says whose address it is


def guards(v: Version) -> list[Guard]:
    return [
        Guard(f"v-{name}", MACS[name], (ip_address(address),))
        for name, address in (("web", v.web), ("mallory", v.mallory))
    ]


def echo(v: Version, mac: str, source: str) -> bytes:
    """A question for the gateway; a datagram to a closed port, or an echo request."""
    macs, addresses = (mac, MACS["br0"]), (source, v.gateway)
    if v.number == 4:
        return frames.udp(macs, addresses, (5000, 9999))
    return frames.icmpv6(macs, addresses, 128, bytes(4))


def asked(v: Version) -> int:
    """How many such questions the host's IP has heard."""
    counter = "UdpNoPorts" if v.number == 4 else "Icmp6InEchos"
    return int(run(f"nstat -asz {counter}").split()[-2])


def test_s04_the_host_hears_a_container_from_its_own_address_only(town: Town) -> None:
    """Whose MAC is its own, that is: one who bears its sibling's too only nftables tells apart."""
    v = town.v
    town.firewall.add(guards(v))
    before = asked(v)
    forged = [echo(v, MACS["mallory"], source) for source in (v.web, v.lan)]
    forged.append(echo(v, FORGED, v.web))
    if town.firewall.name == "nftables":
        forged.append(echo(v, MACS["web"], v.web))
    frames.send(town.place("mallory"), "eth0", *forged, echo(v, MACS["mallory"], v.mallory))
    assert until(lambda: asked(v) > before)
    assert asked(v) == before + 1
    town.firewall.delete(guards(v))
    frames.send(town.place("mallory"), "eth0", *forged)
    assert until(lambda: asked(v) == before + 1 + len(forged))


@pytest.mark.parametrize("version", VERSIONS[1:], ids=["IPv6"])
def test_s05_the_host_believes_no_router_behind_a_guarded_port(town: Town) -> None:
    v = town.v
    run("sysctl -qw net.ipv6.conf.br0.accept_ra=2")  # or the host, a router itself, heeds none
    own = (IPv6Address("fe80::bad"), IPv6Address(v.mallory))  # its address alone is no excuse
    guard = Guard("v-mallory", MACS["mallory"], own)
    town.firewall.add([guard])
    advertisement = frames.router_advertisement(MACS["mallory"], "2001:db8:bad::", "fe80::bad")
    frames.send(town.place("mallory"), "eth0", advertisement)
    assert town.host.ping(town.place("mallory"), v.gateway)
    assert "proto ra" not in run("ip -6 route")
    town.firewall.delete([guard])
    frames.send(town.place("mallory"), "eth0", advertisement)
    assert until(lambda: "proto ra" in run("ip -6 route"))


def test_siblings_are_guarded_by_iptables_too_where_bridged_packets_pass_it(
    host: Host, version: Version
) -> None:
    """The host's switch for that is Docker's and Kubernetes', and not ours."""
    if reason := without_iptables():
        pytest.skip(reason)
    if not os.path.exists("/proc/sys/net/bridge"):
        pytest.skip("this kernel lacks br_netfilter (CONFIG_BRIDGE_NETFILTER)")
    v, own = version, MACS["mallory"]
    build(host, v)
    firewall = load("iptables")
    firewall.open()
    firewall.add([Isolate("br0"), *guards(v)])
    if v.number == 4:
        to_web = (own, MACS["web"])
        spoofed = frames.udp(to_web, (v.gateway, v.web), (5000, 9999))
        rogue = frames.udp(to_web, (v.mallory, v.web), (67, 68))
        honest = frames.udp(to_web, (v.mallory, v.web), (66, 68))
    else:
        spoofed = frames.neighbour_advertisement(own, v.gateway, v.gateway, own)
        rogue = frames.router_advertisement(own, "2001:db8:bad::", v.mallory)
        honest = frames.neighbour_advertisement(own, v.mallory, v.mallory, own)

    def hears(awaited: int) -> list[bytes]:
        """Which of the three web hears; netfilter takes the padding off."""
        sent = [frame[:42] for frame in (spoofed, rogue, honest)]
        known = lambda frame: frame[:42] in sent  # noqa: E731
        with frames.hear("/run/netns/web", "eth0", known, awaited) as heard:
            frames.send("/run/netns/mallory", "eth0", spoofed, rogue, honest)
        return [frame[:42] for frame in heard]

    run(BRIDGED.format(1))
    assert hears(1) == [honest[:42]]
    run(BRIDGED.format(0))
    assert hears(3) == [spoofed[:42], rogue[:42], honest[:42]]


class Bridged(NamedTuple):
    """An IPv6 network of which nftables guards the ports."""

    host: Host
    firewall: Firewall
    v: Version

    def hears(self, *sent: bytes, awaited: int = 0) -> int:
        """How many of the frames mallory sends web hears."""
        with frames.hear("/run/netns/web", "eth0", lambda frame: frame in sent, awaited) as heard:
            frames.send("/run/netns/mallory", "eth0", *sent)
        return len(heard)


@pytest.fixture
def bridged(host: Host) -> Bridged:
    v = VERSIONS[1]
    build(host, v)
    firewall = load("nftables")
    firewall.open()
    firewall.add([Isolate("br0"), *guards(v)])
    return Bridged(host, firewall, v)


def test_s01_nobody_advertises_a_neighbour_but_itself(bridged: Bridged) -> None:
    v, own, web = bridged.v, MACS["mallory"], MACS["web"]
    lies = [
        frames.neighbour_advertisement(own, v.mallory, v.gateway, own),
        frames.neighbour_advertisement(own, v.mallory, v.web, own),
        frames.neighbour_advertisement(own, v.gateway, v.gateway, own),
        frames.neighbour_advertisement(web, v.mallory, v.mallory, own),
        frames.neighbour_advertisement(own, "::", v.mallory, own),
        frames.neighbour_solicitation(own, v.gateway, v.web),  # it would be learnt from as well
        frames.neighbour_solicitation(web, "::", v.web),
    ]
    assert bridged.hears(*lies) == 0
    truth = frames.neighbour_advertisement(own, v.mallory, v.mallory, own)
    assert bridged.hears(truth, awaited=1) == 1
    bridged.firewall.delete([guards(v)[1]])
    assert (
        bridged.hears(*lies, awaited=len(lies) - 1) >= len(lies) - 1
    )  # what is for a group web is not in it may not hear


def test_neighbours_find_each_other_and_new_addresses_are_tried_first(bridged: Bridged) -> None:
    """Solicitations from `::` (is my address free?) pass; so does all that ping needs."""
    v, own = bridged.v, MACS["mallory"]
    assert bridged.host.ping("/run/netns/mallory", v.web)
    assert own in run(f"ip neigh show {v.mallory}", place="/run/netns/web")
    run(f"ip addr add {v.web}/64 dev eth0", place="/run/netns/mallory")  # taken: found out
    taken = f"ip -6 addr show dev eth0 to {v.web}"
    assert until(lambda: "dadfailed" in run(taken, place="/run/netns/mallory"))


def test_s06_s08_nobody_is_a_router_or_a_dhcp_server_for_its_siblings(bridged: Bridged) -> None:
    v, own = bridged.v, MACS["mallory"]
    to_all, all_nodes = (own, "33:33:00:00:00:01"), (v.mallory, "ff02::1")
    lies = [
        frames.router_advertisement(own, "2001:db8:bad::", v.mallory),
        frames.router_advertisement(own, "2001:db8:bad::"),
        frames.icmpv6(to_all, all_nodes, 137, bytes(36)),  # a redirect
    ]
    assert bridged.hears(*lies) == 0
    assert bridged.hears(frames.icmpv6(to_all, all_nodes, 200, bytes(36)), awaited=1) == 1
    bridged.firewall.delete([guards(v)[1]])
    assert bridged.hears(*lies, awaited=len(lies)) == len(lies)


def test_an_ipv4_address_is_no_leave_to_speak_ipv6(bridged: Bridged) -> None:
    """S07: and without any address, IPv6 passes only where the network has it."""
    v, own = bridged.v, MACS["mallory"]
    said = frames.neighbour_advertisement(own, v.mallory, v.mallory, own)
    bridged.firewall.delete([guards(v)[1]])
    for rule, passes in (
        (Guard("v-mallory", own, (IPv4Address("10.0.0.1"),)), 0),
        (Guard("v-mallory", own, ()), 0),
        (Guard("v-mallory", own, (), True), 1),
    ):
        bridged.firewall.add([rule])
        assert bridged.hears(said, awaited=passes) == passes, rule
        bridged.firewall.delete([rule])


# -- another tool's chain


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_f16_what_docker_would_drop_passes_once_docker_was_told(town: Town, kind: str) -> None:
    """E16: and no more than our own rules let pass."""
    v = town.v
    if kind == "legacy" and (reason := without_iptables()):
        pytest.skip(reason)
    program = f"{'iptables' if v.number == 4 else 'ip6tables'}-{kind}"
    run(f"{program} -P FORWARD DROP", f"{program} -N DOCKER-USER")
    run(f"{program} -A FORWARD -j DOCKER-USER", f"{program} -A DOCKER-USER -j RETURN")
    found = foreign.obstacles(town.firewall.name)
    town.firewall.add([Publish(None, 8080, ip_address(v.web), 80, "tcp")])
    with (
        town.host.serve(town.place("lan"), "tcp", 80, v.any),
        town.host.serve(town.place("web"), "tcp", 80, v.any),
    ):
        if found:
            assert town.refuses("web", v.lan)
            assert town.refuses("lan", v.ours, 8080)
            foreign.add("br0", found)
        assert town.ask("web", v.lan) == v.ours
        assert town.ask("lan", v.ours, 8080) == v.lan
        assert town.refuses("lan", v.web)
        if found:
            foreign.delete("br0", found)
            assert town.refuses("web", v.lan)
    # iptables' own rules are in that very chain, and before all others
    assert bool(found) == (kind == "nft" or town.firewall.name == "nftables")
