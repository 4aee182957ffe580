"""CNI as text: a command from environment and JSON; results and errors to JSON of every version.

Shapes   pure: text in, text out; an address is CIDR text ("10.88.0.2/24"), as CNI writes it
Errors   CniError: what a plugin prints instead of a result
Source   CNI SPEC.md 0.1.0 to 1.1.0; libcni pkg/skel, for what is checked and in which order

A result is written once, in the shape of the newest version; `Result.to_json(version)` leaves out
what an older one does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

Json = dict[str, Any]
T = TypeVar("T")

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": (),
    "VERSION": (),
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*", re.ASCII)
_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "plain text", int: "a number"}
_IFNAME_BYTES = 15  # IFNAMSIZ, less the closing NUL


class Code(IntEnum):
    """Error codes; from 100 on they are the plugin's own."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    INVALID_NETNS = 8
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    INTERNAL = 999


class CniError(Exception):
    """A call that failed: *code* is for the runtime, *details* tells the way out."""

    def __init__(self, code: int, message: str, details: str | None = None) -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message
        self.details = details or ""

    def to_json(self, version: str) -> Json:
        return {
            "cniVersion": version,
            "code": self.code,
            "msg": self.message,
            "details": self.details,
        }


def typed(value: object, kind: type[T], what: str) -> T:
    """*value* of a configuration, which must be of *kind*; an empty one where it is silent."""
    if value is None:
        return kind()
    # a NUL or half a surrogate pair in a path or an address would fail later, and less clearly
    if not isinstance(value, kind) or (isinstance(value, str) and not value.isprintable()):
        raise CniError(Code.INVALID_CONFIG, f"{what} is {value!r}, not {_KINDS[kind]}")
    return value


class Command(NamedTuple):
    """One call of a runtime, checked."""

    verb: str
    container_id: str
    netns: str
    ifname: str
    args: str
    path: tuple[str, ...]
    conf: Json
    version: str

    @classmethod
    def parse(cls, environ: Mapping[str, str], stdin: str) -> Command:
        verb = environ.get("CNI_COMMAND", "")
        if verb not in _NEEDS:
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_COMMAND is {verb!r}" if verb else "CNI_COMMAND is not set",
                f"it is one of {' '.join(_NEEDS)}",
            )
        missing = [name for name in _NEEDS[verb] if not environ.get(name)]
        if missing:
            raise CniError(
                Code.INVALID_ENVIRONMENT, f"{verb} needs {', '.join(missing)} in the environment"
            )
        container_id, ifname = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
        if container_id and not _ID.fullmatch(container_id):
            raise CniError(
                Code.INVALID_ENVIRONMENT, f"CNI_CONTAINERID {container_id!r} is no container id"
            )
        if ifname and not _is_ifname(ifname):
            raise CniError(Code.INVALID_ENVIRONMENT, f"CNI_IFNAME {ifname!r} is no interface name")
        conf = _conf(verb, stdin)
        return cls(
            verb,
            container_id,
            environ.get("CNI_NETNS", ""),
            ifname,
            environ.get("CNI_ARGS", ""),
            tuple(filter(None, environ.get("CNI_PATH", "").split(":"))),
            conf,
            conf.get("cniVersion") or VERSIONS[0],
        )

    @property
    def name(self) -> str:
        """The network's."""
        name: str = self.conf["name"]
        return name

    def arguments(self, *known: str) -> dict[str, str]:
        """CNI_ARGS, of which only *known* are understood."""
        pairs = [pair.partition("=") for pair in self.args.split(";") if pair]
        given = {key: value for key, _, value in pairs}
        ignore = given.pop("IgnoreUnknown", "").lower() in ("1", "true")
        unknown = sorted(given.keys() - {*known})
        if unknown and not ignore:
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_ARGS has {', '.join(unknown)}, which this plugin does not know",
                "add IgnoreUnknown=1 to pass arguments meant for others",
            )
        return {key: given[key] for key in known if key in given}


class Interface(NamedTuple):
    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = ""
    pci_id: str = ""


class IP(NamedTuple):
    address: str
    gateway: str = ""
    interface: int | None = None  # an index into Result.interfaces; of no use to an IPAM plugin


