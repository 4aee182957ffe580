"""kill -9 anywhere: whatever netkit is called for next leaves what was, or what was to be.

Each operation is run once to write down the points it passes (`steps.point`), then once for every
point with a process of its own, which dies there. A point "before" a step is the same state as the
one "after" the step before it, so only those that follow something else are tried.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network, ip_interface
from typing import NamedTuple, Protocol

import msgspec
import pytest

from netkit import containers, live, naming, permissions, steps
from netkit.changes import maker_lives
from netkit.containers import RunSpec
from netkit.engine import Engine
from netkit.errors import NetkitError, NotFound
from netkit.firewall import libnftables, nfnetlink
from netkit.kernel import netns, process
from netkit.portspec import PortSpec
from netkit.specs import EndSpec, LinkSpec, NameFiles, NetworkSpec, Request
from netkit.updates import Labels, NetworkUpdate, Update
from scenarios import lab
from scenarios.lab import Host, inside, netkit, snapshot, until
from scenarios.lab import run as shell

WEB = NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/24"),))
# with names, so that it has a say in what resolv.conf says
OTHER = NetworkSpec("an-earlier-name", subnets=(IPv4Network("172.26.0.0/24"),), names=True)
PORTS = Request(ports=(*PortSpec.parse("8080:80"), *PortSpec.parse("9000-9009:9000-9009/udp")))
PROXIED = NetworkSpec("proxied", subnets=(IPv4Network("172.28.0.0/24"),), publish="proxy")
SERVED = Request(ports=PortSpec.parse("8081:80"))
FILES = NameFiles(hostname="web1", extra_hosts=("db:172.25.0.9",))
SLEEP = RunSpec(command=("sleep", "60"), name="c1", networks=("web",), files=FILES)
BRIEF = RunSpec(command=("true",), name="c1", networks=("web",), auto_remove=True)
_BOUND_S = 20


class Verb(Protocol):
    """A function: its name tells whose ids are whose."""

    __qualname__: str

    def __call__(self, engine: Engine, /) -> object: ...


class Operation(NamedTuple):
    before: tuple[Verb, ...]  # what makes the world it is done in, beside a bystander on `web`
    do: Verb
    undo: tuple[Verb, ...]  # what takes back what `do` did
    alone: bool = False  # without networks and bystander
    finish: Verb | None = None  # where it cannot have failed to happen, what completes it


def connect(engine: Engine) -> object:
    return engine.connect("web", None, PORTS, FILES, name="c1")


def connect_second(engine: Engine) -> object:
    return engine.connect("an-earlier-name", "c1")


def disconnect(engine: Engine) -> None:
    engine.disconnect("web", "c1")


def disconnect_second(engine: Engine) -> None:
    engine.disconnect("an-earlier-name", "c1")


def create(engine: Engine) -> object:
    return engine.create_network(WEB)


def create_third(engine: Engine) -> object:
    return engine.create_network(NetworkSpec("third", subnets=(IPv4Network("172.27.0.0/24"),)))


def create_other(engine: Engine) -> object:
    return engine.create_network(OTHER)


def connect_bystander(engine: Engine) -> object:
    return engine.connect("web", name="bystander")


def delete(engine: Engine) -> None:
    engine.delete_network("web")


def delete_third(engine: Engine) -> None:
    engine.delete_network("third")


def create_routed(engine: Engine) -> object:
    subnets = (IPv4Network("172.28.0.0/24"),)
    return engine.create_network(NetworkSpec("routed", driver="veth", subnets=subnets))


def connect_routed(engine: Engine) -> object:
    return engine.connect("routed", name="c2")


def disconnect_routed(engine: Engine) -> None:
    engine.disconnect("routed", "c2")


PLUGIN = """#!/bin/sh
# addresses from somebody else: an owner that holds one gets no other
lease={leases}/$CNI_CONTAINERID
[ $CNI_COMMAND = DEL ] && exec rm -f $lease
[ -e $lease ] && exit 1
touch $lease
echo '{{"ips": [{{"address": "172.29.0.9/24"}}]}}'
"""


def create_lent(engine: Engine) -> object:
    subnets = (IPv4Network("172.29.0.0/24"),)
    return engine.create_network(NetworkSpec("lent", subnets=subnets, ipam_driver="somebody"))


def connect_lent(engine: Engine) -> object:
    return engine.connect("lent", name="c3")


def disconnect_lent(engine: Engine) -> None:
    engine.disconnect("lent", "c3")


def make_far(engine: Engine) -> None:
    lab.run("ip netns add far", "ip -n far link set lo up")


def link(engine: Engine) -> object:
    return engine.create_link(_link("c1", "far"))


def link_host(engine: Engine) -> object:
    return engine.create_link(_link("far", "host"))


def unlink(engine: Engine) -> None:
    engine.delete_link("wire")


def connect_and_link(engine: Engine) -> None:
    connect(engine)
    link(engine)


def _link(a: str, b: str) -> LinkSpec:
    ends = (
        EndSpec(target=a, addresses=(ip_interface("10.1.1.1/32"),)),
        EndSpec(target=b, addresses=(ip_interface("10.1.1.2/32"),)),
    )
    return LinkSpec(ends=ends, name="wire")


def remove_linked(engine: Engine) -> None:
    engine.delete_sandbox(engine.sandbox("c1"))


def create_proxied(engine: Engine) -> object:
    return engine.create_network(PROXIED)


def connect_proxied(engine: Engine) -> object:
    return engine.connect("proxied", None, SERVED, name="c1")


def disconnect_proxied(engine: Engine) -> None:
    engine.disconnect("proxied", "c1")


def drop_forwarded(engine: Engine) -> None:
    """Another tool's chain, that only one of the two has to be let past."""
    lab.run("iptables-legacy -P FORWARD DROP")
    engine.use_firewall("none")
    engine.use_firewall("nftables")


