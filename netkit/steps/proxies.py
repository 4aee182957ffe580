"""A proxy process of ours: what serves published ports where address translation cannot."""

from __future__ import annotations

import shlex
from typing import ClassVar

from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.steps.base import Step


class Proxy(Step, frozen=True, kw_only=True):
    """One process for an endpoint's `ports` (netkit.kernel.proxy), known by the file `lock`.

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
            kernel.stop_proxy(self.lock)
            raise

    def delete(self, kernel: Kernel) -> None:
        kernel.stop_proxy(self.lock)

    def check(self, kernel: Kernel) -> None:
        if not kernel.proxy_lives(self.lock):
            raise Drift(f"the proxy of {', '.join(self.ports)} is gone")

    def undo(self) -> str:
        lock = shlex.quote(self.lock)
        return f"kill -KILL $(cut -d' ' -f1 {lock}); rm -f {lock}"

    def __str__(self) -> str:
        words = (self.lock, self.dev, *self.ports)
        return f"python3 -m netkit.kernel.proxy {shlex.join(words)}"
