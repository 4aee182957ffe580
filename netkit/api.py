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

from netkit import addresses, naming, portspec, specs
from netkit.access import ContainerLink, EgressRule
from netkit.addresses import address as parse_address
from netkit.addresses import link_local_address
from netkit.config import load
from netkit.engine import Engine
from netkit.errors import Drift, NotFound
from netkit.model import EndpointRecord, LinkEnd, LinkRecord, NetworkRecord, SandboxRecord
from netkit.portspec import PortMapping
from netkit.routes import parse_all, parse_rules
from netkit.specs import NameFiles, NetworkSpec, Request
from netkit.sysctls import of_interface

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

    from netkit.addresses import Address, Interface
    from netkit.addresses import Network as IPNetwork
    from netkit.config import Source
    from netkit.events import Events
    from netkit.hostnames import Status as HostNames
    from netkit.live import Verb
    from netkit.permissions import EgressVerb
    from netkit.repair import Repaired
    from netkit.updates import Labels


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
        self.dns = Dns(self.engine)
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

    def events(
        self,
        *,
        since: datetime | float | None = None,
        until: datetime | float | None = None,
        filters: Mapping[str, str | Iterable[str]] | None = None,
        timeout_s: float | None = None,
    ) -> Events:
        """What happens from now on, or happened *since* then: an iterator, typed (netkit.events).

        It ends at *until*, once nothing came for *timeout_s*, or by its `close`, which another
        thread may call. *filters* as `netkit events --filter`: {"event": ["connect", "die"]}.
        """
        return self.engine.events(
            since=_moment(since), until=_moment(until), filters=filters, timeout_s=timeout_s
        )

    def gc(self) -> list[str]:
        """Remove what dead processes and namespaces left behind; the names of what that was."""
        return self.engine.gc()

    def check(self, name: str | None = None) -> list[Drift]:
        """Where the kernel is not as netkit made it."""
        return self.engine.check(name)

    def repair(self, name: str | None = None) -> Repaired:
        """Put back what somebody took from the kernel: what is `mended`, and what is `left`."""
        return self.engine.repair(name)


