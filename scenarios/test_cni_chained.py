"""Chained CNI plugins: portmap, firewall, tuning and bandwidth behind bridge, with real packets."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni.call import CONFLICT, DRIFT
from cni.spec import Result
from netkit.firewall import iptables, libnftables, nfnetlink
from scenarios import runtimes
from scenarios.chains import Chain, published
from scenarios.firewalls import each, in_nftables, on_nftables
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, at, inside, run, snapshot, until
from scenarios.plugins import Json, Plugins, Refused
from tests.cni.test_plugin import dies_at, points
from tests.kernel import test_shaping

pytestmark = each
OURS, THEIRS = {4: "10.9.0.1", 6: "2001:db8:9::1"}, {4: "10.9.0.2", 6: "2001:db8:9::2"}
ANY, LENGTH = {4: "", 6: "::"}, {4: 24, 6: 64}


@pytest.fixture
def cni(host: Host) -> Plugins:
    return Plugins(host.base)


@pytest.fixture
def lan(host: Host) -> str:
    """A neighbour of both versions."""
    place = host.neighbour("lan", f"{OURS[4]}/24", f"{THEIRS[4]}/24")
    run(
        f"ip addr add {OURS[6]}/64 dev lan0 nodad",
        "ip addr add fe80::1/64 dev lan0 nodad",
        f"ip -n lan addr add {THEIRS[6]}/64 dev eth0 nodad",
        f"ip -n lan route add default via {OURS[6]}",
    )
    return place


PORTMAP: Json = {"type": "portmap"}


# -- portmap


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_i15_a_published_port_leads_to_the_container(
    host: Host, cni: Plugins, lan: str, version: int, protocol: str
) -> None:
    web = Chain(cni, PORTMAP)
    c1 = web.add("c1", portMappings=[published(8080, 80, protocol)])
    c2 = web.add("c2")
    with host.serve(c1, protocol, 80, ANY[version]):
        assert host.ask(lan, OURS[version], 8080, protocol) == THEIRS[version]
        assert host.ask(None, OURS[version], 8080, protocol) is not None
        # a sibling, and the container itself, through the host's address
        assert host.ask(c2, OURS[version], 8080, protocol) is not None
        assert host.ask(c1, OURS[version], 8080, protocol) is not None
        if version == 4:
            assert host.ask(None, "127.0.0.1", 8080, protocol) is not None
        web.check("c1")
        web.delete("c1")
        assert host.ask(lan, OURS[version], 8080, protocol, patience_s=BRIEF_S) is None


def test_i15_what_portmap_made_del_undoes(cni: Plugins, lan: str) -> None:
    cni.netns("c1")
    before = snapshot()
    web = Chain(cni, PORTMAP)
    web.add("c1", portMappings=[published(8080, 80), published(5353, 53, "udp", OURS[4])])
    assert snapshot() != before
    web.delete("c1")
    assert snapshot() == before


def test_i15_portmap_goes_when_the_namespace_is_gone(cni: Plugins, lan: str) -> None:
    """The reference leaves its masquerading behind for ever."""
    before = snapshot()
    web = Chain(cni, PORTMAP)
    web.add("c1", portMappings=[published(8080, 80)])
    run("ip netns del c1")
    web.delete("c1", at="")
    assert snapshot() == before
    web.add("c1", portMappings=[published(8080, 80)])
    run("ip netns del c1")
    for conf in web.confs["c1"]:
        cni.gc(conf["type"], conf)
    run("ip netns del c1")
    assert snapshot() == before


def test_s16_transit_is_not_captured(host: Host, cni: Plugins, lan: str) -> None:
    """CVE-2019-9946: the same port of another machine, to which the host only forwards."""
    other = host.neighbour("far", "10.8.0.1/24", "10.8.0.2/24")
    web = Chain(cni, PORTMAP)
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    run("sysctl -qw net.ipv4.ip_forward=1")
    with host.serve(other, "tcp", 8080) as far, host.serve(c1, "tcp", 80) as near:
        assert host.ask(lan, "10.8.0.2", 8080) == THEIRS[4]
        assert host.ask(c1, "10.8.0.2", 8080) is not None
        assert host.ask(None, "10.8.0.2", 8080) == "10.8.0.1"
        assert (len(far), near) == (3, [])


def test_s19_a_port_that_is_published_is_refused_to_others(cni: Plugins, lan: str) -> None:
    web = Chain(cni, PORTMAP)
    web.add("c1", portMappings=[published(8080, 80)])
    cni.netns("c2")
    before = snapshot()
    for other in (published(8080, 81), published(8080, 80, ip=OURS[4])):
        with pytest.raises(Refused, match=r"already allocated.*c1/eth0") as refused:
            web.add("c2", portMappings=[published(8081, 80), other])
        assert refused.value.code == CONFLICT
        assert snapshot() == before
    web.add("c2", portMappings=[published(8080, 80, "udp"), published(8081, 80)])
    web.delete("c1")
    web.add("c1", portMappings=[published(8080, 80)])


def test_i15_a_container_on_two_networks_keeps_its_port_while_it_is_on_one(
    host: Host, cni: Plugins, lan: str
) -> None:
    place = cni.netns("c1")
    before = snapshot()
    first, second = Chain(cni, PORTMAP), _second(cni)
    wanted = [published(8080, 80), published(5353, 53, "udp")]
    first.add("c1", portMappings=wanted)
    second.add("c1", portMappings=wanted)

    def leads_to(network: Chain) -> None:
        own = network.ip("c1")
        with host.serve(place, "tcp", 80, own), host.serve(place, "udp", 53, own):
            assert host.ask(lan, OURS[4], 8080) == THEIRS[4]
            assert host.ask(lan, OURS[4], 5353, "udp") == THEIRS[4]

    leads_to(first)
    second.delete("c1")
    leads_to(first)
    second.add("c1", portMappings=wanted)
    leads_to(first)
    first.delete("c1")
    run("ip -n c1 route replace default via 10.23.0.1")
    leads_to(second)
    second.check("c1")
    second.delete("c1")
    assert snapshot() == before


def test_i15_kill_9_once_a_port_was_handed_over_leaves_nothing_of_it(cni: Plugins) -> None:
    wanted = [published(8080, 80), published(90, 90), published(91, 91)]
    cni.netns("c1")
    before = snapshot()
    first, second = Chain(cni, PORTMAP), _second(cni)

    def add() -> None:
        first.add("c1", portMappings=wanted)
        second.add("c1", portMappings=wanted)

    def go() -> None:
        first.delete("c1")

    add()
    number = points(go).index("add Rules after")
    second.delete("c1")
    add()
    assert dies_at(number, go)
    go()
    second.check("c1")
    second.delete("c1")
    assert snapshot() == before


def _second(cni: Plugins) -> Chain:
    """Another network, for containers that are on one already."""
    bridge = {"bridge": "cni1", "isDefaultGateway": False, "isGateway": True}
    made = Chain(cni, PORTMAP, **bridge, ipam=cni.ipam("10.23.0.0/24"))
    made.name, made.ifname = "inner", "eth1"
    return made


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_s20_a_port_of_a_host_process_is_refused(
    host: Host, cni: Plugins, lan: str, protocol: str
) -> None:
    web = Chain(cni, PORTMAP)
    with (
        host.serve(None, protocol, 8080),
        pytest.raises(Refused, match="already in use by 'python") as refused,
    ):
        web.add("c1", portMappings=[published(8080, 80, protocol)])
    assert refused.value.code == CONFLICT
    web.add("c1", portMappings=[published(8080, 80, protocol)])


def test_i15_a_host_ip_is_the_one_that_is_published(host: Host, cni: Plugins, lan: str) -> None:
    run("ip addr add 10.9.0.3/24 dev lan0")
    web = Chain(cni, PORTMAP)
    entries = [
        published(8080, 80, ip="10.9.0.3"),
        published(8081, 80, ip="0.0.0.0"),
        published(8082, 80, ip="::"),
    ]
    c1 = web.add("c1", portMappings=entries)
    with host.serve(c1, "tcp", 80), host.serve(c1, "tcp", 80, "::"):
        assert host.ask(lan, "10.9.0.3", 8080) == THEIRS[4]
        assert host.ask(lan, OURS[4], 8080, patience_s=BRIEF_S) is None
        assert host.ask(lan, OURS[4], 8081) == THEIRS[4]
        assert host.ask(lan, OURS[6], 8081, patience_s=BRIEF_S) is None
        assert host.ask(lan, OURS[6], 8082) == THEIRS[6]
        assert host.ask(lan, OURS[4], 8082, patience_s=BRIEF_S) is None
    web.check("c1")


def test_i15_masq_all_shows_the_container_nobody_but_the_host(
    host: Host, cni: Plugins, lan: str
) -> None:
    web = Chain(cni, {**PORTMAP, "masqAll": True})
    before = snapshot()
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    for version, gateway in ((4, "10.22.0.1"), (6, "fd00:22::1")):
        with host.serve(c1, "tcp", 80, ANY[version]):
            assert host.ask(lan, OURS[version], 8080) == gateway
            assert host.ask(None, OURS[version], 8080) == gateway
    web.check("c1")
    web.delete("c1")
    run("ip netns del c1")
    assert snapshot() == before


def test_i15_without_snat_nothing_is_masqueraded_and_localhost_stays_out(
    host: Host, cni: Plugins, lan: str
) -> None:
    web = Chain(cni, {**PORTMAP, "snat": False}, ipMasq=False)
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    with host.serve(c1, "tcp", 80):
        assert host.ask(lan, OURS[4], 8080) == THEIRS[4]
        assert host.ask(None, "127.0.0.1", 8080, patience_s=BRIEF_S) is None
    assert run("sysctl -n net.ipv4.conf.cni0.route_localnet") == "0\n"


def test_s09_nobody_behind_the_bridge_reaches_the_hosts_loopback(host: Host, cni: Plugins) -> None:
    """route_localnet would let them (CVE-2020-8558)."""
    web = Chain(cni, PORTMAP)
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    assert run("sysctl -n net.ipv4.conf.cni0.route_localnet") == "1\n"
    run(
        "ip -n c1 route add 127.0.0.53/32 via 10.22.0.1 table 7",
        "ip -n c1 rule add to 127.0.0.53 pref 0 table 7",
        "ip netns exec c1 sysctl -qw net.ipv4.conf.eth0.route_localnet=1",
        "ip -n c1 rule add from all pref 1 table local",
        "ip -n c1 rule del pref 0 table local",
    )

    def attack(patience_s: float) -> str | None:
        source = web.ip("c1")
        return host.ask(c1, "127.0.0.53", 99, "udp", source=source, patience_s=patience_s)

    with host.serve(None, "udp", 99, "127.0.0.53"):
        assert host.ask(None, "127.0.0.53", 99, "udp") is not None
        assert attack(BRIEF_S) is None
        take_plain_away("cni0")
        assert attack(PATIENCE_S) is not None


def take_plain_away(link: str) -> None:
    if in_nftables():
        run(f"nft 'delete element inet netkit plain {{ \"{link}\" }}'")
    else:
        run("iptables-legacy -w -t raw -F NETKIT-PLAIN")


CONDITIONS: Mapping[str, tuple[list[str], bool, bool]] = {
    # from the first machine, from the second
    "not to": (["!", "-d", OURS[4]], False, True),
    "to": (["-d", "10.8.0.0/255.255.255.0"], False, True),
    "from": (["-s", THEIRS[4]], True, False),
    "from and not to": (["-s", "10.8.0.0/16", "!", "-d", "10.9.0.0/24"], False, True),
    "by": (["-i", "lan0"], True, False),
    "nft's not to": (["ip", "daddr", "!=", OURS[4]], False, True),
}


@pytest.mark.parametrize("kind", CONDITIONS)
def test_i15_conditions_are_kept(host: Host, cni: Plugins, lan: str, kind: str) -> None:
    words, near, far = CONDITIONS[kind]
    other = host.neighbour("far", "10.8.0.1/24", "10.8.0.2/24")
    web = Chain(cni, {**PORTMAP, "conditionsV4": words})
    before = snapshot()
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    with host.serve(c1, "tcp", 80):
        asked = host.ask(lan, OURS[4], 8080, patience_s=3 if near else BRIEF_S)
        assert asked == (THEIRS[4] if near else None)
        asked = host.ask(other, "10.8.0.1", 8080, patience_s=3 if far else BRIEF_S)
        assert asked == ("10.8.0.2" if far else None)
    web.check("c1")
    web.delete("c1")
    run("ip netns del c1")
    assert snapshot() == before


def test_i15_a_udp_client_talks_to_whoever_has_the_port_now(
    host: Host, cni: Plugins, lan: str
) -> None:
    """Conntrack would lead it to the former one's address for as long as it goes on."""
    web = Chain(cni, PORTMAP)
    seen: list[str | None] = []

    def talk(patience_s: float) -> None:
        sock.settimeout(patience_s)
        sock.send(b"?")
        try:
            seen.append(sock.recv(64).decode())
        except OSError:
            seen.append(None)

    sock = at(lan, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with sock:
        sock.connect((OURS[4], 5353))
        c1 = web.add("c1", portMappings=[published(5353, 53, "udp")])
        with host.serve(c1, "udp", 53):
            talk(PATIENCE_S)
            web.delete("c1")
            talk(BRIEF_S)
        c2 = web.add("c2", portMappings=[published(5353, 53, "udp")])
        with host.serve(c2, "udp", 53):
            talk(PATIENCE_S)
    assert seen == [THEIRS[4], None, THEIRS[4]]


def test_i15_check_sees_what_is_missing_of_a_port(cni: Plugins, lan: str) -> None:
    """And passes a healthy one of IPv4 alone, which the reference does not."""
    web = Chain(cni, PORTMAP, ipam=cni.ipam("10.22.0.0/24"))
    web.add("c1", portMappings=[published(8080, 80)])
    web.check("c1")
    if in_nftables():
        run("nft delete element inet netkit wildcard4 '{ tcp . 8080 }'")
    else:
        run("iptables-legacy -w -t nat -F NETKIT-WILDCARD")
    with pytest.raises(Refused, match="8080") as refused:
        web.check("c1")
    assert refused.value.code == DRIFT


def test_i15_first_adds_at_once_all_succeed(host: Host, cni: Plugins, lan: str) -> None:
    """The reference's race for its chains: of several first ADDs some fail."""
    names = [f"c{i}" for i in range(6)]
    plain = Chain(cni)
    for name in names:
        plain.add(name)
    confs = {
        name: {
            "cniVersion": "1.1.0",
            "name": "web",
            "prevResult": plain.results[name],
            "runtimeConfig": {"portMappings": [published(8000 + i, 80)]},
        }
        for i, name in enumerate(names)
    }

    def add(name: str) -> None:
        try:
            cni.add("portmap", confs[name], name)
        finally:
            libnftables.forget()
            iptables.forget()
            nfnetlink.close()

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(add, names))
    for i, name in enumerate(names):
        with host.serve(cni.netns(name), "tcp", 80):
            assert host.ask(lan, OURS[4], 8000 + i) == THEIRS[4]


