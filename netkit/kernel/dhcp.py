"""DHCP's way out of an interface that has no address yet: a packet socket, and what is around it.

Shapes   a message goes in and out without headers; a MAC is bytes; a namespace is a path
Errors   OSError: ENOENT for a namespace that is gone, ENODEV for an interface, EPERM
Source   packet(7), netdevice(7), classic BPF (linux/filter.h); RFC 791 and RFC 768 for the headers

An open socket keeps its namespace alive, so a port is open only while an answer is awaited.
Packets are read before the namespace's own firewall has its say, and none but DHCP's are.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
import threading
from ipaddress import IPv4Address
from typing import NamedTuple

from netkit.kernel import netns
from netkit.kernel.announce import checksum

_SERVER, _CLIENT = 67, 68
_ETH_P_IP = 0x0800
_UDP, _TTL = socket.IPPROTO_UDP, 64
_EVERYBODY = b"\xff" * 6
_MOST_BYTES = 65535
_SO_ATTACH_FILTER = 26
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCGIFMTU = 0x8913, 0x8914, 0x8921
_IFF_UP = 1
_IFREQ = struct.Struct("16si20x")
_IP, _HEADER_BYTES = struct.Struct(">BBHHHBBH4s4s"), 28

# Is it UDP, the first fragment, for port 68? Then all of it, else nothing. What is read begins with
# the IP header, for the socket is of SOCK_DGRAM
_FILTER = (
    (0x30, 0, 0, 9),  # ldb [9]        the protocol
    (0x15, 0, 6, _UDP),  # jne #17, drop
    (0x28, 0, 0, 6),  # ldh [6]        flags and offset
    (0x45, 4, 0, 0x1FFF),  # jset #0x1fff, drop
    (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf)
    (0x48, 0, 0, 2),  # ldh [x + 2]    the port it is for
    (0x15, 0, 1, _CLIENT),  # jne #68, drop
    (0x06, 0, 0, _MOST_BYTES),  # ret
    (0x06, 0, 0, 0),  # drop: ret #0
)


class Received(NamedTuple):
    message: bytes
    mac: bytes  # of the machine it came from, or of its router


class Port:
    """Port 68 of an interface; *up*: bring the interface up if it is down."""

    def __init__(self, path: str, ifname: str, *, up: bool = False) -> None:
        self._ifname = ifname
        self._sock = netns.run(path, lambda: _open(ifname, up))
        self.mac: bytes = self._sock.getsockname()[4]
        self.mtu = _ask(self._sock, _SIOCGIFMTU, ifname)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(
        self, message: bytes, source: IPv4Address, to: IPv4Address, mac: bytes | None = None
    ) -> None:
        """To the machine, or by the router, at *mac*; without, to everybody on the link.

        Never by way of the kernel, which would have to ask for the MAC first: what is said last
        before an interface is deleted would be lost.
        """
        packet = _wrap(message, source.packed, to.packed)
        self._sock.sendto(packet, (self._ifname, _ETH_P_IP, 0, 0, mac or _EVERYBODY))

    def receive(self) -> Received | None:
        """What came in; None: nothing of use. It never waits."""
        try:
            packet, (*_, mac) = self._sock.recvfrom(_MOST_BYTES)
        except BlockingIOError:
            return None
        message = _unwrap(packet)
        return Received(message, mac) if message else None

    def close(self) -> None:
        # the kernel takes 16 ms to close a packet socket (it waits for RCU); nobody waits with it
        threading.Thread(target=self._sock.close, name="dhcp").start()


def _open(ifname: str, up: bool) -> socket.socket:
    """A socket of the calling thread's namespace."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
    try:
        program = array.array("B", b"".join(struct.pack("HBBI", *each) for each in _FILTER))
        where, _ = program.buffer_info()
        sock.setsockopt(
            socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FILTER), where)
        )
        if up and not (flags := _ask(sock, _SIOCGIFFLAGS, ifname)) & _IFF_UP:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(ifname.encode(), flags | _IFF_UP))
        sock.bind((ifname, _ETH_P_IP))  # only now, with its filter, does it receive
    except BaseException:
        sock.close()
        raise
    return sock


def _ask(sock: socket.socket, question: int, ifname: str) -> int:
    answer = fcntl.ioctl(sock, question, _IFREQ.pack(ifname.encode(), 0))
    number: int = _IFREQ.unpack(answer)[1]
    return number & 0xFFFF if question == _SIOCGIFFLAGS else number  # flags are a short


def _wrap(message: bytes, source: bytes, to: bytes) -> bytes:
    size = 8 + len(message)
    pseudo = struct.pack(">4s4sBBH", source, to, 0, _UDP, size)
    ports = struct.pack(">HHH", _CLIENT, _SERVER, size)
    even = message + b"\0" * (len(message) % 2)
    udp = struct.pack(">H", checksum(pseudo + ports + b"\0\0" + even) or 0xFFFF)
    fields = 0x45, 0x10, 20 + size, 0, 0, _TTL, _UDP
    header = _IP.pack(*fields, checksum(_IP.pack(*fields, 0, source, to)), source, to)
    return header + ports + udp + message


def _unwrap(packet: bytes) -> bytes:
    """The message in a packet; empty where it is not what the filter lets through, or is cut off.

    No checksum is looked at: between two ends of a veth nobody has filled it in.
    """
    if len(packet) < _HEADER_BYTES:
        return b""
    head, total = (packet[0] & 0xF) * 4, int.from_bytes(packet[2:4], "big")
    if packet[0] >> 4 != 4 or head < 20 or not head + 8 <= total <= len(packet):
        return b""
    source, to, size = struct.unpack_from(">HHH", packet, head)
    if source != _SERVER or to != _CLIENT or not 8 <= size <= total - head:
        return b""
    return packet[head + 8 : head + size]
