"""A machine in memory: the twin of netkit.kernel.Kernel, its netlink handle and its firewall.

    kernel = FakeKernel()
    engine = Engine(state, run, kernel=lambda: kernel)
    kernel.refuse(method="add_veth")    # the next one raises OSError
    before = kernel.dump()

Shapes   namespaces by path, None the host's; `dump` is plain data to compare; `calls` names every
         call since `forget_calls`, reads too, in order
Errors   OSError with the errno the kernel has for it (tests/kernel/test_contract.py holds both to
         the same tests)
Source   what dies with what: rtnetlink(7), veth(4), network_namespaces(7)
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from ipaddress import IPv4Interface, IPv6Address, ip_address
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeVar, Unpack

import pytest
from msgspec.structs import replace

from netkit.addresses import WILDCARDS, Address
from netkit.errors import NotFound
from netkit.firewall import (
    Admit,
    Egress,
    Guard,
    HostPort,
    Learnt,
    Masquerade,
    Obstacle,
    Outgoing,
    Publish,
    Reach,
    Rule,
    Source,
)
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel, features, kinds, netlink, netns, sockets
from netkit.kernel.netlink import (
    Interface,
    Link,
    Netlink,
    Network,
    Option,
    PolicyRule,
    Route,
    RouteOptions,
    Vlan,
)
from netkit.kernel.shaping import Bucket

P = ParamSpec("P")
R = TypeVar("R")
_GLOBALS = {
    "net/ipv4/ip_forward": "0",
    "net/ipv6/conf/all/forwarding": "0",
    sockets.LOCAL_PORT_RANGE: "32768\t60999",
    sockets.RESERVED_PORTS: "",
}
_NO_OPTIONS: Mapping[str, Option] = {}
_BRIDGE_OPTIONS: dict[str, Option] = {"vlan_filtering": 0, "vlan_default_pvid": 1}
_DEFAULTS: dict[str, dict[str, Option]] = {
    "ipvlan": {"mode": "l3"},
    "macvlan": {"mode": "vepa", "bcqueuelen": 1000},
    "vlan": {"protocol": "802.1q"},
}
_NEEDED = {
    "ipvlan": ("parent",),
    "macvlan": ("parent",),
    "vlan": ("parent", "id"),
    "vrf": ("table",),
}
_LEAST_MTU = 68
_PER_LINK = {
    "net/ipv4/conf/{}/route_localnet": "0",
    "net/ipv4/conf/{}/log_martians": "0",
    "net/ipv4/conf/{}/promote_secondaries": "0",
    "net/ipv6/conf/{}/disable_ipv6": "0",
    "net/ipv6/conf/{}/accept_ra": "1",
    "net/ipv6/conf/{}/accept_dad": "1",
}


class _Counted(Protocol):
    @property
    def refusals(self) -> Refusals: ...


C = TypeVar("C", bound=_Counted)


class Refusals:
    """Which calls have been made, and which one is to fail."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._armed: list[tuple[Callable[[int, str], bool], int, bool]] = []

    def arm(self, wanted: Callable[[int, str], bool], code: int, forever: bool) -> None:
        self._armed.append((wanted, code, forever))

    def disarm(self) -> None:
        self._armed.clear()

    def passes(self, name: str) -> None:
        number = len(self.calls)
        self.calls.append(name)
        for armed in self._armed:
            wanted, code, forever = armed
            if wanted(number, name):
                if not forever:
                    self._armed.remove(armed)
                raise OSError(code, os.strerror(code))


