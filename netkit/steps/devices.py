"""Interfaces other than bridge and veth: made in a sandbox, or found on the host.

A Device bears its owner's alias, and from birth a MAC derived from its owner or, where it has that
of another interface, a parent and number that no other can have: by these it is known to be ours.

Source   ip-link(8), bridge(8); drivers/net/macvlan.c, ipvlan, tun.c, vrf.c; net/8021q; dev_addr(9)
"""

from __future__ import annotations

import errno
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from netkit import addresses
from netkit.errors import Conflict, Drift, NotFound
from netkit.kernel import Kernel
from netkit.kernel.netlink import Link, Vlan, interim
from netkit.steps.base import (
    Step,
    Thing,
    enter,
    gone_is_success,
    ip,
    netns_argument,
    within,
)

_FREE_TRIES, _FREE_PAUSE_S = 400, 0.005
_LAST = 9999  # a route's metric: of several, the least is taken


class Parent(Step, frozen=True, kw_only=True):
    """An interface of the host's that others are made on is up; set down again if nobody uses it.

    `free`: it must not be a bridge's port, for what sits on it would get nothing from outside.
    """

    dev: str
    free: bool = True

    def prepare(self, kernel: Kernel) -> Step | None:
        link = kernel.netlink().link(self.dev)
        if link is None:
            raise _no_parent(self.dev)
        if self.free and link.port:
            raise Conflict(
                f"cannot make interfaces on '{self.dev}': it is a port of a bridge",
                hint="make them on an interface of its own, or use driver bridge with --bridge",
            )
        return None if link.up else self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().set_up(self.dev)

    def delete(self, kernel: Kernel) -> None:
        netlink = kernel.netlink()
        link = netlink.link(self.dev)
        if link is None or not link.up or link.master is not None:
            return
        found = [address for _, address in netlink.addresses(self.dev)]
        if all(address.is_link_local for address in found):  # else somebody uses it by now
            with gone_is_success():
                netlink.set_up(self.dev, up=False)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.dev)
        if not (link and link.up):
            raise Drift(f"interface {self.dev} is {'down' if link else 'gone'}")

    def undo(self) -> str:
        return f"ip link set {self.dev} down"

    def __str__(self) -> str:
        return f"ip link set {self.dev} up"


def _no_parent(name: str) -> NotFound:
    return NotFound(
        f"no interface '{name}' on the host to make others on",
        hint="`ip link` lists them; of a NAME.VLAN that is not there NAME must be",
    )


