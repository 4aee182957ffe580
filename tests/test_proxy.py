"""The userland proxy's parts, one by one: its ports as text, its limits, its lock, its step."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
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
    for served in loop.ports.values():
        served.sock.close()
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
    loop.most = 2
    loop.serve(Port.parse("tcp/127.0.0.1:8080=127.0.0.1:80"))
    with socket.create_server(("127.0.0.1", 80)) as server:
        clients = [socket.create_connection(("127.0.0.1", 8080)) for _ in range(3)]
        turn(loop, lambda: loop.connections == 2 and loop.paused)
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


def test_what_was_told_of_one_that_is_closed_does_not_concern_who_has_its_number_now(
    serving: tuple[Proxy, Clock],
) -> None:
    """In one turn a connection ends, its descriptors are another's, and it is told of once more."""
    loop, _ = serving
    loop.serve(Port.parse("tcp/127.0.0.1:8080=127.0.0.1:80"))
    (port,) = loop.ports.values()
    assert isinstance(port, proxy.Listener)
    with socket.create_server(("127.0.0.1", 80)) as server, socket.socket() as coming:
        leaving = socket.create_connection(("127.0.0.1", 8080))
        turn(loop, lambda: loop.connections == 1)
        left, _ = server.accept()
        with leaving, left:
            (before,) = port.connections
            turn(loop, lambda: not before.connecting)
            loop.turn(0)  # nothing is left that was told of before
            numbers = {before.client.fileno(), before.server.fileno()}
            leaving.shutdown(socket.SHUT_WR)  # in this order they are told of
            coming.connect(("127.0.0.1", 8080))
            left.shutdown(socket.SHUT_WR)
            turn(loop, lambda: before not in port.connections)
        with server.accept()[0] as served:
            (now,) = port.connections
            assert {now.client.fileno(), now.server.fileno()} == numbers
            served.sendall(b"hello")
            turn(loop, lambda: select.select([coming], [], [], 0)[0])
            assert coming.recv(64) == b"hello"
        coming.close()
        turn(loop, lambda: not loop.connections)


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
def lock(host: Host) -> Iterator[str]:
    yield (path := f"{host.base}/proxy-5")
    daemons.end(path)
    with suppress(FileNotFoundError):
        os.unlink(proxy.place(path))


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
        "python3 -m netkit.kernel.proxy --drop /run/netkit/proxy-5 'tcp/[::1]:8080=172.25.0.2:80'"
    )
    assert steps.decode(steps.encode((STEP,))) == (STEP,)


def test_the_printed_lines_do_it(host: Host) -> None:
    """The second one's ports are the same process', which goes with the last of them."""
    lock = f"{host.base}/typed"
    path = f"export PYTHONPATH={':'.join(filter(None, sys.path))}; "
    ports = ("tcp/127.0.0.1:8080=127.0.0.1:80", "udp/127.0.0.1:8081-8082=127.0.0.1:80")
    first, second = (ProxyStep(lock=lock, dev="lo", ports=(port,)) for port in ports)

    def type_in(line: str) -> None:
        run(path + line.replace("python3", sys.executable, 1))

    type_in(str(first))
    with open(lock) as file:
        known = file.read()
    type_in(str(second))
    assert "127.0.0.1:8080" in run("ss -Hltn")
    assert "127.0.0.1:8082" in run("ss -Hlun")
    type_in(first.undo())
    assert "8080" not in run("ss -Hltn")
    assert proxy.serves(lock, ports[1])
    with open(lock) as file:
        assert file.read() == known
    type_in(second.undo())
    assert not os.path.exists(lock)
    assert not os.path.exists(proxy.place(lock))
    assert run("ss -Hlun") == ""
    type_in(second.undo())


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
    more = ProxyStep(lock=LOCK, dev="veth5", ports=("udp/[::1]:53=172.25.0.2:53",))
    more.add(kernel)
    STEP.delete(kernel)
    more.check(kernel)
    with pytest.raises(Drift, match=r"the proxy of tcp/.* is gone"):
        STEP.check(kernel)
    more.delete(kernel)
    more.delete(kernel)
    assert kernel.proxies == {}


