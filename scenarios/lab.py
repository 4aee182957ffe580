"""Hosts, neighbours and containers as namespaces, and real packets between them.

    with Host() as host:
        lan = host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
        with host.serve(lan, "tcp", 80):
            assert host.ask(None, "10.9.0.2", 80) == "10.9.0.1"

Shapes   a place is the path of a namespace, None the host. A server answers each client with
         the address it sees it come from: that shows who was asked, and whether it was translated
Units    seconds. No answer within `PATIENCE_S` is no answer; where none is awaited, and a control
         shows that there could be one, `BRIEF_S` is long enough
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_interface
from types import TracebackType
from typing import Any, Self, TypeVar

from netkit import config
from netkit.engine import Engine
from netkit.firewall import detection, iptables, libnftables, nfnetlink
from netkit.kernel import mounts, netns
from netkit.model import EndpointRecord
from netkit.portspec import PortSpec
from netkit.specs import Request

PATIENCE_S = 10.0
BRIEF_S = 0.3
_BOUND_S = 30.0
_RTF_LOCAL = 0x80000000
_PROGRAM = (sys.executable, "-c", "from netkit.cli import main; main()")
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
T = TypeVar("T")
_counter = 0


class Host:
    """The calling process's own network namespace, empty at first, with netkit state of its own.

    *firewall* is the back end that is configured; without, netkit chooses.
    """

    def __init__(self, firewall: str | None = None) -> None:
        global _counter
        _counter += 1
        self.base = f"/run/host-{os.getpid()}-{_counter}"
        self.firewall = firewall
        self._engines: list[Engine] = []

    def __enter__(self) -> Self:
        self._before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        mounts.unshare(mounts.CLONE_NEWNET)
        os.makedirs(self.base)
        os.environ["NETKIT_STATE_DIR"] = f"{self.base}/state"
        os.environ["NETKIT_RUN_DIR"] = f"{self.base}/run"
        self._configured = os.environ.get(config.VARIABLE)
        if self.firewall is not None:
            os.environ[config.VARIABLE] = f"{self.base}/netkit.toml"
            with open(f"{self.base}/netkit.toml", "w") as file:
                file.write(f'firewall = "{self.firewall}"\n')
        run("ip link set lo up")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for engine in self._engines:
            engine.close()
        if self.firewall is not None:
            del os.environ[config.VARIABLE]
            if self._configured is not None:
                os.environ[config.VARIABLE] = self._configured
        libnftables.forget()
        iptables.forget()
        nfnetlink.close()
        if os.path.isdir(netns.NAMED):
            for name in os.listdir(netns.NAMED):
                netns.delete(name)
        shutil.rmtree("/etc/netns", ignore_errors=True)
        shutil.rmtree(self.base)
        mounts.setns(self._before, mounts.CLONE_NEWNET)
        os.close(self._before)

    def engine(self) -> Engine:
        """An engine on this host's state; closed with the host."""
        engine = Engine()
        self._engines.append(engine)
        return engine

    def neighbour(self, name: str, ours: str, theirs: str) -> str:
        """Another machine on a wire of its own with us; its default route is us. Its place."""
        netns.create(name)
        nodad = " nodad" if ":" in ours else ""
        run(
            f"ip link add {name}0 type veth peer name eth0 netns {name}",
            f"ip addr add {ours} dev {name}0{nodad}",
            # no link-local address of its own: it would be tentative now and settled in a second
            f"ip link set {name}0 addrgenmode none || true",
            f"ip link set {name}0 up",
            _batch(
                f"ip -n {name}",
                [
                    "link set lo up",
                    f"addr add {theirs} dev eth0{nodad}",
                    "link set eth0 up",
                    f"route add default via {ours.partition('/')[0]}",
                ],
            ),
        )
        if nodad:  # a router asks for its neighbours from a link-local address
            run(f"ip addr add fe80::1/64 dev {name}0 nodad")
            assert until(lambda: _are_had(ours, "fe80::1"))
            assert at(netns.named(name), lambda: until(lambda: _are_had(theirs)))
        return netns.named(name)

    @contextlib.contextmanager
    def serve(
        self, place: str | None, protocol: str, port: int, address: str = ""
    ) -> Iterator[list[str]]:
        """Answer every client with the address it comes from; yields those seen so far.

        *address* "" is all of IPv4's, "::" all of IPv6's.
        """
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM

        family = _family(address)

        def open_socket() -> socket.socket:
            sock = socket.socket(family, kind)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            if protocol == "tcp":
                sock.listen(128)
            return sock

        sock = at(place, open_socket)
        seen: list[str] = []
        thread = threading.Thread(
            target=_answer_tcp if protocol == "tcp" else _answer_udp, args=(sock, seen), daemon=True
        )
        thread.start()
        try:
            yield seen
        finally:
            with contextlib.suppress(OSError):  # of datagrams: not connected, but it wakes up
                sock.shutdown(socket.SHUT_RDWR)
            thread.join(_BOUND_S)
            sock.close()  # not before: the thread may be about to look at it once more

    def ask(
        self,
        place: str | None,
        address: str,
        port: int,
        protocol: str = "tcp",
        *,
        source: str | None = None,
        patience_s: float = PATIENCE_S,
    ) -> str | None:
        """What the server there answers a client here: our address as it sees it; None: nothing."""

        def talk() -> str | None:
            kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
            with socket.socket(_family(address), kind) as sock:
                sock.settimeout(patience_s)
                if source is not None:
                    sock.bind((source, 0))
                try:
                    sock.connect((address, port))
                    if protocol == "udp":
                        sock.send(b"?")
                    return sock.recv(64).decode() or None
                except OSError:
                    return None

        return at(place, talk)

    def ping(self, place: str | None, address: str, *, patience_s: float = PATIENCE_S) -> bool:
        """Whether one echo request is answered."""
        enter = [] if place is None else ["nsenter", f"--net={place}"]
        command = [*enter, "ping", "-c1", f"-W{patience_s}", "-n", "-q", address]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def at(place: str | None, function: Callable[[], T]) -> T:
    """Call *function* in the namespace at *place*: the sockets it opens stay there."""
    return function() if place is None else netns.run(place, function)


