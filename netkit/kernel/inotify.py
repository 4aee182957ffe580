"""inotify: the kernel tells what happens in a directory.

    with Inotify() as watch:
        watch.add("/var/lib/netkit", MODIFIED | CREATED)
        select.select([watch], [], [])
        watch.read()                                    # {"state.db-wal"}

Errors   OSError: ENOENT, EACCES; ENOSPC where the user has no watch left, EMFILE no instance
Source   inotify(7)
"""

from __future__ import annotations

import ctypes
import os
import struct
from types import TracebackType
from typing import Self

MODIFIED, ATTRIBUTES, CREATED, DELETED = 0x2, 0x4, 0x100, 0x200  # IN_*, linux/inotify.h
WRITTEN = 0x8  # and closed
ARRIVED, LEFT, ITSELF_GONE = 0x80, 0x40, 0x400 | 0x800
OVERFLOW = ""  # among the names: some are missing
_IN_Q_OVERFLOW = 0x4000
_EVENT = struct.Struct("=iIII")  # struct inotify_event, before the name


class Inotify:
    """What happened to the files of some directories since it was last asked."""

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(None, use_errno=True)
        self._fd = self._called("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def add(self, path: str, events: int) -> int:
        """Be told of *events* in the directory at *path*: its number, the same for the same one."""
        return self._called("inotify_add_watch", self._fd, os.fsencode(path), events)

    def remove(self, number: int) -> None:
        """Be told no more; a directory that is gone is watched no more already."""
        self._lib.inotify_rm_watch(self._fd, number)

    def read(self) -> set[str]:
        """The names of the files something happened to; OVERFLOW: of others, too."""
        names: set[str] = set()
        while True:
            try:
                data = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return names
            at = 0
            while at < len(data):
                _, mask, _, length = _EVENT.unpack_from(data, at)
                at += _EVENT.size + length
                name = data[at - length : at].rstrip(b"\0")
                names.add(OVERFLOW if mask & _IN_Q_OVERFLOW else os.fsdecode(name))

    def _called(self, name: str, *arguments: object) -> int:
        found: int = getattr(self._lib, name)(*arguments)
        if found < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return found
