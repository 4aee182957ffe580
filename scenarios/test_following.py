"""The host's resolv.conf changes, and what runs asks whom the host asks, within a second.

Row F8 of features.md, and F33 of trust.md: Docker tells containers when they start, and never again
(moby#46199).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network

import pytest

from netkit import background, following, nameservice
from netkit.engine import Engine
from netkit.following import Follower
from netkit.kernel import mounts
from netkit.specs import NameFiles, NetworkSpec
from scenarios.lab import Host, netkit, run, until
from scenarios.test_name_files import BOX, host_file, process, sandbox
from tests.test_daemon import netkitd

SOON_S = 5 * 1.0  # five times what the row has: a machine may be busy
HOSTS, RESOLVED = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
ELSEWHERE = "/run/elsewhere"
Change = Callable[[str], None]


@pytest.fixture
def engine(host: Host) -> Iterator[Engine]:
    """A host that asks 9.9.9.9, with a network without names and one with them."""
    before = read(HOSTS)
    host_file("resolv.conf", ask("9.9.9.9"))
    os.makedirs(ELSEWHERE)  # before anybody watches /run
    engine = host.engine()
    for number, name in enumerate(("net", "named"), 1):
        subnets = (IPv4Network(f"172.25.{number}.0/24"),)
        engine.create_network(NetworkSpec(name, subnets=subnets, names=name == "named"))
    yield engine
    for path in (HOSTS, ELSEWHERE):
        run(f"umount {path} 2>/dev/null || true")
    host_file("resolv.conf", before)
    for path in (ELSEWHERE, "/run/systemd"):
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def follower(engine: Engine) -> Iterator[list[str]]:
    """What netkitd runs, in a thread of the test; what it complains of."""
    said: list[str] = []
    follower = Follower(said.append)
    thread = follower.start()
    try:
        yield said
    finally:
        follower.stop()
        thread.join(10)
        assert not thread.is_alive()
    assert not said


@pytest.fixture
def notified(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A follower that looks when the kernel tells it to, and not a moment later by itself."""
    monkeypatch.setattr(following, "_AGAIN_S", 60.0)
    request.getfixturevalue("follower")


def read(path: str) -> str:
    with open(path) as file:
        return file.read()


def ask(*servers: str) -> str:
    return "".join(f"nameserver {server}\n" for server in servers)


def soon(path: str, text: str) -> bool:
    return until(lambda: text in read(path), SOON_S)


# -- however it changes


def by_rename(text: str) -> None:
    host_file("resolv.conf", text)


def in_place(text: str) -> None:
    with open(HOSTS, "w") as file:
        file.write(text)


def gone_and_back(text: str) -> None:
    os.unlink(HOSTS)
    in_place(text)


def behind_a_symlink(text: str) -> None:
    os.makedirs(f"{ELSEWHERE}/deep")
    with open(f"{ELSEWHERE}/deep/file", "w") as file:
        file.write(text)
    os.symlink("deep/file", f"{ELSEWHERE}/link")
    os.unlink(HOSTS)
    os.symlink(f"..{ELSEWHERE}/link", HOSTS)


def mounted_over(text: str) -> None:
    with open(f"{ELSEWHERE}/file", "w") as file:
        file.write(text)
    mounts.mount(f"{ELSEWHERE}/file", HOSTS, None, mounts.MS_BIND)  # the program writes mtab


def by_resolved(text: str) -> None:
    """Its stub is all the host names; whom it asks is in a file of its own."""
    os.makedirs(os.path.dirname(RESOLVED))
    with open(RESOLVED, "w") as file:
        file.write(text)
    host_file("resolv.conf", ask("127.0.0.53"))


@pytest.mark.parametrize(
    "change",
    [by_rename, in_place, gone_and_back, behind_a_symlink, mounted_over, by_resolved],
    ids=lambda change: change.__name__,
)
@pytest.mark.usefixtures("notified")
def test_f8_f33_it_is_told_within_a_second_however_the_file_changes(
    engine: Engine, change: Change
) -> None:
    engine.connect("net", name="box")
    by_rename(ask("192.0.2.9"))
    assert soon(BOX, "192.0.2.9")
    change(ask("192.0.2.1"))
    assert soon(BOX, "nameserver 192.0.2.1\n")


@pytest.mark.usefixtures("notified")
def test_f8_a_change_is_in_within_a_second(engine: Engine) -> None:
    engine.connect("net", name="box")
    took = []
    for number in range(3):
        began = time.monotonic()
        by_rename(ask(f"192.0.2.{number}"))
        assert soon(BOX, f"192.0.2.{number}")
        took.append(time.monotonic() - began)
    assert min(took) < 1.0, "a busy machine may be late, but not each time"


