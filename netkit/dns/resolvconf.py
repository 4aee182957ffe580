"""resolv.conf: the host's read, a sandbox's written.

Shapes   text in, text out; nameservers, search domains and options are canonical strings
Units    at most 3 nameservers, the C library's MAXNS; those after them are never asked
Errors   InvalidSpec for what a user gave; what the host has is left out, never refused
Source   resolv.conf(5); Docker for what is inherited, overridden and fallen back to. Unlike Docker,
         whatever is left out or put in is told in a comment of the file: nobody should learn from
         a packet capture that their queries go to 8.8.8.8
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import NamedTuple

from netkit.errors import InvalidSpec
from netkit.naming import validate_domain

FALLBACK_V4 = ("8.8.8.8", "8.8.4.4")
FALLBACK_V6 = ("2001:4860:4860::8888",)  # Docker's second would be a fourth, which is never asked
MAX_NAMESERVERS = 3
_FALLBACK = "FALLBACK"

# systemd-resolved: 53 is the stub, 54 the same as a plain proxy
_STUBS = frozenset({"127.0.0.53", "127.0.0.54"})
_OPTION = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}(:[A-Za-z0-9._-]{1,63})?"
_ZONE = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"


class ResolvConf(NamedTuple):
    """A resolv.conf; *notes* are its comments, *fallback*: nobody chose these nameservers."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    fallback: bool = False
    notes: tuple[str, ...] = ()


def parse(text: str) -> ResolvConf:
    """What the C library would take from *text*; it skips what it does not understand, so do we."""
    nameservers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    # split at "\n", not splitlines(): a form feed inside a comment starts no line for the C library
    for line in text.split("\n"):
        keyword, *words = _words(line)
        if keyword == "nameserver":
            nameservers += _acceptable(validate_nameserver, words[:1])
        elif keyword in ("search", "domain") and words:  # of several the last one counts
            search = _acceptable(validate_search, words)
        elif keyword == "options":  # these add up
            options += _acceptable(validate_option, words)
    return ResolvConf(tuple(nameservers), tuple(search), tuple(options))


def render(conf: ResolvConf) -> str:
    """The file; nothing that validation refuses gets into it, whoever made *conf*."""
    lines = ["# " + " ".join(note.split()) for note in conf.notes]
    lines += ["nameserver " + validate_nameserver(each) for each in conf.nameservers]
    for keyword, words in (
        ("search", [validate_search(each) for each in conf.search]),
        ("options", [validate_option(each) for each in conf.options]),
    ):
        if words:
            lines.append(" ".join([keyword, *words]))
    return "".join(line + "\n" for line in lines)


def for_sandbox(
    host_text: str,
    *,
    dns: Iterable[str] = (),
    search: Iterable[str] = (),
    options: Iterable[str] = (),
    ipv6: bool = False,
    internal: bool = False,
    served_at: Sequence[str] = (),
    listed: bool = False,
) -> ResolvConf:
    """The sandbox's resolv.conf: the host's, each part overridden by what was given for it.

    *served_at*: where netkit serves the names of containers. It asks *dns*, or the host's servers,
    about all others; and containers' names being short, no search domain is tried before them.
    *listed*: *dns* stand behind it all the same, as Docker has them on its default network.
    """
    host = parse(host_text)
    notes: list[str] = []
    fallback = False
    nameservers = tuple(validate_nameserver(each) for each in dns)
    given_options = tuple(validate_option(each) for each in options)
    inherited = host.options
    if served_at:
        asked = () if internal else nameservers or host.nameservers
        notes.append(f"netkit serves containers' names; about others it asks {_listed(asked)}")
        # of which each knows all the others do
        served = tuple(map(validate_nameserver, served_at))
        nameservers = (*served, *nameservers * listed)[:MAX_NAMESERVERS]
        inherited = tuple(each for each in host.options if not _is_ndots(each))
    elif not nameservers and internal:
        notes.append("internal network: the host's nameservers are not inherited")
    elif not nameservers:
        nameservers = tuple(each for each in host.nameservers if _reaches(each, ipv6))
        if left := [each for each in host.nameservers if each not in nameservers]:
            notes.append(f"left out, not reachable from here: {' '.join(left)}")
        if not nameservers:
            fallback = True
            nameservers = FALLBACK_V4 + FALLBACK_V6 * ipv6
            why = "the host names no nameserver reachable from here; set --dns"
            notes.append(f"{_FALLBACK}: {why}")
    nameservers = tuple(dict.fromkeys(nameservers))
    if beyond := nameservers[MAX_NAMESERVERS:]:
        notes.append(f"left out, only {MAX_NAMESERVERS} are ever asked: {' '.join(beyond)}")

    given = tuple(validate_search(each) for each in search)
    # Docker's `--dns-search .`: an override that leaves nothing
    domains = tuple(each for each in given if each != ".") if given else host.search
    unique: dict[str, str] = {}
    for each in domains:
        unique.setdefault(each.lower(), each)  # names compare without case
    choices = given_options or inherited
    if bad := [each for each in choices if not _ndots_holds(each)]:
        notes.append(f"left out, ndots is a number: {' '.join(bad)}")
    if served_at and not any(_is_ndots(each) for each in choices if each not in bad):
        choices = (*choices, "ndots:0")
    return ResolvConf(
        nameservers[:MAX_NAMESERVERS],
        tuple(unique.values()),
        # the C library lets the last of a kind win
        tuple({each.partition(":")[0]: each for each in choices if each not in bad}.values()),
        fallback,
        tuple(notes),
    )


