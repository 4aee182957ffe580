"""The userland proxy's parts, one by one: its ports as text, its limits, its lock, its step."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from netkit import steps
from netkit.errors import Drift
from netkit.kernel import daemons, process, proxy
from netkit.kernel.proxy import Port, Proxy
from netkit.steps import Proxy as ProxyStep
from scenarios.lab import Host, run, until
from tests.fakes import FakeKernel, refused

LOCK = "/run/netkit/proxy-5"
STEP = ProxyStep(lock=LOCK, dev="veth5", ports=("tcp/[::1]:8080=172.25.0.2:80",))


@pytest.mark.parametrize(
    "text",
    [
        "tcp/[::1]:8080=172.25.0.2:80",
        "udp/0.0.0.0%eth0.5:53=[fd00:25::2]:5353",
        "tcp/[::]%eth0:8000-8999=172.25.0.2:9000",
    ],
)
def test_a_port_reads_as_it_is_written(text: str) -> None:
    assert str(Port.parse(text)) == text


def test_its_program_needs_nothing_but_the_standard_library() -> None:
    """It starts with -I -S, where nothing else can be found."""
    command = [sys.executable, "-I", "-S", str(proxy.__file__), "/nowhere/lock", "lo"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == f"{errno.ENOENT} {os.strerror(errno.ENOENT)}\n"


# -- the loop


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def serving(host: Host) -> Iterator[tuple[Proxy, Clock]]:
    """A proxy in this process, that turns when it is told to."""
    clock = Clock()
    loop = Proxy(clock)
    yield loop, clock
    for key in list(loop._selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    for sock, _ in loop._listeners:
        sock.close()
    loop._selector.close()


def turn(loop: Proxy, until_true: Callable[[], object]) -> None:
    for _ in range(1000):
        if until_true():
            return
        loop.turn(0.005)
    pytest.fail("nothing came of it")


def test_a_silent_udp_client_is_forgotten_and_one_that_speaks_is_not(
    serving: tuple[Proxy, Clock],
) -> None:
    loop, clock = serving
    loop.serve(Port.parse("udp/127.0.0.1:5353=127.0.0.1:53"))
    with _datagram() as server, _datagram() as silent, _datagram() as speaking:
        server.bind(("127.0.0.1", 53))
        for client in (silent, speaking):
            client.connect(("127.0.0.1", 5353))
            client.send(b"?")
        turn(loop, lambda: len(loop.flows) == 2)
        clock.now += proxy.IDLE_S - 1
        speaking.send(b"!")
        turn(loop, lambda: next(reversed(loop.flows.values())).last == clock.now)
        clock.now += 1
        loop.turn(0)
        (flow,) = loop.flows.values()
        assert flow.client == speaking.getsockname()


def test_of_too_many_udp_clients_the_most_silent_makes_room(
    serving: tuple[Proxy, Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = serving
    monkeypatch.setattr(proxy, "MOST_CLIENTS", 2)
    loop.serve(Port.parse("udp/127.0.0.1:5353=127.0.0.1:53"))
    with _datagram() as a, _datagram() as b, _datagram() as c:
        for client in (a, b, c):
            client.connect(("127.0.0.1", 5353))
            client.send(b"?")
        turn(loop, lambda: c.getsockname() in [flow.client for flow in loop.flows.values()])
        assert [flow.client for flow in loop.flows.values()] == [b.getsockname(), c.getsockname()]


def test_of_too_many_connections_the_last_wait_for_the_first_to_end(
    serving: tuple[Proxy, Clock],
) -> None:
    """Idle clients keep others waiting, but nothing turns round and round meanwhile."""
    loop, _ = serving
    loop._most = 2
    loop.serve(Port.parse("tcp/127.0.0.1:8080=127.0.0.1:80"))
    with socket.create_server(("127.0.0.1", 80)) as server:
        clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(3)]
        turn(loop, lambda: loop.connections == 2 and loop._paused)
        begun = os.times().user + os.times().system
        for _ in range(5):
            loop.turn(0.1)
        assert os.times().user + os.times().system - begun < 0.2
        assert loop.connections == 2
        accepted = [server.accept()[0] for _ in range(2)]
        server.setblocking(False)
        clients[0].close()
        accepted[0].close()

        def third() -> bool:
            with suppress(BlockingIOError):
                accepted.append(server.accept()[0])
            return len(accepted) == 3

        turn(loop, third)
        for sock in (*clients, *accepted):
            sock.close()
        turn(loop, lambda: loop.connections == 0)


def test_a_slow_reader_does_not_fill_the_memory(serving: tuple[Proxy, Clock]) -> None:
    """What a client sends waits where it is until the server has read what came before."""
    loop, _ = serving
    loop.serve(Port.parse("tcp/127.0.0.1:8080=127.0.0.1:80"))
    with socket.create_server(("127.0.0.1", 80)) as server:
        client = socket.create_connection(("127.0.0.1", 8080))
        client.setblocking(False)
        sent = 0
        for _ in range(200):
            with suppress(BlockingIOError):
                while True:
                    sent += client.send(bytes(1 << 16))
            loop.turn(0.001)
        assert 1 << 16 < sent < 64 << 20
        reader, _ = server.accept()
        read: list[int] = []

        def drain() -> None:
            while data := reader.recv(1 << 20):
                read.append(len(data))

        thread = threading.Thread(target=drain, daemon=True)
        thread.start()
        turn(loop, lambda: sum(read) == sent)
        client.close()
        turn(loop, lambda: not thread.is_alive())
        reader.close()
        turn(loop, lambda: loop.connections == 0)


def _datagram() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


# -- the lock it is known by


@pytest.fixture
def lock(host: Host) -> str:
    return f"{host.base}/proxy-5"


def start(lock: str, *ports: str) -> process.Process:
    daemons.start(lock, str(proxy.__file__), ("lo", *ports), proxy.READY)
    with open(lock) as file:
        pid, started = map(int, file.read().split())
    return process.Process(pid, started)


def test_a_daemon_is_found_by_its_lock_and_ended(lock: str) -> None:
    assert not daemons.lives(lock)
    found = start(lock, "tcp/127.0.0.1:8080=127.0.0.1:80")
    assert daemons.lives(lock)
    assert process.alive(*found)
    with refused(errno.EAGAIN):
        start(lock, "tcp/127.0.0.1:8081=127.0.0.1:80")
    daemons.end(lock)
    assert not process.alive(*found)
    assert not os.path.exists(lock)
    daemons.end(lock)  # gone is success


def test_a_daemon_that_cannot_start_says_why_and_there_is_none(lock: str) -> None:
    with socket.create_server(("127.0.0.1", 8080)), refused(errno.EADDRINUSE):
        start(lock, "tcp/127.0.0.1:8080=127.0.0.1:80")
    with refused(errno.EADDRNOTAVAIL):
        start(lock, "tcp/127.0.0.1:8081=127.0.0.1:80", "udp/192.0.2.1:53=127.0.0.1:53")
    assert not daemons.lives(lock)
    daemons.end(lock)


def test_another_process_by_that_number_is_not_ended(lock: str) -> None:
    """What the file says of a dead one means nobody: its lock is free."""
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            with open(lock, "w") as file:
                file.write(f"{bystander.pid} 1\n")
            daemons.end(lock)
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_a_daemon_whose_starter_dies_meanwhile_does_not_stay(lock: str) -> None:
    """Killed after it began and before it knew: the next call ends what there is, and waits."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:  # a starter that dies as soon as there is a process
        try:
            popen = subprocess.Popen

            class Killed(popen):  # type: ignore[valid-type,misc]
                def communicate(self, *_: object, **__: object) -> None:
                    os.kill(os.getpid(), signal.SIGKILL)

            subprocess.Popen = Killed  # type: ignore[misc]
            start(lock, "tcp/127.0.0.1:8080=127.0.0.1:80")
        finally:
            os._exit(1)
    os.close(writer)
    os.waitpid(pid, 0)
    os.close(reader)
    daemons.end(lock)
    assert not daemons.lives(lock)
    assert until(lambda: "8080" not in run("ss -Hltn"))


