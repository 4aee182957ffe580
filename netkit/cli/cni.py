"""netkit cni install, uninstall, conflist, and what a runtime does (netkit.cli.runtime)."""

from __future__ import annotations

import click

from netkit.cli import runtime
from netkit.cli.common import show_lines

_dry_run = click.option("--dry-run", is_flag=True, help="Print what it would do.")
_bin_dir = click.option(
    "--bin-dir",
    default="/opt/cni/bin",
    show_default=True,
    metavar="DIR",
    help="Where runtimes look for plugins.",
)


@click.group()
def cni_command() -> None:
    """Make container runtimes use netkit: its CNI plugins, and configurations for them."""


for command in runtime.COMMANDS:
    cni_command.add_command(command)


@cni_command.command()
@_bin_dir
@click.option("--force", is_flag=True, help="Take the place of others' plugins, and keep them.")
@click.option("--units", metavar="DIR", help="Also write netkitd's systemd units there.")
@_dry_run
def install(bin_dir: str, force: bool, units: str | None, dry_run: bool) -> None:
    """Write the plugins' executables, under the names of the reference plugins.

    If files of others have these names, nothing is written without --force.
    """
    from cni import install

    lines = install.install(bin_dir, force=force, dry=dry_run)
    lines += install.install_units(units, dry=dry_run) if units else []
    show_lines(lines)


@cni_command.command()
@_bin_dir
@click.option("--units", metavar="DIR", help="Also remove netkitd's systemd units there.")
@_dry_run
def uninstall(bin_dir: str, units: str | None, dry_run: bool) -> None:
    """Remove the plugins' executables that are netkit's, and put back what --force replaced."""
    from cni import install

    lines = install.uninstall(bin_dir, dry=dry_run)
    lines += install.uninstall_units(units, dry=dry_run) if units else []
    show_lines(lines)


@cni_command.command()
@click.option("--name", default="netkit", show_default=True, help="The network's name.")
@click.option(
    "--subnet",
    multiple=True,
    metavar="CIDR",
    help="One of IPv4, one of IPv6, or one of each [10.88.0.0/16].",
)
@click.option("--bridge", default="cni0", show_default=True, metavar="NAME", help="Its bridge.")
@click.option(
    "--type",
    "sort",
    type=click.Choice(("reference", "netkit")),
    default="reference",
    show_default=True,
    help="A chain of the plugins every runtime knows, or all in one.",
)
def conflist(name: str, subnet: tuple[str, ...], bridge: str, sort: str) -> None:
    """Print a configuration for /etc/cni/net.d, ready for use."""
    from cni import sample

    click.echo(sample.text(name, subnet or ("10.88.0.0/16",), bridge, sort))
