"""The three files of a sandbox: hosts, hostname, resolv.conf; as steps.

Shapes   `plan` makes them in a directory; where that is /etc/netns/NAME, `ip netns exec` shows
         them; elsewhere they are bound over those in /etc
Source   Docker for their content (netkit.dns); ip-netns(8) for /etc/netns

What resolv.conf says follows from the networks a sandbox is on, and from the host's: `resolv_conf`
alone knows how. Where either changes it is written anew, in place, by a step (Rewrite) of whatever
changed it; unless somebody has edited it. The text netkit wrote last is that of the File among the
sandbox's own steps: netkit.renewal puts it there, in the transaction that commits the change.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from netkit import steps
from netkit.addresses import Address
from netkit.dns import hosts, resolvconf
from netkit.model import DEFAULT_NETWORK, NetworkRecord, SandboxRecord
from netkit.specs import NameFiles
from netkit.steps import BindMount, Directory, File, Plan, Rewrite, Step

NETNS_ETC = "/etc/netns"
_RESOLV_CONF = "/etc/resolv.conf"
_RESOLVED = "/run/systemd/resolve/resolv.conf"  # where resolved keeps the servers it really asks
HOST_SERVER = "127.78.75.53"  # where netkit serves the host itself: asking there would be a loop
HOSTS = (_RESOLV_CONF, _RESOLVED)  # the host's own, which sandboxes' follow


class Place(NamedTuple):
    """A network a sandbox is on, and the IP versions of its addresses there."""

    net: NetworkRecord
    versions: Collection[int]


def plan(
    directory: str,
    files: NameFiles,
    places: Sequence[Place] = (),
    *,
    on_host: bool = False,
    host_gateway: Address | None = None,
) -> Plan:
    """The directory and the files in it. *on_host*: the sandbox shares the host's network."""
    extra = [hosts.parse_extra(entry, host_gateway=host_gateway) for entry in files.extra_hosts]
    if on_host:
        text = _read("/etc/hosts") or hosts.render()
        for name, address in extra:
            text = hosts.add(text, address, (name,))
    else:
        text = hosts.render(extra=extra, ipv6=any(place.net.ipv6 for place in places))
    made: list[Step] = [
        Directory(path=directory),
        File(path=f"{directory}/hosts", content=text),
        File(path=f"{directory}/resolv.conf", content=resolv_conf(files, places, on_host=on_host)),
    ]
    if files.hostname is not None:
        name = hosts.own_names(files.hostname, files.domainname)[0]
        made.append(File(path=f"{directory}/hostname", content=f"{name}\n"))
    return tuple(made)


def resolv_conf(files: NameFiles, places: Sequence[Place], *, on_host: bool = False) -> str:
    """What resolv.conf is to say in a sandbox that is at *places*, oldest first."""
    if on_host and not files.given:
        return _read(_RESOLV_CONF)
    nets = [place.net for place in places]
    servers = files.servers or tuple(dict.fromkeys(ip for net in nets for ip in net.servers))
    found = resolvconf.for_sandbox(
        _host_resolv_conf(),
        dns=servers,
        search=files.search,
        options=files.options,
        internal=bool(nets) and all(net.internal for net in nets),
        ipv6=any(net.ipv6 for net in nets),
        served_at=[str(at) for place in places for at in _served_at(place)],
        listed=any(net.name == DEFAULT_NETWORK for net in nets),
    )
    return resolvconf.render(found)


def _served_at(place: Place) -> list[Address]:
    """Where a sandbox asks for the names of a network: one address, of IPv4 if it can be."""
    if not place.net.names:
        return []
    near = [ip for ip in servers_of(place.net) if ip.version in place.versions]
    return sorted(near, key=lambda ip: ip.version)[:1]


# -- while it lives


def written(sandbox: SandboxRecord) -> File | None:
    """What netkit wrote last into a sandbox's resolv.conf; None: the file is not netkit's."""
    if '/resolv.conf"' not in sandbox.steps:  # most have none, and decoding takes its time
        return None
    plan = steps.decode(sandbox.steps)
    files = (step for step in plan if isinstance(step, File))
    return next((file for file in files if file.path.endswith("/resolv.conf")), None)


def is_ours(last: File) -> bool:
    """Whether a file still says what netkit wrote last, as far as it can be read."""
    return steps.same_text(_read(last.path), last.content) or not os.access(last.path, os.R_OK)


def rewrite(sandbox: SandboxRecord, places: Sequence[Place]) -> tuple[Rewrite, ...]:
    """The step that brings a sandbox's resolv.conf up to date, if it is netkit's and is not."""
    last = written(sandbox)
    if last is None:
        return ()
    text = resolv_conf(sandbox.files, places, on_host=sandbox.netns is None)
    if text == last.content:
        return ()
    return (Rewrite(path=last.path, content=text, was=last.content, sandbox=sandbox.id),)


def binds(directory: str, files: NameFiles) -> tuple[tuple[str, str], ...]:
    """(source, target) of each file."""
    names = ["hosts", "resolv.conf"] + (["hostname"] if files.hostname is not None else [])
    return tuple((f"{directory}/{name}", f"/etc/{name}") for name in names)


def inject(directory: str, files: NameFiles, pid: int) -> Plan:
    """Bind the files inside the mount namespace of a running process."""
    mnt = f"/proc/{pid}/ns/mnt"
    return tuple(
        BindMount(source=source, target=target, mnt=mnt)
        for source, target in binds(directory, files)
    )


def servers_of(net: NetworkRecord) -> list[Address]:
    """Where the names of a network are served: its gateways, as far as the host has them."""
    return [ip.ip for ip in net.gateways if net.mode(ip.version) != "isolated"]


def nameservers() -> list[str]:
    """The servers the host asks: subnets must not hide them."""
    return [*resolvconf.parse(_host_resolv_conf()).nameservers]


def of_host() -> tuple[str, ...]:
    """What the host's files say, as far as a sandbox's may depend on it."""
    return tuple(map(_read, HOSTS))


def search_domains() -> list[str]:
    """Where the host looks for a name that is not there as it stands."""
    return [*resolvconf.parse(_host_resolv_conf()).search]


def _host_resolv_conf() -> str:
    """Whom the host asks; but for netkit itself."""
    text = _read(_RESOLV_CONF)
    if resolvconf.only_stub(resolvconf.parse(text)):
        text = _read(_RESOLVED) or text
    return text.replace(f"nameserver {HOST_SERVER}\n", "")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
