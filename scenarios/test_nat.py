"""Networks and their endpoints as a user meets them: rows B1-B11, B23, C1-C20, D1-D3 and F30."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network
from typing import Any, NamedTuple

import pytest

from netkit import naming
from netkit.engine import Engine
from netkit.errors import Exhausted, InvalidSpec
from netkit.kernel import netns
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, Host, join, netkit, ready, run, snapshot, until

OURS, THEIRS = "10.9.0.1", "10.9.0.2"  # the host's address on the LAN, and its neighbour's
FORWARD = "net.ipv4.ip_forward"


class Town(NamedTuple):
    host: Host
    engine: Engine
    lan: str

    def network(self, name: str, subnet: str = "172.25.0.0/24", **given: Any) -> str:
        """A network; its bridge."""
        spec = NetworkSpec(name, subnets=(IPv4Network(subnet),), **given)
        return self.engine.create_network(spec).bridge


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")
    return Town(host, host.engine(), lan)


@contextmanager
def process(*words: str) -> Iterator[int]:
    """Somebody's process in a network namespace of its own; its pid."""
    command = ["unshare", "--net", "sh", "-c", 'echo; exec "$@"', "sh", *(words or ("sleep", "60"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it is where it belongs now
        try:
            yield child.pid
        finally:
            child.kill()


def links(place: str | None = None) -> dict[str, dict[str, Any]]:
    """`ip link` of a place, by name."""
    return {link["ifname"]: link for link in json.loads(run("ip -j -d link", place=place))}


def default_routes(place: str) -> list[str]:
    return [line.split()[2] for line in run("ip route show default", place=place).splitlines()]


# -- the way out


@each
def test_d1_what_leaves_bears_the_hosts_address(town: Town) -> None:
    """That of the interface it leaves by; what stays on the network keeps its own."""
    wan = town.host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    town.network("out")
    a, b = (join(town.engine, "out", name) for name in ("a", "b"))
    with town.host.serve(town.lan, "tcp", 80), town.host.serve(wan, "udp", 53):
        assert town.host.ask(a, THEIRS, 80) == OURS
        assert town.host.ask(a, "10.8.0.2", 53, "udp") == "10.8.0.1"
    with town.host.serve(b, "tcp", 80), town.host.serve(None, "tcp", 81):
        assert town.host.ask(a, "172.25.0.3", 80) == "172.25.0.2"
        assert town.host.ask(a, "172.25.0.1", 81) == "172.25.0.2"


@each
def test_d2_without_masquerade_what_leaves_keeps_its_source(town: Town) -> None:
    netkit("network create --no-ip-masq --subnet 172.25.0.0/24 plain")
    netkit("network create -o com.docker.network.bridge.enable_ip_masquerade=false plain2")
    a, b = join(town.engine, "plain", "a"), join(town.engine, "plain2", "b")
    with town.host.serve(town.lan, "tcp", 80):
        assert town.host.ask(a, THEIRS, 80) == "172.25.0.2"
        assert town.host.ask(b, THEIRS, 80) == "172.17.0.2"


def test_d3_forwarding_is_switched_on_and_off_again_with_the_last_network(town: Town) -> None:
    run(f"sysctl -qw {FORWARD}=0")
    town.network("one")
    town.network("two", "172.26.0.0/24")
    assert run(f"sysctl -n {FORWARD}") == "1\n"
    town.engine.delete_network("one")
    assert run(f"sysctl -n {FORWARD}") == "1\n"
    town.engine.delete_network("two")
    assert run(f"sysctl -n {FORWARD}") == "0\n"


def test_d3_forwarding_that_was_on_stays_on(town: Town) -> None:
    run(f"sysctl -qw {FORWARD}=1")
    town.network("one")
    town.engine.delete_network("one")
    assert run(f"sysctl -n {FORWARD}") == "1\n"


def test_d3_forwarding_that_somebody_else_has_set_since_is_left(town: Town) -> None:
    run(f"sysctl -qw {FORWARD}=0")
    town.network("one")
    run(f"sysctl -qw {FORWARD}=2")  # any but 0 means on, so we can tell it from ours
    town.engine.delete_network("one")
    assert run(f"sysctl -n {FORWARD}") == "2\n"


def test_l6_what_the_kernel_sets_along_with_forwarding_is_put_back(town: Town) -> None:
    """Of each interface, and whether redirects are heeded: as somebody had set them before."""
    run(
        f"sysctl -qw {FORWARD}=0",
        "sysctl -qw net.ipv4.conf.all.accept_redirects=0",
        "sysctl -qw net.ipv4.conf.lan0.forwarding=1",
    )
    before = snapshot()
    town.network("one")
    town.engine.delete_network("one")
    assert snapshot() == before


@each
@pytest.mark.parametrize("value", [0, 1])
def test_d3_no_ip_forward_never_touches_it(town: Town, value: int) -> None:
    run(f"sysctl -qw {FORWARD}={value}")
    netkit("network create --no-ip-forward --subnet 172.25.0.0/24 here")
    a = join(town.engine, "here", "a", "8080:80")
    assert run(f"sysctl -n {FORWARD}") == f"{value}\n"
    with town.host.serve(a, "tcp", 80):
        assert town.host.ask(None, "172.25.0.2", 80) == "172.25.0.1"  # the host needs no forwarding
    netkit("network rm -f here")
    assert run(f"sysctl -n {FORWARD}") == f"{value}\n"


# -- networks


def test_b1_a_network_is_a_bridge_that_is_up_and_has_the_gateways_address(town: Town) -> None:
    """Its MAC is fixed from the beginning, so it does not change as ports come and go."""
    id = netkit("network create -d bridge --subnet 172.25.0.0/16 my-net").strip()
    bridge = links()[f"br-{id[:12]}"]
    assert bridge["linkinfo"]["info_kind"] == "bridge"
    assert {"UP", "BROADCAST"} <= set(bridge["flags"])
    assert bridge["address"] == naming.bridge_mac(id)
    assert bridge["ifalias"] == f"netkit:{id[:12]}"
    assert "inet 172.25.0.1/16 brd 172.25.255.255 scope global" in run(
        f"ip addr show {bridge['ifname']}"
    )
    assert town.host.ping(None, "172.25.0.1")
    run("ip link add name mine type bridge")
    assert "exists already (bridge)" in netkit(
        "network create -o com.docker.network.bridge.name=mine other", code=1
    )


def test_b2_the_default_network_is_made_on_first_use(town: Town) -> None:
    """And stays; it is no network one can create, but one that can be removed and made again."""
    assert "bridge" not in netkit("network ls --format '{{.Name}}'").split()
    netkit("run --rm -- true")
    assert "bridge" in netkit("network ls --format '{{.Name}}'").split()
    assert links()["netkit0"]["linkinfo"]["info_kind"] == "bridge"
    name = netkit("connect").strip()
    assert netkit(f"inspect -f '{{{{.HostConfig.NetworkMode}}}}' {name}") == "bridge\n"
    said = netkit("network create bridge", code=1)
    assert said.startswith("Error: operation is not permitted on predefined bridge network\n")


@pytest.mark.parametrize("uplink", [1400, None])
def test_b5_the_mtu_is_that_of_the_way_out(town: Town, uplink: int | None) -> None:
    """On the bridge and on both ends of each veth; without a default route it is 1500."""
    if uplink is not None:
        run(f"ip link set lan0 mtu {uplink}", f"ip route add default via {THEIRS}")
    bridge = town.network("auto")
    place = join(town.engine, "auto", "a", host_ifname="vetha")
    found = (links()[bridge]["mtu"], links()["vetha"]["mtu"], links(place)["eth0"]["mtu"])
    assert found == (uplink or 1500,) * 3


def test_b5_an_explicit_mtu_holds_even_for_a_bridge_without_ports(town: Town) -> None:
    """A bridge that chose its MTU itself would change it with its ports."""
    netkit("network create --mtu 9000 --subnet 172.25.0.0/24 jumbo")
    netkit("network create -o com.docker.network.driver.mtu=1280 --subnet 172.26.0.0/24 small")
    for name, mtu, address in (("jumbo", 9000, "172.25.0.2"), ("small", 1280, "172.26.0.2")):
        bridge = town.engine.network(name).bridge
        assert links()[bridge]["mtu"] == mtu
        place = join(town.engine, name, name, host_ifname=f"veth{name}")
        mtus = (links()[bridge]["mtu"], links()[f"veth{name}"]["mtu"], links(place)["eth0"]["mtu"])
        assert mtus == (mtu, mtu, mtu)
        whole = f"ping -c1 -W3 -M do -q -s {mtu - 28} {address}"
        assert "1 received" in run(whole)
        larger = whole.replace("-W3", "-W0.3").replace(str(mtu - 28), str(mtu - 27))
        assert "1 received" not in run(larger, check=False)
    assert "invalid MTU 67" in netkit("network create --mtu 67 tiny", code=1)


def test_b6_host_shares_the_hosts_network(town: Town) -> None:
    before = snapshot()["links"]
    assert "lan0" in netkit("run --rm --net host -- ip -o link")
    netkit("run -d --net host --name h -- sleep 60")
    settings = netkit("inspect -f '{{.NetworkSettings.IPAddress}}' h")
    assert OURS in settings
    assert snapshot()["links"] == before
    assert "published" in netkit("port h 80", code=1)
    assert "uses the host's network" in netkit("network connect bridge h", code=1)
    netkit("rm -f h")


def test_b7_none_has_loopback_only_and_its_user_does_the_rest(town: Town) -> None:
    netkit("run -d --net none --name n -- sleep 60")
    assert list(links("/run/netns/n")) == ["lo"]
    assert "127.0.0.1/8" in netkit("exec n -- ip -4 addr show lo")
    assert "was run without a network" in netkit("network connect bridge n", code=1)
    run("ip netns exec n ip link add name mine type bridge")
    assert "mine" in links("/run/netns/n")
    netkit("rm -f n")


def test_b8_container_shares_anothers_addresses_ports_and_names(town: Town) -> None:
    town.network("net")
    netkit("run -d --name first --net net -h boss -p 8080:80 -- sleep 60")
    shown = "ip -4 -o addr show eth0; hostname; cat /etc/hosts"
    theirs = netkit(f"exec first -- sh -c {shlex.quote(shown)}")
    assert "172.25.0.2" in theirs
    assert "boss" in theirs
    for mode in ("container:first", "service:first"):
        assert netkit(f"run --rm --net {mode} -- sh -c {shlex.quote(shown)}") == theirs
    # at an address /etc/hosts has: it asks for the name of it before it listens
    netkit("run -d --name second --net container:first -- python3 -m http.server -b 172.25.0.2 80")
    assert until(lambda: ":80 " in run("ss -lnt", place="/run/netns/first"))
    assert run(f"curl -s -o /dev/null -w '%{{http_code}}' http://{OURS}:8080") == "200"
    assert "no such container: nobody" in netkit("run --net container:nobody -- true", code=125)
    netkit("rm -f second first")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ("--net host -p 80:80", "port publishing and the host network mode"),
        ("--net none -p 80:80", "port publishing and the none network mode"),
        ("--net container:x -p 80:80", "port publishing and the container type network mode"),
        ("--net container:x -P", "port publishing and the container type network mode"),
        ("--net container:x --expose 80", "port exposing and the container type network mode"),
        ("--net container:x -h name", "hostname and the container type network mode"),
        ("--net container:x --dns 9.9.9.9", "dns and the container type network mode"),
        ("--net service:x --dns-search a.test", "dns and the container type network mode"),
        (
            "--net container:x --add-host a:10.0.0.1",
            "custom host-to-IP mapping and the container type network mode",
        ),
        ("--net container:x --mac-address 02:00:00:00:00:01", "mac-address and the container"),
        ("--net host --ip 10.0.0.2", "--ip and the host network mode"),
        ("--net host --net none", "cannot be combined with others"),
    ],
)
def test_b6_b7_b8_options_that_contradict_each_other_are_refused(
    host: Host, options: str, what: str
) -> None:
    said = netkit(f"run {options} -- true", code=125)
    assert said.startswith("Error: conflicting options: ")
    assert what in said


def test_b9_networks_are_listed_inspected_and_removed(town: Town) -> None:
    before = snapshot()
    id = netkit("network create --subnet 172.25.0.0/24 --label team=core net").strip()
    rows = netkit("network ls").splitlines()
    assert rows[0].split() == ["NETWORK", "ID", "NAME", "DRIVER", "SCOPE"]
    assert [row.split() for row in rows[1:]] == [
        [id[:12], "net", "bridge", "local"],
        [netkit("network ls -q -f name=host").strip(), "host", "host", "local"],
        [netkit("network ls -q -f name=none").strip(), "none", "null", "local"],
    ]
    (shown,) = json.loads(netkit("network inspect net"))
    assert shown["IPAM"]["Config"] == [{"Subnet": "172.25.0.0/24", "Gateway": "172.25.0.1"}]
    assert (shown["Id"], shown["Driver"], shown["Labels"]) == (id, "bridge", {"team": "core"})
    a = netkit("connect --net net --name a").strip()
    (shown,) = json.loads(netkit("network inspect net"))
    (member,) = shown["Containers"].values()
    assert (member["Name"], member["IPv4Address"]) == (a, "172.25.0.2/24")
    said = netkit("network rm net", code=1)
    assert said.startswith("Error: network net has active endpoints: a\n")
    assert "no such network: nonsense" in netkit("network rm nonsense", code=1)
    assert netkit("network rm --force net") == "net\n"
    assert snapshot() == before


def test_b9_prune_removes_what_nobody_uses(town: Town) -> None:
    for name, label in (("used", "a=1"), ("idle", "a=1"), ("other", "b=1")):
        netkit(f"network create --label {label} {name}")
    netkit("connect --net used --name c")
    assert netkit("network prune -f --filter label=a").split() == ["Deleted", "Networks:", "idle"]
    assert netkit("network prune -f --filter until=1h") == ""
    assert netkit("network prune -f").split() == ["Deleted", "Networks:", "other"]
    assert netkit("network ls -f type=custom --format '{{.Name}}'").split() == ["used"]


@each
def test_b10_a_running_container_is_connected_and_disconnected(town: Town) -> None:
    """Links, rules and addresses go with the connection; the rest of it goes on."""
    town.network("one")
    town.network("two", "172.26.0.0/24")
    netkit("run -d --name c --net one -- sleep 60")
    before = snapshot()
    netkit("connect --net two -p 8080:80 c")
    assert "inet 172.26.0.2/24" in netkit("exec c -- ip addr show eth1")
    with town.host.serve("/run/netns/c", "tcp", 80):
        assert until(lambda: town.host.ask(None, "127.0.0.1", 8080, patience_s=1) == "172.26.0.1")
        netkit("disconnect --net two c")
        assert town.host.ask(None, "127.0.0.1", 8080) is None
        assert town.host.ask(None, "172.25.0.2", 80)
    assert list(links("/run/netns/c")) == ["lo", "eth0"]
    assert snapshot() == before
    assert "not connected to network two" in netkit("network disconnect two c", code=1)
    netkit("network connect two c")
    assert "172.26.0.2/24" in netkit("exec c -- ip addr show eth1")
    netkit("rm -f c")


def test_b11_networks_are_eth0_eth1_in_the_order_given(town: Town) -> None:
    for name, subnet in (
        ("zoo", "172.25.0.0/24"),
        ("ant", "172.26.0.0/24"),
        ("m", "172.27.0.0/24"),
    ):
        town.network(name, subnet)
    said = netkit("run --rm --net zoo --net ant --net m -- ip -4 -o addr")
    found = {line.split()[1]: line.split()[3] for line in said.splitlines()}
    assert found == {
        "lo": "127.0.0.1/8",
        "eth0": "172.25.0.2/24",
        "eth1": "172.26.0.2/24",
        "eth2": "172.27.0.2/24",
    }


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("driver=bridge", "a b"),
        ("driver=host", "host"),
        ("driver=null", "none"),
        ("label=team", "a b"),
        ("label=team=core", "a"),
        ("label=team=core -f label=prod", ""),
        ("name=a", "a"),
        ("name=a -f name=b", "a b"),
        ("scope=local", "a b host none"),
        ("scope=swarm", ""),
        ("type=builtin", "host none"),
        ("type=custom", "a b"),
        ("dangling=true", "b"),
        ("dangling=false -f type=custom", "a"),
    ],
)
def test_b23_ls_filters_by_labels_and_the_rest(town: Town, filters: str, names: str) -> None:
    netkit("network create --label team=core --subnet 172.25.0.0/24 a")
    netkit("network create --label team=web --label prod b")
    join(town.engine, "a", "c")
    assert netkit(f"network ls -f {filters} --format '{{{{.Name}}}}'").split() == names.split()


