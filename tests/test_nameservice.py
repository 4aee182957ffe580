"""How names come to be served: the name server follows the store, netkitd keeps it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from netkit import background, daemon, nameserver, nameservice, store
from netkit.addresses import Address
from netkit.config import Config
from netkit.engine import Engine
from netkit.errors import KernelRefused
from netkit.kernel import process
from netkit.kernel.process import Process
from netkit.model import EndpointRecord
from netkit.nameserver import Follower
from netkit.nameservice import Keeper
from netkit.specs import NetworkSpec, Request
from netkit.store import SqliteStore
from scenarios.lab import Host, run, until
from scenarios.served import resolve, served
from tests.asking import answering, forged

_BOUND_S = 10.0
GATEWAY = "172.25.0.1"


def network(engine: Engine, **given: Any) -> None:
    subnets = (ip_network("172.25.0.0/24"),)
    engine.create_network(NetworkSpec("web", names=True, subnets=subnets, **given))


@pytest.fixture
def engine(host: Host) -> Engine:
    engine = host.engine()
    network(engine)
    return engine


def ip(ep: EndpointRecord) -> Address:
    return ep.addresses[0].ip


# -- following the store


@pytest.fixture
def following(engine: Engine) -> Iterator[Follower]:
    onlooker = SqliteStore.onlooker(engine.store.state_dir)
    yield Follower(onlooker, engine.changes.epoch)
    onlooker.connection.close()


def knows(follower: Follower, ep: EndpointRecord, name: str) -> object:
    seen = follower.names.view(ip_address(GATEWAY), ip(ep))
    return seen and seen.addresses(name)


def test_what_is_committed_is_known_at_once_and_that_something_changed_told_once(
    engine: Engine, following: Follower
) -> None:
    assert following.fresh()  # it knows nothing before
    assert not following.fresh()
    one, two = (engine.connect("web", name=name) for name in ("one", "two"))
    assert following.fresh()
    assert knows(following, one, "two") == [ip(two)]
    assert not following.fresh()
    engine.disconnect("web", "two")
    following.catch_up()  # on its own account
    assert knows(following, one, "two") is None
    assert following.fresh()  # of which others have yet to hear


def test_what_is_not_committed_or_of_another_life_is_not_there(
    engine: Engine, following: Follower
) -> None:
    one = engine.connect("web", name="one")
    with engine.dry_run():
        engine.connect("web", name="two")
        following.catch_up()
        assert knows(following, one, "two") is None
    before = Follower(SqliteStore.onlooker(engine.store.state_dir), "another boot")
    assert knows(before, one, "one") is None
    assert not before.names.gateways()
    before._store.connection.close()


def test_one_that_fell_far_behind_begins_anew(
    engine: Engine, following: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_JOURNAL_SLACK", 1)
    monkeypatch.setattr(store, "_JOURNAL_ROWS", 3)
    one = engine.connect("web", name="one")
    following.catch_up()
    for name in ("two", "three", "four"):
        engine.connect("web", name=name)
    engine.disconnect("web", "two")
    assert len(engine.store.journal()) == 3
    following.catch_up()
    assert knows(following, one, "two") is None
    assert knows(following, one, "four")
    engine.disconnect("web", "four")
    following.catch_up()
    assert knows(following, one, "four") is None


def test_a_question_it_comes_to_grief_with_is_not_the_end_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failures: list[Exception | None] = [
        ValueError("odd\nname"),
        OSError(5, "Input/output error"),
        None,
    ]

    class Failing:
        def run(self) -> None:
            if (error := failures.pop(0)) is not None:
                raise error

    nameserver._serve(Failing())  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "netkitd: names: ValueError: odd\\nname",
        "netkitd: names: OSError: [Errno 5] Input/output error",
    ]
    failures[:] = [KernelRefused("no state")]
    with pytest.raises(KernelRefused):
        nameserver._serve(Failing())  # type: ignore[arg-type]


def test_an_onlooker_cannot_write(engine: Engine) -> None:
    onlooker = SqliteStore.onlooker(engine.store.state_dir)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        onlooker.connection.execute("DELETE FROM record")
    onlooker.connection.close()


def test_an_onlooker_of_nothing_says_so(host: Host) -> None:
    with pytest.raises(KernelRefused, match="cannot use the state directory"):
        SqliteStore.onlooker(f"{host.base}/none")


# -- the keeper


def test_without_names_to_serve_there_is_no_name_server(host: Host) -> None:
    engine = host.engine()
    with served(host) as keeper:
        engine.create_network(NetworkSpec("plain", names=False))
        engine.connect("plain", name="one")
        assert (keeper.pid, keeper.busy) == (None, False)
        network(engine)
        engine.connect("web", name="two")
        assert keeper.pid is not None
        assert until(lambda: keeper.busy)
        engine.disconnect("web", "two")
        assert until(lambda: not keeper.busy)


def test_one_that_starts_where_there_are_names_serves_them_unasked(engine: Engine) -> None:
    ep = engine.connect("web", name="one")
    with served_again(engine):
        assert until(lambda: resolve(ep.netns, GATEWAY, "one", patience_s=0.1) == [str(ip(ep))])


@contextlib.contextmanager
def served_again(engine: Engine, keeper: type[Keeper] = Keeper) -> Iterator[list[str]]:
    """A keeper with a log."""
    import threading

    said: list[str] = []
    with nameservice.listen(engine.store.run_dir) as listener:
        made = keeper(listener, engine.store.state_dir, said.append)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        try:
            yield said
        finally:
            made.stop()
            thread.join(_BOUND_S)
            assert not thread.is_alive()
            assert made.pid is None


def test_one_that_dies_at_once_is_started_less_and_less_often(engine: Engine) -> None:
    class Impatient(Keeper):
        BACKOFF_S = (0.0, 0.01, 0.02, _BOUND_S)

    engine.connect("web", name="one")
    state = Path(engine.store.state_dir)
    with served_again(engine, Impatient) as said:
        assert until(lambda: resolve("/run/netns/one", GATEWAY, "one", patience_s=0.1) is not None)
        engine.close()
        state.rename(f"{state}.away")
        for lines in (1, 3, 5):
            assert until(lambda: len(said) == lines)  # noqa: B023  # it is called here
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(said[-1].split()[-1]), signal.SIGKILL)
        assert until(lambda: len(said) == 6)
        assert not until(lambda: len(said) > 6, 0.1)  # the fourth waits
    Path(f"{state}.away").rename(state)


@pytest.mark.parametrize(
    "message", [b"[" * 60_000, b'[1, "a", "b", [["192.0.2.1", Infinity]]]', b"{}", b"[1]", b"\xff"]
)
def test_nonsense_is_the_end_of_a_name_server_and_not_of_its_keeper(message: bytes) -> None:
    said: list[str] = []
    with socket.socket(socket.AF_UNIX) as listener:
        Keeper(listener, "", said.append)._hear(message)
    assert len(said) == 1
    assert "talks nonsense" in said[0]


def test_addresses_are_learnt_before_who_asked_is_told_them(host: Host) -> None:
    """E14's way: what netkitd is told, by whom, and that the answer waits for it."""
    learnt: list[tuple[str, str, Sequence[tuple[Address, int]]]] = []

    def learn(sandbox: str, name: str, found: Sequence[tuple[Address, int]]) -> None:
        learnt.append((sandbox, name, found))
        if name == "broken.example.com":
            raise RuntimeError(name)

    from netkit.access import EgressRule

    engine = host.engine()
    with served(host, learn):
        rules = (EgressRule.parse("*.example.com"),)
        network(engine, servers=("10.9.0.53",))
        ep = engine.connect("web", name="one", request=Request(egress=rules))
        run("ip addr add 10.9.0.53/32 dev lo")
        with forged("10.9.0.53", answering("192.0.2.7", ttl=60)):
            for name in ("www.example.com", "broken.example.com", "www.example.org"):
                assert resolve(ep.netns, GATEWAY, name) == ["192.0.2.7"]
    addresses = [(ip_address("192.0.2.7"), 60)]
    assert [(name, list(found)) for _, name, found in learnt] == [
        ("www.example.com", addresses),
        ("broken.example.com", addresses),
    ]
    assert {sandbox for sandbox, _, _ in learnt} == {ep.sandbox}


