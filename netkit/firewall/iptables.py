"""The iptables back end: chains of our own in the legacy tables, for hosts without nftables.

Shapes   each set of nftables.py is a chain here, and each element a rule in it, so the order
         within one does not matter. A rule bears the comment `nk:` and 32 hex digits: 8 digest
         what it matches but ports, 8 are the ports (first, last), 16 digest all. IPv4 and IPv6
         have rules of their own
Errors   IptablesError: ENOENT without our chains, EEXIST for two ends of one port, EBUSY for the
         lock, ETIMEDOUT for a worker that hangs
Source   iptables(8), iptables-extensions(8); nftables.py for what each rule means

A packet walks a chain rule by rule, and a change reads and writes the whole table: both grow with
the number of containers and ports, where nftables stays as it is (docs/limits.md has figures).
One call is one transaction per table. If a later table refuses, the earlier ones are put back.

python-iptables runs in a process per IP version (iptables_worker.py), started on first use where
the caller is, and ended with the thread that started it. The lock is held here, by the caller.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from netkit.addresses import Address
from netkit.errors import KernelRefused
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
)

LOCK = "/run/xtables.lock"  # every iptables program takes it
ADMIN = "NETKIT-ADMIN"
_LOCK_TIMEOUT_S = 5.0
_WORKER_TIMEOUT_S = 5.0
_SAVE_TIMEOUT_S = 10.0
_PROGRAM = {4: "iptables-legacy", 6: "ip6tables-legacy"}
_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "iptables_worker.py")
_PROTOCOLS = ("tcp", "udp", "sctp")

# Our chains and what is always in them; `4` or `6` in front: in that IP version only. A rule in a
# chain not ours is a jump to one of ours: `-I` is before all others, because another tool's ACCEPT
# must not open a network; `-A` is after them, because nothing is translated twice.
_STATIC = """\
raw: NETKIT-RAW NETKIT-INSIDE NETKIT-PLAIN NETKIT-PORTS NETKIT-ROGUE NETKIT-GUARD NETKIT-SOURCE
  -I PREROUTING -j NETKIT-RAW
  -A NETKIT-RAW -j NETKIT-INSIDE
  -A NETKIT-RAW -j NETKIT-PLAIN
  -A NETKIT-RAW -j NETKIT-SOURCE
  -A NETKIT-PORTS -j NETKIT-ROGUE
  -A NETKIT-PORTS -j NETKIT-GUARD
filter: NETKIT-FORWARD NETKIT-ADMIN NETKIT-LINKS NETKIT-OURS NETKIT-SAME NETKIT-INTERNAL \
NETKIT-ALLOWED NETKIT-ROUTED NETKIT-FROM NETKIT-INSIDE NETKIT-GUARDED NETKIT-PEERS \
NETKIT-SIBLINGS NETKIT-TO NETKIT-OPEN NETKIT-LEAVE NETKIT-EGRESS NETKIT-TRANSIT NETKIT-INPUT \
NETKIT-HOST
  -I FORWARD -j NETKIT-FORWARD
  -A NETKIT-FORWARD -j NETKIT-ADMIN
  -A NETKIT-FORWARD -j NETKIT-LINKS
  -A NETKIT-FORWARD -j NETKIT-TRANSIT
  -A NETKIT-OURS -j NETKIT-SAME
  -A NETKIT-OURS -m conntrack --ctstate INVALID -j DROP
  -A NETKIT-OURS -j NETKIT-INTERNAL
  -A NETKIT-OURS -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
  -A NETKIT-OURS -j NETKIT-LEAVE
  -A NETKIT-OURS -m conntrack --ctstate DNAT -j ACCEPT
  -A NETKIT-OURS -j NETKIT-ALLOWED
  -A NETKIT-OURS -j NETKIT-FROM
  -A NETKIT-OURS -j NETKIT-OPEN
  -A NETKIT-OURS -j NETKIT-ROUTED
  -A NETKIT-OURS -j DROP
  -A NETKIT-INSIDE -j NETKIT-GUARDED
  -A NETKIT-INSIDE -j NETKIT-TO
  -A NETKIT-INSIDE -j ACCEPT
  -A NETKIT-EGRESS -j DROP
  -A NETKIT-TRANSIT -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
  -I INPUT -j NETKIT-INPUT
  -A NETKIT-HOST -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
