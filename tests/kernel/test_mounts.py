"""Mounts, real ones: each script is a Python in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, subprocess, sys, threading, time
from netkit.errors import *
from netkit.kernel import mounts

def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path

def read(path):
    with open(path) as file:
        return file.read()

def neighbour(propagation="private", setup=":"):
    "A process with mounts of its own: its root in our /proc, and its mount namespace."
    process = subprocess.Popen(
        ["unshare", "-m", f"--propagation={propagation}", "sh", "-c", f"{setup}; echo; exec cat"],
        stdin=-1, stdout=-1)
    process.stdout.readline()
    return process, f"/proc/{process.pid}/root", f"/proc/{process.pid}/ns/mnt"

def refusal(function, *args):
    try:
        return function(*args)
    except NetkitError as error:
        return f"{type(error).__name__}: {error} | {error.hint}"
"""


def output(script: str, setup: str = ":") -> str:
    shell = (
        "mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /etc && echo theirs > /etc/resolv.conf"
        f' && {setup} && exec "$0" -Bc "$1"'
    )
    unshare = ["unshare", "-nm", "--propagation=private", "sh", "-ec", shell]
    done = subprocess.run(
        [*unshare, sys.executable, PRELUDE + dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- the calls -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "code", "about"),
    [
        ("mount('/run', '/run/gone', None, mounts.MS_BIND)", "ENOENT", "/run/gone"),
        ("umount('/run/gone')", "ENOENT", "/run/gone"),
        ("umount('/run/here')", "EINVAL", "/run/here"),
        ("pivot_root('/run/gone', '/')", "ENOENT", "/run/gone"),
        ("clone('/run/gone')", "ENOENT", "/run/gone"),
        ("resolve(os.open('/run', os.O_PATH), '/gone')", "ENOENT", "/gone"),
        ("join('/run/here', mounts.CLONE_NEWNET)", "EINVAL", "/run/here"),
        ("join('/run/fifo', mounts.CLONE_NEWNET)", "EINVAL", "/run/fifo"),
        ("join('/proc/self/ns/uts', mounts.CLONE_NEWNET)", "EINVAL", "/proc/self/ns/uts"),
        ("fresh('nonesuch')", "ENODEV", "nonesuch"),
        ("unshare(1)", "EINVAL", "unshare"),
    ],
)
def test_a_refused_call_says_what_and_why(call: str, code: str, about: str) -> None:
    script = f"""
        import errno
        write("/run/here", "")
        os.mkfifo("/run/fifo")
        try:
            mounts.{call}
        except OSError as error:
            print(errno.errorcode[error.errno], error.filename)
    """
    assert output(script) == f"{code} {about}\n"


def test_every_fd_is_close_on_exec() -> None:
    script = """
        root = os.open("/run", os.O_PATH)
        write("/run/file", "")
        fds = (mounts.clone("/run"), mounts.fresh("tmpfs"), mounts.resolve(root, "/file"))
        print(*(os.get_inheritable(fd) for fd in fds))
    """
    assert output(script) == "False False False\n"


# -- below a root --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "path"),
    [
        ("/run/host/file", "/link"),
        ("../host/file", "/link"),
        ("../../../../../run/host/file", "/link"),
        ("/run/host", "/link/file"),
        ("/proc/self/root/run/host", "/link/file"),
        ("dir", "/../../run/host/file"),
    ],
)
def test_no_path_leads_out_of_a_root(link: str, path: str) -> None:
    script = f"""
        write("/run/host/file", "")
        os.makedirs("/run/root/dir")
        os.symlink({link!r}, "/run/root/link")
        try:
            print(mounts.resolve(os.open("/run/root", os.O_PATH), {path!r}))
        except OSError as error:
            print(error.strerror)
    """
    assert output(script) == "No such file or directory\n"


def test_a_magic_link_is_refused() -> None:
    script = """
        try:
            mounts.resolve(os.open("/", os.O_PATH), "/proc/self/root/etc")
        except OSError as error:
            print(error.strerror)
    """
    assert output(script) in ("Too many levels of symbolic links\n", "Invalid cross-device link\n")


