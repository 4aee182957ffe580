"""Go's text/template, as far as people use it with `docker … --format`.

Shapes   data is what JSON can say: dict, list, str, int, float, bool, None
Errors   InvalidSpec: at compile for a construct outside the part, at render for a field or a value
         that does not fit; both name it
Source   https://pkg.go.dev/text/template, and docker/cli's formatter for json, split, join, title,
         lower, upper, pad, truncate. Every case of the tests that has a Go spelling was run through
         docker 28.2.2; known to differ: a missing field is an error here, as in Docker's structs (a
         map would print `<no value>`), and the escapes \\t and \\n of the text are honoured
         everywhere, not in `ls` commands only

Understood   text   {{.}} {{.A.B}} {{$}} {{$v.A}} {{"text"}} {{(index .A "k").B}} {{/* note */}}
             {{- trim -}}   {{.Label "key"}}, where a caller gives such a method
             {{.A | upper | printf "%-10s"}}   {{$v := .A}} {{$v = .B}}
             {{if X}} … {{else if Y}} … {{else}} … {{end}}   {{with X}} … {{else}} … {{end}}
             {{range X}} {{range $v := X}} {{range $k, $v := X}} … {{else}} … {{end}}
             and the functions of _FUNCTIONS, with and, or
Refused      define, template, block, break, continue, call, html, js, urlquery, complex numbers
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from netkit.errors import InvalidSpec

# "." is the current value; "$" the first one and "$name" a variable, each in a list of its own, so
# that a block's copy of the scope shares what it assigns to and keeps what it declares
Scope = dict[str, Any]
Eval = Callable[[Scope], Any]
Method = Callable[[Any, Any], Any]  # of a value, with one argument

MAX_DEPTH = 50  # of blocks in blocks and of parentheses: the parser recurses
_WIDEST = 1 << 16  # what pad and printf fill up to: a format is no way to fill the memory

_SPACE = " \t\r\n"
_TOKEN = re.compile(
    r"""(?P<close>[ \t\r\n]+-}}|}})
      | (?P<space>[ \t\r\n]+)
      | (?P<string>"(?:\\.|[^"\\\n])*"|`[^`]*`)
      | (?P<path>\$\w*(?:\.[^\W\d]\w*)*|(?:\.[^\W\d]\w*)+|\.)
      | (?P<number>-?[0-9]{1,18}(?:\.[0-9]{1,18})?\b)
      | (?P<word>[^\W\d]\w*)
      | (?P<mark>:=|[=,()|])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "\\": "\\", '"': '"'}
_COMMENT = re.compile(r"\{\{(-[ \t\r\n]+)?/\*.*?\*/([ \t\r\n]+-)?\}\}", re.DOTALL)
_BLOCKS = ("range", "if", "with")
_LITERALS = {"true": True, "false": False, "nil": None}


class Template:
    """A compiled template."""

    def __init__(self, body: Eval) -> None:
        self._body = body

    def render(self, data: object) -> str:
        """The text for *data*."""
        return str(self._body({".": data, "$": [data]}))


def compile(text: str, methods: Mapping[str, Method] = MappingProxyType({})) -> Template:
    """The template *text* says; without a `table ` prefix, which is the caller's.

    *methods* are what `{{.NAME "argument"}}` may call.
    """
    body, _ = _Parser(_scan(text), methods).body("")
    return Template(body)


def table_header(
    text: str,
    headings: Mapping[str, str] | None = None,
    methods: Mapping[str, Method] = MappingProxyType({}),
) -> str:
    """The header row for *text*: each field in capitals, or as *headings* has it by its name.

    A prefix `table ` is dropped; `{{.RunningFor}}` reads RUNNING FOR, `{{.A.B}}` as its last part,
    and `{{.Label "com.example.my-tier"}}` as Docker's: my tier.
    """
    compile(text.removeprefix("table "), methods)
    row = []
    for item in _scan(text.removeprefix("table ")):
        if isinstance(item, str):
            row.append(item)
        elif item and item[0].text not in (*_BLOCKS, "else") and not _declares(item):
            # `{{.}}` and `{{$v}}` have no name to show
            for token, after in zip(item, [*item[1:], None], strict=True):
                if token.kind == "path" and token.text[1:]:
                    argument = after.text if after and after.kind == "string" else None
                    named = argument and token.text.rpartition(".")[2] in methods
                    row.append(
                        re.sub("[-_]", " ", _unquoted(argument).rpartition(".")[2])
                        if argument and named
                        else _heading(token.text, headings or {})
                    )
                    break
    return "".join(row)


