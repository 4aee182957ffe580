"""`netkit`: network, addresses, published ports and isolation in one call, as `netkit connect` has
them; what it makes is on record as netkit's own networks and containers are.

    {"type": "netkit", "name": "web", "subnets": ["10.88.0.0/16"], "ipv6": true,
     "names": true, "capabilities": {"portMappings": true, "ips": true, "mac": true,
                                     "aliases": true}}

Shapes   the network is made with its first attachment, as configured, and goes with its last;
         one of this name that `netkit network create` made is used as it is, and stays
Errors   those of the engine, with CNI's codes
Source   docker network create(1) for keys and defaults

Isolation, the guard against spoofing and the rest of what trust.md asks for are on by default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

import msgspec
from msgspec.structs import replace

from cni.call import DRIFT, REFUSED, DnsConf, identity
from cni.spec import (
    ARGUMENTS,
    IP,
    CniError,
    Code,
    Command,
    Dns,
    Interface,
    Json,
    Result,
    Route,
    options,
)
from netkit import addresses, names, specs
from netkit.engine import Engine
from netkit.errors import Conflict, NetkitError, NotFound
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.namefiles import servers_of
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request

_MADE = "netkit.cni"  # the label of a network that an ADD made
_TRIES = 10
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


class Port(msgspec.Struct, rename="camel"):
    """An entry of the capability portMappings."""

    host_port: int
    container_port: int
    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")

    def spec(self) -> PortSpec:
        where = ip_address(self.host_ip) if self.host_ip else None
        (found,) = PortSpec.parse(f"{self.host_port}:{self.container_port}/{self.protocol}")
        return replace(found, address=where)


class Runtime(msgspec.Struct, rename="camel"):
    port_mappings: list[Port] = []
    aliases: dict[str, list[str]] = {}  # by network


class Conf(msgspec.Struct, rename="camel"):
    driver: str = "bridge"
    subnets: list[str] = []
    gateways: list[str] = []
    ip_ranges: list[str] = []
    ipv6: bool = False
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    mtu: int | None = None
    bridge: str | None = None
    options: dict[str, str] = {}
    names: bool = False
    dns: DnsConf = msgspec.field(default_factory=DnsConf)
    runtime_config: Runtime = msgspec.field(default_factory=Runtime)

    def network(self, name: str) -> NetworkSpec:
        return NetworkSpec(
            name,
            driver=self.driver,
            subnets=tuple(map(ip_network, self.subnets)),
            gateways=tuple(map(ip_address, self.gateways)),
            ip_ranges=tuple(map(ip_network, self.ip_ranges)),
            ipv6=self.ipv6,
            internal=self.internal,
            icc=self.icc,
            masquerade=self.masquerade,
            mtu=self.mtu,
            bridge=self.bridge,
            options=self.options,
            names=self.names,
            servers=specs.name_servers(self.dns.nameservers) if self.names else (),
            labels={_MADE: "true"},
        )


def add(kind: str, command: Command, engine: Engine) -> Json:
    conf = _conf(command)
    request = Request(
        ifname=command.ifname,
        addresses=tuple(addresses.address("address", ip) for ip in _wanted(command)),
        mac=command.wanted_mac(),
        ports=_ports(command, conf, engine),
        aliases=_aliases(command, conf, engine),
        attachment=_key(command),
        call=command.environ.get("NETKIT_CALL", ""),
    )
    for ep in _endpoints(command, engine) if request.call else ():
        if ep.wanted.call == request.call:  # netkitd died before it could say so
            net = engine.store.get(NetworkRecord, ep.network)
            return _result(command, conf, net, ep).to_json(command.version)
    net, ep = _connect(command, conf, request, engine)
    return _result(command, conf, net, ep).to_json(command.version)


def delete(kind: str, command: Command, engine: Engine) -> None:
    for ep in _endpoints(command, engine):
        engine.leave(ep)
    _forget_idle(command.name, engine)


def check(kind: str, command: Command, engine: Engine) -> None:
    found = _endpoints(command, engine)
    if not found:
        raise CniError(
            DRIFT,
            f"{_key(command)} is not attached to {command.name!r}",
            "it was never added, or was deleted since",
        )
    drifts = [str(drift) for ep in found for drift in engine.check_endpoint(ep)]
    if drifts:
        raise CniError(DRIFT, f"{_key(command)} is not as added: {'; '.join(drifts)}")


def gc(kind: str, command: Command, engine: Engine) -> None:
    valid = {f"{container}/{ifname}" for container, ifname in command.valid_attachments}
    net = engine.store.by_name(NetworkRecord, command.name)
    failed: list[str] = []
    for ep in engine.endpoints(network=net.id) if net else ():
        if ep.wanted.attachment and ep.wanted.attachment not in valid:
            try:
                engine.leave(ep)
            except NetkitError as error:
                failed.append(str(error))
    _forget_idle(command.name, engine)
    if failed:
        raise CniError(REFUSED, "; ".join(failed), "what resisted is tried again by the next GC")


def status(kind: str, command: Command, engine: Engine) -> None:
    conf = _conf(command)
    with engine.looking():
        net = engine.store.by_name(NetworkRecord, command.name)
        for pool, usage in engine.usage(net) if net else ():
            if not usage.available:
                raise CniError(
                    Code.NOT_AVAILABLE,
                    f"no free address in {pool.subnet} ({usage.in_use} in use)",
                    "`netkit gc` frees those of the dead",
                )
    conf.network(command.name)


VERBS: Mapping[str, Callable[[str, Command, Engine], Json | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": gc,
    "STATUS": status,
}


def _conf(command: Command) -> Conf:
    if command.ipam:
        raise CniError(
            Code.INVALID_CONFIG,
            f"type {command.conf['type']} hands out addresses itself: it takes no ipam",
            'write "subnets": ["10.88.0.0/16"], or use type bridge',
        )
    return options(command.conf, Conf)


def _key(command: Command) -> str:
    return f"{command.container_id}/{command.ifname}"


def _wanted(command: Command) -> list[str]:
    return [text.partition("/")[0] for text in command.wanted_ips()]


def _ports(command: Command, conf: Conf, engine: Engine) -> tuple[PortSpec, ...]:
    """Those asked for, but for what nothing leads to, and what another network of the container
    leads to: podman asks for all of them on each.
    """
    wanted = [port.spec() for port in conf.runtime_config.port_mappings]
    net = engine.store.by_name(NetworkRecord, command.name) if wanted else None
    if net.internal if net else conf.internal:
        return ()
    sandbox = engine.store.by_name(SandboxRecord, command.container_id) if wanted else None
    others = engine.endpoints(sandbox=sandbox.id) if sandbox else ()
    taken = {port for ep in others if ep.wanted.attachment for port in ep.wanted.ports}
    return tuple(port for port in wanted if port not in taken)


def _aliases(command: Command, conf: Conf, engine: Engine) -> tuple[str, ...]:
    """What it is called beside its id, where names resolve: by podman, in K8S_POD_NAME, too."""
    net = engine.store.by_name(NetworkRecord, command.name)
    if not (net.names if net else conf.names):
        return ()
    name = command.arguments(*ARGUMENTS, "K8S_POD_NAME").get("K8S_POD_NAME", "")
    own = [name] if names.may_be_called(name) else []
    return tuple(dict.fromkeys([*own, *conf.runtime_config.aliases.get(command.name, ())]))


def _connect(
    command: Command, conf: Conf, request: Request, engine: Engine
) -> tuple[NetworkRecord, EndpointRecord]:
    """The endpoint, on a network that is made for it if there is none; one made in vain goes."""
    spec = conf.network(command.name)
    identity(command)
    for _ in range(_TRIES):
        made = engine.store.by_name(NetworkRecord, command.name) is None
        try:
            if made:
                engine.create_network(spec)
        except Conflict:
            if engine.store.by_name(NetworkRecord, command.name) is None:
                raise
            made = False  # somebody else was the first
        try:
            ep = engine.connect(
                command.name, f"netns:{command.netns}", request, name=command.container_id
            )
            return engine.store.get(NetworkRecord, ep.network), ep
        except BaseException as error:
            gone = engine.store.by_name(NetworkRecord, command.name) is None
            if isinstance(error, NotFound) and gone:
                continue  # the last to leave took it along just now
            if made:
                _forget_idle(command.name, engine)
            raise
    raise CniError(Code.TRY_AGAIN_LATER, f"network {command.name!r} came and went {_TRIES} times")


def _forget_idle(network: str, engine: Engine) -> None:
    """Remove a network that an ADD made, with the last that used it."""
    net = engine.store.by_name(NetworkRecord, network)
    if net is not None and _MADE in net.labels and not engine.endpoints(network=net.id):
        with suppress(Conflict, NotFound):  # somebody came, or was quicker
            engine.delete_network(net.id)


def _endpoints(command: Command, engine: Engine) -> list[EndpointRecord]:
    engine.recover()
    net = engine.store.by_name(NetworkRecord, command.name)
    sandbox = engine.store.by_name(SandboxRecord, command.container_id)
    if net is None or sandbox is None:
        return []
    return [
        ep
        for ep in engine.endpoints(sandbox=sandbox.id)
        if ep.network == net.id and ep.wanted.attachment == _key(command)
    ]


def _result(command: Command, conf: Conf, net: NetworkRecord, ep: EndpointRecord) -> Result:
    bridge = [Interface(net.bridge, net.mac, mtu=net.mtu)] if net.bridge else []
    host = [Interface(ep.host_ifname, ep.host_mac, mtu=net.mtu)] if ep.host_ifname else []
    inside = Interface(ep.ifname, ep.mac, command.netns, mtu=net.mtu)
    interfaces = (*bridge, *host, inside)
    ips = tuple(
        IP(str(own), str(ep.gateway(own.version) or ""), len(interfaces) - 1)
        for own in ep.addresses
    )
    routes = tuple(Route(_ANYWHERE[v], str(ep.gateway(v))) for v in ep.leads_out)
    dns = conf.dns
    servers = map(str, servers_of(net)) if net.names else dns.nameservers
    said = Dns(tuple(servers), dns.domain, tuple(dns.search), tuple(dns.options))
    return Result(ips, routes, said, interfaces)
