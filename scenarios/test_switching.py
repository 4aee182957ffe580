"""From one firewall to another while all goes on: `netkit firewall use` (E3), seen from outside."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from ipaddress import ip_interface, ip_network
from itertools import permutations

import pytest

from netkit import Netkit, permissions, steps
from netkit.engine import Engine
from netkit.errors import Conflict, KernelRefused
from netkit.firewall import iptables, load
from netkit.specs import EndSpec, LinkSpec, NetworkSpec
from scenarios import frames
from scenarios.firewalls import admin, admins, in_nftables, take_away
from scenarios.lab import (
    BRIEF_S,
    Host,
    at,
    join,
    legacy_rules,
    ready,
    run,
    snapshot,
    until,
    without_iptables,
)
from tests.faces import netkit, ok, refused
from tests.test_faults import held, rebooted
from tests.test_transactions import tables

OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
THEIRS = {4: "10.9.0.2", 6: "2001:db8:9::2"}
ANY = {4: "", 6: "::"}
_BOUND_S = 30.0


@pytest.fixture(autouse=True)
def needs_both() -> None:
    if reason := without_iptables():
        pytest.skip(reason)


@pytest.fixture
def lan(host: Host) -> str:
    """A neighbour of both versions, on a host that forwarded before netkit came."""
    place = host.neighbour("lan", f"{OURS[4]}/24", f"{THEIRS[4]}/24")
    run(
        f"ip addr add {OURS[6]}/64 dev lan0 nodad",
        "ip addr add fe80::1/64 dev lan0 nodad",
        f"ip -n lan addr add {THEIRS[6]}/64 dev eth0 nodad",
        f"ip -n lan route add default via {OURS[6]}",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    return place


@pytest.fixture
def engine(host: Host, lan: str) -> Engine:
    """A bridge network and a routed one, each with a container that publishes; a linked one too."""
    engine = host.engine()
    for n, (name, driver) in enumerate((("web", "bridge"), ("db", "veth")), 25):
        subnets = (ip_network(f"172.{n}.0.0/24"), ip_network(f"fd00:{n}::/64"))
        engine.create_network(NetworkSpec(name, subnets=subnets, ipv6=True, driver=driver))
    join(engine, "web", "c1", "8080:80", "8082:82", "9000-9009:9000-9009/udp")
    engine.connect("db", name="c2")
    ends = (
        EndSpec(target="c1", addresses=(ip_interface("10.1.1.1/32"),)),
        EndSpec(target="host", addresses=(ip_interface("10.1.1.2/32"),)),
    )
    engine.create_link(LinkSpec(ends=ends, name="wire"))
    return engine


@contextmanager
def repeatedly(ask: Callable[[], str | None]) -> Iterator[list[str | None]]:
    """Ask in a thread of its own, all the while; what was answered so far."""
    answers: list[str | None] = []
    over = threading.Event()

    def go_on() -> None:
        end = time.monotonic() + _BOUND_S
        while not over.is_set() and time.monotonic() < end:
            answers.append(ask())

    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        assert until(lambda: len(answers) > 3)
        yield answers
        enough = len(answers) + 3
        assert until(lambda: len(answers) >= enough)
    finally:
        over.set()
        thread.join(_BOUND_S)


@pytest.mark.parametrize("v", [4, 6])
def test_nothing_is_closed_or_open_for_a_moment_and_connections_go_on(
    host: Host, lan: str, engine: Engine, v: int
) -> None:
    """A client of a published port all the while, and somebody who tries one that is not."""
    web = "/run/netns/c1"
    inside = {4: "172.25.0.2", 6: "fd00:25::2"}[v]
    with host.serve(web, "tcp", 80, ANY[v]), host.serve(web, "tcp", 81, ANY[v]) as unpublished:
        family = socket.AF_INET6 if v == 6 else socket.AF_INET
        with (
            listening(web, family) as accept,
            at(lan, lambda: connect(family, v)) as client,
            accept() as peer,
            repeatedly(lambda: host.ask(lan, OURS[v], 8080)) as answers,
            repeatedly(lambda: host.ask(lan, inside, 81, patience_s=0.02)) as stolen,
        ):
            for name in ("iptables", "nftables", "iptables", "nftables"):
                engine.use_firewall(name)
                client.sendall(name.encode())
                assert peer.recv(64) == name.encode()
                assert engine.check() == []
        assert set(answers) == {THEIRS[v]}
        assert set(stolen) == {None}
        assert unpublished == []
        take_away("inside", engine.network("web").bridge)
        assert host.ask(lan, inside, 81) == THEIRS[v]


@contextmanager
def listening(place: str, family: int) -> Iterator[Callable[[], socket.socket]]:
    """A server at another published port; what accepts its one client."""

    def listen() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.settimeout(5)
        return sock

    with at(place, listen) as sock:
        sock.bind(("::" if family == socket.AF_INET6 else "", 82))
        sock.listen()

        def accept() -> socket.socket:
            found, _ = sock.accept()
            found.settimeout(5)
            return found

        yield accept


def connect(family: int, v: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(5)
    sock.connect((OURS[v], 8082))
    return sock


def test_what_is_made_on_one_and_removed_on_the_other_leaves_nothing(host: Host, lan: str) -> None:
    """Links to the host, too; and the machine's own legacy chains are as they were."""
    run("iptables-legacy -A FORWARD -s 10.66.0.0/16 -j DROP")
    before = snapshot()
    for first, then in (("nftables", "iptables"), ("iptables", "nftables")):
        typed(f"--firewall {first} network create --ipv6 web")
        ok(
            *[
                "connect",
                "--net",
                "web",
                "--name",
                "c1",
                "-p",
                "8080:80",
                "-p",
                "9000-9009:9000-9009/udp",
            ]
        )
        typed("link c1 host")
        assert typed("firewall show --name") == f"{first}\n"
        typed(f"firewall use {then}")
        assert typed("firewall show --name") == f"{then}\n"
        assert in_nftables() is (then == "nftables")
        assert ("NETKIT" in legacy_rules()) is (then == "iptables")
        assert typed("check") == ""
        typed("connect --net web --name c2 -p 8081:80")
        for line in ("link rm c1-host", "rm c1 c2", "network rm web"):
            typed(line)
        assert snapshot() == before


