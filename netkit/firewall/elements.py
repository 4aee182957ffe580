"""Elements of nftables' sets and maps, put and taken in one transaction, packed by hand.

    add([Element("inet netkit wildcard4", "tcp . 8080", "10.88.0.2 . 80")], SCRIPT)

Shapes   an element is text as `nft` reads it; of which types that text is, the script that makes
         its set says, so nothing is asked of the kernel
Errors   OSError with the kernel's errno; nothing of a batch that is refused was done
Source   include/uapi/linux/netfilter/nf_tables.h; nft(8) for the types, each of which lies in the
         key at a multiple of 4 bytes

libnftables would first fetch all tables, chains and sets of the host, other tools' too: eight
requests and 0.4 ms on a host that has none but ours, and more with each that comes.
"""

from __future__ import annotations

import errno
import re
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from ipaddress import ip_network
from itertools import groupby
from typing import NamedTuple

from netkit.attributes import nest, pack
from netkit.firewall.nfnetlink import (
    ACK,
    CREATE,
    ERROR,
    REQUEST,
    message,
    messages,
    opened,
    refusal,
)

_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES; the subsystem a batch is for
_NEW, _DELETE = _NFTABLES << 8 | 12, _NFTABLES << 8 | 14  # NFT_MSG_*SETELEM
_FLAGS = {_NEW: REQUEST | CREATE, _DELETE: REQUEST}
_TABLE, _SET, _ELEMENTS = 1, 2, 3  # NFTA_SET_ELEM_LIST_*
_LIST_ELEM, _VALUE = 1, 1  # NFTA_LIST_ELEM, NFTA_DATA_VALUE
_KEY, _DATA, _TIMEOUT, _KEY_END = 1, 2, 4, 10  # NFTA_SET_ELEM_*
_FAMILIES = {"inet": 1, "bridge": 7}  # NFPROTO_*
_AT_MOST = 200  # elements of one message: the length of an attribute is 16 bits
_SO_SNDBUFFORCE = 32
_ROOM = 16384  # for what the kernel adds to a message it sends

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_VERSIONS = {"ipv4": 2, "ipv6": 10}
_ETHERTYPES = {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86DD, "8021q": 0x8100, "8021ad": 0x88A8}
_SETS = re.compile(r"^\t(?:set|map) (\w+) \{ (type|typeof) ([^:;]+?)(?: : ([^;]+))?;", re.MULTILINE)


class Element(NamedTuple):
    """One element of a set (`data` empty) or of a map."""

    home: str  # "inet netkit ports4": family, table, set
    key: str
    data: str = ""
    timeout_s: int = 0  # it goes by itself; 0: it stays

    def text(self) -> str:
        """As `nft add element` reads it."""
        timeout = f" timeout {self.timeout_s}s" if self.timeout_s else ""
        return f"{self.key}{timeout}" + (f" : {self.data}" if self.data else "")


def add(elements: Sequence[Element], script: str) -> None:
    """Put elements into the sets that *script* makes; EEXIST for a key that has other data.

    The time of those that go by themselves begins anew: kernels before 6.12 would let it run on
    if they are there, hence they are put, taken away and put, in one transaction.
    """
    passing = [element for element in elements if element.timeout_s]
    _transact([(_NEW, elements), (_DELETE, passing), (_NEW, passing)], script)


def delete(elements: Sequence[Element], script: str) -> None:
    """Take elements away; ENOENT if one of them is not there."""
    _transact([(_DELETE, elements)], script)


def exchange(gone: Sequence[Element], added: Sequence[Element], script: str) -> None:
    """Take elements away and put others, in one transaction; errors as both have them."""
    _transact([(_DELETE, gone), (_NEW, added)], script)


def _transact(changes: Iterable[tuple[int, Sequence[Element]]], script: str) -> None:
    bodies = [
        (kind, family, body)
        for kind, elements in changes
        for family, body in _bodies(elements, script, whole=kind == _NEW)
    ]
    if not bodies:
        return
    # the last one's acknowledgement is that of all: errors come before it
    *most, (last, family, body) = bodies
    batch = [
        message(_BEGIN, REQUEST, 0, resource=_NFTABLES),
        *(message(kind, _FLAGS[kind], family, body) for kind, family, body in most),
        message(last, _FLAGS[last] | ACK, family, body),
        message(_END, REQUEST, 0, resource=_NFTABLES),
    ]
    data = b"".join(batch)
    with opened() as sock:
        if len(data) > _ROOM:
            _make_room(sock, 2 * len(data) + _ROOM)
        sock.send(data)
        # it was carried out while it was sent: all answers are there, the first error first
        found = [refusal(body) for kind, body in messages(sock) if kind == ERROR]
        if error := next(filter(None, found), None):
            raise error


