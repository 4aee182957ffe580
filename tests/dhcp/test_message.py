"""DHCP messages: bytes as the RFCs draw them, and bytes as somebody wrote them who means ill."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.dhcp import message
from netkit.dhcp.message import ANY, Kind, Malformed, Message, Option

MAC = bytes.fromhex("024200000001")
ADDRESSES = st.integers(0, 2**32 - 1).map(IPv4Address)
OPTIONS = st.dictionaries(
    st.integers(1, 254).filter(lambda code: code != Option.OVERLOAD), st.binary(max_size=600)
)
MESSAGES = st.builds(
    Message,
    st.booleans(),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=16),
    OPTIONS,
    st.integers(0, 0xFFFF),
    st.booleans(),
    ADDRESSES,
    ADDRESSES,
    ADDRESSES,
)


def raw(
    options: bytes, *, sname: bytes = b"", file: bytes = b"", op: int = 2, hlen: int = 6
) -> bytes:
    head = bytes([op, 1, hlen, 0]) + b"\x12\x34\x56\x78" + bytes(4)
    head += bytes(4) + bytes([10, 9, 0, 50]) + bytes(8)
    whole = head + MAC.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    return whole + b"\x63\x82\x53\x63" + options


def test_a_discover_is_as_rfc_2131_draws_it() -> None:
    asked = Message(False, 0x12345678, MAC, {53: b"\x01", 55: b"\x03\x01"}, 3, True).encode()
    assert asked[:4].hex() == "01010600"  # BOOTREQUEST, Ethernet, six bytes, no hops
    assert asked[4:12].hex() == "12345678" + "0003" + "8000"  # xid, secs, broadcast flag
    assert asked[28:34] == MAC
    assert asked[236:].rstrip(b"\0").hex() == "63825363" + "350101" + "37020301" + "ff"
    assert len(asked) == 300


@given(MESSAGES)
def test_what_was_written_is_read(one: Message) -> None:
    assert Message.decode(one.encode()) == one


@given(st.binary(max_size=700) | st.binary(max_size=700).map(raw))
def test_any_bytes_are_a_message_or_malformed(data: bytes) -> None:
    try:
        read_all(Message.decode(data))
    except Malformed:
        return


@given(MESSAGES, st.data())
def test_a_damaged_message_is_one_or_malformed(one: Message, data: st.DataObject) -> None:
    whole = bytearray(one.encode())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(0, len(whole))) :]
    try:
        read_all(Message.decode(bytes(whole)))
    except Malformed:
        return


def read_all(one: Message) -> None:
    """Whatever options say, it is something, and fit for a result."""
    said = one.options
    bits = message.prefix_length(said)
    assert bits is None or 1 <= bits <= 32
    assert all(message.is_host(each) for each in message.addresses(said, Option.ROUTERS))
    assert all(gw == ANY or message.is_host(gw) for _, gw in message.routes(said))
    assert (message.mtu(said) or 576) >= 576
    for name in (message.domain(said), *message.search(said)):
        assert name.isascii()
        assert not set(name) & set(" \n\t;#\0")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        raw(b"")[:-1],  # no cookie
        raw(b"\xff", op=3),
        raw(b"\xff", hlen=17),
        raw(b"\x35"),  # an option without a length
        raw(b"\x35\x02\x05"),  # one that is cut off
        raw(b"\x34\x01\x01\xff", file=b"\x0c\xff"),  # and in a field that overload names
    ],
)
def test_these_are_no_messages(data: bytes) -> None:
    with pytest.raises(Malformed):
        Message.decode(data)


def test_options_go_on_in_the_fields_that_option_52_names_and_parts_are_joined() -> None:
    read = Message.decode(
        raw(
            b"\x35\x01\x05\x34\x01\x03\x0c\x02ab\x00\xff\x03\x04\x01\x01\x01\x01",
            file=b"\x0c\x02cd\xff",
            sname=b"\x0c\x01e\x34\x01\x03\xff",
        )
    )
    assert read.kind == Kind.ACK
    assert read.options == {53: b"\x05", 12: b"abcde"}  # nothing behind the end, and no loop


def test_without_option_52_the_fields_are_text() -> None:
    read = Message.decode(raw(b"\x35\x01\x05\xff", file=b"\x0c\x02cd\xff"))
    assert 12 not in read.options


@pytest.mark.parametrize(
    ("mask", "bits"),
    [
        ("ffffff00", 24),
        ("ffffffff", 32),
        ("80000000", 1),
        ("00000000", None),
        ("ff00ff00", None),
        ("ffffff", None),
        ("", None),
    ],
)
def test_a_subnet_mask_has_no_holes(mask: str, bits: int | None) -> None:
    assert message.prefix_length({Option.SUBNET_MASK: bytes.fromhex(mask)}) == bits


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("0a0900010a090002", ["10.9.0.1", "10.9.0.2"]),
        ("000000007f000001e0000001ffffffff0a090002", ["10.9.0.2"]),
        ("0a0900", []),
        ("0a09000102", []),
    ],
)
def test_a_list_of_machines_has_only_what_can_be_one(value: str, found: list[str]) -> None:
    read = message.addresses({Option.ROUTERS: bytes.fromhex(value)}, Option.ROUTERS)
    assert [str(each) for each in read] == found


ROUTER: message.Options = {Option.ROUTERS: bytes([10, 9, 0, 1])}
DEFAULT = (IPv4Network("0.0.0.0/0"), IPv4Address("10.9.0.1"))


def test_a_router_is_the_default_route() -> None:
    assert message.routes(ROUTER) == [DEFAULT]


def test_static_routes_are_of_classes_and_never_the_default() -> None:
    routes = "0a0000000a090002ac1000000a090002c0a805000a090003000000000a090004"
    assert message.routes({**ROUTER, Option.STATIC_ROUTES: bytes.fromhex(routes)}) == [
        (IPv4Network("10.0.0.0/8"), IPv4Address("10.9.0.2")),
        (IPv4Network("172.16.0.0/16"), IPv4Address("10.9.0.2")),
        (IPv4Network("192.168.5.0/24"), IPv4Address("10.9.0.3")),
        DEFAULT,
    ]


def test_classless_routes_displace_all_others() -> None:
    """RFC 3442: an example of each width, one on the link, and bits beyond the prefix."""
    routes = (
        "00" "0a090009"
        "08" "0a" "0a090002"
        "11" "0a0080" "0a090002"
        "19" "0a81b4ff" "00000000"
        "20" "0a1b8119" "0a090003"
    )  # fmt: skip
    found = message.routes(
        {**ROUTER, Option.STATIC_ROUTES: bytes(8), Option.CLASSLESS_ROUTES: bytes.fromhex(routes)}
    )
    assert [f"{dst} {gateway}" for dst, gateway in found] == [
        "0.0.0.0/0 10.9.0.9",
        "10.0.0.0/8 10.9.0.2",
        "10.0.128.0/17 10.9.0.2",
        "10.129.180.128/25 0.0.0.0",
        "10.27.129.25/32 10.9.0.3",
    ]


@pytest.mark.parametrize("value", ["210a1b8119000a090003", "180a09", "180a09000a0900"])
def test_classless_routes_that_are_malformed_do_not_count(value: str) -> None:
    said = {**ROUTER, Option.CLASSLESS_ROUTES: bytes.fromhex(value)}
    assert message.routes(said) == [DEFAULT]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        # RFC 3397's own example
        (b"\x03eng\x05apple\x03com\0\x05sales\xc0\x04", ("eng.apple.com", "sales.apple.com")),
        (b"\x01a\x00\x01a\x00", ("a",)),
        (b"\xc0\x00", ()),  # at itself
        (b"\x01a\xc0\x00", ()),  # round and round
        (b"\x01a\xc0\x04\x01b\x00", ()),  # forwards
        (b"\x01a\xc0", ()),
        (b"\x05abc", ()),
        (b"\x40" + b"a" * 64 + b"\0", ()),
        (b"\x03a\nb\x00", ()),
        (b"\x03a b\x00", ()),
        (b"\x00", ()),
        (b"\x3f" + b"a" * 63 + (b"\x3f" + b"a" * 63) * 4 + b"\0", ()),
    ],
)  # fmt: skip
def test_a_search_list_ends_and_is_one_of_names(value: bytes, found: tuple[str, ...]) -> None:
    assert message.search({Option.SEARCH: value}) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (b"example.org", "example.org"),
        (b"example.org.\0", "example.org"),
        (b"a\nnameserver 6.6.6.6", ""),
        (b"a b", ""),
        (b"\xff", ""),
        (b"-a", ""),
        (b"", ""),
    ],
)
def test_a_domain_is_a_name(value: bytes, found: str) -> None:
    assert message.domain({Option.DOMAIN: value}) == found


@pytest.mark.parametrize(("value", "found"), [("05dc", 1500), ("0240", 576), ("0044", None)])
def test_an_mtu_is_one_that_every_host_must_take_at_least(value: str, found: int | None) -> None:
    assert message.mtu({Option.MTU: bytes.fromhex(value)}) == found
