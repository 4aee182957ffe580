"""What the configuration changes, with real packets: rows K4, D2, D3, D12, D15, E1, B3-B5, A5, A13.

As dockerd's flags do, most keys shape the default network and leave those of users alone.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from netkit import Netkit
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
from scenarios.lab import BRIEF_S, Host, join, netkit, run, snapshot, until

OURS, THEIRS = "10.9.0.1", "10.9.0.2"  # the host's address on the LAN, and its neighbour's
FORWARD = "net.ipv4.ip_forward"
Configure = Callable[[str], Engine]


@pytest.fixture
def configure(host: Host, monkeypatch: pytest.MonkeyPatch) -> Configure:
    """Write the configuration of this host; an engine that goes by it."""

    def write(text: str) -> Engine:
        path = Path(host.base, "netkit.toml")
        path.write_text(text)
        monkeypatch.setenv("NETKIT_CONFIG", str(path))
        return host.engine()

    return write


@pytest.fixture
def lan(host: Host) -> str:
    return host.neighbour("lan", f"{OURS}/24", f"{THEIRS}/24")


def own(engine: Engine, name: str = "own") -> str:
    """A network of a user's, to compare with."""
    return engine.create_network(NetworkSpec(name)).name


def addresses(place: str, dev: str = "eth0") -> list[str]:
    (link,) = json.loads(run(f"ip -j addr show {dev}", place=place))
    return [f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"]


def mtu(place: str) -> int:
    (link,) = json.loads(run("ip -j link show eth0", place=place))
    found: int = link["mtu"]
    return found


# -- addresses of the default network


def test_bip_is_the_bridges_address_and_fixed_cidr_where_containers_get_theirs(
    host: Host, configure: Configure
) -> None:
    engine = configure('bip = "10.88.0.9/16"\nfixed-cidr = "10.88.7.0/30"\n')
    a, b = join(engine, "bridge", "a"), join(engine, "bridge", "b")
    assert addresses(a) == ["10.88.7.0/16"]
    assert addresses(b) == ["10.88.7.1/16"]
    assert host.ping(a, "10.88.0.9")
    assert host.ping(a, "10.88.7.1")
    # outside the range on request, as Docker
    engine.connect("bridge", name="c", request=_request(ip="10.88.200.1"))
    assert addresses("/run/netns/c") == ["10.88.200.1/16"]
    assert addresses(join(engine, own(engine), "d")) == ["172.17.0.2/16"]


def test_fixed_cidr_alone_is_the_subnet(configure: Configure) -> None:
    engine = configure('fixed-cidr = "10.88.7.0/24"\n')
    assert addresses(join(engine, "bridge", "a")) == ["10.88.7.2/24"]


def test_ipv6_of_the_default_network(host: Host, configure: Configure) -> None:
    engine = configure('ipv6 = true\nfixed-cidr-v6 = "fd00:88::/80"\nbip6 = "fd00:88::9/64"\n')
    a = join(engine, "bridge", "a")
    assert addresses(a) == ["172.17.0.2/16", "fd00:88::1/64"]
    assert host.ping(a, "fd00:88::9")
    assert addresses(join(engine, own(engine), "b")) == ["172.18.0.2/16"]


def test_ipv6_alone_takes_a_subnet_of_this_machines_own(configure: Configure) -> None:
    engine = configure("ipv6 = true\n")
    _, second = addresses(join(engine, "bridge", "a"))
    assert second.startswith("fd")
    assert second.endswith("/64")


def test_pools_are_where_all_networks_are_cut_from(configure: Configure) -> None:
    engine = configure('default-address-pools = [{base = "10.64.0.0/23", size = 24}]\n')
    assert addresses(join(engine, "bridge", "a")) == ["10.64.0.2/24"]
    assert addresses(join(engine, own(engine), "b")) == ["10.64.1.2/24"]


def test_no_subnet_hides_a_configured_nameserver(configure: Configure) -> None:
    engine = configure('dns = ["172.17.0.53"]\n')
    assert addresses(join(engine, "bridge", "a")) == ["172.18.0.2/16"]


def test_the_default_gateway_may_be_another_router_on_the_bridge(
    host: Host, configure: Configure, lan: str
) -> None:
    """Whatever leaves goes by it, also of a container with published ports, as with Docker."""
    engine = configure('bip = "10.88.0.1/24"\ndefault-gateway = "10.88.0.2"\n')
    a = join(engine, "bridge", "a", "8080:80")
    assert addresses(a) == ["10.88.0.3/24"]  # the router's address is not given out
    router = host.neighbour("router", "10.7.0.1/24", "10.7.0.2/24")
    run(
        "ip link add r0 type veth peer name eth1 netns router",
        "ip link set r0 master netkit0 up",
        "ip -n router link set eth1 up",
        "ip -n router addr add 10.88.0.2/24 dev eth1",
        "ip -n router addr add 10.66.0.1/32 dev lo",
    )
    assert until(lambda: "state forwarding" in run("bridge link show dev r0"))
    with host.serve(router, "tcp", 80, "10.66.0.1"), host.serve(lan, "tcp", 80):
        assert host.ask(a, "10.66.0.1", 80) == "10.88.0.3"
        assert host.ask(a, THEIRS, 80, patience_s=BRIEF_S) is None  # the router knows no way there
    with host.serve(a, "tcp", 80):
        assert host.ask(None, "127.0.0.1", 8080) == "10.88.0.1"
    assert "default via 10.88.0.2 dev eth0" in run("ip route", place=a)


# -- what passes


def test_without_icc_siblings_on_the_default_network_are_apart(
    host: Host, configure: Configure
) -> None:
    engine = configure("icc = false\n")
    a, b = join(engine, "bridge", "a"), join(engine, "bridge", "b")
    assert host.ping(a, "172.17.0.1")
    assert not host.ping(a, "172.17.0.3", patience_s=BRIEF_S)
    own(engine)
    c, d = join(engine, "own", "c"), join(engine, "own", "d")
    assert host.ping(c, "172.18.0.3")
    assert {b, d}


def test_without_ip_masq_what_leaves_the_default_network_keeps_its_source(
    host: Host, configure: Configure, lan: str
) -> None:
    engine = configure("ip-masq = false\n")
    a, b = join(engine, "bridge", "a"), join(engine, own(engine), "b")
    with host.serve(lan, "tcp", 80):
        assert host.ask(a, THEIRS, 80) == "172.17.0.2"
        assert host.ask(b, THEIRS, 80) == OURS


def test_ip_is_where_ports_are_published_that_name_no_address(
    host: Host, configure: Configure, lan: str
) -> None:
    """On every network: what was to be local does not come to be public by another --net."""
    engine = configure('ip = "127.0.0.1"\n')
    a = join(engine, "bridge", "a", "8080:80", "0.0.0.0:8081:80")
    b = join(engine, own(engine), "b", "8082:80")
    with host.serve(a, "tcp", 80), host.serve(b, "tcp", 80):
        for port in (8080, 8082):
            assert host.ask(None, "127.0.0.1", port) is not None
            assert host.ask(lan, OURS, port, patience_s=BRIEF_S) is None
        assert host.ask(lan, OURS, 8081) == THEIRS
    assert netkit("port a 80") == "127.0.0.1:8080\n0.0.0.0:8081\n"


def test_dockers_spelling_of_all_addresses_is_all_addresses(configure: Configure) -> None:
    engine = configure('ip = "0.0.0.0"\nipv6 = true\n')
    join(engine, "bridge", "a", "8080:80")
    assert netkit("port a 80") == "0.0.0.0:8080\n[::]:8080\n"


def test_a_network_with_a_binding_of_its_own_keeps_it(
    host: Host, configure: Configure, lan: str
) -> None:
    engine = configure('ip = "127.0.0.1"\n')
    netkit(f"network create --host-ip {OURS} open")
    a = join(engine, "open", "a", "8080:80")
    with host.serve(a, "tcp", 80):
        assert host.ask(lan, OURS, 8080) == THEIRS
        assert host.ask(None, "127.0.0.1", 8080, patience_s=BRIEF_S) is None


def test_mtu_is_the_default_networks(host: Host, configure: Configure) -> None:
    engine = configure("mtu = 1300\n")
    a = join(engine, "bridge", "a")
    assert mtu(a) == 1300
    sent = "ping -c1 -W2 -M do -s {} 172.17.0.1"
    assert "1 received" in run(sent.format(1272), place=a)
    assert "too long" in run(f"{sent.format(1273)} 2>&1 || true", place=a)
    assert mtu(join(engine, own(engine), "b")) == 1500


# -- the host


def test_without_ip_forward_the_hosts_switch_stays_off(host: Host, configure: Configure) -> None:
    engine = configure("ip-forward = false\n")
    join(engine, "bridge", "a")
    own(engine)
    assert run(f"sysctl -n {FORWARD}") == "0\n"
    host.engine().close()


def test_a_host_that_comes_to_forward_does_so_for_others_if_told_to(
    host: Host, configure: Configure, lan: str
) -> None:
    wan = host.neighbour("wan", "10.8.0.1/24", "10.8.0.2/24")
    engine = configure("")
    join(engine, "bridge", "a")
    assert not host.ping(lan, "10.8.0.2", patience_s=BRIEF_S)
    engine.delete_network("bridge", force=True)
    engine = configure("ip-forward-no-drop = true\n")
    join(engine, "bridge", "a")
    assert host.ping(lan, "10.8.0.2")
    assert wan


def test_without_iptables_no_rule_is_written(host: Host, configure: Configure) -> None:
    engine = configure("iptables = false\n")
    a, b = join(engine, "bridge", "a"), join(engine, "bridge", "b")
    assert run("nft list ruleset") == ""
    assert host.ping(a, "172.17.0.3")
    assert b


def test_another_firewall_than_that_of_the_networks_makes_no_more_of_them(
    host: Host, configure: Configure
) -> None:
    """But they can be used, and removed, which is the way out."""
    before = snapshot()
    engine = configure("")
    own(engine)
    engine = configure("iptables = false\n")
    with pytest.raises(Conflict, match="use firewall 'nftables', and 'none' is configured"):
        own(engine, "other")
    netkit("connect --net own --name a")
    netkit("network rm -f own")
    assert snapshot() == before
    own(engine, "other")
    assert run("nft list ruleset") == ""


# -- an existing bridge, and none


def test_an_existing_bridge_is_used_as_it_is_and_stays(host: Host, configure: Configure) -> None:
    run("ip link add br7 type bridge", "ip addr add 10.7.0.1/24 dev br7", "ip link set br7 up")
    before = run("ip -o addr show br7")
    engine = configure('bridge = "br7"\nfixed-cidr = "10.7.0.64/26"\n')
    a = join(engine, "bridge", "a")
    assert addresses(a) == ["10.7.0.64/24"]
    assert host.ping(a, "10.7.0.1")
    engine.delete_network("bridge", force=True)
    assert run("ip -o addr show br7").split()[1:4] == before.split()[1:4]
    assert "netkit0" not in run("ip link")


def test_a_bridge_that_is_not_there_is_refused(configure: Configure) -> None:
    engine = configure('bridge = "br7"\n')
    before = snapshot()
    with pytest.raises(Conflict, match="cannot use the bridge 'br7'"):
        join(engine, "bridge", "a")
    assert snapshot() == before


def test_bridge_none_leaves_containers_alone_that_name_no_network(
    host: Host, configure: Configure
) -> None:
    engine = configure('bridge = "none"\n')
    assert "lo" in netkit("run --rm -- ip -br link")
    assert "eth0" not in netkit("run --rm -- ip -br link")
    assert "there is no default network" in netkit("run --net bridge -- true", code=125)
    assert "there is no default network" in netkit("connect", code=1)
    own(engine)
    assert "eth0" in netkit("run --rm --net own -- ip -br link")


# -- names


def test_dns_is_for_all_containers_unless_they_are_told_otherwise(configure: Configure) -> None:
    engine = configure('dns = ["9.9.9.9"]\ndns-search = ["a.example"]\ndns-opts = ["ndots:3"]\n')
    configured = "nameserver 9.9.9.9\nsearch a.example\noptions ndots:3\n"
    read = "-- cat /etc/resolv.conf"
    assert netkit(f"run --rm {read}") == configured
    assert netkit(f"run --rm --net {own(engine)} {read}") == configured
    assert netkit(f"run --rm --dns 8.8.8.8 {read}") == configured.replace("9.9.9.9", "8.8.8.8")
    assert netkit(f"run --rm --dns-search . {read}") == configured.replace("search a.example\n", "")
    netkit("connect --name a")
    assert run("cat /etc/netns/a/resolv.conf") == configured


def test_somebody_elses_process_keeps_the_files_it_has(configure: Configure) -> None:
    """Unless connect is given any for it: then the rest is as configured."""
    configure('dns = ["9.9.9.9"]\n')
    for option, expected in (("", False), ("--dns-search b.example", True)):
        command = ["unshare", "--net", "--mount", "sh", "-c", "echo; exec sleep 60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            try:
                netkit(f"connect {option} pid:{child.pid}")
                seen = run(f"nsenter --mount --target {child.pid} cat /etc/resolv.conf")
                assert ("nameserver 9.9.9.9" in seen) == expected
                assert ("b.example" in seen) == expected
                netkit(f"disconnect pid:{child.pid}")
            finally:
                child.kill()


# -- who has the last word


def test_global_options_come_before_the_file(configure: Configure) -> None:
    configure('bip = "10.1.0.1/24"\nmtu = 1300\nicc = false\n')
    line = netkit("--bip 10.2.0.1/24 --icc=true --no-ip-masq run --rm -- ip -4 -o addr show eth0")
    assert "10.2.0.2/24" in line
    (found,) = json.loads(netkit("network inspect bridge"))
    options = {key.rpartition(".")[2]: value for key, value in found["Options"].items()}
    assert options["mtu"] == "1300"
    assert options["enable_icc"] == "true"
    assert options["enable_ip_masquerade"] == "false"


def test_config_names_another_file(host: Host, configure: Configure) -> None:
    configure("mtu = 1300\n")
    other = Path(host.base, "other.toml")
    other.write_text("mtu = 1200\n")
    assert "mtu 1200" in netkit(f"--config {other} run --rm -- ip link show eth0")
    assert "there is no such file" in netkit(f"--config {other}.not ps", code=1)


def test_the_directories_are_where_the_file_says(
    host: Host, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NETKIT_STATE_DIR", "NETKIT_RUN_DIR"):
        monkeypatch.delenv(name)
    engine = configure(f'state-dir = "{host.base}/s"\nrun-dir = "{host.base}/r"\n')
    own(engine)
    assert os.path.exists(f"{host.base}/s/state.db")
    assert netkit("network ls -q --filter type=custom") == engine.network("own").id[:12] + "\n"


def test_a_wrong_file_stops_everything_before_anything_is_done(
    host: Host, configure: Configure
) -> None:
    before = snapshot()
    with pytest.raises(InvalidSpec, match="mtu: 1 is not between"):
        configure('mtu = 1\nip = "x"\n')
    said = netkit("run -- true", code=125)
    assert "mtu: 1 is not between 68 and 65535" in said
    assert "ip: 'x' is not an IP address" in said
    assert "mtu: 1" in netkit("ps", code=1)
    assert snapshot() == before


def test_python_takes_a_file_or_the_keys(host: Host, configure: Configure) -> None:
    configure("mtu = 1300\n")
    for config, expected in (
        (None, 1300),
        (f"{host.base}/other.toml", 1200),
        (Path(host.base, "other.toml"), 1200),
        ({"mtu": 1400}, 1400),
        ({}, 1500),
    ):
        Path(host.base, "other.toml").write_text("mtu = 1200\n")
        with Netkit(config) as nk:
            nk.engine.connect("bridge", name="a")
            assert mtu("/run/netns/a") == expected
            nk.networks.get("bridge").remove(force=True)
    with pytest.raises(InvalidSpec, match=r"^config: \"mtuu\": no such key"):
        Netkit({"mtuu": 1})


def _request(*, ip: str, ports: Any = ()) -> Request:
    from ipaddress import ip_address

    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    return Request(addresses=(ip_address(ip),), ports=specs)
