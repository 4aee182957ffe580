"""The demo: it passes with no terminal, and it fails when anything is not as it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from scenarios.lab import Host

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def perform(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python *code*, which performs the demo or one like it."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,  # no terminal to fall back on
    )


def another_story(line: str) -> subprocess.CompletedProcess[str]:
    return perform(
        f"import sys, scenarios.demo as demo\ndemo.story = lambda sh: {line}\nsys.exit(demo.main())"
    )


def test_the_demo_tells_its_story_in_time_and_with_no_terminal(host: Host) -> None:
    begun = time.monotonic()
    done = perform("import scenarios.demo, sys; sys.exit(scenarios.demo.main())")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert time.monotonic() - begun < 20
    assert "\033" not in done.stdout
    assert "\nhello from web\n" in done.stdout
    assert re.search(r"^ip link add veth.* netns peek$", done.stdout, re.MULTILINE)
    assert "# Compared before and after, and equal: " in done.stdout


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sh('echo 8080', '^8081$')", "`echo 8080` did not print /^8081$/"),
        ("sh('false')", "`false` ended with exit code 1, not 0"),
        ("sh('exit 3')", "`exit 3` ended the shell"),
        ("setattr(demo, '_BOUND_S', 1) or sh('sleep 60')", "`sleep 60` did not end in 1 s"),
        ("sh('sysctl -qw net.ipv4.ip_forward=1')", "sysctls: + /proc/sys/net/ipv4/ip_forward=1"),
        ("sh('ip addr add 10.8.0.1/24 dev lo')", "addresses: + lo    inet 10.8.0.1/24"),
        ("sh('nft add table ip left')", "table ip left {"),
    ],
)
def test_what_is_not_as_told_ends_it_with_1(host: Host, line: str, complaint: str) -> None:
    done = another_story(line)
    assert done.returncode == 1, done.stdout + done.stderr
    assert complaint in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_story_broken_off_leaves_no_container_behind(host: Host) -> None:
    done = another_story(
        "(sh('netkit run -d --net none --name left -- sleep 4242'), sh('netkit ps', ' left$'), "
        "sh('false'))"
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "`false` ended" in done.stderr
    running = [" ".join(words) for words in command_lines()]
    assert "sleep 4242" not in running


def command_lines() -> list[list[str]]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                found.append(file.read().rstrip("\0").split("\0"))
        except OSError:
            continue
    return found