# -- what it is told while it serves


def test_ports_come_and_go_and_the_connections_of_others_go_on(lock: str) -> None:
    """Those of a port that goes are reset. With the last one the process ends by itself."""
    other = "tcp/127.0.0.1:9000-9450=127.0.0.1:80"  # more than one message can tell of
    found = start(lock, "tcp/127.0.0.1:8080=127.0.0.1:80")
    with socket.create_server(("127.0.0.1", 80), backlog=8) as server:
        server.settimeout(5)
        staying = socket.create_connection(("127.0.0.1", 8080), timeout=5)
        there, _ = server.accept()
        proxy.give(lock, [other])
        proxy.give(lock, [])
        assert proxy.serves(lock, other)
        with refused(errno.EADDRINUSE):  # by itself, who has it already
            proxy.give(lock, [other])
        going = socket.create_connection(("127.0.0.1", 9000), timeout=5)
        held, _ = server.accept()
        assert proxy.drop(lock, [other]) == 1
        assert not proxy.serves(lock, other)
        with pytest.raises(ConnectionResetError):
            going.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", 9450), timeout=5)
        staying.sendall(b"still here")
        assert there.recv(64) == b"still here"
        for sock in (staying, there, going, held):
            sock.close()
    assert proxy.drop(lock, ["tcp/127.0.0.1:8080=127.0.0.1:80"]) == 0
    assert until(lambda: not process.alive(*found))
    with refused(errno.ECONNREFUSED):
        proxy.drop(lock, [other])


def test_udp_clients_of_a_port_that_goes_are_forgotten(serving: tuple[Proxy, Clock]) -> None:
    loop, _ = serving
    ports = [Port.parse(f"udp/127.0.0.1:{number}=127.0.0.1:53") for number in (5353, 5354)]
    for port in ports:
        loop.serve(port)
    with _datagram() as a, _datagram() as b:
        for client, number in ((a, 5353), (b, 5354)):
            client.connect(("127.0.0.1", number))
            client.send(b"?")
        turn(loop, lambda: len(loop.flows) == 2)
        loop.drop(ports[0])
        assert [flow.client for flow in loop.flows.values()] == [b.getsockname()]


def test_only_who_started_it_can_tell_it_anything(
    lock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does whoever starts it tell anybody else, who may have taken its place."""
    ports = ["tcp/127.0.0.1:8080=127.0.0.1:80"]
    start(lock, *ports)
    place = proxy.place(lock)
    assert stat.filemode(os.stat(place).st_mode) == "srw-------"
    with open("/proc/net/unix") as file:  # a container on the host's network sees those
        assert "@netkit" not in file.read()
    if (pid := os.fork()) == 0:
        answer = b""
        with suppress(OSError):
            proxy.drop_privileges()
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(5)
                sock.connect(place)
                sock.send(f"count {ports[0]}".encode())
                answer = sock.recv(64)
        os._exit(int(answer or b"7"))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code == (7 if proxy_user_is_known() else 1)  # there it is nobody else's
    assert proxy.serves(lock, ports[0])
    daemons.end(lock)
    os.unlink(place)
    with open(lock, "w") as file, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        with refused(errno.ECONNREFUSED):
            proxy.give(lock, ports)
        stranger.bind(place)
        stranger.listen()
        file.write(f"{os.getppid()} 1\n")  # it says another process than this
        file.flush()
        with refused(errno.ECONNREFUSED):
            proxy.give(lock, ports)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        file.seek(0)
        file.write(f"{os.getpid()} 1\n")
        file.flush()
        with refused(errno.ECONNREFUSED):
            proxy.give(lock, ports)


def proxy_user_is_known() -> bool:
    """Whether this user namespace knows a second user, whom a process could become."""
    with open("/proc/self/uid_map") as file:
        return file.read().split()[2:] != ["1"]
