"""What nftables tells: of what others take from our tables, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from netkit.firewall import Masquerade, elements
from netkit.firewall.elements import Element
from netkit.firewall.nftables import Nftables
from netkit.firewall.notices import Notices
from netkit.firewall.tables import SCRIPT
from scenarios.lab import run

pytestmark = pytest.mark.usefixtures("host")
RULES = [Masquerade("br0"), Masquerade("br1", 6)]
KEY = Element("inet netkit masqueraded", 'ipv4 . "br0"')


@pytest.fixture
def notices() -> Iterator[Notices]:
    """Of a host with our tables, and rules in them."""
    Nftables().open()
    Nftables().add(RULES)
    with Notices() as found:
        yield found


def test_what_netkit_does_to_elements_is_no_loss(notices: Notices) -> None:
    Nftables().delete(RULES)
    Nftables().add(RULES)
    assert notices.read() == []


def test_an_element_somebody_took_is_told_with_its_key_and_by_whom(notices: Notices) -> None:
    run("nft delete element inet netkit masqueraded '{ ipv4 . \"br0\" }'")
    (loss,) = notices.read()
    assert loss.who.startswith("nft (process ")
    assert loss[:2] == (False, set(elements.keys([KEY], SCRIPT)))
    assert Nftables().among(RULES, loss.elements) == RULES[:1]


@pytest.mark.parametrize(
    "change",
    [
        "flush ruleset",
        "delete table bridge netkit",
        "flush chain inet netkit forward",
        "add rule bridge netkit guard accept",
    ],
)
def test_what_happens_to_tables_chains_and_rules_is_told(notices: Notices, change: str) -> None:
    run(f"nft {change}")
    assert [loss.chains for loss in notices.read()] == [True]


@pytest.mark.parametrize(
    "change",
    [
        "add rule inet netkit admin drop; nft flush chain inet netkit admin",
        "add table inet other; nft delete table inet other",
        "add element inet netkit masqueraded '{ ipv6 . \"br0\" }'",
    ],
)
def test_what_takes_nothing_of_ours_is_not(notices: Notices, change: str) -> None:
    run(f"nft {change}")
    assert notices.read() == []
