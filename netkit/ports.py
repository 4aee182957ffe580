"""Published ports: who holds which, and which is free.

Shapes   a claim is (protocol, first and last port, IP version, host address, endpoint id), where
         the address may be 0.0.0.0 or :: for all of that version, or `%eth0` for an interface;
         claims live beside the records and commit with them
Errors   Conflict, in Docker's words, naming the holder; Exhausted when no random port is left
Source   random ports: the kernel's ip_local_port_range less ip_local_reserved_ports, next after the
         last one given, as Docker does
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from netkit.addresses import WILDCARDS, Address, bracketed
from netkit.errors import Conflict, Exhausted, InvalidSpec
from netkit.portspec import PortMapping, PortSpec

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS claim (
        protocol TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
        version INTEGER NOT NULL, address TEXT NOT NULL, endpoint TEXT NOT NULL,
        PRIMARY KEY (protocol, first, address, version, endpoint)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS claim_endpoint ON claim (endpoint)",
    "CREATE INDEX IF NOT EXISTS claim_range ON claim (protocol, first) WHERE last > first",
    """CREATE TABLE IF NOT EXISTS claim_last (
        protocol TEXT PRIMARY KEY, port INTEGER NOT NULL) WITHOUT ROWID""",
)
# Two lookups, neither of which grows with the number of claims: those that start inside, by the
# primary key; and ranges that start below, of which there are few (left to itself, SQLite would go
# through all claims below instead)
#
# Whatever is bound to an interface may meet whatever is bound to an address, which may be its.
_MEETS = """version=?4 AND (address IN (?5, ?6) OR ?5=?6
        OR (substr(address, 1, 1)='%') <> (substr(?5, 1, 1)='%'))"""
_CLASH = f"""SELECT endpoint, first=?2 AND last=?3 AND address=?5 FROM claim
        WHERE protocol=?1 AND first BETWEEN ?2 AND ?3 AND {_MEETS}
    UNION ALL SELECT endpoint, 0 FROM claim INDEXED BY claim_range
        WHERE protocol=?1 AND last>first AND first<?2 AND last>=?2 AND {_MEETS}"""
_SHARERS = """SELECT DISTINCT other.endpoint FROM claim own
    JOIN claim other USING (protocol, first, address, version)
    WHERE own.endpoint=?1 AND other.endpoint<>?1"""


class Host(Protocol):
    """What is asked of the machine; netkit.kernel.Kernel is one."""

    def probe_port(self, protocol: str, address: Address, port: int) -> None: ...
    def port_holder(self, protocol: str, port: int) -> str | None: ...
    def local_ports(self) -> tuple[range, set[int]]: ...


def create(connection: sqlite3.Connection) -> None:
    """Make the claims' tables, unless they are there."""
    for statement in _SCHEMA:
        connection.execute(statement)


