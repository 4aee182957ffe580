"""Which process: its number, and when it started.

Shapes   a process is (pid, start time): together they are never reused while the machine runs
Units    start_time in clock ticks since boot (field 22 of /proc/PID/stat)
Source   proc(5)
"""

from __future__ import annotations

from threading import get_native_id
from typing import NamedTuple


class Process(NamedTuple):
    pid: int
    start_time: int


def me() -> Process:
    """The calling thread, which Linux numbers as it does processes; the first has its process's."""
    number = get_native_id()
    return Process(number, start_time(number) or 0)


def alive(pid: int, started: int) -> bool:
    return start_time(pid) == started


def start_time(pid: int) -> int | None:
    """None for a process that has ended, though its parent may not have noticed."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else int(fields[19])
