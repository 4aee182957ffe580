"""No firewall at all (Docker's --iptables=false): zero rules are written, all else works."""

from __future__ import annotations

from collections.abc import Sequence

from netkit.addresses import Address
from netkit.firewall import Confine, Learnt, Meet, NoHost, Reach, Rule, Serve

_NOTHING = (
    "without a firewall (none) nobody is let through to some and kept from others: use nftables"
)


class NoFirewall:
    """Every rule is accepted and none is written."""

    name = "none"
    sees_bridges = False
    learns = False

    def refuses(self, rules: Sequence[Rule]) -> str:
        asked = (Meet, Reach, Serve, NoHost, Confine, Learnt)
        return _NOTHING if any(isinstance(rule, asked) for rule in rules) else ""

    def script(self) -> str:
        return ""

    def unscript(self) -> str:
        return ""

    def listing(self) -> str:
        return ""

    def open(self, rules: Sequence[Rule] = ()) -> None: ...
    def close(self) -> None: ...
    def is_open(self) -> bool:
        return True

    def altered(self) -> Sequence[str]:
        return ()

    def add(self, rules: Sequence[Rule]) -> None: ...
    def delete(self, rules: Sequence[Rule]) -> None: ...
    def forget(self, addresses: Sequence[Address]) -> None: ...
    def exchange(self, gone: Sequence[Rule], added: Sequence[Rule]) -> None: ...
    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        return ()

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return ()