def test_ten_thousand_races_lead_nowhere() -> None:
    """S34: while `etc` and `etc/hosts` turn from what they are into symlinks and back."""
    script = """
        def attempt(call, *args):
            try:
                return call(*args)
            except OSError:
                return None

        def swap():
            mounts.unshare(mounts.CLONE_NEWNS)  # or our covers would stop it
            os.chdir("/run/root")
            while True:
                attempt(os.unlink, "etc/hosts"), attempt(os.unlink, "real/hosts")
                attempt(os.rename, "real", "etc"), attempt(os.rename, "etc", "real")
                attempt(os.rmdir, "etc"), attempt(os.mkdir, "real")
                attempt(os.symlink, "/run/host", "etc"), attempt(os.unlink, "etc")
                attempt(os.symlink, "/run/host/hosts", "real/hosts")

        def place():
            fd = mounts._place(root, "/etc/hosts", False, create=True)
            return os.readlink(f"/proc/self/fd/{fd}").removesuffix(" (deleted)")

        for base in ("/run", "/run/root/run"):
            write(f"{base}/host/hosts", "canary")
        os.mkdir("/run/root/real")
        root = os.open("/run/root", os.O_PATH)
        if (swapper := os.fork()) == 0:
            swap()
        found = {}
        for _ in range(10_000):
            path = attempt(place)
            found[path] = found.get(path, 0) + 1
            os.closerange(root + 1, root + 20)
            for path in ("/run/root/etc", "/run/root/real", "/run/root/run/host"):
                attempt(mounts.umount, path, mounts.MNT_DETACH)
        os.kill(swapper, 9)
        print([path for path in found if path and not path.startswith("/run/root/")])
        print(found.get("/run/root/etc/hosts", 0) > 100, found["/run/root/run/host/hosts"] > 100)
        print(os.listdir("/run/host"), read("/run/host/hosts"))
    """
    assert output(script) == "[]\nTrue True\n['hosts'] canary\n"


def test_a_directory_can_be_bound_where_nothing_is() -> None:
    script = """
        write("/run/source/file", "ours")
        root = os.open("/", os.O_PATH)
        mounts.bind("/run/source", root, "/etc/conf.d", create=False)
        print(read("/etc/conf.d/file"), read("/etc/resolv.conf"), end="")
        mounts.umount("/etc", mounts.MNT_DETACH)
        print(os.listdir("/etc"))
    """
    assert output(script) == "ours theirs\n['resolv.conf']\n"


def test_a_cover_keeps_what_is_mounted_below() -> None:
    script = """
        mounts.mount("tmpfs", "/etc/dir/sub", "tmpfs", 0)
        write("/etc/dir/sub/deep", "deep")
        mounts.bind(write("/run/ours", "ours"), os.open("/", os.O_PATH), "/etc/new", create=False)
        print(read("/etc/new"), read("/etc/dir/sub/deep"), os.readlink("/etc/link"))
    """
    assert output(script, "mkdir -p /etc/dir/sub; ln -s nowhere /etc/link") == "ours deep nowhere\n"


# -- in another process's mounts -----------------------------------------------------------------


def test_inject_and_eject_are_seen_by_the_neighbour_alone() -> None:
    script = """
        neighbour, root, mntns = neighbour()
        ours, path = write("/run/ours", "ours\\n"), "/etc/resolv.conf"
        before = read("/proc/self/mountinfo")
        print(mounts.inject(mntns, ours, path), mounts.inject(mntns, ours, path))
        print(read(root + path) + read(path), end="")
        write(ours, "changed\\n")
        print(read(root + path), end="")
        print(mounts.eject(mntns, ours, path), mounts.eject(mntns, ours, path))
        print(read(root + path), before == read("/proc/self/mountinfo"))
    """
    assert output(script) == ("True False\nours\ntheirs\nchanged\nTrue False\ntheirs\n True\n")


