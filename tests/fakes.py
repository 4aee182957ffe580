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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from ipaddress import IPv4Address, IPv4Interface, ip_address
from socket import AF_INET, AF_UNSPEC
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import pytest

from netkit.errors import NotFound
from netkit.firewall import Publish, Rule
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel, netns, sockets
from netkit.kernel.netlink import Interface, Link, Netlink, Network, Route

P = ParamSpec("P")
R = TypeVar("R")
_GLOBALS = {
    "net/ipv4/ip_forward": "0",
    sockets.LOCAL_PORT_RANGE: "32768\t60999",
    sockets.RESERVED_PORTS: "",
}
_PER_LINK = {
    "net/ipv4/conf/{}/route_localnet": "0",
    "net/ipv6/conf/{}/disable_ipv6": "0",
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
    hairpin: bool = False
    peer: tuple[str | None, str] | None = None
    addresses: list[Interface] = field(default_factory=list)

    def dump(self) -> dict[str, Any]:
        """All but the index, which no two runs have in common."""
        return {k: v for k, v in vars(self).items() if k != "ifindex"} | {
            "addresses": sorted(map(str, self.addresses))
        }


class _Space:
    """One network namespace."""

    def __init__(self) -> None:
        self.links: dict[str, _FakeLink] = {}
        self.routes: list[tuple[str, Network | None, str | None, int | None]] = []  # … table
        self.rules: list[tuple[str, int]] = []
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
        self.routes = [route for route in self.routes if route[0] != name]
        for key in _PER_LINK:
            del self.sysctls[key.format(name)]
        for other in self.links.values():
            if other.master == name:
                other.master = None

    def on_link(self, link: _FakeLink) -> Iterator[Network]:
        for address in link.addresses if link.up else ():
            if address.network.prefixlen < address.max_prefixlen:
                yield address.network

    def dump(self) -> dict[str, Any]:
        connected = [(link.name, net) for link in self.links.values() for net in self.on_link(link)]
        return {
            "links": {name: link.dump() for name, link in sorted(self.links.items())},
            "routes": sorted(map(repr, [*self.routes, *connected])),
            "rules": sorted(self.rules),
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
        peer = link.peer and self._machine.space(link.peer[0]).links.get(link.peer[1])
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
            port_state=3 if link.master else None,
        )

    @_call
    def link(self, name: str) -> Link | None:
        found = self._space.links.get(name)
        return self._shown(found) if found else None

    @_call
    def links(self) -> list[Link]:
        return [self._shown(link) for link in self._space.links.values()]

    @_call
    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        self._space.new_link(name, "bridge", mac, mtu)

    @_call
    def add_veth(
        self,
        name: str,
        *,
        mac: str,
        mtu: int,
        master: str,
        peer: str,
        peer_mac: str,
        peer_netns: str,
    ) -> None:
        there = self._machine.space(peer_netns)
        bridge = self._link(master)
        if bridge.kind != "bridge":
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if name in self._space.links or peer in there.links:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        ours = self._space.new_link(name, "veth", mac, mtu)
        theirs = there.new_link(peer, "veth", peer_mac, mtu)
        ours.up, ours.master = True, master
        ours.peer, theirs.peer = (peer_netns, peer), (self._at, name)

    @_call
    def set_port(self, name: str, *, alias: str, hairpin: bool) -> None:
        link = self._link(name)
        if link.master is None:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        link.alias, link.hairpin = alias, hairpin

    @_call
    def set_alias(self, name: str, alias: str) -> None:
        self._link(name).alias = alias

    @_call
    def set_up(self, name: str, up: bool = True) -> None:
        link = self._link(name)
        link.up = up
        if name == "lo":
            link.addresses = [IPv4Interface("127.0.0.1/8")] if up else []
        if not up:
            self._space.routes = [route for route in self._space.routes if route[0] != name]

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
        self, name: str | None = None, family: int = AF_UNSPEC
    ) -> list[tuple[int, Interface]]:
        links = [self._link(name)] if name is not None else list(self._space.links.values())
        return [(link.ifindex, address) for link in links for address in link.addresses]

    @_call
    def add_address(self, name: str, address: Interface) -> None:
        link = self._link(name)
        if address in link.addresses:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        link.addresses.append(address)

    @_call
    def delete_address(self, name: str, address: Interface) -> None:
        link = self._link(name)
        if address not in link.addresses:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        link.addresses.remove(address)
        nets = list(self._space.on_link(link))
        self._space.routes = [
            route for route in self._space.routes if route[0] != name or _reaches(nets, route[2])
        ]

    @_call
    def routes(self, family: int = AF_INET) -> list[Route]:
        space = self._space
        found = [
            Route(dst, gateway, space.links[name].ifindex, None)
            for name, dst, gateway, table in space.routes
            if table is None
        ]
        for link in space.links.values():
            if link.name != "lo":
                found += [Route(net, None, link.ifindex, None) for net in space.on_link(link)]
        return found

    @_call
    def add_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        link, space = self._link(name), self._space
        if not link.up and gateway is None:
            raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN))
        if not _reaches(list(space.on_link(link)), gateway):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        if any((route[1], route[3]) == (dst, table) for route in space.routes):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        space.routes.append((name, dst, gateway, table))

    @_call
    def replace_default(self, name: str, gateway: str) -> None:
        link, space = self._link(name), self._space
        if not _reaches(list(space.on_link(link)), gateway):
            raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))
        space.routes = [r for r in space.routes if (r[1], r[3]) != (None, None)]
        space.routes.append((name, None, gateway, None))

    @_call
    def delete_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        self._link(name)
        try:
            self._space.routes.remove((name, dst, gateway, table))
        except ValueError:
            raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None

    @_call
    def rules(self) -> list[tuple[str, int]]:
        return list(self._space.rules)

    @_call
    def add_rule(self, source: str, table: int) -> None:
        if (source, table) in self._space.rules:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self._space.rules.append((source, table))

    @_call
    def delete_rule(self, source: str, table: int) -> None:
        try:
            self._space.rules.remove((source, table))
        except ValueError:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


