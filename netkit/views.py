"""What inspect, ls and ps show: records as plain data, in Docker's shapes and under its names.

Shapes   dicts, lists, str, int, bool only: ready for JSON and for `--format`
Source   docker inspect, docker network inspect, docker ps --format json
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from netkit import (
    access,
    containers,
    drivers,
    gateway,
    namefiles,
    names,
    policies,
    sysctls,
    targets,
)
from netkit.addresses import Interface, bracketed, spans
from netkit.engine import Engine
from netkit.errors import NetkitError
from netkit.kernel import netns
from netkit.model import (
    EndpointRecord,
    HostRecord,
    LinkRecord,
    NetworkRecord,
    SandboxRecord,
    Subnet,
)
from netkit.portspec import PortMapping

if TYPE_CHECKING:
    import ipam

View = dict[str, Any]


# -- networks


def network_row(net: NetworkRecord) -> View:
    """A line of `network ls`."""
    return {
        "ID": net.short_id,
        "Name": net.name,
        "Driver": "null" if net.driver == "none" else net.driver,
        "Scope": "local",
        "Internal": str(net.internal).lower(),
        "IPv4": str(4 in net.versions).lower(),
        "IPv6": str(6 in net.versions).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in net.labels.items()),
        "CreatedAt": _time(net.created),
    }


def network(engine: Engine, net: NetworkRecord) -> View:
    """`network inspect`."""
    usages = engine.usage(net)
    counts = {str(pool.subnet): _usage(pool, usage) for pool, usage in usages}
    members = {}
    for ep in engine.endpoints(network=net.id):
        sandbox = engine.store.by_id(SandboxRecord, ep.sandbox)
        members[ep.sandbox] = {
            "Name": sandbox.name if sandbox else "",
            "EndpointID": ep.id,
            "MacAddress": ep.mac,
            "IPv4Address": str(ep.address(4) or ""),
            "IPv6Address": str(ep.address(6) or ""),
        }
    return {
        "Name": net.name,
        "Id": net.id,
        "Created": _time(net.created),
        "Scope": "local",
        "Driver": "null" if net.driver == "none" else net.driver,
        "EnableIPv4": 4 in net.versions,
        "EnableIPv6": 6 in net.versions,
        "IPAM": {
            "Driver": "null" if net.ipam == "none" else net.ipam,
            "Options": net.ipam_options,
            "Config": [_pool(pool) for pool in net.pools],
        },
        "Internal": net.internal,
        "DNSEnabled": net.names,
        "DNSServers": list(net.servers),
        "Policy": {
            "Open": net.icc,
            "HostAccess": net.host_access,
            "Allows": [str(said) for said in net.allows],
            "Egress": _egress(net.egress),
        },
        "Attachable": False,
        "Ingress": False,
        "Containers": members,
        "Options": net.options,
        "Labels": net.labels,
        "Status": {"IPAM": {"Subnets": counts}} if counts else {},
    }


def policy_rows(engine: Engine, net: NetworkRecord) -> list[View]:
    """Who may begin to talk to whom on a network, and why: the lines of `policy`."""
    here = (ep for ep in engine.endpoints(network=net.id) if ep.epoch == engine.changes.epoch)
    members = policies.members(engine.store, here)
    there = {access.ANYONE, access.HOST, *(member.name for member in members)}
    rows: list[View] = []

    def row(client: str, server: str, by: str, ports: str = "", *, there_too: bool = True) -> None:
        holds = "yes" if client in there and there_too else "no"
        ports = ports.lstrip(":") or "all"
        rows.append({"From": client, "To": server, "Ports": ports, "By": by, "InForce": holds})

    if net.icc:
        row(access.ANYONE, access.ANYONE, "open")
    for said in net.allows:
        vain = net.host_access if said.server == access.HOST else net.icc
        meant = not vain and said.server in there
        row(said.client, said.server, "allow", said.ports, there_too=meant)
    for member in members if not net.icc else ():
        for link in member.ep.wanted.links:
            offered = [span for m in members if m.name == link.target for span in m.offers]
            for span in offered:
                ports = access.Allowance(member.name, link.target, *span).ports
                row(member.name, link.target, "link", ports)
            if not offered:
                row(member.name, link.target, "link", "none", there_too=False)
    if net.host_access:
        row(access.ANYONE, access.HOST, "host access")
    if net.egress is None and not net.internal:
        row(access.ANYONE, "anywhere", "egress")
    lists = [(access.ANYONE, net.egress), *((each.name, each.ep.wanted.egress) for each in members)]
    for name, listed in lists:
        for rule in listed or ():
            row(name, rule.where, "egress", rule.ports)
        if listed == ():
            row(name, "nowhere", "egress")
    return rows


def _egress(listed: Sequence[access.EgressRule] | None) -> list[str] | None:
    return None if listed is None else [str(rule) for rule in listed]


def _pool(pool: Subnet) -> View:
    shown: View = {"Subnet": str(pool.subnet)}
    if pool.gateway is not None:
        shown["Gateway"] = str(pool.gateway)
    if pool.ranges:
        shown["IPRange"] = ",".join(spans(pool.ranges))
    if pool.reserved:
        shown["AuxiliaryAddresses"] = {name: str(ip) for name, ip in pool.reserved.items()}
    return shown


def _usage(pool: Subnet, usage: ipam.Usage) -> View:
    # Docker counts what cannot be handed out as in use: network, broadcast, gateway, reserved
    held = {pool.gateway, *pool.reserved.values()} - {None}
    subnet = pool.subnet
    if subnet.num_addresses > 2:
        held.add(subnet.network_address)
        if subnet.version == 4:
            held.add(subnet.broadcast_address)
    return {"IPsInUse": usage.in_use + len(held), "DynamicIPsAvailable": usage.available}


# -- links


def link_row(link: LinkRecord) -> View:
    """A line of `link ls`."""
    a, b = link.ends
    return {
        "ID": link.short_id,
        "Name": link.name,
        "A": str(a),
        "AddressA": ",".join(map(str, a.addresses)),
        "B": str(b),
        "AddressB": ",".join(map(str, b.addresses)),
        "MTU": str(link.mtu),
        "CreatedAt": _time(link.created),
    }


def link(found: LinkRecord) -> View:
    """`link inspect`."""
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": _time(found.created),
        "MTU": found.mtu,
        "Ends": [
            {
                "Container": end.container,
                "ContainerID": end.sandbox or "",
                "Host": end.sandbox is None,
                "SandboxKey": end.netns or "",
                "InterfaceName": end.ifname,
                "MacAddress": end.mac,
                "Addresses": [str(address) for address in end.addresses],
            }
            for end in found.ends
        ],
    }


# -- containers


def container_row(engine: Engine, sandbox: SandboxRecord) -> View:
    """A line of `ps`."""
    endpoints = engine.endpoints(sandbox=sandbox.id)
    return {
        "ID": sandbox.short_id,
        "Command": f'"{_shortened(" ".join(sandbox.command))}"' if sandbox.command else "",
        "CreatedAt": _time(sandbox.created),
        "RunningFor": f"{_ago(sandbox.created)} ago",
        "Status": _status(sandbox),
        "State": _state(sandbox),
        "Ports": ", ".join(str(port) for ep in endpoints for port in ep.ports),
        "Names": sandbox.name,
        "Networks": ",".join(engine.network(ep.network).name for ep in endpoints),
        "Labels": ",".join(f"{key}={value}" for key, value in sandbox.labels.items()),
    }


def container(engine: Engine, sandbox: SandboxRecord) -> View:
    """`inspect` of a container or namespace."""
    endpoints = engine.endpoints(sandbox=sandbox.id)
    joined = [(engine.network(ep.network), ep) for ep in endpoints]
    tables = engine.store.by_id(HostRecord, "tables")
    back_end = tables.firewall if tables else None
    networks = {net.name: _endpoint(net, ep, sandbox, back_end) for net, ep in joined}
    first = gateway.holder(engine.store, endpoints) or next(iter(endpoints), None)
    files = sandbox.files
    return {
        "Id": sandbox.id,
        "Created": _time(sandbox.created),
        "Path": sandbox.command[0] if sandbox.command else "",
        "Args": list(sandbox.command[1:]),
        "State": {
            "Status": _state(sandbox),
            "Running": containers.is_running(sandbox),
            "Pid": sandbox.pid if containers.is_running(sandbox) else 0,
            "ExitCode": sandbox.exit_code or 0,
            "FinishedAt": _time(sandbox.finished) if sandbox.finished else "",
        },
        "Name": f"/{sandbox.name}",
        "Kind": sandbox.sort,
        **_resolv_conf(sandbox),
        "HostConfig": {
            "NetworkMode": next(iter(networks), "none"),
            "AutoRemove": sandbox.auto_remove,
            "Dns": list(files.servers),
            "DnsOptions": list(files.options),
            "DnsSearch": list(files.search),
            "ExtraHosts": list(files.extra_hosts),
            "Sysctls": {sysctls.dotted(key): value for key, value in sandbox.sysctls.items()},
        },
        "Config": {
            "Hostname": files.hostname or "",
            "Domainname": files.domainname or "",
            "Cmd": list(sandbox.command),
            "ExposedPorts": {port: {} for port in sandbox.exposed},
            "Labels": sandbox.labels,
        },
        "NetworkSettings": {
            "SandboxKey": sandbox.netns or "",
            "Ports": ports(endpoints),
            **_address(first),
            "EndpointID": first.id if first else "",
            "Networks": networks,
            "Links": _links(engine, sandbox),
        },
    }


def _resolv_conf(sandbox: SandboxRecord) -> View:
    """Where it is, and whether somebody has edited it, so that netkit leaves it alone."""
    last = namefiles.written(sandbox)
    edited = last is not None and not namefiles.is_ours(last)
    return {"ResolvConfPath": last.path if last else "", "ResolvConfEdited": edited}


def _links(engine: Engine, sandbox: SandboxRecord) -> View:
    """A sandbox's own ends of its links, and where they lead."""
    found: View = {}
    for link in engine.links(sandbox=sandbox.id):
        for end in link.ends:
            if end.sandbox == sandbox.id:
                peer = link.peer(end)
                found[link.name] = {
                    "LinkID": link.id,
                    "InterfaceName": end.ifname,
                    "MacAddress": end.mac,
                    "Addresses": [str(address) for address in end.addresses],
                    "Peer": str(peer),
                    "PeerAddresses": [str(address) for address in peer.addresses],
                }
    return found


