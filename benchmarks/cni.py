"""How fast CNI plugins attach a container: netkit's beside the reference's and netavark.

Run it: python -m benchmarks.cni
What     the chain bridge (with host-local), portmap, firewall, tuning, as runtimes execute it: one
         program a plugin, and for netkit also its all-in-one type. With 10 containers present, the
         namespace exists; ADD gives it an interface, an address, masquerade and a published port;
         DEL takes them away. netkitd runs, but for the player that has none
Units    milliseconds
Bounds   20 rounds, in three of which 16 callers attach 32 containers and detach them; some 3 min

Plugins and netkitd are run by Debian's own interpreter, as on a fresh machine, where that is of the
version the benchmark itself is run by; one built without optimisation takes a fifth longer.

All programs are started alike (posix_spawn, files for standard input and output), so what the
caller costs is the same for all. netavark gets the address from its caller and keeps no record.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep
from typing import Any

from benchmarks.connect import NETAVARK, netavark
from benchmarks.contest import Figures, Player, Series, Target, contest, show, table
from cni import install
from netkit import wire
from netkit.kernel import netns
from scenarios.lab import Host

REFERENCE = "/usr/lib/cni"
DEBIANS = "/usr/bin/python3"
FEW, MANY, CROWD, CALLERS = 10, 1000, 32, 16
REFERENCE_MANY = 200  # with a thousand the reference takes a quarter of an hour to get there
ROUNDS, CROWDED = 20, 3
_PATIENCE_S = 30.0

Json = dict[str, Any]
Chain = Sequence[Json]


def reference_chain(base: str) -> Chain:
    ranges = [[{"subnet": "10.88.0.0/16"}]]
    ipam: Json = {"type": "host-local", "dataDir": f"{base}/leases", "ranges": ranges}
    ipam["routes"] = [{"dst": "0.0.0.0/0"}]
    return (
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "ipam": ipam},
        {"type": "portmap"},
        {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
    )


def all_in_one(base: str) -> Chain:
    return ({"type": "netkit", "subnets": ["10.88.0.0/16"]},)


class Caller:
    """A runtime: it executes the plugins of a chain in *bin_dir*, and nothing else."""

    def __init__(self, chain: Chain, bin_dir: str, daemon: bool = True) -> None:
        self.chain = chain
        self.bin_dir = bin_dir
        self.environ = {**os.environ, "CNI_PATH": bin_dir, "CNI_IFNAME": "eth0"}
        if not daemon:
            self.environ["NETKIT_DAEMON"] = "no"
        self.results: dict[str, bytes] = {}

    def add(self, name: str, port: int) -> None:
        said = b""
        for conf in self.chain:
            said = self._call("ADD", name, port, conf, said)
        self.results[name] = said

    def delete(self, name: str, port: int) -> None:
        said = self.results.pop(name)
        for conf in reversed(self.chain):
            self._call("DEL", name, port, conf, said)

    def _call(self, verb: str, name: str, port: int, conf: Json, previous: bytes) -> bytes:
        mapping = {"hostPort": port, "containerPort": 80, "protocol": "tcp"}
        whole = {"cniVersion": "1.0.0", "name": "bench", **conf}
        if conf["type"] in ("portmap", "netkit"):
            whole["runtimeConfig"] = {"portMappings": [mapping]}
        if previous:
            whole["prevResult"] = json.loads(previous)
        status, said = self.execute(
            conf["type"],
            json.dumps(whole).encode(),
            {
                **self.environ,
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": name,
                "CNI_NETNS": netns.named(name),
            },
        )
        if status:
            raise RuntimeError(f"{conf['type']} {verb} {name}: {said.decode(errors='replace')}")
        return said

    def execute(self, kind: str, stdin: bytes, environ: dict[str, str]) -> tuple[int, bytes]:
        return spawn(f"{self.bin_dir}/{kind}", stdin, environ)


def spawn(program: str, stdin: bytes, environ: dict[str, str]) -> tuple[int, bytes]:
    """A program's exit status and answer; no thread, no pipe, no copy of this process."""
    given, answer = os.memfd_create("stdin"), os.memfd_create("stdout")
    try:
        os.pwrite(given, stdin, 0)
        files = [(os.POSIX_SPAWN_DUP2, given, 0), (os.POSIX_SPAWN_DUP2, answer, 1)]
        pid = os.posix_spawn(program, [program], environ, file_actions=files)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), os.pread(answer, 1 << 20, 0)
    finally:
        os.close(given)
        os.close(answer)


def plugins(
    make: Callable[[str], Chain], present: int, *, bin_dir: str = "", daemon: bool = True
) -> Iterator[Figures]:
    """One more container comes and goes; then sixteen callers at once."""
    with Host() as host, _netkitd(host.base) if daemon and not bin_dir else _nothing():
        if not bin_dir:
            bin_dir = f"{host.base}/bin"
            _install(bin_dir)
        caller = Caller(make(host.base), bin_dir, daemon)
        names = [f"c{number}" for number in range(present)]
        for number, name in enumerate((*names, "new")):
            netns.create(name)
            if name != "new":
                caller.add(name, 10_000 + number)
        crowd = [(f"x{number}", 30_000 + number) for number in range(CROWD)]
        for name, _ in crowd:
            netns.create(name)
        yield {}
        for _ in range(CROWDED if present == FEW else 0):
            yield {**_one(caller), **_all_at_once(caller, crowd)}
        while True:
            yield _one(caller)


