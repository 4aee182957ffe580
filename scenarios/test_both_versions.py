"""Rows of the feature table that are shown for one IP version, or on one back end, elsewhere.

Rows A1, A4-A6, A10, A12, A15, A16, A20, A22, C7, C13, D12, D21, E7, E9, F2 and F6, in both.
docs/features.md has all the others.
"""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import Exhausted
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.firewalls import each, in_nftables, on_nftables
from scenarios.lab import BRIEF_S, Host, at, join, netkit, run, snapshot, until

pytestmark = each


class V(NamedTuple):
    """The addresses of a town in one IP version."""

    number: int
    net: str  # what those of its network begin with, and how long the network is
    bits: int
    ours: str  # the host's on the LAN, another, and the neighbour's
    second: str
    theirs: str
    any: str
    group: str  # of multicast, and all groups

    def at(self, number: int) -> str:
        return f"{self.net}{number:x}" if self.number == 6 else f"{self.net}{number}"

    @property
    def subnet(self) -> IPv4Network | IPv6Network:
        kind = IPv6Network if self.number == 6 else IPv4Network
        return kind(f"{self.at(0)}/{self.bits}")

    @property
    def all_groups(self) -> str:
        return "ff00::/8" if self.number == 6 else "224.0.0.0/4"

    @property
    def long(self) -> int:
        return 128 if self.number == 6 else 32


FOUR = V(4, "172.25.0.", 24, "10.9.0.1", "10.9.0.11", "10.9.0.2", "", "239.1.2.3")
SIX = V(6, "fd00:25::", 64, "2001:db8:9::1", "2001:db8:9::11", "2001:db8:9::2", "::", "ff1e::123")


class Town(NamedTuple):
    """A host with a neighbour on a LAN of one IP version, and no network yet."""

    host: Host
    engine: Engine
    lan: str
    v: V

    def network(self, name: str = "town", **wanted: object) -> None:
        subnets = (self.v.subnet,)
        six = self.v.number == 6
        spec = NetworkSpec(name, subnets=subnets, ipv6=six, ipv4=not six, **wanted)  # type: ignore[arg-type]
        self.engine.create_network(spec)


@pytest.fixture(params=[FOUR, SIX], ids=["IPv4", "IPv6"])
def v(request: pytest.FixtureRequest) -> V:
    found: V = request.param
    return found


@pytest.fixture
def town(host: Host, v: V) -> Town:
    length = 64 if v.number == 6 else 24
    lan = host.neighbour("lan", f"{v.ours}/{length}", f"{v.theirs}/{length}")
    later = " nodad preferred_lft 0" if v.number == 6 else ""
    run(f"ip addr add {v.second}/{length} dev lan0{later}")
    return Town(host, host.engine(), lan, v)


# -- addresses


@on_nftables
def test_a1_a4_a5_a6_a12_addresses_are_as_the_network_says(town: Town) -> None:
    """The gateway named, two of the range, none that is reserved; any other only if asked for."""
    v, only = town.v, "--no-ipv4" if town.v is SIX else ""
    said = netkit(f"network create {only} --subnet {v.subnet} --gateway {v.theirs} town", code=1)
    assert f"{v.theirs} is not in {v.subnet}" in said
    pool = f"--ip-range {v.at(8)}/{v.long - 2} --aux-address printer={v.at(10)}"
    netkit(f"network create {only} --subnet {v.subnet} --gateway {v.at(9)} {pool} town")
    first, _ = (join(town.engine, "town", name) for name in ("first", "second"))
    own = [str(ip.ip) for ep in town.engine.endpoints() for ip in ep.addresses]
    assert own == [v.at(8), v.at(11)]
    assert f"default via {v.at(9)} dev eth0" in run(f"ip -{v.number} route", place=first)
    for address in (v.at(9), v.at(11)):
        assert town.host.ping(first, address)
    with pytest.raises(Exhausted):
        town.engine.connect("town", name="third")
    third = join(town.engine, "town", "third", addresses=(ip_address(v.at(0x77)),))
    assert town.host.ping(third, v.at(8))
    for taken, why in ((v.at(9), "gateway"), (v.at(10), "printer"), (v.at(8), "leased to first")):
        assert why in netkit(
            f"connect --net town --ip{v.number if v is SIX else ''} {taken}", code=1
        )


