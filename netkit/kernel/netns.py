"""Network namespaces: named ones made and deleted, and code run inside any of them.

Shapes   a namespace is a path: /run/netns/NAME (what `ip netns` knows), /proc/PID/ns/net, any bind
         mount of one
Errors   OSError from the kernel; InvalidSpec for a path that is no network namespace
Source   network_namespaces(7), ioctl_nsfs(2); ip-netns(8) for the directory and its propagation

Sole caller of setns(CLONE_NEWNET). A namespace is entered by a short-lived thread, which ends
there; that takes 70 to 100 us. Any thread but the main one, which a signal may interrupt anywhere,
enters it itself, for 10 us, if it is sure to come back: a daemon's worker, say.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TypeVar

from netkit.errors import InvalidSpec, NetkitError, NotFound
from netkit.kernel import mounts

T = TypeVar("T")

NAMED = "/run/netns"  # iproute2's NETNS_RUN_DIR; /var/run is a link to /run
PINNED = "netkit-"  # so begin the names by which netkit keeps namespaces that hold a device
_INIT = "/proc/1/ns/net"
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
_NS_GET_USERNS, _NS_GET_NSTYPE, _NS_GET_OWNER_UID = 0xB701, 0xB703, 0xB704  # linux/nsfs.h


def run(path: str, function: Callable[[], T]) -> T:
    """Call *function* in a thread that has joined the namespace at *path*."""

    def joined() -> T:
        try:
            mounts.join(path, mounts.CLONE_NEWNET)
        except OSError as error:
            # somebody is deleting it: unmounted, and the plain file below not yet unlinked
            if error.errno == errno.EINVAL and os.path.dirname(path) == NAMED:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise
        return function()

    if threading.current_thread() is threading.main_thread():
        return _in_thread(joined)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not _admits(home):
            return _in_thread(joined)
        try:
            return joined()
        finally:
            _return(home)
    finally:
        os.close(home)


def _admits(home: int) -> bool:
    """Whether a thread that leaves its namespace may come back."""
    try:
        mounts.setns(home, mounts.CLONE_NEWNET)
    except OSError:
        return False
    return True


def _return(home: int) -> None:
    try:
        mounts.setns(home, mounts.CLONE_NEWNET)
    except OSError:  # no memory left: what came next would be done to the wrong machine
        os.abort()


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


def attach(name: str, path: str) -> None:
    """Have `ip netns` know the namespace at *path* as *name*, too: it lives until both are gone."""
    new = named(name)
    _share_directory()
    os.close(os.open(new, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mounts.mount(path, new, None, mounts.MS_BIND)
    except BaseException:
        os.unlink(new)
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
    """Which namespace *path* is: the same namespace by any path says the same.

    As device:inode:cookie, for an inode is given to another namespace as soon as one is gone; a
    cookie never is, while the machine runs. Without it where the kernel has none (before 5.14).
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
        cookie = ""
        with suppress(OSError):
            cookie = f":{run(f'/proc/self/fd/{fd}', _cookie)}"
        return f"{found.st_dev}:{found.st_ino}{cookie}"
    finally:
        os.close(fd)


@cache
def boot() -> str:
    """Which run of the kernel this is: in one, nothing has the same identity as another."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def inhabited(known: str) -> bool:
    """Whether any process is in a namespace, or it is mounted where we can see it.

    Not if by netkit alone: that is no life.
    """
    place = _place(known)
    paths = [f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit()]
    with suppress(OSError), open("/proc/self/mountinfo") as mounted:
        here = (line.split()[4] for line in mounted if f" net:[{place.partition(':')[2]}] " in line)
        paths += [path for path in here if not path.startswith(f"{NAMED}/{PINNED}")]
    for path in paths:
        with suppress(OSError, NetkitError):
            found = os.stat(path)
            if f"{found.st_dev}:{found.st_ino}" == place and identity(path) == known:
                return True
    return False


def owner(path: str) -> int | None:
    """The user whose user namespace governs the namespace at *path*; None: not to be seen here."""
    import fcntl

    uid = bytearray(4)
    with suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            user = fcntl.ioctl(fd, _NS_GET_USERNS)
            try:
                fcntl.ioctl(user, _NS_GET_OWNER_UID, uid)
            finally:
                os.close(user)
        finally:
            os.close(fd)
        return int.from_bytes(uid, sys.byteorder)
    return None


def _place(identity: str) -> str:
    """Device and inode: enough to tell two namespaces apart that both are there."""
    return ":".join(identity.split(":")[:2])


def _cookie() -> int:
    """The number of the namespace the calling thread is in."""
    with socket.socket(socket.AF_UNIX) as sock:
        answer = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        return int.from_bytes(answer, sys.byteorder)


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


def is_hosts(identity: str) -> bool:
    return _place(identity) in hosts()


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
