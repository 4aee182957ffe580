"""A sandbox as it is proposed: its record, and what connect makes for one it has not met before.

Shapes   see SandboxRecord; nothing is made here
"""

from __future__ import annotations

import os
import time

from msgspec.structs import replace

from netkit import model, namefiles, naming, steps, targets
from netkit.addresses import Address
from netkit.changes import Changes
from netkit.dns import hosts
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import netns
from netkit.model import EndpointRecord, Former, NetworkRecord, SandboxRecord
from netkit.specs import NameFiles
from netkit.store import SqliteStore


def named(changes: Changes, name: str | None, files: NameFiles) -> SandboxRecord:
    if name is not None:
        refuse_taken(changes, name)
    else:
        name = free_name(changes)
    return proposal(changes, "named", name, netns.named(name), files)


def refuse_taken(changes: Changes, name: str) -> None:
    naming.validate_name("container", name)
    if changes.store.by_name(SandboxRecord, name):
        raise Conflict(
            f'the container name "{name}" is already in use',
            hint=f"choose another name, or remove it: netkit rm {name}",
        )


def foreign(changes: Changes, target: targets.Target, files: NameFiles) -> SandboxRecord:
    if files.given and target.sort != "process":
        raise InvalidSpec(
            f"cannot give '{target.name}' files of its own: only its namespace is known",
            hint=f"write them to /etc/netns/{target.name}, or connect to pid:N",
        )
    name = target.name
    former: tuple[Former, ...] = ()
    before = earlier(changes.store, target)
    if before is not None:
        name, former = before.name, before.former
        files = files if files.given else before.files
    elif changes.store.by_name(SandboxRecord, name):
        name = f"{name}-{target.id[:6]}"
    record = proposal(changes, target.sort, name, target.path, files)
    record = replace(record, id=target.id, identity=target.identity, pid=target.pid)
    return replace(record, origin=target.origin, former=former)


def earlier(store: SqliteStore, target: targets.Target) -> SandboxRecord | None:
    """What is on record of a container that ended and now is *target*."""
    if target.origin is None:
        return None
    found = targets.of_origin(store, target.origin)
    return next((sandbox for sandbox in found if sandbox.finished is not None), None)


def proposal(
    changes: Changes, sort: model.Kind, name: str, path: str | None, files: NameFiles
) -> SandboxRecord:
    """A sandbox record as yet unknown to the store."""
    id = naming.new_id()
    if files.given or sort in ("container", "named"):  # others keep the files they have
        config = changes.config
        files = replace(
            files,
            servers=files.servers or config.dns,
            search=files.search or config.dns_search,
            options=files.options or config.dns_opts,
        )
    return SandboxRecord(
        id=id,
        name=name,
        created=time.time(),
        epoch=changes.epoch,
        maker=changes.maker,
        sort=sort,
        netns=path,
        files=files,
        directory=f"{changes.store.run_dir}/{id}",
    )


def free_name(changes: Changes) -> str:
    """A random name that neither a container nor a named namespace has."""
    return naming.generate(
        lambda name: (
            changes.store.by_name(SandboxRecord, name) is not None
            or os.path.lexists(netns.named(name))
        )
    )


def plan(sandbox: SandboxRecord, net: NetworkRecord) -> steps.Plan:
    """What connect makes for a sandbox it meets for the first time."""
    if sandbox.sort == "named":
        return (
            steps.Netns(name=sandbox.name),
            steps.LinkUp(dev="lo", at=sandbox.netns, fresh=True),
            *namefiles.plan(
                f"{namefiles.NETNS_ETC}/{sandbox.name}",
                sandbox.files,
                [namefiles.Place(net, net.versions)],
                host_gateway=_gateway(net),
            ),
        )
    up = (steps.LinkUp(dev="lo", at=sandbox.netns),)
    if not sandbox.files.given:
        return up
    assert sandbox.directory is not None
    made = namefiles.plan(
        sandbox.directory,
        sandbox.files,
        [namefiles.Place(net, net.versions)],
        host_gateway=_gateway(net),
    )
    return (*up, *made, *namefiles.inject(sandbox.directory, sandbox.files, sandbox.pid))


def entries(sandbox: SandboxRecord, ep: EndpointRecord) -> steps.Plan:
    """The sandbox's own name in its hosts file, at each of this endpoint's addresses."""
    path = _hosts_file(sandbox)
    if path is None:
        return ()
    if sandbox.files.hostname is not None:
        names = hosts.own_names(sandbox.files.hostname, sandbox.files.domainname)
    else:
        names = (sandbox.name,)
    return tuple(
        steps.HostsEntry(path=path, address=address.ip, names=names) for address in ep.addresses
    )


def _gateway(net: NetworkRecord) -> Address | None:
    """Where `host-gateway` leads: the host, by IPv4 if it can be."""
    return net.gateway(4) or net.gateway(6)


def _hosts_file(sandbox: SandboxRecord) -> str | None:
    if sandbox.sort == "named":
        return f"{namefiles.NETNS_ETC}/{sandbox.name}/hosts"
    if sandbox.sort == "container" or sandbox.files.given:
        return f"{sandbox.directory}/hosts"
    return None
