"""The nftables back end: two static tables, and set and map elements for all that varies.

Shapes   table `inet netkit` filters and translates, table `bridge netkit` guards the ports; chains
         never change after `open`; a network, a port or a container is a handful of elements.
         Sets whose names end in 4 or 6 are those of that IP version
Errors   NftError, with nft's own sentence; of elements OSError with the kernel's
Source   nft(8); Docker's semantics for published ports; trust.md S01-S20 for the guards

A lookup in a set costs the same with one element as with ten thousand, and adding an element costs
the same however many there are: that is why nothing here is ever a rule per container.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from netkit.firewall import (
    Admit,
    Allow,
    Cover,
    Guard,
    Hide,
    Isolate,
    Masquerade,
    NoTransit,
    Outgoing,
    Plain,
    Publish,
    Rule,
    Siblings,
    Source,
    Spare,
    elements,
    libnftables,
)
from netkit.firewall.elements import Element

# What there is of each set for each IP version: {v} is 4 or 6, {type} ipv4_addr or ipv6_addr
_BY_VERSION = """\
	set loop{v} { type {type} . {type}; flags interval; }
	set siblings{v} { type {type} . {type}; flags interval; }
	set hidden{v} { type {type}; }
	set covered{v} { type {type}; }
	set spared{v} { type {type} . {type} . inet_proto . inet_service; flags interval; }
	set sources{v} { type ifname . {type}; }
	set allowed{v} { type {type} . inet_proto . inet_service; flags interval; }
	map ports{v} { type {type} . inet_proto . inet_service : {type} . inet_service; }
	map wildcard{v} { type inet_proto . inet_service : {type} . inet_service; }
	map ranges{v} { type {type} . inet_proto . inet_service : {type}; flags interval; }
	map devices{v} { type ifname . inet_proto . inet_service : {type} . inet_service; }
	map outgoing{v} { type {type} : {type}; }
	map sourced{v} { type ifname : {type}; }
