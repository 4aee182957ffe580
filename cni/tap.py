"""`tap`: Ethernet frames to and from a program in the container, a virtual machine's say.

Source   containernetworking/plugins, plugins/main/tap: keys, defaults, and the result
"""

from __future__ import annotations

import re

import msgspec

from cni.call import Answer, Call
from cni.spec import CniError, Code, Interface
from netkit import attaching, naming, steps
from netkit.kernel import features

_MTU = 1500
_IDS = range((1 << 32) - 1)  # the last one means nobody
_CONTEXT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:,-]{0,255}")


class Conf(msgspec.Struct, rename="camel"):
    multi_queue: bool = False
    mtu: int = 0
    mac: str = ""
    owner: int | None = None
    group: int | None = None
    selinux_context: str = ""
    bridge: str = ""  # of the container's

    def __post_init__(self) -> None:
        if self.mtu < 0:
            raise ValueError(f"mtu is {self.mtu}")
        for word, number in (("owner", self.owner), ("group", self.group)):
            if number is not None and number not in _IDS:
                raise ValueError(f"{word} is {number}, no id")
        if self.selinux_context and not _CONTEXT.fullmatch(self.selinux_context):
            raise ValueError(f"selinuxContext is {self.selinux_context!r:.80}, no context")
        if self.bridge:
            naming.validate_ifname(self.bridge)


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    mac = call.mac(conf.mac)
    plan: list[steps.Step] = [
        steps.Tap(
            name=call.ifname,
            at=call.at,
            mac=mac,
            mtu=conf.mtu or None,
            owner=conf.owner,
            group=conf.group,
            multi_queue=conf.multi_queue,
            label=conf.selinux_context or None,
        )
    ]
    if conf.bridge:
        joined = steps.Enslave(dev=call.ifname, master=conf.bridge, kind="bridge", at=call.at)
        plan.append(joined)
    plan += [*call.ipv6(), *call.numbered()]
    inside = Interface(call.ifname, mac, call.at, mtu=conf.mtu or _MTU)
    return Answer(call.result(inside), attaching.Proposal(tuple(plan)))


def status(call: Call) -> None:
    if not call.kernel.netlink().has_kind("tun"):
        raise CniError(Code.NOT_AVAILABLE, str(features.missing("tun").strerror))
