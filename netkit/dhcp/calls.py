"""Asking the keeper of the leases, which is started if there is none.

Errors   what the keeper says, as the error of netkit.errors it names; Conflict where another
         program listens; KernelRefused where no keeper can be started, or it dies meanwhile
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time

from netkit import errors
from netkit.dhcp import book
from netkit.errors import Conflict, KernelRefused, NetkitError
from netkit.kernel import daemons

_ANSWER_S = 220.0  # it answers sooner, or dies: the reference may take 208 s to find no server
_START_S = 10.0
_LOOK_S = 0.01
_READY = b"ready\n"


def ask(path: str, request: book.Request, *, start: bool = True) -> book.Done:
    """Say *request* to the keeper at *path*; without *start*, to the one that runs, if one does."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            return _exchange(path, request)
        except TimeoutError:
            raise KernelRefused(f"no answer from {path} within {_ANSWER_S:g} s") from None
        except (FileNotFoundError, ConnectionError) as error:  # none, or it is just about to end
            if not start:
                return book.Done()
            if time.monotonic() > deadline:
                raise KernelRefused(f"nobody answers at {path}: {error}") from None
        _start(path)


def _start(path: str) -> None:
    book.prepare(path)
    imports = [directory for directory in sys.path if os.path.isabs(directory)]
    try:
        arguments = ["-socketpath", path]
        module = "netkit.dhcp.keeper"
        daemons.start(book.lock_of(path), module, arguments, _READY, path=imports)
    except BlockingIOError:
        time.sleep(_LOOK_S)  # another process is about to start one
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _stranger(path) from None
        raise KernelRefused(f"cannot start the keeper of leases: {error}") from error


def _exchange(path: str, request: book.Request) -> book.Done:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_ANSWER_S)
        sock.connect(path)
        sock.sendall(book.encode(request))
        line = b""
        while not line.endswith(b"\n") and len(line) < book.MOST_BYTES:
            chunk = sock.recv(book.MOST_BYTES)
            if not chunk:
                break
            line += chunk
    if not line:
        raise ConnectionResetError(errno.ECONNRESET, "it ended before it answered", path)
    try:
        answer = book.decode_answer(line)
    except ValueError:
        raise _stranger(path) from None
    if isinstance(answer, book.Failed):
        kind = getattr(errors, answer.kind, NetkitError)
        raise kind(answer.message, hint=answer.hint or None)
    return answer


def _stranger(path: str) -> Conflict:
    return Conflict(
        f"what listens at {path} is not netkit's",
        hint="stop the other `dhcp daemon` (systemctl disable --now cni-dhcp.socket "
        "cni-dhcp.service), or give another ipam.daemonSocketPath",
    )
