"""host-local and static beside the reference's: the same input, the same answer, one directory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from cni import host_local, static
from cni.spec import VERSIONS
from ipam.leases import HostLocalDir
from scenarios.lab import Host

ROOT = Path(__file__).parents[2]
GO = Path("/usr/lib/cni")
pytestmark = pytest.mark.skipif(
    not (GO / "host-local").exists(), reason="no containernetworking-plugins"
)
REFERENCE_VERSIONS = [*VERSIONS[:-1], None]  # of Debian's; 1.1.0 came later

Answer = tuple[int, Any]
Plugin = Callable[[dict[str, str], bytes], Answer]


def go(kind: str) -> Plugin:
    def call(environ: dict[str, str], stdin: bytes) -> Answer:
        ran = subprocess.run(
            [GO / kind], env=environ, input=stdin, capture_output=True, timeout=30, check=False
        )
        return ran.returncode, json.loads(ran.stdout) if ran.stdout.strip() else None

    return call


GO_HOST_LOCAL, GO_STATIC = go("host-local"), go("static")


def call(
    plugin: Plugin,
    verb: str,
    ipam: dict[str, Any],
    *,
    container: str = "c1",
    ifname: str = "eth0",
    args: str = "",
    version: str | None = "1.0.0",
    **conf: Any,
) -> Answer:
    environ = {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": container,
        "CNI_NETNS": f"/run/netns/{container}",
        "CNI_IFNAME": ifname,
        "CNI_PATH": str(GO),
        "CNI_ARGS": args,
    }
    said = {"cniVersion": version} if version else {}
    whole = said | {"name": "web", "type": "bridge", "ipam": ipam} | conf
    return plugin(environ, json.dumps(whole).encode())


def files(directory: Path) -> dict[str, bytes]:
    web = directory / "web"
    return {path.name: path.read_bytes() for path in web.iterdir()} if web.exists() else {}


def outcome(answer: Answer) -> Any:
    """What two plugins must agree on: the result, or that there is none."""
    code, said = answer
    return "refused" if code else said


NET = {"subnet": "10.1.0.0/24"}
SIX = {"subnet": "fd00::/64"}
RESOLV_CONF = (
    "# nameserver 9.9.9.9\n;nameserver 9.9.9.9\nnameserver 10.0.0.1\nnameserver 10.0.0.2 x\n"
    " domain  a b\ndomain c\nsearch x y\nsearch z\noptions ndots:1\nnameserver\nsortlist 1\n"
)
HOST_LOCAL: dict[str, dict[str, Any]] = {
    "a subnet": NET,
    "keys in another case": {"SUBNET": "10.1.0.0/24", "rangestart": "10.1.0.7"},
    "keys of others": NET | {"foo": 1},
    "nulls": NET | {"gateway": None, "ranges": None, "routes": None, "resolvConf": None},
    "a gateway": NET | {"gateway": "10.1.0.254"},
    "a gateway elsewhere": NET | {"gateway": "169.254.1.1"},
    "a range": NET | {"rangeStart": "10.1.0.10", "rangeEnd": "10.1.0.12"},
    "a range with the gateway": NET | {"rangeStart": "10.1.0.1", "rangeEnd": "10.1.0.2"},
    "a range to the last": NET | {"rangeStart": "10.1.0.254"},
    "a range backwards": NET | {"rangeStart": "10.1.0.20", "rangeEnd": "10.1.0.10"},
    "a range elsewhere": NET | {"rangeStart": "10.2.0.1"},
    "host bits": {"subnet": "10.1.0.5/24"},
    "no prefix length": {"subnet": "10.1.0.0"},
    "leading zeros": {"subnet": "010.1.0.0/24"},
    "a number": {"subnet": 5},
    "a subnet of four": {"subnet": "10.1.0.0/30"},
    "IPv6": SIX,
    "IPv6 of four": {"subnet": "fd00::/126"},
    "IPv6 in capitals": {"subnet": "FD00:0::/64", "gateway": "fd00::FF"},
    "IPv6 that means IPv4": {"subnet": "::ffff:10.1.0.0/120"},
    "dual stack": {"ranges": [[NET], [SIX]]},
    "three sets": {"subnet": "10.3.0.0/24", "ranges": [[NET], [SIX]]},
    "two subnets in a set": {"ranges": [[{"subnet": "10.2.0.0/30"}, NET]]},
    "two sets of IPv4": {"ranges": [[NET], [{"subnet": "10.2.0.0/24"}]]},
    "an overlap": {"ranges": [[NET], [{"subnet": "10.1.0.0/16"}]]},
    "an overlap in a set": {"ranges": [[NET, {"subnet": "10.1.0.128/25"}]]},
    "ranges beside each other": {
        "ranges": [
            [NET | {"rangeEnd": "10.1.0.99"}],
            [NET | {"rangeStart": "10.1.0.100"}],
        ]
    },
    "both families in a set": {"ranges": [[NET, SIX]]},
    "no ranges": {"ranges": []},
    "an empty set": {"ranges": [[]]},
    "nothing": {},
    "an empty subnet": {"subnet": ""},
    "routes": NET
    | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.2.3.4/8", "gw": "10.1.0.9"}, {"dst": "::/0"}]},
    "routes of both": {"ranges": [[NET], [SIX]]}
    | {"routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd00::1"}]},
    "a wrong route": NET | {"routes": [{"dst": "x"}]},
    "a resolv.conf": NET | {"resolvConf": "%s/resolv.conf"},
    "no such resolv.conf": NET | {"resolvConf": "/nowhere"},
}
# where we go further: what the reference says, and what we do
BEYOND: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "a link of two": ({"subnet": "10.1.0.0/31"}, "refused", ["10.1.0.0/31"]),
    "an IPv6 link of two": ({"subnet": "fd00::/127"}, "refused", ["fd00::/127"]),
    "one address": ({"subnet": "10.1.0.0/32"}, "refused", ["10.1.0.0/32"]),
    "a range from the network's address": (
        NET | {"rangeStart": "10.1.0.0"},
        ["10.1.0.0/24"],
        ["10.1.0.2/24"],
    ),
    "a range of the broadcast address": (
        NET | {"rangeStart": "10.1.0.255", "rangeEnd": "10.1.0.255"},
        ["10.1.0.255/24"],
        "refused",
    ),
}
ASKING: dict[str, dict[str, Any]] = {
    "an address": {"args": "IP=10.1.0.5"},
    "an address of a CIDR": {"args": "IP=10.1.0.5/24"},
    "the gateway": {"args": "IP=10.1.0.1"},
    "the network": {"args": "IP=10.1.0.0"},
    "an address elsewhere": {"args": "IP=10.9.0.1"},
    "no address": {"args": "IP=x"},
    "another's argument": {"args": "FOO=1"},
    "another's argument, ignored": {"args": "IgnoreUnknown=true;FOO=1;IP=10.1.0.5"},
    "a capability": {"runtimeConfig": {"ips": ["10.1.0.9/24"]}},
    "a capability for nothing": {"runtimeConfig": {"ips": []}},
    "two in one set": {"args": "IP=10.1.0.5", "runtimeConfig": {"ips": ["10.1.0.9/24"]}},
    "ranges": {"runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]]}},
    "ranges and an address": {
        "runtimeConfig": {"ipRanges": [[{"subnet": "10.7.0.0/24"}]], "ips": ["10.7.0.7"]}
    },
    "nulls": {"runtimeConfig": None},
}


@pytest.mark.parametrize("what", HOST_LOCAL)
def test_host_local_answers_and_writes_what_the_reference_does(what: str, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(RESOLV_CONF)
    for version in REFERENCE_VERSIONS:
        seen = []
        for plugin in (GO_HOST_LOCAL, host_local.handle):
            directory = tmp_path / f"{version}{plugin is GO_HOST_LOCAL}"
            ipam = HOST_LOCAL[what] | {"type": "host-local", "dataDir": str(directory)}
            if path := ipam.get("resolvConf"):
                ipam["resolvConf"] = path.replace("%s", str(tmp_path))
            answer = call(plugin, "ADD", ipam, version=version)
            seen.append((outcome(answer), files(directory)))
        assert seen[1] == seen[0], version


@pytest.mark.parametrize("what", BEYOND)
def test_host_local_goes_beyond_the_reference_where_that_is_said(what: str, tmp_path: Path) -> None:
    ipam, *expected = BEYOND[what]
    for plugin, expect in zip((GO_HOST_LOCAL, host_local.handle), expected, strict=True):
        directory = tmp_path / str(plugin is GO_HOST_LOCAL)
        found = outcome(call(plugin, "ADD", ipam | {"dataDir": str(directory)}))
        assert found == expect or [ip["address"] for ip in found["ips"]] == expect


@pytest.mark.parametrize("what", ASKING)
def test_host_local_gives_what_is_asked_for_as_the_reference_does(
    what: str, tmp_path: Path
) -> None:
    seen = []
    for plugin in (GO_HOST_LOCAL, host_local.handle):
        directory = tmp_path / str(plugin is GO_HOST_LOCAL)
        ipam = NET | {"type": "host-local", "dataDir": str(directory)}
        asked = outcome(call(plugin, "ADD", ipam, **ASKING[what]))
        after = outcome(call(plugin, "ADD", ipam, container="c2"))  # goes on behind it
        # which of two it takes first, and so goes on behind, the reference leaves to chance
        left = (after, files(directory).keys()) if what != "two in one set" else ()
        seen.append((asked, left))
    assert seen[1] == seen[0]


@pytest.mark.parametrize("seed", range(6))
def test_one_directory_serves_both_in_turns_as_it_does_one(seed: int, tmp_path: Path) -> None:
    """Whoever made a lease, the other sees, checks and releases it, and goes on behind it."""
    chance = random.Random(seed)
    ranges = [[{"subnet": "10.1.0.0/29"}, {"subnet": "10.2.0.0/29"}], [SIX]]
    for step in range(25):
        verb = chance.choice(["ADD", "ADD", "ADD", "CHECK", "DEL"])
        who = {"container": f"c{chance.randrange(6)}", "ifname": f"eth{chance.randrange(2)}"}
        args = "IP=10.1.0.4" if chance.random() < 0.1 else ""
        turn = chance.choice([GO_HOST_LOCAL, host_local.handle])
        seen = []
        for name, plugin in (("go", GO_HOST_LOCAL), ("mixed", turn), ("ours", host_local.handle)):
            ipam = {"type": "host-local", "dataDir": str(tmp_path / name), "ranges": ranges}
            held = any(
                text == f"{who['container']}\r\n{who['ifname']}".encode()
                for text in files(tmp_path / name).values()
            )
            if not (args and held):  # the reference would give it a second one
                answer = outcome(call(plugin, verb, ipam, args=args, **who))
                seen.append((answer, files(tmp_path / name)))
        assert all(each == seen[0] for each in seen), (seed, step, verb, who)


WORKER = """
import json, sys
from cni.host_local import handle
for verb, container, stdin in json.loads(sys.argv[1]):
    environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0",
               "CNI_NETNS": "/x", "CNI_PATH": "/x"}
    code, answer = handle(environ, stdin)
    print(json.dumps([code, container, answer]))
