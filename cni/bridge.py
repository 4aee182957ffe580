"""`bridge`: a veth pair between a bridge of the host and the container.

Source   containernetworking/plugins, plugins/main/bridge: keys, defaults, and the result

The bridge and the gateways' addresses on it are shared by all that use them, and go with the last
of those; a bridge that was there already is used as it is, and stays. Beyond the reference: without
IPv6 addresses there is no IPv6, and the neighbours are told at once who has an address now.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import msgspec
from msgspec.structs import replace

from cni.call import Answer, Call, forwarding, hidden, plain, tables
from cni.spec import CniError, Code, Interface, Result, Route
from netkit import addresses, attaching, naming, steps
from netkit.drivers import routing
from netkit.errors import Conflict
from netkit.firewall import Guard, Rule
from netkit.kernel import Kernel, sysctl

_MTU = 1500
_VLANS = range(4095)


class Trunk(msgspec.Struct):
    """Tags a port lets through: one, or all of a range."""

    id: int | None = None
    min_id: int | None = msgspec.field(default=None, name="minID")
    max_id: int | None = msgspec.field(default=None, name="maxID")


class Conf(msgspec.Struct, rename="camel"):
    bridge: str = "cni0"
    is_gateway: bool = False
    is_default_gateway: bool = False
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: str = ""
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    vlan_trunk: list[Trunk] = []
    preserve_default_vlan: bool = False
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    mac: str = ""

    def __post_init__(self) -> None:
        naming.validate_ifname(self.bridge)
        if self.vlan not in _VLANS:
            raise ValueError(f"vlan is {self.vlan}, not one of 0 to 4094")
        if self.hairpin_mode and self.promisc_mode:
            raise ValueError("hairpinMode and promiscMode exclude each other")
        self.is_gateway = self.is_gateway or self.is_default_gateway

    @property
    def gateway_dev(self) -> str:
        """The host's interface in the containers' VLAN."""
        return f"{self.bridge}.{self.vlan}" if self.vlan else self.bridge

    def trunk(self) -> tuple[tuple[int, int], ...]:
        """First and last of each range."""
        found = []
        for each in self.vlan_trunk:
            first = each.id if each.id is not None else each.min_id
            last = each.id if each.id is not None else each.max_id
            if first is None or last is None or not 0 < first <= last < len(_VLANS):
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"vlanTrunk has {each}, which is neither an id nor a range of 1 to 4094",
                    'write {"id": 10} or {"minID": 20, "maxID": 29}',
                )
            found.append((first, last))
        return tuple(found)


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    if conf.disable_container_interface and call.command.ipam.get("type"):
        raise CniError(
            Code.INVALID_CONFIG,
            "disableContainerInterface leaves the interface down: it can have no addresses",
            "leave out ipam",
        )
    gateways = _gateways(call)
    mac = call.mac(conf.mac)
    routes = _default_routes(call, gateways)
    bridge = Interface(conf.bridge, call.kernel.netlink().mac(conf.bridge) or _mac(conf))
    ends = (
        Interface(call.host_ifname, call.host_mac, mtu=conf.mtu or _MTU),
        Interface(call.ifname, mac, call.at, mtu=conf.mtu or _MTU),
    )
    shared = dict(_shared(call, gateways))
    hide, subnets = hidden(call.ips) if conf.ip_masq else ((), {})
    proposal = attaching.Proposal(_plan(call, mac, hide, routes), {**shared, **subnets})
    return Answer(call.result(bridge, *ends, routes=routes), proposal)


def status(call: Call) -> None:
    _usable(call.conf, call.kernel)


def _gateways(call: Call) -> list[addresses.Interface]:
    """What the host has on the bridge: the gateways leased, or the first address of a subnet."""
    if not call.conf.is_gateway:
        return []
    return [
        addresses.from_text(
            addresses.Interface, f"{ip.gateway or own.network[1]}/{own.network.prefixlen}"
        )
        for own, ip in zip(call.ips, (call.leased or Result()).ips, strict=True)
    ]


def _default_routes(call: Call, gateways: list[addresses.Interface]) -> list[Route]:
    """The ways out that nobody else gave."""
    if not call.conf.is_default_gateway:
        return []
    given = {route.dst for route in (call.leased or Result()).routes if route.gw}
    ways = {"0.0.0.0/0" if own.version == 4 else "::/0": str(own.ip) for own in reversed(gateways)}
    return [Route(dst, gateway) for dst, gateway in ways.items() if dst not in given]


def _plan(call: Call, mac: str, hide: tuple[Rule, ...], routes: list[Route]) -> steps.Plan:
    conf: Conf = call.conf
    guard = Guard(call.host_ifname, mac, (), ipv6=True, tagged=bool(conf.vlan_trunk))
    rules = (*((guard,) if conf.macspoofchk else ()), *hide)
    plan: list[steps.Step] = [
        *((steps.Rules(rules=rules),) if rules else ()),
        steps.Veth(
            name=call.host_ifname,
            mac=call.host_mac,
            mtu=conf.mtu or _MTU,
            master=conf.bridge,
            peer=call.ifname,
            peer_mac=mac,
            at=call.at,
            alias=call.alias,
            tunable=True,
        ),
        steps.Port(
            dev=call.host_ifname,
            alias=call.alias,
            hairpin=conf.hairpin_mode,
            isolated=conf.port_isolation,
        ),
        *_vlans(conf, call.host_ifname),
        routing.no_ipv6(call.host_ifname),
    ]
    if conf.disable_container_interface:
        return tuple(plan)
    return (
        *plan,
        *call.ipv6(dad=conf.enabledad),
        *call.numbered(routes),
        steps.PortReady(dev=call.host_ifname),
        *call.announced(mac),
    )


def _vlans(conf: Conf, port: str) -> list[steps.Step]:
    if not (conf.vlan or conf.vlan_trunk):
        return []
    access = conf.vlan or (None if conf.preserve_default_vlan else 1)
    return [
        steps.PortVlans(
            dev=port,
            access=access,
            trunk=conf.trunk(),
            keep_default=conf.preserve_default_vlan,
        )
    ]


# -- what is shared


def _shared(call: Call, gateways: list[addresses.Interface]) -> Mapping[str, attaching.Make]:
    conf: Conf = call.conf
    shared: dict[str, attaching.Make] = {}
    if conf.is_gateway or conf.ip_masq or conf.macspoofchk:
        shared |= tables()
    shared[f"link {conf.bridge}"] = partial(_bridge, conf)
    if gateways:
        shared |= forwarding(addresses.versions(gateways))
        if conf.vlan:
            shared[f"link {conf.gateway_dev}"] = partial(_way_into_vlan, conf)
        shared |= plain(conf.gateway_dev)
    for gateway in gateways:
        shared[f"address {gateway} of {conf.gateway_dev}"] = partial(_address, conf, gateway)
    return shared


def _mac(conf: Conf) -> str:
    return naming.bridge_mac(f"cni {conf.bridge}")


def _usable(conf: Conf, kernel: Kernel) -> bool:
    """Whether the bridge is there; CniError if something else is."""
    there = kernel.netlink().link(conf.bridge)
    if there is not None and there.kind != "bridge":
        raise CniError(
            Code.NOT_AVAILABLE,
            f"{conf.bridge!r} already exists but is not a bridge: {there.kind or 'physical'}",
            "give another name for `bridge`",
        )
    return there is not None


def _bridge(conf: Conf, kernel: Kernel) -> steps.Plan:
    plan: list[steps.Step] = []
    made = not _usable(conf, kernel)
    if made:
        alias = routing.alias(naming.digest(conf.bridge))
        plan += [
            steps.Bridge(name=conf.bridge, mac=_mac(conf), mtu=conf.mtu or _MTU, alias=alias),
            steps.Alias(dev=conf.bridge, alias=alias),
            replace(routing.no_ipv6(conf.bridge), initial=True),
        ]
    else:
        plan.append(steps.OwnMac(dev=conf.bridge, mac=_mac(conf)))
    if conf.vlan or conf.vlan_trunk:
        plan.append(steps.Filtering(dev=conf.bridge))
    if conf.promisc_mode:
        plan.append(steps.Tune(dev=conf.bridge, promisc=True))
    plan.append(steps.LinkUp(dev=conf.bridge, fresh=made))
    return tuple(plan)


def _way_into_vlan(conf: Conf, kernel: Kernel) -> steps.Plan:
    """A veth pair between the host and a port of the bridge that is in the VLAN."""
    dev, here = conf.gateway_dev, "/proc/thread-self/ns/net"
    if kernel.netlink().link(dev):
        return ()
    port, alias = naming.host_ifname("cni", dev), routing.alias(naming.digest(dev))
    veth = steps.Veth(
        name=port,
        mac=naming.bridge_mac(f"cni port {dev}"),
        mtu=conf.mtu or _MTU,
        master=conf.bridge,
        peer=dev,
        peer_mac=naming.bridge_mac(f"cni {dev}"),
        at=here,
        alias=alias,
    )
    vlans = steps.PortVlans(dev=port, access=conf.vlan, keep_default=conf.preserve_default_vlan)
    return (
        veth,
        steps.Port(dev=port, alias=alias, hairpin=False),
        vlans,
        steps.LinkUp(dev=dev, fresh=True),
    )


def _address(conf: Conf, gateway: addresses.Interface, kernel: Kernel) -> steps.Plan:
    dev = conf.gateway_dev
    plan: list[steps.Step] = []
    for _, found in kernel.netlink().addresses(dev):
        if found == gateway:
            continue
        meets = found.version == gateway.version and (
            gateway.version == 4 or found.network.overlaps(gateway.network)
        )
        if meets and not conf.force_address:
            raise Conflict(
                f"{dev} already has the address {found}, which is not {gateway}",
                hint='give the network another bridge, or say "forceAddress": true',
            )
        if meets:
            plan.append(steps.NoAddress(dev=dev, address=found))
    if gateway.version == 6:
        for name in ("disable_ipv6", "accept_ra", "accept_dad"):
            key = sysctl.key("net.ipv6.conf", dev, name)
            plan.append(steps.Sysctl(key=key, value="0", dev=dev, there=True))
    return (*plan, steps.Address(dev=dev, address=gateway, fresh=False))
