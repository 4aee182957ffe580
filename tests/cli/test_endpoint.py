"""netkit connect, disconnect, veth, port, check, gc: an endpoint's life by the command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from scenarios.lab import Host, run, snapshot, until
from tests.faces import netkit, ok, refused

pytestmark = pytest.mark.usefixtures("net")


@pytest.fixture
def net(host: Host) -> str:
    return ok("network", "create", "--subnet=10.1.0.0/24", "net").strip()


@contextmanager
def a_process() -> Iterator[int]:
    """A process in network and mount namespaces of its own; its pid."""
    command = ["unshare", "--net", "--mount", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it is inside
        try:
            yield child.pid
        finally:
            child.kill()


# -- connect


def test_connect_without_a_target_prints_the_name_of_a_new_namespace() -> None:
    name = ok("connect", "--net=net")
    assert re.fullmatch(r"[a-z]+_[a-z]+\n", name)
    name = name.strip()
    assert "10.1.0.2/24" in run(f"ip -n {name} -o addr show eth0")
    assert "default via 10.1.0.1" in run(f"ip -n {name} route")
    assert run(f"ip netns exec {name} getent hosts {name}").split() == ["10.1.0.2", name]


def test_connect_takes_all_it_is_told(net: str) -> None:
    ok(
        *("connect", "--net=net", "--name=c1", "--ip=10.1.0.9", "--mac-address=02:42:AC:11:00:02"),
        *("--ifname=in0", "--host-ifname=out0", "-h", "web1", "--dns=9.9.9.9", "-p", "8080:80"),
        *("--dns-search=.example.com", "--dns-option=ndots:2", "--add-host=db:10.9.9.9"),
    )
    (found,) = json.loads(ok("inspect", "c1"))
    endpoint = found["NetworkSettings"]["Networks"]["net"]
    assert endpoint["IPAddress"] == "10.1.0.9"
    assert endpoint["MacAddress"] == "02:42:ac:11:00:02"
    assert (endpoint["InterfaceName"], endpoint["HostInterfaceName"]) == ("in0", "out0")
    assert endpoint["NetworkID"] == net
    assert found["HostConfig"]["Dns"] == ["9.9.9.9"]
    assert found["Config"]["Hostname"] == "web1"
    assert run("ip netns exec c1 cat /etc/resolv.conf").splitlines() == [
        *("nameserver 9.9.9.9", "search example.com", "options ndots:2")
    ]
    hosts = run("ip netns exec c1 cat /etc/hosts").splitlines()
    assert {"10.9.9.9\tdb", "10.1.0.9\tweb1"} <= {*hosts}
    assert run("ip netns exec c1 cat /etc/hostname") == "web1\n"


def test_connect_can_leave_the_address_out() -> None:
    ok("connect", "--net=net", "--name=c1", "--ip=0/0")
    assert "inet " not in run("ip -n c1 addr show eth0")
    assert ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "c1") == "\n"


@pytest.mark.parametrize("option", ["--net", "--network"])
def test_a_second_network_gives_a_second_interface(option: str) -> None:
    ok("network", "create", "other")
    ok("connect", "--net=net", "--name=c1")
    assert ok("connect", option, "other", "c1") == ""
    assert "eth1" in run("ip -n c1 link")
    said = refused("connect", "--net=net", "c1")
    assert "endpoint with name c1 already exists in network net" in said


def test_a_process_a_path_and_a_name_are_targets_alike() -> None:
    run("ip netns add named", "ip netns add pathed")
    with a_process() as pid:
        for target in (f"pid:{pid}", "netns:/run/netns/pathed", "named"):
            assert ok("connect", "--net=net", target) == ""
            assert "eth0" in ok("exec", target, "--", "ip", "link")
        assert ok("ps", "--format={{.Names}}").split() == ["named", "pathed", f"pid-{pid}"]
        for target in ("named", f"netns:/proc/{pid}/ns/net", "pathed"):
            ok("disconnect", "--net=net", target)
        assert "eth0" not in run("ip link", place=f"/proc/{pid}/ns/net")
    assert {*os.listdir("/run/netns")} == {"pathed", "named"}  # they are not ours to delete
    assert ok("ps", "-aq") == ""


def test_a_running_process_gets_name_files_of_its_own() -> None:
    with a_process() as pid:
        ok("connect", "--net=net", "--dns=9.9.9.9", "-h", "web1", f"pid:{pid}")
        inside = run(f"nsenter --target {pid} --mount cat /etc/resolv.conf /etc/hostname")
        assert inside == "nameserver 9.9.9.9\nweb1\n"
        ok("disconnect", "--net=net", f"pid:{pid}")
        assert "9.9.9.9" not in run(f"nsenter --target {pid} --mount cat /etc/resolv.conf")


def test_the_default_network_is_made_when_it_is_first_used() -> None:
    assert "bridge" not in ok("network", "ls", "--format={{.Name}}")
    ok("connect", "--name=c1")
    assert ok("network", "ls", "--format={{.Name}}").split() == ["net", "bridge", "host", "none"]
    assert ok("inspect", "-f", "{{.HostConfig.NetworkMode}}", "c1") == "bridge\n"


def test_the_namespace_of_a_port_that_is_taken_is_not_left_behind() -> None:
    ok("connect", "--net=net", "--name=c1", "-p", "8080:80")
    before = snapshot()
    said = refused("connect", "--net=net", "--name=c2", "-p", "8080:81")
    assert said.splitlines() == [
        "Error: Bind for 0.0.0.0:8080 failed: port is already allocated (by container 'c1')",
        "Hint:  choose another host port, or remove that container",
    ]
    assert snapshot() == before


# -- disconnect


def test_disconnect_takes_along_the_namespace_connect_made() -> None:
    before = snapshot()
    ok("connect", "--net=net", "--name=c1")
    assert ok("disconnect", "--net=net", "c1") == ""
    assert snapshot() == before
    assert "no such container: c1" in refused("disconnect", "--net=net", "c1")
    assert ok("disconnect", "--force", "--net=net", "c1") == ""


# -- port and veth


@pytest.fixture
def web(net: str) -> None:
    ok(*("connect", "--net=net", "--name=web", "-p", "8080:80", "-p", "127.0.0.1:5353:53/udp"))
    ok("connect", "--net=net", "--name=many", "-p", "9000-9002:9000-9002")


@pytest.mark.usefixtures("web")
def test_port_prints_dockers_lines() -> None:
    assert ok("port", "web").splitlines() == [
        "80/tcp -> 0.0.0.0:8080",
        "53/udp -> 127.0.0.1:5353",
    ]
    assert ok("port", "web", "80") == ok("port", "web", "80/tcp") == "0.0.0.0:8080\n"
    assert ok("port", "web", "53/udp") == "127.0.0.1:5353\n"
    assert ok("port", "many", "9002") == "0.0.0.0:9002\n"
    assert len(ok("port", "many").splitlines()) == 3


@pytest.mark.usefixtures("web")
@pytest.mark.parametrize("port", ["81", "53", "80/udp"])
def test_a_port_that_is_not_public_is_dockers_sentence(port: str) -> None:
    assert refused("port", "web", port) == f"Error: No public port '{port}' published for web\n"


@pytest.mark.usefixtures("web")
def test_ps_shows_ports_as_docker_does() -> None:
    ports = ok("ps", "--format={{.Names}} {{.Ports}}").splitlines()
    assert ports == [
        "many 0.0.0.0:9000-9002->9000-9002/tcp",
        "web 0.0.0.0:8080->80/tcp, 127.0.0.1:5353->53/udp",
    ]


@pytest.mark.usefixtures("web")
def test_veth_tells_both_ends_from_either() -> None:
    heading, row = ok("veth", "web").splitlines()
    assert re.split(r"  +", heading) == [
        *("CONTAINER", "INTERFACE", "HOST INTERFACE", "HOST INDEX", "PEER INDEX", "NETWORK")
    ]
    _, inside, outside, index, peer, network = row.split()
    assert (inside, network) == ("eth0", "net")
    assert run(f"ip -o link show {outside}").split(":")[0] == index
    assert run("ip -n web -o link show eth0").split(":")[0] == peer
    assert ok("veth", outside) == ok("veth", "web")
    assert len(ok("veth").splitlines()) == 3
    assert ok("veth", "--format={{.Container}}/{{.IPAddress}}", "web") == "web/10.1.0.2\n"
    assert json.loads(ok("veth", "--format=json", "web"))["HostInterface"] == outside


# -- check and gc


@pytest.mark.usefixtures("web")
def test_check_names_what_is_gone_and_ends_with_1() -> None:
    assert ok("check") == ok("check", "web") == ok("check", "net") == ""
    run("ip -n web addr flush dev eth0")
    said = netkit("check", "web")
    assert (said.code, said.err) == (1, "")
    assert "address 10.1.0.2/24 is missing on eth0" in said.out
    assert netkit("check").out == said.out
    assert ok("check", "many") == ""


def test_gc_removes_what_the_dead_left_and_names_it() -> None:
    before = snapshot()
    ok("connect", "--net=net", "--name=lost")
    assert ok("gc") == ""
    run("umount /run/netns/lost", "rm /run/netns/lost")
    assert until(lambda: "veth" not in run("ip link"))  # the kernel takes its time
    assert ok("gc") == "lost\n"
    assert ok("gc") == ""
    assert snapshot() == before
    assert not os.path.exists("/etc/netns/lost")
