"""netkit config …: check tells all, show tells whence, import keeps what it can."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from netkit import cli, config
from tests.faces import netkit, ok, refused

pytestmark = pytest.mark.usefixtures("host")
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file NETKIT_CONFIG names, empty."""
    path = tmp_path / "netkit.toml"
    path.touch(0o644)
    monkeypatch.setenv("NETKIT_CONFIG", str(path))
    return path


def test_check_tells_every_mistake_with_its_way_out(file: Path) -> None:
    file.write_text('mtu = "1400"\nbipp = "x"\nicc = false\niptables = false\n')
    for words in (["config", "check"], ["config", "check", str(file)]):
        assert refused(*words).splitlines() == [
            f'Error: {file}: mtu: "1400" is a string, not a whole number',
            "Hint:  write it in digits, without quotes: 1450",
            f'Error: {file}: "bipp": no such key',
            "Hint:  did you mean bip?",
            f"Error: {file}: icc: false needs a firewall, and none is asked for",
            "Hint:  without rules containers cannot be kept apart: leave out one of the two",
        ]


def test_check_tells_what_is_no_toml(file: Path) -> None:
    file.write_text("mtu 3")
    assert f"Error: {file}: not TOML: " in refused("config", "check")
    assert "there is no such file" in refused("config", "check", f"{file}.not")


def test_check_of_what_is_right_says_so(file: Path) -> None:
    file.write_text("mtu = 1400\nicc = false\n")
    assert ok("config", "check", str(file)) == f"{file}: 2 keys set, no mistakes\n"
    # the sandbox of the tests sets the directories
    assert ok("config", "check").endswith(": 4 keys set, no mistakes\n")


def test_show_tells_what_holds_and_whence(file: Path) -> None:
    file.write_text('mtu = 1400\nbip = "10.0.0.1/24"\ndns = ["9.9.9.9"]\n')
    rows = [re.split(" {2,}", line) for line in ok("config", "show").splitlines()]
    assert rows[0] == ["KEY", "VALUE", "SOURCE"]
    assert tuple(row[0] for row in rows[1:]) == config.KEYS
    assert ["mtu", "1400", str(file)] in rows
    assert ["bip", '"10.0.0.1/24"', str(file)] in rows
    assert ["dns", '["9.9.9.9"]', str(file)] in rows
    assert ["icc", "true", "default"] in rows
    assert ["bridge", "(netkit0)", "default"] in rows
    assert rows[-1][2] == "NETKIT_RUN_DIR"


def test_show_has_dockers_formats(file: Path) -> None:
    file.write_text("mtu = 1400\nicc = false\n")
    rows = [json.loads(line) for line in ok("config", "show", "--format=json").splitlines()]
    assert {"Key": "mtu", "Value": 1400, "Source": str(file)} in rows
    assert {"Key": "bip", "Value": None, "Source": "default"} in rows
    assert {"Key": "icc", "Value": False, "Source": str(file)} in rows
    lines = ok("config", "show", "--format", "{{.Key}}={{json .Value}}").splitlines()
    assert "icc=false" in lines
    assert ok("config", "show", "--format", r"table {{.Key}}\t{{.Source}}").startswith("KEY   ")


def test_show_of_what_is_wrong_is_refused(file: Path) -> None:
    file.write_text("mtu = 1\nicc = 1\n")
    said = refused("config", "show")
    assert "mtu: 1 is not between 68 and 65535" in said
    assert "icc: 1 is a number" in said


def test_import_prints_what_can_be_used_as_it_is(file: Path, tmp_path: Path) -> None:
    docker = tmp_path / "daemon.json"
    docker.write_text('{"bip": "192.168.1.5/24", "debug": true, "dns": ["9.9.9.9"], "mtu": 0}')
    docker.chmod(0o644)
    said = ok("config", "import", str(docker))
    assert tomllib.loads(said) == {"bip": "192.168.1.5/24", "dns": ["9.9.9.9"]}
    assert '# "debug": not about networks' in said.splitlines()
    file.write_text(said)
    ok("config", "check")


