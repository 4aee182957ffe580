"""Who may talk to whom within a network, changed while they talk (features E1, E2, E3, E13, E15).

On bridges and on routed pairs (veth), by IPv4 and IPv6; with both firewalls where iptables can: it
does not see what a bridge passes on, so there a network is open or closed, and nothing between.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from typing import Any, NamedTuple

import pytest

from netkit import live, permissions, views
from netkit.access import ContainerLink
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NetkitError, NotFound
from netkit.model import EndpointRecord, NetworkRecord, SandboxRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios import frames
from scenarios.firewalls import each, in_nftables, on_iptables, on_nftables, take_away
from scenarios.lab import BRIEF_S, PATIENCE_S, Host, at, netkit, ready, run

SUBNETS = (ip_network("172.25.0.0/24"), ip_network("fd00:25::/64"))
GATEWAY, WEB, DB, APP = ((f"172.25.0.{number}", f"fd00:25::{number}") for number in range(1, 5))
OURS, THEIRS = ("10.9.0.1", "fd00:9::1"), ("10.9.0.2", "fd00:9::2")
pytestmark = each
_SYN = 2
on_both = pytest.mark.parametrize("driver", ["bridge", "veth"])


class Town(NamedTuple):
    """Three containers on the network `net`, by the places they are at."""

    host: Host
    engine: Engine
    web: str
    db: str
    app: str

    def reaches(
        self, place: str | None, addresses: tuple[str, str], port: int, protocol: str = "tcp"
    ) -> bool:
        """Whether the server there answers, by IPv4 and by IPv6; of the two it must be the same."""
        with ThreadPoolExecutor() as both:
            first, other = both.map(
                lambda ip: self.host.ask(place, ip, port, protocol, patience_s=self._patience),
                addresses,
            )
        assert (first is None) == (other is None), (first, other)
        return first is not None

    def cannot(self, *asked: Any) -> bool:
        return not Brief(*self).reaches(*asked)

    @property
    def _patience(self) -> float:
        return PATIENCE_S

    @contextlib.contextmanager
    def serving(self, place: str | None, *ports: int, protocol: str = "tcp") -> Iterator[None]:
        with contextlib.ExitStack() as servers:
            for port in ports:
                for address in ("", "::"):
                    servers.enter_context(self.host.serve(place, protocol, port, address))
            yield

    def allow(self, client: str, server: str) -> None:
        permissions.allow(self.engine, client, server, "net")

    def disallow(self, client: str, server: str) -> None:
        permissions.disallow(self.engine, client, server, "net")


class Brief(Town):
    """For those who await no answer."""

    @property
    def _patience(self) -> float:
        return BRIEF_S


def town(host: Host, driver: str, **asked: Any) -> Town:
    engine = host.engine()
    fields: dict[str, Any] = {"subnets": SUBNETS, "ipv6": True, "icc": False} | asked
    engine.create_network(NetworkSpec("net", driver, **fields))
    return Town(host, engine, *(join(engine, name) for name in ("web", "db", "app")))


def join(engine: Engine, name: str, *ports: str, **wanted: Any) -> str:
    """Connect to `net`; the place, once frames pass."""
    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    ep = engine.connect("net", request=Request(ports=specs, **wanted), name=name)
    assert ep.netns is not None
    return ready(ep) if engine.network("net").bridge else ep.netns


def endpoint(engine: Engine, name: str) -> EndpointRecord:
    (ep,) = engine.endpoints(sandbox=engine.sandbox(name).id)
    return ep


def network(here: Town) -> NetworkRecord:
    return here.engine.network("net")


def needs_a_firewall_that_sees(host: Host, driver: str) -> None:
    if host.firewall == "iptables" and driver == "bridge":
        pytest.skip("iptables sees nothing that a bridge passes on: docs/firewall.md")


# -- open and closed (E1)


@on_both
def test_a_network_is_closed_and_opened_while_all_of_it_live(host: Host, driver: str) -> None:
    here = town(host, driver, icc=True)
    with here.serving(here.db, 80):
        assert here.reaches(here.web, DB, 80)
        permissions.police(here.engine, "net", icc=False)
        assert here.cannot(here.web, DB, 80)
        assert not host.ping(here.web, DB[0], patience_s=BRIEF_S)
        assert host.ping(here.web, GATEWAY[0])
        assert here.engine.check() == []
        late = join(here.engine, "late")
        assert here.cannot(late, DB, 80)
        permissions.police(here.engine, "net", icc=True)
        assert here.reaches(here.web, DB, 80)
        assert here.reaches(late, DB, 80)
        assert here.engine.check() == []


@on_both
def test_a_network_that_was_opened_and_closed_goes_without_a_trace(host: Host, driver: str) -> None:
    before = run("nft list ruleset; iptables-legacy-save 2>/dev/null | grep NETKIT || true")
    here = town(host, driver)
    for icc in (True, False, True, False):
        permissions.police(here.engine, "net", icc=icc, host_access=icc)
    for name in ("web", "db", "app"):
        here.engine.disconnect("net", name)
    if in_nftables():
        left = [line.strip() for line in run("nft list ruleset").splitlines() if "veth" in line]
        assert left == []
    here.engine.delete_network("net")
    assert before == run("nft list ruleset; iptables-legacy-save 2>/dev/null | grep NETKIT || true")


# -- allowed (E13)


@on_both
def test_on_a_closed_network_only_what_is_allowed_gets_through(host: Host, driver: str) -> None:
    needs_a_firewall_that_sees(host, driver)
    here = town(host, driver)
    with here.serving(here.db, 80, 81), here.serving(here.web, 80):
        assert here.cannot(here.web, DB, 80)
        here.allow("web", "db:80")
        assert here.reaches(here.web, DB, 80)
        assert here.cannot(here.web, DB, 81)
        assert here.cannot(here.app, DB, 80)
        assert here.cannot(here.db, WEB, 80)  # the other way
        assert not host.ping(here.web, DB[0], patience_s=BRIEF_S)
        assert here.engine.check() == []
        here.disallow("web", "db:80")
        assert here.cannot(here.web, DB, 80)
        assert here.engine.check() == []


@on_nftables
@on_both
def test_ranges_udp_and_all_there_is_can_be_allowed(host: Host, driver: str) -> None:
    here = town(host, driver)
    for said in ("db:80-81", "db:81-90", "db:53/udp"):
        here.allow("web", said)
    with here.serving(here.db, 81, 90, 91), here.serving(here.db, 53, protocol="udp"):
        assert here.reaches(here.web, DB, 81)
        assert here.reaches(here.web, DB, 90)
        assert here.cannot(here.web, DB, 91)
        assert here.reaches(here.web, DB, 53, "udp")
        assert here.cannot(here.app, DB, 53, "udp")
        here.disallow("web", "db:80-81")  # of which the other range has a part
        assert here.reaches(here.web, DB, 81)
        here.allow("app", "db")
        assert here.reaches(here.app, DB, 91)
        assert host.ping(here.app, DB[0])
        assert host.ping(here.app, DB[1])
        assert not host.ping(here.db, APP[0], patience_s=BRIEF_S)


@on_both
def test_clients_reach_the_server_and_not_each_other(host: Host, driver: str) -> None:
    """What an access point calls isolation of its clients."""
    needs_a_firewall_that_sees(host, driver)
    here = town(host, driver)
    here.allow("*", "db:80")
    late = join(here.engine, "late")
    with here.serving(here.db, 80, 81), here.serving(here.web, 80):
        for place in (here.web, here.app, late):
            assert here.reaches(place, DB, 80)
        assert here.cannot(late, DB, 81)
        assert here.cannot(late, WEB, 80)
        assert here.cannot(here.db, WEB, 80)
        here.disallow("*", "db:80")
        assert here.cannot(late, DB, 80)


@on_nftables
@on_both
def test_permissions_are_a_names_and_nobody_inherits_an_interfaces(host: Host, driver: str) -> None:
    here = town(host, driver)
    here.allow("web", "db:80")
    here.allow("db", "app:80")
    was = endpoint(here.engine, "web").host_ifname
    here.engine.disconnect("net", "web")
    eve = join(here.engine, "eve", host_ifname=was)
    with here.serving(here.db, 80):
        assert here.cannot(eve, DB, 80)
        here.engine.disconnect("net", "eve")
        web = join(here.engine, "web", host_ifname=was)
        assert here.reaches(web, DB, 80)
    # and the one that had the rule on record goes, and comes back
    held = endpoint(here.engine, "db").host_ifname
    here.engine.disconnect("net", "db")
    mallory = join(here.engine, "mallory", host_ifname=held)
    with here.serving(mallory, 80):
        assert here.cannot(web, DB, 80)
    with here.serving(here.app, 80):
        assert here.cannot(mallory, APP, 80)
        here.engine.disconnect("net", "mallory")
        db = join(here.engine, "db", host_ifname=held)
        assert here.reaches(db, APP, 80)
    with here.serving(db, 80):
        assert here.reaches(web, DB, 80)
    assert here.engine.check() == []


@on_both
def test_what_is_allowed_to_others_does_not_disturb_a_connection(host: Host, driver: str) -> None:
    needs_a_firewall_that_sees(host, driver)
    here = town(host, driver)
    here.allow("web", "db:80")

    def listening() -> socket.socket:
        server = socket.create_server(("172.25.0.3", 80))
        server.settimeout(PATIENCE_S)
        return server

    with at(here.db, listening) as server:
        client = at(here.web, lambda: socket.create_connection(("172.25.0.3", 80), PATIENCE_S))
        with client, server.accept()[0] as served:
            for change in (
                lambda: here.allow("app", "db:80"),
                lambda: here.disallow("app", "db:80"),
                lambda: here.allow("*", "app"),
                lambda: here.engine.disconnect("net", "app"),
                lambda: permissions.police(here.engine, "net", icc=True, host_access=False),
                lambda: permissions.police(here.engine, "net", icc=False, host_access=True),
            ):
                change()
                client.sendall(b"still there?")
                assert served.recv(64) == b"still there?"
                served.sendall(b"yes")
                assert client.recv(64) == b"yes"


# -- links (E2, E3)


@on_nftables
@on_both
def test_a_link_opens_the_ports_its_target_publishes(host: Host, driver: str) -> None:
    here = town(host, driver)
    here.engine.disconnect("net", "db")
    db = join(here.engine, "db", "8080:80")
    linked = join(here.engine, "linked", links=(ContainerLink("db", "database"),))
    with here.serving(db, 80, 81), here.serving(linked, 80):
        assert here.reaches(linked, DB, 80)
        assert here.cannot(linked, DB, 81)
        assert here.cannot(here.web, DB, 80)
        assert here.cannot(db, ("172.25.0.5", "fd00:25::5"), 80)
    shown = views.policy_rows(here.engine, here.engine.network("net"))
    assert {
        "From": "linked",
        "To": "db",
        "Ports": "80/tcp",
        "By": "link",
        "InForce": "yes",
    } in shown
    # who comes back under its name is meant as well; with what it publishes then
    here.engine.disconnect("net", "db")
    db = join(here.engine, "db", "8080:81")
    with here.serving(db, 80, 81):
        assert here.reaches(linked, DB, 81)
        assert here.cannot(linked, DB, 80)
        # or live
        live.publish(here.engine, "db", PortSpec.parse("8081:80"))
        assert here.reaches(linked, DB, 80)
        live.unpublish(here.engine, "db", PortSpec.parse("8080:81"))
        assert here.cannot(linked, DB, 81)
        assert here.reaches(linked, DB, 80)
    here.engine.disconnect("net", "linked")
    assert here.engine.check() == []


@on_nftables
def test_a_link_opens_the_ports_its_target_exposes(host: Host) -> None:
    here = town(host, "bridge")
    netkit("run -d --name shop --net net --expose 80 --expose 90-91/udp sleep 60")
    try:
        shop = endpoint(here.engine, "shop")
        first, other = (str(own.ip) for own in shop.addresses)
        where = first, other
        linked = join(here.engine, "linked", links=(ContainerLink("shop", "shop"),))
        place = ready(shop)
        with here.serving(place, 80, 81), here.serving(place, 91, protocol="udp"):
            assert here.reaches(linked, where, 80)
            assert here.reaches(linked, where, 91, "udp")
            assert here.cannot(linked, where, 81)
    finally:
        netkit("rm -f shop")


# -- the host (E15)


@on_both
def test_the_hosts_services_are_closed_while_the_internet_stays_open(
    host: Host, driver: str
) -> None:
    lans = [
        host.neighbour(f"lan{version}", f"{ours}/{length}", f"{theirs}/{length}")
        for version, length, ours, theirs in zip((4, 6), (24, 64), OURS, THEIRS, strict=True)
    ]
    here = town(host, driver, icc=True)
    here.engine.disconnect("net", "db")
    db = join(here.engine, "db", "8080:80")
    with (
        here.serving(None, 22, 9100),
        here.serving(None, 53, protocol="udp"),
        here.serving(lans[0], 443),
        here.serving(lans[1], 443),
        here.serving(db, 80),
    ):
        assert here.reaches(here.web, GATEWAY, 22)
        assert here.reaches(here.web, OURS, 22)
        permissions.police(here.engine, "net", host_access=False)
        assert here.cannot(here.web, GATEWAY, 22)
        assert here.cannot(here.web, OURS, 22)
        assert here.reaches(here.web, GATEWAY, 53, "udp")  # names
        assert here.cannot(here.web, OURS, 53, "udp")
        assert host.ping(here.web, GATEWAY[0])
        assert here.reaches(here.web, THEIRS, 443)  # the internet
        assert here.reaches(here.app, OURS, 8080)  # what a sibling publishes
        assert here.reaches(here.web, DB, 80)
        assert here.reaches(None, DB, 80)  # and the host reaches them
        assert here.engine.check() == []
        here.allow("web", "host:9100")
        assert here.reaches(here.web, GATEWAY, 9100)
        assert here.cannot(here.web, GATEWAY, 22)
        assert here.cannot(here.app, GATEWAY, 9100)
        here.allow("*", "host:9100")
        assert here.reaches(here.app, GATEWAY, 9100)
        here.disallow("web", "host:9100")
        here.allow("web", "host:9100")  # which everybody may anyway
        here.disallow("*", "host:9100")
        assert here.reaches(here.web, GATEWAY, 9100)
        assert here.cannot(here.app, GATEWAY, 9100)
        permissions.police(here.engine, "net", host_access=True)
        assert here.reaches(here.app, GATEWAY, 22)
        assert here.engine.check() == []


@on_nftables
@on_both
def test_a_network_made_without_the_host_never_had_it(host: Host, driver: str) -> None:
    here = town(host, driver, host_access=False, icc=True)
    with here.serving(None, 22):
        assert here.cannot(here.web, GATEWAY, 22)
    with here.serving(here.db, 80):
        assert here.reaches(here.web, DB, 80)


# -- attacks


@on_nftables
def test_whoever_looks_like_an_allowed_client_gets_no_further(host: Host) -> None:
    """With the guard taken away, too: permission is a port's, whatever its frames say."""
    here = town(host, "bridge")
    here.allow("web", "db:80")
    web, db, app = (endpoint(here.engine, name) for name in ("web", "db", "app"))
    run("ip addr add 172.25.0.2/24 dev eth0", place=here.app)

    def forged_by(frame: bytes) -> bool:
        return frame[6:12].hex(":") in (app.mac, web.mac)

    forged = [
        frames.tcp((web.mac, db.mac), (WEB[0], DB[0]), (4000, 80), _SYN),
        frames.tcp((app.mac, db.mac), (WEB[0], DB[0]), (4000, 80), _SYN),
        frames.udp((web.mac, db.mac), (WEB[0], DB[0]), (4000, 80)),
        frames.tcp((app.mac, db.mac), (APP[0], DB[0]), (80, 4000), _SYN),
        frames.arp(app.mac, app.mac, WEB[0]),
        frames.arp(web.mac, app.mac, DB[0]),
        frames.tagged(frames.udp((app.mac, db.mac), (APP[0], DB[0]), (4000, 80)), 7),
        frames.router_advertisement(app.mac, "fd00:66::"),
    ]
    for guarded in (True, False):
        if not guarded:
            take_away("ports", app.host_ifname)
        with frames.hear(
            here.db, "eth0", lambda frame: frame[6:12].hex(":") in (app.mac, web.mac)
        ) as heard:
            frames.send(here.app, "eth0", *forged)
        assert heard == []
    with here.serving(here.db, 80):
        assert host.ask(here.app, DB[0], 80, source=WEB[0], patience_s=BRIEF_S) is None
        assert here.reaches(here.web, DB, 80)  # and he has not taken its place
    # a control: it could be heard
    with frames.hear(here.db, "eth0", frames.of(web.mac), 1) as heard:
        frames.send(here.web, "eth0", forged[0])
    assert len(heard) == 1


