"""The steps for interfaces beside bridge and veth, on the twin in memory and on the real kernel."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from netkit import steps
from netkit.errors import Conflict, KernelRefused, NotFound
from netkit.firewall import libnftables
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel, features, netns
from netkit.kernel.netlink import Vlan, interim
from netkit.steps import (
    Device,
    DeviceRoute,
    DeviceUp,
    Enslave,
    Filtering,
    Parent,
    Physical,
    PortFlag,
    PortVlans,
    Redirect,
    Setup,
    Shaper,
    Step,
    Tap,
    Tune,
)
from scenarios.lab import Host, inside, run, snapshot, until
from tests import goldens
from tests.fakes import FakeKernel

PLACE, FAR = netns.named("c1"), netns.named("far")
PIN = "netkit-0123456789ab"
ALIAS = "netkit:0123456789ab"
MAC, PEER_MAC, OWN_MAC, FOREIGN_MAC = (f"02:42:00:00:00:0{n}" for n in (1, 2, 3, 9))
HERE, HERE6 = IPv4Interface("10.9.0.5/24"), IPv6Interface("fd09::5/64")
LAN, BEYOND = IPv4Network("10.9.0.0/24"), IPv4Network("10.99.0.0/16")


class Case(NamedTuple):
    step: Step
    before: tuple[Step, ...] = ()
    needs: str = ""  # a kind of link or feature this kernel may lack
    stays: bool = False  # goes with what it is on


MACVLAN = Device(
    name="eth0",
    kind="macvlan",
    alias=ALIAS,
    parent="wire0",
    at=PLACE,
    mac=OWN_MAC,
    options={"mode": "bridge", "bcqueuelen": 77},
)
SUB = Device(
    name="wire0.10",
    kind="vlan",
    alias="netkit:parent",
    parent="wire0",
    up=True,
    options={"id": 10},
    existing=True,
)
VRF = Device(
    name="red", kind="vrf", alias="netkit:vrf", up=True, options={"table": 99}, existing=True
)
MOVED = Physical(name="eth0", at=PLACE, pin=PIN, alias=ALIAS, dev="wire0")
CARRIED = Physical(name="eth0", at=PLACE, pin=PIN, alias=ALIAS, mac=MAC, carry=True)
TAP = Tap(name="tap0", at=PLACE, mac=OWN_MAC, mtu=1300, owner=0, multi_queue=True)
CASES = {
    "a parent that is down": Case(Parent(dev="spare0")),
    "a macvlan": Case(MACVLAN),
    "an ipvlan": Case(
        Device(
            name="eth0",
            kind="ipvlan",
            alias=ALIAS,
            parent="wire0",
            at=PLACE,
            options={"mode": "l3", "private": 1},
        ),
        needs="ipvlan",
    ),
    "a sub-interface": Case(SUB, needs="vlan"),
    "a vlan in a sandbox": Case(
        Device(name="eth0", kind="vlan", alias=ALIAS, parent="wire0", at=PLACE, options={"id": 5}),
        needs="vlan",
    ),
    "a dummy": Case(
        Device(name="dm-0", kind="dummy", alias=ALIAS, mac=OWN_MAC, up=True), needs="dummy"
    ),
    "a vrf": Case(VRF, needs="vrf"),
    "a member of a vrf": Case(Enslave(dev="br0", master="red", kind="vrf"), (VRF,), needs="vrf"),
    "a port": Case(Enslave(dev="spare0", master="br0", kind="bridge")),
    "a tap": Case(TAP),
    "a physical interface": Case(MOVED),
    "one found by its MAC that takes its addresses along": Case(CARRIED),
    "settings of what may stay": Case(
        Tune(dev="wire0", mac=OWN_MAC, mtu=1300, txqlen=7, promisc=True, allmulti=True, there=True)
    ),
    "what a port does besides": Case(
        PortFlag(dev="spare0", flag="isolated"),
        (Enslave(dev="spare0", master="br0", kind="bridge"),),
    ),
    "a shaper": Case(Shaper(dev="wire0", rate=125_000, burst=10_000, limit=13_125), needs="tbf"),
    "a shaper of some": Case(
        Shaper(dev="wire0", rate=125_000, burst=10_000, limit=13_125, only=(BEYOND,)), needs="tbf"
    ),
    "a redirection": Case(Redirect(dev="wire0", to="spare0"), needs="ingress"),
    "settings": Case(Tune(dev="eth0", at=PLACE, mac=OWN_MAC, mtu=1300), (MACVLAN,), stays=True),
    "an interface that is up": Case(DeviceUp(dev="eth0", at=PLACE), (MACVLAN,), stays=True),
    "a route by a device": Case(
        DeviceRoute(dev="eth0", at=PLACE), (MACVLAN, DeviceUp(dev="eth0", at=PLACE))
    ),
    "a route of IPv6 by a device": Case(
        DeviceRoute(dev="eth0", at=PLACE, version=6),
        (MACVLAN, DeviceUp(dev="eth0", at=PLACE)),
    ),
    "a bridge that filters": Case(Filtering(dev="br0"), needs=features.BRIDGE_VLANS),
    "the VLANs of a port": Case(
        PortVlans(dev="spare0", access=10, trunk=((20, 29), (40, 40))),
        (Enslave(dev="spare0", master="br0", kind="bridge"), Filtering(dev="br0")),
        needs=features.BRIDGE_VLANS,
        stays=True,
    ),
}
each = pytest.mark.parametrize("name", CASES)


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest, host: Host) -> Iterator[Kernel]:
    """`wire0`, with all a card may have, to a neighbour; `spare0`, down; a bridge; a sandbox."""
    with FakeKernel() if request.param == "fake" else Kernel(Nftables()) as kernel:
        for name in ("c1", "far"):
            kernel.create_netns(name)
        netlink = kernel.netlink()
        if not isinstance(kernel, FakeKernel):  # addresses that settle in a second are none
            for place in (None, FAR):
                kernel.set_sysctl("net/ipv6/conf/default/addr_gen_mode", "1", place)
        for n, name in enumerate(("wire0", "spare0")):
            mac, peer = f"02:42:00:00:0{n}:01", f"02:42:00:00:0{n}:02"
            netlink.add_veth(name, mac=mac, mtu=1400, peer=name, peer_mac=peer, peer_netns=FAR)
            kernel.netlink(FAR).set_up(name)
        netlink.set_up("spare0", up=False)  # it has been up: that leaves it a queue
        netlink.set_link("wire0", txqlen=55, alias="my card", group=3)
        netlink.add_address("wire0", HERE)
        netlink.add_address("wire0", HERE6)
        netlink.add_route("wire0", BEYOND, "10.9.0.1")
        netlink.add_route("wire0", None, "10.9.0.1", metric=77)
        netlink.add_route("wire0", None, "fd09::1", metric=1024)
        netlink.add_bridge("br0", mac=FOREIGN_MAC, mtu=1500)
        if not isinstance(kernel, FakeKernel):
            kernel.set_sysctl("net/ipv4/conf/wire0/rp_filter", "2")
            assert until(lambda: "state UP" in run("ip -o link show wire0"))
            # nodad or not, the kernel makes it when it finds the time
            local = f"ip -6 route show table local {HERE6.ip} dev wire0"
            assert until(lambda: run(local) != "")
        yield kernel
    libnftables.forget()


def dump(kernel: Kernel) -> object:
    if isinstance(kernel, FakeKernel):
        return kernel.dump()
    found = dict(snapshot()) | {"queues": run("tc qdisc | grep -v noqueue || true")}
    for place in (PLACE, FAR, netns.named(PIN)):
        if kernel.exists(place):
            found |= {f"{place}: {what}": text for what, text in inside(place).items()}
    return found


def prepared(case: Case, kernel: Kernel) -> Step:
    """The case's step, what stands before it added; skipped where the kernel lacks it."""
    try:
        for step in case.before:
            if ready := step.prepare(kernel):
                ready.add(kernel)
    except OSError as error:
        _skipped(error)
    ready = case.step.prepare(kernel)
    assert ready is not None
    return ready


