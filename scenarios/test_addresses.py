"""Addresses and subnets as a user meets them: the IPAM rows, through the command line.

Each test bears the row of the feature table it shows.
"""

from __future__ import annotations

import os
import subprocess
from functools import partial

import pytest

from scenarios.lab import Host, run, until
from tests.faces import netkit, ok, refused

pytestmark = pytest.mark.usefixtures("host")


def subnet(name: str) -> str:
    template = "{{range .IPAM.Config}}{{.Subnet}}{{end}}"
    return ok("network", "inspect", "--format", template, name).strip()


def address(name: str) -> str:
    return ok("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).strip()


def test_a1_the_first_container_on_a_16_gets_0_2_and_the_lowest_free_comes_next() -> None:
    ok("network", "create", "--subnet=172.25.0.0/16", "web")
    for name in ("a", "b", "c"):
        ok("connect", "--net=web", "--name", name)
    assert [address(name) for name in ("a", "b", "c")] == [f"172.25.0.{n}" for n in (2, 3, 4)]
    ok("disconnect", "--net=web", "b")  # A10
    ok("connect", "--net=web", "--name=d")
    assert address("d") == "172.25.0.3"


def test_a2_an_automatic_subnet_hides_nothing_the_host_can_reach(host: Host) -> None:
    """Routes, nameservers and networks of netkit's own are all gone round."""
    host.neighbour("lan", "172.17.0.9/30", "172.17.0.10/30")
    run("ip route add 172.19.5.0/24 via 172.17.0.10")
    with open(f"{host.base}/resolv.conf", "w") as file:
        file.write("nameserver 172.20.0.53\n")
    run(f"mount --bind {host.base}/resolv.conf /etc/resolv.conf")
    try:
        ok("network", "create", "first")
        ok("network", "create", "second")
    finally:
        run("umount /etc/resolv.conf")
    assert [subnet("first"), subnet("second")] == ["172.18.0.0/16", "172.21.0.0/16"]


def test_a3_an_overlap_is_refused_by_name() -> None:
    ok("network", "create", "--subnet=10.1.0.0/16", "web")
    said = refused("network", "create", "--subnet=10.1.2.0/24", "db")
    assert "10.1.2.0/24 overlaps network 'web' (10.1.0.0/16)" in said


def test_a5_dynamic_addresses_keep_to_the_range_and_static_ones_need_not() -> None:
    ok("network", "create", "--subnet=10.1.0.0/24", "--ip-range=10.1.0.128/30", "web")
    for name in ("a", "b", "c", "d"):
        ok("connect", "--net=web", "--name", name)
    assert [address(name)[-3:] for name in ("a", "b", "c", "d")] == ["128", "129", "130", "131"]
    assert "no free address in 10.1.0.128-10.1.0.131" in refused("connect", "--net=web")
    ok("connect", "--net=web", "--name=e", "--ip=10.1.0.7")


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("10.1.0.2", "10.1.0.2 is leased to a/eth0"),
        ("10.1.0.1", "10.1.0.1 is the gateway of 10.1.0.0/24"),
        ("10.1.0.9", "10.1.0.9 is reserved for 'router' in 10.1.0.0/24"),
        ("10.1.0.0", "10.1.0.0 is the network address of 10.1.0.0/24"),
        ("10.1.0.255", "10.1.0.255 is the broadcast address of 10.1.0.0/24"),
        ("10.2.0.1", "10.2.0.1 is not in 10.1.0.0/24"),
    ],
)
def test_a6_a_static_address_that_cannot_be_had_says_why(ip: str, why: str) -> None:
    ok("network", "create", "--subnet=10.1.0.0/24", "--aux-address=router=10.1.0.9", "web")
    ok("connect", "--net=web", "--name=a")
    assert why in refused("connect", "--net=web", "--ip", ip)


def test_a12_auxiliary_addresses_are_never_given_out() -> None:
    reserved = [f"--aux-address=r{n}=10.1.0.{n}" for n in (2, 3)]
    ok("network", "create", "--subnet=10.1.0.0/29", *reserved, "web")
    ok("connect", "--net=web", "--name=a")
    assert address("a") == "10.1.0.4"


def test_a13_subnets_are_cut_from_the_pools_one_names() -> None:
    pools = ["--default-address-pool=base=10.64.0.0/23,size=24"]
    for name in ("a", "b"):
        ok(*pools, "network", "create", name)
    assert [subnet("a"), subnet("b")] == ["10.64.0.0/24", "10.64.1.0/24"]
    said = refused(*pools, "network", "create", "c")
    assert "all predefined address pools have been fully subnetted" in said


