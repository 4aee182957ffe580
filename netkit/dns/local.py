"""What is answered without asking anybody: the names of those one knows.

Shapes   a name is text, as netkit.dns.message has it
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from netkit.dns import message
from netkit.dns.message import Address, Code, Query, Type

# what resolvers that validate ask about top-level domains; no name of a machine is looked up so
_ABOUT_ZONES = (Type.NS, Type.SOA, Type.DS, Type.DNSKEY)
_FAMILIES: dict[int, tuple[int, ...]] = {Type.A: (4,), Type.AAAA: (6,), Type.ANY: (4, 6)}
_SERVICE = re.compile(r"_([^.]+)\._([^.]+)\.(.+)")


class View(Protocol):
    """What one asker may know."""

    @property
    def upstreams(self) -> Sequence[str]:
        """Addresses of those asked about all else, in order; none: nobody is, SERVFAIL."""

    @property
    def keeps_bare(self) -> bool:
        """Whether nobody else is asked about a name without a dot."""

    def addresses(self, name: str) -> Sequence[Address] | None:
        """Of a name; (): it is there, without any (so a zone's own name); None: it is not ours."""

    def name_of(self, address: Address) -> str | None:
        """Who has the address; None: not known here."""

    def services(self, service: str, protocol: str, name: str) -> Sequence[tuple[int, str]]:
        """Ports and targets of `_service._protocol.name`; the underscores are not passed."""

    def owns(self, name: str) -> bool:
        """Whether *name* is in a zone of ours: if it is not there, nobody else is asked about it.

        The zones of addresses (`10.in-addr.arpa`) are asked about, too.
        """

    def is_watched(self, name: str) -> bool:
        """Whether somebody must learn the addresses an upstream tells before the asker does."""


def answers(
    view: View, query: Query, limit: int, *, first: int = 0, most: int = 1
) -> list[bytes] | None:
    """The answers, of *limit* bytes at most, to be given in turn; None: ask the upstreams.

    Where there is an order to them they are several, *most* of them: the same records, the next of
    which comes first each time, beginning with number *first* (modulo their number).
    """

    def turns(records: list[bytes], type_: Type | None = None) -> list[bytes]:
        if not records or (type_ and query.type not in (type_, Type.ANY)):
            return [message.negative(query, Code.NOERROR)]
        begins = [(first + n) % len(records) for n in range(min(most, len(records)))]
        return [message.answer(query, records[n:] + records[:n], limit) for n in begins]

    name = query.name
    found = view.addresses(name)
    if found is not None:
        wanted = _FAMILIES.get(query.type, ())
        records = [message.address_record(each) for each in found if each.version in wanted]
        return turns(records)
    if name.endswith(".arpa") and (address := _address(name)) is not None:
        host = view.name_of(address)
        if host is not None:
            return turns(_told(message.pointer_record, [(host,)]), Type.PTR)
    elif service := _SERVICE.fullmatch(name):
        services = view.services(*service.groups())
        if services:
            return turns(_told(message.service_record, services), Type.SRV)
        if view.addresses(service[3]) is not None:
            return [message.negative(query, Code.NXDOMAIN)]
    is_bare = view.keeps_bare and "." not in name and name and query.type not in _ABOUT_ZONES
    return [message.negative(query, Code.NXDOMAIN)] if is_bare or view.owns(name) else None


def _told(record: Callable[..., bytes], told: Iterable[tuple[object, ...]]) -> list[bytes]:
    """A record of each; but a container's name may be one that cannot be told by DNS."""
    records = []
    for each in told:
        with suppress(ValueError):
            records.append(record(*each))
    return records


def _address(name: str) -> Address | None:
    """Whose name it is, of those below in-addr.arpa and ip6.arpa."""
    labels = name.split(".")[::-1]
    with suppress(ValueError):
        if labels[1] == "in-addr" and len(labels) == 6:
            return IPv4Address(".".join(labels[2:]))
        if labels[1] == "ip6" and len(labels) == 34:
            return IPv6Address(bytes.fromhex("".join(labels[2:])))
    return None
