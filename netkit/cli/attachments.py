"""`run --network name=NET,ip=IP,…`: Docker's long form, one request for each network.

Shapes   CSV of KEY=VALUE; a key is one of the options that connect has, without its dashes. The
         options of `run` itself are for the first network
Errors   InvalidSpec, also where the first network is given the same thing twice
Source   docker/cli opts/network.go
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from netkit.cli.common import Command, request_of, request_options
from netkit.errors import InvalidSpec

if TYPE_CHECKING:
    from netkit.specs import Request

# a field may stand in quotes, with commas inside
_FIELD = r'(?:[\w-]+=[^,"]*|"[\w-]+=[^"]*")'
_LONG = re.compile(f"{_FIELD}(,{_FIELD})*")


@click.command("network", cls=Command, add_help_option=False)
@request_options
def _network(**given: Any) -> None:
    """What may be asked of one network: the same options, so what they learn is known here too."""


def parse(
    networks: Sequence[str], given: Mapping[str, Any]
) -> tuple[tuple[str, ...], dict[str, Request]]:
    """The networks' names in order, and what the long form asks of some; *given*: run's options."""
    names: list[str] = []
    requests: dict[str, Request] = {}
    for text in networks:
        if not _LONG.fullmatch(text):
            names.append(text)
            continue
        name, options = _options(text)
        asked = _network.make_context("network", options).params
        if not names:
            asked = _with_options_of_run(asked, given)
        names.append(name)
        requests[name] = request_of(asked)
    return tuple(names), requests


def _options(text: str) -> tuple[str, list[str]]:
    """The network's name, and the rest as options."""
    name, options = "", []
    known = {opt for param in _network.params for opt in param.opts if opt.startswith("--")}
    for field in next(csv.reader([text])):
        key, _, value = field.partition("=")
        if key == "name":
            name = value
        elif f"--{key}" in known:
            options.append(f"--{key}={value}")
        else:
            raise InvalidSpec(
                f"invalid network {text!r:.80}: unknown field {key!r:.40}",
                hint=f"fields are name, {', '.join(sorted(opt[2:] for opt in known))}",
            )
    if not name:
        raise InvalidSpec(f"invalid network {text!r:.80}: no name", hint="add name=NET")
    return name, options


def _with_options_of_run(asked: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the first network is asked, with what stands outside of its long form, but ports."""
    for param in _network.params:
        key = param.name or ""
        outside = given[key]
        if key == "publish" or outside == param.default or not outside:
            continue
        if asked[key]:
            raise InvalidSpec(
                f"conflicting options: {param.opts[0]} and the same inside of --network",
                hint="give it once",
            )
        asked[key] = outside
    return asked
