"""Sharing: ports of the host that several attachments of one container claim.

A runtime may publish a container's ports on every network it is on (podman does). The first one to
claim a port has it; the others stand by, and when it goes the oldest of them gets it. Another
container's claim is a clash as ever.

Shapes   who stands by has the rules in its plan as Standby steps, which do nothing; those in force
         are Rules, so records say at any time whose the kernel's are
Errors   those of netkit.ports

All of this happens with the container's own lock held. To hand over is to replace what the kernel
has, whosever that is, and then to write it down; who dies in between leaves an intent, whose
recovery does the same again.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress

from msgspec.structs import replace

from netkit import naming, steps
from netkit.addresses import WILDCARDS, Address
from netkit.changes import Changes
from netkit.errors import KernelRefused
from netkit.firewall import Publish, Rule, Spare
from netkit.kernel import Kernel
from netkit.model import AttachmentRecord
from netkit.ports import Ports
from netkit.store import SqliteStore


class OwnHost:
    """The machine, on which a port is free to a container that podman's monitor of it has open."""

    def __init__(self, kernel: Kernel, attachment: str) -> None:
        """*attachment* is the container's full id and an interface, "c1/eth0"."""
        self._kernel = kernel
        self._container = attachment.rpartition("/")[0]
        self.port_holder = kernel.port_holder
        self.local_ports = kernel.local_ports

    def probe_port(self, protocol: str, address: Address, port: int) -> None:
        try:
            self._kernel.probe_port(protocol, address, port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            from netkit import engines  # lazily: it is asked by few

            pids = self._kernel.port_holders(protocol, port)
            if not pids or not all(engines.is_monitor(pid, self._container) for pid in pids):
                raise


def locked(store: SqliteStore, record: AttachmentRecord) -> AbstractContextManager[None]:
    """While a container's ports are claimed or handed over."""
    return store.locked(naming.digest(f"ports of {_container(record)}"))


def is_one(store: SqliteStore, record: AttachmentRecord, endpoint: str) -> bool:
    """Whether an endpoint is an attachment of the same container, in the same namespace."""
    other = store.by_id(AttachmentRecord, endpoint)
    return (
        other is not None
        and _container(other) == _container(record)
        and (other.identity, other.epoch) == (record.identity, record.epoch)
    )


def waiting(store: SqliteStore, record: AttachmentRecord, plan: steps.Plan) -> steps.Plan:
    """*plan*, whose ports are claimed by now, with those standing by that others have."""
    held = {
        port
        for other in _sharers(store, record)
        for port in _ports(steps.decode(other.steps), steps.Rules)
    }
    return tuple(_parted(plan, steps.Rules, held, steps.Standby)) if held else plan


def hand_over(changes: Changes, kernel: Kernel, found: AttachmentRecord) -> AttachmentRecord:
    """Give what others of the container stand by for to the first of them.

    The record is *found* as it is now that it is nobody else's turn, and without what was given.
    """
    store = changes.store
    found = store.by_id(AttachmentRecord, found.id) or found
    heirs = [each for each in _sharers(store, found) if each.maker is None]
    if not heirs or found.epoch != changes.epoch:
        return found
    with store.transaction():
        if not store.claim(found, changes.maker):
            return found  # somebody else is undoing it
    found = replace(found, maker=changes.maker)
    changes.keep_up(kernel)
    for heir in sorted(heirs, key=lambda each: (each.created, each.id)):
        plan, its = steps.decode(found.steps), steps.decode(heir.steps)
        own, wanted = _ports(plan, steps.Rules), _ports(its, steps.Standby)
        given = own.keys() & wanted.keys()
        if not given:
            continue
        old, new = (_rules(ports[port] for port in given) for ports in (own, wanted))
        with suppress(ExceptionGroup):  # `add` says what is in the way
            changes.delete((old,), kernel)
        try:
            changes.add((new,), kernel)
        except KernelRefused as error:  # as after a flush: CHECK tells of it
            changes.warn(f"{heir.owner} does not get its ports: {error}")
        found = replace(found, steps=steps.encode(_parted(plan, steps.Rules, given, None)))
        its = tuple(_parted(its, steps.Standby, given, steps.Rules))
        with store.transaction():
            store.update(found)
            store.update(replace(heir, steps=steps.encode(its)))
    return found


def _container(record: AttachmentRecord) -> str:
    return record.sandbox.rpartition("/")[0]


def _sharers(store: SqliteStore, record: AttachmentRecord) -> list[AttachmentRecord]:
    found = (store.by_id(AttachmentRecord, id) for id in Ports(store.connection).sharers(record.id))
    return [each for each in found if each is not None]


_Kind = type[steps.Rules] | type[steps.Standby]


def _ports(plan: steps.Plan, kind: _Kind) -> dict[Rule, Rule]:
    """The rules of ports in steps of that kind, by what of them the kernel can hold but once."""
    rules = (rule for step in plan if isinstance(step, kind) for rule in step.rules)
    return {port: rule for rule in rules if (port := _port(rule)) is not None}


def _port(rule: Rule) -> Rule | None:
    """The rule, wherever it leads; None: it is no port's."""
    if isinstance(rule, Publish):
        return replace(rule, address=WILDCARDS[rule.address.version], port=0)
    return rule if isinstance(rule, Spare) else None


def _parted(
    plan: steps.Plan, kind: _Kind, ports: Collection[Rule], into: _Kind | None
) -> Iterator[steps.Step]:
    """*plan*, where of the steps of one *kind* those *ports* have become another, or nothing."""
    for step in plan:
        if not isinstance(step, kind):
            yield step
            continue
        moved = tuple(rule for rule in step.rules if _port(rule) in ports)
        if kept := tuple(rule for rule in step.rules if rule not in moved):
            yield replace(step, rules=kept)
        if moved and into is not None:
            yield _rules(moved) if into is steps.Rules else into(rules=moved)


def _rules(rules: Iterable[Rule]) -> steps.Rules:
    return steps.Rules(rules=tuple(rules), leaving=True)
