"""Conntrack: forget the flows of a published port.

Shapes   ports in host order; a flow is the original and the reply tuple the kernel keeps of it
Errors   OSError from the kernel; a flow that ended by itself meanwhile is success
Source   include/uapi/linux/netfilter/nfnetlink_conntrack.h. The kernel filters the dump
         (CTA_FILTER, since 5.8), so the cost is a walk of its table, not a copy of it

The socket stays open, one for each namespace: closing it after a rule was deleted waits for RCU,
5 ms. It is one thread's own, and a forked child opens another, or they would read each other's
answers.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netkit.addresses import Address

_NETLINK_NETFILTER = 12
_CT_GET, _CT_DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_REPLY, _FILTER = 1, 2, 25
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_FILTER_ORIG_FLAGS = 1
_BY_PROTO, _BY_DST_PORT = 1 << 3, 1 << 5
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP, "sctp": socket.IPPROTO_SCTP}
_FAMILIES: dict[
    int, tuple[int, int, int, type[IPv4Address] | type[IPv6Address]]
] = {  # of an IP version: its address family, CTA_IP_*_SRC and CTA_IP_*_DST, its class
    4: (socket.AF_INET, 1, 2, IPv4Address),
    6: (socket.AF_INET6, 3, 4, IPv6Address),
}
_TIMEOUT_S = 10
_kept = threading.local()


class Published(NamedTuple):
    """Ports *first* to *last* of the host's addresses *host*, translated to *container*."""

    first: int
    last: int
    host: Collection[Address]
    container: Address


def forget(protocol: str, published: Iterable[Published], *, version: int = 4) -> None:
    """Delete the flows to these ports of the host, or from these ports led to the container.

    Those to the same ports of other machines stay: a published 53/udp does not cut the host's DNS.
    One walk of the kernel's table serves all: it takes 10 ms even while that is empty.
    """
    meant: dict[int, list[Published]] = {}
    for each in published:
        for port in range(each.first, each.last + 1):
            meant.setdefault(port, []).append(each)
    with _socket() as sock:
        # a dump is finished before anything is deleted: it would otherwise miss flows that move
        for flow, port, to, by in list(_flows(sock, version, _PROTOCOLS[protocol], meant)):
            if not any(to in each.host or by == each.container for each in meant[port]):
                continue
            _request(sock, version, _CT_DELETE, _REQUEST | _ACK, _nest(_TUPLE_ORIG, flow))
            try:
                for _ in _answers(sock):
                    pass
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise


def close() -> None:
    """Close what this thread has open: an open socket keeps its namespace alive."""
    for sock in vars(_kept).values():
        sock.close()
    vars(_kept).clear()


@contextmanager
def _socket() -> Iterator[socket.socket]:
    """The socket of the caller's namespace; after an error, when answers may be left, it closes."""
    found = os.stat("/proc/thread-self/ns/net")
    here = f"{os.getpid()} {found.st_dev}:{found.st_ino}"
    sock = vars(_kept).pop(here, None)
    if sock is None:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
        sock.settimeout(_TIMEOUT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    try:
        yield sock
    except BaseException:
        sock.close()
        raise
    vars(_kept)[here] = sock


def _flows(
    sock: socket.socket, version: int, protocol: int, ports: Collection[int]
) -> Iterator[tuple[bytes, int, Address, Address]]:
    """Each flow to these ports: its original tuple as the kernel sent it; port, to whom, from."""
    _, source, destination, address = _FAMILIES[version]
    proto, flags = _attribute(_PROTO_NUM, bytes([protocol])), _BY_PROTO
    if len(ports) == 1:
        proto += _attribute(_PROTO_DST_PORT, struct.pack(">H", *ports))
        flags |= _BY_DST_PORT
    wanted = _nest(_TUPLE_ORIG, _nest(_TUPLE_IP, b"") + _nest(_TUPLE_PROTO, proto))
    wanted += _nest(_FILTER, _attribute(_FILTER_ORIG_FLAGS, struct.pack("=I", flags)))
    _request(sock, version, _CT_GET, _REQUEST | _DUMP, wanted)
    for message in _answers(sock):
        flow = _attributes(message[4:])
        packed = _attributes(_attributes(flow[_TUPLE_ORIG])[_TUPLE_PROTO])[_PROTO_DST_PORT]
        port = struct.unpack(">H", packed)[0]
        if port in ports:
            to = _attributes(_attributes(flow[_TUPLE_ORIG])[_TUPLE_IP])[destination]
            by = _attributes(_attributes(flow[_TUPLE_REPLY])[_TUPLE_IP])[source]
            yield flow[_TUPLE_ORIG], port, address(to), address(by)


def _request(sock: socket.socket, version: int, kind: int, flags: int, attributes: bytes) -> None:
    body = struct.pack("BBH", _FAMILIES[version][0], 0, 0) + attributes
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)


def _answers(sock: socket.socket) -> Iterator[bytes]:
    """The body of each message up to the end of a dump, or to the acknowledgement."""
    while True:
        data = sock.recv(1 << 16)
        while data:
            length, kind, _, _, _ = struct.unpack_from("=IHHII", data)
            if kind == _DONE:
                return
            if kind == _ERROR:
                code = -struct.unpack_from("=i", data, 16)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield data[16:length]
            data = data[(length + 3) & ~3 :]


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nest(kind: int, value: bytes) -> bytes:
    return _attribute(kind | _NESTED, value)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found