class FakeFirewall:
    """Rules as a set of values. Two that want the same key for different ends clash, as in nft."""

    name = "fake"

    def __init__(self, refusals: Refusals | None = None) -> None:
        self.refusals = refusals or Refusals()
        self.rules: list[Rule] | None = None  # None: not open
        self.admin: list[str] = []

    def script(self) -> str:
        return Nftables().script()

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return Nftables().lines(rules, verb)

    @_call
    def open(self) -> None:
        self.rules = []

    @_call
    def close(self) -> None:
        self.rules = None

    @_call
    def is_open(self) -> bool:
        return self.rules is not None

    @_call
    def add(self, rules: Sequence[Rule]) -> None:
        if self.rules is None and rules:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        wanted = list(self.rules or [])
        for rule in rules:
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
            self.rules = [rule for rule in self.rules if rule not in rules]

    @_call
    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        return [
            line for rule in rules if rule not in (self.rules or []) for line in self.lines([rule])
        ]

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
        if link.peer is not None and link.peer[0] in self._spaces:
            there = self._spaces[link.peer[0]]
            if link.peer[1] in there.links:
                there.remove_link(link.peer[1])

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
    def create_netns(self, name: str) -> None:
        path = netns.named(name)
        if path in self._spaces:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._spaces[path] = _Space()

    @_call
    def delete_netns(self, name: str) -> None:
        path = netns.named(name)
        if path in self._spaces:
            for link in list(self._spaces[path].links.values()):
                self.remove_link(path, link)
            del self._spaces[path]

    @_call
    def forget_flows(self, *rules: Publish) -> None: ...

    @_call
    def probe_port(self, protocol: str, address: IPv4Address | None, port: int) -> None:
        if (protocol, port) in self.listening:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        host = [a.ip for link in self.space(None).links.values() for a in link.addresses]
        if address is not None and address not in host and not address.is_loopback:
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    @_call
    def port_holder(self, protocol: str, port: int) -> str | None:
        return self.listening.get((protocol, port))

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


def _reaches(nets: Sequence[Network], gateway: str | None) -> bool:
    return gateway is None or any(ip_address(gateway) in net for net in nets)


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
                and spans.start < others.stop
                and others.start < spans.stop
            )
    return False


def _form(rule: Publish) -> str:
    """Which of the back end's maps a publication is in."""
    return "range" if rule.count > 1 and rule.host_port == rule.port else "single"
