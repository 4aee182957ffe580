"""What an older netkit made goes on living under this one, as closed as it was."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from msgspec.structs import replace

from netkit import permissions, steps, store
from netkit.changes import Changes
from netkit.engine import Engine
from netkit.errors import KernelRefused
from netkit.firewall import Closed
from netkit.model import EndpointRecord, HostRecord
from netkit.specs import NetworkSpec
from scenarios.lab import Host, join, run

NET = ip_network("172.25.0.0/24")
PORT = 80


def _made_by_version_2(host: Host, *names: str) -> list[str]:
    """A closed network as a netkit before policies made it, with these on it; their places."""
    engine = host.engine()
    engine.create_network(NetworkSpec("shop", subnets=(NET,), icc=False, names=False))
    places = [join(engine, "shop", name) for name in names]
    with engine.job() as kernel, engine.store.transaction():
        for ep in engine.store.all(EndpointRecord):
            plan = [
                replace(step, rules=tuple(r for r in step.rules if not isinstance(r, Closed)))
                if isinstance(step, steps.Rules)
                else step
                for step in steps.decode(ep.steps)
            ]
            engine.store.update(replace(ep, steps=steps.encode(plan)))
            kernel.netlink().set_port(ep.host_ifname, isolated=True)
    _age(engine)
    run(
        *(f"nft flush chain bridge netkit {chain}" for chain in ("forward", "between", "find")),
        *(f"nft delete chain bridge netkit {chain}" for chain in ("forward", "between", "find")),
        "nft flush set bridge netkit closed",
    )
    return places


def _age(engine: Engine) -> None:
    """Let the state be of version 2, and close it."""
    for table in ("journal", "called"):
        engine.store.connection.execute(f"DROP TABLE {table}")
    engine.store.connection.execute("PRAGMA user_version=2")
    engine.close()


def _intents(engine: Engine) -> list[Any]:
    return [record for record in engine.store.all(HostRecord) if record.id == store.UPGRADED]


@pytest.mark.parametrize("shown", [0, 1])
def test_who_joins_an_older_closed_network_reaches_nobody_on_it(host: Host, shown: int) -> None:
    """Whether or not other filters are *shown* what its bridge passes on."""
    run(f"sysctl -qw net.bridge.bridge-nf-call-iptables={shown} || test {shown} = 0")
    db, web = _made_by_version_2(host, "db", "web")
    eve = join(host.engine(), "shop", "eve")
    with host.serve(db, "tcp", PORT):
        assert host.ask(eve, "172.25.0.2", PORT, patience_s=0.2) is None
        assert host.ask(web, "172.25.0.2", PORT, patience_s=0.2) is None
    assert "isolated on" not in run("bridge -d link show")
    assert host.engine().check() == []


def test_what_is_allowed_on_an_older_closed_network_passes(host: Host) -> None:
    db, web = _made_by_version_2(host, "db", "web")
    engine = host.engine()
    permissions.allow(engine, "web", f"db:{PORT}")
    with host.serve(db, "tcp", PORT):
        assert host.ask(web, "172.25.0.2", PORT) == "172.25.0.3"
    assert host.ping(web, "172.25.0.2", patience_s=0.2) is False
    engine.delete_network("shop", force=True)
    assert run("nft list ruleset") == ""


def test_an_upgrade_that_failed_is_done_by_the_next_call(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    _made_by_version_2(host, "db", "web")

    def refuse(*given: object) -> None:
        raise KernelRefused("not now")

    with monkeypatch.context() as patch:
        patch.setattr(Changes, "restore_rules", refuse)
        with pytest.raises(KernelRefused, match="not now"):
            host.engine().sandboxes()
    engine = host.engine()
    assert _intents(engine)
    engine.sandboxes()
    assert not _intents(engine)
    assert engine.check() == []
    assert "isolated on" not in run("bridge -d link show")


def test_iptables_gets_the_chains_it_lacked_and_its_ports_stay_isolated(host: Host) -> None:
    engine = Engine(firewall_name="iptables")
    engine.create_network(NetworkSpec("shop", icc=False, names=False))
    join(engine, "shop", "db")
    _age(engine)
    run("iptables-legacy -w -F NETKIT-EGRESS", "iptables-legacy -w -F NETKIT-OURS")
    engine = host.engine()
    assert engine.check()
    engine.sandboxes()
    assert engine.check() == []
    assert "isolated on" in run("bridge -d link show")
