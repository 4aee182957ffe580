"""The configuration file: every key, every mistake by its name, and what wins over what."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit import config
from netkit.config import Config, Value
from netkit.errors import InvalidSpec

ROOT = Path(__file__).parents[1]
EVERYTHING = """
bip = "10.88.0.1/16"
bip6 = "fd00:88::1/64"
fixed-cidr = "10.88.1.0/24"
fixed-cidr-v6 = "fd00:88::/80"
default-gateway = "10.88.0.254"
default-gateway-v6 = "fd00:88::254"
ipv6 = true
icc = false
mtu = 1400
ip-masq = false
ip = "127.0.0.1"
default-address-pools = [{base = "10.0.0.0/12", size = 24}, {base = "fd00:1::/48", size = 64}]
ip-forward = false
ip-forward-no-drop = true
iptables = true
firewall = "iptables"
userland-proxy = false
dns = ["9.9.9.9", "2620:fe::fe"]
dns-opts = ["ndots:2", "rotate"]
dns-search = ["example.com"]
daemon = false
names = false
ipam-plugin-dirs = ["/opt/cni/bin", "/srv/plugins"]
state-dir = "/srv/netkit"
run-dir = "/run/other"
"""


@pytest.fixture(autouse=True)
def nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the tests' own, and a default path where nothing is."""
    for name in (config.VARIABLE, *config.ENVIRONMENT.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "PATH", str(tmp_path / "netkit.toml"))


def file(tmp_path: Path, text: str | bytes, name: str = "netkit.toml") -> str:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o644)  # whatever the umask
    return str(path)


def mistakes(text: str) -> list[str]:
    _, found = config.examine([("F", tomllib.loads(text))])
    return [str(each) for each in found]


# -- what is right


def test_every_key_is_read(tmp_path: Path) -> None:
    settings = config.load(file(tmp_path, EVERYTHING))
    assert settings.config == Config(
        bip=ip_interface("10.88.0.1/16"),  # type: ignore[arg-type]
        bip6=ip_interface("fd00:88::1/64"),  # type: ignore[arg-type]
        fixed_cidr=ip_network("10.88.1.0/24"),  # type: ignore[arg-type]
        fixed_cidr_v6=ip_network("fd00:88::/80"),  # type: ignore[arg-type]
        default_gateway=ip_address("10.88.0.254"),  # type: ignore[arg-type]
        default_gateway_v6=ip_address("fd00:88::254"),  # type: ignore[arg-type]
        ipv6=True,
        icc=False,
        mtu=1400,
        ip_masq=False,
        ip=ip_address("127.0.0.1"),
        default_address_pools=((ip_network("10.0.0.0/12"), 24), (ip_network("fd00:1::/48"), 64)),
        ip_forward=False,
        ip_forward_no_drop=True,
        firewall="iptables",
        userland_proxy=False,
        dns=("9.9.9.9", "2620:fe::fe"),
        dns_opts=("ndots:2", "rotate"),
        dns_search=("example.com",),
        daemon=False,
        names=False,
        ipam_plugin_dirs=("/opt/cni/bin", "/srv/plugins"),
        state_dir="/srv/netkit",
        run_dir="/run/other",
    )
    assert {*settings.origins} == {*config.KEYS} - {"bridge"}  # which excludes bip


def test_every_key_is_shown_as_it_was_written() -> None:
    written = tomllib.loads(EVERYTHING)
    settings = config.parse([("F", written)])
    shown = {key: config.plain(getattr(settings.config, key.replace("-", "_"))) for key in written}
    assert shown == written
    text = "".join(f"{key} = {config.toml(value)}\n" for key, value in shown.items())
    assert tomllib.loads(text) == written


def test_nothing_set_is_the_default() -> None:
    assert config.load() == (Config(), {})
    assert config.parse([("F", {})]).config == Config()


def test_a_directory_of_plugins_is_absolute_and_has_no_colon() -> None:
    assert mistakes('ipam-plugin-dirs = ["bin"]') == [
        "F: ipam-plugin-dirs: 'bin' is not an absolute path"
    ]
    assert mistakes('ipam-plugin-dirs = ["/a:/b"]') == ["F: ipam-plugin-dirs: '/a:/b' has a colon"]


