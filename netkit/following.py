"""Following the host's resolv.conf: a thread of netkitd's that has it reach what runs (F8).

Shapes   the text is compared, whatever the kernel tells: only another text is news
Units    seconds
Errors   none: what fails is said in the log, and tried again
Source   moby#46199 is the wish; netkit.renewal says who depends on the file, and who edited theirs
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from netkit import namefiles, renewal
from netkit.engine import Engine
from netkit.errors import NetkitError
from netkit.kernel.pathwatch import PathWatch
from netkit.model import SandboxRecord

_QUIET_S = 0.03  # nobody writes any more
_MOST_S = 0.3  # for somebody to come to an end with writing
_AGAIN_S = 0.5  # for who is being connected, and after what failed


class Follower:
    """`run` is for a thread of its own; *make* gives it an engine."""

    def __init__(self, log: Callable[[str], object], make: Callable[[], Engine] = Engine) -> None:
        self._log = log
        self._make = make
        self._bell, self._rope = os.pipe()
        self._stopping = False

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self.run, name="resolv.conf", daemon=True)
        thread.start()
        return thread

    def is_needed(self) -> bool:
        """Whether there is anybody whose file is kept up to date."""
        with suppress(NetkitError):
            engine = self._make()
            try:
                return any(map(renewal.is_kept, engine.store.all(SandboxRecord)))
            finally:
                engine.close()
        return False

    def stop(self) -> None:
        self._stopping = True
        os.write(self._rope, b"!")

    def run(self) -> None:
        while not self._stopping:
            try:
                with PathWatch(namefiles.HOSTS) as watch:
                    self._follow(watch)
            except (NetkitError, OSError) as error:
                self._log(f"resolv.conf of containers: {error}")
                time.sleep(_AGAIN_S)

    def _follow(self, watch: PathWatch) -> None:
        told: object = None
        left = 0
        while not self._stopping:
            watch.arm()
            text = namefiles.of_host()
            if text != told:
                # twice: somebody may have read the old text, and be about to put it on record
                told, left = text, 2
            if left and self._pass_on():
                left -= 1
            if watch.wait(self._bell, _AGAIN_S if left else None):
                watch.settle(_QUIET_S, _MOST_S)

    def _pass_on(self) -> bool:
        engine = self._make()
        try:
            return engine.renew()
        finally:
            engine.close()
