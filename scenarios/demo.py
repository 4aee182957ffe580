"""The main job, on the real kernel, in a throw-away host: what `make demo` runs.

Every line after `$` is what was typed into one bash, and what stands below is what it printed.
Each line says what it must print; the first that does not ends the demo with exit code 1.

Shapes   a story is a function that types; netkit is run as its users run it, as a program
Needs    root, or a kernel that lets ordinary users make user namespaces; no terminal
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time

from netkit import config
from netkit.errors import NetkitError
from netkit.kernel import lab as throw_away
from scenarios.lab import Host, run, snapshot, without_iptables

_DIRECTORY = "/run/demo"
_BOUND_S = 20.0
_END_NETKITD = 'kill $(cut -d " " -f 1 $NETKIT_RUN_DIR/netkitd.lock)'
_END = "\x1eend of line\x1e"
_BOLD, _DIM, _PLAIN = ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")


class Unexpected(Exception):
    """A line did not do what the story says it does."""


class Shell:
    """A bash that lives as long as the story, so variables and background jobs do too."""

    def __init__(self) -> None:
        os.makedirs(f"{_DIRECTORY}/bin")
        with open(f"{_DIRECTORY}/bin/netkit", "w") as file:
            program = "from netkit.cli import main; main()"
            file.write(f'#!/bin/sh\nexec {sys.executable} -c "{program}" "$@"\n')
            os.fchmod(file.fileno(), 0o755)
        path = f"{_DIRECTORY}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment.pop(config.DAEMON, None)  # names resolve, as they do for whoever types this
        self._env = {**environment, "PATH": path, "LC_ALL": "C.UTF-8"}
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def close(self) -> None:
        """Nothing outlives the story, however it ended: neither jobs nor containers."""
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
        ends = f"netkit ps -aq | xargs -r netkit rm -f; {{ {_END_NETKITD}; }} 2>/dev/null || true"
        subprocess.run(["bash", "-c", ends], env=self._env, stdout=subprocess.DEVNULL, timeout=30)

    def __call__(self, line: str, expect: str = "", *, code: int = 0) -> str:
        """Type *line*, show what it prints; it must match *expect* and end with *code*."""
        print(f"{_BOLD}$ {line}{_PLAIN}", flush=True)
        found, printed = self.ask(line)
        print(printed, end="", flush=True)
        if found != code:
            raise Unexpected(f"`{line}` ended with exit code {found}, not {code}")
        if not re.search(expect, printed, re.MULTILINE):
            raise Unexpected(f"`{line}` did not print /{expect}/")
        return printed

    def ask(self, line: str) -> tuple[int, str]:
        """Type *line* without a word; its exit code, and what it prints."""
        assert self._bash.stdin is not None
        typed = f"{{ {line}\n}} </dev/null; printf '%s%d\\n' '{_END}' $?\n"
        self._bash.stdin.write(typed.encode())
        self._bash.stdin.flush()
        printed, _, code = self._read_until(_END, line).partition(_END)
        return int(code), printed

    def wait_for(self, line: str) -> None:
        """Until *line* succeeds: what was started a moment ago needs a moment."""
        deadline = time.monotonic() + _BOUND_S
        while self.ask(line)[0]:
            if time.monotonic() > deadline:
                raise Unexpected(f"`{line}` did not succeed in {_BOUND_S:.0f} s")
            time.sleep(0.02)

    def _read_until(self, end: str, line: str) -> str:
        assert self._bash.stdout is not None
        deadline, text = time.monotonic() + _BOUND_S, b""
        while not (end.encode() in text and text.endswith(b"\n")):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._bash.stdout], [], [], left)[0]:
                raise Unexpected(f"`{line}` did not end in {_BOUND_S:.0f} s")
            chunk = os.read(self._bash.stdout.fileno(), 65536)
            if not chunk:
                raise Unexpected(f"`{line}` ended the shell")
            text += chunk
        return text.decode(errors="replace")


def say(text: str) -> None:
    """A comment between the lines."""
    filled = textwrap.fill(text, 88, initial_indent="# ", subsequent_indent="# ")
    print(f"\n{_DIM}{filled}{_PLAIN}", flush=True)


def story(sh: Shell) -> None:
    """A network, a web server on it, who may reach it and who may not; and no trace of it."""
    say("A bridge network. As with Docker, the first address is the gateway.")
    sh("netkit network create -d bridge --subnet 172.25.0.0/16 my-net", r"^[0-9a-f]{64}$")
    sh("netkit network ls", r"my-net +bridge +local$")

    say("What would it take to put a namespace on it? --dry-run prints the plan, and does nothing.")
    sh("netkit connect --net my-net --name peek --dry-run", r"^ip link add veth\w+ .* netns peek$")

    say(
        "A web server in a container: network, mount and UTS namespaces of its own, and name files "
        "of its own. Port 8080 is published everywhere, a random UDP port on localhost only."
    )
    sh(
        "netkit run -d --name web --net my-net --ip 172.25.3.3 -p 8080:80 -p 127.0.0.1::80/udp "
        "-h web1 --dns 114.114.114.114 --dns-search .example.com --add-host db:172.25.9.9 "
        f"-- python3 -m http.server 80 --directory {_DIRECTORY}/www",
        r"^[0-9a-f]{64}$",
    )
    sh("netkit ps", r"0\.0\.0\.0:8080->80/tcp, 127\.0\.0\.1:\d+->80/udp +web$")
    sh("netkit port web 80", r"^0\.0\.0\.0:8080$")
    sh("netkit port web 81", r"No public port '81' published for web", code=1)
    files = r"db$(.*\n)*^172\.25\.3\.3\tweb1$(.*\n)*^# .* asks 114\.114\.114\.114$(.*\n)*"
    files += r"^nameserver 172\.25\.0\.1$(.*\n)*^search example\.com$"
    sh("netkit exec web -- cat /etc/hosts /etc/resolv.conf", files)

    say("The host asks it, then a neighbour on the LAN (10.9.0.2; we are 10.9.0.1 to it).")
    get = "curl -s"
    sh.wait_for("curl -s http://172.25.3.3")
    sh(f"{get} http://127.0.0.1:8080", "^hello from web$")
    sh(f"ip netns exec lan {get} http://10.9.0.1:8080", "^hello from web$")

    say(
        "A sibling: connect without a target makes a namespace, and `ip netns` knows it. It finds "
        "the server by its name."
    )
    sh("C=$(netkit connect --net my-net); echo $C", r"^\w+$")
    sh(f"ip netns exec $C {get} http://web", "^hello from web$")

    say("The server's own log: each client came with its real address.")
    seen = r'^10\.9\.0\.2 - (.*\n)*^172\.25\.0\.2 - .*"GET / HTTP/1\.1" 200'
    sh("netkit logs web | tail -n 2", seen)

    say("Which interface of the host is the container's, and Docker's way to get one field.")
    sh("netkit veth web", r"^web +eth0 +veth\w{7} +\d+ +\d+ +my-net$")
    sh("netkit inspect --format '{{.NetworkSettings.IPAddress}}' web", r"^172\.25\.3\.3$")

    say("A second network for the running container: it becomes eth1.")
    sh("netkit network create --subnet 172.26.0.0/24 --internal back", r"^[0-9a-f]{64}$")
    sh("netkit connect --net back web")
    sh("netkit exec web -- ip -br -4 addr", r"^eth0@.* 172\.25\.3\.3/16(.*\n)*^eth1@.* 172\.26\.")

    say("Any process that has a network namespace can be connected; here is one.")
    sh("unshare --net sleep 60 & P=$!; echo $P", r"^\d+$")
    sh.wait_for("[ $(readlink /proc/$P/ns/net) != $(readlink /proc/$$/ns/net) ]")
    sh("netkit connect --net my-net pid:$P")
    sh(f"nsenter --net=/proc/$P/ns/net {get} http://172.25.3.3", "^hello from web$")

    say("An attack: the sibling claims the gateway's address, to get what the web server sends.")
    ours = _gateway_mac(sh)
    sh("ip netns exec $C ip addr add 172.25.0.1/32 dev eth0")
    sh("ip netns exec $C busybox arping -c 1 -U -I eth0 172.25.0.1", r"^Sent 1 probe")
    if _gateway_mac(sh) != ours:
        raise Unexpected("the sibling has taken the gateway's place")
    say("Not believed: the bridge port let nothing but its own MAC and address pass.")

    say("Another: the neighbour routes past the published port, straight to the container.")
    sh("ip netns exec lan ip route add 172.25.0.0/16 via 10.9.0.1")
    sh("ip netns exec lan curl -sS -m 0.5 http://172.25.3.3", "timed out", code=28)
    sh(f"ip netns exec lan {get} http://10.9.0.1:8080", "^hello from web$")
    say("Only what is published is open. And all is still as netkit made it:")
    sh("netkit check", r"\A\Z")

    say("Both IP versions, and no bridge: with the driver veth the host routes to each container.")
    sh("netkit network create -d veth --subnet 172.27.0.0/24 --subnet fd00:27::/64 both >/dev/null")
    httpd = f"busybox httpd -f -p 80 -h {_DIRECTORY}/www"
    sh(f"netkit run -d --name six --net both -p 8090:80 -- {httpd}", r"^[0-9a-f]{64}$")
    sh("netkit port six", r"^80/tcp -> 0\.0\.0\.0:8090\n80/tcp -> \[::\]:8090$")
    sh.wait_for("curl -s http://[fd00:27::2]")
    sh(f"ip netns exec lan {get} http://[2001:db8:9::1]:8090", "^hello from web$")

    say("A wire between two containers, of no network. Nobody named addresses, so it has a pair.")
    sh("netkit link --name wire web $C", r"^  web/eth2 10\.254\.0\.0/31$")
    sh(f"ip netns exec $C {get} http://10.254.0.0", "^hello from web$")

    if reason := without_iptables():
        say(f"The firewall can be moved to iptables and back; not here: {reason}.")
    else:
        say("All rules to the other firewall and back, while everything runs.")
        sh("netkit firewall use iptables && nft list tables", r"\A(?!.*netkit)")
        sh("iptables-legacy -t nat -S | grep -- --to-destination", "172.25.3.3:80$")
        sh(f"ip netns exec lan {get} http://10.9.0.1:8080", "^hello from web$")
        sh("netkit firewall use nftables && netkit check", r"\A(?!.*lacks)")

    say("Take it all apart again. A network in use is not removed by mistake.")
    sh("netkit network rm my-net", "has active endpoints: web, ", code=1)
    sh("netkit link rm wire", "^wire$")
    sh("netkit disconnect --net my-net pid:$P; kill $P")
    sh("netkit disconnect --net my-net $C")
    sh("netkit disconnect --net back web")
    sh("netkit rm -f web six", r"\Aweb\nsix\n\Z")
    sh("netkit network rm my-net back both", r"\Amy-net\nback\nboth\n\Z")

    say("netkitd answered for names. With nobody left to ask it ends by itself; here it is now.")
    sh(_END_NETKITD)
    sh.wait_for("! [ -e $NETKIT_RUN_DIR/netkitd.sock ]")
    sh("rm $NETKIT_RUN_DIR/netkitd.*")


def _gateway_mac(sh: Shell) -> str:
    """Where the web server would send what is meant for the gateway."""
    shown = sh("netkit exec web -- ip neigh show 172.25.0.1", r"lladdr [0-9a-f:]{17}")
    return shown.partition("lladdr ")[2][:17]


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """What is no longer as it was, line by line."""
    changed = []
    for kind, text in before.items():
        was, now = set(text.splitlines()), set(after[kind].splitlines())
        if kind == "sysctls":  # a module loaded meanwhile brings some of its own
            known = {line.partition("=")[0] for line in was}
            now = {line for line in now if line.partition("=")[0] in known}
        changed += [f"{kind}: - {line}" for line in was - now]
        changed += [f"{kind}: + {line}" for line in now - was]
    return changed


def perform() -> None:
    """The story on a host of its own, and the proof that nothing is left of it."""
    with Host() as host:
        host.neighbour("lan", "10.9.0.1/24", "10.9.0.2/24")
        run(
            "ip addr add 2001:db8:9::1/64 dev lan0 nodad",
            "ip addr add fe80::1/64 dev lan0 nodad",  # a router asks for neighbours by it
            "ip -n lan addr add 2001:db8:9::2/64 dev eth0 nodad",
        )
        os.makedirs(f"{_DIRECTORY}/www")
        with open(f"{_DIRECTORY}/www/index.html", "w") as file:
            file.write("hello from web\n")
        before = snapshot()
        sh = Shell()
        try:
            story(sh)
            say("What is left of it on this host: no link, no firewall rule.")
            sh("ip -br link", r"^lan0@")
            sh("nft list ruleset", r"\A\Z")
            if changed := differences(before, snapshot()):
                raise Unexpected("the host is not as before:\n" + "\n".join(changed))
            say(f"Compared before and after, and equal: {', '.join(before)}.")
        finally:
            sh.close()


def main() -> int:
    begun = time.monotonic()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    try:
        throw_away.enter()
        perform()
    except NetkitError as error:
        print(f"demo: {error}: {getattr(error, 'hint', '')}", file=sys.stderr)
        return 1
    except Unexpected as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    took = time.monotonic() - begun
    print(f"\nDone in {took:.0f} s. To try it by hand: .venv/bin/netkit unshare -- bash")
    return 0


if __name__ == "__main__":
    sys.exit(main())
