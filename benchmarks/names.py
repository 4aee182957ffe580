"""How many questions the name server answers, beside dnsmasq and aardvark-dns.

Run it: python -m benchmarks.names
What     1000 names, each asked for in turn over UDP, 64 questions at a time, by dnsperf; the same
         names, questions and addresses for all three
         ours again with 500 idle TCP connections; and while the state changes 1000 times
         how long after `connect` has returned a sibling is told of the new name, of 200 there
Units    questions a second; ms
Bounds   7 rounds of a second each; two processors, one for the server and one for dnsperf; 50 s

Each is asked what its own containers ask: theirs of Podman find `search dns.podman` in resolv.conf,
so `c7.dns.podman` it is. aardvark-dns is ten times faster at bare names; that is shown, too.
Ours looks at the state database after each batch it has received, as netkitd's does. A change
makes it forget all it remembers.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Address
from itertools import count
from statistics import median

from benchmarks.contest import Figures, Player, Target, contest, show, table
from netkit.dns.message import Address
from netkit.dns.server import Server
from scenarios.lab import Host, at

NAMES = 1000
OUTSTANDING = 64
IDLE = 500
CHANGES = 1000
ROUNDS = 7
ROUND_S = 1
THERE = 200
NEW_ROUNDS = 50
MOST_NEW_MS = 2.0
LEAST_TO_DNSMASQ, LEAST_TO_AARDVARK, LEAST_WITH_IDLE = 0.8, 20.0, 0.9

DNSPERF, DNSMASQ, AARDVARK = "dnsperf", "dnsmasq", "/usr/lib/podman/aardvark-dns"
GATEWAY, BASE = "127.0.0.1", IPv4Address("127.1.0.2")
ASKER = str(BASE)  # one of the containers: aardvark-dns answers nobody else
ADDRESSES = {f"c{number}": BASE + number for number in range(NAMES)}


class Everybody:
    """What each asker may know: all names."""

    upstreams = ()
    keeps_bare = True

    def addresses(self, name: str) -> Sequence[Address] | None:
        address = ADDRESSES.get(name)
        return None if address is None else (address,)

    def name_of(self, address: Address) -> str | None:
        return None

    def services(self, service: str, protocol: str, name: str) -> Sequence[tuple[int, str]]:
        return ()

    def owns(self, name: str) -> bool:
        return False

    def is_watched(self, name: str) -> bool:
        return False


def ours(idle: int = 0, changes: int = 0) -> Iterator[Figures]:
    with Host() as host, ExitStack() as stack:
        database = f"{host.base}/state.db"
        writer = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("PRAGMA synchronous=NORMAL")
        writer.execute("CREATE TABLE changes (number)")
        stack.callback(writer.close)
        child = os.fork()
        if not child:
            try:
                _serve(database)
            finally:
                os._exit(1)
        stack.callback(_end, child)
        yield from _rounds(host, idle, partial(_change, writer, changes))


def _serve(database: str) -> None:
    reader = sqlite3.connect(f"file:{database}?mode=ro", uri=True, isolation_level=None)
    seen = 0

    def fresh() -> bool:
        nonlocal seen
        before = seen
        (seen,) = reader.execute("PRAGMA data_version").fetchone()
        return bool(seen != before)

    everybody = Everybody()
    server = Server(lambda _key, _source: everybody, fresh)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    udp.bind((GATEWAY, 53))
    tcp.bind((GATEWAY, 53))
    tcp.listen(1024)
    server.add("bench", udp, tcp)
    server.run()


def _change(writer: sqlite3.Connection, changes: int) -> None:
    for number in range(changes):
        writer.execute("INSERT INTO changes VALUES (?)", (number,))
        time.sleep(ROUND_S / changes / 2)


def newcomers() -> Iterator[Figures]:
    """All of it: a name server as netkitd has it, and containers that come and are asked for."""
    from netkit.specs import NetworkSpec
    from scenarios.served import served

    with Host() as host, served(host):
        engine = host.engine()
        engine.create_network(NetworkSpec("web", names=True))
        asker = engine.connect("web", name="asker")
        for number in range(THERE):
            engine.connect("web", name=f"there{number}")
        gateway = str(engine.network("web").gateway())

        def connected() -> socket.socket:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(5)
            sock.connect((gateway, 53))
            return sock

        with at(asker.netns, connected) as sock:
            yield {}
            for number in count():
                name = f"new{number}"
                found = engine.connect("web", name=name)
                begin = time.perf_counter()
                label = bytes([len(name)]) + name.encode()
                sock.send(b"\0\1\1\0\0\1\0\0\0\0\0\0" + label + b"\0\0\1\0\1")
                if not sock.recv(512).endswith(found.addresses[0].ip.packed):
                    raise RuntimeError(f"{name} is not known")
                yield {"answered": (time.perf_counter() - begin) * 1000}
                engine.disconnect("web", name)


def dnsmasq() -> Iterator[Figures]:
    with Host() as host, ExitStack() as stack:
        with open(f"{host.base}/hosts", "w") as file:
            file.writelines(f"{address} {name}\n" for name, address in ADDRESSES.items())
        command = [DNSMASQ, "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file="]
        command += ["--no-resolv", "--no-hosts", f"--addn-hosts={host.base}/hosts", "--user=root"]
        command += [f"--listen-address={GATEWAY}", "--bind-interfaces", "--local-ttl=0"]
        stack.callback(_end, subprocess.Popen(command).pid)
        yield from _rounds(host)


def aardvark() -> Iterator[Figures]:
    with Host() as host, ExitStack() as stack:
        config = f"{host.base}/config"
        os.mkdir(config)
        with open(f"{config}/bench", "w") as file:
            file.write(f"{GATEWAY}\n")
            for number, (name, address) in enumerate(ADDRESSES.items()):
                file.write(f"{number:064x} {address}  {name}\n")
        # it leaves its standard error to a child that goes on
        subprocess.run(
            [AARDVARK, "--config", config, "-p", "53", "run"], check=True, stderr=subprocess.DEVNULL
        )
        with open(f"{config}/aardvark.pid") as file:
            stack.callback(os.kill, int(file.read()), signal.SIGKILL)
        bare, asked = (_rounds(host, suffix=suffix) for suffix in ("", ".dns.podman"))
        for figures, unqualified in zip(asked, bare, strict=True):
            if unqualified:
                figures["bare names a second"] = unqualified["questions a second"]
            yield figures


def _rounds(
    host: Host,
    idle: int = 0,
    meanwhile: Callable[[], None] = lambda: None,
    *,
    suffix: str = "",
) -> Iterator[Figures]:
    _await_answer()
    questions = f"{host.base}/questions{suffix}"
    with open(questions, "w") as file:
        file.writelines(f"{name}{suffix} A\n" for name in ADDRESSES)
    yield {}
    while True:
        thread = threading.Thread(target=meanwhile)
        thread.start()
        with ExitStack() as connections:
            for number in range(idle):
                asker = str(BASE + number // 50)  # one asker may have no more than 64
                connection = socket.create_connection((GATEWAY, 53), 5, (asker, 0))
                connections.enter_context(connection).send(b"\0")
            figures = _ask(questions)
        thread.join()
        yield figures


def _await_answer() -> None:
    question = b"\0\1\1\0\0\1\0\0\0\0\0\0\2c7\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((ASKER, 0))
        sock.settimeout(0.05)
        for _ in range(100):
            try:
                sock.sendto(question, (GATEWAY, 53))
                if sock.recv(512).endswith(ADDRESSES["c7"].packed):
                    return
            except OSError:
                continue
    raise RuntimeError("the server does not answer")


def _ask(questions: str) -> Figures:
    command = [DNSPERF, "-s", GATEWAY, "-a", ASKER, "-d", questions, "-l", str(ROUND_S)]
    command += ["-q", str(OUTSTANDING), "-c", "1", "-T", "1", "-t", "1"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def number(pattern: str) -> float:
        found = re.search(pattern, said)
        if not found:
            raise RuntimeError(f"dnsperf says no {pattern!r}:\n{said}")
        return float(found[1])

    if number(r"NOERROR \d+ \(([\d.]+)%\)") != 100:
        raise RuntimeError(said)
    return {
        "questions a second": number(r"Queries per second: +([\d.]+)"),
        "lost": number(r"Queries lost: +(\d+)"),
    }


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def measure() -> list[Target]:
    new = contest({"a new name": newcomers}, NEW_ROUNDS)["a new name"]
    show("a new name", new, "ms")
    first = Target("names: a new one answers", median(new["answered"]), " ms", MOST_NEW_MS)
    return [first, *_questions()]


def _questions() -> list[Target]:
    idling, changing = f"netkit, {IDLE} idle TCP connections", f"netkit, {CHANGES} changes a round"
    what = "names: questions answered"
    if not shutil.which(DNSPERF):
        print(f"  no {DNSPERF}: .ci/setup bench installs it")
        return [Target(f"{what}, to dnsmasq's", None, " x", LEAST_TO_DNSMASQ, is_floor=True)]
    players: dict[str, Player] = {"netkit": ours}
    peers: dict[str, Player] = {"dnsmasq": dnsmasq, "aardvark-dns": aardvark}
    for name, player in peers.items():
        program = shutil.which(DNSMASQ if name == "dnsmasq" else AARDVARK)
        if program:
            players[name] = player
        else:
            print(f"  no {name}: .ci/setup bench installs it")
    players[idling] = partial(ours, idle=IDLE)
    players[changing] = partial(ours, changes=CHANGES)
    figures = contest(players, ROUNDS)
    for name, series in figures.items():
        show(name, series, "")

    def speed(name: str) -> float:
        return median(figures[name]["questions a second"])

    def times(peer: str) -> float | None:
        return speed("netkit") / speed(peer) if peer in figures else None

    kept = speed(idling) / speed("netkit")
    lost = sum(figures["netkit"]["lost"]) + sum(figures[changing]["lost"])
    return [
        Target(f"{what}, to dnsmasq's", times("dnsmasq"), " x", LEAST_TO_DNSMASQ, is_floor=True),
        Target(
            f"{what}, to aardvark-dns'",
            times("aardvark-dns"),
            " x",
            LEAST_TO_AARDVARK,
            is_floor=True,
        ),
        Target(f"names: the same with {IDLE} idle", kept, " x", LEAST_WITH_IDLE, is_floor=True),
        Target(f"names: lost in {ROUNDS * CHANGES} changes", lost, "", 0),
    ]


if __name__ == "__main__":
    print(table(measure()))
