"""Recovery: undo what dead processes left half done, and what dead containers left behind.

Shapes   `recover` looks at intents only, which are few: every call begins with it. `collect` looks
         at every sandbox: `gc`, and whatever would otherwise be refused because of the dead
Errors   KernelRefused where something resists; it stays an intent for the next call
"""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, suppress

from msgspec.structs import replace

from netkit import drivers
from netkit.changes import Changes, maker_lives
from netkit.errors import NetkitError
from netkit.kernel import Kernel, netns, process
from netkit.model import EndpointRecord, HostRecord, NetworkRecord, Record, SandboxRecord

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
        with changes.store.transaction():
            ours = changes.store.claim(record, changes.maker)
        if not ours:
            continue  # somebody else was quicker
        record = replace(record, maker=changes.maker)
        if isinstance(record, SandboxRecord):
            _bury(changes, record, kernel)
        elif isinstance(record, NetworkRecord | HostRecord):
            with changes.store.locked("host"):
                _undo_shared(changes, record, kernel)
        else:
            changes.undo([record], kernel)


def collect(changes: Changes, kernel: Kernel, skip: str | None = None) -> list[Record]:
    """Bury the dead: sandboxes whose process or namespace is gone, endpoints whose link is."""
    netlink = kernel.netlink()
    buried: list[Record] = []
    for sandbox in changes.store.all(SandboxRecord):
        if sandbox.id == skip or (sandbox.maker and maker_lives(sandbox.maker)):
            continue
        if sandbox.supervisor and maker_lives(sandbox.supervisor):
            continue  # whoever watches it will see to it
        if _is_dead(changes, sandbox):
            if _bury(changes, sandbox, kernel):
                buried.append(sandbox)
            continue
        for ep in changes.store.all(EndpointRecord, sandbox=sandbox.id):
            # asked now: a list made before these records were read lacks the latest's links
            if ep.host_ifname and ep.maker is None and netlink.link(ep.host_ifname) is None:
                records = changes.with_sandbox(ep)
                changes.undo(records, kernel)
                buried += records
    return buried


def unshared(changes: Changes, net: NetworkRecord) -> list[Record]:
    """The shared plans nobody wants once *net* is gone."""
    wanted: set[str] = set()
    for other in changes.store.all(NetworkRecord):
        if other.id != net.id:
            wanted |= set(drivers.load(other.driver).shared(other))
    return [r for r in reversed(changes.store.all(HostRecord)) if r.id not in wanted]


def _undo_shared(changes: Changes, record: NetworkRecord | HostRecord, kernel: Kernel) -> None:
    if isinstance(record, NetworkRecord):
        changes.undo([record, *unshared(changes, record)], kernel)
    elif changes.store.by_id(HostRecord, record.id):  # it may have gone with its network just now
        changes.undo([record], kernel)


def _bury(changes: Changes, sandbox: SandboxRecord, kernel: Kernel) -> bool:
    """Undo all a dead sandbox has. A container stays on record as ended, unless run with --rm."""
    endpoints = changes.store.all(EndpointRecord, sandbox=sandbox.id)
    if sandbox.sort == "container" and sandbox.pid == 0:
        _kill_unknown(sandbox)
    keep = sandbox.sort == "container" and not sandbox.auto_remove and sandbox.pid > 0
    if keep and sandbox.finished is None:
        sandbox = replace(sandbox, finished=time.time(), exit_code=_KILLED)
    elif keep and not endpoints:
        return False  # it ended long ago
    changes.undo([*reversed(endpoints), sandbox], kernel, keep_sandbox=keep)
    return True


def _is_dead(changes: Changes, sandbox: SandboxRecord) -> bool:
    if sandbox.epoch != changes.epoch:
        return True
    if sandbox.sort == "container":
        return sandbox.pid > 0 and not process.alive(sandbox.pid, sandbox.start_time)
    try:
        assert sandbox.netns is not None
        found = netns.identity(sandbox.netns)
    except NetkitError:
        # a process may be gone while its namespace lives on in others, and its links with it
        return sandbox.sort == "named"
    return sandbox.identity is not None and found != sandbox.identity


def _kill_unknown(sandbox: SandboxRecord) -> None:
    """End a command that was started just before its starter died, unable to note its pid."""
    if sandbox.netns is not None and sandbox.shares is None:
        with suppress(OSError):
            for pid, start_time in process.residents(sandbox.netns):
                process.kill(pid, start_time, signal.SIGKILL, _KILL_TIMEOUT_S)
