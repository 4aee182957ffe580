"""DHCP messages: bytes to a message and back, and what its options say.

Shapes   options are raw: code to bytes. The functions below read them; what is malformed, or means
         nothing, reads as if it were not there. So nothing a server sends can do worse than that
Errors   Malformed, from `Message.decode` alone
Source   RFC 2131 (message), RFC 2132 (options), RFC 3396 (long ones), RFC 3442 (classless routes),
         RFC 3397 and RFC 1035 section 4.1.4 (search list)

Pure; written here, for the one library there is (dhcppython) has not moved since 2020.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

ANY, BROADCAST = IPv4Address("0.0.0.0"), IPv4Address("255.255.255.255")
MOST_BYTES = 1500  # of an IP packet; told to the server, and all that is listened for


class Malformed(ValueError):
    """The bytes are no DHCP message."""


class Kind(IntEnum):
    """What a message is: option 53."""

    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    """The options that are read or written here; others are passed on as numbers."""

    PAD = 0
    SUBNET_MASK = 1
    ROUTERS = 3
    NAME_SERVERS = 6
    HOST_NAME = 12
    DOMAIN = 15
    MTU = 26
    STATIC_ROUTES = 33
    WANTED_ADDRESS = 50
    LEASE_TIME = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    REQUESTED = 55
    MESSAGE = 56
    MOST_BYTES = 57
    RENEWAL_TIME = 58
    REBINDING_TIME = 59
    VENDOR_CLASS = 60
    CLIENT_ID = 61
    USER_CLASS = 77
    SEARCH = 119
    CLASSLESS_ROUTES = 121
    END = 255


Options = Mapping[int, bytes]

_HEADER = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s")
_COOKIE = b"\x63\x82\x53\x63"
_LEAST_BYTES = 300  # BOOTP's: relays drop shorter ones
_BOOTREQUEST, _BOOTREPLY, _ETHERNET = 1, 2, 1
_BROADCAST_FLAG = 0x8000
_FILE, _SNAME = 1, 2  # option 52: which fields hold options, too
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?", re.ASCII)
_LEAST_MTU = 576  # what every host must take: less is a mistake, or meant ill
_NAME_BYTES = 253


class Message(NamedTuple):
    """One message; `hops`, `siaddr` and the boot file are of no use to a client of ours."""

    reply: bool
    xid: int
    mac: bytes
    options: Options
    secs: int = 0
    broadcast: bool = False
    ciaddr: IPv4Address = ANY  # the client's, which uses it
    yiaddr: IPv4Address = ANY  # yours: what the server gives
    giaddr: IPv4Address = ANY  # of the relay

    @property
    def kind(self) -> int:
        return number(self.options, Option.KIND, 1) or 0

    def encode(self) -> bytes:
        fixed = _HEADER.pack(
            _BOOTREPLY if self.reply else _BOOTREQUEST,
            _ETHERNET,
            len(self.mac),
            0,
            self.xid,
            min(self.secs, 0xFFFF),
            _BROADCAST_FLAG if self.broadcast else 0,
            self.ciaddr.packed,
            self.yiaddr.packed,
            bytes(4),
            self.giaddr.packed,
            self.mac,
            b"",
            b"",
        )
        options = b"".join(_encode(code, value) for code, value in self.options.items())
        return (fixed + _COOKIE + options + bytes([Option.END])).ljust(_LEAST_BYTES, b"\0")

    @classmethod
    def decode(cls, data: bytes) -> Message:
        if len(data) < _HEADER.size + len(_COOKIE):
            raise Malformed(f"{len(data)} bytes are too few for a message")
        op, _, size, _, xid, secs, flags, ci, yi, _, gi, mac, sname, file = _HEADER.unpack_from(
            data
        )
        if op not in (_BOOTREQUEST, _BOOTREPLY) or size > len(mac):
            raise Malformed(f"op {op}, with a hardware address of {size} bytes")
        rest = data[_HEADER.size :]
        if not rest.startswith(_COOKIE):
            raise Malformed("the options do not begin with DHCP's cookie")
        found: dict[int, bytes] = {}
        _decode(rest[len(_COOKIE) :], found)
        where = found.pop(Option.OVERLOAD, b"")
        if where:
            for bit, field in ((_FILE, file), (_SNAME, sname)):
                if where[0] & bit:
                    _decode(field, found)
            found.pop(Option.OVERLOAD, None)
        return cls(
            op == _BOOTREPLY,
            xid,
            mac[:size],
            found,
            secs,
            bool(flags & _BROADCAST_FLAG),
            *(IPv4Address(each) for each in (ci, yi, gi)),
        )


def _encode(code: int, value: bytes) -> bytes:
    """An option; in parts, if it is too long for one."""
    parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


def _decode(data: bytes, found: dict[int, bytes]) -> None:
    """Add the options in *data* to those *found*; the parts of one that comes twice are joined."""
    at = 0
    while at < len(data) and (code := data[at]) != Option.END:
        if code == Option.PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            raise Malformed(f"option {code} is longer than what holds it")
        end = at + 2 + data[at + 1]
        found[code] = found.get(code, b"") + data[at + 2 : end]
        at = end


# -- what options say


def is_host(address: IPv4Address) -> bool:
    """Whether *address* may be one machine's: no network, group or loopback."""
    return not (
        address.is_multicast
        or address.is_loopback
        or address.is_reserved  # 240.0.0.0/4, and the broadcast address with it
        or address in _THIS_NETWORK
    )


