"""names.sock: where `connect` makes sure that names are served, and netkitd sees to it that they
are.

Shapes   a message is a datagram of a sequenced-packet socket. Asked: "serve DEV:INODE", the state
         whose names are meant. Answered, by the name server: "ok", and a line "ADDRESS ERRNO" for
         each gateway it cannot listen at
Units    seconds
Errors   none from `problems`: names are a convenience, what is wrong with them is told

netkitd listens, and the name server, its child, answers. When somebody connects and there is no
child, there will be: his question waits in the queue meanwhile.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from ipaddress import ip_address
from select import POLLIN, poll
from typing import TYPE_CHECKING

from netkit import background, config
from netkit.addresses import Address, bracketed
from netkit.errors import NetkitError
from netkit.kernel import sockets
from netkit.model import NetworkRecord
from netkit.store import SqliteStore

if TYPE_CHECKING:
    from subprocess import Popen

SOCKET = "names.sock"  # in the run directory
PORT = 53
_RUN_DIR = "/run/netkit"  # netkit.engine's, where netkitd looks
_WAIT_S = 3.0
_LOOK_S = 0.01
_MOST_BYTES = 1 << 16

Learnt = Callable[[str, str, Sequence[tuple[Address, int]]], object]


class Unserved(Exception):
    """Nobody serves names, and why."""


# -- who connects


def problems(
    store: SqliteStore, settings: config.Config, gateways: Collection[Address], *, start: bool
) -> list[str]:
    """What stands in the way of names being served at *gateways*: nothing, if it is empty.

    It waits until they are. *start*: netkitd, should nobody serve any.
    """
    try:
        failed = _serve(store, settings, start)
    except Unserved as error:
        return [str(error)]
    return [_taken(address, number) for address, number in failed if address in gateways]


def _serve(
    store: SqliteStore, settings: config.Config, start: bool
) -> Sequence[tuple[Address, int]]:
    """Where it cannot listen, and the number of the error."""
    found = os.stat(f"{store.state_dir}/state.db")
    request = f"serve {found.st_dev}:{found.st_ino}".encode()
    deadline = time.monotonic() + _WAIT_S
    started = False
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(left)
                sock.connect(f"{store.run_dir}/{SOCKET}")
                sock.send(request)
                answer = sock.recv(_MOST_BYTES).decode()
            if answer:
                return list(_failures(answer))
        except (FileNotFoundError, ConnectionRefusedError):
            if not start:
                raise Unserved("netkitd does not run") from None
            if not started:
                start_netkitd(store, settings)
                started = True
        except ConnectionError:
            pass  # it died, or makes way for another
        except TimeoutError:
            break
        except OSError as error:
            raise Unserved(f"{store.run_dir}/{SOCKET}: {error.strerror}") from error
        time.sleep(_LOOK_S)
    raise Unserved(f"netkitd does not answer within {_WAIT_S:g} s ({store.run_dir}/netkitd.log)")


def _failures(answer: str) -> Iterator[tuple[Address, int]]:
    for line in answer.split("\n")[1:]:
        address, _, number = line.partition(" ")
        yield ip_address(address), int(number)


def start_netkitd(store: SqliteStore, settings: config.Config) -> None:
    """Start netkitd for this state, wherever that is, and whatever network this is."""
    if os.environ.get(config.DAEMON) == "no":
        raise Unserved(f"netkitd does not run, and {config.DAEMON}=no forbids to start it")
    if not settings.daemon:
        raise Unserved("netkitd does not run, and `daemon = false` is configured")
    environ = dict(os.environ)
    state_dir, _ = config.directories(config.load().config)
    run_dir = environ.get("NETKIT_RUN_DIR", _RUN_DIR)
    if (store.state_dir, store.run_dir) != (state_dir, run_dir):
        environ |= {"NETKIT_STATE_DIR": store.state_dir, "NETKIT_RUN_DIR": store.run_dir}
    try:
        background.start(_paths(), environ, store.run_dir)
    except BlockingIOError:
        pass  # somebody else has just done so
    except OSError as error:
        raise Unserved(f"netkitd cannot be started: {error.strerror}") from error


def _taken(address: Address, number: int) -> str:
    where = f"{bracketed(address)}:{PORT}"
    holder = sockets.holder("udp", PORT) or sockets.holder("tcp", PORT)
    by = f" (port {PORT} is in use by {holder})" if holder else ""
    return f"cannot listen at {where}: {os.strerror(number)}{by}"


def _paths() -> list[str]:
    """Where this process imports from, but for where it happens to be; netkit's own place first."""
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return list(dict.fromkeys([own, *filter(os.path.isabs, sys.path)]))


# -- netkitd's side


