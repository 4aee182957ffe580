"""One VLAN of an interface of the host's, as a sub-interface in a container.

    -o parent=eth0            the host's interface
    -o vlan_id=10             1 to 4094

Source   CNI's vlan plugin; IEEE 802.1Q

The kernel has one sub-interface for a VLAN of a parent, so such a network has one endpoint. For
several on a VLAN use macvlan with `-o parent=eth0.10`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from netkit.drivers import Traits, devices, routing
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from netkit.steps import Device, Parent, Plan

if TYPE_CHECKING:
    from netkit.drivers import Others


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    given = {
        "parent": devices.ifname(net, "parent"),
        "vlan_id": devices.number(net, "vlan_id", devices.VLAN_IDS),
    }
    for option, example in (("parent", "eth0"), ("vlan_id", "10")):
        if given[option] is None:
            raise devices.required(net, option, example)
    net = devices.settled(net, spec, given)
    devices.refuse_shared(net, others)
    return net


def admit(net: NetworkRecord, request: Request, others: Others) -> None:
    devices.one_only(net, others, "the kernel has one interface for a VLAN of a parent")


TRAITS = Traits(
    options=frozenset({"parent", "vlan_id"}),
    host_end=False,
    publishes=False,
    lan=True,
    settle=settle,
    admit=admit,
    own_mac=lambda net: False,
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    parent = net.driver_options["parent"]
    return {f"parent {parent}": (Parent(dev=parent, free=False),)}


def network(net: NetworkRecord) -> Plan:
    return ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    made = Device(
        name=ep.ifname,
        kind="vlan",
        parent=net.driver_options["parent"],
        at=ep.netns,
        mac=ep.mac or None,
        mtu=net.mtu or None,
        options={"id": int(net.driver_options["vlan_id"])},
        alias=routing.alias(ep.id),
    )
    return (made, *devices.interface(net, ep))
