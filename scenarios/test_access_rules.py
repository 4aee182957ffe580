"""Who may talk to whom, rule by rule: bridges and pairs made by hand, and real packets.

No engine and no driver: what is shown is what the rules of netkit.firewall about access mean, for
IPv4 and IPv6, TCP and UDP. E1, E2 and E13 on a bridge, which iptables cannot; E13-E15 on both.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from netkit.firewall import (
    Closed,
    Confine,
    Egress,
    Firewall,
    Guard,
    HostPort,
    Isolate,
    Learnt,
    Masquerade,
    Meet,
    NoHost,
    Publish,
    Reach,
    Rule,
    Serve,
    Source,
    load,
)
from scenarios import frames
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, at, run, until, without_iptables

WEB, DB, EVE = "web", "db", "eve"
NUMBERS = {WEB: 2, DB: 3, EVE: 4}
MACS = {name: f"02:00:00:00:00:{number:02x}" for name, number in NUMBERS.items()}
BRIDGE_MAC = "02:00:00:00:00:01"
LAN = {4: "10.9.0.2", 6: "2001:db8:9::2"}
OTHER = {4: "10.9.0.3", 6: "2001:db8:9::3"}  # the LAN's machine has two addresses
OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
GATEWAY = {4: "10.88.0.1", 6: "fd00:88::1"}
SUBNETS = (ip_network("10.88.0.0/24"), ip_network("fd00:88::/64"))
VERSIONS = (4, 6)
_AT_ONCE = 16
SHOWN = "for t in iptables ip6tables; do sysctl -qw net.bridge.bridge-nf-call-$t={}; done"
# no link-local address of its own: it would be tentative for a second, and send when it likes
QUIET = "ip link set {} addrgenmode none || true"


class Place(NamedTuple):
    """A host with a LAN and three containers; `links` are their ends at the host."""

    host: Host
    firewall: Firewall
    links: dict[str, str]

    def asks(self, *questions: str) -> bool:
        """Whether each is answered, by either IP version: "web>db:53/udp", "web>gateway/icmp"."""
        return all(self._answers(questions, PATIENCE_S))

    def misses(self, *questions: str) -> bool:
        """Whether none is answered, by neither."""
        return not any(self._answers(questions, BRIEF_S))

    def _answers(self, questions: Sequence[str], patience_s: float) -> list[bool]:
        """At once, each by each version."""

        def ask(question: str, version: int) -> bool:
            client, _, asked = question.partition(">")
            server, port, protocol = _service(asked)
            place = None if client == "host" else f"/run/netns/{client}"
            where = address(server, version)
            if protocol == "icmp":
                return self.host.ping(place, where, patience_s=patience_s)
            return bool(self.host.ask(place, where, port, protocol, patience_s=patience_s))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            asked = [pool.submit(ask, each, version) for each in questions for version in VERSIONS]
            return [each.result() for each in asked]

    def add(self, *rules: Rule) -> None:
        """And who was not found before is looked for anew."""
        self.firewall.add(rules)
        run("for place in web db eve; do ip -n $place neigh flush all; done")

    @contextlib.contextmanager
    def serving(self, *services: str) -> Iterator[None]:
        """Such as "db:53/udp"."""
        with contextlib.ExitStack() as stack:
            for text in services:
                name, port, protocol = _service(text)
                place = None if name == "host" else f"/run/netns/{name}"
                for every in ("", "::"):
                    stack.enter_context(self.host.serve(place, protocol, port, every))
            yield


def _service(text: str) -> tuple[str, int, str]:
    where, _, protocol = text.partition("/")
    name, _, port = where.partition(":")
    return name, int(port or 0), protocol or "tcp"


def address(name: str, version: int) -> str:
    places = {"lan": LAN, "other": OTHER, "host": OURS, "gateway": GATEWAY}
    if name in places:
        return places[name][version]
    return f"{'10.88.0.' if version == 4 else 'fd00:88::'}{NUMBERS[name]}"


def addresses(name: str) -> tuple[str, ...]:
    return address(name, 4), address(name, 6)


def container(name: str, near: str) -> None:
    """A namespace, and a veth pair between it and us, up to the addresses; `near`: our end is."""
    run(
        f"ip netns add {name}; ip -n {name} link set lo up",
        f"ip link add v-{name} {near} type veth peer name eth0 address {MACS[name]} netns {name}",
        QUIET.format(f"v-{name}"),
        QUIET.format("eth0").replace("ip", f"ip -n {name}"),
        f"ip -n {name} link set eth0 up; ip link set v-{name} up",
    )


def surroundings(host: Host) -> None:
    host.neighbour("lan", f"{OURS[4]}/24", f"{LAN[4]}/24")
    run(
        f"ip addr add {OURS[6]}/64 dev lan0 nodad; ip addr add fe80::1/64 dev lan0 nodad",
        f"ip -n lan addr add {LAN[6]}/64 dev eth0 nodad",
        f"ip -n lan addr add {OTHER[4]}/24 dev eth0",
        f"ip -n lan addr add {OTHER[6]}/64 dev eth0 nodad preferred_lft 0",
        f"ip -n lan route add default via {OURS[6]}",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )


def bridged(host: Host, firewall: Firewall, *, closed: bool) -> Place:
    """Three containers on the bridge br0, each held to its own addresses."""
    surroundings(host)
    run(
        f"ip link add br0 address {BRIDGE_MAC} type bridge; {QUIET.format('br0')}",
        "ip link set br0 up",
        f"ip addr add {GATEWAY[4]}/24 dev br0; ip addr add {GATEWAY[6]}/64 dev br0 nodad",
        "ip addr add fe80::1/64 dev br0 nodad",
        SHOWN.format(0) + " 2>/dev/null || true",
    )
    rules: list[Rule] = [Isolate("br0", SUBNETS, icc=not closed)]
    rules += [Masquerade("br0", version) for version in VERSIONS]
    for name, mac in MACS.items():
        own = tuple(map(ip_address, addresses(name)))
        rules += [Guard(f"v-{name}", mac, own)]
        rules += [Closed(f"v-{name}", "br0", mac)] if closed else []
    firewall.open()
    firewall.add(rules)
    for name in NUMBERS:
        container(name, "master br0")
        run(
            f"ip -n {name} addr add {address(name, 4)}/24 dev eth0",
            f"ip -n {name} addr add {address(name, 6)}/64 dev eth0 nodad",
            *(f"ip -n {name} route add default via {gateway}" for gateway in GATEWAY.values()),
        )
    for name in NUMBERS:
        port = f"bridge link show dev v-{name}"
        assert until(lambda port=port: "state forwarding" in run(port))  # type: ignore[misc]
    return Place(host, firewall, dict.fromkeys(NUMBERS, "br0"))


def routed(host: Host, firewall: Firewall) -> Place:
    """Three containers, each on a pair of its own, which may talk to the LAN only."""
    surroundings(host)
    firewall.open()
    for name in NUMBERS:
        link, own = f"v-{name}", tuple(map(ip_address, addresses(name)))
        firewall.add([Source(link, own), Isolate(link, icc=False)])
        firewall.add([Masquerade(link, version) for version in VERSIONS])
        container(name, "")
        run(
            f"ip addr add {GATEWAY[4]}/32 dev {link}",
            f"ip addr add {GATEWAY[6]}/128 dev {link} nodad",
            f"ip addr add fe80::1/64 dev {link} nodad",
            *(f"ip route add {each} dev {link}" for each in addresses(name)),
            f"ip -n {name} addr add {address(name, 4)}/32 dev eth0",
            f"ip -n {name} addr add {address(name, 6)}/128 dev eth0 nodad",
            *(f"ip -n {name} route add {each} dev eth0" for each in GATEWAY.values()),
            *(f"ip -n {name} route add default via {each}" for each in GATEWAY.values()),
        )
    return Place(host, firewall, {name: f"v-{name}" for name in NUMBERS})


@pytest.fixture
def closed(request: pytest.FixtureRequest, host: Host) -> Iterator[Place]:
    """A closed network: nobody on it reaches anybody."""
    firewall = load("nftables")
    place = bridged(host, firewall, closed=True)
    if getattr(request, "param", 0):
        if not os.path.exists("/proc/sys/net/bridge"):
            pytest.skip("this kernel lacks br_netfilter (CONFIG_BRIDGE_NETFILTER)")
        run(SHOWN.format(1))
    yield place
    firewall.close()


# whether the host's own filters are shown what the bridge passes on, as Docker has it
shown = pytest.mark.parametrize("closed", [0, 1], ids=["not shown", "shown"], indirect=True)


@pytest.fixture(params=["nftables", "iptables"])
def firewall(request: pytest.FixtureRequest, host: Host) -> Iterator[Firewall]:
    if request.param == "iptables" and (reason := without_iptables()):
        pytest.skip(reason)
    found = load(request.param)
    yield found
    found.close()


@pytest.fixture
def pairs(host: Host, firewall: Firewall) -> Place:
    return routed(host, firewall)


@pytest.fixture(params=["bridged", "routed"])
def place(request: pytest.FixtureRequest, host: Host, firewall: Firewall) -> Place:
    """An open network, of one kind or the other."""
    if request.param == "routed":
        return routed(host, firewall)
    return bridged(host, firewall, closed=False)


def meeting(client: str, server: str, **ports: object) -> list[Rule]:
    ends = sorted((f"v-{client}", f"v-{server}"))
    return [Meet(*ends), Reach(f"v-{client}", f"v-{server}", **ports)]  # type: ignore[arg-type]


# -- on a bridge


def test_e1_on_a_closed_network_not_one_frame_passes_between_two(closed: Place) -> None:
    """Not even the question who has an address; the host and the LAN are reached as ever."""
    of_web = frames.of(MACS[WEB])
    with closed.serving("db:80", "db:53/udp", "lan:80"):
        with frames.hear(f"/run/netns/{DB}", "eth0", of_web) as heard:
            assert closed.misses("web>db:80", "web>db:53/udp", "web>db/icmp")
        assert heard == []
        assert closed.asks("web>lan:80", "web>gateway/icmp", "host>db:80")
        # nor the long way round, through the host
        run(*(f"ip -n web route add {each} via {GATEWAY[4 if '.' in each else 6]}"
              for each in addresses(DB)))  # fmt: skip
        assert closed.misses("web>db:80")
        run("nft flush set bridge netkit closed; ip -n web neigh flush all")
        run(*(f"ip -n web route del {each}" for each in addresses(DB)))
        assert closed.asks("web>db:80")


@shown
def test_e2_e13_one_port_of_one_server_is_reached_by_one_client(closed: Place) -> None:
    """E2's two rules for a port: to it, and back from it."""
    rules = [*meeting(WEB, DB, port=80, protocol="tcp"), *meeting(WEB, DB, port=53, protocol="udp")]
    named = ("web>db:80", "web>db:53/udp")
    with closed.serving("db:80", "db:81", "db:80/udp", "db:53/udp", "web:80", "web:53/udp"):
        assert closed.misses(*named)
        closed.add(*rules)
        assert closed.asks(*named)
        assert closed.misses("web>db:81", "web>db:80/udp", "web>db/icmp", "eve>db:80")
        assert closed.misses("eve>db:53/udp", "db>web:80", "db>web:53/udp")
        closed.firewall.delete(rules)
        assert closed.misses(*named)


