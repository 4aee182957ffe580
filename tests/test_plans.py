"""Plans as printed by --dry-run, word for word: what an operator reads, and may rely on.

scenarios/test_plan_by_hand.py types them in, and gets the same network.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from netkit import cli, namefiles, naming
from scenarios.lab import Host, snapshot
from tests import goldens

CREATE = "network create --subnet 172.25.0.0/16 my-net"
CONNECT = "connect --net my-net --name c1"
A, B, MAC = "10.1.1.1/32", "10.1.1.2/32", "02:00:00:00:00:01"


class Case(NamedTuple):
    """What is done first, and the line whose plan is printed."""

    before: tuple[str, ...]
    line: str


CASES = {
    "create": Case((), CREATE),
    "create-internal": Case((), f"{CREATE} --internal -o com.docker.network.bridge.name=lab0"),
    "create-second": Case((CREATE,), "network create --subnet 172.26.0.0/24 --mtu 1400 other"),
    "connect": Case(
        (CREATE,),
        f"{CONNECT} --ip 172.25.3.3 -h web1 --dns 192.0.2.1 --dns-search .example.com "
        "--add-host db:172.25.9.9 -p 8080:80 -p 127.0.0.1:9000-9009:9000-9009 -p 53:53/udp",
    ),
    "connect-second": Case(
        (CREATE, "network create --subnet 172.26.0.0/24 an-earlier-name", CONNECT),
        "connect --net an-earlier-name c1",
    ),
    "create-veth": Case(
        (CREATE,), "network create -d veth --subnet 172.26.0.0/24 --subnet fd00:26::/64 routed"
    ),
    "connect-veth": Case(
        (f"{CREATE} -d veth --subnet fd00:25::/64",), f"{CONNECT} -p 8080:80 --mac-address {MAC}"
    ),
    "link": Case((CREATE, CONNECT, f"{CONNECT}2"), f"link --addr-a {A} --addr-b {B} c1 c12"),
    "link-host": Case((CREATE, CONNECT), "link --name wire c1 host"),
    "link-rm": Case((CREATE, CONNECT, "link c1 host"), "link rm c1-host"),
    "run": Case((CREATE,), "run --name web --net my-net -h web1 -p 8080:80 -- sleep 9"),
    "run-host": Case((), "run --name web --net host -- sh -c 'echo $0'"),
    "disconnect": Case((CREATE, f"{CONNECT} -p 8080:80"), "disconnect --net my-net c1"),
    "rm": Case((CREATE, f"{CONNECT} -p 53:53/udp"), "rm c1"),
    "network-rm": Case((CREATE,), "network rm my-net"),
    "network-rm-force": Case((CREATE, CONNECT), "network rm --force my-net"),
}  # fmt: skip
Netkit = Callable[[str], str]


@pytest.fixture
def netkit(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Netkit]:
    """The command line, in this process and without chance: ids and files are always the same."""
    shutil.rmtree("/etc/netns", ignore_errors=True)
    ids = iter(range(1, 100))
    monkeypatch.setattr(naming, "new_id", lambda: f"{next(ids):02x}a" * 21 + "0")
    monkeypatch.setattr(namefiles, "_host_resolv_conf", lambda: "nameserver 192.0.2.53\n")
    monkeypatch.setattr(namefiles, "_read", lambda path: f"# the host's {path}\n")
    monkeypatch.setenv("NETKIT_RUN_DIR", "/run/netkit-golden")

    def call(line: str) -> str:
        assert cli._run(shlex.split(line)) == 0, line
        printed = capsys.readouterr()
        assert printed.err == ""
        return printed.out

    yield call
    shutil.rmtree("/run/netkit-golden", ignore_errors=True)


def dry(line: str) -> str:
    """*line* with --dry-run as its verb's first option."""
    words = line.split(" ")
    verb = 2 if words[0] == "network" or words[1] == "rm" else 1
    return " ".join([*words[:verb], "--dry-run", *words[verb:]])


def everything(netkit: Netkit) -> dict[str, str]:
    """The host, and what netkit has on record of it, but for how long ago that was."""
    commands = ("ps -a --no-trunc --format json", "network ls --no-trunc --format json")
    ago = re.compile(r'"[^"]*\b(?:ago|seconds?|minutes?)"')
    return snapshot() | {line: ago.sub('""', netkit(line)) for line in commands}


@pytest.mark.parametrize("name", CASES)
def test_a_plan_prints_as_it_always_did_and_nothing_is_done(netkit: Netkit, name: str) -> None:
    for line in CASES[name].before:
        netkit(line)
    before = everything(netkit)
    printed = netkit(dry(CASES[name].line))
    assert everything(netkit) == before
    goldens.same(f"{name}.txt", f"# netkit {CASES[name].line}\n{printed}")


def test_a_dry_run_of_what_cannot_be_is_refused_like_the_thing_itself(
    netkit: Netkit, capsys: pytest.CaptureFixture[str]
) -> None:
    netkit(CREATE)
    assert cli._run(shlex.split(dry(CREATE))) == 1
    assert "network with name my-net already exists" in capsys.readouterr().err
    assert cli._run(shlex.split(dry("disconnect --net my-net c1"))) == 1
    assert "no such container: c1" in capsys.readouterr().err
