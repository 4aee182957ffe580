"""What a connect asks of the kernel: programs executed and netlink messages sent, by strace.

Run it: python -m benchmarks.work
What     one connect by a warm engine, counted between two marks in the trace; with 200 endpoints
         present it must be the same
Bounds   201 namespaces; some 15 s
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

from benchmarks.contest import Figures, Target, contest, show, table
from netkit.kernel import netns
from netkit.model import NetworkSpec, PortSpec, Request
from scenarios.lab import Host

FEW, MANY = 10, 200
MOST_SENDS = 40
_TIMEOUT_S = 80
_SENDS = ("sendto", "sendmsg", "sendmmsg", "write", "writev")
_MARK = "getpriority"  # nobody else calls it
_CALL = re.compile(r"^\d+ +(\w+)\((\d+<NETLINK:)?")


class Work(NamedTuple):
    """What one connect took."""

    executed: int
    sends: int


def count(present: int) -> Work:
    """The work of one connect with *present* endpoints on the network; in a lab.

    FileNotFoundError where strace is missing.
    """
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    with tempfile.NamedTemporaryFile("r") as trace:
        subprocess.run(
            [
                *("strace", "-f", "-yy", "--seccomp-bpf", "-o", trace.name),
                *("-e", f"trace=execve,execveat,{','.join(_SENDS)},{_MARK}"),
                *(sys.executable, "-m", "benchmarks.work", str(present)),
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


def _counted(present: int) -> Iterator[Figures]:
    yield {}
    while True:
        work = count(present)
        yield {"programs executed": work.executed, "netlink sends": work.sends}


def measure() -> list[Target]:
    names = [f"connect, {FEW} endpoints present", f"connect, {MANY} endpoints present"]
    found: list[Figures | None] = [None, None]
    if shutil.which("strace"):
        players = {n: partial(_counted, k) for n, k in zip(names, (FEW, MANY), strict=True)}
        figures = contest(players, rounds=1, warm_up=0)
        for number, name in enumerate(names):
            show(name, figures[name], "")
            found[number] = {what: values[0] for what, values in figures[name].items()}
    else:
        print("  no strace: .ci/setup bench installs it")
    few, many = found
    executed = few["programs executed"] if few else None
    sends = few["netlink sends"] if few else None
    growth = many["netlink sends"] - few["netlink sends"] if few and many else None
    return [
        Target("connect: programs executed", executed, "", 0),
        Target("connect: netlink sends", sends, "", MOST_SENDS),
        Target(f"connect: netlink sends, {MANY} endpoints present less {FEW}", growth, "", 0),
    ]


if __name__ == "__main__":
    if sys.argv[1:]:
        _connect(int(sys.argv[1]))
    else:
        print(table(measure()))
