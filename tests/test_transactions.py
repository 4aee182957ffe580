"""Whatever the kernel refuses, an operation happens whole or not at all.

The sweeps run on the twin in memory, which can refuse any call it is told to; a few of them again
on the real kernel, where somebody else's things stand in the way.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_interface, ip_network
from typing import NamedTuple

import msgspec
import pytest

from netkit import containers, live, permissions, steps
from netkit.access import ContainerLink
from netkit.containers import RunSpec
from netkit.engine import Engine
from netkit.errors import Conflict, Exhausted, KernelRefused, NetkitError, NotFound
from netkit.kernel import netns
from netkit.model import SandboxRecord
from netkit.portspec import PortSpec
from netkit.routes import RouteSpec, RuleSpec
from netkit.specs import EndSpec, LinkSpec, NameFiles, NetworkSpec, Request
from netkit.updates import Labels, NetworkUpdate, Update
from scenarios.lab import Host, run, snapshot
from tests.fakes import FakeKernel

WEB = NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/24"),))
AN_EARLIER_NAME = NetworkSpec("an-earlier-name", subnets=(IPv4Network("172.26.0.0/24"),))
PORTS = (
    *PortSpec.parse("8080:80"),
    *PortSpec.parse("127.0.0.1:9000-9009:9000-9009/udp"),
    *PortSpec.parse("53/udp"),
)
FILES = NameFiles(hostname="web1", servers=("192.0.2.1",), extra_hosts=("db:172.25.0.9",))
LINKED = Request(links=(ContainerLink("c2", "other"),), ports=PORTS[:1])
RUN = RunSpec(command=("true",), name="c1", networks=("web", "an-earlier-name"), files=FILES)


def nothing(engine: Engine) -> None: ...


def one_network(engine: Engine) -> None:
    engine.create_network(WEB)


def two_networks(engine: Engine) -> None:
    one_network(engine)
    engine.create_network(AN_EARLIER_NAME)


def one_endpoint(engine: Engine) -> None:
    two_networks(engine)
    connect(engine)


def two_endpoints(engine: Engine) -> None:
    one_endpoint(engine)
    engine.connect("an-earlier-name", "c1")


def connect(engine: Engine) -> None:
    engine.connect("web", None, Request(ports=PORTS), FILES, name="c1")


def routed(engine: Engine) -> None:
    subnets = (ip_network("172.27.0.0/24"), ip_network("fd00:27::/64"))
    engine.create_network(NetworkSpec("routed", driver="veth", subnets=subnets, ipv6=True))


def routed_endpoint(engine: Engine) -> None:
    routed(engine)
    connect_routed(engine)


def connect_routed(engine: Engine) -> None:
    engine.connect("routed", None, Request(ports=PORTS[:1]), name="c1")


def two_containers(engine: Engine) -> None:
    one_network(engine)
    for name in ("c1", "c2"):
        engine.connect("web", name=name)


def linked(engine: Engine) -> None:
    two_containers(engine)
    link(engine)


def link(engine: Engine) -> None:
    engine.create_link(_link("c1", "c2"))


def bare(engine: Engine) -> None:
    """A namespace nothing is on record of."""
    with engine.changes.kernel() as kernel:
        kernel.create_netns("far")
        kernel.netlink(netns.named("far")).set_up("lo")


def wired(engine: Engine) -> None:
    bare(engine)
    wire(engine)


def wire(engine: Engine) -> None:
    engine.create_link(_link("netns:/run/netns/far", "host"))


def _link(a: str, b: str) -> LinkSpec:
    ends = (
        EndSpec(target=a, addresses=(ip_interface("10.1.1.1/32"), ip_interface("fd00::1/128"))),
        EndSpec(target=b, addresses=(ip_interface("10.1.1.2/32"), ip_interface("fd00::2/128"))),
    )
    return LinkSpec(ends=ends, name="wire")


def make(engine: Engine) -> None:
    containers._make(engine, RUN)


def made(engine: Engine) -> None:
    two_networks(engine)
    make(engine)


def remove(engine: Engine) -> None:
    engine.delete_sandbox(engine.store.get(SandboxRecord, "c1"))


def with_card(engine: Engine) -> None:
    """A link to a neighbour that stands in for a network card."""
    with engine.changes.kernel() as kernel:
        kernel.create_netns("far")
        far = {"peer": "wire0", "peer_mac": "02:00:00:00:00:02", "peer_netns": netns.named("far")}
        kernel.netlink().add_veth("wire0", mac="02:00:00:00:00:01", mtu=1400, up=False, **far)


def card(engine: Engine) -> None:
    """It is up, with an address and a route."""
    with_card(engine)
    with engine.changes.kernel() as kernel:
        netlink = kernel.netlink()
        netlink.set_up("wire0")
        netlink.add_address("wire0", IPv4Interface("10.9.0.1/24"))
        netlink.add_route("wire0", IPv4Network("10.99.0.0/16"), "10.9.0.2")


def macvlan(engine: Engine) -> None:
    options = {"parent": "wire0", "host_shim": "172.25.0.9"}
    engine.create_network(NetworkSpec("web", "macvlan", subnets=WEB.subnets, options=options))


def on_web(engine: Engine) -> None:
    engine.connect("web", name="c1")


def wired_macvlan(engine: Engine) -> None:
    with_card(engine)
    macvlan(engine)


def connected_macvlan(engine: Engine) -> None:
    wired_macvlan(engine)
    on_web(engine)


def physical(engine: Engine) -> None:
    card(engine)
    options = {"device": "wire0"}
    engine.create_network(NetworkSpec("web", "physical", subnets=WEB.subnets, options=options))


def connected_physical(engine: Engine) -> None:
    physical(engine)
    on_web(engine)


EVERYTHING = Request(
    addresses=(IPv4Address("172.25.0.7"), IPv4Address("172.25.0.8")),
    extra=(IPv4Interface("169.254.7.7/16"),),
    routes=tuple(
        RouteSpec.parse(text)
        for text in ("10.7.0.0/16 via 172.25.0.9", "blackhole 10.8.0.0/16", "default dev table 99")
    ),
    rules=(RuleSpec.parse("to 10.9.0.0/16 table 99"),),
    source_routing=True,
    sysctls={"net/ipv4/conf/IFNAME/log_martians": "1"},
    mtu=1400,
    promisc=True,
)


def connect_with_everything(engine: Engine) -> None:
    engine.connect("web", None, EVERYTHING, name="c1")


def plain_endpoint(engine: Engine) -> None:
    two_networks(engine)
    engine.connect("web", name="c1")


def changed_endpoint(engine: Engine) -> None:
    plain_endpoint(engine)
    live.alter(engine, "c1", "add address", "172.25.0.50")
    live.alter(engine, "c1", "add address", "10.55.0.1/24")
    live.alter(engine, "c1", "add route", "10.7.0.0/16 via 172.25.0.9")
    live.alter(engine, "c1", "add rule", "to 10.9.0.0/16 table 99")


def closed_network(engine: Engine) -> None:
    """With two on it, one of whom may reach the other."""
    engine.create_network(msgspec.structs.replace(WEB, icc=False, host_access=False))
    for name in ("c1", "c2"):
        engine.connect("web", name=name)
    permissions.allow(engine, "c1", "c2:80")
    permissions.let_out(engine, "c1", "allow", ("10.9.0.0/16:443",))


def closed_and_left(engine: Engine) -> None:
    closed_network(engine)
    engine.disconnect("web", "c1")


def closed_pairs(engine: Engine) -> None:
    routed_endpoint(engine)
    engine.connect("routed", name="c2")
    permissions.police(engine, "routed", icc=False)
    permissions.allow(engine, "c1", "c2:80")


def served_endpoint(engine: Engine) -> None:
    subnets = (ip_network("172.28.0.0/24"),)
    engine.create_network(NetworkSpec("served", subnets=subnets, publish="proxy"))
    engine.connect("served", None, Request(ports=PORTS[:1]), name="c1")


def publish_served(engine: Engine) -> None:
    live.publish(engine, "c1", (*PortSpec.parse("8081:81"), *PortSpec.parse("127.0.0.1:53:53/udp")))


def published_by_proxy(engine: Engine) -> None:
    served_endpoint(engine)
    publish_served(engine)


def update(engine: Engine) -> None:
    labels = Labels({"tier": "one"})
    live.update(engine, "c1", Update(mtu=1300, promisc=True, servers=("192.0.2.9",), labels=labels))


class Operation(NamedTuple):
    before: Callable[[Engine], None]
    do: Callable[[Engine], object]


MAKING = {
    "create": Operation(nothing, one_network),
    "create a second": Operation(
        one_network, lambda engine: engine.create_network(AN_EARLIER_NAME)
    ),
    "connect": Operation(two_networks, connect),
    "connect to a second, which gets the default route": Operation(
        one_endpoint, lambda engine: engine.connect("an-earlier-name", "c1")
    ),
    "run": Operation(two_networks, make),
    "create a macvlan": Operation(with_card, macvlan),
    "connect to a macvlan": Operation(wired_macvlan, on_web),
    "connect a physical interface": Operation(physical, on_web),
    "connect to a routed network": Operation(routed, connect_routed),
    "link": Operation(two_containers, link),
    "link to the host, which has no networks": Operation(bare, wire),
    "connect to a closed network": Operation(
        closed_and_left, lambda e: e.connect("web", request=LINKED, name="c1")
    ),
    "connect with everything": Operation(two_networks, connect_with_everything),
}
# of an endpoint that lives: what is refused has not happened, and the endpoint is as it was
CHANGING = {
    "add an address": Operation(
        plain_endpoint, lambda e: live.alter(e, "c1", "add address", "172.25.0.50")
    ),
    "add a foreign address": Operation(
        plain_endpoint, lambda e: live.alter(e, "c1", "add address", "10.55.0.1/24")
    ),
    "add a route": Operation(
        plain_endpoint, lambda e: live.alter(e, "c1", "add route", "10.7.0.0/16 via 172.25.0.9")
    ),
    "lead elsewhere": Operation(
        plain_endpoint, lambda e: live.alter(e, "c1", "add route", "default via 172.25.0.9")
    ),
    "publish": Operation(plain_endpoint, lambda e: live.publish(e, "c1", PORTS)),
    "publish more, on a routed network": Operation(
        routed_endpoint, lambda e: live.publish(e, "c1", PORTS[1:])
    ),
    "publish by a proxy": Operation(served_endpoint, publish_served),
    "update": Operation(changed_endpoint, update),
    "update a network": Operation(
        two_containers, lambda e: live.update_network(e, "web", NetworkUpdate(mtu=1400))
    ),
    "add a rule": Operation(
        plain_endpoint, lambda e: live.alter(e, "c1", "add rule", "to 10.9.0.0/16 table 9")
    ),
    "close a network": Operation(
        two_containers, lambda e: permissions.police(e, "web", icc=False, host_access=False)
    ),
    "open a network": Operation(
        closed_network, lambda e: permissions.police(e, "web", icc=True, host_access=True)
    ),
    "close a routed network": Operation(
        routed_endpoint, lambda e: permissions.police(e, "routed", icc=False)
    ),
    "open a routed network": Operation(
        closed_pairs, lambda e: permissions.police(e, "routed", icc=True)
    ),
    "allow": Operation(closed_network, lambda e: permissions.allow(e, "c2", "c1")),
    "disallow": Operation(closed_network, lambda e: permissions.disallow(e, "c1", "c2:80")),
    "let a network out": Operation(
        closed_network, lambda e: permissions.let_out(e, "web", "allow", ("10.0.0.0/8",))
    ),
    "let a container out": Operation(
        closed_network, lambda e: permissions.let_out(e, "c1", "allow", ("10.0.0.0/8:80",))
    ),
}
UNDOING = {
    "disconnect": Operation(one_endpoint, lambda engine: engine.disconnect("web", "c1")),
    "disconnect the one with the default route": Operation(
        two_endpoints, lambda engine: engine.disconnect("an-earlier-name", "c1")
    ),
    "delete": Operation(two_networks, lambda engine: engine.delete_network("web")),
    "delete the last": Operation(one_network, lambda engine: engine.delete_network("web")),
    "delete with force": Operation(
        two_endpoints, lambda engine: engine.delete_network("web", force=True)
    ),
    "remove": Operation(made, remove),
    "disconnect from a macvlan": Operation(
        connected_macvlan, lambda engine: engine.disconnect("web", "c1")
    ),
    "delete a macvlan": Operation(wired_macvlan, lambda engine: engine.delete_network("web")),
    "give a physical interface back": Operation(
        connected_physical, lambda engine: engine.disconnect("web", "c1")
    ),
    "disconnect from a routed network": Operation(
        routed_endpoint, lambda engine: engine.disconnect("routed", "c1")
    ),
    "delete a link": Operation(linked, lambda engine: engine.delete_link("wire")),
    "remove what is linked": Operation(linked, remove),
    "delete a link to the host": Operation(wired, lambda engine: engine.delete_link("wire")),
    "remove the first address": Operation(
        changed_endpoint, lambda e: live.alter(e, "c1", "remove address", "172.25.0.2")
    ),
    "remove the second address": Operation(
        changed_endpoint, lambda e: live.alter(e, "c1", "remove address", "172.25.0.50")
    ),
    "remove a route": Operation(
        changed_endpoint, lambda e: live.alter(e, "c1", "remove route", "10.7.0.0/16")
    ),
    "remove a rule": Operation(
        changed_endpoint, lambda e: live.alter(e, "c1", "remove rule", "to 10.9.0.0/16 table 99")
    ),
    "disconnect who was reached": Operation(closed_network, lambda e: e.disconnect("web", "c2")),
    "disconnect who reached": Operation(closed_network, lambda e: e.disconnect("web", "c1")),
    "disconnect who reached by a routed pair": Operation(
        closed_pairs, lambda e: e.disconnect("routed", "c1")
    ),
    "unpublish": Operation(one_endpoint, lambda e: live.unpublish(e, "c1", PORTS[1:])),
    "unpublish all": Operation(routed_endpoint, lambda e: live.unpublish(e, "c1", (), every=True)),
    "unpublish from a proxy": Operation(
        published_by_proxy, lambda e: live.unpublish(e, "c1", PortSpec.parse("8081:81"))
    ),
    "disconnect what was published later": Operation(
        published_by_proxy, lambda e: e.disconnect("served", "c1")
    ),
    "disconnect what was changed": Operation(changed_endpoint, lambda e: e.disconnect("web", "c1")),
}


class World(NamedTuple):
    """One fake machine, and an engine that works on it."""

    kernel: FakeKernel
    engine: Engine

    def dump(self) -> object:
        return self.kernel.dump(), tables(self.engine)


def tables(engine: Engine) -> dict[str, list[str]]:
    """Every record, lease and claim. Where the next search begins may have moved on."""
    db = engine.store.connection
    there = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type='table'")}
    if "lease" in there:
        counted = db.execute("SELECT sum(leased) FROM lease_pool").fetchone()[0] or 0
        assert counted == db.execute("SELECT count(*) FROM lease").fetchone()[0]
    wanted = ("record", "lease", "claim")
    return {
        name: sorted(map(repr, db.execute(f"SELECT * FROM {name}"))) if name in there else []
        for name in wanted
    }


@pytest.fixture
def world(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], World]]:
    engines: list[Engine] = []

    def new() -> World:
        kernel = FakeKernel()
        place = f"{host.base}/{len(engines)}"
        kernel.make_directory("/etc/netns")
        kernel.make_directory(f"{place}/run")
        kernel.netlink().set_up("lo")
        monkeypatch.setattr(netns, "identity", kernel.identity)
        engines.append(Engine(f"{place}/state", f"{place}/run", kernel=lambda: kernel))
        return World(kernel, engines[-1])

    os.makedirs(host.base, exist_ok=True)
    yield new
    for engine in engines:
        engine.close()


@pytest.mark.parametrize("name", [*MAKING, *CHANGING])
def test_whichever_call_is_refused_nothing_has_happened(
    world: Callable[[], World], name: str
) -> None:
    """Every call of the kernel in turn; then the same operation succeeds."""
    operation = (MAKING | CHANGING)[name]
    counted = world()
    operation.before(counted.engine)
    counted.kernel.forget_calls()
    operation.do(counted.engine)
    calls = list(counted.kernel.calls)

    tried = world()
    operation.before(tried.engine)
    before = tried.dump()
    for number, call in enumerate(calls):
        tried.kernel.refuse(call=number, code=errno.EPERM)
        with pytest.raises(NetkitError, match="Operation not permitted") as caught:
            operation.do(tried.engine)
        tried.kernel.relent()
        assert tried.dump() == before, f"call {number}, {call}: {caught.value}"
    operation.do(tried.engine)
    assert shape(tried) == shape(counted)


def shape(world: World) -> object:
    """What there is of everything, ids aside."""
    dump = world.kernel.dump()
    found = {table: len(rows) for table, rows in tables(world.engine).items()}
    spaces = {re.sub(r"netkit-\w+", "netkit-ID", path): s for path, s in dump["spaces"].items()}
    return found, {path: len(space["links"]) for path, space in spaces.items()}


LINES = {
    # a call, and how the line reads that it carries out
    "add_bridge": "ip link add br-",
    "add_veth": " link add ",
    "set_port": "ip link set veth",
    "set_alias": " link set ",
    "set_up": " link set ",
    "add_address": " addr add ",
    "add_link": "type macvlan mode bridge",
    "move_link": "ip link set wire0 alias netkit:",
    "attach_netns": "mount --bind /run/netns/c1 /run/netns/netkit-",
    "add_route": " route add ",
    "delete_route": "ip -n c1 route del default via",
    "set_sysctl": "sysctl -qw",
    "create_netns": "ip netns add c1",
    "make_directory": "mkdir -p ",
    "write_file": "cat > ",
    "edit_file": "echo ",
    "open": "nft -f - <<< table inet netkit",
    "add": "add element",
    "forget_flows": "nft -f - <<< add element",
}


@pytest.mark.parametrize("name", MAKING)
def test_a_refusal_is_told_by_the_line_that_was_refused(
    world: Callable[[], World], name: str
) -> None:
    operation = MAKING[name]
    counted = world()
    operation.before(counted.engine)
    counted.kernel.forget_calls()
    operation.do(counted.engine)
    methods = [method for method in LINES if method in counted.kernel.calls]
    assert len(methods) > 4
    for method in methods:
        tried = world()
        operation.before(tried.engine)
        tried.kernel.refuse(method=method, code=errno.ENOSPC)
        with pytest.raises(KernelRefused) as caught:
            operation.do(tried.engine)
        said = str(caught.value)
        assert said.startswith("the kernel refused `"), method
        assert LINES[method] in said, method
        assert said.endswith("`: No space left on device"), method


@pytest.mark.parametrize("name", UNDOING)
def test_whichever_call_is_refused_an_undoing_is_finished_by_the_next_call(
    world: Callable[[], World], name: str
) -> None:
    """Refused before it began, nothing has happened; else it goes past the error, and is a debt."""
    operation = UNDOING[name]
    counted = world()
    operation.before(counted.engine)
    counted.kernel.forget_calls()
    operation.do(counted.engine)
    assert_clean(counted)
    for number, call in enumerate(list(counted.kernel.calls)):
        tried = world()
        operation.before(tried.engine)
        tried.kernel.refuse(call=number, code=errno.EPERM)
        if error := failure(lambda w=tried: operation.do(w.engine)):  # type: ignore[misc]
            assert "Operation not permitted" in str(error), f"call {number}, {call}"
            tried.kernel.relent()
            tried.engine.networks()
            assert_clean(tried)
            with suppress(Conflict, NotFound):  # that it is done already
                operation.do(tried.engine)
        tried.kernel.relent()
        assert shape(tried) == shape(counted), f"call {number}, {call}"
        assert_clean(tried)


def failure(work: Callable[[], object]) -> NetkitError | None:
    try:
        work()
    except NetkitError as error:
        return error
    return None


def assert_clean(world: World) -> None:
    """No intent is left, and what is on record is as it says."""
    assert world.engine.store.intents() == []
    assert world.engine.check() == []


@pytest.mark.parametrize("name", [*MAKING, *CHANGING])
def test_what_is_interrupted_is_undone(world: Callable[[], World], name: str) -> None:
    """^C at any point of an operation, between and amid its steps."""
    operation = (MAKING | CHANGING)[name]
    points: list[str] = []
    tried = world()
    operation.before(tried.engine)
    before = tried.dump()
    number = 0
    while True:
        points.clear()

        def point(name: str, last: int = number) -> None:
            points.append(name)
            if len(points) == last + 1:
                raise KeyboardInterrupt

        steps.point = point
        try:
            operation.do(tried.engine)
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            steps.point = steps._no_point
        if points[number] == "committed":  # from here on it has happened
            break
        assert tried.dump() == before, f"at point {number}, {points[number]}"
        number += 1
    assert number > (10 if name in MAKING else 3)


def test_what_cannot_be_undone_is_said_and_done_later(world: Callable[[], World]) -> None:
    """The rollback itself is refused: the debt is on record, and paid by the next call."""
    tried = world()
    one_network(tried.engine)
    before = tried.kernel.dump()
    tried.kernel.refuse(method="edit_file", code=errno.EIO)
    tried.kernel.refuse(method="delete", code=errno.EBUSY, forever=True)
    with pytest.raises(KernelRefused, match="Input/output error") as caught:
        connect(tried.engine)
    assert any("Device or resource busy" in note for note in caught.value.__notes__)
    assert tried.kernel.dump() != before
    with pytest.raises(KernelRefused, match="Device or resource busy"):
        tried.engine.networks()
    tried.kernel.relent()
    tried.engine.networks()
    assert tried.kernel.dump() == before
    connect(tried.engine)


def test_a_command_that_cannot_be_run_leaves_nothing(host: Host) -> None:
    engine = host.engine()
    one_network(engine)
    before = snapshot(), tables(engine)
    spec = RunSpec(command=("/no/such/command",), name="c1", networks=("web",))
    with pytest.raises(NotFound, match="/no/such/command"):
        containers.run(engine, spec)
    assert (snapshot(), tables(engine)) == before


# -- on the real kernel, somebody else's things in the way


FOREIGN = {
    # what is put in the way, what takes it away
    "a link with the bridge's name": (
        "ip link add lab0 type veth peer name lab1",
        "ip link del lab0",
    ),
    "a bridge with the bridge's name": ("ip link add lab0 type bridge", "ip link del lab0"),
    "a route to the subnet": ("ip route add 172.25.0.0/24 dev lo", "ip route del 172.25.0.0/24"),
    "tables of our name": (
        "nft 'add table inet netkit; add table bridge netkit'",
        "nft 'delete table inet netkit; delete table bridge netkit'",
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_network_keeps_off_what_is_not_its_own(host: Host, name: str) -> None:
    put, take = FOREIGN[name]
    spec = NetworkSpec("web", subnets=WEB.subnets, bridge="lab0")
    engine = host.engine()
    engine.networks()
    run(put)
    before = snapshot(), tables(engine)
    with pytest.raises(Conflict):
        engine.create_network(spec)
    assert (snapshot(), tables(engine)) == before
    run(take)
    engine.create_network(spec)
    engine.delete_network("web")


def test_a_network_over_a_route_of_the_hosts_is_made_with_force(host: Host) -> None:
    engine = host.engine()
    run("ip route add 172.25.0.0/24 dev lo")
    with pytest.raises(Conflict, match=r"172\.25\.0\.0/24"):
        engine.create_network(WEB)
    engine.create_network(NetworkSpec("web", subnets=WEB.subnets, force=True))


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_link_that_took_the_name_is_kept_and_so_is_everything_else(
    host: Host, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It appears between the plan and its execution, when it is too late to choose another."""
    engine = host.engine()
    one_network(engine)
    run("ip netns add theirs")
    place = netns.named("theirs")
    before = snapshot(), tables(engine)

    def intrude(name: str) -> None:
        if name == "intended":
            if where == "inside":
                run("ip link add eth0 type bridge", place=place)
            else:
                run(f"ip link add {planned()} type veth peer name foreign")

    def planned() -> str:
        return engine.endpoints()[0].host_ifname

    monkeypatch.setattr(steps, "point", intrude)
    with pytest.raises(KernelRefused, match=r"ip link add .*: File exists"):
        engine.connect("web", "theirs")
    monkeypatch.undo()
    assert tables(engine) == before[1]
    if where == "inside":
        run("ip link del eth0 type bridge", place=place)
    else:
        run("ip link del foreign")
    assert snapshot() == before[0]