@pytest.mark.usefixtures("notified")
def test_f33_it_is_followed_through_all_that_becomes_of_the_file(engine: Engine) -> None:
    """What leads to it from now on is watched from now on; of what it was before nobody hears."""
    engine.connect("net", name="box")
    behind_a_symlink(ask("192.0.2.1"))
    assert soon(BOX, "192.0.2.1")
    with open(f"{ELSEWHERE}/deep/file", "w") as file:
        file.write(ask("192.0.2.2"))
    assert soon(BOX, "192.0.2.2")
    shutil.rmtree(ELSEWHERE)
    os.unlink(HOSTS)
    by_resolved(ask("192.0.2.3"))
    assert soon(BOX, "192.0.2.3")
    shutil.rmtree("/run/systemd")
    os.makedirs(os.path.dirname(RESOLVED))
    with open(RESOLVED, "w") as file:
        file.write(ask("192.0.2.4"))
    assert soon(BOX, "192.0.2.4")


# -- whoever depends on it


@pytest.mark.usefixtures("follower")
def test_f8_it_reaches_containers_namespaces_and_processes_alike(engine: Engine) -> None:
    with sandbox("run") as of_container, process("--mount") as number:
        netkit(f"connect --net net -h web1 pid:{number}")
        engine.connect("net", name="named-one")
        netkit("run -d --net host --name on-host -- sleep 60")
        inside = f"nsenter --target {number} --mount cat {HOSTS}"
        host_pid = netkit("inspect -f '{{.State.Pid}}' on-host").strip()
        on_host = f"nsenter --target {host_pid} --mount cat {HOSTS}"
        try:
            by_rename(ask("192.0.2.1") + "# as the host has it\n")
            assert until(lambda: "192.0.2.1" in of_container(HOSTS), SOON_S)
            assert until(lambda: "192.0.2.1" in run(inside), SOON_S)
            assert soon("/etc/netns/named-one/resolv.conf", "192.0.2.1")
            assert until(lambda: run(on_host) == read(HOSTS), SOON_S)
        finally:
            netkit("rm -f on-host")
            netkit(f"disconnect --net net pid:{number}")


@pytest.mark.usefixtures("follower")
def test_f8_where_netkit_is_asked_the_file_says_whom_it_asks_by_now(engine: Engine) -> None:
    engine.connect("named", name="box")
    by_rename(ask("192.0.2.1") + "search new.test\n")
    assert soon(BOX, "about others it asks 192.0.2.1\n")
    assert read(BOX).endswith("nameserver 172.25.2.1\nsearch new.test\noptions ndots:0\n")


@pytest.mark.usefixtures("follower")
def test_f8_f9_what_a_user_edited_or_chose_is_left_alone(engine: Engine) -> None:
    engine.connect("net", name="box")
    engine.connect("net", name="edited")
    engine.connect("net", name="given", files=NameFiles(servers=("203.0.113.1",)))
    with open("/etc/netns/edited/resolv.conf", "a") as file:
        file.write("# mine\n")
    by_rename(ask("192.0.2.1"))
    assert soon(BOX, "192.0.2.1")
    assert read("/etc/netns/edited/resolv.conf") == ask("9.9.9.9") + "# mine\n"
    assert read("/etc/netns/given/resolv.conf") == ask("203.0.113.1")


@pytest.mark.usefixtures("follower")
@pytest.mark.parametrize("text", [None, "", ask("127.0.0.53"), ask("127.0.0.1"), "search a.test\n"])
def test_f33_a_host_without_servers_leaves_those_that_were(
    engine: Engine, text: str | None
) -> None:
    """Nobody's questions go to 8.8.8.8 because a file is being written, or resolved restarts."""
    engine.connect("net", name="box")
    if text is None:
        os.unlink(HOSTS)
    else:
        by_rename(text)
    engine.connect("net", name="later")  # it has to ask somebody, and its file says who that is
    assert "FALLBACK" in read("/etc/netns/later/resolv.conf")
    assert engine.renew()
    assert read(BOX) == ask("9.9.9.9")
    by_rename(ask("192.0.2.1"))
    for name in ("box", "later"):
        assert soon(f"/etc/netns/{name}/resolv.conf", "192.0.2.1")


