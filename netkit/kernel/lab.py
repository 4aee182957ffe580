"""A throw-away host: namespaces in which netkit may do as it likes, and nothing of it stays.

Shapes   `enter` moves the calling process, which must have one thread only
Errors   KernelRefused where user namespaces are forbidden
Source   unshare(2), user_namespaces(7). The process gets a network of its own (loopback up), a
         /run and state directory of its own, and of /etc and /var/lib what it writes (overlays)
"""

from __future__ import annotations

import os

from netkit.errors import KernelRefused
from netkit.kernel import mounts, privilege

_OWN = {"/etc": "/run/netkit-etc", "/var/lib": "/run/netkit-var-lib"}


def enter(*, state_dir: str = "/run/netkit-state") -> None:
    """Become root in fresh user (unless root already), network, mount and UTS namespaces."""
    uid, gid = os.geteuid(), os.getegid()
    kinds = mounts.CLONE_NEWNET | mounts.CLONE_NEWNS | mounts.CLONE_NEWUTS
    try:
        mounts.unshare(kinds if uid == 0 else kinds | mounts.CLONE_NEWUSER)
    except OSError as error:
        raise KernelRefused(
            f"cannot make a sandbox: {error.strerror}",
            hint=privilege.WITHHELD
            if uid == 0
            else "user namespaces are switched off here (sysctl user.max_user_namespaces, "
            "kernel.unprivileged_userns_clone), so run it as root",
        ) from error
    if uid != 0:
        _map("setgroups", "deny")
        _map("uid_map", f"0 {uid} 1")
        _map("gid_map", f"0 {gid} 1")
    mounts.mount(None, "/", None, mounts.MS_REC | mounts.MS_PRIVATE)
    for place, own in _OWN.items():
        if os.path.isdir(own):  # one within another: overlays stack two high at most
            mounts.umount(place, mounts.MNT_DETACH)
    mounts.mount("tmpfs", "/run", "tmpfs", 0)
    os.mkdir("/run/netns", 0o755)
    for place, own in _OWN.items():
        for name in ("", "/upper", "/work"):
            os.mkdir(own + name, 0o755)
        options = f"lowerdir={place},upperdir={own}/upper,workdir={own}/work"
        mounts.mount("overlay", place, "overlay", 0, options)
    os.environ["NETKIT_STATE_DIR"] = state_dir
    os.environ["NETKIT_RUN_DIR"] = "/run/netkit"
    from netkit.kernel.netlink import Netlink

    with Netlink() as netlink:
        netlink.set_up("lo")


def _map(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
