"""Steps: the reversible changes a plan is made of; and the three verbs over plans.

Shapes   a step is a frozen value and prints as the line an operator would type; a plan is a tuple
         of steps. `at` is the path of a network namespace, None the host
Errors   KernelRefused: the step's line and the kernel's answer; Conflict where somebody else's
         object stands in the way; Drift from check
Source   netkit's design. Where it differs from the first sketch: a step has a fourth verb,
         `prepare`, which looks before the intent is written and returns the step with what it
         will replace (or None: nothing to do). So an intent holds all that its undoing needs,
         and the steps that were done are the steps that were intended

A step touches only what is netkit's: links bear a MAC derived from their owner from birth and an
alias soon after; names are derived too, so undoing needs no memory beyond the steps themselves.
"""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any, ClassVar

import msgspec

from netkit import model
from netkit.dns import hosts
from netkit.errors import Conflict, Drift, KernelRefused, NetkitError
from netkit.firewall import Firewall, Guard, Isolate, Masquerade, Publish
from netkit.kernel import Kernel
from netkit.kernel.netlink import FORWARDED_GROUPS

Thing = tuple[str, ...]

_IP_FORWARD = "net/ipv4/ip_forward"
_CONF = "net/ipv4/conf"
_REDIRECTS = f"{_CONF}/all/accept_redirects"
_FORWARDING = 3  # of a bridge port: BR_STATE_FORWARDING, linux/if_bridge.h
_PRIORITY = " priority 32000"  # before the main table's 32766; kernel.netlink says it too
_READY_TRIES, _READY_PAUSE_S = 300, 0.005


