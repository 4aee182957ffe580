"""netkit completion: what real shells offer."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from netkit import cli, config
from netkit.engine import STATE_DIR
from netkit.model import NetworkRecord
from scenarios.lab import Host
from tests.faces import ok, refused

ROOT = Path(__file__).parents[2]
BOUND_S = 20
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(autouse=True)
def names(host: Host) -> None:
    """Networks `my-net` and `other`, namespaces `web` and `lab` on the first."""
    ok("network", "create", "--subnet=10.1.0.0/24", "my-net")
    ok("network", "create", "--subnet=10.2.0.0/24", "other")
    ok("connect", "--net=my-net", "--name=web")
    ok("connect", "--net=my-net", "--name=lab")


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in which `netkit` is a program."""
    path = tmp_path / "netkit"
    code = "from netkit.cli import main; main()"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "HOME": str(tmp_path),
        "TERM": "dumb",
    }


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"no {shell}")


# what is typed, and all that is offered; in bash what stands before the last `=` or `:` is its own
OFFERED = [
    ("netkit n", "network"),
    ("netkit network in", "inspect"),
    ("netkit network create --dr", "--driver --dry-run"),
    ("netkit network create -d br", "bridge"),
    ("netkit network create -o com.docker.network.driver.m", "com.docker.network.driver.mtu="),
    ("netkit network inspect ", "bridge host my-net none other"),
    ("netkit network rm ", "my-net other"),
    ("netkit network rm my-net ", "other"),
    ("netkit network connect my-net w", "web"),
    ("netkit run --net ", "bridge container: host my-net none other"),
    ("netkit run --net my", "my-net"),
    ("netkit run --net=my", "my-net"),
    ("netkit run --net=container:w", "web"),
    ("netkit run --net container:", "lab web"),
    ("netkit exec w", "web"),
    ("netkit exec netn", "netns:"),
    ("netkit rm web ", "lab"),
    ("netkit inspect ", "bridge host lab my-net none other web"),
    ("netkit ps --filter n", "name= network="),
    ("netkit ps --filter network=m", "my-net"),
    ("netkit ps -f status=ex", "exited"),
    ("netkit network ls --filter driver=n", "null"),
    ("netkit stop -s T", "TERM"),
    ("netkit --firewall no", "none"),
    ("netkit completion ", "bash fish zsh"),
    ("netkit run netk", "netkit"),
    ("netkit network nosuch", ""),
    ("netkit network rm 'my", "my-net"),
]


@needs("bash")
def test_bash_is_offered_commands_options_and_names(program: dict[str, str]) -> None:
    script = ["compopt() { :; }", "source <(netkit completion bash)"]
    for line, _ in OFFERED:
        quoted = line.replace("'", r"\'")
        script.append(
            f"COMP_LINE=$'{quoted}'; COMP_POINT=${{#COMP_LINE}}; _netkit_completion netkit; "
            'echo "${COMPREPLY[*]}"'
        )
    said = _run(["bash", "--norc", "-c", "\n".join(script)], program).splitlines()
    assert dict(zip([line for line, _ in OFFERED], map(_sorted, said), strict=True)) == dict(
        OFFERED
    )


def _sorted(words: str) -> str:
    return " ".join(sorted(words.split()))


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=BOUND_S * 3
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@needs("fish")
def test_fish_is_offered_commands_options_and_names(program: dict[str, str]) -> None:
    for line, expected in [
        ("netkit network rm ", ["my-net", "other"]),
        ("netkit run --net=my", ["--net=my-net"]),
        ("netkit run --net container:w", ["container:web"]),
    ]:
        script = f"netkit completion fish | source; complete -C '{line}'"
        assert _run(["fish", "-N", "-c", script], program).split() == expected


TYPED = [
    ("netkit networ\t", "netkit network "),
    ("netkit network inspect my\t", "netkit network inspect my-net "),
    ("netkit run --net=my\t", "netkit run --net=my-net "),
    ("netkit run --net container:w\t", "netkit run --net container:web "),
]


@pytest.mark.parametrize(
    "shell", [pytest.param(each, marks=needs(each)) for each in ("bash", "zsh")]
)
def test_a_tab_on_a_terminal_ends_the_word(
    shell: str, program: dict[str, str], tmp_path: Path
) -> None:
    load = f"source <(netkit completion {shell}); PS1='ready> '\n"
    if shell == "zsh":
        load = f"autoload -Uz compinit; compinit -u -D; {load}"
    (tmp_path / ".zshrc").write_text(load)  # HOME is there
    (tmp_path / "bashrc").write_text(load)
    options = ["--noprofile", "--rcfile", str(tmp_path / "bashrc")] if shell == "bash" else []
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        [shell, *options, "-i"],
        env=program,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        assert "ready> " in _read_until(ours, "ready> ", BOUND_S)
        for keys, expected in TYPED:
            end, found = time.monotonic() + BOUND_S, ""
            while expected not in found and time.monotonic() < end:
                os.write(ours, b"\x15" + keys.encode())  # ^U: from an empty line
                # zsh shows its prompt before it takes a tab for more than a tab: type it again
                found = _read_until(ours, expected, 2)
            assert expected in found, found
    finally:
        running.kill()
        running.wait()
        os.close(ours)


