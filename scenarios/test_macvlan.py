"""macvlan, with real packets: containers as stations of a LAN the host is on.

The parent is a wire to a switch (a bridge in a namespace), on which there is a neighbour.
"""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest

from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, KernelRefused, NotFound
from netkit.kernel import netns
from netkit.model import EndpointRecord, NetworkRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, inside, run, snapshot, until

OURS, THEIRS, ROUTER = "10.9.0.1", "10.9.0.253", "10.9.0.254"
OURS6, THEIRS6, ROUTER6 = "fd09::1", "fd09::fd", "fd09::fe"
BEYOND, BEYOND6 = "10.99.0.1", "fd99::1"
LAN = (ip_network("10.9.0.0/24"), ip_network("fd09::/64"))
FAR, SWITCH = "lan", "switch"


class Town(NamedTuple):
    """A host on a LAN: its interface `wire0` leads to a switch, as does the neighbour's."""

    host: Host
    engine: Engine
    lan: str
    switch: str

    def create(self, name: str = "town", driver: str = "macvlan", **options: str) -> NetworkRecord:
        return self.engine.create_network(_spec(name, driver, **options))

    def join(self, name: str, network: str = "town", **wanted: object) -> EndpointRecord:
        return self.engine.connect(network, request=Request(**wanted), name=name)  # type: ignore[arg-type]

    def hairpin(self, on: bool) -> None:
        word = "on" if on else "off"
        run(f"ip link set port0 type bridge_slave hairpin {word}", place=self.switch)

    def reach(
        self, ep: EndpointRecord, *addresses: object, patience_s: float = PATIENCE_S
    ) -> list[bool]:
        """Which of these answer."""
        ping = partial(self.host.ping, ep.netns, patience_s=patience_s)
        return [ping(str(address)) for address in addresses]


def _spec(name: str = "town", driver: str = "macvlan", **options: str) -> NetworkSpec:
    wanted = {"parent": "wire0", **options}
    return NetworkSpec(
        name,
        driver,
        subnets=LAN,
        gateways=(ip_address(ROUTER), ip_address(ROUTER6)),
        ipv6=True,
        options={key: value for key, value in wanted.items() if value},
    )


@pytest.fixture
def town(host: Host) -> Town:
    for name in (FAR, SWITCH):
        netns.create(name)
        run(f"ip -n {name} link set lo up")
    far = f"ip -n {FAR}"
    run(
        f"ip -n {SWITCH} link add sw0 type bridge mcast_snooping 0",
        f"ip -n {SWITCH} link set sw0 up",
        f"ip link add wire0 type veth peer name port0 netns {SWITCH}",
        f"{far} link add eth0 type veth peer name port1 netns {SWITCH}",
        *(f"ip -n {SWITCH} link set port{n} master sw0 up" for n in (0, 1)),
        f"ip addr add {OURS}/24 dev wire0",
        f"ip addr add {OURS6}/64 dev wire0 nodad",
        "ip link set wire0 up",
        # the neighbour is the LAN's router as well; what is beyond is on its loopback
        *(f"{far} addr add {ip}/24 dev eth0" for ip in (THEIRS, ROUTER)),
        *(f"{far} addr add {ip}/64 dev eth0 nodad" for ip in (THEIRS6, ROUTER6)),
        f"{far} addr add {BEYOND}/32 dev lo",
        f"{far} addr add {BEYOND6}/128 dev lo",
        f"{far} link set eth0 up",
    )
    lan = netns.named(FAR)
    assert until(lambda: host.ping(None, THEIRS, patience_s=0.2))
    assert until(lambda: host.ping(None, THEIRS6, patience_s=0.2))
    return Town(host, host.engine(), lan, netns.named(SWITCH))


def sides(ep: EndpointRecord) -> tuple[object, object]:
    return tuple(address.ip for address in ep.addresses)  # type: ignore[return-value]


def or_skipped(town: Town, spec: NetworkSpec) -> NetworkRecord:
    """The network; where this kernel lacks what it needs, it is refused whole, and by name."""
    before = snapshot()
    try:
        return town.engine.create_network(spec)
    except KernelRefused as refused:
        why = str(refused)
    assert snapshot() == before
    assert "CONFIG_" in why
    pytest.skip(why.rpartition(": ")[2])


# -- the modes


