"""The name server, with real packets: who is answered, how fast, and who cannot keep others."""

from __future__ import annotations

import random
import resource
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from netkit.dns import connection, server
from netkit.dns.loop import READ
from scenarios.lab import run
from tests.asking import (
    ASKER,
    OTHER,
    PATIENCE_S,
    SERVER,
    Known,
    addresses,
    ask,
    serving,
    sockets,
)

MANY = [f"10.1.0.{n}" for n in range(1, 101)]
VIEW = Known({"web": ["10.0.0.2"], "both": ["10.0.0.2", "fd00::2"], "many": MANY})
BRIEF_S = 0.3

pytestmark = pytest.mark.usefixtures("host")


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_askers_of_ipv6_are_known_by_their_addresses(stream: bool) -> None:
    views = {"::1": VIEW}
    with serving(lambda _key, source: views.get(source), address="::1"):
        for _ in range(2):
            answer = ask("both", "AAAA", source="::1", to="::1", stream=stream)
            assert addresses(answer) == ["fd00::2"]


@pytest.mark.parametrize("stream", [False, True], ids=["udp", "tcp"])
def test_names_are_answered_over_udp_and_tcp(stream: bool) -> None:
    """G4."""
    with serving(VIEW):
        for _ in range(2):  # the second time from memory
            assert addresses(ask("web", stream=stream)) == ["10.0.0.2"]
            assert addresses(ask("BOTH", "AAAA", stream=stream)) == ["fd00::2"]
            assert addresses(ask("2.0.0.10.in-addr.arpa", "PTR", stream=stream)) == ["web."]
            nothing = ask("web", "AAAA", stream=stream)
            assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
            assert ask("nobody", stream=stream).rcode() == dns.rcode.NXDOMAIN


def test_each_asker_sees_his_own_names() -> None:
    views = {ASKER: Known({"web": ["10.0.0.2"]}), OTHER: Known({"web": ["10.9.9.9"]})}
    with serving(lambda key, source: views[source] if key == "net" else None):
        for _ in range(2):
            assert addresses(ask("web", source=ASKER)) == ["10.0.0.2"]
            assert addresses(ask("web", source=OTHER)) == ["10.9.9.9"]


def test_strangers_get_no_answer() -> None:
    """S27, S28: not even a refusal, and over TCP nobody to talk to."""
    with serving(lambda _key, source: VIEW if source == ASKER else None):
        assert addresses(ask("web", source=ASKER)) == ["10.0.0.2"]
        for data in (b"\0" * 12, dns.message.make_query("web", "A").to_wire()):
            with sent(data, OTHER) as sock:
                sock.settimeout(BRIEF_S)
                with pytest.raises(TimeoutError):
                    sock.recv(512)
        with pytest.raises((EOFError, ConnectionError)):
            ask("web", source=OTHER, stream=True)


def sent(data: bytes, source: str) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((source, 0))
    sock.connect((SERVER, 53))
    sock.send(data)
    return sock


def test_a_change_is_seen_by_whoever_asks_after_it() -> None:
    """And nothing is looked up again as long as there is none."""
    looked_up = 0
    changed = False

    def view(_key: Any, _source: str) -> Known:
        nonlocal looked_up
        looked_up += 1
        return Known({"web": ["10.0.0.3" if moved else "10.0.0.2"]})

    def fresh() -> bool:
        nonlocal changed
        was, changed = changed, False
        return was

    moved = False
    with serving(view, fresh):
        for _ in range(5):
            assert addresses(ask("web")) == ["10.0.0.2"]
        assert looked_up == 1
        moved = changed = True
        for _ in range(5):
            assert addresses(ask("web")) == ["10.0.0.3"]
        assert looked_up == 2


def test_a_change_after_the_look_is_seen_by_the_next_question() -> None:
    """Even if that is in the queue already when the one before it is answered."""
    query = dns.message.make_query("web", "A").to_wire()
    now, seen = ["10.0.0.2"], ["10.0.0.2"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ASKER, 0))
        sock.connect((SERVER, 53))
        sock.settimeout(PATIENCE_S)

        def fresh() -> bool:
            changed, seen[0] = seen != now, now[0]
            if moves:  # it has just looked: now there is a change, and then a question
                now[0] = moves.pop()
                sock.send(query)
            return changed

        moves: list[str] = []
        with serving(lambda _key, _source: Known({"web": [now[0]]}), fresh):
            assert addresses(ask("web")) == ["10.0.0.2"]
            moves.append("10.0.0.3")
            assert addresses(ask("web")) == ["10.0.0.2"]
            assert addresses(dns.message.from_wire(sock.recv(512))) == ["10.0.0.3"]


def test_addresses_take_turns_from_memory_and_after_a_change() -> None:
    """G7: for each asker, and over all of them."""
    several = ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    for changed in (False, True):
        with serving(Known({"web": several}), bool(changed).__bool__):
            firsts = [addresses(ask("web"))[0] for _ in range(6)]
        assert sorted(firsts) == sorted(2 * several)


