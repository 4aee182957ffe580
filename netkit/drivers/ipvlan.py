"""Interfaces that share the MAC of one of the host's, and are told apart by address.

    -o parent=eth0[.VLAN]     the host's interface; without one a dummy, and no way out
    -o ipvlan_mode=l2         on the parent's LAN, as a station; l3: the parent routes for them, and
                              there is neither ARP nor gateway; l3s: so that netfilter sees it
    -o ipvlan_flag=bridge     siblings reach each other; private: never; vepa: by way of a switch

Source   Docker's ipvlan driver; Documentation/networking/ipvlan.rst
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit.drivers import Traits, devices, routing
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from netkit.steps import Device, DeviceRoute, Plan

if TYPE_CHECKING:
    from netkit.drivers import Others

MODES = ("l2", "l3", "l3s")
FLAGS = ("bridge", "private", "vepa")


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    mode = devices.choice(net, "ipvlan_mode", MODES, "l2")
    given = {
        "parent": devices.parent(net),
        "ipvlan_mode": mode,
        "ipvlan_flag": devices.choice(net, "ipvlan_flag", FLAGS, "bridge"),
    }
    net = devices.settled(net, spec, given)
    if mode != "l2":
        for gateway in spec.gateways:
            devices.refuse(
                net, "gateway", str(gateway), f"mode {mode} has none", "leave out --gateway"
            )
        net = replace(net, pools=tuple(replace(pool, gateway=None) for pool in net.pools))
    devices.refuse_shared(net, others)
    return net


def admit(net: NetworkRecord, request: Request, others: Others) -> None:
    devices.refuse_mac(net, request)


TRAITS = Traits(
    options=frozenset({"parent", "ipvlan_mode", "ipvlan_flag"}),
    host_end=False,
    publishes=False,
    lan=True,
    settle=settle,
    admit=admit,
    own_mac=lambda net: False,
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    parent = net.driver_options["parent"]
    return {} if parent == devices.own_parent(net) else devices.shared_parent(parent)


def network(net: NetworkRecord) -> Plan:
    parent = net.driver_options["parent"]
    return (devices.dummy(net, parent),) if parent == devices.own_parent(net) else ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    mode, flag = net.driver_options["ipvlan_mode"], net.driver_options["ipvlan_flag"]
    options: dict[str, str | int] = {"mode": mode}
    if flag != "bridge":
        options[flag] = 1
    made = Device(
        name=ep.ifname,
        kind="ipvlan",
        parent=net.driver_options["parent"],
        at=ep.netns,
        mtu=net.mtu or None,
        options=options,
        alias=routing.alias(ep.id),
    )
    ways: Plan = ()
    if mode != "l2" and not net.internal:
        versions = dict.fromkeys(address.version for address in ep.addresses)
        ways = tuple(DeviceRoute(dev=ep.ifname, at=ep.netns, version=each) for each in versions)
    return (made, *devices.interface(net, ep), *ways)
