"""Names: who is called what on which network, and what each container may know of it.

    names = Names()
    names.put(network), names.put(sandbox), names.put(endpoint)      # in any order
    names.view(gateway, source).addresses("db")

Shapes   records in, answers out: nothing is read or changed here. Names are lower-case, without a
         final dot; a `View` is one container's, who asks at one network's gateway
Cost     a record that comes, changes or goes costs the same however many there are; but for a
         network's own, which costs as much as it has endpoints
Source   Docker's embedded DNS for what resolves: a container's name, short id and aliases, each
         also as NAME.NETWORK, link aliases for the linking container alone; RFC 6761 6.3 for
         localhost; RFC 1035 2.3.4: a label has 63 octets at most, so a whole id is none
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from netkit import model, naming
from netkit.access import EgressRule
from netkit.addresses import Address
from netkit.dns import hosts
from netkit.errors import InvalidSpec
from netkit.model import EndpointRecord, HostRecord, NetworkRecord, SandboxRecord
from netkit.namefiles import HOST_SERVER, servers_of

HOST_NAMES = ("host.internal", "host.docker.internal", "host.containers.internal")
_RESERVED = {*HOST_NAMES, "localhost", "_gateway", "wpad", "isatap"}
_HOST_SERVER = IPv4Address(HOST_SERVER)
_LOOPBACK: tuple[Address, ...] = (IPv4Address("127.0.0.1"), IPv6Address("::1"))


class Rank(IntEnum):
    """What a name is to its bearer. Of two who are called the same, the lower one is meant."""

    NAME = 0
    ID = 1
    ALIAS = 2
    HOSTNAME = 3


def is_reserved(name: str) -> bool:
    """Whether a name means the same to everybody, so that no container can be called so."""
    name = name.lower()
    return name in _RESERVED or name.startswith("ip6-") or name.endswith(".localhost")


def may_be_called(name: str) -> bool:
    """Whether a name can be one container's."""
    return _is_label(name) and not is_reserved(name)


def own_name(sandbox: SandboxRecord) -> str | None:
    """What a container is called on all its networks; None: it has no name that can be one's."""
    name = sandbox.name.lower()
    if re.fullmatch("[0-9a-f]{64}", name):  # a CNI runtime's container: it knows it by its id only
        name = naming.short_id(name)
    return name if may_be_called(name) else None


def of(ep: EndpointRecord, net: NetworkRecord, sandbox: SandboxRecord) -> dict[str, Rank]:
    """All that a container is called on a network, and what each is to it."""
    found: dict[str, Rank] = {}
    for name, rank in _called(ep, net, sandbox):
        found.setdefault(name, rank)
    return found


class _Indexed(NamedTuple):
    """Where an endpoint was entered: what it is taken out of again."""

    network: str
    called: tuple[str, ...]
    wild: tuple[str, ...]
    held: tuple[Address, ...]
    asked: tuple[tuple[Address, Address], ...]


class _Zone:
    """The names and addresses of one network, by endpoints' ids."""

    def __init__(self) -> None:
        self.called: dict[str, dict[str, Rank]] = {}
        self.wild: dict[str, dict[str, Rank]] = {}  # *.NAME
        self.held: dict[Address, str] = {}
        self.members: set[str] = set()

    def find(self, name: str) -> list[str]:
        """The endpoints called so; of wildcards the longest counts, and not for its own name."""
        bearers = self.called.get(name)
        rest = name
        while not bearers and "." in rest:
            rest = rest.partition(".")[2]
            bearers = self.wild.get(rest)
        if not bearers:
            return []
        best = min(bearers.values())
        return sorted(id for id, rank in bearers.items() if rank == best)


