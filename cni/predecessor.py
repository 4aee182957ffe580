"""What the reference's plugins made, for a DEL that finds nothing of ours on record.

A node is switched over while its pods run: their DEL reaches us, and their interface, masquerade
and published ports would stay, for the next pod that gets the address. What is theirs is known by
the names they derive from network and container, and by what the runtime says they answered.

Shapes   nothing without prevResult: only an ADD that succeeded has one
Errors   OSError of iptables
Source   containernetworking/plugins: pkg/utils (names of chains), pkg/ip/ipmasq_iptables_linux.go,
         plugins/meta/portmap, plugins/meta/firewall
"""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from cni.call import container_ips
from cni.spec import Command, Result
from netkit.errors import NetkitError
from netkit.firewall import libnftables
from netkit.kernel import Kernel, netns
from netkit.kernel.netlink import Link

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_TIMEOUT_S = 10
_FAMILIES = {"ip": "iptables", "ip6": "ip6tables"}
_MAKERS = ("bridge", "ptp", "macvlan", "ipvlan", "vlan", "dummy", "tap")
_MADE = ("veth", "macvlan", "ipvlan", "vlan", "dummy", "tun")  # links that an ADD of theirs makes
_NAME = 28  # characters of a chain's
_MASQUERADE, _PORTS, _ALLOWED = "CNI-", "CNI-DN-", "CNI-FORWARD"


def clear(kind: str, command: Command, kernel: Kernel) -> None:
    """Undo what the reference's plugin *kind* made of an attachment."""
    previous = command.previous
    if previous is None:
        return
    if kind == "portmap":
        _drop_chain("nat", _chain(_PORTS, command))
    elif kind == "firewall":
        _drop_accepts(previous)
    elif kind == "host-device":
        _give_back(previous, command, kernel)
    elif kind in _MAKERS:
        _delete_link(previous, command, kernel)
        if kind in ("bridge", "ptp"):
            _drop_chain("nat", _chain(_MASQUERADE, command))


def _chain(prefix: str, command: Command) -> str:
    hashed = hashlib.sha512(f"{command.name}{command.container_id}".encode()).hexdigest()
    return f"{prefix}{hashed}"[:_NAME]


def _delete_link(previous: Result, command: Command, kernel: Kernel) -> None:
    link = _interface(previous, command, kernel)
    if link is not None and link.kind in _MADE:
        kernel.netlink(command.netns).delete_link(command.ifname)


def _give_back(previous: Result, command: Command, kernel: Kernel) -> None:
    """The reference notes the name an interface had as its alias."""
    link = _interface(previous, command, kernel)
    if link is not None and link.alias and kernel.netlink().link(link.alias) is None:
        kernel.netlink(command.netns).move_link(command.ifname, None, link.alias, alias="")


def _interface(previous: Result, command: Command, kernel: Kernel) -> Link | None:
    """The interface inside, if it is still the one that ADD answered with."""
    with suppress(NetkitError):  # the namespace is gone, and the interface with it
        if command.netns and not netns.is_hosts(netns.identity(command.netns)):
            link = kernel.netlink(command.netns).link(command.ifname)
            macs = {each.mac for each in previous.interfaces if each.name == command.ifname}
            return link if link is not None and link.mac in macs else None
    return None


def _drop_chain(table: str, chain: str) -> None:
    for program in _programs(table, chain):
        rules = re.findall(rf"^-A ((?!{chain} ).* -j {chain})$", _save(program, table), re.M)
        _restore(program, table, *(f"-D {rule}" for rule in rules), f"-F {chain}", f"-X {chain}")


def _drop_accepts(previous: Result) -> None:
    own = {str(own.ip) for own, _ in container_ips(previous)}
    for program in _programs("filter", _ALLOWED):
        rules = [
            rule
            for rule in re.findall(
                rf"^-A ({_ALLOWED} .* -j ACCEPT)$", _save(program, "filter"), re.M
            )
            if own & {word.partition("/")[0] for word in shlex.split(rule)}
        ]
        if rules:
            _restore(program, "filter", *(f"-D {rule}" for rule in rules))


def _programs(table: str, chain: str) -> Iterator[str]:
    """The programs by which that chain can be seen, for each IP version and kind of tables."""
    for family, name in _FAMILIES.items():
        if shutil.which(f"{name}-nft", path=_PATH):
            with suppress(OSError):  # there is none
                libnftables.run(f"list chain {family} {table} {chain}")
                yield f"{name}-nft"
        legacy = f"{name}-legacy"
        is_there = _has_legacy(family, table) and shutil.which(legacy, path=_PATH)
        if is_there and f":{chain} " in _save(legacy, table):
            yield legacy


def _has_legacy(family: str, table: str) -> bool:
    """Whether that table is there: to list it would make it."""
    try:
        with open(f"/proc/thread-self/net/{family}_tables_names") as file:
            return table in file.read().split()
    except FileNotFoundError:
        return False


def _save(program: str, table: str) -> str:
    return _run([f"{program}-save", "-t", table])


def _restore(program: str, table: str, *lines: str) -> None:
    text = "".join(f"{line}\n" for line in (f"*{table}", *lines, "COMMIT"))
    _run([f"{program}-restore", "-w", "--noflush"], text)


def _run(command: list[str], text: str = "") -> str:
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            env={"PATH": _PATH},
            timeout=_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} did not answer in {_TIMEOUT_S} s") from None
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()[:200]}")
    return done.stdout
