"""A network as it is proposed: its subnet, gateway, names and MTU chosen; nothing is made here.

Source   Docker's pools and defaults; what is on-link or asked for names must stay reachable
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from netkit import addresses, allocation, drivers, model, namefiles, naming, policies, specs
from netkit.addresses import Address, Network, versions
from netkit.changes import Changes
from netkit.config import Config
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import Kernel
from netkit.model import NetworkRecord, Subnet
from netkit.specs import NetworkSpec

if TYPE_CHECKING:
    from ipam import space
    from netkit.kernel.netlink import Link

_FALLBACK_MTU = 1500
RESERVED = (*model.BUILT_IN, model.DEFAULT_NETWORK, "default")

# The same on every machine, hence not on record: sha256 of "netkit built-in NAME"
BUILT_IN = (
    NetworkRecord(
        id="25ec1b7437378d8ba5dbb57c2bf698db7454f85a0bc3211306728e5a975bea6e",
        name="host",
        driver="host",
    ),
    NetworkRecord(
        id="45a9f4362ecbe136f29bf9410d213ea2130b590f6a68b7bdbd71a51f5076238d",
        name="none",
        driver="none",
    ),
)
Pools = Sequence[tuple[Network, int]]  # networks, and the prefix length of pieces of them
BUILT_IN_IDS = tuple(net.id for net in BUILT_IN)


def default(config: Config) -> NetworkSpec:
    """The network "bridge", as configured."""
    subnets: list[Network] = []
    gateways: list[Address] = []
    ranges: list[Network] = []
    for own, fixed in ((config.bip, config.fixed_cidr), (config.bip6, config.fixed_cidr_v6)):
        if own is not None:
            subnets.append(own.network)
            gateways.append(own.ip)
        if fixed is not None:
            # Docker: where nothing else says what the subnet is, this does
            (ranges if own or config.bridge else subnets).append(fixed)
    routers = [ip for ip in (config.default_gateway, config.default_gateway_v6) if ip]
    routers = [ip for ip in routers if ip not in gateways]
    return NetworkSpec(
        model.DEFAULT_NETWORK,
        subnets=tuple(subnets),
        gateways=tuple(gateways),
        routers=tuple(routers),
        ip_ranges=tuple(ranges),
        reserved={f"DefaultGatewayIPv{ip.version}": ip for ip in routers},
        ipv6=config.ipv6,
        icc=config.icc,
        mtu=config.mtu,
        bridge=config.bridge or model.DEFAULT_BRIDGE,
        existing=config.bridge is not None,
        masquerade=config.ip_masq,
    )


def propose(changes: Changes, spec: NetworkSpec, kernel: Kernel) -> NetworkRecord:
    """The record of the network *spec* asks for; subnets not named are of the configured pools."""
    driver = drivers.choose(spec.driver)
    _check_options(spec, driver.TRAITS)
    allocation.check(spec, changes.config.ipam_plugin_dirs, routed=driver.TRAITS.routed)
    if spec.driver in model.BUILT_IN:
        raise Conflict(
            f"only one instance of '{spec.driver}' network is allowed",
            hint=f"use it by its name: netkit run --net {spec.driver}",
        )
    if changes.store.by_name(NetworkRecord, spec.name):
        raise Conflict(
            f"network with name {spec.name} already exists",
            hint=f"choose another name, or remove it: netkit network rm {spec.name}",
        )
    id = naming.new_id()
    foreign = _foreign(changes, spec, kernel)
    if foreign is not None:
        spec = _as_it_is(spec, foreign, kernel)
    net = NetworkRecord(
        id=id,
        name=spec.name,
        driver=spec.driver,
        created=time.time(),
        epoch=changes.epoch,
        maker=changes.maker,
        pools=tuple(_pools(changes, spec, kernel, known=foreign is not None)),
        routers=spec.routers,
        bridge=(spec.bridge or naming.bridge_name(id)) if driver.TRAITS.bridge else "",
        foreign=foreign is not None,
        mac=(foreign.mac if foreign else None) or naming.bridge_mac(id),
        mtu=spec.mtu or (foreign.mtu if foreign else _auto_mtu(kernel)),
        internal=spec.internal,
        icc=spec.icc,
        masquerade=spec.masquerade,
        ip_forward=spec.ip_forward and changes.config.ip_forward,
        transit=spec.transit or changes.config.ip_forward_no_drop,
        gateway_modes=dict(spec.gateway_modes),
        sources=spec.sources,
        publish=spec.publish,
        host_binding=spec.host_binding,
        routes=spec.routes,
        default_route=spec.default_route,
        driver_options=dict(spec.options),
        labels=dict(spec.labels),
        ipam=spec.ipam_driver,
        ipam_options=dict(spec.ipam_options),
        hostnames=spec.hostnames,
        servers=spec.servers,
        host_access=spec.host_access,
        egress=spec.egress,
    )
    net = replace(net, names=_has_names(net, spec.names, changes.config))
    _check_routes(net)
    policies.refuse(net, kernel)
    return driver.TRAITS.settle(net, spec, changes.store.all(NetworkRecord))


def _has_names(net: NetworkRecord, asked: bool | None, config: Config) -> bool:
    """Whether names of its containers resolve: by a server at the gateways, which the host has."""
    can = drivers.load(net.driver).TRAITS.names and bool(namefiles.servers_of(net))
    if asked and not can:
        raise InvalidSpec(
            f"cannot have names on network '{net.name}': the host has no address there to serve "
            "them at",
            hint="leave out --dns-enabled, or use driver bridge or veth with a gateway",
        )
    names = can and (config.name_service if asked is None else asked)
    for what, given in (("hostnames", net.hostnames), ("--dns", net.servers)):
        if given and not names:
            raise InvalidSpec(
                f"cannot have {what} on network '{net.name}': it has no names",
                hint=f"leave out {what}, or add --dns-enabled",
            )
    return names


def _check_routes(net: NetworkRecord) -> None:
    """Refuse a route none of its endpoints could have."""
    for route in net.routes:
        via, version = route.gateway, route.dst.version
        if version not in net.versions:
            why, hint = f"it has no IPv{version}", "leave it out, or create it with that"
        elif (
            via is None
            or route.onlink
            or via.is_link_local
            or any(via in subnet for subnet in net.subnets)
        ):
            continue
        else:
            why = f"{via} is not in {', '.join(map(str, net.subnets))}"
            hint = "a gateway is on the network; if this one is all the same, add `onlink`"
        raise InvalidSpec(
            f"cannot have the route '{route}' on network '{net.name}': {why}", hint=hint
        )


def _check_options(spec: NetworkSpec, traits: drivers.Traits) -> None:
    if spec.bridge is not None and not traits.bridge:
        raise InvalidSpec(
            f"cannot use the bridge '{spec.bridge}': driver {spec.driver} has none",
            hint="leave it out, or use driver bridge",
        )
    if spec.publish != "nat" and not traits.publishes:
        raise InvalidSpec(
            f"cannot publish ports by {spec.publish}: driver {spec.driver} does not publish",
            hint="leave it out: its containers are reachable at their own addresses",
        )
    for option in spec.options:
        if traits.options is not None and option not in traits.options:
            known = sorted({*specs.OPTIONS, *traits.options})
            raise InvalidSpec(
                f"unknown option {option!r:.80} of driver {spec.driver}",
                hint="options are " + ", ".join(known),
            )


def _foreign(changes: Changes, spec: NetworkSpec, kernel: Kernel) -> Link | None:
    """The bridge that is to be used and not made, which must be there and nobody else's."""
    if not spec.existing:
        return None
    assert spec.bridge is not None
    link = kernel.netlink().link(spec.bridge)
    if link is None or link.kind != "bridge":
        found = (
            f"{spec.bridge} is a {link.kind or 'physical'} interface" if link else "there is none"
        )
        raise Conflict(
            f"cannot use the bridge '{spec.bridge}': {found}",
            hint="`ip link show type bridge` lists bridges; without it netkit makes one",
        )
    for net in changes.store.all(NetworkRecord):
        if net.bridge == spec.bridge:
            raise Conflict(
                f"cannot use the bridge '{spec.bridge}': network {net.name} has it",
                hint="connect to that network, or use another bridge",
            )
    return link


