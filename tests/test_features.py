"""docs/features.md and docs/limits.md: every row is done and shown, or it is told why not.

Shapes   a test is named `scenarios/nat::d1_…` for scenarios/test_nat.py::test_d1_…
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import pages

ROOT = Path(__file__).parents[1]
FEATURES, LIMITS = ROOT / "docs" / "features.md", ROOT / "docs" / "limits.md"
NOT_DONE = "## Rows not done"
# the feature table's groups, and how many rows each has; of H the links
ROWS = {"A": 23, "B": 28, "C": 23, "D": 27, "E": 15, "F": 11, "G": 12, "H": 4, "I": 25}
IDS = [f"{group}{n}" for group, count in ROWS.items() for n in range(1, count + 1)]


class Row(NamedTuple):
    """A row of docs/features.md."""

    id: str
    what: str
    typed: str
    versions: str
    firewall: str
    tests: str


def rows(text: str) -> list[list[str]]:
    """The cells of those rows of tables that begin with a row's id."""
    return [pages.cells(line) for line in text.splitlines() if re.match(r"\| [A-I]\d+ \|", line)]


def not_done() -> str:
    """That section of docs/limits.md."""
    return LIMITS.read_text().partition(f"\n{NOT_DONE}\n")[2].partition("\n## ")[0]


DONE = [Row(*row) for row in rows(FEATURES.read_text())]
by_id = pytest.mark.parametrize("row", DONE, ids=lambda row: row.id)


@cache
def functions(file: str) -> set[str]:
    """The tests of `scenarios/nat`, or of whatever else is named so."""
    directory, _, name = file.rpartition("/")
    path = ROOT / directory / f"test_{name}.py"
    tree = ast.parse(path.read_text()) if path.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def absent(text: str) -> list[str]:
    """The tests *text* names that do not exist."""
    named = [span.partition("::") for span in pages.spans(text) if "::" in span and "[" not in span]
    return [f"{file}::{test}" for file, _, test in named if f"test_{test}" not in functions(file)]


@pytest.fixture(scope="module")
def collected() -> list[str]:
    """Ids of all tests that rows which claim both back ends name, parameters and all."""
    files = {
        f"{directory}/test_{name}.py"
        for row in DONE
        if row.firewall == "each"
        for directory, name in re.findall(r"`([\w/]+)/(\w+)::", row.tests)
    }
    words = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [sys.executable, *words, *sorted(files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_every_row_is_on_one_of_the_pages_and_on_no_two() -> None:
    told = Counter([row.id for row in DONE] + [row[0] for row in rows(not_done())])
    assert {row: count for row, count in told.items() if count > 1} == {}
    assert [row for row in IDS if row not in told] == []
    assert [row for row in told if row not in IDS] == []


@by_id
def test_a_row_that_is_done_is_shown_by_tests_that_exist(row: Row) -> None:
    assert "::" in row.tests
    assert absent(row.tests) == []
    assert (row.versions in ("", "4", "6", "4, 6"), row.firewall in ("", "each", "nftables")) == (
        True,
        True,
    )


@by_id
def test_what_a_row_tells_to_type_exists(row: Row) -> None:
    typed = [span for span in pages.spans(row.typed) if span.startswith("netkit ")]
    assert [flag for each in typed for flag in pages.missing(each)] == []


@pytest.mark.parametrize(
    "row", [row for row in DONE if row.firewall == "each"], ids=lambda row: row.id
)
def test_what_is_shown_on_each_back_end_is_tried_on_iptables_too(
    row: Row, collected: list[str]
) -> None:
    named = [span.partition("::") for span in pages.spans(row.tests)]
    begun = tuple(
        f"{file.replace(name := file.rpartition('/')[2], f'test_{name}')}.py::test_{test}["
        for file, _, test in named
    )
    assert [each for each in collected if each.startswith(begun) and "iptables" in each]


def test_a_row_that_is_not_done_says_why() -> None:
    for number, what, why in rows(not_done()):
        assert (number, len(what) > 5, len(why) > 20) == (number, True, True)
    assert absent(not_done()) == []


@pytest.mark.parametrize("path", [*pages.commands()])
def test_every_command_and_option_is_on_the_page_of_the_command_line(path: str) -> None:
    """In the section of its name or of its group's, or of those whose options it shares."""
    sections = pages.sections(ROOT / "docs" / "cli.md")
    first = path.split()[0]
    shared = {"run": "connect", "network connect": "connect", "network disconnect": "disconnect"}
    together = next((title for title in sections if first in title.split(", ")), first)
    own = [sections[each] for each in (path, shared.get(path), together) if each in sections]
    assert own, f"docs/cli.md has no section {path}"
    assert [
        spellings[-1]
        for spellings in pages.options(path)
        if not any(f"`{each}" in text or f"[{each}" in text for text in own for each in spellings)
    ] == []


@pytest.mark.parametrize(
    ("typed", "gone"),
    [
        ("netkit network create --ipv6 -o x=y", []),
        ("netkit network create --ipv5 --subnet", ["--ipv5"]),
        ("netkit --bip 10.0.0.1/8", []),
        ("netkit netwrok rm", ["netwrok"]),
    ],
)
def test_a_flag_that_does_not_exist_is_found(typed: str, gone: list[str]) -> None:
    assert pages.missing(typed) == gone


def test_a_test_that_does_not_exist_is_found() -> None:
    here = "tests/features::a_test_that_does_not_exist_is_found"
    assert absent(f"`{here}`, `{here}s`, `tests/nowhere::x`") == [f"{here}s", "tests/nowhere::x"]
