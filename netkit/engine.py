"""The engine: the only one that knows the order of things.

    create_network  delete_network  |  connect  disconnect  check  |  gc

Shapes   every verb is a change (netkit.changes): what it needs is proposed as records in one
         transaction, then realised; or undone. `with dry_run() as lines` makes lines of it instead
Errors   NetkitError; IpamError is translated

Locks are taken in one order: "host", a network, a sandbox, the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv4Interface
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import (
    drivers,
    firewall,
    gateway,
    model,
    naming,
    networks,
    recovery,
    sandboxes,
    steps,
    store,
    targets,
)
from netkit.changes import Changes
from netkit.errors import Conflict, Drift, Exhausted, InvalidSpec, KernelRefused, NetkitError
from netkit.kernel import Kernel
from netkit.model import (
    EndpointRecord,
    HostRecord,
    NameFiles,
    NetworkRecord,
    NetworkSpec,
    Record,
    Request,
    SandboxRecord,
)
from netkit.ports import Ports
from netkit.store import SqliteStore

if TYPE_CHECKING:
    import ipam

STATE_DIR = "/var/lib/netkit"
RUN_DIR = "/run/netkit"


class Engine:
    """One engine for one state directory, in the network namespace it was made in."""

    def __init__(
        self,
        state_dir: str | None = None,
        run_dir: str | None = None,
        *,
        firewall_name: str | None = None,
        address_pools: networks.Pools = (),
        kernel: Callable[[], Kernel] | None = None,
    ) -> None:
        state_dir = state_dir or os.environ.get("NETKIT_STATE_DIR") or STATE_DIR
        run_dir = run_dir or os.environ.get("NETKIT_RUN_DIR") or RUN_DIR
        for path in (state_dir, run_dir):
            if not path.startswith("/") or not path.isprintable():
                raise InvalidSpec(
                    f"invalid directory {path!r:.80}: not an absolute path",
                    hint=f"such as {STATE_DIR} or {RUN_DIR}",
                )
        self.store = SqliteStore(state_dir, run_dir)
        make = kernel or (lambda: Kernel(firewall.load(self._back_end(firewall_name))))
        self.changes = Changes(self.store, make)
        self.dry_run = self.changes.dry_run
        self.address_pools = address_pools

    def close(self) -> None:
        self.store.close()

    def _back_end(self, asked: str | None) -> str:
        """The firewall the networks here were made with; the one asked for, if there are none."""
        tables = self.store.by_id(HostRecord, "tables")
        if tables is None or tables.firewall is None:
            return asked or firewall.DEFAULT
        if asked not in (None, tables.firewall):
            raise Conflict(
                f"the networks here use firewall '{tables.firewall}', not '{asked}'",
                hint=f"leave out --firewall, or remove all networks and create them with {asked}",
            )
        return tables.firewall

    # -- networks

    def create_network(self, spec: NetworkSpec) -> NetworkRecord:
        """Make a network: its record, and what it needs in the kernel."""
        if spec.name in networks.RESERVED:
            raise Conflict(
                f"operation is not permitted on predefined {spec.name} network",
                hint="choose another name; the network 'bridge' is made when it is first used",
            )
        with self._job() as kernel, self.store.locked("host"):
            return self._create_network(spec, kernel)

    def _create_network(self, spec: NetworkSpec, kernel: Kernel) -> NetworkRecord:
        with self.store.transaction(), _translated(f"cannot create network '{spec.name}'"):
            net = networks.propose(self.changes, spec, kernel, self.address_pools)
            records = self._with_plans(net, kernel)
            for record in records:
                self.store.put(record)
        self.changes.realise(records, kernel)
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
        found = self.store.by_name(NetworkRecord, name)
        if found is not None:
            return found
        with self._job() as kernel, self.store.locked("host"):
            found = self.store.by_name(NetworkRecord, name)
            spec = NetworkSpec(name, bridge=model.DEFAULT_BRIDGE)
            return found or self._create_network(spec, kernel)

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
        with self._job() as kernel, self.store.locked("host"):
            net = self.store.get(NetworkRecord, name)
            with self.store.locked(net.id):
                endpoints = self._living(self.store.all(EndpointRecord, network=net.id), kernel)
                if endpoints and not force:
                    names = store.names(self.store.get(SandboxRecord, e.sandbox) for e in endpoints)
                    raise Conflict(
                        f"network {net.name} has active endpoints: {names}",
                        hint="disconnect them first, or use --force",
                    )
                for ep in endpoints:
                    self.changes.undo(self.changes.with_sandbox(ep), kernel)
                self.changes.undo([net, *recovery.unshared(self.changes, net)], kernel)

    def networks(self) -> list[NetworkRecord]:
        """All networks, oldest first, then the built-in ones."""
        recovery.recover(self.changes)
        return [*self.store.all(NetworkRecord), *networks.BUILT_IN]

    def usage(self, net: NetworkRecord) -> ipam.Usage | None:
        """How full a network's pool is: addresses in use, and dynamic ones still to be had."""
        if net.subnet is None:
            return None
        with self.store.transaction():
            return self.changes.allocator(net).usage()

    def _with_plans(self, net: NetworkRecord, kernel: Kernel) -> list[Record]:
        """The records of *net* and of the shared plans it is the first to want."""
        driver = drivers.load(net.driver)
        records: list[Record] = []
        for name, plan in driver.shared(net).items():
            known = self.store.by_id(HostRecord, name)
            if known is not None and known.epoch == self.changes.epoch:
                continue
            prepared = steps.encode(steps.prepare(plan, kernel))
            records.append(
                HostRecord(
                    id=name,
                    epoch=self.changes.epoch,
                    maker=self.changes.maker,
                    steps=prepared,
                    firewall=kernel.firewall.name if name == "tables" else None,
                )
            )
        plan = steps.prepare(driver.network(net), kernel)
        return [*records, replace(net, steps=steps.encode(plan))]

    def _revive(self, net: NetworkRecord, kernel: Kernel) -> NetworkRecord:
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
            return replace(net, epoch=self.changes.epoch, steps=records[-1].steps)

    # -- sandboxes and endpoints

    def sandbox(self, name: str) -> SandboxRecord:
        """What is on record of a container or namespace."""
        found = targets.resolve(self.store, name)
        if isinstance(found, targets.Target):
            raise Conflict(f"{name} is not connected to any network of netkit's")
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

        *target* None makes a new namespace, called *name* or by a random name.
        """
        request = request or Request()
        files = files or NameFiles()
        if network in model.BUILT_IN:
            raise InvalidSpec(
                f"cannot connect to network '{network}'", hint="use run --net instead"
            )
        with self._job() as kernel, self.tentative_default():
            # what is to be refused is refused before the default network is made for it
            known = None if target is None else targets.resolve(self.store, target)
            if known is None and name is not None:
                self._refuse_taken(name, kernel)
            net = self.default_network() if network is None or _is_default(network) else None
            net = net or self.store.get(NetworkRecord, str(network))
            if net.epoch != self.changes.epoch:
                net = self._revive(net, kernel)
            with self.store.locked(net.id, shared=True):
                net = self.store.get(NetworkRecord, net.id)
                if isinstance(known, SandboxRecord):
                    with self.store.locked(known.id):
                        known = self._reachable(known)
                        if files.given:
                            raise Conflict(
                                f"the name files of '{known.name}' are made already",
                                hint="give DNS and host options when it is first connected or run",
                            )
                        return self._connect(net, known, request, kernel)
                if isinstance(known, targets.Target):
                    with self.store.locked(known.id):
                        made = self.store.by_id(SandboxRecord, known.id)
                        sandbox = made or sandboxes.foreign(self.changes, known, files)
                        return self._connect(net, sandbox, request, kernel)
                sandbox = sandboxes.named(self.changes, name, files)
                with self.store.locked(sandbox.id):
                    return self._connect(net, sandbox, request, kernel)

    def _connect(
        self,
        net: NetworkRecord,
        sandbox: SandboxRecord,
        request: Request,
        kernel: Kernel,
    ) -> EndpointRecord:
        """With the locks held. A sandbox that bears our maker and no record yet is made too."""
        what = f"cannot connect {sandbox.name} to network '{net.name}'"
        try:
            with self.store.transaction(), _translated(what):
                new: list[Record] = []
                if self.store.by_id(SandboxRecord, sandbox.id) is None:
                    plan = steps.prepare(sandboxes.plan(sandbox, net), kernel)
                    sandbox = replace(sandbox, steps=steps.encode(plan))
                    new.append(sandbox)
                    self.store.put(sandbox)
                ep = self._propose_endpoint(net, sandbox, request, kernel)
                others = self.store.all(EndpointRecord, sandbox=sandbox.id)
                plan = (
                    *drivers.load(net.driver).endpoint(net, ep),
                    *gateway.arriving(self.store, ep, others),
                    *sandboxes.entries(sandbox, ep),
                )
                ep = replace(ep, steps=steps.encode(steps.prepare(plan, kernel)))
                new.append(ep)
                self.store.put(ep)
        except (Conflict, Exhausted):
            # the dead may hold what is missing: bury them, and try once more
            if self.changes.dry or not recovery.collect(self.changes, kernel, skip=sandbox.id):
                raise
            return self._connect(net, sandbox, request, kernel)
        self.changes.realise(new, kernel)
        return self.store.get(EndpointRecord, ep.id)

    def _refuse_taken(self, name: str, kernel: Kernel) -> None:
        try:
            sandboxes.refuse_taken(self.changes, name)
        except Conflict:
            # unless by the dead: bury them, and look again
            if self.changes.dry or not recovery.collect(self.changes, kernel):
                raise
            sandboxes.refuse_taken(self.changes, name)

    def _reachable(self, sandbox: SandboxRecord) -> SandboxRecord:
        """The record as it is now; *sandbox* may know a newer path to the same namespace."""
        found = self.store.get(SandboxRecord, sandbox.id)
        if found.finished is not None:
            raise Conflict(f"container {found.name} is not running")
        return replace(found, netns=sandbox.netns, pid=sandbox.pid)

    def disconnect(self, network: str, target: str) -> None:
        """Take a sandbox off a network. A namespace made by connect goes with its last one."""
        with self._job() as kernel:
            net = self.network(network)
            sandbox = self.sandbox(target)
            with self.store.locked(net.id, shared=True), self.store.locked(sandbox.id):
                found = [
                    ep
                    for ep in self.store.all(EndpointRecord, sandbox=sandbox.id)
                    if ep.network == net.id
                ]
                if not found:
                    raise Conflict(
                        f"container {sandbox.name} is not connected to network {net.name}",
                        hint=f"`netkit inspect {sandbox.name}` shows its networks",
                    )
                for ep in found:
                    self.changes.undo(self.changes.with_sandbox(ep), kernel)

    def create_sandbox(self, sandbox: SandboxRecord, plan: steps.Plan) -> SandboxRecord:
        """Put a container on record and make what it needs; it stays an intent until it runs."""
        with self._job() as kernel:
            with self.store.transaction():
                sandboxes.refuse_taken(self.changes, sandbox.name)
                prepared = steps.encode(steps.prepare(plan, kernel))
                sandbox = replace(
                    sandbox, epoch=self.changes.epoch, maker=self.changes.maker, steps=prepared
                )
                self.store.put(sandbox)
            self.changes.realise([sandbox], kernel, commit=False)
        return sandbox

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

    def update_sandbox(self, sandbox: SandboxRecord) -> None:
        with self.store.transaction():
            self.store.update(sandbox)  # what `rm` removed meanwhile does not come back

    def empty_sandbox(self, sandbox: SandboxRecord) -> None:
        """Undo all that a sandbox has in the kernel; its record stays, as that of a dead one."""
        self._take_down(sandbox, keep=True)

    def delete_sandbox(self, sandbox: SandboxRecord) -> None:
        """Undo all that a sandbox has, and forget it."""
        self._take_down(sandbox, keep=False)

    def _take_down(self, sandbox: SandboxRecord, *, keep: bool) -> None:
        with self._job() as kernel, self.store.locked(sandbox.id):
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

    def _propose_endpoint(
        self, net: NetworkRecord, sandbox: SandboxRecord, request: Request, kernel: Kernel
    ) -> EndpointRecord:
        """The endpoint *request* becomes, with its address leased and its ports claimed."""
        if sandbox.netns is None:
            raise Conflict(f"container {sandbox.name} uses the host's network")
        others = self.store.all(EndpointRecord, sandbox=sandbox.id)
        if any(ep.network == net.id for ep in others):
            raise Conflict(
                f"endpoint with name {sandbox.name} already exists in network {net.name}"
            )
        if any(ep.network in networks.BUILT_IN_IDS for ep in others):
            raise Conflict(f"container {sandbox.name} was run without a network (--net none)")
        if net.internal and request.ports:
            raise InvalidSpec(
                f"cannot publish ports on network '{net.name}': it is internal",
                hint="publish on another network, or create this one without --internal",
            )
        id = naming.new_id()
        ifname = self._ifname(sandbox, others, request, kernel)
        host_ifname = request.host_ifname or naming.host_ifname(sandbox.id, ifname)
        if request.host_ifname and kernel.netlink().link(host_ifname):
            raise Conflict(
                f"an interface named '{host_ifname}' exists already on the host",
                hint="choose another --host-ifname, or leave it out",
            )
        owner = f"{sandbox.name}/{ifname}"
        address = None if request.addressless else self._lease(net, owner, sandbox, request)
        mac = request.mac or (
            naming.mac_of(address.ip) if address else naming.bridge_mac(f"{sandbox.id}/{ifname}")
        )
        ep = EndpointRecord(
            id=id,
            created=time.time(),
            epoch=self.changes.epoch,
            maker=self.changes.maker,
            network=net.id,
            sandbox=sandbox.id,
            ifname=ifname,
            host_ifname=host_ifname,
            netns=sandbox.netns,
            mac=mac,
            host_mac=naming.bridge_mac(id),
            owner=owner,
            static=request.address is not None,
            address=address,
            gateway=None if net.internal or address is None else net.gateway,
            gateway_priority=request.gateway_priority,
            ports=self._claim(net, id, request, kernel),
        )
        theirs = any(other.leads_out for other in others) or gateway.may_have(sandbox, kernel)
        return replace(ep, leads_out=ep.gateway is not None and theirs)

    def _ifname(
        self,
        sandbox: SandboxRecord,
        others: Sequence[EndpointRecord],
        request: Request,
        kernel: Kernel,
    ) -> str:
        taken = {ep.ifname for ep in others}
        assert sandbox.netns is not None
        if kernel.exists(sandbox.netns):
            taken |= {link.name for link in kernel.netlink(sandbox.netns).links()}
        if request.ifname is None:
            return next(name for n in range(1 << 16) if (name := f"eth{n}") not in taken)
        if request.ifname in taken:
            raise Conflict(
                f"container {sandbox.name} has an interface '{request.ifname}' already",
                hint="choose another --ifname, or leave it out",
            )
        return request.ifname

    # -- leases and claims

    def _lease(
        self, net: NetworkRecord, owner: str, sandbox: SandboxRecord, request: Request
    ) -> IPv4Interface:
        import ipam

        who = ipam.Owner(owner, self.changes.epoch, sandbox.netns or "")
        leased = self.changes.allocator(net).lease(who, request.address)
        assert isinstance(leased, IPv4Interface)
        return leased

    def _claim(
        self, net: NetworkRecord, id: str, request: Request, kernel: Kernel
    ) -> tuple[model.PortMapping, ...]:
        if not request.ports:
            return ()
        claims = Ports(self.store.connection)
        return tuple(
            claims.claim(
                id,
                replace(spec, address=spec.address or net.host_binding),
                kernel,
                self.changes.owner_name,
            )
            for spec in request.ports
        )

    # -- recovery and check

    @contextmanager
    def _job(self) -> Iterator[Kernel]:
        """One operation: what the dead left is undone first, and sockets are closed after."""
        with self.changes.kernel() as kernel:
            try:
                recovery.recover(self.changes, kernel)
                yield kernel
            except OSError as error:  # in looking around; a step translates its own
                raise KernelRefused(f"cannot see the host's network: {error.strerror}") from error

    def gc(self) -> list[str]:
        """Undo what is left of dead processes, containers and namespaces; say what that was."""
        with self._job() as kernel:
            return [
                record.owner if isinstance(record, EndpointRecord) else record.name or record.id
                for record in recovery.collect(self.changes, kernel)
            ]

    def _living(self, endpoints: Sequence[EndpointRecord], kernel: Kernel) -> list[EndpointRecord]:
        """Those endpoints that still exist once the dead are buried."""
        if endpoints:
            recovery.collect(self.changes, kernel)
        return [ep for ep in endpoints if self.store.by_id(EndpointRecord, ep.id)]

    def check(self, name: str | None = None) -> list[Drift]:
        """Where the kernel is not as the records say: of a container or network, or of all."""
        records: list[Record] = []
        if name is None:
            records += self.store.all(HostRecord)
            records += self.store.all(NetworkRecord)
            records += self.store.all(SandboxRecord)
            records += self.store.all(EndpointRecord)
        elif (net := self.store.find(NetworkRecord, name)) is not None:
            records += [*self.store.all(HostRecord), net]
            records += self.store.all(EndpointRecord, network=net.id)
        else:
            sandbox = self.sandbox(name)
            records += [sandbox, *self.store.all(EndpointRecord, sandbox=sandbox.id)]
        with self.changes.kernel() as kernel:
            return [
                drift
                for record in records
                if record.epoch == self.changes.epoch
                for drift in steps.check(steps.decode(record.steps), kernel)
            ]


# -- helpers


def _is_default(name: str) -> bool:
    return name in (model.DEFAULT_NETWORK, "default")


@contextmanager
def _translated(what: str) -> Iterator[None]:
    """IpamError becomes a NetkitError that says what was being tried."""
    from ipam import errors

    kinds: dict[type[errors.IpamError], type[NetkitError]] = {
        errors.PoolExhausted: Exhausted,
        errors.AddressInUse: Conflict,
        errors.PoolOverlap: Conflict,
    }
    try:
        yield
    except errors.IpamError as error:
        kind = kinds.get(type(error), InvalidSpec)
        raise kind(f"{what}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise KernelRefused(f"{what}: {error.strerror or error}") from error
