"""A configuration that works, to begin with: what `netkit cni conflist` prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_network

from cni import conflist
from cni.spec import CniError, Json
from netkit.addresses import Network
from netkit.errors import InvalidSpec

VERSION = "1.0.0"  # the newest that podman 4 and containerd 1.6 know
CHAIN, WHOLE = "reference", "netkit"
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def text(name: str, subnets: Sequence[str], bridge: str, sort: str = CHAIN) -> str:
    """A conflist: a bridge with published ports, as a chain of the reference plugins' names or as
    the plugin that is all of them. InvalidSpec for what would not work.
    """
    try:
        nets = [ip_network(subnet) for subnet in subnets]
    except ValueError as error:
        raise InvalidSpec(f"cannot write a configuration: {error}") from None
    plugins = _whole(nets, bridge) if sort == WHOLE else _chain(nets, bridge)
    found = json.dumps({"cniVersion": VERSION, "name": name, "plugins": plugins}, indent=2)
    try:
        conflist.parse(found, f"a configuration of {name!r:.80}")
    except CniError as error:
        raise InvalidSpec(error.message, hint=error.details or None) from None
    return found


def _whole(subnets: Sequence[Network], bridge: str) -> list[Json]:
    return [
        {
            "type": "netkit",
            "bridge": bridge,
            "subnets": [str(subnet) for subnet in subnets],
            "ipv6": any(subnet.version == 6 for subnet in subnets),
            "capabilities": {"portMappings": True, "ips": True, "mac": True, "aliases": True},
        }
    ]


def _chain(subnets: Sequence[Network], bridge: str) -> list[Json]:
    versions = sorted({subnet.version for subnet in subnets})
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": str(subnet)}] for subnet in subnets],
        "routes": [{"dst": _ANYWHERE[version]} for version in versions],
    }
    return [
        {
            "type": "bridge",
            "bridge": bridge,
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": ipam,
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall"},
        {"type": "tuning"},
    ]
