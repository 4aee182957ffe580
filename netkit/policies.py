"""What two endpoints of a closed network may do: in force from when both are there.

Shapes   rules of a pair are in the plan of whichever came later. Who leaves takes them along,
         whoever has them: nobody who gets its interface's name later inherits a permission.
         Permissions are of containers' names, so one that comes back has them again
Source   netkit.drivers.access for which rules these are

Whoever arrives on a closed network, or leaves, or changes what holds there has the lock
`store.members`: between looking at who is there and being among them nobody else comes or goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address

from msgspec.structs import replace

from netkit import drivers, steps
from netkit.access import HOST
from netkit.drivers import access
from netkit.drivers.access import Member
from netkit.errors import InvalidSpec
from netkit.firewall import Confine, Learnt, Meet, NoHost, Reach, Rule
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.specs import Request
from netkit.store import SqliteStore

_SOMEWHERE = IPv4Address(0)


def arriving(
    store: SqliteStore, net: NetworkRecord, sandbox: SandboxRecord, ep: EndpointRecord
) -> steps.Plan:
    """What *ep* adds to its plan: what it may do with those who are there, and they with it."""
    if net.icc:
        return ()
    own = Member(sandbox.name, ep, sandbox.exposed)
    known = _acquainted(store, net, own)
    rules = tuple(rule for other in known for rule in access.between(net, own, other))
    return (steps.Rules(rules=rules),) if rules else ()


def leaving(store: SqliteStore, ep: EndpointRecord) -> EndpointRecord:
    """*ep* as it is now, with what others hold for its sake; in a transaction, with the lock."""
    ep = store.by_id(EndpointRecord, ep.id) or ep
    net = store.by_id(NetworkRecord, ep.network)
    if net is not None and (forget := forgetting(net, ep)):
        ep = replace(ep, steps=steps.encode((forget, *steps.decode(ep.steps))))
    if net is None or net.icc or not ep.host_ifname:
        return ep
    taken: list[Rule] = []
    for other in store.all(EndpointRecord, network=net.id, mentioning=ep.host_ifname):
        if other.id == ep.id or other.maker is not None:
            continue  # who is leaving as well has what it is to delete
        rules = [rule for rule in pairs(other) if _mentions(rule, ep.host_ifname)]
        if rules:
            plan = without(steps.decode(other.steps), rules)
            store.update(replace(other, steps=steps.encode(plan)))
            taken += rules
    plan = steps.decode(ep.steps)
    if taken:
        plan = (*plan, steps.Rules(rules=tuple(taken)))
    return replace(ep, steps=steps.encode(plan))


def pairs(ep: EndpointRecord) -> list[Rule]:
    """The rules about it and another that an endpoint holds."""
    return [
        rule
        for rule in steps.held(steps.decode(ep.steps))
        if isinstance(rule, Reach) or (isinstance(rule, Meet) and rule.other is not None)
    ]


def acquaintances(net: NetworkRecord, members: Iterable[Member]) -> Iterator[tuple[Member, Member]]:
    """Those of a closed network who may do anything with each other, each two once."""
    everyone = list(members)
    named: dict[str, list[Member]] = {}
    for member in everyone:
        named.setdefault(member.name, []).append(member)
    wanted = [(said.client, said.server) for said in net.allows]
    wanted += [(m.name, link.target) for m in everyone for link in m.ep.wanted.links]
    for one, other in dict.fromkeys((min(two), max(two)) for two in wanted):
        if one != other:
            yield from ((a, b) for a in named.get(one, ()) for b in named.get(other, ()))


def members(store: SqliteStore, endpoints: Iterable[EndpointRecord]) -> list[Member]:
    """Endpoints and whose they are, but those in the midst of coming or going."""
    found: list[Member] = []
    for ep in endpoints:
        sandbox = store.by_id(SandboxRecord, ep.sandbox)
        if sandbox is not None and ep.maker is None:
            found.append(Member(sandbox.name, ep, sandbox.exposed))
    return found


def without(plan: Iterable[steps.Step], gone: Iterable[Rule]) -> steps.Plan:
    """A plan that does not hold these rules."""
    gone = set(gone)
    kept: list[steps.Step] = []
    for step in plan:
        if isinstance(step, steps.Rules):
            rules = tuple(rule for rule in step.rules if rule not in gone)
            if len(rules) < len(step.rules):
                if rules:
                    kept.append(replace(step, rules=rules))
                continue
        kept.append(step)
    return tuple(kept)


def forgetting(net: NetworkRecord, ep: EndpointRecord) -> steps.Forget | None:
    """What takes back the addresses that an endpoint was let go to for their names' sake."""
    every = (*(net.egress or ()), *(ep.wanted.egress or ()))
    if not any(rule.domain for rule in every):
        return None
    return steps.Forget(addresses=tuple(own.ip for own in ep.every_address))


