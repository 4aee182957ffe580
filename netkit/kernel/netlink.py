"""Links, addresses and routes of one network namespace, over rtnetlink.

Shapes   interfaces by name; addresses as `ipaddress` interface values; MACs as lower-case text
Errors   OSError with the kernel's errno and, in `strerror`, its extended text
         (of a kind of link it lacks, the build option: netkit.kernel.features)
Source   rtnetlink(7), netlink(7); include/uapi/linux/if_link.h, fib_rules.h

The socket is our own, opened inside the namespace by who has joined it for as long as that takes
(netkit.kernel.netns): pyroute2's would fork for it, and run each request through an asyncio loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)
from ipaddress import ip_network as to_network
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

from netkit import attributes
from netkit.kernel import features, kinds, netns, rtnl
from netkit.kernel.kinds import NO_OPTIONS
from netkit.kernel.kinds import Option as Option
from netkit.kernel.kinds import Vlan as Vlan
from netkit.kernel.shaping import Shaping
from netkit.kernel.together import Together

T = TypeVar("T")
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Frames to 01:80:c2:00:00:0X stay on their link, and on that way the bridge learns their sender
# without asking netfilter; so they take the way of all others (the kernel leaves no choice for 0-2)
FORWARDED_GROUPS = 0xFFF8
_RULE_PRIORITY = 32000  # before the main table's 32766
LEARNT = 9  # the protocol of a route from a router advertisement: RTPROT_RA
# linux/sockios.h
_SIOCGIFNAME, _SIOCGIFINDEX, _SIOCGIFFLAGS, _SIOCGIFHWADDR = 0x8910, 0x8933, 0x8913, 0x8927
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19  # RTM_*, linux/rtnetlink.h
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*, linux/netlink.h
_CREATE, _REPLACE, _BESIDE = 0x400 | 0x200, 0x400 | 0x100, 0x400  # the first exclusively
_ACK_TLVS = 0x200
_ERROR, _DONE = 2, 3
_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK = 270
# errors with the kernel's own words, without our request in them; filters of dumps are obeyed
_OPTIONS = (10, 11, 12)  # NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK
_TIMEOUT_S = 30
_LOOK_S = 0.0005  # to see that a link is gone: it takes that long


class Link(NamedTuple):
    """What the kernel says of one interface."""

    ifindex: int
    name: str
    kind: str | None
    mac: str | None
    mtu: int
    up: bool
    alias: str | None
    master: int | None
    peer_index: int | None  # of a veth the other end, of a macvlan and its like the parent
    port_state: int | None = None
    port: frozenset[str] = frozenset()  # of a bridge port, what is on: "hairpin", "isolated" …
    txqlen: int = 1000
    promisc: bool = False  # as it was asked for, not what others (a bridge, tcpdump) need
    allmulti: bool = False
    group: int = 0
    running: bool = True  # its other end is up, and frames pass
    options: Mapping[str, Option] = NO_OPTIONS  # as `add_link` takes them


class Route(NamedTuple):
    """One route of the main table; `dst` None is the default route."""

    dst: Network | None
    gateway: str | None
    ifindex: int | None
    metric: int | None
    protocol: int = 0
    mtu: int | None = None
    advmss: int | None = None
    source: str | None = None  # the address to be seen by
    scope: int = 0  # RT_SCOPE_UNIVERSE; 253 is the link's
    onlink: bool = False  # the gateway is taken to be on the link


class PolicyRule(NamedTuple):
    """What chooses a routing table; None matches anything. The lower priority is asked first."""

    table: int
    source: Network | None = None
    to: Network | None = None
    iif: str | None = None
    oif: str | None = None
    mark: int | None = None
    mask: int | None = None  # of the mark, all of it unless given
    priority: int = _RULE_PRIORITY
    version: int = 4


class RouteOptions(TypedDict, total=False):
    """What a route may have beside its destination and way; None is as good as left out."""

    table: int | None  # the main one unless given
    metric: int | None  # the lower wins; IPv6 takes 1024 unless given
    type: str  # "unicast"; or "blackhole", "unreachable", "prohibit", which lead nowhere
    scope: str | int | None  # "global", "link", "host" or a number; link where there is no gateway
    protocol: int | None  # who added it: a person, unless given
    beside: bool  # where there is another to the same destination, before that
    source: str | None  # the address to be seen by
    onlink: bool  # take it that the gateway is on the link
    mtu: int | None
    advmss: int | None


class Netlink(Shaping):
    """One socket in one namespace. Close it when the job is done: `with Netlink(path) as nl`."""

    def __init__(self, path: str | None = None) -> None:
        """A socket in the namespace at *path*, or in the caller's own."""
        self._path = path
        self._sock = _open_socket() if path is None else netns.run(path, _open_socket)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    # -- links

    def link(self, name: str) -> Link | None:
        """The interface called *name*, or None."""
        wanted = rtnl.link(name, ext_mask=rtnl.SKIP_STATS)
        try:
            return _link(next(self._talk(wanted, _GETLINK, 0)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def links(self) -> list[Link]:
        wanted = rtnl.link(ext_mask=rtnl.SKIP_STATS)
        return [_link(answer) for answer in self._talk(wanted, _GETLINK, _DUMP)]

    def is_up(self, name: str) -> bool | None:
        """Whether an interface was set up; None: there is none of this name. No message is sent."""
        try:
            return bool(self._ioctl(_SIOCGIFFLAGS, name, "h") & rtnl.IFF_UP)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def mac(self, name: str) -> str | None:
        """The MAC of an interface; None: there is none of this name. No message is sent."""
        try:
            found: bytes = self._ioctl(_SIOCGIFHWADDR, name, "2x6s")
            return found.hex(":")
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def add_bridge(
        self, name: str, *, mac: str, mtu: int, options: Mapping[str, Option] = NO_OPTIONS
    ) -> None:
        """Create a bridge, down. Its MAC is pinned, so it never changes with its ports."""
        if options:
            info = kinds.info("bridge", options, IFLA_BR_GROUP_FWD_MASK=FORWARDED_GROUPS)
        else:
            info = rtnl.bridge(FORWARDED_GROUPS)
        with _vlans_explained("vlan_filtering" in options):
            self._do(rtnl.link(name, mac=mac, mtu=mtu, info=info), _NEWLINK, _CREATE)

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
        options: Mapping[str, Option] = NO_OPTIONS,
    ) -> None:
        """Create a macvlan, ipvlan, vlan, dummy or vrf, in one request.

        *parent* and *master* are here; the link is born in the namespace at *at*, here if that is
        None. *options* are those of `ip link add … type KIND`; of a word without a value, 1. The
        MTU is the parent's unless given; so is an ipvlan's MAC, always. EOPNOTSUPP with a text
        that names the build option where this kernel lacks the kind.

        Before Linux 6.15 a name that is taken here counts as taken at *at*, too: there the link is
        born by its `interim` name, down.
        """
        info = kinds.info(kind, options)
        with _namespace(at) if at is not None else nullcontext() as fd:

            def create(name: str, up: bool) -> None:
                link = rtnl.link(
                    name,
                    up=up or None,
                    parent=None if parent is None else self.index(parent),
                    namespace=fd,
                    mac=mac,
                    mtu=mtu,
                    master=None if master is None else self.index(master),
                    info=info,
                )
                self._do(link, _NEWLINK, _CREATE)

            try:
                create(name, up)
            except OSError as error:
                if error.errno != errno.EEXIST or at is None or self.is_up(name) is None:
                    raise features.explained(error, kind) from None
                with Netlink(at) as there:
                    if there.is_up(name) is not None:
                        raise
                    create(interim(name), False)
                    there._rename(interim(name), name, up)

    def _rename(self, old: str, new: str, up: bool) -> None:
        """Call a link that was just made by its own name; or delete it."""
        try:
            self._do(rtnl.link(new, index=self.index(old), up=up or None), _NEWLINK)
        except OSError:
            self.delete_link(old)
            raise

    def has_kind(self, kind: str) -> bool:
        """Whether this kernel can make links of a kind; none is made to find out."""
        # no interface can be called so, which the kernel says of the kinds it knows
        info = rtnl.attributes_of({rtnl.INFO_KIND: kind})
        try:
            self._do(rtnl.link("/", info=info), _NEWLINK, _CREATE)
        except OSError as error:
            if features.explained(error, kind) is not error:
                return False
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
        return True

    def free_table(self, first: int, taken: Collection[int] = ()) -> int:
        """The first routing table from *first* on that no route is in, and no rule or vrf leads to,
        but for those *taken*."""
        used = {*taken, *(rule.table for version in (4, 6) for rule in self.policies(version))}
        used |= {int(link.options["table"]) for link in self.links() if link.kind == "vrf"}
        while first in used or any(self.routes(version, table=first) for version in (4, 6)):
            first += 1
        return first

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
        """Create a veth pair in one request: *name* here, up and enslaved; *peer* born there.

        Here is this handle's namespace, so the ends may be in two containers; *peer_netns* None is
        the caller's own. The peer is born down: it has no addresses yet.
        """
        with _namespace(peer_netns) as fd:
            theirs = rtnl.link(peer, mac=peer_mac, mtu=mtu, namespace=fd)
            link = rtnl.link(
                name,
                up=up or None,
                mac=mac,
                mtu=mtu,
                master=None if master is None else self.index(master),
                info=rtnl.veth(theirs),
            )
            self._do(link, _NEWLINK, _CREATE)

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
        """Name the owner of a bridge port, and say what is done with its frames.

        *hairpin*: they may leave by the port they came in; *isolated*: they reach no other port
        that is isolated; *learning*: the bridge learns their senders; *flood*: those to nobody
        known leave here too; *neigh_suppress*: the bridge answers for neighbours it knows.
        """
        flags = {
            "hairpin": hairpin,
            "isolated": isolated,
            "learning": learning,
            "flood": flood,
            "neigh_suppress": neigh_suppress,
        }
        self._do(rtnl.link(name, alias=alias, info=rtnl.port(flags)), _NEWLINK)

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
        """Change what is not None, in one request; `link` says what it was.

        *alias* and *master* "" take the one it has away; a master may be a bridge or a vrf.
        """
        link = rtnl.link(
            name,
            up=up,
            promisc=promisc,
            allmulti=allmulti,
            mac=mac,
            mtu=mtu,
            txqlen=txqlen,
            alias=alias,
            group=group,
            master=self.index(master) if master else None if master is None else 0,
        )
        self._do(link, _NEWLINK)

    def set_options(self, name: str, kind: str, options: Mapping[str, Option]) -> None:
        """Change what is particular to a kind: `ip link set NAME type KIND …`."""
        info = kinds.info(kind, options)
        with _vlans_explained("vlan_filtering" in options):
            self._do(rtnl.link(name, info=info), _NEWLINK)

    def move_link(
        self,
        name: str,
        to: str | None,
        new_name: str | None = None,
        *,
        alias: str | None = None,
        up: bool | None = None,
    ) -> None:
        """Move an interface into the namespace at *to*, and rename it there, in one request.

        None is the caller's own namespace: so a container's handle gives a device back. It leaves
        its addresses, routes, master and sysctls behind, and arrives down unless *up*. When its
        namespace dies, a physical interface returns to the machine's first namespace by itself
        (as devN where its name is taken); a veth or a macvlan dies.
        """
        index, new_name = self.index(name), new_name or name
        with _namespace(to) as fd, Netlink(to) as there:
            # the kernel moves it first and renames it then: found out by trying, a name that is
            # taken would cost the interface its addresses
            if there.link(new_name) is not None:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            link = rtnl.link(new_name, index=index, up=up, namespace=fd, alias=alias)
            try:
                self._do(link, _NEWLINK)
            except OSError:
                if self.link(name) is None:
                    with _namespace(self._path) as back:
                        there._do(rtnl.link(name, namespace=back), _NEWLINK)
                raise

    # -- VLANs of bridge ports

    def vlans(self, name: str) -> list[Vlan]:
        """The tags a bridge port takes; none where the bridge does not filter."""
        answers = list(self._talk(kinds.every_vlan(), _GETLINK, _DUMP))
        return kinds.read_vlans(answers, self.index(name))

    def add_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        """Let a bridge port take these tags; *own*: *name* is a bridge, and its own port meant."""
        with _vlans_explained():
            self._do(kinds.port_vlans(self.index(name), vlans, own), _SETLINK)

    def delete_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        """Take tags away; `Vlan(1, 1)` is what each port has from the start."""
        with _vlans_explained():
            self._do(kinds.port_vlans(self.index(name), vlans, own), _DELLINK)

    # -- names, aliases, state

    def set_alias(self, name: str, alias: str) -> None:
        self._do(rtnl.link(name, alias=alias), _NEWLINK)

    def set_up(self, name: str, up: bool = True) -> None:
        self._do(rtnl.link(name, up=up), _NEWLINK)

    def delete_link(self, name: str) -> None:
        """Delete an interface; when this returns, it is gone: down, and known to nobody.

        The kernel then waits 20 ms for all who may still look at it, however many they are. So
        those of the host that several threads delete at once go together; and a process of many
        threads leaves the waiting to one more.
        """
        if self._path is not None:
            self._do(rtnl.link(name), _DELLINK)
        elif threading.current_thread() is threading.main_thread():
            _delete_links(name)
        else:
            self._delete_aside(name)

    def _delete_aside(self, name: str) -> None:
        index, failed, done = self.index(name), list[BaseException](), threading.Event()

        def delete() -> None:
            try:
                _delete_links(name)
            except BaseException as error:
                failed.append(error)
            finally:
                done.set()

        threading.Thread(target=delete, name=f"delete {name}").start()
        while not done.wait(_LOOK_S):
            with suppress(OSError):
                if self.index(name) == index:
                    continue
            return
        if failed:
            raise failed[0]

    def index(self, name: str) -> int:
        """The index of an interface; ENODEV if there is none."""
        found: int = self._ioctl(_SIOCGIFINDEX, name, "i")
        return found

    def _ioctl(self, request: int, name: str, answer: str) -> Any:
        # netdevice(7): asked on this very socket it costs 5 us; by a request it would be 30
        asked = struct.pack("15sx24x", name.encode())
        return struct.unpack_from(f"=16x{answer}", fcntl.ioctl(self._sock, request, asked))[0]

    # -- addresses, routes and rules

    def addresses(
        self, name: str | None = None, *, version: int | None = None
    ) -> list[tuple[int, Interface]]:
        """(ifindex, address) of one interface, or of all; perhaps of one IP version only."""
        index = 0 if name is None else self.index(name)
        answers = self._talk(rtnl.addresses(version, index), _GETADDR, _DUMP)
        return [_address(answer) for answer in answers]

    def add_address(self, name: str, address: Interface, *, prefix_route: bool = True) -> None:
        """Add an address, and unless *prefix_route* is false a route to its subnet."""
        request = rtnl.address(self.index(name), address, prefix_route=prefix_route)
        self._do(request, _NEWADDR, _CREATE)

    def delete_address(self, name: str, address: Interface) -> None:
        self._do(rtnl.address(self.index(name), address), _DELADDR)

    def routes(
        self, version: int = 4, *, table: int | None = None, type: str = "unicast"
    ) -> list[Route]:
        """The routes of the main table or another, of an IP version; those of one type."""
        wanted = rtnl.routes(version, table=table, type=type)
        try:
            return [_read_route(answer) for answer in self._talk(wanted, _GETROUTE, _DUMP)]
        except FileNotFoundError:
            return []  # no table: a namespace in which nothing was up yet

    def way_to(self, address: IPv4Address | IPv6Address, *, direct: bool = False) -> str | None:
        """The interface by which an address is reached; None if it is not, or, if that is to be
        *direct*, only by a gateway.
        """
        try:
            (answer,) = self._talk(rtnl.way(address), _GETROUTE, 0)
        except OSError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
                return None  # no route, or one that says so: unreachable, prohibit, blackhole
            raise
        route = rtnl.read(answer, rtnl.ROUTE_HEADER)
        found = route.get(rtnl.OIF)
        if found is None or (direct and rtnl.GATEWAY in route):
            return None
        asked = struct.pack("16xi20x", rtnl.number(found))
        return rtnl.text(fcntl.ioctl(self._sock, _SIOCGIFNAME, asked)[:16])

    def ways_out(self) -> set[int]:
        """The IP versions that have a default route in the main table."""
        answers = self._talk(rtnl.routes(None), _GETROUTE, _DUMP)
        # family and length of destination come first
        found = {answer[16] for answer in answers if answer[17] == 0}
        return {version for version, family in rtnl.FAMILIES.items() if family in found}

    def add_route(
        self,
        name: str | None,
        dst: Network | None,
        gateway: str | None,
        **options: Unpack[RouteOptions],
    ) -> None:
        """Add a route by *name*, or by nothing where its type leads nowhere.

        *dst* None is the default route, of the gateway's version, else of IPv4: `::/0` says IPv6.
        """
        how = _BESIDE if options.get("beside") else _CREATE
        self._do(_route(self._way(name), dst, gateway, **options), _NEWROUTE, how)

    def replace_default(self, name: str, gateway: str) -> None:
        """Make this the default route of the main table, in place of the one there is."""
        self._do(_route(self.index(name), None, gateway), _NEWROUTE, _REPLACE)

    def delete_route(
        self,
        name: str | None,
        dst: Network | None,
        gateway: str | None,
        **options: Unpack[RouteOptions],
    ) -> None:
        self._do(_route(self._way(name), dst, gateway, **options), _DELROUTE)

    def _way(self, name: str | None) -> int | None:
        return None if name is None else self.index(name)

    def rules(self, version: int = 4) -> list[tuple[str, int]]:
        """(source, table) of the policy rules of an IP version that look at the source."""
        found = self.policies(version)
        return [(str(rule.source.network_address), rule.table) for rule in found if rule.source]

    def policies(self, version: int = 4) -> list[PolicyRule]:
        """The policy rules of an IP version that lead to a table, the kernel's own ones too."""
        answers = self._talk(rtnl.rules(version), _GETRULE, _DUMP)
        return [_policy(answer, version) for answer in answers if answer[23] == rtnl.TO_TABLE]

    def add_policy(self, rule: PolicyRule) -> None:
        self._do(_rule(rule), _NEWRULE, _CREATE)

    def delete_policy(self, rule: PolicyRule) -> None:
        self._do(_rule(rule), _DELRULE)

    def add_rule(self, source: str, table: int) -> None:
        self.add_policy(_from(source, table))

    def delete_rule(self, source: str, table: int) -> None:
        self.delete_policy(_from(source, table))

    # -- requests

    def _do(self, request: bytes, kind: int, flags: int = 0) -> None:
        """Send a request and wait for the kernel's word on it."""
        for _ in self._talk(request, kind, flags | _ACK):
            pass

    def _talk(self, request: bytes, kind: int, flags: int) -> Iterator[bytes]:
        """The kernel's answers, each with its netlink header."""
        self._sequence += 1
        size, flags = 16 + len(request), _REQUEST | flags
        self._sock.send(struct.pack("=IHHII", size, kind, flags, self._sequence, 0) + request)
        # a dump ends with DONE, what asks to be acknowledged with ERROR 0, one question with its
        # one answer; and anything with an error
        ends_itself = flags & (_ACK | _DUMP)
        while True:
            data = self._sock.recv(1 << 17)
            while data:
                length, answer, _, sequence = struct.unpack_from("=IHHI", data)
                if sequence == self._sequence:  # else it is left over from what was given up
                    if answer in (_ERROR, _DONE):
                        _raise_for(data[:length])
                        return
                    yield data[:length]
                    if not ends_itself:
                        return
                data = data[(length + 3) & ~3 :]


def _delete_all(names: Sequence[str]) -> None:
    """Delete interfaces of the caller's own namespace, several by a group nobody else is in."""
    with Netlink() as netlink:
        if len(names) == 1:
            netlink._do(rtnl.link(names[0]), _DELLINK)
            return
        group = 1 << 31 | int.from_bytes(os.urandom(3), "big")
        for name in names:
            netlink.set_link(name, group=group)
        netlink._do(rtnl.link(group=group), _DELLINK)


_delete_links = Together(_delete_all)


def interim(name: str) -> str:
    """What a link may be called that is to be called *name* in a moment."""
    from zlib import crc32

    return f"nk-{crc32(name.encode()):08x}"


def _open_socket() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.settimeout(_TIMEOUT_S)
    for option in _OPTIONS:
        sock.setsockopt(_SOL_NETLINK, option, 1)
    return sock


def _raise_for(answer: bytes) -> None:
    """Raise what an ERROR or DONE message reports, in the kernel's own words where it has some."""
    if len(answer) < 20 or not (code := -struct.unpack_from("=i", answer, 16)[0]):
        return
    text = os.strerror(code)
    flags: int = struct.unpack_from("=H", answer, 6)[0]
    if flags & _ACK_TLVS:
        # behind our header, the code, and the header of the request
        words = attributes.read(answer, 36).get(_MESSAGE, b"")
        text = words.rstrip(b"\0").decode(errors="replace") or text
    raise OSError(code, text)


# -- messages


@contextmanager
def _vlans_explained(asked: bool = True) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise features.explained(error, features.BRIDGE_VLANS) if asked else error from None


@contextmanager
def _namespace(path: str | None) -> Iterator[int]:
    """An open file that stands for the namespace at *path*; None is the caller's own."""
    fd = os.open(path or "/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _route(
    index: int | None,
    dst: Network | None,
    gateway: str | None,
    **options: Unpack[RouteOptions],
) -> bytes:
    source = options.get("source")
    return rtnl.route(
        6 if ":" in (gateway or str(dst)) else 4,
        index,
        dst,
        ip_address(gateway) if gateway else None,
        table=options.get("table"),
        metric=options.get("metric"),
        type=options.get("type", "unicast"),
        scope=options.get("scope"),
        protocol=options.get("protocol"),
        source=ip_address(source) if source else None,
        onlink=options.get("onlink", False),
        mtu=options.get("mtu"),
        advmss=options.get("advmss"),
    )


def _from(source: str, table: int) -> PolicyRule:
    net = to_network(source)
    return PolicyRule(table, net, version=net.version)


def _rule(rule: PolicyRule) -> bytes:
    return rtnl.rule(
        rule.version,
        source=rule.source,
        to=rule.to,
        iif=rule.iif,
        oif=rule.oif,
        mark=rule.mark,
        mask=rule.mask,
        table=rule.table,
        priority=rule.priority,
    )


# -- answers, each with its netlink header of 16 bytes


def _policy(answer: bytes, version: int) -> PolicyRule:
    found = rtnl.read(answer, rtnl.RULE_HEADER)

    def network(which: int, length: int) -> Network | None:
        ip = found.get(which)
        return None if ip is None else to_network((ip, length))

    def value(which: int, read: Callable[[bytes], T]) -> T | None:
        packed = found.get(which)
        return None if packed is None else read(packed)

    mark, mask = value(rtnl.RULE_MARK, rtnl.number), value(rtnl.RULE_MASK, rtnl.number)
    return PolicyRule(
        value(rtnl.RULE_TABLE, rtnl.number) or answer[20],
        network(rtnl.RULE_SRC, answer[18]),
        network(rtnl.RULE_DST, answer[17]),
        value(rtnl.RULE_IIF, rtnl.text),
        value(rtnl.RULE_OIF, rtnl.text),
        mark,
        None if mark is None or mask == 0xFFFFFFFF else mask,
        value(rtnl.RULE_PRIORITY, rtnl.number) or 0,
        version,
    )


def _address(answer: bytes) -> tuple[int, Interface]:
    found = rtnl.read(answer, rtnl.ADDRESS_HEADER)
    length, index = struct.unpack_from("=BxxI", answer, 17)
    # on a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is absent on IPv6
    return index, ip_interface((found.get(rtnl.LOCAL) or found[rtnl.ADDRESS], length))


def _read_route(answer: bytes) -> Route:
    found = rtnl.read(answer, rtnl.ROUTE_HEADER)

    def value(which: int) -> int | None:
        return rtnl.number(found[which]) if which in found else None

    sizes = attributes.read(found.get(rtnl.METRICS, b""))
    mtu, advmss = (
        rtnl.number(sizes[which]) if which in sizes else None
        for which in (rtnl.METRIC_MTU, rtnl.METRIC_ADVMSS)
    )
    dst, gateway = found.get(rtnl.DST), found.get(rtnl.GATEWAY)
    source = found.get(rtnl.PREFSRC)
    return Route(
        to_network((dst, answer[17])) if dst else None,
        str(ip_address(gateway)) if gateway else None,
        value(rtnl.OIF),
        value(rtnl.PRIORITY),
        answer[21],
        mtu,
        advmss,
        str(ip_address(source)) if source else None,
        answer[22],
        bool(rtnl.number(answer[24:28]) & rtnl.ONLINK),
    )


def _link(answer: bytes) -> Link:
    index, flags = struct.unpack_from("=iI", answer, 20)
    found = rtnl.read(answer, rtnl.LINK_HEADER)
    info = attributes.read(found.get(rtnl.LINKINFO, b""))
    kind = rtnl.text(info[rtnl.INFO_KIND]) if rtnl.INFO_KIND in info else None
    # a vrf's ports and a bond's have data as well, of other kinds
    bridged = rtnl.text(info.get(rtnl.INFO_PORT_KIND, b"")) == "bridge"
    port = attributes.read(info.get(rtnl.INFO_PORT_DATA, b"")) if bridged else {}
    mac = found.get(rtnl.MAC)

    def value(which: int) -> int | None:
        return rtnl.number(found[which]) if which in found else None

    return Link(
        ifindex=index,
        name=rtnl.text(found[rtnl.IFNAME]),
        kind=kind,
        mac=mac.hex(":") if mac else None,
        mtu=value(rtnl.MTU) or 0,
        up=bool(flags & rtnl.IFF_UP),
        alias=rtnl.text(found.get(rtnl.ALIAS, b"")) or None,
        master=value(rtnl.MASTER),
        peer_index=value(rtnl.PARENT),
        port_state=rtnl.number(port[rtnl.PORT_STATE]) if rtnl.PORT_STATE in port else None,
        port=frozenset(word for word, key in rtnl.PORT_FLAGS.items() if any(port.get(key, b""))),
        txqlen=value(rtnl.TXQLEN) or 0,
        promisc=bool(flags & rtnl.IFF_PROMISC),
        allmulti=bool(flags & rtnl.IFF_ALLMULTI),
        group=value(rtnl.GROUP) or 0,
        running=bool(flags & rtnl.IFF_RUNNING),
        options=kinds.Options(kind, answer) if rtnl.INFO_DATA in info and kind else NO_OPTIONS,
    )
