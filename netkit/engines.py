"""Container engines: which process a container of Docker's, podman's or LXC's is.

    find("docker", "web")    the socket of the engine is asked; where none answers, /proc is

Shapes   `Container`: the engine's full id and name for it, and the process it began with
Errors   InvalidSpec for no name of a container; NotFound; Conflict for one that does not run or is
         not the only one; KernelRefused for a socket that is closed to us; EngineFailed
Source   Docker's Engine API, `GET /containers/NAME/json` without a version, which podman serves as
         well; docker(1) and podman(1) for DOCKER_HOST and CONTAINER_HOST. Where names stand on
         disk: Docker's config.v2.json, containers.json of containers/storage, conmon(8)'s arguments

An engine is believed as far as the user it runs as: root's may name any process, another's only
one whose namespace is that user's own. What it sends is bounded in time and in size.
"""

from __future__ import annotations

import glob
import os
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple, TypeVar

import msgspec

from netkit import naming
from netkit.errors import Conflict, InvalidSpec, KernelRefused, NetkitError, NotFound
from netkit.kernel import cgroups, netns
from netkit.kernel.pids import Process

T = TypeVar("T")

_TIMEOUT_S = 5.0  # for one answer
_START_S = 2.0  # from "started" to a process; pipework gives it 3 tries
_PAUSE_S = 0.05
_MOST = 8 << 20  # bytes of one answer: a list of some thousand containers
_PID_LIMIT = 1 << 22  # PID_MAX_LIMIT


class EngineFailed(NetkitError):
    """A container engine gave no answer, or one that makes no sense."""