# -- endpoints


def test_c1_c2_c3_c8_c9_an_endpoint_is_a_veth_pair_with_address_route_and_mac(town: Town) -> None:
    bridge = town.network("net")
    place = join(town.engine, "net", "c")
    inside = links(place)
    assert list(inside) == ["lo", "eth0"]
    assert inside["eth0"]["address"] == "02:42:ac:19:00:02"
    assert "UP" in inside["eth0"]["flags"]
    ep = town.engine.endpoints()[0]
    outside = links()[ep.host_ifname]
    assert re.fullmatch(r"veth[0-9a-f]{7}", ep.host_ifname)
    assert outside["master"] == bridge
    assert "UP" in outside["flags"]
    assert outside["ifindex"] == inside["eth0"]["link_index"]
    assert run("ip -4 -o addr show lo", place=place).split()[3] == "127.0.0.1/8"
    assert "inet6 ::1/128" in run("ip -6 addr show lo", place=place)
    assert "inet 172.25.0.2/24 brd 172.25.0.255" in run("ip addr show eth0", place=place)
    assert (
        run("ip route", place=place).splitlines()[0].startswith("default via 172.25.0.1 dev eth0")
    )
    for written, mac in (
        ("08-00-27-00-0C-0A", "08:00:27:00:0c:0a"),
        ("02:AA:00:00:00:01", "02:aa:00:00:00:01"),
    ):
        name = netkit(f"connect --net net --mac-address {written}").strip()
        assert links(f"/run/netns/{name}")["eth0"]["address"] == mac
        assert until(lambda: town.host.ping(f"/run/netns/{name}", "172.25.0.1", patience_s=1))  # noqa: B023
    said = netkit("connect --net net --mac-address 01:00:00:00:00:01", code=1)
    assert "multicast" in said


