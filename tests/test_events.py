"""Events: how the journal is told, filtered and followed; and that it tells the truth."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from netkit import live, steps
from netkit.engine import Engine
from netkit.errors import InvalidSpec, NetkitError
from netkit.events import CHOICES, Events, Filters, Follower, told
from netkit.kernel import netns
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from netkit.store import Entry, SqliteStore
from scenarios.lab import Host

NET, BOX = "a" * 64, "b" * 64
JOINED = Entry(
    *(7, 1000.5, "connect", "endpoint", "e" * 64, "c1/eth0"),
    {
        "container": "c1",
        "container_id": BOX,
        "network": "web",
        "network_id": NET,
        "ifname": "eth0",
    },
)


@pytest.fixture
def store(host: Host) -> Iterator[SqliteStore]:
    found = SqliteStore(f"{host.base}/state", f"{host.base}/run")
    yield found
    found.close()


def note(store: SqliteStore, action: str, name: str = "web") -> None:
    with store.transaction():
        store.note(action, "network", NET, name, {"driver": "bridge"})


def follow(store: SqliteStore, **wanted: Any) -> Events:
    return Events(store.state_dir, store.run_dir, after=store.journal_end(), **wanted)


# -- told in Docker's words


def test_that_a_container_joins_is_told_of_the_network_as_docker_does() -> None:
    event = told(JOINED)
    assert event[:4] == (1000.5, "network", "connect", NET)
    assert event.attributes == {
        "name": "web",
        "container": "c1",
        "container_id": BOX,
        "ifname": "eth0",
    }


def test_what_else_happens_to_an_endpoint_is_told_of_its_container() -> None:
    event = told(JOINED._replace(action="publish"))
    assert event[1:4] == ("container", "publish", BOX)
    assert (event.attributes["name"], event.attributes["network"]) == ("c1", "web")


@pytest.mark.parametrize(
    ("filters", "fits"),
    [
        ({}, True),
        ({"type": "network"}, True),
        ({"type": ["container", "network"]}, True),
        ({"type": "container"}, False),
        ({"event": ["die", "connect"]}, True),
        ({"event": "disconnect"}, False),
        ({"network": "web"}, True),
        ({"network": NET[:12]}, True),
        ({"network": "we"}, False),
        ({"network": ""}, False),
        ({"container": "c1"}, True),
        ({"container": BOX[:5]}, True),
        ({"container": "c2"}, False),
        ({"container": "c1", "network": "other"}, False),
        ({"id": NET[:3]}, True),
        ({"id": BOX}, False),
        ({"label": "ifname"}, True),
        ({"label": ["ifname=eth0", "name=web"]}, True),
        ({"label": ["ifname=eth0", "name=other"]}, False),
        ({"label": "colour"}, False),
        ({"link": "web"}, False),
    ],
)
def test_values_of_a_filter_are_alternatives_and_all_filters_hold(filters: Any, fits: bool) -> None:
    assert Filters(filters).fit(told(JOINED)) is fits


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"colour": "red"}, "invalid filter 'colour'"),
        ({"type": "volume"}, "invalid filter type=volume: there is no such type"),
        ({"event": ["die", "pull"]}, "invalid filter event=pull"),
    ],
)
def test_a_filter_nobody_knows_is_refused(filters: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        Filters(filters)


# -- following


def test_events_from_now_on_begin_when_they_are_asked_for(store: SqliteStore) -> None:
    note(store, "create")
    with follow(store, timeout_s=0) as events:
        note(store, "update")
        note(store, "remove")
        assert [event.action for event in events] == ["update", "remove"]


def test_somebody_who_waits_is_woken_by_each_event(store: SqliteStore) -> None:
    note(store, "create")
    with follow(store, timeout_s=60) as events:
        for action in ("update", "remove"):
            thread = threading.Timer(0.05, note, (store_like(store), action))
            thread.start()
            began = time.monotonic()
            assert next(events).action == action
            assert time.monotonic() - began < 30
            thread.join()


def store_like(store: SqliteStore) -> SqliteStore:
    """Another connection to it, for another thread."""
    return SqliteStore(store.state_dir, store.run_dir)


def test_a_state_that_is_not_there_yet_is_waited_for(host: Host) -> None:
    place = f"{host.base}/some/where/state"
    with Events(place, f"{host.base}/run", timeout_s=10) as events:
        assert not os.path.exists(f"{host.base}/some")  # to ask makes nothing
        thread = threading.Timer(0.05, note, (SqliteStore(place, f"{host.base}/run"), "create"))
        thread.start()
        assert next(events).action == "create"
        thread.join()


def test_state_that_takes_the_place_of_another_is_told_from_its_beginning(host: Host) -> None:
    first, second = (SqliteStore(f"{host.base}/{name}", f"{host.base}/run") for name in "ab")
    note(first, "create", "old")
    note(second, "create", "new")
    second.close()
    follower = Follower(first.state_dir, first.run_dir, first.journal_end())
    assert follower.entries() == []
    first.close()
    os.rename(first.state_dir, f"{host.base}/c")
    os.rename(second.state_dir, first.state_dir)
    assert [entry.name for entry in follower.entries()] == ["new"]
    follower.close()


def test_what_is_rolled_back_is_no_event(store: SqliteStore) -> None:
    note(store, "create")
    with follow(store, timeout_s=0.1) as events:
        with suppress(ZeroDivisionError), store.transaction():
            store.note("remove", "network", NET, "web", {})
            raise ZeroDivisionError
        assert list(events) == []


def test_what_was_is_told_since_then_and_until_then(store: SqliteStore) -> None:
    for action in ("create", "update", "remove"):
        note(store, action)
        time.sleep(0.002)
    first, second, third = (entry.time for entry in store.journal())
    past = time.time() - 1e-3

    def between(since: float | None, until: float | None) -> list[str]:
        return [event.action for event in follow(store, since=since, until=until)]

    assert between(0, past) == ["create", "update", "remove"]
    assert between(second, past) == ["update", "remove"]
    assert between(first, second) == ["create", "update"]
    assert between(round(third, 6), past) == ["remove"]  # as it is printed
    assert between(None, past) == []


def test_it_ends_when_the_time_comes(store: SqliteStore) -> None:
    note(store, "create")
    began = time.monotonic()
    assert list(follow(store, until=time.time() + 0.1)) == []
    assert 0.05 < time.monotonic() - began < 30


def test_another_thread_may_end_it(store: SqliteStore) -> None:
    note(store, "create")
    events = follow(store)
    thread = threading.Timer(0.05, events.close)
    thread.start()
    assert list(events) == []
    thread.join()
    assert list(events) == []  # and once more
    events.close()


def test_to_end_what_has_not_begun_leaves_nothing_open(store: SqliteStore) -> None:
    note(store, "create")
    before = _watches()
    follow(store).close()
    with follow(store, timeout_s=0) as events:
        assert list(events) == []
    with follow(store, since=0) as events:
        next(events)
        assert len(_watches()) == len(before) + 2
    assert _watches() == before


def _watches() -> list[str]:
    """What is open to wait by."""
    links = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that by which they are listed
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in links if link.startswith("anon_inode"))


def test_who_waits_does_not_spin(store: SqliteStore) -> None:
    """It waits for the kernel's word: next to no processor time while nothing happens."""
    note(store, "create")
    began = time.thread_time()
    assert list(follow(store, timeout_s=0.5)) == []
    assert time.thread_time() - began < 0.1


