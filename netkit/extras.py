"""What an endpoint may have beside what its driver plans: more addresses, routes, rules, settings.

Shapes   pure: steps for a plan, of what is on record of an endpoint; whichever its driver, it ends
         in an interface of a sandbox. What goes with an address, a route or a rule that is added
         later is the same as if it had been asked for at once
Errors   InvalidSpec, Conflict before any effect
Source   Docker: --link-local-ip, endpoint sysctls; podman: --route; CNI: sbr and tuning plugins

An address is let through by the guard (Admit) before the interface has it, and announced after.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

from msgspec.structs import replace

from netkit import addresses, drivers, steps, sysctls
from netkit.addresses import Address, Interface, Network
from netkit.drivers import access, routing
from netkit.errors import Conflict, InvalidSpec
from netkit.firewall import (
    Admit,
    Confine,
    Egress,
    Guard,
    HostPort,
    Outgoing,
    Rule,
    Source,
)
from netkit.kernel import Kernel
from netkit.kernel.sysctl import key
from netkit.model import EndpointRecord, NetworkRecord
from netkit.routes import RouteSpec, RuleSpec
from netkit.specs import Request
from netkit.steps import Plan, Step

IPV6_LEAST_MTU = 1280  # RFC 8200: below it the kernel switches IPv6 off
_RULE_PRIORITY = 32000  # before the main table's 32766


# -- what was asked for at once


def plan(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    """All of it, to be added after the driver's plan."""
    wanted = ep.wanted
    found: list[Step] = []
    tuned = {word: getattr(wanted, word) for word in ("mtu", "txqlen", "promisc", "allmulti")}
    if any(value is not None for value in tuned.values()):
        found.append(steps.Tune(dev=ep.ifname, at=_at(ep), **tuned))
    for path, value in sysctls.named(wanted.sysctls, ep.ifname).items():
        found.append(steps.Sysctl(key=path, value=value, dev=ep.ifname, at=_at(ep), needed=True))
    found += promotion(ep)
    for own in ep.addresses:
        found += _outgoing(ep, own.ip)
    for extra in wanted.extra:
        found += address(net, ep, extra)
    for spec in (*net.routes, *wanted.routes):
        found += route(net, ep, spec)
    if wanted.source_routing:
        found += routing.by_source(net, ep, _on_link(net, ep), ep.every_address)
    found += [rule(ep, spec) for spec in wanted.rules]
    return tuple(found)


def combined(driver: Plan, own: Plan) -> Plan:
    """Both plans, where one says what the other does: a setting that was asked for comes last."""
    asked = {(step.key, step.at) for step in own if isinstance(step, steps.Sysctl)}
    found = [
        step
        for step in driver
        if not (isinstance(step, steps.Sysctl) and (step.key, step.at) in asked)
    ]
    for step in own:
        if step not in found:
            found.append(step)
    return tuple(found)


# -- one thing


def address(net: NetworkRecord, ep: EndpointRecord, new: Interface) -> Plan:
    """An address beside those the driver planned with."""
    traits = drivers.load(net.driver).TRAITS
    found: list[Step] = []
    if guard := _admit(net, ep, (new.ip,)):
        found.append(steps.Rules(rules=(guard, *access.of_address(net, ep, new.ip))))
    if traits.routed:
        alone = ip_network(str(new.ip))
        found.append(steps.Route(dev=ep.host_ifname, dst=alone))
    found.append(steps.Address(dev=ep.ifname, address=new, at=_at(ep)))
    if ep.mac and not traits.routed:
        found.append(steps.Announce(dev=ep.ifname, at=_at(ep), mac=ep.mac, addresses=(new.ip,)))
    found += _outgoing(ep, new.ip)
    if ep.wanted.source_routing:
        table = routing.table_of(ep)
        found.append(steps.RuleFrom(address=new.ip, table=table, at=_at(ep)))
    return tuple(found)


