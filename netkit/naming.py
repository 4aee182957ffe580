"""Names: which ones are allowed, and those derived from an id, an address or chance.

Shapes   ids are 64 lower-case hex digits; MAC addresses are canonical text, `02:42:0a:58:00:02`
Units    lengths of container and network names in characters, of interface names in bytes
Errors   InvalidSpec for text outside a grammar, Exhausted when every random name is taken
Source   IFNAMSIZ 16 (linux/if.h) with the NUL; labels of 63 and names of 253: RFC 1035 2.3.4,
         RFC 1123 2.1; `02:42:` + address, `veth` + 7 hex, `br-` + 12 of the id, adjective_surname:
         Docker

A grammar is an allow-list matched in full: a newline, `/`, `%`, NUL or bidi mark never has to be
thought of. Messages quote by repr, cut short, so hostile text cannot forge a line of a log.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from netkit.errors import Exhausted, InvalidSpec

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
_IFNAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_MAC = r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}"

_MOST_TEXT = 1024

# as the library's own `random` takes it: hashlib would load OpenSSL, 3 ms for one digest
_LEAN = "_sha2" if sys.version_info >= (3, 12) else "_sha256"

# `all` and `default` are directories beside the interfaces in /proc/sys/net/ipv4/conf
_RESERVED_IFNAMES = frozenset({"all", "default", "lo"})


def validate_name(kind: str, name: str) -> str:
    """*name*, if it may name a *kind*: "network", "container"…"""
    if not re.fullmatch(_NAME, name):
        raise InvalidSpec(
            f"invalid {kind} name {name!r:.80}: only [A-Za-z0-9][A-Za-z0-9_.-] "
            "up to 128 characters are allowed",
            hint="start with a letter or digit; then letters, digits, '_', '.' and '-'",
        )
    return name


def validate_ifname(name: str) -> str:
    """*name*, if the kernel, sysctl paths and command lines all take it for an interface."""
    if name in _RESERVED_IFNAMES:
        raise InvalidSpec(
            f"invalid interface name {name!r}: the kernel uses it itself",
            hint="choose another name, such as eth0",
        )
    if not re.fullmatch(_IFNAME, name):
        raise InvalidSpec(
            f"invalid interface name {name!r:.80}: only [A-Za-z0-9_][A-Za-z0-9_.-] "
            "up to 15 characters are allowed",
            hint="choose a short plain name, such as eth0",
        )
    return name


def validate_domain(kind: str, name: str) -> str:
    """*name*, if it is a DNS name; underscores pass, as in `_tcp` and compose's `my_db`."""
    if len(name) > 253 or not all(re.fullmatch(_LABEL, label) for label in name.split(".")):
        raise InvalidSpec(
            f"invalid {kind} {name!r:.80}: dot-separated labels of letters, digits, '-' and '_' "
            "are allowed, up to 63 characters a label and 253 in all",
            hint="a label does not begin or end with '-'; other alphabets go as punycode (xn--…)",
        )
    return name


def validate_alias(name: str) -> str:
    """*name*, if a container may be called so beside its name: a DNS name, or all below one,
    `*.app.local`.
    """
    validate_domain("alias", name.removeprefix("*."))
    return name


def new_id() -> str:
    """64 random hex digits."""
    while True:
        fresh = os.urandom(32).hex()
        # all digits would read as a PID where a sandbox is named by PID, path or id
        if not short_id(fresh).isdigit():
            return fresh


def short_id(id: str) -> str:
    """What tables show of an id."""
    return id[:12]


def digest(text: str) -> str:
    """An id that follows from a text: the same again from the same."""
    return _digest(text).hex()


def numbered(owner: str, number: int) -> str:
    """The first, second … name that addresses are leased to: an owner has one of a subnet."""
    return owner if number == 1 else f"{owner}#{number}"


def host_ifname(container_id: str, ifname: str) -> str:
    """The host's end of the attachment's veth: the same again from the same attachment."""
    return "veth" + _digest(f"{container_id}/{ifname}").hex()[:7]


def bridge_name(network_id: str) -> str:
    """The network's bridge; 15 bytes, the most an interface name may have."""
    return "br-" + short_id(network_id)


