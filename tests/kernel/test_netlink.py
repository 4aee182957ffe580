"""What the contract does not show: the kernel's own words, and other programs' view of ours."""

from __future__ import annotations

import errno
from ipaddress import IPv4Interface

import pytest

from netkit.kernel.netlink import Netlink
from scenarios.lab import Host, run

MAC = "02:42:00:00:00:01"


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
