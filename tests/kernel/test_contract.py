"""What steps rely on, held to by the kernel and by its twin in memory alike."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    ip_network,
)
from typing import Any

import pytest

from netkit.firewall import Publish
from netkit.firewall.none import NoFirewall
from netkit.kernel import Kernel, devices, features, netlink, netns, rtnl
from netkit.kernel.netlink import Link, PolicyRule, Vlan
from scenarios.lab import Host, until
from tests.fakes import FakeKernel, refused

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"
PLACE = netns.named("c1")
ADDRESS = IPv4Interface("10.88.0.2/24")


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest, host: Host) -> Iterator[Kernel]:
    """An empty machine with a bridge `br0` and a namespace `c1`."""
    with FakeKernel() if request.param == "fake" else Kernel(NoFirewall()) as kernel:
        kernel.create_netns("c1")
        kernel.netlink().add_bridge("br0", mac=MAC, mtu=1400)
        yield kernel


@pytest.fixture
def base(kernel: Kernel, host: Host) -> str:
    """A directory to make files in."""
    kernel.make_directory(f"{host.base}/files")
    return f"{host.base}/files"


def connect(kernel: Kernel, name: str = "veth1", peer: str = "eth0", at: str = PLACE) -> None:
    kernel.netlink().add_veth(
        name, mac=MAC, mtu=1400, master="br0", peer=peer, peer_mac=PEER_MAC, peer_netns=at
    )


def ipv4(kernel: Kernel, name: str, at: str | None = None) -> list[IPv4Interface]:
    found = [address for _, address in kernel.netlink(at).addresses(name)]
    return [address for address in found if isinstance(address, IPv4Interface)]


# -- links


def test_a_link_is_up_or_down_or_not_there(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    assert (netlink.is_up("br0"), netlink.is_up("none")) == (False, None)
    netlink.set_up("br0")
    assert netlink.is_up("br0") is True
    assert kernel.netlink(PLACE).is_up("br0") is None


def test_a_mac_can_be_had_without_the_rest_of_a_link(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    link = netlink.link("br0")
    assert link is not None
    assert (netlink.mac("br0"), netlink.mac("none")) == (link.mac, None)


def test_the_ways_out_are_the_versions_with_a_default_route(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    assert netlink.ways_out() == set()
    netlink.set_up("br0")
    netlink.add_address("br0", IPv4Interface("10.88.0.1/24"))
    netlink.add_route("br0", None, "10.88.0.9", table=77)
    netlink.add_route("br0", ip_network("10.1.0.0/16"), "10.88.0.9")
    assert netlink.ways_out() == set()
    netlink.add_route("br0", None, "10.88.0.9", metric=5)
    assert netlink.ways_out() == {4}


def test_the_way_to_an_address_may_be_direct_or_by_a_gateway(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    netlink.set_up("br0")
    netlink.add_address("br0", IPv4Interface("10.88.0.1/24"))
    far, near = IPv4Address("10.1.2.3"), IPv4Address("10.88.0.7")
    assert (netlink.way_to(near), netlink.way_to(far)) == ("br0", None)
    netlink.add_route("br0", None, "10.88.0.9")
    assert (netlink.way_to(far), netlink.way_to(far, direct=True)) == ("br0", None)
    assert netlink.way_to(near, direct=True) == "br0"


def test_a_bridge_is_born_down_with_the_mac_and_mtu_asked_for(kernel: Kernel) -> None:
    link = kernel.netlink().link("br0")
    assert link is not None
    assert (link.kind, link.mac, link.mtu, link.up) == ("bridge", MAC, 1400, False)
    assert (link.alias, link.master, link.ifindex) == (None, None, kernel.netlink().index("br0"))


def test_a_name_that_is_taken_is_refused_and_the_holder_stays(kernel: Kernel) -> None:
    before = kernel.netlink().link("br0")
    with refused(errno.EEXIST):
        kernel.netlink().add_bridge("br0", mac=PEER_MAC, mtu=1500)
    assert kernel.netlink().link("br0") == before


def test_a_link_that_is_not_there_reads_as_none(kernel: Kernel) -> None:
    assert kernel.netlink().link("nope") is None
    with refused(errno.ENODEV):
        kernel.netlink().index("nope")


def test_a_veth_pair_is_born_enslaved_here_and_down_there(kernel: Kernel) -> None:
    connect(kernel)
    ours, theirs = kernel.netlink().link("veth1"), kernel.netlink(PLACE).link("eth0")
    assert ours is not None
    assert theirs is not None
    assert (ours.kind, ours.mac, ours.mtu, ours.up) == ("veth", MAC, 1400, True)
    assert (theirs.kind, theirs.mac, theirs.mtu, theirs.up) == ("veth", PEER_MAC, 1400, False)
    assert ours.master == kernel.netlink().index("br0")
    assert (ours.peer_index, theirs.peer_index) == (theirs.ifindex, ours.ifindex)


@pytest.mark.parametrize(
    ("name", "peer", "at", "code"),
    [
        ("br0", "eth0", PLACE, errno.EEXIST),
        ("veth1", "lo", PLACE, errno.EEXIST),
        ("veth1", "eth0", netns.named("nope"), errno.ENOENT),
    ],
)
def test_a_veth_pair_that_cannot_be_born_whole_is_not_born(
    kernel: Kernel, name: str, peer: str, at: str, code: int
) -> None:
    before = [link.name for link in kernel.netlink().links()]
    with refused(code):
        connect(kernel, name, peer, at)
    assert [link.name for link in kernel.netlink().links()] == before
    assert [link.name for link in kernel.netlink(PLACE).links()] == ["lo"]


def test_a_veth_needs_a_bridge_that_is_there(kernel: Kernel) -> None:
    kernel.netlink().delete_link("br0")
    with refused(errno.ENODEV):
        connect(kernel)


def test_either_end_of_a_veth_takes_the_other_along(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink().delete_link("veth1")
    assert kernel.netlink(PLACE).link("eth0") is None
    connect(kernel)
    kernel.netlink(PLACE).delete_link("eth0")
    assert kernel.netlink().link("veth1") is None


def test_a_bridge_goes_without_its_ports(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink().delete_link("br0")
    port = kernel.netlink().link("veth1")
    assert port is not None
    assert port.master is None


def test_links_die_with_their_namespace(kernel: Kernel) -> None:
    connect(kernel)
    kernel.delete_netns("c1")
    assert not kernel.exists(PLACE)
    # the kernel takes a namespace down behind our backs
    assert until(lambda: kernel.netlink().link("veth1") is None)


@pytest.mark.parametrize("verb", ["delete", "up", "alias", "port", "address", "route"])
def test_what_is_done_to_a_missing_link_is_refused(kernel: Kernel, verb: str) -> None:
    netlink = kernel.netlink()
    with refused(errno.ENODEV):
        match verb:
            case "delete":
                netlink.delete_link("nope")
            case "up":
                netlink.set_up("nope")
            case "alias":
                netlink.set_alias("nope", "x")
            case "port":
                netlink.set_port("nope", alias="x", hairpin=True)
            case "address":
                netlink.delete_address("nope", ADDRESS)
            case _:
                netlink.delete_route("nope", None, "10.88.0.1")


def test_an_alias_is_kept(kernel: Kernel) -> None:
    kernel.netlink().set_alias("br0", "netkit:abc")
    connect(kernel)
    kernel.netlink().set_port("veth1", alias="netkit:def", hairpin=True)
    aliases = {link.name: link.alias for link in kernel.netlink().links()}
    assert aliases["br0"] == "netkit:abc"
    assert aliases["veth1"] == "netkit:def"


# -- links on a parent, and others without a bridge

KINDS: list[tuple[str, dict[str, str | int]]] = [
    ("macvlan", {"mode": "bridge", "bcqueuelen": 77}),
    ("macvlan", {"mode": "private"}),
    ("macvlan", {"mode": "vepa"}),
    ("macvlan", {"mode": "source"}),
    ("macvlan", {"mode": "passthru", "nopromisc": 1}),
    ("ipvlan", {"mode": "l2"}),
    ("ipvlan", {"mode": "l3", "private": 1}),
    ("ipvlan", {"mode": "l3s", "vepa": 1}),
    ("vlan", {"id": 5, "protocol": "802.1q"}),
    ("vlan", {"id": 6, "protocol": "802.1ad"}),
    ("dummy", {}),
    ("vrf", {"table": 10}),
]
ON_A_PARENT = ("macvlan", "ipvlan", "vlan")


@contextmanager
def or_skipped() -> Iterator[None]:
    """Where this kernel lacks what is asked of it, the test is skipped, and names the option."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and "CONFIG_" in str(error.strerror):
            pytest.skip(str(error.strerror))
        raise


