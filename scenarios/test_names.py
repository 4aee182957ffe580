"""Names: what resolves where, who is answered, and what becomes of it when things change or break.

Rows G1-G10 and G12 of features.md; S26-S29, S33, S44 and F32 of trust.md.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import dns.rcode
import dns.reversename
import pytest

from netkit import live
from netkit.access import ContainerLink
from netkit.addresses import address
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.model import EndpointRecord
from netkit.nameservice import Keeper
from netkit.portspec import PortSpec
from netkit.specs import NameFiles, NetworkSpec, Request
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, Host, netkit, ready, run, until
from scenarios.served import FAILED, SILENT, question, resolve, served
from tests.asking import answering, forged

UPSTREAM = "10.9.0.53"
OUTSIDE = "192.0.2.7"


@pytest.fixture
def keeper(host: Host) -> Iterator[Keeper]:
    with served(host) as keeper:
        yield keeper


@pytest.fixture
def engine(host: Host, keeper: Keeper) -> Engine:
    """On a host where names are served; what it warns of is raised."""
    engine = host.engine()

    def warn(text: str) -> None:
        raise AssertionError(text)

    engine.changes.warn = warn
    return engine


def made(engine: Engine, name: str = "web", subnet: str = "172.25.0.0/24", **wanted: object) -> str:
    """A network with names; its first gateway."""
    from ipaddress import ip_network

    subnets = tuple(map(ip_network, [subnet, *(["fd00:25::/64"] if wanted.get("ipv6") else [])]))
    given: dict[str, object] = {"names": True, "subnets": subnets, **wanted}
    return str(engine.create_network(NetworkSpec(name, **given)).gateway())  # type: ignore[arg-type]


def joined(
    engine: Engine,
    name: str,
    network: str = "web",
    files: NameFiles | None = None,
    **wanted: object,
) -> EndpointRecord:
    """A new namespace on a network, once frames pass."""
    request = Request(**wanted)  # type: ignore[arg-type]
    ep = engine.connect(network, request=request, files=files, name=name)
    ready(ep)
    return ep


def place(ep: EndpointRecord) -> str:
    assert ep.netns is not None
    return ep.netns


def ip(ep: EndpointRecord, version: int = 4) -> str:
    found = ep.address(version)
    assert found is not None
    return str(found.ip)


@contextmanager
def upstream(*answers: str, at: str = UPSTREAM, rcode: int = 0) -> Iterator[list[bytes]]:
    """A name server of the host's; the questions that reach it."""
    run(f"ip addr add {at}/32 dev lo")
    with forged(at, answering(*(answers or (OUTSIDE,)), rcode=rcode)) as seen:
        yield seen


# -- what resolves


@each
def test_g1_containers_find_each_other_by_name_from_the_first_moment(host: Host) -> None:
    """As the founding text has it: `ping busybox2`, both ways, and who joins later is found."""
    with served(host):
        netkit("network create --dns-enabled --ipv6 web")
        for name in ("busybox1", "busybox2"):
            netkit(f"connect --net web --name {name}")
        for one, other in (("busybox1", "busybox2"), ("busybox2", "busybox1")):
            for version in (4, 6):
                run(f"ip netns exec {one} ping -{version} -c1 -W3 {other}")
        netkit("connect --net web --name busybox3")
        run("ip netns exec busybox1 ping -c1 -W3 busybox3")
        run("ip netns exec busybox3 ping -c1 -W3 busybox1.web")


def test_g1_a_name_answers_when_connect_returns(engine: Engine) -> None:
    gateway = made(engine)
    asker = joined(engine, "asker")
    assert resolve(place(asker), gateway, "late") is None  # and nobody remembers that
    for number in range(5):
        ep = engine.connect("web", name=f"late{number}")
        assert resolve(place(asker), gateway, f"late{number}") == [ip(ep)]


