"""An endpoint as it is proposed: its interface, addresses, MAC and ports chosen; nothing made yet.

Shapes   see EndpointRecord; addresses are leased and ports claimed in the caller's transaction
Source   Docker's choices: eth0, eth1 …; a MAC that follows from the address
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from functools import partial
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import addresses, drivers, extras, namesakes, naming, networks, policies, publications
from netkit.addresses import Address, Interface
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, EndRecord, NetworkRecord, SandboxRecord
from netkit.routes import RouteSpec
from netkit.specs import Request

if TYPE_CHECKING:
    from ipam.external import Grant, Route
    from netkit.allocation import Granted


def propose(
    changes: Changes,
    net: NetworkRecord,
    sandbox: SandboxRecord,
    request: Request,
    kernel: Kernel,
    free: Collection[int],
    granted: Granted | None = None,
) -> EndpointRecord:
    """The endpoint *request* becomes, with its address leased and its ports claimed.

    *free*: the IP versions whose default route in the sandbox is nobody else's; *granted*: what the
    network's IPAM plugin gave it.
    """
    refuse(changes, net, sandbox, request)
    if request.links or request.egress is not None:
        policies.refuse(net, kernel, request)
    driver = drivers.load(net.driver)
    others = changes.store.all(EndpointRecord, sandbox=sandbox.id)
    here = partial(changes.store.all, EndpointRecord, network=net.id)
    id = naming.new_id()
    wanted = granted.ifname if granted else request.ifname
    ifname = free_ifname(changes, sandbox, wanted, kernel)
    host_ifname = _host_ifname(net, sandbox, ifname, request, kernel)
    owner = f"{sandbox.name}/{ifname}"
    leased: tuple[Interface, ...] = ()
    names: dict[str, str] = {}
    if granted is not None:
        request = replace(request, routes=_routes(request, granted.grant))
        leased, names = _accepted(changes, net, owner, sandbox, here(), granted.grant)
    elif not request.addressless:
        leased, names = _lease(changes, net, owner, sandbox, request)
    if driver.TRAITS.routed:
        leased = tuple(ip_interface(each.ip) for each in leased)
    mac = request.mac or ""
    if not mac and driver.TRAITS.own_mac(net):
        named = f"{sandbox.id}/{ifname}"
        mac = naming.mac_of(leased[0].ip) if leased else naming.bridge_mac(named)
    theirs = set(free).union(*(e.leads_out for e in others))
    gateways = _gateways(net, request, leased, granted.grant if granted else None)
    ep = EndpointRecord(
        id=id,
        created=time.time(),
        epoch=changes.epoch,
        maker=changes.maker,
        network=net.id,
        sandbox=sandbox.id,
        ifname=ifname,
        host_ifname=host_ifname,
        netns=sandbox.netns,
        mac=mac,
        host_mac=_host_mac(net, id) if host_ifname else "",
        owner=owner,
        static=bool(request.addresses),
        addresses=leased,
        gateways=gateways,
        gateway_priority=request.gateway_priority,
        leads_out=_leads_out(net, sandbox, request, gateways, theirs),
        others=names,
        request=request,
    )
    extras.refuse(net, ep, here, kernel)
    namesakes.claim(changes, net, sandbox, ep)
    ports = publications.claim(changes, net, ep, request.ports, kernel, id)
    served = any(port.by != "nat" for port in ports)
    return replace(
        ep, ports=ports, proxy=f"{changes.store.run_dir}/proxy-{id[:12]}" if served else ""
    )


def refuse(changes: Changes, net: NetworkRecord, sandbox: SandboxRecord, request: Request) -> None:
    """Refuse what is known to be impossible before an address is leased."""
    if sandbox.netns is None:
        raise Conflict(f"container {sandbox.name} uses the host's network")
    others = changes.store.all(EndpointRecord, sandbox=sandbox.id)
    if any(ep.network == net.id for ep in others):
        raise Conflict(f"endpoint with name {sandbox.name} already exists in network {net.name}")
    if any(ep.network in networks.BUILT_IN_IDS for ep in others):
        raise Conflict(f"container {sandbox.name} was run without a network (--net none)")
    if request.ports:
        publications.refuse(net)
    driver = drivers.load(net.driver)
    if request.addressless and driver.TRAITS.routed:
        raise InvalidSpec(
            f"cannot connect to network '{net.name}' without an address: driver {net.driver} "
            "routes to addresses",
            hint="leave out --ip 0/0",
        )
    if request.addresses and net.ipam == "none":
        raise InvalidSpec(
            f"cannot have {request.addresses[0]} on network '{net.name}': nobody hands out "
            "addresses there (IPAM driver 'none')",
            hint="leave it out; then number it from inside, or by `netkit address add`",
        )
    driver.TRAITS.admit(net, request, partial(changes.store.all, EndpointRecord, network=net.id))


def _host_mac(net: NetworkRecord, id: str) -> str:
    """That of the host's end. A bridge may have its lowest port's: of ours it must not be."""
    mac = naming.bridge_mac(id)
    return f"fe:ff{mac[5:]}" if net.foreign else mac  # the highest a station's can be


def _gateways(
    net: NetworkRecord, request: Request, leased: Sequence[Interface], grant: Grant | None
) -> tuple[Address, ...]:
    """Where default routes lead: where they were asked to, else to the plugin's gateway, else to
    the network's.
    """
    versions = addresses.versions(leased)
    found: dict[int, Address] = {}
    for version in () if net.internal else versions:
        if (router := net.router(version)) is not None:
            found[version] = router
    if grant is not None and not net.internal and not drivers.load(net.driver).TRAITS.routed:
        found |= {ip.version: ip for ip in reversed(_ways_out(grant))}
    for spec in (*net.routes, *request.routes):
        if spec.is_way_out and spec.gateway and spec.gateway.version in versions:
            found[spec.gateway.version] = spec.gateway
    return tuple(found[version] for version in sorted(found))


def _ways_out(grant: Grant) -> list[Address]:
    """The gateways a plugin named: of a default route first, then of the addresses."""
    plain = [route for route in grant.routes if _is_way_out(route)]
    ways = [*(route.gateway for route in plain), *grant.gateways]
    found = [ip for ip in ways if ip is not None]
    for ip in found:
        if not any(ip in own.network for own in grant.interfaces):
            owns = ", ".join(map(str, grant.interfaces))
            raise InvalidSpec(
                f"the IPAM plugin gave {owns} and the gateway {ip}, which is not a neighbour",
                hint="a gateway is an address of the subnet: mend the plugin's --ipam-opt",
            )
    return found


def _is_way_out(route: Route) -> bool:
    return route.dst.prefixlen == 0 and route.mtu is None and route.priority is None


def _routes(request: Request, grant: Grant) -> tuple[RouteSpec, ...]:
    """The routes asked for, and those the plugin gave; what leads out plainly is a gateway's."""
    near = {own.version: ip for own, ip in zip(grant.interfaces, grant.gateways, strict=True) if ip}
    found = [
        RouteSpec(
            route.dst,
            route.gateway or near.get(route.dst.version),
            mtu=route.mtu,
            metric=route.priority,
        )
        for route in grant.routes
        if not _is_way_out(route)
    ]
    return tuple(dict.fromkeys((*request.routes, *found)))


