"""A bridge of somebody else's, used and left as it was: rows B3, B4 and fault F10."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from typing import Any

import pytest
from msgspec.structs import replace

from netkit import config
from netkit.engine import Engine
from netkit.errors import NetkitError
from netkit.specs import NetworkSpec, Request
from scenarios.lab import BRIEF_S, Host, join, netkit, run, snapshot, until

FOUR, SIX = "10.7.0.1/24", "fd00:7::1/64"


@pytest.fixture
def machine(host: Host) -> str:
    """Somebody's machine on the bridge br7, which the host has no address on yet; its place."""
    run(
        "ip netns add machine",
        "ip link add br7 type bridge group_fwd_mask 8",
        "ip link add m0 type veth peer name eth0 netns machine",
        "ip link set m0 master br7 up",
        "ip link set m0 type bridge_slave hairpin on cost 7",
        "ip -n machine link set eth0 up addrgenmode none",
        "ip -n machine addr add 10.7.0.9/24 dev eth0",
        "ip -n machine addr add fd00:7::9/64 dev eth0 nodad",
    )
    return "/run/netns/machine"


def addressed(*addresses: str) -> None:
    for address in addresses:
        run(f"ip addr add {address} dev br7" + (" nodad" if ":" in address else ""))
    run("ip link set br7 up")


def foreign(**given: Any) -> NetworkSpec:
    return NetworkSpec("net", bridge="br7", existing=True, **given)


def inspected(name: str = "net") -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(netkit(f"network inspect {name}"))[0]["IPAM"]["Config"]
    return found


def test_b3_its_addresses_are_the_gateways_and_its_machines_are_neighbours(
    host: Host, machine: str
) -> None:
    addressed(FOUR, SIX)
    before = snapshot()
    engine = host.engine()
    netkit("network create -b br7 --ipv6 net")
    assert [(each["Subnet"], each["Gateway"]) for each in inspected()] == [
        ("10.7.0.0/24", "10.7.0.1"),
        ("fd00:7::/64", "fd00:7::1"),
    ]
    web = join(engine, "net", "web", "8080:80")
    for address in ("10.7.0.9", "fd00:7::9", "10.7.0.1", "fd00:7::1"):
        assert host.ping(web, address), address
    for family in ("", "::"):
        with host.serve(web, "tcp", 80, family):
            there = "10.7.0.2" if not family else "fd00:7::2"
            assert host.ask(machine, there, 80) in ("10.7.0.9", "fd00:7::9")
    with host.serve(web, "tcp", 80):
        assert host.ask(None, "127.0.0.1", 8080) == "10.7.0.1"
    netkit("network rm -f net")
    assert snapshot() == before
    assert host.ping(None, "10.7.0.9")
    assert host.ping(None, "fd00:7::9")


@pytest.mark.parametrize("up", [True, False])
def test_b3_one_without_an_address_gets_one_for_as_long_as_it_is_used(
    host: Host, machine: str, up: bool
) -> None:
    run("ip link set br7 up", "true" if up else "ip link set br7 down")
    before = snapshot()
    engine = host.engine()
    engine.create_network(
        foreign(subnets=(IPv4Network("10.7.0.0/24"), IPv6Network("fd00:7::/64")), ipv6=True)
    )
    web = join(engine, "net", "web")
    assert until(lambda: host.ping(web, "10.7.0.9", patience_s=BRIEF_S))
    assert host.ping(web, "fd00:7::9")
    assert host.ping(None, "10.7.0.9")
    engine.disconnect("net", "web")
    engine.delete_network("net")
    assert snapshot() == before


def test_b3_ipv6_that_is_off_on_it_is_on_while_it_is_needed_and_off_again(
    host: Host, machine: str
) -> None:
    run("sysctl -qw net.ipv6.conf.br7.disable_ipv6=1")
    addressed(FOUR)
    before = snapshot()
    engine = host.engine()
    engine.create_network(foreign(subnets=(IPv6Network("fd00:7::/64"),), ipv6=True, ipv4=False))
    web = join(engine, "net", "web")
    assert host.ping(web, "fd00:7::1")
    engine.delete_network("net", force=True)
    assert snapshot() == before


def test_b3_an_ipv4_network_leaves_its_ipv6_alone(host: Host, machine: str) -> None:
    addressed(FOUR, SIX)
    engine = host.engine()
    engine.create_network(foreign())
    web = join(engine, "net", "web")
    assert [each["Subnet"] for each in inspected()] == ["10.7.0.0/24"]
    assert host.ping(None, "fd00:7::9")
    assert host.ping(machine, "fd00:7::1")
    assert run("ip -6 addr show eth0", place=web) == ""


def test_b3_what_others_do_on_it_is_theirs(host: Host, machine: str) -> None:
    """What somebody changes while it is used stays when it is not used any more."""
    addressed(FOUR)
    engine = host.engine()
    engine.create_network(foreign())
    join(engine, "net", "web")
    run("ip addr add 10.7.1.1/24 dev br7", "ip link add dev later type veth")
    run("ip link set later master br7", "sysctl -qw net.ipv4.conf.br7.rp_filter=2")
    engine.delete_network("net", force=True)
    shown = run("ip -o -4 addr show br7")
    assert "10.7.0.1/24" in shown
    assert "10.7.1.1/24" in shown
    assert "master br7" in run("ip -o link show later")
    assert run("sysctl -n net.ipv4.conf.br7.rp_filter route_localnet 2>/dev/null || true") == "2\n"
    assert "hairpin on" in run("bridge -d link show dev m0")


