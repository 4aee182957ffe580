"""VLANs and VRF of a bridge network: which tags its ports take, and whose routes it follows.

    -o vlan=10                     what its containers send and get without a tag is in this VLAN
    -o vlan_trunk=20-29,40         these they may send and get with their tags
    -o preserve_default_vlan=true  VLAN 1, which each port has from the start, stays
    -o vrf=NAME                    the bridge is a member of this VRF, made if it is not there

Source   CNI's bridge plugin (vlan, vlanTrunk, preserveDefaultVlan; the latter is true there), and
         netavark's `vrf`; Documentation/networking/vrf.rst

A bridge netkit made is a port of its own in VLAN *vlan*: the gateway is where the containers are.
Of somebody else's bridge that port is left as it is, so the gateway is to be a router on the VLAN.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from zlib import crc32

from msgspec.structs import replace

from netkit.drivers import devices
from netkit.model import NetworkRecord
from netkit.specs import NetworkSpec
from netkit.steps import Device, Enslave, Filtering, Plan, PortVlans, Step

OPTIONS = frozenset({"vlan", "vlan_trunk", "preserve_default_vlan", "vrf"})
_TABLES = 1 << 17  # routing tables of VRFs we make: above those of netkit.drivers.routing
_MOST = 400


def settle(net: NetworkRecord, spec: NetworkSpec) -> NetworkRecord:
    options = dict(net.driver_options)
    access = devices.number(net, "vlan", devices.VLAN_IDS)
    if access is not None:
        options["vlan"] = access
    if "vlan_trunk" in options:
        options["vlan_trunk"] = ",".join(
            str(first) if first == last else f"{first}-{last}" for first, last in _trunk(net)
        )
    if "preserve_default_vlan" in options:
        options["preserve_default_vlan"] = devices.flag(net, "preserve_default_vlan")
        if not ({"vlan", "vlan_trunk"} & options.keys()):
            devices.refuse(
                net,
                "preserve_default_vlan",
                options["preserve_default_vlan"],
                "there is no other VLAN",
                "give -o vlan=N or -o vlan_trunk=N-N, too",
            )
    devices.ifname(net, "vrf")
    return replace(net, driver_options=options)


def _trunk(net: NetworkRecord) -> tuple[tuple[int, int], ...]:
    """First and last of each range, in order."""
    text = net.driver_options.get("vlan_trunk")
    if text is None:
        return ()
    found: list[tuple[int, int]] = []
    for part in text.split(",") if len(text) <= _MOST else [text]:
        first, dash, last = part.partition("-")
        ends = [first, last if dash else first]
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 for end in ends):
            devices.refuse(net, "vlan_trunk", text, f"{part!r:.20}", "such as 20-29,40")
        low, high = map(int, ends)
        if not (low in devices.VLAN_IDS and high in devices.VLAN_IDS and low <= high):
            devices.refuse(net, "vlan_trunk", text, f"{part!r:.20} is no range of 1-4094", "20-29")
        found.append((low, high))
    found.sort()
    for (_, last_of_one), (first_of_next, _) in pairwise(found):
        if first_of_next <= last_of_one:
            devices.refuse(
                net, "vlan_trunk", text, f"{first_of_next} is in it twice", "name each VLAN once"
            )
    return tuple(found)


def tagged(net: NetworkRecord) -> bool:
    """Whether its containers may send frames with tags."""
    return "vlan_trunk" in net.driver_options


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    """The VRF, which several networks may be members of."""
    vrf = net.driver_options.get("vrf")
    if vrf is None:
        return {}
    table = _TABLES + crc32(vrf.encode()) % _TABLES
    made = Device(
        name=vrf,
        kind="vrf",
        alias="netkit:vrf",
        up=True,
        options={"table": table},
        existing=True,
    )
    return {f"vrf {vrf}": (made,)}


def of_bridge(net: NetworkRecord) -> Plan:
    """Once the bridge is there, and before it has addresses: their routes go to the VRF's table."""
    plan: list[Step] = []
    if vrf := net.driver_options.get("vrf"):
        plan.append(Enslave(dev=net.bridge, master=vrf, kind="vrf"))
    if _filters(net):
        plan.append(Filtering(dev=net.bridge))
        if not net.foreign:
            plan.append(_port(net, net.bridge, own=True))
    return tuple(plan)


def of_port(net: NetworkRecord, dev: str) -> Plan:
    return (_port(net, dev),) if _filters(net) else ()


def _port(net: NetworkRecord, dev: str, own: bool = False) -> PortVlans:
    access = net.driver_options.get("vlan")
    return PortVlans(
        dev=dev,
        access=None if access is None else int(access),
        trunk=_trunk(net),
        keep_default=net.driver_options.get("preserve_default_vlan") == "true",
        own=own,
    )


def _filters(net: NetworkRecord) -> bool:
    return bool({"vlan", "vlan_trunk"} & net.driver_options.keys())
