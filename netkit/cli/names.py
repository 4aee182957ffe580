"""What a word on the command line may be, for the shell that completes it.

Shapes   a Word is a click type that takes any text; its candidates are asked for by completion
         only. They come from a look at the store that changes nothing, and from directories
Errors   none: a user who may not look is offered nothing
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Candidates = Callable[[click.Context, str], Iterable[str]]


class Word(click.types.StringParamType):
    """Text, of which the candidates are known. `like` is what the shell itself may add: "file"."""

    def __init__(self, candidates: Candidates, *, like: str | None = None) -> None:
        self._candidates = candidates
        self._like = like

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        given = _given(ctx, param)
        found = [
            CompletionItem(word)
            for word in self._candidates(ctx, incomplete)
            if word.startswith(incomplete) and word not in given
        ]
        return found + ([CompletionItem(incomplete, type=self._like)] if self._like else [])


def filters(keys: Sequence[str]) -> Word:
    """`KEY=VALUE` of `--filter`, with the values of keys that have few."""

    def candidates(ctx: click.Context, incomplete: str) -> Iterator[str]:
        key, equals, _ = incomplete.partition("=")
        if not equals:
            yield from (f"{key}=" for key in keys)
        else:
            yield from (f"{key}={value}" for value in _filter_values(ctx, key))

    return Word(candidates)


def _filter_values(ctx: click.Context, key: str) -> Iterable[str]:
    from netkit.cli.filters import CHOICES

    if key in CHOICES:
        return CHOICES[key]
    if key == "driver":
        return (*_drivers(), "host", "null")
    if key == "network":
        return _networks(ctx)
    return _containers(ctx) if key in ("before", "since") else ()


def _event_filters(ctx: click.Context, incomplete: str) -> Iterator[str]:
    from netkit.events import CHOICES, FILTERS

    key, equals, _ = incomplete.partition("=")
    sources = {"container": _containers, "link": _links, "network": _networks}
    if not equals:
        yield from (f"{key}=" for key in FILTERS)
    elif key in sources:
        yield from (f"{key}={name}" for name in sources[key](ctx))
    else:
        yield from (f"{key}={value}" for value in CHOICES.get(key, ()))


def _given(ctx: click.Context, param: click.Parameter) -> tuple[str, ...]:
    """What an argument that takes several has got already."""
    value: Any = ctx.params.get(param.name or "")
    return value if param.nargs == -1 and isinstance(value, tuple) else ()


# -- where names come from


def _networks(ctx: click.Context) -> list[str]:
    from netkit.model import BUILT_IN, DEFAULT_NETWORK, NetworkRecord

    made = [name for name, _ in _peek(ctx, NetworkRecord)]
    return sorted({*made, DEFAULT_NETWORK, *BUILT_IN})


def _custom(ctx: click.Context) -> list[str]:
    from netkit.model import NetworkRecord

    return [name for name, _ in _peek(ctx, NetworkRecord)]


def _links(ctx: click.Context) -> list[str]:
    from netkit.model import LinkRecord

    return [name for name, _ in _peek(ctx, LinkRecord)]


def _containers(ctx: click.Context) -> list[str]:
    from netkit.model import SandboxRecord

    return [name for name, _ in _peek(ctx, SandboxRecord)]


def _peek(ctx: click.Context, kind: Any) -> list[tuple[str, str]]:
    # not by an engine: somebody waits with a finger on the key, and to import one takes 50 ms
    from netkit import config
    from netkit.store import SqliteStore

    given = ctx.find_root().params
    state_dir, _ = config.directories(config.load(given.get("config")).config)
    return SqliteStore(given.get("state_dir") or state_dir, run_dir="").peek(kind)


def _modes(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """What `run --net` takes."""
    shared = "container:"
    yield from _networks(ctx)
    if incomplete.startswith(shared):
        yield from (shared + name for name in _containers(ctx))
    else:
        yield shared


def _targets(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """What is connected, or could be: see netkit.targets."""
    from netkit.engines import KINDS
    from netkit.kernel import netns

    yield from sorted({*_containers(ctx), *_entries(netns.NAMED)})
    if incomplete.startswith("pid:"):
        yield from (f"pid:{entry}" for entry in _entries("/proc") if entry.isdigit())
    else:
        yield from ("pid:", "netns:", *(f"{engine}:" for engine in KINDS))


def _programs(ctx: click.Context, incomplete: str) -> Iterator[str]:
    """Programs of PATH, for the first word of a command and if anything of it is there."""
    if incomplete and "/" not in incomplete and not ctx.params.get("command"):
        directories = os.environ.get("PATH", "").split(os.pathsep)
        yield from sorted({name for directory in directories for name in _entries(directory)})


def _driver_options(*_: object) -> list[str]:
    from netkit.specs import OPTIONS

    return [f"{name}=" for name in OPTIONS]


def _ipam_drivers() -> tuple[str, ...]:
    from netkit.specs import IPAM_DRIVERS

    return IPAM_DRIVERS  # and plugins, whose directories hold those of other kinds as well


def _drivers() -> list[str]:
    from netkit.drivers import NAMES
    from netkit.model import BUILT_IN

    return [name for name in NAMES if name not in BUILT_IN]


def _entries(directory: str) -> list[str]:
    """File names that mean nothing else to a shell."""
    try:
        return sorted(name for name in os.listdir(directory) if re.fullmatch(r"[\w.+-]+", name))
    except OSError:
        return []


NETWORKS = Word(lambda ctx, _: _networks(ctx))
CUSTOM_NETWORKS = Word(lambda ctx, _: _custom(ctx))  # those that can be removed
LINKS = Word(lambda ctx, _: _links(ctx))
CONTAINERS = Word(lambda ctx, _: _containers(ctx))
ANYTHING = Word(lambda ctx, _: [*_containers(ctx), *_networks(ctx)])
MODES = Word(_modes)
TARGETS = Word(_targets)
DRIVERS = Word(lambda *_: _drivers())
DRIVER_OPTIONS = Word(_driver_options)
IPAM_DRIVERS = Word(lambda *_: _ipam_drivers())
IPAM_OPTIONS = Word(lambda *_: ("round-robin=true", "sticky=true"))
PROGRAMS = Word(_programs, like="file")
FORMATS = Word(lambda *_: ("json", "table"))
JSON = Word(lambda *_: ("json",))
EVENT_FILTERS = Word(_event_filters)
FILES = Word(lambda *_: (), like="file")
DIRECTORIES = Word(lambda *_: (), like="dir")
SIGNALS = Word(lambda *_: ("HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2"))
