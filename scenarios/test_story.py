"""The story that must work, line by line, by the program itself; and the founding notes' examples.

Each test is what a user would type, and what they would see.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netkit.kernel import sysctl
from scenarios.firewalls import each
from scenarios.lab import Host, netkit, program, run, snapshot, until

OURS, THEIRS = "10.9.0.1", "10.9.0.2"  # the host's address on the LAN, and its neighbour's


@pytest.fixture
def lan(host: Host) -> str:
    return host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")


class Terminal:
    """A user at a terminal, who types at a command and reads what it shows."""

    def __init__(self, fd: int, child: subprocess.Popen[bytes]) -> None:
        self._fd = fd
        self.child = child
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def sees(self, text: str, bound_s: float = 20.0) -> bool:
        end = time.monotonic() + bound_s
        while text not in self.shown and time.monotonic() < end:
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._fd, 4096).decode(errors="replace")
                except OSError:  # the last one with the other side has closed it
                    break
        return text in self.shown


@contextmanager
def terminal(line: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    command, env = program(line)
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=env, start_new_session=True
    ) as child:
        os.close(theirs)
        try:
            yield Terminal(ours, child)
        finally:
            child.terminate()
            os.close(ours)


@each
def test_the_story(host: Host, lan: str) -> None:
    before = snapshot()
    id = netkit("network create -d bridge --subnet 172.25.0.0/16 my-net").strip()
    assert re.fullmatch(r"[0-9a-f]{64}", id)

    # own net, mount and uts namespace, at a terminal; --rm leaves nothing of it
    with terminal("run --rm -it --name busybox1 --net my-net -- sh") as user:
        user.type("cd /proc/self/ns; echo $((6*7)); readlink net mnt uts\n")
        assert user.sees("42\r\nnet:[")
        assert user.sees("uts:[")
        for kind in ("net", "mnt", "uts"):
            assert os.readlink(f"/proc/self/ns/{kind}") not in user.shown
        assert "busybox1" in netkit("ps")
        assert "172.25.0.2/16" in run("ip netns exec busybox1 ip addr show eth0")
        user.type("exit 3\n")
        assert user.child.wait(20) == 3
    assert netkit("ps -aq") == ""

    web = netkit(
        "run -d --name web --net my-net --ip 172.25.3.3 -p 8080:80 -p 127.0.0.1::80/udp -h web1 "
        "--dns 114.114.114.114 --dns-search .example.com --add-host db:172.25.9.9 "
        # at an address /etc/hosts has: it asks for the name of it before it listens
        "-- python3 -m http.server -b 172.25.3.3 80"
    ).strip()
    assert re.fullmatch(r"[0-9a-f]{64}", web)
    assert until(lambda: ":80 " in run("ss -lnt", place="/run/netns/web"))
    page = "curl -s -m 5 -o /dev/null -w '%{http_code}' http://"
    assert run(f"{page}{OURS}:8080", place=lan) == "200"
    assert run(f"{page}127.0.0.1:8080") == "200"
    files = netkit("exec web -- cat /etc/resolv.conf /etc/hostname /etc/hosts")
    assert files.startswith("nameserver 114.114.114.114\nsearch example.com\n")
    assert "\nweb1\n127.0.0.1\tlocalhost\n172.25.9.9\tdb\n172.25.3.3\tweb1\n" in files
    log = netkit("logs web")
    assert f"{THEIRS} - - [" in log
    assert '"GET / HTTP/1.1" 200' in log

    assert netkit("port web 80") == "0.0.0.0:8080\n"
    address, _, port = netkit("port web 80/udp").strip().partition(":")
    with host.serve("/run/netns/web", "udp", 80):
        assert host.ask(None, address, int(port), "udp") == "172.25.0.1"
    assert address == "127.0.0.1"
    said = netkit("port web 81", code=1)
    assert said == "Error: No public port '81' published for web\n"

    netkit("network create other-net")
    netkit("connect --net other-net web")
    assert "eth1" in netkit("exec web -- ip -o addr show eth1")
    with subprocess.Popen(["unshare", "--net", "sleep", "60"]) as sleeper:
        own = os.readlink("/proc/self/ns/net")
        assert until(lambda: os.readlink(f"/proc/{sleeper.pid}/ns/net") != own)
        netkit(f"connect --net my-net pid:{sleeper.pid}")
        there = f"/proc/{sleeper.pid}/ns/net"
        assert "172.25.0.2/16" in run("ip addr show eth0", place=there)
        netkit(f"disconnect --net my-net netns:{there}")
        sleeper.kill()
    run("ip netns add known")
    netkit("connect --net my-net known")
    netkit("disconnect --net my-net known")
    run("ip netns del known")

    # no target: a new namespace, and its name is what is printed
    said = run(
        f"C=$({shlex.join(program('connect --net my-net')[0])})",
        "ip netns exec $C ping -c1 -W3 -q 172.25.3.3",
        "echo $C",
    )
    assert "1 received" in said
    name = said.splitlines()[-1]

    addresses = netkit("exec web -- ip addr")
    assert "172.25.3.3/16" in addresses
    assert "inet 172.17.0.2/16" in addresses
    rows = netkit("veth web").splitlines()
    headings = "CONTAINER,INTERFACE,HOST INTERFACE,HOST INDEX,PEER INDEX,NETWORK"
    assert re.split(r"  +", rows[0]) == headings.split(",")
    assert [row.split()[1] for row in rows[1:]] == ["eth0", "eth1"]
    (shown,) = json.loads(netkit("inspect web"))
    assert shown["Name"] == "/web"
    assert shown["State"]["Running"] is True
    assert list(shown["NetworkSettings"]["Networks"]) == ["my-net", "other-net"]
    where = {"HostIp": "0.0.0.0", "HostPort": "8080"}
    assert shown["NetworkSettings"]["Ports"]["80/tcp"] == [where]
    rows = netkit("ps").splitlines()
    headings = "CONTAINER ID,COMMAND,CREATED,STATUS,PORTS,NAMES"
    assert re.split(r"  +", rows[0]) == headings.split(",")
    (row,) = [row for row in rows if row.endswith(" web")]
    assert row.startswith(f'{web[:12]}   "python3 -m http.ser…"   ')
    assert "   0.0.0.0:8080->80/tcp, 127.0.0.1:" in row
    networks = netkit("network ls").splitlines()
    assert [row.split()[1] for row in networks[1:]] == ["my-net", "other-net", "host", "none"]

    netkit("disconnect --net my-net web")
    assert run(f"{page}{OURS}:8080 || true", place=lan) == "000"
    assert netkit("rm -f web") == "web\n"
    said = netkit("network rm my-net", code=1)
    assert said.startswith(f"Error: network my-net has active endpoints: {name}\n")
    netkit(f"disconnect --net my-net {name}")
    assert netkit("network rm my-net") == "my-net\n"
    assert netkit("network prune -f") == "Deleted Networks:\nother-net\n"
    assert snapshot() == before


def test_two_containers_ping_each_other(host: Host) -> None:
    """3:2849-2899, by address: names of siblings come with netkitd."""
    netkit("network create -d bridge my-net")
    for name in ("busybox1", "busybox2"):
        netkit(f"run -d --name {name} --network my-net -- sleep 60")
    for here, there in (("busybox1", "busybox2"), ("busybox2", "busybox1")):
        ip = netkit(f"inspect --format '{{{{ .NetworkSettings.IPAddress }}}}' {there}").strip()
        said = netkit(f"exec {here} -- ping -c2 -i0.2 -W3 {ip}")
        assert said.startswith(f"PING {ip} ")
        assert f"64 bytes from {ip}: icmp_seq=2 ttl=64 " in said
        assert "2 received, 0% packet loss" in said
    netkit("rm -f busybox1 busybox2")


def test_mount_shows_the_three_files(host: Host) -> None:
    """3:2907-2914"""
    mounted = netkit("run --rm -- mount").splitlines()
    for name in ("hostname", "hosts", "resolv.conf"):
        assert len([line for line in mounted if f" on /etc/{name} type " in line]) == 1


def test_resolv_conf_holds_the_servers_given(host: Host) -> None:
    """3:2932-2934: a relative path, as the notes have it"""
    servers = "--dns 114.114.114.114 --dns 8.8.8.8"
    said = netkit(f"run --rm -w / {servers} -- cat etc/resolv.conf").splitlines()
    assert said[:2] == ["nameserver 114.114.114.114", "nameserver 8.8.8.8"]


def test_itd_with_a_static_address(host: Host) -> None:
    """3:5993-5994: a shell with a terminal of its own waits in the background."""
    netkit("network create -d bridge --subnet 172.25.0.0/16 my-net")
    netkit("run --network=my-net --ip=172.25.3.3 -itd --name=my-container -- sh")
    template = "'{{ .NetworkSettings.IPAddress }}'"
    assert netkit(f"inspect --format {template} my-container") == "172.25.3.3\n"
    assert netkit("ps --format '{{.Names}} {{.State}}'") == "my-container running\n"
    assert "172.25.3.3/16" in netkit("exec my-container -- ip addr show eth0")
    said = netkit("run --network my-net --ip 172.25.3.3 --name thief -- true", code=125)
    assert "172.25.3.3" in said
    netkit("rm -f my-container")


def test_inspect_format_gives_pid_and_address_and_ip_netns_knows_the_container(host: Host) -> None:
    """3:5151-5178 and 3:6108-6133, without the symbolic link the notes need for it"""
    netkit("run -d --net none --name c -- sleep 60")
    pid = netkit("inspect -f '{{.State.Pid}}' c").strip()
    assert os.readlink(f"/proc/{pid}/exe").endswith("sleep")
    assert "c" in run("ip netns show").split()
    here, there = os.stat("/run/netns/c"), os.stat(f"/proc/{pid}/ns/net")
    assert (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    # the notes' own way to a network, line by line
    run(
        "ip link add bridge0 type bridge",
        "ip addr add 172.17.42.1/16 dev bridge0",
        "ip link set bridge0 up",
        "ip link add A type veth peer name B",
        "ip link set A master bridge0",
        "ip link set A up",
        "ip link set B netns c",
        "ip netns exec c ip link set dev B name eth0",
        "ip netns exec c ip link set eth0 up",
        "ip netns exec c ip addr add 172.17.42.99/16 dev eth0",
        "ip netns exec c ip route add default via 172.17.42.1",
    )
    assert until(lambda: host.ping("/run/netns/c", "172.17.42.1", patience_s=1))
    run("ip netns exec c ip addr add 172.17.0.100/16 dev eth0")
    assert "172.17.0.100/16" in netkit("exec c -- ip addr show eth0")
    netkit("rm -f c")
    assert "c" not in run("ip netns show").split()


def test_p_publishes_at_a_random_port_that_ps_and_port_tell(host: Host, lan: str) -> None:
    """3:2765-2781 and 3:2819-2823, with the name's container by the beginning of its id"""
    id = netkit("run -d -P --expose 80 -- python3 -m http.server -b 172.17.0.2 80").strip()
    low, high = (sysctl.read("net/ipv4/ip_local_port_range") or "").split()
    address, _, port = netkit(f"port {id[:2]} 80").strip().partition(":")
    assert address == "0.0.0.0"
    assert int(low) <= int(port) <= int(high)
    row = netkit("ps -l").splitlines()[1]
    assert row.startswith(id[:12])
    assert f"0.0.0.0:{port}->80/tcp" in row
    assert re.search(r" [a-z]+_[a-z]+\d?$", row)
    assert until(lambda: ":80 " in run("ss -lnt", place=_place(id)))
    run(f"curl -s -m 5 -o /dev/null http://{OURS}:{port}", place=lan)
    assert f"{THEIRS} - - [" in netkit(f"logs {id[:2]}")
    netkit(f"rm -f {id[:2]}")