def _call(method: Callable[Concatenate[C, P], R]) -> Callable[Concatenate[C, P], R]:
    """A call that can be refused, before it has any effect."""

    @wraps(method)
    def counted(self: C, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self.refusals.passes(method.__name__)
        return method(self, *args, **kwargs)

    return counted


@dataclass
class _FakeLink:
    name: str
    kind: str | None
    mac: str
    mtu: int
    ifindex: int
    up: bool = False
    alias: str | None = None
    master: str | None = None
    port: set[str] = field(default_factory=set)
    vlans: list[Vlan] = field(default_factory=list)
    txqlen: int = 1000
    promisc: bool = False
    allmulti: bool = False
    group: int = 0
    options: dict[str, Option] = field(default_factory=dict)
    peer: tuple[str | None, str] | None = None  # its other end, by namespace and name
    parent: tuple[str | None, str] | None = None
    bucket: tuple[Bucket, int] | None = None  # and how many subnets it tells apart
    redirect: int | None = None
    addresses: list[Interface] = field(default_factory=list)
    alone: set[Interface] = field(default_factory=set)  # those without their network

    def dump(self) -> dict[str, Any]:
        """All but the index, which no two runs have in common."""
        return {k: v for k, v in vars(self).items() if k != "ifindex"} | {
            "addresses": sorted(map(str, self.addresses)),
            "alone": sorted(map(str, self.alone)),
            # those as they are now, whatever becomes of them
            "options": dict(self.options),
            "port": set(self.port),
            "vlans": list(self.vlans),
        }


class _Way(NamedTuple):
    """A route that was added; those that come with an address are worked out."""

    dev: str | None
    dst: Network | None
    gateway: str | None
    table: int | None = None
    metric: int | None = None
    type: str = "unicast"
    mtu: int | None = None
    advmss: int | None = None

    @property
    def version(self) -> int:
        return (
            ip_address(self.gateway).version
            if self.gateway
            else self.dst.version
            if self.dst
            else 4
        )

    @property
    def key(self) -> tuple[object, ...]:
        """No two routes have the same."""
        anywhere = self.dst is None or self.dst.prefixlen == 0
        metric = self.metric or (1024 if self.version == 6 else None)
        return None if anywhere else self.dst, self.version, self.table, metric


class _Space:
    """One network namespace."""

    def __init__(self) -> None:
        self.links: dict[str, _FakeLink] = {}
        self.routes: list[_Way] = []
        self.rules: list[PolicyRule] = []
        self.sysctls = dict(_GLOBALS)
        self._next = 1
        self.new_link("lo", None, "00:00:00:00:00:00", 65536)

    def new_link(self, name: str, kind: str | None, mac: str, mtu: int) -> _FakeLink:
        if name in self.links:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        link = self.links[name] = _FakeLink(name, kind, mac, mtu, self._next)
        self._next += 1
        self.sysctls |= {key.format(name): value for key, value in _PER_LINK.items()}
        return link

    def remove_link(self, name: str) -> None:
        del self.links[name]
        self.routes = [route for route in self.routes if route.dev != name]
        for key in _PER_LINK:
            del self.sysctls[key.format(name)]
        for other in self.links.values():
            if other.master == name:
                self.enslave(other, None)

    def enslave(self, link: _FakeLink, master: str | None) -> None:
        """Let a link have another master, or none: a bridge's port starts anew."""
        link.master, link.port, link.vlans = master, set(), []
        if master is not None and self.links[master].kind == "bridge":
            link.port = {"learning", "flood"}
            pvid = int(self.links[master].options.get("vlan_default_pvid", 1))
            link.vlans = [Vlan(pvid, pvid, True)] if pvid else []

    def on_link(self, link: _FakeLink) -> Iterator[Network]:
        for address in set(link.addresses) - link.alone if link.up else ():
            if address.network.prefixlen < address.max_prefixlen:
                yield address.network

    def reaches(self, link: _FakeLink, gateway: str | None) -> bool:
        """Whether a gateway is on the link: by an address's network, or by a route without one."""
        if gateway is None:
            return True
        address = ip_address(gateway)
        near = [r.dst for r in self.routes if r.dev == link.name and r.dst and not r.gateway]
        local = link.up and address.version == 6 and address.is_link_local
        return local or any(address in net for net in [*self.on_link(link), *near])

    def require(self, link: _FakeLink, gateway: str | None) -> None:
        if not self.reaches(link, gateway):
            code = errno.EHOSTUNREACH if ":" in (gateway or "") else errno.ENETUNREACH
            raise OSError(code, os.strerror(code))

    def dump(self) -> dict[str, Any]:
        connected = [(link.name, net) for link in self.links.values() for net in self.on_link(link)]
        return {
            "links": {name: link.dump() for name, link in sorted(self.links.items())},
            "routes": sorted(map(repr, [*self.routes, *connected])),
            "rules": sorted(map(repr, self.rules)),
            "sysctls": dict(sorted(self.sysctls.items())),
        }


class FakeNetlink(Netlink):
    """One namespace's handle. It holds nothing, so it needs no closing."""

    def __init__(self, machine: FakeKernel, at: str | None) -> None:
        self._machine = machine
        self._at = at
        self.refusals = machine.refusals

    def close(self) -> None: ...

    @property
    def _space(self) -> _Space:
        return self._machine.space(self._at)

    def _link(self, name: str) -> _FakeLink:
        try:
            return self._space.links[name]
        except KeyError:
            raise OSError(errno.ENODEV, f"Cannot find device {name!r}") from None

    def _shown(self, link: _FakeLink) -> Link:
        master = self._space.links.get(link.master or "")
        other = link.peer or link.parent
        peer = other and self._machine.space(other[0]).links.get(other[1])
        return Link(
            ifindex=link.ifindex,
            name=link.name,
            kind=link.kind,
            mac=link.mac,
            mtu=link.mtu,
            up=link.up,
            alias=link.alias,
            master=master.ifindex if master else None,
            peer_index=peer.ifindex if peer else None,
            port_state=3 if link.port else None,
            port=frozenset(link.port),
            txqlen=link.txqlen,
            promisc=link.promisc,
            allmulti=link.allmulti,
            group=link.group,
            options=dict(link.options),
        )

    @_call
    def link(self, name: str) -> Link | None:
        found = self._space.links.get(name)
        return self._shown(found) if found else None

    @_call
    def is_up(self, name: str) -> bool | None:
        found = self._space.links.get(name)
        return found.up if found else None

    @_call
    def mac(self, name: str) -> str | None:
        found = self._space.links.get(name)
        return found.mac if found else None

    @_call
    def links(self) -> list[Link]:
        return [self._shown(link) for link in self._space.links.values()]

    @_call
    def add_bridge(
        self, name: str, *, mac: str, mtu: int, options: Mapping[str, Option] = _NO_OPTIONS
    ) -> None:
        if "vlan_filtering" in options:
            self._machine.needs(features.BRIDGE_VLANS)
        self._space.new_link(name, "bridge", mac, mtu)
        self._link(name).options |= {**_BRIDGE_OPTIONS, **options}

    @_call
    def add_link(
        self,
        name: str,
        kind: str,
        *,
        parent: str | None = None,
        at: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        master: str | None = None,
        up: bool = False,
        options: Mapping[str, Option] = _NO_OPTIONS,
    ) -> None:
        kinds.encode_options(kind, options)
        place = self._at if at is None else at
        space, over = self._machine.space(place), None if parent is None else self._link(parent)
        self._machine.needs(kind)
        if not all({**options, "parent": parent}.get(word) for word in _NEEDED.get(kind, ())):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if over is not None and mtu is not None and mtu > over.mtu:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if over is not None and kind == "macvlan":
            if over.name == "lo":
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if over.master is not None:
                raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
            beside = [link.options["mode"] for link in self._machine.on_top((self._at, over.name))]
            if "passthru" in beside or (beside and options.get("mode") == "passthru"):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        if over is not None and (kind == "ipvlan" or options.get("mode") == "passthru"):
            mac = over.mac
        mac = mac or (over.mac if over and kind == "vlan" else "02:00:00:00:00:99")
        link = space.new_link(name, kind, mac, mtu or (over.mtu if over else 1500))
        link.up, link.options = up, {**_DEFAULTS.get(kind, {}), **options}
        link.parent = None if over is None else (self._at, over.name)
        if master is not None:
            space.enslave(link, self._link(master).name)

    @_call
    def has_kind(self, kind: str) -> bool:
        return kind not in self._machine.lacks

    @_call
    def add_veth(
        self,
        name: str,
        *,
        mac: str,
        mtu: int,
        peer: str,
        peer_mac: str,
        peer_netns: str | None,
        master: str | None = None,
        up: bool = True,
    ) -> None:
        there = self._machine.space(peer_netns)
        if master is not None and self._link(master).kind != "bridge":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if name in self._space.links or peer in there.links:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        ours = self._space.new_link(name, "veth", mac, mtu)
        theirs = there.new_link(peer, "veth", peer_mac, mtu)
        ours.up = up
        if master is not None:
            self._space.enslave(ours, master)
        ours.peer, theirs.peer = (peer_netns, peer), (self._at, name)

    @_call
    def set_port(
        self,
        name: str,
        *,
        alias: str | None = None,
        hairpin: bool | None = None,
        isolated: bool | None = None,
        learning: bool | None = None,
        flood: bool | None = None,
        neigh_suppress: bool | None = None,
    ) -> None:
        link = self._link(name)
        if not link.port:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        link.alias = link.alias if alias is None else alias or None
        flags = {"hairpin": hairpin, "isolated": isolated, "learning": learning, "flood": flood}
        for flag, on in (flags | {"neigh_suppress": neigh_suppress}).items():
            if on is not None:
                (link.port.add if on else link.port.discard)(flag)

    @_call
    def set_link(
        self,
        name: str,
        *,
        mac: str | None = None,
        mtu: int | None = None,
        txqlen: int | None = None,
        promisc: bool | None = None,
        allmulti: bool | None = None,
        up: bool | None = None,
        alias: str | None = None,
        group: int | None = None,
        master: str | None = None,
    ) -> None:
        link = self._link(name)
        if mtu is not None and mtu < _LEAST_MTU:
            raise OSError(errno.EINVAL, "mtu less than device minimum")
        if master is not None:
            self._space.enslave(link, self._link(master).name if master else None)
        link.mac = link.mac if mac is None else mac
        if mtu is not None and link.kind == "macvlan" and link.parent is not None:
            at, name = link.parent
            if mtu > self._machine.space(at).links[name].mtu:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        link.mtu = link.mtu if mtu is None else mtu
        link.txqlen = link.txqlen if txqlen is None else txqlen
        link.promisc = link.promisc if promisc is None else promisc
        link.allmulti = link.allmulti if allmulti is None else allmulti
        link.alias = link.alias if alias is None else alias or None
        link.group = link.group if group is None else group
        if up is not None:
            self._set_up(link, up)

    @_call
    def set_options(self, name: str, kind: str, options: Mapping[str, Option]) -> None:
        kinds.encode_options(kind, options)
        if "vlan_filtering" in options:
            self._machine.needs(features.BRIDGE_VLANS)
        self._link(name).options |= options

    @_call
    def move_link(
        self,
        name: str,
        to: str | None,
        new_name: str | None = None,
        *,
        alias: str | None = None,
        up: bool | None = None,
    ) -> None:
        link, there, old = self._link(name), self._machine.space(to), (self._at, name)
        new_name = new_name or name
        if new_name in there.links:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if name == "lo":
            raise OSError(errno.EINVAL, "The interface netns is immutable")
        self._space.remove_link(name)
        moved = there.new_link(new_name, link.kind, link.mac, link.mtu)
        index = moved.ifindex
        vars(moved).update(vars(link), name=new_name, ifindex=index, addresses=[], up=bool(up))
        there.enslave(moved, None)
        moved.alias = link.alias if alias is None else alias or None
        self._machine.repoint(old, (to, new_name))

    @_call
    def vlans(self, name: str) -> list[Vlan]:
        return list(self._link(name).vlans)

    @_call
    def add_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        link = self._link(name)
        self._machine.needs(features.BRIDGE_VLANS)
        if any(vlan.access for vlan in vlans):  # a port has one
            link.vlans = [old._replace(access=False) for old in link.vlans]
        link.vlans = sorted({*link.vlans, *vlans})

    @_call
    def delete_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        link, gone = self._link(name), {vlan[:2] for vlan in vlans}
        link.vlans = [vlan for vlan in link.vlans if vlan[:2] not in gone]

    @_call
    def add_bucket(
        self,
        name: str,
        bucket: Bucket,
        *,
        only: Iterable[Network] = (),
        spared: Iterable[Network] = (),
        sources: bool = False,
    ) -> None:
        link = self._link(name)
        self._machine.needs("tbf")
        if link.bucket is not None:
            raise OSError(errno.EEXIST, "Exclusivity flag on, cannot modify")
        link.bucket = bucket, len([*only, *spared])

    @_call
    def bucket(self, name: str) -> Bucket | None:
        found = self._link(name).bucket
        return found and found[0]

    @_call
    def subnets(self, name: str) -> int:
        found = self._link(name).bucket
        return found[1] if found else 0

    @_call
    def delete_bucket(self, name: str) -> None:
        link = self._link(name)
        if link.bucket is None:
            raise OSError(errno.EINVAL, "Invalid handle")
        link.bucket = None

    @_call
    def add_redirect(self, name: str, to: str) -> None:
        self._machine.needs("ingress")
        link, other = self._link(name), self._link(to)
        if link.redirect is not None:
            raise OSError(errno.EEXIST, "Exclusivity flag on, cannot modify")
        link.redirect = other.ifindex

    @_call
    def redirect(self, name: str) -> int | None:
        return self._link(name).redirect

    @_call
    def delete_redirect(self, name: str) -> None:
        link = self._link(name)
        if link.redirect is None:
            raise OSError(errno.EINVAL, "Invalid handle")
        link.redirect = None

    @_call
    def set_alias(self, name: str, alias: str) -> None:
        self._link(name).alias = alias

    @_call
    def set_up(self, name: str, up: bool = True) -> None:
        self._set_up(self._link(name), up)

    def _set_up(self, link: _FakeLink, up: bool) -> None:
        link.up = up
        if link.name == "lo":
            link.addresses = [IPv4Interface("127.0.0.1/8")] if up else []
        if not up:
            self._space.routes = [route for route in self._space.routes if route.dev != link.name]

    @_call
    def delete_link(self, name: str) -> None:
        link = self._link(name)
        if name == "lo":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        self._machine.remove_link(self._at, link)

    def index(self, name: str) -> int:
        return self._link(name).ifindex

    @_call
    def addresses(
        self, name: str | None = None, *, version: int | None = None
    ) -> list[tuple[int, Interface]]:
        links = [self._link(name)] if name is not None else list(self._space.links.values())
        return [
            (link.ifindex, address)
            for link in links
            for address in link.addresses
            if version in (None, address.version)
        ]

    @_call
    def add_address(self, name: str, address: Interface, *, prefix_route: bool = True) -> None:
        link = self._link(name)
        if address in link.addresses:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        link.addresses.append(address)
        if not prefix_route:
            link.alone.add(address)

    @_call
    def delete_address(self, name: str, address: Interface) -> None:
        link = self._link(name)
        if address not in link.addresses:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        link.addresses.remove(address)
        link.alone.discard(address)
        space = self._space
        space.routes = [r for r in space.routes if r.dev != name or space.reaches(link, r.gateway)]

    @_call
    def ways_out(self) -> set[int]:
        return {v for v in (4, 6) if any(route.dst is None for route in self.routes(v))}

    @_call
    def way_to(self, address: Address, *, direct: bool = False) -> str | None:
        ways = [r for r in self.routes(address.version) if r.dst is None or address in r.dst]
        best = max(ways, key=lambda r: r.dst.prefixlen if r.dst else 0, default=None)
        if best and best.gateway and direct:
            return None
        names = {link.ifindex: link.name for link in self._space.links.values()}
        return names.get(best.ifindex or 0) if best else None

    def routes(
        self, version: int = 4, *, table: int | None = None, type: str = "unicast"
    ) -> list[Route]:
        space = self._space
        found = [
            Route(
                r.dst if r.dst and r.dst.prefixlen else None,
                r.gateway,
                space.links[r.dev].ifindex if r.dev else None,
                r.metric or (1024 if version == 6 else None),
                mtu=r.mtu,
                advmss=r.advmss,
            )
            for r in space.routes
            if (r.table, r.type, r.version) == (table, type, version)
        ]
        if (table, type) != (None, "unicast"):
            return found
        for link in space.links.values():
            if link.name != "lo":
                nets = [net for net in space.on_link(link) if net.version == version]
                metric = 256 if version == 6 else None
                # as the kernel marks those of its own making: RTPROT_KERNEL
                found += [Route(net, None, link.ifindex, metric, 2) for net in nets]
        return found

    @_call
    def add_route(
        self,
        name: str | None,
        dst: Network | None,
        gateway: str | None,
        **options: Unpack[RouteOptions],
    ) -> None:
        link, space, way = name and self._link(name), self._space, _way(name, dst, gateway, options)
        if isinstance(link, _FakeLink):
            if not link.up and gateway is None:
                raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
            if not options.get("onlink"):
                space.require(link, gateway)
        beside = options.get("beside")
        if any(other == way or (other.key == way.key and not beside) for other in space.routes):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        space.routes.insert(0 if beside else len(space.routes), way)

    @_call
    def replace_default(self, name: str, gateway: str) -> None:
        link, space, way = self._link(name), self._space, _Way(name, None, gateway)
        space.require(link, gateway)
        space.routes = [other for other in space.routes if other.key != way.key]
        space.routes.append(way)

    @_call
    def delete_route(
        self,
        name: str | None,
        dst: Network | None,
        gateway: str | None,
        **options: Unpack[RouteOptions],
    ) -> None:
        if name is not None:
            self._link(name)
        try:
            self._space.routes.remove(_way(name, dst, gateway, options))
        except ValueError:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    @_call
    def rules(self, version: int = 4) -> list[tuple[str, int]]:
        found = [rule for rule in self._space.rules if rule.version == version and rule.source]
        return [(str(rule.source).partition("/")[0], rule.table) for rule in found]

    @_call
    def add_rule(self, source: str, table: int) -> None:
        self._add_policy(netlink._from(source, table))

    @_call
    def delete_rule(self, source: str, table: int) -> None:
        self._delete_policy(netlink._from(source, table))

    @_call
    def policies(self, version: int = 4) -> list[PolicyRule]:
        return [rule for rule in self._space.rules if rule.version == version]

    @_call
    def add_policy(self, rule: PolicyRule) -> None:
        self._add_policy(rule)

    @_call
    def delete_policy(self, rule: PolicyRule) -> None:
        self._delete_policy(rule)

    def _add_policy(self, rule: PolicyRule) -> None:
        if rule in self._space.rules:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._space.rules.append(rule)

    def _delete_policy(self, rule: PolicyRule) -> None:
        try:
            self._space.rules.remove(rule)
        except ValueError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


class FakeFirewall:
    """Rules as a set of values. Two that want the same key for different ends clash, as in nft."""

    name = "fake"
    sees_bridges = True
    learns = True

    def refuses(self, rules: Sequence[Rule]) -> str:
        return ""

    def __init__(self, refusals: Refusals | None = None) -> None:
        self.refusals = refusals or Refusals()
        self.rules: list[Rule] | None = None  # None: not open
        self.admin: list[str] = []

    def script(self) -> str:
        return Nftables().script()

    def unscript(self) -> str:
        return Nftables().unscript()

    def listing(self) -> str:
        return "\n".join(map(repr, self.rules or ()))

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return Nftables().lines(rules, verb)

    @_call
    def open(self, rules: Sequence[Rule] = ()) -> None:
        self.rules = list(rules)

    @_call
    def close(self) -> None:
        self.rules = None

    @_call
    def is_open(self) -> bool:
        return self.rules is not None

    def altered(self) -> Sequence[str]:
        return ()

    @_call
    def add(self, rules: Sequence[Rule]) -> None:
        if self.rules is None and rules:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        wanted = list(self.rules or [])
        for rule in _atoms(rules):
            if rule in wanted:
                continue
            if any(_clash(rule, other) for other in wanted):
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            wanted.append(rule)
        if rules:
            self.rules = wanted

    @_call
    def delete(self, rules: Sequence[Rule]) -> None:
        if self.rules is not None:
            gone = _atoms(rules)
            self.rules = [rule for rule in self.rules if rule not in gone]

    @_call
    def forget(self, addresses: Sequence[Address]) -> None:
        if self.rules is not None:
            self.rules = [
                rule
                for rule in self.rules
                if not (isinstance(rule, Learnt) and rule.address in addresses)
            ]

    @_call
    def exchange(self, gone: Sequence[Rule], added: Sequence[Rule]) -> None:
        if self.rules is not None:
            old, new = _atoms(gone), _atoms(added)
            left = [rule for rule in self.rules if rule not in old or rule in new]
            self.rules = left + [rule for rule in new if rule not in left]

    @_call
    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        missing = [rule for rule in _atoms(rules) if rule not in (self.rules or [])]
        return [line for rule in missing for line in self.lines([rule])]

    def dump(self) -> object:
        rules = None if self.rules is None else sorted(map(repr, self.rules))
        return {"rules": rules, "admin": list(self.admin)}


class FakeKernel(Kernel):
    """A machine; every job of a test may share it, for closing it changes nothing."""

    firewall: FakeFirewall

    def __init__(self) -> None:
        self.refusals = Refusals()
        super().__init__(FakeFirewall(self.refusals))
        self._spaces: dict[str | None, _Space] = {None: _Space()}
        self.files: dict[str, str] = {}
        self.directories: set[str] = {"/", "/run"}
        self.mounts: dict[tuple[str, str], str] = {}
        self.listening: dict[tuple[str, int], str] = {}
        self.heard: set[tuple[str, str]] = set()  # admins' chains, by program
        self.lacks: set[str] = set()  # kinds of links, and features, as netkit.kernel.features has
        self.hardware: dict[str, str] = {}  # interface: the device it is on
        self.programs: dict[str, Callable[[Sequence[str], str], str]] = {}  # drivers, by name
        self.announced: list[tuple[str | None, str, str, tuple[Address, ...]]] = []
        self.proxies: dict[str, tuple[str, ...]] = {}  # by lock: the link, and the ports

    # -- what tests ask of it

    @property
    def calls(self) -> list[str]:
        return self.refusals.calls

    def forget_calls(self) -> None:
        self.calls.clear()

    def refuse(
        self,
        *,
        call: int | None = None,
        method: str | None = None,
        code: int = errno.EBUSY,
        forever: bool = False,
    ) -> None:
        """Refuse call number *call* from now, or the next call of *method*; or all such."""
        first = None if call is None else len(self.calls) + call

        def wanted(number: int, name: str) -> bool:
            return number == first if method is None else name == method

        self.refusals.arm(wanted, code, forever)

    def relent(self) -> None:
        """Refuse nothing any more."""
        self.refusals.disarm()

    def dump(self) -> dict[str, Any]:
        """All there is on the machine, as data to compare."""
        return {
            "spaces": {path or "": space.dump() for path, space in self._spaces.items()},
            "firewall": self.firewall.dump(),
            "files": dict(sorted(self.files.items())),
            "directories": sorted(self.directories),
            "mounts": dict(sorted(self.mounts.items())),
        }

    def space(self, at: str | None) -> _Space:
        try:
            return self._spaces[at]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), at) from None

    def remove_link(self, at: str | None, link: _FakeLink) -> None:
        self.space(at).remove_link(link.name)
        for path, space in self._spaces.items():
            for other in list(space.links.values()):
                # either may have gone with another one meanwhile
                if (at, link.name) in (other.peer, other.parent) and other.name in space.links:
                    self.remove_link(path, other)

    def on_top(self, parent: tuple[str | None, str]) -> list[_FakeLink]:
        """The macvlans and their like on a parent, in whichever namespace."""
        every = [link for space in self._spaces.values() for link in space.links.values()]
        return [link for link in every if link.parent == parent]

    def repoint(self, old: tuple[str | None, str], new: tuple[str | None, str]) -> None:
        """A link has moved: those that belong to it follow with their eyes."""
        names = [path for path in self._spaces if self._spaces[path] is self.space(old[0])]
        known = [(path, old[1]) for path in names]
        for space in self._spaces.values():
            for link in space.links.values():
                link.peer = new if link.peer in known else link.peer
                link.parent = new if link.parent in known else link.parent

    def needs(self, feature: str) -> None:
        if feature in self.lacks:
            raise features.missing(feature)

    def identity(self, path: str) -> str:
        """In place of netns.identity, which looks at the real machine."""
        if path not in self._spaces:
            raise NotFound(f"no network namespace at '{path}'")
        return f"fake:{id(self._spaces[path])}"

    # -- Kernel

    def close(self) -> None: ...

    @_call
    def netlink(self, at: str | None = None) -> FakeNetlink:
        self.space(at)
        return FakeNetlink(self, at)

    def forget(self, at: str) -> None: ...

    @_call
    def sysctl(self, key: str, at: str | None = None) -> str | None:
        return self.space(at).sysctls.get(key)

    @_call
    def sysctls(self, directory: str, leaf: str) -> dict[str, str]:
        own = self.space(None).sysctls
        return {k: v for k, v in own.items() if k.startswith(directory) and k.endswith("/" + leaf)}

    @_call
    def set_sysctl(self, key: str, value: str, at: str | None = None) -> None:
        sysctls = self.space(at).sysctls
        if key not in sysctls:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        sysctls[key] = value

    @_call
    def add_tuntap(
        self,
        name: str,
        mode: str = "tap",
        *,
        at: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        owner: int | None = None,
        group: int | None = None,
        multi_queue: bool = False,
        vnet_hdr: bool = False,
        label: str | None = None,
    ) -> None:
        self.needs("tun")
        if label is not None:
            raise OSError(errno.EPROTO, "runcon says: this is no SELinux system")
        space = self.space(at)
        if name in space.links:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        link = space.new_link(name, "tun", mac or "02:00:00:00:00:99", mtu or 1500)
        ids: dict[str, int | None] = {"user": owner, "group": group}
        flags = {"vnet_hdr": vnet_hdr, "multi_queue": multi_queue}
        link.options |= {"mode": mode} | {k: v for k, v in ids.items() if v is not None}
        link.options |= {word: 1 for word, on in flags.items() if on}

    @_call
    def find_links(self, *, mac: str | None = None, device: str | None = None) -> list[str]:
        links = self.space(None).links.values()
        if mac is not None:
            found = [link for link in links if link.mac == mac.lower()]
            cards = [link for link in found if link.kind is None]
            return sorted(link.name for link in cards or found)
        if device not in self.hardware.values():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), device)
        return sorted(link.name for link in links if self.hardware.get(link.name) == device)

    @_call
    def announce(self, at: str | None, dev: str, mac: str, addresses: Iterable[Address]) -> None:
        link = self.space(at).links.get(dev)
        if link is None or not link.up:
            code = errno.ENETDOWN if link else errno.ENODEV
            raise OSError(code, os.strerror(code))
        self.announced.append((at, dev, mac, tuple(addresses)))

    @_call
    def is_heard(self, at: str | None, dev: str, address: IPv6Address) -> bool:
        return any(address == own.ip for own in self.space(at).links[dev].addresses)

    @_call
    def find_driver(self, name: str) -> str:
        if name not in self.programs:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return f"/drivers/{name}"

    @_call
    def has_program(self, name: str) -> bool:
        return name in self.programs

    @_call
    def call(self, command: Sequence[str], text: str) -> str:
        return self.programs[os.path.basename(command[0])](command[1:], text)

    @_call
    def start_proxy(self, lock: str, dev: str, ports: Sequence[str]) -> None:
        if dev not in self.space(None).links:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        known = self.proxies.get(lock, (dev,))
        self.proxies[lock] = (*known, *(port for port in ports if port not in known))

    @_call
    def stop_proxy(self, lock: str, ports: Sequence[str]) -> None:
        left = tuple(each for each in self.proxies.get(lock, ("",)) if each not in ports)
        self.proxies |= {lock: left}
        if not left[1:]:
            del self.proxies[lock]

    @_call
    def proxy_serves(self, lock: str, port: str) -> bool:
        return port in self.proxies.get(lock, ())

    @_call
    def create_netns(self, name: str) -> None:
        path = netns.named(name)
        if path in self._spaces:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._spaces[path] = _Space()

    @_call
    def attach_netns(self, name: str, at: str) -> None:
        path = netns.named(name)
        if path in self._spaces:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._spaces[path] = self.space(at)

    @_call
    def delete_netns(self, name: str) -> None:
        path = netns.named(name)
        if path in self._spaces:
            gone = self._spaces[path]
            others = [name for name in self._spaces if self._spaces[name] is gone and name != path]
            if others:  # it lives on under that name
                for known in gone.links:
                    self.repoint((path, known), (others[0], known))
                del self._spaces[path]
                return
            for link in list(gone.links.values()):
                self.remove_link(path, link)
            del self._spaces[path]

    def obstacles(self, firewall: object = None) -> Sequence[Obstacle]:
        return ()

    @_call
    def hearers(self, chain: str, *, make: bool) -> Sequence[str]:
        return ("iptables",) if make else ()

    @_call
    def hear(self, chain: str, programs: Sequence[str], on: bool = True) -> None:
        for program in programs:
            (self.heard.add if on else self.heard.discard)((program, chain))

    @_call
    def unheard(self, chain: str, programs: Sequence[str]) -> Sequence[str]:
        return [program for program in programs if (program, chain) not in self.heard]

    @_call
    def forget_flows(self, *rules: Publish) -> None: ...

    @_call
    def probe_port(self, protocol: str, address: Address, port: int) -> None:
        if (protocol, port) in self.listening:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        host = [a.ip for link in self.space(None).links.values() for a in link.addresses]
        if address not in (*WILDCARDS.values(), *host) and not address.is_loopback:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    @_call
    def port_holder(self, protocol: str, port: int) -> str | None:
        return self.listening.get((protocol, port))

    @_call
    def port_holders(self, protocol: str, port: int) -> Collection[int]:
        return ()

    @_call
    def exists(self, path: str) -> bool:
        return path in self.files or path in self.directories or path in self._spaces

    @_call
    def make_directory(self, path: str) -> None:
        if path in self.files:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        while path not in self.directories:
            self.directories.add(path)
            path = os.path.dirname(path)

    @_call
    def remove_directory(self, path: str) -> None:
        inside = {os.path.dirname(other) for other in [*self.files, *(self.directories - {"/"})]}
        if path not in inside:
            self.directories.discard(path)

    @_call
    def write_file(self, path: str, content: str) -> None:
        if path in self.files or path in self.directories:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if os.path.dirname(path) not in self.directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.files[path] = content

    @_call
    def real_path(self, path: str) -> str:
        return path

    @_call
    def read_file(self, path: str) -> str | None:
        return self.files.get(path)

    @_call
    def edit_file(self, path: str, edit: Callable[[str], str]) -> None:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.files[path] = edit(self.files[path])

    @_call
    def remove_file(self, path: str) -> None:
        self.files.pop(path, None)

    @_call
    def inject(self, mnt: str, source: str, target: str) -> None:
        self.mounts[mnt, target] = source

    @_call
    def eject(self, mnt: str, source: str, target: str) -> None:
        if self.mounts.get((mnt, target)) == source:
            del self.mounts[mnt, target]


