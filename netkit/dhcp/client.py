"""A DHCP client as a state machine: it is told the time and what came in, and says what to send.

    INIT ──discover──> SELECTING ──offer──> REQUESTING ──ack──> BOUND ──T1──> RENEWING ──T2──>
    REBINDING ──expiry, or a refusal on the way──> INIT, without a lease

Shapes   pure: no socket, no clock; randomness is given to it
Units    seconds; a time is a number of them on a clock that never jumps, and counts sleep, too
Source   RFC 2131 section 4.4 and figure 5; RFC 6842 (the server repeats the client's id)

The first offer that will do is taken. A server that then refuses, or is silent, comes last in the
next round. Only the server a lease is of can take it away before its time.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Address, IPv4Interface
from math import inf
from random import Random
from typing import NamedTuple

from netkit.dhcp.message import (
    ANY,
    BROADCAST,
    MOST_BYTES,
    Kind,
    Message,
    Option,
    Options,
    addresses,
    is_host,
    number,
    prefix_length,
)

_NEVER_ENDS, _FOREVER_S = 0xFFFFFFFF, 1 << 40
_USUAL_LEASE_S = 3600  # where the server does not say
_LEAST_LEASE_S = 2  # a shorter one would have us do nothing but renew
_JITTER = 0.1
_RENEWAL_PAUSE_S = 60.0  # RFC 2131 4.4.5: the least between two attempts to renew
_MOST_DOUBLINGS = 16
_SAID = 100  # characters of a server's own words


class State(Enum):
    INIT = "init"
    SELECTING = "selecting"
    REQUESTING = "requesting"
    BOUND = "bound"
    RENEWING = "renewing"
    REBINDING = "rebinding"


class Timing(NamedTuple):
    # RFC 2131 says 4 s first. But a bridge's new port passes nothing until the kernel has seen its
    # link, so what is sent first is often lost: the first pauses are short
    first_pause_s: float = 0.25
    most_pause_s: float = 62.0
    request_s: float = 10.0  # for a server to confirm what it has offered


USUAL = Timing()


class Lease(NamedTuple):
    """What a server gave, and until when; its options say the rest."""

    address: IPv4Address
    server: IPv4Address
    options: Options
    renew_at: float
    rebind_at: float
    ends_at: float

    @property
    def interface(self) -> IPv4Interface:
        return IPv4Interface((self.address, prefix_length(self.options) or 32))


class Outgoing(NamedTuple):
    message: Message
    to: IPv4Address


class Client:
    """One client of one interface.

    mac        of the interface; it may change between two exchanges
    options    sent with every message: the client's id, the list of what is requested, and more
    wanted     the address to ask for
    lease      one it has already
    """

    def __init__(
        self,
        mac: bytes,
        options: Options,
        *,
        wanted: IPv4Address | None = None,
        broadcast: bool = False,
        lease: Lease | None = None,
        timing: Timing = USUAL,
        random: Random,
    ) -> None:
        self.mac = mac
        self.lease = lease
        self.state = State.BOUND if lease else State.INIT
        self.due = lease.renew_at if lease else -inf  # when to call `advance`
        self.trouble = "no server answers"  # why there is no lease yet, or why it was lost
        self._options = options
        self._wanted = wanted
        self._broadcast = broadcast
        self._timing = timing
        self._random = random
        self._previous: IPv4Address | None = None  # an address it had, and would like again
        self._xid = 0
        self._since = self._asked_at = 0.0  # when this exchange began, and its last request
        self._pause_s = timing.first_pause_s
        self._refusals = 0
        self._offer: Message | None = None  # the one that was taken
        self._second_choice: Message | None = None
        self._last_choices: set[IPv4Address] = set()

    # -- what happens

    def advance(self, now: float) -> list[Outgoing]:
        """`due` has come."""
        if self.lease:
            return self._keep(self.lease, now)
        if self.state is State.SELECTING:
            if self._second_choice:
                return self._request(self._second_choice, now)
            return self._ask_again(now)
        if self.state is State.REQUESTING:
            if now < self._asked_at + self._timing.request_s:
                return self._ask_again(now)
            self._refused("does not confirm what it offered")
        return self._discover(now)

    def _keep(self, lease: Lease, now: float) -> list[Outgoing]:
        if now >= lease.ends_at:
            return self._lose("the lease has run out, and no server renewed it", now)
        if now >= lease.rebind_at:
            if self.state is not State.REBINDING:
                self._begin(State.REBINDING, now)
        elif self.state is State.BOUND:
            self._begin(State.RENEWING, now)
        return self._renew(lease, now)

    def receive(self, message: Message, now: float) -> list[Outgoing]:
        """A message came in; whatever is no answer to ours, from whom we asked, is ignored."""
        own_id = self._options.get(Option.CLIENT_ID)
        server = _server(message)
        if not (message.reply and message.xid == self._xid and message.mac == self.mac and server):
            return []
        if message.options.get(Option.CLIENT_ID, own_id) != own_id:
            return []
        match self.state, message.kind:
            case State.SELECTING, Kind.OFFER:
                return self._offered(message, server, now)
            case State.REQUESTING, Kind.ACK | Kind.NAK:
                assert self._offer
                if server == _server(self._offer):
                    self._answered(message, server, now)
            case ((State.RENEWING | State.REBINDING), Kind.ACK | Kind.NAK):
                assert self.lease
                return self._renewed(self.lease, message, server, now)
        return []

    def release(self, now: float) -> list[Outgoing]:
        """Give the lease back; nobody answers this."""
        lease, self.lease, self.state, self.due = self.lease, None, State.INIT, inf
        if lease is None:
            return []
        self._begin(State.INIT, now)
        options: dict[int, bytes] = {
            Option.KIND: bytes([Kind.RELEASE]),
            Option.SERVER: lease.server.packed,
        }
        if own_id := self._options.get(Option.CLIENT_ID):
            options[Option.CLIENT_ID] = own_id
        message = Message(False, self._xid, self.mac, options, ciaddr=lease.address)
        return [Outgoing(message, lease.server)]

    def _offered(self, message: Message, server: IPv4Address, now: float) -> list[Outgoing]:
        if fault := _fault(message):
            self.trouble = f"server {server} {fault}"
            return []
        if server in self._last_choices:
            self._second_choice = message
            return []
        return self._request(message, now)

    def _answered(self, message: Message, server: IPv4Address, now: float) -> None:
        assert self._offer
        if message.kind == Kind.NAK:
            self._refused(f"refuses what it offered{_reason(message)}")
            # who always does so is not to keep us busy
            pause_s = self._timing.first_pause_s * 2**self._refusals
            self.due = now + min(pause_s, self._timing.most_pause_s)
            self._refusals = min(self._refusals + 1, _MOST_DOUBLINGS)
        elif fault := _fault(message):
            self.trouble = f"server {server} {fault}"
        elif message.yiaddr == self._offer.yiaddr:
            self._bind(message, server)

    def _renewed(
        self, lease: Lease, message: Message, server: IPv4Address, now: float
    ) -> list[Outgoing]:
        ours = server == lease.server
        if message.kind == Kind.NAK and ours:
            return self._lose(f"server {server} has withdrawn it{_reason(message)}", now)
        same = message.kind == Kind.ACK and message.yiaddr == lease.address
        welcome = ours or self.state is State.REBINDING
        if same and welcome and _lease_s(message) >= _LEAST_LEASE_S:
            self._bind(message, server)
        return []

    # -- from state to state

    def _begin(self, state: State, now: float) -> None:
        """A new exchange: answers to an older one no longer count."""
        self.state, self._since, self._asked_at = state, now, now
        self._xid = self._random.getrandbits(32)
        self._pause_s = self._timing.first_pause_s

    def _discover(self, now: float) -> list[Outgoing]:
        self._begin(State.SELECTING, now)
        self._second_choice = None
        return self._ask_again(now)

    def _request(self, offer: Message, now: float) -> list[Outgoing]:
        self.state, self._asked_at, self._offer = State.REQUESTING, now, offer
        self._pause_s = self._timing.first_pause_s
        return self._ask_again(now)

    def _refused(self, why: str) -> None:
        """By the server whose offer was taken: the next round begins, and another comes first."""
        assert self._offer
        server = _server(self._offer)
        assert server
        self.trouble = f"server {server} {why}"
        self._last_choices.add(server)
        self.state = State.INIT

    def _bind(self, message: Message, server: IPv4Address) -> None:
        options = {**(self.lease.options if self.lease else {}), **message.options}
        end: float = _lease_s(message)
        renewal_s: float = number(options, Option.RENEWAL_TIME) or 0
        rebinding_s: float = number(options, Option.REBINDING_TIME) or 0
        if not 1 <= renewal_s <= rebinding_s <= end:
            renewal_s, rebinding_s = end * 0.5, end * 0.875
        began = self._asked_at  # the server counts from later on
        times = (began + each for each in (renewal_s, rebinding_s, end))
        self.lease = Lease(message.yiaddr, server, options, *times)
        self.state, self.due = State.BOUND, self.lease.renew_at
        self._last_choices.clear()
        self._refusals = 0

    def _lose(self, why: str, now: float) -> list[Outgoing]:
        assert self.lease
        self.trouble, self._previous, self.lease = why, self.lease.address, None
        return self._discover(now)

    # -- what is said

    def _ask_again(self, now: float) -> list[Outgoing]:
        """The question of this state, and when it is due again: after ever longer pauses."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._timing.most_pause_s)
        self.due = now + pause_s * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        if self.state is State.SELECTING:
            return [self._discovery(now)]
        self.due = min(self.due, self._asked_at + self._timing.request_s)
        assert self._offer
        server = _server(self._offer)
        assert server
        options: dict[int, bytes] = {
            Option.WANTED_ADDRESS: self._offer.yiaddr.packed,
            Option.SERVER: server.packed,
        }
        return [Outgoing(self._message(Kind.REQUEST, now, options), BROADCAST)]

    def _discovery(self, now: float) -> Outgoing:
        wish = self._wanted or self._previous
        options: Options = {Option.WANTED_ADDRESS: wish.packed} if wish else {}
        return Outgoing(self._message(Kind.DISCOVER, now, options), BROADCAST)

    def _renew(self, lease: Lease, now: float) -> list[Outgoing]:
        alone = self.state is State.RENEWING
        until = lease.rebind_at if alone else lease.ends_at
        least_s = min(_RENEWAL_PAUSE_S, (lease.ends_at - lease.renew_at) / 8)
        self.due = min(until, now + max((until - now) / 2, least_s))
        message = self._message(Kind.REQUEST, now, {}, lease.address)
        return [Outgoing(message, lease.server if alone else BROADCAST)]

    def _message(
        self, kind: Kind, now: float, options: Options, ciaddr: IPv4Address = ANY
    ) -> Message:
        most = MOST_BYTES.to_bytes(2, "big")
        whole = {Option.KIND: bytes([kind]), Option.MOST_BYTES: most, **self._options, **options}
        broadcast = self._broadcast and ciaddr == ANY
        secs = int(now - self._since)
        return Message(False, self._xid, self.mac, whole, secs, broadcast, ciaddr)


