"""Hostile input at every door: refused before any effect, soon, in one line that quotes it.

S30, S31, S33, S37. A field is one place where a user's text gets in: by the command line, and by
the Python API where it has the same. Every field gets every hostile text, besides its own.
"""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from netkit import Conflict, InvalidSpec, Netkit, NotFound
from netkit.firewall import elements, libnftables
from netkit.firewall.elements import Element
from scenarios.lab import Host, run, snapshot
from tests.faces import netkit, ok, refused

TOO_LONG_S = 1.0
HANGS_S = 30.0
HOSTILE = (
    *("", " ", "x y", ".", "..", "../x", "/", "a/b", "/etc/passwd", "-x", "--help", "-", "%d"),
    *("eth%d", "a:b", "a\nb", "a\n", "\na", "a\r", "\0", "a\0b", "a\tb", "\x7f", "\x1b[2J", "\x9b"),
    *("a'b", 'a"b', "a`b", "a;b", "$(x)", "${x}", "{x}", "{{.}}", "a\\b", "a,b", "a=b", "a#b", "*"),
    *('"; drop', "x } ; flush ruleset ; {", "a|b", "a&b", "a>b", "!", "~", "@x", "a b:80"),
    *("é", "a\u202eb", "\u2028", "\ufeffa", "\ud800", "\udcff", "\uff41", "٣", "1" * 5000),
    "a" * 70_000,
)
PLAIN = frozenset(text for text in HOSTILE if text.isprintable() and len(text) < 4000)
NO_ARGUMENT = {"\0", "a\0b", "\ud800"}  # what no program can be given
# what needs no hint: the message itself says what would do, or nothing would
ENOUGH = re.compile(
    r"(not in|not a part of|no usable address of|(network|broadcast) address of) \S+/\d+$"
    r"|is the gateway of|is leased to|gateway \S+ cannot be reserved|cannot be removed$"
    r"|template: |has no log: netkit did not run it$"
)

Call = Callable[[Netkit, str], object]


class Field(NamedTuple):
    """Where text gets in, as `{}`. *fine*: hostile texts that are nothing special here."""

    line: str
    call: Call | None = None
    bad: Sequence[str] = ()
    fine: Collection[str] = ()
    quotes: bool = True

    def words(self, text: str) -> list[str]:
        return [word.replace("{}", text) for word in self.line.split()]


def _create(option: str, make: Callable[[str], object] = str) -> Call:
    def create(nk: Netkit, text: str) -> object:
        options: dict[str, Any] = {"subnet": "10.7.0.0/24", option: make(text)}
        return nk.networks.create("n", **options)

    return create


def _connect(option: str, make: Callable[[str], object] = str) -> Call:
    return lambda nk, text: nk.networks.get("my-net").connect(**{option: make(text)})  # type: ignore[arg-type]


def _get(nk: Netkit, text: str) -> object:
    return nk.networks.get(text)


def _one(text: str) -> list[str]:
    return [text]


def _split(text: str) -> list[str]:
    return text.split()


