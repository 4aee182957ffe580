"""netkit config …: what is configured, whether it is right, and Docker's made into ours."""

from __future__ import annotations

from typing import Any

import click

from netkit.cli.common import asked, complain, configured, format_option, show_rows
from netkit.errors import NetkitError

_COLUMNS = {"Key": "KEY", "Value": "VALUE", "Source": "SOURCE"}


@click.group("config")
def config_command() -> None:
    """Show, check and import the configuration."""


@config_command.command()
@click.argument("file", required=False)
def check(file: str | None) -> int:
    """Say what is wrong with FILE, or with what holds now; all mistakes, not only the first."""
    from netkit import config

    try:
        layers = [(file, config.read(file))] if file else config.layers(*asked())
    except NetkitError as error:  # no keys to look at
        complain(error)
        return 1
    settings, mistakes = config.examine(layers)
    for mistake in mistakes:
        complain(mistake)
    if mistakes:
        return 1
    where = ", ".join(origin for origin, _ in layers) or f"no {config.PATH}"
    click.echo(f"{where}: {len(settings.origins)} keys set, no mistakes")
    return 0


@config_command.command()
@format_option
def show(format_: str | None) -> None:
    """Show what every key is set to, and by whom."""
    from netkit import config

    settings = configured()
    rows: list[dict[str, Any]] = []
    for key in config.KEYS:
        value = config.plain(getattr(settings.config, key.replace("-", "_")))
        rows.append({"Key": key, "Value": value, "Source": settings.origins.get(key, "default")})
    if format_ is None or format_.startswith("table"):  # for people: what no value stands for
        for row in rows:
            unset = row["Source"] == "default" and config.UNSET.get(row["Key"])
            row["Value"] = f"({unset})" if unset else config.toml(row["Value"])
    show_rows(rows, _COLUMNS, format_)


@config_command.command("import")
@click.argument("file", default="/etc/docker/daemon.json")
def import_(file: str) -> int:
    """Print Docker's daemon.json as netkit's configuration; comments name what is left out."""
    from netkit import config

    text, mistakes = config.import_docker(file)
    for mistake in mistakes:
        complain(mistake)
    if mistakes:
        return 1
    click.echo(text, nl=False)
    return 0
