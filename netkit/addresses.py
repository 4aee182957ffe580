"""IP addresses of either version: the types values are made of, and how people's text is read.

Shapes   `Address`, `Interface` (an address with its prefix length), `Network`: for a type checker
         the union of ipaddress's two classes; at run time one class the two are registered with,
         for msgspec takes no union of two
Errors   InvalidSpec, which names what was to be read
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
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
from typing import TYPE_CHECKING, Any, TypeAlias

from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    Address: TypeAlias = IPv4Address | IPv6Address
    Interface: TypeAlias = IPv4Interface | IPv6Interface
    Network: TypeAlias = IPv4Network | IPv6Network
else:

    class Address(ABC):  # noqa: B024  (registered with, never subclassed)
        ...

    class Interface(ABC):  # noqa: B024
        ...

    class Network(ABC):  # noqa: B024
        ...

    for _any, _kinds in (
        (Address, (IPv4Address, IPv6Address)),
        (Interface, (IPv4Interface, IPv6Interface)),
        (Network, (IPv4Network, IPv6Network)),
    ):
        for _kind in _kinds:
            _any.register(_kind)

VERSIONS = (4, 6)
_BROADCAST = IPv4Address("255.255.255.255")
WILDCARDS: dict[int, Address] = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}
_READERS: dict[Any, Callable[[str], Any]] = {
    Address: ip_address,
    Interface: ip_interface,
    Network: ip_network,
}


def to_text(value: Any) -> str:
    """What msgspec asks for when it meets a type it does not know."""
    if isinstance(value, (IPv4Address, IPv6Address, IPv4Network, IPv6Network)):
        return str(value)
    raise TypeError(f"no text form for {type(value)}")


@lru_cache(4096)  # the same few stand in each record of a network: 5 us each time
def from_text(wanted: Any, text: Any) -> Any:
    """What `to_text` made the text of."""
    return _READERS.get(wanted, wanted)(text)


def versions(addresses: Iterable[Address | Interface | Network]) -> tuple[int, ...]:
    """Which IP versions are among these."""
    found = {address.version for address in addresses}
    return tuple(version for version in VERSIONS if version in found)


def address(what: str, text: str, *, version: int | None = None) -> Address:
    """The address in *text*, perhaps of one version only; without a zone or a length."""
    try:
        found = ip_address(text) if "%" not in text else None
    except ValueError:
        found = None
    if found is None or version not in (None, found.version):
        kind = "IP" if version is None else f"IPv{version}"
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: not an {kind} address",
            hint="such as fd00:25::3" if version == 6 else "such as 172.25.3.3",
        )
    return found


def network(what: str, text: str) -> Network:
    """A network in CIDR form, without host bits: those are likelier a slip than a wish."""
    if "/" not in text:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: no prefix length",
            hint="write it as an address and a length, such as 172.25.0.0/16",
        )
    try:
        if "%" not in text:  # ipaddress takes anything for a zone
            return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text.replace("%", "?"), strict=False)
    except ValueError:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: not an IP network",
            hint="such as 172.25.0.0/16 or fd00:25::/64",
        ) from None
    raise InvalidSpec(
        f"invalid {what} {text!r:.80}: host bits are set", hint=f"did you mean {meant}?"
    )


def ranges(what: str, text: str) -> tuple[Network, ...]:
    """A part of a subnet, in CIDR form or as `first-last`: the fewest networks that make it up."""
    if "-" not in text:
        return (network(what, text),)
    low, _, high = text.partition("-")
    try:
        first = address(what, low)
        last = address(what, high, version=first.version)
    except InvalidSpec:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: not two addresses of one IP version with a - between",
            hint="such as 172.25.0.10-172.25.0.20",
        ) from None
    if last < first:  # type: ignore[operator]  # of one version
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: it runs backwards", hint=f"did you mean {last}-{first}?"
        )
    from netaddr import iprange_to_cidrs

    return tuple(ip_network(str(each)) for each in iprange_to_cidrs(str(first), str(last)))


def ends(parts: Iterable[Network]) -> list[tuple[Address, Address]]:
    """First and last address of each; those that continue one another are one."""
    found: list[tuple[Address, Address]] = []
    for part in parts:
        first, last = part[0], part[-1]
        if found and first.version == found[-1][1].version and int(first) == int(found[-1][1]) + 1:
            first = found.pop()[0]
        found.append((first, last))
    return found


def spans(parts: Sequence[Network]) -> tuple[str, ...]:
    """What people write for `ranges`: one network as it is, several that are one as first-last."""
    whole = {(part[0], part[-1]): str(part) for part in parts}
    return tuple(whole.get((a, b), f"{a}-{b}") for a, b in ends(parts))


def interface(what: str, text: str) -> Interface:
    """An address with its prefix length."""
    if "/" in text and "%" not in text:
        try:
            return ip_interface(text)
        except ValueError:
            pass
    raise InvalidSpec(
        f"invalid {what} {text!r:.80}: an address with a prefix length is wanted",
        hint="such as 172.25.0.1/16 or fd00:25::1/64",
    )


def link_local_address(text: str) -> Interface:
    """A link-local address, with the length such addresses have unless there is one in *text*."""
    plain = "/" not in text
    ip = address("link-local address", text) if plain else interface("address", text).ip
    if not ip.is_link_local:
        raise InvalidSpec(
            f"invalid link-local address {text!r:.80}: it is of another kind",
            hint="they are in 169.254.0.0/16 and fe80::/10",
        )
    return ip_interface(f"{ip}/{16 if ip.version == 4 else 64}" if plain else text)


def bracketed(ip: Address) -> str:
    """As it stands before a colon and a port."""
    return f"[{ip}]" if ip.version == 6 else str(ip)


def link_local(mac: str) -> IPv6Address:
    """The address the kernel gives an interface with this MAC (RFC 4291 appendix A)."""
    octets = bytes.fromhex(mac.replace(":", ""))
    eui = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + eui)


def is_nobodys(ip: Address) -> bool:
    """Whether no interface can have it: it means many at once."""
    return ip.is_multicast or ip == _BROADCAST
