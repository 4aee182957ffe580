"""The plugin dhcp, called as a runtime calls it, and real servers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cni import install, plugin
from cni.dhcp import handle
from cni.spec import VERSIONS
from netkit.dhcp import book
from netkit.dhcp.message import Option, Options
from netkit.kernel import daemons, netns
from scenarios.lab import Host, run, until
from tests import lan

ROOT = Path(__file__).parents[2]
OURS = (sys.executable, "-m", "cni.dhcp")
GO = "/usr/lib/cni/dhcp"

Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[str]:
    """Where the keeper listens, or will; it ends with the test."""
    path = f"{tmp_path}/dhcp.sock"
    yield path
    daemons.end(book.lock_of(path))


@pytest.fixture
def call(host: Host, socket_path: str) -> Call:
    """One call, in process: verb, container, and parts of the configuration."""
    lan.build()

    def call(
        verb: str,
        container: str = "c1",
        *,
        at: str | None = None,
        args: str = "",
        version: str = "1.1.0",
        conf: dict[str, Any] | None = None,
        **ipam: Any,
    ) -> tuple[int, Any]:
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns.named(container) if at is None else at,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        section = {"type": "dhcp", "daemonSocketPath": socket_path, **ipam}
        whole = {"cniVersion": version, "name": "net", "ipam": section, **(conf or {})}
        return handle(environ, json.dumps(whole))

    return call


def given(answer: tuple[int, Any]) -> Any:
    code, result = answer
    assert code == 0, result
    return result


def address(answer: tuple[int, Any]) -> str:
    (ip,) = given(answer)["ips"]
    text: str = ip["address"]
    return text


def failure(answer: tuple[int, Any]) -> tuple[int, str]:
    code, error = answer
    assert code == 1, error
    assert error["cniVersion"] == "1.1.0"
    return error["code"], error["msg"]


@contextmanager
def daemon(socket_path: str, *options: str, program: Sequence[str] = OURS) -> Iterator[int]:
    """A daemon in the foreground; its pid."""
    command = [*program, "daemon", "-socketpath", socket_path, *options]
    with subprocess.Popen(command, cwd=ROOT) as child:
        try:
            assert until(lambda: listens(socket_path) or child.poll() is not None)
            yield child.pid
        finally:
            child.terminate()
            if not until(lambda: child.poll() is not None):
                child.kill()  # a test that fails is enough
                raise AssertionError("the daemon does not end")


def listens(socket_path: str) -> bool:
    """Its file is there a moment before."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(socket_path) == 0


def pid_of(socket_path: str) -> int:
    """Of the keeper."""
    with open(book.lock_of(socket_path)) as lock:
        return int(lock.read().split()[0])


# -- with real servers


