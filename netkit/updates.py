"""Updates: what else changes of a container, or of a network, while it lives.

    container   its aliases, DNS, MTU and labels, and which network has its default route
    network     labels, servers, MTU, more subnets

Shapes   an update says what is to be another; what it leaves out stays. It becomes an Alteration
Units    MTU in bytes
Errors   InvalidSpec, NotFound, Conflict, before any effect
Source   docker container update(1), podman-network-update(1) for the words
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from netkit import extras, gateway, namesakes, renewal, specs, steps
from netkit.alterations import Alteration, NetworkAlteration
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.steps import Plan, Step, Tune

_TUNED = ("mtu", "txqlen", "promisc", "allmulti")
# where an interface's MTU is its network's, on both its ends
_WHOLE = ("bridge", "veth")


class Labels(msgspec.Struct, frozen=True):
    """Labels that come, and those that go, by key."""

    add: Mapping[str, str] = {}
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        specs.validate_labels(self.add)
        if both := set(self.add) & set(self.drop):
            raise InvalidSpec(f"label {min(both)!r:.80} both comes and goes")

    def of(self, there: Mapping[str, str], whose: str) -> dict[str, str]:
        """What becomes of the labels there are."""
        for key in self.drop:
            if key not in there:
                raise NotFound(f"{whose} has no label {key!r:.80}")
        return {k: v for k, v in there.items() if k not in self.drop} | dict(self.add)


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be another of a container; of the interface, if it says anything of that.

    `servers`, `search` and `options` are those of its resolv.conf; empty: its network's.
    """

    aliases: tuple[str, ...] = ()
    no_aliases: tuple[str, ...] = ()
    mtu: int | None = None
    txqlen: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    gateway_priority: int | None = None
    servers: tuple[str, ...] | None = None
    search: tuple[str, ...] | None = None
    options: tuple[str, ...] | None = None
    labels: Labels = Labels()

    @property
    def tuned(self) -> dict[str, Any]:
        """What is asked of the interface itself."""
        return {word: value for word in _TUNED if (value := getattr(self, word)) is not None}

    @property
    def of_endpoint(self) -> bool:
        return bool(
            self.aliases or self.no_aliases or self.tuned or self.gateway_priority is not None
        )

    @property
    def files(self) -> dict[str, Any]:
        words = ("servers", "search", "options")
        return {word: value for word in words if (value := getattr(self, word)) is not None}


class NetworkUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be another of a network."""

    labels: Labels = Labels()
    servers: tuple[str, ...] = ()
    no_servers: tuple[str, ...] = ()
    mtu: int | None = None

    def __post_init__(self) -> None:
        specs.name_servers(self.servers)
        if self.mtu is not None and self.mtu not in specs.MTU_RANGE:
            raise InvalidSpec(
                f"invalid MTU {self.mtu}: must be between {specs.MTU_RANGE[0]} and "
                f"{specs.MTU_RANGE[-1]}"
            )


# -- a container


def container(
    changes: Changes,
    sandbox: SandboxRecord,
    net: NetworkRecord | None,
    ep: EndpointRecord | None,
    update: Update,
) -> Alteration:
    """What an update takes; *ep* is the endpoint it is of, if it is of one."""
    plan: list[Step] = []
    wanted = sandbox
    if update.labels != Labels():
        wanted = replace(sandbox, labels=update.labels.of(sandbox.labels, sandbox.name))
    if update.files:
        wanted = replace(wanted, files=replace(sandbox.files, **update.files))
        plan += _resolving(changes, sandbox, wanted)
    if net is not None and ep is not None:
        ep, more = _endpoint(changes, sandbox, net, ep, update)
        plan += more
    return Alteration(ep, tuple(plan), sandbox=wanted if wanted != sandbox else None)


def _resolving(changes: Changes, sandbox: SandboxRecord, wanted: SandboxRecord) -> Plan:
    if not renewal.is_kept(sandbox):
        raise InvalidSpec(
            f"cannot change the DNS of {sandbox.name}: its resolv.conf is not netkit's",
            hint="give --dns when it is first connected or run",
        )
    return renewal.rewritten(changes.store, wanted)


def _endpoint(
    changes: Changes,
    sandbox: SandboxRecord,
    net: NetworkRecord,
    ep: EndpointRecord,
    update: Update,
) -> tuple[EndpointRecord, list[Step]]:
    request, plan = ep.wanted, list[Step]()
    if update.aliases or update.no_aliases:
        request = replace(request, aliases=_aliases(ep, update))
        namesakes.claim(changes, net, sandbox, replace(ep, request=request))
    after = replace(ep, request=replace(request, **update.tuned))
    if update.tuned:
        extras.refuse_mtu(net, after)
        after = replace(after, steps=steps.encode(_untuned(ep, update.tuned)))
        assert ep.netns is not None
        plan.append(Tune(dev=ep.ifname, at=ep.netns, there=True, **update.tuned))
    if update.gateway_priority is not None:
        priority = update.gateway_priority
        after = replace(
            after,
            gateway_priority=priority,
            request=replace(after.wanted, gateway_priority=priority),
        )
        plan += gateway.moving(changes.store, after)
    return after, plan


def _aliases(ep: EndpointRecord, update: Update) -> tuple[str, ...]:
    there = ep.wanted.aliases
    for alias in update.no_aliases:
        if alias not in there:
            raise NotFound(
                f"{ep.owner} has no alias '{alias}'",
                hint=f"it has {', '.join(there)}" if there else "it has none",
            )
    left = (alias for alias in there if alias not in update.no_aliases)
    return tuple(dict.fromkeys((*left, *update.aliases)))


def _untuned(ep: EndpointRecord, tuned: Mapping[str, Any]) -> list[Step]:
    """Its plan, where nobody says any more what is *tuned* otherwise now."""
    plan: list[Step] = []
    for step in steps.decode(ep.steps):
        if isinstance(step, Tune) and step.dev == ep.ifname:
            was = {word: value for word, value in step.was.items() if word not in tuned}
            step = replace(step, was=was, **dict.fromkeys(tuned))
            if not step.asked:
                continue
        plan.append(step)
    return plan


# -- a network


def network(
    changes: Changes,
    net: NetworkRecord,
    here: Sequence[EndpointRecord],
    kernel: Kernel,
    update: NetworkUpdate,
) -> NetworkAlteration:
    """What an update takes, of the network and all who are *here*."""
    after = replace(net, labels=update.labels.of(net.labels, f"network '{net.name}'"))
    if update.servers or update.no_servers:
        after = replace(after, servers=_servers(net, update))
    if update.mtu is None:
        return NetworkAlteration(after)
    return _resized(replace(after, mtu=update.mtu), here, net.mtu)


def _servers(net: NetworkRecord, update: NetworkUpdate) -> tuple[str, ...]:
    if not net.names:
        raise InvalidSpec(
            f"cannot change the servers of network '{net.name}': it has no names",
            hint="its containers ask the host's servers, or those of --dns",
        )
    for server in update.no_servers:
        if server not in net.servers:
            raise NotFound(
                f"network '{net.name}' does not ask {server}",
                hint=f"it asks {', '.join(net.servers) or 'the servers of the host'}",
            )
    left = (server for server in net.servers if server not in update.no_servers)
    return tuple(dict.fromkeys((*left, *specs.name_servers(update.servers))))


def _resized(net: NetworkRecord, here: Iterable[EndpointRecord], was: int) -> NetworkAlteration:
    """Every interface of a network with its MTU. Nobody sends what the other end would not take:
    who is sent to grows first, and shrinks last.
    """
    if net.driver not in _WHOLE:
        raise InvalidSpec(
            f"cannot change the MTU of network '{net.name}' while it lives: driver {net.driver}",
            hint="that of a container can be: netkit update --mtu N CONTAINER",
        )
    if net.mtu < extras.IPV6_LEAST_MTU and 6 in net.versions:
        raise InvalidSpec(
            f"cannot have an MTU of {net.mtu} with IPv6: that needs {extras.IPV6_LEAST_MTU} at "
            "least",
            hint="give a larger one",
        )
    outside: list[Step] = []
    inside: list[Step] = []
    endpoints = []
    for ep in here:
        own = ep.wanted.mtu
        if own is not None and own > net.mtu:
            raise Conflict(
                f"cannot have an MTU of {net.mtu} on network '{net.name}': {ep.owner} was given "
                f"one of {own}",
                hint=f"netkit update --mtu {net.mtu} --net {net.name} {_container(ep)}",
            )
        outside.append(Tune(dev=ep.host_ifname, mtu=net.mtu, there=True))
        if own is None:
            inside.append(Tune(dev=ep.ifname, at=ep.netns, mtu=net.mtu, there=True))
        endpoints.append(replace(ep, steps=_with_mtu(ep.steps, net.mtu)))
    bridge: list[Step] = []
    if net.driver == "bridge" and not net.foreign:
        bridge.append(Tune(dev=net.bridge, mtu=net.mtu, there=True))
    grows = net.mtu > was
    plan = (*outside, *bridge, *inside) if grows else (*inside, *bridge, *outside)
    after = replace(net, steps=_with_mtu(net.steps, net.mtu))
    return NetworkAlteration(after, tuple(endpoints), plan)


def _with_mtu(text: str, mtu: int) -> str:
    """A plan whose interfaces would be made with another MTU."""
    made = (steps.Bridge, steps.Veth, steps.Pair)
    plan = (replace(s, mtu=mtu) if isinstance(s, made) else s for s in steps.decode(text))
    return steps.encode(plan)


def _container(ep: EndpointRecord) -> str:
    return ep.owner.rpartition("/")[0]
