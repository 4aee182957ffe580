"""The default route of a sandbox with several networks: whose it is follows from the records.

Shapes   pure: steps for a plan; what the kernel holds is not looked at but once, in `may_have`
Source   Docker: the highest gateway priority, of equals the first network by name

An endpoint that arrives takes the route from whoever has it, and one that leaves hands it on: each
as a step of its own plan, so both are undone, and finished after a crash, like everything else.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from netkit import steps
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.store import SqliteStore


def may_have(sandbox: SandboxRecord, kernel: Kernel) -> bool:
    """Whether a default route is ours to add: never beside one that somebody else made."""
    if sandbox.sort in ("container", "named"):
        return True
    return all(route.dst is not None for route in kernel.netlink(sandbox.netns).routes())


def holder(store: SqliteStore, endpoints: Iterable[EndpointRecord]) -> EndpointRecord | None:
    """Which of these has the default route."""
    ways = [ep for ep in endpoints if ep.leads_out]
    return min(ways, key=lambda ep: _rank(store, ep), default=None)


def arriving(
    store: SqliteStore, ep: EndpointRecord, others: Iterable[EndpointRecord]
) -> steps.Plan:
    """What *ep* adds to its plan: the default route, if it comes before all the others."""
    before = holder(store, others)
    if not ep.leads_out or (before and _rank(store, before) < _rank(store, ep)):
        return ()
    return (_route(ep, before),)


def leaving(store: SqliteStore, ep: EndpointRecord) -> EndpointRecord:
    """*ep* with the step by which its deletion hands the default route to whoever is next."""
    if not ep.leads_out:
        return ep
    others = [e for e in store.all(EndpointRecord, sandbox=ep.sandbox) if e.id != ep.id]
    plan = tuple(s for s in steps.decode(ep.steps) if not isinstance(s, steps.DefaultRoute))
    heir = holder(store, others)
    if heir is None or _rank(store, ep) < _rank(store, heir):
        plan = (*plan, _route(ep, heir))
    return replace(ep, steps=steps.encode(plan))


def _rank(store: SqliteStore, ep: EndpointRecord) -> tuple[int, str]:
    return (-ep.gateway_priority, store.get(NetworkRecord, ep.network).name)


def _route(ep: EndpointRecord, was: EndpointRecord | None) -> steps.DefaultRoute:
    assert ep.gateway is not None
    assert ep.netns is not None
    return steps.DefaultRoute(
        dev=ep.ifname,
        gateway=ep.gateway,
        at=ep.netns,
        was_dev=was.ifname if was else None,
        was_gateway=was.gateway if was else None,
    )
