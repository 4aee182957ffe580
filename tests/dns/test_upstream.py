"""Names that are not ours: who is asked about them, in what order, and who is believed."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import dns.message
import dns.rcode
import pytest

from netkit.dns import upstream
from scenarios.lab import Host
from tests.asking import (
    ASKER,
    OTHER,
    PATIENCE_S,
    SERVER,
    Known,
    addresses,
    answering,
    ask,
    forged,
    serving,
    silent,
)

FIRST, SECOND, THIRD, FOURTH = (f"127.0.0.{n}" for n in (11, 12, 13, 14))
REFUSING = answering(rcode=dns.rcode.REFUSED)

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture(params=[False, True], ids=["udp", "tcp"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_an_upstream_is_asked_the_way_the_server_was(stream: bool) -> None:
    with (
        serving(Known(upstreams=[FIRST])),
        forged(FIRST, answering("192.0.2.1"), stream=stream) as seen,
    ):
        assert addresses(ask("www.example.com", stream=stream)) == ["192.0.2.1"]
    (asked,) = map(dns.message.from_wire, seen)
    assert asked.question[0].name.to_text() == "www.example.com."


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP])
def test_whoever_refuses_is_passed_over(stream: bool, rcode: dns.rcode.Rcode) -> None:
    """At once, and he is not asked again."""
    with (
        serving(Known(upstreams=[FIRST, SECOND]), attempt_s=60),
        forged(FIRST, answering(rcode=rcode), stream=stream) as refused,
        forged(SECOND, answering("192.0.2.2"), stream=stream),
    ):
        assert addresses(ask("www.example.com", stream=stream)) == ["192.0.2.2"]
        assert len(refused) == 1


def test_where_nobody_listens_the_next_is_asked_at_once(stream: bool) -> None:
    with (
        serving(Known(upstreams=[FIRST, SECOND]), attempt_s=60),
        forged(SECOND, answering("192.0.2.2"), stream=stream),
    ):
        assert addresses(ask("www.example.com", stream=stream)) == ["192.0.2.2"]


@pytest.mark.parametrize("useless", ["203.0.113.1", "2001:db8::1", "fe80::1%none0", "no-address"])
def test_where_no_way_leads_the_next_is_asked_at_once(useless: str) -> None:
    with (
        serving(Known(upstreams=[useless, SECOND]), attempt_s=60),
        forged(SECOND, answering("192.0.2.2")),
    ):
        assert addresses(ask("www.example.com")) == ["192.0.2.2"]


def test_whoever_is_silent_is_passed_over(stream: bool) -> None:
    with (
        serving(Known(upstreams=[FIRST, SECOND, THIRD])),
        forged(FIRST, silent, stream=stream),
        forged(SECOND, silent, stream=stream),
        forged(THIRD, answering("192.0.2.3"), stream=stream),
    ):
        assert addresses(ask("www.example.com", stream=stream)) == ["192.0.2.3"]


def test_no_more_than_three_are_asked() -> None:
    """As many as the C library would ask."""
    with (
        serving(Known(upstreams=[FIRST, SECOND, THIRD, FOURTH])),
        forged(FOURTH, answering("192.0.2.4")) as seen,
    ):
        assert ask("www.example.com").rcode() == dns.rcode.SERVFAIL
        assert seen == []


def test_a_lost_question_is_asked_again() -> None:
    heard: list[bytes] = []

    def lose_two(data: bytes) -> list[bytes]:
        heard.append(data)
        return list(answering("192.0.2.1")(data)) if len(heard) == 3 else []

    with serving(Known(upstreams=[FIRST]), attempt_s=0.05), forged(FIRST, lose_two):
        assert addresses(ask("www.example.com")) == ["192.0.2.1"]
    assert len({data[:2] for data in heard}) == 3  # each time by an id of its own


def test_a_late_answer_is_welcome() -> None:
    """Of an upstream that itself had to ask far and wide, while the next was being asked."""
    second_asked = threading.Event()

    def late(data: bytes) -> list[bytes]:
        assert second_asked.wait(PATIENCE_S)
        return list(answering("192.0.2.1")(data))

    def never(_data: bytes) -> list[bytes]:
        second_asked.set()
        return []

    with (
        serving(Known(upstreams=[FIRST, SECOND]), attempt_s=0.5),
        forged(FIRST, late),
        forged(SECOND, never),
    ):
        assert addresses(ask("www.example.com")) == ["192.0.2.1"]


def test_one_that_refuses_at_last_ends_no_one_else_s_time() -> None:
    refused = threading.Event()

    def late(data: bytes) -> list[bytes]:
        assert refused.wait(PATIENCE_S)
        time.sleep(0.05)  # so that the refusal is heard first
        return list(answering("192.0.2.1")(data))

    def refuse(data: bytes) -> list[bytes]:
        refused.set()
        return list(REFUSING(data))

    with (
        serving(Known(upstreams=[FIRST, SECOND, THIRD]), attempt_s=0.5),
        forged(FIRST, late),
        forged(SECOND, silent),
        forged(THIRD, refuse),
    ):
        assert addresses(ask("www.example.com")) == ["192.0.2.1"]


def test_when_all_fail_it_is_said_within_a_stub_s_patience(stream: bool) -> None:
    assert upstream.ATTEMPT_S * upstream.ATTEMPTS < 5
    with (
        serving(Known(upstreams=[FIRST, SECOND])),
        forged(FIRST, silent, stream=stream),
        forged(SECOND, REFUSING, stream=stream) as refused,
    ):
        assert ask("www.example.com", stream=stream).rcode() == dns.rcode.SERVFAIL
        assert len(refused) == 1


def test_an_internal_network_asks_nobody(stream: bool) -> None:
    """G6, S26: without upstreams nothing leaves, and the stub is told rather than left waiting."""
    with serving(Known({"web": ["10.0.0.2"]}), attempt_s=60):
        assert ask("www.example.com", stream=stream).rcode() == dns.rcode.SERVFAIL
        assert addresses(ask("web", stream=stream)) == ["10.0.0.2"]


def test_what_there_is_not_is_told_as_the_upstream_has_it() -> None:
    with (
        serving(Known(upstreams=[FIRST, SECOND])),
        forged(FIRST, answering(rcode=dns.rcode.NXDOMAIN)),
        forged(SECOND, answering("192.0.2.2")) as seen,
    ):
        assert ask("www.example.com").rcode() == dns.rcode.NXDOMAIN
        assert seen == []


def wrong_id(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def other_question(data: bytes) -> bytes:
    return data.replace(b"\3www", b"\3wwx", 1)


def other_type(data: bytes) -> bytes:
    return data[:12] + data[12:].replace(b"\0\x01\0\x01", b"\0\x1c\0\x01", 1)


@pytest.mark.parametrize("forge", [wrong_id, other_question, other_type])
def test_a_forged_answer_is_ignored(forge: Callable[[bytes], bytes]) -> None:
    """S24: wrong id, other question; the true one, which comes after it, is believed."""

    def respond(data: bytes) -> Iterator[bytes]:
        (lie,) = answering("198.51.100.66")(data)
        yield forge(lie)
        yield from answering("192.0.2.1")(data)

    with serving(Known(upstreams=[FIRST]), attempt_s=60), forged(FIRST, respond):
        assert addresses(ask("www.example.com")) == ["192.0.2.1"]


def test_an_answer_from_elsewhere_is_ignored() -> None:
    """S24: other source. The right id and question, and the very port that asked."""
    seen: list[tuple[bytes, Any]] = []

    with ExitStack() as stack:
        sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        sock.bind((FIRST, 53))
        sock.settimeout(PATIENCE_S)
        elsewhere = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        elsewhere.bind((SECOND, 53))

        def respond() -> None:
            data, client = sock.recvfrom(4096)
            seen.append((data, client))
            (lie,) = answering("198.51.100.66")(data)
            (truth,) = answering("192.0.2.1")(data)
            elsewhere.sendto(lie, client)
            sock.sendto(truth, client)

        stack.enter_context(serving(Known(upstreams=[FIRST]), attempt_s=60))
        thread = threading.Thread(target=respond, daemon=True)
        thread.start()
        assert addresses(ask("www.example.com")) == ["192.0.2.1"]
        thread.join(PATIENCE_S)
    assert seen


def test_an_upstream_s_stream_of_lies_ends_with_the_next_upstream() -> None:
    """Over TCP what comes first counts: who sends another's answer there is of no use."""

    def lie(data: bytes) -> list[bytes]:
        return [wrong_id(each) for each in answering("198.51.100.66")(data)]

    with (
        serving(Known(upstreams=[FIRST, SECOND]), attempt_s=60),
        forged(FIRST, lie, stream=True),
        forged(SECOND, answering("192.0.2.2"), stream=True),
    ):
        assert addresses(ask("www.example.com", stream=True)) == ["192.0.2.2"]


