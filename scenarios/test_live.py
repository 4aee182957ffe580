"""What changes while containers run, with real packets: rows D25, D26, C6, B28, and localhost.

Whatever changes, connections that have nothing to do with it go on.
"""

from __future__ import annotations

import shlex
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from netkit import Netkit, config, live
from netkit.addresses import bracketed
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NotFound
from netkit.model import EndpointRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from netkit.updates import Labels, NetworkUpdate, Update
from scenarios import frames
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, Host, at, join, run, snapshot, until
from tests.faces import ok, refused

OURS = {4: "10.9.0.1", 6: "2001:db8:9::1"}
THEIRS = {4: "10.9.0.2", 6: "2001:db8:9::2"}
GATEWAYS = {4: "172.25.0.1", 6: "fd00:25::1"}
SUBNETS = (IPv4Network("172.25.0.0/24"), IPv6Network("fd00:25::/64"))
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


class Town(NamedTuple):
    """A host and its neighbour, who speak both versions."""

    host: Host
    lan: str

    def engine(self, *, userland_proxy: bool = False, firewall: str | None = None) -> Engine:
        found = config.load().config
        firewall = firewall or found.firewall
        made = Engine(config=replace(found, userland_proxy=userland_proxy, firewall=firewall))
        self.host._engines.append(made)
        return made

    def ask(self, place: str | None, address: str, port: int, protocol: str = "tcp") -> str | None:
        return self.host.ask(place, address, port, protocol)

    def asks_in_vain(self, place: str | None, address: str, port: int, **how: Any) -> bool:
        return self.host.ask(place, address, port, patience_s=BRIEF_S, **how) is None


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{OURS[4]}/24", f"{THEIRS[4]}/24")
    run(
        f"ip addr add {OURS[6]}/64 dev lan0 nodad",
        f"ip -n lan addr add {THEIRS[6]}/64 dev eth0 nodad",
        f"ip -n lan route add default via {OURS[6]}",
    )
    return Town(host, lan)


def network(engine: Engine, name: str = "net", **given: Any) -> None:
    """A network of both versions."""
    spec = NetworkSpec(name, subnets=SUBNETS, ipv6=True)
    engine.create_network(replace(spec, **given))


def specs(*ports: str) -> tuple[PortSpec, ...]:
    return tuple(spec for text in ports for spec in PortSpec.parse(text))


def endpoint(engine: Engine, name: str = "web") -> EndpointRecord:
    (found,) = engine.endpoints(sandbox=engine.sandbox(name).id)
    return found


def done(line: str) -> str:
    """What `netkit LINE` prints."""
    return ok(*shlex.split(line))


def said(line: str) -> str:
    """What `netkit LINE` complains of."""
    return refused(*shlex.split(line))


def anywhere(version: int) -> str:
    return "::" if version == 6 else ""


@contextmanager
def conversation(
    client: str | None, server: str, address: str, port: int, inside_port: int = 80
) -> Iterator[Callable[..., bool]]:
    """A connection that stays open; yields whether it still passes on what is said.

    That takes how long to wait for it: `BRIEF_S` where nothing is awaited any more.
    """
    listener = at(
        server,
        lambda: socket.create_server(
            ("::", inside_port), family=socket.AF_INET6, dualstack_ipv6=True
        ),
    )
    ends: list[socket.socket] = []

    def echo() -> None:
        with suppress(OSError), listener.accept()[0] as taken:
            ends.append(taken)
            while data := taken.recv(1 << 16):
                taken.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    with listener:
        talking = at(client, lambda: socket.create_connection((address, port), timeout=10))

        def goes_on(patience_s: float = 10) -> bool:
            talking.settimeout(patience_s)
            try:
                talking.sendall(b"still there?")
                return talking.recv(64) == b"still there?"
            except OSError:
                return False

        try:
            assert goes_on()
            yield goes_on
        finally:
            talking.close()
            for end in (listener, *ends):  # which may not hear of it
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            thread.join(10)


# -- D25: ports come and go


