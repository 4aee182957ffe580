"""An external allocator: any CNI IPAM plugin, executed for each lease and each release.

Every such plugin serves: host-local, dhcp, whereabouts, netkit-host-local, fifteen lines of Python.
docs/ipam.md tells the protocol. Some need the owner's interface to be there already (dhcp).

Shapes   a plugin is a plain file name, looked for in a list of directories, the first one wins; an
         owner's key is "containerID/ifname", as with host-local ("c1" is "c1/eth0")
Units    seconds, bytes
Errors   PluginRefused where the plugin says no, PluginFailed where it is of no use, both with CNI's
         code; InvalidPool for a name or an owner that is none (ipam.errors)
Source   CNI SPEC.md 1.1.0 (delegated plugins) and the results of 0.1.0 to 1.1.0
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ipam.errors import InvalidPool, IpamError, PluginFailed, PluginRefused
from ipam.execution import DIRECTORIES, IFNAME, NAME, NO_USE, NOT_STARTED, execute, plain
from ipam.pool import Address, Interface, Network, parse_address

if TYPE_CHECKING:
    from ipam.leases import Owner

VERSION = "1.0.0"  # known to all plugins in the field; 1.1.0 is not

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KINDS = {dict: "an object", list: "a list", str: "text", int: "a number"}

T = TypeVar("T")


class Route(NamedTuple):
    dst: Network
    gateway: Address | None = None  # None: the gateway of its family's address
    mtu: int | None = None
    priority: int | None = None  # the kernel's metric


class Dns(NamedTuple):
    nameservers: tuple[Address, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Grant(NamedTuple):
    """What a plugin gave: addresses of either family, and what it takes to use them."""

    interfaces: tuple[Interface, ...]
    gateways: tuple[Address | None, ...]  # of each of them, in their order
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()


class ExternalAllocator:
    """Leases by executing *plugin*.

    network      the name the plugin files leases under
    ipam         the plugin's own configuration, handed on as it is
    directories  where it is looked for; absolute
    args         CNI_ARGS: "KEY=value;KEY=value"
    version      the cniVersion it is spoken to in; it may answer in any
    timeout_s    for each execution; then it is killed, and what it started with it
    holding      descriptors it inherits: a lock that is to be held until it ends, whoever dies
    max_bytes    of an answer; what is longer is no answer
    """

    def __init__(
        self,
        plugin: str,
        *,
        network: str,
        ipam: Mapping[str, Any] | None = None,
        directories: Sequence[str | os.PathLike[str]] = DIRECTORIES,
        args: str = "",
        version: str = VERSION,
        timeout_s: float = 30.0,
        max_bytes: int = 1 << 16,
        holding: Sequence[int] = (),
    ) -> None:
        self.plugin = _name(plugin, "a plugin")
        self.network = _name(network, "a network")
        self.directories = tuple(os.fspath(directory) for directory in directories)
        for directory in self.directories:
            if not os.path.isabs(directory) or ":" in directory or not directory.isprintable():
                raise InvalidPool(
                    f"{directory!r} is no directory for plugins", "write an absolute path without :"
                )
        self._conf = {
            "cniVersion": version,
            "name": network,
            "type": plugin,
            "ipam": {**(ipam or {}), "type": plugin},
        }
        self._args = args
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._holding = tuple(holding)

    def lease(
        self, owner: Owner, wanted: Sequence[str | Address | Interface] = ()
    ) -> tuple[Interface, ...]:
        """New addresses for *owner*, *wanted* among them: IPv4, IPv6, or both, as is configured."""
        return self.grant(owner, wanted).interfaces

    def grant(self, owner: Owner, wanted: Sequence[str | Address | Interface] = ()) -> Grant:
        """The same, with gateways, routes and name servers.

        An owner that holds something releases it first. A refusal is believed: there is nothing new
        to release, and maybe something old to keep. After any other failure all is released that
        the plugin may have leased.
        """
        texts = [str(each) for each in wanted]
        asked = {parse_address(text.partition("/")[0]) for text in texts}
        conf = {"args": {"cni": {"ips": texts}}, "runtimeConfig": {"ips": texts}} if texts else {}
        try:
            with self._telling("ADD", owner):
                grant = _read_grant(self._execute("ADD", owner, conf))
                given = [interface.ip for interface in grant.interfaces]
                for missing in sorted(asked - {*given}, key=str):
                    said = ", ".join(map(str, given))
                    raise PluginFailed(f"it was asked for {missing} and gave {said}", code=NO_USE)
        except (PluginRefused, InvalidPool):
            raise
        except BaseException as error:
            self._undo(owner, error)
            raise
        return grant

    def release(self, owner: Owner) -> None:
        """Give back all that *owner* holds; nothing held is no error."""
        with self._telling("DEL", owner):
            self._execute("DEL", owner)

    def check(self, owner: Owner, grant: Grant | None = None) -> None:
        """PluginRefused unless *owner* holds what it was given; some plugins compare *grant*."""
        conf = {}
        if grant is not None:
            ips = [
                {"address": str(interface), **({"gateway": str(gateway)} if gateway else {})}
                for interface, gateway in zip(grant.interfaces, grant.gateways, strict=True)
            ]
            conf = {"prevResult": {"cniVersion": self._conf["cniVersion"], "ips": ips}}
        with self._telling("CHECK", owner):
            self._execute("CHECK", owner, conf)

    def _undo(self, owner: Owner, error: BaseException) -> None:
        if isinstance(error, PluginFailed) and error.code == NOT_STARTED:
            return
        try:
            self.release(owner)
        except (IpamError, OSError) as second:
            error.add_note(f"what it may have leased is not released: {second}")

    def _execute(self, verb: str, owner: Owner, conf: Mapping[str, Any] | None = None) -> bytes:
        """Run the plugin once; what it prints."""
        environ = self._environ(verb, owner)
        stdin = json.dumps({**self._conf, **(conf or {})}).encode()
        answer, _ = execute(
            self.plugin,
            environ,
            stdin,
            timeout_s=self._timeout_s,
            max_bytes=self._max_bytes,
            holding=self._holding,
        )
        return answer

    def _environ(self, verb: str, owner: Owner) -> dict[str, str]:
        container, _, ifname = owner.key.partition("/")
        ifname = ifname or "eth0"
        if not IFNAME.fullmatch(ifname):
            raise InvalidPool(f"{ifname[:40]!r} is no name for an interface")
        if verb != "DEL" and not owner.netns:
            raise InvalidPool(
                f"{self.plugin} needs the network namespace of {owner.key}, which has none yet",
                "an external allocator makes no reservations: lease when the owner runs",
            )
        return {
            "PATH": _PATH,
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": _name(container, "a container"),
            "CNI_NETNS": owner.netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": self._args,
            "CNI_PATH": ":".join(self.directories),
        }

    @contextmanager
    def _telling(self, verb: str, owner: Owner) -> Iterator[None]:
        """A failure becomes an error that says of whom, for whom, and in which network."""
        try:
            yield
        except PluginFailed as failed:
            what = f"{self.plugin} {verb} for {owner.key} in {self.network!r}: {failed.message}"
            raise type(failed)(what, failed.hint, code=failed.code) from None


def _name(name: str, whose: str) -> str:
    if not NAME.fullmatch(name):
        raise InvalidPool(
            f"{name[:40]!r} is no name for {whose}",
            "letters, digits, _ . and - only, 128 at most, and a letter or digit first",
        )
    return name


# -- answers --------------------------------------------------------------------------------------


def _read_grant(answer: bytes) -> Grant:
    try:
        return _grant(_typed(json.loads(answer), dict, "the answer"))
    except (ValueError, RecursionError) as error:
        raise PluginFailed(f"its answer cannot be used: {plain(str(error))}", code=NO_USE) from None


def _grant(result: Mapping[str, Any]) -> Grant:
    """The grant in a result; ValueError says what is wrong with it."""
    families = [_typed(result.get(key), dict, key) for key in ("ip4", "ip6")]  # CNI 0.1, 0.2
    ips = _list(result, "ips") + [
        {"address": each.get("ip"), "gateway": each.get("gateway")} for each in families if each
    ]
    routes = _list(result, "routes") + [r for each in families for r in _list(each, "routes")]
    if not ips:
        raise ValueError("it gives no address")
    pairs = [_address(_typed(each, dict, "an entry of ips")) for each in ips]
    return Grant(
        tuple(interface for interface, _ in pairs),
        tuple(gateway for _, gateway in pairs),
        tuple(_route(_typed(each, dict, "a route")) for each in routes),
        _dns(_typed(result.get("dns"), dict, "dns")),
    )


def _address(entry: Mapping[str, Any]) -> tuple[Interface, Address | None]:
    text = _typed(entry.get("address"), str, "address")
    interface = ip_interface(text)
    if not re.fullmatch(r"[^/%]+/[0-9]+", text, re.ASCII):
        raise ValueError(f"{text!r} has no prefix length, or is of one link only")
    ip = interface.ip
    if ip.is_multicast or ip.is_loopback or ip.is_unspecified:
        raise ValueError(f"{text} is no address for an endpoint")
    return interface, _gateway(entry.get("gateway"), interface.version)


def _gateway(value: object, version: int) -> Address | None:
    text = _typed(value, str, "a gateway")
    if not text:
        return None
    gateway = ip_address(text)
    if gateway.version != version:
        raise ValueError(f"the gateway {text} is not of IPv{version}")
    return gateway


def _route(route: Mapping[str, Any]) -> Route:
    dst = ip_network(_typed(route.get("dst"), str, "dst"), strict=False)
    mtu, priority = (_typed(route.get(key), int, key) for key in ("mtu", "priority"))
    if mtu < 0 or priority < 0:
        raise ValueError(f"the route to {dst} has a negative number")
    return Route(dst, _gateway(route.get("gw"), dst.version), mtu or None, priority or None)


def _dns(dns: Mapping[str, Any]) -> Dns:
    servers, search, options = (
        tuple(_word(each, key) for each in _list(dns, key))
        for key in ("nameservers", "search", "options")
    )
    domain = dns.get("domain")
    return Dns(
        tuple(map(ip_address, servers)),
        _word(domain, "domain") if domain else "",
        search,
        options,
    )


def _word(value: object, what: str) -> str:
    # it will stand in a resolv.conf, where a line break would begin an entry of its own
    word = _typed(value, str, what)
    if not re.fullmatch(r"[!-~]+", word, re.ASCII):
        raise ValueError(f"{what} has {word!r}, which is no word")
    return word


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    return _typed(values.get(key), list, key)


def _typed(value: object, kind: type[T], what: str) -> T:
    """*value*, which must be of *kind*; an empty one where there is none (Go writes null)."""
    if value is None:
        return kind()
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} is {value!r}, not {_KINDS[kind]}")
    return value
