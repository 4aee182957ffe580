"""The default route of a sandbox with several networks: one of them has it, and it moves.

Source   Docker: the highest gateway priority, of equals the first network by name
"""

from __future__ import annotations

from msgspec.structs import replace

from netkit import steps
from netkit.changes import Changes
from netkit.errors import NetkitError
from netkit.kernel import Kernel, netns
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord


def may_have(ep: EndpointRecord, sandbox: SandboxRecord, kernel: Kernel) -> bool:
    """Whether a default route is ours to add: never beside one that somebody else made."""
    if ep.gateway is None:
        return False
    if sandbox.sort in ("container", "named"):
        return True
    return all(route.dst is not None for route in kernel.netlink(sandbox.netns).routes())


def settle(changes: Changes, sandbox: SandboxRecord, kernel: Kernel) -> None:
    """Move the default route to the endpoint it belongs to now; usually it is there."""
    ways = [ep for ep in changes.store.all(EndpointRecord, sandbox=sandbox.id) if ep.gateway]
    if not ways or (len(ways) == 1 and ways[0].default_route):
        return
    names = {ep.id: changes.store.get(NetworkRecord, ep.network).name for ep in ways}
    best = min(ways, key=lambda ep: (-ep.gateway_priority, names[ep.id]))
    holders = [ep for ep in ways if ep.default_route]
    if (
        best in holders
        or not _reachable(sandbox)
        or not (holders or may_have(best, sandbox, kernel))
    ):
        return
    for ep in holders:
        _put(changes, ep, False, kernel)
    _put(changes, best, True, kernel)


def _reachable(sandbox: SandboxRecord) -> bool:
    """Whether the path on record still leads to the namespace: a pid may have been reused."""
    try:
        found = netns.identity(sandbox.netns or "")
    except NetkitError:
        return False
    return sandbox.identity in (None, found)


def _put(changes: Changes, ep: EndpointRecord, there: bool, kernel: Kernel) -> None:
    assert ep.gateway is not None
    assert ep.netns is not None
    route = steps.DefaultRoute(dev=ep.ifname, gateway=ep.gateway, at=ep.netns)
    plan = tuple(step for step in steps.decode(ep.steps) if step != route)
    if there:
        plan = (*plan, route)
        changes.add((route,), kernel)
    else:
        changes.delete((route,), kernel)
    with changes.store.transaction():
        changes.store.put(replace(ep, default_route=there, steps=steps.encode(plan)))
