"""The plugin types for interfaces beside bridge, and those that change their routing: what all of
them hold to, and what each does. What passes through them: scenarios/test_cni_interfaces.py.
"""

from __future__ import annotations

import json
import os
import re
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest

from cni import plugin
from cni.call import CONFLICT, DRIFT, Answer, Call
from cni.spec import IP, CniError, Command, Interface, Result, Route, options
from netkit import steps
from netkit.errors import KernelRefused
from netkit.kernel import Kernel, devices, features, netns
from netkit.kernel.netlink import Netlink
from scenarios.lab import Host, run, snapshot, until
from scenarios.plugins import Json, Plugins, Refused
from tests import goldens
from tests.cni.test_plugin import dies_at, points, trace, world
from tests.fakes import FakeKernel

REFERENCE = "/usr/lib/cni"
SUBNETS = ("10.22.0.0/24", "fd00:22::/64")
LAN_MAC, CARD_MAC = "02:66:00:00:00:01", "02:66:00:00:00:02"
PEER_MAC = "02:66:00:00:00:03"
PLACE, FAR = netns.named("c1"), netns.named("far")
ENVIRON = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": PLACE,
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
COMMON: Json = {"cniVersion": "1.0.0", "name": "web"}


class Case(NamedTuple):
    """A plugin type, and a configuration that uses much of it."""

    kind: str
    conf: Json
    needs: str = ""  # a kind of link this kernel may lack
    leased: bool = True
    inside: tuple[str, ...] = ()  # done in the container before
    damage: tuple[tuple[str, str], ...] = ()  # and what CHECK says of it


GONE = ("ip -n c1 link del eth0", "eth0")
DOWN = ("ip -n c1 link set eth0 down", "eth0 is down")
ADDRESS = ("ip -n c1 addr del 10.22.0.2/24 dev eth0", "10.22.0.2")
ROUTE = ("ip -n c1 route del default", "default")
MAC = ("ip -n c1 link set eth0 address 02:00:00:00:00:77", "02:00:00:00:00:77")
PARENT = ("ip link set wire0 down", "wire0")
CASES = {
    "ptp": Case(
        "ptp",
        {"ipMasq": True, "mtu": 1400},
        damage=(
            *(GONE, DOWN, ADDRESS, ROUTE),
            ("ip -n c1 route del 10.22.0.0/24", "10.22.0.0/24"),
            ("ip link set $(ip -br link | grep -o '^veth[^@]*') down", "down"),
            ("ip addr del 10.22.0.1/32 dev $(ip -br link | grep -o '^veth[^@]*')", "10.22.0.1"),
            ("ip route del 10.22.0.2", "10.22.0.2"),
            ("sysctl -qw net.ipv4.ip_forward=0", "ip_forward"),
            ("nft flush ruleset", "firewall"),
        ),
    ),
    "macvlan": Case(
        "macvlan",
        {"master": "wire0", "mode": "private", "mtu": 1300, "bcqueuelen": 500},
        needs="macvlan",
        damage=(
            *(GONE, DOWN, ADDRESS, ROUTE, MAC, PARENT),
            ("ip -n c1 link set eth0 type macvlan mode bridge", "mode"),
        ),
    ),
    "macvlan inside": Case(
        "macvlan",
        {"master": "in0", "linkInContainer": True, "mac": "02:00:00:00:00:55"},
        needs="macvlan",
        inside=(
            "ip link add in0 type veth peer name in1",
            "ip link set in0 up",
            "ip link set in1 up",
        ),
        damage=(GONE, ("ip -n c1 link set in0 down", "in0")),
    ),
    "macvlan passthru": Case(
        "macvlan", {"mode": "passthru"}, needs="macvlan", leased=False, damage=(DOWN,)
    ),
    "ipvlan": Case("ipvlan", {"mode": "l3"}, needs="ipvlan", damage=(GONE, ADDRESS, PARENT)),
    "vlan": Case("vlan", {"master": "wire0", "vlanId": 5}, needs="vlan", damage=(GONE, ADDRESS)),
    "dummy": Case("dummy", {}, needs="dummy", damage=(GONE, DOWN, ADDRESS)),
    "tap": Case(
        "tap",
        {"multiQueue": True, "mtu": 1300, "owner": 0, "bridge": "br0"},
        needs="tun",
        leased=False,
        inside=("ip link add br0 address 02:00:00:00:00:44 type bridge",),
        damage=(GONE, DOWN, MAC, ("ip -n c1 link set eth0 nomaster", "br0")),
    ),
    "tap with addresses": Case("tap", {}, needs="tun", damage=(ADDRESS, ROUTE)),
    "host-device": Case("host-device", {"hwaddr": CARD_MAC}, damage=(GONE, DOWN, ADDRESS, ROUTE)),
    "host-device bare": Case("host-device", {"device": "card0"}, leased=False, damage=(GONE,)),
    "sbr": Case(
        "sbr",
        {"gateways": ["10.22.0.9"]},
        leased=False,
        damage=(
            ("ip -n c1 rule del from 10.22.0.2", "rule"),
            ("ip -n c1 -6 rule del from fd00:22::2", "rule"),
            ("ip -n c1 route flush table 100", "table 100"),
            ("ip -n c1 route add default via 10.22.0.1 dev eth0 onlink", "is back"),
        ),
    ),
    "sbr with hints": Case("sbr", {"addSourceHints": True}, leased=False),
    "sbr of a table": Case("sbr", {"table": 500}, leased=False),
    "vrf": Case("vrf", {"vrfname": "blue"}, needs="vrf", leased=False),
}
CHAINED = ("sbr", "vrf")
of_each = pytest.mark.parametrize("name", CASES)
of_each_interface = pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if case.kind not in CHAINED]
)


