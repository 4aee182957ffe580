"""Watching files by path: told when what a path leads to may say something else.

    with PathWatch(["/etc/resolv.conf"]) as watch:
        watch.wait()
        watch.settle(0.05, 0.5)
        watch.arm()                     # and only then look at the file

Shapes   a file may be missing and come back, be replaced by a rename, be led to by symlinks, or be
         mounted over; each directory on the way is watched as far as it decides which file it is
Units    seconds
Errors   OSError
Source   proc(5): /proc/self/mountinfo is readable by POLLPRI when mounts have changed
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from netkit.kernel.inotify import ARRIVED, CREATED, DELETED, ITSELF_GONE, LEFT, WRITTEN, Inotify

_EVENTS = WRITTEN | ARRIVED | LEFT | CREATED | DELETED | ITSELF_GONE
_MOST_LINKS = 40  # as the kernel follows


class PathWatch:
    """Changes of the files at *paths*; all that is said is that there may be some."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._known: set[int] = set()
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._inotify = Inotify()
        except OSError:
            os.close(self._mounts)
            raise
        self._poll = select.poll()
        self._poll.register(self._inotify, select.POLLIN)
        self._poll.register(self._mounts, select.POLLPRI)
        self.arm()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inotify.close()
        os.close(self._mounts)

    def arm(self) -> None:
        """Watch what decides from now on which files these are."""
        wanted: set[int] = set()
        for path in self._paths:
            for place in _deciding(path):
                with suppress(FileNotFoundError):  # what it is in tells when it comes
                    wanted.add(self._inotify.add(place, _EVENTS))
        for number in self._known - wanted:
            self._inotify.remove(number)
        self._known = wanted

    def wait(self, bell: int | None = None, timeout_s: float | None = None) -> bool:
        """Wait until there may be a change, *bell* is readable, or for the timeout; whether it was
        the first.
        """
        if bell is not None:
            self._poll.register(bell, select.POLLIN)
        found = self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        return any(fd in (self._inotify.fileno(), self._mounts) for fd, _ in found)

    def settle(self, quiet_s: float, most_s: float) -> None:
        """Wait until nothing has happened for a while: who writes a file may not be done yet."""
        end = time.monotonic() + most_s
        while time.monotonic() < end:
            self._inotify.read()
            if not self.wait(timeout_s=quiet_s):
                return


def _deciding(path: str) -> Iterator[str]:
    """The file, and the directories in which an entry decides what *path* leads to."""
    yield path
    at, rest, links = "/", path.split("/"), 0
    while rest:
        name = rest.pop(0)
        here = os.path.join(at, name)
        if name in ("", ".", ".."):
            at = os.path.normpath(here)
            continue
        if os.path.islink(here) and links < _MOST_LINKS:
            links += 1
            yield at
            rest = [*os.readlink(here).split("/"), *rest]
            at = "/" if rest[0] == "" else at
        elif rest and os.path.isdir(here):
            at = here
        else:
            yield at
            return
