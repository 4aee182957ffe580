"""ipvlan, vlan, dummy and tap, with real packets where the kernel has them; and VLANs and VRF.

What this kernel lacks is refused by name, whole, and that is what the skip says.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import pytest

from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, KernelRefused, NotFound
from netkit.firewall import Guard
from netkit.firewall.nftables import Nftables
from netkit.kernel import netns
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.lab import Host, at, join, ready, run, snapshot, until

OURS, THEIRS, OURS6, THEIRS6 = "10.9.0.1", "10.9.0.253", "fd09::1", "fd09::fd"
LAN = (ip_network("10.9.0.0/24"), ip_network("fd09::/64"))


@pytest.fixture
def engine(host: Host) -> Engine:
    """On a host with `wire0` to a neighbour, `lan`, of both versions and VLAN 10."""
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    run(
        "ip link set lan0 down",
        "ip link set lan0 name wire0 up",
        f"ip addr add {OURS6}/64 dev wire0 nodad",  # no snapshot is to see it settle
    )
    run(f"ip addr add {THEIRS6}/64 dev eth0 nodad", place=lan)
    return host.engine()


def made(engine: Engine, driver: str, **options: str) -> NetworkRecord:
    return or_skipped(engine, NetworkSpec("town", driver, subnets=LAN, ipv6=True, options=options))


def or_skipped(engine: Engine, spec: NetworkSpec) -> NetworkRecord:
    """The network, one endpoint tried on it; where the kernel lacks it, nothing has happened."""
    before = snapshot()
    try:
        net = engine.create_network(spec)
        engine.connect(spec.name, name="trial")
        engine.disconnect(spec.name, "trial")
    except KernelRefused as refused:
        why = str(refused)
    else:
        return net
    if engine.store.by_name(NetworkRecord, spec.name):
        engine.delete_network(spec.name)
    assert snapshot() == before
    assert "CONFIG_" in why
    pytest.skip(why.rpartition(": ")[2])


def reach(host: Host, ep: EndpointRecord, *addresses: object) -> list[bool]:
    return [host.ping(ep.netns, str(address), patience_s=1) for address in addresses]


def ips(ep: EndpointRecord) -> Sequence[object]:
    return [address.ip for address in ep.addresses]


# -- ipvlan


@pytest.mark.parametrize(("flag", "siblings"), [("bridge", True), ("private", False)])
def test_ipvlan_l2_is_on_the_lan_with_its_parents_mac(
    host: Host, engine: Engine, flag: str, siblings: bool
) -> None:
    made(engine, "ipvlan", parent="wire0", ipvlan_flag=flag)
    one, two = (engine.connect("town", name=name) for name in ("one", "two"))
    assert until(lambda: reach(host, one, THEIRS, THEIRS6) == [True, True])
    assert reach(host, one, *ips(two)) == [siblings] * 2
    with pytest.raises(InvalidSpec, match="its interfaces have their parent's"):
        engine.connect("town", None, Request(mac="02:00:00:00:00:07"), name="three")


@pytest.mark.parametrize("mode", ["l3", "l3s"])
def test_ipvlan_l3_has_no_gateway_but_the_device(host: Host, engine: Engine, mode: str) -> None:
    net = made(engine, "ipvlan", parent="wire0", ipvlan_mode=mode)
    assert net.gateways == ()
    one = engine.connect("town", name="one")
    default = run("ip route show default; ip -6 route show default", place=one.netns)
    assert default.count("default dev eth0") == 2
    assert until(lambda: reach(host, one, THEIRS) == [True])


def test_ipvlan_l3_takes_no_gateway(engine: Engine) -> None:
    spec = NetworkSpec(
        "town",
        "ipvlan",
        subnets=LAN[:1],
        gateways=(ip_address("10.9.0.254"),),
        options={"parent": "wire0", "ipvlan_mode": "l3"},
    )
    with pytest.raises(InvalidSpec, match=r"gateway '10\.9\.0\.254' .*mode l3 has none"):
        engine.create_network(spec)


# -- vlan


def test_a_vlan_is_on_its_own_side_of_the_wire(host: Host, engine: Engine) -> None:
    net = made(engine, "vlan", parent="wire0", vlan_id="10")
    run(
        "ip link add link eth0 name eth0.10 type vlan id 10",
        "ip addr add 10.10.0.1/24 dev eth0.10",
        "ip link set eth0.10 up",
        place=netns.named("lan"),
    )
    engine.delete_network(net.name)
    subnet = (ip_network("10.10.0.0/24"),)
    options = {"parent": "wire0", "vlan_id": "10"}
    engine.create_network(NetworkSpec("town", "vlan", subnets=subnet, options=options))
    one = engine.connect("town", name="one")
    assert until(lambda: reach(host, one, "10.10.0.1") == [True])
    with pytest.raises(Conflict, match="has its endpoint already"):
        engine.connect("town", name="two")


def test_a_vlan_is_anothers_by_either_name(engine: Engine) -> None:
    options = {"parent": "wire0", "vlan_id": "10"}
    engine.create_network(NetworkSpec("town", "vlan", subnets=LAN[:1], options=options))
    for driver, wanted in (("macvlan", {"parent": "wire0.10"}), ("vlan", options)):
        with pytest.raises(Conflict, match=r"on 'wire0\.10': network town has it"):
            engine.create_network(NetworkSpec("other", driver, options=wanted))


# -- dummy


def test_a_dummy_has_addresses_and_leads_nowhere(host: Host, engine: Engine) -> None:
    subnets = (ip_network("172.29.0.0/24"),)
    or_skipped(engine, NetworkSpec("town", "dummy", subnets=subnets))
    one = engine.connect("town", name="one")
    assert str(one.addresses[0]) == "172.29.0.1/24"
    assert reach(host, one, "172.29.0.1", "172.29.0.2", THEIRS) == [True, False, False]


# -- tap


def opened(place: str, name: str, flags: int = 0x1002) -> int:
    """The device's other side, as a program in the sandbox has it."""

    def attach() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR)
        try:
            fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), flags))
        except OSError:
            os.close(fd)
            raise
        return fd

    return at(place, attach)


