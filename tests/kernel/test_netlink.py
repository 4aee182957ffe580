"""What the contract does not show: the kernel's own words, and other programs' view of ours."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from ipaddress import IPv4Interface

import pytest

from netkit.kernel.netlink import Netlink, Vlan
from scenarios.lab import Host, run

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"


def test_a_refusal_bears_the_kernels_own_words(host: Host) -> None:
    with Netlink() as netlink:
        with pytest.raises(OSError, match="Nexthop has invalid gateway") as refused:
            netlink.add_route("lo", None, "192.0.2.1")
        assert refused.value.errno == errno.ENETUNREACH
        with pytest.raises(OSError, match=r"Address already assigned|File exists"):
            netlink.add_address("lo", IPv4Interface("127.0.0.1/8"))
        assert netlink.link("lo") is not None  # and the next answer is to the next question


def test_a_namespace_in_which_nothing_is_up_has_no_routes(host: Host) -> None:
    run("ip netns add empty")
    with Netlink("/run/netns/empty") as netlink:
        assert netlink.routes() == []
        assert [link.name for link in netlink.links()] == ["lo"]
        assert netlink.addresses() == []
        assert netlink.rules() == []


def test_a_dump_of_many_links_is_read_to_its_end(host: Host) -> None:
    with Netlink() as netlink:
        for number in range(150):
            netlink.add_bridge(f"br{number}", mac=MAC, mtu=1500)
        names = {link.name for link in netlink.links()}
        assert names == {"lo", *(f"br{number}" for number in range(150))}
        assert netlink.index("br149") == netlink.link("br149").ifindex  # type: ignore[union-attr]


def test_iproute2_reads_what_was_written(host: Host) -> None:
    """Address, routes in a table, and rule, as another program sees them."""
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac=MAC, mtu=1400)
        netlink.set_alias("br0", "netkit:abc")
        netlink.set_up("br0")
        address = IPv4Interface("10.88.0.1/24")
        netlink.add_address("br0", address)
        netlink.add_route("br0", address.network, None, table=70000)
        netlink.add_route("br0", None, "10.88.0.9", table=70000)
        netlink.add_rule("10.88.0.1", 70000)
        assert netlink.rules() == [("10.88.0.1", 70000)]
    shown = run("ip -d link show br0")
    assert "mtu 1400 qdisc noqueue state DOWN" in shown
    assert f"link/ether {MAC}" in shown
    assert "group_fwd_mask 0xfff8" in shown
    assert "alias netkit:abc" in shown
    assert "inet 10.88.0.1/24 brd 10.88.0.255 scope global br0" in run("ip addr show br0")
    assert run("ip route show table 70000").split("\n")[:2] == [
        "default via 10.88.0.9 dev br0 linkdown ",
        "10.88.0.0/24 dev br0 scope link linkdown ",
    ]
    assert "32000:\tfrom 10.88.0.1 lookup 70000" in run("ip rule")


def test_a_link_comes_back_when_the_name_it_was_to_have_is_taken_meanwhile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel moves it and then fails to rename it; nobody is left with half of that."""
    run("ip netns add a")
    look = Netlink.link
    monkeypatch.setattr(Netlink, "link", lambda nl, name: None if name == "t" else look(nl, name))
    with Netlink() as netlink, Netlink("/run/netns/a") as there:
        for name in ("v0", "v1"):
            netlink.add_veth(
                name, mac=MAC, mtu=1400, peer=f"{name}p", peer_mac=PEER_MAC, peer_netns=None
            )
        netlink.move_link("v1", "/run/netns/a", "t")
        with pytest.raises(OSError, match="File exists"):
            netlink.move_link("v0", "/run/netns/a", "t")
        assert netlink.link("v0") is not None
        assert [link.name for link in there.links()] == ["lo", "t"]


def test_iproute2_reads_what_a_link_and_a_port_were_set_to(host: Host) -> None:
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac=MAC, mtu=1400)
        netlink.add_veth("v0", mac=MAC, mtu=1400, peer="v1", peer_mac=PEER_MAC, peer_netns=None)
        netlink.set_link("v0", master="br0", txqlen=77, promisc=True, allmulti=True, group=5)
        netlink.set_port("v0", isolated=True, neigh_suppress=True, flood=False, learning=False)
        shown = run("ip -d link show v0")
        assert "PROMISC" in shown
        assert "ALLMULTI" in shown
        assert "master br0 state" in shown
        assert "group 5 qlen 77" in shown
        assert "hairpin off" in shown
        for words in ("isolated on", "neigh_suppress on", "flood off", "learning off"):
            assert f" {words} " in shown
        run("ip link set v0 promisc off type bridge_slave isolated off hairpin on learning on")
        link = netlink.link("v0")
        assert link is not None
        assert (link.promisc, sorted(link.port)) == (
            False,
            ["hairpin", "learning", "neigh_suppress"],
        )


