"""Watching the host's interfaces: told of which of them something was taken away.

    with LinkWatch() as watch:
        select.select([watch], [], [])
        watch.read()                            # {"netkit0"}

Shapes   what is told of: interfaces deleted, or no longer ports of a bridge; their addresses and
         routes deleted. None: of so many that the kernel had no room to tell
Source   rtnetlink(7), include/uapi/linux/rtnetlink.h
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from netkit.attributes import read

_DEL_LINK, _DEL_ADDRESS, _DEL_ROUTE = 17, 21, 25  # RTM_*
_IFNAME, _OIF = 3, 4  # IFLA_, RTA_
_GROUPS = sum(1 << (group - 1) for group in (1, 5, 7, 9, 11))  # RTNLGRP_: link, addresses, routes
_ROOM = 1 << 20


class LinkWatch:
    """Of the caller's network namespace."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self._sock.bind((0, _GROUPS))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> set[str] | None:
        """The names of those something was taken from since it was last asked."""
        names: set[str] = set()
        everything = False
        while True:
            try:
                data = self._sock.recv(1 << 17)
            except BlockingIOError:
                return None if everything else names
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                everything = True
                continue
            names.update(_robbed(data))


def _robbed(data: bytes) -> Iterator[str]:
    while data:
        length, kind = struct.unpack_from("=IH", data)
        message, data = data[16:length], data[(length + 3) & ~3 :]
        if kind == _DEL_LINK:
            yield read(message, 16).get(_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        elif kind in (_DEL_ADDRESS, _DEL_ROUTE):
            index = message[4:8] if kind == _DEL_ADDRESS else read(message, 12).get(_OIF, b"")
            with suppress(OSError):  # it has gone, of which there is a message of its own
                yield socket.if_indextoname(int.from_bytes(index, sys.byteorder))