class Dns:
    """Names of containers on the host itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def enable_host(self) -> None:
        """Have the host's resolver ask netkit: NAME.NETWORK resolves on the host, too."""
        self._engine.enable_host_names()

    def disable_host(self) -> None:
        """Have it be as it was, but for what others have changed of it."""
        self._engine.disable_host_names()

    @property
    def host(self) -> HostNames:
        """What the host's resolver is told, and what keeps that from working."""
        return self._engine.host_names()


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
        host_access: bool = True,
        egress: Sequence[str] | None = None,
        dns_enabled: bool | None = None,
        dns: Sequence[str] = (),
        hostnames: bool = False,
    ) -> Network:
        """Create a network. Without *subnet*, one that hides nothing the host can reach.

        *subnet* "/24" asks for any of that length; an IPv6 subnet asks for IPv6. Several subnets
        give each endpoint an address of each; gateways and ranges go with the subnet they lie in.
        *bridge* is one of the host's that is to be used, and stays when the network goes.
        *ip_range* is a part of a subnet, "10.1.0.128/25" or "10.1.0.10-10.1.0.20"; of several the
        first is used up first. *ipam_driver* is "default" (with the options "round-robin" and
        "sticky"), "static", "none", or a CNI IPAM plugin's name. *egress* is where its packets may
        leave to: "10.0.0.0/8:443", "example.com"; None: anywhere. *dns_enabled*: its containers'
        names resolve there (None: where that can be), with *hostnames* their hostnames too; *dns*
        are the servers asked about all other names.
        """
        fields: dict[str, Any] = {"mtu": mtu, "masquerade": masquerade, "ip_forward": ip_forward}
        fields |= {"host_access": host_access, "egress": _egress(egress)}
        fields |= {"ipv4": ipv4, "ipv6": ipv6, "icc": icc, "bridge": bridge}
        fields |= specs.subnet_fields(_texts(subnet))
        fields["gateways"] = tuple(addresses.address("gateway", ip) for ip in _texts(gateway))
        fields["ip_ranges"] = tuple(
            part for text in _texts(ip_range) for part in addresses.ranges("IP range", text)
        )
        fields |= specs.ipam_fields(ipam_driver, ipam_options or {})
        if host_ip is not None:
            fields["host_binding"] = addresses.address("host address", host_ip)
        fields["reserved"] = {
            key: addresses.address("auxiliary address", value)
            for key, value in (aux_addresses or {}).items()
        }
        fields |= {"routes": parse_all(routes), "default_route": not no_default_route}
        fields |= {"names": dns_enabled, "hostnames": hostnames}
        fields["servers"] = specs.name_servers(dns)
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
        egress: Sequence[str] | None = None,
        aliases: Sequence[str] = (),
        links: Sequence[str] = (),
    ) -> Endpoint:
        """Connect *container*, `pid:N`, `netns:/path` or a named namespace.

        Without *container* a new namespace is made, called *name*. *ipv4_address* "0/0" asks for an
        interface without an address; *addresses* are more of either version. Routes and rules are
        as `ip route` and `ip rule` have them: "10.1.0.0/16 via 172.25.0.9", "from 172.25.0.2 table
        100". *sysctls* are the interface's own: {"net.ipv4.conf.IFNAME.forwarding": "1"}.
        *source_ips* are the host's addresses it is seen by outside. *aliases* are what it is called
        there beside its name, *links* what it calls others: "db:database".
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
            ports=tuple(spec for text in ports for spec in portspec.PortSpec.parse(text)),
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
            egress=_egress(egress),
            aliases=tuple(dict.fromkeys(aliases)),
            links=tuple(ContainerLink.parse(text) for text in links),
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

    def update(
        self,
        *,
        labels: Mapping[str, str | None] | None = None,
        dns_add: Sequence[str] = (),
        dns_drop: Sequence[str] = (),
        mtu: int | None = None,
    ) -> None:
        """Change the network, and all who are on it, while they live: all of it, or nothing.

        A label that is None goes. *dns_add* and *dns_drop* are servers that are asked for names of
        elsewhere.
        """
        from netkit import live
        from netkit.updates import NetworkUpdate

        update = NetworkUpdate(
            labels=_labels(labels), servers=tuple(dns_add), no_servers=tuple(dns_drop), mtu=mtu
        )
        live.update_network(self._engine, self.id, update)

    def disconnect(self, container: str, *, force: bool = False) -> None:
        """Take *container* off this network; with *force* it need not be on it."""
        from netkit.errors import Conflict

        try:
            self._engine.disconnect(self.id, container)
        except (Conflict, NotFound):
            if not force:
                raise

    def allow(self, client: str, server: str) -> None:
        """On a closed network let *client* reach *server*: ("web", "db:5432/tcp"), ("*", "db").

        On one without access to the host let it reach a port of that: ("web", "host:9100").
        """
        from netkit import permissions

        permissions.allow(self._engine, client, server, self.id)

    def disallow(self, client: str, server: str) -> None:
        """Take back what was allowed, in the same words."""
        from netkit import permissions

        permissions.disallow(self._engine, client, server, self.id)

    def police(self, *, icc: bool | None = None, host_access: bool | None = None) -> None:
        """Open or close the network, or the host's own services to it."""
        from netkit import permissions

        permissions.police(self._engine, self.id, icc=icc, host_access=host_access)

    @property
    def policy(self) -> list[dict[str, Any]]:
        """Who may begin to talk to whom, and why: the lines of `netkit policy`."""
        from netkit import views

        return views.policy_rows(self._engine, self.record)

    @property
    def egress(self) -> list[str] | None:
        """Where its packets may leave to; None: anywhere."""
        return _listed(self.record.egress)

    def let_out(self, verb: EgressVerb, *rules: str) -> None:
        """Change that list: "allow" or "disallow" some *rules*, "any" place, or none ("deny")."""
        from netkit import permissions

        permissions.let_out(self._engine, self.id, verb, rules)

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

    def publish(self, *ports: str) -> tuple[PortMapping, ...]:
        """Publish more ports, as for `connect`: "8443:443"; connections of others go on."""
        from netkit import live

        specs = tuple(spec for text in ports for spec in portspec.PortSpec.parse(text))
        record = self.record
        return live.publish(self._engine, record.sandbox, specs, network=record.network)

    def unpublish(self, *ports: str | PortMapping) -> None:
        """Publish ports no longer, by what they were asked for, or as `ports` has them; all of
        them, if none is named. What is connected there is cut off.
        """
        from netkit import live, publications

        specs = [spec for port in ports for spec in publications.parse(str(port))]
        record = self.record
        live.unpublish(self._engine, record.sandbox, specs, network=record.network, every=not ports)

    def update(
        self,
        *,
        aliases_add: Sequence[str] = (),
        aliases_rm: Sequence[str] = (),
        mtu: int | None = None,
        txqlen: int | None = None,
        promisc: bool | None = None,
        allmulti: bool | None = None,
        gw_priority: int | None = None,
        dns: Sequence[str] | None = None,
        dns_search: Sequence[str] | None = None,
        dns_options: Sequence[str] | None = None,
        labels: Mapping[str, str | None] | None = None,
    ) -> None:
        """Change the endpoint and its container while it runs: all of it, or nothing.

        What is left out stays. DNS servers, domains and options are the container's; none of them:
        as its network has them. A label that is None goes.
        """
        from netkit import live
        from netkit.updates import Update

        update = Update(
            aliases=tuple(aliases_add),
            no_aliases=tuple(aliases_rm),
            mtu=mtu,
            txqlen=txqlen,
            promisc=promisc,
            allmulti=allmulti,
            gateway_priority=gw_priority,
            servers=None if dns is None else tuple(dns),
            search=None if dns_search is None else tuple(dns_search),
            options=None if dns_options is None else tuple(dns_options),
            labels=_labels(labels),
        )
        record = self.record
        live.update(self._engine, record.sandbox, update, network=record.network)

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

    @property
    def egress(self) -> list[str] | None:
        """Where its packets may leave to, beside where its network's may; None: no list."""
        return _listed(self.record.wanted.egress)

    def let_out(self, verb: EgressVerb, *rules: str) -> None:
        """Change that list: "allow" or "disallow" some *rules*, "any" place, or none ("deny")."""
        from netkit import permissions

        record = self.record
        permissions.let_out(self._engine, record.sandbox, verb, rules, record.network)

    def _alter(self, verb: Verb, text: str) -> None:
        from netkit import live

        record = self.record
        live.alter(self._engine, record.sandbox, verb, text, network=record.network)

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
        ) -> specs.EndSpec:
            return specs.EndSpec(
                target=target,
                addresses=tuple(addresses.interface("address", text) for text in _texts(given)),
                ifname=ifname,
                mac=None if mac is None else naming.parse_mac(mac),
            )

        ends = end(a, addr_a, ifname_a, mac_a), end(b, addr_b, ifname_b, mac_b)
        spec = specs.LinkSpec(ends=ends, name=name, mtu=mtu, addressless=addressless)
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


def _moment(given: datetime | float | None) -> float | None:
    """In seconds since 1970."""
    return given if given is None or isinstance(given, float | int) else given.timestamp()


def _egress(given: Sequence[str] | None) -> tuple[EgressRule, ...] | None:
    return None if given is None else tuple(EgressRule.parse(text) for text in given)


def _listed(rules: Sequence[EgressRule] | None) -> list[str] | None:
    return None if rules is None else [str(rule) for rule in rules]


def _labels(given: Mapping[str, str | None] | None) -> Labels:
    from netkit.updates import Labels

    given = given or {}
    return Labels(
        {key: value for key, value in given.items() if value is not None},
        tuple(key for key, value in given.items() if value is None),
    )


def _texts(given: str | Sequence[str]) -> Sequence[str]:
    """One or several."""
    return (given,) if isinstance(given, str) else given