class Names:
    """All there is to know. *host_servers*: whom the host asks, at the time of asking."""

    def __init__(self, host_servers: Callable[[], Sequence[str]] = tuple) -> None:
        self.host_servers = host_servers
        self.networks: dict[str, NetworkRecord] = {}
        self.sandboxes: dict[str, SandboxRecord] = {}
        self.endpoints: dict[str, EndpointRecord] = {}
        self.zones: dict[str, _Zone] = {}
        self._of_sandbox: dict[str, set[str]] = {}
        self._of_network: dict[str, set[str]] = {}
        self._indexed: dict[str, _Indexed] = {}
        self._askers: dict[tuple[Address, Address], str] = {}  # gateway and source: the endpoint
        self._host_asks = False

    # -- what there is

    def put(self, record: NetworkRecord | SandboxRecord | EndpointRecord | HostRecord) -> None:
        """Take note of a record, or of how it is now."""
        match record:
            case HostRecord():
                self._host_asks |= record.id == model.HOST_NAMES
            case NetworkRecord():
                self.networks[record.id] = record
                self._renew(self._of_network.get(record.id, ()))
            case SandboxRecord():
                self.sandboxes[record.id] = record
                self._renew(self._of_sandbox.get(record.id, ()))
            case EndpointRecord():
                self._of_network.setdefault(record.network, set()).add(record.id)
                self._of_sandbox.setdefault(record.sandbox, set()).add(record.id)
                self.endpoints[record.id] = record
                self._renew([record.id])

    def remove(self, kind: str, id: str) -> None:
        """Forget a record; one that is not known is as good as forgotten."""
        if kind == NetworkRecord.kind:
            self.networks.pop(id, None)
            self._renew(self._of_network.get(id, ()))
        elif kind == SandboxRecord.kind:
            self.sandboxes.pop(id, None)
            self._renew(self._of_sandbox.get(id, ()))
        elif kind == HostRecord.kind:
            self._host_asks &= id != model.HOST_NAMES
        elif kind == EndpointRecord.kind and (ep := self.endpoints.pop(id, None)):
            self._renew([id])
            for index, key in ((self._of_network, ep.network), (self._of_sandbox, ep.sandbox)):
                index[key].discard(id)
                if not index[key]:
                    del index[key]

    def gateways(self) -> set[Address]:
        """Where somebody may ask: at the gateways of networks with names and endpoints; the host,
        if it is to ask, at an address of its own loopback.
        """
        own = {_HOST_SERVER} if self._host_asks else set()
        return own | {ip for id in self.zones for ip in servers_of(self.networks[id])}

    def view(self, gateway: Address, source: Address) -> View | None:
        """Who asks from *source* at *gateway*; None: nobody who may."""
        if gateway == _HOST_SERVER:
            return HostView(self) if source.is_loopback else None
        id = self._askers.get((gateway, source))
        return None if id is None else View(self, self.endpoints[id])

    def beside(self, ep: EndpointRecord) -> list[EndpointRecord]:
        """The endpoints of the same container that are on networks with names, by priority."""
        known = (id for id in self._of_sandbox.get(ep.sandbox, ()) if id in self._indexed)
        found = [self.endpoints[id] for id in known]
        return sorted(found, key=lambda each: (-each.gateway_priority, each.created, each.id))

    def networks_of(self, sandbox: SandboxRecord) -> list[NetworkRecord]:
        """All networks a container is on, those without names, too."""
        found = (self.endpoints[id].network for id in self._of_sandbox.get(sandbox.id, ()))
        return [self.networks[id] for id in found if id in self.networks]

    def _renew(self, ids: Sequence[str] | set[str]) -> None:
        for id in ids:
            if (old := self._indexed.pop(id, None)) is not None:
                self._take_out(id, old)
            ep = self.endpoints.get(id)
            net = self.networks.get(ep.network) if ep else None
            sandbox = self.sandboxes.get(ep.sandbox) if ep else None
            if ep and net and sandbox and net.names:
                self._indexed[id] = self._enter(ep, net, sandbox)

    def _enter(self, ep: EndpointRecord, net: NetworkRecord, sandbox: SandboxRecord) -> _Indexed:
        zone = self.zones.setdefault(net.id, _Zone())
        zone.members.add(ep.id)
        called = of(ep, net, sandbox)
        plain = {name: rank for name, rank in called.items() if not name.startswith("*.")}
        wild = {name[2:]: rank for name, rank in called.items() if name.startswith("*.")}
        for index, entries in ((zone.called, plain), (zone.wild, wild)):
            for name, rank in entries.items():
                index.setdefault(name, {})[ep.id] = rank
        own = tuple(interface.ip for interface in ep.every_address)
        for address in own:
            zone.held[address] = ep.id
        asked = tuple((gateway, address) for gateway in servers_of(net) for address in own)
        self._askers |= dict.fromkeys(asked, ep.id)
        return _Indexed(net.id, tuple(plain), tuple(wild), own, asked)

    def _take_out(self, id: str, old: _Indexed) -> None:
        zone = self.zones[old.network]
        for index, names in ((zone.called, old.called), (zone.wild, old.wild)):
            for name in names:
                del index[name][id]
                if not index[name]:
                    del index[name]
        for address in old.held:
            if zone.held.get(address) == id:  # else it is somebody else's by now
                del zone.held[address]
        for key in old.asked:
            if self._askers.get(key) == id:
                del self._askers[key]
        zone.members.discard(id)
        if not zone.members:
            del self.zones[old.network]