def run(*lines: str, place: str | None = None, check: bool = True) -> str:
    """Run shell lines, each must succeed; what they print."""
    command: Sequence[str] = ["sh", "-ec", "\n".join(lines)]
    if place is not None:
        command = ["nsenter", f"--net={place}", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_BOUND_S)
    if check and done.returncode:
        raise AssertionError(f"{lines}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _are_had(*addresses: str) -> bool:
    """Whether what is sent to addresses of IPv6 is taken here: a work queue sees to that, even
    without DAD, and until then neighbours' answers are lost.
    """
    with open("/proc/thread-self/net/ipv6_route") as file:
        routes = [line.split() for line in file]
    local = {dst for dst, *_, flags, _ in routes if int(flags, 16) & _RTF_LOCAL}
    return local >= {ip_interface(address).ip.packed.hex() for address in addresses}


def _batch(program: str, lines: Iterable[str]) -> str:
    """Lines for one process of ip, as a line of a shell."""
    return "\n".join([f"{program} -batch - <<END", *lines, "END"])


def netkit(line: str, *, code: int = 0) -> str:
    """Run the program `netkit` with the words of *line*; what it prints, or says when it fails."""
    command, env = program(line)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BOUND_S,
        env=env,
    )
    if done.returncode != code:
        raise AssertionError(f"netkit {line}: exit code {done.returncode}: {done.stderr.strip()}")
    return done.stderr if code else done.stdout


def program(line: str) -> tuple[list[str], dict[str, str]]:
    """`netkit LINE` as a command, for this interpreter, and its environment."""
    path = f"{_ROOT}:{os.environ.get('PYTHONPATH', '')}"
    return [*_PROGRAM, *shlex.split(line)], {**os.environ, "PYTHONPATH": path}


def join(engine: Engine, network: str, name: str, *ports: str, **wanted: Any) -> str:
    """Connect a new namespace, with what a Request may want; its place, once frames pass."""
    specs = tuple(spec for text in ports for spec in PortSpec.parse(text))
    return ready(engine.connect(network, request=Request(ports=specs, **wanted), name=name))


def ready(ep: EndpointRecord) -> str:
    """The place of an endpoint, once frames pass: the kernel sees to that soon after connect."""
    port = f"bridge link show dev {ep.host_ifname}"
    assert until(lambda: "state forwarding" in run(port)), run(port)
    assert ep.netns is not None
    return ep.netns


def until(holds: Callable[[], bool], bound_s: float = 3 * PATIENCE_S) -> bool:
    """Wait for *holds*; whether it came true in time."""
    end = time.monotonic() + bound_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def snapshot() -> dict[str, str]:
    """All of the host that netkit could change: links, addresses, routes, rules, sysctls, files."""
    files = []
    for top in ("/etc/netns", netns.NAMED, os.environ["NETKIT_RUN_DIR"]):
        for directory, names, others in os.walk(top):
            files += [f"{directory}/{name}/" for name in names]
            files += [_content(f"{directory}/{name}") for name in others if name != "lock"]
    return {**_host(), "files": "\n".join(sorted(files))}


