"""A network as it is proposed: its subnet, gateway, names and MTU chosen; nothing is made here.

Source   Docker's pools and defaults; what is on-link or asked for names must stay reachable
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from netkit import drivers, model, namefiles, naming
from netkit.changes import Changes
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import Kernel
from netkit.model import NetworkRecord, NetworkSpec

_FALLBACK_MTU = 1500
RESERVED = (*model.BUILT_IN, model.DEFAULT_NETWORK, "default")

# The same on every machine, hence not on record: sha256 of "netkit built-in NAME"
BUILT_IN = (
    NetworkRecord(
        id="25ec1b7437378d8ba5dbb57c2bf698db7454f85a0bc3211306728e5a975bea6e",
        name="host",
        driver="host",
    ),
    NetworkRecord(
        id="45a9f4362ecbe136f29bf9410d213ea2130b590f6a68b7bdbd71a51f5076238d",
        name="none",
        driver="none",
    ),
)
Pools = Sequence[tuple[IPv4Network, int]]  # networks, and the prefix length of pieces of them
BUILT_IN_IDS = tuple(net.id for net in BUILT_IN)


def propose(
    changes: Changes, spec: NetworkSpec, kernel: Kernel, pools: Pools = ()
) -> NetworkRecord:
    """The record of the network *spec* asks for; a subnet not named is taken from *pools*."""
    drivers.load(spec.driver)
    if spec.driver in model.BUILT_IN:
        raise Conflict(
            f"only one instance of '{spec.driver}' network is allowed",
            hint=f"use it by its name: netkit run --net {spec.driver}",
        )
    if changes.store.by_name(NetworkRecord, spec.name):
        raise Conflict(
            f"network with name {spec.name} already exists",
            hint=f"choose another name, or remove it: netkit network rm {spec.name}",
        )
    import ipam

    id = naming.new_id()
    subnet = _subnet(changes, spec, kernel, pools)
    pool = ipam.Pool(subnet, gateway=spec.gateway, ip_range=spec.ip_range, reserved=spec.reserved)
    if pool.gateway is None:
        raise InvalidSpec(
            f"a bridge needs a gateway address, and {subnet} has none to spare",
            hint="give --gateway, or a wider --subnet",
        )
    return NetworkRecord(
        id=id,
        name=spec.name,
        driver=spec.driver,
        created=time.time(),
        epoch=changes.epoch,
        maker=changes.maker,
        subnet=subnet,
        gateway=IPv4Address(str(pool.address(pool.gateway))),
        ip_range=spec.ip_range,
        reserved=dict(spec.reserved),
        bridge=spec.bridge or naming.bridge_name(id),
        mac=naming.bridge_mac(id),
        mtu=spec.mtu or _auto_mtu(kernel),
        internal=spec.internal,
        masquerade=spec.masquerade,
        ip_forward=spec.ip_forward,
        host_binding=spec.host_binding,
        labels=dict(spec.labels),
    )


def _subnet(changes: Changes, spec: NetworkSpec, kernel: Kernel, pools: Pools) -> IPv4Network:
    """The subnet asked for, or one that hides nothing the host can reach today."""
    from ipam import space

    own = [(net.name, net.subnet) for net in changes.store.all(NetworkRecord) if net.subnet]
    routes = [r.dst for r in kernel.netlink().routes() if isinstance(r.dst, IPv4Network)]
    if spec.subnet is not None:
        space.check(spec.subnet, own=own, routes=() if spec.force else routes)
        return spec.subnet
    servers = [IPv4Network(server) for server in namefiles.nameservers() if ":" not in server]
    taken = [*(subnet for _, subnet in own), *routes, *servers]
    blocks = [space.Block.parse(base, size) for base, size in pools] or space.DOCKER_BLOCKS
    found = space.AddressSpace(blocks).next(taken, size=spec.prefixlen)
    assert isinstance(found, IPv4Network)
    return found


def _auto_mtu(kernel: Kernel) -> int:
    """The MTU of the interface the default route leaves by."""
    ways = [r for r in kernel.netlink().routes() if r.dst is None and r.ifindex is not None]
    if not ways:
        return _FALLBACK_MTU
    best = min(ways, key=lambda way: way.metric or 0)
    mtus = {link.ifindex: link.mtu for link in kernel.netlink().links()}
    return min(mtus.get(best.ifindex or 0, _FALLBACK_MTU), model.MTU_RANGE[-1])
