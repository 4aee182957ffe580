"""An address space: which subnet comes next, and whether one fits beside those there are.

Shapes   a block is a network and the prefix length of the pieces cut from it
Units    prefix lengths in bits
Errors   InvalidPool, PoolOverlap, PoolExhausted (ipam.errors)
Source   default blocks: Docker's local scope (moby daemon/libnetwork/ipamutils); ULA: RFC 4193
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ipam.errors import InvalidPool, PoolExhausted, PoolOverlap
from ipam.pool import Network, parse_network


class Block(NamedTuple):
    """Subnets of prefix length *size*, cut from *base* in order."""

    base: Network
    size: int

    @classmethod
    def parse(cls, base: str | Network, size: int) -> Block:
        network = parse_network(base)
        if not network.prefixlen <= size <= network.max_prefixlen:
            raise InvalidPool(
                f"cannot cut /{size} from {network}",
                f"size is from {network.prefixlen} to {network.max_prefixlen}",
            )
        return cls(network, size)


# Docker's: one subnet of each, but the last, which is cut in sixteen
DOCKER_BLOCKS = tuple(
    Block.parse(base, size)
    for base, size in (
        ("172.17.0.0/16", 16),
        ("172.18.0.0/16", 16),
        ("172.19.0.0/16", 16),
        ("172.20.0.0/14", 16),
        ("172.24.0.0/14", 16),
        ("172.28.0.0/14", 16),
        ("192.168.0.0/16", 20),
    )
)


def ula(seed: str) -> Block:
    """The /64s of a private IPv6 /48: the same seed (say, the machine id), the same /48."""
    from hashlib import sha256  # lazily: 2 ms that an IPv4 caller need not pay

    global_id = sha256(seed.encode()).digest()[:5]
    return Block.parse(
        f"fd{global_id[0]:02x}:{global_id[1:3].hex()}:{global_id[3:5].hex()}::/48", 64
    )


class AddressSpace:
    """The blocks subnets are taken from when nobody names one."""

    def __init__(self, blocks: Sequence[Block] = DOCKER_BLOCKS) -> None:
        self.blocks = tuple(blocks)

    def next(
        self, taken: Iterable[Network] = (), *, size: int | None = None, version: int = 4
    ) -> Network:
        """The first free piece, clear of every network in *taken*; *size* asks for /size pieces."""
        around = [net for net in taken if net.version == version and not _is_shared(net)]
        for base, piece in self.blocks:
            prefix = piece if size is None else size
            if base.version == version and base.prefixlen <= prefix <= base.max_prefixlen:
                found = _first_gap(base, prefix, around)
                if found is not None:
                    return found
        raise PoolExhausted(
            "all predefined address pools have been fully subnetted",
            "name a subnet, remove unused networks, or configure more address pools",
        )


def check(
    subnet: str | Network,
    *,
    own: Iterable[tuple[str, Network]] = (),
    routes: Iterable[Network] = (),
) -> Network:
    """*subnet* itself, unless it overlaps a network of *own* (name, subnet) or a host route."""
    wanted = parse_network(subnet)
    for name, net in own:
        if wanted.overlaps(net):
            raise PoolOverlap(
                f"{wanted} overlaps network {name!r} ({net})", "choose another subnet"
            )
    for net in routes:
        if wanted.overlaps(net) and not _is_shared(net):
            raise PoolOverlap(
                f"{wanted} overlaps the host's route to {net}",
                "choose another subnet: the host would lose its way there",
            )
    return wanted


def _is_shared(net: Network) -> bool:
    # A default route, or the halves a full-tunnel VPN puts in its place (0.0.0.0/1 + 128.0.0.0/1),
    # is a way to everywhere, no network to collide with. No private network is wider than 10/8
    # (RFC 1918) or fc00::/7 (RFC 4193), so anything wider is such a way. fe80::/64 and ff00::/8
    # every IPv6 link has for itself
    if net.version == 4:
        return net.prefixlen < 8
    return net.prefixlen < 7 or net.is_link_local or net.is_multicast


def _first_gap(base: Network, prefix: int, taken: Iterable[Network]) -> Network | None:
    """The first /prefix of *base* clear of *taken*; sorts, then looks at each of *taken* once."""
    shift = base.max_prefixlen - prefix

    # everything is numbered in pieces: /prefix networks, counted from address 0
    def pieces(net: Network) -> tuple[int, int]:
        return int(net.network_address) >> shift, int(net.broadcast_address) >> shift

    piece, end = pieces(base)
    for first, last in sorted(map(pieces, taken)):
        if first > piece:
            break
        piece = max(piece, last + 1)
    return None if piece > end else type(base)((piece << shift, prefix))
