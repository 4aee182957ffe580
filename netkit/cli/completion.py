"""netkit completion: scripts for bash, zsh and fish, and the answers those ask for.

Shapes   a script asks by running `netkit` with `_NETKIT_COMPLETE=SHELL_complete` and the line
         typed so far; the answer is a candidate a line, in a form of the shell's own
Errors   none: whatever goes wrong, nothing is offered and nothing is said
Source   click's completion; its scripts for zsh and fish. Bash splits words at `=` and `:`, which
         click does not expect, so `--net=web` and `container:web` need a script of our own there
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any, ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    split_arg_string,
)

VARIABLE = "_NETKIT_COMPLETE"
_PROGRAM = "netkit"
_BASH = """\
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value != *[=:] ]] || compopt -o nospace
                ;;
        esac
    done < <(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """The whole line is read here, and a candidate cut to the part that bash would put in."""

    source_template: ClassVar[str] = _BASH
    _cut, _head = 0, ""

    @staticmethod
    def _check_version() -> None:
        """Starts bash to ask it; every bash since 2016 will do."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        word = words.pop() if words and not line[-1:].isspace() else ""
        breaks = set(os.environ.get("COMP_WORDBREAKS", "")) & set("=:")
        self._cut = max((word.rfind(each) + 1 for each in breaks), default=0)
        self._head = _option(word)
        return words[1:], word

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{(self._head + item.value)[self._cut :]}"


class _Whole(ShellComplete):
    """Candidates for shells that put in whole words: `--net=` is part of them."""

    _head = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, word = super().get_completion_args()
        self._head = _option(word)
        return words, word

    def format_completion(self, item: CompletionItem[Any]) -> str:
        item.value = self._head + item.value
        return super().format_completion(item)


class _Zsh(_Whole, ZshComplete):
    pass


class _Fish(_Whole, FishComplete):
    pass


def _option(word: str) -> str:
    """The part of *word* that click leaves out of its candidates: `--net=`."""
    return "".join(word.partition("=")[:2]) if word.startswith("-") and "=" in word else ""


_SHELLS: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete netkit's commands, options and names.

    \b
    bash   netkit completion bash > /etc/bash_completion.d/netkit
    zsh    netkit completion zsh > "${fpath[1]}/_netkit"
    fish   netkit completion fish > ~/.config/fish/completions/netkit.fish

    Or for this shell only: source <(netkit completion bash). Names of networks and containers are
    offered to users who may read the state directory.
    """
    click.echo(_SHELLS[shell](ctx.find_root().command, {}, _PROGRAM, VARIABLE).source(), nl=False)


def answer(cli: click.Command, instruction: str) -> int:
    """Answer the script that set `VARIABLE` to *instruction*; the exit code."""
    shell, _, verb = instruction.partition("_")
    if verb == "complete" and shell in _SHELLS:
        with suppress(Exception):
            click.echo(_SHELLS[shell](cli, {}, _PROGRAM, VARIABLE).complete())
    return 0
