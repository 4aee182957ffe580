"""Publications: ports of the host that lead to an endpoint, from the start and while it lives.

    claim       which of the host's ports, and what leads there
    publish     more of them, for an endpoint that is connected
    unpublish   fewer

Shapes   `publish` and `unpublish` make an Alteration; claims are made in the caller's transaction
Errors   InvalidSpec, NotFound, Conflict, Exhausted, before any effect
Source   docker run(1) for `-p`; the plan of what is published is the driver's, as for `connect`

What a live endpoint gets is what its driver plans for it with the port and not without: rules, the
way back for answers, and a proxy where translation cannot do it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from msgspec.structs import replace

from netkit import addresses, drivers, extras, gateway, sharing, steps
from netkit.addresses import WILDCARDS
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.kernel import Kernel
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.ports import Ports
from netkit.portspec import PortMapping, PortSpec
from netkit.steps import Plan, Proxy, Rules, Step
from netkit.store import SqliteStore

if TYPE_CHECKING:
    from netkit.alterations import Alteration

_PROXIED = ("tcp", "udp")
_LOOPBACK = IPv6Address("::1")


# -- what can be had


def refuse(net: NetworkRecord) -> None:
    """Refuse a network on which nothing can be published."""
    if net.internal:
        raise InvalidSpec(
            f"cannot publish ports on network '{net.name}': it is internal",
            hint="publish on another network, or create this one without --internal",
        )
    if net.unnumbered:
        raise InvalidSpec(
            f"cannot publish ports on network '{net.name}': the host has no address there, for it "
            "has no subnet",
            hint="publish on another network, or create this one with --subnet",
        )
    if not drivers.load(net.driver).TRAITS.publishes:
        raise InvalidSpec(
            f"cannot publish ports on network '{net.name}': driver {net.driver} does not publish",
            hint="its containers are reachable at their own addresses",
        )


def claim(
    changes: Changes,
    net: NetworkRecord,
    ep: EndpointRecord,
    ports: Iterable[PortSpec],
    kernel: Kernel,
    owner: str,
) -> tuple[PortMapping, ...]:
    """Claim *ports* for an endpoint, in the name of *owner*: a record's id."""
    claims = Ports(changes.store.connection)
    attachment = ep.wanted.attachment
    host = sharing.OwnHost(kernel, attachment) if attachment else kernel
    own = addresses.versions(ep.addresses)
    mappings: list[PortMapping] = []
    for spec in ports:
        if spec.address is None and spec.device is None:
            spec = replace(spec, address=net.host_binding or changes.config.binding)
        by = _served_by(changes, net, spec, own, kernel)
        if not by or (spec.address is not None and spec.address.version not in by):
            raise _unserved(net, spec, own, kernel)
        mappings += (
            replace(mapping, by=by[mapping.host_address.version])
            for mapping in claims.claim(owner, spec, tuple(by), host, changes.owner_name)
        )
    return tuple(mappings)


def _served_by(
    changes: Changes, net: NetworkRecord, spec: PortSpec, own: Sequence[int], kernel: Kernel
) -> dict[int, str]:
    """What leads to a port from the host's addresses of each IP version (PortMapping.by).

    *own* are the versions its container has. What nothing leads from is not among them. At the
    host's loopback a proxy serves what translation does not, whether one is configured or not.
    """
    translated = net.publish == "nat" and kernel.firewall.name != "none"
    wanted = net.publish == "proxy" or changes.config.userland_proxy
    local = spec.address is not None and spec.address.is_loopback
    proxied = (wanted or local) and spec.protocol in _PROXIED
    found: dict[int, str] = {}
    for version in (4, 6):
        if version in own and net.mode(version) == "routed":
            found[version] = "nat"
        elif translated and version in own and spec.address != _LOOPBACK:
            wide = version == 6 and spec.address in (None, WILDCARDS[6]) and spec.device is None
            found[version] = "both" if wide and proxied else "nat"
        elif proxied and (version in own or _speaks(kernel, version)):
            found[version] = "proxy"
    return found


def _speaks(kernel: Kernel, version: int) -> bool:
    return version == 4 or kernel.sysctl("net/ipv6/conf/all/disable_ipv6") == "0"


