"""A proxy: from ports of the host to a container, for what address translation cannot do.

    python3 -m netkit.kernel.proxy LOCK DEV tcp/[::1]:8080=172.25.0.2:80 …

Shapes   a port is PROTOCOL/ADDRESS[%DEVICE]:FIRST[-LAST]=TARGET:FIRST. LOCK is a file, or `fd:N` an
         open one, that stays locked while this process lives and holds its pid and start time
Units    seconds, bytes
Errors   before it is ready: one line, errno and reason, on stdout. Afterwards nobody listens: a
         connection that fails is reset, a datagram that cannot be sent is lost
Source   Docker's docker-proxy: half-closed connections, 90 s for a silent UDP client

A program of its own: it imports the standard library only, starts as `python -IS` in 20 ms, binds,
gives up every privilege, forks itself free of whoever started it, and ends once the interface DEV
is gone. What it passes on bears the host's address: the container does not see who the client is.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

IDLE_S = 90.0
MOST_CLIENTS = 1024  # of UDP: the one that has been silent longest makes room
READY = b"ready\n"
_CHUNK = 1 << 16
_BACKLOG = 1024
_ROUNDS = 16  # chunks, or new clients, at a time: then it is somebody else's turn
_PAUSE_S = 0.5
_NOBODY = 65534
_IP_PKTINFO = 8
_RTMGRP_LINK = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

End = tuple[str, int]


class Port(NamedTuple):
    """Ports of the host, from `first` to `last`, and the first of those they lead to."""

    protocol: str
    address: str
    device: str
    first: int
    last: int
    target: str
    target_first: int

    @classmethod
    def parse(cls, text: str) -> Port:
        protocol, _, rest = text.partition("/")
        here, _, there = rest.partition("=")
        where, _, ports = here.rpartition(":")
        address, _, device = where.partition("%")
        first, _, last = ports.partition("-")
        target, _, port = there.rpartition(":")
        return cls(
            protocol,
            address.strip("[]"),
            device,
            int(first),
            int(last or first),
            target.strip("[]"),
            int(port),
        )

    def __str__(self) -> str:
        span = f"{self.first}" if self.last == self.first else f"{self.first}-{self.last}"
        device = f"%{self.device}" if self.device else ""
        where = f"{_bracketed(self.address)}{device}:{span}"
        return f"{self.protocol}/{where}={_bracketed(self.target)}:{self.target_first}"

    def listen(self) -> list[tuple[socket.socket, End]]:
        """A bound socket for each port, and where it leads; on an error none."""
        made: list[tuple[socket.socket, End]] = []
        try:
            for number in range(self.first, self.last + 1):
                sock = socket.socket(_family(self.address), _KINDS[self.protocol])
                made.append((sock, (self.target, self.target_first + number - self.first)))
                self._bind(sock, number)
        except BaseException:
            for sock, _ in made:
                sock.close()
            raise
        return made

    def _bind(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        if self.device:
            name = self.device.encode()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        if sock.family == socket.AF_INET6:  # IPv4's ports are asked for by themselves
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if self.protocol == "tcp":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        elif sock.family == socket.AF_INET6:  # what address was it sent to?
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        sock.bind((self.address, number))
        if self.protocol == "tcp":
            sock.listen(_BACKLOG)


_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class Proxy:
    """The loop: every socket it looks at has a function to call when something happens there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.flows: OrderedDict[object, Flow] = OrderedDict()  # the silent first
        self.connections = 0
        self._selector = selectors.DefaultSelector()
        self._listeners: list[tuple[socket.socket, End]] = []
        self._paused = False
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, (limit - MOST_CLIENTS) // 3)  # two sockets each, and room for UDP's

    def serve(self, port: Port) -> None:
        for sock, target in port.listen():
            if port.protocol == "udp":
                self.look(sock, selectors.EVENT_READ, Datagrams(self, sock, target).receive)
            else:
                self._listeners.append((sock, target))
                self._listen(sock, target)

    def _listen(self, sock: socket.socket, target: End) -> None:
        self.look(sock, selectors.EVENT_READ, lambda: self._accept(sock, target))

    def look(self, sock: socket.socket, events: int, call: Callable[[], None]) -> None:
        """Call *call* when there are *events* at a socket; 0: do not."""
        known = sock.fileno() in self._selector.get_map()
        if not events:
            if known:
                self._selector.unregister(sock)
        elif known:
            self._selector.modify(sock, events, call)
        else:
            self._selector.register(sock, events, call)

    def run(self, lives: Callable[[], bool] = lambda: True) -> None:
        while lives():
            self.turn()

    def turn(self, most_s: float | None = None) -> None:
        """Wait for something to happen, *most_s* at most, and see to it."""
        waits = [most_s] if most_s is not None else []
        paused = self._paused
        if paused:
            waits.append(_PAUSE_S)
        if self.flows:
            oldest = next(iter(self.flows.values()))
            waits.append(max(0.0, oldest.last + IDLE_S - self.clock()))
        for key, _ in self._selector.select(min(waits, default=None)):
            if key.fd in self._selector.get_map():  # else it was closed on another's account
                key.data()
        if paused and self.connections < self._most:
            self._paused = False
            for sock, target in self._listeners:
                self._listen(sock, target)
        while self.flows and (oldest := next(iter(self.flows.values()))).last + IDLE_S <= (
            self.clock()
        ):
            oldest.close()

    def _accept(self, listener: socket.socket, target: End) -> None:
        for _ in range(_ROUNDS):
            try:
                if self.connections >= self._most:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                client, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:  # clients wait in the kernel's queue until others are done
                    self._paused = True
                    for sock, _ in self._listeners:
                        self.look(sock, 0, _nothing)
                    return
                continue  # that client has gone already
            try:
                Connection(self, client, target)
            except OSError:
                _reset(client)