class Ready(NamedTuple):
    """A case on a host, and in a container, that are ready for it."""

    cni: Plugins
    case: Case
    conf: Json

    def add(self) -> Json:
        return self.cni.add(self.case.kind, self.conf)

    def delete(self, **more: Any) -> None:
        self.cni.delete(self.case.kind, self.conf, **more)

    def check(self, result: Json) -> None:
        self.cni.check(self.case.kind, self.conf, result)


@pytest.fixture
def cni(host: Host) -> Plugins:
    """`wire0`, the way out, and `card0`, as a card may be, on wires to a neighbour."""
    run(
        "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1",
        "ip netns add far",
        "ip netns exec far sysctl -qw net.ipv6.conf.default.addr_gen_mode=1",
        "ip link add wire0 type veth peer name wire0 netns far",
        "ip link add card0 type veth peer name card0 netns far",
        f"ip link set wire0 address {LAN_MAC} up",
        "ip addr add 10.9.0.1/24 dev wire0",
        "ip route add default via 10.9.0.254",
        f"ip link set card0 address {CARD_MAC} mtu 1400 alias 'my card' up",
        "ip addr add 10.8.0.1/24 brd + dev card0",
        "ip route add 10.80.0.0/16 via 10.8.0.9",
        "ip -n far link set wire0 up",
        "ip -n far link set card0 up",
    )
    return Plugins(host.base)


def prepared(cni: Plugins, name: str) -> Ready:
    """Skipped where the kernel lacks what it takes."""
    case = CASES[name]
    with Netlink() as netlink:
        if case.needs and not netlink.has_kind(case.needs):
            pytest.skip(str(features.missing(case.needs).strerror))
    if case.needs == "tun" and not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")
    place = cni.netns("c1")
    run(*case.inside, place=place)
    conf = {**COMMON, **case.conf}
    if case.leased:
        ways = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        conf["ipam"] = cni.ipam(*SUBNETS, routes=ways)
    if case.kind in CHAINED:
        ways = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "10.7.0.0/16", "gw": "10.22.0.8"}]
        before = {**COMMON, "name": "under", "master": "wire0"}
        ipam = cni.ipam(*SUBNETS, routes=ways)
        conf["prevResult"] = cni.add("macvlan", {**before, "ipam": ipam})
    return Ready(cni, case, conf)


# -- all of them


@of_each
def test_what_add_made_del_undoes_once_and_for_all(cni: Plugins, name: str) -> None:
    ready = prepared(cni, name)
    before = world(cni)
    result = ready.add()
    assert world(cni) != before
    ready.check(result)
    ready.delete()
    assert until(lambda: world(cni) == before)  # a card's carrier is back when it is noticed
    ready.delete()
    assert world(cni) == before


@of_each
def test_del_needs_no_namespace(cni: Plugins, name: str) -> None:
    run("mkdir -p /run/netns")
    clean = snapshot()
    ready = prepared(cni, name)
    ready.add()
    run("ip netns del c1")
    ready.delete(at="")
    ready.delete(at="")
    if ready.case.kind in CHAINED:
        cni.delete("macvlan", {**ready.conf, "name": "under"}, at="")
    # a macvlan dies when the kernel finds the time
    assert until(lambda: snapshot() == clean)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [(name, *damage) for name, case in CASES.items() for damage in case.damage],
)
def test_check_sees_the_damage(cni: Plugins, name: str, damage: str, said: str) -> None:
    ready = prepared(cni, name)
    result = ready.add()
    run(damage)
    with pytest.raises(Refused) as refused:
        ready.check(result)
    assert refused.value.code == DRIFT
    assert said in refused.value.answer["msg"]
    ready.delete()


@of_each_interface
def test_a_foreign_interface_of_that_name_stays_also_after_del(cni: Plugins, name: str) -> None:
    """F09. Of the same kind, on the same parent, and without an owner's name."""
    ready = prepared(cni, name)
    kind = {"macvlan": "link wire0 name eth0 netns c1 type macvlan mode private"}
    run(f"ip link add {kind.get(ready.case.kind, 'eth0 netns c1 type veth peer name eth1')}")
    before = world(cni)
    with pytest.raises(Refused, match="there is an interface eth0") as refused:
        ready.add()
    assert refused.value.code == CONFLICT
    assert world(cni) == before
    ready.delete()
    assert world(cni) == before


# of many alike, every so manieth
EVERY = {"ptp": 4, "macvlan": 3, "host-device": 2, "tap": 2, "sbr": 3}
of_each_that_may_die = pytest.mark.parametrize(
    "name", [*EVERY, "host-device bare", "ipvlan", "vlan", "dummy", "vrf"]
)


