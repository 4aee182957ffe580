"""The host resolves its containers' names: its resolver is told, and told back exactly.

Row G11 of features.md; differentiator 11. Behind systemd-resolved a program of the test stands in
for resolvectl, and writes down what it is told.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from ipaddress import IPv4Network

import dns.message
import dns.reversename
import pytest

from netkit import Netkit, hostnames
from netkit.access import ContainerLink
from netkit.engine import Engine
from netkit.errors import KernelRefused
from netkit.namefiles import HOST_SERVER
from netkit.nameservice import Keeper
from netkit.specs import NetworkSpec, Request
from scenarios.lab import BRIEF_S, Host, run, until
from scenarios.served import SILENT, question, resolve, served
from scenarios.test_name_files import host_file
from tests.asking import answering, forged
from tests.faces import netkit, ok

HOSTS = "/etc/resolv.conf"
UPSTREAM = "127.9.9.9"  # one on the host's own loopback, as dnsmasq is
BEFORE = f"nameserver {UPSTREAM}\nsearch corp.test\noptions edns0\n"
OURS = f"# netkit: `netkit dns host disable` takes these two lines out\nnameserver {HOST_SERVER}\n"


@pytest.fixture
def engine(host: Host) -> Iterator[Engine]:
    """Two networks with names on a host whose resolv.conf is known; c1 is on both."""
    before = read(HOSTS)
    host_file("resolv.conf", BEFORE)
    engine = host.engine()
    for number, name in enumerate(("web", "desk"), 1):
        subnets = (IPv4Network(f"172.25.{number}.0/24"),)
        engine.create_network(NetworkSpec(name, subnets=subnets, names=True))
    yield engine
    engine.disable_host_names()
    if os.path.islink(HOSTS):
        os.unlink(HOSTS)
    host_file("resolv.conf", before)


@pytest.fixture
def keeper(host: Host, engine: Engine) -> Iterator[Keeper]:
    with served(host) as keeper:
        yield keeper


def read(path: str) -> str:
    with open(path, newline="") as file:
        return file.read()


def write(path: str, text: str) -> None:
    with open(path, "w", newline="") as file:
        file.write(text)


def host_resolves(name: str, kind: str = "A") -> list[str] | None:
    return resolve(None, HOST_SERVER, name, kind)


def libc(name: str) -> str:
    """The address the host's C library finds, as any program of the host does."""
    return run(f"getent ahostsv4 {name} | sed -n 's/ *STREAM.*//p'", check=False).strip()


# -- what resolves


@pytest.mark.usefixtures("keeper")
def test_g11_the_host_resolves_containers_by_name_and_network(engine: Engine) -> None:
    engine.connect("web", name="c1")
    engine.enable_host_names()
    assert libc("c1.web") == "172.25.1.2"
    assert libc("c1") == "172.25.1.2"
    assert host_resolves("C1.WEB") == ["172.25.1.2"]
    (box,) = engine.sandboxes()
    assert host_resolves(f"{box.id[:12]}.web") == ["172.25.1.2"]
    reverse = dns.reversename.from_address("172.25.1.2").to_text()
    assert host_resolves(reverse, "PTR") == ["c1.web."]


@pytest.mark.usefixtures("keeper")
def test_g11_those_that_come_later_are_there_and_those_that_go_are_gone(engine: Engine) -> None:
    engine.enable_host_names()
    with forged(UPSTREAM, answering("192.0.2.7")):
        assert host_resolves("late.web") == ["192.0.2.7"]  # it may be a name of the world's
        engine.connect("web", name="late")
        assert host_resolves("late.web") == ["172.25.1.2"]
        engine.disconnect("web", "late")
        assert host_resolves("late.web") == ["192.0.2.7"]


@pytest.mark.usefixtures("keeper")
def test_g11_a_bare_name_is_one_containers_or_nobodys(engine: Engine) -> None:
    """Not an alias either, which several may share, and which is for those of its network."""
    for network in ("web", "desk"):
        engine.connect(network, "c1" if network == "desk" else None, name="c1")
    request = Request(aliases=("db", "my.db"), links=(ContainerLink("c1", "peer"),))
    engine.connect("web", request=request, name="c2")
    engine.enable_host_names()
    with forged(UPSTREAM, answering("192.0.2.7")):
        assert host_resolves("c1") == ["172.25.2.2"]  # on several: at its first address
        assert host_resolves("c1.web") == ["172.25.1.2"]
        assert host_resolves("db.web") == ["172.25.1.3"]
        for name in ("db", "my.db", "peer", "peer.web", "host.internal", "c2.desk"):
            assert host_resolves(name) == ["192.0.2.7"], name


