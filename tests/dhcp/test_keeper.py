"""The keeper with real packets, and a clock that is put forward."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from netkit.dhcp import book, calls, keeper
from netkit.dhcp.book import Collect, Done, Find, Hello, Owner, Release, Take, Wish
from netkit.dhcp.client import Lease
from netkit.dhcp.keeper import Keeper, boottime
from netkit.dhcp.message import Kind, Message, Option, Options
from netkit.errors import Exhausted, InvalidSpec, KernelRefused, NotFound
from netkit.kernel import netns
from scenarios.lab import Host, run, until
from tests import lan

TOTAL_S = 10.0
OWNER = Owner("c1", "net", "eth0")
ROUTER: Options = {Option.ROUTERS: lan.SERVER.packed}


class Kept:
    """A keeper in a thread, and the way to it."""

    def __init__(self, directory: Path) -> None:
        self.path = f"{directory}/dhcp.sock"
        self.late_s = 0.0
        self._ended = threading.Event()

    def start(self) -> None:
        book.prepare(self.path)
        listener = keeper._listen(self.path)
        self._ended.clear()
        self.it = Keeper(
            book.directory_of(self.path),
            listener,
            total_s=TOTAL_S,
            clock=lambda: boottime() + self.late_s,
        )

        def turn() -> None:
            with listener:
                while not self._ended.is_set():
                    self.it.turn(0.01)

        self._thread = threading.Thread(target=turn, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """As if it was killed: nothing is tidied up but what the kernel would."""
        self._ended.set()
        self._thread.join(10)
        for holding in self.it._holdings.values():
            self.it._close(holding)

    def take(self, name: str = "c1", **wish: object) -> Done:
        owner = Owner(name, "net", "eth0")
        options = {Option.CLIENT_ID: b"\0" + str(owner).encode(), Option.REQUESTED: b"\1\3"}
        given = {"owner": owner, "netns": netns.named(name), "options": options, **wish}
        return calls.ask(self.path, Take(Wish(**given)))  # type: ignore[arg-type]

    def ask(self, request: book.Request) -> Done:
        return calls.ask(self.path, request, start=False)

    def find(self) -> Done:
        return self.ask(Find(OWNER))

    def lease(self) -> Lease:
        """c1's, which it has."""
        found = self.find().lease
        assert found
        return found


@pytest.fixture
def kept(host: Host, tmp_path: Path) -> Iterator[Kept]:
    lan.build()
    lan.plug("c1")
    made = Kept(tmp_path)
    made.start()
    yield made
    made.stop()


def configure(done: Done, name: str = "c1") -> None:
    """What the main plugin does with a lease."""
    assert done.lease
    run(f"ip -n {name} addr add {done.lease.interface} dev eth0")


def is_unplugged() -> bool:
    """Whether c1's end of its wire is gone, as it is once nothing keeps its namespace alive."""
    return not run("ip -o link show c1h 2>/dev/null || true")


def asked(server: lan.Server, kind: Kind) -> list[Message]:
    return [message for message in list(server.heard) if message.kind == kind]


def test_a_lease_is_got_kept_on_file_and_released(kept: Kept) -> None:
    with lan.Server(options=ROUTER) as server:
        done = kept.take()
        assert done.lease
        assert str(done.lease.interface) == "10.9.0.50/24"
        assert done.mtu == 1500
        assert lan.addresses("c1") == [], "the main plugin sets it"
        assert book.holds(kept.path, OWNER)
        assert kept.find() == done
        kept.ask(Release(OWNER))
        assert until(lambda: "RELEASE" in server.kinds())
        (release,) = asked(server, Kind.RELEASE)
        assert release.ciaddr == IPv4Address("10.9.0.50")
        assert not book.holds(kept.path, OWNER)
        assert kept.find().lease is None
        kept.ask(Release(OWNER))  # twice is as good as once
    assert server.kinds() == ["DISCOVER", "REQUEST", "RELEASE"]