@of_each_that_may_die
def test_a_failed_add_leaves_nothing_without_any_del(
    cni: Plugins, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F04, whichever step is refused."""
    ready = prepared(cni, name)
    before = all_of(cni)
    count = sum(each.startswith("add ") and each.endswith(" before") for each in points(ready.add))
    ready.delete()
    for number in range(0, count, EVERY.get(name, 1)):
        left = [number]

        def refuse(point: str, left: list[int] = left) -> None:
            if point.startswith("add ") and point.endswith(" before"):
                left[0] -= 1
                if left[0] == -1:
                    raise KernelRefused(f"refused before {point}")

        with monkeypatch.context() as patched:
            patched.setattr(steps, "point", refuse)
            with pytest.raises(Refused, match="refused before"):
                ready.add()
        assert all_of(cni) == before, f"step {number}"


@of_each_that_may_die
def test_kill_9_anywhere_in_add_leaves_nothing_after_del(cni: Plugins, name: str) -> None:
    """F01."""
    ready = prepared(cni, name)
    before = all_of(cni)
    passed = points(ready.add)
    ready.delete()
    places = [i for i, point in enumerate(passed) if not point.endswith(" before")]
    for number in places[:: EVERY.get(name, 1)]:
        assert dies_at(number, ready.add)
        ready.delete()
        assert all_of(cni) == before, f"killed at {passed[number]!r}, point {number}"


@of_each_that_may_die
def test_kill_9_anywhere_in_del_lets_the_next_del_work(cni: Plugins, name: str) -> None:
    """F02."""
    ready = prepared(cni, name)
    before = all_of(cni)
    ready.add()
    passed = points(ready.delete)
    places = [i for i, point in enumerate(passed) if not point.endswith(" before")]
    for number in places[:: EVERY.get(name, 1)]:
        ready.add()
        assert dies_at(number, ready.delete)
        ready.delete()
        assert all_of(cni) == before, f"killed at {passed[number]!r}, point {number}"


def all_of(cni: Plugins) -> object:
    """What `trace` shows, and what is moved about inside; in any order, for who returns is last."""
    seen, *rest = cast(tuple[str, object, object], trace(cni))
    seen += run(
        "ip -n c1 -o addr | sed '/ fe80:/d; s/^[0-9]*: //'",
        "ip -n c1 rule; ip -n c1 -6 rule; ip -n c1 -6 route | sed '/fe80:/d'",
        "ip -d -o link show card0 2>/dev/null | sed 's/^[0-9]*: //; s/@if[0-9]*//' || true",
    )
    seen = re.sub(r"NO-CARRIER,|,LOWER_UP|,M-DOWN| state [A-Z]+", "", seen)
    return sorted(seen.splitlines()), rest


# -- what they are told, and what they say

WRONG: dict[str, list[Json]] = {
    "ptp": [{"mtu": -1}, {"ipMasqBackend": "pf"}, {"mac": "x", "ipam": {}}, {"ipam": {}}],
    "macvlan": [
        {"master": "a/b"},
        {"master": "nope"},
        {"master": "wire0", "mode": "source"},
        {"master": "wire0", "mtu": 1501},
        {"master": "wire0", "bcqueuelen": -1},
        {"master": "wire0", "mode": "passthru", "mac": "02:00:00:00:00:01"},
        {"master": "wire0", "mac": "01:00:00:00:00:01"},
        {"master": "nope", "linkInContainer": True},
        {"linkInContainer": True},
        {"master": "off0", "linkInContainer": True},
    ],
    "ipvlan": [{"ipam": {}}, {"mode": "l4"}, {"master": "nope"}, {"prevResult": {"ips": 1}}],
    "vlan": [{}, {"master": "wire0", "vlanId": 4095}, {"master": "wire0", "ipam": {}}],
    "dummy": [{"ipam": {}}],
    "tap": [
        *({"owner": -1}, {"group": 1 << 32}, {"multiQueue": "yes"}, {"bridge": "a b"}),
        *({"selinuxContext": "-x"}, {"selinuxContext": "a b"}, {"mtu": -1}),
    ],
    "host-device": [
        *({}, {"device": "a/b"}, {"device": "nope"}, {"hwaddr": "zz"}),
        *({"hwaddr": "02:00:00:00:00:99"}, {"pciBusID": "../../etc"}, {"pciBusID": "0000:ff:1f.7"}),
        *({"kernelpath": "/etc"}, {"kernelpath": "/sys/devices/../../etc"}),
        *({"runtimeConfig": {"deviceID": "../x"}}, {"runtimeConfig": {"deviceID": "nope"}}),
    ],
    "sbr": [
        *({"table": 0}, {"table": 1 << 32}, {"gateways": ["x"]}),
        *({"gateways": ["10.0.0.1", "10.0.0.2"]}, {"prevResult": None}, {}),
    ],
    "vrf": [{}, {"vrfname": "a/b"}, {"vrfname": "blue", "table": -1}, {"vrfname": "blue"}],
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_configuration_is_refused_before_any_effect(cni: Plugins, kind: str) -> None:
    run("ip link add off0 type bridge", place=cni.netns("c1"))
    before = world(cni)
    ipam = cni.ipam(*SUBNETS)
    for conf in WRONG[kind]:
        with pytest.raises(Refused) as refused:
            cni.add(kind, {**COMMON, "ipam": ipam, **conf})
        assert refused.value.code == 7, (conf, refused.value)
        assert len(str(refused.value)) < 600
    assert world(cni) == before


@pytest.mark.parametrize("kind", WRONG)
def test_a_value_of_another_type_is_refused_by_name(kind: str) -> None:
    struct = plugin._module(kind).Conf
    for field in msgspec.structs.fields(struct):
        fine = {str: "str", bool: "bool", int: "int", list: "list", dict: "dict"}
        for value in ("x", 7, True, ["x"], {"x": 1}, 1.5):
            if fine.get(type(value), "none") in str(field.type).lower().replace("literal", "str"):
                continue
            with pytest.raises(CniError, match=f"^{field.encode_name}") as refused:
                options({field.encode_name: value}, struct)
            assert refused.value.code == 7


# -- as the reference has it

PLAIN: dict[str, Json] = {
    "ptp": {"ipMasq": True, "dns": {"nameservers": ["192.0.2.1"], "search": ["example.com"]}},
    "macvlan": {"master": "wire0", "dns": {"nameservers": ["192.0.2.1"]}},
    "macvlan without addresses": {"master": "wire0", "mode": "vepa"},
    "host-device": {"device": "card0"},
    "host-device without addresses": {"hwaddr": CARD_MAC},
    "sbr": {},
    "ipvlan": {"master": "wire0"},
    "vlan": {"master": "wire0", "vlanId": 5},
    "vrf": {"vrfname": "blue"},
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_the_result_is_the_references(cni: Plugins, name: str, version: str) -> None:
    """But for what is chosen at random there: MACs, and names on the host."""
    kind, _, without = name.partition(" ")
    if not os.path.exists(f"{REFERENCE}/{kind}"):
        pytest.skip(f"the reference's plugins are not in {REFERENCE} (containernetworking-plugins)")
    with Netlink() as netlink:
        if kind in features.OPTIONS and not netlink.has_kind(kind):
            pytest.skip(str(features.missing(kind).strerror))
    said = []
    for plugins, container in ((cni, "c1"), (Plugins(f"{cni.base}/go", REFERENCE), "c2")):
        conf: Json = {**COMMON, **PLAIN[name], "cniVersion": version}
        never = "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
        run(never, place=plugins.netns(container))  # the reference would wait for it
        ways = [{"dst": "0.0.0.0/0"}, {"dst": "10.7.0.0/16", "gw": "10.22.0.8"}, {"dst": "::/0"}]
        ipam = plugins.ipam(*SUBNETS, routes=ways)
        if kind in CHAINED:
            under = {**COMMON, "cniVersion": version, "master": "wire0", "ipam": ipam}
            conf["prevResult"] = plugins.add("macvlan", under, container)
        elif not without:
            conf["ipam"] = ipam
        said.append(_masked(plugins.add(kind, conf, container)))
        plugins.delete(kind, conf, container)
        run(
            "ip link set card0 up",  # the reference does not
            "ip addr flush dev card0; ip addr add 10.8.0.1/24 brd + dev card0",
        )
    assert said[0] == said[1]


def _masked(result: Json) -> Json:
    for each in result.get("interfaces", []):
        if not each.get("sandbox"):
            each["name"] = re.sub("^veth.*", "veth", each["name"])
        else:
            each["sandbox"] = "c"
        if each.get("mac") != CARD_MAC:
            each["mac"] = re.sub("[0-9a-f]", "0", each["mac"])
    return result


# -- plans: those of types that this kernel lacks are held by these alone

LEASED = Result(
    (IP("10.22.0.2/24", "10.22.0.1"), IP("fd00:22::2/64", "fd00:22::1")),
    (Route("0.0.0.0/0"), Route("::/0", mtu=1400)),
)
UNDER = Result(
    tuple(ip._replace(interface=0) for ip in LEASED.ips), (), interfaces=(Interface("eth0"),)
)
PLANS: dict[str, Json] = {
    "ptp": {"ipMasq": True},
    "macvlan": {"bcqueuelen": 500},
    "ipvlan": {"mode": "l2", "master": "wire0", "mtu": 1300},
    "ipvlan in a chain": {
        "mode": "l3s",
        "prevResult": UNDER._replace(interfaces=(Interface("wire0"),)).to_json("1.1.0"),
    },
    "vlan": {"master": "wire0", "vlanId": 5},
    "vlan inside": {"master": "wire1", "vlanId": 5, "linkInContainer": True},
    "dummy": {},
    "tap": {"owner": 5, "group": 6, "multiQueue": True, "bridge": "br0", "mtu": 1300},
    "tap with a label": {"selinuxContext": "system_u:system_r:container_t:s0"},
    "host-device": {"hwaddr": CARD_MAC},
    "vrf": {"vrfname": "blue", "prevResult": UNDER.to_json("1.1.0")},
    "sbr": {"prevResult": UNDER.to_json("1.1.0"), "addSourceHints": True},
}


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """A host with a way out by `wire0`, and a container on it that has `br0` and `wire1`."""
    kernel = FakeKernel()
    kernel.create_netns("c1")
    kernel.create_netns("far")
    there = kernel.netlink(PLACE)
    for netlink, name in (
        (kernel.netlink(), "wire0"),
        (there, "wire1"),
        (kernel.netlink(), "card0"),
    ):
        mac = CARD_MAC if name == "card0" else LAN_MAC
        netlink.add_veth(name, mac=mac, mtu=1400, peer=name, peer_mac=PEER_MAC, peer_netns=FAR)
    kernel.netlink().add_address("wire0", ip_interface("10.9.0.1/24"))
    kernel.netlink().add_route("wire0", None, "10.9.0.254")
    there.add_bridge("br0", mac=PEER_MAC, mtu=1500)
    monkeypatch.setattr(netns, "identity", lambda path: "4:5:6")
    return kernel


def proposed(kernel: Kernel, name: str, leased: Result | None) -> Answer:
    kind = name.partition(" ")[0]
    conf = {
        **COMMON,
        "cniVersion": "1.1.0",
        "type": kind,
        "ipam": {"type": "static"},
        **PLANS[name],
    }
    if "chain" in name:
        del conf["ipam"]
    command = Command.parse(ENVIRON, json.dumps(conf))
    return cast(
        Answer,
        plugin._module(kind).propose(Call(command, plugin._conf(kind, command), kernel, leased)),
    )


def made_for_a_chain(kernel: FakeKernel, name: str) -> None:
    if name.partition(" ")[0] in CHAINED:
        netlink = kernel.netlink(PLACE)
        kernel.netlink().add_link("eth0", "macvlan", parent="wire0", at=PLACE, mac=PEER_MAC)
        netlink.set_up("eth0")
        for ip in LEASED.ips:
            netlink.add_address("eth0", ip_interface(ip.address))
            netlink.add_route("eth0", None, ip.gateway, metric=1024)


@pytest.mark.parametrize("name", PLANS)
def test_plans_read_as_an_operator_would_type_them(twin: FakeKernel, name: str) -> None:
    made_for_a_chain(twin, name)
    answer = proposed(twin, name, None if name.partition(" ")[0] in CHAINED else LEASED)
    shared = answer.proposal.shared
    plans = [make(twin) for name, make in shared.items() if name != "tables"]
    text = json.dumps(answer.result.to_json("1.1.0"), indent=1) + "\n"
    for plan in (*plans, answer.proposal.plan):
        text += "\n".join(steps.lines(plan, twin.firewall)) + "\n"
        text += "".join(f"  undone by: {line}\n" for line in steps.undo_lines(plan, twin.firewall))
    goldens.same(f"cni-{name.replace(' ', '-')}.txt", text)


@pytest.mark.parametrize(
    "name", [name for name in PLANS if name not in ("sbr", "tap with a label")]
)
def test_plans_come_hold_and_go_on_any_kernel(twin: FakeKernel, name: str) -> None:
    made_for_a_chain(twin, name)
    before = twin.dump()
    answer = proposed(twin, name, None if name.partition(" ")[0] in CHAINED else LEASED)
    done: list[steps.Plan] = []
    for plan in (*(make(twin) for make in answer.proposal.shared.values()), answer.proposal.plan):
        done.append(steps.prepare(plan, twin))
        steps.add(done[-1], twin)
    assert [drift for plan in done for drift in steps.check(plan, twin)] == []
    assert twin.dump() != before
    for plan in reversed(done):
        steps.delete(plan, twin)
    assert twin.dump() == before


@pytest.mark.parametrize("name", [name for name in PLANS if "chain" not in name])
def test_what_is_made_before_a_lease_is_part_of_what_is_made_with_it(
    twin: FakeKernel, name: str
) -> None:
    """As for DHCP, which needs the interface first."""
    made_for_a_chain(twin, name)
    first, then = (proposed(twin, name, leased).proposal for leased in (None, LEASED))
    assert [step for step in then.plan if step in first.plan] == [*first.plan]
    assert first.shared.keys() <= then.shared.keys()
    assert any(isinstance(step, steps.DeviceUp | steps.LinkUp) for step in first.plan) or (
        name.partition(" ")[0] in CHAINED
    )


# -- what each of them does


def routes(table: str = "main", version: int = 4) -> list[str]:
    """Those of a table in the container, as `ip route` shows them."""
    shown = run(f"ip -n c1 -{version} route show table {table} 2>/dev/null | sed '/fe80:/d'")
    return [line.strip().removesuffix(" pref medium") for line in shown.splitlines()]


def test_i14_ptp_has_the_gateway_alone_on_the_link(cni: Plugins) -> None:
    ready = prepared(cni, "ptp")
    result = ready.add()
    host_end = result["interfaces"][0]["name"]
    assert routes() == [
        "default via 10.22.0.1 dev eth0",
        "10.22.0.0/24 via 10.22.0.1 dev eth0 src 10.22.0.2",
        "10.22.0.1 dev eth0 scope link src 10.22.0.2",
    ]
    assert f"10.22.0.2 dev {host_end} scope link" in run("ip route")
    assert f"fd00:22::2 dev {host_end}" in run("ip -6 route")
    assert "10.22.0.1/32" in run(f"ip -br addr show {host_end}")
    # a second container has the same gateway, and ranges may share one
    wide: Json = {"type": "host-local", "dataDir": f"{cni.base}/wide", "routes": []}
    wide["ranges"] = [
        [{"subnet": "10.30.0.0/24", "rangeStart": f"10.30.0.{n}0", "rangeEnd": f"10.30.0.{n}9"}]
        for n in (1, 2)
    ]
    two = cni.add("ptp", {**COMMON, "name": "two", "ipam": wide}, "c2")
    assert [ip["address"] for ip in two["ips"]] == ["10.30.0.10/24", "10.30.0.20/24"]


def test_ptp_wants_to_know_the_gateway(cni: Plugins) -> None:
    before = world(cni)
    ipam = {"type": "static", "addresses": [{"address": "10.22.0.2/24"}]}
    with pytest.raises(Refused, match="without a gateway"):
        cni.add("ptp", {**COMMON, "ipam": ipam})
    run("ip netns del c1")
    assert world(cni) == before


@pytest.mark.parametrize(
    ("kind", "conf"), [("macvlan", {"master": "wire0"}), ("ptp", {}), ("tap", {}), ("bridge", {})]
)
def test_i24_what_a_route_is_to_be_like_it_is(cni: Plugins, kind: str, conf: Json) -> None:
    if kind == "tap" and not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")
    ways: list[Json] = [
        {"dst": "10.7.0.0/16", "gw": "10.22.0.1", "mtu": 1300, "advmss": 1200, "priority": 7},
        {"dst": "10.8.0.0/16", "gw": "10.22.0.1", "table": 77},
        {"dst": "10.22.0.1/32", "table": 88, "scope": 253},
    ]
    addresses = [{"address": "10.22.0.2/24", "gateway": "10.22.0.1"}]
    ipam = {"type": "static", "addresses": addresses, "routes": ways}
    result = cni.add(kind, {**COMMON, "cniVersion": "1.1.0", **conf, "ipam": ipam})
    assert result["routes"] == ways
    assert result["interfaces"][-1]["mtu"] == 1500
    metric = "via 10.22.0.1 dev eth0 metric 7 mtu 1300 advmss 1200"
    assert f"10.7.0.0/16 {metric}" in [line.replace(" linkdown", "") for line in routes()]
    assert [line.replace(" linkdown", "") for line in routes("77")] == [
        "10.8.0.0/16 via 10.22.0.1 dev eth0"
    ]
    cni.check(kind, {**COMMON, "cniVersion": "1.1.0", **conf, "ipam": ipam}, result)


def test_a_second_way_out_of_a_container_stands_before_the_first(cni: Plugins) -> None:
    """As where podman joins two networks that both lead out."""
    for number, name in enumerate(("one", "two")):
        ipam = cni.ipam(f"10.3{number}.0.0/24", routes=[{"dst": "0.0.0.0/0"}])
        conf = {**COMMON, "name": name, "ipam": ipam}
        result = cni.add("ptp", conf, ifname=f"eth{number}")
        cni.check("ptp", conf, result, ifname=f"eth{number}")
    ways = [line for line in routes() if line.startswith("default")]
    assert ways == ["default via 10.31.0.1 dev eth1", "default via 10.30.0.1 dev eth0"]
    cni.delete("ptp", {**COMMON, "name": "two"}, ifname="eth1")
    assert [line for line in routes() if line.startswith("default")] == [
        "default via 10.30.0.1 dev eth0"
    ]


def test_i21_a_master_that_was_down_is_up_while_it_is_needed(cni: Plugins) -> None:
    run("ip link set card0 down; ip addr flush dev card0")
    conf = {**COMMON, "master": "card0", "ipam": cni.ipam(SUBNETS[0])}
    for container in ("c1", "c2"):
        cni.add("macvlan", conf, container)
        assert "UP" in run("ip -br link show card0")
    cni.delete("macvlan", conf, "c1")
    assert "UP" in run("ip -br link show card0")
    cni.delete("macvlan", conf, "c2")
    assert "DOWN" in run("ip -br link show card0")


def test_i21_macvlan_is_as_asked_for(cni: Plugins) -> None:
    conf = {**COMMON, "mode": "vepa", "mtu": 1300, "bcqueuelen": 777, "mac": "02:00:00:00:00:05"}
    conf["runtimeConfig"] = {"mac": "02:00:00:00:00:06"}
    result = cni.add("macvlan", conf)  # on the interface of the default route
    assert result["interfaces"][0]["mac"] == "02:00:00:00:00:06"
    shown = run("ip -n c1 -d link show eth0")
    for word in ("mode vepa", "mtu 1300", "bcqueuelen 777", "02:00:00:00:00:06"):
        assert word in shown
    assert result["interfaces"][0] == {
        "name": "eth0",
        "mac": "02:00:00:00:00:06",
        "sandbox": PLACE,
    }


def test_macvlan_keeps_what_its_ipam_plugin_says_of_dns(cni: Plugins) -> None:
    """The reference forgets it."""
    dns = {"nameservers": ["192.0.2.1"], "search": ["example.com"]}
    addresses = [{"address": "10.22.0.2/24"}]
    ipam = {"type": "static", "addresses": addresses, "dns": dns}
    assert cni.add("macvlan", {**COMMON, "ipam": ipam})["dns"] == dns


def test_passthru_has_the_masters_mac(cni: Plugins) -> None:
    result = cni.add("macvlan", {**COMMON, "mode": "passthru"})
    assert result["interfaces"][0]["mac"] == LAN_MAC
    assert LAN_MAC in run("ip -n c1 link show eth0")


def test_a_name_of_the_hosts_is_free_in_the_container(cni: Plugins) -> None:
    run("ip link add eth0 type bridge")
    cni.add("macvlan", {**COMMON, "master": "wire0"})
    cni.delete("macvlan", COMMON)
    assert "eth0" in run("ip link show eth0")


@pytest.mark.parametrize("how", ["netns", "container"])
def test_i22_a_card_comes_back_as_it_was(cni: Plugins, how: str) -> None:
    def shown() -> str:
        return run(
            "ip -o -d link show card0 | sed 's/^[0-9]*: //; s/@if[0-9]*//; s/NO-CARRIER,//' "
            "| sed -E 's/,LOWER_UP|,M-DOWN| state [A-Z]+//g'",
            "ip -o addr show card0 | sed 's/^[0-9]*: //'",
            "ip route show dev card0 | sed 's/ linkdown//'",
        )

    before = shown()
    conf = {**COMMON, "device": "card0", "ipam": cni.ipam(*SUBNETS)}
    cni.add("host-device", conf)
    run("ip -n c1 link set eth0 down", "ip -n c1 link set eth0 mtu 1200 name mine0")
    run("ip netns del c1") if how == "netns" else None
    cni.delete("host-device", conf, at="" if how == "netns" else None)
    assert shown() == before
    assert "netkit-" not in run("ls /run/netns")


@pytest.mark.parametrize("driver", ["vfio-pci", "uio_pci_generic"])
def test_i22_a_device_that_a_program_drives_is_in_the_result(
    cni: Plugins, driver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pci(tmp_path, "0000:03:00.0", driver)
    monkeypatch.setattr(devices, "SYSFS", str(tmp_path))
    conf = {**COMMON, "cniVersion": "1.1.0", "runtimeConfig": {"deviceID": "0000:03:00.0"}}
    before = world(cni)
    conf["ipam"] = cni.ipam(*SUBNETS)
    result = cni.add("host-device", conf)
    assert result["interfaces"] == [{"name": "eth0", "sandbox": PLACE, "pciID": "0000:03:00.0"}]
    assert [ip["address"] for ip in result["ips"]] == ["10.22.0.2/24", "fd00:22::2/64"]
    cni.check("host-device", conf, result)
    cni.delete("host-device", conf)
    run("ip netns del c1")
    assert world(cni) == before


@pytest.mark.parametrize("way", ["pciBusID", "deviceID", "kernelpath", "auxiliary"])
def test_i22_a_card_is_found_by_its_hardware(
    cni: Plugins, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = _pci(tmp_path, "0000:03:00.0", "e1000e")
    (tmp_path / "class/net/card0").mkdir(parents=True)
    (tmp_path / "class/net/card0/device").symlink_to(device)
    (tmp_path / "bus/auxiliary/devices").mkdir(parents=True)
    (tmp_path / "bus/auxiliary/devices/mlx5_core.sf.4").symlink_to(device)
    monkeypatch.setattr(devices, "SYSFS", str(tmp_path))
    monkeypatch.setattr(devices, "PATH", re.compile(r"/.*"))  # below this /sys
    said: dict[str, Json] = {
        "pciBusID": {"pciBusID": "0000:03:00.0"},
        "deviceID": {"runtimeConfig": {"deviceID": "0000:03:00.0"}},
        "kernelpath": {"kernelpath": str(device)},
        "auxiliary": {"runtimeConfig": {"deviceID": "mlx5_core.sf.4"}},
    }
    conf = {**COMMON, "cniVersion": "1.1.0", **said[way]}
    (found,) = cni.add("host-device", conf)["interfaces"]
    assert found["mac"] == CARD_MAC
    assert ("pciID" in found) == (way in ("pciBusID", "deviceID"))
    cni.delete("host-device", conf)
    assert "my card" in run("ip link show card0")


def _pci(sysfs: Path, address: str, driver: str) -> Path:
    """A PCI device, as /sys has it, and who drives it."""
    device = sysfs / "devices/pci0000:00" / address
    device.mkdir(parents=True)
    (sysfs / "bus/pci/drivers" / driver).mkdir(parents=True)
    (device / "driver").symlink_to(sysfs / "bus/pci/drivers" / driver)
    (sysfs / "bus/pci/devices").mkdir(parents=True)
    (sysfs / "bus/pci/devices" / address).symlink_to(device)
    return device


def test_i23_a_label_of_selinux_is_refused_where_there_is_none(cni: Plugins) -> None:
    cni.netns("c1")
    before = world(cni)
    with pytest.raises(Refused, match="runcon"):
        cni.add("tap", {**COMMON, "selinuxContext": "system_u:system_r:container_t:s0"})
    assert world(cni) == before


def test_i23_sbr_moves_the_routes_of_each_address_to_a_table_of_its_own(cni: Plugins) -> None:
    run("ip rule add from 10.77.0.1 table 100", place=cni.netns("c1"))
    run("ip -n c1 link add other type veth peer name else0", "ip -n c1 link set other up")
    run("ip -n c1 route add 10.99.0.0/24 dev other table 101")  # no rule leads there
    ready = prepared(cni, "sbr")
    assert ready.add() == ready.conf["prevResult"]
    assert routes("102") == [
        "default via 10.22.0.9 dev eth0",
        "10.7.0.0/16 via 10.22.0.8 dev eth0",
        "10.22.0.0/24 dev eth0 scope link src 10.22.0.2",
    ]
    assert routes("103", 6) == [
        "fd00:22::/64 dev eth0 metric 256",
        "default via fd00:22::1 dev eth0 metric 1024",
    ]
    assert [line for line in routes() if "eth0" in line] == []
    assert "from 10.22.0.2 lookup 102" in run("ip -n c1 rule")
    assert "from fd00:22::2 lookup 103" in run("ip -n c1 -6 rule")


def test_i23_sbr_with_hints_leaves_the_subnets(cni: Plugins) -> None:
    ready = prepared(cni, "sbr with hints")
    ready.check(ready.add())
    assert routes() == ["10.22.0.0/24 dev eth0 proto kernel scope link src 10.22.0.2"]
    assert routes(version=6) == ["fd00:22::/64 dev eth0 src fd00:22::2 metric 1024"]
    assert "default via 10.22.0.1 dev eth0" in routes("100")


def test_i23_sbr_of_a_table_adds_rules_alone(cni: Plugins) -> None:
    ready = prepared(cni, "sbr of a table")
    before = routes()
    ready.add()
    assert routes() == before
    assert "from 10.22.0.2 lookup 500" in run("ip -n c1 rule")


@pytest.mark.parametrize("damage", ["ip link set wire0 name gone0", "none"])
def test_status_tells_of_a_master_that_is_missing(cni: Plugins, damage: str) -> None:
    conf = {**COMMON, "cniVersion": "1.1.0", "master": "wire0"}
    if damage == "none":
        assert cni.call("macvlan", "STATUS", conf) is None
        return
    run("ip link set wire0 down", damage)
    with pytest.raises(Refused, match="wire0") as refused:
        cni.call("macvlan", "STATUS", conf)
    assert refused.value.code == 50


@pytest.mark.parametrize("kind", ["ipvlan", "vlan", "dummy", "vrf", "tap", "macvlan"])
def test_status_and_add_name_the_option_this_kernel_lacks(cni: Plugins, kind: str) -> None:
    what = "tun" if kind == "tap" else kind
    with Netlink() as netlink:
        if netlink.has_kind(what):
            pytest.skip(f"this kernel has {what}")
    conf = {**COMMON, "cniVersion": "1.1.0", "master": "wire0", "vrfname": "blue"}
    conf["ipam"] = cni.ipam(*SUBNETS)
    place = cni.netns("c1")
    if kind in CHAINED:
        conf["prevResult"] = UNDER.to_json("1.1.0")
        run("ip link add eth0 type veth peer name eth1", place=place)
    before = world(cni)
    with pytest.raises(Refused, match=features.OPTIONS[what]) as refused:
        cni.call(kind, "STATUS", conf)
    assert refused.value.code == 50
    with pytest.raises(Refused, match=features.OPTIONS[what]):
        cni.add(kind, conf)
    assert world(cni) == before


@pytest.mark.parametrize("kind", ["host-device", "sbr"])
def test_what_the_references_plugins_left_is_seen_to(cni: Plugins, kind: str) -> None:
    """A node is switched over while its containers run; a chained one's DEL takes no interface."""
    if not os.path.exists(f"{REFERENCE}/{kind}"):
        pytest.skip(f"the reference's plugins are not in {REFERENCE} (containernetworking-plugins)")
    go = Plugins(f"{cni.base}/go", REFERENCE)
    card = {**COMMON, "device": "card0", "ipam": go.ipam(SUBNETS[0])}
    result = go.add("host-device", card)
    if kind == "sbr":
        chained = {**COMMON, "prevResult": result}
        go.add("sbr", chained)
        cni.delete("sbr", chained)
        assert "eth0" in run("ip -n c1 link show eth0")
        return
    cni.delete("host-device", {**card, "prevResult": result})
    assert CARD_MAC in run("ip link show card0")
    cni.delete("host-device", {**card, "prevResult": result})


@pytest.mark.parametrize("kind", ["ptp", "macvlan", "host-device", "tap"])
def test_an_ipam_plugin_that_needs_the_interface_finds_it(cni: Plugins, kind: str) -> None:
    """As one for DHCP does; what is planned with its answer goes on from there."""
    if kind == "tap" and not os.access("/dev/net/tun", os.W_OK):
        pytest.skip("/dev/net/tun cannot be opened here")
    path = Path(cni.bin_dir) / "looker"
    path.write_text(
        "#!/bin/sh\n[ $CNI_COMMAND = ADD ] || exit 0\n"
        "nsenter --net=$CNI_NETNS ip link show eth0 | grep -q ,UP || exit 1\n"
        'echo \'{"cniVersion": "1.0.0", "ips": [{"address": "10.22.0.2/24", '
        '"gateway": "10.22.0.1"}], "routes": [{"dst": "0.0.0.0/0"}]}\'\n'
    )
    path.chmod(0o755)
    cni.netns("c1")
    before = world(cni)
    conf = {**COMMON, "ipam": {"type": "looker"}}
    conf |= {"host-device": {"device": "card0"}}.get(kind, {})
    result = cni.add(kind, conf)
    assert result["interfaces"][-1]["mac"] in run("ip -n c1 link show eth0")
    assert "default via 10.22.0.1 dev eth0" in run("ip -n c1 route")
    cni.check(kind, conf, result)
    cni.delete(kind, conf)
    assert until(lambda: world(cni) == before)