class Device(Step, frozen=True, kw_only=True):
    """A macvlan, ipvlan, vlan, dummy or vrf, on a parent of the host's or on none.

    `mac` and `mtu` None: the parent's. `existing`: one of that name and kind that is there already
    is used, set up, and left as it is. `inside`: the parent is in the namespace at `at`, too.
    """

    name: str
    kind: str
    alias: str
    parent: str | None = None
    at: str | None = None
    mac: str | None = None
    mtu: int | None = None
    up: bool = False
    options: Mapping[str, str | int] = {}
    existing: bool = False
    inside: bool = False

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", self.at or "", self.name),)

    @property
    def _origin(self) -> str | None:
        """The namespace the parent is in."""
        return self.at if self.inside else None

    # within nothing: a namespace dies when the kernel finds the time, and until then its devices
    # hold their MAC, their VLAN, or the whole parent

    def prepare(self, kernel: Kernel) -> Step | None:
        link = None if self.at else kernel.netlink().link(self.name)
        if link is None:
            if self.parent is not None:
                self._look_at_parent(kernel, self.parent)
            return self
        if self.existing and link.kind == self.kind:
            return Parent(dev=self.name, free=False).prepare(kernel)
        raise Conflict(
            f"an interface named '{self.name}' exists already ({link.kind or 'physical'})",
            hint="choose another name, or remove it",
        )

    def _look_at_parent(self, kernel: Kernel, parent: str) -> None:
        """The kernel's own words for these would be "Invalid argument" and "Network is down"."""
        link = kernel.netlink(self._origin).link(parent)
        if link is None:
            if self.existing:
                raise _no_parent(self.name)
            return  # it may be made by the same plan
        if self.mtu is not None and self.mtu > link.mtu:
            raise Conflict(
                f"cannot make '{self.name}' with an MTU of {self.mtu} on '{parent}', "
                f"which has {link.mtu}",
                hint="give a smaller --mtu, or leave it out: then it is the parent's",
            )
        if self.up and not link.up:
            raise Conflict(
                f"cannot make '{self.name}' on '{parent}', which is down",
                hint=f"ip link set {parent} up",
            )

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self._origin).add_link(
            self.name,
            self.kind,
            parent=self.parent,
            at=None if self.inside else self.at,
            mac=self.mac,
            mtu=self.mtu,
            up=self.up,
            options=self.options,
        )
        try:
            kernel.netlink(self.at).set_alias(self.name, self.alias)
        except BaseException:
            self.delete(kernel)
            raise

    def delete(self, kernel: Kernel) -> None:
        names = (self.name, interim(self.name)) if self.at else (self.name,)
        with gone_is_success():
            netlink = kernel.netlink(self.at)
            for name in names:
                link = netlink.link(name)
                if link is not None and self._is_ours(link):
                    netlink.delete_link(name)
                    return

    def _is_ours(self, link: Link) -> bool:
        if link.kind != self.kind or link.alias not in (None, self.alias):
            return False
        born = link.mac == self.mac if self.mac else self.options.items() <= link.options.items()
        return link.alias == self.alias or born

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.name)
        if link is None or link.kind != self.kind:
            where = f" in {self.at}" if self.at else ""
            raise Drift(f"{self.kind} {self.name}{where} is {'not as made' if link else 'gone'}")
        if self.up and not link.up:
            raise Drift(f"{self.kind} {self.name} is down")
        self._check_settings(link)
        if self.parent is not None and not kernel.netlink(self._origin).is_up(self.parent):
            raise Drift(f"{self.parent}, which {self.kind} {self.name} is on, is down or gone")

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        link = kernel.netlink(self.at).link(self.name)
        if link is None:
            return (self,)
        if not self._is_ours(link):
            self.check(kernel)  # somebody has made something else by that name
        if self.at is None:
            return (Parent(dev=self.name, free=False),)
        return (DeviceUp(dev=self.name, at=self.at),)

    def _check_settings(self, link: Link) -> None:
        if self.mac not in (None, link.mac):
            raise Drift(f"the MAC of {self.name} is {link.mac}, not {self.mac}")
        for word, value in self.options.items():
            if link.options.get(word) != value:
                raise Drift(f"{self.name} has {word} {link.options.get(word)}, not {value}")

    def undo(self) -> str:
        return f"{ip(self.at)} link del {self.name}"

    def __str__(self) -> str:
        words = [f"{ip(self._origin)} link add"]
        words += [f"link {self.parent}"] if self.parent else []
        words += [f"name {self.name}"]
        words += [f"netns {netns_argument(self.at)}"] if self.at and not self.inside else []
        words += [f"address {self.mac}"] if self.mac else []
        words += [f"mtu {self.mtu}"] if self.mtu else []
        words += ["up"] if self.up else []
        words += [f"type {self.kind}"]
        words += [_option(self.kind, word, value) for word, value in self.options.items()]
        return f"{' '.join(words)}\n{_set_alias(self.at, self.name, self.alias)}"


_FLAGS = {("ipvlan", "private"), ("ipvlan", "vepa"), ("macvlan", "nopromisc")}


def _option(kind: str, word: str, value: str | int) -> str:
    return word if (kind, word) in _FLAGS else f"{word} {value}"


def _set_alias(at: str | None, dev: str, alias: str) -> str:
    return f"{ip(at)} link set {dev} alias {shlex.quote(alias)}"


class DeviceUp(Step, frozen=True, kw_only=True):
    """A device in a sandbox is set up, once its MAC is free.

    A namespace that was deleted dies when the kernel finds the time; until then a macvlan in it has
    its MAC, which follows from the address that may be leased again.
    """

    dev: str
    at: str

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        for tries in reversed(range(_FREE_TRIES)):
            try:
                kernel.netlink(self.at).set_up(self.dev)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not tries:
                    raise
                time.sleep(_FREE_PAUSE_S)
            else:
                return

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.dev)
        if not (link and link.up):
            raise Drift(f"interface {self.dev} is {'down' if link else 'gone'}")

    def __str__(self) -> str:
        return f"{ip(self.at)} link set {self.dev} up"