6 -A NETKIT-HOST -p icmpv6 -m icmp6 --icmpv6-type 135 -j RETURN
6 -A NETKIT-HOST -p icmpv6 -m icmp6 --icmpv6-type 136 -j RETURN
  -A NETKIT-HOST -j DROP
nat: NETKIT-PUBLISH NETKIT-PORTS NETKIT-DEVICES NETKIT-WILDCARD NETKIT-RANGES NETKIT-POST \
NETKIT-LOOP NETKIT-PLAIN NETKIT-HIDDEN NETKIT-OUTWARDS NETKIT-OUTGOING NETKIT-SOURCED \
NETKIT-MASQUERADE
4 -A PREROUTING ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j NETKIT-PUBLISH
6 -A PREROUTING ! -d ::1/128 -m addrtype --dst-type LOCAL -j NETKIT-PUBLISH
4 -A OUTPUT -m addrtype --dst-type LOCAL -j NETKIT-PUBLISH
6 -A OUTPUT ! -d ::1/128 -m addrtype --dst-type LOCAL -j NETKIT-PUBLISH
  -A POSTROUTING -j NETKIT-POST
  -A NETKIT-PUBLISH -j NETKIT-PORTS
  -A NETKIT-PUBLISH -j NETKIT-DEVICES
  -A NETKIT-PUBLISH -j NETKIT-WILDCARD
  -A NETKIT-PUBLISH -j NETKIT-RANGES
4 -A NETKIT-POST -d 224.0.0.0/4 -j RETURN
6 -A NETKIT-POST -d ff00::/8 -j RETURN
  -A NETKIT-POST -j NETKIT-LOOP
  -A NETKIT-POST -j NETKIT-PLAIN
  -A NETKIT-POST -j NETKIT-HIDDEN
  -A NETKIT-POST -j NETKIT-OUTWARDS
  -A NETKIT-OUTWARDS -j NETKIT-OUTGOING
  -A NETKIT-OUTWARDS -j NETKIT-SOURCED
  -A NETKIT-OUTWARDS -j NETKIT-MASQUERADE
"""


class IptablesError(OSError):
    """The rules are as they were: refused, or not even tried."""


class IptcMissing(KernelRefused):
    """python-iptables is not installed."""


class Line(NamedTuple):
    """One rule, in one table of one IP version."""

    version: int
    table: str
    chain: str
    words: tuple[str, ...]
    first: bool = False  # goes to the chain's top: it is an exception to the others

    @property
    def comment(self) -> str:
        """What it matches but ports, the ports, and all of it: in 32 hex digits."""
        target = self.words.index("-j")
        words = list(self.words[:target])
        # two that match the same exclude each other if they translate it to different ends
        low, high = ("0", "65535") if self.words[target + 1] == "SNAT" else ("1", "0")
        if "--dport" in words:
            at = words.index("--dport")
            low, _, end = words[at + 1].partition(":")
            high = end or low
            del words[at : at + 2]
        return f"{_digest(words, 8)}{int(low):04x}{int(high):04x}{_digest(self.words, 16)}"

    def command(self, verb: str) -> str:
        """The line an operator would type."""
        how = {"add": "-I" if self.first else "-A", "delete": "-D"}[verb]
        return f"{_PROGRAM[self.version]} -w -t {self.table} {how} {self.text()}"

    def text(self) -> str:
        words, target = self.words, self.words.index("-j")
        comment = ("-m", "comment", "--comment", f"nk:{self.comment}")
        return " ".join((self.chain, *words[:target], *comment, *words[target:]))

    def add(self) -> list[Any]:
        """The worker's change that adds it."""
        return [self.table, "add", self.chain, self.first, self.comment, list(self.words)]

    def delete(self) -> list[Any]:
        return [self.table, "delete", self.chain, self.comment]


Change = Callable[[Line], list[Any]]


