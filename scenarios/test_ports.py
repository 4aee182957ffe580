"""Published ports, asked from the LAN, the host, siblings and the container itself (D4-D24)."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network
from typing import NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import Conflict, Exhausted, InvalidSpec
from netkit.kernel import Kernel
from netkit.specs import NetworkSpec
from scenarios import frames
from scenarios.firewalls import each, on_nftables
from scenarios.lab import (
    BRIEF_S,
    PATIENCE_S,
    Host,
    at,
    join,
    legacy_rules,
    netkit,
    run,
    snapshot,
    until,
)

OURS, THEIRS = "10.9.0.1", "10.9.0.2"  # the host's address on the LAN, and its neighbour's
SECOND = "10.9.0.11"  # another address of the host
GATEWAY, FIRST = "172.25.0.1", "172.25.0.2"
pytestmark = each


class Town(NamedTuple):
    host: Host
    engine: Engine
    lan: str

    def publish(self, name: str, *ports: str) -> tuple[str, list[str]]:
        """A container; its place, and its ports as `ps` shows them."""
        place = join(self.engine, "town", name, *ports)
        sandbox = self.engine.sandbox(name).id
        return place, [str(p) for p in self.engine.endpoints(sandbox=sandbox)[0].ports]


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    run(f"ip addr add {SECOND}/24 dev lan0")
    run("sysctl -qw net.ipv4.ip_forward=1")  # a router before netkit came, and not by it
    engine = host.engine()
    engine.create_network(NetworkSpec("town", subnets=(IPv4Network("172.25.0.0/24"),)))
    return Town(host, engine, lan)


def rules() -> str:
    return run("nft list ruleset") + legacy_rules()


# -- where a port is published, and what `port` says of it


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_d4_d8_d14_a_port_is_published_at_every_address_of_the_host(
    town: Town, protocol: str
) -> None:
    """To the LAN, to the host, by its loopback too, and to whom the server sees it is."""
    web, ports = town.publish("web", f"8080:80/{protocol}")
    assert ports == [f"0.0.0.0:8080->80/{protocol}"]
    ask = town.host.ask
    with town.host.serve(web, protocol, 80):
        assert [ask(town.lan, a, 8080, protocol) for a in (OURS, SECOND)] == [THEIRS, THEIRS]
        for address in (OURS, SECOND, GATEWAY, "127.0.0.1", "127.1.2.3"):
            assert ask(None, address, 8080, protocol), address
        other = "udp" if protocol == "tcp" else "tcp"
        assert ask(town.lan, OURS, 8080, other, patience_s=BRIEF_S) is None


@pytest.mark.parametrize(
    ("text", "shown", "asked"),
    [
        (f"{SECOND}:8080:80", f"{SECOND}:8080->80/tcp", SECOND),  # D5
        ("127.0.0.1:8080:80/udp", "127.0.0.1:8080->80/udp", "127.0.0.1"),
        (f"{SECOND}::80", rf"{SECOND}:\d{{5}}->80/tcp", SECOND),  # D6
        ("127.0.0.1::80/udp", r"127.0.0.1:\d{5}->80/udp", "127.0.0.1"),
        ("80", r"0.0.0.0:\d{5}->80/tcp", OURS),  # D7
        ("80/udp", r"0.0.0.0:\d{5}->80/udp", OURS),
        ("0.0.0.0:8080:80/TCP", "0.0.0.0:8080->80/tcp", OURS),
    ],
)
def test_d5_d6_d7_dockers_forms_publish_where_they_say(
    town: Town, text: str, shown: str, asked: str
) -> None:
    web, (port,) = town.publish("web", text)
    assert re.fullmatch(shown, port)
    number, protocol = int(port.partition(":")[2].partition("->")[0]), port[-3:]
    assert number == 8080 or 32768 <= number <= 60999
    with town.host.serve(web, protocol, 80):
        assert town.host.ask(None, asked, number, protocol)
        elsewhere = town.host.ask(None, OURS, number, protocol, patience_s=BRIEF_S)
        assert bool(elsewhere) == port.startswith("0.0.0.0")


@on_nftables
def test_d8_an_sctp_port_is_published(town: Town) -> None:
    web, ports = town.publish("web", "8080:80/sctp")
    assert ports == ["0.0.0.0:8080->80/sctp"]
    assert FIRST in run("nft get element inet netkit wildcard4 '{ sctp . 8080 }'")
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        pytest.skip("this kernel has no SCTP, so nobody can be asked")
    server = at(web, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
    client = at(town.lan, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132))
    with server, client:
        server.bind(("", 80))
        server.listen()
        client.settimeout(3)
        client.connect((OURS, 8080))


@on_nftables
def test_d9_d11_p_publishes_what_is_exposed_and_port_says_where(town: Town) -> None:
    exposed = "--expose 80 --expose 7000-7001/udp"
    netkit(f"run -d -P {exposed} --name web --net town -p 127.0.0.1:8443:443 -- sleep 60")
    said = netkit("port web").splitlines()
    assert re.fullmatch(r"443/tcp -> 127\.0\.0\.1:8443", said[0])
    assert [line.partition(" ")[0] for line in said[1:]] == ["80/tcp", "7000/udp", "7001/udp"]
    for line in said[1:]:
        assert 32768 <= int(line.rpartition(":")[2]) <= 60999
    assert netkit("port web 80") == netkit("port web 80/tcp") == f"{said[1].split(' -> ')[1]}\n"
    assert netkit("port web 443") == "127.0.0.1:8443\n"
    for unpublished in ("81", "80/udp", "7000"):
        said_no = netkit(f"port web {unpublished}", code=1)
        assert said_no.startswith(f"Error: No public port '{unpublished}' published for web\n")
    assert said[1].split(" -> ")[1] + "->80/tcp" in netkit("ps --format '{{.Ports}}'")
    with town.host.serve("/run/netns/web", "tcp", 80):
        assert town.host.ask(town.lan, OURS, int(said[1].rpartition(":")[2])) == THEIRS
    netkit("rm -f web")


@on_nftables
def test_d10_run_refuses_a_taken_port_with_125_and_leaves_nothing(town: Town) -> None:
    town.publish("web", "8080:80")
    before = snapshot()
    said = netkit("run --name thief --net town -p 8081:81 -p 8080:80 -- true", code=125)
    assert said.startswith(
        "Error: Bind for 0.0.0.0:8080 failed: port is already allocated (by container 'web')\n"
    )
    said = netkit("run --net town -p 9000:81 -p 9000:80 -- true", code=125)
    assert "Bind for 0.0.0.0:9000 failed: port is already allocated" in said
    assert snapshot() == before
    assert netkit("ps -a --format '{{.Names}}'").split() == ["web"]
    _, ports = town.publish("heir", "8081:81")
    assert ports == ["0.0.0.0:8081->81/tcp"]


def test_d12_a_network_may_bind_its_ports_to_one_address(town: Town) -> None:
    """Where none is named; `0.0.0.0` is named."""
    netkit(f"network create --host-ip {SECOND} --subnet 172.26.0.0/24 bound")
    web = join(town.engine, "bound", "web", "8080:80", "127.0.0.1:8081:80")
    with town.host.serve(web, "tcp", 80):
        assert town.host.ask(town.lan, SECOND, 8080) == THEIRS
        assert town.host.ask(town.lan, OURS, 8080) is None
        assert town.host.ask(None, "127.0.0.1", 8081)
    assert netkit("port web 80").split() == [f"{SECOND}:8080", "127.0.0.1:8081"]


@on_nftables
def test_an_address_the_host_does_not_have_is_refused(town: Town) -> None:
    before = snapshot()
    with pytest.raises(InvalidSpec, match=r"no interface of this host has the address 10\.7\.7\.7"):
        town.publish("web", "10.7.7.7:8080:80")
    assert snapshot() == before


# -- the short way round


@pytest.mark.parametrize("call_iptables", [0, 1])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_d14_d16_a_published_port_is_reached_from_behind_it(
    town: Town, call_iptables: int, protocol: str
) -> None:
    """By its own container, a sibling and one of another network, at each address of the host."""
    key = "net.bridge.bridge-nf-call-iptables"
    if run(f"sysctl -qw {key}={call_iptables} && sysctl -n {key}", check=False) == "":
        pytest.skip("this kernel has no br_netfilter")
    town.engine.create_network(NetworkSpec("other", subnets=(IPv4Network("172.26.0.0/24"),)))
    web, _ = town.publish("web", f"8080:80/{protocol}", f"9000-9009:9000-9009/{protocol}")
    sibling, _ = town.publish("sibling")
    stranger = join(town.engine, "other", "stranger")
    # one's own network must see the host's address, or the answer gets lost
    known = ((web, GATEWAY), (sibling, GATEWAY), (stranger, "172.26.0.2"))
    for port, inside in ((8080, 80), (9005, 9005)):
        with town.host.serve(web, protocol, inside):
            for address in (OURS, SECOND, GATEWAY):
                for place, known_as in known:
                    assert town.host.ask(place, address, port, protocol) == known_as
    with town.host.serve(web, protocol, 80):
        assert town.host.ask(sibling, FIRST, 80, protocol) == "172.25.0.3"


# -- what conntrack remembers


@contextmanager
def one_client(where: str, address: str, port: int) -> Iterator[socket.socket]:
    """A client that keeps its port, so all it sends is one flow to conntrack."""
    with at(where, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        sock.bind(("", 5000))
        sock.connect((address, port))
        yield sock


def answered(client: socket.socket, patience_s: float = BRIEF_S) -> bool:
    client.settimeout(patience_s)
    try:
        client.send(b"?")
        return bool(client.recv(64))
    except OSError:
        return False


@pytest.mark.parametrize("published", ["5353:53/udp", f"{OURS}:5353:53/udp", "5353-5354:53-54/udp"])
def test_d18_a_flow_older_than_the_port_reaches_it(town: Town, published: str) -> None:
    with one_client(town.lan, OURS, 5353) as client:
        assert not answered(client)
        dns, _ = town.publish("dns", published)
        with town.host.serve(dns, "udp", 53):
            assert until(lambda: answered(client))


@on_nftables
def test_d18_without_forgetting_it_would_not(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "forget_flows", lambda *_: None)
    with one_client(town.lan, OURS, 5353) as client:
        assert not answered(client)
        dns, _ = town.publish("dns", "5353:53/udp")
        with town.host.serve(dns, "udp", 53):
            assert not answered(client)
            assert town.host.ask(town.lan, OURS, 5353, "udp")  # a new flow does


def test_d18_a_flow_follows_the_port_to_its_new_owner(town: Town) -> None:
    """And does not go on to whoever has the address of the old one now."""
    with one_client(town.lan, OURS, 5353) as client:
        old, _ = town.publish("old", "5353:53/udp")
        with town.host.serve(old, "udp", 53):
            assert until(lambda: answered(client))
        town.engine.disconnect("town", "old")
        heir, _ = town.publish("heir")
        with town.host.serve(heir, "udp", 53) as seen:
            assert not answered(client)
            new, _ = town.publish("new", "5353:53/udp")
            with town.host.serve(new, "udp", 53) as found:
                assert until(lambda: answered(client))
        assert (seen, set(found)) == ([], {THEIRS})


def test_d18_flows_of_other_ports_and_hosts_are_remembered(town: Town) -> None:
    """An answer that is on its way to somebody else's client still finds it."""
    wan = town.host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    town.publish("keep", "5354:53/udp")
    with town.host.serve(wan, "udp", 5353), one_client(town.lan, "10.8.0.2", 5353) as client:
        assert answered(client, PATIENCE_S)
        flow = "conntrack -L -p udp --dport 5353 --dst 10.8.0.2 2>/dev/null"
        assert "10.8.0.2" in run(flow)
        town.publish("dns", "5353:53/udp")
        assert "10.8.0.2" in run(flow)
        town.engine.disconnect("town", "dns")
        assert "10.8.0.2" in run(flow)


