"""The installed plugins, executed as a runtime does: with a daemon, without, with one that dies."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni import install, plugin, shim
from netkit import wire
from netkit.background import STARTING
from netkit.kernel import netns, process
from scenarios.lab import Host, run, until
from tests.test_daemon import netkitd

_BOUND_S = 20.0
# "yes": the tests' sandbox is not what a plugin takes for the host
DAEMON = {"NETKIT_DAEMON": "yes"}


class Plugins:
    """Installed in a directory of the test's own."""

    def __init__(self, host: Host) -> None:
        self.bin_dir = f"{host.base}/bin"
        self.leases = f"{host.base}/leases"
        install.install(self.bin_dir)

    def start(
        self, kind: str, verb: str | None, container: str = "c1", **environ: str
    ) -> subprocess.Popen[bytes]:
        command = {} if verb is None else {"CNI_COMMAND": verb}
        call = {
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": self.bin_dir,
        }
        return subprocess.Popen(
            [f"{self.bin_dir}/{kind}"],
            env={**os.environ, **command, **call, **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(
        self,
        kind: str,
        verb: str | None,
        container: str = "c1",
        conf: object = None,
        **environ: str,
    ) -> tuple[int, Any]:
        """Exit code, and what is printed: JSON or nothing."""
        stdin = json.dumps(conf or self.host_local()).encode()
        with self.start(kind, verb, container, **environ) as child:
            out, error = child.communicate(stdin, timeout=_BOUND_S)
        assert not error, error.decode()
        return child.returncode, json.loads(out) if out else None

    def host_local(self) -> dict[str, Any]:
        ipam = {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": self.leases}
        return {"cniVersion": "1.1.0", "name": "web", "ipam": ipam}

    def status(self) -> bytes:
        """What STATUS of host-local is asked with: a call that changes nothing."""
        return json.dumps(self.host_local()).encode()

    def patched(self, **constants: float) -> None:
        """Have host-local run a shim with other bounds."""
        text = Path(shim.__file__).read_text()
        for name, value in constants.items():
            text, found = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
            assert found == 1
        Path(self.bin_dir, "shim.py").write_text(text)
        plugin = Path(self.bin_dir, "host-local")
        plugin.write_text(plugin.read_text().replace(shim.__file__, f"{self.bin_dir}/shim.py"))


@pytest.fixture
def plugins(host: Host) -> Plugins:
    return Plugins(host)


def run_dir() -> str:
    return os.environ["NETKIT_RUN_DIR"]


def background() -> int | None:
    """The process of the daemon that a plugin has started, once it is ready."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path(run_dir(), "netkitd.lock").read_text().split()[0])
    return None


@pytest.fixture
def ended() -> Iterator[None]:
    """What a plugin starts in the background is ended after the test."""
    yield
    pid, started, *_ = Path(run_dir(), "netkitd.lock").read_text().split()
    assert process.kill(int(pid), int(started), signal.SIGTERM, _BOUND_S)


# -- the same with a daemon and without


def test_the_same_comes_of_a_call_with_a_daemon_and_without(plugins: Plugins) -> None:
    calls: list[tuple[str, str, object]] = [
        ("host-local", "STATUS", None),
        ("host-local", "ADD", None),
        ("host-local", "ADD", None),
        ("host-local", "CHECK", None),
        ("host-local", "DEL", None),
        ("host-local", "DEL", None),
        ("host-local", "NONSENSE", None),
        ("host-local", "ADD", {"cniVersion": "1.1.0"}),
        ("bridge", "ADD", {"cniVersion": "1.1.0", "name": "web", "type": "bridge"}),
    ]
    without = [plugins.call(kind, verb, conf=conf) for kind, verb, conf in calls]
    plugins.leases += "-2"
    with netkitd() as child:
        served = [plugins.call(kind, verb, conf=conf, **DAEMON) for kind, verb, conf in calls]
        child.terminate()
        _, log = child.communicate(timeout=_BOUND_S)
    assert served == without
    assert [code for code, _ in served] == [0, 0, 1, 0, 0, 0, 1, 1, 1]
    assert log.count(": exit code") == len(calls)


def test_switched_off_the_daemon_is_not_asked(plugins: Plugins) -> None:
    with netkitd() as child:
        assert plugins.call("host-local", "ADD", NETKIT_DAEMON="no")[0] == 0
        child.terminate()
        assert "pid" not in child.communicate(timeout=_BOUND_S)[1]


@pytest.mark.parametrize("flag", ["--net", "--mount"])
def test_a_caller_on_another_host_is_served_where_it_is(plugins: Plugins, flag: str) -> None:
    """Such as rootless podman, which has a network and mounts of its own."""
    with netkitd() as child:
        inner = f"{plugins.bin_dir}/host-local"
        plugin = Path(plugins.bin_dir, "elsewhere")
        plugin.write_text(f'#!/bin/sh\nexec unshare {flag} {inner} "$@"\n')
        plugin.chmod(0o755)
        code, result = plugins.call("elsewhere", "ADD", **DAEMON)
        assert code == 0, result
        child.terminate()
        _, log = child.communicate(timeout=_BOUND_S)
    assert "host-local ADD c1/eth0: not mine" in log


def test_concurrent_calls_are_all_served(plugins: Plugins) -> None:
    with netkitd():
        started = [plugins.start("host-local", "ADD", f"c{n}", **DAEMON) for n in range(16)]
        conf = json.dumps(plugins.host_local()).encode()
        for child in started:
            assert child.stdin is not None
            child.stdin.write(conf)
            child.stdin.close()
        answers = []
        for child in started:
            with child:
                assert child.stdout is not None
                answers.append(json.load(child.stdout))
        assert len({answer["ips"][0]["address"] for answer in answers}) == 16


# -- a daemon that fails


@contextlib.contextmanager
def impostor(reply: bytes | None) -> Iterator[list[bytes]]:
    """Somebody at netkitd's socket who answers *reply*, or nothing at all; what it was sent."""
    os.makedirs(run_dir(), mode=0o700, exist_ok=True)
    seen: list[bytes] = []
    closing: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{run_dir()}/netkitd.sock")
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    data = b""
                    while need := wire.missing(data):
                        data += client.recv(need)
                    seen.append(data)
                    if reply is None:
                        closing.append(client)
                        continue
                    client.sendall(reply)
                    client.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield seen
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(_BOUND_S)
            for client in closing:
                client.close()


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(wire.answer(0, b"{}")[:-1], id="half an answer"),
        pytest.param(b"\xff" * 10, id="nonsense"),
        pytest.param(wire.answer(0, b"{}") + b"more", id="too much"),
        pytest.param(wire.NOT_MINE, id="not mine"),
    ],
)
def test_without_an_answer_the_call_is_done_all_the_same(plugins: Plugins, reply: bytes) -> None:
    with impostor(reply) as seen:
        code, result = plugins.call("host-local", "ADD", **DAEMON)
        assert (code, result["ips"][0]["address"]) == (0, "10.1.0.2/24")
        assert len(seen) == 1
        assert background() is None  # somebody listens


def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(plugins: Plugins) -> None:
    plugins.patched(_CALL_S=0.3)
    with impostor(None):
        code, error = plugins.call("host-local", "ADD", **DAEMON)
    assert (code, error["code"]) == (1, 11)
    assert "netkitd" in error["msg"]
    assert not os.path.exists(plugins.leases)  # it may be at it yet


# netkitd, which kills itself when a call comes to a point, or is to be answered
_DEADLY = """
import os, signal, sys
from netkit import daemon, steps, wire
def point(name):
    if name == deadly:
        os.kill(os.getpid(), signal.SIGKILL)
deadly, steps.point = sys.argv[1], point
wire.answer = lambda code, text: point("answering")
daemon.main([])
"""


@pytest.fixture
def web(plugins: Plugins) -> Iterator[dict[str, Any]]:
    """The configuration of a bridge, and a container to connect to it."""
    netns.create("c1")
    ipam = plugins.host_local()["ipam"]
    yield {
        "cniVersion": "1.1.0",
        "name": "web",
        "type": "bridge",
        "bridge": "br9",
        "isGateway": True,
        "ipam": ipam,
    }
    netns.delete("c1")


def leased(plugins: Plugins) -> list[str]:
    return sorted(path.name for path in Path(plugins.leases, "web").glob("10.*"))


@pytest.mark.parametrize("deadly", ["intended", "added", "answering"])
def test_f19_an_add_whose_daemon_is_killed_has_the_result_it_would_have_had(
    plugins: Plugins, web: dict[str, Any], deadly: str
) -> None:
    """What had been begun is undone first; if all was done but not said, that is what is said."""
    with netkitd(program=(sys.executable, "-c", _DEADLY, deadly)) as child:
        code, result = plugins.call("bridge", "ADD", conf=web, **DAEMON)
        assert child.wait(_BOUND_S) == -signal.SIGKILL
    assert code == 0, result
    assert [ip["address"].removesuffix("/24") for ip in result["ips"]] == leased(plugins)
    assert plugins.call("bridge", "CHECK", conf=web | {"prevResult": result}) == (0, None)
    code, error = plugins.call("bridge", "ADD", conf=web)  # as ever
    assert (code, error["msg"]) == (1, "c1/eth0 on bridge web is attached already")


@pytest.mark.parametrize("deadly", ["undoing", "answering"])
def test_f19_so_has_a_del(plugins: Plugins, web: dict[str, Any], deadly: str) -> None:
    before = run("ip -br link")
    assert plugins.call("bridge", "ADD", conf=web)[0] == 0
    assert leased(plugins)
    with netkitd(program=(sys.executable, "-c", _DEADLY, deadly)) as child:
        assert plugins.call("bridge", "DEL", conf=web, **DAEMON) == (0, None)
        assert child.wait(_BOUND_S) == -signal.SIGKILL
    assert not leased(plugins)
    assert run("ip -br link") == before


# -- a daemon is started


def test_where_none_runs_a_plugin_starts_one_for_the_next(plugins: Plugins, ended: None) -> None:
    assert plugins.call("host-local", "ADD", "c1", **DAEMON)[0] == 0
    assert until(lambda: background() is not None)
    pid = background()
    assert plugins.call("host-local", "ADD", "c2", **DAEMON)[0] == 0
    assert background() == pid
    log = Path(run_dir(), "netkitd.log")
    assert until(lambda: "host-local ADD c2/eth0: exit code 0" in log.read_text())
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert Path(f"/proc/{pid}/comm").read_text() == "netkitd\n"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid or 0) == pid


