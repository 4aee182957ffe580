"""Leases: which owner holds which address of which pool, remembered across processes and crashes.

Shapes   addresses are offsets into the pool (ipam.pool); an owner is known by its key, and has at
         most one lease in a pool: for more, number its key ("c1/eth0", "c1/eth0#2"). Every grant
         and release is one transaction.
Units    offsets and positions may need 128 bits
Errors   AddressInUse, PoolExhausted, AddressRequired, InvalidPool (ipam.errors)
Source   on-disk format of HostLocalDir: containernetworking/plugins, plugins/ipam/host-local
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_UN, flock
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ipam.errors import AddressInUse, AddressRequired, InvalidPool, IpamError, PoolExhausted
from ipam.pool import Address, Pool, Ranges

if TYPE_CHECKING:
    from sqlite3 import Connection


class Owner(NamedTuple):
    """Who holds a lease. Without a boot id it is a reservation: made before its owner runs."""

    key: str
    boot: str = ""
    netns: str = ""


class Usage(NamedTuple):
    """How full a pool is: leases out (static ones too), dynamic ones still to be had."""

    in_use: int
    available: int


class Leases(Protocol):
    """The memory of an allocator. *wanted* is an offset the pool has approved (Pool.claim)."""

    def lease(self, pool: Pool, owner: Owner, wanted: int | None = None) -> int: ...
    def release(self, pool: Pool, owner: Owner) -> int | None: ...
    def held(self, pool: Pool, owner: Owner) -> int | None: ...
    def owners(self, pool: Pool) -> list[tuple[Owner, int]]: ...
    def usage(self, pool: Pool) -> Usage: ...
    def reclaim(
        self, alive: Callable[[Owner], bool], pool: Pool | None = None
    ) -> list[tuple[Owner, Address]]: ...
    def drop(self, pool: Pool) -> None: ...


def _taken(ip: Address, by: Owner) -> AddressInUse:
    return AddressInUse(f"{ip} is leased to {by.key}")


def _doubled(pool: Pool, ip: Address, owner: Owner) -> AddressInUse:
    return AddressInUse(f"{owner.key} already holds {ip} of {pool.subnet}", "release it first")


def _exhausted(pools: Sequence[Pool]) -> IpamError:
    where = " and ".join(pool.where() for pool in pools)
    if not any(pool.ranges for pool in pools):
        return AddressRequired(
            f"no address of {pools[0].subnet} is handed out unasked", "ask for one of it"
        )
    capacity = sum(pool.capacity for pool in pools)
    return PoolExhausted(
        f"no free address in {where} ({capacity} of {capacity} leased)",
        "release endpoints, or use a wider subnet or range",
    )


# -- SQLite ---------------------------------------------------------------------------------------

# Finding the next address never searches. Of the positions (Pool.ranges) below the cursor each is
# leased, excluded, kept, or listed in lease_free; from it on some are leased or kept, and it steps
# over each of them once. Lowest free is then the least of lease_free, else the cursor; round robin
# the same beyond `last`; and once there is neither, what has been kept longest.
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS lease_pool (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, subnet TEXT NOT NULL,
        shape TEXT NOT NULL, ranges TEXT NOT NULL, keep INTEGER NOT NULL, cursor NOT NULL,
        last NOT NULL, leased INTEGER NOT NULL,
        inside INTEGER NOT NULL)""",  # those leased of the ranges
    """CREATE TABLE IF NOT EXISTS lease (
        pool INTEGER NOT NULL, offset NOT NULL, key TEXT NOT NULL, boot TEXT NOT NULL,
        netns TEXT NOT NULL, PRIMARY KEY (pool, offset)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX IF NOT EXISTS lease_key ON lease (pool, key)",
    # a position, though its name is of the time when a pool had one range
    """CREATE TABLE IF NOT EXISTS lease_free (
        pool INTEGER NOT NULL, offset NOT NULL, PRIMARY KEY (pool, offset)) WITHOUT ROWID""",
    # released by its owner and kept for it; the least turn was released first
    """CREATE TABLE IF NOT EXISTS lease_kept (
        pool INTEGER NOT NULL, offset NOT NULL, key TEXT NOT NULL, turn INTEGER NOT NULL,
        PRIMARY KEY (pool, offset)) WITHOUT ROWID""",
    "CREATE UNIQUE INDEX IF NOT EXISTS lease_kept_key ON lease_kept (pool, key)",
    "CREATE UNIQUE INDEX IF NOT EXISTS lease_kept_turn ON lease_kept (pool, turn)",
)
# A file of 0.1 has the one range of a pool in two columns. No pool is of the shape '', so each will
# be filed anew
_IS_OLD = "SELECT 1 FROM pragma_table_info('lease_pool') WHERE name = 'start'"
_SET_ASIDE = "ALTER TABLE lease_pool RENAME TO lease_pool_old"
_TAKE_OVER = (
    """INSERT INTO lease_pool SELECT id, name, subnet, '', '', 0, 0, -1, leased, inside
        FROM lease_pool_old""",
    "DROP TABLE lease_pool_old",
)
_FILED = """SELECT id, shape, cursor, last, leased, inside,
    (SELECT offset FROM lease_free WHERE pool = id AND offset > last ORDER BY offset LIMIT 1),
    (SELECT offset FROM lease WHERE pool = id AND key = ?2),
    (SELECT offset FROM lease_kept WHERE pool = id AND key = ?2)
    FROM lease_pool WHERE name = ?1"""
_FILE = """INSERT INTO lease_pool
    (name, subnet, shape, ranges, keep, cursor, last, leased, inside)
    VALUES (?1, ?2, ?3, ?4, ?5, 0, -1, 0, 0)
    ON CONFLICT (name) DO UPDATE SET
    subnet = ?2, shape = ?3, ranges = ?4, keep = ?5, cursor = 0, last = -1, inside = ?6"""
_HELD = """SELECT id, offset, key, boot, netns FROM lease_pool JOIN lease ON pool = id
    WHERE name = ? AND key = ?"""
_GRANT = "INSERT INTO lease VALUES (?, ?, ?, ?, ?) ON CONFLICT (pool, offset) DO NOTHING"
_GRANTED = """UPDATE lease_pool SET cursor = ?, last = ?, leased = leased + 1, inside = inside + ?
    WHERE id = ?"""
_RETURN = "DELETE FROM lease WHERE pool=? AND offset=? AND key=? AND boot=? AND netns=?"
_RETURNED = "UPDATE lease_pool SET leased = leased - 1, inside = inside - ? WHERE id = ?"
_LIST = "INSERT INTO lease_free VALUES (?, ?)"
_UNLIST = "DELETE FROM lease_free WHERE pool = ? AND offset = ?"
_LEAST = "SELECT offset FROM lease_free WHERE pool = ? ORDER BY offset LIMIT 1"
_NEXT_TURN = "SELECT coalesce(max(turn), 0) + 1 FROM lease_kept WHERE pool = ?"
_IS_KEPT = "SELECT 1 FROM lease_kept WHERE pool = ? AND offset = ?"
_OLDEST = "SELECT offset, turn FROM lease_kept WHERE pool = ? ORDER BY turn LIMIT 1"
_UNKEEP = "DELETE FROM lease_kept WHERE pool = ? AND offset = ?"

# How many releases back a sticky pool remembers: all of them where it has no more addresses than
# this; an IPv6 subnet has room for every owner there ever was
_KEPT = 1 << 16
_ALL = 1 << 62

# SQLite's integers end at 63 bits; and it orders every blob after every integer. So an offset is
# an integer while it fits, a blob of fixed width beyond: exact, ordered, and small where it can be.
_Stored = int | bytes


def _store(offset: int) -> _Stored:
    return offset if offset < 1 << 63 else offset.to_bytes(16, "big")


def _load(stored: _Stored) -> int:
    return stored if isinstance(stored, int) else int.from_bytes(stored, "big")


class _Filed(NamedTuple):
    id: int
    shape: str
    cursor: _Stored
    last: _Stored
    leased: int
    inside: int
    freed: _Stored | None  # the next one to reuse
    held: _Stored | None  # what the asking owner has
    kept: _Stored | None  # what it had, and may have again


class _Candidate(NamedTuple):
    offset: int
    cursor: int  # where the cursor is, once this is granted
    last: _Stored  # so, too, the memory of round robin


class SqliteLeases:
    """Leases in tables `lease*` of a SQLite database; not to be shared between threads.

    On a caller's connection every call joins the transaction that is open, if one is: the lease is
    kept or lost with whatever else the caller commits. On a path the file is ours: WAL, mode 0600.
    """

    def __init__(
        self, database: Connection | str | os.PathLike[str], *, made: bool = False
    ) -> None:
        """*made*: the tables are there, as this version has them."""
        import sqlite3  # lazily: HostLocalDir does without it

        self._flock: int | None = None
        if isinstance(database, sqlite3.Connection):
            self._db = database
        else:
            path = os.fspath(database)
            # Writers queue at the kernel's lock and find SQLite's free: 2-5 times faster than its
            # own busy polling, and fairer
            self._flock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            # for its mode; one that is there is not opened: to close it again would drop the locks
            # that another connection of this process has on it
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            with self._locked():
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = NORMAL")
        if made:
            return
        with self._transaction():
            old = self._db.execute(_IS_OLD).fetchone()
            statements = (_SET_ASIDE, *_SCHEMA, *_TAKE_OVER) if old else _SCHEMA
            for statement in statements:
                self._db.execute(statement)

    def close(self) -> None:
        """Close the file this opened; a caller's connection is the caller's to close."""
        if self._flock is not None:
            self._db.close()
            os.close(self._flock)
            self._flock = None

    def lease(self, pool: Pool, owner: Owner, wanted: int | None = None) -> int:
        with self._transaction():
            filed = self._file(pool, owner)
            if filed.held is not None:
                return self._take_up(pool, owner, filed, wanted)
            for candidate in self._candidates(pool, filed, wanted):
                if self._grant(pool, owner, filed, candidate):
                    return candidate.offset
            if wanted is None:
                raise _exhausted([pool])
            raise _taken(pool.address(wanted), self._owner(filed.id, wanted))

    def release(self, pool: Pool, owner: Owner) -> int | None:
        with self._transaction():
            row = self._db.execute(_HELD, (pool.name, owner.key)).fetchone()
            if row is None:
                return None
            self._free(row)
            return _load(row[1])

    def held(self, pool: Pool, owner: Owner) -> int | None:
        row = self._db.execute(_HELD, (pool.name, owner.key)).fetchone()
        return None if row is None else _load(row[1])

    def owners(self, pool: Pool) -> list[tuple[Owner, int]]:
        rows = self._db.execute(
            """SELECT key, boot, netns, offset FROM lease_pool JOIN lease ON pool = id
                WHERE name = ? ORDER BY offset""",
            (pool.name,),
        )
        return [(Owner(*owner), _load(offset)) for *owner, offset in rows]

    def usage(self, pool: Pool) -> Usage:
        with self._transaction():  # a pool whose shape changed is counted anew
            filed = self._file(pool, Owner(""))
            return Usage(filed.leased, pool.capacity - filed.inside)

    def reclaim(
        self, alive: Callable[[Owner], bool], pool: Pool | None = None
    ) -> list[tuple[Owner, Address]]:
        rows = self._db.execute(
            """SELECT id, offset, key, boot, netns, subnet FROM lease_pool JOIN lease ON pool = id
                WHERE ?1 IS NULL OR name = ?1 ORDER BY id, offset""",
            (pool.name if pool else None,),
        ).fetchall()
        # *alive* may be slow, so it is asked outside the lock; _free sees if the lease has changed
        dead = [row for row in rows if not alive(Owner(*row[2:5]))]
        with self._transaction():
            freed = [row for row in dead if self._free(row[:5])]
        return [(Owner(*row[2:5]), ip_network(row[5])[_load(row[1])]) for row in freed]

    def drop(self, pool: Pool) -> None:
        with self._transaction():
            for table in ("lease", "lease_free", "lease_kept"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE pool IN (SELECT id FROM lease_pool WHERE name=?)",
                    (pool.name,),
                )
            self._db.execute("DELETE FROM lease_pool WHERE name = ?", (pool.name,))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._db.in_transaction:
            yield  # the caller's: the caller commits
            return
        with self._locked(), self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if self._flock is None:
            yield
            return
        flock(self._flock, LOCK_EX)
        try:
            yield
        finally:
            flock(self._flock, LOCK_UN)

    def _file(self, pool: Pool, owner: Owner) -> _Filed:
        """The pool's row, made or brought up to date, and what *owner* holds."""
        row = self._db.execute(_FILED, (pool.name, owner.key)).fetchone()
        if row is None or row[1] != pool.shape:
            self._refile(pool)
            row = self._db.execute(_FILED, (pool.name, owner.key)).fetchone()
        return _Filed._make(row)

    def _refile(self, pool: Pool) -> None:
        """File *pool* in its present shape: the cursor starts again and steps over what is held."""
        rows = self._db.execute(
            """SELECT offset, key, subnet FROM lease_pool JOIN lease ON pool = id WHERE name = ?""",
            (pool.name,),
        ).fetchall()
        inside = 0
        for stored, key, subnet in rows:
            offset = _load(stored)
            if subnet != str(pool.subnet):
                raise InvalidPool(
                    f"pool {pool.name!r} cannot become {pool.subnet}: "
                    f"{len(rows)} addresses of {subnet} are leased",
                    "release them, or use another name",
                )
            if offset in pool.excluded:
                raise _taken(pool.address(offset), Owner(key))
            inside += pool.ranges.cover(offset)
        self._prune(pool)
        keep = 0 if not pool.sticky else _ALL if pool.ranges.size <= _KEPT else _KEPT
        ranges = str(pool.ranges)
        values = (pool.name, str(pool.subnet), pool.shape, ranges, keep, inside)
        self._db.execute(_FILE, values)

    def _prune(self, pool: Pool) -> None:
        """Forget what was free, for the cursor comes by again, and what is not kept any longer."""
        rows = self._db.execute("SELECT id, subnet FROM lease_pool WHERE name = ?", (pool.name,))
        for id, subnet in rows.fetchall():  # one, or none yet
            self._db.execute("DELETE FROM lease_free WHERE pool = ?", (id,))
            kept = self._db.execute("SELECT offset FROM lease_kept WHERE pool = ?", (id,))
            for (stored,) in kept.fetchall():
                offset = _load(stored)
                fits = subnet == str(pool.subnet) and pool.ranges.cover(offset)
                if not (pool.sticky and fits and offset not in pool.excluded):
                    self._db.execute(_UNKEEP, (id, stored))

    def _candidates(self, pool: Pool, filed: _Filed, wanted: int | None) -> Iterator[_Candidate]:
        """Offsets in order of preference; those asked for, or from the cursor on, may be held."""
        cursor, ranges = _load(filed.cursor), pool.ranges
        if wanted is not None:
            yield _Candidate(wanted, cursor, filed.last)
            return
        if filed.kept is not None:
            yield _Candidate(_load(filed.kept), cursor, filed.last)

        def dynamic(position: int, cursor: int) -> _Candidate:
            last = _store(position) if pool.round_robin else filed.last
            return _Candidate(ranges.at(position), cursor, last)

        if filed.freed is not None:
            yield dynamic(_load(filed.freed), cursor)
        for position in range(cursor, ranges.size):
            offset = ranges.at(position)
            if offset not in pool.excluded and not self._is_kept(pool, filed, offset):
                yield dynamic(position, position + 1)
        # round robin has come to the end: once more from the start
        for (freed,) in self._db.execute(_LEAST, (filed.id,)).fetchall():
            yield dynamic(_load(freed), ranges.size)
        for stored, _ in self._db.execute(_OLDEST, (filed.id,)).fetchall():
            longest = ranges.position(_load(stored))
            assert longest is not None
            yield dynamic(longest, ranges.size)

    def _is_kept(self, pool: Pool, filed: _Filed, offset: int) -> bool:
        if not pool.sticky:
            return False
        return self._db.execute(_IS_KEPT, (filed.id, _store(offset))).fetchone() is not None

    def _grant(self, pool: Pool, owner: Owner, filed: _Filed, candidate: _Candidate) -> bool:
        offset, cursor, last = candidate
        stored, position = _store(offset), pool.ranges.position(offset)
        if not self._db.execute(_GRANT, (filed.id, stored, *owner)).rowcount:
            return False
        if position is not None and position < _load(filed.cursor):
            self._db.execute(_UNLIST, (filed.id, _store(position)))
        if pool.sticky:
            self._db.execute(_UNKEEP, (filed.id, stored))
            # it asked for another: an owner is kept one address, the last
            if filed.kept is not None and filed.kept != stored:
                self._let_go(filed.id, filed.kept, pool.ranges, cursor)
        inside = position is not None
        self._db.execute(_GRANTED, (_store(cursor), last, inside, filed.id))
        return True

    def _take_up(self, pool: Pool, owner: Owner, filed: _Filed, wanted: int | None) -> int:
        """A reservation becomes the lease of the owner it was made for."""
        assert filed.held is not None
        offset = _load(filed.held)
        reserved = not self._owner(filed.id, offset).boot
        if not (reserved and owner.boot and wanted in (None, offset)):
            raise _doubled(pool, pool.address(offset), owner)
        self._db.execute(
            "UPDATE lease SET boot = ?, netns = ? WHERE pool = ? AND offset = ?",
            (owner.boot, owner.netns, filed.id, filed.held),
        )
        return offset

    def _owner(self, pool_id: int, offset: int) -> Owner:
        return Owner(
            *self._db.execute(
                "SELECT key, boot, netns FROM lease WHERE pool = ? AND offset = ?",
                (pool_id, _store(offset)),
            ).fetchone()
        )

    def _free(self, lease: Sequence[Any]) -> bool:
        """Give back one lease (pool id, stored offset, *owner), if it is still just that."""
        if not self._db.execute(_RETURN, lease).rowcount:
            return False
        pool_id, stored = lease[:2]
        row = self._db.execute(
            "SELECT ranges, keep, cursor FROM lease_pool WHERE id = ?", (pool_id,)
        ).fetchone()
        ranges, keep, cursor = Ranges.parse(row[0]), row[1], _load(row[2])
        position = ranges.position(_load(stored))
        self._db.execute(_RETURNED, (position is not None, pool_id))
        if position is not None and keep:
            ((turn,),) = self._db.execute(_NEXT_TURN, (pool_id,)).fetchall()
            self._db.execute("INSERT INTO lease_kept VALUES (?, ?, ?, ?)", (*lease[:3], turn))
            ((oldest, since),) = self._db.execute(_OLDEST, (pool_id,)).fetchall()
            if since <= turn - keep:
                self._let_go(pool_id, oldest, ranges, cursor)
        elif position is not None and position < cursor:
            self._db.execute(_LIST, (pool_id, _store(position)))
        return True

    def _let_go(self, pool_id: int, kept: _Stored, ranges: Ranges, cursor: int) -> None:
        """Keep an address no longer: from now on it is anybody's."""
        self._db.execute(_UNKEEP, (pool_id, kept))
        position = ranges.position(_load(kept))
        if position is not None and position < cursor:
            self._db.execute(_LIST, (pool_id, _store(position)))