def _skipped(error: OSError) -> None:
    if error.errno == errno.EOPNOTSUPP and "CONFIG_" in str(error.strerror):
        pytest.skip(str(error.strerror))
    if error.errno == errno.EACCES and error.filename == "/dev/net/tun":
        pytest.skip("/dev/net/tun cannot be opened here")
    raise error


@each
def test_a_device_comes_holds_and_goes_without_a_trace(kernel: Kernel, name: str) -> None:
    case = CASES[name]
    step = prepared(case, kernel)
    before = dump(kernel)
    step.delete(kernel)  # deleted before it was added: nothing to do
    assert dump(kernel) == before
    assert steps.check((step,), kernel)
    try:
        step.add(kernel)
    except OSError as error:
        assert dump(kernel) == before
        _skipped(error)
    assert steps.check((step,), kernel) == []
    there = dump(kernel)
    assert there != before
    step.delete(kernel)
    step.delete(kernel)
    assert dump(kernel) == (there if case.stays else before)


@each
def test_a_device_is_deleted_from_a_machine_that_has_forgotten_it_all(
    kernel: Kernel, name: str
) -> None:
    step = CASES[name].step.prepare(kernel) if not CASES[name].before else CASES[name].step
    kernel.netlink().delete_link("wire0")
    kernel.netlink().delete_link("spare0")
    kernel.netlink().delete_link("br0")
    kernel.delete_netns("c1")
    before = dump(kernel)
    assert step is not None
    step.delete(kernel)
    assert dump(kernel) == before