"""


def test_sixteen_at_once_of_either_kind_never_share_an_address(tmp_path: Path) -> None:
    ipam = {"type": "host-local", "dataDir": str(tmp_path)} | NET
    stdin = json.dumps({"cniVersion": "1.0.0", "name": "web", "ipam": ipam})

    def ours(verb: str, containers: list[str]) -> list[Any]:
        calls = json.dumps([(verb, container, stdin) for container in containers])
        ran = subprocess.run(
            [sys.executable, "-c", WORKER, calls],
            cwd=ROOT,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return [json.loads(line) for line in ran.stdout.splitlines()]

    def theirs(verb: str, containers: list[str]) -> list[Any]:
        return [
            [code, container, answer]
            for container in containers
            for code, answer in [call(GO_HOST_LOCAL, verb, ipam, container=container)]
        ]

    mine = [[f"o{caller}-{n}" for n in range(5)] for caller in range(8)]
    others = [[f"g{caller}-{n}" for n in range(5)] for caller in range(8)]

    def at_once(verb: str, ours_do: list[list[str]], theirs_do: list[list[str]]) -> list[Any]:
        with ThreadPoolExecutor(16) as pool:
            running = [pool.submit(ours, verb, each) for each in ours_do]
            running += [pool.submit(theirs, verb, each) for each in theirs_do]
            return [answer for each in running for answer in each.result()]

    added = at_once("ADD", mine, others)
    assert [code for code, _, _ in added] == [0] * 80
    given = {answer["ips"][0]["address"].partition("/")[0]: who for _, who, answer in added}
    assert len(given) == 80
    written = {name: text for name, text in files(tmp_path).items() if name[0].isdigit()}
    assert written == {ip: f"{who}\r\neth0".encode() for ip, who in given.items()}
    released = at_once("DEL", others, mine)  # each what the other made
    assert [code for code, _, _ in released] == [0] * 80
    assert files(tmp_path).keys() == {"lock", "last_reserved_ip.0"}


def test_a_warm_process_reads_a_directory_once_until_another_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So ADD and DEL cost the same with 10 and with 1000 leases; and both notice the other."""
    ipam = {"type": "host-local", "dataDir": str(tmp_path)} | NET
    read, once = [], HostLocalDir._read

    def counted(leases: HostLocalDir) -> Any:
        read.append(leases)
        return once(leases)

    monkeypatch.setattr(HostLocalDir, "_read", counted)
    for n in range(5):
        assert call(host_local.handle, "ADD", ipam, container=f"c{n}")[0] == 0
        assert call(host_local.handle, "DEL", ipam, container=f"c{n}")[0] == 0
    assert len(read) == 1
    for n in range(10):
        who = {"container": f"x{n}"}
        assert call(GO_HOST_LOCAL, "ADD", ipam, **who)[0] == 0
        assert outcome(call(host_local.handle, "ADD", ipam, **who)) == "refused"
        assert call(host_local.handle, "DEL", ipam, **who)[0] == 0
        assert outcome(call(GO_HOST_LOCAL, "CHECK", ipam, **who)) == "refused"
    assert len(read) == 11


