"""netkit: container networks without a container engine.

    from netkit import Netkit

Names are loaded on first use (PEP 562): `import netkit` is free.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netkit.api import Endpoint, Netkit, Network
    from netkit.errors import (
        Conflict,
        Drift,
        Exhausted,
        InvalidSpec,
        KernelRefused,
        NetkitError,
        NotFound,
    )

_HOMES = {
    "netkit.api": ("Endpoint", "Link", "Netkit", "Network"),
    "netkit.errors": (
        "Conflict",
        "Drift",
        "Exhausted",
        "InvalidSpec",
        "KernelRefused",
        "NetkitError",
        "NotFound",
    ),
}
__all__ = [
    "Conflict",
    "Drift",
    "Endpoint",
    "Exhausted",
    "InvalidSpec",
    "KernelRefused",
    "Link",
    "Netkit",
    "NetkitError",
    "Network",
    "NotFound",
]


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            value: object = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