class Iptables:
    """Rules as lines; every call is one transaction per table."""

    name = "iptables"
    sees_bridges = False
    learns = False

    def refuses(self, rules: Sequence[Rule]) -> str:
        return next((why for rule in rules if (why := _refused(rule))), "")

    def script(self) -> str:
        return "".join(
            f"{_PROGRAM[version]}-restore -w --noflush <<'END'\n{_restored(version)}END\n"
            for version in _versions()
        )

    def unscript(self) -> str:
        """What `close` runs, as text an operator can run."""
        return "".join(
            f"{_PROGRAM[version]}-restore -w --noflush <<'END'\n{_removed(version)}END\n"
            for version in _versions()
        )

    def listing(self) -> str:
        shown = []
        for version in _versions():
            command = [f"{_PROGRAM[version]}-save"]
            saved = subprocess.run(command, capture_output=True, text=True, timeout=_SAVE_TIMEOUT_S)
            lines = saved.stdout.splitlines()
            shown.append(f"# {_PROGRAM[version]}")
            shown += [line for line in lines if "NETKIT-" in line or line.startswith("*")]
        return "\n".join(shown)

    def open(self, rules: Sequence[Rule] = ()) -> None:
        with locked():
            try:
                transact({version: _opening(version) for version in _versions()})
                change(_lines(rules), Line.add, Line.delete)
            except BaseException:
                with suppress(OSError):
                    self._close()
                raise

    def close(self) -> None:
        with locked():
            self._close()

    def _close(self) -> None:
        found = listed({version: _tables() for version in _versions()})
        transact({version: _closing(version, tables) for version, tables in found.items()})

    def altered(self) -> Sequence[str]:
        return ()  # a rule has no name but its comment, and the order is not looked at

    def is_open(self) -> bool:
        found = listed({version: _tables() for version in _versions()})
        return all(
            line.comment in tables.get(line.table, {}).get(line.chain, ())
            for version, tables in found.items()
            for line in _static(version)
        )

    def add(self, rules: Sequence[Rule]) -> None:
        lines = _lines(rules)
        with locked(bool(lines)):
            change(lines, Line.add, Line.delete)

    def delete(self, rules: Sequence[Rule]) -> None:
        lines = _lines(rules)
        with locked(bool(lines)):
            change(lines, Line.delete, Line.add)

    def exchange(self, gone: Sequence[Rule], added: Sequence[Rule]) -> None:
        old, new = _lines(gone), _lines(added)
        leaving = {line for line in old if line not in new}
        coming = [line for line in new if line not in old]

        def there(line: Line) -> list[Any]:
            return line.delete() if line in leaving else line.add()

        def back(line: Line) -> list[Any]:
            return line.add() if line in leaving else line.delete()

        with locked(bool(leaving or coming)):
            change([*leaving, *coming], there, back)

    def forget(self, addresses: Sequence[Address]) -> None:
        """Nothing is ever learnt."""

    def check(self, rules: Sequence[Rule]) -> Sequence[str]:
        return [line.command("add") for line in missing(_lines(rules))]

    def lines(self, rules: Sequence[Rule], verb: str = "add") -> Sequence[str]:
        return [line.command(verb) for line in _lines(rules)]


# -- what each rule is


def _lines(rules: Iterable[Rule]) -> list[Line]:
    """In the order given, each once, of the IP versions the kernel has."""
    versions = _versions()
    found = [line for rule in rules for line in _of(rule) if line.version in versions]
    return list(dict.fromkeys(found))


_BLIND = (
    "iptables sees nothing that a bridge passes on, so a closed network on one is closed to all "
    "(with driver veth it is not)"
)
_FORGETFUL = (
    "iptables has no sets whose elements go by themselves, so one may go to addresses only, not "
    "to domains"
)


def _refused(rule: Rule) -> str:
    match rule:
        case Meet() | Reach(bridged=True) | Serve(bridged=True):
            return _BLIND
        case Learnt():
            return _FORGETFUL
    return ""


