"""Who may talk to whom: what is said of it, as values that refuse nonsense.

Shapes   an `Allowance` opens a closed network from one container to another's ports; an
         `EgressRule` is one line of a list of where packets may leave to; a `ContainerLink` is
         Docker's `--link CONTAINER:ALIAS`
Units    ports 1-65535, `count` consecutive ones from `port` on; `port` None is all there is
Errors   InvalidSpec, before any effect
Source   docker run(1) for --link
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network

import msgspec

from netkit import addresses, naming
from netkit.addresses import Network
from netkit.errors import InvalidSpec

ANYONE = "*"
HOST = "host"
_PROTOCOLS = ("tcp", "udp", "sctp")
_MOST_OF_DOMAIN = 16  # ports: each is a rule for each address the name leads to


class Allowance(msgspec.Struct, frozen=True):
    """Container *client* may reach *server*, by name. ANYONE of the network; HOST, its services."""

    client: str
    server: str
    port: int | None = None
    protocol: str | None = None
    count: int = 1

    @classmethod
    def parse(cls, client: str, text: str) -> Allowance:
        """`web` and `db:5432/tcp`: a container, perhaps with a port or a range, tcp unless said."""
        server, colon, ports = text.partition(":")
        if server == ANYONE:
            raise InvalidSpec(
                f"invalid allowance {client!r:.80} to {text!r:.80}: one container is to be reached",
                hint="where everybody may reach everybody: netkit policy NETWORK open",
            )
        if client != ANYONE:
            naming.validate_name("container", client)
        naming.validate_name("container", server)
        if HOST in (client, server) and not (server == HOST and colon):
            raise InvalidSpec(
                f"invalid allowance {client!r:.80} to {text!r:.80}: of the host, a port is wanted",
                hint=f"such as {HOST}:9100/tcp",
            )
        if not colon:
            return cls(client, server)
        return cls(client, server, *_ports(text, ports))

    @property
    def ports(self) -> str:
        """`:5432/tcp`; empty: all."""
        return _shown(self.port, self.protocol, self.count)

    def __str__(self) -> str:
        return f"{self.client} -> {self.server}{self.ports}"


class EgressRule(msgspec.Struct, frozen=True):
    """Packets may leave to *destination*, or to what *domain* (or what is below *.domain) names."""

    destination: Network | None = None
    domain: str | None = None
    port: int | None = None
    protocol: str | None = None
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> EgressRule:
        """`10.0.0.0/8:443`, `[2001:db8::]/32`, `192.0.2.7:53/udp`, `example.com:443`."""
        where, ports = _split(text)
        found: tuple[int | None, str | None, int] = (None, None, 1)
        if ports is not None:
            found = _ports(text, ports)
        if any(c.isalpha() for c in where) and ":" not in where:
            star, name = ("*.", where[2:]) if where.startswith("*.") else ("", where)
            naming.validate_domain("domain", name)
            if found[2] > _MOST_OF_DOMAIN:
                raise InvalidSpec(
                    f"invalid ports in {text!r:.80}: of a name {_MOST_OF_DOMAIN} at most, or all",
                    hint=f"leave them out, or give addresses; or fewer: {where}:443",
                )
            return cls(None, star + name.lower().removesuffix("."), *found)
        try:
            return cls(ip_network(where), None, *found)
        except ValueError:
            pass
        return cls(addresses.network("destination", where), None, *found)

    def covers(self, name: str) -> bool:
        """Whether what a name leads to is meant; the name in lower case, without final dot."""
        if self.domain is None:
            return False
        below = self.domain.startswith("*.")
        return name.endswith(self.domain[1:]) if below else name == self.domain

    @property
    def where(self) -> str:
        return self.domain or str(self.destination)

    @property
    def ports(self) -> str:
        """`:443/tcp`; empty: all."""
        return _shown(self.port, self.protocol, self.count)

    def __str__(self) -> str:
        where = self.where
        if ":" in where and self.port is not None:
            address, slash, length = where.partition("/")
            where = f"[{address}]{slash}{length}"
        return where + self.ports


def egress_list(texts: Iterable[str]) -> tuple[EgressRule, ...] | None:
    """The list that options ask for: without any, there is none; `none` alone is an empty one."""
    given = tuple(dict.fromkeys(texts))
    if not given:
        return None
    return () if given == ("none",) else tuple(EgressRule.parse(text) for text in given)


class ContainerLink(msgspec.Struct, frozen=True):
    """Another container, by its name, and what the linking one calls it."""

    target: str
    alias: str

    @classmethod
    def parse(cls, text: str) -> ContainerLink:
        """`db:database`, or `db` alone, which is its own alias."""
        target, colon, alias = text.partition(":")
        naming.validate_name("container", target)
        naming.validate_domain("alias", alias if colon else target)
        return cls(target, alias if colon else target)

    def __str__(self) -> str:
        return f"{self.target}:{self.alias}"


def _split(text: str) -> tuple[str, str | None]:
    """Where, and the ports, if there are any; an IPv6 address with ports stands in brackets."""
    if text.startswith("[") and "]" in text:
        address, _, rest = text[1:].partition("]")
        length, colon, ports = rest.partition(":")
        return address + length, ports if colon else None
    if text.count(":") > 1:
        return text, None
    where, colon, ports = text.partition(":")
    return where, ports if colon else None


def _ports(text: str, ports: str) -> tuple[int, str, int]:
    span, slash, protocol = ports.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    low, dash, high = span.partition("-")
    ends = (low, high if dash else low)
    good = all(end.isascii() and end.isdigit() and 1 <= int(end[:6]) <= 65535 for end in ends)
    if protocol not in _PROTOCOLS or not good or int(ends[1]) < int(ends[0]):
        raise InvalidSpec(
            f"invalid ports in {text!r:.80}: PORT or PORT-PORT (1-65535) and one of "
            f"{', '.join(_PROTOCOLS)} are wanted",
            hint="such as 5432, 8000-8010/tcp or 53/udp",
        )
    return int(ends[0]), protocol, int(ends[1]) - int(ends[0]) + 1


def _shown(port: int | None, protocol: str | None, count: int) -> str:
    if port is None:
        return ""
    return f":{port}{f'-{port + count - 1}' if count > 1 else ''}/{protocol}"