def test_all_rules_are_the_same_as_if_they_had_been_made_there(host: Host, engine: Engine) -> None:
    first = rules()
    engine.use_firewall("iptables")
    second = rules()
    assert len(second) > 100
    assert not {line for line in first if "netkit" in line} & set(second)
    engine.use_firewall("nftables")
    assert rules() == first
    engine.disconnect("db", "c2")
    engine.connect("db", name="c3")
    engine.use_firewall("iptables")
    assert len(rules()) == len(second)


def typed(line: str) -> str:
    """What `netkit LINE` prints."""
    return ok(*line.split())


def rules() -> list[str]:
    return sorted([*run("nft list ruleset").splitlines(), *legacy_rules().splitlines()])


def test_a_host_linked_to_keeps_its_rules_without_any_network(host: Host, lan: str) -> None:
    """What a link has of rules is moved as well."""
    run("ip netns add c")
    typed("link c host")
    typed("firewall use iptables")
    assert typed("check") == ""
    (end,) = [end for link in host.engine().links() for end in link.ends if end.sandbox is None]
    assert legacy_rules().count(f" {end.ifname} ") > 6


def test_e10_inspect_says_what_a_container_is_held_to_on_each(host: Host, engine: Engine) -> None:
    """Docker has no such field, and iptables sees less than nftables."""
    engine.create_network(NetworkSpec("net"))
    engine.create_network(NetworkSpec("routed", driver="veth"))
    engine.connect("net", name="c")
    engine.connect("routed", "c")
    told = "{{range .NetworkSettings.Networks}}{{.SpoofGuard}};{{end}}"
    for back_end, guards in (
        ("nftables", "mac,ip,arp;ip;"),
        ("iptables", "ip;ip;"),
        ("none", ";;"),
    ):
        with suppress(Conflict):  # it is the first
            engine.use_firewall(back_end)
        assert ok("inspect", "--format", told, "c").strip() == guards


def test_none_has_no_rules_and_whoever_comes_back_has_them_all(host: Host, engine: Engine) -> None:
    """Without any, nothing leads to a published port, and nothing keeps others out."""
    with host.serve("/run/netns/c1", "tcp", 80):
        before = rules()
        assert host.ask("/run/netns/lan", OURS[4], 8080) == THEIRS[4]
        engine.use_firewall("none")
        assert (rules(), engine.firewall_rules()) == ([], ("none", ""))
        assert host.ask("/run/netns/lan", OURS[4], 8080) is None
        assert host.ask("/run/netns/lan", "172.25.0.2", 80) == THEIRS[4]
        assert engine.check() == []
        engine.use_firewall("nftables")
        assert rules() == before
        assert host.ask("/run/netns/lan", OURS[4], 8080) == THEIRS[4]
        assert host.ask("/run/netns/lan", "172.25.0.2", 80, patience_s=BRIEF_S) is None
        assert engine.check() == []


