"""Kernel parameters a user may set: those of one interface, or of a container's own namespace.

    net.ipv4.conf.IFNAME.forwarding=1     of the endpoint's interface, whatever it is called
    net/ipv6/conf/eth0.5/accept_ra=0      slashes part, so that dots may stand in names
    net.ipv4.ip_unprivileged_port_start=0 of a container (`run --sysctl`)

Shapes   a key is its path below /proc/sys, as netkit.kernel.sysctl has it
Errors   InvalidSpec for what is not on the list, before any effect: nothing outside of net/ is a
         namespace's own, and what is not an interface's own would outlive the endpoint
Source   sysctl(8) for the two spellings; Docker's com.docker.network.endpoint.sysctls for IFNAME
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from netkit.errors import InvalidSpec

IFNAME = "IFNAME"
_DIRECTORIES = {
    *(("net", version, kind) for version in ("ipv4", "ipv6") for kind in ("conf", "neigh")),
    ("net", "mpls", "conf"),
}
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}"
_VALUE = r"[A-Za-z0-9_.,:/ \t-]{1,200}"
_EVERY = ("all", "default", "lo")  # of a namespace as a whole
_SWAP = str.maketrans("./", "/.")


class Setting(NamedTuple):
    """One parameter and the value it is to have; `interface`: whose, IFNAME for the endpoint's."""

    parts: tuple[str, ...]
    value: str

    @property
    def interface(self) -> str | None:
        found = self.parts[:3] in _DIRECTORIES and len(self.parts) == 5
        return self.parts[3] if found and self.parts[3] not in _EVERY else None

    @property
    def key(self) -> str:
        return "/".join(self.parts)

    def __str__(self) -> str:
        return f"{dotted(self.key)}={self.value}"


def parse(text: str) -> Setting:
    """KEY=VALUE; the first separator in KEY says which one parts it, the other is of names."""
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    first = re.search(r"[./]", key)
    parts = tuple((key.translate(_SWAP) if first and first[0] == "." else key).split("/"))
    if not equals or not all(re.fullmatch(_PART, part) for part in parts) or ".." in key:
        raise InvalidSpec(
            f"invalid sysctl {text!r:.80}: KEY=VALUE is wanted",
            hint="such as net.ipv4.conf.IFNAME.forwarding=1",
        )
    if not re.fullmatch(_VALUE, value):
        raise InvalidSpec(
            f"invalid value {value!r:.80} of sysctl {key}: a word or some numbers are wanted",
            hint="such as 1, or 32768 60999",
        )
    if parts[0] != "net" or len(parts) < 3:
        raise InvalidSpec(
            f"cannot set sysctl {key}: only those below net. are a network namespace's own",
            hint="such as net.ipv4.conf.IFNAME.forwarding=1",
        )
    return Setting(parts, value)


def of_interface(texts: Iterable[str]) -> dict[str, str]:
    """What may be asked of one endpoint: key and value of its own interface's parameters."""
    found = {}
    for text in texts:
        setting = parse(text)
        if setting.interface is None:
            raise InvalidSpec(
                f"cannot set sysctl {dotted(setting.key)}: it is not of one interface",
                hint="write IFNAME where the interface's name stands, as in "
                "net.ipv4.conf.IFNAME.forwarding=1; what is a container's, `run --sysctl` sets",
            )
        found[setting.key] = setting.value
    return found


def split(texts: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """What `run --sysctl` asks of the container, and what of its interface."""
    settings = [(text, parse(text)) for text in texts]
    wide = {each.key: each.value for _, each in settings if each.interface is None}
    return wide, [text for text, each in settings if each.interface is not None]


def named(given: Mapping[str, str], ifname: str) -> dict[str, str]:
    """*given* with the interface's name in it; another's is refused."""
    found = {}
    for key, value in given.items():
        if key.split("/")[3] not in (IFNAME, ifname):
            raise InvalidSpec(
                f"cannot set sysctl {dotted(key)}: the interface is {ifname}",
                hint=f"write {IFNAME} in its place: it stands for the endpoint's interface",
            )
        found[of(key, ifname)] = value
    return found


def of(key: str, ifname: str) -> str:
    """The same parameter of another interface."""
    head, _, leaf = key.rpartition("/")
    return f"{head.rpartition('/')[0]}/{ifname}/{leaf}"


def dotted(key: str) -> str:
    """As sysctl(8) shows it."""
    return key.translate(_SWAP)
