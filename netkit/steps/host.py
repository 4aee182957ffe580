"""What the host itself is asked for: kernel parameters, firewall tables and rules."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress

import msgspec

from netkit import firewall
from netkit.errors import Conflict, Drift
from netkit.firewall import Guard, Isolate, Masquerade, Publish
from netkit.kernel import Kernel
from netkit.steps.base import (
    Step,
    Thing,
    dotted,
    enter,
    within,
)

_IP_FORWARD = "net/ipv4/ip_forward"
_CONF = "net/ipv4/conf"
_REDIRECTS = f"{_CONF}/all/accept_redirects"


class Sysctl(Step, frozen=True, kw_only=True):
    """A kernel parameter (`key` as its path below /proc/sys) and what it was before."""

    key: str
    value: str
    was: str | None = None
    dev: str | None = None
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev) if self.dev else within(self.at, None)

    def prepare(self, kernel: Kernel) -> Step | None:
        if self.dev is not None:  # goes with its interface, which need not exist yet
            return self
        was = kernel.sysctl(self.key, self.at)
        return None if was == self.value else msgspec.structs.replace(self, was=was)

    def add(self, kernel: Kernel) -> None:
        with suppress(FileNotFoundError):  # a kernel without IPv6 has nothing to switch off
            kernel.set_sysctl(self.key, self.value, self.at)

    def delete(self, kernel: Kernel) -> None:
        # put back only if it is still ours: somebody may have set it since
        if self.was is not None and kernel.sysctl(self.key, self.at) == self.value:
            kernel.set_sysctl(self.key, self.was, self.at)

    def check(self, kernel: Kernel) -> None:
        found = kernel.sysctl(self.key, self.at)
        if found not in (None, self.value):
            raise Drift(f"{dotted(self.key)} is {found}, not {self.value}")

    def undo(self) -> str:
        return f"{enter(self.at)}sysctl -qw {dotted(self.key)}={self.was}" if self.was else ""

    def __str__(self) -> str:
        return f"{enter(self.at)}sysctl -qw {dotted(self.key)}={self.value}"


class Forwarding(Step, frozen=True, kw_only=True):
    """IPv4 forwarding, on; and what the kernel overwrites along with it.

    A write to ip_forward sets forwarding of every interface, and accept_redirects the other way
    round (inet_forward_change in net/ipv4/devinet.c). `was` holds those values that writing the
    old ip_forward alone would not bring back.
    """

    was: Mapping[str, str] = {}

    def prepare(self, kernel: Kernel) -> Step | None:
        if kernel.sysctl(_IP_FORWARD) == "1":
            return None
        before = kernel.sysctls(_CONF, "forwarding")
        unusual = {key: value for key, value in before.items() if value != "0"}
        if (redirects := kernel.sysctl(_REDIRECTS)) not in (None, "1"):
            unusual[_REDIRECTS] = str(redirects)
        return Forwarding(was=unusual)

    def add(self, kernel: Kernel) -> None:
        kernel.set_sysctl(_IP_FORWARD, "1")

    def delete(self, kernel: Kernel) -> None:
        if kernel.sysctl(_IP_FORWARD) != "1":
            return  # somebody has switched it off since
        kernel.set_sysctl(_IP_FORWARD, "0")
        for key, value in self.was.items():
            if kernel.sysctl(key) is not None:
                kernel.set_sysctl(key, value)

    def check(self, kernel: Kernel) -> None:
        if kernel.sysctl(_IP_FORWARD) != "1":
            raise Drift("net.ipv4.ip_forward is 0: nothing is forwarded to or from containers")

    def undo(self) -> str:
        was = "".join(f" {dotted(key)}={value}" for key, value in self.was.items())
        return f"sysctl -qw net.ipv4.ip_forward=0{was}"

    def __str__(self) -> str:
        return "sysctl -qw net.ipv4.ip_forward=1"


class Tables(Step, frozen=True, kw_only=True):
    """What all firewall rules stand on."""

    def prepare(self, kernel: Kernel) -> Step | None:
        if not kernel.firewall.script():
            return None  # the back end `none` has no tables
        if kernel.firewall.is_open():
            raise Conflict(
                "the firewall already holds netkit's tables, made from another state directory",
                hint="use that state directory, or remove its networks first "
                "(if it is lost: nft delete table ip netkit; nft delete table bridge netkit)",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.open()

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.close()

    def check(self, kernel: Kernel) -> None:
        if not kernel.firewall.is_open():
            raise Drift("netkit's firewall tables are gone")

    def undo(self) -> str:
        return "nft 'delete table ip netkit; delete table bridge netkit'"

    def __str__(self) -> str:
        return f"nft -f - <<'END'\n{_nftables().script()}END"


class Rules(Step, frozen=True, kw_only=True):
    """Firewall rules, in one transaction.

    Conntrack keeps a flow on its old path for as long as packets come, so a client would go on
    talking to a published port's former owner, or to nobody. Hence such flows are forgotten: those
    of UDP when a port comes (a TCP client notices by itself), all when it goes.
    """

    rules: tuple[Isolate | Masquerade | Guard | Publish, ...]

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.add(self.rules)
        try:
            if udp := [rule for rule in self._published if rule.protocol == "udp"]:
                kernel.forget_flows(*udp)
        except BaseException:
            kernel.firewall.delete(self.rules)
            raise

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.delete(self.rules)
        if published := self._published:
            kernel.forget_flows(*published)

    @property
    def _published(self) -> Sequence[Publish]:
        return [rule for rule in self.rules if isinstance(rule, Publish)]

    def check(self, kernel: Kernel) -> None:
        if missing := kernel.firewall.check(self.rules):
            raise Drift("the firewall lacks: " + "; ".join(missing))

    def undo(self) -> str:
        return _nft(_nftables().lines(self.rules, "delete"))

    def __str__(self) -> str:
        flows = [
            f"\nconntrack -D -p udp --dport {port} 2>/dev/null || true"
            for rule in self._published
            if rule.protocol == "udp"
            for port in range(rule.host_port, rule.host_port + rule.count)
        ]
        return _nft(_nftables().lines(self.rules)) + "".join(flows)


def _nftables() -> firewall.Firewall:
    """A plan prints as nft's lines, whichever back end will carry it out."""
    return firewall.load("nftables")


def _nft(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return f"nft {shlex.quote(lines[0])}"
    return "nft -f - <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END"