def test_each_question_has_a_port_and_an_id_of_its_own() -> None:
    """S25: 36 of 40 at least; and they do not count up."""
    asked: list[tuple[int, int]] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((FIRST, 53))
        sock.settimeout(PATIENCE_S)
        with serving(Known(upstreams=[FIRST]), attempt_s=60):
            for n in range(40):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(
                        dns.message.make_query(f"{n}.example", "A").to_wire(), (SERVER, 53)
                    )
                    data, (_, port) = sock.recvfrom(4096)
                asked.append((port, int.from_bytes(data[:2], "big")))
    for series in map(list, zip(*asked, strict=True)):
        assert len(set(series)) >= 36
        steps = [after - before for before, after in pairwise(series)]
        assert len({step for step in steps if abs(step) > 64}) > 20


def test_the_asker_s_id_is_not_the_upstream_s_to_know() -> None:
    with serving(Known(upstreams=[FIRST])), forged(FIRST, answering("192.0.2.1")) as seen:
        ids = {ask(f"{n}.example").id for n in range(8)}
    assert len(ids & {int.from_bytes(data[:2], "big") for data in seen}) < 8


def test_nothing_an_upstream_said_is_told_to_another() -> None:
    """No cache of theirs is shared, so there is none to poison."""
    with serving(Known(upstreams=[FIRST])), forged(FIRST, answering("192.0.2.1")) as seen:
        ask("www.example.com", source=ASKER)
        ask("www.example.com", source=OTHER)
        ask("www.example.com", source=ASKER)
    assert len(seen) == 3