@each
@VERSIONS
@pytest.mark.parametrize("driver", ["bridge", "veth"])
def test_d25_a_port_is_published_and_unpublished_while_others_are_in_use(
    town: Town, driver: str, version: int
) -> None:
    """The first port of a container, too, and then the first again."""
    engine, ours = town.engine(), OURS[version]
    network(engine, driver=driver)
    made = engine.connect("net", name="web")
    web = str(made.netns)
    live.publish(engine, "web", specs("8080:80", "5353:53/udp"))
    assert engine.check() == []
    with (
        conversation(town.lan, web, ours, 8080) as goes_on,
        town.host.serve(web, "tcp", 443, anywhere(version)),
        town.host.serve(web, "udp", 53, anywhere(version)),
    ):
        assert town.ask(town.lan, ours, 5353, "udp") == THEIRS[version]
        assert town.asks_in_vain(town.lan, ours, 8443)
        live.publish(engine, "web", specs("8443:443"))
        assert town.ask(town.lan, ours, 8443) == THEIRS[version]
        live.unpublish(engine, "web", specs("8443:443"))
        assert town.asks_in_vain(town.lan, ours, 8443)
        live.unpublish(engine, "web", specs("53/udp"))
        assert town.asks_in_vain(town.lan, ours, 5353, protocol="udp")
        assert goes_on()
        assert [str(p.host_address) for p in endpoint(engine).ports] == ["0.0.0.0", "::"]
        assert engine.check() == []
        live.unpublish(engine, "web", specs("8080:80"))
        assert not goes_on(BRIEF_S)
    assert replace(endpoint(engine), request=made.request) == made
    live.publish(engine, "web", specs("9090:90"))
    engine.connect("net", name="other")
    live.publish(engine, "other", specs("8080:80", "8443:443", "5353:53/udp"))
    with pytest.raises(Conflict, match="already allocated"):
        live.publish(engine, "other", specs("9090:90"))
    engine.disconnect("net", "web")
    live.publish(engine, "other", specs("9090:90"))


