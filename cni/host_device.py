"""`host-device`: an interface of the host's, moved into the container and given back as it was.

Source   containernetworking/plugins, plugins/main/host-device: keys, their order, and the result

One that a program drives (DPDK) has no interface: it is in the result, with its addresses, and left
as it is. Beyond the reference: the interface comes back with all it had, also where the container's
namespace is gone (netkit.steps.Physical); and an ambiguous choice is refused.
"""

from __future__ import annotations

import re

import msgspec

from cni.call import Answer, Call
from cni.spec import CniError, Code, Interface, options
from netkit import attaching, naming, steps
from netkit.kernel import devices, netns
from netkit.kernel.netlink import Link

_MOST = 1024
_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,127}")


class Conf(msgspec.Struct):
    device: str = ""
    hwaddr: str = ""
    kernelpath: str = ""
    pci: str = msgspec.field(default="", name="pciBusID")

    def __post_init__(self) -> None:
        if self.device:
            naming.validate_ifname(self.device)
        if self.hwaddr:
            self.hwaddr = naming.parse_mac(self.hwaddr)
        if self.kernelpath and not _fits(devices.PATH, self.kernelpath):
            raise ValueError(f"kernelpath is {self.kernelpath!r:.80}, no path below /sys/devices")
        if self.pci:
            self.pci = self.pci.lower()
            if not _fits(devices.PCI_ADDRESS, self.pci):
                raise ValueError(f"pciBusID is {self.pci!r:.80}, not such as 0000:03:00.0")


def _fits(pattern: re.Pattern[str], text: str) -> bool:
    return len(text) <= _MOST and pattern.fullmatch(text) is not None


class Runtime(msgspec.Struct):
    device_id: str = msgspec.field(default="", name="deviceID")

    def __post_init__(self) -> None:
        if self.device_id and not _ID.fullmatch(self.device_id):
            raise ValueError(f"deviceID is {self.device_id!r:.80}, no device's")


def propose(call: Call) -> Answer:
    pci, path = _hardware(call)
    if pci and devices.is_programs(pci):
        return Answer(call.result(Interface(call.ifname, sandbox=call.at, pci_id=pci)))
    moved = _moved(call, path or pci)
    link = _sought(call, moved)
    mac = (link and link.mac) or ""
    plan = (moved, *call.ipv6_of_lan(), *call.numbered(), *call.announced(mac))
    of_pci = pci if moved.device == pci else ""
    inside = Interface(call.ifname, mac, call.at, mtu=link.mtu if link else 0, pci_id=of_pci)
    return Answer(call.result(inside), attaching.Proposal(plan))


def _hardware(call: Call) -> tuple[str, str]:
    """The PCI address, and else the path below /sys, of the device that is meant."""
    conf: Conf = call.conf
    wanted = options(call.command.runtime, Runtime, "runtimeConfig").device_id
    if not wanted:
        return conf.pci, conf.kernelpath
    try:
        found, is_pci = devices.on_bus(wanted)
    except FileNotFoundError:
        raise CniError(
            Code.INVALID_CONFIG,
            f"there is no PCI or auxiliary device {wanted!r} on this host",
            "runtimeConfig.deviceID is the device plugin's word",
        ) from None
    return (found, conf.kernelpath) if is_pci else ("", conf.kernelpath or found)


def _moved(call: Call, hardware: str) -> steps.Physical:
    """The move, of the interface that the first of the keys names."""
    conf: Conf = call.conf
    if not (conf.device or conf.hwaddr or hardware):
        raise CniError(
            Code.INVALID_CONFIG,
            "host-device needs one of device, hwaddr, kernelpath and pciBusID",
            'such as "device": "eth1"',
        )
    by_mac = conf.hwaddr if not conf.device else ""
    return steps.Physical(
        name=call.ifname,
        at=call.at,
        pin=f"{netns.PINNED}{call.alias.rpartition(':')[2]}",
        alias=call.alias,
        dev=conf.device or None,
        mac=by_mac or None,
        device=hardware if not (conf.device or by_mac) else None,
    )


def _sought(call: Call, moved: steps.Physical) -> Link | None:
    """The interface on the host, or, once it has been moved, in the container."""
    inside = call.kernel.netlink(call.at).link(call.ifname)
    if inside is not None and inside.alias == call.alias:
        return inside
    try:
        names = (
            [moved.dev] if moved.dev else call.kernel.find_links(mac=moved.mac, device=moved.device)
        )
    except FileNotFoundError:
        return None  # which the step says better
    return call.kernel.netlink().link(names[0]) if names else None
