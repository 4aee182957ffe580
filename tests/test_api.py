"""Netkit, Network, Endpoint: context managers undo, habits are docker-py's, types are true."""

from __future__ import annotations

import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

import netkit
from netkit import Conflict, Endpoint, InvalidSpec, KernelRefused, Netkit, Network, NotFound
from netkit.kernel import privilege
from scenarios.lab import Host, run, snapshot
from tests.faces import ok

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.usefixtures("host")


class _Oops(Exception):
    """What goes wrong inside a block."""


# -- undoing


def test_blocks_undo_what_they_made_innermost_first() -> None:
    before = snapshot()
    with Netkit() as nk, nk.networks.create("net", subnet="10.1.0.0/24") as net:
        made = snapshot()
        with net.connect(name="a", ports=["8080:80"]) as a, net.connect(name="b"):
            assert [each.container for each in net.endpoints] == ["a", "b"]
            assert a.exec(["true"]) == 0
        assert snapshot() == made
        assert net.containers == []
    assert snapshot() == before


def test_an_exception_inside_undoes_and_goes_on_its_way() -> None:
    before = snapshot()
    with pytest.raises(_Oops), Netkit() as nk, nk.networks.create("net") as net:  # noqa: PT012
        net.connect(name="a")
        with net.connect(name="b"):
            raise _Oops
    assert snapshot() == before
    assert [each.name for each in Netkit().networks.list()] == ["host", "none"]


def test_a_network_takes_along_what_is_still_connected() -> None:
    before = snapshot()
    with Netkit() as nk:
        with nk.networks.create("net") as net:
            net.connect(name="a")
            net.connect(name="b", ports=["8080:80"])
        with pytest.raises(NotFound):
            nk.endpoints("a")
    assert snapshot() == before


def test_what_was_removed_inside_is_not_missed_at_the_end() -> None:
    before = snapshot()
    with Netkit() as nk, nk.networks.create("net") as net:
        with net.connect(name="a") as a:
            a.disconnect()
        with net.connect(name="b"):
            net.disconnect("b")
        with net.connect(name="c"):
            ok("disconnect", "--net=net", "c")
        net.remove()
    assert snapshot() == before


def test_an_endpoint_of_a_removed_network_is_gone_with_it() -> None:
    with Netkit() as nk, nk.networks.create("net") as net, net.connect(name="a") as a:
        net.remove(force=True)
        with pytest.raises(NotFound, match="no such endpoint"):
            a.address  # noqa: B018
    assert os.listdir("/run/netns") == []


def test_a_name_made_anew_inside_is_not_taken_for_the_old_one() -> None:
    """Handles hold ids: the block's end must not remove somebody else's network of the name."""
    with Netkit() as nk:
        with nk.networks.create("net") as net:
            net.remove()
            other = nk.networks.create("net")
        assert nk.networks.get("net").id == other.id
        with other.connect(name="a") as a:
            a.disconnect()
            again = other.connect(name="a")
        assert [each.id for each in other.endpoints] == [again.id]
        other.remove(force=True)


def test_a_connect_that_fails_leaves_the_block_as_it_was() -> None:
    with Netkit() as nk, nk.networks.create("net") as net, net.connect(name="a", ports=["80:80"]):
        before = snapshot()
        with pytest.raises(Conflict, match="already allocated"):
            net.connect(name="b", ports=["80:80"])
        assert snapshot() == before
        assert net.containers == ["a"]


def test_closing_leaves_what_was_made() -> None:
    with Netkit() as nk:
        nk.networks.create("net").connect(name="a")
    with Netkit() as nk:
        assert nk.networks.get("net").containers == ["a"]
        nk.networks.get("net").remove(force=True)


def test_a_handle_that_was_got_owns_what_it_is_used_to_hold() -> None:
    with Netkit() as nk:
        nk.networks.create("net")
        with nk.networks.get("net"):
            pass
        with pytest.raises(NotFound):
            nk.networks.get("net")


def test_two_netkits_see_each_others_work() -> None:
    with Netkit() as one, Netkit() as two, one.networks.create("net") as net:
        with two.networks.get("net").connect(name="a"):
            assert net.containers == ["a"]
        assert net.containers == []


# -- docker-py's habits


def test_networks_are_created_listed_got_and_pruned() -> None:
    with Netkit() as nk:
        net = nk.networks.create("net", driver="bridge", internal=True, labels={"a": "b"})
        nk.networks.create("other")
        assert [each.name for each in nk.networks.list()] == ["net", "other", "host", "none"]
        assert nk.networks.get(net.id).id == nk.networks.get("net").id == net.id
        assert nk.networks.get(net.short_id).name == "net"
        assert net.attrs["Internal"] is True
        assert net.attrs["Labels"] == {"a": "b"}
        assert len(net.short_id) == 12
        with nk.networks.create("used") as used, used.connect():
            assert nk.networks.prune() == ["net", "other"]
        with pytest.raises(NotFound, match="no such network: net"):
            nk.networks.get("net")


