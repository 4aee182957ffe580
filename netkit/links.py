"""A link as it is proposed: names, interfaces, MACs and addresses of its ends chosen.

Shapes   see LinkRecord; nothing is made here
Source   a /31 for two ends that name no address: RFC 3021. Of 10.254.0.0/16, where neither Docker
         nor we take subnets from
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv4Network, ip_interface

from netkit import addresses, endpoints, naming
from netkit.addresses import Interface, Network
from netkit.changes import Changes
from netkit.drivers import p2p
from netkit.errors import Conflict
from netkit.kernel import Kernel
from netkit.model import EndRecord, LinkEnd, LinkRecord, NetworkRecord, SandboxRecord
from netkit.specs import EndSpec, LinkSpec

HOST = "host"
BLOCK = IPv4Network("10.254.0.0/16")


def propose(
    changes: Changes, spec: LinkSpec, sandboxes: Sequence[SandboxRecord | None], kernel: Kernel
) -> LinkRecord:
    """The link *spec* asks for, between these; None is the host."""
    id = naming.new_id()
    names = [sandbox.name if sandbox else HOST for sandbox in sandboxes]
    ifnames = _ifnames(changes, spec, sandboxes, kernel)
    given = [end.addresses for end in spec.ends]
    if not any(given) and not spec.addressless:
        given = _free_pair(changes, sandboxes, kernel)
    a, b = (
        LinkEnd(
            container=name,
            sandbox=sandbox.id if sandbox else None,
            netns=sandbox.netns if sandbox else None,
            ifname=ifname,
            mac=end.mac or naming.bridge_mac(f"{id}/{n}"),
            addresses=addresses,
        )
        for n, (name, sandbox, ifname, end, addresses) in enumerate(
            zip(names, sandboxes, ifnames, spec.ends, given, strict=True)
        )
    )
    _refuse_lost(a, b, kernel)
    _refuse_lost(b, a, kernel)
    return LinkRecord(
        id=id,
        name=_name(changes, spec.name, names),
        created=time.time(),
        epoch=changes.epoch,
        maker=changes.maker,
        ends=(a, b),
        mtu=spec.mtu,
    )


def ends(changes: Changes, link: LinkRecord) -> list[EndRecord]:
    """A record for each of the sandboxes."""
    return [
        EndRecord(
            id=naming.new_id(),
            created=link.created,
            epoch=link.epoch,
            maker=changes.maker,
            network=link.id,
            sandbox=end.sandbox,
            ifname=end.ifname,
        )
        for end in link.ends
        if end.sandbox is not None
    ]


def _name(changes: Changes, wanted: str | None, ends: Sequence[str]) -> str:
    """*wanted*, or one that tells the ends; of several links between them with a number."""
    if wanted is None:
        stem = "-".join(name[:50] for name in ends)
        tries = (f"{stem}-{n}" if n > 1 else stem for n in range(1, 1 << 16))
        return next(name for name in tries if changes.store.by_name(LinkRecord, name) is None)
    if changes.store.by_name(LinkRecord, wanted):
        raise Conflict(
            f"link with name {wanted} already exists",
            hint=f"choose another name, or remove it: netkit link rm {wanted}",
        )
    return wanted


def _ifnames(
    changes: Changes, spec: LinkSpec, sandboxes: Sequence[SandboxRecord | None], kernel: Kernel
) -> list[str]:
    names = [
        endpoints.free_ifname(changes, sandbox, end.ifname, kernel) if sandbox else ""
        for sandbox, end in zip(sandboxes, spec.ends, strict=True)
    ]
    if None in sandboxes:
        host = sandboxes.index(None)
        there = 1 - host
        names[host] = _host_ifname(spec.ends[host], sandboxes[there], names[there], kernel)
    return names


def _host_ifname(end: EndSpec, sandbox: SandboxRecord | None, ifname: str, kernel: Kernel) -> str:
    """The host's end, by default named after the other, as that of a network is."""
    assert sandbox is not None
    name = end.ifname or naming.host_ifname(sandbox.id, ifname)
    if kernel.netlink().link(name):
        raise Conflict(
            f"an interface named '{name}' exists already on the host",
            hint="choose another --ifname, or leave it out",
        )
    return name


def _free_pair(
    changes: Changes, sandboxes: Sequence[SandboxRecord | None], kernel: Kernel
) -> list[tuple[Interface, ...]]:
    """Two addresses that hide nothing either end, or the host, can reach today."""
    from ipam import space

    taken: list[Network] = []
    for link in changes.store.all(LinkRecord):
        taken += [address.network for end in link.ends for address in end.addresses]
    for net in changes.store.all(NetworkRecord):
        taken += net.subnets
    for at in {None, *(sandbox.netns for sandbox in sandboxes if sandbox)}:
        netlink = kernel.netlink(at)
        taken += [address.network for _, address in netlink.addresses(version=4)]
        taken += [route.dst for route in netlink.routes() if route.dst is not None]
    found = space.AddressSpace((space.Block(BLOCK, 31),)).next(taken)
    return [(ip_interface(f"{ip}/31"),) for ip in found]


def _refuse_lost(end: LinkEnd, peer: LinkEnd, kernel: Kernel) -> None:
    """Refuse addresses by which one end would not find the other, or lose what it reaches today."""
    netlink = kernel.netlink(end.netns)
    own = {address.ip for _, address in netlink.addresses()}
    for far in peer.addresses:
        if far.ip in own:
            raise Conflict(
                f"cannot give {peer} the address {far.ip}: {end.container} has it itself",
                hint="choose another address for that end",
            )
    versions = addresses.versions([*end.addresses, *peer.addresses])
    routes = [route.dst for version in versions for route in netlink.routes(version) if route.dst]
    for network in p2p.ways(end, peer):
        if network in routes:
            raise Conflict(
                f"cannot link {end} to {network.network_address}: "
                f"{end.container} has a route there already",
                hint="choose another address for the other end",
            )
    for own_network in (address.network for address in end.addresses):
        if own_network.prefixlen == own_network.max_prefixlen:
            continue
        for dst in routes:
            if dst.version == own_network.version and dst.overlaps(own_network):
                if dst.version == 6 and dst.is_link_local:
                    continue
                raise Conflict(
                    f"cannot give {end} an address of {own_network}: "
                    f"it overlaps {end.container}'s route to {dst}",
                    hint="choose another address, or one by itself: /32 or /128",
                )
