"""Recovery: undo what dead processes left half done, and what dead containers left behind.

Shapes   `recover` looks at intents only, which are few: every call begins with it. `collect` looks
         at every sandbox: `gc`, and whatever would otherwise be refused because of the dead
Errors   KernelRefused where something resists; it stays an intent for the next call
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress

from msgspec.structs import replace

from netkit import attaching, journal, targets
from netkit.changes import Changes, maker_lives
from netkit.errors import NetkitError
from netkit.kernel import Kernel, netns, pids
from netkit.model import (
    AttachmentRecord,
    EndpointRecord,
    Former,
    HostRecord,
    LinkRecord,
    LoanRecord,
    NetworkRecord,
    Record,
    SandboxRecord,
)
from netkit.store import UPGRADED

_KILL_TIMEOUT_S = 5.0
_KILLED = 137  # 128 + SIGKILL: what a container nobody watched is said to have ended with


def recover(changes: Changes, kernel: Kernel | None = None) -> None:
    """Finish deleting every record whose maker died."""
    if changes.dry:
        return
    dead = [record for record in changes.store.intents() if not maker_lives(record.maker)]
    if not dead:
        return
    with ExitStack() as stack:
        _finish(changes, dead, kernel or stack.enter_context(changes.kernel()))


def _finish(changes: Changes, dead: list[Record], kernel: Kernel) -> None:
    for record in dead:
        if isinstance(record, LoanRecord):
            with suppress(NetkitError):  # it stays on record for gc; other calls do not wait for it
                changes.settle(record.id, wait=False)
            continue
        with changes.store.transaction():
            ours = changes.store.claim(record, changes.maker)
        if not ours:
            continue  # somebody else was quicker
        record = replace(record, maker=changes.maker)
        if isinstance(record, HostRecord) and record.id == UPGRADED:
            from netkit.upgrade import follow  # lazily: it is done once

            follow(changes, record, kernel)
        elif isinstance(record, SandboxRecord):
            _bury(changes, record, kernel)
        elif isinstance(record, NetworkRecord | HostRecord):
            with changes.store.locked("host"):
                _undo_shared(changes, record, kernel)
        elif isinstance(record, AttachmentRecord):
            attaching.undo(changes, kernel, record)
        else:
            changes.undo([record], kernel)


def collect(changes: Changes, kernel: Kernel, skip: str | None = None) -> list[Record]:
    """Bury the dead: sandboxes whose process or namespace is gone, endpoints whose link is."""
    netlink = kernel.netlink()
    buried: list[Record] = []
    deaf: set[str] = set()
    for sandbox in changes.track(changes.store.all(SandboxRecord), "looking for the dead"):
        if sandbox.id == skip or (sandbox.maker and maker_lives(sandbox.maker)):
            continue
        if sandbox.supervisor and maker_lives(sandbox.supervisor):
            continue  # whoever watches it will see to it
        if sandbox.origin and sandbox.finished:
            if _is_forgotten(sandbox.origin, deaf):
                changes.undo([sandbox], kernel)
                buried.append(sandbox)
            continue
        if _is_dead(changes, sandbox):
            if _bury(changes, sandbox, kernel):
                buried.append(sandbox)
            continue
        for ep in changes.store.all(EndpointRecord, sandbox=sandbox.id):
            if ep.maker is not None:
                continue
            # asked now: a list made before these records were read lacks the latest's links
            link_gone = ep.host_ifname and netlink.link(ep.host_ifname) is None
            if link_gone or (not ep.host_ifname and _is_abandoned(sandbox)):
                records = changes.with_sandbox(ep)
                _have_died(changes, records)
                changes.undo(records, kernel)
                buried += records
    for link in changes.store.all(LinkRecord):
        if link.maker is None and _is_cut(changes, link, kernel):
            changes.undo([link], kernel)
            buried.append(link)
    buried += lost(changes, kernel)
    return buried


def lost(changes: Changes, kernel: Kernel) -> list[Record]:
    """Undo what CNI plugins made for namespaces that are gone; their IPAM plugins are told."""
    found: list[Record] = []
    for record in changes.store.all(AttachmentRecord):
        if record.maker is not None:
            continue
        if record.epoch != changes.epoch or not (
            _is_at(record) or netns.inhabited(record.identity)
        ):
            _have_died(changes, [record])
            attaching.undo(changes, kernel, record)
            found.append(record)
    return found


def _is_at(record: AttachmentRecord) -> bool:
    """Whether an attachment's namespace is where it was."""
    with suppress(NetkitError):
        return netns.identity(record.netns) == record.identity
    return False


def bury_earlier(changes: Changes, target: targets.Target, kernel: Kernel) -> None:
    """End the earlier life of a container that has come back as *target*."""
    if target.origin is None:
        return
    for sandbox in targets.of_origin(changes.store, target.origin):
        if sandbox.id != target.id and not sandbox.finished and not targets.is_there(sandbox):
            _bury(changes, sandbox, kernel)


