"""The userland proxy: rows D14, D15, D17 and E12, and how the process lives and ends."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from netkit import config
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import process
from netkit.model import EndpointRecord
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.firewalls import each
from scenarios.lab import BRIEF_S, Host, at, join, legacy_rules, netkit, run, snapshot, until

FOUR, SECOND, THEIRS_4 = "10.9.0.1", "10.9.0.11", "10.9.0.2"
SIX, THEIRS_6 = "2001:db8:9::1", "2001:db8:9::2"
OURS = {4: FOUR, 6: SIX}
THEIRS = {4: THEIRS_4, 6: THEIRS_6}
SUBNETS = (IPv4Network("172.25.0.0/24"), IPv6Network("fd00:25::/64"))


class Town(NamedTuple):
    """A host and its neighbour, who speak both versions."""

    host: Host
    lan: str

    def engine(self, *, userland_proxy: bool = True, firewall: str | None = None) -> Engine:
        found = config.load().config
        firewall = firewall or found.firewall
        made = Engine(config=replace(found, userland_proxy=userland_proxy, firewall=firewall))
        self.host._engines.append(made)
        return made


@pytest.fixture
def town(host: Host) -> Town:
    lan = host.neighbour("lan", f"{FOUR}/24", f"{THEIRS_4}/24")
    run(
        f"ip addr add {SECOND}/24 dev lan0",
        f"ip addr add {SIX}/64 dev lan0 nodad",
        f"ip -n lan addr add {THEIRS_6}/64 dev eth0 nodad",
        f"ip -n lan route add default via {SIX}",
    )
    return Town(host, lan)


def network(engine: Engine, *versions: int, **given: object) -> None:
    """A network called net of these IP versions; of IPv4 if none is named."""
    subnets = tuple(s for s in SUBNETS if s.version in (versions or (4,)))
    spec = NetworkSpec("net", subnets=subnets, ipv4=4 in (versions or (4,)), ipv6=6 in versions)
    engine.create_network(replace(spec, **given))


def endpoint(engine: Engine) -> EndpointRecord:
    (found,) = engine.endpoints()
    return found


def who(ep: EndpointRecord) -> process.Process:
    """The proxy of an endpoint."""
    with open(ep.proxy) as file:
        pid, start_time = file.read().split()
    return process.Process(int(pid), int(start_time))


# -- what it adds to address translation


@each
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_d17_clients_of_ipv6_reach_a_container_of_ipv4_only(town: Town, protocol: str) -> None:
    """Translation serves those of IPv4 as ever: the container sees who they are."""
    engine, ask = town.engine(), town.host.ask
    network(engine)
    web = join(engine, "net", "web", f"8080:80/{protocol}")
    assert netkit("port web 80/" + protocol) == "0.0.0.0:8080\n[::]:8080\n"
    with town.host.serve(web, protocol, 80):
        assert ask(town.lan, FOUR, 8080, protocol) == THEIRS_4
        assert ask(town.lan, SIX, 8080, protocol) == "172.25.0.1"
        assert ask(None, SIX, 8080, protocol) == "172.25.0.1"
        assert ask(None, "::1", 8080, protocol) == "172.25.0.1"
        assert ask(None, "127.0.0.1", 8080, protocol) == "172.25.0.1"
    assert engine.check() == []


def test_clients_of_ipv4_reach_a_container_of_ipv6_only(town: Town) -> None:
    engine = town.engine()
    network(engine, 6)
    web = join(engine, "net", "web", "8080:80", "127.0.0.1:8081:80")
    with town.host.serve(web, "tcp", 80, "::"):
        assert town.host.ask(town.lan, FOUR, 8080) == "fd00:25::1"
        assert town.host.ask(town.lan, SIX, 8080) == THEIRS_6
        assert town.host.ask(None, "127.0.0.1", 8081) == "fd00:25::1"
        assert town.host.ask(town.lan, FOUR, 8081, patience_s=BRIEF_S) is None


@each
@pytest.mark.parametrize("published", ["8080:80", "[::1]:8080:80"])
@pytest.mark.parametrize("driver", ["bridge", "veth"])
def test_d17_a_port_answers_at_the_ipv6_loopback_address(
    town: Town, published: str, driver: str
) -> None:
    engine = town.engine()
    network(engine, 4, 6, driver=driver)
    ep = engine.connect("net", name="web", request=_publish(published))
    assert ep.netns is not None
    with town.host.serve(ep.netns, "tcp", 80, "::"):
        assert town.host.ask(None, "::1", 8080) == "fd00:25::1"
        if published == "8080:80":
            assert town.host.ask(town.lan, SIX, 8080) == THEIRS_6  # that is still translated
        else:
            assert town.host.ask(town.lan, SIX, 8080, patience_s=BRIEF_S) is None


@each
@pytest.mark.parametrize("userland_proxy", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_d14_with_a_proxy_or_without_localhost_and_hairpin_are_the_same(
    town: Town, version: int, userland_proxy: bool
) -> None:
    engine, ask = town.engine(userland_proxy=userland_proxy), town.host.ask
    network(engine, 4, 6)
    web, sibling = join(engine, "net", "web", "8080:80"), join(engine, "net", "sibling")
    gateway = "172.25.0.1" if version == 4 else "fd00:25::1"
    with town.host.serve(web, "tcp", 80, "" if version == 4 else "::"):
        if version == 4:
            assert ask(None, "127.0.0.1", 8080) == gateway
        assert ask(None, OURS[version], 8080) == OURS[version]
        assert ask(town.lan, OURS[version], 8080) == THEIRS[version]
        assert ask(web, OURS[version], 8080) == gateway
        assert ask(sibling, OURS[version], 8080) == gateway
        assert (ask(None, "::1", 8080) is not None) == (userland_proxy and version == 6)


def test_without_one_what_only_it_could_do_is_refused(town: Town) -> None:
    engine = town.engine(userland_proxy=False)
    network(engine)
    before = snapshot()
    with pytest.raises(InvalidSpec, match="network 'net' has no IPv6") as refused:
        engine.connect("net", request=_publish(f"[{SIX}]:8080:80"))
    assert "--userland-proxy" in str(refused.value.hint)
    with pytest.raises(InvalidSpec, match=r"on \[::1\]: a proxy passes on tcp and udp only"):
        engine.connect("net", request=_publish("[::1]:8080:80/sctp"))
    assert snapshot() == before


# -- without rules, and by the host's rules


def test_d15_without_a_firewall_everything_works_but_what_needs_rules(town: Town) -> None:
    """Not one rule is written. A proxy publishes ports all the same."""
    engine = town.engine(firewall="none")
    network(engine, 4, 6)
    web = join(engine, "net", "web", "8080:80")
    assert run("nft list ruleset") + legacy_rules() == ""
    for version, address in ((4, "172.25.0.2"), (6, "fd00:25::2")):
        with town.host.serve(web, "tcp", 80, "" if version == 4 else "::"):
            assert town.host.ask(None, address, 80) is not None
            assert town.host.ask(town.lan, OURS[version], 8080) is not None
        assert town.host.ping(web, OURS[version])
        town_route = f"ip -{version} route add {SUBNETS[version == 6]} via {OURS[version]}"
        run(town_route, place=town.lan)
        with town.host.serve(town.lan, "tcp", 80, "" if version == 4 else "::"):
            assert town.host.ask(web, THEIRS[version], 80) == address  # not masqueraded
    assert "172.25.0.2\tweb" in netkit("exec web -- cat /etc/hosts")
    assert [str(ip) for ip in endpoint(engine).addresses] == ["172.25.0.2/24", "fd00:25::2/64"]
    assert engine.check() == []
    assert run("nft list ruleset") + legacy_rules() == ""
    engine.delete_network("net", force=True)


def test_d15_without_a_firewall_or_a_proxy_nothing_can_be_published(town: Town) -> None:
    engine = town.engine(firewall="none", userland_proxy=False)
    network(engine)
    with pytest.raises(InvalidSpec, match="firewall 'none' translates nothing"):
        engine.connect("net", request=_publish("8080:80"))
    netkit("disconnect --net net nobody", code=1)
    assert engine.endpoints() == []


@each
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("publish", ["nat", "proxy"])
def test_e12_published_by_a_proxy_a_port_obeys_the_hosts_own_firewall(
    town: Town, publish: str, version: int
) -> None:
    """What is translated passes the host's INPUT rules by, as Docker's does (moby#22054)."""
    run(
        "nft add table inet host",
        "nft add chain inet host input '{ type filter hook input priority 0; }'",
        "nft add rule inet host input iifname lan0 tcp dport 8080 drop",
    )
    engine = town.engine(userland_proxy=False)
    network(engine, 4, 6, publish=publish)
    web = join(engine, "net", "web", "8080:80", "8081:80")
    with town.host.serve(web, "tcp", 80, "" if version == 4 else "::"):
        found = town.host.ask(town.lan, OURS[version], 8080, patience_s=BRIEF_S)
        assert found == (THEIRS[version] if publish == "nat" else None)
        assert town.host.ask(town.lan, OURS[version], 8081) is not None
        if version == 4 or publish == "proxy":
            loopback = "127.0.0.1" if version == 4 else "::1"
            assert town.host.ask(None, loopback, 8080) is not None
    rules = run("nft list ruleset") + legacy_rules()
    assert ("8080 : " in rules or "to-destination" in rules) == (publish == "nat")


def test_a_network_published_by_a_proxy_takes_dockers_forms(town: Town) -> None:
    """An address, a range, an interface of the host: as by translation, but for SCTP."""
    engine = town.engine(userland_proxy=False)
    netkit(f"network create --subnet {SUBNETS[0]} -o publish=proxy net")
    assert '"publish": "proxy"' in netkit("network inspect net")
    web = join(
        engine, "net", "web", f"{SECOND}:8080:80", "127.0.0.1:8081-8082:80-81", "lan0:8083:80"
    )
    ask = town.host.ask
    with town.host.serve(web, "tcp", 80), town.host.serve(web, "tcp", 81):
        assert ask(town.lan, SECOND, 8080) == "172.25.0.1"
        assert ask(town.lan, FOUR, 8080, patience_s=BRIEF_S) is None
        assert ask(None, "127.0.0.1", 8082) == "172.25.0.1"
        assert ask(town.lan, FOUR, 8083) == "172.25.0.1"
        assert ask(town.lan, SIX, 8083) == "172.25.0.1"
        assert ask(None, "127.0.0.1", 8083, patience_s=BRIEF_S) is None
    with pytest.raises(InvalidSpec, match="a proxy passes on tcp and udp only"):
        engine.connect("net", request=_publish("8084:80/sctp"))
    with pytest.raises(Conflict, match="8080 failed: port is already allocated"):
        engine.connect("net", request=_publish("8080:80"))


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("-o publish=magic net", "invalid value 'magic' of publish"),
        ("-o publish=proxy -o gateway_mode_ipv4=routed net", "not by a proxy"),
        ("-o publish=proxy -d dummy net", "driver dummy does not publish"),
    ],
)
def test_what_a_proxy_cannot_do_is_refused(host: Host, given: str, why: str) -> None:
    assert why in netkit(f"network create {given}", code=1)