# -- what leaves


@on_nftables
def test_d21_multicast_leaves_with_its_senders_address(town: Town) -> None:
    """Its receivers would answer, or subscribe to, the host instead."""
    place, _ = town.publish("source")
    bridge = town.engine.network("town").bridge
    try:
        routes = _multicast_route(bridge, "lan0", FIRST, "239.1.2.3")
    except OSError as error:
        pytest.skip(f"this kernel has no multicast routing ({error})")

    def heard() -> set[str]:
        to_group: frames.Test = lambda frame: frame[30:34] == bytes((239, 1, 2, 3))  # noqa: E731
        with frames.hear(town.lan, "eth0", to_group, 1) as found:
            at(place, lambda: _tell("239.1.2.3"))
        return {socket.inet_ntoa(frame[26:30]) for frame in found}

    with routes:
        assert heard() == {FIRST}
        # even where somebody masquerades by address, as Docker does
        run("nft add rule inet netkit postrouting ip saddr 172.25.0.0/24 snat to 10.9.0.1")
        assert heard() == {FIRST}
        listing = run("nft -a list chain inet netkit postrouting")
        handle = re.search(r"224\.0\.0\.0/4 accept # handle (\d+)", listing)
        assert handle
        run(
            f"nft delete rule inet netkit postrouting handle {handle[1]}",
            "conntrack -F 2>/dev/null",
        )
        assert heard() == {OURS}


