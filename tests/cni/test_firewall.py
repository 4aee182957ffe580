"""The plugin type firewall: what its keys mean, and what they must not say."""

from __future__ import annotations

from typing import Any

import pytest

from cni.call import CONFLICT
from cni.spec import CniError, Code
from netkit.firewall import Isolate
from netkit.steps import Hear, Passage, PortFlag
from tests.cni.planned import PREVIOUS, Json, machine, planned, shared

OUTSIDE: Json = {
    **PREVIOUS,
    "interfaces": PREVIOUS["interfaces"][2:],
    "ips": [{**ip, "interface": 0} for ip in PREVIOUS["ips"]],
}


@pytest.mark.parametrize("policy", [None, "", "open"])
@pytest.mark.parametrize("backend", [None, "", "iptables", "nftables", "firewalld"])
def test_by_default_the_link_passes_and_is_open(policy: str | None, backend: str | None) -> None:
    answer = planned("firewall", {"ingressPolicy": policy, "backend": backend})
    assert {*answer.proposal.shared} == {
        *("tables", "plain cni0", "passage of cni0 by trusted", "admin chain CNI-ADMIN")
    }
    assert answer.proposal.plan == ()
    assert answer.result.to_json("1.1.0") == PREVIOUS


@pytest.mark.parametrize(("policy", "icc"), [("same-bridge", True), ("isolated", False)])
def test_a_policy_makes_the_link_a_network_of_its_own(policy: str, icc: bool) -> None:
    kernel = machine()
    answer = planned("firewall", {"ingressPolicy": policy}, kernel=kernel)
    (step,) = answer.proposal.shared["isolation of cni0"](kernel)
    assert step.rules == (Isolate("cni0", icc=icc, open=(4, 6)),)  # type: ignore[attr-defined]
    assert "plain cni0" not in answer.proposal.shared
    assert answer.proposal.plan == (() if icc else (PortFlag(dev="veth1", flag="isolated"),))


def test_a_bridge_has_one_policy() -> None:
    kernel = machine()
    kernel.firewall.open()
    kernel.firewall.add([Isolate("cni0", icc=False, open=(4, 6))])
    planned("firewall", {"ingressPolicy": "isolated"}, kernel=kernel)
    with pytest.raises(CniError, match="'isolated' already") as refused:
        planned("firewall", {"ingressPolicy": "same-bridge"}, kernel=kernel)
    assert refused.value.code == CONFLICT


def test_the_zone_and_the_admins_chain_are_those_named() -> None:
    conf = {"firewalldZone": "internal", "iptablesAdminChainName": "MINE"}
    answer, kernel = planned("firewall", conf), machine()
    make = answer.proposal.shared
    assert make["passage of cni0 by internal"](kernel) == (Passage(dev="cni0", zone="internal"),)
    assert make["admin chain MINE"](kernel) == (Hear(chain="MINE", make=True),)
    assert make["admin chain MINE"](kernel)[0].prepare(kernel) is not None
    default = planned("firewall", {}).proposal.shared["admin chain CNI-ADMIN"](kernel)
    assert default[0].prepare(kernel) is None


def test_where_the_host_forwards_nothing_nothing_is_opened() -> None:
    """A macvlan's frames pass the host's firewall by."""
    assert not planned("firewall", {}, previous=OUTSIDE).proposal.shared
    for policy in ("same-bridge", "isolated"):
        with pytest.raises(CniError, match="needs an interface of the host"):
            planned("firewall", {"ingressPolicy": policy}, previous=OUTSIDE)


@pytest.mark.parametrize(
    "conf",
    [
        {"ingressPolicy": "closed"},
        {"backend": "ipfw"},
        {"iptablesAdminChainName": "two words"},
        {"iptablesAdminChainName": "-X"},
        {"iptablesAdminChainName": "A" * 29},
        {"firewalldZone": "--reload"},
        {"ingressPolicy": 1},
    ],
    ids=str,
)
def test_nonsense_is_refused(conf: Any) -> None:
    with pytest.raises(CniError) as refused:
        planned("firewall", conf)
    assert refused.value.code == Code.INVALID_CONFIG


def test_the_plans_print_as_lines() -> None:
    plans = shared(planned("firewall", {"ingressPolicy": "same-bridge"}))
    assert 'inet netkit inside { "cni0" }' in plans["isolation of cni0"]