# -- firewall

FIREWALL: Json = {"type": "firewall"}
DROPPING = "iptables-nft -w -P FORWARD DROP"


def ingress(policy: str) -> Json:
    return {**FIREWALL, "ingressPolicy": policy}


def other(cni: Plugins, *plugins: Json) -> Chain:
    """Another network, on a bridge of its own."""
    chain = Chain(cni, *plugins, bridge="cni1", ipam=cni.ipam("10.23.0.0/24"))
    chain.name = "db"
    return chain


def test_i16_a_chain_passes_another_tools_that_drops(host: Host, cni: Plugins, lan: str) -> None:
    """Outwards, to published ports, and among siblings; what the reference opens, and ports."""
    run("sysctl -qw net.ipv4.ip_forward=1", DROPPING)
    before = snapshot()
    web = Chain(cni, PORTMAP)
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    with host.serve(lan, "tcp", 80):
        assert host.ask(c1, THEIRS[4], 80, patience_s=BRIEF_S) is None
    web.delete("c1")
    web.plugins.append(FIREWALL)
    c1 = web.add("c1", portMappings=[published(8080, 80)])
    with host.serve(lan, "tcp", 80), host.serve(c1, "tcp", 80):
        assert host.ask(c1, THEIRS[4], 80) == OURS[4]
        assert host.ask(lan, OURS[4], 8080) == THEIRS[4]
    web.check("c1")
    run("iptables-nft -w -F FORWARD")
    with pytest.raises(Refused, match="FORWARD"):
        web.check("c1")
    web.delete("c1")
    run("ip netns del c1")
    assert snapshot() == before


