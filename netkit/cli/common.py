"""What several commands share: the engine, options for requests, and output formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    from netkit.engine import Engine
    from netkit.model import NameFiles, Request

F = TypeVar("F", bound=Callable[..., Any])


def open_engine() -> Engine:
    """The engine the global options ask for; refuses users the kernel would refuse."""
    from netkit import model
    from netkit.engine import Engine
    from netkit.kernel import privilege

    privilege.require()
    root = click.get_current_context().find_root()
    pools = [model.address_pool(text) for text in root.obj["address_pools"]]
    engine = Engine(**root.obj | {"address_pools": pools})
    root.call_on_close(engine.close)
    return engine


def options(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several click options as one decorator, shown in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


dry_run = click.option(
    "--dry-run", is_flag=True, help="Print the ip and nft lines instead of doing it."
)

files_options = options(
    click.option("--dns", multiple=True, metavar="IP", help="DNS server."),
    click.option("--dns-search", multiple=True, metavar="DOMAIN", help="DNS search domain."),
    click.option(
        "--dns-option", "--dns-opt", multiple=True, metavar="OPT", help="Resolver option."
    ),
    click.option("--add-host", multiple=True, metavar="NAME:IP", help="Extra line of /etc/hosts."),
    click.option("-h", "--hostname", metavar="NAME", help="Name in /etc/hostname and /etc/hosts."),
    click.option("--domainname", metavar="NAME", help="Domain of that name."),
)

request_options = options(
    click.option("--ip", metavar="IP", help="Address, or 0/0 for none at all."),
    click.option("--mac-address", metavar="MAC", help="MAC address."),
    click.option("--ifname", metavar="NAME", help="Name of the interface inside [ethN]."),
    click.option("--host-ifname", metavar="NAME", help="Name of the interface on the host."),
    click.option(
        "--gw-priority",
        type=int,
        default=0,
        help="Of several networks the highest has the default route.",
    ),
    click.option(
        "-p",
        "--publish",
        multiple=True,
        metavar="PORT",
        help="[[ip:][hostPort]:]containerPort[/protocol], ports may be ranges.",
    ),
)


def files_of(given: Mapping[str, Any]) -> NameFiles:
    """The NameFiles the options of `files_options` ask for; takes them out of *given*."""
    from netkit.model import NameFiles

    return NameFiles(
        hostname=given["hostname"],
        domainname=given["domainname"],
        servers=given["dns"],
        search=given["dns_search"],
        options=given["dns_option"],
        extra_hosts=given["add_host"],
    )


def request_of(given: Mapping[str, Any]) -> Request:
    """The Request the options of `request_options` ask for."""
    from netkit import model, naming

    ip, mac = given["ip"], given["mac_address"]
    return model.Request(
        ifname=given["ifname"],
        host_ifname=given["host_ifname"],
        address=None if ip in (None, "0/0") else model.address("address", ip),
        addressless=ip == "0/0",
        mac=naming.parse_mac(mac) if mac is not None else None,
        gateway_priority=given["gw_priority"],
        ports=tuple(spec for text in given["publish"] for spec in model.PortSpec.parse(text)),
    )


def pairs(what: str, given: Iterable[str]) -> dict[str, str]:
    """key=value options as a dict; a key alone has the value ""."""
    found = {}
    for text in given:
        key, _, value = text.partition("=")
        if not key:
            raise InvalidSpec(f"invalid {what} {text!r:.80}: no key", hint="write key=value")
        found[key] = value
    return found


# -- output


format_option = click.option(
    "--format", "format_", metavar="FORMAT", help="table, json, or a template: '{{.Name}}'."
)


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    format_: str | None,
    quiet: str | None = None,
) -> None:
    """Rows as a table of *columns* (field: heading), as JSON lines, by template, or one field."""
    if quiet is not None:
        for row in rows:
            click.echo(row[quiet])
    elif format_ is None or format_ == "table":
        _table([list(columns.values()), *([str(row[c]) for c in columns] for row in rows)])
    elif format_ == "json":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        _templated(rows, columns, format_)


def show_objects(objects: Sequence[Mapping[str, Any]], format_: str | None) -> None:
    """Objects as one JSON array, or each by template."""
    if format_ is None:
        click.echo(json.dumps(objects, indent=4, ensure_ascii=False))
    elif format_ == "json":
        click.echo(json.dumps(objects, ensure_ascii=False))
    else:
        from netkit.cli import template

        compiled = template.compile(format_)
        for item in objects:
            click.echo(compiled.render(item))


def _templated(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], text: str) -> None:
    from netkit.cli import template

    is_table = text.startswith("table ")
    text = text.removeprefix("table ")
    compiled = template.compile(text)
    lines = [compiled.render(row) for row in rows]
    if is_table:
        header = template.table_header(text, columns)
        _table([line.split("\t") for line in [header, *lines]])
    else:
        for line in lines:
            click.echo(line)


def _table(rows: list[list[str]]) -> None:
    """Columns as wide as their widest cell and three spaces apart, as Docker prints them."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        click.echo("   ".join([*cells, row[-1]]).rstrip())


def show_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def each(names: Sequence[str], work: Callable[[str], object]) -> int:
    """Do *work* for every name, past failures; print the names that went well. The exit code."""
    from netkit.errors import NetkitError

    failed = 0
    for name in names:
        try:
            work(name)
        except NetkitError as error:
            sys.stdout.flush()
            complain(error)
            failed = 1
        else:
            click.echo(name)
    return failed


def complain(error: Exception) -> None:
    """Say on stderr what went wrong, and the way out."""
    print(f"Error: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"       {note}", file=sys.stderr)
    if hint := getattr(error, "hint", None):
        print(f"Hint:  {hint}", file=sys.stderr)
