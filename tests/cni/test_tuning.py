"""The plugin type tuning: what its keys mean, and what they must not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cni import tuning
from cni.spec import CniError, Code
from netkit.steps import Announce, Step, Sysctl, Tune
from tests.cni.planned import AT, PREVIOUS, Json, planned

MAC, OTHER = "c2:11:22:33:44:55", "c2:11:22:33:44:66"


@pytest.fixture(autouse=True)
def allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the list of what may be set would be."""
    monkeypatch.setattr(tuning, "ALLOWED", str(tmp_path / "allowlist.conf"))
    return tmp_path / "allowlist.conf"


def plan(conf: Json, **more: Any) -> tuple[Step, ...]:
    return planned("tuning", conf, **more).proposal.plan


def tune(conf: Json, **more: Any) -> Tune:
    (found,) = (step for step in plan(conf, **more) if isinstance(step, Tune))
    return found


def sysctls(conf: Json, **more: Any) -> dict[str, str]:
    found = [step for step in plan(conf, **more) if isinstance(step, Sysctl)]
    assert all(step.at == AT and step.needed for step in found)
    return {step.key: step.value for step in found}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("net.core.somaxconn", "net/core/somaxconn"),
        ("net/core/somaxconn", "net/core/somaxconn"),
        ("net.ipv4.conf.IFNAME.arp_filter", "net/ipv4/conf/eth0/arp_filter"),
        ("net/ipv6/conf/IFNAME/accept_ra", "net/ipv6/conf/eth0/accept_ra"),
        ("net/ipv4/conf/eth0.5/arp_filter", "net/ipv4/conf/eth0.5/arp_filter"),
        ("net.ipv4.conf.all.log_martians", "net/ipv4/conf/all/log_martians"),
    ],
)
def test_a_sysctl_is_spelt_with_dots_or_slashes(name: str, key: str) -> None:
    assert sysctls({"sysctl": {name: "1"}}) == {key: "1"}


@pytest.mark.parametrize(
    "name",
    [
        *("kernel.hostname", "kernel/hostname", "vm.swappiness", "net", "", "/", "."),
        *("net/../kernel/hostname", "net.ipv4...kernel.hostname", "/net/core/somaxconn"),
        *("net/./core/x", "net//core/x", "net.core.so maxconn", "net/core/x/..", "net.core.x\\n"),
        *("../net/core/x", "net/core/\u00e9", "/proc/sys/net/core/somaxconn"),
    ],
)
def test_only_what_is_below_net_may_be_set(name: str) -> None:
    with pytest.raises(CniError) as refused:
        plan({"sysctl": {name: "1"}})
    assert refused.value.code == Code.INVALID_CONFIG


def test_one_sysctl_has_one_value() -> None:
    same = {"net.core.somaxconn": "7", "net/core/somaxconn": " 7 "}
    assert sysctls({"sysctl": same}) == {"net/core/somaxconn": "7"}
    with pytest.raises(CniError, match="two values"):
        plan({"sysctl": {**same, "net/core/somaxconn": "8"}})


def test_the_allow_list_is_of_patterns(allowed: Path) -> None:
    allowed.write_text("^net\\.core\\.[a-z]*$\n\n  ^net\\.ipv4\\.conf\\.IFNAME\\.arp_filter$  \n")
    good = {"net.core.somaxconn": "1", "net.ipv4.conf.IFNAME.arp_filter": "1"}
    assert len(sysctls({"sysctl": good})) == 2
    for bad in ("net.ipv4.ip_forward", "net/core/somaxconn", "net.core.rmem_max"):
        with pytest.raises(CniError, match="is not allowed"):
            plan({"sysctl": {**good, bad: "1"}})
        with pytest.raises(CniError, match="is not allowed"):
            plan({"args": {"cni": {"sysctl": {bad: "1"}}}})
    allowed.write_text("")
    with pytest.raises(CniError, match="is not allowed"):
        plan({"sysctl": good})
    allowed.write_text("(")
    with pytest.raises(CniError, match="no pattern"):
        plan({"sysctl": good})


def test_all_that_an_interface_has_is_set_in_one_step() -> None:
    conf = {"mac": MAC, "promisc": True, "mtu": 1400, "txQLen": 0, "allmulti": False}
    found = tune(conf)
    assert found == Tune(
        dev="eth0",
        at=AT,
        mac=MAC,
        mtu=1400,
        txqlen=0,
        promisc=True,
        allmulti=False,
        there=True,
    )
    assert plan({"promisc": False, "mtu": 0, "dataDir": "/run/x", "sysctl": None}) == ()


def test_args_count_for_more_than_the_configuration() -> None:
    conf = {"mtu": 1400, "txQLen": 5, "sysctl": {"net.core.somaxconn": "1", "net.core.x": "1"}}
    said = {"mtu": 1300, "promisc": True, "sysctl": {"net.core.somaxconn": "2"}}
    asked = {**conf, "args": {"cni": said}}
    assert sysctls(asked) == {"net/core/somaxconn": "2", "net/core/x": "1"}
    found = tune(asked)
    assert (found.mtu, found.txqlen, found.promisc) == (1300, 5, True)
    assert sysctls({"args": {"cni": {"sysctl": {"net.core.x": "1"}}}}) == {"net/core/x": "1"}


@pytest.mark.parametrize(
    ("conf", "args"),
    [
        ({"mac": MAC}, ""),
        ({"mac": OTHER}, f"MAC={MAC}"),
        ({"mac": OTHER, "runtimeConfig": {"mac": MAC}}, f"MAC={OTHER}"),
        ({"mac": OTHER, "args": {"cni": {"mac": MAC.upper()}}}, f"MAC={OTHER}"),
        ({}, f"IgnoreUnknown=1;FOO=1;MAC={MAC}"),
    ],
)
def test_a_mac_is_asked_for_in_four_places(conf: Json, args: str) -> None:
    answer = planned("tuning", conf, args=args)
    assert tune(conf, args=args).mac == MAC
    assert [each.mac for each in answer.result.interfaces] == [
        *("02:42:00:00:00:01", "02:42:00:00:00:02", MAC)
    ]
    (told,) = (step for step in answer.proposal.plan if isinstance(step, Announce))
    assert (told.mac, len(told.addresses)) == (MAC, 2)


def test_the_result_has_the_mtu_where_its_version_knows_of_one() -> None:
    result = planned("tuning", {"mtu": 1400}).result
    assert [each.mtu for each in result.interfaces] == [0, 0, 1400]
    assert result.to_json("1.1.0")["interfaces"][2]["mtu"] == 1400
    assert "mtu" not in result.to_json("1.0.0")["interfaces"][2]
    assert planned("tuning", {}).result.to_json("1.1.0") == PREVIOUS


@pytest.mark.parametrize(
    "conf",
    [
        {"mac": "nonsense"},
        {"mac": "01:00:5e:00:00:01"},
        {"mtu": -1},
        {"mtu": "1400"},
        {"txQLen": 1 << 32},
        {"sysctl": {"net.core.x": 1}},
        {"sysctl": ["net.core.x"]},
        {"promisc": "yes"},
    ],
    ids=str,
)
def test_nonsense_is_refused(conf: Any) -> None:
    with pytest.raises(CniError) as refused:
        plan(conf)
    assert refused.value.code == Code.INVALID_CONFIG
