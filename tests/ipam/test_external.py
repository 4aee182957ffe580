"""An allocator that is somebody else's program: what it is told, what is made of its answers."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam import (
    ExternalAllocator,
    InvalidPool,
    IpamError,
    Owner,
    PluginFailed,
    PluginRefused,
    execution,
)
from ipam import external as ipam_external

ROOT = Path(__file__).parents[2]
C1 = Owner("c1/eth0", "boot-1", "/run/netns/c1")
C2 = Owner("c2/eth0", "boot-1", "/run/netns/c2")
GOOD = '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}'
BOUND_S = 10.0

Make = Callable[..., ExternalAllocator]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """An allocator whose plugin is this shell script; each verb it is given is logged."""

    def make(script: str, **options: Any) -> ExternalAllocator:
        path = tmp_path / "bin" / "plugin"
        path.parent.mkdir()
        path.write_text(f'#!/bin/sh\necho "$CNI_COMMAND" >>{tmp_path}/log\n{script}\n')
        path.chmod(0o755)
        options.setdefault("timeout_s", BOUND_S)
        return ExternalAllocator("plugin", network="web", directories=[path.parent], **options)

    return make


def log(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().split()


def on_add(script: str) -> str:
    return f'if [ "$CNI_COMMAND" = ADD ]; then\n{script}\nfi'


def saying(answer: str) -> str:
    return on_add(f"cat <<'END'\n{answer}\nEND")


# -- plugins there are


@pytest.fixture(params=["netkit-host-local", "host-local"])
def host_local(request: pytest.FixtureRequest, tmp_path: Path) -> ExternalAllocator:
    """Ours, and the one in Go where it is installed."""
    name: str = request.param
    directories = [*execution.DIRECTORIES]
    if name == "netkit-host-local":
        directories = [str(tmp_path / "bin")]
        program = tmp_path / "bin" / name
        program.parent.mkdir()
        path = ":".join([str(ROOT), *sys.path])
        command = f"exec {sys.executable} -m cni.host_local"
        program.write_text(f"#!/bin/sh\nPYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 {command}\n")
        program.chmod(0o755)
    elif not shutil.which(name, path=":".join(directories)):
        pytest.skip(f"there is no {name} (Debian: containernetworking-plugins)")
    ipam = {
        "dataDir": str(tmp_path / "leases"),
        "ranges": [[{"subnet": "10.1.0.0/29"}], [{"subnet": "fd00::/64", "gateway": "fd00::ff"}]],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "fd01::/64", "gw": "fd00::fe"}],
    }
    return ExternalAllocator(name, network="web", ipam=ipam, directories=directories)


def test_host_local_serves_an_owner_from_lease_to_release(
    host_local: ExternalAllocator, tmp_path: Path
) -> None:
    got = host_local.grant(C1)
    assert [str(each) for each in got.interfaces] == ["10.1.0.2/29", "fd00::1/64"]
    assert [str(each) for each in got.gateways] == ["10.1.0.1", "fd00::ff"]
    routes = [(str(route.dst), route.gateway and str(route.gateway)) for route in got.routes]
    assert routes == [("0.0.0.0/0", None), ("fd01::/64", "fd00::fe")]
    host_local.check(C1, got)
    with pytest.raises(PluginRefused):
        host_local.check(C2)
    asked = host_local.lease(C2, ["10.1.0.5", "fd00::77/64"])
    assert [str(each) for each in asked] == ["10.1.0.5/29", "fd00::77/64"]
    assert (tmp_path / "leases" / "web" / "10.1.0.5").read_bytes() == b"c2\r\neth0"
    for _ in range(2):
        host_local.release(C2)
    assert not (tmp_path / "leases" / "web" / "10.1.0.5").exists()
    host_local.check(C1)


def test_a_refusal_leaves_the_owner_what_it_has(host_local: ExternalAllocator) -> None:
    host_local.lease(C1)
    with pytest.raises(PluginRefused) as refused:
        host_local.lease(C1)
    assert str(refused.value).startswith(f"{host_local.plugin} ADD for c1/eth0 in 'web': ")
    host_local.check(C1)
    with pytest.raises(PluginRefused):
        host_local.lease(C2, ["10.1.0.2"])
    with pytest.raises(PluginRefused):
        host_local.check(C2)


# -- what it is told


def test_a_plugin_is_told_all_that_cni_says_and_nothing_of_us(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of ours")
    script = f"env >{tmp_path}/env; cat >{tmp_path}/conf; pwd >{tmp_path}/cwd\n" + saying(GOOD)
    allocator = make(script, ipam={"range": 7, "type": "x"}, args="K8S_POD_NAME=p", version="0.4.0")
    allocator.lease(C1, ["10.1.0.2/24"])
    said = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert {key: value for key, value in said.items() if key not in ("PWD", "_", "SHLVL")} == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_IFNAME": "eth0",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_ARGS": "K8S_POD_NAME=p",
        "CNI_PATH": f"{tmp_path}/bin",
    }
    assert json.loads((tmp_path / "conf").read_text()) == {
        "cniVersion": "0.4.0",
        "name": "web",
        "type": "plugin",
        "ipam": {"type": "plugin", "range": 7},
        "args": {"cni": {"ips": ["10.1.0.2/24"]}},
        "runtimeConfig": {"ips": ["10.1.0.2/24"]},
    }
    assert (tmp_path / "cwd").read_text() == "/\n"
    allocator.check(C1, allocator.grant(C1))
    conf = json.loads((tmp_path / "conf").read_text())
    assert conf["prevResult"] == {
        "cniVersion": "0.4.0",
        "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
    }
    allocator.release(Owner("c1"))
    assert log(tmp_path) == ["ADD", "ADD", "CHECK", "DEL"]
    assert "CNI_IFNAME=eth0\n" in (tmp_path / "env").read_text()


@pytest.mark.parametrize("reads", ["cat >/dev/null", "", "exec <&-"])
def test_a_configuration_of_any_size_is_written_whether_it_is_read_or_not(
    make: Make, reads: str
) -> None:
    allocator = make(f"{reads}\n{saying(GOOD)}", ipam={"big": "x" * 1_000_000})
    assert [str(each) for each in allocator.lease(C1)] == ["10.1.0.2/24"]


# -- where it is found


BAD_NAMES = [
    *("../../bin/sh", "/bin/sh", "bin/sh", "..", ".", "", ".hidden", "-rf", "a b", "a\n", "a\0"),
    *("ünï", "a:b", "$(id)", "%s", "a" * 129),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_no_plain_file_name_runs_nothing(name: str) -> None:
    """CVE-2021-20206: `type: ../../bin/x` ran any program."""
    for plugin, network in ((name, "web"), ("p", name)):
        with pytest.raises(InvalidPool, match="is no name for a") as refused:
            ExternalAllocator(plugin, network=network)
        assert refused.value.hint


@pytest.mark.parametrize("name", BAD_NAMES)
def test_neither_does_it_when_a_runtime_or_a_plugin_executes_one(name: str) -> None:
    with pytest.raises(PluginFailed, match="is no name for a plugin") as failed:
        execution.execute(name, {"CNI_PATH": "/bin:/usr/bin/env/.."}, b"")
    assert failed.value.code == 5


@pytest.mark.parametrize("directory", ["bin", "../bin", "", "/a:/b", "/a\0b"])
def test_a_directory_that_depends_on_where_we_stand_is_refused(directory: str) -> None:
    with pytest.raises(InvalidPool, match="is no directory for plugins"):
        ExternalAllocator("p", network="web", directories=[directory])


@pytest.mark.parametrize(
    "owner",
    [
        *(Owner(f"{name}/eth0", netns="/x") for name in ("", "..", "-c", "a b", "a" * 129)),
        *(Owner(f"c1/{name}", netns="/x") for name in ("a b", "..", "a/b", "a:b", "a" * 16, "a\0")),
        Owner("c1/eth0"),
    ],
)
def test_an_owner_no_plugin_could_serve_is_refused_before_one_runs(
    make: Make, tmp_path: Path, owner: Owner
) -> None:
    with pytest.raises(InvalidPool):
        make(saying(GOOD)).lease(owner)
    assert not (tmp_path / "log").exists()


def test_the_first_executable_of_the_directories_is_the_plugin(tmp_path: Path) -> None:
    for number, mode in enumerate((0o644, 0o755, 0o755)):
        (tmp_path / str(number)).mkdir()
        script = tmp_path / str(number) / "plugin"
        script.write_text(f"#!/bin/sh\n{saying(GOOD.replace('.0.2', f'.0.{number}'))}\n")
        script.chmod(mode)
    (tmp_path / "3" / "plugin").mkdir(parents=True)
    directories = [tmp_path / name for name in ("none", "3", "0", "1", "2")]
    allocator = ExternalAllocator("plugin", network="web", directories=directories)
    assert [str(each) for each in allocator.lease(C1)] == ["10.1.0.1/24"]


def test_a_plugin_that_is_not_there_or_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "noprogram").write_text("x")
    (tmp_path / "noprogram").chmod(0o755)
    for name, why in (("missing", f"it is not in {tmp_path}"), ("noprogram", "cannot be started")):
        allocator = ExternalAllocator(name, network="web", directories=[tmp_path])
        with pytest.raises(PluginFailed, match=why) as failed:
            allocator.lease(C1)
        assert failed.value.code == 5
        assert not hasattr(failed.value, "__notes__")


# -- bounds


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie waits for init only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def wait_until_gone(pid: int) -> None:
    end = monotonic() + BOUND_S
    while not gone(pid):
        assert monotonic() < end, f"process {pid} is still there"
        sleep(0.01)


def test_a_plugin_that_does_not_answer_is_killed_with_all_it_started(
    make: Make, tmp_path: Path
) -> None:
    script = on_add(f"sleep 1000 & echo $! $$ >{tmp_path}/pids; wait")
    begin = monotonic()
    with pytest.raises(PluginFailed, match=r"no answer in 0\.5 s, so it was killed") as failed:
        make(script, timeout_s=0.5).lease(C1)
    assert monotonic() - begin < BOUND_S
    assert failed.value.code == 11
    for pid in (tmp_path / "pids").read_text().split():
        wait_until_gone(int(pid))
    assert log(tmp_path) == ["ADD", "DEL"]


def test_what_a_plugin_leaves_behind_neither_delays_its_answer_nor_stays(
    make: Make, tmp_path: Path
) -> None:
    begin = monotonic()
    allocator = make(f"sleep 1000 & echo $! >{tmp_path}/pids\n{saying(GOOD)}", timeout_s=1000)
    assert [str(each) for each in allocator.lease(C1)] == ["10.1.0.2/24"]
    assert monotonic() - begin < BOUND_S
    wait_until_gone(int((tmp_path / "pids").read_text()))


@pytest.mark.parametrize("flood", ["yes", "yes & sleep 1000", "head -c 70000 /dev/zero"])
def test_an_endless_answer_is_cut_off(make: Make, tmp_path: Path, flood: str) -> None:
    with pytest.raises(PluginFailed, match="its answer is longer than 65536 bytes") as failed:
        make(on_add(flood)).lease(C1)
    assert failed.value.code == 6
    assert log(tmp_path) == ["ADD", "DEL"]


def test_a_flood_of_complaints_is_read_and_forgotten(make: Make, tmp_path: Path) -> None:
    allocator = make(f"head -c 3000000 /dev/zero >&2\n{saying(GOOD)}")
    assert [str(each) for each in allocator.lease(C1)] == ["10.1.0.2/24"]
    program, environ = str(tmp_path / "bin" / "plugin"), {"PATH": os.defpath}
    status, answer, complaint = execution._run(program, environ, b"", BOUND_S, 100)
    assert (status, answer) == (0, b"")
    assert 0 < len(complaint) <= 2 * execution._CHUNK


def test_neither_descriptors_nor_children_are_left(make: Make) -> None:
    allocator = make('cat >/dev/null; [ "$CNI_CONTAINERID" != c2 ] || exit 1\n' + saying(GOOD))
    allocator.lease(C1)
    before = sorted(os.listdir("/proc/self/fd"))
    for owner in (C1, C2):
        for _ in range(3):
            try:
                allocator.lease(owner)
            except PluginFailed:
                assert owner == C2
    assert sorted(os.listdir("/proc/self/fd")) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    alive = children.read_text().split() if children.exists() else []
    assert not [pid for pid in alive if gone(int(pid))]


# -- answers


@pytest.mark.parametrize(
    ("answer", "interfaces", "gateways", "routes"),
    [
        (
            {
                "cniVersion": "0.2.0",
                "ip4": {
                    "ip": "10.1.0.2/24",
                    "gateway": "10.1.0.1",
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
                "ip6": {"ip": "fd00::2/64"},
            },
            ["10.1.0.2/24", "fd00::2/64"],
            ["10.1.0.1", "None"],
            [("0.0.0.0/0", None, None, None)],
        ),
        (
            {
                "cniVersion": "0.3.1",
                "ips": [
                    {"version": "4", "address": "10.1.0.2/24", "gateway": ""},
                    {"version": "4", "address": "10.1.0.3/24", "gateway": "10.1.0.1"},
                ],
                "routes": None,
                "dns": {"nameservers": None},
            },
            ["10.1.0.2/24", "10.1.0.3/24"],
            ["None", "10.1.0.1"],
            [],
        ),
        (
            {
                "cniVersion": "1.1.0",
                "interfaces": [],
                "ips": [{"address": "fd00::2/64", "interface": 0}],
                "routes": [{"dst": "fd01::7/64", "gw": "fd00::1", "mtu": 1400, "priority": 9}],
            },
            ["fd00::2/64"],
            ["None"],
            [("fd01::/64", "fd00::1", 1400, 9)],
        ),
    ],
    ids=["0.2.0", "0.3.1", "1.1.0"],
)
def test_an_answer_of_any_version_is_understood(
    make: Make,
    answer: dict[str, Any],
    interfaces: list[str],
    gateways: list[str],
    routes: list[tuple[object, ...]],
) -> None:
    got = make(saying(json.dumps(answer))).grant(C1)
    assert [str(each) for each in got.interfaces] == interfaces
    assert [str(each) for each in got.gateways] == gateways
    found = [(str(r.dst), r.gateway and str(r.gateway), r.mtu, r.priority) for r in got.routes]
    assert found == routes


def test_name_servers_and_search_domains_are_handed_on(make: Make) -> None:
    dns = {"nameservers": ["9.9.9.9", "2620:fe::fe"], "domain": "lan", "search": ["a.lan"]}
    answer = json.dumps(json.loads(GOOD) | {"dns": dns | {"options": ["ndots:2"]}})
    got = make(saying(answer)).grant(C1).dns
    assert [str(each) for each in got.nameservers] == ["9.9.9.9", "2620:fe::fe"]
    assert (got.domain, got.search, got.options) == ("lan", ("a.lan",), ("ndots:2",))


def with_ip(**fields: object) -> str:
    return json.dumps({"ips": [{"address": "10.1.0.2/24"} | fields]})


def with_more(**fields: object) -> str:
    return json.dumps(json.loads(GOOD) | fields)


BAD_ANSWERS = {
    "": "Expecting value",
    "nothing": "Expecting value",
    "[]": "the answer is [], not an object",
    "{}": "it gives no address",
    '{"ips": []}': "it gives no address",
    '{"ips": {}}': "ips is {}, not a list",
    '{"ips": ["10.1.0.2/24"]}': "an entry of ips is '10.1.0.2/24', not an object",
    '{"ips": [{}]}': "does not appear to be an IPv4 or IPv6 interface",
    with_ip(address=167837954): "address is 167837954, not text",
    with_ip(address="10.1.0.2"): "'10.1.0.2' has no prefix length",
    with_ip(address="10.1.0.2/33"): "does not appear to be",
    with_ip(address="fe80::1%eth0/64"): "is of one link only",
    with_ip(address="224.0.0.1/24"): "is no address for an endpoint",
    with_ip(address="127.0.0.1/8"): "is no address for an endpoint",
    with_ip(address="::/64"): "is no address for an endpoint",
    with_ip(gateway="fd00::1"): "the gateway fd00::1 is not of IPv4",
    with_ip(gateway="gw"): "'gw' does not appear to be",
    with_more(routes=[{"dst": "everywhere"}]): "'everywhere' does not appear to be",
    with_more(routes=[{"dst": "0.0.0.0/0", "gw": "fd00::1"}]): "is not of IPv4",
    with_more(routes=[{"dst": "0.0.0.0/0", "mtu": "1500"}]): "mtu is '1500', not a number",
    with_more(routes=[{"dst": "0.0.0.0/0", "mtu": True}]): "mtu is True, not a number",
    with_more(routes=[{"dst": "0.0.0.0/0", "mtu": -1}]): "has a negative number",
    with_more(dns={"search": ["a\nnameserver 6.6.6.6"]}): "which is no word",
    with_more(dns={"nameservers": ["ns"]}): "'ns' does not appear to be",
    "[" * 60_000: "recursion",
    '{"ips": ' + "9" * 5_000 + "}": "Exceeds the limit",
}


@pytest.mark.parametrize(("answer", "why"), BAD_ANSWERS.items(), ids=range(len(BAD_ANSWERS)))
def test_an_answer_that_cannot_be_used_is_released(
    make: Make, tmp_path: Path, answer: str, why: str
) -> None:
    with pytest.raises(PluginFailed) as failed:
        make(saying(answer)).lease(C1)
    said = str(failed.value)
    assert said.startswith("plugin ADD for c1/eth0 in 'web': its answer cannot be used: ")
    assert why in said
    assert len(said) < 400
    assert failed.value.code == 6
    assert log(tmp_path) == ["ADD", "DEL"]


def test_an_answer_without_the_address_asked_for_is_released(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PluginFailed, match=r"asked for 10\.1\.0\.9 and gave 10\.1\.0\.2$"):
        make(saying(GOOD)).lease(C1, ["10.1.0.2", "10.1.0.9"])
    assert log(tmp_path) == ["ADD", "DEL"]


def test_a_refusal_carries_the_plugins_code_and_words(make: Make, tmp_path: Path) -> None:
    error = {
        "cniVersion": "1.0.0",
        "code": 11,
        "msg": "no more\n\x1b[1maddresses",
        "details": "x y",
    }
    allocator = make(f"cat <<'END'\n{json.dumps(error)}\nEND\nexit 1")
    with pytest.raises(PluginRefused) as refused:
        allocator.lease(C1)
    assert str(refused.value) == "plugin ADD for c1/eth0 in 'web': no more [1maddresses"
    assert (refused.value.code, refused.value.hint) == (11, "x y")
    assert log(tmp_path) == ["ADD"]
    for verb, call in (("DEL", allocator.release), ("CHECK", allocator.check)):
        with pytest.raises(PluginRefused, match=f"^plugin {verb} for c1/eth0 in 'web': no more"):
            call(C1)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo oh dear >&2; exit 3", "it ended with status 3: oh dear"),
        ("echo '{\"code\": 7}'; exit 3", 'it ended with status 3: {"code": 7}'),
        ("exit 3", "it ended with status 3 and said nothing"),
        ("kill -9 $$", "signal 9 ended it and said nothing"),
    ],
)
def test_a_plugin_that_breaks_is_released_from_and_a_failure_of_that_is_noted(
    make: Make, tmp_path: Path, script: str, why: str
) -> None:
    with pytest.raises(PluginFailed) as failed:
        make(script).lease(C1)
    assert str(failed.value) == f"plugin ADD for c1/eth0 in 'web': {why}"
    (note,) = failed.value.__notes__
    assert (
        note == f"what it may have leased is not released: plugin DEL for c1/eth0 in 'web': {why}"
    )
    assert log(tmp_path) == ["ADD", "DEL"]


words = st.text("a1:/.%\0é", max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | words | st.just("10.1.0.2/24"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["ips", "routes", "dns", "ip4", "ip6"])
ips = st.dictionaries(st.sampled_from(["address", "gateway"]), json_values)


@given(st.dictionaries(keys, json_values), st.lists(ips, max_size=2))
def test_no_answer_raises_anything_but_what_is_said(
    answer: dict[str, Any], entries: list[Any]
) -> None:
    text = json.dumps(answer | ({"ips": entries} if entries else {})).encode()
    try:
        got = ipam_external._read_grant(text)
    except PluginFailed as failure:
        assert failure.code == 6  # noqa: PT017
    else:
        assert got.interfaces
        assert len(got.interfaces) == len(got.gateways)


def test_every_failure_is_an_ipam_error() -> None:
    assert issubclass(PluginRefused, PluginFailed)
    assert issubclass(PluginFailed, IpamError)


def test_a_lock_it_inherits_is_held_until_it_ends(make: Make, tmp_path: Path) -> None:
    """And by nothing else it has not been given."""
    held, other = (os.open(tmp_path / name, os.O_CREAT) for name in ("held", "other"))
    try:
        seen = f"ls /proc/self/fd >>{tmp_path}/seen"
        make(f"{seen}\n{saying(GOOD)}", holding=(held,)).lease(C1)
    finally:
        os.close(held)
        os.close(other)
    found = (tmp_path / "seen").read_text().split()
    assert str(held) in found
    assert str(other) not in found
