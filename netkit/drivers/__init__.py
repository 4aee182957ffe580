"""Drivers: a network and an endpoint in, plans out. Each is a module of pure functions.

Shapes   `shared(net)`: plans the network shares with others, by name; added with the first network
         that wants them, deleted with the last. `network(net)`, `endpoint(net, ep)`: its own
Errors   none: records refuse nonsense before a driver sees them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    from netkit.model import EndpointRecord, NetworkRecord
    from netkit.specs import NetworkSpec, Request
    from netkit.steps import Plan

    Others = Callable[[], Sequence[EndpointRecord]]

NAMES = (
    *("bridge", "veth", "macvlan", "ipvlan", "vlan", "dummy", "tap", "physical"),
    *("host", "none"),
)


def _as_proposed(
    net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]
) -> NetworkRecord:
    return net


def _anybody(net: NetworkRecord, request: Request, others: Others) -> None: ...


def _always(net: NetworkRecord) -> bool:
    return True


class Traits(NamedTuple):
    """What the engine has to know of a driver before it asks for plans."""

    # the `-o` it knows beyond those of every network; None: that is for itself to say
    options: frozenset[str] | None = frozenset()
    gateway: bool = True  # each subnet has a gateway: its first address, unless one is given
    host_end: bool = True  # each endpoint has an interface on the host
    publishes: bool = True  # ports of the host can lead to its endpoints
    bridge: bool = False  # its interface on the host is a bridge, with the gateway's address
    routed: bool = False  # each endpoint is alone on its link, with nothing but its own address
    names: bool = False  # the host has the gateways' addresses, and can serve names at them
    lan: bool = False  # its subnets may be those of a network the host itself is on
    chooses: bool = True  # where no subnet is asked for, a free one is taken
    # a network as proposed, its options made valid and complete; *others* are those there are
    settle: Callable[[NetworkRecord, NetworkSpec, Sequence[NetworkRecord]], NetworkRecord] = (
        _as_proposed
    )
    # refuses a request for an endpoint; to ask for the *others* of the network costs the more the
    # more there are
    admit: Callable[[NetworkRecord, Request, Others], None] = _anybody
    # whether its endpoints have MACs of their own, and not another interface's
    own_mac: Callable[[NetworkRecord], bool] = _always


class Driver(Protocol):
    """Satisfied by a module."""

    TRAITS: Traits

    def shared(self, net: NetworkRecord) -> Mapping[str, Plan]: ...
    def network(self, net: NetworkRecord) -> Plan: ...
    def endpoint(self, net: NetworkRecord, ep: EndpointRecord) -> Plan: ...


def load(name: str) -> Driver:
    """The driver called *name*: one of netkit's, or else a program's, which need not be there."""
    if name in NAMES:
        return cast(Driver, import_module(f"netkit.drivers.{name}"))
    return cast(Driver, import_module("netkit.drivers.plugin").Plugin(name))


def choose(name: str) -> Driver:
    """The driver called *name*, for a new network."""
    if name not in NAMES and not import_module("netkit.drivers.plugin").is_there(name):
        raise InvalidSpec(f"unknown driver {name!r:.80}", hint=f"drivers are {', '.join(NAMES)}")
    return load(name)
