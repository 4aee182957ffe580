"""The plugin type portmap: what its keys mean, and what they must not say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.conditions import Conditions
from cni.spec import CniError, Code
from netkit.firewall import Cover, Publish, Spare
from netkit.portspec import PortSpec
from netkit.steps import PortFlag
from tests.cni.planned import PREVIOUS, Json, machine, planned, rules, shared

WEB, WEB6 = IPv4Address("10.22.0.2"), IPv6Address("fd00:22::2")
FOUR: Json = {**PREVIOUS, "ips": PREVIOUS["ips"][:1]}


def port(host: int = 8080, container: int = 80, protocol: str = "tcp", ip: str = "") -> Json:
    return {"hostPort": host, "containerPort": container, "protocol": protocol, "hostIP": ip}


def conf(*ports: Json, **more: Any) -> Json:
    return {"runtimeConfig": {"portMappings": list(ports)}, **more}


def test_a_port_is_published_for_each_ip_version_of_the_container() -> None:
    answer = planned("portmap", conf(port()))
    assert rules(answer) == [
        Publish(None, 8080, WEB, 80, "tcp"),
        Publish(None, 8080, WEB6, 80, "tcp"),
    ]
    assert answer.proposal.ports == [PortSpec(None, 8080, 8080, 80)]
    assert answer.proposal.versions == (4, 6)
    assert rules(planned("portmap", conf(port()), previous=FOUR)) == rules(answer)[:1]


HOSTS = {
    "192.0.2.1": [Publish(IPv4Address("192.0.2.1"), 8080, WEB, 80, "tcp")],
    "::ffff:192.0.2.1": [Publish(IPv4Address("192.0.2.1"), 8080, WEB, 80, "tcp")],
    "2001:db8::1": [Publish(IPv6Address("2001:db8::1"), 8080, WEB6, 80, "tcp")],
    "0.0.0.0": [Publish(None, 8080, WEB, 80, "tcp")],
    "::": [Publish(None, 8080, WEB6, 80, "tcp")],
}


@pytest.mark.parametrize("ip", HOSTS)
def test_a_host_ip_is_of_one_version(ip: str) -> None:
    answer = planned("portmap", conf(port(ip=ip)))
    assert rules(answer) == HOSTS[ip]
    (claim,) = answer.proposal.ports
    assert claim.address is not None
    assert claim.address.version == HOSTS[ip][0].address.version


def test_of_a_host_ip_of_another_version_nothing_is_published() -> None:
    """As in the reference: a runtime of two versions names both, whatever the container has."""
    answer = planned("portmap", conf(port(ip="2001:db8::1")), previous=FOUR)
    assert (answer.proposal.plan, answer.proposal.ports) == ((), ())


def test_ports_that_follow_each_other_are_one_rule_and_one_claim() -> None:
    ports = [port(8000 + i, 80 + i) for i in (2, 0, 1)]
    others = [port(8003, 90), port(8001, 81, "udp"), port(8002, 82, ip="192.0.2.1")]
    answer = planned("portmap", conf(*ports, *ports, *others), previous=FOUR)
    assert [(str(r.host_address), r.host_port, r.count) for r in rules(answer)] == [  # type: ignore[union-attr]
        ("None", 8000, 3),
        ("None", 8003, 1),
        ("192.0.2.1", 8002, 1),
        ("None", 8001, 1),
    ]
    assert [claim.count for claim in answer.proposal.ports] == [3, 1, 1, 1]


def test_protocols_are_read_in_any_case_and_tcp_is_understood() -> None:
    entries = [port(protocol="UDP"), {"hostPort": 1, "containerPort": 1}]
    answer = planned("portmap", conf(*entries), previous=FOUR)
    assert {(r.protocol, r.host_port) for r in rules(answer)} == {("udp", 8080), ("tcp", 1)}  # type: ignore[union-attr]


@pytest.mark.parametrize("version", ["0.1.0", "0.2.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_the_result_is_the_one_before_in_the_version_asked_for(version: str) -> None:
    for ports in ([], [port()]):
        answer = planned("portmap", conf(*ports), version=version)
        said = answer.result.to_json(version)
        assert said["cniVersion"] == version
        assert "10.22.0.2/24" in str(said)
    assert planned("portmap", conf(port())).result.to_json("1.1.0") == PREVIOUS


def test_without_ports_nothing_is_made() -> None:
    silent: list[Json] = [{}, conf(), {"runtimeConfig": {"portMappings": None}}]
    for nothing in silent:
        assert planned("portmap", nothing).proposal.plan == ()


def test_localhost_and_siblings_are_let_through_by_the_link_that_leads_there() -> None:
    answer = planned("portmap", conf(port()))
    plans = shared(answer)
    assert {*plans} == {
        *("subnet 10.22.0.0/24", "subnet fd00:22::/64", "plain cni0", "localhost by cni0")
    }
    assert plans["localhost by cni0"] == "sysctl -qw net.ipv4.conf.cni0.route_localnet=1"
    flags = [step for step in answer.proposal.plan if isinstance(step, PortFlag)]
    assert flags == [PortFlag(dev="veth1", flag="hairpin")]


def test_without_snat_neither_is() -> None:
    answer = planned("portmap", conf(port(), snat=False, masqAll=True))
    assert {*shared(answer)} == {"plain cni0"}
    assert (len(rules(answer)), len(answer.proposal.plan)) == (2, 1)


def test_what_leads_out_is_not_taken_for_the_containers_link() -> None:
    """On a macvlan: with route_localnet the neighbours could send to the host's loopback."""
    alone = {**PREVIOUS, "interfaces": PREVIOUS["interfaces"][2:]}
    alone["ips"] = [{**ip, "interface": 0} for ip in PREVIOUS["ips"]]
    answer = planned("portmap", conf(port()), previous=alone)
    assert len(rules(answer)) == 2
    assert {*shared(answer)} == {"subnet 10.22.0.0/24", "subnet fd00:22::/64"}


