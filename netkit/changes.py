"""Changes: records and what their steps do to the kernel, kept in agreement whatever happens.

    propose   in one transaction: the record as an intent, with its leases, claims, prepared plan
    realise   add the plans, then commit the records; on any error undo instead
    undo      mark the records as intents, delete their plans, then erase them

Shapes   an intent is a record whose `maker` is set. Whichever of the three a process dies in, the
         record's steps are what there is to delete: recovery (netkit.recovery) is `undo` again
Errors   NetkitError; what could not be undone is left as an intent for the next call

In a dry run all of this happens but for the kernel's part, inside a transaction that is rolled
back: what would have been done is collected as the lines an operator would type.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import gateway, steps
from netkit.errors import KernelRefused, NetkitError
from netkit.kernel import Kernel, netns, process
from netkit.model import EndpointRecord, NetworkRecord, Record, SandboxRecord
from netkit.ports import Ports
from netkit.store import SqliteStore

if TYPE_CHECKING:
    import ipam

_ABANDONED = "0:0"  # no process has this number: the next call may take the record over


class Changes:
    """One process's hand on one store and one kernel."""

    def __init__(self, store: SqliteStore, kernel: Callable[[], Kernel]) -> None:
        self.store = store
        self.kernel = kernel
        self.maker = _me()
        self._epoch: str | None = None
        self._lines: list[str] | None = None

    @property
    def epoch(self) -> str:
        """This boot and this host namespace: what was made in another is gone with it."""
        if self._epoch is None:
            with open("/proc/sys/kernel/random/boot_id") as file:
                self._epoch = f"{file.read().strip()}/{netns.own()}"
        return self._epoch

    @contextmanager
    def dry_run(self) -> Iterator[list[str]]:
        """Whatever is done inside is not: it becomes lines."""
        lines: list[str] = []
        self._lines = lines
        try:
            with self.store.transaction():
                yield lines
                raise _RollBack
        except _RollBack:
            pass
        finally:
            self._lines = None

    @property
    def dry(self) -> bool:
        return self._lines is not None

    def add(self, plan: steps.Plan, kernel: Kernel) -> None:
        if self._lines is not None:
            self._lines += steps.lines(plan)
        else:
            steps.add(plan, kernel)

    def delete(self, plan: steps.Plan, kernel: Kernel, going: Iterable[steps.Thing] = ()) -> None:
        if self._lines is not None:
            self._lines += steps.undo_lines(plan, going)
        else:
            steps.delete(plan, kernel, going)

    def act(self, line: str, action: Callable[[], object]) -> None:
        """Do what is no step, because nothing undoes it; in a dry run *line* stands for it."""
        if self._lines is not None:
            self._lines.append(line)
        else:
            action()

    def realise(self, records: Sequence[Record], kernel: Kernel, *, commit: bool = True) -> None:
        """Add the plans of *records*, all or none, and commit them."""
        done = 0
        try:
            steps.point("intended")
            for record in records:
                self.add(steps.decode(record.steps), kernel)
                done += 1
            steps.point("added")
            if commit:
                with self.store.transaction():
                    for record in records:
                        self.store.update(replace(record, maker=None))
        except BaseException as error:
            # the plan that was refused has undone itself, unless it resisted or was interrupted
            whole = isinstance(error, Exception) and not hasattr(error, "__notes__")
            self._roll_back(records, done if whole else done + 1, kernel, error)
            raise
        steps.point("committed")

    def _roll_back(
        self, records: Sequence[Record], done: int, kernel: Kernel, error: BaseException
    ) -> None:
        """Delete the first *done* plans, backwards; then the store, for it may be what failed."""
        left = []
        for record in reversed(records[:done]):
            try:
                self.delete(steps.decode(record.steps), kernel)
            except ExceptionGroup as group:
                left.append(record)
                for reason in group.exceptions:
                    error.add_note(f"and could not be undone: {reason}")
        try:
            with self.store.transaction():
                for record in reversed(records):
                    if record in left:
                        self.store.update(replace(record, maker=_ABANDONED))
                    else:
                        self.erase(record)
        except NetkitError as stuck:
            error.add_note(f"and could not be forgotten: {stuck}")

    def undo(
        self, records: Sequence[Record], kernel: Kernel, *, keep_sandbox: bool = False
    ) -> None:
        """Delete the plans of *records* in this order, and the records whose plans are gone.

        *keep_sandbox*: a container that has ended stays on record, with its files.
        """
        with self.store.transaction():
            records = [
                replace(self._leaving(record, records), maker=self.maker)
                for record in records
                if self.store.claim(record, self.maker)
            ]
            for record in records:
                self.store.update(record)
        steps.point("undoing")
        errors: list[Exception] = []
        kept = {r.id for r in records if keep_sandbox and isinstance(r, SandboxRecord)}
        plans = [self._left_of(record, record.id in kept) for record in records]
        going = {thing for plan in plans for thing in steps.made(plan)}
        for record, plan in zip(records, plans, strict=True):
            try:
                self.delete(plan, kernel, going)
            except ExceptionGroup as group:
                errors += group.exceptions
                with self.store.transaction():
                    self.store.update(replace(record, maker=_ABANDONED))
                continue
            with self.store.transaction():
                if record.id in kept:
                    left = steps.encode(steps.durable(steps.decode(record.steps)))
                    self.store.update(replace(record, maker=None, steps=left))
                else:
                    self.erase(record)
                if keep_sandbox and isinstance(record, EndpointRecord):
                    self._reserve(record)
        steps.point("undone")
        if errors:
            raise KernelRefused(
                "; ".join(str(error) for error in errors),
                hint="mend the cause, then run `netkit gc`: it finishes the job",
            ) from errors[0]

    def _leaving(self, record: Record, others: Sequence[Record]) -> Record:
        """An endpoint that leaves a sandbox which stays hands on the default route."""
        if not isinstance(record, EndpointRecord) or record.sandbox in {r.id for r in others}:
            return record
        return gateway.leaving(self.store, record)

    def _left_of(self, record: Record, keep: bool) -> steps.Plan:
        """What there is to delete: after a reboot only what outlived it; files stay if *keep*."""
        plan = steps.decode(record.steps)
        if record.epoch != self.epoch:
            return () if keep else steps.durable(plan)
        return tuple(step for step in plan if not step.durable) if keep else plan

    def erase(self, record: Record) -> None:
        """Forget a record and all that was leased or claimed in its name; in a transaction."""
        if isinstance(record, EndpointRecord):
            net = self.store.by_id(NetworkRecord, record.network)
            if net is not None:
                import ipam

                self.allocator(net).release(ipam.Owner(record.owner))
            Ports(self.store.connection).release(record.id)
        elif isinstance(record, SandboxRecord) and record.finished is not None:
            import ipam

            for net in self.store.all(NetworkRecord):
                self.allocator(net).release(ipam.Owner(record.name))
        elif isinstance(record, NetworkRecord):
            self._leases().drop(self.allocator(record).pool)
        self.store.remove(record)

    def _reserve(self, ep: EndpointRecord) -> None:
        """Keep the address a container asked for, now that it has ended, until it is removed."""
        net = self.store.by_id(NetworkRecord, ep.network)
        if net is not None and ep.static and ep.address is not None:
            import ipam

            name = ep.owner.rpartition("/")[0]
            self.allocator(net).lease(ipam.Owner(name), ep.address.ip)

    def allocator(self, net: NetworkRecord) -> ipam.Allocator:
        """The addresses of a network; use it in a transaction."""
        import ipam

        pool = ipam.Pool(
            str(net.subnet),
            gateway=net.gateway,
            ip_range=net.ip_range,
            reserved=net.reserved,
            name=net.id,
        )
        return ipam.Allocator(pool, self._leases())

    def _leases(self) -> ipam.SqliteLeases:
        import ipam

        return ipam.SqliteLeases(self.store.connection)

    def with_sandbox(self, ep: EndpointRecord) -> list[Record]:
        """The endpoint, and its sandbox if that is on record only for this endpoint's sake."""
        sandbox = self.store.by_id(SandboxRecord, ep.sandbox)
        if sandbox is None or sandbox.sort == "container":
            return [ep]
        last = len(self.store.all(EndpointRecord, sandbox=sandbox.id)) == 1
        return [ep, sandbox] if last else [ep]

    def owner_name(self, endpoint: str) -> str:
        """The container an endpoint id in a message means."""
        ep = self.store.by_id(EndpointRecord, endpoint)
        sandbox = self.store.by_id(SandboxRecord, ep.sandbox) if ep else None
        return sandbox.name if sandbox else endpoint[:12]


class _RollBack(Exception):
    """Leaves a transaction without a trace."""


def maker_lives(maker: str | None) -> bool:
    """Whether the process in the midst of a record is still at it."""
    if maker is None:
        return True
    pid, _, start = maker.partition(":")
    return process.alive(int(pid), int(start))


def _me() -> str:
    with open("/proc/self/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return f"{os.getpid()}:{fields[19]}"
