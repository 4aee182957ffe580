"""Watching files by path: what is a change, and what is the bell."""

from __future__ import annotations

import os
import time
from pathlib import Path

from netkit.kernel.pathwatch import PathWatch


def test_a_bell_that_was_rung_is_no_change_nor_is_one_that_was_closed(tmp_path: Path) -> None:
    bell, rope = os.pipe()
    with PathWatch([str(tmp_path / "file")]) as watch:
        os.write(rope, b"!")
        assert not watch.wait(bell, 10)
        began = time.process_time()
        watch.settle(0.05, 5)  # it is quiet: it need not look again and again until the end
        assert time.process_time() - began < 1
        os.close(bell)
        os.close(rope)
        assert not watch.wait(timeout_s=0)
        (tmp_path / "file").touch()
        assert watch.wait(timeout_s=0)
