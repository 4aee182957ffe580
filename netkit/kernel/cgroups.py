"""Containers as the cgroups of their processes show them, whichever engine started them.

Shapes   a container is its engine's id for it, 64 hex digits, or LXC's name; its processes come
         with their start times, in clock ticks since boot, the first one first
Source   cgroups(7), /proc/PID/cgroup of version 1 (a line a hierarchy) and 2 (one line, "0::").
         The directories' names are the engines' own: Docker and nerdctl with cgroupfs or systemd,
         libpod, CRI-O and containerd's CRI plugin, LXC 2 to 6

What watches a container from outside has a cgroup too, and is not meant: libpod-conmon-ID.scope,
lxc.monitor.NAME. Anybody who may make cgroups can give one such a name, so whoever uses what is
found here looks at whose namespace it is (netns.owner).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from netkit.kernel.pids import Process

_ID = r"([0-9a-f]{64})(?:\.scope)?(?=/|$)"
_DIRECTORIES = {
    "docker": rf"/(?:docker-)?{_ID}",
    "podman": rf"/libpod-{_ID}",
    "lxc": r"/(?:lxc/|lxc\.payload[./])([^/\n]+)",
    # "…slice:cri-containerd:ID" is what the systemd driver's name for it looks like to cgroupfs
    "containerd": rf"/(?:[^/\n]*:)?(?:(?:cri-containerd|nerdctl)[-:])?{_ID}",
    "cri": rf"/(?:[^/\n]*:)?(?:(?:cri-containerd|crio)[-:])?{_ID}",
}
_MOST = 1 << 20


def containers(engine: str, proc: str = "/proc") -> dict[str, list[Process]]:
    """Every container of *engine* that has a process."""
    found: dict[str, list[Process]] = {}
    directory = re.compile(_DIRECTORIES[engine], re.MULTILINE)
    for pid in processes(proc):
        ids = {*directory.findall(read(f"{proc}/{pid}/cgroup").decode("latin-1"))}
        if ids and (start_time := _start_time(read(f"{proc}/{pid}/stat"))):
            for id in ids:
                found.setdefault(id, []).append(Process(pid, start_time))
    for members in found.values():
        members.sort(key=lambda process: (process.start_time, process.pid))
    return found


def processes(proc: str = "/proc") -> Iterator[int]:
    return (int(name) for name in os.listdir(proc) if name.isascii() and name.isdigit())


def read(path: str) -> bytes:
    """A small file whole; nothing, if it is gone, not ours to read, or no file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return file.read(_MOST)
    except OSError:
        return b""


def _start_time(stat: bytes) -> int:
    fields = stat.rpartition(b")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in b"ZX" else 0