def test_e2_a_server_cannot_open_connections_from_its_allowed_port(closed: Place) -> None:
    """What bears both flags, as an answer to an opening does, may pass."""
    closed.add(*meeting(WEB, DB, port=80, protocol="tcp"))
    syn, ack = 0x02, 0x10
    macs = (MACS[DB], MACS[WEB])

    def heard(flags: int, awaited: int = 0) -> int:
        sent = [
            frames.tcp(macs, (address(DB, v), address(WEB, v)), (80, 8080), flags) for v in VERSIONS
        ]
        with frames.hear("/run/netns/web", "eth0", lambda frame: frame in sent, awaited) as found:
            frames.send("/run/netns/db", "eth0", *sent)
        return len(found)

    assert (heard(syn), heard(syn | ack, 2), heard(0, 2)) == (0, 2, 2)


@shown
def test_e2_without_a_port_all_is_reached_and_only_from_the_one_side(closed: Place) -> None:
    closed.add(*meeting(WEB, DB))
    with closed.serving("db:80", "db:53/udp", "web:80"):
        assert closed.asks("web>db:80", "web>db:53/udp", "web>db/icmp")
        assert closed.misses("db>web:80", "db>web/icmp", "eve>db:80", "web>eve:80")


def test_e13_a_range_of_ports_is_reached_and_not_its_neighbours(closed: Place) -> None:
    closed.add(*meeting(WEB, DB, port=8000, protocol="tcp", count=10))
    with closed.serving("db:7999", "db:8000", "db:8009", "db:8010"):
        assert closed.asks("web>db:8000", "web>db:8009")
        assert closed.misses("web>db:7999", "web>db:8010")


