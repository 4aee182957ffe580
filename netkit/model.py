"""The values netkit works with: what is asked for, and what is on record. They refuse nonsense.

Shapes   requests (`NetworkSpec`, `Request`, `NameFiles`, `PortSpec`) come from the faces; records
         (`HostRecord`, `NetworkRecord`, `SandboxRecord`, `EndpointRecord`) are what the store keeps
Units    `created` in seconds since 1970 (shown, never compared); ports 1-65535
Errors   InvalidSpec, before any effect
Source   docker run(1) for `-p`; Docker's bridge driver options for `-o`

A record's `maker` is the process in the midst of making or deleting it. While it is set the record
is an intent: once that process is dead, whoever comes next deletes what the record's steps say.
`epoch` is the boot and the host namespace the steps were added in: elsewhere they are known to be
gone. `steps` is their stable text (see netkit.steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from netkit import addresses, naming, sysctls
from netkit.addresses import Address, Interface, Network
from netkit.dns import hosts, resolvconf
from netkit.errors import InvalidSpec
from netkit.routes import RouteSpec, RuleSpec

NO_STEPS = "[]"
MTU_RANGE = range(68, 65536)  # RFC 791: every IPv4 link carries 68 octets; a veth's most is 65535
PROTOCOLS = ("tcp", "udp", "sctp")
BUILT_IN = ("host", "none")
IPAM_DRIVERS = ("default", "static", "none")  # any other is an IPAM plugin's name
IPAM_SWITCHES = ("round-robin", "sticky")  # `--ipam-opt` of the first
DEFAULT_NETWORK = "bridge"
DEFAULT_BRIDGE = "netkit0"

T = TypeVar("T")


# -- ports


class PortSpec(msgspec.Struct, frozen=True):
    """One `-p`: where on the host, and which ports of the container. Port 0: any free one.

    `address` None: all of the host's, of either version; 0.0.0.0 or [::]: all of that one.
    `device`: what comes in by that interface of the host only. `network`: of several networks the
    one to publish on.
    """

    address: Address | None
    first: int
    last: int
    port: int
    protocol: str = "tcp"
    count: int = 1
    device: str | None = None
    network: str | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[PortSpec, ...]:
        """Docker's `[[ip:][hostPort]:]containerPort[/protocol]`, each port perhaps a range.

        An interface of the host may stand where the address does, and `@network` at the end.
        """

        def refuse(why: str) -> InvalidSpec:
            return InvalidSpec(
                f"invalid published port {text!r:.80}: {why}",
                hint="write [[ip:][hostPort]:]containerPort[/protocol], "
                "as in 8080:80, 127.0.0.1::53/udp, [::1]:8080:80 or 8000-8009:8000-8009",
            )

        main, at, network = text.partition("@")
        if at:
            naming.validate_name("network", network)
        main, slash, protocol = main.partition("/")
        protocol = protocol.lower() if slash else "tcp"
        if protocol not in PROTOCOLS:
            raise refuse(f"protocol {protocol!r:.20} is not one of {', '.join(PROTOCOLS)}")
        where, host, container = _split_port(main, refuse)
        address, device = _host_part(where, refuse)

        def spec(low: int, high: int, port: int, count: int = 1) -> PortSpec:
            return cls(address, low, high, port, protocol, count, device, network or None)

        first, last = _port_range(container, refuse)
        if not host:
            low = high = 0
        else:
            low, high = _port_range(host, refuse)
        inside, outside = last - first + 1, high - low + 1
        if low == 0:
            return tuple(spec(0, 0, port) for port in range(first, last + 1))
        if inside == 1:
            return (spec(low, high, first),)
        if inside != outside:
            raise refuse(
                f"{outside} host ports for {inside} container ports "
                f"({low}-{high} and {first}-{last})"
            )
        return (spec(low, low, first, inside),)

    @classmethod
    def exposed(cls, text: str) -> tuple[PortSpec, ...]:
        """`--expose 80/tcp` or a range of ports: each of them, at any free port of the host."""
        if ":" in text:
            raise InvalidSpec(
                f"invalid port {text!r:.80}", hint="write PORT, PORT-PORT or PORT/udp"
            )
        return cls.parse(text)


def _split_port(text: str, refuse: Callable[[str], InvalidSpec]) -> tuple[str, str, str]:
    """(host address or interface, host port, container port); what is absent is empty."""
    where, bracket, rest = "", "", text
    if text.startswith("["):
        where, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise refuse("an IPv6 address ends with ']:'")
        rest = rest[1:]
    *host, container = rest.split(":")
    if bracket and len(host) == 1:
        host = [where, *host]
    if len(host) > 2 or (bracket and len(host) != 2):
        raise refuse("IPv6 addresses stand in brackets" if len(host) > 2 else "a port is missing")
    if not host:
        return "", "", container
    return ("", host[0], container) if len(host) == 1 else (host[0], host[1], container)


def _host_part(
    text: str, refuse: Callable[[str], InvalidSpec]
) -> tuple[Address | None, str | None]:
    """The address of the host, or the interface."""
    if not text:
        return None, None
    if text[0].isalpha() and ":" not in text:
        return None, naming.validate_ifname(text)
    try:
        address = addresses.address("host address", text)
    except InvalidSpec:
        raise refuse(f"{text!r:.40} is neither an IP address nor an interface") from None
    if _is_nobodys(address):
        raise refuse(f"no interface can have the address {address}")
    return address, None


def _port_range(text: str, refuse: Any) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    ends = (low, high) if dash else (low, low)
    for end in ends:
        if not (end.isascii() and end.isdigit() and len(end) <= 5 and 1 <= int(end) <= 65535):
            raise refuse(f"{end!r:.20} is not a port (1-65535)")
    first, last = int(ends[0]), int(ends[1])
    if last < first:
        raise refuse(f"the range {text} runs backwards")
    return first, last


class PortMapping(msgspec.Struct, frozen=True):
    """One publication as it is: `count` ports from `host_port` on, to those from `port` on.

    `host_address` 0.0.0.0 or ::, all addresses of that version. `by` is what leads there: address
    translation ("nat"), a process that listens and connects ("proxy"), or "both": translation, and
    at [::1], which the kernel does not translate, the process.
    """

    host_address: Address
    host_port: int
    port: int
    protocol: str
    count: int = 1
    device: str | None = None
    by: str = "nat"

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each (container port, host port)."""
        return ((self.port + i, self.host_port + i) for i in range(self.count))

    def __str__(self) -> str:
        """As `docker ps` shows it: 0.0.0.0:8080->80/tcp."""

        def span(first: int) -> str:
            return str(first) if self.count == 1 else f"{first}-{first + self.count - 1}"

        where = self.device or addresses.bracketed(self.host_address)
        return f"{where}:{span(self.host_port)}->{span(self.port)}/{self.protocol}"


