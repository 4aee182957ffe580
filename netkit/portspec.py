"""Published ports: what is asked for, and what it became. They refuse nonsense.

Units    ports 1-65535
Errors   InvalidSpec, before any effect
Source   docker run(1) for `-p`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from netkit import addresses, naming
from netkit.addresses import Address
from netkit.errors import InvalidSpec

PROTOCOLS = ("tcp", "udp", "sctp")


class PortSpec(msgspec.Struct, frozen=True):
    """One `-p`: where on the host, and which ports of the container. Port 0: any free one.

    `address` None: all of the host's, of either version; 0.0.0.0 or [::]: all of that one.
    `device`: what comes in by that interface of the host only. `network`: of several networks the
    one to publish on.
    """

    address: Address | None
    first: int
    last: int
    port: int
    protocol: str = "tcp"
    count: int = 1
    device: str | None = None
    network: str | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[PortSpec, ...]:
        """Docker's `[[ip:][hostPort]:]containerPort[/protocol]`, each port perhaps a range.

        An interface of the host may stand where the address does, and `@network` at the end.
        """

        def refuse(why: str) -> InvalidSpec:
            return InvalidSpec(
                f"invalid published port {text!r:.80}: {why}",
                hint="write [[ip:][hostPort]:]containerPort[/protocol], "
                "as in 8080:80, 127.0.0.1::53/udp, [::1]:8080:80 or 8000-8009:8000-8009",
            )

        main, at, network = text.partition("@")
        if at:
            naming.validate_name("network", network)
        main, slash, protocol = main.partition("/")
        protocol = protocol.lower() if slash else "tcp"
        if protocol not in PROTOCOLS:
            raise refuse(f"protocol {protocol!r:.20} is not one of {', '.join(PROTOCOLS)}")
        where, host, container = _split_port(main, refuse)
        address, device = _host_part(where, refuse)

        def spec(low: int, high: int, port: int, count: int = 1) -> PortSpec:
            return cls(address, low, high, port, protocol, count, device, network or None)

        first, last = _port_range(container, refuse)
        if not host:
            low = high = 0
        else:
            low, high = _port_range(host, refuse)
        inside, outside = last - first + 1, high - low + 1
        if low == 0:
            return tuple(spec(0, 0, port) for port in range(first, last + 1))
        if inside == 1:
            return (spec(low, high, first),)
        if inside != outside:
            raise refuse(
                f"{outside} host ports for {inside} container ports "
                f"({low}-{high} and {first}-{last})"
            )
        return (spec(low, low, first, inside),)

    def __str__(self) -> str:
        """As for `-p`."""

        def span(first: int, last: int) -> str:
            return f"{first}" if first == last else f"{first}-{last}"

        where = self.device or (addresses.bracketed(self.address) if self.address else "")
        inside = f"{span(self.port, self.port + self.count - 1)}/{self.protocol}"
        outside = span(self.first, max(self.last, self.first + self.count - 1))
        if not self.first:
            outside = ""
        text = f"{where}:{outside}:{inside}" if where else f"{outside}:{inside}".lstrip(":")
        return f"{text}@{self.network}" if self.network else text

    @classmethod
    def exposed(cls, text: str) -> tuple[PortSpec, ...]:
        """`--expose 80/tcp` or a range of ports: each of them, at any free port of the host."""
        if ":" in text:
            raise InvalidSpec(
                f"invalid port {text!r:.80}", hint="write PORT, PORT-PORT or PORT/udp"
            )
        return cls.parse(text)


def _split_port(text: str, refuse: Callable[[str], InvalidSpec]) -> tuple[str, str, str]:
    """(host address or interface, host port, container port); what is absent is empty."""
    where, bracket, rest = "", "", text
    if text.startswith("["):
        where, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise refuse("an IPv6 address ends with ']:'")
        rest = rest[1:]
    *host, container = rest.split(":")
    if bracket and len(host) == 1:
        host = [where, *host]
    if len(host) > 2 or (bracket and len(host) != 2):
        raise refuse("IPv6 addresses stand in brackets" if len(host) > 2 else "a port is missing")
    if not host:
        return "", "", container
    return ("", host[0], container) if len(host) == 1 else (host[0], host[1], container)


def _host_part(
    text: str, refuse: Callable[[str], InvalidSpec]
) -> tuple[Address | None, str | None]:
    """The address of the host, or the interface."""
    if not text:
        return None, None
    if text[0].isalpha() and ":" not in text:
        return None, naming.validate_ifname(text)
    try:
        address = addresses.address("host address", text)
    except InvalidSpec:
        raise refuse(f"{text!r:.40} is neither an IP address nor an interface") from None
    if addresses.is_nobodys(address):
        raise refuse(f"no interface can have the address {address}")
    return address, None


def _port_range(text: str, refuse: Any) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    ends = (low, high) if dash else (low, low)
    for end in ends:
        if not (end.isascii() and end.isdigit() and len(end) <= 5 and 1 <= int(end) <= 65535):
            raise refuse(f"{end!r:.20} is not a port (1-65535)")
    first, last = int(ends[0]), int(ends[1])
    if last < first:
        raise refuse(f"the range {text} runs backwards")
    return first, last


class PortMapping(msgspec.Struct, frozen=True):
    """One publication as it is: `count` ports from `host_port` on, to those from `port` on.

    `host_address` 0.0.0.0 or ::, all addresses of that version. `by` is what leads there: address
    translation ("nat"), a process that listens and connects ("proxy"), or "both": translation, and
    at [::1], which the kernel does not translate, the process.
    """

    host_address: Address
    host_port: int
    port: int
    protocol: str
    count: int = 1
    device: str | None = None
    by: str = "nat"

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each (container port, host port)."""
        return ((self.port + i, self.host_port + i) for i in range(self.count))

    @property
    def spec(self) -> PortSpec:
        """What asks for just this one."""
        where, first = self.host_address, self.host_port
        return PortSpec(where, first, first, self.port, self.protocol, self.count, self.device)

    def __str__(self) -> str:
        """As `docker ps` shows it: 0.0.0.0:8080->80/tcp."""

        def span(first: int) -> str:
            return str(first) if self.count == 1 else f"{first}-{first + self.count - 1}"

        where = self.device or addresses.bracketed(self.host_address)
        return f"{where}:{span(self.host_port)}->{span(self.port)}/{self.protocol}"
