"""How fast leases are: 8 processes on one file, and a full pool beside an empty one.

Run it: python -m benchmarks.leases
Units   leases a second (each granted and committed); microseconds a lease
Bounds  16 000 leases from 8 processes, 65 000 from one; some 15 s; a temporary directory on disk
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.contest import Target, show, table
from ipam import Owner, Pool, SqliteLeases

POOL = Pool("10.88.0.0/16")
PROCESSES = 8
EACH = 2_000
TARGET_PER_S = 10_000
FULL = 60_000
TARGET_RATIO = 1.5
ROUNDS = 5


def owner(process: int, number: int) -> Owner:
    """As long as a real one: a container id of 64 digits, an interface, a boot id."""
    number = number * PROCESSES + process
    scattered = number * 0x9E3779B97F4A7C15 % 2**64  # ids are random: so is where they are filed
    return Owner(f"{scattered:064x}/eth0", "b5d4ac27-7e0a-4a2b-9d0b-0c0ffee0c0de")


def lease_many(path: Path, process: int, ready: Barrier) -> None:
    leases = SqliteLeases(path)
    owners = [owner(process, number) for number in range(EACH)]
    ready.wait()
    for each in owners:
        leases.lease(POOL, each)
    ready.wait()
    leases.close()


def together(path: Path) -> float:
    """Leases a second of all processes, from the common start to the last one's end."""
    context = get_context("spawn")
    ready = context.Barrier(PROCESSES + 1)
    workers = [
        context.Process(target=lease_many, args=(path, process, ready))
        for process in range(PROCESSES)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    begin = perf_counter()
    ready.wait()
    elapsed = perf_counter() - begin
    for worker in workers:
        worker.join()
    leases = SqliteLeases(path)
    offsets = {offset for _, offset in leases.owners(POOL)}
    leases.close()
    assert len(offsets) == PROCESSES * EACH, f"{PROCESSES * EACH} leased, {len(offsets)} kept"
    return PROCESSES * EACH / elapsed


def timed(leases: SqliteLeases, call: Callable[[SqliteLeases, int], object], first: int) -> float:
    """Microseconds a call, the mean over a thousand."""
    begin = perf_counter()
    for number in range(first, first + 1_000):
        call(leases, number)
    return (perf_counter() - begin) * 1e3


def take(leases: SqliteLeases, number: int) -> object:
    return leases.lease(POOL, owner(0, number))


def give(leases: SqliteLeases, number: int) -> object:
    return leases.release(POOL, owner(0, number))


def measure() -> list[Target]:
    with tempfile.TemporaryDirectory() as folder:
        rates = [together(Path(folder, f"{i}.db")) for i in range(ROUNDS)]
        show(f"{PROCESSES} processes, one file", {"leases a second": rates}, "")

        figures: dict[str, list[float]] = {}
        empty, full = (SqliteLeases(Path(folder, name)) for name in ("empty.db", "full.db"))
        for number in range(FULL):
            take(full, number)
        for _ in range(ROUNDS):
            for state, leases, base in (("empty", empty, 0), (f"{FULL:,} leased", full, FULL)):
                figures.setdefault(f"lease, {state}", []).append(timed(leases, take, base))
                figures.setdefault(f"release, {state}", []).append(timed(leases, give, base))
        empty.close()
        full.close()
    show("one process", figures, "us")
    targets = [
        Target(f"leases: a second, {PROCESSES} processes", median(rates), "", TARGET_PER_S, True)
    ]
    for verb in ("lease", "release"):
        ratio = median(figures[f"{verb}, {FULL:,} leased"]) / median(figures[f"{verb}, empty"])
        targets.append(
            Target(f"leases: {verb} with {FULL:,} leased to with 0", ratio, " x", TARGET_RATIO)
        )
    return targets


if __name__ == "__main__":
    print(table(measure()))