def test_two_containers_talk_over_a_link_of_their_own(host: Host) -> None:
    """One address each, a route to the other's, and no bridge; by macvlans it is no different."""
    places = [f"/run/netns/{name}" for name in ("a", "b")]
    run("ip netns add a", "ip netns add b")
    own = [IPv4Interface("10.1.1.1/32"), IPv4Interface("10.1.1.2/32")]
    with Netlink() as netlink, Netlink(places[0]) as one, Netlink(places[1]) as other:
        one.add_veth(
            "link0", mac=MAC, mtu=1400, peer="link0", peer_mac=PEER_MAC, peer_netns=places[1]
        )
        netlink.add_veth("p0", mac=MAC, mtu=1400, peer="p1", peer_mac=PEER_MAC, peer_netns=None)
        netlink.set_up("p1")
        for place in places:
            netlink.add_link("mv0", "macvlan", parent="p0", at=place, options={"mode": "bridge"})
        for dev in ("link0", "mv0"):
            for handle, mine, theirs in ((one, own[0], own[1]), (other, own[1], own[0])):
                handle.set_up(dev)
                handle.add_address(dev, mine)
                handle.add_route(dev, theirs.network, None, source=str(mine.ip))
            with host.serve(places[1], "tcp", 80):
                assert host.ask(places[0], "10.1.1.2", 80) == "10.1.1.1"
            one.delete_link(dev)
            if other.link(dev) is not None:
                other.delete_link(dev)


# -- what this kernel may lack, as iproute2 6.1 sends it (recorded with strace)


class Recorded(Netlink):
    """A handle that keeps what it would send, and gets the answers it is given."""

    def __init__(self, *answers: bytes) -> None:
        self.sent = b""
        self.answers = answers

    def index(self, name: str) -> int:
        return 3

    def _talk(self, request: bytes, kind: int, flags: int) -> Iterator[bytes]:
        self.sent = request
        yield from self.answers


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def particular(kind: str, data: str) -> bytes:
    """IFLA_LINKINFO: the kind, and its IFLA_INFO_DATA as recorded."""
    info = attribute(2, bytes.fromhex(data)) if data else b""
    return attribute(18, attribute(1, kind.encode() + b"\0") + info)


RECORDED: list[tuple[str, dict[str, str | int], str]] = [
    ("ipvlan", {"mode": "l3s", "private": 1}, "0600010002000000 0600020001000000"),
    ("ipvlan", {"mode": "l2", "vepa": 1}, "0600010000000000 0600020002000000"),
    ("vlan", {"protocol": "802.1ad", "id": 5}, "0600050088a80000 0600010005000000"),
    ("vrf", {"table": 70000}, "0800010070110100"),
    ("macvlan", {"mode": "private", "bcqueuelen": 7}, "0800010001000000 0800070007000000"),
    ("macvlan", {"mode": "passthru", "nopromisc": 1}, "0800010008000000 0600020001000000"),
    ("dummy", {}, ""),
]


@pytest.mark.parametrize(("kind", "options", "data"), RECORDED)
def test_a_link_is_asked_for_as_iproute2_does(
    kind: str, options: dict[str, str | int], data: str
) -> None:
    netlink = Recorded()
    netlink.add_link("x", kind, parent="p", mtu=1400, options=options)
    assert netlink.sent[16:] == (
        attribute(3, b"x\0")
        + attribute(5, struct.pack("=I", 3))
        + attribute(4, struct.pack("=I", 1400))
        + particular(kind, data)
    )


@pytest.mark.parametrize(("kind", "options", "data"), RECORDED)
def test_what_was_asked_for_reads_back_the_same(
    kind: str, options: dict[str, str | int], data: str
) -> None:
    link = Recorded(answer(3, particular(kind, data))).link("x")
    assert link is not None
    assert (link.kind, dict(link.options)) == (kind, options)


def answer(index: int, attributes: bytes) -> bytes:
    """What the kernel says of a link."""
    body = struct.pack("=BxHiII", 0, 1, index, 0, 0) + attribute(3, b"x\0") + attributes
    return struct.pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body


PORT_VLANS = "0800020006000500 0800020008000a00 0800020010001400"


def test_the_vlans_of_a_port_are_said_as_iproute2_does() -> None:
    """Tag 5 for what bears none, and 10 to 20."""
    netlink = Recorded()
    vlans = (Vlan(5, 5, access=True), Vlan(10, 20))
    netlink.add_vlans("x", *vlans)
    port = struct.pack("=BxHiII", 7, 0, 3, 0, 0)
    assert netlink.sent == port + attribute(26, bytes.fromhex(PORT_VLANS))
    netlink.delete_vlans("x", Vlan(1, 1))
    assert netlink.sent == port + attribute(26, bytes.fromhex("0800020000000100"))
    netlink.add_vlans("x", Vlan(5, 5), own=True)
    own = "0600000002000000 0800020000000500"
    assert netlink.sent == port + attribute(26, bytes.fromhex(own))


def test_the_vlans_of_a_port_are_read_from_among_all_ports() -> None:
    def of(index: int, data: str) -> bytes:
        body = struct.pack("=BxHiII", 7, 1, index, 0, 0) + attribute(26, bytes.fromhex(data))
        return struct.pack("=IHHII", 16 + len(body), 16, 2, 0, 0) + body

    others = of(2, "0800020006000100")
    netlink = Recorded(others, of(3, PORT_VLANS), answer(4, b""))
    assert netlink.vlans("x") == [Vlan(5, 5, access=True), Vlan(10, 20)]
