"""Small processes of ours that outlive us: started, found again by the lock they hold, ended.

Shapes   a daemon is known by a file: locked (flock) for as long as it lives, it holds its pid and
         start time. The lock is taken before there is a process and inherited by it: who finds the
         file unlocked knows that there is none, and that none will come
Units    seconds
Errors   OSError: the daemon's own, EAGAIN where there is one already, ETIMEDOUT
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from netkit.kernel import process

_TIMEOUT_S = 10.0
_LOOK_S = 0.005
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_RUN_MODULE = """\
import runpy, sys
sys.path[:] = sys.argv.pop(1).split(":")
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def start(
    lock: str, program: str, arguments: Sequence[str], ready: bytes, *, path: Sequence[str] = ()
) -> None:
    """Run the Python file *program* with the lock on `fd:N`; it says *ready*, or why it is not.

    With *path*, directories to import from, *program* is a module's name instead.
    """
    fd = os.open(lock, _FLAGS | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        run = ["-c", _RUN_MODULE, ":".join(path), program] if path else [program]
        command = [sys.executable, "-I", "-S", *run, f"fd:{fd}", *arguments]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(fd,),
            cwd="/",
            env={},
            start_new_session=True,
        ) as child:
            try:
                said, _ = child.communicate(timeout=_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                child.kill()
                why = f"it is not ready within {_TIMEOUT_S:g} s"
                raise OSError(errno.ETIMEDOUT, why) from None
        if said != ready:
            code, _, reason = said.decode(errors="replace").strip().partition(" ")
            number = int(code) if code.isdigit() else errno.EIO
            raise OSError(number, reason or f"it ended with exit code {child.returncode}")
    finally:
        os.close(fd)


def end(lock: str) -> None:
    """End the daemon that holds *lock*, and remove the file; that there is none is success."""
    try:
        fd = os.open(lock, _FLAGS)
    except FileNotFoundError:
        return
    try:
        deadline = time.monotonic() + _TIMEOUT_S
        while not _take(fd):
            # one that is just being started has yet to say who it is
            pid, _, started = os.pread(fd, 64, 0).decode().strip().partition(" ")
            if started:
                process.kill(int(pid), int(started), signal.SIGKILL, _TIMEOUT_S)
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, f"process {pid or '?'} does not end")
            time.sleep(_LOOK_S)
        os.unlink(lock)
    finally:
        os.close(fd)


def lives(lock: str) -> bool:
    """Whether somebody holds *lock*."""
    try:
        fd = os.open(lock, _FLAGS)
    except FileNotFoundError:
        return False
    try:
        return not _take(fd)
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