# -- what passes through it


def test_a_connection_half_closed_is_answered(town: Town) -> None:
    """A client says that it has said all; then the server speaks: megabytes, in both directions."""
    engine = town.engine(userland_proxy=False)
    network(engine, publish="proxy")
    web = join(engine, "net", "web", "8080:80")
    question = os.urandom(1 << 20) * 4

    def answer(client: socket.socket) -> None:
        client.sendall(b"".join(iter(lambda: client.recv(1 << 16), b""))[::-1])

    with _served(web, answer), at(town.lan, lambda: _connected(FOUR, 8080)) as client:
        client.sendall(question)
        client.shutdown(socket.SHUT_WR)
        assert b"".join(iter(lambda: client.recv(1 << 16), b"")) == question[::-1]


def test_a_client_learns_that_nobody_listens_and_that_the_server_broke_off(town: Town) -> None:
    engine = town.engine(userland_proxy=False)
    network(engine, publish="proxy")
    web = join(engine, "net", "web", "8080:80")
    # perhaps before connect has returned
    with (
        pytest.raises(ConnectionResetError),
        at(town.lan, lambda: _connected(FOUR, 8080)) as client,
    ):
        client.recv(1)

    def break_off(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with _served(web, break_off), at(town.lan, lambda: _connected(FOUR, 8080)) as client:
        client.sendall(b"?")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_datagram_is_answered_from_the_address_it_was_sent_to(town: Town) -> None:
    """Each client has a port of its own towards the container, as long as it speaks."""
    engine = town.engine(userland_proxy=False)
    network(engine, 4, 6, publish="proxy")
    web = join(engine, "net", "web", "5353:53/udp")
    seen: set[object] = set()

    def serve(sock: socket.socket) -> None:
        while (received := sock.recvfrom(64))[0]:
            data, client = received
            seen.add(client[1])
            sock.sendto(data, client)

    def open_client(family: socket.AddressFamily) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.settimeout(3)
        return sock

    with _datagrams(web, serve, "0.0.0.0", 53), _datagrams(web, serve, "::", 53):
        for family, address in (
            (socket.AF_INET, FOUR),
            (socket.AF_INET, SECOND),
            (socket.AF_INET6, SIX),
        ):
            with at(town.lan, lambda f=family: open_client(f)) as client:  # type: ignore[misc]
                for word in (b"one", b"two"):
                    client.sendto(word, (address, 5353))
                    data, (source, *_) = client.recvfrom(64)
                    assert (data, source) == (word, address)
    assert len(seen) == 3


# -- the process


def test_s44_the_process_has_no_privileges_no_environment_and_no_files_of_others(
    town: Town,
) -> None:
    engine = town.engine()
    network(engine)
    os.environ["SECRET"] = "secret"
    with open("/etc/hostname") as _held:
        join(engine, "net", "web", "8080:80")
    del os.environ["SECRET"]
    pid, _ = who(endpoint(engine))
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in file)
    assert status["Name"] == "netkit-proxy"
    assert status["NoNewPrivs"] == "1"
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert status["PPid"] != str(os.getpid())
    assert set(status["Uid"].split()) == {"0" if _alone() else "65534"}
    with open(f"/proc/{pid}/environ") as file:
        assert file.read() == ""
    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    strange = [fd for fd in fds if not fd.startswith(("socket:", "anon_inode:[eventpoll]"))]
    assert sorted(strange) == ["/dev/null"] * 3 + [endpoint(engine).proxy]