@pytest.mark.parametrize("text", ["/26", "0.0.0.0/26"])
def test_a13_any_subnet_of_a_length_can_be_asked_for(text: str) -> None:
    ok("network", "create", "--subnet", text, "a")
    assert subnet("a") == "172.17.0.0/26"


@pytest.mark.parametrize("text", ["/31", "/7", "/x", "0.0.0.0/33"])
def test_a13_a_length_no_bridge_can_have_is_refused(text: str) -> None:
    refused("network", "create", "--subnet", text, "a")


@pytest.mark.parametrize("text", ["10.0.0.0/8", "base=10.0.0.0/8,size=31", "base=x,size=9", "a=b"])
def test_a13_a_pool_that_makes_no_sense_is_refused(text: str) -> None:
    refused("--default-address-pool", text, "network", "create", "a")


def test_a15_inspect_counts_what_is_in_use_and_what_is_left() -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", "web")
    ok("connect", "--net=web")
    counts = ok("network", "inspect", "-f", "{{json .Status.IPAM.Subnets}}", "web")
    # network, broadcast, gateway and one container of eight
    assert counts.strip() == '{"10.1.0.0/29":{"IPsInUse":4,"DynamicIPsAvailable":4}}'


def test_a17_a_31_has_room_for_a_gateway_and_one_container() -> None:
    ok("network", "create", "--subnet=10.1.0.0/31", "--gateway=10.1.0.0", "link")
    ok("connect", "--net=link", "--name=a")
    assert address("a") == "10.1.0.1"
    assert "no free address" in refused("connect", "--net=link")


def test_a21_a_full_pool_of_the_dead_has_room_for_the_living() -> None:
    """Nobody told netkit that these processes ended, and nobody runs gc."""
    ok("network", "create", "--subnet=10.1.0.0/30", "web")
    own = os.stat("/proc/self/ns/net").st_ino

    def moved(pid: int) -> bool:
        return os.stat(f"/proc/{pid}/ns/net").st_ino != own

    for _ in range(3):
        sleeper = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        assert until(partial(moved, sleeper.pid))
        ok("connect", "--net=web", f"pid:{sleeper.pid}")
        sleeper.kill()
        sleeper.wait()
        # its namespace, and with it the link, goes a moment after it
        assert until(lambda: not run("ip -o link show type veth"))


def test_a22_an_ended_containers_static_address_is_not_given_to_another() -> None:
    ok("network", "create", "--subnet=10.1.0.0/30", "web")
    ok("run", "--name=a", "--net=web", "--ip=10.1.0.2", "--", "true")
    assert "no free address" in refused("connect", "--net=web")
    assert "10.1.0.2 is leased to a" in refused("connect", "--net=web", "--ip=10.1.0.2")
    ok("rm", "a")
    ok("connect", "--net=web", "--name=b")
    assert address("b") == "10.1.0.2"


def test_a_dynamic_address_of_an_ended_container_is_free_again() -> None:
    ok("network", "create", "--subnet=10.1.0.0/30", "web")
    ok("run", "--name=a", "--net=web", "--", "true")
    ok("run", "--name=b", "--net=web", "--", "true")


# -- what networks have in common


def test_the_firewall_is_that_of_the_networks_there_are() -> None:
    ok("network", "create", "web")
    said = refused("--firewall=none", "connect", "--net=web", "-p", "8080:80")
    assert "the networks here use firewall 'nftables', not 'none'" in said
    ok("network", "rm", "web")
    ok("--firewall=none", "network", "create", "web")
    ok("connect", "--net=web", "--name=a")  # by what is on record
    assert run("nft list ruleset") == ""
    ok("rm", "a")
    ok("network", "rm", "web")


def test_a_default_network_made_for_what_is_refused_goes_again(host: Host) -> None:
    with host.serve(None, "tcp", 8080):
        assert "in use" in refused("connect", "-p", "8080:80")
        assert "in use" in refused("run", "-p", "8080:80", "--", "true", code=125)
    assert ok("network", "ls", "--format", "{{.Name}}").split() == ["host", "none"]
    assert netkit("check").code == 0
    ok("connect", "--name=a")
    refused("connect", "--ip=10.9.9.9")
    assert "bridge" in ok("network", "ls")  # it was there before
