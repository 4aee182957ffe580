"""What a page of the documentation tells to type, held against the commands there are.

missing("netkit network rm --force --nope") == ["--nope"]
missing("netkit netwrok rm") == ["netwrok"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from netkit.cli import cli


def spans(text: str) -> list[str]:
    """What stands in backquotes."""
    return re.findall(r"`([^`]+)`", text)


def cells(line: str) -> list[str]:
    """Those of a row of a table."""
    return [cell.strip() for cell in re.split(r"(?<=\s)\|(?=\s)", line.strip()[1:-1])]


def missing(typed: str) -> list[str]:
    """The first command or the flags of *typed*, `netkit …`, that do not exist."""
    words = typed.split()[1:]
    ctx = click.Context(cli, info_name="netkit")
    while isinstance(ctx.command, click.Group) and words and not words[0].startswith("-"):
        name = words.pop(0)
        found = ctx.command.get_command(ctx, name)
        if found is None:
            return [name]
        ctx = click.Context(found, info_name=name, parent=ctx)
    known = {spelling for option in _options(ctx.command) for spelling in option}
    return [word for word in words if word.startswith("-") and word not in known]


def commands() -> Iterator[str]:
    """All that can be typed behind `netkit`: "network create", "ps" …"""

    def below(group: click.Group, path: str) -> Iterator[str]:
        ctx = click.Context(group)
        for name in group.list_commands(ctx):
            found = group.get_command(ctx, name)
            if isinstance(found, click.Group):
                yield from below(found, f"{path}{name} ")
            else:
                yield f"{path}{name}"

    yield from below(cli, "")


def options(path: str) -> list[list[str]]:
    """The spellings of each option of that command."""
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return _options(command)


def _options(command: click.Command) -> list[list[str]]:
    return [
        [*param.opts, *param.secondary_opts]
        for param in command.params
        if isinstance(param, click.Option) and not param.hidden
    ]


def sections(page: Path) -> dict[str, str]:
    """What stands below each `## title`."""
    parts = re.split(r"^## (.+)\n", page.read_text(), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))
