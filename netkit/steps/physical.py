"""An interface of the host's in a sandbox: it goes there, and comes back as it was.

Source   ip-link(8), ip-netns(8). What becomes of an interface that changes its namespace:
         __dev_change_net_namespace
"""

from __future__ import annotations

import errno
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress

from msgspec.structs import replace

from netkit import addresses
from netkit.errors import Conflict, Drift, NotFound
from netkit.kernel import Kernel
from netkit.kernel.netlink import LEARNT, Link, Route
from netkit.kernel.sysctl import key
from netkit.steps.base import Step, Thing, ip, netns_argument

_OURS = "netkit:"  # aliases begin so
_HOST = "$$"  # of a shell: the namespace it is typed in
_BY_KERNEL = 2  # the protocol of routes that come with addresses: RTPROT_KERNEL
_UNREACHABLE = (errno.EEXIST, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL)
# of an interface that returns these are as new; the ones that people set
_SETTINGS = {
    "net.ipv4.conf": (
        *("forwarding", "rp_filter", "arp_ignore", "arp_announce", "proxy_arp", "accept_local"),
        *("accept_redirects", "send_redirects", "route_localnet", "log_martians"),
    ),
    "net.ipv6.conf": (
        *("disable_ipv6", "forwarding", "accept_ra", "autoconf", "use_tempaddr", "addr_gen_mode"),
        "proxy_ndp",
    ),
}
_DEFAULT = "default"


class Kept(Step, frozen=True, kw_only=True):
    """What an interface was like on the host, to be so again."""

    mac: str | None = None
    mtu: int = 1500
    txqlen: int = 1000
    promisc: bool = False
    allmulti: bool = False
    group: int = 0
    up: bool = False
    alias: str | None = None
    master: str | None = None
    ips: tuple[addresses.Interface, ...] = ()
    routes: tuple[tuple[addresses.Network | None, addresses.Address | None, int | None], ...] = ()
    settings: Mapping[str, str] = {}


class Physical(Step, frozen=True, kw_only=True):
    """An interface of the host's in a sandbox; it comes back as it was.

    It is named by `dev`, or found by `mac` or `device` (a PCI address or a path below /sys). While
    it is away its alias is `alias`, which is the last thing to be put back: so what has the alias
    is ours, and not whole yet. `carry`: its addresses and routes go with it.

    `pin` is a second name for the sandbox's namespace, by which that outlives its processes until
    the device has been fetched from it: when a namespace dies, a physical interface returns by
    itself, nameless and bare, and all others die.
    """

    name: str
    at: str
    pin: str
    alias: str
    dev: str | None = None
    mac: str | None = None
    device: str | None = None
    carry: bool = False
    was: Kept = Kept()

    @property
    def makes(self) -> Sequence[Thing]:
        return (("link", self.at, self.name),)

    def prepare(self, kernel: Kernel) -> Step | None:
        dev = self.dev or self._find(kernel)
        netlink = kernel.netlink()
        link = netlink.link(dev)
        if link is None:
            raise NotFound(f"no interface '{dev}' on the host to move", hint="`ip link` lists them")
        if link.alias and link.alias.startswith(_OURS):
            raise Conflict(
                f"cannot move the interface '{dev}': it is netkit's own ({link.alias})",
                hint="move one that netkit did not make",
            )
        masters = {each.ifindex: each.name for each in netlink.links()}
        routes = [
            _explicit(route, version)
            for version in addresses.VERSIONS
            for route in netlink.routes(version)
            if route.ifindex == link.ifindex and route.protocol not in (_BY_KERNEL, LEARNT)
        ]
        found = [address for _, address in netlink.addresses(dev)]
        kept = Kept(
            mac=link.mac,
            mtu=link.mtu,
            txqlen=link.txqlen,
            promisc=link.promisc,
            allmulti=link.allmulti,
            group=link.group,
            up=link.up,
            alias=link.alias,
            master=masters.get(link.master or 0),
            ips=tuple(a for a in found if not (a.version == 6 and a.is_link_local)),
            routes=tuple(_kept(route) for route in sorted(routes, key=_nearest_first)),
            settings=_unusual(kernel, dev),
        )
        return replace(self, dev=dev, was=kept)

    def _find(self, kernel: Kernel) -> str:
        what = f"the MAC {self.mac}" if self.mac else f"the device {self.device}"
        try:
            found = kernel.find_links(mac=self.mac, device=self.device)
        except FileNotFoundError:
            raise NotFound(
                f"no {what.removeprefix('the ')} on this host", hint="`lspci -D` lists PCI devices"
            ) from None
        if len(found) != 1:
            listed = f": {', '.join(found)}" if found else ""
            raise NotFound(
                f"{len(found) or 'no'} interfaces of the host have {what}{listed}",
                hint="name one with -o device=NAME; `ip link` lists them",
            )
        return found[0]

    def add(self, kernel: Kernel) -> None:
        assert self.dev is not None
        kernel.attach_netns(self.pin, self.at)
        try:
            kernel.netlink().move_link(self.dev, self.at, self.name, alias=self.alias)
            if self.carry:
                _settle(kernel, self.name, self.was, self.at)
        except BaseException:
            self.delete(kernel)
            raise

    def delete(self, kernel: Kernel) -> None:
        if self.dev is not None:
            self._fetch(kernel, self.dev)
            self._restore(kernel, self.dev)
        kernel.delete_netns(self.pin)  # not before: it may be all that keeps the device alive

    def _restore(self, kernel: Kernel, dev: str) -> None:
        netlink, was = kernel.netlink(), self.was
        link = netlink.link(dev)
        if link is None or link.alias != self.alias:
            return
        netlink.set_link(
            dev,
            mac=was.mac if was.mac != link.mac else None,
            mtu=was.mtu if was.mtu != link.mtu else None,
            txqlen=was.txqlen if was.txqlen != link.txqlen else None,
            promisc=was.promisc if was.promisc != link.promisc else None,
            allmulti=was.allmulti if was.allmulti != link.allmulti else None,
            group=was.group if was.group != link.group else None,
        )
        for path, value in was.settings.items():
            with suppress(FileNotFoundError):
                kernel.set_sysctl(path, value)
        if was.master is not None and netlink.link(was.master) is not None:
            netlink.set_link(dev, master=was.master)
        _settle(kernel, dev, was)
        netlink.set_link(dev, alias=was.alias or "")

    def _fetch(self, kernel: Kernel, dev: str) -> None:
        """Bring it back to the host, under its name, from wherever it is."""
        netlink = kernel.netlink()
        for at in (self._pinned, self.at):
            if not kernel.exists(at):
                continue
            there = kernel.netlink(at)
            for link in there.links():
                if self._is_it(link):
                    there.move_link(link.name, None, dev, alias=self.alias)
                    return
        # its namespace has died, and it came by itself: under its name in there, or as devN
        for link in netlink.links():
            if link.alias == self.alias and link.name != dev:
                netlink.move_link(link.name, None, dev)

    def _is_it(self, link: Link) -> bool:
        """Its alias is beyond doubt; a container's root may have changed that."""
        return link.alias == self.alias or (link.name, link.mac) == (self.name, self.was.mac)

    def check(self, kernel: Kernel) -> None:
        link = kernel.netlink(self.at).link(self.name)
        if link is None:
            raise Drift(f"interface {self.name} in {self.at} is gone")

    def undo(self) -> str:
        was, dev = self.was, self.dev or self._sought
        mac = f" address {was.mac}" if was.mac else ""
        up = " up" if was.up else ""
        alias = shlex.quote(was.alias or "")
        lines = [
            f"{ip(self._pinned)} link set {self.name} netns {_HOST} name {dev}",
            f"ip link set {dev}{mac} mtu {was.mtu} txqueuelen {was.txqlen} alias {alias}{up}",
        ]
        if was.master:
            lines.append(f"ip link set {dev} master {was.master}")
        return "\n".join([*lines, *_settling(dev, was), f"ip netns del {self.pin}"])

    @property
    def _pinned(self) -> str:
        return f"/run/netns/{self.pin}"

    @property
    def _sought(self) -> str:
        """Found out when the step is prepared; in a plan that is not, as a word in its place."""
        return "DEVICE"

    def __str__(self) -> str:
        dev = self.dev or self._sought
        alias = shlex.quote(self.alias)
        pid, path = netns_argument(self.at), self._pinned
        lines = [
            f"ip netns attach {self.pin} {pid}"
            if pid.isdigit()
            else f"touch {path} && mount --bind {shlex.quote(self.at)} {path}",
            f"ip link set {dev} alias {alias} netns {pid} name {self.name}",
        ]
        if not self.carry:
            return "\n".join(lines)
        up = [f"{ip(self.at)} link set {self.name} up"] if self.was.up else []
        return "\n".join([*lines, *up, *_settling(self.name, self.was, self.at)])