def listen(run_dir: str) -> socket.socket:
    """names.sock, in a directory that is netkit's own; one that was left by the dead is replaced.

    It is root's alone, whoever may connect to netkitd.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path, new = f"{run_dir}/{SOCKET}", f"{run_dir}/{SOCKET}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    before = os.umask(0o177)
    try:
        sock.bind(new)
    finally:
        os.umask(before)
    sock.listen(1024)
    os.rename(new, path)  # under its name it is ready
    return sock


class Keeper:
    """Has a name server running while anybody needs one; `run` is for a thread of its own.

    *learnt*: what is to be done with addresses that a container is about to be told (E14).
    """

    # before another, after so many in a row died at once
    BACKOFF_S: Sequence[float] = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
    SOON_S = 5.0
    PATIENCE_S = 5.0  # for a sign of life
    PAUSE_S = 10.0  # between asking for two

    def __init__(
        self,
        listener: socket.socket,
        state_dir: str,
        log: Callable[[str], object],
        learnt: Learnt | None = None,
    ) -> None:
        self._listener = listener
        self._state_dir = state_dir
        self._log = log
        self._learnt = learnt
        self._child: Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._born = 0.0
        self._deaths = 0
        self._asked: float | None = None
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._stopping = False
        self.busy = False  # somebody's names are being served

    @property
    def pid(self) -> int | None:
        """The name server's, if there is one."""
        return None if self._child is None else self._child.pid

    def run(self) -> None:
        """Until `stop`, or for as long as the process lives, and the name server with it."""
        with suppress(NetkitError):  # whoever asks will be told
            self.busy = _anybody(self._state_dir)
        while not self._stopping:
            self.turn()
        self._end()

    def stop(self) -> None:
        """End, and the name server too; for another thread."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)

    def turn(self) -> None:
        """Wait for something to happen, and see to it."""
        if self._channel is None:
            delay_s = self.BACKOFF_S[min(self._deaths, len(self.BACKOFF_S) - 1)]
            if self.busy or self._ready(self._listener, None):
                self._ready(None, delay_s)
                if not self._stopping:
                    self._start()
        elif self._ready(self._channel, self.PATIENCE_S if self._asked else self.PAUSE_S):
            message = b""
            with suppress(ConnectionResetError):  # it died, and will not read what it was told
                message = self._channel.recv(_MOST_BYTES)
            self._hear(message) if message else self._bury()
        elif self._asked:
            self._log(f"the name server (pid {self.pid}) says nothing for {self.PATIENCE_S:g} s")
            self._end()
        else:
            self._asked = time.monotonic()
            self._tell(b"?")

    def _ready(self, sock: socket.socket | None, wait_s: float | None) -> bool:
        """Wait for something to come, but not once this is to stop; whether it did."""
        waiting = poll()
        waiting.register(self._bell, POLLIN)
        if sock is not None:
            waiting.register(sock, POLLIN)
        ready = {fd for fd, _ in waiting.poll(None if wait_s is None else wait_s * 1000)}
        return self._bell not in ready and bool(ready)

    def _end(self) -> None:
        """Kill it; if it is needed there will be another."""
        if self._child is not None:
            self._child.kill()
            self._bury()

    def _start(self) -> None:
        try:
            self._spawn()
        except OSError as error:  # no process or memory is left
            self._deaths += 1
            self._log(f"names are not served: {error}")

    def _spawn(self) -> None:
        from subprocess import DEVNULL, Popen

        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = (self._listener.fileno(), theirs.fileno())
            program = f"import sys; sys.path[:0] = {_paths()}; from netkit import nameserver; "
            program += "nameserver.run(sys.argv[1:])"
            self._child = Popen(
                [sys.executable, "-ISc", program, self._state_dir, *map(str, fds)],
                stdin=DEVNULL,
                stdout=DEVNULL,
                pass_fds=fds,
                cwd="/",
                env={},
            )
        self._channel, self._born, self._asked = ours, time.monotonic(), None
        self._log(f"names are served by process {self.pid}")

    def _bury(self) -> None:
        assert self._child is not None
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        code = self._child.wait()
        self._deaths = self._deaths + 1 if time.monotonic() - self._born < self.SOON_S else 0
        self._log(f"the name server (pid {self.pid}) has ended with exit code {code}")
        self._child = None

    def _hear(self, message: bytes) -> None:
        self._asked = None
        if message in (b"busy", b"idle"):
            self.busy = message == b"busy"
        elif message != b"!":
            try:
                number, sandbox, name, listed = json.loads(message)
                found = [(ip_address(text), int(ttl_s)) for text, ttl_s in listed]
                done = b"%d" % number
            except (ValueError, TypeError, OverflowError, RecursionError):
                self._log(f"the name server (pid {self.pid}) talks nonsense: {message[:80]!r}")
                self._end()
                return
            try:
                if self._learnt is not None:
                    self._learnt(str(sandbox), str(name), found)
            except Exception as error:  # who asked is told the addresses, and meets the firewall
                self._log(f"{name} for {sandbox}: {type(error).__name__}: {error}")
            self._tell(done)

    def _tell(self, message: bytes) -> None:
        assert self._channel is not None
        with suppress(OSError):  # it has died, as is about to be noticed
            self._channel.send(message)


def _anybody(state_dir: str) -> bool:
    """Whether the state has networks with names: whoever is on them had names before."""
    if not os.path.exists(f"{state_dir}/state.db"):
        return False
    store = SqliteStore(state_dir, "")
    try:
        return any(net.names for net in store.all(NetworkRecord))
    finally:
        store.close()
