"""What --dry-run must not do, even where no step stands for it."""

from __future__ import annotations

from netkit import containers
from netkit.model import SandboxRecord
from scenarios.lab import Host
from tests import faces


def test_a_dry_run_of_a_forced_rm_kills_nobody(host: Host) -> None:
    faces.ok("run", "-d", "--name", "c1", "--net", "none", "--", "sleep", "600")
    try:
        engine = host.engine()
        pid = engine.store.get(SandboxRecord, "c1").pid
        printed = faces.ok("rm", "-f", "--dry-run", "c1").splitlines()
        assert printed[0] == f"kill -KILL {pid}"
        assert "ip netns del c1" in printed
        assert containers.is_running(engine.store.get(SandboxRecord, "c1"))
    finally:
        faces.ok("rm", "-f", "c1")


def test_the_addresses_nobody_can_have_count_as_in_use_as_with_docker(host: Host) -> None:
    faces.ok("network", "create", "--subnet", "10.8.0.0/24", "--aux-address", "a=10.8.0.9", "net")
    status = "{{json .Status.IPAM.Subnets}}"
    # network, broadcast, gateway and the auxiliary address; of 256
    assert faces.ok("network", "inspect", "-f", status, "net") == (
        '{"10.8.0.0/24":{"IPsInUse":4,"DynamicIPsAvailable":252}}\n'
    )
    faces.ok("connect", "--net", "net", "--name", "c1")
    assert '"IPsInUse":5,"DynamicIPsAvailable":251' in faces.ok(
        "network", "inspect", "-f", status, "net"
    )
