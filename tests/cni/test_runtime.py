"""The runtime: plugins that write down what they are told, the ones in Go, and cnitool."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from errno import ENOSPC
from pathlib import Path
from time import monotonic
from typing import Any
from unittest.mock import Mock

import pytest

from cni import conflist
from cni.cache import Cache
from cni.runtime import Attachment, Cached, Conflist, Runtime
from cni.spec import CniError, Json
from netkit.kernel import mounts, netns
from scenarios.lab import Host, run, until

REAL = Path(__file__).parent / "conflists"
GO_PLUGINS = Path("/usr/lib/cni")
PORTS = {"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]}
C1 = Attachment("c1", "/run/netns/c1", capabilities=PORTS)
C2 = Attachment("c2", "/run/netns/c2")
RESULT = {"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.2/24"}]}


class Plugins:
    """Plugins a, b and c, each a shell script: it notes the call, then does as it is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir()
        for name in "abc":
            (self.bin / name).write_text(
                f"#!/bin/sh\ncd {directory}\nname=${{0##*/}}.$CNI_COMMAND\n"
                'echo "${0##*/} $CNI_COMMAND $CNI_CONTAINERID" >>log\n'
                "cat >$name.json; env >$name.env\n"
                "[ ! -e $name ] || . ./$name\n"
                f"[ $CNI_COMMAND != ADD ] || echo '{json.dumps(RESULT)}'\n"
            )
            (self.bin / name).chmod(0o755)
        self.runtime = Runtime([self.bin], cache_dir=directory / "cache", timeout_s=30)

    def network(self, **changed: Any) -> Conflist:
        plugins = [{"type": name, "capabilities": {"portMappings": name == "b"}} for name in "abc"]
        conf = {"cniVersion": "1.1.0", "name": "web", "plugins": plugins}
        return conflist.parse(json.dumps({**conf, **changed}))

    def tell(self, call: str, script: str) -> None:
        """*call* is to do *script*: "b.ADD", "exit 1"."""
        (self.directory / call).write_text(script)

    def refuse(self, call: str) -> None:
        error = {"cniVersion": "1.1.0", "code": 101, "msg": f"{call} will not", "details": "ask b"}
        self.tell(call, f"echo '{json.dumps(error)}'; exit 1")

    def calls(self) -> list[str]:
        """Those since the last look: "a ADD"."""
        log = self.directory / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return [line.rpartition(" ")[0] for line in lines]

    def conf(self, call: str) -> Json:
        said: Json = json.loads((self.directory / f"{call}.json").read_text())
        return said

    def environ(self, call: str) -> dict[str, str]:
        lines = (self.directory / f"{call}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def remembered(self) -> list[str]:
        directory = self.directory / "cache" / "results"
        return sorted(os.listdir(directory)) if directory.exists() else []


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


def each(verb: str, names: str = "abc") -> list[str]:
    return [f"{name} {verb}" for name in names]


# -- ADD


def test_add_runs_the_plugins_in_order_each_with_the_result_of_the_one_before(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "passed on")
    monkeypatch.setenv("CNI_ARGS", "stale")
    plugins.tell("b.ADD", """echo '{"ips": [{"address": "10.1.0.3/24"}], "dns": {}}'; exit""")
    result = plugins.runtime.add(plugins.network(), C1)
    assert [ip.address for ip in result.ips] == ["10.1.0.2/24"]
    assert plugins.calls() == each("ADD")
    base = {"cniVersion": "1.1.0", "name": "web"}
    assert plugins.conf("a.ADD") == {**base, "type": "a"}
    assert plugins.conf("b.ADD") == {
        **base,
        "type": "b",
        "prevResult": RESULT,
        "runtimeConfig": PORTS,
    }
    assert plugins.conf("c.ADD")["prevResult"] == {
        "cniVersion": "1.1.0",
        "ips": [{"address": "10.1.0.3/24"}],
        "dns": {},
    }
    environ = plugins.environ("b.ADD")
    assert {key: value for key, value in environ.items() if key.startswith("CNI_")} == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "",
        "CNI_PATH": str(plugins.bin),
    }
    assert environ["OURS"] == "passed on"
    (remembered,) = plugins.runtime.attachments()
    assert remembered == Cached("web", C1, plugins.network().text, RESULT)
    file = plugins.directory / "cache" / "results" / "web-c1-eth0"
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("failing", range(3))
def test_an_add_that_fails_is_undone_backwards_and_remembered_by_nobody(
    plugins: Plugins, failing: int
) -> None:
    name = "abc"[failing]
    plugins.refuse(f"{name}.ADD")
    with pytest.raises(CniError) as refused:
        plugins.runtime.add(plugins.network(), C1)
    assert (refused.value.code, refused.value.details) == (101, "ask b")
    said = f"{name} ADD for c1/eth0 in network 'web': {name}.ADD will not"
    assert refused.value.message == said
    begun = "abc"[: failing + 1]
    assert plugins.calls() == each("ADD", begun) + each("DEL", begun[::-1])
    assert plugins.conf("a.DEL").get("prevResult") == (RESULT if failing else None)
    assert plugins.remembered() == []


