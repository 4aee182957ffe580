"""Many processes at once: no error, no address given twice, nothing left over."""

from __future__ import annotations

import os
import re
import select
import sqlite3
import subprocess
import traceback
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network

import pytest
from msgspec.structs import replace

from netkit import live, permissions, policies, steps
from netkit.engine import Engine
from netkit.errors import Conflict, NotFound
from netkit.firewall import Reach, libnftables, nfnetlink
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from netkit.store import SqliteStore
from scenarios.lab import Host, netkit, run, snapshot
from tests.test_transactions import tables

SUBNETS = (IPv4Network("172.25.0.0/24"), IPv6Network("fd00:25::/64"))
WEB = NetworkSpec("web", subnets=SUBNETS, ipv6=True)
EPHEMERAL = Request(ports=PortSpec.parse("80"))


def at_once(count: int, work: Callable[[Engine, int], None]) -> list[str]:
    """*work* in *count* processes that begin together; what went wrong in any."""
    start, go = os.pipe()
    wrong, report = os.pipe()
    children = []
    for number in range(count):
        if (pid := os.fork()) == 0:
            try:
                os.close(go)
                libnftables.forget()
                nfnetlink.close()
                os.read(start, 1)  # ends when the parent closes its end
                engine = Engine()
                work(engine, number)
                engine.close()
            except BaseException:
                os.write(report, traceback.format_exc().encode()[-4000:] + b"\0")
            finally:
                os._exit(0)
        children.append(pid)
    for fd in (start, go, report):
        os.close(fd)
    with open(wrong) as file:
        said = file.read()
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    return [text for text in said.split("\0") if text]


@pytest.fixture
def engine(host: Host) -> Engine:
    """An engine that is closed: connections do not survive a fork."""
    made = host.engine()
    made.create_network(WEB)
    made.close()
    return made


def test_forty_processes_connect_at_once_and_each_gets_an_address_of_its_own(
    engine: Engine,
) -> None:
    before = snapshot(), tables(engine)
    engine.close()

    def connect(engine: Engine, number: int) -> None:
        engine.connect("web", None, EPHEMERAL, name=f"c{number}")

    assert at_once(40, connect) == []
    endpoints = engine.endpoints()
    assert len({ip for ep in endpoints for ip in ep.addresses}) == 80
    assert len({ep.ports[0].host_port for ep in endpoints}) == 40
    assert len({ep.host_ifname for ep in endpoints}) == 40
    assert engine.check() == []
    engine.close()

    def disconnect(engine: Engine, number: int) -> None:
        engine.disconnect("web", f"c{number}")

    assert at_once(40, disconnect) == []
    assert (snapshot(), tables(engine)) == before


def test_connecting_and_disconnecting_at_once_leaves_nothing(engine: Engine) -> None:
    before = snapshot(), tables(engine)
    engine.close()

    def mix(engine: Engine, number: int) -> None:
        for turn in range(3):
            engine.connect("web", None, EPHEMERAL, name=f"c{number}-{turn}")
            if turn % 2:
                engine.gc()  # which looks at what the others are in the midst of
            engine.disconnect("web", f"c{number}-{turn}")

    assert at_once(12, mix) == []
    assert (snapshot(), tables(engine)) == before


def test_what_somebody_is_taking_down_is_not_buried_meanwhile(engine: Engine) -> None:
    """Its namespace is gone already, and its records are theirs."""
    engine.connect("web", name="c1")
    (ep,) = engine.endpoints()
    other = subprocess.Popen(["sleep", "60"])
    try:
        with engine.store.transaction():
            engine.store.update(replace(ep, maker=f"{other.pid}:{started(other.pid)}"))
        run("ip netns del c1")
        assert engine.gc() == []
        assert [e.id for e in engine.endpoints()] == [ep.id]
    finally:
        other.kill()
        other.wait()
    assert engine.gc() == ["c1"]
    assert engine.endpoints() == []


