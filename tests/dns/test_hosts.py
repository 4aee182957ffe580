"""A sandbox's /etc/hosts: Docker's format, and lines that come and go without a trace."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.dns import hosts
from netkit.dns.hosts import Address
from netkit.errors import InvalidSpec

INJECTIONS = ["\n6.6.6.6\tbank", " x", "\tx", "#", "\0", "\r", "\x0b", "\x85", "\u2028", "\u202e"]

names = st.lists(
    st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,8}[a-z0-9])?(\.[a-z]{1,5})?", fullmatch=True),
    min_size=1,
    max_size=3,
)
# texts made of what is near the format find more than arbitrary ones
files = st.text() | st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.1\tdb\n", "db", "\t", " ", "\n", "\r\n", "#", "::1"])
).map("".join)


def test_the_file_is_dockers_byte_for_byte() -> None:
    assert hosts.render(
        hostname="web1",
        addresses=["172.17.0.2", ip_address("2001:db8::2")],
        extra=[("db", "172.25.9.9"), ("six", "2001:db8::9")],
        ipv6=True,
    ) == (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        "172.25.9.9\tdb\n"
        "2001:db8::9\tsix\n"
        "172.17.0.2\tweb1\n"
        "2001:db8::2\tweb1\n"
    )


def test_without_ipv6_no_line_holds_an_ipv6_address() -> None:
    text = hosts.render(
        hostname="web1", addresses=["10.0.0.2", "2001:db8::2"], extra=[("six", "2001:db8::9")]
    )
    assert text == "127.0.0.1\tlocalhost\n10.0.0.2\tweb1\n"


def test_without_hostname_or_address_there_is_no_line_of_ones_own() -> None:
    assert hosts.render(addresses=["10.0.0.2"]) == "127.0.0.1\tlocalhost\n"
    assert hosts.render(hostname="web1") == "127.0.0.1\tlocalhost\n"


@pytest.mark.parametrize(
    ("hostname", "domainname", "expected"),
    [
        ("web1", None, "web1"),
        ("web1", "", "web1"),
        ("web1.example.com", None, "web1.example.com web1"),
        ("web1", "example.com", "web1.example.com web1"),
        ("web1.lab", "example.com", "web1.lab.example.com web1"),
    ],
)
def test_the_full_name_comes_before_the_short_one(
    hostname: str, domainname: str | None, expected: str
) -> None:
    text = hosts.render(hostname=hostname, domainname=domainname, addresses=["10.0.0.2"])
    assert text.endswith(f"10.0.0.2\t{expected}\n")


@given(files, st.ip_addresses(), names)
def test_add_then_remove_gives_the_same_bytes(
    text: str, address: Address, names: list[str]
) -> None:
    added = hosts.add(text, address, names)
    assert f"{address}\t{' '.join(names)}\n" in added
    assert len(added) > len(text)
    assert hosts.remove(added, address, names) == text


@given(files, st.ip_addresses(v=4), names, st.ip_addresses(v=4), names)
def test_lines_may_leave_in_another_order_than_they_came(
    text: str, ip1: Address, names1: list[str], ip2: Address, names2: list[str]
) -> None:
    both = hosts.add(hosts.add(text, ip1, names1), ip2, names2)
    first_gone = hosts.remove(both, ip1, names1)
    assert len(first_gone) < len(both)
    assert hosts.remove(first_gone, ip2, names2) == text


@given(files, st.ip_addresses(v=4), names)
def test_add_writes_one_line_and_leaves_the_users_lines_whole(
    text: str, address: Address, names: list[str]
) -> None:
    added = hosts.add(text, address, names).split("\n")
    added.remove(f"{address}\t{' '.join(names)}")
    assert added == text.split("\n")


@pytest.mark.parametrize(
    "theirs",
    [
        *("10.0.0.1 db\n", "10.0.0.1\tdb \n", "10.0.0.1\tdb db2\n", "10.0.0.1\tdb2\n"),
        *("10.0.0.11\tdb\n", "110.0.0.1\tdb\n", "#10.0.0.1\tdb\n", "10.0.0.1\tdb\r\n"),
        *("10.0.0.1\txdb\n", "10.0.0.1\tDB\n", "10.0.0.1\tdb", " 10.0.0.1\tdb\n"),
    ],
)
def test_a_line_that_differs_in_a_single_byte_is_not_ours(theirs: str) -> None:
    assert hosts.remove(theirs, "10.0.0.1", ["db"]) == theirs


def test_of_two_equal_lines_the_users_own_stays_where_it_was() -> None:
    theirs = "10.0.0.1\tdb\n# mine\n10.0.0.2\tx"
    assert hosts.remove(hosts.add(theirs, "10.0.0.1", ["db"]), "10.0.0.1", ["db"]) == theirs


def test_an_address_is_found_in_whatever_spelling() -> None:
    text = hosts.add("", "2001:DB8:0::1", ["db"])
    assert text == "2001:db8::1\tdb\n"
    assert hosts.remove(text, ip_address("2001:db8::1"), ["db"]) == ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("db:172.25.9.9", ("db", "172.25.9.9")),
        ("db=172.25.9.9", ("db", "172.25.9.9")),
        ("my_db:2001:db8::9", ("my_db", "2001:db8::9")),
        ("db:[2001:db8::9]", ("db", "2001:db8::9")),
        ("db=::1", ("db", "::1")),
        ("db:::1", ("db", "::1")),
        ("host.docker.internal:host-gateway", ("host.docker.internal", "172.17.0.1")),
        ("gw=host-gateway", ("gw", "172.17.0.1")),
    ],
)
def test_an_extra_host_is_a_name_and_an_address(text: str, expected: tuple[str, str]) -> None:
    assert hosts.parse_extra(text, host_gateway="172.17.0.1") == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", "db", "db:", ":1.2.3.4", "=1.2.3.4", "db:1.2.3", "db:1.2.3.4:80", "db:other"),
        *("-db:1.2.3.4", "a b:1.2.3.4", "db: 1.2.3.4", "db:fe80::1%eth0", "db:[]", "db:[::1"),
        *("db:fe80::1%\n6.6.6.6\tbank", "#db:1.2.3.4"),
    ],
)
def test_an_extra_host_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        hosts.parse_extra(text, host_gateway="172.17.0.1")
    assert refused.value.hint
    assert "\n" not in str(refused.value)


def test_host_gateway_needs_one() -> None:
    with pytest.raises(InvalidSpec, match="no address is known for host-gateway"):
        hosts.parse_extra("gw:host-gateway")


@given(st.text() | st.text(alphabet="db:=[].%1\n-", max_size=20))
def test_an_extra_host_never_becomes_more_than_one_line(text: str) -> None:
    try:
        name, address = hosts.parse_extra(text)
    except InvalidSpec:
        return
    base = hosts.render(ipv6=True)
    assert hosts.render(extra=[(name, address)], ipv6=True) == f"{base}{address}\t{name}\n"


@pytest.mark.parametrize("injection", INJECTIONS)
def test_injected_text_never_reaches_the_file(injection: str) -> None:
    evil = "web" + injection
    writes: list[Callable[[], str]] = [
        lambda: hosts.render(hostname=evil, addresses=["10.0.0.2"]),
        lambda: hosts.render(hostname="web", domainname=evil, addresses=["10.0.0.2"]),
        lambda: hosts.render(extra=[(evil, "10.0.0.2")]),
        lambda: hosts.render(extra=[("db", "10.0.0.2" + injection)]),
        lambda: hosts.render(extra=[("db", "fe80::1%" + injection)], ipv6=True),
        lambda: hosts.add("", "10.0.0.2", ["db", evil]),
        lambda: hosts.add("", "10.0.0.2" + injection, ["db"]),
    ]
    for write in writes:
        with pytest.raises(InvalidSpec):
            write()


@pytest.mark.parametrize("name", ["a", "web1", "9front", "a" * 63, "web1.example.com", "A-b.c"])
def test_a_hostname_is_what_rfc_1123_allows(name: str) -> None:
    assert hosts.validate_hostname(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a" * 64, "é", "a/b", "a" * 70_000]
)
def test_any_other_hostname_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid hostname") as refused:
        hosts.validate_hostname(name)
    assert len(str(refused.value)) < 300


def test_a_hostname_fits_into_the_kernels_64_bytes() -> None:
    assert hosts.validate_hostname("a" * 32 + "." + "b" * 31)
    with pytest.raises(InvalidSpec, match="65 characters, Linux allows 64"):
        hosts.validate_hostname("a" * 32 + "." + "b" * 32)


def test_the_full_name_may_be_longer_but_not_than_dns_allows() -> None:
    domain = ".".join(["d" * 60] * 4)
    assert hosts.own_names("web", domain) == (f"web.{domain}", "web")
    with pytest.raises(InvalidSpec, match="253 in all"):
        hosts.own_names("w" * 10, domain)


def test_a_line_needs_a_name() -> None:
    with pytest.raises(InvalidSpec, match="no name is given"):
        hosts.add("", "10.0.0.2", [])
