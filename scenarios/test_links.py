"""Links: a wire between two containers, or a container and the host (rows H1-H4 and E4)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_interface, ip_network

import pytest

from netkit.engine import Engine
from netkit.errors import InvalidSpec, KernelRefused, NotFound
from netkit.kernel import netns
from netkit.model import LinkRecord, SandboxRecord
from netkit.specs import EndSpec, LinkSpec, NetworkSpec, Request
from scenarios.firewalls import each, take_away
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, inside, run, snapshot, until
from tests.faces import netkit, ok, refused
from tests.test_transactions import tables

A = {4: "10.1.1.1/32", 6: "fd00:1::1/128"}
B = {4: "10.1.1.2/32", 6: "fd00:1::2/128"}
ANY = {4: "", 6: "::"}
both = pytest.mark.parametrize("v", [4, 6])


def bare(*names: str) -> list[str]:
    """Namespaces with nothing in them; their places."""
    for name in names:
        run(f"ip netns add {name}", f"ip -n {name} link set lo up")
    return [netns.named(name) for name in names]


def plain(address: str) -> str:
    return address.partition("/")[0]


def join(
    engine: Engine, a: str, b: str, *addresses: tuple[str, str], **wanted: object
) -> LinkRecord:
    """A link, with what is on each side."""
    ends = (
        EndSpec(target=a, addresses=tuple(ip_interface(one) for one, _ in addresses)),
        EndSpec(target=b, addresses=tuple(ip_interface(other) for _, other in addresses)),
    )
    return engine.create_link(LinkSpec(ends=ends, **wanted))  # type: ignore[arg-type]


def connect(
    host: Host,
    place: str | None,
    other: str | None,
    address: str,
    v: int,
    patience_s: float = PATIENCE_S,
) -> str | None:
    """What a server at *other* sees a client at *place* as."""
    with host.serve(other, "tcp", 80, ANY[v]):
        return host.ask(place, plain(address), 80, patience_s=patience_s)


# -- between containers


def test_h1_the_card_of_the_founding_notes(host: Host) -> None:
    """Typed as it stands there, for two containers without a network; then with netkit's words."""
    typed = """
        ip netns add 2989; ip -n 2989 link set lo up
        ip netns add 3004; ip -n 3004 link set lo up
        ip link add A type veth peer name B
        ip link set A netns 2989
        ip netns exec 2989 ip addr add 10.1.1.1/32 dev A
        ip netns exec 2989 ip link set A up
        ip netns exec 2989 ip route add 10.1.1.2/32 dev A
        ip link set B netns 3004
        ip netns exec 3004 ip addr add 10.1.1.2/32 dev B
        ip netns exec 3004 ip link set B up
        ip netns exec 3004 ip route add 10.1.1.1/32 dev B
    """
    run(*typed.strip().splitlines())
    a, b = bare("c1", "c2")
    ok(
        *("link", "c1", "c2", "--addr-a", "10.1.1.1/32", "--addr-b", "10.1.1.2/32"),
        *("--ifname-a", "A", "--ifname-b", "B"),
    )
    for ours, theirs in ((a, netns.named("2989")), (b, netns.named("3004"))):
        for command in ("ip -4 -o addr | sed 's/^[0-9]*//'", "ip route"):
            assert run(command, place=ours) == run(command, place=theirs)
    for place, other in ((a, "10.1.1.2"), (b, "10.1.1.1")):
        assert host.ping(place, other)
    assert ok("check") == ""


@both
def test_h1_two_containers_are_joined_by_a_wire_of_their_own(host: Host, v: int) -> None:
    """Each has its address and a route to the other's; nothing of it is on the host."""
    before = snapshot()
    a, b = bare("a", "b")
    ok("link", "a", "b", "--addr-a", A[v], "--addr-b", B[v])
    assert connect(host, a, b, B[v], v) == plain(A[v])
    assert connect(host, b, a, A[v], v) == plain(B[v])
    now = snapshot()
    assert [now[what] == before[what] for what in ("links", "addresses", "routes", "firewall")] == [
        True
    ] * 4
    assert run(f"ip -{v} route show default", place=a) == ""
    ok("link", "rm", "a-b")
    assert connect(host, a, b, B[v], v, BRIEF_S) is None
    run("ip netns del a", "ip netns del b")
    assert snapshot() == before


