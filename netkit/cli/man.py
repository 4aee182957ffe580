"""Manual pages, made of what `--help` is made of.

    make man && man -l build/man/netkit-network-create.1

Shapes   a page a command, named as Debian and Docker do: netkit.1, netkit-network-create.1
Source   man(7), man-pages(7). click-man 0.6 was read: it does not see commands that are imported
         when they are used, and escapes neither backslashes nor leading dots
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from inspect import cleandoc

import click


def pages(cli: click.Command, version: str) -> dict[str, str]:
    """Every page, by file name."""
    contexts = [*_walk(click.Context(cli, info_name="netkit"))]
    names = [_name(ctx) for ctx in contexts]
    return {
        f"{name}.1": _page(ctx, version, [n for n in names if _are_near(n, name)])
        for ctx, name in zip(contexts, names, strict=True)
    }


def write(cli: click.Command, directory: str, version: str | None = None) -> list[str]:
    """Write every page into *directory*; their paths. *version* is the installed one by default."""
    if version is None:
        from importlib.metadata import version as installed

        version = installed("netkit-containers")
    os.makedirs(directory, exist_ok=True)
    paths = []
    for name, text in pages(cli, version).items():
        paths.append(os.path.join(directory, name))
        with open(paths[-1], "w", encoding="ascii") as file:
            file.write(text)
    return paths


def _walk(ctx: click.Context) -> Iterator[click.Context]:
    """The command of *ctx* and all below it."""
    yield ctx
    for name, command in _commands(ctx):
        yield from _walk(click.Context(command, info_name=name, parent=ctx))


def _commands(ctx: click.Context) -> list[tuple[str, click.Command]]:
    group = ctx.command
    if not isinstance(group, click.Group):
        return []
    found = [(name, group.get_command(ctx, name)) for name in group.list_commands(ctx)]
    return [(name, command) for name, command in found if command and not command.hidden]


def _name(ctx: click.Context) -> str:
    return ctx.command_path.replace(" ", "-")


def _are_near(one: str, other: str) -> bool:
    """Whether one is right above the other."""
    return one.rpartition("-")[0] == other or other.rpartition("-")[0] == one


def _page(ctx: click.Context, version: str, near: list[str]) -> str:
    paragraphs = cleandoc(ctx.command.help or "").split("\n\n")
    usage = " ".join(ctx.command.collect_usage_pieces(ctx))
    lines = [
        f'.TH {_escaped(_name(ctx).upper())} 1 "" "netkit {_escaped(version)}" "netkit manual"',
        ".nh",  # what is typed is not to be hyphenated, nor a line of few words pulled apart
        ".ad l",
        ".SH NAME",
        f"{_escaped(_name(ctx))} \\- {_escaped(_first_sentence(paragraphs[0]))}",
        ".SH SYNOPSIS",
        f"\\fB{_escaped(ctx.command_path)}\\fP {_escaped(usage)}",
        ".SH DESCRIPTION",
        *_text(paragraphs),
        ".SH OPTIONS",
    ]
    for param in ctx.command.get_params(ctx):
        record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
        if record is not None:
            lines += [".TP", _emphasised(record[0]), *_text([record[1]])]
    if commands := _commands(ctx):
        lines += [".SH COMMANDS"]
        known = getattr(ctx.command, "commands_table", {})  # what --help says of them
        for name, command in commands:
            own = _first_sentence(cleandoc(command.help or ""))
            summary = known[name][1] if name in known else own
            lines += [".TP", f"\\fB{_escaped(name)}\\fP", *_text([summary])]
    if near:
        references = [f"\\fB{_escaped(name)}\\fP(1)" for name in near]
        lines += [".SH SEE ALSO", ", ".join(references)]
    return "\n".join(lines) + "\n"


def _first_sentence(text: str) -> str:
    """Up to a full stop and a blank, on one line, without the stop."""
    return re.split(r"\.(?:\s|$)|:\n", " ".join(text.split()), maxsplit=1)[0]


def _text(paragraphs: list[str]) -> list[str]:
    """Paragraphs as roff; after click's `\\b` the lines stay as they are."""
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += [".PP"] if lines else []
        if paragraph.startswith("\b"):
            lines += [".nf", *map(_escaped, paragraph.splitlines()[1:]), ".fi"]
        else:
            lines.append(_escaped(" ".join(paragraph.split())))
    return lines


def _emphasised(options: str) -> str:
    """`-f, --filter KEY=VALUE`: what is typed bold, what stands for something in italics."""
    return re.sub(
        r"(\\-[^\s,/]+)|([^\s,/|\[\]]+)",
        lambda word: f"\\fB{word[1]}\\fP" if word[1] else f"\\fI{word[2]}\\fP",
        _escaped(options),
    )


def _escaped(text: str) -> str:
    """Text that means itself to roff, in ASCII: every formatter reads that."""
    # a word as long as `[[ip:][hostPort]:]containerPort[/protocol]` may be broken at its brackets
    text = re.sub(r"\S{40,}", lambda word: re.sub(r"(?<=[],])|(?=\[)", "\0", word[0]), text)
    text = text.replace("\\", "\\[rs]").replace("-", "\\-").replace("'", "\\[aq]")
    text = text.replace("`", "\\[ga]").replace("^", "\\[ha]").replace("~", "\\[ti]")
    text = "".join(c if c.isascii() else f"\\[u{ord(c):04X}]" for c in text)
    text = text.replace("\0", "\\:")
    return f"\\&{text}" if text.startswith((".", " ")) else text
