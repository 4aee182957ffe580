"""The client as a state machine: time is a number, the server is the test."""

from __future__ import annotations

from ipaddress import IPv4Address
from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.dhcp.client import Client, Lease, Outgoing, State, Timing
from netkit.dhcp.message import ANY, BROADCAST, Kind, Message, Option

MAC = bytes.fromhex("024200000001")
ID = b"\0c1/net/eth0"
SERVER, OTHER = IPv4Address("10.9.0.1"), IPv4Address("10.9.0.2")
ADDRESS = IPv4Address("10.9.0.50")
OPTIONS = {Option.CLIENT_ID: ID, Option.REQUESTED: bytes([3, 1])}


def client(**changes: object) -> Client:
    given = {"mac": MAC, "options": OPTIONS, "random": Random(1), **changes}
    return Client(**given)  # type: ignore[arg-type]


def reply(
    asked: Message,
    kind: Kind,
    address: IPv4Address = ADDRESS,
    *,
    server: IPv4Address | None = SERVER,
    lease_s: int | None = 1000,
    more: dict[int, bytes] | None = None,
) -> Message:
    options: dict[int, bytes] = {Option.KIND: bytes([kind])}
    if server:
        options[Option.SERVER] = server.packed
    if kind != Kind.NAK:
        options[Option.SUBNET_MASK] = b"\xff\xff\xff\0"
        if lease_s is not None:
            options[Option.LEASE_TIME] = lease_s.to_bytes(4, "big")
    whole = Message(True, asked.xid, asked.mac, {**options, **(more or {})})
    return whole._replace(yiaddr=ANY if kind == Kind.NAK else address)


def only(outgoing: list[Outgoing]) -> Message:
    (found,) = outgoing
    return found.message


def bound(at: float = 0.0, lease_s: int | None = 1000, **more: dict[int, bytes]) -> Client:
    one = client()
    discover = only(one.advance(at))
    request = only(one.receive(reply(discover, Kind.OFFER, lease_s=lease_s), at))
    one.receive(reply(request, Kind.ACK, lease_s=lease_s, **more), at)  # type: ignore[arg-type]
    assert one.state is State.BOUND
    return one


def test_a_lease_is_got_in_four_messages() -> None:
    one = client(wanted=ADDRESS)
    discover = only(one.advance(100.0))
    assert discover.kind == Kind.DISCOVER
    assert discover.options[Option.WANTED_ADDRESS] == ADDRESS.packed
    assert discover.options[Option.CLIENT_ID] == ID
    (outgoing,) = one.receive(reply(discover, Kind.OFFER), 101.0)
    request, to = outgoing
    assert (request.kind, to, request.ciaddr) == (Kind.REQUEST, BROADCAST, ANY)
    assert request.xid == discover.xid
    assert request.options[Option.WANTED_ADDRESS] == ADDRESS.packed
    assert request.options[Option.SERVER] == SERVER.packed
    assert one.lease is None
    assert one.receive(reply(request, Kind.ACK), 102.0) == []
    assert one.lease
    assert str(one.lease.interface) == "10.9.0.50/24"
    # from when it was asked for, as RFC 2131 4.4.5 wants it
    times = one.lease.renew_at, one.lease.rebind_at, one.lease.ends_at
    assert times == (601.0, 976.0, 1101.0)
    assert one.due == 601.0


def test_what_is_not_answered_is_said_again_after_ever_longer_pauses() -> None:
    one, now, said = client(timing=Timing(0.25, 4.0, 10.0)), 0.0, []
    while now < 30:
        message = only(one.advance(now))
        said.append((now, message.xid, message.secs))
        now = one.due
    pauses = [later - sooner for (sooner, *_), (later, *_) in pairwise(said)]
    for pause, about in zip(pauses, [0.25, 0.5, 1, 2, 4, 4, 4], strict=False):
        assert about * 0.9 <= pause <= about * 1.1
    assert len({xid for _, xid, _ in said}) == 1
    assert [secs for _, _, secs in said] == [int(at) for at, *_ in said]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("another exchange's", {"xid": 1}),
        ("another machine's", {"mac": b"\2\0\0\0\0\0"}),
        ("a client's", {"reply": False}),
        ("nobody's address", {"yiaddr": ANY}),
        ("loopback", {"yiaddr": IPv4Address("127.0.0.1")}),
        ("a group", {"yiaddr": IPv4Address("224.0.0.1")}),
        ("the subnet itself", {"yiaddr": IPv4Address("10.9.0.0")}),
        ("its broadcast address", {"yiaddr": IPv4Address("10.9.0.255")}),
    ],
)
def test_such_an_offer_is_ignored(what: str, changes: dict[str, object]) -> None:
    one = client()
    discover = only(one.advance(0.0))
    bad = reply(discover, Kind.OFFER)._replace(**changes)  # type: ignore[arg-type]
    assert one.receive(bad, 0.1) == []
    assert one.receive(reply(discover, Kind.OFFER), 0.2), "a good one is not"


