"""A contest: players take turns, each in a throw-away host and a process of its own.

    figures = contest({"netkit": partial(netkit, 10), "netavark": netavark}, rounds=25)
    median(figures["netkit"]["connect"])

Shapes   a player is a generator function: what precedes its first `yield` is preparation, each
         later one is a round and yields that round's figures, by name
Bounds   preparation and a round take `PATIENCE_S` at most; the first round only warms up, mostly
Errors   Broken when a player raises or stalls; its traceback is on stderr

Turns are A B A B, so whatever slows the machine for a while slows all players alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from statistics import median, quantiles
from typing import NamedTuple

PATIENCE_S = 90.0
_CONTEXT = get_context("spawn")  # a fork would take over the parent's threads and modules

Figures = dict[str, float]
Player = Callable[[], Iterator[Figures]]
Series = dict[str, list[float]]


class Broken(Exception):
    """A player failed: there is nothing to compare."""


class Target(NamedTuple):
    """One promise: what was found beside its bound. `found` None: could not be measured here."""

    what: str
    found: float | None
    unit: str
    bound: float
    is_floor: bool = False  # the bound is the least that will do, not the most

    @property
    def met(self) -> bool:
        if self.found is None:
            return False
        return self.found >= self.bound if self.is_floor else self.found <= self.bound


def contest(players: Mapping[str, Player], rounds: int, *, warm_up: int = 1) -> dict[str, Series]:
    """Let *players* take turns; the figures of each, by name, one for every round."""
    series: dict[str, Series] = {name: {} for name in players}
    with ExitStack() as stack:
        seats = {name: stack.enter_context(_Seat(name, play)) for name, play in players.items()}
        for number in range(-warm_up, rounds):
            for name, seat in seats.items():
                figures = seat.round()
                if number >= 0:
                    for figure, value in figures.items():
                        series[name].setdefault(figure, []).append(value)
    return series


def show(name: str, series: Series, unit: str) -> None:
    """A player's raw figures: the median of each, and the middle half of its rounds."""
    print(f"  {name}")
    for figure, values in series.items():
        spread = ""
        if len(values) > 1:
            low, _, high = quantiles(values, n=4)
            spread = f"(middle half {_number(low)} to {_number(high)})"
        print(f"    {figure:32} {_number(median(values)):>9} {unit:4} {spread}".rstrip())


def table(targets: list[Target]) -> str:
    """Every target with what was found, and whether that will do."""
    lines = []
    for target in targets:
        what, found, unit, bound, is_floor = target
        if found is None:
            lines.append(f"{what:56} {'-':>12}   not measured")
            continue
        wanted = f"at {'least' if is_floor else 'most'} {_number(bound)}{unit}"
        verdict = "PASS" if target.met else "below target"
        lines.append(f"{what:56} {_number(found) + unit:>12}   {wanted:20} {verdict}")
    return "\n".join(lines)


def _number(value: float) -> str:
    if value == int(value) or value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.2f}"


class _Seat:
    """A player's process, from its preparation on."""

    def __init__(self, name: str, play: Player) -> None:
        self._name = name
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_sit, args=(theirs, play), name=name)
        self._process.start()
        theirs.close()

    def __enter__(self) -> _Seat:
        try:
            self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.kill()

    def round(self) -> Figures:
        self._pipe.send(None)
        return self._answer()

    def _answer(self) -> Figures:
        try:
            if not self._pipe.poll(PATIENCE_S):
                raise Broken(f"{self._name}: no answer in {PATIENCE_S:.0f} s")
            figures: Figures = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise Broken(f"{self._name}: failed, see above") from None
        return figures


def _sit(pipe: Connection, play: Player) -> None:
    from netkit.kernel import lab

    lab.enter()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    rounds = play()
    try:
        while True:
            pipe.send(next(rounds))
            pipe.recv()
    except (EOFError, ConnectionError):
        rounds.close()  # type: ignore[attr-defined]  # a generator, so that its hosts are undone
