"""Links, addresses and routes of one network namespace, over rtnetlink. Sole importer of pyroute2.

Shapes   interfaces by name; addresses as `ipaddress` interface values; MACs as lower-case text
Errors   OSError with the kernel's errno and, in `strerror`, its extended text
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
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface
from ipaddress import ip_network as to_network
from typing import Any, NamedTuple

from netkit.kernel import netns

Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

# Frames to 01:80:c2:00:00:0X stay on their link, and on that way the bridge learns their sender
# without asking netfilter; so they take the way of all others (the kernel leaves no choice for 0-2)
FORWARDED_GROUPS = 0xFFF8
_SCOPE_LINK = 253
_RT_TABLE_MAIN, _RT_TABLE_COMPAT = 254, 252  # the latter: see the attribute
_RTN_UNICAST = 1
_FR_ACT_TO_TBL = 1
_RULE_PRIORITY = 32000  # before the main table's 32766
_RTPROT_BOOT = 3  # what `ip route add` says; pyroute2 would say static
_IFF_UP = 1
_SIOCGIFINDEX = 0x8933
_NEWLINK, _DELLINK, _GETLINK = 16, 17, 18  # RTM_*, linux/rtnetlink.h
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
    peer_index: int | None
    port_state: int | None = None


class Route(NamedTuple):
    """One route of the main table; `dst` None is the default route."""

    dst: Network | None
    gateway: str | None
    ifindex: int | None
    metric: int | None


class Netlink:
    """One socket in one namespace. Close it when the job is done: `with Netlink(path) as nl`."""

    def __init__(self, path: str | None = None) -> None:
        """A socket in the namespace at *path*, or in the caller's own."""
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

    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """Create a bridge, down. Its MAC is pinned, so it never changes with its ports."""
        data = {"attrs": [["IFLA_BR_GROUP_FWD_MASK", FORWARDED_GROUPS]]}
        info = _info("KIND", "bridge", "DATA", data)
        link = _ifinfo(name, IFLA_ADDRESS=mac, IFLA_MTU=mtu, IFLA_LINKINFO=info)
        self._do(link, _NEWLINK, _CREATE)

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
        """Create a veth pair in one request: *name* here, up and enslaved; *peer* born there."""
        fd = os.open(peer_netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            theirs = {
                "IFLA_IFNAME": peer,
                "IFLA_ADDRESS": peer_mac,
                "IFLA_MTU": mtu,
                "IFLA_NET_NS_FD": fd,
            }
            data = {"attrs": [["VETH_INFO_PEER", {"attrs": _pairs(theirs)}]]}
            link = _ifinfo(
                name,
                up=True,
                IFLA_ADDRESS=mac,
                IFLA_MTU=mtu,
                IFLA_MASTER=self.index(master),
                IFLA_LINKINFO=_info("KIND", "veth", "DATA", data),
            )
            self._do(link, _NEWLINK, _CREATE)
        finally:
            os.close(fd)

    def set_port(self, name: str, *, alias: str, hairpin: bool) -> None:
        """Name the owner of a bridge port and let frames leave by the port they came in."""
        data = {"attrs": [["IFLA_BRPORT_MODE", int(hairpin)]]}
        info = _info("SLAVE_KIND", "bridge", "SLAVE_DATA", data)
        self._do(_ifinfo(name, IFLA_IFALIAS=alias, IFLA_LINKINFO=info), _NEWLINK)

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
        self, name: str | None = None, family: int = socket.AF_UNSPEC
    ) -> list[tuple[int, Interface]]:
        """(ifindex, address) of one interface, or of all."""
        from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

        index = 0 if name is None else self.index(name)
        wanted = _message(ifaddrmsg, {"family": family, "index": index})
        return [
            (m["index"], ip_interface(f"{_local(m)}/{m['prefixlen']}"))
            for m in self._ask(wanted, _GETADDR, _DUMP)
        ]

    def add_address(self, name: str, address: Interface) -> None:
        self._do(_ifaddr(self.index(name), address), _NEWADDR, _CREATE)

    def delete_address(self, name: str, address: Interface) -> None:
        self._do(_ifaddr(self.index(name), address), _DELADDR)

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """The unicast routes of the main table."""
        from pyroute2.netlink.rtnl.rtmsg import rtmsg

        found = []
        wanted = _message(rtmsg, {"family": family, "table": _RT_TABLE_MAIN})
        try:
            answers = self._ask(wanted, _GETROUTE, _DUMP)
        except FileNotFoundError:
            return []  # no table: a namespace in which nothing was up yet
        for m in answers:
            dst = m.get("dst") or None
            network = to_network(f"{dst}/{m['dst_len']}") if dst else None
            found.append(Route(network, m.get("gateway"), m.get("oif"), m.get("priority")))
        return found

    def add_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        self._do(_route(self.index(name), dst, gateway, table), _NEWROUTE, _CREATE)

    def replace_default(self, name: str, gateway: str) -> None:
        """Make this the default route of the main table, in place of the one there is."""
        self._do(_route(self.index(name), None, gateway, None), _NEWROUTE, _REPLACE)

    def delete_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        self._do(_route(self.index(name), dst, gateway, table), _DELROUTE)

    def rules(self) -> list[tuple[str, int]]:
        """(source, table) of the IPv4 policy rules that look at the source."""
        from pyroute2.netlink.rtnl.fibmsg import fibmsg

        found = self._ask(_message(fibmsg, {"family": socket.AF_INET}), _GETRULE, _DUMP)
        return [(str(m.get("src")), int(m.get("table"))) for m in found if m.get("src")]

    def add_rule(self, source: str, table: int) -> None:
        self._do(_rule(source, table), _NEWRULE, _CREATE)

    def delete_rule(self, source: str, table: int) -> None:
        self._do(_rule(source, table), _DELRULE)

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


