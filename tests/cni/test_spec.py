"""CNI as text: what a call must hold, and how results and errors are written for each version."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.spec import IP, VERSIONS, CniError, Code, Command, Dns, Interface, Result, Route

ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin:/usr/lib/cni",
}
CONF = {"cniVersion": "1.1.0", "name": "web", "type": "bridge"}
RESULT = Result(
    ips=(IP("10.88.0.2/24", "10.88.0.1", interface=0), IP("fd00::2/64")),
    routes=(Route("0.0.0.0/0", mtu=1400, scope=0), Route("::/0", "fd00::1", table=0)),
    dns=Dns(("10.88.0.1",), "lan", ("a.lan", "b.lan"), ("ndots:1",)),
    interfaces=(Interface("eth0", "02:42:0a:58:00:02", "/run/netns/c1", 1450, pci_id="0:1"),),
)
DNS = {
    "nameservers": ["10.88.0.1"],
    "domain": "lan",
    "search": ["a.lan", "b.lan"],
    "options": ["ndots:1"],
}


def parse(environ: dict[str, str] | None = None, **conf: object) -> Command:
    return Command.parse(ENV | (environ or {}), json.dumps(CONF | conf))


def test_a_command_is_read_from_environment_and_standard_input() -> None:
    command = parse()
    assert command.name == "web"
    assert tuple(command) == (
        *("ADD", "c1", "/run/netns/c1", "eth0", ""),
        *(("/opt/cni/bin", "/usr/lib/cni"), CONF, "1.1.0"),
    )


@pytest.mark.parametrize(
    ("verb", "needed"),
    [
        ("ADD", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("CHECK", "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID, CNI_IFNAME"),
        ("GC", "CNI_PATH"),
    ],
)
def test_each_verb_says_what_it_misses_in_the_environment(verb: str, needed: str) -> None:
    with pytest.raises(CniError, match=f"^{verb} needs {needed} in the environment$") as refused:
        Command.parse({"CNI_COMMAND": verb}, json.dumps(CONF))
    assert refused.value.code == Code.INVALID_ENVIRONMENT


@pytest.mark.parametrize("verb", ["STATUS", "VERSION"])
def test_two_verbs_need_nothing_from_the_environment(verb: str) -> None:
    assert Command.parse({"CNI_COMMAND": verb}, json.dumps(CONF)).version == "1.1.0"


@pytest.mark.parametrize(
    ("environ", "conf", "code", "message"),
    [
        ({"CNI_COMMAND": ""}, {}, 4, "CNI_COMMAND is not set"),
        ({"CNI_COMMAND": "add"}, {}, 4, "CNI_COMMAND is 'add'"),
        ({"CNI_CONTAINERID": "../c1"}, {}, 4, "CNI_CONTAINERID '../c1' is no container id"),
        ({"CNI_CONTAINERID": "c1\n"}, {}, 4, "is no container id"),
        ({"CNI_CONTAINERID": "é"}, {}, 4, "is no container id"),
        ({"CNI_IFNAME": "eth/0"}, {}, 4, "CNI_IFNAME 'eth/0' is no interface name"),
        ({"CNI_IFNAME": ".."}, {}, 4, "is no interface name"),
        ({"CNI_IFNAME": "x" * 16}, {}, 4, "is no interface name"),
        ({"CNI_IFNAME": "é" * 8}, {}, 4, "is no interface name"),
        ({}, {"cniVersion": "9.9.9"}, 1, "cniVersion 9.9.9 is not supported"),
        ({}, {"cniVersion": 1}, 1, "cniVersion 1 is not supported"),
        ({"CNI_COMMAND": "CHECK"}, {"cniVersion": "0.3.1"}, 1, "cniVersion 0.3.1 has no CHECK"),
        ({"CNI_COMMAND": "GC"}, {"cniVersion": "1.0.0"}, 1, "cniVersion 1.0.0 has no GC"),
        ({"CNI_COMMAND": "STATUS"}, {"cniVersion": "1.0.0"}, 1, "has no STATUS"),
        ({}, {"name": "../etc"}, 7, "no name for a network"),
        ({}, {"name": None}, 7, "no name for a network"),
    ],
)
def test_a_malformed_call_is_refused_with_the_code_of_its_kind(
    environ: dict[str, str], conf: dict[str, object], code: int, message: str
) -> None:
    with pytest.raises(CniError, match=message) as refused:
        parse(environ, **conf)
    assert refused.value.code == code


@pytest.mark.parametrize("stdin", ["", "{", "[]", "null", "1"])
def test_a_configuration_that_is_no_object_is_a_decoding_failure(stdin: str) -> None:
    with pytest.raises(CniError) as refused:
        Command.parse(ENV, stdin)
    assert refused.value.code == Code.DECODING_FAILURE


@given(st.dictionaries(st.sampled_from(list(ENV)), st.text()), st.text())
def test_no_text_raises_anything_but_a_cni_error(environ: dict[str, str], stdin: str) -> None:
    try:
        command = Command.parse(environ, stdin)
    except CniError as refused:
        assert refused.code in (1, 4, 6, 7)  # noqa: PT017
    else:
        assert command.verb == "VERSION"


def test_a_configuration_without_version_is_of_the_first_one() -> None:
    assert parse(cniVersion="").version == "0.1.0"


def test_arguments_of_others_are_refused_unless_marked_as_such() -> None:
    command = parse({"CNI_ARGS": "IP=10.0.0.5;K8S_POD_NAME=web-0"})
    with pytest.raises(CniError, match="CNI_ARGS has K8S_POD_NAME, which") as refused:
        command.arguments("IP")
    assert refused.value.details
    command = parse({"CNI_ARGS": "IgnoreUnknown=1;IP=10.0.0.5;K8S_POD_NAME=web-0"})
    assert command.arguments("IP") == {"IP": "10.0.0.5"}


def test_the_oldest_versions_know_one_address_per_family() -> None:
    assert RESULT.to_json("0.2.0") == {
        "cniVersion": "0.2.0",
        "ip4": {"ip": "10.88.0.2/24", "gateway": "10.88.0.1", "routes": [{"dst": "0.0.0.0/0"}]},
        "ip6": {"ip": "fd00::2/64", "routes": [{"dst": "::/0", "gw": "fd00::1"}]},
        "dns": DNS,
    }
    with pytest.raises(CniError, match=r"CNI 0\.1\.0 knows one address per family") as refused:
        Result(ips=(IP("10.0.0.2/24"), IP("10.0.1.2/24"))).to_json("0.1.0")
    assert refused.value.code == Code.INVALID_CONFIG


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_the_middle_versions_write_the_family_of_an_address(version: str) -> None:
    sandbox = {"name": "eth0", "mac": "02:42:0a:58:00:02", "sandbox": "/run/netns/c1"}
    assert RESULT.to_json(version) == {
        "cniVersion": version,
        "interfaces": [sandbox],
        "ips": [
            {"version": "4", "interface": 0, "address": "10.88.0.2/24", "gateway": "10.88.0.1"},
            {"version": "6", "address": "fd00::2/64"},
        ],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}],
        "dns": DNS,
    }


def test_version_1_0_drops_the_family() -> None:
    ips = RESULT.to_json("1.0.0")["ips"]
    assert ips == [
        {"interface": 0, "address": "10.88.0.2/24", "gateway": "10.88.0.1"},
        {"address": "fd00::2/64"},
    ]


def test_version_1_1_says_all_there_is() -> None:
    result = RESULT.to_json("1.1.0")
    assert result["interfaces"] == [
        {
            "name": "eth0",
            "mac": "02:42:0a:58:00:02",
            "sandbox": "/run/netns/c1",
            "mtu": 1450,
            "pciID": "0:1",
        }
    ]
    assert result["routes"] == [
        {"dst": "0.0.0.0/0", "mtu": 1400, "scope": 0},
        {"dst": "::/0", "gw": "fd00::1", "table": 0},
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_result_is_written_in_every_version(version: str) -> None:
    assert Result().to_json(version) == {"cniVersion": version, "dns": {}}


def test_an_error_is_written_as_the_specification_says() -> None:
    error = CniError(Code.TRY_AGAIN_LATER, "no free address", "use a wider subnet")
    assert json.loads(json.dumps(error.to_json("1.0.0"))) == {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "no free address",
        "details": "use a wider subnet",
    }
