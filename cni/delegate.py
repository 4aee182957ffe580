"""An IPAM plugin at work for another plugin: in this process if it is ours, else executed.

Which one it is, the runtime's CNI_PATH decides, as if it were executed: the first file there of the
name that the configuration gives. Where that is one that `netkit cni install` wrote, its module is
called instead, with the same environment and standard input.

Errors   CniError with the plugin's own code, message and details, and its name; 5 where it cannot
         be found or started, 6 where its answer cannot be used, 11 where it took too long
Source   CNI SPEC.md 1.1.0 (section 4); the names of plugins: CVE-2021-20206
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from cni.marker import is_ours
from cni.spec import CniError, Code, Command, Json, Result, decode, typed
from ipam import execution
from ipam.errors import PluginFailed, PluginRefused

if TYPE_CHECKING:
    from netkit.model import PluginCall

IN_PROCESS: Mapping[str, str] = {
    "host-local": "cni.host_local",
    "static": "cni.static",
    "dhcp": "cni.dhcp",
}
_NEED_NO_INTERFACE = ("host-local", "static")
_OPTIONAL = ("GC", "STATUS")  # verbs of 1.1.0, which most plugins in the field do not know


def delegate(command: Command, verb: str) -> Result | None:
    """Have the IPAM plugin do *verb* with what *command* was given; what an ADD leased.

    That it does not know GC or STATUS is no error.
    """
    kind = _kind(command)
    what = f"IPAM plugin {kind}: its answer"
    environ = {**command.environ, "CNI_COMMAND": verb}
    try:
        program = execution.find(kind, environ.get("CNI_PATH", ""))
        if kind in IN_PROCESS and is_ours(program):
            said = _act(kind, command._replace(verb=verb, environ=environ))
        else:
            answer = _execute(kind, environ, json.dumps(command.conf).encode())
            said = decode(answer, what) if verb == "ADD" else None
    except PluginFailed as failed:
        unknown = isinstance(failed, PluginRefused) and failed.code == Code.INVALID_ENVIRONMENT
        if verb in _OPTIONAL and unknown:
            return None
        message = f"IPAM plugin {kind}: {failed.message}"
        raise CniError(failed.code, message, failed.hint) from None
    if verb != "ADD":
        return None
    return Result.from_json(said, command.version, what, code=Code.DECODING_FAILURE)


def find(command: Command) -> None:
    """CniError unless the IPAM plugin is there."""
    kind = _kind(command)
    try:
        execution.find(kind, command.environ.get("CNI_PATH", ""))
    except PluginFailed as failed:
        raise CniError(failed.code, f"IPAM plugin {kind}: {failed.message}", failed.hint) from None


def release(call: PluginCall, holding: Sequence[int] = ()) -> None:
    """Make a call that is on record; PluginFailed. An executed plugin inherits *holding*."""
    kind, environ, stdin = call.plugin, call.environ, call.stdin.encode()
    program = execution.find(kind, environ.get("CNI_PATH", ""))
    if kind not in IN_PROCESS or not is_ours(program):
        _execute(kind, environ, stdin, holding)
        return
    status, said = handle(kind, environ, stdin)
    if status and said:
        raise PluginRefused(said["msg"], said.get("details") or None, code=said["code"])


def handle(kind: str, environ: Mapping[str, str], stdin: bytes) -> tuple[int, Json | None]:
    """A call of a plugin that is ours: exit status, and what to print."""
    answer: tuple[int, Json | None] = import_module(IN_PROCESS[kind]).handle(environ, stdin)
    return answer


def needs_interface(command: Command) -> bool:
    """Whether the IPAM plugin may want to use the interface, as one for DHCP does.

    The reference makes it first for all of them: what is not known to do without may count on it.
    """
    return _kind(command) not in _NEED_NO_INTERFACE


def _kind(command: Command) -> str:
    kind = typed(command.ipam.get("type"), str, "ipam.type")
    if not execution.NAME.fullmatch(kind):
        raise CniError(Code.INVALID_CONFIG, f"ipam.type is {kind!r:.80}: no name for a plugin")
    return kind


def _act(kind: str, command: Command) -> Json | None:
    """What a plugin that is ours answers; CniError."""
    from cni import ipam_plugin  # lazily: of no use to a call that is not delegated

    try:
        return ipam_plugin.act(import_module(IN_PROCESS[kind]).VERBS, command)
    except CniError as error:
        message = f"IPAM plugin {kind}: {error.message}"
        raise CniError(error.code, message, error.details) from error


def _execute(
    kind: str, environ: Mapping[str, str], stdin: bytes, holding: Sequence[int] = ()
) -> bytes:
    """What the plugin prints; PluginFailed."""
    environ = {"PATH": os.defpath, **environ}
    answer, _ = execution.execute(kind, environ, stdin, holding=holding)
    return answer
