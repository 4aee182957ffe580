"""No firewall at all (Docker's --iptables=false): zero rules are written, all else works."""

from __future__ import annotations

from collections.abc import Sequence

from netkit.firewall import Rule


class NoFirewall:
    """Every rule is accepted and none is written."""

    name = "none"

    def script(self) -> str:
        return ""

    def unscript(self) -> str:
        return ""

    def listing(self) -> str:
        return ""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def is_open(self) -> bool:
        return True

    def add(self, rules: Sequence[Rule]) -> None: ...
    def delete(self, rules: Sequence[Rule]) -> None: ...
    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        return ()

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return ()
