"""Conntrack: forget the flows of a published port.

Shapes   ports in host order; a flow is the original and the reply tuple the kernel keeps of it
Errors   OSError from the kernel; a flow that ended by itself meanwhile is success
Source   include/uapi/linux/netfilter/nfnetlink_conntrack.h. The kernel filters the dump
         (CTA_FILTER, since 5.8), so the cost is a walk of its table, not a copy of it
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from netkit.addresses import Address
from netkit.attributes import nest, pack, read
from netkit.firewall.nfnetlink import (
    ACK,
    DUMP,
    REQUEST,
    answers,
    message,
    opened,
)
from netkit.kernel.together import Together

_CT_GET, _CT_DELETE = 0x101, 0x102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
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


_COUNT = "/proc/sys/net/netfilter/nf_conntrack_count"
_FLOWS_A_WALK = 1000  # to look at so many of other ports takes as long as another walk


class Published(NamedTuple):
    """Ports *first* to *last* of the host's addresses *host*, translated to *container*."""

    first: int
    last: int
    host: Collection[Address]
    container: Address


_Wish = tuple[str, int, tuple[Published, ...]]  # protocol, IP version, ports


def forget(protocol: str, published: Iterable[Published], *, version: int = 4) -> None:
    """Delete the flows to these ports of the host, or from these ports led to the container.

    Those to the same ports of other machines stay: a published 53/udp does not cut the host's DNS.
    One walk of the kernel's table serves all, of several threads, too: it takes 10 ms, however
    few flows are in it.
    """
    if wish := tuple(published):
        _forget_together((protocol, version, wish))


def _forget_all(wishes: Sequence[_Wish]) -> None:
    flows = _count()
    together: dict[tuple[str, int], list[_Wish]] = {}
    for wish in wishes if flows else ():
        together.setdefault(wish[:2], []).append(wish)
    for (protocol, version), same in together.items():
        # of one port the kernel shows the flows it is about, of several all of the protocol
        if flows < _FLOWS_A_WALK * (len(same) - 1):
            _forget(protocol, version, [each for _, _, ports in same for each in ports])
        else:
            for _, _, ports in same:
                _forget(protocol, version, ports)


_forget_together = Together(_forget_all)


def _count() -> int:
    """How many flows the kernel remembers in the caller's namespace."""
    try:
        with open(_COUNT) as file:
            return int(file.read())
    except FileNotFoundError:
        return 1  # it does not say


def _forget(protocol: str, version: int, published: Iterable[Published]) -> None:
    meant: dict[int, list[Published]] = {}
    for each in published:
        for port in range(each.first, each.last + 1):
            meant.setdefault(port, []).append(each)
    with opened() as sock:
        # a dump is finished before anything is deleted: it would otherwise miss flows that move
        for flow, port, to, by in list(_flows(sock, version, _PROTOCOLS[protocol], meant)):
            if not any(to in each.host or by == each.container for each in meant[port]):
                continue
            _request(sock, version, _CT_DELETE, REQUEST | ACK, nest(_TUPLE_ORIG, flow))
            try:
                for _ in answers(sock):
                    pass
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise


def _flows(
    sock: socket.socket, version: int, protocol: int, ports: Collection[int]
) -> Iterator[tuple[bytes, int, Address, Address]]:
    """Each flow to these ports: its original tuple as the kernel sent it; port, to whom, from."""
    _, source, destination, address = _FAMILIES[version]
    proto, flags = pack(_PROTO_NUM, bytes([protocol])), _BY_PROTO
    if len(ports) == 1:
        proto += pack(_PROTO_DST_PORT, struct.pack(">H", *ports))
        flags |= _BY_DST_PORT
    wanted = nest(_TUPLE_ORIG, nest(_TUPLE_IP, b"") + nest(_TUPLE_PROTO, proto))
    wanted += nest(_FILTER, pack(_FILTER_ORIG_FLAGS, struct.pack("=I", flags)))
    _request(sock, version, _CT_GET, REQUEST | DUMP, wanted)
    for body in answers(sock):
        flow = read(body[4:])
        found = read(read(flow[_TUPLE_ORIG])[_TUPLE_PROTO])[_PROTO_DST_PORT]
        port = struct.unpack(">H", found)[0]
        if port in ports:
            to = read(read(flow[_TUPLE_ORIG])[_TUPLE_IP])[destination]
            by = read(read(flow[_TUPLE_REPLY])[_TUPLE_IP])[source]
            yield flow[_TUPLE_ORIG], port, address(to), address(by)


def _request(sock: socket.socket, version: int, kind: int, flags: int, body: bytes) -> None:
    sock.send(message(kind, flags, _FAMILIES[version][0], body))