ADDRESSES = [
    *_split("1.2.3 1.2.3.4.5 256.1.1.1 1.2.3.-4 1.2.3.04 0x7f.1 2130706433 ::1 localhost"),
    *("172.25.0.5/16", "172.25.0.5 ", "172.25.0.5\n", "172.25.0.5%x", "fe80::1%eth0"),
]
PORTS = [
    *_split("0 65536 -1 80- -80 80-70 1-2-3 1:2:3:4 80:80/icmp 80/ 80/tcp/udp 80-82:80-81"),
    *_split(":::80 ٨٠"),
    *_split("1.2.3:80:80 1e3 0x50 +80 8_0 80:80,81:81 0:80 65535-65536:80-81 1:"),
    *_split("a:80"),
    *_split("127.0.0.1:: 127.0.0.1:80 224.0.0.1:80:80 255.255.255.255:1:1"),
    *_split("99999999999999999999"),
    *("8080:80\n", " 80", "80 "),
]
MACS = [
    *_split("01:00:5e:00:00:01 ff:ff:ff:ff:ff:ff 00:00:00:00:00:00 02:42:ac:11:00"),
    *_split("0242ac110002"),
    *["02:42:ac:11:00:02:03", "02:42-ac:11:00:02", "2:42:ac:11:0:2", "02:42:ac:11:00:0g"],
]
ROUTES = [
    *_split("10.0.0.1/8 10.0.0.0/33 10.0.0.0/8,x 10.0.0.0/8,1.2.3 default,default"),
    *_split("10.0.0.0/8,172.25.0.9,4294967296 10.0.0.0/8,172.25.0.9,1,2 10.0.0.0/8,via=fd00::1"),
    *("10.0.0.0/8 via", "10.0.0.0/8 dev eth0", "10.0.0.0/8 metric x", "10.0.0.0/8 table 0"),
    *("10.0.0.0/8 via 10.9.9.9", "10.0.0.0/8 mtu 5", "blackhole", "unicast", "fd00::/8"),
    *("10.0.0.0/8 via 172.25.0.9 type blackhole", "10.0.0.0/8\n", "10.0.0.0/8 onlink"),
]
RULES = [
    *("from", "from 10.0.0.1", "table 5 table 5", "table 0", "table x", "iif a/b table 5"),
    *("from fd00::1 to 10.0.0.1 table 5", "fwmark x table 5", "from 10.0.0.1/8 table 5", "x y"),
]
SYSCTLS = [
    *_split("x net.x=1 kernel.panic=1 net.ipv4.ip_forward=1 net.ipv4.conf.all.forwarding=1"),
    *_split("net.ipv4.conf.IFNAME.forwarding= net.ipv4.conf.IFNAME.forwarding"),
    *_split("net.ipv4.conf.eth9.forwarding=1 net/ipv4/conf/../forwarding=1 vm.swappiness=1"),
    *("net.ipv4.conf.IFNAME.forwarding=1\n2", "net.ipv4.conf.IFNAME.nosuch=1"),
]
IFNAMES = ["all", "default", "lo", "a" * 16, ".a"]
NOBODY = ["nobody", "0" * 64, "f" * 12]
CREATE = "network create --subnet=10.7.0.0/24"
CONNECT = "connect --net=my-net"
RUN = "run --net=my-net"

