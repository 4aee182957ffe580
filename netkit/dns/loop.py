"""A loop: calls what is to be done when a descriptor is ready, or when it is time.

Units    seconds, of the monotonic clock

Descriptors are level-triggered, and non-blocking: whoever is called may find nothing. What `look`
was told since a round began has its turn in the next: a number may have changed hands in between.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import count
from time import monotonic
from typing import Protocol

READ, WRITE = select.EPOLLIN, select.EPOLLOUT

Call = Callable[[], object]


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Timer:
    """One call to come."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class Loop:
    """`stop` may be called by a signal's handler, or another thread; all else not."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Call] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._stopped = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.look(self._wake, lambda: os.eventfd_read(self._wake))

    def look(self, descriptor: int | HasFileno, call: Call, events: int = READ) -> None:
        """Call whenever it is ready, from now on; of one looked at already: other events."""
        fd = _fd(descriptor)
        if fd in self._calls:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._calls[fd] = call

    def ignore(self, descriptor: int | HasFileno) -> None:
        """The opposite of `look`; before the descriptor is closed."""
        fd = _fd(descriptor)
        if self._calls.pop(fd, None):
            self._epoll.unregister(fd)

    def later(self, delay_s: float, call: Call) -> Timer:
        """Call once, unless it is cancelled first."""
        timer = Timer(call)
        heappush(self._timers, (monotonic() + delay_s, next(self._numbers), timer))
        return timer

    def run(self) -> None:
        """Until somebody stops it."""
        poll, calls, timers = self._epoll.poll, self._calls, self._timers
        while not self._stopped:
            ready = poll(max(0.0, timers[0][0] - monotonic()) if timers else None)
            for fd, call in [(fd, calls.get(fd)) for fd, _ in ready]:
                if call and calls.get(fd) is call:
                    call()
            while timers and timers[0][0] <= monotonic():
                due = heappop(timers)[2].call
                if due:
                    due()
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True
        with suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def close(self) -> None:
        """What it looks at is not its own, and stays open."""
        self._epoll.close()
        os.close(self._wake)


def _fd(descriptor: int | HasFileno) -> int:
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()
