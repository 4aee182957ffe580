"""docs/cni.md says what the plugins do: verb by version by type, and key by key."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

from cni import plugin
from cni.host_local import Place
from cni.install import NAMES
from cni.spec import VERSIONS, Code
from scenarios.lab import Host
from scenarios.plugins import Plugins, Refused
from tests import pages
from tests.test_features import absent

PAGE = (Path(__file__).parents[2] / "docs" / "cni.md").read_text()
TYPES = PAGE.partition("\n## Types and keys\n")[2].partition("\n## ")[0]
SECTIONS = {text.partition("\n")[0]: text.partition("\n")[2] for text in TYPES.split("\n### ")[1:]}
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
MODULES = {**plugin.WHOLE, **{kind: f"cni.{kind.replace('-', '_')}" for kind in NAMES[:-1]}}


def keys(kind: str) -> set[str]:
    """Those the code reads of a configuration of its own; of an IPAM plugin its part's."""
    conf = import_module(MODULES[kind]).Conf
    structs = [conf, Place] if kind == "host-local" else [conf]
    found = (field.encode_name for each in structs for field in msgspec.structs.fields(each))
    return {*found} - {"runtimeConfig"}


@pytest.mark.parametrize("kind", NAMES)
def test_the_page_names_every_key_and_no_other(kind: str) -> None:
    named = re.split(r"[.;,](?: and)? (?:the )?(?:capabilit|entries)", SECTIONS[kind])[0]
    listed = named.strip().partition("\n\n")[0]
    spans = [each for each in pages.spans(listed) if re.fullmatch(r"[a-zA-Z]\w*", each)]
    first = [each for each in spans if each not in ("deviceID", "allowlist")]
    assert set(first) >= keys(kind), kind
    assert set(first) <= keys(kind) | {"bridge", "nftables", "iptables", "firewalld"}, kind


def test_the_page_has_a_section_for_every_type() -> None:
    assert set(SECTIONS) == set(NAMES)


def table() -> dict[tuple[str, str], bool]:
    found = {}
    lines = [line for line in PAGE.splitlines() if line.startswith("| ")]
    (head,) = (pages.cells(line) for line in lines if line.startswith("| verb |"))
    for line in lines:
        verb, *cells = pages.cells(line)
        if verb in VERBS:
            for version, cell in zip(head[1:], cells, strict=True):
                if version in VERSIONS:
                    found[verb, version] = cell == "yes"
    return found


@pytest.mark.parametrize("kind", NAMES)
def test_each_verb_is_there_from_the_version_the_page_says(host: Host, kind: str) -> None:
    cni = Plugins(host.base)
    cni.netns("c1")
    told = table()
    assert len(told) == len(VERBS) * len(VERSIONS)
    for (verb, version), there in told.items():
        conf = {"cniVersion": version, "name": "x", "ipam": {"type": kind}}
        code = 0
        try:
            answer = cni.call(kind, verb, conf, args="IgnoreUnknown=1")
        except Refused as refused:
            code, answer = refused.code, refused.answer
        assert (code != Code.INCOMPATIBLE_VERSION) == there, (verb, version, code)
        assert "CNI_COMMAND" not in str(answer)
        if answer is not None:
            assert answer["cniVersion"] == version
        if verb == "VERSION":
            assert answer is not None
            assert answer["supportedVersions"] == [*VERSIONS]


def test_the_codes_on_the_page_are_the_codes() -> None:
    from cni.call import CONFLICT, DRIFT, REFUSED

    told = {
        pages.cells(line)[0]
        for line in PAGE.partition("## Errors")[2].splitlines()
        if re.match(r"\| \d", line)
    }
    assert told == {"1-8", "11", "50", *map(str, (CONFLICT, DRIFT, REFUSED)), "999"}
    assert {*range(1, 9), 11, 50, 999} <= {*map(int, Code)}


def test_each_known_fault_has_a_test_of_that_name() -> None:
    told = PAGE.partition("\n## Known faults")[2].partition("\n## ")[0]
    lines = [line for line in told.splitlines() if line.startswith("| ") and "::" in line]
    assert len(lines) == 13
    assert absent(told) == []
