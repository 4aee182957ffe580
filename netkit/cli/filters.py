"""`--filter KEY=VALUE` as Docker has it, for `network ls`, `network prune`, `ps` and `events`.

Shapes   a filter is a key and the values given for it; a test says of one value whether it holds
Errors   InvalidSpec for a key nobody knows, and for a value that can never hold
Source   moby daemon/list.go and daemon/network/filter.go: values of one key are alternatives, keys
         must all hold; of labels every one must, and of `label!` (Docker: prune only) none may.
         `name` is a regular expression, `id` the beginning of one (Docker: any part)
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from netkit.errors import InvalidSpec

Wanted = Mapping[str, Sequence[str]]
Tests = Mapping[str, Callable[[str], bool]]

NETWORK = ("dangling", "driver", "id", "label", "label!", "name", "scope", "type")
PRUNE = ("label", "label!", "until")
CONTAINER = (
    *("before", "exited", "expose", "id", "label", "label!", "name", "network", "publish"),
    *("since", "status"),
)
STATES = ("created", "running", "exited", "dead")
# what Docker has and nothing here is ever in
_OTHER_STATES = ("paused", "restarting", "removing")
_TRUTH = {"true": True, "1": True, "false": False, "0": False}
CHOICES = {
    "dangling": tuple(_TRUTH),
    "status": (*STATES, *_OTHER_STATES),
    "type": ("builtin", "custom"),
}
_EVERY = ("label", "label!", "until")


def parse(
    given: Sequence[str], known: Sequence[str], choices: Wanted = CHOICES
) -> dict[str, list[str]]:
    """What `--filter` was given, by key; only *known* keys."""
    found: dict[str, list[str]] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in known:
            raise InvalidSpec(
                f"invalid filter {text!r:.80}", hint=f"filters are {', '.join(known)}: KEY=VALUE"
            )
        if value not in choices.get(key, (value,)):
            raise InvalidSpec(
                f"invalid filter {text!r:.80}: {value!r:.40} is no {key}",
                hint=f"write {key}= and one of {', '.join(choices[key])}",
            )
        found.setdefault(key, []).append(value)
    return found


def holds(wanted: Wanted, tests: Tests) -> bool:
    """Whether all filters hold."""
    return all(
        (all if key in _EVERY else any)(tests[key](value) for value in values)
        for key, values in wanted.items()
    )


# -- tests


def truth(text: str) -> bool:
    return _TRUTH[text]


def named(pattern: str, name: str) -> bool:
    """Whether *pattern* is the name or fits a part of it; `^/web$` is how Docker's users write."""
    if pattern == name:
        return True
    try:
        return any(re.search(pattern, text) for text in (name, f"/{name}"))
    except re.error as error:
        raise InvalidSpec(
            f"invalid filter 'name={pattern!s:.80}': {error}", hint="it is a regular expression"
        ) from None


def labels(found: Mapping[str, str]) -> Tests:
    """The tests of `label=KEY`, `label=KEY=VALUE` and the two of `label!=`."""

    def has(text: str) -> bool:
        key, equals, value = text.partition("=")
        return key in found and (not equals or found[key] == value)

    return {"label": has, "label!": lambda text: not has(text)}


def older(created: float) -> Callable[[str], bool]:
    """The test of `until=`: an age such as 24h, or a time."""
    return lambda text: created <= moment(text)


def moment(text: str) -> float:
    """Docker's points in time, in seconds since 1970: `10m` ago, a date, a time, or the seconds."""
    if re.fullmatch(r"\d{9,11}(\.\d{1,9})?", text):
        return float(text)
    if re.fullmatch(r"\d{4}-\d\d-\d\d(T.*)?", text):
        from datetime import datetime

        try:
            return datetime.fromisoformat(text).timestamp()
        except ValueError:
            pass
    elif re.fullmatch(r"(\d{1,9}[smh])+", text):
        units = {"s": 1, "m": 60, "h": 3600}
        return time.time() - sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+)(.)", text))
    raise InvalidSpec(
        f"invalid duration or time {text!r:.80}",
        hint="write 90s, 10m, 24h, 1h30m, 2026-01-31 or 2026-01-31T15:04:05Z",
    )


def ports(text: str) -> set[tuple[int, str]]:
    """The (port, protocol) pairs `publish=` and `expose=` are about: 80, 80/udp, 8000-8010/tcp."""
    from netkit.portspec import PortSpec

    return {(spec.port, spec.protocol) for spec in PortSpec.exposed(text)}


def number(key: str, text: str) -> int:
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise InvalidSpec(f"invalid filter '{key}={text!s:.80}'", hint="it takes a number")
    return int(text)
