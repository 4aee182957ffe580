"""netkit network …: Docker's verbs, columns, filters and sentences."""

from __future__ import annotations

import io
import json
import re
import sys
import time

import pytest

from netkit import views
from scenarios.lab import Host, snapshot
from tests.faces import Said, netkit, ok, refused

pytestmark = pytest.mark.usefixtures("host")


@pytest.fixture
def two(host: Host) -> tuple[str, str]:
    """Networks `red` and `blue`, a container on red; their ids."""
    red = ok("network", "create", "--subnet=10.1.0.0/24", "--label=tier=web", "--label=x", "red")
    blue = ok("network", "create", "--subnet=10.2.0.0/24", "--label=tier=db", "blue")
    ok("connect", "--net=red", "--name=c1")
    return red.strip(), blue.strip()


# -- create


def test_create_prints_the_whole_id() -> None:
    id = ok("network", "create", "red")
    assert re.fullmatch(r"[0-9a-f]{64}\n", id)
    assert ok("network", "ls", "-q", "--no-trunc", "--filter=name=red") == id


def test_create_takes_all_it_is_told_and_inspect_shows_it() -> None:
    ok(
        *("network", "create", "-d", "bridge", "--subnet=10.1.0.0/24", "--gateway=10.1.0.9"),
        *("--ip-range=10.1.0.128/25", "--aux-address=router=10.1.0.130", "--internal"),
        *("--no-ip-masq", "--label=a=b", "--label=c", "-o", "com.docker.network.driver.mtu=1400"),
        *("-o", "com.docker.network.bridge.name=br-red", "--host-ip=127.0.0.1", "red"),
    )
    (found,) = json.loads(ok("network", "inspect", "red"))
    assert found["IPAM"]["Config"] == [
        {
            "Subnet": "10.1.0.0/24",
            "IPRange": "10.1.0.128/25",
            "Gateway": "10.1.0.9",
            "AuxiliaryAddresses": {"router": "10.1.0.130"},
        }
    ]
    assert found["Internal"] is True
    assert found["Labels"] == {"a": "b", "c": ""}
    assert found["Options"] == {
        "com.docker.network.bridge.name": "br-red",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        "com.docker.network.bridge.enable_icc": "true",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.driver.mtu": "1400",
    }


@pytest.mark.parametrize(
    ("option", "field", "value"),
    [
        ("com.docker.network.driver.mtu=1400", "com.docker.network.driver.mtu", "1400"),
        ("mtu=1400", "com.docker.network.driver.mtu", "1400"),
        ("masquerade=no", "com.docker.network.bridge.enable_ip_masquerade", "false"),
        ("name=br-red", "com.docker.network.bridge.name", "br-red"),
        (
            "com.docker.network.bridge.host_binding_ipv4=127.0.0.1",
            "com.docker.network.bridge.host_binding_ipv4",
            "127.0.0.1",
        ),
    ],
)
def test_driver_options_go_by_dockers_names_and_by_short_ones(
    option: str, field: str, value: str
) -> None:
    ok("network", "create", "-o", option, "red")
    assert (
        ok("network", "inspect", "-f", f'{{{{index .Options "{field}"}}}}', "red") == f"{value}\n"
    )


def test_an_mtu_by_option_and_by_flag_is_the_same() -> None:
    ok("network", "create", "--mtu=1400", "red")
    mtu = '{{index .Options "com.docker.network.driver.mtu"}}'
    assert ok("network", "inspect", "--format", mtu, "red") == "1400\n"


def test_a_name_that_is_taken_is_refused_in_dockers_words(two: tuple[str, str]) -> None:
    said = refused("network", "create", "red")
    assert said.splitlines()[0] == "Error: network with name red already exists"
    assert said.splitlines()[1].startswith("Hint:  choose another name")


# -- ls


def test_ls_is_dockers_table(two: tuple[str, str]) -> None:
    red, blue = two
    assert ok("network", "ls").splitlines() == [
        "NETWORK ID     NAME   DRIVER   SCOPE",
        f"{red[:12]}   red    bridge   local",
        f"{blue[:12]}   blue   bridge   local",
        "25ec1b743737   host   host     local",
        "45a9f4362ecb   none   null     local",
    ]


