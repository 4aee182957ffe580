"""What a runtime sends each plugin of a network, what it makes of the answers and remembers.

Shapes   pure: text in, text out
Errors   CniError: 4 for an attachment that is none, 6 for an answer that is none, or a plugin's own
Source   CNI SPEC.md 1.1.0, section 3; libcni/api.go 1.3 (cachedInfo). Beyond libcni: `capabilities`
         are taken out, as the spec asks; an error that a plugin prints and then exits with 0 is an
         error; a result of another version than was asked for goes on in the one asked for
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cni.conflist import Conflist, declared
from cni.spec import VERSIONS, CniError, Code, Json, Result, decode, typed
from ipam.execution import IFNAME, NAME

KIND = "cniCacheV1"


class Attachment(NamedTuple):
    """An interface of a container.

    *netns* is the path of its namespace; *args* is CNI_ARGS; *capabilities* are values for those
    plugins that declare to have them: {"portMappings": [{"hostPort": 8080, …}]}.
    """

    container_id: str
    netns: str = ""
    ifname: str = "eth0"
    args: Mapping[str, str] = {}
    capabilities: Mapping[str, object] = {}

    @property
    def key(self) -> tuple[str, str]:
        return self.container_id, self.ifname

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


def validate(attachment: Attachment, verb: str) -> None:
    """Refuse what no plugin could serve, and what would be another file or parameter than meant."""
    if not NAME.fullmatch(attachment.container_id):
        raise _no(f"{attachment.container_id!r:.80} is no container id")
    if not IFNAME.fullmatch(attachment.ifname):
        raise _no(f"{attachment.ifname!r:.80} is no interface name")
    if not attachment.netns.isprintable() or (verb != "DEL" and not attachment.netns):
        raise _no(f"{attachment.netns!r:.80} is no path of a namespace, which {verb} needs")
    for key, value in attachment.args.items():
        if not re.fullmatch(r"[^=;]+", key) or ";" in value or not f"{key}{value}".isprintable():
            raise _no(f"{key!r:.80}: {value!r:.80} cannot be put as KEY=VALUE;KEY=VALUE")


def environment(verb: str, attachment: Attachment | None, directories: str) -> dict[str, str]:
    """The parameters of a call, all of them: a plugin may ask for one it does not use."""
    at = attachment or Attachment("", ifname="")
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": at.container_id,
        "CNI_NETNS": at.netns,
        "CNI_IFNAME": at.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in at.args.items()),
        "CNI_PATH": directories,
    }


def request(
    network: Conflist,
    plugin: Json,
    attachment: Attachment | None = None,
    *,
    previous: Json | None = None,
    valid: Iterable[tuple[str, str]] | None = None,
) -> Json:
    """What *plugin* reads: its configuration, with what is of this call and without what is ours.

    previous  the result of the plugin before it, or, but for ADD, of the whole chain
    valid     of GC: the attachments to be kept
    """
    # what the file says under these keys is not the file's to say
    conf = {key: value for key, value in plugin.items() if not key.startswith("cni.dev/")}
    conf.pop("prevResult", None)
    if attachment is not None:
        conf.pop("capabilities", None)
        given = attachment.capabilities
        if said := {key: given[key] for key in declared(plugin) if key in given}:
            conf["runtimeConfig"] = said
    conf |= {"cniVersion": network.version, "name": network.name}
    if previous is not None:
        conf["prevResult"] = previous
    if valid is not None:
        kept = [{"containerID": container, "ifname": ifname} for container, ifname in valid]
        conf |= {"cni.dev/valid-attachments": kept, "cni.dev/attachments": kept}  # cni#1101
    return conf


def result(answer: bytes, version: str) -> Json:
    """The result a plugin printed, in *version*."""
    if not answer.strip():
        raise CniError(Code.DECODING_FAILURE, "it printed no result")
    said = decode(answer, "its result")
    if said.get("code") and "msg" in said:
        code, message, details = said["code"], said["msg"], said.get("details")
        raise CniError(
            code if isinstance(code, int) else Code.INTERNAL, str(message), details and str(details)
        )
    return convert(said, version)


def convert(said: Json, version: str) -> Json:
    """A result in *version*; one that does not say its own is of that already, as with libcni."""
    read = Result.from_json(said, version, "its result", code=Code.DECODING_FAILURE)
    if said.get("cniVersion", version) in ("", version):
        return {**said, "cniVersion": version}  # with what we do not know, too
    return read.to_json(version)


class Cached(NamedTuple):
    """What is remembered of an attachment: enough to check and delete it, whatever changes."""

    network: str
    attachment: Attachment
    config: str
    result: Json

    @property
    def sandbox(self) -> str:
        """The namespace its result names."""
        interfaces = self.result.get("interfaces")
        found = (
            each.get("sandbox")
            for each in (interfaces if isinstance(interfaces, list) else ())
            if isinstance(each, dict)
        )
        return next((path for path in found if isinstance(path, str) and path), "")

    def to_json(self) -> str:
        at = self.attachment
        said: Json = {
            "kind": KIND,
            "containerId": at.container_id,
            "config": b64encode(self.config.encode()).decode(),
            "ifName": at.ifname,
            "networkName": self.network,
            "netns": at.netns,
            "cniArgs": [[key, value] for key, value in at.args.items()],
            "capabilityArgs": at.capabilities,
            "result": self.result,
        }
        kept = {key: value for key, value in said.items() if value}
        return json.dumps(kept, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Cached:
        """CniError for what is not of this kind."""
        said = decode(text, "the cached result")
        if said.get("kind") != KIND:
            raise CniError(Code.DECODING_FAILURE, f"it is no {KIND}")
        config, network, container_id, ifname, netns = (
            typed(said.get(key), str, key)
            for key in ("config", "networkName", "containerId", "ifName", "netns")
        )
        args, capabilities = typed(said.get("cniArgs"), list, "cniArgs"), said.get("capabilityArgs")
        try:
            at = Attachment(
                container_id,
                netns,
                ifname,
                dict(map(_pair, args)),
                typed(capabilities, dict, "capabilityArgs"),
            )
            plain = b64decode(config, validate=True).decode()
        except ValueError as error:
            raise CniError(Code.DECODING_FAILURE, f"the cached result: {error}") from None
        return cls(network, at, plain, typed(said.get("result"), dict, "result"))


def _pair(value: object) -> tuple[str, str]:
    match value:
        case [str(key), str(text)]:
            return key, text
    raise ValueError(f"cniArgs has {value!r:.80}, which is no pair")


def knows(version: str, since: str) -> bool:
    """Whether *version* has what came with *since*."""
    return VERSIONS.index(version) >= VERSIONS.index(since)


def _no(why: str) -> CniError:
    return CniError(Code.INVALID_ENVIRONMENT, why)
