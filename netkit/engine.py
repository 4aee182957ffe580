"""The engine: the only one that knows the order of things.

    create_network  delete_network  |  connect  disconnect  check  |  gc

Shapes   every verb is a change (netkit.changes): what it needs is proposed as records in one
         transaction, then realised; or undone. `with dry_run() as lines` makes lines of it instead
Errors   NetkitError; IpamError is translated

Locks are taken in one order: "host", a network, a sandbox, the store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import config as configuration
from netkit import (
    drivers,
    firewall,
    gateway,
    hostnames,
    journal,
    model,
    namefiles,
    naming,
    networks,
    policies,
    recovery,
    renewal,
    sandboxes,
    steps,
    store,
    targets,
)
from netkit.addresses import Address
from netkit.changes import Changes
from netkit.config import Config
from netkit.errors import (
    Conflict,
    Drift,
    Exhausted,
    InvalidSpec,
    KernelRefused,
    NetkitError,
    NotFound,
)
from netkit.kernel import Kernel
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
from netkit.specs import LinkSpec, NameFiles, NetworkSpec, Request
from netkit.store import SqliteStore

if TYPE_CHECKING:
    import ipam
    from netkit import attaching
    from netkit.events import Events
    from netkit.repair import Repaired

STATE_DIR = "/var/lib/netkit"
RUN_DIR = "/run/netkit"


_RENEWED_AT_ONCE = 200  # sandboxes: each has a descriptor for its lock


class Engine:
    """One engine for one state directory, in the network namespace it was made in."""

    def __init__(
        self,
        state_dir: str | None = None,
        run_dir: str | None = None,
        *,
        config: Config | None = None,
        firewall_name: str | None = None,
        kernel: Callable[[], Kernel] | None = None,
    ) -> None:
        """*config* None is what file and environment say; *firewall_name* has to be the one."""
        config = configuration.load().config if config is None else config
        given = replace(
            config, state_dir=state_dir or config.state_dir, run_dir=run_dir or config.run_dir
        )
        state_dir, run_dir = configuration.directories(given)
        for path in (state_dir, run_dir):
            if not path.startswith("/") or not path.isprintable():
                raise InvalidSpec(
                    f"invalid directory {path!r:.80}: not an absolute path",
                    hint=f"such as {STATE_DIR} or {RUN_DIR}",
                )
        self.store = SqliteStore(state_dir, run_dir)
        make = kernel or (lambda: Kernel(firewall.load(self._back_end(firewall_name))))
        self.changes = Changes(self.store, make, config)
        self.dry_run = self.changes.dry_run

    def close(self) -> None:
        self.store.close()

    def _back_end(self, asked: str | None) -> str:
        """The firewall the networks here were made with; the one asked for, if there are none."""
        tables = self.store.by_id(HostRecord, "tables")
        if tables is None or tables.firewall is None:
            return asked or self.changes.config.back_end or firewall.detect()
        if asked not in (None, tables.firewall):
            raise Conflict(
                f"the networks here use firewall '{tables.firewall}', not '{asked}'",
                hint=f"leave out --firewall, or remove all networks and create them with {asked}",
            )
        return tables.firewall

    def _refuse_other_firewall(self, kernel: Kernel) -> None:
        """What is made is made as configured, or not; what is there can always be removed."""
        wanted = self.changes.config.back_end
        if wanted not in (None, kernel.firewall.name):
            raise Conflict(
                f"the networks here use firewall '{kernel.firewall.name}', "
                f"and '{wanted}' is configured",
                hint="remove all networks first, or configure the one they use",
            )

    def firewall_rules(self, *, listed: bool = True) -> tuple[str, str]:
        """The back end in use, and what its own program lists of ours."""
        with self.changes.kernel() as kernel:
            opened = self.store.by_id(HostRecord, "tables") is not None
            text = kernel.firewall.listing() if listed and opened else ""
            return kernel.firewall.name, text

    def use_firewall(self, name: str) -> None:
        """Move all rules to another back end; both are in force meanwhile, so nothing is open."""
        from netkit import switching

        with self.job() as kernel, self.store.locked("host"), ExitStack() as locks:
            for net in sorted(self.store.all(NetworkRecord), key=lambda net: net.id):
                locks.enter_context(self.store.locked(net.id))
            tables = self.store.by_id(HostRecord, "tables")
            if tables is None:
                raise Conflict(
                    "there are no networks, hence no rules to move",
                    hint=f"create the first one with --firewall {name}",
                )
            if tables.firewall == name:
                raise Conflict(f"the networks here use firewall '{name}' already")
            with translated(f"cannot use firewall '{name}'"):
                switching.move(self.changes, tables, name, kernel)

    # -- networks

    def create_network(self, spec: NetworkSpec) -> NetworkRecord:
        """Make a network: its record, and what it needs in the kernel."""
        if spec.name in networks.RESERVED:
            raise Conflict(
                f"operation is not permitted on predefined {spec.name} network",
                hint="choose another name; the network 'bridge' is made when it is first used",
            )
        with self.job() as kernel, self.store.locked("host"):
            return self._create_network(spec, kernel)

    def _create_network(self, spec: NetworkSpec, kernel: Kernel) -> NetworkRecord:
        self._refuse_other_firewall(kernel)
        with self.store.transaction(), translated(f"cannot create network '{spec.name}'"):
            net = networks.propose(self.changes, spec, kernel)
            records = self._with_plans(net, kernel)
            for record in records:
                self.store.put(record)
        self.changes.realise(records, kernel)
        hostnames.follow(self.changes, kernel)
        return replace(net, steps=records[-1].steps, maker=None)

    def network(self, name: str) -> NetworkRecord:
        """The record of a network, by name or id; the built-in ones too."""
        for built_in in networks.BUILT_IN:
            if name in (built_in.name, built_in.id):
                return built_in
        return self.store.get(NetworkRecord, name)

    def default_network(self) -> NetworkRecord:
        """The network called "bridge", made on first use."""
        name = model.DEFAULT_NETWORK
        if self.changes.config.bridge == configuration.NO_BRIDGE:
            raise Conflict(
                f'there is no default network: bridge = "{configuration.NO_BRIDGE}" is configured',
                hint="name a network with --net",
            )
        found = self.store.by_name(NetworkRecord, name)
        if found is not None:
            return found
        with self.job() as kernel, self.store.locked("host"):
            found = self.store.by_name(NetworkRecord, name)
            return found or self._create_network(networks.default(self.changes.config), kernel)

    @contextmanager
    def tentative_default(self) -> Iterator[None]:
        """If what is done inside fails, a default network made for it goes again."""
        had = self.store.by_name(NetworkRecord, model.DEFAULT_NETWORK) is not None
        try:
            yield
        except BaseException:
            if not had and self.store.by_name(NetworkRecord, model.DEFAULT_NETWORK):
                with suppress(Conflict):  # somebody else uses it by now
                    self.delete_network(model.DEFAULT_NETWORK)
            raise

    def delete_network(self, name: str, *, force: bool = False) -> None:
        """Remove a network nobody is connected to; with *force*, disconnect them first."""
        if name in model.BUILT_IN:
            raise Conflict(f"{name} is a pre-defined network and cannot be removed")
        with self.job() as kernel, self.store.locked("host"):
            net = self.store.get(NetworkRecord, name)
            with self.store.locked(net.id):
                endpoints = self._living(self.store.all(EndpointRecord, network=net.id), kernel)
                if endpoints and not force:
                    names = store.names(self.store.get(SandboxRecord, e.sandbox) for e in endpoints)
                    raise Conflict(
                        f"network {net.name} has active endpoints: {names}",
                        hint="disconnect them first, or use --force",
                    )
                for ep in self.changes.track(endpoints, "disconnecting"):
                    self.changes.undo(self.changes.with_sandbox(ep), kernel)
                self.changes.undo([net, *self.changes.unshared(net)], kernel)
            hostnames.follow(self.changes, kernel)

    def networks(self) -> list[NetworkRecord]:
        """All networks, oldest first, then the built-in ones."""
        recovery.recover(self.changes)
        return [*self.store.all(NetworkRecord), *networks.BUILT_IN]

    def usage(self, net: NetworkRecord) -> list[tuple[model.Subnet, ipam.Usage]]:
        """How full each subnet is: addresses in use, and dynamic ones still to be had."""
        if not net.pools:
            return []
        with self.store.transaction():
            usages = [allocator.usage() for allocator in self.changes.allocators(net)]
        return list(zip(net.pools, usages, strict=True))

    def _with_plans(self, net: NetworkRecord, kernel: Kernel) -> list[Record]:
        """The records of *net* and of the shared plans it is the first to want."""
        driver = drivers.load(net.driver)
        records = self._shared(driver.shared(net), kernel)
        plan = steps.prepare(driver.network(net), kernel)
        return [*records, replace(net, steps=steps.encode(plan))]

    def _shared(self, plans: Mapping[str, steps.Plan], kernel: Kernel) -> list[Record]:
        """The records of those shared plans that nobody has wanted yet."""
        records: list[Record] = []
        for name, plan in plans.items():
            known = self.store.by_id(HostRecord, name)
            if known is not None and known.epoch == self.changes.epoch:
                continue
            prepared = steps.encode(steps.prepare(plan, kernel))
            records.append(
                HostRecord(
                    id=name,
                    created=time.time(),
                    epoch=self.changes.epoch,
                    maker=self.changes.maker,
                    steps=prepared,
                    firewall=kernel.firewall.name if name == "tables" else None,
                )
            )
        return records

    def revive(self, net: NetworkRecord, kernel: Kernel) -> NetworkRecord:
        """Add a network's plan again after a reboot took it."""
        with self.store.locked("host"), self.store.locked(net.id):
            net = self.store.get(NetworkRecord, net.id)
            if net.epoch == self.changes.epoch:
                return net
            with self.store.transaction():
                fresh = replace(net, epoch=self.changes.epoch, maker=self.changes.maker)
                records = self._with_plans(fresh, kernel)
                # the intent is a record of its own: should this fail, the network is what it was,
                # down until next time
                plan = [step for record in records for step in steps.decode(record.steps)]
                intent = HostRecord(
                    id=f"again {net.id}",
                    epoch=self.changes.epoch,
                    maker=self.changes.maker,
                    steps=steps.encode(plan),
                )
                self.store.put(intent)
            self.changes.realise([intent], kernel, commit=False)
            with self.store.transaction():
                self.store.remove(intent)
                for record in records:
                    self.store.put(replace(record, maker=None))
            hostnames.follow(self.changes, kernel)
            return replace(net, epoch=self.changes.epoch, steps=records[-1].steps)

    # -- sandboxes and endpoints

    def sandbox(self, name: str) -> SandboxRecord:
        """What is on record of a container or namespace."""
        found = targets.resolve(self.store, name)
        if isinstance(found, targets.Target):
            before = sandboxes.earlier(self.store, found)
            if before is None:
                raise Conflict(f"{name} is not connected to any network of netkit's")
            return before
        return found

    def connect(
        self,
        network: str | None,
        target: str | None = None,
        request: Request | None = None,
        files: NameFiles | None = None,
        *,
        name: str | None = None,
    ) -> EndpointRecord:
        """Join a sandbox to a network; on any error leave host, leases and store as they were.

        *target* None makes a new namespace. *name* is what a sandbox not known yet is called: one
        that is made otherwise by a random name, one that is somebody's by that of its path.
        """
        request = request or Request()
        files = files or NameFiles()
        if network in model.BUILT_IN:
            raise InvalidSpec(
                f"cannot connect to network '{network}'", hint="use run --net instead"
            )
        ep = self._arrive(network, target, request, files, name)
        self._have_names_served(ep)
        return ep

    def _have_names_served(self, ep: EndpointRecord) -> None:
        """Wait until its network's are; what stands in the way is told, and hinders nobody."""
        net = self.store.by_id(NetworkRecord, ep.network)
        if net is None or not net.names or self.changes.dry:
            self._have_host_followed(ep.sandbox)
            return
        self._have_served(f"on network '{net.name}'", namefiles.servers_of(net))

    def _have_served(self, where: str, at: Sequence[Address]) -> None:
        for text in self._unserved(where, at, start=True):
            self.changes.warn(text)

    def _unserved(self, where: str, at: Sequence[Address], *, start: bool) -> list[str]:
        """Why nobody serves names there; *start*: somebody, if nobody does."""
        from netkit import nameservice

        config = self.changes.config
        found = nameservice.problems(self.store, config, at, start=start)
        return [f"names {where} are not served: {problem}" for problem in found]

    def _arrive(
        self,
        network: str | None,
        target: str | None,
        request: Request,
        files: NameFiles,
        name: str | None,
    ) -> EndpointRecord:
        with self.job() as kernel, self.tentative_default():
            # what is to be refused is refused before the default network is made for it
            known = None if target is None else targets.resolve(self.store, target)
            if name and isinstance(known, SandboxRecord) and not targets.is_there(known):
                recovery.collect(self.changes, kernel)  # another namespace is at its path now
                known = targets.resolve(self.store, str(target))
            if known is None and name is not None:
                self._refuse_taken(name, kernel)
            net = self.default_network() if network is None or is_default(network) else None
            net = net or self.store.get(NetworkRecord, str(network))
            if net.maker is not None:  # somebody is still making it
                with self.store.locked("host"):
                    net = self.store.get(NetworkRecord, net.id)
            if net.epoch != self.changes.epoch:
                net = self.revive(net, kernel)
            with self.store.locked(net.id, shared=True):
                net = self.store.get(NetworkRecord, net.id)
                if isinstance(known, SandboxRecord):
                    with self.store.locked(known.id):
                        known = self.reachable(known)
                        if files.given:
                            raise Conflict(
                                f"the name files of '{known.name}' are made already",
                                hint="give DNS and host options when it is first connected or run",
                            )
                        return self._connect(net, known, request, kernel)
                if isinstance(known, targets.Target):
                    if name is not None:
                        self._refuse_taken(name, kernel)
                        known = known._replace(name=name)
                    recovery.bury_earlier(self.changes, known, kernel)
                    with self.store.locked(known.id):
                        made = self.store.by_id(SandboxRecord, known.id)
                        if made is None or made.finished:
                            made = sandboxes.foreign(self.changes, known, files)
                        sandbox = made
                        return self._connect(net, sandbox, request, kernel)
                sandbox = sandboxes.named(self.changes, name, files)
                with self.store.locked(sandbox.id):
                    return self._connect(net, sandbox, request, kernel)

    def _connect(
        self, net: NetworkRecord, sandbox: SandboxRecord, request: Request, kernel: Kernel
    ) -> EndpointRecord:
        """With the locks held. A sandbox that bears our maker and no record yet is made too."""
        with self.counted_on(net.id):
            return self._join(net, sandbox, request, kernel)

    def counted_on(self, network: str) -> AbstractContextManager[None]:
        """While who is on a closed network must not begin to leave: others hold what is his."""
        net = self.store.get(NetworkRecord, network)
        return self.changes.membership(() if net.icc else (network,))

    def _join(
        self, net: NetworkRecord, sandbox: SandboxRecord, request: Request, kernel: Kernel
    ) -> EndpointRecord:
        from netkit import endpoints, extras, grants  # lazily: nobody lists with these

        what = f"cannot connect {sandbox.name} to network '{net.name}'"
        with translated(what):
            # the kernel may be busy taking links away: nobody else waits for the store meanwhile
            free = gateway.may_have(sandbox, kernel)
        try:
            with (
                translated(what),
                grants.asked(self.changes, net, sandbox, request, kernel) as granted,
                self.store.transaction(),
            ):
                new: list[Record] = []
                self.changes.come_back(sandbox, net)
                if self.store.by_id(SandboxRecord, sandbox.id) is None:
                    plan = steps.prepare(sandboxes.plan(sandbox, net), kernel)
                    sandbox = replace(sandbox, steps=steps.encode(plan))
                    new.append(sandbox)
                    self.store.put(sandbox)
                ep = endpoints.propose(self.changes, net, sandbox, request, kernel, free, granted)
                others = self.store.all(EndpointRecord, sandbox=sandbox.id)
                plan = (
                    *extras.combined(
                        drivers.load(net.driver).endpoint(net, ep), extras.plan(net, ep)
                    ),
                    *gateway.arriving(self.store, ep, others),
                    *policies.arriving(self.store, net, sandbox, ep),
                    *(() if sandbox in new else renewal.arriving(self.store, sandbox, ep, others)),
                    *sandboxes.entries(sandbox, ep),
                )
                ep = replace(ep, steps=steps.encode(steps.prepare(plan, kernel)))
                new.append(ep)
                self.store.put(ep)
                if granted is not None:
                    self.store.remove(granted.loan)
        except (Conflict, Exhausted):
            # the dead may hold what is missing: bury them, and try once more
            if self.changes.dry or not recovery.collect(self.changes, kernel, skip=sandbox.id):
                raise
            return self._join(net, sandbox, request, kernel)
        self.changes.realise(new, kernel)
        self.changes.has_come_back(sandbox.id, net.id)
        return self.store.get(EndpointRecord, ep.id)

    def _refuse_taken(self, name: str, kernel: Kernel) -> None:
        try:
            sandboxes.refuse_taken(self.changes, name)
        except Conflict:
            # unless by the dead: bury them, and look again
            if self.changes.dry or not recovery.collect(self.changes, kernel):
                raise
            sandboxes.refuse_taken(self.changes, name)

    def reachable(self, sandbox: SandboxRecord) -> SandboxRecord:
        """The record as it is now; *sandbox* may know a newer path to the same namespace."""
        found = self.store.get(SandboxRecord, sandbox.id)
        if found.finished is not None or not targets.is_there(sandbox):
            raise Conflict(
                f"container {found.name} is not running",
                hint="start it again; `netkit gc` removes what it left",
            )
        return replace(found, netns=sandbox.netns, pid=sandbox.pid)

    def _have_host_followed(self, sandbox: str) -> None:
        """Have netkitd run, who sees to it that a change of the host's resolv.conf reaches what
        runs; without it, the next call that has to do with a sandbox does.
        """
        found = self.store.by_id(SandboxRecord, sandbox)
        if self.changes.dry or found is None or not renewal.is_kept(found):
            return
        from netkit import background, nameservice

        with suppress(nameservice.Unserved, OSError):
            if background.is_host():  # any other it would keep, though all others left
                nameservice.start_netkitd(self.store, self.changes.config)

    def disconnect(self, network: str, target: str) -> None:
        """Take a sandbox off a network. A namespace made by connect goes with its last one."""
        with self.job() as kernel:
            net = self.network(network)
            sandbox = self.sandbox(target)
            with self.store.locked(net.id, shared=True), self.store.locked(sandbox.id):
                found = [
                    ep
                    for ep in self.store.all(EndpointRecord, sandbox=sandbox.id)
                    if ep.network == net.id
                ]
                if any(former.network == net.id for former in sandbox.former):
                    with self.store.transaction():
                        self.changes.come_back(sandbox, net)
                    self.changes.has_come_back(sandbox.id, net.id)
                elif not found:
                    raise Conflict(
                        f"container {sandbox.name} is not connected to network {net.name}",
                        hint=f"`netkit inspect {sandbox.name}` shows its networks",
                    )
                for ep in found:
                    self.changes.undo(self.changes.with_sandbox(ep), kernel)

    def leave(self, ep: EndpointRecord) -> None:
        """Undo an endpoint; one that is gone is as good as undone."""
        with (
            self.job() as kernel,
            self.store.locked(ep.network, shared=True),
            self.store.locked(ep.sandbox),
        ):
            found = self.store.by_id(EndpointRecord, ep.id)
            if found is not None:
                self.changes.undo(self.changes.with_sandbox(found), kernel)

    def reattach(self, target: str) -> list[EndpointRecord]:
        """Connect an engine's container that came back to the networks it had, as it was.

        Addresses, MACs, interface names and ports are the same, or it is refused. Past failures;
        what failed can be tried again. The endpoints made.
        """
        record = self.store.find(SandboxRecord, target)
        origin = record.origin if record and record.origin else target
        with self.job() as kernel:
            known = targets.resolve(self.store, origin)
            if isinstance(known, targets.Target):
                recovery.bury_earlier(self.changes, known, kernel)
                record = sandboxes.earlier(self.store, known)
            else:
                record = self.reachable(known)
        if record is None or record.origin is None:
            raise NotFound(
                f"nothing is on record of networks '{target}' had",
                hint="`netkit connect` connects it to the first",
            )
        there = {ep.network for ep in self.endpoints(sandbox=record.id)}
        made: list[EndpointRecord] = []
        failed: list[NetkitError] = []
        for former in record.former:
            if former.network in there:
                self._forget_former(origin, former.network)
                continue
            try:
                if self.store.by_id(NetworkRecord, former.network) is None:
                    self._forget_former(origin, former.network)
                    raise NotFound(
                        f"cannot connect {record.name} to network '{former.name}' again: "
                        "there is no such network any more",
                        hint="it will not be tried again; connect it to another",
                    )
                made.append(self.connect(former.network, origin, former.request))
            except NetkitError as error:
                failed.append(error)
        if failed:
            for other in failed[1:]:
                failed[0].add_note(f"and {other}")
            raise failed[0]
        return made

    def _forget_former(self, origin: str, network: str) -> None:
        for sandbox in targets.of_origin(self.store, origin):
            self.changes.has_come_back(sandbox.id, network)

    def create_sandbox(self, sandbox: SandboxRecord, plan: steps.Plan) -> SandboxRecord:
        """Put a container on record and make what it needs; it stays an intent until it runs."""
        with self.job() as kernel:
            with self.store.transaction():
                sandboxes.refuse_taken(self.changes, sandbox.name)
                prepared = steps.encode(steps.prepare(plan, kernel))
                sandbox = replace(
                    sandbox, epoch=self.changes.epoch, maker=self.changes.maker, steps=prepared
                )
                self.store.put(sandbox)
            self.changes.realise([sandbox], kernel, commit=False)
            self.note("create", sandbox)
        return sandbox

    def renew(self, sandbox: str | None = None) -> bool:
        """Bring resolv.conf up to date in all that lives, or one sandbox, as the host's file is by
        now; whether nobody was in the way: who is being connected or disconnected is left alone.
        """
        if sandbox is None:
            known = self.store.all(SandboxRecord)
        else:
            known = [self.store.get(SandboxRecord, sandbox)]
        ids = [step.sandbox for step in renewal.due(self.store, known)]
        if not ids:
            return True
        with self.job() as kernel:
            parts = (ids[i : i + _RENEWED_AT_ONCE] for i in range(0, len(ids), _RENEWED_AT_ONCE))
            done = [self._renew(part, kernel) for part in parts]
        return all(done)

    def _renew(self, ids: Sequence[str], kernel: Kernel) -> bool:
        with ExitStack() as locks:
            free = [id for id in ids if locks.enter_context(self.store.locked_if_free(id))]
            with self.store.transaction():
                found = (self.store.by_id(SandboxRecord, id) for id in free)
                wanted = renewal.due(self.store, [each for each in found if each is not None])
                change = ChangeRecord(
                    id=naming.new_id(),
                    created=time.time(),
                    epoch=self.changes.epoch,
                    maker=self.changes.maker,
                    network="",
                    steps=steps.encode(steps.prepare(wanted, kernel)),
                )
                self.store.put(change)
            self.changes.realise([change], kernel)
            return len(free) == len(ids)

    def record_endpoint(self, network: str, sandbox: SandboxRecord) -> None:
        """Note that a sandbox uses a built-in network; there is nothing to make."""
        ep = EndpointRecord(
            id=naming.new_id(),
            created=time.time(),
            epoch=self.changes.epoch,
            network=self.network(network).id,
            sandbox=sandbox.id,
            ifname="" if network == "none" else "host",
        )
        with self.store.transaction():
            self.store.put(ep)
            journal.made(self.store, ep)
        self._have_host_followed(sandbox.id)

    def update_sandbox(self, sandbox: SandboxRecord) -> None:
        with self.store.transaction():
            self.store.update(sandbox)  # what `rm` removed meanwhile does not come back

    def note(self, action: str, record: Record) -> None:
        """Write into the journal what happened to a record, beside what is written by itself."""
        with self.store.transaction():
            journal.note(self.store, action, record)

    def events(
        self,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, str | Iterable[str]] | None = None,
        timeout_s: float | None = None,
    ) -> Events:
        """What happened *since* then, in seconds since 1970, or else happens from now on."""
        from netkit.events import Events

        return Events(
            self.store.state_dir,
            self.store.run_dir,
            since=since,
            until=until,
            filters=filters,
            timeout_s=timeout_s,
            after=self.store.journal_end(),
        )

    def empty_sandbox(self, sandbox: SandboxRecord) -> None:
        """Undo all that a sandbox has in the kernel; its record stays, as that of a dead one."""
        self._take_down(sandbox, keep=True)

    def delete_sandbox(self, sandbox: SandboxRecord) -> None:
        """Undo all that a sandbox has, and forget it."""
        self._take_down(sandbox, keep=False)

    def _take_down(self, sandbox: SandboxRecord, *, keep: bool) -> None:
        with self.job() as kernel, self.store.locked(sandbox.id):
            found = self.store.by_id(SandboxRecord, sandbox.id)
            if found is None:
                return
            endpoints = self.store.all(EndpointRecord, sandbox=sandbox.id)
            self.changes.undo([*reversed(endpoints), found], kernel, keep_sandbox=keep)

    def endpoints(
        self, *, network: str | None = None, sandbox: str | None = None
    ) -> list[EndpointRecord]:
        return self.store.all(EndpointRecord, network=network, sandbox=sandbox)

    def sandboxes(self) -> list[SandboxRecord]:
        recovery.recover(self.changes)
        return self.store.all(SandboxRecord)

    # -- links

    def create_link(self, spec: LinkSpec) -> LinkRecord:
        """Join two sandboxes, or one and the host, by a wire of their own."""
        from netkit import links
        from netkit.drivers import p2p

        what = " and ".join(end.target for end in spec.ends)
        with self.job() as kernel, ExitStack() as locks:
            known = [
                None if end.target == links.HOST else targets.resolve(self.store, end.target)
                for end in spec.ends
            ]
            ids = sorted({each.id for each in known if each is not None})
            if len(ids) + known.count(None) < 2 or not ids:
                raise InvalidSpec(
                    f"cannot link {what:.80}: these are one and the same",
                    hint="give two containers, or a container and `host`",
                )
            if None in known:
                locks.enter_context(self.store.locked("host"))
            for id in ids:
                locks.enter_context(self.store.locked(id))
            with self.store.transaction(), translated(f"cannot link {what}"):
                new: list[Record] = []
                found = [each and self._linkable(each, new, kernel) for each in known]
                link = links.propose(self.changes, spec, found, kernel)
                shared = self._shared(p2p.shared(link), kernel)
                plan = steps.prepare(p2p.plan(link), kernel)
                link = replace(link, steps=steps.encode(plan))
                new = [*shared, *new, link, *links.ends(self.changes, link)]
                for record in new:
                    self.store.put(record)
            self.changes.realise(new, kernel)
        return replace(link, maker=None)

    def _linkable(
        self, known: SandboxRecord | targets.Target, new: list[Record], kernel: Kernel
    ) -> SandboxRecord:
        """The sandbox at one end; one nothing is on record of is made, and one of *new*."""
        if isinstance(known, targets.Target):
            made = self.store.by_id(SandboxRecord, known.id)
            if made is not None and not made.finished:
                return made
            sandbox = sandboxes.foreign(self.changes, known, NameFiles())
            if (before := self.store.by_name(SandboxRecord, sandbox.name)) is not None:
                self.store.remove(before)  # its earlier life: what is remembered of it goes over
            plan = steps.prepare((steps.LinkUp(dev="lo", at=sandbox.netns),), kernel)
            new.append(replace(sandbox, steps=steps.encode(plan)))
            return sandbox
        sandbox = self.reachable(known)
        if sandbox.netns is None:
            raise Conflict(
                f"container {sandbox.name} uses the host's network", hint="link to `host` instead"
            )
        return sandbox

    def delete_link(self, name: str) -> None:
        """Take a link down. A namespace that is on record for its sake only is forgotten."""
        with self.job() as kernel:
            self.changes.undo([self.store.get(LinkRecord, name)], kernel)

    def links(self, *, sandbox: str | None = None) -> list[LinkRecord]:
        """All links, oldest first, perhaps those of one sandbox only."""
        recovery.recover(self.changes)
        if sandbox is None:
            return self.store.all(LinkRecord)
        ends = self.store.all(EndRecord, sandbox=sandbox)
        found = (self.store.by_id(LinkRecord, end.network) for end in ends)
        return [link for link in found if link is not None]

    # -- names of containers on the host

    def enable_host_names(self) -> None:
        """Have the host's resolver ask netkit; done again, it puts back what somebody took out."""
        with self.job() as kernel, self.store.locked("host"):
            hostnames.enable(self.changes, kernel)
        if not self.changes.dry:
            self._have_served("to the host", [hostnames.SERVER])

    def disable_host_names(self) -> None:
        """Have the host's resolver be as it was, but for what others have changed of it."""
        with self.job() as kernel, self.store.locked("host"):
            hostnames.disable(self.changes, kernel)

    def host_names(self) -> hostnames.Status:
        """What the host's resolver is told, and what keeps that from working."""
        with self.job() as kernel:
            return hostnames.status(self.changes, kernel)

    # -- what CNI plugins make

    @contextmanager
    def attaching(self, record: AttachmentRecord) -> Iterator[attaching.Attaching]:
        """An attachment in the making: committed at the end, undone on any error."""
        from netkit import attaching

        with self.job() as kernel, attaching.attaching(self.changes, kernel, record) as hand:
            yield hand

    def recover(self) -> None:
        """Undo what dead processes left half done."""
        recovery.recover(self.changes)

    def attachments(self, network: str, sandbox: str | None = None) -> list[AttachmentRecord]:
        """What a plugin made on a network ("bridge web"), perhaps of one interface ("c1/eth0")."""
        return self.store.all(AttachmentRecord, network=network, sandbox=sandbox)

    def detach(self, record: AttachmentRecord) -> None:
        """Undo an attachment. One whose IPAM plugin could not be told stays on record for `gc`."""
        from netkit import attaching

        with self.job() as kernel:
            attaching.detach(self.changes, kernel, record)

    def settle(self, attachment: str) -> bool:
        """Have released what is still leased for an attachment that is gone; whether any was."""
        from netkit import changes

        loan = self.store.by_id(LoanRecord, changes.loan_id(attachment))
        if loan is not None:
            self.changes.settle(loan.id)
        return loan is not None

    def check_attachment(self, record: AttachmentRecord) -> list[Drift]:
        """Where the kernel is not as a plugin made it, nor what that shares with others."""
        found = (self.store.by_id(HostRecord, name) for name in record.stands_on)
        return self._drifts([*(host for host in found if host is not None), record])

    def check_endpoint(self, ep: EndpointRecord) -> list[Drift]:
        """Where the kernel is not as the record of an endpoint, its network and the host says."""
        net = self.store.get(NetworkRecord, ep.network)
        shared = drivers.load(net.driver).shared(net)
        hosts = (self.store.by_id(HostRecord, name) for name in shared)
        return self._drifts([*(host for host in hosts if host is not None), net, ep])

    def bury_attachments(self) -> bool:
        """Undo what was attached before a reboot, or to namespaces that are gone; if any was."""
        with self.job() as kernel:
            return bool(recovery.lost(self.changes, kernel))

    @contextmanager
    def looking(self) -> Iterator[Kernel]:
        """The kernel, to be looked at, with the state at hand: NetkitError if it cannot be had."""
        with self.job() as kernel:
            with self.store.transaction():
                pass  # it can be written to
            yield kernel

    # -- recovery and check

    @contextmanager
    def job(self) -> Iterator[Kernel]:
        """One operation: what the dead left is undone first, and sockets are closed after."""
        with self.changes.kernel() as kernel:
            try:
                recovery.recover(self.changes, kernel)
                yield kernel
            except OSError as error:  # in looking around; a step translates its own
                raise KernelRefused(f"cannot see the host's network: {error.strerror}") from error

    def bury(self) -> list[Record]:
        """Undo what is left of dead processes, containers and namespaces; what that was."""
        with self.job() as kernel:
            return recovery.collect(self.changes, kernel)

    def gc(self) -> list[str]:
        """Undo what is left of dead processes, containers and namespaces; say what that was."""
        with self.job() as kernel:
            found = [
                record.owner if isinstance(record, EndpointRecord) else record.name or record.id
                for record in recovery.collect(self.changes, kernel)
            ]
            for loan in self.store.all(LoanRecord):
                if loan.maker is None:
                    self.changes.settle(loan.id)
                    found.append(loan.owner)
            return found

    def _living(self, endpoints: Sequence[EndpointRecord], kernel: Kernel) -> list[EndpointRecord]:
        """Those endpoints that still exist once the dead are buried."""
        if endpoints:
            recovery.collect(self.changes, kernel)
        return [ep for ep in endpoints if self.store.by_id(EndpointRecord, ep.id)]

    def check(self, name: str | None = None) -> list[Drift]:
        """Where the kernel is not as the records say: of a container or network, or of all; and
        which names nobody serves.
        """
        records = self._named(name)
        asked = {ep.network for ep in records if isinstance(ep, EndpointRecord)}
        nets = [net for net in records if isinstance(net, NetworkRecord) and net.names]
        return self._drifts(records) + [
            Drift(text)
            for net in nets
            if net.id in asked
            for text in self._unserved(
                f"on network '{net.name}'", namefiles.servers_of(net), start=False
            )
        ]

    def repair(self, name: str | None = None) -> Repaired:
        """Put back what somebody took from the kernel: of a container or network, or of all.

        Nobody connects or disconnects meanwhile.
        """
        from netkit import repair

        with self.job() as kernel, self.still():
            return repair.repair(self.changes, self._named(name), kernel)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Nobody makes, changes or leaves a network while this is held."""
        with self.store.locked("host"), ExitStack() as locks:
            for net in sorted(self.store.all(NetworkRecord), key=lambda net: net.id):
                locks.enter_context(self.store.locked(net.id))
            yield

    def _named(self, name: str | None) -> list[Record]:
        """The records that are meant: of a container, link or network, or all."""
        records: list[Record] = []
        if name is None:
            records = self.store.everything()
        elif (net := self.store.find(NetworkRecord, name)) is not None:
            records += [*self.store.all(HostRecord), net]
            records += self.store.all(EndpointRecord, network=net.id)
        elif (link := self.store.by_name(LinkRecord, name)) is not None:
            records.append(link)
        else:
            sandbox = self.sandbox(name)
            records += [sandbox, *self.store.all(EndpointRecord, sandbox=sandbox.id)]
            records += self.links(sandbox=sandbox.id)
        return records

    def _drifts(self, records: Sequence[Record]) -> list[Drift]:
        with self.changes.kernel() as kernel:
            return [
                drift
                for record in self.changes.track(records, "checking")
                if record.epoch == self.changes.epoch
                for drift in steps.check(steps.decode(record.steps), kernel)
            ]


# -- helpers


def is_default(name: str) -> bool:
    return name in (model.DEFAULT_NETWORK, "default")


@contextmanager
def translated(what: str) -> Iterator[None]:
    """IpamError becomes a NetkitError that says what was being tried."""
    from ipam import errors

    kinds: dict[type[errors.IpamError], type[NetkitError]] = {
        errors.PoolExhausted: Exhausted,
        errors.AddressInUse: Conflict,
        errors.PoolOverlap: Conflict,
        errors.PluginRefused: Conflict,
        errors.PluginFailed: KernelRefused,
    }
    try:
        yield
    except errors.IpamError as error:
        kind = kinds.get(type(error), InvalidSpec)
        raise kind(f"{what}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise KernelRefused(f"{what}: {error.strerror or error}") from error
