"""Events: what the journal holds, told in Docker's words; what has happened, and what will.

    for event in Events(state_dir, run_dir, since=time.time() - 600):
        print(event.type, event.action, event.attributes["name"])

Shapes   an event has a type (container, network, link, attachment, host), an action
         (journal.ACTIONS) and the id of what it happened to. What a container has on a network is
         no type of its own: joining and leaving happen to the network, as Docker has it, all else
         to the container. A filter is a key and its values, of which one must fit; all keys must
Units    seconds since 1970; the journal remembers the latest 10 000 entries at least
Errors   InvalidSpec for a filter nobody knows; NetkitError where the state cannot be read
Source   docker events(1), moby daemon/events/filter.go

To follow it needs no daemon, and no polling: the kernel tells (inotify) when somebody writes to the
store's log.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

from netkit import journal
from netkit.errors import InvalidSpec
from netkit.kernel import inotify
from netkit.store import Entry, SqliteStore

TYPES = ("attachment", "container", "host", "link", "network")
FILTERS = ("container", "event", "id", "label", "link", "network", "type")
CHOICES = {"type": TYPES, "event": journal.ACTIONS}
_TYPES = {"sandbox": "container"}  # of a record's kind, where it is called otherwise
_LOOK = inotify.MODIFIED | inotify.CREATED | inotify.ARRIVED | inotify.ITSELF_GONE
_DATABASE = "state.db"


class Event(NamedTuple):
    """Something that happened. `attributes` always hold a `name`."""

    time: float
    type: str
    action: str
    id: str
    attributes: Mapping[str, str]


def told(entry: Entry) -> Event:
    """An entry of the journal as an event."""
    kind, id, attributes = _TYPES.get(entry.kind, entry.kind), entry.id, dict(entry.attributes)
    name = entry.name
    if kind == "endpoint":
        joins = entry.action in ("connect", "disconnect")
        kind = "network" if joins else "container"
        id, name = attributes.pop(f"{kind}_id", id), attributes.pop(kind, name)
    return Event(entry.time, kind, entry.action, id, {"name": name, **attributes})


class Filters:
    """Which events are wanted: `{"type": "network", "event": ["create", "remove"]}`."""

    def __init__(self, wanted: Mapping[str, str | Iterable[str]] | None = None) -> None:
        self._wanted: dict[str, Sequence[str]] = {}
        for key, values in (wanted or {}).items():
            listed = [values] if isinstance(values, str) else list(values)
            if key not in FILTERS:
                raise InvalidSpec(
                    f"invalid filter {key!r:.80}", hint=f"filters are {', '.join(FILTERS)}"
                )
            for value in listed:
                if value not in CHOICES.get(key, (value,)):
                    raise InvalidSpec(
                        f"invalid filter {key}={value!s:.40}: there is no such {key}",
                        hint=f"write {key}= and one of {', '.join(CHOICES[key])}",
                    )
            self._wanted[key] = listed

    def fit(self, event: Event) -> bool:
        return all(self._fits(event, key, values) for key, values in self._wanted.items() if values)

    @staticmethod
    def _fits(event: Event, key: str, values: Sequence[str]) -> bool:
        if key == "type":
            return event.type in values
        if key == "event":
            return event.action in values
        if key == "id":
            return event.id.startswith(tuple(values))
        if key == "label":
            return all(_has_label(event, value) for value in values)
        named, id = event.attributes.get(key), event.attributes.get(f"{key}_id", "")
        if event.type == key:
            named, id = event.attributes["name"], event.id
        return any(value == named or (value and id.startswith(value)) for value in values)


def _has_label(event: Event, text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in event.attributes and (not equals or event.attributes[key] == value)


class Follower:
    """The entries that are written from now on, or *after* one; for one thread.

    Readable (`fileno`) when there may be some, once it has been asked for any. State that is not
    there yet is waited for; if other state takes its place, that is told from its beginning.
    """

    def __init__(self, state_dir: str, run_dir: str, after: int = 0) -> None:
        self._store = SqliteStore(state_dir, run_dir)
        self._path = os.path.join(state_dir, _DATABASE)
        self._after = after
        self._seen: tuple[int, int] | None = None
        self._watched: tuple[str, int] = "", 0
        self._notify = inotify.Inotify()

    def close(self) -> None:
        self._notify.close()
        self._store.close()

    def fileno(self) -> int:
        return self._notify.fileno()

    def entries(self) -> list[Entry]:
        """What was written since it was last asked."""
        self._notify.read()
        self._watch()
        found = identity(self._path)
        if self._seen not in (None, found):
            self._store.close()
            self._after = 0
        self._seen = found
        if found is None:
            return []
        self._store.await_writers()
        entries = self._store.journal(self._after)
        if entries:
            self._after = entries[-1].seq
        return entries

    def _watch(self) -> None:
        """Be told of the state's directory or, until it is there, of the nearest above it."""
        while True:
            place = os.path.dirname(self._path)
            while not os.path.isdir(place):
                place = os.path.dirname(place)
            with suppress(FileNotFoundError):
                number = self._notify.add(place, _LOOK)
                if (place, number) == self._watched:
                    return
                if self._watched[1] and number != self._watched[1]:
                    self._notify.remove(self._watched[1])
                self._watched = place, number


