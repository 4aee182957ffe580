"""An interface of the host's, moved into a container and given back as it was.

    -o device=eth1  | mac=AA:BB:…  | pci=0000:03:00.0  | kernelpath=/sys/devices/…

Source   CNI's host-device plugin; pipework --direct-phys

With --subnet its addresses are leased like any others; without, it keeps those it had, and its
routes. It is one device, so the network has one endpoint.

A second name for the container's namespace (netkit-…, in `ip netns list`) keeps that alive until
the device has been fetched from it: after the container's death `netkit gc` does so, or whatever
meets the dead next. Without that a physical device would return by itself, nameless and bare, and
any other be destroyed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from netkit import naming
from netkit.drivers import Traits, devices, routing
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import devices as hardware
from netkit.kernel import netns
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from netkit.steps import Physical, Plan, Step, Tune

if TYPE_CHECKING:
    from netkit.drivers import Others

_WAYS = ("device", "mac", "pci", "kernelpath")
_MOST = 1024


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    given = [way for way in _WAYS if way in net.driver_options]
    if not given:
        raise devices.required(net, "device", "eth1")
    if len(given) > 1:
        raise InvalidSpec(
            f"cannot create network '{net.name}': {' and '.join(given)} are given",
            hint="one of them is enough to name a device",
        )
    if net.internal:
        raise InvalidSpec(
            f"cannot create network '{net.name}': an interface of the host's is not internal",
            hint="leave out --internal",
        )
    way = given[0]
    net = devices.settled(net, spec, {way: _valid(net, way, net.driver_options[way])})
    for other in others:
        if other.driver == net.driver and other.driver_options == net.driver_options:
            raise Conflict(
                f"cannot create network '{net.name}': network {other.name} has that device",
                hint=f"use that network, or remove it: netkit network rm {other.name}",
            )
    devices.refuse_shared(net, others)
    return net


def _valid(net: NetworkRecord, way: str, text: str) -> str:
    if way == "device":
        return naming.validate_ifname(text)
    if way == "mac":
        return naming.parse_mac(text)
    pattern = hardware.PCI_ADDRESS if way == "pci" else hardware.PATH
    if len(text) > _MOST or not pattern.fullmatch(text.lower() if way == "pci" else text):
        example = "0000:03:00.0" if way == "pci" else "/sys/devices/pci0000:00/0000:00:1f.6"
        devices.refuse(net, way, text, "not of its form", f"such as {example}")
    return text.lower() if way == "pci" else text


def admit(net: NetworkRecord, request: Request, others: Others) -> None:
    devices.one_only(net, others, "it is one device")
    if request.addresses and not net.pools:
        raise InvalidSpec(
            f"cannot give {request.addresses[0]} on network '{net.name}': it has no subnet",
            hint="create it with --subnet; without one the device keeps the addresses it had",
        )


TRAITS = Traits(
    options=frozenset(_WAYS),
    host_end=False,
    publishes=False,
    lan=True,
    chooses=False,
    settle=settle,
    admit=admit,
    own_mac=lambda net: False,
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return {}


def network(net: NetworkRecord) -> Plan:
    return ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    options = net.driver_options
    moved = Physical(
        name=ep.ifname,
        at=ep.netns,
        pin=f"{netns.PINNED}{naming.short_id(ep.id)}",
        alias=routing.alias(ep.id),
        dev=options.get("device"),
        mac=options.get("mac"),
        device=options.get("pci") or options.get("kernelpath"),
        carry=not net.pools,
    )
    tuned: list[Step] = []
    if ep.mac or net.mtu:
        tuned = [Tune(dev=ep.ifname, at=ep.netns, mac=ep.mac or None, mtu=net.mtu or None)]
    return (moved, *tuned, *devices.interface(net, ep))
