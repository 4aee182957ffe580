"""nftables: run a script, in one transaction, through libnftables, or through `nft` without it.

Shapes   a script is the text `nft -f` reads; the answer is what nft would print
Errors   NftError with nft's own sentence; NftMissing when neither library nor program is installed
Source   libnftables(3), nft(8). An element added this way costs 0.1 ms; the program costs 2.5 ms

The library's context is bound to the namespace it was made in, so there is one per namespace, made
on first use. It stays open: closing an nfnetlink socket after a delete waits 9 ms for RCU. It is
one thread's own, for it is not thread-safe; and a forked child makes another.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable
from typing import Any

from netkit.errors import KernelRefused

_PROGRAM_TIMEOUT_S = 10


class NftError(OSError):
    """nft refused the script; nothing of it was done. `errno` is the kernel's where nft says it."""


class NftMissing(KernelRefused):
    """Neither libnftables nor nft is installed."""


Run = Callable[[str], str]
_kept = threading.local()


def run(script: str) -> str:
    """Run *script* as one transaction in the caller's namespace; return what nft prints."""
    found = os.stat("/proc/thread-self/ns/net")
    here = f"{os.getpid()} {found.st_dev}:{found.st_ino}"
    runs: dict[str, Run] = vars(_kept)
    if here not in runs:
        runs[here] = _library() or _program()
    return runs[here](script)


def forget() -> None:
    """Close this thread's contexts: an open one keeps its namespace alive."""
    vars(_kept).clear()


class _Context:
    """A libnftables context; closed with its last reference."""

    def __init__(self, lib: Any, pointer: int) -> None:
        self._lib = lib
        self._pointer = pointer
        lib.nft_ctx_buffer_output(pointer)
        lib.nft_ctx_buffer_error(pointer)

    def __del__(self) -> None:
        self._lib.nft_ctx_free(self._pointer)

    def __call__(self, script: str) -> str:
        failed = self._lib.nft_run_cmd_from_buffer(self._pointer, script.encode())
        printed: bytes = self._lib.nft_ctx_get_output_buffer(self._pointer)
        complaint: bytes = self._lib.nft_ctx_get_error_buffer(self._pointer)
        if failed:
            raise _error(complaint.decode(errors="replace"))
        return printed.decode()


def _library() -> Run | None:
    import ctypes

    try:
        lib: Any = ctypes.CDLL("libnftables.so.1")
    except OSError:
        return None
    lib.nft_ctx_new.restype = ctypes.c_void_p
    lib.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(lib, name).argtypes = [ctypes.c_void_p]
        getattr(lib, name).restype = ctypes.c_char_p
    pointer = lib.nft_ctx_new(0)
    return None if pointer is None else _Context(lib, pointer)


def _program() -> Run:
    import shutil
    import subprocess

    path = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin")
    if path is None:
        raise NftMissing(
            "cannot program the firewall: neither libnftables nor the nft program is installed",
            hint="apt-get install libnftables1 (or nftables)",
        )

    def run_program(script: str) -> str:
        try:
            done = subprocess.run(
                [path, "-f", "-"],
                input=script,
                text=True,
                capture_output=True,
                env={},
                timeout=_PROGRAM_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise NftError(
                errno.ETIMEDOUT, f"nft did not answer in {_PROGRAM_TIMEOUT_S} s"
            ) from None
        if done.returncode:
            raise _error(done.stderr)
        return done.stdout

    return run_program


def _error(complaint: str) -> NftError:
    """nft's first sentence, and the errno behind it."""
    sentence = re.search(r"Error: (.*)", complaint)
    text = sentence[1] if sentence else complaint.strip() or "nft failed and did not say why"
    for code in (errno.ENOENT, errno.EEXIST, errno.EPERM, errno.EBUSY, errno.EOPNOTSUPP):
        if os.strerror(code) in text:
            return NftError(code, text)
    return NftError(errno.EINVAL, text)