@shown
@pytest.mark.parametrize("ports", [(80, "tcp", 1), (79, "tcp", 3), (None, None, 1)])
def test_e13_clients_reach_the_server_and_not_each_other(
    closed: Place, ports: tuple[int | None, str | None, int]
) -> None:
    """AP isolation."""
    rules: list[Rule] = [Meet("v-db", None), Serve("v-db", *ports)]
    services = ["db:80", "db:53/udp", "eve:80", "web:80"]
    with closed.serving(*services):
        closed.add(*rules)
        assert closed.asks("web>db:80", "eve>db:80")
        assert closed.misses("web>eve:80", "eve>web:80", "db>web:80")
        others = closed.asks if ports[0] is None else closed.misses
        assert others("web>db:53/udp", "web>db/icmp")
        closed.firewall.delete(rules)
        assert closed.misses("web>db:80")


@shown
def test_e1_a_container_reaches_its_own_published_port(closed: Place) -> None:
    """As does the LAN; translated within the bridge, where that is shown to the host's filters."""
    run("bridge link set dev v-db hairpin on")
    closed.add(*(Publish(None, 8080, ip_address(each), 80, "tcp") for each in addresses(DB)))
    with closed.serving("db:80"):
        assert closed.asks("db>gateway:8080", "lan>host:8080")