def use_iptables(engine: Engine) -> None:
    engine.use_firewall("iptables")


def use_nftables(engine: Engine) -> None:
    engine.use_firewall("nftables")


def run(engine: Engine) -> None:
    engine.close()
    containers.run_detached(Engine, SLEEP)


def run_brief(engine: Engine) -> None:
    containers.run(engine, BRIEF)


def remove(engine: Engine) -> None:
    containers.remove(engine, "c1", force=True)


def make_card(engine: Engine) -> None:
    """What stands in for a network card: one end of a wire, with all that is to come back."""
    lines = (
        "ip netns add far",
        "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1",
        "ip link add wire0 type veth peer name wire0 netns far",
        "ip -n far link set wire0 up",
        "ip link set wire0 address 02:66:00:00:00:01 mtu 1400 alias 'my card' up",
        "ip addr add 10.9.0.1/24 brd + dev wire0",
        "ip route add 10.99.0.0/16 via 10.9.0.2",
    )
    shell("\n".join(lines))


def create_macvlan(engine: Engine) -> object:
    subnets = (IPv4Network("172.28.0.0/24"),)
    return engine.create_network(
        NetworkSpec("lan", "macvlan", subnets=subnets, options={"parent": "wire0"})
    )


def create_physical(engine: Engine) -> object:
    return engine.create_network(NetworkSpec("lan", "physical", options={"device": "wire0"}))


def connect_lan(engine: Engine) -> object:
    return engine.connect("lan", name="c9")


def disconnect_lan(engine: Engine) -> None:
    engine.disconnect("lan", "c9")


def add_address(engine: Engine) -> object:
    return live.alter(engine, "c1", "add address", "172.25.0.50")


def remove_address(engine: Engine) -> object:
    return live.alter(engine, "c1", "remove address", "172.25.0.50")


def add_route(engine: Engine) -> object:
    return live.alter(engine, "c1", "add route", "10.7.0.0/16 via 172.25.0.9")


def remove_route(engine: Engine) -> object:
    return live.alter(engine, "c1", "remove route", "10.7.0.0/16")


def lead_elsewhere(engine: Engine) -> object:
    return live.alter(engine, "c1", "add route", "default via 172.25.0.9")


def lead_back(engine: Engine) -> object:
    return live.alter(engine, "c1", "remove route", "default via 172.25.0.9")


