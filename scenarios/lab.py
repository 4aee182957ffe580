"""Hosts, neighbours and containers as namespaces, and real packets between them.

    with Host() as host:
        lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
        with host.serve(lan, "tcp", 80):
            assert host.ask(None, "10.9.0.2", 80) == "10.9.0.1"

Shapes   a place is the path of a namespace, None the host. A server answers each client with
         the address it sees it come from: that shows who was asked, and whether it was translated
Units    seconds. No answer within `PATIENCE_S` is no answer
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self, TypeVar

from netkit.engine import Engine
from netkit.firewall import libnftables
from netkit.kernel import mounts, netns

PATIENCE_S = 1.0
_BOUND_S = 30.0
T = TypeVar("T")
_counter = 0


class Host:
    """The calling process's own network namespace, empty at first, with netkit state of its own."""

    def __init__(self) -> None:
        global _counter
        _counter += 1
        self.base = f"/run/host-{os.getpid()}-{_counter}"
        self._engines: list[Engine] = []

    def __enter__(self) -> Self:
        self._before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        mounts.unshare(mounts.CLONE_NEWNET)
        os.makedirs(self.base)
        os.environ["NETKIT_STATE_DIR"] = f"{self.base}/state"
        os.environ["NETKIT_RUN_DIR"] = f"{self.base}/run"
        run("ip link set lo up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for engine in self._engines:
            engine.close()
        libnftables.forget()
        if os.path.isdir(netns.NAMED):
            for name in os.listdir(netns.NAMED):
                netns.delete(name)
        shutil.rmtree("/etc/netns", ignore_errors=True)
        shutil.rmtree(self.base)
        mounts.setns(self._before, mounts.CLONE_NEWNET)
        os.close(self._before)

    def engine(self) -> Engine:
        """An engine on this host's state; closed with the host."""
        engine = Engine()
        self._engines.append(engine)
        return engine

    def neighbour(self, name: str, ours: str, theirs: str) -> str:
        """Another machine on a wire of its own with us; its default route is us. Its place."""
        netns.create(name)
        run(
            f"ip link add {name}0 type veth peer name eth0 netns {name}",
            f"ip addr add {ours} dev {name}0",
            f"ip link set {name}0 up",
            f"ip -n {name} link set lo up",
            f"ip -n {name} addr add {theirs} dev eth0",
            f"ip -n {name} link set eth0 up",
            f"ip -n {name} route add default via {ours.partition('/')[0]}",
        )
        return netns.named(name)

    @contextlib.contextmanager
    def serve(
        self, place: str | None, protocol: str, port: int, address: str = ""
    ) -> Iterator[list[str]]:
        """Answer every client with the address it comes from; yields those seen so far."""
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

        def open_socket() -> socket.socket:
            sock = socket.socket(socket.AF_INET, kind)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if protocol == "tcp":
                sock.listen(128)
            return sock

        sock = at(place, open_socket)
        sock.settimeout(_BOUND_S)
        seen: list[str] = []
        thread = threading.Thread(
            target=_answer_tcp if protocol == "tcp" else _answer_udp, args=(sock, seen), daemon=True
        )
        thread.start()
        try:
            yield seen
        finally:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
            thread.join(_BOUND_S)

    def ask(
        self,
        place: str | None,
        address: str,
        port: int,
        protocol: str = "tcp",
        *,
        source: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> str | None:
        """What the server there answers a client here: our address as it sees it; None: nothing."""

        def talk() -> str | None:
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            with socket.socket(socket.AF_INET, kind) as sock:
                sock.settimeout(patience_s)
                if source is not None:
                    sock.bind((source, 0))
                try:
                    sock.connect((address, port))
                    if protocol == "udp":
                        sock.send(b"?")
                    return sock.recv(64).decode() or None
                except OSError:
                    return None

        return at(place, talk)

    def ping(self, place: str | None, address: str) -> bool:
        """Whether one echo request is answered."""
        enter = [] if place is None else ["nsenter", f"--net={place}"]
        command = [*enter, "ping", "-c1", f"-W{PATIENCE_S:.0f}", "-n", "-q", address]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def at(place: str | None, function: Callable[[], T]) -> T:
    """Call *function* in the namespace at *place*: the sockets it opens stay there."""
    return function() if place is None else netns.run(place, function)


def run(*lines: str, place: str | None = None, check: bool = True) -> str:
    """Run shell lines, each must succeed; what they print."""
    command: Sequence[str] = ["sh", "-ec", "\n".join(lines)]
    if place is not None:
        command = ["nsenter", f"--net={place}", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND_S)
    if check and done.returncode:
        raise AssertionError(f"{lines}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def snapshot() -> dict[str, str]:
    """All of the host that netkit could change: links, addresses, routes, rules, sysctls, files."""
    files = []
    for top in ("/etc/netns", netns.NAMED):
        for directory, _, names in os.walk(top):
            files += [directory, *(f"{directory}/{name}" for name in names)]
    return {
        "links": run("ip -o -d link | sed 's/^[0-9]*: //; s/ state [A-Z]*//'"),
        "addresses": run("ip -o addr | sed 's/^[0-9]*: //'"),
        "routes": run("ip route show table all; ip -6 route show table all; ip rule"),
        "neighbours": run("ip neigh show nud permanent"),
        "firewall": run("nft list ruleset"),
        "sysctls": _sysctls(),
        "files": "\n".join(sorted(set(files) - {"/etc/netns", netns.NAMED})),
    }


def _sysctls() -> str:
    """Every readable parameter below net/ but the ones that count by themselves."""
    lines = []
    for directory, _, names in os.walk("/proc/sys/net"):
        for name in names:
            path = f"{directory}/{name}"
            if "/neigh/" in path or name in ("nf_conntrack_count", "stable_secret"):
                continue
            with contextlib.suppress(OSError, UnicodeDecodeError), open(path) as file:
                lines.append(f"{path}={file.read().strip()}")
    return "\n".join(sorted(lines))


def _answer_tcp(sock: socket.socket, seen: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, (address, *_) = sock.accept()
            with client:
                seen.append(address)
                client.sendall(address.encode())


def _answer_udp(sock: socket.socket, seen: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, (address, port) = sock.recvfrom(64)
            seen.append(address)
            sock.sendto(address.encode(), (address, port))
