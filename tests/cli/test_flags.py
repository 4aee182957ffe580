"""Flags of Docker's typed by habit: files of labels, signals, the long form of --network."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import Host, until
from tests.faces import netkit, ok, refused


@pytest.fixture(autouse=True)
def nets(host: Host) -> Iterator[None]:
    """Networks `net` and `other`; what a test leaves running is killed."""
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    ok("network", "create", "--subnet=10.2.0.0/24", "other")
    yield
    for name in ok("ps", "-aq").split():
        ok("rm", "-f", name)


def endpoints(name: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        ok("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)
    )
    return found


def detached(*words: str) -> str:
    return ok("run", "-d", "--name=c1", *words, "sleep", "60").strip()


# -- run --network name=…


def test_each_network_has_what_its_long_form_says() -> None:
    detached(
        "--network=name=net,ip=10.1.0.7,mac-address=02:00:00:00:00:07,ifname=front",
        "--network=name=other,ip=10.2.0.9,gw-priority=5",
    )
    found = endpoints("c1")
    assert (found["net"]["IPAddress"], found["other"]["IPAddress"]) == ("10.1.0.7", "10.2.0.9")
    assert found["net"]["MacAddress"] == "02:00:00:00:00:07"
    assert found["net"]["InterfaceName"] == "front"
    assert found["other"]["GwPriority"] == 5
    assert "default via 10.2.0.1" in ok("exec", "c1", "ip", "route")


def test_short_and_long_forms_go_together_and_options_are_the_firsts() -> None:
    detached("--network=name=net,ifname=front", "--ip=10.1.0.7", "--net=other", "-p", "8080:80")
    found = endpoints("c1")
    assert (found["net"]["IPAddress"], found["net"]["InterfaceName"]) == ("10.1.0.7", "front")
    assert found["other"]["IPAddress"] == "10.2.0.2"
    assert ok("port", "c1").startswith("80/tcp -> 0.0.0.0:8080\n")


def test_each_network_publishes_the_ports_of_its_long_form() -> None:
    detached("--network=name=net,publish=8080:80", "--network=name=other,publish=9090:90")
    assert {*ok("port", "c1").split()} >= {"80/tcp", "90/tcp", "0.0.0.0:8080", "0.0.0.0:9090"}
    ok("network", "disconnect", "other", "c1")
    assert "9090" not in ok("port", "c1")


def test_docker_spells_the_interface_name_as_a_driver_option() -> None:
    detached("--network=name=net,driver-opt=com.docker.network.endpoint.ifname=front")
    assert endpoints("c1")["net"]["InterfaceName"] == "front"


def test_a_field_may_hold_a_comma_in_quotes() -> None:
    said = refused("run", '--network="name=net","x=1,2"', "true", code=125)
    assert "invalid network" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--network=ip=10.1.0.7"], "invalid network 'ip=10.1.0.7': no name"),
        (["--network=name=net,nosuch=1"], "unknown field 'nosuch'"),
        (["--network=name=net,alias=a b"], "invalid alias 'a b'"),
        (["--network=name=net,ip=10.1.0.7", "--ip=10.1.0.8"], "conflicting options: --ip"),
        (["--network=name=net,ip=10.2.0.7"], "10.2.0.7"),
        (["--network=name=net", "--network=net"], "a network is named twice"),
        (["--network=name=host,ip=10.1.0.7"], "conflicting options: --ip and the host"),
        (["--network=name=net,gw-priority=high"], "'high' is not a valid integer"),
    ],
)
def test_a_long_form_that_makes_no_sense_is_refused(words: list[str], said: str) -> None:
    assert said in refused("run", *words, "true", code=125)
    assert ok("ps", "-aq") == ""


# -- files


def test_labels_and_environment_come_from_files_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labels").write_text("# a comment\n\n  tier=web\nempty\nboth=file\n")
    (tmp_path / "env").write_text("\ufeffA=1 2\nHERE\nNOWHERE\n#B=2\nQ='x'\nBOTH=file\n")
    monkeypatch.setenv("HERE", "of the caller")
    monkeypatch.delenv("NOWHERE", raising=False)
    words = [f"--label-file={tmp_path}/labels", "--label=both=flag"]
    detached("--net=net", *words)
    labels = json.loads(ok("inspect", "-f", "{{json .Config.Labels}}", "c1"))
    assert labels == {"tier": "web", "empty": "", "both": "flag"}
    script = 'echo "$A|$HERE|${NOWHERE-unset}|$B|$Q|$BOTH"'
    for verb in (["run", "--rm", "--net=none"], ["exec"]):
        options = [f"--env-file={tmp_path}/env", "-e", "BOTH=flag"]
        name = ["c1"] if verb == ["exec"] else []
        assert ok(*verb, *options, *name, "sh", "-c", script) == (
            "1 2|of the caller|unset||'x'|flag\n"
        )


def test_a_variable_named_alone_keeps_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """HOSTNAME would be the container's."""
    monkeypatch.setenv("HOSTNAME", "outer")
    words = ("run", "--rm", "--net=none", "-h", "web1")
    assert ok(*words, "sh", "-c", "echo $HOSTNAME") == "web1\n"
    assert ok(*words, "-e", "HOSTNAME", "sh", "-c", "echo $HOSTNAME") == "outer\n"