def _tell(group: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
        sock.sendto(b"?", (group, 5000))


def _multicast_route(inward: str, outward: str, source: str, group: str) -> socket.socket:
    """Be the host's multicast router for one group, for as long as the socket is open."""
    init, add_vif, add_route, by_index = 200, 202, 204, 8  # linux/mroute.h
    sock = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
    sock.setsockopt(socket.IPPROTO_IP, init, 1)
    for n, name in enumerate((inward, outward)):
        index = socket.if_nametoindex(name)
        vif = struct.pack("=HBBIi4s", n, by_index, 1, 0, index, bytes(4))
        sock.setsockopt(socket.IPPROTO_IP, add_vif, vif)
    ends = socket.inet_aton(source), socket.inet_aton(group)
    ttls = bytes([0, 1]).ljust(32, b"\0")
    route = struct.pack("=4s4sH32s2xIIIi", *ends, 0, ttls, 0, 0, 0, 0)
    sock.setsockopt(socket.IPPROTO_IP, add_route, route)
    return sock


# -- random ports


@on_nftables
def test_d22_random_ports_avoid_what_is_reserved_or_taken(town: Town) -> None:
    """By the kernel's own list, by a process of the host, by another container."""
    run(
        "sysctl -qw net.ipv4.ip_local_port_range='40000 40007'",
        "sysctl -qw net.ipv4.ip_local_reserved_ports=40000,40002-40003",
    )
    town.publish("fixed", "40005:80")
    with town.host.serve(None, "tcp", 40004):
        taken = [town.publish(f"c{n}", "80")[1][0] for n in range(3)]
        assert [port.split("->")[0][-5:] for port in taken] == ["40001", "40006", "40007"]
        with pytest.raises(Exhausted, match="no free tcp port between 40000 and 40007"):
            town.publish("none", "80")
    assert town.publish("last", "80")[1] == ["0.0.0.0:40004->80/tcp"]
    assert town.publish("datagrams", "80/udp")[1] == ["0.0.0.0:40001->80/udp"]


@on_nftables
def test_a_random_port_given_back_is_not_the_next_one_given(town: Town) -> None:
    """A client that has not noticed yet would talk to somebody else."""
    first = town.publish("first", "80")[1]
    town.engine.disconnect("town", "first")
    assert town.publish("second", "80")[1] != first


# -- ranges


@on_nftables
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("8000-8002:80-82", ["0.0.0.0:8000-8002->80-82/tcp"]),
        ("127.0.0.1:8000-8002:80-82/udp", ["127.0.0.1:8000-8002->80-82/udp"]),
        ("8000-8002:80", ["0.0.0.0:8000->80/tcp"]),
        (f"{SECOND}::80-81", [rf"{SECOND}:\d{{5}}->80/tcp", rf"{SECOND}:\d{{5}}->81/tcp"]),
        ("80-81", [r"0.0.0.0:\d{5}->80/tcp", r"0.0.0.0:\d{5}->81/tcp"]),
        ("8000-8000:80-80", ["0.0.0.0:8000->80/tcp"]),
    ],
)
def test_ranges_in_dockers_forms(town: Town, text: str, shown: list[str]) -> None:
    _, ports = town.publish("web", text)
    assert len(ports) == len(shown)
    assert all(re.fullmatch(want, port) for want, port in zip(shown, ports, strict=True))


