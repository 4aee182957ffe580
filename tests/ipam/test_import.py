"""The package's front door."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ipam


def test_every_public_name_is_found_where_it_is_said_to_be() -> None:
    homes = {name: home for home, names in ipam._HOMES.items() for name in names}
    assert sorted(homes) == ipam.__all__
    for name, home in homes.items():
        assert getattr(ipam, name) is getattr(import_module(f"ipam.{home}"), name)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'ipam' has no attribute 'Pol'"):
        ipam.Pol  # noqa: B018


def test_a_directory_of_leases_needs_no_sqlite(tmp_path: Path) -> None:
    """The host-local plugin is executed once per container: imports are what it costs."""
    script = (
        "import sys; from ipam import HostLocalDir; HostLocalDir(sys.argv[1]);"
        "print(sorted({'sqlite3', 'dataclasses', 'netaddr', 'hashlib'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "web"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "[]\n"