@pytest.mark.parametrize("option", ["--env-file", "--label-file"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file or directory"),
        (b"A=1\nB C=2\n", ":2: 'B C=2' is no"),
        (b"=x\n", ":1: '=x' is no"),
        (b"\xff\xfe", "it is not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, option: str, content: bytes | None, said: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    found = refused("run", "--net=none", f"{option}={path}", "true", code=125)
    assert said in found
    assert str(path) in found


# -- stop, rm, inspect, logs


@pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "sigusr1", str(int(signal.SIGUSR1))])
def test_stop_sends_the_signal_asked_for(name: str) -> None:
    script = "trap 'exit 4' USR1; trap '' TERM; echo ready; while :; do sleep 0.05; done"
    ok("run", "-d", "--net=net", "--name=c1", "sh", "-c", script)
    assert until(lambda: ok("logs", "c1") == "ready\n")
    assert ok("stop", "-s", name, "--timeout=10", "c1") == "c1\n"
    assert until(lambda: ok("inspect", "-f", "{{.State.ExitCode}}", "c1") == "4\n")


@pytest.mark.parametrize("name", ["NOSUCH", "99", "0", ""])
def test_no_such_signal(name: str) -> None:
    assert "invalid signal" in refused("stop", "-s", name, "c1")


def test_rm_takes_the_volumes_there_are_not() -> None:
    detached("--net=net")
    assert ok("rm", "-fv", "c1") == "c1\n"


def test_inspect_can_be_told_what_a_name_is_of() -> None:
    ok("connect", "--net=net", "--name=net")  # a namespace called as a network is
    assert "Containers" not in ok("inspect", "--size", "net")
    assert "Containers" in ok("inspect", "--type=network", "net")
    assert "Containers" not in ok("inspect", "--type=container", "net")
    assert "no such container: other" in refused("inspect", "--type=container", "other")
    assert "no such network: nosuch" in refused("inspect", "--type=network", "nosuch")


def test_exposed_ports_are_on_record() -> None:
    detached("--net=net", "--expose=80", "--expose=90-91/udp")
    found = json.loads(ok("inspect", "-f", "{{json .Config.ExposedPorts}}", "c1"))
    assert found == {"80/tcp": {}, "90/udp": {}, "91/udp": {}}


@pytest.mark.parametrize(
    ("printed", "tail", "expected"),
    [
        ("1\n2\n3\n", "2", "2\n3\n"),
        ("1\n2\n3", "2", "2\n3"),
        ("1\n2\n3\n", "0", ""),
        ("1\n2\n3\n", "9", "1\n2\n3\n"),
        ("1\n2\n", "all", "1\n2\n"),
        ("1\n2\n", "-1", "1\n2\n"),
        ("", "2", ""),
        ("\n\n\n", "2", "\n\n"),
        ("x" * 70_000 + "\n" + "y" * 70_000 + "\nz\n", "2", "y" * 70_000 + "\nz\n"),
        ("a\x0bb\rc\n1\n", "2", "a\x0bb\rc\n1\n"),
    ],
)
def test_logs_can_begin_near_the_end(
    tmp_path: Path, printed: str, tail: str, expected: str
) -> None:
    (tmp_path / "text").write_text(printed, newline="")
    ok("run", "-d", "--net=net", "--name=c1", "cat", str(tmp_path / "text"))
    assert until(lambda: ok("inspect", "-f", "{{.State.Running}}", "c1") == "false\n")
    assert ok("logs", "--tail", tail, "c1") == expected
    assert ok("logs", "-n", tail, "-f", "c1") == expected


# -- second names, and what is not there


def test_network_commands_have_dockers_second_names() -> None:
    assert ok("network", "list") == ok("network", "ls")
    assert ok("network", "remove", "other") == "other\n"
    assert "list" not in ok("network", "--help").partition("Commands:")[2].replace("List", "")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("run -v /a:/b true", "no container engine"),
        ("run --restart=always true", "systemd"),
        ("network create --attachable n", "no swarm"),
        ("exec -d c1 true", "put & behind it"),
        ("ps -s", "no file system"),
        ("logs --since=1h c1", "without times"),
        ("rm --link c1", "goes with the container"),
    ],
)
def test_an_option_that_netkit_has_not_is_refused_with_a_way_out(words: str, hint: str) -> None:
    said = refused(*words.split(), code=125 if words.startswith("run") else 2)
    assert "No such option" in said
    assert said.splitlines()[-1].startswith("Hint:  ")
    assert hint in said.splitlines()[-1]


def test_any_other_option_has_no_hint() -> None:
    assert "Hint" not in refused("run", "--nosuch", "true", code=125)
    assert "Hint" not in refused("--nosuch", code=2)


def test_the_environment_of_these_tests_asks_for_no_completion() -> None:
    assert "_NETKIT_COMPLETE" not in os.environ
    assert netkit("--help").code == 0
