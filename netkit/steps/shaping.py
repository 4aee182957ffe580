"""What an interface sends, and receives, no faster than it may.

Source   tc(8), tc-tbf(8), tc-mirred(8)
"""

from __future__ import annotations

from collections.abc import Sequence

from netkit.addresses import Network
from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.kernel.shaping import Bucket
from netkit.steps.base import Step, Thing, gone_is_success, within


class Shaper(Step, frozen=True, kw_only=True):
    """A token bucket for what an interface of the host's sends; units and subnets: kernel.shaping.

    The kernel refuses it where somebody has put another queue.
    """

    dev: str
    rate: int
    burst: int
    limit: int
    only: tuple[Network, ...] = ()
    spared: tuple[Network, ...] = ()
    sources: bool = False

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.rate, self.burst, self.limit)

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().add_bucket(
            self.dev, self.bucket, only=self.only, spared=self.spared, sources=self.sources
        )

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            found = kernel.netlink().bucket(self.dev)
            if found is not None and found.is_like(self.bucket):
                kernel.netlink().delete_bucket(self.dev)

    def check(self, kernel: Kernel) -> None:
        try:
            found = kernel.netlink().bucket(self.dev)
            subnets = kernel.netlink().subnets(self.dev)
        except OSError as error:
            raise Drift(f"interface {self.dev} is not shaped: {error.strerror}") from None
        if found is None or not found.is_like(self.bucket):
            raise Drift(
                f"interface {self.dev} is shaped by {found or 'nothing'}, not {self.bucket}"
            )
        if subnets != len(self.only or self.spared):
            raise Drift(f"filters of {self.dev} are gone: shaping does not tell subnets apart")

    def undo(self) -> str:
        return f"tc qdisc del dev {self.dev} root"

    def __str__(self) -> str:
        add = f"tc qdisc add dev {self.dev}"
        if not self.only and not self.spared:
            return f"{add} root handle 1: {self.bucket}"
        end, otherwise, to = "src" if self.sources else "dst", "0x30", "1:"
        if self.only:
            otherwise, to = "0", "1:30"
        lines = [
            f"{add} root handle 1: htb default {otherwise}",
            f"tc class add dev {self.dev} parent 1: classid 1:30 htb rate 1tbit ceil 1tbit",
            f"{add} parent 1:30 handle 30: {self.bucket}",
        ]
        for net in self.only or self.spared:
            kind = ("ip", "ipv6")[net.version == 6]
            match = f"match {kind.replace('v', '')} {end} {net}"
            lines.append(
                f"tc filter add dev {self.dev} parent 1: protocol {kind} prio {net.version} "
                f"u32 {match} flowid {to}"
            )
        return "\n".join(lines)


class Redirect(Step, frozen=True, kw_only=True):
    """What an interface of the host's receives, another sends, which then can be shaped."""

    dev: str
    to: str

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().add_redirect(self.dev, self.to)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            netlink = kernel.netlink()
            other = netlink.link(self.to)
            # to one that is gone the kernel redirects by no index
            if netlink.redirect(self.dev) in (0, other.ifindex if other else 0):
                netlink.delete_redirect(self.dev)

    def check(self, kernel: Kernel) -> None:
        try:
            netlink = kernel.netlink()
            same = netlink.redirect(self.dev) == netlink.index(self.to)
        except OSError as error:
            raise Drift(f"{self.dev} is not redirected to {self.to}: {error.strerror}") from None
        if not same:
            raise Drift(f"what {self.dev} receives is not redirected to {self.to}")

    def undo(self) -> str:
        return f"tc qdisc del dev {self.dev} ingress"

    def __str__(self) -> str:
        return (
            f"tc qdisc add dev {self.dev} ingress\n"
            f"tc filter add dev {self.dev} ingress protocol all prio 1 u32 match u32 0 0 "
            f"action mirred egress redirect dev {self.to}"
        )
