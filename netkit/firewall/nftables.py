"""The nftables back end: two static tables, and set and map elements for all that varies.

Shapes   table `ip netkit` routes and translates, table `bridge netkit` guards the ports; chains
         never change after `open`; a network, a port or a container is a handful of elements
Errors   NftError, with nft's own sentence
Source   nft(8); Docker's semantics for published ports; trust.md S01-S20 for the guards

A lookup in a set costs the same with one element as with ten thousand, and adding an element costs
the same however many there are: that is why nothing here is ever a rule per container.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from netkit.firewall import Guard, Isolate, Masquerade, Publish, Rule, libnftables

SCRIPT = """\
table ip netkit {
	set bridges { type ifname; }
	set internal { type ifname; }
	set masqueraded { type ifname; }
	set same { type ifname . ifname; }
	set loop { type ipv4_addr . ipv4_addr; flags interval; }
	map ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }
	map wildcard { type inet_proto . inet_service : ipv4_addr . inet_service; }
	map ranges { type ipv4_addr . inet_proto . inet_service : ipv4_addr; flags interval; }

	# yours: runs first on all that is forwarded, and netkit never writes to it
	chain admin {
	}

	# route_localnet is on for our bridges, so that localhost can reach published ports:
	# hence nobody behind them may reach the host's own loopback
	chain raw {
		type filter hook prerouting priority raw; policy accept;
		iifname @bridges ip daddr 127.0.0.0/8 drop
	}

	chain forward {
		type filter hook forward priority filter; policy accept;
		jump admin
		iifname != @bridges oifname != @bridges accept
		iifname . oifname @same accept
		ct state invalid drop
		iifname @internal drop
		oifname @internal drop
		ct state established,related accept
		ct status dnat accept
		oifname @bridges drop
	}

	# 127.0.0.0/8 from outside is never translated: the kernel then drops it as a martian
	chain prerouting {
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local jump publish
	}

	chain output {
		type nat hook output priority -100; policy accept;
		fib daddr type local jump publish
	}

	chain publish {
		dnat ip to ip daddr . meta l4proto . th dport map @ports
		dnat ip to meta l4proto . th dport map @wildcard
		dnat ip to ip daddr . meta l4proto . th dport map @ranges
	}

	# a container that meets its own network through a published port must see the host's
	# address, or the answer would take the short way back, untranslated
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 accept
		iifname @masqueraded oifname != @bridges masquerade
		ct status dnat ip saddr . ip daddr @loop masquerade
		ct status dnat ip saddr 127.0.0.0/8 oifname @bridges masquerade
	}
}
table bridge netkit {
	set ports { type ifname; }
	set addresses { type ifname . ether_addr . ipv4_addr; }
	set unaddressed { type ifname . ether_addr; }

	chain arp_sender {
		iifname . arp saddr ether . arp saddr ip @addresses accept
	}

	# what a port sends must bear its own MAC and address, in ARP too; all else (IPv6 on an IPv4
	# network, VLAN tags, DHCP answers, spanning tree) is dropped before the bridge learns from it
	chain guard {
		type filter hook prerouting priority -300; policy accept;
		iifname != @ports accept
		ether type { 8021q, 8021ad } drop
		udp sport 67 drop
		iifname . ether saddr . ip saddr @addresses accept
		iifname . ether saddr . arp saddr ip @addresses jump arp_sender
		iifname . ether saddr @unaddressed ether type { ip, arp } accept
		drop
	}

	# slow protocols (LACP …) pass prerouting by, and the bridge would learn their sender's MAC
	chain guard_local {
		type filter hook input priority -300; policy accept;
		iifname @ports ether daddr 01:80:c2:00:00:02 drop
	}
}
"""

_CHAINS = ("raw", "forward", "prerouting", "output", "publish", "postrouting")
_SETS = ("bridges", "internal", "masqueraded", "same", "loop")
_MAPS = ("ports", "wildcard", "ranges")


class Element(NamedTuple):
    """One element of a set (`data` empty) or of a map."""

    home: str  # "ip netkit ports": family, table, set
    key: str
    data: str = ""


class Nftables:
    """Rules as elements; every call is one transaction."""

    name = "nftables"

    def script(self) -> str:
        return SCRIPT

    def open(self) -> None:
        libnftables.run(self._clear() + SCRIPT)

    def close(self) -> None:
        if script := self._clear():
            libnftables.run(script)

    def is_open(self) -> bool:
        return {"table ip netkit", "table bridge netkit"} <= _tables()

    def add(self, rules: Sequence[Rule]) -> None:
        if lines := self.lines(rules):
            libnftables.run("\n".join(lines))

    def delete(self, rules: Sequence[Rule]) -> None:
        elements = _elements(rules)
        try:
            libnftables.run("\n".join(_lines("delete", elements)))
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._delete_each(elements)

    def _delete_each(self, elements: Iterable[Element]) -> None:
        """One is gone already, and nft takes all or nothing: take the rest one by one."""
        for element in elements:
            try:
                libnftables.run("\n".join(_lines("delete", [element])))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        missing = []
        for element in _elements(rules):
            try:
                found = libnftables.run(f"get element {element.home} {{ {element.key} }}")
            except OSError:
                found = ""
            if not found or (element.data and f": {element.data}" not in found):
                missing.extend(_lines("add", [element]))
        return missing

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return _lines(verb, _elements(rules))

    def _clear(self) -> str:
        """What removes our tables; rules somebody put into `admin` stay, in their table."""
        tables = _tables()
        script = "delete table bridge netkit\n" if "table bridge netkit" in tables else ""
        if "table ip netkit" not in tables:
            return script
        if not _has_rules(libnftables.run("list chain ip netkit admin")):
            return script + "delete table ip netkit\n"
        homes = [("chain", name) for name in _CHAINS]
        homes += [("set", name) for name in _SETS] + [("map", name) for name in _MAPS]
        present = libnftables.run("list table ip netkit")
        homes = [(kind, name) for kind, name in homes if f"\t{kind} {name} {{" in present]
        flush = "".join(f"flush {kind} ip netkit {name}\n" for kind, name in homes)
        return script + flush + "".join(f"delete {kind} ip netkit {name}\n" for kind, name in homes)


def _tables() -> set[str]:
    return set(libnftables.run("list tables").splitlines())


def _has_rules(listing: str) -> bool:
    """Whether a chain's listing holds anything between its braces."""
    inside = listing.split("{", 2)[2] if listing.count("{") > 1 else ""
    return bool(inside.replace("}", "").strip())


