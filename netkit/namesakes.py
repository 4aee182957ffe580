"""Namesakes: who is called what on a network, so that nobody answers to another's name.

Shapes   a row is a name (lower-case), its network, and the endpoint that is called so: by its
         container's own name, or by an alias. Rows live beside the records and commit with them
Errors   Conflict, naming who has the name; NotFound for a link to nobody
Source   trust.md S29; podman and Docker for what several may share, an alias (round robin)

A container's own name is nobody else's there, neither name nor alias: what was resolved by it
yesterday is it today. Names that mean the same to everybody are nobody's at all, nor are those that
the host's search domains, or another network's name, make of a short one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from netkit import namefiles, names
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord

if TYPE_CHECKING:
    from netkit.changes import Changes

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS called (
        network TEXT NOT NULL, name TEXT NOT NULL, endpoint TEXT NOT NULL, alias INTEGER NOT NULL,
        PRIMARY KEY (network, name, endpoint)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS called_endpoint ON called (endpoint)",
)


def create(connection: sqlite3.Connection) -> None:
    """Make the table, unless it is there."""
    for statement in _SCHEMA:
        connection.execute(statement)


def claim(changes: Changes, net: NetworkRecord, sandbox: SandboxRecord, ep: EndpointRecord) -> None:
    """Have *ep* called as it is to be, and no longer as it was; in a transaction."""
    _refuse_links(changes, net, sandbox, ep)
    if not net.names:
        if ep.wanted.aliases:
            raise InvalidSpec(
                f"cannot be called '{ep.wanted.aliases[0]}' on network '{net.name}': it has no "
                "names",
                hint="leave out --alias, or create the network with --dns-enabled",
            )
        return
    release(changes.store.connection, ep.id)
    own = names.own_name(sandbox)
    if names.is_reserved(sandbox.name):
        raise Conflict(
            f"no container can be called '{sandbox.name}' on network '{net.name}': it means the "
            "same to everybody",
            hint="call it otherwise, or connect to a network created with --disable-dns",
        )
    if own is not None:
        _refuse_namesake(changes, net, own, by_alias=True)
        _enter(changes, net, own, ep, alias=False)
    for alias in {alias.lower() for alias in ep.wanted.aliases} - {own}:
        _refuse_alias(changes, net, sandbox, alias)
        _enter(changes, net, alias, ep, alias=True)


def release(connection: sqlite3.Connection, endpoint: str) -> None:
    """Forget what an endpoint was called; in a transaction."""
    connection.execute("DELETE FROM called WHERE endpoint=?", (endpoint,))


def _refuse_links(
    changes: Changes, net: NetworkRecord, sandbox: SandboxRecord, ep: EndpointRecord
) -> None:
    for link in ep.wanted.links:
        if changes.store.by_name(SandboxRecord, link.target) is None:
            raise NotFound(
                f"cannot link to '{link.target}': there is no container of that name",
                hint="a link is to a container by its name, not its hostname or alias; "
                "`netkit ps` lists them",
            )
        alias = link.alias.lower()
        if net.names and alias not in (link.target.lower(), names.own_name(sandbox)):
            _refuse_alias(changes, net, sandbox, alias, ("link alias", "--link"))


def _refuse_alias(
    changes: Changes,
    net: NetworkRecord,
    sandbox: SandboxRecord,
    alias: str,
    what: tuple[str, str] = ("alias", "--alias"),
) -> None:
    kind, option = what
    if names.is_reserved(alias.removeprefix("*.")):
        raise Conflict(
            f"{kind} '{alias}' is refused: it means the same to everybody",
            hint=f"give another {option}",
        )
    for domain, whose in _domains(changes, sandbox, alias):
        if _shadows(alias, domain):
            raise Conflict(
                f"{kind} '{alias}' is refused: it would hide what is in {domain}, {whose}",
                hint=f"give another {option}, such as one below .internal",
            )
    _refuse_namesake(changes, net, alias, by_alias=False)


def _refuse_namesake(changes: Changes, net: NetworkRecord, name: str, *, by_alias: bool) -> None:
    """Refuse a name that is a container's; *by_alias*: or that it has beside it."""
    row = changes.store.connection.execute(
        "SELECT endpoint, alias FROM called WHERE network=? AND name=? AND alias<=?",
        (net.id, name, by_alias),
    ).fetchone()
    if row is not None:
        endpoint, alias = row
        raise Conflict(
            f"'{name}' is {'an alias' if alias else 'the name'} of {changes.owner_name(endpoint)} "
            f"on network '{net.name}' already",
            hint="choose another: an alias may be shared with other aliases, a name with nothing",
        )


def _enter(
    changes: Changes, net: NetworkRecord, name: str, ep: EndpointRecord, *, alias: bool
) -> None:
    changes.store.connection.execute(
        "INSERT INTO called VALUES (?,?,?,?)", (net.id, name, ep.id, alias)
    )


def _domains(changes: Changes, sandbox: SandboxRecord, alias: str) -> Iterator[tuple[str, str]]:
    """The domains in which an alias with a dot may not be, and whose they are."""
    if "." not in alias:
        return
    for domain in (*namefiles.search_domains(), *sandbox.files.search):
        yield domain.strip(".").lower(), "a search domain"
    for net in changes.store.all(NetworkRecord):
        yield net.name.lower(), f"the names of network '{net.name}'"


def _shadows(alias: str, domain: str) -> bool:
    """Whether an alias is in a domain; or all of one is below an alias with a star."""
    zone = alias.removeprefix("*.")
    inside = f".{zone}".endswith(f".{domain}")
    return bool(domain) and (inside or (zone != alias and f".{domain}".endswith(f".{zone}")))
