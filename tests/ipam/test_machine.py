"""Leases against a model: a dict of who holds which offset, and the last one granted."""

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

owners = st.integers(0, 11).map(lambda number: Owner(f"c{number}/eth0"))


class Machine(RuleBasedStateMachine):
    pool: ClassVar[Pool]

    def __init__(self) -> None:
        super().__init__()
        self.leases = self.open()
        self.held: dict[Owner, int] = {}
        self.last = -1

    def open(self) -> Leases:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        return SqliteLeases(self.connection)

    def teardown(self) -> None:
        self.connection.close()

    @property
    def dynamic(self) -> list[int]:
        pool = self.pool
        return [x for x in range(pool.start, pool.stop + 1) if x not in pool.excluded]

    @rule(owner=owners)
    def lease(self, owner: Owner) -> None:
        free = [x for x in self.dynamic if x not in self.held.values()]
        if owner in self.held:
            with pytest.raises(AddressInUse, match=f"already holds {self.text(owner)}"):
                self.leases.lease(self.pool, owner)
        elif not free:
            with pytest.raises(PoolExhausted, match="{0} of {0} leased".format(len(self.dynamic))):
                self.leases.lease(self.pool, owner)
        else:
            offset = next((x for x in free if x > self.last), free[0])
            assert self.leases.lease(self.pool, owner) == offset
            self.held[owner] = offset
            self.last = offset if self.pool.round_robin else -1

    @rule(owner=owners, number=st.integers(-3, 14))
    def lease_static(self, owner: Owner, number: int) -> None:
        try:
            wanted = self.pool.claim(self.pool.address(self.pool.start + number))
        except IpamError:
            return
        if owner in self.held or wanted in self.held.values():
            with pytest.raises(AddressInUse):
                self.leases.lease(self.pool, owner, wanted)
        else:
            assert self.leases.lease(self.pool, owner, wanted) == wanted
            self.held[owner] = wanted

    @rule(owner=owners)
    def release(self, owner: Owner) -> None:
        assert self.leases.release(self.pool, owner) == self.held.pop(owner, None)

    @rule(dead=st.sets(owners, max_size=4))
    def reclaim(self, dead: set[Owner]) -> None:
        reclaimed = dict(self.leases.reclaim(lambda owner: owner not in dead, self.pool))
        assert reclaimed == {
            owner: self.pool.address(self.held.pop(owner)) for owner in dead & self.held.keys()
        }

    @precondition(lambda self: self.held)
    @rule()
    def drop(self) -> None:
        self.leases.drop(self.pool)
        self.held.clear()
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


@pytest.mark.parametrize("pool", [V4, V4_ROUND, V6, V6_ROUND], ids=["v4", "v4rr", "v6", "v6rr"])
@pytest.mark.parametrize("machine", [Machine, DirectoryMachine])
def test_leases_behave_as_the_model(machine: type[Machine], pool: Pool) -> None:
    class Case(machine):  # type: ignore[misc,valid-type]
        pass

    Case.pool = pool
    Case.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
    Case.TestCase("runTest").runTest()
