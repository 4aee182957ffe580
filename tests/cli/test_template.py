"""--format: what Go prints, and a clear word where we do not follow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.cli import template
from netkit.errors import InvalidSpec

DATA = {
    "S": "a<b>é",
    "N": None,
    "B": True,
    "I": 3,
    "L": ["a", "b"],
    "LN": ["a", None],
    "M": {"k": "v", "a": None},
    "E": {},
    "MM": {"z": {"IP": "1"}, "b": {"IP": "2"}},
}

# docker context inspect --format '{{with (index .Endpoints "x")}}…{{end}}', docker 28.2.2: DATA is
# endpoint x of the meta.json of a context
AS_DOCKER = [
    ("{{.N}}", "<no value>"),
    ("{{println .N}}", "<nil>\n"),
    ("{{.LN}}", "[a <nil>]"),
    ("{{.M}}", "map[a:<nil> k:v]"),
    ("{{.MM}}", "map[b:map[IP:2] z:map[IP:1]]"),
    ("{{json .S}}", '"a<b>é"'),
    ("{{json .N}}", "null"),
    ("{{.B}} {{ .I }} {{.L}} {{.E}}", "true 3 [a b] map[]"),
    ('{{index .M "zz"}}', "<no value>"),
    ('{{index .MM "z" "IP"}}', "1"),
    ('{{(index .MM "z").IP}}', "1"),
    ("{{len .S}}", "6"),
    ("{{range .N}}x{{else}}e{{end}}", "e"),
    ("{{range $k,$v := .MM}}{{$k}}={{$v.IP}} {{end}}", "b=2 z=1 "),
    ("{{range .MM}}{{.IP}},{{end}}", "2,1,"),
    ("{{range $v := .L}}<{{$v}}>{{end}}", "<a><b>"),
    ("{{range $i, $v := .L}}{{$i}}{{$v}}{{else}}none{{end}}", "0a1b"),
    ("{{range .LN}}<{{.}}>{{end}}", "<a><<no value>>"),
    ("{{if .E}}y{{else}}n{{end}}", "n"),
    ("{{if .N}}y{{else}}n{{end}}", "n"),
    ("{{println .LN .S}}", "[a <nil>] a<b>é\n"),
    ('{{println "a" 1 true}}', "a 1 true\n"),
    ("{{println}}x", "\nx"),
    ('{{"x"}}  {{- 1 -}}   z', "x1z"),
    ('{{"a\\nb"}}{{`x\\n`}}', "a\nbx\\n"),
    ("{{$.I}}", "3"),
    # pipelines
    ("{{.S | upper}}", "A<B>É"),
    ('{{.S | printf "%s-%s" "x"}}', "x-a<b>é"),
    ("{{.MM | json | len}}", "31"),
    ('{{index .M "k" | upper}}', "V"),
    ('{{(index .MM "z").IP | printf "<%s>"}}', "<1>"),
    ('{{printf "%s" "a" | printf "%s%s" "b"}}', "ba"),
    ('{{printf "%s %s" (index .L 0) .S}}', "a a<b>é"),
    ('{{len (split .S "b")}}', "2"),
    # with, else if
    ("{{with .S}}{{.}}{{end}}{{with .N}}x{{else}}e{{end}}", "a<b>ée"),
    ("{{with $x := .I}}{{$x}}{{.}}{{end}}", "33"),
    ("{{with .N}}x{{else with .S}}{{.}}{{end}}", "a<b>é"),
    ('{{with index .MM "z"}}{{.IP}}{{end}}', "1"),
    ('{{if eq .S "a"}}x{{else if eq .S "a<b>é"}}y{{else}}z{{end}}', "y"),
    ("{{if .N}}1{{else if .E}}2{{else if .L}}3{{end}}", "3"),
    ("{{if $x := .I}}{{$x}}{{end}}", "3"),
    ("{{ if .B }} y {{- else }} n {{- end }}", " y"),
    # variables
    ("{{$x := .I}}{{$x}}", "3"),
    ("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2"),
    ("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1"),
    ("{{$f := true}}{{range .L}}{{if $f}}{{$f = false}}{{else}}, {{end}}{{.}}{{end}}", "a, b"),
    ("{{range $i, $v := .L}}{{if $i}}, {{end}}{{$v}}{{end}}", "a, b"),
    ('{{range $x := .L}}{{$x = "q"}}{{$x}}{{end}}', "qq"),
    # comparison and logic
    ('{{eq .S "q" "a<b>é"}} {{eq .B true}} {{eq 1 1}}', "true true true"),
    ('{{eq .N nil}} {{eq .N "x"}} {{ne .S nil}} {{ne 1 1}}', "true false true false"),
    ('{{eq 1 1 "a"}} {{eq "b" "a" "b"}}', "true true"),
    ('{{lt 1 2}}{{le 2 2}}{{gt 1 2}}{{ge 2 2}}{{lt "a" "b"}}', "truetruefalsetruetrue"),
    ("{{and .S .N .B}} {{and .S .B}} {{or .N .E}}", "<no value> true map[]"),
    ('{{or .N .E "d"}} {{or (and .N .S) "z"}}', "d z"),
    ("{{or .B (index .L 9)}} {{and .N (index .L 9)}}", "true <no value>"),
    ('{{not .E}} {{not (eq .S "x")}}', "true true"),
    ('{{if and .B (eq .S "x")}}a{{else}}b{{end}}', "b"),
    # the rest of Docker's functions
    ("{{slice .S 1 3}} {{slice .L 1}} {{slice .L 0 1}}", "<b [b] [a]"),
    ('{{split .S "<"}} {{split "abc" ""}} {{index (split "a/b/c" "/") 1}}', "[a b>é] [a b c] b"),
    ('{{title "hello big_wor-ld it\'s d3x"}} {{title "élan"}}', "Hello Big_wor-Ld It'S D3x Élan"),
    ('{{pad .S 2 3}}|{{pad "" 2 3}}|', "  a<b>é   ||"),
    ('{{truncate .S 3}}|{{truncate "ab" 5}}|{{truncate "ab" 2}}|{{truncate "ab" 0}}', "a<b|ab|ab|"),
    ('{{print "a" "b" 1 2 "c" .N .N}}|{{print}}', "ab1 2c<nil> <nil>|"),
    ('{{println "a" | print}}', "a\n"),
    # printf
    ('{{printf "%s|%d|%v|%t|%q" "a" 1 .L true "x\\"y"}}', 'a|1|[a b]|true|"x\\"y"'),
    (
        '{{printf "%-5s|%5s|%05d|%x|%X|%.2s|%.2f|%+d" "a" "b" 7 255 255 "abcd" 1.5 3}}',
        "a    |    b|00007|ff|FF|ab|1.50|+3",
    ),
    ('{{printf "%6.2f|%c|%o|%b|%#x|% d" 1.239 65 8 5 255 5}}', "  1.24|A|10|101|0xff| 5"),
    ('{{printf "%e %g %v %08.3f" 1.5 1.5 1.5 3.14159}}', "1.500000e+00 1.5 1.5 0003.142"),
    ('{{printf "%s %t %v %s" .L .B .N .MM}}', "[a b] true <nil> map[b:map[IP:2] z:map[IP:1]]"),
    ('{{printf "%5t|%5v|%10.3s|%05s|" true "a" "abcdef" "ab"}}', " true|    a|       abc|000ab|"),
    ('{{printf "%q %q %x %%" "é\\n\\t" 65 "hi"}}', "\"é\\n\\t\" 'A' 6869 %"),
    (
        '{{printf "%d" "foo"}}{{printf "%s" 1}}{{printf "%t" "a"}}{{printf "%d" true}}',
        "%!d(string=foo)%!s(int=1)%!t(string=a)%!d(bool=true)",
    ),
    (
        '{{printf "%s" .N}}{{printf "%s %s" "x"}}{{printf "%"}}',
        "%!s(<nil>)x %!s(MISSING)%!(NOVERB)",
    ),
    ('{{printf "a" 1 "b"}}', "a%!(EXTRA int=1, string=b)"),
    # comments
    ("{{/* note */}}a {{- /* note */ -}} b", "ab"),
    ("{{1.5}} {{-3}}", "1.5 -3"),
]

# refused by docker 28.2.2 as well
REFUSED_BY_DOCKER = [
    ("{{index .L 7}}", "index 7 is outside a list of 2"),
    ("{{index .L -1}}", "index -1 is outside a list of 2"),
    ('{{index .L "a"}}', "a list cannot be indexed by a string"),
    ('{{index .N "x"}}', "<no value> cannot be indexed"),
    ("{{upper .I}}", "upper wants a string, not a number"),
    ("{{upper .N}}", "upper wants a string"),
    ("{{len .N}}", "len wants a list, map or string"),
    ('{{join .N ","}}', "join wants a list and a string"),
    ("{{.N.X}}", "no field 'X' in <no value>"),
    ("{{.S.X}}", "no field 'X' in a string"),
    ("{{range .S}}x{{end}}", "range wants a list or map, not a string"),
    ('{{"x" "y"}}', "y"),
    ("{{}}", "a value is missing"),
    ("{{eq .S 1}}", "cannot compare a string with a number"),
    ("{{eq 1 1.0}}", "cannot compare a number with a number"),
    ('{{eq 1 "a" 1}}', "cannot compare"),
    ('{{lt 1 "a"}}', "cannot compare"),
    ("{{lt true false}}", "a bool has no order"),
    ("{{lt .N 1}}", "<no value> has no order"),
    ("{{eq .L .L}}", "a list cannot be compared"),
    ("{{eq 1}}", "eq takes 2 or more, not 1"),
    ("{{and}}", "and takes 1 or more, not 0"),
    ("{{slice .S 3 1}}", "slice 3 1 is outside what is 6 long"),
    ("{{slice .S 0 99}}", "outside"),
    ("{{truncate .S -1}}", "truncate wants a length, not -1"),
    ("{{pad .S -1 0}}", "pad wants numbers"),
    ('{{"a" | 1}}', "'1' is no function"),
    ("{{.S | .L}}", "'.L' is no function"),
    ("{{nil}}", "nil is no command"),
    ("{{range .L}}{{.}}{{else if .S}}b{{end}}", "'else if'"),
    ("{{if .S}}a{{else with .B}}b{{end}}", "'else with'"),
    ("{{$x = 1}}", r"undefined variable '\$x'"),
    ("{{/* a */ }}", "not understood"),
]

REFUSED = [
    ('{{define "x"}}a{{end}}', "'define'"),
    ("{{range .L}}{{break}}{{end}}", "'break'"),
    ("{{html .S}}", "'html'"),
    ("{{$x}}", r"undefined variable '\$x'"),
    ("{{if true}}{{$x := 1}}{{end}}{{$x}}", r"undefined variable '\$x'"),
    ("{{$a, $b := .M}}", r"cannot assign to '\$a'"),
    ("{{.S | nosuch}}", "'nosuch'"),
    ("{{.S |}}", "missing"),
    ("{{.S .B}}", "'.B'"),
    ('{{printf "%z" .S}}', "'%z'"),
    ('{{printf "%d" .L}}', "%d is not for a list"),
    ('{{printf "%999999999d" 1}}', "wider than 65536"),
    ("{{pad .S 1000000000 1}}", "pad wants numbers up to 65536"),
    ("{{if .S}}a{{else}}b{{else}}c{{end}}", "{{else}} has no block"),
    ("{{end}}", "{{end}} has no block"),
    ("{{range .L}}x", "{{range}} has no {{end}}"),
    ("{{if .L}}x{{else}}", "{{else}} has no {{end}}"),
    ("{{.S", "is not closed"),
    ('{{"x}}', "x"),
    (r'{{"\q"}}', r"\\q"),
    ("{{range $k, .v := .M}}{{end}}", "cannot assign to '.v'"),
    ("{{range $k, $v := .M}}{{end}}{{$k}}", "undefined variable"),
    ("{{(len .L}}", "missing"),
    ("{{(len .L) 1}}", "'1'"),
    ("{{len}}", "len takes 1, not 0"),
    ("{{len .L .L}}", "len takes 1, not 2"),
    ("{{index .L}}", "index takes 2 or more, not 1"),
    ("{{index .L true}}", "cannot be indexed by a bool"),
    ("{{json upper}}", "'upper'"),
    ("{{.S}} {{.A-b}}", "-b"),
    ("{{end .S}}", "no block"),
    ("{{if .S}}{{end .S}}", "'end .S'"),
    ("{{if .S .B}}{{end}}", "'.B'"),
    ("{{" + "(" * 5000 + ".}}", "more than 50 levels"),
    ("{{if .S}}" * 5000, "more than 50 levels"),
]


@pytest.mark.parametrize(("text", "expected"), AS_DOCKER)
def test_output_is_as_dockers(text: str, expected: str) -> None:
    assert template.compile(text).render(DATA) == expected


@pytest.mark.parametrize(("text", "named"), REFUSED_BY_DOCKER + REFUSED)
def test_what_cannot_be_done_is_refused_and_named(text: str, named: str) -> None:
    with pytest.raises(InvalidSpec, match=named):
        template.compile(text).render(DATA)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{{upper .S}} {{lower .S}}", "A<B>É a<b>é"),
        ('{{join .L ","}}', "a,b"),
        ('{{json (index .L 0)}}{{len (index .MM "z")}}', '"a"1'),
        ('{{if false}}a{{else}}{{if .B}}b{{"}}"}}{{end}}{{end}}', "b}}"),
        ("{{range .MM}}{{range $k, $v := $.M}}{{$k}}{{end}}{{.IP}};{{end}}", "ak2;ak1;"),
        ("{{range .L}}a{{- end}} b", "aa b"),
        ("{{false}} {{-1}} }} $x", "false -1 }} $x"),
        ("", ""),
    ],
)
def test_the_rest_of_the_subset_works_too(text: str, expected: str) -> None:
    assert template.compile(text).render(DATA) == expected


def test_a_containers_address_is_one_line() -> None:
    """K3: docker inspect --format '{{ .NetworkSettings.IPAddress }}'."""
    data = {"NetworkSettings": {"IPAddress": "172.17.0.2", "Networks": {"web": {"X": 1}}}}
    render = template.compile("{{ .NetworkSettings.IPAddress }}").render
    assert render(data) == "172.17.0.2"
    assert template.compile("{{json .NetworkSettings.Networks}}").render(data) == '{"web":{"X":1}}'


def test_an_unknown_field_is_named_with_those_there_are() -> None:
    with pytest.raises(InvalidSpec, match="no field 'Nmae'; there are: Driver, Name"):
        template.compile("{{.Nmae}}").render({"Name": "web", "Driver": "bridge"})


def test_escapes_in_the_text_become_tabs_and_newlines() -> None:
    text = r"{{.I}}\t{{.B}}\n" + r'{{"\t"}}{{`\t`}}'
    assert template.compile(text).render(DATA) == "3\ttrue\n\t\\t"


def test_a_template_renders_any_number_of_times() -> None:
    name = template.compile("{{.Name}}")
    assert [name.render({"Name": each}) for each in ("a", "b")] == ["a", "b"]


def test_numbers_print_without_needless_decimals() -> None:
    assert template.compile("{{.}}").render([1.5, 2.0, 10**7]) == "[1.5 2 10000000]"


METHODS: dict[str, template.Method] = {"Label": lambda row, key: row["labels"].get(key, "")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{{.Label "a.b"}}', "1"),
        ('{{.Label "a.b" | printf "%s!"}}', "1!"),
        ('{{if eq (.Label "a.b") "1"}}y{{end}}', "y"),
        ('{{$row := .}}{{$row.Label "x"}}{{$.Label "a.b"}}', "1"),
        ('{{"a.b" | .Label}}', "1"),
    ],
)
def test_a_method_takes_an_argument(text: str, expected: str) -> None:
    row = {"labels": {"a.b": "1"}}
    assert template.compile(text, METHODS).render(row) == expected


@pytest.mark.parametrize("text", ['{{.Label "a" "b"}}', '{{.Other "a"}}', "{{.Label}}"])
def test_a_method_takes_no_more_and_no_less(text: str) -> None:
    with pytest.raises(InvalidSpec, match=r"Label|understood"):
        template.compile(text, METHODS).render({"labels": {}})


# what Docker's documentation and its users type
ONE_LINERS = [
    ("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", "10.1.0.2"),
    ("{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}", "02:42:0a:01:00:02"),
    ("{{range $p, $conf := .NetworkSettings.Ports}} {{$p}} -> {{(index $conf 0).HostPort}} {{end}}",
     " 80/tcp -> 8080 "),
    ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "8080"),
    ('{{with index .NetworkSettings.Ports "80/tcp"}}{{(index . 0).HostPort}}{{end}}', "8080"),
    ("{{range $k, $v := .NetworkSettings.Networks}}{{printf \"%s: %s\" $k $v.IPAddress}}{{end}}",
     "web: 10.1.0.2"),
    ('{{.Name}} {{range .NetworkSettings.Networks}}{{if eq .IPAddress ""}}-{{else}}{{.IPAddress}}'
     "{{end}}{{end}}", "/c1 10.1.0.2"),
    ('{{index .Config.Labels "com.example.tier"}}', "front"),
    ('{{index .Config.Labels "nosuch"}}', ""),
    ("{{.Name | printf \"%.3s\"}}", "/c1"),
    ("{{slice .Name 1}}", "c1"),
    ('{{range .Args}}{{.}}{{println}}{{end}}', "-c\ntrue\n"),
    ('{{join .Args " , "}}', "-c , true"),
]  # fmt: skip
CONTAINER = {
    "Name": "/c1",
    "Args": ["-c", "true"],
    "Config": {"Labels": {"com.example.tier": "front"}},
    "NetworkSettings": {
        "Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]},
        "Networks": {"web": {"IPAddress": "10.1.0.2", "MacAddress": "02:42:0a:01:00:02"}},
    },
}


@pytest.mark.parametrize(("text", "expected"), ONE_LINERS)
def test_what_dockers_users_type_works(text: str, expected: str) -> None:
    assert template.compile(text).render(CONTAINER) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"table {{.Name}}\t{{.Driver}}", "NAME\tDRIVER"),
        (r"{{.ID}}\t{{ .RunningFor }}", "ID\tRUNNING FOR"),
        ("{{.A.IPAddress}} {{.IPv6}} {{.EnableIPv6}}", "IP ADDRESS IPV6 ENABLE IPV6"),
        ('{{upper .Name}}{{range .Ports}} {{.HostPort}}{{end}}{{"x"}}{{.}}', "NAME HOST PORT"),
        ("{{if .Internal}}*{{end}}{{.MACAddress}}", "*MAC ADDRESS"),
        ('{{.Name | upper}} {{printf "%s" .ID}} {{with .A}}x{{else}}{{end}}', "NAME ID x"),
        ('{{$x := .Name}}{{.Label "com.example.my-tier"}}', "my tier"),
    ],
)
def test_a_table_is_headed_by_its_fields(text: str, expected: str) -> None:
    assert template.table_header(text, methods=METHODS) == expected


def test_a_heading_may_be_given() -> None:
    headings = {"ID": "NETWORK ID", "A.B": "BEE"}
    assert template.table_header("table {{.ID}} {{.A.B}} {{.B}}", headings) == "NETWORK ID BEE B"


def test_a_table_that_is_no_template_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="'nosuch'"):
        template.table_header("table {{nosuch .Name}}")


PIECES = """
    {{ }} {{- -}} {{end}} {{range {{if {{else}} .S .N .M.k $ $v $k := , ( ) | json len index join
    upper println range if else end "," "k" 0 -1 true - \\ with = printf eq lt and slice pad
    truncate title split nil 1.5 "%d%s%q" /* */ "%-9v" print
"""
pieces = st.lists(st.sampled_from(PIECES.split()), max_size=25).map(" ".join)


@given(st.text() | pieces)
def test_no_text_raises_anything_but_invalid_spec(text: str) -> None:
    refused = "template: "
    try:
        template.compile(text).render(DATA)
        template.table_header(text)
    except InvalidSpec as error:
        refused = str(error)
    assert refused.startswith("template: ")


@given(st.text().filter(lambda text: "{{" not in text and "\\" not in text))
def test_plain_text_is_printed_as_it_is(text: str) -> None:
    assert template.compile(text).render(DATA) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_json_is_json_and_every_value_prints(value: object) -> None:
    assert json.loads(template.compile("{{json .}}").render(value)) == value
    assert template.compile("{{println .}}").render(value).endswith("\n")