def _declares(action: list[_Token]) -> bool:
    return len(action) > 1 and action[1].text in (":=", "=")


class _Token(NamedTuple):
    kind: str
    text: str
    glued: bool = False  # a path right after `)`: a field of what is in the parentheses


class _Parser:
    """Recursive descent; every method leaves behind it what it has read."""

    def __init__(self, items: list[str | list[_Token]], methods: Mapping[str, Method]) -> None:
        self._items = iter(items)
        self._methods = methods
        self._action: list[_Token] = []  # what is left of the {{…}} being read
        self._variables = ["$"]  # a block's own are dropped at its end
        self._depth = 0

    def body(self, block: str) -> tuple[Eval, str]:
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
                if self._action and not (word == "else" and self._word() == block != "range"):
                    raise _unknown(f"{word} {self._action[0].text}")
                return _joined(parts), word
            parts.append(self._block() if word in _BLOCKS else self._shown())
        if block:
            raise InvalidSpec(f"template: {{{{{block}}}}} has no {{{{end}}}}")
        return _joined(parts), ""

    def _shown(self) -> Eval:
        """A value's text, or a variable's declaration, which has none."""
        names, sign = self._names(1)
        value = self._pipeline()
        self._ended()
        if not names:
            return _shown(value)
        self._declare(names, sign)
        return _stored(names[0], sign, value)

    def _block(self) -> Eval:
        self._deeper()
        mark = len(self._variables)
        word = self._take().text
        names, sign = self._names(2 if word == "range" else 1)
        value = self._pipeline()
        self._ended()
        self._declare(names, sign)
        inner, closed = self.body(word)
        other: Eval = _constant("")
        if closed == "else":
            # `{{else if}}` is an if inside the else, and one {{end}} closes both
            other = self._block() if self._action else self.body("else")[0]
        del self._variables[mark:]
        self._depth -= 1
        if word == "range":
            return _range(value, names, sign, inner, other)
        return _branch(value, names, sign, inner, other, narrow=word == "with")

    def _names(self, most: int) -> tuple[list[str], str]:
        """The variables before `:=` or `=`, if there is one; at *most* so many."""
        marks = [each.text for each in self._action[:4]]
        if marks[1:2] in ([":="], ["="]):
            count = 1
        elif marks[1::2] in ([",", ":="], [",", "="]):
            count = 2
        else:
            return [], ""
        names, sign = marks[: 2 * count : 2], marks[2 * count - 1]
        for name in names:
            if count > most or not re.fullmatch(r"\$\w+", name):
                raise InvalidSpec(f"template: cannot assign to {name!r:.40}, only to a $name")
            if sign == "=" and name not in self._variables:
                raise InvalidSpec(f"template: undefined variable {name!r:.40}")
        self._action = self._action[2 * count :]
        return names, sign

    def _declare(self, names: list[str], sign: str) -> None:
        self._variables += names if sign == ":=" else []

    def _ended(self) -> None:
        if self._action:
            raise _unknown(self._action[0].text)

    def _pipeline(self) -> Eval:
        """Commands joined by `|`, to the end of the action or to a `)`."""
        value = self._command(None)
        while self._action and self._action[0].text == "|":
            self._take()
            value = self._command(value)
        return value

    def _command(self, piped: Eval | None) -> Eval:
        """A value, or a function or method and its arguments; what is *piped* in comes last."""
        word = self._word()
        if word is not None and word not in _LITERALS:
            name = self._take().text
            if name not in _FUNCTIONS:
                raise _unknown(name)
            arguments = [*self._arguments(), *([piped] if piped else [])]
            return _called(name, arguments)
        if word == "nil":
            raise InvalidSpec("template: nil is no command")
        method = self._method(piped is not None)
        if method is not None:
            return method(self._arguments(), piped)
        if piped is not None:
            raise InvalidSpec(
                f"template: {self._take().text!r:.40} is no function, so nothing can be piped to it"
            )
        return self._operand()

    def _arguments(self) -> list[Eval]:
        arguments: list[Eval] = []
        while self._action and self._action[0].text not in (")", "|"):
            arguments.append(self._operand())
        return arguments

    def _method(self, piped: bool) -> Callable[[list[Eval], Eval | None], Eval] | None:
        """`.Label "key"`: a field the caller gave a function for, and its argument."""
        if not self._action or self._action[0].kind != "path":
            return None
        following = self._action[1].text if len(self._action) > 1 else ")"
        start, _, name = self._action[0].text.rpartition(".")
        if name not in self._methods or (following in (")", "|") and not piped):
            return None
        kind, _, glued = self._take()
        owner, function = self._path(_Token(kind, start or ".", glued)), self._methods[name]

        def bound(arguments: list[Eval], piped: Eval | None) -> Eval:
            given = [*arguments, *([piped] if piped else [])]
            if len(given) != 1:
                raise InvalidSpec(f"template: {name} takes 1, not {len(given)} values")
            return lambda scope: function(owner(scope), given[0](scope))

        return bound

    def _operand(self) -> Eval:
        token = self._take()
        if token.kind == "string":
            return _constant(_unquoted(token.text))
        if token.kind == "number":
            return _constant(float(token.text) if "." in token.text else int(token.text))
        if token.text in _LITERALS:
            return _constant(_LITERALS[token.text])
        if token.kind == "path":
            return self._path(token)
        if token.text == "(":
            self._deeper()
            value = self._pipeline()
            if self._take().text != ")":
                raise InvalidSpec("template: a parenthesis is not closed")
            self._depth -= 1
            if self._action and self._action[0].glued and self._action[0].text[1:]:
                value = _fields(value, self._take().text.split(".")[1:])
            return value
        raise _unknown(token.text)

    def _path(self, token: _Token) -> Eval:
        name, *fields = token.text.split(".")
        if name and name not in self._variables:
            raise InvalidSpec(f"template: undefined variable {name!r}")
        start: Eval = (lambda scope: scope[name][0]) if name else (lambda scope: scope["."])
        return _fields(start, [each for each in fields if each])

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
    # a comment is nothing, but trims like an action; `{{- "" -}}` is nothing, too
    text = _COMMENT.sub(lambda note: f'{{{{{note[1] or ""}""{note[2] or ""}}}}}', text)
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
                glued = found.lastgroup == "path" and text[found.start() - 1] == ")"
                tokens.append(_Token(found.lastgroup, found[0], glued))
        items.append(tokens)