@pytest.mark.usefixtures("follower")
def test_f33_five_servers_zone_ids_and_all_that_is_no_server(engine: Engine) -> None:
    engine.connect("net", name="box")
    servers = ("fe80::1%eth0", "192.0.2.1", "fd00::1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
    by_rename(ask(*servers, "nonsense"))
    assert soon(BOX, ask("192.0.2.1", "192.0.2.2", "192.0.2.3"))
    assert "# left out, not reachable from here: fe80::1%eth0 fd00::1\n" in read(BOX)
    assert "# left out, only 3 are ever asked: 192.0.2.4\n" in read(BOX)


# -- with netkitd, and without it


def test_f8_netkitd_follows_and_catches_up_with_what_it_missed(engine: Engine) -> None:
    engine.connect("net", name="box")
    by_rename(ask("192.0.2.1"))
    assert read(BOX) == ask("9.9.9.9")
    with netkitd() as daemon:
        assert until(lambda: "192.0.2.1" in read(BOX))  # it has to start first
        by_rename(ask("192.0.2.2"))
        assert soon(BOX, "192.0.2.2")
        daemon.terminate()
        daemon.wait(10)


@pytest.mark.parametrize("touch", ["exec", "connect"])
def test_f8_without_netkitd_the_next_call_brings_it_up_to_date(engine: Engine, touch: str) -> None:
    engine.connect("net", name="box")
    by_rename(ask("192.0.2.1"))
    if touch == "exec":
        assert netkit(f"exec box -- cat {HOSTS}") == ask("192.0.2.1")
    else:
        engine.connect("named", "box")
        assert "192.0.2.1" in read(BOX)


def test_netkitd_is_needed_for_as_long_as_somebodys_file_is_kept(engine: Engine) -> None:
    follower = Follower(print)
    assert not follower.is_needed()
    engine.connect("net", name="box")
    assert follower.is_needed()
    engine.disconnect("net", "box")
    run("ip netns add theirs")
    engine.connect("net", "theirs")  # whose files are not netkit's
    assert not follower.is_needed()


def test_netkitd_is_started_by_the_first_whose_file_depends_on_the_hosts(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where it would keep a network alive that is not the host's own."""
    started: list[str] = []
    monkeypatch.setattr(nameservice, "start_netkitd", lambda store, _: started.append(store))
    engine.connect("net", name="box")
    assert not started
    monkeypatch.setattr(background, "is_host", lambda: True)
    run("ip netns add theirs")
    engine.connect("net", "theirs")
    with engine.dry_run():
        engine.connect("net", name="never")
    assert not started
    engine.connect("net", name="other")
    assert len(started) == 1


def test_who_is_being_connected_is_told_a_moment_later(engine: Engine, follower: list[str]) -> None:
    engine.connect("net", name="box")
    (box,) = engine.sandboxes()
    with engine.store.locked(box.id):
        by_rename(ask("192.0.2.1"))
        assert not engine.renew(box.id)
        assert read(BOX) == ask("9.9.9.9")
    assert soon(BOX, "192.0.2.1")


def test_each_change_is_passed_on_twice_for_who_was_about_to_put_the_old_text_on_record(
    host: Host,
) -> None:
    passes: list[float] = []

    class Counting(Engine):
        def renew(self, sandbox: str | None = None) -> bool:
            passes.append(time.monotonic())
            return True

    follower = Follower(print, Counting)
    thread = follower.start()
    try:
        assert until(lambda: len(passes) >= 2)
        assert passes[1] - passes[0] >= following._AGAIN_S
    finally:
        follower.stop()
        thread.join(10)


@pytest.mark.usefixtures("follower")
def test_hundreds_are_told_within_a_second_too(engine: Engine) -> None:
    """More than there are locks held at once."""
    names = [f"b{number}" for number in range(220)]
    for name in names:
        os.makedirs(f"/etc/netns/{name}", exist_ok=True)
    _on_record(engine, names)
    by_rename(ask("192.0.2.1"))
    paths = [f"/etc/netns/{name}/resolv.conf" for name in names]
    assert until(lambda: all("192.0.2.1" in read(path) for path in paths), SOON_S)


def _on_record(engine: Engine, names: list[str]) -> None:
    """Sandboxes with a file each, and nothing else: to make them all takes its time."""
    from netkit import naming, steps
    from netkit.model import SandboxRecord

    with engine.store.transaction():
        for name in names:
            path = f"/etc/netns/{name}/resolv.conf"
            with open(path, "w") as file:
                file.write(ask("9.9.9.9"))
            plan = [steps.File(path=path, content=ask("9.9.9.9"))]
            engine.store.put(
                SandboxRecord(
                    id=naming.new_id(),
                    name=name,
                    sort="named",
                    netns=f"/run/netns/{name}",
                    epoch=engine.changes.epoch,
                    steps=steps.encode(plan),
                )
            )