@each
def test_a_kernel_that_lacks_it_is_told_by_the_build_option(name: str) -> None:
    case = CASES[name]
    if not case.needs or case.before:
        return
    kernel = FakeKernel()
    for place in ("c1", "far"):
        kernel.create_netns(place)
    kernel.netlink().add_bridge("br0", mac=MAC, mtu=1500)
    wire = {"mac": MAC, "mtu": 1400, "peer": "wire0", "peer_mac": PEER_MAC, "peer_netns": FAR}
    kernel.netlink().add_veth("wire0", **wire)  # type: ignore[arg-type]
    before = kernel.dump()
    kernel.lacks.add(case.needs)
    with pytest.raises(KernelRefused, match=features.OPTIONS[case.needs]):
        steps.add(steps.prepare((case.step,), kernel), kernel)
    assert kernel.dump() == before


def test_the_stable_text_of_devices_is_what_it_always_was(host: Host) -> None:
    with FakeKernel() as kernel:
        kernel.create_netns("far")
        wire = {"mac": MAC, "mtu": 1400, "peer": "wire0", "peer_mac": PEER_MAC, "peer_netns": FAR}
        kernel.netlink().add_veth("wire0", **wire)  # type: ignore[arg-type]
        kernel.netlink().add_address("wire0", HERE)
        kernel.netlink().add_route("wire0", BEYOND, "10.9.0.1")
        everything = [case.step for case in CASES.values()]
        everything += [CARRIED.prepare(kernel), MOVED.prepare(kernel)]  # type: ignore[list-item]
        everything.append(Setup(driver="toy", dev="eth0", at=PLACE, request="{}", path="/toy"))
    text = "".join(steps.encode([step]) + "\n" for step in everything)
    goldens.same("devices.json", text)
    assert [steps.decode(line)[0] for line in text.splitlines()] == everything
    modules = {f"netkit.steps.{name}" for name in ("devices", "physical", "programs", "shaping")}
    known = {kind for kind in steps.AnyStep.__args__ if kind.__module__ in modules}
    assert {type(step) for step in everything} == {*known, PortFlag}
    printed = "".join(f"{step}\n  undone by: {step.undo()}\n" for step in everything)
    goldens.same("devices.txt", printed)


# -- manners


def test_settings_that_are_refused_half_way_are_put_back(kernel: Kernel) -> None:
    """The kernel sets the MAC, and then finds that the MTU is more than the parent's."""
    steps.add(steps.prepare((MACVLAN,), kernel), kernel)
    before = dump(kernel)
    wish = Tune(dev="eth0", at=PLACE, mac=FOREIGN_MAC, mtu=9000, there=True)
    with pytest.raises(KernelRefused, match="mtu 9000"):
        steps.add(steps.prepare((wish,), kernel), kernel)
    assert dump(kernel) == before


@pytest.mark.parametrize("case", ["a macvlan", "a tap"])
def test_an_interface_of_the_same_name_in_a_sandbox_that_is_not_ours_survives(
    kernel: Kernel, case: str
) -> None:
    step = CASES[case].step
    assert isinstance(step, Device | Tap)
    kernel.netlink(PLACE).add_bridge(step.name, mac=OWN_MAC, mtu=1400)
    before = dump(kernel)
    step.delete(kernel)
    assert dump(kernel) == before
    with pytest.raises(KernelRefused):
        steps.add((step,), kernel)
    assert dump(kernel) == before


def test_a_macvlan_that_was_not_called_by_its_name_yet_is_deleted(kernel: Kernel) -> None:
    """On an older kernel, and its maker was killed in that moment."""
    before = dump(kernel)
    name, options = interim("eth0"), {"mode": "bridge"}
    kernel.netlink().add_link(
        name, "macvlan", parent="wire0", at=PLACE, mac=OWN_MAC, options=options
    )
    MACVLAN.delete(kernel)
    assert dump(kernel) == before


def test_a_macvlan_of_the_same_name_and_another_owner_survives(kernel: Kernel) -> None:
    options = {"mode": "bridge"}
    kernel.netlink().add_link(
        "eth0", "macvlan", parent="wire0", at=PLACE, mac=FOREIGN_MAC, options=options
    )
    before = dump(kernel)
    MACVLAN.delete(kernel)
    assert dump(kernel) == before