@pytest.mark.parametrize(
    ("mode", "siblings", "by_a_switch"),
    [("bridge", True, True), ("private", False, False), ("vepa", False, True)],
)
def test_containers_are_on_the_lan_and_meet_each_other_as_the_mode_says(
    town: Town, mode: str, siblings: bool, by_a_switch: bool
) -> None:
    town.create(macvlan_mode=mode)
    one, two = town.join("one"), town.join("two")
    assert town.reach(one, THEIRS, THEIRS6, BEYOND, BEYOND6) == [True] * 4
    assert town.reach(two, THEIRS, THEIRS6) == [True] * 2
    assert sides(one) == (ip_address("10.9.0.2"), ip_address("fd09::2"))  # .1 is the host's own
    patience_s = PATIENCE_S if siblings else BRIEF_S
    assert town.reach(one, *sides(two), patience_s=patience_s) == [siblings] * 2
    town.hairpin(on=True)  # the switch sends frames back where they came from
    patience_s = PATIENCE_S if by_a_switch else BRIEF_S
    assert town.reach(one, *sides(two), patience_s=patience_s) == [by_a_switch] * 2


def test_what_comes_from_the_lan_is_answered_by_the_container_itself(town: Town) -> None:
    town.create()
    one = town.join("one")
    for address, place in zip(sides(one), ("", "::"), strict=True):
        with town.host.serve(one.netns, "tcp", 80, place):
            seen = town.host.ask(town.lan, str(address), 80)
        assert seen in ((THEIRS6, ROUTER6) if place else (THEIRS,))
    neighbours = run("ip neigh show dev eth0", place=town.lan)
    assert f"{sides(one)[0]} lladdr {one.mac}" in neighbours


def test_passthru_has_the_parents_mac_and_nobody_beside_it(town: Town) -> None:
    town.create(macvlan_mode="passthru")
    with pytest.raises(InvalidSpec, match="cannot have the MAC 02:00:00:00:00:07"):
        town.join("one", mac="02:00:00:00:00:07")
    one = town.join("one")
    wire = run("ip -o link show wire0").split("link/ether ")[1].split()[0]
    assert wire in run("ip -o link show eth0", place=one.netns)
    assert town.reach(one, THEIRS, THEIRS6) == [True, True]
    with pytest.raises(Conflict, match="has its endpoint already: macvlan_mode is passthru"):
        town.join("two")
    with pytest.raises(Conflict, match=r"on 'wire0': network town has it \(macvlan passthru\)"):
        town.engine.create_network(NetworkSpec("other", "macvlan", options={"parent": "wire0"}))
    town.engine.disconnect("town", "one")
    two = town.join("two")
    assert until(lambda: town.reach(two, THEIRS, THEIRS6, patience_s=1) == [True, True])


def test_several_networks_share_a_parent_but_not_with_what_cannot(town: Town) -> None:
    town.create()
    other = _spec("other")
    with pytest.raises(Conflict, match="overlaps network"):
        town.engine.create_network(other)
    subnet = ip_network("10.10.0.0/24")
    make = town.engine.create_network
    make(NetworkSpec("other", "macvlan", subnets=(subnet,), options={"parent": "wire0"}))
    for driver, options in (
        ("macvlan", {"macvlan_mode": "passthru"}),
        ("ipvlan", {}),
        ("physical", {}),
    ):
        named = {"device" if driver == "physical" else "parent": "wire0"}
        with pytest.raises(Conflict, match=r"'wire0': network (town|other) has it"):
            make(NetworkSpec("third", driver, options={**named, **options}))


def test_the_host_does_not_reach_its_own_but_by_a_shim(town: Town) -> None:
    town.create()
    one = town.join("one")
    assert not town.host.ping(None, str(sides(one)[0]), patience_s=BRIEF_S)
    town.engine.delete_network("town", force=True)
    town.create(host_shim="10.9.0.200,fd09::200")
    one = town.join("one")
    for address in sides(one):
        assert town.host.ping(None, str(address)), address
    assert town.reach(one, "10.9.0.200", "fd09::200") == [True, True]
    with pytest.raises(Conflict, match=r"10\.9\.0\.200"):
        town.join("two", addresses=(ip_address("10.9.0.200"),))
    assert town.engine.check() == []


# -- what is promised beyond


def test_a_network_of_ipv4_only_has_no_ipv6_inside_and_no_router_is_believed(town: Town) -> None:
    spec = NetworkSpec("four", "macvlan", subnets=LAN[:1], options={"parent": "wire0"})
    town.engine.create_network(spec)
    four = town.engine.connect("four", name="four")
    assert "inet6" not in run("ip addr show eth0", place=four.netns)
    town.engine.delete_network("four", force=True)
    town.create()
    one = town.join("one")
    with frames.hear(one.netns, "eth0", frames.of("02:66:66:66:66:66"), 1) as heard:
        advertisement = frames.router_advertisement("02:66:66:66:66:66", "2001:db8:bad::")
        frames.send(town.lan, "eth0", advertisement)
    assert heard
    assert "proto ra" not in run("ip -6 route", place=one.netns)


