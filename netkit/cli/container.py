"""netkit run, exec, ps, inspect, port, veth, logs, stop, rm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from netkit.cli import filters, names
from netkit.cli.common import (
    configured,
    dry_run,
    each,
    environment,
    files_of,
    files_options,
    format_option,
    labels,
    object_format_option,
    open_engine,
    request_of,
    request_options,
    show_lines,
    show_objects,
    show_rows,
)

if TYPE_CHECKING:
    from netkit.containers import RunSpec
    from netkit.engine import Engine
    from netkit.model import SandboxRecord

_COMMAND = {"ignore_unknown_options": False, "allow_interspersed_args": False}
_PS = {
    "ID": "CONTAINER ID",
    "Command": "COMMAND",
    "RunningFor": "CREATED",
    "Status": "STATUS",
    "Ports": "PORTS",
    "Names": "NAMES",
}
_VETH = {
    "Container": "CONTAINER",
    "Interface": "INTERFACE",
    "HostInterface": "HOST INTERFACE",
    "HostIndex": "HOST INDEX",
    "PeerIndex": "PEER INDEX",
    "Network": "NETWORK",
}

_process_options = (
    click.option("-i", "--interactive", is_flag=True, help="Keep standard input open."),
    click.option("-t", "--tty", is_flag=True, help="With a terminal."),
    click.option("-e", "--env", multiple=True, metavar="KEY=VALUE", help="Environment variable."),
    click.option(
        "--env-file", multiple=True, metavar="FILE", type=names.FILES, help="A file of those."
    ),
    click.option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
)


def _with_process_options(function: Any) -> Any:
    for option in reversed(_process_options):
        function = option(function)
    return function


@click.command("run", context_settings=_COMMAND)
@click.argument("command", nargs=-1, required=True, type=names.PROGRAMS)
@click.option("--name", metavar="NAME", help="Name of the container [random].")
@click.option(
    "--net",
    "--network",
    "networks",
    multiple=True,
    metavar="NET",
    type=names.MODES,
    help="bridge, host, none, container:NAME or a network; several in the order of eth0, eth1 …; "
    "name=NET,ip=IP,… gives one of several what options give the first.",
)
@click.option("-d", "--detach", is_flag=True, help="Run in the background; print the id.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the container when it ends.")
@click.option(
    "--rootfs", metavar="DIR", type=names.DIRECTORIES, help="Root file system [the host's]."
)
@_with_process_options
@request_options
@click.option("-P", "--publish-all", is_flag=True, help="Publish all exposed ports at random.")
@click.option("--expose", multiple=True, metavar="PORT", help="A port for --publish-all.")
@files_options
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Label.")
@click.option(
    "--label-file", multiple=True, metavar="FILE", type=names.FILES, help="A file of labels."
)
@dry_run
def run_command(command: Sequence[str], detach: bool, dry_run: bool, **given: Any) -> int:
    """Run COMMAND in a container: network, mount and UTS namespaces of its own."""
    from netkit import containers, sysctls
    from netkit.cli import attachments
    from netkit.portspec import PortSpec

    wide, given["sysctl"] = sysctls.split(given["sysctl"])
    networks, requests = attachments.parse(given["networks"] or _default_networks(), given)
    spec = containers.RunSpec(
        command=tuple(command),
        name=given["name"],
        networks=networks,
        request=request_of(given),
        requests=requests,
        files=files_of(given),
        expose=tuple(port for text in given["expose"] for port in PortSpec.exposed(text)),
        publish_all=given["publish_all"],
        sysctls=wide,
        rootfs=given["rootfs"],
        workdir=given["workdir"],
        env=environment(given["env"], given["env_file"]),
        labels=labels(given["label"], given["label_file"]),
        interactive=given["interactive"],
        tty=given["tty"],
        auto_remove=given["auto_remove"],
    )
    return _run(spec, detach, dry_run)


def _default_networks() -> tuple[str, ...]:
    """Where a container goes that names no network: by Docker's `--bridge none`, nowhere."""
    from netkit.config import NO_BRIDGE
    from netkit.model import DEFAULT_NETWORK

    return ("none",) if configured().config.bridge == NO_BRIDGE else (DEFAULT_NETWORK,)


def _run(spec: RunSpec, detach: bool, dry: bool) -> int:
    from netkit import containers

    engine = open_engine()
    if dry:
        show_lines(containers.lines(engine, spec))
        return 0
    if not detach:
        return containers.run(engine, spec)
    engine.close()
    # the daemon opens an engine of its own: connections do not survive a fork
    context = click.get_current_context()

    def reopen() -> Any:
        with context.scope():
            return open_engine()

    click.echo(containers.run_detached(reopen, spec))
    return 0