def test_c4_a_namespace_is_meant_by_pid_path_or_name(town: Town) -> None:
    town.network("net")
    run("ip netns add theirs")
    with process() as pid:
        netkit(f"connect --net net pid:{pid}")
        assert "172.25.0.2/24" in run("ip addr show eth0", place=f"/proc/{pid}/ns/net")
        netkit(f"disconnect --net net pid:{pid}")
        netkit(f"connect --net net netns:/proc/{pid}/ns/net")
        # the same namespace, whatever it is called
        netkit(f"disconnect --net net pid:{pid}")
        assert list(links(f"/proc/{pid}/ns/net")) == ["lo"]
    netkit("connect --net net theirs")
    assert "172.25.0.2/24" in run("ip netns exec theirs ip addr show eth0")
    netkit("disconnect --net net netns:/run/netns/theirs")
    assert "theirs" in run("ip netns list")  # not ours to delete
    name = netkit("connect --net net").strip()
    assert name in run("ip netns list")
    assert "172.25.0.2/24" in run(f"ip netns exec {name} ip addr show eth0")
    netkit(f"disconnect --net net {name}")
    assert name not in run("ip netns list")


def test_c4_the_hosts_own_namespace_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    town.network("net")
    said = netkit(f"connect --net net pid:{os.getpid()}", code=1)
    assert "is the host's own network namespace" in said
    # so is that of the machine's first process, seen from a sandbox; here another plays its part
    with process() as pid:
        monkeypatch.setattr(netns, "_INIT", f"/proc/{pid}/ns/net")
        with pytest.raises(InvalidSpec, match="is the host's own network namespace"):
            town.engine.connect("net", f"pid:{pid}")
    assert "no such process" in netkit("connect --net net pid:4194303", code=1)
    assert "no such container" in netkit("connect --net net nobody", code=1)


