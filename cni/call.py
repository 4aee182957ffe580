"""What the plugin types plan from, and what they answer with.

Shapes   pure but for a look at the kernel: `Call` in, `Answer` out; nothing is made here
Errors   CniError for what a configuration must not say

A plugin type is a module: `Conf` is its part of the configuration (keys as msgspec names them),
`propose(call)` the plan and the result. The verbs follow from these (cni.plugin): so no type has a
teardown of its own. One whose IPAM plugin needs the interface first (DHCP) is asked twice, at first
without addresses; what it then plans is made at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from ipaddress import ip_network
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec.structs import replace

from cni.spec import IP, CniError, Code, Command, Dns, Interface, Result, Route, options
from netkit import addresses, attaching, naming, steps
from netkit.drivers import routing
from netkit.errors import NetkitError
from netkit.firewall import Hide, Plain, Rule, Siblings
from netkit.kernel import Kernel, netns

# Codes of our own; the spec leaves those from 100 on to plugins
CONFLICT, DRIFT, REFUSED = 100, 101, 102
_RT_SCOPE_LINK = 253


class Answer(NamedTuple):
    """What ADD answers, and what is to be made for it."""

    result: Result
    proposal: attaching.Proposal = attaching.Proposal()


class Plugin(Protocol):
    """Satisfied by a module."""

    Conf: type

    def propose(self, call: Call) -> Answer: ...


class DnsConf(msgspec.Struct):
    nameservers: list[str] = []
    domain: str = ""
    search: list[str] = []
    options: list[str] = []


class Call:
    """One ADD (or STATUS, which has neither namespace nor addresses) of a plugin type."""

    def __init__(
        self, command: Command, conf: Any, kernel: Kernel, leased: Result | None = None
    ) -> None:
        """*conf* is the module's Conf; *leased* what the IPAM plugin gave, None before it is asked
        or where there is none."""
        self.command = command
        self.conf = conf
        self.kernel = kernel
        self.leased = leased

    @property
    def at(self) -> str:
        """The container's network namespace."""
        return self.command.netns

    @property
    def ifname(self) -> str:
        return self.command.ifname

    @cached_property
    def key(self) -> str:
        """The attachment, by which all that is made for it is named."""
        return f"{self.command.name}/{self.command.container_id}"

    @cached_property
    def host_ifname(self) -> str:
        return naming.host_ifname(self.key, self.ifname)

    @cached_property
    def alias(self) -> str:
        """Whose a link is, for whoever lists them."""
        return f"netkit:{naming.digest(f'{self.key}/{self.ifname}')[:12]}"

    def mac(self, configured: str = "") -> str:
        """The interface's: as asked for, or the same again for the same attachment."""
        asked = self.command.wanted_mac(configured)
        return asked or naming.bridge_mac(f"cni {self.key}/{self.ifname}")

    @cached_property
    def host_mac(self) -> str:
        return naming.bridge_mac(f"cni host {self.key}/{self.ifname}")

    @cached_property
    def previous(self) -> Result:
        """The result so far, which a chained plugin cannot do without."""
        found = self.command.previous
        if found is None:
            raise CniError(
                Code.INVALID_CONFIG,
                f"{self.command.conf.get('type')} needs prevResult: it is a chained plugin",
                "put it after bridge, ptp or macvlan in the list",
            )
        return found

    def require_ipam(self) -> None:
        """Refuse a configuration that gets no addresses from anybody."""
        if not self.command.ipam.get("type"):
            raise CniError(
                Code.INVALID_CONFIG,
                f"{self.command.conf.get('type')} needs ipam: nobody gives it an address",
                'such as "ipam": {"type": "host-local", "subnet": "10.1.0.0/24"}',
            )

    @cached_property
    def ips(self) -> tuple[addresses.Interface, ...]:
        """What was leased."""
        return tuple(_interface(ip.address) for ip in (self.leased or Result()).ips)

    @property
    def versions(self) -> tuple[int, ...]:
        return addresses.versions(self.ips)

    @property
    def gateways(self) -> list[addresses.Address]:
        return [_address(ip.gateway) for ip in (self.leased or Result()).ips if ip.gateway]

    def ipv6(self, *, dad: bool = False) -> list[steps.Sysctl]:
        """IPv6 inside: off without an address of it; and whether to ask if one is free (*dad*)."""
        if not self.ips:
            return []
        plan = routing.ipv6(self.versions, self.ifname, self.at)
        wanted = [step for step in plan if isinstance(step, steps.Sysctl)]
        if not (dad and 6 in self.versions):
            return wanted
        return [
            replace(step, value="1") if step.key.endswith("/accept_dad") else step
            for step in wanted
        ]

    def ipv6_of_lan(self) -> list[steps.Sysctl]:
        """IPv6 inside, where the link is somebody else's: its routers are listened to, as the
        container has it; but with an address of it, it is on."""
        return [
            step for step in self.ipv6() if (step.key[-12:], step.value) == ("disable_ipv6", "0")
        ]

    def numbered(self, routes: Iterable[Route] = ()) -> list[steps.Step]:
        """The interface inside up, with its addresses and routes."""
        return [
            steps.DeviceUp(dev=self.ifname, at=self.at),
            *(steps.Address(dev=self.ifname, address=ip, at=self.at) for ip in self.ips),
            *self.routes(routes),
        ]

    def routes(self, more: Iterable[Route] = ()) -> list[steps.Route]:
        """The routes leased, and *more*, inside."""
        wanted: dict[object, steps.Route] = {}
        for each in (*(self.leased or Result()).routes, *more):
            route = self.route(each)
            wanted.setdefault((route.dst, route.version, route.table, route.metric), route)
        return [*wanted.values()]

    def route(self, route: Route, dev: str | None = None) -> steps.Route:
        """A route of a result, inside; without a gateway of its own by that of its addresses."""
        dst = ip_network(route.dst, strict=False)
        near = (gateway for gateway in self.gateways if gateway.version == dst.version)
        on_link = route.scope is not None and route.scope >= _RT_SCOPE_LINK
        gateway = _address(route.gw) if route.gw else None if on_link else next(near, None)
        if gateway is not None and gateway.is_unspecified:  # DHCP's word for the link itself
            gateway = None
        return steps.Route(
            dev=dev or self.ifname,
            at=self.at,
            dst=dst if dst.prefixlen or gateway is None else None,
            gateway=gateway,
            table=route.table,
            metric=route.priority or None,
            mtu=route.mtu or None,
            advmss=route.advmss or None,
            scope=route.scope,
            beside=True,  # another network of the container's may lead there, too
        )

    def announced(self, mac: str) -> list[steps.Step]:
        """What tells the neighbours whose the addresses are now: they may remember another."""
        if not self.ips:
            return []
        ips = tuple(each.ip for each in self.ips)
        plan: list[steps.Step] = []
        if 6 in self.versions:
            plan.append(routing.ready(self.ifname, self.ips, self.at))
        return [*plan, steps.Announce(dev=self.ifname, at=self.at, mac=mac, addresses=ips)]

    def result(self, *interfaces: Interface, routes: Iterable[Route] = ()) -> Result:
        """What ADD answers: the last of *interfaces* has the addresses."""
        leased = self.leased or Result()
        ips = tuple(ip._replace(interface=len(interfaces) - 1) for ip in leased.ips)
        return Result(ips, (*leased.routes, *routes), self.dns(), interfaces)

    def dns(self) -> Dns:
        """The IPAM plugin's, unless the configuration says something."""
        said = options(self.command.conf.get("dns"), DnsConf, "dns")
        own = Dns(tuple(said.nameservers), said.domain, tuple(said.search), tuple(said.options))
        return own if own != Dns() else (self.leased or Result()).dns


