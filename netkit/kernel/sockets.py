"""Ports of the host: whether one is free, and which process has it if not.

Shapes   protocol as text; the address 0.0.0.0 is all of the host's, :: all of IPv6's
Errors   OSError: EADDRINUSE, or EADDRNOTAVAIL for an address the host does not have
Source   bind(2): with SO_REUSEADDR a TCP port that only lingers in TIME_WAIT is free, one that
         somebody listens on is not. proc(5) for /proc/net/tcp and /proc/PID/fd
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

from netkit.addresses import Address

LOCAL_PORT_RANGE = "net/ipv4/ip_local_port_range"
RESERVED_PORTS = "net/ipv4/ip_local_reserved_ports"

_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_STREAM, socket.IPPROTO_SCTP),
}


def probe(protocol: str, address: Address, port: int) -> None:
    """Bind the port for a moment: OSError says why it cannot be had."""
    kind, number = _KINDS[protocol]
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, kind, number)
    except OSError:
        return  # a kernel without the protocol has nobody listening on it either
    with sock:
        if address.version == 6:  # IPv4's ports are asked for by themselves
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol != "udp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((str(address), port))


def local_port_range(text: str | None, reserved: str | None) -> tuple[range, set[int]]:
    """What the kernel's two settings mean: the range for random ports, and the holes in it."""
    low, high = (text or "49153 65535").split()
    holes: set[int] = set()
    for part in filter(None, (reserved or "").split(",")):
        first, _, last = part.partition("-")
        holes |= set(range(int(first), int(last or first) + 1))
    return range(int(low), int(high) + 1), holes


def holder(protocol: str, port: int) -> str | None:
    """Who has the port, as "nginx (pid 812)"; None if it cannot be told. Slow: for messages."""
    for pid in holders(protocol, port):
        with suppress(OSError), open(f"/proc/{pid}/comm") as comm:  # it may have ended
            return f"{comm.read().strip()!r} (pid {pid})"
    return None


def holders(protocol: str, port: int) -> Iterator[int]:
    """The processes that have the port, but for those of users we may not look into."""
    inodes = set()
    for family in ("", "6"):
        try:
            with open(f"/proc/thread-self/net/{protocol}{family}") as table:
                rows = [line.split() for line in table][1:]
        except OSError:
            continue
        inodes |= {row[9] for row in rows if int(row[1].rpartition(":")[2], 16) == port}
    inodes.discard("0")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with os.scandir(f"/proc/{pid}/fd") as fds:
                links = [os.readlink(fd.path) for fd in fds]
        except OSError:
            continue  # it ended, or is not ours to look into
        if any((m := re.match(r"socket:\[(\d+)\]", link)) and m[1] in inodes for link in links):
            yield int(pid)
