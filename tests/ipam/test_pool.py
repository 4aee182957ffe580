"""Which addresses of a subnet may be handed out, and how a refusal reads."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.errors import AddressInUse, AddressOutOfRange, InvalidPool, IpamError
from ipam.pool import Pool, Ranges, parse_address, parse_network


@pytest.mark.parametrize(
    ("subnet", "first", "last", "gateway", "capacity"),
    [
        ("10.88.0.0/24", "10.88.0.1", "10.88.0.254", "10.88.0.1", 253),
        ("10.88.0.0/16", "10.88.0.1", "10.88.255.254", "10.88.0.1", 65533),
        ("10.88.0.0/30", "10.88.0.1", "10.88.0.2", "10.88.0.1", 1),
        ("10.88.0.0/31", "10.88.0.0", "10.88.0.1", None, 2),
        ("10.88.0.7/32", "10.88.0.7", "10.88.0.7", None, 1),
        ("fd00::/64", "fd00::1", "fd00::ffff:ffff:ffff:ffff", "fd00::1", 2**64 - 2),
        ("fd00::/126", "fd00::1", "fd00::3", "fd00::1", 2),
        ("fd00::/127", "fd00::", "fd00::1", None, 2),
        ("fd00::7/128", "fd00::7", "fd00::7", None, 1),
    ],
)
def test_the_usable_part_leaves_out_what_no_host_may_have(
    subnet: str, first: str, last: str, gateway: str | None, capacity: int
) -> None:
    pool = Pool(subnet)
    assert (str(pool.address(pool.first)), str(pool.address(pool.last))) == (first, last)
    assert (pool.gateway is None) == (gateway is None)
    assert pool.gateway is None or str(pool.address(pool.gateway)) == gateway
    assert pool.capacity == capacity


def test_a_gateway_may_be_named_or_declined_and_a_link_may_have_one() -> None:
    assert Pool("10.88.0.0/24", gateway="10.88.0.254").gateway == 254
    assert Pool("10.88.0.0/24", gateway="none").claim("10.88.0.1") == 1
    assert Pool("10.88.0.0/31", gateway="10.88.0.0").capacity == 1


@pytest.mark.parametrize(
    ("subnet", "options", "message"),
    [
        ("10.0.0.0/24", {"gateway": "10.0.1.1"}, "gateway: 10.0.1.1 is not in 10.0.0.0/24"),
        ("10.0.0.0/24", {"gateway": "10.0.0.0"}, "gateway: 10.0.0.0 is the network address of"),
        ("10.0.0.0/24", {"gateway": "10.0.0.255"}, "gateway: 10.0.0.255 is the broadcast address"),
        ("fd00::/64", {"gateway": "fd00::"}, "gateway: fd00:: is the subnet-router anycast"),
        ("10.0.0.0/24", {"gateway": "fd00::1"}, "gateway: fd00::1 is not in 10.0.0.0/24"),
        ("10.0.0.0/24", {"gateway": "one"}, "'one' is no IP address"),
        ("10.0.0.0/24", {"ip_range": "10.0.1.0/25"}, "range 10.0.1.0/25 is not a part of"),
        ("10.0.0.0/24", {"ip_range": "10.0.0.0/23"}, "range 10.0.0.0/23 is not a part of"),
        ("10.0.0.0/24", {"ip_range": "fd00::/120"}, "range fd00::/120 is not a part of"),
        ("10.0.0.0/24", {"ip_range": "10.0.0.0/32"}, "has no usable address of 10.0.0.0/24"),
        ("10.0.0.0/24", {"ip_range": "10.0.0.9-10.0.0.3"}, "has no usable address of"),
        ("10.0.0.0/24", {"ip_range": "10.0.0.9-10.0.1.3"}, "is not a part of 10.0.0.0/24"),
        ("10.0.0.0/24", {"ip_range": ["10.0.0.0/25", "10.0.1.0/25"]}, "range 10.0.1.0/25 is not"),
        ("10.0.0.0/24", {"ip_range": ["10.0.0.8/29", "none"]}, "'none' is no IP address"),
        (
            "10.0.0.0/24",
            {"ip_range": ["10.0.0.8/29", "10.0.0.32/29", "10.0.0.15-10.0.0.20"]},
            "range 10.0.0.8/29 overlaps range 10.0.0.15-10.0.0.20",
        ),
        ("10.0.0.0/24", {"reserved": {"r": "10.0.1.1"}}, "reserved 'r': 10.0.1.1 is not in"),
        ("10.0.0.0/24", {"reserved": {"r": "10.0.0.1"}}, "the gateway 10.0.0.1 cannot be reserved"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    subnet: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InvalidPool, match=message):
        Pool(subnet, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("10.88.0.5/24", "'10.88.0.5/24' is an address inside the subnet", "write 10.88.0.0/24"),
        ("fd00::5/64", "'fd00::5/64' is an address inside the subnet", "write fd00::/64"),
        ("10.88.0.5", "no prefix length", "write 10.88.0.0/24, or another length"),
        ("fd00::5", "no prefix length", "write fd00::/64, or another length"),
        ("10.88.0.0/33", "'33' is no prefix length", "write 0 to 32"),
        ("fd00::/129", "'129' is no prefix length", "write 0 to 128"),
        ("10.88.0.0/255.255.0.0", "is no prefix length", "write 0 to 32"),
        ("10.88.0.0/0.0.0.255", "is no prefix length", "write 0 to 32"),
        ("10.88.0.0/-1", "is no prefix length", "write 0 to 32"),
        ("10.88.0.0/²", "is no prefix length", "write 0 to 32"),
        ("10.88.0.0/" + "9" * 5000, "is no prefix length", "write 0 to 32"),
        ("10.88.0/24", "'10.88.0' is no IP address", "write it like 10.88.0.1 or fd00:88::1"),
        ("010.88.0.0/24", "is no IP address", "write it like 10.88.0.1 or fd00:88::1"),
        ("fe80::%eth0/64", "is no IP address", "write it like 10.88.0.1 or fd00:88::1"),
        ("", "'' is no IP address", "write it like 10.88.0.1 or fd00:88::1"),
    ],
)
def test_a_bad_subnet_is_refused_with_the_right_way_to_write_it(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(InvalidPool, match=message) as refused:
        Pool(text)
    assert refused.value.hint == hint


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("10.88.1.1", AddressOutOfRange, "10.88.1.1 is not in 10.88.0.0/24"),
        ("fd00::1", AddressOutOfRange, "fd00::1 is not in 10.88.0.0/24"),
        ("10.88.0.0", AddressOutOfRange, "10.88.0.0 is the network address of 10.88.0.0/24"),
        ("10.88.0.255", AddressOutOfRange, "10.88.0.255 is the broadcast address of 10.88.0.0/24"),
        ("10.88.0.1", AddressInUse, "10.88.0.1 is the gateway of 10.88.0.0/24"),
        ("10.88.0.9", AddressInUse, "10.88.0.9 is reserved for 'router' in 10.88.0.0/24"),
    ],
)
def test_every_reason_against_a_static_address_has_its_own_error(
    address: str, error: type[IpamError], message: str
) -> None:
    pool = Pool("10.88.0.0/24", reserved={"router": "10.88.0.9"})
    with pytest.raises(error) as refused:
        pool.claim(address)
    assert str(refused.value) == refused.value.message == message


def test_a_static_address_may_lie_outside_the_range_for_dynamic_ones() -> None:
    pool = Pool("10.88.0.0/24", ip_range="10.88.0.128/25")
    assert pool.claim("10.88.0.5") == 5
    assert (pool.ranges, pool.capacity) == (((128, 254),), 127)
    assert pool.where() == "10.88.0.128-10.88.0.254 of 10.88.0.0/24"


def test_a_range_may_be_two_addresses_and_loses_what_is_excluded_inside_it() -> None:
    pool = Pool(
        "fd00::/64", gateway="fd00::12", reserved={"ns": "fd00::13"}, ip_range="fd00::10-fd00::1f"
    )
    assert (pool.ranges, pool.capacity) == (((0x10, 0x1F),), 14)


def test_several_ranges_are_used_in_the_order_they_are_given() -> None:
    pool = Pool("10.88.0.0/24", ip_range=["10.88.0.128/29", "10.88.0.9-10.88.0.11"])
    assert [*pool.ranges] == [(128, 135), (9, 11)]
    assert (pool.ranges.size, pool.capacity) == (11, 11)
    assert [pool.ranges.at(x) for x in range(11)] == [*range(128, 136), 9, 10, 11]
    spanned = [x for x in range(256) if pool.spans(pool.address(x))]
    assert spanned == [9, 10, 11, *range(128, 136)]
    assert pool.where() == "10.88.0.128-10.88.0.135 and 10.88.0.9-10.88.0.11 of 10.88.0.0/24"
    assert pool.claim("10.88.0.200") == 200


def test_no_range_named_means_the_whole_subnet_and_none_means_no_dynamic_address() -> None:
    assert Pool("10.88.0.0/24", ip_range=()).shape == Pool("10.88.0.0/24").shape
    static = Pool("10.88.0.0/24", ip_range="none")
    assert (static.ranges, static.capacity, static.claim("10.88.0.5")) == ((), 0, 5)
    assert static.where() == "no range of 10.88.0.0/24"


pairs = st.lists(st.tuples(st.integers(0, 2**128), st.integers(0, 2**70)), max_size=5).map(
    lambda drawn: Ranges((first, first + more) for first, more in drawn)
)


@given(pairs, st.integers(0))
def test_positions_count_the_ranges_through(ranges: Ranges, number: int) -> None:
    assert Ranges.parse(str(ranges)) == ranges
    if ranges:
        offset = ranges.at(number % ranges.size)
        assert ranges.cover(offset)
        position = ranges.position(offset)  # the first, where ranges overlap
        assert position is not None
        assert position <= number % ranges.size
        assert ranges.at(position) == offset
    assert ranges.position(2**129) is None


def test_a_pool_is_frozen() -> None:
    pool = Pool("10.88.0.0/24", reserved={"a": "10.88.0.9"})
    with pytest.raises(AttributeError):
        pool.ranges = Ranges()
    with pytest.raises(TypeError):
        pool.reserved["b"] = 8  # type: ignore[index]


def test_an_endpoint_gets_the_prefix_length_of_the_subnet() -> None:
    assert str(Pool("10.88.0.0/24").interface(2)) == "10.88.0.2/24"
    assert str(Pool("::/64").interface(2)) == "::2/64"


@given(st.ip_addresses(), st.integers(0, 128))
def test_every_subnet_written_properly_is_read_as_itself(
    address: IPv4Address | IPv6Address, prefix: int
) -> None:
    network = ip_network(f"{address}/{prefix % (address.max_prefixlen + 1)}", strict=False)
    assert parse_network(str(network)) == network


@given(st.ip_addresses())
def test_every_address_is_read_as_itself(address: IPv4Address | IPv6Address) -> None:
    assert parse_address(str(address)) == address


texts = st.text() | st.from_regex(r"[0-9a-f.:]{0,20}(/[0-9.]{0,4})?", fullmatch=True)


@given(texts)
def test_no_text_is_read_wrongly_or_raises_anything_but_a_hint(text: str) -> None:
    try:
        pool = Pool(text)
    except InvalidPool as refused:
        assert refused.hint  # noqa: PT017
    else:
        assert ip_network(text, strict=True) == pool.subnet


@given(texts)
def test_no_range_raises_anything_but_invalid_pool(text: str) -> None:
    try:
        pool = Pool("10.0.0.0/24", ip_range=text)
    except InvalidPool:
        return
    assert all(pool.first <= start <= stop <= pool.last for start, stop in pool.ranges)


@given(st.ip_addresses(v=4), st.integers(0, 32), st.integers(0))
def test_offset_and_address_are_inverse(address: IPv4Address, prefix: int, number: int) -> None:
    pool = Pool(ip_network(f"{address}/{prefix}", strict=False))
    offset = number % pool.subnet.num_addresses
    assert pool.offset(pool.address(offset)) == offset
    assert pool.address(offset) == ip_address(int(pool.subnet[0]) + offset)
