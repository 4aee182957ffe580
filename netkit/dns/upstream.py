"""Upstreams: the name servers asked about what is not ours.

Units    seconds; all attempts together end before a stub's own patience of 5 s does
Bounds   1024 questions at a time, 128 of one asker
Source   RFC 5452: each question goes out by a port and an id of its own, drawn at random, and only
         an answer from where it went, with that id and that question, is one

Nothing is remembered: what one asker was told, no other could be made to believe.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from itertools import cycle, islice

from netkit.dns import message
from netkit.dns.loop import WRITE, Loop, Timer
from netkit.dns.message import Code, Query

PORT = 53
MOST_UPSTREAMS = 3
ATTEMPTS = 3  # of all: a single upstream is asked thrice
ATTEMPT_S = 1.5
MOST = 1024
MOST_PER_ASKER = 128

_MOST_READS = 16  # of forged answers, until it is another's turn
_TRY_NEXT = (Code.SERVFAIL, Code.NOTIMP, Code.REFUSED)

Then = Callable[[bytes | None], object]


class Upstreams:
    """All questions that are open."""

    def __init__(self, loop: Loop, *, attempt_s: float = ATTEMPT_S) -> None:
        self.loop = loop
        self.attempt_s = attempt_s
        self._open: Counter[Hashable] = Counter()
        self._errands: set[_Errand] = set()

    def close(self) -> None:
        """Nobody is answered any more."""
        for errand in self._errands:
            errand.close()

    def ask(
        self,
        query: Query,
        addresses: Sequence[str],
        asker: Hashable,
        then: Then,
        *,
        stream: bool = False,
    ) -> None:
        """Call *then*, once, with an upstream's answer; with None, there is none to be had.

        *stream*: over TCP.
        """
        if self._open[asker] >= MOST_PER_ASKER or len(self._errands) >= MOST:
            then(None)
            return
        self._open[asker] += 1

        def end(answer: bytes | None) -> None:
            self._errands.discard(errand)
            self._open[asker] -= 1
            if not self._open[asker]:
                del self._open[asker]
            then(answer)

        errand = _Errand(self, query, addresses[:MOST_UPSTREAMS], end, stream)
        self._errands.add(errand)
        errand.go_on()


class _Errand:
    """One question, taken to one upstream after another; whichever answers first is believed."""

    def __init__(
        self,
        upstreams: Upstreams,
        query: Query,
        addresses: Sequence[str],
        then: Then,
        stream: bool,
    ) -> None:
        self.loop = upstreams.loop
        self.query = query
        self._attempt_s = upstreams.attempt_s
        self._then = then
        self._kind = _Stream if stream else _Datagram
        self._to_ask = islice(cycle(addresses), ATTEMPTS if addresses else 0)
        self._asked: dict[str, list[_Attempt]] = {address: [] for address in addresses}
        self._timer: Timer | None = None

    def go_on(self) -> None:
        """Ask the next one; an answer of those before is still welcome."""
        if not self._ask_next():
            self.end(None)

    def refused(self, attempt: _Attempt) -> None:
        """This upstream will not help."""
        for each in self._asked.pop(attempt.address, ()):
            each.close()
        if not self._ask_next() and not any(self._asked.values()):
            self.end(None)

    def _ask_next(self) -> bool:
        for address in self._to_ask:
            if address not in self._asked:  # it refused
                continue
            try:
                attempt = self._kind(self, address)
            except (OSError, UnicodeError):  # no such network, no descriptors left, no address
                self._asked.pop(address)
                continue
            self._asked[address].append(attempt)
            if self._timer:
                self._timer.cancel()
            self._timer = self.loop.later(self._attempt_s, self.go_on)
            return True
        return False

    def end(self, answer: bytes | None) -> None:
        self.close()
        self._then(answer)

    def close(self) -> None:
        if self._timer:
            self._timer.cancel()
        for attempts in self._asked.values():
            for attempt in attempts:
                attempt.close()
        self._asked.clear()


class _Attempt:
    """One socket to one upstream."""

    kind: socket.SocketKind

    def __init__(self, errand: _Errand, address: str) -> None:
        self.address = address
        self.errand = errand
        self.loop = errand.loop
        self.id = os.urandom(2)
        (family, _, _, _, where), *_ = socket.getaddrinfo(
            # as bytes: for text it would import a codec, which without privileges it may not read
            address.encode(),
            PORT,
            type=self.kind,
            flags=socket.AI_NUMERICHOST,
        )
        self.sock = socket.socket(family, self.kind | socket.SOCK_NONBLOCK)
        try:
            self.open(where)
        except BaseException:
            self.sock.close()
            raise

    def open(self, where: tuple[object, ...]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.loop.ignore(self.sock)
        self.sock.close()

    def hear(self, data: bytes) -> bool:
        """Whether *data* is the answer; the errand has gone on then."""
        code = message.judge(self.errand.query, self.id, data)
        if code is None:
            return False
        if code in _TRY_NEXT:
            self.errand.refused(self)
        else:
            self.errand.end(data)
        return True


class _Datagram(_Attempt):
    kind = socket.SOCK_DGRAM

    def open(self, where: tuple[object, ...]) -> None:
        self.sock.connect(where)  # to a port drawn by the kernel; others' answers stay outside
        self.sock.send(message.onward(self.errand.query, self.id))
        self.loop.look(self.sock, self._read)

    def _read(self) -> None:
        try:
            for _ in range(_MOST_READS):
                if self.hear(self.sock.recv(message.MOST_BYTES)):
                    return
        except BlockingIOError:
            return
        except OSError:  # nobody listens there, or no way leads there
            self.errand.refused(self)


class _Stream(_Attempt):
    kind = socket.SOCK_STREAM

    def open(self, where: tuple[object, ...]) -> None:
        self._received = b""
        with suppress(BlockingIOError):
            self.sock.connect(where)
        self.loop.look(self.sock, self._send, WRITE)

    def _send(self) -> None:
        wire = message.onward(self.errand.query, self.id)
        try:  # the first bytes of a connection: there is room for them
            self.sock.send(len(wire).to_bytes(2, "big") + wire)
        except BlockingIOError:
            return
        except OSError:
            self.errand.refused(self)
        else:
            self.loop.look(self.sock, self._read)

    def _read(self) -> None:
        try:
            chunk = self.sock.recv(message.MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        self._received += chunk
        size = int.from_bytes(self._received[:2], "big")
        if len(self._received) >= 2 + size and self._received:
            if not self.hear(self._received[2 : 2 + size]):
                self.errand.refused(self)
        elif not chunk:
            self.errand.refused(self)
