"""Manual pages: all of the command line is in them, and roff has nothing to complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from netkit.cli import cli, man

PAGES = man.pages(cli, "1.2.3")
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")


def commands(ctx: click.Context) -> Iterator[click.Context]:
    """Every command of the tree, the root too."""
    yield ctx
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            command = ctx.command.get_command(ctx, name)
            assert command is not None
            yield from commands(click.Context(command, info_name=name, parent=ctx))


ALL = {each.command_path: each for each in commands(click.Context(cli, info_name="netkit"))}


def plain(page: str) -> str:
    """A page's text without roff: what a reader sees, more or less."""
    page = re.sub(r"\\f[BIPR]|\\[&:]", "", page).replace("\\-", "-").replace("\\[rs]", "\\")
    page = page.replace("\\[aq]", "'").replace("\\[ga]", "`").replace("\\[ti]", "~")
    return re.sub(r"\\\[u([0-9A-F]{4})\]", lambda found: chr(int(found[1], 16)), page)


def test_every_command_has_a_page() -> None:
    assert {*PAGES} == {f"{path.replace(' ', '-')}.1" for path in ALL}
    assert {"netkit.1", "netkit-run.1", "netkit-network-create.1"} <= {*PAGES}


@pytest.mark.parametrize("path", ALL)
def test_a_page_has_all_that_help_has(path: str) -> None:
    """Every option in every spelling, its help, what it takes, and the commands below."""
    ctx, page = ALL[path], plain(PAGES[f"{path.replace(' ', '-')}.1"])
    assert f"\n{path} [OPTIONS]" in page
    for param in ctx.command.get_params(ctx):
        if isinstance(param, click.Option) and not param.hidden:
            for spelling in (*param.opts, *param.secondary_opts):
                assert re.search(rf"^(.* )?(.*/ )?{spelling}\b", page, re.MULTILINE), spelling
            assert " ".join((param.help or "").split()).rstrip(".") in page
    if isinstance(ctx.command, click.Group):
        for name in ctx.command.list_commands(ctx):
            assert f"\n{name}\n" in page
            assert f"{path.replace(' ', '-')}-{name}(1)" in page
    words = " ".join(page.split())
    assert " ".join((ctx.command.help or "").replace("\b", "").split()) in words.replace(
        " .PP", ""
    ).replace(" .nf", "").replace(" .fi", "")


@needs_groff
@pytest.mark.parametrize("name", PAGES)
def test_groff_takes_a_page_without_a_warning(name: str) -> None:
    command = ["groff", "-man", "-Tutf8", "-ww"]
    done = subprocess.run(command, input=PAGES[name], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert name.removesuffix(".1").upper() in done.stdout


@needs_groff
def test_groff_would_complain() -> None:
    """Of what the test above is to find."""
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww"], input=".nosuch\n", capture_output=True, text=True
    )
    assert "nosuch" in done.stderr


@pytest.mark.parametrize(
    ("text", "roff"),
    [
        (".nf", "\\&.nf"),
        ("'br", "\\[aq]br"),
        ("a\\b -c", "a\\[rs]b \\-c"),
        ("0…9", "0\\[u2026]9"),
        ("x" * 40 + "[a],b", "x" * 40 + "\\:[a]\\:,\\:b"),
    ],
)
def test_text_means_itself(text: str, roff: str) -> None:
    assert man._escaped(text) == roff


def test_pages_are_written_for_the_version_installed(tmp_path: Path) -> None:
    paths = man.write(cli, str(tmp_path / "man"))
    assert {Path(path).name for path in paths} == {*PAGES}
    assert re.match(r'\.TH NETKIT 1 "" "netkit \d+\.\d+\.\d+" ', Path(paths[0]).read_text())
