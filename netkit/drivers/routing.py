"""The host as a router: what drivers have in common whose endpoints are reached through it.

Shapes   plans and rules, to be put into a driver's own
Source   Docker: what is published, masqueraded or routed, by gateway mode
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Address

from netkit import addresses
from netkit.drivers import access
from netkit.firewall import Allow, Isolate, Masquerade, Publish, Rule
from netkit.kernel.sysctl import key
from netkit.model import EndpointRecord, NetworkRecord
from netkit.steps import (
    Forwarding,
    NoTransit,
    Plan,
    Proxy,
    Ready,
    Route,
    RuleFrom,
    Step,
    Sysctl,
    Tables,
)

_TABLES = 1 << 16  # routing tables of our own begin above those that people number by hand


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    """The firewall's tables, and forwarding of the network's IP versions."""
    plans: dict[str, Plan] = {"tables": (Tables(),)}
    if net.ip_forward and not net.internal:
        for version in net.versions:
            closed: Plan = () if net.transit else (NoTransit(version=version),)
            plans[f"forwarding of IPv{version}"] = (*closed, Forwarding(version=version))
    return plans


def own_addresses(net: NetworkRecord) -> list[addresses.Interface]:
    """The gateways' addresses, where the host is to have them."""
    return [ip for ip in net.gateways if net.mode(ip.version) != "isolated"]


def edge(net: NetworkRecord, link: str, subnets: Sequence[addresses.Network]) -> list[Rule]:
    """What passes between the network behind *link* and all others, and under which address."""
    routed = tuple(v for v in net.versions if net.mode(v) == "routed")
    unprotected = tuple(v for v in net.versions if net.mode(v) == "nat-unprotected")
    rules: list[Rule] = [
        Isolate(link, tuple(subnets), net.internal, net.icc, unprotected, routed),
    ]
    if not net.internal:
        for version in net.versions:
            source = net.source(version)
            if version not in routed and (net.masquerade or source):
                rules.append(Masquerade(link, version, source))
    return [*rules, *access.of_link(net, link, [own.ip for own in own_addresses(net)])]


def published(net: NetworkRecord, ep: EndpointRecord) -> list[Rule]:
    """What leads to an endpoint's published ports."""
    rules: list[Rule] = []
    for p in ep.ports:
        if p.by == "proxy":
            continue
        address = ep.target(p)
        if net.mode(address.version) == "routed":
            rules.append(Allow(address.ip, p.port, p.protocol, p.count))
            continue
        where = None if p.host_address.is_unspecified else p.host_address
        rules.append(Publish(where, p.host_port, address.ip, p.port, p.protocol, p.count, p.device))
    return rules


def proxy(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    """The process that serves what `published` does not."""
    ports = []
    for p in ep.ports:
        if p.by != "nat":
            address = IPv6Address("::1") if p.by == "both" else p.host_address
            where = addresses.bracketed(address) + (f"%{p.device}" if p.device else "")
            last = f"-{p.host_port + p.count - 1}" if p.count > 1 else ""
            target = addresses.bracketed(ep.target(p).ip)
            ports.append(f"{p.protocol}/{where}:{p.host_port}{last}={target}:{p.port}")
    return (Proxy(lock=ep.proxy, dev=ep.host_ifname, ports=tuple(ports)),) if ports else ()


def answers(net: NetworkRecord, ep: EndpointRecord, on_link: Sequence[addresses.Network]) -> Plan:
    """What answers at a published port goes back by this network, whichever has the default route.

    Elsewhere it would leave with an address that is not that network's, and the guard drops it.
    *on_link* is what the endpoint reaches without the gateway.
    """
    versions = addresses.versions(p.host_address for p in ep.ports)
    return by_source(net, ep, on_link, [ip for v in versions if (ip := ep.address(v))])


def by_source(
    net: NetworkRecord,
    ep: EndpointRecord,
    on_link: Sequence[addresses.Network],
    senders: Sequence[addresses.Interface],
) -> Plan:
    """What these addresses send leaves by this network, whichever has the default route."""
    assert ep.netns is not None
    plan: list[Step] = []
    answering = addresses.versions(p.host_address for p in ep.ports)
    for version in addresses.versions(senders):
        # the host translated what is answered, so it has to see the answer
        own = None if version in answering else ep.gateway(version)
        gateway = own or net.router(version)
        plan += [
            Route(dev=ep.ifname, table=table_of(ep), at=ep.netns, dst=near)
            for near in dict.fromkeys(on_link)
            if near.version == version
        ]
        if gateway is not None:
            plan.append(Route(dev=ep.ifname, table=table_of(ep), at=ep.netns, gateway=gateway))
        plan += [
            RuleFrom(address=sender.ip, table=table_of(ep), at=ep.netns)
            for sender in senders
            if sender.version == version
        ]
    return tuple(plan)


def table_of(ep: EndpointRecord) -> int:
    """The routing table of an endpoint, in its namespace."""
    from zlib import crc32

    return _TABLES + crc32(ep.ifname.encode()) % _TABLES


def ipv6(versions: Sequence[int], dev: str, at: str | None = None) -> Plan:
    """IPv6 on an interface: off, or on but deaf to whoever claims to be a router."""
    if 6 not in versions:
        return (no_ipv6(dev, at),)
    # nobody else can have our addresses; and while that is being found out nothing is forwarded,
    # because a router asks for its neighbours from its link-local address
    wanted = {"disable_ipv6": "0", "accept_ra": "0", "accept_dad": "0"}
    return tuple(
        Sysctl(key=key("net.ipv6.conf", dev, name), value=value, dev=dev, at=at)
        for name, value in wanted.items()
    )


def spoken(net: NetworkRecord, ep: EndpointRecord) -> tuple[int, ...]:
    """The IP versions of an endpoint: its network's, else its own; none where nobody knows."""
    return net.versions or addresses.versions(ep.addresses)


def no_ipv6(dev: str, at: str | None = None) -> Sysctl:
    return Sysctl(key=key("net.ipv6.conf", dev, "disable_ipv6"), value="1", dev=dev, at=at)


def ready(dev: str, own: Sequence[addresses.Interface], at: str | None = None) -> Ready:
    """What waits until an interface with these addresses is of use."""
    sixes = tuple(each.ip for each in own if each.version == 6)
    return Ready(dev=dev, at=at, addresses=sixes)


def alias(owner: str) -> str:
    """Whose a link is, for whoever lists them."""
    return f"netkit:{owner[:12]}"