def is_fallback(text: str) -> bool:
    """Whether a file that `render` wrote names servers nobody chose."""
    return f"# {_FALLBACK}: " in text


def only_stub(conf: ResolvConf) -> bool:
    """Whether only systemd-resolved's stub is listed: its own resolv.conf, in /run, knows more."""
    return bool(conf.nameservers) and _STUBS.issuperset(conf.nameservers)


def validate_nameserver(text: str) -> str:
    """The address in canonical form; a zone (`fe80::1%eth0`) is one of the sandbox's interfaces."""
    try:
        ip = ip_address(text)
    except ValueError:
        ip = None
    # ipaddress takes anything for a zone, newlines too
    if ip is None or (isinstance(ip, IPv6Address) and not re.fullmatch(_ZONE, ip.scope_id or "_")):
        raise InvalidSpec(
            f"invalid nameserver {text!r:.80}: an IP address is wanted",
            hint="give an address without port, such as 9.9.9.9 or 2620:fe::fe",
        )
    return str(ip)


def validate_search(text: str) -> str:
    """The domain without a leading dot; `.`, the root, stands for no search at all."""
    if text == ".":
        return text
    domain = text.removeprefix(".")
    validate_domain("search domain", domain.removesuffix("."))
    return domain


def validate_option(text: str) -> str:
    """An option `name` or `name:value`; unknown names pass, C libraries differ and skip them."""
    if not re.fullmatch(_OPTION, text):
        raise InvalidSpec(
            f"invalid resolver option {text!r:.80}: name or name:value is wanted",
            hint="one option at a time, such as ndots:2, timeout:3 or rotate",
        )
    return text


def _words(line: str) -> list[str]:
    """The line's words up to a comment, at least one; only blanks and tabs separate."""
    words = re.split(r"[ \t\r]+", line.rstrip(" \t\r"))
    for at, word in enumerate(words):
        if word.startswith(("#", ";")):
            return words[:at] or [""]
    return words


def _acceptable(validate: Callable[[str], str], words: Iterable[str]) -> list[str]:
    good = []
    for word in words:
        try:
            good.append(validate(word))
        except InvalidSpec:
            continue
    return good


def _reaches(nameserver: str, ipv6: bool) -> bool:
    """Whether an address the host uses means the same server in another network namespace."""
    ip = ip_address(nameserver)
    if isinstance(ip, IPv6Address):
        # a zone names one of the host's links; IPv4's 169.254/16 stays, clouds have resolvers there
        if not ipv6 or ip.scope_id or ip.is_link_local:
            return False
        ip = ip.ipv4_mapped or ip  # is_loopback misses ::ffff:127.0.0.1
    # the unspecified address is the C library's spelling of "this host"
    return not (ip.is_loopback or ip.is_unspecified)


def _is_ndots(option: str) -> bool:
    return option.partition(":")[0] == "ndots"


def _ndots_holds(option: str) -> bool:
    return not _is_ndots(option) or option.partition(":")[2].isdecimal()


def _listed(servers: Iterable[str]) -> str:
    return " ".join(servers) or "nobody"
