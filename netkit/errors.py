"""Every error netkit raises: what was tried, on which object, what stood in the way.

    NetkitError
    ├── InvalidSpec      mend the request: a name, address, port, option or path is not acceptable
    ├── NotFound         the network, container, endpoint or program named does not exist
    ├── Conflict         somebody else holds what was asked for; the message says who
    │   └── Busy         the state is locked by another process: try again
    ├── Exhausted        no address, subnet or port is left: wait, or widen the pool
    ├── KernelRefused    the step's own line, and the kernel's answer to it
    └── Drift            the kernel is not as the record says

The class says what the caller can do; `hint`, where there is one, is the way out in one sentence.
Both are one line each, printable and of bounded length, whatever they quote: nobody's input forges
a line of a log or moves a terminal's cursor.
"""

from __future__ import annotations

_MOST = 800  # characters


class NetkitError(Exception):
    """The root: catch this one to catch all of netkit's errors."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(printable(message))
        self.hint = hint if hint is None else printable(hint)


def printable(text: str) -> str:
    """*text* in one line: what cannot be printed is escaped, of what is too long the ends stay."""
    if len(text) > _MOST:
        text = f"{text[: _MOST // 2]} … {text[-_MOST // 4 :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class InvalidSpec(NetkitError):
    """The request is malformed or impossible; nothing was done."""


class NotFound(NetkitError):
    """The thing named is not there."""


class Conflict(NetkitError):
    """Somebody else holds what was asked for."""


class Busy(Conflict):
    """Another process holds the lock, and went on holding it."""


class Exhausted(NetkitError):
    """No free address, subnet or port is left."""


class KernelRefused(NetkitError):
    """The kernel said no; the message holds the step as one would type it, and the answer."""


class Drift(NetkitError):
    """What the record says and what the kernel holds differ."""
