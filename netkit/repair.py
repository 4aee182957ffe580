"""Repair: what somebody took from the kernel is put back, as the records say it was.

Shapes   what was found is Drift, one by one; each is mended or left, and the journal says which.
         Only what is amiss is touched, so to repair twice is to repair once
Errors   KernelRefused where it cannot be looked; what cannot be mended is no error but left

The firewall's tables come first, whole: without them nothing else of it can be put back, and the
journal is to tell of one flush, not of each rule. Then plan after plan, what others stand on before
them; what is within something that had to be made anew is made anew with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import ExitStack
from typing import NamedTuple

from netkit import journal, steps
from netkit.changes import Changes
from netkit.errors import Drift, NetkitError
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel
from netkit.model import AttachmentRecord, HostRecord, Record

TABLES = "tables"  # the record of what all firewall rules stand on


class Repaired(NamedTuple):
    mended: list[Drift]
    left: list[Drift]


def repair(changes: Changes, records: Iterable[Record], kernel: Kernel) -> Repaired:
    """Mend what is amiss of *records*; with the lock "host" held, and those of all networks."""
    done = Repaired([], [])
    anew: set[steps.Thing] = set()
    if found := tables(changes, kernel):
        done.mended.append(found)
    for record in changes.track(list(records), "repairing"):
        with ExitStack() as held:
            if isinstance(record, AttachmentRecord) and not held.enter_context(
                changes.store.locked_if_free(record.id)
            ):
                continue  # somebody is just taking it down
            now = changes.store.by_id(type(record), record.id)  # type: ignore[type-var]  # one
            if now is not None and now.maker is None and now.epoch == changes.epoch:
                mended, left = _mend(changes, now, kernel, anew)
                done.mended.extend(mended)
                done.left.extend(left)
    return done


def tables(changes: Changes, kernel: Kernel) -> Drift | None:
    """Put back the firewall's tables with all that is in them, if they are not as they were."""
    record = changes.store.by_id(HostRecord, TABLES)
    if record is None or record.maker is not None or record.epoch != changes.epoch:
        return None
    changes.keep_up(kernel)
    plan = steps.decode(record.steps)
    found = next(iter(steps.check(plan, kernel)), None)
    if found is None:
        return None
    note(changes, "drift", record, [found])
    if changes.dry:
        changes.add(plan, kernel)
    else:
        changes.restore_rules(kernel)
    note(changes, "repair", record, [found])
    return found


def elements(changes: Changes, taken: Set[tuple[str, bytes]], kernel: Kernel) -> list[Drift]:
    """Put back what of nftables' elements *taken* is on record (netkit.firewall.notices)."""
    found: list[Drift] = []
    changes.keep_up(kernel)
    if not isinstance(kernel.firewall, Nftables):
        return []  # they are those of one that is being left
    for record in changes.store.everything():
        if record.maker is None and record.epoch == changes.epoch:
            rules = steps.held(steps.decode(record.steps))
            again = steps.Again(rules=tuple(kernel.firewall.among(rules, taken)))
            if drifts := steps.check((again,), kernel):
                note(changes, "drift", record, drifts)
                changes.add((again,), kernel)
                note(changes, "repair", record, drifts)
                found += drifts
    return found


def note(changes: Changes, action: str, record: Record, found: Iterable[Drift]) -> None:
    if what := "; ".join(map(str, found)):
        with changes.store.transaction():
            journal.note(changes.store, action, record, what=what)


def _mend(changes: Changes, record: Record, kernel: Kernel, anew: set[steps.Thing]) -> Repaired:
    """One record's. *anew* are the things that had to be made again, with all that is in them."""
    plan = steps.decode(record.steps)
    amiss = _amiss(plan, kernel)
    if not amiss:
        return Repaired([], [])
    note(changes, "drift", record, amiss.values())
    reasons: dict[int, NetkitError] = {}
    for number, step in enumerate(plan):
        unseen = type(step).check is steps.Step.check and not anew.isdisjoint(step.within)
        if not unseen and not steps.check((step,), kernel):
            continue
        try:
            changes.add(tuple(step.mending(kernel)), kernel)
        except (NetkitError, OSError) as error:
            reasons[number] = error if isinstance(error, NetkitError) else Drift(str(error))
        else:
            anew.update(step.makes)
    left = {} if changes.dry else _amiss(plan, kernel)
    mended = [drift for number, drift in amiss.items() if number not in left.keys() | reasons]
    note(changes, "repair", record, mended)
    return Repaired(mended, [_because(drift, reasons.get(n)) for n, drift in left.items()])


def _amiss(plan: steps.Plan, kernel: Kernel) -> dict[int, Drift]:
    """What is not as it should be, by the number of its step: what is said of it may change."""
    return {n: drift for n, step in enumerate(plan) for drift in steps.check((step,), kernel)}


def _because(left: Drift, reason: NetkitError | None) -> Drift:
    if reason is None or str(reason) == str(left):
        return left
    return Drift(f"{left}: {reason}", hint=reason.hint)
