"""Names served on a host, without a netkitd, and questions asked in any of its namespaces.

    with served(host) as keeper:
        engine.create_network(NetworkSpec("web", names=True))
        ...
        assert resolve(place, "172.17.0.1", "db") == ["172.17.0.3"]

Shapes   an answer is a message of dnspython; `resolve` has its addresses as text, in their order;
         None stands for a name that is not there, SILENT for no answer, FAILED for nobody to ask
Units    seconds
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dns.exception
import dns.message
import dns.query
import dns.rcode

from netkit import nameservice
from netkit.store import private_directory
from scenarios.lab import PATIENCE_S, Host, at

SILENT, FAILED = ["no answer"], ["SERVFAIL"]


class _Keeper(nameservice.Keeper):
    """Its first look at the state is over once `begun` is set. SQLite has locks of its own: a test
    that forked meanwhile (`run -d`) would have a child that waits for them for ever.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun = threading.Event()

    def turn(self) -> None:
        self.begun.set()
        super().turn()


@contextmanager
def served(host: Host, learnt: nameservice.Learnt | None = None) -> Iterator[nameservice.Keeper]:
    """What netkitd does for names, in a thread of the test."""
    store = host.engine().store
    private_directory(store.run_dir)
    with nameservice.listen(store.run_dir) as listener:
        keeper = _Keeper(listener, store.state_dir, lambda _: None, learnt)
        thread = threading.Thread(target=keeper.run, daemon=True)
        thread.start()
        try:
            assert keeper.begun.wait(PATIENCE_S)
            yield keeper
        finally:
            keeper.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


def question(
    place: str | None,
    server: str,
    name: str,
    kind: str = "A",
    *,
    stream: bool = False,
    source: str | None = None,
    patience_s: float = PATIENCE_S,
) -> Any:
    """The answer; None: there is none."""
    query = dns.message.make_query(name, kind)
    over = dns.query.tcp if stream else dns.query.udp
    try:
        return at(place, lambda: over(query, server, patience_s, source=source))
    except (dns.exception.Timeout, OSError, EOFError):
        return None


def resolve(
    place: str | None,
    server: str,
    name: str,
    kind: str = "A",
    *,
    stream: bool = False,
    source: str | None = None,
    patience_s: float = PATIENCE_S,
) -> list[str] | None:
    """What a name stands for, there; None: there is no such name."""
    answer = question(
        place, server, name, kind, stream=stream, source=source, patience_s=patience_s
    )
    if answer is None:
        return SILENT
    if answer.rcode() == dns.rcode.NXDOMAIN:
        return None
    if answer.rcode() == dns.rcode.SERVFAIL:
        return FAILED
    assert answer.rcode() == dns.rcode.NOERROR, answer
    return [each.to_text() for records in answer.answer for each in records]