# -- the truth: of each thing that is done one word, and none of what is not


@pytest.fixture
def engine(host: Host) -> Engine:
    return host.engine()


def told_of(engine: Engine) -> list[tuple[str, str]]:
    """(type action, name) of all there is in the journal."""
    return [
        (f"{e.type} {e.action}", e.attributes["name"]) for e in map(told, engine.store.journal())
    ]


def test_a_life_is_told_once(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    engine.connect("web", name="c1", request=Request(ports=PortSpec.parse("127.0.0.1:8080:80")))
    live.alter(engine, "c1", "add address", "172.17.0.9")
    live.alter(engine, "c1", "remove address", "172.17.0.9")
    engine.disconnect("web", "c1")
    engine.delete_network("web")
    assert told_of(engine) == [
        ("network create", "web"),
        ("container create", "c1"),
        ("network connect", "web"),
        ("container publish", "c1"),
        ("container update", "c1"),
        ("container update", "c1"),
        ("container unpublish", "c1"),
        ("network disconnect", "web"),
        ("container remove", "c1"),
        ("network remove", "web"),
    ]


@pytest.mark.parametrize("failing", ["add Veth before", "add Veth after", "added"])
def test_what_fails_is_no_event(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    engine.create_network(NetworkSpec("web"))
    before = engine.store.journal_end()

    def point(name: str) -> None:
        if name == failing:
            raise NetkitError("refused")

    monkeypatch.setattr(steps, "point", point)
    with pytest.raises(NetkitError, match="refused"):
        engine.connect("web", name="c1")
    assert engine.store.journal(before) == []


def test_an_intent_whose_maker_died_goes_without_a_word(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    with engine.store.transaction():
        net = engine.network("web")
        ghost = replace(
            net, id="c" * 64, name="ghost", created=time.time(), maker="1:1", steps="[]"
        )
        engine.store.put(ghost)
    before = engine.store.journal_end()
    engine.recover()
    assert [net.name for net in engine.networks()][:1] == ["web"]
    assert engine.store.journal(before) == []


def test_what_was_being_removed_when_its_maker_died_is_told_to_have_gone(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    with engine.store.transaction():
        engine.store.update(replace(engine.network("web"), maker="1:1"))
    before = engine.store.journal_end()
    engine.recover()
    assert [(e.action, e.name) for e in engine.store.journal(before)] == [("remove", "web")]


def test_that_a_namespace_ended_by_itself_is_told_before_its_parts(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    engine.connect("web", name="c1")
    before = engine.store.journal_end()
    netns.delete("c1")
    engine.gc()
    actions = [entry.action for entry in engine.store.journal(before)]
    assert actions == ["die", "disconnect", "remove"]


def test_a_dry_run_is_no_event(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    before = engine.store.journal_end()
    with engine.dry_run():
        engine.connect("web", name="c1")
    assert engine.store.journal(before) == []


def test_every_action_there_is_can_be_filtered_for(engine: Engine) -> None:
    engine.create_network(NetworkSpec("web"))
    for entry in engine.store.journal():
        assert entry.action in CHOICES["event"]
