"""A sandbox as it is proposed: its record, and what connect makes for one it has not met before.

Shapes   see SandboxRecord; nothing is made here
"""

from __future__ import annotations

import os
import time

from msgspec.structs import replace

from netkit import model, namefiles, naming, steps, targets
from netkit.changes import Changes
from netkit.dns import hosts
from netkit.errors import Conflict, InvalidSpec
from netkit.kernel import netns
from netkit.model import EndpointRecord, NameFiles, NetworkRecord, SandboxRecord


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
    if changes.store.by_name(SandboxRecord, name):
        name = f"{name}-{target.id[:6]}"
    record = proposal(changes, target.sort, name, target.path, files)
    return replace(record, id=target.id, identity=target.identity, pid=target.pid)


def proposal(
    changes: Changes, sort: model.Kind, name: str, path: str | None, files: NameFiles
) -> SandboxRecord:
    """A sandbox record as yet unknown to the store."""
    id = naming.new_id()
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
                internal=net.internal,
                host_gateway=net.gateway,
            ),
        )
    up = (steps.LinkUp(dev="lo", at=sandbox.netns),)
    if not sandbox.files.given:
        return up
    assert sandbox.directory is not None
    made = namefiles.plan(
        sandbox.directory, sandbox.files, internal=net.internal, host_gateway=net.gateway
    )
    return (*up, *made, *namefiles.inject(sandbox.directory, sandbox.files, sandbox.pid))


def entries(sandbox: SandboxRecord, ep: EndpointRecord) -> steps.Plan:
    """The sandbox's own name in its hosts file, at this endpoint's address."""
    path = _hosts_file(sandbox)
    if path is None or ep.address is None:
        return ()
    if sandbox.files.hostname is not None:
        names = hosts.own_names(sandbox.files.hostname, sandbox.files.domainname)
    else:
        names = (sandbox.name,)
    return (steps.HostsEntry(path=path, address=ep.address.ip, names=names),)


def _hosts_file(sandbox: SandboxRecord) -> str | None:
    if sandbox.sort == "named":
        return f"{namefiles.NETNS_ETC}/{sandbox.name}/hosts"
    if sandbox.sort == "container" or sandbox.files.given:
        return f"{sandbox.directory}/hosts"
    return None
