"""Changing who may talk to whom, while all of them live: on record, in one transaction, or not.

    allow  disallow  |  police (open or closed, host access)  |  let_out (egress)

Shapes   a verb names a network, or finds it: the one that both containers are on. What it makes
         of the network is compared with what is in force, and only the difference is changed
Errors   InvalidSpec, NotFound, Conflict, before any effect
Source   netkit.policies and netkit.drivers.access for what is in force

On a bridge a connection that is allowed no longer ends at once; where the host forwards (driver
veth), and towards the outside, those that are established go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec.structs import replace

from netkit import drivers, enforcement, live, policies
from netkit.access import ANYONE, HOST, Allowance, EgressRule
from netkit.addresses import Address
from netkit.alterations import NetworkAlteration
from netkit.changes import Changes
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.firewall import Learnt, Serve
from netkit.kernel import Kernel
from netkit.model import ChangeRecord, EndpointRecord, NetworkRecord, SandboxRecord
from netkit.store import SqliteStore

_LEARNT_LEAST_S, _LEARNT_MOST_S = 60, 86_400
_MOST_LEARNT = 100  # addresses of one answer
_LEARNT_SLACK_S = 30  # between an answer and the connection it leads to
_SHOWN = 12  # digits of an id
EgressVerb = Literal["allow", "disallow", "any", "deny"]


def allow(engine: Engine, client: str, server: str, network: str | None = None) -> NetworkRecord:
    """Let container *client*, or "*" everybody, reach *server*: "db", "db:5432/tcp", "host:53/udp".

    Names need not be anybody's yet.
    """
    said = _said(engine, client, server)

    def propose(
        changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
    ) -> NetworkAlteration:
        _refuse_vain(net, said)
        if said in net.allows:
            raise Conflict(f"{said} is allowed on network '{net.name}' already")
        return enforcement.become(
            changes, net, replace(net, allows=(*net.allows, said)), here, kernel
        )

    net = live.alter_network(engine, _place(engine, said, network), f"allow {said} on", propose)
    for name in _absent(engine, net, said):
        engine.changes.warn(
            f"no container called '{name}' is on network '{net.name}' now: "
            "it is allowed once there is one"
        )
    return net


def disallow(engine: Engine, client: str, server: str, network: str | None = None) -> NetworkRecord:
    """Take back what was allowed, in the same words."""
    said = _said(engine, client, server)

    def propose(
        changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
    ) -> NetworkAlteration:
        if said not in net.allows:
            listed = "; ".join(map(str, net.allows)) or "nothing"
            raise NotFound(
                f"{said} is not allowed on network '{net.name}'",
                hint=f"these are: {listed}",
            )
        left = tuple(each for each in net.allows if each != said)
        return enforcement.become(changes, net, replace(net, allows=left), here, kernel)

    return live.alter_network(engine, _place(engine, said, network), f"disallow {said} on", propose)


def police(
    engine: Engine, network: str, *, icc: bool | None = None, host_access: bool | None = None
) -> NetworkRecord:
    """Open or close a network; and the host's own services to it."""

    def propose(
        changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
    ) -> NetworkAlteration:
        if icc is False:
            _refuse_closing(net, kernel)
        after = replace(
            net,
            icc=net.icc if icc is None else icc,
            host_access=net.host_access if host_access is None else host_access,
        )
        return enforcement.become(changes, net, after, here, kernel)

    return live.alter_network(engine, network, "change the policy of network", propose)


def let_out(
    engine: Engine,
    name: str,
    verb: EgressVerb,
    rules: Iterable[str] = (),
    network: str | None = None,
) -> NetworkRecord:
    """Where the packets of a network may go, or those of a container on one (*network*, if it is on
    several): allow some more, or less; any place; or none (deny).
    """
    given = tuple(EgressRule.parse(text) for text in rules)
    if bool(given) != (verb in ("allow", "disallow")):
        raise InvalidSpec(
            f"invalid egress list: `{verb}` takes {'no rules' if given else 'rules'}",
            hint="allow RULE…, disallow RULE…, any, or deny",
        )
    net, sandbox = _meant(engine, name, network)

    def propose(
        changes: Changes, net: NetworkRecord, here: Sequence[EndpointRecord], kernel: Kernel
    ) -> NetworkAlteration:
        if sandbox is None:
            after = replace(net, egress=_listed(name, net.egress, verb, given))
            return enforcement.become(changes, net, after, here, kernel)
        (ep,) = (ep for ep in here if ep.sandbox == sandbox.id)
        wanted = replace(ep.wanted, egress=_listed(name, ep.wanted.egress, verb, given))
        return enforcement.become(changes, net, net, here, kernel, {ep.id: wanted})

    return live.alter_network(engine, net.id, f"change the egress list of {name} on", propose)


