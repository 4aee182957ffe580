"""Which of the two packet filters this kernel has, asked of the kernel itself.

Shapes   two questions, each a few system calls on a socket (30 µs): no program is run, no table
         is made. Where nf_tables is a module, asking loads it, as using it would
Errors   PermissionError for who may not program the firewall here
Source   nfnetlink.h and nf_tables.h (the generation of all rules); ip_tables.h
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_NETLINK_NETFILTER = 12
_GET_GENERATION = 10 << 8 | 16  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_TIMEOUT_S = 2.0
_IPT_SO_GET_INFO = 64


def has_nf_tables() -> bool:
    """Whether this kernel has nf_tables."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
            sock.settimeout(_TIMEOUT_S)
            header = struct.pack("=IHHII", 20, _GET_GENERATION, _NLM_F_REQUEST, 1, 0)
            sock.sendto(header + bytes(4), (0, 0))
            answer = sock.recv(4096)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.ECONNREFUSED):
            return False
        raise
    kind, code = struct.unpack_from("=4xH10xi", answer)
    if kind == _NLMSG_ERROR and -code in (errno.EPERM, errno.EACCES):
        raise PermissionError(-code, os.strerror(-code))
    return bool(kind != _NLMSG_ERROR)


def has_ip_tables() -> bool:
    """Whether this kernel has iptables' own (legacy) tables, or the module for them."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        try:
            # one byte is too short for an answer: EINVAL, before it looks at (and makes) a table
            sock.getsockopt(socket.SOL_IP, _IPT_SO_GET_INFO, 1)
        except OSError as error:
            if error.errno in (errno.EPERM, errno.EACCES):
                raise
            return error.errno == errno.EINVAL or _is_module("ip_tables")
    return False


def _is_module(name: str) -> bool:
    try:
        with open(f"/lib/modules/{os.uname().release}/modules.dep") as file:
            return any(f"/{name}.ko" in line.partition(":")[0] for line in file)
    except OSError:
        return False
