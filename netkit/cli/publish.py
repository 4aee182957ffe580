"""netkit publish and unpublish: ports of a container that runs."""

from __future__ import annotations

from collections.abc import Sequence

import click

from netkit.cli import names
from netkit.cli.common import dry_run, open_engine, options, show_lines

_place = options(
    click.option(
        "--net", "--network", type=names.NETWORKS, help="On this one of several networks."
    ),
    dry_run,
)


@click.command("publish")
@click.argument("target", type=names.TARGETS)
@click.argument("ports", metavar="[PORT]...", nargs=-1)
@click.option("-P", "--publish-all", is_flag=True, help="All that it exposes, at free ports.")
@_place
def publish_command(
    target: str, ports: Sequence[str], publish_all: bool, net: str | None, dry_run: bool
) -> None:
    """Publish more ports of TARGET, which runs; print where.

    PORT is as for `-p`: [[ip|interface:][hostPort]:]containerPort[/protocol][@network]. Connections
    of its other ports go on.
    """
    from netkit import live, views
    from netkit.errors import InvalidSpec
    from netkit.portspec import PortSpec

    if not (ports or publish_all):
        raise InvalidSpec("no port to publish", hint=f"such as: netkit publish {target} 8080:80")
    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    engine = open_engine()

    if dry_run:
        with engine.dry_run() as lines:
            live.publish(engine, target, specs, network=net, exposed=publish_all)
        show_lines(lines)
    else:
        show_lines(
            views.port_lines(live.publish(engine, target, specs, network=net, exposed=publish_all))
        )


@click.command("unpublish")
@click.argument("target", type=names.TARGETS)
@click.argument("ports", metavar="[PORT]...", nargs=-1)
@click.option("-a", "--all", "every", is_flag=True, help="All of them.")
@_place
def unpublish_command(
    target: str, ports: Sequence[str], every: bool, net: str | None, dry_run: bool
) -> None:
    """Publish ports of TARGET no longer.

    PORT is as for `-p`, or a container's port alone, or as `netkit port` shows it. What is
    connected there is cut off, all else goes on.
    """
    from netkit import live, publications
    from netkit.errors import InvalidSpec

    if bool(ports) == every:
        raise InvalidSpec(
            "either ports to unpublish, or --all", hint=f"`netkit port {target}` lists them"
        )
    specs = tuple(spec for text in ports for spec in publications.parse(text))
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            live.unpublish(engine, target, specs, network=net, every=every)
        show_lines(lines)
    else:
        live.unpublish(engine, target, specs, network=net, every=every)
