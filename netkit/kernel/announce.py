"""Announcements: who had a neighbour's address before is forgotten by those who hear them.

    send("eth0", frames("02:42:0a:58:00:02", [ip_address("10.88.0.2"), ip_address("fd00::2")]))

Shapes   one Ethernet frame per address; MACs as text
Errors   OSError: ENODEV for an interface that is not there, ENETDOWN for one that is down
Source   IPv4: RFC 5227 section 2.3 (an ARP request for one's own address); IPv6: RFC 4861 section
         7.2.6 (an unsolicited advertisement with the override flag, to all nodes)
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

_ALL_NODES = IPv6Address("ff02::1").packed
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_SOLICITED = IPv6Address("ff02::1:ff00:0").packed[:-3]
_BROADCAST = b"\xff" * 6
_ARP, _IPV6 = 0x0806, 0x86DD
_ICMPV6, _HOP_LIMIT = 58, 255
_ADVERTISEMENT, _OVERRIDE, _TARGET_MAC = 136, 0x20000000, 2


def group(address: IPv6Address) -> IPv6Address:
    """Where who looks for the neighbour with *address* asks (RFC 4291 2.7.1: solicited-node)."""
    return IPv6Address(_SOLICITED + address.packed[-3:])


def is_member(dev: str, address: IPv6Address) -> bool:
    """Whether an interface of the calling thread's namespace is in the group of *address*."""
    wanted = dev, group(address).packed.hex()
    try:
        with open("/proc/thread-self/net/igmp6") as file:
            return any(tuple(line.split()[1:3]) == wanted for line in file)
    except FileNotFoundError:
        return True  # a kernel without IPv6 keeps nobody waiting


def frames(mac: str, addresses: Iterable[IPv4Address | IPv6Address]) -> list[bytes]:
    """The announcement of each address: it is at *mac* now."""
    packed = bytes.fromhex(mac.replace(":", ""))
    return [
        _arp(packed, address.packed) if address.version == 4 else _neighbour(packed, address.packed)
        for address in addresses
    ]


def send(dev: str, announcements: Iterable[bytes]) -> None:
    """Send frames out of an interface of the calling thread's namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # 0: it receives nothing
    try:
        for frame in announcements:
            sock.sendto(frame, (dev, struct.unpack_from(">H", frame, 12)[0]))
    finally:
        # the kernel takes 16 ms to close a packet socket (it waits for RCU): nobody waits with it,
        # but not a daemon, nor a bare thread: one that comes back while the interpreter is being
        # taken down crashes it
        threading.Thread(target=sock.close, name="announce").start()


def _arp(mac: bytes, address: bytes) -> bytes:
    request = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1)  # Ethernet, IPv4, their lengths; request
    return b"".join(
        (_BROADCAST, mac, struct.pack(">H", _ARP), request, mac, address, bytes(6), address)
    )


def _neighbour(mac: bytes, address: bytes) -> bytes:
    body = struct.pack(">I", _OVERRIDE) + address + bytes([_TARGET_MAC, 1]) + mac
    length = 4 + len(body)
    pseudo = address + _ALL_NODES + struct.pack(">II", length, _ICMPV6)
    message = struct.pack(">BBH", _ADVERTISEMENT, 0, 0) + body
    checked = struct.pack(">BBH", _ADVERTISEMENT, 0, checksum(pseudo + message)) + body
    header = struct.pack(">IHBB", 6 << 28, length, _ICMPV6, _HOP_LIMIT)
    return b"".join(
        (_ALL_NODES_MAC, mac, struct.pack(">H", _IPV6), header, address, _ALL_NODES, checked)
    )


def checksum(data: bytes) -> int:
    """RFC 1071, of *data* of even length."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF
