"""One call of a plugin: the six verbs, the same for every plugin type, from what it plans.

    ADD     the plan is put on record and made; whatever goes wrong, nothing of it stays
    DEL     what is on record is undone: it needs neither prevResult, nor cache, nor namespace
    CHECK   every step of it is looked for, and what it shares with others
    GC      what is on record and not in cni.dev/valid-attachments is undone, past errors
    STATUS  the type's own look at the host, the state, and the IPAM plugin

Shapes   `handle`: environment and standard input in, exit status and standard output out
Errors   none: they are answers, with CNI's codes (cni.spec.Code) or our own (cni.call)
Source   CNI SPEC.md 1.1.0

An IPAM plugin is told to release by the same record: once ADD may have leased, the record says how
to give it back, and it stays until that was done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from cni import delegate
from cni.call import CONFLICT, DRIFT, REFUSED, Call, identity
from cni.spec import (
    VERSIONS,
    CniError,
    Code,
    Command,
    Json,
    Result,
    options,
    version_of,
    versions_json,
)
from ipam.errors import IpamError
from netkit import naming
from netkit.engine import Engine
from netkit.errors import (
    Busy,
    Conflict,
    Exhausted,
    InvalidSpec,
    KernelRefused,
    NetkitError,
    NotFound,
)
from netkit.kernel import Kernel
from netkit.model import AttachmentRecord, PluginCall

# Plugin types and their modules. The chained ones change what others made.
INTERFACES = (
    *("bridge", "ptp", "macvlan", "ipvlan", "vlan", "host-device", "dummy", "tap", "loopback"),
)
CHAINED = ("portmap", "firewall", "tuning", "bandwidth", "sbr", "vrf")
WHOLE = {"netkit": "cni.all_in_one"}
_OF_THE_CALL = ("cniVersion", "prevResult", "runtimeConfig", "args")  # not of the network
_OF_ANY_NAME = ("loopback", "tuning")  # they are for interfaces that somebody else names, too

_CODES: tuple[tuple[type[NetkitError], int], ...] = (
    (Busy, Code.TRY_AGAIN_LATER),
    (Exhausted, Code.TRY_AGAIN_LATER),
    (Conflict, CONFLICT),
    (InvalidSpec, Code.INVALID_CONFIG),
    (NotFound, Code.INVALID_CONFIG),
    (KernelRefused, REFUSED),
)


def handle(
    kind: str,
    environ: Mapping[str, str],
    stdin: bytes,
    engine: Engine | None = None,
    *,
    last: bool = False,
) -> tuple[int, bytes]:
    """A call of plugin type *kind*: exit status, and what to print.

    *engine*: one that is warm. *last*: the process ends with this call.
    """
    try:
        if kind in delegate.IN_PROCESS:
            return _printed(*delegate.handle(kind, environ, stdin))
        with _translated():
            command = Command.parse(environ, stdin, lo=kind in _OF_ANY_NAME)
            if command.verb == "VERSION":
                return _printed(0, versions_json(command.version))
            return _printed(0, _act(kind, command, engine, last))
    except CniError as error:
        return _printed(1, error.to_json(version_of(stdin)))
    except Exception as error:  # a fault of ours: an answer all the same, for runtimes parse it
        fault = CniError(
            Code.INTERNAL, f"{kind}: {type(error).__name__}: {error}", "a bug of netkit's"
        )
        return _printed(1, fault.to_json(version_of(stdin)))


def _printed(status: int, answer: Json | None) -> tuple[int, bytes]:
    return status, b"" if answer is None else json.dumps(answer).encode() + b"\n"


@contextmanager
def _translated() -> Iterator[None]:
    """netkit's errors and the system's become CNI's."""
    try:
        yield
    except NetkitError as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), REFUSED)
        raise CniError(code, _with_notes(error), error.hint) from error
    except IpamError as error:
        raise CniError(getattr(error, "code", REFUSED), error.message, error.hint) from error
    except OSError as error:
        raise CniError(Code.IO_FAILURE, str(error)) from error