def test_i16_open_lets_everybody_in(host: Host, cni: Plugins, lan: str) -> None:
    run("sysctl -qw net.ipv4.ip_forward=1", DROPPING)
    web, db = Chain(cni, FIREWALL), other(cni, FIREWALL)
    c1, d1 = web.add("c1"), db.add("d1")
    with host.serve(c1, "tcp", 80):
        assert host.ask(lan, web.ip("c1"), 80) == THEIRS[4]
        assert host.ask(d1, web.ip("c1"), 80) is not None


def test_i16_same_bridge_keeps_other_networks_out(host: Host, cni: Plugins, lan: str) -> None:
    """As the reference: those with a policy; what comes from elsewhere is the host's affair."""
    cni.netns("c1"), cni.netns("d1"), cni.netns("c2")
    before = snapshot()
    web, db = Chain(cni, ingress("same-bridge")), other(cni, ingress("same-bridge"))
    c1, c2, d1 = web.add("c1"), web.add("c2"), db.add("d1")
    with host.serve(c1, "tcp", 80), host.serve(lan, "tcp", 80):
        assert host.ask(c2, web.ip("c1"), 80) is not None
        assert host.ask(None, web.ip("c1"), 80) is not None
        assert host.ask(lan, web.ip("c1"), 80) == THEIRS[4]
        assert host.ask(d1, THEIRS[4], 80) == OURS[4]
        assert host.ask(d1, web.ip("c1"), 80, patience_s=BRIEF_S) is None
    web.check("c1")
    for chain, name in ((web, "c1"), (db, "d1"), (web, "c2")):
        chain.delete(name)
    assert snapshot() == before


