"""`sbr`: what a container sends from an address of this interface leaves by it (source routing).

Source   containernetworking/plugins, plugins/meta/sbr: keys, defaults, and which routes go where

Each address gets a rule, and a routing table of its own with a default route; the interface's other
routes move there, so the container's own default route is another interface's. With `table` there
are rules only, for who fills that table. Beyond the reference: what is by a link-local gateway
moves, too, but what is link-local stays, for neighbours are found by it; and DEL puts all back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_address, ip_interface
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from cni import moves
from cni.call import Answer, Call
from cni.spec import CniError, Code
from netkit import addresses, attaching, steps

_FIRST = 100
_METRIC = {4: 0, 6: 1024}  # of a route that was given none


class Own(NamedTuple):
    """An address of the interface's, and its gateway; *chosen*: whatever routes there are."""

    address: addresses.Interface
    gateway: addresses.Address | None
    chosen: bool


class Conf(msgspec.Struct, rename="camel"):
    table: int | None = None
    gateways: list[str] = []
    add_source_hints: bool = False

    def __post_init__(self) -> None:
        if self.table is not None and not 0 < self.table < 1 << 32:
            raise ValueError(f"table is {self.table}, the number of no routing table")
        versions = [ip_address(text).version for text in self.gateways]
        if len(versions) != len({*versions}):
            raise ValueError("gateways has two of one IP version")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    own = _own(call)
    plan: list[steps.Step] = []
    if conf.table is not None:
        plan += [_rule(call, each, conf.table) for each in own]
        return Answer(call.previous, attaching.Proposal(tuple(plan)))
    found = moves.routes(call)
    tables: list[int] = []
    for each in own:
        tables.append(call.kernel.netlink(call.at).free_table(_FIRST, tables))
        plan += _copies(call, found, each, tables[-1])
        plan.append(_rule(call, each, tables[-1]))
    hints = [_hint(call, each) for each in own] if conf.add_source_hints else []
    plan += _moves(found, [hint for hint in hints if hint is not None], conf.add_source_hints)
    return Answer(call.previous, attaching.Proposal(tuple(plan)))


def _own(call: Call) -> list[Own]:
    """The interface's addresses, by prevResult, and the gateways that they are to have."""
    interfaces = call.previous.interfaces
    given = {ip.version: ip for ip in map(ip_address, call.conf.gateways)}
    found = []
    for ip in call.previous.ips:
        if ip.interface is None or interfaces[ip.interface].name == call.ifname:
            address = ip_interface(ip.address)
            chosen = given.get(address.version)
            gateway = chosen or (ip_address(ip.gateway) if ip.gateway else None)
            found.append(Own(address, gateway, chosen is not None))
    if not found:
        raise CniError(
            Code.INVALID_CONFIG,
            f"prevResult has no address of {call.ifname}: there is nothing to route by",
            "put sbr behind what gives it one",
        )
    return found


def _rule(call: Call, own: Own, table: int) -> steps.Step:
    return steps.RuleFrom(address=own.address.ip, table=table, at=call.at)


def _copies(
    call: Call,
    found: Iterable[steps.Route],
    own: Own,
    table: int,
) -> list[steps.Route]:
    """The routes of an address's table; those on the link first, for gateways are reached so."""
    usual = _METRIC[own.address.version]
    wanted = {
        (route.dst, route.metric or usual): replace(route, table=table, protocol=None)
        for route in found
        if route.version == own.address.version and _concerns(route, own.address)
    }
    if own.gateway is not None and (own.chosen or (None, usual) not in wanted):
        default = steps.Route(dev=call.ifname, at=call.at, gateway=own.gateway, table=table)
        wanted[None, usual] = default
    return sorted(wanted.values(), key=moves.is_far)


def _concerns(route: steps.Route, own: addresses.Interface) -> bool:
    ends = [end for end in (route.source, route.gateway) if end is not None]
    return not ends or any(end in own.network or end.is_link_local for end in ends)


def _hint(call: Call, own: Own) -> steps.Route | None:
    """What leads to an address's subnet for who has not chosen an address yet."""
    ip, subnet = own.address.ip, own.address.network
    if subnet.prefixlen == subnet.max_prefixlen:
        return None
    return steps.Route(dev=call.ifname, at=call.at, dst=subnet, source=ip)


def _moves(
    found: Sequence[steps.Route], hints: Sequence[steps.Route], hinting: bool
) -> list[steps.Step]:
    """What is taken from the main table, by gateways first; and what stays there, or comes."""
    there = {(route.dst, route.source) for route in found if route.gateway is None}
    wanted = {hint.dst: hint for hint in reversed(hints)}

    def stays(route: steps.Route) -> bool:
        hint = wanted.get(route.dst)
        return route.gateway is None and (hint is None or route.source == hint.source)

    gone = [route for route in reversed(found) if not (hinting and stays(route))]
    new = [hint for hint in wanted.values() if (hint.dst, hint.source) not in there]
    return [*map(moves.taken, gone), *new]
