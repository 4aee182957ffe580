"""What an endpoint may have beside an address: routes, rules, sysctls, settings; at once and later.

Rows C6, C10, C14-C16, C19, C21, C22, D23 and A14 (several addresses of a subnet) of the feature
table, F24 of the faults: with real packets, in both IP versions.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from hashlib import md5
from ipaddress import ip_network
from typing import Any, NamedTuple

import pytest

from netkit import Conflict, InvalidSpec, Netkit, NetkitError, NotFound
from netkit.kernel import netns
from scenarios.lab import (
    BRIEF_S,
    PATIENCE_S,
    Host,
    inside,
    ready,
    run,
    snapshot,
    until,
    without_iptables,
)
from tests.faces import ok, refused


class V(NamedTuple):
    """The addresses of a town in one IP version."""

    number: int
    ours: str  # the host's on the LAN, and another
    second: str
    lan: str
    subnet: str
    other_subnet: str
    net: str  # what the addresses of the subnet begin with
    far: str  # a network behind a container, and an address in it
    behind: str
    local: tuple[str, str]  # link-local ones
    foreign: tuple[str, str]  # of no subnet
    any: str

    @property
    def ip(self) -> str:
        return "ip -6" if self.number == 6 else "ip"

    @property
    def bits(self) -> str:
        return "/64" if self.number == 6 else "/24"

    def at(self, number: int) -> str:
        return f"{self.net}{number}"


FOUR = V(4, "10.9.0.1", "10.9.0.11", "10.9.0.2", "172.25.0.0/24", "172.26.0.0/24", "172.25.0.",
         "10.77.0.0/16", "10.77.0.1", ("169.254.7.1", "169.254.7.2"),
         ("10.55.0.1/24", "10.55.0.2/24"), "")  # fmt: skip
SIX = V(6, "2001:db8:9::1", "2001:db8:9::11", "2001:db8:9::2", "fd00:25::/64", "fd00:26::/64",
        "fd00:25::", "fd00:77::/64", "fd00:77::1", ("fe80::7:1", "fe80::7:2"),
        ("fd00:55::1/64", "fd00:55::2/64"), "::")  # fmt: skip


class Town(NamedTuple):
    host: Host
    nk: Netkit
    lan: str
    v: V

    def connect(self, name: str, net: str = "town", **wanted: Any) -> str:
        ep = self.nk.networks.get(net).connect(name=name, **wanted)
        return ready(ep.record) if ep.host_ifname else ep.netns

    def place(self, name: str) -> str:
        return netns.named(name)

    def ask(self, name: str, address: str, **how: Any) -> str | None:
        return self.host.ask(self.place(name), address, 80, **how)

    def silent(self, name: str, address: str, source: str | None = None) -> bool:
        """That a ping is not answered, where a control shows that one could be."""
        return not self.ping(name, address, source, BRIEF_S)

    def ping(
        self, name: str, address: str, source: str | None = None, patience_s: float = PATIENCE_S
    ) -> bool:
        by = f"-I {source} " if source else ""
        line = f"ping -c1 -W{patience_s} -n -q {by}{address}"
        enter = ["nsenter", f"--net={self.place(name)}"]
        done = subprocess.run([*enter, *line.split()], capture_output=True, text=True)
        return done.returncode == 0

    def shows(self, name: str, line: str) -> str:
        return run(line.replace("ip ", f"{self.v.ip} ", 1), place=self.place(name))


@pytest.fixture(params=[FOUR, SIX], ids=["IPv4", "IPv6"])
def v(request: pytest.FixtureRequest) -> V:
    found: V = request.param
    return found


def build(host: Host, v: V, **options: Any) -> Town:
    lan = host.neighbour("lan", f"{v.ours}{v.bits}", f"{v.lan}{v.bits}")
    # what the host sends by itself bears the first
    later = " nodad preferred_lft 0" if v.number == 6 else ""
    run(f"ip addr add {v.second}{v.bits} dev lan0{later}")
    nk = Netkit(**options)
    nk.networks.create("town", subnet=v.subnet, ipv4=v.number == 4)
    return Town(host, nk, lan, v)


@pytest.fixture
def town(host: Host, v: V) -> Town:
    return build(host, v)


@pytest.fixture(params=["nftables", "iptables"])
def guarded(host: Host, v: V, request: pytest.FixtureRequest) -> Town:
    """With each back end that holds endpoints to their addresses."""
    if request.param == "iptables" and (why := without_iptables()):
        pytest.skip(why)
    return build(host, v, firewall=request.param)


# -- C10


def test_c10_the_mac_of_a_text_is_the_same_everywhere(host: Host) -> None:
    wanted = "02:" + md5(b"web1\n").digest()[:5].hex(":")
    ok("connect", "--name=c1", "--mac-address=U:web1")
    assert wanted in run("ip link show eth0", place=netns.named("c1"))
    with Netkit() as nk:
        assert nk.networks.get("bridge").connect(name="c2", mac_address="U:x").mac_address == (
            run(
                "echo x | md5sum | sed -E 's/(..)(..)(..)(..)(..).*/02:\\1:\\2:\\3:\\4:\\5/'"
            ).strip()
        )


# -- C14: routes


def router(town: Town) -> str:
    """A container that leads to a network behind it; its address."""
    v = town.v
    town.connect("router", addresses=[v.at(9)])
    # what comes from behind it bears other addresses than its own: the guard has to know of them
    ok("address", "add", "router", v.behind)
    return v.at(9)


def test_c14_a_route_leads_where_it_says(town: Town) -> None:
    v, gateway = town.v, router(town)
    route = f"{v.far} via {gateway} metric 77 mtu 1400"
    place = town.connect("c1", routes=[route])
    assert town.ping("c1", v.behind)
    found = town.shows("c1", f"ip route show {v.far}")
    assert f"via {gateway} dev eth0" in found
    assert "metric 77" in found
    assert "mtu 1400" in found
    assert town.nk.check() == []
    run(f"{v.ip} route del {v.far}", place=place)
    assert "route" in str(town.nk.check()[0])
    ok("disconnect", "--net=town", "c1")
    without = town.connect("c2")
    assert v.far not in run(f"{v.ip} route", place=without)


@pytest.mark.parametrize("text", ["{far},{gateway},77", "{far},via={gateway},metric=77"])
def test_c14_podmans_form_of_a_route_is_understood(town: Town, text: str) -> None:
    gateway = router(town)
    ok(
        "connect",
        "--net=town",
        "--name=c1",
        "--route",
        text.format(far=town.v.far, gateway=gateway),
    )
    assert f"via {gateway} dev eth0" in town.shows("c1", f"ip route show {town.v.far}")


def test_c14_what_leads_nowhere_says_so(town: Town) -> None:
    v = town.v
    far, prohibited = v.far, str(ip_network(v.far).supernet()) if v.number == 4 else "fd00:78::/64"
    town.connect("c1", routes=[f"unreachable {far}", f"prohibit {prohibited}"])
    found = town.shows("c1", "ip route show type unreachable")
    assert far in found
    assert town.silent("c1", v.behind)
    assert town.nk.check() == []
    ok("disconnect", "--net=town", "c1")


def test_c14_a_networks_routes_are_every_endpoints(host: Host, town: Town) -> None:
    v = town.v
    # the router is a member of the network it is the router of
    ok("network", "create", f"--subnet={v.other_subnet}", *(["--no-ipv4"] if v.number == 6 else []),
       f"--route={v.far},{v.other_subnet.split('/')[0].removesuffix('0')}9,5", "side")  # fmt: skip
    base = v.other_subnet.split("/")[0].removesuffix("0")
    town.connect("side-router", "side", addresses=[f"{base}9"])
    ok("address", "add", "side-router", v.behind)
    for name in ("a", "b"):
        town.connect(name, "side")
        assert town.ping(name, v.behind)
        assert "metric 5" in town.shows(name, f"ip route show {v.far}")


def test_c14_without_a_default_route_only_neighbours_are_reached(town: Town) -> None:
    v = town.v
    with town.host.serve(town.lan, "tcp", 80, v.any):
        town.connect("c1", no_default_route=True)
        assert "default" not in town.shows("c1", "ip route")
        assert town.ask("c1", v.lan, patience_s=BRIEF_S) is None
        town.connect("c2", no_default_route=True, routes=[f"{v.lan} via {v.at(1)}"])
        assert town.ask("c2", v.lan) == v.ours


def test_c14_a_default_route_takes_the_place_of_the_networks(town: Town) -> None:
    v, gateway = town.v, router(town)
    town.connect("c1", routes=[f"default via {gateway}"])
    assert f"default via {gateway} dev eth0" in town.shows("c1", "ip route")
    assert town.ping("c1", v.behind)
    town.connect("c2")
    assert town.silent("c2", v.behind)
    key = "IPv6Gateway" if v.number == 6 else "Gateway"
    assert ok("inspect", "-f", f"{{{{.NetworkSettings.{key}}}}}", "c1").strip() == gateway


@pytest.mark.parametrize(
    ("route", "why"),
    [
        ("{far} via {lan}", "is not on network 'town'"),
        ("{far}/33/x", "invalid"),
        ("{far} via", "`via` is followed by nothing"),
        ("{far} metric -1", "is no metric"),
        ("{far} via {gateway} dev", "`dev` is for what is reached without a gateway"),
        ("blackhole {far} via {gateway}", "leads nowhere"),
        ("{far} via {gateway} via {gateway}", "gateway is given twice"),
        ("{far} via {other}", "is not of IPv"),
        ("{far} mtu 5", "MTU is from"),
    ],
)
def test_c14_a_route_that_makes_no_sense_is_refused_before_anything(
    town: Town, route: str, why: str
) -> None:
    v = town.v
    before = snapshot()
    other = (SIX if v is FOUR else FOUR).at(1)
    text = route.format(far=v.far, lan=v.lan, gateway=v.at(1), other=other)
    assert why in refused("connect", "--net=town", "--name=c1", "--route", text)
    assert snapshot() == before


# -- C15: by source


@pytest.fixture
def two_ways(town: Town) -> Town:
    """Two networks, each with an address of its own outside."""
    v = town.v
    town.nk.networks.create(
        "second",
        subnet=v.other_subnet,
        ipv4=v.number == 4,
        options={f"com.docker.network.host_ipv{v.number}": v.second},
    )
    return town


@pytest.mark.parametrize("by_source", [False, True])
def test_c15_what_an_address_sends_leaves_by_its_interface(two_ways: Town, by_source: bool) -> None:
    """And without source routing it does not: the guard of the other network drops it."""
    town, v = two_ways, two_ways.v
    town.connect("c1")
    network = town.nk.networks.get("second")
    # "second" comes before "town", so the latter is what has no default route
    ready(network.connect("c1", gw_priority=-1, source_routing=by_source).record)
    ep = town.nk.endpoints("c1")[1]
    assert ep.address is not None
    source = str(ep.address.ip)
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan) == v.ours
        patience = 3.0 if by_source else BRIEF_S
        seen = town.ask("c1", v.lan, source=source, patience_s=patience)
    assert seen == (v.second if by_source else None)
    assert town.nk.check() == []
    rules = town.shows("c1", "ip rule")
    network.disconnect("c1")
    assert (source in rules, source in town.shows("c1", "ip rule")) == (by_source, False)


def test_c15_source_routing_and_published_ports_share_their_table(two_ways: Town) -> None:
    town, v = two_ways, two_ways.v
    place = town.connect("c1", ports=["8080:80"], source_routing=True, routes=[f"{v.far} dev"])
    with town.host.serve(place, "tcp", 80, v.any):
        assert town.host.ask(town.lan, v.ours, 8080) == v.lan
    assert town.nk.check() == []


def test_c15_a_rule_chooses_a_table(two_ways: Town) -> None:
    town, v = two_ways, two_ways.v
    town.connect("c1")
    second = town.nk.networks.get("second")
    gateway = second.gateway
    text = f"to {v.lan} table 100"
    ready(
        second.connect(
            "c1", gw_priority=-1, rules=[text], routes=[f"default via {gateway} table 100"]
        ).record
    )
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan) == v.second
        assert town.nk.check() == []
        (ep,) = [ep for ep in town.nk.endpoints("c1") if ep.network.name == "second"]
        ep.remove_rule(text)
        assert town.ask("c1", v.lan) == v.ours
        ep.add_rule(f"{text} priority 50")
        assert town.ask("c1", v.lan) == v.second
    assert "50:" in town.shows("c1", "ip rule")
    second.disconnect("c1")
    assert "lookup 100" not in town.shows("c1", "ip rule")


# -- C16 and F24


def test_c16_f24_siblings_learn_at_once_who_has_an_address_now(town: Town) -> None:
    """A sibling knows the address by another MAC, and is told without asking."""
    v = town.v
    town.connect("sibling")
    town.connect("old", addresses=[v.at(5)])
    assert town.ping("sibling", v.at(5))
    ok("disconnect", "--net=town", "old")

    def known() -> str:
        return town.shows("sibling", f"ip neigh show {v.at(5)}")

    before = known()
    assert "lladdr" in before
    town.connect("new", addresses=[v.at(5)], mac_address="U:new")
    wanted = "02:" + md5(b"new\n").digest()[:5].hex(":")
    assert wanted not in before
    assert until(lambda: wanted in known()), known()
    assert town.ping("sibling", v.at(5))


def test_f24_a_published_port_of_a_reused_address_is_the_new_containers(town: Town) -> None:
    """A UDP client that goes on sending from its port meets who has the address now."""
    v = town.v
    for name in ("old", "new"):
        place = town.connect(name, addresses=[v.at(5)], ports=["5353:53/udp"])
        with town.host.serve(place, "udp", 53, v.any) as seen:
            assert town.host.ask(town.lan, v.ours, 5353, "udp") == v.lan
            assert seen == [v.lan]
        ok("disconnect", "--net=town", name)


# -- C19: sysctls


@pytest.mark.parametrize(
    "text",
    [
        "net.ipv{}.conf.IFNAME.forwarding=1",
        "net/ipv{}/conf/IFNAME/forwarding=1",
        "net.ipv{}.conf.lan0/1.forwarding=1",
    ],
)
def test_c19_a_sysctl_of_the_interface_is_set(town: Town, text: str) -> None:
    setting = text.format(town.v.number)
    ok("connect", "--net=town", "--name=c1", "--ifname=lan0.1", f"--sysctl={setting}")
    path = f"/proc/sys/net/ipv{town.v.number}/conf/lan0.1/forwarding"
    assert run(f"cat {path}", place=town.place("c1")) == "1\n"
    assert town.nk.check() == []
    run(f"echo 0 > {path}", place=town.place("c1"))
    assert "forwarding is 0, not 1" in str(town.nk.check()[0])


def test_c19_one_that_netkit_sets_itself_can_be_set_otherwise(host: Host) -> None:
    town = build(host, SIX)
    town.connect("c1", sysctls={"net.ipv6.conf.IFNAME.accept_ra": "2"})
    path = "/proc/sys/net/ipv6/conf/eth0/accept_ra"
    assert run(f"cat {path}", place=town.place("c1")) == "2\n"
    assert town.nk.check() == []


def test_c19_dockers_way_to_say_it(town: Town) -> None:
    v = town.v.number
    keys = [f"net.ipv{v}.conf.IFNAME.forwarding=1", f"net.ipv{v}.neigh.IFNAME.app_solicit=3"]
    option = f"driver-opt=com.docker.network.endpoint.sysctls={','.join(keys)}"
    code = (
        f"cat /proc/sys/net/ipv{v}/conf/eth0/forwarding /proc/sys/net/ipv{v}/neigh/eth0/app_solicit"
    )
    said = ok("run", "--network", f'name=town,"{option}"', "--", "sh", "-c", code)
    assert said == "1\n3\n"


def test_c19_a_containers_own_sysctls_are_set_before_it_runs(town: Town) -> None:
    name = "net.ipv4.ip_unprivileged_port_start"
    path = "/proc/sys/" + name.replace(".", "/")
    assert ok("run", "--net=town", f"--sysctl={name}=0", "--", "cat", path) == "0\n"
    assert ok("run", "--net=none", f"--sysctl={name}=7", "--", "cat", path) == "7\n"
    with open(path) as here:
        assert here.read() not in ("0\n", "7\n")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("kernel.shmmax=1", "only those below net."),
        ("net.ipv4.ip_forward=1", "not of one interface"),
        ("net.ipv4.conf.all.forwarding=1", "not of one interface"),
        ("net.ipv4.conf.default.forwarding=1", "not of one interface"),
        ("net.ipv4.conf.eth7.forwarding=1", "the interface is eth0"),
        ("net.ipv4.conf.IFNAME.forwarding", "KEY=VALUE is wanted"),
        ("net.ipv4.conf.../../x.forwarding=1", "KEY=VALUE is wanted"),
        ("net/ipv4/conf/../../../kernel/panic=1", "KEY=VALUE is wanted"),
        ("net.ipv4.conf.IFNAME.forwarding=1\n2", "a word or some numbers"),
        ("net.ipv4.conf.IFNAME.no_such_thing=1", "this kernel has none such"),
        ("net.ipv4.conf.IFNAME.forwarding=many", "Invalid argument"),
    ],
)
def test_c19_any_other_sysctl_is_refused_and_nothing_is_left(
    host: Host, setting: str, why: str
) -> None:
    build(host, FOUR)
    before = snapshot()
    assert why in refused("connect", "--net=town", "--name=c1", f"--sysctl={setting}")
    assert snapshot() == before


@pytest.mark.parametrize("mode", ["host", "container:c1"])
def test_c19_a_namespace_of_somebody_elses_keeps_its_sysctls(host: Host, mode: str) -> None:
    build(host, FOUR).connect("c1")
    said = refused("run", "--net", mode, "--sysctl=net.core.somaxconn=9", "--", "true", code=125)
    assert "conflicting options: sysctl" in said


# -- C21 and A14: more addresses


def test_c21_link_local_addresses_reach_each_other(guarded: Town) -> None:
    town, (one, other) = guarded, guarded.v.local
    for name, ip in (("a", one), ("b", other)):
        ok("connect", "--net=town", "--name", name, "--link-local-ip", ip)
    town.connect("c")
    by = "eth0" if town.v.number == 6 else one
    assert town.ping("a", other, by)
    assert town.ping("b", one, "eth0" if town.v.number == 6 else other)
    assert ok("inspect", "-f", "{{json .NetworkSettings.Networks.town.LinkLocalIPs}}", "a") == (
        f'["{one}"]\n'
    )
    assert town.nk.check() == []


def test_c21_who_was_not_given_it_may_not_use_it(host: Host) -> None:
    town = build(host, FOUR, firewall="nftables")
    one, other = FOUR.local
    town.connect("a", link_local_ips=[one])
    town.connect("b", link_local_ips=[other])
    run(f"ip addr add {other}/16 dev eth0", place=town.connect("c"))
    assert town.ping("a", other, one)
    assert town.silent("c", one, other)


@pytest.mark.parametrize(
    ("ip", "why"),
    [
        ("10.0.0.1", "of another kind"),
        ("fe80::1", "has no IPv6"),
        ("169.254.0.0", "no interface can have it"),
        ("x", "not an IP address"),
        ("169.254.7.7", "is in use"),
    ],
)
def test_c21_a_link_local_address_that_cannot_be_had_is_refused(
    host: Host, ip: str, why: str
) -> None:
    build(host, FOUR).connect("a", link_local_ips=["169.254.7.7"])
    before = snapshot()
    assert why in refused("connect", "--net=town", "--name=c1", "--link-local-ip", ip)
    assert snapshot() == before


def test_a14_an_endpoint_may_have_several_addresses_of_a_subnet(guarded: Town) -> None:
    town, v = guarded, guarded.v
    mine = [v.at(n) for n in (7, 8, 9)]
    ok("connect", "--net=town", "--name=c1", *(f"--ip={ip}" for ip in mine))
    town.connect("sibling")
    for ip in mine:
        assert town.ping("sibling", ip)
        assert town.ping("c1", v.at(1), ip)
    assert town.nk.check() == []
    said = refused("connect", "--net=town", "--name=c2", f"--ip={mine[1]}")
    assert f"{mine[1]} is leased to c1/eth0#2" in said
    ok("disconnect", "--net=town", "c1")
    ok("connect", "--net=town", "--name=c2", *(f"--ip={ip}" for ip in mine[::-1]))


def test_a14_several_static_addresses_outlive_their_container_until_it_is_removed(
    host: Host,
) -> None:
    build(host, FOUR)
    mine = ("172.25.0.7", "172.25.0.8")
    ok("run", "--name=a", "--net=town", *(f"--ip={ip}" for ip in mine), "--", "true")
    for ip in mine:
        assert "leased to a" in refused("connect", "--net=town", f"--ip={ip}")
    ok("rm", "a")
    ok("connect", "--net=town", "--name=b", *(f"--ip={ip}" for ip in mine))


# -- C22: settings of the interface


def link(place: str | None, name: str = "eth0") -> dict[str, Any]:
    (found,) = json.loads(run(f"ip -j -d link show {name}", place=place))
    return {
        "mtu": found["mtu"],
        "txqlen": found["txqlen"],
        "promisc": bool(found["promiscuity"]),
        "allmulti": bool(found["allmulti"]),
    }


TUNED: dict[str, Any] = {"mtu": 1400, "txqlen": 77, "promisc": True, "allmulti": True}


def test_c22_an_interface_is_set_as_asked_and_checked(town: Town) -> None:
    ok("connect", "--net=town", "--name=c1", "--mtu=1400", "--txqlen=77", "--promisc", "--allmulti")
    place = town.place("c1")
    assert link(place) == TUNED
    assert town.nk.check() == []
    for change, said in (
        ("mtu 1300", "the MTU of eth0 is 1300, not 1400"),
        ("txqueuelen 5", "queue length"),
        ("promisc off", "promiscuous mode of eth0 is off, not on"),
        ("allmulticast off", "reception of all multicast"),
    ):
        run(f"ip link set eth0 {change}", place=place)
        assert said in str(town.nk.check()[0])
        run("ip link set eth0 mtu 1400 txqueuelen 77 promisc on allmulticast on", place=place)
    # packets are as large as that, and no larger
    size = 1400 - (48 if town.v.number == 6 else 28)
    ping = f"ping -c1 -W3 -M do -q {town.v.at(1)}"
    run(f"{ping} -s {size}", place=place)
    larger = run(f"{ping} -W{BRIEF_S} -s {size + 1} || true", place=place)
    assert "100% packet loss" in larger


def test_c22_a_physical_interface_comes_back_as_it_was(host: Host) -> None:
    run("ip link add card type veth peer name far", "ip link set card txqueuelen 500 mtu 1450")
    nk = Netkit()
    nk.networks.create("wire", "physical", subnet="10.9.9.0/24", options={"device": "card"})
    before = link(None, "card")
    ep = nk.networks.get("wire").connect(
        name="c1", sysctls={"net.ipv4.conf.IFNAME.log_martians": "1"}, **TUNED
    )
    assert link(ep.netns) == TUNED
    ep.disconnect()
    assert link(None, "card") == before
    assert run("cat /proc/sys/net/ipv4/conf/card/log_martians") == "0\n"


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--mtu=9000", "which has 1500"),
        ("--mtu=67", "must be between 68 and"),
        ("--mtu=x", "not a number"),
        ("--txqlen=-1", "not a number"),
        ("--driver-opt=a=b", "invalid driver option"),
        ("--rule=from", "`from` is followed by nothing"),
        ("--rule=from 10.0.0.1", "no table"),
        ("--rule=to 10.0.0.1 from fd00::1 table 3", "of IPv4 and of IPv6"),
        ("--rule=a b", "is no word of it"),
    ],
)
def test_c22_what_an_interface_cannot_be_is_refused(host: Host, option: str, why: str) -> None:
    build(host, FOUR)
    before = snapshot()
    assert why in refused("connect", "--net=town", "--name=c1", option)
    assert snapshot() == before


def test_c22_an_mtu_too_small_for_ipv6_is_refused(host: Host) -> None:
    build(host, SIX)
    assert "needs 1280" in refused("connect", "--net=town", "--mtu=1279")


# -- C6: while it lives


def test_c6_an_address_is_added_and_taken_away_without_a_trace(guarded: Town) -> None:
    town, v = guarded, guarded.v
    place = town.connect("c1")
    town.connect("sibling")
    before = snapshot(), inside(place), leases(town)
    new = v.at(50)
    ok("address", "add", "c1", new)
    assert town.ping("sibling", new)
    assert town.ping("c1", v.at(1), new)
    assert f"{new} is leased to c1/eth0#2" in refused("connect", "--net=town", f"--ip={new}")
    assert town.nk.check() == []
    rows = ok("address", "ls", "c1", "--format", "{{.Address}} {{.Kind}}").splitlines()
    assert f"{new}{v.bits} leased" in rows
    ok("address", "rm", "c1", new)
    assert town.silent("sibling", new)
    assert (snapshot(), inside(place), leases(town)) == before
    assert town.nk.check() == []


def leases(town: Town) -> list[Any]:
    rows = town.nk.engine.store.connection.execute("SELECT offset, key FROM lease")
    return sorted(rows.fetchall(), key=repr)


def test_c6_a_foreign_address_is_let_through_and_its_neighbour_is_reached(guarded: Town) -> None:
    town, (one, other) = guarded, guarded.v.foreign
    for name in ("a", "b"):
        town.connect(name)
    places = [town.place(name) for name in ("a", "b")]
    before = snapshot(), [inside(place) for place in places]
    for name, address in (("a", one), ("b", other)):
        ok("address", "add", name, address)
    assert town.ping("a", other.split("/")[0], one.split("/")[0])
    assert town.nk.check() == []
    for name, address in (("a", one), ("b", other)):
        ok("address", "rm", name, address.split("/")[0])
    assert (snapshot(), [inside(place) for place in places]) == before


def test_c6_the_first_address_can_be_changed_for_another(guarded: Town) -> None:
    """The subnet's second address stays, and so does the way out."""
    town, v = guarded, guarded.v
    town.connect("c1")
    town.connect("sibling")
    with town.host.serve(town.lan, "tcp", 80, v.any):
        ok("address", "add", "c1", v.at(50))
        ok("address", "rm", "c1", v.at(2))
        assert town.ask("c1", v.lan) == v.ours
    assert town.ping("sibling", v.at(50))
    assert town.silent("sibling", v.at(2))
    assert town.nk.check() == []
    ok("connect", "--net=town", "--name=c2", f"--ip={v.at(2)}")  # it is free
    ok("disconnect", "--net=town", "c1")
    ok("connect", "--net=town", "--name=c3", f"--ip={v.at(50)}")


