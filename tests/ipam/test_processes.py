"""Many processes on one memory of leases, and processes killed in the middle."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from ipam import HostLocalDir, Leases, Owner, Pool, PoolExhausted, SqliteLeases

ROOT = Path(__file__).parents[2]
# 509 addresses each
OPTIONS: dict[str, dict[str, Any]] = {
    "round": {"round_robin": True},
    "ranges": {
        "round_robin": True,
        "ip_range": ["10.88.1.0-10.88.1.254", "10.88.0.128/25", "10.88.0.1-10.88.0.127"],
    },
    "sticky": {"sticky": True},
}
KINDS: dict[str, Callable[[Path], Leases]] = {"sqlite": SqliteLeases, "directory": HostLocalDir}
# Arguments: which memory, where, which kind of pool, who, how many.
OPEN = """
import json, sqlite3, sys
from ipam import HostLocalDir, Owner, Pool, SqliteLeases
kind, path, options, who, count = sys.argv[1:]
if kind == "connection":  # a caller's, without the lock file that orders the writers
    leases = SqliteLeases(sqlite3.connect(path, timeout=30))
else:
    leases = {"sqlite": SqliteLeases, "directory": HostLocalDir}[kind](path)
pool = Pool("10.88.0.0/23", **json.loads(options))
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
# Leases and releases so often, for five names in turn, and says what they got.
PASS = (
    OPEN
    + """
print("ready", flush=True)
input()
for number in range(int(count)):
    owner = Owner(f"{who}-{number % 5}/eth0")
    print(owner.key, leases.lease(pool, owner))
    leases.release(pool, owner)
"""
)
# Leases and releases for ever, and reports each only when it is done.
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


def start(
    script: str, kind: str, path: Path, options: str, who: str, count: int
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, kind, path, json.dumps(OPTIONS[options]), who, str(count)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def together(
    script: str, kind: str, path: Path, options: str, processes: int, each: int
) -> list[tuple[str, int]]:
    """Run so many at once; who got what, in the order of each one."""
    workers = [
        start(script, kind, path, options, f"p{number}", each) for number in range(processes)
    ]
    for worker in workers:
        assert worker.stdout
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin
        worker.stdin.write("\n")
        worker.stdin.flush()
    lines = []
    for worker in workers:
        output, _ = worker.communicate(timeout=25)
        assert worker.returncode == 0
        lines += output.splitlines()
    return [(key, int(offset)) for key, offset in map(str.split, lines)]


@pytest.mark.parametrize(
    ("kind", "options", "each"),
    [
        ("sqlite", "round", 63),
        ("sqlite", "ranges", 63),
        ("sqlite", "sticky", 63),
        ("connection", "round", 10),
        ("directory", "ranges", 25),
    ],
)
def test_eight_processes_at_once_never_get_the_same_address(
    tmp_path: Path, kind: str, options: str, each: int
) -> None:
    """With SQLite they take all but five addresses of the pool; the others take longer."""
    pool = Pool("10.88.0.0/23", **OPTIONS[options])
    said = dict(together(TAKE, kind, tmp_path / "leases", options, 8, each))
    leases = KINDS.get(kind, SqliteLeases)(tmp_path / "leases")
    assert {owner.key: offset for owner, offset in leases.owners(pool)} == said
    in_turn = [x for x in map(pool.ranges.at, range(pool.ranges.size)) if x not in pool.excluded]
    assert Counter(said.values()) == Counter(in_turn[: 8 * each])
    close(leases)


@pytest.mark.parametrize(
    ("kind", "options", "each"),
    [("sqlite", "round", 125), ("sqlite", "ranges", 125), ("directory", "ranges", 25)],
)
def test_processes_that_take_turns_get_no_address_twice_before_the_wrap(
    tmp_path: Path, kind: str, options: str, each: int
) -> None:
    """Each releases at once what it got, so lowest-free would give the same few again and again."""
    got = together(PASS, kind, tmp_path / "leases", options, 4, each)
    assert len({offset for _, offset in got}) == len(got) == 4 * each


def test_a_name_gets_its_address_again_from_whichever_process(tmp_path: Path) -> None:
    got = together(PASS, "sqlite", tmp_path / "leases", "sticky", 4, 50)
    first = dict(got)
    assert len({*first.values()}) == len(first) == 4 * 5
    again = together(PASS, "sqlite", tmp_path / "leases", "sticky", 4, 5)
    assert [first[key] for key, _ in [*got, *again]] == [offset for _, offset in [*got, *again]]


@pytest.mark.parametrize(
    ("kind", "options"), [("sqlite", "round"), ("sqlite", "sticky"), ("directory", "round")]
)
def test_a_killed_process_loses_nothing_and_blocks_nobody(
    tmp_path: Path, kind: str, options: str
) -> None:
    """What was reported holds, what was under way happened or did not, and the pool is whole."""
    path = tmp_path / "leases"
    pool = Pool("10.88.0.0/23", **OPTIONS[options])
    begin = monotonic()
    said: dict[str, int] = {}
    for round_ in range(8):
        worker = start(CHURN, kind, path, options, f"r{round_}", 5)
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
        kept = {owner.key: offset for owner, offset in leases.owners(pool)}
        under_way = {doing} if doing else set()
        assert {k: x for k, x in kept.items() if k not in under_way} == {
            k: x for k, x in said.items() if k not in under_way
        }
        said = kept
        close(leases)

    leases = KINDS[kind](path)
    free = pool.capacity - len(said)
    assert leases.usage(pool) == (len(said), free)
    rest = [leases.lease(pool, Owner(f"late-{number}/eth0")) for number in range(free)]
    assert sorted([*rest, *said.values()]) == list(range(2, pool.last + 1))
    with pytest.raises(PoolExhausted):
        leases.lease(pool, Owner("one-too-many/eth0"))
    close(leases)
    assert monotonic() - begin < 20


def close(leases: Leases) -> None:
    if isinstance(leases, SqliteLeases):
        leases.close()
