"""Mounts: what a process sees at a path, changed for that process alone.

One idea carries the module: a *tree* is a mount that hangs nowhere yet, held by an fd. `clone`
takes one from a path, `fresh` from a file system type; `attach` hangs it onto an fd that was
resolved before. So nothing is resolved twice, and a symlink swapped meanwhile changes nothing.

Shapes   a tree, a root, a place: O_PATH fds, close-on-exec; a target is a path below a root
Errors   OSError with errno and the path (or the call) as filename; NetkitError in inject, eject
Source   open_tree(2), move_mount(2), openat2(2), pivot_root(2); man 8 ip-netns for /sys
Needs    Linux 5.6. bind, new_root and show_netns_in_sys want a mount namespace of one's own whose
         mounts are private or slave; they leave fds open, for the exec that follows to close
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from netkit.errors import Conflict, KernelRefused, NotFound

if TYPE_CHECKING:
    import ctypes

CLONE_FS, CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWNET = 0x200, 0x20000, 0x4000000, 0x40000000
CLONE_NEWUSER = 0x10000000
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE, MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 19, 1 << 20
MNT_DETACH = 2
AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x100, 0x1000, 0x8000
OPEN_TREE_CLONE = 1
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10

# the calls libc has no wrapper for; their numbers are the same on every architecture but alpha
_NUMBERS = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "openat2": 437,
}  # fmt: skip
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40  # from an fd, to an fd
_FSCONFIG_SET_STRING, _FSCONFIG_CREATE = 1, 6


@lru_cache
def load() -> ctypes.CDLL:
    """The C library; called before a fork or a thread that must not import."""
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def libc(name: str, *args: int | bytes | None, about: str = "") -> int:
    """Call the C function or system call *name*; a negative answer is raised as OSError."""
    library = load()
    import ctypes

    number = _NUMBERS.get(name)
    words = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    if number is None:
        result = getattr(library, name)(*words)
    else:
        result = library.syscall(ctypes.c_long(number), *words)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), about or name)
    return int(result)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None
) -> None:
    path = os.fsencode(target)
    libc("mount", _bytes(source), path, _bytes(fstype), flags, _bytes(data), about=target)


def umount(target: str, flags: int = 0) -> None:
    libc("umount2", os.fsencode(target), flags, about=target)


def pivot_root(new_root: str, put_old: str) -> None:
    libc("pivot_root", os.fsencode(new_root), os.fsencode(put_old), about=new_root)


def unshare(flags: int) -> None:
    libc("unshare", flags)


def setns(fd: int, kinds: int, about: str = "setns") -> None:
    libc("setns", fd, kinds, about=about)


def open_tree(directory: int, path: str, flags: int) -> int:
    return libc("open_tree", directory, os.fsencode(path), flags | os.O_CLOEXEC, about=path)


def openat2(directory: int, path: str, flags: int, mode: int, resolve: int) -> int:
    how = b"".join(n.to_bytes(8, sys.byteorder) for n in (flags | os.O_CLOEXEC, mode, resolve))
    return libc("openat2", directory, os.fsencode(path), how, len(how), about=path)


def join(path: str, kind: int) -> None:
    """Enter the namespace at *path*."""
    namespace = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # non-blocking: it may be a FIFO
    try:
        setns(namespace, kind, path)
    finally:
        os.close(namespace)


def clone(path: str) -> int:
    """The tree at *path* with all that is mounted below it."""
    return open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | AT_RECURSIVE)


def fresh(fstype: str, flags: int = 0, **options: str) -> int:
    """A new file system; *flags* are statvfs's ST_RDONLY … ST_NOEXEC."""
    context = libc("fsopen", fstype.encode(), 1, about=fstype)
    try:
        for key, value in options.items():
            words = key.encode(), value.encode()
            libc("fsconfig", context, _FSCONFIG_SET_STRING, *words, 0, about=f"{fstype} {key}")
        libc("fsconfig", context, _FSCONFIG_CREATE, None, None, 0, about=fstype)
        return libc("fsmount", context, 1, flags, about=fstype)
    finally:
        os.close(context)


