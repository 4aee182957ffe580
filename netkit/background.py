"""netkitd in the background: started by whoever would like to have one, and finds none.

    start(["/usr/lib/python3/dist-packages"], {"PATH": "/usr/bin:/bin"}, "/run/netkit")

Shapes   `paths` are the directories netkit and what it needs are found in; the environment is that
         of the one to be: PATH and NETKIT_… of it are passed on
Units    seconds
Errors   OSError; BlockingIOError: there is one, or somebody else is just starting it

It inherits the lock that only one may have, and nothing else; our end makes it init's child.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Mapping, Sequence

STARTING = b"starting\n"
_RETRY_S = 30.0  # between two attempts
_WARM_START = "import sys; sys.path[:0] = {}; from netkit import daemon; daemon.background({})"


def start(paths: Sequence[str], environ: Mapping[str, str], run_dir: str) -> None:
    """Start it; one that came to grief just before is not started again."""
    os.makedirs(run_dir, mode=0o700, exist_ok=True)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(f"{run_dir}/netkitd.lock", flags, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # a daemon writes its number over this; where it is still there, the last one failed
        tried = os.pread(lock, len(STARTING), 0) == STARTING
        if tried and time.time() - os.fstat(lock).st_mtime < _RETRY_S:
            return
        os.ftruncate(lock, 0)
        os.pwrite(lock, STARTING, 0)
        os.set_inheritable(lock, True)
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-IS", "-c", _WARM_START.format(list(paths), lock)],
            {k: v for k, v in environ.items() if k == "PATH" or k.startswith("NETKIT_")},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
    finally:
        os.close(lock)


def is_host() -> bool:
    """Whether this is the host's own network; any other it would keep, though all others left."""
    try:
        return os.path.samestat(os.stat("/proc/self/ns/net"), os.stat("/proc/1/ns/net"))
    except OSError:  # root of a user namespace only: then it is not
        return False
