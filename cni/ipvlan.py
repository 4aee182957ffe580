"""`ipvlan`: an interface that shares the MAC of one of the host's, and is told apart by address.

Source   containernetworking/plugins, plugins/main/ipvlan: keys, defaults, and the result

Without an IPAM plugin it takes the addresses of prevResult, and its one interface as the master:
so it is put behind another plugin.
"""

from __future__ import annotations

from typing import Literal

from cni import masters
from cni.call import Answer, Call
from cni.spec import CniError, Code, Interface, Result
from netkit import attaching


class Conf(masters.Conf, rename="camel"):
    mode: Literal["", "l2", "l3", "l3s"] = "l2"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mode = self.mode or "l2"


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    previous = call.command.previous
    if previous is not None and previous.ips and not call.command.ipam.get("type"):
        call = _as_if_leased(call, previous)
    else:
        call.require_ipam()
    master = masters.find(call, conf.master or _of_previous(call))
    made = masters.device(call, "ipvlan", master.name, mode=conf.mode)
    # behind the other modes there is nobody who asks for a MAC
    told = call.announced("") if conf.mode == "l2" else ()
    plan = (made, *call.ipv6_of_lan(), *call.numbered(), *told)
    inside = Interface(call.ifname, master.mac or "", call.at, mtu=conf.mtu or master.mtu)
    proposal = attaching.Proposal(plan, masters.shared(call, master.name))
    return Answer(call.result(inside), proposal)


def status(call: Call) -> None:
    masters.look(call, "ipvlan")


def _as_if_leased(call: Call, previous: Result) -> Call:
    ips = tuple(ip._replace(interface=None) for ip in previous.ips)
    return Call(call.command, call.conf, call.kernel, previous._replace(ips=ips, interfaces=()))


def _of_previous(call: Call) -> str:
    """The master that prevResult names; "" if there is none to name one."""
    found = call.command.previous
    if found is None:
        return ""
    if len(found.interfaces) != 1 or not found.interfaces[0].name:
        raise CniError(
            Code.INVALID_CONFIG,
            f"prevResult has {len(found.interfaces)} interfaces, not the one that is the master",
            "name it: `master`",
        )
    return found.interfaces[0].name
