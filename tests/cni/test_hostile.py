"""Hostile calls: whatever is in the environment or on standard input, a coded error and no more."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from time import process_time

import pytest

from cni.host_local import handle
from cni.spec import MOST_BYTES, CniError, Command

ROOT = Path(__file__).parents[2]
ENV = {
    "CNI_COMMAND": "ADD",
    "CNI_CONTAINERID": "c1",
    "CNI_NETNS": "/run/netns/c1",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
IPAM = b'"ipam":{"type":"host-local","subnet":"10.1.0.0/24","dataDir":"%s"}'
HEAD = b'{"cniVersion":"1.0.0","name":"web","type":"host-local",'


def deep(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return HEAD + b'"x":' + opening * levels + b"1" + closing * levels + b"}"


JSON = {
    "nothing": b"",
    "a blank": b" \n",
    "cut short": HEAD,
    "a word": b"hello",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "text": b'"web"',
    "trailing bytes": HEAD + b'"x":1} x',
    "a second object": HEAD + b'"x":1}{}',
    "a trailing NUL": HEAD + b'"x":1}\0',
    "a byte order mark": b"\xef\xbb\xbf" + HEAD + b'"x":1}',
    "UTF-16": (HEAD + b'"x":1}').decode().encode("utf-16"),
    "no UTF-8": HEAD + b'"x":"\xff"}',
    "an overlong NUL": HEAD + b'"x":"\xc0\x80"}',
    "a surrogate in UTF-8": HEAD + b'"x":"\xed\xa0\x80"}',
    "half a pair": HEAD + b'"x":"\\ud800"}',
    "the other half, as a key": HEAD + b'"\\udc00":1}',
    "halves in the wrong order": HEAD + b'"x":"\\udc00\\ud800"}',
    "half a pair deep inside": HEAD + b'"x":[[{"y":["\\ud800"]}]]}',
    "a NUL in text": HEAD + b'"x":"a\\u0000b"}',
    "a NUL in a key": HEAD + b'"a\\u0000b":1}',
    "a raw NUL in text": HEAD + b'"x":"a\0b"}',
    "a raw line break in text": HEAD + b'"x":"a\nb"}',
    "NaN": HEAD + b'"x":NaN}',
    "Infinity": HEAD + b'"x":Infinity}',
    "-Infinity": HEAD + b'"x":-Infinity}',
    "a number beyond all floats": HEAD + b'"x":1e999}',
    "a number of 5000 digits": HEAD + b'"x":' + b"9" * 5000 + b"}",
    "a key twice": HEAD + b'"x":1,"x":2}',
    "a key twice, once escaped": HEAD + b'"x":1,"\\u0078":2}',
    "a key twice deep inside": HEAD + b'"x":[{"y":1,"y":1}]}',
    "the name twice": HEAD + b'"name":"web2"}',
    "65 levels": deep(64),
    "1000 lists": deep(1000),
    "500 000 lists": deep(500_000),
    "65 objects": deep(64, b'{"x":', b"}"),
    "100 000 objects": deep(100_000, b'{"x":', b"}"),
    "500 000 opening brackets": HEAD + b'"x":' + b"[" * 500_000,
    "more than a mebibyte": HEAD + b'"x":"' + b"a" * MOST_BYTES + b'"}',
    "100 MB": b"[" * 100_000_000,
}
VALUES = {
    "no name": b'{"cniVersion":"1.0.0"}',
    "a name that is a number": b'{"cniVersion":"1.0.0","name":5}',
    "a name that climbs": b'{"cniVersion":"1.0.0","name":"../../etc"}',
    "a name that is long": b'{"cniVersion":"1.0.0","name":"' + b"a" * 129 + b'"}',
    "a name with a line break": b'{"cniVersion":"1.0.0","name":"web\\n"}',
    "ipam is a list": HEAD + b'"ipam":[]}',
    "runtimeConfig is text": HEAD + IPAM + b',"runtimeConfig":"x"}',
    "args is a number": HEAD + IPAM + b',"args":1}',
    "args.cni is a list": HEAD + IPAM + b',"args":{"cni":[]}}',
}
VERSION = {
    "a version that is a number": b'{"cniVersion":1,"name":"web"}',
    "a version that is an object": b'{"cniVersion":{"a":1},"name":"web"}',
    "a version of the future": b'{"cniVersion":"9.9.9","name":"web"}',
}
CASES = {
    **{what: (stdin, 6) for what, stdin in JSON.items()},
    **{what: (stdin, 7) for what, stdin in VALUES.items()},
    **{what: (stdin, 1) for what, stdin in VERSION.items()},
}


@pytest.mark.parametrize("what", CASES)
def test_hostile_json_is_answered_at_once_by_its_code(what: str, tmp_path: Path) -> None:
    stdin, code = CASES[what]
    stdin = stdin.replace(b"%s", bytes(tmp_path))
    begin = process_time()  # others may be busy, too
    status, answer = handle(ENV, stdin)
    assert process_time() - begin < 1
    assert status == 1
    assert answer is not None
    assert answer["code"] == code
    assert len(json.dumps(answer)) < 2000
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("what", [what for what, (_, code) in CASES.items() if code == 6])
def test_of_the_decoding_failures_each_verb_but_version_reports_one(what: str) -> None:
    for verb in ("DEL", "CHECK", "GC", "STATUS"):
        _, answer = handle(ENV | {"CNI_COMMAND": verb}, CASES[what][0])
        assert answer is not None
        assert (verb, answer["code"]) == (verb, 6)
    status, answer = handle({"CNI_COMMAND": "VERSION"}, CASES[what][0])
    assert status == 0
    assert answer is not None
    assert "1.1.0" in answer["supportedVersions"]


@pytest.mark.parametrize("stdin", [deep(63), HEAD + b'"x":"' + b"a" * (MOST_BYTES - 99) + b'"}'])
def test_what_is_just_below_the_bounds_is_read(stdin: bytes) -> None:
    assert Command.parse(ENV, stdin).name == "web"


@pytest.mark.parametrize(
    "stdin",
    ["/dev/zero", "half a megabyte of lists", "objects", "keys", "escapes", "500 000 brackets"],
)
def test_the_executable_is_fast_and_small_whatever_it_reads(stdin: str, tmp_path: Path) -> None:
    files = {
        "half a megabyte of lists": HEAD + b'"x":[' + b"[]," * 330_000 + b"1]}",
        "objects": HEAD + b'"x":[' + b"{}," * 330_000 + b"1]}",
        "keys": HEAD + b'"x":{' + b",".join(b'"%d":1' % n for n in range(80_000)) + b"}}",
        "escapes": HEAD + b'"x":"' + b"\\u00e9" * 170_000 + b'"}',
        "500 000 brackets": JSON["500 000 opening brackets"],
    }
    path = Path(stdin)
    if stdin in files:
        path = tmp_path / "stdin"
        path.write_bytes(files[stdin])
    most = 100 << 20
    with path.open("rb") as file:
        ran = subprocess.run(
            [sys.executable, "-m", "cni.host_local"],
            stdin=file,
            env=ENV | {"PYTHONPATH": ":".join(sys.path)},
            cwd=ROOT,
            capture_output=True,
            timeout=20,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (most, most)),
        )
    assert (ran.returncode, ran.stderr) == (1, b"")
    assert json.loads(ran.stdout)["code"] in (6, 7)


@pytest.mark.parametrize(
    "ifname",
    [
        *("", "all", "default", "lo", "%d", "eth%d", "-x", "-", "'eth0'", '"', "`id`", "$(id)"),
        *("a b", "a\tb", "a\n", "a\0", "a\x1b[31m", "a/b", "a:b", ".", "..", "../x", "x" * 16),
        *("é", "\u202e", "\udc80", "a;b", "a|b", "a&b", "*", "?", "\\", "{}", "a,b", "eth0\r"),
    ],
)
def test_a_hostile_interface_name_is_refused(ifname: str) -> None:
    for verb in ("ADD", "DEL", "CHECK"):
        with pytest.raises(CniError) as refused:
            Command.parse(ENV | {"CNI_COMMAND": verb, "CNI_IFNAME": ifname}, HEAD + b'"x":1}')
        assert refused.value.code == 4
        assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "container",
    [
        *("", "-c", ".c", "_c", "..", "../c1", "/c1", "c1/..", "c 1", "c1\n", "c\0", "c\x1b[0m"),
        *("é", "c'", 'c"', "c;id", "c$(id)", "%s", "c" * 129, "c" * 70_000, "\udc80", "c:1"),
    ],
)
def test_a_hostile_container_id_is_refused(container: str) -> None:
    for verb in ("ADD", "DEL", "CHECK"):
        environ = ENV | {"CNI_COMMAND": verb, "CNI_CONTAINERID": container}
        with pytest.raises(CniError) as refused:
            Command.parse(environ, HEAD + b'"x":1}')
        assert refused.value.code == 4
        assert len(refused.value.message) < 200


@pytest.mark.parametrize("name", ["CNI_NETNS", "CNI_ARGS", "CNI_PATH"])
def test_a_variable_with_control_characters_is_refused(name: str) -> None:
    for text in ("/a\n", "/a\0b", "/\udcff", "\x1b"):
        with pytest.raises(CniError, match=f"^{name} is ") as refused:
            Command.parse(ENV | {name: text}, HEAD + b'"x":1}')
        assert refused.value.code == 4


def test_names_at_their_longest_are_taken() -> None:
    environ = ENV | {"CNI_CONTAINERID": "c" * 128, "CNI_IFNAME": "x" * 15}
    assert Command.parse(environ, HEAD + b'"x":1}').ifname == "x" * 15


def test_lo_is_for_plugins_that_make_no_interface() -> None:
    environ = ENV | {"CNI_IFNAME": "lo"}
    assert Command.parse(environ, HEAD + b'"x":1}', lo=True).ifname == "lo"
    with pytest.raises(CniError, match="CNI_IFNAME 'all'"):
        Command.parse(ENV | {"CNI_IFNAME": "all"}, HEAD + b'"x":1}', lo=True)
