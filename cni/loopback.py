"""`loopback`: the interface lo, up.

Source   containernetworking/plugins, plugins/main/loopback: 127.0.0.1/8 and ::1/128 in the result
"""

from __future__ import annotations

import msgspec

from cni.call import Answer, Call
from cni.spec import IP, Interface, Result
from netkit import attaching, steps

_LO, _MAC = "lo", "00:00:00:00:00:00"


class Conf(msgspec.Struct):
    """It has no options."""


def propose(call: Call) -> Answer:
    result = call.command.previous or Result(
        (IP("127.0.0.1/8", interface=0), IP("::1/128", interface=0)),
        interfaces=(Interface(_LO, _MAC, call.at),),
    )
    return Answer(result, attaching.Proposal((steps.LinkUp(dev=_LO, at=call.at),)))
