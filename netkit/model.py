"""What is on record: values the store keeps, in a stable text form.

Units    `created` in seconds since 1970 (shown, never compared)

A record's `maker` is the process in the midst of making or deleting it. While it is set the record
is an intent: once that process is dead, whoever comes next deletes what the record's steps say.
`epoch` is the boot and the host namespace the steps were added in: elsewhere they are known to be
gone. `steps` is their stable text (see netkit.steps).
"""

from __future__ import annotations

from threading import Lock
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from netkit import addresses
from netkit.access import Allowance, EgressRule
from netkit.addresses import Address, Interface, Network
from netkit.portspec import PortMapping
from netkit.routes import RouteSpec
from netkit.specs import DOCKERS_BRIDGE, IPAM_DRIVERS, NameFiles, Request, boolean

NO_STEPS = "[]"
BUILT_IN = ("host", "none")
HOST_NAMES = "names"  # the record of what the host's resolver is told
DEFAULT_NETWORK = "bridge"
DEFAULT_BRIDGE = "netkit0"
T = TypeVar("T")


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
    names: bool = False
    hostnames: bool = False
    servers: tuple[str, ...] = ()
    host_access: bool = True
    allows: tuple[Allowance, ...] = ()
    egress: tuple[EgressRule, ...] | None = None

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
            **{f"{DOCKERS_BRIDGE}{name}": value for name, value in found.items()},
            **{f"com.docker.network.host_ipv{ip.version}": str(ip) for ip in self.sources},
            "com.docker.network.driver.mtu": str(self.mtu),
            **({"publish": self.publish} if self.publish != "nat" else {}),
            **({"hostnames": "true"} if self.hostnames else {}),
            **self.driver_options,
        }


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
        ports = (mapping.spec for mapping in self.ports)
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


class Former(msgspec.Struct, frozen=True):
    """A network, by id and name, that a container was on before it ended; and how."""

    network: str
    name: str
    request: Request


class ChangeRecord(_Record, frozen=True, kw_only=True):
    """What is being added to live endpoints, which will be `after` and `others`, or to a network,
    which will be `network_after`; or what is taken from them. Of a sandbox, the labels and files
    will be those of `sandbox_after`.

    It exists only for as long as that lasts: whoever finds one deletes its steps and gives back its
    `leases`, by address, and the ports claimed in its name.
    """

    kind: ClassVar[str] = "change"
    network: str
    leases: dict[str, str] = {}
    after: EndpointRecord | None = None
    others: tuple[EndpointRecord, ...] = ()
    network_after: NetworkRecord | None = None
    sandbox_after: SandboxRecord | None = None


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
_learning = Lock()


def encode(value: Any) -> str:
    """The JSON text of a record or of steps."""
    return _encoder.encode(value).decode()


def decode(text: str | bytes, kind: type[T]) -> T:
    """The value *encode* made the text of. Fields unknown to this version are ignored."""
    decoder = _decoders.get(kind)
    if decoder is None:
        # what msgspec learns of a type others see before it is whole, and crash (0.22)
        with _learning:
            decoder = _decoders[kind] = msgspec.json.Decoder(kind, dec_hook=addresses.from_text)
    decoded: T = decoder.decode(text)
    return decoded