def test_import_of_what_cannot_be_prints_no_half_of_it(tmp_path: Path) -> None:
    docker = tmp_path / "daemon.json"
    docker.write_text('{"bip": "192.168.1.5/24", "bridge": "br0", "mtu": 1}')
    docker.chmod(0o644)
    said = refused("config", "import", str(docker))
    assert "mtu: 1 is not between" in said
    assert "bip: an address cannot be given to bridge" in said
    assert netkit("config", "import", str(tmp_path / "none")).code == 1


def test_every_key_is_a_global_option_spelt_as_dockerds() -> None:
    assert {*cli.KEYS} == {*config.KEYS}
    words = {
        "bip": "10.0.0.1/24",
        "bip6": "fd00::1/64",
        "fixed-cidr": "10.0.0.0/25",
        "fixed-cidr-v6": "fd00::/80",
        "default-gateway": "10.0.0.9",
        "ip": "127.0.0.1",
        "default-gateway-v6": "fd00::9",
        "mtu": "1400",
        "firewall": "iptables",
        "default-address-pool": "base=10.1.0.0/16,size=24",
        "state-dir": "/s",
        "run-dir": "/r",
        "dns": "9.9.9.9",
        "dns-opt": "rotate",
        "dns-search": "example.com",
        "ipam-plugin-dir": "/srv/plugins",
    }
    flags = ["ipv6", "icc=false", "no-ip-masq", "ip-forward=0", "ip-forward-no-drop=true"]
    line = [f"--{key}={value}" for key, value in words.items()]
    line += [
        f"--{flag}" for flag in [*flags, "daemon", "names", "iptables", "userland-proxy=False"]
    ]
    rows = [json.loads(each) for each in ok(*line, "config", "show", "--format=json").splitlines()]
    assert {row["Key"] for row in rows if row["Source"] == "default"} == {"bridge"}
    shown = {row["Key"]: row["Value"] for row in rows}
    assert shown["default-address-pools"] == [{"base": "10.1.0.0/16", "size": 24}]
    assert (shown["dns"], shown["mtu"], shown["bip"]) == (["9.9.9.9"], 1400, "10.0.0.1/24")
    assert [
        shown[key] for key in ("ipv6", "icc", "ip-masq", "ip-forward", "ip-forward-no-drop")
    ] == [*(True, False, False, False, True)]
    assert '"br0"' in ok("-b", "br0", "config", "show")


def test_an_option_that_is_wrong_is_the_command_lines_mistake(file: Path) -> None:
    file.write_text("icc = true\n")
    said = refused("--bip", "10.0.0.0/24", "--icc=false", "--iptables=false", "ps")
    assert said.splitlines()[:2] == [
        "Error: command line: bip: 10.0.0.0/24 is the network's own address, or that of all in it",
        "       command line: icc: false needs a firewall, and none is asked for",
    ]
    assert refused("--bip=x", "config", "check").startswith("Error: command line: bip: 'x' is not")


def test_an_options_value_is_not_taken_for_a_flags() -> None:
    """`--dns` has a value, whatever it looks like; after the command they are the command's."""
    assert "invalid nameserver '--icc=false'" in refused("--dns", "--icc=false", "ps")
    assert netkit("ps", "--icc=false").code == 2


def test_the_page_has_every_key_with_its_default() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.*?) \| (.*?) \| .+ \|$", PAGE.read_text(), re.M)
    assert tuple(key for key, _, _ in rows) == config.KEYS
    default = config.Config()
    for key, flag, shown in rows:
        value = config.toml(config.plain(getattr(default, key.replace("-", "_"))))
        assert shown == config.UNSET.get(key, value), key
        assert f"--{key.removesuffix('s')}" in flag or key in ("firewall", "dns"), key
