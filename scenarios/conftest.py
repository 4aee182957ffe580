"""Scenarios run in the tests' sandbox."""

from __future__ import annotations

from tests.conftest import host

__all__ = ["host"]
