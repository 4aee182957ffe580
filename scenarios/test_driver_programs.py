"""A driver that is a program: the example of docs/drivers.md, and ones that misbehave."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from netkit.errors import InvalidSpec, KernelRefused, NetkitError, NotFound
from netkit.kernel import program
from netkit.specs import NetworkSpec
from scenarios.lab import Host, netkit, run, snapshot, until

PAGE = Path(__file__).parents[1] / "docs" / "drivers.md"
SUBNETS = (ip_network("172.29.0.0/24"),)
INFO = """info) echo '{"protocol": 1}';; create) cat >/dev/null; echo '{"options": {}}';;"""
Install = Callable[[str, str], str]


@pytest.fixture
def install(host: Host, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a program where drivers are looked for; its path."""
    os.mkdir(f"{host.base}/drivers", 0o755)
    monkeypatch.setenv("NETKIT_DRIVERS", f"/nowhere:{host.base}/drivers")

    def put(name: str, text: str) -> str:
        path = f"{host.base}/drivers/{name}"
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, 0o755)
        return path

    return put


def example() -> str:
    found = re.search(r"^```python notest\n(#!.*?)^```", PAGE.read_text(), re.M | re.S)
    assert found is not None
    return found[1]


def town(driver: str, **options: str) -> NetworkSpec:
    return NetworkSpec("town", driver, subnets=SUBNETS, options=options)


