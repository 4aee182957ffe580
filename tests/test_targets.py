"""docker:NAME and its like: the engine's word for it, or /proc's, and no word taken for granted."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netkit import Conflict, InvalidSpec, KernelRefused, NetkitError, NotFound, engines
from netkit.kernel import cgroups, netns
from scenarios.engines import FakeEngine, container
from scenarios.lab import Host, until

ID, OTHER_ID = "ab" * 32, "ac" * 32


@pytest.fixture
def root() -> Iterator[Path]:
    """An empty directory whose path is short: that of a socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(dir="/run") as path:
        yield Path(path)


@pytest.fixture
def docker(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Docker's engine, where DOCKER_HOST says."""
    with FakeEngine(f"{root}/docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.path}")
        yield engine


@pytest.fixture
def pid() -> Iterator[int]:
    with container() as its:
        yield its


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bounds, sooner reached."""
    monkeypatch.setattr(engines, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(engines, "_MOST", 1 << 20)
    monkeypatch.setattr(engines, "_START_S", 0.3)
    monkeypatch.setattr(engines, "_PAUSE_S", 0.01)


def refusal(kind: type[NetkitError], text: str, **places: Any) -> str:
    """Message and hint of the *kind* of error that finding the target *text* raises."""
    engine, _, name = text.partition(":")
    with pytest.raises(kind) as caught:
        engines.find(engine, name, **places)
    assert type(caught.value) is kind
    return f"{caught.value} | {caught.value.hint}"


# -- the engine is asked


def test_a_container_is_found_by_name_id_and_short_id(docker: FakeEngine, pid: int) -> None:
    id = docker.has("web", pid)
    for name in ("web", id, id[:12], id[:1]):
        assert engines.find("docker", name) == ("docker", id, "web", pid)


@pytest.mark.parametrize(
    ("engine", "place"),
    [
        ("docker", "run/docker.sock"),
        ("docker", "run/user/1000/docker.sock"),
        ("podman", "run/podman/podman.sock"),
        ("podman", "run/user/1000/podman/podman.sock"),
    ],
)
def test_the_usual_sockets_are_asked_and_a_users_own(
    engine: str, place: str, root: Path, pid: int
) -> None:
    path = root / place
    path.parent.mkdir(parents=True)
    (root / "proc").symlink_to("/proc")
    with FakeEngine(str(path)) as fake:
        id = fake.has("web", pid)
        environ = {"XDG_RUNTIME_DIR": "/run/user/1000"}
        found = engines.find(engine, "web", root=str(root), environ=environ)
        assert found == (engine, id, "web", pid)


def test_of_two_sockets_the_first_that_knows_it_tells(root: Path, pid: int) -> None:
    (root / "run/user/1000").mkdir(parents=True)
    (root / "proc").symlink_to("/proc")
    places: dict[str, Any] = {"root": str(root)}
    places["environ"] = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    with (
        FakeEngine(f"{root}/run/docker.sock") as roots,
        FakeEngine(f"{root}/run/user/1000/docker.sock") as users,
    ):
        users.has("mine", pid)
        assert engines.find("docker", "mine", **places).id == users.containers["mine"]["Id"]
        roots.has("mine", pid)
        assert engines.find("docker", "mine", **places).id == roots.containers["mine"]["Id"]


@pytest.mark.parametrize("status", ["created", "restarting", "running"])
def test_a_process_that_is_not_there_yet_is_waited_for(
    docker: FakeEngine, pid: int, status: str
) -> None:
    id = docker.has("web", 0, status)
    told = docker.told

    def later(target: str) -> tuple[int, object]:
        if len(docker.asked) == 3:
            docker.has("web", pid)
        return told(target)

    docker.told = later  # type: ignore[method-assign]
    assert engines.find("docker", "web") == ("docker", id, "web", pid)
    assert len(docker.asked) == 4


def test_it_is_waited_for_within_a_bound(docker: FakeEngine) -> None:
    docker.has("web", 0, "restarting")
    start = time.monotonic()
    said = refusal(Conflict, "docker:web")
    assert said.startswith("container docker:web is not running (restarting)")
    assert 0.3 <= time.monotonic() - start < 30


@pytest.mark.parametrize("status", ["exited", "dead", "configured"])
def test_what_has_ended_is_not_waited_for(docker: FakeEngine, status: str) -> None:
    docker.has("web", 0, status)
    assert f"container docker:web is not running ({status})" in refusal(Conflict, "docker:web")
    assert len(docker.asked) == 1


def test_a_name_nobody_has_is_refused_with_those_near_it(docker: FakeEngine) -> None:
    docker.has("webserver1", 1)
    docker.has("db", 1)
    assert refusal(NotFound, "docker:webserver") == (
        "no such container: docker:webserver | did you mean docker:webserver1?"
    )
    assert "`docker ps -a` lists them" in refusal(NotFound, "docker:nobody")


def test_an_id_that_two_begin_with_is_refused(docker: FakeEngine) -> None:
    docker.has("one", 1, id=ID)
    docker.has("two", 1, id="ab" + OTHER_ID[2:])
    assert "give more digits of the id" in refusal(Conflict, "docker:ab")


def test_no_name_of_a_container_gets_as_far_as_the_engine(docker: FakeEngine) -> None:
    for name in ("", "a/b", "../images", "a?all=1", "a b", "a\r\nX: y", "é", "-x", "a" * 129):
        assert "invalid container name" in refusal(InvalidSpec, f"docker:{name}")
    assert docker.asked == []


def test_an_engine_on_another_machine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("tcp://10.0.0.1:2375", "ssh://me@there", "/run/docker.sock", "unix://x"):
        said = refusal(InvalidSpec, "docker:web", environ={"DOCKER_HOST": host})
        assert f"DOCKER_HOST='{host}': not a socket of this machine" in said


def test_a_socket_that_is_closed_to_us_is_named_with_the_way_in(
    docker: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(engines._Line, "connect", denied)
    said = refusal(KernelRefused, "docker:web")
    assert f"{docker.path}: Permission denied" in said
    assert "join the group that may use the socket ('docker')" in said


# -- an engine that lies


def _says(*parts: bytes, pause_s: float = 0) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause_s)

    return answer


def _inspected(**fields: object) -> Callable[[socket.socket], None]:
    """A good answer, but for *fields*."""
    told: dict[str, object] = {"Id": ID, "Name": "/web", "State": {"Pid": 1}} | fields
    text = json.dumps(told).encode()
    return _says(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text))


def _endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


OK = b"HTTP/1.1 200 OK\r\n\r\n"
LIES: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "nothing": (_says(), "RemoteDisconnected"),
    "silence": (_says(b"", pause_s=1), "did not answer at .* within 0.3 s"),
    "no HTTP": (_says(b"SSH-2.0-OpenSSH_9.2\r\n"), "BadStatusLine"),
    "an endless header": (_says(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 100_000), "LineTooLong"),
    "endless headers": (_says(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), "100 headers"),
    "a slow header": (_says(*[b"H"] * 90, pause_s=0.01), "did not answer"),
    "a slow body": (_says(OK, *[b" "] * 90, pause_s=0.01), "did not answer"),
    "an endless body": (_endless, "more than 1 MiB"),
    "half a body": (_says(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "IncompleteRead"),
    "a bad chunk": (
        _says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"),
        "IncompleteRead|ValueError",
    ),
    "continue, for ever": (
        _says(b"HTTP/1.1 100 Continue\r\n\r\n" * 400_000),
        "more than|did not answer",
    ),
    "a negative chunk": (
        _says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx\r\n"),
        "makes sense",
    ),
    "a negative length": (_says(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"), "makes sense"),
    "a short id": (_inspected(Id="abcdef"), "'abcdef' is not the id"),
    "no JSON": (_says(OK, b"<html>"), "malformed"),
    "no text": (_says(OK, b'{"Id": "\xff\xfe"}'), "makes sense"),
    "a deep nest": (_says(OK, b'{"x":' + b"[" * 500_000), "makes sense"),
    "a list": (_says(OK, b"[]"), "Expected `object`"),
    "no state": (_says(OK, b'{"Id": "1", "Name": "x"}'), "missing required field `State`"),
    "a pid that is text": (_inspected(State={"Pid": "1"}), "Expected `int`"),
    "a pid that is a fraction": (_inspected(State={"Pid": 1.5}), "Expected `int`"),
    "a negative pid": (_inspected(State={"Pid": -1}), "-1 is not the number of a process"),
    "a huge pid": (_inspected(State={"Pid": 1 << 22}), "4194304 is not the number"),
    "a pid beyond all bounds": (_inspected(State={"Pid": 1 << 80}), "makes sense"),
    "an id that is a path": (_inspected(Id="../../etc"), "'../../etc' is not the id"),
    "an id with a line end": (_inspected(Id=ID[:63] + "\n"), "is not the id"),
    "an internal error": (
        _says(b'HTTP/1.1 500 E\r\nContent-Length: 18\r\n\r\n{"message":"boom"}'),
        r"docker says: boom \(status 500\)",
    ),
    "an error without words": (_says(b"HTTP/1.1 503 E\r\n\r\n"), "status 503"),
    "another place": (_says(b"HTTP/1.1 302 F\r\nLocation: /x\r\n\r\n{}"), "status 302"),
    "a terminal's controls": (
        _says(b'HTTP/1.1 500 E\r\n\r\n{"message":"\\u001b[2J\\nError: x"}'),
        r"docker says: \\x1b\[2J\\nError: x",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_nonsense_is_refused_soon_and_in_one_line(docker: FakeEngine, lie: str) -> None:
    docker.answer, expected = LIES[lie]
    start = time.monotonic()
    said = refusal(engines.EngineFailed, "docker:web")
    assert re.search(expected, said)
    assert said.isprintable()
    assert time.monotonic() - start < 10


def test_an_ambiguous_id_and_a_name_that_is_none_of_ours(docker: FakeEngine, pid: int) -> None:
    text = b'{"message":"multiple IDs found with provided prefix: a"}'
    docker.answer = _says(b"HTTP/1.1 400 B\r\n\r\n" + text)
    assert "give more digits of the id" in refusal(Conflict, "docker:a")
    docker.answer = _inspected(State={"Pid": pid}, Name="/a b\n")
    assert engines.find("docker", "web").name == ID[:12]


def test_a_chunked_answer_is_read(docker: FakeEngine, pid: int) -> None:
    text = json.dumps({"Id": ID, "Name": "/web", "State": {"Pid": pid}}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in (text[:9], text[9:]))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    docker.answer = _says(head + chunks + b"0\r\n\r\n")
    assert engines.find("docker", "web").pid == pid


def test_a_process_that_has_died_or_is_a_zombie_is_not_there(docker: FakeEngine) -> None:
    with subprocess.Popen(["true"]) as child:
        assert until(lambda: " Z " in Path(f"/proc/{child.pid}/stat").read_text())
        docker.has("web", child.pid)
        assert f"cannot see process {child.pid}" in refusal(Conflict, "docker:web")
    assert f"cannot see process {child.pid}" in refusal(Conflict, "docker:web")
    assert len(docker.asked) > 2  # it might have come back


def test_another_users_engine_may_name_that_users_namespaces_only(
    docker: FakeEngine, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker.has("web", pid)
    ask = engines._ask
    monkeypatch.setattr(engines, "_ask", lambda *words: ask(*words)._replace(uid=1234))
    said = refusal(engines.EngineFailed, "docker:web")
    assert f"docker of uid 1234 says container 'web' is process {pid}, but" in said
    assert "is of uid 0" in said
    monkeypatch.setattr(netns, "owner", lambda path: 1234)
    assert engines.find("docker", "web").pid == pid


# -- /proc is asked


class Proc:
    """A root directory with a /proc in it, of processes that are there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()
        (root / "proc/self").mkdir()

    def process(self, pid: int, cgroup: str, *, started: int = 5, command: str = "x") -> None:
        its = self.root / f"proc/{pid}"
        (its / "ns").mkdir(parents=True)
        (its / "ns/net").symlink_to(f"/proc/{pid}/ns/net")
        (its / "cgroup").write_text(cgroup + "\n")
        (its / "stat").write_text(f"{pid} (a) b) S {'0 ' * 18}{started} 0\n")
        (its / "cmdline").write_text(command.replace(" ", "\0") + "\0")

    def file(self, path: str, content: object) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(json.dumps(content))

    def find(self, text: str) -> engines.Container:
        engine, _, name = text.partition(":")
        return engines.find(engine, name, root=str(self.root), environ={})

    def refusal(self, kind: type[NetkitError], text: str) -> str:
        return refusal(kind, text, root=str(self.root), environ={})


@pytest.fixture
def proc(root: Path) -> Proc:
    return Proc(root)


@pytest.mark.parametrize(
    ("engine", "cgroup"),
    [
        ("docker", f"12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/"),
        ("docker", f"0::/system.slice/docker-{ID}.scope"),
        ("docker", f"0::/system.slice/docker-{ID}.scope/init.scope"),
        ("docker", f"0::/user.slice/user-1000.slice/user@1000.service/docker-{ID}.scope"),
        ("docker", f"4:memory:/my/parent/{ID}"),
        ("docker", f"0::/../../docker/{ID}"),
        ("podman", f"0::/machine.slice/libpod-{ID}.scope/container"),
        ("podman", f"9:devices:/libpod_parent/libpod-{ID}"),
        ("containerd", f"0::/default/{ID}"),
        ("containerd", f"0::/system.slice/nerdctl-{ID}.scope"),
        ("cri", f"0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
        ("cri", f"0::/kubepods/besteffort/pod1/{ID}"),
        ("cri", f"0::/kubepods.slice/crio-{ID}.scope"),
        ("cri", f"0::/system.slice/kubepods-pod1.slice:cri-containerd:{ID}"),
    ],
)
def test_a_container_is_found_by_the_cgroup_of_its_processes(
    proc: Proc, pid: int, engine: str, cgroup: str
) -> None:
    proc.process(pid, cgroup)
    for name in (ID, ID[:12]):
        assert proc.find(f"{engine}:{name}") == (engine, ID, ID[:12], pid)


@pytest.mark.parametrize(
    "cgroup",
    [
        "12:devices:/lxc/web",
        "0::/lxc/web/init.scope",
        "0::/lxc.payload.web",
        "0::/lxc.payload.web/system.slice/ssh.service",
        "0::/lxc.payload/web",
    ],
)
def test_a_container_of_lxcs_is_found_by_its_name(proc: Proc, pid: int, cgroup: str) -> None:
    proc.process(pid, cgroup)
    assert proc.find("lxc:web") == ("lxc", "web", "web", pid)
    said = proc.refusal(NotFound, "lxc:we")
    assert said == "no such container: lxc:we | did you mean lxc:web?"


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        (f"podman:{ID}", f"0::/machine.slice/libpod-conmon-{ID}.scope"),
        (f"podman:{ID}", f"0::/system.slice/docker-{ID}.scope"),
        (f"docker:{ID}", f"0::/machine.slice/libpod-{ID}.scope"),
        (f"docker:{ID}", f"0::/docker/{ID}ab"),
        (f"docker:{ID}", f"0::/docker/x{ID}"),
        (f"cri:{ID}", f"0::/crio-conmon-{ID}.scope"),
        ("lxc:web", "0::/lxc.monitor.web"),
        ("lxc:web", "0::/lxc.payload.web2"),
        ("lxc:web", "0::/user.slice/lxc-web"),
    ],
)
def test_what_only_looks_like_it_is_not_taken_for_it(
    proc: Proc, pid: int, text: str, cgroup: str
) -> None:
    proc.process(pid, cgroup)
    assert proc.refusal(NotFound, text).startswith(f"no such container: {text}")


