"""`macvlan`: an interface with a MAC of its own on one of the host's: a station of its LAN.

Source   containernetworking/plugins, plugins/main/macvlan: keys, defaults, and the result

Beyond the reference: its MAC follows from the attachment, so it is the same after a restart; the
neighbours are told at once who has an address now; and what the IPAM plugin says of DNS is kept.
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from cni import masters
from cni.call import Answer, Call
from cni.spec import CniError, Code, Interface
from netkit import attaching
from netkit.kernel.netlink import Link


class Conf(masters.Conf, rename="camel"):
    mode: Literal["", "bridge", "private", "vepa", "passthru"] = "bridge"
    mac: str = ""
    bcqueuelen: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mode = self.mode or "bridge"
        if not 0 <= self.bcqueuelen < 1 << 32:
            raise ValueError(f"bcqueuelen is {self.bcqueuelen}")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    master = masters.find(call, conf.master)
    mac = _mac(call, master)
    queue = {"bcqueuelen": conf.bcqueuelen} if conf.bcqueuelen else {}
    made = masters.device(call, "macvlan", master.name, mode=conf.mode, **queue)
    if conf.mode != "passthru":
        made = replace(made, mac=mac)
    plan = (made, *call.ipv6_of_lan(), *call.numbered(), *call.announced(mac))
    inside = Interface(call.ifname, mac, call.at, mtu=conf.mtu or master.mtu)
    proposal = attaching.Proposal(plan, masters.shared(call, master.name))
    return Answer(call.result(inside), proposal)


def status(call: Call) -> None:
    masters.look(call, "macvlan")


def _mac(call: Call, master: Link) -> str:
    conf: Conf = call.conf
    if conf.mode != "passthru":
        return call.mac(conf.mac)
    own = master.mac or ""
    if call.command.wanted_mac(conf.mac) not in (None, own):
        raise CniError(
            Code.INVALID_CONFIG,
            f"in mode passthru it has the MAC of {master.name}, {own}, and no other",
            'leave out the MAC, or say "mode": "bridge"',
        )
    return own
