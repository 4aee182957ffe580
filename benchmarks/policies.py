"""Whether a thousand allowances, or a long egress list, slow down those who may; and one more.

Run it: python -m benchmarks.policies
What     TCP connections from one container to another on a bridge: an open network, a closed one
         with one allowance, and one with a thousand; to a machine outside, with no list, a list of
         one destination and one of a thousand; and one allowance, destination, address learnt more
Units    connections a second; milliseconds
Bounds   1 000 connections a round, 9 rounds; some 40 s
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from statistics import median
from time import perf_counter

from benchmarks.contest import Figures, Target, contest, show, table
from benchmarks.ports import server
from netkit.firewall import Confine, Egress, Learnt, Meet, Reach, Rule
from netkit.firewall.nftables import Nftables
from netkit.model import EndpointRecord
from netkit.specs import NetworkSpec
from scenarios.lab import Host, at

MANY = 1_000
CONNECTIONS = 1_000
ROUNDS = 9
_ABORT = struct.pack("ii", 1, 0)  # linger 0: close by RST, so that no port waits in TIME_WAIT
_RATE = "connections a second"


def allowed(number: int | None) -> Iterator[Figures]:
    """Two containers on a closed network with *number* allowances, the last one theirs; None: on
    an open network.
    """
    with Host() as host, _two(host, icc=number is None) as (web, db):
        firewall = Nftables()
        for n in range((number or 1) - 1):
            firewall.add(
                [Meet(f"nobody{n}", f"other{n}"), Reach(f"nobody{n}", f"other{n}", 80, "tcp")]
            )
        if number:
            ends = sorted((web.host_ifname, db.host_ifname))
            reach = Reach(web.host_ifname, db.host_ifname, 80, "tcp")
            firewall.add([Meet(*ends), reach])
        more: Sequence[Rule] = [Meet("a", "b"), Reach("a", "b", 80, "tcp")]
        yield {}
        while True:
            yield {**_rate(web, str(db.addresses[0].ip)), **_timed(firewall, more, "allowance")}


def let_out(number: int | None) -> Iterator[Figures]:
    """A container and a machine outside, in a list of *number* destinations; None: no list."""
    with Host() as host, _two(host, icc=True) as (web, _):
        lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
        own = web.addresses[0].ip
        firewall = Nftables()
        if number is not None:
            nets = [f"198.{18 + n // 256}.{n % 256}.0/24" for n in range(number - 1)]
            others = [Egress(IPv4Network(net), 443, "tcp", address=own) for net in nets]
            there = Egress(IPv4Network("10.9.0.0/24"), 80, "tcp", address=own)
            firewall.add([Confine(address=own), *others, there])
        more = [Egress(IPv4Network("192.0.2.0/24"), 80, "tcp", address=own)]
        learnt = [Learnt(own, IPv4Address("192.0.2.1"), 300, 443, "tcp")]
        yield {}
        with server(lan):
            while True:
                yield {
                    **_rate(web, "10.9.0.2"),
                    **_timed(firewall, more, "destination"),
                    **_timed(firewall, learnt, "address learnt"),
                }


@contextmanager
def _two(host: Host, *, icc: bool) -> Iterator[tuple[EndpointRecord, EndpointRecord]]:
    """Two containers on a network; the second serves port 80."""
    engine = host.engine()
    spec = NetworkSpec("bench", subnets=(IPv4Network("10.88.0.0/16"),), icc=icc)
    engine.create_network(spec)
    web, db = (engine.connect("bench", name=name) for name in ("web", "db"))
    assert db.netns is not None
    with server(db.netns):
        yield web, db


def _rate(client: EndpointRecord, address: str) -> Figures:
    """New connections a second; each is accepted, else the next ones would stall."""

    def connect_all() -> float:
        begin = perf_counter()
        for _ in range(CONNECTIONS):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
                sock.connect((address, 80))
        return CONNECTIONS / (perf_counter() - begin)

    return {_RATE: at(client.netns, connect_all)}


def _timed(firewall: Nftables, rules: Sequence[Rule], what: str) -> Figures:
    begin = perf_counter()
    firewall.add(rules)
    done = perf_counter()
    firewall.delete(rules)
    return {f"one more {what}, ms": (done - begin) * 1e3}


def measure() -> list[Target]:
    none, one, many = "open network", "1 allowance", f"{MANY:,} allowances"
    no_list, short, long = "no egress list", "1 destination", f"{MANY:,} destinations"
    figures = contest(
        {
            none: partial(allowed, None),
            one: partial(allowed, 1),
            many: partial(allowed, MANY),
            no_list: partial(let_out, None),
            short: partial(let_out, 1),
            long: partial(let_out, MANY),
        },
        ROUNDS,
    )
    for name, series in figures.items():
        show(name, series, "")

    def rate(name: str) -> float:
        return median(figures[name][_RATE])

    def ratio(text: str, name: str, other: str) -> Target:
        return Target(f"policies: {text}", rate(name) / rate(other), "", 0.9, is_floor=True)

    def cost(name: str, what: str) -> Target:
        found = median(figures[name][f"one more {what}, ms"])
        return Target(f"policies: one more {what}", found, " ms", 1.0)

    return [
        ratio(f"connections/s with {MANY:,} allowances to with none", many, none),
        ratio(f"connections/s with {MANY:,} destinations to with no list", long, no_list),
        cost(many, "allowance"),
        cost(long, "destination"),
        cost(long, "address learnt"),
    ]


if __name__ == "__main__":
    print(table(measure()))
