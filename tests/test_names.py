"""Names as records make them: what each container may know, whatever order things happened in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from netkit.access import ContainerLink, EgressRule
from netkit.addresses import Address
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord, Subnet
from netkit.names import Names, View, is_reserved, own_name
from netkit.portspec import PortMapping
from netkit.specs import NameFiles, Request

Record = NetworkRecord | SandboxRecord | EndpointRecord


def network(number: int, name: str, **given: Any) -> NetworkRecord:
    pool = Subnet(subnet=ip_network(f"10.{number}.0.0/24"), gateway=ip_address(f"10.{number}.0.1"))
    return NetworkRecord(
        id=f"{number:064x}", name=name, driver="bridge", pools=(pool,), **{"names": True, **given}
    )


def sandbox(number: int, name: str, **given: Any) -> SandboxRecord:
    return SandboxRecord(
        id=f"{number + 0x5A0000:x}".ljust(64, "0"), name=name, sort="named", netns="/x", **given
    )


def endpoint(
    net: NetworkRecord, of: SandboxRecord, number: int, *, priority: int = 0, **wanted: Any
) -> EndpointRecord:
    prefix = net.subnets[0].network_address
    return EndpointRecord(
        id=f"{number:064x}",
        network=net.id,
        sandbox=of.id,
        ifname=f"eth{number}",
        addresses=(ip_interface(f"{prefix + number}/24"),),
        gateway_priority=priority,
        request=Request(**wanted),
    )


def known(*records: Record) -> Names:
    names = Names(lambda: ("192.0.2.53",))
    for record in records:
        names.put(record)
    return names


def view(names: Names, ep: EndpointRecord) -> View:
    gateway = names.networks[ep.network].gateways[0].ip
    found = names.view(gateway, ep.addresses[0].ip)
    assert found is not None
    return found


WEB, BACK = network(1, "web"), network(2, "Back.Net")
ASKER, DB, OTHER = sandbox(1, "asker"), sandbox(2, "db"), sandbox(3, "other")
ON_WEB = endpoint(WEB, ASKER, 10)


def texts(found: Any) -> list[str] | None:
    return None if found is None else sorted(map(str, found))


def test_who_asks_is_known_by_the_gateway_and_his_address_together() -> None:
    names = known(WEB, BACK, ASKER, ON_WEB)
    own, gateways = ON_WEB.addresses[0].ip, [net.gateways[0].ip for net in (WEB, BACK)]
    assert names.view(gateways[0], own)
    assert names.view(gateways[1], own) is None
    assert names.view(gateways[0], gateways[0]) is None
    assert names.gateways() == {gateways[0]}  # nobody is on the other


def test_an_address_more_is_his_too_and_told_unless_it_is_of_the_link_only() -> None:
    extra = (ip_interface("198.51.100.7/24"), ip_interface("169.254.9.9/16"))
    ep = endpoint(WEB, ASKER, 10, extra=extra)
    names = known(WEB, ASKER, ep)
    for each in (*ep.addresses, *extra):
        assert names.view(WEB.gateways[0].ip, each.ip)
    assert texts(view(names, ep).addresses("asker")) == ["10.1.0.10", "198.51.100.7"]


def test_of_names_alike_a_containers_own_comes_before_ids_aliases_and_hostnames() -> None:
    short = DB.id[:12]
    net = replace(WEB, hostnames=True)
    host = sandbox(4, "host4", files=NameFiles(hostname="db"))
    records: list[Record] = [
        *(net, ASKER, DB, OTHER, host, ON_WEB),
        endpoint(net, DB, 11),
        endpoint(net, OTHER, 12, aliases=(short, "shared")),
        endpoint(net, host, 13, aliases=("shared",)),
    ]
    seen = view(known(*records), ON_WEB)
    assert texts(seen.addresses("db")) == texts(seen.addresses(short)) == ["10.1.0.11"]
    assert texts(seen.addresses("shared")) == ["10.1.0.12", "10.1.0.13"]


def test_of_several_networks_the_first_that_knows_a_name_answers() -> None:
    mine = [endpoint(WEB, ASKER, 10), endpoint(BACK, ASKER, 20, priority=5)]
    here, there = endpoint(WEB, DB, 11), endpoint(BACK, DB, 21)
    names = known(WEB, BACK, ASKER, DB, *mine, here, there)
    for ep in mine:  # whichever of its gateways it asks
        seen = view(names, ep)
        assert texts(seen.addresses("db")) == ["10.2.0.21"]
        assert texts(seen.addresses("db.web")) == ["10.1.0.11"]
        assert texts(seen.addresses("db.back.net")) == ["10.2.0.21"]
        assert seen.addresses("nobody.back.net") is None
        assert seen.owns("nobody.back.net")
        assert texts(seen.addresses("back.net")) == []
        assert not seen.owns("back.network")
        assert seen.name_of(ip_address("10.2.0.21")) == "db.back.net"
        assert seen.name_of(ip_address("10.2.0.1")) == "host.internal"
        assert seen.name_of(ip_address("10.3.0.1")) is None


def test_a_name_that_is_no_label_is_none_and_a_runtimes_id_is_short() -> None:
    assert own_name(sandbox(1, "Web_1")) == "web_1"
    assert own_name(sandbox(1, "a" * 64)) == "a" * 12  # hex: an id
    for name in ("my.web", "x" * 64, "ends-", "localhost", "wpad", "ip6-x"):
        assert own_name(sandbox(1, name)) is None, name
    odd = sandbox(1, "my.web")
    ep = endpoint(WEB, odd, 10)
    seen = view(known(WEB, odd, ep), ep)
    assert seen.addresses("my.web") is None or texts(seen.addresses("my.web")) == []
    assert seen.name_of(ep.addresses[0].ip) == f"{odd.id[:12]}.web"


def test_of_wildcards_the_longest_counts_and_never_for_its_own_name() -> None:
    deep = endpoint(WEB, DB, 11, aliases=("*.deep.app.local",))
    wide = endpoint(WEB, OTHER, 12, aliases=("*.App.local", "one.deep.app.local"))
    seen = view(known(WEB, ASKER, DB, ON_WEB, deep, OTHER, wide), ON_WEB)
    for name, found in (
        ("x.app.local", ["10.1.0.12"]),
        ("x.y.app.local", ["10.1.0.12"]),
        ("x.y.deep.app.local", ["10.1.0.11"]),
        ("one.deep.app.local", ["10.1.0.12"]),
        ("deep.app.local", ["10.1.0.12"]),
        ("app.local", None),
        ("xapp.local", None),
    ):
        assert texts(seen.addresses(name)) == found, name


def test_a_link_alias_follows_its_target_by_name() -> None:
    asker = endpoint(WEB, ASKER, 10, links=(ContainerLink("DB", "Store.example"),))
    names = known(WEB, ASKER, asker)
    assert view(names, asker).addresses("store.example") is None
    assert view(names, asker).owns("store.example")  # and asks nobody else what is there
    names.put(DB)
    names.put(endpoint(WEB, DB, 11))
    assert texts(view(names, asker).addresses("store.example")) == ["10.1.0.11"]
    names.remove("endpoint", endpoint(WEB, DB, 11).id)
    other = replace(DB, id="f" * 64)  # another one of that name
    names.put(other)
    names.put(endpoint(WEB, other, 12))
    assert texts(view(names, asker).addresses("store.example")) == ["10.1.0.12"]


@pytest.mark.parametrize(
    ("files", "net", "asked"),
    [
        ({}, {}, ["192.0.2.53"]),
        ({}, {"servers": ("192.0.2.1",)}, ["192.0.2.1"]),
        ({"servers": ("192.0.2.2", "fe80::1%eth0")}, {"servers": ("192.0.2.1",)}, ["192.0.2.2"]),
        ({"servers": ("127.0.0.1", "::1", "0.0.0.0")}, {}, []),  # not the host's
        ({"servers": ("10.2.0.1", "10.1.0.1", "192.0.2.3")}, {}, ["192.0.2.3"]),  # not ourselves
        ({"servers": ("192.0.2.2",)}, {"internal": True}, []),
    ],
)
def test_whom_a_container_has_asked_about_all_else(
    files: Mapping[str, Any], net: Mapping[str, Any], asked: list[str]
) -> None:
    web, asker = replace(WEB, **net), sandbox(1, "asker", files=NameFiles(**files))
    assert list(view(known(web, BACK, asker, ON_WEB), ON_WEB).upstreams) == asked


def test_a_network_without_names_is_a_way_out_all_the_same() -> None:
    inside, lan = replace(WEB, internal=True), network(3, "lan", names=False)
    names = known(inside, lan, ASKER, ON_WEB)
    assert not view(names, ON_WEB).upstreams
    names.put(endpoint(lan, ASKER, 30))
    assert view(names, ON_WEB).upstreams
    assert view(names, ON_WEB).addresses("asker.lan") is None


def test_services_are_of_ports_exposed_or_published() -> None:
    db = replace(DB, exposed=("5432/tcp",))
    range_ = PortMapping(ip_address("0.0.0.0"), 8000, 79, "tcp", 3)
    ep = replace(endpoint(WEB, db, 11), ports=(range_,))
    seen = view(known(WEB, ASKER, db, ON_WEB, ep), ON_WEB)
    assert seen.services("5432", "tcp", "db") == [(5432, "db.web")]
    assert seen.services("http", "tcp", "db.web") == [(80, "db.web")]
    for service, protocol in (("82", "tcp"), ("80", "udp"), ("no", "tcp"), ("9" * 30, "tcp")):
        assert seen.services(service, protocol, "db") == [], service
    assert seen.services("80", "tcp", "nobody") == []


def test_names_of_egress_lists_are_watched_on_any_of_its_networks() -> None:
    rules = tuple(map(EgressRule.parse, ("*.example.com:443", "one.example", "10.0.0.0/8")))
    asker = endpoint(WEB, ASKER, 10, egress=rules[:1])
    second = endpoint(replace(BACK, egress=rules[1:]), ASKER, 20)
    seen = view(known(WEB, replace(BACK, egress=rules[1:]), ASKER, asker, second), asker)
    for name, watched in (
        ("www.example.com", True),
        ("one.example", True),
        ("example.com", False),
        ("x.one.example", False),
    ):
        assert seen.is_watched(name) == watched, name


@given(st.text() | st.lists(st.sampled_from("_a\0é.*-9"), max_size=20).map("".join))
def test_no_name_whatever_is_too_much(name: str) -> None:
    seen = view(known(WEB, ASKER, ON_WEB), ON_WEB)
    seen.addresses(name)
    seen.services(name, "tcp", "asker")
    seen.services("http", name, "asker")
    seen.owns(name)
    seen.is_watched(name)
    is_reserved(name)


# -- whatever happened before


NETWORKS = [
    [WEB, replace(WEB, names=False), replace(WEB, hostnames=True, servers=("192.0.2.9",))],
    [BACK, replace(BACK, name="web2"), replace(BACK, internal=True)],
]
SANDBOXES = [
    [ASKER, replace(ASKER, files=NameFiles(hostname="db"))],
    [DB, replace(DB, name="store", exposed=("80/tcp",))],
    [OTHER, replace(OTHER, files=NameFiles(servers=("192.0.2.7",)))],
]
_WISHES: list[dict[str, Any]] = [
    {},
    {"aliases": ("shared", "*.app.local")},
    {"aliases": ("other", "*.deep.app.local"), "links": (ContainerLink("db", "shared"),)},
]
ENDPOINTS = [
    [endpoint(net, of, 10 * n + m + 2, priority=len(wish) - m, **wish) for wish in _WISHES]
    for n, (net, *_) in enumerate(NETWORKS)
    for m, (of, *_) in enumerate(SANDBOXES)
]
EVERY: Sequence[Sequence[Record]] = [*NETWORKS, *SANDBOXES, *ENDPOINTS]
CALLED = (
    *("asker", "db", "store", "other", "shared", "x.app.local", "x.deep.app.local", "app.local"),
    *("db.web", "db.web2", "shared.back.net", ASKER.id[:12], "host.internal", "nobody"),
)


def told(names: Names) -> dict[str, object]:
    """All that anybody may be told."""
    found: dict[str, object] = {"gateways": sorted(map(str, names.gateways()))}
    everywhere: list[Address] = [each.gateways[0].ip for (each, *_) in NETWORKS]
    for gateway in everywhere:
        for ep, *_ in ENDPOINTS:
            own = ep.addresses[0].ip
            seen = names.view(gateway, own)
            found[f"{own} at {gateway}"] = seen and [
                [texts(seen.addresses(name)) for name in CALLED],
                [seen.name_of(each[0].addresses[0].ip) for each in ENDPOINTS],
                [seen.services("80", "tcp", name) for name in CALLED],
                list(seen.upstreams),
            ]
    return found


_happenings = st.lists(
    st.sampled_from(range(len(EVERY))).flatmap(
        lambda n: st.tuples(st.just(n), st.sampled_from([None, *EVERY[n]]))
    ),
    max_size=40,
)


@given(_happenings, st.randoms(use_true_random=False))
def test_what_is_told_depends_on_what_there_is_and_not_on_how_it_came_about(
    happenings: list[tuple[int, Record | None]], random: Any
) -> None:
    names = known()
    for number, record in happenings:
        if record is None:
            first = EVERY[number][0]
            names.remove(first.kind, first.id)
        else:
            names.put(record)
    last = list(dict(happenings).values())
    random.shuffle(last)
    assert told(names) == told(known(*(record for record in last if record is not None)))


def test_nothing_is_left_of_who_is_gone() -> None:
    names = known(*(states[-1] for states in EVERY))
    for states in reversed(EVERY):
        names.remove(states[0].kind, states[0].id)
    empty = vars(known())
    left = {key: value for key, value in vars(names).items() if key != "host_servers"}
    assert left == {key: value for key, value in empty.items() if key != "host_servers"}
