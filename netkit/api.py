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

from netkit import addresses, model, naming
from netkit.addresses import address as parse_address
from netkit.addresses import link_local_address
from netkit.config import load
from netkit.engine import Engine, Verb
from netkit.errors import Drift, NotFound
from netkit.model import (
    EndpointRecord,
    LinkEnd,
    LinkRecord,
    NameFiles,
    NetworkRecord,
    NetworkSpec,
    PortMapping,
    Request,
    SandboxRecord,
)
from netkit.routes import parse_all, parse_rules
from netkit.sysctls import of_interface

if TYPE_CHECKING:
    from typing import Self

    from netkit.addresses import Address, Interface
    from netkit.addresses import Network as IPNetwork
    from netkit.config import Source


class Netkit:
    """The way in: networks, links, and the engine behind them.

    *config* is a file, or a mapping of the keys one may have (`{"bip": "10.88.0.1/16"}`); without
    it NETKIT_CONFIG names the file, else it is /etc/netkit/netkit.toml, if there is one. What else
    is given here comes before that: *address_pools* are (CIDR, prefix length of a subnet).
    A Netkit belongs to the thread that made it.
    """

    def __init__(
        self,
        config: Source | None = None,
        *,
        state_dir: str | None = None,
        run_dir: str | None = None,
        firewall: str | None = None,
        address_pools: Iterable[tuple[str, int]] = (),
    ) -> None:
        from netkit.kernel import privilege

        privilege.require()
        given = {
            "state-dir": state_dir,
            "run-dir": run_dir,
            "firewall": firewall,
            "default-address-pools": [{"base": b, "size": size} for b, size in address_pools],
        }
        settings = load(config, {key: value for key, value in given.items() if value})
        self.engine = Engine(config=settings.config, firewall_name=firewall)
        self.networks = Networks(self.engine)
        self.links = Links(self.engine)

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

    def reattach(self, container: str) -> list[Endpoint]:
        """Connect an engine's container that was started again to the networks it had."""
        return [Endpoint(self.engine, ep.id) for ep in self.engine.reattach(container)]

    @property
    def firewall(self) -> str:
        """Which firewall the networks here use, or will: "nftables", "iptables" or "none"."""
        return self.engine.firewall_rules(listed=False)[0]

    def use_firewall(self, name: str) -> None:
        """Move all rules to another firewall; both are in force meanwhile, so nothing is open.

        Your own rules in the former's `admin` chain stay behind.
        """
        self.engine.use_firewall(name)

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
        subnet: str | Sequence[str] = (),
        gateway: str | Sequence[str] = (),
        ip_range: str | Sequence[str] = (),
        ipv4: bool = True,
        ipv6: bool = False,
        aux_addresses: Mapping[str, str] | None = None,
        internal: bool = False,
        icc: bool = True,
        bridge: str | None = None,
        mtu: int | None = None,
        masquerade: bool = True,
        ip_forward: bool = True,
        host_ip: str | None = None,
        routes: Sequence[str] = (),
        no_default_route: bool = False,
        options: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        force: bool = False,
        ipam_driver: str = "default",
        ipam_options: Mapping[str, str] | None = None,
    ) -> Network:
        """Create a network. Without *subnet*, one that hides nothing the host can reach.

        *subnet* "/24" asks for any of that length; an IPv6 subnet asks for IPv6. Several subnets
        give each endpoint an address of each; gateways and ranges go with the subnet they lie in.
        *bridge* is one of the host's that is to be used, and stays when the network goes.
        *ip_range* is a part of a subnet, "10.1.0.128/25" or "10.1.0.10-10.1.0.20"; of several the
        first is used up first. *ipam_driver* is "default" (with the options "round-robin" and
        "sticky"), "static", "none", or a CNI IPAM plugin's name.
        """
        fields: dict[str, Any] = {"mtu": mtu, "masquerade": masquerade, "ip_forward": ip_forward}
        fields |= {"ipv4": ipv4, "ipv6": ipv6, "icc": icc, "bridge": bridge}
        fields |= model.subnet_fields(_texts(subnet))
        fields["gateways"] = tuple(addresses.address("gateway", ip) for ip in _texts(gateway))
        fields["ip_ranges"] = tuple(
            part for text in _texts(ip_range) for part in addresses.ranges("IP range", text)
        )
        fields |= model.ipam_fields(ipam_driver, ipam_options or {})
        if host_ip is not None:
            fields["host_binding"] = addresses.address("host address", host_ip)
        fields["reserved"] = {
            key: addresses.address("auxiliary address", value)
            for key, value in (aux_addresses or {}).items()
        }
        fields |= {"routes": parse_all(routes), "default_route": not no_default_route}
        fields |= NetworkSpec.of_options(options or {})
        spec = NetworkSpec(
            name,
            driver,
            existing=bridge is not None,
            internal=internal,
            labels=dict(labels or {}),
            force=force,
            **fields,
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
    def subnets(self) -> tuple[IPNetwork, ...]:
        return self.record.subnets

    @property
    def subnet(self) -> IPNetwork | None:
        """The first of its subnets, of IPv4 if it has one."""
        return next(iter(self.record.subnets), None)

    @property
    def gateway(self) -> Address | None:
        """The gateway of that subnet."""
        return next((gateway.ip for gateway in self.record.gateways), None)

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
        ipv6_address: str | None = None,
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
        addresses: Sequence[str] = (),
        link_local_ips: Sequence[str] = (),
        routes: Sequence[str] = (),
        rules: Sequence[str] = (),
        no_default_route: bool = False,
        source_routing: bool = False,
        source_ips: Sequence[str] = (),
        sysctls: Mapping[str, str] | None = None,
        mtu: int | None = None,
        txqlen: int | None = None,
        promisc: bool | None = None,
        allmulti: bool | None = None,
    ) -> Endpoint:
        """Connect *container*, `pid:N`, `netns:/path` or a named namespace.

        Without *container* a new namespace is made, called *name*. *ipv4_address* "0/0" asks for an
        interface without an address; *addresses* are more of either version. Routes and rules are
        as `ip route` and `ip rule` have them: "10.1.0.0/16 via 172.25.0.9", "from 172.25.0.2 table
        100". *sysctls* are the interface's own: {"net.ipv4.conf.IFNAME.forwarding": "1"}.
        *source_ips* are the host's addresses it is seen by outside.
        """
        wanted = [
            parse_address("address", text, version=version)
            for text, version in ((ipv4_address, 4), (ipv6_address, 6))
            if text not in (None, "0/0")
        ]
        settings = of_interface(f"{key}={value}" for key, value in (sysctls or {}).items())
        request = Request(
            ifname=ifname,
            host_ifname=host_ifname,
            addresses=(*wanted, *(parse_address("address", text) for text in addresses)),
            addressless=ipv4_address == "0/0",
            mac=None if mac_address is None else naming.parse_mac(mac_address),
            gateway_priority=gw_priority,
            ports=tuple(spec for text in ports for spec in model.PortSpec.parse(text)),
            extra=tuple(link_local_address(text) for text in link_local_ips),
            routes=parse_all(routes),
            rules=parse_rules(rules),
            default_route=not no_default_route,
            source_routing=source_routing,
            sources=tuple(parse_address("source address", text) for text in source_ips),
            sysctls=settings,
            mtu=mtu,
            txqlen=txqlen,
            promisc=promisc,
            allmulti=allmulti,
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
    def address(self) -> Interface | None:
        """The first of its addresses, of IPv4 if it has one."""
        return next(iter(self.record.addresses), None)

    @property
    def addresses(self) -> tuple[Interface, ...]:
        return self.record.addresses

    @property
    def mac_address(self) -> str:
        return self.record.mac

    @property
    def ports(self) -> tuple[PortMapping, ...]:
        return self.record.ports

    @property
    def extra_addresses(self) -> tuple[Interface, ...]:
        """Those beside the ones that the network has leased to it."""
        return self.record.wanted.extra

    @property
    def routes(self) -> list[str]:
        """The routes it was given, as `ip route` has them."""
        return [str(spec) for spec in self.record.wanted.routes]

    @property
    def rules(self) -> list[str]:
        """The policy rules it was given, as `ip rule` has them."""
        return [str(spec) for spec in self.record.wanted.rules]

    def add_address(self, address: str) -> None:
        """Another address: one of the network's is leased, another, "10.9.0.2/24", let through."""
        self._alter("add address", address)

    def remove_address(self, address: str) -> None:
        """Take an address away; Conflict if ports or routes need it."""
        self._alter("remove address", address)

    def add_route(self, route: str) -> None:
        """Another route: "10.1.0.0/16 via 172.25.0.9 metric 100"."""
        self._alter("add route", route)

    def remove_route(self, route: str) -> None:
        self._alter("remove route", route)

    def add_rule(self, rule: str) -> None:
        """Another policy rule: "from 172.25.0.2 table 100"."""
        self._alter("add rule", rule)

    def remove_rule(self, rule: str) -> None:
        self._alter("remove rule", rule)

    def _alter(self, verb: Verb, text: str) -> None:
        record = self.record
        self._engine.alter(record.sandbox, verb, text, network=record.network)

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


class Links:
    """`Netkit.links`: create, get, list."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def create(
        self,
        a: str,
        b: str,
        *,
        addr_a: str | Sequence[str] = (),
        addr_b: str | Sequence[str] = (),
        name: str | None = None,
        ifname_a: str | None = None,
        ifname_b: str | None = None,
        mac_a: str | None = None,
        mac_b: str | None = None,
        mtu: int = 1500,
        addressless: bool = False,
    ) -> Link:
        """Join two containers, or one and "host", by a veth pair of their own.

        *a* and *b* are as `connect` takes them. Addresses bear their prefix length: "10.1.1.1/32"
        is alone, and routed to by the other end; "10.0.0.1/24" has its subnet on the link. Without
        any, a free pair is chosen, unless *addressless*.
        """

        def end(
            target: str, given: str | Sequence[str], ifname: str | None, mac: str | None
        ) -> model.EndSpec:
            return model.EndSpec(
                target=target,
                addresses=tuple(addresses.interface("address", text) for text in _texts(given)),
                ifname=ifname,
                mac=None if mac is None else naming.parse_mac(mac),
            )

        ends = end(a, addr_a, ifname_a, mac_a), end(b, addr_b, ifname_b, mac_b)
        spec = model.LinkSpec(ends=ends, name=name, mtu=mtu, addressless=addressless)
        return Link(self._engine, self._engine.create_link(spec).id)

    def get(self, name: str) -> Link:
        """The link called *name*, or with that id; NotFound if there is none."""
        return Link(self._engine, self._engine.store.get(LinkRecord, name).id)

    def list(self, container: str | None = None) -> Sequence[Link]:
        """All links, oldest first, perhaps those of one container only."""
        sandbox = None if container is None else self._engine.sandbox(container).id
        return [Link(self._engine, link.id) for link in self._engine.links(sandbox=sandbox)]


class Link:
    """A wire between two containers. As a context manager it is removed at the end."""

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
        with suppress(NotFound):  # removed within the block, or with one of its containers
            self.remove()

    def __repr__(self) -> str:
        return f"<Link {self.name}>"

    @property
    def record(self) -> LinkRecord:
        """The record as it is now; NotFound once it is removed."""
        return self._engine.store.get(LinkRecord, self.id)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def short_id(self) -> str:
        return self.id[:12]

    @property
    def ends(self) -> tuple[LinkEnd, LinkEnd]:
        """Both ends, in the order given: container, ifname, mac, addresses."""
        return self.record.ends

    @property
    def attrs(self) -> dict[str, Any]:
        """What `link inspect` shows."""
        from netkit import views

        return views.link(self.record)

    def check(self) -> list[Drift]:
        """Where the kernel is not as netkit made it."""
        return self._engine.check(self.name)

    def remove(self) -> None:
        """Take the link down, at both ends."""
        self._engine.delete_link(self.id)


def _texts(given: str | Sequence[str]) -> Sequence[str]:
    """One or several."""
    return (given,) if isinstance(given, str) else given
