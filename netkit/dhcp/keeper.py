"""The keeper: the process that gets leases by DHCP, renews them, and gives them back.

    dhcp daemon [-socketpath PATH] [-pidfile PATH] [-hostprefix DIR] [-broadcast]
                [-timeout 10s] [-resendmax 62s] [-resendtimeout 20s]

Shapes   one line of JSON asks, one answers (netkit.dhcp.book). A namespace is entered by its path
         whenever there is something to say, and no descriptor into it is held in between
Units    seconds, on CLOCK_BOOTTIME: it counts sleep, and nobody sets it
Errors   to those who ask: Failed, with the name of an error of netkit.errors. To its log: the rest
Source   the options are those of CNI's `dhcp daemon`, whose unit files fit

All is in files: killed and started again it goes on where it was. On an interface it changes
nothing before the first lease is told; from then on the address there follows the lease. A lease
whose namespace or interface is gone is forgotten; there is nobody left to release it by.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import logging
import os
import re
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import SystemRandom

from netkit.dhcp import book
from netkit.dhcp.book import Answer, Book, Done, Entry, Failed, Owner, Wish
from netkit.dhcp.client import USUAL, Client, Lease, Outgoing, Timing
from netkit.dhcp.message import ANY, BROADCAST, Malformed, Message, mtu, routes
from netkit.errors import Exhausted, NetkitError, NotFound
from netkit.kernel import netns
from netkit.kernel.dhcp import Port

READY = b"ready\n"
TOTAL_S = 20.0  # to get a lease; then it is said that there is none

_LISTEN_S = 4.0  # for an answer, while a lease is held
_LOOK_S = 1.0  # whether the namespace of an open port is still there
_TROUBLE_S = 5.0  # until what the machine refused is tried again
_MOST_WAIT_S = 3600.0
_REQUEST_S = 10.0  # for somebody connected to say what he wants
_MOST_CONNECTIONS = 1024
_ROUNDS = 16  # packets at a time: then it is another's turn
_IDLE_S = 60.0  # with nothing to keep, when started in the background
_BACKLOG = 128
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FIRST_PASSED_FD = 3  # sd_listen_fds(3)

log = logging.getLogger("netkit.dhcp")


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Connection:
    """Somebody who asks."""

    def __init__(self, sock: socket.socket, since: float) -> None:
        self.sock = sock
        self.since = since
        self.line = b""
        self.asked = False


class Holding:
    """A lease that is kept, or that somebody waits for."""

    def __init__(self, wish: Wish, place: str, client: Client) -> None:
        self.wish = wish
        self.place = place  # the namespace's identity
        self.client = client
        self.mtu = 0
        self.mac = b""  # where the server was last heard from
        self.port: Port | None = None
        self.close_at = 0.0
        self.retry_at = 0.0
        self.look_at = 0.0
        self.give_up_at = 0.0
        self.waiting: list[Connection] = []

    @property
    def due(self) -> float:
        due = max(self.client.due, self.retry_at)
        return min(due, self.give_up_at) if self.waiting else due

    def entry(self, lease: Lease) -> Entry:
        return Entry(self.wish, self.place, lease, self.mtu, self.mac)


class Keeper:
    """The loop, and all it holds.

    total_s  for a lease to be got
    idle_s   how long to stay without any; None: for ever
    prefix   of the paths of namespaces
    """

    def __init__(
        self,
        directory: str,
        listener: socket.socket,
        *,
        timing: Timing = USUAL,
        total_s: float = TOTAL_S,
        broadcast: bool = False,
        prefix: str = "",
        idle_s: float | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        self._book = Book(directory)
        self._timing = timing
        self._total_s = total_s
        self._broadcast = broadcast
        self._prefix = prefix
        self._idle_s = idle_s
        self._clock = clock
        self._random = SystemRandom()  # who guesses an exchange's number could forge the answer
        self._holdings: dict[Owner, Holding] = {}
        self._connections: set[Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._busy_at = clock()
        for entry in self._book.entries():
            client = self._client(entry.wish, entry.lease)
            holding = Holding(entry.wish, entry.netns, client)
            holding.mac, holding.mtu = entry.mac, entry.mtu
            self._holdings[entry.wish.owner] = holding

    def heed(self, fd: int) -> None:
        """Wake when there is something to read at *fd*."""
        self._selector.register(fd, selectors.EVENT_READ, lambda: os.read(fd, 64))

    def run(self, ended: Callable[[], bool] = lambda: False) -> None:
        while not ended() and not self._is_idle():
            self.turn()

    def turn(self, most_s: float = _MOST_WAIT_S) -> None:
        """Wait for something to happen, *most_s* at most, and see to it."""
        for key, _ in self._selector.select(min(most_s, self._wait_s())):
            # closed on another's account, its number may be somebody else's by now
            if self._selector.get_map().get(key.fd) is key:
                key.data()
        now = self._clock()
        for holding in list(self._holdings.values()):
            self._look_after(holding, now)
        for connection in [each for each in self._connections if not each.asked]:
            if now > connection.since + _REQUEST_S:
                self._hang_up(connection)

    def _wait_s(self) -> float:
        now = self._clock()
        times = [holding.due for holding in self._holdings.values()]
        if any(holding.port for holding in self._holdings.values()) or self._connections:
            times.append(now + _LOOK_S)
        if self._idle_s is not None:
            times.append(now + self._idle_s)
        return max(0.0, min(times, default=now + _MOST_WAIT_S) - now)

    def _is_idle(self) -> bool:
        if self._holdings or self._connections:
            self._busy_at = self._clock()
        return self._idle_s is not None and self._clock() > self._busy_at + self._idle_s

    # -- those who ask

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if len(self._connections) >= _MOST_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        connection = Connection(sock, self._clock())
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._hear(connection))

    def _hear(self, connection: Connection) -> None:
        try:
            chunk = connection.sock.recv(book.MOST_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk or connection.asked:  # gone, or more than one request
            self._leave(connection)
            return
        connection.line += chunk
        if not connection.line.endswith(b"\n"):
            if len(connection.line) > book.MOST_BYTES:
                self._hang_up(connection)
            return
        connection.asked = True
        try:
            answer = self._serve(connection, book.decode_request(connection.line))
        except ValueError as error:
            answer = Failed("InvalidSpec", f"this is no request: {error}")
        except (NetkitError, OSError) as error:
            answer = _failed(error)
        if answer:
            self._tell(connection, answer)

    def _serve(self, connection: Connection, request: book.Request) -> Answer | None:
        """The answer; None: later."""
        match request:
            case book.Take(wish):
                return self._take(connection, wish)
            case book.Release(owner):
                if holding := self._holdings.get(owner):
                    self._release(holding)
            case book.Find(owner):
                found = self._holdings.get(owner)
                return Done(found.client.lease, found.mtu) if found else Done()
            case book.Collect(network, valid):
                keep = {*valid}
                for owner, holding in list(self._holdings.items()):
                    if owner.network == network and (owner.container, owner.ifname) not in keep:
                        self._release(holding)
        return Done()

    def _tell(self, connection: Connection, answer: Answer) -> None:
        with suppress(OSError):  # gone; it will be told when it asks again
            connection.sock.sendall(book.encode(answer))
        self._hang_up(connection)

    def _leave(self, connection: Connection) -> None:
        """Somebody went before he was answered: if he was the last, nobody wants the lease."""
        self._hang_up(connection)
        for holding in list(self._holdings.values()):
            if connection in holding.waiting:
                holding.waiting.remove(connection)
                if not holding.waiting:
                    self._forget(holding, "nobody waits for it any more")

    def _hang_up(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._selector.unregister(connection.sock)
            connection.sock.close()

    # -- leases

    def _take(self, connection: Connection, wish: Wish) -> Answer | None:
        place = netns.identity(self._prefix + wish.netns)
        held = self._holdings.get(wish.owner)
        if held and held.place == place:
            if held.waiting:
                held.waiting.append(connection)
                return None
            if held.client.lease:
                return Done(held.client.lease, held.mtu)
        if held:  # of a namespace that was, and whose address is not to be had again
            self._forget(held, "another asks in its place")
        holding = Holding(wish, place, self._client(wish))
        self._open(holding, up=True)
        holding.waiting.append(connection)
        holding.give_up_at = self._clock() + self._total_s
        self._holdings[wish.owner] = holding
        return None

    def _client(self, wish: Wish, lease: Lease | None = None) -> Client:
        return Client(
            b"",
            wish.options,
            wanted=wish.address,
            broadcast=self._broadcast,
            lease=lease,
            timing=self._timing,
            random=self._random,
        )

    def _look_after(self, holding: Holding, now: float) -> None:
        """Do what is due."""
        if self._holdings.get(holding.wish.owner) is not holding:
            return
        if holding.waiting and now >= holding.give_up_at:
            why = f"no lease for {holding.wish.owner} within {self._total_s:g} s"
            hint = "is there a DHCP server on the interface's network?"
            self._give_up(holding, Exhausted(f"{why}: {holding.client.trouble}", hint=hint))
            return
        try:
            if holding.port and now >= holding.look_at:
                self._stay(holding)
                holding.look_at = now + _LOOK_S
            if now >= max(holding.client.due, holding.retry_at):
                self._step(holding, lambda: holding.client.advance(now))
            if holding.port and not holding.waiting and now >= holding.close_at:
                self._close(holding)
        except (NetkitError, OSError) as error:
            self._fail(holding, error, now)

    def _fail(self, holding: Holding, error: NetkitError | OSError, now: float) -> None:
        if holding.waiting:
            self._give_up(holding, error)
        elif isinstance(error, NetkitError | FileNotFoundError) or _is_no_device(error):
            self._forget(holding, str(error))
        else:
            log.warning("%s: %s", holding.wish.owner, error)
            self._close(holding)
            holding.retry_at = now + _TROUBLE_S

    def _give_up(self, holding: Holding, error: NetkitError | OSError) -> None:
        waiting, holding.waiting = holding.waiting, []
        self._forget(holding, str(error))
        for connection in waiting:
            self._tell(connection, _failed(error))

    def _step(self, holding: Holding, step: Callable[[], list[Outgoing]]) -> None:
        """Let the client do something, send what it says, and see to what has become of it."""
        before = holding.client.lease
        if not holding.port:
            self._open(holding)
        outgoing = step()
        now = holding.client.lease
        if before and not now:
            log.warning("%s: %s", holding.wish.owner, holding.client.trouble)
            at = self._clock()  # whoever reads this goes on looking for another
            lost = before._replace(renew_at=at, rebind_at=at, ends_at=at)
            self._book.put(holding.entry(lost))
        if now is not before:
            self._follow(holding, before, now)
        self._send(holding, outgoing)

    def _send(self, holding: Holding, outgoing: list[Outgoing]) -> None:
        for message, to in outgoing:
            assert holding.port
            near = holding.mac if to != BROADCAST else None
            with suppress(OSError):  # down, or full: it is said again
                holding.port.send(message.encode(), message.ciaddr, to, near)
            holding.close_at = self._clock() + _LISTEN_S

    def _receive(self, holding: Holding) -> None:
        for _ in range(_ROUNDS):
            before = holding.client.lease
            try:
                received = holding.port and holding.port.receive()
                if not received:
                    return
                self._hear_server(holding, Message.decode(received.message))
            except Malformed:
                continue
            except (NetkitError, OSError) as error:
                self._fail(holding, error, self._clock())
                return
            if holding.client.lease not in (None, before):
                holding.mac = received.mac
                self._settle(holding)
                return

    def _hear_server(self, holding: Holding, message: Message) -> None:
        at = self._clock()
        self._step(holding, lambda: holding.client.receive(message, at))

    def _settle(self, holding: Holding) -> None:
        """A lease was got, or prolonged: it is on file before anybody is told."""
        lease = holding.client.lease
        assert lease
        log.info("%s: %s of %s", holding.wish.owner, lease.address, lease.server)
        try:
            self._book.put(holding.entry(lease))
        except OSError as error:
            if holding.waiting:
                waiting, holding.waiting = holding.waiting, []
                self._release(holding)
                for connection in waiting:
                    self._tell(connection, _failed(error))
                return
            log.warning("%s: %s", holding.wish.owner, error)
        self._close(holding)
        waiting, holding.waiting = holding.waiting, []
        for connection in waiting:
            self._tell(connection, Done(lease, holding.mtu))

    def _follow(self, holding: Holding, before: Lease | None, now: Lease | None) -> None:
        """Have the interface follow: without a lease an address is not to be used any longer."""
        if holding.waiting or (before and now and before.interface == now.interface):
            return
        from netkit.kernel.netlink import Netlink  # lazily: it is seldom needed, and big

        ifname = holding.wish.owner.ifname
        with Netlink(self._prefix + holding.wish.netns) as netlink:
            if before:
                with suppress(OSError):
                    netlink.delete_address(ifname, before.interface)
            if now:
                with suppress(FileExistsError):
                    netlink.add_address(ifname, now.interface)
                for dst, gateway in routes(now.options):
                    with suppress(OSError):  # it is there, or leads nowhere
                        netlink.add_route(
                            ifname,
                            dst if dst.prefixlen else None,
                            str(gateway) if gateway != ANY else None,
                            metric=holding.wish.metric or None,
                            mtu=mtu(now.options),
                        )

    def _release(self, holding: Holding) -> None:
        client, owner = holding.client, holding.wish.owner
        try:
            if client.lease:
                if not holding.port:
                    self._open(holding)
                now = self._clock()
                self._send(holding, client.release(now))
        except (NetkitError, OSError) as error:
            log.warning("%s: it is not released at the server: %s", owner, error)
        deleted = NotFound(f"{owner} has been deleted meanwhile")
        waiting, holding.waiting = holding.waiting, []
        self._forget(holding, "released")
        for connection in waiting:
            self._tell(connection, _failed(deleted))

    def _forget(self, holding: Holding, why: str) -> None:
        log.info("%s: %s", holding.wish.owner, why)
        self._close(holding)
        self._holdings.pop(holding.wish.owner, None)
        self._book.remove(holding.wish.owner)

    # -- ports

    def _open(self, holding: Holding, *, up: bool = False) -> None:
        self._stay(holding)
        path, ifname = self._prefix + holding.wish.netns, holding.wish.owner.ifname
        try:
            holding.port = Port(path, ifname, up=up)
        except OSError as error:
            if _is_no_device(error):
                raise NotFound(f"no interface '{ifname}' in network namespace '{path}'") from None
            raise
        holding.client.mac, holding.mtu = holding.port.mac, holding.port.mtu
        self._selector.register(holding.port, selectors.EVENT_READ, lambda: self._receive(holding))

    def _stay(self, holding: Holding) -> None:
        """NotFound unless the namespace is the one it was."""
        path = self._prefix + holding.wish.netns
        if netns.identity(path) != holding.place:
            raise NotFound(f"'{path}' is another network namespace by now")

    def _close(self, holding: Holding) -> None:
        if holding.port:
            self._selector.unregister(holding.port)
            holding.port.close()
            holding.port = None


def _failed(error: NetkitError | OSError) -> Failed:
    if isinstance(error, NetkitError):
        return Failed(type(error).__name__, str(error), error.hint or "")
    return Failed("KernelRefused", str(error))


def _is_no_device(error: NetkitError | OSError) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENODEV, errno.ENXIO)


# -- the process


def main(arguments: Sequence[str]) -> int:
    """`dhcp daemon`, or what netkit.dhcp.calls starts in the background: then the first argument
    is the lock, and it ends once it has had nothing to keep for a while.
    """
    options = _parser().parse_args(arguments)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # whatever is held where it was started
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    path = options.hostprefix + options.socketpath
    try:
        book.prepare(path)
        lock = _lock(book.lock_of(path), options.lock)
        listener = _listen(path)
    except (NetkitError, OSError) as error:
        number = error.errno if isinstance(error, OSError) else None
        print(number or errno.EIO, getattr(error, "strerror", None) or error, flush=True)
        return 1
    keeper = Keeper(
        book.directory_of(path),
        listener,
        timing=Timing(most_pause_s=options.resendmax, request_s=options.timeout),
        total_s=options.resendtimeout,
        broadcast=options.broadcast,
        prefix=options.hostprefix,
        idle_s=_IDLE_S if options.lock else None,
    )
    ending: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: ending.append(number))
    woken, wake = os.pipe()  # for Python waits on after a signal (PEP 475)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    keeper.heed(woken)
    if options.lock:
        _stay_behind()
    with open("/proc/self/stat", "rb") as stat:
        started = stat.read().rpartition(b")")[2].split()[19].decode()
    os.pwrite(lock, f"{os.getpid()} {started}\n".encode(), 0)
    if options.pidfile:
        with open(options.pidfile, "w") as file:
            file.write(str(os.getpid()))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keeper.run(lambda: bool(ending))
    for file_name in filter(None, (path, options.pidfile)):
        with suppress(FileNotFoundError):
            os.unlink(file_name)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("dhcp daemon", description="Get and keep leases by DHCP.")
    parser.add_argument("lock", nargs="?", help=argparse.SUPPRESS)
    for name, default, about in (
        ("pidfile", "", "where to write the daemon's process id"),
        ("hostprefix", "", "where the host's root is, as seen from here"),
        ("socketpath", book.SOCKET, "where to listen"),
    ):
        parser.add_argument(f"-{name}", f"--{name}", default=default, help=about)
    for name, default_s, about in (
        ("timeout", USUAL.request_s, "how long a server may take to confirm its offer"),
        ("resendmax", USUAL.most_pause_s, "the longest pause before something is sent again"),
        ("resendtimeout", TOTAL_S, "how long to look for a lease in all"),
    ):
        parser.add_argument(
            f"-{name}", f"--{name}", type=_seconds, default=default_s, help=f"{about}: 10s, 1m30s"
        )
    parser.add_argument("-broadcast", "--broadcast", action="store_true", help="ask for broadcasts")
    return parser


def _seconds(text: str) -> float:
    """A duration as Go writes it: 1m30s, 500ms."""
    parts = re.findall(r"([0-9.]+)(ms|h|m|s)", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 10s or 1m30s")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _lock(path: str, inherited: str | None) -> int:
    """The keeper's lock, taken: there is one keeper for each directory."""
    if inherited:
        return int(inherited.removeprefix("fd:"))
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise OSError(errno.EADDRINUSE, f"another keeper has locked {path}") from None
    return lock


def _listen(path: str) -> socket.socket:
    """The socket systemd passes, or one of our own."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        passed = socket.socket(fileno=_FIRST_PASSED_FD)
        passed.setblocking(False)
        return passed
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError, ConnectionError):
        probe.connect(path)
        raise OSError(errno.EADDRINUSE, f"another program listens at {path}")
    with suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener


def _stay_behind() -> None:
    """Fork, so that whoever started us need not wait; say that we are ready."""
    if os.fork():
        os._exit(0)
    os.setsid()
    os.write(1, READY)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.close(null)
    with suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write("netkit-dhcp")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
