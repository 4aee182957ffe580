"""Faults of the machine: no room, no lock, a reboot, things that died behind netkit's back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from netkit import containers, recovery, steps, store
from netkit.containers import RunSpec
from netkit.engine import Engine
from netkit.errors import Conflict, KernelRefused
from netkit.kernel import netns, process
from netkit.model import SandboxRecord
from netkit.portspec import PortSpec
from netkit.specs import NameFiles, NetworkSpec, Request
from scenarios.lab import Host, run, snapshot, until
from tests.test_transactions import tables

WEB = NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/24"),))
SMALL = NetworkSpec("small", subnets=(IPv4Network("172.26.0.0/29"),))
PORTS = Request(ports=PortSpec.parse("8080:80"))
FILES = NameFiles(hostname="web1")


# -- the state directory


@pytest.fixture
def disk(host: Host) -> Iterator[str]:
    """The state directory on a small disk of its own."""
    path = os.environ["NETKIT_STATE_DIR"]
    run(f"mkdir -m 0700 {path}", f"mount -t tmpfs -o size=8m,mode=0700 none {path}")
    yield path
    run(f"umount -l {path}")


def test_a_read_only_state_directory_refuses_all_and_changes_nothing(host: Host, disk: str) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    engine.connect("web", name="c1")
    before = snapshot(), tables(engine)
    engine.close()
    run(f"mount -o remount,bind,ro {disk}")
    for work in (
        lambda: engine.connect("web", name="c2"),
        lambda: engine.disconnect("web", "c1"),
        lambda: engine.delete_network("web", force=True),
    ):
        with pytest.raises(KernelRefused, match=r"Read-only file system|readonly database"):
            work()
    assert snapshot() == before[0]
    run(f"mount -o remount,bind,rw {disk}")
    assert tables(engine) == before[1]
    engine.connect("web", name="c2")
    engine.delete_network("web", force=True)


@pytest.mark.parametrize("pages", [0, 1, 2, 4, 8, 16])
def test_a_full_disk_leaves_nothing_half_done(
    host: Host, disk: str, monkeypatch: pytest.MonkeyPatch, pages: int
) -> None:
    """However little room is left: for the intent, for the lease, or not for the commit."""
    engine = host.engine()
    engine.create_network(WEB)
    engine.connect("web", None, PORTS, FILES, name="c1")
    engine.disconnect("web", "c1")
    before = snapshot(), tables(engine)
    fill(disk, pages)
    try:
        engine.connect("web", None, PORTS, FILES, name="c1")
    except KernelRefused as refused:
        assert "full" in str(refused) or "disk I/O error" in str(refused)  # noqa: PT017
        assert snapshot() == before[0]
        os.unlink(f"{disk}/filler")
        # as for any call of another process: what could not be forgotten is an intent of the dead
        monkeypatch.setattr(recovery, "maker_lives", lambda maker: False)
        engine.networks()
        monkeypatch.undo()
        assert (snapshot(), tables(engine)) == before
        engine.connect("web", None, PORTS, FILES, name="c1")
    else:
        os.unlink(f"{disk}/filler")
    engine.disconnect("web", "c1")
    assert snapshot() == before[0]


def fill(directory: str, but: int) -> None:
    """Leave *but* pages of the disk."""
    with open(f"{directory}/filler", "wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        size = file.seek(0, os.SEEK_END)
        file.truncate(max(0, size // 4096 - but) * 4096)


@contextlib.contextmanager
def held(path: str, how: str) -> Iterator[None]:
    """Another process holds the store: by netkit's lock, or by SQLite's."""
    receive, report = os.pipe()
    if (pid := os.fork()) == 0:
        if how == "flock":
            fcntl.flock(os.open(f"{path}.lock", os.O_RDWR), fcntl.LOCK_EX)
        else:
            sqlite3.connect(path).execute("BEGIN EXCLUSIVE")
        os.write(report, b"!")
        signal.pause()
    os.read(receive, 1)
    os.close(receive)
    os.close(report)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("how", ["flock", "sqlite"])
def test_a_store_another_process_holds_is_a_conflict_in_bounded_time(
    host: Host, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    assert (usual_s := store._WAIT_S) <= 5
    monkeypatch.setattr(store, "_WAIT_S", 0.2)
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    engine.close()
    with held(f"{engine.store.state_dir}/state.db", how):
        begin = time.monotonic()
        with pytest.raises(Conflict, match="holds the lock") as caught:
            engine.connect("web", name="c1")
        assert caught.value.hint == "try again"
        assert 0.2 <= time.monotonic() - begin < usual_s
    assert (snapshot(), tables(engine)) == before
    engine.connect("web", name="c1")


@pytest.mark.parametrize("how", ["flock", "sqlite"])
def test_a_store_that_locks_up_before_the_commit_leaves_nothing_in_the_kernel(
    host: Host, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(store, "_WAIT_S", 0.1)
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    with contextlib.ExitStack() as stack:

        def lock_up(name: str) -> None:
            if name == "added":
                stack.enter_context(held(f"{engine.store.state_dir}/state.db", how))

        engine.close()
        monkeypatch.setattr(steps, "point", lock_up)
        with pytest.raises(Conflict, match="holds the lock"):
            engine.connect("web", None, PORTS, FILES, name="c1")
        assert snapshot() == before[0]
    monkeypatch.setattr(recovery, "maker_lives", lambda maker: False)
    engine.networks()
    assert (snapshot(), tables(engine)) == before


# -- forwarding


def test_forwarding_is_put_back_when_the_last_network_goes(host: Host) -> None:
    engine = host.engine()
    assert forwarding() == "0"
    engine.create_network(WEB)
    engine.create_network(SMALL)
    engine.delete_network("web")
    assert forwarding() == "1"
    engine.delete_network("small")
    assert forwarding() == "0"


def test_forwarding_that_was_on_stays_on(host: Host) -> None:
    run("sysctl -qw net.ipv4.ip_forward=1")
    engine = host.engine()
    engine.create_network(WEB)
    engine.delete_network("web")
    assert forwarding() == "1"


def test_forwarding_turned_off_by_somebody_is_seen_and_not_touched(host: Host) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    run("sysctl -qw net.ipv4.ip_forward=0")
    assert [str(drift) for drift in engine.check()] == [
        "net.ipv4.ip_forward is 0: nothing is forwarded to or from containers"
    ]
    engine.delete_network("web")
    assert forwarding() == "0"


def forwarding() -> str:
    return run("sysctl -n net.ipv4.ip_forward").strip()


# -- reboot: the kernel and /run forget, the disk does not


@contextlib.contextmanager
def rebooted(host: Host, engine: Engine) -> Iterator[Engine]:
    """A machine with the same disk, on which everything else is as after a boot."""
    engine.close()
    state = os.environ["NETKIT_STATE_DIR"]
    for name in os.listdir(netns.NAMED):
        netns.delete(name)
    with Host() as second, pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETKIT_STATE_DIR", state)
        yield second.engine()
    os.environ["NETKIT_STATE_DIR"] = state
    os.environ["NETKIT_RUN_DIR"] = f"{host.base}/run"


def test_after_a_reboot_networks_are_made_again_when_they_are_needed(host: Host) -> None:
    first = host.engine()
    first.create_network(WEB)
    first.create_network(SMALL)
    first.connect("web", None, PORTS, name="c1")
    with rebooted(host, first) as engine:
        empty = snapshot()
        assert [net.name for net in engine.networks()][:2] == ["web", "small"]
        assert engine.check() == []
        changed = {k for k, v in snapshot().items() if v != empty[k]}
        assert changed == set()
        ep = engine.connect("web", None, PORTS, name="c2")
        assert ep.ports
        assert engine.check("web") == []
        links = run("ip -o link")
        assert engine.network("web").bridge in links
        assert engine.network("small").bridge not in links
        engine.disconnect("web", "c2")
        engine.delete_network("small")
        engine.delete_network("web", force=True)
        assert forwarding() == "0"
        assert run("nft list ruleset") == ""
        assert tables(engine) == {"record": [], "lease": [], "claim": []}


def test_after_a_reboot_nothing_of_the_new_boot_is_undone(host: Host) -> None:
    """What bears our names today is not what we made yesterday."""
    first = host.engine()
    net = first.create_network(NetworkSpec("web", subnets=WEB.subnets, bridge="lab0"))
    ep = first.connect("web", name="c1")
    with rebooted(host, first) as engine:
        run("sysctl -qw net.ipv4.ip_forward=1", "ip netns add c1")
        run(f"ip link add lab0 address {net.mac} type bridge")
        run(f"ip link add {ep.host_ifname} address {ep.host_mac} type bridge")
        before = snapshot()
        engine.delete_network("web", force=True)
        now = snapshot()
        # the files of c1 lay on the disk, and were ours
        assert {k: v for k, v in now.items() if k != "files"} == {
            k: v for k, v in before.items() if k != "files"
        }


def test_a_small_pool_survives_many_reboots_of_the_same_containers(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SMALL)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            for number in range(5):
                engine.connect("small", name=f"c{number}")
            engine = stack.enter_context(rebooted(host, engine))
        assert sorted(engine.gc()) == [f"c{number}" for number in range(5)]
        assert engine.endpoints() == []
        assert tables(engine)["lease"] == []


def test_a_network_half_made_again_when_killed_is_made_again_next_time(host: Host) -> None:
    first = host.engine()
    first.create_network(WEB)
    with rebooted(host, first) as engine:
        engine.close()
        for die_at in ("add Tables after", "add Bridge after", "add LinkUp after"):
            if (pid := os.fork()) == 0:
                steps.point = lambda name, at=die_at: (  # type: ignore[misc]
                    os.kill(os.getpid(), signal.SIGKILL) if name == at else None
                )
                with contextlib.suppress(BaseException):
                    Engine().connect("web", name="c1")
                os._exit(0)
            assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        engine.connect("web", name="c1")
        assert engine.check() == []


# -- the dead


def test_gc_finds_a_namespace_somebody_deleted(host: Host) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    engine.connect("web", None, PORTS, FILES, name="c1")
    run("ip netns del c1")
    assert engine.gc() == ["c1"]
    assert (snapshot(), tables(engine)) == before
    assert engine.gc() == []


def test_gc_finds_a_process_that_has_ended(host: Host) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    with in_a_namespace() as other:
        ep = engine.connect("web", f"pid:{other.pid}", PORTS)
        assert engine.gc() == []
        other.kill()
    # the kernel takes the namespace down when it finds the time
    assert until(lambda: ep.host_ifname not in run("ip -o link"))
    assert f"pid-{other.pid}" in engine.gc()
    assert (snapshot(), tables(engine)) == before


@contextlib.contextmanager
def in_a_namespace() -> Iterator[subprocess.Popen[str]]:
    """A process of somebody else's with a network of its own."""
    command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout
            assert other.stdout.readline() == "ready\n"
            yield other
        finally:
            other.kill()