FIELDS = (
    # -- networks
    Field(
        "network create -- {}",
        lambda nk, text: nk.networks.create(text),
        ["bridge", "default", "host", "none", "a" * 129, "_a", ".a", "my-net"],
    ),
    Field(f"{CREATE} --driver={{}} n", _create("driver"), ["host", "none", "overlay2"]),
    Field(
        "network create --subnet={} n",
        _create("subnet"),
        [
            *_split(
                "10.7.0.0 10.7.0.1/24 10.7.0.0/33 10.7.0.0/-1 10.7/16 10.7.0.0/0x18 fd00::1/64"
            ),
            *_split("0.0.0.0/0 0.1.0.0/16 127.0.0.0/8 224.0.0.0/4 127.1.0.0/24 255.255.255.0/24"),
            *_split("239.1.0.0/16 128.0.0.0/2 10.7.0.0/32 172.25.0.0/16 172.25.128.0/24 10.7.0.0/"),
            *_split("::/0 ::/64 fe80::/64 ff00::/64 ::ffff:10.7.0.0/112 fd00::/129 fd00::%1/64"),
            *("172.0.0.0/8", "10.7.0.0/31/31", "10.7.0.0/24\n"),
        ],
    ),
    Field(
        f"{CREATE} --gateway={{}} n",
        _create("gateway"),
        [*ADDRESSES, "10.7.0.0", "10.7.0.255", "10.8.0.1", "0.0.0.0"],
    ),
    Field(
        f"{CREATE} --ip-range={{}} n",
        _create("ip_range"),
        [
            *_split("10.7.0.0 10.7.0.1/25 10.8.0.0/25 10.7.0.0/16 10.7.0.0/32 10.7.0.255/32"),
            *_split("10.7.0.9- -10.7.0.9 10.7.0.9-10.7.0.3 10.7.0.3-fd00::9 10.7.0.3-10.7.1.9"),
            *_split("10.7.0.3-9 10.7.0.0/28-10.7.0.64/28 10.7.0.3-10.7.0.5-10.7.0.7 10.7.0.0-"),
            *("10.7.0.3 - 10.7.0.9", "10.7.0.3-10.7.0.9\n", "10.7.0.3-10.7.0.9,10.7.0.12"),
        ],
    ),
    Field(
        f"{CREATE} --ipam-driver={{}} n",
        _create("ipam_driver"),
        ["none", "nobody", "host-local ", "../host-local", "a" * 129],
    ),
    Field(
        f"{CREATE} --ipam-opt={{}}=true n",
        _create("ipam_options", lambda text: {text: "true"}),
        ["Sticky", "sticky ", "type"],
    ),
    Field(
        f"{CREATE} --ipam-opt=sticky={{}} n",
        _create("ipam_options", lambda text: {"sticky": text}),
        ["maybe", "2", "true\n"],
    ),
    Field(
        f"{CREATE} --aux-address=a={{}} n",
        _create("aux_addresses", lambda text: {"a": text}),
        [*ADDRESSES, "10.7.0.1", "10.7.0.0", "10.7.0.255", "10.8.0.9"],
    ),
    Field(
        f"{CREATE} --aux-address={{}}=10.7.0.9 n",
        _create("aux_addresses", lambda text: {text: "10.7.0.9"}),
    ),
    Field(
        f"{CREATE} --mtu={{}} n",
        None,
        _split("0 67 65536 -1 1500.0 1e3 0x5dc 1_500"),
    ),
    Field(
        f"{CREATE} --host-ip={{}} n",
        _create("host_ip"),
        [*ADDRESSES, "224.0.0.1", "255.255.255.255"],
    ),
    Field(
        f"{CREATE} --label=k{{}}=v n", _create("labels", lambda text: {f"k{text}": "v"}), fine=PLAIN
    ),
    Field(
        f"{CREATE} --opt={{}} n",
        None,
        _split("=1500 mtu= mtu mtu=x masquerade=maybe name=a/b host_binding=x"),
    ),
    Field(f"{CREATE} --opt={{}}=1500 n", _create("options", lambda text: {text: "1500"})),
    Field(
        f"{CREATE} --opt=com.docker.network.bridge.name={{}} n",
        _create("options", lambda text: {"name": text}),
        [*IFNAMES, "wire"],
    ),
    # -- endpoints
    Field("connect --net={}", _get, NOBODY),
    Field(
        f"{CONNECT} -- {{}}",
        _connect("container"),
        [
            *NOBODY,
            *_split("pid: pid:0 pid:-1 pid:x pid:4194304 pid:4194303 pid:99999999999999999999"),
            *_split("pid:٣ netns: netns:x netns:/tmp netns:/nowhere netns:/etc/passwd/x docker:x"),
            *("pid:1\n", "pid: 1", "netns:/a\0b", "netns:/a\nb", "netns:/\udcff"),
            *(f"netns:/{'a' * 70_000}", f"netns:{'/a' * 3000}"),
        ],
    ),
    Field(f"{CONNECT} --name={{}}", _connect("name"), ["a" * 129, "_a", "c1"]),
    Field(
        f"{CONNECT} --ip={{}}",
        _connect("ipv4_address"),
        [
            *ADDRESSES,
            *_split("172.25.0.0 172.25.255.255 172.25.0.1 172.25.0.2 172.26.0.2 0.0.0.0 0/1"),
        ],
    ),
    Field(f"{CONNECT} --mac-address={{}}", _connect("mac_address"), MACS),
    Field(f"{CONNECT} --ifname={{}}", _connect("ifname"), IFNAMES),
    Field(f"{CONNECT} --host-ifname={{}}", _connect("host_ifname"), [*IFNAMES, "wire"]),
    Field(
        f"{CONNECT} --gw-priority={{}}",
        None,
        ["2147483648", "-2147483649", "9" * 30, "1.5", "0x1"],
        ["٣"],  # a digit, by Python
    ),
    Field(f"{CONNECT} --publish={{}}", _connect("ports", _one), PORTS),
    Field(f"{CONNECT} --route={{}}", _connect("routes", _one), ROUTES),
    Field(f"{CONNECT} --rule={{}}", _connect("rules", _one), RULES),
    Field(f"{CONNECT} --sysctl={{}}", None, SYSCTLS),
    Field(
        f"{CONNECT} --link-local-ip={{}}",
        _connect("link_local_ips", _one),
        [*ADDRESSES, "10.0.0.1", "169.254.0.0", "169.254.255.255", "fe80::1", "169.254.1.1/33"],
    ),
    Field(
        f"{CONNECT} --source-ip={{}}",
        _connect("source_ips", _one),
        [*ADDRESSES, "192.0.2.1", "0.0.0.0", "255.255.255.255", "::1"],
    ),
    Field(f"{CONNECT} --mtu={{}}", None, _split("0 67 65536 -1 1500.0 0x5dc 1_500")),
    Field(f"{CONNECT} --txqlen={{}}", None, _split("-1 1048576 1.5 0x5 1_5")),
    Field(f"{CONNECT} --driver-opt={{}}", None, _split("mtu=5 ifname sysctls sysctls=x =")),
    Field(f"{CREATE} --route={{}} n", _create("routes", _one), ROUTES),
    Field(
        "address add -- c1 {}",
        lambda nk, text: nk.endpoints("c1")[0].add_address(text),
        [*ADDRESSES[:-5], "172.25.0.5/24", "172.25.0.2", "172.25.0.1", "172.25.0.0", "10.0.0.0/24"],
    ),
    Field(
        "address rm -- c1 {}",
        lambda nk, text: nk.endpoints("c1")[0].remove_address(text),
        [*ADDRESSES, "172.25.0.3", "172.25.0.2"],
    ),
    Field(
        "route add -- c1 {}",
        lambda nk, text: nk.endpoints("c1")[0].add_route(text),
        ROUTES,
        quotes=False,  # its words come one by one
    ),
    Field("route rm -- c1 {}", None, ROUTES, quotes=False),
    Field("rule add -- c1 {}", None, RULES, quotes=False),
    Field(
        f"{CONNECT} --dns={{}}",
        _connect("dns", _one),
        ["1.1.1", "1.1.1.1:53", "1.1.1.1\n", "fe80::1%a b", "fe80::1%\nnameserver 6.6.6.6"],
    ),
    Field(
        f"{CONNECT} --dns-search={{}}",
        _connect("dns_search", _one),
        ["a..b", "a.b\n", "-a.b", "a b.c", "a" * 64, "a." * 127 + "a"],
        ["."],  # no search at all
    ),
    Field(
        f"{CONNECT} --dns-option={{}}",
        _connect("dns_options", _one),
        ["ndots:2\n", "ndots:2 rotate", "ndots:", "ndots::2", "nd\0ots"],
        ["a:b"],
    ),
    Field(
        f"{CONNECT} --add-host={{}}",
        _connect("extra_hosts", _one),
        [
            *_split("db db: :1.2.3.4 db:1.2.3 db#:1.2.3.4 db:fe80::1%x"),
            *("db:1.2.3.4\n1.1.1.1 google.com", "d b:1.2.3.4", "db:host-gateway\n"),
            "a" * 64 + ":1.2.3.4",
        ],
    ),
    Field(
        f"{CONNECT} --hostname={{}}",
        _connect("hostname"),
        ["a_b", "a..b", "-a", "a-", "a" * 65, "a.b\n"],
    ),
    Field(f"{CONNECT} --domainname={{}}", None, ["a_b", "a..b", "-a", "a.b\n", "a" * 64]),
    Field(
        f"{CONNECT} -- docker:{{}}",
        lambda nk, text: nk.networks.get("my-net").connect(f"docker:{text}"),
        [*NOBODY, "a" * 129, "pid:1", "docker:x"],
    ),
    Field("reattach -- {}", lambda nk, text: nk.reattach(text), [*NOBODY, "c1", "docker:x"]),
    Field("wait --timeout=0 -- {}", None, [*NOBODY, "c1x"]),
    Field("wait --ifname={} c1", None, IFNAMES),
    Field("wait --timeout={} c1", None, ["-1", "nan", "inf", "1e3", "86401", "1."]),
    Field("disconnect --net={} c1", None, [*NOBODY, "host", "none"]),
    Field(
        "disconnect --net=my-net -- {}",
        lambda nk, text: nk.networks.get("my-net").disconnect(text),
        NOBODY,
    ),
    # -- run and exec
    Field(f"{RUN} --name={{}} true", None, ["a" * 129, "_a", "c1"]),
    Field(
        "run --net={} true",
        None,
        [*NOBODY, *_split("container: container:nobody container:../x service:x ns:/x")],
    ),
    Field(
        f"{RUN} --rootfs={{}} true",
        None,
        ["/nowhere", "/etc/passwd", "/dev/zero"],
        ["", ".", "..", "/"],  # directories, or none given
    ),
    Field(f"{RUN} --workdir={{}} true", None, ["tmp", "/a\0b"], ["/", "/etc/passwd"]),
    Field(f"{RUN} --env={{}} true", None, ["=x", "A=\0"], {*HOSTILE} - NO_ARGUMENT - {""}),
    Field(f"{RUN} --label=k{{}}=v true", None, fine=PLAIN),
    Field(f"{RUN} --publish={{}} true", None, PORTS),
    Field(f"{RUN} --expose={{}} true", None, ["0", "65536", "8080:80", "80-70", "80/icmp", "80\n"]),
    Field(f"{RUN} -- true x{{}}", None, fine={*HOSTILE} - NO_ARGUMENT),
    Field("exec -- {} true", None, NOBODY),
    Field("exec c1 true x{}", None, fine={*HOSTILE} - NO_ARGUMENT),
    Field("exec --workdir={} c1 true", None, ["tmp", "/a\0b"], ["/", "/etc/passwd"]),
    # -- what is asked for by name
    Field("inspect -- {}", lambda nk, text: nk.endpoints(text), NOBODY),
    Field("network inspect -- {}", _get, NOBODY),
    Field("check -- {}", lambda nk, text: nk.check(text), NOBODY),
    Field("network rm -- {}", None, [*NOBODY, "host", "none", "my-net"]),
    Field("rm -- {}", None, NOBODY),
    Field("stop -- {}", None, NOBODY),
    Field("stop --time={} c1", None, ["-1", "1.5", "86401", "9" * 30], ["٣"]),
    Field("logs -- {}", None, [*NOBODY, "c1"]),
    Field("port -- {}", None, NOBODY),
    Field("port c1 -- {}", None, ["0", "65536", "8080:80", "80/icmp", "80/\n"]),
    Field("veth -- {}", None, NOBODY),
    Field("network ls --filter={}", None, ["name", "colour=x", "dangling=x", "dangling="]),
    Field(
        "network prune --force --filter={}",
        None,
        ["until=", "until=x", "until=1d", "until=1h\n", "name=x"],
    ),
    Field(
        "network ls --format={{.Name{}}}",
        None,
        ["}} {{", "|", "(", " | nosuch"],
        ["", " "],
        quotes=False,  # but the part it stumbles over
    ),
    Field(
        "--state-dir={} ps",
        lambda nk, text: Netkit(state_dir=text),
        ["rel", "/a\nb", "/a\0b", "/\udcff"],
        ["", "/", "/etc/passwd"],
    ),
    Field(
        "--run-dir={} gc",
        lambda nk, text: Netkit(run_dir=text),
        ["rel", "/a\nb", "/a\0b", "/\udcff"],
        ["", "/", "/etc/passwd"],
    ),
)