def test_i16_isolated_keeps_siblings_out(host: Host, cni: Plugins, lan: str) -> None:
    """By the bridge, and by the host where one asks it to forward."""
    cni.netns("c1"), cni.netns("c2")
    before = snapshot()
    web = Chain(cni, ingress("isolated"))
    c1, c2 = web.add("c1"), web.add("c2")
    with host.serve(c1, "tcp", 80), host.serve(lan, "tcp", 80):
        assert host.ask(c2, web.ip("c1"), 80, patience_s=BRIEF_S) is None
        run("ip route replace 10.22.0.0/24 via 10.22.0.1 onlink dev eth0", place=c2)
        assert host.ask(c2, web.ip("c1"), 80, patience_s=BRIEF_S) is None
        assert host.ask(None, web.ip("c1"), 80) is not None
        assert host.ask(c1, THEIRS[4], 80) == OURS[4]
        web.check("c1")
        port = next(i["name"] for i in web.results["c1"]["interfaces"][1:])
        run(f"bridge link set dev {port} isolated off")
        with pytest.raises(Refused, match=f"{port} is not isolated"):
            web.check("c1")
    web.delete("c1")
    web.delete("c2")
    assert snapshot() == before


def test_i16_two_policies_for_one_bridge_are_refused(cni: Plugins) -> None:
    web = Chain(cni, ingress("same-bridge"))
    web.add("c1")
    web.plugins[-1] = ingress("isolated")
    before = snapshot()
    with pytest.raises(Refused, match="'same-bridge' already") as refused:
        web.add("c2")
    assert refused.value.code == CONFLICT
    run("ip netns del c2")
    assert snapshot() == before


