"""All that touches Linux, behind one object that steps are given.

Shapes   `Kernel` is what a step may ask of the machine; `tests/fakes.py` holds its twin in memory
Errors   OSError everywhere: a step translates, because only it knows what was being tried
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Interface
from socket import AF_INET
from typing import TYPE_CHECKING

from netkit.kernel import netns, sockets, sysctl

if TYPE_CHECKING:
    from netkit.firewall import Firewall, Publish
    from netkit.kernel.netlink import Netlink


class Kernel:
    """One job's view of the machine: sockets are opened on first use and closed with the job."""

    def __init__(self, firewall: Firewall) -> None:
        self.firewall = firewall
        self._sockets: dict[str | None, Netlink] = {}

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        while self._sockets:
            self._sockets.popitem()[1].close()

    def netlink(self, at: str | None = None) -> Netlink:
        """The rtnetlink socket of the namespace at path *at*; None is the host."""
        if at not in self._sockets:
            from netkit.kernel.netlink import Netlink

            self._sockets[at] = Netlink(at)
        return self._sockets[at]

    def forget(self, at: str) -> None:
        """Close what is open in the namespace at *at*: an open socket would keep it alive."""
        if at in self._sockets:
            self._sockets.pop(at).close()

    def sysctl(self, key: str, at: str | None = None) -> str | None:
        return sysctl.read(key, at)

    def set_sysctl(self, key: str, value: str, at: str | None = None) -> None:
        sysctl.write(key, value, at)

    def sysctls(self, directory: str, leaf: str) -> dict[str, str]:
        return sysctl.each(directory, leaf)

    def create_netns(self, name: str) -> None:
        netns.create(name)

    def delete_netns(self, name: str) -> None:
        self.forget(netns.named(name))
        netns.delete(name)

    def forget_flows(self, *rules: Publish) -> None:
        """Drop what conntrack remembers of published ports."""
        from netkit.kernel import conntrack

        # each endpoint's port has a link-local IPv6 address: those stay in the kernel
        found = self.netlink().addresses(family=AF_INET)
        every = {address.ip for _, address in found if isinstance(address, IPv4Interface)}
        published: dict[str, list[conntrack.Published]] = {}
        for rule in rules:
            host = every if rule.host_address is None else {rule.host_address}
            last = rule.host_port + rule.count - 1
            each = conntrack.Published(rule.host_port, last, host, rule.address)
            published.setdefault(rule.protocol, []).append(each)
        for protocol, ports in published.items():
            conntrack.forget(protocol, ports)

    # -- ports of the host

    def probe_port(self, protocol: str, address: IPv4Address | None, port: int) -> None:
        sockets.probe(protocol, address, port)

    def port_holder(self, protocol: str, port: int) -> str | None:
        return sockets.holder(protocol, port)

    def local_ports(self) -> tuple[range, set[int]]:
        return sockets.local_port_range(
            self.sysctl(sockets.LOCAL_PORT_RANGE), self.sysctl(sockets.RESERVED_PORTS)
        )

    # -- files

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def make_directory(self, path: str) -> None:
        os.makedirs(path, mode=0o755, exist_ok=True)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory; one that has found other use stays."""
        with suppress(FileNotFoundError):
            try:
                os.rmdir(path)
            except OSError:
                if not os.listdir(path):
                    raise

    def write_file(self, path: str, content: str) -> None:
        """Create a file; FileExistsError rather than somebody else's file overwritten."""
        fd = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644
        )
        try:
            with open(fd, "w") as file:
                os.fchmod(fd, 0o644)  # whatever the umask: every user of the sandbox resolves names
                file.write(content)
        except BaseException:
            os.unlink(path)  # a full disk, say: a file is written whole or not at all
            raise

    def edit_file(self, path: str, edit: Callable[[str], str]) -> None:
        """Rewrite a file in place: it may be bind-mounted, and a rename would part the two."""
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "r+", newline="") as file:
            text = edit(file.read())
            file.seek(0)
            file.write(text)
            file.truncate()

    def remove_file(self, path: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(path)

    def inject(self, mnt: str, source: str, target: str) -> None:
        """Bind *source* over *target* inside the mount namespace at *mnt*."""
        from netkit.kernel import mounts

        mounts.inject(mnt, source, target)

    def eject(self, mnt: str, source: str, target: str) -> None:
        from netkit.kernel import mounts

        mounts.eject(mnt, source, target)