class Step(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One change. The verbs raise OSError or NetkitError; the functions below translate."""

    durable: ClassVar[bool] = False  # outlives a reboot, so it must be undone even after one

    @property
    def makes(self) -> Sequence[Thing]:
        """The things whose deletion takes along all that is `within` them."""
        return ()

    @property
    def within(self) -> Sequence[Thing]:
        return ()

    def prepare(self, kernel: Kernel) -> Step | None:
        """This step with what it will replace; None: nothing to do. Changes nothing."""
        return self

    def add(self, kernel: Kernel) -> None: ...

    def delete(self, kernel: Kernel) -> None:
        """Put back what was. What is gone already, or not ours, is left as it is."""

    def check(self, kernel: Kernel) -> None:
        """Raise Drift where the kernel no longer holds what add put there."""

    def undo(self) -> str:
        """What `delete` does, as an operator would type it; "": nothing of its own."""
        return ""


class Netns(Step, frozen=True, kw_only=True):
    """A named namespace."""

    name: str

    @property
    def path(self) -> str:
        return f"/run/netns/{self.name}"

    @property
    def makes(self) -> Sequence[Thing]:
        return (("netns", self.path),)

    def prepare(self, kernel: Kernel) -> Step | None:
        if kernel.exists(self.path):
            raise Conflict(
                f"a network namespace named '{self.name}' exists already",
                hint=f"choose another name, or connect to it: netkit connect --net NET {self.name}",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        kernel.create_netns(self.name)

    def delete(self, kernel: Kernel) -> None:
        kernel.delete_netns(self.name)

    def check(self, kernel: Kernel) -> None:
        if not kernel.exists(self.path):
            raise Drift(f"namespace {self.path} is gone")

    def undo(self) -> str:
        return f"ip netns del {self.name}"

    def __str__(self) -> str:
        return f"ip netns add {self.name}"


class LinkUp(Step, frozen=True, kw_only=True):
    """An interface is set up. It is not set down again: it goes with its namespace."""

    dev: str
    at: str | None = None
    fresh: bool = False  # made by the same plan, so there is nothing to look at yet

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, self.dev)

    def prepare(self, kernel: Kernel) -> Step | None:
        link = None if self.fresh else kernel.netlink(self.at).link(self.dev)
        return None if link and link.up else self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).set_up(self.dev)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.dev)
        if not (link and link.up):
            raise Drift(f"interface {self.dev} is {'down' if link else 'gone'}")

    def __str__(self) -> str:
        return f"{_ip(self.at)} link set {self.dev} up"


class Bridge(Step, frozen=True, kw_only=True):
    """A bridge, its MAC pinned."""

    name: str
    mac: str
    mtu: int
    alias: str

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", "", self.name),)

    def prepare(self, kernel: Kernel) -> Step | None:
        link = kernel.netlink().link(self.name)
        if link is not None:
            raise Conflict(
                f"an interface named '{self.name}' exists already ({link.kind or 'physical'})",
                hint="give the network another bridge name: -o com.docker.network.bridge.name=NAME",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().add_bridge(self.name, mac=self.mac, mtu=self.mtu)

    def delete(self, kernel: Kernel) -> None:
        _delete_link(kernel, self.name, "bridge", self.mac, self.alias)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.name)
        if link is None or link.kind != "bridge":
            raise Drift(f"bridge {self.name} is {'not as made' if link else 'gone'}")

    def undo(self) -> str:
        return f"ip link del {self.name}"

    def __str__(self) -> str:
        groups = f"group_fwd_mask {FORWARDED_GROUPS:#x}"
        return f"ip link add {self.name} address {self.mac} mtu {self.mtu} type bridge {groups}"


class Alias(Step, frozen=True, kw_only=True):
    """The owner's name on a link."""

    dev: str
    alias: str

    @property
    def within(self) -> Sequence[Thing]:
        return _within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().set_alias(self.dev, self.alias)

    def __str__(self) -> str:
        return f"ip link set {self.dev} alias {shlex.quote(self.alias)}"


class Veth(Step, frozen=True, kw_only=True):
    """A veth pair, born where its ends belong: one on the bridge, up; the other in the sandbox."""

    name: str
    mac: str
    mtu: int
    master: str
    peer: str
    peer_mac: str
    at: str
    alias: str

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", "", self.name), ("link", self.at, self.peer))

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().add_veth(
            self.name,
            mac=self.mac,
            mtu=self.mtu,
            master=self.master,
            peer=self.peer,
            peer_mac=self.peer_mac,
            peer_netns=self.at,
        )

    def delete(self, kernel: Kernel) -> None:
        _delete_link(kernel, self.name, "veth", self.mac, self.alias)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.name)
        if link is None or not link.up:
            raise Drift(f"interface {self.name} is {'down' if link else 'gone'}")
        bridge = kernel.netlink().link(self.master)
        if bridge is None or link.master != bridge.ifindex:
            raise Drift(f"interface {self.name} is no port of {self.master}")
        peer = kernel.netlink(self.at).link(self.peer)
        if peer is None or peer.mac != self.peer_mac:
            raise Drift(f"interface {self.peer} in {self.at} is {'changed' if peer else 'gone'}")

    def undo(self) -> str:
        return f"ip link del {self.name}"

    def __str__(self) -> str:
        return (
            f"ip link add {self.name} address {self.mac} mtu {self.mtu} master {self.master} up "
            f"type veth peer name {self.peer} address {self.peer_mac} mtu {self.mtu} "
            f"netns {_netns_argument(self.at)}"
        )


class Port(Step, frozen=True, kw_only=True):
    """A bridge port's owner, and hairpin: a container may meet itself through a published port."""

    dev: str
    alias: str

    @property
    def within(self) -> Sequence[Thing]:
        return _within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().set_port(self.dev, alias=self.alias, hairpin=True)

    def __str__(self) -> str:
        alias = shlex.quote(self.alias)
        return f"ip link set {self.dev} alias {alias} type bridge_slave hairpin on"


class Address(Step, frozen=True, kw_only=True):
    """An address on an interface."""

    dev: str
    address: IPv4Interface
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_address(self.dev, self.address)

    def delete(self, kernel: Kernel) -> None:
        with _gone_is_success():
            kernel.netlink(self.at).delete_address(self.dev, self.address)

    def check(self, kernel: Kernel) -> None:
        found = [address for _, address in kernel.netlink(self.at).addresses(self.dev)]
        if self.address not in found:
            raise Drift(f"address {self.address} is missing on {self.dev}")

    def undo(self) -> str:
        return f"{_ip(self.at)} addr del {self.address} dev {self.dev}"

    def __str__(self) -> str:
        brd = " brd +" if self.address.network.prefixlen < 31 else ""
        return f"{_ip(self.at)} addr add {self.address}{brd} dev {self.dev}"