def _place(id: str) -> str:
    return netkit(f"inspect -f '{{{{.NetworkSettings.SandboxKey}}}}' {id}").strip()


def test_ports_of_two_containers(host: Host, lan: str) -> None:
    """3:2834-2838: -p twice; a host port is one container's"""
    netkit("run -d --name one -p 80:80 -p 443:443 -- sleep 60")
    assert netkit("port one") == "80/tcp -> 0.0.0.0:80\n443/tcp -> 0.0.0.0:443\n"
    said = netkit("run -d --name two -p 80:80 -- sleep 60", code=125)
    assert "Bind for 0.0.0.0:80 failed: port is already allocated" in said
    netkit("rm -f one")


def test_the_default_container_has_the_notes_addresses_and_routes(host: Host) -> None:
    """3:3128-3140: a default route through the bridge, which is the gateway"""
    addresses = netkit("run --rm -- ip -4 addr show eth0")
    assert re.search(r"inet 172\.17\.0\.2/16 .*scope global eth0", addresses)
    routes = netkit("run --rm -- ip route").splitlines()
    assert "default via 172.17.0.1 dev eth0 " in routes
    assert any(re.match(r"172\.17\.0\.0/16 dev eth0 .*src 172\.17\.0\.2", r) for r in routes)
    assert "172.17.0.1/16" in run("ip addr show netkit0")


@pytest.mark.parametrize(
    ("command", "code"),
    [("sh -c 'exit 7'", 7), ("sh -c 'kill -9 $$'", 137), ("/nowhere", 127), ("/etc/hosts", 126)],
)
def test_run_ends_as_its_command_does(host: Host, command: str, code: int) -> None:
    netkit(f"run --rm -- {command}", code=code)
    assert netkit("ps -aq") == ""


def test_run_passes_signals_on(host: Host) -> None:
    script = "trap 'echo caught; exit 9' TERM; echo up; while :; do sleep 0.05; done"
    command, env = program(f"run --rm --name c -- sh -c {shlex.quote(script)}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "caught\n"
        assert child.wait(20) == 9
    assert netkit("ps -aq") == ""


def test_python_is_not_needed_inside(host: Host) -> None:
    """What runs inside is the command, not netkit: its pid is that of the command."""
    netkit("run -d --name c -- sleep 60")
    pid = netkit("inspect -f '{{.State.Pid}}' c").strip()
    with open(f"/proc/{pid}/cmdline") as file:
        assert file.read().split("\0") == ["sleep", "60", ""]
    assert os.path.realpath(sys.executable) != os.readlink(f"/proc/{pid}/exe")
    netkit("rm -f c")
