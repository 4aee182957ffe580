"""What a container tries on a closed network where one other may reach one port: in vain.

web may reach db's port 80, of TCP; eve may reach nobody. Each attack is made of frames by hand, and
tried again with the single thing that stops it taken away, to show that it is one. What a container
may not do on any network is in test_isolation.py; here it has an allowance to hide behind.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from netkit.firewall import Closed, Serve, Source, load
from scenarios import frames
from scenarios.lab import Host, run, without_iptables
from scenarios.test_access_rules import (
    BRIDGE_MAC,
    DB,
    EVE,
    MACS,
    SUBNETS,
    WEB,
    Place,
    address,
    bridged,
    meeting,
    routed,
)

SYN, ACK, RST = 0x02, 0x10, 0x04
UNGUARDED, OPENED = "flush set bridge netkit ports", "flush set bridge netkit closed"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
V = (4, 6)


@pytest.fixture
def town(host: Host) -> Iterator[Place]:
    firewall = load("nftables")
    town = bridged(host, firewall, closed=True)
    town.add(*meeting(WEB, DB, port=80, protocol="tcp"))
    yield town
    firewall.close()


def hears(listener: str, sender: str, *sent: bytes, awaited: int = 0) -> int:
    """How many of the frames that *sender* sends get to *listener*; those awaited may take long."""
    tag = struct.pack(">H", frames.VLAN)  # which the listener is not shown
    bare = [f[:12] + f[16:] if f[12:14] == tag else f for f in sent]
    starts = [frame.rstrip(b"\0") for frame in bare]
    with frames.hear(
        f"/run/netns/{listener}",
        "eth0",
        lambda frame: any(frame.startswith(start) for start in starts),
        awaited,
    ) as heard:
        frames.send(f"/run/netns/{sender}", "eth0", *sent)
    return len(heard)


def fails(listener: str, sender: str, *attack: bytes, without: str) -> None:
    """None of the frames gets through; each of them does once nft has taken something away."""
    before = run("nft list table bridge netkit")
    assert hears(listener, sender, *attack) == 0
    run(f"nft '{without}'")
    assert hears(listener, sender, *attack, awaited=len(attack)) == len(attack)
    run(f"nft -f - <<'END'\ndelete table bridge netkit\n{before}END")
    assert hears(listener, sender, *attack) == 0


def segment(
    sender: str, target: str, ports: tuple[int, int], flags: int = SYN, *, as_: str | None = None
) -> list[bytes]:
    """Of both IP versions; `as_`: whose MAC and addresses it bears."""
    source = as_ or sender
    macs = MACS[source], MACS[target]
    return [frames.tcp(macs, (address(source, v), address(target, v)), ports, flags) for v in V]


def test_who_may_not_reach_a_port_does_not_as_the_one_who_may(town: Place) -> None:
    """From its own MAC and address, or from web's, or half and half."""
    named = segment(EVE, DB, (5000, 80), as_=WEB)
    halves = [
        frames.tcp((MACS[EVE], MACS[DB]), (address(WEB, v), address(DB, v)), (5000, 80), SYN)
        for v in V
    ]
    halves += [
        frames.tcp((MACS[WEB], MACS[DB]), (address(EVE, v), address(DB, v)), (5000, 80), SYN)
        for v in V
    ]
    both = f"{UNGUARDED}; {OPENED}"
    fails(DB, EVE, *segment(EVE, DB, (5000, 80)), without=OPENED)
    fails(DB, EVE, *named, *halves, without=both)
    run(f"nft {UNGUARDED}")
    assert hears(DB, EVE, *named, *halves) == 0  # nor is it who it says, but where it is
    assert hears(DB, WEB, *segment(WEB, DB, (5000, 80)), awaited=2) == 2


def test_an_allowed_port_leads_to_no_other_and_not_back(town: Place) -> None:
    """From port 80 on either side, by whatever flags that could open something."""
    fails(DB, WEB, *segment(WEB, DB, (80, 81)), *segment(WEB, DB, (80, 81), ACK), without=OPENED)
    fails(WEB, DB, *segment(DB, WEB, (80, 22)), *segment(DB, WEB, (81, 5000), ACK), without=OPENED)
    fails(EVE, DB, *segment(DB, EVE, (80, 5000), ACK), without=OPENED)
    assert hears(WEB, DB, *segment(DB, WEB, (80, 5000), SYN | ACK), awaited=2) == 2