def test_a_second_taker_gets_the_same_lease_and_other_containers_others(kept: Kept) -> None:
    lan.plug("c2")
    with lan.Server() as server:
        first = kept.take()
        assert kept.take() == first
        second = kept.take("c2")
        assert first.lease
        assert second.lease
        assert first.lease.address != second.lease.address
        macs = [message.mac.hex(":") for message in asked(server, Kind.DISCOVER)]
    assert macs == [
        run(f"ip -n {name} -br link show eth0 | awk '{{ print $3 }}'").strip()
        for name in ("c1", "c2")
    ]


def test_at_t1_it_is_renewed_and_nothing_changes_inside(kept: Kept) -> None:
    with lan.Server() as server:
        configure(kept.take())
        before = kept.lease()
        with lan.listening() as kinds:
            kept.late_s = 1801
            assert until(lambda: len(asked(server, Kind.REQUEST)) == 2)
            assert kinds() == [socket.PACKET_HOST], "to the server's own MAC, not to everybody"
        renewal = asked(server, Kind.REQUEST)[1]
        assert renewal.ciaddr == before.address
        assert Option.SERVER not in renewal.options
        assert until(lambda: kept.lease().ends_at > before.ends_at)
        assert lan.addresses("c1") == ["10.9.0.50/24"]


def test_a_silent_server_is_replaced_by_another_at_t2(kept: Kept) -> None:
    with lan.Server() as server:
        configure(kept.take())
        server.silent = True
        kept.late_s = 3200  # T2 is 3150
        assert until(lambda: len(asked(server, Kind.REQUEST)) == 2)
        run("ip addr add 10.9.0.2/24 dev br0")
        other = IPv4Address("10.9.0.2")
        server.answer = lambda one: [
            server.reply(one, Kind.ACK, one.ciaddr)._replace(
                options={**server.reply(one, Kind.ACK).options, Option.SERVER: other.packed}
            )
        ]
        kept.late_s = 3450
        assert until(lambda: kept.lease().server == other)
        assert lan.addresses("c1") == ["10.9.0.50/24"]


def test_a_lease_that_ran_out_is_not_used_and_another_takes_its_place(kept: Kept) -> None:
    with lan.Server(options=ROUTER) as server:
        configure(kept.take(metric=7))
        server.silent = True
        kept.late_s = 3601
        assert until(lambda: lan.addresses("c1") == [])
        assert kept.find().lease is None
        assert book.holds(kept.path, OWNER), "it is still looked for"
        server.leases = {id: IPv4Address("10.9.0.77") for id in server.leases}
        server.silent = False
        assert until(lambda: lan.addresses("c1") == ["10.9.0.77/24"])
        assert until(lambda: kept.find().lease is not None)
        assert run("ip -n c1 route show default").split()[:6] == [
            *("default", "via", "10.9.0.1", "dev", "eth0", "metric")
        ]
        assert run("ip -n c1 route show default metric 7")


def test_a_withdrawn_lease_is_given_up_at_once(kept: Kept) -> None:
    with lan.Server() as server:
        configure(kept.take())
        server.refusing = True
        kept.late_s = 1801
        assert until(lambda: lan.addresses("c1") == [])
        server.leases = {id: IPv4Address("10.9.0.78") for id in server.leases}
        server.refusing = False
        assert until(lambda: lan.addresses("c1") == ["10.9.0.78/24"])


def test_killed_and_started_again_it_goes_on(kept: Kept) -> None:
    with lan.Server() as server:
        done = kept.take()
        before = kept.lease()
        kept.stop()
        kept.start()
        assert kept.find() == done
        kept.late_s = 1801
        assert until(lambda: len(asked(server, Kind.REQUEST)) == 2)
        assert until(lambda: kept.lease().ends_at > before.ends_at)
        kept.stop()
        kept.start()
        kept.ask(Release(OWNER))
        assert until(lambda: "RELEASE" in server.kinds())


