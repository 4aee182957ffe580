"""Routes and policy rules as people write them: near `ip route` and `ip rule`, and podman's commas.

    10.1.0.0/16 via 172.25.0.9 metric 100     10.1.0.0/16,172.25.0.9,100
    10.2.0.0/16 dev                           blackhole 10.9.0.0/16
    from 172.25.0.2 to 10.0.0.0/8 table 100   from 172.25.0.2 lookup 100 priority 50

Shapes   words parted by spaces, commas or `=`; `default` is 0.0.0.0/0, or ::/0 if the gateway is
         of IPv6. `str` of a value is text that `parse` makes the same value of
Units    metrics, tables, priorities and marks are numbers of 32 bits; MTU and MSS in bytes
Errors   InvalidSpec
Source   ip-route(8), ip-rule(8), podman-network-create(1) --route
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Any

import msgspec

from netkit import addresses, naming
from netkit.addresses import Address, Network
from netkit.errors import InvalidSpec

NOWHERE = ("blackhole", "unreachable", "prohibit")
_TYPES = ("unicast", *NOWHERE)
_LEAST_MTU = {4: 68, 6: 1280}  # RFC 791, RFC 8200
_MOST_MTU = 65535
_TABLE_NAMES = {"default": 253, "main": 254, "local": 255}  # /etc/iproute2/rt_tables
_UINT32 = range(1 << 32)
_SEPARATORS = r"[ \t,=]+"
_NUMBER = r"\d{1,10}|0[xX][0-9a-fA-F]{1,8}"


class RouteSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One route. Without a gateway it is the network's, unless `link`: then *dst* is on-link.

    `onlink`: take it that the gateway is there, whatever the subnet. `table` None is main.
    """

    dst: Network
    gateway: Address | None = None
    link: bool = False
    onlink: bool = False
    type: str = "unicast"
    metric: int | None = None
    table: int | None = None
    mtu: int | None = None
    advmss: int | None = None
    source: Address | None = None

    @classmethod
    def parse(cls, text: str) -> RouteSpec:
        words = _words("route", text)
        refuse = _refuser("route", text, "10.1.0.0/16 via 172.25.0.9 metric 100")
        fields: dict[str, Any] = {}
        if words and words[0] in _TYPES:
            fields["type"] = words.pop(0)
        if not words:
            raise refuse("no destination")
        target, rest = words[0], iter(words[1:])
        for word in rest:
            key: str
            value: Any
            if word in _ROUTE_FLAGS:
                key, value = _ROUTE_FLAGS[word], True
            elif word in _ROUTE_WORDS:
                key, read = _ROUTE_WORDS[word]
                value = _read(refuse, read, word, rest)
            elif re.fullmatch(_NUMBER, word):  # podman: the third of three
                key, value = "metric", _understood(refuse, _number, "metric", word)
            else:
                key, value = "gateway", _understood(refuse, _gateway, "gateway", word)
            if key in fields:
                raise refuse(f"{key} is given twice")
            fields[key] = value
        six = (via := fields.get("gateway")) is not None and via.version == 6
        read = _destination6 if six else _destination
        route = cls(_understood(refuse, read, "destination", target), **fields)
        route._check(refuse)
        return route

    def _check(self, refuse: Callable[[str], InvalidSpec]) -> None:
        version = self.dst.version
        for what, ip in (("gateway", self.gateway), ("source", self.source)):
            if ip is not None and ip.version != version:
                raise refuse(f"the {what} {ip} is not of IPv{version}")
        if self.gateway is not None and (self.gateway.is_unspecified or self.gateway.is_multicast):
            raise refuse(f"no router can have the address {self.gateway}")
        if self.gateway is not None and self.link:
            raise refuse("`dev` is for what is reached without a gateway")
        if self.onlink and self.gateway is None:
            raise refuse("`onlink` is said of a gateway")
        if self.type != "unicast" and (self.gateway or self.link or self.mtu or self.advmss):
            raise refuse(f"{self.type} leads nowhere, so there is no way to describe")
        least = _LEAST_MTU[version]
        if self.mtu is not None and not least <= self.mtu <= _MOST_MTU:
            raise refuse(f"an IPv{version} route's MTU is from {least} to {_MOST_MTU}")

    @property
    def is_default(self) -> bool:
        return self.dst.prefixlen == 0

    @property
    def is_way_out(self) -> bool:
        """It takes the place of the network's default route: it has nothing to be beside it."""
        plain = self == RouteSpec(self.dst, self.gateway)
        return plain and self.is_default and self.gateway is not None

    def __str__(self) -> str:
        kind = "" if self.type == "unicast" else f"{self.type} "
        words = [f"{kind}{self.dst}"]
        if self.gateway is not None:
            words.append(f"via {self.gateway}")
        words += [word for word in ("link", "onlink") if getattr(self, word)]
        named = (
            ("metric", self.metric),
            ("table", self.table),
            ("mtu", self.mtu),
            ("advmss", self.advmss),
            ("src", self.source),
        )
        words += [f"{word} {value}" for word, value in named if value is not None]
        return " ".join("dev" if word == "link" else word for word in words)


class RuleSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """A policy rule: what it matches follows the routes of `table`. None matches anything.

    IPv4, unless an address in it says otherwise, or `version`. The lower priority is asked first.
    """

    table: int
    source: Network | None = None
    to: Network | None = None
    iif: str | None = None
    oif: str | None = None
    mark: int | None = None
    mask: int | None = None
    priority: int | None = None
    version: int = 4

    @classmethod
    def parse(cls, text: str) -> RuleSpec:
        words = iter(_words("rule", text))
        refuse = _refuser("rule", text, "from 172.25.0.2 table 100")
        fields: dict[str, Any] = {}
        for word in words:
            if word in ("-6", "inet6"):
                key, value = "version", 6
            elif word in _RULE_WORDS:
                key, read = _RULE_WORDS[word]
                value = _read(refuse, read, word, words)
            else:
                raise refuse(f"{word!r:.40} is no word of it")
            if key in fields:
                raise refuse(f"{key} is given twice")
            fields[key] = value
        if "table" not in fields:
            raise refuse("no table")
        if isinstance(fields.get("mark"), tuple):
            fields["mark"], fields["mask"] = fields["mark"]
        ends = [net for key in ("source", "to") if (net := fields.get(key)) is not None]
        if len({net.version for net in ends} | {fields.get("version", 0)} - {0}) > 1:
            raise refuse("it is of IPv4 and of IPv6")
        if ends:
            fields["version"] = ends[0].version
        return cls(**fields)

    def __str__(self) -> str:
        words = ["-6"] * (self.version == 6 and self.source is None and self.to is None)
        mask = "" if self.mask is None else f"/{self.mask:#x}"
        named = (
            ("from", None if self.source is None else _short(self.source)),
            ("to", None if self.to is None else _short(self.to)),
            ("iif", self.iif),
            ("oif", self.oif),
            ("fwmark", None if self.mark is None else f"{self.mark:#x}{mask}"),
            ("table", self.table),
            ("priority", self.priority),
        )
        return " ".join([*words, *(f"{word} {v}" for word, v in named if v is not None)])


# -- words


def _words(what: str, text: str) -> list[str]:
    if not text.isprintable() or not text.isascii() or len(text) > 500:
        raise InvalidSpec(
            f"invalid {what} {text!r:.80}: plain printable text is wanted",
            hint="words parted by spaces or commas",
        )
    return [word for word in re.split(_SEPARATORS, text) if word]


def _refuser(what: str, text: str, example: str) -> Callable[[str], InvalidSpec]:
    def refuse(why: str) -> InvalidSpec:
        return InvalidSpec(f"invalid {what} {text!r:.80}: {why}", hint=f"such as '{example}'")

    return refuse


def _read(
    refuse: Callable[[str], InvalidSpec],
    read: Callable[[str], Any],
    word: str,
    rest: Iterator[str],
) -> Any:
    """What stands behind *word*."""
    text = next(rest, None)
    if text is None:
        raise refuse(f"`{word}` is followed by nothing")
    return _understood(refuse, read, word, text)


def _understood(
    refuse: Callable[[str], InvalidSpec], read: Callable[[str], Any], what: str, text: str
) -> Any:
    try:
        return read(text)
    except ValueError:
        raise refuse(f"{text!r:.40} is no {what}") from None
    except InvalidSpec as error:
        raise refuse(str(error)) from None


def _number(text: str) -> int:
    if not re.fullmatch(_NUMBER, text):
        raise ValueError(text)
    number = int(text, 16 if text[:2] in ("0x", "0X") else 10)
    if number not in _UINT32:
        raise ValueError(text)
    return number


def _positive(text: str) -> int:
    if not (number := _number(text)):
        raise ValueError(text)
    return number


def _table(text: str) -> int:
    return _TABLE_NAMES.get(text) or _positive(text)


def _mark(text: str) -> Any:
    mark, slash, mask = text.partition("/")
    return (_number(mark), _number(mask)) if slash else _number(mark)


def _type(text: str) -> str:
    if text not in _TYPES:
        raise ValueError(text)
    return text


def _network(text: str) -> Network | None:
    """A network, or one address; `all` is none in particular."""
    if text in ("all", "any"):
        return None
    if "/" in text:
        return addresses.network("network", text)
    return ip_network(str(addresses.address("address", text)))


def _gateway(text: str) -> Address:
    return addresses.address("gateway", text)


def _destination(text: str, default: str = "0.0.0.0/0") -> Network:
    if text == "default":
        return ip_network(default)
    if (found := _network(text)) is None:
        raise ValueError(text)
    return found


def _destination6(text: str) -> Network:
    return _destination(text, "::/0")


def _short(net: Network) -> str:
    return str(net.network_address if net.prefixlen == net.max_prefixlen else net)


_ROUTE_FLAGS: Mapping[str, str] = {"dev": "link", "onlink": "onlink"}
_ROUTE_WORDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("via", "gw", "gateway"), ("gateway", _gateway)),
    "metric": ("metric", _number),
    "table": ("table", _table),
    "mtu": ("mtu", _number),
    "advmss": ("advmss", _positive),
    "src": ("source", lambda text: addresses.address("source", text)),
    "type": ("type", _type),
}
_RULE_WORDS: Mapping[str, tuple[str, Callable[[str], Any]]] = {
    "from": ("source", _network),
    "to": ("to", _network),
    "iif": ("iif", naming.validate_ifname),
    "oif": ("oif", naming.validate_ifname),
    "fwmark": ("mark", _mark),
    **dict.fromkeys(("table", "lookup"), ("table", _table)),
    **dict.fromkeys(("priority", "pref", "prio"), ("priority", _number)),
}


def parse_all(texts: Sequence[str]) -> tuple[RouteSpec, ...]:
    """Routes of repeated options; the same one twice is once."""
    return tuple(dict.fromkeys(RouteSpec.parse(text) for text in texts))


def parse_rules(texts: Sequence[str]) -> tuple[RuleSpec, ...]:
    return tuple(dict.fromkeys(RuleSpec.parse(text) for text in texts))
