"""Whether this process may change the network, and what to tell a user who may not.

Source   capabilities(7); user_namespaces(7)
"""

from __future__ import annotations

import os

from netkit.errors import KernelRefused

_CAP_NET_ADMIN, _CAP_SYS_ADMIN = 12, 21
WITHHELD = (
    "the container or service it runs in withholds CAP_NET_ADMIN and CAP_SYS_ADMIN from root: "
    "grant them, or run it outside"
)


def held() -> bool:
    """Whether namespaces and interfaces can be made here."""
    with open("/proc/self/status") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff"))
    wanted = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN
    return effective & wanted == wanted


def require() -> None:
    """Raise KernelRefused unless `held`."""
    if held():
        return
    if os.geteuid() == 0:
        hint = WITHHELD  # a user namespace of root's own needs capabilities as well
    elif user_namespaces():
        hint = "run it as root, or try it without: netkit unshare"
    else:
        hint = "run it as root: user namespaces, the other way, are switched off on this machine"
    raise KernelRefused(
        f"netkit needs to be root to change networks (uid {os.geteuid()} has no CAP_NET_ADMIN)",
        hint=hint,
    )


def user_namespaces() -> bool:
    """Whether an ordinary user may make a user namespace."""
    for path in ("user/max_user_namespaces", "kernel/unprivileged_userns_clone"):
        try:
            with open(f"/proc/sys/{path}") as file:
                if file.read().strip() == "0":
                    return False
        except OSError:
            continue
    return True
