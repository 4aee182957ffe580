"""What changes while it lives: addresses, routes and ports of endpoints, settings of all there is.

    alter  publish  unpublish  update  |  alter_network  update_network

Shapes   the engine's verbs for it: a change is proposed (netkit.alterations, publications, updates,
         enforcement) and put on record in one transaction, then realised, or undone; connections of
         what it is not about go on
Errors   NetkitError, before any effect, or with all of it undone
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal

from msgspec.structs import replace

from netkit import (
    alterations,
    enforcement,
    journal,
    model,
    naming,
    publications,
    recovery,
    steps,
    updates,
)
from netkit.changes import Changes
from netkit.engine import Engine, is_default, translated
from netkit.errors import Conflict, Exhausted
from netkit.kernel import Kernel
from netkit.model import ChangeRecord, EndpointRecord, NetworkRecord, SandboxRecord
from netkit.portspec import PortMapping, PortSpec

Verb = Literal[
    "add address", "remove address", "add route", "remove route", "add rule", "remove rule"
]


def alter(
    engine: Engine,
    target: str,
    verb: Verb,
    text: str,
    *,
    network: str | None = None,
    ifname: str | None = None,
) -> EndpointRecord:
    """Give a live endpoint an address, a route or a rule, or take one from it.

    An address of its subnet is leased, any other let through. *network* or *ifname* say which
    endpoint, if *target* has several. The change is on record for as long as the kernel's part
    takes.
    """
    with engine.job() as kernel:
        sandbox = engine.sandbox(target)
        ep = alterations.meant(engine.store, sandbox, text, network, ifname)

        def propose(_: str, net: NetworkRecord, ep: EndpointRecord) -> alterations.Alteration:
            return alterations.propose(verb, engine.changes, net, ep, text)

        return _alter(engine, sandbox, ep, f"cannot {verb} {text} of {ep.owner}", propose, kernel)


def publish(
    engine: Engine,
    target: str,
    ports: Sequence[PortSpec],
    *,
    network: str | None = None,
    exposed: bool = False,
) -> tuple[PortMapping, ...]:
    """Publish more ports of what is connected; *exposed*: those it exposes, too, at free ones.

    Of several networks it is the one that the ports name, or *network*, or the one with the
    default route. Connections of its other ports go on. What they became.
    """
    with engine.job() as kernel:
        sandbox = engine.sandbox(target)
        place = publications.network_of(ports, network)
        here = publications.on(engine.store, sandbox, place)
        ep = publications.leading_out(engine.store, here)
        if exposed:
            ports = (*ports, *publications.exposed(sandbox, here))
        if not ports:
            raise Conflict(
                f"container {sandbox.name} exposes nothing that is not published",
                hint="name the ports",
            )

        known: list[PortMapping] = []

        def propose(owner: str, net: NetworkRecord, ep: EndpointRecord) -> alterations.Alteration:
            known[:] = ep.ports
            return publications.publish(engine.changes, net, ep, ports, kernel, owner)

        what = f"cannot publish ports of {ep.owner}"
        try:
            after = _alter(engine, sandbox, ep, what, propose, kernel)
        except (Conflict, Exhausted):
            # the dead may hold what is missing: bury them, and try once more
            if engine.changes.dry or not recovery.collect(engine.changes, kernel, sandbox.id):
                raise
            after = _alter(engine, sandbox, ep, what, propose, kernel)
        _offer_again(engine, sandbox, after)
        return tuple(port for port in after.ports if port not in known)


def unpublish(
    engine: Engine,
    target: str,
    ports: Sequence[PortSpec],
    *,
    network: str | None = None,
    every: bool = False,
) -> list[EndpointRecord]:
    """Publish these ports no longer, or *every* one; their connections end, others go on.

    All that a spec means is meant: of a container's port wherever it is published. The
    endpoints it was published on.
    """
    with engine.job() as kernel:
        sandbox = engine.sandbox(target)
        place = publications.network_of(ports, network)
        here = publications.on(engine.store, sandbox, place)
        meant = publications.chosen(sandbox, here, ports, every=every)
        done = []
        for ep, gone in meant:

            def propose(
                owner: str,
                net: NetworkRecord,
                ep: EndpointRecord,
                gone: Sequence[PortMapping] = gone,
            ) -> alterations.Alteration:
                return publications.unpublish(engine.changes, net, ep, gone, owner)

            what = f"cannot unpublish ports of {ep.owner}"
            done.append(_alter(engine, sandbox, ep, what, propose, kernel))
            _offer_again(engine, sandbox, done[-1])
        return done


def _offer_again(engine: Engine, sandbox: SandboxRecord, ep: EndpointRecord) -> None:
    """On a closed network, who links to a container may reach what that publishes now."""
    net = engine.store.get(NetworkRecord, ep.network)
    link = f'"target":"{sandbox.name}"'
    if not net.icc and engine.store.all(EndpointRecord, network=net.id, mentioning=link):
        alter_network(engine, net.id, "offer ports on network", enforcement.again)


def update(
    engine: Engine, target: str, update: updates.Update, *, network: str | None = None
) -> SandboxRecord:
    """Change what an update says of a container: all of it, or nothing. *network* says of which
    of its interfaces, if it has several.
    """
    with engine.job() as kernel:
        sandbox = engine.sandbox(target)
        ep = None
        if update.of_endpoint or network is not None:
            ep = alterations.meant(engine.store, sandbox, "", network, None)
        with ExitStack() as locks:
            if ep is not None:
                locks.enter_context(engine.store.locked(ep.network, shared=True))
            locks.enter_context(engine.store.locked(sandbox.id))
            if ep is not None:
                locks.enter_context(engine.counted_on(ep.network))
            engine.reachable(sandbox)
            with engine.store.transaction(), translated(f"cannot update {sandbox.name}"):
                sandbox, net = engine.store.get(SandboxRecord, sandbox.id), None
                if ep is not None:
                    ep = engine.store.get(EndpointRecord, ep.id)
                    net = engine.store.get(NetworkRecord, ep.network)
                wanted = updates.container(engine.changes, sandbox, net, ep, update)
                change = _change(engine, naming.new_id(), wanted, kernel)
            engine.changes.realise([change], kernel)
            return engine.store.get(SandboxRecord, sandbox.id)


def update_network(engine: Engine, name: str, update: updates.NetworkUpdate) -> NetworkRecord:
    """Change what an update says of a network, and of all who are on it."""

    def propose(
        changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
    ) -> alterations.NetworkAlteration:
        return updates.network(changes, net, here, kernel, update)

    net = alter_network(engine, name, "update network", propose)
    if update.servers or update.no_servers:
        engine.renew()  # resolv.conf tells who is asked
    return net


def _alter(
    engine: Engine,
    sandbox: SandboxRecord,
    ep: EndpointRecord,
    what: str,
    propose: Callable[[str, NetworkRecord, EndpointRecord], alterations.Alteration],
    kernel: Kernel,
) -> EndpointRecord:
    """Change an endpoint as proposed, in the name of the change's id; all of it, or nothing."""
    id = naming.new_id()
    with (
        engine.store.locked(ep.network, shared=True),
        engine.store.locked(sandbox.id),
        engine.counted_on(ep.network),
    ):
        engine.reachable(sandbox)
        with engine.store.transaction(), translated(what):
            ep = engine.store.get(EndpointRecord, ep.id)
            net = engine.store.get(NetworkRecord, ep.network)
            wanted = propose(id, net, ep)
            change = _change(engine, id, wanted, kernel)
        if wanted.gone is None:
            engine.changes.realise([change], kernel)
        else:
            engine.changes.undo([change], kernel)
        return engine.store.get(EndpointRecord, ep.id)


