"""The IPAM plugin `host-local`: addresses from ranges, remembered as files, in Python.

A runtime or plugin executes it as it would the Go one, and may mix the two on one directory.
ADD leases one address of each range set, DEL gives all back, CHECK looks for one; STATUS tells
whether the directory can be used, GC frees what no valid attachment holds.

Shapes   a range set is a list of pools of which an ADD gets one address
Errors   CniError: 7 for a wrong configuration, 11 where no address is free, 100 where the one
         asked for is taken, 101 where CHECK finds none
Source   containernetworking/plugins, plugins/ipam/host-local. Beyond it: /31, /32, /127 and /128
         are accepted, an error names who holds the address, STATUS and GC
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from itertools import chain, combinations

from cni.spec import (
    IP,
    VERSIONS,
    CniError,
    Code,
    Command,
    Dns,
    Json,
    Result,
    Route,
    typed,
    versions_json,
)
from ipam.errors import AddressInUse, InvalidPool, IpamError, PoolExhausted
from ipam.leases import HostLocalDir, Owner
from ipam.pool import Address, Pool, parse_address, parse_network

DATA_DIR = "/var/lib/cni/networks"
ADDRESS_TAKEN, NOT_LEASED = 100, 101  # codes from 100 on are for a plugin to define

RangeSet = list[Pool]


def main() -> None:
    """The executable: answers on standard output, and with its exit status."""
    code, answer = handle(os.environ, sys.stdin.buffer.read().decode(errors="replace"))
    if answer is not None:
        print(json.dumps(answer))
    sys.exit(code)


def handle(environ: Mapping[str, str], stdin: str) -> tuple[int, Json | None]:
    """One call of a runtime: exit status, and what to print."""
    version = VERSIONS[-1]
    try:
        command = Command.parse(environ, stdin)
        version = command.version
        return 0, _VERBS[command.verb](command)
    except CniError as error:
        return 1, error.to_json(version)
    except IpamError as error:
        return 1, CniError(_code(error), error.message, error.hint).to_json(version)
    except OSError as error:
        return 1, CniError(Code.IO_FAILURE, str(error)).to_json(version)


def add(command: Command) -> Json:
    owner, sets, wanted = _owner(command), range_sets(command), wanted_addresses(command)
    ipam = _ipam(command)
    routes = tuple(_route(each) for each in typed(ipam.get("routes"), list, "ipam.routes"))
    dns = _dns(typed(ipam.get("resolvConf"), str, "ipam.resolvConf"))
    if held := _leases(command).addresses(owner):
        raise AddressInUse(f"{owner.key} already holds {held[0]}", "a second ADD needs a DEL first")
    ips: list[IP] = []
    try:
        for index, pools in enumerate(sets):
            static = next(((pool, ip) for pool in pools for ip in wanted if pool.spans(ip)), None)
            claim = static and (static[0], static[0].claim(static[1]))
            ips.append(_ip(*_leases(command, index).lease_any(pools, owner, claim)))
            if static:
                wanted.remove(static[1])
        if wanted:
            names = ", ".join(map(str, wanted))
            raise CniError(Code.INVALID_CONFIG, f"{names} is in no range of {command.name!r}")
        return Result(tuple(ips), routes, dns).to_json(command.version)
    except BaseException:
        if ips:
            _leases(command).release_all(owner)
        raise


def delete(command: Command) -> None:
    _leases(command).release_all(_owner(command))


def check(command: Command) -> None:
    owner = _owner(command)
    if not _leases(command).addresses(owner):
        raise CniError(NOT_LEASED, f"{owner.key} holds no address of {command.name!r}")


def gc(command: Command) -> None:
    valid = command.conf.get("cni.dev/valid-attachments")
    if valid is None:  # not a licence to free them all
        raise CniError(Code.INVALID_CONFIG, "GC needs cni.dev/valid-attachments")
    keys = {_key(each) for each in typed(valid, list, "cni.dev/valid-attachments")}
    ids = {key.partition("/")[0] for key in keys}  # a file of an old version names no interface
    _leases(command).reclaim(lambda owner: owner.key in keys or owner.key in ids)


def status(command: Command) -> None:
    range_sets(command)
    try:
        _leases(command).addresses(Owner("nobody"))
    except OSError as error:
        raise CniError(Code.NOT_AVAILABLE, f"the leases cannot be read: {error}") from None


def version(command: Command) -> Json:
    return versions_json(command.version)


_VERBS: dict[str, Callable[[Command], Json | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": gc,
    "STATUS": status,
    "VERSION": version,
}


def range_sets(command: Command) -> list[RangeSet]:
    """The range sets, in the order that numbers them: the runtime's, `subnet`'s, `ranges`'."""
    ipam = _ipam(command)
    sets = [
        *typed(_runtime(command).get("ipRanges"), list, "runtimeConfig.ipRanges"),
        *([[ipam]] if ipam.get("subnet") else []),
        *typed(ipam.get("ranges"), list, "ipam.ranges"),
    ]
    found = [[_pool(each) for each in typed(ranges, list, "a range set")] for ranges in sets]
    if not found or not all(found):
        raise CniError(Code.INVALID_CONFIG, "ipam has no subnet, and no ranges or an empty one")
    if any(len({pool.subnet.version for pool in pools}) > 1 for pools in found):
        raise CniError(Code.INVALID_CONFIG, "a range set has both IPv4 and IPv6 ranges")
    for one, other in combinations(chain(*found), 2):
        if one.overlaps(other):
            raise CniError(Code.INVALID_CONFIG, f"{one.where()} overlaps {other.where()}")
    return found