def ask_one(engine: Engine) -> None:
    _ask("9.9.9.9")


def ask_another(engine: Engine) -> None:
    _ask("192.0.2.53")


def renew(engine: Engine) -> None:
    engine.renew()


def enable_host_names(engine: Engine) -> None:
    engine.enable_host_names()


def disable_host_names(engine: Engine) -> None:
    engine.disable_host_names()


def _ask(server: str) -> None:
    with open("/etc/resolv.conf.new", "w") as file:
        file.write(f"nameserver {server}\n")
    os.replace("/etc/resolv.conf.new", "/etc/resolv.conf")  # the one there may be another's


def close(engine: Engine) -> object:
    return permissions.police(engine, "web", icc=False, host_access=False)


def open_again(engine: Engine) -> object:
    return permissions.police(engine, "web", icc=True, host_access=True)


def allow(engine: Engine) -> object:
    return permissions.allow(engine, "c1", "bystander:80-89", "web")


def disallow(engine: Engine) -> object:
    return permissions.disallow(engine, "c1", "bystander:80-89", "web")


def let_out(engine: Engine) -> object:
    return permissions.let_out(engine, "web", "allow", ("10.0.0.0/8:443",))


def let_out_anywhere(engine: Engine) -> object:
    return permissions.let_out(engine, "web", "any")


def publish(engine: Engine) -> object:
    return live.publish(engine, "c1", (*PortSpec.parse("8443:443"), *PortSpec.parse("5353:53/udp")))


def unpublish(engine: Engine) -> object:
    return live.unpublish(engine, "c1", (*PortSpec.parse("8443:443"), *PortSpec.parse("53/udp")))


def publish_served(engine: Engine) -> object:
    return live.publish(engine, "c1", PortSpec.parse("8082:82"))


def unpublish_served(engine: Engine) -> object:
    return live.unpublish(engine, "c1", PortSpec.parse("8082:82"))


def connect_asking(engine: Engine) -> object:
    return engine.connect("web", None, PORTS, NameFiles(servers=("192.0.2.1",)), name="c1")


def update(engine: Engine) -> object:
    return live.update(engine, "c1", _update(1300, "192.0.2.9", Labels({"tier": "one"})))


def update_back(engine: Engine) -> object:
    return live.update(engine, "c1", _update(1500, "192.0.2.1", Labels(drop=("tier",))))


def _update(mtu: int, server: str, labels: Labels) -> Update:
    return Update(mtu=mtu, servers=(server,), labels=labels)


def resize(engine: Engine) -> object:
    return live.update_network(engine, "web", NetworkUpdate(mtu=1400))


def resize_back(engine: Engine) -> object:
    return live.update_network(engine, "web", NetworkUpdate(mtu=1500))