def _of(rule: Rule) -> Iterator[Line]:
    if why := _refused(rule):
        raise IptablesError(errno.EOPNOTSUPP, why)
    match rule:
        case Isolate():
            yield from _isolated(rule)
        case Siblings(subnet):
            v, both = subnet.version, f"-s {subnet} -d {subnet}"
            yield _line(v, "filter", "SIBLINGS", f"{both} -j ACCEPT")
            yield _line(v, "nat", "LOOP", f"{both} {_TRANSLATED} -j MASQUERADE")
            yield _line(v, "nat", "HIDDEN", f"{both} -j RETURN", first=True)
        case Plain(link):
            yield from _plain(_name(link))
        case Hide(address):
            yield _line(address.version, "nat", "HIDDEN", f"-s {address} -j MASQUERADE")
        case Cover(address):
            words = f"-d {address} {_TRANSLATED} -j MASQUERADE"
            yield _line(address.version, "nat", "LOOP", words)
        case Spare(source, destination, port, protocol, count):
            words = f"-s {source} -d {destination} {_ports(protocol, port, count)} -j RETURN"
            yield _line(source.version, "nat", "PUBLISH", words, first=True)
        case Masquerade(link, version, None):
            yield _line(version, "nat", "MASQUERADE", f"-i {_name(link)} -j MASQUERADE")
        case Masquerade(link, _, source) if source is not None:
            words = f"-i {_name(link)} -j SNAT --to-source {source}"
            yield _line(source.version, "nat", "SOURCED", words)
        case Outgoing(address, source):
            words = f"-s {address} -j SNAT --to-source {source}"
            yield _line(address.version, "nat", "OUTGOING", words)
        case Guard():
            yield from _guarded(rule)
        case Source(link, addresses):
            name = _name(link)
            for address in addresses:
                words = f"-i {name} -s {address} -j RETURN"
                yield _line(address.version, "raw", "SOURCE", words, first=True)
            for v in (4, 6):
                yield _line(v, "raw", "SOURCE", f"-i {name} -j DROP")
                # siblings are told by their addresses, so both must be held to theirs
                yield _line(v, "filter", "GUARDED", f"-i {name} -j NETKIT-PEERS")
                yield _line(v, "filter", "PEERS", f"-o {name} -j NETKIT-SIBLINGS")
        case Admit(port, mac, addresses):
            for address in addresses:
                v = address.version
                if mac is None:
                    words = f"-i {_name(port)} -s {address} -j RETURN"
                    yield _line(v, "raw", "SOURCE", words, first=True)
                    continue
                words = f"-s {address} -m mac --mac-source {mac} -j RETURN"
                yield _line(v, "raw", "GUARD", words, first=True)
                yield _line(v, "raw", "GUARD", f"-s {address} -j DROP")
        case Publish():
            yield _published(rule)
        case Allow(address, port, protocol, count):
            words = f"-d {address} {_ports(protocol, port, count)} -j ACCEPT"
            yield _line(address.version, "filter", "ALLOWED", words)
        case NoTransit(version):
            yield _line(version, "filter", "TRANSIT", "-j DROP")
        case Closed():
            pass  # the bridge itself keeps its ports apart
        case Reach(client, server, port, protocol, count):
            words = f"-i {_name(client)} -o {_name(server)} {_services(protocol, port, count)}"
            for v in (4, 6):
                yield _line(v, "filter", "SIBLINGS", f"{words} -j ACCEPT")
        case Serve(server, port, protocol, count, _, subnets):
            ports = _services(protocol, port, count)
            for subnet in subnets:
                words = f"-o {_name(server)} -s {subnet} {ports} -j ACCEPT"
                yield _line(subnet.version, "filter", "SIBLINGS", words)
        case NoHost(link, gateways):
            for gateway in gateways:
                for needed in (_PING[gateway.version], *(_ports(p, 53, 1) for p in ("tcp", "udp"))):
                    words = f"-i {_name(link)} -d {gateway} {needed} -j RETURN"
                    yield _line(gateway.version, "filter", "HOST", words, first=True)
            for v in (4, 6):
                yield _line(v, "filter", "INPUT", f"-i {_name(link)} -j NETKIT-HOST")
        case HostPort(link, port, protocol, count, address):
            words = f"-i {_name(link)} {_ports(protocol, port, count)} -j RETURN"
            if address is not None:
                words = f"-s {address} {words}"
            for v in (4, 6) if address is None else (address.version,):
                yield _line(v, "filter", "HOST", words, first=True)
        case Confine() | Egress():
            yield from _confined(rule)


