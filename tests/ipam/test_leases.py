"""What both memories of leases promise, and what each does alone."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipam import (
    AddressInUse,
    AddressOutOfRange,
    AddressRequired,
    Allocator,
    HostLocalDir,
    InvalidPool,
    Leases,
    NullAllocator,
    Owner,
    Pool,
    PoolExhausted,
    SqliteLeases,
    Usage,
)
from ipam import leases as ipam_leases

C1, C2, C3 = (Owner(f"c{number}/eth0") for number in (1, 2, 3))
RUNNING = Owner("c1/eth0", "boot-1", "/run/netns/c1")


@pytest.fixture(params=["sqlite", "connection", "directory"])
def leases(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Leases]:
    if request.param == "directory":
        yield HostLocalDir(tmp_path / "web")
    elif request.param == "connection":
        connection = sqlite3.connect(":memory:")
        yield SqliteLeases(connection)
        connection.close()
    else:
        sqlite = SqliteLeases(tmp_path / "leases.db")
        yield sqlite
        sqlite.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SqliteLeases]:
    leases = SqliteLeases(tmp_path / "leases.db")
    yield leases
    leases.close()


def test_the_first_container_of_a_16_gets_dot_2(leases: Leases) -> None:
    web = Allocator(Pool("172.17.0.0/16"), leases)
    assert [str(web.lease(owner)) for owner in (C1, C2)] == ["172.17.0.2/16", "172.17.0.3/16"]


def test_ipv6_is_leased_like_ipv4(leases: Leases) -> None:
    web = Allocator(Pool("fd00:88::/64"), leases)
    assert [str(web.lease(owner)) for owner in (C1, C2)] == ["fd00:88::2/64", "fd00:88::3/64"]


def test_both_addresses_of_a_link_are_leased(leases: Leases) -> None:
    link = Allocator(Pool("10.1.1.0/31"), leases)
    assert [str(link.lease(owner)) for owner in (C1, C2)] == ["10.1.1.0/31", "10.1.1.1/31"]


def test_a_released_address_is_the_next_one_granted(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), leases)
    first = web.lease(C1)
    web.lease(C2)
    assert web.release(C1) == first
    assert web.lease(C3) == first


def test_round_robin_reuses_an_address_only_after_all_others(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/29", round_robin=True), leases)
    seen = []
    for _ in range(7):
        seen.append(str(web.lease(C1).ip))
        web.release(C1)
    assert seen == [f"10.88.0.{last}" for last in (2, 3, 4, 5, 6, 2, 3)]


def test_round_robin_goes_through_all_ranges_before_it_comes_back(leases: Leases) -> None:
    ranges = ["10.88.0.20-10.88.0.22", "10.88.0.4/31"]
    web = Allocator(Pool("10.88.0.0/24", ip_range=ranges, round_robin=True), leases)
    web.lease(C2, "10.88.0.21")
    seen = []
    for _ in range(6):
        seen.append(str(web.lease(C1).ip))
        web.release(C1)
    assert seen == [f"10.88.0.{last}" for last in (20, 22, 4, 5, 20, 22)]


def test_a_full_range_flows_over_into_the_next(leases: Leases) -> None:
    ranges = ["10.88.0.200/31", "10.88.0.9-10.88.0.10"]
    web = Allocator(Pool("10.88.0.0/24", ip_range=ranges), leases)
    got = [str(web.lease(Owner(f"c{number}/eth0")).ip) for number in range(1, 5)]
    assert got == [f"10.88.0.{last}" for last in (200, 201, 9, 10)]
    text = r"^no free address in 10\.88\.0\.200-10\.88\.0\.201 and 10\.88\.0\.9-10\.88\.0\.10 of "
    with pytest.raises(PoolExhausted, match=text + r"10\.88\.0\.0/24 \(4 of 4 leased\)$"):
        web.lease(Owner("late/eth0"))
    web.lease(Owner("late/eth0"), "10.88.0.100")  # between the ranges
    assert web.usage() == Usage(5, 0)
    for owner in (Owner("late/eth0"), Owner("c4/eth0"), C2):
        web.release(owner)
    assert web.usage() == Usage(2, 2)
    assert str(web.lease(Owner("later/eth0")).ip) == "10.88.0.201"


def test_a_pool_without_ranges_gives_what_is_asked_for_and_nothing_else(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24", ip_range="none"), leases)
    with pytest.raises(AddressRequired, match=r"^no address of 10\.88\.0\.0/24 is handed out una"):
        web.lease(C1)
    assert str(web.lease(C1, "10.88.0.9")) == "10.88.0.9/24"
    assert web.usage() == Usage(1, 0)
    assert web.release(C1) is not None


def test_an_owner_with_numbered_keys_holds_several_addresses(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), leases)
    second = C1._replace(key=f"{C1.key}#2")
    got = [str(web.lease(owner, f"10.88.0.{ip}").ip) for owner, ip in ((C1, 9), (second, 7))]
    assert got == ["10.88.0.9", "10.88.0.7"]
    assert str(web.release(second)) == "10.88.0.7/24"
    assert str(web.held(C1)) == "10.88.0.9/24"


def test_where_there_are_no_addresses_nothing_is_leased_and_none_may_be_asked_for() -> None:
    nowhere = NullAllocator()
    assert nowhere.lease(C1) == ()
    nowhere.release(C1)
    with pytest.raises(AddressOutOfRange, match=r"c1/eth0 asks for 10\.88\.0\.9, and no addresses"):
        nowhere.lease(C1, ["10.88.0.9"])


def test_releasing_twice_is_no_error(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), leases)
    assert web.release(C1) is None
    web.lease(C1)
    assert web.release(C1) is not None
    assert web.release(C1) is None
    assert web.usage() == Usage(0, 253)


def test_an_owner_holds_one_address_of_a_pool_and_is_told_which(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), leases)
    web.lease(C1)
    for wanted in (None, "10.88.0.2", "10.88.0.9"):
        with pytest.raises(AddressInUse, match=r"c1/eth0 already holds 10\.88\.0\.2 of 10\.88\.0"):
            web.lease(C1, wanted)
    assert web.usage() == Usage(1, 252)


def test_an_owner_may_hold_an_address_of_each_pool(leases: Leases) -> None:
    pools = [Allocator(Pool(subnet), leases) for subnet in ("10.88.0.0/24", "fd00:88::/64")]
    assert [str(pool.lease(C1)) for pool in pools] == ["10.88.0.2/24", "fd00:88::2/64"]
    assert pools[0].release(C1) is not None
    assert str(pools[1].held(C1)) == "fd00:88::2/64"


def test_a_static_address_that_is_taken_names_its_holder(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), leases)
    assert str(web.lease(C1, "10.88.0.77")) == "10.88.0.77/24"
    with pytest.raises(AddressInUse, match=r"^10\.88\.0\.77 is leased to c1/eth0$"):
        web.lease(C2, "10.88.0.77")
    with pytest.raises(AddressOutOfRange):
        web.lease(C2, "10.89.0.77")
    assert web.held(C2) is None


def test_a_reservation_is_stepped_over_by_dynamic_grants(leases: Leases) -> None:
    """A22: made when the endpoint is created, so that a sibling started first cannot take it."""
    web = Allocator(Pool("10.88.0.0/24"), leases)
    web.lease(C1, "10.88.0.3")
    assert [str(web.lease(owner).ip) for owner in (C2, C3)] == ["10.88.0.2", "10.88.0.4"]


def test_named_addresses_and_the_rest_of_the_subnet_are_never_granted(leases: Leases) -> None:
    pool = Pool("10.88.0.0/24", ip_range="10.88.0.0/29", reserved={"ns": "10.88.0.3"})
    web = Allocator(pool, leases)
    granted = [str(web.lease(Owner(f"c{number}/eth0")).ip) for number in range(5)]
    assert granted == [f"10.88.0.{last}" for last in (2, 4, 5, 6, 7)]
    text = r"^no free address in 10\.88\.0\.1-10\.88\.0\.7 of 10\.88\.0\.0/24 \(5 of 5 leased\)$"
    with pytest.raises(PoolExhausted, match=text) as refused:
        web.lease(Owner("c6/eth0"))
    assert refused.value.hint
    assert str(web.lease(Owner("c6/eth0"), "10.88.0.200").ip) == "10.88.0.200"
    assert web.usage() == Usage(6, 0)


def test_a_full_subnet_says_how_full(leases: Leases) -> None:
    web = Allocator(Pool("10.88.0.0/28"), leases)
    for number in range(13):
        web.lease(Owner(f"c{number}"))
    with pytest.raises(PoolExhausted, match=r"^no free address in 10\.88\.0\.0/28 \(13 of 13 lea"):
        web.lease(Owner("late"))


def test_the_leases_of_dead_owners_are_reclaimed_and_only_theirs(leases: Leases) -> None:
    web, db = Pool("10.88.0.0/24"), Pool("fd00::/64")
    for pool in (web, db):
        for owner in (C1, C2):
            leases.lease(pool, owner)
    assert leases.reclaim(lambda owner: owner == C2, web) == [(C1, web.address(2))]
    assert leases.owners(web) == [(C2, 3)]
    assert leases.reclaim(lambda owner: owner == C2) == [(C1, db.address(2))]
    assert leases.usage(db).in_use == 1
    assert leases.lease(web, C3) == 2


def test_an_address_that_changed_hands_meanwhile_is_not_reclaimed(leases: Leases) -> None:
    pool = Pool("10.88.0.0/24")
    leases.lease(pool, C1)

    def handed_over_while_asked(owner: Owner) -> bool:
        leases.release(pool, owner)
        leases.lease(pool, C2, 2)
        return False

    assert leases.reclaim(handed_over_while_asked) == []
    assert leases.owners(pool) == [(C2, 2)]


def test_a_dropped_pool_is_empty_and_its_neighbour_is_not(leases: Leases) -> None:
    web, db = Pool("10.88.0.0/24"), Pool("10.89.0.0/24")
    leases.lease(web, C1)
    leases.lease(db, C1)
    leases.drop(web)
    assert (leases.owners(web), leases.owners(db)) == ([], [(C1, 2)])
    assert leases.lease(web, C2) == 2


def test_a_reservation_becomes_the_lease_of_its_owner_once(sqlite: SqliteLeases) -> None:
    web = Allocator(Pool("10.88.0.0/24"), sqlite)
    web.lease(C1, "10.88.0.9")
    with pytest.raises(AddressInUse, match="already holds"):
        web.lease(RUNNING, "10.88.0.10")
    assert str(web.lease(RUNNING).ip) == "10.88.0.9"
    assert sqlite.owners(web.pool) == [(RUNNING, 9)]
    with pytest.raises(AddressInUse, match="already holds"):
        web.lease(RUNNING)
    assert web.usage() == Usage(1, 252)


def test_a_reservation_is_taken_up_in_a_full_pool(sqlite: SqliteLeases) -> None:
    web = Allocator(Pool("10.88.0.0/30"), sqlite)
    web.lease(C1, "10.88.0.2")
    with pytest.raises(PoolExhausted):
        web.lease(C2)
    assert str(web.lease(RUNNING)) == "10.88.0.2/30"


def test_a_lease_of_an_earlier_boot_is_not_mistaken_for_a_later_one(sqlite: SqliteLeases) -> None:
    pool = Pool("10.88.0.0/24")
    sqlite.lease(pool, RUNNING)

    def restarted_while_asked(owner: Owner) -> bool:
        sqlite.release(pool, owner)
        sqlite.lease(pool, owner._replace(boot="boot-2"))
        return False

    assert sqlite.reclaim(restarted_while_asked) == []
    assert sqlite.owners(pool) == [(RUNNING._replace(boot="boot-2"), 2)]


def test_a_lease_is_kept_or_lost_with_the_callers_transaction() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    web = Allocator(Pool("10.88.0.0/24"), SqliteLeases(connection))
    connection.execute("BEGIN")
    web.lease(C1)
    assert connection.in_transaction
    connection.execute("ROLLBACK")
    assert web.held(C1) is None
    connection.execute("BEGIN")
    web.lease(C1)
    with pytest.raises(AddressInUse):
        web.lease(C2, "10.88.0.2")
    connection.execute("COMMIT")
    assert str(web.held(C1)) == "10.88.0.2/24"
    assert web.usage() == Usage(1, 252)
    connection.close()


def test_a_refused_lease_leaves_the_database_as_it_was() -> None:
    connection = sqlite3.connect(":memory:")
    web = Allocator(Pool("10.88.0.0/29", round_robin=True), SqliteLeases(connection))
    web.lease(C1, "10.88.0.3")
    before = list(connection.iterdump())
    for owner, wanted in ((C1, None), (C2, "10.88.0.3"), (C1, "10.88.0.4")):
        with pytest.raises(AddressInUse):
            web.lease(owner, wanted)
    assert list(connection.iterdump()) == before
    connection.close()


def test_a_file_is_for_its_owner_only(tmp_path: Path) -> None:
    leases = SqliteLeases(tmp_path / "leases.db")
    leases.lease(Pool("10.88.0.0/24"), C1)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    leases.close()
    assert modes == dict.fromkeys(
        ["leases.db", "leases.db-wal", "leases.db-shm", "leases.db.lock"], 0o600
    )


def test_leases_outlive_the_connection(tmp_path: Path) -> None:
    for owner, expected in ((C1, 2), (C2, 3)):
        leases = SqliteLeases(tmp_path / "leases.db")
        assert leases.lease(Pool("10.88.0.0/24"), owner) == expected
        leases.close()


def test_a_pool_may_change_its_shape_under_its_leases(sqlite: SqliteLeases) -> None:
    old = Pool("10.88.0.0/28")
    owners = [Owner(f"c{number}") for number in range(6)]
    for owner in owners:
        sqlite.lease(old, owner)
    for released in owners[:2]:  # one outside the new range, one inside
        sqlite.release(old, released)
    new = Pool("10.88.0.0/28", ip_range="10.88.0.3-10.88.0.9", reserved={"ns": "10.88.0.8"})
    assert sqlite.usage(new) == Usage(4, 2)
    assert [sqlite.lease(new, Owner(late)) for late in ("x", "y")] == [3, 9]
    with pytest.raises(PoolExhausted):
        sqlite.lease(new, Owner("z"))


def test_a_pool_cannot_take_an_address_from_its_holder_by_changing(sqlite: SqliteLeases) -> None:
    sqlite.lease(Pool("10.88.0.0/24", name="web"), C1)
    with pytest.raises(AddressInUse, match=r"10\.88\.0\.2 is leased to c1/eth0"):
        sqlite.lease(Pool("10.88.0.0/24", name="web", gateway="10.88.0.2"), C2)
    with pytest.raises(InvalidPool, match=r"'web' cannot become 10\.99\.0\.0/24: 1 addresses of"):
        sqlite.lease(Pool("10.99.0.0/24", name="web"), C2)
    sqlite.release(Pool("10.88.0.0/24", name="web"), C1)
    assert sqlite.lease(Pool("10.99.0.0/24", name="web"), C2) == 2


def test_a_change_of_shape_that_is_refused_leaves_the_database_as_it_was() -> None:
    """In the transaction of a caller too, who may catch the error and commit."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    leases = SqliteLeases(connection)
    old = Pool("10.88.0.0/24", name="web", sticky=True)
    plain = Pool("10.89.0.0/24", name="db")
    for pool in (old, plain):
        for owner in (C1, C2, C3):
            leases.lease(pool, owner)
        leases.release(pool, C2)
    before = list(connection.iterdump())
    connection.execute("BEGIN")
    for subnet, name in (("10.88.0.0/24", "web"), ("10.89.0.0/24", "db")):
        with pytest.raises(AddressInUse):
            leases.lease(Pool(subnet, name=name, gateway=subnet.replace("0/24", "2")), C2)
    connection.execute("COMMIT")
    assert list(connection.iterdump()) == before
    connection.close()