def _unserved(
    net: NetworkRecord, spec: PortSpec, own: Sequence[int], kernel: Kernel
) -> InvalidSpec:
    where = f" on {addresses.bracketed(spec.address)}" if spec.address else ""
    version = spec.address.version if spec.address else 0
    proxy = "a proxy process does it: netkit --userland-proxy, or userland-proxy = true"
    if spec.protocol not in _PROXIED:
        why = f"a proxy passes on {' and '.join(_PROXIED)} only"
        hint = "use another address, or another network"
    elif version and not _speaks(kernel, version):
        why, hint = f"this host has no IPv{version}", "leave out the address"
    elif version and version not in own:
        why = f"network '{net.name}' has no IPv{version}"
        hint = "create it with --ipv6" if version == 6 else "leave out the address"
        hint += f"; or {proxy}"
    else:
        why, hint = "firewall 'none' translates nothing", proxy
    return InvalidSpec(f"cannot publish{where}: {why}", hint=hint)


# -- while it lives


def publish(
    changes: Changes,
    net: NetworkRecord,
    ep: EndpointRecord,
    ports: Sequence[PortSpec],
    kernel: Kernel,
    owner: str,
) -> Alteration:
    """What publishing *ports* of a live endpoint takes; claimed in the name of the change."""
    from netkit.alterations import Alteration  # lazily: to connect takes none

    refuse(net)
    if not ep.addresses:
        raise InvalidSpec(
            f"cannot publish ports of {ep.owner}: it has no address of network '{net.name}'",
            hint=f"give it one: netkit address add {_container(ep)} ADDRESS",
        )
    new = claim(changes, net, ep, ports, kernel, owner)
    served = ep.proxy or any(port.by != "nat" for port in new)
    path = f"{changes.store.run_dir}/proxy-{ep.id[:12]}" if served else ""
    after = _with(replace(ep, proxy=path), (*ep.ports, *new))
    before, wanted = _plan(net, ep), _plan(net, after)
    _refuse_turning(ep, _beyond(before, wanted))
    return Alteration(after, _beyond(wanted, before))


def unpublish(
    changes: Changes,
    net: NetworkRecord,
    ep: EndpointRecord,
    ports: Sequence[PortMapping],
    owner: str,
) -> Alteration:
    """What publishing some of its *ports* no longer takes; they stay claimed by the change."""
    from netkit.alterations import Alteration

    Ports(changes.store.connection).hand(ep.id, owner, ports)
    after = _with(ep, tuple(port for port in ep.ports if port not in ports))
    before, wanted = _plan(net, ep), _plan(net, after)
    _refuse_turning(ep, _beyond(wanted, before))
    gone = _beyond(before, wanted)
    have = steps.decode(ep.steps)
    left = _beyond(have, gone)
    return Alteration(replace(after, steps=steps.encode(left)), gone=_beyond(have, left))


def _with(ep: EndpointRecord, ports: tuple[PortMapping, ...]) -> EndpointRecord:
    specs = tuple(port.spec for port in ports)
    return replace(ep, ports=ports, request=replace(ep.wanted, ports=specs))


