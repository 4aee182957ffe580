"""Published ports: who holds which, and which is free.

Shapes   a claim is (protocol, host address or "" for all, first and last port, endpoint id); claims
         live beside the records and commit with them
Errors   Conflict, in Docker's words, naming the holder; Exhausted when no random port is left
Source   random ports: the kernel's ip_local_port_range less ip_local_reserved_ports, next after the
         last one given, as Docker does
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Protocol

from netkit.errors import Conflict, Exhausted, InvalidSpec
from netkit.model import PortMapping, PortSpec

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS claim (
        protocol TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        address TEXT NOT NULL, endpoint TEXT NOT NULL,
        PRIMARY KEY (protocol, first, address, endpoint)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS claim_endpoint ON claim (endpoint)",
    "CREATE INDEX IF NOT EXISTS claim_range ON claim (protocol, first) WHERE last > first",
    """CREATE TABLE IF NOT EXISTS claim_last (
        protocol TEXT PRIMARY KEY, port INTEGER NOT NULL) WITHOUT ROWID""",
)
# Two lookups, neither of which grows with the number of claims: those that start inside, by the
# primary key; and ranges that start below, of which there are few (left to itself, SQLite would go
# through all claims below instead)
_CLASH = """SELECT endpoint FROM claim WHERE protocol=?1 AND first BETWEEN ?2 AND ?3
        AND (address=?4 OR address='' OR ?4='')
    UNION ALL SELECT endpoint FROM claim INDEXED BY claim_range
        WHERE protocol=?1 AND last>first AND first<?2 AND last>=?2
        AND (address=?4 OR address='' OR ?4='')
    LIMIT 1"""


class Host(Protocol):
    """What is asked of the machine; netkit.kernel.Kernel is one."""

    def probe_port(self, protocol: str, address: IPv4Address | None, port: int) -> None: ...
    def port_holder(self, protocol: str, port: int) -> str | None: ...
    def local_ports(self) -> tuple[range, set[int]]: ...


class Ports:
    """The claims, on a caller's connection and in its transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        for statement in _SCHEMA:
            connection.execute(statement)

    def claim(
        self, endpoint: str, spec: PortSpec, host: Host, name: Callable[[str], str]
    ) -> PortMapping:
        """Claim what *spec* asks for; *name* tells whom an endpoint id in a message means."""
        if spec.first == 0:
            port = self._random(spec, host)
        elif spec.last > spec.first:
            port = self._first_free(spec, host)
        else:
            port = spec.first
            self._must_be_free(spec, host, name)
        address = str(spec.address or "")
        last = port + spec.count - 1
        self._db.execute(
            "INSERT INTO claim VALUES (?,?,?,?,?)", (spec.protocol, port, last, address, endpoint)
        )
        return PortMapping(spec.address, port, spec.port, spec.protocol, spec.count)

    def release(self, endpoint: str) -> None:
        self._db.execute("DELETE FROM claim WHERE endpoint=?", (endpoint,))

    def holder(self, spec: PortSpec) -> str | None:
        """The endpoint that has any of the ports of *spec*."""
        last = spec.first + spec.count - 1
        return self._clash(spec.protocol, spec.first, last, spec.address)

    def _clash(
        self, protocol: str, first: int, last: int, address: IPv4Address | None
    ) -> str | None:
        row = self._db.execute(_CLASH, (protocol, first, last, str(address or ""))).fetchone()
        return row[0] if row else None

    def _must_be_free(self, spec: PortSpec, host: Host, name: Callable[[str], str]) -> None:
        where = spec.address or "0.0.0.0"
        last = spec.first + spec.count - 1
        if clash := self._clash(spec.protocol, spec.first, last, spec.address):
            raise Conflict(
                f"Bind for {where}:{spec.first} failed: port is already allocated "
                f"(by container '{name(clash)}')",
                hint="choose another host port, or remove that container",
            )
        for port in range(spec.first, last + 1):
            try:
                host.probe_port(spec.protocol, spec.address, port)
            except OSError as error:
                raise _refused(spec, port, error, host) from error

    def _is_free(self, spec: PortSpec, port: int, host: Host) -> bool:
        if self._clash(spec.protocol, port, port, spec.address):
            return False
        try:
            host.probe_port(spec.protocol, spec.address, port)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            raise _refused(spec, port, error, host) from error
        return True

    def _first_free(self, spec: PortSpec, host: Host) -> int:
        for port in range(spec.first, spec.last + 1):
            if self._is_free(spec, port, host):
                return port
        raise Exhausted(
            f"all ports of {spec.first}-{spec.last}/{spec.protocol} are taken "
            f"({spec.last - spec.first + 1} of {spec.last - spec.first + 1})",
            hint="widen the range",
        )

    def _random(self, spec: PortSpec, host: Host) -> int:
        ports, holes = host.local_ports()
        query = "SELECT port FROM claim_last WHERE protocol=?"
        row = self._db.execute(query, (spec.protocol,)).fetchone()
        start = row[0] + 1 - ports.start if row else 0
        for i in range(len(ports)):
            port = ports[(start + i) % len(ports)]
            if port not in holes and self._is_free(spec, port, host):
                self._db.execute(
                    "INSERT OR REPLACE INTO claim_last VALUES (?,?)", (spec.protocol, port)
                )
                return port
        raise Exhausted(
            f"no free {spec.protocol} port between {ports.start} and {ports.stop - 1}",
            hint="widen net.ipv4.ip_local_port_range, or name host ports yourself",
        )


def _refused(spec: PortSpec, port: int, error: OSError, host: Host) -> Exception:
    where = f"{spec.address or '0.0.0.0'}:{port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidSpec(
            f"cannot publish on {where}: no interface of this host has the address {spec.address}",
            hint="`ip addr` lists the host's addresses",
        )
    if error.errno == errno.EADDRINUSE:
        by = host.port_holder(spec.protocol, port) or "another process of this host"
        return Conflict(
            f"Bind for {where} failed: port is already in use by {by}",
            hint="choose another host port, or stop that process",
        )
    return InvalidSpec(f"cannot publish on {where}: {error.strerror}")
