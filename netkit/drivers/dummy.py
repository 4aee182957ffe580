"""An interface with addresses that leads nowhere: for what needs an address to listen on.

Source   CNI's dummy plugin
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netkit.drivers import Traits, devices, routing
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec
from netkit.steps import Device, Plan


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    return devices.settled(net, spec, {})


TRAITS = Traits(gateway=False, host_end=False, publishes=False, settle=settle)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return {}


def network(net: NetworkRecord) -> Plan:
    return ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    made = Device(
        name=ep.ifname,
        kind="dummy",
        at=ep.netns,
        mac=ep.mac,
        mtu=net.mtu or None,
        alias=routing.alias(ep.id),
    )
    return (made, *devices.interface(net, ep))
