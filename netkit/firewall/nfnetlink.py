"""Netfilter's netlink: one socket for each namespace, and its messages.

Shapes   a message's body is what follows its netlink header; what is in it, netkit.attributes
Errors   OSError with the kernel's errno
Source   include/uapi/linux/netfilter/nfnetlink.h; netlink(7)

A socket stays open, for closing it after something was deleted waits for RCU, 5 to 9 ms. It is one
thread's own, and a forked child opens another, or they would read each other's answers.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

REQUEST, ACK, CREATE, DUMP = 0x1, 0x4, 0x400, 0x300  # NLM_F_*, linux/netlink.h
ERROR, DONE = 2, 3
OURS = 0x6E65746B  # the number of every request of netkit's: whoever listens knows it by that
_NETLINK_NETFILTER = 12
_TIMEOUT_S = 10
_kept = threading.local()


class _Socket(socket.socket):
    """Closed with the thread that kept it, and no word of warning."""

    def __del__(self) -> None:
        self.close()


@contextmanager
def opened() -> Iterator[socket.socket]:
    """The socket of the caller's namespace; after an error, when answers may be left, it closes."""
    found = os.stat("/proc/thread-self/ns/net")
    here = f"{os.getpid()} {found.st_dev}:{found.st_ino}"
    sock = vars(_kept).pop(here, None)
    if sock is None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        sock = _Socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        sock.settimeout(_TIMEOUT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    try:
        yield sock
    except BaseException:
        sock.close()
        raise
    vars(_kept)[here] = sock


def close() -> None:
    """Close what this thread has open: an open socket keeps its namespace alive."""
    for sock in vars(_kept).values():
        sock.close()
    vars(_kept).clear()


def message(kind: int, flags: int, family: int, body: bytes = b"", *, resource: int = 0) -> bytes:
    """A request; *resource* is the subsystem a batch is for, where it begins and ends."""
    resource = socket.htons(resource)
    header = struct.pack("=IHHII", 20 + len(body), kind, flags, OURS, 0)
    return header + struct.pack("=BBH", family, 0, resource) + body


def messages(sock: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Type and body of each message of one answer."""
    data = sock.recv(1 << 17)
    while data:
        length, kind = struct.unpack_from("=IH", data)
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]


def answers(sock: socket.socket) -> Iterator[bytes]:
    """The body of each message up to the end of a dump, or to the acknowledgement."""
    while True:
        for kind, body in messages(sock):
            if kind == ERROR and (error := refusal(body)):
                raise error
            if kind in (ERROR, DONE):
                return
            yield body


def refusal(body: bytes) -> OSError | None:
    """What an ERROR message says, unless it is an acknowledgement."""
    code = -struct.unpack_from("=i", body)[0]
    return OSError(code, os.strerror(code)) if code else None
