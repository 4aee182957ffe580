"""Exact undo: whatever is done in whatever order, once all is removed the host is as it was."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from netkit.engine import Engine
from netkit.errors import NetkitError, NotFound
from netkit.model import SandboxRecord
from netkit.portspec import PortSpec
from netkit.specs import EndSpec, LinkSpec, NameFiles, NetworkSpec, Request
from scenarios.lab import Host, run, snapshot
from tests.test_transactions import tables

networks = st.sampled_from(["a", "b"])
drivers = st.sampled_from(["bridge", "veth"])
ends = st.sampled_from(["c1", "c2", "theirs", "host"])
sandboxes = st.sampled_from(["c1", "c2", "c3", "theirs"])
requests = st.builds(
    Request,
    ports=st.sampled_from(
        [(), *map(PortSpec.parse, ("80", "8080:80", "53:53/udp", "9000-9009:9000-9009"))]
    ),
    addresses=st.sampled_from([(), (), (IPv4Address("172.25.0.9"),)]),
    gateway_priority=st.integers(0, 1),
)
files = st.sampled_from([NameFiles(), NameFiles(hostname="web1", servers=("192.0.2.1",))])
KINDS = {
    "create": st.tuples(st.just("create"), networks, st.booleans(), st.booleans(), drivers),
    "delete": st.tuples(st.just("delete"), networks, st.booleans()),
    "connect": st.tuples(st.just("connect"), networks, sandboxes, requests, files),
    "disconnect": st.tuples(st.just("disconnect"), networks, sandboxes),
    "link": st.tuples(st.just("link"), ends, ends),
    "unlink": st.tuples(st.just("unlink"), st.integers(0, 2)),
    "remove": st.tuples(st.just("remove"), sandboxes),
    "vanish": st.tuples(st.just("vanish"), sandboxes),
    "gc": st.tuples(st.just("gc")),
}
# what makes something is done more often than what takes it away
often = st.sampled_from([*KINDS, *["connect"] * 7, *["link"] * 4])
operations = st.lists(often.flatmap(KINDS.__getitem__), min_size=20, max_size=30)


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,  # the same ones each time: a red build is red again
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
@given(operations)
def test_the_host_is_as_it_was_once_all_is_removed(todo: list[tuple[object, ...]]) -> None:
    with Host() as host:
        run(
            "ip netns add theirs", "ip -n theirs link set lo up", "sysctl -qw net.ipv4.ip_forward=0"
        )
        engine = host.engine()
        before = snapshot()
        for operation in (
            ("create", "a", False, True, "bridge"),
            ("create", "b", False, True, "veth"),
            *todo,
        ):
            try:
                perform(engine, operation)
            except NetkitError:
                assert engine.store.intents() == []
            assert engine.check() == []
        for link in engine.links():
            engine.delete_link(link.id)
        for net in engine.networks()[:-2]:
            engine.delete_network(net.id, force=True)
        engine.gc()
        assert tables(engine) == {"record": [], "lease": [], "claim": []}
        assert snapshot() == before


def perform(engine: Engine, operation: tuple[object, ...]) -> None:
    match operation:
        case "create", str(name), bool(internal), bool(masquerade), str(driver):
            subnet = IPv4Network(f"172.25.{ord(name) - ord('a')}.0/24")
            engine.create_network(
                NetworkSpec(
                    name, driver, subnets=(subnet,), internal=internal, masquerade=masquerade
                )
            )
        case "link", str(one), str(other):
            engine.create_link(LinkSpec(ends=(EndSpec(target=one), EndSpec(target=other))))
        case "unlink", int(number):
            for link in engine.links()[number : number + 1]:
                engine.delete_link(link.id)
        case "delete", str(name), bool(force):
            engine.delete_network(name, force=force)
        case "connect", str(net), str(name), Request() as request, NameFiles() as files:
            if name == "theirs":
                engine.connect(net, name, request)
                return
            try:
                engine.sandbox(name)
            except NotFound:
                engine.connect(net, None, request, files, name=name)
            else:
                engine.connect(net, name, request)
        case "disconnect", str(net), str(name):
            engine.disconnect(net, name)
        case "remove", str(name):
            engine.delete_sandbox(engine.store.get(SandboxRecord, name))
        case "vanish", str(name):
            if name != "theirs":
                run(f"ip netns del {name} 2>/dev/null || true")
                engine.gc()
        case ("gc",):
            engine.gc()
        case other:
            raise AssertionError(other)
