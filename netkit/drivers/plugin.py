"""A driver that is a program of somebody else's: see docs/drivers.md for what they say to it.

    PROGRAM info              what it speaks
    PROGRAM create            a network as proposed in, its options out
    PROGRAM setup NETNS       an interface is to be in the sandbox
    PROGRAM teardown NETNS    and not any more

Shapes   JSON objects on stdin and stdout
Errors   InvalidSpec where there is no such program, or it refuses, or speaks otherwise
Source   netavark's plugins; the interface's addresses, routes and sysctls are netkit's doing here
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from netkit import model
from netkit.drivers import Traits, devices
from netkit.errors import InvalidSpec
from netkit.kernel import program
from netkit.model import EndpointRecord, NetworkRecord
from netkit.specs import NetworkSpec
from netkit.steps import Plan, Setup

PROTOCOL = 1
_MOST_OPTION = 4096


class _Info(msgspec.Struct):
    protocol: int
    version: str = ""


class _Created(msgspec.Struct):
    options: dict[str, str]


class Plugin:
    """The driver called *name*, whether or not its program is there today."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.TRAITS = Traits(
            options=None, host_end=False, publishes=False, lan=True, settle=self._settle
        )

    def shared(self, net: NetworkRecord) -> Mapping[str, Plan]:
        return {}

    def network(self, net: NetworkRecord) -> Plan:
        return ()

    def endpoint(self, net: NetworkRecord, ep: EndpointRecord) -> Plan:
        assert ep.netns is not None
        said = model.encode({"network": _network(net), "endpoint": _endpoint(ep)})
        made = Setup(driver=self.name, dev=ep.ifname, at=ep.netns, request=said)
        return (made, *devices.interface(net, ep))

    def _settle(
        self, net: NetworkRecord, spec: NetworkSpec, others: Sequence[NetworkRecord]
    ) -> NetworkRecord:
        for key, value in spec.options.items():
            if not (key + value).isprintable() or len(key + value) > _MOST_OPTION:
                raise InvalidSpec(
                    f"invalid option {key + '=' + value!r:.80} of driver {self.name}",
                    hint=f"printable text of at most {_MOST_OPTION} characters",
                )
        net = devices.settled(net, spec, spec.options)
        info = self._ask("info", _Info)
        if info.protocol != PROTOCOL:
            raise InvalidSpec(
                f"driver {self.name} speaks protocol {info.protocol}, not {PROTOCOL}",
                hint="use a version of it made for this netkit",
            )
        created = self._ask("create", _Created, {"network": _network(net)})
        return replace(net, driver_options=created.options)

    def _ask(self, verb: str, kind: type[Any], said: object = None) -> Any:
        try:
            path = program.find(self.name)
            text = program.call((path, verb), model.encode(said or {}))
            return msgspec.json.decode(text, type=kind)
        except OSError as error:
            why = error.strerror
        except msgspec.MsgspecError as error:
            why = f"its answer is not what it should be: {error}"
        raise InvalidSpec(
            f"driver {self.name} refuses `{verb}`: {why}",
            hint=f"its program is in one of {', '.join(program.directories())}",
        )


def is_there(name: str) -> bool:
    """Whether there is such a program; a name that is none is no driver."""
    try:
        program.find(name)
    except FileNotFoundError:
        return False
    except OSError:
        return True  # why it cannot be used is said when it is
    return True


def _network(net: NetworkRecord) -> dict[str, Any]:
    return {
        "id": net.id,
        "name": net.name,
        "internal": net.internal,
        "mtu": net.mtu,
        "subnets": [
            {"subnet": pool.subnet, "gateway": pool.gateway, "ranges": pool.ranges}
            for pool in net.pools
        ],
        "options": net.driver_options,
        "labels": net.labels,
    }


def _endpoint(ep: EndpointRecord) -> dict[str, Any]:
    return {
        "id": ep.id,
        "ifname": ep.ifname,
        "mac": ep.mac,
        "addresses": ep.addresses,
        "gateways": ep.gateways,
    }
