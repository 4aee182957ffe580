"""A name server: one loop that answers over UDP and TCP, and asks the upstreams.

    server = Server(view, fresh)
    server.add("web", udp, tcp)
    server.run()

Shapes   a listener is a gateway's two sockets, under a key. Who asks is (key, source address), and
         what he may know his View; nobody else is answered at all
Bounds   see the constants. Who exceeds them harms himself first: the limits are an asker's own
         before they are all askers'

What was answered over UDP is remembered by asker and question, byte for byte: a question asked
again costs two look-ups. All is forgotten whenever `fresh` says that something changed, and it is
asked after a question was received and before it is answered: who asks after a change hears of it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from errno import EMFILE, ENFILE
from functools import partial
from itertools import count, cycle
from time import monotonic

from netkit.dns import local, message
from netkit.dns.connection import MOST_QUERY_BYTES, Connection, Malformed
from netkit.dns.local import View
from netkit.dns.loop import Loop
from netkit.dns.message import Address, Code, Query
from netkit.dns.upstream import Upstreams

MOST_CONNECTIONS = 1024
MOST_CONNECTIONS_PER_ASKER = 64  # the one that was silent longest makes room
IDLE_S = 8.0  # of a connection without a whole question

_BATCH = 64  # datagrams or connections, until it is another's turn
_MOST_REMEMBERED_BYTES = 32 << 20
_ENTRY_BYTES = 500  # of Python's, for one that is remembered
_MOST_KEY_BYTES = 512
_MOST_TURNS = 16  # of answers to one question, in which each address comes first
_SWEEP_S = 1.0

Asker = tuple[Hashable, str]
Learn = Callable[[View, str, Sequence[tuple[Address, int]], Callable[[], object]], object]
Reply = Callable[[bytes], object]


class Server:
    """The loop, and all it serves.

    view   what an asker (a listener's key, a source address) may know; None: he gets no answer
    fresh  whether anything changed since it was last called
    learn  tell somebody the addresses an upstream told of a watched name, and then call what it is
           given: the asker is told no sooner. Whoever never calls it leaves the asker unanswered
    """

    def __init__(
        self,
        view: Callable[[Hashable, str], View | None],
        fresh: Callable[[], bool],
        learn: Learn | None = None,
    ) -> None:
        self.loop = Loop()
        self.look, self.ignore, self.later = self.loop.look, self.loop.ignore, self.loop.later
        self.run, self.stop = self.loop.run, self.loop.stop
        self._view = view
        self._fresh = fresh
        self._learn = learn
        self.upstreams = Upstreams(self.loop)
        self._listeners: dict[Hashable, _Listener] = {}
        self._connections: dict[Connection, None] = {}  # silent the longest first
        self._sweeps = False
        self._remembered_bytes = 0
        self._turn = count()

    def add(self, key: Hashable, udp: socket.socket, tcp: socket.socket) -> None:
        """Serve there. Both are bound, the latter listens, and they are the server's from now on;
        in place of those it had by this key."""
        self.remove(key)
        listener = self._listeners[key] = _Listener(key, udp, tcp)
        for sock, call in ((udp, self._hear), (tcp, self._accept)):
            sock.setblocking(False)
            self.loop.look(sock, partial(call, listener))

    def remove(self, key: Hashable) -> None:
        """Close what was added, and the connections made there; of none such: nothing."""
        if listener := self._listeners.pop(key, None):
            for connection in [each for each in self._connections if each.asker[0] == key]:
                self._hang_up(connection)
            for sock in (listener.udp, listener.tcp):
                self.loop.ignore(sock)
                sock.close()

    def close(self) -> None:
        for key in list(self._listeners):
            self.remove(key)
        self.upstreams.close()
        self.loop.close()

    # -- questions

    def _hear(self, listener: _Listener) -> None:
        """Answer the datagrams that are there, or the first of them."""
        sock, received = listener.udp, []
        with suppress(OSError):  # no more of them
            receive = sock.recvfrom
            for _ in range(_BATCH):
                received.append(receive(MOST_QUERY_BYTES))
        self._freshen()
        remembered, send = listener.remembered, sock.sendto
        for data, client in received:
            try:
                reply = remembered[client[0]][data[2:]]()
            except KeyError:
                self._serve((listener.key, client[0]), data, partial(_send, sock, client), listener)
                continue
            try:  # noqa: SIM105  # suppress() costs as much as the rest of the turn
                send(data[:2] + reply, client)
            except OSError:
                pass

    def _freshen(self) -> None:
        if self._fresh():
            self._forget()

    def _forget(self) -> None:
        self._remembered_bytes = 0
        for listener in self._listeners.values():
            listener.remembered.clear()

    def _serve(
        self, asker: Asker, data: bytes, reply: Reply, listener: _Listener | None = None
    ) -> None:
        """Answer one question, now or later; *listener*: it came in a datagram, to that one."""
        view = self._view(*asker)
        if view is None:
            return
        query = message.parse(data)
        if not isinstance(query, Query):
            if query:
                reply(query)
            return
        limit = query.limit if listener else message.MOST_BYTES
        answers = local.answers(
            view, query, limit, first=next(self._turn), most=_MOST_TURNS if listener else 1
        )
        if answers is None:
            self._pass_on(view, asker, query, limit, reply, stream=listener is None)
            return
        if listener:
            self._remember(listener.remembered.setdefault(asker[1], {}), data, answers)
        reply(answers[0])

    def _remember(
        self, remembered: dict[bytes, Callable[[], bytes]], data: bytes, answers: list[bytes]
    ) -> None:
        size = _ENTRY_BYTES + len(data) + sum(map(len, answers))
        if len(data) > _MOST_KEY_BYTES:
            return
        if self._remembered_bytes + size > _MOST_REMEMBERED_BYTES:
            self._forget()
            return
        self._remembered_bytes += size
        turns = cycle([each[2:] for each in answers[1:] + answers[:1]])
        remembered[data[2:]] = turns.__next__

    def _pass_on(
        self, view: View, asker: Asker, query: Query, limit: int, reply: Reply, *, stream: bool
    ) -> None:
        def then(data: bytes | None) -> None:
            if data is None:
                reply(message.failure(query, Code.SERVFAIL))
                return
            answer = message.back(query, data, limit)
            if self._learn and view.is_watched(query.name) and (told := message.told(query, data)):
                self._learn(view, query.name, told, lambda: reply(answer))
            else:
                reply(answer)

        self.upstreams.ask(query, view.upstreams, asker, then, stream=stream)

    # -- connections

    def _accept(self, listener: _Listener) -> None:
        self._freshen()
        for _ in range(_BATCH):
            try:
                sock, (source, *_) = listener.tcp.accept()
            except BlockingIOError:
                return
            except OSError as error:  # it is gone already, or no descriptors are left
                if error.errno in (EMFILE, ENFILE) and self._connections:
                    self._hang_up(next(iter(self._connections)))
                return
            asker = listener.key, source
            if self._view(*asker) is None:
                sock.close()
                continue
            self._make_room(asker)
            connection = Connection(sock, asker)
            self._connections[connection] = None
            self._look(connection)
            if not self._sweeps:
                self._sweeps = True
                self.later(_SWEEP_S, self._sweep)

    def _make_room(self, asker: Asker) -> None:
        """For a connection more."""
        his = [each for each in self._connections if each.asker == asker]
        if len(his) >= MOST_CONNECTIONS_PER_ASKER:
            self._hang_up(his[0])
        elif len(self._connections) >= MOST_CONNECTIONS:
            self._hang_up(next(iter(self._connections)))

    def _sweep(self) -> None:
        """Hang up on those who have been silent too long."""
        for connection in list(self._connections):
            if connection.since + IDLE_S > monotonic():
                break
            self._hang_up(connection)
        self._sweeps = bool(self._connections)
        if self._sweeps:
            self.later(_SWEEP_S, self._sweep)

    def _attend(self, connection: Connection) -> None:
        """Something came, or can be sent; or the asker is gone."""
        try:
            if not connection.awaited:  # so it was reset
                raise ConnectionResetError
            connection.move()
            self._freshen()
            for data in connection.questions():
                if connection not in self._connections:  # the asker left, or the listener is gone
                    return
                self._connections[connection] = self._connections.pop(connection)
                self._serve(connection.asker, data, partial(self._reply, connection))
        except (OSError, Malformed):
            self._hang_up(connection)
        self._look(connection)

    def _reply(self, connection: Connection, answer: bytes) -> None:
        try:
            connection.reply(answer)
        except OSError:
            self._hang_up(connection)
        self._look(connection)

    def _look(self, connection: Connection) -> None:
        """Wait for what there is to wait for."""
        if connection.is_done:
            self._hang_up(connection)
        elif connection in self._connections and connection.awaited != connection.events:
            connection.awaited = connection.events
            self.look(connection.sock, partial(self._attend, connection), connection.awaited)

    def _hang_up(self, connection: Connection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self.ignore(connection.sock)
            connection.sock.close()


class _Listener:
    """Where questions come in, and what was answered to those that came in datagrams."""

    def __init__(self, key: Hashable, udp: socket.socket, tcp: socket.socket) -> None:
        self.key = key
        self.udp = udp
        self.tcp = tcp
        self.remembered: dict[str, dict[bytes, Callable[[], bytes]]] = {}  # by source


def _send(sock: socket.socket, client: tuple[object, ...], answer: bytes) -> None:
    with suppress(OSError):  # no room: he asks again
        sock.sendto(answer, client)
