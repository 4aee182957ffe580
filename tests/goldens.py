"""Golden files: texts that users, or later versions of netkit, rely on.

To accept what is printed today: NETKIT_REWRITE_GOLDEN=1 pytest …; then read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "golden"


def same(name: str, text: str) -> None:
    """Assert that *text* is what the golden file *name* holds."""
    path = _DIRECTORY / name
    if os.environ.get("NETKIT_REWRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{path} differs (NETKIT_REWRITE_GOLDEN=1 accepts the change)"
