"""The journal: what happened, as entries of the store (store.Entry), told from the records.

Shapes   actions: create and remove (network, container, link), connect and disconnect (endpoint,
         attachment), publish and unpublish (a port of an endpoint), update, start, die, drift,
         repair. An entry is written in the transaction that commits or erases its record
Source   docker events(1) for the words

What never came to be is not told to have gone: that a change failed, or its maker died in the midst
of it, is no event. `die` is told of what ended by itself, before its parts go.
"""

from __future__ import annotations

from netkit import model
from netkit.model import (
    AttachmentRecord,
    ChangeRecord,
    EndpointRecord,
    HostRecord,
    LinkRecord,
    NetworkRecord,
    Record,
    SandboxRecord,
)
from netkit.portspec import PortMapping
from netkit.store import SqliteStore

ACTIONS = (
    *("connect", "create", "die", "disconnect", "drift", "publish", "remove", "repair", "start"),
    *("unpublish", "update"),
)


def made(store: SqliteStore, record: Record) -> None:
    """That a record has been committed: a change of what was there, or something new."""
    match record:
        case ChangeRecord():
            for ep in (record.after, *record.others):
                if ep is not None:
                    changed(store, ep)
            for other in (record.network_after, record.sandbox_after):
                if other is not None:
                    note(store, "update", other)
        case EndpointRecord() | AttachmentRecord():
            note(store, "connect", record)
            _ports(store, "publish", record)
        case NetworkRecord() | LinkRecord() | SandboxRecord() | HostRecord(id=model.HOST_NAMES):
            note(store, "create", record)


def changed(store: SqliteStore, after: EndpointRecord) -> None:
    """That an endpoint is about to be another: in its ports, or else in something."""
    before = store.by_id(EndpointRecord, after.id)
    known = before.ports if before else ()
    for port in known:
        if port not in after.ports:
            port_note(store, "unpublish", after, port)
    for port in after.ports:
        if port not in known:
            port_note(store, "publish", after, port)
    if known == after.ports:
        note(store, "update", after)


def gone(store: SqliteStore, record: Record) -> None:
    """That a record is about to be erased; an intent that never came to be goes without a word."""
    match record:
        case EndpointRecord() | AttachmentRecord():
            if _is_known(store, record, "connect", "disconnect"):
                _ports(store, "unpublish", record)
                note(store, "disconnect", record)
        case NetworkRecord() | LinkRecord() | SandboxRecord() | HostRecord(id=model.HOST_NAMES):
            if _is_known(store, record, "create", "remove"):
                note(store, "remove", record)


def died(store: SqliteStore, record: SandboxRecord | AttachmentRecord) -> None:
    """That a container or namespace ended by itself, if it is known to have lived."""
    if isinstance(record, SandboxRecord) and record.sort == "container" and not record.pid:
        return  # it never ran, as far as anybody knows
    came, went = ("create", "remove") if record.kind == "sandbox" else ("connect", "disconnect")
    if _is_known(store, record, came, "die", went):
        note(store, "die", record)


def _is_known(store: SqliteStore, record: Record, came: str, *went: str) -> bool:
    """Whether the last that was told of a record is that it came."""
    return store.last_noted(record.id, (came, *went), record.created) == came


def note(store: SqliteStore, action: str, record: Record, **more: str) -> None:
    """Write down that *action* happened to a record; in a transaction."""
    name, attributes = _described(store, record)
    store.note(action, record.kind, record.id, name, attributes | more)


def _ports(store: SqliteStore, action: str, record: Record) -> None:
    if isinstance(record, EndpointRecord):
        for port in record.ports:
            port_note(store, action, record, port)


def port_note(store: SqliteStore, action: str, ep: EndpointRecord, port: PortMapping) -> None:
    """That a port is published, or no longer."""
    note(store, action, ep, port=str(port))


def _described(store: SqliteStore, record: Record) -> tuple[str, dict[str, str]]:
    """What to call it, and what else there is to say."""
    match record:
        case EndpointRecord():
            attributes = {
                "container": store.name_of("sandbox", record.sandbox),
                "container_id": record.sandbox,
                # of the built-in ones, which are not on record, the interface says which it is
                "network": store.name_of("network", record.network) or record.ifname or "none",
                "network_id": record.network,
                "ifname": record.ifname,
            }
            if record.addresses:
                attributes["addresses"] = ",".join(map(str, record.addresses))
            return record.owner or attributes["container"], attributes
        case AttachmentRecord():
            return record.sandbox, {"network": record.network, "netns": record.netns}
        case NetworkRecord():
            return record.name, {**record.labels, "driver": record.driver}
        case SandboxRecord():
            found = {} if record.exit_code is None else {"exit_code": str(record.exit_code)}
            return record.name, {**record.labels, "sort": record.sort, **found}
        case LinkRecord():
            return record.name, {"ends": ",".join(map(str, record.ends))}
    return record.name or record.id, {}