def test_h1_ends_may_have_several_addresses_of_both_versions(host: Host) -> None:
    a, b = bare("a", "b")
    ok(
        *("link", "a", "b", "--addr-a", A[4], "--addr-a", A[6], "--addr-a", "10.2.2.1/32"),
        *("--addr-b", B[4], "--addr-b", B[6], "--mtu", "1400"),
        *("--mac-a", "02:00:00:00:00:0a", "--mac-b", "02-00-00-00-00-0B", "--name", "wire"),
    )
    for address, v in ((A[4], 4), (A[6], 6), ("10.2.2.1", 4)):
        assert connect(host, b, a, address, v) == plain(B[v])
    for name, mac in (("a", "0a"), ("b", "0b")):
        shown = run("ip -o link show eth0", place=netns.named(name))
        assert f"02:00:00:00:00:{mac}" in shown
        assert "mtu 1400" in shown
    assert "wire" in ok("link", "ls")


def test_h1_a_wider_prefix_is_on_the_link(host: Host) -> None:
    a, b = bare("a", "b")
    ok("link", "a", "b", "--addr-a", "10.0.0.1/24", "--addr-b", "10.0.0.2/24")
    way = "10.0.0.0/24 dev eth0 proto kernel scope link src 10.0.0.1"
    assert run("ip route", place=a).strip() == way
    assert connect(host, a, b, "10.0.0.2", 4) == "10.0.0.1"


def test_h1_an_end_without_an_address_answers_by_another_of_its_own(host: Host) -> None:
    """One address is enough for two ends, if the far one has another somewhere."""
    a, b = bare("a", "b")
    run("ip addr add 10.7.7.7/32 dev lo", place=a)
    ok("link", "a", "b", "--addr-b", "10.1.1.2/32")
    run("ip route add 10.7.7.7 dev eth0", place=b)
    assert connect(host, a, b, "10.1.1.2", 4) == "10.7.7.7"


def test_h1_without_addresses_a_free_pair_is_chosen_and_printed(host: Host) -> None:
    """One that neither end, nor the host, nor another link has any use for."""
    a, b, _ = bare("a", "b", "c")
    run("ip route add 10.254.0.0/30 dev lo")
    run("ip route add 10.254.0.6/32 dev lo", place=b)
    said = ok("link", "a", "b")
    assert said == "a-b\n  a/eth0 10.254.0.4/31\n  b/eth0 10.254.0.5/31\n"
    assert connect(host, a, b, "10.254.0.5", 4) == "10.254.0.4"
    assert ok("link", "-q", "b", "c") == "b-c\n"
    assert [str(end.addresses[0]) for end in host.engine().links()[1].ends] == [
        "10.254.0.8/31",
        "10.254.0.9/31",
    ]
    assert ok("link", "a", "b", "--no-addr") == "a-b-2\n  a/eth1\n  b/eth2\n"
    assert run("ip -o addr show eth1", place=a) == ""


@both
def test_h2_containers_with_networks_keep_their_ways(host: Host, v: int) -> None:
    """Both paths work at once, and the default route is where it was."""
    engine = host.engine()
    subnets = ip_network("172.25.0.0/24"), ip_network("fd00:25::/64")
    engine.create_network(NetworkSpec("web", subnets=subnets, ipv6=True))
    eps = [engine.connect("web", name=name) for name in ("a", "b")]
    a, b = (netns.named(name) for name in ("a", "b"))
    before = [inside(place) for place in (a, b)]
    ways = run(f"ip -{v} route show default", place=a)
    ok("link", "a", "b", "--addr-a", A[v], "--addr-b", B[v])
    assert run("ip -o link show eth1", place=a)
    assert run(f"ip -{v} route show default", place=a) == ways
    near = eps[1].address(v)
    own = eps[0].address(v)
    assert near is not None
    assert own is not None
    for _ in range(2):
        assert connect(host, a, b, B[v], v) == plain(A[v])
        assert connect(host, a, b, str(near.ip), v) == str(own.ip)
        assert host.ping(a, str(engine.network("web").gateway(v)))
    assert engine.check() == []
    ok("link", "rm", "a-b")
    assert [inside(place) for place in (a, b)] == before
    assert connect(host, a, b, str(near.ip), v) == str(own.ip)