def _constant(value: str | float | None) -> Eval:
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


def _stored(name: str, sign: str, value: Eval) -> Eval:
    """Set a variable; the text of doing so is empty."""

    def store(scope: Scope) -> str:
        _set(scope, name, sign, value(scope))
        return ""

    return store


def _set(scope: Scope, name: str, sign: str, value: Any) -> None:
    if sign == "=":
        scope[name][0] = value
    else:
        scope[name] = [value]


def _branch(
    value: Eval, names: list[str], sign: str, inner: Eval, other: Eval, *, narrow: bool
) -> Eval:
    """`if`, and with *narrow* `with`: inside, the value is `.`."""

    def choose(scope: Scope) -> str:
        found, scope = value(scope), {**scope}
        for name in names:
            _set(scope, name, sign, found)
        if not found:
            return str(other(scope))
        return str(inner({**scope, ".": found} if narrow else scope))

    return choose


def _range(value: Eval, names: list[str], sign: str, inner: Eval, other: Eval) -> Eval:
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
        rounds = []
        for key, item in pairs:
            within = {**scope, ".": item}
            # of one variable it is the value, of two the second
            for name, each in zip(names[::-1], (item, key), strict=False):
                _set(within, name, sign, each)
            rounds.append(inner(within))
        return "".join(rounds) if rounds else str(other({**scope}))

    return loop


def _called(name: str, arguments: list[Eval]) -> Eval:
    fewest, most, function = _FUNCTIONS[name]
    if not fewest <= len(arguments) <= most:
        raise InvalidSpec(
            f"template: {name} takes {_count(fewest, most)}, not {len(arguments)} values"
        )
    if name in ("and", "or"):  # these look no further than they must
        return _until(name == "or", arguments)
    return lambda scope: function(*(each(scope) for each in arguments))