def mac_of(address: str | IPv4Address | IPv6Address) -> str:
    """The MAC an interface gets by default: the address again, so neighbour caches stay true."""
    from ipaddress import ip_address

    try:
        ip = ip_address(str(address))
    except ValueError:
        raise InvalidSpec(
            f"no MAC address can be derived from {str(address)!r:.80}: an IP address is wanted",
            hint="such as 172.17.0.2 or 2001:db8::2",
        ) from None
    return _mac(ip.packed if ip.version == 4 else _digest(str(ip)))


def bridge_mac(network_id: str) -> str:
    """A bridge's own MAC; without one it has its lowest port's, which changes with the ports."""
    return _mac(_digest(network_id))


def parse_mac(text: str) -> str:
    """The canonical form of `02:42:AC:11:00:02` or `08-00-27-00-0C-0A`; no group's address.

    `U:web1` is the address that belongs to the text web1, wherever it is asked for.
    """
    if text.startswith("U:"):
        return _mac_of_text(text[2:])
    if not re.fullmatch(_MAC, lower := text.lower()):
        raise InvalidSpec(
            f"invalid MAC address {text!r:.80}: six pairs of hex digits are wanted",
            hint="write it as 02:42:ac:11:00:02 or 02-42-ac-11-00-02",
        )
    mac = lower.replace("-", ":")
    if mac == "00:00:00:00:00:00":
        raise InvalidSpec(
            f"invalid MAC address {mac}: all zero means none",
            hint="leave it out, and one is derived from the IP address",
        )
    if int(mac[:2], 16) & 1:
        raise InvalidSpec(
            f"invalid MAC address {mac}: bit 0 of the first byte marks a multicast group",
            hint=f"a station's address would be {int(mac[:2], 16) & ~1:02x}{mac[2:]}",
        )
    return mac


def _mac_of_text(text: str) -> str:
    """02: and the first five bytes of what `echo TEXT | md5sum` says."""
    if not text or not text.isprintable() or len(text) > _MOST_TEXT:
        raise InvalidSpec(
            f"invalid MAC address {'U:' + text!r:.80}: some printable text is wanted",
            hint="such as U:web1; the same text has the same address everywhere",
        )
    from hashlib import md5

    return "02:" + md5(text.encode() + b"\n", usedforsecurity=False).digest()[:5].hex(":")


def generate(taken: Callable[[str], bool]) -> str:
    """A name for a container nobody named, such as `brisk_hopper`, for which *taken* is false."""
    for suffix in ("", *map(str, range(1, 10))):
        for _ in range(16):
            name = f"{_one_of(_ADJECTIVES)}_{_one_of(_SURNAMES)}{suffix}"
            if not taken(name):
                return name
    raise Exhausted("160 random container names are all taken", hint="choose one with --name")


def _digest(text: str) -> bytes:
    # surrogatepass: argv that is no UTF-8 must not raise from a function that cannot refuse
    found: bytes = _sha256()(text.encode("utf-8", "surrogatepass")).digest()
    return found


@cache
def _sha256() -> Any:
    try:
        return import_module(_LEAN).sha256
    except ImportError:  # a Python built without it
        from hashlib import sha256

        return sha256


def _mac(tail: bytes) -> str:
    return "02:42:" + tail[:4].hex(":")


def _one_of(text: str) -> str:
    words = text.split()
    return words[int.from_bytes(os.urandom(4), "big") % len(words)]


_ADJECTIVES = """
    able agile amber ample astute balmy bold brave breezy bright brisk calm candid cheerful civil
    clever cosy crisp curious dapper daring deft eager earnest fair fleet frank gentle glad golden
    hardy hearty honest humble jolly keen kind lively loyal lucid mellow merry mild modest neat
    nimble noble patient placid plucky polite prompt proud quick quiet ready serene sharp silent
    snug sober steady stoic sunny swift tidy trusty vivid warm wise witty
"""

# people who made networks, and the mathematics and machines below them
_SURNAMES = """
    abramson allman baran bellovin berners boggs boole boyle bush carpenter cerf clark cohen crocker
    crowther deering dijkstra elz erlang estrin euler feinler floyd gray hamming haverty hopper
    huffman jacobson kahn karn katz kirstein kleinrock knuth lamport licklider liskov lovelace
    mcnulty metcalfe mills mockapetris morse moy nagle nyquist paxson perlman postel pouzin
    ramakrishnan rekhter roberts shannon sollins sunshine taylor thacker thompson tomlinson turing
    vixie walden wing zimmermann
"""
