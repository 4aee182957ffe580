"""The three files of a sandbox: hosts, hostname, resolv.conf; as steps.

Shapes   `plan` makes them in a directory; where that is /etc/netns/NAME, `ip netns exec` shows
         them; elsewhere they are bound over those in /etc
Source   Docker for their content (netkit.dns); ip-netns(8) for /etc/netns
"""

from __future__ import annotations

from netkit.addresses import Address
from netkit.dns import hosts, resolvconf
from netkit.model import NameFiles
from netkit.steps import BindMount, Directory, File, Plan, Step

NETNS_ETC = "/etc/netns"
_RESOLV_CONF = "/etc/resolv.conf"
_RESOLVED = "/run/systemd/resolve/resolv.conf"  # where resolved keeps the servers it really asks


def plan(
    directory: str,
    files: NameFiles,
    *,
    on_host: bool = False,
    internal: bool = False,
    ipv6: bool = False,
    host_gateway: Address | None = None,
) -> Plan:
    """The directory and the files in it. *on_host*: the sandbox shares the host's network."""
    extra = [hosts.parse_extra(entry, host_gateway=host_gateway) for entry in files.extra_hosts]
    if on_host:
        text = _read("/etc/hosts") or hosts.render()
        for name, address in extra:
            text = hosts.add(text, address, (name,))
        servers = _read(_RESOLV_CONF) if not files.given else resolvconf.render(_resolv(files))
    else:
        text = hosts.render(extra=extra, ipv6=ipv6)
        servers = resolvconf.render(_resolv(files, internal, ipv6))
    steps: list[Step] = [
        Directory(path=directory),
        File(path=f"{directory}/hosts", content=text),
        File(path=f"{directory}/resolv.conf", content=servers),
    ]
    if files.hostname is not None:
        name = hosts.own_names(files.hostname, files.domainname)[0]
        steps.append(File(path=f"{directory}/hostname", content=f"{name}\n"))
    return tuple(steps)


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


def nameservers() -> list[str]:
    """The servers the host asks: subnets must not hide them."""
    return [*resolvconf.parse(_host_resolv_conf()).nameservers]


def _resolv(files: NameFiles, internal: bool = False, ipv6: bool = False) -> resolvconf.ResolvConf:
    return resolvconf.for_sandbox(
        _host_resolv_conf(),
        dns=files.servers,
        search=files.search,
        options=files.options,
        internal=internal,
        ipv6=ipv6,
    )


def _host_resolv_conf() -> str:
    text = _read(_RESOLV_CONF)
    if resolvconf.only_stub(resolvconf.parse(text)):
        return _read(_RESOLVED) or text
    return text


def _read(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""
