"""Scenarios run in the tests' sandbox, on one firewall back end or on each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scenarios.lab import Host, without_iptables
from tests.conftest import ids  # noqa: F401  (which also moves into the sandbox)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test of each back end that is marked for (scenarios.firewalls); none: the default."""
    marked = metafunc.definition.get_closest_marker("back_ends")
    if marked and marked.args and "host" in metafunc.fixturenames:
        metafunc.parametrize("host", marked.args, indirect=True)


@pytest.fixture
def host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """An empty host: a network namespace with loopback only, and fresh state."""
    firewall = getattr(request, "param", None)
    if firewall == "iptables" and (reason := without_iptables()):
        pytest.skip(reason)
    with Host(firewall) as made:
        yield made