@pytest.mark.parametrize("kind", ["nft", "legacy"])
def test_i16_an_admins_chain_is_asked_first(host: Host, cni: Plugins, lan: str, kind: str) -> None:
    """CNI-ADMIN where there is one, another by its name; and it stays while it has rules."""
    program = f"iptables-{kind}"
    run(
        f"{program} -w -N CNI-ADMIN",
        f"{program} -w -A CNI-ADMIN -p tcp --dport 81 -j DROP",
        f"{program} -w -P FORWARD ACCEPT",
        "sysctl -qw net.ipv4.ip_forward=1",
    )
    before = snapshot()
    web = Chain(cni, FIREWALL)
    c1 = web.add("c1")
    with host.serve(lan, "tcp", 80), host.serve(lan, "tcp", 81):
        assert host.ask(c1, THEIRS[4], 80) == OURS[4]
        assert host.ask(c1, THEIRS[4], 81, patience_s=BRIEF_S) is None
        web.check("c1")
        run(f"{program} -w -S FORWARD | sed -n '/CNI-ADMIN/s/-A/{program} -w -D/p' | sh -e")
        assert host.ask(c1, THEIRS[4], 81) == OURS[4]
        with pytest.raises(Refused, match=f"{program} -w -I FORWARD"):
            web.check("c1")
    web.delete("c1")
    run("ip netns del c1", f"{program} -w -Z")
    assert snapshot() == before
    web.plugins[-1] = {**FIREWALL, "iptablesAdminChainName": "MINE"}
    web.add("c1")
    run("iptables -w -A MINE -j RETURN")
    web.check("c1")
    web.delete("c1")
    assert run("iptables -w -S MINE").splitlines()[1:] == ["-A MINE -j RETURN"]
    assert "MINE" not in run("ip6tables -w -S", "iptables -w -S FORWARD")


