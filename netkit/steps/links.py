"""Namespaces and links: a bridge, and the veth pair between it and a sandbox.

A link bears a MAC derived from its owner from birth, and an alias soon after: by these, and by its
name, it is known to be ours.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from netkit.addresses import Address
from netkit.errors import Conflict, Drift
from netkit.firewall import Firewall
from netkit.kernel import Kernel
from netkit.kernel.netlink import FORWARDED_GROUPS
from netkit.steps.base import (
    Step,
    Thing,
    delete_link,
    enter,
    gone_is_success,
    ip,
    netns_argument,
    within,
)
from netkit.steps.devices import Enslave

_FORWARDING = 3  # of a bridge port: BR_STATE_FORWARDING, linux/if_bridge.h
_READY_TRIES, _READY_PAUSE_S = 300, 0.005


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
            raise Drift(f"namespace {self.path} is gone", hint="netkit gc")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        self.check(kernel)  # another one would not be what was in it
        return ()

    def undo(self) -> str:
        return f"ip netns del {self.name}"

    def __str__(self) -> str:
        return f"ip netns add {self.name}"


class LinkUp(Step, frozen=True, kw_only=True):
    """An interface is set up. It is not set down again, for it goes with its namespace; unless
    `back` says that it was there before, and is somebody else's.
    """

    dev: str
    at: str | None = None
    fresh: bool = False  # made by the same plan, so there is nothing to look at yet
    back: bool = False

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if not self.fresh and kernel.netlink(self.at).is_up(self.dev) else self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).set_up(self.dev)

    def delete(self, kernel: Kernel) -> None:
        if self.back:
            with gone_is_success():
                kernel.netlink(self.at).set_up(self.dev, False)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.dev)
        if not (link and link.up):
            raise Drift(f"interface {self.dev} is {'down' if link else 'gone'}")

    def undo(self) -> str:
        return f"{ip(self.at)} link set {self.dev} down" if self.back else ""

    def __str__(self) -> str:
        return f"{ip(self.at)} link set {self.dev} up"


class OwnMac(Step, frozen=True, kw_only=True):
    """A bridge of somebody else's keeps its MAC when ports come and go.

    One that was given none has that of its lowest port; while it has no port, one of its own, and
    that it would lose with the last of ours. There is nothing to put back: the MAC stays.
    """

    dev: str
    mac: str

    def prepare(self, kernel: Kernel) -> Step | None:
        links = kernel.netlink().links()
        index = next((link.ifindex for link in links if link.name == self.dev), None)
        return None if any(link.master == index for link in links) else self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().set_link(self.dev, mac=self.mac)

    def __str__(self) -> str:
        return f"ip link set {self.dev} address {self.mac}"


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
        delete_link(kernel, self.name, "bridge", self.mac, self.alias)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.name)
        if link is None or link.kind != "bridge":
            raise Drift(f"bridge {self.name} is {'not as made' if link else 'gone'}")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        if kernel.netlink().link(self.name) is not None:
            self.check(kernel)  # somebody has made something else by that name
        return (self,)

    def undo(self) -> str:
        return f"ip link del {self.name}"

    def __str__(self) -> str:
        groups = f"group_fwd_mask {FORWARDED_GROUPS:#x}"
        return f"ip link add {self.name} address {self.mac} mtu {self.mtu} type bridge {groups}"


class Alias(Step, frozen=True, kw_only=True):
    """The owner's name on a link."""

    dev: str
    alias: str
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).set_alias(self.dev, self.alias)

    def __str__(self) -> str:
        return f"{ip(self.at)} link set {self.dev} alias {shlex.quote(self.alias)}"


class Veth(Step, frozen=True, kw_only=True):
    """A veth pair, born where its ends belong: one on the bridge, up; the other in the sandbox.

    `tunable`: others may give the latter another MAC (a CNI plugin later in the chain).
    """

    name: str
    mac: str
    mtu: int
    master: str
    peer: str
    peer_mac: str
    at: str
    alias: str
    tunable: bool = False

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
        delete_link(kernel, self.name, "veth", self.mac, self.alias)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.name)
        if link is None or not link.up:
            raise Drift(f"interface {self.name} is {'down' if link else 'gone'}")
        bridge = kernel.netlink().link(self.master)
        if bridge is None or link.master != bridge.ifindex:
            raise Drift(f"interface {self.name} is no port of {self.master}")
        peer = kernel.netlink(self.at).link(self.peer)
        is_it = peer is not None and (
            peer.peer_index == link.ifindex if self.tunable else peer.mac == self.peer_mac
        )
        if not is_it:
            raise Drift(f"interface {self.peer} in {self.at} is {'changed' if peer else 'gone'}")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        if kernel.netlink().link(self.name) is None:
            return (self,)
        return (Enslave(dev=self.name, master=self.master, kind="bridge"), LinkUp(dev=self.name))

    def undo(self) -> str:
        return f"ip link del {self.name}"

    def __str__(self) -> str:
        return (
            f"ip link add {self.name} address {self.mac} mtu {self.mtu} master {self.master} up "
            f"type veth peer name {self.peer} address {self.peer_mac} mtu {self.mtu} "
            f"netns {netns_argument(self.at)}"
        )