def _plan(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    """As for `connect`; only what depends on its ports is of interest."""
    return extras.combined(drivers.load(net.driver).endpoint(net, ep), extras.plan(net, ep))


def _beyond(plan: Plan, base: Plan) -> Plan:
    """What is in *plan* and not in *base*: of rules and of a proxy's ports each by itself."""
    rules = {rule for step in base if isinstance(step, Rules) for rule in step.rules}
    served = {port for step in base if isinstance(step, Proxy) for port in step.ports}
    found: list[Step] = []
    for step in plan:
        match step:
            case Rules():
                if left := tuple(rule for rule in step.rules if rule not in rules):
                    found.append(replace(step, rules=left))
            case Proxy():
                if own := tuple(port for port in step.ports if port not in served):
                    found.append(replace(step, ports=own))
            case _ if step not in base:
                found.append(step)
    return tuple(found)


def _refuse_turning(ep: EndpointRecord, others: Plan) -> None:
    """With ports answers go back by the network's own gateway, without by the endpoint's."""
    if others:
        raise Conflict(
            f"cannot change the ports of {ep.owner} while it runs: it has --source-routing, by "
            "another gateway than the network's",
            hint="disconnect it, and connect it again as wanted",
        )


def _container(ep: EndpointRecord) -> str:
    return ep.owner.rpartition("/")[0]


# -- which ones are meant


def network_of(ports: Iterable[PortSpec], network: str | None) -> str | None:
    """The network that ports are for: *network*, or the one they name themselves."""
    named = {port.network for port in ports} - {None}
    if network is not None:
        named.add(network)
    if len(named) > 1:
        listed = ", ".join(sorted(map(str, named)))
        raise InvalidSpec(
            f"ports of several networks at once: {listed}", hint="say one network at a time"
        )
    return next(iter(named), None)


def on(store: SqliteStore, sandbox: SandboxRecord, network: str | None) -> list[EndpointRecord]:
    """The endpoints of a container, or the one on *network*."""
    found = [ep for ep in store.all(EndpointRecord, sandbox=sandbox.id) if ep.netns is not None]
    if network is not None:
        net = store.get(NetworkRecord, network)
        found = [ep for ep in found if ep.network == net.id]
    if not found:
        where = f"network '{network}'" if network else "any network of netkit's"
        raise NotFound(
            f"container {sandbox.name} is not connected to {where}",
            hint=f"`netkit inspect {sandbox.name}` shows its networks",
        )
    return found


def leading_out(store: SqliteStore, found: Sequence[EndpointRecord]) -> EndpointRecord:
    """Of several endpoints the one ports are published on: that with the default route."""
    ways = (gateway.holder(store, found, version) for version in addresses.VERSIONS)
    return next((ep for ep in ways if ep is not None), found[0])


def parse(text: str) -> tuple[PortSpec, ...]:
    """As for `-p`; or as `netkit port` shows it, 80/tcp -> 0.0.0.0:8080, or `netkit ps`."""
    left, arrow, right = text.partition("->")
    if not arrow:
        return PortSpec.parse(text)
    left, right = left.rstrip(), right.lstrip()
    inside, outside = (left, right) if "/" in left else (right, left)
    return PortSpec.parse(f"{outside}:{inside}")


def exposed(sandbox: SandboxRecord, here: Iterable[EndpointRecord]) -> tuple[PortSpec, ...]:
    """The ports a container exposes and none of these endpoints publishes."""
    known = {(inside, m.protocol) for ep in here for m in ep.ports for inside, _ in m}
    specs = (spec for text in sandbox.exposed for spec in PortSpec.exposed(text))
    return tuple(spec for spec in specs if (spec.port, spec.protocol) not in known)


def chosen(
    sandbox: SandboxRecord,
    here: Iterable[EndpointRecord],
    specs: Sequence[PortSpec],
    *,
    every: bool,
) -> list[tuple[EndpointRecord, Sequence[PortMapping]]]:
    """Those of the endpoints' ports that *specs* mean, or all of them; NotFound if there is none,
    or a spec means none.
    """
    found: list[tuple[EndpointRecord, Sequence[PortMapping]]] = []
    strange = set(specs)
    for ep in here:
        ports = meant(ep, specs)
        strange -= set().union(*ports.values())
        if own := ep.ports if every else tuple(ports):
            found.append((ep, own))
    if strange or not found:
        named = ", ".join(str(spec) for spec in specs if spec in strange)
        raise NotFound(
            f"container {sandbox.name} publishes no port" + (f" {named}" if named else ""),
            hint=f"`netkit port {sandbox.name}` lists them",
        )
    return found


def meant(ep: EndpointRecord, specs: Sequence[PortSpec]) -> dict[PortMapping, set[PortSpec]]:
    """Those of its ports that *specs* mean, each with those it is meant by.

    A spec says the container's port, and as much more as it likes.
    """
    found: dict[PortMapping, set[PortSpec]] = {}
    for mapping in ep.ports:
        by = [{spec for spec in specs if _means(spec, mapping, *pair)} for pair in mapping]
        if all(by):
            found[mapping] = set().union(*by)
        elif any(by):
            raise Conflict(
                f"cannot unpublish a part of {mapping} of {ep.owner}: a range is one publication",
                hint=f"unpublish all of it, and publish what is to stay: {mapping.spec}",
            )
    return found


def _means(spec: PortSpec, mapping: PortMapping, port: int, host_port: int) -> bool:
    """Whether a spec means this one of a mapping's ports."""
    if (
        spec.protocol != mapping.protocol
        or spec.address not in (None, mapping.host_address)
        or spec.device not in (None, mapping.device)
    ):
        return False
    number = port - spec.port
    if not 0 <= number < spec.count:
        return False
    if spec.first == 0:
        return True
    return spec.first + number <= host_port <= spec.last + number
