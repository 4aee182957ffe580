"""The part of Go's text/template that people use with `docker … --format`.

Shapes   data is what JSON can say: dict, list, str, int, float, bool, None
Errors   InvalidSpec: at compile for a construct outside the part, at render for a field or a value
         that does not fit; both name it
Source   https://pkg.go.dev/text/template and docker/cli's formatter. Every case of the tests that
         has a Go spelling was run through docker 28.2.2; known to differ: a missing field is an
         error here, as in Docker's structs (a map would print `<no value>`), and the escapes
         \\t and \\n of the text are honoured everywhere, not in `ls` commands only

Understood   text   {{.}} {{.A.B}} {{$}} {{$v.A}} {{"text"}} {{(index .A "k").B}}   {{- trim -}}
             {{json X}} {{len X}} {{upper X}} {{lower X}} {{join X ","}} {{index X "k" 0}}
             {{println X}} {{range X}} {{range $v := X}} {{range $k, $v := X}}
             {{if X}} … {{else}} … {{end}}
Refused      pipelines, with, define, else if, variables outside range, comparison and printf
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from netkit.errors import InvalidSpec

Scope = Mapping[str, Any]  # "." the current value, "$" the first one, "$name" range's variables
Eval = Callable[[Scope], Any]

MAX_DEPTH = 50  # of blocks in blocks and of parentheses: the parser recurses

_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""(?P<close>[ \t\r\n]+-}}|}})
      | (?P<space>[ \t\r\n]+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
      | (?P<path>\$\w*(?:\.[^\W\d]\w*)*|(?:\.[^\W\d]\w*)+|\.)
      | (?P<number>-?[0-9]{1,18}\b)
      | (?P<word>[^\W\d]\w*)
      | (?P<mark>:=|[,()|])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
_BLOCKS = ("range", "if")


class Template:
    """A compiled template."""

    def __init__(self, body: Eval) -> None:
        self._body = body

    def render(self, data: object) -> str:
        """The text for *data*."""
        return str(self._body({".": data, "$": data}))


def compile(text: str) -> Template:
    """The template *text* says; without a `table ` prefix, which is the caller's."""
    parser = _Parser(_scan(text))
    body, _ = parser.body(frozenset({"$"}), "")
    return Template(body)


def table_header(text: str, headings: Mapping[str, str] | None = None) -> str:
    """The header row for *text*: each field in capitals, or as *headings* has it by its name.

    A prefix `table ` is dropped; `{{.RunningFor}}` reads RUNNING FOR, `{{.A.B}}` as its last part.
    """
    compile(text.removeprefix("table "))
    row = []
    for item in _scan(text.removeprefix("table ")):
        if isinstance(item, str):
            row.append(item)
        elif item and item[0].text not in _BLOCKS:
            # `{{.}}` and `{{$v}}` have no name to show
            paths = [each.text for each in item if each.kind == "path" and each.text[1:]]
            row += [_heading(each, headings or {}) for each in paths[:1]]
    return "".join(row)


class _Token(NamedTuple):
    kind: str
    text: str


