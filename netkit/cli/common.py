"""What several commands share: the engine, options for requests, and output formats."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from netkit.cli import names
from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    from netkit.config import Settings
    from netkit.engine import Engine
    from netkit.specs import NameFiles, Request

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def open_engine() -> Engine:
    """The engine the global options ask for; refuses users the kernel would refuse."""
    from netkit.config import COMMAND_LINE
    from netkit.engine import Engine
    from netkit.kernel import privilege

    privilege.require()
    root = click.get_current_context().find_root()
    config, origins = configured()
    insisted = COMMAND_LINE in (origins.get("firewall"), origins.get("iptables"))
    engine = Engine(config=config, firewall_name=config.back_end if insisted else None)
    engine.changes.track = tracked
    engine.changes.warn = lambda text: click.echo(f"Warning: {text}", err=True)
    root.call_on_close(engine.close)
    return engine


def configured() -> Settings:
    """What is configured: by the global options, the environment, the file."""
    from netkit import config

    options = click.get_current_context().find_root().obj
    if "settings" not in options:
        options["settings"] = config.load(*asked())
    settings: Settings = options["settings"]
    return settings


def asked() -> tuple[str | None, dict[str, Any]]:
    """The file --config names, and the keys that global options set."""
    from netkit import specs

    options = click.get_current_context().find_root().obj
    keys: dict[str, Any] = dict(options["given"])
    if texts := keys.get("default-address-pools"):
        pools = [specs.address_pool(text) for text in texts]
        keys["default-address-pools"] = [{"base": str(base), "size": s} for base, s in pools]
    return options["config"], keys


class Command(click.Command):
    """A command whose flags may be given a value, as Go's: --ipv6=false."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, without_values(self, ctx, args))


def without_values(command: click.Command, ctx: click.Context, args: list[str]) -> list[str]:
    """*args* of *command* with each --flag=false as click has it: --no-flag."""
    flags = {
        name: (name, option.secondary_opts[0] if option.secondary_opts else None)
        for option in command.params
        if isinstance(option, click.Option) and option.is_flag
        for name in option.opts
    }
    takes_value = {
        name
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag
        for name in option.opts
    }
    done: list[str] = []
    rest = iter(args)
    for word in rest:
        if word == "--" or not (word.startswith("-") or ctx.allow_interspersed_args):
            return [*done, word, *rest]
        name, equals, value = word.partition("=")
        if equals and name in flags and value.lower() in _TRUTH:
            yes, no = flags[name]
            word = yes if _TRUTH[value.lower()] else no or ""
        if word:  # a flag without a contrary is simply left out
            done.append(word)
        if word in takes_value:
            done += [value for value in [next(rest, None)] if value is not None]
    return done


_TRUTH = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}  # Go's


