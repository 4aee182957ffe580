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

# docker context inspect --format, docker 28.2.2, with DATA as the context's metadata
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
]

REFUSED = [
    ("{{.S | upper}}", "'|'"),
    ("{{with .S}}{{.}}{{end}}", "'with'"),
    ('{{if eq .S "a"}}x{{end}}', "'eq'"),
    ('{{printf "%s" .S}}', "'printf'"),
    ("{{$x := .S}}", "undefined variable '\\$x'"),
    ("{{if .S}}a{{else if .B}}b{{end}}", "'else if'"),
    ("{{if .S}}a{{else}}b{{else}}c{{end}}", "{{else}} has no block"),
    ("{{/* note */}}", r"/\* note \*/"),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"table {{.Name}}\t{{.Driver}}", "NAME\tDRIVER"),
        (r"{{.ID}}\t{{ .RunningFor }}", "ID\tRUNNING FOR"),
        ("{{.A.IPAddress}} {{.IPv6}} {{.EnableIPv6}}", "IP ADDRESS IPV6 ENABLE IPV6"),
        ('{{upper .Name}}{{range .Ports}} {{.HostPort}}{{end}}{{"x"}}{{.}}', "NAME HOST PORT"),
        ("{{if .Internal}}*{{end}}{{.MACAddress}}", "*MAC ADDRESS"),
    ],
)
def test_a_table_is_headed_by_its_fields(text: str, expected: str) -> None:
    assert template.table_header(text) == expected


def test_a_heading_may_be_given() -> None:
    headings = {"ID": "NETWORK ID", "A.B": "BEE"}
    assert template.table_header("table {{.ID}} {{.A.B}} {{.B}}", headings) == "NETWORK ID BEE B"


def test_a_table_that_is_no_template_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="'printf'"):
        template.table_header("table {{printf .Name}}")


PIECES = """
    {{ }} {{- -}} {{end}} {{range {{if {{else}} .S .N .M.k $ $v $k := , ( ) | json len index join
    upper println range if else end "," "k" 0 -1 true - \\
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
