"""How fast each driver connects, and both firewall back ends; beside the bridge of part one.

Run it: python -m benchmarks.drivers
What     as in benchmarks.connect: the namespace and the network exist, an engine is kept warm; an
         endpoint comes (with one published port where the driver publishes), and goes again
Units    milliseconds
Bounds   25 rounds; 420 namespaces; some 40 s

The last four show how the iptables back end grows, beside the CNI plugin portmap (its own ADD, for
a container that has its address already: netkit's figure holds the whole connect) on the same
legacy tables. Both walk and rewrite a table; an element of nftables costs the same at any size.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from statistics import median
from time import perf_counter
from typing import Any

from benchmarks.contest import Figures, Player, Target, contest, show, table
from netkit.engine import Engine
from netkit.kernel import netns
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host, run

PORTMAP = "/usr/lib/cni/portmap"
FEW, MANY = 10, 200
ROUNDS = 25
FOURS, SIXES = IPv4Network("10.88.0.0/16"), IPv6Network("fd00:88::/64")
KINDS: dict[str, dict[str, Any]] = {
    "bridge": {},
    "bridge, dual stack": {"subnets": (FOURS, SIXES), "ipv6": True},
    "veth": {"driver": "veth"},
    "veth, dual stack": {"driver": "veth", "subnets": (FOURS, SIXES), "ipv6": True},
    "macvlan": {"driver": "macvlan", "options": {"parent": "lan0"}},
}


def driver(kind: str, present: int = FEW, firewall: str = "nftables") -> Iterator[Figures]:
    """An engine with *present* endpoints; one more comes and goes."""
    with Host():
        run("ip link add lan0 type veth peer name lan1", "ip link set lan0 up; ip link set lan1 up")
        engine = Engine(firewall_name=firewall)
        spec = {"subnets": (FOURS,)} | KINDS[kind]
        engine.create_network(NetworkSpec("bench", **spec))
        publishes = kind != "macvlan"
        for number in range(present):
            ports = PortSpec.parse(f"{10_000 + number}:80") if publishes else ()
            engine.connect("bench", name=f"c{number}", request=Request(ports=ports))
        netns.create("new")
        target = f"netns:{netns.named('new')}"
        request = Request(ports=PortSpec.parse("8080:80") if publishes else ())
        try:
            yield {}
            while True:
                yield {
                    "connect": _timed(lambda: engine.connect("bench", target, request)),
                    "disconnect": _timed(lambda: engine.disconnect("bench", target)),
                }
        finally:
            engine.close()


def portmap(present: int) -> Iterator[Figures]:
    """The CNI plugin, with *present* containers' ports in the legacy tables."""
    with Host() as host:
        bin_directory = f"{host.base}/bin"
        os.makedirs(bin_directory)
        for name in ("iptables", "ip6tables"):
            os.symlink(f"/usr/sbin/{name}-legacy", f"{bin_directory}/{name}")

        def call(verb: str, name: str, number: int) -> None:
            conf = {
                "cniVersion": "0.4.0",
                "name": "bench",
                "type": "portmap",
                "runtimeConfig": {
                    "portMappings": [
                        {"hostPort": 10_000 + number, "containerPort": 80, "protocol": "tcp"}
                    ]
                },
                "prevResult": {
                    "cniVersion": "0.4.0",
                    "interfaces": [{"name": "eth0", "sandbox": netns.named("new")}],
                    "ips": [{"version": "4", "address": f"{FOURS[number + 2]}/16", "interface": 0}],
                },
            }
            env = {
                "PATH": f"{bin_directory}:{os.environ['PATH']}",
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": name,
                "CNI_NETNS": netns.named("new"),
                "CNI_IFNAME": "eth0",
                "CNI_PATH": os.path.dirname(PORTMAP),
            }
            done = subprocess.run(
                [PORTMAP], input=json.dumps(conf).encode(), env=env, capture_output=True
            )
            if done.returncode:
                raise RuntimeError(f"portmap {verb}: {done.stdout!r} {done.stderr!r}")

        netns.create("new")
        for number in range(present):
            call("ADD", f"c{number}", number)
        yield {}
        while True:
            yield {
                "connect": _timed(lambda: call("ADD", "new", present)),
                "disconnect": _timed(lambda: call("DEL", "new", present)),
            }


def measure() -> list[Target]:
    players: dict[str, Player] = {kind: partial(driver, kind) for kind in KINDS}
    iptables = {n: f"bridge on iptables, {n} present" for n in (FEW, MANY)}
    peer = {n: f"portmap on iptables, {n} present" for n in (FEW, MANY)}
    players |= {name: partial(driver, "bridge", n, "iptables") for n, name in iptables.items()}
    has_portmap = os.access(PORTMAP, os.X_OK)
    if has_portmap:
        players |= {name: partial(portmap, n) for n, name in peer.items()}
    else:
        print(f"  no {PORTMAP}: .ci/setup bench installs it")
    figures = contest(players, ROUNDS)
    for name, series in figures.items():
        show(name, series, "ms")

    def time_of(name: str) -> float:
        return median(figures[name]["connect"])

    for kind in KINDS:
        print(
            f"  connect on {kind}: {time_of(kind) / time_of('bridge'):.2f} times the bridge's time"
        )
    print(f"  with {MANY} present to with {FEW}:", end=" ")
    print(f"iptables {time_of(iptables[MANY]) / time_of(iptables[FEW]):.2f} x", end="")
    if has_portmap:
        print(f", portmap {time_of(peer[MANY]) / time_of(peer[FEW]):.2f} x", end="")
    print()
    faster = time_of(peer[FEW]) / time_of(iptables[FEW]) if has_portmap else None
    return [
        Target(
            "connect: dual stack's time to IPv4's",
            time_of("bridge, dual stack") / time_of("bridge"),
            " x",
            1.5,
        ),
        Target(
            "connect: veth's time to the bridge's", time_of("veth") / time_of("bridge"), " x", 1.5
        ),
        Target(
            "connect: macvlan's time to the bridge's",
            time_of("macvlan") / time_of("bridge"),
            " x",
            1.5,
        ),
        Target("portmap's time to a whole connect on iptables", faster, " x", 1.0, is_floor=True),
    ]


def _timed(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return (perf_counter() - begin) * 1e3


if __name__ == "__main__":
    print(table(measure()))