@pytest.mark.usefixtures("keeper")
def test_g11_all_else_is_asked_of_the_hosts_own_servers_and_never_of_itself(
    engine: Engine,
) -> None:
    engine.enable_host_names()
    with forged(UPSTREAM, answering("192.0.2.7")) as asked:
        assert libc("www.example.org") == "192.0.2.7"
        assert host_resolves("printer") == ["192.0.2.7"]  # short names are the host's, too
        assert {dns.message.from_wire(data).question[0].name.to_text() for data in asked} == {
            "printer.",
            "www.example.org.",
        }


@pytest.mark.usefixtures("keeper")
def test_g11_s28_nobody_but_the_host_is_answered_there(engine: Engine) -> None:
    engine.connect("web", name="c1")
    engine.enable_host_names()
    assert host_resolves("c1.web") == ["172.25.1.2"]
    at_gateway = question(None, HOST_SERVER, "c1.web", source="172.25.1.1", patience_s=BRIEF_S)
    assert at_gateway is None
    inside = resolve("/run/netns/c1", HOST_SERVER, "c1.web", patience_s=BRIEF_S)
    assert inside == SILENT


@pytest.mark.usefixtures("keeper")
def test_g11_disabled_it_is_not_answered_any_more(engine: Engine) -> None:
    engine.connect("web", name="c1")
    engine.enable_host_names()
    assert host_resolves("c1.web") == ["172.25.1.2"]
    engine.disable_host_names()
    assert until(lambda: resolve(None, HOST_SERVER, "c1.web", patience_s=BRIEF_S) == SILENT)
    assert resolve("/run/netns/c1", "172.25.1.1", "c1.web") == ["172.25.1.2"]


def test_g11_containers_ask_whom_the_host_asked_and_not_the_hosts_own_address(
    engine: Engine,
) -> None:
    engine.enable_host_names()
    engine.connect("web", name="c1")
    assert f"about others it asks {UPSTREAM}\n" in read("/etc/netns/c1/resolv.conf")
    assert HOST_SERVER not in read("/etc/netns/c1/resolv.conf")


# -- resolv.conf, byte for byte


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(BEFORE, id="a file"),
        pytest.param("nameserver 9.9.9.9", id="without a newline at the end"),
        pytest.param("", id="empty"),
        pytest.param("\n\n# x\r\nnameserver 9.9.9.9\r\n\n", id="untidy"),
        pytest.param("# \udcff\nnameserver 9.9.9.9\n", id="no UTF-8"),
        pytest.param(None, id="none"),
    ],
)
def test_g11_it_is_undone_byte_for_byte(engine: Engine, text: str | None) -> None:
    os.unlink(HOSTS)
    if text is not None:
        with open(HOSTS, "wb") as file:
            file.write(text.encode(errors="surrogateescape"))
        os.chmod(HOSTS, 0o640)
    before = os.stat(HOSTS) if text is not None else None
    engine.enable_host_names()
    engine.enable_host_names()
    with open(HOSTS, "rb") as file:
        assert file.read() == OURS.encode() + (text or "").encode(errors="surrogateescape")
    assert not engine.check()
    engine.disable_host_names()
    engine.disable_host_names()
    if before is None:
        assert not os.path.exists(HOSTS)
        write(HOSTS, "")
        return
    with open(HOSTS, "rb") as file:
        assert file.read() == (text or "").encode(errors="surrogateescape")
    after = os.stat(HOSTS)
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (before.st_ino, 0o640)


@pytest.mark.parametrize("target", ["elsewhere", "/run/elsewhere", "../run/elsewhere"])
def test_g11_a_symlink_stays_one(engine: Engine, target: str) -> None:
    os.unlink(HOSTS)
    os.symlink(target, HOSTS)
    real = os.path.realpath(HOSTS)
    write(real, BEFORE)
    try:
        engine.enable_host_names()
        assert (os.readlink(HOSTS), read(real)) == (target, OURS + BEFORE)
        engine.disable_host_names()
        assert (os.readlink(HOSTS), read(real)) == (target, BEFORE)
    finally:
        os.unlink(real)
        os.unlink(HOSTS)
        write(HOSTS, "")


