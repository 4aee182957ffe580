"""How long a command takes to start, beside the interpreter it runs on.

Run it: python -m benchmarks.startup
What     `netkit --help` and `netkit network ls` (with one network), beside `python3 -c pass`
Units    milliseconds
Bounds   25 rounds; some 15 s
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from statistics import median
from time import perf_counter

from benchmarks.contest import Figures, Target, contest, show, table
from netkit.specs import NetworkSpec
from scenarios.lab import Host

ROUNDS = 25
MOST = 8.0
BARE = [sys.executable, "-c", "pass"]
NETKIT = [sys.executable, "-c", "from netkit.cli import main; main()"]  # as the script `netkit`
COMMANDS = ([*NETKIT, "--help"], [*NETKIT, "network", "ls"])


def _started(command: list[str]) -> Iterator[Figures]:
    with Host() as host:
        host.engine().create_network(NetworkSpec("bench"))
        # compiled once, as for any user, even where the environment or the disk forbids it
        environ = os.environ | {"PYTHONPYCACHEPREFIX": f"{host.base}/pycache"}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield {}
        while True:
            begin = perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ)
            yield {"start to end": (perf_counter() - begin) * 1e3}


def measure() -> list[Target]:
    players = {_name(command): partial(_started, command) for command in (BARE, *COMMANDS)}
    figures = contest(players, ROUNDS)
    for name, series in figures.items():
        show(name, series, "ms")
    bare, *ours = (median(series["start to end"]) for series in figures.values())
    return [
        Target(f"start: {_name(command)} to python3 -c pass", taken / bare, " x", MOST)
        for command, taken in zip(COMMANDS, ours, strict=True)
    ]


def _name(command: list[str]) -> str:
    if command == BARE:
        return "python3 -c pass"
    return " ".join(["netkit", *command[len(NETKIT) :]])


if __name__ == "__main__":
    print(table(measure()))
