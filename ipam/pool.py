"""A pool: the addresses of one subnet, and which of them may be handed out.

Shapes   an address inside is its offset: an int, 0 for the subnet's first address; `first`..`last`
         is usable, dynamic leases come from `ranges` (ends included)
Units    prefix lengths in bits; a lease has no expiry (its owner releases it, or gc does)
Errors   InvalidPool, AddressOutOfRange, AddressInUse (ipam.errors)
Source   usable range: RFC 3021 (/31), RFC 6164 (/127), RFC 4291 2.6.1 (offset 0 of an IPv6 subnet
         is the subnet-router anycast address); reserved addresses: Docker's --aux-address
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from itertools import combinations
from types import MappingProxyType

from ipam.errors import AddressInUse, AddressOutOfRange, InvalidPool

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface


class Ranges(tuple[tuple[int, int], ...]):
    """Offsets, as pairs of first and last; a position counts them through, in their order."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Ranges:
        """What `str` of it was."""
        pairs = (part.split("-") for part in text.split())
        return cls((int(first), int(last)) for first, last in pairs)

    def __str__(self) -> str:
        return " ".join(f"{first}-{last}" for first, last in self)

    @property
    def size(self) -> int:
        """How many offsets: one more than the last position."""
        return sum(last - first + 1 for first, last in self)

    def position(self, offset: int) -> int | None:
        """The position of *offset*, if it lies in a range."""
        before = 0
        for first, last in self:
            if first <= offset <= last:
                return before + offset - first
            before += last - first + 1
        return None

    def at(self, position: int) -> int:
        """The offset at *position*, which is below `size`."""
        for first, last in self:
            if position <= last - first:
                break
            position -= last - first + 1
        return first + position

    def cover(self, offset: int) -> bool:
        return any(first <= offset <= last for first, last in self)


