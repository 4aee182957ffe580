"""The process that holds libiptc: one address family of one network namespace, one request a time.

Run by path with `python -I -S`, never imported: stdin is a socket to netkit, one JSON document a
line each way. It ends when netkit does, whichever way.

Shapes   {"list": [table …]} answers {"tables": {table: {chain: [comment …]}}}, "" for a rule of
         somebody else; {"stage": [change …]} then {"commit": true}. A change is one of
             [table, "chain", name, keep]     make a chain, empty unless *keep*
             [table, "unchain", name]         remove it with its rules
             [table, "add", chain, first, comment, words]   at the top if *first*, unless there
             [table, "delete", chain, comment]
         and `stage` answers {"changed": [whether each did anything]}
Errors   {"errno": number, "error": sentence}; what was staged is then forgotten
Source   python-iptables 1.2 over libiptc and libxtables; why a process: it caches handles across
         setns, crashes with threads, and serves one family at a time
"""

from __future__ import annotations

import ctypes
import ctypes.util
import errno
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_PR_SET_PDEATHSIG = 1
_COMMENT = re.compile(rb"\0nk:([0-9a-f]{32})\0")
_SONAMES = {
    "c": "libc.so.6",
    "xtables": "libxtables.so.12",
    "ip4tc": "libip4tc.so.2",
    "ip6tc": "libip6tc.so.2",
}
_WITHOUT_VALUE = ("--limit-iface-in",)
_KINDS = {"-s": "src", "-d": "dst", "-i": "in_interface", "-o": "out_interface", "-p": "protocol"}


class Refused(Exception):
    """A change that cannot be; `args` are errno and sentence."""


class Words(NamedTuple):
    """A rule as one types it, taken apart."""

    entry: dict[str, str]  # {"src": "!127.0.0.0/8"}
    matches: list[tuple[str, dict[str, str]]]
    target: str
    options: dict[str, str]


class Family:
    """The tables of one IP version, and what is staged in them."""

    def __init__(self, version: int) -> None:
        import iptc

        self._version = version
        self._table = iptc.Table if version == 4 else iptc.Table6
        self._rule = iptc.Rule if version == 4 else iptc.Rule6
        self._names = f"/proc/self/net/ip{'' if version == 4 else '6'}_tables_names"
        # else it would make them, and their hooks, only to see whether they hold a chain
        self._table.existing_table_names.update(mangle=False, security=False)
        self._staged: dict[str, Any] = {}
        self._tables: dict[str, Any] = {}

    def comments(self, names: Sequence[str]) -> Mapping[str, Mapping[str, Sequence[str]]]:
        try:
            with open(self._names) as file:
                there = file.read().split()  # asking libiptc for another would make it
        except FileNotFoundError:  # the module is not loaded
            there = []
        return {name: self._listed(self._fresh(name)) for name in names if name in there}

    def stage(self, changes: Sequence[Sequence[Any]]) -> list[bool]:
        self._staged = {name: self._fresh(name) for name in dict.fromkeys(c[0] for c in changes)}
        self._known: dict[tuple[str, str], list[str]] = {}
        return [self._change(self._staged[name], *change) for name, *change in changes]

    def commit(self) -> None:
        for table in self._staged.values():
            table.commit()

    def _fresh(self, name: str) -> Any:
        if name not in self._tables:
            self._tables[name] = self._table(name, False)  # no autocommit: it swallows errors
        self._tables[name].refresh()  # as the kernel has it now
        return self._tables[name]

    def _listed(self, table: Any) -> Mapping[str, Sequence[str]]:
        return {chain.name: list(_comments(table, chain.name)) for chain in table.chains}

    def _change(self, table: Any, verb: str, chain: str, *rest: Any) -> bool:
        there = table.is_chain(chain)
        match verb:
            case "chain":
                if not there:
                    table.create_chain(chain)
                elif not rest[0]:
                    table.flush_entries(chain)
                return not there
            case "unchain":
                if there:
                    table.flush_entries(chain)
                    table.delete_chain(chain)
                return bool(there)
            case "add":
                if not there:
                    raise Refused(errno.ENOENT, f"there is no chain {chain} in table {table.name}")
                return self._add(table, chain, *rest)
            case "delete":
                return bool(there) and self._delete(table, chain, *rest)
        raise Refused(errno.EINVAL, f"no such change: {verb}")

    def _add(self, table: Any, chain: str, first: bool, comment: str, words: list[str]) -> bool:
        known = self._numbered(table, chain)
        if comment in known:
            return False
        if other := next((found for found in known if clash(comment, found)), None):
            raise Refused(errno.EEXIST, f"{chain} has nk:{other} for the same, with another end")
        rule = self._built(words, comment)
        rule.final_check()
        if first:
            table.insert_entry(chain, rule.rule, 0)
        else:
            table.append_entry(chain, rule.rule)
        known.insert(0 if first else len(known), comment)
        return True

    def _delete(self, table: Any, chain: str, comment: str) -> bool:
        known = self._numbered(table, chain)
        if comment not in known:
            return False
        number = known.index(comment)
        # by number: by content it compares padding and kernel pointers too, and misses
        if not table._iptc.iptc_delete_num_entry(chain.encode(), number, table._handle):
            raise Refused(errno.EINVAL, f"cannot delete rule {number + 1} of {chain}")
        del known[number]
        return True

    def _numbered(self, table: Any, chain: str) -> list[str]:
        key = (table.name, chain)
        if key not in self._known:
            self._known[key] = list(_comments(table, chain))
        return self._known[key]

    def _built(self, words: Sequence[str], comment: str) -> Any:
        entry, matches, target, options = parsed(words)
        rule = self._rule()
        for field, value in entry.items():
            setattr(rule, field, value)
            if field.endswith("_interface") and self._version == 6:
                # it would compare the lowest bit of each letter only: br0 is br2 then
                mask = field.replace("_interface", "iface_mask")
                exact = getattr(rule.entry.ipv6, mask).replace(b"\1", b"\xff")
                setattr(rule.entry.ipv6, mask, exact)
        for name, given in [*matches, ("comment", {"comment": f"nk:{comment}"})]:
            match = rule.create_match(name)
            for option, value in given.items():
                match.set_parameter(option, value)
        made = rule.create_target(target)
        for option, value in options.items():
            made.set_parameter(option, value)
        return rule