@pytest.mark.parametrize("kind", ["host-local", "static"])
def test_the_reference_bridge_is_served_by_ours(host: Host, kind: str, tmp_path: Path) -> None:
    """Ours are delegated to by others: the same executables, environment and answers."""
    place = host.neighbour("c1", "10.9.0.1/24", "10.9.0.2/24")
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / kind
    module = kind.replace("-", "_")
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:] = {[*map(str, sys.path), str(ROOT)]}\n"
        f"from cni.{module} import main\nmain()\n"
    )
    program.chmod(0o755)
    said: dict[str, Any] = {"addresses": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}]}
    ipam = said | NET | {"type": kind, "dataDir": str(tmp_path)}

    def bridge(verb: str, **more: Any) -> Answer:
        environ = {"CNI_COMMAND": verb, "CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1"}
        environ |= {"CNI_NETNS": place, "CNI_PATH": str(directory), "PATH": os.environ["PATH"]}
        conf = {"cniVersion": "1.0.0", "name": "web", "type": "bridge", "bridge": "br-test"}
        stdin = json.dumps(conf | {"isGateway": True, "ipam": ipam} | more).encode()
        return go("bridge")(environ, stdin)

    status, added = bridge("ADD")
    assert status == 0, added
    assert added["ips"] == [{"address": "10.1.0.2/24", "gateway": "10.1.0.1", "interface": 2}]
    assert "10.1.0.2" in files(tmp_path) or kind == "static"
    for verb in ("CHECK", "DEL", "DEL"):
        assert bridge(verb, prevResult=added) == (0, None)
    assert "10.1.0.2" not in files(tmp_path)