def test_ls_can_print_ids_only_and_whole(two: tuple[str, str]) -> None:
    red, _ = two
    assert ok("network", "ls", "-q").split()[0] == red[:12]
    assert ok("network", "ls", "--no-trunc").splitlines()[1].startswith(red + " ")
    assert ok("network", "ls", "--quiet", "--no-trunc").split()[0] == red


def test_ls_has_dockers_formats(two: tuple[str, str]) -> None:
    assert ok("network", "ls", "--format=table") == ok("network", "ls")
    rows = [json.loads(line) for line in ok("network", "ls", "--format=json").splitlines()]
    assert rows[0].keys() == {
        *("ID", "Name", "Driver", "Scope", "Internal", "IPv4", "IPv6", "Labels", "CreatedAt")
    }
    assert rows[0]["Labels"] == "tier=web,x="
    assert ok("network", "ls", "--format={{.Name}}") == "red\nblue\nhost\nnone\n"
    table = ok("network", "ls", "--format", r"table {{.Name}}\t{{.ID}}").splitlines()
    assert table[0] == "NAME   NETWORK ID"
    assert table[1] == f"red    {two[0][:12]}"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["name=e"], "red blue none"),
        (["name=red", "name=blu"], "red blue"),
        (["driver=bridge"], "red blue"),
        (["driver=null"], "none"),
        (["type=custom"], "red blue"),
        (["type=builtin"], "host none"),
        (["scope=local", "name=re"], "red"),
        (["scope=swarm"], ""),
        (["label=tier"], "red blue"),
        (["label=tier=db"], "blue"),
        (["label=tier", "label=x"], "red"),
        (["label=tie"], ""),
        (["dangling=true"], "blue"),
        (["dangling=0"], "red host none"),
        (["dangling=1", "driver=bridge"], "blue"),
        (["id=25ec1b743737"], "host"),
        (["id=25ec1b743737", "name=red"], ""),
    ],
)
def test_ls_filters_as_docker_does(two: tuple[str, str], filters: list[str], expected: str) -> None:
    words = [f"--filter={each}" for each in filters]
    assert ok("network", "ls", "--format={{.Name}}", *words).split() == expected.split()


# -- inspect


def test_inspect_has_dockers_fields_and_the_containers_on_it(two: tuple[str, str]) -> None:
    (found,) = json.loads(ok("network", "inspect", "red"))
    assert (found["Name"], found["Id"], found["Scope"]) == ("red", two[0], "local")
    assert {*found} >= {"Created", "Driver", "EnableIPv6", "IPAM", "Internal", "Options", "Labels"}
    ((id, member),) = found["Containers"].items()
    assert re.fullmatch(r"[0-9a-f]{64}", id)
    assert member["Name"] == "c1"
    assert member["IPv4Address"] == "10.1.0.2/24"
    assert member["MacAddress"] == "02:42:0a:01:00:02"


def test_inspect_takes_names_ids_and_beginnings_of_ids(two: tuple[str, str]) -> None:
    red, blue = two
    words = ("network", "inspect", "--format={{.Name}}")
    assert ok(*words, "red", blue, red[:12]) == "red\nblue\nred\n"
    assert ok(*words, "host", "none") == "host\nnone\n"
    assert len(json.loads(ok("network", "inspect", "--format=json", "red", "blue"))) == 2


def test_inspect_of_nothing_prints_nothing(two: tuple[str, str]) -> None:
    """As a whole: a script that reads stdout must not take half an answer for all of it."""
    assert "no such network: green" in refused("network", "inspect", "red", "green")


# -- rm and prune


def test_rm_prints_what_it_removed_and_goes_on_past_errors(two: tuple[str, str]) -> None:
    said = netkit("network", "rm", "red", "green", "blue")
    assert (said.code, said.out) == (1, "blue\n")
    assert "network red has active endpoints: c1" in said.err
    assert "no such network: green" in said.err
    assert ok("network", "ls", "-q", "--filter=type=custom").split() == [two[0][:12]]


def test_rm_with_force_disconnects_first(two: tuple[str, str]) -> None:
    assert ok("network", "rm", "-f", "red") == "red\n"
    assert "c1" not in ok("ps", "-a")


def test_rm_leaves_the_host_as_it_was() -> None:
    before = snapshot()
    ok("network", "create", "red")
    assert snapshot() != before
    ok("network", "rm", "red")
    assert snapshot() == before


@pytest.mark.parametrize("name", ["host", "none"])
def test_a_predefined_network_cannot_be_removed(name: str) -> None:
    said = refused("network", "rm", name)
    assert f"{name} is a pre-defined network and cannot be removed" in said


