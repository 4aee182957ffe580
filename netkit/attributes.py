"""Netlink's attributes: a number and a value, one after the other, perhaps one in another.

Shapes   values are bytes; numbers in them lie as the machine has them, unless a protocol says else
Source   netlink(7): struct nlattr, padded to 4 bytes
"""

from __future__ import annotations

from struct import Struct

_HEADER = Struct("=HH")
_NESTED = 0x8000  # NLA_F_NESTED: netfilter insists on it, rtnetlink does without


def pack(number: int, value: bytes) -> bytes:
    return _HEADER.pack(4 + len(value), number) + value + bytes(-len(value) % 4)


def nest(number: int, inner: bytes) -> bytes:
    return pack(number | _NESTED, inner)


def read(data: bytes, at: int = 0) -> dict[int, bytes]:
    """What lies behind a header of *at* bytes; of a number that occurs twice, the last."""
    found = {}
    end = len(data) - 4
    while at <= end:
        length, number = _HEADER.unpack_from(data, at)
        found[number & 0x3FFF] = data[at + 4 : at + length]
        at += max((length + 3) & ~3, 4)
    return found