def wire(kernel: Kernel, name: str = "wire0") -> None:
    """A link that stands in for a network card; its other end is in the namespace `far`."""
    if not kernel.exists(netns.named("far")):
        kernel.create_netns("far")
    kernel.netlink().add_veth(
        name, mac=MAC, mtu=1400, peer=name, peer_mac=PEER_MAC, peer_netns=netns.named("far")
    )


def card(kernel: Kernel, name: str = "wire0", at: str | None = None) -> Link:
    """A link as it is, but for its carrier: that the kernel notes when it finds the time."""
    link = kernel.netlink(at).link(name)
    assert link is not None
    return link._replace(running=True)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_link_is_born_whole_in_the_namespace_it_is_for(
    kernel: Kernel, kind: str, options: dict[str, str | int]
) -> None:
    wire(kernel)
    parent = "wire0" if kind in ON_A_PARENT else None
    mac = None if "passthru" in options.values() else "02:42:00:00:00:05"
    with or_skipped():
        kernel.netlink().add_link("eth0", kind, parent=parent, at=PLACE, mac=mac, options=options)
    link = kernel.netlink(PLACE).link("eth0")
    assert link is not None
    assert (link.kind, link.up, link.name) == (kind, False, "eth0")
    assert options.items() <= link.options.items()
    assert kernel.netlink().link("eth0") is None
    if parent:
        assert (link.peer_index, link.mtu) == (kernel.netlink().index("wire0"), 1400)
    if kind != "ipvlan":
        assert link.mac == (mac or MAC)