class Port(Step, frozen=True, kw_only=True):
    """A bridge port's owner, and hairpin: a container may meet itself through a published port.

    `isolated` ports do not reach each other, but what is no port or not isolated: by the bridge
    itself, where the firewall does not see what that passes on, else as its rules say.
    """

    dev: str
    alias: str
    isolated: bool = False
    hairpin: bool = True

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        isolated = self.isolated and not kernel.firewall.sees_bridges
        kernel.netlink().set_port(
            self.dev, alias=self.alias, hairpin=self.hairpin, isolated=isolated
        )

    def check(self, kernel: Kernel) -> None:
        apart = self.isolated and not kernel.firewall.sees_bridges
        wanted = {"isolated": apart, "hairpin": self.hairpin}
        link = kernel.netlink().link(self.dev)
        port = wanted if link is None else link.port  # that it is gone, who made it tells
        if missing := [flag for flag, on in wanted.items() if on and flag not in port]:
            raise Drift(f"bridge port {self.dev} has no {' and no '.join(missing)}")

    def line(self, back_end: Firewall) -> str:
        apart = self.isolated and not back_end.sees_bridges
        return f"{self} isolated on" if apart else str(self)

    def __str__(self) -> str:
        alias, hairpin = shlex.quote(self.alias), "on" if self.hairpin else "off"
        return f"ip link set {self.dev} alias {alias} type bridge_slave hairpin {hairpin}"


class PortFlag(Step, frozen=True, kw_only=True):
    """What a bridge port that others made does besides ("hairpin", "isolated"); an interface that
    is no port does neither.
    """

    dev: str
    flag: str
    was: bool = False

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def prepare(self, kernel: Kernel) -> Step | None:
        link = kernel.netlink().link(self.dev)
        if link is None or link.port_state is None:
            return None
        return PortFlag(dev=self.dev, flag=self.flag, was=self.flag in link.port)

    def add(self, kernel: Kernel) -> None:
        self._set(kernel, True)

    def delete(self, kernel: Kernel) -> None:
        if not self.was:
            with gone_is_success():
                self._set(kernel, False)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.dev)
        if link is None or self.flag not in link.port:
            raise Drift(f"{self.dev} is {'gone' if link is None else f'not {self.flag}'}")

    def _set(self, kernel: Kernel, on: bool) -> None:
        flags: Any = {self.flag: on}
        kernel.netlink().set_port(self.dev, **flags)

    def undo(self) -> str:
        return "" if self.was else f"bridge link set dev {self.dev} {self.flag} off"

    def __str__(self) -> str:
        return f"bridge link set dev {self.dev} {self.flag} on"


class Isolation(Step, frozen=True, kw_only=True):
    """A bridge keeps a live port of ours from the others, or no longer: where no firewall does."""

    dev: str
    on: bool

    def add(self, kernel: Kernel) -> None:
        self._set(kernel, self.on)

    def delete(self, kernel: Kernel) -> None:
        self._set(kernel, not self.on)

    def _set(self, kernel: Kernel, on: bool) -> None:
        if not kernel.firewall.sees_bridges:
            with gone_is_success():
                kernel.netlink().set_port(self.dev, isolated=on)

    def line(self, back_end: Firewall) -> str:
        return "" if back_end.sees_bridges else str(self)

    def undo_line(self, back_end: Firewall) -> str:
        return "" if back_end.sees_bridges else self.undo()

    def undo(self) -> str:
        return str(replace(self, on=not self.on))

    def __str__(self) -> str:
        return f"bridge link set dev {self.dev} isolated {'on' if self.on else 'off'}"


class PortReady(Step, frozen=True, kw_only=True):
    """A bridge port forwards: until the kernel has seen to that, first packets are lost.

    It does so when it next looks after carriers, which on a busy host may be a second later.
    """

    dev: str

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def add(self, kernel: Kernel) -> None:
        for _ in range(_READY_TRIES):
            link = kernel.netlink().link(self.dev)  # since Linux 6.8 the question itself settles it
            if link is None or link.port_state in (None, _FORWARDING):
                return
            time.sleep(_READY_PAUSE_S)

    def __str__(self) -> str:
        ready = f"bridge link show dev {self.dev} | grep -q forwarding"
        return f"timeout 2 sh -c 'until {ready}; do sleep 0.01; done' || true"


class Announce(Step, frozen=True, kw_only=True):
    """Neighbours that remember another owner of these addresses are told whose they are now."""

    dev: str
    at: str
    mac: str  # "": that of the interface, whichever it is
    addresses: tuple[Address, ...]

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        link = None if self.mac else kernel.netlink(self.at).link(self.dev)
        kernel.announce(self.at, self.dev, (link and link.mac) or self.mac, self.addresses)

    def __str__(self) -> str:
        fours = [ip for ip in self.addresses if ip.version == 4]
        asks = [f"{enter(self.at)}arping -q -c1 -A -I {self.dev} {ip} || true" for ip in fours]
        asks += [
            f"{enter(self.at)}ndsend {ip} {self.dev} 2>/dev/null || true"
            for ip in self.addresses
            if ip.version == 6
        ]
        return "\n".join(asks)