@pytest.mark.parametrize(("first", "then"), [*permutations(("nftables", "iptables", "none"), 2)])
def test_a_closed_network_is_closed_all_the_while(host: Host, first: str, then: str) -> None:
    """By rules, or by the bridge itself; and whoever comes later is no exception."""
    engine = host.engine()
    engine.create_network(NetworkSpec("web", icc=False))
    if first != "nftables":
        engine.use_firewall(first)
    one, other = (engine.connect("web", name=name) for name in ("one", "other"))
    ready(one), ready(other)
    arp = frames.arp(one.mac, one.mac, str(one.addresses[0].ip))
    over = threading.Event()

    def send() -> None:
        end = time.monotonic() + _BOUND_S
        while not over.is_set() and time.monotonic() < end:
            frames.send(one.netns, "eth0", arp)
            over.wait(0.002)

    with frames.hear(other.netns, "eth0", frames.of(one.mac)) as heard:
        sender = threading.Thread(target=send)
        sender.start()
        engine.use_firewall(then)
        over.set()
        sender.join()
    assert heard == []
    late = engine.connect("web", name="late")
    ready(late)
    assert engine.check() == []
    with frames.hear(late.netns, "eth0", frames.of(one.mac)) as heard:
        frames.send(one.netns, "eth0", arp)
    assert heard == []
    isolated = {f"isolated {'off' if then == 'nftables' else 'on'}"}
    ports = (f"bridge -d link show dev {ep.host_ifname}" for ep in (one, other, late))
    assert {re.findall(r"isolated \w+", run(port))[0] for port in ports} == isolated
    if then == "nftables":
        run("nft flush set bridge netkit closed")
    else:
        run(f"bridge link set dev {one.host_ifname} isolated off")
    with frames.hear(late.netns, "eth0", frames.of(one.mac), 1) as heard:
        frames.send(one.netns, "eth0", arp)
    assert len(heard) == 1


@pytest.mark.parametrize("then", ["iptables", "none"])
def test_what_another_one_cannot_have_is_refused_before_any_effect(host: Host, then: str) -> None:
    """It would be open, or closed, to those who were told otherwise."""
    engine = host.engine()
    engine.create_network(NetworkSpec("web", icc=False))
    engine.connect("web", name="c1")
    permissions.allow(engine, "c1", "c2:80", "web")
    before = snapshot()
    with pytest.raises(Conflict, match=f"cannot use {then}: cannot have c1 -> c2:80/tcp"):
        engine.use_firewall(then)
    assert snapshot() == before
    permissions.disallow(engine, "c1", "c2:80", "web")
    engine.use_firewall(then)


@pytest.mark.parametrize(("first", "then"), [("nftables", "iptables"), ("iptables", "nftables")])
def test_an_admins_own_rules_stay_behind_and_it_is_said(host: Host, first: str, then: str) -> None:
    """They are words of one back end; and with the other they have no effect."""
    ok("--firewall", first, "network", "create", "web")
    admin("saddr 10.6.6.6 drop")
    said = netkit("firewall", "use", then)
    assert (said.code, said.out) == (0, "")
    assert said.err.startswith(f"Warning: your own rules in the admin chain of {first} have stayed")
    assert "10.6.6.6" in "".join(rules())
    ok("firewall", "use", first)  # where they are in force again
    assert any("10.6.6.6" in rule for rule in admins())
    ok("network", "rm", "web")


# -- what is refused leaves the first in force


