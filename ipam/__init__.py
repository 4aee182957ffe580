"""Addresses and subnets for containers, usable alone.

    >>> from ipam import Allocator, Owner, Pool, SqliteLeases
    >>> web = Allocator(Pool("10.88.0.0/24"), SqliteLeases("/var/lib/web.db"))
    >>> web.lease(Owner("c1"))
    IPv4Interface('10.88.0.2/24')

Names are loaded on first use: `import ipam` costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipam.allocator import Allocator, NullAllocator
    from ipam.errors import (
        AddressInUse,
        AddressOutOfRange,
        AddressRequired,
        InvalidPool,
        IpamError,
        PluginFailed,
        PluginRefused,
        PoolExhausted,
        PoolOverlap,
    )
    from ipam.external import ExternalAllocator, Grant
    from ipam.leases import HostLocalDir, Leases, Owner, SqliteLeases, Usage
    from ipam.pool import Pool
    from ipam.space import AddressSpace, Block

_HOMES = {
    "allocator": ("Allocator", "NullAllocator"),
    "errors": (
        "AddressInUse",
        "AddressOutOfRange",
        "AddressRequired",
        "InvalidPool",
        "IpamError",
        "PluginFailed",
        "PluginRefused",
        "PoolExhausted",
        "PoolOverlap",
    ),
    "external": ("ExternalAllocator", "Grant"),
    "leases": ("HostLocalDir", "Leases", "Owner", "SqliteLeases", "Usage"),
    "pool": ("Pool",),
    "space": ("AddressSpace", "Block"),
}
__all__ = [
    "AddressInUse",
    "AddressOutOfRange",
    "AddressRequired",
    "AddressSpace",
    "Allocator",
    "Block",
    "ExternalAllocator",
    "Grant",
    "HostLocalDir",
    "InvalidPool",
    "IpamError",
    "Leases",
    "NullAllocator",
    "Owner",
    "PluginFailed",
    "PluginRefused",
    "Pool",
    "PoolExhausted",
    "PoolOverlap",
    "SqliteLeases",
    "Usage",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value: object = getattr(import_module(f"ipam.{home}"), name)
            globals()[name] = value  # found once, an ordinary name from then on
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
