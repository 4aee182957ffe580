"""The IPAM plugin `host-local`: addresses from ranges, remembered as files, in Python.

A runtime or plugin executes it as it would the Go one, and may mix the two on one directory.
ADD leases one address of each range set, DEL gives all back, CHECK looks whether the container has
what it was given; STATUS tells whether the directory can be used, GC frees what no valid attachment
holds.

Shapes   a range set is a list of ranges of which an ADD gets one address
Errors   CniError: 7 for a wrong configuration, 11 where no address is free, 100 where the one
         asked for is taken, 101 where CHECK misses one
Source   containernetworking/plugins, plugins/ipam/host-local. Otherwise than there, a subnet's
         network and broadcast address are never leased, /31, /32, /127 and /128 are accepted, no
         container gets a second address by a second ADD, an error names who holds the address, DEL
         needs no valid ranges, CHECK compares prevResult, and there are STATUS and GC
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import astuple

from cni import ipam_plugin
from cni.ipam_plugin import NOT_LEASED
from cni.spec import BY_FAMILY, IP, CniError, Code, Command, Dns, Json, Result, options
from ipam.errors import AddressInUse
from ipam.leases import HostLocalDir, Owner
from ipam.pool import Address, Pool, parse_address, parse_network

DATA_DIR = "/var/lib/cni/networks"
_MOST_BYTES = 1 << 16  # of a resolv.conf


class RangeConf(msgspec.Struct, rename="camel", frozen=True):
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class Place(msgspec.Struct, rename="camel"):
    data_dir: str = DATA_DIR


class Conf(RangeConf, rename="camel", frozen=True):
    ranges: list[list[RangeConf]] = []
    routes: list[Any] = []
    resolv_conf: str = ""


class RuntimeConf(msgspec.Struct, rename="camel"):
    ip_ranges: list[list[RangeConf]] = []


class Range(NamedTuple):
    """Where addresses come from; the gateway may well be outside."""

    pool: Pool
    gateway: str

    def ip(self, offset: int) -> IP:
        return IP(str(self.pool.interface(offset)), self.gateway)


def main() -> None:
    ipam_plugin.run(handle)


def handle(environ: Mapping[str, str], stdin: str | bytes) -> tuple[int, Json | None]:
    """One call of a runtime: exit status, and what to print."""
    return ipam_plugin.serve(VERBS, environ, stdin)


def add(command: Command) -> Json:
    owner, sets, wanted = _owner(command), range_sets(command), wanted_addresses(command)
    conf = _conf(command)
    routes = Result.from_json({"routes": conf.routes}, command.version, "ipam").routes
    dns = _dns(conf.resolv_conf)
    directory = _directory(command)
    if held := HostLocalDir(directory).addresses(owner):
        raise AddressInUse(f"{owner.key} already holds {held[0]}", "a second ADD needs a DEL first")
    ips: list[IP] = []
    try:
        for index, ranges in enumerate(sets):
            pools = {each.pool: each for each in ranges}
            static = next(((pool, ip) for pool in pools for ip in wanted if pool.spans(ip)), None)
            claim = static and (static[0], static[0].claim(static[1]))
            leases = HostLocalDir(directory, index=index)
            pool, offset = leases.lease_any([*pools], owner, claim)
            ips.append(pools[pool].ip(offset))
            if static:
                wanted.remove(static[1])
        if wanted:
            names = ", ".join(map(str, wanted))
            inside = any(each.pool.spans(wanted[0]) for each in chain(*sets))
            why = "is one too many for the range set" if inside else "is in no range"
            raise CniError(Code.INVALID_CONFIG, f"{names} {why} of {command.name!r}")
        return Result(tuple(ips), routes, dns).to_json(command.version)
    except BaseException:
        if ips:
            HostLocalDir(directory).release_all(owner)
        raise


def delete(command: Command) -> None:
    _leases(command).release_all(_owner(command))


def check(command: Command) -> None:
    owner, before = _owner(command), command.previous or Result()
    held = _leases(command).addresses(owner)
    if not held:
        raise CniError(NOT_LEASED, f"{owner.key} holds no address of {command.name!r}")
    pools = [each.pool for each in chain(*range_sets(command))]
    for ip in (parse_address(each.address.partition("/")[0]) for each in before.ips):
        if ip not in held and any(pool.spans(ip) for pool in pools):
            names = ", ".join(map(str, held))
            raise CniError(NOT_LEASED, f"{owner.key} holds {names} of {command.name!r}, not {ip}")


def gc(command: Command) -> None:
    valid = command.valid_attachments
    # a file of an old version names no interface
    keys = {key for id, ifname in valid for key in (f"{id}/{ifname}", id)}
    _leases(command).reclaim(lambda owner: owner.key in keys)


def status(command: Command) -> None:
    range_sets(command)
    try:
        _leases(command).addresses(Owner("nobody"))
        if not os.access(_directory(command), os.W_OK):
            raise PermissionError(f"nobody may write to {_directory(command)}")
    except OSError as error:
        raise CniError(Code.NOT_AVAILABLE, f"no leases can be kept: {error}") from None


VERBS: Mapping[str, ipam_plugin.Verb] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": gc,
    "STATUS": status,
}


def range_sets(command: Command) -> list[list[Range]]:
    """The range sets, in the order that numbers them: the runtime's, `subnet`'s, `ranges`'."""
    conf = _conf(command)
    sets: list[Sequence[RangeConf]] = [
        *options(command.runtime, RuntimeConf, "runtimeConfig").ip_ranges,
        *([[RangeConf(*astuple(conf)[:4])]] if conf.subnet else []),
        *conf.ranges,
    ]
    found = [[_range(each) for each in ranges] for ranges in sets]
    if not found or not all(found):
        raise CniError(Code.INVALID_CONFIG, "ipam has no subnet, and no ranges or an empty one")
    versions = [{each.pool.subnet.version for each in ranges} for ranges in found]
    if any(len(each) > 1 for each in versions):
        raise CniError(Code.INVALID_CONFIG, "a range set has both IPv4 and IPv6 ranges")
    if command.version in BY_FAMILY and len(found) > len({*chain(*versions)}):
        raise CniError(
            Code.INVALID_CONFIG,
            f"CNI {command.version} knows one address per family, here are more",
            "raise cniVersion to 0.3.0 or newer",
        )
    _refuse_overlaps(each.pool for each in chain(*found))
    return found


