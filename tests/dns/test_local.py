"""What is answered without asking anybody."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from netkit.dns import local, message
from tests.asking import Known, addresses

VIEW = Known(
    {
        "web": ["10.0.0.2", "10.0.0.3", "fd00::2"],
        "db": ["10.0.0.4"],
        "three": ["10.0.0.11", "10.0.0.12", "10.0.0.13"],
        "off": [],
        "lab": [],
    },
    zones=["lab", "0.0.10.in-addr.arpa"],
    offered={("http", "tcp", "web"): [(80, "web"), (8080, "web.lab")]},
)


def told(name: str, kind: str, *, turn: int = 0) -> dns.message.Message | None:
    query = message.parse(dns.message.make_query(name, kind).to_wire())
    assert isinstance(query, message.Query)
    answers = local.answers(VIEW, query, 512, first=turn)
    return dns.message.from_wire(answers[0]) if answers else None


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("db", "A", ["10.0.0.4"]),
        ("web", "AAAA", ["fd00::2"]),
        ("wEb", "AAAA", ["fd00::2"]),
        ("db", "ANY", ["10.0.0.4"]),
        ("4.0.0.10.in-addr.arpa", "PTR", ["db."]),
        ("2." + 29 * "0." + "d.f.ip6.arpa", "PTR", ["web."]),
        ("_http._tcp.web", "SRV", ["0 0 80 web.", "0 0 8080 web.lab."]),
    ],
)
def test_what_is_ours_is_told(name: str, kind: str, expected: list[str]) -> None:
    answer = told(name, kind)
    assert answer
    assert sorted(addresses(answer)) == expected
    assert answer.flags & dns.flags.AA


def test_nothing_is_to_be_kept_in_mind() -> None:
    """G8: TTL 0, of what there is and of what there is not."""
    for name in ("db", "off", "nobody"):
        answer = told(name, "A")
        assert answer
        records = answer.answer + answer.authority
        assert [record.ttl for record in records] == [0]
        assert all(soa.minimum == 0 for record in answer.authority for soa in record)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("db", "AAAA"),
        ("db", "MX"),
        ("db", "TXT"),
        ("off", "A"),
        ("lab", "A"),
        ("4.0.0.10.in-addr.arpa", "A"),
        ("_http._tcp.web", "A"),
    ],
)
def test_a_name_without_what_is_asked_is_there_all_the_same(name: str, kind: str) -> None:
    """G4: NODATA, not NXDOMAIN."""
    answer = told(name, kind)
    assert answer
    assert (answer.rcode(), answer.answer) == (dns.rcode.NOERROR, [])
    assert [each.rdtype for each in answer.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nobody", "A"),
        ("nobody", "MX"),
        ("nobody.lab", "A"),
        ("deep.below.lab", "AAAA"),
        ("9.0.0.10.in-addr.arpa", "PTR"),
        ("_smtp._tcp.web", "SRV"),
    ],
)
def test_what_could_only_be_ours_and_is_not_there_is_asked_nobody_about(
    name: str, kind: str
) -> None:
    answer = told(name, kind)
    assert answer
    assert answer.rcode() == dns.rcode.NXDOMAIN
    assert [each.rdtype for each in answer.authority] == [dns.rdatatype.SOA]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("example.com", "A"),
        ("web.example.com", "A"),
        ("laboratory.example", "A"),
        ("1.1.1.1.in-addr.arpa", "PTR"),
        ("1.1.1.in-addr.arpa", "PTR"),
        ("x.ip6.arpa", "PTR"),
        ("_xmpp._tcp.example.com", "SRV"),
        ("com", "DS"),
        (".", "NS"),
    ],
)
def test_all_else_is_for_the_upstreams(name: str, kind: str) -> None:
    assert told(name, kind) is None


def test_bare_names_too_where_the_view_has_it_so() -> None:
    query = message.parse(dns.message.make_query("nobody", "A").to_wire())
    assert isinstance(query, message.Query)
    assert local.answers(Known(keeps_bare=False), query, 512) is None


def test_a_name_longer_than_dns_allows_is_not_told() -> None:
    """A container may have one. Nobody can ask for it; its address has no name, then."""
    long = 64 * "a"
    view = Known({long: ["10.0.0.2"]}, offered={("http", "tcp", "web"): [(80, long), (81, "web")]})
    for name, kind, told_ in (
        ("2.0.0.10.in-addr.arpa", "PTR", []),
        ("_http._tcp.web", "SRV", ["0 0 81 web."]),
    ):
        query = message.parse(dns.message.make_query(name, kind).to_wire())
        assert isinstance(query, message.Query)
        answers = local.answers(view, query, 512)
        assert answers
        assert addresses(dns.message.from_wire(answers[0])) == told_


def test_each_turn_begins_with_another_address() -> None:
    """G7: whoever takes the first is spread over all."""
    turns = [told("three", "A", turn=n) for n in range(3)]
    assert {addresses(turn)[0] for turn in turns if turn} == set(VIEW.names["three"])
    assert {frozenset(addresses(turn)) for turn in turns if turn} == {
        frozenset(VIEW.names["three"])
    }