def test_f25_it_inherits_nothing_of_the_runtimes(plugins: Plugins, ended: None) -> None:
    """A runtime may have a namespace open, and a pipe whose end somebody waits for."""
    netns.create("c9")
    fd = os.open("/run/netns/c9", os.O_RDONLY)
    receive, send = os.pipe()
    try:
        os.set_inheritable(fd, True)
        os.set_inheritable(send, True)
        env = {**os.environ, **DAEMON, "CNI_COMMAND": "STATUS", "SECRET": "1"}
        command = [f"{plugins.bin_dir}/host-local"]
        subprocess.run(
            command,
            env=env,
            input=plugins.status(),
            stdout=subprocess.PIPE,
            close_fds=False,
            timeout=_BOUND_S,
        )
        assert until(lambda: background() is not None)
        own = {
            "/dev/null", "socket", "anon_inode:[eventpoll", f"{run_dir()}/netkitd.lock",
            f"{run_dir()}/netkitd.log",
            # by which its threads look out, and wake each other
            "anon_inode:inotify", "anon_inode:[eventfd", "pipe",
            f"/proc/{background()}/mountinfo",
        }  # fmt: skip

        def holds_its_own_only() -> bool:
            links = _open(background())
            assert os.readlink(f"/proc/self/fd/{send}") not in links
            return {re.sub(r"[\d\[\]:]+$", "", link) for link in links} <= own

        # what it opens as it begins, such as its state, it closes; what was inherited would stay
        assert until(holds_its_own_only), _open(background())
        assert b"SECRET" not in Path(f"/proc/{background()}/environ").read_bytes()
    finally:
        for each in (fd, receive, send):
            os.close(each)
        netns.delete("c9")


