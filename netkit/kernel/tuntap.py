"""Tap and tun devices: Ethernet or IP frames to and from a program, a virtual machine's say.

Shapes   owner and group are numeric ids: who may attach to the device without being root
Errors   OSError: EBUSY where the name is taken, EPERM or EACCES where /dev/net/tun is closed to us,
         EOPNOTSUPP where the kernel has none (netkit.kernel.features)
Source   Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h. Not over rtnetlink: the
         kernel refuses that for this kind. A device belongs to the namespace of who opens the file
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from netkit.kernel import features, program

_DEVICE = "/dev/net/tun"
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_TUNSETOWNER, _TUNSETGROUP = 0x400454CC, 0x400454CE
_MODES = {"tun": 0x1, "tap": 0x2}
_MULTI_QUEUE, _NO_PI, _VNET_HDR, _EXCL = 0x100, 0x1000, 0x4000, 0x8000
_SIOCSIFMTU, _SIOCSIFHWADDR = 0x8922, 0x8924
_ARPHRD_ETHER = 1
_ABSENT = (errno.ENOENT, errno.ENODEV, errno.ENXIO)


def create(
    name: str,
    mode: str = "tap",
    *,
    mac: str | None = None,
    mtu: int | None = None,
    owner: int | None = None,
    group: int | None = None,
    multi_queue: bool = False,
    vnet_hdr: bool = False,
) -> None:
    """Make a device that stays, down; in the namespace of the calling thread."""
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise features.missing("tun") if error.errno in _ABSENT else error from None
    flags = _MODES[mode] | _NO_PI | _EXCL | _MULTI_QUEUE * multi_queue | _VNET_HDR * vnet_hdr
    ifname = name.encode()
    try:
        # until it is told to stay, it goes with this file: so it is made whole, or not at all
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", ifname, flags))
        if mac is not None:
            address = bytes.fromhex(mac.replace(":", ""))
            request = struct.pack("16sH14s8x", ifname, _ARPHRD_ETHER, address)
            fcntl.ioctl(fd, _SIOCSIFHWADDR, request)
        if mtu is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                fcntl.ioctl(sock, _SIOCSIFMTU, struct.pack("16si20x", ifname, mtu))
        for request_id, number in ((_TUNSETOWNER, owner), (_TUNSETGROUP, group)):
            if number is not None:
                fcntl.ioctl(fd, request_id, number)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)


def create_labelled(
    label: str,
    name: str,
    *,
    mac: str,
    mtu: int | None = None,
    owner: int | None = None,
    group: int | None = None,
    multi_queue: bool = False,
) -> None:
    """Make a tap whose maker had the SELinux context *label*: who opens it is held to that.

    A process gets a context when it starts, so it takes another one to make it.
    """
    words = [word for pair in _named(user=owner, group=group) for word in pair]
    words += ["multi_queue"] if multi_queue else []
    program.call(("runcon", label, "ip", "tuntap", "add", name, "mode", "tap", *words), "")
    try:
        sizes = [word for pair in _named(mtu=mtu) for word in pair]
        program.call(("ip", "link", "set", name, "address", mac, *sizes), "")
    except BaseException:
        program.call(("ip", "link", "del", name), "")
        raise


def _named(**values: int | None) -> list[tuple[str, str]]:
    return [(word, str(value)) for word, value in values.items() if value is not None]
