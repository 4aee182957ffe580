"""The program as a process: signals, terminals, pipes, privileges; and never a traceback."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from netkit.engine import STATE_DIR, Engine
from netkit.firewall import libnftables
from netkit.kernel import mounts, privilege
from scenarios.lab import Host, run, snapshot, until
from tests.faces import netkit, ok, refused

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from netkit.cli import main; main()"]
BOUND_S = 20
# root as in a container that grants it nothing
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]


@pytest.fixture(autouse=True)
def net(host: Host) -> Iterator[None]:
    ok("network", "create", "--subnet=10.1.0.0/24", "net")
    yield
    for name in ok("ps", "-aq").split():
        ok("rm", "-f", name)


def start(*words: str, before: list[str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """`netkit WORDS` as a process of its own, with pipes."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(
        [*(before or []), *PROGRAM, *words],
        **{**pipes, "text": True, "env": {**os.environ, "PYTHONPATH": path}, **options},
    )


def finish(program: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, err = program.communicate(timeout=BOUND_S)
    except subprocess.TimeoutExpired:
        program.kill()
        raise
    assert "Traceback" not in (err or "")
    return program.returncode, out or "", err or ""


def shell(script: str) -> tuple[int, str, str]:
    """A shell script in which `netkit` is the program."""
    function = f'netkit() {{ "{sys.executable}" -c "from netkit.cli import main; main()" "$@"; }}\n'
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        ["bash", "-c", function + script],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def running(name: str) -> bool:
    return netkit("inspect", "-f", "{{.State.Running}}", name).out == "true\n"


# -- signals


@pytest.mark.parametrize(
    ("signum", "code"), [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131), ("USR1", 138)]
)
def test_a_signal_is_passed_on_and_the_exit_code_is_the_commands(signum: str, code: int) -> None:
    before = snapshot()
    program = start("run", "--rm", "--net=net", "--name=c1", "sleep", "60")
    assert until(lambda: running("c1"))
    program.send_signal(signal.Signals[f"SIG{signum}"])
    assert finish(program)[0] == code
    assert ok("ps", "-aq") == ""
    assert snapshot() == before


def test_a_command_that_handles_its_signal_ends_as_it_likes() -> None:
    script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    program = start("run", "--rm", "--net=net", "sh", "-c", script)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.terminate()
    assert finish(program) == (5, "asked\n", "")


def test_a_killed_netkit_takes_its_command_along_and_its_name_is_free_again() -> None:
    before = snapshot()
    program = start("run", "--rm", "--net=net", "--name=c1", "sleep", "60")
    assert until(lambda: running("c1"))
    pid = int(ok("inspect", "-f", "{{.State.Pid}}", "c1"))
    program.kill()
    finish(program)
    assert until(lambda: not os.path.exists(f"/proc/{pid}"))
    assert ok("run", "--rm", "--net=net", "--name=c1", "echo", "again") == "again\n"
    assert snapshot() == before


def test_ctrl_c_in_a_command_that_waits_is_130_and_silence() -> None:
    ok("run", "-d", "--net=net", "--name=c1", "sh", "-c", "echo ready; sleep 60")
    program = start("logs", "-f", "c1")
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGINT)
    code, _, err = finish(program)
    assert (code, err.strip()) == (130, "")


def test_an_interrupt_anywhere_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Engine) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "networks", interrupt)
    said = netkit("network", "ls")
    assert (said.code, said.out, said.err.strip()) == (130, "", "")


# -- terminals and standard streams


def on_a_terminal(*words: str) -> tuple[subprocess.Popen[str], int]:
    """`netkit WORDS` with a terminal of its own as every stream; the terminal's other side."""
    ours, theirs = pty.openpty()

    def take_it() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    program = start(*words, **streams, preexec_fn=take_it)
    os.close(theirs)
    return program, ours


def read_until(terminal: int, text: str) -> str:
    """What comes from the terminal until *text* does, or the end of it."""
    found, end = "", time.monotonic() + BOUND_S
    while text not in found and (left := end - time.monotonic()) > 0:
        if not select.select([terminal], [], [], left)[0]:
            break
        try:
            found += os.read(terminal, 4096).decode()
        except OSError:  # EIO: nobody has the other side open any more
            break
    assert text in found, found
    return found


def test_an_interactive_shell_has_the_terminal() -> None:
    program, terminal = on_a_terminal("run", "--rm", "-it", "--net=net", "sh")
    os.write(terminal, b"test -t 0 && echo is$((40+2)) a $(tty | cut -c1-5)\n")
    assert "is42 a /dev/" in read_until(terminal, "is42 a")
    shell = os.tcgetpgrp(terminal)
    os.write(terminal, b"sleep 60\n")
    assert until(lambda: os.tcgetpgrp(terminal) != shell)  # sleep is in the foreground
    os.write(terminal, b"\x03")  # ^C is for sleep: neither the shell nor netkit dies of it
    os.write(terminal, b"echo still $((40+3)) here\n")
    read_until(terminal, "still 43 here")
    os.write(terminal, b"exit 3\n")
    assert program.wait(BOUND_S) == 3
    os.close(terminal)


