"""The configuration: what an administrator sets once, under the names of Docker's daemon.json.

    config, origins = load()          # /etc/netkit/netkit.toml, or the file NETKIT_CONFIG names

Shapes   a key is Docker's name (`fixed-cidr`), a field of Config the same with `_`; values are
         `ipaddress` values, bools, ints, strings and tuples of these. None: netkit chooses
Units    bytes for the MTU
Errors   InvalidSpec, `FILE: key: reason`; the first mistake is raised, the others are its notes
Source   dockerd(8) for names, meanings and what excludes what; TOML 1.0. Stricter than dockerd:
         nothing is ignored. Where the file is missing the cost is one system call

Command line beats environment beats file beats default; a key is taken from one of them whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any, NamedTuple, NoReturn

import msgspec

from netkit import naming
from netkit.addresses import WILDCARDS, Address, Network
from netkit.dns import resolvconf
from netkit.errors import InvalidSpec, printable
from netkit.specs import MTU_RANGE

PATH = "/etc/netkit/netkit.toml"
VARIABLE = "NETKIT_CONFIG"
DAEMON = "NETKIT_DAEMON"  # "no": nobody starts netkitd
COMMAND_LINE = "command line"
ENVIRONMENT = {"state-dir": "NETKIT_STATE_DIR", "run-dir": "NETKIT_RUN_DIR"}
FIREWALLS = ("nftables", "iptables", "none")
NO_BRIDGE = "none"  # of the key `bridge`: there is to be no default network
MAX_BYTES = 1 << 20
_IPV6_MTU = 1280  # RFC 8200 5: every link of IPv6 carries as much
_NOBODY = 65534  # whoever has no number in this user namespace
_POOL = {"base", "size"}

Value = Any  # of a key, as TOML, JSON or the command line have it
Layer = tuple[str, Mapping[str, Value]]  # where it comes from, and what is set there
Source = str | os.PathLike[str] | Mapping[str, Value]  # a file, or the keys themselves


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """Every key. Made by `load` and `parse`, which refuse nonsense."""

    # the default network, "bridge"
    bridge: str | None = None
    bip: IPv4Interface | None = None
    bip6: IPv6Interface | None = None
    fixed_cidr: IPv4Network | None = None
    fixed_cidr_v6: IPv6Network | None = None
    default_gateway: IPv4Address | None = None
    default_gateway_v6: IPv6Address | None = None
    ipv6: bool = False
    icc: bool = True
    mtu: int | None = None
    ip_masq: bool = True
    # all networks
    ip: Address | None = None
    default_address_pools: tuple[tuple[Network, int], ...] = ()
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    iptables: bool = True
    firewall: str | None = None
    userland_proxy: bool = False
    # all containers
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    # netkit itself
    daemon: bool = True
    names: bool = True
    ipam_plugin_dirs: tuple[str, ...] = ()
    state_dir: str | None = None
    run_dir: str | None = None

    @property
    def back_end(self) -> str | None:
        """The firewall asked for; None: nobody asks for one."""
        return self.firewall if self.iptables else "none"

    @property
    def name_service(self) -> bool:
        """Whether new networks have names: where netkitd, which serves them, may be started."""
        return self.names and self.daemon and os.environ.get(DAEMON) != "no"

    @property
    def binding(self) -> Address | None:
        """Where ports are published that name no address; None, as Docker's 0.0.0.0: everywhere."""
        return None if self.ip == WILDCARDS[4] else self.ip


class Settings(NamedTuple):
    config: Config
    origins: Mapping[str, str]  # of each key that is set: a file, a variable or the command line


_VAR, _USERS = "/var/lib", "/proc/self/uid_map"

# What holds where a key is not set, in words; for the other keys Config has the value
UNSET = {
    "bridge": "netkit0",
    "bip": "of the first free pool",
    "bip6": "of a random ULA subnet",
    "fixed-cidr": "the whole subnet",
    "fixed-cidr-v6": "the whole subnet",
    "default-gateway": "the bridge",
    "default-gateway-v6": "the bridge",
    "mtu": "of the default route",
    "ip": "all addresses",
    "default-address-pools": "Docker's",
    "firewall": "nftables",
    "dns": "the host's",
    "dns-opts": "the host's",
    "dns-search": "the host's",
    "ipam-plugin-dirs": "/opt/cni/bin, /usr/lib/cni, /usr/libexec/cni",
    "state-dir": "/var/lib/netkit",
    "run-dir": "/run/netkit",
}


