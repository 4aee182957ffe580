"""Traffic shaping: the kernel and its twin alike; and the wire, as iproute2 reads it."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from netkit.firewall.none import NoFirewall
from netkit.kernel import Kernel, features, netns, shaping
from netkit.kernel.shaping import Bucket
from scenarios.lab import Host, run
from tests.fakes import FakeKernel, refused

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"
SLOW = Bucket(rate=125_000, burst=10_000, limit=13_125)
FAST = Bucket(rate=10_000_000_000, burst=1_000_000, limit=251_000_000)
NETS = [ip_network("10.9.0.0/24"), ip_network("2001:db8::/33")]


def missing() -> str | None:
    """What this kernel lacks of shaping."""
    wanted = ("NET_SCH_TBF", "NET_SCH_HTB", "NET_SCH_INGRESS", "NET_CLS_U32", "NET_ACT_MIRRED")
    with Kernel(NoFirewall()) as kernel:
        netlink = kernel.netlink()
        try:
            netlink.add_link("probe0", "ifb", mac=MAC, mtu=1500)
            try:
                netlink.add_bucket("probe0", SLOW, only=NETS)
                netlink.add_redirect("probe0", "probe0")
            finally:
                netlink.delete_link("probe0")
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            return f"{error.strerror}; it takes IFB, {', '.join(wanted)}"
    return None


@pytest.fixture(params=["fake", "real"])
def kernel(request: pytest.FixtureRequest, host: Host) -> Iterator[Kernel]:
    """A machine with a pair `veth1`, and `ifb1`."""
    if request.param == "real" and (reason := missing()):
        pytest.skip(reason)
    with FakeKernel() if request.param == "fake" else Kernel(NoFirewall()) as kernel:
        kernel.create_netns("c1")
        kernel.netlink().add_veth(
            "veth1",
            mac=MAC,
            mtu=1500,
            peer="eth0",
            peer_mac=PEER_MAC,
            peer_netns=netns.named("c1"),
        )
        kernel.netlink().add_link("ifb1", "ifb", mac=MAC, mtu=1500, up=True)
        yield kernel


@pytest.mark.parametrize("bucket", [SLOW, FAST], ids=["slow", "fast"])
@pytest.mark.parametrize("kind", ["all", "only", "spared"])
def test_a_bucket_is_there_until_it_is_deleted(kernel: Kernel, bucket: Bucket, kind: str) -> None:
    netlink = kernel.netlink()
    assert netlink.bucket("veth1") is None
    netlink.add_bucket("veth1", bucket, **({} if kind == "all" else {kind: NETS}))  # type: ignore[arg-type]
    found = netlink.bucket("veth1")
    assert found is not None
    assert found.is_like(bucket)
    assert netlink.subnets("veth1") == (0 if kind == "all" else 2)
    with refused(errno.EEXIST):
        netlink.add_bucket("veth1", bucket)
    netlink.delete_bucket("veth1")
    assert (netlink.bucket("veth1"), netlink.subnets("veth1")) == (None, 0)
    with refused(errno.EINVAL):
        netlink.delete_bucket("veth1")


def test_a_redirect_is_there_until_it_is_deleted(kernel: Kernel) -> None:
    netlink = kernel.netlink()
    assert netlink.redirect("veth1") is None
    netlink.add_redirect("veth1", "ifb1")
    assert netlink.redirect("veth1") == netlink.index("ifb1")
    with refused(errno.EEXIST):
        netlink.add_redirect("veth1", "ifb1")
    netlink.delete_redirect("veth1")
    assert netlink.redirect("veth1") is None
    with refused(errno.EINVAL):
        netlink.delete_redirect("veth1")


def test_what_is_not_there_cannot_be_shaped(kernel: Kernel) -> None:
    for act in (
        lambda: kernel.netlink().add_bucket("nope", SLOW),
        lambda: kernel.netlink().bucket("nope"),
        lambda: kernel.netlink().add_redirect("veth1", "nope"),
        lambda: kernel.netlink().redirect("nope"),
    ):
        with refused(errno.ENODEV):
            act()
    assert kernel.netlink().redirect("veth1") is None


def test_a_bucket_is_alike_but_for_rounding() -> None:
    assert SLOW.is_like(SLOW._replace(burst=9_999))
    assert not SLOW.is_like(SLOW._replace(burst=9_000))
    assert not SLOW.is_like(SLOW._replace(rate=125_001))
    assert not SLOW.is_like(SLOW._replace(limit=13_126))


@pytest.fixture
def real(host: Host) -> Iterator[Kernel]:
    if reason := missing():
        pytest.skip(reason)
    with Kernel(NoFirewall()) as kernel:
        kernel.netlink().add_link("ifb0", "ifb", mac=MAC, mtu=1500, up=True)
        kernel.netlink().add_link("ifb1", "ifb", mac=MAC, mtu=1500, up=True)
        yield kernel


@pytest.mark.parametrize("bucket", [SLOW, FAST], ids=["slow", "fast"])
def test_iproute2_reads_what_was_asked_for(real: Kernel, bucket: Bucket) -> None:
    real.netlink().add_bucket("ifb0", bucket, spared=NETS)
    _, tbf = json.loads(run("tc -j qdisc show dev ifb0"))
    said = tbf["options"]
    assert (tbf["kind"], tbf["parent"], said["rate"]) == ("tbf", "1:30", bucket.rate)
    assert 0 <= bucket.burst - said["burst"] <= bucket.rate / 10**6  # tc counts in microseconds
    assert abs(said["lat"] - 25_000) <= 1
    real.netlink().add_redirect("ifb0", "ifb1")
    shown = run("tc filter show dev ifb0 parent 1:", "tc filter show dev ifb0 ingress")
    assert "match 0a090000/ffffff00 at 16" in shown
    assert "match 20010db8/ffffffff at 24" in shown
    assert "match 00000000/80000000 at 28" in shown
    assert shown.count("flowid 1:\n") + shown.count("flowid 1: ") == 2
    assert "mirred (Egress Redirect to device ifb1) stolen" in shown


def test_what_an_operator_types_is_what_is_done(real: Kernel) -> None:
    from netkit.steps import Redirect, Shaper

    for more in ({}, {"only": tuple(NETS)}, {"spared": tuple(NETS), "sources": True}):
        plan = (
            Shaper(dev="ifb0", rate=125_000, burst=10_000, limit=13_125, **more),
            Redirect(dev="ifb0", to="ifb1"),
        )
        for step in plan:
            step.add(real)
            step.check(real)
        shown = tc("ifb0")
        for step in reversed(plan):
            step.delete(real)
        assert tc("ifb0") != shown
        run(*(str(step) for step in plan))
        assert tc("ifb0") == shown
        for step in plan:
            step.check(real)
        run(*(step.undo() for step in plan))


def tc(dev: str) -> str:
    """All of it, but for what is counted, and for what tc gets wrong (ceil)."""
    shown = run(
        f"tc qdisc show dev {dev}",
        f"tc class show dev {dev}",
        f"tc filter show dev {dev}",
        f"tc filter show dev {dev} ingress",
    )
    return re.sub(r"\s(index|cburst|burst|ceil|quantum|r2q) \S+", "", shown)


@pytest.mark.parametrize(
    ("said", "option"),
    [
        ("Specified qdisc kind is unknown", "CONFIG_NET_SCH_TBF"),
        ("TC classifier not found", "CONFIG_NET_CLS_U32"),
        ("Failed to load TC action module", "CONFIG_NET_ACT_MIRRED"),
    ],
)
def test_what_the_kernel_lacks_is_named_by_its_build_option(said: str, option: str) -> None:
    with pytest.raises(OSError, match=option) as caught, shaping._explained("tbf"):
        raise OSError(errno.ENOENT, said)
    assert caught.value.errno == errno.EOPNOTSUPP
    with pytest.raises(OSError, match="another thing"), shaping._explained("tbf"):
        raise OSError(errno.ENOENT, "another thing")
    assert features.OPTIONS["ifb"] == "CONFIG_IFB"