# -- tuning


def tuning(**conf: object) -> Json:
    return {"type": "tuning", **conf}


TUNED = {
    "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "net/ipv4/conf/all/log_martians": "1"},
    "mac": "c2:11:22:33:44:55",
    "promisc": True,
    "mtu": 1454,
    "txQLen": 17,
    "allmulti": True,
}
HARM = {
    "sysctl": "sysctl -qw net.ipv4.conf.eth0.arp_filter=0",
    "mac": "ip link set eth0 address c2:11:22:33:44:56",
    "promisc": "ip link set eth0 promisc off",
    "mtu": "ip link set eth0 mtu 1400",
    "txQLen": "ip link set eth0 txqueuelen 18",
    "allmulti": "ip link set eth0 allmulticast off",
}


@on_nftables
def test_i18_what_is_asked_for_is_so_and_seen_by_check(host: Host, cni: Plugins, lan: str) -> None:
    web = Chain(cni, tuning(**TUNED))
    c1 = web.add("c1")
    shown = run("ip -d link show eth0", place=c1)
    for word in ("c2:11:22:33:44:55", "PROMISC", "ALLMULTI", "mtu 1454", "qlen 17"):
        assert word in shown
    assert run("sysctl -n net.ipv4.conf.eth0.arp_filter", place=c1) == "1\n"
    told = web.results["c1"]["interfaces"][-1]
    assert (told["mac"], told["mtu"]) == ("c2:11:22:33:44:55", 1454)
    web.check("c1")
    with host.serve(lan, "tcp", 80):
        assert host.ask(c1, THEIRS[4], 80) == OURS[4]
    for what, line in HARM.items():
        run(line, place=c1)
        with pytest.raises(Refused) as refused:
            web.check("c1")
        assert refused.value.code == DRIFT, what
        web.delete("c1")
        c1 = web.add("c1")


@on_nftables
def test_i18_del_puts_back_what_an_interface_had_that_stays(cni: Plugins, lan: str) -> None:
    web = Chain(cni)
    c1 = web.add("c1")
    before = inside(c1)
    conf = {"cniVersion": "1.0.0", "name": "web", "prevResult": web.results["c1"], **TUNED}
    cni.add("tuning", conf)
    assert inside(c1) != before
    cni.delete("tuning", {"cniVersion": "1.0.0", "name": "web"})
    assert inside(c1) == before
    with pytest.raises(Refused, match="mtu"):
        cni.add("tuning", {**conf, "mtu": 40})
    assert inside(c1) == before


