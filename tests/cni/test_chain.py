"""What each plugin of a network is sent, what is made of its answer, and what is remembered."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from cni import chain, conflist
from cni.chain import Attachment, Cached
from cni.spec import CniError, Json

PORTS = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
C1 = Attachment(
    "c1", "/run/netns/c1", "eth0", {"A": "b", "IgnoreUnknown": "1"}, {"portMappings": PORTS, "x": 1}
)


def request(plugin: Json, *args: Any, **options: Any) -> Json:
    network = {"cniVersion": "1.1.0", "name": "web", "plugins": [{"type": "p", **plugin}]}
    read = conflist.parse(json.dumps(network))
    return chain.request(read, read.plugins[0], *args, **options)


def test_a_plugin_reads_its_configuration_and_what_is_of_this_call() -> None:
    plugin = {
        "cniVersion": "0.2.0",
        "name": "other",
        "capabilities": {"portMappings": True, "ips": True, "x": False},
        "prevResult": {"forged": True},
        "cni.dev/valid-attachments": [],
        "dns": {},
        "unknown": [1],
    }
    base = {"type": "p", "cniVersion": "1.1.0", "name": "web", "dns": {}, "unknown": [1]}
    result = {"cniVersion": "1.1.0"}
    assert request(plugin, C1, previous=result) == {
        **base,
        "runtimeConfig": {"portMappings": PORTS},
        "prevResult": result,
    }
    assert request(plugin, C1._replace(capabilities={})) == base
    kept = [{"containerID": "c1", "ifname": "eth0"}]
    assert request(plugin, valid=[("c1", "eth0")]) == {
        **base,
        "capabilities": plugin["capabilities"],
        "cni.dev/valid-attachments": kept,
        "cni.dev/attachments": kept,
    }
    assert request(plugin, valid=[])["cni.dev/valid-attachments"] == []


def test_every_parameter_is_in_the_environment() -> None:
    assert chain.environment("ADD", C1, "/a:/b") == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": "/run/netns/c1",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "A=b;IgnoreUnknown=1",
        "CNI_PATH": "/a:/b",
    }
    assert {*chain.environment("GC", None, "/a").values()} == {"GC", "", "/a"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"container_id": ""}, "'' is no container id"),
        ({"container_id": "../c1"}, "'../c1' is no container id"),
        ({"container_id": "c" * 129}, "is no container id"),
        ({"ifname": "a/b"}, "'a/b' is no interface name"),
        ({"ifname": ""}, "'' is no interface name"),
        ({"netns": ""}, "'' is no path of a namespace, which ADD needs"),
        ({"netns": "/a\nb"}, "is no path of a namespace"),
        ({"args": {"A": "b;C=d"}}, "cannot be put as KEY=VALUE"),
        ({"args": {"A=b": "c"}}, "cannot be put as KEY=VALUE"),
        ({"args": {"": "c"}}, "cannot be put as KEY=VALUE"),
        ({"args": {"A": "\0"}}, "cannot be put as KEY=VALUE"),
    ],
)
def test_an_attachment_that_is_none_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(CniError, match=said) as refused:
        chain.validate(C1._replace(**changed), "ADD")
    assert refused.value.code == 4
    chain.validate(C1._replace(netns=""), "DEL")


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("", 6, "it printed no result"),
        ("\n", 6, "it printed no result"),
        ("done", 6, "its result is no JSON"),
        ("null", 6, "its result is no JSON object"),
        ('log line\n{"cniVersion": "1.0.0"}', 6, "its result is no JSON"),
        ('{"cniVersion": "9.0.0"}', 6, "its result.cniVersion: '9.0.0' is not supported"),
        ('{"ips": "10.1.0.2"}', 6, "its result"),
        ('{"ips": [{"address": "10.1.0.2"}]}', 6, "its result"),
        ('{"cniVersion": "1.0.0", "code": 11, "msg": "later"}', 11, "later"),
        ('{"code": 100, "msg": "no", "details": "why"}', 100, "no"),
    ],
)
def test_an_answer_that_is_no_result_is_an_error_whatever_the_exit_status(
    answer: str, code: int, said: str
) -> None:
    with pytest.raises(CniError, match=said) as refused:
        chain.result(answer.encode(), "1.0.0")
    assert refused.value.code == code


def test_a_result_goes_on_in_the_version_that_was_asked_for() -> None:
    old = '{"ip4": {"ip": "10.1.0.2/24", "routes": [{"dst": "0.0.0.0/0"}]}, "dns": {}}'
    said = chain.result(f'{{"cniVersion": "0.2.0", {old[1:]}'.encode(), "1.0.0")
    assert said == {
        "cniVersion": "1.0.0",
        "ips": [{"address": "10.1.0.2/24"}],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dns": {},
    }
    # of its own version it keeps what we have never heard of; without one it is of that asked for
    for version in ({}, {"cniVersion": ""}, {"cniVersion": "1.0.0"}):
        answer = json.dumps({**version, "new": 1}).encode()
        assert chain.result(answer, "1.0.0") == {"cniVersion": "1.0.0", "new": 1}


# -- what is remembered

CONFIG = '{"cniVersion":"1.0.0","name":"web","plugins":[{"type":"p1","x":"<&>"}]}'
# as cnitool 1.1.2 wrote it, with its own order of keys and Go's way of writing < and &
LIBCNI = (
    '{"kind":"cniCacheV1","containerId":"c1","config":"'
    + b64encode(CONFIG.encode()).decode()
    + '","ifName":"eth0","networkName":"web","cniArgs":[["A","b"],["IgnoreUnknown","1"]],'
    '"capabilityArgs":{"ips":["1.2.3.4"],"t":"\\u003c\\u0026\\u003e"},"result":{"cniVersion":"1.0.0",'
    '"dns":{},"ips":[{"address":"10.1.0.2/24","gateway":"10.1.0.1"}]}}'
)


def test_what_libcni_remembers_is_read_and_what_we_do_has_its_form() -> None:
    cached = Cached.from_json(LIBCNI)
    assert cached == Cached(
        "web",
        Attachment("c1", "", "eth0", C1.args, {"ips": ["1.2.3.4"], "t": "<&>"}),
        CONFIG,
        {
            "cniVersion": "1.0.0",
            "dns": {},
            "ips": [{"address": "10.1.0.2/24", "gateway": "10.1.0.1"}],
        },
    )
    ours, theirs = json.loads(cached.to_json()), json.loads(LIBCNI)
    assert (ours, [*ours]) == (theirs, [*theirs])
    full = cached._replace(attachment=C1)
    assert Cached.from_json(full.to_json()) == full
    assert json.loads(full.to_json())["netns"] == "/run/netns/c1"


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        '{"cniVersion": "0.3.1", "ips": []}',  # what libcni wrote before it had kinds
        LIBCNI.replace("cniCacheV1", "cniCacheV2"),
        LIBCNI.replace('["A","b"]', '["A"]'),
        LIBCNI.replace('["A","b"]', "7"),
        LIBCNI.replace('"config":"', '"config":"*'),
        LIBCNI.replace('"ifName":"eth0"', '"ifName":7'),
    ],
)
def test_what_cannot_be_read_is_an_error_of_cni(damage: str) -> None:
    with pytest.raises(CniError) as refused:
        Cached.from_json(damage)
    assert refused.value.code in (6, 7)