def test_c6_whose_first_address_has_gone_may_not_use_it(host: Host, v: V) -> None:
    town = build(host, v, firewall="nftables")
    place = town.connect("c1")
    town.connect("sibling")
    ok("address", "add", "c1", v.at(50))
    ok("address", "rm", "c1", v.at(2))
    run(f"{v.ip} addr add {v.at(2)}{v.bits} dev eth0", place=place)
    assert town.ping("c1", v.at(3), v.at(50))
    assert town.silent("c1", v.at(3), v.at(2))


def test_c6_what_is_needed_is_not_taken_away(town: Town) -> None:
    v = town.v
    town.connect("c1", ports=["8080:80"])
    said = refused("address", "rm", "c1", v.at(2))
    assert "the published port" in said
    assert "8080->80/tcp leads to it" in said
    town.connect("c2")
    assert f"the gateway {v.at(1)} is reached by it" in refused("address", "rm", "c2", v.at(3))
    assert "has no address" in refused("address", "rm", "c2", v.at(77))
    assert "has the address" in refused("address", "add", "c2", v.at(3))
    assert "is the gateway of" in refused("address", "add", "c2", v.at(1))
    assert "no such" in refused("address", "add", "nobody", v.at(5))


def test_c6_a_route_is_added_and_taken_away_without_a_trace(town: Town) -> None:
    v, gateway = town.v, router(town)
    place = town.connect("c1")
    before = snapshot(), inside(place)
    ok("route", "add", "c1", v.far, "via", gateway, "metric", "9")
    assert town.ping("c1", v.behind)
    assert town.nk.check() == []
    assert f"{v.far} via {gateway} metric 9" in ok("route", "ls", "c1")
    assert "already" in refused("route", "add", "c1", f"{v.far},{gateway},9")
    ok("route", "rm", "c1", v.far)
    assert town.silent("c1", v.behind)
    assert (snapshot(), inside(place)) == before
    assert "was given no route" in refused("route", "rm", "c1", v.far)


