"""netkit update: what of a container can be another while it runs, beside addresses and ports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from netkit.cli import names
from netkit.cli.common import dry_run, labels, open_engine, show_lines


@click.command("update")
@click.argument("target", type=names.TARGETS)
@click.option("--net", "--network", type=names.NETWORKS, help="Of one of several networks.")
@click.option("--alias-add", multiple=True, metavar="NAME", help="Another name on the network.")
@click.option("--alias-rm", multiple=True, metavar="NAME", help="One less.")
@click.option("--mtu", metavar="N", help="MTU of its interface.")
@click.option("--txqlen", metavar="N", help="Length of the interface's transmit queue.")
@click.option("--promisc/--no-promisc", default=None, help="Receive what is for others, too.")
@click.option("--allmulti/--no-allmulti", default=None, help="Receive all multicast.")
@click.option(
    "--gw-priority", type=int, help="Of several networks the highest has the default route."
)
@click.option("--dns", multiple=True, metavar="IP", help="DNS servers; '' for the network's.")
@click.option("--dns-search", multiple=True, metavar="DOMAIN", help="DNS search domains, or ''.")
@click.option(
    *("--dns-option", "--dns-opt"), multiple=True, metavar="OPT", help="Resolver options, or ''."
)
@click.option("--label-add", "--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove one.")
@dry_run
def update_command(target: str, net: str | None, dry_run: bool, **given: Any) -> None:
    """Change what TARGET is while it runs; what is not said stays as it is.

    Connections go on. Ports are changed by publish and unpublish, addresses, routes and rules by
    address, route and rule.
    """
    from netkit import live, specs
    from netkit.errors import InvalidSpec
    from netkit.updates import Labels, Update

    def number(what: str, text: str | None) -> int | None:
        return None if text is None else specs.integer(what, text)

    update = Update(
        aliases=given["alias_add"],
        no_aliases=given["alias_rm"],
        mtu=number("MTU", given["mtu"]),
        txqlen=number("queue length", given["txqlen"]),
        promisc=given["promisc"],
        allmulti=given["allmulti"],
        gateway_priority=given["gw_priority"],
        servers=_listed(given["dns"]),
        search=_listed(given["dns_search"]),
        options=_listed(given["dns_option"]),
        labels=Labels(labels(given["label_add"]), given["label_rm"]),
    )
    if update == Update():
        raise InvalidSpec("nothing to change", hint="`netkit update --help` lists what can be")
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            live.update(engine, target, update, network=net)
        show_lines(lines)
    else:
        live.update(engine, target, update, network=net)


def _listed(given: Sequence[str]) -> tuple[str, ...] | None:
    """None where nothing is said; nothing where it is said to be none."""
    return tuple(filter(None, given)) if given else None
