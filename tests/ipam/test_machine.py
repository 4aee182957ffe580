"""Leases against a model: a dict of who holds which offset, what is kept, the last one granted."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ipam import (
    AddressInUse,
    HostLocalDir,
    IpamError,
    Leases,
    Owner,
    Pool,
    PoolExhausted,
    SqliteLeases,
    Usage,
)

V4 = Pool(
    "10.88.0.0/27",
    gateway="10.88.0.9",
    reserved={"ns": "10.88.0.6", "far": "10.88.0.30"},
    ip_range="10.88.0.4-10.88.0.12",
)
V4_ROUND = Pool("10.88.0.0/28", reserved={"ns": "10.88.0.6"}, round_robin=True)
# offsets on both sides of 2**63, where SQLite's integers end
EDGE = "fd00:0:0:0:7fff:ffff:ffff:fffc-fd00:0:0:0:8000::4"
V6 = Pool("fd00::/60", ip_range=EDGE, reserved={"ns": "fd00:0:0:0:8000::1"})
V6_ROUND = Pool("fd00::/60", ip_range=EDGE, round_robin=True)
# not in order, with an excluded address in the second, and one range on either side of 2**63
SEVERAL = ["10.88.0.24/30", "10.88.0.9-10.88.0.12", "10.88.0.2-10.88.0.3"]
V4_SEVERAL = Pool("10.88.0.0/27", gateway="10.88.0.10", ip_range=SEVERAL)
V4_SEVERAL_ROUND = Pool("10.88.0.0/27", gateway="10.88.0.10", ip_range=SEVERAL, round_robin=True)
V6_STICKY = Pool("fd00::/60", ip_range=["fd00:0:0:8::/125", "fd00::4-fd00::6"], sticky=True)
V4_STICKY = Pool("10.88.0.0/27", gateway="10.88.0.10", ip_range=SEVERAL, sticky=True)
V4_STICKY_ROUND = Pool("10.88.0.0/28", reserved={"ns": "10.88.0.6"}, round_robin=True, sticky=True)

owners = st.integers(0, 11).map(lambda number: Owner(f"c{number}/eth0"))


class Machine(RuleBasedStateMachine):
    pool: ClassVar[Pool]

    def __init__(self) -> None:
        super().__init__()
        self.leases = self.open()
        self.held: dict[Owner, int] = {}
        self.kept: dict[str, int] = {}  # by key, released first is first
        self.last = -1  # a place in `dynamic`

    def open(self) -> Leases:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        return SqliteLeases(self.connection)

    def teardown(self) -> None:
        self.connection.close()

    @property
    def dynamic(self) -> list[int]:
        pool = self.pool
        return [x for a, b in pool.ranges for x in range(a, b + 1) if x not in pool.excluded]

    @rule(owner=owners)
    def lease(self, owner: Owner) -> None:
        turns = [*enumerate(self.dynamic)]
        unheld = [(turn, x) for turn, x in turns if x not in self.held.values()]
        free = [(turn, x) for turn, x in unheld if x not in self.kept.values()]
        if owner in self.held:
            with pytest.raises(AddressInUse, match=f"already holds {self.text(owner)}"):
                self.leases.lease(self.pool, owner)
        elif not unheld:
            with pytest.raises(PoolExhausted, match="{0} of {0} leased".format(len(self.dynamic))):
                self.leases.lease(self.pool, owner)
        elif owner.key in self.kept:
            assert self.leases.lease(self.pool, owner) == self.kept[owner.key]
            self.grant(owner, self.kept[owner.key])
        else:
            oldest = [each for each in unheld if each[1] == next(iter(self.kept.values()), None)]
            after = [each for each in free if each[0] > self.last]
            turn, offset = (after or free or oldest)[0]
            assert self.leases.lease(self.pool, owner) == offset
            self.grant(owner, offset)
            self.last = turn if self.pool.round_robin else -1

    def grant(self, owner: Owner, offset: int) -> None:
        self.held[owner] = offset
        kept = self.kept.items()
        self.kept = {key: x for key, x in kept if key != owner.key and x != offset}

    def forgo(self, owner: Owner) -> int | None:
        """*owner* holds its address no longer: what it was."""
        offset = self.held.pop(owner, None)
        if self.pool.sticky and offset in self.dynamic:
            self.kept[owner.key] = offset
        return offset

    @rule(owner=owners, near=st.integers(0, 99), by=st.integers(-3, 3))
    def lease_static(self, owner: Owner, near: int, by: int) -> None:
        try:
            offset = self.dynamic[near % len(self.dynamic)] + by
            wanted = self.pool.claim(self.pool.address(offset))
        except (IpamError, IndexError):
            return
        if owner in self.held or wanted in self.held.values():
            with pytest.raises(AddressInUse):
                self.leases.lease(self.pool, owner, wanted)
        else:
            assert self.leases.lease(self.pool, owner, wanted) == wanted
            self.grant(owner, wanted)

    @rule(owner=owners)
    def release(self, owner: Owner) -> None:
        assert self.leases.release(self.pool, owner) == self.forgo(owner)

    @rule(dead=st.sets(owners, max_size=4))
    def reclaim(self, dead: set[Owner]) -> None:
        reclaimed = self.leases.reclaim(lambda owner: owner not in dead, self.pool)
        order = [owner for owner, _ in reclaimed]
        assert {*order} == dead & self.held.keys()
        assert [(owner, self.pool.address(self.forgo(owner) or 0)) for owner in order] == reclaimed

    @precondition(lambda self: self.held)
    @rule()
    def drop(self) -> None:
        self.leases.drop(self.pool)
        self.held.clear()
        self.kept.clear()
        self.forget()

    def forget(self) -> None:
        self.last = -1

    @invariant()
    def leases_and_model_agree(self) -> None:
        offsets = sorted(self.held.values())
        assert dict(self.leases.owners(self.pool)) == self.held
        assert [offset for _, offset in self.leases.owners(self.pool)] == offsets
        available = set(self.dynamic) - set(offsets)
        assert self.leases.usage(self.pool) == Usage(len(offsets), len(available))

    def text(self, owner: Owner) -> str:
        return str(self.pool.address(self.held[owner]))


class DirectoryMachine(Machine):
    def open(self) -> Leases:
        self.path = tempfile.mkdtemp()
        return HostLocalDir(self.path)

    def teardown(self) -> None:
        shutil.rmtree(self.path)

    def forget(self) -> None:
        """Nothing: last_reserved_ip is the directory's, not the pool's."""


ONE_RANGE = {"v4": V4, "v4rr": V4_ROUND, "v6": V6, "v6rr": V6_ROUND}
SEVERAL_RANGES = {"several": V4_SEVERAL, "severalrr": V4_SEVERAL_ROUND}
STICKY = {"sticky": V4_STICKY, "stickyrr": V4_STICKY_ROUND, "sticky6": V6_STICKY}
CASES = {
    **{f"{name}-sqlite": (Machine, pool) for name, pool in (ONE_RANGE | SEVERAL_RANGES).items()},
    **{f"{name}-files": (DirectoryMachine, pool) for name, pool in ONE_RANGE.items()},
    **{f"{name}-files": (DirectoryMachine, pool) for name, pool in SEVERAL_RANGES.items()},
    **{f"{name}-sqlite": (Machine, pool) for name, pool in STICKY.items()},
}


@pytest.mark.parametrize(("machine", "pool"), CASES.values(), ids=CASES)
def test_leases_behave_as_the_model(machine: type[Machine], pool: Pool) -> None:
    class Case(machine):  # type: ignore[misc,valid-type]
        pass

    Case.pool = pool
    Case.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
    Case.TestCase("runTest").runTest()
