"""The Python API: handles on networks and endpoints, in docker-py's habits.

    with Netkit() as nk, nk.networks.create("my-net", subnet="172.25.0.0/16") as net:
        web = net.connect(ports=["8080:80"])      # a new namespace
        web.exec(["ip", "addr"])

Shapes   a handle holds an engine and an id, and reads the record anew each time it is asked
Errors   NetkitError (netkit.errors); addresses and ports are text here, values inside
Undoing  leaving a `with` block removes what the handle made: an endpoint, a network with whatever
         is still connected to it. Handles got by `get`, `list` or attribute own nothing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from netkit import model, naming
from netkit.engine import Engine
from netkit.errors import Drift, NotFound
from netkit.model import (
    EndpointRecord,
    NameFiles,
    NetworkRecord,
    NetworkSpec,
    PortMapping,
    Request,
    SandboxRecord,
)

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Interface, IPv4Network
    from typing import Self


class Netkit:
    """The way in: networks, containers, and the engine behind them.

    *state_dir* and *run_dir* default to NETKIT_STATE_DIR and NETKIT_RUN_DIR, else /var/lib/netkit
    and /run/netkit. *address_pools*, (CIDR, prefix length of a subnet), are where subnets that
    nobody names are taken from; Docker's by default. A Netkit belongs to the thread that made it.
    """

    def __init__(
        self,
        *,
        state_dir: str | None = None,
        run_dir: str | None = None,
        firewall: str | None = None,
        address_pools: Iterable[tuple[str, int]] = (),
    ) -> None:
        from netkit.kernel import privilege

        privilege.require()
        pools = [model.address_pool(f"base={base},size={size}") for base, size in address_pools]
        self.engine = Engine(state_dir, run_dir, firewall_name=firewall, address_pools=pools)
        self.networks = Networks(self.engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the store; what was made stays."""
        self.engine.close()

    def endpoints(self, container: str) -> list[Endpoint]:
        """All endpoints of a container, `pid:N`, `netns:/path` or named namespace."""
        sandbox = self.engine.sandbox(container)
        found = self.engine.endpoints(sandbox=sandbox.id)
        return [Endpoint(self.engine, ep.id) for ep in found]

    def dry_run(self) -> AbstractContextManager[list[str]]:
        """Inside, nothing is done: it becomes the ip and nft lines an operator would type."""
        return self.engine.dry_run()

    def gc(self) -> list[str]:
        """Remove what dead processes and namespaces left behind; the names of what that was."""
        return self.engine.gc()

    def check(self, name: str | None = None) -> list[Drift]:
        """Where the kernel is not as netkit made it."""
        return self.engine.check(name)


