"""What is said of who may talk to whom, and the rules it becomes: disjoint, and no more or less."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.access import Allowance, ContainerLink, EgressRule, egress_list
from netkit.drivers import access
from netkit.errors import InvalidSpec
from netkit.firewall import Confine, Egress, HostPort, Meet, NoHost, Reach, Serve
from netkit.model import EndpointRecord, NetworkRecord
from netkit.portspec import PortMapping
from netkit.specs import Request

PORTS = st.integers(1, 12)
SPANS = st.tuples(PORTS, st.sampled_from(["tcp", "udp"]), st.integers(1, 5))
NETS = st.sampled_from(
    [ip_network(f"10.0.0.{n}/{28 + n.bit_length() % 5}", False) for n in range(16)]
)
EGRESS = st.builds(
    EgressRule, NETS, st.none(), PORTS, st.sampled_from(["tcp", "udp"]), st.integers(1, 5)
) | st.builds(EgressRule, NETS)
NET = NetworkRecord(id="net", name="net", driver="bridge", bridge="br0", icc=False)


def member(
    name: str, number: int, *, request: Request | None = None, ports: Sequence[PortMapping] = ()
) -> access.Member:
    ep = EndpointRecord(
        id=name,
        network="net",
        sandbox=name,
        ifname="eth0",
        host_ifname=f"veth{number}",
        owner=f"{name}/eth0",
        addresses=(IPv4Interface(f"10.0.0.{number}/24"),),
        request=request,
        ports=tuple(ports),
    )
    return access.Member(name, ep)


# -- what is said


@pytest.mark.parametrize(
    ("client", "text", "shown"),
    [
        ("web", "db", "web -> db"),
        ("web", "db:5432", "web -> db:5432/tcp"),
        ("*", "db:53/udp", "* -> db:53/udp"),
        ("web", "host:9000-9009/TCP", "web -> host:9000-9009/tcp"),
    ],
)
def test_an_allowance_reads_as_it_was_said(client: str, text: str, shown: str) -> None:
    assert str(Allowance.parse(client, text)) == shown


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.0/8", "10.0.0.0/8:443/tcp", "[2001:db8::]/32:53/udp", "2001:db8::/32"),
        *("192.0.2.7/32:80-90/tcp", "example.com:443/tcp", "*.example.com"),
    ],
)
def test_an_egress_rule_reads_as_it_was_said(text: str) -> None:
    rule = EgressRule.parse(text)
    assert str(rule) == text
    assert EgressRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ":80",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "example.com:",
            "exa mple.com",
            "a\nb",
            "*.*.com",
        ),
        *("*", "example.com:0", "example.com:70000", "example.com:90-80", "example.com:80/icmp"),
        *("2001:db8::/129", "[2001:db8::", "example.com:80:80", "-a.com", "#", "example.com:1-17"),
    ],
)
def test_what_is_no_egress_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec):
        EgressRule.parse(text)


def test_a_domain_covers_itself_and_a_wildcard_what_is_below() -> None:
    assert EgressRule.parse("example.com").covers("example.com")
    assert not EgressRule.parse("example.com").covers("www.example.com")
    assert EgressRule.parse("*.example.com").covers("a.b.example.com")
    for other in ("example.com", "badexample.com", "example.com.evil"):
        assert not EgressRule.parse("*.example.com").covers(other)
    assert not EgressRule.parse("10.0.0.0/8").covers("10.0.0.1")


def test_no_option_is_no_list_and_none_an_empty_one() -> None:
    assert egress_list(()) is None
    assert egress_list(["none"]) == ()
    assert egress_list(["a.b", "a.b"]) == (EgressRule(domain="a.b"),)


# -- what it becomes


@given(st.lists(SPANS))
def test_spans_are_the_same_ports_and_none_twice(given: list[access.Span]) -> None:
    def ports(spans: list[access.Span]) -> list[tuple[str | None, int]]:
        return [
            (p, n) for first, p, count in spans for n in range(first or 0, (first or 0) + count)
        ]

    found = ports(access.spans(given))
    assert len(found) == len(set(found))
    assert set(found) == set(ports(given))
    assert access.spans([*given, (None, None, 1)]) == [(None, None, 1)]


@given(st.lists(EGRESS, max_size=8))
def test_where_packets_may_go_is_the_same_and_in_boxes_that_do_not_overlap(
    listed: list[EgressRule],
) -> None:
    boxes = access._let_out(listed, link="br0")
    for one, other in combinations(boxes, 2):
        same_ports = one.protocol == other.protocol and (
            one.port is None
            or other.port is None
            or not {*range(one.port, one.port + one.count)}.isdisjoint(
                range(other.port, other.port + other.count)
            )
        )
        if (one.port is None) == (other.port is None) and same_ports:
            assert not one.destination.overlaps(other.destination)

    def passes(rules: list[Egress] | list[EgressRule], ip: IPv4Address, port: int) -> bool:
        return any(
            rule.destination is not None
            and ip in rule.destination
            and (
                rule.port is None
                or (rule.protocol == "tcp" and rule.port <= port < rule.port + rule.count)
            )
            for rule in rules
        )

    for ip in IPv4Network("10.0.0.0/27"):
        for port in range(1, 18, 2):
            assert passes(boxes, ip, port) == passes(listed, ip, port)


def test_what_two_may_do_is_told_both_ways_with_one_acquaintance() -> None:
    net = NetworkRecord(
        id="net",
        name="net",
        driver="bridge",
        bridge="br0",
        icc=False,
        allows=(Allowance("web", "db", 80, "tcp"), Allowance("db", "web", None, None)),
    )
    assert access.between(net, member("web", 2), member("db", 1)) == [
        Meet("veth1", "veth2"),
        Reach("veth2", "veth1", 80, "tcp", 1, True),
        Reach("veth1", "veth2", None, None, 1, True),
    ]
    assert access.between(net, member("web", 2), member("app", 3)) == []


def test_a_link_is_to_what_its_target_exposes_and_publishes() -> None:
    published = PortMapping(IPv4Address(0), 8080, 80, "tcp", 2)
    target = member("db", 1, ports=(published,))._replace(exposed=("81/tcp", "53/udp"))
    linking = member("web", 2, request=Request(links=(ContainerLink("db", "x"),)))
    assert access.between(NET, linking, target) == [
        Meet("veth1", "veth2"),
        Reach("veth2", "veth1", 80, "tcp", 2, True),
        Reach("veth2", "veth1", 53, "udp", 1, True),
    ]


def test_an_endpoint_holds_what_is_its_own() -> None:
    net = NetworkRecord(
        id="net",
        name="net",
        driver="bridge",
        bridge="br0",
        icc=False,
        host_access=False,
        egress=(),
        allows=(
            Allowance("*", "db", 80, "tcp"),
            Allowance("*", "host", 53, "udp"),
            Allowance("db", "host", 52, "udp", 2),
            Allowance("web", "host", 22, "tcp"),
        ),
    )
    listed = Request(egress=(EgressRule.parse("192.0.2.0/24"), EgressRule.parse("a.b")))
    ip = IPv4Address("10.0.0.1")
    gateway = IPv4Address("10.0.0.254")
    assert access.of_link(net, "br0", [gateway]) == [
        NoHost("br0", (gateway,)),
        HostPort("br0", 53, "udp"),
        Confine("br0"),
    ]
    assert access.of_endpoint(net, member("db", 1, request=listed).ep) == [
        Meet("veth1", None),
        Serve("veth1", 80, "tcp", 1, True, ()),
        HostPort("br0", 52, "udp", 1, ip),  # without what everybody may
        Confine(address=ip),
        Egress(IPv4Network("192.0.2.0/24"), address=ip),
    ]
