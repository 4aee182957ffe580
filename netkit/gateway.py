"""The default routes of a sandbox with several networks: whose they are follows from the records.

Shapes   pure: steps for a plan; what the kernel holds is not looked at but once, in `may_have`
Source   Docker: the highest gateway priority, of equals the first network by name

Each IP version has its own. An endpoint that arrives takes the route from whoever has it, and one
that leaves hands it on: each as a step of its own plan, so both are undone, and finished after a
crash, like everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from netkit import steps
from netkit.addresses import VERSIONS
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.store import SqliteStore


def may_have(sandbox: SandboxRecord, kernel: Kernel) -> tuple[int, ...]:
    """The IP versions whose default route is ours to add: never beside somebody else's."""
    if sandbox.sort in ("container", "named") or sandbox.netns is None:
        return VERSIONS
    theirs = kernel.netlink(sandbox.netns).ways_out()
    return tuple(version for version in VERSIONS if version not in theirs)


def holder(
    store: SqliteStore, endpoints: Iterable[EndpointRecord], version: int = 4
) -> EndpointRecord | None:
    """Which of these has the default route."""
    ways = [ep for ep in endpoints if version in ep.leads_out]
    return min(ways, key=lambda ep: _rank(store, ep), default=None)


def arriving(
    store: SqliteStore, ep: EndpointRecord, others: Sequence[EndpointRecord]
) -> steps.Plan:
    """What *ep* adds to its plan: the default routes, where it comes before all the others."""
    plan = []
    for version in ep.leads_out:
        before = holder(store, others, version)
        if before is None or _rank(store, ep) < _rank(store, before):
            plan.append(_route(ep, before, version))
    return tuple(plan)


def moving(store: SqliteStore, after: EndpointRecord) -> steps.Plan:
    """What an endpoint's other priority takes: default routes that are another's from now on."""
    here = store.all(EndpointRecord, sandbox=after.sandbox)
    others = [ep for ep in here if ep.id != after.id]
    plan = []
    for version in after.leads_out:
        was = holder(store, here, version)
        now = holder(store, [*others, after], version)
        if was is not None and now is not None and was.id != now.id:
            plan.append(_route(now, was, version))
    return tuple(plan)


def leaving(store: SqliteStore, ep: EndpointRecord) -> EndpointRecord:
    """*ep* with the steps by which its deletion hands the default routes to whoever is next."""
    if not ep.leads_out:
        return ep
    others = [e for e in store.all(EndpointRecord, sandbox=ep.sandbox) if e.id != ep.id]
    plan = tuple(s for s in steps.decode(ep.steps) if not isinstance(s, steps.DefaultRoute))
    for version in ep.leads_out:
        heir = holder(store, others, version)
        if heir is None or _rank(store, ep) < _rank(store, heir):
            plan = (*plan, _route(ep, heir, version))
    return replace(ep, steps=steps.encode(plan))


def _rank(store: SqliteStore, ep: EndpointRecord) -> tuple[int, str]:
    return (-ep.gateway_priority, store.get(NetworkRecord, ep.network).name)


def _route(ep: EndpointRecord, was: EndpointRecord | None, version: int) -> steps.DefaultRoute:
    gateway = ep.gateway(version)
    assert gateway is not None
    assert ep.netns is not None
    return steps.DefaultRoute(
        dev=ep.ifname,
        gateway=gateway,
        at=ep.netns,
        was_dev=was.ifname if was else None,
        was_gateway=was.gateway(version) if was else None,
    )
