"""What an older netkit made, and lives, becomes what this one would have made.

Shapes   a store of version 2 that is opened has the intent `store.UPGRADED`, of a maker that is
         dead: so whoever calls first sees to it (netkit.recovery), and if that one dies, the next
Errors   NetkitError where the kernel refuses; the intent stays

The firewall's tables have other chains now. On a bridge a closed network was closed by its ports'
`isolated` flag, which knows no exceptions; now it is by rules, where the firewall sees what bridges
pass on. The rules come before the flags go, so at no moment anybody gets through.
"""

from __future__ import annotations

from contextlib import ExitStack

from msgspec.structs import replace

from netkit import steps
from netkit.changes import ABANDONED, Changes
from netkit.firewall import Closed
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, HostRecord, NetworkRecord


def follow(changes: Changes, intent: HostRecord, kernel: Kernel) -> None:
    """Have the kernel follow, and forget *intent*, which is ours."""
    store = changes.store
    try:
        with store.locked("host"), ExitStack() as locks:
            nets = sorted(store.all(NetworkRecord), key=lambda net: net.id)
            for net in nets:
                locks.enter_context(store.locked(net.id))
            tables = store.by_id(HostRecord, "tables")
            if tables is not None and tables.epoch == changes.epoch:
                changes.keep_up(kernel)
                ports = [port for net in nets for port in _closed(changes, net)]
                changes.restore_rules(kernel)
                if kernel.firewall.sees_bridges:
                    flags = (steps.PortFlag(dev=port, flag="isolated") for port in ports)
                    changes.delete(tuple(flags), kernel)
            with store.transaction():
                store.remove(intent)
    except BaseException:
        with store.transaction():
            store.update(replace(intent, maker=ABANDONED))
        raise


def _closed(changes: Changes, net: NetworkRecord) -> list[str]:
    """The bridge ports of a closed network; on record, they are so by rules from now on."""
    store = changes.store
    ports: list[str] = []
    if net.icc or not net.bridge:
        return ports
    with store.transaction():
        for ep in store.all(EndpointRecord, network=net.id):
            if ep.epoch != changes.epoch or ep.maker is not None:
                continue
            plan = steps.decode(ep.steps)
            rule = Closed(ep.host_ifname, net.bridge, ep.mac)
            if rule not in steps.held(plan):
                closing = steps.Rules(rules=(rule,))
                store.update(replace(ep, steps=steps.encode((closing, *plan))))
            ports.append(ep.host_ifname)
    return ports
