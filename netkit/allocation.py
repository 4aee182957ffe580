"""Who hands out a network's addresses: netkit, nobody, or an IPAM plugin.

    default   an address nobody has, of each subnet
    static    those that are asked for, and no others
    none      nobody: interfaces are numbered from inside, or not at all
    NAME      a CNI IPAM plugin (docs/ipam.md): a program, asked outside of transactions

Shapes   `--ipam-opt key=value` of a plugin is a key of its `ipam` object; a value that is JSON is
         that value, any other is text: range=10.1.0.0/24, log_level="debug", ranges=[[{...}]]
Errors   InvalidSpec; IpamError of what is made here
Source   Docker: --ipam-driver, --ipam-opt. CNI SPEC 1.1.0: delegated plugins
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from netkit import addresses
from netkit.errors import InvalidSpec
from netkit.model import LoanRecord, NetworkRecord, PluginCall, Subnet
from netkit.specs import IPAM_DRIVERS, NetworkSpec

if TYPE_CHECKING:
    import ipam
    from ipam.external import Grant


class Granted(NamedTuple):
    """What a plugin gave an interface called *ifname*, and its loan until that is made."""

    loan: LoanRecord
    ifname: str
    grant: Grant


def pools(net: NetworkRecord) -> list[ipam.Pool]:
    """The addresses of a network, subnet by subnet; what a plugin gives is asked for here."""
    import ipam

    found = []
    for pool in net.pools:
        ranges = addresses.spans(pool.ranges) or None
        found.append(
            ipam.Pool(
                pool.subnet,
                gateway=pool.gateway or "none",
                ip_range=ranges if net.ipam == "default" else "none",
                reserved=pool.reserved,
                name=f"{net.id} {pool.subnet}",
                round_robin=net.switched_on("round-robin"),
                sticky=net.switched_on("sticky"),
            )
        )
    return found


def directories(configured: Sequence[str]) -> Sequence[str]:
    """Where plugins are looked for."""
    from ipam.execution import DIRECTORIES

    return configured or DIRECTORIES


def check(spec: NetworkSpec, configured: Sequence[str], *, routed: bool) -> None:
    """Refuse an IPAM driver that does not exist, or does not go with the network's driver."""
    name = spec.ipam_driver
    if routed and (name == "none" or (name not in IPAM_DRIVERS and not spec.subnets)):
        raise InvalidSpec(
            f"cannot create network '{spec.name}': driver {spec.driver} routes to subnets, and "
            f"with IPAM driver '{name}' there are none",
            hint="use driver bridge" if name == "none" else "add --subnet",
        )
    if name in IPAM_DRIVERS:
        return
    for key, value in spec.ipam_options.items():
        if key == "type":
            raise InvalidSpec(
                f"invalid IPAM option {'type=' + value!r:.80}: that is the plugin's name",
                hint="give it by --ipam-driver",
            )
        _value(key, value)
    places = directories(configured)
    if not any(_is_program(os.path.join(place, name)) for place in places):
        raise InvalidSpec(
            f"no IPAM driver '{name}': there is no such program in {', '.join(places)}",
            hint=f"drivers are {', '.join(IPAM_DRIVERS)}, and the plugins in ipam-plugin-dirs",
        )


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def configuration(net: NetworkRecord) -> str:
    """A plugin's `ipam` object, as JSON: its options; and the subnets, as host-local has them,
    where the options name none.
    """
    conf = {key: _value(key, text) for key, text in net.ipam_options.items()}
    if net.pools and not {"range", "ranges", "subnet"} & conf.keys():
        conf["ranges"] = [_range_set(pool) for pool in net.pools]
    return json.dumps(conf)


def _range_set(pool: Subnet) -> list[dict[str, str]]:
    one = {"subnet": str(pool.subnet)}
    if pool.gateway is not None:
        one["gateway"] = str(pool.gateway)
    return [
        {**one, "rangeStart": str(first), "rangeEnd": str(last)}
        for first, last in addresses.ends(pool.ranges)
    ] or [one]


def _value(key: str, text: str) -> Any:
    def constant(word: str) -> Any:
        raise InvalidSpec(f"invalid IPAM option {key}={word}: no number of JSON's")

    try:
        return json.loads(text, parse_constant=constant)
    except RecursionError:
        raise InvalidSpec(f"invalid IPAM option {key:.80}: nested too deep") from None
    except ValueError:
        return text


def plugin(
    loan: LoanRecord, configured: Sequence[str], holding: Sequence[int]
) -> ipam.ExternalAllocator:
    """What leases and releases for *loan*; its processes inherit *holding*."""
    import ipam

    return ipam.ExternalAllocator(
        loan.plugin,
        network=loan.network_name,
        ipam=json.loads(loan.conf),
        directories=directories(configured),
        holding=holding,
    )


def line(loan: LoanRecord, verb: str) -> str:
    """What is executed, as an operator would type it."""
    container, _, ifname = loan.owner.partition("/")
    told = f"CNI_COMMAND={verb} CNI_CONTAINERID={container} CNI_IFNAME={ifname}"
    return f"{told} CNI_NETNS={loan.netns} {loan.plugin}"


def execute(call: PluginCall, holding: Sequence[int] = ()) -> None:
    """Make a CNI plugin's call by executing it; its process inherits *holding*."""
    from ipam.errors import PluginFailed
    from ipam.execution import execute

    try:
        execute(call.plugin, call.environ, call.stdin.encode(), holding=holding)
    except PluginFailed as failed:
        what = f"{call.plugin} {call.environ.get('CNI_COMMAND')}: {failed.message}"
        raise type(failed)(what, failed.hint, code=failed.code) from None
