"""Which subnet comes next, and which may not come at all."""

from __future__ import annotations

from ipaddress import ip_network
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.errors import InvalidPool, PoolExhausted, PoolOverlap
from ipam.pool import Network, parse_network
from ipam.space import AddressSpace, Block, check, ula


def networks(*texts: str) -> list[Network]:
    return [parse_network(text) for text in texts]


def test_the_default_pools_are_dockers_in_dockers_order() -> None:
    taken: list[Network] = []
    for _ in range(31):
        taken.append(AddressSpace().next(taken))
    with pytest.raises(PoolExhausted) as refused:
        AddressSpace().next(taken)
    assert str(refused.value) == "all predefined address pools have been fully subnetted"
    assert refused.value.hint
    assert [str(net) for net in taken] == [
        *(f"172.{second}.0.0/16" for second in range(17, 32)),
        *(f"192.168.{third}.0/20" for third in range(0, 256, 16)),
    ]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ([], "172.17.0.0/16"),
        (["172.17.42.0/24"], "172.18.0.0/16"),
        (["172.17.0.1/32"], "172.18.0.0/16"),  # a nameserver
        (["172.17.0.0/32"], "172.18.0.0/16"),
        (["172.17.255.255/32"], "172.18.0.0/16"),
        (["172.0.0.0/8"], "192.168.0.0/20"),
        (["172.0.0.0/7"], "172.17.0.0/16"),  # wider than any private network: a way out
        (["172.16.0.0/12"], "192.168.0.0/20"),
        (["172.16.0.0/12", "192.168.16.0/24", "192.168.0.0/24"], "192.168.32.0/20"),
        (["172.18.0.0/16"], "172.17.0.0/16"),
        (["0.0.0.0/0", "::/0"], "172.17.0.0/16"),
        (["0.0.0.0/1", "128.0.0.0/1"], "172.17.0.0/16"),
        (["128.0.0.0/2"], "172.17.0.0/16"),
        (["fd00::/8"], "172.17.0.0/16"),
    ],
)
def test_the_next_subnet_keeps_clear_of_what_is_taken(taken: list[str], expected: str) -> None:
    assert str(AddressSpace().next(networks(*taken))) == expected


def test_pools_can_be_configured_and_a_length_be_asked_for() -> None:
    space = AddressSpace([Block.parse("10.10.0.0/16", 24), Block.parse("10.20.0.0/16", 28)])
    assert str(space.next()) == "10.10.0.0/24"
    assert str(space.next(networks("10.10.0.0/16"))) == "10.20.0.0/28"
    assert str(space.next(networks("10.10.0.0/24"), size=26)) == "10.10.1.0/26"
    assert str(space.next(networks("10.10.0.0/24"), size=16)) == "10.20.0.0/16"
    with pytest.raises(PoolExhausted):
        space.next(size=15)


@pytest.mark.parametrize("size", [15, 33])
def test_a_block_that_cannot_be_cut_is_refused(size: int) -> None:
    with pytest.raises(InvalidPool, match=f"cannot cut /{size} from 10.10.0.0/16"):
        Block.parse("10.10.0.0/16", size)


def test_ipv6_subnets_come_from_a_private_48_that_the_seed_decides() -> None:
    """The seed's /48 must stay the same from release to release: networks hold parts of it."""
    space = AddressSpace([*AddressSpace().blocks, ula("host-a")])
    first = space.next(version=6)
    assert str(first) == "fdc1:51e3:92ca::/64"
    assert str(space.next([first], version=6)) == "fdc1:51e3:92ca:1::/64"
    assert ula("host-b").base != ula("host-a").base


def test_thousands_of_subnets_taken_do_not_slow_the_next_one_down() -> None:
    """Some 30 ms of a processor where netaddr's sets took over a second."""
    block = ula("host-a")
    start = int(block.base.network_address)
    # host routes, as a routed network has them: each spoils a whole piece
    taken = [ip_network((start + (piece << 64) + 7, 128)) for piece in range(10_000)]
    begin = process_time()
    assert AddressSpace([block]).next(taken, version=6) == ip_network((start + (10_000 << 64), 64))
    assert process_time() - begin < 0.5