def _until(wanted: bool, arguments: list[Eval]) -> Eval:
    """The first argument that is true (or false), else the last."""

    def decide(scope: Scope) -> Any:
        value = None
        for each in arguments:
            value = each(scope)
            if bool(value) == wanted:
                break
        return value

    return decide


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
            # a missing key is Go's zero value, not an error; that of labels and options is ""
            zero = "" if value and all(isinstance(v, str) for v in value.values()) else None
            value = value.get(key, zero)
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


def _print(*values: Any) -> str:
    text = ""
    for before, value in zip((None, *values), values, strict=False):
        # a space between two that are no strings, as Go has it
        apart = text and not isinstance(before, str) and not isinstance(value, str)
        text += (" " if apart else "") + _text(value)
    return text


def _slice(value: Any, *bounds: Any) -> Any:
    if not isinstance(value, str | list | tuple):
        raise InvalidSpec(f"template: slice wants a list or string, not {_kind(value)}")
    whole: Any = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    first, last = (list(bounds) + [0, len(whole)][len(bounds) :])[:2]
    if type(first) is not int or type(last) is not int or not 0 <= first <= last <= len(whole):
        given = " ".join(map(_text, bounds))
        raise InvalidSpec(f"template: slice {given} is outside what is {len(whole)} long")
    part = whole[first:last]
    return part.decode(errors="replace") if isinstance(part, bytes) else part


def _split(value: Any, separator: Any) -> list[str]:
    _string("split", value), _string("split", separator)
    return value.split(separator) if separator else list(value)


def _title(value: Any) -> str:
    return re.sub(r"(?<!\w)\w", lambda first: first[0].upper(), _string("title", value))


def _pad(value: Any, before: Any, after: Any) -> str:
    for count in (before, after):
        if type(count) is not int or not 0 <= count <= _WIDEST:
            raise InvalidSpec(f"template: pad wants numbers up to {_WIDEST}, not {_text(count)}")
    return f"{' ' * before}{value}{' ' * after}" if _string("pad", value) else ""


def _truncate(value: Any, most: Any) -> str:
    if type(most) is not int or most < 0:
        raise InvalidSpec(f"template: truncate wants a length, not {_text(most)}")
    whole = _string("truncate", value).encode("utf-8", "surrogatepass")
    return value if len(whole) < most else whole[:most].decode(errors="replace")


def _comparable(value: Any) -> str:
    kind = type(value).__name__
    if kind not in ("str", "bool", "int", "float", "NoneType"):
        raise InvalidSpec(f"template: {_kind(value)} cannot be compared")
    return kind


def _eq(value: Any, *others: Any) -> bool:
    """Whether it is one of *others*."""
    for other in others:
        kinds = {_comparable(value), _comparable(other)}
        if len(kinds) == 2 and "NoneType" not in kinds:
            raise InvalidSpec(f"template: cannot compare {_kind(value)} with {_kind(other)}")
        if value == other:
            return True
    return False


def _lt(one: Any, other: Any) -> bool:
    for value in (one, other):
        if _comparable(value) not in ("str", "int", "float"):
            raise InvalidSpec(f"template: {_kind(value)} has no order")
    if type(one) is not type(other):
        raise InvalidSpec(f"template: cannot compare {_kind(one)} with {_kind(other)}")
    return bool(one < other)


