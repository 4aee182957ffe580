"""netkitd: the calls of CNI plugins, served by an engine that is warm already.

Shapes   a thread reads the requests of all clients (netkit.wire); workers, each with an engine of
         its own, serve them. It owns no state: killed at any time it loses nothing, for what it was
         in the midst of is an intent, which the next call undoes, be it served here or not
Units    seconds, bytes
Errors   Conflict where there is one already; KernelRefused where it cannot listen
Source   sd_listen_fds(3), sd_notify(3), unix(7) for SO_PEERCRED; trust.md S35, S36, S42, S43

It serves who would do the same himself: a caller in its own network and mount namespace, with the
same NETKIT_ variables. All others are told "not mine".

A worker whose call failed ends, and another takes its place: should anything be left half done,
its maker is dead, and whoever comes next may undo it.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import stat
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from pkgutil import iter_modules
from selectors import EVENT_READ, DefaultSelector
from typing import NamedTuple, NoReturn

from netkit import background as starting
from netkit import config, following, nameservice, naming, watch, wire
from netkit.addresses import Address
from netkit.engine import RUN_DIR, Engine
from netkit.errors import Conflict, KernelRefused, NetkitError, printable
from netkit.kernel import process
from netkit.store import private_directory

GROUP = "netkit"  # whose members may connect, where there is such a group: as good as root
IDLE_S = 300.0  # of one that was started in the background
_WORKERS = 16
_TURN_S = 0.0005  # of a thread while others wait: a call of a few ms asks the kernel often
_FRAME_S = 5.0  # for a client to say what it wants, and to take the answer
_LOOK_AROUND_S = 10.0  # for others, in a network that is not the host's
_STOP_S = 10.0  # for what is under way to end
_MOST_READING = 512  # clients that have not said what they want: the newest
_MOST_WAITING = 128  # requests; all others do it themselves
_MOST_HELD = 64 << 20  # bytes, of unfinished requests
_AT_ONCE = 64  # clients let in before the others are heard again
_LOG_BYTES = 1 << 20
_FIRST_FD = 3  # SD_LISTEN_FDS_START
# of the variables, those that do not change what a call does
_INDIFFERENT = {"NETKIT_DAEMON", "NETKIT_CALL"}

Serve = Callable[[str, Mapping[str, str], bytes], tuple[int, bytes]]


class Peer(NamedTuple):
    """Who connected, as the kernel says."""

    pid: int
    uid: int
    gid: int


class _Client:
    """A connection, and what has come of its request."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        size = struct.calcsize("3i")
        self.peer = Peer(
            *struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        )
        self.since = time.monotonic()
        self.data = bytearray()

    def has_gone(self) -> bool:
        """Whether nobody is there to be answered; who is there waits, and says nothing more."""
        try:
            return not self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class Server:
    """Serves the clients of *listener* until it is told to stop, or nobody has come for *idle_s*
    while it was not *busy* with anything else.

    *make* gives each worker what serves its calls. `run` is for the main thread.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], AbstractContextManager[Serve]],
        *,
        idle_s: float | None = None,
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._listener = listener
        self._make = make
        self._idle_s = idle_s
        self._busy = busy
        self._identity = _identity()
        self._code = _code()
        self._stopping = False
        self._selector = DefaultSelector()
        self._reading: dict[int, _Client] = {}  # by descriptor, oldest first
        self._held = 0
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Client] = deque()
        self._under_way: set[_Client] = set()
        self._workers = 0
        self._last = time.monotonic()
        self._alarm, self._bell = socket.socketpair()

    def stop(self) -> None:
        """Take no more calls, and end when those under way have; for signal handlers, too."""
        self._stopping = True
        with suppress(OSError):
            self._bell.send(b"!")

    def run(self) -> None:
        for sock in (self._listener, self._alarm, self._bell):
            sock.setblocking(False)
        self._selector.register(self._listener, EVENT_READ)
        self._selector.register(self._alarm, EVENT_READ)
        while not self._stopping:
            for key, _ in self._selector.select(self._patience()):
                client = self._reading.get(key.fd)
                if key.fileobj is self._listener:
                    self._accept()
                # one that was dropped for another's sake may have left him its number
                elif client is not None and client is key.data:
                    self._read(client)
            self._drop_slow()
            if self._is_idle():
                break
        self._finish()

    def _patience(self) -> float | None:
        """How long there is nothing to do, if nobody comes."""
        if self._reading:
            oldest = next(iter(self._reading.values()))
            return max(0.0, oldest.since + _FRAME_S - time.monotonic())
        if self._idle_s is None:
            return None
        return max(0.05, self._last + self._idle_s - time.monotonic())

    def _is_idle(self) -> bool:
        if self._idle_s is None or self._reading:
            return False
        with self._changed:
            busy = self._waiting or self._under_way
            if busy or time.monotonic() < self._last + self._idle_s:
                return False
        if self._busy():
            self._last = time.monotonic()  # to be asked again in as long a time
            return False
        return True

    # -- requests

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # no descriptor left: somebody has to make room
                log(f"accept: {error.strerror}")
                if not self._reading:
                    time.sleep(0.01)
                    return
                self._drop_oldest()
                continue
            sock.setblocking(False)
            client = _Client(sock)
            if len(self._reading) >= _MOST_READING:
                self._drop_oldest()
            self._reading[sock.fileno()] = client
            self._selector.register(sock, EVENT_READ, client)
            self._read(client)

    def _read(self, client: _Client) -> None:
        try:
            while need := wire.missing(client.data):
                # never more than the frame, in which nothing follows
                chunk = client.sock.recv(min(need, 1 << 16))
                if not chunk:
                    return self._drop(client)
                client.data += chunk
                self._held += len(chunk)
        except BlockingIOError:
            while self._held > _MOST_HELD:
                self._drop_oldest()
            return None
        except (OSError, ValueError) as error:
            log(f"{_who(client.peer)}: {error}")
            return self._drop(client)
        self._forget(client)
        return self._hand_over(client)

    def _drop_slow(self) -> None:
        until = time.monotonic() - _FRAME_S
        while self._reading and next(iter(self._reading.values())).since <= until:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._reading.values())))

    def _drop(self, client: _Client) -> None:
        self._forget(client)
        client.sock.close()

    def _forget(self, client: _Client) -> None:
        self._selector.unregister(client.sock)
        del self._reading[client.sock.fileno()]
        self._held -= len(client.data)

    def _hand_over(self, client: _Client) -> None:
        with self._changed:
            self._last = time.monotonic()
            if len(self._waiting) >= _MOST_WAITING:
                client.sock.close()
                return
            self._waiting.append(client)
            self._staff()
            self._changed.notify()

    # -- calls

    def _staff(self) -> None:
        """See to it that somebody takes what waits; with the lock held."""
        free = self._workers - len(self._under_way)
        if len(self._waiting) > free and self._workers < _WORKERS and not self._stopping:
            self._workers += 1
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        client = self._next()
        try:
            if client is not None:
                with self._make() as serve:
                    while client is not None and self._attend(client, serve):
                        client = self._next(client)
        except Exception as error:
            log(f"a worker ends: {type(error).__name__}: {error}")
        finally:
            with self._changed:
                self._end(client)
                self._workers -= 1
                self._staff()

    def _next(self, done: _Client | None = None) -> _Client | None:
        """Be done with one, and wait for another; None: there will be none."""
        with self._changed:
            self._end(done)
            while not self._waiting and not self._stopping:
                self._changed.wait()
            if self._stopping:
                return None
            client = self._waiting.popleft()
            self._under_way.add(client)
            return client

    def _end(self, client: _Client | None) -> None:
        if client is not None:
            client.sock.close()
            self._last = time.monotonic()
            self._under_way.discard(client)
            self._changed.notify_all()

    def _attend(self, client: _Client, serve: Serve) -> bool:
        """Serve a call; whether the worker is as good as new."""
        began = time.monotonic()
        try:
            asked = wire.parse_request(wire.body(client.data))
        except ValueError as error:
            log(f"{_who(client.peer)}: {error}")
            return True
        kind, stdin = os.fsdecode(asked[0]), asked[2]
        environ = {os.fsdecode(key): os.fsdecode(value) for key, value in asked[1].items()}
        verb = environ.get("CNI_COMMAND", "")
        code, frame, end = 0, wire.NOT_MINE, "not mine"
        if client.has_gone():
            end = "gone before its turn"
        elif self._is_mine(client.peer, environ):
            code, text = serve(kind, environ, stdin)
            frame, end = wire.answer(code, text), f"exit code {code}"
            if verb == "ADD" and code == 0 and client.has_gone():
                # a runtime that killed the plugin may have called DEL, before there was anything
                code, _ = serve(kind, {**environ, "CNI_COMMAND": "DEL"}, stdin)
                end += ", undone, for nobody was left to be told"
        try:
            client.sock.settimeout(_FRAME_S)
            client.sock.sendall(frame)
        except OSError as error:
            end += f", not told: {error.strerror or error}"
        owner = f"{environ.get('CNI_CONTAINERID', '')}/{environ.get('CNI_IFNAME', '')}"
        took_ms = (time.monotonic() - began) * 1000
        log(f"{_who(client.peer)}: {kind} {verb} {owner}: {end} in {took_ms:.1f} ms")
        return not code

    def _is_mine(self, peer: Peer, environ: Mapping[str, str]) -> bool:
        """Whether the caller would do the same: same host, same files, same state, same program."""
        if self._code != _code():
            log("netkit has been replaced: this is the old one's end")
            self.stop()
            return False
        # /proc/self would be us; a relative path is the caller's to resolve
        at = environ.get("CNI_NETNS", "")
        if at and (not at.startswith("/") or at.startswith(("/proc/self/", "/proc/thread-self/"))):
            return False
        try:
            # a caller that has died meanwhile is nobody's
            return (
                _settings(environ) == _settings(os.environ)
                and _identity(peer.pid) == self._identity
            )
        except OSError:
            return False

    def _finish(self) -> None:
        """Let what is under way end, within bounds; who waits will do it himself."""
        self._stopping = True
        for sock in (self._listener, self._selector, self._alarm, self._bell):
            sock.close()
        deadline = time.monotonic() + _STOP_S
        with self._changed:
            for client in (*self._reading.values(), *self._waiting):
                client.sock.close()
            self._waiting.clear()
            self._changed.notify_all()
            while self._under_way and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)


@contextmanager
def plugins() -> Iterator[Serve]:
    """One worker's: its engine stays for as long as the configuration and the state do."""
    from cni import delegate, plugin

    engine: Engine | None = None
    known: object = None

    def serve(kind: str, environ: Mapping[str, str], stdin: bytes) -> tuple[int, bytes]:
        nonlocal engine, known
        if engine is not None and _files(engine) != known:
            engine.close()
            engine = None
        if engine is None:
            with suppress(NetkitError):  # the plugin meets it, too, and can say so
                engine = Engine()
                engine.changes.call = delegate.release
            known = None
        done = plugin.handle(kind, environ, stdin, engine)
        if engine is not None and known is None:
            known = _files(engine)
        return done

    try:
        yield serve
    finally:
        if engine is not None:
            engine.close()