def test_c6_the_default_route_leads_elsewhere_and_back(town: Town) -> None:
    v, gateway = town.v, router(town)
    place = town.connect("c1")
    before = snapshot(), inside(place)
    ok("route", "add", "c1", "default", "via", gateway)
    assert town.ping("c1", v.behind)
    assert town.nk.check() == []
    ok("route", "rm", "c1", "default", "via", gateway)
    assert (snapshot(), inside(place)) == before
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan) == v.ours


def test_c6_the_default_route_is_handed_on_as_it_is_now(two_ways: Town) -> None:
    """The network it was moved on is left, and that of the other one is the network's."""
    town, v, gateway = two_ways, two_ways.v, router(two_ways)
    town.connect("c1", gw_priority=5)
    ready(town.nk.networks.get("second").connect("c1").record)
    ok("route", "add", "c1", "--net=town", "default", "via", gateway)
    ok("disconnect", "--net=town", "c1")
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan) == v.second
    ready(town.nk.networks.get("town").connect("c1", gw_priority=5).record)
    ok("disconnect", "--net=second", "c1")
    assert f"default via {v.at(1)}" in town.shows("c1", "ip route")
    assert town.nk.check() == []


@pytest.mark.parametrize("firewall", ["nftables", "none"])
def test_c6_disconnect_takes_back_all_of_it(host: Host, v: V, firewall: str) -> None:
    town = build(host, v, firewall=firewall)
    # up, as lo is from the first connection on
    run("ip netns add theirs", "ip -n theirs link set lo up")
    place = town.place("theirs")
    before = snapshot(), inside(place)
    ep = town.nk.networks.get("town").connect("theirs", source_routing=True)
    ep.add_address(v.at(50))
    ep.add_address(v.foreign[0])
    ep.add_route(f"{v.far} via {v.at(1)}")
    ep.add_route(f"blackhole {v.far} metric 4000")
    ep.add_rule(f"to {v.far} table 100")
    assert [str(a.ip) for a in ep.addresses] == [v.at(2), v.at(50)]
    assert [str(a) for a in ep.extra_addresses] == [v.foreign[0]]
    assert len(ep.routes) == 2
    assert len(ep.rules) == 1
    assert ep.check() == []
    ep.disconnect()
    assert (snapshot(), inside(place)) == before
    assert leases(town) == []


