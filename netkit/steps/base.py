"""A step: one reversible change; and how namespaces and keys read in the lines steps print.

Shapes   `at` is the path of a network namespace, None the host; a thing is what other things are
         within, and go with: a namespace, a link, a file
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from netkit.firewall import Firewall
from netkit.kernel import Kernel

Thing = tuple[str, ...]


class Step(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One change. The verbs raise OSError or NetkitError; the functions below translate."""

    durable: ClassVar[bool] = False  # outlives a reboot, so it must be undone even after one

    @property
    def makes(self) -> Sequence[Thing]:
        """The things whose deletion takes along all that is `within` them."""
        return ()

    @property
    def within(self) -> Sequence[Thing]:
        return ()

    def prepare(self, kernel: Kernel) -> Step | None:
        """This step with what it will replace; None: nothing to do. Changes nothing."""
        return self

    def add(self, kernel: Kernel) -> None: ...

    def delete(self, kernel: Kernel) -> None:
        """Put back what was. What is gone already, or not ours, is left as it is."""

    def check(self, kernel: Kernel) -> None:
        """Raise Drift where the kernel no longer holds what add put there."""

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        """The steps that put back what `check` found amiss; Drift where none can."""
        return (self,)

    @property
    def warnings(self) -> Sequence[str]:
        """What an operator has to know once it is added."""
        return ()

    def undo(self) -> str:
        """What `delete` does, as an operator would type it; "": nothing of its own."""
        return ""

    # what depends on the firewall's back end overrides these; str and undo are nft's then

    def line(self, back_end: Firewall) -> str:
        """What `add` does with that back end, as an operator would type it."""
        return str(self)

    def undo_line(self, back_end: Firewall) -> str:
        return self.undo()


def dotted(key: str) -> str:
    """The key as sysctl(8) takes it: a dot within an interface's name becomes a slash."""
    return key.translate(str.maketrans("./", "/."))


def within(at: str | None, dev: str | None) -> Sequence[Thing]:
    """An interface goes with its namespace; on the host side, what is on it goes with it."""
    things: list[Thing] = []
    if dev is not None:
        things.append(("link", at or "", dev))
    if at is not None:
        things.append(("netns", at))
    return things


def delete_link(
    kernel: Kernel, name: str, kind: str, mac: str, alias: str, at: str | None = None
) -> None:
    """Delete a link that is ours; one of the same name that bears neither mark is not."""
    link = kernel.netlink(at).link(name)
    if link is None or link.kind != kind or (link.mac != mac and link.alias != alias):
        return
    with gone_is_success():
        kernel.netlink(at).delete_link(name)


class gone_is_success:
    """What is to be deleted need not be there any more."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        gone = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
        return isinstance(error, OSError) and error.errno in gone


def _name(at: str) -> str | None:
    """The name `ip netns` knows a namespace by, if it has one."""
    head, _, name = at.rpartition("/")
    return name if head == "/run/netns" else None


def ip(at: str | None, version: int = 4) -> str:
    """The program ip, as it is called to act in a namespace; IPv4 is what it takes for granted."""
    six = " -6" if version == 6 else ""
    if at is None:
        return f"ip{six}"
    name = _name(at)
    return f"ip -n {name}{six}" if name else f"nsenter --net={shlex.quote(at)} ip{six}"


def enter(at: str | None) -> str:
    """What stands before a command that is to run in a namespace."""
    if at is None:
        return ""
    name = _name(at)
    return f"ip netns exec {name} " if name else f"nsenter --net={shlex.quote(at)} "


def netns_argument(at: str) -> str:
    """A namespace as the argument of `ip link … netns`: a pid, a name or a path."""
    parts = at.split("/")
    if parts[:2] == ["", "proc"] and parts[3:] == ["ns", "net"]:
        return parts[2]
    return _name(at) or shlex.quote(at)