def test_it_outlives_whoever_started_it_and_ends_with_its_endpoint(town: Town) -> None:
    before = snapshot()
    command = "--userland-proxy connect --net net --name web -p 8080:80"
    engine = town.engine()
    network(engine)
    made = snapshot()
    netkit(command)
    ep = endpoint(engine)
    found = who(ep)
    assert process.alive(*found)
    assert ep.netns is not None
    with town.host.serve(ep.netns, "tcp", 80):
        assert town.host.ask(None, "::1", 8080) == "172.25.0.1"
    netkit("disconnect --net net web")
    assert not process.alive(*found)
    assert snapshot() == made
    engine.delete_network("net")
    assert snapshot() == before


def test_it_ends_by_itself_once_the_interface_is_gone(town: Town) -> None:
    """Nobody has to come and end it: its port is free for others."""
    engine = town.engine()
    network(engine)
    join(engine, "net", "web", "8080:80")
    ep = endpoint(engine)
    run("ip link add other type veth", "ip link del other")  # links that come and go do not matter
    run(f"ip link set {ep.host_ifname} down", f"ip link set {ep.host_ifname} name renamed")
    found = who(ep)
    assert process.alive(*found)
    run("ip link del renamed")
    assert until(lambda: not process.alive(*found))
    assert engine.gc() == ["web/eth0", "web"]
    assert not os.path.exists(ep.proxy)
    join(engine, "net", "next", "8080:80")


