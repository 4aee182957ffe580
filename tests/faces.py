"""The command line, called in this process: what it says and how it ends, without 0.3 s of imports.

Shapes   `netkit("ps", "-q")` is a Said: exit code, standard output, standard error. What children
         of the command print is in it too: the file descriptors are caught, not only sys.stdout
Errors   an exception that gets out of the command gets out of here: it would be a traceback
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple

from netkit import cli


class Said(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[str]:
        return self.out.splitlines()


def netkit(*words: str) -> Said:
    """`netkit WORDS`, whatever comes of it."""
    with _caught("stdout", 1) as out, _caught("stderr", 2) as err:
        code = cli._run(list(words))
    return Said(code, _text(out), _text(err))


def ok(*words: str) -> str:
    """What `netkit WORDS` prints; it must succeed and complain of nothing."""
    said = netkit(*words)
    assert (said.code, said.err) == (0, ""), f"netkit {' '.join(words)}: {said}"
    return said.out


def refused(*words: str, code: int = 1) -> str:
    """What `netkit WORDS` complains of; it must exit with *code*, with nothing on stdout."""
    said = netkit(*words)
    assert (said.code, said.out) == (code, ""), f"netkit {' '.join(words)}: {said}"
    return said.err


@contextmanager
def _caught(name: str, fd: int) -> Iterator[BinaryIO]:
    """Whatever is written to *fd*, or to the sys.NAME that stands before it, in a file."""
    file = os.fdopen(os.memfd_create(name), "w+b", buffering=0)
    before, stream = os.dup(fd), getattr(sys, name)
    os.dup2(file.fileno(), fd)
    own = open(fd, "w", encoding="utf-8", errors=stream.errors, closefd=False)  # noqa: SIM115
    setattr(sys, name, own)
    try:
        yield file
    finally:
        own.flush()
        setattr(sys, name, stream)
        os.dup2(before, fd)
        os.close(before)


def _text(file: BinaryIO) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="surrogateescape")
