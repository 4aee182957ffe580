"""Rtnetlink's requests, packed by hand, and how its answers are read.

Shapes   a request is bytes: its family's header and attributes, without the netlink header;
         interfaces by index; None is left out
Source   rtnetlink(7); include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h, fib_rules.h

What each container needs is here; tests hold it to pyroute2's decoder. pyroute2, which packs what
is rare (netkit.kernel.kinds), takes 30 to 60 us to encode such a request and 150 to decode a link,
100 ms to import; this takes 5, 15 and 1.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Mapping
from ipaddress import IPv4Interface, IPv6Interface

from netkit import attributes
from netkit.addresses import Address, Network
from netkit.attributes import pack

FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
LINK_HEADER, ADDRESS_HEADER, ROUTE_HEADER, RULE_HEADER = 16, 8, 12, 12  # bytes

# IFLA_*
MAC, IFNAME, MTU, PARENT, MASTER, TXQLEN, LINKINFO, ALIAS = 1, 3, 4, 5, 10, 13, 18, 20
GROUP, NETNS_FD, EXT_MASK = 27, 28, 29
SKIP_STATS = 8  # RTEXT_FILTER_SKIP_STATS: what nobody reads need not be counted
INFO_KIND, INFO_DATA, INFO_PORT_KIND, INFO_PORT_DATA = 1, 2, 4, 5  # IFLA_INFO_*
PORT_STATE = 1  # IFLA_BRPORT_STATE
PORT_FLAGS = {  # IFLA_BRPORT_*
    "hairpin": 4,
    "isolated": 33,
    "learning": 8,
    "flood": 9,
    "neigh_suppress": 32,
}
_VETH_PEER, _GROUP_FWD_MASK = 1, 9  # VETH_INFO_PEER, IFLA_BR_GROUP_FWD_MASK
IFF_UP, IFF_RUNNING, IFF_PROMISC, IFF_ALLMULTI = 0x1, 0x40, 0x100, 0x200

# IFA_*
ADDRESS, LOCAL, _BROADCAST, _FLAGS = 1, 2, 4, 8
_NODAD, _NOPREFIXROUTE = 0x2, 0x200

# RTA_*, RTAX_*
DST, OIF, GATEWAY, PRIORITY, PREFSRC, METRICS, TABLE = 1, 4, 5, 6, 7, 8, 15
METRIC_MTU, METRIC_ADVMSS = 2, 8
TABLE_MAIN, TABLE_COMPAT = 254, 252  # the latter: see the attribute
ROUTE_TYPES = {"unicast": 1, "blackhole": 6, "unreachable": 7, "prohibit": 8}
SCOPES = {"global": 0, "link": 253, "host": 254}
ONLINK = 4  # RTNH_F_ONLINK
_BOOT = 3  # RTPROT_BOOT: what `ip route add` says

# FRA_*
RULE_DST, RULE_SRC, RULE_IIF, RULE_PRIORITY, RULE_MARK = 1, 2, 3, 6, 10
RULE_TABLE, RULE_MASK, RULE_OIF = 15, 16, 17
TO_TABLE = 1  # FR_ACT_TO_TBL


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def number(value: bytes) -> int:
    """An integer as the machine has it, of whatever size."""
    return int.from_bytes(value, sys.byteorder)


def text(value: bytes) -> str:
    return os.fsdecode(value.rstrip(b"\0"))


def attributes_of(values: Mapping[int, int | str | bytes | None]) -> bytes:
    """Attributes of 32 bits or of text, in this order, but for those that are None."""
    return b"".join(
        pack(kind, _value(value)) for kind, value in values.items() if value is not None
    )


def _value(value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return u32(value)
    return os.fsencode(value) + b"\0" if isinstance(value, str) else value


# -- links


def link(
    name: str | None = None,
    *,
    index: int = 0,
    up: bool | None = None,
    promisc: bool | None = None,
    allmulti: bool | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    parent: int | None = None,
    master: int | None = None,
    txqlen: int | None = None,
    info: bytes | None = None,
    alias: str | None = None,
    group: int | None = None,
    namespace: int | None = None,
    ext_mask: int | None = None,
) -> bytes:
    """An interface by name or by index, and what it is to be; *namespace* is an open file."""
    flags = {IFF_UP: up, IFF_PROMISC: promisc, IFF_ALLMULTI: allmulti}
    on = sum(flag for flag, wanted in flags.items() if wanted)
    change = sum(flag for flag, wanted in flags.items() if wanted is not None)
    return struct.pack("=BxHiII", 0, 0, index, on, change) + attributes_of(
        {
            IFNAME: name,
            PARENT: parent,
            NETNS_FD: namespace,
            MAC: None if mac is None else bytes.fromhex(mac.replace(":", "")),
            MTU: mtu,
            TXQLEN: txqlen,
            ALIAS: alias,
            GROUP: group,
            MASTER: master,
            LINKINFO: info,
            EXT_MASK: ext_mask,
        }
    )


def veth(peer: bytes) -> bytes:
    """The kind of a pair; *peer* is its other end, a `link`."""
    return attributes_of({INFO_KIND: "veth", INFO_DATA: pack(_VETH_PEER, peer)})


def bridge(group_fwd_mask: int) -> bytes:
    data = pack(_GROUP_FWD_MASK, struct.pack("=H", group_fwd_mask))
    return attributes_of({INFO_KIND: "bridge", INFO_DATA: data})


def port(flags: Mapping[str, bool | None]) -> bytes:
    """What is particular to a bridge's port."""
    data = [pack(PORT_FLAGS[word], bytes([on])) for word, on in flags.items() if on is not None]
    return attributes_of({INFO_PORT_KIND: "bridge", INFO_PORT_DATA: b"".join(data)})