def _called(
    ep: EndpointRecord, net: NetworkRecord, sandbox: SandboxRecord
) -> Iterator[tuple[str, Rank]]:
    if name := own_name(sandbox):
        yield name, Rank.NAME
    yield naming.short_id(sandbox.id), Rank.ID
    for alias in ep.wanted.aliases:
        yield alias.lower(), Rank.ALIAS
    hostname = sandbox.files.hostname
    if net.hostnames and hostname is not None and not is_reserved(hostname):
        for each in hosts.own_names(hostname, sandbox.files.domainname):
            yield each.lower(), Rank.HOSTNAME


class View:
    """What the container of *ep* may know, asking there; good until anything changes."""

    keeps_bare = True

    def __init__(self, names: Names, ep: EndpointRecord) -> None:
        self.endpoint = ep
        self._names = names
        self._sandbox = names.sandboxes[ep.sandbox]
        self._net = names.networks[ep.network]
        self._here = [names.networks[each.network] for each in names.beside(ep)]
        self._zones = [names.zones[net.id] for net in self._here]
        self._links = {
            link.alias.lower(): link.target.lower()
            for each in names.beside(ep)
            for link in each.wanted.links
        }

    def addresses(self, name: str) -> Sequence[Address] | None:
        """Of a name; (): it is there, without any; None: it is none of ours."""
        if name == "localhost" or name.endswith(".localhost"):
            return _LOOPBACK
        if name in HOST_NAMES:
            return self._host_named(name)
        found = self._bearers(name)
        if not found:
            return () if name in self._suffixes else None
        return [ip for ep in found for ip in _reachable(ep)]

    def name_of(self, address: Address) -> str | None:
        """NAME.NETWORK of who has the address; of a gateway, that it is the host."""
        for net, zone in zip(self._here, self._zones, strict=True):
            if id := zone.held.get(address):
                return self._full_name(self._names.endpoints[id], net)
            if address in servers_of(net):
                return HOST_NAMES[0]
        return None

    def services(self, service: str, protocol: str, name: str) -> Sequence[tuple[int, str]]:
        """Port and target of whoever is called *name* and exposes or publishes that service."""
        port = _port(service, protocol)
        return [
            (port, self._full_name(ep, self._names.networks[ep.network]))
            for ep in self._bearers(name)
            if port and self._offers(ep, port, protocol)
        ]

    @cached_property
    def upstreams(self) -> Sequence[str]:
        """Whom to ask about all else; nobody, if all it is on is internal, or its servers are us.

        They are asked from the host: a loopback address somebody gave would be another's there.
        """
        if all(net.internal for net in self._names.networks_of(self._sandbox)):
            return ()
        given = self._sandbox.files.servers
        given = given or next((net.servers for net in self._here if net.servers), ())
        if given:
            found = [each for each in given if "%" not in each and not _is_local(each)]
        else:
            found = list(self._names.host_servers())
        ours = {str(ip) for net in self._names.networks.values() for ip in servers_of(net)}
        return tuple(each for each in found if each not in ours)

    def owns(self, name: str) -> bool:
        """Whether a name is for us to answer, should it be there or not."""
        return (
            is_reserved(name)
            or name in self._links
            or any(name.endswith(f".{suffix}") for suffix in self._suffixes)
        )

    def is_watched(self, name: str) -> bool:
        """Whether its packets may leave to what has this name: then netkitd is to know where."""
        return any(rule.covers(name) for rule in self._egress)

    @cached_property
    def _suffixes(self) -> dict[str, _Zone]:
        zones = zip(self._here, self._zones, strict=True)
        return {net.name.lower(): zone for net, zone in zones}

    @cached_property
    def _egress(self) -> tuple[EgressRule, ...]:
        lists = [net.egress for net in self._here]
        lists += [ep.wanted.egress for ep in self._names.beside(self.endpoint)]
        return tuple(rule for each in lists for rule in each or () if rule.domain)

    def _bearers(self, name: str) -> list[EndpointRecord]:
        """Who is meant: by a link alias, by NAME.NETWORK, on the first network where one is."""
        if target := self._links.get(name):
            ids = [self._called(zone, target) for zone in self._zones]
        else:
            ids = [
                zone.find(name.removesuffix(f".{suffix}"))
                for suffix, zone in self._suffixes.items()
                if name.endswith(f".{suffix}")
            ]
            ids += [zone.find(name) for zone in self._zones]
        found: list[str] = next(filter(None, ids), [])
        return [self._names.endpoints[id] for id in found]

    @staticmethod
    def _called(zone: _Zone, name: str) -> list[str]:
        return [id for id, rank in zone.called.get(name, {}).items() if rank == Rank.NAME]

    def _host_named(self, name: str) -> Sequence[Address]:
        """The host: where --add-host says it is, else at the gateway that was asked."""
        gateways = servers_of(self._net)
        extra = (
            hosts.parse_extra(text, host_gateway=next(iter(gateways), None))
            for text in self._sandbox.files.extra_hosts
        )
        said = [ip_address(address) for each, address in extra if each.lower() == name]
        return said or gateways

    def _full_name(self, ep: EndpointRecord, net: NetworkRecord) -> str:
        sandbox = self._names.sandboxes[ep.sandbox]
        name = own_name(sandbox) or naming.short_id(sandbox.id)
        with suppress(InvalidSpec):  # a network's name may be none of DNS
            return naming.validate_domain("name", f"{name}.{net.name.lower()}")
        return name

    def _offers(self, ep: EndpointRecord, port: int, protocol: str) -> bool:
        exposed = self._names.sandboxes[ep.sandbox].exposed
        return f"{port}/{protocol}" in exposed or any(
            mapping.protocol == protocol and mapping.port <= port < mapping.port + mapping.count
            for mapping in ep.ports
        )