def test_exec_has_the_terminal_too() -> None:
    ok("run", "-d", "--net=net", "--name=c1", "-h", "web1", "sleep", "60")
    program, terminal = on_a_terminal("exec", "-it", "c1", "sh", "-c", "hostname; tty; exit 4")
    said = read_until(terminal, "/dev/")
    assert "web1" in said
    assert program.wait(BOUND_S) == 4
    os.close(terminal)


@pytest.mark.parametrize(("verb", "code"), [("run --net=net", 125), ("exec c1", 1)])
def test_a_terminal_that_is_not_there_is_refused(verb: str, code: int) -> None:
    ok("run", "-d", "--net=net", "--name=c1", "sleep", "60")
    before, words = snapshot(), verb.split()
    words.insert(1, "-it")
    code_, out, err = finish(start(*words, "sh"))
    assert (code_, out) == (code, "")
    assert "the input device is not a TTY" in err
    assert snapshot() == before


def test_input_is_passed_on_only_if_asked_for() -> None:
    for option, expected in (("-i", "hello\n"), ("--rm", "")):
        program = start("run", "--rm", option, "--net=net", "cat")
        out, _ = program.communicate("hello\n", timeout=BOUND_S)
        assert (program.returncode, out) == (0, expected)


@pytest.mark.parametrize(
    "words", ["network ls", "network inspect host", "--help", "run --dry-run --net=net true"]
)
def test_a_reader_that_has_had_enough_ends_it_in_silence(words: str) -> None:
    read, write = os.pipe()
    os.close(read)
    program = start(*words.split(), stdout=write)
    os.close(write)
    code, _, err = finish(program)
    assert (code, err) == (141, "")


def test_head_reads_the_first_line() -> None:
    code, out, err = shell("netkit network ls | head -1")
    assert (code, err) == (0, "")
    assert out == "NETWORK ID     NAME   DRIVER   SCOPE\n"


@pytest.mark.parametrize("words", ["network ls", "inspect c1", "logs c1", "rm c1", "--help"])
def test_closed_streams_are_no_traceback_and_no_file_of_ours_takes_their_place(words: str) -> None:
    ok("run", "--net=net", "--name=c1", "echo", "hello")
    state = Path(os.environ["NETKIT_STATE_DIR"])
    assert shell(f"netkit {words} >&-")[0::2] == (0, "")
    assert (state / "state.db.lock").read_bytes() == b""
    assert netkit("network", "ls").code == 0


def test_a_command_run_with_closed_streams_writes_nowhere() -> None:
    script = "echo hello; echo hello >&2"
    code, _, err = shell(f"netkit run --rm --net=net sh -c '{script}' <&- >&- 2>&-")
    assert (code, err) == (0, "")
    state = Path(os.environ["NETKIT_STATE_DIR"])
    assert all(b"hello" not in file.read_bytes() for file in state.iterdir())
    assert ok("network", "ls")


@pytest.mark.parametrize("words", ["network ls", "network inspect host", "--help"])
def test_a_full_disk_behind_standard_output_is_one_sentence(words: str) -> None:
    code, _, err = shell(f"netkit {words} >/dev/full")
    assert code == 1
    assert err == "Error: [Errno 28] No space left on device\n"


def test_a_locale_without_an_ellipsis_is_no_traceback() -> None:
    ok("run", "-d", "--net=net", "sh", "-c", "sleep 60", "é", "a long command line")
    code, out, _ = shell("PYTHONIOENCODING=latin-1 netkit ps | iconv -f latin1; LC_ALL=C netkit ps")
    assert code == 0
    assert r"é a \u2026" in out
    assert "é a …" in out


# -- who may, and what is missing