@click.command("exec", context_settings=_COMMAND)
@click.argument("container", type=names.TARGETS)
@click.argument("command", nargs=-1, required=True, type=names.PROGRAMS)
@_with_process_options
def exec_command(container: str, command: Sequence[str], **given: Any) -> int:
    """Run COMMAND where CONTAINER lives: a container, pid:N, netns:/path or a named namespace."""
    from netkit import containers
    from netkit.errors import InvalidSpec

    argv = tuple(command[1:] if command[0] == "--" else command)
    if not argv:
        raise InvalidSpec("no command given", hint="netkit exec CONTAINER -- COMMAND [ARG...]")
    return containers.execute(
        open_engine(),
        container,
        argv,
        env=environment(given["env"], given["env_file"]),
        workdir=given["workdir"],
        interactive=given["interactive"],
        tty=given["tty"],
    )


@click.command("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-l", "--latest", is_flag=True, help="Only the latest; also if it has ended.")
@click.option("-n", "--last", type=int, metavar="N", help="Only the N latest; also those ended.")
@click.option(
    *("-f", "--filter", "given"),
    multiple=True,
    metavar="KEY=VALUE",
    type=names.filters(filters.CONTAINER),
    help="Only those: " + ", ".join(filters.CONTAINER) + ".",
)
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@format_option
def ps_command(
    everything: bool,
    quiet: bool,
    latest: bool,
    last: int | None,
    given: Sequence[str],
    no_trunc: bool,
    format_: str | None,
) -> None:
    """List containers and connected namespaces."""
    from netkit import views

    wanted = filters.parse(given, filters.CONTAINER)
    most = 1 if latest else max(last or 0, 0)
    engine = open_engine()
    rows, labels = [], {}
    # a state asked for is shown though it be that of a container that has ended
    ended_too = everything or most or "status" in wanted
    for sandbox in engine.sandboxes()[::-1]:
        row = views.container_row(engine, sandbox)
        shown = ended_too or row["State"] == "running"
        if shown and (not wanted or filters.holds(wanted, _tests(engine, sandbox, row))):
            rows.append(row | {"ID": sandbox.id} if no_trunc else row)
            labels[rows[-1]["ID"]] = sandbox.labels
            if len(rows) == most:
                break
    show_rows(rows, _PS, format_, "ID" if quiet else None, labels)


def _tests(engine: Engine, sandbox: SandboxRecord, row: Mapping[str, Any]) -> filters.Tests:
    endpoints = engine.endpoints(sandbox=sandbox.id)
    published = {
        (inside, mapping.protocol)
        for ep in endpoints
        for mapping in ep.ports
        for inside, _ in mapping
    }

    def exposes(text: str) -> bool:
        exposed = {port for text in sandbox.exposed for port in filters.ports(text)}
        return not filters.ports(text).isdisjoint(published | exposed)

    return {
        "before": lambda value: sandbox.created < engine.sandbox(value).created,
        "exited": lambda value: (
            row["State"] == "exited" and sandbox.exit_code == filters.number("exited", value)
        ),
        "expose": exposes,
        "id": sandbox.id.startswith,
        "name": lambda value: filters.named(value, sandbox.name),
        "network": lambda value: engine.network(value).id in {ep.network for ep in endpoints},
        "publish": lambda value: not filters.ports(value).isdisjoint(published),
        "since": lambda value: sandbox.created > engine.sandbox(value).created,
        "status": lambda value: row["State"] == value,
        **filters.labels(sandbox.labels),
    }


@click.command("inspect")
@click.argument("objects", metavar="NAME...", nargs=-1, required=True, type=names.ANYTHING)
@object_format_option
@click.option(
    "--type", "kind", type=click.Choice(["container", "network"]), help="Only these, not the other."
)
@click.option("-s", "--size", is_flag=True, help="Ignored: containers have no file system.")
def inspect_command(
    objects: Sequence[str], format_: str | None, kind: str | None, size: bool
) -> None:
    """Show all there is to know of containers, namespaces or networks."""
    from netkit import views
    from netkit.errors import NotFound
    from netkit.model import SandboxRecord

    engine = open_engine()
    shown = []
    for name in objects:
        sandbox = engine.store.find(SandboxRecord, name) if kind != "network" else None
        if ":" in name and kind != "network":  # no name has one: it is a target, as pid:N
            sandbox = engine.sandbox(name)
        if sandbox is not None:
            shown.append(views.container(engine, sandbox))
            continue
        try:
            if kind == "container":
                raise NotFound(name)
            shown.append(views.network(engine, engine.network(name)))
        except NotFound:
            raise NotFound(
                f"no such {kind or 'object'}: {name}",
                hint="`netkit ps -a` and `netkit network ls` list what there is",
            ) from None
    show_objects(shown, format_)