class HostView(View):
    """What the host itself may know: all containers, as NAME.NETWORK; as NAME, where one only is
    called so. What is not there the host's own servers are asked about, for its names are theirs.
    """

    keeps_bare = False

    def __init__(self, names: Names) -> None:
        self._names = names
        self._here = sorted((names.networks[id] for id in names.zones), key=lambda net: net.name)
        self._zones = [names.zones[net.id] for net in self._here]
        self._links = {}

    def addresses(self, name: str) -> Sequence[Address] | None:
        found = [ip for ep in self._bearers(name) for ip in _reachable(ep)]
        return found or None

    def name_of(self, address: Address) -> str | None:
        for net, zone in zip(self._here, self._zones, strict=True):
            if id := zone.held.get(address):
                return self._full_name(self._names.endpoints[id], net)
        return None

    @cached_property
    def upstreams(self) -> Sequence[str]:
        ours = {str(ip) for ip in self._names.gateways()}
        return tuple(each for each in self._names.host_servers() if each not in ours)

    def owns(self, name: str) -> bool:
        return False

    def is_watched(self, name: str) -> bool:
        return False

    def _bearers(self, name: str) -> list[EndpointRecord]:
        if "." in name:
            return [ep for ep in super()._bearers(name) if self._is_beyond(name, ep)]
        ids = [id for zone in self._zones for id in self._called(zone, name)]
        found = [self._names.endpoints[id] for id in ids]
        return found[:1] if len({ep.sandbox for ep in found}) == 1 else []

    def _is_beyond(self, name: str, ep: EndpointRecord) -> bool:
        """Whether a name with dots is one of a network: a container's aliases are for its own."""
        return name.endswith(f".{self._names.networks[ep.network].name.lower()}")


def _reachable(ep: EndpointRecord) -> list[Address]:
    """Where others reach it: a link-local address is worth nothing without its link."""
    return [own.ip for own in ep.every_address if not own.ip.is_link_local]


def _port(service: str, protocol: str) -> int | None:
    if service.isascii() and service.isdigit():
        return int(service[:6])
    with suppress(OSError, ValueError):  # no such service, or no text at all
        return socket.getservbyname(service, protocol)
    return None


def _is_local(server: str) -> bool:
    ip = ip_address(server)
    return ip.is_loopback or ip.is_unspecified


def _is_label(name: str) -> bool:
    with suppress(InvalidSpec):
        return "." not in naming.validate_domain("name", name)
    return False