class Container(NamedTuple):
    engine: str
    id: str
    name: str
    pid: int

    @property
    def path(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def __str__(self) -> str:
        return f"{self.engine}:{self.name}"


class _Engine(NamedTuple):
    lists: str  # the command that shows its containers
    variable: str = ""  # of the environment, for its socket
    sockets: tuple[str, ...] = ()  # "~" is a user's runtime directory
    stores: tuple[str, ...] = ()  # files with names in them; "~" is a user's home


_ENGINES = {
    "docker": _Engine(
        "docker ps -a",
        "DOCKER_HOST",
        ("/run/docker.sock", "~/docker.sock"),
        (
            "/var/lib/docker/containers/*/config.v2.json",
            "~/.local/share/docker/containers/*/config.v2.json",
        ),
    ),
    "podman": _Engine(
        "podman ps -a",
        "CONTAINER_HOST",
        ("/run/podman/podman.sock", "~/podman/podman.sock"),
        (
            # the second one has what was run with --rm; transient stores keep it below /run
            "/var/lib/containers/storage/*-containers/containers.json",
            "/var/lib/containers/storage/*-containers/volatile-containers.json",
            "/run/containers/storage/*-containers/volatile-containers.json",
            "~/.local/share/containers/storage/*-containers/containers.json",
            "~/.local/share/containers/storage/*-containers/volatile-containers.json",
        ),
    ),
    "lxc": _Engine("lxc-ls --running"),
    "containerd": _Engine("nerdctl ps"),
    "cri": _Engine("crictl ps"),
}
KINDS = tuple(_ENGINES)
NAMED = ("docker", "podman", "lxc")  # whose containers have names, which outlive their processes


def find(
    engine: str, name: str, *, root: str = "", environ: Mapping[str, str] = os.environ
) -> Container:
    """The running container that *engine* knows by *name*, by its id or the beginning of it.

    Of several sockets, and /proc after them, the first that knows it tells. *root* stands before
    every path that is looked at.
    """
    naming.validate_name("container", name)
    sockets = _sockets(engine, root, environ)
    unheard: list[OSError] = []
    known: set[str] = set()
    for path in sockets:
        try:
            found = _await_process(engine, path, name, root)
        except _Unheard as error:
            unheard.append(error)
            continue
        if found is not None:
            return found
        with suppress(NetkitError, _Unheard):
            known |= _names(engine, path)
    users = _trusted(environ)
    names = _names_on_disk(engine, root, users)
    running = cgroups.containers(engine, f"{root}/proc")
    found = _in_proc(engine, name, names, running, root, users)
    if found is not None:
        return found
    known |= set(names.values()) | (set(running) if engine == "lxc" else set())
    raise _not_found(engine, name, known, unheard, heard=len(unheard) < len(sockets))


def forgotten(
    engine: str, name: str, *, root: str = "", environ: Mapping[str, str] = os.environ
) -> bool:
    """Whether the engine has no container of that name any more, running or not."""
    heard = False
    for path in _sockets(engine, root, environ):
        try:
            if _ask(engine, path, f"/containers/{name}/json").status != 404:
                return False
            heard = True
        except _Unheard:
            continue
    # nobody heard and nothing read: it cannot be told; and not every engine may have been asked
    names = _names_on_disk(engine, root, _trusted(environ)).values()
    return (heard or bool(names)) and name not in names


def is_monitor(pid: int, container: str, *, root: str = "") -> bool:
    """Whether a process watches over the container of that full id, for root or for us."""
    return ("-c", container) in pairwise(_conmon(pid, root, {0, os.geteuid()}))


# -- by the engine's socket


class _Unheard(OSError):
    """Nobody answers at this socket; `filename` is its path."""


class _State(msgspec.Struct):
    pid: int = msgspec.field(name="Pid")
    status: str = msgspec.field(name="Status", default="")


class _Inspected(msgspec.Struct):
    id: str = msgspec.field(name="Id")
    name: str = msgspec.field(name="Name")
    state: _State = msgspec.field(name="State")


class _Listed(msgspec.Struct):
    names: list[str] = msgspec.field(name="Names")


class _Complaint(msgspec.Struct):
    message: str


class _Answer(NamedTuple):
    status: int
    body: bytes
    uid: int  # of the engine


def _await_process(engine: str, path: str, name: str, root: str) -> Container | None:
    """The container as the engine at *path* sees it; None if it knows of none by that name."""
    end = time.monotonic() + _START_S
    while True:
        answer = _ask(engine, path, f"/containers/{name}/json")
        if answer.status == 404:
            return None
        found = _decode(engine, answer, _Inspected)
        if len(found.id) != 64 or found.id.strip("0123456789abcdef"):
            raise _nonsense(engine, f"{found.id!r:.80} is not the id of a container")
        if not 0 <= found.state.pid < _PID_LIMIT:
            raise _nonsense(engine, f"{found.state.pid} is not the number of a process")
        container = Container(engine, found.id, _plain(found.id, found.name), found.state.pid)
        if container.pid and os.path.exists(f"{root}{container.path}"):
            _refuse_others(container, answer.uid, root)
            return container
        if found.state.status in ("exited", "dead", "stopped", "removing", "configured"):
            raise _not_running(container, found.state.status)
        # it is just starting, or has just ended and nobody noticed
        if time.monotonic() > end:
            if container.pid:
                raise Conflict(
                    f"cannot see process {container.pid}, which {engine} says container "
                    f"'{container.name}' is",
                    hint=f"run netkit where {engine}'s containers run, not in a container or VM",
                )
            raise _not_running(container, found.state.status)
        time.sleep(_PAUSE_S)


def _refuse_others(container: Container, uid: int, root: str) -> None:
    """An engine that runs as an ordinary user may not point to what is somebody else's."""
    if uid in (0, os.geteuid()):
        return
    if (owner := netns.owner(f"{root}{container.path}")) != uid:
        whose = "of nobody known here" if owner is None else f"of uid {owner}"
        raise EngineFailed(
            f"{container.engine} of uid {uid} says container '{container.name}' is process "
            f"{container.pid}, but the network namespace of that is {whose}",
            hint=f"if it is the right one, name it pid:{container.pid}",
        )


def _names(engine: str, path: str) -> set[str]:
    listed = _decode(engine, _ask(engine, path, "/containers/json?all=1"), list[_Listed])
    return {name.lstrip("/") for each in listed for name in each.names}


def _ask(engine: str, path: str, target: str) -> _Answer:
    """What is answered to `GET target`; _Unheard if there is nobody to ask."""
    from http.client import HTTPConnection, HTTPException  # lazily: 20 ms

    with _Line(_TIMEOUT_S, _MOST) as line:
        try:
            line.connect(path)
        except OSError as error:
            raise _Unheard(error.errno, error.strerror or str(error), path) from error
        uid = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        connection = HTTPConnection(engine)
        connection.sock = line
        try:
            connection.request("GET", target, headers={"Connection": "close"})
            with connection.getresponse() as answer:
                return _Answer(answer.status, answer.read(), uid)
        except TimeoutError as error:
            raise EngineFailed(
                f"{engine} did not answer at {path} within {_TIMEOUT_S:g} s",
                hint=f"see whether `{_ENGINES[engine].lists}` answers, or name the process: pid:N",
            ) from error
        except (OSError, HTTPException, ValueError) as error:
            raise _nonsense(engine, f"{type(error).__name__}: {error}") from error


class _Line(socket.socket):
    """A connection that ends: after so many seconds or bytes, however they come."""

    def __init__(self, timeout_s: float, most: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self.settimeout(timeout_s)
        self._end = time.monotonic() + timeout_s
        self._left = most

    def recv_into(self, *args: object, **kwargs: object) -> int:
        left_s = self._end - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self.settimeout(left_s)
        count: int = super().recv_into(*args, **kwargs)  # type: ignore[arg-type]
        self._left -= count
        if self._left < 0:
            raise OSError(f"more than {_MOST >> 20} MiB")
        return count


def _decode(engine: str, answer: _Answer, kind: type[T]) -> T:
    try:
        if answer.status == 200:
            return msgspec.json.decode(answer.body, type=kind)
        said = msgspec.json.decode(answer.body, type=_Complaint).message
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _nonsense(engine, f"status {answer.status}, {error}") from error
    if "multiple ids" in said.lower() or "more than one" in said.lower():
        raise Conflict(f"{engine} says: {said:.200}", hint="give more digits of the id")
    raise EngineFailed(f"{engine} says: {said:.200} (status {answer.status})")


def _plain(id: str, name: str) -> str:
    """The name, if it may be one of netkit's; else the id, cut short."""
    try:
        return naming.validate_name("container", name.removeprefix("/"))
    except InvalidSpec:
        return naming.short_id(id)


def _nonsense(engine: str, why: str) -> EngineFailed:
    return EngineFailed(
        f"{engine} answered nothing that makes sense: {why:.200}",
        hint="see whether the socket is that engine's, or name the process: pid:N",
    )


def _sockets(engine: str, root: str, environ: Mapping[str, str]) -> list[str]:
    """Where the engine may listen: root's first, then the user's own."""
    variable, defaults = _ENGINES[engine].variable, _ENGINES[engine].sockets
    if given := environ.get(variable):
        path = given.removeprefix("unix://")
        if path == given or not path.startswith("/") or not path.isprintable():
            raise InvalidSpec(
                f"cannot ask {engine} at {variable}={given!r:.200}: not a socket of this machine",
                hint=f"unset it or write unix:///path; or name a process here: pid:N; "
                f"containers of another machine are out of netkit's reach ({engine})",
            )
        return [root + path]
    directories = [environ.get("XDG_RUNTIME_DIR", "")]
    directories += [f"/run/user/{uid}" for uid in sorted(_trusted(environ) - {0})]
    users = [d for d in dict.fromkeys(directories) if d.startswith("/")]
    return [
        root + path.replace("~", directory)
        for path in defaults
        for directory in (users if "~" in path else [""])
    ]


# -- by the cgroups of its processes


def _trusted(environ: Mapping[str, str]) -> set[int]:
    """Whose containers may be found without their engine: root's, our own, those of sudo's user."""
    users = {0, os.geteuid()}
    sudo = environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and sudo.isascii() and sudo.isdigit():
        users.add(int(sudo[:10]))
    return users


def _in_proc(
    engine: str,
    name: str,
    names: Mapping[str, str],
    running: Mapping[str, list[Process]],
    root: str,
    users: set[int],
) -> Container | None:
    """The one container of that name or id that has a process; None if none has ever been."""
    ids = [id for id, its in names.items() if its == name] or [name] * (name in running)
    if not ids and engine != "lxc":
        ids = sorted(id for id in {*names, *running} if id.startswith(name))
    ids = [id for id in ids if id in running] or ids
    if len(ids) > 1:
        which = ", ".join(map(naming.short_id, ids[:5]))
        raise Conflict(
            f"more than one container is {engine}:{name}: {which}", hint="give more of the id"
        )
    if not ids:
        return None
    its = names.get(ids[0], ids[0] if engine == "lxc" else naming.short_id(ids[0]))
    for first in running.get(ids[0], ())[:1]:
        container = Container(engine, ids[0], its, first.pid)
        if netns.owner(f"{root}{container.path}") not in users:
            raise KernelRefused(
                f"cannot tell whether process {first.pid} is {container}: "
                "its network namespace is another user's",
                hint=f"start {engine}'s service, or name the process: pid:{first.pid}",
            )
        return container
    raise _not_running(Container(engine, ids[0], its, 0), "")


class _StoredByDocker(msgspec.Struct):
    id: str = msgspec.field(name="ID")
    name: str = msgspec.field(name="Name")


class _StoredByPodman(msgspec.Struct):
    id: str
    names: list[str] = []


def _names_on_disk(engine: str, root: str, users: set[int]) -> dict[str, str]:
    """Name by id, of the containers whose engine left a note of it where we may read."""
    found: dict[str, str] = {}
    homes = [_home(uid) for uid in users - {0}]
    for pattern in _ENGINES[engine].stores:
        for home in homes if "~" in pattern else [""]:
            for path in glob.iglob(root + pattern.replace("~", glob.escape(home))):
                found.update(_stored(engine, cgroups.read(path)))
    if engine == "podman":
        found.update(_conmons(root, users))
    return {id: _plain(id, name) for id, name in found.items()}


def _stored(engine: str, text: bytes) -> Iterator[tuple[str, str]]:
    try:
        if engine == "docker":
            one = msgspec.json.decode(text, type=_StoredByDocker)
            yield one.id, one.name
        else:
            for each in msgspec.json.decode(text, type=list[_StoredByPodman]):
                yield from ((each.id, name) for name in each.names[:1])
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return  # half written, or of a version to come


def _conmons(root: str, users: set[int]) -> Iterator[tuple[str, str]]:
    """What the monitors of podman's containers were started with: `conmon … -c ID … -n NAME`."""
    for pid in cgroups.processes(f"{root}/proc"):
        words = _conmon(pid, root, users)
        with suppress(ValueError, IndexError):
            yield words[words.index("-c") + 1], words[words.index("-n") + 1]


def _conmon(pid: int, root: str, users: set[int]) -> list[str]:
    """What a monitor of these users' containers was started with; nothing, if it is none."""
    words = cgroups.read(f"{root}/proc/{pid}/cmdline").decode("latin-1").split("\0")
    with suppress(OSError):
        if os.path.basename(words[0]) == "conmon":
            # anybody may be called conmon
            return words if os.stat(f"{root}/proc/{pid}").st_uid in users else []
    return []


def _home(uid: int) -> str:
    import pwd

    with suppress(KeyError):
        return pwd.getpwuid(uid).pw_dir
    return "/nonexistent"


# -- what to say


def _not_running(container: Container, status: str) -> Conflict:
    return Conflict(
        f"container {container} is not running" + (f" ({status:.20})" if status else ""),
        hint=f"start it first; `{_ENGINES[container.engine].lists}` shows what it does",
    )


def _not_found(
    engine: str, name: str, known: set[str], unheard: list[OSError], *, heard: bool
) -> NetkitError:
    import difflib

    what, lists = f"no such container: {engine}:{name}", _ENGINES[engine].lists
    near = [f"{engine}:{each}" for each in difflib.get_close_matches(name, sorted(known), 3)]
    if near:
        return NotFound(what, hint=f"did you mean {' or '.join(near)}?")
    for error in unheard:
        if isinstance(error.__cause__, PermissionError):
            return KernelRefused(
                f"cannot ask {engine} for container '{name}': {error.filename}: {error.strerror}",
                hint=f"run it as root, or join the group that may use the socket ('{engine}'); "
                "or name the process: pid:N",
            )
    if heard:
        return NotFound(what, hint=f"`{lists}` lists them")
    where = " or ".join(str(error.filename) for error in unheard)
    nobody = f"nobody answers at {where}, and " if where else ""
    return NotFound(
        f"{what} ({nobody}no process is known by that name)",
        hint=f"`{lists}` shows them; one that runs is always found by its full id, or by pid:N",
    )
