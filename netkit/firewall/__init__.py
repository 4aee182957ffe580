"""What the firewall is asked for, as values; each back end turns them into its own rules.

Shapes   a rule is a frozen value; a sequence of rules is added, deleted or checked in one call and
         one atomic transaction; what a rule matches is in its fields, never in free text
Source   the jobs: masquerade, publish (DNAT), isolate, guard against spoofing
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from netkit.addresses import Address, Network

DEFAULT = "nftables"


class Isolate(msgspec.Struct, frozen=True, tag=True):
    """What is behind *link* (a bridge, or the host's end of a routed pair) is a network of ours.

    From outside only established flows and published ports get in; `internal`: nothing gets out
    either. `subnets` are the bridge's: who meets them through a published port is told apart.
    `icc` False: not even among themselves. `open`: the IP versions of which all ports are reachable
    from outside; `routed`: those of which nothing is translated, and pings pass.
    """

    link: str
    subnets: tuple[Network, ...] = ()
    internal: bool = False
    icc: bool = True
    open: tuple[int, ...] = ()
    routed: tuple[int, ...] = ()


class Siblings(msgspec.Struct, frozen=True, tag=True):
    """The addresses of *subnet* are one network, though each is behind a link of its own."""

    subnet: Network


class Plain(msgspec.Struct, frozen=True, tag=True):
    """What is behind *link* is ours to forward, and open to all: a CNI network without isolation.

    Localhost reaches ports published there, so nobody behind it reaches the host's own loopback.
    """

    link: str


class Hide(msgspec.Struct, frozen=True, tag=True):
    """What *address* sends beyond its own subnet, which is among the Siblings, bears the address
    of the host it leaves by.
    """

    address: Address


class Cover(msgspec.Struct, frozen=True, tag=True):
    """Whoever meets *address* through a published port bears an address of the host there."""

    address: Address


class Spare(msgspec.Struct, frozen=True, tag=True):
    """What *source* sends to *destination*, of the host's, no published port gets: an exception."""

    source: Network
    destination: Network
    port: int
    protocol: str
    count: int = 1


class Masquerade(msgspec.Struct, frozen=True, tag=True):
    """What comes from *link* and leaves the host bears the address it leaves by, or *source*."""

    link: str
    version: int = 4
    source: Address | None = None


class Outgoing(msgspec.Struct, frozen=True, tag=True):
    """What *address* sends out of the host bears *source*, whatever its network does."""

    address: Address
    source: Address


class Guard(msgspec.Struct, frozen=True, tag=True):
    """A bridge port may send from this MAC and these addresses only: frames, IP, ARP and ND alike.

    Without addresses, from whatever address of IPv4, and of IPv6 if `ipv6`. Nobody may be a
    router, or a DHCP server, for the others. Frames with VLAN tags only if `tagged`: what is in
    those is not looked at, but for the MAC.
    """

    port: str
    mac: str
    addresses: tuple[Address, ...]
    ipv6: bool = False
    tagged: bool = False


class Source(msgspec.Struct, frozen=True, tag=True):
    """What comes from *link*, a routed pair, bears one of these addresses."""

    link: str
    addresses: tuple[Address, ...]


class Admit(msgspec.Struct, frozen=True, tag=True):
    """A port that a Guard holds to its addresses, or a link that a Source does, may use these, too.

    `mac`: the port's; None: it is a link.
    """

    port: str
    mac: str | None
    addresses: tuple[Address, ...]


class Publish(msgspec.Struct, frozen=True, tag=True):
    """DNAT: `count` consecutive ports of the host, from `host_port` on, to those of a container.

    `host_address` None: any address of the host of that IP version. `device`: only what comes in
    by that interface of the host.
    """

    host_address: Address | None
    host_port: int
    address: Address
    port: int
    protocol: str
    count: int = 1
    device: str | None = None


class Allow(msgspec.Struct, frozen=True, tag=True):
    """A container's ports are reachable at its own address: what publishing means if routed."""

    address: Address
    port: int
    protocol: str
    count: int = 1


class NoTransit(msgspec.Struct, frozen=True, tag=True):
    """What neither comes from nor goes to a network of ours is not forwarded."""

    version: int


class Closed(msgspec.Struct, frozen=True, tag=True):
    """Nothing passes between *port* of the bridge *link* and its other closed ports, not even ARP,
    but as Meet, Reach and Serve say.

    `mac`: of whoever is behind the port. Where the host's own filters are shown what a bridge
    passes on (br_netfilter), they tell by it what this one has let pass.
    """

    port: str
    link: str
    mac: str


class Meet(msgspec.Struct, frozen=True, tag=True):
    """Two closed ports may find each other: ARP, neighbour discovery, and errors of ICMP pass.

    In the order of their names, for there is one such rule however many Reach stand on it; `other`
    None: *one* and any closed port of its bridge, which is what a Serve stands on.
    """

    one: str
    other: str | None

    def __post_init__(self) -> None:
        if self.other is not None and not self.one < self.other:
            raise ValueError(f"{self.one} and {self.other} are not in order")


class Reach(msgspec.Struct, frozen=True, tag=True):
    """Who is behind *client* may begin to talk to `count` ports, from `port` on, behind *server*.

    `port` None: to all there is, pings too; then `protocol` is None as well. `bridged`: they are
    closed ports of one bridge, where no connections are known: answers are what comes from that
    port and does not open a connection of TCP. Else they are the host's ends of routed pairs.
    """

    client: str
    server: str
    port: int | None = None
    protocol: str | None = None
    count: int = 1
    bridged: bool = True


class Serve(msgspec.Struct, frozen=True, tag=True):
    """As Reach, for any client of the same network: a closed port of the same bridge; or behind a
    routed pair that a Source holds to its addresses, if that is in one of *subnets*.
    """

    server: str
    port: int | None = None
    protocol: str | None = None
    count: int = 1
    bridged: bool = True
    subnets: tuple[Network, ...] = ()


class NoHost(msgspec.Struct, frozen=True, tag=True):
    """What comes by *link* (a bridge, or the host's end of a routed pair) for the host itself is
    dropped, but what the network needs: answers, neighbour discovery, and pings and DNS to its
    *gateways*.
    """

    link: str
    gateways: tuple[Address, ...] = ()


class HostPort(msgspec.Struct, frozen=True, tag=True):
    """An exception to NoHost: ports of the host, for all behind *link*, or for *address* only."""

    link: str
    port: int
    protocol: str
    count: int = 1
    address: Address | None = None


class Confine(msgspec.Struct, frozen=True, tag=True):
    """What comes by *link*, or from *address* (one of the two), leaves the host only as Egress and
    Learnt say. Answers pass, and what goes to networks of ours is others' business.
    """

    link: str | None = None
    address: Address | None = None


class Egress(msgspec.Struct, frozen=True, tag=True):
    """From *link* or *address*, as in a Confine, one may go to *destination*.

    To `count` ports from `port` on; None: to all. `protocol` None: by all, or, with a port, by TCP
    and UDP. An address has its link's as well. No two of one sender's may overlap.
    """

    destination: Network
    port: int | None = None
    protocol: str | None = None
    count: int = 1
    link: str | None = None
    address: Address | None = None


class Learnt(msgspec.Struct, frozen=True, tag=True):
    """As Egress, from *address* to another one, for *timeout_s* seconds from when it is added, be
    it anew.
    """

    address: Address
    destination: Address
    timeout_s: int
    port: int | None = None
    protocol: str | None = None
    count: int = 1


Rule = (
    Isolate
    | Siblings
    | Plain
    | Hide
    | Cover
    | Spare
    | Masquerade
    | Outgoing
    | Guard
    | Source
    | Admit
    | Publish
    | Allow
    | NoTransit
    | Closed
    | Meet
    | Reach
    | Serve
    | NoHost
    | HostPort
    | Confine
    | Egress
    | Learnt
)


class Obstacle(msgspec.Struct, frozen=True, kw_only=True):
    """A chain of another tool that drops what it does not know.

    `into` is the chain of the same table in which an accept is heard first, or firewalld's zone;
    None: there is none.
    """

    program: str  # that made it: iptables-nft, ip6tables-legacy …; empty for any other
    family: str  # ip, ip6 or inet
    table: str
    chain: str
    into: str | None = None

    @property
    def has_zones(self) -> bool:
        return self.program == "firewall-cmd"

    def __str__(self) -> str:
        return f"chain {self.chain} of table {self.family} {self.table}"


class Firewall(Protocol):
    """A back end. `open` and `close` make and remove what all rules stand on (tables, chains)."""

    name: str
    sees_bridges: bool  # else a closed network's ports are isolated by their bridge
    learns: bool  # whether it has Learnt

    def refuses(self, rules: Sequence[Rule]) -> str:
        """Why these cannot be had here, to be told before any effect; empty: they can."""

    def script(self) -> str:
        """What `open` runs, as text an operator can run."""

    def unscript(self) -> str:
        """What `close` runs, likewise."""

    def listing(self) -> str:
        """All that is ours in the kernel, as the back end's own program shows it."""

    def open(self, rules: Sequence[Rule] = ()) -> None:
        """Make them, in the place of what is left of them, with these rules and no others; with
        nftables as one change.
        """

    def close(self) -> None: ...
    def is_open(self) -> bool: ...
    def altered(self) -> Sequence[str]:
        """Chains of our own that are not as `open` made them, as far as that can be told."""

    def add(self, rules: Sequence[Rule]) -> None: ...
    def delete(self, rules: Sequence[Rule]) -> None: ...
    def exchange(self, gone: Sequence[Rule], added: Sequence[Rule]) -> None:
        """Put *added* in the place of *gone*, as one change: what both ask for stays in force."""

    def forget(self, addresses: Sequence[Address]) -> None:
        """Delete all that these addresses are Learnt to reach."""

    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        """What is missing, as text; nothing missing: an empty sequence."""

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        """What `add` (or `delete`) runs, as the lines an operator would type."""


def detect() -> str:
    """The back end for this kernel: nftables where there is nf_tables, else iptables."""
    from netkit.errors import KernelRefused
    from netkit.firewall import detection

    try:
        if detection.has_nf_tables():
            return DEFAULT
        if detection.has_ip_tables():
            return "iptables"
    except PermissionError as error:
        raise KernelRefused(
            f"cannot tell which firewall this kernel has: {error.strerror}",
            hint="run it as root, or inside `netkit unshare`",
        ) from error
    raise KernelRefused(
        "this kernel has neither nf_tables nor ip_tables",
        hint="load one (modprobe nf_tables), or do without a firewall: --firewall none",
    )


def load(name: str) -> Firewall:
    """The back end called *name*."""
    if name == "nftables":
        from netkit.firewall import nftables

        return nftables.Nftables()
    if name == "iptables":
        from netkit.firewall import iptables

        return iptables.Iptables()
    if name == "none":
        from netkit.firewall import none

        return none.NoFirewall()
    raise ValueError(f"no firewall back end {name!r}")