def promotion(ep: EndpointRecord, *, there: bool = False) -> Plan:
    """Where a subnet's second IPv4 address would go with the first one: it shall not."""
    fours = [own.network for own in ep.every_address if own.version == 4]
    if len(set(fours)) == len(fours):
        return ()
    path = key("net.ipv4.conf", ep.ifname, "promote_secondaries")
    return (steps.Sysctl(key=path, value="1", dev=ep.ifname, at=_at(ep), there=there),)


def _admit(net: NetworkRecord, ep: EndpointRecord, ips: tuple[Address, ...]) -> Admit | None:
    traits = drivers.load(net.driver).TRAITS
    if traits.bridge:
        return Admit(ep.host_ifname, ep.mac, ips)
    return Admit(ep.host_ifname, None, ips) if traits.routed else None


def _outgoing(ep: EndpointRecord, ip: Address) -> Plan:
    rules = tuple(Outgoing(ip, seen) for seen in ep.wanted.sources if seen.version == ip.version)
    return (steps.Rules(rules=rules),) if rules else ()


def _on_link(net: NetworkRecord, ep: EndpointRecord) -> list[Network]:
    """What the endpoint reaches without a gateway."""
    near = [own.network for own in ep.every_address]
    if drivers.load(net.driver).TRAITS.routed:
        near = [ip_network(str(ip.ip)) for ip in routing.own_addresses(net)]
    return near


def route(net: NetworkRecord, ep: EndpointRecord, spec: RouteSpec) -> Plan:
    """A route, in the main table and, where what it sends has a table of its own, in that too.

    One that is the endpoint's default route is netkit.gateway's.
    """
    version = spec.dst.version
    if version not in net.versions and version not in addresses.versions(ep.every_address):
        return ()  # a network's route of a version this endpoint does not speak
    if spec.is_way_out or any(own.ip == spec.gateway for own in ep.every_address):
        return ()  # of a network's route it may be the gateway itself
    gateway = spec.gateway
    if gateway is None and spec.type == "unicast" and not spec.link:
        gateway = net.router(version)
    main = steps.Route(
        dev=ep.ifname if spec.type == "unicast" else None,
        table=spec.table,
        at=_at(ep),
        dst=None if spec.is_default and gateway else spec.dst,
        gateway=gateway,
        kind=spec.type,
        metric=spec.metric,
        mtu=spec.mtu,
        advmss=spec.advmss,
        source=spec.source,
        onlink=spec.onlink,
    )
    if not ep.wanted.source_routing or spec.table is not None:
        return (main,)
    return (main, replace(main, table=routing.table_of(ep)))


def rule(ep: EndpointRecord, spec: RuleSpec) -> steps.Policy:
    return steps.Policy(
        table=spec.table,
        at=_at(ep),
        source=spec.source,
        to=spec.to,
        iif=_named(ep, spec.iif),
        oif=_named(ep, spec.oif),
        mark=spec.mark,
        mask=spec.mask,
        priority=_RULE_PRIORITY if spec.priority is None else spec.priority,
        version=spec.version,
    )


def _named(ep: EndpointRecord, ifname: str | None) -> str | None:
    return ep.ifname if ifname == sysctls.IFNAME else ifname


# -- taking an address away


def without(ep: EndpointRecord, ip: Address) -> tuple[Plan, Plan]:
    """The endpoint's plan without an address, and what is to be deleted for it to be so."""
    kept: list[Step] = []
    gone: list[Step] = []
    for step in steps.decode(ep.steps):
        match step:
            case steps.Rules(rules=rules):
                left, leaving = _split(rules, ip)
                if left:
                    kept.append(steps.Rules(rules=left))
                if leaving:
                    gone.append(steps.Rules(rules=leaving))
            case steps.Announce(addresses=told):
                if rest := tuple(each for each in told if each != ip):
                    kept.append(replace(step, addresses=rest))
            case (
                steps.Address(address=found)
                | steps.RuleFrom(address=found)
                | steps.HostsEntry(address=found)
            ) if _is(found, ip):
                gone.append(step)
            case steps.Route(at=None, dst=to) if to is not None and to == ip_network(str(ip)):
                gone.append(step)
            case _:
                kept.append(step)
    return _absorbed(kept), tuple(gone)