class Pool:
    """The addresses of *subnet*; frozen.

    gateway      the first usable address by default; "none": no gateway, all are for endpoints
    ip_range     where dynamic leases come from: a part of the subnet, "a.b.c.d/n" or "first-last",
                 or several, of which the first is used up first; "none": nowhere, so that an
                 endpoint has the address it asks for, and asks for one
    reserved     {name: address}, never handed out
    name         what its leases are filed under; the subnet's text by default
    round_robin  hand out the next after the last one granted, instead of the lowest free
    sticky       keep what an owner releases for the same owner, while other addresses are left;
                 then what was released longest ago is handed out first
    """

    __slots__ = (
        "capacity",
        "excluded",
        "first",
        "gateway",
        "last",
        "name",
        "ranges",
        "reserved",
        "round_robin",
        "shape",
        "sticky",
        "subnet",
    )
    subnet: Network
    name: str
    first: int
    last: int
    ranges: Ranges
    gateway: int | None
    reserved: Mapping[str, int]
    excluded: frozenset[int]  # the gateway and the reserved
    capacity: int  # how many dynamic leases fit
    round_robin: bool
    sticky: bool
    shape: str  # all of the above that leases depend on

    def __init__(
        self,
        subnet: str | Network,
        *,
        gateway: str | Address | None = None,
        ip_range: str | Network | Sequence[str | Network] | None = None,
        reserved: Mapping[str, str | Address] | None = None,
        name: str | None = None,
        round_robin: bool = False,
        sticky: bool = False,
    ) -> None:
        freeze = super().__setattr__
        freeze("subnet", parse_network(subnet))
        freeze("name", name or str(self.subnet))
        freeze("round_robin", round_robin)
        freeze("sticky", sticky)
        size = self.subnet.num_addresses
        edge = 1 if size > 2 else 0
        freeze("first", edge)
        freeze("last", size - 1 - edge * (self.subnet.version == 4))

        freeze("ranges", self._ranges(ip_range))

        freeze("gateway", self._gateway(gateway))
        named = {key: self._usable(ip, f"reserved {key!r}") for key, ip in (reserved or {}).items()}
        freeze("reserved", MappingProxyType(named))
        gateways = set() if self.gateway is None else {self.gateway}
        if gateways & {*named.values()}:
            raise InvalidPool(f"the gateway {self.address(*gateways)} cannot be reserved as well")
        freeze("excluded", frozenset(gateways | {*named.values()}))
        freeze("capacity", self.ranges.size - sum(map(self.ranges.cover, self.excluded)))
        order = ("sticky " if sticky else "") + ("round-robin" if round_robin else "lowest-free")
        freeze("shape", f"{self.subnet} {self.ranges} {order} not {sorted(self.excluded)}")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Pool is frozen: {name} stays as it is")

    def __repr__(self) -> str:
        return f"<Pool {self.name}: {self.where()}>"

    def address(self, offset: int) -> Address:
        return self.subnet[offset]

    def interface(self, offset: int) -> Interface:
        """The address with the subnet's prefix length: what an endpoint is given."""
        return ip_interface(f"{self.subnet[offset]}/{self.subnet.prefixlen}")

    def offset(self, address: str | Address) -> int:
        """Where *address* lies in the subnet."""
        ip = parse_address(address)
        if ip not in self.subnet:
            raise AddressOutOfRange(f"{ip} is not in {self.subnet}")
        return int(ip) - int(self.subnet.network_address)

    def claim(self, address: str | Address) -> int:
        """The offset of *address*, if an endpoint may ask for it (it may be leased already)."""
        offset = self.offset(address)
        if not self.first <= offset <= self.last:
            raise AddressOutOfRange(
                f"{self.address(offset)} is the {self._edge(offset)} address of {self.subnet}"
            )
        if offset == self.gateway:
            raise AddressInUse(f"{self.address(offset)} is the gateway of {self.subnet}")
        if offset in self.excluded:
            name = next(name for name, x in self.reserved.items() if x == offset)
            raise AddressInUse(f"{self.address(offset)} is reserved for {name!r} in {self.subnet}")
        return offset

    def spans(self, address: Address) -> bool:
        """Whether *address* is of the part dynamic leases come from."""
        return address in self.subnet and self.ranges.cover(self.offset(address))

    def overlaps(self, other: Pool) -> bool:
        """Whether some address could be leased dynamically from both."""
        return any(
            one.spans(two.address(start))
            for one, two in ((self, other), (other, self))
            for start, _ in two.ranges
        )

    def where(self) -> str:
        """Where dynamic leases come from, in words: the subnet, or the ranges of it."""
        if self.ranges == self._whole():
            return str(self.subnet)
        ends = ((self.address(start), self.address(stop)) for start, stop in self.ranges)
        spans = " and ".join(f"{start}-{stop}" for start, stop in ends)
        return f"{spans or 'no range'} of {self.subnet}"

    def _ranges(self, ip_range: str | Network | Sequence[str | Network] | None) -> Ranges:
        if ip_range is None:
            return self._whole()
        if isinstance(ip_range, str | IPv4Network | IPv6Network):
            ip_range = (ip_range,)
        parts = tuple(ip_range)
        if parts in ((), ("none",)):
            return Ranges() if parts else self._whole()
        ranges = Ranges(map(self._range, parts))
        for (this, (a, b)), (that, (c, d)) in combinations(zip(parts, ranges, strict=True), 2):
            if a <= d and c <= b:
                raise InvalidPool(f"range {this} overlaps range {that}")
        return ranges

    def _whole(self) -> Ranges:
        return Ranges([(self.first, self.last)])

    def _range(self, ip_range: str | Network) -> tuple[int, int]:
        if isinstance(ip_range, str) and "-" in ip_range:
            first, _, last = ip_range.partition("-")
            ends = parse_address(first), parse_address(last)
        else:
            part = parse_network(ip_range)
            ends = part[0], part[-1]
        if any(ip not in self.subnet for ip in ends):
            raise InvalidPool(f"range {ip_range} is not a part of {self.subnet}")
        low, high = (int(ip) - int(self.subnet.network_address) for ip in ends)
        start, stop = max(low, self.first), min(high, self.last)
        if start > stop:
            raise InvalidPool(f"range {ip_range} has no usable address of {self.subnet}")
        return start, stop

    def _gateway(self, gateway: str | Address | None) -> int | None:
        if gateway is None:  # a link of two has no address to spare (RFC 3021, RFC 6164)
            return self.first or None
        return None if gateway == "none" else self._usable(gateway, "gateway")

    def _usable(self, address: str | Address, role: str) -> int:
        try:
            offset = self.offset(address)
        except AddressOutOfRange as refused:
            raise InvalidPool(f"{role}: {refused}") from None
        if not self.first <= offset <= self.last:
            raise InvalidPool(
                f"{role}: {address} is the {self._edge(offset)} address of {self.subnet}"
            )
        return offset

    def _edge(self, offset: int) -> str:
        if offset:
            return "broadcast"
        return "network" if self.subnet.version == 4 else "subnet-router anycast"


def parse_network(subnet: str | Network) -> Network:
    """The subnet in *subnet*: "10.88.0.0/24", nothing looser."""
    if not isinstance(subnet, str):
        return subnet
    address, slash, prefix = subnet.partition("/")
    ip = parse_address(address)
    if not slash:
        width = 24 if ip.version == 4 else 64
        meant = ip_network(f"{ip}/{width}", strict=False)
        raise InvalidPool(f"{subnet!r} has no prefix length", f"write {meant}, or another length")
    # digits only: netmasks and host masks look alike (0.0.0.255), and Docker refuses both
    digits = prefix.isascii() and prefix.isdigit() and len(prefix) < 4
    if not digits or int(prefix) > ip.max_prefixlen:
        raise InvalidPool(
            f"{subnet!r}: {prefix!r} is no prefix length", f"write 0 to {ip.max_prefixlen}"
        )
    network = ip_network(f"{ip}/{prefix}", strict=False)
    if network.network_address != ip:
        raise InvalidPool(
            f"{subnet!r} is an address inside the subnet {network}", f"write {network}"
        )
    return network


def parse_address(address: str | Address) -> Address:
    """The address in *address*, without zone or prefix length."""
    if not isinstance(address, str):
        return address
    try:
        if "%" not in address:
            return ip_address(address)
    except ValueError:
        pass
    raise InvalidPool(f"{address!r} is no IP address", "write it like 10.88.0.1 or fd00:88::1")