def test_a_network_connects_and_disconnects_containers(host: Host) -> None:
    run("ip netns add c1")
    with Netkit() as nk, nk.networks.create("net", subnet="10.1.0.0/24") as net:
        net.connect("c1", ipv4_address="10.1.0.9", mac_address="02-42-AC-11-00-02")
        assert net.containers == ["c1"]
        assert "10.1.0.9/24" in run("ip -n c1 -o addr show eth0")
        net.disconnect("c1")
        with pytest.raises(Conflict, match="c1 is not connected to any network"):
            net.disconnect("c1")
        net.disconnect("c1", force=True)


def test_an_endpoint_says_what_it_is() -> None:
    with Netkit() as nk, nk.networks.create("net", subnet="10.1.0.0/24", mtu=1400) as net:
        ep = net.connect(
            name="c1",
            ipv4_address="10.1.0.9",
            ifname="in0",
            host_ifname="out0",
            ports=["127.0.0.1:8080:80", "53/udp"],
            hostname="web1",
            dns=["9.9.9.9"],
            dns_search=["example.com"],
            dns_options=["ndots:2"],
            extra_hosts=["db:10.9.9.9"],
            gw_priority=7,
        )
        assert (ep.container, ep.ifname, ep.host_ifname) == ("c1", "in0", "out0")
        assert (ep.netns, ep.network.id) == ("/run/netns/c1", net.id)
        assert ep.address == IPv4Interface("10.1.0.9/24")
        assert ep.mac_address == "02:42:0a:01:00:09"
        assert str(ep.ports[0]) == "127.0.0.1:8080->80/tcp"
        assert ep.ports[1].host_port > 1023
        assert (net.subnet, net.gateway) == (IPv4Network("10.1.0.0/24"), IPv4Address("10.1.0.1"))
        assert (repr(net), repr(ep)) == ("<Network net>", "<Endpoint c1/in0>")
        assert [each.id for each in nk.endpoints("c1")] == [ep.id]
        assert run("ip netns exec c1 cat /etc/resolv.conf").splitlines() == [
            *("nameserver 9.9.9.9", "search example.com", "options ndots:2")
        ]
        assert "10.9.9.9\tdb" in run("ip netns exec c1 cat /etc/hosts")
        assert "mtu 1400" in run("ip -n c1 link show in0")
        assert ep.check() == []
        ep.disconnect()


def test_an_endpoint_can_do_without_an_address() -> None:
    with Netkit() as nk, nk.networks.create("net") as net:
        with net.connect(name="a", ipv4_address="0/0") as ep:
            assert ep.address is None
        with pytest.raises(InvalidSpec, match="can have neither"):
            net.connect(ipv4_address="0/0", ports=["80"])


def test_a_network_that_is_in_use_is_removed_by_force_only() -> None:
    with Netkit() as nk:
        net = nk.networks.create("net")
        net.connect(name="a")
        with pytest.raises(Conflict, match="network net has active endpoints: a"):
            net.remove()
        net.remove(force=True)
        with pytest.raises(NotFound):
            net.remove()


def test_check_tells_and_gc_collects() -> None:
    before = snapshot()
    with Netkit() as nk, nk.networks.create("net") as net:
        ep = net.connect(name="a")
        assert nk.check() == nk.check("net") == nk.check("a") == []
        run(f"ip link del {ep.host_ifname}")
        assert any(ep.host_ifname in str(drift) for drift in nk.check())
        assert "a" in nk.gc()
        assert net.containers == []
    assert snapshot() == before


def test_a_dry_run_does_nothing_and_says_what_it_would() -> None:
    with Netkit() as nk, nk.networks.create("net", subnet="10.1.0.0/24") as net:
        before = snapshot()
        with nk.dry_run() as lines:
            with net.connect(name="a"):
                pass
            nk.networks.create("other")
        assert snapshot() == before
        assert net.containers == []
        assert "ip netns add a" in lines
        assert "ip netns del a" in lines
        assert any("type bridge" in line for line in lines)
        assert net.connect(name="a").address == IPv4Interface("10.1.0.2/24")  # it was not leased


def test_a_dry_run_that_raises_is_over(host: Host) -> None:
    with Netkit() as nk, nk.networks.create("net") as net:
        with pytest.raises(_Oops), nk.dry_run():
            raise _Oops
        with net.connect(name="a"):
            assert "eth0" in run("ip -n a link")