@on_nftables
def test_i18_of_what_the_kernel_refuses_half_way_nothing_stays(cni: Plugins, lan: str) -> None:
    c1 = cni.netns("c1")
    taken = "c2:11:22:33:44:55"
    run(
        f"ip link add link lan0 name other0 address {taken} up type macvlan",
        "ip link add link lan0 name eth0 netns c1 type macvlan",
        "ip -n c1 link set eth0 up",
    )
    before = inside(c1)
    previous = {"interfaces": [{"name": "eth0", "sandbox": c1}]}
    conf: Json = {"cniVersion": "1.0.0", "name": "web", "prevResult": previous}
    for wrong in ({"mac": taken, "mtu": 1400}, {"mac": "c2:11:22:33:44:66", "mtu": 9000}):
        with pytest.raises(Refused, match="the kernel refused"):
            cni.add("tuning", {**conf, **wrong})
        assert inside(c1) == before


@on_nftables
def test_i18_check_sees_a_change_of_what_was_so_before(cni: Plugins) -> None:
    name = "net.ipv4.conf.IFNAME.arp_filter"
    web = Chain(cni, tuning(sysctl={name: "0", "net.ipv4.ip_local_port_range": "32768 60999"}))
    c1 = web.add("c1")
    web.check("c1")
    run("sysctl -qw net.ipv4.conf.eth0.arp_filter=1", place=c1)
    with pytest.raises(Refused, match=r"arp_filter is 1, not 0"):
        web.check("c1")
    web.delete("c1")


@on_nftables
def test_i18_neighbours_hear_of_a_new_mac_at_once(host: Host, cni: Plugins, lan: str) -> None:
    web = Chain(cni)
    c1 = web.add("c1")
    with host.serve(c1, "tcp", 80):
        assert host.ask(None, web.ip("c1"), 80) is not None
        conf = {"cniVersion": "1.0.0", "name": "web", "prevResult": web.results["c1"]}
        cni.add("tuning", {**conf, "mac": "c2:11:22:33:44:55"})
        # nobody asks for it meanwhile, so by itself the host would not learn of it, however long
        assert until(lambda: "c2:11:22:33:44:55" in run("ip neigh show dev cni0"))
        assert host.ask(None, web.ip("c1"), 80) is not None


# -- bandwidth

MEGABIT = {"ingressRate": 1_000_000, "ingressBurst": 80_000}
OUTWARDS = {"egressRate": 1_000_000, "egressBurst": 80_000}
BYTES = 50_000  # at a megabit, beyond the burst: 0.32 s


def bandwidth(**conf: object) -> Json:
    if reason := test_shaping.missing():
        pytest.skip(reason)
    return {"type": "bandwidth", **conf}


def took(sender: str | None, receiver: str | None, address: str, port: int = 99) -> float:
    """Seconds until BYTES of TCP have come through."""

    def listen() -> socket.socket:
        return socket.create_server((address, port), family=family)

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with at(receiver, listen) as server:
        server.settimeout(10)
        sock = at(sender, lambda: socket.create_connection((address, port), 10))
        with sock, server.accept()[0] as there:
            there.settimeout(10)
            begin, got = time.monotonic(), 0
            sock.sendall(bytes(BYTES))
            while got < BYTES:
                got += len(there.recv(1 << 16))
            return time.monotonic() - begin


SLOW_S, QUICK_S = 0.2, 0.15


def is_slow(sender: str | None, receiver: str | None, address: str) -> bool:
    return took(sender, receiver, address) > SLOW_S


def is_quick(sender: str | None, receiver: str | None, address: str) -> bool:
    """What no bucket holds up a busy machine may, but not each time; a bucket does, each time."""
    return any(took(sender, receiver, address) < QUICK_S for _ in range(20))


@on_nftables
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("way", ["ingress", "egress"])
def test_i17_each_way_has_the_rate_asked_for(
    host: Host, cni: Plugins, lan: str, way: str, version: int
) -> None:
    cni.netns("c1")
    before = snapshot()
    web = Chain(cni, bandwidth(**(MEGABIT if way == "ingress" else OUTWARDS)))
    c1 = web.add("c1")
    into, out = (lan, c1, web.ip("c1", version)), (c1, lan, THEIRS[version])
    slow, quick = (into, out) if way == "ingress" else (out, into)
    assert is_slow(*slow)
    assert is_quick(*quick)
    web.check("c1")
    assert len(web.results["c1"]["interfaces"]) == (3 if way == "ingress" else 4)
    web.delete("c1")
    assert snapshot() == before


