"""The watch: a thread of netkitd's that buries the dead and puts back what others take.

Shapes   who lives is known by the journal; that a process ended, by its pidfd; that a namespace is
         unmounted, by /proc/self/mountinfo; what is taken from the host, by what nftables and
         rtnetlink tell. What netkit does itself is passed over: its changes of elements bear a
         number, and of everything else the records say whether it is still meant to be
Units    seconds
Errors   none: what fails is said in the log, and tried again
Source   pidfd_open(2), proc(5), netkit.firewall.notices, netkit.kernel.linkwatch

Without it all is as ever: the next call buries the dead, `netkit repair` mends. iptables tells
nobody when a rule goes, and the kernel nobody when a parameter is set: of these it knows nothing.
"""

from __future__ import annotations

import math
import os
import re
import resource
import select
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from netkit import repair, steps
from netkit.changes import maker_lives
from netkit.engine import Engine
from netkit.errors import Drift, NetkitError
from netkit.events import Follower, identity
from netkit.firewall.notices import Loss, Notices, culprit
from netkit.kernel import Kernel, netns, pids
from netkit.kernel.linkwatch import LinkWatch
from netkit.model import (
    AttachmentRecord,
    EndpointRecord,
    HostRecord,
    LinkRecord,
    NetworkRecord,
    Record,
    SandboxRecord,
)
from netkit.store import Entry

_SETTLE_S = 0.05  # much is taken in one go, and by one who dies
_AGAIN_S = 0.5  # until who watches a container himself is done, and after what failed
_REST = 4  # times as long as a task took: so it takes a fifth of a processor at most
_OFTEN, _LONG_S = 5, 60.0  # mended so often in so long, a thing is left as somebody wants it
_MOST_FDS = 1 << 16
_KINDS: dict[str, type[Any]] = {
    kind.kind: kind
    for kind in (
        *(HostRecord, NetworkRecord, SandboxRecord, EndpointRecord),
        *(LinkRecord, AttachmentRecord),
    )
}
Key = tuple[str, str]  # of a record: kind and id