def test_gc_finds_a_container_whose_supervisor_was_killed(host: Host) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    engine.close()
    spec = RunSpec(command=("sleep", "60"), name="c1", networks=("web",), files=FILES)
    containers.run_detached(Engine, spec)
    sandbox = engine.store.get(SandboxRecord, "c1")
    kill_supervisor(sandbox.pid)
    assert containers.is_running(sandbox)
    assert engine.gc() == []
    process.kill(sandbox.pid, sandbox.start_time, signal.SIGKILL, 10)
    assert engine.gc() == ["c1"]
    ended = engine.store.get(SandboxRecord, "c1")
    assert (ended.exit_code, ended.maker) == (137, None)
    assert {k: v for k, v in snapshot().items() if k != "files"} == {
        k: v for k, v in before[0].items() if k != "files"
    }
    containers.remove(engine, "c1")
    assert (snapshot(), tables(engine)) == before


def kill_supervisor(pid: int) -> None:
    with open(f"/proc/{pid}/stat") as stat:
        parent = int(stat.read().rpartition(")")[2].split()[1])
    with open(f"/proc/{parent}/stat") as stat:
        started = int(stat.read().rpartition(")")[2].split()[19])
    assert parent != os.getpid()
    process.kill(parent, started, signal.SIGKILL, 10)