STATIC: dict[str, dict[str, Any]] = {
    "one": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.1.0.1"}]},
    "two": {"addresses": [{"address": "10.1.0.5/24"}, {"address": "FD00:0::5/64"}]},
    "two of IPv4": {"addresses": [{"address": "10.1.0.5/24"}, {"address": "10.2.0.5/24"}]},
    "no prefix length": {"addresses": [{"address": "10.1.0.5"}]},
    "no address": {"addresses": [{"gateway": "10.1.0.5"}]},
    "nonsense": {"addresses": [{"address": "x"}]},
    "a gateway elsewhere": {"addresses": [{"address": "10.1.0.5/24", "gateway": "10.9.0.1"}]},
    "a wrong gateway": {"addresses": [{"address": "10.1.0.5/24", "gateway": "x"}]},
    "routes": {
        "addresses": [{"address": "10.1.0.5/24"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.168.0.0/16", "gw": "10.1.0.9"}],
    },
    "dns": {
        "addresses": [{"address": "10.1.0.5/24"}],
        "dns": {"nameservers": ["1.1.1.1"], "domain": "x", "search": ["a"], "options": ["o"]},
    },
    "nulls": {"addresses": [{"address": "10.1.0.5/24"}], "routes": None, "dns": None},
}
STATIC_ASKING: dict[str, dict[str, Any]] = {
    "an address": {"args": "IP=10.7.0.5/24"},
    "an address without a prefix length": {"args": "IP=10.7.0.5"},
    "two": {"args": "IP= 10.7.0.5/24 , fd07::5/64"},
    "two with gateways": {"args": "IP=10.7.0.5/24,fd07::5/64;GATEWAY=10.7.0.1,fd07::1"},
    "a gateway alone": {"args": "GATEWAY=10.1.0.99"},
    "a gateway that is none": {"args": "GATEWAY=x"},
    "a capability, which wins": {
        "args": "IP=10.7.0.5/24",
        "runtimeConfig": {"ips": ["10.9.0.5/24", "fd09::1/64"]},
    },
    "a capability without a prefix length": {"runtimeConfig": {"ips": ["10.9.0.5"]}},
}


@pytest.mark.parametrize("what", STATIC)
def test_static_answers_what_the_reference_does(what: str) -> None:
    for version in REFERENCE_VERSIONS:
        found = [
            outcome(call(plugin, "ADD", STATIC[what], version=version))
            for plugin in (GO_STATIC, static.handle)
        ]
        assert found[1] == found[0], version


@pytest.mark.parametrize("asking", STATIC_ASKING)
def test_static_gives_what_is_asked_for_as_the_reference_does(asking: str) -> None:
    for what in ("one", "two", "no prefix length", "routes"):
        found = [
            outcome(call(plugin, "ADD", STATIC[what], **STATIC_ASKING[asking]))
            for plugin in (GO_STATIC, static.handle)
        ]
        assert found[1] == found[0], what


def test_the_networks_own_arguments_are_understood_alike(tmp_path: Path) -> None:
    """`args` of the configuration, which `call` has no room for."""
    asked = {"args": {"cni": {"ips": ["10.1.0.8/24"]}}}
    for kind, plugin in (("host-local", host_local.handle), ("static", static.handle)):
        found = []
        for each in (go(kind), plugin):
            directory = tmp_path / f"{kind}{each is plugin}"
            ipam = STATIC["one"] | NET | {"dataDir": str(directory)}
            whole = {"cniVersion": "1.0.0", "name": "web", "ipam": ipam} | asked
            environ = {"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0"}
            environ |= {"CNI_NETNS": "/x", "CNI_PATH": "/x"}
            found.append(outcome(each(environ, json.dumps(whole).encode())))
        assert found[1] == found[0] != "refused"
        assert found[1]["ips"][0]["address"] == "10.1.0.8/24"