def ports(endpoints: list[EndpointRecord]) -> View:
    """Docker's map from "80/tcp" to where it is published."""
    found: dict[str, list[dict[str, str]]] = {}
    for ep in endpoints:
        for mapping in ep.ports:
            for inside, outside in mapping:
                where = {"HostIp": str(mapping.host_address), "HostPort": str(outside)}
                found.setdefault(f"{inside}/{mapping.protocol}", []).append(where)
    return found


def veths(engine: Engine, sandbox: SandboxRecord) -> list[View]:
    """Which interface of the host belongs to which of the sandbox's."""
    from netkit.kernel.netlink import Netlink

    rows = []
    with Netlink() as host:

        def row(outside: str, inside: str, network: str, mac: str, address: str) -> None:
            link = host.link(outside) if outside else None
            rows.append(
                {
                    "Container": sandbox.name,
                    "Interface": inside,
                    "HostInterface": outside,
                    "HostIndex": link.ifindex if link else 0,
                    "PeerIndex": (link.peer_index or 0) if link else 0,
                    "Network": network,
                    "MacAddress": mac,
                    "IPAddress": address,
                }
            )

        for ep in engine.endpoints(sandbox=sandbox.id):
            name = engine.network(ep.network).name
            row(ep.host_ifname, ep.ifname, name, ep.mac, _ip(ep.address()))
        for link in engine.links(sandbox=sandbox.id):
            for end in link.ends:
                if end.sandbox == sandbox.id and link.on_host:
                    first = next(iter(end.addresses), None)
                    row(link.peer(end).ifname, end.ifname, link.name, end.mac, _ip(first))
    return rows


