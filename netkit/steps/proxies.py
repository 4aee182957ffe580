"""A proxy process of ours: what serves published ports where address translation cannot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import ClassVar

from msgspec.structs import replace

from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.steps.base import Step


class Proxy(Step, frozen=True, kw_only=True):
    """An endpoint's `ports`, served by the process that is known by the file `lock`
    (netkit.kernel.proxy): the first of them start it, and with the last it ends.

    It ends by itself once the link `dev` is gone, but not with a network namespace of the host's.
    """

    durable: ClassVar[bool] = True
    lock: str
    dev: str
    ports: tuple[str, ...]

    def add(self, kernel: Kernel) -> None:
        try:
            kernel.start_proxy(self.lock, self.dev, self.ports)
        except BaseException:
            kernel.stop_proxy(self.lock, self.ports)
            raise

    def delete(self, kernel: Kernel) -> None:
        kernel.stop_proxy(self.lock, self.ports)

    def check(self, kernel: Kernel) -> None:
        if gone := [port for port in self.ports if not kernel.proxy_serves(self.lock, port)]:
            raise Drift(f"the proxy of {', '.join(gone)} is gone")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        gone = tuple(port for port in self.ports if not kernel.proxy_serves(self.lock, port))
        return (replace(self, ports=gone),)

    def undo(self) -> str:
        words = ("--drop", self.lock, *self.ports)
        return f"python3 -m netkit.kernel.proxy {shlex.join(words)}"

    def __str__(self) -> str:
        words = (self.lock, self.dev, *self.ports)
        return f"python3 -m netkit.kernel.proxy {shlex.join(words)}"
