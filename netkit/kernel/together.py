"""What several threads want of the kernel at once, done once.

    delete = Together(delete_all)
    delete("veth1")

Shapes   whoever comes first does it, at once; those who come meanwhile wait, and then one of them
         does it for them all. So nobody waits for company, nor for more than two turns
Errors   what the act raises. If it fails for several, each does its own part, and hears of that

Each network namespace has a queue of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class _Ticket(Generic[T]):
    """One thread's wish; and what has come of it, once it is its turn."""

    def __init__(self, wish: T) -> None:
        self.wish = wish
        self.turn = threading.Event()
        self.is_done = False
        self.alone = False


class _Queue(Generic[T]):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting: list[_Ticket[T]] = []
        self.has_leader = False

    def pass_on(self) -> None:
        """With the lock held: the first of those who wait is to lead, if there is any."""
        self.has_leader = bool(self.waiting)
        if self.waiting:
            self.waiting[0].turn.set()


class Together(Generic[T]):
    """Calls *act* with all that was wished for since it last began."""

    def __init__(self, act: Callable[[Sequence[T]], None]) -> None:
        self._act = act
        self._queues: dict[str, _Queue[T]] = {}
        # whoever was at it in the parent is not at it in the child
        os.register_at_fork(after_in_child=self._queues.clear)

    def __call__(self, wish: T) -> None:
        found = os.stat("/proc/thread-self/ns/net")
        queue = self._queues.setdefault(f"{found.st_dev}:{found.st_ino}", _Queue())
        ticket = _Ticket(wish)
        with queue.lock:
            queue.waiting.append(ticket)
            leads, queue.has_leader = not queue.has_leader, True
        if not leads:
            try:
                ticket.turn.wait()
            except BaseException:
                self._leave(queue, ticket)
                raise
        if ticket.alone:
            self._act([wish])
        elif not ticket.is_done:
            self._lead(queue, ticket)

    def _lead(self, queue: _Queue[T], own: _Ticket[T]) -> None:
        with queue.lock:
            tickets, queue.waiting = queue.waiting, []
        others = [ticket for ticket in tickets if ticket is not own]
        failed = False
        try:
            self._act([ticket.wish for ticket in tickets])
        except Exception:
            failed = True
            if not others:
                raise
        except BaseException:  # interrupted: somebody else has to
            with queue.lock:
                queue.waiting[:0] = others
            others = []
            raise
        finally:
            with queue.lock:
                queue.pass_on()
            for ticket in others:
                ticket.is_done, ticket.alone = not failed, failed
                ticket.turn.set()
        if failed:
            self._act([own.wish])

    def _leave(self, queue: _Queue[T], ticket: _Ticket[T]) -> None:
        with queue.lock:
            if ticket in queue.waiting:
                queue.waiting.remove(ticket)
                if ticket.turn.is_set():  # it was to lead
                    queue.pass_on()