def test_what_the_host_has_no_way_to_is_not_published() -> None:
    """On an internal network: podman publishes there, too, and another network could have it."""
    ips = [{"address": "10.23.0.2/24", "interface": 2}, PREVIOUS["ips"][1]]
    previous = {**PREVIOUS, "ips": ips}
    kernel = machine()
    for gateway in ("", "10.22.0.9"):  # which is no way to what is behind a link of the host's
        if gateway:
            kernel.netlink().add_route("cni0", None, gateway)
        answer = planned("portmap", conf(port()), previous=previous, kernel=kernel)
        assert [rule.address for rule in rules(answer)] == [WEB6]  # type: ignore[union-attr]
        assert answer.proposal.versions == (6,)
    kernel.netlink().add_route("cni0", ip_network("10.23.0.0/24"), None)
    assert len(rules(planned("portmap", conf(port()), previous=previous, kernel=kernel))) == 2


def test_addresses_of_other_interfaces_are_not_the_containers() -> None:
    ips = [{"address": "10.23.0.2/24", "interface": 3}, *PREVIOUS["ips"]]
    more = [*PREVIOUS["interfaces"], {"name": "eth1", "sandbox": "/run/netns/c1"}]
    answer = planned("portmap", conf(port()), previous={**PREVIOUS, "interfaces": more, "ips": ips})
    assert [rule.address for rule in rules(answer)] == [WEB, WEB6]  # type: ignore[union-attr]


def test_masq_all_covers_the_containers_addresses() -> None:
    assert rules(planned("portmap", conf(port(), masqAll=True)))[2:] == [Cover(WEB), Cover(WEB6)]


ACCEPTED: list[Json] = [
    {"backend": "iptables"},
    {"backend": "nftables"},
    {"markMasqBit": 0},
    {"markMasqBit": 31, "backend": "nftables"},
    {"externalSetMarkChain": "KUBE-MARK-MASQ"},
    {"externalSetMarkChain": "KUBE-MARK-MASQ", "conditionsV4": ["-s", "10.0.0.0/8"]},
    {"backend": "iptables", "conditionsV4": ["!", "-d", "10.0.0.0/8"], "conditionsV6": []},
    {"backend": "nftables", "conditionsV6": ["ip6", "daddr", "!=", "fc00::/7"]},
    {"conditionsV4": None, "snat": None},
]
REFUSED: list[tuple[Json, str]] = [
    ({"backend": "ipfw"}, "backend"),
    ({"markMasqBit": 32}, "markMasqBit"),
    ({"markMasqBit": -1}, "markMasqBit"),
    ({"markMasqBit": 1, "externalSetMarkChain": "X"}, "exclude each other"),
    ({"backend": "nftables", "externalSetMarkChain": "X"}, "externalSetMarkChain"),
    ({"backend": "nftables", "conditionsV4": ["-d", "10.0.0.1"]}, "conditionsV4"),
    ({"backend": "iptables", "conditionsV6": ["ip6 daddr ::1"]}, "conditionsV6"),
    ({"conditionsV4": ["-d", "10.0.0.1"], "conditionsV6": ["ip6 daddr ::1"]}, "conditionsV"),
    ({"snat": "yes"}, "snat"),
]


@pytest.mark.parametrize("more", ACCEPTED, ids=str)
def test_what_the_reference_takes_is_taken(more: Json) -> None:
    assert planned("portmap", conf(port(), **more)).proposal.plan