class Tap(Step, frozen=True, kw_only=True):
    """A tap device in a sandbox: frames to and from whatever program opens it there."""

    name: str
    at: str
    mac: str
    mtu: int | None = None
    owner: int | None = None
    group: int | None = None
    multi_queue: bool = False
    label: str | None = None  # the SELinux context of whoever makes it

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", self.at, self.name),)

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, None)

    def add(self, kernel: Kernel) -> None:
        kernel.add_tuntap(
            self.name,
            "tap",
            at=self.at,
            mac=self.mac,
            mtu=self.mtu,
            owner=self.owner,
            group=self.group,
            multi_queue=self.multi_queue,
            label=self.label,
        )

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            netlink = kernel.netlink(self.at)
            link = netlink.link(self.name)
            if link is not None and (link.kind, link.mac) == ("tun", self.mac):
                netlink.delete_link(self.name)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.name)
        if link is None or link.kind != "tun":
            raise Drift(f"tap {self.name} in {self.at} is {'not as made' if link else 'gone'}")
        if link.mac != self.mac:
            raise Drift(f"the MAC of {self.name} is {link.mac}, not {self.mac}")

    def undo(self) -> str:
        return f"{ip(self.at)} tuntap del {self.name} mode tap"

    def __str__(self) -> str:
        make = f"{ip(self.at)} tuntap add {self.name} mode tap"
        if self.label is not None:
            label = shlex.quote(self.label)
            make = f"{enter(self.at)}runcon {label} ip tuntap add {self.name} mode tap"
        words = [make]
        words += [f"user {self.owner}"] if self.owner is not None else []
        words += [f"group {self.group}"] if self.group is not None else []
        words += ["multi_queue"] if self.multi_queue else []
        mtu = f" mtu {self.mtu}" if self.mtu else ""
        return f"{' '.join(words)}\n{ip(self.at)} link set {self.name} address {self.mac}{mtu}"