_SHORT = {c: repr(c)[1:-1] for c in "\\\n\r\t"} | {'"': '\\"'}
_SHORT |= {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\v": r"\v"}
_VERB = re.compile(
    r"%(?P<flags>[-+# 0]*)(?P<width>\d{0,9})(?P<most>(?:\.\d{0,9})?)(?P<verb>.?)", re.S
)


def _printf(form: Any, *values: Any) -> str:
    """Go's fmt.Sprintf for strings, numbers, bools and %v."""
    left, used = list(values), 0

    def put(found: re.Match[str]) -> str:
        nonlocal used
        if found["verb"] == "%":
            return "%"
        if not found["verb"]:
            return "%!(NOVERB)"
        if found["verb"] not in "vsqdtxXobcfeEgG":
            raise _unknown(found[0])
        if used == len(left):
            return f"%!{found['verb']}(MISSING)"
        used += 1
        if max(int(found["width"] or 0), int(found["most"][1:] or 0)) > _WIDEST:
            raise InvalidSpec(f"template: {found[0]!r:.40} is wider than {_WIDEST}")
        return _formatted(left[used - 1], found)

    text = _VERB.sub(put, _string("printf", form))
    if used < len(left):
        text += f"%!(EXTRA {', '.join(f'{_go_type(v)}={_text(v)}' for v in left[used:])})"
    return text


def _formatted(value: Any, form: re.Match[str]) -> str:
    flags, width, most, verb = form["flags"], form["width"], form["most"], form["verb"]
    match value, verb:
        case None, _:
            text = "<nil>" if verb == "v" else f"%!{verb}(<nil>)"
        case bool(), "t":
            text = _text(value)
        case bool(), verb if verb != "v":
            return f"%!{verb}(bool={_text(value)})"
        case str(), "v" | "s" | "q":
            text = value[: int(most[1:] or 0)] if most else value
            text = _quoted(text) if verb == "q" else text
        case str(), "x" | "X":
            text = value.encode("utf-8", "surrogatepass").hex()
            text = text.upper() if verb == "X" else text
        case int(), "d" | "x" | "X" | "o" | "v" if not isinstance(value, bool):
            return f"%{flags}{width}{most if verb != 'v' else ''}{verb.replace('v', 'd')}" % value
        case int(), "b" if not isinstance(value, bool):
            text = f"{value:b}"
        case int(), "c" | "q" if 0 <= value < 0x110000:
            text = chr(value)
            text = f"'{text}'" if verb == "q" else text
        case float(), "f" | "e" | "E" | "g" | "G":
            return f"%{flags}{width}{most}{verb}" % value
        case _, "v":
            text = _text(value)
        case list() | tuple() | dict(), "s":
            text = _text(value)
        case list() | tuple() | dict(), _:
            raise InvalidSpec(f"template: %{verb} is not for {_kind(value)}; %v is")
        case _:
            return f"%!{verb}({_go_type(value)}={_text(value)})"
    wide = int(width or 0)
    if "-" in flags:
        return text.ljust(wide)
    return text.rjust(wide, "0" if "0" in flags else " ")


def _go_type(value: Any) -> str:
    names = {"str": "string", "float": "float64", "dict": "map[string]interface {}"}
    names |= {"list": "[]interface {}", "tuple": "[]interface {}", "NoneType": "<nil>"}
    return names.get(type(value).__name__, type(value).__name__)


def _quoted(text: str) -> str:
    """Go's strconv.Quote."""
    return '"' + "".join(_SHORT.get(c) or _escaped(c) for c in text) + '"'


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    return (
        f"\\x{code:02x}" if code < 128 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"
    )


_FUNCTIONS: dict[str, tuple[int, float, Callable[..., Any]]] = {
    "and": (1, float("inf"), bool),  # these two by _until
    "or": (1, float("inf"), bool),
    "not": (1, 1, lambda value: not value),
    "eq": (2, float("inf"), _eq),
    "ne": (2, 2, lambda one, other: not _eq(one, other)),
    "lt": (2, 2, _lt),
    "le": (2, 2, lambda one, other: not _lt(other, one)),
    "gt": (2, 2, lambda one, other: _lt(other, one)),
    "ge": (2, 2, lambda one, other: not _lt(one, other)),
    "index": (2, float("inf"), _index),
    "join": (2, 2, _join),
    "json": (1, 1, _json),
    "len": (1, 1, _len),
    "lower": (1, 1, _lower),
    "pad": (3, 3, _pad),
    "print": (0, float("inf"), _print),
    "printf": (1, float("inf"), _printf),
    "println": (0, float("inf"), _println),
    "slice": (1, 3, _slice),
    "split": (2, 2, _split),
    "title": (1, 1, _title),
    "truncate": (2, 2, _truncate),
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
        hint="fields, variables, range, if, with, else, end, | and the functions "
        f"{', '.join(_FUNCTIONS)} are; for more use {{{{json .}}}} and jq",
    )