def test_what_is_allowed_and_not_served_is_refused_at_once(closed: Place) -> None:
    """Errors of ICMP pass between those who may meet."""
    closed.add(*meeting(WEB, DB, port=9999, protocol="udp"))

    def refused(version: int) -> bool:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect((address(DB, version), 9999))
            sock.send(b"?")
            try:
                sock.recv(1)
            except ConnectionRefusedError:
                return True
            return False

    assert at("/run/netns/web", lambda: [refused(version) for version in VERSIONS]) == [True] * 2


def test_a_datagram_in_fragments_passes_and_one_of_nobodys_does_not(closed: Place) -> None:
    """Later fragments bear no ports; they pass between those who may meet."""
    closed.add(*meeting(WEB, DB, port=53, protocol="udp"))

    def answers(port: int, patience_s: float) -> list[int]:
        return [len(got) for v in VERSIONS if (got := large(address(DB, v), port, patience_s))]

    with echoing(53), echoing(54):
        assert answers(53, PATIENCE_S) == [4000, 4000]
        assert answers(54, BRIEF_S) == []


def large(server: str, port: int, patience_s: float) -> bytes:
    """What comes back of 4000 bytes from a container that sends them back."""

    def talk() -> bytes:
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(patience_s)
            sock.connect((server, port))
            sock.send(bytes(4000))
            try:
                return sock.recv(5000)
            except OSError:
                return b""

    return at("/run/netns/web", talk)


