"""A network with DHCP on it: a bridge on the host, containers on it, and servers of three kinds.

Shapes   a container is its name; its interface is eth0. `Server` is one of our own, for what no
         real server does: it says what it is told to say, and remembers what it heard
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netkit.dhcp.message import ANY, Kind, Malformed, Message, Option, Options
from netkit.kernel import netns
from scenarios.lab import run, until

BRIDGE, SERVER, SUBNET = "br0", IPv4Address("10.9.0.1"), "10.9.0.0/24"
_SERVER_PORT, _CLIENT_PORT = 67, 68
_SO_BINDTODEVICE = 25


def build() -> None:
    run(
        f"ip link add {BRIDGE} type bridge",
        f"ip addr add {SERVER}/24 dev {BRIDGE}",
        f"ip link set {BRIDGE} up",
    )


def plug(name: str, *, up: bool = True) -> str:
    """A new container on the bridge; the path of its namespace."""
    netns.create(name)
    run(
        f"ip link add {name}h type veth peer name eth0 netns {name}",
        f"ip link set {name}h master {BRIDGE} up",
        f"ip -n {name} link set lo up",
        *([f"ip -n {name} link set eth0 up"] if up else []),
    )
    return netns.named(name)


def addresses(name: str) -> list[str]:
    """IPv4, as CIDR text, of a container's eth0."""
    return run(f"ip -n {name} -4 -o addr show dev eth0 | awk '{{ print $4 }}'").split()


@contextmanager
def listening() -> Iterator[Callable[[], list[int]]]:
    """The kinds of frame (PACKET_HOST, PACKET_BROADCAST) in which the server was told something."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0) as wire:
        wire.bind((BRIDGE, 0x0800))

        def kinds() -> list[int]:
            found = []
            with suppress(BlockingIOError):
                while True:
                    packet, (_, _, kind, *_) = wire.recvfrom(2048)
                    if packet[9] == socket.IPPROTO_UDP and packet[22:24] == b"\0\x43":
                        found.append(kind)
            return found

        yield kinds


class Server:
    """Gives 10.9.0.NUMBER, or what is *given*; with *answer* it can say anything else."""

    def __init__(
        self,
        address: IPv4Address = SERVER,
        *,
        first: int = 50,
        lease_s: int = 3600,
        options: Options | None = None,
    ) -> None:
        self.address = address
        self.lease_s = lease_s
        self.options: dict[int, bytes] = {Option.SUBNET_MASK: b"\xff\xff\xff\0", **(options or {})}
        self.heard: list[Message] = []
        self.leases: dict[bytes, IPv4Address] = {}
        self.silent = False
        self.refusing = False
        self.answer: Callable[[Message], list[Message | bytes]] = self.usual
        self._next = first
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Server:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, BRIDGE.encode())
        self._sock.bind(("", _SERVER_PORT))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._sock.close()

    def kinds(self) -> list[str]:
        return [Kind(message.kind).name for message in list(self.heard)]

    def say(self, message: Message | bytes) -> None:
        data = message if isinstance(message, bytes) else message.encode()
        self._sock.sendto(data, ("255.255.255.255", _CLIENT_PORT))

    def reply(
        self, asked: Message, kind: Kind, address: IPv4Address = ANY, **changes: object
    ) -> Message:
        options: dict[int, bytes] = {
            Option.KIND: bytes([kind]),
            Option.SERVER: self.address.packed,
        }
        if kind in (Kind.OFFER, Kind.ACK):
            options |= {Option.LEASE_TIME: self.lease_s.to_bytes(4, "big"), **self.options}
        whole = Message(True, asked.xid, asked.mac, options, yiaddr=address)
        return whole._replace(**changes)  # type: ignore[arg-type]

    def usual(self, asked: Message) -> list[Message | bytes]:
        me = asked.options.get(Option.CLIENT_ID, asked.mac)
        for_another = asked.options.get(Option.SERVER, self.address.packed) != self.address.packed
        if self.silent or for_another:
            return []
        if asked.kind == Kind.RELEASE:
            self.leases.pop(me, None)
            return []
        if asked.kind == Kind.DISCOVER and me not in self.leases:
            self.leases[me] = IPv4Address(f"10.9.0.{self._next}")
            self._next += 1
        if self.refusing and asked.kind == Kind.REQUEST:
            return [self.reply(asked, Kind.NAK)]
        kind = Kind.OFFER if asked.kind == Kind.DISCOVER else Kind.ACK
        return [self.reply(asked, kind, self.leases[me])] if me in self.leases else []

    def _serve(self) -> None:
        with suppress(OSError):
            while data := self._sock.recv(2048):
                with suppress(Malformed):
                    asked = Message.decode(data)
                    self.heard.append(asked)
                    for answer in self.answer(asked):
                        self.say(answer)


@contextmanager
def dnsmasq(directory: Path, *options: str) -> Iterator[Callable[[], str]]:
    """dnsmasq, giving 10.9.0.100 to .119; yields what it has said so far."""
    program = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("dnsmasq is not installed (dnsmasq-base)")
    command = [
        *(program, "--no-daemon", "--conf-file=/dev/null", "--port=0", "--log-dhcp"),
        *(f"--interface={BRIDGE}", "--bind-interfaces", "--no-ping", "--dhcp-authoritative"),
        *("--dhcp-range=10.9.0.100,10.9.0.119,255.255.255.0,2m", "--no-resolv", "--no-hosts"),
        *(f"--dhcp-leasefile={directory}/dnsmasq.leases", *options),
    ]
    with _running(command, directory / "dnsmasq.log") as said:
        assert until(lambda: "DHCP, sockets bound" in said()), said()
        yield said


@contextmanager
def udhcpd(directory: Path, lease_s: int) -> Iterator[Callable[[], str]]:
    """busybox's server, giving 10.9.0.200 to .219; yields what it has said so far."""
    program = shutil.which("busybox")
    if program is None:
        pytest.skip("busybox is not installed (busybox-static)")
    leases = directory / "udhcpd.leases"
    leases.touch()
    (directory / "udhcpd.conf").write_text(
        f"start 10.9.0.200\nend 10.9.0.219\ninterface {BRIDGE}\nlease_file {leases}\n"
        f"pidfile {directory}/udhcpd.pid\nmin_lease 1\noption subnet 255.255.255.0\n"
        f"option router {SERVER}\noption lease {lease_s}\n"
    )
    command = [program, "udhcpd", "-f", "-I", str(SERVER), str(directory / "udhcpd.conf")]
    with _running(command, directory / "udhcpd.log") as said:
        assert until(lambda: "started" in said()), said()
        yield said


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[Callable[[], str]]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as child:
        try:
            yield log.read_text
        finally:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()
