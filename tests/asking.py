"""Asking a name server of ours, and upstreams for it to ask.

    with serving(Known({"web": ["10.0.0.2"]})), forged("127.0.0.9", answering("10.9.9.9")):
        assert addresses(ask("web")) == ["10.0.0.2"]

Shapes   all in the namespace of the test. The server is asked at `SERVER`; those who ask have
         addresses in 127.0.0.0/8, and `ASKER` is one
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import dns.rrset

from netkit.dns.local import View
from netkit.dns.message import Address
from netkit.dns.server import Server

SERVER, ASKER, OTHER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
PATIENCE_S = 3.0

Respond = Callable[[bytes], Iterable[bytes]]


@dataclass
class Known:
    """A view in so many words."""

    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    upstreams: Sequence[str] = ()
    zones: Sequence[str] = ()
    watched: Sequence[str] = ()
    keeps_bare: bool = True
    offered: Mapping[tuple[str, str, str], Sequence[tuple[int, str]]] = field(default_factory=dict)

    def addresses(self, name: str) -> list[Address] | None:
        found = self.names.get(name)
        return None if found is None else [ip_address(each) for each in found]

    def name_of(self, address: Address) -> str | None:
        return next((name for name, of in self.names.items() if str(address) in of), None)

    def services(self, service: str, protocol: str, name: str) -> Sequence[tuple[int, str]]:
        return self.offered.get((service, protocol, name), ())

    def owns(self, name: str) -> bool:
        return any(name == zone or name.endswith(f".{zone}") for zone in self.zones)

    def is_watched(self, name: str) -> bool:
        return name in self.watched


@contextlib.contextmanager
def serving(
    views: View | Callable[[Any, str], View | None],
    fresh: Callable[[], bool] = lambda: False,
    learn: Any = None,
    *,
    attempt_s: float = 0.1,
    address: str = SERVER,
) -> Iterator[Server]:
    """A server in a thread of its own; what it raises, the test raises at its end."""
    server = Server(views if callable(views) else lambda _key, _source: views, fresh, learn)
    server.upstreams.attempt_s = attempt_s
    server.add("net", *sockets(address))
    raised: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        server.close()
    if raised:
        raise raised[0]


def sockets(address: str = SERVER) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    udp, tcp = (socket.socket(family, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    udp.bind((address, 53))
    tcp.bind((address, 53))
    tcp.listen(1024)
    return udp, tcp


def ask(
    name: str,
    kind: str = "A",
    *,
    source: str = ASKER,
    to: str = SERVER,
    stream: bool = False,
    edns: int | None = None,
    patience_s: float = PATIENCE_S,
) -> dns.message.Message:
    """What the server answers; dns.exception.Timeout where it does not. *edns*: payload size."""
    query = dns.message.make_query(name, kind)
    if edns is not None:
        query.use_edns(0, payload=edns)
    over = dns.query.tcp if stream else dns.query.udp
    return over(query, to, patience_s, source=source)


def addresses(answer: dns.message.Message) -> list[str]:
    """In the order they are in."""
    return [each.to_text() for records in answer.answer for each in records]


@contextlib.contextmanager
def forged(address: str, respond: Respond, *, stream: bool = False) -> Iterator[list[bytes]]:
    """An upstream that says what *respond* makes of a question; yields those that came."""
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    seen: list[bytes] = []
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, 53))
        if stream:
            sock.listen(16)
        target = _respond_stream if stream else _respond_datagrams
        thread = threading.Thread(target=target, args=(sock, respond, seen), daemon=True)
        thread.start()
        try:
            yield seen
        finally:
            _wake(sock, address, stream)
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def _wake(sock: socket.socket, address: str, stream: bool) -> None:
    if stream:
        sock.shutdown(socket.SHUT_RDWR)
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
        waker.sendto(b"", (address, 53))


def _respond_datagrams(sock: socket.socket, respond: Respond, seen: list[bytes]) -> None:
    while True:
        data, client = sock.recvfrom(4096)
        if not data:
            return
        seen.append(data)
        for each in respond(data):
            sock.sendto(each, client)


def _respond_stream(sock: socket.socket, respond: Respond, seen: list[bytes]) -> None:
    while True:
        try:
            client, _ = sock.accept()
        except OSError:
            return
        with client, contextlib.suppress(OSError):
            client.settimeout(PATIENCE_S)
            data = client.recv(4096)[2:]
            if data:
                seen.append(data)
            for each in respond(data):
                client.sendall(len(each).to_bytes(2, "big") + each)
            client.recv(1)  # until the other side has had enough


def answering(*texts: str, ttl: int = 60, rcode: int = 0) -> Respond:
    """Any question by these addresses."""

    def respond(data: bytes) -> list[bytes]:
        answer = dns.message.make_response(dns.message.from_wire(data))
        answer.set_rcode(dns.rcode.Rcode(rcode))
        question = answer.question[0]
        for text in texts:
            kind = "A" if isinstance(ip_address(text), IPv4Address) else "AAAA"
            answer.answer.append(dns.rrset.from_text(question.name, ttl, "IN", kind, text))
        return [answer.to_wire()]

    return respond


def silent(_data: bytes) -> list[bytes]:
    return []