@contextlib.contextmanager
def echoing(port: int) -> Iterator[None]:
    """db sends back what it gets."""

    def serve(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                data, client = sock.recvfrom(5000)
                if client is None:  # it is shut down
                    return
                sock.sendto(data, client)

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind(("::", port))
        return sock

    sock = at("/run/netns/db", opened)
    thread = threading.Thread(target=serve, args=(sock,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(30)
        sock.close()


# -- on pairs


def test_e13_one_port_behind_a_pair_is_reached_by_one_client(pairs: Place) -> None:
    rules = [Reach("v-web", "v-db", *what, bridged=False) for what in ((80, "tcp"), (53, "udp"))]
    named = ("web>db:80", "web>db:53/udp")
    with pairs.serving("db:80", "db:81", "db:80/udp", "db:53/udp", "web:80", "web:53/udp"):
        assert pairs.misses(*named)
        pairs.firewall.add(rules)
        assert pairs.asks(*named)
        assert pairs.misses("web>db:81", "web>db:80/udp", "web>db/icmp", "eve>db:80")
        assert pairs.misses("eve>db:53/udp", "db>web:80", "db>web:53/udp")
        pairs.firewall.delete(rules)
        assert pairs.misses(*named)


def test_e2_all_behind_a_pair_is_reached_and_only_from_the_one_side(pairs: Place) -> None:
    pairs.firewall.add([Reach("v-web", "v-db", bridged=False)])
    with pairs.serving("db:80", "db:53/udp", "web:80", "web:53/udp"):
        assert pairs.asks("web>db:80", "web>db:53/udp", "web>db/icmp")
        assert pairs.misses("db>web:80", "db>web:53/udp", "db>web/icmp", "eve>db:80")


@pytest.mark.parametrize("ports", [(80, "tcp", 1), (79, "tcp", 3), (None, None, 1)])
def test_e13_clients_reach_the_server_behind_a_pair_and_not_each_other(
    pairs: Place, ports: tuple[int | None, str | None, int]
) -> None:
    """Those of its network: the LAN is not."""
    rules = [Serve("v-db", *ports, bridged=False, subnets=SUBNETS)]
    with pairs.serving("db:80", "db:53/udp", "eve:80"):
        pairs.add(*rules)
        assert pairs.asks("web>db:80", "eve>db:80")
        assert pairs.misses("web>eve:80", "lan>db:80")
        others = pairs.asks if ports[0] is None else pairs.misses
        assert others("web>db:53/udp", "web>db/icmp")
        pairs.firewall.delete(rules)
        assert pairs.misses("web>db:80")


# -- the host


def test_e15_the_host_is_closed_but_for_what_a_network_needs(place: Place) -> None:
    """Its neighbours, pings and names, at the gateway; the LAN is reached as ever."""
    links = set(place.links.values())
    gateways = tuple(map(ip_address, GATEWAY.values()))
    rules = [NoHost(link, gateways) for link in links]
    services = ["host:80", "host:81/udp", "host:53/udp", "host:53"]
    with place.serving(*services, "lan:80", "web:80"):
        assert place.asks("web>gateway:80", "web>host:80")
        place.add(*rules)
        for server in ("gateway", "host"):
            assert place.misses(f"web>{server}:80", f"web>{server}:81/udp")
        assert place.asks("web>lan:80")
        run("ip -n web neigh flush all")
        for name in NUMBERS:  # of which each has the same gateway, be it on a pair of its own
            assert place.asks(f"{name}>gateway:53/udp", f"{name}>gateway:53")
            assert place.asks(f"{name}>gateway/icmp")
        assert place.misses("web>host:53/udp", "web>host:53")
        assert place.misses("web>host/icmp")
        assert place.asks("host>web:80")  # it answers the host
        assert place.asks("lan>host:80")
        place.firewall.delete(rules)
        assert place.asks("web>host:80")


def test_e15_a_port_of_the_host_may_be_left_open_to_all_or_to_one(place: Place) -> None:
    links = sorted(set(place.links.values()))
    of_web = [HostPort(place.links[WEB], 81, "tcp", 2, ip_address(a)) for a in addresses(WEB)]
    with place.serving("host:80", "host:82", "host:80/udp"):
        place.firewall.add([NoHost(link) for link in links])
        place.firewall.add([*(HostPort(link, 80, "tcp") for link in links), *of_web])
        assert place.asks("web>host:80", "eve>gateway:80")
        assert place.misses("web>host:80/udp")
        assert place.asks("web>host:82")
        assert place.misses("eve>host:82")
        place.firewall.delete(of_web)
        assert place.misses("web>host:82")


def test_e15_published_ports_are_no_service_of_the_host(place: Place) -> None:
    ports = [Publish(None, 8080, ip_address(each), 80, "tcp") for each in addresses(DB)]
    place.firewall.add([*ports, *(NoHost(link) for link in set(place.links.values()))])
    with place.serving("db:80"):
        assert place.asks("web>host:8080", "lan>host:8080")


# -- the way out


def test_e14_a_network_leaves_for_where_it_may_only(place: Place) -> None:
    """A destination and a port; all of another; the rest is closed, until the list goes."""
    links = sorted(set(place.links.values()))
    confined: list[Rule] = [Confine(link=link) for link in links]
    lists: list[Rule] = []
    for link in links:
        for version in VERSIONS:
            one, other = ip_network(LAN[version]), ip_network(OTHER[version])
            lists += [Egress(one, 80, "tcp", link=link), Egress(one, 7000, None, 5, link=link)]
            lists += [Egress(other, link=link)]
    services = ["lan:80", "lan:81", "lan:7003", "lan:7004/udp"]
    with place.serving(*services, "host:80", "web:80"):
        place.firewall.add(confined)
        assert place.misses("web>lan:80", "web>lan/icmp")
        place.firewall.add(lists)
        assert place.asks("web>lan:80", "eve>lan:80")
        assert place.misses("web>lan:80/udp", "web>lan/icmp")
        assert place.asks("web>lan:7003", "web>lan:7004/udp", "web>other:81", "web>other/icmp")
        assert place.asks("web>host:80")  # that is not out
        place.firewall.delete(lists)
        assert place.misses("web>lan:80", "web>other:80")
        place.firewall.delete(confined)
        assert place.asks("web>lan:80")


def test_e14_one_container_is_confined_and_its_siblings_are_not(place: Place) -> None:
    own = [ip_address(each) for each in addresses(WEB)]
    wide = {4: ip_network("10.9.0.0/16"), 6: ip_network("2001:db8:9::/48")}
    place.firewall.add([Confine(address=each) for each in own])
    lists = [Egress(wide[each.version], 80, "tcp", address=each) for each in own]
    ports = [Publish(None, 8080, each, 81, "tcp") for each in own]
    with place.serving("lan:80", "lan:81", "web:81"):
        assert place.misses("web>lan:81")
        assert place.asks("eve>lan:81")
        place.firewall.add([*lists, *ports])
        assert place.asks("web>lan:80", "web>other:80")
        assert place.misses("web>lan:81")
        assert place.asks("lan>host:8080")  # its answers pass


def test_e14_both_lists_hold_the_networks_and_the_containers(place: Place) -> None:
    link, own = place.links[WEB], [ip_address(each) for each in addresses(WEB)]
    place.firewall.add([Confine(link=link), *(Confine(address=each) for each in own)])
    place.firewall.add([Egress(ip_network(LAN[v]), 80, "tcp", link=link) for v in VERSIONS])
    place.firewall.add([Egress(ip_network(OTHER[a.version]), 81, "tcp", address=a) for a in own])
    with place.serving("lan:80", "lan:81"):
        assert place.asks("web>lan:80", "web>other:81")
        assert place.misses("web>lan:81", "web>other:80")


def test_e14_what_was_under_way_goes_on_when_a_list_comes(place: Place) -> None:
    def client() -> socket.socket:
        return socket.create_connection((LAN[4], 80), timeout=PATIENCE_S)

    with place.host.serve("/run/netns/lan", "tcp", 80):
        talking = at("/run/netns/web", client)
        place.firewall.add([Confine(link=place.links[WEB])])
        with talking:
            assert talking.recv(64) == OURS[4].encode()
            assert talking.recv(64) == b""  # its end passes both ways, too
        assert place.misses("web>lan:80")


def test_e14_what_was_learnt_is_open_for_its_time(host: Host) -> None:
    """And is learnt anew: for the time said then."""
    place = bridged(host, load("nftables"), closed=False)
    own = [ip_address(each) for each in addresses(WEB)]

    def learn(seconds: int, port: int | None) -> None:
        place.firewall.add([Learnt(a, ip_address(LAN[a.version]), seconds, port) for a in own])

    place.firewall.add([Confine(link="br0")])
    with place.serving("lan:80", "lan:80/udp", "lan:81"):
        assert place.misses("web>lan:80")
        learn(60, 80)  # a second may be over before anybody has asked
        assert place.asks("web>lan:80", "web>lan:80/udp")
        assert place.misses("web>lan:81", "web>other:80", "eve>lan:80")
        learn(1, 80)
        assert until(lambda: place.misses("web>lan:80"))
        learn(1, 80)
        learn(60, 80)
        assert "timeout 1m" in run("nft list set inet netkit learnt4")
        learn(60, None)
        assert place.asks("web>lan:81")
        learn(1, None)
        assert until(lambda: place.misses("web>lan:81"))
        assert place.asks("web>lan:80")
    place.firewall.close()