def test_a_supervisor_killed_before_the_container_is_on_record_takes_it_along(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the start of the command and the note of its pid."""
    engine = host.engine()
    engine.create_network(WEB)
    before = snapshot(), tables(engine)
    engine.close()
    marker = f"{host.base}/pid"

    def die(self: Engine, sandbox: SandboxRecord) -> None:
        with open(marker, "w") as file:
            file.write(f"{sandbox.pid} {sandbox.start_time}")
        os.kill(os.getpid(), signal.SIGKILL)

    spec = RunSpec(command=("sleep", "60"), name="c1", networks=("web",))
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "update_sandbox", die)
        with pytest.raises(Exception, match="supervisor died"):
            containers.run_detached(Engine, spec)
    with open(marker) as file:
        pid, started = map(int, file.read().split())
    assert until(lambda: not engine.networks() or tables(engine) == before[1])
    try:
        assert snapshot() == before[0]
        assert until(lambda: not process.alive(pid, started), 2), "the command lives on"
    finally:
        process.kill(pid, started, signal.SIGKILL, 10)


def test_the_dead_make_room_for_the_living(host: Host) -> None:
    engine = host.engine()
    engine.create_network(SMALL)
    for number in range(5):
        engine.connect("small", None, PORTS if number == 3 else None, name=f"c{number}")
    run("ip netns del c3")
    ep = engine.connect("small", None, PORTS, name="c9")  # its address, and its port
    assert str(ep.addresses[0]) == "172.26.0.5/29"
    assert sorted(sandbox.name for sandbox in engine.sandboxes()) == ["c0", "c1", "c2", "c4", "c9"]


def test_a_name_is_free_again_once_its_namespace_is_dead(host: Host) -> None:
    engine = host.engine()
    engine.create_network(WEB)
    engine.connect("web", name="c1")
    run("ip netns del c1")
    engine.connect("web", name="c1")