def test_two_networks_may_use_one_subnet_under_two_names(sqlite: SqliteLeases) -> None:
    pools = [Pool("192.168.1.0/24", name=name) for name in ("homeA", "homeB")]
    assert [sqlite.lease(pool, C1) for pool in pools] == [2, 2]


SHAPES: dict[str, dict[str, Any]] = {
    "lowest": {},
    "round": {"round_robin": True},
    "ranges": {"ip_range": ["10.88.128.0/24", "10.88.0.0/20"]},
    "sticky": {"sticky": True},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_cost_of_a_lease_does_not_grow_with_the_pool(
    sqlite: SqliteLeases, shape: dict[str, Any]
) -> None:
    """Counted, not timed: SQLite's work for a grant, in its own steps, 3 000 leases apart."""
    pool = Pool("10.88.0.0/16", **shape)

    def lease(number: int) -> int:
        return steps(sqlite, lambda: sqlite.lease(pool, Owner(f"{number:064x}")))

    sqlite.lease(pool, C1)
    few = lease(0)
    for number in range(1, 3_000):
        sqlite.lease(pool, Owner(f"{number:064x}"))
    assert lease(3_000) <= few + 5


def steps(leases: SqliteLeases, call: Callable[[], object]) -> int:
    """How much SQLite works for *call*."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    leases._db.set_progress_handler(count, 1)
    call()
    leases._db.set_progress_handler(None, 1)
    return counted


# -- sticky pools ---------------------------------------------------------------------------------


def test_a_name_gets_its_address_again_while_others_come_and_go(tmp_path: Path) -> None:
    """Also after a reboot, when nothing but the file is left, and gc found the leases dead."""
    pool = Pool("10.88.0.0/28", sticky=True)
    leases = SqliteLeases(tmp_path / "leases.db")
    web = Allocator(pool, leases)
    db, cache = Owner("db", "boot-1", "/a"), Owner("cache", "boot-1", "/b")
    assert [str(web.lease(owner).ip) for owner in (db, cache)] == ["10.88.0.2", "10.88.0.3"]
    web.release(db)
    for number in range(40):
        web.lease(Owner(f"job-{number}"))
        web.release(Owner(f"job-{number}"))
    leases.close()

    leases = SqliteLeases(tmp_path / "leases.db")
    assert [owner.key for owner, _ in leases.reclaim(lambda owner: owner.boot != "boot-1")] == [
        "cache"
    ]
    web = Allocator(pool, leases)
    assert str(web.lease(Owner("late")).ip) not in ("10.88.0.2", "10.88.0.3")
    assert str(web.lease(cache._replace(boot="boot-2")).ip) == "10.88.0.3"
    leases.close()


def test_under_pressure_what_was_released_longest_ago_goes_first(sqlite: SqliteLeases) -> None:
    web = Allocator(Pool("10.88.0.0/29", sticky=True), sqlite)
    names = ("a", "b", "c", "d", "e")
    for name in names:
        web.lease(Owner(name))
    for name in ("c", "a", "e", "b", "d"):
        web.release(Owner(name))
    web.lease(Owner("a"))  # has its own again, so it is not next
    web.release(Owner("a"))
    assert [str(web.lease(Owner(f"new-{x}")).ip)[-1] for x in range(5)] == ["4", "6", "3", "5", "2"]
    with pytest.raises(PoolExhausted):
        web.lease(Owner("a"))


def test_what_is_kept_may_be_asked_for_by_anybody(sqlite: SqliteLeases) -> None:
    web = Allocator(Pool("10.88.0.0/24", sticky=True), sqlite)
    web.lease(C1)
    web.release(C1)
    assert str(web.lease(C2, "10.88.0.2").ip) == "10.88.0.2"
    assert str(web.lease(C1).ip) == "10.88.0.3"


def test_an_owner_is_kept_one_address_the_last_it_had(sqlite: SqliteLeases) -> None:
    web = Allocator(Pool("10.88.0.0/24", sticky=True), sqlite)
    web.lease(C1)
    web.release(C1)
    web.lease(C1, "10.88.0.9")
    web.release(C1)
    assert str(web.lease(C2).ip) == "10.88.0.2"
    assert str(web.lease(C1).ip) == "10.88.0.9"


@pytest.mark.parametrize("anew", [False, True])
def test_pressure_costs_the_same_however_many_are_kept(sqlite: SqliteLeases, anew: bool) -> None:
    """Counted as above: pools with nothing but kept addresses, 125 and 4 093; also filed anew."""

    def cost(name: str, subnet: str) -> int:
        pool = Pool(subnet, name=name, sticky=True)
        for number in range(pool.capacity):
            sqlite.lease(pool, Owner(f"{number:064x}"))
        for number in range(pool.capacity):
            sqlite.release(pool, Owner(f"{number:064x}"))
        pool = Pool(subnet, name=name, sticky=True, round_robin=anew)
        sqlite.lease(
            pool, Owner("first")
        )  # this one steps over all of them, if they are filed anew
        return steps(sqlite, lambda: sqlite.lease(pool, Owner("second")))

    assert cost("large", "10.2.0.0/20") <= cost("small", "10.1.0.0/25") + 5


def test_a_pool_that_is_filed_anew_still_keeps_what_it_may(sqlite: SqliteLeases) -> None:
    old = Pool("10.88.0.0/24", sticky=True)
    for owner in (C1, C2, C3):
        sqlite.lease(old, owner)
    for owner in (C1, C2, C3):
        sqlite.release(old, owner)
    new = Pool("10.88.0.0/24", sticky=True, ip_range="10.88.0.3-10.88.0.9", gateway="10.88.0.4")
    assert sqlite.lease(new, Owner("late")) == 5  # 3 is kept, 4 is the gateway now
    assert [sqlite.lease(new, owner) for owner in (C2, C1, C3)] == [3, 6, 7]


@pytest.mark.parametrize(
    "other", [Pool("10.88.0.0/24", name="web"), Pool("10.77.0.0/24", name="web", sticky=True)]
)
def test_a_pool_that_is_no_longer_sticky_or_has_moved_keeps_nothing(
    sqlite: SqliteLeases, other: Pool
) -> None:
    sticky = Pool("10.88.0.0/24", name="web", sticky=True)
    for owner in (C1, C2):
        sqlite.lease(sticky, owner)
    for owner in (C1, C2):
        sqlite.release(sticky, owner)
    assert [sqlite.lease(other, owner) for owner in (C2, C1)] == [2, 3]


def test_a_large_pool_keeps_a_bounded_number(
    sqlite: SqliteLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipam_leases, "_KEPT", 4)
    pool = Pool("fd00::/64", sticky=True)
    for number in range(9):
        sqlite.lease(pool, Owner(f"c{number}"))
    for number in range(9):
        sqlite.release(pool, Owner(f"c{number}"))
    (kept,) = sqlite._db.execute("SELECT count(*) FROM lease_kept").fetchone()
    assert kept == 4
    assert [sqlite.lease(pool, Owner(f"c{number}")) for number in (8, 5, 4)] == [10, 7, 2]


def test_a_directory_of_host_locals_cannot_be_sticky_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidPool, match="does not remember who released an address") as refused:
        HostLocalDir(tmp_path).lease(Pool("10.88.0.0/24", sticky=True), C1)
    assert refused.value.hint


# -- a file of 0.1 --------------------------------------------------------------------------------

# as it was written there: .2 and .200 (static) are leased, .3 was and is free again
OLD_FILE = """
    CREATE TABLE lease_pool (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, subnet TEXT NOT NULL,
        shape TEXT NOT NULL, start NOT NULL, stop NOT NULL, cursor NOT NULL, last NOT NULL,
        leased INTEGER NOT NULL, inside INTEGER NOT NULL);
    CREATE TABLE lease (
        pool INTEGER NOT NULL, offset NOT NULL, key TEXT NOT NULL, boot TEXT NOT NULL,
        netns TEXT NOT NULL, PRIMARY KEY (pool, offset)) WITHOUT ROWID;
    CREATE UNIQUE INDEX lease_key ON lease (pool, key);
    CREATE TABLE lease_free (
        pool INTEGER NOT NULL, offset NOT NULL, PRIMARY KEY (pool, offset)) WITHOUT ROWID;
    INSERT INTO lease_pool VALUES
        (7,'web','10.88.0.0/24','10.88.0.0/24 1-127 lowest-free not [1]',1,127,4,-1,2,1);
    INSERT INTO lease VALUES (7,2,'c1/eth0','','');
    INSERT INTO lease VALUES (7,200,'c2/eth0','','');
    INSERT INTO lease_free VALUES (7,3);
"""


@pytest.mark.parametrize("first", ["lease", "release", "reclaim"])
def test_a_file_of_an_older_netkit_is_taken_over_with_its_leases(first: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(OLD_FILE)
    pool = Pool("10.88.0.0/24", ip_range="10.88.0.0/25", name="web")
    for _ in range(2):  # a second time there is nothing to do
        leases = SqliteLeases(connection)
    if first == "release":
        assert leases.release(pool, C2) == 200
    elif first == "reclaim":
        assert leases.reclaim(lambda owner: owner == C1) == [(C2, pool.address(200))]
    assert [leases.lease(pool, Owner(late)) for late in ("x", "y")] == [3, 4]
    leases.release(pool, C2)
    assert leases.owners(pool) == [(C1, 2), (Owner("x"), 3), (Owner("y"), 4)]
    assert leases.usage(pool) == Usage(3, 123)
    connection.close()


# -- host-local's files ---------------------------------------------------------------------------


def test_the_files_are_host_locals(tmp_path: Path) -> None:
    directory = HostLocalDir(tmp_path / "web", index=1)
    directory.lease(Pool("10.88.0.0/24", round_robin=True), C1)
    files = {path.name: path.read_bytes() for path in (tmp_path / "web").iterdir()}
    assert files == {
        "10.88.0.2": b"c1\r\neth0",
        "last_reserved_ip.1": b"10.88.0.2",
        "lock": b"",
    }
    assert stat.S_IMODE((tmp_path / "web" / "10.88.0.2").stat().st_mode) == 0o600


def test_what_the_go_plugin_wrote_is_honoured(tmp_path: Path) -> None:
    (tmp_path / "10.88.0.2").write_bytes(b"old\n")  # an old version: the id alone
    (tmp_path / "10.88.0.3").write_bytes(b"new\r\neth0")
    (tmp_path / "10.88.0.7").write_bytes(b"other\r\neth0")
    (tmp_path / "last_reserved_ip.0").write_text("10.88.0.3")
    web = Allocator(Pool("10.88.0.0/29", round_robin=True), HostLocalDir(tmp_path))
    assert str(web.held(Owner("old/eth0"))) == "10.88.0.2/29"
    with pytest.raises(AddressInUse, match=r"old/eth0 already holds 10\.88\.0\.2"):
        web.lease(Owner("old/eth0"))
    assert [str(web.lease(owner).ip) for owner in (C1, C2)] == ["10.88.0.4", "10.88.0.5"]
    assert str(web.release(Owner("new/eth0"))) == "10.88.0.3/29"
    assert str(web.release(Owner("old/eth0"))) == "10.88.0.2/29"
    assert web.release(Owner("other/eth1")) is None


def test_an_empty_file_left_by_a_killed_writer_is_no_lease(tmp_path: Path) -> None:
    (tmp_path / "10.88.0.2").touch()
    (tmp_path / "last_reserved_ip.0").touch()
    assert HostLocalDir(tmp_path).lease(Pool("10.88.0.0/24", round_robin=True), C1) == 2
    assert (tmp_path / "10.88.0.2").read_bytes() == b"c1\r\neth0"


def test_a_range_set_is_gone_round_as_a_whole(tmp_path: Path) -> None:
    pools = [
        Pool(subnet, round_robin=True, gateway="none")
        for subnet in ("10.0.0.0/30", "10.0.1.0/30", "10.0.2.0/31")
    ]
    directory = HostLocalDir(tmp_path)
    seen = []
    for _ in range(8):
        pool, offset = directory.lease_any(pools, C1)
        seen.append(str(pool.address(offset)))
        directory.release(pool, C1)
    once = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "10.0.1.2", "10.0.2.0", "10.0.2.1"]
    assert seen == [*once, *once[:2]]
