"""Devices: which interfaces are on a piece of hardware.

Shapes   a PCI address ("0000:00:1f.6"), or a path below /sys ("/sys/devices/pci0000:00/...")
Errors   FileNotFoundError for a device that is not there; none is an empty list
Source   sysfs(5). /sys/class/net shows the namespace /sys was mounted in: the caller compares
"""

from __future__ import annotations

import errno
import os
import re

SYSFS = "/sys"
PCI_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
PATH = re.compile(r"/sys/devices(/[A-Za-z0-9_:@,+-][A-Za-z0-9_.:@,+-]*)+")
# what hands a device to a program, so that no interface is on it
_USERSPACE = ("vfio-pci", "uio_pci_generic", "igb_uio")


def interfaces(device: str) -> list[str]:
    """The interfaces on *device*, or on what sits on it: a virtio network card on its PCI slot."""
    wanted = device if device.startswith("/") else f"{SYSFS}/bus/pci/devices/{device}"
    if not os.path.exists(wanted):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), wanted)
    path = os.path.realpath(wanted)
    found = []
    for name in sorted(os.listdir(f"{SYSFS}/class/net")):
        # bonding_masters is a file there, and what has no hardware has no device
        own = f"{SYSFS}/class/net/{name}/device"
        if os.path.exists(own) and f"{os.path.realpath(own)}/".startswith(f"{path}/"):
            found.append(name)
    return found


def is_programs(address: str) -> bool:
    """Whether the PCI device is driven by a program (DPDK), and not by the kernel."""
    driver = os.path.realpath(f"{SYSFS}/bus/pci/devices/{address}/driver")
    return os.path.basename(driver) in _USERSPACE


def on_bus(id: str) -> tuple[str, bool]:
    """A device plugin's *id* as PCI address or path; and whether it is the former."""
    if os.path.exists(f"{SYSFS}/bus/pci/devices/{id}"):
        return id, True
    path = f"{SYSFS}/bus/auxiliary/devices/{id}"
    if os.path.exists(path):
        return path, False
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), id)
