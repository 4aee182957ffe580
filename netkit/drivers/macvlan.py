"""Interfaces with MACs of their own on one of the host's: containers are stations of its LAN.

    -o parent=eth0[.VLAN]     the host's interface; without one a dummy, and no way out
    -o macvlan_mode=bridge    siblings reach each other; private: never; vepa: by way of a switch
                              that sends frames back where they came from; passthru: one endpoint,
                              which has the parent's MAC and all its frames
    -o bcqueuelen=N           how many broadcasts may wait
    -o host_shim=IP           an address by which the host itself reaches them

Source   Docker's macvlan driver; CNI macvlan; drivers/net/macvlan.c

The gateway is somebody else's router. There is no port of a bridge to guard: docs/limits.md. The
kernel lets nothing pass between a parent and what sits on it, hence the shim: another of its kind,
on the host, with a route to each endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_interface, ip_network
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import addresses, naming
from netkit.drivers import Traits, devices, routing
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from netkit.steps import Address, Device, LinkUp, Plan, Route, Step

if TYPE_CHECKING:
    from netkit.drivers import Others

MODES = ("bridge", "private", "vepa", "passthru")
_QUEUE = range(1, 1 << 31)
_SHIM = "host_shim"


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    mode = devices.choice(net, "macvlan_mode", MODES, "bridge")
    given = {
        "parent": devices.parent(net),
        "macvlan_mode": mode,
        "bcqueuelen": devices.number(net, "bcqueuelen", _QUEUE),
        _SHIM: net.driver_options.get(_SHIM),
    }
    net = _with_shim(devices.settled(net, spec, given), mode)
    devices.refuse_shared(net, others)
    return net


def _with_shim(net: NetworkRecord, mode: str) -> NetworkRecord:
    """Nobody is leased the host's own addresses."""
    text = net.driver_options.get(_SHIM)
    if text is None:
        return net
    if mode != "bridge":
        devices.refuse(
            net, _SHIM, text, f"in mode {mode} siblings do not meet", "use macvlan_mode=bridge"
        )
    pools = list(net.pools)
    for ip in _shim(net):
        homes = [n for n, pool in enumerate(pools) if ip in pool.subnet]
        if not homes or ip == pools[homes[0]].gateway:
            listed = ", ".join(map(str, net.subnets))
            devices.refuse(net, _SHIM, str(ip), f"not a host's address in {listed}", "choose one")
        pool = pools[homes[0]]
        key = f"{_SHIM}.{ip.version}"
        pools[homes[0]] = replace(pool, reserved={**pool.reserved, key: ip})
    return replace(net, pools=tuple(pools))


def _shim(net: NetworkRecord) -> list[addresses.Address]:
    text = net.driver_options.get(_SHIM)
    found = [addresses.address(_SHIM, each) for each in text.split(",")] if text is not None else []
    if len(addresses.versions(found)) < len(found):
        devices.refuse(net, _SHIM, str(text), "two of one version", "give one address of each")
    return found


def _shim_name(net: NetworkRecord) -> str:
    return f"hs-{naming.short_id(net.id)}"


def admit(net: NetworkRecord, request: Request, others: Others) -> None:
    if _is_passthru(net):
        devices.refuse_mac(net, request)
        devices.one_only(net, others, "macvlan_mode is passthru")


def _is_passthru(net: NetworkRecord) -> bool:
    return net.driver_options["macvlan_mode"] == "passthru"


def _own_mac(net: NetworkRecord) -> bool:
    return not _is_passthru(net)


TRAITS = Traits(
    options=frozenset({"parent", "macvlan_mode", "bcqueuelen", _SHIM}),
    host_end=False,
    publishes=False,
    lan=True,
    settle=settle,
    admit=admit,
    own_mac=_own_mac,
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    parent = net.driver_options["parent"]
    return {} if parent == devices.own_parent(net) else devices.shared_parent(parent)


def network(net: NetworkRecord) -> Plan:
    parent = net.driver_options["parent"]
    plan: list[Step] = []
    if parent == devices.own_parent(net):
        plan.append(devices.dummy(net, parent))
    if ips := _shim(net):
        name = _shim_name(net)
        plan.append(
            Device(
                name=name,
                kind="macvlan",
                parent=parent,
                mac=net.mac,
                mtu=net.mtu or None,
                options={"mode": "bridge"},
                alias=routing.alias(net.id),
            )
        )
        plan += routing.ipv6(net.versions, name)
        # alone: the parent's own route to the LAN stays the host's, and endpoints have one each
        plan += [Address(dev=name, address=ip_interface(ip)) for ip in ips]
        plan.append(LinkUp(dev=name, fresh=True))
    return tuple(plan)


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    options: dict[str, str | int] = {"mode": net.driver_options["macvlan_mode"]}
    if "bcqueuelen" in net.driver_options:
        options["bcqueuelen"] = int(net.driver_options["bcqueuelen"])
    made = Device(
        name=ep.ifname,
        kind="macvlan",
        parent=net.driver_options["parent"],
        at=ep.netns,
        mac=ep.mac or None,
        mtu=net.mtu or None,
        options=options,
        alias=routing.alias(ep.id),
    )
    by_shim = addresses.versions(_shim(net))
    ways = [
        Route(dev=_shim_name(net), dst=ip_network(address.ip))
        for address in ep.addresses
        if address.version in by_shim
    ]
    return (made, *devices.interface(net, ep), *ways)
