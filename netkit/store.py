"""The store: what netkit remembers between calls, in one SQLite file.

Shapes   records of netkit.model, one row each; a row's columns are what is looked up, its body is
         the record's JSON
Errors   KernelRefused for a state directory that cannot be used; Conflict when another process
         holds the state for too long
Source   sqlite.org/wal.html. An flock is taken before BEGIN IMMEDIATE: 2-5 times faster than
         SQLite's busy polling, and fair. WAL with synchronous=NORMAL needs no fsync per commit:
         what a power cut may lose describes a kernel that is gone with it

Two kinds of lock: `transaction` is short and guards the file; `locked(NAME)` is long, by name, and
guards what is done to the kernel for that name (shared: many may connect; exclusive: one deletes).
A lock dies with its process, so does an intent's maker: neither needs cleaning up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import NamedTuple, TypeVar

import msgspec

from netkit import model
from netkit.errors import Busy, Conflict, KernelRefused, NotFound
from netkit.model import (
    AttachmentRecord,
    ChangeRecord,
    EndpointRecord,
    EndRecord,
    HostRecord,
    LinkRecord,
    LoanRecord,
    NetworkRecord,
    Record,
    SandboxRecord,
)

R = TypeVar(
    "R",
    HostRecord,
    NetworkRecord,
    SandboxRecord,
    EndpointRecord,
    LinkRecord,
    EndRecord,
    ChangeRecord,
    LoanRecord,
    AttachmentRecord,
)

_VERSION = 3  # of 1, the tables of leases and claims were made when first wanted
UPGRADED = "upgraded"  # the host's record that the kernel has yet to follow (netkit.upgrade)
_WAIT_S = 5.0
_LOCKED_WAIT_S = 60.0
_CLOSE_WAIT_S = 1.0
_LOG_BYTES = 1 << 18  # some ten attachments; SQLite itself writes it back after 4 MB
_SCHEMA = """
CREATE TABLE record (
    kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT, network TEXT, sandbox TEXT, ifname TEXT,
    maker TEXT, body TEXT NOT NULL, PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX record_name ON record (kind, name) WHERE name IS NOT NULL;
CREATE UNIQUE INDEX record_ifname ON record (sandbox, ifname) WHERE ifname IS NOT NULL;
CREATE INDEX record_network ON record (network) WHERE network IS NOT NULL;
CREATE INDEX record_sandbox ON record (sandbox) WHERE sandbox IS NOT NULL;
CREATE INDEX record_maker ON record (maker) WHERE maker IS NOT NULL;
"""
_SINCE_2 = """
CREATE TABLE stand (
    plan TEXT NOT NULL, attachment TEXT NOT NULL, PRIMARY KEY (plan, attachment)
) WITHOUT ROWID;
CREATE INDEX stand_attachment ON stand (attachment);
"""
_SINCE_3 = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, action TEXT NOT NULL,
    kind TEXT NOT NULL, id TEXT NOT NULL, name TEXT NOT NULL, attributes TEXT NOT NULL
);
CREATE INDEX journal_id ON journal (id);
"""
_JOURNAL_ROWS = 10_000  # kept at least; who has fallen behind further reads all records anew
_JOURNAL_SLACK = 1_000  # rows more, so that old ones are not removed one by one


class Entry(NamedTuple):
    """Something that happened: *action* (create, connect, die …) to the record *kind* and *id*.

    `seq` grows, and is never used twice; `time` is in seconds since 1970.
    """

    seq: int
    time: float
    action: str
    kind: str
    id: str
    name: str
    attributes: dict[str, str]


class SqliteStore:
    """Opened on first use. Not shared by threads."""

    def __init__(self, state_dir: str, run_dir: str) -> None:
        self.state_dir = state_dir
        self.run_dir = run_dir
        self._open: tuple[sqlite3.Connection, int] | None = None

    @classmethod
    def onlooker(cls, state_dir: str) -> SqliteStore:
        """A store that is only read, by one process for as long as it lives: all it needs is open
        when this returns, and it may give up the right to open anything.

        The index of the log, which all processes share, it may write only if there was none: then
        it has to make it.
        """
        from urllib.parse import quote

        store = cls(state_dir, "")
        uri = f"file:{quote(store._path)}?mode=ro"
        try:
            try:
                connection = _onlooking(f"{uri}&readonly_shm=1")
            except sqlite3.OperationalError:
                connection = _onlooking(uri)
        except (OSError, sqlite3.Error) as error:
            raise _unusable(state_dir, error) from error
        store._open = connection, -1
        return store

    def changed(self) -> int:
        """A number that is another once somebody else has committed anything."""
        number: int = self.connection.execute("PRAGMA data_version").fetchone()[0]
        return number

    def close(self) -> None:
        if self._open is not None:
            connection, lock = self._open
            self._open = None
            # the last one to close clears up, and whoever opens meanwhile would be told "locked"
            with suppress(Conflict):
                _take_flock(lock, self._path, _CLOSE_WAIT_S)
            connection.close()
            os.close(lock)  # and with it the flock

    def leave(self) -> None:
        """Done with it, in a process that is about to end: for SQLite as if it were killed now.

        The last one to close it writes the log back and waits for the disk, four times; left as it
        is, whoever comes next reads the log. So it is closed only once there is much to read.
        """
        log = f"{self._path}-wal"
        if os.path.exists(log) and os.path.getsize(log) > _LOG_BYTES:
            self.close()
        else:
            _left.append(self._open)
            self._open = None

    @property
    def connection(self) -> sqlite3.Connection:
        """The connection, for tables of others (leases, claims) that commit together with ours."""
        return self._opened()[0]

    def exists(self) -> bool:
        """Whether there is anything to read; asking does not create it."""
        if self._open is not None:
            return True
        try:
            os.stat(self._path)
        except FileNotFoundError:
            return False
        except OSError as error:  # there may be records, which is not the same as none
            raise _unusable(self.state_dir, error) from error
        return True

    @property
    def _path(self) -> str:
        return os.path.join(self.state_dir, "state.db")

    def _opened(self) -> tuple[sqlite3.Connection, int]:
        if self._open is None:
            private_directory(self.state_dir)
            try:
                lock = os.open(f"{self._path}.lock", _LOCK_FLAGS, 0o600)
                _create(self._path)
                connection = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
            except (OSError, sqlite3.Error) as error:
                raise _unusable(self.state_dir, error) from error
            try:
                with _flocked(lock, self._path), _sqlite_errors(self.state_dir):
                    self._prepare(connection)
            except BaseException:
                connection.close()  # half open would be worse
                os.close(lock)
                raise
            self._open = connection, lock
        return self._open

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if found > _VERSION:
            raise KernelRefused(
                f"the state in {self._path} is of version {found}, "
                f"this netkit knows versions up to {_VERSION}",
                hint="upgrade netkit, or use another NETKIT_STATE_DIR",
            )
        if found < _VERSION:
            from ipam import SqliteLeases  # lazily: it is done once
            from netkit import namesakes, ports

            connection.execute("BEGIN")
            schema = _SCHEMA * (found == 0) + _SINCE_2 * (found < 2) + _SINCE_3
            for statement in schema.split(";"):
                connection.execute(statement)
            if found:  # what there is was made before the journal began: it has no entry 1
                connection.execute("INSERT INTO sqlite_sequence VALUES ('journal', 1)")
                left = HostRecord(id=UPGRADED, maker="0:0")  # no process has this number
                row = (left.kind, left.id, left.maker, model.encode(left))
                connection.execute(
                    "INSERT INTO record (kind, id, maker, body) VALUES (?,?,?,?)", row
                )
            ports.create(connection)
            namesakes.create(connection)
            SqliteLeases(connection)
            connection.execute(f"PRAGMA user_version={_VERSION}")
            connection.execute("COMMIT")

    def peek(self, kind: type[Record]) -> list[tuple[str, str]]:
        """Name and id of every record of a kind, for somebody who types: nothing is made, changed
        or waited for, and what cannot be read is not there.
        """
        from urllib.parse import quote

        try:
            lock = os.open(f"{self._path}.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return []
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # what SQLite needs beside a WAL it makes, so the lock is held until it is gone again
            uri = f"file:{quote(self._path)}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, timeout=0)) as db:
                sql = "SELECT name, id FROM record WHERE kind=? AND name IS NOT NULL ORDER BY name"
                return db.execute(sql, (kind.kind,)).fetchall()
        except (OSError, sqlite3.Error):
            return []
        finally:
            os.close(lock)

    # -- locks

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: what is written inside is kept if the block ends well.

        One inside another is part of it.
        """
        connection, lock = self._opened()
        if connection.in_transaction:
            yield connection
            return
        with _flocked(lock, self._path), _sqlite_errors(self.state_dir):
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def locked(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Hold the lock *name*, "host" or an id, while the kernel is worked on in its name.

        Each is a byte of one file, so there is no lock file a name, and none to clean up.
        """
        with self._lock(name, fcntl.F_RDLCK if shared else fcntl.F_WRLCK) as (_, take):
            _wait_for(take, name, _LOCKED_WAIT_S)
            yield

    @contextmanager
    def heritable(self, name: str, *, wait: bool = True) -> Iterator[int | None]:
        """Hold the lock *name* by a descriptor: a child that inherits it holds the lock for as long
        as it lives, even when we do not. None, unless *wait*: somebody else has it.
        """
        with self._lock(name, fcntl.F_WRLCK) as (fd, take):
            try:
                _wait_for(take, name, _LOCKED_WAIT_S) if wait else take(False)
            except BlockingIOError:
                yield None
            else:
                yield fd

    @contextmanager
    def locked_if_free(self, name: str) -> Iterator[bool]:
        """Hold the lock *name* if nobody does; whether it is held. It waits for nobody, so it may
        be asked for out of order.
        """
        with self._lock(name, fcntl.F_WRLCK) as (_, take):
            try:
                take(False)
            except BlockingIOError:
                yield False
            else:
                yield True

    @contextmanager
    def _lock(self, name: str, kind: int) -> Iterator[tuple[int, Callable[[bool], None]]]:
        """A descriptor for the lock *name*, and what takes it for as long as that is open."""
        private_directory(self.run_dir)
        fd = os.open(os.path.join(self.run_dir, "lock"), _LOCK_FLAGS, 0o600)
        byte = 0 if name == "host" else int(name[:15], 16)
        # struct flock: l_type, l_whence, l_start, l_len, l_pid (0 for a lock of this open file)
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)

        def take(wait: bool) -> None:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, lock)

        try:
            yield fd, take
        finally:
            os.close(fd)

    # -- records

    def put(self, record: Record) -> None:
        """Insert, or replace. A name that is taken is an IntegrityError: look first."""
        row = (
            record.kind,
            record.id,
            record.name,
            getattr(record, "network", None),
            getattr(record, "sandbox", None),
            getattr(record, "ifname", None),
            record.maker,
            model.encode(record),
        )
        self.connection.execute(
            "INSERT INTO record VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (kind, id) DO UPDATE SET "
            "name=excluded.name, maker=excluded.maker, body=excluded.body",
            row,
        )

    def update(self, record: Record) -> None:
        """Replace a record that is there; one that somebody removed meanwhile stays removed."""
        self.connection.execute(
            "UPDATE record SET maker=?, body=? WHERE kind=? AND id=?",
            (record.maker, model.encode(record), record.kind, record.id),
        )

    def remove(self, record: Record) -> None:
        self.connection.execute(
            "DELETE FROM record WHERE kind=? AND id=?", (record.kind, record.id)
        )
        if isinstance(record, AttachmentRecord):
            self.connection.execute("DELETE FROM stand WHERE attachment=?", (record.id,))

    def claim(self, record: Record, maker: str) -> bool:
        """Take over a record whose maker died; False if somebody else was quicker."""
        cursor = self.connection.execute(
            "UPDATE record SET maker=? WHERE kind=? AND id=? AND maker IS ?",
            (maker, record.kind, record.id, record.maker),
        )
        return cursor.rowcount == 1

    def find(self, kind: type[R], text: str) -> R | None:
        """What a user means: a name, an id, or the beginning of an id that is nobody else's."""
        if not text.isascii():  # nothing is called so, and SQLite refuses what is no UTF-8
            return None
        found = self.by_name(kind, text) or self.by_id(kind, text)
        if found or not text or not self.exists() or text.strip("0123456789abcdef"):
            return found
        rows = self._rows("kind=? AND id>=? AND id<? LIMIT 2", kind.kind, text, text + "g")
        if len(rows) == 2:
            raise Conflict(f"more than one {_NOUNS[kind.kind]}'s id begins with '{text}'")
        return _record(kind, rows[0]) if rows else None

    def by_name(self, kind: type[R], name: str) -> R | None:
        """By this very name: an id that begins so does not count."""
        if not name.isascii() or not self.exists():  # nothing is called so; see find
            return None
        rows = self._rows("kind=? AND name=?", kind.kind, name)
        return _record(kind, rows[0]) if rows else None

    def by_id(self, kind: type[R], id: str) -> R | None:
        rows = self._rows("kind=? AND id=?", kind.kind, id) if self.exists() else []
        return _record(kind, rows[0]) if rows else None

    def name_of(self, kind: str, id: str) -> str:
        """What a record is called; empty if it is gone, or nameless."""
        sql = "SELECT name FROM record WHERE kind=? AND id=?"
        row = self.connection.execute(sql, (kind, id)).fetchone()
        return (row and row[0]) or ""

    def get(self, kind: type[R], name: str) -> R:
        found = self.find(kind, name)
        if found is None:
            raise NotFound(f"no such {_NOUNS[kind.kind]}: {name}", hint=_LISTS[kind.kind])
        return found

    def all(
        self,
        kind: type[R],
        *,
        network: str | None = None,
        sandbox: str | None = None,
        mentioning: str | None = None,
    ) -> list[R]:
        """Every record of a kind, oldest first, perhaps of one network or sandbox only; or those
        *mentioning* a text, as their JSON has it.
        """
        if not self.exists():
            return []
        wheres, values = ["kind=?"], [kind.kind]
        for column, value in (("network", network), ("sandbox", sandbox)):
            if value is not None:
                wheres.append(f"{column}=?")
                values.append(value)
        if mentioning is not None:
            wheres.append("instr(body, ?)")
            values.append(mentioning)
        records = [_record(kind, row) for row in self._rows(" AND ".join(wheres), *values)]
        return sorted(records, key=lambda record: (record.created, record.id))

    # -- the journal: what happened, in the transaction it happened in

    def note(
        self, action: str, kind: str, id: str, name: str, attributes: Mapping[str, str]
    ) -> None:
        """Write down what happens in this transaction; the oldest are forgotten in time."""
        row = (time.time(), action, kind, id, name, model.encode(attributes))
        seq = self.connection.execute(
            "INSERT INTO journal (time, action, kind, id, name, attributes) VALUES (?,?,?,?,?,?)",
            row,
        ).lastrowid
        assert seq is not None
        if seq % _JOURNAL_SLACK == 0:
            self.connection.execute("DELETE FROM journal WHERE seq<=?", (seq - _JOURNAL_ROWS,))

    def journal(self, after: int = 0) -> list[Entry]:
        """What happened since the entry *after*, oldest first, as far as it is remembered."""
        if not self.exists():
            return []
        with _sqlite_errors(self.state_dir):
            rows = self.connection.execute(
                "SELECT * FROM journal WHERE seq>? ORDER BY seq", (after,)
            ).fetchall()
        return [Entry(*row[:-1], model.decode(row[-1], dict[str, str])) for row in rows]  # type: ignore[call-arg]  # of rows nothing is known

    def journal_end(self) -> int:
        """The number of the latest entry; 0: nothing has happened yet."""
        if not self.exists():
            return 0
        with _sqlite_errors(self.state_dir):
            (end,) = self.connection.execute("SELECT max(seq) FROM journal").fetchone()
        return end or 0

    def last_noted(self, id: str, actions: Sequence[str], since: float) -> str | None:
        """Which of *actions* happened last to *id*, since *since*. None: none did. Where the
        journal does not reach back so far, the first of them is taken to have happened.
        """
        marks = ",".join("?" * len(actions))
        row = self.connection.execute(
            f"SELECT action FROM journal WHERE id=? AND action IN ({marks}) "
            "ORDER BY seq DESC LIMIT 1",
            (id, *actions),
        ).fetchone()
        if row is not None:
            return str(row[0])
        first, began = self.connection.execute(
            "SELECT coalesce(min(seq), (SELECT seq + 1 FROM sqlite_sequence), 1), min(time) "
            "FROM journal"
        ).fetchone()
        reaches_back = first == 1 or (began is not None and began <= since)
        return None if reaches_back else actions[0]

    def await_writers(self) -> None:
        """Return once those who are writing now have done so: their log grows before the commit."""
        _, lock = self._opened()

        def take(wait: bool) -> None:
            fcntl.flock(lock, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))

        with suppress(Busy):
            _wait_for(take, self._path, _WAIT_S)
            fcntl.flock(lock, fcntl.LOCK_UN)

    def newest(self) -> int:
        """The number of the last entry; 0: there has been none."""
        row = self.connection.execute("SELECT max(seq) FROM journal").fetchone()
        return row[0] or 0

    def standing(self, plans: Collection[str], epoch: str) -> bool:
        """Whether these shared plans are all there, and nobody is in the midst of one."""
        if not plans:
            return True
        marks = ",".join("?" * len(plans))
        (count,) = self.connection.execute(
            f"SELECT count(*) FROM record WHERE kind='host' AND maker IS NULL AND id IN ({marks}) "
            "AND instr(body, ?)",
            (*plans, model.encode(epoch)),
        ).fetchone()
        return bool(count == len(plans))

    def stand(self, attachment: str, plans: Iterable[str]) -> None:
        """Note which shared plans an attachment needs; in a transaction."""
        self.connection.executemany(
            "INSERT OR IGNORE INTO stand VALUES (?,?)", [(plan, attachment) for plan in plans]
        )

    def idle(self, plans: Collection[str], but: str = "") -> set[str]:
        """Those shared plans that no attachment needs, other than *but*."""
        if not plans or not self.exists():
            return set(plans)
        found = "EXISTS(SELECT 1 FROM stand WHERE plan=? AND attachment<>?)"
        row = self.connection.execute(
            f"SELECT {','.join([found] * len(plans))}",
            [value for plan in plans for value in (plan, but)],
        ).fetchone()
        return {plan for plan, needed in zip(plans, row, strict=True) if not needed}

    def everything(self) -> list[Record]:
        """All that was made and stands, each after what it stands on."""
        return [
            *self.all(HostRecord),
            *self.all(NetworkRecord),
            *self.all(SandboxRecord),
            *self.all(EndpointRecord),
            *self.all(LinkRecord),
            *self.all(AttachmentRecord),
        ]

    def intents(self) -> list[Record]:
        """The records in the midst of being made or deleted, in the order they are to be undone."""
        if not self.exists():
            return []
        rows = self._rows("maker IS NOT NULL")
        return [
            *(_record(ChangeRecord, row) for row in rows if row[0] == ChangeRecord.kind),
            *(_record(LinkRecord, row) for row in rows if row[0] == LinkRecord.kind),
            *(_record(EndRecord, row) for row in rows if row[0] == EndRecord.kind),
            *(_record(EndpointRecord, row) for row in rows if row[0] == EndpointRecord.kind),
            *(_record(AttachmentRecord, row) for row in rows if row[0] == AttachmentRecord.kind),
            *(_record(SandboxRecord, row) for row in rows if row[0] == SandboxRecord.kind),
            *(_record(NetworkRecord, row) for row in rows if row[0] == NetworkRecord.kind),
            *(_record(HostRecord, row) for row in rows if row[0] == HostRecord.kind),
            *(_record(LoanRecord, row) for row in rows if row[0] == LoanRecord.kind),
        ]

    def _rows(self, where: str, *values: str) -> list[tuple[str, str | None, str]]:
        with _sqlite_errors(self.state_dir):
            sql = f"SELECT kind, maker, body FROM record WHERE {where}"
            return self.connection.execute(sql, values).fetchall()


