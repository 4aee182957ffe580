"""Network configurations as a runtime reads them: conflists, single plugins, directories of both.

Shapes   a network is a list of plugins' configurations, as they stand in the file
Errors   CniError that names the file: 5 it cannot be read, 6 it is no JSON, 7 it is no
         configuration, or there is none of that name, 1 of no version that we speak
Source   CNI SPEC.md 1.1.0, section 1; libcni/conf.go 1.3. Beyond it: a configuration of a single
         plugin is known by its `type`, whatever the file is called; a bad file stands in nobody's
         way but its own
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from cni.spec import VERSIONS, CniError, Code, Json, decode, typed
from ipam.execution import NAME

DIRECTORY = "/etc/cni/net.d"

_LISTS, _SINGLES = (".conflist",), (".conf", ".json")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,2}", re.ASCII)


class Conflist(NamedTuple):
    """A network, ready to be run.

    *text* is a conflist that holds all of it, to be remembered for as long as a container is
    attached: the file itself, unless plugins stood in others.
    """

    name: str
    version: str
    plugins: tuple[Json, ...]
    text: str
    disable_check: bool = False
    disable_gc: bool = False

    @property
    def capabilities(self) -> frozenset[str]:
        """What a runtime may pass on: portMappings, ips …"""
        return frozenset(key for plugin in self.plugins for key in declared(plugin))


def declared(plugin: Json) -> list[str]:
    """The capabilities of one plugin."""
    return [key for key, has in (plugin.get("capabilities") or {}).items() if has]


def parse(text: str | bytes, what: str = "the network configuration") -> Conflist:
    """The network in *text*, which errors call *what*."""
    return _conflist(decode(text, what), text, what, [])


def read(path: str | os.PathLike[str]) -> Conflist:
    """The network in a file, with the plugins in the directory of its name beside it."""
    path = os.fspath(path)
    text = _read(path)
    conf = decode(text, path)
    name = conf.get("name")
    if _is_single(conf) or _flag(conf, "loadOnlyInlinedPlugins", path) or not _is_name(name):
        return _conflist(conf, text, path, [])
    beside = [
        (decode(_read(each), each), each)
        for each in _files(os.path.join(os.path.dirname(path), str(name)), (".conf",))
    ]
    return _conflist(conf, text, path, beside)


def find(name: str, directory: str | os.PathLike[str] = DIRECTORY) -> Conflist:
    """The network called *name*: lists before single plugins, each by the order of file names."""
    bad = []
    for kinds in (_LISTS, _SINGLES):
        for path in _files(directory, kinds):
            try:
                if (network := read(path)).name == name:
                    return network
            except CniError as error:
                bad.append(error.message)
    raise CniError(
        Code.INVALID_CONFIG,
        f"there is no network {name!r:.80} in {os.fspath(directory)}",
        "; ".join(bad),
    )


def scan(directory: str | os.PathLike[str] = DIRECTORY) -> dict[str, Conflist | CniError]:
    """What each configuration file holds or lacks, by path, in the order of file names."""
    found: dict[str, Conflist | CniError] = {}
    for path in _files(directory, _LISTS + _SINGLES):
        try:
            found[path] = read(path)
        except CniError as error:
            found[path] = error
    return found


def _files(directory: str | os.PathLike[str], endings: Sequence[str]) -> list[str]:
    try:
        entries = sorted(os.scandir(directory), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{os.fspath(directory)}: {error.strerror}") from None
    return [each.path for each in entries if each.name.endswith(tuple(endings)) and each.is_file()]


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise CniError(Code.IO_FAILURE, f"{path}: {error.strerror}") from None


def _is_single(conf: Json) -> bool:
    return "type" in conf and "plugins" not in conf


def _conflist(
    conf: Json, text: str | bytes, what: str, beside: Sequence[tuple[Json, str]]
) -> Conflist:
    """*beside*: further plugins, and the files they are from."""
    if not _is_name(name := conf.get("name")):
        raise CniError(Code.INVALID_CONFIG, f"{what}: name is {name!r:.80}: no name for a network")
    single = _is_single(conf)
    if single:
        conf = {key: conf[key] for key in ("cniVersion", "name") if key in conf} | {
            "plugins": [conf]
        }
    plugins = [
        _plugin(each, f"{what}: plugins[{index}]")
        for index, each in enumerate(typed(conf.get("plugins"), list, f"{what}: plugins"))
    ] + [_plugin(*each) for each in beside]
    if not plugins:
        raise CniError(Code.INVALID_CONFIG, f"{what}: network {name!r} has no plugins")
    if beside:
        conf = {**conf, "plugins": plugins, "loadOnlyInlinedPlugins": True}
    plain = text.decode() if isinstance(text, bytes) else text
    return Conflist(
        str(name),
        _version(conf, what),
        tuple(plugins),
        json.dumps(conf) if single or beside else plain,
        _flag(conf, "disableCheck", what),
        _flag(conf, "disableGC", what),
    )


def _plugin(value: object, what: str) -> Json:
    plugin = typed(value, dict, what)
    if not _is_name(plugin.get("type")):
        raise CniError(
            Code.INVALID_CONFIG,
            f"{what}: type is {plugin.get('type')!r:.80}: no name for a plugin",
            "it is the name of a program, without its directory",
        )
    capabilities = typed(plugin.get("capabilities"), dict, f"{what}: capabilities")
    for key, has in capabilities.items():
        if not isinstance(has, bool):
            raise CniError(
                Code.INVALID_CONFIG,
                f"{what}: capabilities.{key:.80} is {has!r:.80}, not true or false",
            )
    return plugin


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(NAME.fullmatch(value))


def _version(conf: Json, what: str) -> str:
    """The highest that both sides know, of `cniVersion` and `cniVersions`."""
    said = typed(conf.get("cniVersion"), str, f"{what}: cniVersion")
    several = typed(conf.get("cniVersions"), list, f"{what}: cniVersions")
    offered = [
        typed(each, str, f"{what}: cniVersions[{index}]") for index, each in enumerate(several)
    ]
    if said or not offered:
        offered.append(said or VERSIONS[0])
    for version in offered:
        if not _VERSION.fullmatch(version):
            raise CniError(Code.INVALID_CONFIG, f"{what}: {version!r:.80} is no CNI version")
    known = [version for version in VERSIONS if version in offered]
    if not known:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"{what}: CNI {', '.join(offered)[:80]} is not supported",
            f"supported are {' '.join(VERSIONS)}",
        )
    return known[-1]


def _flag(conf: Json, key: str, what: str) -> bool:
    value = conf.get(key, False)
    if isinstance(value, str):  # which libcni takes, too
        value = {"true": True, "false": False}.get(value.lower(), value)
    if not isinstance(value, bool):
        raise CniError(Code.INVALID_CONFIG, f"{what}: {key} is {value!r:.80}, not true or false")
    return value
