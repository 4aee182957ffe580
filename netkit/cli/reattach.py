"""netkit reattach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from netkit.cli import names
from netkit.cli.common import dry_run, each, open_engine, show_lines

if TYPE_CHECKING:
    from netkit.engine import Engine


@click.command("reattach")
@click.argument("targets", nargs=-1, metavar="[TARGET]...", type=names.TARGETS)
@dry_run
def reattach_command(targets: Sequence[str], dry_run: bool) -> int:
    """Connect containers of Docker's or podman's to the networks they had before a restart.

    Each gets its addresses, MACs, interface names and ports again. Without TARGET all do that had
    any and run again. Prints the names of those that are connected now.
    """
    engine = open_engine()
    wanted = list(targets) or _returned(engine)
    if not dry_run:
        return each(wanted, engine.reattach)
    with engine.dry_run() as lines:
        for name in wanted:
            engine.reattach(name)
    show_lines(lines)
    return 0


def _returned(engine: Engine) -> list[str]:
    """The containers that run again, and have networks to come back to."""
    from netkit.targets import Target, is_there, resolve

    return [
        sandbox.name
        for sandbox in engine.sandboxes()
        if sandbox.origin
        and (
            isinstance(resolve(engine.store, sandbox.name), Target)
            if sandbox.finished or not is_there(sandbox)
            else sandbox.former
        )
    ]
