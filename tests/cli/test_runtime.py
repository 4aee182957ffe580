"""netkit cni add, del, check, status, gc: what they ask of the plugins, print and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faces import netkit, ok, refused

ADDED = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}], "dns": {}}
# cnitool's: "cnitool-" and the first ten bytes of the path's SHA-512
CNITOOL_ID = "cnitool-20b4ff582526573bbe7d"  # of /run/netns/c1


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """A network `web` with one plugin, which `fail` makes fail; the calls it has got since."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "net.d").mkdir()
    plugin = tmp_path / "bin" / "p"
    plugin.write_text(
        f"#!/bin/sh\ncd {tmp_path}\ncat >conf.json\n"
        "echo $CNI_COMMAND $CNI_CONTAINERID/$CNI_IFNAME $CNI_NETNS $CNI_ARGS >>log\n"
        """[ ! -e fail ] || { echo '{"code": 50, "msg": "full", "details": "wait"}'; exit 1; }\n"""
        f"[ $CNI_COMMAND != ADD ] || echo '{json.dumps(ADDED)}'\n"
    )
    plugin.chmod(0o755)
    network = {
        "cniVersion": "1.1.0",
        "name": "web",
        "plugins": [{"type": "p", "capabilities": {"ips": True, "mac": True}}],
    }
    (tmp_path / "net.d" / "web.conflist").write_text(json.dumps(network))
    for name in ("CNI_ARGS", "CAP_ARGS", "CNI_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CNI_PATH", f"/none:{tmp_path}/bin")
    monkeypatch.setenv("NETCONFPATH", f"{tmp_path}/net.d")

    def calls() -> list[str]:
        log = tmp_path / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines

    return calls


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return f"--cache-dir={tmp_path}/cache"


def test_the_verbs_are_cnitools_with_its_variables_and_container_ids(
    calls: Callable[[], list[str]], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNI_ARGS", "A=b;IgnoreUnknown=1")
    monkeypatch.setenv("CAP_ARGS", '{"ips": ["10.1.0.2"], "other": 1}')
    assert json.loads(ok("cni", "add", cache, "web", "/run/netns/c1")) == ADDED
    assert json.loads((tmp_path / "conf.json").read_text())["runtimeConfig"] == {
        "ips": ["10.1.0.2"]
    }
    for verb in ("check", "del", "del"):
        assert ok("cni", verb, cache, "web", "c1") == ""
    ok("cni", "status", cache, "web")
    whom = f"{CNITOOL_ID}/eth0 /run/netns/c1 A=b;IgnoreUnknown=1"
    assert calls() == [f"{verb} {whom}" for verb in ("ADD", "CHECK", "DEL", "DEL")] + ["STATUS /"]


def test_options_say_the_same_and_come_first(
    calls: Callable[[], list[str]], cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CNI_PATH", "/none")
    monkeypatch.setenv("NETCONFPATH", "/none")
    monkeypatch.setenv("CNI_ARGS", "A=b")
    monkeypatch.setenv("CNI_IFNAME", "eth7")
    monkeypatch.setenv("CAP_ARGS", "{}")
    where = [cache, f"--bin-dir={tmp_path}/bin", f"--conf-dir={tmp_path}/net.d"]
    whom = ["--id=x1", "--ifname=net1", "--arg=IP=10.1.0.9"]
    ok("cni", "add", *where, *whom, '--capability=mac="02:00:00:00:00:01"', "web", "/a/b")
    assert json.loads((tmp_path / "conf.json").read_text())["runtimeConfig"] == {
        "mac": "02:00:00:00:00:01"
    }
    (tmp_path / "net.d" / "web.conflist").unlink()  # what is attached is remembered
    ok("cni", "del", *where, "--id=x1", "--ifname=net1", "web")
    assert calls() == ["ADD x1/net1 /a/b IP=10.1.0.9", "DEL x1/net1 /a/b A=b"]


def test_gc_keeps_what_is_named_or_else_whatever_has_its_namespace(
    calls: Callable[[], list[str]], cache: str, tmp_path: Path
) -> None:
    (tmp_path / "ns").touch()
    for name, place in (("c1", f"{tmp_path}/ns"), ("c2", "/none/c2"), ("c3", f"{tmp_path}/ns")):
        ok("cni", "add", cache, f"--id={name}", "web", place)
    calls()
    ok("cni", "gc", cache, "web")
    assert calls() == ["DEL c2/eth0 /none/c2", "GC /"]
    ok("cni", "gc", cache, "--keep=c1/eth0", "web")
    assert calls() == [f"DEL c3/eth0 {tmp_path}/ns", "GC /"]
    (tmp_path / "fail").touch()
    said = refused("cni", "gc", cache, "--keep=c9/eth0", "web")
    assert said.splitlines() == [
        "Error: GC of network 'web'",
        "       p DEL for c1/eth0 in network 'web': full",
        "       p GC in network 'web': full",
    ]


def test_what_a_plugin_says_is_said_with_its_way_out(
    calls: Callable[[], list[str]], cache: str, tmp_path: Path
) -> None:
    (tmp_path / "fail").touch()
    assert refused("cni", "status", cache, "web") == (
        "Error: p STATUS in network 'web': full\nHint:  wait\n"
    )
    said = refused("cni", "add", cache, "--id=c1", "web", "c1").splitlines()
    assert said[0] == "Error: p ADD for c1/eth0 in network 'web': full"
    assert said[1].startswith("       and it cannot be undone: p DEL for c1/eth0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["add", "db", "c1"], "there is no network 'db' in "),
        (["del", "web"], "neither NETNS nor --id says which container"),
        (["add", "web", "c1", "--capability=x={"], "a capability is no JSON"),
        (["add", "web", "c1", "--arg==b"], "invalid CNI_ARGS '=b': no key"),
        (["add", "web", "c1", "--id=../c1"], "'../c1' is no container id"),
        (["check", "web", "c1"], "is not attached to 'web'"),
        (["gc", "web", "--keep=c1"], "invalid attachment 'c1'"),
    ],
)
def test_what_cannot_be_is_refused_before_any_plugin_runs(
    calls: Callable[[], list[str]], cache: str, words: list[str], said: str
) -> None:
    assert said in refused("cni", words[0], cache, *words[1:])
    assert calls() == []


def test_capabilities_in_the_environment_must_be_an_object(
    calls: Callable[[], list[str]], cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("[]", "{"):
        monkeypatch.setenv("CAP_ARGS", text)
        assert "a capability is no JSON" in refused("cni", "add", cache, "web", "c1")
    assert netkit("cni", "add", "web").code == 2