def _confined(rule: Confine | Egress) -> Iterator[Line]:
    """What leaves by way of the list, or an exception to that."""
    who = f"-i {_name(rule.link)}" if rule.link is not None else f"-s {rule.address}"
    if isinstance(rule, Confine):
        for v in (4, 6) if rule.address is None else (rule.address.version,):
            yield _line(v, "filter", "LEAVE", f"{who} -j NETKIT-EGRESS")
        return
    protocols = ("tcp", "udp") if rule.port and not rule.protocol else (rule.protocol,)
    for protocol in protocols:
        ports = _services(protocol, rule.port, rule.count)
        words = f"{who} -d {rule.destination} {ports} -j ACCEPT"
        yield _line(rule.destination.version, "filter", "EGRESS", words, first=True)


_TRANSLATED = "-m conntrack --ctstate DNAT"
_PING = {4: "-p icmp -m icmp --icmp-type 8", 6: "-p icmpv6 -m icmp6 --icmpv6-type 128"}
_ASKS = "-m icmp6 --icmpv6-type 135"  # neighbour solicitation: whether an address is free


def _isolated(rule: Isolate) -> Iterator[Line]:
    link = _name(rule.link)
    for v, pings in ((4, "icmp"), (6, "icmpv6")):
        # what comes in first: where a table is missing, nothing is open for a moment
        if v == 4:
            yield _line(4, "raw", "INSIDE", f"-i {link} -d 127.0.0.0/8 -j DROP")
        yield _line(v, "raw", "INSIDE", f"-i {link} -j NETKIT-PORTS")
        if rule.icc:
            yield _line(v, "filter", "SAME", f"-i {link} -o {link} -j ACCEPT")
        if rule.internal:
            yield _line(v, "filter", "INTERNAL", f"-i {link} -j DROP")
            yield _line(v, "filter", "INTERNAL", f"-o {link} -j DROP")
        if v in rule.routed:
            yield _line(v, "filter", "ROUTED", f"-o {link} -p {pings} -j ACCEPT")
        if v in rule.open:
            yield _line(v, "filter", "OPEN", f"-o {link} -j ACCEPT")
        yield _line(v, "filter", "FROM", f"-i {link} -j NETKIT-INSIDE")
        yield _line(v, "filter", "TO", f"-o {link} -j DROP")
        yield _line(v, "filter", "LEAVE", f"-o {link} -j RETURN", first=True)
        yield _line(v, "filter", "LINKS", f"-i {link} -j NETKIT-OURS")
        yield _line(v, "filter", "LINKS", f"-o {link} -j NETKIT-OURS")
        yield _line(v, "nat", "OUTWARDS", f"-o {link} -j RETURN", first=True)
        if v == 4:
            words = f"-s 127.0.0.0/8 -o {link} {_TRANSLATED} -j MASQUERADE"
            yield _line(4, "nat", "LOOP", words)
    for subnet in rule.subnets:
        words = f"-s {subnet} -d {subnet} {_TRANSLATED} -j MASQUERADE"
        yield _line(subnet.version, "nat", "LOOP", words)


def _plain(link: str) -> Iterator[Line]:
    yield _line(4, "raw", "PLAIN", f"-i {link} -d 127.0.0.0/8 -j DROP")
    for v in (4, 6):
        yield _line(v, "filter", "TRANSIT", f"-i {link} -j RETURN", first=True)
        yield _line(v, "filter", "TRANSIT", f"-o {link} -j RETURN", first=True)
    yield _line(4, "nat", "PLAIN", f"-s 127.0.0.0/8 -o {link} {_TRANSLATED} -j MASQUERADE")


