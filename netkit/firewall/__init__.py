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

    def script(self) -> str:
        """What `open` runs, as text an operator can run."""

    def unscript(self) -> str:
        """What `close` runs, likewise."""

    def listing(self) -> str:
        """All that is ours in the kernel, as the back end's own program shows it."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def is_open(self) -> bool: ...
    def add(self, rules: Sequence[Rule]) -> None: ...
    def delete(self, rules: Sequence[Rule]) -> None: ...
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
