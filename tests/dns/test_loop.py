"""The loop, with what changes in the midst of a round."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from netkit.dns.loop import WRITE, Loop


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def one_round_with_two_ready(
    loop: Loop, first: Callable[[socket.socket], object]
) -> list[socket.socket]:
    """Who was called in a round; whoever is first does *first* to the other."""
    called: list[socket.socket] = []
    with ExitStack() as held:
        pairs = [socket.socketpair() for _ in range(2)]
        mine = [ours for ours, _ in pairs]
        for sock in (sock for pair in pairs for sock in pair):
            held.callback(sock.close)

        def call(sock: socket.socket) -> None:
            called.append(sock)
            loop.stop()
            if len(called) == 1:
                first(mine[1 - mine.index(sock)])

        for ours, theirs in pairs:
            theirs.send(b"!")
            loop.look(ours, lambda ours=ours: call(ours))  # type: ignore[misc]
        loop.run()
        for ours in mine:
            loop.ignore(ours)
    return called


def test_both_have_their_turn_in_a_round(loop: Loop) -> None:
    assert len(one_round_with_two_ready(loop, lambda other: None)) == 2


def test_one_that_is_closed_within_the_round_is_not_called(loop: Loop) -> None:
    def close(other: socket.socket) -> None:
        loop.ignore(other)
        other.close()

    assert len(one_round_with_two_ready(loop, close)) == 1


def test_who_inherits_its_number_is_not_called_for_what_came_to_it(loop: Loop) -> None:
    heard: list[str] = []
    quiet, silent = socket.socketpair()

    def close(other: socket.socket) -> None:
        loop.ignore(other)
        os.dup2(quiet.fileno(), other.fileno())
        loop.look(other.fileno(), lambda: heard.append("nothing"))

    with quiet, silent:
        assert len(one_round_with_two_ready(loop, close)) == 1
    assert heard == []


def test_one_of_whom_other_events_are_awaited_is_not_called_for_what_was(loop: Loop) -> None:
    """A connection that waits for nothing but its end would take the call for that."""
    heard: list[str] = []
    called = one_round_with_two_ready(
        loop, lambda other: loop.look(other, lambda: heard.append("nothing"), 0)
    )
    assert (len(called), heard) == (1, [])


def test_what_it_is_to_be_called_for_from_now_on_it_is_called_for_in_the_next_round(
    loop: Loop,
) -> None:
    heard: list[str] = []

    def change(other: socket.socket) -> None:
        def next_round() -> None:
            heard.append("room")
            loop.ignore(other)

        loop.look(other, next_round, WRITE)

    def keep(other: socket.socket) -> None:
        change(other)
        loop._stopped = False  # and so one round more

    one_round_with_two_ready(loop, keep)
    assert heard == ["room"]
