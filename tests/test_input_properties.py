"""What any text does to the parsers of ports and networks, and to templates of real views."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, ip_address
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from netkit import InvalidSpec, Netkit, views
from netkit.addresses import WILDCARDS
from netkit.cli import template
from netkit.portspec import PortMapping, PortSpec
from netkit.specs import NetworkSpec
from scenarios.lab import Host

T = TypeVar("T")
Meaning = list[tuple[str, int, int]]  # (host address or "", host port or 0 for any, port) of each


def _unless_refused(parse: Callable[[], T]) -> T | None:
    """What *parse* makes of it; None if that is InvalidSpec, in one line of bounded length."""
    try:
        return parse()
    except InvalidSpec as error:
        refused = error
    assert str(refused).isprintable()
    assert len(str(refused)) < 1000
    return None


# -- ports


@st.composite
def _published(draw: st.DrawFn) -> tuple[str, str, Meaning]:
    """Text for `-p`, its protocol, and what Docker takes it to mean."""
    first = draw(st.integers(1, 65535))
    last = draw(st.integers(first, min(65535, first + 40)))
    inside = f"{first}-{last}" if last > first or draw(st.booleans()) else f"{first}"
    start = draw(st.just(0) | st.integers(1, 65535 - (last - first)))
    outside = "" if not start else f"{start}-{start + last - first}" if last > first else f"{start}"
    address = draw(st.none() | st.just("") | st.ip_addresses().map(str))
    if address is not None and ":" in address:
        text = f"[{address}]:{outside}:{inside}"
    elif address is not None:
        text = f"{address}:{outside}:{inside}"
    else:
        text = f"{outside}:{inside}" if start else draw(st.sampled_from([inside, f":{inside}"]))
    suffix = draw(st.sampled_from(["", "/tcp", "/udp", "/sctp", "/TCP", "/Udp"]))
    where = address or ""
    means = [(where, start and start + i, first + i) for i in range(last - first + 1)]
    return text + suffix, suffix[1:].lower() or "tcp", means


@given(_published())
@example(("224.0.0.1::80", "tcp", [("224.0.0.1", 0, 80)]))
@example(("255.255.255.255:1:80", "tcp", [("255.255.255.255", 1, 80)]))
def test_a_published_port_means_what_it_means_to_docker(case: tuple[str, str, Meaning]) -> None:
    text, protocol, means = case
    where = means[0][0]
    specs = _unless_refused(lambda: PortSpec.parse(text))
    if where and (ip_address(where).is_multicast or where == "255.255.255.255"):
        assert specs is None
        return
    assert specs is not None
    assert {spec.protocol for spec in specs} == {protocol}
    assert all(spec.first or spec.count == 1 for spec in specs)  # each finds a free port by itself
    assert means == [
        (str(spec.address or ""), spec.first and spec.first + i, spec.port + i)
        for spec in specs
        for i in range(spec.count)
    ]


@given(_published())
def test_a_mapping_as_it_is_shown_can_be_asked_for_again(case: tuple[str, str, Meaning]) -> None:
    specs = _unless_refused(lambda: PortSpec.parse(case[0]))
    for spec in specs or ():
        where = spec.address or WILDCARDS[4]
        shown = PortMapping(where, spec.first or 4711, spec.port, spec.protocol, spec.count)
        (again,) = PortSpec.parse(str(shown).replace("->", ":"))
        assert (again.address, again.first, again.port) == (
            where,
            shown.host_port,
            spec.port,
        )
        assert (again.protocol, again.count) == (spec.protocol, spec.count)


_bits = st.lists(st.sampled_from([*"0189:-/.[] \n\0٣", "tcp", "65535", "1.2.3.4"]), max_size=12)


@given(st.text() | _bits.map("".join))
def test_no_text_makes_the_port_parser_raise_anything_but_invalid_spec(text: str) -> None:
    for spec in _unless_refused(lambda: PortSpec.parse(text)) or ():
        assert 1 <= spec.port <= spec.port + spec.count - 1 <= 65535
        assert spec.first == spec.last == 0 or 1 <= spec.first <= spec.last <= 65535
        assert spec.first + spec.count - 1 <= 65535
        assert spec.protocol in ("tcp", "udp", "sctp")


# -- networks

_subnets = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: IPv4Network(pair, strict=False)
)


@given(
    st.text() | st.just("n"),
    st.integers() | st.none(),
    st.text() | st.none(),
    st.dictionaries(st.text(), st.text()),
)
def test_a_network_spec_is_sound_or_refused(
    name: str, mtu: int | None, bridge: str | None, labels: dict[str, str]
) -> None:
    spec = _unless_refused(lambda: NetworkSpec(name, mtu=mtu, bridge=bridge, labels=labels))
    if spec is not None:
        assert re.fullmatch(r"[A-Za-z0-9][\w.-]*", spec.name, re.ASCII)
        assert spec.mtu is None or 68 <= spec.mtu <= 65535
        assert spec.bridge is None or re.fullmatch(r"[\w.-]{1,15}", spec.bridge, re.ASCII)
        assert all((key + value).isprintable() for key, value in spec.labels.items())


@given(_subnets)
@example(IPv4Network("0.0.0.0/0"))
@example(IPv4Network("126.0.0.0/7"))
@example(IPv4Network("10.0.0.0/8"))
@example(IPv4Network("255.255.255.254/31"))
def test_a_subnet_holds_addresses_of_stations_only(subnet: IPv4Network) -> None:
    """Not loopback, multicast, "this host" or broadcast, nor a part of the Internet's size."""
    low, high = int(subnet[0]) >> 24, int(subnet[-1]) >> 24
    blocks = set(range(low, high + 1))
    never = {0, 127, *range(224, 240)}
    sound = len(blocks) == 1 and not blocks & never and int(subnet[-1]) != 2**32 - 1
    spec = _unless_refused(lambda: NetworkSpec("n", subnets=(subnet,)))
    assert (spec is not None) == sound


@given(st.dictionaries(st.sampled_from(["mtu", "name", "masquerade"]) | st.text(), st.text()))
def test_no_driver_option_raises_anything_but_invalid_spec(options: dict[str, str]) -> None:
    _unless_refused(lambda: NetworkSpec("n", **NetworkSpec.of_options(options)))


# -- templates

PIECES = """
    {{ }} {{- -}} {{end}} {{range {{if {{else}} .Name .ID .Labels .NetworkSettings .Networks
    .IPAM.Config .Containers .Ports . $ $k $v := , ( ) json len index join upper println range end
    "," "x" 0 -1 true |
"""


@pytest.fixture(scope="module")
def real_views() -> Iterator[Sequence[views.View]]:
    with Host(), Netkit() as nk, nk.networks.create("my-net", labels={"a": "b"}) as net:
        ep = net.connect(name="c1", ports=["8080:80"], dns=["9.9.9.9"])
        sandbox = nk.engine.sandbox("c1")
        yield [
            views.network_row(net.record),
            net.attrs,
            views.container_row(nk.engine, sandbox),
            views.container(nk.engine, sandbox),
            *views.veths(nk.engine, sandbox),
        ]
        ep.disconnect()


@given(text=st.lists(st.sampled_from(PIECES.split()), max_size=20).map(" ".join) | st.text())
@example(text="{{json .}}")
def test_no_template_on_a_real_view_raises_anything_but_invalid_spec(
    real_views: Sequence[views.View], text: str
) -> None:
    for view in real_views:
        # bound now: a loop's variable in a lambda would be the last one
        shown = _unless_refused(partial(lambda view: template.compile(text).render(view), view))
        assert shown is None or isinstance(shown, str)