def wanted_addresses(command: Command) -> list[Address]:
    """The addresses asked for: by CNI_ARGS, by the `args` convention, by the capability `ips`."""
    args = typed(typed(command.conf.get("args"), dict, "args").get("cni"), dict, "args.cni")
    texts = [
        *command.arguments("IP").values(),
        *typed(args.get("ips"), list, "args.cni.ips"),
        *typed(_runtime(command).get("ips"), list, "runtimeConfig.ips"),
    ]
    # a prefix length may follow, but the range knows it better
    addresses = (parse_address(str(text).partition("/")[0]) for text in texts)
    return list(dict.fromkeys(addresses))


def _ipam(command: Command) -> Json:
    return typed(command.conf.get("ipam"), dict, "ipam")


def _runtime(command: Command) -> Json:
    return typed(command.conf.get("runtimeConfig"), dict, "runtimeConfig")


def _leases(command: Command, index: int = 0) -> HostLocalDir:
    data_dir = typed(_ipam(command).get("dataDir"), str, "ipam.dataDir") or DATA_DIR
    return HostLocalDir(os.path.join(data_dir, command.name), index=index)


def _owner(command: Command) -> Owner:
    return Owner(f"{command.container_id}/{command.ifname}")


def _key(value: object) -> str:
    attachment = typed(value, dict, "an attachment")
    container_id, ifname = (
        typed(attachment.get(key), str, key) for key in ("containerID", "ifname")
    )
    return f"{container_id}/{ifname}"


def _pool(value: object) -> Pool:
    conf = typed(value, dict, "a range")
    subnet, gateway, start, end = (
        typed(conf.get(key), str, key) for key in ("subnet", "gateway", "rangeStart", "rangeEnd")
    )
    whole = Pool(subnet, gateway=gateway or None)
    start, end = start or str(whole.address(whole.first)), end or str(whole.address(whole.last))
    return Pool(subnet, gateway=gateway or None, ip_range=f"{start}-{end}", round_robin=True)


def _ip(pool: Pool, offset: int) -> IP:
    gateway = "" if pool.gateway is None else str(pool.address(pool.gateway))
    return IP(str(pool.interface(offset)), gateway)


def _route(value: object) -> Route:
    conf = typed(value, dict, "a route")
    numbers = ("mtu", "advmss", "priority", "table", "scope")
    return Route(
        str(parse_network(typed(conf.get("dst"), str, "dst"))),
        typed(conf.get("gw"), str, "gw"),
        **{key: typed(conf[key], int, key) for key in numbers if key in conf},
    )


def _dns(path: str) -> Dns:
    """The servers and search domains of a resolv.conf, as the Go plugin reads one."""
    if not path:
        return Dns()
    said: dict[str, list[str]] = {}
    with open(path) as file:
        for line in file:
            key, *values = line.split() or [""]
            said.setdefault(key, []).extend(values)
    servers, domain, search, options = (
        tuple(said.get(key, ())) for key in ("nameserver", "domain", "search", "options")
    )
    return Dns(servers, domain[-1] if domain else "", search, options)


def _code(error: IpamError) -> int:
    if isinstance(error, PoolExhausted):
        return Code.TRY_AGAIN_LATER
    return Code.INVALID_CONFIG if isinstance(error, InvalidPool) else ADDRESS_TAKEN


if __name__ == "__main__":
    main()
