"""netkit policy, allow, disallow and egress: what they say, find and refuse, without packets."""

from __future__ import annotations

import json

import pytest

from netkit.changes import Changes
from scenarios.lab import Host, run
from tests.faces import netkit, ok, refused

HEADINGS = ["FROM", "TO", "PORTS", "BY", "IN", "FORCE"]


@pytest.fixture(autouse=True)
def net(host: Host) -> None:
    """A closed network with two on it."""
    ok("network", "create", "--subnet=10.1.0.0/24", "--no-icc", "--no-host-access", "net")
    for name in ("web", "db"):
        ok("connect", "--net=net", "--name", name)


def shown() -> list[list[str]]:
    return [line.split() for line in ok("policy", "net").splitlines()]


def test_policy_shows_who_may_talk_to_whom_and_why() -> None:
    ok("allow", "web", "db:80-81")
    ok("allow", "*", "db")
    ok("allow", "web", "host:9100")
    ok("egress", "web", "allow", "10.9.0.0/16:443", "192.0.2.7")
    assert shown() == [
        HEADINGS,
        ["web", "db", "80-81/tcp", "allow", "yes"],
        ["*", "db", "all", "allow", "yes"],
        ["web", "host", "9100/tcp", "allow", "yes"],
        ["*", "anywhere", "all", "egress", "yes"],
        ["web", "10.9.0.0/16", "443/tcp", "egress", "yes"],
        ["web", "192.0.2.7/32", "all", "egress", "yes"],
    ]
    ok("policy", "net", "open", "--host-access")
    assert shown()[1:5] == [
        ["*", "*", "all", "open", "yes"],
        ["web", "db", "80-81/tcp", "allow", "no"],
        ["*", "db", "all", "allow", "no"],
        ["web", "host", "9100/tcp", "allow", "no"],
    ]
    assert shown()[5] == ["*", "host", "all", "host", "access", "yes"]


def test_policy_shows_a_link_that_leads_to_nothing_as_not_in_force() -> None:
    """Its container exposes nothing, or has left."""
    ok("connect", "--net=net", "--name=app", "--link=db:data")
    assert ["app", "db", "none", "link", "no"] in shown()
    ok("publish", "db", "5432")
    assert ["app", "db", "5432/tcp", "link", "yes"] in shown()
    ok("disconnect", "--net=net", "db")
    assert ["app", "db", "none", "link", "no"] in shown()


def test_nothing_is_in_force_between_containers_that_a_reboot_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ok("allow", "web", "db:80")
    assert ["web", "db", "80/tcp", "allow", "yes"] in shown()
    monkeypatch.setattr(Changes, "epoch", property(lambda self: "another boot"))
    assert ["web", "db", "80/tcp", "allow", "no"] in shown()


def test_inspect_shows_the_policy_on_record() -> None:
    ok("allow", "web", "db:53/udp")
    ok("egress", "net", "deny")
    (found,) = json.loads(ok("network", "inspect", "net"))
    assert found["Policy"] == {
        "Open": False,
        "HostAccess": False,
        "Allows": ["web -> db:53/udp"],
        "Egress": [],
    }
    ok("egress", "db", "allow", "2001:db8::/32")
    (found,) = json.loads(ok("inspect", "db"))
    assert found["NetworkSettings"]["Networks"]["net"]["Egress"] == ["2001:db8::/32"]
    (found,) = json.loads(ok("inspect", "web"))
    assert found["NetworkSettings"]["Networks"]["net"]["Egress"] is None


def test_what_was_allowed_is_taken_back_in_the_same_words() -> None:
    ok("allow", "web", "db:80")
    assert ok("disallow", "web", "db:80/tcp") == ""
    said = refused("disallow", "web", "db:80")
    assert said == (
        "Error: web -> db:80/tcp is not allowed on network 'net'\nHint:  these are: nothing\n"
    )


def test_a_name_nobody_has_yet_is_allowed_and_said_to_be() -> None:
    said = netkit("allow", "later", "db", "--net=net")
    assert said.err == (
        "Warning: no container called 'later' is on network 'net' now: "
        "it is allowed once there is one\n"
    )
    assert shown()[1] == ["later", "db", "all", "allow", "no"]
    ok("connect", "--net=net", "--name=later")
    assert shown()[1] == ["later", "db", "all", "allow", "yes"]


