"""Routes of an interface in the container, on their way from the main table into another.

Shapes   as steps; those on the link come first, for gateways are reached by them. Link-local ones
         of IPv6 are not among them: by these neighbours are found, whatever the table
"""

from __future__ import annotations

from ipaddress import ip_address

from msgspec.structs import asdict

from cni.call import Call
from cni.spec import CniError, Code
from netkit import addresses, steps
from netkit.kernel import netlink


def routes(call: Call) -> list[steps.Route]:
    """The interface's routes in the main table, as they are now."""
    kernel = call.kernel.netlink(call.at)
    link = kernel.link(call.ifname)
    if link is None:
        raise CniError(
            Code.INVALID_CONFIG,
            f"there is no interface {call.ifname} in {call.at}",
            f"put {call.command.conf.get('type')} behind what makes it",
        )
    found = [
        _step(call, route, version)
        for version in addresses.VERSIONS
        for route in kernel.routes(version)
        if route.ifindex == link.ifindex
    ]
    return sorted((route for route in found if not _is_link_local(route)), key=is_far)


def is_far(route: steps.Route) -> bool:
    return route.gateway is not None


def taken(route: steps.Route) -> steps.NoRoute:
    """That it is not there."""
    return steps.NoRoute(**asdict(route))


def _is_link_local(route: steps.Route) -> bool:
    return route.version == 6 and route.dst is not None and route.dst.is_link_local


def _step(call: Call, route: netlink.Route, version: int) -> steps.Route:
    anywhere = addresses.network("route", "::/0" if version == 6 else "0.0.0.0/0")
    return steps.Route(
        dev=call.ifname,
        at=call.at,
        dst=route.dst if route.dst or route.gateway else anywhere,
        gateway=ip_address(route.gateway) if route.gateway else None,
        metric=route.metric,
        mtu=route.mtu,
        advmss=route.advmss,
        source=ip_address(route.source) if route.source else None,
        onlink=route.onlink,
        scope=route.scope if version == 4 else None,
        protocol=route.protocol,
    )
