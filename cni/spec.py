"""CNI as text: a command from environment and JSON; results and errors to JSON of every version.

Shapes   pure: text in, text out; an address is CIDR text ("10.88.0.2/24"), as CNI writes it
Units    bytes and levels, for the most that is read
Errors   CniError: what a plugin prints instead of a result
Source   CNI SPEC.md 0.1.0 to 1.1.0; libcni pkg/skel, for what is checked and in which order; Go's
         encoding/json, for how configurations in the field are spelt

A result is written once, in the shape of the newest version; `Result.to_json(version)` leaves out
what an older one does not know, and `Result.from_json` reads every one of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import cache, lru_cache
from ipaddress import ip_address, ip_interface
from math import isfinite
from threading import Lock
from types import UnionType
from typing import Any, NamedTuple, NoReturn, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec.structs import fields

from netkit import naming
from netkit.errors import InvalidSpec

Json = dict[str, Any]
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

MOST_BYTES, MOST_LEVELS = 1 << 20, 64  # of a configuration, or of an answer

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
BY_FAMILY = VERSIONS[:2]  # one address of each family, and no interfaces
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
    "GC": ("CNI_PATH",),
    "STATUS": (),
    "VERSION": (),
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}", re.ASCII)
_CIDR = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}", re.ASCII)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # a NUL ends what the kernel reads; half a character
_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "plain text",
    int: "a number",
    bool: "true or false",
}
ARGUMENTS = ("IP", "GATEWAY", "MAC")
_KEYS = {  # of every configuration, and in any case: Go's decoder takes them so
    key.lower(): key
    for key in ("cniVersion", "name", "type", "ipam", "dns", "args", "runtimeConfig", "prevResult")
}


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


# -- reading --------------------------------------------------------------------------------------


def decode(text: str | bytes, what: str) -> Json:
    """The JSON object in *text*, read strictly: UTF-8, no key twice, numbers that are numbers.

    CniError 6 names *what* it is. Time and memory are bounded by MOST_BYTES and MOST_LEVELS.
    """
    try:
        if len(text) > MOST_BYTES:
            raise ValueError(f"it is longer than {MOST_BYTES} bytes")
        plain = text.decode() if isinstance(text, bytes) else text
        found = json.loads(
            plain, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float
        )
        # of what has neither enough brackets, nor an escape, nothing is to be feared
        deep = plain.count("{") + plain.count("[") > MOST_LEVELS
        if deep or "\\u" in plain or not isinstance(text, bytes):
            _look_through(found)
    except RecursionError:
        raise CniError(Code.DECODING_FAILURE, f"{what} is nested too deep") from None
    except ValueError as error:
        raise CniError(Code.DECODING_FAILURE, f"{what} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise CniError(Code.DECODING_FAILURE, f"{what} is no JSON object")
    return found


def _object(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twice!r:.80} stands in one object twice")
    return found


def _constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def _float(text: str) -> float:
    if not isfinite(number := float(text)):
        raise ValueError(f"{text:.80} is too large")
    return number


def _look_through(value: Any) -> None:
    """Refuse what is nested too deep, and text that no path or name can be."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS + 1:
            raise ValueError(f"it is nested deeper than {MOST_LEVELS} levels")
        inner: list[Any] = []
        for each in level:
            if isinstance(each, str):
                if _NO_TEXT.search(each):
                    raise ValueError(f"{each!r:.80} is no text")
            elif isinstance(each, dict):
                inner += each
                inner += each.values()
            elif isinstance(each, list):
                inner += each
        level = inner


def typed(value: object, kind: type[T], what: str) -> T:
    """*value* of a configuration, which must be of *kind*; an empty one where it is silent."""
    if value is None:
        return kind()
    wrong = not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    # a line break in an address, a path or a search domain would be an entry of its own somewhere
    if wrong or (isinstance(value, str) and not value.isprintable()):
        raise CniError(Code.INVALID_CONFIG, f"{what} is {value!r:.80}, not {_KINDS[kind]}")
    return cast(T, value)


def options(value: object, kind: type[S], what: str = "", *, code: int = Code.INVALID_CONFIG) -> S:
    """The object *value*, which the configuration calls *what*, as the msgspec.Struct *kind*.

    Read as Go reads: keys in any case, null is absence, keys that *kind* lacks are somebody else's.
    But text is printable, and the error says where: "ipam.ranges[0].subnet: expected `str`, got
    `int`".
    """
    if kind not in _known:
        with _learning:  # see netkit.model.decode
            msgspec.json.Decoder(kind)
            _known.add(kind)
    try:
        return msgspec.convert({} if value is None else _struct_folder(kind)(value, ""), kind)
    except msgspec.ValidationError as error:
        said, _, path = str(error).partition(" - at `$")
        where = f"{what}{path.rstrip('`')}".lstrip(".")
        said = said[:1].lower() + said[1:]
        raise CniError(code, f"{where}: {said}" if where else said) from None


