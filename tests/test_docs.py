"""The documentation's examples are run: what it shows is what there is.

    ```python          is run, the blocks of a file in order, in one namespace of names
    ```console         is typed, the blocks of a file in order, into one `netkit unshare` shell
    ```… notest        is not

Shapes   in a console block a line after `$ ` is typed, lines after `> ` continue it, and below
         stands what it prints: the same lines, but for ids, MAC addresses, interface numbers, times
         and blanks. A line `…` stands for any number of lines
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from netkit import config
from scenarios.lab import Host

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md"]
BOUND_S = 120
_END = "\x1e"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# in this order: what an earlier one has masked a later one leaves alone
_MASKS = {
    r"\b[0-9a-f]{64}\b": "<id>",
    r"\b([0-9a-f]{2}:){5}[0-9a-f]{2}\b": "<mac>",
    r"\bveth[0-9a-f]{7}\b": "<veth>",
    r"\bbr-[0-9a-f]{12}\b": "<bridge>",
    r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{12}\b": "<id>",
    r"@if\d+": "@if<n>",
    r"(<veth>\s+)\d+\s+\d+": r"\1<n> <n>",
    r"(Less than a|About an?|\d+) (second|minute|hour)s?": "<time>",
    r"\d{4}-\d\d-\d\dT[\d:]+Z": "<time>",
    r"\b[a-z]+_(?=[a-z]+\b)(?!id\b)[a-z]+ *$": "<name>",
    r"(?<=about others it asks )(?!9\.9\.9\.9$).*": "<whom the host asks>",  # else --dns
    r"[ \t]+": " ",
}


class Block(NamedTuple):
    language: str
    line: int  # of its first line, in the file
    text: str


class Typed(NamedTuple):
    line: int
    command: str
    expected: list[str]


def blocks(page: Path, language: str) -> Iterator[Block]:
    """The page's fenced blocks of a language, but those marked `notest`."""
    for found in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(), re.MULTILINE):
        info = found[1].split()
        if info[:1] == [language] and "notest" not in info:
            yield Block(language, found.string.count("\n", 0, found.start(2)) + 1, found[2])


def typed(page: Path) -> list[Typed]:
    """What is typed in the page's console blocks, and what is said to come of it."""
    commands: list[Typed] = []
    for block in blocks(page, "console"):
        for number, line in enumerate(block.text.splitlines(), block.line):
            if line.startswith("$ "):
                commands.append(Typed(number, line[2:], []))
            elif line.startswith("> ") and commands and not commands[-1].expected:
                commands[-1] = commands[-1]._replace(command=f"{commands[-1].command}\n{line[2:]}")
            else:
                assert commands, f"{page.name}:{number}: no command stands before this output"
                commands[-1].expected.append(line)
    return commands


