"""One execution of a CNI plugin: a configuration in, an answer out, bounded in time and length.

Shapes   a plugin is a plain file name, looked for in a list of directories, the first one wins
Units    seconds, bytes
Errors   PluginRefused where the plugin says no, PluginFailed where it is of no use, both with CNI's
         code (ipam.errors); its user says of whom, and for whom
Source   CNI SPEC.md 1.1.0 (section 2); grammar of names: CVE-2021-20206, where `type: ../../bin/x`
         ran any program
Needs    Linux 5.3 (pidfd_open)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import IO, TYPE_CHECKING

from ipam.errors import PluginFailed, PluginRefused

if TYPE_CHECKING:
    from subprocess import Popen

DIRECTORIES = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
NOT_STARTED, NO_USE, TOO_LATE, UNKNOWN = 5, 6, 11, 999  # codes of CNI's
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", re.ASCII)  # a plugin's, a container's …
IFNAME = re.compile(r"(?!\.{1,2}$)[!-.0-9;-~]{1,15}", re.ASCII)  # no blank, no / and no :

_CHUNK = 1 << 16
_SAID = 300  # characters of a plugin's own words in a message


def execute(
    plugin: str,
    environ: Mapping[str, str],
    stdin: bytes,
    *,
    timeout_s: float = 30.0,
    max_bytes: int = 1 << 20,
    holding: Sequence[int] = (),
) -> tuple[bytes, str]:
    """What *plugin*, found in CNI_PATH, answers, and what it complains of on standard error.

    timeout_s    then it is killed, and what it started with it
    max_bytes    of an answer; what is longer is no answer
    holding      descriptors it inherits: a lock that is to be held until it ends, whoever dies
    """
    program = find(plugin, environ.get("CNI_PATH", ""))
    status, answer, complaint = _run(program, environ, stdin, timeout_s, max_bytes, holding)
    if status:
        raise _refusal(status, answer, complaint)
    return answer, plain(complaint.decode(errors="replace"))


def find(plugin: str, directories: str) -> str:
    """The path of *plugin*; *directories* is written as in CNI_PATH."""
    if not NAME.fullmatch(plugin):
        raise PluginFailed(f"{plugin[:40]!r} is no name for a plugin", code=NOT_STARTED)
    for directory in filter(None, directories.split(":")):
        path = os.path.join(directory, plugin)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    where = directories.replace(":", ", ") or "any directory"
    raise PluginFailed(f"it is not in {where}", code=NOT_STARTED)


def plain(text: str) -> str:
    """*text* for a message: one line, printable, its end if it is long."""
    line = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(line.split())[-_SAID:]


def _run(
    program: str,
    environ: Mapping[str, str],
    stdin: bytes,
    timeout_s: float,
    max_bytes: int,
    holding: Sequence[int] = (),
) -> tuple[int, bytes, bytes]:
    """Exit status (negative: the signal), standard output, and the end of standard error."""
    import signal  # lazily, these two: 10 ms
    import subprocess

    try:
        child = subprocess.Popen(
            [program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environ,
            cwd="/",
            start_new_session=True,
            pass_fds=holding,
            bufsize=0,
        )
    except (OSError, ValueError) as error:
        raise PluginFailed(f"it cannot be started: {error}", code=NOT_STARTED) from None
    with child:  # which closes the pipes and waits
        try:
            answer, complaint = _converse(child, stdin, monotonic() + timeout_s, max_bytes)
        except TimeoutError:
            why = f"no answer in {timeout_s:g} s, so it was killed"
            raise PluginFailed(why, code=TOO_LATE) from None
        finally:
            # Nobody has waited for the child yet, so its number is still its group's. What it left
            # behind goes too; a daemon that is to stay makes a session of its own
            with suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, answer, complaint


def _converse(
    child: Popen[bytes], stdin: bytes, deadline: float, max_bytes: int
) -> tuple[bytes, bytes]:
    """Write and read until the child has ended; what it has started may hold the pipes longer."""
    from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

    assert child.stdin
    assert child.stdout
    assert child.stderr
    rest, answer, complaint = memoryview(stdin), bytearray(), bytearray()
    end = os.pidfd_open(child.pid)
    try:
        with DefaultSelector() as selector:
            for pipe in (child.stdin, child.stdout, child.stderr):
                os.set_blocking(pipe.fileno(), False)
            selector.register(child.stdin, EVENT_WRITE)
            selector.register(child.stdout, EVENT_READ, answer)
            selector.register(child.stderr, EVENT_READ, complaint)
            selector.register(end, EVENT_READ)
            ended = False
            while not ended:
                left_s = deadline - monotonic()
                ready = selector.select(left_s) if left_s > 0 else []
                if not ready:
                    raise TimeoutError
                ended = any(key.fileobj == end for key, _ in ready)
                for key, _ in ready:
                    if key.fileobj is child.stdin:
                        rest = _write(child.stdin, rest)
                        if not rest:
                            selector.unregister(child.stdin)
                            child.stdin.close()
                    elif key.data is not None and not _read(key.fd, key.data):
                        selector.unregister(key.fileobj)
                if len(answer) > max_bytes:
                    raise PluginFailed(f"its answer is longer than {max_bytes} bytes", code=NO_USE)
                del complaint[:-_CHUNK]
    finally:
        os.close(end)
    while len(answer) <= max_bytes and _read(child.stdout.fileno(), answer):  # the last of it
        pass
    _read(child.stderr.fileno(), complaint)
    if len(answer) > max_bytes:
        raise PluginFailed(f"its answer is longer than {max_bytes} bytes", code=NO_USE)
    return bytes(answer), bytes(complaint)


def _write(pipe: IO[bytes], rest: memoryview) -> memoryview:
    """Write some of *rest*; what remains."""
    try:
        return rest[os.write(pipe.fileno(), rest) :]
    except BrokenPipeError:  # it does not care for all of it
        return rest[:0]


def _read(fd: int, text: bytearray) -> bool:
    """Add to *text* what is there to be read; whether there was something."""
    with suppress(BlockingIOError):
        chunk = os.read(fd, _CHUNK)
        text += chunk
        return bool(chunk)
    return False


def _refusal(status: int, answer: bytes, complaint: bytes) -> PluginFailed:
    """What an exit status other than 0 means: an error in CNI's form, or something broken."""
    with suppress(ValueError, RecursionError):
        error = json.loads(answer)
        if isinstance(error, dict) and isinstance(error.get("msg"), str):
            code = error.get("code")
            return PluginRefused(
                plain(error["msg"]),
                plain(str(error.get("details") or "")) or None,
                code=code if isinstance(code, int) and code > 0 else UNKNOWN,
            )
    how = f"signal {-status} ended it" if status < 0 else f"it ended with status {status}"
    said = plain((complaint.strip() or answer.strip()).decode(errors="replace"))
    return PluginFailed(f"{how}{': ' if said else ' and said nothing'}{said}", code=NO_USE)
