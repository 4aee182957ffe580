"""A plan is what it says: its printed lines, typed in, make the same network that netkit makes.

Two fresh hosts. In one netkit does it, in the other `sh` runs what --dry-run printed; then links,
addresses, routes, rules, sysctls and files are compared, outside and inside.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from netkit import cli, namefiles, naming
from netkit.kernel import netns
from scenarios.firewalls import each
from scenarios.lab import Host, inside, run, snapshot

CREATE = (
    "network create --subnet 172.25.0.0/16 my-net",
    "network create --internal inner",
    "network create -d veth --subnet 172.31.9.0/24 --subnet fd00:31::/64 routed",
)
CONNECT = (
    "connect --net my-net --name c1 --ip 172.25.3.3 -h web1 --dns 192.0.2.1 -p 8080:80 "
    "-p 127.0.0.1:9000-9009:9000-9009 -p 53:53/udp --add-host 'db:172.25.9.9'",
    "connect --net inner c1",
    "connect --net my-net --name c2 --mac-address 02:00:00:00:00:02 --ifname lan0",
    "connect --net routed -p 8081:80 c2",
    "link --name wire --addr-a 10.1.1.1/32 --addr-b 10.1.1.2/32 --addr-b fd00::2/64 c1 c2",
    "link --name to-host c2 host",
)
# what is on stage, one after the other, backwards
UNDO = (
    "link rm to-host",
    "link rm wire",
    "disconnect --net routed c2",
    "disconnect --net my-net c2",
    "disconnect --net inner c1",
    "disconnect --net my-net c1",
    "network rm routed",
    "network rm inner",
    "network rm my-net",
)
SHOW = "ip -o addr | sed '/ fe80:/d'; ip route; hostname; cat /etc/hosts /etc/resolv.conf"


@pytest.fixture(autouse=True)
def without_chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(namefiles, "_host_resolv_conf", lambda: "nameserver 192.0.2.53\n")
    yield
    run("rm -rf /run/netkit-by-hand")


def plan(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `netkit LINE --dry-run` prints, and do it: both with the same ids."""
    verb, *rest = shlex.split(line)
    sub = verb == "network" or rest[0] == "rm"
    words = [verb, *rest[:1], "--dry-run", *rest[1:]] if sub else [verb, "--dry-run", *rest]
    printed = ""
    for arguments in (words, shlex.split(line)):
        numbers = iter(range(100))
        # always the same ids for the same line, others for another
        stem = naming.bridge_mac(line).replace(":", "")[-8:]
        with monkeypatch.context() as patch:
            patch.setattr(
                naming, "new_id", lambda n=numbers, s=stem: f"{s}a{next(n):03x}".ljust(64, "a")
            )
            patch.setenv("NETKIT_RUN_DIR", "/run/netkit-by-hand")
            assert cli._run(arguments) == 0, arguments
        out = capsys.readouterr().out
        printed = printed or out
    return printed


def everything() -> dict[str, str]:
    found = snapshot()
    for name in ("c1", "c2"):
        if run(f"ip netns list | grep -cw {name} || true").strip() == "1":
            found |= {f"{name}: {k}": v for k, v in inside(netns.named(name)).items()}
    return found


@each
def test_the_printed_lines_typed_in_make_the_same_network_and_unmake_it(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = everything()
    plans = [plan(line, monkeypatch, capsys) for line in (*CREATE, *CONNECT)]
    made_by_netkit = everything()
    undone = [plan(line, monkeypatch, capsys) for line in UNDO]
    assert everything() == empty
    with Host():
        for script in plans:
            run(script)
        assert everything() == made_by_netkit
        for script in undone:
            run(script)
        assert everything() == empty


def test_the_printed_lines_of_run_typed_in_show_the_command_the_same_surroundings(
    host: Host, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    create = plan(CREATE[0], monkeypatch, capfd)
    line = f"run --rm --name web --net my-net -h web1 -p 8080:80 -- sh -c {shlex.quote(SHOW)}"
    before = everything()
    printed = plan(line, monkeypatch, capfd)
    assert everything() == before
    ran = run_again(line, monkeypatch, capfd)
    assert "web1" in ran
    assert "172.25.0.2/16" in ran
    with Host():
        run(create)
        assert run(printed) == ran


def run_again(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """What the command prints when netkit runs it."""
    monkeypatch.setenv("NETKIT_RUN_DIR", "/run/netkit-by-hand")
    assert cli._run(shlex.split(line)) == 0
    return capfd.readouterr().out