def test_killed_without_a_lease_it_goes_on_looking_for_one(kept: Kept) -> None:
    with lan.Server() as server:
        configure(kept.take())
        server.refusing = True
        kept.late_s = 1801
        assert until(lambda: lan.addresses("c1") == [])
        kept.stop()
        server.refusing = False
        kept.start()
        assert until(lambda: lan.addresses("c1") == ["10.9.0.50/24"])


def test_no_descriptor_keeps_a_namespace_alive_and_a_lease_ends_with_it(kept: Kept) -> None:
    with lan.Server():
        kept.take()
        netns.delete("c1")
        assert until(
            lambda: (
                not os.path.exists("/sys/class/net/c1h") or not run("ip -o link show c1h || true")
            )
        )
        kept.late_s = 1801
        assert until(lambda: not book.holds(kept.path, OWNER))
        kept.ask(Release(OWNER))


def test_a_lease_whose_namespace_is_gone_is_released_as_far_as_that_goes(kept: Kept) -> None:
    with lan.Server() as server:
        kept.take()
        netns.delete("c1")
        kept.ask(Release(OWNER))
        assert not book.holds(kept.path, OWNER)
        assert "RELEASE" not in server.kinds()


def test_a_lease_ends_with_its_interface(kept: Kept) -> None:
    with lan.Server():
        kept.take()
        run("ip link del c1h")
        kept.late_s = 1801
        assert until(lambda: not book.holds(kept.path, OWNER))


def test_another_namespace_of_the_same_name_gets_a_lease_of_its_own(kept: Kept) -> None:
    with lan.Server() as server:
        kept.take()
        netns.delete("c1")
        assert until(is_unplugged)
        lan.plug("c1")
        kept.take()
        assert server.kinds() == ["DISCOVER", "REQUEST"] * 2


def test_no_server_is_told_in_time_and_leaves_nothing(kept: Kept) -> None:
    with lan.Server() as server, ThreadPoolExecutor() as pool:
        server.silent = True
        taker = pool.submit(kept.take)
        assert until(lambda: len(server.heard) > 1)
        kept.late_s += TOTAL_S
        with pytest.raises(Exhausted, match="no lease for c1/net/eth0 within 10 s: no server"):
            taker.result(10)
        assert kept.find().lease is None
        assert not book.holds(kept.path, OWNER)
        server.silent, server.refusing = False, True
        server.heard.clear()
        taker = pool.submit(kept.take)
        assert until(lambda: len(asked(server, Kind.DISCOVER)) > 1)
        kept.late_s += TOTAL_S
        with pytest.raises(Exhausted, match=r"server 10\.9\.0\.1 refuses what it offered"):
            taker.result(10)


def test_what_cannot_be_is_said_at_once(kept: Kept) -> None:
    with pytest.raises(NotFound, match="no interface 'eth9'"):
        kept.take(owner=Owner("c1", "net", "eth9"))
    with pytest.raises(NotFound, match="no network namespace"):
        kept.take("c9")
    with pytest.raises(InvalidSpec, match="is not a network namespace"):
        kept.take(netns="/dev/null")


def test_an_interface_that_is_down_is_brought_up(kept: Kept) -> None:
    """The reference does so for main plugins that ask before they do."""
    lan.plug("c2", up=False)
    with lan.Server():
        assert kept.take("c2").lease


def test_forged_and_broken_answers_are_not_believed(kept: Kept) -> None:
    """Whatever another container shouts: the lease is of the server, and for what it says."""
    with lan.Server() as server:

        def answer(one: Message) -> list[Message | bytes]:
            good = server.usual(one)
            forged = server.reply(one, Kind.ACK, IPv4Address("10.9.0.66"))
            return [
                b"",
                b"\xff" * 300,
                forged.encode()[:250],
                forged._replace(xid=one.xid ^ 1),
                forged._replace(mac=b"\2\0\0\0\0\1"),
                forged._replace(options={**forged.options, Option.SERVER: bytes(4)}),
                server.reply(one._replace(xid=0), Kind.NAK),
                *good,
            ]

        server.answer = answer
        done = kept.take()
        assert done.lease
        assert done.lease.address == IPv4Address("10.9.0.50")


