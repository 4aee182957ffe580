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

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec.structs import replace

from netkit import (
    allocation,
    drivers,
    firewall,
    gateway,
    journal,
    namesakes,
    naming,
    policies,
    renewal,
    steps,
)
from netkit.config import Config
from netkit.drivers import p2p
from netkit.errors import KernelRefused, NetkitError
from netkit.kernel import Kernel, netns, pids
from netkit.model import (
    HOST_NAMES,
    NO_STEPS,
    AttachmentRecord,
    ChangeRecord,
    EndpointRecord,
    EndRecord,
    HostRecord,
    LinkRecord,
    LoanRecord,
    NetworkRecord,
    PluginCall,
    Record,
    SandboxRecord,
)
from netkit.ports import Ports
from netkit.store import SqliteStore, members

if TYPE_CHECKING:
    import ipam

T = TypeVar("T")

ABANDONED = "0:0"  # no process has this number: the next call may take the record over


class Tracker(Protocol):
    """Passes on *things*, and may show somebody how many of them are done."""

    def __call__(self, things: Iterable[T], what: str, /) -> Iterable[T]: ...


class Changes:
    """One thread's hand on one store and one kernel."""

    def __init__(
        self, store: SqliteStore, kernel: Callable[[], Kernel], config: Config | None = None
    ) -> None:
        self.store = store
        self.config = config or Config()
        self.kernel = kernel
        self._epoch: str | None = None
        self._lines: list[str] | None = None
        self._owed: list[str] = []
        self._memberships: set[str] = set()
        self.track: Tracker = lambda things, _: things
        # somebody may be told of what was done, and will not do by itself
        self.warn: Callable[[str], object] = lambda text: None
        # who hosts CNI plugins calls theirs without a process
        self.call: Callable[[PluginCall, Sequence[int]], object] = allocation.execute

    @cached_property
    def maker(self) -> str:
        """The thread that does it all: a store is not shared by threads. It ends with its work, or
        its work was done: what the dead left half done is anybody's to undo.
        """
        return "{}:{}".format(*pids.me())

    @property
    def epoch(self) -> str:
        """This boot and this host namespace: what was made in another is gone with it."""
        if self._epoch is None:
            self._epoch = f"{netns.boot()}/{netns.own()}"
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
            self._lines += steps.lines(plan, kernel.firewall)
        else:
            steps.add(plan, kernel)

    def delete(self, plan: steps.Plan, kernel: Kernel, going: Iterable[steps.Thing] = ()) -> None:
        if self._lines is not None:
            self._lines += steps.undo_lines(plan, kernel.firewall, going)
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
        self.keep_up(kernel)
        done = 0
        plans: list[steps.Plan] = []
        try:
            steps.point("intended")
            for record in records:
                plans.append(steps.decode(record.steps))
                self.add(plans[-1], kernel)
                done += 1
            steps.point("added")
            if commit:
                with self.store.transaction():
                    for record in records:
                        self._commit(record)
        except BaseException as error:
            # the plan that was refused has undone itself, unless it resisted or was interrupted
            whole = isinstance(error, Exception) and not hasattr(error, "__notes__")
            self._roll_back(records, done if whole else done + 1, kernel, error)
            raise
        steps.point("committed")
        for plan in plans:
            for step in plan:
                for text in step.warnings:
                    self.warn(text)

    def keep_up(self, kernel: Kernel) -> None:
        """Another process may have moved to another firewall while this one waited for a lock."""
        tables = self.store.by_id(HostRecord, "tables")
        if tables is not None and tables.firewall not in (None, kernel.firewall.name):
            kernel.firewall = firewall.load(tables.firewall or firewall.DEFAULT)

    def _commit(self, record: Record) -> None:
        journal.made(self.store, record)
        if isinstance(record, EndpointRecord | ChangeRecord):
            record = renewal.committed(self.store, record)
        if isinstance(record, ChangeRecord):
            for after in (record.after, *record.others, record.network_after):
                if isinstance(after, EndpointRecord):
                    after = renewal.committed(self.store, after)
                if after is not None:
                    self.store.update(after)
            if record.after is not None:
                Ports(self.store.connection).hand(record.id, record.after.id)
            if (wanted := record.sandbox_after) is not None:  # it may have started meanwhile
                found = self.store.get(SandboxRecord, wanted.id)
                self.store.update(replace(found, labels=wanted.labels, files=wanted.files))
            self.store.remove(record)
        else:
            self.store.update(replace(record, maker=None))

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
                        self.store.update(replace(record, maker=ABANDONED))
                    elif isinstance(record, SandboxRecord) and record.former:
                        self._detach(record)
                    else:
                        self.erase(record)
        except NetkitError as stuck:
            error.add_note(f"and could not be forgotten: {stuck}")
        for failed in self._settle_owed():
            error.add_note(f"and {failed}")

    def undo(
        self, records: Sequence[Record], kernel: Kernel, *, keep_sandbox: bool = False
    ) -> None:
        """Delete the plans of *records* in this order, and the records whose plans are gone.

        *keep_sandbox*: a container that has ended stays on record; one of ours with its files.
        """
        with ExitStack() as held:
            self._undo(records, kernel, held, keep_sandbox)

    def _undo(
        self, records: Sequence[Record], kernel: Kernel, held: ExitStack, keep_sandbox: bool
    ) -> None:
        given = {record.id for record in records}
        networks = (record.network for record in records if isinstance(record, EndpointRecord))
        with self.membership(networks), self.store.transaction():
            records = self._with_links(records, held)
            needed = self._needed(records)
            records = [record for record in records if record.id not in needed]
            records = [
                replace(self._leaving(record, records), maker=self.maker)
                for record in records
                if self.store.claim(record, self.maker)
            ]
            for record in records:
                self.store.update(record)
        self.keep_up(kernel)
        steps.point("undoing")
        errors: list[Exception] = []
        sandboxes = {r.id for r in records if isinstance(r, SandboxRecord) and r.id in given}
        kept = sandboxes if keep_sandbox else set()
        ours = {r.id for r in records if isinstance(r, SandboxRecord) and r.sort == "container"}
        plans = [self._left_of(record, record.id in kept & ours) for record in records]
        going = {thing for plan in plans for thing in steps.made(plan)}
        going |= {("netns", at) for at in map(_lost, records) if at is not None}
        for number, (record, plan) in enumerate(zip(records, plans, strict=True)):
            if number:
                steps.point("undone one")
            try:
                self.delete(plan, kernel, going)
            except ExceptionGroup as group:
                errors += group.exceptions
                with self.store.transaction():
                    self.store.update(replace(record, maker=ABANDONED))
                continue
            with self.store.transaction():
                if record.id in kept - ours:
                    assert isinstance(record, SandboxRecord)
                    self._detach(record)
                elif record.id in kept:
                    left = steps.encode(steps.durable(steps.decode(record.steps)))
                    self.store.update(replace(record, maker=None, steps=left))
                elif record.id not in given and self._is_used(record):
                    self.store.update(replace(record, maker=None))  # somebody joined it meanwhile
                else:
                    journal.gone(self.store, record)
                    self.erase(record)
                if keep_sandbox and isinstance(record, EndpointRecord):
                    self._reserve(record)
        errors += self._settle_owed()
        steps.point("undone")
        if errors:
            raise KernelRefused(
                "; ".join(str(error) for error in errors),
                hint="mend the cause, then run `netkit gc`: it finishes the job",
            ) from errors[0]

    @contextmanager
    def membership(self, networks: Iterable[str]) -> Iterator[None]:
        """Hold the locks of who is on *networks*: who is counted on does not leave meanwhile."""
        had, wanted = self._memberships, set(networks)
        with ExitStack() as locks:
            for network in sorted(wanted - had):
                locks.enter_context(self.store.locked(members(network)))
            self._memberships = had | wanted
            try:
                yield
            finally:
                self._memberships = had

    def _with_links(self, records: Sequence[Record], held: ExitStack) -> list[Record]:
        """*records*, and what goes with the links among them and of their sandboxes.

        A link goes as a whole, whoever takes it down: first it, and both ends from the kernel; last
        the far sandbox if it is on record for the link's sake only, and what the host has for it.
        """
        links = {r.id: r for r in records if isinstance(r, LinkRecord)}
        ends = {r.id: r for r in records if isinstance(r, EndRecord)}
        for record in records:
            if isinstance(record, SandboxRecord):
                found = self.store.all(EndRecord, sandbox=record.id)
                ends |= {end.id: end for end in found if self._is_free(end)}
        for end in ends.values():
            link = self.store.by_id(LinkRecord, end.network)
            if link is not None and self._is_free(link):
                links.setdefault(link.id, link)
        for link in links.values():
            found = self.store.all(EndRecord, network=link.id)
            ends |= {e.id: e for e in found if e.id not in ends and self._is_free(e)}
        far: dict[str, SandboxRecord] = {}
        known = {record.id for record in records}
        for sandbox_id in {end.sandbox for end in ends.values()} - known:
            sandbox = self.store.by_id(SandboxRecord, sandbox_id)
            if sandbox and self._is_free(sandbox) and not self._is_used(sandbox, but=set(ends)):
                far[sandbox.id] = sandbox
        host: list[Record] = []
        on_host = any(link.on_host for link in links.values())
        # whoever holds it is changing just that: then it stays until it is next looked at
        if on_host and held.enter_context(self.store.locked_if_free("host")):
            host = self.unshared(*links.values())
        others = [r for r in records if not isinstance(r, LinkRecord | EndRecord)]
        return [*links.values(), *ends.values(), *others, *far.values(), *host]

    def _needed(self, records: Iterable[Record]) -> set[str]:
        """Those shared plans that an attachment has come to need since that was looked at."""
        plans = {record.id for record in records if isinstance(record, HostRecord)}
        return plans - self.store.idle(plans, but=_attachment(records)) if plans else set()

    def sweep(self, names: Collection[str], kernel: Kernel) -> None:
        """Undo those of the shared plans *names* that nobody wants any more."""
        if idle := self.store.idle(names):
            with self.store.locked("host"):
                gone = [record for record in self.unshared() if record.id in idle]
                if not self.are_used(gone, (), kernel):
                    self.undo(gone, kernel)

    def are_used(self, shared: Iterable[Record], leaving: steps.Plan, kernel: Kernel) -> bool:
        """Whether a bridge of these shared plans has ports of somebody else's, who then needs all
        of them: ports other than those *leaving*.
        """
        plans = (steps.decode(record.steps) for record in shared)
        bridges = {s.name for plan in plans for s in plan if isinstance(s, steps.Bridge)}
        if not bridges:
            return False
        links = kernel.netlink().links()
        masters = {link.ifindex for link in links if link.name in bridges}
        own = {thing[2] for thing in steps.made(leaving) if thing[0] == "link" and not thing[1]}
        return any(link.master in masters and link.name not in own for link in links)

    def restore_rules(self, kernel: Kernel) -> None:
        """Put back the firewall's tables, and all rules on record in them, after somebody's flush;
        with the lock "host" held.
        """
        plans = (
            steps.decode(record.steps)
            for record in self.store.everything()
            if record.epoch == self.epoch and record.maker is None
        )
        rules = list(dict.fromkeys(rule for plan in plans for rule in steps.held(plan)))
        kernel.firewall.open(rules)
        # what came meanwhile went astray, and would go on doing so
        ports = [rule for rule in rules if isinstance(rule, firewall.Publish)]
        kernel.forget_flows(*(rule for rule in ports if rule.protocol == "udp"))

    def _is_free(self, record: Record) -> bool:
        """Whether nobody else who lives is in the midst of it."""
        return record.maker in (None, self.maker) or not maker_lives(record.maker)

    def _is_used(self, record: Record, but: Set[str] = frozenset()) -> bool:
        """Whether a sandbox is on record for more than the sake of these ends of links."""
        if not isinstance(record, SandboxRecord):
            return False
        ends = self.store.all(EndRecord, sandbox=record.id)
        return (
            record.sort == "container"
            or bool(record.former)
            or bool(self.store.all(EndpointRecord, sandbox=record.id))
            or any(end.id not in but for end in ends)
        )

    def unshared(self, *gone: Record) -> list[Record]:
        """The shared plans nobody wants once *gone* are."""
        ids = {record.id for record in gone}
        wanted = {HOST_NAMES}  # until it is taken back
        for net in self.store.all(NetworkRecord):
            if net.id not in ids:
                wanted |= set(drivers.load(net.driver).shared(net))
        for link in self.store.all(LinkRecord):
            if link.id not in ids:
                wanted |= set(p2p.shared(link))
        left = [r for r in reversed(self.store.all(HostRecord)) if r.id not in wanted]
        idle = self.store.idle([record.id for record in left], but=_attachment(gone))
        return [r for r in left if r.id in idle]

    def _leaving(self, record: Record, others: Sequence[Record]) -> Record:
        """An endpoint takes along what others hold for its sake; one that leaves a sandbox which
        stays hands on the default route.
        """
        if not isinstance(record, EndpointRecord):
            return record
        record = policies.leaving(self.store, record)
        if record.sandbox in {r.id for r in others}:
            return record
        return renewal.leaving(self.store, gateway.leaving(self.store, record))

    def _left_of(self, record: Record, keep: bool) -> steps.Plan:
        """What there is to delete: after a reboot only what outlived it; files stay if *keep*."""
        plan = steps.decode(record.steps)
        if record.epoch != self.epoch:
            return () if keep else steps.durable(plan)
        return tuple(step for step in plan if not step.durable) if keep else plan

    def erase(self, record: Record) -> None:
        """Forget a record and all that was leased or claimed in its name; in a transaction."""
        if isinstance(record, EndpointRecord | ChangeRecord):
            renewal.undone(self.store, record)
        if isinstance(record, EndpointRecord):
            net = self.store.by_id(NetworkRecord, record.network)
            if net is not None:
                import ipam

                for allocator in self.allocators(net):
                    for name in (record.owner, *record.others.values()):
                        allocator.release(ipam.Owner(name))
                if net.plugin is not None and not record.wanted.addressless:
                    loan = self.loan(net, record.owner, record.netns or "")
                    self.store.put(loan)
                    self._owed.append(loan.id)
            Ports(self.store.connection).release(record.id)
            namesakes.release(self.store.connection, record.id)
        elif isinstance(record, ChangeRecord):
            self._give_back(record)
            Ports(self.store.connection).release(record.id)
            if record.after is not None:
                self._call_as_it_is(record.after)
        elif isinstance(record, AttachmentRecord):
            Ports(self.store.connection).release(record.id)
            if record.lease is not None:
                loan = self._lent(record, record.lease)
                self.store.put(loan)
                self._owed.append(loan.id)
        elif isinstance(record, SandboxRecord) and (record.finished or record.former):
            import ipam

            for net in self.store.all(NetworkRecord):
                for allocator in self.allocators(net):
                    _release_kept(allocator, record.name)
        elif isinstance(record, NetworkRecord):
            for allocator in self.allocators(record):
                self._leases().drop(allocator.pool)
        self.store.remove(record)

    def _give_back(self, change: ChangeRecord) -> None:
        """What was leased for a change, if it has not gone with the endpoint and come back."""
        import ipam

        net = self.store.by_id(NetworkRecord, change.network)
        for allocator in self.allocators(net) if net else ():
            for text, name in change.leases.items():
                held = allocator.held(ipam.Owner(name))
                if held is not None and str(held.ip) == text:
                    allocator.release(ipam.Owner(name))

    def _call_as_it_is(self, after: EndpointRecord) -> None:
        """Give back the names of an endpoint that does not become what it was to be."""
        ep = self.store.by_id(EndpointRecord, after.id)
        if ep is None or ep.wanted.aliases == after.wanted.aliases:
            return
        net = self.store.get(NetworkRecord, ep.network)
        with suppress(NetkitError):  # somebody has taken one of them meanwhile
            namesakes.claim(self, net, self.store.get(SandboxRecord, ep.sandbox), ep)

    def _reserve(self, ep: EndpointRecord) -> None:
        """Keep the addresses a container asked for, now that it has ended, until it is removed."""
        net = self.store.by_id(NetworkRecord, ep.network)
        if net is not None and net.plugin is None and ep.static:
            import ipam

            name = ep.owner.rpartition("/")[0]
            for allocator in self.allocators(net):
                own = [address.ip for address in ep.addresses]
                for number, ip in enumerate((ip for ip in own if ip in allocator.pool.subnet), 1):
                    allocator.lease(ipam.Owner(naming.numbered(name, number)), ip)

    def _detach(self, sandbox: SandboxRecord) -> None:
        """Keep an engine's container on record, and its addresses, until it comes back."""
        import ipam

        sandbox = replace(sandbox, finished=sandbox.finished or time.time())
        self.store.update(replace(sandbox, maker=None, steps=NO_STEPS))
        for former in sandbox.former:
            net = self.store.by_id(NetworkRecord, former.network)
            for allocator in self.allocators(net) if net and net.plugin is None else ():
                number = 1
                for address in former.request.addresses:
                    if address in allocator.pool.subnet:
                        with suppress(ipam.IpamError):  # somebody was quicker
                            name = naming.numbered(sandbox.name, number)
                            allocator.lease(ipam.Owner(name), address)
                            number += 1

    def come_back(self, sandbox: SandboxRecord, net: NetworkRecord) -> None:
        """Give what was kept for *sandbox* on *net* free to be taken again; in a transaction."""

        before = self.store.by_name(SandboxRecord, sandbox.name)
        if before and before.finished and before.origin == sandbox.origin and not sandbox.finished:
            self.store.remove(before)  # *sandbox* has its name and all it was to remember
        if any(former.network == net.id for former in sandbox.former):
            for allocator in self.allocators(net):
                _release_kept(allocator, sandbox.name)

    def has_come_back(self, sandbox: str, network: str) -> None:
        """Remember no longer that a sandbox was to be on a network again."""
        with self.store.transaction():
            found = self.store.by_id(SandboxRecord, sandbox)
            if found is not None and found.former:
                left = tuple(former for former in found.former if former.network != network)
                self.store.update(replace(found, former=left))
                if found.finished and not left:
                    journal.gone(self.store, found)
                    self.erase(found)

    def allocators(self, net: NetworkRecord) -> list[ipam.Allocator]:
        """The addresses of a network, subnet by subnet; use them in a transaction."""
        import ipam

        leases = self._leases()
        return [ipam.Allocator(pool, leases) for pool in allocation.pools(net)]

    def loan(self, net: NetworkRecord, owner: str, netns: str) -> LoanRecord:
        """What is to be released of what the network's plugin gives *owner*: one of each owner."""
        assert net.plugin is not None
        return LoanRecord(
            id=naming.digest(f"{net.id} {owner}"),
            created=time.time(),
            epoch=self.epoch,
            maker=self.maker,
            network=net.id,
            network_name=net.name,
            plugin=net.plugin,
            conf=allocation.configuration(net),
            owner=owner,
            netns=netns,
        )

    def _lent(self, record: AttachmentRecord, call: PluginCall) -> LoanRecord:
        return LoanRecord(
            id=loan_id(record.id),
            created=time.time(),
            epoch=self.epoch,
            maker=self.maker,
            network=record.network,
            network_name=record.network,
            plugin=call.plugin,
            conf="",
            owner=record.sandbox,
            netns=record.netns,
            call=call,
        )

    def settle(self, loan: str, *, wait: bool = True) -> None:
        """Have a plugin release what no endpoint has; unless *wait*, not while one is at it."""
        with self.store.heritable(loan, wait=wait) as lock:
            if lock is not None:
                self.release(loan, lock)

    def release(self, loan: str, lock: int) -> None:
        """The same, with the loan's lock held. What a plugin fails to do stays on record."""
        found = self.store.by_id(LoanRecord, loan)
        if found is None:
            return
        import ipam

        steps.point("releasing")

        def tell() -> None:
            if found.call is not None:
                self.call(found.call, (lock,))
                return
            plugin = allocation.plugin(found, self.config.ipam_plugin_dirs, (lock,))
            plugin.release(ipam.Owner(found.owner, netns=found.netns))

        try:
            self.act(allocation.line(found, "DEL"), tell)
        except (ipam.IpamError, OSError) as error:
            self.close(found, released=False)
            raise KernelRefused(
                f"the addresses of {found.owner} are not released: {error}",
                hint="mend the cause, then run `netkit gc`: it tries again",
            ) from error
        steps.point("released")
        self.close(found, released=True)

    def close(self, loan: LoanRecord, *, released: bool) -> None:
        """Forget a loan, or leave it to `gc`."""
        with self.store.transaction():
            if released:
                self.store.remove(loan)
            else:
                self.store.update(replace(loan, maker=None))

    def _settle_owed(self) -> list[NetkitError]:
        """Release what was the plugins' of endpoints that are gone; what went wrong."""
        failed = []
        while self._owed:
            try:
                self.settle(self._owed.pop())
            except NetkitError as error:
                failed.append(error)
        return failed

    def _leases(self) -> ipam.SqliteLeases:
        import ipam

        return ipam.SqliteLeases(self.store.connection, made=True)

    def with_sandbox(self, ep: EndpointRecord) -> list[Record]:
        """The endpoint, and its sandbox if that is on record only for this endpoint's sake."""
        sandbox = self.store.by_id(SandboxRecord, ep.sandbox)
        if sandbox is None or sandbox.sort == "container":
            return [ep]
        last = len(self.store.all(EndpointRecord, sandbox=sandbox.id)) == 1
        last = last and not self.store.all(EndRecord, sandbox=sandbox.id)
        return [ep, sandbox] if last and not sandbox.former else [ep]

    def owner_name(self, endpoint: str) -> str:
        """The container an endpoint id in a message means."""
        if attachment := self.store.by_id(AttachmentRecord, endpoint):
            return attachment.sandbox
        ep = self.store.by_id(EndpointRecord, endpoint)
        if ep is None and (change := self.store.by_id(ChangeRecord, endpoint)):
            ep = change.after
        sandbox = self.store.by_id(SandboxRecord, ep.sandbox) if ep else None
        return sandbox.name if sandbox else endpoint[:12]


def _attachment(records: Iterable[Record]) -> str:
    """The attachment among records that go together: there is one at most."""
    return next((record.id for record in records if isinstance(record, AttachmentRecord)), "")


def loan_id(attachment: str) -> str:
    """What is still to be released of an attachment that is gone: one loan of each."""
    return naming.digest(f"loan of {attachment}")


def _lost(record: Record) -> str | None:
    """The path of an attachment's namespace, if that is gone: then so is all that was in it."""
    if not isinstance(record, AttachmentRecord) or not record.netns:
        return None
    try:
        return None if netns.identity(record.netns) == record.identity else record.netns
    except NetkitError:
        return record.netns


def _release_kept(allocator: ipam.Allocator, name: str) -> None:
    """All that is kept for a container by name: the first address of a subnet, the second …"""
    import ipam

    number = 1
    while allocator.release(ipam.Owner(naming.numbered(name, number))) is not None:
        number += 1


class _RollBack(Exception):
    """Leaves a transaction without a trace."""


def maker_lives(maker: str | None) -> bool:
    """Whether the process in the midst of a record is still at it."""
    if maker is None:
        return True
    pid, _, start = maker.partition(":")
    return pids.alive(int(pid), int(start))
