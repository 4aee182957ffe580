"""What changes of an endpoint while it lives: its addresses, routes and policy rules.

Shapes   an alteration is the record as it will be, and either the steps that lead there (`added`)
         or those that are to be deleted (`gone`); leases are taken in the caller's transaction
Errors   InvalidSpec, NotFound, Conflict, before any effect
Source   ip-address(8), ip-route(8), ip-rule(8), whose words these are; but on record: checked by
         `check`, undone by `disconnect`, finished or undone after a crash
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from typing import NamedTuple, TypeVar

from msgspec.structs import replace

from netkit import addresses, drivers, extras, gateway, naming, sandboxes, steps
from netkit.addresses import Address, Interface
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.routes import RouteSpec, RuleSpec
from netkit.steps import Plan
from netkit.store import SqliteStore

S = TypeVar("S", RouteSpec, RuleSpec)


class Alteration(NamedTuple):
    after: EndpointRecord | None  # None: it is its sandbox that changes
    added: Plan = ()
    gone: Plan | None = None  # None: it is added to
    leases: Mapping[str, str] = {}  # taken for it, or given back with it, by address
    sandbox: SandboxRecord | None = None  # its labels and name files as they will be


class NetworkAlteration(NamedTuple):
    """A network and those of its endpoints that change with it, as they will be, steps and all;
    and the steps that lead there, which deleted lead back.
    """

    after: NetworkRecord
    endpoints: tuple[EndpointRecord, ...] = ()
    added: Plan = ()


# what it will be, from what it is and its endpoints that live; in a transaction, so it refuses here
NetworkProposal = Callable[
    [Changes, NetworkRecord, Sequence[EndpointRecord], Kernel], NetworkAlteration
]


def propose(
    verb: str, changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str
) -> Alteration:
    """What `add address`, `remove route` … ask for."""
    proposers = {
        "add address": add_address,
        "remove address": remove_address,
        "add route": add_route,
        "remove route": remove_route,
        "add rule": add_rule,
        "remove rule": remove_rule,
    }
    return proposers[verb](changes, net, ep, text)


def meant(
    store: SqliteStore,
    sandbox: SandboxRecord,
    text: str,
    network: str | None,
    ifname: str | None,
) -> EndpointRecord:
    """The endpoint on this network, or of this name; else the only one, or the one that has an
    address such as *text* in its subnet.
    """
    found = [ep for ep in store.all(EndpointRecord, sandbox=sandbox.id) if ep.netns is not None]
    if network is not None:
        net = store.get(NetworkRecord, network)
        found = [ep for ep in found if ep.network == net.id]
    if ifname is not None:
        naming.validate_ifname(ifname)
        found = [ep for ep in found if ep.ifname == ifname]
    if not found:
        where = f" on network '{network}'" if network else ""
        where += f" called '{ifname}'" if ifname else ""
        raise NotFound(
            f"container {sandbox.name} has no interface{where}",
            hint=f"`netkit inspect {sandbox.name}` shows its networks",
        )
    if len(found) > 1:
        near = [ep for ep in found if _near(ep, text)]
        found = near if len(near) == 1 else found
    if len(found) > 1:
        names = ", ".join(ep.ifname for ep in found)
        raise Conflict(
            f"container {sandbox.name} has several interfaces: {names}", hint="say which: --ifname"
        )
    return found[0]


def _near(ep: EndpointRecord, text: str) -> bool:
    try:
        ip = ip_interface(text).ip
    except ValueError:
        return False
    return any(ip in own.network for own in ep.every_address)


# -- addresses


def add_address(changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str) -> Alteration:
    new = _parse(net, ep, text)
    if any(own.ip == new.ip for own in ep.every_address):
        raise Conflict(f"{ep.owner} has the address {new.ip} already", hint="add another one")
    here = changes.store.all(EndpointRecord, network=net.id)
    leases: dict[str, str] = {}
    if not any(new.ip in subnet for subnet in net.subnets):
        extras.refuse_address(net, ep, new, here)
        wanted = ep.wanted
        after = replace(ep, request=replace(wanted, extra=(*wanted.extra, new)))
    elif net.plugin is not None:
        raise InvalidSpec(
            f"cannot add {new.ip} to {ep.owner}: addresses of network '{net.name}' are the IPAM "
            f"plugin's ({net.plugin}), which is asked when a container is connected",
            hint="ask for it then, with --ip",
        )
    else:
        name = _free_name(net, ep, new.ip)
        _lease(changes, net, ep, name, new.ip)
        leases[str(new.ip)] = name
        others = ep.others if name == ep.owner else {**ep.others, str(new.ip): name}
        after = replace(ep, addresses=(*ep.addresses, new), others=others)
    sandbox = changes.store.get(SandboxRecord, ep.sandbox)
    known = steps.decode(ep.steps)
    promoted = extras.promotion(after, there=True)
    names = sandboxes.entries(sandbox, replace(ep, addresses=(new,))) if leases else ()
    return Alteration(
        after,
        (
            *(step for step in promoted if not any(_same_key(step, other) for other in known)),
            *extras.address(net, ep, new),
            *names,
        ),
        leases=leases,
    )


def _parse(net: NetworkRecord, ep: EndpointRecord, text: str) -> Interface:
    """An address with the length it has on this network, or with its own."""
    plain = "/" not in text
    ip = addresses.address("address", text) if plain else addresses.interface("address", text).ip
    home = next((subnet for subnet in net.subnets if ip in subnet), None)
    if home is None:
        return ip_interface(str(ip) if plain else text)
    routed = drivers.load(net.driver).TRAITS.routed
    length = home.max_prefixlen if routed else home.prefixlen
    new = ip_interface(f"{ip}/{length}")
    if not plain and ip_interface(text) != new:
        raise InvalidSpec(
            f"invalid address {text}: on network '{net.name}' it is {new}",
            hint="leave out the length",
        )
    return new


def _free_name(net: NetworkRecord, ep: EndpointRecord, ip: Address) -> str:
    """Whom it is to be leased to: the endpoint itself, if it has no other of this subnet."""
    (subnet,) = (subnet for subnet in net.subnets if ip in subnet)
    taken = {_holder(ep, own.ip) for own in ep.addresses if own.ip in subnet}
    taken |= set(ep.others.values())
    return next(
        name for n in range(1, 1 << 16) if (name := naming.numbered(ep.owner, n)) not in taken
    )


def _holder(ep: EndpointRecord, ip: Address) -> str:
    return ep.others.get(str(ip), ep.owner)


def _lease(
    changes: Changes, net: NetworkRecord, ep: EndpointRecord, name: str, ip: Address
) -> None:
    import ipam

    for allocator in changes.allocators(net):
        if ip in allocator.pool.subnet:
            allocator.lease(ipam.Owner(name, changes.epoch, ep.netns or ""), ip)


def remove_address(
    changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str
) -> Alteration:
    ip = (
        addresses.interface("address", text).ip
        if "/" in text
        else addresses.address("address", text)
    )
    own = next((each for each in ep.every_address if each.ip == ip), None)
    if own is None or ("/" in text and ip_interface(text) != own):
        raise NotFound(
            f"{ep.owner} has no address {text}",
            hint=f"`netkit address ls {ep.owner.rpartition('/')[0]}` lists them",
        )
    _refuse_needed(net, ep, own)
    wanted = ep.wanted
    plan, gone = extras.without(ep, ip)
    after = replace(
        ep,
        addresses=tuple(each for each in ep.addresses if each != own),
        others={key: name for key, name in ep.others.items() if key != str(ip)},
        request=replace(
            wanted,
            addresses=tuple(each for each in wanted.addresses if each != ip),
            extra=tuple(each for each in wanted.extra if each != own),
        ),
    )
    # set until the last moment: without it the subnet's other addresses would go as well
    settings = tuple(step for step in extras.promotion(ep) if not extras.promotion(after))
    kept = [step for step in plan if not any(_same_key(step, other) for other in settings)]
    back = tuple(step for step in plan if step not in kept)
    return Alteration(
        replace(after, steps=steps.encode(kept)),
        gone=(*back, *gone),
        leases={str(ip): _holder(ep, ip)} if own in ep.addresses else {},
    )


def _same_key(step: steps.Step, other: steps.Step) -> bool:
    both = isinstance(step, steps.Sysctl) and isinstance(other, steps.Sysctl)
    return both and (step.key, step.at) == (other.key, other.at)  # type: ignore[attr-defined]


def _refuse_needed(net: NetworkRecord, ep: EndpointRecord, own: Interface) -> None:
    """Refuse to take away what ports or routes lead to or by."""
    for why, hint in _needs(net, ep, own):
        raise Conflict(f"cannot take the address {own} from {ep.owner}: {why}", hint=hint)


def _needs(net: NetworkRecord, ep: EndpointRecord, own: Interface) -> Iterator[tuple[str, str]]:
    """What an address is needed for, and the way out."""
    version, name = own.version, ep.owner.rpartition("/")[0]
    away = f"disconnect it: netkit disconnect --net {net.name} {name}"
    another = f"add another one first: netkit address add {name} ADDRESS"
    if own == ep.address(version):
        for port in ep.ports:
            if port.host_address.version == version:
                yield f"the published port {port} leads to it", away
    for spec in ep.wanted.routes:
        if spec.source == own.ip:
            yield f"the route {spec} is by it", f"netkit route rm {name} {spec}"
    left = [each for each in ep.every_address if each != own and each.version == version]
    if drivers.load(net.driver).TRAITS.routed:
        if own in ep.addresses and not any(each in ep.addresses for each in left):
            yield f"network '{net.name}' routes to it, and it has no other", another
    elif not any(own.network == each.network for each in left):
        gateways = [ep.gateway(version)] if version in ep.leads_out else []
        gateways += [spec.gateway for spec in (*net.routes, *ep.wanted.routes)]
        for ip in gateways:
            if ip is not None and ip in own.network:
                yield f"the gateway {ip} is reached by it", another
    if len(ep.every_address) == 1:
        yield "it is the only one, and what has none may send from any", another


# -- routes and rules


def add_route(changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str) -> Alteration:
    spec = RouteSpec.parse(text)
    extras.refuse_route(net, ep, spec)
    if spec in (*net.routes, *ep.wanted.routes):
        raise Conflict(f"{ep.owner} has the route {spec} already", hint="add another one")
    if spec.is_way_out:
        return _lead(changes.store, ep, spec.dst.version, spec.gateway, spec)
    after = replace(ep, request=replace(ep.wanted, routes=(*ep.wanted.routes, spec)))
    return Alteration(after, extras.route(net, ep, spec))


def remove_route(changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str) -> Alteration:
    spec = _found(ep, ep.wanted.routes, RouteSpec.parse(text), "route")
    if spec.is_way_out:
        version = spec.dst.version
        return _lead(changes.store, ep, version, None if net.internal else net.router(version))
    left = tuple(each for each in ep.wanted.routes if each != spec)
    return _less(
        ep, replace(ep, request=replace(ep.wanted, routes=left)), extras.route(net, ep, spec)
    )


def _lead(
    store: SqliteStore,
    ep: EndpointRecord,
    version: int,
    to: Address | None,
    spec: RouteSpec | None = None,
) -> Alteration:
    """The default route by another gateway."""
    was = ep.gateway(version)
    if was is None or to is None or version not in ep.leads_out or ep.netns is None:
        raise Conflict(
            f"{ep.owner} has no default route of IPv{version} that could lead elsewhere",
            hint="add one with a metric: it is a route like any other",
        )
    routes = tuple(
        each for each in ep.wanted.routes if not (each.is_way_out and each.dst.version == version)
    )
    if spec is not None:
        routes = (*routes, spec)
    gateways = tuple(to if ip.version == version else ip for ip in ep.gateways)
    after = replace(ep, gateways=gateways, request=replace(ep.wanted, routes=routes))
    holder = gateway.holder(store, store.all(EndpointRecord, sandbox=ep.sandbox), version)
    if holder is None or holder.id != ep.id:
        return Alteration(after)  # it has its turn when the others have left
    back = steps.DefaultRoute(
        dev=ep.ifname, gateway=was, at=ep.netns, was_dev=ep.ifname, was_gateway=to
    )
    if back in steps.decode(ep.steps):
        return _less(ep, after, (back,))
    there = replace(back, gateway=to, was_gateway=was)
    return Alteration(after, (there,))


def add_rule(changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str) -> Alteration:
    spec = RuleSpec.parse(text)
    if spec in ep.wanted.rules:
        raise Conflict(f"{ep.owner} has the rule {spec} already", hint="add another one")
    after = replace(ep, request=replace(ep.wanted, rules=(*ep.wanted.rules, spec)))
    return Alteration(after, (extras.rule(ep, spec),))


def remove_rule(changes: Changes, net: NetworkRecord, ep: EndpointRecord, text: str) -> Alteration:
    spec = _found(ep, ep.wanted.rules, RuleSpec.parse(text), "rule")
    left = tuple(each for each in ep.wanted.rules if each != spec)
    after = replace(ep, request=replace(ep.wanted, rules=left))
    return _less(ep, after, (extras.rule(ep, spec),))


def _found(ep: EndpointRecord, there: Sequence[S], asked: S, what: str) -> S:
    """The one that is meant: what was not said of it may be anything."""
    said = {
        name: value
        for name in asked.__struct_fields__
        if (value := getattr(asked, name)) not in (None, False, "unicast")
    }
    found = [spec for spec in there if all(getattr(spec, k) == v for k, v in said.items())]
    if not found:
        name = ep.owner.rpartition("/")[0]
        raise NotFound(
            f"{ep.owner} was given no {what} {asked}", hint=f"`netkit {what} ls {name}` lists them"
        )
    if len(found) > 1 and asked not in found:
        raise Conflict(
            f"{ep.owner} has several such {what}s: {'; '.join(map(str, found))}",
            hint="say all of it",
        )
    return asked if asked in found else found[0]


def _less(ep: EndpointRecord, after: EndpointRecord, plan: Plan) -> Alteration:
    """Without these steps, as far as they are its own."""
    have = steps.decode(ep.steps)
    kept = [step for step in have if step not in plan]
    gone = tuple(step for step in have if step in plan)
    return Alteration(replace(after, steps=steps.encode(kept)), gone=gone)
