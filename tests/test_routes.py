"""Routes, policy rules and sysctls as people write them: what is read, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit import sysctls
from netkit.errors import InvalidSpec
from netkit.routes import RouteSpec, RuleSpec, parse_all

NUMBERS = st.integers(1, (1 << 32) - 1)
VERSIONS = st.sampled_from([4, 6])


def hosts(version: int) -> st.SearchStrategy[Any]:
    low, high = (0x0A000001, 0xDFFFFFFF) if version == 4 else (0x2000 << 112, (0x4000 << 112) - 1)
    return st.integers(low, high).map(ip_address)


def networks(version: int) -> st.SearchStrategy[Any]:
    lengths = st.integers(8, 32 if version == 4 else 128)
    return st.builds(lambda ip, n: ip_network(f"{ip}/{n}", strict=False), hosts(version), lengths)


@st.composite
def routes(draw: st.DrawFn) -> RouteSpec:
    version = draw(VERSIONS)
    fields: dict[str, Any] = {
        "metric": draw(st.none() | NUMBERS),
        "table": draw(st.none() | NUMBERS),
        "source": draw(st.none() | hosts(version)),
    }
    kind = draw(st.sampled_from(["unicast", "unicast", "blackhole", "unreachable", "prohibit"]))
    if kind == "unicast":
        fields["gateway"] = draw(st.none() | hosts(version))
        fields["mtu"] = draw(st.none() | st.integers(1280, 65535))
        fields["advmss"] = draw(st.none() | NUMBERS)
        has_gateway = fields["gateway"] is not None
        fields["onlink"] = has_gateway and draw(st.booleans())
        fields["link"] = not has_gateway and draw(st.booleans())
    return RouteSpec(draw(networks(version)), type=kind, **fields)


@st.composite
def rules(draw: st.DrawFn) -> RuleSpec:
    version = draw(VERSIONS)
    mark = draw(st.none() | NUMBERS)
    names = st.none() | st.sampled_from(["eth0", "lan0.5", "IFNAME"])
    return RuleSpec(
        draw(NUMBERS),
        source=draw(st.none() | networks(version)),
        to=draw(st.none() | networks(version)),
        iif=draw(names),
        oif=draw(names),
        mark=mark,
        mask=None if mark is None else draw(st.none() | NUMBERS),
        priority=draw(st.none() | st.integers(0, (1 << 32) - 1)),
        version=version,
    )


@given(routes(), st.sampled_from([" ", ",", "  ", " , "]))
def test_a_route_is_read_back_from_its_text(route: RouteSpec, separator: str) -> None:
    assert RouteSpec.parse(str(route)) == route
    assert RouteSpec.parse(str(route).replace(" ", separator)) == route
    assert parse_all([str(route)] * 2) == (route,)


@given(rules())
def test_a_rule_is_read_back_from_its_text(rule: RuleSpec) -> None:
    assert RuleSpec.parse(str(rule)) == rule


WORDS = st.sampled_from(
    [
        *("10.0.0.0/8", "fd00::/8", "via", "10.0.0.1", "dev", "metric", "5", "-1", "table", "main"),
        *("from", "to", "iif", "eth0", "fwmark", "0x1/0xf", "default", "blackhole", "type", "mtu"),
        *("priority", "onlink", "src", "=", ",", "", "é", "9" * 40, "9999999999", "::/0", "all"),
        *("\n", "%eth0"),
    ]
)


@given(st.lists(WORDS, max_size=7).map(" ".join))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    for kind in (RouteSpec, RuleSpec):
        if (found := understood(kind, text)) is not None:
            assert kind.parse(str(found)) == found


def understood(kind: type[RouteSpec] | type[RuleSpec], text: str) -> RouteSpec | RuleSpec | None:
    with suppress(InvalidSpec):
        return kind.parse(text)
    with pytest.raises(InvalidSpec, match=r"^invalid (route|rule) [^\n]*$") as caught:
        kind.parse(text)
    assert caught.value.hint
    return None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.1.0.0/16,172.25.0.9,100", "10.1.0.0/16 via 172.25.0.9 metric 100"),
        ("10.1.2.3 via 172.25.0.9", "10.1.2.3/32 via 172.25.0.9"),
        ("default via fd00::1", "::/0 via fd00::1"),
        ("default,gw=10.0.0.1", "0.0.0.0/0 via 10.0.0.1"),
        ("10.0.0.0/8,type=blackhole", "blackhole 10.0.0.0/8"),
        ("10.0.0.0/8 dev table main", "10.0.0.0/8 dev table 254"),
    ],
)
def test_there_are_several_ways_to_write_a_route(text: str, wanted: str) -> None:
    assert str(RouteSpec.parse(text)) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("from 10.0.0.1 lookup 100", "from 10.0.0.1 table 100"),
        ("from all to fd00::/8 table main prio 5", "to fd00::/8 table 254 priority 5"),
        ("inet6 iif eth0 table 3", "-6 iif eth0 table 3"),
        ("fwmark 1/255 table 3", "fwmark 0x1/0xff table 3"),
    ],
)
def test_there_are_several_ways_to_write_a_rule(text: str, wanted: str) -> None:
    assert str(RuleSpec.parse(text)) == wanted


# -- sysctls

LEAVES = st.sampled_from(["forwarding", "accept_ra", "rp_filter"])
NAMES = st.from_regex(r"[a-z][a-z0-9.]{0,13}[a-z0-9]", fullmatch=True).filter(
    lambda name: name not in ("all", "default", "lo") and ".." not in name
)


@given(LEAVES, NAMES, st.sampled_from([4, 6]))
def test_both_spellings_of_a_key_mean_the_same(leaf: str, name: str, version: int) -> None:
    key = f"net/ipv{version}/conf/{name}/{leaf}"
    dotted = f"net.ipv{version}.conf.{name.replace('.', '/')}.{leaf}"
    assert sysctls.of_interface([f"{key}=1"]) == sysctls.of_interface([f"{dotted}=1"]) == {key: "1"}
    assert sysctls.dotted(key) == dotted
    assert sysctls.named({key: "1"}, name) == {key: "1"}
    with pytest.raises(InvalidSpec, match="the interface is"):
        sysctls.named({key: "1"}, "other0")


@given(st.lists(st.sampled_from([*"./=", "net", "ipv4", "conf", "IFNAME", "all", "..", "x", "\0"])))
def test_nothing_outside_of_net_can_be_named(parts: list[str]) -> None:
    try:
        setting = sysctls.parse("".join(parts))
    except InvalidSpec:
        return
    assert setting.parts[0] == "net"
    assert not {"", ".", ".."} & {*setting.parts}


def test_what_is_of_a_container_and_what_of_its_interface_is_told_apart() -> None:
    wide, own = sysctls.split(
        ["net.core.somaxconn=9", "net.ipv4.conf.IFNAME.forwarding=1", "net.ipv6.conf.all.x=1"]
    )
    assert wide == {"net/core/somaxconn": "9", "net/ipv6/conf/all/x": "1"}
    assert own == ["net.ipv4.conf.IFNAME.forwarding=1"]
    assert sysctls.named(sysctls.of_interface(own), "eth7") == {
        "net/ipv4/conf/eth7/forwarding": "1"
    }