def test_f20_of_many_plugins_at_once_one_starts_one(plugins: Plugins, ended: None) -> None:
    started = [plugins.start("host-local", "STATUS", **DAEMON) for _ in range(6)]
    for child in started:
        child.communicate(plugins.status(), timeout=_BOUND_S)
        assert child.returncode == 0
    assert until(lambda: background() is not None)
    marked = [
        pid
        for pid in filter(str.isdigit, os.listdir("/proc"))
        if f"NETKIT_RUN_DIR={run_dir()}" in _environ(pid) and "daemon.background" in _command(pid)
    ]
    assert marked == [str(background())]


def _open(pid: int | None) -> set[str]:
    """What a process has open; some of it may be closed meanwhile."""
    links = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.add(os.readlink(each))
    return links


def _environ(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    return ""


def _command(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    return ""


@pytest.mark.parametrize("environ", [{}, {"NETKIT_DAEMON": ""}])
def test_none_is_started_where_it_would_keep_a_network_that_is_not_the_hosts(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> None:
    """Such as this sandbox, or rootless podman's."""
    monkeypatch.delenv("NETKIT_DAEMON")
    assert plugins.call("host-local", "ADD", **environ)[0] == 0
    assert not os.path.exists(f"{run_dir()}/netkitd.lock")


def test_none_is_started_where_the_configuration_says_so(plugins: Plugins, tmp_path: Path) -> None:
    path = tmp_path / "netkit.toml"
    path.write_text("daemon = false\n")
    path.chmod(0o644)
    assert plugins.call("host-local", "ADD", NETKIT_CONFIG=str(path), **DAEMON)[0] == 0
    assert not os.path.exists(f"{run_dir()}/netkitd.lock")


def test_one_that_came_to_grief_is_not_started_again_by_every_call(plugins: Plugins) -> None:
    os.makedirs(run_dir(), mode=0o700)
    lock = Path(run_dir(), "netkitd.lock")
    lock.write_bytes(STARTING)
    assert plugins.call("host-local", "ADD", **DAEMON)[0] == 0
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody has it
    assert lock.read_bytes() == STARTING


def test_one_in_the_background_makes_way_for_one_that_is_meant(plugins: Plugins) -> None:
    assert plugins.call("host-local", "ADD", **DAEMON)[0] == 0
    assert until(lambda: background() is not None)
    pid, started, _ = Path(run_dir(), "netkitd.lock").read_text().split()
    here = lambda: Path(run_dir(), "netkitd.lock").read_text().endswith("foreground\n")  # noqa: E731
    with netkitd(ready=here):
        assert not process.alive(int(pid), int(started))
        assert plugins.call("host-local", "ADD", "c2", **DAEMON)[0] == 0


# -- input and output


def test_it_reads_no_input_where_there_is_no_command(plugins: Plugins) -> None:
    """Somebody tries at a terminal what it does."""
    with plugins.start("bridge", None) as child:
        assert child.stdout is not None
        error = json.load(child.stdout)
        assert child.wait(_BOUND_S) == 1
        assert (error["code"], error["msg"]) == (4, "CNI_COMMAND is not set")


def test_input_without_end_is_refused_at_once(plugins: Plugins) -> None:
    with plugins.start("host-local", "ADD") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            for _ in itertools.repeat(None):
                child.stdin.write(b" " * 65536)
        error = json.load(child.stdout)
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        assert child.wait(_BOUND_S) == 1
    assert (error["code"], error["msg"]) == (6, f"the configuration is longer than {1 << 20} bytes")


def test_too_much_input_is_a_coded_error(plugins: Plugins) -> None:
    with plugins.start("host-local", "ADD") as child:
        out, _ = child.communicate(b"{" + b" " * wire.MAX_STDIN, timeout=_BOUND_S)
    error = json.loads(out)
    assert (child.returncode, error["code"]) == (1, 6)
    assert str(wire.MAX_STDIN) in error["msg"]


def test_the_largest_input_there_may_be_arrives(plugins: Plugins) -> None:
    conf = json.dumps(plugins.host_local()).encode()
    conf += b" " * (wire.MAX_STDIN - len(conf))
    with netkitd(), plugins.start("host-local", "ADD", **DAEMON) as child:
        out, _ = child.communicate(conf, timeout=_BOUND_S)
    assert child.returncode == 0, out


def test_f27_input_that_does_not_end_is_not_waited_for_for_ever(plugins: Plugins) -> None:
    plugins.patched(_INPUT_S=1)
    with plugins.start("host-local", "ADD") as child:
        assert child.stdin is not None
        child.stdin.write(b"{")
        child.stdin.flush()
        assert child.stdout is not None
        error = json.load(child.stdout)
        assert child.wait(_BOUND_S) == 1
    assert (error["code"], error["msg"]) == (5, "standard input does not end within 1 s")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("served", [True, False])
def test_f27_closed_standard_streams_are_no_trouble(
    plugins: Plugins, closed: tuple[int, ...], served: bool
) -> None:
    script = f'exec {" ".join(f"{fd}>&-" for fd in closed)}; "$0"; echo $? > "$1"'
    code = Path(plugins.bin_dir, "code")
    env = {**os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
    env |= {"CNI_NETNS": "/run/netns/c1", "CNI_PATH": plugins.bin_dir, **(DAEMON if served else {})}
    command = ["sh", "-c", script, f"{plugins.bin_dir}/host-local", str(code)]
    with netkitd() if served else contextlib.nullcontext():
        done = subprocess.run(
            command,
            env=env,
            input=json.dumps(plugins.host_local()).encode(),
            capture_output=True,
            timeout=_BOUND_S,
        )
    assert done.stderr == b""
    assert code.read_text() == ("1\n" if 0 in closed else "0\n")
    if 1 not in closed:
        assert ("code" in json.loads(done.stdout)) == (0 in closed)
    files = [each.name for each in Path(plugins.leases).rglob("10.*")]
    assert files == ([] if 0 in closed else ["10.1.0.2"])


def test_f27_few_descriptors_are_a_coded_error_at_worst(plugins: Plugins) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (6, 6))

    with subprocess.Popen(
        [f"{plugins.bin_dir}/host-local"],
        env={**os.environ, "CNI_COMMAND": "STATUS", **DAEMON},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=limit,
    ) as child:
        out, error = child.communicate(b"{}", timeout=_BOUND_S)
    assert error == b""
    assert "cniVersion" in json.loads(out)


def test_an_answer_nobody_reads_is_a_failure(plugins: Plugins) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [f"{plugins.bin_dir}/host-local"],
            env={**os.environ, "CNI_COMMAND": "STATUS"},
            input=b"{}",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=_BOUND_S,
        )
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_installation_with_a_hole_is_a_coded_error(plugins: Plugins) -> None:
    plugin = Path(plugins.bin_dir, "host-local")
    text = plugin.read_text()
    for hole in (shim.__file__, f"['{Path(shim.__file__).parents[1]}'"):
        assert hole in text
        plugin.write_text(text.replace(hole, hole.replace("/", "/nowhere/", 1)))
        status, error = plugins.call("host-local", "STATUS")
        assert (status, error["code"]) == (1, 999)


# -- how little it takes


def test_with_a_daemon_a_plugin_imports_nothing_but_sockets(plugins: Plugins) -> None:
    """Each module would be a part of a millisecond, in every call of every plugin."""
    plugin = f"{plugins.bin_dir}/host-local"
    env = {**os.environ, "CNI_COMMAND": "STATUS", **DAEMON}

    def modules(*command: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-IS", "-X", "importtime", *command],
            env=env,
            input=plugins.status(),
            capture_output=True,
            timeout=_BOUND_S,
        )
        lines = done.stderr.decode().splitlines()
        return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time")}

    with netkitd():
        assert modules(plugin) - modules("-c", "pass") <= {"_socket"}


def test_with_a_daemon_a_plugin_executes_and_forks_nothing(plugins: Plugins) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    trace = f"{plugins.bin_dir}/trace"
    watch = ["strace", "-f", "-qq", "-e", "trace=process,network", "-o", trace]
    with netkitd():
        subprocess.run(
            [*watch, f"{plugins.bin_dir}/host-local"],
            env={**os.environ, "CNI_COMMAND": "STATUS", **DAEMON},
            input=plugins.status(),
            stdout=subprocess.DEVNULL,
            timeout=_BOUND_S,
            check=True,
        )
    lines = Path(trace).read_text().splitlines()
    calls = [line.split(None, 1)[1].partition("(")[0] for line in lines]
    assert [call for call in calls if call != "recvfrom"] == [
        "execve", "socket", "connect", "sendto", "exit_group"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "stdin",
    [
        *(b"", b"{}", b"null", b"garbage", b'{"cniVersion": "0.4.0"}', b'{ "cniVersion" :"1.1.0"}'),
        *(b'{"cniVersion":"9.9.9"}', b'{"cniVersion": 7, "name": "x"}'),
    ],
)
def test_version_is_answered_as_the_plugin_would_and_without_it(stdin: bytes) -> None:
    status, answer = plugin.handle("bridge", {"CNI_COMMAND": "VERSION"}, stdin)
    assert (status, json.loads(answer)) == (0, json.loads(shim._versions(stdin)))
