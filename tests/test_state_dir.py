"""The state directory is its owner's alone: nobody reads it, nobody may have prepared it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from netkit import config
from netkit.errors import KernelRefused
from netkit.specs import NetworkSpec
from scenarios.lab import Host, netkit, run, snapshot


def modes(directory: str) -> dict[str, int]:
    found = {}
    for top, _, names in os.walk(directory):
        for path in (top, *(f"{top}/{name}" for name in names)):
            found[path] = stat.S_IMODE(os.stat(path).st_mode)
    return found


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_enter_or_read_whatever_the_umask(host: Host, umask: int) -> None:
    before = os.umask(umask)
    try:
        engine = host.engine()
        engine.create_network(NetworkSpec("web"))
    finally:
        os.umask(before)
    state, runtime = os.environ["NETKIT_STATE_DIR"], os.environ["NETKIT_RUN_DIR"]
    found = modes(state)
    assert found.pop(state) == 0o700
    assert found
    assert set(found.values()) == {0o600}
    assert modes(runtime)[runtime] == 0o700


@pytest.mark.parametrize("which", ["NETKIT_STATE_DIR", "NETKIT_RUN_DIR"])
@pytest.mark.parametrize("mode", ["0777", "0775", "0702", "1777"])
def test_a_directory_others_may_write_to_is_refused(host: Host, which: str, mode: str) -> None:
    path = os.environ[which]
    run(f"mkdir -p {path}", f"chmod {mode} {path}")
    before = snapshot()
    with pytest.raises(KernelRefused, match=f"others may write to it .mode {mode}") as caught:
        host.engine().create_network(NetworkSpec("web"))
    assert "chmod 0700" in (caught.value.hint or "")
    assert snapshot() == before
    run(f"chmod 0700 {path}")
    host.engine().create_network(NetworkSpec("web"))


@pytest.mark.parametrize(
    ("changed", "mine"),
    [
        ({}, True),
        ({"uid": 1000}, False),  # not root at all: the answer is that it has to be
        ({"writable": "/var/lib"}, False),  # root of a container
        ({"writable": "/var/lib/netkit"}, False),
        ({"users": "0 0 4294967295"}, False),  # the machine's root, who may not write for once
        ({"below": ""}, False),
        ({"below": "run"}, False),
        ({"given": "state_dir"}, False),
        ({"given": "run_dir"}, False),
    ],
    ids=str,
)
def test_root_of_a_users_own_namespace_keeps_records_below_the_users_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, Any], mine: bool
) -> None:
    """As plugins of podman without root are."""
    here: dict[str, Any] = {
        "uid": 0,
        "users": "0 1000 1",
        "below": "/run/user/1000",
        "writable": "",
        **changed,
    }
    users = tmp_path / "uid_map"
    users.write_text(f"{here['users']}\n")
    monkeypatch.setattr(os, "geteuid", lambda: here["uid"])
    monkeypatch.setattr(os, "access", lambda path, mode: path == here["writable"])
    monkeypatch.setattr(config, "_USERS", str(users))
    monkeypatch.setenv("XDG_RUNTIME_DIR", here["below"])
    given = {here["given"]: "/given"} if "given" in here else {}
    found = config.directories(replace(config.Config(), **given))
    usual = config.UNSET["state-dir"], config.UNSET["run-dir"]
    if "given" in here:
        assert found[here["given"] == "run_dir"] == "/given"
    else:
        own = ("/run/user/1000/netkit", "/run/user/1000/netkit/run")
        assert found == (own if mine else usual)


@pytest.mark.parametrize("which", ["NETKIT_STATE_DIR", "NETKIT_RUN_DIR"])
def test_a_directory_that_is_a_link_is_refused(host: Host, which: str) -> None:
    path = os.environ[which]
    run(f"mkdir -m 0700 {host.base}/elsewhere", f"ln -s {host.base}/elsewhere {path}")
    with pytest.raises(KernelRefused, match="not a directory of netkit's own"):
        host.engine().create_network(NetworkSpec("web"))
    assert os.listdir(f"{host.base}/elsewhere") == []


@pytest.mark.parametrize("name", ["state.db", "state.db.lock"])
def test_a_file_that_is_a_link_is_refused(host: Host, name: str) -> None:
    """A link somebody left from when the directory was open to all."""
    path = os.environ["NETKIT_STATE_DIR"]
    run(f"mkdir -m 0700 {path}", f"ln -s {host.base}/canary {path}/{name}")
    with pytest.raises(KernelRefused):
        host.engine().create_network(NetworkSpec("web"))
    assert not os.path.exists(f"{host.base}/canary")


def test_a_directory_that_is_a_file_is_refused(host: Host) -> None:
    run(f"touch {os.environ['NETKIT_STATE_DIR']}")
    with pytest.raises(KernelRefused, match="cannot use"):
        host.engine().create_network(NetworkSpec("web"))


def test_a_state_of_a_later_version_is_left_alone(host: Host) -> None:
    engine = host.engine()
    engine.create_network(NetworkSpec("web"))
    engine.store.connection.execute("PRAGMA user_version=99")
    engine.close()
    with pytest.raises(KernelRefused, match="version 99") as caught:
        host.engine().networks()
    assert "upgrade netkit" in (caught.value.hint or "")


def test_the_program_says_so_in_one_sentence(host: Host) -> None:
    run(f"mkdir -m 0777 {os.environ['NETKIT_STATE_DIR']}")
    run(f"chmod 0777 {os.environ['NETKIT_STATE_DIR']}")
    said = netkit("network create web", code=1)
    assert "others may write to it" in said
    assert "Traceback" not in said