def test_what_cannot_be_undone_is_a_note_and_keeps_nothing_else_from_being(
    plugins: Plugins,
) -> None:
    plugins.refuse("c.ADD")
    plugins.refuse("b.DEL")
    with pytest.raises(CniError, match=r"c\.ADD will not") as refused:
        plugins.runtime.add(plugins.network(), C1)
    assert refused.value.__notes__ == [
        "and it cannot be undone: b DEL for c1/eth0 in network 'web': b.DEL will not"
    ]
    assert plugins.calls() == each("ADD") + each("DEL", "cba")


def test_a_caller_who_undoes_it_himself_is_left_to_do_so(plugins: Plugins) -> None:
    plugins.refuse("b.ADD")
    with pytest.raises(CniError):
        plugins.runtime.add(plugins.network(), C1, rollback=False)
    assert plugins.calls() == each("ADD", "ab")


def test_a_plugin_that_is_not_there_is_missed_before_any_other_has_done_anything(
    plugins: Plugins,
) -> None:
    network = plugins.network(plugins=[{"type": "a"}, {"type": "missing"}])
    with pytest.raises(CniError, match=r"missing ADD .*it is not in") as refused:
        plugins.runtime.add(network, C1)
    assert refused.value.code == 5
    assert plugins.calls() == []


def test_a_result_that_cannot_be_remembered_is_no_success(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cache, "put", Mock(side_effect=OSError(ENOSPC, "no space")))
    with pytest.raises(OSError, match="no space"):
        plugins.runtime.add(plugins.network(), C1)
    assert plugins.calls() == each("ADD") + each("DEL", "cba")


def test_an_add_without_a_del_since_the_last_does_no_harm(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network(), C1)
    plugins.calls()
    with pytest.raises(CniError, match="c1/eth0 is attached to 'web' already") as refused:
        plugins.runtime.add(plugins.network(), C1)
    assert "delete it first" in refused.value.details
    assert plugins.calls() == []
    plugins.runtime.add(plugins.network(), C1._replace(ifname="eth1"))
    plugins.runtime.add(plugins.network(name="db"), C1)
    assert plugins.remembered() == ["db-c1-eth0", "web-c1-eth0", "web-c1-eth1"]