def keys(elements: Iterable[Element], script: str) -> Iterator[tuple[str, bytes]]:
    """Where each element is, and its key as the kernel tells it; of an interval, the lowest."""
    for element in elements:
        yield element.home, _span(element.key, _types(script)[element.home][0])[0]


def _make_room(sock: socket.socket, size: int) -> None:
    """A batch is one message to the socket; beyond the machine's limit only root's may grow."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def _bodies(
    elements: Iterable[Element], script: str, *, whole: bool
) -> Iterable[tuple[int, bytes]]:
    """The family and the body of each message: elements of one set, as many as it takes."""
    for home, group in groupby(elements, key=lambda element: element.home):
        keys, data = _types(script)[home]
        family, table, name = home.split()
        packed = [nest(_LIST_ELEM, _packed(element, keys, data, whole=whole)) for element in group]
        where = pack(_TABLE, table.encode() + b"\0") + pack(_SET, name.encode() + b"\0")
        for at in range(0, len(packed), _AT_MOST):
            chunk = b"".join(packed[at : at + _AT_MOST])
            yield _FAMILIES[family], where + nest(_ELEMENTS, chunk)


def _packed(element: Element, keys: Sequence[str], data: Sequence[str], *, whole: bool) -> bytes:
    """An element; not `whole`: so much of it as tells which."""
    first, last = _span(element.key, keys)
    packed = nest(_KEY, pack(_VALUE, first))
    if last != first:
        packed += nest(_KEY_END, pack(_VALUE, last))
    if data and whole:
        packed += nest(_DATA, pack(_VALUE, _span(element.data, data)[0]))
    if element.timeout_s and whole:
        packed += pack(_TIMEOUT, struct.pack(">Q", element.timeout_s * 1000))
    return packed


def _span(text: str, types: Sequence[str]) -> tuple[bytes, bytes]:
    """The lowest and the highest value that *text* means: the same, unless it is an interval."""
    parts = [_PACK[kind](part) for kind, part in zip(types, text.split(" . "), strict=True)]
    if len(parts) == 1:
        return parts[0]
    low, high = (
        b"".join(each + bytes(-len(each) % 4) for each in end) for end in zip(*parts, strict=True)
    )
    return low, high


@cache
def _types(script: str) -> Mapping[str, tuple[Sequence[str], Sequence[str]]]:
    """The types of each set's keys, and of a map's data, as the script declares them."""
    found = {}
    for table in re.split(r"^table ", script, flags=re.MULTILINE)[1:]:
        where = table.partition(" {")[0]
        for name, _, keys, data in _SETS.findall(table):
            found[f"{where} {name}"] = keys.split(" . "), data.split(" . ") if data else []
    return found


def _one(to_bytes: Callable[[str], bytes]) -> Callable[[str], tuple[bytes, bytes]]:
    def both(text: str) -> tuple[bytes, bytes]:
        value = to_bytes(text)
        return value, value

    return both


def _addresses(text: str) -> tuple[bytes, bytes]:
    if "/" not in text:
        value = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
        return value, value
    net = ip_network(text)
    return net.network_address.packed, net.broadcast_address.packed


def _ports(text: str) -> tuple[bytes, bytes]:
    first, _, last = text.partition("-")
    return struct.pack(">H", int(first)), struct.pack(">H", int(last or first))


def _ifname(text: str) -> bytes:
    name = text.strip('"').encode()
    if len(name) > 15:
        raise OSError(errno.EINVAL, f"an interface's name has 15 bytes at most: {text}")
    return name.ljust(16, b"\0")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


_PACK: Mapping[str, Callable[[str], tuple[bytes, bytes]]] = {
    "ifname": _one(_ifname),
    "iifname": _one(_ifname),
    "ether_addr": _one(_mac),
    "ether saddr": _one(_mac),
    "ipv4_addr": _addresses,
    "ipv6_addr": _addresses,
    "nf_proto": _one(lambda text: bytes([_VERSIONS[text]])),
    "inet_proto": _one(lambda text: bytes([_PROTOCOLS[text]])),
    "inet_service": _ports,
    "ether_type": _one(lambda text: struct.pack(">H", _ETHERTYPES[text])),
    "@th,64,128": _one(lambda text: int(text, 16).to_bytes(16, "big")),
}
