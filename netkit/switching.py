"""Moving all rules to another firewall back end, while both are in force.

Shapes   each half is an intent: killed in between, the next call closes the one that is not used
Errors   KernelRefused where the new one cannot be had; the former is left as it was. OSError of
         another tool's firewall

A packet is asked by both meanwhile, and both say the same: so nothing is open, or closed, for a
moment, and connections go on, for conntrack remembers how they were translated. The ports of closed
networks are isolated by their bridges before the one that sees what bridges pass on goes, and let
go after it has come. What localhost sends leaves by bridges only where there are rules.
"""

from __future__ import annotations

from contextlib import suppress

from msgspec.structs import replace

from netkit import firewall, policies, steps
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, HostRecord, NetworkRecord, Record


def move(changes: Changes, tables: HostRecord, name: str, kernel: Kernel) -> None:
    """Make *name* the back end of all that is on record; with the locks of all networks held."""
    store = changes.store
    former = tables.firewall or kernel.firewall.name
    back_end = firewall.load(name)
    _refuse(changes, back_end)
    own = steps.encode((steps.Tables(),) if back_end.script() else ())
    moved = replace(tables, firewall=name, steps=own)
    if tables.epoch != changes.epoch:  # a reboot took the rules; they come back as these
        with store.transaction():
            store.update(moved)
        return
    plans = _plans(changes)
    rules = tuple(rule for _, plan in plans for rule in steps.held(plan))
    # other tools' chains may be in the way of the one, and not of the other
    found = kernel.obstacles(back_end)
    old = [step for _, plan in plans for step in plan if isinstance(step, steps.Passage)]
    apart = [
        steps.PortFlag(dev=step.dev, flag="isolated")
        for _, plan in plans
        for step in plan
        if isinstance(step, steps.Port) and step.isolated
    ]
    sees, saw = back_end.sees_bridges, kernel.firewall.sees_bridges
    closing, opening = (apart if saw and not sees else ()), (apart if sees and not saw else ())
    localnets = [
        step.switched(back_end)
        for _, plan in plans
        for step in plan
        if isinstance(step, steps.Localnet)
    ]
    new = steps.prepare((steps.BackEnd(name=name, rules=rules), *localnets, *closing), kernel)
    passages = [way.through(found).but(way.obstacles) for way in old]
    coming = _intent(changes, name, (*new, *passages))
    with store.transaction():
        store.put(coming)
    changes.realise([coming], kernel, commit=False)
    passages = [way.but(found) for way in old]
    going = _intent(changes, former, (*opening, *passages, steps.BackEnd(name=former)))
    with store.transaction():
        store.remove(coming)
        store.put(going)
        store.update(moved)
        # what others have begun to remove meanwhile they remove from the former
        left = [(record, plan) for record, plan in _plans(changes) if record.maker is None]
        for record, plan in left:
            now = [s.through(found) if isinstance(s, steps.Passage) else s for s in plan]
            if tuple(now) != plan:
                store.update(replace(record, steps=steps.encode(now)))
    held = {rule for _, plan in left for rule in steps.held(plan)}
    if stale := [rule for rule in rules if rule not in held]:
        back_end.delete(stale)
    changes.undo([going], kernel)
    with suppress(OSError):
        listing = "" if changes.dry else firewall.load(former).listing()
        if "admin" in listing.lower():
            changes.warn(
                f"your own rules in the admin chain of {former} have stayed there, without "
                f"effect: write them again for {name}"
            )


def _refuse(changes: Changes, back_end: firewall.Firewall) -> None:
    """Refuse a back end that cannot hold to what some network promises."""
    store = changes.store
    with Kernel(back_end) as kernel:
        for net in store.all(NetworkRecord):
            requests = [ep.wanted for ep in store.all(EndpointRecord, network=net.id)]
            try:
                policies.refuse(net, kernel, *requests)
            except InvalidSpec as error:
                raise Conflict(
                    f"cannot use {back_end.name}: {error}", hint="take that away first"
                ) from None


def _plans(changes: Changes) -> list[tuple[Record, steps.Plan]]:
    """What is in force here, in the order it was made."""
    return [
        (record, steps.decode(record.steps))
        for record in changes.store.everything()
        if record.epoch == changes.epoch
    ]


def _intent(changes: Changes, name: str, plan: steps.Plan) -> HostRecord:
    return HostRecord(
        id=f"firewall {name}",
        epoch=changes.epoch,
        maker=changes.maker,
        steps=steps.encode(plan),
    )