_known: set[type[msgspec.Struct]] = set()
_learning = Lock()
_Fold = Callable[[Any, str], Any]


def _folder(kind: Any) -> _Fold:
    """What leaves the nulls out of a value at a path, and spells its keys as in *kind*, the type
    of a field. Not by msgspec.inspect, which looks through all there is within, every time.
    """
    of, inner = get_origin(kind), get_args(kind)
    if of is dict:
        return _dict_folder(_folder(inner[1]))
    if of in (list, tuple):
        return _list_folder(_folder(inner[0]))
    if of in (Union, UnionType):
        return _union_folder([_folder(each) for each in inner])
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct_folder(kind)
    return _plain_text if kind is str else _as_it_is


@cache
def _struct_folder(kind: type[msgspec.Struct]) -> _Fold:
    folders = {each.encode_name: _folder(each.type) for each in fields(kind)}
    names = {name.lower(): name for name in folders}

    def fold(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return value
        found: Json = {}
        for key, each in value.items():
            name = key if key in folders else names.get(key.lower(), "")
            if name and each is not None and (name == key or name not in value):
                found[name] = folders[name](each, f"{path}.{name}")
        return found

    return fold


def _dict_folder(item: _Fold) -> _Fold:
    def fold(value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: item(each, f"{path}[...]") for key, each in value.items()}

    return fold


def _list_folder(item: _Fold) -> _Fold:
    def fold(value: Any, path: str) -> Any:
        if not isinstance(value, list):
            return value
        return [item(each, f"{path}[{i}]") for i, each in enumerate(value)]

    return fold


def _union_folder(folders: Sequence[_Fold]) -> _Fold:
    def fold(value: Any, path: str) -> Any:
        for each in folders:
            value = each(value, path)
        return value

    return fold


def _plain_text(value: Any, path: str) -> Any:
    if isinstance(value, str) and not value.isprintable():
        raise msgspec.ValidationError(f"{value!r:.80} is not plain text - at `${path}`")
    return value


def _as_it_is(value: Any, path: str) -> Any:
    return value


# -- a call ---------------------------------------------------------------------------------------


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
    environ: Mapping[str, str] = {}  # all of it, for those it is handed on to

    @classmethod
    def parse(cls, environ: Mapping[str, str], stdin: str | bytes, *, lo: bool = False) -> Command:
        """*lo*: whether the plugin has to do with interfaces it does not make, such as `lo`."""
        verb = environ.get("CNI_COMMAND", "")
        if verb not in _NEEDS:
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_COMMAND is {verb!r:.80}" if verb else "CNI_COMMAND is not set",
                f"it is one of {' '.join(_NEEDS)}",
            )
        missing = [name for name in _NEEDS[verb] if not environ.get(name)]
        if missing:
            raise CniError(
                Code.INVALID_ENVIRONMENT, f"{verb} needs {', '.join(missing)} in the environment"
            )
        container_id, ifname = environ.get("CNI_CONTAINERID", ""), environ.get("CNI_IFNAME", "")
        if verb in ("ADD", "CHECK", "DEL"):
            _check_names(container_id, ifname, lo)
        for name in ("CNI_NETNS", "CNI_ARGS", "CNI_PATH"):
            if verb != "VERSION" and not environ.get(name, "").isprintable():
                raise CniError(
                    Code.INVALID_ENVIRONMENT, f"{name} is {environ[name]!r:.80}: no plain text"
                )
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
            environ,
        )

    @property
    def name(self) -> str:
        """The network's."""
        name: str = self.conf["name"]
        return name

    @property
    def ipam(self) -> Json:
        """The IPAM plugin's part of the configuration."""
        return typed(self.conf.get("ipam"), dict, "ipam")

    @property
    def runtime(self) -> Json:
        """The capabilities' values, by which a runtime says what this attachment is to have."""
        return typed(self.conf.get("runtimeConfig"), dict, "runtimeConfig")

    @property
    def cni_args(self) -> Json:
        """What the network's `args` say to all plugins: ips, mac, labels, sysctl …"""
        return typed(typed(self.conf.get("args"), dict, "args").get("cni"), dict, "args.cni")

    @property
    def previous(self) -> Result | None:
        """What the plugins before this one achieved, or, but for ADD, the whole chain."""
        value = self.conf.get("prevResult")
        return None if value is None else Result.from_json(value, self.version, "prevResult")

    @property
    def valid_attachments(self) -> frozenset[tuple[str, str]]:
        """What GC is to keep: container ids and interface names."""
        value = self.conf.get("cni.dev/valid-attachments")
        if value is None:  # not a licence to free them all
            raise CniError(Code.INVALID_CONFIG, f"{self.verb} needs cni.dev/valid-attachments")
        kept = options({"cni.dev/valid-attachments": value}, _Valid).attachments
        return frozenset((each.container_id, each.ifname) for each in kept)

    def arguments(self, *known: str) -> dict[str, str]:
        """CNI_ARGS, of which only *known* are understood: by default what any plugin of ours is."""
        known = known or ARGUMENTS
        pairs = [pair.partition("=") for pair in self.args.split(";") if pair]
        given = {key: value for key, _, value in pairs}
        ignore = given.pop("IgnoreUnknown", "").lower() in ("1", "true")
        unknown = sorted(given.keys() - {*known})
        if unknown and not ignore:
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_ARGS has {', '.join(unknown):.80}, which this plugin does not know",
                "add IgnoreUnknown=1 to pass arguments meant for others",
            )
        return {key: given[key] for key in known if key in given}

    def wanted_mac(self, configured: str = "") -> str | None:
        """The MAC address asked for, in canonical form.

        Of capability, `args`, CNI_ARGS and what the plugin has *configured*, the first that says
        one, as in the reference: an attachment's own wins over its network's.
        """
        asked = (
            ("runtimeConfig.mac", typed(self.runtime.get("mac"), str, "runtimeConfig.mac")),
            ("args.cni.mac", typed(self.cni_args.get("mac"), str, "args.cni.mac")),
            ("MAC of CNI_ARGS", self.arguments().get("MAC", "")),
            ("mac", configured),
        )
        for where, text in asked:
            if text:
                try:
                    return naming.parse_mac(text)
                except InvalidSpec as refused:
                    message = f"{where}: {refused}"
                    raise CniError(Code.INVALID_CONFIG, message, refused.hint) from None
        return None

    def wanted_ips(self) -> list[str]:
        """The addresses asked for, wherever that was."""
        return list(dict.fromkeys(text for _, texts in self.asked_ips() for text in texts))

    def asked_ips(self) -> tuple[tuple[str, list[str]], ...]:
        """The addresses asked for by CNI_ARGS, by `args`, and by the capability, apart."""
        said = [text.strip() for text in self.arguments().get("IP", "").split(",")]
        return (
            ("CNI_ARGS", [*filter(None, said)]),
            ("args.cni", _texts(self.cni_args.get("ips"), "args.cni.ips")),
            ("runtimeConfig", _texts(self.runtime.get("ips"), "runtimeConfig.ips")),
        )


