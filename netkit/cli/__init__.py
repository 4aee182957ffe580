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
from collections.abc import Callable, Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Any

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
    "reattach": ("reattach", "Connect a restarted container to the networks it had"),
    "publish": ("publish", "Publish more ports of a container that runs"),
    "unpublish": ("publish", "Publish ports of it no longer"),
    "update": ("update", "Change aliases, DNS, MTU, labels … of a container that runs"),
    "address": ("live", "Change the addresses of a connected container: add, rm, ls"),
    "route": ("live", "Change its routes: add, rm, ls"),
    "rule": ("live", "Change its policy rules: add, rm, ls"),
    "policy": ("policy", "Show who may talk to whom on a network, open or close it"),
    "allow": ("policy", "Let one container reach another on a closed network"),
    "disallow": ("policy", "Take that back"),
    "egress": ("policy", "Show or change where a network's packets may leave to, or a container's"),
    "link": ("link", "Join two containers, or one and the host, by a wire: ls, inspect, rm"),
    "wait": ("wait", "Wait until an interface is there and has carrier"),
    "dns": ("dns", "Let the host resolve containers' names: host enable, disable, status"),
    "firewall": ("firewall", "Show the firewall's rules, or move them to another back end"),
    "events": ("events", "Print what happens to networks and containers, as it happens"),
    "check": ("system", "Compare the kernel with what netkit made"),
    "repair": ("system", "Put back what others took of what netkit made"),
    "cni": ("cni", "Serve container runtimes as CNI plugins: install, uninstall, conflist"),
    "config": ("config", "Show, check and import the configuration: check, show, import"),
    "completion": ("completion", "Print a script that makes bash, zsh or fish complete commands"),
    "gc": ("system", "Remove what dead processes and containers left behind"),
    "unshare": ("system", "Run a command in a throw-away sandbox host, without being root"),
}


# What can be configured (netkit.config): the kind of value, None for true or false; for --help
KEYS: dict[str, tuple[str | None, str]] = {
    "daemon": (None, "Let CNI plugins start netkitd where none runs."),
    "names": (None, "Let containers of new networks find each other by name."),
    "ipam-plugin-dirs": ("DIR", "Where IPAM plugins are looked for [/opt/cni/bin …]."),
    "state-dir": ("DIR", "Where records are kept [/var/lib/netkit]."),
    "run-dir": ("DIR", "Where runtime files are kept [/run/netkit]."),
    "firewall": (
        "nftables|iptables|none",
        "Firewall of the first network and all after it; none writes no rule at all.",
    ),
    "iptables": (None, "Write firewall rules; not to is --firewall none."),
    "default-address-pools": (
        "base=CIDR,size=N",
        "Where subnets are taken from, and of which length [Docker's].",
    ),
    "ip-forward": (None, "See to it that the host forwards."),
    "ip-forward-no-drop": (None, "If it did not before, let it forward others' packets, too."),
    "userland-proxy": (None, "Let a process publish what translation cannot: at [::1], say."),
    "ip": ("IP", "Where -p binds if it names no address [all addresses]."),
    "dns": ("IP", "DNS server of all containers [the host's]."),
    "dns-opts": ("OPT", "Resolver option of all containers [the host's]."),
    "dns-search": ("DOMAIN", "DNS search domain of all containers [the host's]."),
    "bridge": ("NAME", "An existing bridge for the default network, or none for no such network."),
    "bip": ("IP/N", "Address of the default network's bridge."),
    "bip6": ("IP/N", "Its IPv6 address."),
    "fixed-cidr": ("CIDR", "Where the default network's automatic addresses are taken from."),
    "fixed-cidr-v6": ("CIDR", "The same for IPv6."),
    "default-gateway": ("IP", "Where the default network's default route leads [the bridge]."),
    "default-gateway-v6": ("IP", "The same for IPv6."),
    "ipv6": (None, "IPv6 on the default network."),
    "icc": (None, "Let the default network's containers reach each other."),
    "mtu": ("N", "MTU of the default network [that of the host's default route]."),
    "ip-masq": (None, "Masquerade what leaves the default network."),
}
# those given once for each value
_SINGULAR = {
    "default-address-pools": "default-address-pool",
    "dns-opts": "dns-opt",
    "dns-search": "dns-search",
    "ipam-plugin-dirs": "ipam-plugin-dir",
}


class LazyGroup(click.Group):
    """A group whose commands are imported one by one, as they are used."""

    commands_table = COMMANDS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if any("=" in word for word in args):
            from netkit.cli.common import without_values

            args = without_values(self, ctx, args)
        return super().parse_args(ctx, args)

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


def _keys(function: Callable[..., None]) -> Callable[..., None]:
    """An option for each key of the configuration."""
    for key, (kind, text) in reversed(KEYS.items()):
        names = [f"--{_SINGULAR.get(key, key)}", key.replace("-", "_")]
        settings: dict[str, Any] = {"metavar": kind}
        if kind is None:
            names[0] = f"{names[0]}/--no-{key}"
            settings = {"default": None}
        elif kind == "N":
            settings["type"] = int
        elif key == "firewall":
            settings = {"type": click.Choice(kind.split("|"))}
        elif key in _SINGULAR or key == "dns":
            settings["multiple"] = True
        if key == "bridge":
            names.append("-b")
        function = click.option(*names, help=text, **settings)(function)
    return function


@click.group(cls=LazyGroup, context_settings={"max_content_width": 100})
@click.option("--config", metavar="FILE", help="The configuration [/etc/netkit/netkit.toml].")
@_keys
@click.version_option(None, "--version", "-v", package_name="netkit-containers")
@click.pass_context
def cli(ctx: click.Context, /, config: str | None, **given: Any) -> None:
    """Container networks without a container engine."""
    keys = {name.replace("_", "-"): value for name, value in given.items()}
    ctx.obj = {
        "config": config,
        "given": {key: value for key, value in keys.items() if value not in (None, ())},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `netkit`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "_NETKIT_COMPLETE" in os.environ:
        from netkit.cli import completion

        sys.exit(completion.answer(cli, os.environ[completion.VARIABLE]))
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

        if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
            error.show()  # a group by itself: since click 8.2 its help is an error's message
            return 2
        click.UsageError(printable(error.format_message()), error.ctx).show()
        if isinstance(error, click.NoSuchOption):
            from netkit.cli import absent

            absent.explain(error)
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