def _one(caller: Caller) -> Figures:
    return {
        "ADD": _timed(lambda: caller.add("new", 8080)),
        "DEL": _timed(lambda: caller.delete("new", 8080)),
    }


def _all_at_once(caller: Caller, crowd: Sequence[tuple[str, int]]) -> Figures:
    with ThreadPoolExecutor(CALLERS) as pool:
        adding = _timed(lambda: list(pool.map(lambda each: caller.add(*each), crowd)))
        deleting = _timed(lambda: list(pool.map(lambda each: caller.delete(*each), crowd)))
    return {
        f"ADD, {CALLERS} callers, each": adding / len(crowd),
        f"DEL, {CALLERS} callers, each": deleting / len(crowd),
    }


def _python() -> str:
    """Debian's interpreter, if what is compiled for ours works in it, too."""
    with suppress(OSError):
        asked = [DEBIANS, "-c", "import sys; print(sys.implementation.cache_tag)"]
        said = subprocess.run(asked, capture_output=True, text=True)
        if said.stdout.strip() == sys.implementation.cache_tag:
            return DEBIANS
    return sys.executable


def _install(bin_dir: str) -> None:
    install.install(bin_dir)
    for name in install.NAMES:
        Path(bin_dir, name).write_bytes(install.executable(_python()))


@contextmanager
def _netkitd(base: str) -> Iterator[None]:
    """netkitd in the foreground, until it has said that it is there."""
    command = [_python(), "-m", "netkit.daemon"]
    ours = [str(Path(__file__).parents[1]), *(p for p in sys.path if p.endswith("-packages"))]
    environ = {**os.environ, "PYTHONPATH": ":".join(ours)}
    with open(f"{base}/netkitd.log", "w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environ)
    path = f"{os.environ['NETKIT_RUN_DIR']}/{wire.SOCKET}"
    try:
        deadline = monotonic() + _PATIENCE_S
        while not os.path.exists(path):
            if process.poll() is not None or monotonic() > deadline:
                with open(f"{base}/netkitd.log") as log:
                    raise RuntimeError(f"netkitd did not start: {log.read()}")
            sleep(0.01)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_PATIENCE_S)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def measure() -> list[Target]:
    players: dict[str, Player] = {
        "netkit, the chain": partial(plugins, reference_chain, FEW),
        "netkit, all in one": partial(plugins, all_in_one, FEW),
        f"netkit, the chain, {MANY} present": partial(plugins, reference_chain, MANY),
        f"netkit, all in one, {MANY} present": partial(plugins, all_in_one, MANY),
        "netkit, the chain, no daemon": partial(plugins, reference_chain, FEW, daemon=False),
    }
    has_reference = os.access(f"{REFERENCE}/bridge", os.X_OK)
    if has_reference:
        reference = partial(plugins, reference_chain, bin_dir=REFERENCE)
        players["the reference"] = partial(reference, FEW)
        players[f"the reference, {REFERENCE_MANY} present"] = partial(reference, REFERENCE_MANY)
    else:
        print(f"  no {REFERENCE}/bridge: .ci/setup bench installs it")
    if os.access(NETAVARK, os.X_OK):
        players["netavark"] = partial(netavark, FEW)
    figures = contest(players, ROUNDS, warm_up=0)
    for name, series in figures.items():
        show(name, series, "ms")

    chain, whole = figures["netkit, the chain"], figures["netkit, all in one"]
    peer = figures.get("the reference")

    def ratio(verb: str, mine: Series, other: Series | None = peer) -> float | None:
        return median(other[verb]) / median(mine[verb]) if other else None

    def grown(name: str) -> float | None:
        return ratio("ADD", figures[name], figures[f"{name}, {MANY} present"])

    if peer:
        more = figures[f"the reference, {REFERENCE_MANY} present"]
        print(f"  the reference's ADD grows {ratio('ADD', peer, more):.2f} times with ", end="")
        print(f"{REFERENCE_MANY} present")
    crowd = [f"{verb}, {CALLERS} callers, each" for verb in ("ADD", "DEL")]
    alone = figures["netkit, the chain, no daemon"]
    slower = 1 / found if (found := ratio("ADD", alone)) else None
    return [
        Target("CNI chain: the reference's ADD to ours", ratio("ADD", chain), " x", 2.5, True),
        Target("CNI chain: the reference's DEL to ours", ratio("DEL", chain), " x", 5.0, True),
        Target("CNI all in one: the reference's ADD to ours", ratio("ADD", whole), " x", 7.0, True),
        Target("CNI all in one: the reference's DEL to ours", ratio("DEL", whole), " x", 5.0, True),
        *(
            Target(f"CNI all in one: {each[:-6]}", ratio(each, whole), " x", 6.0, True)
            for each in crowd
        ),
        Target(
            f"CNI chain: ADD with {MANY} present to {FEW}", grown("netkit, the chain"), " x", 1.3
        ),
        Target(
            f"CNI all in one: ADD with {MANY} present to {FEW}",
            grown("netkit, all in one"),
            " x",
            1.3,
        ),
        Target("CNI chain, no daemon: our ADD to the reference's", slower, " x", 3.0),
    ]


def _timed(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return (perf_counter() - begin) * 1e3


if __name__ == "__main__":
    print(table(measure()))
