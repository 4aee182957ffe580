"""Conditions on what portmap publishes: matches of iptables' or of nft's, read as far as they can
be kept exactly, which is what is from or to a network, and what comes in by an interface.

    read(["!", "-d", "192.0.2.0/24"], 4).excluded(EVERYWHERE[4])    # what is not published

Errors   CniError for any other: without it more would be published than was asked for
Source   containernetworking/plugins, plugins/meta/portmap: whose language they are in
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from itertools import product
from typing import NamedTuple, cast

from cni.spec import CniError, Code
from netkit import naming
from netkit.addresses import Network

BACK_ENDS = ("iptables", "nftables")
EVERYWHERE = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_WORDS = {  # of a condition, as iptables and nft spell it
    **dict.fromkeys(("-s", "--source", "--src", "saddr"), "source"),
    **dict.fromkeys(("-d", "--destination", "--dst", "daddr"), "destination"),
    **dict.fromkeys(("-i", "--in-interface", "iifname"), "device"),
}


class Conditions(NamedTuple):
    """What packets must be like: from and to all of these, none of those, in by this interface."""

    only: tuple[tuple[str, Network], ...] = ()
    never: tuple[tuple[str, Network], ...] = ()
    device: str | None = None

    def excluded(self, meant: Network) -> list[tuple[Network, Network]]:
        """From where, to where of what is *meant*, nothing is published; no two overlap."""
        anywhere = EVERYWHERE[meant.version]
        sources, others = self._kept("source", anywhere), self._kept("destination", meant)
        return [
            *product(_but(anywhere, sources), [meant]),
            *product(sources, _but(meant, others)),
        ]

    def _kept(self, end: str, whole: Network) -> list[Network]:
        kept = [whole]
        for which, net in self.only:
            if which == end:
                kept = [common for each in kept for common in _common(each, net)]
        for which, net in self.never:
            if which == end:
                kept = [rest for each in kept for rest in _but(each, [net])]
        return kept


def _common(one: Network, other: Network) -> list[Network]:
    if not one.overlaps(other):
        return []
    return [max(one, other, key=lambda each: each.prefixlen)]


def _but(whole: Network, taken: Iterable[Network]) -> list[Network]:
    left = [whole]
    for net in taken:
        left = [rest for each in left for rest in _rest(each, net)]
    return left


def _rest(whole: Network, taken: Network) -> Iterable[Network]:
    if not whole.overlaps(taken):
        return [whole]
    if whole.prefixlen >= taken.prefixlen:
        return []
    return cast(Iterable[Network], whole.address_exclude(taken))  # type: ignore[arg-type]


def language(conditions: list[str]) -> str | None:
    """Of which back end these are: as in the reference, what begins so is iptables'."""
    if not conditions or not conditions[0]:
        return None
    return BACK_ENDS[0] if conditions[0][0] in "-!" else BACK_ENDS[1]


def read(conditions: list[str], version: int) -> Conditions:
    """Matches as iptables takes them (`! -d 192.0.2.0/24`), or nft (`ip daddr != 192.0.2.0/24`)."""
    found = Conditions()
    words = " ".join(conditions).split()
    while words:
        said = words[:4]
        family = words.pop(0) if words[0] in ("ip", "ip6") else None
        negated = words[0] == "!" and bool(words.pop(0))
        if len(words) < 2 or (what := _WORDS.get(words.pop(0))) is None:
            raise refused(" ".join(said))
        if words[0] in ("!=", "=="):
            negated = words.pop(0) == "!="
        value = words.pop(0).strip('"') if words else ""
        if what == "device":
            if negated or family or found.device not in (None, value):
                raise refused(" ".join(said))
            found = found._replace(device=naming.validate_ifname(value))
            continue
        try:
            net = ip_network(value, strict=False)
        except ValueError:
            raise refused(" ".join(said)) from None
        if net.version != version:
            raise refused(f"{value} for IPv{version}")
        if negated:
            found = found._replace(never=(*found.never, (what, net)))
        else:
            found = found._replace(only=(*found.only, (what, net)))
    return found


def refused(condition: str) -> CniError:
    return CniError(
        Code.INVALID_CONFIG,
        f"cannot publish on the condition {condition!r:.80}",
        "what can be kept exactly: [!] -s NETWORK, [!] -d NETWORK, -i INTERFACE; "
        "ip saddr|daddr [!=] NETWORK, iifname INTERFACE",
    )