class Enslave(Step, frozen=True, kw_only=True):
    """An interface is a port of a bridge, or a member of a VRF, that is there."""

    dev: str
    master: str
    kind: str  # the master's
    at: str | None = None

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    def add(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        master = netlink.link(self.master)
        if master is None or master.kind != self.kind:
            where = f" in {self.at}" if self.at else ""
            raise NotFound(
                f"no {self.kind} '{self.master}'{where} for {self.dev} to join",
                hint=f"ip link add {self.master} type {self.kind}, there",
            )
        netlink.set_link(self.dev, master=self.master)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            netlink = kernel.netlink(self.at)
            link, master = netlink.link(self.dev), netlink.link(self.master)
            if link is not None and master is not None and link.master == master.ifindex:
                netlink.set_link(self.dev, master="")

    def check(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        link, master = netlink.link(self.dev), netlink.link(self.master)
        if link is None or master is None or link.master != master.ifindex:
            raise Drift(f"interface {self.dev} is no member of {self.master}")

    def undo(self) -> str:
        return f"{ip(self.at)} link set {self.dev} nomaster"

    def __str__(self) -> str:
        return f"{ip(self.at)} link set {self.dev} master {self.master}"


# -- VLANs on a bridge


class Filtering(Step, frozen=True, kw_only=True):
    """A bridge looks at VLAN tags; and not any more, if it did not before."""

    dev: str

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    def prepare(self, kernel: Kernel) -> Step | None:
        link = kernel.netlink().link(self.dev)
        return None if link and link.options.get("vlan_filtering") == 1 else self

    def add(self, kernel: Kernel) -> None:
        kernel.netlink().set_options(self.dev, "bridge", {"vlan_filtering": 1})

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            link = kernel.netlink().link(self.dev)
            if link is not None and link.options.get("vlan_filtering") == 1:
                kernel.netlink().set_options(self.dev, "bridge", {"vlan_filtering": 0})

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink().link(self.dev)
        if link is None or link.options.get("vlan_filtering") != 1:
            raise Drift(f"bridge {self.dev} does not filter VLANs")

    def undo(self) -> str:
        return f"ip link set {self.dev} type bridge vlan_filtering 0"

    def __str__(self) -> str:
        return f"ip link set {self.dev} type bridge vlan_filtering 1"


class PortVlans(Step, frozen=True, kw_only=True):
    """The VLANs of a bridge port: `access`, of what bears no tag, and tagged ones.

    Not 1, which each port has from the start, unless `keep_default`. `own`: *dev* is the bridge
    itself, as a port of its own. They go with the port.
    """

    dev: str
    access: int | None = None
    trunk: tuple[tuple[int, int], ...] = ()  # first and last
    keep_default: bool = False
    own: bool = False

    @property
    def within(self) -> Sequence[Thing]:
        return within(None, self.dev)

    @property
    def _wanted(self) -> tuple[Vlan, ...]:
        access = () if self.access is None else (Vlan(self.access, self.access, True),)
        return (*access, *(Vlan(first, last) for first, last in self.trunk))

    @property
    def _drops(self) -> bool:
        named = any(vlan.first <= 1 <= vlan.last for vlan in self._wanted)
        return not self.keep_default and not named

    def add(self, kernel: Kernel) -> None:
        netlink = kernel.netlink()
        netlink.add_vlans(self.dev, *self._wanted, own=self.own)
        if self._drops and any(vlan[:2] == (1, 1) for vlan in netlink.vlans(self.dev)):
            netlink.delete_vlans(self.dev, Vlan(1, 1), own=self.own)

    def check(self, kernel: Kernel) -> None:
        found = kernel.netlink().vlans(self.dev)
        for vlan in self._wanted:
            if vlan not in found:
                raise Drift(f"port {self.dev} does not take VLAN {vlan.first}")

    def __str__(self) -> str:
        own = " self" if self.own else ""
        lines = []
        for first, last, access in self._wanted:
            span = str(first) if first == last else f"{first}-{last}"
            pvid = " pvid untagged" if access else ""
            lines.append(f"bridge vlan add dev {self.dev} vid {span}{pvid}{own}")
        if self._drops:
            lines.append(f"bridge vlan del dev {self.dev} vid 1{own}")
        return "\n".join(lines)


class DeviceRoute(Step, frozen=True, kw_only=True):
    """All that has no other way leaves by an interface, without a gateway; any other way wins."""

    dev: str
    at: str
    version: int = 4

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    @property
    def _anywhere(self) -> addresses.Network:
        return addresses.network("route", "::/0" if self.version == 6 else "0.0.0.0/0")

    def add(self, kernel: Kernel) -> None:
        kernel.netlink(self.at).add_route(self.dev, self._anywhere, None, metric=_LAST)

    def delete(self, kernel: Kernel) -> None:
        with gone_is_success():
            kernel.netlink(self.at).delete_route(self.dev, self._anywhere, None, metric=_LAST)

    def check(self, kernel: Kernel) -> None:
        netlink = kernel.netlink(self.at)
        index = (link := netlink.link(self.dev)) and link.ifindex
        ways = [r for r in netlink.routes(self.version) if not r.dst or not r.dst.prefixlen]
        if all(r.ifindex != index for r in ways):
            raise Drift(f"the default route by {self.dev} is missing in {self.at}")

    def undo(self) -> str:
        return f"{ip(self.at, self.version)} route del default dev {self.dev} metric {_LAST}"

    def __str__(self) -> str:
        return f"{ip(self.at, self.version)} route add default dev {self.dev} metric {_LAST}"


class Tune(Step, frozen=True, kw_only=True):
    """What an interface was not born with: its MAC, its MTU, how it queues and what it receives.

    `there`: it is there already, and may stay; then it gets back what it had.
    """

    dev: str
    at: str | None = None
    mac: str | None = None
    mtu: int | None = None
    txqlen: int | None = None
    promisc: bool | None = None
    allmulti: bool | None = None
    there: bool = False
    was: Mapping[str, str | int | bool] = {}

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev)

    @property
    def asked(self) -> Mapping[str, Any]:
        """What is to be changed, as `set_link` takes it."""
        return {word: value for word in _TUNED if (value := getattr(self, word)) is not None}

    def prepare(self, kernel: Kernel) -> Step | None:
        if not self.there:
            return self
        link = kernel.netlink(self.at).link(self.dev)
        if link is None:
            raise NotFound(f"no interface '{self.dev}' in {self.at or 'the host'}")
        return replace(self, was={word: getattr(link, word) for word in self.asked})

    def add(self, kernel: Kernel) -> None:
        try:
            kernel.netlink(self.at).set_link(self.dev, **self.asked)
        except BaseException:
            self.delete(kernel)  # the kernel changes one after the other
            raise

    def delete(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.dev) if self.was else None
        if link is None:
            return
        back: dict[str, Any] = {
            word: value
            for word, value in self.was.items()
            if getattr(link, word) == self.asked[word] != value
        }
        if back:
            with gone_is_success():
                kernel.netlink(self.at).set_link(self.dev, **back)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.dev)
        if link is None:
            raise Drift(f"interface {self.dev} in {self.at} is gone")
        for word, wanted in self.asked.items():
            found, what = getattr(link, word), _TUNED[word]
            if found != wanted:
                raise Drift(f"the {what} of {self.dev} is {_shown(found)}, not {_shown(wanted)}")

    def undo(self) -> str:
        return self._line(self.was) if self.was else ""

    def __str__(self) -> str:
        return self._line(self.asked)

    def _line(self, values: Mapping[str, object]) -> str:
        words = [f"{_TUNED_WORDS.get(word, word)} {_shown(each)}" for word, each in values.items()]
        return f"{ip(self.at)} link set {self.dev} {' '.join(words)}"


_TUNED = {
    "mac": "MAC",
    "mtu": "MTU",
    "txqlen": "queue length",
    "promisc": "promiscuous mode",
    "allmulti": "reception of all multicast",
}
_TUNED_WORDS = {"mac": "address", "txqlen": "txqueuelen"}


def _shown(value: object) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)
