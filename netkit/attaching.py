"""Attachments: what CNI plugins make for an interface of a container, on record as it is made.

Shapes   a proposal is a plan, the plans it shares with others (by name, made when first wanted),
         and the ports it claims; an attachment may be made in several goes, each a proposal that
         holds what the former held and more, for some plugins have to see an interface first
Errors   Conflict for what is attached already, or claimed; Busy if shared plans come and go too
         often; KernelRefused

Until `commit` the record is an intent: whoever finds one whose maker died undoes it. On any error
all that was made is undone, and shared plans that nobody else stands on go as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from ipam.errors import IpamError
from netkit import journal, sharing, steps
from netkit.changes import Changes
from netkit.errors import Busy, Conflict, KernelRefused, NetkitError
from netkit.kernel import Kernel
from netkit.model import AttachmentRecord, HostRecord, PluginCall
from netkit.ports import Ports
from netkit.portspec import PortSpec

_TRIES = 20

Make = Callable[[Kernel], steps.Plan]  # a shared plan, for the kernel as it is now


class Proposal(NamedTuple):
    """What is to be there. `ports` are claimed of the host, for addresses of these `versions`."""

    plan: steps.Plan = ()
    shared: Mapping[str, Make] = {}
    ports: Sequence[PortSpec] = ()
    versions: Sequence[int] = (4,)


class Attaching:
    """An attachment in the making."""

    def __init__(self, changes: Changes, kernel: Kernel, record: AttachmentRecord) -> None:
        self.changes = changes
        self.kernel = kernel
        self.record = replace(record, created=time.time(), epoch=changes.epoch, maker=changes.maker)
        self.held = ExitStack()  # locks
        self._asked: steps.Plan = ()
        self._done: steps.Plan = ()

    def owe(self, lease: PluginCall) -> None:
        """Remember, before an IPAM plugin is asked, what releases what it gives."""
        self.record = replace(self.record, lease=lease)
        with self.changes.store.transaction():
            self.changes.store.put(self.record)
        steps.point("owing")

    def make(self, proposal: Proposal) -> None:
        """Make what is in *proposal* and was not in those before it."""
        if proposal.ports:
            self.held.enter_context(sharing.locked(self.changes.store, self.record))
        new = tuple(step for step in proposal.plan if step not in self._asked)
        prepared = self._intend(proposal, new)
        steps.point("intended")
        self.changes.keep_up(self.kernel)
        try:
            self.changes.add(prepared, self.kernel)
        except KernelRefused:
            if not self._mend(proposal.shared):
                raise
            self.changes.add(prepared, self.kernel)
        steps.point("added")
        self._asked += new
        self._done += prepared

    def _intend(self, proposal: Proposal, new: steps.Plan) -> steps.Plan:
        store = self.changes.store
        for _ in range(_TRIES):
            with store.transaction():
                if store.standing(proposal.shared, self.changes.epoch):
                    claims = Ports(store.connection)
                    for spec in proposal.ports:
                        claims.claim(
                            self.record.id,
                            spec,
                            proposal.versions,
                            sharing.OwnHost(self.kernel, self.record.sandbox),
                            self.changes.owner_name,
                            partial(sharing.is_one, store, self.record),
                        )
                    ready = sharing.waiting(store, self.record, new)
                    prepared = steps.prepare(ready, self.kernel)
                    self._put(proposal.shared, steps.encode(self._done + prepared))
                    return prepared
                # should this attachment fail, or its maker die, what it waits for goes with it
                self._put(proposal.shared, self.record.steps)
            self._found(proposal.shared)
        raise Busy(
            f"cannot attach {self.record.owner}: what it shares with others came and went "
            f"{_TRIES} times meanwhile",
            hint="try again",
        )

    def _put(self, shared: Collection[str], plan: str) -> None:
        stands_on = tuple(dict.fromkeys((*self.record.stands_on, *shared)))
        self.record = replace(self.record, steps=plan, stands_on=stands_on)
        self.changes.store.put(self.record)
        self.changes.store.stand(self.record.id, shared)

    def _found(self, shared: Mapping[str, Make]) -> None:
        """Make those shared plans that are not there, or wait for who makes or undoes them."""
        store = self.changes.store
        with store.locked("host"):
            for name, make in shared.items():
                if store.standing([name], self.changes.epoch):
                    continue
                with store.transaction():
                    record = HostRecord(
                        id=name,
                        created=time.time(),
                        epoch=self.changes.epoch,
                        maker=self.changes.maker,
                        steps=steps.encode(steps.prepare(make(self.kernel), self.kernel)),
                        firewall=self.kernel.firewall.name if name == "tables" else None,
                    )
                    store.put(record)
                self.changes.realise([record], self.kernel)

    def _mend(self, shared: Mapping[str, Make]) -> bool:
        """Make again those shared plans that somebody has undone; whether there were any."""
        store, mended = self.changes.store, False
        with store.locked("host"):
            for name, make in shared.items():
                record = store.by_id(HostRecord, name)
                plan = steps.decode(record.steps) if record else ()
                if record is None or not steps.check(plan, self.kernel):
                    continue
                mended = True
                if name == "tables":
                    self.changes.restore_rules(self.kernel)
                    continue
                with suppress(ExceptionGroup):  # there is little left of it
                    self.changes.delete(plan, self.kernel)
                with store.transaction():
                    again = steps.prepare(make(self.kernel), self.kernel)
                    record = replace(record, steps=steps.encode(again))
                    store.update(record)
                self.changes.add(again, self.kernel)
        return mended

    def keep(self, result: str) -> None:
        """Remember what is answered."""
        self.record = replace(self.record, result=result)

    def commit(self) -> None:
        self.record = replace(self.record, maker=None)
        with self.changes.store.transaction():
            self.changes.store.put(self.record)
            journal.made(self.changes.store, self.record)
        steps.point("committed")

    def undo(self, error: BaseException) -> None:
        """Leave no trace; what resists is an intent for the next call."""
        try:
            undo(self.changes, self.kernel, self.record)
        except NetkitError as left:
            error.add_note(f"and could not be undone: {left}")


@contextmanager
def attaching(changes: Changes, kernel: Kernel, wanted: AttachmentRecord) -> Iterator[Attaching]:
    """Make an attachment inside; at the end it is committed, on any error undone."""
    with changes.store.locked(wanted.id):
        found = changes.store.by_id(AttachmentRecord, wanted.id)
        if found is not None:
            if found.epoch == changes.epoch and found.identity == wanted.identity:
                raise Conflict(
                    f"{wanted.owner} is attached already", hint="a second ADD needs a DEL first"
                )
            undo(changes, kernel, found)  # of an earlier boot, or an earlier namespace
        hand = Attaching(changes, kernel, wanted)
        try:
            with hand.held:
                yield hand
                hand.commit()
        except BaseException as error:
            hand.undo(error)
            raise


def detach(changes: Changes, kernel: Kernel, found: AttachmentRecord) -> None:
    """Undo an attachment, once nobody else is in the midst of it."""
    with changes.store.locked(found.id):
        now = changes.store.by_id(AttachmentRecord, found.id)
        if now is not None:
            undo(changes, kernel, now)


def undo(changes: Changes, kernel: Kernel, found: AttachmentRecord) -> None:
    """Undo an attachment, and what it is the last to stand on."""
    with ExitStack() as held:
        if Ports(changes.store.connection).any(found.id):
            held.enter_context(sharing.locked(changes.store, found))
            found = sharing.hand_over(changes, kernel, found)
        _undo(changes, kernel, found)


def _undo(changes: Changes, kernel: Kernel, found: AttachmentRecord) -> None:
    store = changes.store
    if found.lease is not None and found.lease.early:
        # DHCP says good-bye by the interface; what fails now is tried again when that is gone
        with suppress(IpamError, OSError):
            changes.call(found.lease, ())
            found = replace(found, lease=None)
    if not store.idle(found.stands_on, but=found.id):
        changes.undo([found], kernel)
    else:
        with store.locked("host"):
            gone = [record for record in changes.unshared(found) if record.id in found.stands_on]
            if changes.are_used(gone, steps.decode(found.steps), kernel):
                gone = []
            changes.undo([found, *gone], kernel)
    # two who leave at once each take the other for one that stays
    changes.sweep(found.stands_on, kernel)
