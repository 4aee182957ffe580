"""What steps rely on, held to by the kernel and by its twin in memory alike."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from netkit.firewall import Publish
from netkit.firewall.none import NoFirewall
from netkit.kernel import Kernel, netns
from scenarios.lab import Host, until
from tests.fakes import FakeKernel, refused

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"
PLACE = netns.named("c1")
ADDRESS = IPv4Interface("10.88.0.2/24")


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest, host: Host) -> Iterator[Kernel]:
    """An empty machine with a bridge `br0` and a namespace `c1`."""
    with FakeKernel() if request.param == "fake" else Kernel(NoFirewall()) as kernel:
        kernel.create_netns("c1")
        kernel.netlink().add_bridge("br0", mac=MAC, mtu=1400)
        yield kernel


@pytest.fixture
def base(kernel: Kernel, host: Host) -> str:
    """A directory to make files in."""
    kernel.make_directory(f"{host.base}/files")
    return f"{host.base}/files"


def connect(kernel: Kernel, name: str = "veth1", peer: str = "eth0", at: str = PLACE) -> None:
    kernel.netlink().add_veth(
        name, mac=MAC, mtu=1400, master="br0", peer=peer, peer_mac=PEER_MAC, peer_netns=at
    )


def ipv4(kernel: Kernel, name: str, at: str | None = None) -> list[IPv4Interface]:
    found = [address for _, address in kernel.netlink(at).addresses(name)]
    return [address for address in found if isinstance(address, IPv4Interface)]


# -- links


def test_a_bridge_is_born_down_with_the_mac_and_mtu_asked_for(kernel: Kernel) -> None:
    link = kernel.netlink().link("br0")
    assert link is not None
    assert (link.kind, link.mac, link.mtu, link.up) == ("bridge", MAC, 1400, False)
    assert (link.alias, link.master, link.ifindex) == (None, None, kernel.netlink().index("br0"))


def test_a_name_that_is_taken_is_refused_and_the_holder_stays(kernel: Kernel) -> None:
    before = kernel.netlink().link("br0")
    with refused(errno.EEXIST):
        kernel.netlink().add_bridge("br0", mac=PEER_MAC, mtu=1500)
    assert kernel.netlink().link("br0") == before


def test_a_link_that_is_not_there_reads_as_none(kernel: Kernel) -> None:
    assert kernel.netlink().link("nope") is None
    with refused(errno.ENODEV):
        kernel.netlink().index("nope")


def test_a_veth_pair_is_born_enslaved_here_and_down_there(kernel: Kernel) -> None:
    connect(kernel)
    ours, theirs = kernel.netlink().link("veth1"), kernel.netlink(PLACE).link("eth0")
    assert ours is not None
    assert theirs is not None
    assert (ours.kind, ours.mac, ours.mtu, ours.up) == ("veth", MAC, 1400, True)
    assert (theirs.kind, theirs.mac, theirs.mtu, theirs.up) == ("veth", PEER_MAC, 1400, False)
    assert ours.master == kernel.netlink().index("br0")
    assert (ours.peer_index, theirs.peer_index) == (theirs.ifindex, ours.ifindex)


@pytest.mark.parametrize(
    ("name", "peer", "at", "code"),
    [
        ("br0", "eth0", PLACE, errno.EEXIST),
        ("veth1", "lo", PLACE, errno.EEXIST),
        ("veth1", "eth0", netns.named("nope"), errno.ENOENT),
    ],
)
def test_a_veth_pair_that_cannot_be_born_whole_is_not_born(
    kernel: Kernel, name: str, peer: str, at: str, code: int
) -> None:
    before = [link.name for link in kernel.netlink().links()]
    with refused(code):
        connect(kernel, name, peer, at)
    assert [link.name for link in kernel.netlink().links()] == before
    assert [link.name for link in kernel.netlink(PLACE).links()] == ["lo"]


def test_a_veth_needs_a_bridge_that_is_there(kernel: Kernel) -> None:
    kernel.netlink().delete_link("br0")
    with refused(errno.ENODEV):
        connect(kernel)


def test_either_end_of_a_veth_takes_the_other_along(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink().delete_link("veth1")
    assert kernel.netlink(PLACE).link("eth0") is None
    connect(kernel)
    kernel.netlink(PLACE).delete_link("eth0")
    assert kernel.netlink().link("veth1") is None


def test_a_bridge_goes_without_its_ports(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink().delete_link("br0")
    port = kernel.netlink().link("veth1")
    assert port is not None
    assert port.master is None


def test_links_die_with_their_namespace(kernel: Kernel) -> None:
    connect(kernel)
    kernel.delete_netns("c1")
    assert not kernel.exists(PLACE)
    # the kernel takes a namespace down behind our backs
    assert until(lambda: kernel.netlink().link("veth1") is None)


@pytest.mark.parametrize("verb", ["delete", "up", "alias", "port", "address", "route"])
def test_what_is_done_to_a_missing_link_is_refused(kernel: Kernel, verb: str) -> None:
    netlink = kernel.netlink()
    with refused(errno.ENODEV):
        match verb:
            case "delete":
                netlink.delete_link("nope")
            case "up":
                netlink.set_up("nope")
            case "alias":
                netlink.set_alias("nope", "x")
            case "port":
                netlink.set_port("nope", alias="x", hairpin=True)
            case "address":
                netlink.delete_address("nope", ADDRESS)
            case _:
                netlink.delete_route("nope", None, "10.88.0.1")


def test_an_alias_is_kept(kernel: Kernel) -> None:
    kernel.netlink().set_alias("br0", "netkit:abc")
    connect(kernel)
    kernel.netlink().set_port("veth1", alias="netkit:def", hairpin=True)
    aliases = {link.name: link.alias for link in kernel.netlink().links()}
    assert aliases["br0"] == "netkit:abc"
    assert aliases["veth1"] == "netkit:def"


def test_loopback_is_down_until_it_is_set_up(kernel: Kernel) -> None:
    lo = kernel.netlink(PLACE).link("lo")
    assert lo is not None
    assert not lo.up
    assert ipv4(kernel, "lo", PLACE) == []
    kernel.netlink(PLACE).set_up("lo")
    assert ipv4(kernel, "lo", PLACE) == [IPv4Interface("127.0.0.1/8")]


def test_a_handle_in_a_namespace_that_is_not_there_is_refused(kernel: Kernel) -> None:
    with refused(errno.ENOENT):
        kernel.netlink(netns.named("nope")).links()


# -- addresses and routes


def test_an_address_is_there_once_until_it_is_deleted(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    netlink.add_address("br0", ADDRESS)
    with refused(errno.EEXIST):
        netlink.add_address("br0", ADDRESS)
    assert ipv4(kernel, "br0") == [ADDRESS]
    netlink.delete_address("br0", ADDRESS)
    with refused(errno.EADDRNOTAVAIL):
        netlink.delete_address("br0", ADDRESS)
    assert ipv4(kernel, "br0") == []


def test_an_address_brings_its_network_as_soon_as_its_link_is_up(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    assert netlink.routes() == []
    netlink.set_up("eth0")
    assert [(r.dst, r.gateway) for r in netlink.routes()] == [(IPv4Network("10.88.0.0/24"), None)]


def test_a_default_route_is_there_once_until_it_is_deleted(kernel: Kernel) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    netlink.set_up("eth0")
    netlink.add_route("eth0", None, "10.88.0.1")
    with refused(errno.EEXIST):
        netlink.add_route("eth0", None, "10.88.0.1")
    assert ("10.88.0.1", netlink.index("eth0")) in [
        (route.gateway, route.ifindex) for route in netlink.routes() if route.dst is None
    ]
    netlink.delete_route("eth0", None, "10.88.0.1")
    with refused(errno.ESRCH):
        netlink.delete_route("eth0", None, "10.88.0.1")
    assert [route.dst for route in netlink.routes()] == [IPv4Network("10.88.0.0/24")]


def test_a_route_through_a_link_that_is_down_is_refused(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink(PLACE).add_address("eth0", ADDRESS)
    with refused(errno.ENETDOWN):
        kernel.netlink(PLACE).add_route("eth0", IPv4Network("10.89.0.0/24"), None)
    with refused(errno.ENETUNREACH):  # what is not up reaches no gateway
        kernel.netlink(PLACE).add_route("eth0", None, "10.88.0.1")


def test_a_gateway_nobody_can_reach_is_refused(kernel: Kernel) -> None:
    connect(kernel)
    kernel.netlink(PLACE).add_address("eth0", ADDRESS)
    kernel.netlink(PLACE).set_up("eth0")
    with refused(errno.ENETUNREACH):
        kernel.netlink(PLACE).add_route("eth0", None, "192.0.2.1")


@pytest.mark.parametrize("how", ["link", "down", "address"])
def test_routes_die_with_what_they_lead_through(kernel: Kernel, how: str) -> None:
    connect(kernel)
    netlink = kernel.netlink(PLACE)
    netlink.add_address("eth0", ADDRESS)
    netlink.set_up("eth0")
    netlink.add_route("eth0", None, "10.88.0.1")
    match how:
        case "link":
            kernel.netlink().delete_link("veth1")
        case "down":
            netlink.set_up("eth0", False)
        case _:
            netlink.delete_address("eth0", ADDRESS)
    assert netlink.routes() == []


# -- sysctls


def test_a_parameter_is_read_back_as_written_and_each_namespace_has_its_own(
    kernel: Kernel,
) -> None:
    key = "net/ipv4/ip_forward"
    assert (kernel.sysctl(key), kernel.sysctl(key, PLACE)) == ("0", "0")
    kernel.set_sysctl(key, "1", PLACE)
    assert (kernel.sysctl(key), kernel.sysctl(key, PLACE)) == ("0", "1")


def test_a_links_parameters_come_and_go_with_it(kernel: Kernel) -> None:
    key = "net/ipv4/conf/br0/route_localnet"
    kernel.set_sysctl(key, "1")
    assert kernel.sysctl(key) == "1"
    kernel.netlink().delete_link("br0")
    assert kernel.sysctl(key) is None
    with refused(errno.ENOENT):
        kernel.set_sysctl(key, "1")


def test_the_host_says_which_ports_are_for_anybody(kernel: Kernel) -> None:
    ports, holes = kernel.local_ports()
    assert ports == range(32768, 61000)
    assert holes == set()


# -- namespaces


def test_a_namespace_can_be_made_once_and_deleted_twice(kernel: Kernel) -> None:
    assert kernel.exists(PLACE)
    with refused(errno.EEXIST):
        kernel.create_netns("c1")
    kernel.delete_netns("c1")
    kernel.delete_netns("c1")
    assert not kernel.exists(PLACE)


# -- ports of the host


def test_a_free_port_passes_and_an_address_of_nobody_is_told(kernel: Kernel) -> None:
    kernel.probe_port("tcp", None, 8080)
    kernel.probe_port("udp", IPv4Address("127.0.0.1"), 8080)
    with refused(errno.EADDRNOTAVAIL):
        kernel.probe_port("tcp", IPv4Address("192.0.2.1"), 8080)


def test_a_port_somebody_listens_on_is_told_with_its_holder(kernel: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 8080)):
        if isinstance(kernel, FakeKernel):
            kernel.listening["tcp", 8080] = "'python3' (pid 1)"
        with refused(errno.EADDRINUSE):
            kernel.probe_port("tcp", None, 8080)
        assert "pid" in (kernel.port_holder("tcp", 8080) or "")
    assert kernel.port_holder("tcp", 8081) is None


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_flows_nobody_has_are_forgotten_without_a_word(kernel: Kernel, protocol: str) -> None:
    kernel.forget_flows(Publish(None, 8080, IPv4Address("10.88.0.2"), 80, protocol))


# -- files


def test_a_file_is_never_written_over_another(kernel: Kernel, base: str) -> None:
    kernel.write_file(f"{base}/hosts", "ours\n")
    with refused(errno.EEXIST):
        kernel.write_file(f"{base}/hosts", "theirs\n")
    with refused(errno.ENOENT):
        kernel.write_file(f"{base}/no/hosts", "")
    kernel.edit_file(f"{base}/hosts", lambda text: text + "more\n")
    assert content(kernel, f"{base}/hosts") == "ours\nmore\n"


def content(kernel: Kernel, path: str) -> str:
    seen: list[str] = []

    def look(text: str) -> str:
        seen.append(text)
        return text

    kernel.edit_file(path, look)
    return seen[0]


def test_a_file_that_is_gone_cannot_be_edited_but_removed(kernel: Kernel, base: str) -> None:
    kernel.write_file(f"{base}/hosts", "")
    kernel.remove_file(f"{base}/hosts")
    kernel.remove_file(f"{base}/hosts")
    assert not kernel.exists(f"{base}/hosts")
    with refused(errno.ENOENT):
        kernel.edit_file(f"{base}/hosts", str.upper)


def test_a_directory_stays_while_there_is_something_in_it(kernel: Kernel, base: str) -> None:
    kernel.make_directory(f"{base}/a/b")
    kernel.make_directory(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a")
    assert kernel.exists(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a/b")
    kernel.remove_directory(f"{base}/a")
    kernel.remove_directory(f"{base}/a")
    assert not kernel.exists(f"{base}/a")


# -- the twin's own


def test_the_twin_refuses_the_call_it_is_told_to_and_no_other() -> None:
    kernel = FakeKernel()
    kernel.refuse(call=1, code=errno.ENOSPC)
    kernel.create_netns("a")
    with refused(errno.ENOSPC):
        kernel.create_netns("b")
    kernel.create_netns("b")
    kernel.refuse(method="set_up", forever=True)
    before = kernel.dump()
    for _ in range(2):
        with refused(errno.EBUSY):
            kernel.netlink().set_up("lo")
    assert kernel.dump() == before
    kernel.relent()
    kernel.netlink().set_up("lo")
    assert kernel.dump() != before
