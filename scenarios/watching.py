"""netkitd's watch, as a thread of the test's own.

    with watching() as said:
        run("nft flush ruleset")
        assert until(lambda: not engine.check(), 2)

Shapes   what is yielded is what it says, line by line
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netkit.daemon import burier
from netkit.watch import Watch
from scenarios.lab import until

PROMISED_S = 2.0  # until what was taken is back
HEALED_S = 5 * PROMISED_S  # on a busy machine
_BOUND_S = 10.0


@contextmanager
def watching() -> Iterator[list[str]]:
    """Watch this host, as long as the block lasts."""
    said: list[str] = []
    watch = Watch(said.append, burier)
    thread = watch.start()
    try:
        assert until(lambda: any("begins" in line for line in said)), said
        yield said
    finally:
        watch.stop()
        thread.join(_BOUND_S)
        assert not thread.is_alive()
