"""--dry-run: says what would be done, and does nothing of it. Its lines are golden elsewhere."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

import pytest

from scenarios.lab import Host, run, snapshot
from tests.faces import ok, refused

pytestmark = pytest.mark.usefixtures("host")


def _records() -> list[str]:
    path = f"{os.environ['NETKIT_STATE_DIR']}/state.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return list(db.iterdump())


@pytest.fixture
def lab(host: Host) -> None:
    # addresses that come by themselves, a second later, would be in a snapshot or not
    run("sysctl -qw net.ipv6.conf.default.addr_gen_mode=1 || true")
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    ok("network", "create", "--subnet=10.2.0.0/24", "other")
    ok("connect", "--net=net", "--name=c1", "-p", "8080:80")
    ok("run", "-d", "--net=net", "--name=c2", "sleep", "60")


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("network create --dry-run new", "type bridge"),
        ("network create --dry-run --subnet 10.3.0.0/24 -o name=br-new new", "ip link add br-new"),
        ("network rm --dry-run other", "ip link del br-"),
        ("network rm --dry-run -f net", "ip netns del c1"),
        ("network connect --dry-run other c1", "netns c1"),
        ("network disconnect --dry-run net c1", "ip netns del c1"),
        ("connect --dry-run --net net --name c3 -p 81:80", "ip netns add c3"),
        ("connect --dry-run --net other c2", "ip -n c2 addr add 10.2.0.2/24"),
        ("connect --dry-run --name c3", "ip link add netkit0"),
        ("disconnect --dry-run --net net c1", "delete element"),
        ("run --dry-run --net net --name c3 -p 81:80 -- sleep 60", "sleep 60"),
        ("run --dry-run -d --net net -- sleep 60", "ip netns add"),
        ("run --dry-run --net none -- true", "ip netns add"),
        ("run --dry-run true", "ip link add netkit0"),
        ("rm --dry-run c1", "ip netns del c1"),
        ("rm --dry-run -f c2", "kill -KILL"),
        ("dns host enable --dry-run", "nameserver 127.78.75.53"),
    ],
)
def test_a_dry_run_tells_and_does_nothing(words: str, told: str) -> None:
    before, records = snapshot(), _records()
    assert told in ok(*words.split())
    assert (snapshot(), _records()) == (before, records)
    assert ok("ps", "-q").count("\n") == 2
    assert ok("check") == ""
    ok("rm", "-f", "c2")


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("network create --dry-run net", "already exists"),
        ("network rm --dry-run net", "has active endpoints: c1, c2"),
        ("connect --dry-run --net net -p 8080:80", "port is already allocated"),
        ("connect --dry-run --net net c1", "already exists in network net"),
        ("disconnect --dry-run --net other c1", "is not connected"),
        ("run --dry-run --net net --name c1 true", "already in use"),
        ("rm --dry-run c2", "it is running"),
    ],
)
def test_a_dry_run_refuses_what_would_be_refused(words: str, why: str) -> None:
    records = _records()
    assert why in refused(*words.split(), code=125 if words.startswith("run") else 1)
    assert _records() == records
    ok("rm", "-f", "c2")


def test_a_dry_run_is_followed_by_the_real_thing_as_if_it_had_not_been() -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", "net")
    for _ in range(8):  # more than there are addresses: none is leased
        ok("connect", "--dry-run", "--net=net", "-p", "8080:80")
    ok("connect", "--net=net", "--name=c1", "-p", "8080:80")
    assert ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "c1") == "10.1.0.2\n"


@pytest.mark.parametrize(
    "words", ["connect nosuch", "connect netns:/dev/zero", "connect pid:0", "connect --name lab"]
)
def test_what_is_refused_does_not_make_the_default_network(words: str) -> None:
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    ok("connect", "--net=net", "--name=lab")
    before = snapshot()
    refused(*words.split())
    assert refused("run", "--name=lab", "true", code=125)
    assert snapshot() == before
    assert "bridge" not in ok("network", "ls", "--format={{.Name}}")
