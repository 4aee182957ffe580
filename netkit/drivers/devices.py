"""Interfaces beside those of bridges: what the drivers that make them have in common.

Shapes   options as text, as `-o` gives them; a record has them complete and valid
Errors   InvalidSpec names the option; Conflict names the network that has the parent
Source   Docker's macvlan and ipvlan drivers for names, defaults and what excludes what
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NoReturn

from msgspec.structs import replace

from netkit import naming, specs
from netkit.drivers import routing
from netkit.errors import Conflict, InvalidSpec
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec, Request
from netkit.steps import Address, Announce, Device, DeviceUp, Parent, Plan, Step

if TYPE_CHECKING:
    from netkit.drivers import Others

VLAN_IDS = range(1, 4095)  # IEEE 802.1Q 9.6: 0 and 4095 are no VLANs
_MADE = "netkit:parent"  # the alias of a sub-interface that several networks may share
_ALONE = ("vlan", "physical")  # drivers that share their parent's frames with nobody


# -- options


def settled(
    net: NetworkRecord, spec: NetworkSpec, options: Mapping[str, str | None]
) -> NetworkRecord:
    """The record with these options, but for those that are None. MTU 0 is the parent's.

    Refuses what was asked for and would not be done here.
    """
    vain = {
        "--icc=false": not spec.icc,
        "--host-ip": spec.host_binding is not None,
        "a gateway mode": bool(spec.gateway_modes),
        "an address to be seen by": bool(spec.sources),
    }
    for what, asked in vain.items():
        if asked:
            raise InvalidSpec(
                f"cannot create network '{net.name}': driver {net.driver} has no use for {what}",
                hint="leave it out: its packets do not pass the host's firewall",
            )
    known = {word: text for word, text in options.items() if text is not None}
    return replace(net, mtu=spec.mtu or 0, driver_options=known)


def refuse(net: NetworkRecord, option: str, text: str, why: str, hint: str) -> NoReturn:
    raise InvalidSpec(f"invalid {option} {text!r:.80} for network '{net.name}': {why}", hint=hint)


def choice(net: NetworkRecord, option: str, known: Sequence[str], default: str) -> str:
    text = net.driver_options.get(option, default)
    if text not in known:
        refuse(net, option, text, "unknown", f"one of {', '.join(known)}")
    return text


def number(net: NetworkRecord, option: str, known: range) -> str | None:
    text = net.driver_options.get(option)
    if text is None:
        return None
    if specs.integer(option, text) not in known:
        refuse(net, option, text, "out of range", f"from {known[0]} to {known[-1]}")
    return str(int(text))


def flag(net: NetworkRecord, option: str) -> str:
    text = net.driver_options.get(option, "false")
    return str(specs.boolean(option, text)).lower()


def ifname(net: NetworkRecord, option: str) -> str | None:
    text = net.driver_options.get(option)
    return None if text is None else naming.validate_ifname(text)


def required(net: NetworkRecord, option: str, example: str) -> InvalidSpec:
    return InvalidSpec(
        f"cannot create network '{net.name}': driver {net.driver} needs the option {option}",
        hint=f"such as -o {option}={example}",
    )


# -- parents


def parent(net: NetworkRecord) -> str:
    """The parent that was named; else, or if nothing is to get out, a dummy of its own."""
    named = ifname(net, "parent")
    if named is not None and net.internal:
        raise InvalidSpec(
            f"cannot create network '{net.name}': it cannot be internal and have the parent "
            f"'{named}', by which it is reached from outside",
            hint="leave out --internal, or the parent",
        )
    return named or own_parent(net)


def own_parent(net: NetworkRecord) -> str:
    return f"dm-{naming.short_id(net.id)}"


def shared_parent(name: str) -> Mapping[str, Plan]:
    """What the networks on one parent have in common: that it is there, and up.

    NAME.VLAN is made if it is not there, and removed with the last network that uses it.
    """
    base, _, vlan = name.rpartition(".")
    if base and vlan.isdecimal() and vlan == str(int(vlan)) and int(vlan) in VLAN_IDS:
        made = Device(
            name=name,
            kind="vlan",
            parent=base,
            up=True,
            options={"id": int(vlan)},
            alias=_MADE,
            existing=True,
        )
        return {f"parent {name}": (made,)}
    return {f"parent {name}": (Parent(dev=name),)}


def dummy(net: NetworkRecord, name: str) -> Device:
    return Device(name=name, kind="dummy", mac=net.mac, up=True, alias=routing.alias(net.id))


def refuse_shared(net: NetworkRecord, others: Sequence[NetworkRecord]) -> None:
    """Refuse a parent that another network needs for itself."""
    for other in others:
        for name in _held(net) & _held(other):
            if not _get_along(net, other):
                raise Conflict(
                    f"cannot create network '{net.name}' on '{name}': "
                    f"network {other.name} has it ({_use(other)})",
                    hint=f"use another parent, or remove it: netkit network rm {other.name}",
                )


def _held(net: NetworkRecord) -> set[str]:
    """The interfaces a network is on; that of a VLAN may exist under its usual name, too."""
    options = net.driver_options
    if net.driver == "vlan":
        return {f"{options['parent']}.{options['vlan_id']}"}
    found = {options.get("parent"), options.get("device") if net.driver == "physical" else None}
    return {name for name in found if name is not None}


def _get_along(net: NetworkRecord, other: NetworkRecord) -> bool:
    """The kernel has macvlan or ipvlan on a parent, never both, and passthru by itself."""
    if net.driver != other.driver or net.driver in _ALONE:
        return False
    return "passthru" not in (_mode(net), _mode(other))


def _mode(net: NetworkRecord) -> str:
    return net.driver_options.get(f"{net.driver}_mode", "")


def _use(net: NetworkRecord) -> str:
    return f"{net.driver} {_mode(net)}".strip()


# -- endpoints


def one_only(net: NetworkRecord, others: Others, why: str) -> None:
    if others():
        raise Conflict(
            f"network '{net.name}' has its endpoint already: {why}",
            hint="disconnect that one first, or create another network",
        )


def refuse_mac(net: NetworkRecord, request: Request) -> None:
    if request.mac is not None:
        raise InvalidSpec(
            f"cannot have the MAC {request.mac} on network '{net.name}': "
            "its interfaces have their parent's",
            hint="leave out --mac-address, or use driver macvlan in mode bridge",
        )


def interface(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    """What becomes of an interface once it is in its sandbox, down."""
    assert ep.netns is not None
    spoken = routing.spoken(net, ep)
    plan: list[Step] = [
        *(routing.ipv6(spoken, ep.ifname, ep.netns) if spoken else ()),
        *(Address(dev=ep.ifname, address=address, at=ep.netns) for address in ep.addresses),
        DeviceUp(dev=ep.ifname, at=ep.netns),
    ]
    if ep.addresses:
        ips = tuple(address.ip for address in ep.addresses)
        plan.append(Announce(dev=ep.ifname, at=ep.netns, mac=ep.mac, addresses=ips))
    return tuple(plan)