def test_a_second_one_that_cannot_be_had_leaves_the_first(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule it refuses, a lock somebody holds, tables of another state directory."""
    before = snapshot(), tables(engine)

    def refused(match: str) -> None:
        with pytest.raises((KernelRefused, Conflict), match=match):
            engine.use_firewall("iptables")
        assert (snapshot(), tables(engine)) == before

    with monkeypatch.context() as patch:
        patch.setattr(iptables, "_PROTOCOLS", ("udp",))
        refused("iptables has no ports of 'tcp'")
    with monkeypatch.context() as patch:
        patch.setattr(iptables, "_LOCK_TIMEOUT_S", 0.3)
        open(iptables.LOCK, "a").close()
        with held(iptables.LOCK.removesuffix(".lock"), "flock"):
            refused(r"xtables\.lock was held by .* for 0\.3 s")
    with monkeypatch.context() as patch:  # the last table of the last version
        chain = iptables._line(6, "nat", "NOWHERE", "-j DROP")
        wanted = iptables._lines
        patch.setattr(iptables, "_lines", lambda rules: [*wanted(rules), chain])
        refused("no chain NETKIT-NOWHERE")
    theirs = load("iptables")
    theirs.open()
    opened = rules()
    with pytest.raises(Conflict, match="made from another state directory"):
        engine.use_firewall("iptables")
    assert rules() == opened
    theirs.close()
    assert (snapshot(), tables(engine)) == before
    engine.use_firewall("iptables")
    assert engine.check() == []


def test_one_without_networks_or_in_use_already_is_refused(host: Host) -> None:
    said = refused(*["firewall", "use", "iptables"])
    assert said.startswith("Error: there are no networks, hence no rules to move\n")
    assert "create the first one with --firewall iptables" in said
    typed("network create web")
    said = refused(*["firewall", "use", "nftables"])
    assert said == "Error: the networks here use firewall 'nftables' already\n"
    assert "'pf' is not one of 'nftables', 'iptables', 'none'" in refused(
        *["firewall", "use", "pf"], code=2
    )


def test_who_waits_for_its_turn_meanwhile_uses_the_new_one(
    host: Host, lan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has looked which it is, and then waits for the network's lock."""
    engine, other = host.engine(), host.engine()
    engine.create_network(NetworkSpec("web", subnets=(ip_network("172.25.0.0/24"),)))
    engine.use_firewall("none")
    locked = engine.store.locked

    def late(name: str, *, shared: bool = False) -> AbstractContextManager[None]:
        if shared:  # the one connect takes
            monkeypatch.undo()
            other.use_firewall("nftables")
        return locked(name, shared=shared)

    monkeypatch.setattr(engine.store, "locked", late)
    join(engine, "web", "c1")
    assert engine.check() == []
    assert in_nftables()
    assert "172.25.0.2" in run("nft list set bridge netkit addresses4")


@pytest.mark.parametrize("when", ["undoing", "delete Rules before"])
def test_what_is_removed_in_the_midst_of_it_leaves_no_rule(
    host: Host, engine: Engine, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A container's rules, which its removal takes from whichever it found in use."""
    there = "fd00:25::2"
    engine.delete_link("wire")
    busy = host.engine()

    def point(name: str) -> None:
        if name == when:
            monkeypatch.undo()
            engine.use_firewall("iptables")

    monkeypatch.setattr(steps, "point", point)
    busy.delete_sandbox(busy.sandbox("c1"))
    assert engine.firewall_rules(listed=False)[0] == "iptables"
    assert there not in legacy_rules()
    assert not re.search(r"\b8080\b", legacy_rules())  # a name may have it among its digits
    assert "fd00:26::2" in legacy_rules()
    assert engine.check() == []
    assert engine.store.intents() == []


def test_after_a_reboot_networks_come_back_on_the_one_chosen_since(host: Host) -> None:
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(ip_network("172.25.0.0/24"),)))
    with rebooted(host, engine) as after:
        after.use_firewall("iptables")
        assert rules() == []
        join(after, "web", "c1", "8080:80")
        assert after.check() == []
        assert not in_nftables()
        assert "NETKIT-LINKS" in legacy_rules()
        after.delete_network("web", force=True)
        assert rules() == []


# -- other tools' chains


def test_a_chain_that_is_in_the_way_of_one_only_is_passed_by_that_one(host: Host, lan: str) -> None:
    """Among legacy rules netkit's come first with iptables; nftables' count for nothing there."""
    run("iptables-legacy -P FORWARD DROP")
    engine = host.engine()
    spec = NetworkSpec("web", subnets=(ip_network("172.25.0.0/24"),))
    before = snapshot()
    engine.create_network(spec)
    web = join(engine, "web", "c1")
    bridge = engine.network("web").bridge
    with host.serve(lan, "tcp", 80):
        for name, passages in (("nftables", 2), ("iptables", 0), ("nftables", 2)):
            if name != engine.firewall_rules(listed=False)[0]:
                engine.use_firewall(name)
            assert run("iptables-legacy -S FORWARD").count(bridge) == passages
            assert host.ask(web, THEIRS[4], 80) == OURS[4]
            assert engine.check() == []
    engine.use_firewall("none")
    assert bridge not in legacy_rules()
    engine.use_firewall("nftables")
    engine.delete_network("web", force=True)
    assert snapshot() == before


# -- by the API


def test_api_a_netkit_tells_and_changes_its_firewall(host: Host) -> None:
    with Netkit() as nk:
        assert nk.firewall == "nftables"
        nk.networks.create("web", subnet="172.25.0.0/24")
        nk.use_firewall("iptables")
        assert nk.firewall == "iptables"
        with nk.dry_run() as lines:
            nk.use_firewall("nftables")
        assert any(line.startswith("nft -f -") for line in lines)
        assert nk.firewall == "iptables"
        assert nk.check() == []
        nk.networks.get("web").remove()


@pytest.mark.parametrize(("first", "then"), [("nftables", "iptables"), ("iptables", "nftables")])
def test_a_dry_run_prints_what_switches_and_does_nothing(host: Host, first: str, then: str) -> None:
    """And typed in by hand it leaves the rules that netkit would have left."""
    typed(f"--firewall {first} network create --subnet 172.25.0.0/24 web")
    typed("connect --net web --name c1 -p 8080:80")
    before = snapshot()
    printed = typed(f"firewall use --dry-run {then}")
    assert snapshot() == before
    typed(f"firewall use {then}")
    after = rules()
    typed(f"firewall use {first}")
    assert snapshot() == before
    run(printed)
    assert rules() == after
