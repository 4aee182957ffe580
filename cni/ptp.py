"""`ptp`: a veth pair between the host and the container, with nobody else on it.

Source   containernetworking/plugins, plugins/main/ptp: keys, defaults, topology, and the result

Inside, the gateway alone is on the link, and the rest of the subnet is reached through it; the host
has the gateway's address on its end of every pair, and a route to each container. Beyond the
reference: ranges with the same gateway may share a pair, and nobody reaches the host's loopback.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network
from typing import Literal

import msgspec
from msgspec.structs import replace

from cni.call import Answer, Call, forwarding, hidden, tables
from cni.spec import CniError, Code, Interface, Result
from netkit import addresses, attaching, steps
from netkit.drivers import routing
from netkit.firewall import Plain, Rule

_MTU = 1500


class Conf(msgspec.Struct, rename="camel"):
    ip_masq: bool = False
    ip_masq_backend: Literal["", "iptables", "nftables"] = ""  # netkit has one for all
    mtu: int = 0
    mac: str = ""

    def __post_init__(self) -> None:
        if self.mtu < 0:
            raise ValueError(f"mtu is {self.mtu}")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    call.require_ipam()
    mac, mtu = call.mac(conf.mac), conf.mtu or _MTU
    hide, subnets = hidden(call.ips) if conf.ip_masq else ((), {})
    shared = {**tables(), **forwarding(call.versions), **subnets}
    ends = (
        Interface(call.host_ifname, call.host_mac, mtu=mtu),
        Interface(call.ifname, mac, call.at, mtu=mtu),
    )
    return Answer(call.result(*ends), attaching.Proposal(_plan(call, mac, mtu, hide), shared))


def status(call: Call) -> None:
    call.require_ipam()


def _plan(call: Call, mac: str, mtu: int, hide: tuple[Rule, ...]) -> steps.Plan:
    outside, inside, at = call.host_ifname, call.ifname, call.at
    ways = _gateways(call)
    gateways = [ip_interface(ip) for ip in dict.fromkeys(ways.values())]
    plan: list[steps.Step] = [
        steps.Rules(rules=(Plain(outside),)),
        *((steps.Rules(rules=hide),) if hide else ()),
        steps.Pair(
            name=outside,
            mac=call.host_mac,
            mtu=mtu,
            peer=inside,
            peer_mac=mac,
            peer_at=at,
            alias=call.alias,
        ),
        steps.Alias(dev=outside, alias=call.alias),
        *(routing.ipv6(call.versions, outside) if ways else ()),
        *call.ipv6(),
        steps.LinkUp(dev=inside, at=at, fresh=True),
        *(steps.Address(dev=outside, address=gateway) for gateway in gateways),
        *(steps.Address(dev=inside, address=own, at=at, alone=True) for own in ways),
        *(steps.Route(dev=outside, dst=ip_network(own.ip)) for own in ways),
        *_by_gateway(call, ways),
        # the reference takes a route by anybody in the subnet, though only the host is on the link
        *(replace(way, onlink=way.gateway not in (None, *ways.values())) for way in call.routes()),
    ]
    if ways:
        plan += [routing.ready(outside, gateways), routing.ready(inside, call.ips, at)]
    return tuple(plan)


def _gateways(call: Call) -> dict[addresses.Interface, addresses.Address]:
    """Of each address leased, the gateway, which is the host."""
    leased = (call.leased or Result()).ips
    for ip in leased:
        if not ip.gateway:
            raise CniError(
                Code.INVALID_CONFIG,
                f"IPAM plugin {call.command.ipam.get('type')} gave {ip.address} without a gateway, "
                "which is to be the host's address",
                "give its range or address a gateway",
            )
    return dict(zip(call.ips, (ip_address(ip.gateway) for ip in leased), strict=True))


def _by_gateway(
    call: Call, ways: dict[addresses.Interface, addresses.Address]
) -> Iterator[steps.Route]:
    """The gateways on the link; then the rest of the subnets."""
    dev, at = call.ifname, call.at
    near: dict[addresses.Address, addresses.Address] = {}
    far: dict[addresses.Network, addresses.Interface] = {}
    for own, gateway in ways.items():  # of several, the first address is the one to be seen by
        near.setdefault(gateway, own.ip)
        if own.network != ip_network(own.ip):
            far.setdefault(own.network, own)
    for gateway, source in near.items():
        yield steps.Route(dev=dev, at=at, dst=ip_network(gateway), source=source)
    for subnet, own in far.items():
        yield steps.Route(dev=dev, at=at, dst=subnet, gateway=ways[own], source=own.ip)
