"""What `-o` of the drivers for devices takes, what it makes of it, and what it refuses."""

from __future__ import annotations

import shlex
from ipaddress import ip_address, ip_network

import pytest

from netkit import drivers
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec
from netkit.specs import NetworkSpec
from scenarios.lab import Host, run, snapshot
from tests import goldens
from tests.test_bad_input import HOSTILE
from tests.test_plans import Netkit, dry, netkit

__all__ = ["netkit"]
LAN = (ip_network("10.9.0.0/24"),)
NEEDED = {
    "macvlan": {"parent": "wire0"},
    "ipvlan": {"parent": "wire0"},
    "vlan": {"parent": "wire0", "vlan_id": "10"},
}
# what an option takes, beside what every hostile text is to it
FINE = {
    "multi_queue": {"1", "0", "yes", "no", "true", "false"},
    "preserve_default_vlan": {"1", "0", "yes", "no", "true", "false"},
}


@pytest.fixture
def engine(host: Host) -> Engine:
    run("ip link add wire0 type veth peer name wire1", "ip link set wire0 up")
    return host.engine()


def options() -> list[tuple[str, str]]:
    return [
        (name, option)
        for name in drivers.NAMES
        for option in sorted(drivers.load(name).TRAITS.options or ())
        if name not in ("host", "none")
    ]


@pytest.mark.parametrize(("driver", "option"), options())
def test_hostile_text_is_no_options_value(engine: Engine, driver: str, option: str) -> None:
    """Refused before any effect, in one line that can be printed, with a way out."""
    before = snapshot()
    needed = {} if driver == "physical" else NEEDED.get(driver, {})
    for text in HOSTILE:
        if text in FINE.get(option, ()):
            continue
        given = {**needed, option: text}
        spec = NetworkSpec("town", driver, subnets=LAN, options=given)
        with pytest.raises((InvalidSpec, Conflict)) as caught:
            engine.create_network(spec)
        said, hint = str(caught.value), caught.value.hint
        assert (said.isprintable(), bool(hint), len(said) < 1000) == (True, True, True), repr(text)
    assert snapshot() == before
    assert engine.networks()[0].name == "host"


@pytest.mark.parametrize(
    ("driver", "given", "why"),
    [
        ("macvlan", {"macvlan_mode": "source"}, "invalid macvlan_mode 'source' .*unknown"),
        ("macvlan", {"bcqueuelen": "0"}, "invalid bcqueuelen '0' .*out of range"),
        ("macvlan", {"ipvlan_mode": "l2"}, "unknown option 'ipvlan_mode' of driver macvlan"),
        (
            "macvlan",
            {"host_shim": "10.8.0.9"},
            r"host_shim '10\.8\.0\.9' .*not a host's address in",
        ),
        (
            "macvlan",
            {"host_shim": "10.9.0.1"},
            r"host_shim '10\.9\.0\.1' .*not a host's address in",
        ),
        ("macvlan", {"host_shim": "10.9.0.8,10.9.0.9"}, "two of one version"),
        (
            "macvlan",
            {"host_shim": "10.9.0.9", "macvlan_mode": "private"},
            "in mode private siblings do not meet",
        ),
        ("ipvlan", {"ipvlan_mode": "l4"}, "invalid ipvlan_mode 'l4'"),
        ("ipvlan", {"ipvlan_flag": "passthru"}, "invalid ipvlan_flag 'passthru'"),
        ("vlan", {"parent": "wire0"}, "driver vlan needs the option vlan_id"),
        ("vlan", {"vlan_id": "10"}, "driver vlan needs the option parent"),
        ("vlan", {"parent": "wire0", "vlan_id": "0"}, "invalid vlan_id '0' .*out of range"),
        ("vlan", {"parent": "wire0", "vlan_id": "4095"}, "invalid vlan_id '4095'"),
        ("dummy", {"parent": "wire0"}, "unknown option 'parent' of driver dummy"),
        ("tap", {"owner": "4294967295"}, "not a number"),
        ("tap", {"owner": "root"}, "invalid owner 'root': not a number"),
        ("tap", {"selinux_context": "a:b:c"}, "selinux_context 'a:b:c' .*not supported"),
        ("physical", {}, "driver physical needs the option device"),
        ("physical", {"device": "a0", "mac": "02:00:00:00:00:01"}, "device and mac are given"),
        ("physical", {"device": "lo"}, "invalid interface name 'lo'"),
        ("physical", {"mac": "ff:ff:ff:ff:ff:ff"}, "marks a multicast group"),
        ("physical", {"pci": "03:00.0"}, r"invalid pci '03:00\.0'"),
        ("physical", {"pci": "0000:03:00.8"}, "invalid pci"),
        ("physical", {"kernelpath": "/sys/class/net/eth0"}, "invalid kernelpath"),
        ("physical", {"kernelpath": "/sys/devices/../../etc"}, "invalid kernelpath"),
        ("bridge", {"vlan": "4095"}, "invalid vlan '4095'"),
        ("bridge", {"vlan_trunk": "20-10"}, "'20-10' is no range of 1-4094"),
        ("bridge", {"vlan_trunk": "20-30,25"}, "25 is in it twice"),
        ("bridge", {"vlan_trunk": "1,,2"}, "invalid vlan_trunk"),
        ("bridge", {"preserve_default_vlan": "true"}, "there is no other VLAN"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    engine: Engine, driver: str, given: dict[str, str], why: str
) -> None:
    before = snapshot()
    with pytest.raises(InvalidSpec, match=why) as caught:
        engine.create_network(NetworkSpec("town", driver, subnets=LAN, options=given))
    assert caught.value.hint
    assert snapshot() == before


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"icc": False}, "no use for --icc=false"),
        ({"host_binding": ip_address("127.0.0.1")}, "no use for --host-ip"),
        ({"gateway_modes": {4: "routed"}}, "no use for a gateway mode"),
        ({"sources": (ip_address("192.0.2.1"),)}, "no use for an address to be seen by"),
        ({"bridge": "br9"}, "cannot use the bridge 'br9': driver macvlan has none"),
    ],
)
def test_what_no_macvlan_can_do_is_refused_and_not_ignored(
    engine: Engine, wanted: dict[str, object], why: str
) -> None:
    spec = NetworkSpec("town", "macvlan", subnets=LAN, options={"parent": "wire0"}, **wanted)  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec, match=why):
        engine.create_network(spec)


