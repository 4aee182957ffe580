"""What the firewall is asked for, as values; each back end turns them into its own rules.

Shapes   a rule is a frozen value; a sequence of rules is added, deleted or checked in one call and
         one atomic transaction; what a rule matches is in its fields, never in free text
Source   the jobs: masquerade, publish (DNAT), isolate, guard against spoofing
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

import msgspec

Address = IPv4Address
DEFAULT = "nftables"


class Isolate(msgspec.Struct, frozen=True, tag=True):
    """A bridge is ours: from outside only established flows and published ports get in.

    `internal`: nothing gets out either.
    """

    bridge: str
    subnet: IPv4Network
    internal: bool = False


class Masquerade(msgspec.Struct, frozen=True, tag=True):
    """What comes from the bridge and leaves by another interface bears that one's address."""

    bridge: str


class Guard(msgspec.Struct, frozen=True, tag=True):
    """A bridge port may send from this MAC and these addresses only: frames, IPv4 and ARP alike."""

    port: str
    mac: str
    addresses: tuple[Address, ...]


class Publish(msgspec.Struct, frozen=True, tag=True):
    """DNAT: `count` consecutive ports of the host, from `host_port` on, to those of a container.

    `host_address` None: any address of the host.
    """

    host_address: Address | None
    host_port: int
    address: Address
    port: int
    protocol: str
    count: int = 1


Rule = Isolate | Masquerade | Guard | Publish


class Firewall(Protocol):
    """A back end. `open` and `close` make and remove what all rules stand on (tables, chains)."""

    name: str

    def script(self) -> str:
        """What `open` runs, as text an operator can run."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def is_open(self) -> bool: ...
    def add(self, rules: Sequence[Rule]) -> None: ...
    def delete(self, rules: Sequence[Rule]) -> None: ...
    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        """What is missing, as text; nothing missing: an empty sequence."""

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        """What `add` (or `delete`) runs, as the lines an operator would type."""


def load(name: str) -> Firewall:
    """The back end called *name*."""
    if name == "nftables":
        from netkit.firewall import nftables

        return nftables.Nftables()
    if name == "none":
        from netkit.firewall import none

        return none.NoFirewall()
    raise ValueError(f"no firewall back end {name!r}")