def wanted_addresses(command: Command) -> list[Address]:
    """The addresses asked for; a prefix length may follow, but the range knows it better."""
    return [parse_address(text.partition("/")[0]) for text in command.wanted_ips()]


def _conf(command: Command) -> Conf:
    return options(command.ipam, Conf, "ipam")


def _directory(command: Command) -> str:
    # of all the configuration, DEL needs no more: what was leased is given back whatever it says
    data_dir = options(command.ipam, Place, "ipam").data_dir
    return os.path.join(data_dir or DATA_DIR, command.name)


def _leases(command: Command) -> HostLocalDir:
    return HostLocalDir(_directory(command))


def _owner(command: Command) -> Owner:
    return Owner(f"{command.container_id}/{command.ifname}")


@lru_cache(256)
def _range(conf: RangeConf) -> Range:
    subnet = parse_network(conf.subnet)
    if subnet.version == 6 and subnet.network_address.ipv4_mapped:
        raise CniError(Code.INVALID_CONFIG, f"{conf.subnet} is written as IPv6 and means IPv4")
    gateway: Address | str | None = parse_address(conf.gateway) if conf.gateway else None
    outside = gateway is not None and gateway not in subnet
    whole = Pool(subnet, gateway="none")
    start = conf.range_start or str(whole.address(whole.first))
    end = conf.range_end or str(whole.address(whole.last))
    pool = Pool(
        subnet,
        gateway="none" if outside else gateway,
        ip_range=f"{start}-{end}",
        round_robin=True,
    )
    if pool.gateway is not None:
        gateway = pool.address(pool.gateway)
    return Range(pool, str(gateway or ""))


def _refuse_overlaps(pools: Iterable[Pool]) -> None:
    def ends(pool: Pool) -> tuple[int, int, int]:
        ((start, stop),) = pool.ranges
        first = int(pool.subnet.network_address)
        return pool.subnet.version, first + start, first + stop

    for one, other in pairwise(sorted(pools, key=ends)):
        if one.overlaps(other):
            raise CniError(Code.INVALID_CONFIG, f"{one.where()} overlaps {other.where()}")


def _dns(path: str) -> Dns:
    """The servers and search domains of a resolv.conf, as the Go plugin reads one."""
    said: dict[str, list[str]] = {}
    for line in _text(path).splitlines() if path else ():
        key, *values = line.split() or [""]
        one = key in ("nameserver", "domain")
        said.setdefault(key, []).extend(values[:1] if one else values)
    servers, domain, search, opts = (
        tuple(said.get(key, ())) for key in ("nameserver", "domain", "search", "options")
    )
    return Dns(servers, domain[-1] if domain else "", search, opts)


def _text(path: str) -> str:
    # a FIFO would be waited for
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return os.read(fd, _MOST_BYTES).decode(errors="replace")
    finally:
        os.close(fd)


if __name__ == "__main__":
    main()
