"""A container of Docker's that is restarted comes back as it was: C23, with real packets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from netkit import Netkit, engines, steps
from netkit.changes import Changes
from netkit.engine import Engine
from netkit.kernel.netlink import Netlink
from scenarios.engines import FakeEngine, container
from scenarios.lab import Host, run, snapshot
from tests.faces import netkit, ok, refused


class Docker:
    """An engine, and what its containers are run by."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self._running: dict[str, ExitStack] = {}

    def start(self, name: str) -> int:
        self.stop(name)
        stack = self._running[name] = ExitStack()
        pid = stack.enter_context(container())
        self.engine.has(name, pid)
        return pid

    restart = start

    def stop(self, name: str) -> None:
        """As `docker stop`: it is there, but does not run."""
        if name in self._running:
            self._running.pop(name).close()
            self.engine.has(name, 0, "exited")

    def remove(self, name: str) -> None:
        self.stop(name)
        del self.engine.containers[name]


@pytest.fixture
def docker(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    """Docker, with networks of netkit's beside its own."""
    run("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1 || true")
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    ok("network", "create", "--subnet=10.2.0.0/24", "--subnet=fd02::/64", "other")
    with FakeEngine(f"{host.base}/docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.path}")
        made = Docker(engine)
        yield made
        for name in [*made._running]:
            made.stop(name)


def field(name: str, template: str) -> str:
    return ok("inspect", "-f", template, name).strip()


def test_a_restarted_container_gets_back_all_it_had(host: Host, docker: Docker) -> None:
    docker.start("web")
    # two that would have taken its addresses, were those not kept for it
    ok("connect", "--net=net", "--name=first")
    ok("connect", "--net=net", "-p", "8080:80", "-p", "80", "--dns=9.9.9.9", "docker:web")
    ok("connect", "--net=other", "--gw-priority=7", "--ifname=side", "--mac-address",
       "02:42:ac:11:00:99", "docker:web")  # fmt: skip
    before = json.loads(ok("inspect", "web"))[0]
    pid = docker.restart("web")
    assert ok("gc") == "web\n"
    ok("connect", "--net=net", "--name=late")
    assert ok("reattach", "docker:web") == "docker:web\n"
    after = json.loads(ok("inspect", "web"))[0]
    assert after["Id"] != before["Id"]
    for name, now in after["NetworkSettings"]["Networks"].items():
        then = before["NetworkSettings"]["Networks"][name]
        new = {"EndpointID", "HostInterfaceName"}
        assert {k: v for k, v in now.items() if k not in new} == {
            k: v for k, v in then.items() if k not in new
        }
    assert [*after["NetworkSettings"]["Networks"]] == ["net", "other"]
    assert after["NetworkSettings"]["Ports"] == before["NetworkSettings"]["Ports"]
    assert after["HostConfig"]["Dns"] == ["9.9.9.9"]
    place = f"/proc/{pid}/ns/net"
    assert run("ip -o link show side", place=place).count("02:42:ac:11:00:99") == 1
    assert "via 10.2.0.1 dev side" in run("ip route show default", place=place)
    assert run(f"nsenter --target {pid} --mount cat /etc/resolv.conf") == "nameserver 9.9.9.9\n"
    ok("wait", "docker:web")
    with host.serve(place, "tcp", 80):
        assert host.ask("/run/netns/late", "10.1.0.3", 80) == "10.1.0.4"
        assert host.ask(None, "127.0.0.1", 8080) is not None
    assert ok("check") == ok("gc") == ""


def test_what_was_chosen_for_it_comes_back_too(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    ok("connect", "--net=other", "--ip=0/0", "docker:web")
    ok("disconnect", "--net=net", "docker:web")
    template = "{{with .NetworkSettings.Networks.other}}{{.InterfaceName}} {{.MacAddress}}{{end}}"
    before = field("web", template)
    assert before.startswith("eth1 02:42:")
    docker.restart("web")
    ok("reattach")
    assert field("web", template) == before


def test_a_namespace_that_outlives_its_first_process_is_not_collected(docker: Docker) -> None:
    with container() as pid:
        docker.engine.has("web", pid)
        ok("connect", "--net=net", "docker:web")
        other = subprocess.Popen(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "sh", "-c", "echo; exec sleep 60"],
            stdout=subprocess.PIPE,
        )
        assert other.stdout is not None
        other.stdout.readline()
    with other:
        assert ok("gc") == ""
        other.kill()
    assert ok("gc") == "web\n"


def test_an_engine_that_hangs_is_asked_once_for_all_that_ended(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        docker.start(name)
        ok("connect", "--net=net", f"docker:{name}")
        docker.stop(name)
    ok("gc")
    asked = []

    def silent(connection: socket.socket) -> None:
        asked.append(connection)
        connection.recv(1 << 16)
        connection.recv(1)

    docker.engine.answer = silent
    monkeypatch.setattr(engines, "_TIMEOUT_S", 0.2)
    assert ok("gc") == ""
    assert len(asked) == 1
    assert len(ok("ps", "-aq").split()) == 3


def test_connect_itself_finds_the_restarted_container(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    pid = docker.restart("web")
    for target, network in (("docker:web", "net"), ("web", "other")):
        ok("connect", f"--net={network}", target)
    assert ok("ps", "--format={{.Names}} {{.State}} {{.Networks}}") == "web running net,other\n"
    assert "10.1.0.2/24" in run("ip addr", place=f"/proc/{pid}/ns/net")
    assert ok("reattach", "web") == "web\n"  # nothing is left to be done
    assert ok("gc") == ""


def test_while_it_is_stopped_it_is_listed_kept_and_not_to_be_connected(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    docker.stop("web")
    ok("gc")
    assert ok("gc") == ok("ps", "-q") == ok("check") == ""
    assert ok("ps", "-a", "--format={{.Names}} {{.State}}") == "web exited\n"
    assert "Exited Less than a second" in ok("ps", "-a", "--format={{.Status}}")
    for target in ("web", "docker:web"):
        assert field(target, "{{.State.Running}} {{.State.Pid}}") == "false 0"
        for words in (["connect", "--net=other"], ["reattach"]):
            assert "container web is not running" in refused(*words, target)
        assert "not running" in refused("exec", target, "true")
    assert ok("reattach") == ""  # whoever runs again, that is nobody
    ok("connect", "--net=net", "--name=late")
    assert field("late", "{{.NetworkSettings.IPAddress}}") == "10.1.0.3"


def test_before_it_is_collected_the_dead_one_counts_as_dead_too(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    docker.stop("web")
    assert "is not running" in refused("connect", "--net=other", "web")
    assert "is not running" in refused("exec", "web", "true")
    assert ok("ps", "-a", "--format={{.State}}") == "dead\n"
    docker.start("web")
    assert ok("reattach") == "web\n"
    assert field("web", "{{.NetworkSettings.IPAddress}}") == "10.1.0.2"


@pytest.mark.parametrize("how", ["rm web", "rm docker:web", "disconnect --net=net docker:web"])
def test_what_is_kept_can_be_forgotten(docker: Docker, how: str) -> None:
    before = snapshot()
    docker.start("web")
    ok("connect", "--net=net", "--dns=9.9.9.9", "docker:web")
    docker.stop("web")
    ok("gc")
    assert snapshot() == before
    ok(*how.split())
    assert ok("ps", "-aq") == ""
    ok("connect", "--net=net", "--name=late", "--ip=10.1.0.2")
    docker.start("web")
    assert "nothing is on record" in refused("reattach", "docker:web")


def test_what_docker_removed_is_forgotten_by_gc_and_when_addresses_run_out(docker: Docker) -> None:
    ok("network", "create", "--subnet=10.3.0.0/30", "tiny")
    for _ in range(3):
        docker.start("web")
        ok("connect", "--net=tiny", "docker:web")
        docker.remove("web")
        assert ok("gc") == "web\n"  # it has ended
        assert ok("gc") == "web\n"  # and is gone
        assert ok("ps", "-aq") == ok("gc") == ""
    docker.start("one")
    ok("connect", "--net=tiny", "docker:one")
    docker.stop("one")
    ok("gc")
    assert "no free address" in refused("connect", "--net=tiny", "--name=late")
    docker.remove("one")
    ok("connect", "--net=tiny", "--name=late")


def test_a_container_made_anew_by_the_same_name_takes_its_place(docker: Docker) -> None:
    """As `docker compose up --force-recreate` does."""
    docker.start("web")
    ok("connect", "--net=net", "--ip=10.1.0.9", "docker:web")
    docker.remove("web")
    docker.start("web")
    ok("reattach", "docker:web")
    assert field("web", "{{.NetworkSettings.IPAddress}}") == "10.1.0.9"


def test_what_cannot_be_given_back_is_told_and_can_be_tried_again(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "-p", "8080:80", "docker:web")
    ok("connect", "--net=other", "docker:web")
    docker.restart("web")
    ok("gc")
    ok("connect", "--net=other", "--name=thief", "-p", "8080:80")
    before = ok("inspect", "thief")
    assert "port is already allocated (by container 'thief')" in refused("reattach", "web")
    assert ok("ps", "--format={{.Names}} {{.Networks}}").splitlines() == [
        "web other",
        "thief other",
    ]
    assert "already allocated" in refused("reattach")
    assert ok("inspect", "thief") == before
    ok("rm", "-f", "thief")
    assert ok("reattach") == "web\n"
    assert ok("ps", "--format={{.Networks}}") == "other,net\n"
    assert field("web", "{{.NetworkSettings.Networks.net.IPAddress}}") == "10.1.0.2"


def test_of_two_engines_each_may_have_one_of_that_name(
    host: Host, docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    with FakeEngine(f"{host.base}/mine.sock") as engine, container() as pid:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.path}")
        engine.has("web", pid)
        ok("connect", "--net=net", "docker:web")
        mine, roots = ok("ps", "--format={{.Names}} {{.State}}").splitlines()
        assert mine.startswith("web-")
        assert mine.endswith(" running")
        assert roots == "web running"
        assert "10.1.0.3" in ok("exec", "docker:web", "ip", "addr")
        monkeypatch.setenv("DOCKER_HOST", f"unix://{docker.engine.path}")
        assert "10.1.0.2" in ok("exec", "docker:web", "ip", "addr")


def test_of_what_is_kept_a_part_can_be_forgotten(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    ok("connect", "--net=other", "docker:web")
    docker.stop("web")
    ok("gc")
    ok("disconnect", "--net=net", "web")
    assert "not connected to network net" in refused("disconnect", "--net=net", "web")
    docker.start("web")
    assert ok("reattach") == "web\n"
    assert ok("ps", "--format={{.Names}} {{.Networks}}") == "web other\n"


@pytest.mark.parametrize("how", ["rm -f web", "disconnect --net=other web"])
def test_what_came_back_in_part_can_be_let_go(docker: Docker, how: str) -> None:
    docker.start("web")
    ok("connect", "--net=net", "-p", "8080:80", "docker:web")
    ok("connect", "--net=other", "docker:web")
    docker.restart("web")
    ok("gc")
    ok("connect", "--net=other", "--name=thief", "-p", "8080:80")
    refused("reattach", "web")
    ok(*how.split())
    ok("rm", "-f", "thief")
    said = netkit("reattach", "docker:web")
    if how.startswith("rm"):
        assert "nothing is on record" in said.err
        ok("connect", "--net=net", "--name=late", "--ip=10.1.0.2")
    else:
        assert ok("ps", "--format={{.Names}} {{.Networks}}") == "web net\n"


def test_a_network_that_is_gone_is_told_once(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    ok("connect", "--net=other", "docker:web")
    docker.restart("web")
    ok("gc")
    ok("network", "rm", "net")
    assert "to network 'net' again: there is no such network" in refused("reattach", "web")
    assert ok("ps", "--format={{.Names}} {{.Networks}}") == "web other\n"
    assert ok("reattach", "web") == "web\n"


def test_a_dry_run_shows_it_and_does_nothing(docker: Docker) -> None:
    docker.start("web")
    ok("connect", "--net=net", "docker:web")
    docker.restart("web")
    ok("gc")
    before, records = snapshot(), ok("inspect", "web")
    assert "ip addr add 10.1.0.2/24" in ok("reattach", "--dry-run", "docker:web")
    assert (snapshot(), ok("inspect", "web")) == (before, records)
    ok("reattach")


def test_after_a_reboot_it_comes_back_as_well(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.start("web")
    ok("connect", "--net=net", "--ip=10.1.0.9", "docker:web")
    docker.restart("web")
    run("ip link del $(ip -o link | sed -nE 's/.* (br-[0-9a-f]+): .*/\\1/p' | head -1)")
    for table in ("inet netkit", "bridge netkit"):
        run(f"nft delete table {table} || true")
    monkeypatch.setattr(Changes, "epoch", property(lambda self: "another boot"))
    ok("reattach", "docker:web")
    assert field("web", "{{.NetworkSettings.IPAddress}}") == "10.1.0.9"
    assert ok("check") == ""


def test_the_python_api_has_it_too(docker: Docker) -> None:
    docker.start("web")
    with Netkit() as nk:
        nk.networks.get("net").connect("docker:web")
        docker.restart("web")
        (endpoint,) = nk.reattach("docker:web")
        assert str(endpoint.address) == "10.1.0.2/24"


def test_a_reattach_the_kernel_refuses_leaves_everything_kept(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.start("web")
    ok("connect", "--net=net", "--dns=9.9.9.9", "docker:web")
    ok("connect", "--net=other", "docker:web")
    pid = docker.restart("web")
    ok("gc")
    before = snapshot()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "not today")

    with monkeypatch.context() as patched:
        patched.setattr(Netlink, "add_veth", refuse)
        said = refused("reattach", "docker:web")
        assert said.count("not today") == 2  # of both networks
    assert snapshot() == before
    ok("connect", "--net=net", "--name=late")
    assert field("late", "{{.NetworkSettings.IPAddress}}") == "10.1.0.3"
    ok("reattach", "docker:web")
    assert field("web", "{{.NetworkSettings.Networks.net.IPAddress}}") == "10.1.0.2"
    assert field("web", "{{.NetworkSettings.Networks.other.GlobalIPv6Address}}") == "fd02::2"
    assert run(f"nsenter --target {pid} --mount cat /etc/resolv.conf") == "nameserver 9.9.9.9\n"


def test_a_first_connect_that_fails_leaves_nothing_to_come_back_to(
    docker: Docker, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.start("web")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "not today")

    with monkeypatch.context() as patched:
        patched.setattr(Netlink, "add_veth", refuse)
        assert "not today" in refused("connect", "--net=net", "docker:web")
    assert ok("ps", "-aq") == ""
    assert "nothing is on record" in refused("reattach", "docker:web")


@pytest.mark.parametrize("point", ["intended", "added", "committed"])
def test_a_reattach_that_is_killed_is_done_again(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Whenever it dies: what it is to come back to is not forgotten."""
    docker.start("web")
    ok("connect", "--net=net", "--ip=10.1.0.9", "-p", "8080:80", "docker:web")
    ok("connect", "--net=other", "docker:web")
    docker.restart("web")
    ok("gc")
    if (child := os.fork()) == 0:
        monkeypatch.setattr(
            steps,
            "point",
            lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == point else 0,
        )
        Engine().reattach("docker:web")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    ok("reattach", "docker:web")
    assert ok("ps", "--format={{.Names}} {{.Networks}}") == "web net,other\n"
    assert field("web", "{{.NetworkSettings.Networks.net.IPAddress}}") == "10.1.0.9"
    assert ok("check") == ok("gc") == ""
    assert netkit("port", "web").out == "80/tcp -> 0.0.0.0:8080\n"