def _comments(table: Any, chain: str) -> Iterator[str]:
    """The comment of each rule, from its raw bytes: to decode a rule costs a hundred times more."""
    rule = table.first_rule(chain)
    while rule:
        found = _COMMENT.search(ctypes.string_at(ctypes.addressof(rule), rule.next_offset))
        yield found[1].decode() if found else ""
        rule = table.next_rule(rule)


def clash(one: str, other: str) -> bool:
    """Whether two comments of one chain tell of the same packets, or some of them."""
    if one[:8] != other[:8] or one == other:
        return False
    (low, high), (others_low, others_high) = _ports(one), _ports(other)
    return low <= others_high and others_low <= high


def _ports(comment: str) -> tuple[int, int]:
    return int(comment[8:12], 16), int(comment[12:16], 16)


def parsed(words: Sequence[str]) -> Words:
    """`! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DROP` taken apart."""
    found = Words({}, [], "", {})
    where: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        inverted = "!" if word == "!" else ""
        word = next(rest) if inverted else word
        value = "" if word in _WITHOUT_VALUE else next(rest)
        if word in _KINDS:
            found.entry[_KINDS[word]] = inverted + value
        elif word == "-m":
            where = {}
            found.matches.append((value, where))
        elif word == "-j":
            found, where = found._replace(target=value), found.options
        else:
            where[word.removeprefix("--")] = inverted + value
    return found


def _answer(family: Family, request: Mapping[str, Any]) -> Mapping[str, Any]:
    if "list" in request:
        return {"tables": family.comments(request["list"])}
    if "stage" in request:
        return {"changed": family.stage(request["stage"])}
    family.commit()
    return {}


def _refusal(error: Exception) -> Mapping[str, Any]:
    if isinstance(error, Refused):
        return {"errno": error.args[0], "error": error.args[1]}
    if isinstance(error, OSError) and error.errno:
        return {"errno": error.errno, "error": str(error)}
    text = re.sub(r"\bb'(.*)'", r"\1", str(error)) or type(error).__name__
    known = (errno.EPERM, errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ENOPROTOOPT)
    code = next((code for code in known if os.strerror(code) in text), errno.EINVAL)
    if "must be root" in text:
        code = errno.EPERM
    return {"errno": code, "error": text}


def _prepare(packages: str) -> None:
    """Let python-iptables find its libraries without running ldconfig, gcc and ld for each."""
    for soname in _SONAMES.values():
        try:
            ctypes.CDLL(soname, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            text = f"{soname} is not installed: apt-get install iptables"
            raise Refused(errno.ENOPKG, text) from None
    ctypes.util.find_library = lambda name: _SONAMES.get(
        name
    )  # its own one it then finds in sys.path
    with open("/proc/self/maps") as file:
        found = re.search(r"(/\S+)/libxtables\.so", file.read())
    if found:
        os.environ["XTABLES_LIBDIR"] = f"{found[1]}/xtables"
    sys.path.append(packages)


def main(version: str, packages: str, parent: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        return
    channel = socket.socket(fileno=0).makefile("rwb")
    family: Family | None = None
    for line in channel:
        try:
            if family is None:
                _prepare(packages)
                family = Family(int(version))
            answer = _answer(family, json.loads(line))
        except Exception as error:
            answer = _refusal(error)
        channel.write(json.dumps(answer).encode() + b"\n")
        channel.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
