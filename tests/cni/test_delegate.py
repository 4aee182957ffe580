"""An IPAM plugin at work for another: which one, what it is given, what becomes of its answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cni import delegate
from cni.marker import MARKER
from cni.spec import IP, CniError, Command, Result, Route
from ipam.errors import PluginFailed, PluginRefused
from netkit.model import PluginCall

Write = Callable[..., str]

GO = Path("/usr/lib/cni")
IPAM = {"type": "host-local", "subnet": "10.1.0.0/24"}
LEASED = Result((IP("10.1.0.2/24", "10.1.0.1"),))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A plugin of *name* in the directory *bin*, which is returned."""

    def write(script: str, name: str = "host-local", bin: str = "bin", marked: bool = False) -> str:
        directory = tmp_path / bin
        directory.mkdir(exist_ok=True)
        path = directory / name
        path.write_text(f"#!/bin/sh\n{MARKER.decode() if marked else ''}{script}\n")
        path.chmod(0o755)
        return str(directory)

    return write


def command(
    tmp_path: Path, *path: str, verb: str = "ADD", ipam: Any = IPAM, **conf: Any
) -> Command:
    environ = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_PATH": ":".join(path),
        "OTHER": "kept",
    }
    if isinstance(ipam, dict):
        ipam = {"dataDir": str(tmp_path / "leases")} | ipam
    whole = {"cniVersion": "1.0.0", "name": "web", "type": "bridge", "ipam": ipam} | conf
    return Command.parse(environ, json.dumps(whole))


def test_a_plugin_of_ours_is_called_without_a_process(tmp_path: Path, write: Write) -> None:
    path = write("exit 9", marked=True)
    assert delegate.delegate(command(tmp_path, path), "ADD") == LEASED
    for verb in ("CHECK", "DEL", "DEL"):
        assert delegate.delegate(command(tmp_path, path), verb) is None
    with pytest.raises(CniError, match=r"^IPAM plugin host-local: c1/eth0 holds no address") as no:
        delegate.delegate(command(tmp_path, path), "CHECK")
    assert no.value.code == 101


def test_of_two_the_first_in_the_path_is_asked_whosever_it_is(tmp_path: Path, write: Write) -> None:
    ours = write("exit 9", marked=True)
    other = write('echo \'{"ips":[{"address":"10.9.0.9/24"}]}\'', bin="other")
    for path, address in (((other, ours), "10.9.0.9/24"), ((ours, other), "10.1.0.2/24")):
        leased = delegate.delegate(command(tmp_path, *path), "ADD")
        assert leased is not None
        assert leased.ips[0].address == address


def test_a_file_that_cannot_run_is_passed_by(tmp_path: Path, write: Write) -> None:
    first = write("exit 9", bin="first")
    (Path(first) / "host-local").chmod(0o644)
    (tmp_path / "second" / "host-local").mkdir(parents=True)
    ours = write("exit 9", marked=True)
    leased = delegate.delegate(command(tmp_path, first, str(tmp_path / "second"), ours), "ADD")
    assert leased == LEASED


def test_another_plugin_is_executed_with_all_that_was_given(tmp_path: Path, write: Write) -> None:
    answer = json.dumps(LEASED.to_json("0.2.0"))
    path = write(f"env >{tmp_path}/env; cat >{tmp_path}/stdin; echo '{answer}'", "other")
    given = command(tmp_path, path, verb="DEL", ipam={"type": "other", "x": 1}, prevResult=None)
    assert delegate.delegate(given, "ADD") == LEASED
    assert json.loads((tmp_path / "stdin").read_text()) == given.conf
    environ = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())
    assert environ.items() >= {**given.environ, "CNI_COMMAND": "ADD"}.items()


@pytest.mark.parametrize(
    "kind", ["", "../../bin/sh", "/bin/sh", "a/b", "..", "-x", "a\n", "a" * 129, 7, ["x"], None]
)
def test_a_plugins_name_is_a_plain_one(tmp_path: Path, kind: object) -> None:
    with pytest.raises(CniError) as refused:
        delegate.delegate(command(tmp_path, "/bin", "/", ipam={"type": kind}), "ADD")
    assert refused.value.code == 7


def test_a_plugin_that_is_nowhere_is_an_error_though_we_have_one(tmp_path: Path) -> None:
    for path in ((), (str(tmp_path), "/nowhere")):
        with pytest.raises(CniError, match=r"IPAM plugin host-local: it is not in ") as refused:
            delegate.delegate(command(tmp_path, *path), "ADD")
        assert refused.value.code == 5