# -- the step


def test_the_step_prints_what_an_operator_would_type(host: Host) -> None:
    line = str(STEP)
    assert line == (
        "python3 -m netkit.kernel.proxy /run/netkit/proxy-5 veth5 'tcp/[::1]:8080=172.25.0.2:80'"
    )
    assert STEP.undo() == (
        "kill -KILL $(cut -d' ' -f1 /run/netkit/proxy-5); rm -f /run/netkit/proxy-5"
    )
    assert steps.decode(steps.encode((STEP,))) == (STEP,)


def test_the_printed_line_does_it(host: Host) -> None:
    lock = f"{host.base}/typed"
    typed = ProxyStep(lock=lock, dev="lo", ports=("tcp/127.0.0.1:8080=127.0.0.1:80",))
    python = str(typed).replace("python3", sys.executable, 1)
    run(f"export PYTHONPATH={':'.join(filter(None, sys.path))}; {python}")
    assert daemons.lives(lock)
    assert "127.0.0.1:8080" in run("ss -Hltn")
    run(typed.undo())
    assert until(lambda: "8080" not in run("ss -Hltn"))


def test_the_step_in_a_fake_kernel() -> None:
    kernel = FakeKernel()
    with pytest.raises(Drift, match="is gone"):
        STEP.check(kernel)
    with refused(errno.ENODEV):
        STEP.add(kernel)
    assert kernel.proxies == {}
    kernel.netlink().add_bridge("veth5", mac="02:00:00:00:00:05", mtu=1500)
    STEP.add(kernel)
    STEP.check(kernel)
    assert kernel.proxies == {LOCK: ("veth5", *STEP.ports)}
    STEP.delete(kernel)
    STEP.delete(kernel)
    assert kernel.proxies == {}