def _absorbed(plan: Sequence[Step]) -> Plan:
    """A guard without addresses would let all of them pass: what was admitted later is its own."""
    every = [each for step in plan if isinstance(step, steps.Rules) for each in step.rules]
    if all(each.addresses for each in every if isinstance(each, Guard | Source)):
        return tuple(plan)
    own = tuple(ip for each in every if isinstance(each, Admit) for ip in each.addresses)
    found: list[Step] = []
    for step in plan:
        if isinstance(step, steps.Rules):
            rules = tuple(
                replace(each, addresses=own) if isinstance(each, Guard | Source) else each
                for each in step.rules
                if not isinstance(each, Admit)
            )
            found += [replace(step, rules=rules)] if rules else []
        else:
            found.append(step)
    return tuple(found)


def _split(rules: Sequence[Rule], ip: Address) -> tuple[tuple[Rule, ...], tuple[Rule, ...]]:
    kept: list[Rule] = []
    gone: list[Rule] = []
    for each in rules:
        match each:
            case Guard(port, mac, own) if ip in own:
                kept.append(replace(each, addresses=tuple(a for a in own if a != ip)))
                gone.append(Admit(port, mac, (ip,)))
            case Source(link, own) if ip in own:
                kept.append(replace(each, addresses=tuple(a for a in own if a != ip)))
                gone.append(Admit(link, None, (ip,)))
            case Admit(_, _, own) if own == (ip,):
                gone.append(each)
            case (
                Outgoing(address=address)
                | Confine(address=address)
                | Egress(address=address)
                | HostPort(address=address)
            ) if address == ip:
                gone.append(each)
            case _:
                kept.append(each)
    return tuple(kept), tuple(gone)


def _is(found: Any, ip: Address) -> bool:
    """Whether an address, with or without a length, is this."""
    return found is not None and str(found).partition("/")[0] == str(ip)


# -- what cannot be


def refuse(
    net: NetworkRecord,
    ep: EndpointRecord,
    here: Callable[[], Iterable[EndpointRecord]],
    kernel: Kernel,
) -> None:
    """Refuse what was asked for and cannot be; *here* tells the network's other endpoints."""
    wanted = ep.wanted
    for each in wanted.extra:
        refuse_address(net, ep, each, here())
    if wanted.sources:
        _refuse_sources(net, wanted, {ip.ip for _, ip in kernel.netlink().addresses()})
    refuse_mtu(net, ep)
    _refuse_sysctls(wanted.sysctls, ep, kernel)
    for spec in wanted.routes:
        refuse_route(net, ep, spec)


def refuse_address(
    net: NetworkRecord, ep: EndpointRecord, new: Interface, here: Iterable[EndpointRecord]
) -> None:
    """Refuse an address that is of no subnet of the network's, if nobody can have it here."""
    if new.version == 6 and net.pools and 6 not in net.versions:
        raise InvalidSpec(
            f"cannot have {new.ip} on network '{net.name}': it has no IPv6",
            hint="create it with --ipv6",
        )
    if new.ip.is_multicast or new.ip.is_unspecified or new.ip.is_loopback or _is_edge(new):
        raise InvalidSpec(
            f"invalid address {new}: no interface can have it", hint="such as 169.254.7.7/16"
        )
    if any(new.ip in subnet for subnet in net.subnets):
        raise InvalidSpec(
            f"{new.ip} is of network '{net.name}', which leases its addresses",
            hint=f"ask for it with --ip {new.ip}",
        )
    others = {own.ip for other in here if other.id != ep.id for own in other.wanted.extra}
    if new.ip in others or any(gateway.ip == new.ip for gateway in net.gateways):
        raise Conflict(f"{new.ip} is in use on network '{net.name}'", hint="choose another address")


