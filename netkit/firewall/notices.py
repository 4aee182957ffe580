"""nftables' own notices: what somebody else took from netkit's tables, or changed of their chains.

    with Notices() as notices:
        select.select([notices], [], [])
        notices.read()                          # [Loss(chains=True, set(), "nft (process 4711)")]

Shapes   an element is (home, the bytes of its key): what netkit.firewall.elements makes of its text
Errors   OSError from the socket. Notices the kernel had no room for are a Loss of anything
Source   include/uapi/linux/netfilter/nf_tables.h; nf_tables_commit: all of one transaction comes
         from one port, and last what says by whose request it was

What netkit itself does to elements bears its number (nfnetlink.OURS), and is passed over.
"""

from __future__ import annotations

import errno
import socket
import struct
from types import TracebackType
from typing import NamedTuple, Self

from netkit.attributes import read
from netkit.firewall.nfnetlink import OURS

_NETLINK_NETFILTER = 12
_GROUP = 7  # NFNLGRP_NFTABLES
_NFTABLES = 10  # NFNL_SUBSYS_NFTABLES
_DEL_TABLE, _DEL_CHAIN, _NEW_RULE, _DEL_RULE, _DEL_SET = 2, 5, 6, 8, 11  # NFT_MSG_*
_DEL_ELEMENT, _NEW_GENERATION = 14, 15
_STRUCTURE = {_DEL_TABLE, _DEL_CHAIN, _NEW_RULE, _DEL_RULE, _DEL_SET}
_TABLE, _SET, _ELEMENTS, _CHAIN = 1, 2, 3, 2  # NFTA_*_TABLE, NFTA_SET_ELEM_LIST_*, NFTA_RULE_CHAIN
_KEY, _VALUE = 1, 1  # NFTA_SET_ELEM_KEY, NFTA_DATA_VALUE
_PID, _PROGRAM = 2, 3  # NFTA_GEN_PROC_*
_FAMILIES = {1: "inet", 7: "bridge"}
_ROOM = 4 << 20
_OURS = b"netkit"
_ADMIN = "admin"  # a chain netkit never writes to, and never looks at


class Loss(NamedTuple):
    """`chains`: something of tables, chains or rules; `everything`: who knows."""

    chains: bool
    elements: set[tuple[str, bytes]]
    who: str
    everything: bool = False


class Notices:
    """Those of the caller's network namespace."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM)
        self._sock.bind((0, 1 << (_GROUP - 1)))
        self._open: dict[int, Loss] = {}  # by port: transactions whose last notice is to come

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def read(self) -> list[Loss]:
        """What was lost since it was last asked, by transactions of others."""
        lost: list[Loss] = []
        while True:
            try:
                data = memoryview(self._sock.recv(1 << 17))
            except BlockingIOError:
                return lost
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                lost.append(Loss(True, set(), "somebody", everything=True))
                continue
            while data:
                length, kind, _, number, port = struct.unpack_from("=IHHII", data)
                if kind >> 8 == _NFTABLES:
                    lost += self._heed(kind & 0xFF, number, port, bytes(data[16:length]))
                data = data[(length + 3) & ~3 :]

    def _heed(self, kind: int, number: int, port: int, body: bytes) -> list[Loss]:
        if kind == _NEW_GENERATION:
            loss = self._open.pop(port, None)
            is_loss = loss is not None and number != OURS and (loss.chains or loss.elements)
            return [loss._replace(who=_culprit(body))] if loss and is_loss else []
        if kind not in _STRUCTURE and kind != _DEL_ELEMENT:
            return []
        found = read(body, 4)
        table = found.get(_TABLE, b"").rstrip(b"\0")
        if table != _OURS or body[0] not in _FAMILIES:
            return []
        loss = self._open.setdefault(port, Loss(False, set(), ""))
        if kind == _DEL_ELEMENT:
            home = f"{_FAMILIES[body[0]]} netkit {_text(found[_SET])}"
            loss.elements.update((home, key) for key in _keys(found[_ELEMENTS]))
        elif kind not in (_NEW_RULE, _DEL_RULE) or _text(found[_CHAIN]) != _ADMIN:
            self._open[port] = loss._replace(chains=True)
        return []


def _keys(listed: bytes) -> list[bytes]:
    """The keys of a list of elements, which bear all the same number."""
    keys = []
    at = 0
    while at < len(listed):
        (length,) = struct.unpack_from("=H", listed, at)
        element = read(listed[at + 4 : at + length])
        keys.append(read(element[_KEY])[_VALUE])
        at += max((length + 3) & ~3, 4)
    return keys


def culprit(program: str, pid: int) -> str:
    """How whoever took something is named; *pid* is a thread's, as the kernel tells it."""
    return f"{program} (process {pid})"


def _culprit(body: bytes) -> str:
    found = read(body, 4)
    program = _text(found.get(_PROGRAM, b"somebody"))
    return culprit(program, int.from_bytes(found.get(_PID, b""), "big"))


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
