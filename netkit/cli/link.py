"""netkit link: create (which may be left out), ls, inspect, rm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from netkit.cli import names
from netkit.cli.common import (
    Aliased,
    Command,
    dry_run,
    each,
    format_option,
    object_format_option,
    open_engine,
    show_lines,
    show_objects,
    show_rows,
)

_COLUMNS = {
    "ID": "LINK ID",
    "Name": "NAME",
    "A": "A",
    "AddressA": "ADDRESS A",
    "B": "B",
    "AddressB": "ADDRESS B",
}


class Links(Aliased):
    """`link A B` is `link create A B`: for a container called `ls`, the long form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {*self.commands, *self.aliases, *ctx.help_option_names}
        if args and args[0] not in known:
            args = ["create", *args]
        return super().parse_args(ctx, args)


@click.group(cls=Links)
def link_command() -> None:
    """Join two containers by a wire: netkit link [OPTIONS] A B.

    A and B are containers, pid:N, netns:/path, names `ip netns` knows, or `host`. The options are
    those of `netkit link create`, which is the same.
    """


@link_command.command(cls=Command)
@click.argument("a", type=names.TARGETS)
@click.argument("b", type=names.TARGETS)
@click.option("--name", metavar="NAME", help="Name of the link [A-B].")
@click.option(
    "--addr-a", multiple=True, metavar="IP/N", help="Address of A's end [a free pair for both]."
)
@click.option("--addr-b", multiple=True, metavar="IP/N", help="Address of B's end.")
@click.option("--no-addr", is_flag=True, help="No addresses at all.")
@click.option("--ifname-a", metavar="NAME", help="Interface of A's end [ethN; on the host vethX].")
@click.option("--ifname-b", metavar="NAME", help="Interface of B's end.")
@click.option("--mac-a", metavar="MAC", help="MAC address of A's end.")
@click.option("--mac-b", metavar="MAC", help="MAC address of B's end.")
@click.option("--mtu", metavar="N", default="1500", show_default=True, help="MTU of both ends.")
@click.option("-q", "--quiet", is_flag=True, help="Print the name only.")
@dry_run
def create(a: str, b: str, quiet: bool, dry_run: bool, **given: Any) -> None:
    """Join two containers, or one and `host`, and print the link's name and its ends."""
    from netkit import addresses, naming, specs

    def end(target: str, which: str) -> specs.EndSpec:
        mac = given[f"mac_{which}"]
        return specs.EndSpec(
            target=target,
            addresses=tuple(addresses.interface("address", ip) for ip in given[f"addr_{which}"]),
            ifname=given[f"ifname_{which}"],
            mac=None if mac is None else naming.parse_mac(mac),
        )

    spec = specs.LinkSpec(
        ends=(end(a, "a"), end(b, "b")),
        name=given["name"],
        mtu=specs.integer("MTU", given["mtu"]),
        addressless=given["no_addr"],
    )
    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            engine.create_link(spec)
        show_lines(lines)
        return
    link = engine.create_link(spec)
    click.echo(link.name)
    for each_end in () if quiet else link.ends:
        click.echo(" ".join([f"  {each_end}", *map(str, each_end.addresses)]))


@link_command.command()
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@format_option
def ls(quiet: bool, no_trunc: bool, format_: str | None) -> None:
    """List links."""
    from netkit import views

    rows = [
        views.link_row(link) | ({"ID": link.id} if no_trunc else {})
        for link in open_engine().links()
    ]
    show_rows(rows, _COLUMNS, format_, "ID" if quiet else None)


@link_command.command()
@click.argument("links", metavar="LINK...", nargs=-1, required=True, type=names.LINKS)
@object_format_option
def inspect(links: Sequence[str], format_: str | None) -> None:
    """Show all there is to know of links."""
    from netkit import views
    from netkit.model import LinkRecord

    store = open_engine().store
    show_objects([views.link(store.get(LinkRecord, name)) for name in links], format_)


@link_command.command()
@click.argument("links", metavar="LINK...", nargs=-1, required=True, type=names.LINKS)
@click.option("-f", "--force", is_flag=True, help="No error if there is none.")
@dry_run
def rm(links: Sequence[str], force: bool, dry_run: bool) -> int:
    """Remove links, at both ends."""
    from netkit.errors import NotFound

    engine = open_engine()

    def remove(name: str) -> None:
        try:
            engine.delete_link(name)
        except NotFound:
            if not force:
                raise

    if dry_run:
        with engine.dry_run() as lines:
            for name in links:
                remove(name)
        show_lines(lines)
        return 0
    return each(links, remove)
