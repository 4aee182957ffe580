"""Whether our chains are as the script made them: whatever is done to a rule, it is seen."""

from __future__ import annotations

import re

import pytest

from netkit.firewall import libnftables, structure
from netkit.firewall.nftables import Nftables
from netkit.firewall.tables import SCRIPT

pytestmark = pytest.mark.usefixtures("host")
ADMIN = ("admin",)
CHAINS = [
    (table.partition(" {")[0], chain)
    for table in re.split(r"^table ", SCRIPT, flags=re.MULTILINE)[1:]
    for chain in re.findall(r"^\tchain (\w+) \{", table, re.MULTILINE)
    if chain != "admin"
]


def numbers(table: str, chain: str) -> list[int]:
    return structure._numbers(table)[chain]


def test_as_it_was_made_it_is_whole_however_often_it_was_made() -> None:
    for _ in range(3):
        Nftables().open()
        assert structure.altered(SCRIPT, ADMIN) == []


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_a_rule_that_is_gone_is_missed_whichever_chain_it_was_in(which: int) -> None:
    assert len(CHAINS) > 20
    for table, chain in CHAINS:
        Nftables().open()
        handle = numbers(table, chain)[which]
        libnftables.run(f"delete rule {table} {chain} handle {handle}")
        assert structure.altered(SCRIPT, ADMIN) == [f"chain {chain} of table {table}"]


@pytest.mark.parametrize("verb", ["add", "insert"])
def test_a_rule_too_many_is_seen_whichever_chain_it_is_in(verb: str) -> None:
    for table, chain in CHAINS:
        Nftables().open()
        libnftables.run(f"{verb} rule {table} {chain} accept")
        assert structure.altered(SCRIPT, ADMIN) == [f"chain {chain} of table {table}"]


def test_rules_in_another_order_are_seen() -> None:
    Nftables().open()
    listed = libnftables.run("list chain inet netkit forward").splitlines()
    first, *rules = [line.strip() for line in listed[3:-2]]
    moved = "".join(f"add rule inet netkit forward {rule}\n" for rule in [*rules, first])
    libnftables.run(f"flush chain inet netkit forward\n{moved}")
    assert structure.altered(SCRIPT, ADMIN) == ["chain forward of table inet netkit"]


def test_a_chain_of_somebody_elses_in_our_table_is_named() -> None:
    Nftables().open()
    libnftables.run("add chain inet netkit mine\nadd rule inet netkit mine accept")
    assert structure.altered(SCRIPT, ADMIN) == ["chain mine of table inet netkit"]


def test_an_admins_own_rules_change_nothing() -> None:
    Nftables().open()
    for rule in ("tcp dport 25 drop", "accept"):
        libnftables.run(f"add rule inet netkit admin {rule}")
    assert structure.altered(SCRIPT, ADMIN) == []
    Nftables().open()  # which keeps them, and makes all others anew
    assert structure.altered(SCRIPT, ADMIN) == []
    libnftables.run("flush chain inet netkit raw")
    assert structure.altered(SCRIPT, ADMIN) == ["chain raw of table inet netkit"]
