"""Threads that want the same of the kernel at once: it is done once, and each hears what became of
its own part.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address

import pytest

from netkit.kernel import conntrack, mounts, netlink, netns
from netkit.kernel.netlink import Netlink
from netkit.kernel.together import Together
from scenarios.lab import Host, run, until

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"
WAIT_S = 10


class Act:
    """Notes what it is asked for; the first time it waits until it is told to go on."""

    def __init__(self, *refused: str) -> None:
        self.calls: list[list[str]] = []
        self.refused = refused
        self.began, self.go_on = threading.Event(), threading.Event()

    def __call__(self, wishes: Sequence[str]) -> None:
        self.calls.append(sorted(wishes))
        self.began.set()
        assert self.go_on.wait(WAIT_S)
        for wish in wishes:
            if wish in self.refused:
                raise OSError(f"no {wish}")


def at_once(
    act: Act, wish: Callable[[str], None], first: str, *others: str
) -> dict[str, BaseException]:
    """Wish for *first*, and for the *others* while that is being done. What went wrong."""
    failed: dict[str, BaseException] = {}

    def ask(name: str) -> None:
        try:
            wish(name)
        except BaseException as error:
            failed[name] = error

    threads = [threading.Thread(target=ask, args=(name,)) for name in (first, *others)]
    threads[0].start()
    assert act.began.wait(WAIT_S)
    for thread in threads[1:]:
        thread.start()
    (queue,) = wish._queues.values()  # type: ignore[attr-defined]
    while len(queue.waiting) < len(others):
        assert threads[0].is_alive()
    act.go_on.set()
    for thread in threads:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert until(lambda: not queue.has_leader)  # whose wait may be left to a thread of its own
    assert not queue.waiting
    return failed


def test_those_who_come_while_it_is_being_done_are_served_together_next() -> None:
    act = Act()
    assert at_once(act, Together(act), "a", "b", "c", "d") == {}
    assert act.calls == [["a"], ["b", "c", "d"]]


def test_one_alone_waits_for_nobody() -> None:
    act = Act()
    act.go_on.set()
    together = Together(act)
    together("a")
    together("b")
    assert act.calls == [["a"], ["b"]]


def test_what_fails_for_several_is_done_for_each_and_only_the_one_concerned_hears_of_it() -> None:
    act = Act("c")
    failed = at_once(act, Together(act), "a", "b", "c", "d")
    assert {name: str(error) for name, error in failed.items()} == {"c": "no c"}
    assert sorted(act.calls) == [["a"], ["b"], ["b", "c", "d"], ["c"], ["d"]]


def test_a_leader_that_is_interrupted_leaves_the_others_part_to_them() -> None:
    class Interrupting(Act):
        def __call__(self, wishes: Sequence[str]) -> None:
            super().__call__(wishes)
            if len(self.calls) == 2:
                raise KeyboardInterrupt

    act = Interrupting()
    failed = at_once(act, Together(act), "a", "b", "c", "d")
    (interrupted,) = failed
    assert isinstance(failed[interrupted], KeyboardInterrupt)
    assert act.calls == [["a"], ["b", "c", "d"], sorted({"b", "c", "d"} - {interrupted})]


def test_a_child_does_not_wait_for_a_thread_it_does_not_have() -> None:
    act = Act()
    together = Together(act)
    thread = threading.Thread(target=together, args=("a",))
    thread.start()
    assert act.began.wait(WAIT_S)
    child = os.fork()
    if not child:
        act.go_on.set()
        together("b")
        os._exit(7)
    act.go_on.set()
    thread.join(WAIT_S)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# -- what is done so


def test_links_deleted_at_once_go_in_one_deletion_and_no_other_with_them(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"v{n}" for n in range(6)]
    with Netlink() as nl:
        for name in (*names, "stays"):
            nl.add_veth(
                name, mac=MAC, mtu=1400, peer=f"{name}p", peer_mac=PEER_MAC, peer_netns=None
            )
    act = Act()
    real = netlink._delete_all

    def delete(wishes: Sequence[str]) -> None:
        act(wishes)
        real(wishes)

    together = Together(delete)
    monkeypatch.setattr(netlink, "_delete_links", together)
    deleted: list[str] = []

    def wish(name: str) -> None:
        with Netlink() as nl:
            nl.delete_link(name)
            assert nl.link(name) is None  # it is gone when that returns
        deleted.append(name)

    wish._queues = together._queues  # type: ignore[attr-defined]
    assert at_once(act, wish, *names) == {}
    assert act.calls == [names[:1], names[1:]]
    with Netlink() as nl:
        assert {link.name for link in nl.links()} == {"lo", "stays", "staysp"}
        with pytest.raises(OSError, match="No such device"):
            nl.delete_link("v0")


def test_a_link_that_is_gone_already_keeps_none_of_the_others(host: Host) -> None:
    with Netlink() as nl:
        for name in ("a", "b"):
            nl.add_bridge(name, mac=MAC, mtu=1400)
        with pytest.raises(OSError, match="No such device"):
            netlink._delete_all(["a", "gone", "b"])
        nl.delete_link("a")
        nl.delete_link("b")


def test_flows_of_several_threads_ports_are_forgotten_in_one_walk(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks: list[int] = []
    real = conntrack._forget

    def counted(protocol: str, version: int, ports: Sequence[conntrack.Published]) -> None:
        walks.append(len(ports))
        real(protocol, version, ports)

    run("nft add table ip t", "nft add chain ip t c '{ type nat hook output priority 0; }'")
    monkeypatch.setattr(conntrack, "_forget", counted)
    monkeypatch.setattr(conntrack, "_count", lambda: 5)
    one = conntrack.Published(1, 1, (), IPv4Address("10.0.0.2"))
    conntrack._forget_all([("udp", 4, (one,)), ("udp", 4, (one, one)), ("tcp", 4, (one,))])
    assert sorted(walks) == [1, 3]
    walks.clear()
    # many flows: the kernel had better look for one port at a time
    monkeypatch.setattr(conntrack, "_count", lambda: 100_000)
    conntrack._forget_all([("udp", 4, (one,)), ("udp", 4, (one, one))])
    assert walks == [1, 2]
    walks.clear()
    monkeypatch.setattr(conntrack, "_count", lambda: 0)
    conntrack._forget_all([("udp", 4, (one,))])
    assert walks == []


# -- entering a namespace from a thread of one's own


def in_thread(function: Callable[[], object]) -> object:
    found: list[object] = []

    def call() -> None:
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(WAIT_S)
    return found[0]


def here() -> tuple[int, int]:
    return threading.get_ident(), os.stat("/proc/thread-self/ns/net").st_ino


def test_a_worker_enters_a_namespace_itself_and_comes_back_whatever_happens(host: Host) -> None:
    netns.create("c1")
    place = netns.named("c1")

    def visit() -> list[bool]:
        me, home = here()
        inside = netns.run(place, here)
        found = [inside == (me, os.stat(place).st_ino), here() == (me, home)]
        for wrong in (lambda: 1 / 0, lambda: exit(3)):
            with pytest.raises((ZeroDivisionError, SystemExit)):
                netns.run(place, wrong)
            found.append(here() == (me, home))
        with pytest.raises(FileNotFoundError):
            netns.run(netns.named("none"), here)
        return [*found, here() == (me, home)]

    assert in_thread(visit) == [True] * 5


def test_the_main_thread_and_one_that_could_not_come_back_send_another(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    netns.create("c1")
    me, home = here()
    other, inside = netns.run(netns.named("c1"), here)
    assert (other != me, inside != home) == (True, True)

    def visit() -> bool:
        return netns.run(netns.named("c1"), here)[0] != threading.get_ident()

    real = mounts.setns

    def refuse(fd: int, kinds: int, about: str = "setns") -> None:
        if about == "setns":  # home again
            raise PermissionError
        real(fd, kinds, about)

    monkeypatch.setattr(mounts, "setns", refuse)
    assert in_thread(visit) is True


def test_workers_share_the_deletions_of_their_disconnects(host: Host) -> None:
    """Through the engine, as netkitd's workers do."""
    from netkit.engine import Engine
    from netkit.portspec import PortSpec
    from netkit.specs import NetworkSpec, Request

    engine = host.engine()
    engine.create_network(NetworkSpec("web"))
    for n in range(4):
        netns.create(f"c{n}")
    batches: list[int] = []
    act = netlink._delete_links._act

    def noted(names: Sequence[str]) -> None:
        batches.append(len(names))
        act(names)

    ready = threading.Barrier(4, timeout=WAIT_S)

    def work(number: int) -> None:
        worker, target = Engine(), f"netns:{netns.named(f'c{number}')}"
        for _ in range(3):
            worker.connect("web", target, Request(ports=PortSpec.parse(f"{8000 + number}:80")))
            ready.wait()
            worker.disconnect("web", target)
        worker.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netlink._delete_links, "_act", noted)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sum(batches) == 12
    assert len(batches) < 12
    assert engine.endpoints() == []
    with Netlink() as nl:
        assert {link.kind for link in nl.links()} == {None, "bridge"}
