"""A Linux bridge with the gateway's address, and a veth pair for each endpoint.

Source   Docker's bridge driver for what users see; trust.md S01-S20 for what neighbours cannot do

The order of an endpoint's steps is a security matter. Its guard stands before the port exists and
falls after the port is gone, so there is no moment in which a container may send as somebody else.

A bridge may be somebody else's (`docker -b`): then its address, if it has one, is the gateway's,
and what we change on it is put back.
"""

from __future__ import annotations

from collections.abc import Mapping

from netkit import addresses
from netkit.drivers import Traits, access, routing, vlans
from netkit.firewall import Closed, Guard, Rule
from netkit.kernel.sysctl import key
from netkit.model import EndpointRecord, NetworkRecord
from netkit.steps import (
    Address,
    Alias,
    Announce,
    Bridge,
    LinkUp,
    Localnet,
    OwnMac,
    Passage,
    Plan,
    Port,
    PortReady,
    Rules,
    Step,
    Sysctl,
    Veth,
)

TRAITS = Traits(
    options=vlans.OPTIONS,
    bridge=True,
    names=True,
    settle=lambda net, spec, others: vlans.settle(net, spec),
)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return {**routing.shared(net), **vlans.shared(net)}


def network(net: NetworkRecord) -> Plan:
    made = not net.foreign
    plan: list[Step] = []
    if made:
        plan += [
            Bridge(name=net.bridge, mac=net.mac, mtu=net.mtu, alias=routing.alias(net.id)),
            Alias(dev=net.bridge, alias=routing.alias(net.id)),
            *routing.ipv6(net.versions, net.bridge),
        ]
    else:
        plan.append(OwnMac(dev=net.bridge, mac=net.mac))
        if 6 in net.versions:
            off = key("net.ipv6.conf", net.bridge, "disable_ipv6")
            plan.append(Sysctl(key=off, value="0"))
    plan += vlans.of_bridge(net)
    # localhost's connections to published ports leave through the bridge
    localnet = key("net.ipv4.conf", net.bridge, "route_localnet")
    plan.append(Localnet(key=localnet, value="1", dev=net.bridge if made else None))
    plan.append(Rules(rules=tuple(routing.edge(net, net.bridge, net.subnets))))
    plan += [Address(dev=net.bridge, address=ip, fresh=made) for ip in routing.own_addresses(net)]
    plan.append(LinkUp(dev=net.bridge, fresh=made, back=not made))
    if not net.internal:
        plan.append(Passage(dev=net.bridge))
    return tuple(plan)


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    at, spoken = ep.netns, routing.spoken(net, ep)
    plan: list[Step] = [
        Rules(rules=_endpoint_rules(net, ep)),
        Veth(
            name=ep.host_ifname,
            mac=ep.host_mac,
            mtu=net.mtu,
            master=net.bridge,
            peer=ep.ifname,
            peer_mac=ep.mac,
            at=at,
            alias=routing.alias(ep.id),
        ),
        Port(dev=ep.host_ifname, alias=routing.alias(ep.id), isolated=not net.icc),
        *vlans.of_port(net, ep.host_ifname),
        routing.no_ipv6(ep.host_ifname),
        *(routing.ipv6(spoken, ep.ifname, at) if spoken else ()),
        *(Address(dev=ep.ifname, address=address, at=at) for address in ep.addresses),
        LinkUp(dev=ep.ifname, at=at, fresh=True),
        PortReady(dev=ep.host_ifname),
    ]
    if ep.address(6) is not None:
        plan.append(routing.ready(ep.ifname, ep.addresses, at))
    if ep.addresses:
        ips = tuple(address.ip for address in ep.addresses)
        plan.append(Announce(dev=ep.ifname, at=at, mac=ep.mac, addresses=ips))
    if ep.ports:
        plan += routing.answers(net, ep, [address.network for address in ep.addresses])
        plan += routing.proxy(net, ep)
    return tuple(plan)


def _endpoint_rules(net: NetworkRecord, ep: EndpointRecord) -> tuple[Rule, ...]:
    own: list[addresses.Address] = [address.ip for address in ep.addresses]
    spoken = routing.spoken(net, ep)
    if own and 6 in spoken:
        own.append(addresses.link_local(ep.mac))
    guard = Guard(ep.host_ifname, ep.mac, tuple(own), 6 in spoken or not spoken, vlans.tagged(net))
    closed = () if net.icc else (Closed(ep.host_ifname, net.bridge, ep.mac),)
    return (guard, *closed, *access.of_endpoint(net, ep), *routing.published(net, ep))
