"""What both memories of leases promise, and what each does alone."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipam import (
    AddressInUse,
    AddressOutOfRange,
    Allocator,
    HostLocalDir,
    InvalidPool,
    Leases,
    Owner,
    Pool,
    PoolExhausted,
    SqliteLeases,
    Usage,
)

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


def test_two_networks_may_use_one_subnet_under_two_names(sqlite: SqliteLeases) -> None:
    pools = [Pool("192.168.1.0/24", name=name) for name in ("homeA", "homeB")]
    assert [sqlite.lease(pool, C1) for pool in pools] == [2, 2]


def test_the_cost_of_a_lease_does_not_grow_with_the_pool(sqlite: SqliteLeases) -> None:
    """Counted, not timed: SQLite's work for a grant, in its own steps, 3 000 leases apart."""
    pool = Pool("10.88.0.0/16")
    connection = sqlite._db

    def steps(number: int) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection.set_progress_handler(count, 1)
        sqlite.lease(pool, Owner(f"{number:064x}"))
        connection.set_progress_handler(None, 1)
        return counted

    sqlite.lease(pool, C1)
    few = steps(0)
    for number in range(1, 3_000):
        sqlite.lease(pool, Owner(f"{number:064x}"))
    assert steps(3_000) <= few + 5


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