def port_lines(mappings: Iterable[PortMapping]) -> list[str]:
    """As `docker port` shows ports: 80/tcp -> 0.0.0.0:8080."""
    return [
        f"{inside}/{mapping.protocol} -> {_where(mapping)}:{outside}"
        for mapping in mappings
        for inside, outside in mapping
    ]


def published(endpoints: list[EndpointRecord], port: int, protocol: str) -> list[str]:
    """Where a container's port is published, as host:port."""
    return [
        f"{_where(mapping)}:{outside}"
        for mapping in _mappings(endpoints)
        for inside, outside in mapping
        if (inside, mapping.protocol) == (port, protocol)
    ]


def _where(mapping: PortMapping) -> str:
    return mapping.device or bracketed(mapping.host_address)


def _mappings(endpoints: list[EndpointRecord]) -> list[PortMapping]:
    return [mapping for ep in endpoints for mapping in ep.ports]


def _endpoint(
    net: NetworkRecord, ep: EndpointRecord, sandbox: SandboxRecord, back_end: str | None
) -> View:
    return {
        **_address(ep),
        "Aliases": list(ep.wanted.aliases),
        "Links": list(map(str, ep.wanted.links)),
        "DNSNames": list(names.of(ep, net, sandbox)) if net.names else [],
        "NetworkID": ep.network,
        "EndpointID": ep.id,
        "GwPriority": ep.gateway_priority,
        "InterfaceName": ep.ifname,
        "HostInterfaceName": ep.host_ifname,
        "SpoofGuard": _guard(net, ep, back_end),
        "Egress": _egress(ep.wanted.egress),
        **_extras(ep),
    }


