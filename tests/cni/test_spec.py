"""CNI as text: what a call must hold, and how results and errors are written for each version."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import spec
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
    assert tuple(command)[:8] == (
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


def test_version_is_answered_whatever_else_is_in_the_environment() -> None:
    environ = {
        "CNI_COMMAND": "VERSION",
        "CNI_IFNAME": "a b",
        "CNI_CONTAINERID": "/",
        "CNI_ARGS": "\0",
    }
    assert Command.parse(environ, "").version == "1.1.0"


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


@pytest.mark.parametrize("stdin", ["", "{", '{"cniVersion":"9.9.9"}', '{"cniVersion":[]}', "[1]"])
def test_an_error_about_what_has_no_known_version_is_of_the_newest(stdin: str) -> None:
    assert spec.version_of(stdin) == "1.1.0"


@pytest.mark.parametrize("key", ["cniVersion", "CNIVERSION"])
def test_an_error_is_of_the_version_of_the_configuration(key: str) -> None:
    assert spec.version_of(json.dumps({key: "0.3.1", "name": "../x"})) == "0.3.1"
    assert spec.version_of("{}") == "0.1.0"


# -- results in ------------------------------------------------------------------------------------

words = st.text("abz.-/", min_size=1, max_size=6)
numbers = st.integers(1, 9000)
v4 = st.ip_addresses(v=4).map(str)
v6 = st.ip_addresses(v=6).map(str)
cidr4 = st.builds("{}/{}".format, v4, st.integers(0, 32))
cidr6 = st.builds("{}/{}".format, v6, st.integers(0, 128))
index = st.none() | st.integers(0, 1)
routes = st.builds(
    Route,
    cidr4 | cidr6,
    st.just("") | v4 | v6,
    numbers,
    numbers,
    numbers,
    st.none() | st.integers(0, 300),
    st.none() | st.integers(0, 255),
)
dns = st.builds(
    Dns,
    st.lists(v4 | v6, max_size=2).map(tuple),
    st.just("") | words,
    st.lists(words, max_size=2).map(tuple),
    st.lists(words, max_size=2).map(tuple),
)
interfaces = st.builds(Interface, words, st.just("02:00:00:00:00:01"), words, numbers, words, words)
ips4 = st.builds(IP, cidr4, st.just("") | v4, index)
ips6 = st.builds(IP, cidr6, st.just("") | v6, index)
results = st.builds(
    Result,
    st.lists(ips4 | ips6, max_size=3).map(tuple),
    st.lists(routes, max_size=3).map(tuple),
    dns,
    st.tuples(interfaces, interfaces),
)
small_results = st.builds(  # what the oldest versions can say
    lambda four, six, routes, dns: Result((four, six), tuple(routes), dns),
    st.tuples(cidr4, st.just("") | v4).map(lambda said: IP(*said)),
    st.tuples(cidr6, st.just("") | v6).map(lambda said: IP(*said)),
    st.lists(st.tuples(cidr4, st.just("") | v4).map(lambda said: Route(*said)), max_size=2),
    dns,
)


@given(results)
def test_the_newest_version_says_all_of_a_result(result: Result) -> None:
    assert Result.from_json(result.to_json("1.1.0"), "0.1.0") == result


@given(results, st.sampled_from(VERSIONS[2:]))
def test_what_a_version_says_of_a_result_is_read_back(result: Result, version: str) -> None:
    said = json.loads(json.dumps(result.to_json(version)))
    again = Result.from_json(said, version)
    assert again.to_json(version) == said
    del said["cniVersion"]  # then it is of the configuration's
    assert Result.from_json(said, version) == again


@given(small_results, st.sampled_from(VERSIONS), st.sampled_from(VERSIONS))
def test_a_result_of_any_version_goes_in_and_of_any_version_out(
    result: Result, one: str, other: str
) -> None:
    assert Result.from_json(result.to_json(one), other).to_json(other) == result.to_json(other)


keys = st.text(max_size=3) | st.sampled_from(
    ["ips", "ip", "ip4", "ip6", "address", "gateway", "dst", "gw", "routes", "dns", "interface"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | cidr4 | v4,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(keys, json_values) | json_values, st.sampled_from([*VERSIONS, "7"]))
def test_no_result_raises_anything_but_a_cni_error(value: Any, version: str) -> None:
    try:
        Result.from_json(value, version).to_json("1.1.0")
    except CniError as refused:
        assert refused.code == 7  # noqa: PT017
        assert refused.message.startswith("result")  # noqa: PT017


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "prevResult: expected `object`, got `array`"),
        ({"ips": {}}, "prevResult.ips: expected `array`, got `object`"),
        ({"ips": ["10.0.0.1/8"]}, "prevResult.ips[0]: expected `object`, got `str`"),
        ({"ips": [{}]}, "prevResult.ips[0]: object missing required field `address`"),
        ({"ips": [{"address": 7}]}, "prevResult.ips[0].address: expected `str`, got `int`"),
        ({"ips": [{"address": "10.1.0.2"}]}, "'10.1.0.2' is no address with a prefix length"),
        ({"ips": [{"address": "10.1.0.2/255.0.0.0"}]}, "is no address with a prefix length"),
        ({"ips": [{"address": "fe80::1%eth0/64"}]}, "is no address with a prefix length"),
        ({"ips": [{"address": "10.1.0.2/33"}]}, "is no address with a prefix length"),
        ({"ips": [{"address": "10.1.0.2/8", "gateway": "x"}]}, "ips[0].gateway: 'x' is no address"),
        (
            {"interfaces": [{"name": "a"}], "ips": [{"address": "10.1.0.2/8", "interface": 1}]},
            "prevResult.ips[0].interface: there is no interface 1",
        ),
        (
            {"ips": [{"address": "10.1.0.2/8", "interface": -1}]},
            "prevResult.ips[0].interface: there is no interface -1",
        ),
        (
            {"ips": [{"address": "10.1.0.2/8", "interface": True}]},
            "prevResult.ips[0].interface: expected `int | null`, got `bool`",
        ),
        ({"routes": [{"gw": "10.0.0.1"}]}, "prevResult.routes[0]: object missing required field"),
        ({"routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}, "routes[0].mtu: -1 is out of range"),
        ({"ip4": {"gateway": "10.0.0.1"}}, "prevResult.ip4: object missing required field `ip`"),
        ({"ip6": {"ip": "x"}}, "prevResult.ip6.address: 'x' is no address with a prefix length"),
        ({"dns": []}, "prevResult.dns: expected `object`, got `array`"),
        ({"dns": {"search": [1]}}, "prevResult.dns.search[0]: expected `str`, got `int`"),
        ({"dns": {"search": ["a\nb"]}}, "prevResult.dns.search[0]: 'a\\nb' is not plain text"),
        ({"cniVersion": "3"}, "prevResult.cniVersion: '3' is not supported"),
    ],
)
def test_what_is_wrong_with_a_previous_result_is_said(value: object, message: str) -> None:
    with pytest.raises(CniError) as refused:
        assert parse(prevResult=value).previous
    assert message in refused.value.message
    assert refused.value.code == 7


def test_a_previous_result_is_of_its_own_version_or_the_configurations() -> None:
    assert parse().previous is None
    assert parse(prevResult=None).previous is None
    old = {"ip4": {"ip": "10.1.0.2/24", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]}}
    expected = Result((IP("10.1.0.2/24", "10.1.0.1"),), (Route("0.0.0.0/0"),))
    assert parse(cniVersion="0.2.0", prevResult=old).previous == expected
    assert parse(prevResult={"cniVersion": "0.2.0"} | old).previous == expected
    assert parse(prevResult=expected.to_json("0.3.1")).previous == expected


def test_an_ipam_plugins_interface_index_is_of_no_use() -> None:
    read = Result.from_json({"ips": [{"address": "10.1.0.2/24", "interface": 0}]}, "1.0.0")
    assert read.ips == (IP("10.1.0.2/24"),)


# -- options ---------------------------------------------------------------------------------------


class Range(msgspec.Struct, rename="camel"):
    subnet: str
    range_start: str = ""


class Conf(msgspec.Struct, rename="camel"):
    bridge: str = "cni0"
    is_gateway: bool = False
    mtu: int | None = None
    ranges: list[list[Range]] = []
    sysctl: dict[str, str] = {}


def test_options_have_names_types_and_defaults() -> None:
    assert spec.options(None, Conf) == spec.options({}, Conf) == Conf()
    ranges = [[{"subnet": "a", "rangeStart": "b", "type": "other"}]]
    value = {"isGateway": True, "mtu": 1400, "ranges": ranges, "of another": 1}
    assert spec.options(value, Conf) == Conf(
        is_gateway=True, mtu=1400, ranges=[[Range("a", range_start="b")]]
    )


def test_options_are_read_in_any_case_and_null_is_absence_as_in_go() -> None:
    value = {"ISGATEWAY": True, "Bridge": None, "MTU": None, "Ranges": [[{"SUBNET": "a"}]]}
    assert spec.options(value, Conf) == Conf(is_gateway=True, ranges=[[Range("a")]])
    assert spec.options({"mtu": 1, "MTU": 2}, Conf) == Conf(mtu=1)
    assert spec.options({"sysctl": {"A": "1", "a": "2"}}, Conf).sysctl == {"A": "1", "a": "2"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "conf: expected `object`, got `array`"),
        ({"isGateway": 1}, "conf.isGateway: expected `bool`, got `int`"),
        ({"isgateway": "yes"}, "conf.isGateway: expected `bool`, got `str`"),
        ({"mtu": True}, "conf.mtu: expected `int | null`, got `bool`"),
        ({"ranges": [[{"subnet": 10}]]}, "conf.ranges[0][0].subnet: expected `str`, got `int`"),
        ({"ranges": [[{}]]}, "conf.ranges[0][0]: object missing required field `subnet`"),
        ({"ranges": [[{"subnet": "a\tb"}]]}, "conf.ranges[0][0].subnet: 'a\\tb' is not plain text"),
        ({"sysctl": {"a": 1}}, "conf.sysctl[...]: expected `str`, got `int`"),
    ],
)
def test_options_say_what_is_wrong_and_where(value: object, message: str) -> None:
    with pytest.raises(CniError) as refused:
        spec.options(value, Conf, "conf")
    assert (refused.value.code, refused.value.message) == (7, message)


def test_the_keys_of_every_configuration_are_read_in_any_case() -> None:
    conf = {"CNIVersion": "1.0.0", "NAME": "web", "IPAM": {"type": "x"}, "RuntimeConfig": {"a": 1}}
    command = Command.parse(ENV, json.dumps(conf))
    assert (command.version, command.name) == ("1.0.0", "web")
    assert (command.ipam, command.runtime, command.cni_args) == ({"type": "x"}, {"a": 1}, {})


@pytest.mark.parametrize(
    ("conf", "args", "configured", "mac"),
    [
        ({}, "", "", None),
        ({}, "", "02-00-00-00-00-0A", "02:00:00:00:00:0a"),
        ({}, "MAC=02:00:00:00:00:01", "02:00:00:00:00:0a", "02:00:00:00:00:01"),
        ({"args": {"cni": {"mac": "02:00:00:00:00:02"}}}, "MAC=02:00:00:00:00:01", "", "2"),
        (
            {
                "args": {"cni": {"mac": "02:00:00:00:00:02"}},
                "runtimeConfig": {"mac": "02:00:00:00:00:03"},
            },
            "MAC=02:00:00:00:00:01",
            "02:00:00:00:00:0a",
            "3",
        ),
    ],
)
def test_a_mac_is_taken_from_where_it_is_said_most_closely(
    conf: dict[str, Any], args: str, configured: str, mac: str | None
) -> None:
    got = parse({"CNI_ARGS": args}, **conf).wanted_mac(configured)
    assert got == (f"02:00:00:00:00:0{mac}" if mac and len(mac) == 1 else mac)


@pytest.mark.parametrize("mac", ["x", "02:00:00:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00"])
def test_a_mac_that_none_is_refused_by_where_it_stands(mac: str) -> None:
    with pytest.raises(CniError, match=r"^runtimeConfig\.mac: .*MAC") as refused:
        parse(runtimeConfig={"mac": mac}).wanted_mac()
    assert refused.value.code == 7


def test_addresses_are_asked_for_in_three_places() -> None:
    command = parse(
        {"CNI_ARGS": "IP=10.1.0.2,10.1.0.3/24"},
        args={"cni": {"ips": ["10.1.0.4"]}},
        runtimeConfig={"ips": ["10.1.0.5/24", "10.1.0.4"]},
    )
    assert command.wanted_ips() == ["10.1.0.2", "10.1.0.3/24", "10.1.0.4", "10.1.0.5/24"]
    with pytest.raises(CniError, match=r"runtimeConfig\.ips\[0\] is 7, not plain text"):
        parse(runtimeConfig={"ips": [7]}).wanted_ips()


def test_valid_attachments_are_pairs_and_their_absence_is_an_error() -> None:
    def valid(value: object) -> object:
        environ = ENV | {"CNI_COMMAND": "GC"}
        conf = CONF | {"cni.dev/valid-attachments": value}
        return Command.parse(environ, json.dumps(conf)).valid_attachments

    assert valid([]) == frozenset()
    assert valid([{"containerID": "c1", "ifname": "eth0"}]) == {("c1", "eth0")}
    for wrong, message in ((None, "GC needs"), ([1], "expected `object`"), ([{}], "missing")):
        with pytest.raises(CniError, match=message) as refused:
            valid(wrong)
        assert refused.value.code == 7
