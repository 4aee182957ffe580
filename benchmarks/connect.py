"""How fast a container is connected: netkit beside netavark, and beside `ip -batch` and `nft -f`.

Run it: python -m benchmarks.connect
What     the container's namespace exists, and so does the network, with 10 endpoints on it. A veth
         pair, address, default route, masquerade and one published port come, and go again.
         netkit is an engine kept warm; netavark, ip and nft are programs, started each time
Units    milliseconds
Bounds   25 rounds; 3 020 namespaces; some 50 s

ip and nft get what netkit prints for the same endpoint, but for the sysctl that switches IPv6 off,
which would take a fourth program. netavark is told the address (Podman chose it) and keeps no
record. The thousand are spread over ten networks, because the kernel walks all ports of a bridge
when one comes: how much that is, the figures with a thousand on one bridge tell.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from statistics import median
from time import perf_counter

from benchmarks.contest import Figures, Player, Series, Target, contest, show, table
from netkit.firewall import Guard, Isolate, Masquerade, Publish, Rule
from netkit.firewall.nftables import Nftables
from netkit.kernel import netns
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host, run

NETAVARK = "/usr/lib/podman/netavark"
FEW, MANY, NETWORKS = 10, 1000, 10
ROUNDS = 25
SUBNET = IPv4Network("10.88.0.0/16")
GATEWAY = SUBNET[1]
BRIDGE = "bench0"


def netkit(present: int, networks: int = 1) -> Iterator[Figures]:
    """The engine, with *present* endpoints on as many networks; one comes and goes on the first."""
    with Host() as host:
        engine = host.engine()
        for number in range(networks):
            name = f"bench{number}"
            subnet = IPv4Network((10 + number << 24, 16))
            engine.create_network(NetworkSpec(name, subnets=(subnet,)))
        for number in range(present):
            ports = PortSpec.parse(f"{10_000 + number}:80")
            name = f"bench{number % networks}"
            engine.connect(name, name=f"c{number}", request=Request(ports=ports))
        netns.create("new")
        target = f"netns:{netns.named('new')}"
        request = Request(ports=PortSpec.parse("8080:80"))
        yield {}
        while True:
            yield {
                "connect": _timed(lambda: engine.connect("bench0", target, request)),
                "disconnect": _timed(lambda: engine.disconnect("bench0", target)),
            }


def netavark(present: int) -> Iterator[Figures]:
    """Podman's program, told what Podman would tell it."""
    with Host() as host:

        def call(verb: str, name: str, number: int) -> None:
            _execute(
                [NETAVARK, "--config", host.base, verb, netns.named(name)],
                _netavark_input(name, SUBNET[number + 2], 10_000 + number),
            )

        for number in range(present):
            netns.create(f"c{number}")
            call("setup", f"c{number}", number)
        netns.create("new")
        yield {}
        while True:
            yield {
                "connect": _timed(lambda: call("setup", "new", present)),
                "disconnect": _timed(lambda: call("teardown", "new", present)),
            }


def ip_and_nft(present: int) -> Iterator[Figures]:
    """What an operator's script would do: three programs to connect, two to disconnect."""
    firewall = Nftables()

    def nft(verb: str, *rules: Rule) -> None:
        _execute(["nft", "-f", "-"], "\n".join(firewall.lines(rules, verb)))

    def rules(name: str, number: int) -> tuple[Rule, ...]:
        address = SUBNET[number + 2]
        guard = Guard(f"v-{name}", _mac(2, number), (address,))
        return guard, Publish(None, 10_000 + number, address, 80, "tcp")

    def connect(name: str, number: int) -> None:
        nft("add", *rules(name, number))
        _execute(
            ["ip", "-batch", "-"],
            f"link add v-{name} address {_mac(6, number)} mtu 1500 master {BRIDGE} up type veth "
            f"peer name eth0 address {_mac(2, number)} mtu 1500 netns {name}\n"
            f"link set v-{name} alias netkit:{name} type bridge_slave hairpin on\n",
        )
        _execute(
            ["ip", "-n", name, "-batch", "-"],
            "link set lo up\n"
            f"addr add {SUBNET[number + 2]}/{SUBNET.prefixlen} brd + dev eth0\n"
            "link set eth0 up\n"
            f"route add default via {GATEWAY} dev eth0\n",
        )

    def disconnect(name: str, number: int) -> None:
        _execute(["ip", "link", "del", f"v-{name}"])
        nft("delete", *rules(name, number))

    with Host():
        _execute(["nft", "-f", "-"], firewall.script())
        nft("add", Isolate(BRIDGE, (SUBNET,)), Masquerade(BRIDGE))
        run(
            f"ip link add {BRIDGE} type bridge",
            f"ip addr add {GATEWAY}/{SUBNET.prefixlen} dev {BRIDGE}",
            f"ip link set {BRIDGE} up",
        )
        for number in range(present):
            netns.create(f"c{number}")
            connect(f"c{number}", number)
        netns.create("new")
        yield {}
        while True:
            yield {
                "connect": _timed(lambda: connect("new", present)),
                "disconnect": _timed(lambda: disconnect("new", present)),
            }


