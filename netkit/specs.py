"""What is asked for: networks, endpoints, links, name files. Values that refuse nonsense.

Shapes   they come from the faces; `of_options` and the `…_fields` make them of text
Units    MTUs in bytes
Errors   InvalidSpec, before any effect
Source   Docker's bridge driver options for `-o`, dockerd(8) and docker network create(1)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import msgspec

from netkit import addresses, naming, sysctls
from netkit.access import ContainerLink, EgressRule
from netkit.addresses import Address, Interface, Network
from netkit.dns import hosts, resolvconf
from netkit.errors import InvalidSpec
from netkit.portspec import PortSpec
from netkit.routes import RouteSpec, RuleSpec

MTU_RANGE = range(68, 65536)  # RFC 791: every IPv4 link carries 68 octets; a veth's most is 65535
IPAM_DRIVERS = ("default", "static", "none")  # any other is an IPAM plugin's name
IPAM_SWITCHES = ("round-robin", "sticky")  # `--ipam-opt` of the first
GATEWAY_MODES = ("nat", "nat-unprotected", "routed", "isolated")
PUBLISH_MODES = ("nat", "proxy")
DOCKERS_BRIDGE = "com.docker.network.bridge."
# Docker's name for an option: netkit's
_OPTION_ALIASES = {
    f"{DOCKERS_BRIDGE}name": "name",
    f"{DOCKERS_BRIDGE}enable_ip_masquerade": "masquerade",
    f"{DOCKERS_BRIDGE}enable_icc": "icc",
    f"{DOCKERS_BRIDGE}host_binding_ipv4": "host_binding",
    f"{DOCKERS_BRIDGE}gateway_mode_ipv4": "gateway_mode_ipv4",
    f"{DOCKERS_BRIDGE}gateway_mode_ipv6": "gateway_mode_ipv6",
    "com.docker.network.host_ipv4": "host_ipv4",
    "com.docker.network.host_ipv6": "host_ipv6",
    "com.docker.network.driver.mtu": "mtu",
    "publish": "publish",  # Docker has none, nor
    "hostnames": "hostnames",
}
OPTIONS = tuple(_OPTION_ALIASES)
_MOST_LABEL = 4096
_INT32 = range(-(1 << 31), 1 << 31)
_QUEUES = range(1 << 20)
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
    decides who may talk to it. `options` are for the driver. `names`: its containers' names resolve
    there (None: where that can be); `hostnames`: their hostnames, too. `host_access` False: nobody
    on it reaches the host's own services. `egress`: where its packets may go; None: anywhere.
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
    names: bool | None = None
    hostnames: bool = False
    servers: tuple[str, ...] = ()  # that names of elsewhere are asked of, if not the host's
    host_access: bool = True
    egress: tuple[EgressRule, ...] | None = None

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
            if ip is not None and addresses.is_nobodys(ip):
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
            elif name in ("masquerade", "icc", "hostnames"):
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


def name_servers(given: Iterable[str]) -> tuple[str, ...]:
    """The addresses in canonical form; the host asks them, so a zone is none of the container's."""
    found = tuple(dict.fromkeys(map(resolvconf.validate_nameserver, given)))
    for each in found:
        if "%" in each or addresses.address("nameserver", each).is_loopback:
            raise InvalidSpec(
                f"invalid nameserver {each} of a network: it is asked by the host, for containers",
                hint="give the address of a server that the host reaches",
            )
    return found


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
            if addresses.is_nobodys(each.ip) or each.ip.is_loopback or each.ip.is_unspecified:
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
    `aliases`: what it is called on this network beside its name; `links`: what it calls others.
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
    aliases: tuple[str, ...] = ()
    links: tuple[ContainerLink, ...] = ()
    egress: tuple[EgressRule, ...] | None = None
    attachment: str = ""
    call: str = ""

    def __post_init__(self) -> None:
        if self.ifname is not None:
            naming.validate_ifname(self.ifname)
        if self.host_ifname is not None:
            naming.validate_ifname(self.host_ifname)
        if self.mac is not None and naming.parse_mac(self.mac) != self.mac:
            raise InvalidSpec(f"invalid MAC '{self.mac}': not in canonical form")
        for alias in self.aliases:
            naming.validate_alias(alias)
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
        beside |= {"gateway_priority", "attachment", "call", "aliases", "links", "egress"}
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
