"""A host with firewalld: row E11. With the real one, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from netkit.firewall import foreign
from netkit.specs import NetworkSpec
from scenarios.lab import BRIEF_S, Host, join, run, until

BUS = "/run/dbus/system_bus_socket"
BUS_CONFIG = f"""\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={BUS}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>
<allow own="*"/></policy></busconfig>
"""


@pytest.fixture
def firewalld(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A firewalld of this host's own, with what its package brings as its configuration."""
    for program in ("firewalld", "firewall-cmd", "dbus-daemon"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: apt-get install firewalld")
    monkeypatch.setattr(foreign, "_PATH", os.environ["PATH"])
    os.makedirs(os.path.dirname(BUS), exist_ok=True)
    os.makedirs(f"{host.base}/firewalld")
    with open(f"{host.base}/bus.conf", "w") as file:
        file.write(BUS_CONFIG)
    bus = ["dbus-daemon", f"--config-file={host.base}/bus.conf", "--nofork", "--nopidfile"]
    server = ["firewalld", "--nofork", "--nopid", f"--system-config={host.base}/firewalld"]
    if directory := os.environ.get("FIREWALLD_CONFIG"):  # of a package that is not installed
        server.append(f"--default-config={directory}")
    log = subprocess.DEVNULL
    with subprocess.Popen(bus, stdout=log, stderr=log) as daemon:
        assert until(lambda: os.path.exists(BUS))
        with subprocess.Popen(server, stdout=log, stderr=log) as process:
            try:
                assert until(lambda: cmd("--state") == "running\n", 20)
                yield
            finally:
                process.terminate()
                process.wait(20)
                daemon.terminate()
                daemon.wait(20)


def cmd(words: str) -> str:
    return run(f"firewall-cmd {words} 2>&1 || true")


def test_e11_a_networks_bridge_is_in_a_zone_that_lets_it_pass(host: Host, firewalld: None) -> None:
    """And only for as long as there is the network. Without that nothing would leave it."""
    lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
    engine = host.engine()
    before = cmd("--get-active-zones")
    spec = NetworkSpec("net", bridge="br7", subnets=(IPv4Network("172.25.0.0/24"),))
    with engine.dry_run() as lines:
        engine.create_network(spec)
    assert "firewall-cmd -q --zone=trusted --add-interface=br7" in lines
    engine.create_network(spec)
    web = join(engine, "net", "web", "8080:80")
    assert cmd("--get-zone-of-interface=br7") == "trusted\n"
    with host.serve(lan, "tcp", 80), host.serve(web, "tcp", 80):
        assert host.ask(web, "10.9.0.2", 80) == "10.9.0.1"
        assert host.ask(lan, "10.9.0.1", 8080) == "10.9.0.2"
        run("ip route replace 172.25.0.0/24 via 10.9.0.1", place=lan)
        assert host.ask(lan, "172.25.0.2", 80, patience_s=BRIEF_S) is None
        assert engine.check() == []
        cmd("--reload")  # by which it forgets what was not in its files
        assert host.ask(lan, "172.25.0.2", 80, patience_s=BRIEF_S) is None
        assert host.ask(web, "10.9.0.2", 80, patience_s=BRIEF_S) is None
        (drift,) = engine.check()
        assert "firewall-cmd -q --zone=trusted --add-interface=br7" in str(drift)
        cmd("--zone=trusted --add-interface=br7")
        assert host.ask(web, "10.9.0.2", 80) == "10.9.0.1"
        cmd("--zone=internal --change-interface=br7")
        assert engine.check() == []  # where its owner has put it is his business
    engine.delete_network("net", force=True)
    assert cmd("--get-zone-of-interface=br7") == "internal\n"
    cmd("--zone=internal --remove-interface=br7")
    engine.create_network(spec)
    engine.delete_network("net")
    assert cmd("--get-active-zones") == before