OPERATIONS = {
    "create the first network": Operation((), create, (delete,), alone=True),
    "create another network": Operation((), create_third, (delete_third,)),
    "connect": Operation((), connect, (disconnect,)),
    "connect to a second network, which gets the default route": Operation(
        (connect,), connect_second, (disconnect_second,)
    ),
    "disconnect": Operation((connect,), disconnect, (connect,)),
    "disconnect from the network with the default route": Operation(
        (connect, connect_second), disconnect_second, (connect_second,)
    ),
    "delete a network": Operation((create_third,), delete_third, (create_third,)),
    "delete the last network": Operation((create,), delete, (create,), alone=True),
    "connect to a routed network": Operation(
        (create_routed,), connect_routed, (disconnect_routed,)
    ),
    "disconnect from a routed network": Operation(
        (create_routed, connect_routed), disconnect_routed, (connect_routed,)
    ),
    "connect, with addresses from a plugin": Operation(
        (create_lent,), connect_lent, (disconnect_lent,)
    ),
    "disconnect, with addresses from a plugin": Operation(
        (create_lent, connect_lent), disconnect_lent, (connect_lent,)
    ),
    "link": Operation((make_far, connect), link, (unlink,)),
    "delete a link": Operation((make_far, connect, link), unlink, (link,)),
    "remove what is linked": Operation(
        (make_far, connect_and_link), remove_linked, (connect_and_link,)
    ),
    "link to the host, which has no networks": Operation(
        (make_far,), link_host, (unlink,), alone=True
    ),
    "delete the only link to the host": Operation(
        (make_far, link_host), unlink, (link_host,), alone=True
    ),
    "connect to a macvlan": Operation((make_card, create_macvlan), connect_lan, (disconnect_lan,)),
    "connect a physical interface": Operation(
        (make_card, create_physical), connect_lan, (disconnect_lan,)
    ),
    "give a physical interface back": Operation(
        (make_card, create_physical, connect_lan), disconnect_lan, (connect_lan,)
    ),
    "connect to a network that publishes by a proxy": Operation(
        (create_proxied,), connect_proxied, (disconnect_proxied,)
    ),
    "disconnect from a network that publishes by a proxy": Operation(
        (create_proxied, connect_proxied), disconnect_proxied, (connect_proxied,)
    ),
    "use another firewall": Operation((drop_forwarded, connect), use_iptables, (use_nftables,)),
    "run -d": Operation((), run, (remove,)),
    "run --rm": Operation((), run_brief, ()),
    # the command is dead before the first point, and its supervisor tidies up after it
    "rm -f": Operation((run,), remove, (run,), finish=remove),
    "publish": Operation((connect,), publish, (unpublish,)),
    "unpublish": Operation((connect, publish), unpublish, (publish,)),
    "publish by a proxy": Operation(
        (create_proxied, connect_proxied), publish_served, (unpublish_served,)
    ),
    "update": Operation((connect_asking, update, update_back), update, (update_back,)),
    "update a network": Operation((connect,), resize, (resize_back,)),
    "add an address": Operation((connect,), add_address, (remove_address,)),
    "remove an address": Operation((connect, add_address), remove_address, (add_address,)),
    "add a route": Operation((connect,), add_route, (remove_route,)),
    "remove a route": Operation((connect, add_route), remove_route, (add_route,)),
    "pass on whom the host asks": Operation(
        (ask_one, renew, connect, ask_another), renew, (ask_one, renew, ask_another)
    ),
    "have the host ask": Operation((ask_one,), enable_host_names, (disable_host_names,)),
    "have the host ask no longer": Operation(
        (ask_one, enable_host_names), disable_host_names, (enable_host_names,)
    ),
    "close a network": Operation((connect,), close, (open_again,)),
    "allow": Operation((connect, close), allow, (disallow,)),
    "disallow": Operation((connect, close, allow), disallow, (allow,)),
    "disconnect who is allowed": Operation((connect, close, allow), disconnect, (connect,)),
    "change an egress list": Operation((connect,), let_out, (let_out_anywhere,)),
    "lead the default route elsewhere": Operation((connect,), lead_elsewhere, (lead_back,)),
}


