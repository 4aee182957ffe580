"""netkit dns host enable, disable, status."""

from __future__ import annotations

import click

from netkit.cli.common import dry_run, format_option, open_engine, show_lines, show_rows

_COLUMNS = {"Status": "STATUS", "By": "BY", "Domains": "DOMAINS", "Problems": "PROBLEMS"}


@click.group("dns")
def dns_command() -> None:
    """Let the host resolve the names of containers."""


@dns_command.group()
def host() -> None:
    """Have the host's resolver ask netkit, or no longer."""


@host.command()
@dry_run
def enable(dry_run: bool) -> None:
    """Have the host's resolver ask netkit for NAME.NETWORK, until it is disabled.

    Behind systemd-resolved by a link of its own, netkit-dns; elsewhere by the first line of
    /etc/resolv.conf, which resolves NAME, too. Done again it puts back what somebody took out.
    """
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.enable_host_names()
        show_lines(lines)
    else:
        engine.enable_host_names()


@host.command()
@dry_run
def disable(dry_run: bool) -> None:
    """Have the host's resolver be as it was, but for what others have changed of it."""
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.disable_host_names()
        show_lines(lines)
    else:
        engine.disable_host_names()


@host.command()
@format_option
def status(format_: str | None) -> int:
    """Show whether the host resolves containers' names, and what is wrong; then the code is 1."""
    found = open_engine().host_names()
    row = {
        "Status": "disabled" if found.by is None else "failing" if found.problems else "enabled",
        "By": found.by or "",
        "Domains": ",".join(found.domains),
        "Problems": "; ".join(found.problems),
    }
    show_rows([row], _COLUMNS, format_)
    return int(bool(found.problems))