def _as_it_is(spec: NetworkSpec, link: Link, kernel: Kernel) -> NetworkSpec:
    """What was not asked for, as it is on the bridge: its addresses are the gateways'."""
    found = [
        interface
        for _, interface in kernel.netlink().addresses(link.name)
        if not interface.is_link_local
    ]
    if spec.subnets or not found or spec.ipam_driver == "none":
        return spec
    if not spec.ipv6:
        found = [interface for interface in found if interface.version == 4]
    first = {interface.network: interface.ip for interface in reversed(found)}
    return replace(
        spec,
        subnets=tuple(reversed(first)),
        gateways=spec.gateways or tuple(reversed(first.values())),
    )


def _pools(changes: Changes, spec: NetworkSpec, kernel: Kernel, *, known: bool) -> Iterator[Subnet]:
    """Each subnet with the gateway, ranges and reserved addresses that lie in it."""
    import ipam

    traits = drivers.load(spec.driver).TRAITS
    wanted = traits.gateway
    own = [ip.ip for _, ip in kernel.netlink().addresses()] if traits.lan else []
    subnets = _subnets(changes, spec, kernel, known=known)
    homes = _homes(spec, subnets)
    for subnet in subnets:
        ranges = tuple(part for part in spec.ip_ranges if homes[part] == subnet)
        reserved = {name: ip for name, ip in spec.reserved.items() if homes[ip] == subnet}
        given = [ip for ip in spec.gateways if homes[ip] == subnet]
        if len(given) > 1:
            raise InvalidSpec(
                f"{subnet} has {len(given)} gateways: {', '.join(map(str, given))}",
                hint="give one --gateway for each --subnet",
            )
        # on a LAN the host is on nobody else gets its addresses; one may be the default gateway's
        first = next(iter(subnet.hosts()), None) if wanted and not given else None
        spared = [ip for ip in own if ip in subnet and ip not in (*given, first)]
        reserved |= {f"host.{ip}": ip for ip in spared if ip not in reserved.values()}
        gateway = given[0] if given else None
        pool = ipam.Pool(
            subnet,
            gateway=gateway or (None if wanted else "none"),
            ip_range=addresses.spans(ranges),
            reserved=reserved,
        )
        if pool.gateway is not None:
            gateway = pool.address(pool.gateway)
        elif wanted:
            raise InvalidSpec(
                f"a {spec.driver} network needs a gateway address, and {subnet} has none to spare",
                hint="give --gateway, or a wider --subnet",
            )
        yield Subnet(subnet=subnet, gateway=gateway, ranges=ranges, reserved=reserved)


