"""The IPAM plugin `static`: the addresses that are written down, and no memory of them.

What is asked for closest to the attachment wins: the capability `ips`, else `args`, else what the
configuration lists together with IP and GATEWAY of CNI_ARGS.

Errors   CniError: 7 for a wrong configuration, 101 where CHECK misses an address in prevResult
Source   containernetworking/plugins, plugins/ipam/static. Otherwise than there, CHECK sees an
         address that is missing, and there are STATUS and GC
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_interface
from typing import Any

import msgspec

from cni import ipam_plugin
from cni.ipam_plugin import NOT_LEASED
from cni.spec import IP, CniError, Code, Command, Json, Result, canonical, options
from ipam.pool import parse_address


class AddressConf(msgspec.Struct):
    address: str = ""
    gateway: str = ""


class Conf(msgspec.Struct):
    addresses: list[AddressConf] = []
    routes: list[Any] = []
    dns: dict[str, Any] = {}


def main() -> None:
    ipam_plugin.run(handle)


def handle(environ: Mapping[str, str], stdin: str | bytes) -> tuple[int, Json | None]:
    """One call of a runtime: exit status, and what to print."""
    return ipam_plugin.serve(VERBS, environ, stdin)


def add(command: Command) -> Json:
    return _result(command).to_json(command.version)


def check(command: Command) -> None:
    before = command.previous
    if before is None:
        raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult")
    there = {ip.address: ip.gateway for ip in before.ips}
    for ip in _result(command).ips:
        if ip.address not in there:
            raise CniError(NOT_LEASED, f"prevResult lacks {ip.address}")
        if ip.gateway and ip.gateway != there[ip.address]:
            said = there[ip.address] or "none"
            raise CniError(
                NOT_LEASED, f"prevResult has gateway {said} for {ip.address}, not {ip.gateway}"
            )


def status(command: Command) -> None:
    _result(command)


def nothing(command: Command) -> None:
    """Nothing is remembered, so there is nothing to give back."""


VERBS: Mapping[str, ipam_plugin.Verb] = {
    "ADD": add,
    "DEL": nothing,
    "CHECK": check,
    "GC": nothing,
    "STATUS": status,
}


def _result(command: Command) -> Result:
    conf = options(command.ipam, Conf, "ipam")
    said = {"routes": conf.routes, "dns": conf.dns}
    return Result.from_json(said, command.version, "ipam")._replace(ips=_ips(command, conf))


def _ips(command: Command, conf: Conf) -> tuple[IP, ...]:
    by_args, *closer = (
        tuple(canonical(IP(text), f"{where}.ips[{i}]") for i, text in enumerate(texts))
        for where, texts in command.asked_ips()
    )
    for ips in reversed(closer):
        if ips:
            return ips
    listed = tuple(
        canonical(IP(each.address, each.gateway), f"ipam.addresses[{i}]")
        for i, each in enumerate(conf.addresses)
    )
    return listed + _with_gateways(command, by_args)


def _with_gateways(command: Command, ips: tuple[IP, ...]) -> tuple[IP, ...]:
    for text in filter(None, command.arguments().get("GATEWAY", "").split(",")):
        gateway = parse_address(text.strip())
        ips = tuple(
            ip._replace(gateway=str(gateway)) if gateway in ip_interface(ip.address).network else ip
            for ip in ips
        )
    return ips


if __name__ == "__main__":
    main()