def test_c5_a_command_runs_inside_whatever_the_target_is(town: Town) -> None:
    town.network("net")
    netkit("connect --net net --name c")
    with process() as pid:
        netkit(f"connect --net net pid:{pid}")
        for target, address in (("c", "172.25.0.2"), (f"pid:{pid}", "172.25.0.3")):
            assert address in netkit(f"exec {target} -- ip addr")
    netkit("exec c -- sh -c 'exit 7'", code=7)
    netkit("exec c -- /nonexistent", code=127)
    netkit("exec c -- /etc/passwd", code=126)


@each
def test_c7_what_a_dead_process_had_is_freed_by_whoever_needs_it(town: Town) -> None:
    """The kernel takes the veth; address, port and rules come free with the next call."""
    subnet = IPv4Network("172.25.0.0/24")
    town.engine.create_network(
        NetworkSpec("net", subnets=(subnet,), ip_ranges=(IPv4Network("172.25.0.8/31"),))
    )
    join(town.engine, "net", "keeper")
    before = snapshot()
    with process() as pid:
        ep = town.engine.connect("net", f"pid:{pid}", _publish("8080:80"))
        assert ep.host_ifname in links()
        with pytest.raises(Exhausted):
            join(town.engine, "net", "early")
    assert until(lambda: ep.host_ifname not in links())
    heir = join(town.engine, "net", "heir", "8080:80")
    (owner,) = [e for e in town.engine.endpoints() if e.ports]
    assert owner.addresses == ep.addresses
    with town.host.serve(heir, "tcp", 80):
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS
    town.engine.disconnect("net", "heir")
    assert snapshot() == before