def test_a_port_hidden_in_fragments_is_not_reached(town: Place) -> None:
    """A header cut before its flags has no second half, nor has one that is whole (RFC 3128)."""
    macs = (MACS[DB], MACS[WEB])
    syn = segment(DB, WEB, (80, 22))
    for frame, cut in zip(syn, (fragment4, fragment6), strict=True):
        assert hears(WEB, DB, cut(frame, 0, 16, more=True)) == 0
        fails(WEB, DB, cut(frame, 8, 20), without=OPENED)
    harmless = [fragment4(syn[0], 16, 20), fragment6(syn[1], 16, 20)]  # no header is in these
    assert hears(WEB, DB, *harmless, awaited=2) == 2
    assert (
        hears(EVE, DB, *(frame.replace(_mac(macs[1]), _mac(MACS[EVE])) for frame in harmless)) == 0
    )


def fragment4(frame: bytes, first: int, end: int, *, more: bool = False) -> bytes:
    """That part of what an IPv4 packet carries, as a fragment of it."""
    body = frame[34:54][first:end]
    head = bytearray(frame[14:34])
    head[2:4] = struct.pack(">H", 20 + len(body))
    head[6:8] = struct.pack(">H", (0x2000 if more else 0) | first // 8)
    head[10:12] = b"\0\0"
    head[10:12] = struct.pack(">H", frames._checksum(bytes(head)))
    return (frame[:14] + bytes(head) + body).ljust(60, b"\0")


def fragment6(frame: bytes, first: int, end: int, *, more: bool = False) -> bytes:
    body = frame[54:74][first:end]
    head = bytearray(frame[14:54])
    head[4:6], head[6] = struct.pack(">H", 8 + len(body)), 44
    return frame[:14] + bytes(head) + struct.pack(">BBHI", 6, 0, first | more, 7) + body


def test_a_port_behind_other_headers_is_the_port_all_the_same(town: Place) -> None:
    """IPv6's options, by which a filter that looks no further would be misled."""

    def behind(frame: bytes) -> bytes:
        options = bytes([6, 0, 1, 4, 0, 0, 0, 0])  # next is TCP; padding
        length = struct.pack(">H", len(frame) - 54 + 8)
        return frame[:18] + length + b"\x3c" + frame[21:54] + options + frame[54:]

    reached, other = (behind(segment(WEB, DB, (5000, port))[1]) for port in (80, 81))
    fails(DB, WEB, other, without=OPENED)
    assert hears(DB, WEB, reached, awaited=1) == 1


def test_who_may_meet_one_cannot_lie_to_it(town: Place) -> None:
    """About the gateway, a sibling, or itself; nor be its router, or its DHCP server."""
    own, its = MACS[WEB], (MACS[WEB], MACS[DB])
    lies = [
        frames.arp(own, own, address("gateway", 4)),
        frames.arp(own, own, address(EVE, 4)),
        frames.arp(BRIDGE_MAC, own, address("gateway", 4)),
        frames.neighbour_advertisement(own, address(WEB, 6), address("gateway", 6), own),
        frames.neighbour_advertisement(own, address(EVE, 6), address(EVE, 6), own),
    ]
    fails(DB, WEB, *lies, without=UNGUARDED)
    truths = [
        frames.arp(own, own, address(WEB, 4)),
        frames.neighbour_advertisement(own, address(WEB, 6), address(WEB, 6), own),
    ]
    assert hears(DB, WEB, *truths, awaited=2) == 2
    never = [
        frames.router_advertisement(own, "2001:db8:bad::", address(WEB, 6)),
        frames.icmpv6((own, ALL_NODES_MAC), (address(WEB, 6), ALL_NODES), 137, bytes(36)),
        frames.udp(its, (address(WEB, 4), address(DB, 4)), (67, 68)),
    ]
    fails(DB, WEB, *never, without=f"{UNGUARDED}; {OPENED}")


def test_nobody_speaks_to_all(town: Place) -> None:
    """Broadcasts and groups go to nobody, but the questions of who may ask; nor do odd frames."""
    everybody = frames.BROADCAST
    gratuitous = frames.arp(MACS[WEB], MACS[WEB], address(WEB, 4))
    assert hears(DB, WEB, gratuitous, awaited=1) == 1
    assert hears(EVE, WEB, gratuitous) == 0
    said = [
        frames.udp((MACS[WEB], everybody), (address(WEB, 4), "255.255.255.255"), (9, 9)),
        frames.udp(
            (MACS[WEB], "01:00:5e:00:00:fb"), (address(WEB, 4), "224.0.0.251"), (5353, 5353)
        ),
        frames.icmpv6((MACS[WEB], ALL_NODES_MAC), (address(WEB, 6), ALL_NODES), 128, bytes(4)),
    ]
    fails(DB, WEB, *said, without=OPENED)
    odd = [
        frames.ethernet(MACS[DB], MACS[WEB], frames.EXPERIMENTAL, b"odd"),
        frames.ethernet(everybody, MACS[WEB], frames.EXPERIMENTAL, b"odd"),
        frames.tagged(said[0], 7),
        frames.tagged(segment(WEB, DB, (5000, 81))[0], 0),
    ]
    fails(DB, WEB, *odd, without=f"{UNGUARDED}; {OPENED}")


@pytest.mark.parametrize("shown", [0, 1], ids=["not shown", "shown"])
def test_the_host_is_no_way_round(town: Place, shown: int) -> None:
    """By its MAC, or the one at the other end of the wire, to a sibling's address."""
    run(f"for t in iptables ip6tables; do sysctl -qw net.bridge.bridge-nf-call-$t={shown}; done")
    wire = run("ip -o link show v-web").partition("link/ether ")[2][:17]

    def crosses(awaited: int = 0) -> int:
        """Of the frames that web sends to the host's MACs, how many db hears from it."""
        sent = [
            frames.tcp((MACS[WEB], mac), (address(WEB, v), address(DB, v)), (5000, 81), SYN)
            for mac in (BRIDGE_MAC, wire)
            for v in V
        ]
        with frames.hear("/run/netns/db", "eth0", _to_port_81, awaited) as heard:
            frames.send("/run/netns/web", "eth0", *sent)
        return len(heard)

    assert crosses() == 0
    closed = [Closed(f"v-{name}", "br0", mac) for name, mac in MACS.items()]
    run('nft add element inet netkit same \'{ "br0" . "br0" }\'')
    assert crosses(4) == 4
    assert town.firewall.check(closed) == []


def _to_port_81(frame: bytes) -> bool:
    """Of TCP, whichever the version."""
    at = 34 if frame[12:14] == b"\x08\x00" else 54
    return frame[at + 2 : at + 4] == struct.pack(">H", 81)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


@pytest.mark.parametrize("back_end", ["nftables", "iptables"])
def test_a_served_port_is_its_networks_whoever_claims_to_be_of_it(
    host: Host, back_end: str
) -> None:
    """A machine of the LAN with an address of the network's, where the host believes any sender."""
    if back_end == "iptables" and (reason := without_iptables()):
        pytest.skip(reason)
    firewall = load(back_end)
    routed(host, firewall)
    firewall.add([Serve("v-db", 81, "tcp", bridged=False, subnets=SUBNETS)])
    run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0")
    macs = [run(f"ip {at} link show {dev}").partition("link/ether ")[2][:17]
            for at, dev in (("-n lan", "eth0"), ("", "lan0"))]  # fmt: skip
    strangers = {4: "10.88.0.77", 6: "fd00:88::77"}
    sent = [
        frames.tcp((macs[0], macs[1]), (strangers[v], address(DB, v)), (5000, 81), SYN) for v in V
    ]

    def heard(awaited: int = 0) -> int:
        with frames.hear("/run/netns/db", "eth0", _to_port_81, awaited) as found:
            frames.send("/run/netns/lan", "eth0", *sent)
        return len(found)

    assert heard() == 0
    own = (ip_address(strangers[4]), ip_address(strangers[6]))
    firewall.add([Source("lan0", own)])
    if back_end == "nftables":  # with iptables it is asked among what comes from a network
        assert heard(2) == 2
    firewall.close()
