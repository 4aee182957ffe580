"""Named namespaces, as `ip netns` knows them."""

from __future__ import annotations

import os

import pytest

from netkit.kernel import mounts, netns
from netkit.kernel.netlink import Netlink
from scenarios.lab import Host, run


def mounted(path: str) -> int:
    """How many mounts there are at *path*, one upon another."""
    with open("/proc/self/mountinfo") as mounts:
        return sum(line.split()[4] == path for line in mounts)


def test_each_name_and_their_directory_is_mounted_once_however_many_there_are(host: Host) -> None:
    for name in ("a", "b", "c"):
        netns.create(name)
    run("ip netns add d")
    paths = [netns.NAMED, *(netns.named(name) for name in "abcd")]
    assert {path: mounted(path) for path in paths} == dict.fromkeys(paths, 1)


def test_a_name_that_is_being_deleted_is_gone(host: Host) -> None:
    """Between its mount and its file, which another process takes away one after the other."""
    netns.create("going")
    path = netns.named("going")
    mounts.umount(path, mounts.MNT_DETACH)
    with pytest.raises(FileNotFoundError):
        netns.run(path, os.getpid)
    with pytest.raises(FileNotFoundError):
        Netlink(path)
    netns.delete("going")