def egress(engine: Engine, name: str, network: str | None = None) -> tuple[EgressRule, ...] | None:
    """The list of a network, or of a container on one; None: it has none."""
    net, sandbox = _meant(engine, name, network)
    if sandbox is None:
        return net.egress
    found = engine.endpoints(sandbox=sandbox.id)
    return next(ep.wanted.egress for ep in found if ep.network == net.id)


def learnt(
    engine: Engine, sandbox: str, name: str, addresses: Iterable[tuple[Address, int]]
) -> None:
    """A container is about to be told the addresses of *name*, and for how many seconds they are
    right: let it go there for so long, where its egress lists name that.

    What is on the host's own links nobody's name opens: 169.254.169.254, say, where clouds keep
    credentials.
    """
    found = [each for each in addresses if _is_elsewhere(each[0])][:_MOST_LEARNT]
    if not (rules := _opened(engine.store, sandbox, name, found)):
        return
    with engine.changes.kernel() as kernel:
        engine.changes.keep_up(kernel)
        kernel.firewall.add(rules)
        # a list that changed meanwhile has had forgotten what it opened, so this is to be, too; as
        # has whoever left
        changing = any(change.network_after for change in engine.store.all(ChangeRecord))
        if changing or _opened(engine.store, sandbox, name, found) != rules:
            kernel.firewall.forget(list({rule.address for rule in rules}))


def _opened(
    store: SqliteStore, sandbox: str, name: str, found: Sequence[tuple[Address, int]]
) -> list[Learnt]:
    """What a container's lists open to it of where *name* leads."""
    rules: dict[Learnt, None] = {}
    for ep in store.all(EndpointRecord, sandbox=sandbox):
        net = store.by_id(NetworkRecord, ep.network)
        if net is None or ep.maker is not None:
            continue
        for said in (*(net.egress or ()), *(ep.wanted.egress or ())):
            for ip, ttl_s in found if said.covers(name) else ():
                right_s = min(max(ttl_s, _LEARNT_LEAST_S), _LEARNT_MOST_S)
                rules |= {
                    Learnt(
                        own.ip, ip, right_s + _LEARNT_SLACK_S, said.port, said.protocol, said.count
                    ): None
                    for own in ep.every_address
                    if own.version == ip.version
                }
    return list(rules)


def _is_elsewhere(ip: Address) -> bool:
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


# -- what is meant


def _listed(
    name: str, listed: tuple[EgressRule, ...] | None, verb: EgressVerb, given: Sequence[EgressRule]
) -> tuple[EgressRule, ...] | None:
    """An egress list as it is to be."""
    if verb in ("any", "deny"):
        return None if verb == "any" else ()
    there = listed or ()
    if verb == "allow":
        if known := [rule for rule in given if rule in there]:
            raise Conflict(f"{name} may go to {known[0]} already")
        return (*there, *dict.fromkeys(given))
    if unknown := [rule for rule in given if rule not in there]:
        raise NotFound(
            f"{unknown[0]} is not in the egress list of {name}",
            hint="these are: " + (", ".join(map(str, there)) or "none"),
        )
    return tuple(rule for rule in there if rule not in given)


def _said(engine: Engine, client: str, server: str) -> Allowance:
    """What is to be allowed, by the names of containers. What is no id as we show it is a name,
    be it nobody's yet, and somebody's id begin so.
    """

    def name(text: str) -> str:
        found = engine.store.find(SandboxRecord, text) if len(text) >= _SHOWN else None
        return text if found is None else found.name

    said = Allowance.parse(name(client), server)
    said = replace(said, server=name(said.server))
    if said.client == said.server:
        raise InvalidSpec(
            f"invalid allowance {said}: that is one and the same",
            hint="a container reaches itself anyway",
        )
    return said


