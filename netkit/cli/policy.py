"""netkit allow, disallow, policy and egress: who may talk to whom, while all of them live.

Each change is on record: `check` knows of it, and it goes with the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click

from netkit.cli import names
from netkit.cli.common import dry_run, format_option, open_engine, show_lines, show_rows

if TYPE_CHECKING:
    from netkit.engine import Engine
    from netkit.permissions import EgressVerb

_COLUMNS = {"From": "FROM", "To": "TO", "Ports": "PORTS", "By": "BY", "InForce": "IN FORCE"}
_net = click.option(
    *("--net", "--network"), type=names.CUSTOM_NETWORKS, help="Network, if that is not clear."
)


@click.command("allow")
@click.argument("client", metavar="FROM", type=names.CONTAINERS)
@click.argument("server", metavar="TO[:PORT[-PORT][/PROTOCOL]]", type=names.CONTAINERS)
@_net
@dry_run
def allow_command(client: str, server: str, net: str | None, dry_run: bool) -> None:
    """Let container FROM reach TO on a closed network: all of it, or some ports.

    FROM '*' is everybody there. TO host:PORT is the host, on a network without access to it. Names
    need not be anybody's yet.
    """
    from netkit import permissions

    _change(lambda engine: permissions.allow(engine, client, server, net), dry_run)


@click.command("disallow")
@click.argument("client", metavar="FROM", type=names.CONTAINERS)
@click.argument("server", metavar="TO[:PORT[-PORT][/PROTOCOL]]", type=names.CONTAINERS)
@_net
@dry_run
def disallow_command(client: str, server: str, net: str | None, dry_run: bool) -> None:
    """Take back what was allowed, in the same words."""
    from netkit import permissions

    _change(lambda engine: permissions.disallow(engine, client, server, net), dry_run)


@click.command("policy")
@click.argument("network", type=names.CUSTOM_NETWORKS)
@click.argument("state", required=False, type=click.Choice(["open", "closed"]))
@click.option(
    "--host-access/--no-host-access",
    default=None,
    help="Let its containers reach the host's own services, or none but names.",
)
@dry_run
@format_option
def policy_command(
    network: str, state: str | None, host_access: bool | None, dry_run: bool, format_: str | None
) -> None:
    """Show who may begin to talk to whom on NETWORK; or open or close it.

    On a closed network nobody reaches anybody but as `allow` and --link say.
    """
    from netkit import permissions, views

    icc = None if state is None else state == "open"
    if icc is None and host_access is None:
        engine = open_engine()
        show_rows(views.policy_rows(engine, engine.network(network)), _COLUMNS, format_)
        return
    _change(
        lambda engine: permissions.police(engine, network, icc=icc, host_access=host_access),
        dry_run,
    )


@click.command("egress")
@click.argument("target", metavar="NETWORK|CONTAINER", type=names.ANYTHING)
@click.argument("verb", required=False, type=click.Choice(["allow", "disallow", "any", "deny"]))
@click.argument("rules", metavar="[RULE]...", nargs=-1)
@_net
@dry_run
def egress_command(
    target: str, verb: EgressVerb | None, rules: Sequence[str], net: str | None, dry_run: bool
) -> None:
    """Show or change where packets of a network, or of a container on one, may leave to.

    RULE is CIDR, CIDR:PORT[-PORT][/PROTOCOL] or DOMAIN[:PORT…]. The first RULE makes a list; `any`
    is none, `deny` an empty one. A container may go where its network may as well.
    """
    from netkit import permissions

    if verb is None:
        listed = permissions.egress(open_engine(), target, net)
        click.echo("any" if listed is None else "\n".join(map(str, listed)) or "none")
        return
    _change(lambda engine: permissions.let_out(engine, target, verb, rules, net), dry_run)


def _change(change: Callable[[Engine], object], dry: bool) -> None:
    engine = open_engine()
    if dry:
        with engine.dry_run() as lines:
            change(engine)
        show_lines(lines)
    else:
        change(engine)
