"""Every step, on the twin in memory and on the real kernel: its verbs, its text, its manners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

import pytest

from netkit import steps
from netkit.errors import Conflict, Drift, KernelRefused
from netkit.firewall import (
    Closed,
    Guard,
    Isolate,
    Learnt,
    Masquerade,
    NoHost,
    Obstacle,
    Publish,
    libnftables,
)
from netkit.firewall.nftables import Nftables
from netkit.firewall.none import NoFirewall
from netkit.kernel import Kernel, netns
from netkit.steps import (
    Address,
    Alias,
    Announce,
    BackEnd,
    BindMount,
    Bridge,
    DefaultRoute,
    Directory,
    Exchange,
    File,
    Forget,
    Forwarding,
    Hear,
    HostsEntry,
    Isolation,
    LinkNames,
    LinkUp,
    Localnet,
    Nameserver,
    Netns,
    NoAddress,
    NoRoute,
    NoTransit,
    OwnMac,
    Pair,
    Passage,
    Policy,
    Port,
    PortFlag,
    PortReady,
    Proxy,
    Ready,
    Rewrite,
    Route,
    RuleFrom,
    Rules,
    Standby,
    Step,
    Sysctl,
    Tables,
    Veth,
)
from scenarios.lab import Host, inside, run, snapshot
from tests import goldens
from tests.fakes import FakeKernel

PLACE = netns.named("c1")
MAC, PORT_MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02", "02:42:0a:58:00:02"
FOREIGN_MAC = "02:00:00:00:00:99"
WEB, WEB6 = IPv4Address("10.88.0.2"), IPv6Address("fd00:88::2")
NET, NET6 = IPv4Network("10.88.0.0/24"), IPv6Network("fd00:88::/64")
ETC = "/etc/netns/c1"
# in the order a network, a namespace and its endpoint are made: each stands on those before it
PLAN: tuple[Step, ...] = (
    Tables(),
    NoTransit(version=4),
    Sysctl(key="net/ipv4/ip_forward", value="1"),
    Forwarding(version=6),
    Bridge(name="br0", mac=MAC, mtu=1500, alias="netkit:net"),
    Alias(dev="br0", alias="netkit:net"),
    Localnet(key="net/ipv4/conf/br0/route_localnet", value="1", dev="br0"),
    Rules(rules=(Isolate("br0", (NET, NET6)), Masquerade("br0"), Masquerade("br0", 6))),
    Address(dev="br0", address=IPv4Interface("10.88.0.1/24")),
    Address(dev="br0", address=IPv6Interface("fd00:88::1/64")),
    LinkUp(dev="br0", fresh=True),
    Netns(name="c1"),
    LinkUp(dev="lo", at=PLACE),
    Directory(path="/etc/netns"),
    Directory(path=ETC),
    File(path=f"{ETC}/hosts", content="127.0.0.1\tlocalhost\n"),
    HostsEntry(path=f"{ETC}/hosts", address=WEB, names=("c1.example", "c1")),
    Rules(
        rules=(
            Guard("veth1", PEER_MAC, (WEB, WEB6)),
            Publish(None, 8080, WEB, 80, "tcp"),
            Publish(IPv4Address("127.0.0.1"), 9000, WEB, 9000, "udp", 10),
        )
    ),
    Veth(
        name="veth1",
        mac=PORT_MAC,
        mtu=1500,
        master="br0",
        peer="eth0",
        peer_mac=PEER_MAC,
        at=PLACE,
        alias="netkit:ep",
    ),
    Port(dev="veth1", alias="netkit:ep", isolated=True),
    Sysctl(key="net/ipv6/conf/eth0/accept_ra", value="0", dev="eth0", at=PLACE),
    Address(dev="eth0", address=IPv4Interface("10.88.0.2/24"), at=PLACE),
    Address(dev="eth0", address=IPv6Interface("fd00:88::2/64"), at=PLACE),
    LinkUp(dev="eth0", at=PLACE, fresh=True),
    PortReady(dev="veth1"),
    Announce(dev="eth0", at=PLACE, mac=PEER_MAC, addresses=(WEB, WEB6)),
    Route(dev="eth0", table=70000, at=PLACE, dst=IPv4Network("10.88.0.0/24")),
    Route(dev="eth0", table=70000, at=PLACE, gateway=IPv4Address("10.88.0.1")),
    RuleFrom(address=IPv4Address("10.88.0.2"), table=70000, at=PLACE),
    Route(dev="eth0", table=70000, at=PLACE, dst=NET6),
    RuleFrom(address=WEB6, table=70000, at=PLACE),
    DefaultRoute(dev="eth0", gateway=IPv4Address("10.88.0.1"), at=PLACE),
    DefaultRoute(dev="eth0", gateway=IPv6Address("fd00:88::1"), at=PLACE),
    Route(
        dev="eth0",
        at=PLACE,
        dst=IPv4Network("10.7.0.0/16"),
        gateway=IPv4Address("10.88.0.9"),
        metric=77,
        mtu=1400,
        source=WEB,
    ),
    Route(at=PLACE, dst=IPv4Network("10.8.0.0/16"), kind="blackhole", metric=5),
    Policy(table=100, at=PLACE, source=NET, to=IPv4Network("10.7.0.0/16"), priority=50),
    Policy(table=100, at=PLACE, iif="eth0", mark=1, mask=255, version=6),
    Pair(
        name="veth2",
        mac="02:42:00:00:00:04",
        mtu=1400,
        peer="eth1",
        peer_mac="02:42:00:00:00:05",
        peer_at=PLACE,
        alias="netkit:link",
    ),
    Alias(dev="eth1", alias="netkit:link", at=PLACE),
    LinkUp(dev="eth1", at=PLACE, fresh=True),
    Address(dev="eth1", at=PLACE, address=IPv4Interface("10.5.0.1/24"), alone=True),
    Address(dev="eth1", at=PLACE, address=IPv6Interface("fd05::1/64"), alone=True),
    Route(dev="eth1", at=PLACE, dst=IPv4Network("10.5.0.0/24"), scope=253, protocol=4, beside=True),
    Ready(dev="veth2"),
    Ready(dev="eth0", at=PLACE, addresses=(WEB6,)),
)
TAKEN: tuple[Step, ...] = (
    NoAddress(dev="eth0", address=IPv6Interface("fd00:88::2/64"), at=PLACE),
    NoRoute(dev="eth0", dst=IPv4Network("10.7.0.0/16"), gateway=IPv4Address("10.88.0.9"), at=PLACE),
)
WITHOUT_TRACE = (PortReady, Ready, Announce)
HOST = 4  # what the host is asked for: steps that look first
SWITCH, BRIDGE, LOOPBACK, FILES, RULES, VETH = (
    PLAN[2],
    PLAN[HOST],
    PLAN[12],
    PLAN[13:16],
    PLAN[17],
    PLAN[18],
)
REWRITE = Rewrite(
    path=f"{ETC}/resolv.conf",
    content="nameserver 10.88.0.1\noptions ndots:0\n",
    was="nameserver 9.9.9.9\n",
    sandbox="5eed" * 16,
)
EXCHANGE = Exchange(
    gone=(Isolate("br0", (NET,)), NoHost("br0")),
    added=(Isolate("br0", (NET,), icc=False), Closed("veth1", "br0", PEER_MAC)),
)
NAMESERVER = Nameserver(
    path="/etc/resolv.conf", server="127.78.75.53", real="/run/resolv.conf", was="search corp\n"
)
BIND = BindMount(source=f"{ETC}/hosts", target="/etc/hosts", mnt="/proc/1/ns/mnt")
IDS = [f"{number}-{type(step).__name__}" for number, step in enumerate(PLAN)]
each = pytest.mark.parametrize("number", range(len(PLAN)), ids=IDS)


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest, host: Host) -> Iterator[Kernel]:
    """An empty machine; what is added to it is read by `dump`."""
    with FakeKernel() if request.param == "fake" else Kernel(Nftables()) as kernel:
        if isinstance(kernel, FakeKernel):
            kernel.directories.add("/etc")
            kernel.netlink().set_up("lo")
        yield kernel
    libnftables.forget()


def dump(kernel: Kernel) -> object:
    if isinstance(kernel, FakeKernel):
        return kernel.dump()
    found = snapshot() | {"/etc/netns": str(kernel.exists("/etc/netns"))}
    if kernel.exists(PLACE):
        found |= {f"inside: {what}": text for what, text in inside(PLACE).items()}
    return found


def broken(step: Step, kernel: Kernel) -> bool:
    return bool(steps.check((step,), kernel))


def prepared(number: int, kernel: Kernel) -> Step:
    """Step *number*, all before it added."""
    for step in PLAN[:number]:
        ready = step.prepare(kernel)
        assert ready is not None
        ready.add(kernel)
    ready = PLAN[number].prepare(kernel)
    assert ready is not None
    return ready


# -- the verbs


@each
def test_a_step_comes_holds_and_goes_without_a_trace(kernel: Kernel, number: int) -> None:
    step = prepared(number, kernel)
    before = dump(kernel)
    step.delete(kernel)  # deleted before it was added: nothing to do
    assert dump(kernel) == before
    assert broken(step, kernel) or type(step).check is Step.check
    step.add(kernel)
    assert not broken(step, kernel)
    there = dump(kernel)
    assert (there == before) == isinstance(step, WITHOUT_TRACE)
    step.delete(kernel)
    step.delete(kernel)
    assert dump(kernel) == (there if _goes_with_its_link(step) else before)


def _goes_with_its_link(step: Step) -> bool:
    return isinstance(step, LinkUp | Alias | Port) or (isinstance(step, Sysctl) and bool(step.dev))


@each
def test_to_prepare_a_step_changes_nothing(number: int) -> None:
    kernel = FakeKernel()
    kernel.directories.add("/etc")
    step = prepared(number, kernel)
    before = kernel.dump()
    assert step.prepare(kernel) is not None
    assert kernel.dump() == before


@each
def test_a_step_is_deleted_from_a_machine_that_has_forgotten_it_all(
    kernel: Kernel, number: int
) -> None:
    before = dump(kernel)
    PLAN[number].delete(kernel)
    assert dump(kernel) == before


def test_what_was_added_is_gone_in_one_go_and_check_holds_in_between(kernel: Kernel) -> None:
    before = dump(kernel)
    plan = steps.prepare(PLAN[:HOST], kernel)
    steps.add(plan, kernel)
    rest = PLAN[HOST:]
    steps.add(rest, kernel)
    assert steps.check((*plan, *rest), kernel) == []
    steps.delete((*plan, *rest), kernel)
    assert dump(kernel) == before
    assert len(steps.check((*plan, *rest), kernel)) > 5


@each
def test_a_plan_whose_step_is_refused_leaves_nothing_and_names_the_step(number: int) -> None:
    """On the twin: it can refuse whichever step."""
    kernel = FakeKernel()
    kernel.directories.add("/etc")
    plan = steps.prepare(PLAN[:HOST], kernel) + PLAN[HOST:]
    calls_of: list[int] = []
    for step in plan:
        calls_of.append(len(kernel.calls))
        step.add(kernel)
    steps.delete(plan, kernel)
    kernel.forget_calls()
    before = kernel.dump()
    first = calls_of[0]
    kernel.refuse(call=calls_of[number] - first)
    with pytest.raises(KernelRefused) as caught:
        steps.add(plan, kernel)
    line = steps._one_line(str(plan[number])).replace("\t", "\\t")
    assert f"the kernel refused `{line}`: Device or resource busy" in str(caught.value)
    assert kernel.dump() == before
    steps.add(plan, kernel)


@pytest.mark.parametrize("step", TAKEN, ids=["address", "route"])
def test_what_is_taken_away_comes_back(kernel: Kernel, step: Step) -> None:
    kernel.create_netns("c1")
    kernel.netlink().add_veth(
        "veth1", mac=MAC, mtu=1500, peer="eth0", peer_mac=PEER_MAC, peer_netns=PLACE
    )
    netlink = kernel.netlink(PLACE)
    netlink.set_up("eth0")
    netlink.add_address("eth0", IPv4Interface("10.88.0.2/24"))
    netlink.add_address("eth0", IPv6Interface("fd00:88::2/64"))
    netlink.add_route("eth0", IPv4Network("10.7.0.0/16"), "10.88.0.9")
    before = dump(kernel)
    step.delete(kernel)  # it is there: nothing to do
    assert dump(kernel) == before
    assert broken(step, kernel) or type(step).check is Step.check
    step.add(kernel)
    step.add(kernel)
    assert not broken(step, kernel)
    assert dump(kernel) != before
    step.delete(kernel)
    step.delete(kernel)
    assert dump(kernel) == before
    kernel.delete_netns("c1")
    step.delete(kernel)


# -- text


def test_the_stable_text_of_every_step_is_what_it_always_was() -> None:
    """Records outlive upgrades: what an older netkit wrote must still be read, and undone."""
    everything = (
        *PLAN,
        BIND,
        Sysctl(key="net/ipv4/ip_forward", value="1", was="0"),
        DefaultRoute(
            dev="eth1",
            gateway=IPv4Address("10.89.0.1"),
            at=PLACE,
            was_dev="eth0",
            was_gateway=IPv4Address("10.88.0.1"),
        ),
        Forwarding(was={"net/ipv4/conf/all/accept_redirects": "0"}),
        OwnMac(dev="br7", mac="02:42:00:00:00:07"),
        LinkUp(dev="br7", back=True),
        Passage(
            dev="br7",
            obstacles=(
                Obstacle(
                    program="iptables-nft",
                    family="ip",
                    table="filter",
                    chain="FORWARD",
                    into="DOCKER-USER",
                ),
            ),
        ),
        BackEnd(name="iptables", rules=(Masquerade("br7"),)),
        Proxy(lock="/run/netkit/proxy-5", dev="veth1", ports=("tcp/[::1]:8080=10.88.0.2:80",)),
        *TAKEN,
        PortFlag(dev="veth7", flag="hairpin", was=True),
        Hear(chain="CNI-ADMIN", make=True, programs=("iptables", "ip6tables")),
        Standby(rules=(Publish(None, 8080, IPv4Address("10.88.0.2"), 80, "tcp"),)),
        REWRITE,
        NAMESERVER,
        LinkNames(dev="netkit-dns", server="127.78.75.53", domains=("web",)),
        EXCHANGE,
        Isolation(dev="veth1", on=True),
        Forget(addresses=(WEB, WEB6)),
    )
    text = "".join(steps.encode([step]) + "\n" for step in everything)
    goldens.same("steps.json", text)
    assert tuple(steps.decode(line)[0] for line in text.splitlines()) == everything
    # tests/test_devices.py
    elsewhere = {f"netkit.steps.{name}" for name in ("devices", "physical", "programs", "shaping")}
    known = {kind for kind in steps.AnyStep.__args__ if kind.__module__ not in elsewhere}
    assert {type(step) for step in everything} == known


def test_a_plan_survives_its_text() -> None:
    assert steps.decode(steps.encode(PLAN)) == PLAN
    assert steps.encode(steps.decode(steps.encode(PLAN))) == steps.encode(PLAN)


def test_fields_of_a_later_version_are_ignored() -> None:
    text = steps.encode([BRIDGE]).replace('"mtu"', '"colour":"red","mtu"')
    assert steps.decode(text) == (BRIDGE,)


@each
def test_a_step_prints_as_a_line_and_so_does_its_undoing(number: int) -> None:
    step = PLAN[number]
    assert str(step).split()[0] in (
        "ip", "nft", "sysctl", "mkdir", "cat", "echo", "timeout",
    )  # fmt: skip
    assert step.undo() == "" or step.undo().split()[0] in (
        "ip",
        "nft",
        "sysctl",
        "rmdir",
        "rm",
        "grep",
    )


# -- what changes of live endpoints


def test_rules_give_way_to_others_and_what_both_say_stays(kernel: Kernel) -> None:
    kernel.firewall.open()
    kernel.firewall.add(EXCHANGE.gone)
    before = dump(kernel)
    for _ in range(2):
        EXCHANGE.add(kernel)
        assert not kernel.firewall.check(EXCHANGE.added)
        assert kernel.firewall.check([NoHost("br0")])
        EXCHANGE.delete(kernel)
        EXCHANGE.delete(kernel)
        assert dump(kernel) == before
    kernel.firewall.delete([NoHost("br0")])  # somebody was quicker
    EXCHANGE.add(kernel)
    assert not kernel.firewall.check(EXCHANGE.added)


def test_an_exchange_prints_what_differs_as_one_transaction() -> None:
    assert str(EXCHANGE).splitlines() == [
        "nft -f - <<'END'",
        'delete element inet netkit same { "br0" . "br0" }',
        'delete element inet netkit hostless { "br0" }',
        'add element inet netkit switched { "br0" . "br0" }',
        *Nftables().lines(EXCHANGE.added[1:]),
        "END",
    ]
    assert 'add element inet netkit hostless { "br0" }' in EXCHANGE.undo()


def test_a_port_is_isolated_by_its_bridge_where_no_firewall_sees_it(host: Host) -> None:
    run("ip link add br0 type bridge", "ip link add veth1 type veth peer name eth0")
    run("ip link set veth1 master br0")
    step = Isolation(dev="veth1", on=True)
    flags = "bridge -d link show dev veth1"
    with Kernel(Nftables()) as kernel:
        step.add(kernel)
        assert "isolated off" in run(flags)
        assert (step.line(kernel.firewall), step.undo_line(kernel.firewall)) == ("", "")
    with Kernel(NoFirewall()) as kernel:
        step.add(kernel)
        assert "isolated on" in run(flags)
        step.delete(kernel)
        assert "isolated off" in run(flags)
        assert step.line(kernel.firewall) == "bridge link set dev veth1 isolated on"
        run("ip link del veth1")
        step.delete(kernel)


def test_what_was_learnt_is_forgotten_of_these_addresses_and_no_other(kernel: Kernel) -> None:
    kernel.firewall.open()
    there = [Learnt(WEB, IPv4Address("192.0.2.1"), 90, port) for port in (None, 443)]
    there += [Learnt(WEB6, IPv6Address("2001:db8::1"), 90, 443, "tcp")]
    other = [Learnt(IPv4Address("10.88.0.22"), IPv4Address("192.0.2.1"), 90)]
    other += [Learnt(IPv4Address("110.88.0.2"), IPv4Address("192.0.2.1"), 90)]
    kernel.firewall.add([*there, *other])
    Forget(addresses=(WEB, WEB6)).delete(kernel)
    assert all(kernel.firewall.check([rule]) for rule in there)
    assert not kernel.firewall.check(other)


# -- a file that is written anew


@pytest.fixture
def resolv_conf(kernel: Kernel) -> str:
    """A file of ours that says what it said last."""
    kernel.make_directory(ETC)
    kernel.write_file(REWRITE.path, REWRITE.was)
    return REWRITE.path


def test_a_file_is_written_anew_and_back_in_place(kernel: Kernel, resolv_conf: str) -> None:
    before = dump(kernel)
    inode = os.stat(resolv_conf).st_ino if os.path.exists(resolv_conf) else 0
    step = REWRITE.prepare(kernel)
    assert step == REWRITE
    step.add(kernel)
    assert kernel.read_file(resolv_conf) == REWRITE.content
    assert inode == (os.stat(resolv_conf).st_ino if inode else 0)
    step.delete(kernel)
    assert dump(kernel) == before


@pytest.mark.parametrize("when", ["before", "meanwhile", "after"])
def test_a_file_somebody_edited_is_left_alone(kernel: Kernel, resolv_conf: str, when: str) -> None:
    def edit() -> None:
        kernel.edit_file(resolv_conf, lambda text: text + "# mine\n")

    if when == "before":
        edit()
        assert REWRITE.prepare(kernel) is None
    if when == "meanwhile":
        edit()
    REWRITE.add(kernel)
    if when == "after":
        edit()
    REWRITE.delete(kernel)
    text = REWRITE.content if when == "after" else REWRITE.was
    assert kernel.read_file(resolv_conf) == text + "# mine\n"


def test_whose_writer_was_killed_in_the_midst_of_it_is_not_edited(
    kernel: Kernel, resolv_conf: str
) -> None:
    """The new text is there in one piece; what is left to cut off are empty lines."""
    kernel.edit_file(resolv_conf, lambda text: text + "\n\n\n")
    REWRITE.add(kernel)
    assert kernel.read_file(resolv_conf) == REWRITE.content


def test_a_file_that_is_gone_is_not_made(kernel: Kernel, resolv_conf: str) -> None:
    kernel.remove_file(resolv_conf)
    assert REWRITE.prepare(kernel) is None
    REWRITE.add(kernel)
    REWRITE.delete(kernel)
    assert not kernel.exists(resolv_conf)


# -- manners: only what is ours


@pytest.mark.parametrize("kind", ["bridge", "veth"])
def test_a_foreign_link_of_the_same_name_survives_the_undoing(kernel: Kernel, kind: str) -> None:
    kernel.create_netns("c1")
    netlink = kernel.netlink()
    if kind == "bridge":
        netlink.add_bridge("br0", mac=FOREIGN_MAC, mtu=1500)
        netlink.add_bridge("veth1", mac=FOREIGN_MAC, mtu=1500)
    else:
        netlink.add_bridge("other", mac=MAC, mtu=1500)
        for name, peer in (("br0", "a"), ("veth1", "b")):
            netlink.add_veth(
                name,
                mac=FOREIGN_MAC,
                mtu=1500,
                master="other",
                peer=peer,
                peer_mac=PEER_MAC,
                peer_netns=PLACE,
            )
    before = dump(kernel)
    BRIDGE.delete(kernel)
    VETH.delete(kernel)
    assert dump(kernel) == before


def test_a_link_whose_mac_was_changed_is_still_ours_by_its_alias(kernel: Kernel) -> None:
    kernel.netlink().add_bridge("br0", mac=FOREIGN_MAC, mtu=1500)
    kernel.netlink().set_alias("br0", "netkit:net")
    BRIDGE.delete(kernel)
    assert kernel.netlink().link("br0") is None


def test_a_bridge_does_not_take_a_name_that_is_taken(kernel: Kernel) -> None:
    kernel.netlink().add_bridge("br0", mac=FOREIGN_MAC, mtu=1500)
    with pytest.raises(Conflict, match="'br0' exists already"):
        BRIDGE.prepare(kernel)


def test_a_namespace_does_not_take_a_name_that_is_taken(kernel: Kernel) -> None:
    kernel.create_netns("c1")
    with pytest.raises(Conflict, match="'c1' exists already"):
        Netns(name="c1").prepare(kernel)


def test_tables_that_are_there_already_are_not_taken_over(kernel: Kernel) -> None:
    kernel.firewall.open()
    with pytest.raises(Conflict, match="another state directory"):
        Tables().prepare(kernel)


def test_a_sysctl_that_is_as_wanted_is_not_ours_to_put_back(kernel: Kernel) -> None:
    kernel.set_sysctl("net/ipv4/ip_forward", "1")
    assert SWITCH.prepare(kernel) is None


def test_a_sysctl_is_put_back_only_while_it_is_still_ours(kernel: Kernel) -> None:
    key = "net/ipv4/conf/lo/rp_filter" if not isinstance(kernel, FakeKernel) else "fake"
    if isinstance(kernel, FakeKernel):
        kernel.space(None).sysctls[key] = "0"
    kernel.set_sysctl(key, "0")
    step = Sysctl(key=key, value="1").prepare(kernel)
    assert step is not None
    step.add(kernel)
    kernel.set_sysctl(key, "2")  # somebody else's wish
    assert broken(step, kernel)
    step.delete(kernel)
    assert kernel.sysctl(key) == "2"
    kernel.set_sysctl(key, "1")
    step.delete(kernel)
    assert kernel.sysctl(key) == "0"


def test_a_file_that_was_there_is_neither_written_nor_removed(kernel: Kernel) -> None:
    kernel.make_directory(ETC)
    kernel.write_file(f"{ETC}/hosts", "theirs\n")
    before = dump(kernel)
    assert FILES[1].prepare(kernel) is None
    assert FILES[2].prepare(kernel) is None
    with pytest.raises(KernelRefused, match="File exists"):
        steps.add((FILES[2],), kernel)
    assert dump(kernel) == before


def test_a_directory_with_a_file_of_somebody_elses_in_it_stays(kernel: Kernel) -> None:
    plan = steps.prepare(FILES, kernel)
    steps.add(plan, kernel)
    kernel.write_file(f"{ETC}/nsswitch.conf", "theirs\n")
    steps.delete(plan, kernel)
    assert kernel.exists(f"{ETC}/nsswitch.conf")
    assert not kernel.exists(f"{ETC}/hosts")


def test_an_interface_that_is_up_is_left_alone(kernel: Kernel) -> None:
    kernel.create_netns("c1")
    assert LOOPBACK.prepare(kernel) is not None
    kernel.netlink(PLACE).set_up("lo")
    assert LOOPBACK.prepare(kernel) is None


def test_a_bind_mount_is_undone_only_if_it_is_ours() -> None:
    kernel = FakeKernel()
    BIND.add(kernel)
    assert kernel.mounts
    BIND.delete(kernel)
    assert not kernel.mounts
    kernel.inject(BIND.mnt, "/theirs", BIND.target)
    BIND.delete(kernel)
    assert kernel.mounts


# -- a step happens or it does not


def test_a_step_of_two_parts_whose_second_is_refused_leaves_nothing_of_the_first() -> None:
    kernel = FakeKernel()
    kernel.firewall.open()
    before = kernel.dump()
    kernel.refuse(method="forget_flows")
    with pytest.raises(KernelRefused):
        steps.add((RULES,), kernel)
    assert kernel.dump() == before


def test_a_file_whose_disk_is_full_is_not_left_half_written(host: Host) -> None:
    run(f"mkdir {host.base}/small", f"mount -t tmpfs -o size=4k none {host.base}/small")
    try:
        step = File(path=f"{host.base}/small/hosts", content="x" * 100_000)
        with Kernel(Nftables()) as kernel, pytest.raises(KernelRefused, match="No space left"):
            steps.add((step,), kernel)
        assert run(f"ls {host.base}/small") == ""
    finally:
        run(f"umount {host.base}/small")


def test_an_interrupt_in_the_midst_of_a_step_is_undone_too() -> None:
    """^C may come when the kernel has done its part and we have not heard of it yet."""

    class Interrupted(FakeKernel):
        def set_sysctl(self, key: str, value: str, at: str | None = None) -> None:
            super().set_sysctl(key, value, at)
            if value == "1":
                raise KeyboardInterrupt

    kernel = Interrupted()
    before = kernel.dump()
    with pytest.raises(KeyboardInterrupt):
        steps.add(steps.prepare((SWITCH,), kernel), kernel)
    assert kernel.dump() == before


def test_drift_is_said_in_one_sentence_each(kernel: Kernel) -> None:
    steps.add(steps.prepare(PLAN[:HOST], kernel) + PLAN[HOST:], kernel)
    kernel.netlink().delete_link("veth1")
    drifts = steps.check(PLAN, kernel)
    assert {type(drift) for drift in drifts} == {Drift}
    assert not any("\n" in str(drift) for drift in drifts)
    assert "interface veth1 is gone" in map(str, drifts)