@contextmanager
def refused(code: int) -> Iterator[None]:
    """What is done inside must be refused with this errno, by whoever it is done to."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno says more than a match would
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[code]


def _atoms(rules: Sequence[Rule]) -> list[Rule]:
    """Each address of a guard by itself, for Admit to add and take away; and that it guards."""
    found: list[Rule] = []
    for rule in rules:
        match rule:
            case Guard(port, mac, own) if own:
                found.append(replace(rule, addresses=(WILDCARDS[4],)))
                found += [Admit(port, mac, (ip,)) for ip in own]
            case Source(link, own):
                found.append(Source(link, ()))
                found += [Admit(link, None, (ip,)) for ip in own]
            case Admit(port, mac_, own):
                found += [Admit(port, mac_, (ip,)) for ip in own]
            case _:
                found.append(rule)
    return found


def _way(dev: str | None, dst: Network | None, gateway: str | None, options: RouteOptions) -> _Way:
    kept = {key: value for key, value in options.items() if key in _Way._fields}
    return _Way(dev, dst, gateway, **kept)  # type: ignore[arg-type]


def _clash(one: Rule, other: Rule) -> bool:
    """Whether two rules that differ want the same key: only what has a target can."""
    match one, other:
        case Publish(), Publish():
            spans = range(one.host_port, one.host_port + one.count)
            others = range(other.host_port, other.host_port + other.count)
            same_form = _form(one) == _form(other)
            return (
                same_form
                and one.protocol == other.protocol
                and one.host_address == other.host_address
                and one.address.version == other.address.version
                and one.device == other.device
                and spans.start < others.stop
                and others.start < spans.stop
            )
        case ((Reach() | HostPort() | Egress()), (Reach() | HostPort() | Egress())):
            if one.port is None or other.port is None or (one.count, other.count) == (1, 1):
                return False
            return replace(one, port=other.port, count=other.count) == other and (
                one.port < other.port + other.count and other.port < one.port + one.count
            )
        case Outgoing(), Outgoing():
            return one.address == other.address
        case Masquerade(), Masquerade():
            both = one.source is not None and other.source is not None
            return both and (one.link, one.version) == (other.link, other.version)
    return False


def _form(rule: Publish) -> str:
    """Which of the back end's maps a publication is in."""
    return "range" if rule.count > 1 and rule.host_port == rule.port else "single"