class PortReady(Step, frozen=True, kw_only=True):
    """A bridge port forwards: until the kernel has seen to that, first packets are lost.

    It does so when it next looks after carriers, which on a busy host may be a second later.
    """

    dev: str

    @property
    def within(self) -> Sequence[Thing]:
        return _within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        for _ in range(_READY_TRIES):
            link = kernel.netlink().link(self.dev)  # since Linux 6.8 the question itself settles it
            if link is None or link.port_state in (None, _FORWARDING):
                return
            time.sleep(_READY_PAUSE_S)

    def __str__(self) -> str:
        ready = f"bridge link show dev {self.dev} | grep -q forwarding"
        return f"timeout 2 sh -c 'until {ready}; do sleep 0.01; done' || true"


class DefaultRoute(Step, frozen=True, kw_only=True):
    """The way out of a sandbox, in place of the one it had (`was_dev`, `was_gateway`)."""

    dev: str
    gateway: IPv4Address
    at: str
    was_dev: str | None = None
    was_gateway: IPv4Address | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, self.dev) if self.was_dev is None else _within(self.at, None)

    def add(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        if self.was_dev is None:
            netlink.add_route(self.dev, None, str(self.gateway))
        else:
            netlink.replace_default(self.dev, str(self.gateway))

    def delete(self, kernel: Kernel) -> None:
        if not kernel.exists(self.at):
            return
        netlink = kernel.netlink(self.at)
        link = netlink.link(self.dev)
        ours = (str(self.gateway), link.ifindex if link else None)
        ways = [(r.gateway, r.ifindex) for r in netlink.routes() if r.dst is None]
        # none at all: it went with the interface, and handing it on is what was refused last time
        if ours not in ways and (ways or self.was_dev is None):
            return
        with _gone_is_success():
            if self.was_dev is None:
                netlink.delete_route(self.dev, None, str(self.gateway))
            else:
                netlink.replace_default(self.was_dev, str(self.was_gateway))

    def check(self, kernel: Kernel) -> None:
        # which of several networks has the route is not for this one to say
        if all(r.dst is not None for r in kernel.netlink(self.at).routes()):
            raise Drift(f"the default route via {self.gateway} is missing in {self.at}")

    def undo(self) -> str:
        if self.was_dev is None:
            return f"{_ip(self.at)} route del default via {self.gateway} dev {self.dev}"
        was = f"via {self.was_gateway} dev {self.was_dev}"
        return f"{_ip(self.at)} route replace default {was}"

    def __str__(self) -> str:
        verb = "add" if self.was_dev is None else "replace"
        return f"{_ip(self.at)} route {verb} default via {self.gateway} dev {self.dev}"


class Route(Step, frozen=True, kw_only=True):
    """A route of a table of its own; `dst` None is the default, `gateway` None is on-link."""

    dev: str
    table: int
    at: str
    dst: IPv4Network | None = None
    gateway: IPv4Address | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_route(self.dev, self.dst, self._via, table=self.table)

    def delete(self, kernel: Kernel) -> None:
        with _gone_is_success():
            kernel.netlink(self.at).delete_route(self.dev, self.dst, self._via, table=self.table)

    @property
    def _via(self) -> str | None:
        return None if self.gateway is None else str(self.gateway)

    def undo(self) -> str:
        return f"{_ip(self.at)} route del {self._text}"

    @property
    def _text(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        scope = "" if self.gateway else " scope link"
        return f"{self.dst or 'default'}{via} dev {self.dev}{scope} table {self.table}"

    def __str__(self) -> str:
        return f"{_ip(self.at)} route add {self._text}"


class RuleFrom(Step, frozen=True, kw_only=True):
    """What is sent from an address follows the routes of a table."""

    address: IPv4Address
    table: int
    at: str

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, None)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_rule(str(self.address), self.table)

    def delete(self, kernel: Kernel) -> None:
        with _gone_is_success():
            kernel.netlink(self.at).delete_rule(str(self.address), self.table)

    def check(self, kernel: Kernel) -> None:
        if (str(self.address), self.table) not in kernel.netlink(self.at).rules():
            raise Drift(f"the rule for answers from {self.address} is missing in {self.at}")

    def undo(self) -> str:
        return f"{_ip(self.at)} rule del from {self.address} table {self.table}{_PRIORITY}"

    def __str__(self) -> str:
        return f"{_ip(self.at)} rule add from {self.address} table {self.table}{_PRIORITY}"


class Forwarding(Step, frozen=True, kw_only=True):
    """IPv4 forwarding, on; and what the kernel overwrites along with it.

    A write to ip_forward sets forwarding of every interface, and accept_redirects the other way
    round (inet_forward_change in net/ipv4/devinet.c). `was` holds those values that writing the
    old ip_forward alone would not bring back.
    """

    was: dict[str, str] = {}

    def prepare(self, kernel: Kernel) -> Step | None:
        if kernel.sysctl(_IP_FORWARD) == "1":
            return None
        before = kernel.sysctls(_CONF, "forwarding")
        unusual = {key: value for key, value in before.items() if value != "0"}
        if (redirects := kernel.sysctl(_REDIRECTS)) not in (None, "1"):
            unusual[_REDIRECTS] = str(redirects)
        return Forwarding(was=unusual)

    def add(self, kernel: Kernel) -> None:
        kernel.set_sysctl(_IP_FORWARD, "1")

    def delete(self, kernel: Kernel) -> None:
        if kernel.sysctl(_IP_FORWARD) != "1":
            return  # somebody has switched it off since
        kernel.set_sysctl(_IP_FORWARD, "0")
        for key, value in self.was.items():
            if kernel.sysctl(key) is not None:
                kernel.set_sysctl(key, value)

    def check(self, kernel: Kernel) -> None:
        if kernel.sysctl(_IP_FORWARD) != "1":
            raise Drift("net.ipv4.ip_forward is 0: nothing is forwarded to or from containers")

    def undo(self) -> str:
        was = "".join(f" {_dotted(key)}={value}" for key, value in self.was.items())
        return f"sysctl -qw net.ipv4.ip_forward=0{was}"

    def __str__(self) -> str:
        return "sysctl -qw net.ipv4.ip_forward=1"


class Sysctl(Step, frozen=True, kw_only=True):
    """A kernel parameter (`key` as its path below /proc/sys) and what it was before."""

    key: str
    value: str
    was: str | None = None
    dev: str | None = None
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return _within(self.at, self.dev) if self.dev else _within(self.at, None)

    def prepare(self, kernel: Kernel) -> Step | None:
        if self.dev is not None:  # goes with its interface, which need not exist yet
            return self
        was = kernel.sysctl(self.key, self.at)
        return None if was == self.value else msgspec.structs.replace(self, was=was)

    def add(self, kernel: Kernel) -> None:
        with suppress(FileNotFoundError):  # a kernel without IPv6 has nothing to switch off
            kernel.set_sysctl(self.key, self.value, self.at)

    def delete(self, kernel: Kernel) -> None:
        # put back only if it is still ours: somebody may have set it since
        if self.was is not None and kernel.sysctl(self.key, self.at) == self.value:
            kernel.set_sysctl(self.key, self.was, self.at)

    def check(self, kernel: Kernel) -> None:
        found = kernel.sysctl(self.key, self.at)
        if found not in (None, self.value):
            raise Drift(f"{_dotted(self.key)} is {found}, not {self.value}")

    def undo(self) -> str:
        return f"{_enter(self.at)}sysctl -qw {_dotted(self.key)}={self.was}" if self.was else ""

    def __str__(self) -> str:
        return f"{_enter(self.at)}sysctl -qw {_dotted(self.key)}={self.value}"


class Tables(Step, frozen=True, kw_only=True):
    """What all firewall rules stand on."""

    def prepare(self, kernel: Kernel) -> Step | None:
        if not kernel.firewall.script():
            return None  # the back end `none` has no tables
        if kernel.firewall.is_open():
            raise Conflict(
                "the firewall already holds netkit's tables, made from another state directory",
                hint="use that state directory, or remove its networks first "
                "(if it is lost: nft delete table ip netkit; nft delete table bridge netkit)",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.open()

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.close()

    def check(self, kernel: Kernel) -> None:
        if not kernel.firewall.is_open():
            raise Drift("netkit's firewall tables are gone")

    def undo(self) -> str:
        return "nft 'delete table ip netkit; delete table bridge netkit'"

    def __str__(self) -> str:
        return f"nft -f - <<'END'\n{_nftables().script()}END"


class Rules(Step, frozen=True, kw_only=True):
    """Firewall rules, in one transaction.

    Conntrack keeps a flow on its old path for as long as packets come, so a client would go on
    talking to a published port's former owner, or to nobody. Hence such flows are forgotten: those
    of UDP when a port comes (a TCP client notices by itself), all when it goes.
    """

    rules: tuple[Isolate | Masquerade | Guard | Publish, ...]

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.add(self.rules)
        try:
            if udp := [rule for rule in self._published if rule.protocol == "udp"]:
                kernel.forget_flows(*udp)
        except BaseException:
            kernel.firewall.delete(self.rules)
            raise

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.delete(self.rules)
        if published := self._published:
            kernel.forget_flows(*published)

    @property
    def _published(self) -> Sequence[Publish]:
        return [rule for rule in self.rules if isinstance(rule, Publish)]

    def check(self, kernel: Kernel) -> None:
        if missing := kernel.firewall.check(self.rules):
            raise Drift("the firewall lacks: " + "; ".join(missing))

    def undo(self) -> str:
        return _nft(_nftables().lines(self.rules, "delete"))

    def __str__(self) -> str:
        flows = [
            f"\nconntrack -D -p udp --dport {port} 2>/dev/null || true"
            for rule in self._published
            if rule.protocol == "udp"
            for port in range(rule.host_port, rule.host_port + rule.count)
        ]
        return _nft(_nftables().lines(self.rules)) + "".join(flows)


class Directory(Step, frozen=True, kw_only=True):
    """A directory for files of ours; removed again if it is empty then."""

    durable: ClassVar[bool] = True
    path: str

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if kernel.exists(self.path) else self

    def add(self, kernel: Kernel) -> None:
        kernel.make_directory(self.path)

    def delete(self, kernel: Kernel) -> None:
        kernel.remove_directory(self.path)

    def undo(self) -> str:
        return f"rmdir --ignore-fail-on-non-empty {shlex.quote(self.path)}"

    def __str__(self) -> str:
        return f"mkdir -p {shlex.quote(self.path)}"


class File(Step, frozen=True, kw_only=True):
    """A file that was not there before; one that was is somebody else's and stays as it is."""

    durable: ClassVar[bool] = True
    path: str
    content: str

    @property
    def makes(self) -> Sequence[Thing]:
        return (("file", self.path),)

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if kernel.exists(self.path) else self

    def add(self, kernel: Kernel) -> None:
        kernel.write_file(self.path, self.content)

    def delete(self, kernel: Kernel) -> None:
        kernel.remove_file(self.path)

    def check(self, kernel: Kernel) -> None:
        if not kernel.exists(self.path):
            raise Drift(f"{self.path} is gone")

    def undo(self) -> str:
        return f"rm -f {shlex.quote(self.path)}"

    def __str__(self) -> str:
        text = (
            self.content if self.content.endswith("\n") or not self.content else self.content + "\n"
        )
        return f"cat > {shlex.quote(self.path)} <<'END'\n{text}END"


class HostsEntry(Step, frozen=True, kw_only=True):
    """A line of our own in a hosts file; every other line stays, byte for byte."""

    durable: ClassVar[bool] = True
    path: str
    address: IPv4Address
    names: tuple[str, ...]

    @property
    def within(self) -> Sequence[Thing]:
        return (("file", self.path),)

    def add(self, kernel: Kernel) -> None:
        self._edit(kernel, hosts.add)

    def delete(self, kernel: Kernel) -> None:
        with suppress(FileNotFoundError):
            self._edit(kernel, hosts.remove)

    def _edit(
        self, kernel: Kernel, edit: Callable[[str, IPv4Address, tuple[str, ...]], str]
    ) -> None:
        kernel.edit_file(self.path, lambda text: edit(text, self.address, self.names))

    def undo(self) -> str:
        line = shlex.quote(f"{self.address}\t{' '.join(self.names)}")
        new = f"{self.path}.new"
        return f"grep -vxF {line} {self.path} > {new}; cat {new} > {self.path}; rm {new}"

    def __str__(self) -> str:
        line = f"{self.address}\t{' '.join(self.names)}"
        return f"echo {shlex.quote(line)} >> {shlex.quote(self.path)}"


class BindMount(Step, frozen=True, kw_only=True):
    """A file of ours over one in a running process's own mount namespace."""

    source: str
    target: str
    mnt: str

    def add(self, kernel: Kernel) -> None:
        kernel.inject(self.mnt, self.source, self.target)

    def delete(self, kernel: Kernel) -> None:
        kernel.eject(self.mnt, self.source, self.target)

    def undo(self) -> str:
        return f"nsenter --mount={self.mnt} umount {self.target}"

    def __str__(self) -> str:
        return f"nsenter --mount={self.mnt} mount --bind {shlex.quote(self.source)} {self.target}"


AnyStep = (
    Netns
    | LinkUp
    | Bridge
    | Alias
    | Veth
    | Port
    | Address
    | PortReady
    | DefaultRoute
    | Route
    | RuleFrom
    | Forwarding
    | Sysctl
    | Tables
    | Rules
    | Directory
    | File
    | HostsEntry
    | BindMount
)
Plan = tuple[Step, ...]


# -- the verbs over plans


def _no_point(name: str) -> None:
    """Nothing happens here."""


# Called before and after every step with a name like "add Veth before"; tests make it die there.
point: Callable[[str], None] = _no_point


def prepare(plan: Plan, kernel: Kernel) -> Plan:
    """The steps of *plan* there is a need for, each with what it will replace."""
    prepared = []
    for step in plan:
        with _translated(step):
            if (ready := step.prepare(kernel)) is not None:
                prepared.append(ready)
    return tuple(prepared)


def add(plan: Plan, kernel: Kernel) -> None:
    """Add every step; if one fails, delete those added, last first, and raise its error."""
    for done, step in enumerate(plan):
        try:
            point(f"add {type(step).__name__} before")
            with _translated(step):
                step.add(kernel)
            point(f"add {type(step).__name__} after")
        except BaseException as error:
            # a step that was refused did nothing; one that was interrupted may have done it all
            added = plan[:done] if isinstance(error, Exception) else plan[: done + 1]
            try:
                delete(added, kernel)
            except ExceptionGroup as group:
                for left in group.exceptions:
                    error.add_note(f"and could not be undone: {left}")
            raise


def delete(plan: Plan, kernel: Kernel, going: Iterable[Thing] = ()) -> None:
    """Delete every step, backwards and past errors; raise them all as one ExceptionGroup.

    What dies with a thing that another step made is left to that step; *going* are such things
    made by other plans that are being deleted as well.
    """
    errors: list[Exception] = []
    for step in _to_delete(plan, going):
        point(f"delete {type(step).__name__} before")
        try:
            with _translated(step.undo() or step):
                step.delete(kernel)
        except Exception as error:
            errors.append(error)
        point(f"delete {type(step).__name__} after")
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(plan)} steps could not be undone", errors)


def _to_delete(plan: Plan, going: Iterable[Thing]) -> list[Step]:
    gone = {*going, *made(plan)}
    return [step for step in reversed(plan) if gone.isdisjoint(step.within)]


def made(plan: Plan) -> set[Thing]:
    """The things that take along what is within them."""
    return {thing for step in plan for thing in step.makes}


def lines(plan: Plan) -> list[str]:
    """What `add` does, as an operator would type it."""
    return [str(step) for step in plan]


def undo_lines(plan: Plan, going: Iterable[Thing] = ()) -> list[str]:
    """What `delete` does, as an operator would type it."""
    return [line for step in _to_delete(plan, going) if (line := step.undo())]


def check(plan: Plan, kernel: Kernel) -> list[Drift]:
    """All that is not as the plan says."""
    drifts = []
    for step in plan:
        try:
            step.check(kernel)
        except Drift as drift:
            drifts.append(drift)
        except OSError as error:
            drifts.append(Drift(f"cannot see whether `{step}` still holds: {error.strerror}"))
    return drifts


def durable(plan: Plan) -> Plan:
    """The steps that outlive a reboot."""
    return tuple(step for step in plan if step.durable)


def encode(plan: Iterable[Step]) -> str:
    """The stable text of a plan: JSON, each step tagged with its class."""
    return model.encode(tuple(plan))


def decode(text: str) -> Plan:
    return model.decode(text, tuple[AnyStep, ...])


class _translated:
    """OSError becomes KernelRefused with the step's own line; netkit's errors pass."""

    def __init__(self, step: Step | str) -> None:
        self.step = step

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, NetkitError):
            line = _one_line(str(self.step))
            reason = error.strerror or str(error)
            hint = _HINTS.get(error.errno or 0)
            raise KernelRefused(f"the kernel refused `{line}`: {reason}", hint=hint) from error


