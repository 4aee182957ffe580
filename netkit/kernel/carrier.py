"""Carrier: wait until an interface is there, up, and its other end as well.

Shapes   a namespace by its path, None the caller's own
Units    seconds
Errors   OSError from the kernel
Source   rtnetlink(7): a socket in RTMGRP_LINK is told of every change of a link; netdevice(7) and
         the kernel's networking/operstates: IFF_RUNNING is what an application should look at
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
import time
from typing import Literal

from netkit.kernel import netns

State = Literal["missing", "down", "without carrier", "ready"]

_RTMGRP_LINK = 1
_SIOCGIFFLAGS = 0x8913
_IFF_UP, _IFF_RUNNING = 0x1, 0x40


def wait(path: str | None, ifname: str, timeout_s: float) -> State:
    """Until *ifname* is ready, or the time is up; how it is then."""
    end = time.monotonic() + timeout_s
    with _listen() if path is None else netns.run(path, _listen) as sock:
        while True:
            # looked at after the socket is told of changes: none falls between
            state = _state(sock, ifname)
            left_s = end - time.monotonic()
            if state == "ready" or left_s <= 0:
                return state
            sock.settimeout(left_s)
            try:
                sock.recv(1 << 16)
            except TimeoutError:
                pass
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more was told than there is room for
                    raise


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    sock.bind((0, _RTMGRP_LINK))
    return sock


def _state(sock: socket.socket, ifname: str) -> State:
    try:
        # asked on any socket of the namespace
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("15sx24x", ifname.encode()))
    except OSError as error:
        if error.errno == errno.ENODEV:
            return "missing"
        raise
    flags: int = struct.unpack_from("16xH", answer)[0]
    if not flags & _IFF_UP:
        return "down"
    return "ready" if flags & _IFF_RUNNING else "without carrier"