# -- host-local's directory -----------------------------------------------------------------------


class _View:
    """Who holds what in a directory, as last seen, and what it then was."""

    def __init__(self, owners: dict[Address, Owner]) -> None:
        self.owners = owners
        self.stamp: tuple[int, int, int] | None = None
        self._held: dict[str, list[Address]] = {}
        for ip, owner in owners.items():
            self._held.setdefault(owner.key, []).append(ip)

    def add(self, ip: Address, owner: Owner) -> None:
        self.owners[ip] = owner
        self._held.setdefault(owner.key, []).append(ip)

    def remove(self, ip: Address) -> None:
        key = self.owners.pop(ip).key
        self._held[key].remove(ip)
        if not self._held[key]:
            del self._held[key]

    def held(self, owner: Owner) -> list[Address]:
        """The addresses of *owner*; failing that, those an old version filed under the id alone."""
        keys = (owner.key, owner.key.partition("/")[0])
        return next(([*self._held[key]] for key in keys if key in self._held), [])


# By path: what a process that lives long, netkitd, need not read again
_views: dict[str, _View] = {}
_MOST_VIEWS = 64


class HostLocalDir:
    """The directory of one network of CNI's host-local plugin, safe with that plugin beside us.

    A file per address, named by it, holding "containerID\\r\\nifname" (the id alone, if an old
    version wrote it); `last_reserved_ip.<index>`, the round robin's memory, per range set; `lock`.
    An owner's key is "containerID/ifname"; its boot and netns are not kept, so nothing tells a
    reservation from a lease. Finding an owner reads every file, that is the format's price: once in
    a process, and again when somebody else has changed the directory.
    """

    def __init__(self, path: str | os.PathLike[str], *, index: int = 0) -> None:
        self._path = os.fspath(path)
        self._last = f"last_reserved_ip.{index}"
        if not os.path.isdir(self._path):
            os.makedirs(self._path, mode=0o755, exist_ok=True)

    def lease(self, pool: Pool, owner: Owner, wanted: int | None = None) -> int:
        static = None if wanted is None else (pool, wanted)
        return self._lease((pool,), owner, static, lambda ip: ip in pool.subnet)[1]

    def lease_any(
        self, pools: Sequence[Pool], owner: Owner, wanted: tuple[Pool, int] | None = None
    ) -> tuple[Pool, int]:
        """A lease from a range set: one address from whichever of *pools* comes next.

        As with host-local, the round goes on behind what is *wanted*, too.
        """

        def ours(ip: Address) -> bool:
            return any(pool.spans(ip) for pool in pools)

        return self._lease(pools, owner, wanted, ours, goes_on=True)

    def release(self, pool: Pool, owner: Owner) -> int | None:
        freed = self._release(owner, lambda ip: ip in pool.subnet)
        return pool.offset(freed[0]) if freed else None

    def release_all(self, owner: Owner) -> list[Address]:
        """Give back all that *owner* has here: pools may have changed since it was leased."""
        return self._release(owner, lambda ip: True)

    def held(self, pool: Pool, owner: Owner) -> int | None:
        return next((pool.offset(ip) for ip in self.addresses(owner) if ip in pool.subnet), None)

    def addresses(self, owner: Owner) -> list[Address]:
        """All that *owner* holds here, in any pool."""
        with self._locked():
            return self._view().held(owner)

    def owners(self, pool: Pool) -> list[tuple[Owner, int]]:
        with self._locked():
            files = self._view().owners.copy()
        mine = ((pool.offset(ip), owner) for ip, owner in files.items() if ip in pool.subnet)
        return [(owner, offset) for offset, owner in sorted(mine)]

    def usage(self, pool: Pool) -> Usage:
        offsets = [offset for _, offset in self.owners(pool)]
        inside = sum(pool.ranges.cover(x) and x not in pool.excluded for x in offsets)
        return Usage(len(offsets), pool.capacity - inside)

    def reclaim(
        self, alive: Callable[[Owner], bool], pool: Pool | None = None
    ) -> list[tuple[Owner, Address]]:
        with self._locked():
            files = self._view().owners.copy()
        mine = ((owner, ip) for ip, owner in files.items() if not pool or ip in pool.subnet)
        # *alive* may be slow, so it is asked outside the lock; then see if the lease has changed
        dead = [(owner, ip) for owner, ip in mine if not alive(owner)]
        with self._locked():
            files = self._view().owners
            freed = [(owner, ip) for owner, ip in dead if files.get(ip) == owner]
            self._free(ip for _, ip in freed)
        return freed

    def drop(self, pool: Pool) -> None:
        with self._locked():
            self._free([ip for ip in self._view().owners if ip in pool.subnet])

    def _lease(
        self,
        pools: Sequence[Pool],
        owner: Owner,
        wanted: tuple[Pool, int] | None,
        ours: Callable[[Address], bool],
        *,
        goes_on: bool = False,
    ) -> tuple[Pool, int]:
        if any(pool.sticky for pool in pools):
            raise InvalidPool(
                "host-local's directory does not remember who released an address",
                "let the pool go round (round_robin), or keep its leases in SQLite",
            )
        with self._locked():
            view = self._view()
            for ip in filter(ours, view.held(owner)):
                raise _doubled(next(pool for pool in pools if ip in pool.subnet), ip, owner)
            if wanted is not None:
                ip = wanted[0].address(wanted[1])
                if not self._file(ip, owner, goes_on):
                    raise _taken(ip, view.owners.get(ip, Owner("nobody known")))
                return wanted
            for pool, offset in _round(pools, self._last_reserved(pools)):
                ip = pool.address(offset)
                if ip not in view.owners and self._file(ip, owner, goes_on=True):
                    return pool, offset
        raise _exhausted(pools)

    def _file(self, ip: Address, owner: Owner, goes_on: bool) -> bool:
        """Write a lease, unless something of the name is there, a lease or not."""
        view = self._view()
        try:
            self._write(str(ip), owner.key.replace("/", "\r\n", 1), os.O_EXCL)
        except FileExistsError:
            return False
        if goes_on:
            self._write(self._last, str(ip))
        view.add(ip, owner)
        self._seal(view)
        return True

    def _release(self, owner: Owner, ours: Callable[[Address], bool]) -> list[Address]:
        with self._locked():
            freed = list(filter(ours, self._view().held(owner)))
            self._free(freed)
        return freed

    def _view(self) -> _View:
        """Who holds what; call it under the lock."""
        view = _views.get(self._path)
        if view is None or view.stamp is None or view.stamp != self._stamp():
            if len(_views) >= _MOST_VIEWS:
                _views.clear()
            view = _views[self._path] = _View(self._read())
            self._seal(view)
        return view

    def _stamp(self) -> tuple[int, int, int]:
        found = os.stat(self._path)
        return found.st_dev, found.st_ino, found.st_mtime_ns

    def _seal(self, view: _View) -> None:
        """Mark the directory as it is now: any file that comes or goes takes the mark away.

        The mark is a time of last change in the past, to the nanosecond, so that no other change
        ever has it. The time a change leaves by itself is that of the kernel's last tick, and so
        the next one, by another process, may leave the same.
        """
        past_ns = time.time_ns() - 10**9 - int.from_bytes(os.urandom(4)) % 10**9
        view.stamp = None
        with suppress(OSError):
            os.utime(self._path, ns=(past_ns, past_ns))
            stamp = self._stamp()
            if stamp[2] == past_ns:  # or the file system's times are coarse
                view.stamp = stamp

    def _read(self) -> dict[Address, Owner]:
        held: dict[Address, Owner] = {}
        for name in os.listdir(self._path):
            try:
                ip = ip_address(name)
            except ValueError:
                continue  # `lock`, `last_reserved_ip.0`
            try:
                text = _text(os.path.join(self._path, name))
            except IsADirectoryError:
                continue
            if text:
                held[ip] = Owner("/".join(text.split(maxsplit=1)))
            else:  # its writer held the lock and was killed before it had written
                os.unlink(os.path.join(self._path, name))
        return held

    def _last_reserved(self, pools: Sequence[Pool]) -> Address | None:
        if pools[0].round_robin:
            with suppress(OSError, ValueError):
                return ip_address(_text(os.path.join(self._path, self._last)))
        return None

    def _write(self, name: str, text: str, flags: int = 0) -> None:
        flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(os.path.join(self._path, name), flags, 0o600)
        try:
            # cut off after, and not before: else ext4 waits for the disk, milliseconds
            os.ftruncate(fd, os.write(fd, os.fsencode(text)))
        finally:
            os.close(fd)

    def _free(self, ips: Iterable[Address]) -> None:
        view = self._view()
        for ip in ips:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._path, str(ip)))
            view.remove(ip)
        self._seal(view)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(os.path.join(self._path, "lock"), os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            flock(fd, LOCK_EX)
            yield
        finally:
            os.close(fd)


def _text(path: str) -> str:
    """What a file of host-local's says."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO would be waited for
    try:
        return os.fsdecode(os.read(fd, 1 << 12).strip())
    finally:
        os.close(fd)


def _round(pools: Sequence[Pool], last: Address | None) -> Iterator[tuple[Pool, int]]:
    """Every dynamic address once, as host-local goes round: from after *last* to *last* itself."""
    spans = [(pool, start, stop) for pool in pools for start, stop in pool.ranges]
    for i, (pool, start, stop) in enumerate(spans):
        at = pool.offset(last) if last is not None and last in pool.subnet else -1
        if start <= at <= stop:
            spans = [(pool, at + 1, stop), *spans[i + 1 :], *spans[:i], (pool, start, at)]
            break
    for pool, start, stop in spans:
        for offset in range(start, stop + 1):
            if offset not in pool.excluded:
                yield pool, offset