@each
def test_d25_datagrams_of_a_port_that_is_no_longer_published_do_not_arrive(town: Town) -> None:
    """Conntrack would go on translating for as long as they come."""
    engine = town.engine()
    network(engine)
    web = join(engine, "net", "web", "5353:53/udp", "5354:53/udp")
    with town.host.serve(web, "udp", 53) as seen:
        client = at(town.lan, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        other = at(town.lan, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        for sock, port in ((client, 5353), (other, 5354)):
            sock.settimeout(10)
            sock.connect((OURS[4], port))
            sock.send(b"?")
            assert sock.recv(64).decode() == THEIRS[4]
        live.unpublish(engine, "web", specs("5353:53/udp"))
        known = len(seen)
        client.settimeout(BRIEF_S)
        with pytest.raises(OSError, match=r"timed out|refused"):
            client.send(b"?") and client.recv(64)
        assert len(seen) == known
        other.send(b"?")
        assert other.recv(64).decode() == THEIRS[4]
        client.close()
        other.close()


@pytest.mark.parametrize("userland_proxy", [True, False])
def test_d25_what_a_proxy_serves_comes_and_goes_in_the_one_process(
    town: Town, userland_proxy: bool
) -> None:
    """Published by a proxy, all of it; a connection through it goes on meanwhile."""
    engine = town.engine(userland_proxy=userland_proxy)
    network(engine, publish="proxy")
    web = join(engine, "net", "web")
    before = snapshot()
    live.publish(engine, "web", specs("8080:80"))
    with open(endpoint(engine).proxy) as file:
        process = file.read()
    with (
        conversation(town.lan, web, OURS[4], 8080) as goes_on,
        town.host.serve(web, "tcp", 443, "::"),
    ):
        live.publish(engine, "web", specs("443:443", "8000-8009:8000-8009/udp"))
        assert town.ask(None, "::1", 443) == "fd00:25::1"
        with open(endpoint(engine).proxy) as file:
            assert file.read() == process
        assert engine.check() == []
        live.unpublish(engine, "web", specs("443", "8000-8009:8000-8009/udp"))
        assert town.asks_in_vain(None, "::1", 443)
        assert goes_on()
        live.unpublish(engine, "web", (), every=True)
        assert not goes_on(BRIEF_S)
    assert snapshot() == before
    engine.disconnect("net", "web")


def test_d25_what_cannot_be_published_is_refused_and_changes_nothing(town: Town) -> None:
    engine = town.engine()
    network(engine)
    engine.create_network(
        NetworkSpec("shut", subnets=(IPv4Network("172.26.0.0/24"),), internal=True)
    )
    join(engine, "net", "web", "8080:80", "8000-8009:8000-8009")
    join(engine, "net", "other", "9090:90")
    join(engine, "shut", "alone")
    before = snapshot(), endpoint(engine)
    run("nft add table inet bystander")
    for ports, why in (
        (("8081:81", "8080:81"), r"8080 failed: port is already allocated \(by container 'web'\)"),
        (("9090:80",), r"port is already allocated \(by container 'other'\)"),
        (("192.0.2.9:80:80",), "no interface of this host has the address 192.0.2.9"),
        (("8081:80@shut",), "is not connected to network 'shut'"),
        (("8081:80@shut", "8082:80@net"), "ports of several networks at once: net, shut"),
        (("8081:80@nowhere",), "no such network: nowhere"),
    ):
        with pytest.raises((Conflict, InvalidSpec, NotFound), match=why):
            live.publish(engine, "web", specs(*ports))
    with pytest.raises(InvalidSpec, match="it is internal"):
        live.publish(engine, "alone", specs("8081:80"))
    for ports, why in (
        (("8081:80",), "publishes no port 8081:80/tcp"),
        (("8080:80", "81"), "publishes no port 81/tcp"),
        (("80/udp",), "publishes no port 80/udp"),
        (("8003:8003",), "a part of 0.0.0.0:8000-8009->8000-8009/tcp"),
    ):
        with pytest.raises((Conflict, NotFound), match=why):
            live.unpublish(engine, "web", specs(*ports))
    with pytest.raises(NotFound, match="publishes no port"):
        live.unpublish(engine, "alone", (), every=True)
    run("nft delete table inet bystander")
    assert (snapshot(), endpoint(engine)) == before
    live.publish(engine, "web", specs("8081:81"))  # nothing of it was left claimed


@each
def test_d26_on_one_network_one_interface_or_one_address_only(town: Town) -> None:
    """Of two networks; and answers go back by the one, whichever has the default route."""
    engine = town.engine()
    network(engine)
    engine.create_network(NetworkSpec("back", subnets=(IPv4Network("172.26.0.0/24"),)))
    run(
        "ip link add wan0 type veth peer name eth1 netns lan",
        "ip addr add 10.8.0.1/24 dev wan0",
        "ip link set wan0 up",
        "ip -n lan addr add 10.8.0.2/24 dev eth1",
        "ip -n lan link set eth1 up",
    )
    web = join(engine, "back", "web")
    engine.connect("net", "web")
    assert "via 172.26.0.1" in run("ip -n web route show default")
    live.publish(engine, "web", specs("8080:80@net"))
    live.publish(engine, "web", specs("wan0:8081:80", "10.8.0.1:8082:80"))
    assert {
        engine.network(ep.network).name: len(ep.ports)
        for ep in engine.endpoints(sandbox=engine.sandbox("web").id)
    } == {"back": 2, "net": 2}
    with town.host.serve(web, "tcp", 80):
        assert town.ask(town.lan, OURS[4], 8080) == THEIRS[4]
        assert town.ask(town.lan, "10.8.0.1", 8081) == "10.8.0.2"
        assert town.asks_in_vain(town.lan, OURS[4], 8081)
        assert town.ask(town.lan, "10.8.0.1", 8082) == "10.8.0.2"
        assert town.asks_in_vain(town.lan, OURS[4], 8082)
        assert run("ip -n web rule").count("172.25.0.2") == 1
        live.unpublish(engine, "web", specs("80@net"))
        assert town.asks_in_vain(town.lan, OURS[4], 8080)
        assert town.ask(town.lan, "10.8.0.1", 8082) == "10.8.0.2"
        assert run("ip -n web rule").count("172.25.0.2") == 0
        live.unpublish(engine, "web", specs("80"), network="back")
        assert town.asks_in_vain(town.lan, "10.8.0.1", 8082)
    assert engine.check() == []


def test_d25_by_the_command_and_by_the_api(town: Town) -> None:
    """What is published is printed as `netkit port` does; and that is taken back."""
    done(f"network create --subnet {SUBNETS[0]} net")
    done("run -d --name web --expose 90 --expose 53/udp --net net -p 8080:80 -- sleep 60")
    before = snapshot()
    assert "add element" in done("publish web 8081:81 --dry-run")
    assert "add element" not in done("publish web 8081:81")
    assert done("publish web 127.0.0.1:8082:82/udp") == "82/udp -> 127.0.0.1:8082\n"
    found = done("publish web -P")
    assert [line.partition(" ->")[0] for line in found.splitlines()] == ["90/tcp", "53/udp"]
    assert "exposes nothing that is not published" in said("publish web -P")
    for line in done("port web").splitlines():
        if not line.startswith("80/"):
            assert "delete element" in done(f"unpublish web '{line}' --dry-run")
            done(f"unpublish web '{line}'")
    assert done("port web") == "80/tcp -> 0.0.0.0:8080\n"
    assert snapshot() == before
    assert "either ports to unpublish, or --all" in said("unpublish web")
    assert "either ports to unpublish, or --all" in said("unpublish web 80 --all")
    assert "no port to publish" in said("publish web")
    with Netkit() as nk:
        (web,) = nk.endpoints("web")
        (port,) = web.publish("8443:443")
        assert str(port) == "0.0.0.0:8443->443/tcp"
        web.unpublish(port)
        web.unpublish()
        assert web.ports == ()
    done("rm -f web")
    assert until(lambda: "sleep" not in run("ip netns pids web 2>/dev/null || true"))


# -- C6: all else of a container


@VERSIONS
def test_c6_an_mtu_changes_while_a_connection_goes_on(town: Town, version: int) -> None:
    """A packet no longer passes in one piece that did; and does again."""
    engine = town.engine()
    network(engine, mtu=1500)
    web = join(engine, "net", "web", "8080:80", mtu=1400)
    peer = join(engine, "net", "peer")
    address = endpoint(engine).address(version)
    assert address is not None
    mtus = {"web": lambda: mtu("eth0", "web"), "peer": lambda: mtu("eth0", "peer")}
    with conversation(town.lan, web, OURS[version], 8080) as goes_on:
        live.update(engine, "web", Update(mtu=1300))
        assert goes_on()
        assert (mtus["web"](), mtus["peer"]()) == (1300, 1500)
        assert engine.check() == []
        before = snapshot(), endpoint(engine)
        with pytest.raises(InvalidSpec, match="cannot have an MTU of 1501 on network 'net'"):
            live.update(engine, "web", Update(mtu=1501, labels=Labels({"a": "b"})))
        assert (snapshot(), endpoint(engine)) == before
        assert engine.sandbox("web").labels == {}
        assert not pings_whole(web, f"{address.network[1]}", 1400)
        live.update(engine, "web", Update(mtu=1450))
        assert goes_on()
        assert engine.check() == []
        assert pings_whole(web, f"{address.network[1]}", 1400)
        run("ip -n web link set eth0 mtu 1399")
        assert [str(drift) for drift in engine.check()] == ["the MTU of eth0 is 1399, not 1450"]
    assert peer
    engine.disconnect("net", "web")


def mtu(dev: str, name: str | None = None) -> int:
    at = f"-n {name} " if name else ""
    return int(run(f"ip {at}-o link show {dev}").partition(" mtu ")[2].split()[0])


def pings_whole(place: str, address: str, size: int) -> bool:
    """Whether a packet of that size gets there and back in one piece."""
    header = 48 if ":" in address else 28
    line = f"ping -c1 -W1 -M do -n -q -s {size - header} {address} || true"
    return " 0% packet loss" in run(line, place=place)


def test_c6_the_dns_of_a_container_changes_while_it_runs(town: Town) -> None:
    """In the file it has had since it started; and its labels with it, or neither."""
    town.engine()
    done(f"network create --disable-dns --subnet {SUBNETS[0]} net")
    done("run -d --name web --net net --dns 192.0.2.1 --label a=1 -- sleep 60")
    done("update web --dns 192.0.2.2 --dns 192.0.2.3 --dns-search example.com --label-add b=2")
    found = done("exec web -- cat /etc/resolv.conf")
    assert "nameserver 192.0.2.2\nnameserver 192.0.2.3\n" in found
    assert "search example.com\n" in found
    assert done("inspect web --format '{{json .Config.Labels}}'") == '{"a":"1","b":"2"}\n'
    assert "192.0.2.9" in done("update web --dns 192.0.2.9 --label-rm a --dry-run")
    assert "has no label 'c'" in said("update web --dns 192.0.2.9 --label-rm c")
    assert "invalid" in said("update web --dns nowhere --label-rm a")
    assert "nothing to change" in said("update web")
    assert done("exec web -- cat /etc/resolv.conf") == found
    done("update web --dns-search '' --label-rm a --label-rm b")
    assert "search" not in done("exec web -- cat /etc/resolv.conf")
    assert done("inspect web --format '{{json .Config.Labels}}'") == "{}\n"
    assert done("check") == ""
    done("rm -f web")


def test_c6_the_default_route_goes_to_the_network_with_the_highest_priority(town: Town) -> None:
    engine = town.engine()
    network(engine)
    engine.create_network(NetworkSpec("other", subnets=(IPv4Network("172.26.0.0/24"),)))
    join(engine, "net", "web")
    engine.connect("other", "web")
    before = snapshot()
    assert gateways() == ["172.25.0.1", "fd00:25::1"]
    live.update(engine, "web", Update(gateway_priority=5), network="other")
    assert gateways() == ["172.26.0.1", "fd00:25::1"]
    assert engine.check() == []
    live.update(engine, "web", Update(gateway_priority=-5), network="other")
    assert snapshot() == before
    live.update(engine, "web", Update(gateway_priority=-7), network="net")
    assert gateways() == ["172.26.0.1", "fd00:25::1"]
    engine.disconnect("other", "web")
    assert gateways() == ["172.25.0.1", "fd00:25::1"]
    engine.connect("other", "web")
    with pytest.raises(Conflict, match="several interfaces"):
        live.update(engine, "web", Update(mtu=1300))


def gateways() -> list[str]:
    found = run("ip -n web route show default", "ip -n web -6 route show default")
    return [line.split()[2] for line in found.splitlines()]


def test_c6_aliases_come_and_go_and_what_is_somebody_elses_is_refused(town: Town) -> None:
    engine = town.engine()
    network(engine, names=True)
    engine.create_network(NetworkSpec("mute", subnets=(IPv4Network("172.26.0.0/24"),), names=False))
    for name in ("web", "db"):
        engine.connect("net", name=name)
    with Netkit() as nk:
        (web,) = nk.endpoints("web")
        web.update(aliases_add=["www", "front"])
        web.update(aliases_rm=["www"], aliases_add=["shop"], labels={"tier": "one"})
        assert web.record.wanted.aliases == ("front", "shop")
        for aliases, why in ((["db"], "'db' is the name of db"), (["a b"], "alias")):
            with pytest.raises((Conflict, InvalidSpec), match=why):
                web.update(aliases_add=aliases, mtu=1300)
        with pytest.raises(NotFound, match="has no alias 'www'"):
            web.update(aliases_rm=["www"])
        assert web.record.wanted.aliases == ("front", "shop")
        (db,) = nk.endpoints("db")
        with pytest.raises(Conflict, match="'front' is an alias of web"):
            engine.connect("net", name="front")
        web.update(aliases_rm=["front"], labels={"tier": None})
        engine.connect("net", name="front")
        db.update(aliases_add=["shop"])  # an alias may be several's
    engine.connect("mute", name="quiet")
    with pytest.raises(InvalidSpec, match="it has no names"):
        live.update(engine, "quiet", Update(aliases=("x",)))
    told = [(e.action, e.kind) for e in engine.store.journal(0)]
    assert told.count(("update", "endpoint")) == 4
    assert told.count(("update", "sandbox")) == 2


# -- B28: a network that is in use


@each
@pytest.mark.parametrize(("driver", "version"), [("bridge", 4), ("bridge", 6), ("veth", 4)])
def test_b28_the_mtu_of_a_network_changes_with_all_that_is_on_it(
    town: Town, driver: str, version: int
) -> None:
    """Connections go on, to the LAN and between containers; who comes later has it, too."""
    engine = town.engine()
    network(engine, driver=driver, mtu=1500)
    places = {}
    for name, ports, own in (("web", ("8080:80",), None), ("db", (), None), ("own", (), 1300)):
        request = Request(ports=specs(*ports), mtu=own)
        places[name] = str(engine.connect("net", request=request, name=name).netns)
    there = endpoint(engine, "db").address(version)
    assert there is not None
    with (
        conversation(town.lan, places["web"], OURS[version], 8080) as from_lan,
        conversation(places["web"], places["db"], str(there.ip), 81, 81) as between,
    ):
        before = snapshot()
        for size in (9000, 1300):
            net = live.update_network(engine, "net", NetworkUpdate(mtu=size))
            assert net.mtu == size
            assert from_lan()
            assert between()
            assert engine.check() == []
            devs = [ep.host_ifname for ep in engine.endpoints()] + [net.bridge] * bool(net.bridge)
            assert {mtu(dev) for dev in devs} == {size}
            assert [mtu("eth0", name) for name in places] == [size, size, 1300]
        with pytest.raises(Conflict, match="own/eth0 was given one of 1300"):
            live.update_network(engine, "net", NetworkUpdate(mtu=1290))
        live.update_network(engine, "net", NetworkUpdate(mtu=1500))
        assert snapshot() == before
    live.update_network(engine, "net", NetworkUpdate(mtu=1450))
    late = engine.connect("net", name="late")
    assert (mtu("eth0", "late"), mtu(late.host_ifname)) == (1450, 1450)
    assert pings_whole(str(late.netns), str(there.ip), 1450)
    engine.delete_network("net", force=True)


def test_b28_labels_and_servers_of_a_network_change(town: Town) -> None:
    engine = town.engine()
    network(engine, names=True, servers=("192.0.2.1",), labels={"a": "1"})
    done("network update net --dns-add 192.0.2.2 --dns-drop 192.0.2.1 --label-add b=2")
    net = engine.network("net")
    assert (net.servers, net.labels) == (("192.0.2.2",), {"a": "1", "b": "2"})
    before = snapshot(), net
    for words, why in (
        ("--dns-drop 192.0.2.7", "does not ask 192.0.2.7"),
        ("--dns-add 127.0.0.1", "invalid nameserver 127.0.0.1 of a network"),
        ("--label-rm c --mtu 1400", "has no label 'c'"),
        ("--mtu 67", "invalid MTU 67"),
        ("--mtu 1000", "that needs 1280 at least"),
        ("", "nothing to change"),
    ):
        assert why in said(f"network update net {words}")
    assert "mtu 1400" in done("network update net --mtu 1400 --dry-run")
    assert (snapshot(), engine.network("net")) == before
    with Netkit() as nk:
        nk.networks.get("net").update(labels={"a": None}, dns_drop=["192.0.2.2"])
    net = engine.network("net")
    assert (net.servers, net.labels) == ((), {"b": "2"})
    assert "pre-defined" in said("network update host --label-add a=b")
    engine.create_network(NetworkSpec("mute", subnets=(IPv4Network("172.26.0.0/24"),), names=False))
    assert "it has no names" in said("network update mute --dns-add 192.0.2.1")
    told = [e.action for e in engine.store.journal(0) if e.kind == "network"]
    assert told.count("update") == 2


# -- localhost

all_of_them = pytest.mark.back_ends("nftables", "iptables", "none")
LOOPBACK = {4: "127.0.0.1", 6: "::1"}


@all_of_them
@pytest.mark.parametrize(
    ("driver", "versions"), [("bridge", (4,)), ("veth", (6,)), ("bridge", (4, 6))]
)
def test_localhost_reaches_what_is_published_there_and_nobody_else_does(
    town: Town, driver: str, versions: tuple[int, ...]
) -> None:
    """By 127.0.0.1 and by ::1, whichever version the container has, without a userland proxy.

    Nobody else: not the neighbour or a container, by the host's addresses, by the container's own,
    or by routes and frames that bear a loopback address, even where the neighbour's wire lets those
    pass (S10, S11, S12, S13).
    """
    engine = town.engine()
    subnets = tuple(subnet for subnet in SUBNETS if subnet.version in versions)
    network(engine, driver=driver, subnets=subnets, ipv4=4 in versions, ipv6=6 in versions)
    request = Request(ports=specs("127.0.0.1:8080:80", "[::1]:8080:80", "[::1]:53:53/udp"))
    web = engine.connect("net", name="web", request=request)
    mallory = engine.connect("net", name="mallory")
    for v, address in LOOPBACK.items():
        own = web.address(v) or web.addresses[0]
        gateway = GATEWAYS[own.version]
        with town.host.serve(str(web.netns), "tcp", 80, anywhere(own.version)) as seen:
            assert town.ask(None, address, 8080) == gateway
            for place in (town.lan, mallory.netns):
                for theirs in OURS.values():
                    assert town.asks_in_vain(place, theirs, 8080)
            if own.version == v and engine.firewall_rules(listed=False)[0] != "none":
                assert town.asks_in_vain(town.lan, str(own.ip), 80)
            assert seen == [gateway]
    with town.host.serve(str(web.netns), "udp", 53, anywhere(subnets[-1].version)) as seen:
        assert town.ask(None, "::1", 53, "udp") == GATEWAYS[subnets[-1].version]
    assert engine.check() == []
    engine.delete_network("net", force=True)


@all_of_them
@pytest.mark.parametrize(("driver", "version"), [("bridge", 4), ("bridge", 6), ("veth", 4)])
def test_s11_s12_loopback_of_the_host_is_its_own_whatever_the_firewall(
    town: Town, driver: str, version: int
) -> None:
    """A proxy's port there, and a service of the host's: a container and a neighbour that are root
    of their machines and send to it on the wire get no answer, and nothing is delivered.
    """
    engine, loopback = town.engine(), LOOPBACK[version]
    network(engine, driver=driver)
    published = f"{bracketed(ip_address(loopback))}:8080:80"
    web = engine.connect("net", name="web", request=Request(ports=specs(published)))
    mallory = engine.connect("net", name="mallory")
    way = mallory.gateway(version)
    with (
        town.host.serve(str(web.netns), "tcp", 80, anywhere(version)) as seen,
        town.host.serve(None, "tcp", 9999, loopback) as own,
    ):
        assert town.ask(None, loopback, 8080)
        assert town.ask(None, loopback, 9999) == loopback
        for place, router, source in (
            (str(mallory.netns), str(way), str(mallory.addresses[version == 6].ip)),
            (town.lan, OURS[version], THEIRS[version]),
        ):
            run(
                "sysctl -qw net.ipv4.conf.all.route_localnet=1",
                f"ip addr del {loopback}/{8 if version == 4 else 128} dev lo",
                f"ip -{version} route flush table local {loopback}",
                f"ip -{version} route add {loopback} via {router} dev eth0 src {source}",
                place=place,
            )
            for port in (8080, 9999):
                assert town.asks_in_vain(place, loopback, port)
        assert (len(seen), own) == (1, [loopback])


def test_what_localhost_sends_leaves_by_a_bridge_only_where_something_guards_the_loopback(
    town: Town,
) -> None:
    """Whichever firewall there was before."""
    engine = town.engine()
    network(engine)
    network(engine, "routed", driver="veth", subnets=(IPv4Network("172.26.0.0/24"),), ipv6=False)
    routed = engine.connect("routed", name="routed")
    devs = (engine.network("net").bridge, routed.host_ifname)

    def switches() -> list[str]:
        return [run(f"cat /proc/sys/net/ipv4/conf/{dev}/route_localnet").strip() for dev in devs]

    assert switches() == ["1", "1"]
    join(engine, "net", "web")
    engine.use_firewall("none")
    assert switches() == ["0", "0"]
    assert engine.check() == []
    late = engine.connect("routed", name="late")
    assert run(f"cat /proc/sys/net/ipv4/conf/{late.host_ifname}/route_localnet") == "0\n"
    engine.use_firewall("nftables")
    assert switches() == ["1", "1"]
    assert run(f"cat /proc/sys/net/ipv4/conf/{late.host_ifname}/route_localnet") == "1\n"
    live.publish(engine, "web", specs("127.0.0.1:8080:80"))
    with town.host.serve("/run/netns/web", "tcp", 80):
        assert town.ask(None, "127.0.0.1", 8080) == "172.25.0.1"
    assert engine.check() == []


@all_of_them
@pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
def test_s10_frames_that_bear_a_loopback_address_are_answered_by_nobody(
    town: Town, version: int
) -> None:
    """From the wire and from a bridge's port, to what a proxy or translation has published there,
    and to a service of the host's own. One to the host's address is answered.
    """
    engine, loopback = town.engine(), LOOPBACK[version]
    network(engine)
    published = f"{bracketed(ip_address(loopback))}:8080:80"
    web = engine.connect("net", name="web", request=Request(ports=specs(published)))
    mallory = engine.connect("net", name="mallory")
    bridge = engine.network("net").bridge
    with (
        town.host.serve(str(web.netns), "tcp", 80, anywhere(version)) as seen,
        town.host.serve(None, "tcp", 9999, loopback),
        town.host.serve(None, "tcp", 9998, anywhere(version)),
    ):
        for place, port, source in (
            (town.lan, "lan0", THEIRS[version]),
            (str(mallory.netns), bridge, str(mallory.addresses[version == 6].ip)),
        ):
            town.host.ping(place, OURS[version])  # neighbours know each other from here on
            macs = mac_of("eth0", place), mac_of(port)
            wanted = {}
            for number, (address, to) in enumerate(
                ((loopback, 8080), (loopback, 9999), (OURS[version], 9998)), 5000
            ):
                wanted[number] = frames.tcp(macs, (source, address), (number, to), 0x02)
            with frames.hear(place, "eth0", answers(version, *wanted), 1) as heard:
                frames.send(place, "eth0", *wanted.values())
            assert {int.from_bytes(ports_of(version, frame)[2:]) for frame in heard} == {5002}
        assert seen == []


def mac_of(ifname: str, where: str | None = None) -> str:
    return run(f"ip -o link show {ifname}", place=where).partition("link/ether ")[2].split()[0]


def ports_of(version: int, frame: bytes) -> bytes:
    """Source and destination port of a frame of TCP without options below it."""
    start = 14 + (40 if version == 6 else 20)
    return frame[start : start + 4]


def answers(version: int, *ports: int) -> Callable[[bytes], bool]:
    """Whether a frame goes to one of these ports."""
    protocol = 20 if version == 6 else 23
    wanted = {port.to_bytes(2) for port in ports}
    return lambda frame: frame[protocol] == 6 and ports_of(version, frame)[2:] in wanted
