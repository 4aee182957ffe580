"""`dummy`: an interface with addresses that leads nowhere.

Source   containernetworking/plugins, plugins/main/dummy: it has no options, and needs addresses
"""

from __future__ import annotations

import msgspec

from cni.call import Answer, Call
from cni.spec import CniError, Code, Interface
from netkit import attaching, steps
from netkit.kernel import features

_MTU = 1500


class Conf(msgspec.Struct):
    """It has no options."""


def propose(call: Call) -> Answer:
    call.require_ipam()
    mac = call.mac()
    made = steps.Device(
        name=call.ifname, kind="dummy", alias=call.alias, at=call.at, inside=True, mac=mac
    )
    inside = Interface(call.ifname, mac, call.at, mtu=_MTU)
    return Answer(call.result(inside), attaching.Proposal((made, *call.ipv6(), *call.numbered())))


def status(call: Call) -> None:
    if not call.kernel.netlink().has_kind("dummy"):
        raise CniError(Code.NOT_AVAILABLE, str(features.missing("dummy").strerror))
