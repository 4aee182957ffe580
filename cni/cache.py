"""What runtimes remember of attachments, as files that libcni reads and writes, too.

Shapes   <directory>/results/<network>-<container id>-<ifname>, a cniCacheV1 (cni.chain.Cached)
Errors   OSError
Source   libcni/api.go 1.3. CNI SPEC.md 1.1.0, section 3, for what may not run at once
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from zlib import crc32

from cni.chain import Attachment, Cached
from cni.spec import CniError

DIRECTORY = "/var/lib/cni"


class Cache:
    """*directory* is made when something is to be remembered."""

    def __init__(self, directory: str | os.PathLike[str] = DIRECTORY) -> None:
        self.directory = os.fspath(directory)

    def path(self, network: str, attachment: Attachment) -> str:
        name = f"{network}-{attachment.container_id}-{attachment.ifname}"
        return os.path.join(self.directory, "results", name)

    def get(self, network: str, attachment: Attachment) -> Cached | None:
        """None where there is nothing, or nothing that can be read, or somebody else's.

        The name of a file says no more than its letters: a-b/c and a/b-c have the same.
        """
        found = self._read(self.path(network, attachment))
        same = found and (found.network, found.attachment.key) == (network, attachment.key)
        return found if same else None

    def holder(self, network: str, attachment: Attachment) -> Cached | None:
        """Whoever has the file that *attachment* would be remembered in."""
        return self._read(self.path(network, attachment))

    def put(self, cached: Cached) -> None:
        path = self.path(cached.network, cached.attachment)
        os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
        written = f"{path}.{os.getpid()}"
        with open(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(cached.to_json())
        os.replace(written, path)  # a reader sees all of it or nothing

    def remove(self, network: str, attachment: Attachment) -> None:
        if (found := self.holder(network, attachment)) and found.attachment.key != attachment.key:
            return
        with suppress(FileNotFoundError):
            os.unlink(self.path(network, attachment))

    def all(self) -> list[Cached]:
        """Whatever can be read, by file name."""
        directory = os.path.join(self.directory, "results")
        names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
        found = (self._read(os.path.join(directory, name)) for name in names)
        return [each for each in found if each and each.network and each.attachment.ifname]

    def _read(self, path: str) -> Cached | None:
        with suppress(FileNotFoundError, IsADirectoryError, CniError), open(path, "rb") as file:
            return Cached.from_json(file.read())
        return None

    @contextmanager
    def locked(self, container_id: str | None = None) -> Iterator[None]:
        """Alone with one container; without, with all of them, as GC must be.

        A byte of one file for each container, the whole file for GC: nothing is left to clean up.
        """
        os.makedirs(self.directory, 0o755, exist_ok=True)
        fd = os.open(
            os.path.join(self.directory, "netkit-runtime.lock"),
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o600,
        )
        start, length = (0, 0) if container_id is None else (crc32(container_id.encode()), 1)
        try:
            # of the open file, not of the process: threads exclude each other, too
            fcntl.fcntl(
                fd,
                fcntl.F_OFD_SETLKW,
                struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0),
            )
            yield
        finally:
            os.close(fd)
