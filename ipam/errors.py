"""Every error of ipam: which address or subnet, of which pool, and what stands in the way.

    IpamError
    ├── InvalidPool          the text is no subnet or address, or the parts do not fit together
    ├── AddressOutOfRange    outside the subnet, or its network or broadcast address
    ├── AddressInUse         somebody holds it: a lease, the gateway, a reservation
    ├── PoolOverlap          the subnet overlaps a network or a route of the host
    └── PoolExhausted        no address, or no subnet, is left

The class says what the caller can do; `hint`, where there is one, is the way out in one sentence.
"""

from __future__ import annotations


class IpamError(Exception):
    """The root: catch this one to catch all of ipam's errors."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InvalidPool(IpamError):
    """The pool asked for cannot be: mend the request."""


class AddressOutOfRange(IpamError):
    """No endpoint can ever have this address in this pool."""


class AddressInUse(IpamError):
    """Somebody holds the address; the message says who."""


class PoolOverlap(IpamError):
    """The subnet overlaps another; the message names it."""


class PoolExhausted(IpamError):
    """Nothing is left to hand out."""