@pytest.mark.parametrize(
    ("driver", "given", "kept"),
    [
        ("macvlan", {"parent": "wire0"}, {"parent": "wire0", "macvlan_mode": "bridge"}),
        ("vlan", {"parent": "wire0", "vlan_id": "007"}, {"parent": "wire0", "vlan_id": "7"}),
        ("tap", {}, {"multi_queue": "false"}),
        ("physical", {"mac": "02-AA-00-00-00-01"}, {"mac": "02:aa:00:00:00:01"}),
        ("physical", {"pci": "0000:1F:00.0"}, {"pci": "0000:1f:00.0"}),
    ],
)
def test_inspect_shows_the_options_that_hold(
    engine: Engine, driver: str, given: dict[str, str], kept: dict[str, str]
) -> None:
    net = engine.create_network(NetworkSpec("town", driver, subnets=LAN, options=given))
    assert engine.network("town").options == net.options == kept


def test_an_mtu_that_is_not_asked_for_is_the_parents(engine: Engine) -> None:
    run("ip link set wire0 mtu 1300")
    spec = NetworkSpec("town", "macvlan", subnets=LAN, options={"parent": "wire0"})
    engine.create_network(spec)
    one = engine.connect("town", name="one")
    assert "mtu 1300" in run("ip link show eth0", place=one.netns)


# -- plans, word for word; also of what this kernel lacks: a dry run asks nothing of it

CREATE = "network create --subnet 10.9.0.0/24 --subnet fd09::/64 --ipv6"
CONNECT = "connect --net lan --name c1"
PLANS = {
    "macvlan": (CREATE, "-d macvlan -o parent=wire0 -o host_shim=10.9.0.200", CONNECT),
    "macvlan-on-a-vlan": (CREATE, "-d macvlan -o parent=wire0.10 -o macvlan_mode=vepa", ""),
    "macvlan-internal": (CREATE, "-d macvlan --internal", ""),
    "ipvlan": (CREATE, "-d ipvlan -o parent=wire0 -o ipvlan_flag=private", CONNECT),
    "ipvlan-l3": (CREATE, "-d ipvlan -o parent=wire0 -o ipvlan_mode=l3", CONNECT),
    "vlan": (CREATE, "-d vlan -o parent=wire0 -o vlan_id=10", CONNECT),
    "dummy": ("network create --subnet 172.29.0.0/24", "-d dummy", CONNECT),
    "tap": ("network create --subnet 172.29.0.0/24", "-d tap -o owner=1000", CONNECT),
    "physical": ("network create", "-d physical -o device=wire0", CONNECT),
    "physical-leased": (
        "network create --subnet 10.9.0.0/24",
        "-d physical -o device=wire0",
        CONNECT,
    ),
    "bridge-vlans": (
        "network create --subnet 172.29.0.0/24",
        "-o vlan=10 -o vlan_trunk=20-29,40 -o vrf=red",
        "",
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_for_devices_prints_as_it_always_did(netkit: Netkit, name: str) -> None:
    wire()
    netkit("network create --subnet 172.30.0.0/24 first")  # it has the tables, and forwarding
    create, how, then = PLANS[name]
    lines = f"{create} {how} lan"
    printed = f"# netkit {lines}\n{netkit(dry(lines))}"
    if then:
        netkit(lines)
        printed += f"# netkit {then}\n{netkit(dry(then))}"
    goldens.same(f"{name}.txt", printed)


def wire() -> None:
    run(
        "ip link add wire0 address 02:66:00:00:00:01 type veth peer name wire1",
        "ip link set wire1 up",
        "ip link set wire0 mtu 1400 alias 'my card' addrgenmode none up",
        "ip addr add 10.9.0.1/24 dev wire0",
        "ip route add 10.99.0.0/16 via 10.9.0.254",
    )


def test_every_plan_is_one_a_shell_can_read() -> None:
    for name in PLANS:
        text = (goldens._DIRECTORY / f"{name}.txt").read_text()
        shlex.split(text.replace("<<'END'", "").replace("# netkit", "netkit"))
