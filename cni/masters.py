"""Masters: the interface, of the host or of the container, that others are made on.

Shapes   `Conf` is what the types for such interfaces have in common; MTU 0 is the master's
Errors   CniError 7 where the master is not there or not fit; from `look` 50, for STATUS
Source   containernetworking/plugins, plugins/main/macvlan, ipvlan, vlan: keys and defaults

A master of the host's that is down is set up, and down again with the last that sits on it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cni.call import Call
from cni.spec import CniError, Code
from netkit import addresses, attaching, naming, steps
from netkit.kernel import features
from netkit.kernel.netlink import Link, Netlink


class Conf(msgspec.Struct, rename="camel"):
    master: str = ""  # "": the one the default route leads through
    mtu: int = 0
    link_in_container: bool = False

    def __post_init__(self) -> None:
        if self.master:
            naming.validate_ifname(self.master)
        if self.mtu < 0:
            raise ValueError(f"mtu is {self.mtu}")


def find(call: Call, name: str) -> Link:
    """The master called *name*, which the configuration may have left open."""
    conf: Conf = call.conf
    netlink = call.kernel.netlink(call.at if conf.link_in_container else None)
    where = f"in {call.at}" if conf.link_in_container else "on the host"
    name = name or _way_out(netlink)
    link = netlink.link(name) if name else None
    if link is None:
        what = f"no interface {name!r}" if name else "no default route, nor a name for a master,"
        raise CniError(
            Code.INVALID_CONFIG, f"there is {what} {where}", "`ip link` lists names for `master`"
        )
    if conf.mtu > link.mtu:
        raise CniError(
            Code.INVALID_CONFIG,
            f"mtu is {conf.mtu}, but {name}, on which it is to be, has {link.mtu}",
            "leave it out, and it is the master's",
        )
    if conf.link_in_container and not link.up:
        raise CniError(Code.INVALID_CONFIG, f"{name} {where} is down", f"ip link set {name} up")
    return link


def _way_out(netlink: Netlink) -> str:
    """The interface the default route leads through."""
    names = {link.ifindex: link.name for link in netlink.links()}
    ways = (way for version in addresses.VERSIONS for way in netlink.routes(version))
    found = (names[way.ifindex] for way in ways if way.dst is None and way.ifindex in names)
    return next(found, "")


def shared(call: Call, name: str, *, free: bool = True) -> Mapping[str, attaching.Make]:
    """That a master of the host's is up; and *free* of a bridge that would take its frames."""
    if call.conf.link_in_container:
        return {}
    return {f"parent {name}": lambda kernel: (steps.Parent(dev=name, free=free),)}


def device(call: Call, kind: str, name: str, **options: str | int) -> steps.Device:
    """The interface itself."""
    conf: Conf = call.conf
    return steps.Device(
        name=call.ifname,
        kind=kind,
        alias=call.alias,
        parent=name,
        at=call.at,
        inside=conf.link_in_container,
        mtu=conf.mtu or None,
        options=options,
    )


def look(call: Call, kind: str) -> None:
    """For STATUS: whether this kernel has the *kind*, and the host the master."""
    if not call.kernel.netlink().has_kind(kind):
        raise CniError(Code.NOT_AVAILABLE, str(features.missing(kind).strerror))
    if not call.conf.link_in_container:
        try:
            find(call, call.conf.master)
        except CniError as error:
            raise CniError(Code.NOT_AVAILABLE, error.message, error.details) from None