def test_an_internal_network_needs_no_parent_but_a_dummy(town: Town) -> None:
    before = snapshot()
    with pytest.raises(InvalidSpec, match="cannot be internal and have the parent 'wire0'"):
        town.engine.create_network(
            NetworkSpec("in", "macvlan", internal=True, options={"parent": "wire0"})
        )
    net = or_skipped(town, NetworkSpec("in", "macvlan", internal=True))
    assert net.driver_options["parent"] == f"dm-{net.short_id}"
    one, two = town.join("one", "in"), town.join("two", "in")
    assert town.reach(one, two.addresses[0].ip, THEIRS) == [True, False]
    town.engine.delete_network("in", force=True)
    assert snapshot() == before


def test_a_sub_interface_is_made_for_networks_and_goes_with_the_last(town: Town) -> None:
    before = snapshot()
    first = NetworkSpec("first", "macvlan", subnets=LAN[:1], options={"parent": "wire0.10"})
    or_skipped(town, first)
    other = (ip_network("10.10.0.0/24"),)
    second = NetworkSpec("second", "macvlan", subnets=other, options={"parent": "wire0.10"})
    town.engine.create_network(second)
    town.engine.delete_network("first")
    assert "wire0.10" in run("ip link")
    town.engine.delete_network("second")
    assert snapshot() == before


@pytest.mark.parametrize("parent", ["nope", "nope.10", "wire0.0", "wire0.4095", "wire0.010"])
def test_a_parent_that_is_not_there_is_refused_by_name(town: Town, parent: str) -> None:
    before = snapshot()
    with pytest.raises(NotFound, match=f"no interface '(nope|{parent})'"):
        town.create(parent=parent)
    assert snapshot() == before


def test_a_parent_that_was_down_is_set_up_and_down_again(town: Town) -> None:
    run("ip link add spare0 type veth peer name spare1", "ip link set spare1 up")
    run("ip link set spare0 up", "ip link set spare0 down")
    before = snapshot()
    town.create(parent="spare0")
    assert ",UP" in run("ip -o link show spare0")
    town.engine.delete_network("town")
    assert snapshot() == before


def test_ports_are_refused_by_name(town: Town) -> None:
    town.create()
    with pytest.raises(InvalidSpec, match="driver macvlan does not publish"):
        town.join("one", ports=PortSpec.parse("8080:80"))
    with pytest.raises(InvalidSpec, match="driver macvlan makes none"):
        town.join("one", host_ifname="veth9")


def test_everything_is_undone_and_a_second_network_keeps_its_default_route(town: Town) -> None:
    bridge = NetworkSpec("bridged", subnets=(ip_network("172.25.0.0/24"),))
    town.engine.create_network(bridge)
    town.engine.connect("bridged", name="one")
    before, within = snapshot(), inside(netns.named("one"))
    town.create()
    town.engine.connect("town", "one", Request(gateway_priority=1))
    assert town.engine.check() == []
    default = run("ip route show default", place=netns.named("one"))
    assert f"via {ROUTER} dev eth1" in default
    town.engine.disconnect("town", "one")
    town.engine.delete_network("town")
    assert (snapshot(), inside(netns.named("one"))) == (before, within)


def test_what_is_gone_is_told_by_check(town: Town) -> None:
    town.create()
    one = town.join("one")
    run("ip link del eth0", place=one.netns)
    assert any(str(drift).startswith("macvlan eth0 in ") for drift in town.engine.check("one"))


def test_a_container_that_died_gives_its_address_back(town: Town) -> None:
    """Nothing on the host shows that a macvlan is gone, so it is asked who lives there."""
    town.create()
    one = town.join("one")
    netns.delete("one")
    assert town.engine.gc() == ["one"]
    assert town.join("two").addresses == one.addresses


def test_a_parent_that_was_down_stays_up_for_a_network_of_another_driver(town: Town) -> None:
    run("ip link add spare0 type veth peer name spare1", "ip link set spare1 up")
    town.create(parent="spare0")
    options = {"parent": "spare0", "vlan_id": "10"}
    subnet = (ip_network("10.10.0.0/24"),)
    town.engine.create_network(NetworkSpec("tagged", "vlan", subnets=subnet, options=options))
    town.engine.delete_network("town")
    assert ",UP" in run("ip -o link show spare0")
    town.engine.delete_network("tagged")
    assert ",UP" not in run("ip -o link show spare0")