def started(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[19]


def test_one_namespace_is_connected_once_by_many_at_once(engine: Engine) -> None:
    run("ip netns add c1")
    before = snapshot(), tables(engine)
    engine.close()

    def connect(engine: Engine, number: int) -> None:
        with suppress(Conflict):
            engine.connect("web", "c1")
            with open(f"{engine.store.run_dir}/../winner-{number}", "w"):
                pass

    assert at_once(8, connect) == []
    assert len(engine.endpoints()) == 1
    assert len(run(f"ls {engine.store.run_dir}/.. | grep winner").split()) == 1
    assert engine.check() == []
    engine.disconnect("web", "c1")
    now = snapshot(), tables(engine)
    assert now[1] == before[1]
    assert now[0] == before[0]


def test_processes_that_create_and_remove_the_same_network_all_end_well(host: Host) -> None:
    """The losers are told so by name; the state is always whole."""
    before = snapshot()

    def churn(engine: Engine, number: int) -> None:
        for _ in range(4):
            with suppress(Conflict):
                engine.create_network(WEB)
            with suppress(Conflict, NotFound):
                engine.connect("web", name=f"c{number}")
            with suppress(NotFound):
                engine.delete_network("web", force=True)

    assert at_once(3, churn) == []
    engine = host.engine()
    engine.gc()
    with suppress(NotFound):
        engine.delete_network("web", force=True)
    assert tables(engine) == {"record": [], "lease": [], "claim": []}
    assert snapshot() == before


def test_two_engines_of_one_process_do_not_unlock_each_others_store(host: Host) -> None:
    """To close a file is to drop every POSIX lock the process has on it, SQLite's too; another
    process would then think itself the last one, and remove the log the first still writes to.
    """
    first = host.engine()
    first.create_network(WEB)
    second = Engine()
    second.networks()
    second.close()
    netkit("network create --subnet 172.26.0.0/24 other")
    assert [net.name for net in first.networks()][:2] == ["web", "other"]
    first.connect("other", name="c1")
    assert netkit("ps --format '{{.Names}}'") == "c1\n"


def test_a_store_that_could_not_be_opened_is_not_half_open(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was told to try again finds the tables when it does."""

    def locked(self: SqliteStore, connection: sqlite3.Connection) -> None:
        raise sqlite3.OperationalError("database is locked")

    engine = host.engine()
    with monkeypatch.context() as patch:
        patch.setattr(SqliteStore, "_prepare", locked)
        with pytest.raises(Conflict):
            engine.create_network(WEB)
    assert engine.store.intents() == []
    engine.create_network(WEB)


def test_a_store_is_opened_while_others_open_and_close_it(host: Host) -> None:
    def open_and_close(engine: Engine, number: int) -> None:
        for _ in range(20):
            engine.networks()
            with engine.store.transaction():
                assert engine.store.intents() == []
            engine.close()

    assert at_once(12, open_and_close) == []


def test_who_comes_and_goes_while_permissions_change_has_what_is_said_and_no_more(
    engine: Engine,
) -> None:
    """Each is on record of somebody who is there, and whoever leaves takes all its own along."""

    def come_and_go(engine: Engine, number: int) -> None:
        for _ in range(5):
            engine.connect("web", name=f"c{number}")
            if number % 2:
                engine.disconnect("web", f"c{number}")
            else:
                engine.delete_sandbox(engine.sandbox(f"c{number}"))
        engine.connect("web", name=f"c{number}")

    def change(engine: Engine, number: int) -> None:
        for turn in range(6):
            permissions.police(engine, "web", icc=bool(turn % 2))
            if turn % 2 == 0:
                with suppress(Conflict):  # somebody has opened it meanwhile
                    permissions.allow(
                        engine, f"c{turn % 4}", f"c{turn % 4 + 1}:{80 + 2 * number}", "web"
                    )

    def work(engine: Engine, number: int) -> None:
        (come_and_go if number < 5 else change)(engine, number)

    assert at_once(7, work) == []
    permissions.police(engine, "web", icc=False)
    assert engine.check() == []
    said = run("nft list set bridge netkit reach; nft list set bridge netkit meet")
    held = [rule for ep in engine.endpoints() for rule in policies.pairs(ep)]
    assert sum(isinstance(rule, Reach) for rule in held) == len(engine.network("web").allows)
    links = {ep.host_ifname for ep in engine.endpoints()}
    assert set(re.findall(r'"(veth\w+)"', said)) <= links
    for ep in engine.endpoints():
        engine.leave(ep)
    assert "veth" not in run("nft list ruleset")


@pytest.mark.parametrize("change", ["comes", "changes"])
def test_who_is_counted_on_does_not_leave_before_it_is_known(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Else what is added for the sake of both would stay when one is gone, on nobody's record."""
    permissions.police(engine, "web", icc=False)
    engine.connect("web", name="server")
    permissions.allow(engine, "client", "server:80", "web")
    if change == "changes":
        engine.connect("web", name="client")
    engine.close()
    counted, tell = os.pipe()
    left, done = os.pipe()

    def work(engine: Engine) -> None:
        def point(name: str) -> None:
            if name == "intended":
                os.write(tell, b"!")
                assert select.select([left], [], [], 0.3)[0] == []  # it waits for us

        monkeypatch.setattr(steps, "point", point)
        if change == "comes":
            engine.connect("web", name="client")
        else:
            live.alter(engine, "client", "add address", "10.55.0.1/24")

    def leave(engine: Engine) -> None:
        os.read(counted, 1)
        engine.disconnect("web", "server")
        os.write(done, b"!")

    assert at_once(2, lambda engine, number: (work, leave)[number](engine)) == []
    assert engine.check() == []
    (client,) = engine.endpoints()
    assert policies.pairs(client) == []
    assert "tcp . 80" not in run("nft list set bridge netkit reach")