def directories(config: Config) -> tuple[str, str]:
    """Where records and runtime files are kept.

    Who is root in a user namespace only, as CNI plugins of podman without root are, may not write
    to /var/lib; and what is made there is gone with the user's session, as is what lies in that
    user's runtime directory: so, if nothing is configured, both are below it.
    """
    state, run = UNSET["state-dir"], UNSET["run-dir"]
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if not (config.state_dir or config.run_dir) and own.startswith("/") and _is_elsewhere(state):
        return f"{own}/netkit", f"{own}/netkit/run"
    return config.state_dir or state, config.run_dir or run


def _is_elsewhere(state: str) -> bool:
    if os.geteuid() != 0 or any(os.access(path, os.W_OK | os.X_OK) for path in (state, _VAR)):
        return False
    return not _is_everybodys()


def load(source: Source | None = None, given: Mapping[str, Value] | None = None) -> Settings:
    """What holds now. *source* as by --config, *given* the keys set on the command line."""
    return parse(layers(source, given))


def layers(source: Source | None = None, given: Mapping[str, Value] | None = None) -> list[Layer]:
    """The places keys can be set in, the last of which wins."""
    if isinstance(source, Mapping):
        where, found = "config", source
    elif named := source or os.environ.get(VARIABLE):
        where, found = os.fspath(named), read(os.fspath(named))
    else:
        where, found = PATH, read(PATH, missing_is_empty=True)
    result: list[Layer] = [(where, found)] if found else []
    for key, variable in ENVIRONMENT.items():
        if value := os.environ.get(variable):
            result.append((variable, {key: value}))
    return [*result, (COMMAND_LINE, given)] if given else result


def parse(layers: Iterable[Layer]) -> Settings:
    """The configuration *layers* make; InvalidSpec with all their mistakes if there are any."""
    settings, mistakes = examine(layers)
    if mistakes:
        for other in mistakes[1:]:
            mistakes[0].add_note(str(other))
        raise mistakes[0]
    return settings


def examine(layers: Iterable[Layer]) -> tuple[Settings, list[InvalidSpec]]:
    """What is right in *layers*, and every mistake."""
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    mistakes: list[InvalidSpec] = []
    spoilt: set[str] = set()
    for origin, keys in layers:
        for key, value in keys.items():
            try:
                values[_field(key)] = _PARSERS.get(key, _unknown(key))(value)
                origins[key] = origin
            except InvalidSpec as error:
                name = key if key in _PARSERS else toml(key)
                mistakes.append(InvalidSpec(f"{origin}: {name}: {error}", hint=error.hint))
                spoilt.add(key)
    config = Config(**values)
    for about, reason, hint in _contradictions(config):
        if spoilt.isdisjoint(about):  # else all one can say is that it is wrong
            where = dict.fromkeys(origins[key] for key in about if key in origins)
            mistakes.append(InvalidSpec(f"{', '.join(where)}: {about[0]}: {reason}", hint=hint))
    return Settings(config, origins), mistakes


def _field(key: str) -> str:
    return key.replace("-", "_")


KEYS = tuple(field.replace("_", "-") for field in Config.__struct_fields__)


# -- the file


def read(path: str, *, missing_is_empty: bool = False) -> dict[str, Value]:
    """The keys of the TOML file at *path*, values unexamined."""
    text = _text(path, missing_is_empty)
    if not text:
        return {}
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InvalidSpec(f"{path}: not TOML: nested too deep") from None
    except ValueError as error:  # a number of 5000 digits is no TOMLDecodeError
        raise InvalidSpec(
            f"{path}: not TOML: {error}",
            hint='a key is set by a line such as: bip = "10.88.0.1/16"',
        ) from None