def test_g1_a_container_is_found_by_name_while_it_runs(engine: Engine) -> None:
    gateway = made(engine)
    asker = joined(engine, "asker")
    netkit("run -d --name db --net web -- sleep 60")
    assert (
        resolve(place(asker), gateway, "db")
        == netkit("inspect -f '{{.NetworkSettings.Networks.web.IPAddress}}' db").split()
    )
    netkit("rm -f db")
    assert resolve(place(asker), gateway, "db") is None


def test_g2_aliases_are_of_one_network_and_the_short_id_is_a_name(engine: Engine) -> None:
    gateway = made(engine)
    made(engine, "back", "172.26.0.0/24")
    asker = joined(engine, "asker")
    db = joined(engine, "db", aliases=("Storage", "my_db.internal"))
    engine.connect("back", "db", Request(aliases=("vault",)))
    for name in ("db", "storage", "STORAGE.web", "my_db.internal", db.sandbox[:12], "db.web"):
        assert resolve(place(asker), gateway, name) == [ip(db)], name
    for name in ("vault", "db.back", "vault.back"):
        assert resolve(place(asker), gateway, name) in (None, FAILED), name


def test_g3_a_link_alias_is_the_linking_containers_alone(engine: Engine) -> None:
    gateway = made(engine)
    db = joined(engine, "db", files=NameFiles(hostname="dbhost"), aliases=("storage",))
    linking = joined(engine, "linking", links=(ContainerLink("db", "database"),))
    other = joined(engine, "other")
    assert resolve(place(linking), gateway, "database") == [ip(db)]
    assert resolve(place(other), gateway, "database") is None
    for target in ("dbhost", "storage", "nobody"):
        with pytest.raises(NotFound, match="there is no container of that name"):
            joined(engine, "third", links=(ContainerLink(target, "database"),))


@pytest.mark.parametrize("stream", [False, True], ids=["UDP", "TCP"])
def test_g4_addresses_of_both_versions_and_names_of_addresses(engine: Engine, stream: bool) -> None:
    """A name without an address of that version is there all the same: NODATA, not NXDOMAIN."""
    four = made(engine, ipv6=True)
    made(engine, "four", "172.26.0.0/24")
    db, lone = joined(engine, "db"), joined(engine, "lone", "four")
    asker = place(joined(engine, "asker"))
    engine.connect("four", "asker")
    for server in (four, "fd00:25::1"):
        assert resolve(asker, server, "dB", stream=stream) == [ip(db)]
        assert resolve(asker, server, "db", "AAAA", stream=stream) == [ip(db, 6)]
        assert resolve(asker, server, "lone", stream=stream) == [ip(lone)]
        assert resolve(asker, server, "lone", "AAAA", stream=stream) == []
        assert resolve(asker, server, "nobody", "AAAA", stream=stream) is None
        for own in (ip(db), ip(db, 6)):
            reverse = dns.reversename.from_address(own).to_text()
            assert resolve(asker, server, reverse, "PTR", stream=stream) == ["db.web."]


def test_g5_all_else_is_asked_of_the_containers_own_servers_or_the_networks(engine: Engine) -> None:
    gateway = made(engine, servers=("10.9.0.54",))
    plain = joined(engine, "plain")
    own = joined(engine, "own", files=NameFiles(servers=("10.9.0.55", UPSTREAM)))
    with (
        upstream("192.0.2.1", at="10.9.0.54") as networks,
        upstream(rcode=dns.rcode.SERVFAIL, at="10.9.0.55") as failing,
        upstream("192.0.2.2"),
    ):
        assert resolve(place(plain), gateway, "www.example.com") == ["192.0.2.1"]
        assert resolve(place(own), gateway, "www.example.com") == ["192.0.2.2"]
        assert (len(networks), len(failing)) == (1, 1)
        for name in ("www", "www.web"):  # for us to know
            assert resolve(place(plain), gateway, name) is None
        assert len(networks) == 1