def attach(tree: int, onto: int) -> None:
    """Hang *tree* onto the place *onto*; the fd *tree* stays a way into it."""
    libc("move_mount", tree, b"", onto, b"", _MOVE_MOUNT_EMPTY_PATHS)


def resolve(root: int, path: str, flags: int = os.O_PATH) -> int:
    """Open *path* with *root* as its "/": no symlink, however often swapped, leads out of it."""
    for _ in range(1000):
        try:
            return openat2(root, path, flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except BlockingIOError:  # EAGAIN: a rename raced with a "..", so the kernel could not tell
            continue
    raise OSError(errno.EAGAIN, "the path keeps being renamed", path)


def bind(source: str, root: int, target: str, *, create: bool) -> None:
    """Show the host's *source* at *target* below *root*.

    A missing target is made if *create* says so. Otherwise, and where a dangling symlink is in the
    way, its directory is covered by a look-alike: what lies below stays as it is.
    """
    tree = clone(source)
    attach(tree, _place(root, os.path.normpath(target), _is_dir(tree), create))


def new_root(rootfs: str) -> int:
    """The directory *rootfs* as a mount, with the host's /dev, /proc and /sys in it."""
    directory = os.open(rootfs, os.O_PATH | os.O_DIRECTORY)
    root = open_tree(directory, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH)
    attach(root, directory)
    for path in ("/dev", "/proc", "/sys"):
        attach(clone(path), _make_dirs(root, path))
    return root


def show_netns_in_sys(root: int) -> None:
    """Mount a sysfs of our network namespace at /sys, keeping the cgroups.

    Where the kernel refuses (a user namespace that saw only part of /sys), the old one stays.
    """
    try:
        sysfs = fresh("sysfs", os.statvfs("/sys").f_flag & 0xF)  # the same flags, or EPERM
        cgroups = clone("/sys/fs/cgroup")
        attach(sysfs, resolve(root, "/sys"))
    except (PermissionError, FileNotFoundError):
        return
    attach(cgroups, resolve(root, "/sys/fs/cgroup"))


def pivot(root: int) -> None:
    """Make *root* "/" and let go of the old one."""
    os.fchdir(root)
    pivot_root(".", ".")  # the old root lands on top of the new one: no directory for it needed
    umount(".", MNT_DETACH)
    os.chdir("/")


def inject(mntns: str, source: str, target: str) -> bool:
    """Bind our *source* over *target* in another mount namespace (`/proc/PID/ns/mnt`).

    False: it is there already. *source* is known by its inode: rewrite it in place, never replace
    it, and remove it after eject.
    """
    known, tree = _source(source), clone(source)

    def work(proc: int, place: int) -> bool:
        if os.path.samestat(os.fstat(place), known):
            return False
        if _is_shared(proc, place):
            raise Conflict(
                f"cannot mount over {target} in {mntns}: its mounts propagate to other namespaces",
                hint="start that process with private or slave mounts, as `unshare -m` does",
            )
        attach(tree, place)
        return True

    try:
        return _within(mntns, target, work, f"mount --bind {source} {target}")
    finally:
        os.close(tree)


def eject(mntns: str, source: str, target: str) -> bool:
    """Undo inject; False where the topmost mount at *target* is not *source*, or all is gone."""
    known = _source(source)

    def work(proc: int, place: int) -> bool:
        if not os.path.samestat(os.fstat(place), known):
            return False
        os.fchdir(proc)  # umount takes no fd, and the /proc in there may not know us
        try:
            umount(f"thread-self/fd/{place}", MNT_DETACH)
        except OSError as refused:
            if refused.errno == errno.EINVAL:  # the file itself, not a mount of it
                return False
            raise
        return True

    try:
        return _within(mntns, target, work, f"umount {target}")
    except NotFound:
        return False


def _source(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise NotFound(f"cannot bind {path}: {error.strerror}") from error


def _within(mntns: str, target: str, work: Callable[[int, int], bool], step: str) -> bool:
    """Run *work*, given our /proc and the opened *target*, in a helper thread inside *mntns*.

    *work* must import nothing: Python would look for the module among that namespace's files.
    """
    import threading

    fds: list[int] = []
    outcome: list[bool | BaseException] = []

    def thread() -> None:
        try:
            unshare(CLONE_FS)  # a root and cwd of its own: the other threads keep theirs
            setns(fds[1], CLONE_NEWNS, mntns)
            fds.append(os.open("/", os.O_PATH))
            fds.append(resolve(fds[2], target))
            outcome.append(work(fds[0], fds[3]))
        except BaseException as error:  # raised by the caller
            outcome.append(error)

    try:
        fds.append(os.open("/proc", os.O_PATH | os.O_DIRECTORY))
        fds.append(_other_mntns(mntns, step))
        helper = threading.Thread(target=thread)
        helper.start()
        helper.join()
    finally:
        for fd in fds:
            os.close(fd)
    match outcome[0]:
        case bool(done):
            return done
        case FileNotFoundError():
            raise NotFound(
                f"cannot {step} in {mntns}: there is no such file",
                hint=f"create an empty {target} inside the container",
            )
        case OSError() as refused:
            raise KernelRefused(f"{step} (in {mntns}): {refused.strerror}") from refused
        case error:
            raise error


def _other_mntns(path: str, step: str) -> int:
    try:
        if os.path.samefile(path, "/proc/self/ns/mnt"):
            raise Conflict(
                f"cannot {step}: {path} is our own mount namespace",
                hint="it would change the host's own file; start that process with `unshare -m`",
            )
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # non-blocking: it may be a FIFO
    except OSError as error:
        raise NotFound(f"cannot {step}: no namespace {path} ({error.strerror})") from error


def _is_shared(proc: int, place: int) -> bool:
    """Whether a mount onto *place* would show up in other namespaces too."""
    info = _read(proc, f"thread-self/fdinfo/{place}")
    mount_id = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
    lines = (line.split(" - ")[0].split() for line in _read(proc, "thread-self/mountinfo"))
    return any(f[0] == mount_id and any(o.startswith("shared:") for o in f[6:]) for f in lines)


def _read(directory: int, path: str) -> list[str]:
    with open(path, "rb", opener=lambda p, flags: os.open(p, flags, dir_fd=directory)) as file:
        return os.fsdecode(file.read()).splitlines()


def _place(root: int, target: str, is_dir: bool, create: bool) -> int:
    try:
        return resolve(root, target)
    except FileNotFoundError:
        parent, name = os.path.split(target)
    if not create:
        return _cover(resolve(root, parent), name, is_dir)
    directory = _make_dirs(root, parent)
    try:
        return _empty(directory, name, is_dir)
    except FileExistsError:  # a dangling symlink
        return _cover(directory, name, is_dir)


def _make_dirs(root: int, path: str) -> int:
    directory, done = root, ""
    for name in path.strip("/").split("/"):
        done += "/" + name
        try:
            directory = resolve(root, done, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            os.mkdir(name, 0o755, dir_fd=directory)  # follows nothing: EEXIST at a symlink
            directory = resolve(root, done, os.O_PATH | os.O_DIRECTORY)
    return directory


def _cover(directory: int, name: str, is_dir: bool) -> int:
    """Lay a tmpfs over *directory* that shows the same entries, but an empty one at *name*."""
    entries = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)  # still sees below it
    cover = fresh("tmpfs", mode=f"{stat.S_IMODE(os.fstat(directory).st_mode):o}")
    attach(cover, directory)
    for entry in os.listdir(entries):
        mode = os.stat(entry, dir_fd=entries, follow_symlinks=False).st_mode
        if entry == name:
            continue
        if stat.S_ISLNK(mode):
            os.symlink(os.readlink(entry, dir_fd=entries), entry, dir_fd=cover)
            continue
        # a symlink put here meanwhile would be followed in the host's root
        tree = open_tree(entries, entry, OPEN_TREE_CLONE | AT_RECURSIVE | AT_SYMLINK_NOFOLLOW)
        onto = _empty(cover, entry, stat.S_ISDIR(mode))
        attach(tree, onto)
        os.close(tree)
        os.close(onto)
    return _empty(cover, name, is_dir)


def _empty(directory: int, name: str, is_dir: bool) -> int:
    """A new, empty entry; FileExistsError whatever is there."""
    if is_dir:
        os.mkdir(name, 0o755, dir_fd=directory)
    else:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=directory))
    return os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)


def _is_dir(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)
