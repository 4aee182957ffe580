"""netkit firewall show, use."""

from __future__ import annotations

import click

from netkit.cli.common import dry_run, open_engine, show_lines

BACK_ENDS = ("nftables", "iptables", "none")


@click.group()
def firewall_command() -> None:
    """Show the firewall's rules, or move them to another back end."""


@firewall_command.command()
@click.option("--name", "only_name", is_flag=True, help="Only which back end it is.")
def show(only_name: bool) -> None:
    """Show which back end is used, and the rules in force, as its own program lists them."""
    engine = open_engine()
    name, listing = engine.firewall_rules(listed=not only_name)
    click.echo(name if only_name else f"# {name}\n{listing}".rstrip())


@firewall_command.command()
@click.argument("name", type=click.Choice(BACK_ENDS))
@dry_run
def use(name: str, dry_run: bool) -> None:
    """Move all rules to another back end, and use that from now on.

    Both are in force until the move is complete, so nothing is open meanwhile, and established
    connections go on.
    """
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.use_firewall(name)
        show_lines(lines)
    else:
        engine.use_firewall(name)