def test_what_is_not_set_is_described() -> None:
    """Either the value says what holds, or words do."""
    unset = {key for key in config.KEYS if getattr(Config(), key.replace("-", "_")) in (None, ())}
    assert unset == {*config.UNSET}


@pytest.mark.parametrize(
    ("text", "back_end"),
    [
        ("", None),
        ('firewall = "nftables"', "nftables"),
        ("iptables = false", "none"),
        ('iptables = false\nfirewall = "none"', "none"),
        ('iptables = true\nfirewall = "none"', "none"),
    ],
)
def test_no_rules_can_be_asked_for_in_dockers_words_and_in_ours(
    text: str, back_end: str | None
) -> None:
    assert config.parse([("F", tomllib.loads(text))]).config.back_end == back_end


def test_without_a_file_one_system_call_is_all_and_the_parser_is_not_loaded(tmp_path: Path) -> None:
    script = (
        "import sys; from netkit import config; seen = []\n"
        "sys.addaudithook(lambda event, args: seen.append(args[0]) if event == 'open' else None)\n"
        "config.load(); print(seen, 'tomllib' in sys.modules, 'difflib' in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("NETKIT_")}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            script.replace("config.load()", "config.PATH = '/no'; config.load()"),
        ],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("['/no'] False False\n", "")


# -- what wins


def test_command_line_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, 'mtu = 1400\nstate-dir = "/file"\nrun-dir = "/file"\nicc = false\n')
    monkeypatch.setenv("NETKIT_STATE_DIR", "/environment")
    monkeypatch.setenv("NETKIT_RUN_DIR", "/environment")
    settings = config.load(path, {"run-dir": "/given", "mtu": 1300})
    got = settings.config
    assert (got.mtu, got.icc, got.ip_masq) == (1300, False, True)
    assert (got.state_dir, got.run_dir) == ("/environment", "/given")
    assert settings.origins == {
        "mtu": "command line",
        "state-dir": "NETKIT_STATE_DIR",
        "run-dir": "command line",
        "icc": path,
    }


def test_the_file_is_the_one_given_else_the_variables_else_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(tmp_path, "mtu = 1001")
    assert config.load().config.mtu == 1001
    monkeypatch.setenv(config.VARIABLE, file(tmp_path, "mtu = 1002", "variable"))
    assert config.load().config.mtu == 1002
    assert config.load(file(tmp_path, "mtu = 1003", "given")).config.mtu == 1003
    assert config.load("/dev/null").config.mtu is None
    monkeypatch.setenv(config.VARIABLE, "")
    assert config.load().config.mtu == 1001


def test_a_mistake_in_what_is_overridden_is_still_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="mtu: 1 is not between"):
        config.load(file(tmp_path, "mtu = 1"), {"mtu": 1500})


def test_keys_that_exclude_each_other_do_so_across_places(tmp_path: Path) -> None:
    path = file(tmp_path, 'bridge = "br0"')
    with pytest.raises(InvalidSpec, match=f"^command line, {path}: bip: an address cannot be"):
        config.load(path, {"bip": "10.0.0.1/24"})


# -- what is wrong with a value