@pytest.mark.parametrize(("more", "why"), REFUSED, ids=str)
def test_what_contradicts_itself_is_refused(more: Json, why: str) -> None:
    with pytest.raises(CniError, match=why) as refused:
        planned("portmap", conf(port(), **more))
    assert refused.value.code == Code.INVALID_CONFIG


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        (port(0), r"portMappings\[1\]: hostPort is 0"),
        (port(65536), "hostPort is 65536"),
        (port(container=-1), "containerPort is -1"),
        (port(protocol="icmp"), "'icmp', not one of tcp, udp, sctp"),
        (port(ip="nonsense"), "nonsense"),
        (port(ip="fe80::1%eth0"), "fe80::1%eth0"),
        ({"hostPort": "8080"}, "hostPort"),
    ],
)
def test_an_entry_that_is_none_is_named(entry: Json, why: str) -> None:
    with pytest.raises(Exception, match=why):
        planned("portmap", conf(port(1, 1), entry))


def test_a_chained_plugin_needs_a_result_before_it() -> None:
    with pytest.raises(CniError, match="prevResult"):
        planned("portmap", conf(port()), previous=None)


# -- conditions


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["!", "-d", "192.0.2.0/24"], [("0.0.0.0/0", "192.0.2.0/24")]),
        (["!", "-s", "192.0.2.7"], [("192.0.2.7/32", "0.0.0.0/0")]),
        (["-s", "128.0.0.0/1"], [("0.0.0.0/1", "0.0.0.0/0")]),
        (["ip", "daddr", "!=", "192.0.2.0/24"], [("0.0.0.0/0", "192.0.2.0/24")]),
        (
            ["-s", "128.0.0.0/1", "!", "-d", "192.0.2.0/24"],
            [("0.0.0.0/1", "0.0.0.0/0"), ("128.0.0.0/1", "192.0.2.0/24")],
        ),
    ],
)
def test_conditions_are_exceptions(words: list[str], spared: list[tuple[str, str]]) -> None:
    answer = planned("portmap", conf(port(), conditionsV4=words), previous=FOUR)
    *found, last = rules(answer)
    assert found == [
        Spare(IPv4Network(source), IPv4Network(destination), 8080, "tcp")
        for source, destination in spared
    ]
    assert last == Publish(None, 8080, WEB, 80, "tcp")


def test_of_a_host_ip_only_its_own_exceptions_count() -> None:
    words = ["!", "-d", "192.0.2.0/24", "!", "-s", "10.0.0.0/8"]
    answer = planned("portmap", conf(port(ip="198.51.100.1"), conditionsV4=words), previous=FOUR)
    spare, _ = rules(answer)
    assert spare == Spare(IPv4Network("10.0.0.0/8"), IPv4Network("198.51.100.1/32"), 8080, "tcp")


def test_an_interface_is_the_ports_own() -> None:
    answer = planned("portmap", conf(port(), conditionsV4=["-i", "lan0"]), previous=FOUR)
    assert rules(answer) == [Publish(None, 8080, WEB, 80, "tcp", device="lan0")]
    assert answer.proposal.ports[0].device == "lan0"


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "mark", "--mark", "1"],
        ["!", "-i", "lan0"],
        ["-d"],
        ["-d", "nonsense"],
        ["-s", "2001:db8::/32"],
        ["ip daddr { 10.0.0.1, 10.0.0.2 }"],
        ["meta mark 1"],
        ["!"],
    ],
    ids=str,
)
def test_a_condition_that_cannot_be_kept_is_refused(words: list[str]) -> None:
    with pytest.raises(CniError, match="cannot publish on the condition"):
        planned("portmap", conf(port(), conditionsV4=words))


def test_an_interface_and_a_host_ip_are_too_much() -> None:
    words = ["-i", "lan0"]
    with pytest.raises(CniError, match=r"interface lan0 with hostIP 192\.0\.2\.1"):
        planned("portmap", conf(port(ip="192.0.2.1"), conditionsV4=words))


_NETS = st.builds(
    lambda bits, length: ip_network((bits, length), strict=False),
    st.integers(0, (1 << 32) - 1),
    st.integers(0, 32),
)
_TERMS = st.lists(st.tuples(st.sampled_from(["source", "destination"]), _NETS), max_size=3)


@given(_TERMS, _TERMS, st.data())
def test_what_is_excluded_is_what_no_condition_admits(
    only: list[tuple[str, Any]], never: list[tuple[str, Any]], data: st.DataObject
) -> None:
    """For any packet; and no two exceptions overlap, which nftables would refuse."""
    conditions = Conditions(tuple(only), tuple(never))
    found = conditions.excluded(ip_network("0.0.0.0/0"))
    for i, (source, destination) in enumerate(found):
        for other, another in found[:i]:
            assert not (source.overlaps(other) and destination.overlaps(another))
    near = [net[0] for _, net in (*only, *never)] + [ip_address("192.0.2.1")]
    packet = {end: data.draw(st.sampled_from(near)) for end in ("source", "destination")}
    admitted = all(packet[end] in net for end, net in only) and not any(
        packet[end] in net for end, net in never
    )
    spared = [s for s, d in found if packet["source"] in s and packet["destination"] in d]
    assert bool(spared) != admitted
