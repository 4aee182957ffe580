"""Links, addresses and routes of one network namespace, over rtnetlink. Sole importer of pyroute2.

Shapes   interfaces by name; addresses as `ipaddress` interface values; MACs as lower-case text
Errors   OSError with the kernel's errno and, in `strerror`, its extended text
         (of a kind of link it lacks, the build option: netkit.kernel.features)
Source   rtnetlink(7), netlink(7); include/uapi/linux/if_link.h, fib_rules.h

pyroute2 encodes and decodes the messages; the socket is our own, opened inside the namespace by a
thread. Its IPRoute would run each request through an asyncio loop of its own, and fork to enter a
namespace: a connect took 7.4 ms with it, and takes 4.9 without. pyroute2 costs 100 ms to import,
so it is imported by the first message, not with this module.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface
from ipaddress import ip_network as to_network
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict, Unpack

from netkit.kernel import features, netns

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Frames to 01:80:c2:00:00:0X stay on their link, and on that way the bridge learns their sender
# without asking netfilter; so they take the way of all others (the kernel leaves no choice for 0-2)
FORWARDED_GROUPS = 0xFFF8
_SCOPES = {"global": 0, "link": 253, "host": 254}
_RT_TABLE_MAIN, _RT_TABLE_COMPAT = 254, 252  # the latter: see the attribute
_ROUTE_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
_RTNH_F_ONLINK = 4
_FR_ACT_TO_TBL = 1
_RULE_PRIORITY = 32000  # before the main table's 32766
LEARNT = 9  # the protocol of a route from a router advertisement: RTPROT_RA
_RTPROT_BOOT = 3  # what `ip route add` says; pyroute2 would say static
_IFF_UP, _IFF_RUNNING, _IFF_PROMISC, _IFF_ALLMULTI = 0x1, 0x40, 0x100, 0x200
_SIOCGIFINDEX = 0x8933
_NEWLINK, _DELLINK, _GETLINK, _SETLINK = 16, 17, 18, 19  # RTM_*, linux/rtnetlink.h
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_*, linux/netlink.h
_CREATE, _REPLACE = 0x400 | 0x200, 0x400 | 0x100  # the former exclusively
_ACK_TLVS = 0x200
_ERROR, _DONE = 2, 3
_MESSAGE = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK = 270
# errors with the kernel's own words, without our request in them; filters of dumps are obeyed
_OPTIONS = (10, 11, 12)  # NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK
_TIMEOUT_S = 30
_AF_BRIDGE = 7
_BRIDGE_SELF = 2  # BRIDGE_FLAGS_SELF, linux/if_bridge.h
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x2, 0x4, 0x8, 0x10  # BRIDGE_VLAN_INFO_*
_VLANS_COMPRESSED = 4  # RTEXT_FILTER_BRVLAN_COMPRESSED

Option = str | int
_NO_OPTIONS: Mapping[str, Option] = MappingProxyType({})
# What is particular to a kind of link, by the words of `ip link … type KIND`: the attribute, and
# for a word with few values what they are; for a word without a value, to be given as 1, the bit.
_WORDS: dict[str, dict[str, tuple[str, Mapping[str, int] | int | None]]] = {
    "bridge": {
        "vlan_filtering": ("IFLA_BR_VLAN_FILTERING", None),
        "vlan_default_pvid": ("IFLA_BR_VLAN_DEFAULT_PVID", None),
    },
    "dummy": {},
    "ipvlan": {
        "mode": ("IFLA_IPVLAN_MODE", {"l2": 0, "l3": 1, "l3s": 2}),
        "private": ("IFLA_IPVLAN_FLAGS", 1),
        "vepa": ("IFLA_IPVLAN_FLAGS", 2),
    },
    "macvlan": {
        "mode": (
            "IFLA_MACVLAN_MODE",
            {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16},
        ),
        "nopromisc": ("IFLA_MACVLAN_FLAGS", 1),
        "bcqueuelen": ("IFLA_MACVLAN_BC_QUEUE_LEN", None),
    },
    "tun": {  # made by netkit.kernel.tuntap, only read here
        "mode": ("IFLA_TUN_TYPE", {"tun": 1, "tap": 2}),
        "user": ("IFLA_TUN_OWNER", None),
        "group": ("IFLA_TUN_GROUP", None),
        "vnet_hdr": ("IFLA_TUN_VNET_HDR", 1),
        "multi_queue": ("IFLA_TUN_MULTI_QUEUE", 1),
    },
    "vlan": {
        "protocol": ("IFLA_VLAN_PROTOCOL", {"802.1q": 0x8100, "802.1ad": 0x88A8}),
        "id": ("IFLA_VLAN_ID", None),
    },
    "vrf": {"table": ("IFLA_VRF_TABLE", None)},
}
_PORT_FLAGS = {
    "hairpin": "IFLA_BRPORT_MODE",
    "isolated": "IFLA_BRPORT_ISOLATED",
    "learning": "IFLA_BRPORT_LEARNING",
    "flood": "IFLA_BRPORT_UNICAST_FLOOD",
    "neigh_suppress": "IFLA_BRPORT_NEIGH_SUPPRESS",
}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_IFA_F_NODAD = 0x2


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
    options: Mapping[str, Option] = _NO_OPTIONS  # as `add_link` takes them


class Vlan(NamedTuple):
    """Tags *first* to *last* on a bridge port; *access*: one tag, of frames that bear none."""

    first: int
    last: int
    access: bool = False


class Route(NamedTuple):
    """One route of the main table; `dst` None is the default route."""

    dst: Network | None
    gateway: str | None
    ifindex: int | None
    metric: int | None
    protocol: int = 0
    mtu: int | None = None
    advmss: int | None = None


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
    scope: str | None  # "global", "link" or "host"; by itself, link where there is no gateway
    source: str | None  # the address to be seen by
    onlink: bool  # take it that the gateway is on the link
    mtu: int | None
    advmss: int | None


class Netlink:
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
        try:
            return _link(self._ask(_ifinfo(name), _GETLINK)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def links(self) -> list[Link]:
        return [_link(message) for message in self._ask(_ifinfo(), _GETLINK, _DUMP)]

    def add_bridge(
        self, name: str, *, mac: str, mtu: int, options: Mapping[str, Option] = _NO_OPTIONS
    ) -> None:
        """Create a bridge, down. Its MAC is pinned, so it never changes with its ports."""
        forwarded = [["IFLA_BR_GROUP_FWD_MASK", FORWARDED_GROUPS]]
        info = _info("KIND", "bridge", "DATA", forwarded + encode_options("bridge", options))
        link = _ifinfo(name, IFLA_ADDRESS=mac, IFLA_MTU=mtu, IFLA_LINKINFO=info)
        with _vlans_explained("vlan_filtering" in options):
            self._do(link, _NEWLINK, _CREATE)

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
        """Create a macvlan, ipvlan, vlan, dummy or vrf, in one request.

        *parent* and *master* are here; the link is born in the namespace at *at*, here if that is
        None. *options* are those of `ip link add … type KIND`; of a word without a value, 1. The
        MTU is the parent's unless given; so is an ipvlan's MAC, always. EOPNOTSUPP with a text
        that names the build option where this kernel lacks the kind.
        """
        info = _info("KIND", kind, "DATA", encode_options(kind, options))
        with _namespace(at) if at is not None else nullcontext() as fd:
            link = _ifinfo(
                name,
                up=up or None,
                IFLA_LINK=None if parent is None else self.index(parent),
                IFLA_NET_NS_FD=fd,
                IFLA_ADDRESS=mac,
                IFLA_MTU=mtu,
                IFLA_MASTER=None if master is None else self.index(master),
                IFLA_LINKINFO=info,
            )
            try:
                self._do(link, _NEWLINK, _CREATE)
            except OSError as error:
                raise features.explained(error, kind) from None

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
            theirs = {
                "IFLA_IFNAME": peer,
                "IFLA_ADDRESS": peer_mac,
                "IFLA_MTU": mtu,
                "IFLA_NET_NS_FD": fd,
            }
            other = [["VETH_INFO_PEER", {"attrs": _pairs(theirs)}]]
            link = _ifinfo(
                name,
                up=up or None,
                IFLA_ADDRESS=mac,
                IFLA_MTU=mtu,
                IFLA_MASTER=None if master is None else self.index(master),
                IFLA_LINKINFO=_info("KIND", "veth", "DATA", other),
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
        data = [[_PORT_FLAGS[word], int(on)] for word, on in flags.items() if on is not None]
        info = _info("SLAVE_KIND", "bridge", "SLAVE_DATA", data)
        self._do(_ifinfo(name, IFLA_IFALIAS=alias, IFLA_LINKINFO=info), _NEWLINK)

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
        link = _ifinfo(
            name,
            up=up,
            promisc=promisc,
            allmulti=allmulti,
            IFLA_ADDRESS=mac,
            IFLA_MTU=mtu,
            IFLA_TXQLEN=txqlen,
            IFLA_IFALIAS=alias,
            IFLA_GROUP=group,
            IFLA_MASTER=self.index(master) if master else None if master is None else 0,
        )
        self._do(link, _NEWLINK)

    def set_options(self, name: str, kind: str, options: Mapping[str, Option]) -> None:
        """Change what is particular to a kind: `ip link set NAME type KIND …`."""
        info = _info("KIND", kind, "DATA", encode_options(kind, options))
        with _vlans_explained("vlan_filtering" in options):
            self._do(_ifinfo(name, IFLA_LINKINFO=info), _NEWLINK)

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
            link = _ifinfo(new_name, index=index, up=up, IFLA_NET_NS_FD=fd, IFLA_IFALIAS=alias)
            try:
                self._do(link, _NEWLINK)
            except OSError:
                if self.link(name) is None:
                    with _namespace(self._path) as back:
                        there._do(_ifinfo(name, IFLA_NET_NS_FD=back), _NEWLINK)
                raise

    # -- VLANs of bridge ports

    def vlans(self, name: str) -> list[Vlan]:
        """The tags a bridge port takes; none where the bridge does not filter."""
        index = self.index(name)
        wanted = _ifinfo(family=_AF_BRIDGE, IFLA_EXT_MASK=_VLANS_COMPRESSED)
        found: list[Vlan] = []
        for message in self._ask(wanted, _GETLINK, _DUMP):
            if message["index"] != index or not (spec := message.get("IFLA_AF_SPEC")):
                continue
            first = 0
            for info in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO"):
                flags, vid = info["flags"], info["vid"]
                if flags & _RANGE_BEGIN:
                    first = vid
                else:
                    begin = first if flags & _RANGE_END else vid
                    found.append(Vlan(begin, vid, bool(flags & _PVID)))
        return found

    def add_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        """Let a bridge port take these tags; *own*: *name* is a bridge, and its own port meant."""
        with _vlans_explained():
            self._do(_port_vlans(self.index(name), vlans, own), _SETLINK)

    def delete_vlans(self, name: str, *vlans: Vlan, own: bool = False) -> None:
        """Take tags away; `Vlan(1, 1)` is what each port has from the start."""
        with _vlans_explained():
            self._do(_port_vlans(self.index(name), vlans, own), _DELLINK)

    # -- names, aliases, state

    def set_alias(self, name: str, alias: str) -> None:
        self._do(_ifinfo(name, IFLA_IFALIAS=alias), _NEWLINK)

    def set_up(self, name: str, up: bool = True) -> None:
        self._do(_ifinfo(name, up=up), _NEWLINK)

    def delete_link(self, name: str) -> None:
        self._do(_ifinfo(name), _DELLINK)

    def index(self, name: str) -> int:
        """The index of an interface; ENODEV if there is none."""
        # netdevice(7): asked on this very socket it costs 5 us; by a request it would be 150
        request = struct.pack("15sx24x", name.encode())
        answer = fcntl.ioctl(self._sock.fileno(), _SIOCGIFINDEX, request)
        index: int = struct.unpack_from("16xi", answer)[0]
        return index

    # -- addresses, routes and rules

    def addresses(
        self, name: str | None = None, *, version: int | None = None
    ) -> list[tuple[int, Interface]]:
        """(ifindex, address) of one interface, or of all; perhaps of one IP version only."""
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        index = 0 if name is None else self.index(name)
        family = socket.AF_UNSPEC if version is None else _FAMILIES[version]
        wanted = _message(ifaddrmsg, {"family": family, "index": index})
        return [
            (m["index"], ip_interface(f"{_local(m)}/{m['prefixlen']}"))
            for m in self._ask(wanted, _GETADDR, _DUMP)
        ]

    def add_address(self, name: str, address: Interface) -> None:
        self._do(_ifaddr(self.index(name), address), _NEWADDR, _CREATE)

    def delete_address(self, name: str, address: Interface) -> None:
        self._do(_ifaddr(self.index(name), address), _DELADDR)

    def routes(
        self, version: int = 4, *, table: int | None = None, type: str = "unicast"
    ) -> list[Route]:
        """The routes of the main table or another, of an IP version; those of one type."""
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        found = []
        where = _RT_TABLE_COMPAT if table else _RT_TABLE_MAIN
        filters = {"family": _FAMILIES[version], "table": where, "type": _ROUTE_TYPES[type]}
        wanted = _message(rtmsg, filters, RTA_TABLE=table)
        try:
            answers = self._ask(wanted, _GETROUTE, _DUMP)
        except FileNotFoundError:
            return []  # no table: a namespace in which nothing was up yet
        for m in answers:
            dst = m.get("dst") or None
            network = to_network(f"{dst}/{m['dst_len']}") if dst else None
            way = m.get("gateway"), m.get("oif"), m.get("priority"), m["proto"]
            sizes = m.get("metrics")
            mtu, advmss = (sizes and sizes.get(f"RTAX_{name}") for name in ("MTU", "ADVMSS"))
            found.append(Route(network, *way, mtu, advmss))
        return found

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
        self._do(_route(self._way(name), dst, gateway, **options), _NEWROUTE, _CREATE)

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
        from pyroute2.netlink.rtnl.fibmsg import fibmsg

        found = self._ask(_message(fibmsg, {"family": _FAMILIES[version]}), _GETRULE, _DUMP)
        return [(str(m.get("src")), int(m.get("table"))) for m in found if m.get("src")]

    def policies(self, version: int = 4) -> list[PolicyRule]:
        """The policy rules of an IP version that lead to a table, the kernel's own ones too."""
        from pyroute2.netlink.rtnl.fibmsg import fibmsg

        found = self._ask(_message(fibmsg, {"family": _FAMILIES[version]}), _GETRULE, _DUMP)
        return [_policy(m, version) for m in found if m["action"] == _FR_ACT_TO_TBL]

    def add_policy(self, rule: PolicyRule) -> None:
        self._do(_rule(rule), _NEWRULE, _CREATE)

    def delete_policy(self, rule: PolicyRule) -> None:
        self._do(_rule(rule), _DELRULE)

    def add_rule(self, source: str, table: int) -> None:
        self.add_policy(_from(source, table))

    def delete_rule(self, source: str, table: int) -> None:
        self.delete_policy(_from(source, table))

    # -- requests

    def _do(self, message: Any, kind: int, flags: int = 0) -> None:
        """Send a request and wait for the kernel's word on it."""
        for _ in self._talk(message, kind, flags | _ACK):
            pass

    def _ask(self, message: Any, kind: int, flags: int = 0) -> list[Any]:
        """What the kernel answers, decoded as messages of the same class."""
        answers = []
        for data in self._talk(message, kind, flags):
            answer = type(message)(data)
            answer.decode()
            answers.append(answer)
        return answers

    def _talk(self, message: Any, kind: int, flags: int) -> Iterator[bytes]:
        self._sequence += 1
        header = {"type": kind, "flags": _REQUEST | flags, "sequence_number": self._sequence}
        message["header"] = header | {"pid": 0}
        message.encode()
        self._sock.send(message.data)
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
    at = 36  # behind our header, the code, and the header of the request
    while flags & _ACK_TLVS and at + 4 <= len(answer):
        length, kind = struct.unpack_from("=HH", answer, at)
        if kind == _MESSAGE:
            text = answer[at + 4 : at + length].rstrip(b"\0").decode(errors="replace")
        at += max((length + 3) & ~3, 4)
    raise OSError(code, text)