def _with(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


@pytest.mark.parametrize("page", _with("python"), ids=lambda page: page.name)
@pytest.mark.usefixtures("host")
def test_the_python_examples_of_a_page_run(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        # with the lines before it, a traceback names the page's own line
        code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
        try:
            exec(code, names)
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise AssertionError(f"{_place(page, error)}: {what}") from error


def _place(page: Path, error: Exception) -> str:
    """Where in the page it happened."""
    line, at = 0, error.__traceback__
    while at is not None:
        line = at.tb_lineno if at.tb_frame.f_code.co_filename == str(page) else line
        at = at.tb_next
    return f"{page.relative_to(ROOT)}:{line}: `{page.read_text().splitlines()[line - 1].strip()}`"


@pytest.mark.parametrize("page", _with("console"), ids=lambda page: page.name)
@pytest.mark.usefixtures("host")
def test_what_a_page_types_prints_what_it_shows(page: Path, tmp_path: Path) -> None:
    commands = typed(page)
    wrong = []
    for (line, command, expected), (code, printed) in zip(
        commands, _type([each.command for each in commands], tmp_path), strict=True
    ):
        if code == 127 and (missing := re.search(r"(\S+): command not found", printed)):
            pytest.skip(f"{page.name}:{line} needs {missing[1]}")
        if not _agree(expected, printed.splitlines()):
            wrong.append(
                f"{page.relative_to(ROOT)}:{line}: $ {command}\nexit code {code}, and it printed\n"
                + _indented(printed)
                + "where the page has\n"
                + _indented("\n".join(expected))
            )
    assert not wrong, "\n".join(wrong)


def _type(commands: list[str], directory: Path) -> Iterator[tuple[int, str]]:
    """Type *commands* into one `netkit unshare` shell; the exit code and the output of each."""
    program = directory / "netkit"
    code = "from netkit.cli import main; main()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    program.chmod(0o755)
    # nothing it started in the background outlives the shell, however it ends
    lines = [
        "exec 2>&1 </dev/null",
        "end() {",
        "netkit ps -aq | xargs -r netkit rm -f",
        "[ ! -e /run/netkit/netkitd.lock ] || kill $(cut -d ' ' -f 1 /run/netkit/netkitd.lock)",
        "}",
        "trap 'end >/dev/null' EXIT",
    ]
    lines += [f"{{ {command}\n}}; printf '{_END}%d{_END}' $?" for command in commands]
    script = directory / "typed"
    script.write_text("\n".join(lines) + "\n")
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    environment.pop(config.DAEMON, None)  # names resolve, as they do for whoever reads it
    environment["PATH"] = f"{directory}:{_PATH}"
    environment["PYTHONPATH"] = ":".join([str(ROOT), *sys.path])
    environment["LC_ALL"] = "C.UTF-8"
    done = subprocess.run(
        [str(program), "unshare", "--", "bash", "--norc", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        cwd=ROOT,
    )
    parts = done.stdout.split(_END)
    assert len(parts) == 2 * len(commands) + 1, f"the shell died: {done.stdout}{done.stderr}"
    return ((int(code), printed) for printed, code in zip(parts[::2], parts[1::2], strict=False))


def _agree(expected: list[str], printed: list[str]) -> bool:
    """Whether they are the same, but for what changes from run to run."""
    shown, found = [_masked(line) for line in expected], [_masked(line) for line in printed]
    if "…" not in shown:
        return shown == found
    gap = shown.index("…")
    return shown[:gap] == found[:gap] and any(
        _agree(expected[gap + 1 :], printed[at:]) for at in range(gap, len(printed) + 1)
    )


def _masked(line: str) -> str:
    for pattern, mask in _MASKS.items():
        line = re.sub(pattern, mask, line)
    return line.strip()


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines() or [""])


def test_every_link_of_a_page_leads_somewhere() -> None:
    """To a file of ours, and a title in it; what is on the web is not looked at."""
    titles = {page: {_anchor(title) for title in _titles(page)} for page in LINKED}
    for page in LINKED:
        for link in re.findall(r"\]\(((?!http)[^)\s]+)\)", page.read_text()):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in titles[target], f"{page.name}: {link}"


def _titles(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def _anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


# -- the reader of the pages itself


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("a  b", "a b", True),
        ("a b", "a c", False),
        ("a", "a\nb", False),
        ("a\nb", "a", False),
        ("", "", True),
        ("veth0123abc   3   2   net", "vethfedcba9   12   7   net", True),
        ("02:42:ac:11:00:02 up", "02:42:00:00:00:01 up", True),
        (f"{'0a' * 32}", f"{'1b' * 32}", True),
        ("0123456789ab   web", "ba9876543210   web", True),
        ("0123456789ab   web", "ba9876543210   db", False),
        ("Up 3 seconds", "Up Less than a second", True),
        ("eth0@if3 UP", "eth0@if12 UP", True),
        ("172.25.3.3", "172.25.3.4", False),
        ("a\n…\nd", "a\nb\nc\nd", True),
        ("a\n…\nd", "a\nd", True),
        ("a\n…\nd", "a\nb", False),
        ("…", "", True),
    ],
)
def test_only_what_changes_from_run_to_run_may_differ(
    shown: str, printed: str, agree: bool
) -> None:
    assert _agree(shown.splitlines(), printed.splitlines()) == agree


def test_a_wrong_example_is_named_by_its_line(tmp_path: Path, host: Host) -> None:
    text = "# Title\n\n```console notest\n$ false\n```\n\n```console\n$ echo a\nb\n```\n"
    fake = tmp_path / "wrong.md"
    fake.write_text(text)
    assert typed(fake) == [Typed(8, "echo a", ["b"])]
    assert [*_type(["echo a", "exit_ 3", "X=1; false"], tmp_path)][0::2] == [(0, "a\n"), (1, "")]


def test_every_page_is_read() -> None:
    """A fence this file did not understand would be an example nobody runs."""
    for page in PAGES:
        fences = re.findall(r"^```(\w+)", page.read_text(), re.MULTILINE)
        for language in ("python", "console"):
            marked = re.findall(rf"^```{language} notest", page.read_text(), re.MULTILINE)
            assert len([*blocks(page, language)]) == fences.count(language) - len(marked)
