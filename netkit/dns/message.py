"""DNS messages: a question read, an answer written, a foreign answer judged.

Shapes   a message is bytes. A name is text: lower-case, without the final dot, the root "". What no
         host name holds stands in it as `\\046`, so a dot inside a label ends no label
Units    bytes. Every record of ours has TTL 0: an address that moved is seen at once
Errors   none for what was received: `parse` tells what to do with it. ValueError for a name of ours
         that is none
Source   RFC 1035; 2181 section 5 and 9 (sets, truncation), 2308 (negative answers), 2782 (SRV),
         6891 (EDNS), 9619 (one question); 1232 is what DNS Flag Day 2020 agreed on

Pure, and written here: a name server of ours writes five kinds of records below a question it was
just sent, in 10 us where dnspython takes 125, and a container that asks for ever new names keeps
all others of its network waiting meanwhile. Tests hold every byte of it to dnspython.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

Address = IPv4Address | IPv6Address

MOST_BYTES = 65_535  # of a message over TCP
MOST_DATAGRAM_BYTES = 1232  # of one over UDP: it fits every link, so it never comes in fragments


class Type(IntEnum):
    """Of a record, or a question; others are numbers."""

    A = 1
    NS = 2
    SOA = 6
    PTR = 12
    AAAA = 28
    SRV = 33
    OPT = 41
    DS = 43
    DNSKEY = 48
    IXFR = 251
    AXFR = 252
    ANY = 255


class Code(IntEnum):
    """How it went: the RCODE."""

    NOERROR = 0
    FORMERR = 1
    SERVFAIL = 2
    NXDOMAIN = 3
    NOTIMP = 4
    REFUSED = 5
    BADVERS = 16


_HEADER = struct.Struct(">6H")  # id, flags, and how many records are in each section
_RECORD = struct.Struct(">HHIH")  # what follows a record's name: type, class, TTL, size
_PAIR = struct.Struct(">HH")
_START = _HEADER.size
_IN = 1
_QR, _AA, _TC, _RD, _RA, _CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
_OPCODE, _RCODE = 0x7800, 0xF
_DO = 0x8000
_LEAST_DATAGRAM_BYTES = 512
_LABEL_BYTES, _NAME_BYTES = 63, 255
_POINTER = 0xC000
_ASKED = (_POINTER | _START).to_bytes(2, "big")  # the name in the question
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
_NOT_PLAIN = re.compile(rb"[^a-z0-9_-]")
# without an owner's name of its own: the root's name server and person, and all times 0
_SOA_DATA = b"\0\0" + bytes(20)


class Query(NamedTuple):
    """One well-formed question, of class IN."""

    wire: bytes  # the whole message, as received
    end: int  # where the question ends
    name: str
    type: int
    edns: int | None  # where the OPT record begins; None: there is none
    limit: int  # bytes that an answer over UDP may have


def parse(data: bytes) -> Query | bytes | None:
    """What *data* asks; bytes: the answer that refuses it; None: leave it unanswered."""
    if len(data) < _START:
        return None
    _, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if flags & _QR:  # an answer to an answer would be a loop
        return None
    if flags & _OPCODE:
        return _refusal(data, Code.NOTIMP)
    if questions != 1 or answers or authorities:
        return _refusal(data, Code.FORMERR)
    try:
        labels, at = _labels(data)
        type_, class_ = _PAIR.unpack_from(data, at)
        query = Query(data, at + 4, _text(labels), type_, None, _LEAST_DATAGRAM_BYTES)
        if additional:
            query = _with_edns(query, additional)
        elif len(data) != query.end:
            raise ValueError
    except (ValueError, IndexError, struct.error):
        return _refusal(data, Code.FORMERR)
    if query.edns is not None and data[query.edns + 6]:
        return failure(query, Code.BADVERS)
    if class_ != _IN or type_ in (Type.IXFR, Type.AXFR):
        return failure(query, Code.REFUSED)
    if type_ == Type.OPT:
        return failure(query, Code.FORMERR)
    return query


def _labels(data: bytes) -> tuple[list[bytes], int]:
    """The question's, and where it goes on: there is nothing before it to point to."""
    labels, at = [], _START
    while length := data[at]:
        if length > _LABEL_BYTES:
            raise ValueError
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    if at + 1 - _START > _NAME_BYTES:
        raise ValueError
    return labels, at + 1


def _text(labels: list[bytes]) -> str:
    joined = b".".join(labels).lower()
    if len(joined.translate(None, _PLAIN)) != max(len(labels) - 1, 0):
        joined = b".".join(
            _NOT_PLAIN.sub(lambda found: b"\\%03d" % found[0][0], label.lower()) for label in labels
        )
    return joined.decode("ascii")


def _with_edns(query: Query, records: int) -> Query:
    at = query.end
    for start, end, type_, size, _, _ in _records(query.wire, query.end, records):
        at = end
        if type_ == Type.OPT:
            if query.edns is not None or query.wire[start]:
                raise ValueError
            limit = min(max(size, _LEAST_DATAGRAM_BYTES), MOST_DATAGRAM_BYTES)
            query = query._replace(edns=start, limit=limit)
    if at != len(query.wire):
        raise ValueError
    return query


def _records(data: bytes, at: int, count: int) -> Iterator[tuple[int, int, int, int, int, bytes]]:
    """Each record's begin and end, type, class, TTL and data; ValueError and the like if none."""
    for _ in range(count):
        start = at
        while length := data[at]:
            if length >= _POINTER >> 8:
                at += 1
                break
            if length > _LABEL_BYTES:
                raise ValueError
            at += 1 + length
        type_, class_, ttl, size = _RECORD.unpack_from(data, at + 1)
        begin = at + 1 + _RECORD.size
        at = begin + size
        if at > len(data):
            raise ValueError
        yield start, at, type_, class_, ttl, data[begin:at]


