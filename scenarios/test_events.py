"""Events of real lives: what runs, dies, is attached; and netkitd, who notices a death."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netkit import Netkit
from netkit.engine import Engine
from netkit.events import told
from netkit.kernel import netns
from netkit.model import AttachmentRecord
from netkit.portspec import PortSpec
from netkit.specs import EndSpec, LinkSpec, NetworkSpec, Request
from scenarios.chains import Chain, published
from scenarios.lab import Host, netkit, run, until
from scenarios.plugins import Plugins
from scenarios.watching import watching

NOTICED_S = 5 * 1.0  # five times what is promised: a machine may be busy


@pytest.fixture
def engine(host: Host) -> Engine:
    made = host.engine()
    made.create_network(NetworkSpec("web"))
    return made


def since(engine: Engine, seq: int) -> list[tuple[str, str]]:
    """(type action, name) of what happened after the entry *seq*."""
    return [
        (f"{event.type} {event.action}", event.attributes["name"])
        for event in map(told, engine.store.journal(seq))
    ]


@contextmanager
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process with a network of its own that netkit knows nothing of."""
    with subprocess.Popen(["unshare", "-n", "sleep", "60"]) as process:
        try:
            own = netns.own()
            path = f"/proc/{process.pid}/ns/net"
            assert until(lambda: not netns.identity(path).startswith(own))
            yield process
        finally:
            process.kill()


LIFE = [
    ("container create", "c1"),
    ("network connect", "web"),
    ("container start", "c1"),
    ("container die", "c1"),
    ("network disconnect", "web"),
]


def test_a_container_in_the_foreground_is_told_once(engine: Engine) -> None:
    before = engine.store.journal_end()
    with watching():
        netkit("run --name c1 --net web -- true")
        netkit("rm c1")
    assert since(engine, before) == [*LIFE, ("container remove", "c1")]


def test_a_container_in_the_background_is_told_once_though_netkitd_watches(engine: Engine) -> None:
    before = engine.store.journal_end()
    with watching():
        netkit("run -d --name c1 --net web -- true")
        assert until(lambda: ("network disconnect", "web") in since(engine, before))
        time.sleep(0.2)  # who would tell it again has had the time
    assert since(engine, before) == LIFE
    (died,) = (entry for entry in engine.store.journal(before) if entry.action == "die")
    assert died.attributes["exit_code"] == "0"


def test_that_one_is_removed_while_it_runs_is_told_in_order(engine: Engine) -> None:
    before = engine.store.journal_end()
    netkit("run -d --name c1 --net web -- sleep 60")
    netkit("rm -f c1")
    assert since(engine, before) == [*LIFE, ("container remove", "c1")]


def test_a_link_is_told_as_such(engine: Engine) -> None:
    for name in ("a", "b"):
        engine.connect("web", name=name)
    before = engine.store.journal_end()
    engine.create_link(LinkSpec(ends=(EndSpec(target="a"), EndSpec(target="b")), name="wire"))
    engine.delete_link("wire")
    assert since(engine, before) == [("link create", "wire"), ("link remove", "wire")]


def test_python_iterates_over_them(host: Host) -> None:
    with Netkit() as nk, nk.events(filters={"type": "network"}, timeout_s=0) as events:
        with nk.networks.create("web") as net:
            net.connect(name="c1")
        assert [(event.action, event.attributes.get("container")) for event in events] == [
            *(("create", None), ("connect", "c1"), ("disconnect", "c1"), ("remove", None))
        ]


# -- C7 with netkitd: who dies is noticed within a second


def test_c7_a_namespace_that_is_deleted_gives_everything_back_within_a_second(
    engine: Engine,
) -> None:
    ports = Request(ports=PortSpec.parse("127.0.0.1:8080:80"))
    with watching():
        engine.connect("web", name="c1", request=ports)
        ep = engine.connect("web", name="c2")
        before = engine.store.journal_end()
        netns.delete("c1")
        assert until(lambda: len(engine.endpoints()) == 1, NOTICED_S)
        # its address and its port are free again, without anybody's asking
        again = engine.connect("web", name="c3", request=ports)
        assert until(lambda: since(engine, before)[:4] == DEATH, NOTICED_S)
    assert again.addresses[0] != ep.addresses[0]
    assert "veth" not in run(f"ip -o link show dev {ep.host_ifname} >/dev/null")


