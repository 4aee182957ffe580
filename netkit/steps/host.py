"""What the host itself is asked for: kernel parameters."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

import msgspec

from netkit.errors import Drift
from netkit.firewall import Firewall
from netkit.kernel import Kernel
from netkit.kernel.netlink import LEARNT
from netkit.steps.base import (
    Step,
    Thing,
    dotted,
    enter,
    within,
)

# of an IP version: what switches forwarding on, and where each interface has a switch of its own
_FORWARD = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_CONF = {4: "net/ipv4/conf", 6: "net/ipv6/conf"}
_REDIRECTS = f"{_CONF[4]}/all/accept_redirects"


class Sysctl(Step, frozen=True, kw_only=True):
    """A kernel parameter (`key` as its path below /proc/sys) and what it was before."""

    key: str
    value: str
    was: str | None = None
    dev: str | None = None
    at: str | None = None
    needed: bool = False  # somebody asked for it: a kernel that does not have it is an error
    there: bool = False  # the interface is there already, and may stay
    initial: bool = False  # what it is to begin with: another plan may set it

    @property
    def within(self) -> Sequence[Thing]:
        return within(self.at, self.dev) if self.dev else within(self.at, None)

    def prepare(self, kernel: Kernel) -> Step | None:
        if self.dev is not None and not self.there:  # it need not exist yet, and takes this along
            return self
        was = kernel.sysctl(self.key, self.at)
        if _same(was, self.value) and not self.needed:
            return None
        return msgspec.structs.replace(self, was=was)

    def add(self, kernel: Kernel) -> None:
        try:
            kernel.set_sysctl(self.key, self.value, self.at)
        except FileNotFoundError:  # a kernel without IPv6 has nothing to switch off
            if self.needed:
                raise

    def delete(self, kernel: Kernel) -> None:
        # put back only if it is still ours: somebody may have set it since
        if self.was is not None and _same(kernel.sysctl(self.key, self.at), self.value):
            kernel.set_sysctl(self.key, self.was, self.at)

    def check(self, kernel: Kernel) -> None:
        found = None if self.initial else kernel.sysctl(self.key, self.at)
        if found is not None and not _same(found, self.value):
            raise Drift(f"{dotted(self.key)} is {found}, not {self.value}")

    def undo(self) -> str:
        return f"{enter(self.at)}sysctl -qw {dotted(self.key)}={self.was}" if self.was else ""

    def __str__(self) -> str:
        return f"{enter(self.at)}sysctl -qw {dotted(self.key)}={self.value}"


class Localnet(Sysctl, frozen=True, kw_only=True):
    """route_localnet of an interface: what localhost sends to a published port may leave by it.

    Nothing is translated without a firewall, and nothing would keep who is behind the interface off
    the host's own loopback: there it stays off.
    """

    def add(self, kernel: Kernel) -> None:
        if kernel.firewall.script():
            super().add(kernel)

    def check(self, kernel: Kernel) -> None:
        if kernel.firewall.script():
            super().check(kernel)

    def line(self, back_end: Firewall) -> str:
        return str(self) if back_end.script() else ""

    def switched(self, back_end: Firewall) -> Sysctl:
        """What makes it as it is to be with another back end."""
        value = "1" if back_end.script() else "0"
        return Sysctl(key=self.key, value=value, dev=self.dev, there=True)


def _same(found: str | None, wanted: str) -> bool:
    """Whether the kernel has what was written, who parts several numbers by tabs."""
    return found is not None and found.split() == wanted.split()


class Forwarding(Step, frozen=True, kw_only=True):
    """Forwarding of an IP version, on; and what the kernel changes along with it.

    The switch sets that of every interface, and in IPv4 accept_redirects the other way round
    (inet_forward_change in net/ipv4/devinet.c); `was` holds those values that switching it off
    would not bring back. A host that forwards IPv6 ignores router advertisements unless told
    otherwise: the `listening` interfaces, which have learnt routes by them, are.
    """

    version: int = 4
    was: Mapping[str, str] = {}
    listening: tuple[str, ...] = ()

    def prepare(self, kernel: Kernel) -> Step | None:
        if forwards(kernel, self.version):
            return None
        before = kernel.sysctls(_CONF[self.version], "forwarding")
        unusual = {key: value for key, value in before.items() if value != "0"}
        if self.version == 4 and (redirects := kernel.sysctl(_REDIRECTS)) not in (None, "1"):
            unusual[_REDIRECTS] = str(redirects)
        listening = () if self.version == 4 else _listening(kernel)
        return msgspec.structs.replace(self, was=unusual, listening=listening)

    def add(self, kernel: Kernel) -> None:
        try:
            for dev in self.listening:
                kernel.set_sysctl(_accept_ra(dev), "2")
            kernel.set_sysctl(self._switch, "1")
        except BaseException:
            self.delete(kernel)
            raise

    def delete(self, kernel: Kernel) -> None:
        # otherwise somebody has switched it off since
        if kernel.sysctl(self._switch) == "1":
            kernel.set_sysctl(self._switch, "0")
            for key, value in self.was.items():
                if kernel.sysctl(key) is not None:
                    kernel.set_sysctl(key, value)
        for dev in self.listening:
            if kernel.sysctl(_accept_ra(dev)) == "2":
                kernel.set_sysctl(_accept_ra(dev), "1")

    def check(self, kernel: Kernel) -> None:
        if kernel.sysctl(self._switch) != "1":
            name = dotted(self._switch)
            raise Drift(f"{name} is 0: nothing is forwarded to or from containers")

    @property
    def _switch(self) -> str:
        return _FORWARD[self.version]

    def undo(self) -> str:
        was = "".join(f" {dotted(key)}={value}" for key, value in self.was.items())
        was += "".join(f" {dotted(_accept_ra(dev))}=1" for dev in self.listening)
        return f"sysctl -qw {dotted(self._switch)}=0{was}"

    def __str__(self) -> str:
        ras = "".join(f"{dotted(_accept_ra(dev))}=2 " for dev in self.listening)
        return f"sysctl -qw {ras}{dotted(self._switch)}=1"


def forwards(kernel: Kernel, version: int) -> bool:
    """Whether the host is a router already."""
    found = kernel.sysctl(_FORWARD[version])
    if found is None:
        raise OSError(errno.EAFNOSUPPORT, f"this kernel has no IPv{version}")
    return found == "1"


def _accept_ra(dev: str) -> str:
    return f"{_CONF[6]}/{dev}/accept_ra"


def _listening(kernel: Kernel) -> tuple[str, ...]:
    """The interfaces that have learnt routes from routers, and would cease to."""
    learnt = {route.ifindex for route in kernel.netlink().routes(6) if route.protocol == LEARNT}
    if not learnt:
        return ()
    names = [link.name for link in kernel.netlink().links() if link.ifindex in learnt]
    return tuple(name for name in names if kernel.sysctl(_accept_ra(name)) == "1")