def test_of_two_attachments_with_one_file_name_the_first_stays(plugins: Plugins) -> None:
    """Network a-b with container c, and network a with container b-c."""
    plugins.runtime.add(plugins.network(name="a-b"), Attachment("c", "/x"))
    other, network = Attachment("b-c", "/x"), plugins.network(name="a")
    with pytest.raises(CniError, match="c/eth0 is attached to 'a-b' already"):
        plugins.runtime.add(network, other)
    plugins.runtime.delete(network, other)
    assert [each.network for each in plugins.runtime.attachments()] == ["a-b"]
    assert "prevResult" not in plugins.conf("a.DEL")


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("exit 0", 6, "it printed no result"),
        ("echo done; exit 0", 6, "its result is no JSON"),
        ("""echo '{"code": 7, "msg": "bad"}'; exit 0""", 7, "bad"),
        ("""echo '{"code": 7, "msg": "bad"}'; exit 1""", 7, "bad"),
        ("exit 3", 6, "it ended with status 3 and said nothing"),
        ("echo out of order >&2; exit 1", 6, "it ended with status 1: out of order"),
        ("kill -9 $$", 6, "signal 9 ended it"),
        ("exec yes", 6, "its answer is longer than 1048576 bytes"),
    ],
)
def test_whatever_a_plugin_says_or_does_not_the_add_fails_with_a_code_and_is_undone(
    plugins: Plugins, script: str, code: int, said: str
) -> None:
    plugins.tell("b.ADD", script)
    with pytest.raises(CniError, match=f"b ADD for c1/eth0 in network 'web': {said}") as refused:
        plugins.runtime.add(plugins.network(), C1)
    assert refused.value.code == code
    assert plugins.calls() == each("ADD", "ab") + each("DEL", "ba")