def test_c6_of_several_interfaces_the_one_is_changed_that_is_meant(two_ways: Town) -> None:
    town, v = two_ways, two_ways.v
    town.connect("c1")
    ready(town.nk.networks.get("second").connect("c1").record)
    ok("address", "add", "c1", v.at(50))  # of a subnet: there is one only
    assert "several interfaces: eth0, eth1" in refused("address", "add", "c1", v.foreign[0])
    ok("address", "add", "c1", v.foreign[0], "--ifname=eth1")
    rows = ok("address", "ls", "c1", "--format", "{{.Interface}} {{.Address}}").splitlines()
    assert f"eth0 {v.at(50)}{v.bits}" in rows
    assert f"eth1 {v.foreign[0]}" in rows
    assert "has no interface called 'eth7'" in refused("route", "rm", "c1", v.far, "--ifname=eth7")


def test_c6_a_dry_run_prints_the_lines_and_does_nothing(town: Town) -> None:
    place = town.connect("c1")
    before = snapshot(), inside(place)
    lines = ok("address", "add", "--dry-run", "c1", town.v.at(50))
    assert f"addr add {town.v.at(50)}" in lines
    assert "route add blackhole" in ok("route", "add", "--dry-run", "c1", "blackhole", town.v.far)
    assert (snapshot(), inside(place)) == before


