"""The plugin static, called as a runtime calls it; beside the reference: test_reference_ipam."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.static import handle

ROOT = Path(__file__).parents[2]
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
IPAM = {
    "type": "static",
    "addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}],
    "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
    "dns": {"nameservers": ["1.1.1.1"]},
}
RESULT = {
    "cniVersion": "1.1.0",
    "ips": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}, {"address": "fd00::5/64"}],
    "routes": [{"dst": "0.0.0.0/0", "mtu": 1400}],
    "dns": {"nameservers": ["1.1.1.1"]},
}


def call(verb: str, ipam: Any = IPAM, **conf: Any) -> tuple[int, Any]:
    whole = {"cniVersion": "1.1.0", "name": "web", "type": "bridge", "ipam": ipam} | conf
    return handle(ENV | {"CNI_COMMAND": verb}, json.dumps(whole))


def test_the_executable_prints_what_is_written_down() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "cni.static"],
        env=os.environ | ENV,
        input=json.dumps({"cniVersion": "1.1.0", "name": "web", "ipam": IPAM}),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (ran.returncode, ran.stderr, json.loads(ran.stdout)) == (0, "", RESULT)


def test_what_remembers_nothing_has_nothing_to_give_back() -> None:
    for verb in ("DEL", "DEL", "GC", "STATUS"):
        assert call(verb) == (0, None)
    assert call("DEL", ipam={"addresses": "nonsense"}) == (0, None)


def test_check_compares_what_was_given_with_what_is_written_down() -> None:
    assert call("CHECK", prevResult=RESULT) == (0, None)
    old = {"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/24", "gateway": "10.1.0.1"}}
    assert call("CHECK", prevResult=old | {"ip6": {"ip": "fd00::5/64"}}) == (0, None)


@pytest.mark.parametrize(
    ("before", "code", "message"),
    [
        (None, 7, "CHECK needs prevResult"),
        ({"ips": []}, 101, "prevResult lacks 10.1.0.5/24"),
        ({"ips": [RESULT["ips"][0]]}, 101, "prevResult lacks fd00::5/64"),  # type: ignore[index]
        (
            {"ips": [{"address": "10.1.0.5/24"}, {"address": "fd00::5/64"}]},
            101,
            "prevResult has gateway none for 10.1.0.5/24, not 10.1.0.1",
        ),
        ({"ips": 7}, 7, "prevResult.ips: expected `array`, got `int`"),
    ],
)
def test_check_tells_what_is_missing(before: object, code: int, message: str) -> None:
    status, said = call("CHECK", prevResult=before)
    assert (status, said["code"], said["msg"]) == (1, code, message)


@pytest.mark.parametrize(
    ("ipam", "message"),
    [
        ([], "ipam is [], not an object"),
        ({"addresses": {}}, "ipam.addresses: expected `array`, got `object`"),
        ({"addresses": [7]}, "ipam.addresses[0]: expected `object`, got `int`"),
        (
            {"addresses": [{"address": "10.1.0.5"}]},
            "ipam.addresses[0].address: '10.1.0.5' is no address with a prefix length",
        ),
        (
            {"addresses": [{"address": "10.1.0.5/24", "gateway": "x"}]},
            "ipam.addresses[0].gateway: 'x' is no address",
        ),
        ({"routes": [{"dst": "x"}]}, "ipam.routes[0].dst: 'x' is no address with a prefix length"),
        ({"dns": {"search": "x"}}, "ipam.dns.search: expected `array`, got `str`"),
    ],
)
def test_a_wrong_configuration_is_named(ipam: Any, message: str) -> None:
    for verb in ("ADD", "STATUS"):
        status, said = call(verb, ipam=ipam)
        assert (status, said["code"], said["msg"]) == (1, 7, message)


def test_an_old_version_gets_one_address_of_each_family_and_no_more() -> None:
    _, said = call("ADD", cniVersion="0.2.0")
    assert said["ip4"]["ip"] == "10.1.0.5/24"
    ipam = {"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.2.0.5/24"}]}
    status, said = call("ADD", ipam=ipam, cniVersion="0.2.0")
    assert (status, said["code"], said["cniVersion"]) == (1, 7, "0.2.0")


def test_what_is_asked_for_closest_wins() -> None:
    args = {"cni": {"ips": ["10.8.0.5/24"]}}
    runtime = {"ips": ["10.9.0.5/24"]}
    for conf, expected in (
        ({"args": args}, "10.8.0.5/24"),
        ({"args": args, "runtimeConfig": runtime}, "10.9.0.5/24"),
        ({"args": {"cni": {"ips": []}}, "runtimeConfig": {"ips": None}}, "10.1.0.5/24"),
    ):
        _, said = call("ADD", **conf)
        assert said["ips"][0]["address"] == expected


keys = st.text(max_size=3) | st.sampled_from(["address", "gateway", "dst", "gw", "search", "ips"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("10.1.0.5/24"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(["addresses", "routes", "dns"]), json_values),
    st.dictionaries(st.just("ips"), json_values),
    st.sampled_from(["ADD", "CHECK", "DEL", "GC", "STATUS"]),
)
def test_no_configuration_is_answered_with_anything_but_json(
    ipam: Any, runtime: Any, verb: str
) -> None:
    code, answer = call(verb, ipam=ipam, runtimeConfig=runtime, prevResult=runtime)
    assert code == 0 or answer["code"] in (6, 7, 101)
    json.loads(json.dumps(answer))
