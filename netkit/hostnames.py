"""Names of containers on the host itself: its resolver is told to ask netkit, or no longer (G11).

Shapes   one record of the host's, whose steps are what the resolver was told; it stands until it is
         taken back, whatever networks come and go
Source   resolvectl(1), systemd-resolved.service(8) for which link is asked what; resolv.conf(5)

Behind systemd-resolved a link of netkit's own tells it whom to ask about NAME.NETWORK, and only
that. Elsewhere our server comes first in resolv.conf: it knows NAME, too, and asks the host's own
servers about all else; while it does not run, the C library goes on to them by itself.
"""

from __future__ import annotations

import time
from ipaddress import IPv4Address, ip_interface
from typing import NamedTuple

from msgspec.structs import replace

from netkit import naming, steps
from netkit.changes import Changes
from netkit.dns import resolvconf
from netkit.errors import InvalidSpec, NetkitError
from netkit.kernel import Kernel
from netkit.model import HOST_NAMES, HostRecord, NetworkRecord
from netkit.namefiles import HOST_SERVER, HOSTS
from netkit.store import SqliteStore

LINK, _PEER = "netkit-dns", "netkit-dns0"
_MTU = 1500
SERVER = IPv4Address(HOST_SERVER)


class Status(NamedTuple):
    """*by* is what was told: a path, or the link by which systemd-resolved asks; None: nobody."""

    by: str | None
    domains: tuple[str, ...] = ()  # that systemd-resolved asks us about
    problems: tuple[str, ...] = ()


def enable(changes: Changes, kernel: Kernel) -> None:
    """Tell the resolver; one that has been told, and asks us still, is not told again."""
    known = _record(changes.store)
    if known is not None:
        if known.epoch == changes.epoch and not steps.check(steps.decode(known.steps), kernel):
            return
        changes.undo([known], kernel)
    with changes.store.transaction():
        made = HostRecord(
            id=HOST_NAMES,
            created=time.time(),
            epoch=changes.epoch,
            maker=changes.maker,
            steps=steps.encode(steps.prepare(_plan(changes.store, kernel), kernel)),
        )
        changes.store.put(made)
    changes.realise([made], kernel)


def disable(changes: Changes, kernel: Kernel) -> None:
    """Take it back, if it was told."""
    if known := _record(changes.store):
        changes.undo([known], kernel)


def follow(changes: Changes, kernel: Kernel) -> None:
    """Tell it the networks there are by now, if it asks by them; and all of it, if the host was
    started anew. What it says to that is told, and hinders nobody.
    """
    known = _record(changes.store)
    if known is None or known.maker is not None:
        return
    try:
        if known.epoch != changes.epoch:
            enable(changes, kernel)
        else:
            _retell(changes, known, kernel)
    except (NetkitError, OSError) as error:
        changes.warn(f"the host does not find the containers of all networks: {error}")


def _retell(changes: Changes, known: HostRecord, kernel: Kernel) -> None:
    told = _of_link(known)
    wanted = _domains(changes.store)
    if told is None or told.domains == wanted:
        return
    new = replace(told, domains=wanted)
    changes.act(str(new), lambda: new.add(kernel))
    plan = (new if step == told else step for step in steps.decode(known.steps))
    with changes.store.transaction():
        changes.store.update(replace(known, steps=steps.encode(plan)))


def status(changes: Changes, kernel: Kernel) -> Status:
    """What was told, and what keeps it from working."""
    known = _record(changes.store)
    if known is None:
        return Status(None)
    wrong: list[str] = []
    if known.epoch != changes.epoch:
        wrong.append("the host was started anew since: `netkit dns host enable` tells it again")
    else:
        wrong += map(str, steps.check(steps.decode(known.steps), kernel))
    from netkit import nameservice

    wrong += nameservice.problems(changes.store, changes.config, [SERVER], start=False)
    told = _of_link(known)
    return Status(LINK if told else HOSTS[0], told.domains if told else (), tuple(wrong))


def _plan(store: SqliteStore, kernel: Kernel) -> steps.Plan:
    """What tells the resolver the host has."""
    path, _ = HOSTS
    stub = resolvconf.only_stub(resolvconf.parse(kernel.read_file(path) or ""))
    if not (stub and kernel.has_program("resolvectl")):
        return (steps.Nameserver(path=path, server=HOST_SERVER),)
    return (
        # resolved asks by links that have a carrier and an address, and no other link needs less
        # of the kernel
        steps.Pair(
            name=LINK,
            mac=naming.bridge_mac(LINK),
            mtu=_MTU,
            peer=_PEER,
            peer_mac=naming.bridge_mac(_PEER),
            peer_at=None,
            alias="netkit:dns",
        ),
        steps.LinkUp(dev=_PEER, fresh=True),
        steps.Address(dev=LINK, address=ip_interface(f"{SERVER}/32")),
        steps.LinkNames(dev=LINK, server=HOST_SERVER, domains=_domains(store)),
    )


def _domains(store: SqliteStore) -> tuple[str, ...]:
    """The networks whose containers have names, as far as DNS can say theirs."""
    names = (net.name.lower() for net in store.all(NetworkRecord) if net.names)
    return tuple(sorted(name for name in names if _is_domain(name)))


def _record(store: SqliteStore) -> HostRecord | None:
    return store.by_id(HostRecord, HOST_NAMES)


def _of_link(record: HostRecord) -> steps.LinkNames | None:
    """What systemd-resolved has been told, if it was told."""
    plan = steps.decode(record.steps)
    return next((step for step in plan if isinstance(step, steps.LinkNames)), None)


def _is_domain(name: str) -> bool:
    try:
        return bool(naming.validate_domain("domain", name))
    except InvalidSpec:
        return False
