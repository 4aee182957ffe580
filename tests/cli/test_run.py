"""netkit run, exec, logs, stop, rm, ps, inspect: a container's life by the command line."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from scenarios.lab import Host, run, snapshot, until
from tests.faces import netkit, ok, refused

needs_busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")
NO_RECORD = "CONTAINER ID   COMMAND   CREATED   STATUS   PORTS   NAMES\n"


@pytest.fixture(autouse=True)
def net(host: Host) -> Iterator[str]:
    """A network `net`; what a test leaves running is killed."""
    yield ok("network", "create", "--subnet=10.1.0.0/24", "net").strip()
    for name in ok("ps", "-aq").split():
        ok("rm", "-f", name)


def _run(*words: str) -> str:
    return ok("run", "--rm", "--net=net", *words)


def _detached(*words: str) -> str:
    return ok("run", "-d", "--net=net", *words).strip()


def _field(name: str, field: str) -> str:
    return ok("inspect", "-f", f"{{{{{field}}}}}", name).strip()


# -- the command, and what it finds


def test_a_container_has_network_mount_and_uts_namespaces_of_its_own() -> None:
    script = "ip -o addr show eth0; hostname; readlink /proc/self/ns/net /proc/self/ns/mnt"
    address, hostname, net, mnt = _run("--hostname=web1", "sh", "-c", script).splitlines()
    assert "10.1.0.2/24" in address
    assert hostname == "web1"
    assert net != os.readlink("/proc/self/ns/net")
    assert mnt != os.readlink("/proc/self/ns/mnt")
    assert os.uname().nodename != "web1"


def test_a_container_is_named_after_its_id_by_default() -> None:
    lines = _run("--name=c1", "sh", "-c", "hostname; cat /etc/hostname /etc/hosts").splitlines()
    assert re.fullmatch(r"[0-9a-f]{12}", lines[0])
    assert lines[0] == lines[1]
    assert f"10.1.0.2\t{lines[0]}" in lines


def test_name_files_say_what_was_asked_for() -> None:
    said = _run(
        *("-h", "web1", "--domainname=example.com", "--dns=9.9.9.9", "--dns-search=.example.com"),
        *("--dns-opt=ndots:2", "--add-host=db:10.9.9.9", "--add-host=gw:host-gateway"),
        *("cat", "/etc/resolv.conf", "/etc/hostname", "/etc/hosts"),
    ).splitlines()
    assert said[:3] == ["nameserver 9.9.9.9", "search example.com", "options ndots:2"]
    assert said[3] == "web1.example.com"
    assert {"10.9.9.9\tdb", "10.1.0.1\tgw", "10.1.0.2\tweb1.example.com web1"} <= {*said}


@pytest.mark.parametrize("code", [0, 1, 2, 7, 125, 255])
def test_the_exit_code_is_the_commands_own(code: int) -> None:
    assert netkit("run", "--net=none", "--rm", "sh", "-c", f"exit {code}").code == code


@pytest.mark.parametrize("verb", ["run", "exec"])
def test_a_command_that_is_not_there_is_127_and_one_that_cannot_run_126(verb: str) -> None:
    if verb == "exec":
        _detached("--name=c1", "sleep", "60")
    words = ("run", "--rm", "--net=net") if verb == "run" else ("exec", "c1")
    before = snapshot()
    said = refused(*words, "nosuch-command", code=127)
    assert "cannot run nosuch-command: command not found" in said
    assert "Hint:  install it" in said
    assert "cannot run /nosuch/command" in refused(*words, "/nosuch/command", code=127)
    assert "cannot run /etc/passwd: Permission denied" in refused(*words, "/etc/passwd", code=126)
    assert "cannot run /tmp" in refused(*words, "/tmp", code=126)
    assert snapshot() == before


def test_what_netkit_refuses_is_125() -> None:
    assert "no such network: nosuch" in refused("run", "--net=nosuch", "true", code=125)
    assert netkit("run", "--nosuch-option", "true").code == 125
    assert netkit("run").code == 125


def test_options_end_at_the_command() -> None:
    assert _run("echo", "--rm", "-d", "--name=x") == "--rm -d --name=x\n"
    assert _run("--", "echo", "--", "-e") == "-- -e\n"


def test_environment_and_working_directory() -> None:
    os.environ["OUTER"] = "kept"
    script = 'echo "$A|$B|$OUTER|$HOSTNAME|$(pwd)"'
    words = ("-e", "A=1 2", "--env=B=", "-h", "web1", "-w", "/usr/bin", "sh", "-c", script)
    assert _run(*words) == "1 2||kept|web1|/usr/bin\n"
    del os.environ["OUTER"]


def test_text_that_is_no_utf_8_reaches_the_command_as_it_is() -> None:
    assert _run("-e", "A=\udcff", "sh", "-c", 'echo "$A$1"', "sh", "\udcfe") == "\udcff\udcfe\n"
    _detached("--name=c1", "sleep", "60", "\udcff")
    assert "\ufffd" in json.loads(ok("inspect", "c1"))[0]["Args"][1]


@needs_busybox
def test_a_root_file_system_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for directory in ("bin", "srv"):
        (root / directory).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), root / "bin/busybox")
    (root / "bin/sh").symlink_to("busybox")
    script = "pwd; busybox ls /; busybox cat /etc/hostname; busybox hostname"
    words = (f"--rootfs={root}", "-h", "web1", "-w", "/srv", "-e", "PATH=/bin", "sh", "-c", script)
    said = _run(*words).split()
    assert said[0] == "/srv"
    assert {"bin", "etc", "srv"} <= {*said}
    assert "home" not in said
    assert said[-2:] == ["web1", "web1"]
    gone = refused("run", "--net=net", f"--rootfs={root}", "ls", code=127)
    assert "cannot run ls: command not found" in gone


# -- networks


def test_net_host_shares_the_hosts_network_and_nothing_else() -> None:
    said = ok("run", "--rm", "--net=host", "readlink", "/proc/self/ns/net", "/proc/self/ns/mnt")
    net, mnt = said.splitlines()
    assert net == os.readlink("/proc/self/ns/net")
    assert mnt != os.readlink("/proc/self/ns/mnt")


def test_net_none_has_a_loopback_and_nothing_else() -> None:
    said = ok("run", "--rm", "--net=none", "sh", "-c", "ip -o link; ping -c1 -w1 127.0.0.1")
    assert [line.split(": ")[1] for line in said.splitlines() if ": " in line][:1] == ["lo"]
    assert "eth" not in said


def test_net_container_shares_anothers_network_and_name_files() -> None:
    _detached("--name=web", "-h", "web1", "--dns=9.9.9.9", "sleep", "60")
    script = "ip -o addr show eth0; hostname; cat /etc/resolv.conf; readlink /proc/self/ns/net"
    said = ok("run", "--rm", "--net=container:web", "sh", "-c", script)
    assert "10.1.0.2/24" in said
    assert "web1" in said
    assert "nameserver 9.9.9.9" in said
    assert f"net:[{os.stat('/run/netns/web').st_ino}]" in said
    assert _field("web", ".State.Status") == "running"


def test_net_container_wants_a_running_container() -> None:
    ok("run", "--net=net", "--name=dead", "true")
    said = refused("run", "--net=container:dead", "true", code=125)
    assert "cannot join network of a non running container: dead" in said
    assert "no such container: nosuch" in refused("run", "--net=container:nosuch", "true", code=125)


def test_several_networks_in_the_order_given() -> None:
    ok("network", "create", "--subnet=10.2.0.0/24", "other")
    words = ("--net=other", "--net=net", "--ip=10.2.0.9", "sh", "-c", "ip -o -4 addr; ip route")
    said = ok("run", "--rm", *words)
    assert re.search(r"eth0 +inet 10\.2\.0\.9/24", said)
    assert re.search(r"eth1 +inet 10\.1\.0\.2/24", said)
    assert "default via 10.1.0.1" in said  # of equals the first by name


def test_the_default_network_is_bridge() -> None:
    assert "default via 172.17.0.1" in ok("run", "--rm", "ip", "route")


def test_publish_all_gives_each_exposed_port_one_of_the_host() -> None:
    _detached("--name=c1", "-P", "--expose=80", "--expose=90-91/udp", "sleep", "60")
    rows = ok("port", "c1").splitlines()
    assert [row.split(" -> ")[0] for row in rows] == ["80/tcp", "90/udp", "91/udp"]
    assert all(int(row.rpartition(":")[2]) >= 1024 for row in rows)


# -- names and records


def test_a_name_that_is_taken_is_refused_in_dockers_words() -> None:
    _detached("--name=c1", "sleep", "60")
    before = snapshot()
    for words in (("run", "--net=net", "--name=c1", "true"), ("run", "-d", "--name=c1", "true")):
        said = refused(*words, code=125)
        assert said.startswith('Error: the container name "c1" is already in use\nHint:  ')
    assert snapshot() == before


def test_rm_leaves_nothing_and_without_it_a_record_stays() -> None:
    before = snapshot()
    _run("--name=c1", "true")
    assert snapshot() == before
    assert ok("ps", "-a") == NO_RECORD
    assert netkit("run", "--net=net", "--name=c2", "sh", "-c", "exit 3").code == 3
    assert {**snapshot(), "files": ""} == {**before, "files": ""}  # its log is kept
    assert ok("ps") == NO_RECORD
    assert ok("ps", "-a", "--format={{.Names}} {{.State}}") == "c2 exited\n"
    assert ok("ps", "-a", "--format={{.Status}}").startswith("Exited (3) ")
    assert (_field("c2", ".State.ExitCode"), _field("c2", ".State.Running")) == ("3", "false")
    assert ok("rm", "c2") == "c2\n"
    assert ok("ps", "-a") == NO_RECORD
    assert snapshot() == before


def test_a_detached_container_prints_its_id_and_goes_on() -> None:
    id = _detached("--name=c1", "sh", "-c", "echo out; echo err >&2; sleep 60")
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    assert _field("c1", ".Id") == id
    assert until(lambda: ok("logs", "c1") == "out\nerr\n")
    assert ok("exec", id[:12], "hostname") == f"{id[:12]}\n"


def test_a_detached_container_that_cannot_start_is_reported_at_once() -> None:
    before = snapshot()
    assert "command not found" in refused("run", "-d", "--net=net", "nosuch-command", code=127)
    assert "no such network" in refused("run", "-d", "--net=nosuch", "true", code=125)
    assert snapshot() == before
    assert ok("ps", "-a") == NO_RECORD


def test_an_interactive_detached_container_stays_alive() -> None:
    """docker run -dit … sh: its input never ends, with a terminal and without one."""
    for name, option in (("c1", "-dit"), ("c2", "-di")):
        ok("run", option, "--net=net", f"--name={name}", "cat")
    short = _detached("--name=c3", "cat")
    assert until(lambda: _field(short, ".State.Running") == "false")
    assert ok("ps", "--format={{.Names}}").split() == ["c2", "c1"]
    terminal, pipe = (
        os.readlink(f"/proc/{_field(name, '.State.Pid')}/fd/0") for name in ("c1", "c2")
    )
    assert terminal.startswith("/dev/pts/")
    assert pipe.startswith("pipe:")


def test_a_detached_container_with_rm_is_gone_when_it_ends() -> None:
    before = snapshot()
    _detached("--rm", "--name=c1", "sleep", "0.1")
    assert until(lambda: ok("ps", "-a") == NO_RECORD)
    assert until(lambda: snapshot() == before)


# -- ps and inspect


def test_ps_is_dockers_table() -> None:
    id = _detached("--name=c1", "-p", "127.0.0.1:8080:80", "sleep", "6000", "7000", "8000", "9000")
    heading, row = ok("ps").splitlines()
    assert re.split("   +", heading) == [
        *("CONTAINER ID", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")
    ]
    cells = re.split("   +", row)
    assert cells[:2] == [id[:12], '"sleep 6000 7000 800…"']
    assert re.fullmatch(r"(Less than a second|\d+ seconds?) ago", cells[2])
    assert re.fullmatch(r"Up (Less than a second|\d+ seconds?)", cells[3])
    assert cells[4:] == ["127.0.0.1:8080->80/tcp", "c1"]


def test_ps_takes_dockers_flags() -> None:
    first, second = _detached("--name=c1", "sleep", "60"), _detached("--name=c2", "sleep", "60")
    netkit("run", "--net=net", "--name=c0", "--label=a=b", "true")
    assert ok("ps", "-q").split() == [second[:12], first[:12]]
    assert ok("ps", "-q", "--no-trunc").split() == [second, first]
    assert ok("ps", "-aq") != ok("ps", "-q")
    assert ok("ps", "-l", "--format={{.Names}}") == "c0\n"
    assert ok("ps", "--latest", "--format={{.Labels}}") == "a=b\n"
    assert [json.loads(line)["Names"] for line in ok("ps", "--format=json").splitlines()] == [
        *("c2", "c1")
    ]
    assert ok("ps", "--format=table") == ok("ps")
    assert ok("ps", "--format", r"table {{.Names}}\t{{.Networks}}").split() == [
        *("NAMES", "NETWORKS", "c2", "net", "c1", "net")
    ]


def test_inspect_has_dockers_fields() -> None:
    id = _detached("--name=c1", "-h", "web1", "--label=a=b", "-p", "8080:80", "sleep", "60")
    (found,) = json.loads(ok("inspect", "c1"))
    assert (found["Id"], found["Name"], found["Path"], found["Args"]) == (
        *(id, "/c1", "sleep", ["60"]),
    )
    assert found["State"]["Status"] == "running"
    assert found["State"]["Pid"] > 0
    assert found["Config"]["Labels"] == {"a": "b"}
    settings = found["NetworkSettings"]
    assert settings["Ports"] == {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}
    assert settings["IPAddress"] == settings["Networks"]["net"]["IPAddress"] == "10.1.0.2"
    assert settings["SandboxKey"] == "/run/netns/c1"
    template = "{{range $p, $c := .NetworkSettings.Ports}}{{$p}} {{(index $c 0).HostPort}}{{end}}"
    assert ok("inspect", "--format", template, "c1") == "80/tcp 8080\n"


def test_inspect_takes_containers_and_networks_alike(net: str) -> None:
    id = _detached("--name=c1", "sleep", "60")
    assert ok("inspect", "-f", "{{.Id}}", "net", "c1", id[:4]).split() == [net, id, id]
    assert "no such object: nosuch" in refused("inspect", "c1", "nosuch")


# -- exec


def test_exec_is_where_the_container_is() -> None:
    _detached("--name=c1", "-h", "web1", "sleep", "60")
    assert ok("exec", "c1", "--", "hostname") == ok("exec", "c1", "hostname") == "web1\n"
    assert ok("exec", "-e", "A=1", "-w", "/usr", "c1", "sh", "-c", "echo $A; pwd") == "1\n/usr\n"
    assert netkit("exec", "c1", "sh", "-c", "exit 5").code == 5
    assert ok("exec", "c1", "readlink", "/proc/self/ns/net") == (
        f"net:[{os.stat('/run/netns/c1').st_ino}]\n"
    )


def test_exec_in_a_container_that_has_ended_is_refused() -> None:
    ok("run", "--net=net", "--name=c1", "true")
    assert "container c1 is not running" in refused("exec", "c1", "true")
    assert netkit("exec", "c1").code == 2
    assert "no command given" in refused("exec", "c1", "--")


def test_exec_in_a_named_namespace_has_its_files() -> None:
    ok("connect", "--net=net", "--name=c1", "--dns=9.9.9.9")
    assert ok("exec", "c1", "cat", "/etc/resolv.conf") == "nameserver 9.9.9.9\n"


# -- logs, stop, rm


def test_logs_follow_until_the_container_ends() -> None:
    _detached("--name=c1", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done")
    assert ok("logs", "-f", "c1") == "1\n2\n3\n"
    assert ok("logs", "c1") == "1\n2\n3\n"


def test_stop_asks_and_then_insists() -> None:
    trap = "trap 'echo asked; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    _detached("--name=polite", "sh", "-c", trap)
    _detached("--name=deaf", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done")
    assert until(lambda: ok("logs", "polite") + ok("logs", "deaf") == "ready\n" * 2)
    start = time.monotonic()
    assert ok("stop", "polite") == "polite\n"
    assert ok("stop", "--time=0", "deaf") == "deaf\n"
    assert time.monotonic() - start < 10, "as long as stop waits when nothing is said"
    assert ok("logs", "polite") == "ready\nasked\n"
    for name, code in (("polite", "4"), ("deaf", "137")):
        assert until(lambda name=name: _field(name, ".State.Status") == "exited")  # type: ignore[misc]
        assert _field(name, ".State.ExitCode") == code
    assert ok("stop", "polite") == "polite\n"  # already so, which is what was wanted


def test_rm_wants_force_for_what_runs() -> None:
    before = snapshot()
    _detached("--name=c1", "sleep", "60")
    pid = int(_field("c1", ".State.Pid"))
    said = refused("rm", "c1")
    assert said == (
        "Error: cannot remove container c1: it is running\nHint:  stop it first, or use rm -f\n"
    )
    assert ok("rm", "-f", "c1") == "c1\n"
    assert until(lambda: not os.path.exists(f"/proc/{pid}") or not _runs(pid))
    assert snapshot() == before


def _runs(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] not in "ZX"


def test_rm_goes_on_past_errors() -> None:
    ok("run", "--net=net", "--name=c1", "true")
    said = netkit("rm", "nosuch", "c1")
    assert (said.code, said.out) == (1, "c1\n")
    assert "no such container: nosuch" in said.err


def test_a_container_whose_log_is_lost_is_no_traceback() -> None:
    id = _detached("--name=c1", "sleep", "60")
    os.unlink(f"{os.environ['NETKIT_RUN_DIR']}/{id}/log")
    assert refused("logs", "c1").startswith("Error: ")


def test_a_killed_container_is_buried_by_whoever_comes_next() -> None:
    before = {**snapshot(), "files": ""}
    _detached("--name=c1", "sleep", "60")
    os.kill(int(_field("c1", ".State.Pid")), signal.SIGKILL)
    assert until(lambda: _field("c1", ".State.Running") == "false")
    assert until(lambda: ok("gc") == "" and {**snapshot(), "files": ""} == before)
    assert _field("c1", ".State.ExitCode") == "137"


def test_run_leaves_the_signals_of_this_process_as_they_were() -> None:
    """The other tests run in process: what run blocks must not stay blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    _run("true")
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert run("true") == ""
