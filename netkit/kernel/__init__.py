"""All that touches Linux, behind one object that steps are given.

Shapes   `Kernel` is what a step may ask of the machine; `tests/fakes.py` holds its twin in memory
Errors   OSError everywhere: a step translates, because only it knows what was being tried
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from netkit.addresses import Address
from netkit.kernel import netns, sockets, sysctl

if TYPE_CHECKING:
    from ipaddress import IPv6Address

    from netkit.firewall import Firewall, Obstacle, Publish
    from netkit.kernel.netlink import Netlink


class Kernel:
    """One job's view of the machine: sockets are opened on first use and closed with the job."""

    def __init__(self, firewall: Firewall) -> None:
        self.firewall = firewall
        self._obstacles: dict[str, Sequence[Obstacle]] = {}
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

    # -- links that are not made or found over rtnetlink

    def add_tuntap(
        self,
        name: str,
        mode: str = "tap",
        *,
        at: str | None = None,
        mac: str | None = None,
        mtu: int | None = None,
        owner: int | None = None,
        group: int | None = None,
        multi_queue: bool = False,
        vnet_hdr: bool = False,
        label: str | None = None,
    ) -> None:
        """Make a tap or tun device, down, in the namespace at *at*: whole or not at all.

        *label* is the SELinux context a tap's maker is to have had.
        """
        from netkit.kernel import tuntap

        def create() -> None:
            if label is not None:
                tuntap.create_labelled(
                    label,
                    name,
                    mac=mac or "",
                    mtu=mtu,
                    owner=owner,
                    group=group,
                    multi_queue=multi_queue,
                )
                return
            tuntap.create(
                name,
                mode,
                mac=mac,
                mtu=mtu,
                owner=owner,
                group=group,
                multi_queue=multi_queue,
                vnet_hdr=vnet_hdr,
            )

        create() if at is None else netns.run(at, create)

    def find_links(self, *, mac: str | None = None, device: str | None = None) -> list[str]:
        """The host's interfaces with this MAC, or on this device: a PCI address or a /sys path."""
        here = self.netlink().links()
        if mac is not None:
            found = [link for link in here if link.mac == mac.lower()]
            # what is on a card, a VLAN or a bridge, has the same
            cards = [link for link in found if link.kind is None]
            return sorted(link.name for link in cards or found)
        from netkit.kernel import devices

        names = {link.name for link in here}
        return [name for name in devices.interfaces(device or "") if name in names]

    def announce(self, at: str | None, dev: str, mac: str, addresses: Iterable[Address]) -> None:
        """Tell the neighbours of *dev*, which is up, that these addresses are at *mac* now."""
        from netkit.kernel import announce

        frames = announce.frames(mac, addresses)

        def send() -> None:
            announce.send(dev, frames)

        send() if at is None else netns.run(at, send)

    def is_heard(self, at: str | None, dev: str, address: IPv6Address) -> bool:
        """Whether a neighbour that looks for who has *address* is heard by *dev* already."""
        from netkit.kernel import announce

        def ask() -> bool:
            return announce.is_member(dev, address)

        return ask() if at is None else netns.run(at, ask)

    # -- programs of other people's

    def find_driver(self, name: str) -> str:
        """The path of a driver that is a program."""
        from netkit.kernel import program

        return program.find(name)

    def call(self, command: Sequence[str], text: str) -> str:
        """What a program answers to *text*; it ends in time, whatever it does."""
        from netkit.kernel import program

        return program.call(command, text)

    def has_program(self, name: str) -> bool:
        """Whether `call` would find a program by its name."""
        from netkit.kernel import program

        return program.is_there(name)

    # -- other tools' firewalls

    def obstacles(self, firewall: Firewall | None = None) -> Sequence[Obstacle]:
        """Whose chains drop what they do not know, if the back end is ours, or *firewall*.

        Nobody's concern without any. A job looks once.
        """
        back_end = firewall or self.firewall
        if not back_end.script():
            return ()
        if back_end.name not in self._obstacles:
            from netkit.firewall import foreign

            self._obstacles[back_end.name] = foreign.obstacles(back_end.name)
        return self._obstacles[back_end.name]

    def open_passage(self, dev: str, obstacles: Sequence[Obstacle]) -> None:
        from netkit.firewall import foreign

        foreign.add(dev, obstacles)

    def close_passage(self, dev: str, obstacles: Sequence[Obstacle]) -> None:
        from netkit.firewall import foreign

        foreign.delete(dev, obstacles)

    def blocked(self, dev: str, obstacles: Sequence[Obstacle]) -> Sequence[str]:
        """What keeps what *dev* forwards from passing them."""
        from netkit.firewall import foreign

        return foreign.check(dev, obstacles)

    def hearers(self, chain: str, *, make: bool) -> Sequence[str]:
        """The iptables programs that have an admin's *chain*, or could *make* it."""
        from netkit.firewall import foreign

        return foreign.hearers(chain, make=make) if self.firewall.script() else ()

    def hear(self, chain: str, programs: Sequence[str], on: bool = True) -> None:
        """Ask an admin's chain first about all that is forwarded; or no more."""
        from netkit.firewall import foreign

        (foreign.hear if on else foreign.unhear)(chain, programs)

    def unheard(self, chain: str, programs: Sequence[str]) -> Sequence[str]:
        """What keeps an admin's chain from being asked."""
        from netkit.firewall import foreign

        return foreign.unheard(chain, programs)

    # -- proxies, by the lock each of them holds

    def start_proxy(self, lock: str, dev: str, ports: Sequence[str]) -> None:
        """Serve *ports* (netkit.kernel.proxy) for as long as there is a link *dev*: by the process
        that holds *lock*, if there is one.
        """
        from netkit.kernel import daemons, proxy

        assert proxy.__file__ is not None
        try:
            daemons.start(lock, proxy.__file__, (dev, *ports), proxy.READY)
        except BlockingIOError:
            proxy.give(lock, ports)

    def stop_proxy(self, lock: str, ports: Sequence[str]) -> None:
        """Serve *ports* no longer; a process that has none left, or is not heard of, ends."""
        from netkit.kernel import daemons, proxy

        try:
            left = proxy.drop(lock, ports)
        except (OSError, ValueError):
            left = 0
        if not left:
            daemons.end(lock)
            with suppress(FileNotFoundError):
                os.unlink(proxy.place(lock))

    def proxy_serves(self, lock: str, port: str) -> bool:
        from netkit.kernel import proxy

        try:
            return proxy.serves(lock, port)
        except (OSError, ValueError):
            return False

    # -- namespaces, and what conntrack remembers

    def create_netns(self, name: str) -> None:
        netns.create(name)

    def attach_netns(self, name: str, at: str) -> None:
        """A second name for the namespace at *at*, by which it outlives the first."""
        netns.attach(name, at)

    def delete_netns(self, name: str) -> None:
        self.forget(netns.named(name))
        netns.delete(name)

    def forget_flows(self, *rules: Publish) -> None:
        """Drop what conntrack remembers of published ports."""
        from netkit.kernel import conntrack

        versions = {rule.address.version for rule in rules}
        # each endpoint's port has a link-local IPv6 address: those stay in the kernel
        every = {
            address.ip
            for version in versions
            for _, address in self.netlink().addresses(version=version)
        }
        published: dict[tuple[str, int], list[conntrack.Published]] = {}
        for rule in rules:
            host = every if rule.host_address is None else {rule.host_address}
            last = rule.host_port + rule.count - 1
            each = conntrack.Published(rule.host_port, last, host, rule.address)
            published.setdefault((rule.protocol, rule.address.version), []).append(each)
        for (protocol, version), ports in published.items():
            conntrack.forget(protocol, ports, version=version)

    # -- ports of the host

    def probe_port(self, protocol: str, address: Address, port: int) -> None:
        sockets.probe(protocol, address, port)

    def port_holder(self, protocol: str, port: int) -> str | None:
        return sockets.holder(protocol, port)

    def port_holders(self, protocol: str, port: int) -> Collection[int]:
        """The processes that have a port, as far as we may look into them."""
        return set(sockets.holders(protocol, port))

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
            with open(fd, "w", encoding="utf-8") as file:
                os.fchmod(fd, 0o644)  # whatever the umask: every user of the sandbox resolves names
                file.write(content)
        except BaseException:
            os.unlink(path)  # a full disk, say: a file is written whole or not at all
            raise

    def real_path(self, path: str) -> str:
        """Where the symlinks of a path lead."""
        return os.path.realpath(path)

    def read_file(self, path: str) -> str | None:
        """What a file says; None: it is not there, or not a file."""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                return file.read().decode(errors="surrogateescape")
        except OSError:
            return None

    def edit_file(self, path: str, edit: Callable[[str], str]) -> None:
        """Rewrite a file in place: it may be bind-mounted, and a rename would part the two.

        Whoever reads it meanwhile, or after our death, finds the one text or the other; after the
        new one there may be empty lines.
        """
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "r+b", buffering=0) as file:
            old = file.read()
            new = edit(old.decode(errors="surrogateescape")).encode(errors="surrogateescape")
            if new != old:
                os.pwrite(fd, new.ljust(len(old), b"\n"), 0)
                file.truncate(len(new))

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
