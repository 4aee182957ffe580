"""podman and containerd run netkit's CNI plugins, and what they start is reached; and the Go ones.

The reference plugins show that what is asked here is what runtimes are used to; where they cannot
do it, the test of them fails as its mark says.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scenarios.lab import Host, run, until
from scenarios.runtimes import BIN_DIR, NET_DIR, REFERENCE, Containerd, Node, Podman

# as containerd's script/setup/install-cni writes it
CONTAINERD_NET = {
    "cniVersion": "1.0.0",
    "name": "containerd-net",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "promiscMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "2001:4860:4860::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
# as CRI-O's contrib/cni/11-crio-ipv4-bridge.conflist has it
CRIO = {
    "cniVersion": "0.3.1",
    "name": "crio",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "routes": [{"dst": "0.0.0.0/0"}],
                "ranges": [[{"subnet": "10.85.0.0/16"}]],
            },
        }
    ],
}


EACH = ("reference", "netkit", "netkit without netkitd")
GONE = "DEL with the namespace gone leaves the masquerade rules for ever"


def lacking(*programs: str) -> str:
    """Why a runtime cannot be tried here; empty where it can."""
    absent = [name for name in (*programs, "crun") if shutil.which(name) is None]
    return f"{' and '.join(absent)} not installed: see .ci/apt-packages" if absent else ""


def without_reference() -> str:
    return "" if os.path.exists(f"{REFERENCE}/bridge") else f"no reference plugins in {REFERENCE}"


def fault(what: str, plugins: str = "reference") -> Any:
    """Plugins that cannot do this."""
    mark = pytest.mark.xfail(raises=AssertionError, strict=True, reason=what)
    return pytest.param(plugins, marks=mark)


def by(*plugins: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("node", plugins, indirect=True)


ours = by("netkit")
each = by(*EACH)


@pytest.fixture
def node(request: pytest.FixtureRequest, host: Host) -> Iterator[Node]:
    """A host with those plugins installed."""
    plugins, _, alone = request.param.partition(" without ")
    if plugins == "reference" and (reason := without_reference()):
        pytest.skip(reason)
    # a bridge's address would be tentative for a second, and its route be there after it
    run("sysctl -qw net.ipv6.conf.default.accept_dad=0")
    with Node(host) as made:
        made.variables = {"NETKIT_DAEMON": "no"} if alone else {}
        made.install(plugins)
        yield made


@pytest.fixture
def lan(host: Host) -> str:
    """A neighbour 10.9.0.2, which knows the host as 10.9.0.1."""
    return host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")


@pytest.fixture
def podman(node: Node) -> Podman:
    if reason := lacking("podman"):
        pytest.skip(reason)
    return Podman(node)


@pytest.fixture
def containerd(node: Node) -> Containerd:
    if reason := lacking("containerd", "ctr"):
        pytest.skip(reason)
    return Containerd(node)


@each
def test_podmans_containers_reach_each_other_and_their_ports_are_reached(
    node: Node, podman: Podman, lan: str
) -> None:
    podman.run("a", "-p", "8080:80")
    podman.remove("a")
    before = node.state()  # what is made once for all stays: the bridge, chains
    podman.run("a", "-p", "8080:80")
    podman.run("b")
    address = {name: podman.inspect(name)["podman"]["IPAddress"] for name in ("a", "b")}
    for one, other in ("ab", "ba"):
        podman("exec", one, "ping", "-c1", "-W3", address[other])
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    assert node.ask(None, "10.9.0.1", 8080) == "a"
    assert node.ask(None, "127.0.0.1", 8080) == "a"
    assert node.ask(podman.place("b"), "10.88.0.1", 8080) == "a"
    assert node.ask(podman.place("a"), "10.88.0.1", 8080) == "a"
    with node.host.serve(lan, "tcp", 80):  # what goes out bears the host's address
        assert node.host.ask(podman.place("b"), "10.9.0.2", 80) == "10.9.0.1"
    podman.remove("a", "b")
    assert node.state() == before
    if node.plugins == "netkit":  # it was netkitd that did it, or was not
        socket = node.outside("/run/netkit/netkitd.sock")
        assert until(lambda: os.path.exists(socket) or "NETKIT_DAEMON" in node.variables)
        assert os.path.exists(socket) != ("NETKIT_DAEMON" in node.variables)


@by(
    fault("nobody tells the host and the others of the new MAC: unreachable for 38 s and more"),
    "netkit",
)
def test_a_container_of_podmans_is_reached_at_once_when_it_starts_again(
    node: Node, podman: Podman, lan: str
) -> None:
    podman("network", "create", "--disable-dns", "--subnet", "10.77.0.0/24", "net")
    podman.run("b", "--network", "net")
    podman.run("a", "--network", "net", "--ip", "10.77.0.9", "-p", "8080:80")
    places = {"the host": None, "b": podman.place("b")}
    for place in places.values():  # each knows its MAC
        assert node.ask(place, "10.77.0.9", 80) == "a"
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    mac = podman.inspect("a")["net"]["MacAddress"]
    podman.again("a")
    assert podman.inspect("a")["net"]["IPAddress"] == "10.77.0.9"
    for name, place in places.items():
        answered = node.host.ask(place, "10.77.0.9", 80, patience_s=1.0)
        assert answered, f"not from {name}: it was {mac}, and is {podman.inspect('a')['net']}"
    assert node.ask(lan, "10.9.0.1", 8080) == "a"


@by("reference", "netkit")
def test_a_container_of_podmans_may_be_in_two_networks(
    node: Node, podman: Podman, lan: str
) -> None:
    """With addresses and a MAC asked for, of both versions, ports as a range, of UDP, of one IP.

    Podman connects them in any order, both with a default route, and publishes all ports on both.
    """
    before = node.state()
    podman("network", "create", "--disable-dns", "--subnet", "10.77.0.0/24", "front")
    podman(
        *("network", "create", "--disable-dns", "--ipv6"),
        *("--subnet", "fd00:77::/64", "--subnet", "10.79.0.0/24", "inner"),
    )
    podman.run("b", "--network", "inner")
    podman.run(
        "a",
        *("--network", "front:ip=10.77.0.9,mac=02:00:00:00:00:07"),
        *("--network", "inner:ip=10.79.0.9"),
        *("-p", "8080-8082:80-82", "-p", "5353:53/udp", "-p", "127.0.0.1:9090:80"),
    )
    networks = podman.inspect("a")
    assert networks["front"]["IPAddress"] == "10.77.0.9"
    assert networks["front"]["MacAddress"] == "02:00:00:00:00:07"
    assert networks["front"]["Gateway"] == "10.77.0.1"
    assert networks["inner"]["IPAddress"] == "10.79.0.9"
    sixth = networks["inner"]["GlobalIPv6Address"]
    assert sixth.startswith("fd00:77::")
    a, b = podman.place("a"), podman.place("b")
    for address in ("10.79.0.9", sixth):
        assert node.ask(b, address, 80) == "a"
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    assert node.ask(None, "127.0.0.1", 9090) == "a"
    assert node.ask(lan, "10.9.0.1", 9090) is None
    with (
        node.host.serve(a, "tcp", 82),
        node.host.serve(a, "udp", 53, "10.77.0.9"),  # of any address, it would answer from the
        node.host.serve(a, "udp", 53, "10.79.0.9"),  # one that is nearest
    ):
        assert node.host.ask(lan, "10.9.0.1", 8082) == "10.9.0.2"
        assert node.host.ask(lan, "10.9.0.1", 5353, "udp") == "10.9.0.2"

    podman("network", "disconnect", "inner", "a")
    assert len(run("ip -br link", place=a).splitlines()) == 2
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    podman("network", "connect", "--ip", "10.79.0.10", "inner", "a")
    assert node.ask(b, "10.79.0.10", 80) == "a"
    podman.remove("a", "b")
    podman("network", "rm", "front", "inner")
    after = node.state()
    assert after["links"] == before["links"]
    assert after["routes"] == before["routes"]


@ours
def test_a_port_leads_to_the_network_that_the_host_has_a_way_to(
    node: Node, podman: Podman, lan: str
) -> None:
    """Podman publishes on an internal network, too, and which one comes first is a toss-up."""
    podman("network", "create", "--disable-dns", "--subnet", "10.77.0.0/24", "front")
    podman("network", "create", "--disable-dns", "--internal", "inner")
    podman.run("a", "--network", "front", "--network", "inner", "-p", "8080:80")
    for _ in range(4):
        assert node.ask(lan, "10.9.0.1", 8080) == "a"
        podman.again("a")
    podman("network", "disconnect", "inner", "a")
    assert node.ask(lan, "10.9.0.1", 8080) == "a"


@by("reference", "netkit")
def test_podman_network_reload_brings_back_what_a_flush_took(
    node: Node, podman: Podman, lan: str
) -> None:
    podman.run("a", "-p", "8080:80")
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    run("nft flush ruleset")
    assert node.host.ask(lan, "10.9.0.1", 8080, patience_s=0.3) is None
    podman("network", "reload", "--all")
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    podman.remove("a")
    assert "10.88.0." not in run("nft list ruleset")


@pytest.mark.parametrize("back", [False, True], ids=["there", "back"])
@ours
def test_plugins_are_changed_under_running_containers_of_podmans(
    node: Node, podman: Podman, lan: str, back: bool
) -> None:
    """The host is switched over, from the Go plugins to netkit or back, and nobody notices."""
    if reason := without_reference():
        pytest.skip(reason)
    first, second = ("netkit", "reference") if back else ("reference", "netkit")
    node.install(first)
    podman.run("a", "-p", "8080:80")
    node.install(second)
    podman.run("b", "-p", "8081:80")
    addresses = {podman.inspect(name)["podman"]["IPAddress"] for name in ("a", "b")}
    assert len(addresses) == 2
    for name in ("a", "b"):
        for address in addresses:
            assert node.host.ping(podman.place(name), address)
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    assert node.ask(lan, "10.9.0.1", 8081) == "b"
    podman.remove("a", "b")
    leases = node.call("ls", "/var/lib/cni/networks/podman").split()
    assert not addresses & set(leases)
    assert not [link for link in run("ip -br link").split() if link.startswith("veth")]


@by("reference", "netkit")
def test_podmans_own_plugin_for_names_works_behind_the_others(node: Node, podman: Podman) -> None:
    """Where it is not installed, `network create` leaves it out: names are not resolved then."""
    if not os.path.exists(f"{REFERENCE}/dnsname"):
        pytest.skip(f"no dnsname in {REFERENCE}: golang-github-containernetworking-plugin-dnsname")
    if Path("/proc/self/gid_map").read_text().split()[2] == "1":
        pytest.skip("its dnsmasq changes to a group, and an ordinary user's sandbox knows but one")
    if node.plugins != "reference":
        podman("network", "create", "nameless")
        assert "dnsname" not in podman("network", "inspect", "nameless")
        node.call("ln", "-s", f"{REFERENCE}/dnsname", BIN_DIR)
    podman("network", "create", "--subnet", "10.77.0.0/24", "net")
    podman.run("a", "--network", "net")
    podman.run("b", "--network", "net", "--ip", "10.77.0.9")
    assert "10.77.0.9" in podman("exec", "a", "nslookup", "b")
    podman.remove("b")
    assert "10.77.0.9" not in podman("exec", "a", "nslookup", "b", check=False)


@ours
def test_i25_podmans_containers_find_each_other_by_name(node: Node, podman: Podman) -> None:
    """As with dnsname, which is no more; whoever is started later is found, too."""
    plugin = {
        "type": "netkit",
        "subnets": ["10.77.0.0/24"],
        "names": True,
        "capabilities": {"portMappings": True, "ips": True, "mac": True, "aliases": True},
    }
    web = {"cniVersion": "1.0.0", "name": "web", "plugins": [plugin]}
    node.call("cp", node.write("web.conflist", json.dumps(web)), NET_DIR)
    for name in ("a", "b"):
        podman.run(name, "--network", "web")
    addresses = {name: podman.inspect(name)["web"]["IPAddress"] for name in ("a", "b")}
    assert "nameserver 10.77.0.1" in podman("exec", "a", "cat", "/etc/resolv.conf")
    for asking, asked in (("a", "b"), ("b", "a")):
        found = podman("exec", asking, "nslookup", f"{asked}.", "10.77.0.1")
        assert addresses[asked] in found
    podman.remove("b")
    assert addresses["b"] not in podman("exec", "a", "nslookup", "b.", "10.77.0.1", check=False)


@ours
def test_what_podman_is_refused_it_passes_on(node: Node, podman: Podman) -> None:
    """A port that is taken: the user reads why, and nothing of the container stays."""
    podman.run("a", "-p", "8080:80")
    before = node.state()
    with pytest.raises(AssertionError, match="8080 failed: port is already allocated"):
        podman.run("b", "-p", "8080:80")
    podman.remove("b")
    assert node.state() == before


@pytest.mark.parametrize(
    ("node", "conflist"),
    [
        *(pytest.param(name, CONTAINERD_NET, id=f"containerd's conflist, {name}") for name in EACH),
        *(pytest.param(name, CRIO, id=f"CRI-O's conflist, {name}") for name in EACH[:2]),
    ],
    indirect=["node"],
)
def test_containerds_pods_reach_each_other_and_their_ports_are_reached(
    node: Node, containerd: Containerd, lan: str, conflist: dict[str, Any]
) -> None:
    containerd.configure(conflist)
    ports = [("tcp", 80, 8080), ("udp", 53, 5353)] if conflist is CONTAINERD_NET else []
    containerd.remove(containerd.run("a", *ports))
    before = node.state()
    a, b = containerd.run("a", *ports), containerd.run("b")
    for one, other in ((a, b), (b, a)):
        for address in containerd.addresses(other):
            assert node.host.ping(containerd.place(one), address)
    assert len(containerd.addresses(a)) == (2 if conflist is CONTAINERD_NET else 1)
    if ports:
        assert node.ask(lan, "10.9.0.1", 8080) == "a"
        assert node.ask(None, "10.9.0.1", 8080) == "a"
        with node.host.serve(containerd.place(a), "udp", 53):
            assert node.host.ask(lan, "10.9.0.1", 5353, "udp") == "10.9.0.2"
    containerd.remove(a, b)
    assert node.state() == before


@ours
def test_podman_and_containerd_share_the_network_of_one_plugin_that_is_all(
    node: Node, podman: Podman, containerd: Containerd, lan: str
) -> None:
    conflist = json.loads(node.netkit("cni conflist --type netkit --name all"))
    containerd.configure(conflist)
    containerd.remove(containerd.run("a", ("tcp", 80, 8080)))
    before = node.state()
    pod = containerd.run("a", ("tcp", 80, 8080))
    podman.run("b", "--network", "all", "-p", "8081:80")
    for place in (None, lan):
        assert node.ask(place, "10.9.0.1", 8080) == "a"
        assert node.ask(place, "10.9.0.1", 8081) == "b"
    podman("exec", "b", "ping", "-c1", "-W3", *containerd.addresses(pod))
    containerd.remove(pod)
    podman.again("b")
    assert node.ask(lan, "10.9.0.1", 8081) == "b"
    podman("network", "reload", "b")
    assert node.ask(lan, "10.9.0.1", 8081) == "b"
    podman.remove("b")
    assert node.state() == before


@by("reference", "netkit")
def test_containerd_may_be_killed_under_its_pods(
    node: Node, containerd: Containerd, lan: str
) -> None:
    containerd.configure(CONTAINERD_NET)
    containerd.remove(containerd.run("a", ("tcp", 80, 8080)))
    before = node.state()
    pod = containerd.run("a", ("tcp", 80, 8080))
    containerd.kill()
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    containerd.start()
    assert node.ask(lan, "10.9.0.1", 8080) == "a"
    containerd.remove(pod)
    assert node.state() == before


@by(fault(GONE), "netkit", "netkit without netkitd")
def test_a_pod_of_containerds_whose_namespace_is_gone_is_removed_all_the_same(
    node: Node, containerd: Containerd
) -> None:
    """So it is after a restart of the host. containerd says so with CNI_NETNS empty."""
    containerd.configure(CONTAINERD_NET)
    containerd.remove(containerd.run("a", ("tcp", 80, 8080)))
    before = node.state()
    pod = containerd.run("a", ("tcp", 80, 8080))
    path = containerd.netns(pod)
    node.call("umount", path)
    node.call("rm", path)
    containerd.remove(pod)
    assert node.state() == before


def settled(node: Node) -> dict[str, str]:
    """How it is once nothing goes on: netkitd, which notices that a container has died, may be
    burying it when DEL finds it gone.
    """
    found: list[dict[str, str]] = [node.state()]

    def is_same() -> bool:
        found.append(node.state())
        return found[-1] == found[-2]

    assert until(is_same)
    return found[-1]


@by(fault(GONE), "netkit")
def test_ctr_connects_a_container_for_as_long_as_it_runs(
    node: Node, containerd: Containerd
) -> None:
    containerd.configure(CONTAINERD_NET)
    line = ("run", "--rm", "--cni", "--runc-binary", node.crun, "--rootfs", node.rootfs)
    containerd.ctr(*line, "warm", "/bin/hostname")
    before = settled(node)
    said = containerd.ctr(*line, "once", "/bin/ping", "-c1", "-W3", "10.88.0.1")
    assert "1 packets received" in said
    assert until(lambda: node.state() == before)
