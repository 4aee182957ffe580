"""The work of a connect, counted, not timed: whatever the machine, it must not grow."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from benchmarks import work
from netkit import model
from netkit.addresses import Address
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.ports import Ports, create
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from netkit.store import SqliteStore
from scenarios.lab import Host


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_connect_executes_no_program_and_sends_few_messages_however_many_are_connected() -> None:
    alone = work.count(0)
    assert alone.executed == 0
    assert 5 <= alone.sends <= work.MOST_SENDS, "fewer than five means they were not seen"
    assert work.count(20) == alone


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_an_add_of_the_plugin_that_is_all_in_one_costs_the_same_whoever_is_there() -> None:
    alone = work.count(1, "all")  # without any the network comes and goes
    assert alone.executed == 0
    assert 5 <= alone.sends <= work.MOST_SENDS
    assert work.count(20, "all") == alone


def test_finding_the_endpoints_of_one_sandbox_or_network_looks_at_no_other(host: Host) -> None:
    store = SqliteStore(f"{host.base}/state", f"{host.base}/run")
    connection = store.connection

    def lookups() -> list[int]:
        return [
            _work(connection, lambda: store.all(EndpointRecord, sandbox="s0")),
            _work(connection, lambda: store.all(EndpointRecord, network="n0")),
            _work(connection, lambda: store.find(SandboxRecord, "s0")),
            _work(connection, lambda: store.find(NetworkRecord, "n")),
            _work(connection, store.intents),
        ]

    def put(number: int) -> None:
        store.put(
            EndpointRecord(
                id=f"{number:064x}", network=f"n{number}", sandbox=f"s{number}", ifname="eth0"
            )
        )

    put(0)
    alone = lookups()
    for number in range(1, 300):
        put(number)
    assert lookups() == alone
    store.close()


def test_claiming_a_port_looks_at_no_other() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    create(connection)
    ports = Ports(connection)
    spec = PortSpec(IPv4Address("10.0.0.1"), 40_000, 40_000, 80)

    def claim() -> None:
        ports.claim("one", spec, (4,), _FreeHost(), str)
        ports.release("one")

    alone = _work(connection, claim)
    for port in range(10_000, 10_300):
        ports.claim("other", PortSpec(None, port, port, 80), (4, 6), _FreeHost(), str)
    assert _work(connection, claim) <= alone


class _FreeHost:
    """A host with no port in use."""

    def probe_port(self, protocol: str, address: Address, port: int) -> None: ...
    def port_holder(self, protocol: str, port: int) -> str | None:
        return None

    def local_ports(self) -> tuple[range, set[int]]:
        return range(0), set()


def _work(connection: sqlite3.Connection, call: Callable[[], object]) -> int:
    """How much SQLite's machine executes, in tens: a tree may have grown by a level."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1

    call()  # what is prepared or made on first use is there now
    connection.set_progress_handler(count, 10)
    call()
    connection.set_progress_handler(None, 0)
    return done


def test_a_connect_reads_no_more_records_the_more_there_are(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/24"),)))
    decode, read = model.decode, 0

    def counted(text: str | bytes, kind: type[Any]) -> Any:
        nonlocal read
        read += 1
        return decode(text, kind)

    monkeypatch.setattr(model, "decode", counted)

    def reads(name: str) -> int:
        nonlocal read
        read = 0
        engine.connect("web", name=name, request=Request(ports=PortSpec.parse("80")))
        return read

    few = [reads(f"c{n}") for n in range(3)][-1]
    many = [reads(f"d{n}") for n in range(20)][-1]
    assert few == many
