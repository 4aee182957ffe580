"""Names: the grammars, and names that are the same again from the same cause."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netkit import naming
from netkit.errors import Exhausted, InvalidSpec

# S30: what has broken some network program or other
HOSTILE = [
    *("", " ", "x y", ".", "..", "../x", "a/b", "-x", "%d", "eth%d", "a:b", "a\nb", "a\n", "\0"),
    *("a\tb", "a\x1b[0m", "a'b", 'a"b', "a`b", "a;b", "$(x)", "{x}", "a\\b", "a,b", "a=b", "a#b"),
    *("é", "a\u202eb", "\u2028", "\ud800", "\uff41", "a" * 129, "a" * 70_000),
]


@pytest.mark.parametrize("name", ["a", "0", "web", "My_net-1.2", "a" * 128, "all", "0..1"])
def test_a_plain_name_is_returned(name: str) -> None:
    assert naming.validate_name("network", name) == name


@pytest.mark.parametrize("name", [*HOSTILE, ".a", "_a"])
def test_a_hostile_name_is_refused_in_a_short_line(name: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid network name") as refused:
        naming.validate_name("network", name)
    message = str(refused.value)
    assert len(message) < 200
    assert message.isprintable()


def test_the_message_says_what_is_allowed() -> None:
    with pytest.raises(InvalidSpec) as refused:
        naming.validate_name("network", "x y")
    assert str(refused.value) == (
        "invalid network name 'x y': only [A-Za-z0-9][A-Za-z0-9_.-] "
        "up to 128 characters are allowed"
    )


@pytest.mark.parametrize("name", ["eth0", "e", "0", "_x", "a.100", "br-0123456789ab", "al", "lo0"])
def test_a_plain_interface_name_is_returned(name: str) -> None:
    assert naming.validate_ifname(name) == name


@pytest.mark.parametrize("name", [*HOSTILE, "all", "default", "lo", "a" * 16, ".a"])
def test_a_hostile_interface_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid interface name") as refused:
        naming.validate_ifname(name)
    assert str(refused.value).isprintable()
    assert refused.value.hint


@pytest.mark.parametrize("name", [each for each in HOSTILE if each != "a" * 129])
def test_a_hostile_domain_is_refused(name: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid alias"):
        naming.validate_domain("alias", name)


@given(st.text())
def test_no_text_raises_anything_but_invalid_spec(text: str) -> None:
    validators: list[Callable[[str], str]] = [
        partial(naming.validate_name, "network"),
        naming.validate_ifname,
        partial(naming.validate_domain, "alias"),
        naming.parse_mac,
        naming.mac_of,
    ]
    for validate in validators:
        try:
            said = validate(text)
        except InvalidSpec as error:
            said = str(error)
        assert said.isprintable()
        assert len(said) < 250


def test_ids_are_64_hex_digits_and_never_read_as_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    numeric = bytes.fromhex("123456789012" + "ab" * 26)
    drawn = iter([numeric, numeric, b"\xfe" * 32])
    monkeypatch.setattr("os.urandom", lambda size: next(drawn))
    assert naming.new_id() == "fe" * 32


def test_two_ids_differ() -> None:
    ids = {naming.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in ids)
    assert naming.short_id("0123456789abcdef") == "0123456789ab"


def test_derived_names_are_the_same_on_every_host_and_in_every_release() -> None:
    """Recovery finds what a killed process left by these names: they must not change."""
    assert naming.host_ifname("c1", "eth0") == "vethd72e032"
    assert naming.bridge_name("0123456789abcdef") == "br-0123456789ab"
    assert naming.bridge_mac("0123456789abcdef") == "02:42:9f:9f:51:11"
    assert naming.mac_of("2001:db8::2") == "02:42:a0:89:8c:33"


@given(st.text(), st.text())
@example("\udcff", "eth0")  # argv that is no UTF-8
def test_derived_interface_names_are_valid_for_any_attachment(
    container_id: str, ifname: str
) -> None:
    name = naming.host_ifname(container_id, ifname)
    assert naming.validate_ifname(name) == name
    assert name == naming.host_ifname(container_id, ifname)
    assert name != naming.host_ifname(container_id, ifname + "x")


def test_a_mac_is_its_ipv4_address_again() -> None:
    assert naming.mac_of("172.17.0.2") == "02:42:ac:11:00:02"
    assert naming.mac_of(ip_address("10.88.0.255")) == "02:42:0a:58:00:ff"


@given(st.ip_addresses())
def test_every_derived_mac_is_one_a_user_could_give(address: IPv4Address | IPv6Address) -> None:
    mac = naming.mac_of(address)
    assert naming.parse_mac(mac) == mac
    assert naming.mac_of(str(address)) == mac


@pytest.mark.parametrize(
    ("text", "mac"),
    [
        ("02:42:AC:11:00:02", "02:42:ac:11:00:02"),
        ("08-00-27-00-0C-0A", "08:00:27:00:0c:0a"),
    ],
)
def test_a_mac_has_one_canonical_form(text: str, mac: str) -> None:
    assert naming.parse_mac(text) == mac


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("01:00:5e:00:00:01", "multicast"),
        ("ff-ff-ff-ff-ff-ff", "multicast"),
        ("00:00:00:00:00:00", "all zero"),
        ("02:42:ac:11:00", "six pairs"),
        ("02:42:ac:11:00:02:03", "six pairs"),
        ("02:42-ac:11:00:02", "six pairs"),
        ("2:42:ac:11:0:2", "six pairs"),
        ("0242ac110002", "six pairs"),
        ("02:42:ac:11:00:0g", "six pairs"),
        ("02:42:ac:11:00:02\n", "six pairs"),
        ("", "six pairs"),
    ],
)
def test_a_mac_no_station_has_is_refused(text: str, reason: str) -> None:
    with pytest.raises(InvalidSpec, match=reason):
        naming.parse_mac(text)


def test_the_hint_for_a_multicast_mac_is_a_good_one() -> None:
    with pytest.raises(InvalidSpec) as refused:
        naming.parse_mac("03:42:ac:11:00:02")
    assert refused.value.hint == "a station's address would be 02:42:ac:11:00:02"


def test_a_random_name_is_an_adjective_and_a_surname_and_valid() -> None:
    for _ in range(200):
        name = naming.generate(lambda name: False)
        assert re.fullmatch(r"[a-z]+_[a-z]+", name)
        assert naming.validate_name("container", name) == name


def test_a_random_name_skips_those_taken() -> None:
    asked: list[str] = []

    def first_five_are_taken(name: str) -> bool:
        asked.append(name)
        return len(asked) <= 5

    assert naming.generate(first_five_are_taken) == asked[5]


def test_a_random_name_gets_a_digit_when_the_plain_ones_are_gone() -> None:
    name = naming.generate(lambda name: not name[-1].isdigit())
    assert re.fullmatch(r"[a-z]+_[a-z]+1", name)


def test_the_search_for_a_random_name_ends() -> None:
    with pytest.raises(Exhausted, match="160 random container names"):
        naming.generate(lambda name: True)


def test_there_are_enough_words_and_none_twice() -> None:
    for text in (naming._ADJECTIVES, naming._SURNAMES):
        words = text.split()
        assert len(words) == len(set(words)) >= 60
        assert words == sorted(words)