def test_check_tells_that_it_was_killed_and_disconnect_does_not_mind(town: Town) -> None:
    engine = town.engine()
    network(engine)
    made = snapshot()
    join(engine, "net", "web", "8080:80")
    assert process.kill(*who(endpoint(engine)), signal.SIGKILL, 5)
    (drift,) = engine.check()
    assert str(drift) == "the proxy of tcp/[::]:8080=172.25.0.2:80 is gone"
    engine.disconnect("net", "web")
    assert snapshot() == made


def test_a_port_that_is_taken_meanwhile_is_told_and_nothing_is_left(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    from netkit.errors import KernelRefused
    from netkit.kernel import sockets

    engine = town.engine()
    network(engine)
    made = snapshot()
    monkeypatch.setattr(sockets, "probe", lambda *_: None)
    refusal = pytest.raises(KernelRefused, match=os.strerror(errno.EADDRINUSE))
    with town.host.serve(None, "tcp", 8080, "::"), refusal:
        engine.connect("net", name="web", request=_publish("8080:80"))
    assert snapshot() == made


def test_a_container_that_is_run_has_it_until_it_ends(town: Town) -> None:
    engine = town.engine()
    network(engine)
    made = snapshot()
    netkit("--userland-proxy run -d --rm --name web --net net -p 8080:80 -- sleep 60")
    found = who(endpoint(engine))
    assert process.alive(*found)
    netkit("rm -f web")
    assert not process.alive(*found)
    assert until(lambda: snapshot() == made)


# -- helpers


def _publish(*ports: str) -> Request:
    return Request(ports=tuple(spec for text in ports for spec in PortSpec.parse(text)))


def _alone() -> bool:
    """Whether this user namespace knows one user only: there is nobody else to be."""
    with open("/proc/self/uid_map") as file:
        return file.read().split()[2:] == ["1"]


def _connected(address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), timeout=10)


@contextmanager
def _served(place: str, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """One client on port 80 of a place, answered by a function."""
    listener = at(place, lambda: socket.create_server(("", 80)))
    listener.settimeout(10)

    def serve() -> None:
        client, _ = listener.accept()
        client.settimeout(10)
        with client:
            answer(client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with listener:
        yield
        thread.join(10)
    assert not thread.is_alive()


@contextmanager
def _datagrams(
    place: str, serve: Callable[[socket.socket], None], address: str, port: int
) -> Iterator[None]:
    def open_socket() -> socket.socket:
        six = ":" in address
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        return sock

    def until_closed() -> None:
        with suppress(OSError):
            serve(sock)

    with at(place, open_socket) as sock:
        thread = threading.Thread(target=until_closed, daemon=True)
        thread.start()
        yield
        with suppress(OSError):  # it is not connected, and wakes up all the same
            sock.shutdown(socket.SHUT_RDWR)
        thread.join(10)
