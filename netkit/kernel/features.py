"""Kernel features that may be missing, and the build options that bring them.

Shapes   a link's kind as `ip link` calls it, or a feature by the words in OPTIONS
Errors   OSError EOPNOTSUPP, its text for a step to pass on: "this kernel has no ipvlan
         (CONFIG_IPVLAN)"
Source   the Kconfig files of drivers/net, net/8021q, net/bridge and net/sched
"""

from __future__ import annotations

import errno
import os

BRIDGE_VLANS = "bridge VLAN filtering"
OPTIONS = {
    "bridge": "CONFIG_BRIDGE",
    "dummy": "CONFIG_DUMMY",
    "htb": "CONFIG_NET_SCH_HTB",
    "ifb": "CONFIG_IFB",
    "ingress": "CONFIG_NET_SCH_INGRESS",
    "ipvlan": "CONFIG_IPVLAN",
    "macvlan": "CONFIG_MACVLAN",
    "mirred": "CONFIG_NET_ACT_MIRRED",
    "tbf": "CONFIG_NET_SCH_TBF",
    "tun": "CONFIG_TUN",
    "u32": "CONFIG_NET_CLS_U32",
    "veth": "CONFIG_VETH",
    "vlan": "CONFIG_VLAN_8021Q",
    "vrf": "CONFIG_NET_VRF",
    BRIDGE_VLANS: "CONFIG_BRIDGE_VLAN_FILTERING",
}
_NO_WORDS = {os.strerror(errno.EOPNOTSUPP), "Unknown device type"}


def missing(feature: str) -> OSError:
    option = f" ({OPTIONS[feature]})" if feature in OPTIONS else ""
    return OSError(errno.EOPNOTSUPP, f"this kernel has no {feature}{option}")


def explained(error: OSError, feature: str) -> OSError:
    """*error*, or what it means where the kernel says that it has never heard of *feature*.

    The errno alone does not: EOPNOTSUPP with other words is about the device, say.
    """
    if error.errno == errno.EOPNOTSUPP and error.strerror in _NO_WORDS:
        return missing(feature)
    return error