def test_a_plugin_that_does_not_end_is_killed(
    plugins: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins.tell("b.ADD", "sleep 100")
    # only its own time is short: the others may take theirs on a busy machine
    bounds_s = iter((30.0, 0.5, 30.0, 30.0))
    monkeypatch.setattr(Runtime, "timeout_s", property(lambda _: next(bounds_s)), raising=False)
    begin = monotonic()
    with pytest.raises(CniError, match=r"no answer in 0\.5 s, so it was killed") as refused:
        plugins.runtime.add(plugins.network(), C1)
    assert refused.value.code == 11
    assert monotonic() - begin < 60  # of the 100 it wanted


def test_what_a_plugin_complains_of_is_logged(
    plugins: Plugins, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.tell("b.ADD", "echo deprecated: x >&2")
    plugins.runtime.add(plugins.network(), C1)
    assert caplog.messages == ["b ADD: deprecated: x"]


# -- DEL and CHECK


def test_delete_runs_backwards_with_the_last_result_and_twice_is_fine(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network(), C1)
    plugins.calls()
    plugins.runtime.delete(plugins.network(), Attachment("c1"))
    assert plugins.calls() == each("DEL", "cba")
    assert [plugins.conf(f"{name}.DEL")["prevResult"] for name in "abc"] == [RESULT] * 3
    # what the caller has forgotten is remembered
    assert plugins.environ("b.DEL")["CNI_NETNS"] == "/run/netns/c1"
    assert plugins.conf("b.DEL")["runtimeConfig"] == PORTS
    assert plugins.remembered() == []
    plugins.runtime.delete(plugins.network(), Attachment("c1"))
    assert plugins.calls() == each("DEL", "cba")
    assert "prevResult" not in plugins.conf("b.DEL")


def test_a_delete_ends_where_it_fails_and_another_goes_on(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network(), C1)
    plugins.refuse("b.DEL")
    plugins.calls()
    with pytest.raises(CniError, match=r"b DEL for c1/eth0 in network 'web': b\.DEL will not"):
        plugins.runtime.delete(plugins.network(), C1)
    assert plugins.calls() == each("DEL", "cb")
    assert plugins.remembered() == ["web-c1-eth0"]
    (plugins.directory / "b.DEL").unlink()
    plugins.runtime.delete(plugins.network(), C1)
    assert plugins.calls() == each("DEL", "cba")
    assert plugins.conf("a.DEL")["prevResult"] == RESULT


@pytest.mark.parametrize(("version", "told"), [("0.3.1", False), ("0.4.0", True), ("1.0.0", True)])
def test_a_delete_tells_the_result_from_0_4_0_on(
    plugins: Plugins, version: str, told: bool
) -> None:
    network = plugins.network(cniVersion=version)
    plugins.runtime.add(network, C1)
    plugins.runtime.delete(network, C1)
    assert ("prevResult" in plugins.conf("a.DEL")) is told
    if told:
        assert plugins.conf("a.DEL")["prevResult"]["cniVersion"] == version


@pytest.mark.parametrize("damage", ["", "{", '{"kind": "other"}', "x" * 2_000_000])
def test_a_memory_that_is_damaged_does_not_stand_in_a_deletes_way(
    plugins: Plugins, damage: str
) -> None:
    plugins.runtime.add(plugins.network(), C1)
    plugins.calls()
    (plugins.directory / "cache" / "results" / "web-c1-eth0").write_text(damage)
    plugins.runtime.delete(plugins.network(), C1)
    assert plugins.calls() == each("DEL", "cba")
    assert plugins.remembered() == []


def test_a_network_changed_since_is_deleted_and_checked_as_it_was(plugins: Plugins) -> None:
    plugins.runtime.add(plugins.network(), C1)
    plugins.calls()
    changed = plugins.network(plugins=[{"type": "a", "new": True}])
    plugins.runtime.check(changed, C1)
    plugins.runtime.delete(changed, C1)
    assert plugins.calls() == each("CHECK") + each("DEL", "cba")
    assert "new" not in plugins.conf("a.DEL")


def test_plugins_that_libcni_forgot_to_remember_are_deleted_too(plugins: Plugins) -> None:
    """It keeps the list's own text, without what stands in the directory of its name."""
    whole, inlined = plugins.network(), plugins.network(plugins=[plugins.network().plugins[0]])
    plugins.runtime.cache.put(Cached("web", C1, inlined.text, RESULT))
    plugins.runtime.delete(whole, C1)
    assert plugins.calls() == each("DEL", "cba")


def test_check_asks_each_plugin_until_one_finds_something(plugins: Plugins) -> None:
    network = plugins.network()
    with pytest.raises(CniError, match="c1/eth0 is not attached to 'web'") as refused:
        plugins.runtime.check(network, C1)
    assert refused.value.code == 3
    plugins.runtime.add(network, C1)
    plugins.calls()
    plugins.runtime.check(network, Attachment("c1"))
    assert plugins.calls() == each("CHECK")
    assert [plugins.conf(f"{name}.CHECK")["prevResult"] for name in "abc"] == [RESULT] * 3
    assert plugins.conf("b.CHECK")["runtimeConfig"] == PORTS
    plugins.refuse("b.CHECK")
    with pytest.raises(CniError, match=r"b CHECK for c1/eth0 in network 'web': b\.CHECK will not"):
        plugins.runtime.check(network, C1)
    assert plugins.calls() == each("CHECK", "ab")


def test_check_is_left_out_where_the_network_says_so_or_cannot_have_it(plugins: Plugins) -> None:
    plugins.runtime.check(plugins.network(disableCheck=True), C1)
    with pytest.raises(CniError, match=r"'web' is of CNI 0\.3\.1, which has no CHECK") as refused:
        plugins.runtime.check(plugins.network(cniVersion="0.3.1"), C1)
    assert refused.value.code == 1
    assert plugins.calls() == []


# -- GC, STATUS, VERSION


def test_gc_deletes_what_is_remembered_and_not_valid_then_tells_all_plugins(
    plugins: Plugins,
) -> None:
    network = plugins.network()
    for attachment in (C1, C2, C2._replace(ifname="eth1")):
        plugins.runtime.add(network, attachment)
    plugins.runtime.add(plugins.network(name="db"), C2)
    plugins.calls()
    plugins.runtime.gc(network, [("c1", "eth0"), ("c9", "eth0")])
    assert plugins.calls() == each("DEL", "cba") * 2 + each("GC")
    assert plugins.remembered() == ["db-c2-eth0", "web-c1-eth0"]
    assert plugins.conf("b.GC")["cni.dev/valid-attachments"] == [
        {"containerID": "c1", "ifname": "eth0"},
        {"containerID": "c9", "ifname": "eth0"},
    ]
    assert plugins.environ("b.GC")["CNI_PATH"] == str(plugins.bin)


def test_gc_goes_on_past_errors_and_raises_all_of_them(plugins: Plugins) -> None:
    for attachment in (C1, C2):
        plugins.runtime.add(plugins.network(), attachment)
    plugins.calls()
    plugins.tell("b.DEL", "if [ $CNI_CONTAINERID = c1 ]; then echo no >&2; exit 1; fi")
    plugins.refuse("a.GC")
    with pytest.raises(ExceptionGroup, match="GC of network 'web'") as failed:
        plugins.runtime.gc(plugins.network(), [])
    assert [str(error) for error in failed.value.exceptions] == [
        "b DEL for c1/eth0 in network 'web': it ended with status 1: no",
        "a GC in network 'web': a.GC will not",
    ]
    assert plugins.calls() == [*each("DEL", "cb"), *each("DEL", "cba"), *each("GC")]
    assert plugins.remembered() == ["web-c1-eth0"]


def test_gc_is_left_out_where_the_network_says_so_or_only_deletes_where_it_is_old(
    plugins: Plugins,
) -> None:
    for version, disabled, calls in (
        ("1.1.0", True, []),
        ("1.0.0", False, each("DEL", "cba")),
    ):
        network = plugins.network(cniVersion=version, disableGC=disabled)
        plugins.runtime.add(network, C1)
        plugins.calls()
        plugins.runtime.gc(network, [])
        assert plugins.calls() == calls
        plugins.runtime.delete(network, C1)


def test_those_are_alive_whose_namespace_is_there(plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "ns").touch()
    for name, path in (("here", tmp_path / "ns"), ("gone", tmp_path / "none")):
        plugins.runtime.add(plugins.network(), Attachment(name, str(path)))
    plugins.runtime.cache.put(Cached("web", Attachment("unknown"), "", RESULT))
    said = {**RESULT, "interfaces": [{"name": "br0"}, {"name": "eth0", "sandbox": "/no/such"}]}
    plugins.runtime.cache.put(Cached("web", Attachment("old"), "", said))
    assert plugins.runtime.alive("web") == [("here", "eth0"), ("unknown", "eth0")]


def test_status_is_the_first_error_and_from_1_1_0_on(plugins: Plugins) -> None:
    plugins.runtime.status(plugins.network())
    assert plugins.calls() == each("STATUS")
    plugins.tell("b.STATUS", """echo '{"code": 50, "msg": "full"}'; exit 1""")
    with pytest.raises(CniError, match="b STATUS in network 'web': full") as refused:
        plugins.runtime.status(plugins.network())
    assert refused.value.code == 50
    assert plugins.calls() == each("STATUS", "ab")
    plugins.runtime.status(plugins.network(cniVersion="1.0.0"))
    assert plugins.calls() == []


def test_versions_are_what_each_plugin_says(plugins: Plugins) -> None:
    plugins.tell("a.VERSION", """echo '{"supportedVersions": ["0.4.0", "1.0.0"]}'""")
    plugins.tell(
        "b.VERSION", """echo '{"code": 4, "msg": "unknown CNI_COMMAND: VERSION"}'; exit 1"""
    )
    plugins.tell("c.VERSION", """echo '{"supportedVersions": []}'""")
    assert plugins.runtime.versions(plugins.network()) == {
        "a": ("0.4.0", "1.0.0"),
        "b": ("0.1.0",),
        "c": (),
    }
    plugins.tell("c.VERSION", "exit 1")
    with pytest.raises(CniError, match="c VERSION"):
        plugins.runtime.versions(plugins.network())


# -- at once


def test_containers_run_at_once_but_not_one_container_with_itself_nor_gc_with_any(
    tmp_path: Path,
) -> None:
    cache, inside, most = Cache(tmp_path), [0], [0]
    barrier = threading.Barrier(3, timeout=10)

    def hold(container_id: str | None) -> None:
        with cache.locked(container_id):
            barrier.wait()  # all three, or it breaks

    def count(container_id: str | None) -> None:
        for _ in range(50):
            with cache.locked(container_id):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    run_all(lambda: hold("c1"), lambda: hold("c2"), lambda: hold("c3"))
    run_all(*[lambda: count("c1")] * 4)
    assert most == [1]
    for container_id, waits in (("c1", True), ("c2", False), (None, True)):
        done = threading.Event()

        def enter(container_id: str | None, done: threading.Event = done) -> None:
            with cache.locked(container_id):
                done.set()

        with cache.locked("c1"):
            thread = threading.Thread(target=enter, args=[container_id])
            thread.start()
            assert done.wait(0.2 if waits else 10) is not waits
        thread.join(10)
        assert done.is_set()


@pytest.mark.parametrize("verb", ["gc", "delete", "check"])
def test_while_an_add_is_under_way_its_container_and_gc_wait(plugins: Plugins, verb: str) -> None:
    """Or GC would free what an ADD has just made, and nobody has heard of yet."""
    network, runtime = plugins.network(), plugins.runtime
    plugins.tell("b.ADD", "while [ ! -e go ]; do sleep 0.02; done")
    calls = {
        "gc": lambda: runtime.gc(network, [C1.key]),
        "delete": lambda: runtime.delete(network, C1),
        "check": lambda: runtime.check(network, C1),
    }
    adding = threading.Thread(target=runtime.add, args=[network, C1])
    adding.start()
    other = threading.Thread(target=calls[verb])
    try:
        assert until(lambda: (plugins.directory / "b.ADD.env").exists())
        other.start()
        other.join(0.2)
        assert other.is_alive()
        assert plugins.calls() == each("ADD", "ab")
    finally:
        (plugins.directory / "go").touch()
        adding.join(10)
        other.join(10)
    then = {"gc": each("GC"), "delete": each("DEL", "cba"), "check": each("CHECK")}
    assert plugins.calls() == each("ADD", "c") + then[verb]


def run_all(*functions: Callable[[], None]) -> None:
    """In a thread each; an error in one is an error here."""
    failed: list[BaseException] = []

    def caught(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=caught, args=[function]) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []


# -- with real plugins


@pytest.fixture(params=["go", "ours"])
def bin_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The plugins in Go where they are installed, and ours."""
    if request.param == "go":
        if not (GO_PLUGINS / "bridge").exists():
            pytest.skip(f"no plugins in {GO_PLUGINS} (Debian: containernetworking-plugins)")
        return GO_PLUGINS
    from cni import install

    install.install(str(tmp_path / "ours"))
    return tmp_path / "ours"


@pytest.fixture
def places(host: Host) -> Sequence[str]:
    """Two containers' namespaces."""
    for name in ("c1", "c2"):
        netns.create(name)
        run("ip link set lo up", place=netns.named(name))
    return [netns.named(name) for name in ("c1", "c2")]


def leasing_in(file: Path, directory: Path) -> Conflist:
    """The network in *file*, with its leases in *directory*: what is /var/lib is the machine's."""
    conf = json.loads(file.read_text())
    for plugin in conf.get("plugins", [conf]):
        if "ipam" in plugin:
            plugin["ipam"]["dataDir"] = str(directory)
    return conflist.parse(json.dumps(conf))


@pytest.mark.parametrize("file", sorted(path.name for path in REAL.glob("*.conflist")))
def test_the_networks_of_real_runtimes_carry_packets_and_leave_nothing(
    host: Host, places: Sequence[str], bin_dir: Path, tmp_path: Path, file: str
) -> None:
    network = leasing_in(REAL / file, tmp_path / "leases")
    runtime = Runtime([bin_dir], cache_dir=tmp_path / "cache")
    one = Attachment("c1", places[0], capabilities=PORTS)
    two = Attachment("c2", places[1])
    first, second = runtime.add(network, one), runtime.add(network, two)
    addresses = [ip.address.partition("/")[0] for ip in second.ips]
    for address in addresses:
        assert until(lambda address=address: host.ping(places[0], address, patience_s=1))  # type: ignore[misc]
    assert until(lambda: host.ping(None, addresses[0], patience_s=1))
    if network.capabilities:
        gateway = first.ips[0].gateway
        with host.serve(places[0], "tcp", 80):
            assert host.ask(places[1], gateway, 8080)
    if not (bin_dir == GO_PLUGINS and "portmap" in network.text):  # whose CHECK wants both families
        runtime.check(network, one)
    runtime.gc(network, [one.key])
    assert [each.attachment for each in runtime.attachments()] == [one]
    assert host.ping(places[0], first.ips[0].gateway)
    for _ in range(2):
        runtime.delete(network, one)
    leases = tmp_path / "leases" / network.name
    assert not [path for path in leases.iterdir() if path.name[0].isdigit()]
    assert "eth0" not in run("ip -o link", place=places[0])


def test_a_network_outlives_its_containers_namespace(
    places: Sequence[str], bin_dir: Path, tmp_path: Path
) -> None:
    network = leasing_in(REAL / "10-crio-bridge.conflist", tmp_path / "leases")
    runtime = Runtime([bin_dir], cache_dir=tmp_path / "cache")
    runtime.add(network, Attachment("c1", places[0]))
    netns.delete("c1")
    assert runtime.alive(network.name) == []
    runtime.gc(network, runtime.alive(network.name))
    assert runtime.attachments() == []
    assert not [path for path in (tmp_path / "leases/crio").iterdir() if path.name[0].isdigit()]


# -- with libcni

needs_cnitool = pytest.mark.skipif(
    shutil.which("cnitool") is None, reason="no cnitool (of containernetworking/cni)"
)


@pytest.fixture
def var_lib() -> Iterator[None]:
    """An empty /var/lib, where cnitool's memory is."""
    mounts.mount("tmpfs", "/var/lib", "tmpfs", 0)
    yield
    mounts.umount("/var/lib", mounts.MNT_DETACH)


@needs_cnitool
def test_cnitool_deletes_what_we_added_and_we_what_cnitool_did(
    plugins: Plugins, var_lib: None
) -> None:
    (plugins.directory / "web.conflist").write_text(plugins.network(cniVersion="1.0.0").text)
    network = plugins.network(cniVersion="1.0.0")
    for name in "abc":
        plugins.tell(f"{name}.ADD", f"echo '{json.dumps(RESULT | {'cniVersion': '1.0.0'})}'; exit")
    runtime = Runtime([plugins.bin])  # /var/lib/cni is where cnitool looks
    environ = {"CNI_PATH": str(plugins.bin), "NETCONFPATH": str(plugins.directory)}

    def cnitool(verb: str) -> None:
        command = ["cnitool", verb, "web", "/run/netns/c1"]
        subprocess.run(command, check=True, env=environ | {"PATH": os.environ["PATH"]}, timeout=30)

    cnitool("add")
    (remembered,) = runtime.attachments("web")
    runtime.check(network, remembered.attachment._replace(netns="/run/netns/c1"))
    assert plugins.conf("b.CHECK")["prevResult"]["ips"] == RESULT["ips"]
    runtime.delete(network, remembered.attachment)
    runtime.add(network, remembered.attachment._replace(netns="/run/netns/c1"))
    plugins.calls()
    cnitool("check")
    cnitool("del")
    assert plugins.calls() == each("CHECK") + each("DEL", "cba")
    assert plugins.conf("a.DEL")["prevResult"]["ips"] == RESULT["ips"]
    assert runtime.attachments("web") == []