def test_the_example_of_the_documentation_makes_a_network(host: Host, install: Install) -> None:
    assert len(example().splitlines()) <= 30
    install("hub", example())
    engine = host.engine()
    before = snapshot()
    with pytest.raises(InvalidSpec, match="hub says: the option bridge is needed"):
        engine.create_network(town("hub"))
    run(
        "ip link add hub0 address 02:00:00:00:00:05 type bridge",
        "ip addr add 172.29.0.1/24 dev hub0",
        "ip link set hub0 up",
    )
    made = snapshot()
    net = engine.create_network(town("hub", bridge="hub0"))
    assert net.driver_options == {"bridge": "hub0"}
    one, two = (engine.connect("town", name=name) for name in ("one", "two"))
    assert until(lambda: host.ping(one.netns, "172.29.0.1", patience_s=0.3))
    assert until(lambda: host.ping(one.netns, str(two.addresses[0].ip), patience_s=0.3))
    assert "default via 172.29.0.1" in run("ip route", place=one.netns)
    assert one.mac in run("ip link show eth0", place=one.netns)
    assert engine.check() == []
    assert json.loads(netkit("network inspect town"))[0]["Options"] == {"bridge": "hub0"}
    engine.disconnect("town", "one")
    run("ip netns del two")  # its teardown is called all the same
    assert engine.gc() == ["two"]
    engine.delete_network("town")
    assert snapshot() == made
    run("ip link del hub0")
    assert snapshot() == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exit 3", "says: exit code 3"),
        ("echo a >&2; echo 'no card' >&2; exit 1", "says: no card"),
        ("echo", "Input data was truncated"),
        ("echo '[]'", "Expected `object`, got `array`"),
        ("echo '{}'", "missing required field `protocol`"),
        ("echo '{\"protocol\": 2}'", "speaks protocol 2, not 1"),
        ("yes", "says more than"),
        ("sleep 60", "does not end within"),
        ("sleep 60 & echo '{\"protocol\": 7}'", "speaks protocol 7"),
        ("kill -9 $$", "says: exit code -9"),
        ('case $1 in info) echo \'{"protocol": 1}\';; *) echo \'{"options": {"a": 1}}\';; esac',
         "Expected `str`, got `int`"),
    ],
)  # fmt: skip
def test_a_program_that_misbehaves_is_refused_and_leaves_nothing(
    host: Host, install: Install, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    # who ends may take his time on a busy machine
    timeout_s = 1.0 if text == "sleep 60" else 20.0
    monkeypatch.setattr(program.call, "__kwdefaults__", {"timeout_s": timeout_s, "most": 100_000})
    path = install("bad", f"#!/bin/sh\n{text}\n")
    engine = host.engine()
    before = snapshot()
    start = time.monotonic()
    with pytest.raises(InvalidSpec, match=re.escape(why)):
        engine.create_network(town("bad"))
    assert time.monotonic() - start < 30  # neither its end nor that of its child is waited for
    assert snapshot() == before
    assert until(lambda: not any(path in line for line in run("ps -eo args").splitlines()))


@pytest.mark.parametrize(
    ("setup", "why"),
    [
        ("ip -n c1 link add other0 type bridge", "bad has made no interface 'eth0'"),
        ("ip link add half0 type bridge; echo 'half-way' >&2; exit 1", "bad says: half-way"),
    ],
)
def test_a_setup_that_fails_is_torn_down(
    host: Host, install: Install, setup: str, why: str
) -> None:
    teardown = "ip link del half0 2>/dev/null; ip -n c1 link del other0 2>/dev/null; true"
    script = f"#!/bin/sh\ncase $1 in {INFO} setup) {setup};; teardown) {teardown};; esac\n"
    install("bad", script)
    engine = host.engine()
    engine.create_network(town("bad"))
    before = snapshot()
    with pytest.raises(KernelRefused, match=why):
        engine.connect("town", name="c1")
    assert snapshot() == before


def test_a_teardown_that_fails_is_a_debt_that_gc_pays(host: Host, install: Install) -> None:
    setup = "ip -n c1 link add eth0 type bridge"
    allowed = f"test -e {host.base}/allowed"
    script = f"#!/bin/sh\ncase $1 in {INFO} setup) {setup};; teardown) {allowed};; esac\n"
    path = install("moody", script)
    engine = host.engine()
    engine.create_network(town("moody"))
    engine.connect("town", name="c1")
    with pytest.raises(KernelRefused, match="moody says: exit code 1"):
        engine.disconnect("town", "c1")
    run(f"touch {host.base}/allowed")
    os.rename(path, f"{path}.away")
    with pytest.raises(NetkitError, match="No such file"):
        engine.gc()
    os.rename(f"{path}.away", path)
    engine.gc()
    assert engine.endpoints() == []


def test_only_a_program_nobody_else_can_write_is_run(host: Host, install: Install) -> None:
    path = install("open", "#!/bin/sh\necho '{\"protocol\": 1}'\n")
    os.chmod(path, 0o777)
    engine = host.engine()
    with pytest.raises(InvalidSpec, match="others than root may write to it"):
        engine.create_network(town("open"))
    os.chmod(path, 0o644)
    with pytest.raises(InvalidSpec, match="unknown driver 'open'"):
        engine.create_network(town("open"))


@pytest.mark.parametrize(
    "name", ["", "..", "../hub", "a/b", "-x", "Hub", "hub ", "hub\n", "h" * 32, "é", "drivers/hub"]
)
def test_only_a_plain_name_is_looked_for(host: Host, install: Install, name: str) -> None:
    install("hub", "#!/bin/sh\n")
    with pytest.raises(InvalidSpec, match="unknown driver"):
        host.engine().create_network(town(name))


def test_a_network_whose_program_is_gone_can_be_removed_and_so_can_others(
    host: Host, install: Install
) -> None:
    path = install("hub", f"#!/bin/sh\ncase $1 in {INFO} esac\n")
    engine = host.engine()
    before = snapshot()
    engine.create_network(town("hub"))
    engine.create_network(NetworkSpec("other", subnets=(ip_network("172.28.0.0/24"),)))
    os.unlink(path)
    with pytest.raises(NotFound, match="no program for the driver 'hub'"):
        engine.connect("town", name="c1")
    engine.delete_network("other")
    engine.delete_network("town")
    assert snapshot() | {"files": ""} == before | {"files": ""}
