"""netkit address, route and rule: what changes of a container's interface while it lives.

Each change is on record: `check` knows of it, `disconnect` takes it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netkit.cli import names
from netkit.cli.common import (
    Aliased,
    dry_run,
    format_option,
    open_engine,
    options,
    show_lines,
    show_rows,
)

if TYPE_CHECKING:
    from netkit.engine import Engine
    from netkit.live import Verb

F = TypeVar("F", bound=Callable[..., Any])
_PLACE = {"Interface": "INTERFACE", "Network": "NETWORK"}

# which interface, where there are several
_where = options(
    click.option("--ifname", metavar="NAME", help="Interface, if there are several."),
    click.option("--net", "--network", type=names.NETWORKS, help="Or the network it is on."),
    dry_run,
)


@click.group(cls=Aliased)
def address_command() -> None:
    """Change the addresses of a connected container."""


@click.group(cls=Aliased)
def route_command() -> None:
    """Change the routes of a connected container."""


@click.group(cls=Aliased)
def rule_command() -> None:
    """Change the policy rules of a connected container."""


@address_command.command("add")
@click.argument("target", type=names.TARGETS)
@click.argument("address", metavar="ADDRESS[/LENGTH]")
@_where
def add_address(target: str, address: str, **where: Any) -> None:
    """Give TARGET another address: leased, if it is of the network's, else just let through."""
    _change("add address", target, address, where)


@address_command.command("rm")
@click.argument("target", type=names.TARGETS)
@click.argument("address", metavar="ADDRESS[/LENGTH]")
@_where
def remove_address(target: str, address: str, **where: Any) -> None:
    """Take an address from TARGET."""
    _change("remove address", target, address, where)


@address_command.command("ls")
@click.argument("target", type=names.TARGETS)
@format_option
def list_addresses(target: str, format_: str | None) -> None:
    """List the addresses of TARGET."""
    from netkit import views

    engine = open_engine()
    rows = views.address_rows(engine, engine.sandbox(target))
    show_rows(rows, {"Address": "ADDRESS", **_PLACE, "Kind": "KIND"}, format_)


@route_command.command("add")
@click.argument("target", type=names.TARGETS)
@click.argument("route", nargs=-1, required=True)
@_where
def add_route(target: str, route: Sequence[str], **where: Any) -> None:
    """Give TARGET a route, as `ip route` has it: 10.1.0.0/16 via 172.25.0.9 metric 100.

    Without `via` it leads to the network's gateway, with `dev` to neighbours. `default via IP` is
    in place of the default route there is, with a metric it is beside it.
    """
    _change("add route", target, " ".join(route), where)


@route_command.command("rm")
@click.argument("target", type=names.TARGETS)
@click.argument("route", nargs=-1, required=True)
@_where
def remove_route(target: str, route: Sequence[str], **where: Any) -> None:
    """Take a route from TARGET: of several with one destination the whole of it is to be said."""
    _change("remove route", target, " ".join(route), where)


@route_command.command("ls")
@click.argument("target", type=names.TARGETS)
@format_option
def list_routes(target: str, format_: str | None) -> None:
    """List the routes of TARGET, but for those that come with addresses."""
    from netkit import views

    engine = open_engine()
    rows = views.route_rows(engine, engine.sandbox(target))
    show_rows(rows, {"Route": "ROUTE", **_PLACE, "Kind": "KIND"}, format_)


@rule_command.command("add")
@click.argument("target", type=names.TARGETS)
@click.argument("rule", nargs=-1, required=True)
@_where
def add_rule(target: str, rule: Sequence[str], **where: Any) -> None:
    """Give TARGET a policy rule, as `ip rule` has it: from 172.25.0.2 table 100 priority 50."""
    _change("add rule", target, " ".join(rule), where)


@rule_command.command("rm")
@click.argument("target", type=names.TARGETS)
@click.argument("rule", nargs=-1, required=True)
@_where
def remove_rule(target: str, rule: Sequence[str], **where: Any) -> None:
    """Take a policy rule from TARGET."""
    _change("remove rule", target, " ".join(rule), where)


@rule_command.command("ls")
@click.argument("target", type=names.TARGETS)
@format_option
def list_rules(target: str, format_: str | None) -> None:
    """List the policy rules that TARGET was given."""
    from netkit import views

    engine = open_engine()
    rows = views.rule_rows(engine, engine.sandbox(target))
    show_rows(rows, {"Rule": "RULE", **_PLACE}, format_)


def _change(verb: Verb, target: str, text: str, where: Mapping[str, Any]) -> None:
    from netkit import live

    engine = open_engine()
    place = {"network": where["net"], "ifname": where["ifname"]}

    def change(engine: Engine) -> None:
        live.alter(engine, target, verb, text, **place)

    if where["dry_run"]:
        with engine.dry_run() as lines:
            change(engine)
        show_lines(lines)
    else:
        change(engine)
