"""What every firewall back end does: nftables by library and program, iptables, and the twin."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from netkit import networks
from netkit.errors import KernelRefused
from netkit.firewall import (
    Admit,
    Allow,
    Closed,
    Confine,
    Cover,
    Egress,
    Firewall,
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
    load,
)
from netkit.firewall.nftables import Nftables
from netkit.firewall.none import NoFirewall
from netkit.specs import NetworkSpec
from scenarios.lab import Host, run, snapshot, without_iptables
from tests.fakes import FakeFirewall, refused

WEB, DB = IPv4Address("10.88.0.2"), IPv4Address("10.88.0.3")
WEB6, DB6 = IPv6Address("fd00:88::2"), IPv6Address("fd00:88::3")
HERE, OUTSIDE = IPv4Address("127.0.0.1"), IPv4Address("192.0.2.1")
NET, NET6 = IPv4Network("10.88.0.0/24"), IPv6Network("fd00:88::/64")
RULES: dict[str, Rule] = {
    "isolate": Isolate("br0", (NET, NET6)),
    "internal": Isolate("br1", (IPv4Network("10.89.0.0/24"),), True),
    "without icc": Isolate("br2", icc=False),
    "open and routed": Isolate("br3", open=(4,), routed=(4, 6)),
    "siblings": Siblings(IPv4Network("10.90.0.0/24")),
    "siblings of IPv6": Siblings(IPv6Network("fd00:90::/64")),
    "plain": Plain("br4"),
    "hide": Hide(WEB),
    "hide of IPv6": Hide(WEB6),
    "cover": Cover(WEB),
    "cover of IPv6": Cover(WEB6),
    "spare": Spare(IPv4Network("0.0.0.0/0"), IPv4Network("192.0.2.0/24"), 8080, "tcp"),
    "spare a range of IPv6": Spare(NET6, IPv6Network("::/0"), 8000, "udp", 10),
    "masquerade": Masquerade("br0"),
    "masquerade of IPv6": Masquerade("br0", 6),
    "masquerade as somebody": Masquerade("br1", 4, OUTSIDE),
    "outgoing": Outgoing(WEB, OUTSIDE),
    "outgoing of IPv6": Outgoing(WEB6, IPv6Address("2001:db8::1")),
    "guard": Guard("veth1", "02:42:0a:58:00:02", (WEB, WEB6)),
    "guard without an address": Guard("veth2", "02:42:0a:58:00:03", ()),
    "guard with any IPv6": Guard("veth3", "02:42:0a:58:00:04", (), True),
    "tagged guard": Guard("veth5", "02:42:0a:58:00:05", (WEB,), tagged=True),
    "source": Source("veth4", (DB, DB6)),
    "admit": Admit("veth6", "02:42:0a:58:00:06", (WEB, WEB6)),
    "admit to a link": Admit("veth6", None, (WEB, WEB6)),
    "publish": Publish(None, 8080, WEB, 80, "tcp"),
    "publish of IPv6": Publish(None, 8080, WEB6, 80, "tcp"),
    "publish on one address": Publish(HERE, 8081, WEB, 80, "udp"),
    "publish on one of IPv6": Publish(IPv6Address("2001:db8::1"), 8081, WEB6, 80, "sctp"),
    "publish on a device": Publish(None, 8080, DB, 80, "tcp", device="lan0"),
    "publish a range": Publish(None, 9000, WEB, 9000, "tcp", 100),
    "publish a range of IPv6": Publish(None, 9000, WEB6, 9000, "tcp", 100),
    "publish a range elsewhere": Publish(HERE, 7000, WEB, 80, "tcp", 3),
    "publish a range elsewhere of IPv6": Publish(None, 7000, WEB6, 80, "udp", 3),
    "allow": Allow(WEB, 80, "tcp"),
    "allow a range of IPv6": Allow(WEB6, 8000, "udp", 10),
    "no transit": NoTransit(4),
    "no transit of IPv6": NoTransit(6),
}
# who may talk to whom
ACCESS: dict[str, Rule] = {
    "reach": Reach("veth7", "veth8", 80, "tcp", bridged=False),
    "reach a range": Reach("veth7", "veth8", 8000, "udp", 10, bridged=False),
    "reach everything": Reach("veth7", "veth9", bridged=False),
    "serve": Serve("veth8", 80, "tcp", 1, False, (NET, NET6)),
    "serve a range": Serve("veth8", 8000, "udp", 10, False, (NET,)),
    "serve everything": Serve("veth9", None, None, 1, False, (NET, NET6)),
    "no host": NoHost("br0", (DB, DB6)),
    "port of the host": HostPort("br0", 9100, "tcp"),
    "range of the host": HostPort("br0", 9200, "udp", 10),
    "port of the host for one": HostPort("br0", 9100, "udp", 1, WEB),
    "port of the host for one of IPv6": HostPort("br0", 9100, "udp", 1, WEB6),
    "confine": Confine(link="br0"),
    "confine one": Confine(address=WEB),
    "confine one of IPv6": Confine(address=WEB6),
    "egress": Egress(NET, 443, "tcp", link="br0"),
    "egress of IPv6": Egress(NET6, 443, "tcp", link="br0"),
    "egress to everything": Egress(IPv4Network("0.0.0.0/0"), link="br0"),
    "egress by two protocols": Egress(NET, 53, link="br1"),
    "egress by all of a protocol": Egress(NET, None, "udp", link="br2"),
    "egress of one": Egress(NET, 8000, "tcp", 10, address=WEB),
    "egress of one to everything": Egress(NET6, address=WEB6),
}
# what only a back end can that sees bridges, and has elements that go by themselves
BRIDGED: dict[str, Rule] = {
    "closed": Closed("veth1", "br0", "02:42:0a:58:00:02"),
    "meet": Meet("veth1", "veth2"),
    "meet everybody": Meet("veth1", None),
    "bridged reach": Reach("veth1", "veth2", 80, "tcp"),
    "bridged reach of a range": Reach("veth1", "veth2", 8000, "udp", 10),
    "bridged reach of everything": Reach("veth1", "veth3"),
    "bridged serve": Serve("veth1", 80, "tcp"),
    "bridged serve of a range": Serve("veth1", 8000, "udp", 10),
    "bridged serve of everything": Serve("veth2"),
    "learnt": Learnt(WEB, OUTSIDE, 300, 443, "tcp"),
    "learnt ports of IPv6": Learnt(WEB6, IPv6Address("2001:db8::1"), 300, 53, None, 3),
    "learnt everything": Learnt(WEB, OUTSIDE, 300),
}
ALL = [*RULES.values(), *ACCESS.values()]
# what wants the same key as one above, for another end
CLASHES: dict[str, Rule] = {
    "masquerade as somebody": Masquerade("br1", 4, HERE),
    "outgoing": Outgoing(WEB, HERE),
    "publish": Publish(None, 8080, DB, 80, "tcp"),
    "publish of IPv6": Publish(None, 8080, DB6, 80, "tcp"),
    "publish on one address": Publish(HERE, 8081, WEB, 81, "udp"),
    "publish on a device": Publish(None, 8080, WEB, 80, "tcp", device="lan0"),
    "publish a range": Publish(None, 9099, DB, 9099, "tcp", 2),
    "publish a range elsewhere": Publish(HERE, 7002, DB, 82, "tcp"),
    "reach a range": Reach("veth7", "veth8", 8009, "udp", 2, bridged=False),
    "range of the host": HostPort("br0", 9209, "udp"),
    "egress of one": Egress(NET, 8009, "tcp", address=WEB),
}


@pytest.fixture(params=["fake", "library", "program", "iptables"])
def firewall(
    request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Firewall]:
    """An open back end, which holds no rule yet."""
    if request.param == "program":
        without_library(monkeypatch)
    if request.param == "iptables" and (reason := without_iptables()):
        pytest.skip(reason)
    made: Firewall
    if request.param == "fake":
        made = FakeFirewall()
    else:
        made = load("iptables" if request.param == "iptables" else "nftables")
    made.open()
    yield made
    libnftables.forget()


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    libnftables.forget()
    monkeypatch.setattr(libnftables, "_library", lambda: None)


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_is_there_until_it_is_deleted(firewall: Firewall, kind: str) -> None:
    rule = RULES[kind]
    assert firewall.check([rule])
    firewall.add([rule])
    assert firewall.check([rule]) == []
    firewall.delete([rule])
    assert firewall.check([rule])


def test_a_rule_of_access_is_there_until_it_is_deleted_and_twice_is_once(
    firewall: Firewall,
) -> None:
    for kind, rule in ACCESS.items():
        comes_and_goes(firewall, kind, rule)


def test_a_rule_of_bridges_or_for_a_time_comes_and_goes_likewise_or_is_refused(
    firewall: Firewall,
) -> None:
    good = RULES["publish"]
    for kind, rule in BRIDGED.items():
        if firewall.name != "iptables":
            comes_and_goes(firewall, kind, rule)
        elif kind != "closed":  # that a port is closed is the bridge's doing
            with refused(errno.EOPNOTSUPP):
                firewall.add([good, rule])
            assert firewall.check([good])
            assert "iptables" in firewall.refuses([good, rule])


def comes_and_goes(firewall: Firewall, kind: str, rule: Rule) -> None:
    assert firewall.check([rule]), kind
    firewall.delete([rule])
    firewall.add([rule])
    firewall.add([rule])
    assert firewall.check([rule]) == [], kind
    firewall.delete([rule])
    assert firewall.check([rule]), kind
    firewall.delete([rule])


def test_no_rule_is_refused_that_both_have(firewall: Firewall) -> None:
    assert firewall.refuses(ALL) == ""


def test_what_is_exchanged_takes_the_place_of_what_it_overlaps(firewall: Firewall) -> None:
    """What both lists say stays in force."""
    narrow = Egress(IPv4Network("10.88.0.0/24"), 80, "tcp", 20, address=WEB)
    wide = Egress(IPv4Network("10.0.0.0/8"), 90, "tcp", address=WEB)
    both = ACCESS["confine one"]
    firewall.add([narrow, both])
    firewall.exchange([narrow, both], [wide, both])
    assert firewall.check([wide, both]) == []
    assert firewall.check([narrow])


def test_what_one_address_has_learnt_is_forgotten_and_nobody_elses(firewall: Firewall) -> None:
    """Not even what others have learnt of that address."""
    if not firewall.learns:
        pytest.skip("iptables learns nothing")
    ours: list[Rule] = [
        Learnt(WEB, OUTSIDE, 300, 443, "tcp"),
        Learnt(WEB, OUTSIDE, 300),
        Learnt(WEB6, WEB6, 300),
    ]
    others: list[Rule] = [
        Learnt(DB, WEB, 300, 443, "tcp"),
        Learnt(DB, WEB, 300),
        Learnt(IPv4Address("10.88.0.22"), OUTSIDE, 300, 443),
    ]
    firewall.add([*ours, *others])
    firewall.forget([WEB, WEB6])
    assert firewall.check(others) == []
    assert all(firewall.check([rule]) for rule in ours)
    firewall.forget([WEB])


def test_check_names_the_rule_that_is_missing_and_no_other(firewall: Firewall) -> None:
    firewall.add([RULES["publish"], RULES["masquerade"]])
    firewall.delete([RULES["publish"]])
    missing = firewall.check([RULES["masquerade"], RULES["publish"]])
    assert missing == firewall.lines([RULES["publish"]])


def test_all_rules_together_come_and_go_in_one_call(firewall: Firewall) -> None:
    rules = ALL
    firewall.add(rules)
    assert firewall.check(rules) == []
    firewall.delete(rules)
    assert all(firewall.check([rule]) for rule in rules)


def test_nothing_to_do_is_nothing_done(firewall: Firewall) -> None:
    firewall.add([])
    firewall.delete([])
    assert firewall.check([]) == []


@pytest.mark.parametrize("kind", RULES)
def test_twice_is_once(firewall: Firewall, kind: str) -> None:
    """A rule that is there may be added, and one that is not may be deleted."""
    firewall.delete([RULES[kind]])
    firewall.add([RULES[kind]])
    firewall.add([RULES[kind]])
    firewall.delete([RULES[kind]])
    assert firewall.check([RULES[kind]])
    firewall.delete([RULES[kind]])


def test_deleting_goes_on_past_what_is_gone(firewall: Firewall) -> None:
    rules = [RULES["guard"], RULES["publish"], RULES["masquerade"]]
    firewall.add(rules)
    firewall.delete([RULES["publish"]])
    firewall.delete(rules)
    assert all(firewall.check([rule]) for rule in rules)


@pytest.mark.parametrize("kind", CLASHES)
def test_one_bad_rule_leaves_nothing_of_the_good_ones(firewall: Firewall, kind: str) -> None:
    held, good = {**RULES, **ACCESS}[kind], RULES["isolate"]
    firewall.add([held])
    with refused(errno.EEXIST):
        firewall.add([good, CLASHES[kind]])
    assert firewall.check([held]) == []
    assert firewall.check([good])


def test_deleting_one_rule_leaves_its_likes(firewall: Firewall) -> None:
    rules = [Publish(None, port, WEB, 80, "tcp") for port in range(8000, 8010)]
    firewall.add(rules)
    firewall.delete(rules[3:7])
    assert firewall.check([*rules[:3], *rules[7:]]) == []
    assert len(firewall.check(rules)) == 4


def test_without_tables_nothing_can_be_added_and_all_can_be_deleted(firewall: Firewall) -> None:
    firewall.add([RULES["publish"]])
    assert firewall.is_open()
    firewall.close()
    assert not firewall.is_open()
    with refused(errno.ENOENT):
        firewall.add([RULES["publish"]])
    firewall.delete([RULES["publish"]])
    assert firewall.check([RULES["publish"]])
    firewall.close()


def test_open_begins_empty(firewall: Firewall) -> None:
    firewall.add(ALL)
    firewall.open()
    assert firewall.is_open()
    assert all(firewall.check([rule]) for rule in ALL)


# -- nftables alone


@pytest.fixture(params=["library", "program"])
def nftables(
    request: pytest.FixtureRequest, host: Host, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Nftables]:
    if request.param == "program":
        without_library(monkeypatch)
    yield Nftables()
    libnftables.forget()


def test_close_takes_away_all_that_open_made_and_nothing_else(nftables: Nftables) -> None:
    run("nft 'table inet other { chain c { counter; }; }'")
    before = run("nft list ruleset")
    nftables.open()
    nftables.add(ALL)
    nftables.close()
    assert run("nft list ruleset") == before


def test_the_operators_own_chain_is_kept_on_close_and_found_again(nftables: Nftables) -> None:
    nftables.open()
    nftables.add(ALL)
    run("nft add rule inet netkit admin ip saddr 192.0.2.1 drop")
    nftables.close()
    kept = run("nft list ruleset")
    assert " ".join(kept.split()) == "table inet netkit { chain admin { ip saddr 192.0.2.1 drop } }"
    assert not nftables.is_open()
    nftables.open()
    assert nftables.is_open()
    assert "192.0.2.1" in run("nft list chain inet netkit admin")
    nftables.add([RULES["publish"]])
    run("nft flush chain inet netkit admin")
    nftables.close()
    assert run("nft list ruleset") == ""


def test_the_script_is_what_an_operator_can_run(nftables: Nftables) -> None:
    nftables.open()
    ours = run("nft list ruleset")
    nftables.close()
    run(f"nft -f - <<'END'\n{nftables.script()}END")
    assert run("nft list ruleset") == ours
    assert nftables.is_open()


def test_the_lines_are_what_an_operator_can_run(nftables: Nftables) -> None:
    # but those whose time is shown, which runs
    rules = [*ALL, *(rule for rule in BRIDGED.values() if not isinstance(rule, Learnt))]
    nftables.open()
    empty = run("nft list ruleset")
    nftables.add(rules)
    ours = run("nft list ruleset")
    nftables.delete(rules)
    assert run("nft list ruleset") == empty != ours
    script(nftables.lines(rules))
    assert run("nft list ruleset") == ours
    script(nftables.lines(rules, "delete"))
    assert run("nft list ruleset") == empty


def test_the_lines_say_for_how_long(nftables: Nftables) -> None:
    nftables.open()
    script(nftables.lines([BRIDGED["learnt"]]))
    assert nftables.check([BRIDGED["learnt"]]) == []
    assert "timeout 5m" in run("nft list set inet netkit learnt4")
    script(nftables.lines([BRIDGED["learnt"]], "delete"))
    assert nftables.check([BRIDGED["learnt"]])


def test_a_thousand_elements_are_one_transaction(nftables: Nftables) -> None:
    """More than one message and more than a socket takes by itself."""
    nftables.open()
    ports = [Publish(None, 1000, WEB, 2000, "tcp", 3000), RULES["guard"]]
    nftables.add(ports)
    listed = run("nft list map inet netkit wildcard4")
    assert len(re.findall(r"tcp \. \d+ : 10\.88\.0\.2 \. \d+", listed)) == 3000
    with pytest.raises(FileExistsError):
        nftables.add(
            [Publish(None, 9000, WEB, 2000, "tcp", 500), Publish(None, 3999, DB, 1, "tcp")]
        )
    assert run("nft list map inet netkit wildcard4") == listed
    nftables.delete(ports)
    assert "elements" not in run("nft list ruleset")


def test_elements_are_put_without_asking_what_there_is(nftables: Nftables) -> None:
    """libnftables would fetch all tables, chains and sets of the host first."""
    nftables.open()
    libnftables.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libnftables, "run", lambda script: pytest.fail(script))
        nftables.add(ALL)
        nftables.delete(ALL)


def test_tables_of_an_older_netkit_are_mended_when_they_lack_something(nftables: Nftables) -> None:
    """In one transaction, and nothing that was in them is lost; the operator's own least of all."""
    nftables.open()
    run("nft add rule inet netkit admin ip saddr 192.0.2.1 drop")
    nftables.add(ALL)
    whole = run("nft list ruleset")
    run(
        *(f"nft flush chain bridge netkit {chain}" for chain in ("forward", "between")),
        *(f"nft delete chain bridge netkit {chain}" for chain in ("forward", "between")),
        "nft delete set bridge netkit closed",
        "nft insert rule inet netkit forward counter accept",
    )
    nftables.add([BRIDGED["closed"]])
    assert nftables.check([*ALL, BRIDGED["closed"]]) == []
    nftables.delete([BRIDGED["closed"]])
    assert sorted(run("nft list ruleset").splitlines()) == sorted(whole.splitlines())
    assert nftables.altered() == []


