"""Files of netkit's own, and lines of its own in a file; in a sandbox or for one."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar

from netkit.addresses import Address
from netkit.dns import hosts
from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.steps.base import (
    Step,
    Thing,
)


class Directory(Step, frozen=True, kw_only=True):
    """A directory for files of ours; removed again if it is empty then."""

    durable: ClassVar[bool] = True
    path: str

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if kernel.exists(self.path) else self

    def add(self, kernel: Kernel) -> None:
        kernel.make_directory(self.path)

    def delete(self, kernel: Kernel) -> None:
        kernel.remove_directory(self.path)

    def undo(self) -> str:
        return f"rmdir --ignore-fail-on-non-empty {shlex.quote(self.path)}"

    def __str__(self) -> str:
        return f"mkdir -p {shlex.quote(self.path)}"


class File(Step, frozen=True, kw_only=True):
    """A file that was not there before; one that was is somebody else's and stays as it is."""

    durable: ClassVar[bool] = True
    path: str
    content: str

    @property
    def makes(self) -> Sequence[Thing]:
        return (("file", self.path),)

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if kernel.exists(self.path) else self

    def add(self, kernel: Kernel) -> None:
        kernel.write_file(self.path, self.content)

    def delete(self, kernel: Kernel) -> None:
        kernel.remove_file(self.path)

    def check(self, kernel: Kernel) -> None:
        if not kernel.exists(self.path):
            raise Drift(f"{self.path} is gone")

    def undo(self) -> str:
        return f"rm -f {shlex.quote(self.path)}"

    def __str__(self) -> str:
        return _here(self.path, self.content)


class Rewrite(Step, frozen=True, kw_only=True):
    """Another text for a file of ours, in its place; one that somebody has edited is left alone.

    `was` is the text we wrote last: that of the File among the steps of `sandbox`. Once this is
    committed the new one takes its place there (netkit.renewal), so none of these stays in a plan.
    """

    path: str
    content: str
    was: str
    sandbox: str

    @property
    def within(self) -> Sequence[Thing]:
        return (("file", self.path),)

    def prepare(self, kernel: Kernel) -> Step | None:
        found = kernel.read_file(self.path)
        return self if same_text(found, self.was) or same_text(found, self.content) else None

    def add(self, kernel: Kernel) -> None:
        self._replace(kernel, self.was, self.content)

    def delete(self, kernel: Kernel) -> None:
        self._replace(kernel, self.content, self.was)

    def _replace(self, kernel: Kernel, old: str, new: str) -> None:
        with suppress(FileNotFoundError):
            kernel.edit_file(self.path, lambda text: new if same_text(text, old) else text)

    def undo(self) -> str:
        return _here(self.path, self.was)

    def __str__(self) -> str:
        return _here(self.path, self.content)


class HostsEntry(Step, frozen=True, kw_only=True):
    """A line of our own in a hosts file; every other line stays, byte for byte."""

    durable: ClassVar[bool] = True
    path: str
    address: Address
    names: tuple[str, ...]

    @property
    def within(self) -> Sequence[Thing]:
        return (("file", self.path),)

    def add(self, kernel: Kernel) -> None:
        self._edit(kernel, hosts.add)

    def delete(self, kernel: Kernel) -> None:
        with suppress(FileNotFoundError):
            self._edit(kernel, hosts.remove)

    def _edit(self, kernel: Kernel, edit: Callable[[str, Address, tuple[str, ...]], str]) -> None:
        kernel.edit_file(self.path, lambda text: edit(text, self.address, self.names))

    def undo(self) -> str:
        line = shlex.quote(f"{self.address}\t{' '.join(self.names)}")
        new = f"{self.path}.new"
        return f"grep -vxF {line} {self.path} > {new}; cat {new} > {self.path}; rm {new}"

    def __str__(self) -> str:
        line = f"{self.address}\t{' '.join(self.names)}"
        return f"echo {shlex.quote(line)} >> {shlex.quote(self.path)}"


class BindMount(Step, frozen=True, kw_only=True):
    """A file of ours over one in a running process's own mount namespace."""

    source: str
    target: str
    mnt: str

    def add(self, kernel: Kernel) -> None:
        kernel.inject(self.mnt, self.source, self.target)

    def delete(self, kernel: Kernel) -> None:
        kernel.eject(self.mnt, self.source, self.target)

    def undo(self) -> str:
        return f"nsenter --mount={self.mnt} umount {self.target}"

    def __str__(self) -> str:
        return f"nsenter --mount={self.mnt} mount --bind {shlex.quote(self.source)} {self.target}"


def same_text(found: str | None, ours: str) -> bool:
    """Whether a file says what we wrote, whose writer may have been killed before the last byte
    (see Kernel.edit_file).
    """
    return found is not None and found.rstrip("\n") == ours.rstrip("\n")


def _here(path: str, text: str) -> str:
    if text and not text.endswith("\n"):
        text += "\n"
    return f"cat > {shlex.quote(path)} <<'END'\n{text}END"