def _guarded(rule: Guard) -> Iterator[Line]:
    """What of it can be seen above the bridge: what is for the host, or passes through it."""
    mac = f"-m mac --mac-source {rule.mac}"
    yield _line(4, "raw", "ROGUE", f"-p udp {mac} -m udp --sport 67 -j DROP")
    yield _line(6, "raw", "ROGUE", f"-p udp {mac} -m udp --sport 547 -j DROP")
    for kind in (134, 137):  # router advertisement, redirect
        words = f"-p icmpv6 {mac} -m icmp6 --icmpv6-type {kind} -j DROP"
        yield _line(6, "raw", "ROGUE", words)
    for address in rule.addresses:
        words = f"-s {address} {mac} -j RETURN"
        yield _line(address.version, "raw", "GUARD", words, first=True)
        yield _line(address.version, "raw", "GUARD", f"-s {address} -j DROP")
    if any(isinstance(address, IPv6Address) for address in rule.addresses):
        yield _line(6, "raw", "GUARD", f"-s ::/128 -p icmpv6 {mac} {_ASKS} -j RETURN", first=True)
    if rule.addresses:
        yield _line(4, "raw", "GUARD", f"{mac} -j DROP")
    if rule.addresses or not rule.ipv6:
        yield _line(6, "raw", "GUARD", f"{mac} -j DROP")


def _published(rule: Publish) -> Line:
    version = rule.address.version
    to, moved = _bracketed(rule.address), rule.host_port != rule.port
    if rule.count == 1:
        to += f":{rule.port}"
    elif moved:
        to += f":{rule.port}-{rule.port + rule.count - 1}/{rule.host_port}"
    else:
        to = str(rule.address)
    words = f"{_ports(rule.protocol, rule.host_port, rule.count)} -j DNAT --to-destination {to}"
    if rule.host_address is not None:
        words = f"-d {rule.host_address} {words}"
    if rule.device is not None:
        words = f"-i {_name(rule.device)} {words}"
    if rule.device is not None:
        chain = "DEVICES"
    elif rule.count > 1 and not moved:
        chain = "RANGES"
    else:
        chain = "WILDCARD" if rule.host_address is None else "PORTS"
    return _line(version, "nat", chain, words)


def _ports(protocol: str, first: int, count: int) -> str:
    if protocol not in _PROTOCOLS:
        raise IptablesError(
            errno.EOPNOTSUPP,
            f"iptables has no ports of {protocol!r} ({', '.join(_PROTOCOLS)} it has): use nftables",
        )
    ports = str(first) if count == 1 else f"{first}:{first + count - 1}"
    return f"-p {protocol} -m {protocol} --dport {ports}"


def _services(protocol: str | None, port: int | None, count: int) -> str:
    """Ports; or all of a protocol, or all there is."""
    if protocol is None or port is not None:
        return "" if protocol is None or port is None else _ports(protocol, port, count)
    return f"-p {protocol}"


def _name(link: str) -> str:
    """An interface name that iptables takes for what it is."""
    if link.endswith("+") or link.startswith(("!", "-")) or not link or len(link.split()) > 1:
        raise IptablesError(
            errno.EOPNOTSUPP,
            f"an interface named {link!r} means another thing to iptables: rename it, "
            "or use nftables",
        )
    return link


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


def _line(version: int, table: str, chain: str, words: str, *, first: bool = False) -> Line:
    """Hosts bear their prefix length, as iptables-save prints them."""
    split = words.split()
    for at, word in enumerate(split):
        if word in ("-s", "-d") and "/" not in split[at + 1]:
            split[at + 1] += "/32" if version == 4 else "/128"
    return Line(version, table, f"NETKIT-{chain}", tuple(split), first)


def _digest(words: Iterable[str], digits: int) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()[:digits]


# -- what all rules stand on


def _static(version: int) -> list[Line]:
    lines, table = [], ""
    for text in _STATIC.splitlines():
        if text[0].isalpha():
            table = text.partition(":")[0]
        elif text[0] in (" ", str(version)):
            how, chain, *words = text[2:].split()
            lines.append(Line(version, table, chain, tuple(words), how == "-I"))
    return lines


def _chains() -> dict[str, list[str]]:
    """Our chains, by table."""
    heads = [text.split() for text in _STATIC.splitlines() if text[0].isalpha()]
    return {table.rstrip(":"): names for table, *names in heads}


def _tables() -> list[str]:
    return list(_chains())


def _opening(version: int) -> list[list[Any]]:
    chains = [
        [table, "chain", name, name == ADMIN]
        for table, names in _chains().items()
        for name in names
    ]
    return chains + [line.add() for line in _static(version)]


