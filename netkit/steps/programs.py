"""What a driver that is a program does: an interface in a sandbox, made and unmade by it.

Source   docs/drivers.md. Modelled on netavark's plugins: create, setup, teardown, info; JSON
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Sequence

from msgspec.structs import replace

from netkit.errors import Drift, NotFound
from netkit.kernel import Kernel
from netkit.steps.base import Step, Thing


class Setup(Step, frozen=True, kw_only=True):
    """The program at `path` makes the interface `dev` in the sandbox, as `request` says.

    What it answers is not kept: the intent was written before. So its teardown is told what its
    setup was told, must do with that, and must succeed where there is nothing left to undo.
    """

    driver: str
    dev: str
    at: str
    request: str
    path: str = ""

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", self.at, self.dev),)

    def prepare(self, kernel: Kernel) -> Step | None:
        try:
            return replace(self, path=kernel.find_driver(self.driver))
        except FileNotFoundError:
            raise NotFound(
                f"no program for the driver '{self.driver}'",
                hint="NETKIT_DRIVERS lists the directories it is looked for in",
            ) from None

    def add(self, kernel: Kernel) -> None:
        try:
            kernel.call((self.path, "setup", self.at), self.request)
            if kernel.netlink(self.at).link(self.dev) is None:
                raise OSError(errno.EPROTO, f"{self.driver} has made no interface '{self.dev}'")
        except BaseException:
            self.delete(kernel)  # a program may fail half-way
            raise

    def delete(self, kernel: Kernel) -> None:
        if self.path:
            kernel.call((self.path, "teardown", self.at), self.request)

    def check(self, kernel: Kernel) -> None:
        if kernel.netlink(self.at).link(self.dev) is None:
            raise Drift(f"interface {self.dev} in {self.at} is gone")

    def undo(self) -> str:
        return self._line("teardown")

    def __str__(self) -> str:
        return self._line("setup")

    def _line(self, verb: str) -> str:
        program = shlex.quote(self.path or self.driver)
        said = shlex.quote(self.request)
        # printf is there whatever the shell, and takes the text as it is
        return f"printf %s {said} | {program} {verb} {shlex.quote(self.at)}"
