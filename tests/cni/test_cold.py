"""A plugin's call without netkitd: it starts from nothing, so what it loads is what it costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cni import install
from netkit import store
from netkit.model import HostRecord
from scenarios.lab import Host, run

_BOUND_S = 30
# Each costs from half a millisecond to a hundred, and none of them has a part in a plain ADD
HEAVY = {
    *("pyroute2", "netaddr", "iptc", "ruamel", "click", "rich", "dns"),
    *("inspect", "ast", "tomllib", "hashlib", "_hashlib", "random", "shutil"),
    *("subprocess", "tempfile", "logging", "asyncio", "dataclasses", "glob", "urllib", "pathlib"),
    *("netkit.api", "netkit.daemon", "netkit.cli", "netkit.kernel.process", "netkit.engines"),
    *("netkit.endpoints", "netkit.firewall.foreign", "netkit.firewall.iptables"),
}


def test_no_plugin_of_the_chain_loads_what_it_does_not_need(host: Host) -> None:
    bin_dir = f"{host.base}/bin"
    install.install(bin_dir)
    ranges = [[{"subnet": "10.88.0.0/16"}]]
    ipam = {"type": "host-local", "dataDir": f"{host.base}/leases", "ranges": ranges}
    mapping: dict[str, Any] = {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}
    chain: tuple[dict[str, Any], ...] = (
        {"type": "bridge", "isGateway": True, "ipMasq": True, "ipam": ipam},
        {"type": "portmap", "runtimeConfig": {"portMappings": [mapping]}},
        {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}},
    )
    for container in ("c1", "c2"):  # the first makes what all share, and may take longer
        run(f"ip netns add {container}")
        mapping["hostPort"] += 1
        previous: dict[str, Any] = {}
        loaded = {}
        for conf in chain:
            conf = {"cniVersion": "1.0.0", "name": "web", **conf, **previous}
            result, loaded[conf["type"]] = add(f"{bin_dir}/{conf['type']}", container, conf)
            previous = {"prevResult": result}
    assert {kind: modules & HEAVY for kind, modules in loaded.items() if modules & HEAVY} == {}
    assert all(modules >= {"msgspec", "sqlite3"} for modules in loaded.values())


def test_an_ipam_plugin_loads_no_engine(host: Host) -> None:
    """Other people's plugins execute it, once for each container."""
    bin_dir = f"{host.base}/bin"
    install.install(bin_dir)
    ipam = {"type": "host-local", "subnet": "10.1.0.0/24", "dataDir": f"{host.base}/leases"}
    conf = {"cniVersion": "1.0.0", "name": "web", "ipam": ipam}
    result, modules = add(f"{bin_dir}/host-local", "c1", conf)
    assert result["ips"]
    assert not modules & {*HEAVY, "netkit.engine", "netkit.kernel", "sqlite3", "socket"}


def add(plugin: str, container: str, conf: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """What it answers, and the modules it imports."""
    done = subprocess.run(
        [sys.executable, "-IS", "-X", "importtime", plugin],
        env={
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": os.path.dirname(plugin),
            "NETKIT_DAEMON": "no",
            **{name: os.environ[name] for name in os.environ if name.startswith("NETKIT_")},
        },
        input=json.dumps(conf).encode(),
        capture_output=True,
        timeout=_BOUND_S,
    )
    assert done.returncode == 0, done.stdout
    lines = done.stderr.decode().splitlines()
    return json.loads(done.stdout), {line.rpartition("|")[2].strip() for line in lines}


# -- the state, which a process that ends leaves as it is


def left(path: Path, number: int) -> int:
    """The length of SQLite's log after one more process has put its record and ended."""
    child = os.fork()
    if child == 0:
        state = store.SqliteStore(f"{path}", f"{path}")
        with state.transaction():
            state.put(HostRecord(id=f"plan {number}", steps="[]" + " " * 5000))
        state.leave()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    log = path / "state.db-wal"
    return log.stat().st_size if log.exists() else 0


def test_what_a_process_left_is_there_for_the_next(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    assert all(left(tmp_path, number) for number in range(3))
    state = store.SqliteStore(f"{tmp_path}", f"{tmp_path}")
    assert {record.id for record in state.all(HostRecord)} == {"plan 0", "plan 1", "plan 2"}
    state.close()
    assert not (tmp_path / "state.db-wal").exists()


def test_what_there_is_to_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(store, "_LOG_BYTES", 1 << 17)
    lengths = [left(tmp_path, number) for number in range(12)]
    assert 0 in lengths, "it is never written back"
    assert max(lengths) <= 1 << 17