"""
_SETS_BY_VERSION = "".join(
    _BY_VERSION.replace("{v}", version).replace("{type}", f"ipv{version}_addr") for version in "46"
)

SCRIPT = f"""\
table inet netkit {{
	set inside {{ type ifname; }}
	set plain {{ type ifname; }}
	set internal {{ type ifname; }}
	set same {{ type ifname . ifname; }}
	set guarded {{ type ifname; }}
	set masqueraded {{ type nf_proto . ifname; }}
	set open {{ type nf_proto . ifname; }}
	set routed {{ type nf_proto . ifname; }}
	set transit {{ type nf_proto; }}
{_SETS_BY_VERSION}
	# yours: runs first on all that is forwarded, and netkit never writes to it
	chain admin {{
	}}

	# route_localnet is on for our bridges, so that localhost can reach published ports:
	# hence nobody behind them may reach the host's own loopback
	chain raw {{
		type filter hook prerouting priority raw; policy accept;
		iifname @inside ip daddr 127.0.0.0/8 drop
		iifname @plain ip daddr 127.0.0.0/8 drop
		iifname @guarded jump source
	}}

	chain source {{
		iifname . ip saddr @sources4 return
		iifname . ip6 saddr @sources6 return
		drop
	}}

	chain forward {{
		type filter hook forward priority filter; policy accept;
		jump admin
		iifname != @inside oifname != @inside jump transit
		iifname . oifname @same accept
		ct state invalid drop
		iifname @internal drop
		oifname @internal drop
		ct state established,related accept
		ct status dnat accept
		ip daddr . meta l4proto . th dport @allowed4 accept
		ip6 daddr . meta l4proto . th dport @allowed6 accept
		meta nfproto . oifname @routed meta l4proto {{ icmp, ipv6-icmp }} accept
		iifname @guarded oifname @guarded ip saddr . ip daddr @siblings4 accept
		iifname @guarded oifname @guarded ip6 saddr . ip6 daddr @siblings6 accept
		iifname != @inside meta nfproto . oifname @open accept
		oifname @inside drop
	}}

	# not ours: dropped only if it is we who made a router of this host
	chain transit {{
		iifname @plain accept
		oifname @plain accept
		ct state established,related accept
		meta nfproto @transit drop
		accept
	}}

	# 127.0.0.0/8 from outside is never translated: the kernel then drops it as a martian
	chain prerouting {{
		type nat hook prerouting priority dstnat; policy accept;
		ip daddr != 127.0.0.0/8 fib daddr type local jump publish
		ip6 daddr != ::1 fib daddr type local jump publish
	}}

	# the kernel routes nothing from ::1 off the loopback: left to whoever listens there
	chain output {{
		type nat hook output priority -100; policy accept;
		ip6 daddr ::1 accept
		fib daddr type local jump publish
	}}

	chain publish {{
		ip saddr . ip daddr . meta l4proto . th dport @spared4 return
		ip6 saddr . ip6 daddr . meta l4proto . th dport @spared6 return
		dnat ip to ip daddr . meta l4proto . th dport map @ports4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6
		dnat ip to iifname . meta l4proto . th dport map @devices4
		dnat ip6 to iifname . meta l4proto . th dport map @devices6
		dnat ip to meta l4proto . th dport map @wildcard4
		dnat ip6 to meta l4proto . th dport map @wildcard6
		dnat ip to ip daddr . meta l4proto . th dport map @ranges4
		dnat ip6 to ip6 daddr . meta l4proto . th dport map @ranges6
	}}

	# a container that meets its own network through a published port must see the host's
	# address, or the answer would take the short way back, untranslated
	chain postrouting {{
		type nat hook postrouting priority srcnat; policy accept;
		ip daddr 224.0.0.0/4 accept
		ip6 daddr ff00::/8 accept
		oifname != @inside jump outwards
		ct status dnat ip saddr . ip daddr @loop4 masquerade
		ct status dnat ip6 saddr . ip6 daddr @loop6 masquerade
		ct status dnat ip daddr @covered4 masquerade
		ct status dnat ip6 daddr @covered6 masquerade
		ct status dnat ip saddr 127.0.0.0/8 oifname @inside masquerade
		ct status dnat ip saddr 127.0.0.0/8 oifname @plain masquerade
		ip saddr @hidden4 ip saddr . ip daddr != @loop4 masquerade
		ip6 saddr @hidden6 ip6 saddr . ip6 daddr != @loop6 masquerade
	}}

	chain outwards {{
		snat ip to ip saddr map @outgoing4
		snat ip6 to ip6 saddr map @outgoing6
		snat ip to iifname map @sourced4
		snat ip6 to iifname map @sourced6
		meta nfproto . iifname @masqueraded masquerade
	}}
}}
table bridge netkit {{
	set ports {{ type ifname; }}
	set addresses4 {{ type ifname . ether_addr . ipv4_addr; }}
	set addresses6 {{ type ifname . ether_addr . ipv6_addr; }}
	set targets {{ typeof iifname . ether saddr . @th,64,128; }}
	set unaddressed {{ type ifname . ether_addr . ether_type; }}

	chain arp_sender {{
		iifname . arp saddr ether . arp saddr ip @addresses4 accept
	}}

	# nobody advertises a neighbour but itself (the target is what follows 8 bytes of ICMPv6),
	# and from no address one may only ask whether one's own is free, and listen
	chain neighbour {{
		icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @targets drop
		ip6 saddr != :: accept
		icmpv6 type {{ nd-neighbor-solicit, mld-listener-report, mld2-listener-report }} accept
	}}

	# what a port sends must bear its own MAC and address, in ARP and ND too; all else (IPv6 on an
	# IPv4 network, VLAN tags but on a trunk, router advertisements, DHCP answers, spanning tree)
	# is dropped before the bridge learns from it
	chain guard {{
		type filter hook prerouting priority -300; policy accept;
		iifname != @ports accept
		ether type {{ 8021q, 8021ad }} iifname . ether saddr . ether type != @unaddressed drop
		udp sport {{ 67, 547 }} drop
		iifname . ether saddr . ip saddr @addresses4 accept
		iifname . ether saddr . arp saddr ip @addresses4 jump arp_sender
		icmpv6 type {{ nd-router-advert, nd-redirect }} drop
		iifname . ether saddr . ip6 saddr @addresses6 jump neighbour
		iifname . ether saddr . ether type @unaddressed accept
		drop
	}}

	# slow protocols (LACP …) pass prerouting by, and the bridge would learn their sender's MAC
	chain guard_local {{
		type filter hook input priority -300; policy accept;
		iifname @ports ether daddr 01:80:c2:00:00:02 drop
	}}
}}
"""

_OURS = {"table inet netkit", "table bridge netkit"}
_HOMES = r"(?m)^\t(chain|set|map) (\w+) {"


class Nftables:
    """Rules as elements; every call is one transaction."""

    name = "nftables"

    def script(self) -> str:
        return SCRIPT

    def unscript(self) -> str:
        return "nft 'delete table inet netkit; delete table bridge netkit'"

    def listing(self) -> str:
        return "\n".join(libnftables.run(f"list {table}") for table in sorted(_OURS & _tables()))

    def open(self) -> None:
        libnftables.run(self._clear() + SCRIPT)

    def close(self) -> None:
        if script := self._clear():
            libnftables.run(script)

    def is_open(self) -> bool:
        return _tables() >= _OURS

    def add(self, rules: Sequence[Rule]) -> None:
        elements.add(_elements(rules), SCRIPT)

    def delete(self, rules: Sequence[Rule]) -> None:
        ours = _elements(rules)
        try:
            elements.delete(ours, SCRIPT)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._delete_each(ours)

    def _delete_each(self, ours: Iterable[Element]) -> None:
        """One is gone already, and nft takes all or nothing: take the rest one by one."""
        for element in ours:
            try:
                elements.delete([element], SCRIPT)
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
        if "table inet netkit" not in tables:
            return script
        if not _has_rules(libnftables.run("list chain inet netkit admin")):
            return script + "delete table inet netkit\n"
        # chains first, and emptied first: they refer to each other, and to the sets
        homes = sorted(re.findall(_HOMES, libnftables.run("list table inet netkit")))
        homes.remove(("chain", "admin"))
        flush = "".join(f"flush {kind} inet netkit {name}\n" for kind, name in homes)
        return (
            script + flush + "".join(f"delete {kind} inet netkit {name}\n" for kind, name in homes)
        )


def _tables() -> set[str]:
    return set(libnftables.run("list tables").splitlines())


def _has_rules(listing: str) -> bool:
    """Whether a chain's listing holds anything between its braces."""
    inside = listing.split("{", 2)[2] if listing.count("{") > 1 else ""
    return bool(inside.replace("}", "").strip())


