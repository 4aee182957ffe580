"""`portmap`: ports of the host that lead to the container.

Source   containernetworking/plugins, plugins/meta/portmap: keys, defaults, and what they mean

The rules are those of netkit's one back end, whatever `backend` says: it is held to the keys beside
it, as the reference does, and means the same. No packet is marked, for nothing needs it: what
`markMasqBit` or `externalSetMarkChain` would have had masqueraded is. Conditions on addresses, and
on the interface a packet comes in by, are kept to the letter; any other is refused, for without it
more would be published than was asked for.

Beyond the reference: a port is one container's, and no program's of the host; it is not published
behind an interface of the host's to which the host has no way; and siblings, not the container
alone, meet it through the port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from ipaddress import IPv6Address, ip_network
from typing import NamedTuple

import msgspec

from cni.call import Answer, Call, container_ips, hosts_side, plain, siblings, tables, way_in
from cni.conditions import BACK_ENDS, EVERYWHERE, Conditions, language, read, refused
from netkit import addresses, attaching, steps
from netkit.addresses import Address
from netkit.firewall import Cover, Publish, Rule, Spare
from netkit.kernel import Kernel, sysctl
from netkit.portspec import PROTOCOLS, PortSpec

_PORTS, _BITS = range(1, 65536), range(32)


class Entry(msgspec.Struct, rename="camel", frozen=True, order=True):
    """One port, as the runtime asks for it; `count` consecutive ones, once they are `_runs`."""

    protocol: str = "tcp"
    host_ip: str = msgspec.field(default="", name="hostIP")
    host_port: int = 0
    container_port: int = 0

    def __post_init__(self) -> None:
        for name, port in (("hostPort", self.host_port), ("containerPort", self.container_port)):
            if port not in _PORTS:
                raise ValueError(f"{name} is {port}, not one of 1 to 65535")
        if self.protocol.lower() not in PROTOCOLS:
            raise ValueError(f"protocol is {self.protocol!r}, not one of {', '.join(PROTOCOLS)}")


class Runtime(msgspec.Struct):
    port_mappings: list[Entry] = msgspec.field(default=[], name="portMappings")


class Conf(msgspec.Struct, rename="camel"):
    backend: str | None = None
    snat: bool = True
    masq_all: bool = False
    mark_masq_bit: int | None = None
    external_set_mark_chain: str | None = None
    conditions_v4: list[str] = []
    conditions_v6: list[str] = []
    runtime_config: Runtime = msgspec.field(default_factory=Runtime)

    def __post_init__(self) -> None:
        if self.mark_masq_bit is not None and self.external_set_mark_chain is not None:
            raise ValueError("markMasqBit and externalSetMarkChain exclude each other")
        if self.mark_masq_bit is not None and self.mark_masq_bit not in _BITS:
            raise ValueError(f"markMasqBit is {self.mark_masq_bit}, not one of 0 to 31")
        if self.backend not in (None, *BACK_ENDS):
            raise ValueError(f"backend is {self.backend!r}, not one of {', '.join(BACK_ENDS)}")
        spoken = {key: back_end for key, back_end in self._spoken().items() if back_end}
        for key, back_end in spoken.items():
            if {*spoken.values(), self.backend or back_end} != {back_end}:
                raise ValueError(f"{key} is for {back_end}, and something else is not")

    def _spoken(self) -> Mapping[str, str | None]:
        """Which back end's language each key is in."""
        return {
            "externalSetMarkChain": BACK_ENDS[0] if self.external_set_mark_chain else None,
            "conditionsV4": language(self.conditions_v4),
            "conditionsV6": language(self.conditions_v6),
        }