# -- messages


def _message(kind: Any, fields: Mapping[str, int], **attributes: Any) -> Any:
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = _pairs(attributes)
    return message


def _pairs(attributes: Mapping[str, Any]) -> list[list[Any]]:
    return [[name, value] for name, value in attributes.items() if value is not None]


def _ifinfo(
    name: str | None = None,
    *,
    index: int = 0,
    family: int = 0,
    up: bool | None = None,
    promisc: bool | None = None,
    allmulti: bool | None = None,
    **attributes: Any,
) -> Any:
    flags = {_IFF_UP: up, _IFF_PROMISC: promisc, _IFF_ALLMULTI: allmulti}
    fields = {
        "family": family,
        "index": index,
        "flags": sum(flag for flag, on in flags.items() if on),
        "change": sum(flag for flag, on in flags.items() if on is not None),
    }
    return _message(_ifinfmsg(), fields, IFLA_IFNAME=name, **attributes)


@cache
def _ifinfmsg() -> Any:
    """pyroute2's class, taught by its own plugin interface what 0.9 would silently leave out."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    info = ifinfmsg.ifinfo
    known = info.list_link_kind()
    news = {
        "macvlan": (("IFLA_MACVLAN_BC_QUEUE_LEN", "uint32"),),
        "ipvlan": (("IFLA_IPVLAN_FLAGS", "uint16"),),
    }
    for kind, attributes in news.items():
        have = known[kind].nla_map
        more = tuple(each for each in attributes if each[0] not in (old[0] for old in have))
        taught = type(kind, (known[kind],), {"nla_map": (*have, *more)})
        info.register_link_kind(module={kind: taught})
    return ifinfmsg


def encode_options(kind: str, options: Mapping[str, Option]) -> list[list[Any]]:
    """The attributes of a kind that these words mean; EINVAL for one that it does not have."""
    attributes = []
    for word, value in options.items():
        try:
            key, values = _WORDS[kind][word]
            if isinstance(values, Mapping):
                number = values[str(value)]
            else:
                number = int(value) if values is None else values * int(value)
        except (KeyError, ValueError):
            raise OSError(errno.EINVAL, f"a {kind} has no option {word} {value}") from None
        attributes.append([key, number])
    return attributes


def _read_options(kind: str | None, info: Any) -> Mapping[str, Option]:
    """What `encode_options` would have made: the words of the kernel's answer."""
    words, data = _WORDS.get(kind or ""), info and info.get("IFLA_INFO_DATA")
    if not words or not data:
        return _NO_OPTIONS
    found: dict[str, Option] = {}
    for word, (key, values) in words.items():
        value = data.get(key)
        if isinstance(values, Mapping):
            # pyroute2 puts the names of some
            value = next((name for name, number in values.items() if value in (name, number)), None)
        elif values is not None:
            value = 1 if value in (values, word) else None
        if value is not None:
            found[word] = value
    return found