def test_c7_who_dies_is_noticed_within_a_second(engine: Engine) -> None:
    took = []
    with watching():
        for name in ("c1", "c2", "c3"):
            engine.connect("web", name=name)
            began = time.monotonic()
            netns.delete(name)
            assert until(lambda: not engine.endpoints(), NOTICED_S)
            took.append(time.monotonic() - began)
    assert min(took) < 1.0, "a busy machine may be late, but not each time"


DEATH = [
    ("container die", "c1"),
    ("container unpublish", "c1"),
    ("network disconnect", "web"),
    ("container remove", "c1"),
]


def test_c7_a_process_that_dies_gives_everything_back(engine: Engine) -> None:
    with watching(), stranger() as process:
        engine.connect("web", f"pid:{process.pid}")
        before = engine.store.journal_end()
        process.kill()
        process.wait()
        # the kernel takes namespaces apart when it finds the time
        assert until(lambda: not engine.endpoints())
        name = f"pid-{process.pid}"
        assert until(lambda: len(since(engine, before)) == 3)
    assert since(engine, before) == [
        *(("container die", name), ("network disconnect", "web"), ("container remove", name))
    ]


def test_c7_a_container_whose_supervisor_was_killed_is_buried(engine: Engine) -> None:
    with watching():
        netkit("run -d --name c1 --net web -- sleep 60")
        sandbox = engine.sandbox("c1")
        before = engine.store.journal_end()
        run(f"kill -9 {(sandbox.supervisor or '').partition(':')[0]}", f"kill -9 {sandbox.pid}")
        assert until(lambda: not engine.endpoints(), 2 * NOTICED_S)
        assert until(lambda: len(since(engine, before)) == 2)
    assert since(engine, before) == LIFE[3:]


def test_c7_what_plugins_made_for_a_namespace_goes_with_it(engine: Engine, host: Host) -> None:
    cni = Plugins(host.base)
    chain = Chain(cni, {"type": "portmap", "capabilities": {"portMappings": True}})
    with watching():
        chain.add("c1", portMappings=[published(8080, 80)])
        chain.add("c2")
        first = chain.ip("c1")
        before = engine.store.journal_end()
        netns.delete("c1")
        assert until(lambda: not engine.store.all(AttachmentRecord, sandbox="c1/eth0"), NOTICED_S)
        chain.add("c3", portMappings=[published(8080, 80)])  # its port is free, and
        assert chain.ip("c3") != first  # host-local goes on from the last address
        chain.delete("c1", at="")  # the runtime's own DEL, which finds nothing to do
    told_of = since(engine, before)
    assert told_of[0][0] == "attachment die"
    assert [what for what, name in told_of if name == "c1/eth0"].count("attachment die") == 2
    assert [what for what, name in told_of if name == "c1/eth0"].count("attachment disconnect") == 2


def test_the_dead_of_while_nobody_watched_are_buried_when_it_begins(engine: Engine) -> None:
    engine.connect("web", name="c1")
    netns.delete("c1")
    with watching():
        assert until(lambda: not engine.endpoints(), NOTICED_S)


def test_without_netkitd_the_next_call_notices(engine: Engine) -> None:
    engine.connect("web", name="c1")
    before = engine.store.journal_end()
    netns.delete("c1")
    assert since(engine, before) == []
    assert netkit("gc").split() == ["c1"]
    assert since(engine, before) == [entry for entry in DEATH if "unpublish" not in entry[0]]


def test_a_watch_that_sees_nothing_does_not_spin(engine: Engine) -> None:
    with watching():
        time.sleep(0.2)
        began = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - began < 0.1