def _guard(net: NetworkRecord, ep: EndpointRecord, back_end: str | None) -> str:
    """What the firewall holds an interface to; nothing, if it is none of the host's."""
    if not ep.host_ifname or back_end == "none":
        return ""
    if drivers.load(net.driver).TRAITS.routed:
        return "ip"  # there is nobody on its link to whom MACs would matter
    if back_end == "iptables":  # it sees what the host receives, not what a bridge passes on
        return "ip" if ep.addresses else ""
    return "mac,ip,arp" if ep.addresses else "mac"


def _extras(ep: EndpointRecord) -> View:
    wanted = ep.wanted
    others = [own for own in ep.addresses if own not in (ep.address(4), ep.address(6))]
    local = [own for own in wanted.extra if own.is_link_local]
    return {
        "SecondaryIPAddresses": [_secondary(own) for own in others if own.version == 4],
        "SecondaryIPv6Addresses": [_secondary(own) for own in others if own.version == 6],
        "LinkLocalIPs": [str(own.ip) for own in local],
        "ExtraIPAddresses": [_secondary(own) for own in wanted.extra if own not in local],
        "Routes": [str(spec) for spec in wanted.routes],
        "Rules": [str(spec) for spec in wanted.rules],
        "NoDefaultRoute": not wanted.default_route,
        "SourceRouting": wanted.source_routing,
        "SourceIPs": list(map(str, wanted.sources)),
        "Sysctls": {sysctls.dotted(key): value for key, value in wanted.sysctls.items()},
        "MTU": wanted.mtu or 0,
        "TxQueueLen": wanted.txqlen or 0,
        "Promisc": bool(wanted.promisc),
        "AllMulti": bool(wanted.allmulti),
    }


def _secondary(own: Interface) -> View:
    return {"Addr": str(own.ip), "PrefixLen": own.network.prefixlen}


def address_rows(engine: Engine, sandbox: SandboxRecord) -> list[View]:
    """Lines of `address ls`."""
    return [
        {
            "Address": str(own),
            "Interface": ep.ifname,
            "Network": engine.network(ep.network).name,
            "Kind": "leased" if own in ep.addresses else "extra",
        }
        for ep in engine.endpoints(sandbox=sandbox.id)
        for own in ep.every_address
    ]