def _one_line(text: str) -> str:
    """The line of a step for a message: of a script, its first."""
    first, _, rest = text.partition("\n")
    return f"{first.partition(' <<')[0]} <<< {rest.partition(chr(10))[0]} …" if rest else first


_HINTS = {
    errno.EPERM: "netkit needs CAP_NET_ADMIN: run it as root, or inside `netkit unshare`",
    errno.EACCES: "netkit needs CAP_NET_ADMIN: run it as root, or inside `netkit unshare`",
    errno.EOPNOTSUPP: "this kernel lacks bridge, veth or nf_tables: `zcat /proc/config.gz` tells",
    errno.EMSGSIZE: "too many ports for one transaction: a range that keeps its numbers, "
    "-p 8000-8999:8000-8999, is one element however long",
    errno.EXFULL: "a bridge holds 1023 ports at most: make another network",
}


# -- helpers of several steps


def _dotted(key: str) -> str:
    """The key as sysctl(8) takes it: a dot within an interface's name becomes a slash."""
    return key.translate(str.maketrans("./", "/."))


def _within(at: str | None, dev: str | None) -> Sequence[Thing]:
    """An interface goes with its namespace; on the host side, what is on it goes with it."""
    things: list[Thing] = []
    if dev is not None:
        things.append(("link", at or "", dev))
    if at is not None:
        things.append(("netns", at))
    return things


