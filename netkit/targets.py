"""What a command is aimed at: a container, a process, a path or a name of a namespace.

Shapes   `pid:N`, `netns:PATH`, a container's name or id, a name `ip netns` knows, or a container
         of an engine: `docker:NAME`, `podman:NAME`, `lxc:NAME`, `containerd:ID`, `cri:ID`
Errors   InvalidSpec, NotFound; those of netkit.engines
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from netkit import naming
from netkit.errors import InvalidSpec, NetkitError, NotFound
from netkit.kernel import netns
from netkit.model import Kind, SandboxRecord
from netkit.store import SqliteStore

if TYPE_CHECKING:
    from netkit import engines


class Target(NamedTuple):
    """Somebody else's namespace, not on record yet."""

    sort: Kind
    name: str
    path: str
    identity: str
    pid: int = 0
    container: engines.Container | None = None  # of an engine: it may come back as another process

    @property
    def id(self) -> str:
        """The same for the same namespace, by whichever path it was reached."""
        return sandbox_id(self.identity)

    @property
    def origin(self) -> str | None:
        """The name by which it can be found again once it has another process."""
        from netkit import engines

        named = self.container is not None and self.container.engine in engines.NAMED
        return str(self.container) if named else None


def sandbox_id(identity: str) -> str:
    return naming.digest(f"{netns.boot()} {identity}")


def resolve(store: SqliteStore, text: str) -> SandboxRecord | Target:
    """The record *text* means, or the namespace nothing is on record of yet."""
    kind, colon, rest = text.partition(":")
    if not colon:
        return _called(store, text)
    if kind == "pid":
        return _known(store, _process(text, rest))
    if kind == "netns":
        if not rest.startswith("/") or not rest.isprintable():
            raise InvalidSpec(
                f"invalid target {text!r:.80}: netns: takes an absolute path",
                hint="such as netns:/proc/1234/ns/net",
            )
        return _known(store, Target("path", _name(rest), rest, netns.identity(rest)))
    from netkit import engines  # lazily: few name one

    if kind in engines.KINDS:
        try:
            return _known(store, _container(kind, rest))
        except InvalidSpec:
            raise
        except NetkitError:
            # what has ended can still be looked at and let go
            if before := of_origin(store, text):
                return before[0]
            raise
    raise InvalidSpec(
        f"invalid target {text!r:.80}",
        hint="a target is a container, pid:N, netns:/path, a name `ip netns` knows, or "
        + ", ".join(f"{engine}:NAME" for engine in engines.KINDS),
    )


def _called(store: SqliteStore, text: str) -> SandboxRecord | Target:
    """What bears this name: a container, or a namespace `ip netns` knows."""
    naming.validate_name("target", text)
    path = netns.named(text)
    found = store.by_name(SandboxRecord, text)
    if found is None and not os.path.exists(path):  # what is called so comes before a part of an id
        found = store.find(SandboxRecord, text)
    if found is not None:
        if found.origin and (found.finished or not is_there(found)):
            with suppress(NetkitError):  # it may have come back as another process
                return resolve(store, found.origin)
        return found
    if not os.path.exists(path):
        raise NotFound(
            f"no such container: {text}",
            hint="`netkit ps -a` and `ip netns list` show what there is; "
            "for a process write pid:N, for a path netns:/path, for Docker's docker:NAME",
        )
    return _known(store, Target("path", text, path, netns.identity(path)))


def of_origin(store: SqliteStore, origin: str) -> list[SandboxRecord]:
    """What is on record of an engine's container: of its life now, and of an earlier one."""
    found = [sandbox for sandbox in store.all(SandboxRecord) if sandbox.origin == origin]
    return sorted(found, key=lambda sandbox: sandbox.finished is not None)


def is_there(sandbox: SandboxRecord) -> bool:
    """Whether its path still leads to the namespace it led to when it was put on record."""
    if sandbox.netns is None or sandbox.identity is None:
        return True
    try:
        return netns.identity(sandbox.netns) == sandbox.identity
    except NetkitError:
        return False


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


def _container(engine: str, name: str) -> Target:
    from netkit import engines

    found = engines.find(engine, name)
    identity = netns.identity(found.path)
    if netns.is_hosts(identity):
        raise InvalidSpec(
            f"container {found} uses the host's own network namespace",
            hint="start it with a network of its own, such as --network none",
        )
    return Target("process", found.name, found.path, identity, found.pid, found)


def _name(path: str) -> str:
    """What a namespace at *path* is called: the file's name, as far as it may be one."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", os.path.basename(path)).lstrip("_.-")
    return name[:100] or "netns"


def _known(store: SqliteStore, target: Target) -> SandboxRecord | Target:
    if netns.is_hosts(target.identity):
        raise InvalidSpec(
            f"'{target.path}' is the host's own network namespace",
            hint="give a namespace of a container; for the host's network use --net host",
        )
    if target.path.startswith(netns.NAMED + "/"):
        named = store.by_name(SandboxRecord, os.path.basename(target.path))
        if named is not None and named.netns == target.path:
            return named
    found = store.by_id(SandboxRecord, target.id)
    if found is not None and found.finished and found.origin:
        return target  # on record as what it was; its return was given up half-way
    # the path on record may be that of a process that has ended since; this one leads there today
    return replace(found, netns=target.path, pid=target.pid) if found else target