def test_what_is_too_long_for_a_datagram_is_told_over_tcp() -> None:
    with serving(VIEW):
        for edns, most in ((None, 512), (1232, 1232), (4096, 1232)):
            cut = ask("many", edns=edns)
            assert cut.flags & dns.flags.TC
            assert most - 16 * 2 < len(cut.to_wire()) <= most
        whole = ask("many", stream=True)
        assert not whole.flags & dns.flags.TC
        assert sorted(addresses(whole)) == sorted(MANY)


def test_garbage_is_survived() -> None:
    """S23: 2 000 datagrams, at random and of questions with bytes exchanged."""
    chance = random.Random(1)
    good = dns.message.make_query("web", "A", use_edns=0).to_wire()
    with serving(VIEW), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ASKER, 0))
        sock.connect((SERVER, 53))
        for number in range(2000):
            data = bytearray(good) if number % 2 else bytearray(chance.randbytes(number % 600))
            for _ in range(min(4, len(data))):
                data[chance.randrange(len(data))] = chance.randrange(256)
            sock.send(data)
            if number % 100 == 0:
                assert addresses(ask("web")) == ["10.0.0.2"]
        assert addresses(ask("web")) == ["10.0.0.2"]


def test_an_answer_is_never_answered() -> None:
    answer = dns.message.make_response(dns.message.make_query("web", "A")).to_wire()
    with serving(VIEW), sent(answer, ASKER) as sock:
        assert addresses(ask("web")) == ["10.0.0.2"]  # it came later, and so was read later
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(512)


def test_a_client_s_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spellings of one name are without number: when there are too many, all is forgotten."""
    monkeypatch.setattr(server, "_MOST_REMEMBERED_BYTES", 5000)
    with serving(VIEW) as serves:
        most = 0
        for number in range(64):
            name = "".join(c.upper() if number >> n & 1 else c for n, c in enumerate("nobody"))
            assert ask(name).rcode() == dns.rcode.NXDOMAIN
            (listener,) = serves._listeners.values()
            kept = [len(key) for answers in listener.remembered.values() for key in answers]
            most = max(most, len(kept))
            assert 500 * len(kept) <= serves._remembered_bytes <= 5000
    assert 1 < most < 10


# -- connections


@contextmanager
def clients(number: int, source: str, first: bytes = b"") -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(client(source, first)) for _ in range(number)]


def client(source: str = ASKER, first: bytes = b"") -> socket.socket:
    sock = socket.create_connection((SERVER, 53), PATIENCE_S, (source, 0))
    if first:
        sock.send(first)
    return sock


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def read_frame(sock: socket.socket) -> bytes:
    file = sock.makefile("rb")
    return file.read(int.from_bytes(file.read(2), "big"))


@pytest.mark.parametrize("half", [b"", b"\0", b"\0\x20", framed(bytes(40))[:30]])
def test_one_s_idle_connections_keep_nobody_waiting(half: bytes) -> None:
    """S21: 500 half-open ones of A; B is answered within 100 ms over UDP and TCP."""
    with serving(VIEW), clients(500, ASKER, half):
        for stream in (False, True):

            def took() -> float:
                begin = time.monotonic()
                assert addresses(ask("web", source=OTHER, stream=stream)) == ["10.0.0.2"]  # noqa: B023
                return time.monotonic() - begin

            assert any(took() < 0.1 for _ in range(50))  # the machine may be busy, too
        assert addresses(ask("web", source=ASKER, stream=True)) == ["10.0.0.2"]


def test_connections_are_bounded_and_the_most_silent_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For another of his own; and when all are too many, for anybody's."""
    monkeypatch.setattr(server, "MOST_CONNECTIONS_PER_ASKER", 2)
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 3)
    query = framed(dns.message.make_query("web", "A").to_wire())
    with serving(VIEW), client() as first, client() as second, client(OTHER) as other:
        for sock in (first, other):
            sock.send(query)
            assert read_frame(sock)
        with client(ASKER, query) as third:
            assert read_frame(third)
            assert second.recv(1) == b""  # the first had asked since
            with client(OTHER, query) as fourth:
                assert read_frame(fourth)
                assert first.recv(1) == b""
            for sock in (other, third):
                sock.send(query)
                assert read_frame(sock)


def test_who_never_finishes_his_question_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """However steadily the bytes trickle in."""
    monkeypatch.setattr(server, "IDLE_S", 0.2)
    monkeypatch.setattr(server, "_SWEEP_S", 0.05)
    data = framed(bytes(4000))
    with serving(VIEW), client() as sock:
        sock.settimeout(0.02)
        begin = time.monotonic()
        for byte in data[:-1]:
            try:
                sock.send(bytes([byte]))
                if sock.recv(1) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("it was heard to the end")
        assert time.monotonic() - begin >= 0.2


