"""Who may talk to whom, as rules: what a network's policies mean for a link or an endpoint.

Shapes   pure: rules of records, for drivers' plans. A span is (port, protocol, count), the first
         two None for all there is. Spans and lists of destinations are made disjoint: the
         firewall's intervals must be
Source   netkit.access for what is said; netkit.firewall for what it becomes

What concerns two endpoints is in neither's own plan: `between`, for netkit.policies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import collapse_addresses
from itertools import pairwise
from typing import Any, NamedTuple

from netkit.access import ANYONE, HOST, EgressRule
from netkit.addresses import Address, Network
from netkit.firewall import Confine, Egress, HostPort, Meet, NoHost, Reach, Rule, Serve
from netkit.model import EndpointRecord, NetworkRecord
from netkit.portspec import PortSpec

Span = tuple[int | None, str | None, int]
_ALL: Span = (None, None, 1)


class Member(NamedTuple):
    """An endpoint of a network, whose it is, and what that one exposes ("80/tcp")."""

    name: str
    ep: EndpointRecord
    exposed: tuple[str, ...] = ()

    @property
    def offers(self) -> Iterator[Span]:
        """What whoever links to it may reach: the ports it exposes, and those it publishes."""
        for text in self.exposed:
            for spec in PortSpec.exposed(text):
                yield (spec.port, spec.protocol, spec.count)
        for port in self.ep.ports:
            yield (port.port, port.protocol, port.count)


def of_link(net: NetworkRecord, link: str, gateways: Iterable[Address]) -> list[Rule]:
    """What holds for all that comes by a bridge, or by the host's end of a routed pair; *gateways*
    are the host's addresses there.
    """
    rules: list[Rule] = []
    if not net.host_access:
        rules.append(NoHost(link, tuple(gateways)))
        rules += [_host_port(link, span) for span in _to_host(net, ANYONE)]
    if net.egress is not None:
        rules += [Confine(link=link), *_let_out(net.egress, link=link)]
    return rules


def of_endpoint(net: NetworkRecord, ep: EndpointRecord) -> list[Rule]:
    """What holds for one endpoint, whoever else is there."""
    rules: list[Rule] = []
    if not net.bridge:
        rules += [_host_port(ep.host_ifname, span) for span in _own_to_host(net, ep)]
    if not net.icc:
        served = spans(_said(net, ANYONE, container(ep)))
        if served and net.bridge:
            rules.append(Meet(ep.host_ifname, None))
        bridged, subnets = bool(net.bridge), () if net.bridge else net.subnets
        rules += [Serve(ep.host_ifname, *span, bridged, subnets) for span in served]
    for own in ep.addresses:
        rules += of_address(net, ep, own.ip)
    return rules


def of_address(net: NetworkRecord, ep: EndpointRecord, ip: Address) -> list[Rule]:
    """What holds for what an endpoint sends from this one of its addresses."""
    rules: list[Rule] = []
    if net.bridge:  # of one bridge's endpoints the host knows them by their addresses
        rules += [_host_port(net.bridge, span, ip) for span in _own_to_host(net, ep)]
    if (listed := ep.wanted.egress) is not None:
        rules += [Confine(address=ip), *_let_out(listed, address=ip)]
    return rules


def between(net: NetworkRecord, one: Member, other: Member) -> list[Rule]:
    """What two endpoints of a closed network may do, either way."""
    rules: list[Rule] = []
    for client, server in ((one, other), (other, one)):
        for span in spans(reached(net, client, server)):
            rules.append(
                Reach(client.ep.host_ifname, server.ep.host_ifname, *span, bool(net.bridge))
            )
    if rules and net.bridge:
        rules.insert(0, Meet(*sorted((one.ep.host_ifname, other.ep.host_ifname))))
    return rules


def reached(net: NetworkRecord, client: Member, server: Member) -> Iterator[Span]:
    """What one container may reach of another, by allowances and by its links."""
    yield from _said(net, client.name, server.name)
    if any(link.target == server.name for link in client.ep.wanted.links):
        yield from server.offers


def container(ep: EndpointRecord) -> str:
    """The name of an endpoint's container."""
    return ep.owner.rpartition("/")[0]


def _said(net: NetworkRecord, client: str, server: str) -> Iterator[Span]:
    for said in net.allows:
        if (said.client, said.server) == (client, server):
            yield (said.port, said.protocol, said.count)


def _to_host(net: NetworkRecord, client: str) -> list[Span]:
    return [] if net.host_access else spans(_said(net, client, HOST))


def _own_to_host(net: NetworkRecord, ep: EndpointRecord) -> list[Span]:
    """The host's ports that an endpoint may reach, and not everybody there."""
    everybodys = set(_ports_of(_to_host(net, ANYONE)))
    left = [each for each in _ports_of(_to_host(net, container(ep))) if each not in everybodys]
    return spans((port, protocol, 1) for port, protocol in left)


def _host_port(link: str, span: Span, address: Address | None = None) -> HostPort:
    port, protocol, count = span
    assert port is not None
    assert protocol is not None
    return HostPort(link, port, protocol, count, address)


# -- disjoint


def spans(given: Iterable[Span]) -> list[Span]:
    """The same ports, none of them twice."""
    found: list[Span] = []
    for port, protocol, count in sorted(given, key=lambda span: (span[1] or "", span[0] or 0)):
        if port is None:
            return [_ALL]
        last, known, length = found[-1] if found else _ALL
        if last is not None and known == protocol and port <= last + length:
            found[-1] = (last, protocol, max(length, port + count - last))
        else:
            found.append((port, protocol, count))
    return found


def _ports_of(given: Iterable[Span]) -> Iterator[tuple[int, str]]:
    for port, protocol, count in given:
        if port is not None and protocol is not None:
            yield from ((number, protocol) for number in range(port, port + count))


def _let_out(listed: Sequence[EgressRule], **sender: Any) -> list[Egress]:
    """Where one sender's packets may go, as boxes of destinations and ports without overlaps."""
    versions = (sender["address"].version,) if "address" in sender else (4, 6)
    found: list[Egress] = []
    for version in versions:
        there = [r for r in listed if r.destination and r.destination.version == version]
        whole = _joined(rule.destination for rule in there if rule.port is None)
        found += [Egress(net, **sender) for net in whole]
        for protocol in sorted({rule.protocol for rule in there if rule.protocol is not None}):
            boxes = [rule for rule in there if rule.protocol == protocol]
            for port, count, nets in _sliced(boxes):
                found += [Egress(net, port, protocol, count, **sender) for net in nets]
    return found


def _sliced(boxes: Sequence[EgressRule]) -> list[tuple[int, int, list[Network]]]:
    """(port, count, destinations): cut wherever a range begins or ends, and joined where the
    destinations are the same.
    """
    ranges = [(rule.port or 0, (rule.port or 0) + rule.count, rule.destination) for rule in boxes]
    cuts = sorted({edge for first, after, _ in ranges for edge in (first, after)})
    found: list[tuple[int, int, list[Network]]] = []
    for low, high in pairwise(cuts):
        nets = _joined(net for first, after, net in ranges if first <= low and high <= after)
        if found and found[-1][2] == nets and sum(found[-1][:2]) == low:
            found[-1] = (found[-1][0], found[-1][1] + high - low, nets)
        elif nets:
            found.append((low, high - low, nets))
    return found


def _joined(nets: Iterable[Network | None]) -> list[Network]:
    found: Any = [net for net in nets if net is not None]
    return list(collapse_addresses(found))