def _server(message: Message) -> IPv4Address | None:
    found = addresses(message.options, Option.SERVER)
    return found[0] if len(found) == 1 else None


def _lease_s(message: Message) -> int:
    said = number(message.options, Option.LEASE_TIME)
    if said == _NEVER_ENDS:
        return _FOREVER_S
    return _USUAL_LEASE_S if said is None else said


def _fault(message: Message) -> str:
    """Why what is given cannot be used; "" if it can."""
    bits = prefix_length(message.options)
    if not is_host(message.yiaddr):
        return f"gives {message.yiaddr}, which is no machine's address"
    if bits is None:
        return f"gives {message.yiaddr} without a subnet mask"
    if bits < 31:
        network = IPv4Interface((message.yiaddr, bits)).network
        if message.yiaddr in (network.network_address, network.broadcast_address):
            return f"gives {message.yiaddr}, which is no machine's address in {network}"
    if _lease_s(message) < _LEAST_LEASE_S:
        return f"gives {message.yiaddr} for {_lease_s(message)} s only"
    return ""


def _reason(message: Message) -> str:
    """A server's own words, as the end of a sentence."""
    said = message.options.get(Option.MESSAGE, b"").decode(errors="replace").strip("\0 ")
    plain = "".join(c if c.isprintable() else " " for c in said[:_SAID])
    return f" ({plain})" if plain else ""
