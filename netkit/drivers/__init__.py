"""Drivers: a network and an endpoint in, plans out. Each is a module of pure functions.

Shapes   `shared(net)`: plans the network shares with others, by name; added with the first network
         that wants them, deleted with the last. `network(net)`, `endpoint(net, ep)`: its own
Errors   none: records refuse nonsense before a driver sees them
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    from netkit.model import EndpointRecord, NetworkRecord
    from netkit.steps import Plan

NAMES = ("bridge", "host", "none")


class Driver(Protocol):
    """Satisfied by a module."""

    def shared(self, net: NetworkRecord) -> Mapping[str, Plan]: ...
    def network(self, net: NetworkRecord) -> Plan: ...
    def endpoint(self, net: NetworkRecord, ep: EndpointRecord) -> Plan: ...


def load(name: str) -> Driver:
    """The driver called *name*."""
    if name not in NAMES:
        raise InvalidSpec(f"unknown driver {name!r:.80}", hint=f"drivers are {', '.join(NAMES)}")
    return cast(Driver, import_module(f"netkit.drivers.{name}"))
