"""Ranges as people write them, and what an IPAM plugin is told."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit import addresses, allocation
from netkit.engine import Engine
from netkit.errors import Exhausted, InvalidSpec
from netkit.kernel import netns
from netkit.model import LoanRecord, NetworkRecord, Subnet, decode, encode
from netkit.specs import NetworkSpec
from scenarios.lab import Host
from tests.fakes import FakeKernel

FOUR, SIX = ip_network("10.1.0.0/24"), ip_network("fd00:1::/64")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("10.1.0.128/25", ["10.1.0.128/25"]),
        ("10.1.0.5-10.1.0.5", ["10.1.0.5/32"]),
        (
            "10.1.0.3-10.1.0.20",
            ["10.1.0.3/32", "10.1.0.4/30", "10.1.0.8/29", "10.1.0.16/30", "10.1.0.20/32"],
        ),
        ("fd00:1::f-fd00:1::11", ["fd00:1::f/128", "fd00:1::10/127"]),
        ("0.0.0.0-255.255.255.255", ["0.0.0.0/0"]),
    ],
)
def test_a_range_is_made_of_the_fewest_networks(text: str, parts: list[str]) -> None:
    assert addresses.ranges("IP range", text) == tuple(map(ip_network, parts))


@given(st.sampled_from([(4, 32), (6, 128)]), st.data())
def test_a_range_is_shown_as_it_was_written(family: tuple[int, int], data: st.DataObject) -> None:
    version, bits = family
    kind = ip_network("0.0.0.0/0" if version == 4 else "::/0").network_address.__class__
    number = st.integers(0, 2**bits - 1)
    low, high = sorted([data.draw(number), data.draw(number)])
    parts = addresses.ranges("IP range", f"{kind(low)}-{kind(high)}")
    assert addresses.ends(parts) == [(kind(low), kind(high))]
    (shown,) = addresses.spans(parts)
    assert addresses.ranges("IP range", shown) == parts


def test_ranges_that_do_not_follow_one_another_stay_apart() -> None:
    parts = [*addresses.ranges("r", "10.1.0.10-10.1.0.12"), ip_network("10.1.0.4/31"), SIX]
    assert addresses.spans(parts) == ("10.1.0.10-10.1.0.12", "10.1.0.4/31", "fd00:1::/64")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.1.0.9-10.1.0.3", "it runs backwards"),
        ("10.1.0.3-fd00::9", "not two addresses of one"),
        ("10.1.0.3-", "not two addresses of one"),
        ("10.1.0.3-10.1.0.9%x", "not two addresses of one"),
        ("10.1.0.3 - 10.1.0.9", "not two addresses of one"),
        ("10.1.0.1/24", "host bits are set"),
    ],
)
def test_what_is_no_range_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        addresses.ranges("IP range", text)


def network(*pools: Subnet, **options: str) -> NetworkRecord:
    return NetworkRecord(
        id="1" * 64, name="web", driver="bridge", pools=pools, ipam="site", ipam_options=options
    )


def test_a_plugin_is_told_of_the_networks_subnets_unless_it_is_told_of_its_own() -> None:
    four = Subnet(subnet=FOUR, gateway=ip_address("10.1.0.1"))
    six = Subnet(subnet=SIX, ranges=addresses.ranges("r", "fd00:1::5-fd00:1::9"))
    told = json.loads(allocation.configuration(network(four, six)))
    assert told["ranges"] == [
        [{"subnet": "10.1.0.0/24", "gateway": "10.1.0.1"}],
        [{"subnet": "fd00:1::/64", "rangeStart": "fd00:1::5", "rangeEnd": "fd00:1::9"}],
    ]
    for key in ("range", "ranges", "subnet"):
        assert json.loads(allocation.configuration(network(four, **{key: "x"}))) == {key: "x"}
    assert json.loads(allocation.configuration(network())) == {}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True),
        ("10", 10),
        ("null", None),
        ('"10"', "10"),
        ('[{"a": [1, 2.5]}]', [{"a": [1, 2.5]}]),
        ("10.1.0.0/24", "10.1.0.0/24"),
        ("{half", "{half"),
        ("", ""),
        ("a=b", "a=b"),
    ],
)
def test_an_option_that_is_json_is_what_it_says_any_other_is_text(text: str, value: object) -> None:
    assert json.loads(allocation.configuration(network(key=text))) == {"key": value}


def test_nesting_that_no_parser_follows_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="nested too deep"):
        allocation.configuration(network(key="[" * 100_000))


@pytest.mark.parametrize("driver", ["default", "static"])
def test_pools_are_as_their_network_is_on_record(driver: str) -> None:
    switches = {"sticky": "true", "round-robin": "1"} if driver == "default" else {}
    spec = NetworkSpec("web", subnets=(FOUR,), ipam_driver=driver, ipam_options=switches)
    net = NetworkRecord(
        id="1" * 64,
        name="web",
        driver="bridge",
        ipam=spec.ipam_driver,
        ipam_options=dict(spec.ipam_options),
        pools=(Subnet(subnet=FOUR, ranges=addresses.ranges("r", "10.1.0.3-10.1.0.9")),),
    )
    (pool,) = allocation.pools(decode(encode(net), NetworkRecord))
    assert (pool.sticky, pool.round_robin) == (driver == "default",) * 2
    assert list(pool.ranges) == ([(3, 9)] if driver == "default" else [])


def test_what_a_plugin_is_to_be_told_is_a_line_one_can_type() -> None:
    loan = LoanRecord(
        id="1",
        network="2",
        network_name="web",
        plugin="site",
        conf="{}",
        owner="c1/eth0",
        netns="/run/netns/c1",
    )
    told = "CNI_CONTAINERID=c1 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/c1"
    assert allocation.line(loan, "DEL") == f"CNI_COMMAND=DEL {told} site"


@pytest.mark.parametrize(
    ("subnet", "every"),
    [
        ("10.1.0.0/31", ["10.1.0.0/31", "10.1.0.1/31"]),
        ("10.1.0.5/32", ["10.1.0.5/32"]),
        ("fd00:1::/127", ["fd00:1::/127", "fd00:1::1/127"]),
        ("fd00:1::7/128", ["fd00:1::7/128"]),
    ],
)
def test_subnets_of_one_and_of_two_have_no_address_to_waste(
    host: Host, monkeypatch: pytest.MonkeyPatch, subnet: str, every: list[str]
) -> None:
    """A17, on a network that needs no gateway."""
    kernel = FakeKernel()
    kernel.make_directory("/etc/netns")
    kernel.make_directory(f"{host.base}/run")
    monkeypatch.setattr(netns, "identity", kernel.identity)
    engine = Engine(f"{host.base}/state", f"{host.base}/run", kernel=lambda: kernel)
    whole = ip_network(subnet)
    six = whole.version == 6
    engine.create_network(NetworkSpec("link", "dummy", subnets=(whole,), ipv4=not six, ipv6=six))
    try:
        assert [str(engine.connect("link").addresses[0]) for _ in every] == every
        with pytest.raises(Exhausted, match="no free address"):
            engine.connect("link")
    finally:
        engine.close()
