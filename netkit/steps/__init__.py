"""Steps: the reversible changes a plan is made of; and the three verbs over plans.

Shapes   a step is a frozen value and prints as the line an operator would type; a plan is a tuple
         of steps. `at` is the path of a network namespace, None the host
Errors   KernelRefused: the step's line and the kernel's answer; Conflict where somebody else's
         object stands in the way; Drift from check
Source   netkit's design. Where it differs from the first sketch: a step has a fourth verb,
         `prepare`, which looks before the intent is written and returns the step with what it
         will replace (or None: nothing to do). So an intent holds all that its undoing needs,
         and the steps that were done are the steps that were intended

A step touches only what is netkit's: links bear a MAC derived from their owner from birth and an
alias soon after; names are derived too, so undoing needs no memory beyond the steps themselves.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Any

from netkit import model
from netkit.errors import Drift, KernelRefused, NetkitError
from netkit.firewall import Firewall
from netkit.kernel import Kernel
from netkit.steps.base import Step, Thing
from netkit.steps.devices import (
    Device,
    DeviceRoute,
    DeviceUp,
    Enslave,
    Filtering,
    Parent,
    PortVlans,
    Tap,
    Tune,
)
from netkit.steps.files import BindMount, Directory, File, HostsEntry, Rewrite, same_text
from netkit.steps.filters import (
    Again,
    BackEnd,
    Exchange,
    Forget,
    Hear,
    NoTransit,
    Passage,
    Rules,
    Standby,
    Tables,
    held,
)
from netkit.steps.host import Forwarding, Localnet, Sysctl
from netkit.steps.links import (
    Alias,
    Announce,
    Bridge,
    Isolation,
    LinkUp,
    Netns,
    OwnMac,
    Port,
    PortFlag,
    PortReady,
    Veth,
)
from netkit.steps.pairs import Pair, Ready
from netkit.steps.physical import Physical
from netkit.steps.programs import Setup
from netkit.steps.proxies import Proxy
from netkit.steps.resolver import LinkNames, Nameserver
from netkit.steps.routes import (
    Address,
    DefaultRoute,
    NoAddress,
    NoRoute,
    Policy,
    Route,
    RuleFrom,
)
from netkit.steps.shaping import Redirect, Shaper

__all__ = [
    "Address",
    "Again",
    "Alias",
    "Announce",
    "BackEnd",
    "BindMount",
    "Bridge",
    "DefaultRoute",
    "Device",
    "DeviceRoute",
    "DeviceUp",
    "Directory",
    "Enslave",
    "Exchange",
    "File",
    "Filtering",
    "Forget",
    "Forwarding",
    "Hear",
    "HostsEntry",
    "Isolation",
    "LinkNames",
    "LinkUp",
    "Localnet",
    "Nameserver",
    "Netns",
    "NoAddress",
    "NoRoute",
    "NoTransit",
    "OwnMac",
    "Pair",
    "Parent",
    "Passage",
    "Physical",
    "Policy",
    "Port",
    "PortFlag",
    "PortReady",
    "PortVlans",
    "Proxy",
    "Ready",
    "Redirect",
    "Rewrite",
    "Route",
    "RuleFrom",
    "Rules",
    "Setup",
    "Shaper",
    "Standby",
    "Step",
    "Sysctl",
    "Tables",
    "Tap",
    "Thing",
    "Tune",
    "Veth",
    "held",
    "same_text",
]

AnyStep = (
    Netns
    | LinkUp
    | Bridge
    | Alias
    | Veth
    | Port
    | Address
    | NoAddress
    | NoRoute
    | PortFlag
    | PortReady
    | Pair
    | Ready
    | Announce
    | DefaultRoute
    | Route
    | RuleFrom
    | Policy
    | NoTransit
    | OwnMac
    | Forwarding
    | Sysctl
    | Localnet
    | Tables
    | BackEnd
    | Passage
    | Hear
    | Rules
    | Exchange
    | Forget
    | Isolation
    | Standby
    | Directory
    | File
    | HostsEntry
    | Rewrite
    | Nameserver
    | LinkNames
    | BindMount
    | Parent
    | Device
    | Tap
    | Enslave
    | Filtering
    | PortVlans
    | Physical
    | DeviceRoute
    | DeviceUp
    | Setup
    | Proxy
    | Tune
    | Shaper
    | Redirect
)
Plan = tuple[Step, ...]


# -- the verbs over plans


def _no_point(name: str) -> None:
    """Nothing happens here."""


# Called before and after every step with a name like "add Veth before"; tests make it die there.
point: Callable[[str], None] = _no_point


def prepare(plan: Plan, kernel: Kernel) -> Plan:
    """The steps of *plan* there is a need for, each with what it will replace."""
    prepared = []
    for step in plan:
        with _translated(step.line, kernel):
            if (ready := step.prepare(kernel)) is not None:
                prepared.append(ready)
    return tuple(prepared)


def add(plan: Plan, kernel: Kernel) -> None:
    """Add every step; if one fails, delete those added, last first, and raise its error."""
    for done, step in enumerate(plan):
        try:
            point(f"add {type(step).__name__} before")
            with _translated(step.line, kernel):
                step.add(kernel)
            point(f"add {type(step).__name__} after")
        except BaseException as error:
            # a step that was refused did nothing; one that was interrupted may have done it all
            added = plan[:done] if isinstance(error, Exception) else plan[: done + 1]
            try:
                delete(added, kernel)
            except ExceptionGroup as group:
                for left in group.exceptions:
                    error.add_note(f"and could not be undone: {left}")
            raise


def delete(plan: Plan, kernel: Kernel, going: Iterable[Thing] = ()) -> None:
    """Delete every step, backwards and past errors; raise them all as one ExceptionGroup.

    What dies with a thing that another step made is left to that step; *going* are such things
    made by other plans that are being deleted as well.
    """
    errors: list[Exception] = []
    for step in _to_delete(plan, going):
        point(f"delete {type(step).__name__} before")
        try:
            with _translated(step.undo_line, kernel, str(step)):
                step.delete(kernel)
        except Exception as error:
            errors.append(error)
        point(f"delete {type(step).__name__} after")
    if errors:
        raise ExceptionGroup(f"{len(errors)} of {len(plan)} steps could not be undone", errors)


def _to_delete(plan: Plan, going: Iterable[Thing]) -> list[Step]:
    gone = {*going, *made(plan)}
    return [step for step in reversed(plan) if gone.isdisjoint(step.within)]


def made(plan: Plan) -> set[Thing]:
    """The things that take along what is within them."""
    return {thing for step in plan for thing in step.makes}


def lines(plan: Plan, back_end: Firewall) -> list[str]:
    """What `add` does, as an operator would type it."""
    return [line for step in plan if (line := step.line(back_end))]


def undo_lines(plan: Plan, back_end: Firewall, going: Iterable[Thing] = ()) -> list[str]:
    """What `delete` does, as an operator would type it."""
    return [line for step in _to_delete(plan, going) if (line := step.undo_line(back_end))]


def check(plan: Plan, kernel: Kernel) -> list[Drift]:
    """All that is not as the plan says."""
    drifts = []
    for step in plan:
        try:
            step.check(kernel)
        except Drift as drift:
            drifts.append(drift)
        except OSError as error:
            drifts.append(Drift(f"cannot see whether `{step}` still holds: {error.strerror}"))
    return drifts


def durable(plan: Plan) -> Plan:
    """The steps that outlive a reboot."""
    return tuple(step for step in plan if step.durable)


def encode(plan: Iterable[Step]) -> str:
    """The stable text of a plan: JSON, each step tagged with its class."""
    return model.encode(tuple(plan))


def decode(text: str) -> Plan:
    return model.decode(text, tuple[AnyStep, ...])


class _translated:
    """OSError becomes KernelRefused with the step's own line; netkit's errors pass."""

    def __init__(
        self, line: Callable[[Firewall], str], kernel: Kernel, otherwise: str = ""
    ) -> None:
        self._line, self._kernel, self._otherwise = line, kernel, otherwise

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, NetkitError):
            line = _one_line(self._line(self._kernel.firewall) or self._otherwise)
            reason = error.strerror or str(error)
            hint = _HINTS.get(error.errno or 0)
            raise KernelRefused(f"the kernel refused `{line}`: {reason}", hint=hint) from error


def _one_line(text: str) -> str:
    """The line of a step for a message: of a script, its first."""
    first, _, rest = text.partition("\n")
    return f"{first.partition(' <<')[0]} <<< {rest.partition(chr(10))[0]} …" if rest else first


_HINTS = {
    errno.EPERM: "netkit needs CAP_NET_ADMIN: run it as root, or inside `netkit unshare`",
    errno.EACCES: "netkit needs CAP_NET_ADMIN: run it as root, or inside `netkit unshare`",
    errno.EOPNOTSUPP: "`zcat /proc/config.gz` shows what this kernel was built with",
    errno.EMSGSIZE: "too many ports for one transaction: a range that keeps its numbers, "
    "-p 8000-8999:8000-8999, is one element however long",
    errno.EXFULL: "a bridge holds 1023 ports at most: make another network",
}
