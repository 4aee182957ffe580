"""What is particular to a kind of link, and the VLANs of bridge ports. Sole importer of pyroute2.

Shapes   options are the words of `ip link … type KIND`; a request as in netkit.kernel.rtnl
Errors   OSError EINVAL for a word that a kind does not have
Source   include/uapi/linux/if_link.h, if_bridge.h
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from netkit import attributes
from netkit.kernel import rtnl

Option = str | int
NO_OPTIONS: Mapping[str, Option] = MappingProxyType({})
_AF_BRIDGE = 7
_BRIDGE_SELF = 2  # BRIDGE_FLAGS_SELF, linux/if_bridge.h
_PVID, _UNTAGGED, _RANGE_BEGIN, _RANGE_END = 0x2, 0x4, 0x8, 0x10  # BRIDGE_VLAN_INFO_*
_VLANS_COMPRESSED = 4  # RTEXT_FILTER_BRVLAN_COMPRESSED
# What is particular to a kind of link, by the words of `ip link … type KIND`: the attribute, and
# for a word with few values what they are; for a word without a value, to be given as 1, the bit.
_WORDS: dict[str, dict[str, tuple[str, Mapping[str, int] | int | None]]] = {
    "bridge": {
        "vlan_filtering": ("IFLA_BR_VLAN_FILTERING", None),
        "vlan_default_pvid": ("IFLA_BR_VLAN_DEFAULT_PVID", None),
    },
    "dummy": {},
    "ipvlan": {
        "mode": ("IFLA_IPVLAN_MODE", {"l2": 0, "l3": 1, "l3s": 2}),
        "private": ("IFLA_IPVLAN_FLAGS", 1),
        "vepa": ("IFLA_IPVLAN_FLAGS", 2),
    },
    "macvlan": {
        "mode": (
            "IFLA_MACVLAN_MODE",
            {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8, "source": 16},
        ),
        "nopromisc": ("IFLA_MACVLAN_FLAGS", 1),
        "bcqueuelen": ("IFLA_MACVLAN_BC_QUEUE_LEN", None),
    },
    "tun": {  # made by netkit.kernel.tuntap, only read here
        "mode": ("IFLA_TUN_TYPE", {"tun": 1, "tap": 2}),
        "user": ("IFLA_TUN_OWNER", None),
        "group": ("IFLA_TUN_GROUP", None),
        "vnet_hdr": ("IFLA_TUN_VNET_HDR", 1),
        "multi_queue": ("IFLA_TUN_MULTI_QUEUE", 1),
    },
    "vlan": {
        "protocol": ("IFLA_VLAN_PROTOCOL", {"802.1q": 0x8100, "802.1ad": 0x88A8}),
        "id": ("IFLA_VLAN_ID", None),
    },
    "vrf": {"table": ("IFLA_VRF_TABLE", None)},
}


class Vlan(NamedTuple):
    """Tags *first* to *last* on a bridge port; *access*: one tag, of frames that bear none."""

    first: int
    last: int
    access: bool = False


@cache
def _ifinfmsg() -> Any:
    """pyroute2's class, taught by its own plugin interface what 0.9 would silently leave out."""
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    info = ifinfmsg.ifinfo
    known = info.list_link_kind()
    news = {
        "macvlan": (("IFLA_MACVLAN_BC_QUEUE_LEN", "uint32"),),
        "ipvlan": (("IFLA_IPVLAN_FLAGS", "uint16"),),
    }
    for kind, more in news.items():
        have = known[kind].nla_map
        lacking = tuple(each for each in more if each[0] not in (old[0] for old in have))
        taught = type(kind, (known[kind],), {"nla_map": (*have, *lacking)})
        info.register_link_kind(module={kind: taught})
    return ifinfmsg


def encode_options(kind: str, options: Mapping[str, Option]) -> list[list[Any]]:
    """The attributes of a kind that these words mean; EINVAL for one that it does not have."""
    found = []
    for word, value in options.items():
        try:
            key, values = _WORDS[kind][word]
            if isinstance(values, Mapping):
                number = values[str(value)]
            else:
                number = int(value) if values is None else values * int(value)
        except (KeyError, ValueError):
            raise OSError(errno.EINVAL, f"a {kind} has no option {word} {value}") from None
        found.append([key, number])
    return found


