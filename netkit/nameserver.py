"""The name server: a child of netkitd's that answers containers, and may do nothing else.

    python3 -m netkit.nameserver STATE_DIR LISTENER CHANNEL

Shapes   LISTENER is the descriptor of names.sock, which netkitd passes on; CHANNEL that of a socket
         pair whose other end is netkitd's: when that closes, this process ends
Units    seconds
Errors   KernelRefused for a state that cannot be read; then it ends, and says so on stderr
Source   ip(7) for IP_FREEBIND; trust.md S27, S28, S44

It follows the store by itself: open for reading since before all privileges were given up, asked
for every batch of questions whether anything was committed, and if so, what the journal says of it.
So what `connect` has committed is known to whoever asks afterwards. At names.sock one only makes
sure that it listens at all the gateways there are (`serve`, see netkit.nameservice).
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
import sqlite3
import sys
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from netkit import namefiles
from netkit.addresses import Address
from netkit.dns.server import Server
from netkit.errors import NetkitError, printable
from netkit.kernel import netns
from netkit.kernel.proxy import drop_privileges
from netkit.model import EndpointRecord, HostRecord, NetworkRecord, Record, SandboxRecord
from netkit.names import Names, View
from netkit.nameservice import PORT
from netkit.store import SqliteStore

if TYPE_CHECKING:
    from netkit.dns.local import View as AnyView

IDLE, BUSY = b"idle", b"busy"
_CAP_NET_BIND_SERVICE = 10
_IP_FREEBIND = 15
_BACKLOG = 256
_LOOK_S = 2.0  # at what nobody tells: the last endpoint went, a port has become free
_LEARN_S = 2.0  # for netkitd to let packets through to what somebody is about to be told
_MOST_BYTES = 1 << 16
_MOST_MISTAKES = 1000  # of ours; then it may be the process that is spoilt
_HOST_S = 0.5  # between two looks at the host's resolv.conf
_KINDS: dict[str, type[Any]] = {
    kind.kind: kind for kind in (NetworkRecord, SandboxRecord, EndpointRecord, HostRecord)
}


class Follower:
    """Names as the store has them; *epoch*: of this boot and host, whatever is older is gone."""

    def __init__(self, store: SqliteStore, epoch: str) -> None:
        self._store = store
        self._epoch = epoch
        self._host = _HostServers()
        self._missed = False
        self._version = self._seq = -1
        self._load()

    def fresh(self) -> bool:
        """Catch up; whether anything changed since this was last asked."""
        self.catch_up()
        missed, self._missed = self._missed, False
        return missed

    def catch_up(self) -> None:
        version = self._store.changed()
        if version == self._version:
            return
        self._version = version
        entries = self._store.journal(self._seq)
        if not entries:
            return
        self._missed = True
        if entries[0].seq != self._seq + 1:  # too far behind: older ones are forgotten
            self._load()
            return
        for kind, id in dict.fromkeys((entry.kind, entry.id) for entry in entries):
            if kind in _KINDS:
                self._look_up(kind, id)
        self._seq = entries[-1].seq

    def _look_up(self, kind: str, id: str) -> None:
        record = self._store.by_id(_KINDS[kind], id)
        if record is None or not self._is_there(record):
            self.names.remove(kind, id)
            return
        if isinstance(record, EndpointRecord) and record.sandbox not in self.names.sandboxes:
            # of a container that is yet to start, nothing has been said so far
            self._look_up(SandboxRecord.kind, record.sandbox)
        self.names.put(record)

    def _load(self) -> None:
        self._missed = True
        self._version, self._seq = self._store.changed(), self._store.newest()
        self.names = Names(self._host.servers)
        for kind in _KINDS.values():
            for record in self._store.all(kind):
                if self._is_there(record):
                    self.names.put(record)

    def _is_there(self, record: Record) -> bool:
        """An endpoint is once it is made; whatever else there is says nothing without one."""
        if isinstance(record, EndpointRecord):
            return record.maker is None and record.epoch == self._epoch
        return isinstance(record, NetworkRecord | SandboxRecord | HostRecord)


class _HostServers:
    """Whom the host asks, at most some moments ago."""

    def __init__(self) -> None:
        self._known: Sequence[str] = ()
        self._until = 0.0

    def servers(self) -> Sequence[str]:
        if monotonic() >= self._until:
            self._known = namefiles.nameservers()
            self._until = monotonic() + _HOST_S
        return self._known


class NameServer:
    """All of it: who asks is looked up in *follower*; netkitd is told by *channel*."""

    def __init__(
        self, follower: Follower, listener: socket.socket, channel: socket.socket, state: str
    ) -> None:
        self._follower = follower
        self._listener = listener
        self._channel = channel
        self._state = state
        self._told = b""
        self._failed: dict[Address, int] = {}
        self._open: set[Address] = set()
        self._learning: dict[int, Callable[[], object]] = {}
        self._numbers = count()
        self.server = Server(self._view, follower.fresh, self._learn)
        for sock, call in ((listener, self._accept), (channel, self._hear)):
            sock.setblocking(False)
            self.server.look(sock, call)
        self._look_after()

    def _view(self, key: Hashable, source: str) -> View | None:
        assert not isinstance(key, str)
        return self._follower.names.view(key, ip_address(source))  # type: ignore[arg-type]  # as added

    # -- where it listens

    def _look_after(self) -> None:
        self.sync()
        self.server.later(_LOOK_S, self._look_after)

    def sync(self) -> None:
        """Listen at all gateways there are, and no others."""
        self._follower.catch_up()
        wanted = self._follower.names.gateways()
        for gone in self._open - wanted:
            self.server.remove(gone)
            self._open.discard(gone)
        self._failed = {}
        for address in wanted - self._open:
            try:
                self.server.add(address, *_bound(address))
                self._open.add(address)
            except OSError as error:
                self._failed[address] = error.errno or errno.EIO
        state = BUSY if wanted else IDLE
        if state != self._told:
            self._told = state
            self._tell(state)

    # -- names.sock

    def _accept(self) -> None:
        with suppress(OSError):
            asking, _ = self._listener.accept()
            asking.setblocking(False)
            self.server.look(asking, partial(self._answer, asking))
            self._answer(asking)

    def _answer(self, asking: socket.socket) -> None:
        try:
            request = asking.recv(_MOST_BYTES).decode(errors="replace")
            if request.startswith("serve "):
                if request != f"serve {self._state}":  # another state was put in its place
                    self.server.stop()
                    return
                self.sync()
                lines = [f"{address} {code}" for address, code in self._failed.items()]
                asking.send("\n".join(["ok", *lines]).encode())
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # whoever asked has died
        self.server.ignore(asking)
        asking.close()

    # -- netkitd

    def _tell(self, message: bytes) -> None:
        with suppress(BlockingIOError):  # it does not listen: what is awaited comes to its end
            self._channel.send(message)

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            message = self._channel.recv(_MOST_BYTES)
            if not message:
                self.server.stop()
            elif message == b"?":
                self._tell(b"!")
            elif then := self._learning.pop(int(message), None):
                then()

    def _learn(
        self,
        view: AnyView,
        name: str,
        found: Sequence[tuple[Address, int]],
        then: Callable[[], object],
    ) -> None:
        """Have packets let through to what somebody is about to be told; then he is told."""
        assert isinstance(view, View)
        number = next(self._numbers)
        self._learning[number] = then
        told = [[str(address), ttl] for address, ttl in found]
        self._tell(json.dumps([number, view.endpoint.sandbox, name, told]).encode())
        # told all the same, should netkitd be busy: the packets wait at the firewall then
        self.server.later(_LEARN_S, lambda: self._learning.pop(number, lambda: None)())


def _bound(address: Address) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP at an address that the host may be yet to have."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made.append(sock := socket.socket(family, kind))
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)  # of IPv6, too
            if kind == socket.SOCK_STREAM:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((str(address), PORT))
        made[1].listen(_BACKLOG)
    except OSError:
        for sock in made:
            sock.close()
        raise
    udp, tcp = made
    return udp, tcp


def _serve(server: Server) -> None:
    """Until it is told to stop. A question that it comes to grief with is not answered; only what
    comes of the state ends it, to be started anew.
    """
    for _ in range(_MOST_MISTAKES):
        try:
            server.run()
        except (NetkitError, sqlite3.Error):
            raise
        except Exception as error:
            text = printable(f"{type(error).__name__}: {error}")
            print(f"netkitd: names: {text:.200}", file=sys.stderr, flush=True)
        else:
            return


def _only_read(path: str) -> None:
    """Have what this process has open of a file open for reading only: SQLite opens its log for
    writing, even if it will never write.
    """
    for fd in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                fresh = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                os.dup2(fresh, fd, inheritable=False)
                os.close(fresh)


def main(arguments: Sequence[str]) -> int:
    """Open what there is to open, give up the right to open more, and serve until told to end."""
    state_dir, listener, channel = arguments
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for netkitd
    try:
        with suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write("netkit-names")
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        store = SqliteStore.onlooker(state_dir)
        found = os.stat(f"{state_dir}/state.db")
        epoch = f"{netns.boot()}/{netns.own()}"
        _only_read(f"{state_dir}/state.db-wal")
        "".encode("idna")  # as sockets do with addresses; nobody may be unable to read the codec
        drop_privileges(_CAP_NET_BIND_SERVICE)
        name_server = NameServer(
            Follower(store, epoch),
            socket.socket(fileno=int(listener)),
            socket.socket(fileno=int(channel)),
            f"{found.st_dev}:{found.st_ino}",
        )
        _serve(name_server.server)
    except (NetkitError, OSError, sqlite3.Error) as error:
        print(f"netkitd: names: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


def run(arguments: Sequence[str]) -> NoReturn:
    """The program: nothing is tidied up at its end."""
    status = main(arguments)
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    run(sys.argv[1:])