def test_ipv6_pools_can_be_configured_beside_ipv4_ones_and_a_length_be_asked_for() -> None:
    space = AddressSpace(
        [
            Block.parse("10.10.0.0/16", 24),
            Block.parse("fd00:1::/63", 64),
            Block.parse("fd01::/48", 64),
        ]
    )
    taken: list[Network] = []
    for _ in range(3):
        taken.append(space.next(taken, version=6))
    assert [str(net) for net in taken] == ["fd00:1::/64", "fd00:1:0:1::/64", "fd01::/64"]
    assert str(space.next(taken, version=6, size=80)) == "fd01:0:0:1::/80"
    assert str(space.next(taken)) == "10.10.0.0/24"
    with pytest.raises(PoolExhausted):
        AddressSpace().next(version=6)


def test_what_every_ipv6_link_has_is_in_nobodys_way() -> None:
    shared = networks("fe80::/64", "ff00::/8", "fe80::/10", "::/0", "2000::/3")
    assert str(check("fe80::/64", routes=shared)) == "fe80::/64"
    assert str(check("2001:db8::/64", routes=shared)) == "2001:db8::/64"
    space = AddressSpace([Block.parse("fe80::/10", 64)])
    assert str(space.next(shared, version=6)) == "fe80::/64"
    with pytest.raises(PoolOverlap, match="overlaps the host's route to 2001:db8::/32"):
        check("2001:db8::/64", routes=networks("2001:db8::/32"))


def test_an_overlap_names_the_other() -> None:
    own = [("web", parse_network("10.88.0.0/24"))]
    with pytest.raises(PoolOverlap, match=r"10\.88\.0\.0/16 overlaps network 'web' \(10\.88\.0\."):
        check("10.88.0.0/16", own=own)
    with pytest.raises(PoolOverlap, match=r"10\.88\.0\.128/25 overlaps network 'web'"):
        check("10.88.0.128/25", own=own)
    with pytest.raises(PoolOverlap, match="overlaps the host's route to fc00::/7"):
        check("fd00::/64", routes=networks("fc00::/6", "fc00::/7"))
    with pytest.raises(PoolOverlap, match=r"10\.5\.0\.0/24 overlaps the host's route to 10\.5\."):
        check("10.5.0.0/24", own=own, routes=networks("10.5.0.0/16"))


def test_neighbours_other_families_and_ways_out_are_no_overlap() -> None:
    routes = networks("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "::/0", "2000::/3", "10.88.1.0/24")
    own = [("v6", parse_network("fd00:88::/64")), ("web", parse_network("10.88.2.0/24"))]
    assert str(check("10.88.0.0/24", own=own, routes=routes)) == "10.88.0.0/24"
    assert str(check("fd00:89::/64", own=own, routes=routes)) == "fd00:89::/64"


def pieces(base: int, longest: int) -> st.SearchStrategy[Network]:
    """Networks in and around the 2**16 addresses, or /64s, from *base* on."""
    unit = longest - 64 if longest > 32 else 0
    return st.tuples(st.integers(-9, 2**16 + 9), st.integers(16, 32)).map(
        lambda drawn: ip_network(
            (base + (drawn[0] << unit), drawn[1] + longest - 32 - unit), strict=False
        )
    )


@given(st.lists(pieces(0x0A0A0000, 32), max_size=12), st.integers(18, 26))
def test_the_next_subnet_is_the_first_piece_that_overlaps_nothing(
    taken: list[Network], size: int
) -> None:
    the_first_free(AddressSpace([Block.parse("10.10.0.0/16", size)]), taken)


@given(st.lists(pieces(0xFD << 120, 128), max_size=12), st.integers(50, 58))
def test_the_next_ipv6_subnet_is_the_first_piece_that_overlaps_nothing(
    taken: list[Network], size: int
) -> None:
    the_first_free(AddressSpace([Block.parse("fd00::/48", size)]), taken)


def the_first_free(space: AddressSpace, taken: list[Network]) -> None:
    base, size = space.blocks[0]
    every = base.subnets(new_prefix=size)
    free = (piece for piece in every if not any(piece.overlaps(net) for net in taken))
    expected = next(free, None)
    if expected is None:
        with pytest.raises(PoolExhausted):
            space.next(taken, version=base.version)
    else:
        assert space.next(taken, version=base.version) == expected
