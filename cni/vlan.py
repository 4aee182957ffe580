"""`vlan`: one VLAN of an interface, as a sub-interface in the container.

Source   containernetworking/plugins, plugins/main/vlan: keys, defaults, and the result; IEEE 802.1Q
"""

from __future__ import annotations

from cni import masters
from cni.call import Answer, Call
from cni.spec import Interface
from netkit import attaching

_IDS = range(4095)


class Conf(masters.Conf, rename="camel"):
    vlan_id: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.master:
            raise ValueError("vlan needs a master: the interface that has the VLAN")
        if self.vlan_id not in _IDS:
            raise ValueError(f"vlanId is {self.vlan_id}, not one of 0 to 4094")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    call.require_ipam()
    master = masters.find(call, conf.master)
    made = masters.device(call, "vlan", master.name, id=conf.vlan_id)
    plan = (made, *call.ipv6_of_lan(), *call.numbered(), *call.announced(""))
    inside = Interface(call.ifname, master.mac or "", call.at, mtu=conf.mtu or master.mtu)
    # a bridge takes the frames of its ports but for those of VLANs that have an interface
    proposal = attaching.Proposal(plan, masters.shared(call, master.name, free=False))
    return Answer(call.result(inside), proposal)


def status(call: Call) -> None:
    masters.look(call, "vlan")