_THIS_NETWORK = IPv4Network("0.0.0.0/8")


def addresses(options: Options, code: int) -> tuple[IPv4Address, ...]:
    """A list of machines, without what can be none."""
    value = options.get(code, b"")
    if len(value) % 4:
        return ()
    return tuple(filter(is_host, (IPv4Address(value[n : n + 4]) for n in range(0, len(value), 4))))


def number(options: Options, code: int, size: int = 4) -> int | None:
    value = options.get(code, b"")
    return int.from_bytes(value, "big") if len(value) == size else None


def prefix_length(options: Options) -> int | None:
    """Of the subnet mask; None for one with holes, or of no bits."""
    mask = number(options, Option.SUBNET_MASK)
    if not mask:
        return None
    host_bits = mask ^ 0xFFFFFFFF
    return None if host_bits & (host_bits + 1) else 32 - host_bits.bit_length()


def mtu(options: Options) -> int | None:
    found = number(options, Option.MTU, 2)
    return found if found is not None and found >= _LEAST_MTU else None


def routes(options: Options) -> list[tuple[IPv4Network, IPv4Address]]:
    """Destinations and gateways; the gateway 0.0.0.0 stands for the link itself.

    Where there are classless routes, neither the others nor the routers count (RFC 3442).
    """
    if classless := list(_classless(options.get(Option.CLASSLESS_ROUTES, b""))):
        return classless
    routers = addresses(options, Option.ROUTERS)
    default = [(IPv4Network("0.0.0.0/0"), router) for router in routers[:1]]
    return [*_classful(options.get(Option.STATIC_ROUTES, b"")), *default]


def _classless(value: bytes) -> Iterator[tuple[IPv4Network, IPv4Address]]:
    found, at = [], 0
    while at < len(value):
        bits = value[at]
        middle = at + 1 + (bits + 7) // 8
        end = middle + 4
        if bits > 32 or end > len(value):
            return  # not understood as a whole, so not at all
        # bits beyond the prefix may be set; they mean nothing
        dst = IPv4Network((value[at + 1 : middle].ljust(4, b"\0"), bits), strict=False)
        gateway = IPv4Address(value[middle:end])
        if gateway == ANY or is_host(gateway):
            found.append((dst, gateway))
        at = end
    yield from found


def _classful(value: bytes) -> Iterator[tuple[IPv4Network, IPv4Address]]:
    if len(value) % 8:
        return
    for at in range(0, len(value), 8):
        dst, gateway = IPv4Address(value[at : at + 4]), IPv4Address(value[at + 4 : at + 8])
        if is_host(dst) and is_host(gateway):  # no default route by this option (RFC 2132 5.8)
            bits = 8 if dst.packed[0] < 128 else 16 if dst.packed[0] < 192 else 24
            yield IPv4Network((dst, bits), strict=False), gateway


def domain(options: Options) -> str:
    """The domain's name, if it is one: it is to stand in a resolv.conf."""
    with suppress(UnicodeDecodeError):
        name = options.get(Option.DOMAIN, b"").rstrip(b"\0").decode("ascii").rstrip(".")
        if _is_name(name):
            return name
    return ""


def search(options: Options) -> tuple[str, ...]:
    """The search list; empty if any of it is malformed."""
    value, found, at = options.get(Option.SEARCH, b""), [], 0
    while at < len(value):
        name, at = _name(value, at)
        if not _is_name(name):
            return ()
        found.append(name)
    return tuple(dict.fromkeys(found))


def _name(value: bytes, at: int) -> tuple[str, int]:
    """The name at *at*, and where the next one begins; "" if it is none."""
    labels: list[str] = []
    end, size = None, 0
    while at < len(value) and size <= _NAME_BYTES:
        length = value[at]
        if length == 0:
            return ".".join(labels), at + 1 if end is None else end
        if length >= 0xC0:
            if at + 2 > len(value):
                break
            end = at + 2 if end is None else end
            target = int.from_bytes(value[at : at + 2], "big") & 0x3FFF
            if target >= at:  # backwards only, or it might never end
                break
            at = target
            continue
        if length > 63:
            break
        labels.append(value[at + 1 : at + 1 + length].decode("latin-1"))
        size += 1 + length
        at += 1 + length
    return "", len(value)


def _is_name(name: str) -> bool:
    return len(name) <= _NAME_BYTES and all(_LABEL.fullmatch(label) for label in name.split("."))
