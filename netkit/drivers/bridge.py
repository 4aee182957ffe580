"""A Linux bridge with the gateway's address, and a veth pair for each endpoint.

Source   Docker's bridge driver for what users see; trust.md S01-S20 for what neighbours cannot do

The order of an endpoint's steps is a security matter. Its guard stands before the port exists and
falls after the port is gone, so there is no moment in which a container may send as somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

from netkit.firewall import Guard, Isolate, Masquerade, Publish, Rule
from netkit.kernel.sysctl import key
from netkit.model import EndpointRecord, NetworkRecord
from netkit.steps import (
    Address,
    Alias,
    Bridge,
    Forwarding,
    LinkUp,
    Plan,
    Port,
    PortReady,
    Route,
    RuleFrom,
    Rules,
    Step,
    Sysctl,
    Tables,
    Veth,
)

_TABLES = 1 << 16  # routing tables of our own begin above those that people number by hand


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    plans: dict[str, Plan] = {"tables": (Tables(),)}
    if net.ip_forward and not net.internal:
        plans["forwarding"] = (Forwarding(),)
    return plans


def network(net: NetworkRecord) -> Plan:
    assert net.subnet is not None
    rules: list[Rule] = [Isolate(net.bridge, net.subnet, net.internal)]
    if net.masquerade and not net.internal:
        rules.append(Masquerade(net.bridge))
    localnet = key("net.ipv4.conf", net.bridge, "route_localnet")
    return (
        Bridge(name=net.bridge, mac=net.mac, mtu=net.mtu, alias=_alias(net.id)),
        Alias(dev=net.bridge, alias=_alias(net.id)),
        _no_ipv6(net.bridge),
        # localhost's connections to published ports leave through the bridge
        Sysctl(key=localnet, value="1", dev=net.bridge),
        Rules(rules=tuple(rules)),
        Address(dev=net.bridge, address=net.gateway_interface),
        LinkUp(dev=net.bridge, fresh=True),
    )


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    at = ep.netns
    rules: list[Rule] = [Guard(ep.host_ifname, ep.mac, (ep.address.ip,) if ep.address else ())]
    for p in ep.ports:
        assert ep.address is not None
        rules.append(
            Publish(p.host_address, p.host_port, ep.address.ip, p.port, p.protocol, p.count)
        )
    plan: list[Step] = [
        Rules(rules=tuple(rules)),
        Veth(
            name=ep.host_ifname,
            mac=ep.host_mac,
            mtu=net.mtu,
            master=net.bridge,
            peer=ep.ifname,
            peer_mac=ep.mac,
            at=at,
            alias=_alias(ep.id),
        ),
        Port(dev=ep.host_ifname, alias=_alias(ep.id)),
        _no_ipv6(ep.host_ifname),
        _no_ipv6(ep.ifname, at),
    ]
    if ep.address is not None:
        plan.append(Address(dev=ep.ifname, address=ep.address, at=at))
    plan.append(LinkUp(dev=ep.ifname, at=at, fresh=True))
    plan.append(PortReady(dev=ep.host_ifname))
    if ep.ports:
        plan += _answers(net, ep)
    return tuple(plan)


def _answers(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    """What answers at a published port goes back by this network, whichever has the default route.

    Elsewhere it would leave with an address that is not that network's, and the guard drops it.
    """
    assert ep.address is not None
    assert ep.netns is not None
    table = _TABLES + crc32(ep.ifname.encode()) % _TABLES
    return (
        Route(dev=ep.ifname, table=table, at=ep.netns, dst=net.subnet),
        Route(dev=ep.ifname, table=table, at=ep.netns, gateway=net.gateway),
        RuleFrom(address=ep.address.ip, table=table, at=ep.netns),
    )


def _no_ipv6(dev: str, at: str | None = None) -> Sysctl:
    return Sysctl(key=key("net.ipv6.conf", dev, "disable_ipv6"), value="1", dev=dev, at=at)


def _alias(owner: str) -> str:
    return f"netkit:{owner[:12]}"