def test_prune_removes_what_nobody_is_connected_to(two: tuple[str, str]) -> None:
    assert ok("network", "prune", "-f") == "Deleted Networks:\nblue\n"
    assert ok("network", "prune", "--force") == ""
    assert ok("network", "ls", "--format={{.Name}}").split() == ["red", "host", "none"]


def test_prune_filters_by_label_and_age(
    two: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ok("network", "prune", "-f", "--filter=label=tier=web") == ""
    assert ok("network", "prune", "-f", "--filter=until=1h30m") == ""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 5401)
    assert "blue" in ok("network", "prune", "-f", "--filter=until=1h30m", "--filter=label=tier")


@pytest.mark.parametrize(
    ("answer", "code", "left"),
    [("y\n", 0, ""), ("n\n", 1, "red"), ("\n", 1, "red"), ("", 130, "red")],
)
def test_prune_asks_first(
    monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: str
) -> None:
    ok("network", "create", "red")
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    said = netkit("network", "prune")
    assert said.code == code
    assert said.out.startswith("WARNING! This will remove all custom networks not used")
    assert ("Deleted Networks:\nred\n" in said.out) == (code == 0)
    assert ok("network", "ls", "--filter=type=custom", "--format={{.Name}}").strip() == left


# -- connect and disconnect below network


def test_connect_and_disconnect_are_there_in_dockers_order_too(two: tuple[str, str]) -> None:
    assert ok("network", "connect", "--ip=10.2.0.7", "blue", "c1") == ""
    address = "{{.NetworkSettings.Networks.blue.IPAddress}}"
    assert ok("inspect", "-f", address, "c1") == "10.2.0.7\n"
    assert ok("network", "disconnect", "blue", "c1") == ""
    assert "is not connected to network blue" in refused("network", "disconnect", "blue", "c1")
    assert ok("network", "disconnect", "-f", "blue", "c1") == ""


# -- in general


def test_every_command_and_group_has_help() -> None:
    for words in ([], ["network"]):
        page = ok(*words, "--help")
        names = re.findall(r"^  ([a-z]+)  ", page.partition("Commands:")[2], re.MULTILINE)
        assert len(names) >= 7
        for name in names:
            said = ok(*words, name, "--help")
            assert said.startswith(f"Usage: netkit {' '.join([*words, name])}")
            assert "  --" in said


def test_the_version_is_the_distributions() -> None:
    assert re.fullmatch(r"netkit, version \d+\.\d+\.\d+\n", ok("--version"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["network", "nosuch"], "No such command 'nosuch'"),
        (["nosuch"], "No such command 'nosuch'"),
        (["network", "create"], "Missing argument 'NAME'"),
        (["network", "create", "--nosuch", "n"], "No such option"),
        (["network", "ls", "extra"], "unexpected extra argument"),
        (["--firewall=ipchains", "ps"], "'ipchains' is not one of"),
        (["network", "create", "a\nb", "c\x1b[2J"], r"c\x1b[2J"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(words: list[str], said: str) -> None:
    answer = netkit(*words)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.startswith("Usage: netkit")
    assert "\x1b" not in answer.err


@pytest.mark.parametrize("words", [[], ["network"], ["dns", "host"]], ids=" ".join)
def test_a_group_by_itself_prints_its_help(words: list[str]) -> None:
    answer = netkit(*words)
    assert (answer.out + answer.err).rstrip() == ok(*words, "--help").rstrip()


def test_docker_prints_ago_in_words() -> None:
    now = time.time()
    ages = [0, 1, 59, 60, 119, 120, 3599, 3600, 5400, 86400 * 2, 86400 * 14, 86400 * 800]
    assert [views._ago(now - age - 0.1) for age in ages] == [
        *("Less than a second", "1 second", "59 seconds", "About a minute", "About a minute"),
        *("2 minutes", "59 minutes", "About an hour", "2 hours", "2 days", "2 weeks", "2 years"),
    ]


def test_said_is_what_the_helper_promises() -> None:
    """The other tests lean on it: what goes to which stream, and the code."""
    assert netkit("network", "inspect", "host", "-f", "{{.Name}}") == Said(0, "host\n", "")
    assert netkit("network", "rm", "x") == Said(
        1, "", "Error: no such network: x\nHint:  `netkit network ls` lists them\n"
    )
