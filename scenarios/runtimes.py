"""Real container runtimes: podman on its CNI back end, and containerd through its CRI socket.

    with Node(host) as node:
        node.install("reference")
        podman = Podman(node)
        podman.run("a", "-p", "8080:80")
        assert host.ask(lan, "10.9.0.1", 8080) == "a"

A node is the network of the calling process, with mounts and processes of its own: /run, /var/lib
and /opt are empty, what the runtimes start is all below one init, and its end is the end of it all.

Shapes   a container answers on TCP port 80 with its name; its file system is busybox
Source   RuntimeService of CRI's api.proto (v1), for containerd's socket; containers.conf(5);
         containerd's docs/cri/config.md
Needs    crun, whose --cgroup-manager=disabled makes any of this possible without cgroups
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from scenarios.lab import Host, inside, legacy_rules, program, run, until

BIN_DIR = "/opt/cni/bin"  # where `ctr` looks, and nothing can tell it otherwise
NET_DIR = "/etc/cni/net.d"
REFERENCE = "/usr/lib/cni"  # Debian's containernetworking-plugins
IMAGE = "netkit.test/busybox:1"
SERVE = ("/bin/nc", "-ll", "-p", "80", "-e", "/bin/hostname")
_APPLETS = ("cat", "hostname", "ip", "nc", "nslookup", "ping", "sh", "sleep")
_BOUND_S = 30.0

# $1, of the host, is the one thing of /run that stays. podman shares /run/netns if nobody has, and
# would mount a second time what containerd has there. An init that ignores the ends of its children
# buries them, and one that reads until the other end closes outlives nobody
_INIT = """set -e
mount -t tmpfs tmpfs /opt
mkdir -p /opt/keep /etc/cni
mount --bind "$1" /opt/keep
for top in /run /var/lib /etc/cni /dev/shm /sys/fs/cgroup; do mount -t tmpfs tmpfs $top; done
mkdir -p "$1" /run/netns /run/home /run/tmp /etc/cni/net.d
mount --move /opt/keep "$1"
rmdir /opt/keep
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
echo ready
exec env --ignore-signal=CHLD cat
"""
# without cgroups, and without the group tty where a user namespace knows one user only
_CRUN = """#!/bin/sh
for word; do
    case $before in -b|--bundle) sed -i 's/,"gid=5"//' "$word/config.json" ;; esac
    before=$word
done
exec crun --cgroup-manager=disabled "$@"
"""
_CONTAINERS_CONF = """
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
[network]
network_backend = "cni"
network_config_dir = "{net_dir}"
cni_plugin_dirs = ["{bin_dir}"]
[engine]
env = {env}
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
runtime = "crun"
[engine.runtimes]
crun = ["{crun}"]
"""
_STORAGE_CONF = """
[storage]
driver = "vfs"
runroot = "/run/containers/storage"
graphroot = "/var/lib/containers/storage"
"""
_CONTAINERD_CONF = """
version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{image}"
  disable_tcp_service = true
  disable_cgroup = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{bin_dir}"
    conf_dir = "{net_dir}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "{crun}"
"""

# how many of what; leases are files, as the reference plugins' are
_RECORDS = """
import os, sqlite3
if os.path.exists("/var/lib/netkit/state.db"):
    store = sqlite3.connect("/var/lib/netkit/state.db")
    print(store.execute("SELECT kind, count(*) FROM record GROUP BY kind").fetchall())