def _closing(version: int, tables: Mapping[str, Mapping[str, Sequence[str]]]) -> list[list[Any]]:
    """What removes our chains from those *tables* that are there; an admin's rules stay."""
    deleted = [line.delete() for line in _static(version) if line.table in tables]
    ours = [
        (table, name)
        for table, names in _chains().items()
        for name in names
        if name in tables.get(table, {})
    ]
    emptied = [[table, "chain", name, name == ADMIN] for table, name in ours]
    kept = ("filter", ADMIN) if tables.get("filter", {}).get(ADMIN) else None
    removed = [[*chain[:1], "unchain", chain[1]] for chain in ours if chain != kept]
    return deleted + emptied + removed


def _restored(version: int) -> str:
    """What `open` does, as iptables-restore reads it."""
    lines = _static(version)
    text = ""
    for table, names in _chains().items():
        text += f"*{table}\n" + "".join(f":{name} - [0:0]\n" for name in names)
        for line in lines:
            if line.table == table:
                text += f"{'-I' if line.first else '-A'} {line.text()}\n"
        text += "COMMIT\n"
    return text


def _removed(version: int) -> str:
    """What `close` does where nobody has rules in the admin's chain."""
    text = ""
    for table, names in _chains().items():
        text += f"*{table}\n"
        for line in _static(version):
            if line.table == table and line.chain not in names:
                text += f"-D {line.text()}\n"
        text += "".join(f"-F {name}\n" for name in names)
        text += "".join(f"-X {name}\n" for name in names) + "COMMIT\n"
    return text


def _versions() -> tuple[int, ...]:
    """The IP versions this kernel has."""
    return (4, 6) if os.path.isdir("/proc/sys/net/ipv6") else (4,)


# -- transactions


def change(lines: Sequence[Line], do: Change, undo: Change) -> None:
    """*do* with *lines*; on an error those it has changed are undone. Needs the lock."""
    done: list[Line] = []

    def note(version: int, changed: Sequence[bool]) -> None:
        ours = [line for line in lines if line.version == version]
        done.extend(line for line, was in zip(ours, changed, strict=True) if was)

    try:
        transact(_by_version(lines, do), note)
    except BaseException as error:
        try:
            transact(_by_version(done, undo))
        except OSError as another:
            error.add_note(f"and what was done already could not be undone: {another}")
        raise


def missing(lines: Sequence[Line]) -> list[Line]:
    """Which of *lines* are not there."""
    wanted = {v: sorted({n.table for n in lines if n.version == v}) for v in (4, 6)}
    found = listed({version: tables for version, tables in wanted.items() if tables})
    return [
        line
        for line in lines
        if line.comment not in found[line.version].get(line.table, {}).get(line.chain, ())
    ]


def listed(tables: Mapping[int, Sequence[str]]) -> dict[int, dict[str, dict[str, list[str]]]]:
    """The comments of every rule, by IP version, table and chain; ours without `nk:`."""
    answers = _ask({version: {"list": list(names)} for version, names in tables.items()})
    return {version: answer["tables"] for version, answer in answers.items()}


def transact(
    changes: Mapping[int, Sequence[Any]],
    note: Callable[[int, Sequence[bool]], None] = lambda version, changed: None,
) -> None:
    """Stage the *changes* of each IP version, then commit them; *note* hears which change it."""
    wanted = {version: list(each) for version, each in changes.items() if each}
    staged = _ask({version: {"stage": each} for version, each in wanted.items()})
    for version in wanted:
        note(version, staged[version]["changed"])
    for version in wanted:
        _ask({version: {"commit": True}})


def _by_version(lines: Sequence[Line], what: Change) -> dict[int, list[Any]]:
    return {v: [what(line) for line in lines if line.version == v] for v in (4, 6)}