def test_connections_that_come_and_go_leave_no_work_behind() -> None:
    with serving(VIEW) as serves:
        for _ in range(20):
            assert addresses(ask("web", stream=True)) == ["10.0.0.2"]
        assert len(serves.loop._timers) == 1


def test_truncated_questions_and_resets_leave_the_server_at_rest() -> None:
    """S22: five of them; less than 5 % of the processor's time afterwards."""
    reset = struct.pack("ii", 1, 0)
    with serving(VIEW) as serves:
        for half in (b"", b"\0", b"\0\x20abc", framed(bytes(20))[:-1], b"\xff\xffabc"):
            with client(first=half) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        assert addresses(ask("web", stream=True)) == ["10.0.0.2"]
        before = resource.getrusage(resource.RUSAGE_SELF)
        time.sleep(0.2)  # what would be measured is what it does of its own accord
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = sum(
            getattr(after, each) - getattr(before, each) for each in ("ru_utime", "ru_stime")
        )
        assert used < 0.05 * 0.2 + 0.01  # clocks tick
        assert not serves._connections


def test_several_questions_on_one_connection_are_all_answered() -> None:
    """Sent in one go, and torn in the middle."""
    asked = [dns.message.make_query(name, "A") for name in ("web", "both", "nobody", "many")]
    data = b"".join(framed(query.to_wire()) for query in asked)
    with serving(VIEW), client() as sock:
        sock.sendall(data[:45])
        assert dns.message.from_wire(frame(sock)).id == asked[0].id
        sock.sendall(data[45:])
        assert [dns.message.from_wire(frame(sock)).id for _ in asked[1:]] == [
            query.id for query in asked[1:]
        ]


def frame(sock: socket.socket) -> bytes:
    """The next message, and no byte beyond."""
    size = int.from_bytes(exactly(sock, 2), "big")
    return exactly(sock, size)


def exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sock.recv(size - len(data))
        assert chunk
        data += chunk
    return data


def test_who_said_all_he_wanted_still_hears_the_answer() -> None:
    query = dns.message.make_query("web", "A").to_wire()
    with serving(VIEW) as serves, client() as sock:
        sock.send(framed(query))
        sock.shutdown(socket.SHUT_WR)
        assert addresses(dns.message.from_wire(frame(sock))) == ["10.0.0.2"]
        assert sock.recv(1) == b""
        ask("web")
        assert not serves._connections


def test_who_asks_without_listening_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """His answers fill what the kernel holds, then what we hold; then no more is read of him."""
    monkeypatch.setattr(connection, "_MOST_UNSENT_BYTES", 1000)
    run(
        "sysctl -qw net.ipv4.tcp_rmem='4096 16384 16384' net.ipv4.tcp_wmem='4096 16384 16384'",
        "ip link set lo mtu 1500",  # such windows do not hold a segment of 64 kB
    )
    query = framed(dns.message.make_query("many", "A").to_wire())
    with serving(VIEW) as serves, client() as sock:
        sock.send(query)
        frame(sock)
        (held,) = serves._connections
        sock.setblocking(False)
        at_rest, left = 0, query
        deadline = time.monotonic() + PATIENCE_S
        while at_rest < 20:
            assert time.monotonic() < deadline
            try:
                left = left[sock.send(left) :] or query * 20
                at_rest = 0
            except BlockingIOError:
                at_rest += not held.events & READ
                time.sleep(0.001)
        assert len(held._unsent) < 1000 + connection.MOST_QUERY_BYTES // len(query) * 2000
        assert addresses(ask("web", source=OTHER)) == ["10.0.0.2"]
        sock.settimeout(0.05)
        while not held.events & READ and time.monotonic() < deadline:
            with suppress(TimeoutError):
                sock.recv(1 << 16)  # now he listens, and it goes on
        assert held.events & READ


# -- listeners


def test_listeners_come_and_go() -> None:
    ours, theirs = socket.socketpair()
    done = threading.Event()

    def exchange() -> None:
        serves.ignore(ours)
        serves.remove("net")
        serves.remove("net")
        serves.add("again", *sockets())
        done.set()

    with ours, theirs, serving(VIEW) as serves:
        with client() as sock:
            assert addresses(ask("web")) == ["10.0.0.2"]
            serves.look(ours, exchange)
            theirs.send(b"now")
            assert sock.recv(1) == b""
            assert done.wait(PATIENCE_S)
        assert addresses(ask("web")) == ["10.0.0.2"]
        assert addresses(ask("web", stream=True)) == ["10.0.0.2"]


def test_other_descriptors_of_the_process_are_looked_at_too() -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    with ours, theirs, serving(VIEW) as serves:
        serves.look(ours, lambda: heard.append(ours.recv(16)))
        theirs.send(b"one")
        ask("web")
        deadline = time.monotonic() + PATIENCE_S
        while not heard and time.monotonic() < deadline:
            time.sleep(0.001)
        serves.ignore(ours)
        theirs.send(b"two")
        ask("web")
    assert heard == [b"one"]