"""


class Node:
    """Mounts and processes of their own on the network of *host*."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.plugins = ""
        self.variables: dict[str, str] = {}  # of the environment of all that runs there
        self.crun = self.write("crun", _CRUN, mode=0o755)
        self.rootfs = f"{host.base}/rootfs"
        for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp"):
            os.makedirs(f"{self.rootfs}/{name}")
        shutil.copy("/bin/busybox", f"{self.rootfs}/bin")
        for name in _APPLETS:
            os.symlink("busybox", f"{self.rootfs}/bin/{name}")

    def __enter__(self) -> Self:
        self._init = subprocess.Popen(
            [
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", _INIT, "init", self.host.base),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._init.stdout is not None
        said = self._init.stdout.readline()
        assert said == "ready\n", said + self._init.communicate(timeout=_BOUND_S)[0]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._init.communicate(timeout=_BOUND_S)  # its input ends, it ends, and with it all

    def ask(self, place: str | None, address: str, port: int) -> str | None:
        """The name of the container that answers there; None: none did."""
        answer = self.host.ask(place, address, port)
        return None if answer is None else answer.strip()

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run a program on the node, to its end, good or bad."""
        namespaces = f"/proc/{self._init.pid}/ns"
        enter = ("nsenter", f"--mount={namespaces}/mnt", f"--pid={namespaces}/pid_for_children")
        return subprocess.run(
            [*enter, *words],
            input=stdin,
            capture_output=True,
            timeout=_BOUND_S,
            env=self._environment(),
        )

    def call(self, *words: str, check: bool = True) -> str:
        """Run a program on the node, which must succeed; what it prints."""
        done = self.run(*words)
        if check and done.returncode:
            text = done.stderr.decode(errors="replace").strip()
            raise AssertionError(f"{words}: exit code {done.returncode}: {text}")
        return done.stdout.decode()

    def outside(self, path: str) -> str:
        """A path of the node, as this process may open it."""
        # an absolute link, /var/run, would lead out of there
        path = path.replace("/var/run/", "/run/", 1)
        return f"/proc/{self._init.pid}/root{path}"

    def state(self) -> dict[str, str]:
        """All that plugins may leave behind: of the kernel, as files, in netkit's store."""
        rules = run("nft --stateless list ruleset")
        places = ("/etc/cni", "/run/cni", "/run/netkit", "/run/netns")
        others = ("-not", "-name", "netkitd.*", "-not", "-name", "cni.lock")  # podman's
        files = self.call("find", *places, "/var/lib/cni", *others, check=False)
        store = self.call(sys.executable, "-ISc", _RECORDS)
        return {**inside(None), "rules": rules + legacy_rules(), "files": files, "store": store}

    def write(self, name: str, text: str, *, mode: int = 0o644) -> str:
        """Write a file where both see it; its path."""
        path = f"{self.host.base}/{name}"
        with open(path, "w") as file:
            file.write(text)
        os.chmod(path, mode)
        return path

    def install(self, plugins: str) -> None:
        """Have *plugins*, "reference" or "netkit", be the ones; under the runtimes' feet."""
        self.plugins = plugins
        self.call("sh", "-c", f"rm -rf {BIN_DIR} && mkdir -p {BIN_DIR}")
        if plugins == "reference":
            self.call("sh", "-c", f"cp -s {REFERENCE}/* {BIN_DIR}")
        else:
            self.netkit(f"cni install --bin-dir {BIN_DIR}")

    def netkit(self, line: str) -> str:
        """Run the program `netkit` with the words of *line*; what it prints."""
        command, env = program(line)
        return self.call("env", f"PYTHONPATH={env['PYTHONPATH']}", *command)

    def _environment(self) -> dict[str, str]:
        """Ours, but netkit's own places are the usual ones, which are the node's alone."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("NETKIT_")}
        base = self.host.base
        return {
            **kept,
            **self.variables,
            "HOME": "/run/home",
            "XDG_RUNTIME_DIR": "/run/home",
            "TMPDIR": "/run/tmp",
            "CONTAINERS_CONF": f"{base}/containers.conf",
            "CONTAINERS_STORAGE_CONF": f"{base}/storage.conf",
            "CONTAINERD_ADDRESS": f"{base}/containerd.sock",
        }


class Podman:
    """podman on CNI, its containers told apart by name."""

    def __init__(self, node: Node) -> None:
        self.node = node
        # what cleans up after a container has no environment but this
        env = json.dumps([f"{name}={value}" for name, value in node.variables.items()])
        conf = _CONTAINERS_CONF.format(net_dir=NET_DIR, bin_dir=BIN_DIR, crun=node.crun, env=env)
        node.write("containers.conf", conf)
        node.write("storage.conf", _STORAGE_CONF)

    def __call__(self, *words: str, check: bool = True) -> str:
        """`podman WORDS`; what it prints."""
        return self.node.call("podman", *words, check=check).strip()

    def run(self, name: str, *options: str) -> None:
        """Start a container that serves."""
        self(
            *("run", "--detach", "--name", name, "--hostname", name, *options),
            *("--rootfs", self.node.rootfs, *SERVE),
        )
        self.wait(name)

    def again(self, name: str) -> None:
        """Stop and start a container."""
        self("restart", "--time", "0", name)
        self.wait(name)

    def remove(self, *names: str) -> None:
        self("rm", "--force", "--time", "0", *names)

    def inspect(self, name: str) -> dict[str, Any]:
        """Its networks by name: IPAddress, IPPrefixLen, MacAddress, Gateway ..."""
        found: list[dict[str, Any]] = json.loads(self("inspect", name))
        networks: dict[str, Any] = found[0]["NetworkSettings"]["Networks"]
        return networks

    def place(self, name: str) -> str:
        """Its network namespace, as this process may open it."""
        path = self("inspect", "--format", "{{.NetworkSettings.SandboxKey}}", name)
        return self.node.outside(path)

    def wait(self, name: str) -> None:
        """Until it listens: so what comes after is the network's doing."""
        place = self.place(name)
        assert until(lambda: self.node.ask(place, "127.0.0.1", 80) == name)


class Containerd:
    """containerd as a kubelet sees it: pods of one container that is the pod's own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        conf = _CONTAINERD_CONF.format(
            net_dir=NET_DIR, bin_dir=BIN_DIR, crun=node.crun, image=IMAGE
        )
        self._conf = node.write("containerd.toml", conf)
        self._socket = f"{node.host.base}/containerd.sock"
        self.start()
        image = f"{node.host.base}/image.tar"
        _pack(node.rootfs, image)
        self.ctr("images", "import", "--snapshotter", "native", image)

    def start(self) -> None:
        line = f"containerd --config {self._conf} --address {self._socket}"
        log = f"{self.node.host.base}/containerd.log"
        self._pid = self.node.call("sh", "-c", f"{line} >{log} 2>&1 & echo $!").strip()
        assert until(lambda: os.path.exists(self._socket))
        assert until(lambda: self.node.call("ctr", "version", check=False) != "")

    def kill(self) -> None:
        """End containerd at once; its containers run on."""
        self.node.call("kill", "-9", self._pid)
        assert until(lambda: not os.path.exists(self.node.outside(f"/proc/{self._pid}")))
        os.unlink(self._socket)

    def configure(self, conflist: Mapping[str, Any]) -> None:
        """Have *conflist* be the network of all pods."""
        path = self.node.write("net.conflist", json.dumps(conflist))
        self.node.call("cp", path, NET_DIR)
        ready = message((1, "NetworkReady"), (2, 1))
        assert until(lambda: ready in self._call("Status", b""))

    def ctr(self, *words: str) -> str:
        return self.node.call("ctr", "--namespace", "k8s.io", *words)

    def run(self, name: str, *ports: tuple[str, int, int]) -> str:
        """Start a pod; its id. *ports*: protocol, the pod's port, the host's."""
        mapped = (
            message((1, PROTOCOLS.index(protocol)), (2, inner), (3, outer))
            for protocol, inner, outer in ports
        )
        config = message(
            (1, message((1, name), (2, f"{name}-uid"), (3, "default"))),
            (2, name),
            *((5, port) for port in mapped),
            (8, b""),
        )
        pod = dict(fields(self._call("RunPodSandbox", message((1, config)))))[1].decode()
        place = self.place(pod)
        assert until(lambda: self.node.ask(place, "127.0.0.1", 80) == name)
        return pod

    def info(self, pod: str) -> dict[str, Any]:
        """What containerd tells of a pod: pid, runtimeSpec, cniResult ..."""
        answer = self._call("PodSandboxStatus", message((1, pod), (2, 1)))
        for number, value in fields(answer):
            if number == 2 and (entry := dict(fields(value)))[1] == b"info":
                found: dict[str, Any] = json.loads(entry[2])
                return found
        raise AssertionError(answer)

    def addresses(self, pod: str) -> list[str]:
        """The pod's addresses, as the kubelet is told them."""
        status = dict(fields(self._call("PodSandboxStatus", message((1, pod)))))[1]
        network = fields(dict(fields(status))[5])
        return [(v if n == 1 else dict(fields(v))[1]).decode() for n, v in network]

    def netns(self, pod: str) -> str:
        """The path of its network namespace, on the node."""
        namespaces: list[dict[str, str]] = self.info(pod)["runtimeSpec"]["linux"]["namespaces"]
        return next(ns["path"] for ns in namespaces if ns["type"] == "network")

    def place(self, pod: str) -> str:
        """Its network namespace, as this process may open it."""
        return self.node.outside(self.netns(pod))

    def remove(self, *pods: str) -> None:
        for pod in pods:
            self._call("StopPodSandbox", message((1, pod)))
            self._call("RemovePodSandbox", message((1, pod)))

    def _call(self, method: str, request: bytes) -> bytes:
        """One call of gRPC, which is HTTP/2 with a frame of five bytes and a status at the end."""
        framed = b"\0" + len(request).to_bytes(4, "big") + request
        done = self.node.run(
            *("curl", "-sS", "--http2-prior-knowledge", "--unix-socket", self._socket),
            *("--header", "content-type: application/grpc", "--header", "te: trailers"),
            *("--dump-header", "/dev/stderr", "--data-binary", "@-"),
            f"http://localhost/runtime.v1.RuntimeService/{method}",
            stdin=framed,
        )
        assert b"grpc-status: 0" in done.stderr, f"{method}: {done.stderr.decode()}"
        return done.stdout[5:]


PROTOCOLS = ("tcp", "udp", "sctp")


def message(*parts: tuple[int, bytes | str | int]) -> bytes:
    """A message of protocol buffers: numbers and what they stand for."""
    out = b""
    for number, value in parts:
        if isinstance(value, int):
            out += _varint(number << 3) + _varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += _varint(number << 3 | 2) + _varint(len(value)) + value
    return out


def fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a message that are strings or messages; numbers are left out."""
    stream = io.BytesIO(data)
    while stream.tell() < len(data):
        key, value = _number(stream), _number(stream)
        if key & 7:
            yield key >> 3, stream.read(value)


def _varint(value: int) -> bytes:
    head = b""
    while value > 127:
        head += bytes([value & 127 | 128])
        value >>= 7
    return head + bytes([value])


def _number(stream: io.BytesIO) -> int:
    value = shift = 0
    while (byte := stream.read(1)[0]) > 127:
        value |= (byte & 127) << shift
        shift += 7
    return value | byte << shift


def _pack(rootfs: str, path: str) -> None:
    """Write a directory as an image of one layer, in the form of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(rootfs, ".")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": {"Cmd": SERVE, "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    with tarfile.open(path, "w") as tar:
        for name, content in (
            ("layer.tar", layer.getvalue()),
            ("config.json", json.dumps(config).encode()),
            ("manifest.json", json.dumps(manifest).encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
