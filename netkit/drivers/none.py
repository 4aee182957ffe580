"""A namespace with nothing but loopback: its user configures the rest."""

from __future__ import annotations

from collections.abc import Mapping

from netkit.drivers import Traits
from netkit.model import EndpointRecord, NetworkRecord
from netkit.steps import Plan

TRAITS = Traits(gateway=False, host_end=False, publishes=False)


def shared(net: NetworkRecord) -> Mapping[str, Plan]:
    return {}


def network(net: NetworkRecord) -> Plan:
    return ()


def endpoint(net: NetworkRecord, ep: EndpointRecord) -> Plan:
    return ()