def _place(engine: Engine, said: Allowance, network: str | None) -> str:
    """The network that was named, or else the only one where both are."""
    if network is not None:
        return network
    wanted = [each for each in (said.client, said.server) if each not in (ANYONE, HOST)]
    if not wanted:
        raise InvalidSpec(f"cannot tell which network {said} is about", hint="say which: --net")
    for name in wanted:
        if engine.store.by_name(SandboxRecord, name) is None:
            raise NotFound(
                f"no such container: {name}",
                hint="say on which network, and it is allowed once there is one: --net",
            )
    joined = [{net.id: net.name for net, _ in _networks(engine, name)} for name in wanted]
    both = {id: name for id, name in joined[0].items() if all(id in each for each in joined)}
    if len(both) != 1:
        who = " and ".join(wanted)
        where = f"several: {', '.join(sorted(both.values()))}" if both else "none"
        raise Conflict(
            f"cannot tell which network {said} is about: of those {who} is on there are {where}"
            if len(wanted) == 1
            else f"cannot tell which network {said} is about: {who} have {where} in common",
            hint="say which: --net",
        )
    return next(iter(both))


def _networks(engine: Engine, name: str) -> list[tuple[NetworkRecord, EndpointRecord]]:
    """The networks a container is on, built-in ones aside."""
    sandbox = engine.sandbox(name)
    found = []
    for ep in engine.endpoints(sandbox=sandbox.id):
        if (net := engine.store.by_id(NetworkRecord, ep.network)) is not None:
            found.append((net, ep))
    return found


def _meant(
    engine: Engine, name: str, network: str | None
) -> tuple[NetworkRecord, SandboxRecord | None]:
    """A network, or a container on one."""
    store = engine.store
    net = None if network else store.by_name(NetworkRecord, name)
    known = store.by_name(SandboxRecord, name)
    if net is None and known is None and network is None:
        net, known = store.find(NetworkRecord, name), store.find(SandboxRecord, name)
    if net is not None and known is None:
        return net, None
    if net is not None:
        raise Conflict(
            f"both a network and a container are called '{name}'",
            hint="for the container say on which network: --net; for the network give its id",
        )
    try:
        sandbox = engine.sandbox(name)
    except NotFound as error:
        if network is not None:
            raise
        raise NotFound(f"no such network or container: {name}", hint=error.hint) from None
    found = [each for each, _ in _networks(engine, name)]
    if network is not None:
        wanted = engine.network(network)
        found = [each for each in found if each.id == wanted.id]
        if not found:
            raise NotFound(f"container {sandbox.name} is not on network '{wanted.name}'")
    if len(found) != 1:
        listed = ", ".join(sorted(each.name for each in found))
        raise Conflict(
            f"container {sandbox.name} is on {f'several networks: {listed}' if found else 'none'}",
            hint="say which: --net" if found else "connect it to one first",
        )
    return found[0], sandbox


def _refuse_vain(net: NetworkRecord, said: Allowance) -> None:
    """Refuse an allowance that would change nothing."""
    if said.server == HOST:
        if net.host_access:
            raise Conflict(
                f"everybody on network '{net.name}' may reach the host already",
                hint=f"close it first: netkit policy {net.name} --no-host-access",
            )
    elif net.icc:
        raise Conflict(
            f"everybody on network '{net.name}' may reach everybody already: it is open",
            hint=f"close it first: netkit policy {net.name} closed",
        )


def _refuse_closing(net: NetworkRecord, kernel: Kernel) -> None:
    """Refuse to close what nobody here can keep closed."""
    traits = drivers.load(net.driver).TRAITS
    why = "" if traits.bridge else kernel.firewall.refuses([Serve("", bridged=False)])
    if not (traits.bridge or traits.routed):
        why = f"driver {net.driver} goes past the host's firewall"
    if why:
        raise InvalidSpec(f"cannot close network '{net.name}': {why}", hint="use driver bridge")


def _absent(engine: Engine, net: NetworkRecord, said: Allowance) -> list[str]:
    """The names in an allowance that nobody on the network has now."""
    members = policies.members(engine.store, engine.endpoints(network=net.id))
    there = {ANYONE, HOST, *(member.name for member in members)}
    return [name for name in (said.client, said.server) if name not in there]
