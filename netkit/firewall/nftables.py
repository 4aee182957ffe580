"""The nftables back end: two static tables, and set and map elements for all that varies.

Shapes   table `inet netkit` filters and translates, table `bridge netkit` guards the ports; chains
         never change after `open` (netkit.firewall.tables); a network, a port or a container is a
         handful of elements
Errors   NftError, with nft's own sentence; of elements OSError with the kernel's
Source   nft(8)

A lookup in a set costs the same with one element as with ten thousand, and adding an element costs
the same however many there are: that is why nothing here is ever a rule per container. Of a set
with intervals that holds while few have the first field of the key: so it is what differs most.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence, Set
from ipaddress import ip_network
from itertools import groupby

from netkit.addresses import Address
from netkit.firewall import (
    Admit,
    Allow,
    Closed,
    Confine,
    Cover,
    Egress,
    Guard,
    Hide,
    HostPort,
    Isolate,
    Learnt,
    Masquerade,
    Meet,
    NoHost,
    NoTransit,
    Outgoing,
    Plain,
    Publish,
    Reach,
    Rule,
    Serve,
    Siblings,
    Source,
    Spare,
    elements,
    libnftables,
    structure,
)
from netkit.firewall.elements import Element
from netkit.firewall.tables import SCRIPT

_OURS = {"table inet netkit", "table bridge netkit"}
_HOMES = r"(?m)^\t(chain|set|map) (\w+) {"


class Nftables:
    """Rules as elements; every call is one transaction."""

    name = "nftables"
    sees_bridges = True
    learns = True

    def refuses(self, rules: Sequence[Rule]) -> str:
        return ""

    def script(self) -> str:
        return SCRIPT

    def unscript(self) -> str:
        return "nft 'delete table inet netkit; delete table bridge netkit'"

    def listing(self) -> str:
        return "\n".join(libnftables.run(f"list {table}") for table in sorted(_OURS & _tables()))

    def open(self, rules: Sequence[Rule] = ()) -> None:
        coming = dict.fromkeys(_elements(rules))
        libnftables.run(self._clear() + SCRIPT + "\n".join(_lines("add", coming)))

    def close(self) -> None:
        if script := self._clear():
            libnftables.run(script)

    def is_open(self) -> bool:
        return _tables() >= _OURS

    def altered(self) -> Sequence[str]:
        return structure.altered(SCRIPT, but=("admin",))

    def add(self, rules: Sequence[Rule]) -> None:
        self._put(_elements(rules))

    def _put(self, coming: Sequence[Element]) -> None:
        try:
            elements.add(coming, SCRIPT)
        except OSError as error:
            if error.errno != errno.ENOENT or not self._mend():
                raise
            elements.add(coming, SCRIPT)

    def delete(self, rules: Sequence[Rule]) -> None:
        ours = _elements(rules)
        try:
            elements.delete(ours, SCRIPT)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._delete_each(ours)

    def exchange(self, gone: Sequence[Rule], added: Sequence[Rule]) -> None:
        old, new = _elements(gone), _elements(added)
        leaving = [element for element in old if element not in new]
        coming = [element for element in new if element not in old]
        try:
            elements.exchange(leaving, coming, SCRIPT)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
            self._delete_each(leaving)
            self._put(coming)

    def forget(self, addresses: Sequence[Address]) -> None:
        for version in {address.version for address in addresses}:
            ours = "|".join(re.escape(str(address)) for address in addresses)
            for kind in ("learnt", "learnt_all"):
                home = f"inet netkit {kind}{version}"
                listed = libnftables.run(f"list set {home}")
                keys = re.findall(rf"[{{,]\s+((?:{ours})(?: \. [^\s,]+)+)", listed)
                self._delete_each(Element(home, key) for key in keys)

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

    def among(self, rules: Sequence[Rule], taken: Set[tuple[str, bytes]]) -> list[Rule]:
        """Those rules that need one of the elements *taken* (netkit.firewall.notices)."""
        return [
            rule for rule in rules if not taken.isdisjoint(elements.keys(_elements([rule]), SCRIPT))
        ]

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return _lines(verb, _elements(rules))

    def _mend(self) -> bool:
        """Let tables that an older netkit made be as they are made now; nothing of theirs is lost.

        All in one transaction, chains emptied and filled. False: there is nothing to mend.
        """
        there = {
            (table.partition(" {")[0], *home)
            for table in self.listing().split("table ")[1:]
            for home in re.findall(_HOMES, table)
        }
        wanted = {
            (table.partition(" {")[0], *home)
            for table in SCRIPT.split("table ")[1:]
            for home in re.findall(_HOMES, table)
        }
        if not self.is_open() or wanted <= there:
            return False
        emptied = sorted(
            f"flush chain {table} {name}\n"
            for table, kind, name in there
            if kind == "chain" and name != "admin"
        )
        libnftables.run("".join(emptied) + SCRIPT)
        return True

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
_EVERYBODY = (ip_network("0.0.0.0/0"), ip_network("::/0"))
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
        case Closed(port, link, mac):
            yield Element("bridge netkit closed", f'"{port}"')
            yield Element("bridge netkit reach_all", f'"{port}" . "{port}"')
            yield _inet("stations", f'"{link}" . {mac}')
        case Meet(one, None):
            yield Element("bridge netkit meet_all", f'"{one}"')
        case Meet(one, other):
            yield Element("bridge netkit meet", f'"{one}" . "{other}"')
        case Reach():
            yield _reached(rule)
        case Serve():
            yield from _served(rule)
        case NoHost(link, gateways):
            yield _inet("hostless", f'"{link}"')
            for gateway in gateways:
                yield _inet("gateways", f'"{link}" . {gateway}', version=gateway.version)
        case HostPort(link, port, protocol, count, address):
            for net in _EVERYBODY if address is None else (address,):
                key = f'{net} . "{link}" . {protocol} . {_ports(port, count)}'
                yield _inet("host_ports", key, version=net.version)
        case Confine(link, None):
            yield _inet("confined", f'"{link}"')
        case Confine(_, address) if address is not None:
            yield _inet("confined", str(address), version=address.version)
        case Egress():
            yield from _let_out(rule)
        case Learnt():
            yield from _learnt(rule)


def _inet(kind: str, key: str, data: str = "", *, version: int | None = None) -> Element:
    return Element(f"inet netkit {kind}{version or ''}", key, data)


def _ports(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"


def _isolated(rule: Isolate) -> Iterable[Element]:
    link = f'"{rule.link}"'
    yield _inet("inside", link)
    yield _inet("same" if rule.icc else "switched", f"{link} . {link}")
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


def _reached(rule: Reach) -> Element:
    home = f"{'bridge' if rule.bridged else 'inet'} netkit reach"
    key = f'"{rule.client}" . "{rule.server}"'
    if rule.port is None:
        return Element(f"{home}_all", key)
    home += "_ranges" * (rule.count > 1)
    return Element(home, f"{key} . {rule.protocol} . {_ports(rule.port, rule.count)}")


def _served(rule: Serve) -> Iterable[Element]:
    kind, which = "serve_all", ""
    if rule.port is not None:
        kind, which = "serve", f" . {rule.protocol} . {_ports(rule.port, rule.count)}"
    if rule.bridged:
        kind += "_ranges" * (rule.count > 1)
        yield Element(f"bridge netkit {kind}", f'"{rule.server}"{which}')
        return
    for subnet in rule.subnets:
        yield _inet(kind, f'"{rule.server}" . {subnet}{which}', version=subnet.version)


def _let_out(rule: Egress) -> Iterable[Element]:
    kind, who = ("egress", rule.address) if rule.link is None else ("link_egress", f'"{rule.link}"')
    key, version = f"{rule.destination} . {who}", rule.destination.version
    if rule.port is None and rule.protocol is None:
        yield _inet(f"{kind}_all", key, version=version)
        return
    ports = "0-65535" if rule.port is None else _ports(rule.port, rule.count)
    for protocol in (rule.protocol,) if rule.protocol else ("tcp", "udp"):
        yield _inet(kind, f"{key} . {protocol} . {ports}", version=version)


def _learnt(rule: Learnt) -> Iterable[Element]:
    """Looked up among many and put by the dozen: so there are no ranges."""
    key, version = f"{rule.address} . {rule.destination}", rule.address.version
    if rule.port is None:
        element = _inet("learnt_all", key, version=version)
        yield element._replace(timeout_s=rule.timeout_s)
        return
    for protocol in (rule.protocol,) if rule.protocol else ("tcp", "udp"):
        for port in range(rule.port, rule.port + rule.count):
            element = _inet("learnt", f"{key} . {protocol} . {port}", version=version)
            yield element._replace(timeout_s=rule.timeout_s)


def _lines(verb: str, elements: Iterable[Element]) -> list[str]:
    """One line for each run of elements with the same home."""
    lines = []
    for home, group in groupby(elements, key=lambda element: element.home):
        items = [element.text() if verb == "add" else element.key for element in group]
        lines.append(f"{verb} element {home} {{ {', '.join(items)} }}")
    return lines
