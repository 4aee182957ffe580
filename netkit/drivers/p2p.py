"""A link: a veth pair between two sandboxes, or a sandbox and the host, without a network.

Shapes   `shared` and `link` as a driver's, but of a LinkRecord
Source   the card: 10.1.1.1/32 and 10.1.1.2/32, each with a route to the other, and no subnet

An end's default route, and whatever else it has, is left alone. What is behind a link is not the
host's to forward to: a sandbox that is linked to the host reaches the host and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network

from netkit import addresses
from netkit.drivers import routing
from netkit.firewall import Isolate, Rule, Source
from netkit.model import LinkEnd, LinkRecord
from netkit.steps import Address, Alias, LinkUp, Pair, Plan, Route, Rules, Step, Tables


def shared(link: LinkRecord) -> Mapping[str, Plan]:
    return {"tables": (Tables(),)} if link.on_host else {}


def plan(link: LinkRecord) -> Plan:
    here, there = sorted(link.ends, key=lambda end: end.sandbox is not None)  # the host's first
    assert there.netns is not None
    versions = addresses.versions([*here.addresses, *there.addresses])
    plan: list[Step] = []
    if link.on_host:
        plan.append(Rules(rules=_rules(here, there)))
    plan += [
        Pair(
            name=here.ifname,
            mac=here.mac,
            mtu=link.mtu,
            at=here.netns,
            peer=there.ifname,
            peer_mac=there.mac,
            peer_at=there.netns,
            alias=routing.alias(link.id),
        ),
        Alias(dev=here.ifname, alias=routing.alias(link.id), at=here.netns),
    ]
    for end in (here, there):
        plan += routing.ipv6(versions, end.ifname, end.netns)
        plan += [Address(dev=end.ifname, address=ip, at=end.netns) for ip in end.addresses]
    plan.append(LinkUp(dev=there.ifname, at=there.netns, fresh=True))
    for end in (here, there):
        far = ways(end, link.peer(end))
        plan += [Route(dev=end.ifname, dst=network, at=end.netns) for network in far]
    plan += [routing.ready(end.ifname, end.addresses, end.netns) for end in (here, there)]
    return tuple(plan)


def ways(end: LinkEnd, peer: LinkEnd) -> list[addresses.Network]:
    """What *end* needs routes for: each of the peer's addresses that its own do not make near."""
    near = [interface.network for interface in end.addresses]
    return [
        ip_network(far.ip)
        for far in peer.addresses
        if not any(far.ip in network for network in near)
        and not (far.version == 6 and far.is_link_local)
    ]


def _rules(host: LinkEnd, there: LinkEnd) -> tuple[Rule, ...]:
    rules: list[Rule] = [Isolate(host.ifname, internal=True, icc=False)]
    own: list[addresses.Address] = [address.ip for address in there.addresses]
    if own:
        if 6 in addresses.versions([*host.addresses, *there.addresses]):
            own.append(addresses.link_local(there.mac))
        rules.append(Source(host.ifname, tuple(own)))
    return tuple(rules)
