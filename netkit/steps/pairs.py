"""A veth pair without a bridge: between the host and a sandbox, or between two sandboxes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from ipaddress import IPv6Address

from netkit.errors import Drift
from netkit.kernel import Kernel, announce
from netkit.steps.base import (
    Step,
    Thing,
    delete_link,
    gone_is_success,
    ip,
    netns_argument,
    within,
)
from netkit.steps.links import LinkUp

_READY_TRIES, _READY_PAUSE_S = 300, 0.005


class Pair(Step, frozen=True, kw_only=True):
    """A veth pair, each end born where it belongs: *name* in the namespace at *at*, up; the peer
    in that at *peer_at*, down until it has its addresses.
    """

    name: str
    mac: str
    mtu: int
    peer: str
    peer_mac: str
    alias: str
    at: str | None = None
    peer_at: str | None

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", self.at or "", self.name), ("link", self.peer_at or "", self.peer))

    @property
    def _ends(self) -> Sequence[tuple[str | None, str, str]]:
        return ((self.at, self.name, self.mac), (self.peer_at, self.peer, self.peer_mac))

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_veth(
            self.name,
            mac=self.mac,
            mtu=self.mtu,
            peer=self.peer,
            peer_mac=self.peer_mac,
            peer_netns=self.peer_at,
        )

    def delete(self, kernel: Kernel) -> None:
        # one end takes the other along; but its namespace may have gone, or gone out of reach
        for at, name, mac in self._ends[: 1 if self.at is None else 2]:
            with gone_is_success():
                if at is None or kernel.exists(at):
                    delete_link(kernel, name, "veth", mac, self.alias, at)

    def check(self, kernel: Kernel) -> None:
        for at, name, mac in self._ends:
            where = "" if at is None else f" in {at}"
            if at is not None and not kernel.exists(at):
                raise Drift(f"namespace {at} is gone, and interface {name} with it")
            link = kernel.netlink(at).link(name)
            if link is None or link.kind != "veth" or link.mac != mac:
                raise Drift(f"interface {name}{where} is {'changed' if link else 'gone'}")
            if not link.up and name == self.name:  # the other is set up by a step of its own
                raise Drift(f"interface {name}{where} is down")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        if all(kernel.netlink(at).link(name) is None for at, name, _ in self._ends):
            return (self,)
        return (LinkUp(dev=self.name, at=self.at),)

    def undo(self) -> str:
        return f"{ip(self.at)} link del {self.name}"

    def __str__(self) -> str:
        elsewhere = "" if self.peer_at is None else f" netns {netns_argument(self.peer_at)}"
        return (
            f"{ip(self.at)} link add {self.name} address {self.mac} mtu {self.mtu} up "
            f"type veth peer name {self.peer} address {self.peer_mac} mtu {self.mtu}{elsewhere}"
        )


class Ready(Step, frozen=True, kw_only=True):
    """An interface has noticed that its other end is up, and listens for who looks for its
    IPv6 `addresses`: what comes before that is lost, and is sent again a second later.

    The kernel sees to both when it finds the time, which on a busy host is not at once; since
    Linux 6.8 to ask after the former settles it.
    """

    dev: str
    at: str | None = None
    addresses: tuple[IPv6Address, ...] = ()

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        for _ in range(_READY_TRIES):
            link = kernel.netlink(self.at).link(self.dev)
            if link is None or (
                link.running
                and all(kernel.is_heard(self.at, self.dev, each) for each in self.addresses)
            ):
                return
            time.sleep(_READY_PAUSE_S)

    def __str__(self) -> str:
        ready = [f"{ip(self.at)} -o link show {self.dev} | grep -q 'state UP'"]
        for address in self.addresses:
            listening = f"{ip(self.at, 6)} maddr show dev {self.dev}"
            ready.append(f"{listening} | grep -qw {announce.group(address)}")
        until = " && ".join(ready)
        return f'timeout 2 sh -c "until {until}; do sleep 0.01; done" || true'