def test_c6_on_a_routed_network_too(host: Host, v: V) -> None:
    town = build(host, v)
    town.nk.networks.create("wires", "veth", subnet=v.other_subnet, ipv4=v.number == 4)
    base = v.other_subnet.split("/")[0].removesuffix("0")
    ep = town.nk.networks.get("wires").connect(name="c1")
    before = snapshot(), inside(ep.netns)
    ep.add_address(f"{base}50")
    ep.add_address(v.foreign[0])
    assert town.host.ping(None, f"{base}50")
    assert town.host.ping(None, v.foreign[0].split("/")[0])
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan, source=f"{base}50") == v.ours
    assert town.nk.check() == []
    ep.remove_address(v.foreign[0])
    ep.remove_address(f"{base}50")
    assert (snapshot(), inside(ep.netns)) == before
    with pytest.raises(Conflict, match="it has no other"):
        ep.remove_address(f"{base}2")


# -- D23: the address that is seen outside


def test_d23_an_endpoint_is_seen_by_the_address_it_asked_for(guarded: Town) -> None:
    town, v = guarded, guarded.v
    town.connect("plain")
    ok("connect", "--net=town", "--name=c1", "--source-ip", v.second, f"--ip={v.at(7)}")
    assert ok("inspect", "-f", "{{json .NetworkSettings.Networks.town.SourceIPs}}", "c1") == (
        f'["{v.second}"]\n'
    )
    with town.host.serve(town.lan, "tcp", 80, v.any):
        assert town.ask("c1", v.lan) == v.second
        assert town.ask("plain", v.lan) == v.ours
        ok("address", "add", "c1", v.at(50))
        assert town.ask("c1", v.lan, source=v.at(50)) == v.second
        ok("disconnect", "--net=town", "c1")
        town.connect("c2", addresses=[v.at(7)])
        assert town.ask("c2", v.lan) == v.ours
    assert town.nk.check() == []


