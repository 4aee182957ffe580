"""`tuning`: kernel parameters, and what an interface is like, which others have made.

Source   containernetworking/plugins, plugins/meta/tuning: keys, defaults, what may be set

What was before is kept in netkit's record of the attachment, not below `dataDir`, and put back by
DEL where the interface stays. Beyond the reference: the neighbours hear of a new MAC at once, and
parameters of other interfaces than IFNAME, such as `eth0.5`, are spelt with slashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from cni.call import Answer, Call, container_ips
from cni.spec import CniError, Code, Result, options
from netkit import attaching, steps, sysctls
from netkit.errors import InvalidSpec

ALLOWED = "/etc/cni/tuning/allowlist.conf"  # patterns, one per line; without the file, all is


class Wishes(msgspec.Struct, rename="camel"):
    """What the configuration says, or `args.cni`, which then counts."""

    sysctl: dict[str, str] = {}
    promisc: bool | None = None
    mtu: int | None = None
    tx_q_len: int | None = None
    allmulti: bool | None = None

    def __post_init__(self) -> None:
        for name, number in (("mtu", self.mtu), ("txQLen", self.tx_q_len)):
            if number is not None and not 0 <= number < 1 << 32:
                raise ValueError(f"{name} is {number}")


class Conf(Wishes, rename="camel"):
    mac: str = ""
    data_dir: str = ""


def propose(call: Call) -> Answer:
    wishes = _wishes(call)
    mac = call.command.wanted_mac(call.conf.mac)
    result = _tuned(call, mac, wishes.mtu)
    plan: list[steps.Step] = [*_sysctls(call, wishes.sysctl)]
    tune = steps.Tune(
        dev=call.ifname,
        at=call.at,
        mac=mac,
        mtu=wishes.mtu or None,
        txqlen=wishes.tx_q_len,
        promisc=wishes.promisc or None,
        allmulti=wishes.allmulti,
        there=True,
    )
    if tune.asked:
        plan.append(tune)
    ips = tuple(own.ip for own, _ in container_ips(call.previous)) if mac else ()
    if mac and ips:
        plan.append(steps.Announce(dev=call.ifname, at=call.at, mac=mac, addresses=ips))
    return Answer(result, attaching.Proposal(tuple(plan)))


def status(call: Call) -> None:
    _patterns()


def _wishes(call: Call) -> Wishes:
    conf: Conf = call.conf
    said = options(call.command.cni_args, Wishes, "args.cni")
    fields = {name: getattr(said, name) for name in ("promisc", "mtu", "tx_q_len", "allmulti")}
    given = {name: value for name, value in fields.items() if value is not None}
    return replace(conf, sysctl={**conf.sysctl, **said.sysctl}, **given)


def _tuned(call: Call, mac: str | None, mtu: int | None) -> Result:
    """The result so far, with what the interface has now."""
    interfaces = tuple(
        each._replace(mac=mac or each.mac, mtu=mtu or each.mtu)
        if each.name == call.ifname and each.sandbox
        else each
        for each in call.previous.interfaces
    )
    return call.previous._replace(interfaces=interfaces)


def _sysctls(call: Call, wanted: dict[str, str]) -> Iterable[steps.Step]:
    patterns = _patterns() if wanted else None
    found: dict[str, str] = {}
    for name, value in wanted.items():
        if patterns is not None and not any(pattern.search(name) for pattern in patterns):
            raise CniError(
                Code.INVALID_CONFIG,
                f"sysctl {name!r:.80} is not allowed",
                f"{ALLOWED} lists which are",
            )
        try:
            parts = sysctls.parse(f"{name}={value}").parts
        except InvalidSpec as refused:
            raise CniError(Code.INVALID_CONFIG, f"sysctl: {refused}", refused.hint) from None
        key = "/".join(call.ifname if part == sysctls.IFNAME else part for part in parts)
        if found.setdefault(key, value.strip()) != value.strip():
            raise CniError(
                Code.INVALID_CONFIG, f"sysctl {sysctls.dotted(key)} is to have two values"
            )
    return [
        steps.Sysctl(key=key, value=value, at=call.at, needed=True) for key, value in found.items()
    ]


def _patterns() -> list[re.Pattern[str]] | None:
    try:
        with open(ALLOWED) as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return None
    try:
        return [re.compile(line) for line in lines if line]
    except re.error as error:
        raise CniError(
            Code.INVALID_CONFIG, f"{ALLOWED}: {error.pattern!r:.80} is no pattern: {error}"
        ) from None