def _texts(value: object, what: str) -> list[str]:
    texts = typed(value, list, what)
    return [typed(text, str, f"{what}[{i}]") for i, text in enumerate(texts)]


class _Attachment(msgspec.Struct):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


class _Valid(msgspec.Struct):
    attachments: list[_Attachment] = msgspec.field(name="cni.dev/valid-attachments")


def version_of(stdin: str | bytes) -> str:
    """The version to answer in, even to what cannot be read: its own where that can."""
    with suppress(CniError):
        conf = decode(stdin, "the network configuration")
        version = next((conf[key] for key in conf if key.lower() == "cniversion"), None)
        if version in (None, ""):
            return VERSIONS[0]
        if version in VERSIONS:
            return str(version)
    return VERSIONS[-1]


def versions_json(version: str) -> Json:
    """The answer to VERSION."""
    return {"cniVersion": version, "supportedVersions": list(VERSIONS)}


def _check_names(container_id: str, ifname: str, lo: bool) -> None:
    if not _ID.fullmatch(container_id):
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID {container_id!r:.80} is no container id",
            "letters, digits, _ . and -, 128 at most, and a letter or digit first",
        )
    if ifname == "lo" and lo:
        return
    try:
        naming.validate_ifname(ifname)
    except InvalidSpec as refused:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            f"CNI_IFNAME {ifname!r:.80} is no interface name to be given",
            str(refused),
        ) from None


def _conf(verb: str, stdin: str | bytes) -> Json:
    if verb == "VERSION":
        # runtimes older than 0.3 send nothing with VERSION, and newer ones may know newer versions
        return {"cniVersion": version_of(stdin)}
    read = decode(stdin, "the network configuration")
    conf = {_KEYS.get(key.lower(), key): value for key, value in read.items()}
    version = conf.get("cniVersion") or VERSIONS[0]
    if version not in VERSIONS:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {version!s:.80} is not supported",
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
        raise CniError(Code.INVALID_CONFIG, f"name is {name!r:.80}: no name for a network")
    return conf