def _port_vlans(index: int, vlans: Iterable[Vlan], own: bool) -> Any:
    attributes: list[list[Any]] = []
    if own:
        attributes.append(["IFLA_BRIDGE_FLAGS", _BRIDGE_SELF])
    for vlan in vlans:
        flags = (_PVID | _UNTAGGED) * vlan.access
        ends = [(vlan.first, flags)]
        if vlan.last != vlan.first:
            ends = [(vlan.first, flags | _RANGE_BEGIN), (vlan.last, flags | _RANGE_END)]
        for vid, each in ends:
            attributes.append(["IFLA_BRIDGE_VLAN_INFO", {"flags": each, "vid": vid}])
    return _ifinfo(family=_AF_BRIDGE, index=index, IFLA_AF_SPEC={"attrs": attributes})


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


def _info(kind: str, value: str, data: str, attributes: list[list[Any]]) -> Any:
    """A link's kind, then what is particular to it: by the former the latter is understood."""
    particular = [[f"IFLA_INFO_{data}", {"attrs": attributes}]] if attributes else []
    return {"attrs": [[f"IFLA_INFO_{kind}", value], *particular]}


def _ifaddr(index: int, address: Interface) -> Any:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    v4 = address.version == 4
    broadcast = v4 and address.network.prefixlen < 31
    return _message(
        ifaddrmsg,
        {
            "family": _FAMILIES[address.version],
            "prefixlen": address.network.prefixlen,
            "index": index,
            # an allocator sees to it that nobody else has it, and else it is no use for a second
            "flags": 0 if v4 else _IFA_F_NODAD,
        },
        IFA_ADDRESS=str(address.ip),
        IFA_LOCAL=str(address.ip) if v4 else None,
        IFA_BROADCAST=str(address.network.broadcast_address) if broadcast else None,
    )