def test_g5_the_hosts_servers_are_asked_and_followed_without_a_restart(engine: Engine) -> None:
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    before = Path("/etc/resolv.conf").read_text()
    try:
        with upstream("192.0.2.1") as first, upstream("192.0.2.2", at="10.9.0.54"):
            # one of ours would ask itself for ever
            _write("/etc/resolv.conf", f"nameserver {gateway}\nnameserver {UPSTREAM}\n")
            assert until(lambda: resolve(asker, gateway, "a.example") == ["192.0.2.1"])
            assert first
            _write("/etc/resolv.conf", "nameserver 10.9.0.54\n")
            assert until(lambda: resolve(asker, gateway, "a.example") == ["192.0.2.2"])
    finally:
        _write("/etc/resolv.conf", before)


def test_s26_g6_nothing_is_asked_elsewhere_for_who_is_on_internal_networks(engine: Engine) -> None:
    gateway = made(engine, internal=True)
    made(engine, "open", "172.26.0.0/24")
    files = NameFiles(servers=(UPSTREAM,))
    asker, db = place(joined(engine, "asker", files=files)), joined(engine, "db")
    with upstream() as seen:
        answer = question(asker, gateway, "secret.example.com")
        assert answer.rcode() == dns.rcode.SERVFAIL
        assert not seen
        assert resolve(asker, gateway, "db") == [ip(db)]
        engine.connect("open", "asker")  # the control: it has a way out now
        assert resolve(asker, gateway, "secret.example.com") == [OUTSIDE]
        engine.disconnect("open", "asker")
        assert question(asker, gateway, "secret.example.com").rcode() == dns.rcode.SERVFAIL


def test_g7_who_share_an_alias_take_turns_and_services_have_records(engine: Engine) -> None:
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    nodes = [joined(engine, f"node{n}", aliases=("pool",)) for n in range(3)]
    seen = [resolve(asker, gateway, "pool") or [] for _ in range(6)]
    assert {tuple(sorted(answer)) for answer in seen} == {tuple(sorted(map(ip, nodes)))}
    assert {answer[0] for answer in seen} == set(map(ip, nodes))
    assert all(one[0] != other[0] for one, other in pairwise(seen))
    joined(engine, "shop", ports=PortSpec.parse("8080:80") + PortSpec.parse("5353:53/udp"))
    assert resolve(asker, gateway, "_http._tcp.shop", "SRV") == ["0 0 80 shop.web."]
    assert resolve(asker, gateway, "_80._tcp.shop.web", "SRV") == ["0 0 80 shop.web."]
    assert resolve(asker, gateway, "_domain._udp.shop", "SRV") == ["0 0 53 shop.web."]
    assert resolve(asker, gateway, "_53._tcp.shop", "SRV") is None


def test_g8_an_address_that_moved_is_seen_at_once(engine: Engine) -> None:
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    joined(engine, "db")
    (answer,) = question(asker, gateway, "db").answer
    assert answer.ttl == 0
    engine.disconnect("web", "db")
    assert resolve(asker, gateway, "db") is None
    joined(engine, "db", addresses=(address("address", "172.25.0.99"),))
    assert resolve(asker, gateway, "db") == ["172.25.0.99"]
    live.alter(engine, "db", "add address", "172.25.0.77")
    assert sorted(resolve(asker, gateway, "db") or ()) == ["172.25.0.77", "172.25.0.99"]
    live.alter(engine, "db", "remove address", "172.25.0.77")
    assert resolve(asker, gateway, "db") == ["172.25.0.99"]


def test_g8_who_got_an_address_more_may_ask_from_it(engine: Engine) -> None:
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    live.alter(engine, "asker", "add address", "172.25.0.77")
    told = resolve(asker, gateway, "asker", source="172.25.0.77") or []
    assert sorted(told) == ["172.25.0.2", "172.25.0.77"]