def identity(command: Command) -> str:
    """Which namespace CNI_NETNS is: one, and not the host's."""
    try:
        found = netns.identity(command.netns)
    except NetkitError as error:
        raise CniError(Code.INVALID_NETNS, f"CNI_NETNS: {error}", error.hint) from error
    if netns.is_hosts(found):
        raise CniError(
            Code.INVALID_NETNS,
            f"CNI_NETNS {command.netns!r:.80} is the host's own network namespace",
            "a container on the host's network is attached to nothing",
        )
    return found


def hosts_side(result: Result) -> list[str]:
    """The interfaces of a result that are the host's."""
    return [each.name for each in result.interfaces if not each.sandbox]


def way_in(call: Call) -> str | None:
    """The interface of the host's by which the container is reached, of those in prevResult, or a
    VLAN on one of those; None if there is none: what it sits on leads out (macvlan).
    """
    names = hosts_side(call.previous)
    if call.previous.interfaces and not names:
        return None
    host = call.kernel.netlink()
    for own, _ in container_ips(call.previous):
        way = host.way_to(own.ip)
        if way is not None and (way in names or way.rpartition(".")[0] in names):
            return way
        if way is not None and not names and (link := host.link(way)) and link.kind in _NEAR:
            return way
    return names[0] if names else None


_NEAR = ("bridge", "veth")  # what leads to containers, where an old result does not say


def container_ips(result: Result) -> Sequence[tuple[addresses.Interface, IP]]:
    """The addresses of a result that are the container's."""
    inside = [bool(each.sandbox) for each in result.interfaces]
    return [
        (_interface(ip.address), ip)
        for ip in result.ips
        if ip.interface is None or not inside or inside[ip.interface]
    ]


def _interface(text: str) -> addresses.Interface:
    found: addresses.Interface = addresses.from_text(addresses.Interface, text)
    return found


def _address(text: str) -> addresses.Address:
    found: addresses.Address = addresses.from_text(addresses.Address, text)
    return found


def forwarding(versions: Iterable[int]) -> Mapping[str, attaching.Make]:
    """That the host forwards, as shared plans."""

    def plan(version: int) -> attaching.Make:
        return lambda kernel: (steps.Forwarding(version=version),)

    return {f"forwarding of IPv{version}": plan(version) for version in versions}


def tables() -> Mapping[str, attaching.Make]:
    """What all firewall rules stand on, as a shared plan."""
    return {"tables": lambda kernel: (steps.Tables(),)}


def hidden(
    own: Iterable[addresses.Interface],
) -> tuple[tuple[Rule, ...], Mapping[str, attaching.Make]]:
    """What masquerades these addresses beyond their subnets; and those subnets, as shared plans."""
    own = [*own]
    return tuple(Hide(each.ip) for each in own), siblings(own)


def plain(link: str) -> Mapping[str, attaching.Make]:
    """That what is behind *link* is ours to forward, and open to all, as a shared plan."""
    return {f"plain {link}": lambda kernel: (steps.Rules(rules=(Plain(link),)),)}


def siblings(own: Iterable[addresses.Interface]) -> Mapping[str, attaching.Make]:
    """The subnets of these addresses, as shared plans."""

    def plan(subnet: addresses.Network) -> attaching.Make:
        return lambda kernel: (steps.Rules(rules=(Siblings(subnet),)),)

    return {**tables(), **{f"subnet {each.network}": plan(each.network) for each in own}}