class _Parser:
    """Recursive descent; every method leaves behind it what it has read."""

    def __init__(self, items: list[str | list[_Token]]) -> None:
        self._items = iter(items)
        self._action: list[_Token] = []  # what is left of the {{…}} being read
        self._depth = 0

    def body(self, known: frozenset[str], block: str) -> tuple[Eval, str]:
        """Text and actions to the end, within a *block* to its {{else}} or {{end}}; and which."""
        parts: list[Eval] = []
        for item in self._items:
            if isinstance(item, str):
                parts.append(_constant(item))
                continue
            self._action = item
            word = self._word()
            if word in ("else", "end"):
                if not block or block == word:
                    raise InvalidSpec(f"template: {{{{{word}}}}} has no block to close")
                self._take()
                if self._action:
                    raise _unknown(f"{word} {self._action[0].text}")
                return _joined(parts), word
            parts.append(self._block(known, word) if word in _BLOCKS else _shown(self._call(known)))
            if self._action:
                raise _unknown(self._action[0].text)
        if block:
            raise InvalidSpec(f"template: {{{{{block}}}}} has no {{{{end}}}}")
        return _joined(parts), ""

    def _block(self, known: frozenset[str], word: str) -> Eval:
        self._deeper()
        self._take()
        names = self._variables() if word == "range" else []
        value = self._call(known)
        if self._action:
            raise _unknown(self._action[0].text)
        inner, closed = self.body(known | {*names}, word)
        other: Eval = _constant("")
        if closed == "else":
            other, _ = self.body(known, "else")
        self._depth -= 1
        if word == "range":
            return _range(value, names, inner, other)
        return lambda scope: inner(scope) if value(scope) else other(scope)

    def _variables(self) -> list[str]:
        """The names before `:=`, if there is one."""
        marks = [each.text for each in self._action[:4]]
        count = 1 if marks[1:2] == [":="] else 2 if marks[1::2] == [",", ":="] else 0
        names = marks[: 2 * count : 2]
        for name in names:
            if not re.fullmatch(r"\$\w+", name):
                raise InvalidSpec(f"template: range cannot assign to {name!r}, only to a $name")
        self._action = self._action[2 * count :]
        return names

    def _call(self, known: frozenset[str]) -> Eval:
        """A value, or a function and its arguments; to the end of the action or to a `)`."""
        if self._word() in (None, "true", "false"):
            return self._operand(known)
        name = self._take().text
        if name not in _FUNCTIONS:
            raise _unknown(name)
        fewest, most, function = _FUNCTIONS[name]
        arguments: list[Eval] = []
        while self._action and self._action[0].text != ")":
            arguments.append(self._operand(known))
        if not fewest <= len(arguments) <= most:
            raise InvalidSpec(
                f"template: {name} takes {_count(fewest, most)}, not {len(arguments)} values"
            )
        return lambda scope: function(*(each(scope) for each in arguments))

    def _operand(self, known: frozenset[str]) -> Eval:
        kind, text = self._take()
        if kind == "string":
            return _constant(_unquoted(text))
        if kind == "number":
            return _constant(int(text))
        if text in ("true", "false"):
            return _constant(text == "true")
        if kind == "path":
            name, *fields = text.split(".")
            if name and name not in known:
                raise InvalidSpec(f"template: undefined variable {name!r}")
            return _fields(lambda scope: scope[name or "."], [each for each in fields if each])
        if text == "(":
            self._deeper()
            value = self._call(known)
            if self._take().text != ")":
                raise InvalidSpec("template: a parenthesis is not closed")
            self._depth -= 1
            if self._action and self._action[0].kind == "path" and self._action[0].text[1:]:
                value = _fields(value, self._take().text.split(".")[1:])
            return value
        raise _unknown(text)

    def _word(self) -> str | None:
        """The word that comes next, None if it is something else."""
        return self._action[0].text if self._action and self._action[0].kind == "word" else None

    def _take(self) -> _Token:
        if not self._action:
            raise InvalidSpec("template: a value is missing before }}")
        return self._action.pop(0)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise InvalidSpec(f"template: more than {MAX_DEPTH} levels of blocks and parentheses")


def _scan(text: str) -> list[str | list[_Token]]:
    """Text and actions in turn; escapes and trim markers are done with."""
    items: list[str | list[_Token]] = []
    at, trim = 0, False
    while True:
        opening = text.find("{{", at)
        chunk = text[at:] if opening < 0 else text[at:opening]
        chunk = chunk.replace(r"\t", "\t").replace(r"\n", "\n")
        if trim:
            chunk = chunk.lstrip(_SPACE)
        if opening < 0:
            return [*items, chunk]
        at = opening + 2
        if text[at : at + 1] == "-" and text[at + 1 : at + 2] in (*_SPACE,):
            chunk, at = chunk.rstrip(_SPACE), at + 1
        items.append(chunk)
        tokens: list[_Token] = []
        while True:
            found = _TOKEN.match(text, at)
            if found is None or found.lastgroup is None:
                if text[at:].strip(_SPACE):
                    raise _unknown(text[at : at + 20].split("}}")[0])
                raise InvalidSpec(f"template: {text[opening:]!r:.40} is not closed by }}}}")
            at = found.end()
            if found.lastgroup == "close":
                trim = found[0] != "}}"
                break
            if found.lastgroup != "space":
                tokens.append(_Token(found.lastgroup, found[0]))
        items.append(tokens)


def _constant(value: str | int) -> Eval:
    return lambda scope: value


def _joined(parts: list[Eval]) -> Eval:
    return lambda scope: "".join([part(scope) for part in parts])


def _shown(value: Eval) -> Eval:
    def show(scope: Scope) -> str:
        result = value(scope)
        return "<no value>" if result is None else _text(result)

    return show


