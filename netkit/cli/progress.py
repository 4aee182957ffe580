"""Progress of long work, on a terminal's standard error; elsewhere nobody imports this file.

    for ep in engine.changes.track(endpoints, "disconnecting"): ...

Shapes   `track` is a netkit.changes.Tracker: it passes on what it is given, one by one. Of things
         without a length (a wait that polls) it shows that there is something going on
Units    seconds; work that takes less than `PATIENCE_S` shows nothing
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable, Sized
from io import StringIO
from itertools import chain
from typing import Any, TypeVar

import click

T = TypeVar("T")

PATIENCE_S = 0.5
_busy = False  # some work is tracked
_bar: Any = None  # what is on the terminal


def track(things: Iterable[T], what: str) -> Iterable[T]:
    """*things* as they are, while a bar headed *what* shows how many of them are done."""
    if _busy or (isinstance(things, Sized) and len(things) < 2):
        return things  # work within work: one bar is enough; of one thing there is nothing to show
    return _track(things, what)


def end() -> None:
    """Give up the bar's line, for something else is to be written. No bar, nothing done."""
    global _bar
    if _bar is not None:
        _bar.render_finish()
        _bar.file = StringIO()  # the work may go on
        _bar = None


def _track(things: Iterable[T], what: str) -> Generator[T, None, None]:
    global _busy, _bar
    began, done, left = time.monotonic(), 0, iter(things)
    _busy = True
    try:
        for thing in left:
            if time.monotonic() - began > PATIENCE_S:
                break
            yield thing
            done += 1
        else:
            return
        bar = click.progressbar(
            chain((thing,), left),
            length=len(things) if isinstance(things, Sized) else None,
            label=what,
            show_pos=isinstance(things, Sized),
            file=sys.stderr,
        )
        with bar:
            _bar = bar
            bar.update(done)
            yield from bar
    finally:
        _busy, _bar = False, None
