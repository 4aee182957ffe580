"""Frames made by hand, as an attacker would, and an ear to the wire.

    with hear(place, "eth0", to(BPDU_GROUP)) as heard:
        send(attacker, "eth0", bpdu(mac))
    assert not heard

Shapes   MACs are canonical text, payloads bytes; a frame is bytes, from the destination MAC on
Source   RFC 826 (ARP), 791, 768, 4861 (routers and neighbours), IEEE 802.1D (BPDU), 802.1Q
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

from scenarios.lab import at

BROADCAST = "ff:ff:ff:ff:ff:ff"
BPDU_GROUP = "01:80:c2:00:00:00"
ARP, IPV4, IPV6, VLAN, EXPERIMENTAL = 0x0806, 0x0800, 0x86DD, 0x8100, 0x88B5
_ETH_P_ALL = 3
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_ALL_NODES, _ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
_QUIET_S = 0.2  # what has not come by then on a veth pair will not come
_BOUND_S = 2.0  # and what never ends is left
_AWAITED_S = 10.0

Test = Callable[[bytes], bool]


def ethernet(target: str, source: str, kind: int, payload: bytes) -> bytes:
    return (_mac(target) + _mac(source) + struct.pack(">H", kind) + payload).ljust(60, b"\0")


def tagged(frame: bytes, vlan: int) -> bytes:
    """The same frame with an 802.1Q tag."""
    return frame[:12] + struct.pack(">HH", VLAN, vlan) + frame[12:]


def arp(source: str, mac: str, ip: str) -> bytes:
    """A gratuitous ARP reply in a frame from *source*: *ip* is at *mac*."""
    said = _mac(mac) + IPv4Address(ip).packed
    body = struct.pack(">HHBBH", 1, IPV4, 6, 4, 2) + said + said
    return ethernet(BROADCAST, source, ARP, body)


def udp(
    macs: tuple[str, str], addresses: tuple[str, str], ports: tuple[int, int], data: bytes = b"?"
) -> bytes:
    """A datagram; each pair is (source, target)."""
    body = struct.pack(">HHHH", *ports, 8 + len(data), 0) + data  # checksum 0: none
    return ethernet(macs[1], macs[0], IPV4, _ipv4(addresses, _UDP, body))


def tcp(
    macs: tuple[str, str], addresses: tuple[str, str], ports: tuple[int, int], flags: int
) -> bytes:
    """A bare TCP segment, in the IP version of its addresses."""
    packed = [ip_address(address).packed for address in addresses]
    head = struct.pack(">HHIIBBHHH", *ports, 1, 0, 5 << 4, flags, 1024, 0, 0)
    pseudo = b"".join(packed) + struct.pack(">II", len(head), _TCP)
    head = head[:16] + struct.pack(">H", _checksum(pseudo + head)) + head[18:]
    if len(packed[0]) == 4:
        return ethernet(macs[1], macs[0], IPV4, _ipv4(addresses, _TCP, head))
    before = struct.pack(">IHBB", 6 << 28, len(head), _TCP, 64)
    return ethernet(macs[1], macs[0], IPV6, before + b"".join(packed) + head)


def icmpv6(macs: tuple[str, str], addresses: tuple[str, str], kind: int, body: bytes) -> bytes:
    """A message of ICMPv6 of one hop; *body* is what follows the checksum."""
    packed = b"".join(IPv6Address(address).packed for address in addresses)
    message = struct.pack(">BBH", kind, 0, 0) + body
    pseudo = packed + struct.pack(">II", len(message), _ICMPV6)
    message = message[:2] + struct.pack(">H", _checksum(pseudo + message)) + message[4:]
    head = struct.pack(">IHBB", 6 << 28, len(message), _ICMPV6, 255)
    return ethernet(macs[1], macs[0], IPV6, head + packed + message)


def router_advertisement(mac: str, prefix: str, source: str = "fe80::bad") -> bytes:
    """ "I am your default router, and *prefix*/64 is on this link." """
    information = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0)
    body = struct.pack(">BBHII", 64, 0, 1800, 0, 0)
    body += information + IPv6Address(prefix).packed
    return icmpv6((mac, _ALL_NODES_MAC), (source, _ALL_NODES), 134, body)


def neighbour_advertisement(mac: str, source: str, target: str, at: str) -> bytes:
    """Unasked, to all, in a frame from *mac* and *source*: *target* is at the MAC *at*."""
    override = struct.pack(">I", 0x20000000)
    body = override + IPv6Address(target).packed + b"\x02\x01" + _mac(at)
    return icmpv6((mac, _ALL_NODES_MAC), (source, _ALL_NODES), 136, body)


def neighbour_solicitation(mac: str, source: str, target: str) -> bytes:
    """ "Who has *target*?"; from `::` it asks whether the address is free."""
    packed = IPv6Address(target).packed
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + packed[13:])
    to = "33:33:" + ":".join(f"{byte:02x}" for byte in group.packed[12:])
    body = bytes(4) + packed + (b"" if source == "::" else b"\x01\x01" + _mac(mac))
    return icmpv6((mac, to), (source, str(group)), 135, body)


def bpdu(mac: str) -> bytes:
    """A configuration BPDU that claims to be the root of the tree, with the best priority."""
    bridge = struct.pack(">H", 0) + _mac(mac)
    body = struct.pack(">HBBB", 0, 0, 0, 0) + bridge + bytes(4) + bridge
    body += struct.pack(">HHHHH", 0x8001, 0, 20 << 8, 2 << 8, 15 << 8)
    body = b"\x42\x42\x03" + body
    return ethernet(BPDU_GROUP, mac, len(body), body)


def send(place: str | None, ifname: str, *frames: bytes) -> None:
    """Put frames on the wire, past whatever rules the sender has."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
            sock.bind((ifname, 0))
            for frame in frames:
                sock.send(frame)

    at(place, work)


@contextlib.contextmanager
def hear(place: str | None, ifname: str, wanted: Test, awaited: int = 0) -> Iterator[list[bytes]]:
    """Collect the frames that come in by an interface; at the end, wait until it is quiet.

    Before that, for as many as are *awaited*: a busy kernel may take its time to deliver them.
    """

    def open_socket() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.bind((ifname, _ETH_P_ALL))
        return sock

    heard: list[bytes] = []

    def collect(bound_s: float, quiet_s: float, enough: float = math.inf) -> None:
        end = time.monotonic() + bound_s
        while len(heard) < enough and time.monotonic() < end:
            if not select.select([sock], [], [], quiet_s)[0]:
                return
            frame, (_, _, kind, *_) = sock.recvfrom(2048)
            if kind != socket.PACKET_OUTGOING and wanted(frame):
                heard.append(frame)

    with at(place, open_socket) as sock:
        yield heard
        collect(_AWAITED_S, _AWAITED_S, awaited)
        collect(_BOUND_S, _QUIET_S)


def to(mac: str) -> Test:
    return lambda frame: frame[:6] == _mac(mac)


def of(mac: str) -> Test:
    return lambda frame: frame[6:12] == _mac(mac)


def icmp(*kinds: int, sender: str) -> Test:
    """A message of ICMPv6 of one of these types, from a MAC."""
    return lambda frame: (
        of(sender)(frame)
        and frame[12:14] == struct.pack(">H", IPV6)
        and frame[20] == _ICMPV6
        and frame[54] in kinds
    )


def _ipv4(addresses: tuple[str, str], protocol: int, body: bytes) -> bytes:
    packed = b"".join(IPv4Address(address).packed for address in addresses)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0)
    head = head[:10] + struct.pack(">H", _checksum(head + packed)) + packed
    return head + body


def _checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
