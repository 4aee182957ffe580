"""netkit events and netkit repair on the command line."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import pytest

from netkit.specs import NetworkSpec
from scenarios.lab import Host, program, run
from tests import faces

SPEC = NetworkSpec("web", labels={"colour": "red"})
pytestmark = pytest.mark.usefixtures("host")
_BOUND_S = 20


@contextmanager
def following(line: str) -> Iterator[subprocess.Popen[str]]:
    """`netkit LINE` in the background, once it follows."""
    command, env = program(line)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def netkit(line: str) -> str:
    return faces.ok(*shlex.split(line))


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_an_event_is_one_line_as_docker_prints_it(host: Host) -> None:
    began = datetime.now().astimezone()
    id = host.engine().create_network(SPEC).id
    (line,) = netkit("events --since 1m --until 0s").splitlines()
    found = re.fullmatch(rf"(\S+) network create {id} \((.*)\)", line)
    assert found is not None
    assert found[2] == "colour=red, driver=bridge, name=web"
    assert re.fullmatch(r"[-\d]{10}T[:\d]{8}\.\d{9}(Z|[+-]\d\d:\d\d)", found[1])
    at = datetime.fromisoformat(found[1])
    assert began - timedelta(milliseconds=1) <= at <= datetime.now().astimezone()
    assert netkit(f"events --since {found[1]} --until 0s") == f"{line}\n"


def test_as_json_it_has_dockers_fields(host: Host) -> None:
    id = host.engine().create_network(SPEC).id
    found = json.loads(netkit("events --since 1m --until 0s --format json"))
    assert found.keys() == {"Type", "Action", "Actor", "scope", "time", "timeNano"}
    assert (found["Type"], found["Action"], found["scope"]) == ("network", "create", "local")
    attributes = {"colour": "red", "driver": "bridge", "name": "web"}
    assert found["Actor"] == {"ID": id, "Attributes": attributes}
    assert found["timeNano"] // 10**9 == found["time"]


def test_a_template_sees_dockers_names(host: Host) -> None:
    host.engine().create_network(SPEC)
    template = "{{.Type}} {{.Action}} {{.Actor.Attributes.name}} {{.Scope}}"
    assert netkit(f"events --since 1m --until 0s --format '{template}'") == (
        "network create web local\n"
    )


def test_filters_choose(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SPEC)
    engine.connect("web", name="c1")
    form = "--since 1m --until 0s --format '{{.Type}} {{.Action}}'"
    assert netkit(f"events {form} -f type=container") == "container create\n"
    assert netkit(f"events {form} -f container=c1 -f event=connect") == "network connect\n"
    assert netkit(f"events {form} --filter label=colour=red") == "network create\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--filter colour=red", "invalid filter 'colour=red'"),
        ("--filter type=volume", "'volume' is no type"),
        ("--filter event=pull", "'pull' is no event"),
        ("--filter type", "invalid filter 'type'"),
        ("--since yesterday", "invalid duration or time 'yesterday'"),
        ("--until 10", "invalid duration or time '10'"),
        ("--format table", "events cannot be a table"),
        ("--format '{{.Type'", ""),
    ],
)
def test_bad_input_is_refused(line: str, message: str) -> None:
    assert message in faces.refused("events", "--until", "0s", *shlex.split(line))


def test_events_are_printed_as_they_happen_until_interrupted(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SPEC)
    with following(
        "events --since 1m --format '{{.Action}} {{.Actor.Attributes.name}}'"
    ) as process:
        assert line_of(process) == "create web\n"  # it follows from here on
        engine.connect("web", name="c1")
        assert [line_of(process) for _ in range(2)] == ["create c1\n", "connect web\n"]
        process.send_signal(signal.SIGINT)
        assert process.wait(_BOUND_S) == 130


def test_a_reader_who_has_had_enough_ends_it_quietly(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SPEC)
    with following("events --since 1m --format '{{.Action}}'") as process:
        assert line_of(process) == "create\n"
        assert process.stdout is not None
        process.stdout.close()
        engine.connect("web", name="c1")
        assert process.wait(_BOUND_S) == 141
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_s36_what_cannot_be_printed_is_escaped(host: Host) -> None:
    engine = host.engine()
    with engine.store.transaction():
        engine.store.note("drift", "host", "x", "x", {"what": "a\nb\x1b[2J"})
    for form in ("", "--format json", "--format '{{.Actor.Attributes.what}}'"):
        (line,) = netkit(f"events --since 1m --until 0s {form}").splitlines()
        assert "\x1b" not in line
        assert "a\\" in line


# -- repair


def test_repair_prints_what_it_put_back_and_finds_nothing_the_next_time(host: Host) -> None:
    host.engine().create_network(SPEC)
    run("nft flush ruleset")
    assert netkit("repair") == "netkit's firewall tables are gone\n"
    assert netkit("check") == netkit("repair") == ""


def test_a_dry_run_of_repair_prints_the_lines_and_does_nothing(host: Host) -> None:
    net = host.engine().create_network(SPEC)
    run(f"ip link set {net.bridge} down")
    assert netkit("repair --dry-run") == f"ip link set {net.bridge} up\n"
    assert netkit("repair web --dry-run") == f"ip link set {net.bridge} up\n"
    assert "is down" in faces.netkit("check").out
    assert netkit("repair web") == f"interface {net.bridge} is down\n"
    assert netkit("repair --dry-run") == ""


def test_what_cannot_be_put_back_is_said_and_is_the_exit_code(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SPEC)
    ep = engine.connect("web", name="c1")
    run(f"ip -n c1 link set eth0 name other && ip link show {ep.host_ifname}")
    assert "eth0 in /run/netns/c1 is gone" in faces.refused("repair", "c1")


def test_nothing_of_that_name_is_nothing_to_repair() -> None:
    assert "ghost" in faces.refused("repair", "ghost")