def measure() -> list[Target]:
    players: dict[str, Player] = {
        f"netkit, {FEW} present": partial(netkit, FEW),
        f"netkit, {MANY} present on {NETWORKS} networks": partial(netkit, MANY, NETWORKS),
        f"netkit, {MANY} present on one": partial(netkit, MANY),
        f"ip and nft, {FEW} present": partial(ip_and_nft, FEW),
        f"ip and nft, {MANY} present on one": partial(ip_and_nft, MANY),
    }
    has_netavark = os.access(NETAVARK, os.X_OK)
    if has_netavark:
        players[f"netavark, {FEW} present"] = partial(netavark, FEW)
    else:
        print(f"  no {NETAVARK}: .ci/setup bench installs it")
    figures = contest(players, ROUNDS)
    for name, series in figures.items():
        show(name, series, "ms")

    few, many, crowd, script, script_crowd, *peer = figures.values()

    def ratio(verb: str, other: Series, to: Series = few) -> float:
        return median(other[verb]) / median(to[verb])

    for verb in ("connect", "disconnect"):
        print(f"  {verb}: ip and nft take {ratio(verb, script):.2f} times netkit's time", end="")
        print(f", netavark {ratio(verb, peer[0]):.2f} times" if peer else "")
        print(
            f"  {verb}: with {MANY} on one bridge netkit takes {ratio(verb, crowd):.2f} times as "
            f"long, ip and nft {ratio(verb, script_crowd, script):.2f} times"
        )
    faster = ratio("connect", peer[0]) if peer else None
    return [
        Target("connect: netavark's time to netkit's", faster, " x", 4.0, is_floor=True),
        Target(
            f"connect: with {MANY} endpoints present to with {FEW}",
            ratio("connect", many),
            " x",
            1.3,
        ),
    ]


def _timed(call: Callable[[], object]) -> float:
    begin = perf_counter()
    call()
    return (perf_counter() - begin) * 1e3


def _execute(command: list[str], text: str = "") -> None:
    done = subprocess.run(command, input=text.encode(), capture_output=True)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise RuntimeError(f"{command}: exit code {done.returncode}: {said}")


def _mac(first: int, number: int) -> str:
    return f"{first:02x}:42:00:00:{number >> 8:02x}:{number & 255:02x}"


def _netavark_input(name: str, address: IPv4Address, port: int) -> str:
    network = {
        "name": "bench",
        "id": hashlib.sha256(b"bench").hexdigest(),
        "driver": "bridge",
        "network_interface": BRIDGE,
        "created": "2024-01-01T00:00:00Z",
        "subnets": [{"subnet": str(SUBNET), "gateway": str(GATEWAY)}],
        "ipv6_enabled": False,
        "internal": False,
        "dns_enabled": False,
        "ipam_options": {"driver": "host-local"},
    }
    wanted = {"interface_name": "eth0", "static_ips": [str(address)], "aliases": []}
    published = {
        "host_ip": "",
        "host_port": port,
        "container_port": 80,
        "protocol": "tcp",
        "range": 1,
    }
    return json.dumps(
        {
            "container_id": hashlib.sha256(name.encode()).hexdigest(),
            "container_name": name,
            "container_hostname": name,
            "networks": {"bench": wanted},
            "network_info": {"bench": network},
            "port_mappings": [published],
        }
    )


if __name__ == "__main__":
    print(table(measure()))