@pytest.fixture(autouse=True)
def ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same operation gets the same ids each time: so there is one state it leads to."""
    numbers: dict[str, int] = {}

    def new_id() -> str:
        stem = _stem
        numbers[stem] = numbers.get(stem, 0) + 1
        return f"{naming._digest(stem).hex()[:8]}a{numbers[stem]:03x}".ljust(64, "e")

    monkeypatch.setattr(naming, "new_id", new_id)
    monkeypatch.setattr(sys.modules[__name__], "_numbers", numbers)


_stem = ""
_numbers: dict[str, int] = {}


def call(verb: Verb) -> None:
    """Do it as a process of its own would: with an engine, and ids, of its own."""
    global _stem
    _stem = verb.__qualname__
    _numbers.pop(_stem, None)
    engine = Engine()
    try:
        verb(engine)
    finally:
        engine.close()


def passed(verb: Verb, die_at: int | None = None) -> list[str]:
    """The points *verb* passes in a process of its own, which dies at number *die_at*."""
    path = f"{os.path.dirname(os.environ['NETKIT_STATE_DIR'])}/points"
    open(path, "w").close()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            # what the parent has open is the parent's
            libnftables.forget()
            nfnetlink.close()
            numbers = itertools.count()

            def point(name: str) -> None:
                with open(path, "a") as file:  # anew: a detached supervisor closes what it inherits
                    file.write(f"{os.getpid()} {name}\n")
                if next(numbers) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            steps.point = point
            call(verb)
            code = 0
        except NetkitError:  # a supervisor died, and its caller lives to tell
            code = int(die_at is None)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    with open(path) as file:
        lines = [line.rstrip("\n").partition(" ") for line in file]
    if die_at is not None:  # a supervisor is nobody's child: its pipe is closed before it is dead
        assert until(lambda: not any(_lives(who) for who, _, _ in lines))
    return [name for _, _, name in lines]


def _lives(pid: str) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def world(
    host: Host, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Operation]:
    operation = OPERATIONS[request.param]
    if operation.do is use_iptables and (reason := lab.without_iptables()):
        pytest.skip(reason)
    if create_lent in operation.before:
        plugin_in(f"{host.base}/plugins", monkeypatch)
    if not operation.alone:
        call(create)
        call(create_other)
        call(connect_bystander)
    for verb in operation.before:
        call(verb)
    yield operation
    end_all(host)


def plugin_in(directory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.makedirs(f"{directory}/leases")
    with open(f"{directory}/somebody", "w") as program:
        program.write(PLUGIN.format(leases=f"{directory}/leases"))
    os.chmod(f"{directory}/somebody", 0o755)
    with open(f"{directory}/netkit.toml", "w") as config:
        config.write(f'ipam-plugin-dirs = ["{directory}"]\n')
    monkeypatch.setenv("NETKIT_CONFIG", f"{directory}/netkit.toml")


def end_all(host: Host) -> None:
    """No process of a container outlives its test, nor what tidies up after it."""
    watching = supervisors()
    for sandbox in host.engine().sandboxes():
        if sandbox.pid:
            process.kill(sandbox.pid, sandbox.start_time, signal.SIGKILL, _BOUND_S)
    assert ended(watching)  # they write into the directory that goes next


def state() -> dict[str, str]:
    """The host inside and out, and what is on record, but for times and processes."""
    engine = Engine()
    try:
        db = engine.store.connection
        bodies = [msgspec.json.decode(row[0]) for row in db.execute("SELECT body FROM record")]
        found: dict[str, str] = dict(snapshot())
        found["records"] = "\n".join(
            sorted(
                f"{b.get('name') or b['id']} maker={b['maker']} default={b.get('default_route')} "
                + " ".join(sorted(map(repr, steps.decode(b["steps"]))))
                for b in bodies
            )
        )
        for table in ("lease", "claim"):
            known = db.execute("SELECT 1 FROM sqlite_master WHERE name=?", (table,)).fetchall()
            rows = db.execute(f"SELECT * FROM {table}") if known else ()
            found[table] = "\n".join(sorted(map(repr, rows)))
    finally:
        engine.close()
    lent = f"{os.path.dirname(os.environ['NETKIT_STATE_DIR'])}/plugins/leases"
    with open("/etc/resolv.conf") as file:
        found["resolv.conf"] = file.read()
    found["lent"] = " ".join(os.listdir(lent)) if os.path.isdir(lent) else ""
    found["listening"] = shell("ss -Hltun | awk '{ print $1, $5 }' | sort")
    for name in sorted(os.listdir(netns.NAMED)) if os.path.isdir(netns.NAMED) else ():
        found |= {f"{name} {what}": t for what, t in inside(netns.named(name)).items()}
    return found


@pytest.mark.parametrize("world", OPERATIONS, indirect=True)
def test_killed_at_any_point_it_has_happened_or_it_has_not(host: Host, world: Operation) -> None:
    before = state()
    watching = supervisors()
    points = passed(world.do)
    if world.finish is not None:
        assert ended(watching)
    after = state()
    again(world)
    assert_same("undone", state(), before)
    tried = [n for n, name in enumerate(points) if not n or not name.endswith("before")]
    assert len(tried) > 2
    for number in tried:
        where = f"killed at {number}, {points[number]}"
        watching = supervisors()
        died = passed(world.do, number)
        if world.finish is None:  # else what there is left to do depends on who is quicker
            assert died[: number + 1] == points[: number + 1]
        call(Engine.networks)
        if world.finish is not None:
            with suppress(NotFound):
                call(world.finish)
            assert ended(watching), where
            assert_same(where, state(), after)
        elif (now := state()) != after:
            assert_same(where, now, before)
            call(world.do)
        if not world.alone:
            assert host.ping(None, "172.25.0.2"), where
        again(world)  # what this leaves, the next round finds
    assert_same("at the end", state(), before)


# -- from outside: strace kills the program on its way into a system call that changes something

SYSTEM_CALLS = "sendto,sendmsg,pwrite64,ftruncate,write,mount,umount2,unlink,mkdir,rmdir"
# (what is done before, the line that is killed, what takes it back, how many places are tried)
LINES = {
    "connect": ((), "connect --net web --name c1 -h web1 -p 8080:80", "disconnect --net web c1", 9),
    "disconnect": (
        ("connect --net web --name c1 -p 8080:80",),
        "disconnect --net web c1",
        "connect --net web --name c1 -p 8080:80",
        6,
    ),
}


def strace(line: str, *options: str) -> int:
    """Run `netkit LINE` under strace; its exit code."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    code = f"from netkit.cli import main; main({shlex.split(line)!r})"
    command = ["strace", "-f", "-qq", "--seccomp-bpf", *options, sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=_BOUND_S
    )
    if "Operation not permitted" in done.stderr and "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    return done.returncode