def _undo_shared(changes: Changes, record: NetworkRecord | HostRecord, kernel: Kernel) -> None:
    if isinstance(record, NetworkRecord):
        changes.undo([record, *changes.unshared(record)], kernel)
    elif changes.store.by_id(HostRecord, record.id):  # it may have gone with its network just now
        changes.undo([record], kernel)


def _bury(changes: Changes, sandbox: SandboxRecord, kernel: Kernel) -> bool:
    """Undo all a dead sandbox has. A container stays on record as ended, unless run with --rm.

    One of an engine's does with the networks it had, unless it had none.
    """
    endpoints = changes.store.all(EndpointRecord, sandbox=sandbox.id)
    if any(ep.maker is not None and maker_lives(ep.maker) for ep in endpoints):
        return False  # somebody has begun to take it down since we looked: they finish
    if sandbox.origin is not None:
        sandbox = replace(sandbox, former=_former(changes, sandbox, endpoints))
        gone = replace(sandbox, finished=time.time()) if sandbox.former else sandbox
        keep = bool(sandbox.former)
        _have_died(changes, [sandbox])
        changes.undo([*reversed(endpoints), gone], kernel, keep_sandbox=keep)
        return True
    if sandbox.sort == "container" and sandbox.pid == 0:
        _kill_unknown(sandbox)
    keep = sandbox.sort == "container" and not sandbox.auto_remove and sandbox.pid > 0
    if keep and sandbox.finished is None:
        sandbox = replace(sandbox, finished=time.time(), exit_code=_KILLED)
    elif keep and not endpoints:
        return False  # it ended long ago
    _have_died(changes, [sandbox])
    changes.undo([*reversed(endpoints), sandbox], kernel, keep_sandbox=keep)
    return True


def _have_died(changes: Changes, records: Iterable[Record]) -> None:
    with changes.store.transaction():
        for record in records:
            if isinstance(record, SandboxRecord | AttachmentRecord):
                journal.died(changes.store, record)


def _is_dead(changes: Changes, sandbox: SandboxRecord) -> bool:
    if sandbox.epoch != changes.epoch:
        return True
    if sandbox.sort == "container":
        return sandbox.pid > 0 and not pids.alive(sandbox.pid, sandbox.start_time)
    try:
        assert sandbox.netns is not None
        found = netns.identity(sandbox.netns)
    except NetkitError:
        # a process may be gone while its namespace lives on in others, and its links with it
        if sandbox.origin is not None and sandbox.identity is not None:
            return not netns.inhabited(sandbox.identity)
        return sandbox.sort == "named"
    return sandbox.identity is not None and found != sandbox.identity


def _is_abandoned(sandbox: SandboxRecord) -> bool:
    """Whether nobody is left in it: an endpoint without a link on the host shows nothing else."""
    if sandbox.identity is None or targets.is_there(sandbox):
        return False
    return not netns.inhabited(sandbox.identity)


def _former(
    changes: Changes, sandbox: SandboxRecord, endpoints: list[EndpointRecord]
) -> tuple[Former, ...]:
    """The networks it is to be on again: those it was on, and those it had still to come back to.

    An endpoint in the midst of being made or deleted never was, or is not wanted any more.
    """
    found = {former.network: former for former in sandbox.former}
    for ep in endpoints:
        net = changes.store.by_id(NetworkRecord, ep.network)
        if net is not None and ep.maker is None:
            again = ep.again()
            if net.plugin is not None:  # it may have given them to somebody else
                again = replace(again, addresses=ep.wanted.addresses)
            found[ep.network] = Former(ep.network, net.name, again)
    return tuple(found.values())


def _is_forgotten(origin: str, deaf: set[str]) -> bool:
    """Whether its engine says there is no such container; once it says nothing it is left alone."""
    from netkit import engines

    engine, _, name = origin.partition(":")
    if engine in deaf:
        return False
    try:
        return engines.forgotten(engine, name)
    except NetkitError:
        deaf.add(engine)
        return False


def _is_cut(changes: Changes, link: LinkRecord, kernel: Kernel) -> bool:
    """Whether a link is gone from an end that can be looked at, or none can."""
    if link.epoch != changes.epoch:
        return True
    seen = 0
    for end in link.ends:
        if end.sandbox is not None and changes.store.by_id(SandboxRecord, end.sandbox) is None:
            return True
        if end.netns is not None and not kernel.exists(end.netns):
            continue  # the namespace may live on, out of reach
        with suppress(OSError):
            seen += 1
            if kernel.netlink(end.netns).link(end.ifname) is None:
                return True
    return not seen


def _kill_unknown(sandbox: SandboxRecord) -> None:
    """End a command that was started just before its starter died, unable to note its pid."""
    if sandbox.netns is not None and sandbox.shares is None:
        with suppress(OSError):
            import signal

            from netkit.kernel import process

            for pid, start_time in process.residents(sandbox.netns):
                process.kill(pid, start_time, signal.SIGKILL, _KILL_TIMEOUT_S)