def _route(
    index: int | None,
    dst: Network | None,
    gateway: str | None,
    **options: Unpack[RouteOptions],
) -> Any:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    v6 = ":" in (gateway or str(dst))
    table, kind, scope = options.get("table"), options.get("type", "unicast"), options.get("scope")
    near = "link" if kind == "unicast" and gateway is None else "global"
    sizes = {"RTAX_MTU": options.get("mtu"), "RTAX_ADVMSS": options.get("advmss")}
    return _message(
        rtmsg,
        {
            "family": socket.AF_INET6 if v6 else socket.AF_INET,
            "dst_len": dst.prefixlen if dst else 0,
            "table": _RT_TABLE_COMPAT if table else _RT_TABLE_MAIN,
            "proto": _RTPROT_BOOT,
            "scope": _SCOPES[scope or near],
            "type": _ROUTE_TYPES[kind],
            "flags": _RTNH_F_ONLINK * options.get("onlink", False),
        },
        RTA_DST=str(dst.network_address) if dst else None,
        RTA_GATEWAY=gateway,
        RTA_OIF=index,
        RTA_PRIORITY=options.get("metric"),
        RTA_PREFSRC=options.get("source"),
        RTA_TABLE=table,
        RTA_METRICS={"attrs": _pairs(sizes)} if any(sizes.values()) else None,
    )


