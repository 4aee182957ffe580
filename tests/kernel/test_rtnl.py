"""What is packed by hand, held to pyroute2: it reads what we say, and we read what it says."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from netkit import attributes
from netkit.kernel import rtnl
from netkit.kernel.netlink import Netlink
from scenarios.lab import Host, run

MAC, PEER_MAC = "02:42:00:00:00:01", "02:42:00:00:00:02"
names = st.from_regex(r"[a-z0-9_.-]{1,15}", fullmatch=True)
u32s = st.integers(0, 2**32 - 1)


def decoded(kind: Any, request: bytes) -> Any:
    """A request as pyroute2 reads it."""
    message = kind(struct.pack("=IHHII", 16 + len(request), 0, 0, 0, 0) + request)
    message.decode()
    return message


def said(message: Any) -> dict[str, Any]:
    """The attributes of a message, nested ones as well."""
    return {
        key: said(value) if hasattr(value, "get_attrs") else value
        for key, value in ((attr[0], attr[1]) for attr in message["attrs"])
    }


def holds(message: Any, fields: Mapping[str, int], attrs: Mapping[str, Any]) -> None:
    assert {key: message[key] for key in fields} == fields
    assert said(message) == {key: value for key, value in attrs.items() if value is not None}


@given(name=names, alias=names, index=st.integers(0, 2**31 - 1), mtu=u32s, group=u32s)
def test_a_link_is_read_by_pyroute2_as_it_was_meant(
    name: str, alias: str, index: int, mtu: int, group: int
) -> None:
    request = rtnl.link(
        name, index=index, up=True, promisc=False, mac=MAC, mtu=mtu, parent=4, master=0,
        txqlen=7, alias=alias, group=group, namespace=9, ext_mask=rtnl.SKIP_STATS,
    )  # fmt: skip
    holds(
        decoded(ifinfmsg, request),
        {"family": 0, "index": index, "flags": 0x1, "change": 0x101},
        {
            "IFLA_IFNAME": name, "IFLA_LINK": 4, "IFLA_NET_NS_FD": 9, "IFLA_ADDRESS": MAC,
            "IFLA_MTU": mtu, "IFLA_TXQLEN": 7, "IFLA_IFALIAS": alias, "IFLA_GROUP": group,
            "IFLA_MASTER": 0, "IFLA_EXT_MASK": 8,
        },
    )  # fmt: skip


def test_a_pair_a_bridge_and_a_port_are_read_by_pyroute2_as_they_were_meant() -> None:
    peer = rtnl.link("eth0", mac=PEER_MAC, mtu=1400)
    pair = said(decoded(ifinfmsg, rtnl.link("v", info=rtnl.veth(peer))))["IFLA_LINKINFO"]
    assert pair["IFLA_INFO_KIND"] == "veth"
    theirs = {"IFLA_IFNAME": "eth0", "IFLA_ADDRESS": PEER_MAC, "IFLA_MTU": 1400}
    assert pair["IFLA_INFO_DATA"] == {"VETH_INFO_PEER": theirs}
    bridge = said(decoded(ifinfmsg, rtnl.link("b", info=rtnl.bridge(0xFFF8))))["IFLA_LINKINFO"]
    assert bridge == {
        "IFLA_INFO_KIND": "bridge",
        "IFLA_INFO_DATA": {"IFLA_BR_GROUP_FWD_MASK": 0xFFF8},
    }
    flags = {"hairpin": True, "isolated": False, "learning": True, "flood": None}
    port = said(decoded(ifinfmsg, rtnl.link("p", info=rtnl.port(flags))))["IFLA_LINKINFO"]
    assert port == {
        "IFLA_INFO_SLAVE_KIND": "bridge",
        "IFLA_INFO_SLAVE_DATA": {
            "IFLA_BRPORT_MODE": 1,
            "IFLA_BRPORT_ISOLATED": 0,
            "IFLA_BRPORT_LEARNING": 1,
        },
    }


interfaces = st.one_of(st.ip_addresses(v=4), st.ip_addresses(network="fd00::/8")).flatmap(
    lambda ip: st.integers(0, ip.max_prefixlen).map(lambda size: ip_interface(f"{ip}/{size}"))
)


@given(own=interfaces, index=st.integers(0, 2**31 - 1))
def test_an_address_is_read_by_pyroute2_as_it_was_meant(own: Any, index: int) -> None:
    v4, size = own.version == 4, own.network.prefixlen
    holds(
        decoded(ifaddrmsg, rtnl.address(index, own)),
        {
            "family": socket.AF_INET if v4 else socket.AF_INET6,
            "prefixlen": size,
            "index": index,
            "flags": 0 if v4 else 2,
            "scope": 0,
        },
        {
            "IFA_ADDRESS": str(own.ip),
            "IFA_LOCAL": str(own.ip) if v4 else None,
            "IFA_BROADCAST": str(own.network.broadcast_address) if v4 and size < 31 else None,
        },
    )


@given(dst=interfaces, table=u32s, metric=u32s, onlink=st.booleans())
def test_a_route_is_read_by_pyroute2_as_it_was_meant(
    dst: Any, table: int, metric: int, onlink: bool
) -> None:
    v4 = dst.version == 4
    gateway = ip_address("10.0.0.1" if v4 else "fe80::1")
    request = rtnl.route(
        dst.version, 5, dst.network, gateway, table=table, metric=metric, source=dst.ip,
        onlink=onlink, mtu=1400, advmss=1300,
    )  # fmt: skip
    holds(
        decoded(rtmsg, request),
        {
            "family": socket.AF_INET if v4 else socket.AF_INET6,
            "dst_len": dst.network.prefixlen,
            "table": 252 if table else 254,
            "proto": 3,
            "scope": 0,
            "type": 1,
            "flags": 4 * onlink,
        },
        {
            "RTA_DST": str(dst.network.network_address),
            "RTA_GATEWAY": str(gateway),
            "RTA_OIF": 5,
            "RTA_PRIORITY": metric,
            "RTA_PREFSRC": str(dst.ip),
            "RTA_TABLE": table,
            "RTA_METRICS": {"RTAX_MTU": 1400, "RTAX_ADVMSS": 1300},
        },
    )


def test_a_route_that_leads_nowhere_or_to_the_link_says_so() -> None:
    near = decoded(rtmsg, rtnl.route(4, 5, ip_network("10.0.0.0/8"), None))
    assert (near["scope"], near["type"], said(near)["RTA_OIF"]) == (253, 1, 5)
    hole = decoded(rtmsg, rtnl.route(6, None, ip_network("fd00::/8"), None, type="blackhole"))
    assert (hole["scope"], hole["type"]) == (0, 6)
    assert "RTA_OIF" not in said(hole)
    default = decoded(rtmsg, rtnl.route(4, 5, None, ip_address("10.0.0.1")))
    assert (default["dst_len"], "RTA_DST" in said(default)) == (0, False)


def test_a_rule_is_read_by_pyroute2_as_it_was_meant() -> None:
    request = rtnl.rule(
        4, source=ip_network("10.0.0.1/32"), to=ip_network("10.2.0.0/16"), iif="a", oif="b",
        mark=5, table=70000, priority=32000,
    )  # fmt: skip
    holds(
        decoded(fibmsg, request),
        {"family": socket.AF_INET, "src_len": 32, "dst_len": 16, "table": 252, "action": 1},
        {
            "FRA_SRC": "10.0.0.1", "FRA_DST": "10.2.0.0", "FRA_IIFNAME": "a", "FRA_OIFNAME": "b",
            "FRA_FWMARK": 5, "FRA_FWMASK": 0xFFFFFFFF, "FRA_TABLE": 70000, "FRA_PRIORITY": 32000,
        },
    )  # fmt: skip


@given(st.binary(max_size=300))
def test_attributes_of_any_bytes_are_read_to_their_end(data: bytes) -> None:
    attributes.read(data)


def test_links_are_read_as_pyroute2_reads_them(host: Host) -> None:
    """The kernel's own answers, of a pair, a bridge and its port."""
    run("ip netns add a")
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac=MAC, mtu=1400)
        netlink.add_veth(
            "v0", mac=MAC, mtu=1400, peer="v1", peer_mac=PEER_MAC, peer_netns="/run/netns/a",
            master="br0",
        )  # fmt: skip
        netlink.set_link("v0", alias="netkit:1", group=7, promisc=True, txqlen=9)
        answers = list(netlink._talk(rtnl.link(), 18, 0x300))
        for link, answer in zip(netlink.links(), answers, strict=True):
            theirs = ifinfmsg(answer)
            theirs.decode()
            info = theirs.get("IFLA_LINKINFO")
            assert link._replace(port=frozenset(), options={}) == link.__class__(
                theirs["index"],
                theirs.get("IFLA_IFNAME"),
                info.get("IFLA_INFO_KIND") if info else None,
                theirs.get("IFLA_ADDRESS") or None,
                theirs.get("IFLA_MTU"),
                bool(theirs["flags"] & 1),
                theirs.get("IFLA_IFALIAS"),
                theirs.get("IFLA_MASTER"),
                theirs.get("IFLA_LINK"),
                port_state=link.port_state,
                txqlen=theirs.get("IFLA_TXQLEN"),
                promisc=bool(theirs["flags"] & 0x100),
                group=theirs.get("IFLA_GROUP"),
                running=bool(theirs["flags"] & 0x40),
                options={},
            )
        shown = {link.name: link for link in netlink.links()}
    assert shown["v0"].port == {"learning", "flood"}
    assert (shown["v0"].alias, shown["v0"].group, shown["v0"].txqlen) == ("netkit:1", 7, 9)


