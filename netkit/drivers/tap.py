"""A tap device: Ethernet frames to and from a program in the container, a virtual machine's say.

    -o owner=UID  -o group=GID    who may open it without being root
    -o multi_queue=true           several queues, for as many threads
    -o bridge=NAME                a bridge in the container that it becomes a port of

Source   CNI's tap plugin; Documentation/networking/tuntap.rst
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netkit.drivers import Traits, devices
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec
from netkit.steps import Enslave, Plan, Tap

_IDS = range((1 << 32) - 1)  # the last one means nobody
_SELINUX = "selinux_context"


def settle(net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]) -> NetworkRecord:
    if _SELINUX in net.driver_options:
        text = net.driver_options[_SELINUX]
        devices.refuse(net, _SELINUX, text, "not supported", "label the process that opens it")
    return devices.settled(
        net,
        spec,
        {
            "owner": devices.number(net, "owner", _IDS),
            "group": devices.number(net, "group", _IDS),
            "multi_queue": devices.flag(net, "multi_queue"),
            "bridge": devices.ifname(net, "bridge"),
        },
    )


TRAITS = Traits(
    options=frozenset({"owner", "group", "multi_queue", "bridge", _SELINUX}),
    gateway=False,
    host_end=False,
    publishes=False,
    settle=settle,
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return {}


def network(net: NetworkRecord) -> Plan:
    return ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    options = net.driver_options
    made = Tap(
        name=ep.ifname,
        at=ep.netns,
        mac=ep.mac,
        mtu=net.mtu or None,
        owner=_id(options, "owner"),
        group=_id(options, "group"),
        multi_queue=options["multi_queue"] == "true",
    )
    joined: Plan = ()
    if "bridge" in options:
        joined = (Enslave(dev=ep.ifname, master=options["bridge"], kind="bridge", at=ep.netns),)
    return (made, *joined, *devices.interface(net, ep))


def _id(options: Mapping[str, str], word: str) -> int | None:
    return int(options[word]) if word in options else None
