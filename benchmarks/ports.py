"""Whether ten thousand published ports are as good as one, and how long the last of them takes.

Run it: python -m benchmarks.ports
What     TCP connections from another machine through published ports to servers in containers,
         by each port in turn; and one port more, claimed and put into the firewall
Units    connections a second; milliseconds
Bounds   2 000 connections a round, 9 rounds; some 30 s
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from ipaddress import IPv4Network
from itertools import count
from statistics import median
from time import perf_counter

from benchmarks.contest import Figures, Target, contest, show, table
from netkit.addresses import Address
from netkit.firewall import Publish
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel
from netkit.ports import Ports
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from netkit.store import SqliteStore
from scenarios.lab import Host, at

MANY = 10_000
EACH = 1_000  # for one container; an ordinary user's socket buffer does not hold many more
FIRST = 10_000
CONNECTIONS = 2_000
ROUNDS = 9
STRIDE = 7_919  # prime, so every port has its turn, and the next is nowhere near the last
_ABORT = struct.pack("ii", 1, 0)  # linger 0: close by RST, so that no port waits in TIME_WAIT


def published(number: int) -> Iterator[Figures]:
    """Containers with *number* ports of the host, a client on a neighbour, and one port more."""
    with Host() as host:
        lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
        engine = host.engine()
        engine.create_network(NetworkSpec("bench", subnets=(IPv4Network("10.88.0.0/16"),)))
        turns = count()
        with ExitStack() as servers:
            for first in range(FIRST, FIRST + number, EACH):
                texts = (f"{port}:80" for port in range(first, min(first + EACH, FIRST + number)))
                ports = tuple(spec for text in texts for spec in PortSpec.parse(text))
                web = engine.connect("bench", name=f"web{first}", request=Request(ports=ports))
                assert web.netns is not None
                servers.enter_context(server(web.netns))
            assert web.addresses
            extra = _Extra(engine.store, web.addresses[0].ip, FIRST + number)
            yield {}
            while True:
                rate = at(lan, lambda: _connect_all("10.9.0.1", number, turns))
                yield {"connections a second": rate, **extra.timed()}


def _connect_all(address: str, number: int, turns: Iterator[int]) -> float:
    """New connections a second; each is accepted, else the next ones would stall."""
    begin = perf_counter()
    for _, turn in zip(range(CONNECTIONS), turns, strict=False):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
            client.connect((address, FIRST + turn * STRIDE % number))
    return CONNECTIONS / (perf_counter() - begin)


@contextmanager
def server(place: str) -> Iterator[None]:
    """Accept and close, in a process of its own: it shall not share the client's interpreter."""

    def listen() -> socket.socket:
        listener = socket.socket()
        listener.bind(("", 80))
        listener.listen(4096)
        return listener

    with at(place, listen) as listener:
        pid = os.fork()
        if pid == 0:
            try:
                while True:
                    listener.accept()[0].close()
            finally:
                os._exit(1)
        try:
            yield
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)


class _Extra:
    """One port more, again and again."""

    def __init__(self, store: SqliteStore, address: Address, port: int) -> None:
        self._store = store
        self._spec = PortSpec(None, port, port, 80)
        self._rule = Publish(None, port, address, 80, "tcp")
        self._firewall = Nftables()
        self._kernel = Kernel(self._firewall)

    def timed(self) -> Figures:
        begin = perf_counter()
        with self._store.transaction() as connection:
            Ports(connection).claim("extra", self._spec, (4,), self._kernel, str)
        claimed = perf_counter()
        self._firewall.add([self._rule])
        done = perf_counter()
        with self._store.transaction() as connection:
            Ports(connection).release("extra")
        self._firewall.delete([self._rule])
        return {
            "one more port: claim, ms": (claimed - begin) * 1e3,
            "one more port: firewall, ms": (done - claimed) * 1e3,
            "one more port: both, ms": (done - begin) * 1e3,
        }


def measure() -> list[Target]:
    one, many = "1 published port", f"{MANY:,} published ports"
    figures = contest({one: partial(published, 1), many: partial(published, MANY)}, ROUNDS)
    for name, series in figures.items():
        show(name, series, "")

    def found(name: str, what: str) -> float:
        return median(figures[name][what])

    rate = "connections a second"
    return [
        Target(
            f"ports: connections/s with {MANY:,} to with 1",
            found(many, rate) / found(one, rate),
            "",
            0.9,
            is_floor=True,
        ),
        Target("ports: the last one into the firewall", found(many, _FIREWALL), " ms", 1.0),
        Target("ports: the last one claimed and in", found(many, _BOTH), " ms", 1.0),
    ]


_FIREWALL, _BOTH = "one more port: firewall, ms", "one more port: both, ms"

if __name__ == "__main__":
    print(table(measure()))
