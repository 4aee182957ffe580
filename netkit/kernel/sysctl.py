"""Kernel parameters: read and written as files below /proc/sys/net.

Shapes   a key with dots, as sysctl(8) takes it; an interface name is a path component of its own
         (`key("net.ipv4.conf", "eth0.5", "forwarding")`), because names may hold dots
Errors   OSError; a parameter this kernel does not have reads as None
Source   Documentation/networking/ip-sysctl.rst. Inside a thread that has joined a namespace,
         /proc/sys/net is that namespace's; /sys and /proc/net are not
"""

from __future__ import annotations

import os

from netkit.kernel import netns

ROOT = "/proc/sys/"


def key(*parts: str) -> str:
    """The path below /proc/sys of a parameter; dots separate, except within the middle parts."""
    head, *rest = parts
    return "/".join([head.replace(".", "/"), *rest])


def read(path: str, at: str | None = None) -> str | None:
    """The parameter's value, or None where this kernel has no such parameter."""

    def get() -> str | None:
        try:
            with open(ROOT + path) as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    return get() if at is None else netns.run(at, get)


def write(path: str, value: str, at: str | None = None) -> None:
    def put() -> None:
        with open(ROOT + path, "w") as file:
            file.write(value)

    put() if at is None else netns.run(at, put)


def each(directory: str, leaf: str) -> dict[str, str]:
    """The parameter *leaf* of everything below *directory*: of every interface, say."""
    paths = [f"{directory}/{name}/{leaf}" for name in sorted(os.listdir(ROOT + directory))]
    return {path: value for path in paths if (value := read(path)) is not None}
