"""netkit network …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from netkit.cli import filters, names
from netkit.cli.common import (
    Aliased,
    Command,
    dry_run,
    each,
    format_option,
    object_format_option,
    open_engine,
    pairs,
    show_lines,
    show_objects,
    show_rows,
)
from netkit.cli.endpoint import connect, disconnect

if TYPE_CHECKING:
    from netkit.engine import Engine
    from netkit.model import NetworkRecord

_COLUMNS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE"}


@click.group(cls=Aliased)
def network_command() -> None:
    """Manage networks."""


@network_command.command(cls=Command)
@click.argument("name")
@click.option(
    *("-d", "--driver"),
    default="bridge",
    show_default=True,
    type=names.DRIVERS,
    help="Network driver.",
)
@click.option(
    "--subnet",
    multiple=True,
    metavar="CIDR",
    help="Subnet, or /N for any of that length [a free one]; several: an address of each.",
)
@click.option(
    "--gateway", multiple=True, metavar="IP", help="Gateway; by default the subnet's first address."
)
@click.option(
    "--ip-range",
    multiple=True,
    metavar="CIDR|FIRST-LAST",
    help="Where automatic addresses are taken from; of several the first is used up first.",
)
@click.option(
    "--ipam-driver",
    default="default",
    show_default=True,
    metavar="NAME",
    type=names.IPAM_DRIVERS,
    help="Who hands out addresses: default, static (those asked for), none, or an IPAM plugin.",
)
@click.option(
    "--ipam-opt",
    multiple=True,
    metavar="KEY=VALUE",
    type=names.IPAM_OPTIONS,
    help="round-robin=true, sticky=true, or a plugin's own.",
)
@click.option("--ipv4/--no-ipv4", default=True, show_default=True, help="With IPv4 addresses.")
@click.option("--ipv6/--no-ipv6", help="With IPv6 addresses.")
@click.option("-b", "--bridge", metavar="NAME", help="Use a bridge of the host's, and leave it.")
@click.option("--bip", metavar="IP/N", help="Address of the bridge: subnet and gateway in one.")
@click.option(
    "--icc/--no-icc", default=True, show_default=True, help="Let its containers reach each other."
)
@click.option(
    "--aux-address", multiple=True, metavar="NAME=IP", help="An address never to be given out."
)
@click.option("--internal", is_flag=True, help="No way out, and none in.")
@click.option(
    "--dns-enabled/--disable-dns",
    default=None,
    help="Have its containers' names resolve there, or not [where they can].",
)
@click.option(
    "--dns",
    multiple=True,
    metavar="IP",
    help="Where other names are asked for [as a container's --dns, else as the host does].",
)
@click.option("--mtu", metavar="N", help="MTU; by default that of the host's default route.")
@click.option(
    "--ip-masq/--no-ip-masq", default=True, show_default=True, help="Masquerade what leaves."
)
@click.option(
    "--ip-forward/--no-ip-forward", default=True, help="See to it that the host forwards."
)
@click.option(
    "--ip-forward-no-drop",
    is_flag=True,
    help="If the host did not forward before, let it forward what is not netkit's, too.",
)
@click.option(
    "--route",
    multiple=True,
    metavar="ROUTE",
    help="A route of every endpoint: CIDR,GATEWAY[,METRIC], or as for `connect`.",
)
@click.option("--no-default-route", is_flag=True, help="Its endpoints get no default route.")
@click.option("--host-ip", metavar="IP", help="Where -p binds if it names no address [0.0.0.0].")
@click.option(
    *("-o", "--opt"),
    multiple=True,
    metavar="KEY=VALUE",
    type=names.DRIVER_OPTIONS,
    help="Driver option, as Docker's.",
)
@click.option(
    "--host-access/--no-host-access",
    default=True,
    show_default=True,
    help="Let its containers reach the host's own services.",
)
@click.option(
    "--egress",
    multiple=True,
    metavar="RULE",
    help="Where its packets may leave to: CIDR[:PORT…], DOMAIN[:PORT…], or none [anywhere].",
)
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label.")
@click.option("--force", is_flag=True, help="Accept a subnet that overlaps a route of the host.")
@dry_run
def create(name: str, opt: Sequence[str], dry_run: bool, **given: Any) -> None:
    """Create a network."""
    from netkit import access, addresses, routes, specs

    def optional(convert: Any, what: str, value: str | None) -> Any:
        return None if value is None else convert(what, value)

    fields: dict[str, Any] = {
        "gateways": tuple(addresses.address("gateway", ip) for ip in given["gateway"]),
        "ip_ranges": tuple(
            part for text in given["ip_range"] for part in addresses.ranges("IP range", text)
        ),
        **specs.ipam_fields(given["ipam_driver"], pairs("IPAM option", given["ipam_opt"])),
        "ipv4": given["ipv4"],
        "ipv6": given["ipv6"],
        "reserved": {
            key: addresses.address("auxiliary address", value)
            for key, value in pairs("auxiliary address", given["aux_address"]).items()
        },
        "mtu": optional(specs.integer, "MTU", given["mtu"]),
        "host_binding": optional(addresses.address, "host address", given["host_ip"]),
        "routes": routes.parse_all(given["route"]),
        "default_route": not given["no_default_route"],
        "masquerade": given["ip_masq"],
        "ip_forward": given["ip_forward"],
        "transit": given["ip_forward_no_drop"],
        "icc": given["icc"],
        "names": given["dns_enabled"],
        "servers": specs.name_servers(given["dns"]),
        "host_access": given["host_access"],
        "egress": access.egress_list(given["egress"]),
        "bridge": given["bridge"],
        "labels": pairs("label", given["label"]),
    }
    fields |= specs.subnet_fields(given["subnet"])
    if given["bip"] is not None:
        fields |= specs.bridge_address(given["bip"], fields)
    fields |= specs.NetworkSpec.of_options(pairs("option", opt))
    spec = specs.NetworkSpec(
        name,
        given["driver"],
        existing=given["bridge"] is not None,
        internal=given["internal"],
        force=given["force"],
        **fields,
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
@click.option(
    *("-f", "--filter", "given"),
    multiple=True,
    metavar="KEY=VALUE",
    type=names.filters(filters.NETWORK),
    help="Only those: " + ", ".join(filters.NETWORK) + ".",
)
@format_option
def ls(quiet: bool, no_trunc: bool, given: Sequence[str], format_: str | None) -> None:
    """List networks."""
    from netkit import views

    wanted = filters.parse(given, filters.NETWORK)
    engine = open_engine()
    rows, labels = [], {}
    for net in engine.networks():
        row = views.network_row(net)
        if not wanted or filters.holds(wanted, _tests(engine, net, row)):
            rows.append(row | {"ID": net.id} if no_trunc else row)
            labels[rows[-1]["ID"]] = net.labels
    show_rows(rows, _COLUMNS, format_, "ID" if quiet else None, labels)


def _tests(engine: Engine, net: NetworkRecord, row: dict[str, Any]) -> filters.Tests:
    custom = net.created > 0
    return {
        "dangling": lambda value: (
            filters.truth(value) == (custom and not engine.endpoints(network=net.id))
        ),
        "driver": lambda value: row["Driver"] == value,
        "id": net.id.startswith,
        "name": lambda value: filters.named(value, net.name),
        "scope": lambda value: row["Scope"] == value,
        "type": lambda value: value == ("custom" if custom else "builtin"),
        **filters.labels(net.labels),
    }


@network_command.command()
@click.argument("networks", metavar="NETWORK...", nargs=-1, required=True, type=names.NETWORKS)
@object_format_option
def inspect(networks: Sequence[str], format_: str | None) -> None:
    """Show all there is to know of networks."""
    from netkit import views

    engine = open_engine()
    show_objects([views.network(engine, engine.network(name)) for name in networks], format_)


@network_command.command()
@click.argument(
    "networks", metavar="NETWORK...", nargs=-1, required=True, type=names.CUSTOM_NETWORKS
)
@click.option("-f", "--force", is_flag=True, help="Disconnect its containers first.")
@dry_run
def rm(networks: Sequence[str], force: bool, dry_run: bool) -> int:
    """Remove networks."""
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            for name in networks:
                engine.delete_network(name, force=force)
        show_lines(lines)
        return 0
    return each(networks, lambda name: engine.delete_network(name, force=force))


@network_command.command()
@click.argument("network", type=names.NETWORKS)
@click.option("--label-add", "--label", multiple=True, metavar="KEY=VALUE", help="Set a label.")
@click.option("--label-rm", multiple=True, metavar="KEY", help="Remove one.")
@click.option(
    "--dns-add", multiple=True, metavar="IP", help="Ask another DNS server for names of elsewhere."
)
@click.option("--dns-drop", multiple=True, metavar="IP", help="Ask one no longer.")
@click.option("--mtu", metavar="N", help="MTU of all its interfaces.")
@dry_run
def update(network: str, dry_run: bool, **given: Any) -> None:
    """Change a network while it is in use; what is not said stays as it is."""
    from netkit import live, specs
    from netkit.errors import InvalidSpec
    from netkit.updates import Labels, NetworkUpdate

    wanted = NetworkUpdate(
        labels=Labels(pairs("label", given["label_add"]), given["label_rm"]),
        servers=given["dns_add"],
        no_servers=given["dns_drop"],
        mtu=None if given["mtu"] is None else specs.integer("MTU", given["mtu"]),
    )
    if wanted == NetworkUpdate():
        raise InvalidSpec(
            "nothing to change", hint="`netkit network update --help` lists what can be"
        )
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            live.update_network(engine, network, wanted)
        show_lines(lines)
    else:
        live.update_network(engine, network, wanted)


@network_command.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option(
    "--filter",
    "given",
    multiple=True,
    metavar="KEY=VALUE",
    type=names.filters(filters.PRUNE),
    help="Only those: " + ", ".join(filters.PRUNE) + ".",
)
def prune(force: bool, given: Sequence[str]) -> None:
    """Remove all networks nobody is connected to."""
    from netkit.model import NetworkRecord

    wanted = filters.parse(given, filters.PRUNE)
    for text in wanted.get("until", ()):
        filters.moment(text)  # refused before the question is asked
    engine = open_engine()
    if not force:
        click.echo("WARNING! This will remove all custom networks not used by any container.")
        if not click.confirm("Are you sure you want to continue?"):
            click.echo("Nothing was removed.", err=True)
            raise click.exceptions.Exit(1)
    engine.gc()
    removed = []
    for net in engine.changes.track(engine.store.all(NetworkRecord), "removing networks"):
        tests = {"until": filters.older(net.created), **filters.labels(net.labels)}
        chosen = filters.holds(wanted, tests)
        if chosen and not engine.endpoints(network=net.id):
            engine.delete_network(net.id)
            removed.append(net.name)
    if removed:
        click.echo("Deleted Networks:\n" + "\n".join(removed))


network_command.add_command(connect)
network_command.add_command(disconnect)