def _from(source: str, table: int) -> PolicyRule:
    net = to_network(source)
    return PolicyRule(table, net, version=net.version)


def _rule(rule: PolicyRule) -> Any:
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    mask = 0xFFFFFFFF if rule.mask is None else rule.mask
    return _message(
        fibmsg,
        {
            "family": _FAMILIES[rule.version],
            "src_len": rule.source.prefixlen if rule.source else 0,
            "dst_len": rule.to.prefixlen if rule.to else 0,
            "table": _RT_TABLE_COMPAT,
            "action": _FR_ACT_TO_TBL,
        },
        FRA_SRC=str(rule.source.network_address) if rule.source else None,
        FRA_DST=str(rule.to.network_address) if rule.to else None,
        FRA_IIFNAME=rule.iif,
        FRA_OIFNAME=rule.oif,
        FRA_FWMARK=rule.mark,
        FRA_FWMASK=None if rule.mark is None else mask,
        FRA_TABLE=rule.table,
        FRA_PRIORITY=rule.priority,
    )


def _policy(message: Any, version: int) -> PolicyRule:
    def end(which: str) -> Network | None:
        ip = message.get(which)
        return to_network(f"{ip}/{message[f'{which}_len']}") if ip else None

    mark, mask = message.get("FRA_FWMARK"), message.get("FRA_FWMASK")
    return PolicyRule(
        int(message.get("FRA_TABLE") or message["table"]),
        end("src"),
        end("dst"),
        message.get("FRA_IIFNAME"),
        message.get("FRA_OIFNAME"),
        mark,
        None if mark is None or mask == 0xFFFFFFFF else mask,
        message.get("FRA_PRIORITY") or 0,
        version,
    )


def _local(message: Any) -> str:
    # on a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is absent on IPv6
    return str(message.get("local") or message.get("address"))


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    kind = info.get("kind") if info else None
    # a vrf's ports and a bond's have data as well, of other kinds
    bridged = info is not None and info.get("IFLA_INFO_SLAVE_KIND") == "bridge"
    port = info.get("IFLA_INFO_SLAVE_DATA") if info is not None and bridged else None
    flags = message["flags"]
    return Link(
        ifindex=message["index"],
        name=message.get("ifname"),
        kind=kind,
        mac=message.get("address"),
        mtu=message.get("mtu"),
        up=bool(flags & _IFF_UP),
        alias=message.get("ifalias") or None,
        master=message.get("master"),
        peer_index=message.get("link"),
        port_state=port.get("IFLA_BRPORT_STATE") if port else None,
        port=frozenset(word for word, key in _PORT_FLAGS.items() if port and port.get(key)),
        txqlen=message.get("txqlen", 0),
        promisc=bool(flags & _IFF_PROMISC),
        allmulti=bool(flags & _IFF_ALLMULTI),
        group=message.get("group", 0),
        running=bool(flags & _IFF_RUNNING),
        options=_read_options(kind, info),
    )