def members(network: str) -> str:
    """The lock of who is on a network: whoever holds it, nobody begins to leave. It is taken last.

    Its byte is beside the network's own.
    """
    return f"{int(network[:15], 16) ^ 1:015x}"


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_NOUNS = {"network": "network", "sandbox": "container", "endpoint": "endpoint", "host": "level"}
_NOUNS |= {"link": "link", "end": "end of a link", "change": "change"}
_NOUNS |= {"loan": "lease of a plugin", "attachment": "attachment"}
_LISTS = {"network": "`netkit network ls` lists them", "sandbox": "`netkit ps -a` lists them"}
_LISTS |= {"endpoint": "", "host": "", "link": "`netkit link ls` lists them", "end": ""}
_LISTS |= {"change": "", "loan": "", "attachment": ""}


def _record(kind: type[R], row: tuple[str, str | None, str]) -> R:
    record = model.decode(row[2], kind)
    # `claim` writes the column only
    return record if record.maker == row[1] else msgspec.structs.replace(record, maker=row[1])


def _create(path: str) -> None:
    """Make the file, for its mode. One that is there is not opened: to close it again would drop
    the locks that another connection of this process has on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, _LOCK_FLAGS | os.O_EXCL, 0o600))
    if os.path.islink(path):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def private_directory(path: str) -> None:
    """Make a directory only its owner may enter; refuse one that others could have prepared."""
    try:
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            os.makedirs(path, mode=0o700, exist_ok=True)
            found = os.lstat(path)
    except OSError as error:
        raise _unusable(path, error) from error
    if stat.S_ISLNK(found.st_mode) or not stat.S_ISDIR(found.st_mode):
        raise KernelRefused(f"cannot use '{path}': it is not a directory of netkit's own")
    if found.st_mode & 0o022 or found.st_uid != os.geteuid():
        raise KernelRefused(
            f"cannot use '{path}': others may write to it "
            f"(mode {stat.S_IMODE(found.st_mode):04o}, owner {found.st_uid})",
            hint=f"chown {os.geteuid()} {path} && chmod 0700 {path}",
        )


def _onlooking(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_WAIT_S, isolation_level=None)
    try:
        connection.execute("SELECT 1 FROM record LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _unusable(path: str, error: Exception) -> KernelRefused:
    reason = getattr(error, "strerror", None) or error
    return KernelRefused(
        f"cannot use the state directory '{path}': {reason}",
        hint="run netkit as root, inside `netkit unshare`, "
        "or set NETKIT_STATE_DIR and NETKIT_RUN_DIR to directories of your own",
    )


class _sqlite_errors:
    """SQLite's errors become netkit's, but for that of a name that is taken."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        match error:
            case None | sqlite3.IntegrityError():
                return
            case sqlite3.OperationalError() if "locked" in str(error) or "busy" in str(error):
                raise _busy(self._path) from error
            case sqlite3.DatabaseError():
                raise _unusable(self._path, error) from error


