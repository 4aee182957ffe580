"""Which firewall back ends a scenario is tried on; and how to take away, on each, what stops one.

    pytestmark = each               # whatever `host` leads to is tried on both
    @on_nftables                    # what is not the firewall's doing, or is about nft's own words
    @sees_bridges                   # what happens within a bridge, where iptables is blind

Shapes   the host's configuration file names the back end; nftables is what nobody has to ask for
"""

from __future__ import annotations

import pytest

from scenarios.lab import run

BLIND = "iptables sees nothing that a bridge passes on: docs/limits.md"
each = pytest.mark.back_ends("nftables", "iptables")
on_nftables = pytest.mark.back_ends()
on_iptables = pytest.mark.back_ends("iptables")
sees_bridges = pytest.mark.back_ends(
    "nftables", pytest.param("iptables", marks=pytest.mark.skip(reason=BLIND))
)

# the home of each of nftables.py's sets, and the chains that are in its place
_HOMES = {
    "ports": ("bridge", "raw:NETKIT-PORTS"),
    "inside": ("inet", "raw:NETKIT-INSIDE filter:NETKIT-LINKS filter:NETKIT-FROM filter:NETKIT-TO"),
    "internal": ("inet", "filter:NETKIT-INTERNAL"),
    "guarded": ("inet", "raw:NETKIT-SOURCE"),
}
_PROGRAMS = ("iptables-legacy", "ip6tables-legacy")


def in_nftables() -> bool:
    """Whether netkit's rules here are in nftables."""
    return "table inet netkit" in run("nft list tables").splitlines()


def take_away(kind: str, link: str) -> None:
    """What that set of nftables.py does for *link*; of `ports`, iptables' do for all."""
    family, chains = _HOMES[kind]
    if in_nftables():
        run(f"nft 'delete element {family} netkit {kind} {{ \"{link}\" }}'")
        return
    for program in _PROGRAMS:
        for table, _, chain in (home.partition(":") for home in chains.split()):
            call = f"{program} -w -t {table}"
            theirs = "^-A" if kind == "ports" else f"^-A.* {link} "
            run(f"{call} -S {chain} | sed -n '/{theirs}/s/-A/-D/p' | xargs -rL1 {call}")


def admin(*rules: str) -> None:
    """Rules of the admin's own, first on all that is forwarded: words iptables and nft both know.

    Each is put before the others; `saddr ADDRESS` or `dport PORT`, and `accept` or `drop`.
    """
    for rule in rules:
        what, value, verdict = rule.split()
        if in_nftables():
            matched = {"saddr": f"ip saddr {value}", "dport": f"tcp dport {value}"}[what]
            run(f"nft insert rule inet netkit admin {matched} {verdict}")
        else:
            matched = {"saddr": f"-s {value}", "dport": f"-p tcp --dport {value}"}[what]
            run(f"iptables-legacy -w -I NETKIT-ADMIN {matched} -j {verdict.upper()}")


def admins() -> list[str]:
    """The rules in the admin's chain, whichever back end's."""
    listed = run("nft list chain inet netkit admin 2>/dev/null || iptables-legacy -S NETKIT-ADMIN")
    lines = (line.strip() for line in listed.splitlines())
    return [line for line in lines if line.lower().endswith(("accept", "drop"))]