def test_c7_gc_frees_it_as_well_and_says_so(town: Town) -> None:
    town.network("net")
    before = snapshot()
    with process() as pid:
        town.engine.connect("net", f"pid:{pid}", _publish("8080:80"))
    run("ip netns add gone")
    town.engine.connect("net", "gone")
    run("ip netns del gone")
    gone = f"pid-{pid}", "gone"
    assert until(lambda: not [name for name in links() if name.startswith("veth")])
    assert set(gone) <= set(netkit("gc").split())
    assert netkit("gc") == ""
    assert town.engine.endpoints() == []
    assert snapshot() == before


def test_c8_a_static_address_and_mac_are_kept_or_refused(town: Town) -> None:
    town.network("net")
    mac = "02:11:22:33:44:55"
    place = join(town.engine, "net", "c", addresses=(IPv4Address("172.25.0.77"),), mac=mac)
    assert links(place)["eth0"]["address"] == mac
    assert town.host.ping(place, "172.25.0.1")
    for address, what in (
        ("172.25.0.77", "172.25.0.77"),
        ("172.25.0.1", "gateway"),
        ("172.25.0.255", "broadcast"),
        ("172.25.0.0", "network"),
        ("10.1.1.1", "172.25.0.0/24"),
    ):
        said = netkit(f"connect --net net --ip {address}", code=1)
        assert what in said, said