def test_the_network_is_found_if_there_is_but_one() -> None:
    assert "no such container: nobody" in refused("allow", "nobody", "db")
    assert "no such network or container: nobody" in refused("egress", "nobody", "any")
    assert "netkit policy NETWORK open" in refused("allow", "*", "*")
    ok("network", "create", "--subnet=10.2.0.0/24", "--no-icc", "other")
    for name in ("web", "db"):
        ok("connect", "--net=other", name)
    assert "web and db have several: net, other in common" in refused("allow", "web", "db")
    ok("allow", "web", "db", "--net=other")
    assert shown() == [HEADINGS, ["*", "anywhere", "all", "egress", "yes"]]
    ok("connect", "--net=net", "--name=alone")
    ok("allow", "alone", "db")
    assert "is on several networks: net, other" in refused("egress", "web", "deny")
    assert "which network * -> host:80/tcp is about" in refused("allow", "*", "host:80")


def test_an_id_means_the_container_and_its_name_is_kept() -> None:
    id = ok("inspect", "-f", "{{.Id}}", "web").strip()
    ok("allow", id[:12], "db")
    assert shown()[1][:2] == ["web", "db"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("allow web web", "that is one and the same"),
        ("allow web db:80000", "PORT or PORT-PORT"),
        ("allow web db:80/icmp", "tcp, udp, sctp"),
        ("allow we#b db", "invalid container name"),
        ("allow web *", "one container is to be reached"),
        ("allow web host", "of the host, a port is wanted"),
        ("policy nosuch", "no such network: nosuch"),
        ("policy host closed", "it is pre-defined"),
        ("egress net allow", "`allow` takes rules"),
        ("egress net any 10.0.0.0/8", "`any` takes no rules"),
        ("egress net allow 10.0.0.0/33", "10.0.0.0/33"),
        ("egress net allow exa mple", "exa"),
        ("egress net allow example.com", "it has no names"),
        ("egress net disallow 10.0.0.0/8", "is not in the egress list of net"),
        ("egress nosuch allow 10.0.0.0/8", "nosuch"),
    ],
)
def test_what_cannot_be_is_refused(words: str, why: str) -> None:
    before = ok("network", "inspect", "net")
    assert why in refused(*words.split())
    assert ok("network", "inspect", "net") == before


def test_what_nobody_here_can_keep_closed_is_not_closed() -> None:
    run("ip link add wire0 type veth peer name wire1")
    ok("network", "create", "-d", "macvlan", "-o", "parent=wire0", "--subnet=10.4.0.0/24", "lan")
    for words in ("lan closed", "lan --no-host-access"):
        assert "goes past the host's firewall" in refused("policy", *words.split())


@pytest.mark.parametrize("verb", ["opened", "", "close"])
def test_a_network_is_open_or_closed(verb: str) -> None:
    assert "is not one of 'open', 'closed'" in refused("policy", "net", verb, code=2)


@pytest.mark.parametrize(
    "words",
    [
        "allow web db:80",
        "disallow db web",
        "policy net open",
        "policy net --host-access",
        "egress net allow 10.0.0.0/8",
        "egress web deny",
    ],
)
def test_a_dry_run_prints_one_transaction_and_does_nothing(words: str) -> None:
    ok("allow", "db", "web")
    before = ok("network", "inspect", "net"), ok("firewall", "show")
    said = ok(*words.split(), "--dry-run")
    assert said.startswith("nft ")
    assert said.count("nft ") == 1
    assert (ok("network", "inspect", "net"), ok("firewall", "show")) == before


def test_a_list_can_be_given_from_the_start() -> None:
    ok("network", "create", "--subnet=10.3.0.0/24", "--egress=10.9.0.0/16:443", "held")
    assert ok("egress", "held") == "10.9.0.0/16:443/tcp\n"
    ok("connect", "--net=held", "--name=c1", "--egress=192.0.2.7", "--egress=10.8.0.0/16")
    assert ok("egress", "c1") == "192.0.2.7/32\n10.8.0.0/16\n"
    ok("egress", "c1", "any")
    assert ok("egress", "c1") == "any\n"
    ok("connect", "--net=held", "--name=c2", "--egress=none")
    assert ok("egress", "c2") == "none\n"
    assert "goes past the host's firewall" in refused(
        "network", "create", "-d", "macvlan", "-o", "parent=lo", "--egress=10.0.0.0/8", "lan"
    )
    assert "it is internal" in refused("network", "create", "--internal", "--egress=none", "in")
