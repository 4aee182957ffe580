"""CNI plugins for interfaces beside bridge, with real packets."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from netkit.kernel import features
from netkit.kernel.netlink import Netlink
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, at, run, until
from scenarios.plugins import Json, Plugins

COMMON: Json = {"cniVersion": "1.0.0", "name": "web"}
WAYS = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
LAN, LAN6 = "10.9.0.0/24", "fd09::/64"


class Town(NamedTuple):
    """A host on a LAN: its interface `wire0` leads to a switch, as does the neighbour's."""

    host: Host
    cni: Plugins
    lan: str

    def reach(
        self, place: str | None, *addresses: str, patience_s: float = PATIENCE_S
    ) -> list[bool]:
        return [self.host.ping(place, address, patience_s=patience_s) for address in addresses]


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.254/24")
    run(
        "ip link set lan0 name wire0",
        "ip addr add fd09::1/64 dev wire0 nodad",
        "ip addr add fe80::1/64 dev wire0 nodad",
        "ip -n lan addr add fd09::fe/64 dev eth0 nodad",
        "ip -n lan route add default via fd09::1",
        "ip -n lan addr add 10.99.0.1/32 dev lo",
        "ip -n lan addr add fd99::1/128 dev lo nodad",
        "ip route add default via 10.9.0.254",
        "ip -6 route add default via fd09::fe",
    )
    return Town(host, Plugins(host.base), lan)


def needs(kind: str) -> None:
    with Netlink() as netlink:
        if not netlink.has_kind(kind):
            pytest.skip(str(features.missing(kind).strerror))


# -- ptp


def test_i14_ptp_reaches_the_world_the_host_and_its_siblings(town: Town) -> None:
    subnets = ("10.22.0.0/24", "fd00:22::/64")
    conf = {**COMMON, "ipMasq": True, "ipam": town.cni.ipam(*subnets, routes=WAYS)}
    for name in ("c1", "c2"):
        town.cni.add("ptp", conf, name)
    c1, c2 = (town.cni.netns(name) for name in ("c1", "c2"))
    assert town.reach(c1, "10.22.0.3", "fd00:22::3", "10.22.0.1", "fd00:22::1") == [True] * 4
    assert town.reach(None, "10.22.0.2", "10.22.0.3", "fd00:22::2", "fd00:22::3") == [True] * 4
    for address, ours in (("", "10.9.0.1"), ("::", "fd09::1")):
        far = "fd99::1" if address else "10.99.0.1"
        with town.host.serve(town.lan, "tcp", 80, address):
            assert town.host.ask(c1, far, 80) == ours  # masqueraded
        with town.host.serve(c2, "tcp", 80, address):
            sibling, own = ("fd00:22::3", "fd00:22::2") if address else ("10.22.0.3", "10.22.0.2")
            assert town.host.ask(c1, sibling, 80) == own  # not so among siblings
    town.cni.delete("ptp", conf, "c2")
    assert town.reach(c1, "10.99.0.1", "fd99::1") == [True, True]
    assert not town.host.ping(c1, "10.22.0.3", patience_s=BRIEF_S)


def test_ptp_without_masquerade_is_seen_by_its_own_address(town: Town) -> None:
    conf = {**COMMON, "ipam": town.cni.ipam("10.22.0.0/24", routes=WAYS[:1])}
    town.cni.add("ptp", conf)
    with town.host.serve(town.lan, "udp", 53):
        assert town.host.ask(town.cni.netns("c1"), "10.9.0.254", 53, "udp") == "10.22.0.2"


def test_nobody_behind_ptp_reaches_the_hosts_own_loopback(town: Town) -> None:
    conf = {**COMMON, "ipam": town.cni.ipam("10.22.0.0/24", routes=WAYS[:1])}
    host_end = town.cni.add("ptp", conf)["interfaces"][0]["name"]
    c1 = town.cni.netns("c1")
    run(f"sysctl -qw net.ipv4.conf.{host_end}.route_localnet=1")  # as for a published port
    run(
        "sysctl -qw net.ipv4.conf.all.route_localnet=1",
        "ip addr del 127.0.0.1/8 dev lo",
        "ip route add 127.0.0.0/8 via 10.22.0.1",
        place=c1,
    )

    def asked(patience_s: float) -> str | None:
        ask = town.host.ask
        return ask(c1, "127.0.0.1", 80, source="10.22.0.2", patience_s=patience_s)

    with town.host.serve(None, "tcp", 80, "127.0.0.1"):
        assert asked(BRIEF_S) is None
        run(f"nft delete element inet netkit plain '{{ {host_end} }}'")
        assert asked(PATIENCE_S) is not None


# -- macvlan


@pytest.mark.parametrize("mode", ["bridge", "private"])
def test_i21_macvlans_are_stations_of_the_lan(town: Town, mode: str) -> None:
    needs("macvlan")
    ranges = [
        [{"subnet": LAN, "rangeStart": "10.9.0.10", "gateway": "10.9.0.254"}],
        [{"subnet": LAN6, "rangeStart": "fd09::10", "gateway": "fd09::fe"}],
    ]
    ipam = {**town.cni.ipam(routes=WAYS), "ranges": ranges}
    conf = {**COMMON, "mode": mode, "ipam": ipam}  # on the default route's interface
    for name in ("c1", "c2"):
        town.cni.add("macvlan", conf, name)
    c1 = town.cni.netns("c1")
    assert town.reach(c1, "10.9.0.254", "fd09::fe", "10.99.0.1", "fd99::1") == [True] * 4
    assert town.reach(town.lan, "10.9.0.10", "fd09::11") == [True] * 2
    patience_s = PATIENCE_S if mode == "bridge" else BRIEF_S
    siblings = town.reach(c1, "10.9.0.11", "fd09::11", patience_s=patience_s)
    assert siblings == [mode == "bridge"] * 2


