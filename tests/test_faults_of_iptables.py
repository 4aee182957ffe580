"""F12 on the iptables back end, through the engine: what hangs, is locked, is missing or dies.

Refused in time, with the cause; and the machine, the records and the leases are as before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network

import pytest

from netkit.engine import Engine
from netkit.errors import KernelRefused
from netkit.firewall import iptables
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host, legacy_rules, run, snapshot, without_iptables
from tests.test_faults import held
from tests.test_transactions import tables

WEB = NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/24"),))
SUBNETS = (IPv4Network("172.26.0.0/24"), IPv6Network("fd00:26::/64"))
OTHER = NetworkSpec("other", subnets=SUBNETS, ipv6=True, driver="veth")
PORTS = Request(ports=PortSpec.parse("8080:80"))
OPERATIONS: dict[str, Callable[[Engine], object]] = {
    "connect": lambda engine: engine.connect("web", None, PORTS, name="c2"),
    "create": lambda engine: engine.create_network(OTHER),
    "use": lambda engine: engine.use_firewall("nftables"),
}
every = pytest.mark.parametrize("operation", OPERATIONS)


@pytest.fixture
def engine() -> Iterator[Engine]:
    if reason := without_iptables():
        pytest.skip(reason)
    with Host("iptables") as host:
        engine = host.engine()
        engine.create_network(WEB)
        engine.connect("web", name="c1")
        yield engine


def refused(engine: Engine, operation: str, match: str, bound_s: float) -> None:
    before = snapshot(), tables(engine)
    begin = time.monotonic()
    with pytest.raises(KernelRefused, match=match):
        OPERATIONS[operation](engine)
    assert time.monotonic() - begin < bound_s
    assert (snapshot(), tables(engine)) == before


@pytest.mark.parametrize("operation", ["connect", "create"])
def test_f12_a_lock_that_is_held_is_waited_for_and_then_named(
    engine: Engine, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert iptables._LOCK_TIMEOUT_S <= 5  # of which a refusal takes one, and its undoing none
    monkeypatch.setattr(iptables, "_LOCK_TIMEOUT_S", 0.3)
    with held(iptables.LOCK.removesuffix(".lock"), "flock"):
        who = r"/run/xtables\.lock was held by .* \(process \d+\) for 0\.3 s"
        refused(engine, operation, who, 3)
    OPERATIONS[operation](engine)
    assert engine.check() == []


def test_f12_what_cannot_be_taken_down_meanwhile_is_finished_by_the_next_call(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's rules are the last of it to go; until then nobody has its port."""
    engine.connect("web", None, PORTS, name="c2")
    monkeypatch.setattr(iptables, "_LOCK_TIMEOUT_S", 0.3)
    with held(iptables.LOCK.removesuffix(".lock"), "flock"), pytest.raises(KernelRefused) as error:
        engine.disconnect("web", "c2")
    assert "xtables.lock was held by" in str(error.value)
    assert "netkit gc" in (error.value.hint or "")
    assert "--dport 8080" in legacy_rules()
    engine.gc()
    assert "--dport 8080" not in legacy_rules()
    assert engine.check() == []


@pytest.mark.parametrize("operation", ["connect", "create"])
@pytest.mark.parametrize("version", [4, 6])
def test_f12_a_worker_that_hangs_is_ended_in_time(
    engine: Engine, operation: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert iptables._WORKER_TIMEOUT_S <= 5
    monkeypatch.setattr(iptables, "_WORKER_TIMEOUT_S", 0.5)
    os.kill(iptables._workers()[version].pid, signal.SIGSTOP)
    refused(engine, operation, r"tables-legacy did not answer in 0\.5 s and was killed", 5)
    OPERATIONS[operation](engine)
    assert engine.check() == []


@every
def test_f12_a_worker_that_was_killed_is_replaced(engine: Engine, operation: str) -> None:
    for worker in iptables._workers().values():
        os.kill(worker.pid, signal.SIGKILL)
    OPERATIONS[operation](engine)
    assert engine.check() == []


@pytest.mark.parametrize(
    ("code", "match"),
    [
        ("raise SystemExit(1)", "died before it answered"),
        ("import time; time.sleep(60)", r"did not answer in 0\.5 s and was killed"),
        ("print('not json')", "died before it answered"),
    ],
)
def test_f12_a_worker_that_is_no_good_from_the_beginning(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, code: str, match: str
) -> None:
    iptables.forget()
    with open(f"{os.environ['NETKIT_STATE_DIR']}/worker.py", "w") as file:
        file.write(code)
    monkeypatch.setattr(iptables, "_WORKER_TIMEOUT_S", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(iptables, "_WORKER", file.name)
        refused(engine, "connect", match, 5)
        iptables.forget()
    monkeypatch.undo()
    OPERATIONS["connect"](engine)


@pytest.mark.parametrize("operation", ["connect", "create"])
def test_f12_without_python_iptables_it_says_what_to_install(
    engine: Engine, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    iptables.forget()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(engine, operation, "python-iptables is not installed", 2)


def test_f12_chains_that_somebody_flushed_are_missed_and_come_with_the_next_network(
    engine: Engine,
) -> None:
    """`iptables -F; iptables -X`: check tells, nothing half is made, and all can be removed."""
    for table in ("filter", "nat", "raw"):
        run(f"iptables-legacy -t {table} -F; iptables-legacy -t {table} -X")
    assert "netkit's firewall tables are gone" in str(engine.check()[0])
    refused(engine, "connect", "there is no chain NETKIT-", 5)
    engine.delete_network("web", force=True)
    assert legacy_rules() == ""
    engine.create_network(WEB)
    assert engine.check() == []
