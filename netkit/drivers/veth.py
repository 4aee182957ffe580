"""A routed veth pair for each endpoint, without a bridge: whatever it sends, it sends to the host.

Source   CNI's ptp plugin for what users see; trust.md S01-S20 for what neighbours cannot do

Inside, an address is alone (/32, /128) and the gateway's is on the link; the host has that address
on its end of every pair, and a route to each endpoint. No endpoint shares a link with another, so
there is nobody to lie to about MACs, and of addresses the firewall drops all but an endpoint's own.

An internal network is the host and nothing else: its endpoints do not reach each other either.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_interface

from netkit import addresses
from netkit.drivers import Traits, access, routing
from netkit.firewall import Rule, Siblings, Source
from netkit.kernel.sysctl import key
from netkit.model import EndpointRecord, NetworkRecord
from netkit.steps import (
    Address,
    Alias,
    LinkUp,
    Localnet,
    Pair,
    Passage,
    Plan,
    Route,
    Rules,
    Step,
)

TRAITS = Traits(routed=True, names=True)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return routing.shared(net)


def network(net: NetworkRecord) -> Plan:
    if net.internal or not net.icc:
        return ()
    return (Rules(rules=tuple(Siblings(subnet) for subnet in net.subnets)),)


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    assert ep.netns is not None
    at, outside, inside = ep.netns, ep.host_ifname, ep.ifname
    gateways = [ip_interface(ip.ip) for ip in routing.own_addresses(net)]
    # localhost's connections to published ports leave by the host's end
    localnet = key("net.ipv4.conf", outside, "route_localnet")
    plan: list[Step] = [
        Rules(rules=_rules(net, ep)),
        Pair(
            name=outside,
            mac=ep.host_mac,
            mtu=net.mtu,
            peer=inside,
            peer_mac=ep.mac,
            peer_at=at,
            alias=routing.alias(ep.id),
        ),
        Alias(dev=outside, alias=routing.alias(ep.id)),
        Localnet(key=localnet, value="1", dev=outside),
        *routing.ipv6(net.versions, outside),
        *routing.ipv6(net.versions, inside, at),
        *(Address(dev=outside, address=gateway) for gateway in gateways),
        *(Address(dev=inside, address=address, at=at) for address in ep.addresses),
        LinkUp(dev=inside, at=at, fresh=True),
        *(Route(dev=outside, dst=address.network) for address in ep.addresses),
        *(Route(dev=inside, dst=gateway.network, at=at) for gateway in gateways),
        routing.ready(outside, gateways),
        routing.ready(inside, ep.addresses, at),
    ]
    if not net.internal:
        plan.append(Passage(dev=outside))
    if ep.ports:
        plan += routing.answers(net, ep, [gateway.network for gateway in gateways])
        plan += routing.proxy(net, ep)
    return tuple(plan)


def _rules(net: NetworkRecord, ep: EndpointRecord) -> tuple[Rule, ...]:
    own: list[addresses.Address] = [address.ip for address in ep.addresses]
    if 6 in net.versions:
        own.append(addresses.link_local(ep.mac))
    # an endpoint that meets itself through a published port; where siblings meet, it is one of them
    alone = () if net.icc and not net.internal else tuple(ip.network for ip in ep.addresses)
    return (
        Source(ep.host_ifname, tuple(own)),
        *routing.edge(net, ep.host_ifname, alone),
        *access.of_endpoint(net, ep),
        *routing.published(net, ep),
    )