@pytest.mark.parametrize("renamed", [True, False])
def test_a_name_of_the_hosts_is_free_in_a_container_on_older_kernels_too(
    host: Host, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """They look for it in the namespace of whoever asks."""
    do = netlink.Netlink._do

    def older(self: netlink.Netlink, request: bytes, kind: int, flags: int = 0) -> None:
        name = rtnl.read(bytes(16) + request, rtnl.LINK_HEADER).get(rtnl.IFNAME, b"")
        if flags == netlink._CREATE and self.is_up(rtnl.text(name)) is not None:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if not renamed and kind == netlink._NEWLINK and not flags:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        do(self, request, kind, flags)

    with Kernel(NoFirewall()) as kernel:
        kernel.create_netns("c1")
        wire(kernel)
        kernel.netlink().add_bridge("eth0", mac=MAC, mtu=1500)
        monkeypatch.setattr(netlink.Netlink, "_do", older)

        def make() -> None:
            options: dict[str, str | int] = {"mode": "bridge"}
            kernel.netlink().add_link(
                "eth0", "macvlan", parent="wire0", at=PLACE, mac=PEER_MAC, options=options
            )

        if not renamed:
            with refused(errno.EBUSY):
                make()
            assert [link.name for link in kernel.netlink(PLACE).links()] == ["lo"]
            return
        make()
        assert (made := kernel.netlink(PLACE).link("eth0"))
        assert (made.kind, made.mac) == ("macvlan", PEER_MAC)
        with refused(errno.EEXIST):
            make()


def test_a_macvlan_is_born_here_and_up_where_that_is_asked_for(kernel: Kernel) -> None:
    wire(kernel)
    kernel.netlink().add_link(
        "mv0", "macvlan", parent="wire0", mtu=1300, up=True, options={"mode": "bridge"}
    )
    link = kernel.netlink().link("mv0")
    assert link is not None
    assert (link.mtu, link.up) == (1300, True)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"name": "lo"}, errno.EEXIST),
        ({"parent": "nope"}, errno.ENODEV),
        ({"parent": None}, errno.EINVAL),
        ({"parent": "lo"}, errno.EINVAL),
        ({"parent": "port"}, errno.EBUSY),
        ({"mtu": 1401}, errno.EINVAL),
        ({"at": netns.named("nope")}, errno.ENOENT),
        ({"options": {"mode": "passthru"}}, errno.EINVAL),  # with another on the same parent
        ({"options": {"mode": "bridged"}}, errno.EINVAL),
        ({"options": {"colour": "red"}}, errno.EINVAL),
        ({"options": {"bcqueuelen": "long"}}, errno.EINVAL),
        ({"kind": "dummy", "options": {"mode": "bridge"}}, errno.EINVAL),
    ],
)
def test_a_macvlan_that_cannot_be_born_whole_is_not_born(
    kernel: Kernel, changed: dict[str, Any], code: int
) -> None:
    wire(kernel)
    connect(kernel, "port", "other")
    kernel.netlink().add_link("mv0", "macvlan", parent="wire0", options={"mode": "bridge"})
    wanted = {"name": "eth0", "kind": "macvlan", "parent": "wire0", "at": PLACE}
    before = [link.name for link in kernel.netlink().links()]
    with refused(code):
        kernel.netlink().add_link(**{**wanted, "options": {"mode": "bridge"}, **changed})
    assert [link.name for link in kernel.netlink().links()] == before
    assert [link.name for link in kernel.netlink(PLACE).links()] == ["lo", "other"]


def test_a_macvlan_dies_with_its_parent_wherever_it_is(kernel: Kernel) -> None:
    wire(kernel)
    kernel.netlink().add_link("eth0", "macvlan", parent="wire0", at=PLACE)
    kernel.netlink(netns.named("far")).delete_link("wire0")
    assert kernel.netlink().link("wire0") is None
    assert kernel.netlink(PLACE).link("eth0") is None


def test_the_options_of_a_link_can_be_changed(kernel: Kernel) -> None:
    wire(kernel)
    kernel.netlink().add_link("eth0", "macvlan", parent="wire0", options={"mode": "bridge"})
    kernel.netlink().set_options("eth0", "macvlan", {"mode": "private"})
    link = kernel.netlink().link("eth0")
    assert link is not None
    assert link.options["mode"] == "private"


@pytest.mark.parametrize("kind", ["ipvlan", "vlan", "dummy", "vrf", "macvlan"])
def test_a_kind_of_link_this_kernel_lacks_is_named_with_its_option(
    kernel: Kernel, kind: str
) -> None:
    wire(kernel)
    if isinstance(kernel, FakeKernel):
        kernel.lacks.add(kind)
    options: dict[str, dict[str, str | int]] = {"vlan": {"id": 5}, "vrf": {"table": 10}}
    refusal = OSError()
    try:
        kernel.netlink().add_link("new", kind, parent="wire0", options=options.get(kind, {}))
    except OSError as error:
        refusal = error
    else:
        pytest.skip(f"this kernel has {kind}")
    assert refusal.errno == errno.EOPNOTSUPP
    assert refusal.strerror == f"this kernel has no {kind} ({features.OPTIONS[kind]})"
    assert kernel.netlink().link("new") is None


def test_a_veth_pair_joins_two_containers_without_a_bridge(kernel: Kernel) -> None:
    kernel.create_netns("c2")
    there = netns.named("c2")
    kernel.netlink(PLACE).add_veth(
        "link0", mac=MAC, mtu=1400, peer="link0", peer_mac=PEER_MAC, peer_netns=there
    )
    one, other = kernel.netlink(PLACE).link("link0"), kernel.netlink(there).link("link0")
    assert one is not None
    assert other is not None
    assert (one.mac, one.up, one.master, one.port) == (MAC, True, None, frozenset())
    assert (other.mac, other.up, other.mtu) == (PEER_MAC, False, 1400)
    assert (one.peer_index, other.peer_index) == (other.ifindex, one.ifindex)
    assert kernel.netlink().link("link0") is None
    kernel.delete_netns("c2")
    assert until(lambda: kernel.netlink(PLACE).link("link0") is None)


