"""Which back end a kernel gets, and what it costs to ask."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from netkit import firewall
from netkit.errors import KernelRefused
from netkit.firewall import detection
from scenarios.lab import Host, run


def test_this_kernel_has_what_its_rules_say(host: Host) -> None:
    run("nft 'table inet t'")
    assert detection.has_nf_tables()
    assert firewall.detect() == "nftables"


def test_to_ask_makes_no_table_and_runs_no_program(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", None)
    detection.has_nf_tables()
    if not detection.has_ip_tables():
        pytest.skip("this kernel lacks iptables' own tables (CONFIG_IP_NF_IPTABLES_LEGACY)")
    assert run("cat /proc/self/net/ip_tables_names") == ""


@pytest.mark.parametrize(
    ("nf_tables", "ip_tables", "found"),
    [(True, True, "nftables"), (True, False, "nftables"), (False, True, "iptables")],
)
def test_nftables_is_preferred(
    monkeypatch: pytest.MonkeyPatch, nf_tables: bool, ip_tables: bool, found: str
) -> None:
    monkeypatch.setattr(detection, "has_nf_tables", lambda: nf_tables)
    monkeypatch.setattr(detection, "has_ip_tables", lambda: ip_tables)
    assert firewall.detect() == found
    assert firewall.load(found).name == found


def test_a_kernel_without_either_is_refused_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "has_nf_tables", lambda: False)
    monkeypatch.setattr(detection, "has_ip_tables", lambda: False)
    with pytest.raises(KernelRefused, match="neither nf_tables nor ip_tables") as caught:
        firewall.detect()
    assert "--firewall none" in (caught.value.hint or "")


def test_who_may_not_ask_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied() -> bool:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(detection, "has_nf_tables", denied)
    with pytest.raises(KernelRefused, match="Operation not permitted") as caught:
        firewall.detect()
    assert "netkit unshare" in (caught.value.hint or "")


def test_a_kernel_without_netfilter_has_no_nf_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> socket.socket:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(socket, "socket", none)
    assert not detection.has_nf_tables()