def propose(call: Call) -> Answer:
    conf: Conf = call.conf
    targets = _targets(call)
    ports = list(_runs(conf.runtime_config.port_mappings, targets))
    if not ports:
        return Answer(call.previous)
    conditions = {4: read(conf.conditions_v4, 4), 6: read(conf.conditions_v6, 6)}
    rules = [rule for port in ports for rule in port.rules(conditions)]
    if conf.snat and conf.masq_all:
        rules += [Cover(each.ip) for each in targets]
    shared = {**tables(), **(siblings(targets) if conf.snat else {})}
    if (link := way_in(call)) is not None:
        shared |= plain(link)
        if conf.snat:
            shared[f"localhost by {link}"] = partial(_localhost, link)
    plan: list[steps.Step] = [steps.Rules(rules=tuple(rules), leaving=True)]
    if conf.snat:
        # where bridges call iptables, a container that meets itself never leaves the bridge
        plan += [
            steps.PortFlag(dev=name, flag="hairpin")
            for name in hosts_side(call.previous)
            if name != link
        ]
    claims = list(dict.fromkeys(port.claim(conditions) for port in ports))
    versions = addresses.versions(targets)
    return Answer(call.previous, attaching.Proposal(tuple(plan), shared, claims, versions))


def _targets(call: Call) -> list[addresses.Interface]:
    """The container's first address of each IP version, but for those behind an interface of the
    host's to which the host has no way: an internal network's.
    """
    interfaces = call.previous.interfaces
    found: dict[int, addresses.Interface] = {}
    for own, ip in container_ips(call.previous):
        if ip.interface is None or interfaces[ip.interface].name == call.ifname:
            found.setdefault(own.version, own)
    host, behind = call.kernel.netlink(), hosts_side(call.previous)
    return [
        found[version]
        for version in sorted(found)
        if not behind or host.way_to(found[version].ip, direct=True) is not None
    ]


# -- ports


class _Port(NamedTuple):
    """Consecutive ports of the host and of the container; `host` None: any address of the host's
    of those versions that the container has.
    """

    protocol: str
    host: Address | None
    first: int
    port: int
    targets: tuple[Address, ...]
    many: int = 1

    def claim(self, conditions: Mapping[int, Conditions]) -> PortSpec:
        devices = {conditions[each.version].device for each in self.targets}
        device = devices.pop() if len(devices) == 1 else None
        first = self.first
        return PortSpec(self.host, first, first, self.port, self.protocol, self.many, device)

    def rules(self, conditions: Mapping[int, Conditions]) -> Iterator[Rule]:
        host = None if self.host is None or self.host.is_unspecified else self.host
        for target in self.targets:
            only = conditions[target.version]
            if host is not None and only.device is not None:
                raise refused(f"interface {only.device} with hostIP {host}")
            meant = ip_network(host) if host is not None else EVERYWHERE[target.version]
            for source, destination in only.excluded(meant):
                yield Spare(source, destination, self.first, self.protocol, self.many)
            yield Publish(
                host, self.first, target, self.port, self.protocol, self.many, only.device
            )


def _runs(entries: Iterable[Entry], own: Iterable[addresses.Interface]) -> Iterator[_Port]:
    """The entries, each once, and those that follow each other as one; as with the reference none
    for a hostIP of which the container has no such address.
    """
    last: _Port | None = None
    wanted = {msgspec.structs.replace(each, protocol=each.protocol.lower()) for each in entries}
    for each in sorted(wanted):
        host = _address(each.host_ip) if each.host_ip else None
        targets = tuple(e.ip for e in own if host is None or e.version == host.version)
        if not targets:
            continue
        port = _Port(each.protocol, host, each.host_port, each.container_port, targets)
        if last is not None and port == last._replace(
            first=last.first + last.many, port=last.port + last.many, many=1
        ):
            last = last._replace(many=last.many + 1)
            continue
        if last is not None:
            yield last
        last = port
    if last is not None:
        yield last


def _address(text: str) -> Address:
    address = addresses.address("hostIP", text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


# -- what is shared


def _localhost(link: str, kernel: Kernel) -> steps.Plan:
    """What localhost sends to a published port may leave by *link*; nothing comes back to it from
    there by itself: Plain sees to that.
    """
    key = sysctl.key("net.ipv4.conf", link, "route_localnet")
    return (steps.Localnet(key=key, value="1", dev=link, there=True),)