def test_a_veth_pair_made_in_a_container_may_end_on_the_host(kernel: Kernel) -> None:
    kernel.netlink(PLACE).add_veth(
        "eth0", mac=MAC, mtu=1400, peer="host0", peer_mac=PEER_MAC, peer_netns=None, up=False
    )
    one, other = kernel.netlink(PLACE).link("eth0"), kernel.netlink().link("host0")
    assert one is not None
    assert other is not None
    assert (one.up, other.up, other.mac) == (False, False, PEER_MAC)


# -- links moved, tuned and found


def test_a_link_goes_into_a_namespace_by_another_name_and_comes_back_as_it_was(
    kernel: Kernel,
) -> None:
    host, there, address = kernel.netlink(), kernel.netlink(PLACE), IPv4Interface("10.9.0.1/24")
    wire(kernel)
    host.set_link("wire0", txqlen=55, promisc=True, alias="mine", group=3)
    host.add_address("wire0", address)
    before = card(kernel)
    host.move_link("wire0", PLACE, "net0")
    moved = card(kernel, "net0", PLACE)
    assert host.link("wire0") is None
    assert moved == before._replace(ifindex=moved.ifindex, name="net0", up=False)
    assert (ipv4(kernel, "net0", PLACE), ipv4_routes(kernel)) == ([], [])
    there.move_link("net0", None, "wire0", up=True)
    assert there.link("net0") is None
    assert card(kernel) == before._replace(ifindex=host.index("wire0"))
    host.add_address("wire0", address)
    assert ipv4(kernel, "wire0") == [address]


def ipv4_routes(kernel: Kernel) -> list[IPv4Network]:
    return [r.dst for r in kernel.netlink().routes() if isinstance(r.dst, IPv4Network)]


def test_a_link_may_be_given_its_owner_and_set_up_as_it_moves(kernel: Kernel) -> None:
    wire(kernel)
    kernel.netlink().move_link("wire0", PLACE, alias="netkit:abc", up=True)
    moved = kernel.netlink(PLACE).link("wire0")
    assert moved is not None
    assert (moved.alias, moved.up) == ("netkit:abc", True)


