"""How a file of ours in a CNI bin dir is known; apart, for it is asked in the midst of calls."""

from __future__ import annotations

import os

MARKER = b"# one of netkit's CNI plugins; `netkit cni uninstall` takes it away again\n"
_WITHIN = 1024  # bytes: it follows the shebang


def is_ours(path: str) -> bool:
    """Whether the file at *path* is one of netkit's plugins; one that cannot be read is not."""
    try:
        # a FIFO would be waited for
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return MARKER in os.read(fd, _WITHIN)
    except OSError:  # a directory
        return False
    finally:
        os.close(fd)