# -- addresses, routes and rules


def address(index: int, own: IPv4Interface | IPv6Interface, *, prefix_route: bool = True) -> bytes:
    """An address; without *prefix_route* the kernel adds no route to its subnet."""
    v4, length = own.version == 4, own.network.prefixlen
    # an allocator sees to it that nobody else has it, and else it is no use for a second
    flags = 0 if v4 else _NODAD
    header = struct.pack("=BBBBI", FAMILIES[own.version], length, flags, 0, index)
    broadcast = own.network.broadcast_address.packed if v4 and length < 31 else None
    return header + attributes_of(
        {
            ADDRESS: own.ip.packed,
            LOCAL: own.ip.packed if v4 else None,
            _BROADCAST: broadcast,
            _FLAGS: None if prefix_route else flags | _NOPREFIXROUTE,
        }
    )


def addresses(version: int | None = None, index: int = 0) -> bytes:
    """What is asked for: those of an IP version, of an interface."""
    family = socket.AF_UNSPEC if version is None else FAMILIES[version]
    return struct.pack("=BBBBI", family, 0, 0, 0, index)


def route(
    version: int,
    index: int | None,
    dst: Network | None,
    gateway: Address | None,
    *,
    table: int | None = None,
    metric: int | None = None,
    type: str = "unicast",
    scope: str | int | None = None,
    protocol: int | None = None,
    source: Address | None = None,
    onlink: bool = False,
    mtu: int | None = None,
    advmss: int | None = None,
) -> bytes:
    """A route; *dst* None is the default one."""
    near = "link" if type == "unicast" and gateway is None else "global"
    sizes = attributes_of({METRIC_MTU: mtu or None, METRIC_ADVMSS: advmss or None})
    header = struct.pack(
        "=BBBBBBBBI",
        FAMILIES[version],
        dst.prefixlen if dst else 0,
        0,
        0,
        TABLE_COMPAT if table else TABLE_MAIN,
        protocol or _BOOT,
        scope if isinstance(scope, int) else SCOPES[scope or near],
        ROUTE_TYPES[type],
        ONLINK * onlink,
    )
    return header + attributes_of(
        {
            DST: dst.network_address.packed if dst else None,
            GATEWAY: gateway.packed if gateway else None,
            OIF: index,
            PRIORITY: metric,
            PREFSRC: source.packed if source else None,
            TABLE: table,
            METRICS: sizes or None,
        }
    )


def routes(version: int | None, *, table: int | None = None, type: str = "unicast") -> bytes:
    """What is asked for: those of a table, of an IP version, of a type."""
    family = socket.AF_UNSPEC if version is None else FAMILIES[version]
    where = TABLE_COMPAT if table else TABLE_MAIN
    header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, where, 0, 0, ROUTE_TYPES[type], 0)
    return header + attributes_of({TABLE: table})


def way(address: Address) -> bytes:
    """By which way an address is reached is asked for."""
    packed = address.packed
    header = struct.pack("=BBBBBBBBI", FAMILIES[address.version], 8 * len(packed), *(0,) * 7)
    return header + attributes_of({DST: packed})


def rule(
    version: int,
    *,
    source: Network | None = None,
    to: Network | None = None,
    iif: str | None = None,
    oif: str | None = None,
    mark: int | None = None,
    mask: int | None = None,
    table: int = 0,
    priority: int | None = None,
) -> bytes:
    """A policy rule that leads to a table."""
    ends = (each.prefixlen if each else 0 for each in (to, source))
    family = FAMILIES[version]
    header = struct.pack("=BBBBBBBBI", family, *ends, 0, TABLE_COMPAT, 0, 0, TO_TABLE, 0)
    return header + attributes_of(
        {
            RULE_SRC: source.network_address.packed if source else None,
            RULE_DST: to.network_address.packed if to else None,
            RULE_IIF: iif,
            RULE_OIF: oif,
            RULE_MARK: mark,
            RULE_MASK: None if mark is None else 0xFFFFFFFF if mask is None else mask,
            RULE_TABLE: table,
            RULE_PRIORITY: priority,
        }
    )


def rules(version: int) -> bytes:
    """What is asked for."""
    return struct.pack("=BBBBBBBBI", FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)


def read(answer: bytes, header: int) -> dict[int, bytes]:
    """The attributes of an answer, netlink's header and all, whose own header has this size."""
    return attributes.read(answer, 16 + header)