# -- networks

GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
PUBLISH_MODES = ("nat", "proxy")
_BRIDGE = "com.docker.network.bridge."
# Docker's name for an option: netkit's
_OPTION_ALIASES = {
    f"{_BRIDGE}name": "name",
    f"{_BRIDGE}enable_ip_masquerade": "masquerade",
    f"{_BRIDGE}enable_icc": "icc",
    f"{_BRIDGE}host_binding_ipv4": "host_binding",
    f"{_BRIDGE}gateway_mode_ipv4": "gateway_mode_ipv4",
    f"{_BRIDGE}gateway_mode_ipv6": "gateway_mode_ipv6",
    "com.docker.network.host_ipv4": "host_ipv4",
    "com.docker.network.host_ipv6": "host_ipv6",
    "com.docker.network.driver.mtu": "mtu",
    "publish": "publish",  # Docker has none
}
OPTIONS = tuple(_OPTION_ALIASES)
_MOST_LABEL = 4096
_INT32 = range(-(1 << 31), 1 << 31)
_QUEUES = range(1 << 20)
_BROADCAST = IPv4Address("255.255.255.255")
_NO_SUBNETS: dict[Network, str] = {
    IPv4Network("0.0.0.0/8"): "this host",  # RFC 1122 3.2.1.3, and the two below
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("255.255.255.255/32"): "broadcast",
    IPv6Network("::/96"): "loopback and what embeds IPv4",  # RFC 4291 2.5.3, 2.5.5
    IPv6Network("::ffff:0:0/96"): "what embeds IPv4",
    IPv6Network("fe80::/10"): "single links",
    IPv6Network("ff00::/8"): "multicast",
}
_WIDEST = {4: 8, 6: 7}  # 10.0.0.0/8, fc00::/7
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class NetworkSpec(msgspec.Struct, frozen=True):
    """What `network create` asks for; what is None or empty is chosen by the engine.

    Gateways, ranges and reserved addresses belong to the subnet they lie in. `gateway_modes` says
    of an IP version how its packets get in and out, `sources` which address of the host they bear
    outside. `publish` "proxy": a process listens at published ports, and the host's own firewall
    decides who may talk to it. `options` are for the driver.
    """

    name: str
    driver: str = "bridge"
    subnets: tuple[Network, ...] = ()
    prefixlen: int | None = None  # of an IPv4 subnet to be chosen
    gateways: tuple[Address, ...] = ()
    routers: tuple[Address, ...] = ()  # where default routes lead, if not to the gateways
    ip_ranges: tuple[Network, ...] = ()
    reserved: Mapping[str, Address] = {}
    ipv4: bool = True
    ipv6: bool = False
    internal: bool = False
    icc: bool = True
    mtu: int | None = None
    bridge: str | None = None
    existing: bool = False  # the bridge is there, and not ours
    masquerade: bool = True
    ip_forward: bool = True
    transit: bool = False  # where we switch forwarding on: also of what is not netkit's
    gateway_modes: Mapping[int, str] = {}
    sources: tuple[Address, ...] = ()
    publish: str = "nat"
    host_binding: Address | None = None
    routes: tuple[RouteSpec, ...] = ()  # of every endpoint
    default_route: bool = True
    options: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    force: bool = False
    ipam_driver: str = "default"
    ipam_options: Mapping[str, str] = {}

    def __post_init__(self) -> None:
        naming.validate_name("network", self.name)
        if self.mtu is not None and self.mtu not in MTU_RANGE:
            raise InvalidSpec(
                f"invalid MTU {self.mtu}: must be between {MTU_RANGE[0]} and {MTU_RANGE[-1]}",
                hint="leave it out, and it is that of the host's default route",
            )
        if self.bridge is not None:
            naming.validate_ifname(self.bridge)
        validate_labels(self.labels)
        for key in self.reserved:
            naming.validate_name("auxiliary address", key)
        self._check_ipam()
        self._check_addresses()
        for version, mode in self.gateway_modes.items():
            if mode not in GATEWAY_MODES:
                raise InvalidSpec(
                    f"invalid gateway mode {mode!r:.40} for IPv{version}",
                    hint=f"modes are {', '.join(GATEWAY_MODES)}",
                )
            if mode == "isolated" and not self.internal:
                raise InvalidSpec(
                    f"cannot create network '{self.name}': "
                    "gateway mode 'isolated' is for internal networks",
                    hint="add --internal",
                )
            if mode == "routed" and self.publish == "proxy":
                raise InvalidSpec(
                    f"cannot create network '{self.name}': in gateway mode 'routed' ports are "
                    "published at the containers' own addresses, not by a proxy",
                    hint="leave out one of the two",
                )
        if self.publish not in PUBLISH_MODES:
            raise InvalidSpec(
                f"invalid value {self.publish!r:.40} of publish",
                hint=f"ports are published by one of {', '.join(PUBLISH_MODES)}",
            )

    def _check_ipam(self) -> None:
        """Refuse what its IPAM driver has no use for."""
        name = self.ipam_driver
        vain: dict[str, bool] = {}
        if name == "none":
            hint = "leave it out: nobody hands out addresses there"
            vain = {
                "--subnet": bool(self.subnets or self.prefixlen),
                "--gateway": bool(self.gateways),
                "--ip-range": bool(self.ip_ranges),
                "--aux-address": bool(self.reserved),
                "--host-ip": self.host_binding is not None,
            }
        elif name == "static":
            hint = "leave it out: an address is handed out if it is asked for"
            vain = {"--ip-range": bool(self.ip_ranges)}
        elif name != "default":
            naming.validate_name("IPAM driver", name)
            hint = "leave it out: the plugin knows what it is told by --ipam-opt"
            vain = {"--aux-address": bool(self.reserved)}
        for what, given in vain.items():
            if given:
                raise InvalidSpec(
                    f"cannot create network '{self.name}': IPAM driver '{name}' has no use for "
                    f"{what}",
                    hint=hint,
                )
        for key, value in self.ipam_options.items():
            self._check_ipam_option(key, value)

    def _check_ipam_option(self, key: str, value: str) -> None:
        name = self.ipam_driver
        if not key or not (key + value).isprintable() or len(key + value) > _MOST_LABEL:
            raise InvalidSpec(
                f"invalid IPAM option {key + '=' + value!r:.80}: "
                f"a key, and printable text of at most {_MOST_LABEL} characters, are wanted",
                hint="write key=value",
            )
        if name in IPAM_DRIVERS:
            known = IPAM_SWITCHES if name == "default" else ()
            if key not in known:
                raise InvalidSpec(
                    f"unknown option {key!r:.80} of IPAM driver '{name}'",
                    hint=f"options are {', '.join(known)}" if known else "it has none",
                )
            boolean(key, value)

    def _check_addresses(self) -> None:
        for subnet in self.subnets:
            _validate_subnet(subnet)
        for ip in (self.host_binding, *self.sources):
            if ip is not None and _is_nobodys(ip):
                raise InvalidSpec(
                    f"invalid host address {ip}: no interface can have it",
                    hint="`ip addr` lists the host's addresses",
                )
        binding = self.host_binding
        if binding is not None and not (self.ipv4, self.ipv6)[binding.version == 6]:
            raise InvalidSpec(
                f"invalid host address {binding}: "
                f"network '{self.name}' has no IPv{binding.version}",
                hint="add --ipv6, or give an IPv4 address",
            )
        if not (self.ipv4 or self.ipv6):
            raise InvalidSpec(
                f"cannot create network '{self.name}': neither IPv4 nor IPv6 is left",
                hint="add --ipv6, or leave out --ipv4=false",
            )
        known = addresses.versions(self.subnets)
        for what, given in (
            ("gateway", self.gateways),
            ("IP range", self.ip_ranges),
            ("auxiliary address", self.reserved.values()),
        ):
            for each in given:
                if each.version not in known and not self.existing:
                    raise InvalidSpec(
                        f"cannot create network '{self.name}': the {what} {each} needs a subnet "
                        "it lies in",
                        hint="add --subnet",
                    )

    @classmethod
    def of_options(cls, given: Mapping[str, str]) -> dict[str, Any]:
        """Fields from `-o key=value`, under Docker's names or netkit's own.

        What is unknown here is for the driver (netkit.drivers), which knows its own.
        """
        fields: dict[str, Any] = {"options": {}, "gateway_modes": {}, "sources": ()}
        for key, value in given.items():
            name = _OPTION_ALIASES.get(key, key)
            if name == "mtu":
                fields[name] = integer("MTU", value)
            elif name in ("masquerade", "icc"):
                fields[name] = boolean(key, value)
            elif name == "host_binding":
                fields[name] = addresses.address("host binding", value)
            elif name.startswith("gateway_mode_ipv"):
                fields["gateway_modes"][int(name[-1])] = value
            elif name in ("host_ipv4", "host_ipv6"):
                fields["sources"] += (addresses.address(key, value, version=int(name[-1])),)
            elif name == "name":
                fields["bridge"] = value
            elif name == "publish":
                fields[name] = value
            else:
                fields["options"][name] = value
        return fields


