"""libnftables is not thread-safe: each thread has a context of its own."""

from __future__ import annotations

import subprocess
import sys

from scenarios.lab import Host

SCRIPT = """
import threading
from ipaddress import IPv4Address
from netkit.firewall import Publish, libnftables
from netkit.firewall.nftables import Nftables

def publish(first):
    for port in range(first, first + 100):
        firewall.add([Publish(None, port, IPv4Address("10.0.0.2"), 80, "tcp")])

firewall = Nftables()
firewall.open()
threads = [threading.Thread(target=publish, args=(1000 * n,)) for n in range(1, 5)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(libnftables.run("list map inet netkit wildcard4").count(": 10.0.0.2"))
"""


def test_threads_may_publish_at_the_same_time(host: Host) -> None:
    """In a process of its own, for a context shared by two threads takes the process down."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "400\n", "")
