"""The keeper's book: its leases as files, and what is said to it and by it, as JSON.

Shapes   one file for each lease, in a directory that is its owner's alone. Times are of
         CLOCK_BOOTTIME, so a file of an earlier boot is worth nothing
Errors   OSError; KernelRefused for a directory that others may write to

What is not understood in the directory is taken away: a lease nobody can read lapses.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from ipaddress import IPv4Address
from typing import Any

import msgspec

from netkit.dhcp.client import Lease
from netkit.errors import KernelRefused

SOCKET = "/run/cni/dhcp.sock"
MOST_BYTES = 1 << 17  # of a request or an answer

_ENDING = ".lease"


class Owner(msgspec.Struct, frozen=True):
    """Who has a lease: an attachment to a network."""

    container: str
    network: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container}/{self.network}/{self.ifname}"


class Wish(msgspec.Struct, frozen=True):
    """What lease is asked for: with which options, and where. *metric* is of the routes."""

    owner: Owner
    netns: str
    options: dict[int, bytes]
    address: IPv4Address | None = None
    metric: int = 0


class Entry(msgspec.Struct, frozen=True):
    """A lease on file. *netns* tells the namespace from a later one at the same path; *mac* is
    where the server, or the router to it, was last heard from."""

    wish: Wish
    netns: str
    lease: Lease
    mtu: int
    mac: bytes


# -- requests and answers: one line each way


class Take(msgspec.Struct, frozen=True, tag="take"):
    wish: Wish


class Release(msgspec.Struct, frozen=True, tag="release"):
    owner: Owner


class Find(msgspec.Struct, frozen=True, tag="find"):
    owner: Owner


class Collect(msgspec.Struct, frozen=True, tag="collect"):
    """Release what is of *network* and of none of the attachments (container, ifname)."""

    network: str
    valid: list[tuple[str, str]]


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Are you there?"""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """*lease* is what was taken or found, *mtu* that of its interface."""

    lease: Lease | None = None
    mtu: int = 0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """*kind* is the name of an error of netkit.errors."""

    kind: str
    message: str
    hint: str = ""


Request = Take | Release | Find | Collect | Hello
Answer = Done | Failed


def encode(value: Request | Answer | Entry) -> bytes:
    return msgspec.json.encode(value, enc_hook=str) + b"\n"


def decode_request(line: bytes) -> Request:
    request: Request = msgspec.json.decode(line, type=Request, dec_hook=_read)
    return request


def decode_answer(line: bytes) -> Answer:
    answer: Answer = msgspec.json.decode(line, type=Answer, dec_hook=_read)
    return answer


def _read(kind: type, value: Any) -> Any:
    return kind(value)


# -- files


def directory_of(socket: str) -> str:
    """Where the keeper at *socket* has its leases."""
    return f"{os.path.splitext(socket)[0]}.leases"


def lock_of(socket: str) -> str:
    """The file it has locked while it lives."""
    return f"{directory_of(socket)}/lock"


def prepare(socket: str) -> None:
    """Make the directory; refuse one that others could have prepared."""
    directory = directory_of(socket)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o022 or found.st_uid != os.geteuid():
        raise KernelRefused(
            f"cannot keep leases in '{directory}': others may write to it",
            hint=f"chown {os.geteuid()} {directory} && chmod 0700 {directory}",
        )


def holds(socket: str, owner: Owner) -> bool:
    """Whether there is a lease of *owner* on file, be there a keeper or not."""
    return os.path.exists(_file(directory_of(socket), owner))


def is_empty(socket: str) -> bool:
    try:
        return not any(name.endswith(_ENDING) for name in os.listdir(directory_of(socket)))
    except FileNotFoundError:
        return True


class Book:
    """The files of one directory, as read and written by the one keeper they have."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            self._boot = file.read().strip()

    def put(self, entry: Entry) -> None:
        path = _file(self._directory, entry.wish.owner)
        fresh = f"{path}.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(self._boot + b"\n" + encode(entry))
        os.replace(fresh, path)

    def remove(self, owner: Owner) -> None:
        with suppress(FileNotFoundError):
            os.unlink(_file(self._directory, owner))

    def entries(self) -> Iterator[Entry]:
        """All there are, of this boot."""
        for name in os.listdir(self._directory):
            if not name.endswith((_ENDING, ".new")):
                continue
            path = os.path.join(self._directory, name)
            try:
                with open(path, "rb") as file:
                    boot, _, body = file.read(MOST_BYTES).partition(b"\n")
                if boot != self._boot or name.endswith(".new"):
                    raise ValueError
                yield msgspec.json.decode(body, type=Entry, dec_hook=_read)
            except (OSError, ValueError):  # msgspec's errors are ValueErrors
                with suppress(OSError):
                    os.unlink(path)


def _file(directory: str, owner: Owner) -> str:
    # an id may be longer than a file's name
    return os.path.join(directory, sha256(str(owner).encode()).hexdigest()[:32] + _ENDING)