@on_nftables
def test_a1_the_first_three_of_a_network_are_the_gateway_and_two_containers(town: Town) -> None:
    town.network()
    places = [join(town.engine, "town", name) for name in ("a", "b")]
    assert [str(ep.addresses[0].ip) for ep in town.engine.endpoints()] == [
        town.v.at(2),
        town.v.at(3),
    ]
    assert town.host.ping(places[0], town.v.at(3))
    assert town.host.ping(places[1], town.v.at(1))


@on_nftables
def test_a15_inspect_counts_what_is_in_use_and_what_is_left(town: Town) -> None:
    """Of eight: IPv4 has a network's address and a broadcast one, IPv6 an anycast one."""
    v, only = town.v, "--no-ipv4" if town.v is SIX else ""
    subnet = str(ip_network(f"{v.at(0)}/{v.long - 3}"))
    netkit(f"network create {only} --subnet {subnet} town")
    join(town.engine, "town", "a")
    found = json.loads(netkit("network inspect -f '{{json .Status.IPAM.Subnets}}' town"))
    used = {4: 4, 6: 3}[v.number]
    assert found == {subnet: {"IPsInUse": used, "DynamicIPsAvailable": 8 - used}}


@on_nftables
@pytest.mark.parametrize(
    ("option", "then"), [("round-robin", [2, 3, 4, 5]), ("sticky", [2, 3, 2, 3])]
)
def test_a16_a20_which_address_is_next_is_as_the_network_says(
    town: Town, option: str, then: list[int]
) -> None:
    """In turn, or each name the one it had, as it comes back before all have been given out."""
    v, only = town.v, "--no-ipv4" if town.v is SIX else ""
    netkit(f"network create {only} --subnet {v.subnet} --ipam-opt {option}=true town")
    had = []
    for name in ("a", "b") * 2:
        had.append(town.engine.connect("town", name=name).addresses[0].ip)
        if len(had) == 2:
            town.engine.disconnect("town", "a")
            town.engine.disconnect("town", "b")
    assert had == [ip_address(v.at(number)) for number in then]


@on_nftables
def test_a10_a22_a_static_address_is_its_owners_until_that_is_removed(town: Town) -> None:
    """Nobody else gets it while its owner is stopped, by asking or by chance; then anybody may."""
    v, option = town.v, "--ip6" if town.v is SIX else "--ip"
    town.network()
    netkit(f"run --name owner --net town {option} {v.at(2)} -- true")
    said = netkit(f"connect --net town --name thief {option} {v.at(2)}", code=1)
    assert "owner" in said
    assert str(town.engine.connect("town", name="other").addresses[0].ip) == v.at(3)
    netkit("rm owner")
    assert str(town.engine.connect("town", name="heir").addresses[0].ip) == v.at(2)


@on_nftables
def test_f2_f6_name_servers_and_hosts_may_be_of_either_version(town: Town) -> None:
    v = town.v
    town.network()
    options = f"--dns {v.theirs} --add-host db:{v.at(0x53)} --add-host up:host-gateway"
    read = "cat /etc/resolv.conf /etc/hosts"
    lines = netkit(f"run --rm --net town -h web {options} -- {read}").splitlines()
    assert f"nameserver {v.theirs}" in lines
    assert {f"{v.at(0x53)}\tdb", f"{v.at(1)}\tup", f"{v.at(2)}\tweb"} <= {*lines}


# -- endings


def test_c7_what_a_dead_process_had_is_there_for_the_living(town: Town) -> None:
    """Its address, its port and its rules, in time for whoever needs them."""
    v = town.v
    town.network(ip_ranges=(type(v.subnet)(f"{v.at(8)}/{v.long}"),))
    before = snapshot()
    with subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ports = Request(ports=PortSpec.parse("8080:80"))
        ep = town.engine.connect("town", f"pid:{child.pid}", ports)
        assert str(ep.addresses[0].ip) == v.at(8)
        with pytest.raises(Exhausted):
            town.engine.connect("town", name="early")
        child.kill()
    assert until(lambda: ep.host_ifname not in run("ip -br link"))
    heir = join(town.engine, "town", "heir", "8080:80")
    with town.host.serve(heir, "tcp", 80, v.any):
        assert town.host.ask(heir, v.at(8), 80) == v.at(8)
        assert town.host.ask(town.lan, v.ours, 8080) == v.theirs
    town.engine.disconnect("town", "heir")
    assert snapshot() == before