@contextmanager
def _flocked(fd: int, path: str) -> Iterator[None]:
    """Hold the flock that goes before SQLite's own locks. Threads of this process queue before:
    none of them has to poll while another has it.
    """
    turn = _turns.setdefault(path, threading.Lock())
    if not turn.acquire(timeout=_WAIT_S):
        raise _busy(path)
    try:
        _take_flock(fd, path, _WAIT_S)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
    finally:
        turn.release()


_left: list[object] = []  # so that nothing closes them
_turns: dict[str, threading.Lock] = {}  # by the path of the state
os.register_at_fork(after_in_child=_turns.clear)


def _take_flock(fd: int, path: str, wait_s: float) -> None:
    def take(wait: bool) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    _wait_for(take, path, wait_s)


def _wait_for(take: Callable[[bool], None], path: str, wait_s: float) -> None:
    """Take a lock, waiting *wait_s* at most; *take* is told whether it may block."""
    try:
        return take(False)
    except BlockingIOError:
        pass
    if threading.current_thread() is threading.main_thread():
        import signal  # lazily: most never wait

        # to block is fair and wakes at once; an alarm bounds it
        def expired(*_: object) -> None:
            raise _busy(path)

        previous = signal.signal(signal.SIGALRM, expired)
        signal.setitimer(signal.ITIMER_REAL, wait_s)
        try:
            return take(True)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return take(False)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise _busy(path) from None
            time.sleep(0.001)


def _busy(path: str) -> Busy:
    return Busy(f"another process holds the lock on '{path}'", hint="try again")


def names(records: Iterable[Record]) -> str:
    """Names for a message: the first few, and how many more."""
    found = [record.name or record.short_id for record in records]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(found[:5]) + more
