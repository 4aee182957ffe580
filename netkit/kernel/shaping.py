"""Traffic shaping of an interface: a token bucket for what it sends, and one for what it receives.

    netlink.add_bucket("veth1", Bucket.of(rate=125_000, burst=10_000))
    netlink.add_redirect("veth1", to="ifb1")    # what veth1 receives is what ifb1 sends

Shapes   requests packed by hand, as in rtnl.py; of an interface by name
Units    bytes, and bytes per second; the kernel counts time in ticks of 64 ns
Errors   OSError; EOPNOTSUPP that names the build option where this kernel lacks what it takes
Source   include/uapi/linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h; net/sched

Where some subnets are spared, or only some are meant, the bucket is behind a class of HTB, which
lets pass by what its filters do not send there: HTB itself shapes nothing.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from netkit import attributes
from netkit.addresses import Network
from netkit.attributes import pack
from netkit.kernel import features, rtnl

_NEWQDISC, _DELQDISC, _GETQDISC = 36, 37, 38  # RTM_*
_NEWCLASS, _NEWFILTER, _GETFILTER = 40, 44, 46
_CREATE, _ECHO, _ACK, _DUMP = 0x400 | 0x200, 0x8, 0x4, 0x300
_ROOT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1  # TC_H_*
_INGRESS_HANDLE, _RECEIVED, _HANDLE = 0xFFFF0000, 0xFFFFFFF2, 0x00010000  # ffff:, its side, 1:
_SHAPED, _BUCKET = 0x00010030, 0x00300000  # class 1:30, and the bucket behind it, 30:
_KIND, _OPTIONS = 1, 2  # TCA_*
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_HTB_PARMS, _HTB_INIT, _HTB_RATE64, _HTB_CEIL64 = 1, 2, 5, 6
_U32_CLASSID, _U32_SEL, _U32_ACT = 1, 5, 7
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_REDIRECT, _STOLEN = 1, 4  # TCA_EGRESS_REDIR, TC_ACT_STOLEN
_TERMINAL = 1  # TC_U32_TERMINAL
_ETHERNET = 1  # TC_LINKLAYER_ETHERNET: the kernel then asks for no table of rates
_EVERYTHING = 3  # ETH_P_ALL
_PROTOCOLS = {4: (0x0800, 16, 12), 6: (0x86DD, 24, 8)}  # and where the ends are in a packet
_TICK_NS, _NS = 64, 10**9
_U32 = (1 << 32) - 1
_FAST = 125 * 10**9  # a terabit: what is behind it is slower
_UNKNOWN = {
    "Specified qdisc kind is unknown": None,
    "TC classifier not found": "u32",
    "Failed to load TC action module": "mirred",
}


class Bucket(NamedTuple):
    """*rate* bytes per second pass, *burst* at once; of what does not, *limit* may wait."""

    rate: int
    burst: int
    limit: int

    def __str__(self) -> str:
        return f"tbf rate {self.rate}bps burst {self.burst} limit {self.limit}"

    def is_like(self, other: Bucket) -> bool:
        """But for what a burst loses by being kept as time."""
        near = abs(self.burst - other.burst) <= 2 + 2 * self.rate * _TICK_NS // _NS
        return near and (self.rate, self.limit) == (other.rate, other.limit)


class Shaping:
    """Part of netkit.kernel.netlink.Netlink."""

    def index(self, name: str) -> int:
        raise NotImplementedError

    def _do(self, request: bytes, kind: int, flags: int = 0) -> None:
        raise NotImplementedError

    def _talk(self, request: bytes, kind: int, flags: int) -> Iterator[bytes]:
        raise NotImplementedError

    def add_bucket(
        self,
        name: str,
        bucket: Bucket,
        *,
        only: Iterable[Network] = (),
        spared: Iterable[Network] = (),
        sources: bool = False,
    ) -> None:
        """Shape what *name* sends; perhaps *only* what goes to these subnets, or all but what goes
        to those *spared*. With *sources* it is what comes from them.
        """
        index, only, spared = self.index(name), [*only], [*spared]
        with _explained("tbf"):
            if not only and not spared:
                self._do(_bucket(index, bucket, _ROOT, _HANDLE), _NEWQDISC, _CREATE)
                return
        with _explained("htb"):
            otherwise = 0 if only else _SHAPED & 0xFFFF
            self._do(_htb(index, otherwise), _NEWQDISC, _CREATE)
        try:
            self._do(_htb_class(index), _NEWCLASS, _CREATE)
            with _explained("tbf"):
                self._do(_bucket(index, bucket, _SHAPED, _BUCKET), _NEWQDISC, _CREATE)
            for subnet in only or spared:
                where = _SHAPED if only else _HANDLE  # 1: itself is past all classes
                with _explained("u32"):
                    self._do(_match(index, subnet, sources, where), _NEWFILTER, _CREATE)
        except BaseException:
            self.delete_bucket(name)
            raise

    def bucket(self, name: str) -> Bucket | None:
        """What shapes what *name* sends."""
        index = self.index(name)
        found = self._qdisc(index, _ROOT)
        if found and rtnl.text(found[_KIND]) == "htb":
            found = self._qdisc(index, _SHAPED)
        if not found or rtnl.text(found[_KIND]) != "tbf":
            return None
        return _read_bucket(attributes.read(found[_OPTIONS]))

    def subnets(self, name: str) -> int:
        """How many filters tell what is shaped from what is not."""
        index, found = self.index(name), self._qdisc(self.index(name), _ROOT)
        if not found or rtnl.text(found[_KIND]) != "htb":
            return 0
        return sum(_U32_CLASSID in each for each in self._filters(index, _HANDLE))

    def delete_bucket(self, name: str) -> None:
        self._do(_header(self.index(name), _HANDLE, _ROOT), _DELQDISC)

    def add_redirect(self, name: str, to: str) -> None:
        """What *name* receives is what *to* sends."""
        index, other = self.index(name), self.index(to)
        with _explained("ingress"):
            kind = pack(_KIND, b"ingress\0")
            self._do(_header(index, _INGRESS_HANDLE, _INGRESS) + kind, _NEWQDISC, _CREATE)
        try:
            with _explained("u32"):
                self._do(_redirect(index, other), _NEWFILTER, _CREATE)
        except BaseException:
            self.delete_redirect(name)
            raise

    def redirect(self, name: str) -> int | None:
        """The index of the interface that sends what *name* receives."""
        for options in self._filters(self.index(name), _RECEIVED):
            for action in attributes.read(options.get(_U32_ACT, b"")).values():
                said = attributes.read(action)
                if rtnl.text(said.get(_ACT_KIND, b"")) != "mirred":
                    continue
                parms = attributes.read(said[_ACT_OPTIONS])[_MIRRED_PARMS]
                kind, index = struct.unpack_from("=iI", parms, 20)
                if kind == _REDIRECT:
                    return int(index)
        return None

    def delete_redirect(self, name: str) -> None:
        self._do(_header(self.index(name), _INGRESS_HANDLE, _INGRESS), _DELQDISC)

    def _qdisc(self, index: int, parent: int) -> dict[int, bytes]:
        try:
            # whoever asks is only told by an echo; and of its own ones the kernel says nothing
            answers = [*self._talk(_header(index, 0, parent), _GETQDISC, _ECHO | _ACK)]
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return {}
            raise
        return rtnl.read(answers[0], _HEADER.size) if answers else {}

    def _filters(self, index: int, parent: int) -> list[dict[int, bytes]]:
        """The options of each."""
        try:
            answers = [*self._talk(_header(index, 0, parent), _GETFILTER, _DUMP)]
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return []  # there is nothing they could be on
            raise
        found = (rtnl.read(answer, _HEADER.size) for answer in answers)
        return [attributes.read(each[_OPTIONS]) for each in found if _OPTIONS in each]


_HEADER = struct.Struct("=BxxxiIII")  # tcmsg
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec


def _header(index: int, handle: int, parent: int, info: int = 0) -> bytes:
    return _HEADER.pack(0, index, handle, parent, info)


def _rate(rate: int) -> bytes:
    return _RATE.pack(0, _ETHERNET, 0, 0, 0, min(rate, _U32))


def _bucket(index: int, bucket: Bucket, parent: int, handle: int) -> bytes:
    ticks = min(bucket.burst * _NS // bucket.rate // _TICK_NS, _U32)
    parms = _rate(bucket.rate) + _rate(0) + struct.pack("=III", bucket.limit, ticks, 0)
    options = pack(_TBF_PARMS, parms) + pack(_TBF_BURST, rtnl.u32(bucket.burst))
    if bucket.rate > _U32:
        options += pack(_TBF_RATE64, struct.pack("=Q", bucket.rate))
    return _header(index, handle, parent) + pack(_KIND, b"tbf\0") + pack(_OPTIONS, options)


def _read_bucket(options: dict[int, bytes]) -> Bucket:
    parms = options[_TBF_PARMS]
    rate = _RATE.unpack_from(parms)[-1]
    if _TBF_RATE64 in options:
        rate = rtnl.number(options[_TBF_RATE64])
    limit, ticks = struct.unpack_from("=II", parms, 2 * _RATE.size)
    return Bucket(rate, round(ticks * _TICK_NS * rate / _NS), limit)


def _htb(index: int, otherwise: int) -> bytes:
    """*otherwise*: the class of what no filter knows; 0 is none."""
    init = pack(_HTB_INIT, struct.pack("=IIIII", 3, 10, otherwise, 0, 0))  # tc_htb_glob
    return _header(index, _HANDLE, _ROOT) + pack(_KIND, b"htb\0") + pack(_OPTIONS, init)


def _htb_class(index: int) -> bytes:
    parms = _rate(_FAST) * 2 + struct.pack("=IIIII", 1000, 1000, 60_000, 0, 0)  # tc_htb_opt
    fast = struct.pack("=Q", _FAST)
    options = pack(_HTB_PARMS, parms) + pack(_HTB_RATE64, fast) + pack(_HTB_CEIL64, fast)
    return _header(index, _SHAPED, _HANDLE) + pack(_KIND, b"htb\0") + pack(_OPTIONS, options)


def _filter(index: int, parent: int, protocol: int, priority: int, options: bytes) -> bytes:
    info = priority << 16 | socket.htons(protocol)
    return _header(index, 0, parent, info) + pack(_KIND, b"u32\0") + pack(_OPTIONS, options)


def _selector(keys: Iterable[tuple[int, int, int]]) -> bytes:
    """Words of a packet: mask, value, and where."""
    packed = [
        struct.pack(">II", mask, value) + struct.pack("=ii", at, 0) for mask, value, at in keys
    ]
    head = struct.pack("=BBBxHHhhI", _TERMINAL, 0, len(packed), 0, 0, 0, 0, 0)
    return pack(_U32_SEL, head + b"".join(packed))


def _match(index: int, subnet: Network, sources: bool, where: int) -> bytes:
    protocol, destination, source = _PROTOCOLS[subnet.version]
    begin = source if sources else destination
    words = zip(
        struct.iter_unpack(">I", subnet.netmask.packed),
        struct.iter_unpack(">I", subnet.network_address.packed),
        strict=True,
    )
    keys = [(mask, word, begin + 4 * i) for i, ((mask,), (word,)) in enumerate(words) if mask]
    options = pack(_U32_CLASSID, rtnl.u32(where)) + _selector(keys or [(0, 0, begin)])
    return _filter(index, _HANDLE, protocol, subnet.version, options)


def _redirect(index: int, to: int) -> bytes:
    parms = struct.pack("=IIiiiiI", 0, 0, _STOLEN, 0, 0, _REDIRECT, to)  # tc_mirred
    action = pack(_ACT_KIND, b"mirred\0") + pack(_ACT_OPTIONS, pack(_MIRRED_PARMS, parms))
    options = _selector([(0, 0, 0)]) + pack(_U32_ACT, pack(1, action))
    return _filter(index, _RECEIVED, _EVERYTHING, 1, options)


@contextmanager
def _explained(kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and error.strerror in _UNKNOWN:
            raise features.missing(_UNKNOWN[error.strerror] or kind) from None
        raise