def script(lines: object) -> None:
    assert isinstance(lines, list)
    run("nft -f - <<'END'\n" + "\n".join(lines) + "\nEND")


def test_a_refusal_says_what_the_kernel_or_nft_says(nftables: Nftables) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        nftables.add([RULES["publish"]])
    with pytest.raises(libnftables.NftError, match="syntax error"):
        libnftables.run("add nonsense")


# -- nft that fails, hangs or is not there


def fake_nft(host: Host, monkeypatch: pytest.MonkeyPatch, script: str | None) -> None:
    """No library, and for the program *script*; None: none."""
    without_library(monkeypatch)
    path = f"{host.base}/nft"
    if script is not None:
        with open(path, "w") as file:
            file.write(f"#!/bin/sh\n{script}\n")
        os.chmod(path, 0o755)
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None if script is None else path)


FAULTS = {
    "failing": ("echo 'Error: Could not process rule: Operation not supported' >&2; exit 1",
                "Operation not supported"),
    "dumb": ("exit 3", "did not say why"),
    "killed": ("kill -9 $$", "did not say why"),
    "hanging": ("exec sleep 60", "did not answer in"),
    "missing": (None, "neither libnftables nor the nft program is installed"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_network_is_refused_in_time_and_whole_when_nft_is(
    host: Host, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    code, sentence = FAULTS[fault]
    before = snapshot()
    engine = host.engine()
    assert (usual_s := libnftables._PROGRAM_TIMEOUT_S) <= 10
    with monkeypatch.context() as patch:
        patch.setattr(libnftables, "_PROGRAM_TIMEOUT_S", 0.2)
        fake_nft(host, patch, code)
        begin = time.monotonic()
        with pytest.raises(KernelRefused, match=sentence) as caught:
            engine.create_network(NetworkSpec("web"))
        assert time.monotonic() - begin < usual_s
        if fault == "missing":
            assert "apt-get install" in (caught.value.hint or "")
            assert "libnftables1" in (caught.value.hint or "")
    libnftables.forget()
    assert snapshot() == before
    assert engine.networks() == [*networks.BUILT_IN]
    engine.create_network(NetworkSpec("web"))
    engine.delete_network("web")
    assert snapshot() == before


def test_rules_that_are_refused_in_the_middle_of_connect_leave_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = host.engine()
    engine.create_network(NetworkSpec("web"))
    before = snapshot()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(elements, "add", refuse)
        with pytest.raises(KernelRefused, match=r"nft.*ports.*no room"):
            engine.connect("web", name="c1")
    assert snapshot() == before
    engine.connect("web", name="c1")


# -- none


def test_no_firewall_accepts_everything_and_writes_nothing(host: Host) -> None:
    firewall: Firewall = NoFirewall()
    firewall.open()
    firewall.add(ALL)
    assert firewall.is_open()
    assert firewall.check(ALL) == ()
    assert firewall.refuses([RULES["isolate"], RULES["guard"]]) == ""
    for kind in ("no host", "confine", "reach", "serve"):
        assert "without a firewall" in firewall.refuses([ACCESS[kind]])
    firewall.delete(ALL)
    firewall.close()
    assert (firewall.script(), firewall.lines(ALL)) == ("", ())
    assert run("nft list ruleset") == ""
