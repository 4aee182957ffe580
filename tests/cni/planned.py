"""What a chained plugin plans for a configuration, on a machine in memory behind a bridge."""

from __future__ import annotations

import json
from ipaddress import IPv4Interface, IPv6Interface
from typing import Any

from cni import plugin
from cni.call import Answer, Call
from cni.spec import Command
from netkit.firewall import Rule
from netkit.steps import held
from tests.fakes import FakeKernel

Json = dict[str, Any]
AT = "/run/netns/c1"
PREVIOUS: Json = {
    "cniVersion": "1.1.0",
    "interfaces": [
        {"name": "cni0", "mac": "02:42:00:00:00:01"},
        {"name": "veth1", "mac": "02:42:00:00:00:02"},
        {"name": "eth0", "mac": "02:42:00:00:00:03", "sandbox": AT},
    ],
    "ips": [
        {"address": "10.22.0.2/24", "gateway": "10.22.0.1", "interface": 2},
        {"address": "fd00:22::2/64", "gateway": "fd00:22::1", "interface": 2},
    ],
    "dns": {},
}


def machine() -> FakeKernel:
    """A bridge with the gateways' addresses, and a container on it."""
    kernel = FakeKernel()
    kernel.create_netns("c1")
    host = kernel.netlink()
    host.add_bridge("cni0", mac="02:42:00:00:00:01", mtu=1500)
    for address in (IPv4Interface("10.22.0.1/24"), IPv6Interface("fd00:22::1/64")):
        host.add_address("cni0", address)
    host.set_up("cni0")
    host.add_veth(
        "veth1",
        mac="02:42:00:00:00:02",
        mtu=1400,
        peer="eth0",
        peer_mac="02:42:00:00:00:03",
        peer_netns=AT,
        master="cni0",
    )
    return kernel


def planned(
    kind: str,
    conf: Json,
    *,
    previous: Json | None = PREVIOUS,
    kernel: FakeKernel | None = None,
    args: str = "",
    version: str = "1.1.0",
) -> Answer:
    environ = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": AT,
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": args,
    }
    said = {"cniVersion": version, "name": "web", "type": kind, **conf}
    if previous is not None:
        said["prevResult"] = previous
    command = Command.parse(environ, json.dumps(said))
    call = Call(command, plugin._conf(kind, command), kernel or machine())
    answer: Answer = plugin._module(kind).propose(call)
    return answer


def rules(answer: Answer) -> list[Rule]:
    """The attachment's own."""
    return held(answer.proposal.plan)


def shared(answer: Answer, kernel: FakeKernel | None = None) -> dict[str, str]:
    """The shared plans, as an operator would type them."""
    return {
        name: "\n".join(map(str, make(kernel or machine())))
        for name, make in answer.proposal.shared.items()
        if name != "tables"
    }