def _ifinfo(name: str | None = None, *, up: bool | None = None, **attributes: Any) -> Any:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    state = {} if up is None else {"flags": _IFF_UP * up, "change": _IFF_UP}
    return _message(ifinfmsg, state, IFLA_IFNAME=name, **attributes)


def _info(kind: str, value: str, data: str, attributes: Any) -> Any:
    """A link's kind, then what is particular to it: by the former the latter is understood."""
    return {"attrs": [[f"IFLA_INFO_{kind}", value], [f"IFLA_INFO_{data}", attributes]]}


def _ifaddr(index: int, address: Interface) -> Any:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    v4 = address.version == 4
    broadcast = v4 and address.network.prefixlen < 31
    return _message(
        ifaddrmsg,
        {
            "family": socket.AF_INET if v4 else socket.AF_INET6,
            "prefixlen": address.network.prefixlen,
            "index": index,
        },
        IFA_ADDRESS=str(address.ip),
        IFA_LOCAL=str(address.ip) if v4 else None,
        IFA_BROADCAST=str(address.network.broadcast_address) if broadcast else None,
    )


def _route(index: int, dst: Network | None, gateway: str | None, table: int | None) -> Any:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    v6 = ":" in (gateway or str(dst))
    return _message(
        rtmsg,
        {
            "family": socket.AF_INET6 if v6 else socket.AF_INET,
            "dst_len": dst.prefixlen if dst else 0,
            "table": _RT_TABLE_COMPAT if table else _RT_TABLE_MAIN,
            "proto": _RTPROT_BOOT,
            "scope": 0 if gateway else _SCOPE_LINK,
            "type": _RTN_UNICAST,
        },
        RTA_DST=str(dst.network_address) if dst else None,
        RTA_GATEWAY=gateway,
        RTA_OIF=index,
        RTA_TABLE=table,
    )


def _rule(source: str, table: int) -> Any:
    from pyroute2.netlink.rtnl.fibmsg import fibmsg

    return _message(
        fibmsg,
        {
            "family": socket.AF_INET,
            "src_len": 32,
            "table": _RT_TABLE_COMPAT,
            "action": _FR_ACT_TO_TBL,
        },
        FRA_SRC=source,
        FRA_TABLE=table,
        FRA_PRIORITY=_RULE_PRIORITY,
    )


def _local(message: Any) -> str:
    # on a point-to-point link IFA_ADDRESS is the other end; IFA_LOCAL is absent on IPv6
    return str(message.get("local") or message.get("address"))


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    port = info.get("IFLA_INFO_SLAVE_DATA") if info else None
    return Link(
        ifindex=message["index"],
        name=message.get("ifname"),
        kind=info.get("kind") if info else None,
        mac=message.get("address"),
        mtu=message.get("mtu"),
        up=bool(message["flags"] & _IFF_UP),
        alias=message.get("ifalias") or None,
        master=message.get("master"),
        peer_index=message.get("link"),
        port_state=port.get("IFLA_BRPORT_STATE") if port else None,
    )
