"""Manual pages for the wheel, built from the command line itself; they land in share/man/man1."""

from __future__ import annotations

import os
import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface):
    """hatchling's custom hook; an editable install, where there is no share/man, goes without."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, self.root)
        from netkit.cli import cli, man

        directory = os.path.join(self.root, "build", "man")
        for path in man.write(cli, directory, self.metadata.version):
            build_data["shared_data"][path] = f"share/man/man1/{os.path.basename(path)}"
