"""Who hands out addresses, as a user meets it: rows A14, A16, A18, A19 and A20 of the features.

Plugins are programs the test writes, and netkit-host-local, the one that netkit comes with.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netkit import Netkit
from netkit.changes import Changes
from netkit.errors import InvalidSpec, KernelRefused
from netkit.kernel import netns
from netkit.model import LoanRecord
from scenarios import firewalls
from scenarios.engines import FakeEngine, container
from scenarios.lab import BRIEF_S, Host, program, run, snapshot, until
from tests.faces import netkit, ok, refused

ROOT = Path(__file__).parents[1]


def address(name: str) -> str:
    return ok("inspect", "--format", "{{.NetworkSettings.IPAddress}}", name).strip()


def joined(net: str, *names: str) -> list[str]:
    """Connect these, one after the other; the ends of their addresses."""
    for name in names:
        ok("connect", "--net", net, "--name", name)
    return [address(name).rpartition(".")[2] for name in names]


def ipam(net: str) -> str:
    return ok("network", "inspect", "-f", "{{json .IPAM}}", net).strip()


def counts(net: str) -> str:
    return ok("network", "inspect", "-f", "{{json .Status.IPAM.Subnets}}", net).strip()


# -- A14, A16, A20: ranges, and which address is next


def test_a14_when_the_first_range_is_full_the_second_is_next(host: Host) -> None:
    ranges = ["--ip-range=10.1.0.10-10.1.0.12", "--ip-range=10.1.0.4/31"]
    ok("network", "create", "--subnet=10.1.0.0/24", *ranges, "web")
    assert '"IPRange":"10.1.0.10-10.1.0.12,10.1.0.4/31"' in ipam("web")
    assert counts("web") == '{"10.1.0.0/24":{"IPsInUse":3,"DynamicIPsAvailable":5}}'
    assert joined("web", *"abcde") == ["10", "11", "12", "4", "5"]
    assert counts("web") == '{"10.1.0.0/24":{"IPsInUse":8,"DynamicIPsAvailable":0}}'
    said = refused("connect", "--net=web")
    assert "no free address in 10.1.0.10-10.1.0.12 and 10.1.0.4-10.1.0.5 of 10.1.0.0/24" in said
    ok("connect", "--net=web", "--name=f", "--ip=10.1.0.99")
    assert host.ping(netns.named("f"), "10.1.0.5")


def test_a14_ranges_go_with_the_subnets_they_lie_in(host: Host) -> None:
    ranges = ["--ip-range=fd00:1::a-fd00:1::b", "--ip-range=10.1.0.8/30"]
    ok("network", "create", "--subnet=10.1.0.0/24", "--subnet=fd00:1::/64", *ranges, "web")
    assert joined("web", "a", "b") == ["8", "9"]
    found = ok("inspect", "-f", "{{.NetworkSettings.GlobalIPv6Address}}", "b").strip()
    assert found == "fd00:1::b"
    assert host.ping(netns.named("a"), "fd00:1::b")


def test_a16_in_turn_nobody_gets_an_address_that_was_just_given_back(host: Host) -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", "--ipam-opt=round-robin=true", "web")
    had = []
    for _ in range(7):
        had += joined("web", "crashing")
        ok("disconnect", "--net=web", "crashing")
    assert had == ["2", "3", "4", "5", "6", "2", "3"]
    assert '"Options":{"round-robin":"true"}' in ipam("web")


def test_a20_a_name_has_its_old_address_while_others_are_left(host: Host) -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", "--ipam-opt", "sticky=true", "web")
    assert joined("web", "a", "b") == ["2", "3"]
    ok("rm", "a")
    ok("rm", "b")
    assert joined("web", "c", "b") == ["4", "3"]
    ok("run", "--name=a", "--net=web", "--", "true")  # another sandbox, the same name
    ok("rm", "a")
    assert joined("web", "d", "e", "f") == ["5", "6", "2"]  # a's is the last one left
    assert "no free address" in refused("connect", "--net=web", "--name=a")


def test_a20_a_name_has_its_old_address_after_a_reboot(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", "--ipam-opt", "sticky=true", "web")
    assert joined("web", "a", "b") == ["2", "3"]
    for link in ("a", "b"):
        netns.delete(link)
    bridge = host.engine().network("web").bridge
    run(f"ip link del {bridge}", "nft flush ruleset")
    monkeypatch.setattr(Changes, "epoch", property(lambda self: "another boot"))
    assert joined("web", "b", "c", "a") == ["3", "4", "2"]


@pytest.mark.parametrize("value", ["false", "0"])
def test_a_switch_that_is_off_changes_nothing(host: Host, value: str) -> None:
    ok("network", "create", "--subnet=10.1.0.0/29", f"--ipam-opt=sticky={value}", "web")
    assert joined("web", "a") == ["2"]
    ok("rm", "a")
    assert joined("web", "b") == ["2"]


# -- A18: static, none


def test_a18_static_hands_out_what_is_asked_for_and_nothing_else(host: Host) -> None:
    subnets = ["--subnet=10.1.0.0/24", "--subnet=fd00:1::/64"]
    ok("network", "create", "--ipam-driver=static", *subnets, "web")
    said = refused("connect", "--net=web", "--name=a")
    assert "no address of 10.1.0.0/24 or fd00:1::/64 is handed out unasked" in said
    assert "--ip 10.1.0.254" in said
    ok("connect", "--net=web", "--name=a", "--ip=10.1.0.9")
    ok("connect", "--net=web", "--name=b", "--ip=10.1.0.10", "--ip6=fd00:1::b")
    assert "leased to b/eth0" in refused("connect", "--net=web", "--ip=10.1.0.10")
    assert host.ping(netns.named("a"), "10.1.0.10")
    assert host.ping(netns.named("b"), "fd00:1::1")
    assert ok("check") == ""


@firewalls.each
@pytest.mark.parametrize("word", ["none", "null"])
def test_a18_where_nobody_hands_out_addresses_containers_number_themselves(
    host: Host, word: str
) -> None:
    """IPv4 and IPv6, with each other; the host is no part of it."""
    a = layer_two(word)
    assert run("ip route show default; ip -6 route show default", place=a) == ""
    assert until(lambda: host.ping(a, "10.7.0.2", patience_s=1))
    assert host.ping(a, "fd00:7::2")
    assert ok("check") == ""
    row = ok("inspect", "-f", "{{.NetworkSettings.IPAddress}}|{{.NetworkSettings.Gateway}}|", "a")
    assert row.strip() == "||"
    assert ipam("l2") == '{"Driver":"null","Options":{},"Config":[]}'
    bridge = host.engine().network("l2").bridge
    assert run(f"ip addr show {bridge} | grep inet || true") == ""
    ok("network", "rm", "--force", "l2")


def layer_two(word: str = "none") -> str:
    """Two containers that number themselves; the place of the first."""
    ok("network", "create", "--ipam-driver", word, "l2")
    for number, name in enumerate("ab", 1):
        ok("connect", "--net=l2", "--name", name)
        run(
            f"ip addr add 10.7.0.{number}/24 dev eth0",
            f"ip addr add fd00:7::{number}/64 dev eth0 nodad",
            place=netns.named(name),
        )
    return netns.named("a")


def test_a18_even_there_nobody_sends_from_anothers_mac(host: Host) -> None:
    a = layer_two()
    assert until(lambda: host.ping(a, "10.7.0.2", patience_s=1))
    run("ip link set eth0 address 02:66:66:66:66:66", "ip neigh flush dev eth0", place=a)
    assert not host.ping(a, "10.7.0.2", patience_s=BRIEF_S)
    assert not host.ping(a, "fd00:7::2", patience_s=BRIEF_S)


def test_a18_without_addresses_there_is_nothing_to_ask_for_or_to_publish(host: Host) -> None:
    ok("network", "create", "--ipam-driver=none", "l2")
    said = refused("connect", "--net=l2", "--ip=10.7.0.1")
    assert "cannot have 10.7.0.1 on network 'l2': nobody hands out addresses there" in said
    said = refused("connect", "--net=l2", "-p", "8080:80")
    assert "cannot publish ports on network 'l2': the host has no address there" in said
    ok("connect", "--net=l2", "--name=a")
    ok("address", "add", "a", "10.7.0.1/24")  # by hand, but on record
    ok("connect", "--net=l2", "--name=b")
    ok("address", "add", "b", "10.7.0.2/24")
    assert until(lambda: host.ping(netns.named("a"), "10.7.0.2", patience_s=1))
    ok("run", "--net=l2", "--", "ip", "link", "show", "eth0")


def test_a18_an_existing_bridge_stays_as_it_is(host: Host) -> None:
    """Its address is nobody's gateway."""
    run("ip link add lab0 type bridge", "ip addr add 10.7.0.9/24 dev lab0", "ip link set lab0 up")
    ok("network", "create", "--ipam-driver=none", "--bridge=lab0", "l2")
    ok("connect", "--net=l2", "--name=a")
    a = netns.named("a")
    assert run("ip -4 addr show eth0; ip route", place=a) == ""
    run("ip addr add 10.7.0.1/24 dev eth0", place=a)
    assert until(lambda: host.ping(a, "10.7.0.9", patience_s=1))