def _explicit(route: Route, version: int) -> Route:
    """A route that says its version even where it is the default one and has no gateway."""
    anywhere = addresses.network("route", "::/0" if version == 6 else "0.0.0.0/0")
    return route if route.dst or route.gateway else route._replace(dst=anywhere)


def _kept(
    route: Route,
) -> tuple[addresses.Network | None, addresses.Address | None, int | None]:
    via = None if route.gateway is None else addresses.address("gateway", route.gateway)
    return route.dst, via, route.metric


def _nearest_first(route: Route) -> tuple[bool, bool]:
    """A gateway must be reached before anything is by it."""
    return route.gateway is not None, route.dst is None


def _unusual(kernel: Kernel, dev: str) -> dict[str, str]:
    """The settings of an interface that are not those of a new one."""
    found = {}
    for family, leaves in _SETTINGS.items():
        for leaf in leaves:
            path = key(family, dev, leaf)
            value, usual = kernel.sysctl(path), kernel.sysctl(key(family, _DEFAULT, leaf))
            if value is not None and usual is not None and value != usual:
                found[path] = value
    return found


def _settle(kernel: Kernel, dev: str, was: Kept, at: str | None = None) -> None:
    """Up with its addresses and routes; those that lead nowhere any more are left out."""
    netlink = kernel.netlink(at)
    if was.up:
        netlink.set_up(dev)
    present = {address for _, address in netlink.addresses(dev)}
    for address in was.ips:
        if address not in present:
            netlink.add_address(dev, address)
    for dst, via, metric in was.routes if was.up else ():
        try:
            netlink.add_route(dev, dst, None if via is None else str(via), metric=metric)
        except OSError as error:
            if error.errno not in _UNREACHABLE:
                raise


def _settling(dev: str, was: Kept, at: str | None = None) -> list[str]:
    lines = [f"{ip(at)} addr add {address} dev {dev}" for address in was.ips]
    for dst, via, metric in was.routes if was.up else ():
        far = via or dst
        words = [f"{ip(at, far.version if far else 4)} route add {dst or 'default'}"]
        words += [f"via {via}"] if via else []
        words += [f"dev {dev}"]
        words += [f"metric {metric}"] if metric else []
        lines.append(" ".join(words))
    return lines
