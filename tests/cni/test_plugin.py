"""The verbs over plugin types: what ADD made is undone whatever happens, and by DEL alone."""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from cni import plugin
from netkit import steps
from netkit.engine import Engine
from netkit.errors import KernelRefused
from netkit.model import AttachmentRecord, HostRecord, LoanRecord
from scenarios.lab import Host, inside, run, snapshot
from scenarios.plugins import Json, Plugins, Refused

_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")


@pytest.fixture
def cni(host: Host) -> Plugins:
    return Plugins(host.base)


class Kind(NamedTuple):
    """A plugin type, and a configuration that uses all of it."""

    name: str
    conf: Callable[[Plugins], Json]


def bridge(cni: Plugins) -> Json:
    return {
        "cniVersion": "1.0.0",
        "name": "web",
        "bridge": "cni0",
        "isDefaultGateway": True,
        "ipMasq": True,
        "macspoofchk": True,
        "ipam": cni.ipam("10.22.0.0/24", "fd00:22::/64"),
    }


def all_in_one(cni: Plugins) -> Json:
    return {
        "cniVersion": "1.0.0",
        "name": "web",
        "subnets": ["10.22.0.0/24", "fd00:22::/64"],
        "ipv6": True,
        "runtimeConfig": {"portMappings": [{"hostPort": 8080, "containerPort": 80}]},
    }


KINDS = [Kind("bridge", bridge), Kind("netkit", all_in_one)]
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


def world(cni: Plugins) -> object:
    """All that a plugin could change or remember."""
    with_engine = Engine()
    try:
        records = [
            record
            for record in (*with_engine.store.everything(), *with_engine.store.all(LoanRecord))
            if not isinstance(record, HostRecord) or record.maker is not None
        ]
    finally:
        with_engine.close()
    containers = {name: inside(f"/run/netns/{name}") for name in sorted(os.listdir("/run/netns"))}
    left = cni.leases("web")
    return snapshot(), containers, left, [(r.kind, r.id, r.maker) for r in records]


def trace(cni: Plugins) -> object:
    """What `world` would show, looked for in one go: for tests that look a hundred times."""
    seen = run(
        "ip -o link | sed 's/^[0-9]*: //; s/ state [A-Z]*//'",
        "ip -o addr | sed '/ fe80:/d; s/^[0-9]*: //'; ip route; ip -6 route | sed '/fe80:/d'",
        "nft list ruleset; cat /proc/sys/net/ipv4/ip_forward",
        "ip -n c1 -o link; ip -n c1 route",
    )
    engine = Engine()
    try:
        rows = engine.store.connection.execute("SELECT kind, id, maker FROM record").fetchall()
    finally:
        engine.close()
    return seen, cni.leases("web"), rows