def _elements(rules: Iterable[Rule]) -> list[Element]:
    return [element for rule in rules for element in _of(rule)]


_FAMILY = {4: "ipv4", 6: "ipv6"}
_DETECTION = "::"  # the sender of who asks whether its address is free (RFC 4862 5.4.2)


def _of(rule: Rule) -> Iterable[Element]:
    match rule:
        case Isolate():
            yield from _isolated(rule)
        case Siblings(subnet):
            for kind in ("siblings", "loop"):
                yield _inet(kind, f"{subnet} . {subnet}", version=subnet.version)
        case Plain(link):
            yield _inet("plain", f'"{link}"')
        case Hide(address):
            yield _inet("hidden", str(address), version=address.version)
        case Cover(address):
            yield _inet("covered", str(address), version=address.version)
        case Spare(source, destination, port, protocol, count):
            key = f"{source} . {destination} . {protocol} . {_ports(port, count)}"
            yield _inet("spared", key, version=source.version)
        case Masquerade(link, version, source):
            if source is None:
                yield _inet("masqueraded", f'{_FAMILY[version]} . "{link}"')
            else:
                yield _inet("sourced", f'"{link}"', str(source), version=source.version)
        case Outgoing(address, source):
            yield _inet("outgoing", str(address), str(source), version=address.version)
        case Guard():
            yield from _guarded(rule)
        case Source(link, addresses):
            yield _inet("guarded", f'"{link}"')
            for address in addresses:
                yield _inet("sources", f'"{link}" . {address}', version=address.version)
        case Admit():
            yield from _admitted(rule)
        case Publish():
            yield from _published(rule)
        case Allow(address, port, protocol, count):
            key = f"{address} . {protocol} . {_ports(port, count)}"
            yield _inet("allowed", key, version=address.version)
        case NoTransit(version):
            yield _inet("transit", _FAMILY[version])