def test_names_sock_is_roots_alone_and_replaces_one_that_is_dead(host: Host) -> None:
    os.mkdir(f"{host.base}/run", 0o700)
    for _ in range(2):
        with nameservice.listen(f"{host.base}/run"):
            assert os.stat(f"{host.base}/run/names.sock").st_mode & 0o777 == 0o600


# -- connect's side


def told(engine: Engine, settings: Config | None = None, *, start: bool = True) -> list[str]:
    given = settings or Config()
    return nameservice.problems(engine.store, given, [ip_address(GATEWAY)], start=start)


def test_netkitd_is_not_started_where_it_is_not_wanted(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(*_: object) -> None:
        pytest.fail("it was")

    monkeypatch.setattr(background, "start", start)
    assert told(engine) == ["netkitd does not run, and NETKIT_DAEMON=no forbids to start it"]
    monkeypatch.delenv("NETKIT_DAEMON")
    assert told(engine, Config(daemon=False)) == [
        "netkitd does not run, and `daemon = false` is configured"
    ]
    assert told(engine, start=False) == ["netkitd does not run"]


def test_who_does_not_answer_is_waited_for_within_bounds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameservice, "_WAIT_S", 0.1)
    with nameservice.listen(engine.store.run_dir):
        (text,) = told(engine)
    assert text.startswith("netkitd does not answer within 0.1 s")