class Place(NamedTuple):
    """A host with a network, a container on it, and somebody else's interface."""

    host: Host
    nk: Netkit

    def state(self) -> tuple[list[str], list[str], list[tuple[int, str]]]:
        """What is cheap to look at after every single case: records, our files, interfaces."""
        path = f"file:{self.host.base}/state/state.db?mode=ro"
        with closing(sqlite3.connect(path, uri=True)) as db:
            # that a `run` was begun, and came to nothing, may be told
            told = ('INSERT INTO "journal"', 'INSERT INTO "sqlite_sequence"')
            records = [line for line in db.iterdump() if not line.startswith(told)]
        files = [
            f"{directory}/{name}"
            for directory, _, names in os.walk(self.host.base)
            for name in names
            if not name.startswith("state.db")  # and its journal, which come and go
        ]
        return records, sorted(files), socket.if_nameindex()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with Host() as host, Netkit() as nk:
        run(
            # addresses that come by themselves, a second later, would be in a snapshot or not
            "sysctl -qw net.ipv6.conf.default.addr_gen_mode=1 || true",
            "ip link add wire type veth peer name wire1",
            "ip link set wire up",
            "ip link set wire1 up",
            "ip addr add 10.9.0.1/24 dev wire",
        )
        ok("network", "create", "--subnet=172.25.0.0/16", "my-net")
        ok("connect", "--net=my-net", "--name=c1", "--publish=8080:80")
        yield Place(host, nk)