def _host() -> dict[str, str]:
    found = _told({**_OF_A_NAMESPACE, **_OF_THE_HOST})
    legacy = found.pop("legacy")
    return {**found, "firewall": found["firewall"] + legacy, "sysctls": _sysctls()}


def legacy_rules() -> str:
    """Rules, chains and policies in iptables' own tables, but for the empty ones: those stay."""
    return _told({"legacy": _OF_THE_HOST["legacy"]})["legacy"]


def without_iptables() -> str:
    """Why the iptables back end cannot be tried here; empty where it can."""
    if importlib.util.find_spec("iptc") is None:
        return "python-iptables is not installed: pip install 'netkit-containers[iptables]'"
    if not detection.has_ip_tables():
        return "this kernel lacks iptables' own tables (CONFIG_IP_NF_IPTABLES_LEGACY)"
    return ""


_OF_A_NAMESPACE = {
    "links": "ip -o -d link",
    "addresses": "ip -o addr",
    "routes": "for version in 4 6; do "
    "printf 'route show table all\\nrule\\n' | ip -$version -batch -\ndone",
}
_OF_THE_HOST = {
    "neighbours": "ip neigh show nud permanent",
    "firewall": "nft list ruleset",
    "legacy": "for ip in ip ip6; do "
    "if read _ 2>/dev/null </proc/self/net/${ip}_tables_names; then ${ip}tables-legacy-save; fi\n"
    "done",
}
# what counts by itself, or comes and settles when the kernel finds the time
_PASSING = {
    # indexes, and what a bridge has learnt from its ports
    "links": r"^\d+: |@if\d+| state [A-Za-z]+|[a-z_]*_timer *[\d.]+ *|[gt]so_\w+ *\d+ *|"
    r"link-netns(id)? \S+ *|,?NO-CARRIER,?|,?LOWER_UP|,?M-DOWN",
    # link-local addresses of IPv6; and even without DAD, the routes to the host's own
    "addresses": r"^.* fe80:.*\n|^\d+: ",
    "routes": r"^.*(fe80|ff00):.*\n|^(local [\da-f]*:|anycast ).*\n| linkdown",
    # all but rules, chains and policies
    "legacy": r" \[\d+:\d+\]$|^(?!-A|:.* (-|DROP) ).*\n",
}
_MARK = "-- and then --\n"


def inside(place: str | None) -> dict[str, str]:
    """Links, addresses, routes and sysctls of one namespace."""
    return {**_told(_OF_A_NAMESPACE, place), "sysctls": at(place, _sysctls)}


def _told(commands: Mapping[str, str], place: str | None = None) -> dict[str, str]:
    """What each command prints, by one shell for all, less what passes."""
    told = run(f"\nprintf '%s\\n' '{_MARK[:-1]}'\n".join(commands.values()), place=place)
    return {
        what: re.sub(_PASSING[what], "", text, flags=re.MULTILINE) if what in _PASSING else text
        for what, text in zip(commands, told.split(_MARK), strict=True)
    }


def _content(path: str) -> str:
    """A file's path and text; of a namespace, a proxy's pid and the like, the path."""
    if path.startswith(netns.NAMED) or "/proxy-" in path:
        return path
    try:
        with open(path) as file:
            return f"{path} {file.read()!r}"
    except FileNotFoundError:  # by now: whoever waits for that looks again
        return f"{path} is going"


def _sysctls() -> str:
    """Every readable parameter below net/ but the ones that count by themselves."""
    lines = []
    for directory, _, names in os.walk("/proc/sys/net"):
        if "/neigh/" in directory:
            continue
        for name in names:
            if name in ("nf_conntrack_count", "stable_secret"):
                continue
            path = f"{directory}/{name}"
            with contextlib.suppress(OSError):
                lines.append(f"{path}={_small(path).strip()}")
    return "\n".join(sorted(lines))


def _small(path: str) -> str:
    """A file of less than a page."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.read(fd, 4096).decode(errors="replace")
    finally:
        os.close(fd)


def _answer_tcp(sock: socket.socket, seen: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, (address, *_) = sock.accept()
            # one that has gone by now is no reason not to serve the next
            with client, contextlib.suppress(OSError):
                seen.append(address)
                client.sendall(address.encode())


def _answer_udp(sock: socket.socket, seen: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            _, client = sock.recvfrom(64)
            if client is None:  # it is shut down
                return
            seen.append(client[0])
            with contextlib.suppress(OSError):  # there may be no way to who forged its address
                sock.sendto(client[0].encode(), client)
