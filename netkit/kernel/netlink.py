"""Links, addresses and routes of one network namespace, over rtnetlink. Sole importer of pyroute2.

Shapes   interfaces by name; addresses as `ipaddress` interface values; MACs as lower-case text
Errors   OSError with the kernel's errno and, in `strerror`, its extended text; never NetlinkError
Source   rtnetlink(7); include/uapi/linux/if_link.h. Why pyroute2 is used in just this way:
         `flags=0` (the default would create a mistyped namespace), `groups=0` (no subscriptions),
         `ext_ack`, `strict_check` (the kernel filters dumps), one object per job, never shared by
         threads, and sockets made by us inside the namespace (pyroute2's own way forks, 4 ms)

pyroute2 costs 137 ms to import, so it is imported by the first socket, not with this module.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
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
_RT_TABLE_MAIN = 254
_RULE_PRIORITY = 32000  # before the main table's 32766
_RTPROT_BOOT = 3  # what `ip route add` says; pyroute2 would say static
_IFF_UP = 1
_SIOCGIFINDEX = 0x8933


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
        from pyroute2 import IPRoute

        def open_socket() -> int:
            return socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 0).detach()

        fd = open_socket() if path is None else netns.run(path, open_socket)
        self._ip = IPRoute(fileno=fd, flags=0, groups=0, ext_ack=True, strict_check=True)

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._ip.close()

    # -- links

    def link(self, name: str) -> Link | None:
        """The interface called *name*, or None."""
        try:
            with _translated():
                return _link(self._ip.link("get", ifname=name)[0])
        except OSError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def links(self) -> list[Link]:
        with _translated():
            return [_link(message) for message in self._ip.link("dump")]

    def add_bridge(self, name: str, *, mac: str, mtu: int) -> None:
        """Create a bridge, down. Its MAC is pinned, so it never changes with its ports."""
        with _translated():
            self._ip.link(
                "add",
                ifname=name,
                kind="bridge",
                address=mac,
                mtu=mtu,
                br_group_fwd_mask=FORWARDED_GROUPS,
            )

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
            with _translated():
                self._ip.link(
                    "add",
                    ifname=name,
                    kind="veth",
                    address=mac,
                    mtu=mtu,
                    master=self.index(master),
                    state="up",
                    peer={"ifname": peer, "address": peer_mac, "mtu": mtu, "net_ns_fd": fd},
                )
        finally:
            os.close(fd)

    def set_port(self, name: str, *, alias: str, hairpin: bool) -> None:
        """Name the owner of a bridge port and let frames leave by the port they came in."""
        port = {"attrs": [("IFLA_BRPORT_MODE", int(hairpin))]}
        info = [("IFLA_INFO_SLAVE_KIND", "bridge"), ("IFLA_INFO_SLAVE_DATA", port)]
        with _translated():
            self._ip.link("set", ifname=name, ifalias=alias, linkinfo={"attrs": info})

    def set_alias(self, name: str, alias: str) -> None:
        with _translated():
            self._ip.link("set", ifname=name, ifalias=alias)

    def set_up(self, name: str, up: bool = True) -> None:
        with _translated():
            self._ip.link("set", ifname=name, state="up" if up else "down")

    def delete_link(self, name: str) -> None:
        with _translated():
            self._ip.link("del", ifname=name)

    def index(self, name: str) -> int:
        """The index of an interface; ENODEV if there is none."""
        # netdevice(7): asked on this very socket it costs 5 us; by a request it would be 300
        request = struct.pack("15sx24x", name.encode())
        answer = fcntl.ioctl(self._ip.asyncore.socket.fileno(), _SIOCGIFINDEX, request)
        index: int = struct.unpack_from("16xi", answer)[0]
        return index

    # -- addresses and routes

    def addresses(
        self, name: str | None = None, family: int = socket.AF_UNSPEC
    ) -> list[tuple[int, Interface]]:
        """(ifindex, address) of one interface, or of all."""
        selection = {"family": family} | ({} if name is None else {"index": self.index(name)})
        with _translated():
            return [
                (m["index"], ip_interface(f"{_local(m)}/{m['prefixlen']}"))
                for m in self._ip.addr("dump", **selection)
            ]

    def add_address(self, name: str, address: Interface) -> None:
        with _translated():
            self._ip.addr("add", index=self.index(name), **_address(address))

    def delete_address(self, name: str, address: Interface) -> None:
        with _translated():
            self._ip.addr("del", index=self.index(name), **_address(address))

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """The unicast routes of the main table."""
        with _translated():
            found = []
            for m in self._ip.route("dump", family=family, table=_RT_TABLE_MAIN):
                dst = m.get("dst") or None
                found.append(
                    Route(
                        to_network(f"{dst}/{m['dst_len']}") if dst else None,
                        m.get("gateway"),
                        m.get("oif"),
                        m.get("priority"),
                    )
                )
            return found

    def add_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        with _translated():
            self._ip.route("add", **self._route(name, dst, gateway, table))

    def replace_default(self, name: str, gateway: str) -> None:
        """Make this the default route of the main table, in place of the one there is."""
        with _translated():
            self._ip.route("replace", **self._route(name, None, gateway, None))

    def delete_route(
        self, name: str, dst: Network | None, gateway: str | None, *, table: int | None = None
    ) -> None:
        with _translated():
            self._ip.route("del", **self._route(name, dst, gateway, table))

    def _route(
        self, name: str, dst: Network | None, gateway: str | None, table: int | None
    ) -> dict[str, Any]:
        route: dict[str, Any] = {
            "oif": self.index(name),
            "dst": str(dst) if dst else "default",
            "proto": _RTPROT_BOOT,
        }
        if gateway is None:
            route["scope"] = _SCOPE_LINK
        else:
            route["gateway"] = gateway
            route["family"] = socket.AF_INET6 if ":" in gateway else socket.AF_INET
        if table is not None:
            route["table"] = table
        return route

    def rules(self) -> list[tuple[str, int]]:
        """(source, table) of the IPv4 policy rules that look at the source."""
        with _translated():
            found = self._ip.get_rules(family=socket.AF_INET)
            return [(str(m.get("src")), int(m.get("table"))) for m in found if m.get("src")]

    def add_rule(self, source: str, table: int) -> None:
        with _translated():
            self._ip.rule("add", **_rule(source, table))

    def delete_rule(self, source: str, table: int) -> None:
        with _translated():
            self._ip.rule("del", **_rule(source, table))


def _rule(source: str, table: int) -> dict[str, Any]:
    return {
        "family": socket.AF_INET,
        "src": source,
        "src_len": 32,
        "table": table,
        "priority": _RULE_PRIORITY,
    }


def _address(address: Interface) -> dict[str, Any]:
    broadcast = {}
    if address.version == 4 and address.network.prefixlen < 31:
        broadcast = {"broadcast": str(address.network.broadcast_address)}
    return {"address": str(address.ip), "prefixlen": address.network.prefixlen} | broadcast


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


@contextmanager
def _translated() -> Iterator[None]:
    """NetlinkError becomes OSError here, at the border, with the kernel's own sentence."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except NetlinkError as error:
        text = str(error.args[1]) if len(error.args) > 1 and error.args[1] else ""
        raise OSError(error.code, text or os.strerror(error.code)) from None
