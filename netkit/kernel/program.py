"""Programs that somebody else wrote: found, started, and ended in time whatever they do.

Shapes   text in on stdin, text out on stdout; what a program complains of is stderr's last line
Units    seconds, bytes
Errors   OSError: ENOENT no such program, EACCES one that others could have written, ETIMEDOUT,
         EFBIG more output than anybody reads, EPROTO the program's own refusal
"""

from __future__ import annotations

import errno
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

VARIABLE = "NETKIT_DRIVERS"
DIRECTORIES = ("/etc/netkit/drivers", "/usr/local/libexec/netkit", "/usr/libexec/netkit")
TIMEOUT_S = 30.0
MOST = 1 << 20
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CHUNK, _LOOK_S = 1 << 16, 0.05


def directories() -> Sequence[str]:
    """Where drivers are looked for: those the variable lists, else the usual ones."""
    listed = os.environ.get(VARIABLE)
    found = DIRECTORIES if listed is None else listed.split(":")
    return [directory for directory in found if directory.startswith("/")]


def find(name: str) -> str:
    """The path of the driver called *name*: the first there is in the directories."""
    for directory in directories() if _NAME.fullmatch(name) else ():
        path = f"{directory}/{name}"
        with suppress(FileNotFoundError, NotADirectoryError):
            found = os.stat(path)
            if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK):
                continue
            if found.st_mode & _OTHERS or found.st_uid not in (0, os.geteuid()):
                why = "others than root may write to it"
                raise PermissionError(errno.EACCES, f"{path}: {why}", path)
            return path
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)


def is_there(name: str) -> bool:
    """Whether `call` finds a program of the system's by this name."""
    return shutil.which(name, path=_PATH) is not None


def call(
    command: Sequence[str], text: str, *, timeout_s: float = TIMEOUT_S, most: int = MOST
) -> str:
    """What *command* answers to *text*. Whatever it started in its own session ends with it."""
    # a file, and no pipe that fills where the program does not read
    with os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as stdin:
        stdin.write(text.encode())
        stdin.seek(0)
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
    with process:
        try:
            out, err = _listen(process, timeout_s, most)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = err.decode(errors="replace").strip().splitlines()
        said = lines[-1] if lines else f"exit code {process.returncode}"
        raise OSError(errno.EPROTO, f"{os.path.basename(command[0])} says: {said}")
    return out.decode(errors="replace")


def _listen(process: subprocess.Popen[bytes], timeout_s: float, most: int) -> list[bytes]:
    """Both outputs, until the program has ended: what it left behind may hold the pipes open."""
    end = time.monotonic() + timeout_s
    name = os.path.basename(str(process.args[0]))  # type: ignore[index]  # a list: see call
    assert process.stdout is not None
    assert process.stderr is not None
    found = {process.stdout.fileno(): b"", process.stderr.fileno(): b""}
    with selectors.DefaultSelector() as selector:
        for fd in found:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map() or process.poll() is None:
            ended = process.poll() is not None
            ready = selector.select(0 if ended else _LOOK_S)
            if ended and not ready:
                break
            for key, _ in ready:
                chunk = os.read(key.fd, _CHUNK)
                found[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                if len(found[key.fd]) > most:
                    raise OSError(errno.EFBIG, f"{name} says more than {most} bytes")
            if time.monotonic() > end:
                raise OSError(errno.ETIMEDOUT, f"{name} does not end within {timeout_s:g} s")
    return list(found.values())