@both
def test_h4_a_router_has_one_address_on_all_its_links(host: Host, v: int) -> None:
    """Unnumbered: each link takes the same /32, and one that goes leaves it on the others."""
    router, x, y = bare("router", "x", "y")
    far = {4: "10.1.1.3/32", 6: "fd00:1::3/128"}
    ok("link", "router", "x", "--addr-a", A[v], "--addr-b", B[v])
    ok("link", "router", "y", "--addr-a", A[v], "--addr-b", far[v])
    assert connect(host, router, x, B[v], v) == plain(A[v])
    assert connect(host, router, y, far[v], v) == plain(A[v])
    assert connect(host, y, router, A[v], v) == plain(far[v])
    ok("link", "rm", "router-x")
    assert connect(host, router, y, far[v], v) == plain(A[v])
    assert ok("check") == ""


# -- a container and the host


@each
@both
def test_h3_e4_a_container_linked_to_the_host_reaches_the_host_and_nothing_else(
    host: Host, v: int
) -> None:
    """Whatever routes it adds: nothing is forwarded from it, or to it."""
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
    theirs = {4: "10.9.0.2", 6: "2001:db8:9::2"}[v]
    run(
        "ip addr add 2001:db8:9::1/64 dev lan0 nodad",
        "ip addr add fe80::1/64 dev lan0 nodad",
        "ip -n lan addr add 2001:db8:9::2/64 dev eth0 nodad",
        "ip -n lan route add default via 2001:db8:9::1",
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )
    engine = host.engine()
    subnets = ip_network("172.25.0.0/24"), ip_network("fd00:25::/64")
    engine.create_network(NetworkSpec("web", subnets=subnets, ipv6=True))
    engine.connect("web", name="web")
    web = netns.named("web")
    (c,) = bare("c")
    ok("link", "c", "host", "--addr-a", A[v], "--addr-b", B[v])
    assert connect(host, c, None, B[v], v) == plain(A[v])
    assert connect(host, None, c, A[v], v) == plain(B[v])
    run(f"ip -{v} route add default via {plain(B[v])} dev eth0", place=c)
    address = engine.endpoints()[0].address(v)
    assert address is not None
    assert connect(host, c, lan, theirs, v, BRIEF_S) is None
    assert connect(host, c, web, str(address.ip), v, BRIEF_S) is None
    assert connect(host, lan, c, A[v], v, BRIEF_S) is None
    assert connect(host, web, c, A[v], v, BRIEF_S) is None
    # nor does it reach the host as somebody else
    forged = {4: "10.6.6.6", 6: "fd00:6::6"}[v]
    run(f"ip addr add {forged} dev lo {'nodad' if v == 6 else ''}", place=c)
    with host.serve(None, "udp", 99, ANY[v]) as seen, host.serve(lan, "tcp", 80, ANY[v]):

        def forge() -> None:
            host.ask(c, plain(B[v]), 99, "udp", source=forged, patience_s=BRIEF_S / 2)

        forge()
        assert seen == []
        assert host.ask(c, plain(B[v]), 99, "udp") == plain(A[v])
        end = next(end for end in engine.links()[0].ends if end.sandbox is None)
        for kind in ("internal", "guarded"):
            take_away(kind, end.ifname)
        forge()
        assert until(lambda: seen[1:] == [forged])
        assert host.ask(c, theirs, 80) == plain(A[v])


def test_h3_the_first_link_to_the_host_makes_the_tables_and_the_last_takes_them_along(
    host: Host,
) -> None:
    before = snapshot()
    bare("c", "d")
    ok("link", "host", "c")
    ok("link", "d", "host", "--ifname-b", "to-d")
    assert "to-d" in run("ip -o link")
    assert "table inet netkit" in run("nft list tables")
    ok("link", "rm", "host-c")
    assert "table inet netkit" in run("nft list tables")
    ok("link", "rm", "d-host")
    run("ip netns del c", "ip netns del d")
    assert snapshot() == before
    assert tables(host.engine()) == {"record": [], "lease": [], "claim": []}


