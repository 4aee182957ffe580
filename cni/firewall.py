"""`firewall`: what the host forwards from and to the container passes, and from where.

Source   containernetworking/plugins, plugins/meta/firewall: keys, defaults, and the three policies

netkit's rules are in its one back end, whichever `backend` says. Where other tools' chains drop
what they do not know (Docker's, ufw's, firewalld's), what the link to the containers forwards
passes them; so published ports work there, too, and for `open` all connections do, as the
reference's documentation has it. `same-bridge` keeps other networks with a policy out, and
`isolated` siblings as well: those by the bridge itself, whether or not it calls iptables. The
policy is the link's: two networks on one bridge have the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Literal

import msgspec

from cni.call import CONFLICT, Answer, Call, hosts_side, plain, tables, way_in
from cni.spec import CniError, Code
from netkit import attaching, steps
from netkit.firewall import Isolate
from netkit.kernel import Kernel

_ADMIN = "CNI-ADMIN"
_ZONE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,16}")
_CHAIN = re.compile(r"[A-Za-z0-9_.:-]{1,28}")


class Conf(msgspec.Struct, rename="camel"):
    backend: Literal["", "iptables", "nftables", "firewalld"] = ""
    iptables_admin_chain_name: str = ""
    firewalld_zone: str = ""
    ingress_policy: Literal["", "open", "same-bridge", "isolated"] = ""

    def __post_init__(self) -> None:
        chain, zone = self.iptables_admin_chain_name, self.firewalld_zone
        if chain and (not _CHAIN.fullmatch(chain) or chain[0] == "-"):
            raise ValueError(f"iptablesAdminChainName is {chain!r:.80}: no name for a chain")
        if zone and not _ZONE.fullmatch(zone):
            raise ValueError(f"firewalldZone is {zone!r:.80}: no name for a zone")


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    link = way_in(call)
    if link is None:
        if conf.ingress_policy not in ("", "open"):
            raise CniError(
                Code.INVALID_CONFIG,
                f"ingressPolicy {conf.ingress_policy!r} needs an interface of the host's in "
                "prevResult",
                "put the plugin after bridge or ptp in the list",
            )
        return Answer(call.previous)
    zone = conf.firewalld_zone or "trusted"
    shared: dict[str, attaching.Make] = {**tables()}
    shared[f"passage of {link} by {zone}"] = partial(_passage, link, zone)
    chain = conf.iptables_admin_chain_name
    shared[f"admin chain {chain or _ADMIN}"] = partial(_admin, chain or _ADMIN, bool(chain))
    plan: tuple[steps.Step, ...] = ()
    if conf.ingress_policy in ("", "open"):
        shared.update(plain(link))
    else:
        icc = conf.ingress_policy == "same-bridge"
        shared.update(_isolation(call, link, icc))
        if not icc:
            ports = [name for name in hosts_side(call.previous) if name != link]
            plan = tuple(steps.PortFlag(dev=port, flag="isolated") for port in ports)
    return Answer(call.previous, attaching.Proposal(plan, shared))


def _passage(link: str, zone: str, kernel: Kernel) -> steps.Plan:
    return (steps.Passage(dev=link, zone=zone),)


def _admin(chain: str, make: bool, kernel: Kernel) -> steps.Plan:
    """The reference makes it in any case: here an admin who wants it has made it, or named it."""
    return (steps.Hear(chain=chain, make=make),)


def _isolation(call: Call, link: str, icc: bool) -> Mapping[str, attaching.Make]:
    """What is behind the link is a network of its own; the host's own rules say who else gets in,
    as with the reference.
    """

    def rule(icc: bool) -> Isolate:
        return Isolate(link, icc=icc, open=(4, 6))

    closed, joined = (_holds(call.kernel, rule(each)) for each in (False, True))
    if (closed or joined) and joined != icc:
        policy = "same-bridge" if joined else "isolated"
        raise CniError(
            CONFLICT,
            f"what is behind {link} has the ingressPolicy {policy!r} already",
            "give the networks bridges of their own, or one policy",
        )
    return {f"isolation of {link}": lambda kernel: (steps.Rules(rules=(rule(icc),)),)}


def _holds(kernel: Kernel, rule: Isolate) -> bool:
    return bool(kernel.firewall.script()) and not kernel.firewall.check((rule,))
