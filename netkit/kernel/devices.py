"""Devices: which interfaces are on a piece of hardware.

Shapes   a PCI address ("0000:00:1f.6"), or a path below /sys ("/sys/devices/pci0000:00/...")
Errors   FileNotFoundError for a device that is not there; none is an empty list
Source   sysfs(5). /sys/class/net shows the namespace /sys was mounted in: the caller compares
"""

from __future__ import annotations

import errno
import os

SYSFS = "/sys"


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