class Ports:
    """The claims, on a caller's connection and in its transaction; their tables are there."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection

    def claim(
        self,
        endpoint: str,
        spec: PortSpec,
        versions: Sequence[int],
        host: Host,
        name: Callable[[str], str],
        shares: Callable[[str], bool] = lambda endpoint: False,
    ) -> tuple[PortMapping, ...]:
        """Claim what *spec* asks for, for each of *versions* if it names no address.

        *name* tells whom an endpoint id in a message means, *shares* whether that endpoint's is no
        clash, should it be the very same claim.
        """
        if spec.address is not None:
            where: list[Address] = [spec.address]
        else:
            where = [WILDCARDS[version] for version in versions]
        wanted = [
            (address, f"%{spec.device}" if spec.device else str(address)) for address in where
        ]
        if spec.first == 0:
            port = self._random(spec, wanted, host)
        elif spec.last > spec.first:
            port = self._first_free(spec, wanted, host)
        else:
            port = spec.first
            self._must_be_free(spec, wanted, host, name, shares)
        last = port + spec.count - 1
        self._db.executemany(
            "INSERT INTO claim VALUES (?,?,?,?,?,?)",
            [(spec.protocol, port, last, ip.version, text, endpoint) for ip, text in wanted],
        )
        return tuple(
            PortMapping(ip, port, spec.port, spec.protocol, spec.count, spec.device)
            for ip, _ in wanted
        )

    def release(self, endpoint: str) -> None:
        self._db.execute("DELETE FROM claim WHERE endpoint=?", (endpoint,))

    def hand(self, owner: str, to: str, ports: Iterable[PortMapping] | None = None) -> None:
        """Give *to* another what *owner* has claimed: all of it, or these ports."""
        if ports is None:
            self._db.execute("UPDATE claim SET endpoint=? WHERE endpoint=?", (to, owner))
            return
        self._db.executemany(
            "UPDATE claim SET endpoint=?"
            " WHERE endpoint=? AND protocol=? AND first=? AND version=? AND address=?",
            [
                (to, owner, port.protocol, port.host_port, port.host_address.version, where)
                for port in ports
                for where in [f"%{port.device}" if port.device else str(port.host_address)]
            ],
        )

    def any(self, endpoint: str) -> bool:
        """Whether it has claimed anything."""
        query = "SELECT 1 FROM claim WHERE endpoint=? LIMIT 1"
        return self._db.execute(query, (endpoint,)).fetchone() is not None

    def sharers(self, endpoint: str) -> list[str]:
        """Who else has claimed what this one has."""
        return [row[0] for row in self._db.execute(_SHARERS, (endpoint,))]

    def _clash(
        self,
        protocol: str,
        first: int,
        last: int,
        address: Address,
        text: str,
        shares: Callable[[str], bool] | None = None,
    ) -> str | None:
        wildcard = str(WILDCARDS[address.version])
        values = (protocol, first, last, address.version, text, wildcard)
        for endpoint, same in self._db.execute(_CLASH, values):
            if shares is None or not same or not shares(endpoint):
                return str(endpoint)
        return None

    def _must_be_free(
        self,
        spec: PortSpec,
        wanted: _Wanted,
        host: Host,
        name: Callable[[str], str],
        shares: Callable[[str], bool],
    ) -> None:
        last = spec.first + spec.count - 1
        for address, text in wanted:
            if clash := self._clash(spec.protocol, spec.first, last, address, text, shares):
                raise Conflict(
                    f"Bind for {_where(spec, address, spec.first)} failed: "
                    f"port is already allocated (by container '{name(clash)}')",
                    hint="choose another host port, or remove that container",
                )
            for port in range(spec.first, last + 1):
                try:
                    host.probe_port(spec.protocol, address, port)
                except OSError as error:
                    raise _refused(spec, address, port, error, host) from error

    def _is_free(self, spec: PortSpec, wanted: _Wanted, port: int, host: Host) -> bool:
        for address, text in wanted:
            if self._clash(spec.protocol, port, port, address, text):
                return False
            try:
                host.probe_port(spec.protocol, address, port)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    return False
                raise _refused(spec, address, port, error, host) from error
        return True

    def _first_free(self, spec: PortSpec, wanted: _Wanted, host: Host) -> int:
        for port in range(spec.first, spec.last + 1):
            if self._is_free(spec, wanted, port, host):
                return port
        raise Exhausted(
            f"all ports of {spec.first}-{spec.last}/{spec.protocol} are taken "
            f"({spec.last - spec.first + 1} of {spec.last - spec.first + 1})",
            hint="widen the range",
        )

    def _random(self, spec: PortSpec, wanted: _Wanted, host: Host) -> int:
        ports, holes = host.local_ports()
        query = "SELECT port FROM claim_last WHERE protocol=?"
        row = self._db.execute(query, (spec.protocol,)).fetchone()
        start = row[0] + 1 - ports.start if row else 0
        for i in range(len(ports)):
            port = ports[(start + i) % len(ports)]
            if port not in holes and self._is_free(spec, wanted, port, host):
                self._db.execute(
                    "INSERT OR REPLACE INTO claim_last VALUES (?,?)", (spec.protocol, port)
                )
                return port
        raise Exhausted(
            f"no free {spec.protocol} port between {ports.start} and {ports.stop - 1}",
            hint="widen net.ipv4.ip_local_port_range, or name host ports yourself",
        )


_Wanted = Sequence[tuple[Address, str]]  # what is bound, and what it is claimed as


def _where(spec: PortSpec, address: Address, port: int) -> str:
    return f"{spec.device or bracketed(address)}:{port}"


def _refused(spec: PortSpec, address: Address, port: int, error: OSError, host: Host) -> Exception:
    where = _where(spec, address, port)
    if error.errno == errno.EADDRNOTAVAIL:
        return InvalidSpec(
            f"cannot publish on {where}: no interface of this host has the address {address}",
            hint="`ip addr` lists the host's addresses",
        )
    if error.errno == errno.EADDRINUSE:
        by = host.port_holder(spec.protocol, port) or "another process of this host"
        return Conflict(
            f"Bind for {where} failed: port is already in use by {by}",
            hint="choose another host port, or stop that process",
        )
    return InvalidSpec(f"cannot publish on {where}: {error.strerror}")
