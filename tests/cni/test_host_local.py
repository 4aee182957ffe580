"""The plugin host-local, called as a runtime calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.host_local import handle

ROOT = Path(__file__).parents[2]

Call = Callable[..., tuple[int, Any]]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """One call, in process: verb, container, and parts of the `ipam` section."""

    def call(
        verb: str,
        container: str = "c1",
        *,
        ifname: str = "eth0",
        args: str = "",
        conf: dict[str, Any] | None = None,
        **ipam: Any,
    ) -> tuple[int, Any]:
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": f"/run/netns/{container}",
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/opt/cni/bin",
            "CNI_ARGS": args,
        }
        section = {"type": "host-local", "dataDir": str(tmp_path)}
        section |= ipam or {"subnet": "10.1.0.0/29"}
        whole = {"cniVersion": "1.1.0", "name": "web", "ipam": section} | (conf or {})
        return handle(environ, json.dumps(whole))

    return call


def addresses(answer: tuple[int, Any]) -> list[str]:
    code, result = answer
    assert code == 0, result
    return [ip["address"] for ip in result["ips"]]


def failure(answer: tuple[int, Any]) -> tuple[int, str]:
    code, error = answer
    assert code == 1
    return error["code"], error["msg"]


def files(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "web").iterdir()} - {"lock"}


def test_the_executable_serves_a_container_from_add_to_del(tmp_path: Path) -> None:
    def run(verb: str) -> subprocess.CompletedProcess[str]:
        environ = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": "/run/netns/c1",
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/opt/cni/bin",
        }
        ipam = {"type": "host-local", "dataDir": str(tmp_path), "subnet": "10.1.0.0/24"}
        return subprocess.run(
            [sys.executable, "-m", "cni.host_local"],
            env=os.environ | environ,
            input=json.dumps({"cniVersion": "1.0.0", "name": "web", "ipam": ipam}),
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )

    added = run("ADD")
    assert (added.returncode, added.stderr) == (0, "")
    assert json.loads(added.stdout) == {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
        "dns": {},
    }
    assert (tmp_path / "web" / "10.1.0.2").read_bytes() == b"c1\r\neth0"
    for verb in ("CHECK", "DEL", "DEL"):
        ran = run(verb)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert files(tmp_path) == {"last_reserved_ip.0"}
    gone = run("CHECK")
    assert gone.returncode == 1
    assert json.loads(gone.stdout)["msg"] == "c1/eth0 holds no address of 'web'"


def test_version_answers_every_version_in_the_one_asked() -> None:
    versions = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]
    for stdin, answered in (('{"cniVersion":"0.4.0"}', "0.4.0"), ("", "1.1.0"), ("7", "1.1.0")):
        answer = handle({"CNI_COMMAND": "VERSION"}, stdin)
        assert answer == (0, {"cniVersion": answered, "supportedVersions": versions})


def test_addresses_come_round_before_one_is_reused(call: Call) -> None:
    seen = []
    for _ in range(6):
        seen += addresses(call("ADD"))
        call("DEL")
    assert seen == [f"10.1.0.{last}/29" for last in (2, 3, 4, 5, 6, 2)]


def test_each_range_set_gives_one_address(call: Call) -> None:
    ranges = [
        [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.29"}],
        [{"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.40", "rangeEnd": "10.1.0.49"}],
        [{"subnet": "fd00::/64", "gateway": "fd00::ff", "rangeStart": "fd00::10"}],
    ]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1", "mtu": 1400}]
    code, result = call("ADD", ranges=ranges, routes=routes)
    assert code == 0
    assert result["ips"] == [
        {"address": "10.1.0.20/24", "gateway": "10.1.0.1"},
        {"address": "10.1.0.40/24", "gateway": "10.1.0.1"},
        {"address": "fd00::10/64", "gateway": "fd00::ff"},
    ]
    assert result["routes"] == routes


def test_a_full_range_flows_over_into_the_next_of_its_set_and_of_no_other(call: Call) -> None:
    first = {"subnet": "10.1.0.0/24", "rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.20"}
    second = {"subnet": "10.2.0.0/24", "rangeStart": "10.2.0.7", "rangeEnd": "10.2.0.8"}
    ranges = [[first, second], [{"subnet": "fd00::/64"}]]
    got = [addresses(call("ADD", f"c{number}", ranges=ranges)) for number in range(3)]
    assert got == [
        ["10.1.0.20/24", "fd00::2/64"],
        ["10.2.0.7/24", "fd00::3/64"],
        ["10.2.0.8/24", "fd00::4/64"],
    ]
    text = "no free address in 10.1.0.20-10.1.0.20 of 10.1.0.0/24 and 10.2.0.7-10.2.0.8 of 10.2.0."
    code, message = failure(call("ADD", "c3", ranges=ranges))
    assert (code, message) == (11, f"{text}0/24 (3 of 3 leased)")
    # each address asked for is of the set it lies in
    call("DEL", "c1", ranges=ranges)
    conf = {"runtimeConfig": {"ips": ["fd00::99", "10.2.0.7"]}}
    assert addresses(call("ADD", "c3", conf=conf, ranges=ranges)) == ["10.2.0.7/24", "fd00::99/64"]


def test_ranges_of_the_runtime_come_first_and_subnet_next(call: Call) -> None:
    conf = {"runtimeConfig": {"ipRanges": [[{"subnet": "10.3.0.0/24"}]]}}
    ranges = [[{"subnet": "10.2.0.0/24"}]]
    answer = call("ADD", conf=conf, subnet="10.1.0.0/24", ranges=ranges)
    assert addresses(answer) == ["10.3.0.2/24", "10.1.0.2/24", "10.2.0.2/24"]


@pytest.mark.parametrize(
    ("args", "conf"),
    [
        ("IP=10.1.0.5", {}),
        ("IgnoreUnknown=true;K8S_POD_NAME=x;IP=10.1.0.5", {}),
        ("", {"args": {"cni": {"ips": ["10.1.0.5"]}}}),
        ("", {"runtimeConfig": {"ips": ["10.1.0.5/29"]}}),
        ("IP=10.1.0.5", {"runtimeConfig": {"ips": ["10.1.0.5"]}}),
    ],
)
def test_an_address_can_be_asked_for(call: Call, args: str, conf: dict[str, Any]) -> None:
    assert addresses(call("ADD", args=args, conf=conf)) == ["10.1.0.5/29"]


@pytest.mark.parametrize(
    ("wanted", "code", "message"),
    [
        ("10.1.0.2", 100, "10.1.0.2 is leased to c0/eth0"),
        ("10.1.0.1", 100, "10.1.0.1 is the gateway of 10.1.0.0/29"),
        ("10.9.0.2", 7, "10.9.0.2 is in no range of 'web'"),
        ("10.9", 7, "'10.9' is no IP address"),
    ],
)
def test_an_address_that_cannot_be_had_is_refused_without_a_trace(
    call: Call, tmp_path: Path, wanted: str, code: int, message: str
) -> None:
    call("ADD", "c0")
    before = files(tmp_path)
    assert failure(call("ADD", args=f"IP={wanted}")) == (code, message)
    assert files(tmp_path) - {"last_reserved_ip.0"} == before - {"last_reserved_ip.0"}


def test_what_was_leased_is_given_back_when_a_later_range_set_is_full(
    call: Call, tmp_path: Path
) -> None:
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/30"}]]
    assert addresses(call("ADD", "c0", ranges=ranges)) == ["10.1.0.2/24", "10.2.0.2/30"]
    code, message = failure(call("ADD", "c1", ranges=ranges))
    assert (code, message) == (11, "no free address in 10.2.0.0/30 (1 of 1 leased)")
    assert {"10.1.0.2", "10.2.0.2"} == {name for name in files(tmp_path) if name[0].isdigit()}


def test_a_second_add_is_refused_and_harms_nothing(call: Call) -> None:
    call("ADD")
    assert failure(call("ADD")) == (100, "c1/eth0 already holds 10.1.0.2")
    assert call("CHECK") == (0, None)
    assert addresses(call("ADD", ifname="eth1")) == ["10.1.0.3/29"]


def test_del_gives_back_what_was_leased_before_the_configuration_changed(
    call: Call, tmp_path: Path
) -> None:
    call("ADD")
    assert call("DEL", subnet="10.99.0.0/24") == (0, None)
    assert "10.1.0.2" not in files(tmp_path)


def test_gc_keeps_valid_attachments_and_old_files_of_valid_containers(
    call: Call, tmp_path: Path
) -> None:
    for container in ("c1", "c2"):
        call("ADD", container)
        call("ADD", container, ifname="eth1")
    (tmp_path / "web" / "10.1.0.6").write_text("c1")
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    assert call("GC", conf={"cni.dev/valid-attachments": valid}) == (0, None)
    assert files(tmp_path) == {"10.1.0.2", "10.1.0.6", "last_reserved_ip.0"}


def test_gc_without_a_list_frees_nothing(call: Call, tmp_path: Path) -> None:
    call("ADD")
    for conf in ({}, {"cni.dev/valid-attachments": None}):
        assert failure(call("GC", conf=conf))[0] == 7
    assert "10.1.0.2" in files(tmp_path)


def test_status_is_good_where_the_directory_can_be_used_and_bad_where_not(
    call: Call, tmp_path: Path
) -> None:
    assert call("STATUS") == (0, None)
    (tmp_path / "file").touch()
    code, _ = failure(call("STATUS", subnet="10.1.0.0/24", dataDir=str(tmp_path / "file")))
    assert code == 50


def test_name_servers_come_from_the_resolv_conf_named(call: Call, tmp_path: Path) -> None:
    resolv = tmp_path / "resolv.conf"
    resolv.write_text(
        "# comment\n;nameserver 9.9.9.9\nnameserver 10.0.0.53\nnameserver\n"
        "domain lan\nsearch a.lan b.lan\noptions ndots:2\n\n"
    )
    _, result = call("ADD", subnet="10.1.0.0/24", resolvConf=str(resolv))
    assert result["dns"] == {
        "nameservers": ["10.0.0.53"],
        "domain": "lan",
        "search": ["a.lan", "b.lan"],
        "options": ["ndots:2"],
    }
    assert failure(call("ADD", "c2", subnet="10.1.0.0/24", resolvConf="/nowhere"))[0] == 5


def test_a_link_is_served_where_the_go_plugin_refuses(call: Call) -> None:
    assert addresses(call("ADD", subnet="10.1.0.0/31")) == ["10.1.0.0/31"]
    assert addresses(call("ADD", "c2", subnet="10.1.0.0/31")) == ["10.1.0.1/31"]


@pytest.mark.parametrize(
    ("ipam", "message"),
    [
        ({"ranges": []}, "ipam has no subnet, and no ranges or an empty one"),
        ({"ranges": [[]]}, "ipam has no subnet, and no ranges or an empty one"),
        ({"ranges": [{"subnet": "10.1.0.0/24"}]}, "ipam.ranges[0]: expected `array`, got `object`"),
        ({"ranges": [["10.1.0.0/24"]]}, "ipam.ranges[0][0]: expected `object`, got `str`"),
        ({"subnet": 10}, "ipam.subnet: expected `str`, got `int`"),
        ({"subnet": "10.1.0.0/24", "resolvConf": "a\nb"}, "ipam.resolvConf: 'a\\nb' is not"),
        ({"subnet": "10.1.0.0/24", "dataDir": "\u202e"}, "ipam.dataDir: '\\u202e' is not plain"),
        ({"subnet": "10.1.0.5/24"}, "'10.1.0.5/24' is an address inside the subnet 10.1.0.0/24"),
        ({"subnet": "10.1.0.0/24", "gateway": "x"}, "'x' is no IP address"),
        ({"subnet": "::ffff:10.1.0.0/120"}, "is written as IPv6 and means IPv4"),
        ({"subnet": "10.1.0.0/24", "rangeStart": "10.2.0.1"}, "is not a part of 10.1.0.0/24"),
        ({"subnet": "10.1.0.0/24", "routes": [{"dst": "x"}]}, "ipam.routes[0].dst: 'x' is"),
        (
            {"ranges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.1.0.0/16"}]]},
            "10.1.0.0/24 overlaps 10.1.0.0/16",
        ),
        (
            {"ranges": [[{"subnet": "10.1.0.0/24"}, {"subnet": "fd00::/64"}]]},
            "a range set has both IPv4 and IPv6 ranges",
        ),
    ],
)
def test_a_wrong_configuration_is_named(call: Call, ipam: dict[str, Any], message: str) -> None:
    code, said = failure(call("ADD", **ipam))
    assert code == 7
    assert message in said


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("10.1.0.0/24"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
keys = st.sampled_from(["ranges", "routes", "gateway", "rangeStart", "resolvConf"])


@given(
    st.dictionaries(keys, json_values),
    st.dictionaries(st.sampled_from(["ips", "ipRanges"]), json_values),
    st.sampled_from(["ADD", "CHECK", "GC", "STATUS"]),
)
def test_no_configuration_is_answered_with_anything_but_json(
    tmp_path_factory: pytest.TempPathFactory, ipam: dict[str, Any], runtime: object, verb: str
) -> None:
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_NETNS": "/x"}
    environ |= {"CNI_IFNAME": "eth0", "CNI_PATH": "/opt/cni/bin"}
    data_dir = {"dataDir": str(tmp_path_factory.getbasetemp() / "fuzzed")}
    ipam = {"subnet": "10.1.0.0/24"} | ipam | data_dir
    conf = {"cniVersion": "1.1.0", "name": "web", "ipam": ipam, "runtimeConfig": runtime}
    code, answer = handle(environ, json.dumps(conf))
    assert (code, answer) == (0, None) or "cniVersion" in json.loads(json.dumps(answer))
    assert code == 0 or (answer and answer["code"] in (5, 6, 7, 11, 100, 101))


# -- what a node already has -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"c1\r\neth0", b"c1\neth0", b"c1\r\neth0\n", b"c1", b"c1\n", b" c1 "]
)
def test_a_lease_of_any_age_is_honoured_checked_and_released(
    call: Call, tmp_path: Path, text: bytes
) -> None:
    web = tmp_path / "web"
    web.mkdir()
    (web / "10.1.0.2").write_bytes(text)
    (web / "10.1.0.2").chmod(0o644)
    (web / "last_reserved_ip.0").write_text("10.1.0.1\n")
    assert addresses(call("ADD", "c2")) == ["10.1.0.3/29"]
    assert failure(call("ADD", "c3", args="IP=10.1.0.2"))[0] == 100
    assert failure(call("ADD"))[1] == "c1/eth0 already holds 10.1.0.2"
    assert call("CHECK") == (0, None)
    assert call("DEL") == (0, None)
    assert failure(call("CHECK"))[0] == 101
    assert files(tmp_path) == {"10.1.0.3", "last_reserved_ip.0"}


def test_an_old_lease_is_one_interfaces_only_while_that_has_none_of_its_own(
    call: Call, tmp_path: Path
) -> None:
    """As with the reference: a file that names no interface is whosever asks first."""
    addresses(call("ADD"))
    (tmp_path / "web" / "10.1.0.6").write_text("c1")
    assert call("DEL") == (0, None)
    assert "10.1.0.6" in files(tmp_path)
    assert call("DEL") == (0, None)
    assert "10.1.0.6" not in files(tmp_path)


def test_foreign_files_are_left_alone(call: Call, tmp_path: Path) -> None:
    web = tmp_path / "web"
    (web / "subdir").mkdir(parents=True)
    foreign = {"README": "c1\r\neth0", "10.1.0.2.bak": "c1", "10.1.0.300": "c1", "x.conf": ""}
    for name, text in foreign.items():
        (web / name).write_text(text)
    assert addresses(call("ADD")) == ["10.1.0.2/29"]
    assert call("GC", conf={"cni.dev/valid-attachments": []}) == (0, None)
    assert call("DEL") == (0, None)
    assert files(tmp_path) == {*foreign, "subdir", "last_reserved_ip.0"}
    (web / "10.1.0.3").mkdir()
    assert addresses(call("ADD")) == ["10.1.0.4/29"]
    code, message = failure(call("ADD", "c2", args="IP=10.1.0.3"))
    assert (code, message) == (100, "10.1.0.3 is leased to nobody known")


def test_a_lease_whose_writer_was_killed_is_nobodys(call: Call, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "10.1.0.2").touch()
    assert addresses(call("ADD")) == ["10.1.0.2/29"]


def test_a_last_address_that_is_none_is_no_obstacle(call: Call, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    for text in ("", "nonsense", "10.9.0.1", "fd00::1", "\0"):
        (tmp_path / "web" / "last_reserved_ip.0").write_text(text)
        assert addresses(call("ADD")) == ["10.1.0.2/29"]
        call("DEL")


def test_what_another_process_does_within_one_tick_is_seen(call: Call, tmp_path: Path) -> None:
    """The directory's time of last change is that of the kernel's last tick, and may not move."""
    web = tmp_path / "web"
    addresses(call("ADD", "c0"))
    for n in range(20):
        addresses(call("ADD"))
        call("DEL")
        left = web.stat()
        lease = web / f"10.1.0.{n % 4 + 3}"
        lease.write_text("c1\r\neth0")
        assert web.stat().st_mtime_ns != left.st_mtime_ns
        assert failure(call("ADD"))[1] == f"c1/eth0 already holds {lease.name}"
        lease.unlink()
        assert failure(call("CHECK"))[0] == 101


def test_where_times_are_coarse_or_not_to_be_set_the_files_are_read_each_time(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    utime = os.utime

    def coarse(path: str, ns: tuple[int, int]) -> None:
        utime(path, ns=(0, ns[1] // 10**9 * 10**9))

    def refused(path: str, ns: tuple[int, int]) -> None:
        raise PermissionError

    lease = tmp_path / "web" / "10.1.0.6"
    for replaced in (coarse, refused):
        monkeypatch.setattr(os, "utime", replaced)
        addresses(call("ADD", "c0"))
        before = lease.parent.stat()
        lease.write_text("c1\r\neth0")
        utime(lease.parent, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert failure(call("ADD"))[1] == "c1/eth0 already holds 10.1.0.6"
        call("DEL")
        call("DEL", "c0")


def test_two_networks_have_nothing_in_common(call: Call, tmp_path: Path) -> None:
    for name in ("web", "db"):
        assert addresses(call("ADD", conf={"name": name})) == ["10.1.0.2/29"]
    assert call("DEL") == (0, None)
    assert (tmp_path / "db" / "10.1.0.2").exists()


# -- where it goes further -------------------------------------------------------------------------


def test_check_compares_what_the_container_was_given(call: Call) -> None:
    given = addresses(call("ADD"))
    before = {"cniVersion": "1.1.0", "ips": [{"address": ip} for ip in given]}
    assert call("CHECK", conf={"prevResult": before}) == (0, None)
    elsewhere = {"ips": [*before["ips"], {"address": "192.0.2.1/24"}]}  # another plugin's
    assert call("CHECK", conf={"prevResult": elsewhere}) == (0, None)
    wrong = {"ips": [{"address": "10.1.0.5/29"}]}
    code, message = failure(call("CHECK", conf={"prevResult": wrong}))
    assert (code, message) == (101, "c1/eth0 holds 10.1.0.2 of 'web', not 10.1.0.5")


def test_two_addresses_of_one_set_cannot_be_had(call: Call, tmp_path: Path) -> None:
    conf = {"runtimeConfig": {"ips": ["10.1.0.3", "10.1.0.4"]}}
    code, message = failure(call("ADD", conf=conf))
    assert (code, message) == (7, "10.1.0.4 is one too many for the range set of 'web'")
    assert files(tmp_path) == {"last_reserved_ip.0"}


def test_an_old_version_is_refused_two_addresses_of_a_family_before_any_is_leased(
    call: Call, tmp_path: Path
) -> None:
    ranges = [[{"subnet": "10.1.0.0/24"}], [{"subnet": "10.2.0.0/24"}]]
    code, message = failure(call("ADD", conf={"cniVersion": "0.2.0"}, ranges=ranges))
    assert (code, message) == (7, "CNI 0.2.0 knows one address per family, here are more")
    assert not (tmp_path / "web").exists()


def test_a_wrong_call_writes_nothing(call: Call, tmp_path: Path) -> None:
    for ipam in ({"subnet": "x"}, {"subnet": "10.1.0.0/24", "resolvConf": "/nowhere"}):
        failure(call("ADD", **ipam))
    failure(call("ADD", args="IP=x"))
    assert not (tmp_path / "web").exists()


def test_a_resolv_conf_without_end_is_read_no_further_than_is_sensible(
    call: Call, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in ("/dev/zero", str(tmp_path / "fifo")):
        _, result = call("ADD", subnet="10.1.0.0/24", resolvConf=path)
        assert result["dns"] == {}
        call("DEL")


def test_many_ranges_are_compared_at_once(call: Call) -> None:
    subnets = [{"subnet": f"10.{a}.{b}.0/24"} for a in range(20) for b in range(100)]
    assert addresses(call("ADD", ranges=[subnets])) == ["10.0.0.2/24"]
    subnets.append({"subnet": "10.19.99.128/25"})
    code, message = failure(call("ADD", "c2", ranges=[subnets]))
    assert (code, message) == (7, "10.19.99.0/24 overlaps 10.19.99.128/25")


def test_status_is_bad_where_nobody_may_write(call: Call, tmp_path: Path) -> None:
    call("ADD")
    code = 50 if os.geteuid() else 0  # root may
    (tmp_path / "web").chmod(0o555)
    try:
        status, said = call("STATUS")
        assert (status, said and said["code"]) == ((1, 50) if code else (0, None))
    finally:
        (tmp_path / "web").chmod(0o755)