class Route(NamedTuple):
    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class Dns(NamedTuple):
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(NamedTuple):
    """What an ADD achieved; an IPAM plugin has no interfaces."""

    ips: tuple[IP, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()
    interfaces: tuple[Interface, ...] = ()

    def to_json(self, version: str) -> Json:
        dns = {key: list(v) if isinstance(v, tuple) else v for key, v in _said(self.dns).items()}
        if version in ("0.1.0", "0.2.0"):
            return {"cniVersion": version, **self._by_family(version), "dns": dns}
        interfaces = [_interface(each, version) for each in self.interfaces]
        routes = [_route(each, version) for each in self.routes]
        return {
            "cniVersion": version,
            **({"interfaces": interfaces} if interfaces else {}),
            **({"ips": [_ip(each, version) for each in self.ips]} if self.ips else {}),
            **({"routes": routes} if routes else {}),
            "dns": dns,
        }

    def _by_family(self, version: str) -> Json:
        families: Json = {}
        for ip in self.ips:
            family = f"ip{_family(ip.address)}"
            if family in families:
                raise CniError(
                    Code.INVALID_CONFIG,
                    f"CNI {version} knows one address per family, here are more",
                    "raise cniVersion to 0.3.0 or newer",
                )
            gateway = {"gateway": ip.gateway} if ip.gateway else {}
            routes = [_route(r, version) for r in self.routes if f"ip{_family(r.dst)}" == family]
            families[family] = {
                "ip": ip.address,
                **gateway,
                **({"routes": routes} if routes else {}),
            }
        return families


def versions_json(version: str) -> Json:
    """The answer to VERSION."""
    return {"cniVersion": version, "supportedVersions": list(VERSIONS)}


def _conf(verb: str, stdin: str) -> Json:
    if verb == "VERSION":
        return _hello(stdin)
    try:
        conf = json.loads(stdin)
    except ValueError as error:
        raise CniError(
            Code.DECODING_FAILURE, f"the network configuration is no JSON: {error}"
        ) from None
    if not isinstance(conf, dict):
        raise CniError(Code.DECODING_FAILURE, "the network configuration is no JSON object")
    version = conf.get("cniVersion") or VERSIONS[0]
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version} is not supported",
            f"supported are {' '.join(VERSIONS)}",
        )
    if VERSIONS.index(version) < VERSIONS.index(_SINCE.get(verb, VERSIONS[0])):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version} has no {verb}",
            f"raise it to {_SINCE[verb]} or newer",
        )
    name = conf.get("name")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        raise CniError(Code.INVALID_CONFIG, f"name is {name!r}: no name for a network")
    return conf


def _hello(stdin: str) -> Json:
    # runtimes older than 0.3 send nothing with VERSION, and newer ones may know newer versions
    with suppress(ValueError, AttributeError):
        version = json.loads(stdin).get("cniVersion")
        if version in VERSIONS:
            return {"cniVersion": version}
    return {"cniVersion": VERSIONS[-1]}


def _is_ifname(name: str) -> bool:
    plain = not re.search(r"[/:\s]", name) and name not in (".", "..")
    return plain and len(name.encode()) <= _IFNAME_BYTES


def _family(cidr: str) -> int:
    return 6 if ":" in cidr else 4


def _said(value: NamedTuple) -> Json:
    return {key: v for key, v in value._asdict().items() if v not in ("", 0, None, ())}


def _interface(interface: Interface, version: str) -> Json:
    renamed = {"socket_path": "socketPath", "pci_id": "pciID"}
    new = {"mtu", *renamed} if version != "1.1.0" else set()
    said = _said(interface).items()
    return {renamed.get(key, key): value for key, value in said if key not in new}


def _ip(ip: IP, version: str) -> Json:
    old = {"version": str(_family(ip.address))} if version.startswith("0.") else {}
    # an index of 0 is said, so not by way of _said()
    at = {} if ip.interface is None else {"interface": ip.interface}
    return {**old, **at, "address": ip.address, **({"gateway": ip.gateway} if ip.gateway else {})}


def _route(route: Route, version: str) -> Json:
    said = _said(route)
    if version != "1.1.0":
        return {key: said[key] for key in ("dst", "gw") if key in said}
    # table and scope 0 mean something (unspec, universe)
    given = {"table": route.table, "scope": route.scope}
    return {**said, **{key: value for key, value in given.items() if value is not None}}
