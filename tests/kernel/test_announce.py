"""Announcements: what they say, and that a neighbour who hears one believes it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from netkit.firewall.none import NoFirewall
from netkit.kernel import Kernel, announce, netns
from scenarios.lab import Host, run, until

MAC, STALE = "02:42:00:00:00:02", "02:42:00:00:00:99"
V4, V6 = IPv4Address("10.88.0.2"), IPv6Address("fd00::2")
PLACE = netns.named("c1")
_ETH_P_ALL = 3


@pytest.fixture
def kernel(host: Host) -> Iterator[Kernel]:
    """A container's link, up and settled, whose addresses the host believes to be at STALE."""
    with Kernel(NoFirewall()) as kernel:
        kernel.create_netns("c1")
        kernel.netlink().add_veth(
            "v1", mac="02:42:00:00:00:01", mtu=1500, peer="eth0", peer_mac=MAC, peer_netns=PLACE
        )
        kernel.netlink(PLACE).set_up("eth0")
        run(
            "ip addr add 10.88.0.1/24 dev v1",
            "ip addr add fd00::1/64 dev v1 nodad",
            f"ip neigh replace {V4} lladdr {STALE} dev v1 nud stale",
            f"ip neigh replace {V6} lladdr {STALE} dev v1 nud stale",
        )
        assert until(lambda: "LOWER_UP" in run("ip link show v1"))
        yield kernel


def test_an_arp_announcement_asks_for_ones_own_address() -> None:
    """RFC 5227: sender and target address alike, target MAC zero, to all."""
    (frame,) = announce.frames(MAC, [V4])
    assert frame.hex() == (
        "ffffffffffff" + "024200000002" + "0806"
        "0001" + "0800" + "06" + "04" + "0001"
        "024200000002" + "0a580002" + "000000000000" + "0a580002"
    )  # fmt: skip


def test_an_unsolicited_advertisement_overrides_and_has_the_checksum_the_rfc_wants() -> None:
    """RFC 4861: hop limit 255, to all nodes, the override flag alone, the target's MAC."""
    (frame,) = announce.frames(MAC, [V6])
    assert frame[:14].hex() == "333300000001" + "024200000002" + "86dd"
    header, message = frame[14:54], frame[54:]
    assert struct.unpack(">IHBB", header[:8]) == (0x60000000, len(message), 58, 255)
    assert (header[8:24], header[24:]) == (V6.packed, IPv6Address("ff02::1").packed)
    assert (message[:2].hex(), message[4:8].hex()) == ("8800", "20000000")
    assert message[8:] == V6.packed + bytes.fromhex("0201" + "024200000002")
    pseudo = V6.packed + header[24:] + struct.pack(">II", len(message), 58)
    assert folded(pseudo + message) == 0xFFFF


def folded(data: bytes) -> int:
    """RFC 1071's sum, word by word: all ones over what holds its own checksum."""
    total = 0
    for at in range(0, len(data), 2):
        total += data[at] << 8 | data[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_there_is_one_frame_for_each_address() -> None:
    assert announce.frames(MAC, []) == []
    assert len(announce.frames(MAC, [V4, V6, IPv4Address("10.89.0.2")])) == 3


@contextmanager
def heard(dev: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock:
        sock.bind((dev, _ETH_P_ALL))
        sock.settimeout(3)
        yield sock


def test_the_frames_arrive_and_change_what_neighbours_believe(kernel: Kernel) -> None:
    assert run("ip neigh show dev v1").count(STALE) == 2
    wanted = announce.frames(MAC, [V4, V6])
    with heard("v1") as sock:
        kernel.announce(PLACE, "eth0", MAC, [V4, V6])
        frames = []
        while wanted[-1] not in frames:  # the kernel has things of its own to say
            frames.append(sock.recv(2048))
    assert [frame for frame in frames if frame in wanted] == wanted
    shown = {address: f"{address} lladdr {MAC}" for address in (V4, V6)}
    assert until(lambda: all(line in run("ip neigh show dev v1") for line in shown.values()), 3)


def packet_sockets() -> list[str]:
    """Those in the container's namespace."""
    lines = netns.run(PLACE, Path("/proc/thread-self/net/packet").read_text).splitlines()
    return lines[1:]


def test_nobody_waits_for_the_socket_to_close(kernel: Kernel) -> None:
    """The kernel takes its time for that each time, 16 ms on some; it is done beside, and done."""
    kernel.announce(PLACE, "eth0", MAC, [V4])
    took = []
    for _ in range(20):
        start = time.perf_counter()
        kernel.announce(PLACE, "eth0", MAC, [V4, V6])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.008  # a busy machine has other things to do in between
    assert until(lambda: not packet_sockets())


def test_the_end_of_a_program_waits_for_the_socket_to_be_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bare or a daemon thread that comes back from the kernel by then crashes the interpreter."""
    closing, go_on = threading.Event(), threading.Event()

    class Slow:
        def sendto(self, frame: bytes, to: object) -> None: ...

        def close(self) -> None:
            closing.set()
            go_on.wait(5)

    monkeypatch.setattr(socket, "socket", lambda *_: Slow())
    before = threading.enumerate()
    announce.send("eth0", [])
    try:
        assert closing.wait(5)
        (closer,) = (each for each in threading.enumerate() if each not in before)
        assert not closer.daemon
    finally:
        go_on.set()
    closer.join(5)