def read_json(path: str) -> dict[str, Value]:
    """The keys of Docker's daemon.json at *path*, values unexamined."""
    import json

    def once(pairs: Sequence[tuple[str, Value]]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"key {key!r:.80} is there twice")
            found[key] = value
        return found

    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON's")

    try:
        found = json.loads(_text(path), object_pairs_hook=once, parse_constant=constant)
    except RecursionError:
        raise InvalidSpec(f"{path}: not JSON: nested too deep") from None
    except ValueError as error:
        raise InvalidSpec(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise InvalidSpec(f"{path}: not a daemon.json: {_kind(found)}, not an object")
    return found


def _text(path: str, missing_is_empty: bool = False) -> str:
    """What is written at *path*; from /dev/null nothing."""
    if path == os.devnull:
        return ""
    try:
        # a FIFO would be waited for
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        if missing_is_empty:
            return ""
        raise InvalidSpec(
            f"{path}: there is no such file",
            hint=f"--config or {VARIABLE} names it; without them it is {PATH}, if there is one",
        ) from None
    except (OSError, ValueError) as error:
        raise InvalidSpec(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidSpec(f"{path}: not a regular file")
        if os.geteuid() == 0:
            _refuse_what_others_write(path, found)
        with open(fd, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidSpec(f"{path}: {error.strerror}") from None
    finally:
        os.close(fd)
    if len(content) > MAX_BYTES:
        raise InvalidSpec(
            f"{path}: too large: more than {MAX_BYTES} bytes", hint="is it the right file?"
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidSpec(
            f"{path}: not UTF-8: byte {content[error.start]:#04x} (at line {line})"
        ) from None


def _refuse_what_others_write(path: str, found: os.stat_result) -> None:
    """Whoever writes root's configuration chooses where root writes, and what the firewall does."""
    for place in dict.fromkeys((path, os.path.realpath(path))):
        directory = os.path.dirname(os.path.abspath(place))
        around = os.stat(directory)
        for what, status, harmless in (
            (path, found, False),
            # in /tmp and the like nobody can replace what is somebody else's
            (directory, around, bool(around.st_mode & stat.S_ISVTX)),
        ):
            if _is_foreign(status.st_uid) or (status.st_mode & 0o022 and not harmless):
                raise InvalidSpec(
                    f"{path}: others may write to {'it' if what == path else directory} "
                    f"(mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid})",
                    hint=f"chown {os.geteuid()} {what} && chmod go-w {what}",
                )


def _is_foreign(uid: int) -> bool:
    if uid in (0, os.geteuid()):
        return False
    # in a user namespace the machine's root, like all others, is nobody
    return _is_everybodys() or uid != _NOBODY


def _is_everybodys() -> bool:
    """Whether this user namespace has all users in it, as the machine's first has."""
    with open(_USERS) as file:
        return file.read().split() == ["0", "0", "4294967295"]


# -- values


def _flag(value: Value) -> bool:
    if isinstance(value, bool):
        return value
    raise _mistyped(value, "true or false", "write true or false, without quotes")


def _whole(value: Value) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise _mistyped(value, "a whole number", "write it in digits, without quotes: 1450")


def _mtu(value: Value) -> int:
    mtu = _whole(value)
    if mtu not in MTU_RANGE:
        raise InvalidSpec(
            f"{toml(mtu):.80} is not between {MTU_RANGE[0]} and {MTU_RANGE[-1]}",
            hint="leave it out, and it is that of the host's default route",
        )
    return mtu


def _string(value: Value) -> str:
    if not isinstance(value, str):
        raise _mistyped(value, "a string", "write it in quotes")
    if not value:
        raise InvalidSpec("empty", hint="leave the key out for its default")
    return value


def _bridge(value: Value) -> str:
    return naming.validate_ifname(_string(value))


def _ip(kind: type[Any], wanted: str, example: str) -> Callable[[Value], Any]:
    """A parser of addresses, networks or interfaces (an address and its network's length)."""

    def parse(value: Value) -> Any:
        text = _string(value)
        found = None
        # ipaddress takes an address alone for a network of one, and anything for a zone
        if "%" not in text and ("/" in text or kind in (IPv4Address, IPv6Address)):
            with suppress(ValueError):
                found = kind(text)
        if found is None:
            hint = (
                f"did you mean {meant}?" if (meant := _network_of(text)) else f"such as {example}"
            )
            raise InvalidSpec(f"{text!r:.80} is not {wanted}", hint=hint)
        _refuse_useless(found)
        return found

    def _network_of(text: str) -> Network | None:
        """The network that an address in it was given for."""
        if kind in (IPv4Network, IPv6Network) and "/" in text:
            with suppress(ValueError):
                network: Network = kind(text, strict=False)
                return network
        return None

    return parse


def _refuse_useless(value: Any) -> None:
    """Addresses no container or bridge can have, and networks of them."""
    ip = getattr(value, "network_address", None) or getattr(value, "ip", value)
    for kind in ("multicast", "loopback", "unspecified", "link_local"):
        if getattr(ip, f"is_{kind}"):
            raise InvalidSpec(
                f"{value} is {kind.replace('_', '-')}",
                hint="private ones are in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 and fd00::/8",
            )
    net = getattr(value, "network", value)
    if isinstance(net, IPv4Network | IPv6Network):
        longest, shortest = net.max_prefixlen - 2, 8
        if not shortest <= net.prefixlen <= longest:
            raise InvalidSpec(
                f"{value}: no network of containers is a /{net.prefixlen}",
                hint=f"a prefix length is from {shortest} to {longest}",
            )
    if value is not net and ip in _edges(net):
        raise InvalidSpec(
            f"{value} is the network's own address, or that of all in it",
            hint=f"the bridge's is wanted, such as {net[1]}/{net.prefixlen}",
        )


def _edges(net: Network) -> tuple[object, object]:
    """The addresses of a network that no interface has; IPv6 knows no broadcast."""
    return net.network_address, net.broadcast_address if net.version == 4 else None


def _binding(value: Value) -> Address:
    text = _string(value)
    try:
        found = ip_address(text)
    except ValueError:
        raise InvalidSpec(f"{text!r:.80} is not an IP address", hint="such as 127.0.0.1") from None
    if found.is_multicast or str(found) == "255.255.255.255" or getattr(found, "scope_id", None):
        raise InvalidSpec(
            f"no interface can have the address {found}", hint="`ip addr` lists the host's"
        )
    return found


def _many(validate: Callable[[str], str]) -> Callable[[Value], tuple[str, ...]]:
    def parse(value: Value) -> tuple[str, ...]:
        if not isinstance(value, list | tuple):
            raise _mistyped(value, "a list", f"write it in brackets: [{toml(value)}]")
        found = [validate(_string(each)) for each in value]
        _refuse_twice(found)
        return tuple(found)

    return parse


def _refuse_twice(found: Sequence[object]) -> None:
    for at, each in enumerate(found):
        if each in found[:at]:
            raise InvalidSpec(f"{str(each)!r:.80} is there twice", hint="once is enough")


def _pools(value: Value) -> tuple[tuple[Network, int], ...]:
    example = 'write [{base = "10.0.0.0/8", size = 24}]'
    if not isinstance(value, list | tuple):
        raise _mistyped(value, "a list", example)
    pools: list[tuple[Network, int]] = []
    for each in value:
        if not isinstance(each, Mapping) or each.keys() != _POOL:
            raise InvalidSpec("each has a base and a size, and nothing else", hint=example)
        text, size = _string(each["base"]), _whole(each["size"])
        try:
            base = ip_network(text)
        except ValueError:
            raise InvalidSpec(f"base {text!r:.80} is not a network", hint=example) from None
        _refuse_useless(base)
        least, most = base.prefixlen, base.max_prefixlen - 2
        if not least <= size <= most:
            raise InvalidSpec(
                f"subnets of /{toml(size):.20} cannot be cut from {base}",
                hint=f"size is a prefix length, from {least} to {most}",
            )
        for other, _ in pools:
            if other.overlaps(base):
                raise InvalidSpec(
                    f"{base} overlaps {other}", hint="keep one of the two, or parts of them"
                )
        pools.append((base, size))
    return tuple(pools)


def _firewall(value: Value) -> str:
    text = _string(value)
    if text not in FIREWALLS:
        raise InvalidSpec(f"no firewall {text!r:.80}", hint=f"one of {', '.join(FIREWALLS)}")
    return text


def _directory(value: Value) -> str:
    path = _string(value)
    if not path.startswith("/") or not path.isprintable():
        raise InvalidSpec(f"{path!r:.80} is not an absolute path", hint="such as /var/lib/netkit")
    return path


def _program_directory(text: str) -> str:
    path = _directory(text)
    if ":" in path:  # they are handed on as a list with colons between
        raise InvalidSpec(f"{path!r:.80} has a colon", hint="such as /opt/cni/bin")
    return path


_PARSERS: dict[str, Callable[[Value], Any]] = {
    "bridge": _bridge,
    "bip": _ip(IPv4Interface, "an IPv4 address with a prefix length", "10.88.0.1/16"),
    "bip6": _ip(IPv6Interface, "an IPv6 address with a prefix length", "fd00:88::1/64"),
    "fixed-cidr": _ip(IPv4Network, "an IPv4 network", "10.88.1.0/24"),
    "fixed-cidr-v6": _ip(IPv6Network, "an IPv6 network", "fd00:88::/64"),
    "default-gateway": _ip(IPv4Address, "an IPv4 address", "10.88.0.254"),
    "default-gateway-v6": _ip(IPv6Address, "an IPv6 address", "fd00:88::254"),
    "ipv6": _flag,
    "icc": _flag,
    "mtu": _mtu,
    "ip-masq": _flag,
    "ip": _binding,
    "default-address-pools": _pools,
    "ip-forward": _flag,
    "ip-forward-no-drop": _flag,
    "iptables": _flag,
    "firewall": _firewall,
    "userland-proxy": _flag,
    "dns": _many(resolvconf.validate_nameserver),
    "dns-opts": _many(resolvconf.validate_option),
    "dns-search": _many(resolvconf.validate_search),
    "daemon": _flag,
    "names": _flag,
    "ipam-plugin-dirs": _many(_program_directory),
    "state-dir": _directory,
    "run-dir": _directory,
}


def _unknown(key: str) -> Callable[[Value], NoReturn]:
    def refuse(value: Value) -> NoReturn:
        from difflib import get_close_matches

        alike = get_close_matches(key.lower().replace("_", "-"), KEYS, 1)
        hint = "`netkit config show` lists all keys"
        if alike or isinstance(value, dict):
            hint = (
                f"did you mean {alike[0]}?"
                if alike
                else "keys stand by themselves, not in [tables]"
            )
        raise InvalidSpec("no such key", hint=FOREIGN.get(key, hint))

    return refuse


def _mistyped(value: Value, wanted: str, hint: str) -> InvalidSpec:
    what = "it" if isinstance(value, list | tuple | dict | None) else f"{toml(value):.80}"
    return InvalidSpec(f"{what} is {_kind(value)}, not {wanted}", hint=hint)


def _kind(value: Value) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list() | tuple():
            return "a list"
        case dict():
            return "a table"
        case None:
            return "null"
    return "a date or time"


# -- what excludes what

Contradiction = tuple[tuple[str, ...], str, str]  # keys, that to be named first; reason; hint


def _contradictions(config: Config) -> Iterator[Contradiction]:
    yield from _of_the_bridge(config)
    for suffix, bip_key in (("", "bip"), ("-v6", "bip6")):
        yield from _of_a_family(config, suffix, bip_key)
    for key in ("bip6", "fixed-cidr-v6", "default-gateway-v6"):
        if getattr(config, _field(key)) is not None and not config.ipv6:
            yield (key, "ipv6"), "without IPv6 it means nothing", "add: ipv6 = true"
    if config.ipv6 and config.mtu is not None and config.mtu < _IPV6_MTU:
        yield (
            ("mtu", "ipv6"),
            f"{config.mtu} is less than the {_IPV6_MTU} that IPv6 needs",
            f"set it to {_IPV6_MTU} or more, or drop: ipv6 = true",
        )
    if not config.iptables and config.firewall not in (None, "none"):
        yield (
            ("iptables", "firewall"),
            f"false, which asks for no rules, and firewall = {toml(config.firewall)} for some",
            'leave out iptables, or set: firewall = "none"',
        )
    if not config.icc and config.back_end == "none":
        yield (
            ("icc", "iptables", "firewall"),
            "false needs a firewall, and none is asked for",
            "without rules containers cannot be kept apart: leave out one of the two",
        )


def _of_the_bridge(config: Config) -> Iterator[Contradiction]:
    if config.bridge is None:
        return
    for key in ("bip", "bip6"):
        if getattr(config, key) is not None:
            yield (
                (key, "bridge"),
                f"an address cannot be given to bridge = {toml(config.bridge)}, "
                "which is there already",
                "leave out bip, or bridge; of an existing bridge the address is taken over",
            )


def _of_a_family(config: Config, suffix: str, bip_key: str) -> Iterator[Contradiction]:
    fixed_key, gateway_key = f"fixed-cidr{suffix}", f"default-gateway{suffix}"
    bip, fixed, gateway = (getattr(config, _field(k)) for k in (bip_key, fixed_key, gateway_key))
    if bip and fixed and not fixed.subnet_of(bip.network):
        yield (
            (fixed_key, bip_key),
            f"{fixed} is not within {bip.network}, the network of {bip_key}",
            f"choose a part of {bip.network}",
        )
    if gateway is None or config.bridge is not None:
        return
    keys = (gateway_key, bip_key, fixed_key)
    subnet, whose = (bip.network, bip_key) if bip else (fixed, fixed_key)
    if subnet is None:
        yield (
            keys,
            f"{gateway} is in no subnet, for none is set",
            f"set {bip_key} or {fixed_key}, too",
        )
    elif gateway not in subnet or gateway in _edges(subnet):
        yield (
            keys,
            f"{gateway} is no address for an interface in {subnet}, the network of {whose}",
            f"choose another, such as {subnet[-2]}",
        )


# -- as text


def plain(value: Any) -> Any:
    """A field of Config as JSON and TOML can have it."""
    match value:
        case None | bool() | int() | str():
            return value
        case [[_, int()], *_]:
            return [{"base": str(base), "size": size} for base, size in value]
        case tuple():
            return [plain(each) for each in value]
    return str(value)


def toml(value: Value) -> str:
    """A value as TOML writes it; of others, dates say, what they look like."""
    match value:
        case str():
            import json

            # JSON's strings are TOML's, but for DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case int() if value.bit_length() > 8192:
            return hex(value)  # of more than 4300 digits Python makes no decimal number
        case dict():
            pairs = ", ".join(f"{key} = {toml(each)}" for key, each in value.items())
            return f"{{{pairs}}}"
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
    return str(value)


# -- Docker's own file

# Keys of daemon.json that are about networks, and what netkit has instead
FOREIGN = {
    "allow-direct-routing": "netkit has none: what is not published cannot be reached",
    "bridge-accept-fwmark": "netkit has none: accept such packets in your own rules",
    "data-root": "in netkit it is state-dir",
    "default-network-opts": "netkit has none: give options to `netkit network create -o`",
    "exec-root": "in netkit it is run-dir",
    "firewall-backend": "in netkit it is firewall",
    "host-gateway-ip": "netkit has none: host-gateway is the gateway of the network",
    "host-gateway-ips": "netkit has none: host-gateway is the gateway of the network",
    "ip6tables": "rules for IPv4 and IPv6 go together: iptables = false is for both",
    "userland-proxy-path": "netkit has a proxy of its own",
}
_NOTHING: tuple[Value, ...] = ("", 0, None, [], {})  # dockerd's spelling of its default


def import_docker(path: str) -> tuple[str, list[InvalidSpec]]:
    """The daemon.json at *path* as netkit's TOML, with a comment for all that is left out."""
    kept: dict[str, Value] = {}
    left: list[str] = []
    for key, value in read_json(path).items():
        name = "firewall" if key == "firewall-backend" else key
        if not isinstance(value, bool) and value in _NOTHING:
            left.append(printable(f"# {toml(key)}: empty"))
        elif name in _PARSERS:
            kept[name] = value
        else:
            why = FOREIGN.get(key, "not about networks")
            left.append(printable(f"# {toml(key)}: {why}"))
    _, mistakes = examine([(path, kept)])
    lines = [f"{key} = {toml(value)}" for key, value in kept.items()]
    return "".join(f"{line}\n" for line in [printable(f"# from {path}"), *lines, *left]), mistakes