# -- what is refused


@on_iptables
def test_what_iptables_does_not_see_on_a_bridge_is_refused_by_name(host: Host) -> None:
    here = town(host, "bridge")
    before = here.engine.network("net")
    with pytest.raises(InvalidSpec, match=r"cannot have web -> db:80/tcp on network 'net': ") as no:
        here.allow("web", "db:80")
    assert "nftables" in str(no.value.hint)
    with pytest.raises(InvalidSpec, match=r"cannot have the link db:db on network 'net': "):
        join(here.engine, "late", links=(ContainerLink("db", "db"),))
    assert here.engine.network("net") == before
    assert here.engine.store.by_name(SandboxRecord, "late") is None


@on_nftables
@pytest.mark.parametrize(
    ("client", "server", "kind", "said"),
    [
        ("web", "web", InvalidSpec, "that is one and the same"),
        ("web", "db:0", InvalidSpec, "PORT or PORT-PORT"),
        ("web", "db:80/icmp", InvalidSpec, "tcp, udp, sctp"),
        ("web", "db\nx", InvalidSpec, "invalid container"),
        ("we b", "db", InvalidSpec, "invalid container"),
        ("web#", "db", InvalidSpec, "invalid container"),
        ("web", "*", InvalidSpec, "one container is to be reached"),
        ("host", "db", InvalidSpec, "of the host"),
        ("web", "host", InvalidSpec, "a port is wanted"),
        ("web", "host:80", Conflict, "may reach the host already"),
        ("app", "db:5432", Conflict, "is allowed on network 'net' already"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    host: Host, client: str, server: str, kind: type[NetkitError], said: str
) -> None:
    here = town(host, "bridge")
    here.allow("app", "db:5432")
    before = here.engine.network("net"), run("nft list ruleset")
    with pytest.raises(kind, match=said):
        here.allow(client, server)
    assert (here.engine.network("net"), run("nft list ruleset")) == before


@on_nftables
def test_what_would_change_nothing_is_refused(host: Host) -> None:
    here = town(host, "bridge", icc=True)
    with pytest.raises(Conflict, match="everybody already: it is open") as refused:
        here.allow("web", "db")
    assert refused.value.hint == "close it first: netkit policy net closed"
    with pytest.raises(NotFound, match="web -> db is not allowed on network 'net'"):
        here.disallow("web", "db")
    for name in ("host", "none"):
        with pytest.raises(Conflict, match="it is pre-defined"):
            permissions.police(here.engine, name, icc=False)
