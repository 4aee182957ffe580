"""netkitd: whom it serves, what clients can do to each other, and how it comes and goes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from selectors import SelectorKey

import pytest

from netkit import daemon, steps, wire
from netkit.changes import maker_lives
from netkit.daemon import Server
from netkit.engine import Engine
from netkit.kernel import netns
from netkit.specs import NetworkSpec
from scenarios.lab import Host, until

_BOUND_S = 30.0
_PROGRAM = (sys.executable, "-c", "from netkit.daemon import main; main()")
Answer = tuple[int, bytes] | str
_ROOT = str(Path(__file__).parents[1])


class Served:
    """A server with plugins of the test's own, and what its workers did."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.calls: list[tuple[str, str, int]] = []  # kind, standard input, thread
        self.verbs: list[str] = []
        self.gates: dict[str, threading.Event] = {}  # calls with this input wait
        self.made = self.ended = 0
        self.server: Server
        self.thread: threading.Thread

    @contextlib.contextmanager
    def plugins(self) -> Iterator[daemon.Serve]:
        self.made += 1
        try:
            yield self.serve
        finally:
            self.ended += 1

    def serve(self, kind: str, environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        text = stdin.decode()
        self.calls.append((kind, text, threading.get_ident()))
        self.verbs.append(environ.get("CNI_COMMAND", ""))
        if text in self.gates:
            assert self.gates[text].wait(_BOUND_S)
        if kind == "broken":
            raise RuntimeError(text)
        return (1 if kind == "failing" else 0), stdin.upper()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(_BOUND_S)
        try:
            sock.connect(self.path)
        except OSError:
            sock.close()
            raise
        return sock

    def begin(self, stdin: bytes, kind: bytes = b"bridge", /, **environ: str) -> socket.socket:
        """A client that has said what it wants, in this environment and what is given."""
        mine = {k: v for k, v in os.environ.items() if k.startswith("NETKIT_")} | environ
        sock = self.connect()
        words = {os.fsencode(key): os.fsencode(value) for key, value in mine.items()}
        sock.sendall(wire.request(kind, words, stdin))
        return sock

    def ask(self, stdin: bytes, kind: bytes = b"bridge", /, **environ: str) -> Answer:
        with self.begin(stdin, kind, **environ) as sock:
            return answer(sock)


def answer(sock: socket.socket) -> Answer:
    data = b""
    try:
        while need := wire.missing(data):
            if not (chunk := sock.recv(need)):
                return "closed"
            data += chunk
    except ConnectionResetError:
        return "closed"
    return wire.parse_answer(wire.body(data)) or "not mine"


@pytest.fixture
def served(host: Host) -> Iterator[Served]:
    with serving(host) as served:
        yield served


@contextlib.contextmanager
def serving(host: Host, idle_s: float | None = None, *, start: bool = True) -> Iterator[Served]:
    """*start*: else the test is to start its thread."""
    served = Served(f"{host.base}/socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(served.path)
    listener.listen(1024)
    listener.setblocking(False)
    served.server = Server(listener, served.plugins, idle_s=idle_s)
    served.thread = threading.Thread(target=served.server.run)
    if start:
        served.thread.start()
    try:
        yield served
    finally:
        for gate in served.gates.values():
            gate.set()
        served.server.stop()
        served.thread.join(_BOUND_S)
        assert not served.thread.is_alive()


# -- calls


def test_a_call_is_answered_with_its_exit_code_and_what_to_print(served: Served) -> None:
    assert served.ask(b"one") == (0, b"ONE")
    assert served.ask(b"two", b"failing") == (1, b"TWO")


def test_a_worker_and_its_engine_are_kept_from_call_to_call(served: Served) -> None:
    for _ in range(20):
        served.ask(b"x")
        # it answers before it notes that it is free: until then another would be made
        assert until(lambda: not served.server._under_way)
    assert served.made == 1
    assert len({thread for _, _, thread in served.calls}) == 1


@pytest.mark.parametrize(("kind", "said"), [(b"failing", (1, b"X")), (b"broken", "closed")])
def test_a_worker_whose_call_failed_ends_so_that_nothing_is_half_done_by_the_living(
    served: Served, kind: bytes, said: object
) -> None:
    assert served.ask(b"x", kind) == said
    assert until(lambda: served.ended == 1)
    for _ in range(3):
        assert served.ask(b"y") == (0, b"Y")
    assert served.made >= 2


def test_a_call_that_waits_keeps_nobody_else_waiting(served: Served) -> None:
    served.gates["slow"] = threading.Event()
    with served.begin(b"slow") as slow:
        assert until(lambda: len(served.calls) == 1)
        for _ in range(3):
            assert served.ask(b"x") == (0, b"X")
        served.gates["slow"].set()
        assert answer(slow) == (0, b"SLOW")


def test_sixteen_calls_go_on_at_once_and_further_ones_wait(served: Served) -> None:
    served.gates["slow"] = threading.Event()
    clients = [served.begin(b"slow") for _ in range(20)]
    assert until(lambda: len(served.calls) == 16)
    served.gates["slow"].set()
    assert [answer(client) for client in clients] == [(0, b"SLOW")] * 20
    assert served.made == 16
    for client in clients:
        client.close()


def test_more_calls_than_can_wait_are_left_to_their_callers(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_WORKERS", 1)
    monkeypatch.setattr(daemon, "_MOST_WAITING", 2)
    served.gates["slow"] = threading.Event()
    with served.begin(b"slow") as slow:
        assert until(lambda: len(served.calls) == 1)
        waiting = [served.begin(b"x") for _ in range(2)]
        assert served.ask(b"too much") == "closed"
        served.gates["slow"].set()
        assert [answer(each) for each in (slow, *waiting)] == [(0, b"SLOW"), (0, b"X"), (0, b"X")]
        for each in waiting:
            each.close()


# -- clients that mean no good (S42, S43)


def test_s43_slow_clients_do_not_keep_others_waiting(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_FRAME_S", 2 * _BOUND_S)  # none is dropped before it is noticed
    frame = wire.request(b"bridge", {}, b"x")
    slow = [served.connect() for _ in range(50)]
    for byte in frame[:5]:
        for sock in slow:
            sock.send(bytes([byte]))
        assert served.ask(b"x") == (0, b"X")
    assert len(served.server._reading) == 50
    for sock in slow:
        sock.close()


def test_a_client_that_does_not_say_what_it_wants_is_dropped_in_time(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served.connect() as slow:
        slow.send(b"\0\0")
        assert until(lambda: served.server._held == 2)
        monkeypatch.setattr(daemon, "_FRAME_S", 0.2)
        with served.connect() as silent:  # which wakes it
            assert answer(silent) == "closed"
        assert answer(slow) == "closed"
    monkeypatch.setattr(daemon, "_FRAME_S", _BOUND_S)  # who does say it may be slow, too
    assert served.ask(b"x") == (0, b"X")


def test_s42_of_too_many_idle_clients_the_oldest_go(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_MOST_READING", 8)
    monkeypatch.setattr(daemon, "_FRAME_S", 60.0)
    idle = [served.connect() for _ in range(40)]
    assert served.ask(b"x") == (0, b"X")
    assert [answer(sock) for sock in idle[:30]] == ["closed"] * 30
    assert served.server._reading.keys()  # and not all of them
    for sock in idle:
        sock.close()


def test_one_that_is_dropped_may_have_left_its_number_to_another_in_the_same_round(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it said last is ready to be read, and is not to be looked for at the closed socket."""
    monkeypatch.setattr(daemon, "_MOST_READING", 1)
    with serving(host, start=False) as served, contextlib.ExitStack() as held:
        server = served.server
        select = server._selector.select

        def newcomers_first(wait_s: float | None) -> list[tuple[SelectorKey, int]]:
            return sorted(select(wait_s), key=lambda each: each[0].fileobj is not server._listener)

        monkeypatch.setattr(server._selector, "select", newcomers_first)
        first = held.enter_context(served.connect())
        server._accept()
        (number,) = server._reading
        others = [held.enter_context(served.connect()) for _ in range(2)]
        first.send(b"\0")
        served.thread.start()
        assert [answer(each) for each in (first, others[0])] == ["closed"] * 2
        assert until(lambda: list(server._reading) == [number])
        assert served.ask(b"x") == (0, b"X")


def test_s43_what_unfinished_requests_may_hold_is_bounded(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_MOST_HELD", 100_000)
    half = wire.frame(b"x" * 90_000)[:60_000]
    with served.connect() as one, served.connect() as two:
        one.sendall(half)
        assert until(lambda: served.server._held == 60_000)
        two.sendall(half)
        assert answer(one) == "closed"
        assert served.ask(b"x") == (0, b"X")
        assert until(lambda: served.server._held == 60_000)
    assert until(lambda: served.server._held == 0)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(b"\xff" * 8, id="4 GiB"),
        pytest.param(wire.frame(b"nothing"), id="no request"),
        pytest.param(wire.frame(b""), id="empty"),
        pytest.param(os.urandom(4096), id="noise"),
        pytest.param(wire.request(b"bridge", {}, b"x")[:-1], id="unfinished"),
    ],
)
def test_garbage_harms_nobody(served: Served, data: bytes) -> None:
    with served.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        assert answer(sock) == "closed"
    assert served.ask(b"x") == (0, b"X")
    assert [kind for kind, _, _ in served.calls] == ["bridge"]


def test_an_add_nobody_waits_for_any_more_is_undone(served: Served) -> None:
    """The runtime has killed the plugin, and its DEL may have come when there was nothing yet."""
    served.gates["slow"] = threading.Event()
    with served.begin(b"slow", CNI_COMMAND="ADD"):
        assert until(lambda: len(served.calls) == 1)
    served.gates["slow"].set()
    assert served.ask(b"x") == (0, b"X")
    assert until(lambda: served.verbs == ["ADD", "", "DEL"] or served.verbs == ["ADD", "DEL", ""])


@pytest.mark.parametrize(("verb", "kind"), [("DEL", b"bridge"), ("ADD", b"failing")])
def test_other_calls_nobody_waits_for_any_more_are_left_at_that(
    served: Served, verb: str, kind: bytes
) -> None:
    served.gates["slow"] = threading.Event()
    with served.begin(b"slow", kind, CNI_COMMAND=verb):
        assert until(lambda: len(served.calls) == 1)
    served.gates["slow"].set()
    assert until(lambda: not served.server._under_way)
    assert served.verbs == [verb]


def test_a_call_whose_caller_is_gone_is_not_begun(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_WORKERS", 1)
    served.gates["slow"] = threading.Event()
    with served.begin(b"slow") as slow:
        assert until(lambda: len(served.calls) == 1)
        served.begin(b"waiting", CNI_COMMAND="ADD").close()
        served.gates["slow"].set()
        assert answer(slow) == (0, b"SLOW")
    assert served.ask(b"x") == (0, b"X")
    assert [text for _, text, _ in served.calls] == ["slow", "x"]


def test_s36_a_request_is_one_line_of_the_log_whatever_is_in_it(
    served: Served, capfd: pytest.CaptureFixture[str]
) -> None:
    served.ask(
        b"x", CNI_COMMAND="ADD", CNI_CONTAINERID="c1\nnetkitd: \x1b[2J\u202e", CNI_IFNAME="e"
    )
    assert until(lambda: len(served.calls) == 1)
    said = ""

    def whole() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said.endswith("\n")

    assert until(whole)
    (line,) = said.splitlines()
    assert line.isprintable()
    me = f"netkitd: pid {os.getpid()} uid {os.getuid()}: bridge ADD "
    assert line.startswith(me + r"c1\nnetkitd: \x1b[2J\u202e/e: exit code 0 in ")


# -- whom it serves


@pytest.mark.parametrize(
    "environ",
    [
        {"NETKIT_STATE_DIR": "/elsewhere"},
        {"NETKIT_CONFIG": "/etc/other.toml"},
        {"NETKIT_NOVEL": "1"},
        {"CNI_NETNS": "run/netns/c1"},
        {"CNI_NETNS": "/proc/self/ns/net"},
        {"CNI_NETNS": "/proc/thread-self/ns/net"},
    ],
)
def test_who_would_do_something_else_is_told_to_do_it(
    served: Served, environ: dict[str, str]
) -> None:
    assert served.ask(b"x", **environ) == "not mine"
    assert not served.calls


def test_what_does_not_matter_to_a_call_makes_no_difference(served: Served) -> None:
    environ = {"NETKIT_DAEMON": "yes", "NETKIT_CALL": "1.2", "NETKIT_NOVEL": "", "LANG": "C"}
    assert served.ask(b"x", CNI_NETNS="/run/netns/c1", **environ) == (0, b"X")


@pytest.mark.parametrize("flag", ["--net", "--mount"])
def test_who_is_in_another_namespace_is_told_to_do_it(served: Served, flag: str) -> None:
    """Nothing says what is meant by a path, or by a link, like being where the caller is."""
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(sys.stdin.buffer.read()); sys.stdout.buffer.write(s.recv(9))"
    )
    environ = {os.fsencode(k): os.fsencode(v) for k, v in os.environ.items() if "NETKIT" in k}
    frame = wire.request(b"bridge", environ, b"x")
    for unshare, said in ((["unshare", flag], wire.NOT_MINE), ([], wire.answer(0, b"X"))):
        command = [*unshare, sys.executable, "-c", script, served.path]
        done = subprocess.run(command, input=frame, capture_output=True, timeout=_BOUND_S)
        assert done.stdout == said, done.stderr


def test_a_daemon_whose_program_was_replaced_makes_way(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(host) as served:
        assert served.ask(b"x") == (0, b"X")
        monkeypatch.setattr(daemon, "_code", lambda: "newer")
        assert served.ask(b"x") == "not mine"
        assert until(lambda: not served.server._listener.fileno() >= 0)


_FIRST_CALLS = """
import json, sys
from cni import plugin
from netkit import daemon
daemon._warm_up()
before = set(sys.modules)
for conf in json.loads(sys.argv[1]):
    for verb in ("ADD", "CHECK", "DEL"):
        kind, name = conf["type"], conf["type"][0] + "0"
        environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/run/netns/c1"}
        environ |= {"CNI_IFNAME": name, "CNI_PATH": "/nowhere"}
        code, text = plugin.handle(kind, environ, json.dumps(conf).encode())
        assert code == 0, text
        conf["prevResult"] = json.loads(text or "{}")
print(*sorted(set(sys.modules) - before))
"""


def test_once_it_is_ready_a_call_has_nothing_left_to_import(host: Host) -> None:
    """A hundred milliseconds of the first call's, else."""
    confs = [
        {"cniVersion": "1.1.0", "name": "b", "type": "bridge", "bridge": "br9", "ipam": {}},
        {"cniVersion": "1.1.0", "name": "n", "type": "netkit", "subnets": ["10.9.0.0/24"]},
    ]
    netns.create("c1")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _FIRST_CALLS, json.dumps(confs)],
            env={**os.environ, "PYTHONPATH": f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"},
            capture_output=True,
            text=True,
            timeout=_BOUND_S,
        )
    finally:
        netns.delete("c1")
    assert (done.stdout, done.stderr) == ("\n", "")


# -- workers side by side


def test_a_worker_is_alive_to_others_for_as_long_as_it_works(host: Host) -> None:
    """An intent is left alone while its maker lives; of a worker that ended it is undone."""
    makers: list[str] = []
    end = threading.Event()

    def work() -> None:
        makers.append(Engine().changes.maker)
        assert end.wait(_BOUND_S)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert until(lambda: len(makers) == 2)
    mine = host.engine().changes.maker
    assert len({*makers, mine}) == 3
    assert all(maker_lives(maker) for maker in (*makers, mine))
    assert mine.startswith(f"{os.getpid()}:")
    end.set()
    for thread in threads:
        thread.join(_BOUND_S)
    assert until(lambda: not any(maker_lives(maker) for maker in makers))
    assert maker_lives(mine)


_MEET = """
import sys, threading
sys.setswitchinterval(1e-6)
from netkit import model, specs
from cni import all_in_one, spec
records = [
    model.EndpointRecord(id="1", network="n", sandbox="s", ifname="e", request=specs.Request()),
    model.ChangeRecord(id="1", network="n"),
    model.SandboxRecord(id="1", name="x", sort="named", netns=None),
    model.NetworkRecord(id="1", name="x", driver="d"),
]
texts = [(model.encode(record), type(record)) for record in records]
ready = threading.Barrier(8)
def meet(first):
    ready.wait()
    for number in range(4):
        text, kind = texts[(first + number) % 4]
        for _ in range(50):
            model.decode(text, kind)
            spec.options({"runtimeConfig": {}}, all_in_one.Conf)
threads = [threading.Thread(target=meet, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_may_meet_a_kind_of_record_for_the_first_time_at_once() -> None:
    """msgspec shows what it learns of a type before that is whole: half of these crashed."""
    env = {**os.environ, "PYTHONPATH": f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", _MEET], env=env, timeout=_BOUND_S)
        assert done.returncode == 0


def test_a_network_that_another_worker_is_making_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def point(name: str) -> None:
        if name == "intended" and threading.current_thread() is maker:
            begun.set()
            assert go_on.wait(_BOUND_S)

    def make() -> None:
        engine = Engine()
        engine.create_network(NetworkSpec("web", subnets=(IPv4Network("10.9.0.0/24"),)))
        engine.close()

    monkeypatch.setattr(steps, "point", point)
    maker = threading.Thread(target=make)
    maker.start()
    assert begun.wait(_BOUND_S)
    timer = threading.Timer(0.2, go_on.set)
    timer.start()
    ep = host.engine().connect("web", name="c1")
    assert [str(address.ip) for address in ep.addresses] == ["10.9.0.2"]
    for thread in (maker, timer):
        thread.join(_BOUND_S)


# -- how it ends


def test_stopping_it_lets_calls_end_and_sends_away_who_waits(host: Host) -> None:
    with serving(host) as served:
        served.gates["slow"] = threading.Event()
        with served.begin(b"slow") as slow, served.connect() as silent:
            assert until(lambda: len(served.calls) == 1)
            served.server.stop()
            assert answer(silent) == "closed"
            with pytest.raises(ConnectionRefusedError):
                served.connect()
            served.gates["slow"].set()
            assert answer(slow) == (0, b"SLOW")


def test_a_call_without_end_does_not_keep_it_from_stopping(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_STOP_S", 0.1)
    with serving(host) as served:
        served.gates["slow"] = threading.Event()
        with served.begin(b"slow"):
            assert until(lambda: len(served.calls) == 1)
            served.server.stop()
            assert until(lambda: not served.server._listener.fileno() >= 0)


def test_idle_for_long_enough_it_ends_but_not_in_the_midst_of_a_call(host: Host) -> None:
    with serving(host, idle_s=_BOUND_S) as served:
        served.gates["slow"] = threading.Event()
        with served.begin(b"slow") as slow:
            assert until(lambda: len(served.calls) == 1)
            served.server._idle_s = 0.2  # not before, or it might have ended by now
            assert served.ask(b"x") == (0, b"X")
            time.sleep(0.4)  # longer than idle_s: what is shown is that it does not end
            assert served.ask(b"x") == (0, b"X")
            served.gates["slow"].set()
            assert answer(slow) == (0, b"SLOW")
        assert until(lambda: not served.server._listener.fileno() >= 0)


# -- the program


@contextlib.contextmanager
def netkitd(
    *arguments: str,
    ready: Callable[[], bool] | None = None,
    program: Sequence[str] = _PROGRAM,
) -> Iterator[subprocess.Popen[str]]:
    """The program, once it listens; killed at the end."""
    run_dir = os.environ["NETKIT_RUN_DIR"]
    env = {**os.environ, "PYTHONPATH": f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    with subprocess.Popen(
        [*program, *arguments], env=env, text=True, stderr=subprocess.PIPE
    ) as child:
        try:
            there = ready or (lambda: os.path.exists(f"{run_dir}/netkitd.sock"))
            assert until(lambda: there() or child.poll() is not None, _BOUND_S)
            yield child
        finally:
            child.kill()


def called(path: str) -> Answer:
    return Served(path).ask(b"{}", b"host-local", CNI_COMMAND="VERSION")


def test_s35_the_socket_is_for_root_and_the_group_and_nobody_else(host: Host) -> None:
    with netkitd():
        run_dir = Path(os.environ["NETKIT_RUN_DIR"])
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (run_dir, *run_dir.glob("netkitd*"))
        }
        assert modes == {run_dir.name: 0o750, "netkitd.sock": 0o660, "netkitd.lock": 0o600}
        with open("/proc/self/net/unix") as sockets:
            assert "@" not in "".join(line for line in sockets if "netkit" in line)
        script = (
            "import os, socket, sys\nos.setgroups([])\nos.setgid(65534)\nos.setuid(65534)\n"
            "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        )
        command = [sys.executable, "-c", script, f"{run_dir}/netkitd.sock"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND_S)
        if "Operation not permitted" in done.stderr or "Invalid argument" in done.stderr:
            pytest.skip("there is one user only in this user namespace")
        assert "PermissionError: [Errno 13]" in done.stderr


def test_it_serves_the_plugins_and_says_so_in_the_log(host: Host) -> None:
    with netkitd() as child:
        said = called(f"{os.environ['NETKIT_RUN_DIR']}/netkitd.sock")
        assert isinstance(said, tuple)
        assert "1.1.0" in json.loads(said[1])["supportedVersions"]
        child.terminate()
        _, log = child.communicate(timeout=_BOUND_S)
    assert "host-local VERSION /: exit code 0" in log
    assert child.returncode == 0


def test_f20_a_second_one_is_refused_and_the_first_goes_on(host: Host) -> None:
    with netkitd() as first, netkitd(ready=lambda: False) as second:
        _, said = second.communicate(timeout=_BOUND_S)
        assert second.returncode == 1
        assert f"netkitd runs already: process {first.pid} holds" in said
        assert first.poll() is None
        assert called(f"{os.environ['NETKIT_RUN_DIR']}/netkitd.sock")


def test_told_to_end_it_removes_its_socket_and_killed_its_successor_does(host: Host) -> None:
    path = Path(os.environ["NETKIT_RUN_DIR"], "netkitd.sock")
    with netkitd() as child:
        child.kill()
        child.wait(_BOUND_S)
    assert path.exists()
    dead = path.stat().st_ino
    with netkitd(ready=lambda: path.exists() and path.stat().st_ino != dead) as child:
        assert called(str(path))
        child.terminate()
        child.wait(_BOUND_S)
    assert not path.exists()


def test_systemd_may_listen_for_it_and_is_told_when_it_is_ready(host: Host) -> None:
    where = f"{host.base}/activated"
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        listener.bind(where)
        listener.listen()
        systemd.bind(f"{host.base}/notify")
        systemd.settimeout(_BOUND_S)
        os.dup2(listener.fileno(), 100)
        script = 'exec 3<&100 100<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        env = {
            **os.environ,
            "PYTHONPATH": f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}",
            "NOTIFY_SOCKET": f"{host.base}/notify",
        }
        command = ["bash", "-c", script, "bash", *_PROGRAM]
        with subprocess.Popen(command, env=env, pass_fds=(100,), stderr=subprocess.PIPE) as child:
            os.close(100)
            try:
                assert systemd.recv(99) == b"READY=1"
                assert called(where)
                assert not os.path.exists(f"{os.environ['NETKIT_RUN_DIR']}/netkitd.sock")
                child.terminate()
                assert systemd.recv(99) == b"STOPPING=1"
                assert child.wait(_BOUND_S) == 0
            finally:
                child.kill()
    assert os.path.exists(where)  # it is systemd's


def test_it_does_not_take_the_place_of_somebody_who_listens(host: Host) -> None:
    run_dir = os.environ["NETKIT_RUN_DIR"]
    os.mkdir(run_dir, 0o700)
    with socket.socket(socket.AF_UNIX) as systemd:
        systemd.bind(f"{run_dir}/netkitd.sock")
        systemd.listen()
        with netkitd(ready=lambda: False) as child:
            _, said = child.communicate(timeout=_BOUND_S)
        assert child.returncode == 1
        assert "somebody else listens" in said


def test_f25_it_keeps_no_namespace_of_a_container(host: Host) -> None:
    """What it opened there is closed when the call is over."""
    with netkitd() as child:
        netns.create("c1")
        inode = os.stat("/run/netns/c1").st_ino
        served = Served(f"{os.environ['NETKIT_RUN_DIR']}/netkitd.sock")
        conf = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}
        added = served.ask(
            json.dumps(conf).encode(),
            b"loopback",
            CNI_COMMAND="ADD",
            CNI_CONTAINERID="c1",
            CNI_IFNAME="lo",
            CNI_NETNS="/run/netns/c1",
            CNI_PATH="/opt/cni/bin",
        )
        assert added[0] == 0, added
        for fd in Path(f"/proc/{child.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it answers before it closes
                assert str(inode) not in os.readlink(fd)
        netns.delete("c1")


def test_the_state_may_be_replaced_under_it(host: Host) -> None:
    """A store that is kept open is not the one at that path for ever."""
    import shutil

    with netkitd() as child:
        path = f"{os.environ['NETKIT_RUN_DIR']}/netkitd.sock"
        state = os.environ["NETKIT_STATE_DIR"]

        def attach(name: str) -> Answer:
            netns.create(name)
            conf = {"cniVersion": "1.1.0", "name": "lo", "type": "loopback"}
            environ = {
                "CNI_COMMAND": "ADD",
                "CNI_CONTAINERID": name,
                "CNI_IFNAME": "lo",
                "CNI_NETNS": f"/run/netns/{name}",
                "CNI_PATH": "/opt/cni/bin",
            }
            try:
                return Served(path).ask(json.dumps(conf).encode(), b"loopback", **environ)
            finally:
                netns.delete(name)

        assert attach("c1")[0] == 0
        shutil.rmtree(state)
        assert attach("c2")[0] == 0
        assert os.path.exists(f"{state}/state.db")
        child.send_signal(signal.SIGTERM)
        assert child.wait(_BOUND_S) == 0