def _leads_out(
    net: NetworkRecord,
    sandbox: SandboxRecord,
    request: Request,
    gateways: Sequence[Address],
    theirs: Collection[int],
) -> tuple[int, ...]:
    """The IP versions of which it may have the default route of the sandbox."""
    asked = {spec.dst.version for spec in (*net.routes, *request.routes) if spec.is_way_out}
    for spec in request.routes:
        if spec.is_way_out and spec.dst.version not in theirs:
            raise Conflict(
                f"cannot have the route '{spec}': {sandbox.name} has a default route that is not "
                "netkit's",
                hint="add a metric, and it stands beside that one",
            )
    wanted = net.default_route and request.default_route
    found = (ip.version for ip in gateways)
    return tuple(v for v in found if v in theirs and (wanted or v in asked))


def free_ifname(
    changes: Changes, sandbox: SandboxRecord, wanted: str | None, kernel: Kernel
) -> str:
    """An interface name nobody has in the sandbox: *wanted*, or the first of eth0, eth1 …"""
    taken = {ep.ifname for ep in changes.store.all(EndpointRecord, sandbox=sandbox.id)}
    taken |= {end.ifname for end in changes.store.all(EndRecord, sandbox=sandbox.id)}
    assert sandbox.netns is not None
    inside = kernel.netlink(sandbox.netns) if kernel.exists(sandbox.netns) else None

    def is_taken(name: str) -> bool:
        return name in taken or (inside is not None and inside.is_up(name) is not None)

    if wanted is None:
        return next(name for n in range(1 << 16) if not is_taken(name := f"eth{n}"))
    if is_taken(wanted):
        raise Conflict(
            f"container {sandbox.name} has an interface '{wanted}' already",
            hint="choose another --ifname, or leave it out",
        )
    return wanted


