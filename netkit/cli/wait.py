"""netkit wait."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from netkit.cli import names
from netkit.cli.common import open_engine, tracked

if TYPE_CHECKING:
    from netkit.kernel import carrier

_LONGEST_S = 86400
_LOOK_S = 0.25


@click.command("wait")
@click.argument("target", required=False, type=names.TARGETS)
@click.option("-i", "--ifname", default="eth0", show_default=True, help="Interface inside.")
@click.option(
    "--timeout", default="10", show_default=True, metavar="SECONDS", help="How long at most."
)
def wait_command(target: str | None, ifname: str, timeout: str) -> None:
    """Wait until TARGET has the interface, and it has carrier.

    TARGET need not be one of netkit's. Without one it is the namespace the command runs in: as the
    first line of a container's own start script, which then needs no privilege.
    """
    from netkit import naming, targets
    from netkit.errors import Conflict, NotFound

    naming.validate_ifname(ifname)
    timeout_s = _seconds(timeout)
    path = None
    if target is not None:
        found = targets.resolve(open_engine().store, target)
        path = found.path if isinstance(found, targets.Target) else found.netns
    state: carrier.State = "missing"
    for state in tracked(_looks(path, ifname, timeout_s), f"waiting for {ifname}"):  # noqa: B007
        pass
    where = "here" if target is None else f"in {target}"
    if state == "missing":
        raise NotFound(
            f"no interface '{ifname}' {where} within {timeout_s:g} s",
            hint="`netkit connect` makes one; --ifname waits for another, --timeout longer",
        )
    if state != "ready":
        raise Conflict(
            f"interface '{ifname}' {where} is {state} after {timeout_s:g} s",
            hint="it is up once `ip link set up` was said to it, and has carrier once its other "
            "end is up too",
        )


def _looks(path: str | None, ifname: str, timeout_s: float) -> Iterator[carrier.State]:
    """How the interface is, a few times a second; it ends when that is ready, or the time is up."""
    from netkit.kernel import carrier

    end = time.monotonic() + timeout_s
    while True:
        left_s = max(end - time.monotonic(), 0)
        state = carrier.wait(path, ifname, min(left_s, _LOOK_S))
        yield state
        if state == "ready" or left_s <= _LOOK_S:
            return


def _seconds(text: str) -> float:
    from netkit.errors import InvalidSpec

    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", text) or float(text) > _LONGEST_S:
        raise InvalidSpec(
            f"invalid timeout {text!r:.80}: seconds from 0 to {_LONGEST_S} are wanted",
            hint="such as 10 or 0.5; 0 looks once and does not wait",
        )
    return float(text)