class Events:
    """An iterator over events: those *since* then, and those to come, *until* then.

    Without *since*, those after the journal's entry *after*. It ends at *until*, once nothing came
    for *timeout_s*, or when somebody, perhaps another thread, calls `close`.
    """

    def __init__(
        self,
        state_dir: str,
        run_dir: str,
        *,
        since: float | None = None,
        until: float | None = None,
        filters: Mapping[str, str | Iterable[str]] | None = None,
        timeout_s: float | None = None,
        after: int = 0,
    ) -> None:
        self._place = state_dir, run_dir
        self._since, self._until = since, until
        self._filters = Filters(filters)
        self._timeout_s = timeout_s
        self._after = after if since is None else 0
        self._events = self._all()
        self._thread: int | None = None
        self._guard = threading.Lock()  # of what follows
        self._stopped = False
        self._bell: int | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        self._thread = threading.get_ident()
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._guard:
            self._stopped = True
            if self._bell is not None:
                os.eventfd_write(self._bell, 1)
        if self._thread in (None, threading.get_ident()):
            self._events.close()  # else whoever waits for events does so himself

    def _all(self) -> Generator[Event, None, None]:
        follower = Follower(*self._place, self._after)
        self._bell = bell = os.eventfd(0, os.EFD_CLOEXEC)
        sources = select.poll()
        for fd in (follower.fileno(), bell):
            sources.register(fd, select.POLLIN)
        try:
            quiet_since = time.monotonic()
            while not self._stopped:
                now = time.time()  # what is written after it has been looked at is not missed
                for event in map(told, follower.entries()):
                    if self._stopped:
                        return
                    if self._is_wanted(event):
                        yield event
                        quiet_since = time.monotonic()
                left = [] if self._until is None else [self._until - now]
                if self._timeout_s is not None:
                    left.append(quiet_since + self._timeout_s - time.monotonic())
                if left and min(left) <= 0:
                    return
                sources.poll(1000 * min(left) if left else None)
        finally:
            with self._guard:
                self._bell = None
                os.close(bell)
            follower.close()

    def _is_wanted(self, event: Event) -> bool:
        # to the microsecond, as they are printed
        first, last = (at if at is None else round(at, 6) for at in (self._since, self._until))
        at = round(event.time, 6)
        return (
            (first is None or at >= first)
            and (last is None or at <= last)
            and self._filters.fit(event)
        )


def identity(path: str) -> tuple[int, int] | None:
    """Which file is at *path*; None: there is none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
