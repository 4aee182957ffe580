"""A runtime: networks of CNI plugins, run as containerd, CRI-O and podman run them.

    runtime = Runtime()
    network = conflist.find("web")
    c1 = Attachment("c1", "/run/netns/c1")
    print(runtime.add(network, c1).ips)
    runtime.delete(network, c1)

Shapes   attachments and what is remembered of them: cni.chain; results: cni.spec
Units    seconds
Errors   CniError that names plugin, network and attachment, with the plugin's own code and details;
         an ExceptionGroup of them from gc()
Source   CNI SPEC.md 1.1.0, section 3; libcni/api.go 1.3, whose cache is shared: what one has added
         the other deletes. Where we differ: an ADD that fails is undone (libcni leaves that to its
         callers; containerd and podman do it); an ADD without a DEL since the last is refused (a
         plugin would refuse it, and the undoing then take the healthy attachment away); DEL and
         CHECK speak of the configuration as it was at ADD (CRI-O and podman see to that themselves)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

from cni import chain, conflist
from cni.cache import DIRECTORY, Cache
from cni.chain import Attachment, Cached, knows
from cni.conflist import Conflist
from cni.spec import VERSIONS, CniError, Code, Json, Result, decode, typed
from ipam.errors import PluginFailed
from ipam.execution import DIRECTORIES, execute, find

__all__ = ["Attachment", "Cached", "Conflist", "Runtime"]


class Runtime:
    """Runs plugins that are in *directories*, and remembers in *cache_dir*; safe in threads.

    timeout_s  for each execution
    """

    def __init__(
        self,
        directories: Sequence[str | os.PathLike[str]] = DIRECTORIES,
        *,
        cache_dir: str | os.PathLike[str] = DIRECTORY,
        timeout_s: float = 60.0,
    ) -> None:
        self.path = ":".join(os.path.abspath(directory) for directory in directories)
        self.cache = Cache(cache_dir)
        self.timeout_s = timeout_s

    def add(self, network: Conflist, attachment: Attachment, *, rollback: bool = True) -> Result:
        """Attach; what fails is undone by DELs, unless the caller prefers to see to that."""
        chain.validate(attachment, "ADD")
        with self.cache.locked(attachment.container_id):
            self._refuse_twice(network, attachment)
            for plugin in network.plugins:  # before any of them has done anything
                self._find(network, plugin)
            result: Json | None = None
            begun = 0
            try:
                for plugin in network.plugins:
                    begun += 1
                    result = self._added(network, plugin, attachment, result)
                assert result is not None  # a Conflist has plugins
                self.cache.put(Cached(network.name, attachment, network.text, result))
            except BaseException as error:
                if rollback:
                    self._undo(network, attachment, begun, result, error)
                raise
            return Result.from_json(result, network.version)

    def delete(self, network: Conflist, attachment: Attachment) -> None:
        """Detach; of one that is not attached, or whose namespace is gone, plugins make nothing.

        The first plugin that fails ends it, so that nobody else is given an address to which
        ports still lead; a further DEL goes on.
        """
        chain.validate(attachment, "DEL")
        with self.cache.locked(attachment.container_id):
            self._delete(network, attachment)

    def check(self, network: Conflist, attachment: Attachment) -> None:
        """Raise what a plugin finds amiss."""
        if not knows(network.version, "0.4.0"):
            raise CniError(
                Code.INCOMPATIBLE_VERSION,
                f"network {network.name!r} is of CNI {network.version}, which has no CHECK",
                "raise its cniVersion to 0.4.0 or newer",
            )
        if network.disable_check:
            return
        chain.validate(attachment, "DEL")
        with self.cache.locked(attachment.container_id):
            cached = self.cache.get(network.name, attachment)
            if cached is None:
                raise CniError(
                    Code.UNKNOWN_CONTAINER, f"{attachment} is not attached to {network.name!r}"
                )
            network, attachment = _as_added(network, attachment, cached)
            chain.validate(attachment, "CHECK")
            result = chain.convert(cached.result, network.version)
            for plugin in network.plugins:
                self._call("CHECK", network, plugin, attachment, previous=result)

    def gc(self, network: Conflist, valid: Iterable[tuple[str, str]]) -> None:
        """Free all that no *valid* attachment has; those are (container id, ifname).

        Attachments that are remembered get a DEL each, then, from CNI 1.1.0 on, every plugin is
        told to clean up. What fails keeps nothing else from being done.
        """
        if network.disable_gc:
            return
        kept = sorted({*valid})
        failed: list[CniError] = []
        with self.cache.locked():
            for cached in self.attachments(network.name):
                if cached.attachment.key not in kept:
                    try:
                        self._delete(network, cached.attachment)
                    except CniError as error:
                        failed.append(error)
            for plugin in network.plugins if knows(network.version, "1.1.0") else ():
                try:
                    self._call("GC", network, plugin, valid=kept)
                except CniError as error:
                    failed.append(error)
        if failed:
            raise ExceptionGroup(f"GC of network {network.name!r}", failed)

    def status(self, network: Conflist) -> None:
        """Raise what keeps a plugin from serving an ADD; before CNI 1.1.0 nobody can tell."""
        if knows(network.version, "1.1.0"):
            for plugin in network.plugins:
                self._call("STATUS", network, plugin)

    def versions(self, network: Conflist) -> dict[str, tuple[str, ...]]:
        """The CNI versions that each plugin of a network knows."""
        found = {}
        for plugin in network.plugins:
            # plugins of old want what no VERSION needs
            dummy = Attachment("dummy", "dummy", "dummy")
            asked = {"cniVersion": VERSIONS[-1]}
            try:
                answer = self._execute("VERSION", network, plugin, dummy, asked)
                said = decode(answer, f"what {plugin['type']} says of its versions")
                known = tuple(typed(said.get("supportedVersions"), list, "supportedVersions"))
            except CniError as error:
                if "unknown CNI_COMMAND" not in error.message:
                    raise
                known = VERSIONS[:1]
            found[plugin["type"]] = known
        return found

    def attachments(self, network: str | None = None) -> list[Cached]:
        """What is attached, as far as this runtime and those by libcni remember."""
        return [each for each in self.cache.all() if network in (None, each.network)]

    def alive(self, network: str) -> list[tuple[str, str]]:
        """The attachments that are remembered and whose namespace is there, as gc() wants them.

        One whose namespace nobody wrote down (libcni before 1.2 leaves it to the result, and a
        result of before 0.3 has none) is taken for alive.
        """
        return [
            each.attachment.key
            for each in self.attachments(network)
            if not (path := each.attachment.netns or each.sandbox) or os.path.exists(path)
        ]

    def _refuse_twice(self, network: Conflist, attachment: Attachment) -> None:
        if holder := self.cache.holder(network.name, attachment):
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"{holder.attachment} is attached to {holder.network!r} already",
                f"delete it first; {self.cache.path(network.name, attachment)} says so",
            )

    def _added(
        self, network: Conflist, plugin: Json, attachment: Attachment, previous: Json | None
    ) -> Json:
        answer = self._call("ADD", network, plugin, attachment, previous=previous)
        try:
            return chain.result(answer, network.version)
        except CniError as error:
            raise _told(error, "ADD", network, plugin, attachment) from None

    def _undo(
        self,
        network: Conflist,
        attachment: Attachment,
        begun: int,
        result: Json | None,
        error: BaseException,
    ) -> None:
        """DEL, backwards, to all that have *begun*; the one that failed may have left something."""
        previous = result if knows(network.version, "0.4.0") else None
        for plugin in reversed(network.plugins[:begun]):
            try:
                self._call("DEL", network, plugin, attachment, previous=previous)
            except CniError as second:
                error.add_note(f"and it cannot be undone: {second.message}")

    def _delete(self, network: Conflist, attachment: Attachment) -> None:
        previous: Json | None = None
        if cached := self.cache.get(network.name, attachment):
            network, attachment = _as_added(network, attachment, cached)
            if knows(network.version, "0.4.0"):
                previous = _readable(cached.result, network.version)
        for plugin in reversed(network.plugins):
            self._call("DEL", network, plugin, attachment, previous=previous)
        self.cache.remove(network.name, attachment)

    def _call(
        self,
        verb: str,
        network: Conflist,
        plugin: Json,
        attachment: Attachment | None = None,
        *,
        previous: Json | None = None,
        valid: Iterable[tuple[str, str]] | None = None,
    ) -> bytes:
        conf = chain.request(network, plugin, attachment, previous=previous, valid=valid)
        return self._execute(verb, network, plugin, attachment, conf)

    def _execute(
        self,
        verb: str,
        network: Conflist,
        plugin: Json,
        attachment: Attachment | None,
        conf: Json,
    ) -> bytes:
        environ = os.environ | chain.environment(verb, attachment, self.path)
        stdin = json.dumps(conf).encode()
        try:
            answer, complaint = execute(plugin["type"], environ, stdin, timeout_s=self.timeout_s)
        except PluginFailed as failed:
            error = CniError(failed.code, failed.message, failed.hint)
            raise _told(error, verb, network, plugin, attachment) from None
        if complaint:
            import logging  # lazily: few plugins complain of what they can do

            logging.getLogger(__name__).warning("%s %s: %s", plugin["type"], verb, complaint)
        return answer

    def _find(self, network: Conflist, plugin: Json) -> None:
        try:
            find(plugin["type"], self.path)
        except PluginFailed as failed:
            error = CniError(failed.code, failed.message, failed.hint)
            raise _told(error, "ADD", network, plugin, None) from None


def _told(
    error: CniError, verb: str, network: Conflist, plugin: Json, attachment: Attachment | None
) -> CniError:
    whom = f" for {attachment}" if attachment else ""
    what = f"{plugin['type']} {verb}{whom} in network {network.name!r}: {error.message}"
    return CniError(error.code, what, error.details)


def _as_added(
    network: Conflist, attachment: Attachment, cached: Cached
) -> tuple[Conflist, Attachment]:
    """The network and the attachment as they were at ADD, whatever became of the file."""
    then = cached.attachment
    attachment = attachment._replace(
        netns=attachment.netns or then.netns,
        args=attachment.args or then.args,
        capabilities=attachment.capabilities or then.capabilities,
    )
    try:
        before = conflist.parse(cached.config)
    except CniError:
        return network, attachment
    # libcni does not remember what stood in the directory of the network's name
    if before.name != network.name or network.plugins[: len(before.plugins)] == before.plugins:
        return network, attachment
    return before, attachment


def _readable(result: Json, version: str) -> Json | None:
    """The result that is remembered, if it is any; a DEL must do without."""
    try:
        return chain.convert(result, version)
    except CniError:
        return None