def test_eject_unmounts_nothing_but_ours() -> None:
    script = """
        neighbour, root, mntns = neighbour()
        ours, other = write("/run/ours", "ours"), write("/run/other", "other")
        path = "/etc/resolv.conf"
        print(mounts.inject(mntns, ours, path), mounts.inject(mntns, other, path))
        print(mounts.eject(mntns, ours, path), read(root + path))
        print(mounts.eject(mntns, other, path), read(root + path))
        print(mounts.eject(mntns, "/etc/resolv.conf", path), mounts.eject(mntns, ours, "/etc/gone"))
    """
    assert output(script) == "True True\nFalse other\nTrue ours\nFalse False\n"


@pytest.mark.parametrize(
    ("case", "answer"),
    [
        (
            "inject('/proc/self/ns/mnt', ours, '/etc/resolv.conf')",
            "Conflict: cannot mount --bind /run/ours /etc/resolv.conf: /proc/self/ns/mnt is our "
            "own mount namespace | it would change the host's own file; start that process with "
            "`unshare -m`",
        ),
        (
            "inject(mntns, ours, '/etc/gone')",
            "NotFound: cannot mount --bind /run/ours /etc/gone in MNT: there is no such file | "
            "create an empty /etc/gone inside the container",
        ),
        ("inject(mntns, '/run/gone', '/x')", "NotFound: cannot bind /run/gone: No such file or "
         "directory | None"),
        ("inject('/run/gone', ours, '/x')", "NotFound: cannot mount --bind /run/ours /x: no "
         "namespace /run/gone (No such file or directory) | None"),
        ("inject('/run/fifo', ours, '/x')", "KernelRefused: mount --bind /run/ours /x (in "
         "/run/fifo): Invalid argument | None"),
        ("inject(mntns, ours, '/etc')", "KernelRefused: mount --bind /run/ours /etc (in MNT): "),
        ("eject('/run/gone', ours, '/x')", "False"),
    ],
)  # fmt: skip
def test_a_refused_injection_says_why(case: str, answer: str) -> None:
    script = f"""
        neighbour, root, mntns = neighbour()
        os.mkfifo("/run/fifo")
        ours = write("/run/ours", "ours")
        print(str(refusal(mounts.{case})).replace(mntns, "MNT"))
    """.replace(f"mounts.{case}", f"lambda: mounts.{case}")
    assert output(script).startswith(answer)


def test_inject_is_refused_where_it_would_spread_to_us() -> None:
    script = """
        neighbour, root, mntns = neighbour("unchanged")
        print(refusal(mounts.inject, mntns, write("/run/ours", "ours"), "/etc/resolv.conf")[:30])
        print(read("/etc/resolv.conf"))
    """
    assert output(script, "mount --make-rshared /") == "Conflict: cannot mount over /e\ntheirs\n\n"


def test_inject_leaves_the_callers_threads_and_fds_alone() -> None:
    script = """
        ours, mark = write("/run/ours", "ours"), write("/run/here/mark", "")
        neighbour, root, mntns = neighbour(setup="mount -t tmpfs tmpfs /run/here")
        os.chdir("/run/here")
        stop = threading.Event()
        seen = set()
        def watch():
            while not stop.is_set():
                seen.add((os.getcwd(), os.path.exists(mark)))
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        fds = os.listdir("/proc/self/fd")
        for _ in range(50):
            mounts.inject(mntns, ours, "/etc/resolv.conf")
            mounts.eject(mntns, ours, "/etc/resolv.conf")
            refusal(mounts.inject, mntns, ours, "/etc/gone")
        stop.set()
        watcher.join()
        print(seen, os.listdir("/proc/self/fd") == fds)
    """
    assert output(script) == "{('/run/here', True)} True\n"


def test_a_symlink_in_the_neighbour_leads_to_its_own_file() -> None:
    script = """
        neighbour, root, mntns = neighbour(
            setup="mkdir /run/x; mount -t tmpfs t /run/x; echo target > /run/x/r;"
            "mount -t tmpfs t /etc; ln -s ../run/x/r /etc/resolv.conf")
        ours = write("/run/ours", "ours")
        print(mounts.inject(mntns, ours, "/etc/resolv.conf"), read(root + "/run/x/r"))
        print(mounts.eject(mntns, ours, "/etc/resolv.conf"), read(root + "/run/x/r"))
        print(os.listdir("/run/x"))
    """
    assert output(script) == "True ours\nTrue target\n\n[]\n"