def test_h3_the_tables_stay_for_a_network_and_go_with_it(host: Host) -> None:
    bare("c")
    ok("network", "create", "web")
    ok("link", "host", "c")
    ok("network", "rm", "web")
    assert host.ping(netns.named("c"), "10.254.0.0")
    assert ok("check") == ""
    ok("link", "rm", "host-c")
    assert run("nft list tables") == ""


# -- what goes with what


@pytest.fixture
def linked(host: Host) -> Engine:
    """A container of a network, linked to a bare namespace."""
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(ip_network("172.25.0.0/24"),)))
    engine.connect("web", name="c1")
    bare("far")
    join(engine, "c1", "far", (A[4], B[4]))
    return engine


def undisturbed(engine: Engine) -> None:
    assert engine.store.intents() == []
    assert engine.check() == []


ENDINGS: dict[str, Callable[[Engine], object]] = {
    "the link is removed": lambda engine: engine.delete_link("c1-far"),
    "a container is removed": lambda engine: engine.delete_sandbox(engine.sandbox("c1")),
    "the other is removed": lambda engine: engine.delete_sandbox(engine.sandbox("far")),
    "the other's namespace is deleted": lambda engine: (
        run("ip netns del far"),
        until(lambda: "eth1" not in run("ip -o link", place=netns.named("c1"))),
        engine.gc(),
    ),
    "somebody deletes the interface": lambda engine: (
        run("ip link del eth0", place=netns.named("far")),
        engine.gc(),
    ),
}


@pytest.mark.parametrize("how", ENDINGS)
def test_a_link_goes_whole_whichever_end_it_is_taken_from(
    host: Host, linked: Engine, how: str
) -> None:
    """And a namespace that is on record for its sake only is forgotten with it, but not touched."""
    ENDINGS[how](linked)
    assert linked.links() == []
    left = [] if how == "a container is removed" else ["c1"]
    assert [sandbox.name for sandbox in linked.sandboxes()] == left
    if left:
        assert "eth1" not in run("ip -o link", place=netns.named("c1"))
    if how != "the other's namespace is deleted":
        assert "eth0" not in run("ip -o link", place=netns.named("far"))
    undisturbed(linked)


def test_a_container_that_leaves_its_last_network_stays_for_its_link(linked: Engine) -> None:
    linked.disconnect("web", "c1")
    assert [sandbox.name for sandbox in linked.sandboxes()] == ["c1", "far"]
    undisturbed(linked)
    linked.delete_link("c1-far")
    assert linked.sandboxes() == []
    assert not os.path.exists(netns.named("c1"))  # connect made it, and it goes with its last
    assert os.path.exists(netns.named("far"))


def test_a_dry_run_prints_what_is_done_and_does_nothing(host: Host) -> None:
    bare("a", "b")
    before = snapshot(), tables(host.engine())
    words = ("link", "a", "b", "--addr-a", A[4], "--addr-b", B[4])
    lines = ok(*words, "--dry-run").splitlines()
    assert (snapshot(), tables(host.engine())) == before
    assert lines[0].startswith("ip -n a link add eth0 ")
    assert "ip -n b route add 10.1.1.1/32 dev eth0 scope link" in lines
    ok(*words)
    assert ok("link", "rm", "--dry-run", "a-b") == "ip -n a link del eth0\n"
    assert "a-b" in ok("link", "ls")


def test_a_run_container_without_a_network_can_be_linked_and_its_end_ends_the_link(
    host: Host,
) -> None:
    """docker run --net=none, as the founding notes have it."""
    for name in ("one", "two"):
        ok("run", "-d", "--name", name, "--net", "none", "--", "sleep", "30")
    ok("link", "one", "two", "--addr-a", A[4], "--addr-b", B[4])
    assert ok("exec", "one", "--", "ping", "-c1", "-W2", "-q", "10.1.1.2")
    shown = json.loads(ok("inspect", "one"))[0]["NetworkSettings"]["Links"]["one-two"]
    assert (shown["InterfaceName"], shown["Addresses"], shown["Peer"], shown["PeerAddresses"]) == (
        "eth0",
        ["10.1.1.1/32"],
        "two/eth0",
        ["10.1.1.2/32"],
    )
    ok("rm", "-f", "two")
    assert ok("link", "ls", "-q") == ""
    assert "eth0" not in ok("exec", "one", "--", "ip", "-o", "link")
    ok("rm", "-f", "one")


