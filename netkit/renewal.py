"""Renewal: resolv.conf of what lives, as its networks and the host's resolv.conf change.

Shapes   as netkit.gateway: an endpoint that arrives brings the step that writes the file anew, and
         one that leaves takes it along; each as a step of its own plan, so both are undone, and
         finished after a crash, like everything else. Where it is the host's file that changes, a
         change of its own has the steps, of many sandboxes
Source   netkit.namefiles for what the file says, and whose it is

Once a step is committed its text is the sandbox's, whose File says it; no plan keeps one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec.structs import replace

from netkit import namefiles, steps
from netkit.dns import resolvconf
from netkit.model import ChangeRecord, EndpointRecord, NetworkRecord, SandboxRecord
from netkit.namefiles import Place
from netkit.steps import File, Plan, Rewrite
from netkit.store import SqliteStore

R = TypeVar("R", bound=EndpointRecord | ChangeRecord)


def arriving(
    store: SqliteStore, sandbox: SandboxRecord, ep: EndpointRecord, others: Iterable[EndpointRecord]
) -> Plan:
    """What *ep* adds to its plan. Of a container that does not run yet, all networks are known."""
    if sandbox.sort == "container" and not sandbox.pid:
        return ()
    return namefiles.rewrite(sandbox, _places(store, [*others, ep]))


def leaving(store: SqliteStore, ep: EndpointRecord) -> EndpointRecord:
    """*ep* with the step whose deletion writes the file as it is to be without it."""
    if _rewrites(ep):  # it never was, or is leaving already
        return ep
    sandbox = store.by_id(SandboxRecord, ep.sandbox)
    if sandbox is None or (last := namefiles.written(sandbox)) is None:
        return ep
    others = (other for other in store.all(EndpointRecord, sandbox=ep.sandbox) if other.id != ep.id)
    plan = namefiles.rewrite(sandbox, _places(store, others))
    back = (replace(step, content=last.content, was=step.content) for step in plan)
    return replace(ep, steps=steps.encode((*steps.decode(ep.steps), *back)))


def due(store: SqliteStore, sandboxes: Iterable[SandboxRecord]) -> tuple[Rewrite, ...]:
    """What is to be written because the host's file has changed.

    Servers it does not name any more are kept, until it names others: nobody who asked the host's
    has 8.8.8.8 put in their place.
    """
    plan: tuple[Rewrite, ...] = ()
    for sandbox in sandboxes:
        if is_kept(sandbox):
            here = store.all(EndpointRecord, sandbox=sandbox.id)
            plan += namefiles.rewrite(sandbox, _places(store, here))
    return tuple(step for step in plan if not _is_poorer(step))


def is_kept(sandbox: SandboxRecord) -> bool:
    """Whether a sandbox lives, and has a resolv.conf of netkit's."""
    return sandbox.finished is None and namefiles.written(sandbox) is not None


def rewritten(store: SqliteStore, sandbox: SandboxRecord) -> tuple[Rewrite, ...]:
    """What is to be written because *sandbox* is to have other name files."""
    return namefiles.rewrite(sandbox, _places(store, store.all(EndpointRecord, sandbox=sandbox.id)))


def committed(store: SqliteStore, record: R) -> R:
    """*record* as it is kept: what it wrote is its sandbox's now; in a transaction."""
    if not (wrote := _rewrites(record)):
        return record
    for step in wrote:
        _settle(store, step, step.content)
    left = (step for step in steps.decode(record.steps) if not isinstance(step, Rewrite))
    return replace(record, steps=steps.encode(left))


def undone(store: SqliteStore, record: EndpointRecord | ChangeRecord) -> None:
    """Note that what a record wrote has been put back; in a transaction."""
    for step in _rewrites(record):
        _settle(store, step, step.was)


def _settle(store: SqliteStore, wrote: Rewrite, text: str) -> None:
    sandbox = store.by_id(SandboxRecord, wrote.sandbox)
    if sandbox is not None:
        plan = (
            replace(step, content=text)
            if isinstance(step, File) and step.path == wrote.path
            else step
            for step in steps.decode(sandbox.steps)
        )
        store.update(replace(sandbox, steps=steps.encode(plan)))


def _rewrites(record: EndpointRecord | ChangeRecord) -> Sequence[Rewrite]:
    if Rewrite.__name__ not in record.steps:  # few have one, and decoding takes its time
        return ()
    return [step for step in steps.decode(record.steps) if isinstance(step, Rewrite)]


def _places(store: SqliteStore, endpoints: Iterable[EndpointRecord]) -> list[Place]:
    found = []
    for ep in endpoints:
        net = store.by_id(NetworkRecord, ep.network)
        if net is not None:  # the built-in ones are not on record, and have no say
            found.append(Place(net, {address.version for address in ep.addresses}))
    return found


def _is_poorer(step: Rewrite) -> bool:
    """Whether there is nobody to be asked any more."""
    if not step.content:
        return True
    return resolvconf.is_fallback(step.content) and not resolvconf.is_fallback(step.was)