def test_a_port_that_moves_is_a_port_no_more(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink().move_link("veth1", PLACE)
    moved = kernel.netlink(PLACE).link("veth1")
    assert moved is not None
    assert (moved.master, moved.port) == (None, frozenset())
    kernel.netlink(PLACE).delete_link("eth0")  # and it is still that one's other end
    assert kernel.netlink(PLACE).link("veth1") is None


@pytest.mark.parametrize(
    ("name", "to", "new_name", "code"),
    [
        ("wire0", PLACE, "lo", errno.EEXIST),
        ("wire0", netns.named("nope"), "net0", errno.ENOENT),
        ("nope", PLACE, "net0", errno.ENODEV),
        ("lo", PLACE, "lo1", errno.EINVAL),
    ],
)
def test_a_move_that_is_refused_costs_nothing(
    kernel: Kernel, name: str, to: str, new_name: str, code: int
) -> None:
    wire(kernel)
    kernel.netlink().add_address("wire0", ADDRESS)
    before = [card(kernel, link.name) for link in kernel.netlink().links()]
    with refused(code):
        kernel.netlink().move_link(name, to, new_name)
    assert [card(kernel, link.name) for link in kernel.netlink().links()] == before
    assert ipv4(kernel, "wire0") == [ADDRESS]
    assert [link.name for link in kernel.netlink(PLACE).links()] == ["lo"]


def test_settings_are_changed_together_and_put_back_from_what_was_read(kernel: Kernel) -> None:
    wire(kernel)
    before = card(kernel)
    changed = {"mac": "02:42:00:00:00:07", "mtu": 1300, "txqlen": 77, "promisc": True}
    changed |= {"allmulti": True, "alias": "mine", "group": 5, "up": False}
    kernel.netlink().set_link("wire0", **changed)  # type: ignore[arg-type]
    assert card(kernel) == before._replace(**changed)  # type: ignore[arg-type]
    was = {key: getattr(before, key) for key in changed}
    kernel.netlink().set_link("wire0", **was | {"alias": before.alias or ""})
    assert card(kernel) == before


def test_a_setting_the_kernel_refuses_changes_none(kernel: Kernel) -> None:
    wire(kernel)
    before = card(kernel)
    with refused(errno.EINVAL):
        kernel.netlink().set_link("wire0", mtu=10, txqlen=77, promisc=True)
    assert card(kernel) == before
    with refused(errno.ENODEV):
        kernel.netlink().set_link("nope", mtu=1300)


def test_a_link_becomes_a_port_and_is_free_again(kernel: Kernel) -> None:
    wire(kernel)
    kernel.netlink().set_link("wire0", master="br0")
    port = kernel.netlink().link("wire0")
    assert port is not None
    assert port.master == kernel.netlink().index("br0")
    assert sorted(port.port) == ["flood", "learning"]
    kernel.netlink().set_port("wire0", isolated=True, neigh_suppress=True, flood=False)
    port = kernel.netlink().link("wire0")
    assert port is not None
    assert sorted(port.port) == ["isolated", "learning", "neigh_suppress"]
    assert port.alias is None
    kernel.netlink().set_link("wire0", master="")
    port = kernel.netlink().link("wire0")
    assert port is not None
    assert (port.master, port.port, port.port_state) == (None, frozenset(), None)
    with refused(errno.EOPNOTSUPP):
        kernel.netlink().set_port("wire0", isolated=True)


def test_a_bridge_that_filters_vlans_lets_a_port_have_those_it_is_given(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    wire(kernel)
    with or_skipped():
        netlink.add_bridge(
            "br1", mac=MAC, mtu=1400, options={"vlan_filtering": 1, "vlan_default_pvid": 0}
        )
    netlink.set_link("wire0", master="br1")
    assert netlink.vlans("wire0") == []
    netlink.add_vlans("wire0", Vlan(5, 5, access=True), Vlan(10, 20))
    assert netlink.vlans("wire0") == [Vlan(5, 5, access=True), Vlan(10, 20)]
    netlink.delete_vlans("wire0", Vlan(10, 20))
    assert netlink.vlans("wire0") == [Vlan(5, 5, access=True)]


def test_an_existing_bridge_is_made_to_filter_and_its_ports_lose_vlan_1(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    connect(kernel)
    with or_skipped():
        netlink.set_options("br0", "bridge", {"vlan_filtering": 1})
    assert netlink.vlans("veth1") == [Vlan(1, 1, access=True)]
    netlink.delete_vlans("veth1", Vlan(1, 1))
    assert netlink.vlans("veth1") == []
    bridge = netlink.link("br0")
    assert bridge is not None
    assert bridge.options["vlan_filtering"] == 1


def test_vlans_of_ports_are_refused_by_name_where_the_kernel_has_none(kernel: Kernel) -> None:
    if isinstance(kernel, FakeKernel):
        kernel.lacks.add(features.BRIDGE_VLANS)
    connect(kernel)
    text = r"this kernel has no bridge VLAN filtering \(CONFIG_BRIDGE_VLAN_FILTERING\)"
    bridge = kernel.netlink().link("br0")
    if bridge is not None and not isinstance(kernel, FakeKernel) and len(bridge.options) > 1:
        pytest.skip("this kernel has bridge VLAN filtering")
    with pytest.raises(OSError, match=text):
        kernel.netlink().set_options("br0", "bridge", {"vlan_filtering": 1})
    with pytest.raises(OSError, match=text):
        kernel.netlink().add_bridge("br1", mac=MAC, mtu=1400, options={"vlan_filtering": 1})
    with pytest.raises(OSError, match=text):
        kernel.netlink().add_vlans("veth1", Vlan(5, 5, access=True))
    assert kernel.netlink().link("br1") is None
    assert kernel.netlink().vlans("veth1") == [] or isinstance(kernel, FakeKernel)


@contextmanager
def or_closed() -> Iterator[None]:
    try:
        with or_skipped():
            yield
    except PermissionError:
        pytest.skip("/dev/net/tun is closed to this user")


def test_a_tap_is_made_whole_for_who_may_use_it_and_stays(kernel: Kernel) -> None:
    with or_closed():
        kernel.add_tuntap("tap0", at=PLACE, mac=MAC, mtu=1300, owner=0, group=0, vnet_hdr=True)
    tap = kernel.netlink(PLACE).link("tap0")
    assert tap is not None
    assert (tap.kind, tap.mac, tap.mtu, tap.up) == ("tun", MAC, 1300, False)
    assert tap.options == {"mode": "tap", "user": 0, "group": 0, "vnet_hdr": 1}
    assert kernel.netlink().link("tap0") is None
    with refused(errno.EBUSY):
        kernel.add_tuntap("tap0", at=PLACE)
    kernel.netlink(PLACE).delete_link("tap0")
    assert kernel.netlink(PLACE).link("tap0") is None


def test_a_tun_may_have_several_queues(kernel: Kernel) -> None:
    with or_closed():
        kernel.add_tuntap("tun0", "tun", multi_queue=True)
    tun = kernel.netlink().link("tun0")
    assert tun is not None
    assert tun.options == {"mode": "tun", "multi_queue": 1}


def test_links_are_found_by_mac_and_by_the_device_they_are_on(
    kernel: Kernel, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wire1` is a virtio card: its device sits on the one that has the PCI address."""
    for name in ("wire0", "wire1"):
        wire(kernel, name)
    kernel.netlink().set_link("wire1", mac="02:42:00:00:00:0a")
    slot = "0000:00:03.0"
    if isinstance(kernel, FakeKernel):
        kernel.hardware = {"wire1": slot}
    else:
        monkeypatch.setattr(devices, "SYSFS", base)
        for path in (
            f"{base}/pci0/{slot}/virtio0",
            f"{base}/pci0/{slot}0",
            f"{base}/bus/pci/devices",
        ):
            os.makedirs(path)
        os.symlink(f"../../../pci0/{slot}", f"{base}/bus/pci/devices/{slot}")
        # one is on a device whose path only begins alike, one on none, one in another namespace
        found = {"wire0": f"pci0/{slot}0", "wire1": f"pci0/{slot}/virtio0", "br0": None}
        for name, device in (found | {"away": f"pci0/{slot}"}).items():
            os.makedirs(f"{base}/class/net/{name}")
            if device:
                os.symlink(f"{base}/{device}", f"{base}/class/net/{name}/device")
        assert kernel.find_links(device=f"{base}/pci0/{slot}") == ["wire1"]
    assert kernel.find_links(device=slot) == ["wire1"]
    with refused(errno.ENOENT):
        kernel.find_links(device="0000:00:04.0")
    assert kernel.find_links(mac="02:42:00:00:00:0A") == ["wire1"]
    assert kernel.find_links(mac="02:42:00:00:00:0b") == []
    assert kernel.find_links(mac=MAC) == ["br0", "wire0"]


def test_of_several_with_one_mac_the_card_is_meant(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is on a card, a VLAN or a bridge, has the same."""
    if isinstance(kernel, FakeKernel):
        kernel.space(None).new_link("card0", None, MAC, 1500)
    else:  # no test can make a card
        (bridge,) = (link for link in kernel.netlink().links() if link.name == "br0")
        found = [bridge, bridge._replace(name="card0", kind=None)]
        monkeypatch.setattr(netlink.Netlink, "links", lambda self: found)
    assert kernel.find_links(mac=MAC) == ["card0"]


def test_addresses_are_announced_out_of_a_link_that_is_up(kernel: Kernel) -> None:
    connect(kernel)
    addresses = (IPv4Address("10.88.0.2"), IPv6Address("fd00::2"))
    with refused(errno.ENODEV):
        kernel.announce(PLACE, "nope", PEER_MAC, addresses)
    with refused(errno.ENETDOWN):
        kernel.announce(PLACE, "eth0", PEER_MAC, addresses)
    kernel.netlink(PLACE).set_up("eth0")
    kernel.announce(PLACE, "eth0", PEER_MAC, addresses)
    if isinstance(kernel, FakeKernel):
        assert kernel.announced == [(PLACE, "eth0", PEER_MAC, addresses)]


# -- loopback and handles


def test_loopback_is_down_until_it_is_set_up(kernel: Kernel) -> None:
    lo = kernel.netlink(PLACE).link("lo")
    assert lo is not None
    assert not lo.up
    assert ipv4(kernel, "lo", PLACE) == []
    kernel.netlink(PLACE).set_up("lo")
    assert ipv4(kernel, "lo", PLACE) == [IPv4Interface("127.0.0.1/8")]


def test_a_handle_in_a_namespace_that_is_not_there_is_refused(kernel: Kernel) -> None:
    with refused(errno.ENOENT):
        kernel.netlink(netns.named("nope")).links()


# -- addresses and routes


def test_an_address_is_there_once_until_it_is_deleted(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    netlink.add_address("br0", ADDRESS)
    with refused(errno.EEXIST):
        netlink.add_address("br0", ADDRESS)
    assert ipv4(kernel, "br0") == [ADDRESS]
    netlink.delete_address("br0", ADDRESS)
    with refused(errno.EADDRNOTAVAIL):
        netlink.delete_address("br0", ADDRESS)
    assert ipv4(kernel, "br0") == []


def test_an_address_brings_its_network_as_soon_as_its_link_is_up(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    assert netlink.routes() == []
    netlink.set_up("eth0")
    assert [(r.dst, r.gateway) for r in netlink.routes()] == [(IPv4Network("10.88.0.0/24"), None)]


def test_a_default_route_is_there_once_until_it_is_deleted(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    netlink.set_up("eth0")
    netlink.add_route("eth0", None, "10.88.0.1")
    with refused(errno.EEXIST):
        netlink.add_route("eth0", None, "10.88.0.1")
    assert ("10.88.0.1", netlink.index("eth0")) in [
        (route.gateway, route.ifindex) for route in netlink.routes() if route.dst is None
    ]
    netlink.delete_route("eth0", None, "10.88.0.1")
    with refused(errno.ESRCH):
        netlink.delete_route("eth0", None, "10.88.0.1")
    assert [route.dst for route in netlink.routes()] == [IPv4Network("10.88.0.0/24")]


def test_a_route_through_a_link_that_is_down_is_refused(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink(PLACE).add_address("eth0", ADDRESS)
    with refused(errno.ENETDOWN):
        kernel.netlink(PLACE).add_route("eth0", IPv4Network("10.89.0.0/24"), None)
    with refused(errno.ENETUNREACH):  # what is not up reaches no gateway
        kernel.netlink(PLACE).add_route("eth0", None, "10.88.0.1")


def test_a_gateway_nobody_can_reach_is_refused(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink(PLACE).add_address("eth0", ADDRESS)
    kernel.netlink(PLACE).set_up("eth0")
    with refused(errno.ENETUNREACH):
        kernel.netlink(PLACE).add_route("eth0", None, "192.0.2.1")


@pytest.mark.parametrize("how", ["link", "down", "address"])
def test_routes_die_with_what_they_lead_through(kernel: Kernel, how: str) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    netlink.set_up("eth0")
    netlink.add_route("eth0", None, "10.88.0.1")
    match how:
        case "link":
            kernel.netlink().delete_link("veth1")
        case "down":
            netlink.set_up("eth0", False)
        case _:
            netlink.delete_address("eth0", ADDRESS)
    assert netlink.routes() == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_gateway_outside_every_subnet_is_reached_by_a_route_to_itself(
    kernel: Kernel, version: int
) -> None:
    """As the routed driver has it: an address by itself, its gateway, the way out."""
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    gateway = {4: "10.99.0.1", 6: "fd99::1"}[version]
    netlink.set_up("eth0")
    with refused({4: errno.ENETUNREACH, 6: errno.EHOSTUNREACH}[version]):
        netlink.add_route("eth0", None, gateway)
    netlink.add_route("eth0", ip_network(gateway), None)
    netlink.add_route("eth0", None, gateway)
    ways = [(route.dst, route.gateway) for route in netlink.routes(version)]
    assert {(ip_network(gateway), None), (None, gateway)} <= set(ways)


def test_a_gateway_is_on_the_link_where_that_is_said(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", IPv4Interface("10.88.0.2/32"))
    netlink.set_up("eth0")
    with refused(errno.ENETUNREACH):
        netlink.add_route("eth0", None, "10.99.0.1", source="10.88.0.2")
    netlink.add_route("eth0", None, "10.99.0.1", source="10.88.0.2", onlink=True)
    assert [(route.dst, route.gateway) for route in netlink.routes()] == [(None, "10.99.0.1")]


@pytest.mark.parametrize("version", [4, 6])
def test_a_route_has_a_metric_a_table_and_sizes_of_its_own(kernel: Kernel, version: int) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.set_up("eth0")
    network = ip_network({4: "10.99.0.0/24", 6: "fd99::/64"}[version])

    def found(table: int | None = None) -> list[tuple[int | None, int | None, int | None]]:
        ways = netlink.routes(version, table=table)
        return sorted((r.metric, r.mtu, r.advmss) for r in ways if r.dst == network)

    netlink.add_route("eth0", network, None, metric=10)
    netlink.add_route("eth0", network, None, metric=20, mtu=1300, advmss=1200, scope="link")
    netlink.add_route("eth0", network, None, metric=10, table=70000)
    with refused(errno.EEXIST):
        netlink.add_route("eth0", network, None, metric=10)
    assert found() == [(10, None, None), (20, 1300, 1200)]
    assert found(70000) == [(10, None, None)]
    netlink.delete_route("eth0", network, None, metric=10)
    with refused(errno.ESRCH):
        netlink.delete_route("eth0", network, None, metric=10)
    assert found() == [(20, 1300, 1200)]
    assert found(70000) == [(10, None, None)]
    netlink.delete_route("eth0", network, None, metric=10, table=70000)
    assert found(70000) == []


def test_a_route_may_stand_before_another_to_the_same_destination(kernel: Kernel) -> None:
    """As with two networks that both lead out: the one joined last does."""
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    netlink.set_up("eth0")
    for gateway in ("10.88.0.1", "10.88.0.9"):
        netlink.add_route("eth0", None, gateway, beside=True)
    with refused(errno.EEXIST):
        netlink.add_route("eth0", None, "10.88.0.9", beside=True)
    with refused(errno.EEXIST):
        netlink.add_route("eth0", None, "10.88.0.7")
    assert [r.gateway for r in netlink.routes() if r.dst is None] == ["10.88.0.9", "10.88.0.1"]
    netlink.delete_route("eth0", None, "10.88.0.9")
    assert [r.gateway for r in netlink.routes() if r.dst is None] == ["10.88.0.1"]


@pytest.mark.parametrize("address", [ADDRESS, IPv6Interface("fd00:88::2/64")])
def test_an_address_may_come_without_its_network(
    kernel: Kernel, address: IPv4Interface | IPv6Interface
) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.set_up("eth0")
    netlink.add_address("eth0", address, prefix_route=False)
    assert address in [each for _, each in netlink.addresses("eth0")]
    found = [route.dst for route in netlink.routes(address.version)]
    assert address.network not in found
    netlink.delete_address("eth0", address)
    assert address not in [each for _, each in netlink.addresses("eth0")]


def test_a_free_table_has_neither_route_nor_rule(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.set_up("eth0")
    assert netlink.free_table(100) == 100
    netlink.add_route("eth0", ip_network("fd99::/64"), None, table=100)
    netlink.add_rule("10.88.0.2", 101)
    assert netlink.free_table(100) == 102
    assert netlink.free_table(100, (102, 103)) == 104


def test_whether_a_kind_of_link_is_known_is_found_out_without_one(kernel: Kernel) -> None:
    before = kernel.netlink().links()
    assert kernel.netlink().has_kind("veth")
    assert kernel.netlink().has_kind("bridge")
    if isinstance(kernel, FakeKernel):
        kernel.lacks.add("no-such-kind")
    assert not kernel.netlink().has_kind("no-such-kind")
    assert kernel.netlink().links() == before


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["blackhole", "unreachable", "prohibit"])
def test_a_route_may_lead_nowhere(kernel: Kernel, kind: str, version: int) -> None:
    netlink = kernel.netlink(PLACE)
    netlink.set_up("lo")
    network = ip_network({4: "10.99.0.0/24", 6: "fd99::/64"}[version])
    everywhere = ip_network({4: "0.0.0.0/0", 6: "::/0"}[version])
    netlink.add_route(None, network, None, type=kind)
    netlink.add_route(None, everywhere, None, type=kind, metric=4000)
    with refused(errno.EEXIST):
        netlink.add_route(None, network, None, type=kind)
    assert [route.dst for route in netlink.routes(version) if route.dst in (network, None)] == []
    ways = {(route.dst, route.metric) for route in netlink.routes(version, type=kind)}
    assert ways == {(network, {4: None, 6: 1024}[version]), (None, 4000)}
    netlink.delete_route(None, network, None, type=kind)
    netlink.delete_route(None, everywhere, None, type=kind, metric=4000)
    assert netlink.routes(version, type=kind) == []


# -- sysctls


def test_a_parameter_is_read_back_as_written_and_each_namespace_has_its_own(
    kernel: Kernel,
) -> None:
    key = "net/ipv4/ip_forward"
    assert (kernel.sysctl(key), kernel.sysctl(key, PLACE)) == ("0", "0")
    kernel.set_sysctl(key, "1", PLACE)
    assert (kernel.sysctl(key), kernel.sysctl(key, PLACE)) == ("0", "1")


def test_a_links_parameters_come_and_go_with_it(kernel: Kernel) -> None:
    key = "net/ipv4/conf/br0/route_localnet"
    kernel.set_sysctl(key, "1")
    assert kernel.sysctl(key) == "1"
    kernel.netlink().delete_link("br0")
    assert kernel.sysctl(key) is None
    with refused(errno.ENOENT):
        kernel.set_sysctl(key, "1")


def test_the_host_says_which_ports_are_for_anybody(kernel: Kernel) -> None:
    ports, holes = kernel.local_ports()
    assert ports == range(32768, 61000)
    assert holes == set()


# -- namespaces


def test_a_namespace_can_be_made_once_and_deleted_twice(kernel: Kernel) -> None:
    assert kernel.exists(PLACE)
    with refused(errno.EEXIST):
        kernel.create_netns("c1")
    kernel.delete_netns("c1")
    kernel.delete_netns("c1")
    assert not kernel.exists(PLACE)


# -- ports of the host


def test_a_free_port_passes_and_an_address_of_nobody_is_told(kernel: Kernel) -> None:
    kernel.probe_port("tcp", IPv4Address("0.0.0.0"), 8080)
    kernel.probe_port("udp", IPv4Address("127.0.0.1"), 8080)
    with refused(errno.EADDRNOTAVAIL):
        kernel.probe_port("tcp", IPv4Address("192.0.2.1"), 8080)


def test_a_port_somebody_listens_on_is_told_with_its_holder(kernel: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 8080)):
        if isinstance(kernel, FakeKernel):
            kernel.listening["tcp", 8080] = "'python3' (pid 1)"
        with refused(errno.EADDRINUSE):
            kernel.probe_port("tcp", IPv4Address("0.0.0.0"), 8080)
        assert "pid" in (kernel.port_holder("tcp", 8080) or "")
    assert kernel.port_holder("tcp", 8081) is None


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_nobody_has_are_forgotten_without_a_word(kernel: Kernel, protocol: str) -> None:
    kernel.forget_flows(Publish(None, 8080, IPv4Address("10.88.0.2"), 80, protocol))


# -- files


def test_a_file_is_never_written_over_another(kernel: Kernel, base: str) -> None:
    kernel.write_file(f"{base}/hosts", "ours\n")
    with refused(errno.EEXIST):
        kernel.write_file(f"{base}/hosts", "theirs\n")
    with refused(errno.ENOENT):
        kernel.write_file(f"{base}/no/hosts", "")
    kernel.edit_file(f"{base}/hosts", lambda text: text + "more\n")
    assert content(kernel, f"{base}/hosts") == "ours\nmore\n"


def content(kernel: Kernel, path: str) -> str:
    seen: list[str] = []

    def look(text: str) -> str:
        seen.append(text)
        return text

    kernel.edit_file(path, look)
    return seen[0]


def test_a_file_that_is_gone_cannot_be_edited_but_removed(kernel: Kernel, base: str) -> None:
    kernel.write_file(f"{base}/hosts", "")
    kernel.remove_file(f"{base}/hosts")
    kernel.remove_file(f"{base}/hosts")
    assert not kernel.exists(f"{base}/hosts")
    with refused(errno.ENOENT):
        kernel.edit_file(f"{base}/hosts", str.upper)


def test_a_directory_stays_while_there_is_something_in_it(kernel: Kernel, base: str) -> None:
    kernel.make_directory(f"{base}/a/b")
    kernel.make_directory(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a")
    assert kernel.exists(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a")
    kernel.remove_directory(f"{base}/a")
    assert not kernel.exists(f"{base}/a")


# -- the twin's own


def test_the_twin_refuses_the_call_it_is_told_to_and_no_other() -> None:
    kernel = FakeKernel()
    kernel.refuse(call=1, code=errno.ENOSPC)
    kernel.create_netns("a")
    with refused(errno.ENOSPC):
        kernel.create_netns("b")
    kernel.create_netns("b")
    kernel.refuse(method="set_up", forever=True)
    before = kernel.dump()
    for _ in range(2):
        with refused(errno.EBUSY):
            kernel.netlink().set_up("lo")
    assert kernel.dump() == before
    kernel.relent()
    kernel.netlink().set_up("lo")
    assert kernel.dump() != before


# -- policy rules


@pytest.mark.parametrize(
    "rule",
    [
        PolicyRule(100, source=ip_network("10.88.0.2/32"), priority=50),
        PolicyRule(70000, to=ip_network("10.0.0.0/8"), iif="lo", oif="eth7"),
        PolicyRule(100, mark=1),
        PolicyRule(100, mark=16, mask=255, priority=7),
        PolicyRule(70000, source=ip_network("fd00::/64"), to=ip_network("fd01::1/128"), version=6),
        PolicyRule(100, iif="lo", version=6),
    ],
)
def test_a_policy_rule_is_read_as_it_was_written(kernel: Kernel, rule: PolicyRule) -> None:
    netlink = kernel.netlink(PLACE)
    before = netlink.policies(rule.version)
    netlink.add_policy(rule)
    assert [each for each in netlink.policies(rule.version) if each not in before] == [rule]
    assert rule not in netlink.policies(10 - rule.version)
    with refused(errno.EEXIST):
        netlink.add_policy(rule)
    netlink.delete_policy(rule)
    assert netlink.policies(rule.version) == before
    with refused(errno.ENOENT):
        netlink.delete_policy(rule)