@of_each_kind
def test_what_add_made_del_undoes(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    before = world(cni)
    cni.add(kind.name, kind.conf(cni))
    assert world(cni) != before
    cni.delete(kind.name, kind.conf(cni))
    assert world(cni) == before


@of_each_kind
def test_del_needs_no_namespace(cni: Plugins, kind: Kind) -> None:
    run("mkdir -p /run/netns")
    before = world(cni)
    cni.add(kind.name, kind.conf(cni))
    run("ip netns del c1")
    cni.delete(kind.name, kind.conf(cni), at="")
    assert world(cni) == before


@of_each_kind
def test_del_twice_and_before_add_is_fine(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    before = world(cni)
    cni.delete(kind.name, kind.conf(cni))
    cni.add(kind.name, kind.conf(cni))
    cni.delete(kind.name, kind.conf(cni))
    cni.delete(kind.name, kind.conf(cni))
    assert world(cni) == before


@of_each_kind
def test_a_second_add_is_refused_and_the_first_stays(cni: Plugins, kind: Kind) -> None:
    result = cni.add(kind.name, kind.conf(cni))
    before = world(cni)
    with pytest.raises(Refused) as refused:
        cni.add(kind.name, kind.conf(cni))
    assert refused.value.code >= 100
    assert world(cni) == before
    cni.check(kind.name, kind.conf(cni), result)


@of_each_kind
def test_a_namespace_made_anew_is_attached_anew(cni: Plugins, kind: Kind) -> None:
    """The same container id and path, but another namespace: nobody sent a DEL for the first."""
    cni.add(kind.name, kind.conf(cni))
    run("ip netns del c1", "ip netns add c1", "ip -n c1 link set lo up")
    result = cni.add(kind.name, kind.conf(cni))
    cni.check(kind.name, kind.conf(cni), result)
    cni.delete(kind.name, kind.conf(cni))


@of_each_kind
def test_a_foreign_interface_of_that_name_stays_also_after_del(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    run("ip -n c1 link add eth0 type bridge")
    before = world(cni)
    with pytest.raises(Refused):
        cni.add(kind.name, kind.conf(cni))
    assert world(cni) == before
    cni.delete(kind.name, kind.conf(cni))
    assert world(cni) == before


@of_each_kind
@pytest.mark.parametrize("version", _VERSIONS)
def test_results_are_of_the_version_asked_for(cni: Plugins, kind: Kind, version: str) -> None:
    result = cni.add(kind.name, {**kind.conf(cni), "cniVersion": version})
    assert result["cniVersion"] == version
    if version in ("0.1.0", "0.2.0"):
        assert result["ip4"]["ip"] == "10.22.0.2/24"
        return
    assert [ip["address"] for ip in result["ips"]] == ["10.22.0.2/24", "fd00:22::2/64"]
    inside = [i for i, each in enumerate(result["interfaces"]) if each.get("sandbox")]
    assert [ip["interface"] for ip in result["ips"]] == inside * 2
    assert ("mtu" in result["interfaces"][-1]) == (version == "1.1.0")
    assert {"dst": "0.0.0.0/0", "gw": "10.22.0.1"} in result["routes"]


@of_each_kind
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("ip -n c1 addr del 10.22.0.2/24 dev eth0", "10.22.0.2"),
        ("ip -n c1 route del default", "default"),
        ("ip -n c1 link set eth0 down", "eth0"),
        ("ip -n c1 link del eth0", "eth0"),
        ("ip link set $(ip -br link | grep -o '^veth[^@]*') nomaster", "veth"),
        ("ip addr del 10.22.0.1/24 dev $(ip -br link show type bridge | cut -d' ' -f1)", "10.22"),
        ("ip link set $(ip -br link show type bridge | cut -d' ' -f1) down", "down"),
        ("sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
        ("nft flush ruleset", "firewall"),
        ("nft flush set bridge netkit ports", "firewall"),
    ],
)
def test_check_sees_the_damage(cni: Plugins, kind: Kind, damage: str, said: str) -> None:
    result = cni.add(kind.name, kind.conf(cni))
    cni.check(kind.name, kind.conf(cni), result)
    run(damage)
    with pytest.raises(Refused) as refused:
        cni.check(kind.name, kind.conf(cni), result)
    assert refused.value.code == 101
    assert said in refused.value.answer["msg"]


@of_each_kind
def test_check_of_what_was_never_added_fails(cni: Plugins, kind: Kind) -> None:
    with pytest.raises(Refused, match="not attached"):
        cni.check(kind.name, kind.conf(cni), {"cniVersion": "1.0.0"})


@of_each_kind
def test_gc_undoes_what_is_not_valid_and_nothing_else(cni: Plugins, kind: Kind) -> None:
    conf = kind.conf(cni)
    conf.pop("runtimeConfig", None)
    results = {name: cni.add(kind.name, conf, name) for name in ("c1", "c2", "c3")}
    run("ip netns del c2")
    cni.gc(kind.name, conf, ("c1", "eth0"), ("c3", "eth1"))
    cni.check(kind.name, conf, results["c1"], "c1")
    for gone in ("c2", "c3"):
        with pytest.raises(Refused, match="not attached"):
            cni.check(kind.name, conf, results[gone], gone)
    if kind.name == "bridge":
        assert cni.leases("web") == ["10.22.0.2"]


@of_each_kind
def test_status_is_silent_on_a_healthy_host(cni: Plugins, kind: Kind) -> None:
    assert cni.call(kind.name, "STATUS", {**kind.conf(cni), "cniVersion": "1.1.0"}) is None


@of_each_kind
def test_version_tells_all_versions(cni: Plugins, kind: Kind) -> None:
    said = cni.call(kind.name, "VERSION", {"cniVersion": "0.4.0"})
    assert said == {"cniVersion": "0.4.0", "supportedVersions": list(_VERSIONS)}


@of_each_kind
@pytest.mark.parametrize("path", ["/proc/1/ns/net", "/proc/self/ns/net", "/proc/self/ns/mnt"])
def test_the_hosts_own_namespace_and_other_kinds_are_refused(
    cni: Plugins, kind: Kind, path: str
) -> None:
    before = world(cni)
    with pytest.raises(Refused):
        cni.add(kind.name, kind.conf(cni), at=path)
    assert world(cni) == before


@of_each_kind
@pytest.mark.parametrize("kind_of_file", ["fifo", "device", "directory", "nothing"])
def test_a_path_that_is_no_namespace_is_refused_at_once(
    cni: Plugins, kind: Kind, kind_of_file: str
) -> None:
    path = f"{cni.base}/place"
    if kind_of_file == "fifo":
        os.mkfifo(path)
    elif kind_of_file == "directory":
        os.mkdir(path)
    elif kind_of_file == "device":
        path = "/dev/zero"
    before = world(cni)
    with pytest.raises(Refused):
        cni.add(kind.name, kind.conf(cni), at=path)
    assert world(cni) == before


# -- faults


def points(do: Callable[[], object]) -> list[str]:
    """The points an operation passes."""
    passed: list[str] = []
    original = steps.point
    steps.point = passed.append
    try:
        do()
    finally:
        steps.point = original
    return passed


def dies_at(number: int, do: Callable[[], object]) -> bool:
    """Do it in a process that is killed at its *number*th point; whether it came to that."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def point(name: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)

        steps.point = point
        try:
            do()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _places(passed: list[str], kind: Kind) -> list[int]:
    """Where to try: before a step is after the one before it. tests/test_kill.py tries netkit's."""
    own = [i for i, name in enumerate(passed) if not name.endswith(" before")]
    return own[:: 6 if kind.name == "netkit" else 1]


@of_each_kind
def test_kill_9_anywhere_in_add_leaves_nothing_after_del(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    before = trace(cni)
    conf = kind.conf(cni)

    def add() -> None:
        cni.add(kind.name, conf)

    passed = points(add)
    cni.delete(kind.name, conf)
    assert len(passed) > 10
    for number in _places(passed, kind):
        assert dies_at(number, add)
        cni.delete(kind.name, conf)
        assert trace(cni) == before, f"killed at {passed[number]!r}, point {number}"


@of_each_kind
def test_kill_9_anywhere_in_add_lets_the_next_add_work(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    before = trace(cni)
    conf = kind.conf(cni)

    def add() -> None:
        cni.add(kind.name, conf)

    for number in range(0, len(points(add)) - 1, 8):
        cni.delete(kind.name, conf)
        assert dies_at(number, add)
        cni.check(kind.name, conf, cni.add(kind.name, conf))
    cni.delete(kind.name, conf)
    assert trace(cni) == before


@of_each_kind
def test_kill_9_anywhere_in_del_lets_the_next_del_work(cni: Plugins, kind: Kind) -> None:
    cni.netns("c1")
    before = trace(cni)
    conf = kind.conf(cni)

    def delete() -> None:
        cni.delete(kind.name, conf)

    cni.add(kind.name, conf)
    passed = points(delete)
    assert len(passed) > 5
    for number in _places(passed, kind):
        cni.add(kind.name, conf)
        assert dies_at(number, delete)
        delete()
        assert trace(cni) == before, f"killed at {passed[number]!r}, point {number}"


@of_each_kind
def test_a_failed_add_leaves_nothing_without_any_del(
    cni: Plugins, kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever step is refused: shared plans made for it go as well, and what was leased."""
    cni.netns("c1")
    before = trace(cni)
    conf = kind.conf(cni)
    count = sum(name.endswith(" before") for name in points(lambda: cni.add(kind.name, conf)))
    cni.delete(kind.name, conf)
    for number in range(0, count, 5 if kind.name == "netkit" else 1):
        left = [number]

        def refuse(name: str, left: list[int] = left) -> None:
            if name.startswith("add ") and name.endswith(" before"):
                left[0] -= 1
                if left[0] < 0:
                    left[0] = 1 << 30
                    raise KernelRefused(f"refused before {name}")

        monkeypatch.setattr(steps, "point", refuse)
        if left[0] < 1 << 29:
            with pytest.raises(Refused, match="refused before"):
                cni.add(kind.name, conf)
        monkeypatch.undo()
        assert trace(cni) == before, f"step {number}"


def test_a_faulty_plugin_of_ours_still_answers_in_json(
    cni: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("for the test")

    monkeypatch.setattr(plugin, "_act", broken)
    with pytest.raises(Refused) as refused:
        cni.add("bridge", bridge(cni))
    assert refused.value.answer["code"] == 999
    assert refused.value.answer["cniVersion"] == "1.0.0"
    assert "ZeroDivisionError" in refused.value.answer["msg"]


# -- IPAM plugins of others


PLUGIN = """#!/bin/sh
# notes what it is called for, and whether the interface is there by then
there=$(ip -n "$CNI_CONTAINERID" -br link show "$CNI_IFNAME" 2>/dev/null | cut -c1-4)
echo "$CNI_COMMAND $there" >> {log}
cat > /dev/null
{then}
"""
GIVES = """[ $CNI_COMMAND = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.44.0.9/24", "gateway": "10.44.0.1"}]}'"""
REFUSES = """[ $CNI_COMMAND = ADD ] || exit 0
echo '{"cniVersion": "1.0.0", "code": 117, "msg": "none today", "details": "ask tomorrow"}'
exit 1"""


@pytest.fixture
def somebody(cni: Plugins) -> Callable[[str], tuple[Json, str]]:
    def install(then: str) -> tuple[Json, str]:
        log = f"{cni.base}/log"
        with open(f"{cni.bin_dir}/somebody", "w") as file:
            file.write(PLUGIN.format(log=log, then=then))
        os.chmod(file.name, 0o755)
        return {**bridge(cni), "ipam": {"type": "somebody"}}, log

    return install


def test_an_executed_ipam_plugin_finds_the_interface_it_leases_for(
    cni: Plugins, somebody: Callable[[str], tuple[Json, str]]
) -> None:
    conf, log = somebody(GIVES)
    result = cni.add("bridge", conf)
    assert result["ips"][0]["address"] == "10.44.0.9/24"
    cni.check("bridge", conf, result)
    cni.delete("bridge", conf)
    with open(log) as file:
        assert [line.split() for line in file] == [
            ["ADD", "eth0"],
            ["CHECK", "eth0"],
            ["DEL", "eth0"],
        ]


def test_a_refusal_of_an_ipam_plugin_is_passed_on_and_nothing_stays(
    cni: Plugins, somebody: Callable[[str], tuple[Json, str]]
) -> None:
    conf, log = somebody(REFUSES)
    cni.netns("c1")
    before = world(cni)
    with pytest.raises(Refused) as refused:
        cni.add("bridge", conf)
    assert refused.value.code == 117
    assert "none today" in refused.value.answer["msg"]
    assert refused.value.answer["details"] == "ask tomorrow"
    assert world(cni) == before
    with open(log) as file:
        assert [line.split()[0] for line in file] == ["ADD", "DEL"]


def test_what_could_not_be_released_is_released_by_the_next_del(
    cni: Plugins, somebody: Callable[[str], tuple[Json, str]]
) -> None:
    conf, log = somebody(GIVES)
    cni.add("bridge", conf)
    run(f"chmod -x {cni.bin_dir}/somebody")
    with pytest.raises(Refused, match="not released"):
        cni.delete("bridge", conf)
    assert "veth" not in run("ip link")
    run(f"chmod +x {cni.bin_dir}/somebody")
    cni.delete("bridge", conf)
    cni.delete("bridge", conf)
    with open(log) as file:
        assert [line.split()[0] for line in file][:2] == ["ADD", "DEL"]
    engine = Engine()
    assert not engine.store.all(LoanRecord)
    assert not engine.store.all(AttachmentRecord)
    engine.close()


# -- who is there already


def test_leases_of_a_living_node_are_honoured_and_released(cni: Plugins) -> None:
    """Another's bridge plugin attached c9; ours is called for its DEL."""
    os.makedirs(f"{cni.base}/leases/web")
    with open(f"{cni.base}/leases/web/10.22.0.2", "w") as file:
        file.write("c9\r\neth0")
    conf = bridge(cni)
    assert cni.add("bridge", conf)["ips"][0]["address"] == "10.22.0.3/24"
    cni.delete("bridge", conf, "c9")
    assert "10.22.0.2" not in cni.leases("web")


def test_a_bridge_that_was_there_is_used_and_stays(cni: Plugins) -> None:
    run(
        "ip link add cni0 address 02:00:00:00:00:99 type bridge",
        "ip addr add 10.22.0.1/24 brd + dev cni0",
    )
    result = cni.add("bridge", bridge(cni))
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:99"
    cni.check("bridge", bridge(cni), result)
    cni.delete("bridge", bridge(cni))
    assert "10.22.0.1/24" in run("ip -br addr show cni0")


def test_what_is_no_bridge_is_refused_and_stays(cni: Plugins) -> None:
    run("ip link add cni0 type veth peer name other")
    cni.netns("c1")
    before = world(cni)
    with pytest.raises(Refused, match="not a bridge"):
        cni.add("bridge", bridge(cni))
    with pytest.raises(Refused, match="not a bridge"):
        cni.call("bridge", "STATUS", {**bridge(cni), "cniVersion": "1.1.0"})
    assert world(cni) == before


def test_a_bridge_with_another_address_is_refused_unless_forced(cni: Plugins) -> None:
    run("ip link add cni0 up type bridge", "ip addr add 10.9.9.1/24 dev cni0")
    with pytest.raises(Refused, match=r"10\.9\.9\.1/24"):
        cni.add("bridge", bridge(cni))
    conf = {**bridge(cni), "forceAddress": True}
    cni.add("bridge", conf)
    assert "10.9.9.1" not in run("ip addr show cni0")
    cni.delete("bridge", conf)
    assert "10.9.9.1" in run("ip addr show cni0")


def test_the_bridge_stays_until_the_last_one_leaves(cni: Plugins) -> None:
    cni.add("bridge", bridge(cni), "c1")
    cni.add("bridge", {**bridge(cni), "name": "other"}, "c2")
    cni.delete("bridge", bridge(cni), "c1")
    assert "cni0" in run("ip link")
    assert run("ip netns exec c2 ping -qc1 -W2 10.22.0.1")
    cni.delete("bridge", {**bridge(cni), "name": "other"}, "c2")
    assert "cni0" not in run("ip link")


def test_a_bridge_somebody_deleted_is_made_again_by_the_next_add(cni: Plugins) -> None:
    cni.add("bridge", bridge(cni), "c1")
    run("ip link del cni0")
    result = cni.add("bridge", bridge(cni), "c2")
    cni.check("bridge", bridge(cni), result, "c2")
    assert run("ip netns exec c2 ping -qc1 -W2 10.22.0.1")


def test_an_address_given_to_another_is_announced(cni: Plugins) -> None:
    """The host reaches a restarted container at once, though its MAC is another now."""
    conf = {**bridge(cni), "ipam": cni.ipam("10.22.0.0/24")}
    static: dict[str, Any] = {"args": {"cni": {"ips": ["10.22.0.77"]}}}
    cni.add("bridge", {**conf, **static}, "c1")
    run("ping -qc1 -W2 10.22.0.77")
    cni.delete("bridge", {**conf, **static}, "c1")
    cni.add("bridge", conf, "c3")  # the bridge stays
    cni.add("bridge", {**conf, **static}, "c2")
    run("ping -qc1 -W1 10.22.0.77")


def test_dns_of_the_configuration_comes_before_the_ipam_plugins(cni: Plugins) -> None:
    with open(f"{cni.base}/resolv.conf", "w") as file:
        file.write("nameserver 10.0.0.53\n")
    ipam = cni.ipam("10.22.0.0/24", resolvConf=f"{cni.base}/resolv.conf")
    conf = {**bridge(cni), "ipam": ipam}
    assert cni.add("bridge", conf, "c1")["dns"] == {"nameservers": ["10.0.0.53"]}
    own = {**conf, "dns": {"nameservers": ["10.0.0.54"], "search": ["a.example"]}}
    said = cni.add("bridge", own, "c2")["dns"]
    assert said == {"nameservers": ["10.0.0.54"], "search": ["a.example"]}


def test_what_a_layer_2_network_needs_is_an_interface(cni: Plugins) -> None:
    conf = {"cniVersion": "1.0.0", "name": "l2", "bridge": "cni0"}
    result = cni.add("bridge", conf)
    assert "ips" not in result
    assert "UP" in run("ip -n c1 -br link show eth0")
    cni.check("bridge", conf, result)
    cni.delete("bridge", conf)
    assert "cni0" not in run("ip link")


def test_loopback_is_up(cni: Plugins) -> None:
    conf = {"cniVersion": "1.0.0", "name": "lo"}
    result = cni.add("loopback", conf, ifname="lo")
    assert result["ips"][0]["address"] == "127.0.0.1/8"
    cni.check("loopback", conf, result, ifname="lo")
    assert run("ip netns exec c1 ping -qc1 -W2 127.0.0.1")
    cni.delete("loopback", conf, ifname="lo")


def test_a_reboot_frees_what_the_dead_had_leased(
    cni: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A /29 has five addresses left; the node dies with all taken, and its containers with it."""
    conf = {**bridge(cni), "ipam": cni.ipam("10.22.0.0/29")}
    for number in range(5):
        cni.add("bridge", conf, f"c{number}")
    with pytest.raises(Refused) as refused:
        cni.add("bridge", conf, "c9")
    assert refused.value.code == 11
    for number in range(5):
        run(f"ip netns del c{number}")
    cni.check("bridge", conf, cni.add("bridge", conf, "c9"), "c9")
    assert len(cni.leases("web")) == 1


def test_json_that_go_takes_is_taken(cni: Plugins) -> None:
    conf = {k.lower() if k != "cniVersion" else k: v for k, v in bridge(cni).items()}
    result = cni.add("bridge", conf)
    assert {"dst": "0.0.0.0/0", "gw": "10.22.0.1"} in result["routes"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"bridge": "../x"},
        {"bridge": 7},
        {"vlan": 4095},
        {"vlan": -1},
        {"mtu": "big"},
        {"hairpinMode": True, "promiscMode": True},
        {"vlanTrunk": [{"minID": 9, "maxID": 5}]},
        {"disableContainerInterface": True},
        {"mac": "nonsense"},
        {"ipam": {"type": "../../bin/sh"}},
        {"ipam": {"type": "no-such-plugin"}},
        {"ipam": []},
    ],
    ids=json.dumps,
)
def test_a_wrong_configuration_is_refused_before_any_effect(cni: Plugins, wrong: Json) -> None:
    cni.netns("c1")
    before = world(cni)
    with pytest.raises(Refused) as refused:
        cni.add("bridge", {**bridge(cni), **wrong})
    assert refused.value.code in (5, 7)
    assert world(cni) == before


def test_a_list_may_hold_a_chained_type_twice(cni: Plugins) -> None:
    result = cni.add("bridge", bridge(cni))
    tunings = [
        {"cniVersion": "1.0.0", "name": "web", "prevResult": result, "sysctl": {key: value}}
        for key, value in (("net.core.somaxconn", "77"), ("net.ipv4.conf.IFNAME.arp_filter", "1"))
    ]
    for conf in tunings:
        cni.add("tuning", conf)
    with pytest.raises(Refused, match="attached already"):
        cni.add("tuning", tunings[1])
    for conf in tunings:
        cni.check("tuning", conf, result)
    cni.delete("tuning", tunings[1])
    cni.check("tuning", tunings[0], result)
    assert run("ip netns exec c1 sysctl -n net.ipv4.conf.eth0.arp_filter").strip() == "0"
    changed = {**tunings[0], "sysctl": {"net.core.somaxconn": "78"}}
    cni.delete("tuning", changed)  # the list was edited since: all of that type that is left
    with pytest.raises(Refused, match="not attached"):
        cni.check("tuning", tunings[0], result)


@of_each_kind
def test_an_add_made_again_by_the_same_call_says_what_the_first_said(
    cni: Plugins, kind: Kind
) -> None:
    """netkitd may die after it has attached and before it has said so; the shim then asks again."""
    conf = {"type": kind.name, **kind.conf(cni)}
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": cni.netns("c1"),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": cni.path,
        "NETKIT_CALL": "123.456",
    }
    first, again = (plugin.handle(kind.name, environ, json.dumps(conf).encode()) for _ in range(2))
    assert first[0] == 0
    assert (again[0], json.loads(again[1])) == (0, json.loads(first[1]))
    other = {**environ, "NETKIT_CALL": "123.457"}
    assert plugin.handle(kind.name, other, json.dumps(conf).encode())[0] == 1
