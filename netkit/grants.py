"""Asking an IPAM plugin, which may be slow, for the addresses of an endpoint that is to be.

    1  the loan goes on record: from here on what the plugin gives is released, whoever dies
    2  the plugin is asked, while no transaction waits for it
    3  the caller puts the endpoint on record and takes the loan off it, in one transaction

Shapes   see LoanRecord. Its lock is held through all three, and the plugin inherits it: nobody
         releases what the plugin of a dead process is about to lease
Errors   NetkitError, IpamError, before any other effect
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from netkit import allocation, endpoints, steps
from netkit.changes import Changes
from netkit.errors import Conflict, NetkitError
from netkit.kernel import Kernel
from netkit.model import NetworkRecord, SandboxRecord
from netkit.specs import Request


@contextmanager
def asked(
    changes: Changes, net: NetworkRecord, sandbox: SandboxRecord, request: Request, kernel: Kernel
) -> Iterator[allocation.Granted | None]:
    """What the network's plugin gives *sandbox*; None where there is none to ask.

    It is released again unless its loan is off the record when this is left.
    """
    if net.plugin is None or request.addressless:
        yield None
        return
    if changes.dry:
        raise Conflict(
            f"nobody knows which addresses '{net.plugin}' would give, and to ask is to lease them",
            hint="leave out --dry-run, or give --ip 0/0",
        )
    with changes.store.transaction():
        endpoints.refuse(changes, net, sandbox, request)
        ifname = endpoints.free_ifname(changes, sandbox, request.ifname, kernel)
    import ipam

    assert sandbox.netns is not None
    loan = changes.loan(net, f"{sandbox.name}/{ifname}", sandbox.netns)
    with changes.store.heritable(loan.id) as lock:
        assert lock is not None
        changes.release(loan.id, lock)  # what an earlier one left: whoever asks has nothing
        with changes.store.transaction():
            changes.store.put(loan)
        try:
            steps.point("asking")
            plugin = allocation.plugin(loan, changes.config.ipam_plugin_dirs, (lock,))
            owner = ipam.Owner(loan.owner, changes.epoch, loan.netns)
            grant = plugin.grant(owner, request.addresses)
            steps.point("granted")
            yield allocation.Granted(loan, ifname, grant)
        except (ipam.PluginFailed, ipam.InvalidPool) as error:
            # it has been asked to release what it may have leased; a note says if that went wrong
            changes.close(loan, released=not getattr(error, "__notes__", ()))
            raise
        except BaseException as error:
            try:
                changes.release(loan.id, lock)
            except NetkitError as second:
                error.add_note(f"and {second}")
            raise