def test_b3_its_other_ports_are_not_guarded_and_ours_are(host: Host, machine: str) -> None:
    addressed(FOUR)
    engine = host.engine()
    engine.create_network(foreign())
    web = join(engine, "net", "web")
    run("ip addr add 10.7.0.77/24 dev eth0", place=machine)
    run("ip addr add 10.7.0.78/24 dev eth0", place=web)
    with host.serve(None, "udp", 53) as seen:
        assert host.ask(machine, "10.7.0.1", 53, "udp", source="10.7.0.77") == "10.7.0.77"
        assert host.ask(web, "10.7.0.1", 53, "udp", source="10.7.0.78", patience_s=BRIEF_S) is None
    assert seen == ["10.7.0.77"]


def test_b3_an_empty_one_keeps_its_mac_and_one_with_ports_never_has_ours(
    host: Host, machine: str
) -> None:
    """The kernel would give it that of its lowest port; and none, once that is gone."""
    run("ip link add br8 type bridge", "ip link set br8 up", "ip link set br7 up")

    def macs() -> list[str]:
        return [line.split()[2] for line in run("ip -br link show type bridge").splitlines()]

    before = macs()
    engine = host.engine()
    subnets = {"br7": "10.7.0.0/24", "br8": "10.8.0.0/24"}
    for bridge, subnet in subnets.items():
        given = NetworkSpec(bridge, bridge=bridge, existing=True, subnets=(IPv4Network(subnet),))
        engine.create_network(given)
    for bridge in subnets:
        for _ in range(4):
            engine.connect(bridge)
    assert macs() == before
    for bridge in subnets:
        engine.delete_network(bridge, force=True)
    assert macs() == before


@pytest.mark.parametrize(
    ("first", "given", "why"),
    [
        ("ip link add br8 type veth", "-b br8", "br8 is a veth interface"),
        ("true", "-b br8", "there is none"),
        ("netkit network create -o name=br8 first", "-b br8", "network first has it"),
        ("netkit network create -b br7 first", "-b br7", "network first has it"),
        ("true", "-b br7 --bip 10.7.0.1/24", "bip"),
        ("true", "-b br7 --subnet 10.7.0.0/24 --gateway 10.8.0.1", "is not in 10.7.0.0/24"),
        ("ip link add br8 type veth", "-o name=br8", "br8"),
        ("ip link add br8 type bridge", "-o name=br8", "br8"),
    ],
)
def test_f10_a_bridge_that_is_not_what_it_should_be_is_refused_and_kept(
    host: Host, machine: str, first: str, given: str, why: str
) -> None:
    addressed(FOUR)
    if first.startswith("netkit "):
        netkit(first.removeprefix("netkit "))
    else:
        run(first)
    before = snapshot()
    assert why in netkit(f"network create {given} net", code=1)
    assert snapshot() == before


def test_f10_a_bridge_with_another_subnet_is_not_readdressed(host: Host, machine: str) -> None:
    """Asked for a subnet, netkit adds its gateway beside what there is, and takes only that."""
    addressed(FOUR)
    before = snapshot()
    engine = host.engine()
    engine.create_network(foreign(subnets=(IPv4Network("10.8.0.0/24"),)))
    web = join(engine, "net", "web")
    assert host.ping(web, "10.8.0.1")
    shown = run("ip -o -4 addr show br7")
    assert "10.7.0.1/24" in shown
    assert "10.8.0.1/24" in shown
    engine.delete_network("net", force=True)
    assert snapshot() == before


# -- B4: a bridge of our own, whose address is given


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("--bip 10.88.0.5/24", [("10.88.0.0/24", "10.88.0.5")]),
        ("--bip 10.88.0.5/24 --ip-range 10.88.0.64/26", [("10.88.0.0/24", "10.88.0.5")]),
        ("--bip fd00:88::5/64", [("172.17.0.0/16", "172.17.0.1"), ("fd00:88::/64", "fd00:88::5")]),
    ],
)
def test_b4_the_bridge_has_the_address_it_is_given(
    host: Host, given: str, found: list[tuple[str, str]]
) -> None:
    netkit(f"network create {given} -o name=br9 net")
    assert [(each["Subnet"], each["Gateway"]) for each in inspected()] == found
    shown = run("ip -o addr show br9")
    web = join(host.engine(), "net", "web")
    for subnet, gateway in found:
        assert f"{gateway}/{subnet.partition('/')[2]}" in shown
        assert host.ping(web, gateway)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("10.88.0.0/24", "10.88.0.0"),
        ("10.88.0.255/24", "10.88.0.255"),
        ("10.88.0.1", "10.88.0.1"),
        ("10.88.0.1/33", "10.88.0.1/33"),
        ("127.0.0.1/8", "127.0.0.0/8 is for loopback"),
        ("10.88.0.1/24 --gateway 10.88.0.2", "gateway"),
        ("10.88.0.1/24 --ip-range 10.89.0.0/24", "10.89.0.0/24 is not in 10.88.0.0/24"),
    ],
)
def test_b4_an_address_no_bridge_can_have_is_refused(host: Host, given: str, why: str) -> None:
    before = snapshot()
    assert why in netkit(f"network create --bip {given} net", code=1)
    assert snapshot() == before


def test_b4_the_default_networks_bridge_has_both_as_configured(host: Host) -> None:
    wanted = replace(
        config.load().config,
        bip=IPv4Interface("10.88.0.5/24"),
        bip6=IPv6Interface("fd00:88::5/64"),
        ipv6=True,
    )
    engine = Engine(config=wanted)
    try:
        web = join(engine, "bridge", "web")
        assert host.ping(web, "10.88.0.5")
        assert host.ping(web, "fd00:88::5")
        assert run("ip -6 route show default", place=web).split()[2] == "fd00:88::5"
        with pytest.raises(NetkitError, match="is the gateway"):
            engine.connect("bridge", request=Request(addresses=(IPv4Address("10.88.0.5"),)))
    finally:
        engine.close()
