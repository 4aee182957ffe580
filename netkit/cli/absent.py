"""Docker's options that netkit has not: said by name, with the way out.

To take one and do nothing would be a lie that shows in production only.
"""

from __future__ import annotations

import sys

import click

_ENGINE = (
    "netkit is no container engine: run it with Docker or Podman, then netkit connect docker:NAME"
)
_SWARM = "there is no swarm here, so leave it out"
_LOG = "the log is what the command printed, as it is, without times"

# by command; of the rest of docker run's options all but a few are an engine's
_HINTS = {
    "run": {
        "--entrypoint": "there is no image: the words after the options are the command",
        "--restart": "let systemd run `netkit run`, it restarts what ends",
        "--privileged": "a container of netkit's may do what its caller may",
        **dict.fromkeys(
            (
                *("--cap-add", "--cap-drop", "--cpus", "--device", "--gpus", "--init", "--memory"),
                *("--mount", "--pid", "--platform", "--pull", "--read-only", "--security-opt"),
                *("--tmpfs", "--ulimit", "--user", "--userns", "--volume", "--volumes-from"),
                *("-m", "-u", "-v"),
            ),
            _ENGINE,
        ),
    },
    "exec": dict.fromkeys(("-d", "--detach"), "put & behind it")
    | dict.fromkeys(("-u", "--user"), "write exec CONTAINER -- setpriv --reuid=UID COMMAND"),
    "create": dict.fromkeys(
        ("--attachable", "--config-from", "--config-only", "--ingress", "--scope"), _SWARM
    ),
    "ps": dict.fromkeys(("-s", "--size"), "containers have no file system of their own"),
    "logs": dict.fromkeys(("--since", "--until", "--timestamps", "--details"), _LOG),
    "rm": dict.fromkeys(("-l", "--link"), "a link goes with the container that has it"),
}


def explain(error: click.NoSuchOption) -> None:
    """The hint below click's `No such option`, if there is one."""
    command = error.ctx.info_name if error.ctx else None
    if hint := _HINTS.get(command or "", {}).get(error.option_name):
        print(f"Hint:  {hint}", file=sys.stderr)
