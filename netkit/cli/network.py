"""netkit network …"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from netkit.cli.common import (
    dry_run,
    each,
    format_option,
    open_engine,
    pairs,
    show_lines,
    show_objects,
    show_rows,
)
from netkit.cli.endpoint import connect, disconnect

_COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")


@click.group()
def network_command() -> None:
    """Manage networks."""


@network_command.command()
@click.argument("name")
@click.option("-d", "--driver", default="bridge", show_default=True, help="Network driver.")
@click.option("--subnet", metavar="CIDR", help="Subnet, or /N for any of that length [a free one].")
@click.option("--gateway", metavar="IP", help="Gateway; by default the subnet's first address.")
@click.option("--ip-range", metavar="CIDR", help="Where automatic addresses are taken from.")
@click.option(
    "--aux-address", multiple=True, metavar="NAME=IP", help="An address never to be given out."
)
@click.option("--internal", is_flag=True, help="No way out, and none in.")
@click.option("--mtu", metavar="N", help="MTU; by default that of the host's default route.")
@click.option(
    "--ip-masq/--no-ip-masq", default=True, show_default=True, help="Masquerade what leaves."
)
@click.option(
    "--ip-forward/--no-ip-forward", default=True, help="See to it that the host forwards."
)
@click.option("--host-ip", metavar="IP", help="Where -p binds if it names no address [0.0.0.0].")
@click.option("-o", "--opt", multiple=True, metavar="KEY=VALUE", help="Driver option, as Docker's.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label.")
@click.option("--force", is_flag=True, help="Accept a subnet that overlaps a route of the host.")
@dry_run
def create(name: str, opt: Sequence[str], dry_run: bool, **given: Any) -> None:
    """Create a network."""
    from netkit import model

    def optional(convert: Any, what: str, value: str | None) -> Any:
        return None if value is None else convert(what, value)

    fields: dict[str, Any] = {
        "gateway": optional(model.address, "gateway", given["gateway"]),
        "ip_range": optional(model.subnet, "IP range", given["ip_range"]),
        "reserved": {
            key: model.address("auxiliary address", value)
            for key, value in pairs("auxiliary address", given["aux_address"]).items()
        },
        "mtu": optional(model.integer, "MTU", given["mtu"]),
        "host_binding": optional(model.address, "host address", given["host_ip"]),
        "masquerade": given["ip_masq"],
        "ip_forward": given["ip_forward"],
        "labels": pairs("label", given["label"]),
    }
    if given["subnet"] is not None:
        fields |= model.subnet_fields(given["subnet"])
    fields |= model.NetworkSpec.options(pairs("option", opt))
    spec = model.NetworkSpec(
        name, given["driver"], internal=given["internal"], force=given["force"], **fields
    )
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.create_network(spec)
        show_lines(lines)
    else:
        click.echo(engine.create_network(spec).id)


@network_command.command()
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Which ones.")
@format_option
def ls(quiet: bool, no_trunc: bool, filters: Sequence[str], format_: str | None) -> None:
    """List networks."""
    from netkit import views

    wanted = _filters(filters, _FILTERS)
    engine = open_engine()
    rows = []
    for net in engine.networks():
        row = views.network_row(net)
        if _passes(row | {"Id": net.id, "Labels": net.labels}, wanted, engine.endpoints):
            rows.append(row | {"ID": net.id} if no_trunc else row)
    show_rows(rows, _COLUMNS, format_, "ID" if quiet else None)


@network_command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a template.")
def inspect(names: Sequence[str], format_: str | None) -> None:
    """Show all there is to know of networks."""
    from netkit import views

    engine = open_engine()
    show_objects([views.network(engine, engine.network(name)) for name in names], format_)


@network_command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Disconnect its containers first.")
@dry_run
def rm(names: Sequence[str], force: bool, dry_run: bool) -> int:
    """Remove networks."""
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            for name in names:
                engine.delete_network(name, force=force)
        show_lines(lines)
        return 0
    return each(names, lambda name: engine.delete_network(name, force=force))


@network_command.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="label= or until=.")
def prune(force: bool, filters: Sequence[str]) -> None:
    """Remove all networks nobody is connected to."""
    import time

    from netkit.model import NetworkRecord

    wanted = _filters(filters, ("label", "until"))
    engine = open_engine()
    if not force:
        click.echo("WARNING! This will remove all custom networks not used by any container.")
        if not click.confirm("Are you sure you want to continue?"):
            click.echo("Nothing was removed.", err=True)
            raise click.exceptions.Exit(1)
    engine.gc()
    removed = []
    for net in engine.store.all(NetworkRecord):
        young = any(net.created > time.time() - _seconds(u) for u in wanted.get("until", ()))
        labelled = all(_has_label(net.labels, text) for text in wanted.get("label", ()))
        if labelled and not young and not engine.endpoints(network=net.id):
            engine.delete_network(net.id)
            removed.append(net.name)
    if removed:
        click.echo("Deleted Networks:\n" + "\n".join(removed))


network_command.add_command(connect)
network_command.add_command(disconnect)


def _filters(given: Sequence[str], known: Sequence[str]) -> dict[str, list[str]]:
    from netkit.errors import InvalidSpec

    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise InvalidSpec(
                f"invalid filter {text!r:.80}", hint=f"filters are {', '.join(known)}: KEY=VALUE"
            )
        if key == "dangling" and value not in _TRUTH:
            raise InvalidSpec(
                f"invalid filter {text!r:.80}: neither true nor false",
                hint="write dangling=true or dangling=false",
            )
        found.setdefault(key, []).append(value)
    return found


def _passes(row: Mapping[str, Any], wanted: Mapping[str, list[str]], endpoints: Any) -> bool:
    """Values of one filter are alternatives, different filters all have to hold; labels all do."""
    tests: dict[str, Callable[[str], bool]] = {
        "driver": lambda value: row["Driver"] == value,
        "id": lambda value: row["Id"].startswith(value),
        "name": lambda value: value in row["Name"],
        "scope": lambda value: row["Scope"] == value,
        "type": lambda value: value == ("builtin" if row["CreatedAt"] == "" else "custom"),
        "dangling": lambda value: (
            _TRUTH[value] == (row["CreatedAt"] != "" and not endpoints(network=row["Id"]))
        ),
        "label": lambda value: _has_label(row["Labels"], value),
    }
    combine = {"label": all}
    return all(
        combine.get(key, any)(tests[key](value) for value in values)
        for key, values in wanted.items()
    )


def _has_label(labels: Mapping[str, str], text: str) -> bool:
    key, equals, value = text.partition("=")
    return key in labels and (not equals or labels[key] == value)


def _seconds(text: str) -> float:
    """Go's short durations: 90s, 10m, 24h, and sums of them."""
    import re

    from netkit.errors import InvalidSpec

    parts = re.findall(r"(\d+)([smh])", text)
    if not parts or "".join(n + unit for n, unit in parts) != text:
        raise InvalidSpec(f"invalid duration {text!r:.80}", hint="write 90s, 10m, 24h or 1h30m")
    return float(sum(int(n) * {"s": 1, "m": 60, "h": 3600}[unit] for n, unit in parts))