@pytest.mark.parametrize("name", LINES)
def test_killed_at_any_system_call_it_has_happened_or_it_has_not(host: Host, name: str) -> None:
    before_lines, line, undo, places = LINES[name]
    call(create)
    for first in before_lines:
        netkit(first)
    log = f"{host.base}/strace"
    assert strace(line, f"--trace={SYSTEM_CALLS}", f"--output={log}") == 0
    with open(log) as file:
        calls = re.findall(r"^(\d*) *(\w+)\(", file.read(), re.MULTILINE)
    netkit(undo)
    before = outline()
    main = [what for pid, what in calls if pid == calls[0][0]]
    assert len(main) > 20
    # strace counts each system call by itself
    numbered = [(what, main[:n].count(what) + 1) for n, what in enumerate(main)]
    killed = 0
    for n in range(places):
        what, number = numbered[len(main) * n // places]
        code = strace(line, f"--inject={what}:signal=KILL:when={number}", f"--output={log}")
        killed += code not in (0, 1)
        call(Engine.networks)
        assert host.engine().check() == []
        if outline() == before:
            netkit(line)
        netkit(undo)
        assert outline() == before, f"killed at {what} number {number}"
    assert killed > places / 2


def outline() -> dict[str, str]:
    """What a state is, random ids aside."""
    found = state()
    links = sorted(line.split(" ")[0] for line in found["links"].splitlines())
    return {
        "links": " ".join(re.sub(r"[0-9a-f]{7,12}", "ID", link) for link in links),
        "records": re.sub(r"\S* (maker=\S*) .*", r"\1", found["records"]),
        **{what: str(found[what].count("\n")) for what in ("firewall", "files", "lease", "claim")},
    }


def supervisors() -> list[str]:
    """The processes that watch containers, and tidy up after them."""
    engine = Engine()
    try:
        return [sandbox.supervisor for sandbox in engine.sandboxes() if sandbox.supervisor]
    finally:
        engine.close()


def ended(makers: list[str]) -> bool:
    return until(lambda: not any(map(maker_lives, makers)))


def again(world: Operation) -> None:
    for verb in world.undo:
        call(verb)


def assert_same(where: str, now: dict[str, str], wanted: dict[str, str]) -> None:
    """Fail with what differs, line by line."""
    lines = []
    for key in sorted(now.keys() | wanted.keys()):
        have, want = (set(side.get(key, "").splitlines()) for side in (now, wanted))
        lines += [f"{key}: + {line}" for line in sorted(have - want)[:10]]
        lines += [f"{key}: - {line}" for line in sorted(want - have)[:10]]
    if lines:
        pytest.fail("\n".join([where, *lines]), pytrace=False)
