"""`vrf`: the interface is a member of a VRF of the container's, and routes by that one's table.

Source   containernetworking/plugins, plugins/meta/vrf: keys, defaults, and what is carried over

To join costs an interface its IPv6 addresses and the routes it was given: they are put back, the
routes into the VRF's table. DEL undoes all that, and the VRF goes with its last member, unless it
was there before.
"""

from __future__ import annotations

from functools import partial

import msgspec
from msgspec.structs import replace

from cni import moves
from cni.call import Answer, Call
from cni.spec import CniError, Code
from netkit import attaching, naming, steps
from netkit.drivers import routing
from netkit.errors import Conflict
from netkit.kernel import Kernel, features, netns

_FIRST = 1
_BY_KERNEL = 2  # the protocol of routes that come with addresses: RTPROT_KERNEL


class Conf(msgspec.Struct):
    vrfname: str
    table: int = 0  # 0: the first that is free

    def __post_init__(self) -> None:
        naming.validate_ifname(self.vrfname)
        if not 0 <= self.table < 1 << 32:
            raise ValueError(f"table is {self.table}, the number of no routing table")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    result = call.previous
    table = _table(call)
    found = [route for route in moves.routes(call) if route.protocol != _BY_KERNEL]
    kernel = call.kernel.netlink(call.at)
    _refuse_member(call)
    own = [ip for _, ip in kernel.addresses(call.ifname, version=6) if not ip.is_link_local]
    dev, at = call.ifname, call.at
    plan = (
        *(moves.taken(route) for route in reversed(found)),
        *(steps.NoAddress(dev=dev, at=at, address=ip) for ip in own),
        steps.Enslave(dev=dev, at=at, master=conf.vrfname, kind="vrf"),
        *(steps.Address(dev=dev, at=at, address=ip) for ip in own),
        *(replace(route, table=table) for route in found),
    )
    shared = {f"vrf {conf.vrfname} in {netns.identity(at)}": partial(_vrf, at, conf.vrfname, table)}
    return Answer(result, attaching.Proposal(plan, shared))


def status(call: Call) -> None:
    if not call.kernel.netlink().has_kind("vrf"):
        raise CniError(Code.NOT_AVAILABLE, str(features.missing("vrf").strerror))


def _table(call: Call) -> int:
    """The VRF's routing table, which it may have already."""
    conf: Conf = call.conf
    kernel = call.kernel.netlink(call.at)
    link = kernel.link(conf.vrfname)
    if link is None:
        return conf.table or kernel.free_table(_FIRST)
    if link.kind != "vrf":
        raise Conflict(
            f"{conf.vrfname!r} in {call.at} is there, and no VRF: {link.kind or 'physical'}",
            hint="give another name: `vrfname`",
        )
    found = int(link.options["table"])
    if conf.table not in (0, found):
        raise Conflict(
            f"VRF {conf.vrfname} in {call.at} has the routing table {found}, not {conf.table}",
            hint="leave out `table`, or give another name: `vrfname`",
        )
    return found


def _refuse_member(call: Call) -> None:
    """Who has a master would be taken away from it."""
    link = call.kernel.netlink(call.at).link(call.ifname)
    if link is not None and link.master:
        raise Conflict(
            f"{call.ifname} in {call.at} has a master already",
            hint="an interface is a member of one VRF or bridge",
        )


def _vrf(at: str, name: str, table: int, kernel: Kernel) -> steps.Plan:
    if kernel.netlink(at).link(name) is not None:
        return (steps.LinkUp(dev=name, at=at, back=True),)
    made = steps.Device(
        name=name,
        kind="vrf",
        at=at,
        inside=True,
        up=True,
        options={"table": table},
        alias=routing.alias(naming.digest(f"{name} in {netns.identity(at)}")),
    )
    return (made,)