def test_d23_what_the_host_does_not_have_nobody_is_seen_by(town: Town) -> None:
    v = town.v
    before = snapshot()
    said = refused("connect", "--net=town", "--name=c1", "--source-ip", v.lan)
    assert f"cannot be seen as {v.lan}: the host does not have that address" in said
    other = SIX if v is FOUR else FOUR
    run(f"{other.ip} addr add {other.second}{other.bits} dev lan0")
    run(f"{other.ip} addr del {other.second}{other.bits} dev lan0")
    assert snapshot() == before
    twice = refused("connect", "--net=town", f"--source-ip={v.ours}", f"--source-ip={v.second}")
    assert "one address of an IP version" in twice
    town.nk.networks.create("shut", internal=True, subnet=v.other_subnet, ipv4=v.number == 4)
    assert "it is internal" in refused("connect", "--net=shut", f"--source-ip={v.ours}")


# -- the API


def test_the_api_refuses_as_the_command_line_does(host: Host) -> None:
    nk = build(host, FOUR).nk
    ep = nk.networks.get("town").connect(name="c1")
    refusals: list[tuple[type[NetkitError], Callable[[], object]]] = [
        (InvalidSpec, lambda: ep.add_address("x")),
        (InvalidSpec, lambda: ep.add_address("172.25.0.9/16")),
        (Conflict, lambda: ep.add_address("172.25.0.2")),
        (NotFound, lambda: ep.remove_address("172.25.0.3")),
        (InvalidSpec, lambda: ep.add_route("")),
        (NotFound, lambda: ep.remove_route("10.0.0.0/8")),
        (InvalidSpec, lambda: ep.add_rule("table")),
        (NotFound, lambda: ep.remove_rule("from 10.0.0.1 table 3")),
    ]
    before = snapshot(), inside(ep.netns)
    for kind, call in refusals:
        with pytest.raises(kind):
            call()
    assert (snapshot(), inside(ep.netns)) == before