def test_c13_an_interface_without_an_address_is_its_users(town: Town) -> None:
    """What it gives itself works, and nothing was leased for it."""
    v = town.v
    town.network()
    netkit("connect --net town --ip 0/0 --name bare")
    (ep,) = town.engine.endpoints()
    assert (ep.addresses, ep.gateways) == ((), ())
    place = "/run/netns/bare"
    assert run(f"ip -{v.number} route show default", place=place) == ""
    nodad = " nodad" if v is SIX else ""
    run(f"ip addr add {v.at(0x77)}/{v.bits} dev eth0{nodad}", place=place)
    assert until(lambda: town.host.ping(place, v.at(1), patience_s=BRIEF_S))
    assert str(town.engine.connect("town", name="next").addresses[0].ip) == v.at(2)


# -- publishing, and what leaves


def test_d12_a_network_may_bind_its_ports_to_one_address(town: Town) -> None:
    v = town.v
    town.network(host_binding=ip_address(v.second))
    web = join(town.engine, "town", "web", "8080:80")
    with town.host.serve(web, "tcp", 80, v.any):
        assert town.host.ask(town.lan, v.second, 8080) == v.theirs
        assert town.host.ask(town.lan, v.ours, 8080, patience_s=BRIEF_S) is None


def test_d21_multicast_leaves_with_its_senders_address(town: Town) -> None:
    """Its receivers would answer, or subscribe to, the host instead."""
    v = town.v
    town.network()
    place = join(town.engine, "town", "source")
    source = v.at(2)
    run(f"ip -{v.number} route add {v.all_groups} dev eth0 table local || true", place=place)
    at_source, at_group = (8 + 14, 24 + 14) if v is SIX else (12 + 14, 16 + 14)
    size = v.long // 8
    group = ip_address(v.group).packed

    def heard() -> set[str]:
        """By which address it is known outside."""

        def wanted(frame: bytes) -> bool:
            return frame[at_group : at_group + size] == group

        with frames.hear(town.lan, "eth0", wanted, awaited=1) as found:
            at(place, lambda: _tell(v))
        return {str(ip_address(frame[at_source : at_source + size])) for frame in found}

    with _multicast_route(v, town.engine.network("town").bridge, "lan0", source):
        assert heard() == {source}
        _translate_all(v)  # as somebody does who masquerades by address, Docker for one
        assert heard() == {source}
        _forget_multicast(v)
        assert heard() == {v.ours}


def _tell(v: V) -> None:
    family, level, hops = (
        (socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS)
        if v is SIX
        else (socket.AF_INET, socket.IPPROTO_IP, socket.IP_MULTICAST_TTL)
    )
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(level, hops, 8)
        if v is SIX:
            index = socket.if_nametoindex("eth0")
            sock.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
        sock.bind((v.at(2), 0))
        sock.sendto(b"?", (v.group, 5000))


@contextmanager
def _multicast_route(v: V, inward: str, outward: str, source: str) -> Iterator[None]:
    """Be the host's multicast router for one group."""
    init, add_interface, add_route, by_index = 200, 202, 204, 8  # linux/mroute.h, mroute6.h
    ends = [ip_address(each).packed for each in (source, v.group)]
    if v is SIX:
        family, protocol, level = socket.AF_INET6, socket.IPPROTO_ICMPV6, socket.IPPROTO_IPV6
        interfaces = [
            struct.pack("=HBBH2xI", n, 0, 1, socket.if_nametoindex(name), 0)
            for n, name in enumerate((inward, outward))
        ]
        names = [struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, end, 0) for end in ends]
        route = names[0] + names[1] + struct.pack("=H2x8I", 0, 1 << 1, *[0] * 7)
    else:
        family, protocol, level = socket.AF_INET, socket.IPPROTO_IGMP, socket.IPPROTO_IP
        interfaces = [
            struct.pack("=HBBIi4s", n, by_index, 1, 0, socket.if_nametoindex(name), bytes(4))
            for n, name in enumerate((inward, outward))
        ]
        ttls = bytes([0, 1]).ljust(32, b"\0")
        route = struct.pack("=4s4sH32s2xIIIi", *ends, 0, ttls, 0, 0, 0, 0)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        try:
            sock.setsockopt(level, init, 1)
        except OSError as error:
            option = "CONFIG_IPV6_MROUTE" if v is SIX else "CONFIG_IP_MROUTE"
            pytest.skip(f"this kernel has no multicast routing ({option}): {error}")
        for interface in interfaces:
            sock.setsockopt(level, add_interface, interface)
        sock.setsockopt(level, add_route, route)
        yield