class Networks:
    """`Netkit.networks`: create, get, list, prune."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        name: str,
        driver: str = "bridge",
        *,
        subnet: str | None = None,
        gateway: str | None = None,
        ip_range: str | None = None,
        aux_addresses: Mapping[str, str] | None = None,
        internal: bool = False,
        mtu: int | None = None,
        masquerade: bool = True,
        ip_forward: bool = True,
        host_ip: str | None = None,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        force: bool = False,
    ) -> Network:
        """Create a network. Without *subnet*, one that hides nothing the host can reach.

        *subnet* "/24" asks for any of that length.
        """
        fields: dict[str, Any] = {"mtu": mtu, "masquerade": masquerade, "ip_forward": ip_forward}
        if subnet is not None:
            fields |= model.subnet_fields(subnet)
        if gateway is not None:
            fields["gateway"] = model.address("gateway", gateway)
        if ip_range is not None:
            fields["ip_range"] = model.subnet("IP range", ip_range)
        if host_ip is not None:
            fields["host_binding"] = model.address("host address", host_ip)
        fields["reserved"] = {
            key: model.address("auxiliary address", value)
            for key, value in (aux_addresses or {}).items()
        }
        fields |= NetworkSpec.options(options or {})
        spec = NetworkSpec(
            name, driver, internal=internal, labels=dict(labels or {}), force=force, **fields
        )
        return Network(self._engine, self._engine.create_network(spec).id)

    def get(self, name: str) -> Network:
        """The network called *name*, or with that id; NotFound if there is none."""
        return Network(self._engine, self._engine.network(name).id)

    def list(self) -> Sequence[Network]:
        """All networks, built-in ones last."""
        return [Network(self._engine, net.id) for net in self._engine.networks()]

    def prune(self) -> Sequence[str]:
        """Remove the networks nobody is connected to; their names."""
        self._engine.gc()
        pruned = []
        for net in self._engine.store.all(NetworkRecord):
            if not self._engine.endpoints(network=net.id):
                self._engine.delete_network(net.id)
                pruned.append(net.name)
        return pruned


class Network:
    """A network. As a context manager it is removed at the end, with all endpoints on it."""

    def __init__(self, engine: Engine, id: str) -> None:
        self._engine = engine
        self.id = id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with suppress(NotFound):  # removed within the block
            self.remove(force=True)

    def __repr__(self) -> str:
        return f"<Network {self.name}>"

    @property
    def record(self) -> NetworkRecord:
        """The record as it is now."""
        return self._engine.network(self.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def subnet(self) -> IPv4Network | None:
        return self.record.subnet

    @property
    def gateway(self) -> IPv4Address | None:
        return self.record.gateway

    @property
    def attrs(self) -> dict[str, Any]:
        """What `network inspect` shows."""
        from netkit import views

        return views.network(self._engine, self.record)

    @property
    def containers(self) -> list[str]:
        """The names of what is connected."""
        return [ep.container for ep in self.endpoints]

    @property
    def endpoints(self) -> list[Endpoint]:
        return [Endpoint(self._engine, ep.id) for ep in self._engine.endpoints(network=self.id)]

    def connect(
        self,
        container: str | None = None,
        *,
        name: str | None = None,
        ipv4_address: str | None = None,
        mac_address: str | None = None,
        ports: Iterable[str] = (),
        ifname: str | None = None,
        host_ifname: str | None = None,
        gw_priority: int = 0,
        hostname: str | None = None,
        dns: Sequence[str] = (),
        dns_search: Sequence[str] = (),
        dns_options: Sequence[str] = (),
        extra_hosts: Sequence[str] = (),
    ) -> Endpoint:
        """Connect *container*, `pid:N`, `netns:/path` or a named namespace.

        Without *container* a new namespace is made, called *name*. *ipv4_address* "0/0" asks for an
        interface without an address.
        """
        request = Request(
            ifname=ifname,
            host_ifname=host_ifname,
            address=None
            if ipv4_address in (None, "0/0")
            else model.address("address", str(ipv4_address)),
            addressless=ipv4_address == "0/0",
            mac=None if mac_address is None else naming.parse_mac(mac_address),
            gateway_priority=gw_priority,
            ports=tuple(spec for text in ports for spec in model.PortSpec.parse(text)),
        )
        files = NameFiles(
            hostname=hostname,
            servers=tuple(dns),
            search=tuple(dns_search),
            options=tuple(dns_options),
            extra_hosts=tuple(extra_hosts),
        )
        ep = self._engine.connect(self.id, container, request, files, name=name)
        return Endpoint(self._engine, ep.id)

    def disconnect(self, container: str, *, force: bool = False) -> None:
        """Take *container* off this network; with *force* it need not be on it."""
        from netkit.errors import Conflict

        try:
            self._engine.disconnect(self.id, container)
        except (Conflict, NotFound):
            if not force:
                raise

    def remove(self, *, force: bool = False) -> None:
        """Remove the network; with *force*, whatever is connected is disconnected first."""
        self._engine.delete_network(self.id, force=force)


class Endpoint:
    """One container on one network. As a context manager it is disconnected at the end."""

    def __init__(self, engine: Engine, id: str) -> None:
        self._engine = engine
        self.id = id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._engine.store.find(EndpointRecord, self.id) is not None:
            self.disconnect()

    def __repr__(self) -> str:
        return f"<Endpoint {self.container}/{self.ifname}>"

    @property
    def record(self) -> EndpointRecord:
        """The record as it is now; NotFound once disconnected."""
        return self._engine.store.get(EndpointRecord, self.id)

    @property
    def network(self) -> Network:
        return Network(self._engine, self.record.network)

    @property
    def container(self) -> str:
        """The name of the container or namespace, known to `ip netns` if connect or run made it."""
        return self._engine.store.get(SandboxRecord, self.record.sandbox).name

    @property
    def netns(self) -> str:
        """The path of its network namespace."""
        return self.record.netns or ""

    @property
    def ifname(self) -> str:
        return self.record.ifname

    @property
    def host_ifname(self) -> str:
        return self.record.host_ifname

    @property
    def address(self) -> IPv4Interface | None:
        return self.record.address

    @property
    def mac_address(self) -> str:
        return self.record.mac

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        return self.record.ports

    def exec(self, argv: Sequence[str]) -> int:
        """Run a command in the namespace; its exit code."""
        from netkit import containers

        return containers.execute(self._engine, self.container, tuple(argv))

    def check(self) -> list[Drift]:
        """Where the kernel is not as netkit made it."""
        return self._engine.check(self.container)

    def disconnect(self) -> None:
        """Disconnect. A namespace that connect made goes with its last network."""
        record = self.record
        self._engine.disconnect(record.network, record.sandbox)
