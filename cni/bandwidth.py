"""`bandwidth`: what the container sends and receives, no faster than it may.

Source   containernetworking/plugins, plugins/meta/bandwidth: keys, defaults, and that the network's
         configuration wins over the capability; `shapedSubnets` and `unshapedSubnets` were in 1.5

A token bucket on the host's end of the pair shapes what goes to the container ("ingress"), another
on an ifb what comes from it ("egress"). The subnets are those of the other end: from which it comes
on the way in, to which it goes on the way out. Beyond the reference: CHECK sees what is missing.
"""

from __future__ import annotations

from contextlib import suppress
from ipaddress import ip_network

import msgspec

from cni.call import Answer, Call, hosts_side
from cni.spec import CniError, Code, Interface
from netkit import attaching, naming, steps
from netkit.addresses import Network
from netkit.kernel.netlink import Link

_LATENCY_MS = 25  # what has waited for longer is dropped
_MOST_BYTES = 1 << 32


class Limits(msgspec.Struct, rename="camel"):
    """Rates in bits per second, bursts in bits; 0: as it comes."""

    ingress_rate: int = 0
    ingress_burst: int = 0
    egress_rate: int = 0
    egress_burst: int = 0
    unshaped_subnets: list[str] = []
    shaped_subnets: list[str] = []

    def __post_init__(self) -> None:
        for way in ("ingress", "egress"):
            rate, burst = getattr(self, f"{way}_rate"), getattr(self, f"{way}_burst")
            if bool(rate) != bool(burst):
                raise ValueError(f"{way}Rate and {way}Burst need each other")
            if rate and (rate < 8 or burst < 8 or burst // 8 >= _MOST_BYTES):
                raise ValueError(f"{way}Rate {rate} and {way}Burst {burst} are out of range")
        if self.unshaped_subnets and self.shaped_subnets:
            raise ValueError("shapedSubnets and unshapedSubnets exclude each other")

    def shaper(self, way: str, dev: str) -> steps.Shaper:
        rate, burst = getattr(self, f"{way}_rate") // 8, getattr(self, f"{way}_burst") // 8
        return steps.Shaper(
            dev=dev,
            rate=rate,
            burst=burst,
            limit=min(rate * _LATENCY_MS // 1000 + burst, _MOST_BYTES - 1),
            only=_networks("shapedSubnets", self.shaped_subnets),
            spared=_networks("unshapedSubnets", self.unshaped_subnets),
            sources=way == "ingress",
        )


class Runtime(msgspec.Struct):
    bandwidth: Limits | None = None


class Conf(Limits, rename="camel"):
    runtime_config: Runtime = msgspec.field(default_factory=Runtime)

    @property
    def limits(self) -> Limits:
        """The network's own, if it says any; else the attachment's."""
        own = any(getattr(self, name) for name in Limits.__struct_fields__)
        return self if own else self.runtime_config.bandwidth or self


def propose(call: Call) -> Answer:
    limits = call.conf.limits
    if not (limits.ingress_rate or limits.egress_rate):
        return Answer(call.previous)
    link, result = _hosts_end(call), call.previous
    plan: list[steps.Step] = []
    if limits.ingress_rate:
        plan.append(limits.shaper("ingress", link.name))
    if limits.egress_rate:
        key = f"{call.key}/{call.ifname}"
        ifb = f"bwp{naming.digest(key)[:12]}"
        mac = naming.bridge_mac(f"cni ifb {key}")
        plan += [
            steps.Device(name=ifb, kind="ifb", alias=call.alias, mac=mac, mtu=link.mtu, up=True),
            limits.shaper("egress", ifb),
            steps.Redirect(dev=link.name, to=ifb),
        ]
        result = result._replace(interfaces=(*result.interfaces, Interface(ifb, mac)))
    return Answer(result, attaching.Proposal(tuple(plan)))


def _hosts_end(call: Call) -> Link:
    """The other end of the container's veth pair, which prevResult knows."""
    inside = call.kernel.netlink(call.at).link(call.ifname)
    index = inside.peer_index if inside is not None and inside.kind == "veth" else None
    host = call.kernel.netlink()
    for name in hosts_side(call.previous) if index is not None else ():
        with suppress(OSError):  # it is gone
            if host.index(name) == index and (link := host.link(name)):
                return link
    raise CniError(
        Code.INVALID_CONFIG,
        f"{call.ifname} is no end of a veth pair whose other end is the host's, by prevResult",
        "what can be shaped is what bridge and ptp make",
    )


def _networks(key: str, texts: list[str]) -> tuple[Network, ...]:
    try:
        return tuple(dict.fromkeys(ip_network(text, strict=False) for text in texts))
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, f"{key}: {error}") from None