def _files(engine: Engine) -> object:
    """What tells whether somebody edited the configuration, or put another state in place."""
    found: list[object] = []
    with suppress(OSError):
        at = os.stat(os.environ.get(config.VARIABLE) or config.PATH)
        found.append((at.st_dev, at.st_ino, at.st_mtime_ns))
    with suppress(OSError):
        at = os.stat(f"{engine.store.state_dir}/state.db")
        found.append((at.st_dev, at.st_ino))
    return found


def _settings(environ: Mapping[str, str]) -> dict[str, str]:
    names = {name for name in environ if name.startswith("NETKIT_")} - _INDIFFERENT
    return {name: environ[name] for name in names if environ[name]}


def _identity(pid: int | str = "self") -> tuple[tuple[int, int], ...]:
    """The network and the mount namespace of a process."""
    found = (os.stat(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt"))
    return tuple((each.st_dev, each.st_ino) for each in found)


def _code() -> object:
    """What changes when netkit is installed anew."""
    try:
        found = os.stat(__file__)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _who(peer: Peer) -> str:
    return f"pid {peer.pid} uid {peer.uid}"


def log(text: str) -> None:
    """One line, whatever is in it; a file does not grow without bounds."""
    with suppress(OSError):
        os.write(2, f"netkitd: {printable(text)}\n".encode(errors="backslashreplace"))
        found = os.fstat(2)
        if stat.S_ISREG(found.st_mode) and found.st_size > _LOG_BYTES:
            os.ftruncate(2, 0)


# -- the program


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `netkitd`: in the foreground, until SIGTERM or SIGINT."""
    import argparse

    parser = argparse.ArgumentParser("netkitd", description="Serve netkit's CNI plugins.")
    parser.add_argument(
        "--idle-timeout",
        type=float,
        metavar="SECONDS",
        help="end when there was no call for so long [never]",
    )
    given = parser.parse_args(arguments)
    try:
        _run(given.idle_timeout, "foreground")
    except NetkitError as error:
        print(f"netkitd: {error}", error.hint or "", sep="\nhint: ", file=sys.stderr)
        sys.exit(1)


def background(lock: int) -> NoReturn:
    """What cni.shim starts: the descriptor *lock* is the lock, and all it leaves us."""
    os.closerange(_FIRST_FD, lock)
    os.closerange(lock + 1, 0x7FFFFFFF)
    os.set_inheritable(lock, False)
    os.chdir("/")
    os.umask(0o077)
    with suppress(OSError), open("/proc/self/comm", "w") as name:
        name.write("netkitd")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with suppress(OSError):
        file = os.open(f"{_run_dir()}/netkitd.log", flags, 0o600)
        os.dup2(file, 2)
        os.close(file)
    try:
        _run(IDLE_S, "background", lock)
    except BaseException as error:
        log(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


def _run(idle_s: float | None, kind: str, lock: int | None = None) -> None:
    calls, questions = _passed()
    private_directory(_run_dir())
    lock = _only_one(lock)
    path = f"{_run_dir()}/{wire.SOCKET}"
    listener = calls or _listen(path)
    keeper = _names(questions or nameservice.listen(_run_dir()))
    _warm_up()
    follower = following.Follower(log)
    follower.start()
    watch.Watch(log, burier).start()
    server = Server(
        listener, plugins, idle_s=idle_s, busy=lambda: keeper.busy or follower.is_needed()
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    os.ftruncate(lock, 0)
    os.pwrite(lock, "{} {} {}\n".format(*process.me(), kind).encode(), 0)
    _notify(b"READY=1")
    log(f"serves calls at {path}")
    if kind == "background" and not starting.is_host():
        threading.Thread(target=_end_with_the_last, args=(server,), daemon=True).start()
    server.run()
    _notify(b"STOPPING=1")
    for given, at in ((calls, path), (questions, f"{_run_dir()}/{nameservice.SOCKET}")):
        if given is None:
            with suppress(FileNotFoundError):
                os.unlink(at)
    os.ftruncate(lock, 0)
    sys.stderr.flush()
    os._exit(0)  # a worker that is late is not waited for: it is as if killed


def _run_dir() -> str:
    """As the shim, which reads no configuration, looks for it."""
    return os.environ.get("NETKIT_RUN_DIR") or RUN_DIR


def _only_one(lock: int | None) -> int:
    """The descriptor that holds the lock. One in the background makes way for one that is meant."""
    if lock is not None:
        return lock
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(f"{_run_dir()}/netkitd.lock", flags, 0o600)
    deadline = time.monotonic() + _STOP_S + 1
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            pid, started, kind, *_ = [*os.pread(lock, 64, 0).decode().split(), "", "", ""]
            if kind == "foreground" or time.monotonic() > deadline:
                raise Conflict(
                    f"netkitd runs already: process {pid or '?'} holds {_run_dir()}/netkitd.lock",
                    hint="one is enough; or give this one a NETKIT_RUN_DIR of its own",
                ) from None
            if kind == "background":
                left = deadline - time.monotonic()
                process.kill(int(pid), int(started), signal.SIGTERM, left)
            time.sleep(0.02)


def _names(listener: socket.socket) -> nameservice.Keeper:
    """Who has names served, in a thread of his own."""
    state_dir, _ = config.directories(config.load().config)
    keeper = nameservice.Keeper(listener, state_dir, log, _learner())
    threading.Thread(target=keeper.run, name="names", daemon=True).start()
    return keeper


def _learner() -> nameservice.Learnt:
    """Lets packets through to what a container is about to be told; with an engine of its own."""
    from netkit import permissions

    engine: Engine | None = None
    known: object = None

    def learnt(sandbox: str, name: str, found: Sequence[tuple[Address, int]]) -> None:
        nonlocal engine, known
        if engine is not None and _files(engine) != known:
            engine.close()
            engine = None
        if engine is None:
            engine = Engine()
            known = _files(engine)
        permissions.learnt(engine, sandbox, name, found)

    return learnt


def burier() -> Engine:
    """An engine for who undoes what CNI plugins made, too."""
    from cni import delegate

    engine = Engine()
    engine.changes.call = delegate.release
    return engine


def _is_alone() -> bool:
    """Whether nobody but us is left in this network, nor in that of anything connected to it."""
    engine = Engine()
    try:
        places = {ep.netns for ep in engine.endpoints() if ep.netns and os.path.exists(ep.netns)}
    finally:
        engine.close()
    ours = os.getsid(0)
    for each in process.residents("/proc/self/ns/net", *places):
        with suppress(ProcessLookupError):
            if os.getsid(each.pid) != ours:
                return False
    return True


def _end_with_the_last(server: Server) -> None:
    """A network that is not the host's is nobody's once all others have left."""
    while True:
        time.sleep(_LOOK_AROUND_S)
        with suppress(NetkitError, OSError):
            if _is_alone():
                log("everybody has left this network")
                server.stop()


def _passed() -> tuple[socket.socket | None, socket.socket | None]:
    """The sockets systemd listens at for us: for calls, and for names."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None, None
    number = os.environ.get("LISTEN_FDS", "")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    found: dict[int, socket.socket] = {}
    for fd in range(_FIRST_FD, _FIRST_FD + int(number)):
        sock = socket.socket(fileno=fd)
        listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if sock.family != socket.AF_UNIX or not listens or sock.type in found:
            raise KernelRefused(
                f"systemd passed {number} sockets, not one for calls and one for names",
                hint="netkitd.socket as it is shipped has one ListenStream= and one "
                "ListenSequentialPacket=",
            )
        sock.set_inheritable(False)
        found[sock.type] = sock
    return found.get(socket.SOCK_STREAM), found.get(socket.SOCK_SEQPACKET)


def _listen(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(ConnectionRefusedError, FileNotFoundError):
            sock.connect(path)
            raise Conflict(
                f"somebody else listens at {path}",
                hint="systemd does, if netkitd.socket is enabled: systemctl start netkitd.service",
            )
        new = f"{path}.new"  # under its name it is ready, and takes the place of a dead one's
        with suppress(FileNotFoundError):
            os.unlink(new)
        before = os.umask(0o177)
        try:
            sock.bind(new)
        finally:
            os.umask(before)
        sock.listen(1024)
        _let_in(os.path.dirname(path), 0o750)
        _let_in(new, 0o660)
        os.rename(new, path)
    except OSError as error:
        raise KernelRefused(f"cannot listen at {path}: {error.strerror or error}") from error
    return sock


def _let_in(path: str, mode: int) -> None:
    import grp

    with suppress(KeyError, OSError):  # without such a group, root's only
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    os.chmod(path, mode)


def _notify(state: bytes) -> None:
    """Tell systemd, if it asks."""
    if where := os.environ.get("NOTIFY_SOCKET"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + where[1:] if where.startswith("@") else where)
            sock.send(state)


def _warm_up() -> None:
    """Import what calls need, so that none of them has to wait for it."""
    import cni
    import ipam
    import netkit.drivers
    import netkit.firewall
    import netkit.kernel
    import netkit.steps
    from netkit.kernel import kinds

    packages = (ipam, netkit, netkit.kernel, netkit.firewall, netkit.drivers, netkit.steps, cni)
    for package in packages:
        for module in iter_modules(package.__path__, f"{package.__name__}."):
            if module.name not in _COLD:
                with suppress(ImportError):  # of what is optional
                    import_module(module.name)
    kinds.info("bridge", {"vlan_filtering": 1})  # and with it pyroute2
    sys.setswitchinterval(_TURN_S)
    naming.digest("")  # and the hash alone
    gc.collect()
    gc.freeze()


# not for calls, or only in processes of their own
_COLD = {"netkit.__main__", "netkit.cli", "cni.install", "cni.shim", "netkit.kernel.lab"}
_COLD |= {"netkit.firewall.iptables_worker"}

if __name__ == "__main__":
    main()