@pytest.mark.parametrize(
    ("edited", "left"),
    [
        (OURS + BEFORE + "# mine", BEFORE + "# mine"),
        ("# mine\n" + OURS + BEFORE, "# mine\n" + BEFORE),
        (OURS.replace("\n", "\n# mine\n", 1) + BEFORE, None),
        (OURS.partition("\n")[2] + BEFORE, BEFORE),  # the comment was in somebody's way
        ("nameserver 192.0.2.1\n", "nameserver 192.0.2.1\n"),  # written anew, by DHCP
        ("", ""),
    ],
)
def test_g11_what_others_changed_meanwhile_stays_and_only_our_line_goes(
    engine: Engine, edited: str, left: str | None
) -> None:
    engine.enable_host_names()
    write(HOSTS, edited)
    engine.disable_host_names()
    expected = edited.replace(f"nameserver {HOST_SERVER}\n", "") if left is None else left
    assert read(HOSTS) == expected


def test_g11_where_the_symlink_leads_elsewhere_by_now_our_line_goes_from_both(
    engine: Engine,
) -> None:
    write("/run/one", BEFORE)
    os.unlink(HOSTS)
    os.symlink("/run/one", HOSTS)
    engine.enable_host_names()
    os.unlink(HOSTS)
    write(HOSTS, OURS + "# copied\n")
    engine.disable_host_names()
    assert (read("/run/one"), read(HOSTS)) == (BEFORE, "# copied\n")
    os.unlink("/run/one")


