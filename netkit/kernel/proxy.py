"""A proxy: from ports of the host to a container, for what address translation cannot do.

    python3 -m netkit.kernel.proxy LOCK DEV tcp/[::1]:8080=172.25.0.2:80 …
    python3 -m netkit.kernel.proxy --drop LOCK tcp/[::1]:8080=172.25.0.2:80 …

Shapes   a port is PROTOCOL/ADDRESS[%DEVICE]:FIRST[-LAST]=TARGET:FIRST. LOCK is a file, or `fd:N` an
         open one, that stays locked while this process lives and holds its pid and start time.
         By that file it is found, too, to be given more ports, or told to `drop` some
Units    seconds, bytes
Errors   before it is ready: one line, errno and reason, on stdout. Afterwards nobody listens: a
         connection that fails is reset, a datagram that cannot be sent is lost
Source   Docker's docker-proxy: half-closed connections, 90 s for a silent UDP client

A program of its own: it imports the standard library only, starts as `python -IS` in 20 ms, binds,
gives up every privilege, forks itself free of whoever started it, and ends once the interface DEV
is gone, or its last port. What it passes on bears the host's address: the container does not see
who the client is.

It has no right to bind to ports any more when it is given others: it gets them bound (`give`), from
whoever is the user it was started by, and nobody else. Connections of its other ports go on.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
_PR_SET_KEEPCAPS = 8
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset
_LINES = 1 << 15  # of a request to a process that serves
_SOCKETS_A_REQUEST = 200  # less than SCM_MAX_FD
_TOLD_S = 2.0
_PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid
_FULL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

End = tuple[str, int]
Key = tuple[str, str, str, int]  # of one port: protocol, address, device, number


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

    def each(self) -> Iterator[tuple[Key, End]]:
        """Each port by itself, and where it leads."""
        for number in range(self.first, self.last + 1):
            key = self.protocol, self.address, self.device, number
            yield key, (self.target, self.target_first + number - self.first)

    def parts(self) -> Iterator[Port]:
        """The same in parts that one request can tell of."""
        for first in range(self.first, self.last + 1, _SOCKETS_A_REQUEST):
            last = min(self.last, first + _SOCKETS_A_REQUEST - 1)
            target = self.target_first + first - self.first
            yield self._replace(first=first, last=last, target_first=target)

    def listen(self) -> list[socket.socket]:
        """A bound socket for each port; on an error none."""
        made: list[socket.socket] = []
        try:
            for number in range(self.first, self.last + 1):
                made.append(socket.socket(_family(self.address), _KINDS[self.protocol]))
                self._bind(made[-1], number)
        except BaseException:
            _close(made)
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


def _close(socks: Iterable[socket.socket]) -> None:
    for sock in socks:
        sock.close()


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class Proxy:
    """The loop: every socket it looks at has a function to call when something happens there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.flows: OrderedDict[object, Flow] = OrderedDict()  # the silent first
        self.connections = 0
        self.ports: dict[Key, Listener | Datagrams] = {}
        self.paused = False
        self._selector = selectors.DefaultSelector()
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = max(1, (limit - MOST_CLIENTS) // 3)  # two sockets each, and room for UDP's

    def serve(self, port: Port, socks: Sequence[socket.socket] | None = None) -> None:
        """Pass on what comes in by a port, at sockets that are bound already, or are bound now."""
        for (key, target), sock in zip(port.each(), socks or port.listen(), strict=True):
            if key in self.ports:  # it was told so before, by somebody who did not live to know it
                sock.close()
            else:
                self.ports[key] = _SERVED[port.protocol](self, sock, target)

    def drop(self, port: Port) -> None:
        """Serve a port no longer: its connections end, those of others go on."""
        for key, _ in port.each():
            if (served := self.ports.pop(key, None)) is not None:
                served.close()

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
        while self.ports and lives():
            self.turn()

    def turn(self, most_s: float | None = None) -> None:
        """Wait for something to happen, *most_s* at most, and see to it."""
        waits = [most_s] if most_s is not None else []
        paused = self.paused
        if paused:
            waits.append(_PAUSE_S)
        if self.flows:
            oldest = next(iter(self.flows.values()))
            waits.append(max(0.0, oldest.last + IDLE_S - self.clock()))
        for key, _ in self._selector.select(min(waits, default=None)):
            # closed on another's account, its number may be somebody else's by now
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        if paused and self.connections < self.most:
            self.listen()
        while self.flows and (oldest := next(iter(self.flows.values()))).last + IDLE_S <= (
            self.clock()
        ):
            oldest.close()

    def listen(self, on: bool = True) -> None:
        """Look at the ports of TCP; or let clients wait, in the kernel's queue."""
        self.paused = not on
        for served in self.ports.values():
            if isinstance(served, Listener):
                self.look(served.sock, selectors.EVENT_READ if on else 0, served.accept)


def _nothing() -> None: ...


def _reset(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    sock.close()


# -- TCP


class Listener:
    """A port of TCP, and the connections made to it."""

    def __init__(self, proxy: Proxy, sock: socket.socket, target: End) -> None:
        self.proxy = proxy
        self.sock = sock
        self.target = target
        self.connections: set[Connection] = set()
        proxy.look(sock, 0 if proxy.paused else selectors.EVENT_READ, self.accept)

    def accept(self) -> None:
        for _ in range(_ROUNDS):
            try:
                if self.proxy.connections >= self.proxy.most:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                client, _ = self.sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _FULL:  # clients wait in the kernel's queue until others are done
                    self.proxy.listen(False)
                    return
                continue  # that client has gone already
            try:
                Connection(self, client)
            except OSError:
                _reset(client)

    def close(self) -> None:
        self.proxy.look(self.sock, 0, _nothing)
        self.sock.close()
        for connection in list(self.connections):
            connection.close(_reset)


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

    def __init__(self, port: Listener, client: socket.socket) -> None:
        self.port = port
        self.proxy = port.proxy
        self.client = client
        self.server = socket.socket(_family(port.target[0]), socket.SOCK_STREAM)
        self.connecting = True
        self.ways = Way(client, self.server), Way(self.server, client)
        try:
            for sock in (client, self.server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            with suppress(BlockingIOError):
                self.server.connect(port.target)
            self.proxy.look(self.server, selectors.EVENT_WRITE, self._go)
        except BaseException:
            self.server.close()
            raise
        self.proxy.connections += 1
        port.connections.add(self)

    def _go(self) -> None:
        try:
            if self.connecting:
                if refused := self.server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(refused, os.strerror(refused))
                self.connecting = False
            for way in self.ways:
                way.pump()
        except OSError:
            self.close(_reset)
            return
        if all(way.done for way in self.ways):
            self.close(socket.socket.close)
            return
        there, back = self.ways
        for sock, to, of in ((self.client, back, there), (self.server, there, back)):
            events = selectors.EVENT_WRITE if to.pending else 0
            if not of.ended and not of.pending:
                events |= selectors.EVENT_READ
            self.proxy.look(sock, events, self._go)

    def close(self, close: Callable[[socket.socket], None]) -> None:
        for sock in (self.client, self.server):
            self.proxy.look(sock, 0, _nothing)
            close(sock)
        self.proxy.connections -= 1
        self.port.connections.discard(self)


# -- UDP


class Datagrams:
    """A port of UDP. Each client has a socket of its own, so the container tells them apart."""

    def __init__(self, proxy: Proxy, sock: socket.socket, target: End) -> None:
        self.proxy = proxy
        self.sock = sock
        self.target = target
        proxy.look(sock, selectors.EVENT_READ, self.receive)

    def close(self) -> None:
        for flow in [flow for flow in self.proxy.flows.values() if flow.port is self]:
            flow.close()
        self.proxy.look(self.sock, 0, _nothing)
        self.sock.close()

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


_SERVED: dict[str, Callable[[Proxy, socket.socket, End], Listener | Datagrams]] = {
    "tcp": Listener,
    "udp": Datagrams,
}


# -- what it is told while it serves


class Hearing:
    """Where a process is told of ports: by the user that started it, and answered with a number.

    It is a file: a container on the host's network is in no directory of ours, but it sees all
    sockets that are none.
    """

    def __init__(self, proxy: Proxy, lock: str) -> None:
        self.proxy = proxy
        self.user = os.geteuid()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        os.fchmod(self.sock.fileno(), 0o600)
        with suppress(FileNotFoundError):
            os.unlink(place(lock))  # of one that was killed
        with _reachable(lock) as address:
            self.sock.bind(address)

    def listen(self) -> None:
        """From here on; whose process this is can be seen at the other end."""
        self.sock.listen()
        self.proxy.look(self.sock, selectors.EVENT_READ, self._accept)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            asking, _ = self.sock.accept()
            if _peer(asking)[1] != self.user:
                asking.close()
                return
            asking.setblocking(False)
            self.proxy.look(asking, selectors.EVENT_READ, lambda: self._hear(asking))

    def _hear(self, asking: socket.socket) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(asking, _LINES, _SOCKETS_A_REQUEST)
            if data:
                asking.send(b"%d" % self._do(data.decode(), [socket.socket(fileno=n) for n in fds]))
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # whoever asked has died
        self.proxy.look(asking, 0, _nothing)
        asking.close()

    def _do(self, request: str, socks: Sequence[socket.socket]) -> int:
        verb, _, text = request.partition(" ")
        port = Port.parse(text)
        if verb == "serve":
            self.proxy.serve(port, socks)
        elif verb == "drop":
            self.proxy.drop(port)
        else:
            return sum(key in self.proxy.ports for key, _ in port.each())
        return len(self.proxy.ports)


def give(lock: str, ports: Iterable[str]) -> None:
    """Have more ports served by the process that holds *lock*; OSError if they cannot be had."""
    given: list[tuple[Port, list[socket.socket]]] = []
    try:
        for text in ports:
            given += ((part, part.listen()) for part in Port.parse(text).parts())
        with _told(lock) as asking:
            for part, socks in given:
                _ask(asking, f"serve {part}", [sock.fileno() for sock in socks])
    finally:
        for _, socks in given:
            _close(socks)


def drop(lock: str, ports: Iterable[str]) -> int:
    """Have ports served no longer; how many are left. Without any the process ends."""
    with _told(lock) as asking:
        return min(_ask(asking, f"drop {text}") for text in ports)


def serves(lock: str, port: str) -> bool:
    """Whether the process that holds *lock* serves all of a port."""
    with _told(lock) as asking:
        return _ask(asking, f"count {port}") == len(list(Port.parse(port).each()))


def _told(lock: str) -> socket.socket:
    """A socket to the process that holds *lock*; OSError if there is none."""
    with open(lock) as file:
        pid = file.read().partition(" ")[0]
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(_TOLD_S)
        with _reachable(lock) as address:
            try:
                sock.connect(address)
            except FileNotFoundError:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens") from None
        if _peer(sock)[:2] != (int(pid), os.geteuid()):
            raise ConnectionRefusedError(errno.ECONNREFUSED, "somebody else listens there")
    except BaseException:
        sock.close()
        raise
    return sock


def _ask(asking: socket.socket, request: str, fds: Sequence[int] = ()) -> int:
    socket.send_fds(asking, [request.encode()], fds)
    answer = asking.recv(64)
    if not answer:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    return int(answer)


def place(lock: str) -> str:
    """The socket by which the process that holds *lock* is told of ports."""
    return f"{lock}.sock"


@contextmanager
def _reachable(lock: str) -> Iterator[str]:
    """Its address: that of a socket has 107 bytes at most, whatever directory it is in."""
    where, name = os.path.split(place(lock))
    directory = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{name}"
    finally:
        os.close(directory)


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    """The process, user and group at the other end; of one that listens, as it began to."""
    found: tuple[int, int, int] = _PEER.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    )
    return found


# -- the process


def drop_privileges(*kept: int) -> None:
    """Be nobody, with no capability but those *kept* and no way to regain one; what is open stays
    so.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_KEEPCAPS, bool(kept), 0, 0, 0)
    with suppress(OSError):  # in a user namespace there may be no other users
        os.setgroups([])
    with suppress(OSError):
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    header = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    mask = sum(1 << number for number in kept)  # of the first 32
    held = struct.pack("6I", mask, mask, 0, 0, 0, 0)  # effective, permitted, not inherited
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.capset(header, held):
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
    if arguments[0] == "--drop":
        _, lock_name, *texts = arguments
        return _finish(lock_name, texts)
    lock_name, dev, *texts = arguments
    try:
        if lock_name.startswith("fd:"):
            lock = int(lock_name[3:])
            lock_name = os.readlink(f"/proc/self/fd/{lock}")
        else:
            lock = os.open(lock_name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # there is one: it serves these as well
                give(lock_name, texts)
                return 0
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        proxy = Proxy()
        news, there = stays(dev)
        proxy.look(news, selectors.EVENT_READ, lambda: _drain(news))
        for text in texts:
            proxy.serve(Port.parse(text))
        hearing = Hearing(proxy, lock_name)
        with suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write("netkit-proxy")
        if os.fork():
            os._exit(0)  # whoever waits for us need not wait for the one that stays
        os.setsid()
        with open("/proc/self/stat", "rb") as stat:
            started = stat.read().rpartition(b")")[2].split()[19].decode()
        hearing.listen()
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


def _finish(lock: str, texts: Sequence[str]) -> int:
    """`--drop`: with the last port the files go, too."""
    try:
        if drop(lock, texts):
            return 0
    except FileNotFoundError:
        return 0
    except OSError as error:  # dead, or too busy to hear
        print(error.errno or errno.EIO, error.strerror or error, flush=True)
        return 1
    os.unlink(lock)
    os.unlink(place(lock))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