# -- answers of ours


def address_record(address: Address) -> bytes:
    packed = address.packed
    return _record(Type.A if len(packed) == 4 else Type.AAAA, packed)


def pointer_record(name: str) -> bytes:
    return _record(Type.PTR, _wire(name))


def service_record(port: int, target: str) -> bytes:
    return _record(Type.SRV, struct.pack(">HHH", 0, 0, port) + _wire(target))


def _record(type_: int, data: bytes, owner: bytes = _ASKED) -> bytes:
    return owner + _RECORD.pack(type_, _IN, 0, len(data)) + data


def _wire(name: str) -> bytes:
    """A name of ours, as bytes."""
    wire = b""
    for label in name.encode("ascii").split(b"."):
        if not 0 < len(label) <= _LABEL_BYTES:
            raise ValueError(f"{name!r:.80} is no name")
        wire += bytes([len(label)]) + label
    if len(wire) >= _NAME_BYTES:
        raise ValueError(f"{name!r:.80} is no name")
    return wire + b"\0"


def answer(query: Query, records: Sequence[bytes], limit: int) -> bytes:
    """As many of *records* as *limit* allows; should one be left out, the answer says so."""
    room = limit - query.end - len(_opt(query))
    told = list(records)
    while sum(map(len, told)) > room:
        told.pop()
    flags = _AA if len(told) == len(records) else _AA | _TC
    return _reply(query, flags, b"".join(told), answers=len(told))


def negative(query: Query, code: Code) -> bytes:
    """There is no such name (NXDOMAIN), or nothing of the type there (NOERROR); and do not keep
    that in mind: the SOA record says for how long, 0 s."""
    wire = query.wire
    parent = _START + 1 + wire[_START] if wire[_START] else _START
    soa = _record(Type.SOA, _SOA_DATA, (_POINTER | parent).to_bytes(2, "big"))
    return _reply(query, _AA | code, soa, authorities=1)


def failure(query: Query, code: Code) -> bytes:
    return _reply(query, code & _RCODE, extended=code >> 4)


def _reply(
    query: Query,
    flags: int,
    body: bytes = b"",
    *,
    answers: int = 0,
    authorities: int = 0,
    extended: int = 0,
) -> bytes:
    wire = query.wire
    asked = int.from_bytes(wire[2:4], "big")
    opt = _opt(query, extended)
    return (
        wire[:2]
        + struct.pack(
            ">5H",
            _QR | _RA | asked & (_RD | _CD) | flags,
            1,
            answers,
            authorities,
            1 if opt else 0,
        )
        + wire[_START : query.end]
        + body
        + opt
    )


def _opt(query: Query, extended: int = 0) -> bytes:
    """Our OPT record, if the question holds one."""
    if query.edns is None:
        return b""
    asked = int.from_bytes(query.wire[query.edns + 7 : query.edns + 9], "big")
    ttl = extended << 24 | asked & _DO
    return b"\0" + _RECORD.pack(Type.OPT, MOST_DATAGRAM_BYTES, ttl, 0)


def _refusal(data: bytes, code: Code) -> bytes:
    """Of what was not understood, hence of nothing but its header."""
    _, flags, *_ = _HEADER.unpack_from(data)
    return data[:2] + struct.pack(">5H", _QR | flags & (_OPCODE | _RD) | code, 0, 0, 0, 0)


# -- those we ask ourselves


def onward(query: Query, id_: bytes) -> bytes:
    """The question as an upstream is asked it: by an *id_* of two bytes it alone is told."""
    wire = id_ + query.wire[2:]
    if query.edns is None:
        return wire
    at = query.edns + 3  # an answer of more bytes than that we would have to cut
    size = min(int.from_bytes(wire[at : at + 2], "big"), MOST_DATAGRAM_BYTES)
    return wire[:at] + size.to_bytes(2, "big") + wire[at + 2 :]


def judge(query: Query, id_: bytes, data: bytes) -> Code | int | None:
    """How *data* answers the question as it was sent by *id_*; None: it does not."""
    if len(data) < _START or data[:2] != id_:
        return None
    _, flags, questions, *_ = _HEADER.unpack_from(data)
    if not flags & _QR or flags & _OPCODE:
        return None
    if questions == 0 and flags & _RCODE:  # too much for it to repeat
        return Code.SERVFAIL
    end, wire = query.end, query.wire
    name = slice(_START, end - 4)
    if questions != 1 or len(data) < end or data[end - 4 : end] != wire[end - 4 : end]:
        return None
    return flags & _RCODE if data[name].lower() == wire[name].lower() else None


def back(query: Query, data: bytes, limit: int) -> bytes:
    """An upstream's answer as the asker is told it: by his own id and in his own spelling."""
    if len(data) > limit:
        flags = int.from_bytes(data[2:4], "big") & ~(_RD | _CD)
        return _reply(query, flags | _TC)
    return query.wire[:2] + data[2:_START] + query.wire[_START : query.end] + data[query.end :]


def told(query: Query, data: bytes) -> list[tuple[Address, int]]:
    """The addresses that an answer tells, and for how many seconds each; malformed: none more."""
    found: list[tuple[Address, int]] = []
    answers = _HEADER.unpack_from(data)[3]
    with suppress(ValueError, IndexError, struct.error):
        for _, _, type_, class_, ttl, rest in _records(data, query.end, answers):
            if class_ == _IN and type_ == Type.A:
                found.append((IPv4Address(rest), ttl))
            elif class_ == _IN and type_ == Type.AAAA:
                found.append((IPv6Address(rest), ttl))
    return found