def test_a_parent_that_is_up_is_left_alone(kernel: Kernel) -> None:
    assert Parent(dev="wire0").prepare(kernel) is None


def test_a_parent_that_somebody_uses_by_now_stays_up(kernel: Kernel) -> None:
    step = Parent(dev="spare0")
    step.add(kernel)
    kernel.netlink().add_address("spare0", IPv4Interface("10.8.0.1/24"))
    step.delete(kernel)
    assert (link := kernel.netlink().link("spare0"))
    assert link.up


@pytest.mark.parametrize(
    ("step", "error", "why"),
    [
        (Parent(dev="nope"), NotFound, "no interface 'nope'"),
        (Parent(dev="spare0"), Conflict, "'spare0': it is a port of a bridge"),
        (replace(MOVED, dev="nope"), NotFound, "no interface 'nope'"),
        (replace(MOVED, dev="ours0"), Conflict, "netkit's own"),
        (
            replace(MOVED, dev=None, mac="02:00:00:00:00:77"),
            NotFound,
            "no interfaces of the host have the MAC 02:00:00:00:00:77",
        ),
        (
            replace(MOVED, dev=None, mac=PEER_MAC),
            NotFound,
            "2 interfaces of the host have the MAC 02:42:00:00:00:02: same0, same1",
        ),
        (
            replace(MOVED, dev=None, device="0000:ff:1f.7"),
            NotFound,
            "no device 0000:ff:1f.7",
        ),
    ],
)
def test_what_is_not_there_or_not_to_be_had_is_refused_by_name(
    kernel: Kernel, step: Step, error: type[Exception], why: str
) -> None:
    netlink = kernel.netlink()
    netlink.set_link("spare0", master="br0")
    netlink.add_bridge("ours0", mac=FOREIGN_MAC, mtu=1400)
    netlink.set_alias("ours0", "netkit:abc")
    for name in ("same0", "same1"):
        netlink.add_bridge(name, mac=PEER_MAC, mtu=1400)
    before = dump(kernel)
    with pytest.raises(error, match=why):
        step.prepare(kernel)
    assert dump(kernel) == before


def test_more_than_the_parent_carries_is_refused_by_name(kernel: Kernel) -> None:
    with pytest.raises(Conflict, match="MTU of 1401 on 'wire0', which has 1400"):
        replace(MACVLAN, mtu=1401).prepare(kernel)


def test_whichever_call_is_refused_a_card_stays_where_it_was_as_it_was() -> None:
    """On the twin: it can refuse whichever call; so also those with which it is given back."""
    for verb in (steps.add, steps.delete):
        number = 0
        while True:
            kernel = FakeKernel()
            for name in ("c1", "far"):
                kernel.create_netns(name)
            wire = {"mac": MAC, "mtu": 1400, "peer": "w0", "peer_mac": PEER_MAC, "peer_netns": FAR}
            kernel.netlink().add_veth("wire0", **wire)  # type: ignore[arg-type]
            kernel.netlink().set_link("wire0", alias="my card", txqlen=55)
            for address in (HERE, HERE6):
                kernel.netlink().add_address("wire0", address)
            kernel.netlink().add_route("wire0", BEYOND, "10.9.0.1")
            before = kernel.dump()
            plan = steps.prepare((CARRIED,), kernel)
            if verb is steps.delete:
                steps.add(plan, kernel)
                kernel.netlink(PLACE).set_link("eth0", mtu=1200, txqlen=7)
            kernel.forget_calls()
            kernel.refuse(call=number, code=errno.EPERM)
            try:
                verb(plan, kernel)
            except (KernelRefused, ExceptionGroup):
                kernel.relent()
                steps.delete(plan, kernel)
            else:
                break
            assert kernel.dump() == before, f"{verb.__name__}, call {number}"
            number += 1
        assert number > 8


# -- a physical interface comes back, whatever became of it


def moved(kernel: Kernel, step: Physical = MOVED) -> steps.Plan:
    plan = steps.prepare((step,), kernel)
    steps.add(plan, kernel)
    assert kernel.netlink().link("wire0") is None
    return plan


def test_a_device_comes_back_from_a_namespace_whose_name_is_gone(kernel: Kernel) -> None:
    before = dump(kernel)
    plan = moved(kernel, CARRIED)
    kernel.delete_netns("c1")
    steps.delete(plan, kernel)
    kernel.create_netns("c1")
    after = dump(kernel)
    assert _host_part(after) == _host_part(before)