# -- results --------------------------------------------------------------------------------------


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

    @classmethod
    def from_json(
        cls,
        value: object,
        version: str,
        what: str = "result",
        *,
        code: int = Code.INVALID_CONFIG,
    ) -> Result:
        """The result *value*, of its own `cniVersion` or else of *version*; *what* errors call it.

        Addresses come out in canonical form.
        """
        said = options(value, _Result, what, code=code)
        try:
            if (version := said.version or version) not in VERSIONS:
                raise ValueError(f"cniVersion: {version!r:.80} is not supported")
            interfaces = tuple(_plain(Interface, each) for each in said.interfaces)
            ips = [
                _address(_plain(IP, each), f"ips[{i}]", len(interfaces))
                for i, each in enumerate(said.ips)
            ]
            routes = [
                _destination(_plain(Route, each), f"routes[{i}]")
                for i, each in enumerate(said.routes)
            ]
            for family, old in (("ip4", said.ip4), ("ip6", said.ip6)):
                if old is not None:
                    ips.append(_address(IP(old.ip, old.gateway), family, 0))
                    routes += [
                        _destination(_plain(Route, each), f"{family}.routes[{i}]")
                        for i, each in enumerate(old.routes)
                    ]
        except ValueError as error:
            raise CniError(code, f"{what}.{error}") from None
        return cls(tuple(ips), tuple(routes), _plain(Dns, said.dns), interfaces)

    def to_json(self, version: str) -> Json:
        dns = {key: list(v) if isinstance(v, tuple) else v for key, v in _said(self.dns).items()}
        if version in BY_FAMILY:
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


class _Interface(msgspec.Struct):
    name: str = ""
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0
    socket_path: str = msgspec.field(default="", name="socketPath")
    pci_id: str = msgspec.field(default="", name="pciID")


class _Ip(msgspec.Struct):
    address: str
    gateway: str = ""
    interface: int | None = None


class _Route(msgspec.Struct):
    dst: str
    gw: str = ""
    mtu: int = 0
    advmss: int = 0
    priority: int = 0
    table: int | None = None
    scope: int | None = None


class _Dns(msgspec.Struct):
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class _Family(msgspec.Struct):
    ip: str
    gateway: str = ""
    routes: list[_Route] = []


class _Result(msgspec.Struct):
    """A result of any version."""

    version: str = msgspec.field(default="", name="cniVersion")
    interfaces: list[_Interface] = []
    ips: list[_Ip] = []
    routes: list[_Route] = []
    dns: _Dns = msgspec.field(default_factory=_Dns)
    ip4: _Family | None = None
    ip6: _Family | None = None


def _plain(kind: type[T], struct: msgspec.Struct) -> T:
    return kind(*msgspec.structs.astuple(struct))


def canonical(ip: IP, what: str) -> IP:
    """*ip* of a configuration, which calls it *what*, in canonical form."""
    try:
        return _address(ip, what, 0)
    except ValueError as error:
        raise CniError(Code.INVALID_CONFIG, str(error)) from None


def _address(ip: IP, what: str, interfaces: int) -> IP:
    """*ip* in canonical form; ValueError."""
    if ip.interface is not None and not 0 <= ip.interface < max(interfaces, 1):
        raise ValueError(f"{what}.interface: there is no interface {ip.interface}")
    at = ip.interface if interfaces else None  # an IPAM plugin knows of none
    return IP(_cidr(ip.address, f"{what}.address"), _gateway(ip.gateway, f"{what}.gateway"), at)


def _destination(route: Route, what: str) -> Route:
    """*route* in canonical form; ValueError."""
    for key, number in zip(route._fields[2:], route[2:], strict=True):
        if number and not 0 <= number < 1 << 32:
            raise ValueError(f"{what}.{key}: {number} is out of range")
    return route._replace(dst=_cidr(route.dst, f"{what}.dst"), gw=_gateway(route.gw, f"{what}.gw"))


def _cidr(text: str, what: str) -> str:
    """The address with prefix length in *text*, in canonical form; ValueError."""
    with suppress(ValueError):
        if _CIDR.fullmatch(text):
            return _canonical_cidr(text)
    raise ValueError(f"{what}: {text!r:.80} is no address with a prefix length")


def _gateway(text: str, what: str) -> str:
    with suppress(ValueError):
        if "%" not in text:
            return text and _canonical_ip(text)
    raise ValueError(f"{what}: {text!r:.80} is no address")


# each plugin of a chain is told of the same addresses
@lru_cache(1024)
def _canonical_cidr(text: str) -> str:
    return str(ip_interface(text))


@lru_cache(1024)
def _canonical_ip(text: str) -> str:
    return str(ip_address(text))


def _family(cidr: str) -> int:
    return 6 if ":" in cidr else 4


def _said(value: NamedTuple) -> Json:
    return {key: v for key, v in zip(value._fields, value, strict=True) if v}


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
