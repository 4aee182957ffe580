"""Many processes on one memory of leases, and processes killed in the middle."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from ipam import HostLocalDir, Leases, Owner, Pool, PoolExhausted, SqliteLeases

ROOT = Path(__file__).parents[2]
POOL = Pool("10.88.0.0/23", round_robin=True)
KINDS: dict[str, Callable[[Path], Leases]] = {"sqlite": SqliteLeases, "directory": HostLocalDir}
# Arguments: which memory, where, who, how many.
OPEN = """
import sqlite3, sys
from ipam import HostLocalDir, Owner, Pool, SqliteLeases
kind, path, who, count = sys.argv[1:]
if kind == "connection":  # a caller's, without the lock file that orders the writers
    leases = SqliteLeases(sqlite3.connect(path, timeout=30))
else:
    leases = {"sqlite": SqliteLeases, "directory": HostLocalDir}[kind](path)
pool = Pool("10.88.0.0/23", round_robin=True)
"""

# Leases so many, and says what it got.
TAKE = (
    OPEN
    + """
print("ready", flush=True)
input()
for number in range(int(count)):
    owner = Owner(f"{who}-{number}/eth0")
    print(owner.key, leases.lease(pool, owner))
"""
)
# The same, but for ever: leases and releases, and reports each only when it is done.
CHURN = (
    OPEN
    + """
number = 0
while True:
    owner = Owner(f"{who}-{number % int(count)}/eth0")
    print("leasing", owner.key, flush=True)
    print("leased", owner.key, leases.lease(pool, owner), flush=True)
    number += 1
    owner = Owner(f"{who}-{number % int(count)}/eth0")
    print("releasing", owner.key, flush=True)
    print("released", owner.key, leases.release(pool, owner), flush=True)
"""
)


def start(script: str, kind: str, path: Path, who: str, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, kind, path, who, str(count)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("kind", "each"), [("sqlite", 63), ("connection", 10), ("directory", 25)])
def test_eight_processes_at_once_never_get_the_same_address(
    tmp_path: Path, kind: str, each: int
) -> None:
    """With SQLite they take all but five addresses of the pool; the others take longer."""
    workers = [start(TAKE, kind, tmp_path / "leases", f"p{number}", each) for number in range(8)]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    said: dict[str, int] = {}
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        output, _ = worker.communicate(timeout=25)
        assert worker.returncode == 0
        said |= {key: int(offset) for key, offset in map(str.split, output.splitlines())}
    leases = KINDS.get(kind, SqliteLeases)(tmp_path / "leases")
    assert {owner.key: offset for owner, offset in leases.owners(POOL)} == said
    assert Counter(said.values()) == Counter(range(2, 8 * each + 2))
    close(leases)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_process_loses_nothing_and_blocks_nobody(tmp_path: Path, kind: str) -> None:
    """What was reported holds, what was under way happened or did not, and the pool is whole."""
    path = tmp_path / "leases"
    begin = monotonic()
    said: dict[str, int] = {}
    for round_ in range(8):
        worker = start(CHURN, kind, path, f"r{round_}", 5)
        assert worker.stdout
        lines = [worker.stdout.readline() for _ in range(20 + 7 * round_)]
        worker.kill()
        lines += worker.stdout.read().splitlines()
        worker.communicate()
        doing: str | None = None
        for line in lines:
            match line.split():
                case ["leasing" | "releasing", key]:
                    doing = key
                case ["leased", key, offset]:
                    said[key], doing = int(offset), None
                case ["released", key, _]:
                    said.pop(key, None)
                    doing = None
        leases = KINDS[kind](path)
        kept = {owner.key: offset for owner, offset in leases.owners(POOL)}
        under_way = {doing} if doing else set()
        assert {k: x for k, x in kept.items() if k not in under_way} == {
            k: x for k, x in said.items() if k not in under_way
        }
        said = kept
        close(leases)

    leases = KINDS[kind](path)
    free = POOL.capacity - len(said)
    assert leases.usage(POOL) == (len(said), free)
    rest = [leases.lease(POOL, Owner(f"late-{number}/eth0")) for number in range(free)]
    assert sorted([*rest, *said.values()]) == list(range(2, POOL.last + 1))
    with pytest.raises(PoolExhausted):
        leases.lease(POOL, Owner("one-too-many/eth0"))
    close(leases)
    assert monotonic() - begin < 20


def close(leases: Leases) -> None:
    if isinstance(leases, SqliteLeases):
        leases.close()