@pytest.mark.parametrize("kind", ["pid", "netns"])
def test_processes_and_paths_can_be_linked(host: Host, kind: str) -> None:
    (a,) = bare("a")
    with subprocess.Popen(["unshare", "-n", "sleep", "30"]) as other:
        own = os.readlink("/proc/self/ns/net")
        assert until(lambda: os.readlink(f"/proc/{other.pid}/ns/net") != own)
        place = f"/proc/{other.pid}/ns/net"
        target = f"pid:{other.pid}" if kind == "pid" else f"netns:{place}"
        said = ok("link", f"netns:{a}", target, "--addr-a", A[6], "--addr-b", B[6], "--name", "l")
        assert said.splitlines()[0] == "l"
        assert connect(host, a, place, B[6], 6) == plain(A[6])
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert until(lambda: "eth0" not in run("ip -o link", place=a))
    ok("gc")
    assert ok("link", "ls", "-q") == ""
    assert host.engine().sandboxes() == []


def test_a_namespace_comes_before_a_container_whose_id_merely_begins_so(host: Host) -> None:
    """`c` is a name, and the beginning of some ids."""
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(ip_network("172.25.0.0/24"),)))
    sandbox = engine.store.get(SandboxRecord, engine.connect("web", name="web").sandbox)
    short = sandbox.id[:2]
    assert engine.sandbox(short).name == "web"
    bare(short)
    link = join(engine, short, "host", (A[4], B[4]))
    assert link.ends[0].container == short
    assert "eth1" not in run("ip -o link", place=netns.named("web"))


# -- what is refused


def test_what_cannot_be_is_refused_and_nothing_is_done(host: Host) -> None:
    engine = host.engine()
    bare("a", "b", "c")
    run("ip addr add 10.5.5.5/32 dev lo", place=netns.named("a"))
    join(engine, "a", "b", (A[4], B[4]))
    before = snapshot(), tables(engine), inside(netns.named("a"))
    for words, said in (
        (("a", "a"), "one and the same"),
        (("a", f"netns:{netns.named('a')}"), "one and the same"),
        (("host", "host"), "one and the same"),
        (("a", "nobody"), "no such container: nobody"),
        (("a", "c", "--addr-b", B[4]), "a has a route there already"),
        (("a", "c", "--addr-b", "10.5.5.5/32"), "a has it itself"),
        (("a", "c", "--addr-a", "10.1.1.0/24"), "overlaps a's route to 10.1.1.2/32"),
        (("a", "c", "--addr-a", "10.1.1.1"), "prefix length"),
        (("a", "c", "--addr-a", "10.1.1.9/32", "--addr-b", "10.1.1.9/24"), "both ends"),
        (("a", "c", "--addr-a", "10.1.1.9/32", "--addr-a", "10.1.1.9/32"), "given twice"),
        (("a", "c", "--addr-a", "224.0.0.1/32"), "no interface can have it"),
        (("a", "c", "--addr-a", A[4], "--no-addr"), "cannot have any"),
        (("a", "c", "--ifname-a", "eth0"), "has an interface 'eth0' already"),
        (("a", "host", "--ifname-b", "lo0/.."), "invalid interface name"),
        (("a", "c", "--mtu", "40"), "invalid MTU 40"),
        (("a", "c", "--mac-a", "01:00:00:00:00:01"), "multicast"),
        (("a", "c", "--name", "a-b"), "link with name a-b already exists"),
        (("a", "c", "--name", "-"), "invalid link name"),
    ):
        assert said in refused("link", *words), words
    assert "no such link: x" in refused("link", "rm", "x")
    assert "no such link: x" in refused("link", "inspect", "x")
    assert netkit("link", "rm", "-f", "x").code == 0
    assert (snapshot(), tables(engine), inside(netns.named("a"))) == before
    undisturbed(engine)


