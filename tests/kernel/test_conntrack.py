"""Flows, on the real connection table: which are forgotten, and which are left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address

import pytest

from netkit.firewall import Publish, nfnetlink
from netkit.firewall.nftables import Nftables
from netkit.kernel import Kernel, conntrack
from scenarios.lab import Host

CONTAINER = IPv4Address("10.88.0.2")


@pytest.fixture
def kernel(host: Host) -> Iterator[Kernel]:
    """A host whose firewall tracks connections."""
    firewall = Nftables()
    firewall.open()
    with Kernel(firewall) as kernel:
        yield kernel


def flows(version: int = 4) -> list[tuple[str, int]]:
    """Where the UDP flows of this host go."""
    with nfnetlink.opened() as sock:
        found = list(conntrack._flows(sock, version, socket.IPPROTO_UDP, range(1, 65536)))
    return sorted((str(to), port) for _, port, to, _ in found)


def send(*places: tuple[str, int]) -> None:
    with ExitStack() as stack:
        for place in places:
            family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.sendto(b"?", place)


def publish(port: int, *, address: str | None = None, count: int = 1) -> Publish:
    there = IPv4Address(address) if address else None
    return Publish(there, port, CONTAINER, port, "udp", count)


def test_the_flows_of_several_published_ports_are_forgotten_at_once(kernel: Kernel) -> None:
    send(*(("127.0.0.1", port) for port in (5000, 5001, 5002, 5003, 6000)))
    assert len(flows()) == 5
    kernel.forget_flows(publish(5000), publish(5001, count=2), publish(6000))
    assert flows() == [("127.0.0.1", 5003)]


def test_a_port_published_on_one_address_has_no_part_in_the_flows_of_another(
    kernel: Kernel,
) -> None:
    send(("127.0.0.1", 5000), ("127.0.0.2", 5000), ("127.0.0.1", 5001), ("127.0.0.2", 5001))
    kernel.forget_flows(publish(5000, address="127.0.0.1"), publish(5001, address="127.0.0.2"))
    assert flows() == [("127.0.0.1", 5001), ("127.0.0.2", 5000)]


def test_the_flows_of_a_port_published_in_ipv6_are_forgotten_and_no_others(kernel: Kernel) -> None:
    send(("::1", 5000), ("::1", 5001), ("127.0.0.1", 5000))
    assert flows(6) == [("::1", 5000), ("::1", 5001)]
    kernel.forget_flows(Publish(None, 5000, IPv6Address("fd00::2"), 5000, "udp"))
    assert flows(6) == [("::1", 5001)]
    assert flows(4) == [("127.0.0.1", 5000)]


def test_the_socket_serves_again_after_an_error(kernel: Kernel) -> None:
    def break_off() -> None:
        with nfnetlink.opened() as sock:
            conntrack._request(sock, 4, conntrack._CT_GET, 0x301, b"")  # answers nobody reads
            raise OSError("broken")

    send(("127.0.0.1", 5000))
    with pytest.raises(OSError, match="broken"):
        break_off()
    kernel.forget_flows(publish(5000))
    assert flows() == []


def test_a_closed_socket_lets_the_namespace_go(kernel: Kernel) -> None:
    send(("127.0.0.1", 5000))
    kernel.forget_flows(publish(5000))
    assert vars(nfnetlink._kept)
    nfnetlink.close()
    assert not vars(nfnetlink._kept)
