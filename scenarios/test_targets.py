"""A container that Docker made and netkit connects: by its name, and with real packets."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from scenarios.engines import FakeEngine, container
from scenarios.lab import Host, netkit, run


@pytest.fixture
def docker(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    with FakeEngine(f"{host.base}/docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.path}")
        yield engine


def test_a_container_of_dockers_is_connected_looked_at_and_let_go_by_its_name(
    host: Host, docker: FakeEngine
) -> None:
    netkit("network create --subnet 10.1.0.0/24 net")
    peer = "/run/netns/peer"
    netkit("connect --net net --name peer")
    with container() as pid:
        id = docker.has("web", pid)
        netkit("connect --net net --ip 10.1.0.9 -p 8080:80 --dns 9.9.9.9 docker:web")
        assert netkit("wait docker:web") == ""
        place = f"/proc/{pid}/ns/net"
        with host.serve(place, "tcp", 80):
            assert host.ask(peer, "10.1.0.9", 80) == "10.1.0.2"
            assert host.ask(None, "127.0.0.1", 8080) is not None
        assert run(f"nsenter --target {pid} --mount cat /etc/resolv.conf") == "nameserver 9.9.9.9\n"
        assert netkit("ps --format {{.Names}}").split() == ["web", "peer"]
        for target in ("docker:web", f"docker:{id[:12]}", "web", f"pid:{pid}"):
            assert netkit(f"port {target}") == "80/tcp -> 0.0.0.0:8080\n"
        assert "10.1.0.9" in netkit("exec docker:web -- ip addr")
        netkit(f"disconnect --net net docker:{id}")
        assert "eth0" not in run("ip link", place=place)
        assert netkit("ps -q").count("\n") == 1


def test_a_container_on_the_hosts_network_is_refused(host: Host, docker: FakeEngine) -> None:
    netkit("network create net")

    docker.has("web", os.getpid())
    said = netkit("connect --net net docker:web", code=1)
    assert "container docker:web uses the host's own network namespace" in said
    assert "--network none" in said


def test_a_path_that_leads_to_somebody_else_by_now_is_not_followed(host: Host) -> None:
    """As a process number does that was given to another process."""
    netkit("network create --subnet 10.1.0.0/24 net")
    netkit("network create other")
    run("ip netns add one", "ip netns add two", "touch /run/place")
    run("mount --bind /run/netns/one /run/place")
    netkit("connect --net net netns:/run/place")
    assert "10.1.0.2" in netkit("exec place -- ip addr")
    run("umount /run/place", "mount --bind /run/netns/two /run/place")
    before = run("ip -n two addr")
    for line in ("connect --net other place", "exec place -- ip link add x type bridge"):
        assert "container place is not running" in netkit(line, code=1)
    assert netkit("ps -a --format {{.State}}") == "dead\n"
    assert netkit("gc") == "place\n"
    assert run("ip -n two addr") == before
    run("umount /run/place", "rm /run/place")


def test_two_containers_in_one_namespace_are_one_sandbox(host: Host, docker: FakeEngine) -> None:
    """As in a pod, or after `docker run --network container:web`."""
    netkit("network create --subnet 10.1.0.0/24 net")
    with container() as pid:
        docker.has("web", pid)
        docker.has("sidecar", pid)
        netkit("connect --net net docker:web")
        assert "endpoint with name web already exists" in netkit(
            "connect --net net docker:sidecar", code=1
        )
        netkit("disconnect --net net docker:sidecar")
        assert netkit("ps -q") == ""