def test_g11_killed_while_the_lines_were_cut_off_it_is_undone_all_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the writing of the text and the end of the file."""
    engine.enable_host_names()

    def killed(fd: int, data: bytes, at: int) -> int:
        os.lseek(fd, at, os.SEEK_SET)
        os.write(fd, data)
        raise KernelRefused("killed")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", killed)
        with pytest.raises(KernelRefused):
            engine.disable_host_names()
    assert read(HOSTS) == BEFORE + "\n" * len(OURS)
    engine.gc()
    engine.disable_host_names()
    assert read(HOSTS) == BEFORE


# -- that it stands, and what is wrong


def test_g11_it_stands_whatever_networks_go(engine: Engine) -> None:
    engine.enable_host_names()
    for name in ("web", "desk"):
        engine.delete_network(name)
    assert read(HOSTS) == OURS + BEFORE
    assert engine.host_names().by == HOSTS


def test_g11_a_line_that_somebody_took_out_is_missed_and_enabling_puts_it_back(
    engine: Engine,
) -> None:
    engine.enable_host_names()
    write(HOSTS, "nameserver 192.0.2.1\n")
    (drift,) = engine.check()
    assert f"{HOSTS} does not name {HOST_SERVER}" in str(drift)
    engine.enable_host_names()
    assert read(HOSTS) == OURS + "nameserver 192.0.2.1\n"
    assert not engine.check()
    engine.disable_host_names()
    assert read(HOSTS) == "nameserver 192.0.2.1\n"


def test_g11_a_host_that_was_started_anew_is_told_again_with_its_networks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.enable_host_names()
    write(HOSTS, "nameserver 192.0.2.1\n")
    monkeypatch.setattr(engine.changes, "_epoch", "another boot")
    assert "started anew" in engine.host_names().problems[0]
    with engine.changes.kernel() as kernel:
        hostnames.follow(engine.changes, kernel)  # as with each network that comes back
    assert read(HOSTS) == OURS + "nameserver 192.0.2.1\n"


@pytest.mark.usefixtures("engine")
def test_g11_as_typed() -> None:
    """What --dry-run prints does the same by hand, and undoes it."""
    lines = ok("dns", "host", "enable", "--dry-run")
    assert read(HOSTS) == BEFORE
    said = netkit("dns", "host", "enable")
    assert said.code == 0
    assert "names to the host are not served: netkitd does not run" in said.err
    assert read(HOSTS) == OURS + BEFORE
    said = netkit("dns", "host", "status", "--format", "json")
    shown = json.loads(said.out)
    assert (said.code, shown["Status"], shown["By"]) == (1, "failing", HOSTS)
    assert "netkitd does not run" in shown["Problems"]
    undoing = ok("dns", "host", "disable", "--dry-run")
    assert read(HOSTS) == OURS + BEFORE
    run(undoing)
    assert read(HOSTS) == BEFORE
    run(lines)
    assert read(HOSTS) == OURS + BEFORE
    ok("dns", "host", "disable")
    assert read(HOSTS) == BEFORE
    assert json.loads(ok("dns", "host", "status", "--format", "json"))["Status"] == "disabled"


@pytest.mark.usefixtures("engine")
def test_g11_from_python() -> None:
    with Netkit() as nk:
        nk.dns.enable_host()
        assert read(HOSTS) == OURS + BEFORE
        assert nk.dns.host.by == HOSTS
        nk.dns.disable_host()
        assert nk.dns.host.by is None
    assert read(HOSTS) == BEFORE


# -- behind systemd-resolved

_BIN = "/usr/local/sbin"
_LINKS = "ip -o link | cut -d: -f2; ip -o -4 addr"
RESOLVECTL = """#!/bin/sh
# resolved's memory of one link
[ -e /run/resolved-fails ] && { echo 'Failed to set: No such link' >&2; exit 1; }
ip link show $2 > /dev/null || exit 1
case $# in 2) echo "Link 9 ($2): $(cat /run/resolved-$1)"; exit;; esac
echo "$@" >> /run/resolved-log
verb=$1; shift 2; echo "$*" > /run/resolved-$verb
"""


@pytest.fixture
def resolved(engine: Engine) -> Iterator[None]:
    """A host whose resolver is resolved, as far as anybody can see."""
    host_file("resolv.conf", "nameserver 127.0.0.53\n")
    run(f"mount -t tmpfs netkit-test {_BIN}")
    write(f"{_BIN}/resolvectl", RESOLVECTL)
    os.chmod(f"{_BIN}/resolvectl", 0o755)
    yield
    engine.disable_host_names()
    run(f"umount {_BIN}", "rm -f /run/resolved-*")


def told() -> list[str]:
    return read("/run/resolved-log").splitlines()


@pytest.mark.usefixtures("resolved")
def test_g11_resolved_asks_by_a_link_of_netkits_about_the_networks_and_nothing_else(
    engine: Engine,
) -> None:
    before = run(_LINKS)
    engine.enable_host_names()
    assert told() == [
        f"dns netkit-dns {HOST_SERVER}",
        "domain netkit-dns ~desk ~web",
        "default-route netkit-dns false",
    ]
    assert f"inet {HOST_SERVER}/32 scope global netkit-dns" in run("ip -o addr show netkit-dns")
    assert read(HOSTS) == "nameserver 127.0.0.53\n"
    assert engine.host_names()[:2] == ("netkit-dns", ("desk", "web"))
    assert not engine.check()
    engine.disable_host_names()
    assert run(_LINKS) == before


@pytest.mark.usefixtures("resolved")
def test_g11_resolved_is_told_of_networks_that_come_and_go(engine: Engine) -> None:
    engine.enable_host_names()
    subnets = (IPv4Network("172.25.9.0/24"),)
    engine.create_network(NetworkSpec("a_b.c", subnets=subnets, names=True))
    assert told()[-2] == "domain netkit-dns ~a_b.c ~desk ~web"
    engine.create_network(NetworkSpec("nameless", names=False))
    engine.create_network(NetworkSpec("no-domain-", names=True))  # which DNS cannot say
    assert len(told()) == 6
    for name in ("web", "desk", "a_b.c"):
        engine.delete_network(name)
    assert told()[-2] == "domain netkit-dns "
    assert not engine.check()


@pytest.mark.usefixtures("resolved", "keeper")
def test_g11_resolved_is_answered_at_the_links_address(engine: Engine) -> None:
    engine.connect("web", name="c1")
    engine.enable_host_names()
    assert host_resolves("c1.web") == ["172.25.1.2"]


@pytest.mark.usefixtures("resolved")
def test_g11_what_resolved_refuses_leaves_no_trace(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netkit.steps.resolver._KNOWN_S", 0.1)
    before = run(_LINKS)
    write("/run/resolved-fails", "")
    with pytest.raises(KernelRefused, match="resolvectl says: Failed to set: No such link"):
        engine.enable_host_names()
    assert run(_LINKS) == before
    assert engine.host_names().by is None


@pytest.mark.usefixtures("resolved")
def test_g11_what_resolved_refuses_later_is_told_and_hinders_no_network(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netkit.steps.resolver._KNOWN_S", 0.1)
    warned: list[str] = []
    engine.enable_host_names()
    engine.changes.warn = warned.append
    write("/run/resolved-fails", "")
    engine.delete_network("desk")
    assert "does not find the containers of all networks" in warned[0]
    os.unlink("/run/resolved-fails")
    engine.delete_network("web")
    assert told()[-2] == "domain netkit-dns "


@pytest.mark.usefixtures("resolved")
def test_g11_what_resolved_has_forgotten_is_missed(engine: Engine) -> None:
    engine.enable_host_names()
    write("/run/resolved-domain", "\n")
    (drift,) = engine.check()
    assert "systemd-resolved has lost what netkit-dns is for" in str(drift)
    engine.enable_host_names()
    assert not engine.check()