@pytest.mark.parametrize(
    "more",
    [
        {Option.SERVER: b""},
        {Option.SERVER: bytes(4)},
        {Option.SERVER: SERVER.packed + OTHER.packed},
        {Option.KIND: b""},
        {Option.KIND: bytes([Kind.ACK])},
        {Option.CLIENT_ID: b"\0another"},
        {Option.SUBNET_MASK: b"\xff\0\xff\0"},
        {Option.LEASE_TIME: bytes(4)},
    ],
)
def test_so_is_one_with_such_an_option(more: dict[int, bytes]) -> None:
    one = client()
    discover = only(one.advance(0.0))
    assert one.receive(reply(discover, Kind.OFFER, more=more), 0.1) == []
    assert one.receive(reply(discover, Kind.OFFER), 0.2)


def test_an_acknowledgement_counts_only_from_the_server_and_for_the_address_chosen() -> None:
    one = client()
    discover = only(one.advance(0.0))
    request = only(one.receive(reply(discover, Kind.OFFER), 0.0))
    one.receive(reply(request, Kind.ACK, server=OTHER), 0.1)
    one.receive(reply(request, Kind.ACK, IPv4Address("10.9.0.66")), 0.1)
    one.receive(reply(request, Kind.NAK, server=OTHER), 0.1)
    one.receive(reply(request, Kind.ACK, lease_s=1), 0.1)
    assert one.state is State.REQUESTING
    assert "for 1 s only" in one.trouble
    one.receive(reply(request, Kind.ACK), 0.2)
    assert one.lease


def test_a_server_that_refuses_or_is_silent_comes_last_in_the_next_round() -> None:
    one = client()
    discover = only(one.advance(0.0))
    request = only(one.receive(reply(discover, Kind.OFFER), 0.0))
    refusal = reply(request, Kind.NAK, more={Option.MESSAGE: b"no\nway"})
    assert one.receive(refusal, 0.1) == []
    assert one.trouble == "server 10.9.0.1 refuses what it offered (no way)"
    discover = only(one.advance(one.due))
    assert discover.xid != request.xid
    assert one.receive(reply(discover, Kind.OFFER), 1.0) == []  # another may come
    request = only(one.receive(reply(discover, Kind.OFFER, server=OTHER), 1.1))
    assert request.options[Option.SERVER] == OTHER.packed
    while (now := one.due) < 20:  # that one is silent
        discover = only(one.advance(now))
        if discover.kind == Kind.DISCOVER:
            break
    assert one.trouble == "server 10.9.0.2 does not confirm what it offered"
    assert one.receive(reply(discover, Kind.OFFER), now) == []
    request = only(one.advance(one.due))  # no third: then one of those
    assert (request.kind, request.options[Option.SERVER]) == (Kind.REQUEST, SERVER.packed)


def test_a_server_that_always_refuses_does_not_keep_it_busy() -> None:
    one, now, rounds = client(), 0.0, 0
    while now < 300:
        for outgoing in one.advance(now):
            asked = outgoing.message
            if asked.kind == Kind.DISCOVER:
                for more in one.receive(reply(asked, Kind.OFFER), now):
                    rounds += 1
                    one.receive(reply(more.message, Kind.NAK), now)
            else:
                rounds += 1
                one.receive(reply(asked, Kind.NAK), now)
        now = max(now, one.due)
    assert 5 < rounds < 20


def test_a_lease_is_renewed_at_its_server_then_rebound_at_any_then_lost() -> None:
    one = bound()
    said: list[tuple[float, Kind, IPv4Address]] = []
    while not said or said[-1][1] != Kind.DISCOVER:
        now = one.due
        ((message, to),) = one.advance(now)
        said.append((now, Kind(message.kind), to))
        if message.kind == Kind.REQUEST:
            assert message.ciaddr == ADDRESS
            assert not {Option.SERVER, Option.WANTED_ADDRESS} & message.options.keys()
    renewals = [at for at, kind, to in said if kind == Kind.REQUEST and to == SERVER]
    rebindings = [at for at, kind, to in said if kind == Kind.REQUEST and to == BROADCAST]
    assert renewals[0] == 500
    assert rebindings[0] == 875
    assert said[-1][0] == 1000
    assert len(renewals) > 1 < len(rebindings)
    assert one.lease is None
    assert one.trouble == "the lease has run out, and no server renewed it"


@pytest.mark.parametrize(("at", "server"), [(500.0, SERVER), (900.0, SERVER), (900.0, OTHER)])
def test_a_renewed_lease_begins_anew(at: float, server: IPv4Address) -> None:
    one = bound()
    asked = only(one.advance(at))
    assert one.receive(reply(asked, Kind.ACK, server=server), at + 1) == []
    assert one.lease
    assert (one.lease.server, one.lease.ends_at, one.due) == (server, at + 1000, at + 500)