def test_one_asker_s_open_questions_are_bounded(host: Host) -> None:
    """The 129th fails at once; another asker's does not."""
    query = dns.message.make_query("www.example.com", "A").to_wire()
    answers = answering("192.0.2.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((FIRST, 53))
        sock.settimeout(PATIENCE_S)
        with serving(Known(upstreams=[FIRST]), attempt_s=60):
            greedy = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            modest = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with greedy, modest:
                for client, source in ((greedy, ASKER), (modest, OTHER)):
                    client.bind((source, 0))
                    client.connect((SERVER, 53))
                    client.settimeout(PATIENCE_S)
                for _ in range(upstream.MOST_PER_ASKER):
                    greedy.send(query)
                    sock.recvfrom(4096)
                greedy.send(query)
                assert dns.message.from_wire(greedy.recv(512)).rcode() == dns.rcode.SERVFAIL
                modest.send(query)
                data, client_address = sock.recvfrom(4096)
                sock.sendto(next(iter(answers(data))), client_address)
                assert addresses(dns.message.from_wire(modest.recv(512))) == ["192.0.2.1"]


def test_what_ended_makes_room(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MOST_PER_ASKER", 1)
    with (
        serving(Known(upstreams=[FIRST])),
        forged(FIRST, answering("192.0.2.1"), stream=stream),
    ):
        for _ in range(3):
            assert addresses(ask("www.example.com", stream=stream)) == ["192.0.2.1"]


def test_all_askers_open_questions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MOST", 1)
    answers = answering("192.0.2.1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((FIRST, 53))
        sock.settimeout(PATIENCE_S)
        with (
            serving(Known(upstreams=[FIRST]), attempt_s=60),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
        ):
            first.settimeout(PATIENCE_S)
            first.sendto(dns.message.make_query("www.example", "A").to_wire(), (SERVER, 53))
            data, client = sock.recvfrom(4096)
            assert ask("www.example.com", source=OTHER).rcode() == dns.rcode.SERVFAIL
            sock.sendto(next(iter(answers(data))), client)
            assert addresses(dns.message.from_wire(first.recv(512))) == ["192.0.2.1"]


# -- names that are watched


def test_a_watched_name_s_addresses_are_learnt_before_they_are_told(stream: bool) -> None:
    learnt: list[Any] = []

    def learn(_view: Any, name: str, found: Any, then: Callable[[], object]) -> None:
        def tell() -> None:
            learnt.append("told")
            then()

        learnt.append((name, found))
        server.later(0.05, tell)

    view = Known(upstreams=[FIRST], watched=["www.example.com"])
    with (
        serving(view, learn=learn) as server,
        forged(FIRST, answering("192.0.2.1", ttl=33), stream=stream),
    ):
        assert addresses(ask("WWW.example.com", stream=stream)) == ["192.0.2.1"]
        assert learnt == [("www.example.com", [(IPv4Address("192.0.2.1"), 33)]), "told"]
        assert addresses(ask("other.example.com", stream=stream)) == ["192.0.2.1"]
        assert len(learnt) == 2


def test_where_there_is_no_address_there_is_nothing_to_learn() -> None:
    def learn(*_: Any) -> None:
        raise AssertionError

    view = Known(upstreams=[FIRST], watched=["www.example.com"])
    with serving(view, learn=learn), forged(FIRST, answering(rcode=dns.rcode.NXDOMAIN)):
        assert ask("www.example.com").rcode() == dns.rcode.NXDOMAIN