def _is_edge(new: Interface) -> bool:
    net = new.network
    if new.version == 6 or net.num_addresses <= 2:
        return False
    return new.ip in (net.network_address, net.broadcast_address)


def _refuse_sources(net: NetworkRecord, wanted: Request, host: set[Address]) -> None:
    for source in wanted.sources:
        if not drivers.load(net.driver).TRAITS.publishes or net.internal:
            why = "it is internal" if net.internal else f"driver {net.driver} goes past the host"
            raise InvalidSpec(
                f"cannot be seen as {source} on network '{net.name}': {why}",
                hint="leave out --source-ip",
            )
        if source not in host:
            raise InvalidSpec(
                f"cannot be seen as {source}: the host does not have that address",
                hint="`ip addr` lists the host's addresses",
            )
        if source.version not in net.versions:
            raise InvalidSpec(
                f"cannot be seen as {source}: network '{net.name}' has no IPv{source.version}",
                hint="create it with --ipv6" if source.version == 6 else "leave it out",
            )


def _refuse_sysctls(given: Mapping[str, str], ep: EndpointRecord, kernel: Kernel) -> None:
    for path in sysctls.named(given, ep.ifname):
        path = sysctls.of(path, "lo")  # what that has, every interface has
        if kernel.sysctl(path) is None:
            leaf = path.rpartition("/")[2]
            raise InvalidSpec(
                f"cannot set the sysctl {leaf!r:.80} of {ep.ifname}: this kernel has none such",
                hint="`sysctl -a` lists them",
            )


def refuse_mtu(net: NetworkRecord, ep: EndpointRecord) -> None:
    """Refuse an MTU of its own that is more than its network's, or too little for IPv6."""
    mtu = ep.wanted.mtu
    if mtu is None:
        return
    if net.mtu and mtu > net.mtu:
        raise InvalidSpec(
            f"cannot have an MTU of {mtu} on network '{net.name}', which has {net.mtu}",
            hint=f"give one of at most {net.mtu}, or create the network with --mtu {mtu}",
        )
    if mtu < IPV6_LEAST_MTU and 6 in addresses.versions(ep.every_address):
        raise InvalidSpec(
            f"cannot have an MTU of {mtu} with IPv6: that needs {IPV6_LEAST_MTU} at least",
            hint="give a larger one, or a network without IPv6",
        )


def refuse_route(net: NetworkRecord, ep: EndpointRecord, spec: RouteSpec) -> None:
    """Refuse a route whose gateway is out of reach."""
    version = spec.dst.version
    if spec.type != "unicast":
        return
    if version not in addresses.versions(ep.every_address):
        raise InvalidSpec(
            f"cannot have the route '{spec}': {ep.ifname} has no IPv{version} address",
            hint="create the network with --ipv6" if version == 6 else "give it one",
        )
    if spec.gateway is None:
        if not spec.link and net.router(version) is None:
            raise InvalidSpec(
                f"cannot have the route '{spec}': network '{net.name}' has no IPv{version} gateway",
                hint="say `via ADDRESS`, or `dev` if it is reached without a gateway",
            )
        return
    near = [*_on_link(net, ep), *(extra.network for extra in ep.wanted.extra)]
    if spec.onlink or spec.gateway.is_link_local or any(spec.gateway in each for each in near):
        return
    raise InvalidSpec(
        f"cannot have the route '{spec}': {spec.gateway} is not on network '{net.name}' "
        f"({', '.join(map(str, dict.fromkeys(near)))})",
        hint="a gateway is a neighbour; if it is one all the same, add `onlink`",
    )


def _at(ep: EndpointRecord) -> str:
    assert ep.netns is not None
    return ep.netns
