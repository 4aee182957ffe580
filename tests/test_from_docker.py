"""docs/from-docker.md: what it tells to type exists, and no flag of Docker's is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import pages
from tests.pages import spans

PAGE = Path(__file__).parents[1] / "docs" / "from-docker.md"

# `docker COMMAND --help` of 28.2.2; of run only what has to do with networks
FLAGS = {
    "network create": """--attachable --aux-address --config-from --config-only --driver --gateway
        --ingress --internal --ip-range --ipam-driver --ipam-opt --ipv4 --ipv6 --label --opt --scope
        --subnet""",
    "network ls": "--filter --format --no-trunc --quiet",
    "network inspect": "--format --verbose",
    "network rm": "--force",
    "network prune": "--filter --force",
    "network connect": "--alias --driver-opt --gw-priority --ip --ip6 --link --link-local-ip",
    "network disconnect": "--force",
    "ps": "--all --filter --format --last --latest --no-trunc --quiet --size",
    "inspect": "--format --size --type",
    "exec": """--detach --detach-keys --env --env-file --interactive --privileged --tty --user
        --workdir""",
    "logs": "--details --follow --since --tail --timestamps --until",
    "stop": "--signal --timeout",
    "rm": "--force --link --volumes",
    "port": "",
}
RUN = """--add-host --dns --dns-option --dns-search --domainname --env-file --expose --hostname --ip
    --ip6 --label --label-file --link --link-local-ip --mac-address --network --network-alias
    --publish --publish-all --sysctl --uts"""


class Row(NamedTuple):
    docker: str  # the command in the section's title
    netkit: str
    theirs: str
    ours: str
    difference: str


def rows() -> list[Row]:
    found: list[Row] = []
    title = ("", "")
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            theirs, _, ours = line[3:].partition(": ")
            title = theirs.partition(" ")[2], ours.partition(" ")[2]
        elif line.startswith("| ") and title != ("", "") and not line.startswith("| Docker"):
            found.append(Row(*title, *pages.cells(line)))
    return found


ROWS = rows()


def missing(row: Row) -> list[str]:
    """The netkit flags *row* names that do not exist."""
    typed = (
        span if span.startswith("netkit") else f"netkit {row.netkit} {span}"
        for span in spans(row.ours)
    )
    return [flag for each in typed for flag in pages.missing(each)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.docker} {row.theirs}"[:50])
def test_what_a_row_tells_to_type_exists(row: Row) -> None:
    assert missing(row) == []
    assert spans(row.ours) or row.ours == "–"  # noqa: RUF001


def test_a_flag_that_does_not_exist_is_found() -> None:
    row = Row("ps", "ps", "`-q`", "`-q`, `--nosuch`, `netkit network rm --force --nope`", "")
    assert missing(row) == ["--nosuch", "--nope"]


@pytest.mark.parametrize("docker", [*FLAGS, "run"])
def test_no_flag_of_dockers_is_forgotten(docker: str) -> None:
    wanted = {*(RUN if docker == "run" else FLAGS[docker]).split()}
    told = {
        word
        for row in ROWS
        if row.docker == docker
        for span in spans(row.theirs)
        for word in span.split()
        if word.startswith("--")
    }
    assert wanted - told == set()


@pytest.mark.skipif(shutil.which("docker") is None, reason="no docker")
@pytest.mark.parametrize("docker", [*FLAGS, "run"])
def test_dockers_flags_are_what_this_file_says(docker: str) -> None:
    said = subprocess.run(
        ["docker", *docker.split(), "--help"], capture_output=True, text=True, timeout=20
    ).stdout
    flags = {*re.findall(r"^ +(?:-\w, )?(--[\w-]+)", said, re.MULTILINE)} - {"--help"}
    assert {*FLAGS.get(docker, RUN).split()} <= flags
    if docker != "run":
        assert flags == {*FLAGS[docker].split()}


def test_what_is_not_there_is_refused_with_a_hint_where_the_page_says_by_name() -> None:
    from netkit.cli import absent

    for row in ROWS:
        if "refused by name" in row.difference and "--network name" not in row.theirs:
            name = row.netkit.split()[-1]
            flags = [span for span in spans(row.theirs) if span.startswith("--")]
            assert [flag for flag in flags if flag not in absent._HINTS[name]] == [], row
