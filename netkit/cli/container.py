"""netkit run, exec, ps, inspect, port, veth, logs, stop, rm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from netkit.cli.common import (
    dry_run,
    each,
    files_of,
    files_options,
    format_option,
    open_engine,
    pairs,
    request_of,
    request_options,
    show_lines,
    show_objects,
    show_rows,
)

if TYPE_CHECKING:
    from netkit.containers import RunSpec

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
    click.option("-w", "--workdir", metavar="DIR", help="Working directory inside."),
)


def _with_process_options(function: Any) -> Any:
    for option in reversed(_process_options):
        function = option(function)
    return function


@click.command("run", context_settings=_COMMAND)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--name", metavar="NAME", help="Name of the container [random].")
@click.option(
    "--net",
    "--network",
    "networks",
    multiple=True,
    metavar="NET",
    help="bridge, host, none, container:NAME or a network; several in the order of eth0, eth1 …",
)
@click.option("-d", "--detach", is_flag=True, help="Run in the background; print the id.")
@click.option("--rm", "auto_remove", is_flag=True, help="Remove the container when it ends.")
@click.option("--rootfs", metavar="DIR", help="Root file system [the host's].")
@_with_process_options
@request_options
@click.option("-P", "--publish-all", is_flag=True, help="Publish all exposed ports at random.")
@click.option("--expose", multiple=True, metavar="PORT", help="A port for --publish-all.")
@files_options
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Label.")
@dry_run
def run_command(command: Sequence[str], detach: bool, dry_run: bool, **given: Any) -> int:
    """Run COMMAND in a container: network, mount and UTS namespaces of its own."""
    from netkit import containers
    from netkit.model import DEFAULT_NETWORK, PortSpec

    spec = containers.RunSpec(
        command=tuple(command),
        name=given["name"],
        networks=given["networks"] or (DEFAULT_NETWORK,),
        request=request_of(given),
        files=files_of(given),
        expose=tuple(port for text in given["expose"] for port in PortSpec.exposed(text)),
        publish_all=given["publish_all"],
        rootfs=given["rootfs"],
        workdir=given["workdir"],
        env=pairs("environment variable", given["env"]),
        labels=pairs("label", given["label"]),
        interactive=given["interactive"],
        tty=given["tty"],
        auto_remove=given["auto_remove"],
    )
    return _run(spec, detach, dry_run)


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
@click.argument("container")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
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
        env=pairs("environment variable", given["env"]),
        workdir=given["workdir"],
        interactive=given["interactive"],
        tty=given["tty"],
    )


@click.command("ps")
@click.option("-a", "--all", "everything", is_flag=True, help="Those that have ended, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-l", "--latest", is_flag=True, help="Only the latest.")
@click.option("--no-trunc", is_flag=True, help="Whole ids.")
@format_option
def ps_command(
    everything: bool, quiet: bool, latest: bool, no_trunc: bool, format_: str | None
) -> None:
    """List containers and connected namespaces."""
    from netkit import views

    engine = open_engine()
    found = engine.sandboxes()[::-1]
    if latest:
        found = found[:1]
    rows = []
    for sandbox in found:
        row = views.container_row(engine, sandbox)
        if everything or latest or row["State"] == "running":
            rows.append(row | {"ID": sandbox.id} if no_trunc else row)
    show_rows(rows, _PS, format_, "ID" if quiet else None)


@click.command("inspect")
@click.argument("names", nargs=-1, required=True)
@click.option("-f", "--format", "format_", metavar="FORMAT", help="json, or a template.")
def inspect_command(names: Sequence[str], format_: str | None) -> None:
    """Show all there is to know of containers, namespaces or networks."""
    from netkit import views
    from netkit.errors import NotFound
    from netkit.model import SandboxRecord

    engine = open_engine()
    objects = []
    for name in names:
        sandbox = engine.store.find(SandboxRecord, name)
        if sandbox is not None:
            objects.append(views.container(engine, sandbox))
            continue
        try:
            objects.append(views.network(engine, engine.network(name)))
        except NotFound:
            raise NotFound(
                f"no such object: {name}",
                hint="`netkit ps -a` and `netkit network ls` list what there is",
            ) from None
    show_objects(objects, format_)


@click.command("port")
@click.argument("container")
@click.argument("port", required=False, metavar="[PORT[/PROTOCOL]]")
def port_command(container: str, port: str | None) -> None:
    """Show where the ports of CONTAINER are published."""
    from netkit import views
    from netkit.errors import NotFound
    from netkit.model import PortSpec

    engine = open_engine()
    sandbox = engine.sandbox(container)
    endpoints = engine.endpoints(sandbox=sandbox.id)
    if port is None:
        for inside, places in views.ports(endpoints).items():
            for where in places:
                click.echo(f"{inside} -> {where['HostIp']}:{where['HostPort']}")
        return
    wanted = PortSpec.exposed(port)[0]
    found = views.published(endpoints, wanted.port, wanted.protocol)
    if not found:
        raise NotFound(f"No public port '{port}' published for {container}")
    for line in found:
        click.echo(line)


@click.command("veth")
@click.argument("containers", nargs=-1)
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
@click.argument("container")
@click.option("-f", "--follow", is_flag=True, help="Go on printing until the container ends.")
def logs_command(container: str, follow: bool) -> None:
    """Print what a detached container printed."""
    import sys
    import time

    from netkit import containers

    engine = open_engine()
    sandbox = engine.sandbox(container)
    with open(containers.log(engine, container), "rb") as file:
        while True:
            running = containers.is_running(sandbox)
            while chunk := file.read(1 << 16):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            if not (follow and running):
                return
            time.sleep(0.1)


@click.command("stop")
@click.argument("containers", nargs=-1, required=True)
@click.option(
    "-t",
    "--time",
    "timeout_s",
    type=click.IntRange(0, 86_400),
    default=10,
    show_default=True,
    help="Seconds to wait.",
)
def stop_command(containers: Sequence[str], timeout_s: int) -> int:
    """Stop running containers: SIGTERM, and SIGKILL for what does not listen."""
    from netkit.containers import stop

    engine = open_engine()
    return each(containers, lambda name: stop(engine, name, timeout_s=timeout_s))


@click.command("rm")
@click.argument("containers", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Kill what still runs.")
@dry_run
def rm_command(containers: Sequence[str], force: bool, dry_run: bool) -> int:
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
