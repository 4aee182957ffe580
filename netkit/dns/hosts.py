"""/etc/hosts: a sandbox's file, and lines put into it and taken out again.

Shapes   text in, text out; a line of ours is `address<TAB>name[ name…]<NL>`, the address canonical
Errors   InvalidSpec for an address, a name or an extra host that is not one
Source   hosts(5); the format, line for line, is Docker's. The limit of a host name is Linux's
         HOST_NAME_MAX, 64; that of a name in DNS RFC 1035's, 253
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from netkit.errors import InvalidSpec
from netkit.naming import validate_domain

HOST_GATEWAY = "host-gateway"

_LOCAL_V4 = "127.0.0.1\tlocalhost\n"
_LOCAL_V6 = (
    "::1\tlocalhost ip6-localhost ip6-loopback\n"
    "fe00::\tip6-localnet\n"
    "ff00::\tip6-mcastprefix\n"
    "ff02::1\tip6-allnodes\n"
    "ff02::2\tip6-allrouters\n"
)

Address = str | IPv4Address | IPv6Address


def render(
    *,
    hostname: str | None = None,
    domainname: str | None = None,
    addresses: Iterable[Address] = (),
    extra: Iterable[tuple[str, Address]] = (),
    ipv6: bool = False,
) -> str:
    """The whole file: localhost, the extra hosts, the sandbox's own names at each of *addresses*.

    Without *ipv6* no IPv6 line is written: a name that resolves to what cannot be reached costs
    its user a timeout.
    """
    names = own_names(hostname, domainname) if hostname is not None else ()
    records = [_line(_ip(address), (name,)) for name, address in extra]
    records += [_line(_ip(address), names) for address in addresses if names]
    lines = [line for line in records if ipv6 or ":" not in line]  # no name holds a colon
    return "".join([_LOCAL_V4, _LOCAL_V6 * ipv6, *lines])


def own_names(hostname: str, domainname: str | None = None) -> tuple[str, ...]:
    """The names a host answers to: the full one first, as canonical name, then the short one."""
    full = validate_hostname(hostname)
    if domainname:
        full = validate_domain("domain name", f"{full}.{domainname}")
    short = full.partition(".")[0]
    return (full,) if short == full else (full, short)


def add(text: str, address: Address, names: Iterable[str]) -> str:
    """*text* with one line more; `remove` of the same gives the same bytes again."""
    # before what the user left unterminated, or the two would become one line
    head, newline, rest = text.rpartition("\n")
    return head + newline + _line(_ip(address), tuple(names)) + rest


def remove(text: str, address: Address, names: Iterable[str]) -> str:
    """*text* without the line `add` wrote; nothing else is touched, no line is no error."""
    line = _line(_ip(address), tuple(names))
    # the last one: should the user have written the very same line, it was there first
    at = ("\n" + text).rfind("\n" + line)
    return text if at < 0 else text[:at] + text[at + len(line) :]


def parse_extra(text: str, *, host_gateway: Address | None = None) -> tuple[str, str]:
    """(name, address) of `name:ip` or `name=ip`; `host-gateway` stands for *host_gateway*."""
    name, *rest = re.split("[:=]", text, maxsplit=1)
    address = "".join(rest)
    if not name or not address:
        raise InvalidSpec(
            f"invalid extra host {text!r:.80}: name:ip is wanted",
            hint="such as db:172.25.9.9, db=2001:db8::9 or host.internal:host-gateway",
        )
    if address == HOST_GATEWAY:
        if host_gateway is None:
            raise InvalidSpec(
                f"extra host {text!r:.80}: no address is known for {HOST_GATEWAY} here",
                hint="connect to a network with a gateway, or write the address",
            )
        address = str(host_gateway)
    elif address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    return validate_domain("host name", name), str(_ip(address))


def validate_hostname(name: str) -> str:
    """*name*, if a machine may be called so: RFC 1123, hence no underscore, and 64 characters."""
    if "_" in name:
        raise InvalidSpec(
            f"invalid hostname {name!r:.80}: '_' is not allowed in it",
            hint=f"use '-' instead: {name.replace('_', '-')!r:.80}",
        )
    if len(validate_domain("hostname", name)) > 64:
        raise InvalidSpec(
            f"invalid hostname {name!r:.80}: {len(name)} characters, Linux allows 64",
            hint="give the short name as hostname and the rest as domainname",
        )
    return name


def _ip(address: Address) -> IPv4Address | IPv6Address:
    try:
        ip = ip_address(str(address))
    except ValueError:
        ip = None
    # ipaddress takes anything for a zone, newlines too; and another netns has other links
    if ip is None or (isinstance(ip, IPv6Address) and ip.scope_id is not None):
        raise InvalidSpec(
            f"invalid address {str(address)!r:.80}: an IP address without zone is wanted",
            hint="such as 172.25.9.9 or 2001:db8::9",
        )
    return ip


def _line(ip: IPv4Address | IPv6Address, names: tuple[str, ...]) -> str:
    if not names:
        raise InvalidSpec(f"no name is given for {ip}", hint="give at least one")
    return f"{ip}\t{' '.join(validate_domain('host name', name) for name in names)}\n"