def _homes(spec: NetworkSpec, subnets: Sequence[Network]) -> dict[Any, Network]:
    """The subnet each gateway, range and reserved address lies in."""
    homes: dict[Any, Network] = {}
    for what, given in (
        ("gateway", spec.gateways),
        ("IP range", spec.ip_ranges),
        ("auxiliary address", spec.reserved.values()),
    ):
        for each in given:
            whole = ip_network(str(each))
            found = [s for s in subnets if s.version == whole.version and whole.subnet_of(s)]  # type: ignore[arg-type]  # of one version
            if not found:
                listed = ", ".join(map(str, subnets))
                raise InvalidSpec(
                    f"the {what} {each} is not in {listed}",
                    hint="choose one of the subnet, or another --subnet",
                )
            homes[each] = found[0]
    return homes


def _subnets(changes: Changes, spec: NetworkSpec, kernel: Kernel, *, known: bool) -> list[Network]:
    """The subnets asked for, or some that hide nothing the host can reach today.

    *known*: the host has them already, on the bridge that is to be used.
    """
    from ipam import space

    traits = drivers.load(spec.driver).TRAITS
    if not spec.subnets and not (traits.chooses and spec.ipam_driver in ("default", "static")):
        return []
    own = [(net.name, s) for net in changes.store.all(NetworkRecord) for s in net.subnets]
    wanted: list[Network] = []
    for subnet in spec.subnets:
        if subnet.version == 4 and not spec.ipv4:
            continue
        routes = () if spec.force or known or traits.lan else _routes(kernel, subnet.version)
        own_now = [*own, *((spec.name, other) for other in wanted)]
        wanted.append(space.check(subnet, own=own_now, routes=routes))
    for version, asked in ((4, spec.ipv4), (6, spec.ipv6)):
        if asked and version not in versions(wanted):
            taken = [*(subnet for _, subnet in own), *_routes(kernel, version)]
            servers = [*namefiles.nameservers(), *changes.config.dns]
            taken += [ip_network(ip) for ip in servers if _plain(ip, version)]
            size = spec.prefixlen if version == 4 else None
            blocks = _blocks(changes.config.default_address_pools, version)
            found = space.AddressSpace(blocks).next(taken, size=size, version=version)
            wanted.append(found)
    return sorted(wanted, key=lambda subnet: subnet.version)


def _plain(server: str, version: int) -> bool:
    return "%" not in server and (":" in server) == (version == 6)


def _blocks(pools: Pools, version: int) -> Sequence[space.Block]:
    """Where subnets of an IP version are taken from; of IPv6 a prefix of this machine's own."""
    from ipam import space

    blocks = [space.Block.parse(base, size) for base, size in pools if base.version == version]
    if blocks:
        return blocks
    return space.DOCKER_BLOCKS if version == 4 else (space.ula(_machine_id()),)


def _machine_id() -> str:
    """What tells this machine from others, and stays: RFC 4193 3.2.2 wants prefixes to differ."""
    for path in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError), open(path) as file:
            if found := file.read().strip():
                return found
    return os.uname().nodename


def _routes(kernel: Kernel, version: int) -> list[Network]:
    """The host's routes: where packets go that a subnet of ours would draw to itself."""
    routes = (route.dst for route in kernel.netlink().routes(version))
    return [dst for dst in routes if dst is not None and not dst.is_link_local]


def _auto_mtu(kernel: Kernel) -> int:
    """The MTU of the interface the default route leaves by."""
    ways = [r for r in kernel.netlink().routes() if r.dst is None and r.ifindex is not None]
    if not ways:
        return _FALLBACK_MTU
    best = min(ways, key=lambda way: way.metric or 0)
    mtus = {link.ifindex: link.mtu for link in kernel.netlink().links()}
    return min(mtus.get(best.ifindex or 0, _FALLBACK_MTU), specs.MTU_RANGE[-1])
