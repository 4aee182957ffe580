"""Progress: a bar on a terminal while long work goes on, and nothing anywhere else."""

from __future__ import annotations

import os
import pty
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netkit.cli import progress
from netkit.engine import Engine
from netkit.errors import KernelRefused
from scenarios.lab import Host
from tests.faces import netkit, ok, refused


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any work is long."""
    monkeypatch.setattr(progress, "PATIENCE_S", -1.0)


class Terminal:
    """What was written to it, once it is closed."""

    text = ""

    @property
    def plain(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)


@contextmanager
def on_a_terminal(*names: str) -> Iterator[Terminal]:
    """sys.stderr, and whatever *names* say, is a terminal inside."""
    ours, theirs = pty.openpty()
    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(sys, name, os.fdopen(os.dup(theirs), "w"))
        yield terminal
        for name in names:
            getattr(sys, name).close()
    os.close(theirs)
    while True:
        try:
            terminal.text += os.read(ours, 4096).decode()
        except OSError:  # EIO: all that was written has been read
            break
    os.close(ours)


def run(*words: str) -> int:
    from netkit import cli

    return cli._run(list(words))


@pytest.fixture
def net(host: Host) -> None:
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    for number in range(3):
        ok("connect", "--net=net", f"--name=c{number}")


@pytest.mark.usefixtures("net", "impatient")
@pytest.mark.parametrize(
    ("words", "bar"),
    [
        ("network rm -f net", "disconnecting"),
        ("check", "checking"),
        ("gc", "looking for the dead"),
        ("network prune -f", "looking for the dead"),
        ("rm c0 c1 c2", "rm"),
    ],
)
def test_long_work_shows_a_bar_on_a_terminal(
    words: str, bar: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with on_a_terminal("stderr") as terminal:
        assert run(*words.split()) == 0
    assert re.search(rf"{bar}  \[[#-]+\]  \d/\d", terminal.plain)
    assert re.search(rf"{bar}  \[#+\]  (\d)/\1", terminal.plain)
    assert terminal.text.endswith("\x1b[?25h\r\n")  # the cursor is back, on a line of its own
    assert "[#" not in capsys.readouterr().out


@pytest.mark.usefixtures("net", "impatient")
@pytest.mark.parametrize("words", ["check", "gc", "rm c0 c1", "network rm -f net"])
def test_nothing_is_shown_where_there_is_no_terminal(words: str) -> None:
    said = netkit(*words.split())
    assert (said.code, said.err) == (0, "")
    assert "[" not in said.out


@pytest.mark.usefixtures("net")
def test_short_work_shows_nothing() -> None:
    with on_a_terminal("stderr") as terminal:
        assert run("check") == 0
        assert run("network", "rm", "-f", "net") == 0
    assert terminal.text == ""


@pytest.mark.usefixtures("net", "impatient")
def test_names_that_are_printed_on_the_terminal_are_progress_enough() -> None:
    with on_a_terminal("stderr", "stdout") as terminal:
        assert run("rm", "c0", "c1") == 0
    assert terminal.plain.split() == ["c0", "c1"]


@pytest.mark.usefixtures("net", "impatient")
def test_an_error_has_a_line_of_its_own_and_the_work_goes_on() -> None:
    with on_a_terminal("stderr") as terminal:
        assert run("rm", "c0", "nosuch", "c1") == 1
    assert re.search(r"^Error: no such container: nosuch$", terminal.plain.replace("\r", ""), re.M)
    assert ok("ps", "--format={{.Names}}") == "c2\n"
    assert terminal.text.rindex("\x1b[?25h") > terminal.text.rindex("\x1b[?25l")
    assert "[" not in terminal.plain.partition("Error:")[2]  # messages and bars do not mix


@pytest.mark.usefixtures("net", "impatient")
def test_an_error_that_ends_the_work_gives_the_cursor_back(monkeypatch: pytest.MonkeyPatch) -> None:
    undo = Engine.check

    def fail(self: Engine, name: str | None = None) -> object:
        for _ in self.changes.track(range(3), "failing"):
            raise KernelRefused("no more")
        return undo(self, name)

    monkeypatch.setattr(Engine, "check", fail)
    with on_a_terminal("stderr") as terminal:
        assert run("check") == 1
        assert not progress._busy or progress._bar is None
    assert re.search(r"\nError: no more", terminal.plain.replace("\r", ""))
    assert terminal.text.index("\x1b[?25h") < terminal.text.index("Error:")


@pytest.mark.usefixtures("host", "impatient")
def test_a_wait_shows_that_it_goes_on() -> None:
    with on_a_terminal("stderr") as terminal:
        assert run("wait", "--ifname=nosuch0", "--timeout=0.6") == 1
    assert "waiting for nosuch0  [" in terminal.plain
    assert "no interface 'nosuch0'" in terminal.plain
    assert "no interface 'nosuch0'" in refused("wait", "--ifname=nosuch0", "--timeout=0")


# -- track itself


def test_things_come_through_as_they_are_with_a_bar_and_without() -> None:
    for patience in (-1.0, 60.0):
        with pytest.MonkeyPatch.context() as patch, on_a_terminal("stderr") as terminal:
            patch.setattr(progress, "PATIENCE_S", patience)
            assert list(progress.track([3, 1, 2], "x")) == [3, 1, 2]
            assert list(progress.track([], "x")) == []
            assert list(progress.track(iter("ab"), "x")) == ["a", "b"]
        assert ("x  [" in terminal.plain) == (patience < 0)


def test_a_bar_appears_in_the_midst_of_work_and_counts_what_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with on_a_terminal("stderr") as terminal:
        for thing in progress.track(range(4), "work"):
            assert terminal.text == ""
            now += 0.2 + thing / 100
    assert "work  [" in terminal.plain
    assert " 0/4" not in terminal.plain.replace(" 0/4", "", 1)
    assert "3/4" in terminal.plain
    assert "4/4" in terminal.plain


@pytest.mark.usefixtures("impatient")
def test_work_within_work_has_no_bar_of_its_own() -> None:
    with on_a_terminal("stderr") as terminal:
        for _ in progress.track([1, 2], "outer"):
            assert list(progress.track([3, 4], "inner")) == [3, 4]
        assert list(progress.track([5, 6], "later")) == [5, 6]
        assert list(progress.track([7], "single")) == [7]
    assert "outer" in terminal.plain
    assert "inner" not in terminal.plain
    assert "later" in terminal.plain
    assert "single" not in terminal.plain