def _change(
    engine: Engine, id: str, wanted: alterations.Alteration, kernel: Kernel
) -> ChangeRecord:
    """The intent: what is to be deleted, if this is not the end of it."""
    after = wanted.after
    change = ChangeRecord(
        id=id,
        created=time.time(),
        epoch=engine.changes.epoch,
        maker=engine.changes.maker,
        network=after.network if after else "",
        leases=dict(wanted.leases),
        sandbox_after=wanted.sandbox,
    )
    if wanted.gone is not None:
        assert after is not None
        change = replace(change, steps=steps.encode(wanted.gone))
        journal.changed(engine.store, after)
        engine.store.update(after)
    else:
        added = steps.prepare(wanted.added, kernel)
        change = replace(change, steps=steps.encode(added))
        if after is not None:
            plan = (*steps.decode(after.steps), *added)
            change = replace(change, after=replace(after, steps=steps.encode(plan)))
    engine.store.put(change)
    return change


def alter_network(
    engine: Engine, name: str, what: str, propose: alterations.NetworkProposal
) -> NetworkRecord:
    """Change a network, and the endpoints on it, while they live: all of it, or nothing.

    *what* is being done, for messages: "open network". Nobody joins or leaves meanwhile.
    """
    if name in model.BUILT_IN:
        raise Conflict(f"cannot {what} '{name}': it is pre-defined")
    with engine.job() as kernel:
        net = engine.default_network() if is_default(name) else engine.network(name)
        if net.maker is not None:  # somebody is still making it
            with engine.store.locked("host"):
                net = engine.store.get(NetworkRecord, net.id)
        if net.epoch != engine.changes.epoch:
            net = engine.revive(net, kernel)
        with engine.store.locked(net.id), engine.changes.membership((net.id,)):
            with engine.store.transaction(), translated(f"cannot {what} '{net.name}'"):
                net = engine.store.get(NetworkRecord, net.id)
                here = engine.store.all(EndpointRecord, network=net.id)
                living = [
                    ep for ep in here if ep.maker is None and ep.epoch == engine.changes.epoch
                ]
                wanted = propose(engine.changes, net, living, kernel)
                change = ChangeRecord(
                    id=naming.new_id(),
                    created=time.time(),
                    epoch=engine.changes.epoch,
                    maker=engine.changes.maker,
                    network=net.id,
                    steps=steps.encode(steps.prepare(wanted.added, kernel)),
                    others=wanted.endpoints,
                    network_after=wanted.after,
                )
                engine.store.put(change)
            engine.changes.realise([change], kernel)
            return engine.store.get(NetworkRecord, net.id)