def info(kind: str, options: Mapping[str, Option], **more: Option) -> bytes:
    """A link's kind, then what is particular to it; *more* are attributes by their own names."""
    particular = [*encode_options(kind, options), *([key, more[key]] for key in more)]
    if not particular:
        return rtnl.attributes_of({rtnl.INFO_KIND: kind})
    # the former first: by it pyroute2 understands the latter
    both = [["IFLA_INFO_KIND", kind], ["IFLA_INFO_DATA", {"attrs": particular}]]
    packed = _encoded(0, [["IFLA_LINKINFO", {"attrs": both}]])
    return attributes.read(packed, rtnl.LINK_HEADER)[rtnl.LINKINFO]


class Options(Mapping[str, Option]):
    """What is particular to a link, as `info` takes it; the kernel's answer is read when asked."""

    def __init__(self, kind: str, answer: bytes) -> None:
        self._of = kind, answer

    @cached_property
    def _found(self) -> Mapping[str, Option]:
        return _options(*self._of)

    def __getitem__(self, word: str) -> Option:
        return self._found[word]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _options(kind: str, answer: bytes) -> Mapping[str, Option]:
    if not (words := _WORDS.get(kind)):
        return NO_OPTIONS
    message = _decoded(answer)
    data = message.get("IFLA_LINKINFO").get("IFLA_INFO_DATA")
    found: dict[str, Option] = {}
    for word, (key, values) in words.items() if data else ():
        value = data.get(key)
        if isinstance(values, Mapping):
            # pyroute2 puts the names of some
            value = next((name for name, number in values.items() if value in (name, number)), None)
        elif values is not None:
            value = 1 if value in (values, word) else None
        if value is not None:
            found[word] = value
    return found


def port_vlans(index: int, vlans: Iterable[Vlan], own: bool) -> bytes:
    """The tags to be put or taken; *own*: of a bridge's own port."""
    spec: list[list[Any]] = []
    if own:
        spec.append(["IFLA_BRIDGE_FLAGS", _BRIDGE_SELF])
    for vlan in vlans:
        flags = (_PVID | _UNTAGGED) * vlan.access
        ends = [(vlan.first, flags)]
        if vlan.last != vlan.first:
            ends = [(vlan.first, flags | _RANGE_BEGIN), (vlan.last, flags | _RANGE_END)]
        for vid, each in ends:
            spec.append(["IFLA_BRIDGE_VLAN_INFO", {"flags": each, "vid": vid}])
    return _encoded(_AF_BRIDGE, [["IFLA_AF_SPEC", {"attrs": spec}]], index)


def every_vlan() -> bytes:
    """What is asked for: the tags of all ports, as ranges."""
    return _encoded(_AF_BRIDGE, [["IFLA_EXT_MASK", _VLANS_COMPRESSED]])


def read_vlans(answers: Iterable[bytes], index: int) -> list[Vlan]:
    """The tags of one port, of what the kernel says of all."""
    found: list[Vlan] = []
    for message in map(_decoded, answers):
        if message["index"] != index or not (spec := message.get("IFLA_AF_SPEC")):
            continue
        first = 0
        for vlan in spec.get_attrs("IFLA_BRIDGE_VLAN_INFO"):
            flags, vid = vlan["flags"], vlan["vid"]
            if flags & _RANGE_BEGIN:
                first = vid
            else:
                begin = first if flags & _RANGE_END else vid
                found.append(Vlan(begin, vid, bool(flags & _PVID)))
    return found


def _encoded(family: int, attrs: Sequence[list[Any]], index: int = 0) -> bytes:
    message = _ifinfmsg()()
    message["family"], message["index"], message["attrs"] = family, index, attrs
    message.encode()
    return bytes(message.data)[16:]


def _decoded(answer: bytes) -> Any:
    message = _ifinfmsg()(answer)
    message.decode()
    return message