def options(*decorators: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several click options as one decorator, shown in the order given."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class Aliased(click.Group):
    """A group that knows Docker's second names of some commands; help shows the first."""

    aliases: ClassVar = {"list": "ls", "remove": "rm"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


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
    click.option("--ip", multiple=True, metavar="IP", help="Address, or 0/0 for none at all."),
    click.option("--ip6", multiple=True, metavar="IP", help="IPv6 address."),
    click.option(
        "--mac-address", metavar="MAC", help="MAC address, or U:TEXT for the one of a text."
    ),
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
        help="[[ip|interface:][hostPort]:]containerPort[/protocol][@network]; ports may be ranges.",
    ),
    click.option(
        *("--network-alias", "--net-alias", "--alias", "alias"),
        multiple=True,
        metavar="NAME",
        help="What it is called there beside its name; '*.NAME': and all below that.",
    ),
    click.option(
        "--link",
        multiple=True,
        metavar="CONTAINER[:ALIAS]",
        type=names.CONTAINERS,
        help="What it calls another; on a closed network, let it reach what that exposes.",
    ),
    click.option(
        "--link-local-ip",
        multiple=True,
        metavar="IP",
        help="A link-local address beside the others.",
    ),
    click.option(
        "--route",
        multiple=True,
        metavar="ROUTE",
        help="CIDR[,via=IP|,dev][,metric=N][,mtu=N][,table=N][,type=blackhole|…], or as ip route.",
    ),
    click.option(
        "--no-default-route", is_flag=True, help="No default route, but for one given by --route."
    ),
    click.option(
        "--rule",
        multiple=True,
        metavar="RULE",
        help="Policy rule, as ip rule: 'from 172.25.0.2 table 100'.",
    ),
    click.option(
        "--source-routing",
        is_flag=True,
        help="What its addresses send leaves by this interface, not by the default route.",
    ),
    click.option(
        "--source-ip",
        multiple=True,
        metavar="IP",
        help="The host's address it is seen by outside.",
    ),
    click.option(
        "--sysctl",
        multiple=True,
        metavar="KEY=VALUE",
        help="Kernel parameter of the interface: net.ipv4.conf.IFNAME.forwarding=1.",
    ),
    click.option(
        "--egress",
        multiple=True,
        metavar="RULE",
        help="Where its packets may leave to: CIDR[:PORT…], DOMAIN[:PORT…], or none [anywhere].",
    ),
    click.option("--mtu", metavar="N", help="MTU of the interface [the network's]."),
    click.option("--txqlen", metavar="N", help="Length of its transmit queue."),
    click.option("--promisc/--no-promisc", default=None, help="Receive what is for others, too."),
    click.option("--allmulti/--no-allmulti", default=None, help="Receive all multicast."),
    click.option(
        "--driver-opt",
        multiple=True,
        metavar="KEY=VALUE",
        help="Docker's com.docker.network.endpoint.ifname and …endpoint.sysctls.",
    ),
)


def files_of(given: Mapping[str, Any]) -> NameFiles:
    """The NameFiles the options of `files_options` ask for; takes them out of *given*."""
    from netkit.specs import NameFiles

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
    from netkit import access, addresses, naming, portspec, routes, specs, sysctls

    mac, none = given["mac_address"], "0/0" in given["ip"]
    wanted = [addresses.address("address", text) for text in given["ip"] if text != "0/0"]
    wanted += [addresses.address("address", text, version=6) for text in given["ip6"]]
    ifname, settings = _docker_options(given)
    return specs.Request(
        ifname=ifname,
        host_ifname=given["host_ifname"],
        addresses=tuple(wanted),
        addressless=none,
        mac=naming.parse_mac(mac) if mac is not None else None,
        gateway_priority=given["gw_priority"],
        ports=tuple(spec for text in given["publish"] for spec in portspec.PortSpec.parse(text)),
        extra=tuple(addresses.link_local_address(text) for text in given["link_local_ip"]),
        routes=routes.parse_all(given["route"]),
        rules=routes.parse_rules(given["rule"]),
        default_route=not given["no_default_route"],
        source_routing=given["source_routing"],
        sources=tuple(addresses.address("source address", ip) for ip in given["source_ip"]),
        sysctls=sysctls.of_interface(settings),
        egress=access.egress_list(given["egress"]),
        mtu=_number("MTU", given["mtu"]),
        txqlen=_number("queue length", given["txqlen"]),
        promisc=given["promisc"],
        allmulti=given["allmulti"],
        aliases=tuple(dict.fromkeys(given["alias"])),
        links=tuple(access.ContainerLink.parse(text) for text in given["link"]),
    )


def _number(what: str, text: str | None) -> int | None:
    from netkit import specs

    return None if text is None else specs.integer(what, text)


def _docker_options(given: Mapping[str, Any]) -> tuple[str | None, list[str]]:
    """The interface's name and sysctls: also as `--driver-opt` has them."""
    ifname: str | None = given["ifname"]
    settings = list(given["sysctl"])
    for text in given["driver_opt"]:
        key, _, value = text.removeprefix("com.docker.network.endpoint.").partition("=")
        if key == "ifname" and ifname in (None, value):
            ifname = value
        elif key == "sysctls":
            settings += value.split(",")
        else:
            raise InvalidSpec(
                f"invalid driver option {text!r:.80} of an endpoint",
                hint="options are com.docker.network.endpoint.ifname=NAME and "
                "com.docker.network.endpoint.sysctls=KEY=VALUE,…",
            )
    return ifname, settings


