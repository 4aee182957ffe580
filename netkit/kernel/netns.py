"""Network namespaces: named ones made and deleted, and code run inside any of them.

Shapes   a namespace is a path: /run/netns/NAME (what `ip netns` knows), /proc/PID/ns/net, any bind
         mount of one
Errors   OSError from the kernel; InvalidSpec for a path that is no network namespace
Source   network_namespaces(7), ioctl_nsfs(2); ip-netns(8) for the directory and its propagation

Sole caller of setns(CLONE_NEWNET). A namespace is entered by a short-lived thread, never by the
caller's own thread: a thread that fails half-way dies and takes its namespace with it.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from netkit.errors import InvalidSpec, NotFound
from netkit.kernel import mounts

T = TypeVar("T")

NAMED = "/run/netns"  # iproute2's NETNS_RUN_DIR; /var/run is a link to /run
_INIT = "/proc/1/ns/net"
_NS_GET_NSTYPE = 0xB703  # _IO(0xb7, 0x3), linux/nsfs.h


def run(path: str, function: Callable[[], T]) -> T:
    """Call *function* in a thread that has joined the namespace at *path*."""

    def joined() -> T:
        mounts.join(path, mounts.CLONE_NEWNET)
        return function()

    return _in_thread(joined)


def create(name: str) -> None:
    """Make the namespace `ip netns` will know as *name*; FileExistsError if there is one."""
    path = named(name)
    _share_directory()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))

    def keep() -> None:
        mounts.unshare(mounts.CLONE_NEWNET)
        mounts.mount("/proc/thread-self/ns/net", path, None, mounts.MS_BIND)

    try:
        _in_thread(keep)
    except BaseException:
        os.unlink(path)
        raise


def _in_thread(function: Callable[[], T]) -> T:
    """A thread of its own: what it joins or unshares ends with it."""
    done: list[T] = []
    failed: list[BaseException] = []

    def target() -> None:
        try:
            done.append(function())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=target, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]


def delete(name: str) -> None:
    """Delete a named namespace; one that is already gone is as good as deleted."""
    path = named(name)
    try:
        mounts.umount(path, mounts.MNT_DETACH)
    except OSError as error:
        # EINVAL: a plain file, left by a crash between the file and its mount
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
    with suppress(FileNotFoundError):
        os.unlink(path)


def named(name: str) -> str:
    """The path of the namespace `ip netns` knows as *name*."""
    return f"{NAMED}/{name}"


def identity(path: str) -> str:
    """Which namespace *path* is, as device:inode; the same namespace by any path says the same.

    Refuses, without ever blocking, whatever is not a network namespace: a FIFO is opened with
    O_NONBLOCK, a device is not opened at all.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _no_netns(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(
            f"no network namespace at {path!r}", hint="`ip netns list` and /proc show them"
        ) from None
    except OSError as error:
        raise InvalidSpec(
            f"cannot open network namespace {path!r}: {error.strerror}",
            hint="give /proc/PID/ns/net, or a name that `ip netns list` shows",
        ) from None
    try:
        import fcntl

        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != mounts.CLONE_NEWNET:
            raise _no_netns(path)
        found = os.fstat(fd)
        return f"{found.st_dev}:{found.st_ino}"
    finally:
        os.close(fd)


def _no_netns(path: str) -> InvalidSpec:
    return InvalidSpec(
        f"{path!r} is not a network namespace",
        hint="give /proc/PID/ns/net, or a name that `ip netns list` shows",
    )


def hosts() -> set[str]:
    """The namespaces that are a host's: netkit's own, and that of the machine's first process."""
    found = {own()}
    with suppress(OSError):
        init = os.stat(_INIT)
        found.add(f"{init.st_dev}:{init.st_ino}")
    return found


def own() -> str:
    """The identity of the namespace netkit itself runs in: the host, as netkit sees it."""
    found = os.stat("/proc/self/ns/net")
    return f"{found.st_dev}:{found.st_ino}"


def _share_directory() -> None:
    """Make /run/netns a shared mount, as ip-netns does: new names appear in every mount ns."""
    os.makedirs(NAMED, mode=0o755, exist_ok=True)
    try:
        # os.path.ismount is blind to a directory bound onto itself; the kernel is not
        mounts.mount(None, NAMED, None, mounts.MS_SHARED)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mounts.mount(NAMED, NAMED, None, mounts.MS_BIND | mounts.MS_REC)
        mounts.mount(None, NAMED, None, mounts.MS_SHARED | mounts.MS_REC)
