"""DNS messages: read and written as dnspython has it, and whatever somebody sends who means ill."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.dns import local, message
from netkit.dns.message import Code, Query
from tests.asking import Known, addresses, answering

LABELS = st.from_regex(r"\A[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?\Z")
NAMES = st.lists(LABELS, min_size=1, max_size=6).map(".".join)
KINDS = st.sampled_from(["A", "AAAA", "PTR", "SRV", "SOA", "MX", "ANY", "TYPE65280"])
SIZES = st.none() | st.integers(0, 0xFFFF)
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)


def wire(name: str = "Web.example", kind: str = "A", size: int | None = None) -> bytes:
    asked = dns.message.make_query(name, kind)
    if size is not None:
        asked.use_edns(0, payload=size)
    return asked.to_wire()


def parsed(data: bytes) -> Query:
    query = message.parse(data)
    assert isinstance(query, Query)
    return query


@given(NAMES, KINDS, SIZES)
def test_a_question_is_read_as_dnspython_writes_it(name: str, kind: str, size: int | None) -> None:
    query = parsed(wire(name, kind, size))
    assert (query.name, query.type) == (name.lower(), dns.rdatatype.from_text(kind))
    assert query.limit == (512 if size is None else min(max(size, 512), 1232))
    assert (query.edns is None) == (size is None)


@given(
    NAMES,
    SIZES,
    st.lists(ADDRESSES.map(message.address_record), max_size=90),
    st.integers(512, 4096),
)
def test_an_answer_is_read_by_dnspython(
    name: str, size: int | None, records: list[bytes], limit: int
) -> None:
    """As many records as there is room for; if one is left out, it is said."""
    asked = wire(name, "A", size)
    data = message.answer(parsed(asked), records, limit)
    answer = dns.message.from_wire(data, one_rr_per_rrset=True)
    assert dns.message.from_wire(asked).is_response(answer)
    assert answer.question[0].name.to_text() == f"{name}."  # the very spelling
    assert len(data) <= limit
    assert bool(answer.flags & dns.flags.TC) == (len(answer.answer) < len(records))
    if len(answer.answer) < len(records):
        assert len(data) + max(map(len, records)) > limit
    assert (answer.edns == 0) == (size is not None)
    packed = [ip_address(each[0].to_text()).packed for each in answer.answer]
    assert packed == [record[12:] for record in records[: len(packed)]]


@given(NAMES, SIZES, st.sampled_from(list(Code)))
def test_refusals_and_denials_are_read_by_dnspython(
    name: str, size: int | None, code: Code
) -> None:
    if code is Code.BADVERS and size is None:
        return  # there is no room for it without EDNS, and no occasion
    asked = wire(name, "A", size)
    query = parsed(asked)
    failed = dns.message.from_wire(message.failure(query, code))
    assert dns.message.from_wire(asked).is_response(failed)
    assert (failed.rcode(), failed.answer, failed.authority) == (int(code), [], [])
    denied = dns.message.from_wire(message.negative(query, Code.NXDOMAIN))
    (soa,) = denied.authority
    assert denied.rcode() == dns.rcode.NXDOMAIN
    assert soa.name == dns.name.from_text(name).parent()


VIEW = Known({"web": ["10.0.0.2"], "lab": ()}, zones=["lab"])
QUERIES = st.builds(wire, NAMES | st.just("web"), KINDS, SIZES)


@given(st.binary(max_size=600) | st.tuples(QUERIES, st.binary(max_size=40)).map(b"".join))
def test_any_bytes_are_a_question_or_refused_or_ignored(data: bytes) -> None:
    """S23."""
    survive(data)


@given(QUERIES, st.lists(st.tuples(st.integers(0, 300), st.integers(0, 255)), max_size=4))
def test_a_question_with_bytes_exchanged_does_no_harm(
    data: bytes, changes: list[tuple[int, int]]
) -> None:
    changed = bytearray(data)
    for at, byte in changes:
        changed[at % len(changed)] = byte
    survive(bytes(changed))
    for end in range(0, len(data), 7):
        survive(bytes(changed[:end]))


def survive(data: bytes) -> None:
    query = message.parse(data)
    if isinstance(query, Query):
        for answer in local.answers(VIEW, query, query.limit) or ():
            assert dns.message.from_wire(answer).to_wire()[:2] == data[:2]
        sent = message.onward(query, b"id")
        assert sent[:2] == b"id"
        # records we have no use for may be of any shape
        there, here = (dns.message.from_wire(each, question_only=True) for each in (sent, data))
        assert there.question == here.question
    elif query is not None:
        assert query[:2] == data[:2]
        assert query[2] & 0x80
        assert dns.message.from_wire(query).rcode() != dns.rcode.NOERROR


HEADER = bytes.fromhex("1234 0100 0001 0000 0000 0000")
QUESTION = b"\3web\0" + bytes.fromhex("0001 0001")
OPT = b"\0" + bytes.fromhex("0029 04d0 00000000 0000")


def counts(
    questions: int = 1, answers: int = 0, authorities: int = 0, additional: int = 0
) -> bytes:
    numbers = (questions, answers, authorities, additional)
    return HEADER[:4] + b"".join(number.to_bytes(2, "big") for number in numbers)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (HEADER[:2] + b"\x28\0" + HEADER[4:] + QUESTION, dns.rcode.NOTIMP),  # UPDATE
        (counts(0), dns.rcode.FORMERR),
        (counts(2) + QUESTION + QUESTION, dns.rcode.FORMERR),
        (counts(1, 1) + QUESTION, dns.rcode.FORMERR),
        (counts(1, 0, 1) + QUESTION, dns.rcode.FORMERR),
        (HEADER + QUESTION + b"x", dns.rcode.FORMERR),
        (HEADER + QUESTION[:-1], dns.rcode.FORMERR),
        (HEADER + b"\xc0\x0c" + QUESTION[-4:], dns.rcode.FORMERR),  # a pointer to itself
        (HEADER + b"\x3fweb", dns.rcode.FORMERR),
        (HEADER + b"\x40" + 64 * b"a" + b"\0" + QUESTION[-4:], dns.rcode.FORMERR),
        (HEADER + 127 * b"\1a" + b"\1a\0" + QUESTION[-4:], dns.rcode.FORMERR),  # 257 bytes
        (counts(additional=2) + QUESTION + OPT + OPT, dns.rcode.FORMERR),
        (counts(additional=1) + QUESTION + OPT[:-1], dns.rcode.FORMERR),
        (counts(additional=1) + QUESTION + b"\1x" + OPT, dns.rcode.FORMERR),
        (counts(additional=1) + QUESTION + OPT[:-1] + b"\1", dns.rcode.FORMERR),
        (counts(additional=1) + QUESTION + OPT[:6] + b"\1" + OPT[7:], dns.rcode.BADVERS),
        (HEADER + QUESTION[:-1] + b"\3", dns.rcode.REFUSED),  # class CH
        (HEADER + QUESTION[:-1] + b"\xff", dns.rcode.REFUSED),  # class ANY
        (HEADER + QUESTION[:-3] + b"\xfc\0\1", dns.rcode.REFUSED),  # AXFR
        (HEADER + QUESTION[:-3] + b"\x29\0\1", dns.rcode.FORMERR),  # OPT, asked for
    ],
)
def test_what_is_no_question_of_ours_is_refused(data: bytes, code: dns.rcode.Rcode) -> None:
    refusal = message.parse(data)
    assert isinstance(refusal, bytes)
    answer = dns.message.from_wire(refusal)
    assert (answer.id, answer.rcode()) == (0x1234, code)
    assert answer.flags & dns.flags.QR
    assert not answer.answer


def test_the_longest_name_is_one() -> None:
    data = HEADER + 127 * b"\1a" + b"\0" + QUESTION[-4:]
    assert parsed(data).name == ".".join(127 * "a")


@pytest.mark.parametrize("data", [b"", b"x", HEADER[:11], HEADER[:2] + b"\x81" + HEADER[3:]])
def test_half_a_header_and_an_answer_are_left_unanswered(data: bytes) -> None:
    """Two servers that answer each other's answers do so for ever."""
    assert message.parse(data) is None