@on_nftables
@pytest.mark.parametrize("kind", ["shapedSubnets", "unshapedSubnets"])
def test_i17_subnets_are_told_apart(host: Host, cni: Plugins, lan: str, kind: str) -> None:
    run("ip addr add 10.9.9.9/32 dev eth0", place=lan)
    run("ip route add 10.9.9.9/32 via 10.9.0.2")
    limits = {**MEGABIT, **OUTWARDS, kind: ["10.9.9.0/24", "2001:db8:9::/48"]}
    web = Chain(cni, bandwidth(**limits), ipMasq=False)
    c1 = web.add("c1")
    is_named, is_other = (is_slow, is_quick) if kind == "shapedSubnets" else (is_quick, is_slow)
    assert is_named(c1, lan, "10.9.9.9")
    assert is_other(c1, lan, THEIRS[4])
    assert is_other(lan, c1, web.ip("c1"))
    assert is_named(lan, c1, web.ip("c1", 6))
    assert is_named(c1, lan, THEIRS[6])
    web.check("c1")


SHAPING = {
    "tc qdisc del dev {veth} root": "not tbf rate 125000bps",
    "tc qdisc replace dev {veth} root handle 1: tbf rate 2mbit burst 10kb limit 20kb": "shaped by",
    "tc qdisc del dev {ifb} root": "shaped by nothing",
    "tc qdisc del dev {veth} ingress": "not redirected",
    "ip link del {ifb}": "gone",
}


@on_nftables
@pytest.mark.parametrize("harm", SHAPING)
def test_i17_check_sees_what_is_missing_of_it(cni: Plugins, harm: str) -> None:
    """The reference sees no removed redirection, and takes a device without a bucket for one."""
    cni.netns("c1")
    web = Chain(cni, bandwidth(**MEGABIT, **OUTWARDS))
    before = snapshot()
    web.add("c1")
    web.check("c1")
    _, veth, _, ifb = (each["name"] for each in web.results["c1"]["interfaces"])
    run(harm.format(veth=veth, ifb=ifb))
    with pytest.raises(Refused, match=SHAPING[harm]) as refused:
        web.check("c1")
    assert refused.value.code == DRIFT
    web.delete("c1")
    assert snapshot() == before


@on_nftables
def test_i17_it_goes_when_the_namespace_is_gone(cni: Plugins) -> None:
    before = snapshot()
    web = Chain(cni, bandwidth(**MEGABIT, **OUTWARDS))
    web.add("c1")
    run("ip netns del c1")
    assert until(lambda: "veth" not in run("ip -br link"))
    web.delete("c1", at="")
    assert snapshot() == before


# -- the reference


REFERENCE: Mapping[str, Json] = {
    "portmap": {"runtimeConfig": {"portMappings": [published(8080, 80)]}},
    "firewall": {"ingressPolicy": "same-bridge"},
    "tuning": {"mac": "c2:11:22:33:44:55", "mtu": 1400, "promisc": True},
    "bandwidth": {**MEGABIT},
}


@on_nftables
@pytest.mark.parametrize("version", ["0.4.0", "1.0.0"])
@pytest.mark.parametrize("kind", REFERENCE)
def test_the_reference_answers_the_same(
    host: Host, cni: Plugins, lan: str, kind: str, version: str
) -> None:
    if not os.path.exists(f"{runtimes.REFERENCE}/{kind}"):
        pytest.skip("the reference is not installed: apt-get install containernetworking-plugins")
    theirs = Plugins(host.base, runtimes.REFERENCE)
    web = Chain(cni)
    web.add("c1")
    previous = Result.from_json(web.results["c1"], "1.1.0").to_json(version)
    conf = {"cniVersion": version, "name": "web", "prevResult": previous, **REFERENCE[kind]}
    ours = cni.add(kind, conf)
    cni.delete(kind, conf)
    assert theirs.add(kind, conf) == ours
    theirs.delete(kind, conf)