def _with_notes(error: BaseException) -> str:
    return "; ".join([str(error), *getattr(error, "__notes__", ())])


def _act(kind: str, command: Command, engine: Engine | None, last: bool) -> Json | None:
    verbs: Mapping[str, _Verb]
    if kind in WHOLE:
        verbs = import_module(WHOLE[kind]).VERBS
    elif kind in INTERFACES or kind in CHAINED:
        verbs = _VERBS
    else:
        raise CniError(Code.INVALID_CONFIG, f"there is no plugin type {kind!r:.80} of netkit's")
    if engine is not None:
        return verbs[command.verb](kind, command, engine)
    engine = Engine()
    engine.changes.call = delegate.release
    try:
        return verbs[command.verb](kind, command, engine)
    finally:
        engine.store.leave() if last else engine.close()


# -- the verbs


def add(kind: str, command: Command, engine: Engine) -> Json:
    conf = _conf(kind, command)
    wanted = _record(kind, command)
    try:
        return _add(kind, command, conf, engine, wanted)
    except Conflict:
        for found in engine.attachments(wanted.network, wanted.sandbox):
            if found.call and found.call == wanted.call:  # and netkitd died before it could say so
                return _said(found).to_json(command.version)
        raise
    except (CniError, Exhausted) as error:
        # what the dead hold may be what is missing: give it back, and try once more
        full = isinstance(error, Exhausted) or error.code == Code.TRY_AGAIN_LATER
        if not full or not engine.bury_attachments():
            raise
        return _add(kind, command, conf, engine, wanted)


def _add(kind: str, command: Command, conf: Any, engine: Engine, wanted: AttachmentRecord) -> Json:
    propose = _module(kind).propose
    ipam = command.ipam.get("type") if kind in INTERFACES else None
    with engine.attaching(wanted) as hand:
        if kind in INTERFACES and kind not in _OF_ANY_NAME:
            _refuse_taken(command, hand.kernel)
        leased = None
        if ipam:
            delegate.find(command)
            hand.owe(_release(command))
            if delegate.needs_interface(command):
                hand.make(propose(Call(command, conf, hand.kernel)).proposal)
            leased = delegate.delegate(command, "ADD")
            if leased is None or not leased.ips:
                raise CniError(Code.INVALID_CONFIG, f"IPAM plugin {ipam} gave no address")
        answer = propose(Call(command, conf, hand.kernel, leased))
        said: Json = answer.result.to_json(command.version)  # refused before anything is made
        hand.make(answer.proposal)
        hand.keep(json.dumps(answer.result.to_json(VERSIONS[-1])))
        return said


def delete(kind: str, command: Command, engine: Engine) -> None:
    found = _attached(kind, command, engine)
    for record in found:
        engine.detach(record)
    if found:
        return
    engine.recover()  # detach has done so otherwise
    # attached by another's plugin, or never; or what leased could not be told last time
    if command.previous is not None:
        with engine.looking() as kernel:
            import_module("cni.predecessor").clear(kind, command, kernel)
    if kind in INTERFACES and command.ipam.get("type") and not engine.settle(_id(kind, command)):
        delegate.delegate(command, "DEL")


def check(kind: str, command: Command, engine: Engine) -> None:
    _conf(kind, command)
    engine.recover()
    found = _attached(kind, command, engine)
    if not found:
        raise CniError(
            DRIFT,
            f"{_sandbox(command)} is not attached to {command.name!r} by {kind}",
            "it was never added, deleted since, or added by another's plugin",
        )
    drifts = [str(drift) for record in found for drift in engine.check_attachment(record)]
    drifts += [drift for record in found for drift in _unlike(record, command)]
    if drifts:
        raise CniError(DRIFT, f"{_sandbox(command)} is not as added: {'; '.join(drifts)}")
    if kind in INTERFACES and command.ipam.get("type"):
        delegate.delegate(command, "CHECK")


