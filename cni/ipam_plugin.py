"""What IPAM plugins share: one call, from the environment to what is printed.

Shapes   `serve`: exit status, and what to print; the same in a process of its own and in netkitd.
         `act`: one verb, for a plugin of ours that has read the command already
Errors   none: they become answers, with CNI's codes or, from 100 on, these
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping

from cni.spec import (
    MOST_BYTES,
    CniError,
    Code,
    Command,
    Json,
    version_of,
    versions_json,
)
from ipam.errors import InvalidPool, IpamError, PoolExhausted

ADDRESS_TAKEN, NOT_LEASED = 100, 101

Verb = Callable[[Command], Json | None]


def serve(
    verbs: Mapping[str, Verb], environ: Mapping[str, str], stdin: str | bytes
) -> tuple[int, Json | None]:
    """One call of a runtime, or of another plugin; VERSION needs no verb."""
    try:
        command = Command.parse(environ, stdin)
        if command.verb == "VERSION":
            return 0, versions_json(command.version)
        return 0, act(verbs, command)
    except CniError as error:
        return 1, error.to_json(version_of(stdin))


def act(verbs: Mapping[str, Verb], command: Command) -> Json | None:
    """What a verb answers; CniError."""
    try:
        return verbs[command.verb](command)
    except IpamError as error:
        raise CniError(_code(error), error.message, error.hint) from error
    except OSError as error:
        raise CniError(Code.IO_FAILURE, str(error)) from error


def run(handle: Callable[[Mapping[str, str], bytes], tuple[int, Json | None]]) -> None:
    """The executable: answers on standard output, and with its exit status."""
    code, answer = handle(os.environ, sys.stdin.buffer.read(MOST_BYTES + 1))
    if answer is not None:
        print(json.dumps(answer))
    sys.exit(code)


def _code(error: IpamError) -> int:
    if isinstance(error, PoolExhausted):
        return Code.TRY_AGAIN_LATER
    return Code.INVALID_CONFIG if isinstance(error, InvalidPool) else ADDRESS_TAKEN