@pytest.mark.parametrize(
    "words", ["ps", "network ls", "network create n", "connect", "run true", "gc", "rm x"]
)
def test_without_privileges_there_is_one_sentence_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(privilege, "held", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = refused(*words.split(), code=125 if words.startswith("run") else 1)
    assert said.splitlines() == [
        "Error: netkit needs to be root to change networks (uid 1000 has no CAP_NET_ADMIN)",
        "Hint:  run it as root, or try it without: netkit unshare",
    ]


def test_without_user_namespaces_the_hint_names_no_way_that_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(privilege, "held", lambda: False)
    monkeypatch.setattr(privilege, "user_namespaces", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = refused("ps")
    assert "unshare" not in said
    assert said.splitlines()[1] == (
        "Hint:  run it as root: user namespaces, the other way, are switched off on this machine"
    )


def test_help_needs_no_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "held", lambda: False)
    assert ok("--help")
    assert ok("run", "--help")
    assert "invalid network name" in refused("network", "create", "a b")


def test_root_without_capabilities_is_told_so() -> None:
    code, out, err = finish(start("network", "ls", before=POWERLESS))
    assert (code, out) == (1, "")
    assert "uid 0 has no CAP_NET_ADMIN" in err
    assert "withholds CAP_NET_ADMIN and CAP_SYS_ADMIN from root" in err
    code, out, err = finish(start("unshare", "--", "true", before=POWERLESS))
    assert (code, out) == (1, "")
    assert err.startswith("Error: cannot make a sandbox: Operation not permitted\nHint:  ")


def test_unshare_where_user_namespaces_are_off_says_how_to_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(flags: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(mounts, "unshare", forbidden)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    said = refused("unshare", "true")
    assert said.startswith("Error: cannot make a sandbox: Operation not permitted\n")
    assert "kernel.unprivileged_userns_clone" in said


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("sh -c 'exit 7'", 7, ""),
        ("nosuch-command", 127, "cannot run nosuch-command: command not found"),
        ("/etc/passwd", 126, "cannot run /etc/passwd: Permission denied"),
    ],
)
def test_unshare_ends_as_its_command_does(command: str, code: int, said: str) -> None:
    found, _, err = shell(f"netkit unshare -- {command}")
    assert found == code
    assert said in err


def test_unshare_is_a_host_of_its_own() -> None:
    before = snapshot()
    code, out, err = shell("netkit unshare -- sh -c 'ip -o link; ls /run/netns; touch /etc/x'")
    assert (code, err) == (0, "")
    assert out.startswith("1: lo: <LOOPBACK,UP")
    assert out.count("\n") == 1
    assert snapshot() == before
    assert not os.path.exists("/etc/x")


def test_nft_missing_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    ok("network", "rm", "net")
    before = snapshot()
    libnftables.forget()
    which = shutil.which
    monkeypatch.setattr(libnftables, "_library", lambda: None)
    monkeypatch.setattr(
        shutil, "which", lambda name, **options: None if name == "nft" else which(name, **options)
    )
    said = refused("network", "create", "--subnet=10.1.0.0/24", "net")
    assert "neither libnftables nor the nft program is installed" in said
    assert "Hint:  apt-get install libnftables1" in said
    assert ok("network", "ls", "--filter=type=custom", "-q") == ""
    assert ok("--firewall=none", "network", "create", "--subnet=10.1.0.0/24", "net")
    ok("--firewall=none", "network", "rm", "net")
    libnftables.forget()
    monkeypatch.undo()
    assert snapshot() == before


# -- a state directory one cannot use


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path.write_text(""), "Not a directory"),
        (lambda path: path.mkdir(mode=0o777) or path.chmod(0o777), "others may write to it"),
        (lambda path: path.symlink_to("/tmp"), "not a directory of netkit's own"),
        (lambda path: _with_database(path, b"no database at all" * 100), "not a database"),
        (lambda path: _with_database(path, os.urandom(4096)), "not a database"),
    ],
    ids=["a file", "anybody's", "a link", "no database", "noise"],
)
def test_a_state_directory_that_cannot_be_used_is_one_sentence(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    directory = tmp_path / "state"
    make(directory)
    for words in (["network", "create", "n"], ["network", "ls"], ["run", "true"]):
        said = netkit(f"--state-dir={directory}", *words)
        if words[1] == "ls" and said.code == 0:
            continue  # there is nothing to be read, and reading changes nothing
        assert (said.code, said.out) == (125 if words[0] == "run" else 1, "")
        assert why in said.err
        assert str(directory) in said.err
        assert len(said.err.splitlines()) <= 2


def _with_database(path: Path, content: bytes) -> None:
    path.mkdir(mode=0o700)
    (path / "state.db").write_bytes(content)


def test_a_state_directory_that_is_not_ours_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """An ordinary user inside a user namespace is root there, but not over root's files."""
    directory = tmp_path / "state"
    ok(f"--state-dir={directory}", "--run-dir", str(tmp_path / "run"), "network", "ls")
    directory.mkdir(mode=0o700)
    directory.chmod(0)
    powerless = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    code, out, err = finish(start(f"--state-dir={directory}", "network", "ls", before=powerless))
    directory.chmod(0o700)
    assert (code, out) == (1, "")
    assert f"cannot use the state directory '{directory}': Permission denied" in err
    assert "NETKIT_STATE_DIR" in err


def test_the_sandbox_itself_is_where_these_tests_run() -> None:
    """Were conftest to forget it, the tests would be done to the machine."""
    assert STATE_DIR not in os.environ["NETKIT_STATE_DIR"]
    assert run("ip -o link").count("\n") == 2