def route_rows(engine: Engine, sandbox: SandboxRecord) -> list[View]:
    """Lines of `route ls`: the default routes, then what was asked for of network or endpoint."""
    rows = []
    endpoints = engine.endpoints(sandbox=sandbox.id)
    for ep in endpoints:
        net = engine.network(ep.network)
        ways = [
            f"default via {ep.gateway(version)}"
            for version in ep.leads_out
            if gateway.holder(engine.store, endpoints, version) == ep
        ]
        own = [str(spec) for spec in ep.wanted.routes if not spec.is_way_out]
        every = [str(spec) for spec in net.routes if not spec.is_way_out]
        rows += [
            {"Route": text, "Interface": ep.ifname, "Network": net.name, "Kind": kind}
            for kind, texts in (("default", ways), ("network", every), ("endpoint", own))
            for text in texts
        ]
    return rows


def rule_rows(engine: Engine, sandbox: SandboxRecord) -> list[View]:
    """Lines of `rule ls`."""
    return [
        {
            "Rule": str(spec),
            "Interface": ep.ifname,
            "Network": engine.network(ep.network).name,
        }
        for ep in engine.endpoints(sandbox=sandbox.id)
        for spec in ep.wanted.rules
    ]


def _address(ep: EndpointRecord | None) -> View:
    if ep is not None and ep.ifname == "host":
        return {"Gateway": "", "IPAddress": _host_address(), "IPPrefixLen": 0, "MacAddress": ""}
    four, six = (ep.address(4), ep.address(6)) if ep else (None, None)
    return {
        "Gateway": str((ep and ep.gateway(4)) or ""),
        "IPAddress": _ip(four),
        "IPPrefixLen": four.network.prefixlen if four else 0,
        "IPv6Gateway": str((ep and ep.gateway(6)) or ""),
        "GlobalIPv6Address": _ip(six),
        "GlobalIPv6PrefixLen": six.network.prefixlen if six else 0,
        "MacAddress": ep.mac if ep else "",
    }


def _ip(interface: Interface | None) -> str:
    return str(interface.ip) if interface else ""


def _host_address() -> str:
    """The host's addresses, loopback left out: what a container on its network has."""
    from netkit.kernel.netlink import Netlink

    with Netlink() as host:
        found = [str(a.ip) for _, a in host.addresses() if a.version == 4 and not a.ip.is_loopback]
    return ",".join(found)


def _state(sandbox: SandboxRecord) -> str:
    if sandbox.finished is not None:
        return "exited"
    if sandbox.sort == "container" and sandbox.pid == 0:
        return "created"
    if sandbox.sort != "container":
        return "running" if _is_there(sandbox) else "dead"
    return "running" if containers.is_running(sandbox) else "dead"


def _is_there(sandbox: SandboxRecord) -> bool:
    try:
        netns.identity(sandbox.netns or "")
    except NetkitError:
        return False
    return targets.is_there(sandbox)


def _status(sandbox: SandboxRecord) -> str:
    state = _state(sandbox)
    if state == "exited":
        assert sandbox.finished is not None
        code = "" if sandbox.exit_code is None else f"({sandbox.exit_code}) "
        return f"Exited {code}{_ago(sandbox.finished)} ago"
    return {"running": f"Up {_ago(sandbox.created)}", "dead": "Dead"}.get(state, "Created")


def _ago(when: float) -> str:
    """Docker's words for a span: "Less than a second", "4 minutes", "About an hour"."""
    seconds = int(max(0.0, time.time() - when))
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if seconds == 1 else f"{seconds} seconds"
    minutes, hours = seconds // 60, (seconds + 1800) // 3600
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    for unit, length, limit in (("days", 1, 14), ("weeks", 7, 60), ("months", 30, 730)):
        if days < limit:
            return f"{days // length} {unit}"
    return f"{days // 365} years"


def _shortened(text: str, most: int = 20) -> str:
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= most else printable[: most - 1] + "…"


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else ""