def _nothing() -> None: ...


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


# -- TCP


class Way:
    """One direction of a connection, which ends by itself."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pending = memoryview(b"")
        self.ended = False  # all has been read
        self.done = False  # and passed on, the end included

    def pump(self) -> None:
        """Pass on what there is; OSError: one of the two is gone."""
        with suppress(BlockingIOError):
            for _ in range(_ROUNDS):
                while self.pending:
                    self.pending = self.pending[self.sink.send(self.pending) :]
                if self.ended:
                    break
                data = self.source.recv(_CHUNK)
                self.ended = not data
                self.pending = memoryview(data)
            if self.ended and not self.pending and not self.done:
                self.sink.shutdown(socket.SHUT_WR)
                self.done = True


class Connection:
    """A client and the container; whichever fails, the other is told by a reset."""

    def __init__(self, proxy: Proxy, client: socket.socket, target: End) -> None:
        self.proxy = proxy
        self.client = client
        self.server = socket.socket(_family(target[0]), socket.SOCK_STREAM)
        self.connecting = True
        self.ways = Way(client, self.server), Way(self.server, client)
        try:
            for sock in (client, self.server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with suppress(BlockingIOError):
                self.server.connect(target)
            proxy.look(self.server, selectors.EVENT_WRITE, self._go)
        except BaseException:
            self.server.close()
            raise
        proxy.connections += 1

    def _go(self) -> None:
        try:
            if self.connecting:
                if refused := self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(refused, os.strerror(refused))
                self.connecting = False
            for way in self.ways:
                way.pump()
        except OSError:
            self._close(_reset)
            return
        if all(way.done for way in self.ways):
            self._close(socket.socket.close)
            return
        there, back = self.ways
        for sock, to, of in ((self.client, back, there), (self.server, there, back)):
            events = selectors.EVENT_WRITE if to.pending else 0
            if not of.ended and not of.pending:
                events |= selectors.EVENT_READ
            self.proxy.look(sock, events, self._go)

    def _close(self, close: Callable[[socket.socket], None]) -> None:
        for sock in (self.client, self.server):
            self.proxy.look(sock, 0, _nothing)
            close(sock)
        self.proxy.connections -= 1


# -- UDP


class Datagrams:
    """A port of UDP. Each client has a socket of its own, so the container tells them apart."""

    def __init__(self, proxy: Proxy, sock: socket.socket, target: End) -> None:
        self.proxy = proxy
        self.sock = sock
        self.target = target

    def receive(self) -> None:
        for _ in range(_ROUNDS):
            try:
                data, control, _, client = self.sock.recvmsg(_CHUNK, socket.CMSG_SPACE(20))
            except BlockingIOError:
                return
            except OSError:  # what ICMP had to say of an earlier answer
                continue
            key = (self.sock.fileno(), client, *((kind, value) for _, kind, value in control))
            flow = self.proxy.flows.get(key)
            try:
                if flow is None:
                    flow = Flow(self, key, client, control)
                flow.touch()
                flow.sock.send(data)
            except OSError:  # lost, as datagrams are
                continue


class Flow:
    """A client of a UDP port, and the socket that stands for it towards the container."""

    def __init__(
        self,
        port: Datagrams,
        key: object,
        client: tuple[object, ...],
        control: Sequence[tuple[int, int, bytes]],
    ) -> None:
        proxy = port.proxy
        if len(proxy.flows) >= MOST_CLIENTS:
            next(iter(proxy.flows.values())).close()
        self.port = port
        self.key = key
        self.client = client
        self.control = [_answering(*each) for each in control]
        self.last = proxy.clock()
        self.sock = socket.socket(_family(port.target[0]), socket.SOCK_DGRAM)
        try:
            self.sock.setblocking(False)
            self.sock.connect(port.target)
            proxy.look(self.sock, selectors.EVENT_READ, self._answer)
        except BaseException:
            self.sock.close()
            raise
        proxy.flows[key] = self

    def touch(self) -> None:
        self.last = self.port.proxy.clock()
        self.port.proxy.flows.move_to_end(self.key)

    def _answer(self) -> None:
        for _ in range(_ROUNDS):
            try:
                data = self.sock.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:  # nobody listens in the container, yet
                continue
            self.touch()
            with suppress(OSError):
                self.port.sock.sendmsg([data], self.control, 0, self.client)

    def close(self) -> None:
        proxy = self.port.proxy
        proxy.look(self.sock, 0, _nothing)
        self.sock.close()
        del proxy.flows[self.key]


def _answering(level: int, kind: int, value: bytes) -> tuple[int, int, bytes]:
    """What was said of where a datagram came in, as what is to be said of an answer: from there."""
    if level == socket.IPPROTO_IP:  # struct in_pktinfo: interface, our address, its destination
        return level, kind, bytes(4) + value[4:8] + bytes(4)
    if value[:2] != b"\xfe\x80":  # struct in6_pktinfo: destination, interface
        return level, kind, value[:16] + bytes(4)
    return level, kind, value


# -- the process


def drop_privileges() -> None:
    """Be nobody, with no capability and no way to regain one; what was bound stays open."""
    with suppress(OSError):  # in a user namespace there may be no other users
        os.setgroups([])
    with suppress(OSError):
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(header, bytes(24)):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def stays(dev: str) -> tuple[socket.socket, Callable[[], bool]]:
    """A socket that has something to read when a link changes, and whether *dev* is still there."""
    index = socket.if_nametoindex(dev)
    news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    news.setblocking(False)
    news.bind((0, _RTMGRP_LINK))

    def there() -> bool:
        with suppress(OSError):
            socket.if_indextoname(index)  # asked anew: it may have another name by now
            return True
        return False

    return news, there


def _drain(news: socket.socket) -> None:
    with suppress(BlockingIOError):
        while True:
            with suppress(InterruptedError):
                try:
                    news.recv(_CHUNK)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:  # more news than fit: they are not read anyway
                        raise


def main(arguments: Sequence[str]) -> int:
    """Bind, fork, tell that it is ready; the process that stays serves until its link is gone."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    lock_name, dev, *texts = arguments
    try:
        if lock_name.startswith("fd:"):
            lock = int(lock_name[3:])
        else:
            lock = os.open(lock_name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        proxy = Proxy()
        news, there = stays(dev)
        proxy.look(news, selectors.EVENT_READ, lambda: _drain(news))
        for text in texts:
            proxy.serve(Port.parse(text))
        with suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write("netkit-proxy")
        if os.fork():
            os._exit(0)  # whoever waits for us need not wait for the one that stays
        os.setsid()
        with open("/proc/self/stat", "rb") as stat:
            started = stat.read().rpartition(b")")[2].split()[19].decode()
        os.pwrite(lock, f"{os.getpid()} {started}\n".encode(), 0)
        drop_privileges()
    except OSError as error:
        print(error.errno or errno.EIO, error.strerror or error, flush=True)
        return 1
    os.chdir("/")
    try:
        os.write(1, READY)
    except BrokenPipeError:  # whoever started it is dead, and will not remember it
        return 1
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    proxy.run(there)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
