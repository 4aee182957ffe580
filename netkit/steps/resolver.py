"""What the host's own resolver is told: to ask a server of netkit's, too."""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import ClassVar

from msgspec.structs import replace

from netkit.errors import Drift, KernelRefused
from netkit.kernel import Kernel
from netkit.steps.base import Step, Thing, within
from netkit.steps.files import same_text

_COMMENT = "# netkit: `netkit dns host disable` takes these two lines out"
_KNOWN_S = 2.0  # for systemd-resolved to have heard of a new link
_LOOK_S = 0.02


class Nameserver(Step, frozen=True, kw_only=True):
    """The first server a resolv.conf names; all else in the file stays, byte for byte.

    `real` is the file that `path` led to, and `was` what it said, byte by character; None: there
    was none.
    """

    durable: ClassVar[bool] = True
    path: str
    server: str
    real: str = ""
    was: str | None = None

    @property
    def _lines(self) -> str:
        return f"{_COMMENT}\nnameserver {self.server}\n"

    def prepare(self, kernel: Kernel) -> Step | None:
        real = kernel.real_path(self.path)
        was = kernel.read_file(real)
        if was is None and kernel.exists(real):
            raise KernelRefused(f"cannot read {real}, which {self.path} is", hint="see its mode")
        return replace(self, real=real, was=None if was is None else _characters(was))

    def add(self, kernel: Kernel) -> None:
        if kernel.exists(self.real):
            kernel.edit_file(self.real, lambda text: self._lines + self._without(text))
        else:
            kernel.write_file(self.real, self._lines)

    def delete(self, kernel: Kernel) -> None:
        # a symlink may lead elsewhere by now, with our line in what it led to
        for path in dict.fromkeys((self.real, kernel.real_path(self.path))):
            with suppress(FileNotFoundError):
                kernel.edit_file(path, self._restored)
                if self.was is None and kernel.read_file(path) == "":
                    kernel.remove_file(path)

    def _restored(self, text: str) -> str:
        left = self._without(text)
        if left == text and self.was is not None and same_text(_characters(text), self.was):
            # whoever was killed in the midst of this has left empty lines
            return self.was.encode("latin-1").decode(errors="surrogateescape")
        return left

    def _without(self, text: str) -> str:
        left = text.replace(self._lines, "")
        return "".join(line for line in left.splitlines(keepends=True) if not self._names_us(line))

    def _names_us(self, line: str) -> bool:
        return line.split()[:2] == ["nameserver", self.server]

    def check(self, kernel: Kernel) -> None:
        text = kernel.read_file(self.path) or ""
        if not any(map(self._names_us, text.splitlines())):
            raise Drift(f"{self.path} does not name {self.server}: somebody has written it anew")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        return (replace(self, real=kernel.real_path(self.path)),)

    def undo(self) -> str:
        ours = f"/^{_COMMENT}$/d; /^nameserver {self.server}$/d"
        return f"sed -i --follow-symlinks {shlex.quote(ours)} {shlex.quote(self.path)}"

    def __str__(self) -> str:
        if self.was is None:
            return f"cat > {shlex.quote(self.path)} <<'END'\n{self._lines}END"
        ours = f"1i {_COMMENT}\\nnameserver {self.server}"
        return f"sed -i --follow-symlinks {shlex.quote(ours)} {shlex.quote(self.path)}"


class LinkNames(Step, frozen=True, kw_only=True):
    """By a link's settings systemd-resolved asks `server` what is below `domains`, and no more.

    They go with the link.
    """

    dev: str
    server: str
    domains: tuple[str, ...] = ()

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    @property
    def _calls(self) -> Sequence[tuple[str, ...]]:
        routed = [f"~{domain}" for domain in self.domains] or [""]
        return (
            ("resolvectl", "dns", self.dev, self.server),
            ("resolvectl", "domain", self.dev, *routed),
            ("resolvectl", "default-route", self.dev, "false"),
        )

    def add(self, kernel: Kernel) -> None:
        first, *others = self._calls
        end = time.monotonic() + _KNOWN_S
        while True:
            try:
                kernel.call(first, "")
                break
            except OSError as error:
                if error.errno != errno.EPROTO or time.monotonic() > end:
                    raise
            time.sleep(_LOOK_S)
        for command in others:
            kernel.call(command, "")

    def delete(self, kernel: Kernel) -> None:
        kernel.call(("resolvectl", "revert", self.dev), "")

    def check(self, kernel: Kernel) -> None:
        asked = kernel.call(("resolvectl", "dns", self.dev), "").split()
        routed = kernel.call(("resolvectl", "domain", self.dev), "").split()
        if self.server not in asked or not {f"~{each}" for each in self.domains} <= {*routed}:
            raise Drift(f"systemd-resolved has lost what {self.dev} is for")

    def undo(self) -> str:
        return f"resolvectl revert {self.dev}"

    def __str__(self) -> str:
        return "\n".join(map(shlex.join, self._calls))


def _characters(text: str) -> str:
    """Any file's bytes as text of as many characters, which a record can hold."""
    return text.encode(errors="surrogateescape").decode("latin-1")
