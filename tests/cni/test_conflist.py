"""Network configurations: what is read from which file, and what is said of one that is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni import conflist
from cni.conflist import Conflist
from cni.spec import CniError

REAL = Path(__file__).parent / "conflists"
WEB = {"cniVersion": "1.0.0", "name": "web", "plugins": [{"type": "bridge"}, {"type": "portmap"}]}


def parse(**changed: Any) -> Conflist:
    return conflist.parse(json.dumps({**WEB, **changed}))


def types(network: Conflist) -> list[str]:
    return [plugin["type"] for plugin in network.plugins]


@pytest.mark.parametrize(
    ("file", "name", "version", "plugins", "capabilities"),
    [
        (
            "10-containerd-net.conflist",
            "containerd-net",
            "0.4.0",
            ["bridge", "portmap"],
            {"portMappings"},
        ),
        ("10-crio-bridge.conflist", "crio", "1.0.0", ["bridge"], set()),
        ("10-crio-bridge-single.conflist", "crio-bridge", "1.0.0", ["bridge"], set()),
        ("11-crio-ipv4-bridge.conflist", "crio", "1.0.0", ["bridge"], set()),
        (
            "87-podman-bridge.conflist",
            "podman",
            "0.4.0",
            ["bridge", "portmap", "firewall", "tuning"],
            {"portMappings"},
        ),
    ],
)
def test_the_networks_of_real_runtimes_are_read(
    file: str, name: str, version: str, plugins: list[str], capabilities: set[str]
) -> None:
    network = conflist.read(REAL / file)
    assert (network.name, network.version, types(network)) == (name, version, plugins)
    assert network.capabilities == capabilities
    assert conflist.parse(network.text) == network


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"name": None}, 7, "name is None: no name for a network"),
        ({"name": "../web"}, 7, "name is '../web': no name for a network"),
        ({"name": 7}, 7, "name is 7"),
        ({"plugins": []}, 7, "network 'web' has no plugins"),
        ({"plugins": {}}, 7, "plugins is {}, not a list"),
        ({"plugins": ["bridge"]}, 7, "plugins[0] is 'bridge', not an object"),
        ({"plugins": [{"type": "bridge"}, {}]}, 7, "plugins[1]: type is None"),
        ({"plugins": [{"type": "../../bin/sh"}]}, 7, "plugins[0]: type is '../../bin/sh'"),
        (
            {"plugins": [{"type": "p", "capabilities": ["ips"]}]},
            7,
            "plugins[0]: capabilities is ['ips'], not an object",
        ),
        (
            {"plugins": [{"type": "p", "capabilities": {"ips": 1}}]},
            7,
            "plugins[0]: capabilities.ips is 1, not true or false",
        ),
        ({"disableCheck": "perhaps"}, 7, "disableCheck is 'perhaps', not true or false"),
        ({"disableGC": 1}, 7, "disableGC is 1, not true or false"),
        ({"cniVersion": 1.0}, 7, "cniVersion is 1.0, not plain text"),
        ({"cniVersion": "new"}, 7, "'new' is no CNI version"),
        ({"cniVersions": ["0.4.0", 1]}, 7, "cniVersions[1] is 1, not plain text"),
        ({"cniVersion": "9.0.0"}, 1, "CNI 9.0.0 is not supported"),
    ],
)
def test_a_configuration_that_is_none_is_told_what_is_wrong_where(
    changed: dict[str, Any], code: int, said: str
) -> None:
    with pytest.raises(CniError) as refused:
        parse(**changed)
    assert refused.value.code == code
    assert refused.value.message.startswith("the network configuration: ")
    assert said in refused.value.message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "a", "name": "b"}', b"\xff"])
def test_what_is_no_json_object_is_code_6(text: str | bytes) -> None:
    with pytest.raises(CniError, match="the network configuration is no JSON") as refused:
        conflist.parse(text)
    assert refused.value.code == 6


@given(
    st.sampled_from([*WEB, "cniVersions", "disableGC", "loadOnlyInlinedPlugins"]),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists),
)
def test_whatever_stands_under_a_key_the_answer_is_a_network_or_an_error(
    key: str, value: Any
) -> None:
    try:
        network = parse(**{key: value})
    except CniError as refused:
        code = refused.code
    else:
        code = 0 if network.plugins else -1
    assert code in (0, 1, 6, 7)


@pytest.mark.parametrize(
    ("changed", "version"),
    [
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersions": ["0.3.1", "1.1.0", "0.4.0"]}, "1.1.0"),
        ({"cniVersions": ["0.3.1"]}, "1.0.0"),
        ({"cniVersions": ["0.4.0", "1.0.0", "1.2.0", "9.9.9"]}, "1.0.0"),
        ({"cniVersion": "2.0.0", "cniVersions": ["0.4.0"]}, "0.4.0"),
        ({"cniVersion": "", "cniVersions": ["0.3.0", "0.3.1"]}, "0.3.1"),
        ({"cniVersion": "0.4.0", "cniVersions": []}, "0.4.0"),
    ],
)
def test_the_highest_version_both_sides_know_is_spoken(
    changed: dict[str, Any], version: str
) -> None:
    assert parse(**changed).version == version


@pytest.mark.parametrize(("value", "truth"), [(True, True), ("True", True), ("false", False)])
def test_a_truth_may_be_spelt_as_text(value: object, truth: bool) -> None:
    network = parse(disableCheck=value, disableGC=value)
    assert (network.disable_check, network.disable_gc) == (truth, truth)


# -- directories


def write(directory: Path, **files: object) -> None:
    for name, value in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        text = value if isinstance(value, str) else json.dumps(value)
        path.with_name(path.name.replace("_", ".")).write_text(text)


def test_plugins_in_the_directory_of_the_name_come_after_those_in_the_list(tmp_path: Path) -> None:
    write(tmp_path, a_conflist=WEB, web__20_conf={"type": "sbr"}, web__10_conf={"type": "tuning"})
    write(tmp_path, web__30_json={"type": "no"}, other__10_conf={"type": "no"})
    network = conflist.read(tmp_path / "a.conflist")
    assert types(network) == ["bridge", "portmap", "tuning", "sbr"]
    (tmp_path / "web" / "20.conf").unlink()
    assert conflist.parse(network.text) == network, "what is remembered needs no directory"
    assert json.loads(network.text)["loadOnlyInlinedPlugins"] is True
    write(tmp_path, a_conflist={**WEB, "loadOnlyInlinedPlugins": True})
    assert types(conflist.read(tmp_path / "a.conflist")) == ["bridge", "portmap"]


def test_all_plugins_may_be_in_the_directory(tmp_path: Path) -> None:
    alone = {"cniVersion": "1.1.0", "name": "web"}
    write(tmp_path, a_conflist=alone)
    with pytest.raises(CniError, match=r"a\.conflist: network 'web' has no plugins"):
        conflist.read(tmp_path / "a.conflist")
    write(tmp_path, web__10_conf={"type": "tuning"})
    assert types(conflist.read(tmp_path / "a.conflist")) == ["tuning"]
    write(tmp_path, web__11_conf={"tpye": "sbr"})
    with pytest.raises(CniError, match=r"web/11\.conf: type is None"):
        conflist.read(tmp_path / "a.conflist")


def test_a_single_plugin_is_a_list_of_one(tmp_path: Path) -> None:
    plugin = {"cniVersion": "0.4.0", "name": "web", "type": "bridge", "bridge": "br0"}
    write(tmp_path, a_conf=plugin, web__10_conf={"type": "no"})
    network = conflist.find("web", tmp_path)
    assert (network.version, network.plugins) == ("0.4.0", (plugin,))
    assert json.loads(network.text) == {
        "cniVersion": "0.4.0",
        "name": "web",
        "plugins": [plugin],
    }


def test_lists_come_before_single_plugins_and_a_bad_file_is_in_nobodys_way(tmp_path: Path) -> None:
    single = {"cniVersion": "0.4.0", "name": "web", "type": "bridge"}
    write(tmp_path, b_conflist=WEB, a_conf=single, aa_conflist="{", c_json={**single, "name": "c"})
    write(tmp_path, z_conflist={**WEB, "cniVersion": "1.1.0"}, x_txt="x")
    assert conflist.find("web", tmp_path).version == "1.0.0"
    assert conflist.find("c", tmp_path).version == "0.4.0"
    with pytest.raises(CniError, match=f"there is no network 'db' in {tmp_path}") as refused:
        conflist.find("db", tmp_path)
    assert "aa.conflist is no JSON" in refused.value.details
    found = conflist.scan(tmp_path)
    assert [Path(path).name for path in found] == [
        "a.conf",
        "aa.conflist",
        "b.conflist",
        "c.json",
        "z.conflist",
    ]
    assert [getattr(each, "name", each.__class__) for each in found.values()] == [
        "web",
        CniError,
        "web",
        "c",
        "web",
    ]


def test_a_directory_that_is_not_there_has_no_networks(tmp_path: Path) -> None:
    assert conflist.scan(tmp_path / "none") == {}
    with pytest.raises(CniError, match="there is no network 'web'"):
        conflist.find("web", tmp_path / "none")
    with pytest.raises(CniError, match="No such file") as refused:
        conflist.read(tmp_path / "none")
    assert refused.value.code == 5
