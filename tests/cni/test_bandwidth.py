"""The plugin type bandwidth: what its keys mean, and what they must not say."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from cni.spec import CniError, Code
from netkit.steps import Device, Redirect, Shaper
from tests.cni.planned import PREVIOUS, Json, machine, planned

INTO = {"ingressRate": 8000, "ingressBurst": 80_000}
OUT = {"egressRate": 1 << 40, "egressBurst": 1 << 30}


def test_what_goes_to_the_container_is_shaped_on_the_hosts_end() -> None:
    answer = planned("bandwidth", INTO)
    # limit: what may wait for 25 ms, and the burst, as in the reference
    shaper = Shaper(dev="veth1", rate=1000, burst=10_000, limit=10_025, sources=True)
    assert answer.proposal.plan == (shaper,)
    assert answer.result.to_json("1.1.0") == PREVIOUS


def test_what_comes_from_it_on_an_ifb() -> None:
    answer = planned("bandwidth", OUT)
    ifb, shaper, redirect = answer.proposal.plan
    assert isinstance(ifb, Device)
    assert (ifb.kind, ifb.mtu, ifb.up, ifb.name[:3], len(ifb.name)) == (
        "ifb",
        1400,
        True,
        "bwp",
        15,
    )
    assert shaper == Shaper(
        dev=ifb.name,
        rate=1 << 37,
        burst=1 << 27,
        limit=min((1 << 37) // 40 + (1 << 27), (1 << 32) - 1),
    )
    assert redirect == Redirect(dev="veth1", to=ifb.name)
    *before, last = answer.result.interfaces
    assert (last.name, last.mac, last.sandbox) == (ifb.name, ifb.mac, "")
    assert [each.name for each in before] == ["cni0", "veth1", "eth0"]


@pytest.mark.parametrize(
    ("conf", "rate"),
    [
        ({"runtimeConfig": {"bandwidth": INTO}}, 1000),
        ({**INTO, "runtimeConfig": {"bandwidth": {**INTO, "ingressRate": 16_000}}}, 1000),
        ({"ingressRate": 0, "runtimeConfig": {"bandwidth": INTO}}, 1000),
    ],
)
def test_the_networks_own_limits_count_else_the_attachments(conf: Json, rate: int) -> None:
    """As in the reference: who may write annotations cannot lift what the network's file says."""
    (shaper,) = planned("bandwidth", conf).proposal.plan
    assert isinstance(shaper, Shaper)
    assert shaper.rate == rate


def test_without_limits_nothing_is_made() -> None:
    silent: list[Json] = [
        {},
        {"runtimeConfig": {"bandwidth": None}},
        {"runtimeConfig": {"bandwidth": {"ingressRate": 0, "ingressBurst": 0}}},
    ]
    for conf in silent:
        answer = planned("bandwidth", conf)
        assert (answer.proposal.plan, answer.result.to_json("1.1.0")) == ((), PREVIOUS)


def test_subnets_are_of_the_other_end() -> None:
    for key, word in (("shapedSubnets", "only"), ("unshapedSubnets", "spared")):
        conf = {**INTO, **OUT, key: ["10.9.0.1/24", "2001:db8::/32"]}
        plan = planned("bandwidth", conf).proposal.plan
        found = [step for step in plan if isinstance(step, Shaper)]
        assert [step.sources for step in found] == [True, False]
        for step in found:
            assert getattr(step, word) == (ip_network("10.9.0.0/24"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("conf", "why"),
    [
        ({"ingressRate": 8000}, "ingressRate and ingressBurst need each other"),
        ({"egressBurst": 8000}, "egressRate and egressBurst need each other"),
        ({"egressRate": 8000, "egressBurst": 1 << 35}, "out of range"),
        ({"egressRate": 7, "egressBurst": 8000}, "out of range"),
        ({"ingressRate": -8, "ingressBurst": 8}, "out of range"),
        ({"ingressRate": "1M", "ingressBurst": 8}, "ingressRate"),
        ({"runtimeConfig": {"bandwidth": {"ingressRate": 8}}}, "runtimeConfig.bandwidth"),
        ({**INTO, "shapedSubnets": ["10.0.0.0/8"], "unshapedSubnets": ["10.0.0.0/8"]}, "exclude"),
        ({**INTO, "shapedSubnets": ["nonsense"]}, "shapedSubnets"),
    ],
    ids=str,
)
def test_nonsense_is_refused(conf: Any, why: str) -> None:
    with pytest.raises(CniError, match=why) as refused:
        planned("bandwidth", conf)
    assert refused.value.code == Code.INVALID_CONFIG


def test_only_a_veth_pair_of_the_hosts_can_be_shaped() -> None:
    kernel = machine()
    alone = {**PREVIOUS, "interfaces": PREVIOUS["interfaces"][2:], "ips": []}
    with pytest.raises(CniError, match="no end of a veth pair"):
        planned("bandwidth", INTO, previous=alone, kernel=kernel)
    kernel.netlink().delete_link("veth1")
    with pytest.raises(CniError, match="no end of a veth pair"):
        planned("bandwidth", INTO, kernel=kernel)