def test_g9_names_resolve_on_the_default_network_too(
    host: Host, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETKIT_DAEMON", "yes")  # then networks have names unless told otherwise
    netkit("connect --name one")
    netkit("connect --name two")
    run("ip netns exec one ping -c1 -W3 two", "ip netns exec two ping -c1 -W3 one.bridge")


def test_g10_a_wildcard_alias_is_all_names_below_but_not_its_own(engine: Engine) -> None:
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    one = joined(engine, "one", aliases=("*.app.local",))
    two = joined(engine, "two", aliases=("*.deep.app.local", "exact.app.local"))
    assert resolve(asker, gateway, "any.app.local") == [ip(one)]
    assert resolve(asker, gateway, "a.b.app.local") == [ip(one)]
    assert resolve(asker, gateway, "x.deep.app.local") == [ip(two)]
    assert resolve(asker, gateway, "exact.app.local") == [ip(two)]
    with upstream():
        for name in ("app.local", "deeper-app.local"):
            answer = question(asker, gateway, name)
            assert all(each.to_text() != ip(one) for records in answer.answer for each in records)


def test_g12_hostnames_resolve_where_the_network_says_so(engine: Engine) -> None:
    with_hostnames = made(engine, hostnames=True)
    without = made(engine, "plain", "172.26.0.0/24")
    asker, other = joined(engine, "asker"), joined(engine, "other", "plain")
    db = joined(engine, "db", files=NameFiles(hostname="vault", domainname="corp.test"))
    engine.connect("plain", "db")
    for name in ("vault", "vault.corp.test"):
        assert resolve(place(asker), with_hostnames, name) == [ip(db)]
        answer = question(place(other), without, name)
        assert not answer.answer
    # a name is worth more than somebody's hostname
    own = joined(engine, "prod", files=NameFiles(hostname="db"))
    assert resolve(place(asker), with_hostnames, "db") == [ip(db)] != [ip(own)]


def test_names_resolve_without_a_bridge_too(engine: Engine) -> None:
    gateway = made(engine, driver="veth", ipv6=True)
    one, two = (engine.connect("web", name=name) for name in ("one", "two"))
    for server in (gateway, "fd00:25::1"):
        assert resolve(place(one), server, "two") == [ip(two)]
    run("ip netns exec one ping -c1 -W3 two", "ip netns exec two ping -6 -c1 -W3 one")


def test_the_host_has_a_name_and_add_host_may_say_otherwise(engine: Engine) -> None:
    gateway = made(engine)
    plain = joined(engine, "plain")
    files = NameFiles(extra_hosts=("host.docker.internal:10.9.9.9",))
    other = joined(engine, "other", files=files)
    for name in ("host.internal", "host.docker.internal", "host.containers.internal"):
        assert resolve(place(plain), gateway, name) == [gateway]
    assert resolve(place(other), gateway, "host.docker.internal") == ["10.9.9.9"]
    assert resolve(place(plain), gateway, "localhost") == ["127.0.0.1"]


# -- who is answered


def test_s27_names_of_another_network_are_not_told(engine: Engine) -> None:
    gateway = made(engine)
    others = made(engine, "back", "172.26.0.0/24")
    joined(engine, "db")
    spy = place(joined(engine, "spy", "back"))
    assert resolve(spy, gateway, "db", patience_s=BRIEF_S) == SILENT
    assert resolve(spy, gateway, "db", stream=True, patience_s=BRIEF_S) == SILENT
    assert resolve(spy, others, "db") is None
    assert resolve(spy, others, "db.web") == FAILED  # whoever is asked instead, it is not us
    assert resolve(spy, others, "spy") == ["172.26.0.2"]  # the control


def test_s28_neither_the_lan_nor_the_host_is_answered(host: Host, engine: Engine) -> None:
    gateway = made(engine)
    db = joined(engine, "db")
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
    with upstream("192.0.2.1", at=UPSTREAM):
        for server in (gateway, "10.9.0.1"):
            for name in ("db", "www.example.com"):
                for stream in (False, True):
                    answer = resolve(lan, server, name, stream=stream, patience_s=BRIEF_S)
                    assert answer == SILENT
    for source in (gateway, None):
        assert resolve(None, gateway, "db", source=source, patience_s=BRIEF_S) == SILENT
    # nor who says to be somebody else
    forged_by_lan = f"ip -n lan addr add {ip(db)}/32 dev lo"
    run(forged_by_lan)
    assert resolve(lan, gateway, "db", source=ip(db), patience_s=BRIEF_S) == SILENT
    assert resolve(place(db), gateway, "db") == [ip(db)]


def test_s29_a_name_is_one_containers_and_some_are_nobodys(engine: Engine) -> None:
    before = Path("/etc/resolv.conf").read_text()
    made(engine)
    engine.connect("web", name="db")
    state = _state(engine)
    try:
        _write("/etc/resolv.conf", "search corp.example\nnameserver 192.0.2.53\n")
        for alias in (
            *("db", "DB", "localhost", "x.localhost", "*.localhost", "host.internal"),
            *("host.docker.internal", "_gateway", "wpad", "isatap", "ip6-localhost"),
            *("www.corp.example", "*.corp.example", "*.example", "db.web", "new.web", "*.web"),
        ):
            with pytest.raises(Conflict):
                engine.connect("web", name="thief", request=Request(aliases=(alias,)))
            assert _state(engine) == state, alias
            assert not os.path.exists("/run/netns/thief")
    finally:
        _write("/etc/resolv.conf", before)


def _state(engine: Engine) -> object:
    tables = "SELECT count(*) FROM record", "SELECT * FROM called", "SELECT max(seq) FROM journal"
    return [engine.store.connection.execute(table).fetchall() for table in tables]


def test_s29_nor_can_a_name_be_taken_by_joining_or_linking(engine: Engine) -> None:
    made(engine)
    made(engine, "back", "172.26.0.0/24")
    engine.connect("web", name="one", request=Request(aliases=("shared", "mine")))
    engine.connect("web", name="two", request=Request(aliases=("shared",)))
    with pytest.raises(Conflict, match="'mine' is an alias of one on network 'web' already"):
        engine.connect("web", name="mine")
    with pytest.raises(Conflict, match="'one' is the name of one on network 'web' already"):
        engine.connect("web", name="ONE")
    link = ContainerLink("one", "two")
    with pytest.raises(Conflict, match="'two' is the name of two"):
        engine.connect("web", name="three", request=Request(links=(link,)))
    with pytest.raises(Conflict, match="it means the same to everybody"):
        engine.connect("web", name="wpad")
    engine.connect("back", name="mine")  # elsewhere it is free
    engine.disconnect("web", "one")
    engine.connect("web", "mine")  # and here, now that nobody has it


@pytest.mark.parametrize(
    "alias", ["a\nb", "a b", "a#b", "a\0b", "*", "a.*.b", "**.a", "", "é", "a..b"]
)
def test_s33_what_is_no_name_is_refused_before_anything_is_done(engine: Engine, alias: str) -> None:
    with pytest.raises(InvalidSpec):
        Request(aliases=(alias,))
    with pytest.raises(InvalidSpec):
        ContainerLink.parse(f"db:{alias}" if alias else "db:a b")


def test_aliases_are_refused_where_there_are_no_names(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web", names=False))
    with pytest.raises(InvalidSpec, match="it has no names"):
        engine.connect("web", name="db", request=Request(aliases=("storage",)))


# -- what breaks


def test_f32_names_are_answered_within_a_second_of_a_kill(engine: Engine, keeper: Keeper) -> None:
    gateway = made(engine)
    asker, db = place(joined(engine, "asker")), joined(engine, "db")
    took = []
    for _ in range(3):
        first = keeper.pid
        assert first is not None
        began = time.monotonic()
        os.kill(first, signal.SIGKILL)
        # not only when it has said nothing for a while
        bound_s = Keeper.PATIENCE_S - 0.5
        assert until(lambda: resolve(asker, gateway, "db", patience_s=0.05) == [ip(db)], bound_s)
        took.append(time.monotonic() - began)
        assert keeper.pid not in (first, None)
    assert min(took) < 1.0, "a busy machine may be late, but not each time"


def test_f32_one_that_hangs_is_replaced(
    engine: Engine, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeper, "PAUSE_S", 0.05)
    monkeypatch.setattr(Keeper, "PATIENCE_S", 1.0)
    gateway = made(engine)
    asker = place(joined(engine, "asker"))
    first = keeper.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    assert resolve(asker, gateway, "asker", patience_s=0.1) == SILENT
    assert until(lambda: keeper.pid != first)
    monkeypatch.undo()
    assert until(lambda: resolve(asker, gateway, "asker", patience_s=0.1) not in (SILENT, None))


def test_f32_a_port_that_is_taken_is_told_and_had_once_it_is_free(
    host: Host, keeper: Keeper
) -> None:
    engine = host.engine()
    told: list[str] = []
    engine.changes.warn = told.append
    gateway = made(engine)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind((gateway, 53))
        ep = joined(engine, "db")
        (warning,) = told
        assert f"cannot listen at {gateway}:53: Address already in use" in warning
        assert f"(pid {os.getpid()})" in warning
        (drift,) = [str(each) for each in engine.check("web")]
        assert "names" in drift
    assert until(lambda: resolve(place(ep), gateway, "db", patience_s=1) == [ip(ep)])
    assert engine.check("web") == []


def test_connect_goes_on_where_nobody_serves_names(host: Host) -> None:
    engine = host.engine()
    told: list[str] = []
    engine.changes.warn = told.append
    made(engine)
    assert ip(engine.connect("web", name="db")) == "172.25.0.2"
    assert told == [
        "names on network 'web' are not served: netkitd does not run, and NETKIT_DAEMON=no "
        "forbids to start it"
    ]
    assert [str(drift) for drift in engine.check("web")] == [
        "names on network 'web' are not served: netkitd does not run"
    ]
    with served(host):  # and whoever comes next makes up for it
        engine.connect("web", name="two")
        assert resolve("/run/netns/db", "172.25.0.1", "two") == ["172.25.0.3"]


def test_s44_the_name_server_may_do_nothing_but_answer(engine: Engine, keeper: Keeper) -> None:
    made(engine)
    joined(engine, "db")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{keeper.pid}/status").read_text().splitlines()
    )
    bind_service = f"{1 << 10:016x}"
    assert (status["CapPrm"], status["CapEff"], status["CapInh"], status["NoNewPrivs"]) == (
        *(bind_service, bind_service, f"{0:016x}"),
        "1",
    )
    if int(Path("/proc/self/uid_map").read_text().split()[2]) > 65534:  # there is a nobody to be
        assert status["Uid"].split() == ["65534"] * 4
    assert Path(f"/proc/{keeper.pid}/environ").read_bytes() == b""
    state = engine.store.state_dir
    fds = {os.readlink(fd): fd for fd in Path(f"/proc/{keeper.pid}/fd").iterdir()}
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (number,) = (fd.name for link, fd in fds.items() if link == f"{state}/{name}")
        flags = Path(f"/proc/{keeper.pid}/fdinfo/{number}").read_text()
        assert int(flags.split("flags:")[1].split()[0], 8) & os.O_ACCMODE == os.O_RDONLY
    kinds = {link.split(":")[0] for link, fd in fds.items() if int(fd.name) > 2}
    kinds -= {f"{state}/state.db{end}" for end in ("", "-wal", "-shm")}
    assert kinds <= {"socket", "anon_inode", "pipe"}


def test_names_follow_a_state_that_took_the_place_of_another(host: Host, keeper: Keeper) -> None:
    engine = host.engine()
    gateway = made(engine)
    joined(engine, "db")
    engine.delete_network("web", force=True)
    engine.close()
    for path in Path(engine.store.state_dir).iterdir():
        path.unlink()
    again = host.engine()
    again.changes.warn = lambda text: pytest.fail(text)
    made(again)
    ep = joined(again, "fresh")
    assert resolve(place(ep), gateway, "fresh") == [ip(ep)]


def _write(path: str, text: str) -> None:
    with open(f"{path}.new", "w") as file:
        file.write(text)
    os.replace(f"{path}.new", path)