def test_what_is_started_serves_the_very_state_that_is_meant(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an option, say, in places that the environment does not tell."""
    engine = Engine(f"{host.base}/other", f"{host.base}/other-run")
    network(engine)
    started: list[dict[str, str]] = []
    monkeypatch.setattr(background, "start", lambda _, environ, __: started.append(environ))
    monkeypatch.setattr(nameservice, "_WAIT_S", 0.05)
    monkeypatch.setenv("NETKIT_DAEMON", "yes")
    told(engine)
    (environ,) = started
    assert environ["NETKIT_STATE_DIR"] == f"{host.base}/other"
    assert environ["NETKIT_RUN_DIR"] == f"{host.base}/other-run"
    monkeypatch.setenv("NETKIT_STATE_DIR", f"{host.base}/other")
    monkeypatch.setenv("NETKIT_RUN_DIR", f"{host.base}/other-run")
    told(engine)
    assert started[1] == dict(os.environ)  # as plugins find it: netkitd serves who has the same
    engine.close()


# -- netkitd


@pytest.fixture
def netkitd(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """Where netkitd may be started, which ends with the test."""
    monkeypatch.setenv("NETKIT_DAEMON", "yes")
    engine = host.engine()
    engine.changes.warn = lambda text: pytest.fail(text)
    network(engine)
    yield engine
    if (found := running(engine)) is not None:
        assert process.kill(*found, signal.SIGTERM, _BOUND_S)


def running(engine: Engine) -> Process | None:
    with contextlib.suppress(OSError, ValueError):
        pid, started, _ = Path(engine.store.run_dir, "netkitd.lock").read_text().split()
        if process.alive(int(pid), int(started)):
            return Process(int(pid), int(started))
    return None


def test_f32_the_first_endpoint_starts_netkitd_and_the_next_brings_it_back(
    netkitd: Engine,
) -> None:
    one = netkitd.connect("web", name="one")
    assert resolve(one.netns, GATEWAY, "one") == [str(ip(one))]
    assert until(lambda: running(netkitd) is not None), log_of(netkitd)
    first = running(netkitd)
    assert first is not None
    child = children(first.pid)
    assert process.kill(*first, signal.SIGKILL, _BOUND_S)
    assert until(lambda: not any(map(os.path.exists, child)))  # it does not outlive netkitd
    two = netkitd.connect("web", name="two")
    assert resolve(one.netns, GATEWAY, "two") == [str(ip(two))]
    assert until(lambda: running(netkitd) not in (first, None))


def children(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = [f"/proc/{each}" for each in text.split()]
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [f"/proc/{each}" for each in (task / "children").read_text().split()]
    assert found
    return found


def test_netkitd_is_alone_once_others_have_left_and_what_is_connected_is_empty(
    netkitd: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells itself from others by its session; for now all are of one but what is connected."""
    ep = netkitd.connect("web", name="one")
    assert ep.netns is not None
    assert not daemon._is_alone()
    with subprocess.Popen(["nsenter", f"--net={ep.netns}", "sleep", "60"]) as resident:
        monkeypatch.setattr(os, "getsid", lambda pid: 7 if pid == resident.pid else 1)
        assert until(lambda: not daemon._is_alone())
        resident.kill()
    assert until(daemon._is_alone)


def test_systemd_may_listen_for_calls_and_for_names(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
    passed = [socket.socket(socket.AF_UNIX, kind) for kind in kinds]
    for number, sock in enumerate(passed):
        sock.bind(f"{host.base}/{number}")
        sock.listen()
    first = os.dup2(passed[0].fileno(), 200)
    os.dup2(passed[1].fileno(), 201)
    monkeypatch.setattr(daemon, "_FIRST_FD", first)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "2")
    calls, names = daemon._passed()
    assert calls is not None
    assert names is not None
    assert [calls.getsockname(), names.getsockname()] == [f"{host.base}/{n}" for n in (0, 1)]
    for sock in (*passed, calls, names):
        sock.close()
    unit = Path(daemon.__file__).parent / "systemd" / "netkitd.socket"
    assert f"ListenSequentialPacket=/run/netkit/{nameservice.SOCKET}" in unit.read_text()


def log_of(engine: Engine) -> str:
    return Path(engine.store.run_dir, "netkitd.log").read_text()