def _translate_all(v: V) -> None:
    """Give whatever leaves the network the host's address, after all rules of netkit's."""
    if in_nftables():
        family = "ip6" if v is SIX else "ip"
        rule = f"{family} saddr {v.subnet} snat {family} to {v.ours}"
        run(f"nft add rule inet netkit postrouting {rule}")
    else:
        rule = f"-s {v.subnet} -j SNAT --to-source {v.ours}"
        run(f"{_program(v)} -w -t nat -A NETKIT-POST {rule}")


def _forget_multicast(v: V) -> None:
    """Take away the rule that lets it pass as it is, and what the kernel remembers of it."""
    if in_nftables():
        listed = run("nft -a list chain inet netkit postrouting")
        handle = re.search(rf"{re.escape(v.all_groups)} accept # handle (\d+)", listed)
        assert handle
        run(f"nft delete rule inet netkit postrouting handle {handle[1]}")
    else:
        _drop(v, "nat", "NETKIT-POST", "RETURN")
    run(f"conntrack -F -f ipv{v.number} 2>/dev/null || true")


def _drop(v: V, table: str, chain: str, word: str) -> None:
    """Take away the rules of a chain that have *word* in them."""
    call = f"{_program(v)} -w -t {table}"
    run(f"{call} -S {chain} | sed -n '/^-A.*{word}/s/-A/-D/p' | xargs -rL1 {call}")


def _program(v: V) -> str:
    return "ip6tables-legacy" if v is SIX else "iptables-legacy"


# -- the firewall's chains


def test_e7_the_admins_chain_is_asked_first(town: Town) -> None:
    """What it drops is dropped though it is published; what it accepts, though it is not."""
    v = town.v
    town.network()
    web = join(town.engine, "town", "web", "8080:80")

    def admin(port: int, verdict: str) -> None:
        if in_nftables():
            run(f"nft insert rule inet netkit admin tcp dport {port} {verdict}")
        else:
            verdict = verdict.upper()
            run(f"{_program(v)} -w -I NETKIT-ADMIN -p tcp --dport {port} -j {verdict}")

    ask = town.host.ask
    with town.host.serve(web, "tcp", 80, v.any), town.host.serve(web, "tcp", 81, v.any):
        assert ask(town.lan, v.ours, 8080) == v.theirs
        assert ask(town.lan, v.at(2), 81, patience_s=BRIEF_S) is None
        admin(80, "drop")
        admin(81, "accept")
        assert ask(town.lan, v.ours, 8080, patience_s=BRIEF_S) is None
        assert ask(town.lan, v.at(2), 81) == v.theirs
    assert town.engine.check() == []


def test_e9_answers_pass_and_what_belongs_to_no_connection_does_not(town: Town) -> None:
    """A segment no connection can have would leave untranslated, with the container's address."""
    v = town.v
    town.network()
    bob = join(town.engine, "town", "bob")
    (ep,) = town.engine.endpoints()
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.host.ask(bob, v.theirs, 80) in (v.ours, v.second)
    syn, fin = 0x02, 0x01
    at_port = 14 + (40 if v is SIX else 20) + 2
    macs = ep.mac, town.engine.network("town").mac

    def leaves(flags: int, port: int, awaited: int = 0) -> int:
        def wanted(frame: bytes) -> bool:
            return frame[at_port : at_port + 2] == b"\0\x50"

        segment = frames.tcp(macs, (v.at(2), v.theirs), (port, 80), flags)
        with frames.hear(town.lan, "eth0", wanted, awaited) as heard:
            frames.send(bob, "eth0", segment)
        return len(heard)

    assert leaves(syn, 4001, 1) == 1
    assert leaves(syn | fin, 4002) == 0
    if in_nftables():
        listed = run("nft -a list chain inet netkit forward")
        handle = re.search(r"ct state invalid drop # handle (\d+)", listed)
        assert handle
        run(f"nft delete rule inet netkit forward handle {handle[1]}")
    else:
        _drop(v, "filter", "NETKIT-OURS", "INVALID")
    assert leaves(syn | fin, 4003, 1) == 1