def test_the_process_a_container_began_with_is_its_process(proc: Proc) -> None:
    with container() as first, container() as second, container() as third:
        proc.process(first, f"0::/docker/{ID}", started=300)
        proc.process(second, f"0::/docker/{ID}", started=100)
        proc.process(third, f"0::/docker/{ID}/x", started=200)
        assert proc.find(f"docker:{ID}").pid == second


def test_the_names_of_docker_are_read_from_its_files(proc: Proc, pid: int) -> None:
    store = "var/lib/docker/containers"
    proc.file(f"{store}/{ID}/config.v2.json", {"ID": ID, "Name": "/web", "State": {}})
    proc.file(f"{store}/{OTHER_ID}/config.v2.json", {"ID": OTHER_ID, "Name": "/db", "X": 1})
    proc.file(f"{store}/x/config.v2.json", {"half": "written"})
    os.mkfifo(proc.root / f"{store}/x/y")
    os.replace(proc.root / f"{store}/x/y", proc.root / f"{store}/x/config.v2.json")
    proc.process(pid, f"0::/system.slice/docker-{ID}.scope")
    assert proc.find("docker:web") == ("docker", ID, "web", pid)
    assert proc.find(f"docker:{ID[:12]}").name == "web"
    assert "container docker:db is not running" in proc.refusal(Conflict, "docker:db")
    assert "did you mean docker:web?" in proc.refusal(NotFound, "docker:wab")


