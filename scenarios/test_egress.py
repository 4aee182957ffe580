"""Where packets may leave to: lists of a network's or a container's, changed live (feature E14).

On bridges and on routed pairs, by IPv4 and IPv6, with both firewalls; domains with nftables, whose
sets forget by themselves.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from ipaddress import ip_address
from typing import Any

import pytest

from netkit import live, permissions
from netkit.access import EgressRule
from netkit.addresses import Address
from netkit.engine import Engine
from netkit.errors import InvalidSpec
from netkit.firewall import Rule
from netkit.firewall.nftables import Nftables
from netkit.model import SandboxRecord
from netkit.specs import NetworkSpec, Request
from scenarios.firewalls import each, on_iptables, on_nftables
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, at, run
from scenarios.served import resolve, served
from scenarios.test_policies import DB, OURS, WEB, Town, endpoint, join, town
from tests.asking import answering, forged

NEAR, FAR = ("10.9.0.2", "fd00:9::2"), ("10.9.0.3", "fd00:9::3")
pytestmark = each
on_both = pytest.mark.parametrize("driver", ["bridge", "veth"])


@pytest.fixture
def lan(host: Host) -> Iterator[str]:
    """A machine outside that serves ports 80 and 443 at two addresses of each IP version."""
    place = host.neighbour("lan", f"{OURS[0]}/24", f"{NEAR[0]}/24")
    run(
        "ip addr add fd00:9::1/64 dev lan0 nodad",
        "ip addr add fe80::1/64 dev lan0 nodad",
        "ip -n lan addr add 10.9.0.3/24 dev eth0",
        *(f"ip -n lan addr add {ip}/64 dev eth0 nodad" for ip in (NEAR[1], FAR[1])),
        "ip -n lan route add default via fd00:9::1",
    )
    with ExitStack() as servers:
        for port in (80, 443):
            for address in ("", "::"):
                servers.enter_context(host.serve(place, "tcp", port, address))
        yield place


def let_out(here: Town, name: str, verb: Any, *rules: str) -> None:
    permissions.let_out(here.engine, name, verb, rules)


@on_both
@pytest.mark.usefixtures("lan")
def test_a_network_reaches_what_is_on_its_list_and_nothing_else(host: Host, driver: str) -> None:
    here = town(host, driver, icc=True)
    assert here.reaches(here.web, NEAR, 80)
    let_out(here, "net", "allow", "10.9.0.2", "fd00:9::2/128")
    let_out(here, "net", "allow", "10.9.0.0/24:443", "[fd00:9::]/64:443")
    assert here.reaches(here.web, NEAR, 80)
    assert here.cannot(here.web, FAR, 80)
    assert here.reaches(here.web, FAR, 443)
    assert here.cannot(join(here.engine, "late"), FAR, 80)
    with here.serving(here.db, 80):
        assert here.reaches(here.web, DB, 80)  # that is no leaving
    assert here.engine.check() == []
    let_out(here, "net", "disallow", "10.9.0.2", "fd00:9::2/128")
    assert here.cannot(here.web, NEAR, 80)
    assert here.reaches(here.web, NEAR, 443)
    let_out(here, "net", "deny")
    assert here.cannot(here.web, NEAR, 443)
    let_out(here, "net", "any")
    assert here.reaches(here.web, FAR, 80)
    assert here.engine.check() == []


@on_both
@pytest.mark.usefixtures("lan")
def test_a_container_has_a_list_of_its_own(host: Host, driver: str) -> None:
    here = town(host, driver, icc=True)
    let_out(here, "web", "allow", "10.9.0.2:80-90", "[fd00:9::2]:80")
    assert here.reaches(here.web, NEAR, 80)
    assert here.cannot(here.web, FAR, 80)
    assert here.reaches(here.app, FAR, 80)  # nobody else's
    late = join(here.engine, "late", egress=(EgressRule.parse("10.9.0.3"),))
    assert host.ask(late, FAR[0], 80) is not None
    assert here.cannot(late, NEAR, 80)
    let_out(here, "net", "deny")  # a container may go where its network may, and where it may
    assert here.reaches(here.web, NEAR, 80)
    assert here.cannot(here.app, NEAR, 80)
    here.engine.disconnect("net", "web")
    heir = join(here.engine, "heir")  # gets the address, and not what that was let go to
    assert str(endpoint(here.engine, "heir").addresses[0].ip) == WEB[0]
    assert here.cannot(heir, NEAR, 80)
    let_out(here, "net", "any")
    assert here.reaches(heir, FAR, 80)
    assert here.engine.check() == []


@on_nftables
@on_both
@pytest.mark.usefixtures("lan")
def test_another_address_is_no_way_around_the_list(host: Host, driver: str) -> None:
    here = town(host, driver, icc=True)
    let_out(here, "web", "allow", "10.9.0.2")
    for address in ("172.25.0.50", "10.55.0.1/24"):
        live.alter(here.engine, "web", "add address", address)
        source = address.partition("/")[0]
        if address == "10.55.0.1/24" and (bridge := here.engine.network("net").bridge):
            run(f"ip route add 10.55.0.0/24 dev {bridge}")
        assert host.ask(here.web, NEAR[0], 80, source=source) is not None
        assert host.ask(here.web, FAR[0], 80, source=source, patience_s=BRIEF_S) is None
    let_out(here, "web", "allow", "10.9.0.3")
    assert host.ask(here.web, FAR[0], 80, source="10.55.0.1") is not None
    live.alter(here.engine, "web", "remove address", "10.55.0.1/24")
    assert here.engine.check() == []
    let_out(here, "web", "any")
    here.engine.disconnect("net", "web")
    here.engine.delete_network("net", force=True)


@on_both
def test_what_is_established_goes_on_and_published_ports_answer(
    host: Host, lan: str, driver: str
) -> None:
    here = town(host, driver, icc=True)
    here.engine.disconnect("net", "db")
    db = join(here.engine, "db", "8080:80")
    with here.serving(db, 80):
        client = at(here.web, lambda: socket.create_connection((NEAR[0], 80), PATIENCE_S))
        with client:
            let_out(here, "net", "deny")
            assert client.recv(64).decode() == OURS[0]
        assert here.cannot(here.web, NEAR, 80)
        assert here.reaches(lan, OURS, 8080)


# -- domains


@on_nftables
@pytest.mark.usefixtures("lan")
def test_a_domain_leads_to_the_addresses_that_were_answered(host: Host) -> None:
    here = town(host, "bridge", icc=True, names=True)
    let_out(here, "web", "allow", "shop.example:80", "*.cdn.example")
    web = here.engine.store.get(SandboxRecord, "web").id

    def answered(name: str, ttl_s: int, *addresses: str) -> None:
        found = [(ip_address(ip), ttl_s) for ip in addresses]
        permissions.learnt(here.engine, web, name, found)

    assert here.cannot(here.web, NEAR, 80)
    answered("other.example", 300, *NEAR)
    answered("cdn.example", 300, *NEAR)
    assert here.cannot(here.web, NEAR, 80)
    answered("shop.example", 300, *NEAR)
    assert here.reaches(here.web, NEAR, 80)
    assert here.cannot(here.web, NEAR, 443)
    assert here.cannot(here.web, FAR, 80)  # which nobody was told of
    assert "timeout 5m30s" in run("nft list set inet netkit learnt4")
    answered("a.cdn.example", 5, *FAR)
    assert here.reaches(here.web, FAR, 443)
    assert "timeout 1m30s" in run("nft list set inet netkit learnt_all4")
    # what leads there no longer is forgotten, and so is all that one learnt who leaves
    let_out(here, "web", "disallow", "shop.example:80")
    assert here.cannot(here.web, NEAR, 80)
    answered("a.cdn.example", 5, *FAR)
    here.engine.disconnect("net", "web")
    assert "timeout" not in run("nft list sets inet").replace("flags timeout", "")
    heir = join(here.engine, "heir", egress=(EgressRule.parse("192.0.2.7"),))
    assert here.cannot(heir, FAR, 443)


@on_nftables
def test_whoever_a_name_belongs_to_does_not_open_what_he_likes(host: Host) -> None:
    """Neither what is on the host's own links, nor for good, nor more than we can bear."""
    here = town(host, "bridge", icc=True, names=True)
    let_out(here, "net", "allow", "shop.example:80")
    web = here.engine.store.get(SandboxRecord, "web").id

    def answered(*addresses: str, ttl_s: int = 300) -> str:
        found = [(ip_address(ip), ttl_s) for ip in addresses]
        permissions.learnt(here.engine, web, "shop.example", found)
        return run("nft list set inet netkit learnt4; nft list set inet netkit learnt6")

    here_only = (
        "169.254.169.254",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.251",
        "fe80::1",
        "::1",
        "ff02::1",
    )
    assert "expires" not in answered(*here_only)
    assert "timeout 1d30s" in answered("10.9.0.2", ttl_s=2**32 - 1)
    assert answered(*(f"10.8.{n // 250}.{n % 250}" for n in range(1000))).count("expires") == 101