# -- A19: plugins


@pytest.fixture
def plugins(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of plugins that is configured, with netkit-host-local in it."""
    directory = Path(host.base) / "plugins"
    directory.mkdir()
    config = Path(host.base) / "netkit.toml"
    config.write_text(f'ipam-plugin-dirs = ["{directory}"]\n')
    config.chmod(0o600)
    monkeypatch.setenv("NETKIT_CONFIG", str(config))
    path = shlex.quote(":".join([str(ROOT), *sys.path]))
    command = f"exec {sys.executable} -m cni.host_local"
    write(
        directory / "netkit-host-local",
        f'echo "$CNI_COMMAND $CNI_CONTAINERID/$CNI_IFNAME" >> {directory}/log',
        f"PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 {command}",
    )
    return directory


def write(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


def scripted(plugins: Path, name: str, *lines: str) -> None:
    """A plugin that notes what it is asked; *lines* are what it does for ADD."""
    write(
        plugins / name,
        f'echo "$CNI_COMMAND $CNI_CONTAINERID/$CNI_IFNAME" >> {plugins}/log',
        '[ "$CNI_COMMAND" = ADD ] || exit 0',
        *lines,
    )


def giving(text: str) -> str:
    """Answer with this address."""
    return f"""echo '{{"ips": [{{"address": "{text}"}}]}}'"""


def log(plugins: Path) -> list[str]:
    path = plugins / "log"
    return path.read_text().splitlines() if path.exists() else []


def create(plugins: Path, *words: str, driver: str = "netkit-host-local") -> None:
    leases = ["--ipam-opt", f"dataDir={plugins}/leases"] if driver == "netkit-host-local" else []
    ok("network", "create", "--ipam-driver", driver, *leases, *words, "web")


def held(plugins: Path) -> list[str]:
    """The addresses host-local says are leased."""
    return sorted(p.name for p in (plugins / "leases/web").glob("*") if p.name[0] in "1f")


def loans(host: Host) -> list[LoanRecord]:
    return host.engine().store.all(LoanRecord)


def test_a19_a_plugin_leases_and_releases(host: Host, plugins: Path) -> None:
    create(plugins, "--subnet=10.1.0.0/24", "--subnet=fd00:1::/64", "--ip-range=10.1.0.64/26")
    ok("connect", "--net=web", "--name=a")
    ok("connect", "--net=web", "--name=b", "--ip=10.1.0.99", "--ip6=fd00:1::b", "-p", "8080:80")
    assert held(plugins) == ["10.1.0.64", "10.1.0.99", "fd00:1::2", "fd00:1::b"]
    assert (address("a"), address("b")) == ("10.1.0.64", "10.1.0.99")
    a, b = netns.named("a"), netns.named("b")
    assert host.ping(a, "fd00:1::b")
    assert "default via 10.1.0.1" in run("ip route", place=a)
    with host.serve(b, "tcp", 80):
        assert host.ask(a, "10.1.0.99", 80) == "10.1.0.64"
        assert host.ask(None, "127.0.0.1", 8080) is not None
    assert "is leased to b/eth0" in refused("connect", "--net=web", "--ip=10.1.0.99", "--name=c")
    in_use = '"10.1.0.0/24":{"IPsInUse":5,"DynamicIPsAvailable":0}'
    assert in_use in counts("web")
    assert ok("check") == ""
    ok("disconnect", "--net=web", "a")
    ok("network", "rm", "--force", "web")
    assert held(plugins) == []
    assert loans(host) == []


def test_a19_gateway_and_routes_of_a_plugin_are_used(host: Host, plugins: Path) -> None:
    """On a network that has no subnet, only what the plugin says is known."""
    answer = (
        '{"ips": [{"address": "10.8.0.7/24", "gateway": "10.8.0.254"}], "routes": ['
        '{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16"}, {"dst": "10.10.0.0/16", "gw": "10.8.0.3",'
        ' "mtu": 1400}], "dns": {"nameservers": ["192.0.2.53"]}}'
    )
    scripted(plugins, "site", f"echo '{answer}'")
    create(plugins, driver="site")
    ok("connect", "--net=web", "--name=a")
    a = netns.named("a")
    routes = run("ip route", place=a)
    assert "default via 10.8.0.254" in routes
    assert "10.9.0.0/16 via 10.8.0.254" in routes
    assert "10.10.0.0/16 via 10.8.0.3" in routes
    assert "mtu 1400" in routes
    assert run("ip -6 addr show eth0", place=a) == ""  # nobody gave it IPv6
    assert ok("check") == ""
    said = refused("connect", "--net=web", "--name=b")
    assert "the IPAM plugin gave 10.8.0.7, which a/eth0 has" in said
    assert log(plugins) == ["ADD a/eth0", "ADD b/eth0", "DEL b/eth0"]


def test_a19_a_plugin_is_told_what_it_is_configured_to_be_told(host: Host, plugins: Path) -> None:
    scripted(plugins, "site", f"cat > {plugins}/said", giving("10.1.0.7/24"))
    options = ["debug=true", "level=3", "name=a b", 'kube={"config": "/etc/k"}', 'text="3"']
    words = [f"--ipam-opt={each}" for each in options]
    create(plugins, *words, "--subnet=10.1.0.0/24", "--ip-range=10.1.0.5-10.1.0.9", driver="site")
    ok("connect", "--net=web", "--name=a", "--ip=10.1.0.7")
    import json

    said = json.loads((plugins / "said").read_text())
    assert said["name"] == "web"
    assert said["ipam"] == {
        "type": "site",
        "debug": True,
        "level": 3,
        "name": "a b",
        "kube": {"config": "/etc/k"},
        "text": "3",
        "ranges": [
            [
                {
                    "subnet": "10.1.0.0/24",
                    "gateway": "10.1.0.1",
                    "rangeStart": "10.1.0.5",
                    "rangeEnd": "10.1.0.9",
                }
            ]
        ],
    }
    assert said["runtimeConfig"]["ips"] == ["10.1.0.7"]


@pytest.mark.parametrize(
    ("script", "why", "asked"),
    [
        ("echo nonsense", "its answer cannot be used", ["ADD", "DEL"]),
        (giving("10.2.0.7/24"), "10.2.0.7 is not in 10.1.0.0/24", ["ADD", "DEL"]),
        (giving("10.1.0.1/24"), "10.1.0.1 is the gateway of 10.1.0.0/24", ["ADD", "DEL"]),
        (giving("10.1.0.2/24"), "10.1.0.2 is leased to first/eth0", ["ADD", "DEL"]),
        (
            'echo \'{"code": 11, "msg": "none left"}\'; exit 1',
            "ADD for a/eth0 in 'web': none",
            ["ADD"],
        ),
        ("kill -9 $$", "signal 9 ended it", ["ADD", "DEL"]),
        (
            'echo \'{"ips": [{"address": "10.1.0.8/24", "gateway": "10.3.0.1"}]}\'',
            "the gateway 10.3.0.1, which is not a neighbour",
            ["ADD", "DEL"],
        ),
    ],
)
def test_a19_a_plugin_that_is_of_no_use_leaves_nothing(
    host: Host, plugins: Path, script: str, why: str, asked: list[str]
) -> None:
    scripted(plugins, "site", giving("10.1.0.2/24"))
    create(plugins, "--subnet=10.1.0.0/24", driver="site")
    ok("connect", "--net=web", "--name=first")
    os.remove(plugins / "log")
    scripted(plugins, "site", script)
    before = snapshot()
    assert why in refused("connect", "--net=web", "--name=a")
    assert log(plugins) == [f"{verb} a/eth0" for verb in asked]
    assert snapshot() == before
    assert loans(host) == []
    assert len(host.engine().endpoints()) == 1


def test_a19_what_a_plugin_did_not_release_gc_has_it_release(host: Host, plugins: Path) -> None:
    """Nobody else waits for it or stumbles over it."""
    create(plugins, "--subnet=10.1.0.0/24")
    ok("connect", "--net=web", "--name=a")
    aside = plugins.with_name("aside")
    plugins.rename(aside)
    said = refused("disconnect", "--net=web", "a")
    assert "the addresses of a/eth0 are not released" in said
    assert "netkit gc" in said
    assert ok("ps", "-q") == ""  # but it is disconnected
    assert "are not released" in refused("gc")
    aside.rename(plugins)
    assert held(plugins) == ["10.1.0.2"]
    ok("network", "rm", "web")
    assert ok("gc").split() == ["a/eth0"]
    assert held(plugins) == []
    assert loans(host) == []
    assert ok("gc") == ""


def test_a19_whoever_asks_again_has_released_what_was_left(host: Host, plugins: Path) -> None:
    create(plugins, "--subnet=10.1.0.0/24")
    ok("connect", "--net=web", "--name=a")
    aside = plugins.with_name("aside")
    plugins.rename(aside)
    refused("disconnect", "--net=web", "a")
    aside.rename(plugins)
    ok("connect", "--net=web", "--name=a")
    assert log(plugins) == ["ADD a/eth0", "DEL a/eth0", "ADD a/eth0"]
    assert held(plugins) == [address("a")]
    assert loans(host) == []


def test_a19_a_kernel_that_refuses_gives_back_what_the_plugin_gave(
    host: Host, plugins: Path
) -> None:
    create(plugins, "--subnet=10.1.0.0/24")
    engine = host.engine()
    engine.connect("web", name="a")
    os.makedirs("/etc/netns/b/hosts")  # where a file is to be
    with pytest.raises(KernelRefused):
        engine.connect("web", name="b")
    assert held(plugins) == ["10.1.0.2"]
    assert loans(host) == []


def test_a19_what_the_dead_hold_of_a_plugin_is_there_for_the_living(
    host: Host, plugins: Path
) -> None:
    create(plugins, "--subnet=10.1.0.0/30")
    ok("connect", "--net=web", "--name=a")
    netns.delete("a")
    link = host.engine().endpoints()[0].host_ifname
    assert until(lambda: link not in run("ip -o link"))
    ok("connect", "--net=web", "--name=b")
    assert (address("b"), held(plugins)) == ("10.1.0.2", ["10.1.0.2"])


def test_a19_a_container_has_its_addresses_for_as_long_as_it_runs(
    host: Host, plugins: Path
) -> None:
    create(plugins, "--subnet=10.1.0.0/24")
    shown = ok("run", "--name=a", "--net=web", "--ip=10.1.0.9", "--", "ip", "-4", "-o", "addr")
    assert "10.1.0.9/24" in shown
    assert held(plugins) == []  # a plugin keeps nothing for who is not there
    ok("rm", "a")
    assert log(plugins) == ["ADD a/eth0", "DEL a/eth0"]


def test_a19_addresses_of_a_plugin_are_not_taken_past_it(host: Host, plugins: Path) -> None:
    create(plugins, "--subnet=10.1.0.0/24")
    ok("connect", "--net=web", "--name=a")
    assert "are the IPAM plugin's" in refused("address", "add", "a", "10.1.0.77")
    ok("address", "add", "a", "192.0.2.7/32")  # of no subnet there
    said = refused("connect", "--net=web", "--name=b", "--dry-run")
    assert "nobody knows which addresses 'netkit-host-local' would give" in said
    shown = ok("disconnect", "--net=web", "--dry-run", "a")
    assert "CNI_COMMAND=DEL CNI_CONTAINERID=a CNI_IFNAME=eth0" in shown
    assert log(plugins) == ["ADD a/eth0"]


def test_a19_on_a_routed_network(host: Host, plugins: Path) -> None:
    create(plugins, "--driver=veth", "--subnet=10.1.0.0/24")
    for name in "ab":
        ok("connect", "--net=web", "--name", name)
    assert host.ping(netns.named("a"), address("b"))
    assert ok("check") == ""


def test_a19_on_a_lan_of_the_hosts_own(host: Host, plugins: Path) -> None:
    """Where the subnet is somebody else's, so that netkit is told of none."""
    site = host.neighbour("site", "10.8.0.1/24", "10.8.0.254/24")
    answer = '{"ips": [{"address": "10.8.0.7/24", "gateway": "10.8.0.254"}]}'
    scripted(plugins, "site", f"echo '{answer}'")
    driver = ["--driver=macvlan", "--opt=parent=site0", "--ipam-driver=site"]
    for words in (["network", "create", *driver, "web"], ["connect", "--net=web", "--name=a"]):
        said = netkit(*words)
        if "CONFIG_" in said.err:
            pytest.skip(said.err.partition("\n")[0])
        assert said.code == 0, said
    a = netns.named("a")
    with host.serve(site, "tcp", 80):
        assert until(lambda: host.ask(a, "10.8.0.254", 80, patience_s=1) == "10.8.0.7")
    assert "default via 10.8.0.254" in run("ip route", place=a)
    assert run("ip -6 addr show eth0", place=a) == ""


def test_a19_two_networks_of_a_plugin_give_one_container_an_address_each(
    host: Host, plugins: Path
) -> None:
    for number, net in enumerate(("one", "two"), 1):
        options = ["--ipam-opt", f"dataDir={plugins}/leases", f"--subnet=10.{number}.0.0/24"]
        ok("network", "create", "--ipam-driver=netkit-host-local", *options, net)
    ok("connect", "--net=one", "--name=a")
    ok("connect", "--net=two", "a")
    assert "already exists in network one" in refused("connect", "--net=one", "a")
    assert log(plugins) == ["ADD a/eth0", "ADD a/eth1"]  # the last one was not worth asking
    ok("rm", "a")
    assert log(plugins)[2:] in (["DEL a/eth0", "DEL a/eth1"], ["DEL a/eth1", "DEL a/eth0"])


def test_a19_a_restarted_container_of_an_engine_is_given_addresses_anew(
    host: Host, plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those it had may be somebody else's by now; those it was to have it asks for again."""
    create(plugins, "--subnet=10.1.0.0/24")
    create_second = ["--ipam-driver=netkit-host-local", f"--ipam-opt=dataDir={plugins}/leases"]
    ok("network", "create", *create_second, "--subnet=10.2.0.0/24", "second")
    with FakeEngine(f"{host.base}/docker.sock") as engine:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{engine.path}")
        with container() as pid:
            engine.has("app", pid)
            ok("connect", "--net=web", "docker:app")
            ok("connect", "--net=second", "--ip=10.2.0.9", "docker:app")
        with container() as pid:
            engine.has("app", pid)
            assert ok("gc") == "app\n"
            assert held(plugins) == []
            ok("reattach", "docker:app")
            template = "{{with .NetworkSettings.Networks}}{{.web.IPAddress}} {{.second.IPAddress}}"
            found = ok("inspect", "-f", template + "{{end}}", "app").split()
            assert held(plugins) == [found[0]]
            assert found[1] == "10.2.0.9"
            ok("network", "rm", "--force", "web")
    assert held(plugins) == []


@pytest.fixture
def waiting(plugins: Path) -> Iterator[Path]:
    """A plugin that has been asked for addresses, and leases them once somebody says go."""
    scripted(
        plugins,
        "site",
        f"touch {plugins}/asked",
        f"for i in $(seq 3000); do [ -e {plugins}/go ] && break; sleep 0.02; done",
        f"touch {plugins}/lease",
        giving("10.1.0.7/24"),
    )
    # the lease is gone once it is released
    text = (plugins / "site").read_text()
    undo = f'[ "$CNI_COMMAND" = DEL ] && rm -f {plugins}/lease'
    (plugins / "site").write_text(text.replace("#!/bin/sh\n", f"#!/bin/sh\n{undo}\n"))
    create(plugins, "--subnet=10.1.0.0/24", driver="site")
    yield plugins
    (plugins / "go").touch()


def begin(line: str) -> subprocess.Popen[bytes]:
    command, env = program(line)
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a19_nobody_waits_for_a_slow_plugin_but_who_asked_it(host: Host, waiting: Path) -> None:
    slow = begin("connect --net web --name slow")
    assert until((waiting / "asked").exists)
    ok("network", "create", "other")
    ok("connect", "--net=other", "--name=quick")
    ok("network", "ls")
    assert slow.poll() is None
    (waiting / "go").touch()
    assert slow.wait(60) == 0
    assert address("slow") == "10.1.0.7"


def test_a19_a_plugin_may_outlive_who_asked_it_and_still_nothing_leaks(
    host: Host, waiting: Path
) -> None:
    """Killed while the plugin is at it, which leases only afterwards."""
    slow = begin("connect --net web --name slow")
    assert until((waiting / "asked").exists)
    slow.send_signal(signal.SIGKILL)
    slow.wait(60)
    ok("network", "ls")  # which waits for nobody, nor has released what is not leased yet
    assert log(waiting) == ["ADD slow/eth0"]
    (waiting / "go").touch()
    assert until((waiting / "lease").exists)

    def released() -> bool:
        ok("network", "ls")
        return not (waiting / "lease").exists()

    assert until(released)
    assert log(waiting) == ["ADD slow/eth0", "DEL slow/eth0"]
    assert loans(host) == []


# -- what cannot be


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--ipam-driver=nobody", "no IPAM driver 'nobody': there is no such program in "),
        ("--ipam-driver=../sh", "invalid IPAM driver name '../sh'"),
        ("--ipam-driver=none --subnet=10.1.0.0/24", "IPAM driver 'none' has no use for --subnet"),
        ("--ipam-driver=none --subnet=/24", "IPAM driver 'none' has no use for --subnet"),
        ("--ipam-driver=none --gateway=10.1.0.1", "has no use for --gateway"),
        ("--ipam-driver=none --ip-range=10.1.0.0/25", "has no use for --ip-range"),
        ("--ipam-driver=none --aux-address=a=10.1.0.1", "has no use for --aux-address"),
        ("--ipam-driver=none --host-ip=127.0.0.1", "has no use for --host-ip"),
        ("--ipam-driver=none --driver=veth", "driver veth routes to subnets"),
        ("--ipam-driver=static --ip-range=10.1.0.0/25", "has no use for --ip-range"),
        ("--ipam-driver=static --ipam-opt=sticky=true", "unknown option 'sticky' of IPAM driver"),
        ("--ipam-opt=sticky=maybe", "invalid value 'maybe' for sticky"),
        ("--ipam-opt=stick=true", "unknown option 'stick' of IPAM driver 'default'"),
        ("--ipam-driver=netkit-host-local --ipam-opt=type=dhcp", "that is the plugin's name"),
        ("--ipam-driver=netkit-host-local --ipam-opt=a=NaN", "no number of JSON's"),
        ("--ipam-driver=netkit-host-local --driver=veth", "driver veth routes to subnets"),
        (
            "--ipam-driver=netkit-host-local --subnet=10.1.0.0/24 --aux-address=a=10.1.0.9",
            "has no use for --aux-address",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(plugins: Path, words: str, why: str) -> None:
    assert why in refused("network", "create", *words.split(), "n")
    assert ok("network", "ls", "--format", "{{.Name}}").split() == ["host", "none"]
    assert log(plugins) == []


def test_the_api_says_it_in_python(host: Host, plugins: Path) -> None:
    with Netkit() as nk:
        ranges = ["10.1.0.10-10.1.0.12", "10.1.0.64/26"]
        web = nk.networks.create(
            "web", subnet="10.1.0.0/24", ip_range=ranges, ipam_options={"sticky": "true"}
        )
        assert web.attrs["IPAM"]["Config"][0]["IPRange"] == "10.1.0.10-10.1.0.12,10.1.0.64/26"
        assert str(web.connect().address) == "10.1.0.10/24"
        l2 = nk.networks.create("l2", ipam_driver="none")
        assert (l2.subnet, l2.gateway, l2.connect().addresses) == (None, None, ())
        options = {"dataDir": f"{plugins}/leases"}
        ext = nk.networks.create(
            "ext", subnet="10.3.0.0/24", ipam_driver="netkit-host-local", ipam_options=options
        )
        assert str(ext.connect().address) == "10.3.0.2/24"
        with pytest.raises(InvalidSpec, match="no use for --subnet"):
            nk.networks.create("no", subnet="10.4.0.0/24", ipam_driver="none")
