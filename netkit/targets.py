"""What a command is aimed at: a container, a process, a path or a name of a namespace.

Shapes   `pid:N`, `netns:PATH`, a container's name or id, or a name `ip netns` knows
Errors   InvalidSpec, NotFound
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from msgspec.structs import replace

from netkit import naming
from netkit.errors import InvalidSpec, NotFound
from netkit.kernel import netns
from netkit.model import Kind, SandboxRecord
from netkit.store import SqliteStore


class Target(NamedTuple):
    """Somebody else's namespace, not on record yet."""

    sort: Kind
    name: str
    path: str
    identity: str
    pid: int = 0

    @property
    def id(self) -> str:
        """The same for the same namespace, by whichever path it was reached."""
        return sandbox_id(self.identity)


def sandbox_id(identity: str) -> str:
    from hashlib import sha256  # lazily: 2 ms of OpenSSL that most commands need not pay

    with open("/proc/sys/kernel/random/boot_id") as file:
        return sha256(f"{file.read().strip()} {identity}".encode()).hexdigest()


def resolve(store: SqliteStore, text: str) -> SandboxRecord | Target:
    """The record *text* means, or the namespace nothing is on record of yet."""
    kind, colon, rest = text.partition(":")
    if colon and kind == "pid":
        return _known(store, _process(text, rest))
    if colon and kind == "netns":
        if not rest.startswith("/") or not rest.isprintable():
            raise InvalidSpec(
                f"invalid target {text!r:.80}: netns: takes an absolute path",
                hint="such as netns:/proc/1234/ns/net",
            )
        return _known(store, Target("path", _name(rest), rest, netns.identity(rest)))
    if colon:
        raise InvalidSpec(
            f"invalid target {text!r:.80}",
            hint="a target is a container, pid:N, netns:/path, or a name `ip netns` knows",
        )
    naming.validate_name("target", text)
    found = store.find(SandboxRecord, text)
    if found is not None:
        return found
    path = netns.named(text)
    if not os.path.exists(path):
        raise NotFound(
            f"no such container: {text}",
            hint="`netkit ps -a` and `ip netns list` show what there is; "
            "for a process write pid:N, for a path netns:/path",
        )
    return _known(store, Target("path", text, path, netns.identity(path)))


def _process(text: str, number: str) -> Target:
    if not (number.isascii() and number.isdigit() and 0 < int(number[:10]) < 1 << 22):
        raise InvalidSpec(
            f"invalid target {text!r:.80}: pid: takes the number of a process",
            hint="such as pid:1234",
        )
    pid = int(number)
    if not os.path.exists(f"/proc/{pid}"):
        raise NotFound(f"no such process: pid:{pid}", hint="`ps -e` lists them")
    path = f"/proc/{pid}/ns/net"
    return Target("process", f"pid-{pid}", path, netns.identity(path), pid)


def _name(path: str) -> str:
    """What a namespace at *path* is called: the file's name, as far as it may be one."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", os.path.basename(path)).lstrip("_.-")
    return name[:100] or "netns"


def _known(store: SqliteStore, target: Target) -> SandboxRecord | Target:
    if target.identity in netns.hosts():
        raise InvalidSpec(
            f"'{target.path}' is the host's own network namespace",
            hint="give a namespace of a container; for the host's network use --net host",
        )
    if target.path.startswith(netns.NAMED + "/"):
        named = store.by_name(SandboxRecord, os.path.basename(target.path))
        if named is not None and named.netns == target.path:
            return named
    found = store.by_id(SandboxRecord, target.id)
    # the path on record may be that of a process that has ended since; this one leads there today
    return replace(found, netns=target.path, pid=target.pid) if found else target
