"""What a connect asks of the kernel: programs executed and netlink messages sent, by strace.

Run it: python -m benchmarks.work
What     one connect by a warm engine, or one CNI ADD as netkitd does it, counted between two marks
         in the trace; with 200 endpoints present it must be the same. Beside it the reference's
         chain, whose every program counts
Bounds   201 namespaces; some 30 s
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Network
from typing import NamedTuple

from benchmarks.cni import REFERENCE, Caller, all_in_one, reference_chain
from benchmarks.contest import Figures, Target, contest, show, table
from cni import delegate, install, plugin
from netkit.kernel import netns
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host

FEW, MANY = 10, 200
MOST_SENDS = 12
_TIMEOUT_S = 80
_SENDS = ("sendto", "sendmsg", "sendmmsg", "write", "writev")
_MARK = "getpriority"  # nobody else calls it
_CALL = re.compile(r"^\d+ +(\w+)\((\d+<NETLINK:)?")


class Work(NamedTuple):
    """What one connect took."""

    executed: int
    sends: int


def count(present: int, what: str = "connect") -> Work:
    """The work of one connect, or of *what*, with *present* endpoints on the network; in a lab.

    FileNotFoundError where strace is missing.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with tempfile.NamedTemporaryFile("r") as trace:
        subprocess.run(
            [
                *("strace", "-f", "-yy", "--seccomp-bpf", "-o", trace.name),
                *("-e", f"trace=execve,execveat,{','.join(_SENDS)},{_MARK}"),
                *(sys.executable, "-m", "benchmarks.work", what, str(present)),
            ],
            check=True,
            cwd=root,
            timeout=_TIMEOUT_S,
        )
        calls = [found for line in trace if (found := _CALL.match(line))]
    first, last = (at for at, call in enumerate(calls) if call[1] == _MARK)
    between = calls[first + 1 : last]
    return Work(
        executed=sum(call[1].startswith("execve") for call in between),
        sends=sum(call[1] in _SENDS and call[2] is not None for call in between),
    )


def _connect(present: int) -> None:
    """What is traced."""
    with Host() as host:
        engine = host.engine()
        engine.create_network(NetworkSpec("bench", subnets=(IPv4Network("10.88.0.0/16"),)))
        for number in range(present):
            engine.connect("bench", name=f"c{number}")
        netns.create("new")
        target = f"netns:{netns.named('new')}"
        request = Request(ports=PortSpec.parse("8080:80"))
        engine.connect("bench", target, request)  # all that is loaded on first use is loaded now
        engine.disconnect("bench", target)
        os.getpriority(os.PRIO_PROCESS, 0)
        engine.connect("bench", target, request)
        os.getpriority(os.PRIO_PROCESS, 0)


class _InProcess(Caller):
    """As netkitd calls them."""

    def __init__(self, host: Host) -> None:
        bin_dir = f"{host.base}/bin"
        install.install(bin_dir)
        super().__init__(all_in_one(host.base), bin_dir)
        self.engine = host.engine()
        self.engine.changes.call = delegate.release

    def execute(self, kind: str, stdin: bytes, environ: dict[str, str]) -> tuple[int, bytes]:
        return plugin.handle(kind, environ, stdin, self.engine)


def _add(present: int, what: str) -> None:
    """What is traced: an ADD of the all-in-one type, or of the chain, ours or the reference's."""
    with Host() as host:
        caller = (
            Caller(reference_chain(host.base), REFERENCE)
            if what == "reference"
            else _InProcess(host)
        )
        if what == "chain":
            caller.chain = reference_chain(host.base)
        for number in range(present):
            netns.create(f"c{number}")
            caller.add(f"c{number}", 10_000 + number)
        netns.create("new")
        caller.add("new", 8080)
        caller.delete("new", 8080)
        os.getpriority(os.PRIO_PROCESS, 0)
        caller.add("new", 8080)
        os.getpriority(os.PRIO_PROCESS, 0)


def _counted(present: int, what: str) -> Iterator[Figures]:
    yield {}
    while True:
        work = count(present, what)
        yield {"programs executed": work.executed, "netlink sends": work.sends}


def measure() -> list[Target]:
    if not shutil.which("strace"):
        print("  no strace: .ci/setup bench installs it")
        return [Target("connect: programs executed", None, "", 0)]
    asked = {
        f"{name}, {number} present": (number, what)
        for name, what in (
            ("connect", "connect"),
            ("CNI all in one", "all"),
            ("CNI chain, our part", "chain"),
        )
        for number in (FEW, MANY)
    }
    if os.access(f"{REFERENCE}/bridge", os.X_OK):
        asked[f"the reference's chain, {FEW} present"] = FEW, "reference"
    players = {name: partial(_counted, *how) for name, how in asked.items()}
    figures = contest(players, rounds=1, warm_up=0)
    found: dict[str, Figures] = {}
    for name, series in figures.items():
        show(name, series, "")
        found[name] = {what: values[0] for what, values in series.items()}
    targets = []
    for name in ("connect", "CNI all in one"):
        few, many = (found[f"{name}, {number} present"] for number in (FEW, MANY))
        growth = many["netlink sends"] - few["netlink sends"]
        targets += [
            Target(f"{name}: programs executed", few["programs executed"], "", 0),
            Target(f"{name}: netlink sends", few["netlink sends"], "", MOST_SENDS),
            Target(f"{name}: netlink sends, {MANY} present less {FEW}", growth, "", 0),
        ]
    return targets


if __name__ == "__main__":
    if sys.argv[1:]:
        what, number = sys.argv[1], int(sys.argv[2])
        _connect(number) if what == "connect" else _add(number, what)
    else:
        print(table(measure()))