@on_nftables
@pytest.mark.parametrize("text", ["8000-8002:80-81", "8002-8000:80-82", "0-1:80-81", "8000-:80"])
def test_a_range_that_makes_no_sense_is_refused(town: Town, text: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid published port"):
        town.publish("web", text)


@on_nftables
def test_a_range_for_one_port_gives_the_first_that_is_free(town: Town) -> None:
    with town.host.serve(None, "tcp", 8001):
        given = [town.publish(f"c{n}", "8000-8003:80")[1] for n in range(3)]
        assert [ports[0] for ports in given] == [f"0.0.0.0:{p}->80/tcp" for p in (8000, 8002, 8003)]
        with pytest.raises(Exhausted, match="all ports of 8000-8003/tcp are taken"):
            town.publish("none", "8000-8003:80")
    assert town.publish("late", "8000-8003:80")[1] == ["0.0.0.0:8001->80/tcp"]


@pytest.mark.parametrize("address", ["", f"{SECOND}:"])
def test_d24_a_range_is_one_element_and_each_port_of_it_works(town: Town, address: str) -> None:
    """First, middle and last lead to their like; the ones beside them nowhere."""
    empty = rules().count("\n")
    web, ports = town.publish("web", f"{address}20000-29999:20000-29999")
    assert ports == [f"{address or '0.0.0.0:'}20000-29999->20000-29999/tcp"]
    assert rules().count("\n") - empty < 10
    assert len(re.findall("20000[-:]29999", rules())) == 1
    for port in (20000, 24567, 29999):
        with town.host.serve(web, "tcp", port):
            assert town.host.ask(town.lan, SECOND, port) == THEIRS
            assert town.host.ask(None, SECOND, port)
    for port in (19999, 30000):
        with town.host.serve(web, "tcp", port):
            assert town.host.ask(town.lan, SECOND, port) is None
    if address:
        with town.host.serve(web, "tcp", 24567):
            assert town.host.ask(town.lan, OURS, 24567) is None
    town.engine.disconnect("town", "web")
    assert rules().count("\n") <= empty


def test_a_shifted_range_leads_each_port_to_its_own(town: Town) -> None:
    web, _ = town.publish("web", "8000-8009:80-89")
    for n in (0, 5, 9):
        with town.host.serve(web, "tcp", 80 + n) as seen:
            assert town.host.ask(town.lan, OURS, 8000 + n) == THEIRS
        assert seen == [THEIRS]
    with town.host.serve(web, "tcp", 85):
        assert town.host.ask(town.lan, OURS, 8004) is None


def test_ranges_side_by_side_do_not_touch(town: Town) -> None:
    """Of one address and of all, of both protocols, next to each other and to single ports."""
    texts = (
        "8000-8009:8000-8009",
        f"{SECOND}:8010-8019:8010-8019",
        "8020:8020",
        "8000-8009:8000-8009/udp",
    )
    places = [town.publish(f"c{n}", text)[0] for n, text in enumerate(texts)]
    asked = [(OURS, 8009, "tcp"), (SECOND, 8010, "tcp"), (OURS, 8020, "tcp"), (OURS, 8009, "udp")]
    for place, (address, port, protocol) in zip(places, asked, strict=True):
        with town.host.serve(place, protocol, port) as seen:
            assert town.host.ask(town.lan, address, port, protocol) == THEIRS
        assert seen == [THEIRS]
    town.engine.disconnect("town", "c1")
    with town.host.serve(places[0], "tcp", 8009):
        assert town.host.ask(town.lan, OURS, 8009) == THEIRS
    with pytest.raises(Conflict):
        town.publish("thief", "8005-8014:8005-8014")
