"""netkit check, repair, gc, unshare."""

from __future__ import annotations

from collections.abc import Sequence

import click

from netkit.cli import names
from netkit.cli.common import complain, dry_run, open_engine, show_lines


@click.command("check")
@click.argument("name", required=False, type=names.ANYTHING)
def check_command(name: str | None) -> int:
    """Compare the kernel with what netkit made, for one container or network or for all."""
    drifts = open_engine().check(name)
    for drift in drifts:
        click.echo(drift)
    return 1 if drifts else 0


@click.command("repair")
@click.argument("name", required=False, type=names.ANYTHING)
@dry_run
def repair_command(name: str | None, dry_run: bool) -> int:
    """Put back what others took or changed of what netkit made; print what that was.

    Of one container or network, or of all. What cannot be put back is said on standard error.
    """
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.repair(name)
        show_lines(lines)
        return 0
    mended, left = engine.repair(name)
    for drift in mended:
        click.echo(drift)
    for drift in left:
        complain(drift)
    return 1 if left else 0


@click.command("gc")
def gc_command() -> None:
    """Remove what dead processes, containers and namespaces left behind; print their names."""
    for name in open_engine().gc():
        click.echo(name)


@click.command(
    "unshare", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("command", nargs=-1, type=names.PROGRAMS)
def unshare_command(command: Sequence[str]) -> None:
    """Run COMMAND (a shell) in a throw-away host: its network, /run and /etc are its own.

    Everything netkit does can be tried there, by ordinary users too; it is gone when COMMAND ends.
    """
    import os

    from netkit.kernel import lab

    lab.enter()
    argv = list(command) or [os.environ.get("SHELL", "/bin/sh")]
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        from shutil import which

        from netkit.kernel.process import CommandNotExecutable, CommandNotFound

        if which(argv[0], os.F_OK) is None:  # EACCES may be that of some directory of PATH
            raise CommandNotFound(f"cannot run {argv[0]}: command not found") from None
        raise CommandNotExecutable(f"cannot run {argv[0]}: {error.strerror}") from None