def test_a_dot_inside_a_label_ends_no_label() -> None:
    """Else a name of the container's choice would pass for one of another zone."""
    data = HEADER + b"\x07web.lab\0" + QUESTION[-4:]
    assert parsed(data).name == "web\\046lab"
    assert parsed(HEADER + b"\4we\0\xff\0" + QUESTION[-4:]).name == "we\\000\\255"


def test_the_root_has_an_empty_name() -> None:
    query = parsed(wire(".", "A"))
    assert query.name == ""
    assert dns.message.from_wire(message.negative(query, Code.NOERROR)).authority


def test_dnssec_ok_and_checking_disabled_are_said_again() -> None:
    """RFC 3225 and RFC 4035."""
    asked = dns.message.make_query("web", "A", want_dnssec=True)
    asked.flags |= dns.flags.CD
    answer = dns.message.from_wire(message.answer(parsed(asked.to_wire()), [], 512))
    assert answer.ednsflags & dns.flags.DO
    assert answer.flags & dns.flags.CD


@pytest.mark.parametrize("name", ["", "a..b", "a" * 64, ".".join(5 * ["a" * 60]), "ä"])
def test_no_record_points_to_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # UnicodeEncodeError is one
        message.pointer_record(name)


# -- upstreams


def test_an_upstream_is_asked_for_no_more_than_a_datagram() -> None:
    query = parsed(wire("a.example", "A", 4096))
    sent = dns.message.from_wire(message.onward(query, b"\1\2"))
    assert (sent.id, sent.payload) == (0x0102, 1232)
    assert (
        dns.message.from_wire(message.onward(parsed(wire("a.b", "A", 900)), b"\1\2")).payload == 900
    )