def refuse(net: NetworkRecord, kernel: Kernel, *requests: Request) -> None:
    """Refuse policies that nobody can see to: on such a network, or by the firewall at hand."""
    lists = [net.egress, *(each.egress for each in requests)]
    domains = [rule for listed in lists for rule in listed or () if rule.domain is not None]
    samples: dict[str, Rule] = {}
    if not net.icc:
        reach = Reach("a", "b", 1, "tcp", bridged=bool(net.bridge))
        samples |= {str(said): reach for said in net.allows if said.server != HOST}
        samples |= {f"the link {link}": reach for each in requests for link in each.links}
    if not net.host_access:
        samples["a network without access to the host"] = NoHost("a")
    if any(listed is not None for listed in lists):
        samples["an egress list"] = Confine("a")
    samples |= {str(rule): Learnt(_SOMEWHERE, _SOMEWHERE, 1) for rule in domains}
    if any(each.egress is not None and each.addressless for each in requests):
        raise InvalidSpec(
            f"cannot have an egress list of its own for who has no address on network '{net.name}':"
            " nobody knows its packets",
            hint=f"give it an address, or the network a list: `netkit egress {net.name} …`",
        )
    for what, rule in samples.items():
        why, hint = _impossible(net, rule, kernel)
        if why:
            raise InvalidSpec(f"cannot have {what} on network '{net.name}': {why}", hint=hint)


def _impossible(net: NetworkRecord, rule: Rule, kernel: Kernel) -> tuple[str, str]:
    """Why such a rule cannot be there, and the way out."""
    traits = drivers.load(net.driver).TRAITS
    if not (traits.bridge or traits.routed):
        return f"driver {net.driver} goes past the host's firewall", "use driver bridge or veth"
    if isinstance(rule, Confine | Learnt) and net.internal:
        return "it is internal", "leave it out: nothing leaves it"
    if isinstance(rule, Reach) and net.internal and not net.bridge:
        return "it is internal, and each on it has the host only", "use driver bridge"
    if isinstance(rule, Learnt) and not net.names:
        return "it has no names, and nobody else is asked for them", "give addresses"
    return kernel.firewall.refuses([rule]), "`netkit firewall use nftables` can"


def _acquainted(store: SqliteStore, net: NetworkRecord, own: Member) -> list[Member]:
    """Who is there that *own* may reach, or be reached by."""
    names = {said.server for said in net.allows if said.client == own.name}
    names |= {said.client for said in net.allows if said.server == own.name}
    names |= {link.target for link in own.ep.wanted.links}
    found: dict[str, EndpointRecord] = {}
    for name in names - {own.name}:
        if (sandbox := store.by_name(SandboxRecord, name)) is not None:
            found |= {ep.id: ep for ep in store.all(EndpointRecord, sandbox=sandbox.id)}
    linking = store.all(EndpointRecord, network=net.id, mentioning=f'"target":"{own.name}"')
    found |= {ep.id: ep for ep in linking}
    there = (
        ep
        for ep in found.values()
        if (ep.network, ep.epoch) == (net.id, own.ep.epoch) and ep.sandbox != own.ep.sandbox
    )
    return members(store, there)


def _mentions(rule: Rule, port: str) -> bool:
    match rule:
        case Reach(client, server):
            return port in (client, server)
        case Meet(one, other):
            return port in (one, other)
    return False