def test_a_lease_of_dnsmasq_is_the_result(call: Call, tmp_path: Path) -> None:
    lan.plug("c1")
    options = (
        *("--dhcp-option=option:router,10.9.0.1", "--dhcp-option=option:dns-server,10.9.0.3"),
        *("--domain=example.org", "--dhcp-option=option:domain-search,a.example.org,b.example.org"),
        "--dhcp-option=option:mtu,1400",
    )
    with lan.dnsmasq(tmp_path, *options) as said:
        result = given(call("ADD"))
        (ip,) = result["ips"]
        assert 100 <= int(ip["address"].removeprefix("10.9.0.").removesuffix("/24")) < 120
        assert result == {
            "cniVersion": "1.1.0",
            "ips": [{"address": ip["address"], "gateway": "10.9.0.1"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.9.0.1", "mtu": 1400}],
            "dns": {
                "nameservers": ["10.9.0.3"],
                "domain": "example.org",
                "search": ["a.example.org", "b.example.org"],
            },
        }
        assert given(call("CHECK", conf={"prevResult": result})) is None
        assert given(call("DEL")) is None
        assert until(lambda: "DHCPRELEASE" in said())
        assert given(call("DEL")) is None
        assert said().count("DHCPRELEASE") == 1
        assert failure(call("CHECK")) == (101, "c1/net/eth0 has no lease")


def test_two_containers_have_two_addresses_and_a_second_add_gives_the_same(
    call: Call, tmp_path: Path
) -> None:
    lan.plug("c1")
    lan.plug("c2")
    with lan.dnsmasq(tmp_path, "--dhcp-option=option:router"):
        one, two = address(call("ADD")), address(call("ADD", "c2"))
        assert one != two
        assert address(call("ADD")) == one
        assert "routes" not in given(call("ADD", "c2")), "no router, no route"


def test_callers_at_once_share_one_keeper_and_get_an_address_each(
    call: Call, tmp_path: Path, socket_path: str
) -> None:
    names = [f"c{i}" for i in range(12)]
    for name in names:
        lan.plug(name)
    with lan.dnsmasq(tmp_path), ThreadPoolExecutor(len(names)) as pool:
        found = set(map(address, pool.map(lambda name: call("ADD", name), names)))
        assert len(found) == len(names)
        for answer in pool.map(lambda name: call("DEL", name), names):
            assert given(answer) is None
    assert book.is_empty(socket_path)


def test_a_lease_of_udhcpd_is_renewed(call: Call, tmp_path: Path, socket_path: str) -> None:
    """In real time, by a keeper of its own process: a lease of 2 s is renewed after one."""
    lan.plug("c1")
    with lan.udhcpd(tmp_path, lease_s=2) as said:
        text = address(call("ADD"))
        run(f"ip -n c1 addr add {text} dev eth0")  # the main plugin's part
        assert until(lambda: said().count("sending ACK") >= 2), said()
        assert lan.addresses("c1") == [text]
        given(call("CHECK"))
        given(call("DEL"))


def test_a_killed_keeper_is_replaced_by_one_that_knows_the_leases(
    call: Call, tmp_path: Path, socket_path: str
) -> None:
    lan.plug("c1")
    with lan.dnsmasq(tmp_path) as said:
        text = address(call("ADD"))
        for verb in ("CHECK", "STATUS", "DEL"):
            os.kill(pid_of(socket_path), signal.SIGKILL)
            assert until(lambda: not daemons.lives(book.lock_of(socket_path)))
            given(call(verb))
        assert until(lambda: f"DHCPRELEASE({lan.BRIDGE}) {text.partition('/')[0]}" in said())
    assert book.is_empty(socket_path)


def test_a_host_name_comes_from_the_configuration_or_from_cni_args(
    call: Call, tmp_path: Path
) -> None:
    lan.plug("c1")
    lan.plug("c2")
    provide = [{"option": "host-name", "value": "box", "fromArg": "K8S_POD_NAME"}]
    with lan.dnsmasq(tmp_path) as said:
        given(call("ADD", provide=provide, args="IgnoreUnknown=1;K8S_POD_NAMESPACE=a"))
        given(call("ADD", "c2", provide=provide, args="K8S_POD_NAME=web-0"))
        assert [line.split()[-1] for line in said().splitlines() if "client provides" in line] == [
            *(["box"] * 2),
            *(["web-0"] * 2),
        ]


def test_an_address_may_be_asked_for(call: Call, tmp_path: Path) -> None:
    lan.plug("c1")
    lan.plug("c2")
    with lan.dnsmasq(tmp_path) as said:
        assert address(call("ADD", args="IP=10.9.0.117")) == "10.9.0.117/24"
        wanted = {"runtimeConfig": {"ips": ["10.9.0.117/24"]}}
        code, why = failure(call("ADD", "c2", conf=wanted))
        assert code == 100
        assert why.startswith("DHCP server 10.9.0.1 gives 10.9.0.1")
        assert why.endswith(", not 10.9.0.117")
        assert until(lambda: said().count("DHCPRELEASE") == 1), "what is not wanted is given back"


def test_gc_gives_back_what_is_of_no_valid_attachment(call: Call, tmp_path: Path) -> None:
    for name in ("c1", "c2", "c3"):
        lan.plug(name)
    with lan.dnsmasq(tmp_path) as said:
        texts = [address(call("ADD", name)) for name in ("c1", "c2", "c3")]
        netns.delete("c3")
        valid = [{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c9", "ifname": "eth0"}]
        given(call("GC", conf={"cni.dev/valid-attachments": valid}))
        assert address(call("ADD", "c1")) == texts[0]
        assert until(lambda: f"DHCPRELEASE({lan.BRIDGE}) {texts[1][:-3]}" in said())
        for name in ("c2", "c3"):
            assert failure(call("CHECK", name))[0] == 101
    assert failure(call("GC"))[0] == 7, "no list is no licence to release all"


# -- without a lease


def test_a_lease_that_was_never_got_is_deleted_without_a_keeper(
    call: Call, socket_path: str
) -> None:
    given(call("DEL"))
    given(call("DEL", at=""))
    given(call("GC", conf={"cni.dev/valid-attachments": []}))
    assert not os.path.exists(book.lock_of(socket_path))


def test_the_namespace_may_be_gone_when_it_is_deleted(
    call: Call, tmp_path: Path, socket_path: str
) -> None:
    lan.plug("c1")
    with lan.dnsmasq(tmp_path):
        given(call("ADD"))
        netns.delete("c1")
        given(call("DEL", at=""))
        assert book.is_empty(socket_path)


def test_no_server_is_told_as_try_again_later(call: Call, socket_path: str) -> None:
    lan.plug("c1")
    with daemon(socket_path, "-resendtimeout", "500ms"):
        code, why = failure(call("ADD"))
    assert (code, why) == (11, "no lease for c1/net/eth0 within 0.5 s: no server answers")


@pytest.mark.parametrize(
    ("change", "code", "why"),
    [
        ({"at": "/proc/self/ns/net"}, 8, "is the host's own network namespace"),
        ({"at": "/run/netns/c9"}, 8, "no network namespace at"),
        ({"at": "/dev/null"}, 8, "is not a network namespace"),
        ({"container": "c2"}, 4, "no interface 'eth0' in network namespace '/run/netns/c2'"),
        ({"provide": [{"option": "colour", "value": "x"}]}, 7, "'colour' is no option of DHCP's"),
        ({"provide": [{"option": "256", "value": "x"}]}, 7, "'256' is no option of DHCP's"),
        ({"provide": [{"option": "53", "value": "x"}]}, 7, "option 53 is the client's own to say"),
        (
            {"provide": [{"option": "12", "value": "x" * 256}]},
            7,
            "256 bytes, 255 are the most",
        ),
        ({"provide": [{"value": "x"}]}, 7, "ipam.provide[0]"),
        ({"request": [{"option": "-1"}]}, 7, "ipam.request[0]: '-1' is no option"),
        ({"request": "routers"}, 7, "ipam.request"),
        ({"daemonSocketPath": "dhcp.sock"}, 7, "is no absolute path"),
        ({"args": "IP=fd00::1"}, 7, "gives an interface one IPv4 address"),
        ({"conf": {"args": {"cni": {"ips": ["10.9.0.5", "10.9.0.6"]}}}}, 7, "one IPv4 address"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    call: Call, change: dict[str, Any], code: int, why: str
) -> None:
    lan.plug("c1")
    netns.create("c2")
    found = failure(call("ADD", **change))
    assert found[0] == code
    assert why in found[1] + call("ADD", **change)[1]["details"]


def test_status_says_50_where_no_keeper_can_be_started(call: Call, tmp_path: Path) -> None:
    given(call("STATUS"))
    (tmp_path / "file").touch()
    assert failure(call("STATUS", daemonSocketPath=f"{tmp_path}/file/dhcp.sock"))[0] == 50
    with listening(f"{tmp_path}/other.sock", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        code, why = failure(call("STATUS", daemonSocketPath=f"{tmp_path}/other.sock"))
    assert (code, why) == (
        50,
        f"no leases can be kept: what listens at {tmp_path}/other.sock is not netkit's",
    )
    assert failure(call("STATUS", request=[{"option": "?"}]))[0] == 7


@contextmanager
def listening(path: str, answer: bytes) -> Iterator[None]:
    """Another program's socket."""

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    client.recv(4096)
                    client.sendall(answer)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_another_programs_leases_are_its_own(call: Call, tmp_path: Path) -> None:
    lan.plug("c1")
    path = f"{tmp_path}/other.sock"
    with listening(path, b""):
        given(call("DEL", daemonSocketPath=path))
    with listening(path + "2", b"what?\n"):
        given(call("DEL", daemonSocketPath=path + "2"))
        assert failure(call("ADD", daemonSocketPath=path + "2"))[0] == 100


# -- on the wire


def test_options_are_asked_for_by_name_or_number(call: Call) -> None:
    """The defaults come last, unless they are skipped; nothing twice."""
    asks: tuple[tuple[list[dict[str, Any]], list[int]], ...] = (
        ([], [3, 1, 6, 15, 119, 26]),
        ([{"option": "121"}, {"option": 3}], [121, 3, 1, 6, 15, 119, 26]),
        ([{"option": "routers"}, {"skipDefault": True}], [3]),
        ([{"skipDefault": True, "option": "121"}, {"option": "subnet-mask"}], [121, 1]),
    )
    with lan.Server() as server:
        for i, (request, wire) in enumerate(asks):
            lan.plug(f"c{i}")
            given(call("ADD", f"c{i}", request=request))
            assert list(server.heard[-1].options[Option.REQUESTED]) == wire


def test_routes_are_as_the_server_says_and_have_the_priority(call: Call) -> None:
    lan.plug("c1")
    static = bytes.fromhex("0ac800000a090002")
    classless = bytes.fromhex("18c0a80500000000000a090009")
    with lan.Server(
        options={Option.ROUTERS: lan.SERVER.packed, Option.STATIC_ROUTES: static}
    ) as it:
        result = given(call("ADD", priority=50, version="1.1.0"))
        assert result["routes"] == [
            {"dst": "10.0.0.0/8", "gw": "10.9.0.2", "priority": 50},
            {"dst": "0.0.0.0/0", "gw": "10.9.0.1", "priority": 50},
        ]
        given(call("DEL"))
        it.options[Option.CLASSLESS_ROUTES] = classless
        result = given(call("ADD", request=[{"option": "121"}]))
        assert result["routes"] == [
            {"dst": "192.168.5.0/24", "gw": "0.0.0.0", "scope": 253},
            {"dst": "0.0.0.0/0", "gw": "10.9.0.9"},
        ]
        assert result["ips"][0]["gateway"] == "10.9.0.1"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_has_its_own_result(call: Call, version: str) -> None:
    lan.plug("c1")
    with lan.Server(options={Option.ROUTERS: lan.SERVER.packed}):
        result = given(call("ADD", version=version))
    route = {"dst": "0.0.0.0/0", "gw": "10.9.0.1"}
    if version < "0.3.0":
        assert result["ip4"] == {"ip": "10.9.0.50/24", "gateway": "10.9.0.1", "routes": [route]}
    else:
        old = {"version": "4"} if version < "1.0.0" else {}
        assert result["ips"] == [{**old, "address": "10.9.0.50/24", "gateway": "10.9.0.1"}]
        assert result["routes"] == [route]
    assert given(call("VERSION", version=version))["supportedVersions"] == list(VERSIONS)


# -- the executable


def test_it_is_a_program(call: Call, tmp_path: Path, socket_path: str) -> None:
    lan.plug("c1")
    environ = {
        **os.environ,
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns.named("c1"),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    ipam = {"type": "dhcp", "daemonSocketPath": socket_path}
    conf = {"cniVersion": "1.0.0", "name": "net", "ipam": ipam}
    with lan.dnsmasq(tmp_path):
        done = subprocess.run(
            OURS, input=json.dumps(conf).encode(), capture_output=True, env=environ, cwd=ROOT
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["ips"] == given(call("ADD"))["ips"]


def test_the_daemon_has_a_pid_file_and_tidies_up(
    call: Call, tmp_path: Path, socket_path: str
) -> None:
    lan.plug("c1")
    pid_file = tmp_path / "pid"
    with daemon(socket_path, f"-pidfile={pid_file}", "-broadcast") as pid, lan.Server() as server:
        assert until(lambda: pid_file.exists() and pid_file.read_text() == str(pid))
        given(call("ADD"))
        assert server.heard[0].broadcast
        second = subprocess.run(
            [*OURS, "daemon", "-socketpath", socket_path], capture_output=True, text=True, cwd=ROOT
        )
        assert second.returncode == 1
        assert "another keeper has locked" in second.stdout + second.stderr
    assert not pid_file.exists()
    assert not os.path.exists(socket_path)
    assert not book.is_empty(socket_path), "the lease is kept, for the next one"
    with lan.Server() as server:
        given(call("DEL"))
        assert until(lambda: server.kinds() == ["RELEASE"])


PASS = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_systemd_may_pass_the_socket(call: Call, tmp_path: Path, socket_path: str) -> None:
    lan.plug("c1")
    with socket.socket(socket.AF_UNIX) as passed, lan.Server():
        passed.bind(socket_path)
        passed.listen()
        number = str(passed.fileno())
        command = [*OURS, "daemon", "-socketpath", socket_path]
        child = subprocess.Popen(
            [sys.executable, "-c", PASS, number, *command], pass_fds=[passed.fileno()], cwd=ROOT
        )
        assert until(lambda: os.path.exists(book.lock_of(socket_path)))
        try:
            given(call("ADD"))
            assert pid_of(socket_path) == child.pid
        finally:
            child.terminate()
            child.wait(10)


# -- with other plugins


@pytest.fixture
def bin_dir(tmp_path: Path) -> str:
    path = f"{tmp_path}/bin"
    install.install(path)
    return path


def attach(kind: str, verb: str, bin_dir: str, socket_path: str, **conf: Any) -> tuple[int, Any]:
    """A main plugin of ours, called as a runtime calls it."""
    environ = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns.named("c1"),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": bin_dir,
        "CNI_ARGS": "",
    }
    ipam = {"type": "dhcp", "daemonSocketPath": socket_path, "request": [{"option": "121"}]}
    whole = {"cniVersion": "1.1.0", "name": "net", "type": kind, "ipam": ipam, **conf}
    code, printed = plugin.handle(kind, environ, json.dumps(whole).encode())
    return code, json.loads(printed) if printed else None


@pytest.mark.parametrize(
    ("kind", "conf"), [("bridge", {"bridge": lan.BRIDGE}), ("macvlan", {"master": "lanh"})]
)
def test_a_main_plugin_sets_what_the_server_gives(
    call: Call, tmp_path: Path, bin_dir: str, socket_path: str, kind: str, conf: dict[str, Any]
) -> None:
    netns.create("c1")
    run("ip link add lanh type veth peer name lanp", f"ip link set lanp master {lan.BRIDGE} up")
    run("ip link set lanh up")
    classless = bytes.fromhex("18c0a80500000000000a090001")
    with lan.Server(options={Option.CLASSLESS_ROUTES: classless}) as server:
        result = given(attach(kind, "ADD", bin_dir, socket_path, **conf))
        assert [ip["address"] for ip in result["ips"]] == ["10.9.0.50/24"]
        assert lan.addresses("c1") == ["10.9.0.50/24"]
        assert run("ip -n c1 route").splitlines() == [
            "default via 10.9.0.1 dev eth0 ",
            "10.9.0.0/24 dev eth0 proto kernel scope link src 10.9.0.50 ",
            "192.168.5.0/24 dev eth0 scope link ",
        ]
        given(attach(kind, "CHECK", bin_dir, socket_path, prevResult=result, **conf))
        given(attach(kind, "STATUS", bin_dir, socket_path, **conf))
        given(attach(kind, "DEL", bin_dir, socket_path, prevResult=result, **conf))
        assert until(lambda: "RELEASE" in server.kinds())
        assert book.is_empty(socket_path)
        assert not run("ip -n c1 -o link show eth0 2>/dev/null || true")


def test_the_installed_file_is_plugin_and_daemon(
    call: Call, tmp_path: Path, bin_dir: str, socket_path: str
) -> None:
    lan.plug("c1")
    program = f"{bin_dir}/dhcp"
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns.named("c1"),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": bin_dir,
        "NETKIT_DAEMON": "no",
    }
    ipam = {"type": "dhcp", "daemonSocketPath": socket_path}
    stdin = json.dumps({"cniVersion": "1.0.0", "name": "net", "ipam": ipam}).encode()
    with lan.Server() as server, daemon(socket_path, program=[program]) as pid:
        done = subprocess.run(program, input=stdin, capture_output=True, env=environ)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout)["ips"] == [{"address": "10.9.0.50/24"}]
        assert pid_of(socket_path) == pid
        environ["CNI_COMMAND"] = "DEL"
        subprocess.run(program, input=stdin, capture_output=True, env=environ, check=True)
        assert until(lambda: "RELEASE" in server.kinds())


# -- beside the reference


@pytest.mark.skipif(not os.access(GO, os.X_OK), reason="containernetworking-plugins is not there")
def test_it_says_on_the_wire_and_answers_what_the_reference_does(
    call: Call, tmp_path: Path, socket_path: str
) -> None:
    """The same configuration; so a node that changes over keeps its addresses."""
    lan.plug("c1")
    theirs = f"{tmp_path}/go.sock"
    ipam = {
        "type": "dhcp",
        "request": [{"option": "121"}, {"option": "routers"}],
        "provide": [{"option": "host-name", "fromArg": "NAME"}, {"option": "60", "value": "v"}],
    }
    conf = {"cniVersion": "1.0.0", "name": "net", "type": "macvlan"}
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": netns.named("c1"),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/usr/lib/cni",
        "CNI_ARGS": "NAME=web",
    }
    classless = bytes.fromhex("18c0a80500000000000a090009")
    options: Options = {Option.ROUTERS: lan.SERVER.packed, Option.CLASSLESS_ROUTES: classless}
    with lan.Server(options=options) as server, daemon(theirs, program=[GO]):
        said, asked = {}, {}
        for name, path in (("theirs", theirs), ("ours", socket_path)):
            whole = {**conf, "ipam": {**ipam, "daemonSocketPath": path}}
            server.heard.clear()
            if name == "theirs":
                stdin = json.dumps(whole).encode()
                done = subprocess.run(GO, input=stdin, capture_output=True, env=environ)
                assert done.returncode == 0, done.stdout
                result = json.loads(done.stdout)
            else:
                status, result = handle(environ, json.dumps(whole))
                assert status == 0, result
            wire = [(m.kind, *map(m.options.get, (12, 60, 61))) for m in server.heard]
            said[name] = result, wire
            asked[name] = {*server.heard[0].options[Option.REQUESTED]}
        assert said["ours"] == said["theirs"]
        assert asked["ours"] >= asked["theirs"] == {121, 3, 1}
        assert failure(call("ADD", daemonSocketPath=theirs))[0] == 100