@pytest.mark.parametrize(
    "store",
    [
        "var/lib/containers/storage/overlay-containers/containers.json",
        "var/lib/containers/storage/overlay-containers/volatile-containers.json",
        "var/lib/containers/storage/vfs-containers/containers.json",
        "run/containers/storage/overlay-containers/volatile-containers.json",
    ],
)
def test_the_names_of_podman_are_read_from_its_files(proc: Proc, pid: int, store: str) -> None:
    proc.file(store, [{"id": ID, "names": ["web"], "image": "x"}, {"id": OTHER_ID}])
    proc.process(pid, f"0::/machine.slice/libpod-{ID}.scope")
    assert proc.find("podman:web") == ("podman", ID, "web", pid)


def test_a_name_of_podmans_is_read_from_its_monitor(
    proc: Proc, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"/usr/bin/conmon --api-version 1 -c {ID} -u {ID} -p /x/pidfile -n web --exit-dir /y"
    proc.process(pid, f"0::/machine.slice/libpod-{ID}.scope")
    proc.process(1, f"0::/machine.slice/libpod-conmon-{ID}.scope", command=words)
    proc.process(2, "0::/", command="/usr/bin/conmon -n")
    assert proc.find("podman:web") == ("podman", ID, "web", pid)
    monkeypatch.setattr(engines, "_trusted", lambda environ: {4321})  # whoever runs this is not
    assert "no such container" in proc.refusal(NotFound, "podman:web")


def test_of_two_containers_neither_is_guessed(proc: Proc) -> None:
    with container() as one, container() as two:
        proc.process(one, f"0::/docker/{ID}")
        proc.process(two, f"0::/docker/{OTHER_ID}")
        said = proc.refusal(Conflict, "docker:a")
        assert said.startswith(f"more than one container is docker:a: {ID[:12]}, {OTHER_ID[:12]}")
        assert proc.find("docker:ab").pid == one


def test_of_two_by_one_name_the_one_that_runs_is_meant(proc: Proc, pid: int) -> None:
    store = "lib/containers/storage/overlay-containers/"
    proc.file(f"var/{store}containers.json", [{"id": OTHER_ID, "names": ["web"]}])
    proc.file(f"var/{store}volatile-containers.json", [{"id": ID, "names": ["web"]}])
    proc.process(pid, f"0::/machine.slice/libpod-{ID}.scope")
    assert proc.find("podman:web").id == ID


# -- whether there is such a container at all


def test_a_container_is_forgotten_once_its_engine_says_so(docker: FakeEngine) -> None:
    docker.has("web", 0, "exited")
    assert not engines.forgotten("docker", "web")
    del docker.containers["web"]
    assert engines.forgotten("docker", "web")
    docker.answer = _says(b"HTTP/1.1 500 E\r\n\r\n{}")
    assert not engines.forgotten("docker", "web")
    docker.answer = _says()
    with pytest.raises(engines.EngineFailed):
        engines.forgotten("docker", "web")


def test_without_the_engine_it_is_forgotten_once_its_files_are_without_it(proc: Proc) -> None:
    places: dict[str, Any] = {"root": str(proc.root), "environ": {}}
    assert not engines.forgotten("podman", "web", **places)  # nothing is known
    store = "var/lib/containers/storage/overlay-containers/containers.json"
    proc.file(store, [{"id": ID, "names": ["web"]}])
    assert not engines.forgotten("podman", "web", **places)
    (proc.root / "run/podman").mkdir(parents=True)
    with FakeEngine(f"{proc.root}/run/podman/podman.sock"):
        assert not engines.forgotten("podman", "web", **places)  # it may be another user's
        assert engines.forgotten("podman", "db", **places)
    proc.file(store, [{"id": OTHER_ID, "names": ["db"]}])
    assert engines.forgotten("podman", "web", **places)
    assert not engines.forgotten("lxc", "web", **places)


def test_another_users_cgroup_of_that_name_is_not_believed(
    proc: Proc, pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc.process(pid, f"0::/user.slice/docker-{ID}.scope")
    monkeypatch.setattr(netns, "owner", lambda path: 1234)
    said = proc.refusal(KernelRefused, f"docker:{ID}")
    assert f"cannot tell whether process {pid} is docker:{ID[:12]}" in said
    assert f"pid:{pid}" in said


def test_a_namespace_is_never_taken_for_one_that_is_gone() -> None:
    """Though the kernel gives inodes out again at once, the first that is free."""
    seen: list[str] = []
    for _ in range(60):
        with container() as pid:
            path = f"/proc/{pid}/ns/net"
            seen.append(netns.identity(path))
            assert netns.identity(path) == seen[-1]
            assert netns.inhabited(seen[-1])
            assert not any(netns.inhabited(gone) for gone in seen[-3:-1])
    assert len({identity.rpartition(":")[0] for identity in seen}) < len(seen)  # as it says above
    assert len({*seen}) == len(seen)


def test_the_owner_of_a_namespace_is_whose_user_namespace_it_is_in(pid: int) -> None:
    assert netns.owner(f"/proc/{pid}/ns/net") == 0
    assert netns.owner("/proc/self/ns/mnt-x") is None
    assert netns.owner("/dev/null") is None


@pytest.mark.skipif(
    Path("/proc/self/uid_map").read_text().split()[2] == "1", reason="only root can be another user"
)
def test_the_owner_of_another_users_namespace_is_that_user(host: Host) -> None:
    with Path("/proc/sys/user/max_user_namespaces").open() as file:
        if file.read().strip() == "0":
            pytest.skip("sysctl user.max_user_namespaces is 0")
    words = ["unshare", "--user", "--net", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(words, user=65534, group=65534, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if not child.stdout.readline():
            pytest.skip("an ordinary user may not make user namespaces here")
        assert netns.owner(f"/proc/{child.pid}/ns/net") == 65534
        child.kill()


def test_this_machines_own_processes_can_be_looked_through() -> None:
    """Whatever runs here: no line of /proc stops the search."""
    for engine in engines.KINDS:
        assert all(found for found in cgroups.containers(engine).values())
