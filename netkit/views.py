"""What inspect, ls and ps show: records as plain data, in Docker's shapes and under its names.

Shapes   dicts, lists, str, int, bool only: ready for JSON and for `--format`
Source   docker inspect, docker network inspect, docker ps --format json
"""

from __future__ import annotations

import time
from typing import Any

from netkit import containers, gateway
from netkit.engine import Engine
from netkit.errors import NetkitError
from netkit.kernel import netns
from netkit.model import EndpointRecord, NetworkRecord, PortMapping, SandboxRecord

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
        "IPv4": str(net.subnet is not None).lower(),
        "IPv6": "false",
        "Labels": ",".join(f"{key}={value}" for key, value in net.labels.items()),
        "CreatedAt": _time(net.created),
    }


def network(engine: Engine, net: NetworkRecord) -> View:
    """`network inspect`."""
    config: dict[str, Any] = {}
    status: dict[str, Any] = {}
    if net.subnet is not None:
        config = {"Subnet": str(net.subnet), "Gateway": str(net.gateway)}
        if net.ip_range is not None:
            config["IPRange"] = str(net.ip_range)
        if net.reserved:
            config["AuxiliaryAddresses"] = {name: str(ip) for name, ip in net.reserved.items()}
        usage = engine.usage(net)
        assert usage is not None
        # Docker counts what cannot be handed out as in use: network, broadcast, gateway, reserved
        held = {net.gateway, *net.reserved.values()}
        if net.subnet.prefixlen < 31:
            held |= {net.subnet.network_address, net.subnet.broadcast_address}
        in_use = usage.in_use + len(held)
        counts = {"IPsInUse": in_use, "DynamicIPsAvailable": usage.available}
        status = {"IPAM": {"Subnets": {str(net.subnet): counts}}}
    members = {}
    for ep in engine.endpoints(network=net.id):
        sandbox = engine.store.by_id(SandboxRecord, ep.sandbox)
        members[ep.sandbox] = {
            "Name": sandbox.name if sandbox else "",
            "EndpointID": ep.id,
            "MacAddress": ep.mac,
            "IPv4Address": str(ep.address or ""),
            "IPv6Address": "",
        }
    return {
        "Name": net.name,
        "Id": net.id,
        "Created": _time(net.created),
        "Scope": "local",
        "Driver": "null" if net.driver == "none" else net.driver,
        "EnableIPv4": net.subnet is not None,
        "EnableIPv6": False,
        "IPAM": {"Driver": "default", "Options": {}, "Config": [config] if config else []},
        "Internal": net.internal,
        "Attachable": False,
        "Ingress": False,
        "Containers": members,
        "Options": net.options,
        "Labels": net.labels,
        "Status": status,
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
    networks = {engine.network(ep.network).name: _endpoint(ep) for ep in endpoints}
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
        "HostConfig": {
            "NetworkMode": next(iter(networks), "none"),
            "AutoRemove": sandbox.auto_remove,
            "Dns": list(files.servers),
            "DnsOptions": list(files.options),
            "DnsSearch": list(files.search),
            "ExtraHosts": list(files.extra_hosts),
        },
        "Config": {
            "Hostname": files.hostname or "",
            "Domainname": files.domainname or "",
            "Cmd": list(sandbox.command),
            "Labels": sandbox.labels,
        },
        "NetworkSettings": {
            "SandboxKey": sandbox.netns or "",
            "Ports": ports(endpoints),
            **_address(first),
            "EndpointID": first.id if first else "",
            "Networks": networks,
        },
    }


def ports(endpoints: list[EndpointRecord]) -> View:
    """Docker's map from "80/tcp" to where it is published."""
    found: dict[str, list[dict[str, str]]] = {}
    for ep in endpoints:
        for mapping in ep.ports:
            for inside, outside in mapping:
                where = {"HostIp": mapping.host_text, "HostPort": str(outside)}
                found.setdefault(f"{inside}/{mapping.protocol}", []).append(where)
    return found


def veths(engine: Engine, sandbox: SandboxRecord) -> list[View]:
    """Which interface of the host belongs to which of the sandbox's."""
    from netkit.kernel.netlink import Netlink

    rows = []
    with Netlink() as host:
        for ep in engine.endpoints(sandbox=sandbox.id):
            link = host.link(ep.host_ifname) if ep.host_ifname else None
            rows.append(
                {
                    "Container": sandbox.name,
                    "Interface": ep.ifname,
                    "HostInterface": ep.host_ifname,
                    "HostIndex": link.ifindex if link else 0,
                    "PeerIndex": (link.peer_index or 0) if link else 0,
                    "Network": engine.network(ep.network).name,
                    "MacAddress": ep.mac,
                    "IPAddress": str(ep.address.ip) if ep.address else "",
                }
            )
    return rows


def published(endpoints: list[EndpointRecord], port: int, protocol: str) -> list[str]:
    """Where a container's port is published, as host:port."""
    return [
        f"{mapping.host_text}:{outside}"
        for mapping in _mappings(endpoints)
        for inside, outside in mapping
        if (inside, mapping.protocol) == (port, protocol)
    ]


def _mappings(endpoints: list[EndpointRecord]) -> list[PortMapping]:
    return [mapping for ep in endpoints for mapping in ep.ports]


def _endpoint(ep: EndpointRecord) -> View:
    return {
        **_address(ep),
        "NetworkID": ep.network,
        "EndpointID": ep.id,
        "GwPriority": ep.gateway_priority,
        "InterfaceName": ep.ifname,
        "HostInterfaceName": ep.host_ifname,
        # without an address the port is held to its MAC only
        "SpoofGuard": "mac" if ep.address is None else "mac,ip,arp",
    }


def _address(ep: EndpointRecord | None) -> View:
    if ep is not None and ep.ifname == "host":
        return {"Gateway": "", "IPAddress": _host_address(), "IPPrefixLen": 0, "MacAddress": ""}
    return {
        "Gateway": str(ep.gateway or "") if ep else "",
        "IPAddress": str(ep.address.ip) if ep and ep.address else "",
        "IPPrefixLen": ep.address.network.prefixlen if ep and ep.address else 0,
        "MacAddress": ep.mac if ep else "",
    }


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
        return "running" if _reachable(sandbox) else "dead"
    return "running" if containers.is_running(sandbox) else "dead"


def _reachable(sandbox: SandboxRecord) -> bool:
    try:
        netns.identity(sandbox.netns or "")
    except NetkitError:
        return False
    return True


def _status(sandbox: SandboxRecord) -> str:
    state = _state(sandbox)
    if state == "exited":
        assert sandbox.finished is not None
        return f"Exited ({sandbox.exit_code}) {_ago(sandbox.finished)} ago"
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