def _host_ifname(
    net: NetworkRecord, sandbox: SandboxRecord, ifname: str, request: Request, kernel: Kernel
) -> str:
    """The host's end, where the driver makes one."""
    if not drivers.load(net.driver).TRAITS.host_end:
        if request.host_ifname is not None:
            raise InvalidSpec(
                f"cannot name the host's interface '{request.host_ifname}': "
                f"driver {net.driver} makes none",
                hint="leave out --host-ifname",
            )
        return ""
    if request.host_ifname and kernel.netlink().link(request.host_ifname):
        raise Conflict(
            f"an interface named '{request.host_ifname}' exists already on the host",
            hint="choose another --host-ifname, or leave it out",
        )
    return request.host_ifname or naming.host_ifname(sandbox.id, ifname)


def _accepted(
    changes: Changes,
    net: NetworkRecord,
    owner: str,
    sandbox: SandboxRecord,
    here: Sequence[EndpointRecord],
    grant: Grant,
) -> tuple[tuple[Interface, ...], dict[str, str]]:
    """What a plugin gave, if it can be had; of the network's subnets it is leased here as well."""
    import ipam

    given = tuple(dict.fromkeys(grant.interfaces))
    if net.pools:
        wanted = Request(addresses=tuple(own.ip for own in given))
        return _lease(changes, net, owner, sandbox, wanted)
    for own in given:
        ipam.Pool(own.network, gateway="none").claim(own.ip)
        holder = next((ep for ep in here for other in ep.addresses if other.ip == own.ip), None)
        if holder is not None:
            raise Conflict(
                f"the IPAM plugin gave {own.ip}, which {holder.owner} has",
                hint=f"`netkit network inspect {net.name}` lists the network's addresses",
            )
    return given, {}


def _lease(
    changes: Changes, net: NetworkRecord, owner: str, sandbox: SandboxRecord, request: Request
) -> tuple[tuple[Interface, ...], dict[str, str]]:
    """An address of each subnet, or those asked for of it; and to whom the second and later ones
    of a subnet are leased.
    """
    import ipam

    names: dict[str, str] = {}
    wanted = list(request.addresses)
    leased = []
    mine: list[Address]
    for allocator in changes.allocators(net):
        mine = [ip for ip in wanted if ip in allocator.pool.subnet]
        wanted = [ip for ip in wanted if ip not in mine]
        unasked = () if net.plugin or net.ipam == "static" else (None,)
        for number, ip in enumerate(dict.fromkeys(mine) or unasked, 1):
            name = naming.numbered(owner, number)
            who = ipam.Owner(name, changes.epoch, sandbox.netns or "")
            leased.append(allocator.lease(who, ip))
            if number > 1:
                names[str(ip)] = name
    if not leased and not wanted and net.ipam == "static":
        raise InvalidSpec(
            f"no address of {' or '.join(map(str, net.subnets))} is handed out unasked "
            f"(IPAM driver 'static')",
            hint="ask for one: --ip " + str(net.subnets[0][-2]),
        )
    if wanted:
        listed = ", ".join(map(str, net.subnets))
        raise InvalidSpec(
            f"{wanted[0]} is not in {listed}",
            hint=f"`netkit network inspect {net.name}` shows the network's subnets",
        )
    return tuple(leased), names