def _host_part(found: object) -> object:
    """Without the sandbox, which is a new one."""
    assert isinstance(found, dict)
    return {k: v for k, v in found.items() if PLACE not in str(k)}


@pytest.mark.parametrize("change", ["name", "mac", "alias", "all that is set"])
def test_what_the_containers_root_changed_on_it_is_put_right(kernel: Kernel, change: str) -> None:
    before = dump(kernel)
    plan = moved(kernel)
    there = kernel.netlink(PLACE)
    match change:
        case "name":
            there.move_link("eth0", None, "away0")
            kernel.netlink().move_link("away0", PLACE, "mine0")
        case "mac":
            there.set_link("eth0", mac=FOREIGN_MAC)
        case "alias":
            there.set_alias("eth0", "mine")
        case _:
            there.set_link(
                "eth0", mtu=1200, txqlen=7, promisc=True, allmulti=True, up=True, group=9
            )
            there.add_address("eth0", IPv4Interface("10.7.0.1/24"))
    steps.delete(plan, kernel)
    assert dump(kernel) == before


def test_a_return_that_was_interrupted_is_taken_up_again(kernel: Kernel) -> None:
    """It is on the host again, and not what it was: its alias tells."""
    before = dump(kernel)
    plan = moved(kernel)
    kernel.netlink(PLACE).move_link("eth0", None, "wire0")
    kernel.netlink().set_link("wire0", mtu=1300)
    steps.delete(plan, kernel)
    assert dump(kernel) == before


def test_a_device_that_came_by_itself_under_another_name_is_put_right(kernel: Kernel) -> None:
    """As a physical one does when its namespace dies and its name is taken."""
    if isinstance(kernel, FakeKernel):
        return  # its namespaces know no rename within one
    before = dump(kernel)
    plan = moved(kernel)
    kernel.netlink(PLACE).move_link("eth0", None, "dev3")
    steps.delete(plan, kernel)
    assert dump(kernel) == before


def test_a_device_whose_name_was_taken_meanwhile_waits_until_it_is_free(kernel: Kernel) -> None:
    before = dump(kernel)
    plan = moved(kernel)
    kernel.netlink().add_bridge("wire0", mac=FOREIGN_MAC, mtu=1400)
    with pytest.raises(ExceptionGroup) as caught:
        steps.delete(plan, kernel)
    assert "File exists" in str(caught.value.exceptions[0])
    assert kernel.netlink(PLACE).link("eth0") is not None
    kernel.netlink().delete_link("wire0")
    steps.delete(plan, kernel)
    assert dump(kernel) == before


def test_a_device_that_was_a_bridges_port_is_one_again(kernel: Kernel) -> None:
    kernel.netlink().set_link("wire0", master="br0")
    plan = moved(kernel)
    steps.delete(plan, kernel)
    link = kernel.netlink().link("wire0")
    assert link is not None
    assert link.master == kernel.netlink().index("br0")


def test_vlans_of_a_port_are_those_asked_for_and_not_the_first() -> None:
    """On the twin: it has what this kernel may lack."""
    kernel = FakeKernel()
    netlink = kernel.netlink()
    netlink.add_bridge("br0", mac=MAC, mtu=1500)
    wire = {"mac": MAC, "mtu": 1400, "peer": "far0", "peer_mac": PEER_MAC, "peer_netns": None}
    netlink.add_veth("port0", master="br0", **wire)  # type: ignore[arg-type]
    PortVlans(dev="port0", access=10, trunk=((20, 29),)).add(kernel)
    assert netlink.vlans("port0") == [Vlan(10, 10, True), Vlan(20, 29)]
    netlink.set_link("port0", master="br0")
    PortVlans(dev="port0", access=10, keep_default=True).add(kernel)
    assert netlink.vlans("port0") == [Vlan(1, 1), Vlan(10, 10, True)]


def test_a_mac_that_a_dying_namespace_still_holds_is_waited_for() -> None:
    """On the twin: how long a dead one holds it is for the kernel to say."""
    kernel = FakeKernel()
    kernel.create_netns("c1")
    kernel.netlink(PLACE).add_bridge("eth0", mac=MAC, mtu=1500)
    step = DeviceUp(dev="eth0", at=PLACE)
    for _ in range(3):
        kernel.refuse(method="set_up", code=errno.EADDRINUSE)
    step.add(kernel)
    assert steps.check((step,), kernel) == []
    kernel.refuse(method="set_up", code=errno.EPERM)
    with pytest.raises(KernelRefused, match="Operation not permitted"):
        steps.add((step,), kernel)