@pytest.mark.parametrize(
    ("line", "said", "hint"),
    [
        ('bridge = "a/b"', "bridge: invalid interface name 'a/b'", "short plain name"),
        ("bridge = 3", "bridge: 3 is a number, not a string", "in quotes"),
        ('bridge = ""', "bridge: empty", "leave the key out"),
        (
            'bip = "10.0.0.1"',
            "bip: '10.0.0.1' is not an IPv4 address with a prefix",
            "10.88.0.1/16",
        ),
        ('bip = "fd00::1/64"', "bip: 'fd00::1/64' is not an IPv4 address", "10.88.0.1/16"),
        ('bip = "10.0.0.0/24"', "bip: 10.0.0.0/24 is the network's own", "10.0.0.1/24"),
        ('bip = "10.0.0.255/24"', "bip: 10.0.0.255/24 is the network's own", "10.0.0.1/24"),
        ('bip = "10.0.0.1/31"', "bip: 10.0.0.1/31: no network of containers is a /31", "to 30"),
        ('bip = "10.0.0.1/7"', "bip: 10.0.0.1/7: no network of containers is a /7", "from 8"),
        ('bip = "127.0.0.1/8"', "bip: 127.0.0.1/8 is loopback", "10.0.0.0/8"),
        ('bip = "224.0.0.1/8"', "bip: 224.0.0.1/8 is multicast", "10.0.0.0/8"),
        ('bip6 = "fd00::1%eth0/64"', "bip6: 'fd00::1%eth0/64' is not an IPv6", "fd00:88::1/64"),
        ('bip6 = "fe80::1/64"', "bip6: fe80::1/64 is link-local", "fd00::/8"),
        ('fixed-cidr = "10.0.0.5/24"', "'10.0.0.5/24' is not an IPv4 network", "10.0.0.0/24?"),
        ('fixed-cidr = "10.0.0.0"', "'10.0.0.0' is not an IPv4 network", "10.88.1.0/24"),
        ('fixed-cidr = "0.0.0.0/8"', "fixed-cidr: 0.0.0.0/8 is unspecified", "10.0.0.0/8"),
        ('fixed-cidr-v6 = "10.0.0.0/8"', "'10.0.0.0/8' is not an IPv6 network", "fd00:88::/64"),
        ('default-gateway = "gw"', "default-gateway: 'gw' is not an IPv4 address", "10.88.0.254"),
        ("ipv6 = 1", "ipv6: 1 is a number, not true or false", "without quotes"),
        ('icc = "no"', 'icc: "no" is a string, not true or false', "without quotes"),
        ("mtu = true", "mtu: true is a boolean, not a whole number", "digits"),
        ("mtu = 1500.0", "mtu: 1500.0 is a number, not a whole number", "digits"),
        ("mtu = 0", "mtu: 0 is not between 68 and 65535", "leave it out"),
        ("mtu = 1979-05-27", "mtu: 1979-05-27 is a date or time, not a whole number", "digits"),
        ("mtu = []", "mtu: it is a list, not a whole number", "digits"),
        (f"mtu = 0x{'f' * 5000}", "mtu: 0xffff", "leave it out"),
        ('ip = "here"', "ip: 'here' is not an IP address", "127.0.0.1"),
        ('ip = "224.0.0.1"', "ip: no interface can have the address 224.0.0.1", "ip addr"),
        ('dns = "9.9.9.9"', 'dns: "9.9.9.9" is a string, not a list', 'brackets: ["9.9.9.9"]'),
        ('dns = ["x"]', "dns: invalid nameserver 'x'", "9.9.9.9"),
        ("dns = [9]", "dns: 9 is a number, not a string", "in quotes"),
        ('dns = ["::1", "0::1"]', "dns: '::1' is there twice", "once"),
        ('dns-opts = ["a b"]', "dns-opts: invalid resolver option 'a b'", "one option at a time"),
        ('dns-search = ["-x"]', "dns-search: invalid search domain '-x'", "a label does not"),
        ('firewall = "ufw"', "firewall: no firewall 'ufw'", "nftables, iptables, none"),
        ('state-dir = "var"', "state-dir: 'var' is not an absolute path", "/var/lib/netkit"),
        ('run-dir = "/a\\nb"', r"run-dir: '/a\nb' is not an absolute path", "/var/lib"),
        ("default-address-pools = {}", "it is a table, not a list", "[{base ="),
        ("default-address-pools = [3]", "each has a base and a size", "[{base ="),
        ('default-address-pools = [{base = "10.0.0.0/8"}]', "each has a base and a size", "[{"),
        ('default-address-pools = [{base = "x", size = 1}]', "base 'x' is not a network", "[{"),
        ('default-address-pools = [{base = "10.0.0.0/8", size = "24"}]', '"24" is a string', ""),
        (
            'default-address-pools = [{base = "10.0.0.0/8", size = 31}]',
            "/31 cannot be cut",
            "to 30",
        ),
        ('default-address-pools = [{base = "10.0.0.0/8", size = 7}]', "/7 cannot be cut", "from 8"),
        (
            "[[default-address-pools]]\nbase = '10.0.0.0/8'\nsize = 24\n"
            "[[default-address-pools]]\nbase = '10.1.0.0/16'\nsize = 24",
            "10.1.0.0/16 overlaps 10.0.0.0/8",
            "keep one",
        ),
        ("default_gateway = '10.0.0.1'", '"default_gateway": no such key', "default-gateway?"),
        ("MTU = 1", '"MTU": no such key', "did you mean mtu?"),
        ("dns-opt = []", '"dns-opt": no such key', "did you mean dns-opts?"),
        ("zzz = 1", '"zzz": no such key', "config show"),
        ("[options]\nmtu = 1", '"options": no such key', "not in [tables]"),
        ("ip6tables = true", '"ip6tables": no such key', "go together"),
        ('"a\\u001b\\nb" = 1', r'"a\u001b\nb": no such key', "config show"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_file_key_and_reason(
    line: str, said: str, hint: str
) -> None:
    _, (mistake,) = config.examine([("F", tomllib.loads(line))])
    assert str(mistake).startswith("F: ")
    assert said in str(mistake)
    assert hint in (mistake.hint or "")
    assert len(str(mistake)) < 200
    key = line.strip("[]").partition(" ")[0].partition("]")[0].strip('"')
    assert key.partition("\\")[0] in str(mistake)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('bridge = "br0"\nbip = "10.0.0.1/24"', "bip: an address cannot be given to bridge"),
        (
            'bip = "10.0.0.1/24"\nfixed-cidr = "10.0.1.0/25"',
            "10.0.1.0/25 is not within 10.0.0.0/24",
        ),
        (
            'bip = "10.0.0.1/24"\nfixed-cidr = "10.0.0.0/16"',
            "10.0.0.0/16 is not within 10.0.0.0/24",
        ),
        (
            'ipv6 = true\nbip6 = "fd00::1/64"\nfixed-cidr-v6 = "fd01::/80"',
            "fixed-cidr-v6: fd01::/80 is not within fd00::/64",
        ),
        ('bip = "10.0.0.1/24"\ndefault-gateway = "10.0.1.1"', "in 10.0.0.0/24, the network of bip"),
        ('bip = "10.0.0.1/24"\ndefault-gateway = "10.0.0.255"', "10.0.0.255 is no address for an"),
        ('fixed-cidr = "10.0.0.0/24"\ndefault-gateway = "10.1.0.1"', "the network of fixed-cidr"),
        ('default-gateway = "10.0.1.1"', "default-gateway: 10.0.1.1 is in no subnet"),
        (
            'ipv6 = true\nbip6 = "fd00::1/64"\ndefault-gateway-v6 = "fd01::1"',
            "default-gateway-v6: fd01::1 is no address for an interface in fd00::/64",
        ),
        ('fixed-cidr-v6 = "fd00::/64"', "fixed-cidr-v6: without IPv6 it means nothing"),
        ('bip6 = "fd00::1/64"', "bip6: without IPv6 it means nothing"),
        ("ipv6 = true\nmtu = 1279", "mtu: 1279 is less than the 1280 that IPv6 needs"),
        ('iptables = false\nfirewall = "nftables"', "iptables: false, which asks for no rules"),
        ("icc = false\niptables = false", "icc: false needs a firewall"),
        ('icc = false\nfirewall = "none"', "icc: false needs a firewall"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(text: str, said: str) -> None:
    (mistake,) = mistakes(text)
    assert mistake.startswith("F: ")
    assert said in mistake


@pytest.mark.parametrize(
    "text",
    [
        'bip = "10.0.0.1/24"\nfixed-cidr = "10.0.0.0/24"\ndefault-gateway = "10.0.0.1"',
        'bridge = "br0"\nfixed-cidr = "10.0.0.0/24"\ndefault-gateway = "10.7.7.7"',
        'fixed-cidr = "10.0.0.0/24"\ndefault-gateway = "10.0.0.2"',
        'ipv6 = true\nfixed-cidr-v6 = "fd00::/112"\ndefault-gateway-v6 = "fd00::ffff"',
        'bridge = "none"',
        'ip = "0.0.0.0"',
        'ip = "::1"',
        "ipv6 = true\nmtu = 1280",
        "iptables = false\nip-masq = true",
    ],
)
def test_what_goes_together_is_taken(text: str) -> None:
    assert mistakes(text) == []


def test_all_mistakes_are_told_not_only_the_first(tmp_path: Path) -> None:
    path = file(tmp_path, 'mtu = 1\nicc = false\nip = "x"\nfirewall = "none"\nzz = 1\n')
    with pytest.raises(InvalidSpec, match="mtu: 1 is not between") as caught:
        config.load(path)
    assert [note.removeprefix(f"{path}: ") for note in caught.value.__notes__] == [
        "ip: 'x' is not an IP address",
        '"zz": no such key',
        "icc: false needs a firewall, and none is asked for",
    ]


def test_of_a_key_that_is_wrong_itself_nothing_more_is_said() -> None:
    assert len(mistakes('bip = "10.0.0.0/24"\ndefault-gateway = "10.0.0.1"')) == 1
    assert len(mistakes('bip = "10.0.0.1/24"\nfixed-cidr = "10.1.0.1/24"')) == 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(config.KEYS) | st.text(max_size=9), _JSON, max_size=5))
def test_whatever_is_set_is_taken_or_refused_in_one_printable_line(found: dict[str, Value]) -> None:
    settings, wrong = config.examine([("F", found)])
    for each in wrong:
        assert str(each).isprintable()
        assert (each.hint or "").isprintable()
    assert {*found} == {*settings.origins} or wrong


@given(st.text() | st.lists(st.text() | st.booleans() | st.integers(-(1 << 80), 1 << 80)))
def test_what_is_written_as_toml_reads_back(value: Any) -> None:
    text = config.toml(value)
    if not any(0xD800 <= ord(c) < 0xE000 for c in text):  # TOML has no surrogates
        assert tomllib.loads(f"key = {text}") == {"key": value}


# -- what is wrong with a file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"mtu = ", "not TOML: Invalid value"),
        (b"\n\nmtu 3", "(at line 3, column 5)"),
        (b"mtu = 1500\nmtu = 1400\n", "not TOML: Cannot overwrite a value (at line 2, column 11)"),
        (b"mtu = 1500\n# \xff\n", "not UTF-8: byte 0xff (at line 2)"),
        (b"\x00", "not TOML"),
        (b"a = " + b"[" * 5000, "not TOML: nested too deep"),
        (b"a = " + b"9" * 5000, "not TOML: Exceeds the limit"),
        (b"#" * ((1 << 20) + 1), "too large: more than 1048576 bytes"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(InvalidSpec) as caught:
        config.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_a_file_of_just_a_mebibyte_is_read(tmp_path: Path) -> None:
    assert config.read(file(tmp_path, b"#" * (1 << 20))) == {}


def test_a_file_that_is_named_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSpec, match=r"none\.toml: there is no such file") as caught:
        config.load(str(tmp_path / "none.toml"))
    assert "NETKIT_CONFIG" in (caught.value.hint or "")
    monkeypatch.setenv(config.VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(InvalidSpec, match="there is no such file"):
        config.load()


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "below a file", "loop", "NUL"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "below a file":
        path = Path(file(tmp_path, "")) / "it"
    names = {"device": "/dev/zero", "NUL": "a\0b"}
    with pytest.raises(InvalidSpec):
        config.load(names.get(kind, str(path)))


@pytest.mark.parametrize("mode", [0o666, 0o646, 0o664, 0o602])
def test_a_file_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    path = file(tmp_path, "mtu = 1400")
    os.chmod(path, mode)
    with pytest.raises(InvalidSpec, match=f"others may write to it .mode {mode:04o}") as caught:
        config.load(path)
    assert f"chmod go-w {path}" in (caught.value.hint or "")
    os.chmod(path, 0o644)
    assert config.load(path).config.mtu == 1400


def test_a_file_in_a_directory_others_may_write_to_is_refused(tmp_path: Path) -> None:
    """They could put another in its place; but not where the sticky bit is set, as in /tmp."""
    path = file(tmp_path, "mtu = 1400")
    link = tmp_path / "etc" / "netkit.toml"
    link.parent.mkdir()
    link.parent.chmod(0o755)
    link.symlink_to(path)
    os.chmod(tmp_path, 0o777)
    for each in (path, str(link)):
        with pytest.raises(InvalidSpec, match=f"others may write to {tmp_path} .mode 0777"):
            config.load(each)
    os.chmod(tmp_path, 0o1777)
    assert config.load(path).config.mtu == config.load(str(link)).config.mtu == 1400


@pytest.mark.skipif(os.geteuid() != 0, reason="owners can be changed by root only")
def test_a_file_somebody_else_owns_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file(tmp_path, "mtu = 1400")
    real = os.fstat

    def foreign(fd: int) -> os.stat_result:
        found = [*real(fd)]
        return os.stat_result([*found[:4], 1000, *found[5:]])

    monkeypatch.setattr(os, "fstat", foreign)
    with pytest.raises(InvalidSpec, match=r"others may write to it .mode 0644, owner 1000"):
        config.load(path)


# -- Docker's own


DAEMON_JSON = """{
  "bip": "192.168.1.5/24", "fixed-cidr": "192.168.1.0/25", "mtu": 0, "dns": ["10.20.1.2"],
  "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}], "iptables": false, "ip": "",
  "firewall-backend": "", "log-driver": "json-file", "ip6tables": true, "dns-opts": []
}"""


def test_dockers_file_becomes_ours_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    text, wrong = config.import_docker(file(tmp_path, DAEMON_JSON, "daemon.json"))
    assert wrong == []
    assert tomllib.loads(text) == {
        "bip": "192.168.1.5/24",
        "fixed-cidr": "192.168.1.0/25",
        "dns": ["10.20.1.2"],
        "default-address-pools": [{"base": "10.10.0.0/16", "size": 24}],
        "iptables": False,
    }
    config.load(file(tmp_path, text))
    comments = [line for line in text.splitlines() if line.startswith('# "')]
    assert comments == [
        '# "mtu": empty',
        '# "ip": empty',
        '# "firewall-backend": empty',
        '# "log-driver": not about networks',
        f'# "ip6tables": {config.FOREIGN["ip6tables"]}',
        '# "dns-opts": empty',
    ]


def test_dockers_firewall_is_ours_by_another_name(tmp_path: Path) -> None:
    text, _ = config.import_docker(file(tmp_path, '{"firewall-backend": "nftables"}'))
    assert tomllib.loads(text) == {"firewall": "nftables"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[]", "a list, not an object"),
        ('{"mtu": 1, "mtu": 2}', "key 'mtu' is there twice"),
        ('{"mtu": NaN}', "NaN is no number of JSON's"),
        ('{"a": ' + "[" * 100_000, "not JSON"),
        ("", "not JSON"),
    ],
)
def test_a_daemon_json_that_is_none_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(InvalidSpec, match=said):
        config.import_docker(file(tmp_path, content))


def test_what_docker_would_take_and_we_would_not_is_told(tmp_path: Path) -> None:
    _, wrong = config.import_docker(
        file(tmp_path, '{"bip": "192.168.1.5/24", "default-gateway": "10.20.1.1", "icc": 1}')
    )
    assert [str(each).partition(": ")[2] for each in wrong] == [
        "icc: 1 is a number, not true or false",
        "default-gateway: 10.20.1.1 is no address for an interface in 192.168.1.0/24, "
        "the network of bip",
    ]


@given(st.dictionaries(st.text(max_size=9) | st.sampled_from(config.KEYS), _JSON, max_size=5))
def test_an_imported_file_is_toml_whatever_it_was(found: dict[str, Value]) -> None:
    clean = json.loads(json.dumps(found).replace("NaN", "0").replace("Infinity", "0"))
    with mock.patch.object(config, "read_json", return_value=clean):
        text, wrong = config.import_docker("daemon.json")
    if not wrong:
        tomllib.loads(text)
