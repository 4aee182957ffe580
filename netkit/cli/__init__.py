"""The command line: Docker's verbs and flags, one engine behind them.

Errors   on stderr, a sentence and a hint; exit codes as Docker's: 1, 2 (usage), and for run 125
         (netkit failed), 126 (not executable), 127 (not found), else the command's own

A command's module is imported when the command is: `--help` needs click and this file only.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

import click

# name: (module, one line for --help)
COMMANDS = {
    "network": ("network", "Manage networks: create, ls, inspect, rm, prune, connect, disconnect"),
    "run": ("container", "Run a command in a container of its own"),
    "exec": ("container", "Run a command in a running container or namespace"),
    "ps": ("container", "List containers and connected namespaces"),
    "inspect": ("container", "Show all there is to know of containers or networks"),
    "port": ("container", "Show where a container's ports are published"),
    "veth": ("container", "Show which host interface belongs to which container"),
    "logs": ("container", "Print what a detached container printed"),
    "stop": ("container", "Stop running containers"),
    "rm": ("container", "Remove containers and named namespaces"),
    "connect": ("endpoint", "Connect a container, process or namespace to a network"),
    "disconnect": ("endpoint", "Disconnect it again"),
    "check": ("system", "Compare the kernel with what netkit made"),
    "gc": ("system", "Remove what dead processes and containers left behind"),
    "unshare": ("system", "Run a command in a throw-away sandbox host, without being root"),
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, as they are used."""

    commands_table = COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands_table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands_table:
            return None
        module = import_module(f"netkit.cli.{self.commands_table[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, text) for name, (_, text) in self.commands_table.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"max_content_width": 100})
@click.option("--state-dir", metavar="DIR", help="Where records are kept [/var/lib/netkit].")
@click.option("--run-dir", metavar="DIR", help="Where runtime files are kept [/run/netkit].")
@click.option(
    "--firewall",
    type=click.Choice(["nftables", "none"]),
    help="Firewall of the first network and all after it [nftables]; none writes no rule at all.",
)
@click.option(
    "--default-address-pool",
    "address_pools",
    multiple=True,
    metavar="base=CIDR,size=N",
    help="Where subnets are taken from, and of which length [Docker's].",
)
@click.version_option(None, "--version", "-v", package_name="netkit-containers")
@click.pass_context
def cli(
    ctx: click.Context,
    state_dir: str | None,
    run_dir: str | None,
    firewall: str | None,
    address_pools: tuple[str, ...],
) -> None:
    """Container networks without a container engine."""
    ctx.obj = {
        "state_dir": state_dir,
        "run_dir": run_dir,
        "firewall_name": firewall,
        "address_pools": address_pools,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `netkit`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_closed()
    # what is left at exit goes with the process: to search it for cycles first would take 6 ms
    atexit.register(gc.freeze)
    sys.exit(_run(list(arguments)))


def _run(arguments: list[str]) -> int:
    from netkit.errors import NetkitError

    try:
        result = cli.main(arguments, prog_name="netkit", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        from netkit.errors import printable

        click.UsageError(printable(error.format_message()), error.ctx).show()
        return 125 if _verb(arguments) == "run" else 2
    except click.Abort:
        return 130
    except (BrokenPipeError, SystemExit):  # click makes the latter of the former
        _forget_output()  # whoever read our output has had enough of it
        return 141
    except NetkitError as error:
        from netkit.cli.common import complain

        complain(error)
        code: int = getattr(error, "exit_code", 125 if _verb(arguments) == "run" else 1)
        return code
    except OSError as error:  # a full disk behind standard output, a file of ours somebody removed
        from netkit.cli.common import complain

        _forget_output()
        complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def _open_closed() -> None:
    """After `>&-` the next file opened would be standard output, and get what commands print."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115
    # a locale without "…" or a name that is no text must not end in a traceback
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _forget_output() -> None:
    """What is still in the buffer cannot be written: say nothing at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _verb(arguments: list[str]) -> str | None:
    """The command named, whatever options stand before it."""
    return next((word for word in arguments if word in COMMANDS), None)