def test_state_may_be_kept_elsewhere(tmp_path: Path) -> None:
    with Netkit(state_dir=f"{tmp_path}/s", run_dir=f"{tmp_path}/r", firewall="none") as nk:
        before = run("nft list ruleset")
        with nk.networks.create("net") as net, net.connect(name="a"):
            assert run("nft list ruleset") == before == ""
            with Netkit() as other:
                assert [each.name for each in other.networks.list()] == ["host", "none"]


def test_without_privileges_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privilege, "held", lambda: False)
    with pytest.raises(KernelRefused, match="netkit needs to be root") as refused:
        Netkit()
    assert refused.value.hint


# -- names and types


def test_every_public_name_is_there_and_documented() -> None:
    for name in netkit.__all__:
        assert getattr(netkit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        netkit.nosuch  # noqa: B018
    assert (Endpoint, Network) == (netkit.Endpoint, netkit.Network)


def test_who_may_talk_to_whom_is_said_and_taken_back() -> None:
    nk = Netkit()
    net = nk.networks.create("net", icc=False, host_access=False, egress=["10.0.0.0/8:443"])
    for name in ("web", "db"):
        net.connect(name=name)
    net.allow("web", "db:5432")
    net.allow("*", "host:9100")
    assert [tuple(row.values()) for row in net.policy] == [
        ("web", "db", "5432/tcp", "allow", "yes"),
        ("*", "host", "9100/tcp", "allow", "yes"),
        ("*", "10.0.0.0/8", "443/tcp", "egress", "yes"),
    ]
    with pytest.raises(Conflict, match="is allowed on network 'net' already"):
        net.allow("web", "db:5432/tcp")
    net.disallow("web", "db:5432")
    net.police(icc=True, host_access=True)
    assert (net.record.icc, net.record.host_access, len(net.record.allows)) == (True, True, 1)
    net.let_out("allow", "192.0.2.7")
    assert net.egress == ["10.0.0.0/8:443/tcp", "192.0.2.7/32"]
    net.let_out("any")
    assert net.egress is None
    own = net.connect(name="own", egress=[])
    assert own.egress == []
    own.let_out("allow", "10.9.0.0/16")
    assert own.egress == ["10.9.0.0/16"]
    with nk.dry_run() as lines:
        net.police(icc=False)
    assert len(lines) == 1
    assert net.record.icc
    assert nk.check() == []


USER = """\
from collections.abc import Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

from netkit import Conflict, Endpoint, Netkit, NetkitError, Network


def connect(net: Network, names: Sequence[str]) -> dict[str, Endpoint]:
    return {name: net.connect(name=name, ports=["80"], dns=("9.9.9.9",)) for name in names}


with Netkit() as nk, nk.networks.create("net", subnet="10.1.0.0/24", labels={"a": "b"}) as net:
    subnet: IPv4Network | IPv6Network | None = net.subnet
    gateway: IPv4Address | IPv6Address | None = net.gateway
    with net.connect() as ep:
        address: IPv4Interface | IPv6Interface | None = ep.address
        ports: list[int] = [port.host_port for port in ep.ports]
        code: int = ep.exec(["true"])
    with nk.dry_run() as lines:
        first: str = lines[0]
    try:
        net.remove(force=True)
    except (Conflict, NetkitError) as error:
        hint: str | None = error.hint
"""
MISUSED = {
    "nk.networks.create(7)": "arg-type",
    "nk.networks.create('n', subnet=24)": "arg-type",
    "nk.networks.create('n', colour='red')": "call-arg",
    "net.connect('c1', ports=80)": "arg-type",
    "net.connect('c1').address.ip": "union-attr",
    "net.nosuch": "attr-defined",
    "name: int = net.name": "assignment",
}


def test_types_are_true_to_a_users_type_checker(tmp_path: Path) -> None:
    """As strict as mypy gets: what is right passes, and what is wrong does not."""
    wrong = ["from netkit import Netkit", "nk = Netkit()", "net = nk.networks.get('net')", *MISUSED]
    (tmp_path / "right.py").write_text(USER)
    (tmp_path / "wrong.py").write_text("\n".join(wrong) + "\n")
    assert all((ROOT / package / "py.typed").exists() for package in ("netkit", "ipam"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary"),
            *("--follow-imports=silent", f"--cache-dir={tmp_path}/cache", "right.py", "wrong.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    found = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line for line in found if line.startswith("right.py")] == []
    for number, (line, kind) in enumerate(MISUSED.items(), start=4):
        complaints = [each for each in found if each.startswith(f"wrong.py:{number}:")]
        assert any(each.endswith(f"[{kind}]") for each in complaints), (line, complaints, done)