@contextmanager
def locked(needed: bool = True) -> Iterator[None]:
    """Hold the lock that all iptables programs take: who does not loses updates, or others' do."""
    import fcntl

    if not needed:
        yield
        return
    fd = os.open(LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        end = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise IptablesError(
                        errno.EBUSY,
                        f"{LOCK} was held by {_holder(fd)} for {_LOCK_TIMEOUT_S:g} s",
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(fd)


def _holder(fd: int) -> str:
    """Whoever /proc/locks says has an flock on this file."""
    with suppress(OSError):
        inode = os.fstat(fd).st_ino
        with open("/proc/locks") as file:
            found = re.search(rf"FLOCK\s+\S+\s+WRITE (\d+) \S+:{inode} ", file.read())
        if found:
            with open(f"/proc/{found[1]}/comm") as file:
                return f"{file.read().strip()} (process {found[1]})"
    return "another program"


# -- workers


_kept = threading.local()


def forget() -> None:
    """End this thread's workers: they keep their namespace alive."""
    vars(_kept).clear()


class _Worker:
    """A process that holds the tables of one IP version; ended with its last reference."""

    def __init__(self, version: int) -> None:
        import socket
        import subprocess
        import sys

        packages = _packages()
        ours, theirs = socket.socketpair()
        self._owner = os.getpid()
        self._socket = ours
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", _WORKER, str(version), packages, str(self._owner)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                process_group=0,  # ^C is for netkit, which then has things to undo
            )
        self.pid = self._process.pid

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.end()

    def end(self) -> None:
        self._socket.close()
        if self._owner == os.getpid():  # else a fork of ours: the process is not our child
            self._process.kill()
            self._process.wait()
        else:
            self._process.returncode = 0

    def send(self, request: Mapping[str, Any]) -> None:
        import json

        self._socket.settimeout(_WORKER_TIMEOUT_S)
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def receive(self) -> Any:
        import json

        end = time.monotonic() + _WORKER_TIMEOUT_S
        answer = bytearray()
        while not answer.endswith(b"\n"):
            self._socket.settimeout(max(end - time.monotonic(), 0.001))
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionResetError
            answer += part
        return json.loads(answer)


def _ask(requests: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    """Ask the worker of each IP version, all at once; the first refusal is raised."""
    kept = _workers()
    for version, request in requests.items():
        if version not in kept:
            kept[version] = _Worker(version)
        with suppress(OSError):  # _heard will say
            kept[version].send(request)
    answers: dict[int, Any] = {}
    failed: IptablesError | None = None
    try:
        for version, request in requests.items():
            try:
                answers[version] = _heard(kept, version, request)
            except IptablesError as error:
                failed = failed or error
    except BaseException:  # interrupted: an answer not heard would be taken for the next one
        for version in requests.keys() & kept.keys():
            kept.pop(version).end()
        raise
    if failed:
        raise failed
    return answers


def _heard(kept: dict[int, _Worker], version: int, request: Mapping[str, Any]) -> Any:
    """The worker's answer; if it was killed since last time, and nothing is lost, another's."""
    try:
        try:
            answer = kept[version].receive()
        except ConnectionError:
            kept.pop(version).end()
            if "commit" in request:  # what was staged died with it
                raise
            kept[version] = _Worker(version)
            kept[version].send(request)
            answer = kept[version].receive()
    except OSError as error:
        if version in kept:
            kept.pop(version).end()
        raise _silence(version, error) from None
    if "error" in answer:
        raise IptablesError(answer["errno"], answer["error"])
    return answer


def _silence(version: int, error: OSError) -> IptablesError:
    who = f"the worker of {_PROGRAM[version]}"
    if isinstance(error, TimeoutError):
        return IptablesError(
            errno.ETIMEDOUT, f"{who} did not answer in {_WORKER_TIMEOUT_S:g} s and was killed"
        )
    return IptablesError(errno.EPIPE, f"{who} died before it answered")


def _workers() -> dict[int, _Worker]:
    """This thread's workers in the namespace it is in."""
    found = os.stat("/proc/thread-self/ns/net")
    kept: dict[str, dict[int, _Worker]] = vars(_kept)
    return kept.setdefault(f"{os.getpid()} {found.st_dev}:{found.st_ino}", {})


def _packages() -> str:
    """The directory python-iptables is in."""
    import importlib.util

    spec = importlib.util.find_spec("iptc")
    if spec is None or spec.origin is None:
        raise IptcMissing(
            "cannot program iptables: python-iptables is not installed",
            hint="pip install 'netkit-containers[iptables]' (it needs a C compiler), "
            "or use nftables",
        )
    return os.path.dirname(os.path.dirname(spec.origin))
