"""netkit wait: until an interface is there and has carrier, and no longer than it is told."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from netkit.kernel import carrier
from scenarios.engines import FakeEngine, container
from scenarios.lab import Host, run
from tests.faces import ok, refused

pytestmark = pytest.mark.usefixtures("host")


@contextmanager
def after(delay_s: float, *lines: str) -> Iterator[None]:
    """Run *lines* a while after now; they are run when this ends."""
    thread = threading.Timer(delay_s, run, lines)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def place() -> str:
    """A namespace netkit has no record of."""
    run("ip netns add c1", "ip -n c1 link set lo up")
    return "/run/netns/c1"


def took(work: Callable[[], object]) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def test_what_is_ready_is_not_waited_for(place: str) -> None:
    run("ip link add h0 type veth peer name eth0 netns c1", "ip link set h0 up")
    run("ip -n c1 link set eth0 up")
    # the kernel notes carrier in the background
    assert carrier.wait(place, "eth0", 5) == "ready"
    for target in ("c1", f"netns:{place}"):
        assert took(lambda: ok("wait", "--timeout=60", target)) < 30  # noqa: B023
        assert ok("wait", "--timeout=0", target) == ""
    assert ok("wait", "--ifname=h0", "--timeout=0") == ""  # without a target: here


def test_an_interface_is_waited_for_until_both_ends_are_up(place: str) -> None:
    lines = [
        "ip link add h0 type veth peer name eth0 netns c1",
        "ip -n c1 link set eth0 up",
        "ip link set h0 up",
    ]
    for number, state in enumerate(("missing", "down", "without carrier")):
        assert carrier.wait(place, "eth0", 0) == state
        with after(0.1, lines[number]):
            seen = carrier.wait(place, "eth0", 0.4 if number < 2 else 5)
    assert seen == "ready"


def test_it_goes_on_as_soon_as_there_is_carrier(place: str) -> None:
    run("ip link add h0 type veth peer name eth0 netns c1", "ip -n c1 link set eth0 up")
    start = time.monotonic()
    with after(0.2, "ip link set h0 up"):
        ok("wait", "--timeout=60", "c1")
    assert 0.2 <= time.monotonic() - start < 30


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["true"], "no interface 'eth0' in c1 within 0.3 s"),
        (["ip link add h0 type veth peer name eth0 netns c1"], "'eth0' in c1 is down after 0.3 s"),
        (
            [
                "ip link add h0 type veth peer name eth0 netns c1",
                "ip -n c1 link set eth0 up",
            ],
            "interface 'eth0' in c1 is without carrier after 0.3 s",
        ),
    ],
)
def test_it_ends_with_a_sentence_when_the_time_is_up(
    place: str, lines: list[str], says: str
) -> None:
    run(*lines)
    start = time.monotonic()
    assert says in refused("wait", "--timeout=0.3", "c1")
    assert 0.3 <= time.monotonic() - start < 10, "as long as it waits when nothing is said"


def test_news_of_other_interfaces_neither_end_it_nor_make_it_longer(place: str) -> None:
    stop = threading.Event()

    def flap() -> None:
        while not stop.wait(0.001):
            run("ip -n c1 link set lo down", "ip -n c1 link set lo up")

    thread = threading.Thread(target=flap)
    thread.start()
    try:
        assert 0.5 <= took(lambda: carrier.wait(place, "eth0", 0.5)) < 30
    finally:
        stop.set()
        thread.join()


def test_news_just_before_the_end_do_not_start_the_time_anew(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    waits: list[float | None] = []

    class Told(socket.socket):
        """Told something half a second after it was first asked, and nothing from then on."""

        def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
            nonlocal now
            waits.append(wait := self.gettimeout())
            now += min(wait or 0, 0.5)
            if len(waits) == 1:
                return b"news"
            raise TimeoutError

    monkeypatch.setattr(carrier, "_listen", lambda: Told(socket.AF_INET, socket.SOCK_DGRAM))
    monkeypatch.setattr(carrier, "time", SimpleNamespace(monotonic=lambda: now))
    assert carrier.wait(place, "eth0", 0.75) == "missing"
    assert waits == [0.75, 0.25]


def test_a_container_of_netkits_and_one_of_an_engines_are_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    ok("connect", "--net=net", "--name=own")
    assert ok("wait", "own") == ""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{host.base}/docker.sock")
    with FakeEngine(f"{host.base}/docker.sock") as docker, container() as pid:
        docker.has("web", pid)
        assert "no interface 'eth0' in docker:web" in refused("wait", "--timeout=0", "docker:web")
        ok("connect", "--net=net", "docker:web")
        assert ok("wait", "docker:web") == ok("wait", f"pid:{pid}") == ""


@pytest.mark.parametrize("timeout", ["", "-1", "nan", "inf", "1e3", "x", "86401", "1.", "٣", "1 "])
def test_a_timeout_is_seconds(timeout: str) -> None:
    assert "invalid timeout" in refused("wait", f"--timeout={timeout}")


def test_waiting_leaves_neither_records_nor_open_files(place: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    refused("wait", "--timeout=0", "c1")
    assert carrier.wait(place, "eth0", 0) == "missing"
    assert len(os.listdir("/proc/self/fd")) == before
    assert not os.path.exists(f"{os.environ['NETKIT_STATE_DIR']}/state.db")
    refused("wait", "nobody")
    refused("wait", "--ifname=a/b")
