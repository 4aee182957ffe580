"""Every error of ipam: which address or subnet, of which pool, and what stands in the way.

    IpamError
    ├── InvalidPool          the text is no subnet or address, or the parts do not fit together
    ├── AddressOutOfRange    outside the subnet, or its network or broadcast address
    ├── AddressInUse         somebody holds it: a lease, the gateway, a reservation
    ├── PoolOverlap          the subnet overlaps a network or a route of the host
    ├── PoolExhausted        no address, or no subnet, is left
    ├── AddressRequired      the pool hands out only what is asked for, and nothing was
    └── PluginFailed         an external allocator did not answer as it should
        └── PluginRefused    it did, and said no

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


class AddressRequired(IpamError):
    """The pool has no dynamic addresses: name one."""


class PluginFailed(IpamError):
    """An external allocator was of no use; *code* is a CNI error code.

    5: it cannot be found or started; 6: its answer cannot be used; 11: there was none in time.
    """

    def __init__(self, message: str, hint: str | None = None, *, code: int) -> None:
        super().__init__(message, hint)
        self.code = code


class PluginRefused(PluginFailed):
    """An external allocator said no; *code* and hint are its own."""
