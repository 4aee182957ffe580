"""netkit connect and disconnect, as commands of their own and below `netkit network`."""

from __future__ import annotations

from typing import Any

import click

from netkit.cli import names
from netkit.cli.common import (
    dry_run,
    files_of,
    files_options,
    open_engine,
    request_of,
    request_options,
    show_lines,
)


@click.command("connect")
@click.option(
    *("--net", "--network"),
    default="bridge",
    show_default=True,
    type=names.NETWORKS,
    help="Network.",
)
@click.argument("target", required=False, type=names.TARGETS)
@click.option("--name", metavar="NAME", help="Name of the namespace made when there is no TARGET.")
@request_options
@files_options
@dry_run
def connect_command(net: str, target: str | None, **given: Any) -> None:
    """Connect TARGET to a network.

    TARGET is a container, docker:NAME, podman:NAME, lxc:NAME, pid:N, netns:/path, or a name
    `ip netns` knows. Without one a new named namespace is made, and its name printed:
    C=$(netkit connect --net my-net).
    """
    _connect(net, target, given)


@click.command("disconnect")
@click.option(
    *("--net", "--network"),
    default="bridge",
    show_default=True,
    type=names.NETWORKS,
    help="Network.",
)
@click.argument("target", type=names.TARGETS)
@click.option("-f", "--force", is_flag=True, help="No error if it is not connected.")
@dry_run
def disconnect_command(net: str, target: str, force: bool, dry_run: bool) -> None:
    """Disconnect TARGET from a network. A namespace that connect made goes with its last one."""
    _disconnect(net, target, force, dry_run)


@click.command("connect")
@click.argument("network", type=names.NETWORKS)
@click.argument("target", metavar="CONTAINER", type=names.TARGETS)
@request_options
@files_options
@dry_run
def connect(network: str, target: str, **given: Any) -> None:
    """Connect a container to a network."""
    _connect(network, target, given | {"name": None})


@click.command("disconnect")
@click.argument("network", type=names.NETWORKS)
@click.argument("target", metavar="CONTAINER", type=names.TARGETS)
@click.option("-f", "--force", is_flag=True, help="No error if it is not connected.")
@dry_run
def disconnect(network: str, target: str, force: bool, dry_run: bool) -> None:
    """Disconnect a container from a network."""
    _disconnect(network, target, force, dry_run)


def _connect(network: str, target: str | None, given: dict[str, Any]) -> None:
    from netkit.errors import InvalidSpec
    from netkit.model import SandboxRecord

    if target is not None and given["name"] is not None:
        raise InvalidSpec("--name is for a new namespace: leave out TARGET, or --name")
    request, files = request_of(given), files_of(given)
    engine = open_engine()
    if given["dry_run"]:
        with engine.dry_run() as lines:
            engine.connect(network, target, request, files, name=given["name"])
        show_lines(lines)
        return
    ep = engine.connect(network, target, request, files, name=given["name"])
    if target is None:
        click.echo(engine.store.get(SandboxRecord, ep.sandbox).name)


def _disconnect(network: str, target: str, force: bool, dry: bool) -> None:
    from netkit.errors import Conflict, NotFound

    engine = open_engine()
    if dry:
        with engine.dry_run() as lines:
            engine.disconnect(network, target)
        show_lines(lines)
        return
    try:
        engine.disconnect(network, target)
    except (Conflict, NotFound):
        if not force:
            raise