def test_c11_which_veth_belongs_to_whom_is_one_command_both_ways(town: Town) -> None:
    town.network("net")
    town.network("two", "172.26.0.0/24")
    for name in ("a", "b"):
        join(town.engine, "net", name)
    town.engine.connect("two", "a")
    shown = "{{.Container}} {{.Interface}} {{.HostInterface}} {{.HostIndex}} {{.PeerIndex}}"
    rows = [line.split() for line in netkit(f"veth --format '{shown}'").splitlines()]
    assert [row[:2] for row in rows] == [["a", "eth0"], ["a", "eth1"], ["b", "eth0"]]
    for container, inside, outside, index, peer in rows:
        assert links()[outside]["ifindex"] == int(index)
        there = links(f"/run/netns/{container}")[inside]
        assert (there["ifindex"], there["link_index"]) == (int(peer), int(index))
        assert f"{container} " in netkit(f"veth {outside}").splitlines()[1]


def test_c12_both_ends_are_named_as_asked(town: Town) -> None:
    town.network("net")
    netkit("connect --net net --name c --ifname lan.5 --host-ifname c-lan")
    assert "lan.5" in links("/run/netns/c")
    assert "c-lan" in links()
    assert until(lambda: town.host.ping("/run/netns/c", "172.25.0.1", patience_s=1))
    assert "172.25.0.2/24" in run("ip addr show lan.5", place="/run/netns/c")
    said = netkit("connect --net net --host-ifname c-lan", code=1)
    assert "an interface named 'c-lan' exists already" in said
    town.network("two", "172.26.0.0/24")
    said = netkit("connect --net two --ifname lan.5 c", code=1)
    assert "has an interface 'lan.5' already" in said
    netkit("connect --net net --ifname sixteen-letters-", code=1)


def test_c13_an_interface_without_an_address_is_its_users(town: Town) -> None:
    """Held to its MAC; an address it gives itself works, and nothing was leased for it."""
    town.network("net")
    netkit("connect --net net --ip 0/0 --name bare")
    place = "/run/netns/bare"
    assert run("ip -4 addr show eth0", place=place) == ""
    assert default_routes(place) == []
    run("ip addr add 172.25.0.200/24 dev eth0", place=place)
    assert until(lambda: town.host.ping(place, "172.25.0.1", patience_s=1))
    run("ip link set eth0 address 02:00:00:00:00:99", place=place)
    assert not town.host.ping(place, "172.25.0.1", patience_s=BRIEF_S)
    assert town.engine.endpoints()[0].addresses == ()
    with pytest.raises(InvalidSpec, match="without an address"):
        town.engine.connect("net", request=_publish("80", addressless=True))
    netkit("rm bare")


