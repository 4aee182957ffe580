"""An allocator: a pool and the memory of its leases, in addresses instead of offsets.

NullAllocator is the one without addresses; an allocator that is somebody else's program is
ipam.external.

Errors   those of the pool and the leases (ipam.errors)
"""

from __future__ import annotations

from collections.abc import Sequence

from ipam.errors import AddressOutOfRange
from ipam.leases import Leases, Owner, Usage
from ipam.pool import Address, Interface, Pool


class Allocator:
    """Hands out the addresses of *pool*, each with the prefix length of its subnet."""

    def __init__(self, pool: Pool, leases: Leases) -> None:
        self.pool = pool
        self._leases = leases

    def lease(self, owner: Owner, wanted: str | Address | None = None) -> Interface:
        """The next address, or the one wanted; an owner without a boot id makes a reservation."""
        offset = None if wanted is None else self.pool.claim(wanted)
        return self.pool.interface(self._leases.lease(self.pool, owner, offset))

    def release(self, owner: Owner) -> Interface | None:
        """Give back what *owner* holds here, and say what it was; nothing held is no error."""
        offset = self._leases.release(self.pool, owner)
        return None if offset is None else self.pool.interface(offset)

    def held(self, owner: Owner) -> Interface | None:
        """What *owner* holds here."""
        offset = self._leases.held(self.pool, owner)
        return None if offset is None else self.pool.interface(offset)

    def usage(self) -> Usage:
        return self._leases.usage(self.pool)


class NullAllocator:
    """No addresses at all: for an interface without any, or one that somebody else numbers."""

    def lease(self, owner: Owner, wanted: Sequence[str | Address] = ()) -> tuple[Interface, ...]:
        if wanted:
            raise AddressOutOfRange(
                f"{owner.key} asks for {wanted[0]}, and no addresses are managed here",
                "ask for none, or give the network a subnet",
            )
        return ()

    def release(self, owner: Owner) -> None:
        """Nothing was leased."""