class Watch:
    """`run` is for a thread of its own; *make* gives it an engine."""

    def __init__(self, log: Callable[[str], object], make: Callable[[], Engine] = Engine) -> None:
        self._log = log
        self._make = make
        self._bell, self._rope = os.pipe()
        self._stopping = False

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, name="watch", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._stopping = True
        os.write(self._rope, b"!")

    def run(self) -> None:
        _make_room()
        told = ""
        while not self._stopping:
            try:
                with ExitStack() as held:
                    engine = self._make()
                    held.callback(engine.close)
                    _Rounds(engine, self._log, held, self._bell).go(lambda: self._stopping)
            except (NetkitError, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    self._log(f"watch: {told}")
                select.select([self._bell], [], [], _AGAIN_S)


class _Rounds:
    """What is known of one state, and what there is to do about it."""

    def __init__(
        self, engine: Engine, log: Callable[[str], object], held: ExitStack, bell: int
    ) -> None:
        self._engine, self._store, self._log = engine, engine.store, log
        self._state = f"{engine.store.state_dir}/state.db"
        self._identity = identity(self._state)
        self._follower = Follower(
            self._store.state_dir, self._store.run_dir, self._store.journal_end()
        )
        held.callback(self._follower.close)
        self._links = held.enter_context(LinkWatch())
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        held.callback(os.close, self._mounts)
        self._poll = select.poll()
        for source in (bell, self._follower, self._links):
            self._poll.register(source, select.POLLIN)
        self._poll.register(self._mounts, select.POLLPRI)
        self._notices: Notices | None = None
        with suppress(OSError):  # a kernel without nftables has none
            self._notices = held.enter_context(Notices())
            self._poll.register(self._notices, select.POLLIN)
        self._processes: dict[int, Key] = {}  # by a descriptor of the process: who lives with it
        held.callback(self._let_go)
        self._places: dict[Key, tuple[str, str | None]] = {}  # path and identity of a namespace
        self._names: dict[str, set[Key]] = {}  # whose an interface of the host's is
        self._own: dict[Key, set[str]] = {}  # and the other way round
        self._mended: dict[Key, list[float]] = {}  # when
        self._dead: set[Key] = set()
        self._losses: list[Loss] = []
        self._robbed: set[Key] = set()
        self._due: dict[Callable[[], None], float] = {}  # what is to be done, and when

    def _let_go(self) -> None:
        for fd in self._processes:
            os.close(fd)

    def go(self, stopping: Callable[[], bool]) -> None:
        """Until it is to stop, or other state has taken the place of this."""
        self._follower.entries()  # from here on it tells, and what was before is looked at
        for record in self._store.everything():
            self._know(record)
        if self._identity is not None:
            self._later(self._bury, 0)
            self._losses.append(Loss(True, set(), ""))  # who knows, while nobody watched
            self._later(self._mend, 0)
        self._later(self._begin, 0)
        while not stopping() and identity(self._state) == self._identity:
            self._hear(self._wait())
            now = time.monotonic()
            for task in [task for task, at in self._due.items() if at <= now]:
                del self._due[task]
                self._do(task)

    def _begin(self) -> None:
        """From here on whoever takes something is named: what was before has been looked at."""
        self._log(f"watch: begins, at {self._state}")

    def _wait(self) -> set[int]:
        if not self._due:
            return {fd for fd, _ in self._poll.poll()}
        left_s = max(0.0, min(self._due.values()) - time.monotonic())
        return {fd for fd, _ in self._poll.poll(1000 * left_s)}

    def _later(self, task: Callable[[], None], after_s: float = _SETTLE_S) -> None:
        self._due[task] = min(self._due.get(task, math.inf), time.monotonic() + after_s)

    def _do(self, task: Callable[[], None]) -> None:
        began = time.monotonic()
        try:
            task()
        except (NetkitError, OSError, ExceptionGroup) as error:
            self._log(f"watch: {error}")
            self._later(task, _AGAIN_S)
        if task in self._due:
            rested = time.monotonic() + _REST * (time.monotonic() - began)
            self._due[task] = max(self._due[task], rested)

    # -- who lives

    def _hear(self, ready: set[int]) -> None:
        if self._follower.fileno() in ready:  # first: it says whose the rest is
            for entry in self._follower.entries():
                self._heed(entry)
        if self._mounts in ready:
            for key, (path, known) in list(self._places.items()):
                if not _is_at(path, known):
                    del self._places[key]
                    self._later(self._bury)
        for fd in ready & self._processes.keys():
            self._poll.unregister(fd)
            os.close(fd)
            self._dead.add(self._processes.pop(fd))
            self._later(self._bury)
        if self._links.fileno() in ready:
            robbed = self._links.read()
            for name in self._names if robbed is None else self._names.keys() & robbed:
                self._robbed |= self._names[name]
            self._later(self._mend)
        if self._notices is not None and self._notices.fileno() in ready:
            self._listen()

    def _listen(self) -> None:
        if self._notices is not None and (told := self._notices.read()):
            self._losses += told
            self._later(self._mend)

    def _heed(self, entry: Entry) -> None:
        key = entry.kind, entry.id
        if entry.kind not in _KINDS or entry.action in ("drift", "repair"):
            return
        record = self._store.by_id(_KINDS[entry.kind], entry.id)
        if record is not None:
            self._know(record)
        else:
            self._places.pop(key, None)
            self._mended.pop(key, None)
            self._forget(key)

    def _know(self, record: Record) -> None:
        key = record.kind, record.id
        self._forget(key)
        if own := _own(_plan(record)):
            self._own[key] = own
            for name in own:
                self._names.setdefault(name, set()).add(key)
        if isinstance(record, AttachmentRecord):
            for shared in map(self._shared, record.stands_on):
                if shared is not None:
                    self._know(shared)
        if not isinstance(record, SandboxRecord | AttachmentRecord):
            return
        pid, started = _process(record)
        if isinstance(record, SandboxRecord) and record.finished is not None:
            return
        if record.netns and not pid:
            self._places[key] = record.netns, record.identity
        if pid and key not in self._processes.values():
            with suppress(OSError):
                fd = os.pidfd_open(pid)
                self._processes[fd] = key
                self._poll.register(fd, select.POLLIN)
                if started and not pids.alive(pid, started):
                    self._dead.add(key)
                    self._later(self._bury)

    def _forget(self, key: Key) -> None:
        for name in self._own.pop(key, ()):
            self._names[name].discard(key)
            if not self._names[name]:
                del self._names[name]

    def _shared(self, name: str) -> HostRecord | None:
        return self._store.by_id(HostRecord, name)

    def _bury(self) -> None:
        for record in self._engine.bury():
            self._log(f"watch: buried {record.kind} {record.name or record.short_id}")
        for key in list(self._dead):
            sandbox = self._store.by_id(SandboxRecord, key[1])
            if sandbox is None or sandbox.finished is not None or sandbox.sort != "container":
                self._dead.discard(key)
            else:  # whoever watches it himself is about to, or dies of it
                self._later(self._bury, _AGAIN_S)

    # -- what is taken

    def _mend(self) -> None:
        losses, self._losses = self._losses, []
        robbed, self._robbed = self._robbed, set()
        try:
            if losses:
                self._put_back(losses)
            if robbed:
                self._give_back(robbed)
        except BaseException:
            self._losses += losses
            self._robbed |= robbed
            raise

    def _put_back(self, losses: Sequence[Loss]) -> None:
        """What was taken from nftables' tables."""
        changes = self._engine.changes
        with self._engine.still(), changes.kernel() as kernel:
            if any(loss.everything for loss in losses):
                mended, _ = repair.repair(changes, self._store.everything(), kernel)
            else:
                found = repair.tables(changes, kernel)
                taken = {element for loss in losses for element in loss.elements}
                mended = [found] if found else repair.elements(changes, taken, kernel)
            if mended:
                # what is just being made has lost its part of it, too
                intents = self._store.intents()
                self._robbed |= {(r.kind, r.id) for r in intents if r.kind in _KINDS}
                self._later(self._mend, _AGAIN_S)
        if mended:
            self._listen()  # what was seen to be gone may have been told of just now
        culprits = {loss.who for loss in (*losses, *self._losses) if loss.who} - {_myself()}
        self._tell(mended, ", ".join(sorted(culprits)))

    def _give_back(self, robbed: set[Key]) -> None:
        """What was taken of the host's interfaces."""
        changes = self._engine.changes
        with changes.kernel() as kernel:
            amiss = {key for key in robbed if self._is_amiss(key, kernel)}
            if not amiss:
                return
            with self._engine.still():
                # in the order they were made in
                everything = self._store.everything()
                concerned = [record for record in everything if not amiss.isdisjoint(_on(record))]
                mended, left = repair.repair(changes, concerned, kernel)
        self._tell(mended, "")
        for drift in left:
            self._log(f"watch: cannot mend: {drift}")

    def _is_amiss(self, key: Key, kernel: Kernel) -> bool:
        """Whether something of a record that stands is to be put back now."""
        record = self._store.by_id(_KINDS[key[0]], key[1])
        if record is None or record.epoch != self._engine.changes.epoch:
            return False
        if record.maker is not None:
            if maker_lives(record.maker):
                self._robbed.add(key)
                self._later(self._mend, _AGAIN_S)
            return False
        if not steps.check(_plan(record), kernel):
            return False
        if not self._has_life(record):
            self._later(self._bury)
            return False
        now = time.monotonic()
        recent = [at for at in self._mended.get(key, []) if at > now - _LONG_S]
        if len(recent) >= _OFTEN:
            return False
        self._mended[key] = [*recent, now]
        return True

    def _has_life(self, record: Record) -> bool:
        """Whether the namespace is there that what is on record is for."""
        if isinstance(record, EndpointRecord):
            sandbox = self._store.by_id(SandboxRecord, record.sandbox)
            return sandbox is not None and _is_at(sandbox.netns, sandbox.identity)
        return not isinstance(record, AttachmentRecord) or _is_at(record.netns, record.identity)

    def _tell(self, mended: Sequence[Drift], who: str) -> None:
        for drift in mended:
            self._log(f"watch: mended: {drift}" + (f", taken by {who}" if who else ""))


def _myself() -> str:
    """As a notice names this thread, which has mended things itself."""
    with open("/proc/thread-self/comm") as file:
        return culprit(file.read().strip(), threading.get_native_id())


def _plan(record: Record) -> steps.Plan:
    return steps.decode(record.steps)


def _on(record: Record) -> set[Key]:
    """It, and what it stands on."""
    found = {(record.kind, record.id)}
    if isinstance(record, EndpointRecord):
        found.add((NetworkRecord.kind, record.network))
    elif isinstance(record, AttachmentRecord):
        found |= {(HostRecord.kind, name) for name in record.stands_on}
    return found


def _own(plan: steps.Plan) -> set[str]:
    """The interfaces of the host's that a plan makes, or makes something of."""
    things = (thing for step in plan for thing in (*step.makes, *step.within))
    return {thing[2] for thing in things if thing[:2] == ("link", "")}


def _process(record: SandboxRecord | AttachmentRecord) -> tuple[int, int]:
    """The process a container or namespace lives with, and when it started if that is known."""
    if isinstance(record, SandboxRecord) and record.sort == "container":
        return record.pid, record.start_time
    found = re.match(r"/proc/(\d{1,9})/", record.netns or "")
    return (int(found[1]) if found else 0), 0


def _is_at(path: str | None, known: str | None) -> bool:
    """Whether a namespace, that which is *known* if one is, is at *path*; None is the host's."""
    if path is None:
        return True
    try:
        found = netns.identity(path)
    except NetkitError:
        return False
    return known in (None, found)


def _make_room() -> None:
    """A descriptor for each process that is watched."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _MOST_FDS)), hard))
