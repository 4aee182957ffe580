"""Addresses, routes and the rules that choose among routing tables."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.steps.base import (
    Step,
    Thing,
    gone_is_success,
    ip,
    within,
)

_PRIORITY = " priority 32000"  # before the main table's 32766; kernel.netlink says it too


class Address(Step, frozen=True, kw_only=True):
    """An address on an interface."""

    dev: str
    address: IPv4Interface
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_address(self.dev, self.address)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_address(self.dev, self.address)

    def check(self, kernel: Kernel) -> None:
        found = [address for _, address in kernel.netlink(self.at).addresses(self.dev)]
        if self.address not in found:
            raise Drift(f"address {self.address} is missing on {self.dev}")

    def undo(self) -> str:
        return f"{ip(self.at)} addr del {self.address} dev {self.dev}"

    def __str__(self) -> str:
        brd = " brd +" if self.address.network.prefixlen < 31 else ""
        return f"{ip(self.at)} addr add {self.address}{brd} dev {self.dev}"


class DefaultRoute(Step, frozen=True, kw_only=True):
    """The way out of a sandbox, in place of the one it had (`was_dev`, `was_gateway`)."""

    dev: str
    gateway: IPv4Address
    at: str
    was_dev: str | None = None
    was_gateway: IPv4Address | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev) if self.was_dev is None else within(self.at, None)

    def add(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        if self.was_dev is None:
            netlink.add_route(self.dev, None, str(self.gateway))
        else:
            netlink.replace_default(self.dev, str(self.gateway))

    def delete(self, kernel: Kernel) -> None:
        if not kernel.exists(self.at):
            return
        netlink = kernel.netlink(self.at)
        link = netlink.link(self.dev)
        ours = (str(self.gateway), link.ifindex if link else None)
        ways = [(r.gateway, r.ifindex) for r in netlink.routes() if r.dst is None]
        # none at all: it went with the interface, and handing it on is what was refused last time
        if ours not in ways and (ways or self.was_dev is None):
            return
        with gone_is_success():
            if self.was_dev is None:
                netlink.delete_route(self.dev, None, str(self.gateway))
            else:
                netlink.replace_default(self.was_dev, str(self.was_gateway))

    def check(self, kernel: Kernel) -> None:
        # which of several networks has the route is not for this one to say
        if all(r.dst is not None for r in kernel.netlink(self.at).routes()):
            raise Drift(f"the default route via {self.gateway} is missing in {self.at}")

    def undo(self) -> str:
        if self.was_dev is None:
            return f"{ip(self.at)} route del default via {self.gateway} dev {self.dev}"
        was = f"via {self.was_gateway} dev {self.was_dev}"
        return f"{ip(self.at)} route replace default {was}"

    def __str__(self) -> str:
        verb = "add" if self.was_dev is None else "replace"
        return f"{ip(self.at)} route {verb} default via {self.gateway} dev {self.dev}"


class Route(Step, frozen=True, kw_only=True):
    """A route of a table of its own; `dst` None is the default, `gateway` None is on-link."""

    dev: str
    table: int
    at: str
    dst: IPv4Network | None = None
    gateway: IPv4Address | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_route(self.dev, self.dst, self._via, table=self.table)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_route(self.dev, self.dst, self._via, table=self.table)

    @property
    def _via(self) -> str | None:
        return None if self.gateway is None else str(self.gateway)

    def undo(self) -> str:
        return f"{ip(self.at)} route del {self._text}"

    @property
    def _text(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        scope = "" if self.gateway else " scope link"
        return f"{self.dst or 'default'}{via} dev {self.dev}{scope} table {self.table}"

    def __str__(self) -> str:
        return f"{ip(self.at)} route add {self._text}"


class RuleFrom(Step, frozen=True, kw_only=True):
    """What is sent from an address follows the routes of a table."""

    address: IPv4Address
    table: int
    at: str

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, None)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_rule(str(self.address), self.table)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_rule(str(self.address), self.table)

    def check(self, kernel: Kernel) -> None:
        if (str(self.address), self.table) not in kernel.netlink(self.at).rules():
            raise Drift(f"the rule for answers from {self.address} is missing in {self.at}")

    def undo(self) -> str:
        return f"{ip(self.at)} rule del from {self.address} table {self.table}{_PRIORITY}"

    def __str__(self) -> str:
        return f"{ip(self.at)} rule add from {self.address} table {self.table}{_PRIORITY}"