def environment(given: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
    """`-e` and `--env-file`: KEY=VALUE, or KEY alone for the value it has here, if it has one."""
    import os
    from contextlib import suppress

    found: dict[str, str] = {}
    for text in [*_lines("environment", files), *given]:
        key, equals, _ = text.partition("=")
        if equals or not key:
            found |= pairs("environment variable", [text])
            continue
        value = None
        with suppress(UnicodeEncodeError):
            value = os.environ.get(key)
        if value is not None or not key.isprintable():  # nonsense goes on, to be refused
            found[key] = value or ""
    return found


def labels(given: Iterable[str], files: Iterable[str] = ()) -> dict[str, str]:
    """`--label` and `--label-file`: KEY=VALUE, or KEY alone for an empty one."""
    return pairs("label", [*_lines("label", files), *given])


def _lines(what: str, paths: Iterable[str]) -> Iterator[str]:
    """The lines of Docker's env and label files: no quotes, `#` begins a comment line."""
    for path in paths:
        try:
            with open(path, encoding="utf-8-sig") as file:
                lines = file.read().splitlines()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InvalidSpec(f"cannot read the {what} file {path!r}: {reason}") from error
        for number, line in enumerate(map(str.lstrip, lines), 1):
            key = line.partition("=")[0]
            if not line or line.startswith("#"):
                continue
            if not key or key != "".join(key.split()):
                raise InvalidSpec(
                    f"{path}:{number}: {line!r:.80} is no {what} line", hint="write KEY=VALUE"
                )
            yield line


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
    *("--format", "format_"),
    metavar="FORMAT",
    type=names.FORMATS,
    help="table, json, or a template: '{{.Name}}'.",
)
object_format_option = click.option(
    *("-f", "--format", "format_"),
    metavar="FORMAT",
    type=names.FORMATS,
    help="json, or a template: '{{.Id}}'.",
)


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    format_: str | None,
    quiet: str | None = None,
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Rows as a table of *columns* (field: heading), as JSON lines, by template, or one field.

    *labels*, by a row's ID, are for the template's `{{.Label "key"}}`.
    """
    if quiet is not None:
        for row in rows:
            click.echo(row[quiet])
    elif format_ is None or format_ == "table":
        _table([list(columns.values()), *([str(row[c]) for c in columns] for row in rows)])
    elif format_ == "json":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    else:
        by_id = labels or {}
        label = {"Label": lambda row, key: by_id[row["ID"]].get(key, "")}
        _templated(rows, columns, format_, {} if labels is None else label)


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


def _templated(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    text: str,
    methods: Mapping[str, Callable[[Any, Any], Any]],
) -> None:
    from netkit.cli import template

    is_table = text.startswith("table ")
    text = text.removeprefix("table ")
    compiled = template.compile(text, methods)
    lines = [compiled.render(row) for row in rows]
    if is_table:
        header = template.table_header(text, columns, methods)
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


def each(things: Sequence[str], work: Callable[[str], object]) -> int:
    """Do *work* for each, past failures; print the names of what went well. The exit code."""
    from netkit.errors import NetkitError

    failed = 0
    # on a terminal of their own the names printed are progress enough
    verb = click.get_current_context().info_name or ""
    for name in things if sys.stdout.isatty() else tracked(things, verb):
        try:
            work(name)
        except NetkitError as error:
            sys.stdout.flush()
            complain(error)
            failed = 1
        else:
            click.echo(name)
    return failed


def tracked(things: Iterable[T], what: str) -> Iterable[T]:
    """*things*, with their progress on stderr if that is a terminal."""
    if not sys.stderr.isatty():
        return things
    from netkit.cli import progress

    return progress.track(things, what)


def complain(error: Exception) -> None:
    """Say on stderr what went wrong, and the way out."""
    if "netkit.cli.progress" in sys.modules:
        from netkit.cli import progress

        progress.end()
    print(f"Error: {error}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(f"       {note}", file=sys.stderr)
    if hint := getattr(error, "hint", None):
        print(f"Hint:  {hint}", file=sys.stderr)
