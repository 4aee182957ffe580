"""Addresses, routes and the rules that choose among routing tables."""

from __future__ import annotations

from collections.abc import Sequence

from netkit import addresses
from netkit.errors import Drift
from netkit.kernel import Kernel
from netkit.kernel.netlink import PolicyRule, RouteOptions
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
    address: addresses.Interface
    at: str | None = None
    fresh: bool = True  # the interface is made by the same plan, so it cannot be there yet
    alone: bool = False  # what else is in its subnet is not on the link

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def prepare(self, kernel: Kernel) -> Step | None:
        if self.fresh:
            return self
        found = [address for _, address in kernel.netlink(self.at).addresses(self.dev)]
        return None if self.address in found else self

    def add(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        netlink.add_address(self.dev, self.address, prefix_route=not self.alone)

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
        if self.address.version == 6:
            how = " nodad"
        else:
            how = " brd +" if self.address.network.prefixlen < 31 else ""
        how += " noprefixroute" if self.alone else ""
        how += " scope global" if self.address.is_loopback else ""  # or `ip` makes it the host's
        return f"{ip(self.at)} addr add {self.address}{how} dev {self.dev}"


class NoAddress(Step, frozen=True, kw_only=True):
    """An address of somebody else's is taken off an interface, and comes back."""

    dev: str
    address: addresses.Interface
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_address(self.dev, self.address)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            netlink = kernel.netlink(self.at)
            if self.address not in [address for _, address in netlink.addresses(self.dev)]:
                netlink.add_address(self.dev, self.address)

    def undo(self) -> str:
        how = " nodad" if self.address.version == 6 else " brd +"
        return f"{ip(self.at)} addr add {self.address}{how} dev {self.dev}"

    def __str__(self) -> str:
        return f"{ip(self.at)} addr del {self.address} dev {self.dev}"


class DefaultRoute(Step, frozen=True, kw_only=True):
    """The way out of a sandbox, in place of the one it had (`was_dev`, `was_gateway`)."""

    dev: str
    gateway: addresses.Address
    at: str
    was_dev: str | None = None
    was_gateway: addresses.Address | None = None

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
        ways = [
            (r.gateway, r.ifindex) for r in netlink.routes(self.gateway.version) if r.dst is None
        ]
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
        routes = kernel.netlink(self.at).routes(self.gateway.version)
        if all(r.dst is not None for r in routes):
            raise Drift(f"the default route via {self.gateway} is missing in {self.at}")

    @property
    def _ip(self) -> str:
        return ip(self.at, self.gateway.version)

    def undo(self) -> str:
        if self.was_dev is None:
            return f"{self._ip} route del default via {self.gateway} dev {self.dev}"
        was = f"via {self.was_gateway} dev {self.was_dev}"
        return f"{self._ip} route replace default {was}"

    def __str__(self) -> str:
        verb = "add" if self.was_dev is None else "replace"
        return f"{self._ip} route {verb} default via {self.gateway} dev {self.dev}"


class Route(Step, frozen=True, kw_only=True):
    """A route; `dst` None is the default, `gateway` None is on-link, `table` None is main.

    `kind` is what `ip route` calls type: one that leads nowhere ("blackhole" …) has no `dev`.
    """

    dev: str | None = None
    table: int | None = None
    at: str | None = None
    dst: addresses.Network | None = None
    gateway: addresses.Address | None = None  # there is one or the other
    kind: str = "unicast"
    metric: int | None = None
    mtu: int | None = None
    advmss: int | None = None
    source: addresses.Address | None = None
    onlink: bool = False
    scope: int | None = None  # how far it leads: 0 anywhere, 253 the link, 254 the host
    protocol: int | None = None  # who added it: a person, unless given
    beside: bool = False  # there may be another to the same destination; this one comes first

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_route(self.dev, self.dst, self._via, **self._options)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_route(self.dev, self.dst, self._via, **self._options)

    def check(self, kernel: Kernel) -> None:
        if not self._is_there(kernel):
            raise Drift(f"the route {self._text} is missing in {self.at or 'the host'}")

    def _is_there(self, kernel: Kernel) -> bool:
        netlink = kernel.netlink(self.at)
        link = None if self.dev is None else netlink.link(self.dev)
        index = link.ifindex if link else None
        dst = None if self.dst is None or self.dst.prefixlen == 0 else self.dst
        return any(
            (found.dst, found.gateway) == (dst, self._via)
            and self.metric in (None, found.metric)
            and (self.dev is None or found.ifindex == index)
            for found in netlink.routes(self.version, table=self.table, type=self.kind)
        )

    @property
    def version(self) -> int:
        far = self.dst if self.gateway is None else self.gateway
        return 4 if far is None else far.version

    @property
    def _ip(self) -> str:
        return ip(self.at, self.version)

    @property
    def _via(self) -> str | None:
        return None if self.gateway is None else str(self.gateway)

    @property
    def _options(self) -> RouteOptions:
        return {
            "table": self.table,
            "type": self.kind,
            "metric": self.metric,
            "mtu": self.mtu,
            "advmss": self.advmss,
            "source": None if self.source is None else str(self.source),
            "onlink": self.onlink,
            "scope": self.scope,
            "protocol": self.protocol,
            "beside": self.beside,
        }

    def undo(self) -> str:
        return f"{self._ip} route del {self._text}"

    @property
    def _text(self) -> str:
        words = [] if self.kind == "unicast" else [self.kind]
        words.append(str(self.dst or "default"))
        words += [f"via {self.gateway}"] if self.gateway else []
        words += [f"dev {self.dev}"] if self.dev else []
        near = "link" if self.dev and not self.gateway else None
        scope = near if self.scope is None else self.scope
        words += [f"scope {scope}"] if scope is not None else []
        words += ["onlink"] if self.onlink else []
        words += [f"proto {self.protocol}"] if self.protocol else []
        named = ("table", "metric", "mtu", "advmss")
        words += [f"{word} {value}" for word in named if (value := getattr(self, word))]
        words += [f"src {self.source}"] if self.source else []
        return " ".join(words)

    def __str__(self) -> str:
        return f"{self._ip} route {'prepend' if self.beside else 'add'} {self._text}"


class NoRoute(Route, frozen=True, kw_only=True):
    """A route of somebody else's is taken away, and comes back."""

    def add(self, kernel: Kernel) -> None:
        super().delete(kernel)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            if not self._is_there(kernel):
                super().add(kernel)

    def check(self, kernel: Kernel) -> None:
        if self._is_there(kernel):
            raise Drift(f"the route {self._text} is back in {self.at or 'the host'}")

    def undo(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return super().undo()


class RuleFrom(Step, frozen=True, kw_only=True):
    """What is sent from an address follows the routes of a table."""

    address: addresses.Address
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
        if (str(self.address), self.table) not in kernel.netlink(self.at).rules(
            self.address.version
        ):
            raise Drift(f"the rule for answers from {self.address} is missing in {self.at}")

    def undo(self) -> str:
        return f"{self._ip} rule del {self._text}"

    def __str__(self) -> str:
        return f"{self._ip} rule add {self._text}"

    @property
    def _ip(self) -> str:
        return ip(self.at, self.address.version)

    @property
    def _text(self) -> str:
        return f"from {self.address} table {self.table}{_PRIORITY}"


class Policy(Step, frozen=True, kw_only=True):
    """A policy rule: what it matches follows the routes of a table. None matches anything."""

    table: int
    at: str
    source: addresses.Network | None = None
    to: addresses.Network | None = None
    iif: str | None = None
    oif: str | None = None
    mark: int | None = None
    mask: int | None = None
    priority: int = 32000
    version: int = 4

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, None)

    @property
    def _rule(self) -> PolicyRule:
        return PolicyRule(**{name: getattr(self, name) for name in PolicyRule._fields})

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_policy(self._rule)

    def delete(self, kernel: Kernel) -> None:
        if kernel.exists(self.at):
            with gone_is_success():
                kernel.netlink(self.at).delete_policy(self._rule)

    def check(self, kernel: Kernel) -> None:
        if self._rule not in kernel.netlink(self.at).policies(self.version):
            raise Drift(f"the rule {self._text} is missing in {self.at}")

    def undo(self) -> str:
        return f"{ip(self.at, self.version)} rule del {self._text}"

    def __str__(self) -> str:
        return f"{ip(self.at, self.version)} rule add {self._text}"

    @property
    def _text(self) -> str:
        words = [f"from {self.source or 'all'}"]
        named = ("to", "iif", "oif")
        words += [f"{word} {value}" for word in named if (value := getattr(self, word))]
        if self.mark is not None:
            words.append(f"fwmark {self.mark:#x}" + (f"/{self.mask:#x}" if self.mask else ""))
        return " ".join([*words, f"table {self.table} priority {self.priority}"])
