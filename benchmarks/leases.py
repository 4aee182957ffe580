"""How fast leases are: 8 processes on one file, and a full pool beside an empty one.

Run it: python benchmarks/leases.py
Units   leases a second (each granted and committed); microseconds a lease
Bounds  16 000 leases from 8 processes, 65 000 from one; some 15 s; a temporary directory on disk
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from time import perf_counter

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script, the checkout is not on the path

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


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        rates = [together(Path(folder, f"{i}.db")) for i in range(ROUNDS)]
        print(f"{PROCESSES} processes, one file: {median(rates):,.0f} leases/s", end=" ")
        print(f"({median(rates) / TARGET_PER_S:.2f} of the target, {TARGET_PER_S:,})", end=" ")
        print("rounds: " + " ".join(f"{rate:,.0f}" for rate in sorted(rates)))

        figures: dict[str, list[float]] = {}
        leases = SqliteLeases(Path(folder, "one.db"))
        for state, base in (("empty", 0), (f"{FULL:,} leased", FULL)):
            for number in range(len(leases.owners(POOL)), base):
                take(leases, number)
            for _ in range(ROUNDS):
                figures.setdefault(f"lease, {state}", []).append(timed(leases, take, base))
                figures.setdefault(f"release, {state}", []).append(timed(leases, give, base))
        leases.close()
    for what, times in figures.items():
        print(f"{what}: {median(times):.1f} us", end=" ")
        print("rounds: " + " ".join(f"{time:.1f}" for time in sorted(times)))
    for verb in ("lease", "release"):
        ratio = median(figures[f"{verb}, {FULL:,} leased"]) / median(figures[f"{verb}, empty"])
        print(f"{verb}, full to empty: {ratio:.2f} (target {TARGET_RATIO})")


if __name__ == "__main__":
    main()
