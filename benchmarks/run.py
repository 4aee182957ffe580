"""All benchmarks: `make bench`.

Each target is printed with what was found and whether that will do; below target is a finding, not
an error. The exit code is 1 when a benchmark itself is broken.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from time import perf_counter

from benchmarks import cni, connect, drivers, leases, names, policies, ports, startup, work
from benchmarks.contest import Target, table

BENCHMARKS: dict[str, Callable[[], list[Target]]] = {
    "a container connected and disconnected": connect.measure,
    "drivers and back ends": drivers.measure,
    "the work of one connect": work.measure,
    "CNI plugins": cni.measure,
    "published ports": ports.measure,
    "who may talk to whom": policies.measure,
    "leases": leases.measure,
    "names": names.measure,
    "starting the program": startup.measure,
}


def main() -> int:
    begin = perf_counter()
    targets: list[Target] = []
    broken: list[str] = []
    for name, measure in BENCHMARKS.items():
        print(name, flush=True)
        try:
            targets += measure()
        except Exception:
            traceback.print_exc()
            broken.append(name)
    print(f"\n{table(targets)}\n\n{perf_counter() - begin:.0f} s")
    for name in broken:
        print(f"broken: {name}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