def gc(kind: str, command: Command, engine: Engine) -> None:
    valid = {f"{container}/{ifname}" for container, ifname in command.valid_attachments}
    failed: list[str] = []
    engine.recover()
    for record in engine.attachments(_network(kind, command)):
        if record.sandbox not in valid:
            try:
                engine.detach(record)
            except NetkitError as error:
                failed.append(_with_notes(error))
    if kind in INTERFACES and command.ipam.get("type"):
        try:
            delegate.delegate(command, "GC")
        except CniError as error:
            failed.append(error.message)
    if failed:
        raise CniError(REFUSED, "; ".join(failed), "what resisted is tried again by the next GC")


def status(kind: str, command: Command, engine: Engine) -> None:
    conf = _conf(kind, command)
    look: Callable[[Call], None] | None = getattr(_module(kind), "status", None)
    with engine.looking() as kernel:
        if look is not None:
            look(Call(command, conf, kernel))
    if kind in INTERFACES and command.ipam.get("type"):
        delegate.delegate(command, "STATUS")


_Verb = Callable[[str, Command, Engine], Json | None]
_VERBS: Mapping[str, _Verb] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": gc,
    "STATUS": status,
}


# -- helpers


def _module(kind: str) -> Any:
    return import_module(f"cni.{kind.replace('-', '_')}")


def _conf(kind: str, command: Command) -> Any:
    return options(command.conf, _module(kind).Conf)


def _network(kind: str, command: Command) -> str:
    return f"{kind} {command.name}"


def _sandbox(command: Command) -> str:
    return f"{command.container_id}/{command.ifname}"


def _id(kind: str, command: Command) -> str:
    """An attachment's id. A list may hold a chained type twice: then the configuration tells."""
    what = f"{_network(kind, command)} {_sandbox(command)}"
    if kind in CHAINED:
        conf = {key: value for key, value in command.conf.items() if key not in _OF_THE_CALL}
        what += json.dumps(conf, sort_keys=True)
    return naming.digest(what)


def _attached(kind: str, command: Command, engine: Engine) -> list[AttachmentRecord]:
    """What is meant: the attachment with this configuration, or, if that was changed, all."""
    found = engine.attachments(_network(kind, command), _sandbox(command))
    own = [record for record in found if record.id == _id(kind, command)]
    return own or found


def _refuse_taken(command: Command, kernel: Kernel) -> None:
    """Before anything is on record: so no undoing ever meets somebody else's interface."""
    if kernel.netlink(command.netns).is_up(command.ifname) is not None:
        raise CniError(
            CONFLICT,
            f"there is an interface {command.ifname} in {command.netns} already",
            "give another CNI_IFNAME, or remove it",
        )


def _record(kind: str, command: Command) -> AttachmentRecord:
    return AttachmentRecord(
        id=_id(kind, command),
        network=_network(kind, command),
        sandbox=_sandbox(command),
        netns=command.netns,
        identity=identity(command),
        call=command.environ.get("NETKIT_CALL", ""),
    )


def _release(command: Command) -> PluginCall:
    """What gives back all that the IPAM plugin may have leased."""
    environ = {name: value for name, value in command.environ.items() if name.startswith("CNI_")}
    return PluginCall(
        plugin=command.ipam["type"],
        environ={"PATH": os.defpath, **environ, "CNI_COMMAND": "DEL"},
        stdin=json.dumps(command.conf),
        early=delegate.needs_interface(command),
    )


def _said(record: AttachmentRecord) -> Result:
    return Result.from_json(json.loads(record.result), VERSIONS[-1])


def _unlike(record: AttachmentRecord, command: Command) -> list[str]:
    """What prevResult does not say any more of what ADD answered."""
    said = _said(record)
    now = command.previous
    if now is None:
        raise CniError(Code.INVALID_CONFIG, "CHECK needs prevResult")
    here = {(each.name, each.sandbox) for each in now.interfaces}
    have = {ip.address for ip in now.ips}
    return [
        *(
            f"prevResult lacks interface {each.name}"
            for each in said.interfaces
            if (each.name, each.sandbox) not in here
        ),
        *(f"prevResult lacks address {ip.address}" for ip in said.ips if ip.address not in have),
    ]