@click.command("port")
@click.argument("container", type=names.CONTAINERS)
@click.argument("port", required=False, metavar="[PORT[/PROTOCOL]]")
def port_command(container: str, port: str | None) -> None:
    """Show where the ports of CONTAINER are published."""
    from netkit import views
    from netkit.errors import NotFound
    from netkit.portspec import PortSpec

    engine = open_engine()
    sandbox = engine.sandbox(container)
    endpoints = engine.endpoints(sandbox=sandbox.id)
    if port is None:
        for inside in views.ports(endpoints):
            number, _, protocol = inside.partition("/")
            for where in views.published(endpoints, int(number), protocol):
                click.echo(f"{inside} -> {where}")
        return
    wanted = PortSpec.exposed(port)[0]
    found = views.published(endpoints, wanted.port, wanted.protocol)
    if not found:
        raise NotFound(f"No public port '{port}' published for {container}")
    for line in found:
        click.echo(line)


@click.command("veth")
@click.argument("containers", nargs=-1, type=names.CONTAINERS)
@format_option
def veth_command(containers: Sequence[str], format_: str | None) -> None:
    """Show which host interface belongs to which container, and back. Default: all of them."""
    from netkit import views
    from netkit.model import EndpointRecord

    engine = open_engine()
    found = []
    for name in containers:
        # an interface of the host is as good a name as the container's
        owners = [ep for ep in engine.store.all(EndpointRecord) if ep.host_ifname == name]
        found.append(engine.sandbox(owners[0].sandbox if owners else name))
    chosen = found if containers else engine.sandboxes()
    rows = [row for sandbox in chosen for row in views.veths(engine, sandbox)]
    show_rows([row for row in rows if row["HostInterface"]], _VETH, format_)


@click.command("logs")
@click.argument("container", type=names.CONTAINERS)
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the container ends.")
@click.option(
    "-n", "--tail", metavar="N", default="all", show_default=True, help="Only the last N lines."
)
def logs_command(container: str, follow: bool, tail: str) -> None:
    """Print what a detached container printed."""
    import re
    import sys
    import time

    from netkit import containers

    # as Docker, which takes what is no number for all of it
    lines = int(tail) if re.fullmatch(r"\d{1,9}", tail) else None
    engine = open_engine()
    sandbox = engine.sandbox(container)
    with open(containers.log(engine, container), "rb") as file:
        if lines is not None:
            _seek_last(file, lines)
        while True:
            running = containers.is_running(sandbox)
            while chunk := file.read(1 << 16):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if not (follow and running):
                return
            time.sleep(0.1)


def _seek_last(file: BinaryIO, lines: int) -> None:
    """Go to where the last *lines* lines begin, reading backwards."""
    at = end = file.seek(0, 2)
    found = b""
    # the newline at the end ends the last line: it begins none
    while at > 0 and found[:-1].count(b"\n") < lines:
        size = min(at, 1 << 16)
        at = file.seek(at - size)
        found = file.read(size) + found
    start = len(found)
    for _ in range(lines):
        # on a line's first byte, so what ends the line before stands one to the left
        start = found.rfind(b"\n", 0, max(start - 1, 0)) + 1
    file.seek(end - len(found) + start)


@click.command("stop")
@click.argument("containers", nargs=-1, required=True, type=names.CONTAINERS)
@click.option(
    "-s",
    "--signal",
    "signal_name",
    default="TERM",
    show_default=True,
    metavar="SIGNAL",
    type=names.SIGNALS,
    help="What asks it to end, by name or number.",
)
@click.option(
    "-t",
    "--timeout",
    "--time",
    "timeout_s",
    type=click.IntRange(0, 86_400),
    default=10,
    show_default=True,
    help="Seconds to wait.",
)
def stop_command(containers: Sequence[str], signal_name: str, timeout_s: int) -> int:
    """Stop running containers: SIGTERM, and SIGKILL for what does not listen."""
    from netkit.containers import stop

    signum = _signal(signal_name)
    engine = open_engine()
    return each(containers, lambda name: stop(engine, name, timeout_s=timeout_s, signum=signum))


def _signal(text: str) -> int:
    """The number of a signal: TERM, SIGTERM, sigterm or 15."""
    import signal

    from netkit.errors import InvalidSpec

    name = text.upper()
    known = {each.name: int(each) for each in signal.Signals}
    number = known.get(name) or known.get(f"SIG{name}")
    if number is None and text.isascii() and text.isdigit() and int(text[:4]) in known.values():
        number = int(text)
    if number is None:
        raise InvalidSpec(f"invalid signal {text!r:.40}", hint="`kill -l` lists them")
    return number


@click.command("rm")
@click.argument("containers", nargs=-1, required=True, type=names.CONTAINERS)
@click.option("-f", "--force", is_flag=True, help="Kill what still runs.")
@click.option("-v", "--volumes", is_flag=True, help="Ignored: there are no volumes.")
@dry_run
def rm_command(containers: Sequence[str], force: bool, volumes: bool, dry_run: bool) -> int:
    """Remove containers, and namespaces that connect made."""
    from netkit.containers import remove

    engine = open_engine()
    if dry_run:
        with engine.dry_run() as lines:
            for name in containers:
                remove(engine, name, force=force)
        show_lines(lines)
        return 0
    return each(containers, lambda name: remove(engine, name, force=force))