def test_an_error_of_the_plugin_is_passed_on(tmp_path: Path, write: Write) -> None:
    path = write('echo \'{"code":11,"msg":"full","details":"wait"}\'; exit 1')
    with pytest.raises(CniError) as refused:
        delegate.delegate(command(tmp_path, path), "ADD")
    error = refused.value
    assert (error.code, error.message, error.details) == (
        11,
        "IPAM plugin host-local: full",
        "wait",
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("true", "its answer is no JSON"),
        ("echo hello", "its answer is no JSON"),
        ("echo '[]'", "its answer is no JSON object"),
        ("echo '{\"ips\":[{}]}'", r"ips\[0\]: object missing required field `address`"),
        ('echo \'{"ips":[{"address":"x"}]}\'', "'x' is no address"),
        ('echo \'{"cniVersion":"7","ips":[]}\'', "cniVersion: '7' is not supported"),
        ("yes", "its answer is longer than"),
        ("exit 3", "it ended with status 3"),
        ("kill -9 $$", "signal 9 ended it"),
    ],
)
def test_an_answer_of_no_use_is_an_error(
    tmp_path: Path, write: Write, script: str, message: str
) -> None:
    with pytest.raises(CniError, match=rf"^IPAM plugin host-local: .*{message}") as refused:
        delegate.delegate(command(tmp_path, write(script)), "ADD")
    assert refused.value.code == 6


def test_that_a_plugin_does_not_know_a_verb_of_1_1_is_no_error(
    tmp_path: Path, write: Write
) -> None:
    path = write('echo \'{"code":4,"msg":"unknown CNI_COMMAND: GC"}\'; exit 1')
    for verb in ("GC", "STATUS"):
        assert delegate.delegate(command(tmp_path, path), verb) is None
    for verb in ("ADD", "DEL", "CHECK"):
        with pytest.raises(CniError, match="unknown CNI_COMMAND") as refused:
            delegate.delegate(command(tmp_path, path), verb)
        assert refused.value.code == 4
    path = write('echo \'{"code":50,"msg":"not now"}\'; exit 1')
    with pytest.raises(CniError, match="not now"):
        delegate.delegate(command(tmp_path, path), "STATUS")


def test_what_is_on_record_is_released_by_either(tmp_path: Path, write: Write) -> None:
    ours = write("exit 9", marked=True)
    given = command(tmp_path, ours)
    delegate.delegate(given, "ADD")
    stdin = json.dumps(given.conf)
    environ = {**given.environ, "CNI_COMMAND": "DEL"}
    delegate.release(PluginCall(plugin="host-local", environ=environ, stdin=stdin))
    assert not (tmp_path / "leases" / "web" / "10.1.0.2").exists()
    other = write(f"cat >{tmp_path}/stdin; touch {tmp_path}/$CNI_COMMAND", bin="other")
    environ["CNI_PATH"] = other
    delegate.release(PluginCall(plugin="host-local", environ=environ, stdin=stdin))
    assert (tmp_path / "DEL").exists()
    assert (tmp_path / "stdin").read_text() == stdin
    environ["CNI_PATH"] = "/nowhere"
    with pytest.raises(PluginFailed):
        delegate.release(PluginCall(plugin="host-local", environ=environ, stdin=stdin))
    environ["CNI_PATH"] = ours
    with pytest.raises(PluginRefused) as refused:
        delegate.release(PluginCall(plugin="host-local", environ=environ, stdin="{"))
    assert refused.value.code == 6


def test_an_interface_is_made_first_for_those_not_known_to_do_without(tmp_path: Path) -> None:
    needs = dict.fromkeys(("dhcp", "other"), True) | {"host-local": False, "static": False}
    found = {
        kind: delegate.needs_interface(command(tmp_path, ipam={"type": kind})) for kind in needs
    }
    assert found == needs


@pytest.mark.skipif(not (GO / "host-local").exists(), reason="no containernetworking-plugins")
def test_the_reference_host_local_serves_and_what_it_does_not_know_is_no_error(
    tmp_path: Path,
) -> None:
    given = command(tmp_path, str(GO), routes=[])
    leased = delegate.delegate(given, "ADD")
    assert leased == LEASED
    for verb in ("CHECK", "GC", "STATUS", "DEL", "DEL"):
        assert delegate.delegate(given, verb) is None
    routed = command(tmp_path, str(GO), ipam=IPAM | {"routes": [{"dst": "0.0.0.0/0"}]})
    leased = delegate.delegate(routed, "ADD")
    assert leased is not None
    assert leased.routes == (Route("0.0.0.0/0"),)
