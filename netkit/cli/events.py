"""netkit events: as `docker events`.

Source   docker/cli cli/command/system/events.go for the line and the JSON
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from netkit.cli import filters, names
from netkit.cli.common import open_engine
from netkit.errors import InvalidSpec, printable

if TYPE_CHECKING:
    from netkit.events import Event


@click.command("events")
@click.option("--since", metavar="TIME", help="From then on: a time, or how long ago [now].")
@click.option("--until", metavar="TIME", help="Until then; 0s: what there is, and no waiting.")
@click.option(
    "-f", "--filter", "filters_", multiple=True, metavar="KEY=VALUE", type=names.EVENT_FILTERS
)
@click.option(
    *("--format", "format_"),
    metavar="FORMAT",
    type=names.JSON,
    help="json, or a template: '{{.Type}} {{.Actor.Attributes.name}}'.",
)
def events_command(
    since: str | None, until: str | None, filters_: Sequence[str], format_: str | None
) -> None:
    """Print what happens to networks and containers, as it happens, until interrupted.

    A TIME is 10m or 1h30m (ago), 2026-01-31T15:04:05Z, or in seconds since 1970.
    """
    from netkit import events

    text = _text(format_)
    wanted = filters.parse(filters_, events.FILTERS, events.CHOICES)
    bounds = {
        "since": None if since is None else filters.moment(since),
        "until": None if until is None else filters.moment(until),
    }
    for event in open_engine().events(filters=wanted, **bounds):
        click.echo(text(event))  # which flushes


def _text(format_: str | None) -> Callable[[Event], str]:
    if format_ is None:
        return _line
    if format_ == "json":
        return lambda event: json.dumps(_object(event), ensure_ascii=False)
    if format_.startswith("table"):
        raise InvalidSpec(
            "events cannot be a table: its columns would wait for the last of them",
            hint="use --format json, or a template",
        )
    from netkit.cli import template

    compiled = template.compile(format_)
    return lambda event: compiled.render(_fields(event))


def _line(event: Event) -> str:
    """TIME TYPE ACTION ID (KEY=VALUE, …), in local time."""
    from datetime import datetime

    at = datetime.fromtimestamp(round(event.time, 6)).astimezone()
    time = f"{at:%Y-%m-%dT%H:%M:%S.%f}000" + (f"{at:%:z}" if at.utcoffset() else "Z")
    listed = ", ".join(f"{key}={value}" for key, value in sorted(_attributes(event).items()))
    return f"{time} {event.type} {event.action} {event.id} ({listed})"


def _object(event: Event) -> dict[str, Any]:
    return {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": _attributes(event)},
        "scope": "local",
        "time": int(event.time),
        "timeNano": round(event.time * 1e6) * 1000,
    }


def _fields(event: Event) -> dict[str, Any]:
    """What a template sees: Docker's names in Go."""
    found = _object(event)
    return found | {
        "Scope": found.pop("scope"),
        "Time": found.pop("time"),
        "TimeNano": found.pop("timeNano"),
    }


def _attributes(event: Event) -> dict[str, str]:
    return {printable(key): printable(value) for key, value in event.attributes.items()}