def test_c20_the_default_route_is_that_of_the_highest_priority_then_the_first_name(
    town: Town,
) -> None:
    """And it moves as networks come and go."""
    for n, name in enumerate(("m", "a", "z", "top"), 5):
        town.network(name, f"172.2{n}.0.0/24")
    place = join(town.engine, "m", "c")
    assert default_routes(place) == ["172.25.0.1"]
    town.engine.connect("z", "c")
    assert default_routes(place) == ["172.25.0.1"]
    town.engine.connect("a", "c")
    assert default_routes(place) == ["172.26.0.1"]
    town.engine.connect("top", "c", _publish(gateway_priority=1))
    assert default_routes(place) == ["172.28.0.1"]
    for network, way in (("top", "172.26.0.1"), ("a", "172.25.0.1"), ("m", "172.27.0.1")):
        town.engine.disconnect(network, "c")
        assert default_routes(place) == [way]


@each
def test_c20_traffic_leaves_by_the_default_route(town: Town) -> None:
    """By no other, as whoever is asked sees: only one of the two is masqueraded."""
    town.network("a")
    town.network("b", "172.26.0.0/24", masquerade=False)
    place = join(town.engine, "b", "c")
    with town.host.serve(town.lan, "tcp", 80):
        assert town.host.ask(place, THEIRS, 80) == "172.26.0.2"
        ready(town.engine.connect("a", "c"))
        assert town.host.ask(place, THEIRS, 80) == OURS


@each
@pytest.mark.parametrize("first", [True, False])
def test_c20_a_published_port_answers_whichever_network_has_the_default_route(
    town: Town, first: bool
) -> None:
    """Also when that comes later, and when the port is published on the second network."""
    town.network("a")
    town.network("b", "172.26.0.0/24")
    if first:
        place = join(town.engine, "b", "c", "8080:80")
        ready(town.engine.connect("a", "c"))
    else:
        place = join(town.engine, "a", "c")
        ready(town.engine.connect("b", "c", _publish("8080:80")))
    assert default_routes(place) == ["172.25.0.1"]
    with town.host.serve(place, "tcp", 80):
        assert town.host.ask(None, "127.0.0.1", 8080) == "172.26.0.1"
        assert town.host.ask(None, OURS, 8080) == OURS
        assert town.host.ask(town.lan, OURS, 8080) == THEIRS


def test_c20_a_default_route_of_somebody_else_stays(town: Town) -> None:
    town.network("net")
    run(
        "ip netns add theirs",
        "ip link add own0 type veth peer name own netns theirs",
        "ip -n theirs addr add 192.0.2.2/24 dev own",
        "ip -n theirs link set own up",
        "ip link set own0 up",
        "ip -n theirs route add default via 192.0.2.1",
    )
    town.engine.connect("net", "theirs")
    assert default_routes("/run/netns/theirs") == ["192.0.2.1"]
    town.engine.disconnect("net", "theirs")
    assert default_routes("/run/netns/theirs") == ["192.0.2.1"]


def test_f30_no_ping_is_lost_while_others_come_and_go(town: Town) -> None:
    """A bridge without a MAC of its own would take that of its lowest port, and change it."""
    bridge = town.network("net")
    place = join(town.engine, "net", "steady")
    mac = links()[bridge]["address"]
    assert town.host.ping(place, "172.25.0.1")
    ping = ["nsenter", f"--net={place}", "ping", "-q", "-i", "0.02", "-c", "100", "172.25.0.1"]
    with subprocess.Popen(ping, stdout=subprocess.PIPE, text=True) as pinging:
        for n in range(20):
            # the lowest MAC of all would be the bridge's if it had none
            join(town.engine, "net", f"c{n}", mac=f"02:00:00:00:00:{n:02x}")
            town.engine.disconnect("net", f"c{n}")
            assert links()[bridge]["address"] == mac
        said, _ = pinging.communicate(timeout=30)
    assert "100 received, 0% packet loss" in said


def _publish(*ports: str, **wanted: Any) -> Request:
    return Request(ports=tuple(s for text in ports for s in PortSpec.parse(text)), **wanted)