def test_pyroute2_is_not_imported_for_what_a_container_needs(host: Host) -> None:
    """It takes 100 ms, which a call without a daemon would pay each time."""
    script = """
import sys
from netkit.engine import Engine
from netkit.portspec import PortSpec
from netkit.specs import NetworkSpec, Request
engine = Engine()
engine.create_network(NetworkSpec("web"))
engine.connect("web", name="c1", request=Request(ports=PortSpec.parse("8080:80")))
engine.disconnect("web", "c1")
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"pyroute2", "asyncio"}))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\n", "")


@pytest.mark.parametrize("version", [4, 6])
def test_the_ways_out_of_a_namespace_are_those_of_its_main_table(host: Host, version: int) -> None:
    ip, gateway = ("10.0.0.1/24", "10.0.0.2") if version == 4 else ("fd00::1/64", "fd00::2")
    run(
        "ip link add d0 type bridge",
        "ip link set d0 up",
        f"ip -{version} addr add {ip} dev d0" + " nodad" * (version == 6),
        f"ip -{version} route add default via {gateway} table 77",
        f"ip -{version} route add unreachable default metric 9999",
    )
    with Netlink() as netlink:
        assert netlink.ways_out() == set()
        run(f"ip -{version} route add default via {gateway}")
        assert netlink.ways_out() == {version}


def test_whether_a_link_is_up_is_asked_without_a_message(host: Host) -> None:
    with Netlink() as netlink:
        netlink.add_bridge("br0", mac=MAC, mtu=1400)
        sent = netlink._sequence
        assert (netlink.is_up("lo"), netlink.is_up("br0"), netlink.is_up("x")) == (
            True,
            False,
            None,
        )
        assert netlink._sequence == sent