@on_nftables
@pytest.mark.parametrize("change", ["the list is changed", "the container leaves"])
def test_what_is_learnt_while_the_leave_for_it_goes_is_not_open(
    host: Host, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    here = town(host, "bridge", icc=True, names=True)
    let_out(here, "net", "allow", "shop.example:80")
    web = here.engine.store.get(SandboxRecord, "web").id
    put = Nftables.add

    def late(self: Nftables, rules: Sequence[Rule]) -> None:
        """It was looked up before, and is put afterwards."""
        monkeypatch.undo()
        other = host.engine()
        if change == "the list is changed":
            permissions.let_out(other, "net", "disallow", ["shop.example:80"])
        else:
            other.disconnect("net", "web")
        put(self, rules)

    monkeypatch.setattr(Nftables, "add", late)
    permissions.learnt(here.engine, web, "shop.example", [(ip_address("10.9.0.2"), 300)])
    assert "expires" not in run("nft list set inet netkit learnt4")


@on_nftables
@pytest.mark.usefixtures("lan")
def test_a_name_is_asked_for_and_what_is_answered_can_be_reached_at_once(host: Host) -> None:
    """All of it: the container asks us, we an upstream, and let through before we answer."""

    def learnt(sandbox: str, name: str, found: Sequence[tuple[Address, int]]) -> None:
        engine = Engine()
        permissions.learnt(engine, sandbox, name, found)
        engine.close()

    run("ip addr add 10.9.0.53/32 dev lo")
    with served(host, learnt), forged("10.9.0.53", answering(NEAR[0])):
        here = town(host, "bridge", icc=True, names=True, servers=("10.9.0.53",))
        let_out(here, "net", "allow", "shop.example:80")
        gateway = "172.25.0.1"
        assert host.ask(here.web, NEAR[0], 80, patience_s=BRIEF_S) is None
        assert resolve(here.web, gateway, "other.example") == [NEAR[0]]
        assert host.ask(here.web, NEAR[0], 80, patience_s=BRIEF_S) is None
        for _ in range(2):  # the second time it may be remembered, and is let through all the same
            assert resolve(here.web, gateway, "shop.example") == [NEAR[0]]
            assert host.ask(here.web, NEAR[0], 80) is not None
            run("nft flush set inet netkit learnt4")
        assert host.ask(here.app, NEAR[0], 80, patience_s=BRIEF_S) is None  # who has not asked


@on_nftables
def test_with_a_list_nobody_else_is_asked_for_names(host: Host, lan: str) -> None:
    here = town(host, "bridge", icc=True, names=True, host_access=False)
    let_out(here, "net", "allow", "shop.example")
    with host.serve(lan, "udp", 53), host.serve(None, "udp", 53):
        assert host.ask(here.web, NEAR[0], 53, "udp", patience_s=BRIEF_S) is None
        assert host.ask(here.web, "172.25.0.1", 53, "udp") is not None


def test_who_has_no_address_can_have_no_list_of_its_own(host: Host) -> None:
    """It may send from any, so there is nothing to know its packets by."""
    here = town(host, "bridge", icc=True)
    wanted = Request(addressless=True, egress=(EgressRule.parse("192.0.2.7"),))
    with pytest.raises(InvalidSpec, match=r"who has no address on network 'net'"):
        here.engine.connect("net", request=wanted, name="late")
    here.engine.connect("net", request=Request(addressless=True), name="late")
    with pytest.raises(InvalidSpec, match=r"who has no address on network 'net'"):
        let_out(here, "late", "deny")
    let_out(here, "late", "any")


@on_nftables
def test_a_domain_needs_names_on_the_network(host: Host) -> None:
    here = town(host, "bridge", icc=True, names=False)
    with pytest.raises(
        InvalidSpec, match=r"cannot have shop\.example on network 'net': it has no "
    ):
        let_out(here, "net", "allow", "shop.example")
    with pytest.raises(InvalidSpec, match=r"it has no names"):
        join(here.engine, "late", egress=(EgressRule.parse("shop.example"),))


@on_iptables
def test_iptables_has_no_sets_that_forget_and_says_so(host: Host) -> None:
    here = town(host, "veth", icc=True, names=True)
    with pytest.raises(InvalidSpec, match=r"cannot have shop\.example on network 'net': ") as no:
        let_out(here, "web", "allow", "shop.example")
    assert "nftables" in f"{no.value} {no.value.hint}"
    spec = NetworkSpec("other", names=True, egress=(EgressRule.parse("a.b"),))
    with pytest.raises(InvalidSpec):
        here.engine.create_network(spec)
