"""A throw-away host: namespaces in which netkit may do as it likes, and nothing of it stays.

Shapes   `enter` moves the calling process, which must have one thread only
Errors   KernelRefused where user namespaces are forbidden
Source   unshare(2), user_namespaces(7). The process gets a network of its own (loopback up), a
         /run and state directory of its own, and an /etc of its own to write to (overlay)
"""

from __future__ import annotations

import os

from netkit.errors import KernelRefused
from netkit.kernel import mounts, privilege


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
    if os.path.isdir("/run/netkit-etc"):  # one within another: overlays stack two high at most
        mounts.umount("/etc", mounts.MNT_DETACH)
    mounts.mount("tmpfs", "/run", "tmpfs", 0)
    for name in ("netns", "netkit-etc", "netkit-etc/upper", "netkit-etc/work"):
        os.mkdir(f"/run/{name}", 0o755)
    options = "lowerdir=/etc,upperdir=/run/netkit-etc/upper,workdir=/run/netkit-etc/work"
    mounts.mount("overlay", "/etc", "overlay", 0, options)
    os.environ["NETKIT_STATE_DIR"] = state_dir
    os.environ["NETKIT_RUN_DIR"] = "/run/netkit"
    from netkit.kernel.netlink import Netlink

    with Netlink() as netlink:
        netlink.set_up("lo")


def _map(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