def _read_until(terminal: int, text: str, bound_s: float) -> str:
    """What comes from the terminal until *text* stands in it, less colours and what was erased."""
    found, end = "", time.monotonic() + bound_s
    while text not in found and (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            found += os.read(terminal, 4096).decode()
            found = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\a|\r", "", found)
            found = re.sub(r"[^\x08]\x08", "", found)
    return found


@pytest.mark.parametrize("shell", SHELLS)
def test_a_script_names_the_program_and_the_variable(shell: str) -> None:
    script = ok("completion", shell)
    assert f"_NETKIT_COMPLETE={shell}_complete" in script
    assert "_netkit_completion" in script


def test_another_shell_is_refused() -> None:
    assert "'tcsh' is not one of" in refused("completion", "tcsh", code=2)


# -- in silence


def answered(monkeypatch: pytest.MonkeyPatch, line: str) -> tuple[object, str, str]:
    """Exit code, output and complaints of `netkit` asked by bash."""
    from tests.faces import _caught, _text

    monkeypatch.setenv("_NETKIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_LINE", line)
    with _caught("stdout", 1) as out, _caught("stderr", 2) as err, pytest.raises(SystemExit) as end:
        cli.main([])
    return end.value.code, _text(out).strip(), _text(err)


def test_who_may_not_look_is_offered_no_names_and_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = "netkit network rm m"
    assert answered(monkeypatch, line) == (0, "plain,my-net", "")
    open_ = os.open

    def forbidden(path: str, *rest: int, **named: int) -> int:
        if path.startswith(os.environ["NETKIT_STATE_DIR"]):
            raise PermissionError(13, "Permission denied", path)
        return open_(path, *rest, **named)

    monkeypatch.setattr(os, "open", forbidden)
    assert answered(monkeypatch, line) == (0, "", "")


@pytest.mark.parametrize("how", ["no database at all", "locked", "missing", "of another kind"])
def test_a_store_that_cannot_be_read_offers_nothing(
    monkeypatch: pytest.MonkeyPatch, host: Host, how: str
) -> None:
    state = Path(os.environ["NETKIT_STATE_DIR"])
    engine = host.engine()
    if how == "locked":
        with engine.store.transaction():
            assert answered(monkeypatch, "netkit network rm m") == (0, "", "")
        assert answered(monkeypatch, "netkit network rm m") == (0, "plain,my-net", "")
        return
    if how == "missing":
        shutil.rmtree(state)
    else:
        content = b"no database at all" * 99 if how != "of another kind" else b""
        (state / "state.db").write_bytes(content)
    assert answered(monkeypatch, "netkit network rm m") == (0, "", "")
    assert state.exists() == (how != "missing")


def test_a_look_leaves_no_trace(host: Host) -> None:
    state = Path(os.environ["NETKIT_STATE_DIR"])
    before = {path.name: path.stat().st_mtime_ns for path in state.iterdir()}
    assert [name for name, _ in host.engine().store.peek(NetworkRecord)] == ["my-net", "other"]
    assert {path.name: path.stat().st_mtime_ns for path in state.iterdir()} == before


def test_names_are_looked_for_where_the_engine_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By option, by configuration, by default; and without importing an engine."""
    assert config.UNSET["state-dir"] == STATE_DIR
    state = os.environ["NETKIT_STATE_DIR"]
    monkeypatch.setenv("NETKIT_STATE_DIR", str(tmp_path / "empty"))
    assert answered(monkeypatch, "netkit network rm m")[1] == ""
    assert answered(monkeypatch, f"netkit --state-dir={state} network rm m")[1] == "plain,my-net"
    monkeypatch.delenv("NETKIT_STATE_DIR")
    (tmp_path / "file").write_text(f'state-dir = "{state}"\n')
    line = f"netkit --config {tmp_path}/file network rm m"
    assert answered(monkeypatch, line)[1] == "plain,my-net"


def test_nothing_heavy_is_imported_for_a_name(program: dict[str, str]) -> None:
    script = (
        "import sys; from netkit import cli\ntry: cli.main()\nexcept SystemExit: "
        "print(*{'netkit.engine', 'pyroute2', 'netaddr'} & {*sys.modules})"
    )
    asked = {"_NETKIT_COMPLETE": "bash_complete", "COMP_LINE": "netkit network rm m"}
    assert _run([sys.executable, "-c", script], program | asked) == "plain,my-net\n\n"


def test_a_look_sees_what_another_process_has_open(host: Host) -> None:
    engine = host.engine()
    assert len(engine.networks()) == 4  # it is open from here on
    assert [name for name, _ in host.engine().store.peek(NetworkRecord)] == ["my-net", "other"]


def test_a_file_name_that_a_shell_would_obey_is_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("$(reboot)", "a b", "fine.1"):
        Path("/run/netns", name).touch()
    code, out, _ = answered(monkeypatch, "netkit exec ")
    assert code == 0
    assert "plain,fine.1" in out.splitlines()
    assert "reboot" not in out
    assert "a b" not in out


@pytest.mark.parametrize("asked", ["tcsh_complete", "bash_source", "", "bash_complete"])
def test_a_question_nobody_understands_is_answered_by_silence(
    monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setenv("_NETKIT_COMPLETE", asked)
    monkeypatch.delenv("COMP_LINE", raising=False)
    with pytest.raises(SystemExit) as end:
        cli.main(["network", "rm", "my-net"])
    assert end.value.code == 0
    monkeypatch.delenv("_NETKIT_COMPLETE")
    assert "my-net" in ok("network", "ls")