def test_the_short_form_and_the_long_one(host: Host) -> None:
    """A container called `ls` is linked by the long one."""
    bare("ls", "b")
    ok("link", "create", "ls", "b", "--name", "wire")
    rows = ok("link", "ls", "--format", "{{.Name}} {{.A}} {{.B}} {{.AddressA}} {{.MTU}}")
    assert rows == "wire ls/eth0 b/eth0 10.254.0.0/31 1500\n"
    shown = json.loads(ok("link", "inspect", "wire"))[0]
    assert [end["Container"] for end in shown["Ends"]] == ["ls", "b"]
    assert ok("link", "list", "-q").strip() == shown["Id"][:12]
    assert ok("link", "rm", shown["Id"][:12]).strip() == shown["Id"][:12]
    assert "netkit link [OPTIONS] A B" in netkit("link", "--help").out
    assert netkit("link", "a").code == 2


def test_what_was_changed_behind_its_back_is_told(linked: Engine) -> None:
    far = netns.named("far")
    run("ip addr del 10.1.1.2/32 dev eth0", place=far)
    run("ip link set eth1 down", place=netns.named("c1"))
    told = "\n".join(map(str, linked.check("c1-far")))
    assert "address 10.1.1.2/32 is missing on eth0" in told
    assert "interface eth1 in /run/netns/c1 is down" in told
    assert linked.check("far") != []
    assert linked.check("web") == []


def test_two_links_are_made_at_once_without_waiting_for_each_other_for_ever(host: Host) -> None:
    """Locks of two containers are taken in one order, whichever is named first."""
    bare("a", "b")
    code = "from netkit.cli import main; main()"
    commands = [["link", "-q", *pair] for pair in (("a", "b"), ("b", "a"))] * 3
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
            stdout=subprocess.DEVNULL,
        )
        for words in commands
    ]
    assert [process.wait(30) for process in started] == [0] * 6
    engine = host.engine()
    assert len(engine.links()) == 6
    undisturbed(engine)
    for link in engine.links():
        engine.delete_link(link.id)
    assert engine.sandboxes() == []


def test_an_interface_that_appears_meanwhile_is_kept_and_the_link_is_not_made(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    from netkit import steps

    engine = host.engine()
    bare("a", "b")
    engine.networks()
    before = tables(engine)

    def intrude(name: str) -> None:
        if name == "intended":
            run("ip link add eth0 type bridge", place=netns.named("b"))

    monkeypatch.setattr(steps, "point", intrude)
    with pytest.raises(KernelRefused, match="File exists"):
        join(engine, "a", "b", (A[4], B[4]))
    monkeypatch.undo()
    assert tables(engine) == before
    assert "eth0" not in run("ip -o link", place=netns.named("a"))
    assert "eth0" in run("ip -o link show type bridge", place=netns.named("b"))


def test_a_network_takes_the_next_name_when_a_link_has_one(linked: Engine) -> None:
    """Also when its interface has vanished and nobody has noticed yet."""
    linked.create_network(NetworkSpec("other", subnets=(ip_network("172.26.0.0/24"),)))
    run("ip link del eth0", place=netns.named("far"))
    assert linked.connect("other", "c1").ifname == "eth2"
    linked.disconnect("other", "c1")
    # asked for by name, it is worth a look whether it is there still
    assert linked.connect("other", "c1", Request(ifname="eth1")).ifname == "eth1"
    assert linked.links() == []


def test_api_a_link_is_a_context_manager(host: Host) -> None:
    from netkit import Netkit

    bare("a", "b")
    with Netkit() as nk:
        with nk.links.create("a", "b", addr_a=A[4], addr_b=[B[4], B[6]]) as link:
            assert [str(end) for end in link.ends] == ["a/eth0", "b/eth0"]
            assert [each.name for each in nk.links.list("b")] == ["a-b"]
            assert nk.links.get("a-b").id == link.id
            assert link.check() == []
            assert link.attrs["Ends"][1]["Addresses"] == [B[4], B[6]]
        assert nk.links.list() == []
        with pytest.raises(NotFound):
            link.record.name  # noqa: B018
        with pytest.raises(InvalidSpec):
            nk.links.create("a", "b", addr_a="10.1.1.1")