@pytest.mark.parametrize(
    "forge",
    [
        lambda data: b"\0\0" + data[2:],
        lambda data: data[:2] + b"\1" + data[3:],  # no answer
        lambda data: data[:2] + b"\xa9" + data[3:],  # of another operation
        lambda data: data[:5] + b"\2" + data[6:],
        lambda data: data[:13] + b"x" + data[14:],
        lambda data: data[:12] + data[12:].replace(b"\0\1\0\1", b"\0\x1c\0\1", 1),
        lambda data: data[:11],
        lambda data: data[:20],
        lambda data: data[:5] + b"\0" + data[6:],
    ],
)
def test_what_is_no_answer_to_the_question_is_none(forge: object) -> None:
    query = parsed(wire())
    (data,) = answering("10.0.0.2")(message.onward(query, b"\1\2"))
    assert message.judge(query, b"\1\2", data) == dns.rcode.NOERROR
    assert message.judge(query, b"\1\2", forge(data)) is None  # type: ignore[operator]


def test_an_answer_comes_back_in_the_asker_s_own_spelling() -> None:
    """Some upstreams have lower case only; who mixes it to be safe would not know his question."""
    query = parsed(wire("wEb.ExamplE"))
    (data,) = answering("10.0.0.2")(message.onward(query, b"\1\2").lower())
    assert message.judge(query, b"\1\2", data) == dns.rcode.NOERROR
    back = dns.message.from_wire(message.back(query, data, 512))
    assert dns.message.from_wire(query.wire).is_response(back)
    assert back.question[0].name.to_text() == "wEb.ExamplE."
    assert addresses(back) == ["10.0.0.2"]


def test_an_answer_too_long_for_the_asker_is_cut_and_says_so() -> None:
    query = parsed(wire())
    (data,) = answering(*(f"10.0.0.{n}" for n in range(100)))(message.onward(query, b"\1\2"))
    back = dns.message.from_wire(message.back(query, data, 512))
    assert dns.message.from_wire(query.wire).is_response(back)
    assert back.flags & dns.flags.TC
    assert not back.answer


def test_the_addresses_told_are_found_behind_other_names() -> None:
    query = parsed(wire("www.example"))
    text = f"""id {0x0102}
opcode QUERY
rcode NOERROR
flags QR RD RA
;QUESTION
www.example. IN A
;ANSWER
www.example. 300 IN CNAME cdn.example.
cdn.example. 20 IN A 192.0.2.1
cdn.example. 30 IN A 192.0.2.2
cdn.example. 40 IN AAAA 2001:db8::1
;AUTHORITY
example. 50 IN NS ns.example.
;ADDITIONAL
ns.example. 60 IN A 192.0.2.3
"""
    data = dns.message.from_text(text).to_wire()
    assert sorted(message.told(query, data), key=str) == [
        (IPv4Address("192.0.2.1"), 20),
        (IPv4Address("192.0.2.2"), 20),  # one set has one TTL
        (IPv6Address("2001:db8::1"), 40),
    ]
    for end in range(query.end, len(data)):
        assert len(message.told(query, data[:end])) <= 3


@given(st.binary(max_size=200), st.integers(0, 9))
def test_what_an_upstream_makes_up_does_no_harm(rest: bytes, records: int) -> None:
    query = parsed(wire())
    data = b"\1\2\x81\x80\0\1\0" + bytes([records]) + bytes(4) + query.wire[12 : query.end] + rest
    assert message.judge(query, b"\1\2", data) == Code.NOERROR
    message.told(query, data)
    assert message.back(query, data, 512)[:2] == query.wire[:2]