def ipam_fields(driver: str, options: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a NetworkSpec that `--ipam-driver` and `--ipam-opt` ask for."""
    return {
        "ipam_driver": "none" if driver == "null" else driver,  # Docker's word
        "ipam_options": dict(options),
    }


def integer(what: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidSpec(f"invalid {what} {text!r:.80}: not a number", hint="write digits only")
    return int(text)


def boolean(what: str, text: str) -> bool:
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise InvalidSpec(
            f"invalid value {text!r:.80} for {what}: not true or false",
            hint=f"one of {', '.join(_TRUTH)}",
        ) from None


def subnet_fields(given: Iterable[str]) -> dict[str, Any]:
    """The fields of a NetworkSpec that `--subnet` asks for: subnets, or any IPv4 one of length /N.

    An IPv6 subnet asks for IPv6.
    """
    fields: dict[str, Any] = {}
    subnets: list[Network] = []
    for text in given:
        if not text.startswith(("/", "0.0.0.0/")):  # the latter is Docker's way to say it
            subnets.append(addresses.network("subnet", text))
            continue
        length = integer("prefix length", text.rpartition("/")[2])
        if not 8 <= length <= 30:
            raise InvalidSpec(
                f"invalid subnet {text!r:.80}: no bridge network is a /{length}",
                hint="a prefix length is from 8 to 30",
            )
        fields["prefixlen"] = length
    if 6 in addresses.versions(subnets):
        fields["ipv6"] = True
    return fields | {"subnets": tuple(subnets)}


def bridge_address(text: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a NetworkSpec that `--bip` asks for: the bridge's address and its subnet."""
    if given["subnets"] or given["gateways"] or given["bridge"] or given.get("prefixlen"):
        raise InvalidSpec(
            f"conflicting options: --bip {text:.80} and --subnet, --gateway or --bridge",
            hint="--bip is the gateway and its subnet in one",
        )
    found = addresses.interface("bridge address", text)
    return {
        "subnets": (found.network,),
        "gateways": (found.ip,),
        "ipv6": given["ipv6"] or found.version == 6,
    }


def address_pool(text: str) -> tuple[Network, int]:
    """dockerd's `--default-address-pool base=CIDR,size=N`: where subnets are taken from."""
    given = dict(part.partition("=")[::2] for part in text.split(","))
    if set(given) != {"base", "size"}:
        raise InvalidSpec(
            f"invalid address pool {text!r:.80}: base and size are wanted",
            hint="write base=10.0.0.0/8,size=24",
        )
    base, size = addresses.network("address pool", given["base"]), integer("size", given["size"])
    most = base.max_prefixlen - 2
    if not base.prefixlen <= size <= most:
        raise InvalidSpec(
            f"invalid address pool {text!r:.80}: cannot cut /{size} from {base}",
            hint=f"size is from {base.prefixlen} to {most}",
        )
    return base, size


def validate_labels(labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        if not key or not (key + value).isprintable() or len(key + value) > _MOST_LABEL:
            raise InvalidSpec(
                f"invalid label {key + '=' + value!r:.80}: "
                f"a key, and printable text of at most {_MOST_LABEL} characters, are wanted",
                hint="write key=value",
            )


def _validate_subnet(net: Network) -> None:
    for never, what in _NO_SUBNETS.items():
        if net.version == never.version and net.overlaps(never):
            raise InvalidSpec(
                f"invalid subnet {net}: {never} is for {what}",
                hint="private networks are in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 "
                "and fc00::/7",
            )
    widest = _WIDEST[net.version]
    if net.prefixlen < widest:
        raise InvalidSpec(
            f"invalid subnet {net}: no private network is wider than a /{widest}",
            hint=f"take a part of it, such as {net.network_address}/{16 if widest == 8 else 64}",
        )


def _is_nobodys(ip: Address) -> bool:
    return ip.is_multicast or ip == _BROADCAST


# -- records


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    kind: ClassVar[str]
    id: str
    name: str | None = None
    created: float = 0.0
    epoch: str = ""
    maker: str | None = None
    steps: str = NO_STEPS

    @property
    def short_id(self) -> str:
        return self.id[:12]


class HostRecord(_Record, frozen=True, kw_only=True):
    """What all networks share: our tables, and forwarding. `firewall` is the tables' back end."""

    kind: ClassVar[str] = "host"
    firewall: str | None = None


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """One subnet of a network; dynamic addresses come from the `ranges`, or from all of it."""

    subnet: Network
    gateway: Address | None = None
    ranges: tuple[Network, ...] = ()
    reserved: dict[str, Address] = {}


class NetworkRecord(_Record, frozen=True, kw_only=True):
    """One network as made. `bridge` is its interface on the host, `foreign` if not made by us."""

    kind: ClassVar[str] = "network"
    name: str
    driver: str
    pools: tuple[Subnet, ...] = ()
    routers: tuple[Address, ...] = ()
    bridge: str = ""
    foreign: bool = False
    mac: str = ""
    mtu: int = 1500
    internal: bool = False
    icc: bool = True
    masquerade: bool = True
    ip_forward: bool = True
    transit: bool = False
    gateway_modes: dict[int, str] = {}
    sources: tuple[Address, ...] = ()
    publish: str = "nat"
    host_binding: Address | None = None
    routes: tuple[RouteSpec, ...] = ()
    default_route: bool = True
    driver_options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam: str = "default"
    ipam_options: dict[str, str] = {}

    @property
    def plugin(self) -> str | None:
        """The IPAM plugin its addresses come from, if one was chosen."""
        return None if self.ipam in IPAM_DRIVERS else self.ipam

    @property
    def unnumbered(self) -> bool:
        """Whether nobody knows its subnets: an interface there has what it is given elsewhere."""
        return not self.pools and (self.ipam == "none" or self.plugin is not None)

    @property
    def ipv6(self) -> bool:
        """Whether its containers may have IPv6: by its subnets, or for all anybody knows."""
        return 6 in self.versions or self.unnumbered

    def switched_on(self, option: str) -> bool:
        """Whether one of IPAM_SWITCHES is."""
        return option in self.ipam_options and boolean(option, self.ipam_options[option])

    @property
    def subnets(self) -> tuple[Network, ...]:
        return tuple(pool.subnet for pool in self.pools)

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions it speaks."""
        return addresses.versions(self.subnets)

    @property
    def gateways(self) -> tuple[Interface, ...]:
        """The gateways' addresses, with their subnets' lengths."""
        return tuple(
            addresses.from_text(Interface, f"{pool.gateway}/{pool.subnet.prefixlen}")
            for pool in self.pools
            if pool.gateway is not None
        )

    def gateway(self, version: int = 4) -> Address | None:
        """The first gateway of an IP version."""
        found = (gateway.ip for gateway in self.gateways if gateway.version == version)
        return next(found, None)

    def router(self, version: int) -> Address | None:
        """Where default routes of an IP version lead: the gateway, or a router beside it."""
        found = (ip for ip in self.routers if ip.version == version)
        return next(found, self.gateway(version))

    def mode(self, version: int) -> str:
        return self.gateway_modes.get(version, "nat")

    def source(self, version: int) -> Address | None:
        """The address of the host that is seen outside, where one is set."""
        return next((ip for ip in self.sources if ip.version == version), None)

    @property
    def options(self) -> dict[str, str]:
        """Under Docker's names, for inspect."""
        if self.driver != "bridge":
            return dict(self.driver_options)
        found = {
            "name": self.bridge,
            "enable_ip_masquerade": str(self.masquerade).lower(),
            "enable_icc": str(self.icc).lower(),
            "host_binding_ipv4": str(self.host_binding or "0.0.0.0"),
        }
        found |= {f"gateway_mode_ipv{v}": mode for v, mode in self.gateway_modes.items()}
        return {
            **{f"{_BRIDGE}{name}": value for name, value in found.items()},
            **{f"com.docker.network.host_ipv{ip.version}": str(ip) for ip in self.sources},
            "com.docker.network.driver.mtu": str(self.mtu),
            **({"publish": self.publish} if self.publish != "nat" else {}),
            **self.driver_options,
        }


class NameFiles(msgspec.Struct, frozen=True, kw_only=True):
    """What goes into a sandbox's hosts, hostname and resolv.conf."""

    hostname: str | None = None
    domainname: str | None = None
    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    extra_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.hostname is not None:
            hosts.validate_hostname(self.hostname)
        if self.domainname is not None:
            hosts.validate_hostname(self.domainname)
        for server in self.servers:
            resolvconf.validate_nameserver(server)
        for domain in self.search:
            resolvconf.validate_search(domain)
        for option in self.options:
            resolvconf.validate_option(option)
        for entry in self.extra_hosts:
            hosts.parse_extra(entry, host_gateway=IPv4Address(0))

    @property
    def given(self) -> bool:
        return self != NameFiles()


Kind = Literal["container", "named", "process", "path"]


class SandboxRecord(_Record, frozen=True, kw_only=True):
    """A network namespace with something to say of it.

    `container`: made by run, with a process. `named`: made by connect without a target. `process`
    and `path`: somebody else's. `netns` None is the host's own (run --net host). `directory` holds
    the files bound over /etc in a container or process. `origin`: it is the process of an engine's
    container, "docker:web", which may come back as another one; once it has `finished`, `former`
    is what it is connected to again then.
    """

    kind: ClassVar[str] = "sandbox"
    name: str
    sort: Kind
    netns: str | None
    identity: str | None = None
    shares: str | None = None
    files: NameFiles = NameFiles()
    directory: str | None = None
    command: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    exposed: tuple[str, ...] = ()  # "80/tcp"
    sysctls: dict[str, str] = {}
    pid: int = 0
    start_time: int = 0
    supervisor: str | None = None
    auto_remove: bool = False
    exit_code: int | None = None
    finished: float | None = None
    origin: str | None = None
    former: tuple[Former, ...] = ()


class EndpointRecord(_Record, frozen=True, kw_only=True):
    """One sandbox on one network: an interface, its address, its published ports.

    `leads_out`: the IP versions of which it may have the sandbox's default route
    (netkit.gateway). `owner` is whom the addresses are leased to; `static`: they were asked for, so
    they are kept for the container until that is removed. The second address of a subnet, and those
    after it, are leased to names of their own: `others`, by address. `request` is what was asked
    for, and has been since. `proxy` is the file by which the process is known that serves those of
    its ports that translation does not; empty if there is none.
    """

    kind: ClassVar[str] = "endpoint"
    network: str
    sandbox: str
    ifname: str
    host_ifname: str = ""
    netns: str | None = None
    mac: str = ""
    host_mac: str = ""
    owner: str = ""
    static: bool = False
    addresses: tuple[Interface, ...] = ()
    gateways: tuple[Address, ...] = ()
    gateway_priority: int = 0
    leads_out: tuple[int, ...] = ()
    ports: tuple[PortMapping, ...] = ()
    others: dict[str, str] = {}
    request: Request | None = None
    proxy: str = ""

    def again(self) -> Request:
        """What asks for an endpoint like this one: what was asked for, and what became of it."""
        ports = (
            PortSpec(
                m.host_address, m.host_port, m.host_port, m.port, m.protocol, m.count, m.device
            )
            for m in self.ports
        )
        return msgspec.structs.replace(
            self.request or Request(),
            ifname=self.ifname,
            mac=self.mac or None,
            addresses=tuple(interface.ip for interface in self.addresses),
            ports=tuple(ports),
        )

    @property
    def wanted(self) -> Request:
        return self.request or Request()

    @property
    def every_address(self) -> tuple[Interface, ...]:
        """The addresses leased, and those that are of no subnet of the network's."""
        return self.addresses + self.wanted.extra

    def address(self, version: int = 4) -> Interface | None:
        """The first address of an IP version."""
        return next((ip for ip in self.addresses if ip.version == version), None)

    def target(self, mapping: PortMapping) -> Interface:
        """The address a published port leads to: only a proxy leads to one of another version."""
        return self.address(mapping.host_address.version) or self.addresses[0]

    def gateway(self, version: int = 4) -> Address | None:
        return next((ip for ip in self.gateways if ip.version == version), None)


class LinkEnd(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a link, in a sandbox or, where that is None, on the host."""

    container: str  # its name; "host"
    sandbox: str | None = None
    netns: str | None = None
    ifname: str
    mac: str
    addresses: tuple[Interface, ...] = ()

    def __str__(self) -> str:
        return f"{self.container}/{self.ifname}"


class LinkRecord(_Record, frozen=True, kw_only=True):
    """A wire between two sandboxes, or a sandbox and the host (`on_host`), which is the first."""

    kind: ClassVar[str] = "link"
    name: str
    ends: tuple[LinkEnd, LinkEnd]
    mtu: int = 1500

    @property
    def on_host(self) -> bool:
        return any(end.sandbox is None for end in self.ends)

    def peer(self, end: LinkEnd) -> LinkEnd:
        """The other end."""
        return self.ends[1] if end == self.ends[0] else self.ends[0]


class EndRecord(_Record, frozen=True, kw_only=True):
    """That a sandbox has an end of a link: with either the link goes, and with it the other."""

    kind: ClassVar[str] = "end"
    network: str  # the link
    sandbox: str
    ifname: str


class EndSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for at one end of a link: *target* as netkit.targets has it, or "host"."""

    target: str
    addresses: tuple[Interface, ...] = ()
    ifname: str | None = None
    mac: str | None = None

    def __post_init__(self) -> None:
        if self.ifname is not None:
            naming.validate_ifname(self.ifname)
        if self.mac is not None and naming.parse_mac(self.mac) != self.mac:
            raise InvalidSpec(f"invalid MAC '{self.mac}': not in canonical form")
        for each in self.addresses:
            if _is_nobodys(each.ip) or each.ip.is_loopback or each.ip.is_unspecified:
                raise InvalidSpec(
                    f"invalid address {each} of a link: no interface can have it",
                    hint="such as 10.1.1.1/32",
                )
        if len(set(self.addresses)) < len(self.addresses):
            listed = ", ".join(map(str, self.addresses))
            raise InvalidSpec(f"an address is given twice: {listed}", hint="give it once")


class LinkSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What `link` asks for. Without any address a free pair is chosen, unless `addressless`."""

    ends: tuple[EndSpec, EndSpec]
    name: str | None = None
    mtu: int = 1500
    addressless: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            naming.validate_name("link", self.name)
        if self.mtu not in MTU_RANGE:
            raise InvalidSpec(
                f"invalid MTU {self.mtu}: must be between {MTU_RANGE[0]} and {MTU_RANGE[-1]}",
                hint="the default is 1500",
            )
        a, b = self.ends
        if shared := {each.ip for each in a.addresses} & {each.ip for each in b.addresses}:
            raise InvalidSpec(
                f"both ends of a link cannot have {min(map(str, shared))}",
                hint="one address may be on several links, but not at both ends of one",
            )
        if self.addressless and (a.addresses or b.addresses):
            raise InvalidSpec("a link without addresses cannot have any")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `connect` asks for; what is None is chosen by the engine.

    `extra` are addresses beside those of the network's subnets, `sources` the host's addresses that
    it is seen by outside. `source_routing`: what its addresses send leaves by its interface.
    `attachment`: what a CNI runtime calls it, "c1/eth0"; `call`: see AttachmentRecord.
    """

    ifname: str | None = None
    host_ifname: str | None = None
    addresses: tuple[Address, ...] = ()
    addressless: bool = False
    mac: str | None = None
    gateway_priority: int = 0
    ports: tuple[PortSpec, ...] = ()
    extra: tuple[Interface, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    rules: tuple[RuleSpec, ...] = ()
    default_route: bool = True
    source_routing: bool = False
    sysctls: dict[str, str] = {}
    sources: tuple[Address, ...] = ()
    mtu: int | None = None
    txqlen: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    attachment: str = ""
    call: str = ""

    def __post_init__(self) -> None:
        if self.ifname is not None:
            naming.validate_ifname(self.ifname)
        if self.host_ifname is not None:
            naming.validate_ifname(self.host_ifname)
        if self.mac is not None and naming.parse_mac(self.mac) != self.mac:
            raise InvalidSpec(f"invalid MAC '{self.mac}': not in canonical form")
        if self.gateway_priority not in _INT32:
            raise InvalidSpec(
                f"invalid gateway priority {self.gateway_priority}: not a number of 32 bits",
                hint="the default is 0, and the highest has the default route",
            )
        if self.addressless and (self.addresses or self.ports):
            raise InvalidSpec("an endpoint without an address can have neither --ip nor -p")
        self._check_extras()

    @property
    def is_special(self) -> bool:
        """Whether it asks for more of the interface than that it be there, with an address."""
        beside = {"ifname", "host_ifname", "addresses", "addressless", "mac", "ports"}
        beside |= {"gateway_priority", "attachment", "call"}
        plain = Request()
        asked = (name for name in self.__struct_fields__ if name not in beside)
        return any(getattr(self, name) != getattr(plain, name) for name in asked)

    def _check_extras(self) -> None:
        if self.addressless and (self.extra or self.sources or self.source_routing):
            raise InvalidSpec("an endpoint without an address sends from none")
        if len(addresses.versions(self.sources)) < len(self.sources):
            raise InvalidSpec(
                "an endpoint is seen by one address of an IP version: "
                + ", ".join(map(str, self.sources)),
                hint="give one of IPv4, and one of IPv6",
            )
        for what, value, allowed, hint in (
            ("MTU", self.mtu, MTU_RANGE, "leave it out, and it is the network's"),
            ("queue length", self.txqlen, _QUEUES, "leave it out, and it is the kernel's own"),
        ):
            if value is not None and value not in allowed:
                raise InvalidSpec(
                    f"invalid {what} {value}: must be between {allowed[0]} and {allowed[-1]}",
                    hint=hint,
                )
        sysctls.of_interface(f"{key}={value}" for key, value in self.sysctls.items())


class Former(msgspec.Struct, frozen=True):
    """A network, by id and name, that a container was on before it ended; and how."""

    network: str
    name: str
    request: Request


class ChangeRecord(_Record, frozen=True, kw_only=True):
    """What is being added to a live endpoint, which will be `after`; or taken from it.

    It exists only for as long as that lasts: whoever finds one deletes its steps and gives back its
    `leases`, by address.
    """

    kind: ClassVar[str] = "change"
    network: str
    leases: dict[str, str] = {}
    after: EndpointRecord | None = None


class LoanRecord(_Record, frozen=True, kw_only=True):
    """What an IPAM plugin may have given an owner and no endpoint has: it is to be released.

    It stands from before the plugin is asked until an endpoint has the addresses, and from when the
    endpoint goes until the plugin has been told. Without a maker it could not be told: `gc` tries
    again. `conf` is the plugin's configuration, for the network may be gone by then; or `call` is
    all of it.
    """

    kind: ClassVar[str] = "loan"
    network: str
    network_name: str
    plugin: str
    conf: str
    owner: str
    netns: str
    call: PluginCall | None = None


class PluginCall(msgspec.Struct, frozen=True, kw_only=True):
    """A CNI plugin's call, as a runtime would make it: what is in its environment, and on stdin.

    `early`: it needs what the attachment made, so it is made before that is undone.
    """

    plugin: str
    environ: dict[str, str]
    stdin: str
    early: bool = False


class AttachmentRecord(_Record, frozen=True, kw_only=True):
    """What one CNI plugin made of one interface of a container.

    `network` is the plugin and the network's name, "bridge web"; `sandbox` the container's id and
    the interface, "c1/eth0". `netns` is the namespace's path and `identity` which one that was.
    `stands_on` names the shared plans (HostRecord) it needs. `lease` is the call that releases what
    an IPAM plugin leased for it, or may have. `result` is what ADD answered, to the call `call`:
    that one may be made again, should netkitd have died before it could say so.
    """

    kind: ClassVar[str] = "attachment"
    network: str
    sandbox: str
    netns: str
    identity: str
    stands_on: tuple[str, ...] = ()
    lease: PluginCall | None = None
    result: str = ""
    call: str = ""

    @property
    def owner(self) -> str:
        return f"{self.sandbox} on {self.network}"


# -- text form

Record = (
    HostRecord
    | NetworkRecord
    | SandboxRecord
    | EndpointRecord
    | LinkRecord
    | EndRecord
    | ChangeRecord
    | LoanRecord
    | AttachmentRecord
)


_encoder = msgspec.json.Encoder(enc_hook=addresses.to_text)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(value: Any) -> str:
    """The JSON text of a record or of steps."""
    return _encoder.encode(value).decode()


def decode(text: str | bytes, kind: type[T]) -> T:
    """The value *encode* made the text of. Fields unknown to this version are ignored."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=addresses.from_text)
    decoded: T = decoder.decode(text)
    return decoded
