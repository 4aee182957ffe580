"""--filter of network ls, network prune and ps: what Docker's users type."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from netkit.cli import filters
from netkit.errors import InvalidSpec
from scenarios.lab import Host
from tests.faces import netkit, ok, refused


@pytest.fixture(scope="module")
def containers() -> Iterator[None]:
    """c1 and c2 run, c3 and c4 have ended with 0 and 3; lab is a namespace. On `net` but c2."""
    with Host():
        ok("network", "create", "--subnet=10.1.0.0/24", "--label=tier=web", "--label=x", "net")
        ok("network", "create", "--subnet=10.2.0.0/24", "--label=tier=db", "other")
        ok("network", "create", "--subnet=10.3.0.0/24", "empty")
        run = ("run", "--net=net")
        ok(*run, "-d", "--name=c1", "-p", "8080:80", "--label=com.example.tier=web", "sleep", "60")
        ok("run", "-d", "--net=other", "--name=c2", "-p", "53:53/udp", "--expose=90", "sleep", "60")
        ok(*run, "--name=c3", "true")
        assert netkit(*run, "--name=c4", "--label=x", "sh", "-c", "exit 3").code == 3
        ok("connect", "--net=net", "--name=lab")
        yield
        for name in ok("ps", "-aq").split():
            ok("rm", "-f", name)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "lab c2 c1"),
        ("-a", "lab c4 c3 c2 c1"),
        ("-f name=c1", "c1"),
        ("-f name=^/c1$", "c1"),
        ("-f name=^c", "c2 c1"),
        ("-af name=^c$", ""),
        ("-f name=c1 --filter name=lab", "lab c1"),
        ("-f label=com.example.tier", "c1"),
        ("-f label=com.example.tier=db", ""),
        ("-af label=x", "c4"),
        ("-af label!=x", "lab c3 c2 c1"),
        ("-f network=net", "lab c1"),
        ("-f network=net -f network=other", "lab c2 c1"),
        ("-f status=exited", "c4 c3"),
        ("-f status=running", "lab c2 c1"),
        ("-f status=paused", ""),
        ("-f status=exited -f name=c3", "c3"),
        ("-af exited=0", "c3"),
        ("-af exited=3 -f exited=0", "c4 c3"),
        ("-f exited=3", ""),
        ("-f publish=80", "c1"),
        ("-f publish=80/tcp", "c1"),
        ("-f publish=53/udp", "c2"),
        ("-f publish=53", ""),
        ("-f publish=79-81", "c1"),
        ("-f publish=90", ""),
        ("-f expose=90", "c2"),
        ("-f expose=80", "c1"),
        ("-af before=c2", "c1"),
        ("-af since=c3", "lab c4"),
        ("-n 2", "lab c4"),
        ("--last 0", "lab c2 c1"),
        ("-n -1", "lab c2 c1"),
        ("-n 1 -f name=c", "c4"),
        ("-l", "lab"),
    ],
)
@pytest.mark.usefixtures("containers")
def test_ps_filters_as_docker_does(words: str, expected: str) -> None:
    assert ok("ps", "--format={{.Names}}", *words.split()).split() == expected.split()


@pytest.mark.usefixtures("containers")
def test_ps_filters_by_the_beginning_of_an_id() -> None:
    id = ok("inspect", "-f", "{{.Id}}", "c2").strip()
    assert ok("ps", "--no-trunc", "-qf", f"id={id[:20]}").strip() == id


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("ps -f nosuch=1", "invalid filter 'nosuch=1'"),
        ("ps -f name", "invalid filter 'name'"),
        ("ps -f status=asleep", "'asleep' is no status"),
        ("ps -f network=nosuch", "no such network: nosuch"),
        ("ps -f before=nosuch", "no such container: nosuch"),
        ("ps -af exited=x", "invalid filter 'exited=x'"),
        ("ps -f publish=x", "'x' is not a port"),
        ("ps -f name=(", "invalid filter 'name=('"),
        ("network ls -f type=swarm", "'swarm' is no type"),
        ("network ls -f dangling=maybe", "'maybe' is no dangling"),
        ("network prune -f --filter name=x", "invalid filter 'name=x'"),
        ("network prune -f --filter until=soon", "invalid duration or time 'soon'"),
        ("network prune -f --filter until=2026-13-01", "invalid duration or time"),
    ],
)
@pytest.mark.usefixtures("containers")
def test_a_filter_that_cannot_be_is_refused(words: str, said: str) -> None:
    assert said in refused(*words.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("label!=x name=t", "other empty host"),
        ("name=^net$", "net"),
        ("name=^(net|other)$", "net other"),
        ("label=tier label!=tier=db", "net"),
        ("label!=tier name=e", "empty none"),
        ("dangling=true", "empty"),
        ("type=custom dangling=false", "net other"),
    ],
)
@pytest.mark.usefixtures("containers")
def test_network_ls_has_what_docker_has_and_labels_that_are_not(words: str, expected: str) -> None:
    given = [f"--filter={word}" for word in words.split()]
    assert ok("network", "ls", "--format={{.Name}}", *given).split() == expected.split()


@pytest.mark.usefixtures("containers")
def test_a_label_can_be_a_column_of_its_own() -> None:
    table = r"table {{.Names}}\t{{.Label \"com.example.my-tier\"}}{{.Label \"com.example.tier\"}}"
    said = ok("ps", "-f", "network=net", "--format", table.replace(r"\"", '"')).splitlines()
    assert [line.split() for line in said] == [["NAMES", "my", "tiertier"], ["lab"], ["c1", "web"]]
    assert ok("network", "ls", "-f", "name=^net$", "--format", '{{.Label "tier"}}') == "web\n"
    assert ok("ps", "-f", "name=nobody", "--format", '{{.Label "x"}}') == ""


def test_prune_leaves_what_a_label_excludes_and_what_is_young(host: Host) -> None:
    ok("network", "create", "--label=keep=yes", "a")
    ok("network", "create", "--label=keep=no", "b")
    ok("network", "create", "c")
    prune = ("network", "prune", "-f")
    assert ok(*prune, "--filter=until=1h") == ""
    assert ok(*prune, "--filter=label!=keep=yes", "--filter=label!=keep=no").split()[2:] == ["c"]
    assert ok(*prune, "--filter=label!=keep=yes", "--filter=label=keep").split()[2:] == ["b"]
    assert ok(*prune, f"--filter=until={int(time.time()) + 5}").split()[2:] == ["a"]


@pytest.mark.parametrize(
    ("text", "seconds_ago"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("0s", 0)],
)
def test_an_age_is_a_moment(text: str, seconds_ago: float) -> None:
    assert filters.moment(text) == pytest.approx(time.time() - seconds_ago, abs=5)


def test_a_date_and_a_time_are_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    assert filters.moment("2026-01-31T15:04:05Z") == 1769871845
    assert filters.moment("2026-01-31T15:04:05+01:00") == 1769871845 - 3600
    assert filters.moment("1769871845.5") == 1769871845.5
    monkeypatch.setitem(os.environ, "TZ", "UTC-1")
    time.tzset()
    try:
        assert filters.moment("2026-01-31") == 1769817600 - 3600  # here, as Docker has it
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "soon", "10", "10d", "h", "1h30", "2026-1-1", "2026-01-01Tx"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid duration or time"):
        filters.moment(text)