def test_while_renewing_no_other_server_has_a_say() -> None:
    one = bound()
    asked = only(one.advance(500.0))
    one.receive(reply(asked, Kind.ACK, server=OTHER), 500.1)
    one.receive(reply(asked, Kind.NAK, server=OTHER), 500.1)
    one.receive(reply(asked, Kind.ACK, IPv4Address("10.9.0.66")), 500.1)
    assert one.lease
    assert one.state is State.RENEWING


def test_nobody_but_its_server_ends_a_lease_before_its_time() -> None:
    one = bound()
    asked = only(one.advance(900.0))
    assert one.state is State.REBINDING
    assert one.receive(reply(asked, Kind.NAK, server=OTHER), 900.1) == []
    assert one.lease
    again = only(one.receive(reply(asked, Kind.NAK), 900.2))
    assert one.lease is None
    assert again.kind == Kind.DISCOVER


def test_an_unasked_answer_changes_nothing() -> None:
    one = bound()
    before = one.lease
    for xid in (0, one._xid):
        for kind in (Kind.OFFER, Kind.ACK, Kind.NAK):
            forged = reply(Message(False, xid, MAC, {}), kind, IPv4Address("10.9.0.66"))
            assert one.receive(forged, 1.0) == []
    assert (one.lease, one.state) == (before, State.BOUND)


def test_a_released_lease_is_told_to_its_server_once() -> None:
    one = bound()
    ((message, to),) = one.release(10.0)
    assert (message.kind, message.ciaddr, to) == (Kind.RELEASE, ADDRESS, SERVER)
    assert message.options == {
        Option.KIND: bytes([Kind.RELEASE]),
        Option.SERVER: SERVER.packed,
        Option.CLIENT_ID: ID,
    }
    assert one.release(11.0) == []
    assert (one.lease, one.due) == (None, inf)


@pytest.mark.parametrize(
    ("lease_s", "t1", "t2", "times"),
    [
        (1000, None, None, (500, 875, 1000)),
        (1000, 100, 200, (100, 200, 1000)),
        (1000, 300, 200, (500, 875, 1000)),  # T1 after T2
        (1000, 300, 2000, (500, 875, 1000)),  # T2 after the end
        (1000, 0, 200, (500, 875, 1000)),
        (None, None, None, (1800, 3150, 3600)),  # the reference's default
    ],
)
def test_times_that_make_no_sense_are_replaced(
    lease_s: int | None, t1: int | None, t2: int | None, times: tuple[int, int, int]
) -> None:
    more = {
        code: value.to_bytes(4, "big")
        for code, value in ((Option.RENEWAL_TIME, t1), (Option.REBINDING_TIME, t2))
        if value is not None
    }
    lease = bound(lease_s=lease_s, more=more).lease  # type: ignore[arg-type]
    assert lease
    assert (lease.renew_at, lease.rebind_at, lease.ends_at) == times


def test_a_lease_for_ever_is_not_renewed_in_a_lifetime() -> None:
    assert bound(lease_s=0xFFFFFFFF).due > 3600 * 24 * 365 * 100


def test_who_slept_through_the_end_of_a_lease_does_not_use_it() -> None:
    one = bound()
    assert only(one.advance(5000.0)).kind == Kind.DISCOVER
    assert one.lease is None


def test_a_lease_from_a_file_goes_on_where_it_was() -> None:
    lease = Lease(ADDRESS, SERVER, {Option.SUBNET_MASK: b"\xff\xff\xff\0"}, 50.0, 80.0, 100.0)
    one = client(lease=lease)
    assert one.due == 50.0
    ((message, to),) = one.advance(60.0)
    assert (message.kind, message.ciaddr, to) == (Kind.REQUEST, ADDRESS, SERVER)


def test_what_a_renewal_does_not_repeat_still_holds() -> None:
    one = bound()
    asked = only(one.advance(500.0))
    bare: dict[int, bytes] = {Option.KIND: bytes([Kind.ACK]), Option.SERVER: SERVER.packed}
    one.receive(Message(True, asked.xid, MAC, bare, yiaddr=ADDRESS), 500.0)
    assert one.lease
    assert str(one.lease.interface) == "10.9.0.50/24"
    assert one.lease.ends_at == 500 + 3600


@given(st.lists(st.tuples(st.floats(0, 400), st.integers(0, 6), st.booleans()), max_size=60))
def test_whatever_comes_it_is_bounded_and_never_without_a_next_time(
    script: list[tuple[float, int, bool]],
) -> None:
    """A server that says anything at any time: no exception, no storm, no lease past its end."""
    one, now, last = client(), 0.0, Message(False, 0, MAC, {})
    for pause, kind, ours in script:
        now += pause
        if now >= one.due:
            outgoing = one.advance(now)
            assert len(outgoing) <= 1
            last = outgoing[-1].message if outgoing else last
            assert one.due > now
        if kind:
            server = SERVER if ours else OTHER
            for answer in one.receive(reply(last, Kind(kind), server=server, lease_s=100), now):
                last = answer.message
        assert (one.lease is not None) == (
            one.state in (State.BOUND, State.RENEWING, State.REBINDING)
        )