def test_nobody_is_got_a_lease_for_who_has_gone(kept: Kept) -> None:
    with lan.Server() as server:
        server.silent = True
        wish = Wish(OWNER, netns.named("c1"), {Option.CLIENT_ID: b"\0c1"})
        with socket.socket(socket.AF_UNIX) as impatient:
            impatient.connect(kept.path)
            impatient.sendall(book.encode(Take(wish)))
            assert until(lambda: bool(server.heard))
        assert until(lambda: not kept.it._holdings)


def test_who_waits_is_told_that_it_was_deleted(kept: Kept) -> None:
    failed: list[Exception] = []

    def take() -> None:
        try:
            kept.take()
        except NotFound as error:
            failed.append(error)

    with lan.Server() as server:
        server.silent = True
        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert until(lambda: len(next(iter(kept.it._holdings.values()), Nobody).waiting) == 2)
        kept.ask(Release(OWNER))
        for thread in threads:
            thread.join(10)
    assert [str(each) for each in failed] == ["c1/net/eth0 has been deleted meanwhile"] * 2


class Nobody:
    waiting = ()


def test_what_is_not_valid_is_collected_of_one_network(kept: Kept) -> None:
    for name in ("c2", "c3"):
        lan.plug(name)
    elsewhere = Owner("c3", "elsewhere", "eth0")
    with lan.Server() as server:
        for name in ("c1", "c2"):
            kept.take(name)
        kept.take("c3", owner=elsewhere)
        kept.ask(Collect("net", [("c2", "eth0")]))
        assert until(lambda: server.kinds().count("RELEASE") == 1)
        held = [str(owner) for owner in kept.it._holdings]
        assert held == ["c2/net/eth0", "c3/elsewhere/eth0"]


@pytest.mark.parametrize(
    "said",
    [b"\n", b"{}\n", b'{"type":"take"}\n', b"\xff\n", b"GET / HTTP/1.0\r\n\r\n", b"[" * 99 + b"\n"],
)
def test_nonsense_is_answered_and_does_no_harm(kept: Kept, said: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(kept.path)
        sock.sendall(said)
        assert b'"kind":"InvalidSpec"' in sock.recv(4096)
    kept.ask(Hello())


def test_an_endless_request_is_hung_up_on(kept: Kept) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(kept.path)
        with pytest.raises(ConnectionError):
            sock.sendall(bytes(1 << 22))
    kept.ask(Hello())


def test_files_of_another_boot_or_damaged_are_taken_away(kept: Kept) -> None:
    with lan.Server():
        kept.take()
    kept.stop()
    directory = book.directory_of(kept.path)
    (name,) = [each for each in os.listdir(directory) if each.endswith(".lease")]
    with open(f"{directory}/{name}", "rb") as file:
        whole = file.read()
    for i, text in enumerate((whole[:-9], b"another boot\n" + whole.partition(b"\n")[2], b"")):
        with open(f"{directory}/{i}.lease", "wb") as file:
            file.write(text)
    kept.start()
    assert sorted(os.listdir(directory)) == [name]
    assert kept.find().lease


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "dhcp.leases"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(KernelRefused, match="others may write to it"):
        book.prepare(f"{tmp_path}/dhcp.sock")


@pytest.mark.parametrize(
    ("text", "seconds"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400)]
)
def test_durations_are_as_go_writes_them(text: str, seconds: float) -> None:
    assert keeper._seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "10s!", "-1s"])
def test_others_are_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        keeper.main([f"-timeout={text}"])
    assert "is no duration such as 10s" in capsys.readouterr().err