def needs_tun() -> None:
    """/dev/net/tun may be closed to a user who is not root."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")


def test_frames_of_a_tap_go_to_the_program_that_opened_it(engine: Engine) -> None:
    needs_tun()
    subnets = (ip_network("172.29.0.0/24"),)
    engine.create_network(NetworkSpec("town", "tap", subnets=subnets))
    one = engine.connect("town", name="one")
    assert one.netns is not None
    assert f"link/ether {one.mac}" in run("ip link show eth0", place=one.netns)
    fd = opened(one.netns, "eth0")
    try:
        asked = frames.arp("02:00:00:00:00:09", "02:00:00:00:00:09", "172.29.0.9")
        os.write(fd, asked)
        assert until(lambda: "eth0" in run("ip -o link show up", place=one.netns))
        with frames.hear(one.netns, "eth0", frames.of("02:00:00:00:00:09"), 1) as heard:
            os.write(fd, asked)
        assert asked[:42] in [frame[:42] for frame in heard]
    finally:
        os.close(fd)
    assert engine.check() == []
    engine.disconnect("town", "one")


def test_a_tap_is_whose_it_is_said_to_be_and_a_port_of_the_bridge_there(engine: Engine) -> None:
    needs_tun()
    subnets = (ip_network("172.29.0.0/24"),)
    options = {"owner": "0", "group": "0", "multi_queue": "true", "bridge": "lan9"}
    engine.create_network(NetworkSpec("town", "tap", subnets=subnets, options=options))
    netns.create("theirs")
    place = netns.named("theirs")
    with pytest.raises(NotFound, match="no bridge 'lan9' in /run/netns/theirs for eth0 to join"):
        engine.connect("town", "theirs")
    assert "eth0" not in run("ip link", place=place)
    run("ip link add lan9 type bridge", place=place)
    engine.connect("town", "theirs")
    shown = run("ip -d link show eth0", place=place)
    for word in ("type tap", "multi_queue", "user root", "group root", "master lan9"):
        assert word in shown, word
    first, second = (opened(place, "eth0", 0x1102) for _ in range(2))
    for fd in (first, second):
        os.close(fd)
    engine.disconnect("town", "theirs")
    assert "eth0" not in run("ip link", place=place)


# -- VLANs and VRF of bridges


def test_containers_in_different_vlans_of_a_bridge_do_not_meet(host: Host, engine: Engine) -> None:
    subnets = (ip_network("172.29.0.0/24"),)
    options = {"vlan": "10", "vlan_trunk": "20-22,30"}
    spec = NetworkSpec("town", subnets=subnets, bridge="lab0", options=options)
    or_skipped(engine, spec)
    one, two = join(engine, "town", "one"), join(engine, "town", "two")
    assert host.ping(one, "172.29.0.3")
    assert host.ping(two, "172.29.0.1")
    port = engine.endpoints()[0].host_ifname
    shown = run(f"bridge vlan show dev {port}").split()
    assert shown[shown.index("10") :][:3] == ["10", "PVID", "Egress"]
    assert "1" not in shown
    run(f"bridge vlan add dev {port} vid 11 pvid untagged")
    assert not host.ping(one, "172.29.0.3", patience_s=0.3)


def test_frames_with_tags_pass_a_trunks_guard_from_its_own_mac_only(
    host: Host, engine: Engine
) -> None:
    """The guard by itself: a bridge that does not look at tags passes them on."""
    engine.create_network(NetworkSpec("town", subnets=(ip_network("172.29.0.0/24"),)))
    one, two = (engine.connect("town", name=name) for name in ("one", "two"))
    ready(one), ready(two)
    plain = frames.udp((one.mac, two.mac), ("172.29.0.2", "172.29.0.3"), (5000, 9999))
    forged = frames.udp((two.mac, one.mac), ("172.29.0.3", "172.29.0.2"), (5000, 9999))
    tagged, lie = frames.tagged(plain, 20), frames.tagged(forged, 20)

    def heard(frame: bytes, source: str, awaited: int = 0) -> int:
        with frames.hear(two.netns, "eth0", frames.of(source), awaited) as found:
            frames.send(one.netns, "eth0", frame)
        return len(found)

    assert heard(tagged, one.mac) == 0
    own = tuple(address.ip for address in one.addresses)
    Nftables().add([Guard(one.host_ifname, one.mac, own, tagged=True)])
    assert heard(tagged, one.mac, 1) == 1
    assert heard(lie, two.mac) == 0
    Nftables().delete([Guard(one.host_ifname, one.mac, own, tagged=True)])


def test_a_bridge_is_a_member_of_a_vrf_that_goes_with_the_last(engine: Engine) -> None:
    before = snapshot()
    subnets = (ip_network("172.29.0.0/24"),)
    or_skipped(engine, NetworkSpec("town", subnets=subnets, options={"vrf": "red"}))
    assert "172.29.0.0/24" not in run("ip route")
    assert "172.29.0.0/24" in run("ip route show vrf red")
    engine.delete_network("town")
    assert snapshot() == before
