"""The sandbox all tests run in: at import, pytest moves into a throw-away host of its own.

Works as root, as an ordinary user, and in xdist's workers. The developer's own network, /run, /etc
and state are never seen, let alone touched.
"""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

from netkit import naming
from netkit.errors import KernelRefused
from netkit.kernel import lab as throw_away

try:
    throw_away.enter()
except KernelRefused as refused:
    pytest.exit(f"{refused}: {refused.hint}", returncode=5)
if "PYTEST_XDIST_WORKER" not in os.environ:
    # /run is each worker's own and /tmp/pytest-of-root may be another user's, so neither will do
    _temporary = tempfile.mkdtemp(prefix="netkit-pytest-")
    os.environ["PYTEST_DEBUG_TEMPROOT"] = _temporary
    atexit.register(shutil.rmtree, _temporary, ignore_errors=True)
os.environ["PATH"] += ":/usr/sbin:/sbin"
os.environ["NETKIT_CONFIG"] = os.devnull  # this machine's own is none of the tests' business
os.environ["NETKIT_DAEMON"] = "no"  # plugins would start one, for nobody to end

# after the move, so that whatever these open, they open inside
import hypothesis

from scenarios.lab import Host

# the tests start netkit some thousand times: it is to be compiled once
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# a shell's background job ignores them, and whatever a test starts would as well
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

# a busy machine is no failure; nor is a checkout that belongs to another user, as with nobody's run
hypothesis.settings.register_profile(
    "netkit",
    deadline=None,
    **({} if os.access(".", os.W_OK) else {"database": None}),
)
hypothesis.settings.load_profile("netkit")


def pytest_collection_finish() -> None:
    """What 8000 tests are is not looked through again and again, nor copied by who forks."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def ids() -> Iterator[None]:
    """No id begins as the names of containers do here (c1, db, be …): where one of that name is
    gone, or not yet there, it would now and then mean the one with that id.
    """
    new_id = naming.new_id

    def drawn() -> str:
        while (id := new_id())[0] in "abcde":
            pass
        return id

    with pytest.MonkeyPatch.context() as patch:  # a test's own is undone before its fixtures end
        patch.setattr(naming, "new_id", drawn)
        yield


@pytest.fixture
def host() -> Iterator[Host]:
    """An empty host: a network namespace with loopback only, and fresh state."""
    with Host() as made:
        yield made