def _fields(value: Eval, names: list[str]) -> Eval:
    def get(scope: Scope) -> Any:
        result = value(scope)
        for name in names:
            if not isinstance(result, dict):
                raise InvalidSpec(f"template: no field {name!r} in {_kind(result)}")
            if name not in result:
                raise InvalidSpec(
                    f"template: no field {name!r}; there are: {', '.join(sorted(result)) or 'none'}"
                )
            result = result[name]
        return result

    return get


def _range(value: Eval, names: list[str], inner: Eval, other: Eval) -> Eval:
    def loop(scope: Scope) -> str:
        over = value(scope)
        pairs: Iterable[tuple[Any, Any]]
        if isinstance(over, dict):
            pairs = sorted(over.items())  # as Go: by key, so that output is the same each time
        elif isinstance(over, list | tuple):
            pairs = enumerate(over)
        elif over is None:
            pairs = ()
        else:
            raise InvalidSpec(f"template: range wants a list or map, not {_kind(over)}")
        # of one variable it is the value, of two the second
        rounds = [
            inner({**scope, ".": item, **dict(zip(names[::-1], (item, key), strict=False))})
            for key, item in pairs
        ]
        return "".join(rounds) if rounds else str(other(scope))

    return loop


def _json(value: Any) -> str:
    import json  # 7 ms: most formats do without

    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _len(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))  # Go counts bytes
    if isinstance(value, dict | list | tuple):
        return len(value)
    raise InvalidSpec(f"template: len wants a list, map or string, not {_kind(value)}")


def _join(value: Any, separator: Any) -> str:
    if not isinstance(value, list | tuple) or not isinstance(separator, str):
        raise InvalidSpec(
            f"template: join wants a list and a string, not {_kind(value)} and {_kind(separator)}"
        )
    return separator.join(map(_text, value))


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        if isinstance(value, dict) and isinstance(key, str):
            value = value.get(key)  # a missing key is Go's zero value, not an error
        elif isinstance(value, list | tuple) and type(key) is int:
            if not 0 <= key < len(value):
                raise InvalidSpec(f"template: index {key} is outside a list of {len(value)}")
            value = value[key]
        else:
            raise InvalidSpec(f"template: {_kind(value)} cannot be indexed by {_kind(key)}")
    return value


def _upper(value: Any) -> str:
    return _string("upper", value).upper()


def _lower(value: Any) -> str:
    return _string("lower", value).lower()


def _println(*values: Any) -> str:
    return " ".join(map(_text, values)) + "\n"


_FUNCTIONS: dict[str, tuple[int, float, Callable[..., Any]]] = {
    "index": (2, float("inf"), _index),
    "join": (2, 2, _join),
    "json": (1, 1, _json),
    "len": (1, 1, _len),
    "lower": (1, 1, _lower),
    "println": (0, float("inf"), _println),
    "upper": (1, 1, _upper),
}


def _text(value: Any) -> str:
    """A value as Go's %v prints it."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case dict():
            return f"map[{' '.join(f'{key}:{_text(item)}' for key, item in sorted(value.items()))}]"
        case list() | tuple():
            return f"[{' '.join(map(_text, value))}]"
        case float() if value.is_integer():
            return str(int(value))
    return str(value)


def _kind(value: Any) -> str:
    match value:
        case None:
            return "<no value>"
        case bool():
            return "a bool"
        case str():
            return "a string"
        case dict():
            return "a map"
        case list() | tuple():
            return "a list"
    return "a number"


def _string(function: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidSpec(f"template: {function} wants a string, not {_kind(value)}")
    return value


def _unquoted(literal: str) -> str:
    if literal[0] == "`":
        return literal[1:-1]

    def plain(escape: re.Match[str]) -> str:
        if escape[1] not in _ESCAPES:
            raise _unknown(escape[0])
        return _ESCAPES[escape[1]]

    return re.sub(r"\\(.)", plain, literal[1:-1])


def _count(fewest: int, most: float) -> str:
    return f"{fewest}" if fewest == most else f"{fewest} or more"


def _heading(path: str, headings: Mapping[str, str]) -> str:
    full = path.partition(".")[2]
    last = full.rpartition(".")[2]
    # at a capital after a small letter, and before the last capital of a run: IPAddress, but IPv6
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])(?!Pv[46])", " ", last)
    return headings.get(full) or headings.get(last) or split.upper()


def _unknown(construct: str) -> InvalidSpec:
    return InvalidSpec(
        f"template: {construct!r:.40} is not understood here",
        hint="fields, range, if, else, end, (…) and the functions "
        f"{', '.join(_FUNCTIONS)} are; for more use {{{{json .}}}} and jq",
    )