def _elements(rules: Iterable[Rule]) -> list[Element]:
    return [element for rule in rules for element in _of(rule)]


def _of(rule: Rule) -> Iterable[Element]:
    match rule:
        case Isolate(bridge, subnet, internal):
            yield Element("ip netkit bridges", f'"{bridge}"')
            yield Element("ip netkit same", f'"{bridge}" . "{bridge}"')
            yield Element("ip netkit loop", f"{subnet} . {subnet}")
            if internal:
                yield Element("ip netkit internal", f'"{bridge}"')
        case Masquerade(bridge):
            yield Element("ip netkit masqueraded", f'"{bridge}"')
        case Guard(port, mac, addresses):
            yield Element("bridge netkit ports", f'"{port}"')
            for address in addresses:
                yield Element("bridge netkit addresses", f'"{port}" . {mac} . {address}')
            if not addresses:
                yield Element("bridge netkit unaddressed", f'"{port}" . {mac}')
        case Publish():
            yield from _published(rule)


def _published(rule: Publish) -> Iterable[Element]:
    if rule.count > 1 and rule.host_port == rule.port:
        # the port stays, so only the address is mapped, and the whole range is one element
        host = rule.host_address or "0.0.0.0/0"
        ports = f"{rule.host_port}-{rule.host_port + rule.count - 1}"
        yield Element("ip netkit ranges", f"{host} . {rule.protocol} . {ports}", str(rule.address))
        return
    for i in range(rule.count):
        key = f"{rule.protocol} . {rule.host_port + i}"
        data = f"{rule.address} . {rule.port + i}"
        if rule.host_address is None:
            yield Element("ip netkit wildcard", key, data)
        else:
            yield Element("ip netkit ports", f"{rule.host_address} . {key}", data)


def _lines(verb: str, elements: Iterable[Element]) -> list[str]:
    """One line for each run of elements with the same home."""
    lines = []
    for home, group in groupby(elements, key=lambda element: element.home):
        with_data = verb == "add"
        items = [f"{e.key} : {e.data}" if e.data and with_data else e.key for e in group]
        lines.append(f"{verb} element {home} {{ {', '.join(items)} }}")
    return lines