def test_an_address_leased_again_is_reached_at_once(town: Town) -> None:
    """The neighbour remembers the former owner's MAC."""
    needs("macvlan")
    ipam = {
        "type": "static",
        "addresses": [{"address": "10.9.0.10/24"}, {"address": "fd09::10/64"}],
    }
    conf = {**COMMON, "ipam": ipam}
    for name in ("c1", "c2", "c3"):
        town.cni.add("macvlan", conf, name)
        assert town.reach(town.lan, "10.9.0.10", "fd09::10") == [True, True], name
        town.cni.delete("macvlan", conf, name)


def test_a_macvlan_on_an_interface_of_the_containers(town: Town) -> None:
    needs("macvlan")
    first = {
        **COMMON,
        "name": "first",
        "ipam": {"type": "static", "addresses": [{"address": "10.9.0.10/24"}]},
    }
    town.cni.add("macvlan", first)
    second = {**COMMON, "name": "second", "linkInContainer": True, "master": "eth0"}
    second["ipam"] = {"type": "static", "addresses": [{"address": "10.9.0.11/24"}]}
    town.cni.add("macvlan", second, ifname="eth1")
    assert "eth1" in run("ip -n c1 link show eth1")
    assert town.reach(town.lan, "10.9.0.10", "10.9.0.11") == [True, True]


# -- host-device


def test_i22_a_card_works_in_the_container_and_again_on_the_host(town: Town) -> None:
    assert town.host.ping(None, "10.9.0.254")
    addresses = [{"address": "10.9.0.7/24", "gateway": "10.9.0.254"}, {"address": "fd09::7/64"}]
    conf = {**COMMON, "device": "wire0"}
    conf["ipam"] = {"type": "static", "addresses": addresses, "routes": WAYS[:1]}
    town.cni.add("host-device", conf)
    assert town.reach(town.cni.netns("c1"), "10.9.0.254", "10.99.0.1", "fd09::fe") == [True] * 3
    assert not town.host.ping(None, "10.9.0.254", patience_s=BRIEF_S)
    town.cni.delete("host-device", conf)
    assert until(lambda: all(town.reach(None, "10.9.0.254", "10.99.0.1", "fd99::1")))


# -- tap


@contextmanager
def program_on(place: str, name: str) -> Iterator[int]:
    """A program that has the tap open, as a virtual machine has."""

    def opened() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))
        return fd

    fd = at(place, opened)
    try:
        yield fd
    finally:
        os.close(fd)


def test_i23_frames_of_a_tap_are_a_programs(town: Town) -> None:
    if not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")
    ipam = {"type": "static", "addresses": [{"address": "10.22.0.2/24"}]}
    town.cni.add("tap", {**COMMON, "ipam": ipam})
    place = town.cni.netns("c1")
    with program_on(place, "eth0") as fd:
        town.host.ping(place, "10.22.0.9", patience_s=BRIEF_S)
        os.set_blocking(fd, False)
        found = []

        def asked() -> bool:
            try:
                found.append(os.read(fd, 2000))
            except BlockingIOError:
                return False
            return found[-1][12:14] == b"\x08\x06" and found[-1][38:42] == bytes([10, 22, 0, 9])

        assert until(asked)  # who has 10.22.0.9


# -- sbr


def test_i23_answers_leave_by_the_interface_they_were_asked_at(town: Town) -> None:
    """Two networks, each leading out: without sbr the answer of one leaves by the other."""
    second = town.host.neighbour("lan2", "10.8.0.1/24", "10.8.0.254/24")
    run("ip route del default", "ip -6 route del default")
    for name, subnet in (("one", "10.22.0.0/24"), ("two", "10.23.0.0/24")):
        ipam = town.cni.ipam(subnet, routes=WAYS[:1])
        conf = {**COMMON, "name": name, "ipam": ipam}
        result = town.cni.add("ptp", conf, ifname=f"eth-{name}")
        if name == "two":
            chained = {**COMMON, "name": name, "prevResult": result}
    place = town.cni.netns("c1")
    # a way back by the other interface would be a detour that the host does not take
    run("sysctl -qw net.ipv4.conf.all.rp_filter=1")
    assert town.host.ping(second, "10.23.0.2")
    run("ip -n c1 route del default via 10.23.0.1")
    with town.host.serve(place, "tcp", 80):
        assert town.host.ask(second, "10.23.0.2", 80, patience_s=BRIEF_S) is None
        town.cni.add("sbr", chained, ifname="eth-two")
        assert town.host.ask(second, "10.23.0.2", 80) == "10.8.0.254"
        assert town.host.ask(town.lan, "10.22.0.2", 80) == "10.9.0.254"
        town.cni.delete("sbr", chained, ifname="eth-two")
        assert town.host.ask(second, "10.23.0.2", 80, patience_s=BRIEF_S) is None