def _inet(kind: str, key: str, data: str = "", *, version: int | None = None) -> Element:
    return Element(f"inet netkit {kind}{version or ''}", key, data)


def _ports(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _isolated(rule: Isolate) -> Iterable[Element]:
    link = f'"{rule.link}"'
    yield _inet("inside", link)
    if rule.icc:
        yield _inet("same", f"{link} . {link}")
    if rule.internal:
        yield _inet("internal", link)
    for subnet in rule.subnets:
        yield _inet("loop", f"{subnet} . {subnet}", version=subnet.version)
    for kind, versions in (("open", rule.open), ("routed", rule.routed)):
        for version in versions:
            yield _inet(kind, f"{_FAMILY[version]} . {link}")


def _guarded(rule: Guard) -> Iterable[Element]:
    who = f'"{rule.port}" . {rule.mac}'
    yield Element("bridge netkit ports", f'"{rule.port}"')
    for kind in ("8021q", "8021ad") if rule.tagged else ():
        yield Element("bridge netkit unaddressed", f"{who} . {kind}")
    if not rule.addresses:
        for kind in ("ip", "arp", *(["ip6"] if rule.ipv6 else [])):
            yield Element("bridge netkit unaddressed", f"{who} . {kind}")
        return
    for address in rule.addresses:
        yield Element(f"bridge netkit addresses{address.version}", f"{who} . {address}")
    sixes = [address for address in rule.addresses if address.version == 6]
    if sixes:
        yield Element("bridge netkit addresses6", f"{who} . {_DETECTION}")
    for address in sixes:
        yield Element("bridge netkit targets", f"{who} . {int(address):#034x}")


def _admitted(rule: Admit) -> Iterable[Element]:
    """As _guarded, but for what a port has but once."""
    for address in rule.addresses:
        who, v = f'"{rule.port}"', address.version
        if rule.mac is None:
            yield _inet("sources", f"{who} . {address}", version=v)
            continue
        yield Element(f"bridge netkit addresses{v}", f"{who} . {rule.mac} . {address}")
        if v == 6:
            yield Element("bridge netkit targets", f"{who} . {rule.mac} . {int(address):#034x}")


def _published(rule: Publish) -> Iterable[Element]:
    version = rule.address.version
    host = str(rule.host_address or "")
    if rule.count > 1 and rule.host_port == rule.port and rule.device is None:
        # the port stays, so only the address is mapped, and the whole range is one element
        host = host or ("0.0.0.0/0" if version == 4 else "::/0")
        key = f"{host} . {rule.protocol} . {_ports(rule.host_port, rule.count)}"
        yield _inet("ranges", key, str(rule.address), version=version)
        return
    for i in range(rule.count):
        key = f"{rule.protocol} . {rule.host_port + i}"
        data = f"{rule.address} . {rule.port + i}"
        if rule.device is not None:
            yield _inet("devices", f'"{rule.device}" . {key}', data, version=version)
        elif host:
            yield _inet("ports", f"{host} . {key}", data, version=version)
        else:
            yield _inet("wildcard", key, data, version=version)


def _lines(verb: str, elements: Iterable[Element]) -> list[str]:
    """One line for each run of elements with the same home."""
    lines = []
    for home, group in groupby(elements, key=lambda element: element.home):
        with_data = verb == "add"
        items = [f"{e.key} : {e.data}" if e.data and with_data else e.key for e in group]
        lines.append(f"{verb} element {home} {{ {', '.join(items)} }}")
    return lines
