"""Whether the chains of nftables' tables are still as a script made them.

    altered(SCRIPT)        # ["chain forward of table inet netkit"]

The kernel numbers what a table is given, one by one, and gives no number twice. So the rules that
came in one go have the script's own order and distances, and one that was removed, put elsewhere or
added since stands out; what it says need not be looked at. Only `nft replace rule` is not seen: the
new rule has the old one's number.

Source   nft_table.hgenerator in net/netfilter/nf_tables_api.c; include/uapi/linux/netfilter/
         nf_tables.h. A set within a rule ({ … }) has the number before its rule's, where nft makes
         one of it
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import pairwise

from netkit.attributes import pack, read
from netkit.firewall.nfnetlink import DUMP, REQUEST, answers, message, opened

_GET_RULE = 10 << 8 | 7  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETRULE
_TABLE, _CHAIN, _HANDLE = 1, 2, 3  # NFTA_RULE_*
_FAMILIES = {"inet": 1, "bridge": 7}  # NFPROTO_*


def altered(script: str, but: Collection[str] = ()) -> list[str]:
    """The chains that are not as *script* made them, other than those called one of *but*."""
    return [
        f"chain {chain} of table {table}"
        for table, chains in _chains(script).items()
        for chain in _altered(chains, _numbers(table), but)
    ]


def _altered(
    made: Mapping[str, list[int]], found: Mapping[str, list[int]], but: Collection[str]
) -> Iterator[str]:
    """*made*: how far each rule is from the one before, at most; *found*: their numbers."""
    last: int | None = None
    for chain, distances in made.items():
        if chain in but:
            continue
        numbers = found.get(chain, [])
        before = [numbers[0] - 1 if last is None else last, *numbers] if numbers else []
        steps = [b - a for a, b in pairwise(before)]
        is_whole = len(numbers) == len(distances)
        if is_whole and all(1 <= step <= most for step, most in zip(steps, distances, strict=True)):
            last = numbers[-1] if numbers else last
        else:
            yield chain
            last = None
    yield from found.keys() - made.keys() - set(but)


@cache
def _chains(script: str) -> Mapping[str, Mapping[str, list[int]]]:
    """Of each table and chain, in the script's order, how far each rule is from the one before."""
    found: dict[str, dict[str, list[int]]] = {}
    for table in re.split(r"^table ", script, flags=re.MULTILINE)[1:]:
        rules = found[table.partition(" {")[0]] = {}
        for chain, body in re.findall(r"^\tchain (\w+) \{\n(.*?)^\t\}", table, re.DOTALL | re.M):
            lines = [line.strip() for line in body.splitlines()]
            rules[chain] = [
                1 + line.count("{")
                for line in lines
                if line and not line.startswith(("#", "type "))
            ]
    return found


def _numbers(table: str) -> dict[str, list[int]]:
    """The number of each rule in a table, by chain, in order."""
    family, name = table.split()
    found: dict[str, list[int]] = {}
    with opened() as sock:
        wanted = pack(_TABLE, name.encode() + b"\0")
        sock.send(message(_GET_RULE, REQUEST | DUMP, _FAMILIES[family], wanted))
        for body in answers(sock):
            rule = read(body, 4)
            chain = rule[_CHAIN].rstrip(b"\0").decode()
            found.setdefault(chain, []).append(int.from_bytes(rule[_HANDLE], "big"))
    return found