def test_an_interface_name_that_is_taken_is_refused_before_anything(host: Host) -> None:
    engine = host.engine()
    two_networks(engine)
    run("ip netns add theirs")
    run("ip link add lan0 type bridge", place=netns.named("theirs"))
    before = snapshot(), tables(engine)
    with pytest.raises(Conflict, match="has an interface 'lan0' already"):
        engine.connect("web", "theirs", Request(ifname="lan0"))
    assert (snapshot(), tables(engine)) == before
    engine.connect("web", "theirs", Request(ifname="lan1"))
    with pytest.raises(Conflict, match="has an interface 'lan1' already"):
        engine.connect("an-earlier-name", "theirs", Request(ifname="lan1"))
    engine.disconnect("web", "theirs")
    assert "lan0" in run("ip -o link", place=netns.named("theirs"))


def test_a_namespace_that_vanishes_in_the_middle_leaves_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of connecting it; and so when it has vanished before it is disconnected."""
    engine = host.engine()
    one_network(engine)
    before = snapshot(), tables(engine)
    seen: list[str] = []
    number = 0
    while True:
        run("ip netns add theirs")
        seen.clear()

        def vanish(name: str, at: int = number) -> None:
            seen.append(name)
            if len(seen) == at + 1:
                netns.delete("theirs")

        monkeypatch.setattr(steps, "point", vanish)
        error = failure(lambda: engine.connect("web", "theirs", Request(ports=PORTS)))
        monkeypatch.undo()
        if error is not None:
            assert "theirs" in str(error)
        elif number < len(seen):
            engine.disconnect("web", engine.sandboxes()[0].id)
        else:
            break
        assert (snapshot(), tables(engine)) == before, f"at {seen[number]}"
        number += 1
    assert number > 15


# -- nothing left to give


def test_a_small_pool_gives_exactly_what_it_has_and_says_when_it_is_empty(host: Host) -> None:
    engine = host.engine()
    engine.create_network(NetworkSpec("web", subnets=(IPv4Network("172.25.0.0/29"),)))
    given = [engine.connect("web", name=f"c{n}").addresses for n in range(5)]
    assert [str(address) for (address,) in given] == [f"172.25.0.{n}/29" for n in range(2, 7)]
    before = snapshot(), tables(engine)
    with pytest.raises(Exhausted, match=r"no free address in 172\.25\.0\.0/29 \(5 of 5 leased\)"):
        engine.connect("web", name="c5")
    assert (snapshot(), tables(engine)) == before
    engine.disconnect("web", "c3")
    assert engine.connect("web", name="c5").addresses == given[3]


def test_an_address_that_is_taken_is_refused_with_its_owner(host: Host) -> None:
    engine = host.engine()
    one_network(engine)
    engine.connect("web", name="c1")
    before = snapshot(), tables(engine)
    with pytest.raises(Conflict, match=r"172\.25\.0\.2.*c1"):
        engine.connect("web", None, Request(addresses=(IPv4Address("172.25.0.2"),)), name="c2")
    assert (snapshot(), tables(engine)) == before


# -- out of order, and twice


def test_what_is_done_twice_or_too_late_is_refused_and_touches_nobody(host: Host) -> None:
    engine = host.engine()
    two_networks(engine)
    with pytest.raises(NotFound):
        engine.disconnect("web", "c1")
    first = engine.connect("web", name="c1")
    with pytest.raises(Conflict, match="already exists in network"):
        engine.connect("web", "c1")
    engine.disconnect("web", "c1")
    second = engine.connect("web", name="c2")
    assert second.addresses == first.addresses
    before = snapshot(), tables(engine)
    for late in ("c1", first.sandbox):
        with pytest.raises(NotFound):
            engine.disconnect("web", late)
    with pytest.raises(Conflict, match="not connected"):
        engine.disconnect("an-earlier-name", "c2")
    with pytest.raises(Conflict, match="has active endpoints: c2"):
        engine.delete_network("web")
    with pytest.raises(Conflict, match="already exists"):
        engine.create_network(WEB)
    assert (snapshot(), tables(engine)) == before
    assert engine.check() == []
