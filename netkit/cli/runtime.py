"""netkit cni add, del, check, status, gc.

They are cnitool's, with its environment variables as defaults, its container ids and its files:
what one has added the other deletes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from netkit.cli import names
from netkit.cli.common import Command, options, pairs
from netkit.errors import InvalidSpec, NetkitError

if TYPE_CHECKING:
    from cni.runtime import Attachment, Conflist, Runtime

_CONF_DIR = "/etc/cni/net.d"


def _configured(ctx: click.Context, _: str) -> list[str]:
    from cni import conflist
    from cni.spec import CniError

    try:
        found = conflist.scan(ctx.params.get("conf_dir") or _CONF_DIR).values()
    except CniError:
        return []
    return [each.name for each in found if isinstance(each, conflist.Conflist)]


def _namespaces(*_: object) -> list[str]:
    return sorted(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else []


_network = click.argument("network", type=names.Word(_configured))
_netns = names.Word(_namespaces, like="file")
_where = options(
    click.option(
        "--conf-dir",
        envvar="NETCONFPATH",
        default=_CONF_DIR,
        show_default=True,
        type=click.Path(),
        help="Where networks are configured.",
    ),
    click.option(
        "--bin-dir",
        envvar="CNI_PATH",
        multiple=True,
        type=click.Path(),
        help="Where plugins are looked for; several: the first that has it [/opt/cni/bin …].",
    ),
    click.option(
        "--cache-dir",
        default="/var/lib/cni",
        show_default=True,
        type=click.Path(),
        help="Where it is remembered what is attached.",
    ),
    click.option(
        "--timeout",
        default=60.0,
        show_default=True,
        metavar="SECONDS",
        help="How long each plugin may take.",
    ),
)
_whom = options(
    click.option("--id", "container_id", metavar="ID", help="Container id [one made of NETNS]."),
    click.option(
        *("-i", "--ifname"),
        envvar="CNI_IFNAME",
        default="eth0",
        show_default=True,
        help="Interface inside.",
    ),
    click.option(
        "--arg",
        multiple=True,
        metavar="KEY=VALUE",
        help="Of CNI_ARGS, which all plugins get: IP=10.1.0.9, IgnoreUnknown=1.",
    ),
    click.option(
        "--capability",
        multiple=True,
        metavar="NAME=JSON",
        help="For plugins that declare it: 'portMappings=[{\"hostPort\": 8080, …}]'.",
    ),
)


@click.command(cls=Command)
@_network
@click.argument("netns", type=_netns)
@_whom
@_where
def add(network: str, netns: str, **given: Any) -> None:
    """Attach the namespace NETNS, and print the result.

    NETNS is a path, or a name as `ip netns` has it.
    """
    import json

    with _told():
        runtime, conflist = _runtime(given), _find(network, given)
        result = runtime.add(conflist, _attachment(netns, given))
        click.echo(json.dumps(result.to_json(conflist.version), indent=4))


@click.command("del", cls=Command)
@_network
@click.argument("netns", required=False, type=_netns)
@_whom
@_where
def delete(network: str, netns: str | None, **given: Any) -> None:
    """Detach it again; --id alone will do, with the namespace gone."""
    with _told():
        runtime, attachment = _runtime(given), _attachment(netns, given)
        runtime.delete(_find(network, given, runtime, attachment), attachment)


@click.command(cls=Command)
@_network
@click.argument("netns", type=_netns)
@_whom
@_where
def check(network: str, netns: str, **given: Any) -> None:
    """Ask the plugins whether all that they made for it is there."""
    with _told():
        runtime, attachment = _runtime(given), _attachment(netns, given)
        runtime.check(_find(network, given, runtime, attachment), attachment)


@click.command(cls=Command)
@_network
@_where
def status(network: str, **given: Any) -> None:
    """Ask the plugins whether they could serve an `add`."""
    with _told():
        _runtime(given).status(_find(network, given))


@click.command(cls=Command)
@_network
@click.option(
    "--keep",
    multiple=True,
    metavar="ID/IFNAME",
    help="An attachment still in use [all whose namespace is there].",
)
@_where
def gc(network: str, keep: Sequence[str], **given: Any) -> None:
    """Free what attachments no longer in use have left behind.

    Without --keep those are in use that are remembered and whose namespace is there.
    """
    with _told():
        runtime, conflist = _runtime(given), _find(network, given)
        runtime.gc(conflist, _kept(keep) if keep else runtime.alive(network))


COMMANDS = (add, delete, check, status, gc)


def _runtime(given: dict[str, Any]) -> Runtime:
    from cni.runtime import Runtime
    from ipam.execution import DIRECTORIES

    return Runtime(
        given["bin_dir"] or DIRECTORIES, cache_dir=given["cache_dir"], timeout_s=given["timeout"]
    )


def _find(
    network: str,
    given: dict[str, Any],
    runtime: Runtime | None = None,
    attachment: Attachment | None = None,
) -> Conflist:
    """As configured; of what is attached, as it was, where the file has gone since."""
    from cni import conflist
    from cni.spec import CniError

    try:
        return conflist.find(network, given["conf_dir"])
    except CniError:
        cached = runtime and attachment and runtime.cache.get(network, attachment)
        if not cached:
            raise
        return conflist.parse(cached.config)


def _attachment(netns: str | None, given: dict[str, Any]) -> Attachment:
    from cni.runtime import Attachment

    path = netns or ""
    if path:
        path = os.path.abspath(path if "/" in path else f"/run/netns/{path}")
    container_id = given["container_id"]
    if container_id is None:
        if not path:
            raise InvalidSpec("neither NETNS nor --id says which container")
        from hashlib import sha512

        container_id = f"cnitool-{sha512(path.encode()).digest()[:10].hex()}"
    arguments = given["arg"] or filter(None, os.environ.get("CNI_ARGS", "").split(";"))
    return Attachment(
        container_id,
        path,
        given["ifname"],
        pairs("CNI_ARGS", arguments),
        _capabilities(given["capability"]),
    )


def _capabilities(given: Sequence[str]) -> dict[str, object]:
    import json

    text = os.environ.get("CAP_ARGS") or "{}"
    try:
        if not given:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("CAP_ARGS is no object")
            return found
        return {name: json.loads(text) for name, text in pairs("capability", given).items()}
    except ValueError as error:
        raise InvalidSpec(
            f"a capability is no JSON: {error}", hint="write NAME=JSON: 'ips=[\"10.1.0.9/24\"]'"
        ) from None


def _kept(keep: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in keep:
        container_id, _, ifname = text.partition("/")
        if not (container_id and ifname):
            raise InvalidSpec(f"invalid attachment {text!r:.80}", hint="write ID/IFNAME: c1/eth0")
        yield container_id, ifname


@contextmanager
def _told() -> Iterator[None]:
    """An error of CNI's as one of netkit's."""
    from cni.spec import CniError

    try:
        yield
    except CniError as error:
        told = NetkitError(error.message, hint=error.details or None)
        notes: Iterable[str] = getattr(error, "__notes__", ())
    except ExceptionGroup as group:
        told, notes = NetkitError(group.message), map(str, group.exceptions)
    else:
        return
    for note in notes:
        told.add_note(note)
    raise told
