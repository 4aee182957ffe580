"""From what is in force on a network to what is to be: the difference, as one transaction.

Shapes   pure but for a look at whose endpoints they are; the alteration is for the engine to carry
         out, with nobody joining or leaving meanwhile
Source   netkit.drivers.access and the drivers' own plans for what is to be; records for what is
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from netkit import drivers, policies, steps
from netkit.alterations import NetworkAlteration
from netkit.changes import Changes
from netkit.drivers import access
from netkit.firewall import Rule
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import Request
from netkit.steps import Plan, Step
from netkit.store import SqliteStore


def again(
    changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
) -> NetworkAlteration:
    """What becomes of a network of which nothing changed but what its containers offer."""
    return become(changes, net, net, here, kernel)


def become(
    changes: Changes,
    net: NetworkRecord,
    after: NetworkRecord,
    here: Sequence[EndpointRecord],
    kernel: Kernel,
    requests: Mapping[str, Request] = {},
) -> NetworkAlteration:
    """What makes *net* into *after*, and the endpoints *here* into what then holds for them;
    *requests* are those endpoints' own that change.
    """
    policies.refuse(after, kernel, *requests.values())
    driver = drivers.load(net.driver)
    nows = [replace(ep, request=requests.get(ep.id, ep.request)) for ep in here]
    old, new = (list(steps.held(driver.network(each))) for each in (net, after))
    after = replace(after, steps=steps.encode(_exchanged(net, old, new)))
    held = {rule: ep.id for ep in here for rule in policies.pairs(ep)}
    wanted = _pairs(changes.store, after, nows)
    changed: list[EndpointRecord] = []
    flags: list[Step] = []
    for ep, now in zip(here, nows, strict=True):
        own = _own(net, ep), _own(after, now)
        plan = policies.without(
            _exchanged(ep, *own), {r for r, id in held.items() if id == ep.id and r not in wanted}
        )
        if arrived := tuple(r for r, id in wanted.items() if id == ep.id and r not in held):
            plan = (*plan, steps.Rules(rules=arrived))
        if net.icc != after.icc and net.bridge:
            plan = tuple(_isolated(step, ep, not after.icc) for step in plan)
            flags.append(steps.Isolation(dev=ep.host_ifname, on=not after.icc))
        old += own[0]
        new += own[1]
        if (now := replace(now, steps=steps.encode(plan))) != ep:
            changed.append(now)
    gone, added = _difference([*old, *held], [*new, *wanted])
    change: list[Step] = flags
    if gone or added:
        change = [steps.Exchange(gone=tuple(gone), added=tuple(added)), *flags]
    for ep in here:
        if net.egress != after.egress or ep.id in requests:
            change += filter(None, (policies.forgetting(net, ep),))
    return NetworkAlteration(after, tuple(changed), tuple(change))


def _pairs(
    store: SqliteStore, net: NetworkRecord, here: Sequence[EndpointRecord]
) -> dict[Rule, str]:
    """The rules of every two who may do anything with each other, and who of them holds each."""
    found: dict[Rule, str] = {}
    if not net.icc:
        for one, other in policies.acquaintances(net, policies.members(store, here)):
            later = max(one.ep, other.ep, key=lambda ep: (ep.created, ep.id))
            found |= dict.fromkeys(access.between(net, one, other), later.id)
    return found


def _own(net: NetworkRecord, ep: EndpointRecord) -> list[Rule]:
    """The rules an endpoint holds for itself, whoever else is there."""
    rules = list(steps.held(drivers.load(net.driver).endpoint(net, ep)))
    for extra in ep.wanted.extra:
        rules += access.of_address(net, ep, extra.ip)
    return rules


def _difference(old: Sequence[Rule], new: Sequence[Rule]) -> tuple[list[Rule], list[Rule]]:
    before, then = set(old), set(new)
    return [rule for rule in old if rule not in then], [rule for rule in new if rule not in before]


def _exchanged(
    record: NetworkRecord | EndpointRecord, old: Sequence[Rule], new: Sequence[Rule]
) -> Plan:
    """A record's plan that holds some rules in place of others: in its first step with rules, which
    goes last, so that nothing is open before its port is gone; ordered as in a plan made anew.
    """
    gone, added = _difference(old, new)
    plan = policies.without(steps.decode(record.steps), gone)
    if not added:
        return plan
    place = {rule: number for number, rule in enumerate(new)}
    for at, step in enumerate(plan):
        if isinstance(step, steps.Rules):
            rules = sorted((*step.rules, *added), key=lambda rule: place.get(rule, len(place)))
            return (*plan[:at], replace(step, rules=tuple(rules)), *plan[at + 1 :])
    return (steps.Rules(rules=tuple(added)), *plan)


def _isolated(step: Step, ep: EndpointRecord, on: bool) -> Step:
    own = isinstance(step, steps.Port) and step.dev == ep.host_ifname
    return replace(step, isolated=on) if own else step
