"""No namespace of its own: the sandbox is on the host, with all its interfaces and addresses."""

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
