"""A connection: questions that come over TCP, and answers that go back.

Units    seconds, of the monotonic clock
Source   RFC 1035 section 4.2.2 (two bytes tell a message's size), RFC 7766 (several questions may
         be open on one connection, and their answers come in any order)
"""

from __future__ import annotations

import socket
from collections.abc import Hashable, Iterator
from contextlib import suppress
from time import monotonic

from netkit.dns.loop import READ, WRITE

MOST_QUERY_BYTES = 4096

_MOST_UNSENT_BYTES = 65_536  # while so much waits for the asker to read, he is not read from


class Malformed(ValueError):
    """What came is no question's beginning."""


class Connection:
    """`events` is what there is to wait for; 0: nothing, but that the asker goes away."""

    def __init__(self, sock: socket.socket, asker: tuple[Hashable, str]) -> None:
        self.sock = sock
        self.asker = asker
        self.since = monotonic()  # when its last question was whole
        self.pending = 0  # questions without an answer
        self.awaited = -1  # the events the loop looks for
        self._ended = False  # no more questions come
        self._received = b""
        self._unsent = b""
        sock.setblocking(False)

    @property
    def events(self) -> int:
        reads = not self._ended and len(self._unsent) < _MOST_UNSENT_BYTES
        return (READ if reads else 0) | (WRITE if self._unsent else 0)

    @property
    def is_done(self) -> bool:
        return self._ended and not self.pending and not self._unsent

    def move(self) -> None:
        """Send what waits, and receive what came; OSError: the asker is gone."""
        with suppress(BlockingIOError):
            self._flush()
            if self.events & READ:
                chunk = self.sock.recv(MOST_QUERY_BYTES)
                self._received += chunk
                self._ended = not chunk

    def questions(self) -> Iterator[bytes]:
        """Those that are whole; Malformed."""
        while len(self._received) >= 2:
            size = int.from_bytes(self._received[:2], "big")
            if not 0 < size <= MOST_QUERY_BYTES:
                raise Malformed(f"{size} bytes are announced")
            if len(self._received) < 2 + size:
                return
            data, self._received = self._received[2 : 2 + size], self._received[2 + size :]
            self.since = monotonic()
            self.pending += 1
            yield data

    def reply(self, answer: bytes) -> None:
        """OSError: the asker is gone."""
        self.pending -= 1
        self._unsent += len(answer).to_bytes(2, "big") + answer
        with suppress(BlockingIOError):
            self._flush()

    def _flush(self) -> None:
        if self._unsent:
            self._unsent = self._unsent[self.sock.send(self._unsent) :]
