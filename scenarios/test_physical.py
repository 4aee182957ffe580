"""An interface of the host's in a container, and back: a veth stands in for a network card.

A veth dies with its namespace, as no card would: that it comes back at all shows the pin at work.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from typing import NamedTuple

import pytest

from netkit import containers
from netkit.containers import RunSpec
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.kernel import process
from netkit.model import NetworkRecord, SandboxRecord
from netkit.specs import NetworkSpec, Request
from scenarios.lab import Host, inside, run, snapshot, until

OURS, THEIRS, OURS6, THEIRS6 = "10.9.0.1", "10.9.0.2", "fd09::1", "fd09::2"
BEYOND = "10.99.0.1"
LAN = ip_network("10.9.0.0/24")
MAC = "02:66:00:00:00:01"


class Town(NamedTuple):
    host: Host
    engine: Engine

    def create(self, *subnets: str, name: str = "card", **options: str) -> NetworkRecord:
        spec = NetworkSpec(
            name,
            "physical",
            subnets=tuple(ip_network(subnet) for subnet in subnets),
            options=options or {"device": "wire0"},
        )
        return self.engine.create_network(spec)


@pytest.fixture
def town(host: Host) -> Town:
    """`wire0`, tuned in every way a card may be, on a wire to a neighbour."""
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    run(
        "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1",
        "ip link set lan0 down",
        f"ip link set lan0 name wire0 address {MAC}",
        "ip addr flush dev wire0",
        "ip link set wire0 mtu 1400 txqueuelen 77 group 5 alias 'my card' allmulticast on up",
        f"ip addr add {OURS}/24 brd + dev wire0",
        f"ip addr add {OURS6}/64 dev wire0 nodad",
        f"ip route add {BEYOND}/32 via {THEIRS}",
        f"ip route add default via {THEIRS} metric 77",
        "ip -6 route add default via fd09::2 metric 78",
        "sysctl -qw net.ipv4.conf.wire0.rp_filter=2 net.ipv6.conf.wire0.accept_ra=0",
    )
    run(
        f"ip addr add {THEIRS6}/64 dev eth0 nodad",
        f"ip addr add {BEYOND}/32 dev lo",
        place=lan,
    )
    assert until(lambda: host.ping(None, THEIRS6, patience_s=0.2))
    return Town(host, host.engine())


@contextmanager
def process_elsewhere() -> Iterator[int]:
    """Somebody else's process, in a network namespace of its own that nothing names."""
    words = ["unshare", "-n", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as sleeper:
        try:
            assert sleeper.stdout is not None
            assert sleeper.stdout.readline()
            yield sleeper.pid
        finally:
            sleeper.kill()


def test_it_moves_with_its_addresses_and_routes_and_comes_back_as_it_was(town: Town) -> None:
    town.create()
    before = snapshot()
    ep = town.engine.connect("card", name="c1")
    assert "wire0" not in run("ip link")
    for address in (THEIRS, THEIRS6, BEYOND):
        assert town.host.ping(ep.netns, address), address
    assert f"{OURS}/24" in run("ip addr show eth0", place=ep.netns)
    assert MAC in run("ip link show eth0", place=ep.netns)
    assert town.engine.check() == []
    town.engine.disconnect("card", "c1")
    assert snapshot() == before
    assert town.host.ping(None, BEYOND)


def test_with_a_subnet_its_addresses_are_leased_and_its_router_known(town: Town) -> None:
    town.create("10.9.0.0/24", mac=MAC)
    before = snapshot()
    wanted = Request(ifname="lan0", mac="02:77:00:00:00:01")
    ep = town.engine.connect("card", request=wanted, name="c1")
    assert str(ep.addresses[0]) == "10.9.0.2/24"
    shown = run("ip addr show lan0; ip route", place=ep.netns)
    assert "10.9.0.2/24" in shown
    assert OURS + "/" not in shown
    assert "02:77:00:00:00:01" in shown
    assert "inet6" not in shown
    assert "default via 10.9.0.1" in shown
    town.engine.disconnect("card", "c1")
    assert snapshot() == before


def test_a_device_is_one_device(town: Town) -> None:
    town.create()
    town.engine.connect("card", name="c1")
    with pytest.raises(Conflict, match="has its endpoint already: it is one device"):
        town.engine.connect("card", name="c2")
    with pytest.raises(Conflict, match="network card has that device"):
        town.create(name="other")
    town.create(name="other", mac=MAC)
    with pytest.raises(NotFound, match=f"no interfaces of the host have the MAC {MAC}"):
        town.engine.connect("other", name="c2")
    town.engine.disconnect("card", "c1")
    town.engine.connect("other", name="c2")
    with pytest.raises(NotFound, match="no interface 'wire0' on the host to move"):
        town.engine.connect("card", name="c1")


def test_an_address_of_no_subnet_is_refused(town: Town) -> None:
    from ipaddress import ip_address

    town.create()
    with pytest.raises(InvalidSpec, match=r"cannot give 10\.9\.0\.7 on network 'card'"):
        town.engine.connect("card", request=Request(addresses=(ip_address("10.9.0.7"),)))


# -- whatever becomes of the container


def test_it_comes_back_from_a_process_that_was_killed(town: Town) -> None:
    town.create()
    before = snapshot()
    with process_elsewhere() as pid:
        town.engine.connect("card", f"pid:{pid}")
        assert "wire0" not in run("ip link")
        assert town.engine.gc() == []  # it lives
    assert until(lambda: town.engine.gc() != [])
    assert snapshot() == before


def test_it_comes_back_from_a_namespace_somebody_deleted(town: Town) -> None:
    town.create()
    before = snapshot()
    town.engine.connect("card", name="c1")
    run("ip netns del c1")
    assert town.engine.gc() == ["c1"]
    assert snapshot() == before


def test_it_comes_back_from_a_container_that_was_killed(town: Town) -> None:
    town.create()
    before = snapshot()
    spec = RunSpec(command=("sleep", "60"), name="c1", networks=("card",), auto_remove=True)
    town.engine.close()
    containers.run_detached(Engine, spec)
    engine = town.host.engine()
    found = engine.store.get(SandboxRecord, "c1")
    assert "wire0" not in run("ip link")
    process.kill(found.pid, found.start_time, signal.SIGKILL, 10)
    assert until(lambda: engine.store.by_name(SandboxRecord, "c1") is None)
    assert until(lambda: snapshot() == before)


def test_it_comes_back_when_the_network_is_removed_with_force(town: Town) -> None:
    before = snapshot()
    town.create()
    town.engine.connect("card", name="c1")
    town.engine.delete_network("card", force=True)
    assert snapshot() == before


def test_what_the_container_did_to_it_does_not_stay(town: Town) -> None:
    town.create()
    before = snapshot()
    ep = town.engine.connect("card", name="c1")
    run(
        "ip link set eth0 down",
        "ip link set eth0 name mine0 mtu 1200 address 02:88:00:00:00:01 promisc on",
        "ip addr add 10.7.0.1/24 dev mine0",
        "ip link set mine0 up",
        place=ep.netns,
    )
    town.engine.disconnect("card", "c1")
    assert snapshot() == before


def test_a_refusal_half_way_leaves_it_where_it_was(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step of connecting it, on the real kernel."""
    from netkit import steps

    town.create("10.9.0.0/24")
    before = snapshot()
    number = 0
    while True:
        seen: list[str] = []

        def point(name: str, last: int = number, seen: list[str] = seen) -> None:
            seen.append(name)
            if len(seen) == last + 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(steps, "point", point)
        with suppress(KeyboardInterrupt):
            town.engine.connect("card", name="c1")
        monkeypatch.undo()
        if seen[number] == "committed":
            break
        assert snapshot() == before, seen[number]
        number += 1
    assert number > 15
    town.engine.disconnect("card", "c1")
    assert snapshot() == before


def test_a_container_with_the_device_has_nothing_else_of_the_hosts(town: Town) -> None:
    town.create()
    ep = town.engine.connect("card", name="c1")
    links = [line.split(": ")[1] for line in run("ip -o link", place=ep.netns).splitlines()]
    assert [name.partition("@")[0] for name in links] == ["lo", "eth0"]
    assert "eth0" in inside(ep.netns)["links"]
