"""Other tools' FORWARD chains: which would drop our packets, and how they are made to pass."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from netkit.firewall import Obstacle, foreign, libnftables
from netkit.firewall.foreign import ForeignError
from netkit.firewall.nftables import Nftables
from scenarios.lab import Host, legacy_rules, run, without_iptables

DOCKER = (
    "{0} -P FORWARD DROP",
    "{0} -N DOCKER-USER",
    "{0} -A DOCKER-USER -j RETURN",
    "{0} -A FORWARD -j DOCKER-USER",
    "{0} -A FORWARD -i docker0 -j ACCEPT",
)
PLAIN = ("{0} -P FORWARD DROP", "{0} -A FORWARD -i eth7 -j ACCEPT")
FIREWALLD = (
    "table inet firewalld { chain filter_FORWARD { "
    "type filter hook forward priority 10; policy accept; reject; }; }"
)
OTHER = "table inet mine { chain f { type filter hook forward priority 5; policy drop; }; }"


@pytest.fixture(params=["iptables-nft", "ip6tables-nft", "iptables-legacy", "ip6tables-legacy"])
def program(request: pytest.FixtureRequest, host: Host) -> str:
    name: str = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed: apt-get install iptables")
    if name.endswith("legacy") and (reason := without_iptables()):
        pytest.skip(reason)
    return name


def make(program: str, lines: Sequence[str]) -> None:
    run(*(line.format(program) for line in lines))


def rules() -> str:
    return run("nft list ruleset") + legacy_rules()


def test_nobodys_chain_is_no_obstacle_nor_is_ours(host: Host) -> None:
    assert foreign.obstacles() == []
    Nftables().open()
    run("nft 'table ip t { chain f { type filter hook forward priority 0; policy accept; }; }'")
    run("nft 'table ip t { chain i { type filter hook input priority 0; policy drop; }; }'")
    run("nft 'table bridge t { chain f { type filter hook forward priority 0; policy drop; }; }'")
    assert foreign.obstacles() == []
    assert foreign.check("br0", []) == []


def test_to_look_is_one_listing_of_chains(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = libnftables.run

    def noted(script: str) -> str:
        asked.append(script)
        return real(script)

    def never(*words: str) -> str:
        raise AssertionError(words)

    monkeypatch.setattr(libnftables, "run", noted)
    monkeypatch.setattr(foreign, "_run", never)
    foreign.obstacles()
    assert asked == ["list chains"]
    assert run("cat /proc/self/net/ip_tables_names") == ""


@pytest.mark.parametrize(("tool", "into"), [(DOCKER, "DOCKER-USER"), (PLAIN, "FORWARD")])
def test_a_policy_of_drop_is_found_and_passed_and_left_as_it_was(
    program: str, tool: Sequence[str], into: str
) -> None:
    make(program, tool)
    before = rules()
    (found,) = foreign.obstacles()
    assert (found.program, found.chain, found.into) == (program, "FORWARD", into)
    assert foreign.check("br0", [found]) == foreign.lines("br0", [found])
    foreign.add("br0", [found])
    foreign.add("br1", [found])
    foreign.add("br0", [found])
    assert foreign.check("br0", [found]) == []
    for side in ("-i", "-o"):
        pattern = rf"^-A {into} {side} br0 -m comment --comment \"?nk:[0-9a-f]{{32}}\"? -j ACCEPT$"
        assert len(re.findall(pattern, run(f"{program} -S {into}"), re.MULTILINE)) == 1
    listed = [line for line in run(f"{program} -S {into}").splitlines() if line.startswith("-A")]
    assert ["nk:" in line for line in listed[:5]] == [True] * 4 + [False]  # before all others
    foreign.delete("br1", [found])
    foreign.delete("br0", [found])
    foreign.delete("br0", [found])
    assert rules() == before


def test_the_lines_are_what_an_operator_can_run(program: str) -> None:
    make(program, DOCKER)
    before = rules()
    found = foreign.obstacles()
    foreign.add("br0", found)
    ours = rules()
    foreign.delete("br0", found)
    run(*reversed(foreign.lines("br0", found)))
    run(*foreign.lines("br0", found, "delete"))
    assert rules() == before
    run(*foreign.lines("br0", found))
    assert rules() == ours


def test_a_rule_somebody_deleted_is_missed(program: str) -> None:
    make(program, DOCKER)
    found = foreign.obstacles()
    foreign.add("br0", found)
    run(f"{program} -D DOCKER-USER 1")
    (missing,) = foreign.check("br0", found)
    run(missing)
    assert foreign.check("br0", found) == []


def test_what_goes_with_its_chain_is_as_good_as_deleted(program: str) -> None:
    make(program, DOCKER)
    found = foreign.obstacles()
    foreign.add("br0", found)
    run(f"{program} -F", f"{program} -X")
    assert foreign.check("br0", found)
    foreign.delete("br0", found)


def test_if_one_of_two_tools_refuses_nothing_stays(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("iptables-nft", DOCKER)
    make("ip6tables-nft", DOCKER)
    before = rules()
    found = foreign.obstacles()
    assert [each.family for each in found] == ["ip", "ip6"]
    real: Callable[..., str] = foreign._run

    def failing(program: str, *words: Any) -> str:
        if program == "ip6tables-nft" and "-I" in words and "-o" in words:
            raise ForeignError(12, "Cannot allocate memory")
        return real(program, *words)

    with monkeypatch.context() as patch:
        patch.setattr(foreign, "_run", failing)
        with pytest.raises(ForeignError, match="Cannot allocate memory"):
            foreign.add("br0", found)
    assert rules() == before


@pytest.mark.parametrize(
    ("script", "named", "hint"),
    [
        (FIREWALLD, "chain filter_FORWARD of table inet firewalld", "firewall-cmd"),
        (OTHER, "chain f of table inet mine", "let it pass there"),
    ],
)
def test_a_chain_that_only_its_owner_can_open_is_named(
    host: Host, script: str, named: str, hint: str
) -> None:
    run(f"nft '{script}'")
    before = rules()
    (found,) = foreign.obstacles()
    assert found.into is None
    foreign.add("br0", [found])
    assert rules() == before
    (sentence,) = foreign.check("br0", [found])
    assert sentence.startswith(f"{named} drops what is forwarded from and to br0")
    assert hint in sentence
    assert foreign.lines("br0", [found]) == []
    foreign.delete("br0", [found])
    assert rules() == before


def test_without_the_program_it_is_named_as_well(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("iptables-nft", DOCKER)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    (found,) = foreign.obstacles()
    assert found == Obstacle(program="", family="ip", table="filter", chain="FORWARD")
    assert foreign.check("br0", [found]) == [foreign.warning("br0", found)]


def test_with_the_back_end_iptables_legacy_rules_are_no_obstacle(host: Host) -> None:
    """Ours are in the same chain then, and before them."""
    if reason := without_iptables():
        pytest.skip(reason)
    make("iptables-legacy", DOCKER)
    assert foreign.obstacles("iptables") == []
    make("iptables-nft", PLAIN)
    assert [each.program for each in foreign.obstacles("iptables")] == ["iptables-nft"]
    assert len(foreign.obstacles()) == 2