def _delete_link(kernel: Kernel, name: str, kind: str, mac: str, alias: str) -> None:
    link = kernel.netlink().link(name)
    if link is None or link.kind != kind or (link.mac != mac and link.alias != alias):
        return
    with _gone_is_success():
        kernel.netlink().delete_link(name)


class _gone_is_success:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        gone = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EADDRNOTAVAIL)
        return isinstance(error, OSError) and error.errno in gone


def _name(at: str) -> str | None:
    """The name `ip netns` knows a namespace by, if it has one."""
    head, _, name = at.rpartition("/")
    return name if head == "/run/netns" else None


def _ip(at: str | None) -> str:
    if at is None:
        return "ip"
    name = _name(at)
    return f"ip -n {name}" if name else f"nsenter --net={shlex.quote(at)} ip"


def _nftables() -> Firewall:
    """A plan prints as nft's lines, whichever back end will carry it out."""
    from netkit import firewall

    return firewall.load("nftables")


def _nft(lines: Sequence[str]) -> str:
    if len(lines) == 1:
        return f"nft {shlex.quote(lines[0])}"
    return "nft -f - <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END"


def _enter(at: str | None) -> str:
    if at is None:
        return ""
    name = _name(at)
    return f"ip netns exec {name} " if name else f"nsenter --net={shlex.quote(at)} "


def _netns_argument(at: str) -> str:
    parts = at.split("/")
    if parts[:2] == ["", "proc"] and parts[3:] == ["ns", "net"]:
        return parts[2]
    return _name(at) or shlex.quote(at)