@pytest.mark.parametrize("field", FIELDS, ids=[field.line for field in FIELDS])
def test_hostile_input_is_refused_before_any_effect(
    place: Place, field: Field, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts = _recorded(monkeypatch)
    before, state = snapshot(), place.state()
    wrong = []
    for text in dict.fromkeys((*HOSTILE, *field.bad)):
        if text in field.fine:
            continue
        for face in (_by_command, _by_python):
            start = time.monotonic()
            complaints = face(place, field, text)
            if time.monotonic() - start > TOO_LONG_S and _is_slow(lambda: face(place, field, text)):  # noqa: B023
                complaints.append("it takes too long")
            if (found := place.state()) != state:
                complaints.append("something was done")
                state = found
            wrong += [
                f"{field.line} with {text!r:.60}, {face.__name__}: {what}" for what in complaints
            ]
    assert not wrong, "\n".join(wrong)
    assert snapshot() == before
    assert [script for script in scripts if not script.startswith("list ")] == []


def _is_slow(work: Callable[[], object]) -> bool:
    """Whether it is so again and again: some times may be a busy machine's doing."""
    for _ in range(5):
        start = time.monotonic()
        work()
        if time.monotonic() - start <= TOO_LONG_S:
            return False
    return True


def _recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All that nftables is told from now on: scripts, and elements packed by hand."""
    scripts: list[str] = []
    run, pack = libnftables.run, elements._packed

    def recorded(text: str) -> str:
        scripts.append(text)
        return run(text)

    def packed(element: Element, *types: Sequence[str], whole: bool) -> bytes:
        data = f" : {element.data}" if element.data else ""
        scripts.append(f"element {element.home} {{ {element.key}{data} }}")
        return pack(element, *types, whole=whole)

    monkeypatch.setattr(libnftables, "run", recorded)
    monkeypatch.setattr(elements, "_packed", packed)
    return scripts


def _by_command(place: Place, field: Field, text: str) -> list[str]:
    words = field.words(text)
    said = netkit(*words)
    if said.code == 0:
        return ["it was accepted"]
    expected = (125,) if words[0] == "run" else (1, 2)
    wrong = []
    if said.code not in expected:
        wrong.append(f"exit code {said.code}")
    if said.out:
        wrong.append(f"on stdout: {said.out!r:.200}")
    if not all(line.isprintable() for line in said.err.split("\n")) or len(said.err) > 2500:
        wrong.append(f"not printable, or too much: {said.err!r:.400}")
    if not said.err.startswith("Usage: "):
        first, *rest = said.err.splitlines()
        wrong += _complaint(field, text, first.removeprefix("Error: "))
        if [line[:7] for line in rest] != ["Hint:  "] and not ENOUGH.search(first):
            wrong.append(f"no hint: {said.err!r:.300}")
    return wrong


def _by_python(place: Place, field: Field, text: str) -> list[str]:
    if field.call is None:
        return []
    try:
        field.call(place.nk, text)
    except (InvalidSpec, NotFound, Conflict) as error:
        wrong = _complaint(field, text, str(error))
        if not (error.hint or ENOUGH.search(str(error))):
            wrong.append(f"no hint: {error}")
        elif not (error.hint or "").isprintable():
            wrong.append(f"hint {error.hint!r}")
        return wrong
    except Exception as error:
        return [f"{type(error).__name__}: {error!s:.200}"]
    return ["it was accepted"]


def _complaint(field: Field, text: str, message: str) -> list[str]:
    if not message.isprintable() or not 10 < len(message) < 1000:
        return [f"no line to read: {message!r:.300}"]
    parts = [text, *re.split(r"[:=./\s]", text)]  # it is enough to quote the part that is wrong
    quoted = [form(part)[:12].lower() for part in parts for form in (str, _escaped) if part]
    if field.quotes and text and not any(quote in message.lower() for quote in (*quoted, "''")):
        return [f"it does not quote what is wrong: {message}"]
    return []


def _escaped(text: str) -> str:
    return repr(text)[1:-1]


# -- what is in order by itself, but not together

COMBINATIONS = {
    "a gateway without a subnet": ({"gateway": "10.7.0.1"}, "needs a subnet"),
    "a range without a subnet": ({"ip_range": "10.7.0.0/25"}, "needs a subnet"),
    "an auxiliary address without a subnet": (
        {"aux_addresses": {"a": "10.7.0.1"}},
        "needs a subnet",
    ),
    "a gateway that is reserved": (
        {"subnet": "10.7.0.0/24", "gateway": "10.7.0.9", "aux_addresses": {"a": "10.7.0.9"}},
        "the gateway 10.7.0.9 cannot be reserved as well",
    ),
    "a range that is wider than its subnet": (
        {"subnet": "10.7.0.0/24", "ip_range": "10.7.0.0/23"},
        "the IP range 10.7.0.0/23 is not in 10.7.0.0/24",
    ),
    "ranges that overlap": (
        {"subnet": "10.7.0.0/24", "ip_range": ["10.7.0.0/25", "10.7.0.100-10.7.0.200"]},
        "range 10.7.0.0/25 overlaps range 10.7.0.100-10.7.0.200",
    ),
    "a range without IPAM": ({"ipam_driver": "none", "ip_range": "10.7.0.0/25"}, "has no use for"),
    "an option of another IPAM driver": (
        {"ipam_driver": "static", "subnet": "10.7.0.0/24", "ipam_options": {"sticky": "1"}},
        "unknown option 'sticky' of IPAM driver 'static'",
    ),
    "a subnet without room for a gateway": ({"subnet": "10.7.0.0/31"}, "has none to spare"),
    "a subnet inside that of another network": ({"subnet": "172.25.8.0/24"}, "overlaps network"),
    "a subnet around that of another network": ({"subnet": "172.24.0.0/14"}, "overlaps network"),
    "a subnet the host has a route to": ({"subnet": "10.9.0.0/16"}, "overlaps the host's route"),
    "a bridge that is somebody's interface": (
        {"options": {"com.docker.network.bridge.name": "wire"}},
        "an interface named 'wire' exists already",
    ),
    "an MTU below IPv4's least": ({"mtu": 67}, "invalid MTU 67"),
    "an MTU above a veth's most": ({"mtu": 65536}, "invalid MTU 65536"),
}


@pytest.mark.parametrize(("options", "why"), COMBINATIONS.values(), ids=COMBINATIONS)
def test_what_does_not_go_together_is_refused(
    place: Place, options: dict[str, Any], why: str
) -> None:
    before, state = snapshot(), place.state()
    with pytest.raises((InvalidSpec, Conflict), match=re.escape(why)):
        place.nk.networks.create("n", **options)
    words = [f"--{option.replace('_', '-')}={value}" for option, value in _flat(options)]
    assert why in refused("network", "create", *words, "n")
    assert (snapshot(), place.state()) == (before, state)


def _flat(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """API options as those of the command line."""
    for name, value in options.items():
        singular = {"aux_addresses": "aux-address", "options": "opt", "ipam_options": "ipam-opt"}
        name = singular.get(name, name)
        values = value if isinstance(value, list) else [value]
        if isinstance(value, dict):
            values = [f"{k}={v}" for k, v in value.items()]
        yield from ((name, each) for each in values)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("connect --net my-net --ip 0/0 -p 80", "can have neither --ip nor -p"),
        ("connect --net my-net c1", "already exists in network my-net"),
        ("connect --net my-net --dns 9.9.9.9 c1", "made already"),
        ("connect --net my-net --name x c1", "leave out TARGET"),
        ("connect --net host c1", "cannot connect to network 'host'"),
        ("connect --net none c1", "cannot connect to network 'none'"),
        ("connect --net my-net -p 8080:80", "port is already allocated (by container 'c1')"),
        ("connect --net my-net -p 81:80 -p 81:81", "port is already allocated"),
        ("connect --net my-net -p 8000-8100:8000-8100", "port is already allocated"),
        ("connect --net my-net -p 172.25.0.99:1:1", "no interface of this host has the address"),
        ("run --net my-net --net my-net true", "named twice"),
        ("run --net host --net my-net true", "cannot be combined"),
        ("run --net host -p 80 true", "port publishing and the host network mode"),
        ("run --net none --ip 172.25.0.9 true", "--ip and the none network mode"),
        ("run --net container:c1 -h x true", "hostname and the container type network mode"),
        ("run --net container:c1 --add-host a:1.2.3.4 true", "host-to-IP mapping"),
        ("run --net my-net -P --expose 80 -p 8080:80 true", "port is already allocated"),
        ("network rm my-net", "has active endpoints: c1"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(place: Place, words: str, why: str) -> None:
    before, state = snapshot(), place.state()
    code = 125 if words.startswith("run") else 1
    assert why in refused(*words.split(), code=code)
    assert (snapshot(), place.state()) == (before, state)


# -- S31: whatever is no other namespace than ours, at the end of a path

NO_TARGETS: dict[str, Callable[[str], str]] = {
    "a FIFO": lambda path: _made(os.mkfifo, path),
    "a directory": lambda path: _made(os.mkdir, path),
    "a file": lambda path: _made(lambda path: open(path, "w").close(), path),
    "a socket": lambda path: _made(_bind, path),
    "a link to nowhere": lambda path: _made(partial(os.symlink, f"{path}-nowhere"), path),
    "a link to itself": lambda path: _made(partial(os.symlink, path), path),
    "a link to a FIFO": lambda path: _made(partial(os.symlink, _made(os.mkfifo, f"{path}1")), path),
    "a link to the host's namespace": lambda path: _made(
        partial(os.symlink, "/proc/self/ns/net"), path
    ),
    "the host's namespace": lambda path: "/proc/self/ns/net",
    "the host's namespace by way of a thread": lambda path: "/proc/thread-self/ns/net",
    "a mount namespace": lambda path: "/proc/self/ns/mnt",
    "a user namespace": lambda path: "/proc/self/ns/user",
    "a device without end": lambda path: "/dev/zero",
    "a terminal": lambda path: "/dev/tty",
    "a file of /proc": lambda path: "/proc/self/mem",
    "a file of another process": lambda path: "/proc/1/environ",
}


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


def _made(make: Callable[[str], object], path: str) -> str:
    make(path)
    return path


@pytest.mark.parametrize("what", NO_TARGETS)
def test_a_path_that_is_no_other_network_namespace_is_refused(
    place: Place, what: str, tmp_path: Path
) -> None:
    path = NO_TARGETS[what](str(tmp_path / "x"))
    state, start = place.state(), time.monotonic()
    with pytest.raises((InvalidSpec, NotFound), match=re.escape(path)):
        place.nk.networks.get("my-net").connect(f"netns:{path}")
    assert path in refused("connect", "--net=my-net", f"netns:{path}")
    assert path in refused("exec", f"netns:{path}", "true")
    assert time.monotonic() - start < HANGS_S
    assert place.state() == state


def test_nothing_but_a_namespace_is_taken_for_one_by_its_name(place: Place) -> None:
    os.mkfifo("/run/netns/pipe")
    state, start = place.state(), time.monotonic()
    assert "is not a network namespace" in refused("connect", "--net=my-net", "pipe")
    assert time.monotonic() - start < HANGS_S
    assert place.state() == state
    os.unlink("/run/netns/pipe")


def test_the_hosts_own_processes_are_no_targets(place: Place) -> None:
    assert "host's own network namespace" in refused(
        "connect", "--net=my-net", f"pid:{os.getpid()}"
    )


def test_a_namespace_with_a_hostile_file_name_gets_a_plain_one(place: Place) -> None:
    run("ip netns add other", 'mkdir -p "/run/odd"', "touch '/run/odd/-é \"; drop'")
    run("mount --bind /run/netns/other '/run/odd/-é \"; drop'")
    ok("connect", "--net=my-net", 'netns:/run/odd/-é "; drop')
    assert ok("ps", "--format", "{{.Names}}").split() == ["drop", "c1"]
    ok("disconnect", "--net=my-net", 'netns:/run/odd/-é "; drop')
    run("umount '/run/odd/-é \"; drop'", "ip netns del other")


# -- S37: rule text is made of addresses, numbers and interface names, and of nothing else

_WORD = re.compile(
    r'"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"|([0-9a-f]{2}:){5}[0-9a-f]{2}|[0-9./-]+|tcp|udp|sctp'
    r"|[{}.:]|add|delete|element|table|inet|bridge|netkit|ipv4|ip|arp"
    r"|inside|same|internal|transit|masqueraded|ports|unaddressed|(loop|addresses|wildcard|ranges)4"
)


def test_rule_text_is_never_built_from_names(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = _recorded(monkeypatch)
    ok("network", "create", "--label", 'evil="; drop; }', "--aux-address", "evil-aux=10.7.0.9",
       "--subnet", "10.7.0.0/24", "evil-net")  # fmt: skip
    ok("connect", "--net", "evil-net", "--name", "evil-name", "-h", "evil-host", "-p", "80/udp",
       "--dns-search", "evil.example", "--add-host", "evil-extra:1.2.3.4")  # fmt: skip
    ok("run", "--net", "evil-net", "--name", "evil-run", "-e", "A=evil", "-p", "1-9:1-9", "true")
    ok("rm", "evil-run", "evil-name")
    ok("network", "rm", "evil-net")
    said = [script for script in scripts if "chain " not in script and "list " not in script]
    assert len(said) >= 6
    assert "evil" not in "".join(scripts)
    words = "\n".join(said).replace(",", " ").split()
    assert [word for word in words if not _WORD.fullmatch(word)] == []
