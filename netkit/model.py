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

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from netkit import naming
from netkit.dns import hosts, resolvconf
from netkit.errors import InvalidSpec

NO_STEPS = "[]"
MTU_RANGE = range(68, 65536)  # RFC 791: every IPv4 link carries 68 octets; a veth's most is 65535
PROTOCOLS = ("tcp", "udp", "sctp")
BUILT_IN = ("host", "none")
DEFAULT_NETWORK = "bridge"
DEFAULT_BRIDGE = "netkit0"

T = TypeVar("T")


# -- ports


class PortSpec(msgspec.Struct, frozen=True):
    """One `-p`: where on the host, and which ports of the container. Port 0: any free one."""

    address: IPv4Address | None
    first: int
    last: int
    port: int
    protocol: str = "tcp"
    count: int = 1

    @classmethod
    def parse(cls, text: str, default: IPv4Address | None = None) -> tuple[PortSpec, ...]:
        """Docker's `[[ip:][hostPort]:]containerPort[/protocol]`, each port perhaps a range.

        *default* is the address bound where the text names none; None is all of them.
        """

        def refuse(why: str) -> InvalidSpec:
            return InvalidSpec(
                f"invalid published port {text!r:.80}: {why}",
                hint="write [[ip:][hostPort]:]containerPort[/protocol], "
                "as in 8080:80, 127.0.0.1::53/udp or 8000-8009:8000-8009",
            )

        main, slash, protocol = text.partition("/")
        protocol = protocol.lower() if slash else "tcp"
        if protocol not in PROTOCOLS:
            raise refuse(f"protocol {protocol!r:.20} is not one of {', '.join(PROTOCOLS)}")
        if "[" in main:
            raise refuse("IPv6 host addresses are not supported on IPv4 networks")
        *host, container = main.split(":")
        if len(host) > 2:
            raise refuse("too many colons")
        address = default
        if len(host) == 2 and host[0]:
            try:
                address = IPv4Address(host[0])
            except ValueError:
                raise refuse(f"{host[0]!r:.40} is not an IPv4 address") from None
        if address is not None and address.is_unspecified:
            address = None
        if address is not None and _is_nobodys(address):
            raise refuse(f"no interface can have the address {address}")
        first, last = _port_range(container, refuse)
        if not host or not host[-1]:
            low = high = 0
        else:
            low, high = _port_range(host[-1], refuse)
        inside, outside = last - first + 1, high - low + 1
        if low == 0:
            return tuple(cls(address, 0, 0, port, protocol) for port in range(first, last + 1))
        if inside == 1:
            return (cls(address, low, high, first, protocol),)
        if inside != outside:
            raise refuse(
                f"{outside} host ports for {inside} container ports "
                f"({low}-{high} and {first}-{last})"
            )
        return (cls(address, low, low, first, protocol, inside),)

    @classmethod
    def exposed(cls, text: str) -> tuple[PortSpec, ...]:
        """`--expose 80/tcp` or a range of ports: each of them, at any free port of the host."""
        if ":" in text:
            raise InvalidSpec(
                f"invalid port {text!r:.80}", hint="write PORT, PORT-PORT or PORT/udp"
            )
        return cls.parse(text)


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
    """One publication as it is: `count` ports from `host_port` on, to those from `port` on."""

    host_address: IPv4Address | None
    host_port: int
    port: int
    protocol: str
    count: int = 1

    @property
    def host_text(self) -> str:
        return str(self.host_address or "0.0.0.0")

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Each (container port, host port)."""
        return ((self.port + i, self.host_port + i) for i in range(self.count))

    def __str__(self) -> str:
        """As `docker ps` shows it: 0.0.0.0:8080->80/tcp."""

        def span(first: int) -> str:
            return str(first) if self.count == 1 else f"{first}-{first + self.count - 1}"

        return f"{self.host_text}:{span(self.host_port)}->{span(self.port)}/{self.protocol}"


# -- networks

_OPTION_ALIASES = {
    "com.docker.network.bridge.name": "name",
    "com.docker.network.bridge.enable_ip_masquerade": "masquerade",
    "com.docker.network.bridge.host_binding_ipv4": "host_binding",
    "com.docker.network.driver.mtu": "mtu",
}
_OPTIONS = frozenset(_OPTION_ALIASES.values())
_MOST_LABEL = 4096
_INT32 = range(-(1 << 31), 1 << 31)
_BROADCAST = IPv4Address("255.255.255.255")
_NO_SUBNETS = {
    IPv4Network("0.0.0.0/8"): "this host",  # RFC 1122 3.2.1.3, and the two below
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("255.255.255.255/32"): "broadcast",
}
_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class NetworkSpec(msgspec.Struct, frozen=True):
    """What `network create` asks for; what is None is chosen by the engine."""

    name: str
    driver: str = "bridge"
    subnet: IPv4Network | None = None
    prefixlen: int | None = None  # of a subnet to be chosen
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    reserved: Mapping[str, IPv4Address] = {}
    internal: bool = False
    mtu: int | None = None
    bridge: str | None = None
    masquerade: bool = True
    ip_forward: bool = True
    host_binding: IPv4Address | None = None
    labels: Mapping[str, str] = {}
    force: bool = False

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
        if self.subnet is not None:
            _validate_subnet(self.subnet)
        if self.host_binding is not None and _is_nobodys(self.host_binding):
            raise InvalidSpec(
                f"invalid host address {self.host_binding}: no interface can have it",
                hint="`ip addr` lists the host's addresses",
            )
        if self.subnet is None and (self.gateway or self.ip_range or self.reserved):
            raise InvalidSpec(
                f"cannot create network '{self.name}': "
                "a gateway, an IP range or auxiliary addresses need a subnet",
                hint="add --subnet",
            )

    @classmethod
    def options(cls, given: Mapping[str, str]) -> dict[str, Any]:
        """Fields from `-o key=value`, under Docker's names or netkit's own."""
        fields: dict[str, Any] = {}
        for key, value in given.items():
            name = _OPTION_ALIASES.get(key, key)
            if name not in _OPTIONS:
                raise InvalidSpec(
                    f"unknown bridge option {key!r:.80}",
                    hint="options are " + ", ".join(sorted(_OPTION_ALIASES)),
                )
            if name == "mtu":
                fields[name] = integer("MTU", value)
            elif name == "masquerade":
                fields[name] = boolean(key, value)
            elif name == "host_binding":
                fields[name] = address("host binding", value)
            else:
                fields["bridge"] = value
        return fields


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


def address(what: str, text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except ValueError:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: not an IPv4 address", hint="such as 172.25.3.3"
        ) from None


def subnet(what: str, text: str) -> IPv4Network:
    """A network in CIDR form, without host bits: those are likelier a slip than a wish."""
    if "/" not in text:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: no prefix length",
            hint="write it as an address and a length, such as 172.25.0.0/16",
        )
    try:
        return IPv4Network(text)
    except ValueError:
        pass
    try:
        meant = IPv4Network(text, strict=False)
    except ValueError:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: not an IPv4 network", hint="such as 172.25.0.0/16"
        ) from None
    raise InvalidSpec(
        f"invalid {what} {text!r:.80}: host bits are set", hint=f"did you mean {meant}?"
    )


def subnet_fields(text: str) -> dict[str, Any]:
    """The fields of a NetworkSpec that `--subnet` asks for: a subnet, or any of length /N."""
    if text.startswith(("/", "0.0.0.0/")):  # the latter is Docker's way to say it
        length = integer("prefix length", text.rpartition("/")[2])
        if not 8 <= length <= 30:
            raise InvalidSpec(
                f"invalid subnet {text!r:.80}: no bridge network is a /{length}",
                hint="a prefix length is from 8 to 30",
            )
        return {"prefixlen": length}
    return {"subnet": subnet("subnet", text)}


def address_pool(text: str) -> tuple[IPv4Network, int]:
    """dockerd's `--default-address-pool base=CIDR,size=N`: where subnets are taken from."""
    given = dict(part.partition("=")[::2] for part in text.split(","))
    if set(given) != {"base", "size"}:
        raise InvalidSpec(
            f"invalid address pool {text!r:.80}: base and size are wanted",
            hint="write base=10.0.0.0/8,size=24",
        )
    base, size = subnet("address pool", given["base"]), integer("size", given["size"])
    if not base.prefixlen <= size <= 30:
        raise InvalidSpec(
            f"invalid address pool {text!r:.80}: cannot cut /{size} from {base}",
            hint=f"size is from {base.prefixlen} to 30",
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


def _validate_subnet(net: IPv4Network) -> None:
    for never, what in _NO_SUBNETS.items():
        if net.overlaps(never):
            raise InvalidSpec(
                f"invalid subnet {net}: {never} is for {what}",
                hint="private networks are in 10.0.0.0/8, 172.16.0.0/12 and 192.168.0.0/16",
            )
    if net.prefixlen < 8:
        raise InvalidSpec(
            f"invalid subnet {net}: no private network is wider than a /8",
            hint=f"take a part of it, such as {net.network_address}/16",
        )


def _is_nobodys(ip: IPv4Address) -> bool:
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


class NetworkRecord(_Record, frozen=True, kw_only=True):
    """One network as made. `bridge` is its interface on the host."""

    kind: ClassVar[str] = "network"
    name: str
    driver: str
    subnet: IPv4Network | None = None
    gateway: IPv4Address | None = None
    ip_range: IPv4Network | None = None
    reserved: dict[str, IPv4Address] = {}
    bridge: str = ""
    mac: str = ""
    mtu: int = 1500
    internal: bool = False
    masquerade: bool = True
    ip_forward: bool = True
    host_binding: IPv4Address | None = None
    labels: dict[str, str] = {}

    @property
    def gateway_interface(self) -> IPv4Interface:
        assert self.subnet is not None
        return IPv4Interface((str(self.gateway), self.subnet.prefixlen))

    @property
    def options(self) -> dict[str, str]:
        """Under Docker's names, for inspect."""
        if self.driver != "bridge":
            return {}
        binding = self.host_binding or "0.0.0.0"
        return {
            "com.docker.network.bridge.name": self.bridge,
            "com.docker.network.bridge.enable_ip_masquerade": str(self.masquerade).lower(),
            "com.docker.network.bridge.host_binding_ipv4": str(binding),
            "com.docker.network.driver.mtu": str(self.mtu),
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
    the files bound over /etc in a container or process.
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
    pid: int = 0
    start_time: int = 0
    supervisor: str | None = None
    auto_remove: bool = False
    exit_code: int | None = None
    finished: float | None = None


class EndpointRecord(_Record, frozen=True, kw_only=True):
    """One sandbox on one network: an interface, its address, its published ports.

    `leads_out`: it may have the sandbox's default route (netkit.gateway). `owner` is whom the
    address is leased to; `static`: it was asked for, so it is kept for the container until that is
    removed.
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
    address: IPv4Interface | None = None
    gateway: IPv4Address | None = None
    gateway_priority: int = 0
    leads_out: bool = False
    ports: tuple[PortMapping, ...] = ()


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What `connect` asks for; what is None is chosen by the engine."""

    ifname: str | None = None
    host_ifname: str | None = None
    address: IPv4Address | None = None
    addressless: bool = False
    mac: str | None = None
    gateway_priority: int = 0
    ports: tuple[PortSpec, ...] = ()

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
        if self.addressless and (self.address or self.ports):
            raise InvalidSpec("an endpoint without an address can have neither --ip nor -p")


# -- text form

Record = HostRecord | NetworkRecord | SandboxRecord | EndpointRecord


def _to_builtin(value: Any) -> Any:
    if isinstance(value, IPv4Address | IPv4Interface | IPv4Network):
        return str(value)
    raise TypeError(f"no text form for {type(value)}")


def _from_builtin(wanted: type, value: Any) -> Any:
    return wanted(value)


_encoder = msgspec.json.Encoder(enc_hook=_to_builtin)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(value: Any) -> str:
    """The JSON text of a record or of steps."""
    return _encoder.encode(value).decode()


def decode(text: str | bytes, kind: type[T]) -> T:
    """The value *encode* made the text of. Fields unknown to this version are ignored."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=_from_builtin)
    decoded: T = decoder.decode(text)
    return decoded
