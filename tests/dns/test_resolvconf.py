"""A sandbox's resolv.conf: what it inherits, what overrides it, and what it says about that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit.dns import resolvconf
from netkit.dns.resolvconf import ResolvConf, for_sandbox, only_stub, parse, render
from netkit.errors import InvalidSpec

HOST = """\
# made by DHCP
nameserver 10.0.0.53
nameserver 127.0.0.53
nameserver 2620:fe::fe
domain old.example
search corp.example lab.example
options ndots:2
options timeout:3 rotate
"""

Validator = Callable[[str], str]

VALIDATORS: list[Validator] = [
    resolvconf.validate_nameserver,
    resolvconf.validate_search,
    resolvconf.validate_option,
]
# each would begin a line, a word or a comment of its own, or end the file for the C library
INJECTIONS = ["\nnameserver 6.6.6.6", " x", "\tx", "#", ";", "\0", "\r", "\x0b", "\x85", "\u2028"]

addresses = st.ip_addresses().map(str)
labels = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,8}[a-zA-Z0-9_])?", fullmatch=True)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join)
options = st.from_regex(r"[a-z]{1,9}(-[a-z]{1,9})?(:[0-9]{1,3})?", fullmatch=True)
confs = st.builds(
    ResolvConf,
    st.lists(addresses, max_size=5).map(tuple),
    st.lists(domains, max_size=5).map(tuple),
    st.lists(options, max_size=5).map(tuple),
    st.booleans(),
    st.lists(st.text(), max_size=3).map(tuple),
)


def test_a_file_is_read_as_the_c_library_reads_it() -> None:
    """The last of search and domain counts, options add up, indented lines are none."""
    text = HOST + " nameserver 9.9.9.9\nnameserver\nnameserver nonsense\nsortlist 10.0.0.0\n"
    assert parse(text) == ResolvConf(
        ("10.0.0.53", "127.0.0.53", "2620:fe::fe"),
        ("corp.example", "lab.example"),
        ("ndots:2", "timeout:3", "rotate"),
    )


def test_a_comment_hides_the_rest_of_its_line_and_no_more() -> None:
    text = (
        "nameserver 9.9.9.9 # quad9\nsearch a ; b\n#x\x0bnameserver 6.6.6.6\r\n;\roptions rotate\n"
    )
    assert parse(text) == ResolvConf(("9.9.9.9",), ("a",))


def test_windows_line_ends_are_no_part_of_a_word() -> None:
    assert parse("nameserver 9.9.9.9\r\nsearch a\r\n") == ResolvConf(("9.9.9.9",), ("a",))


@given(confs)
def test_what_is_rendered_is_what_is_parsed(conf: ResolvConf) -> None:
    assert parse(render(conf))[:3] == conf[:3]


@given(st.text() | st.text(alphabet="nameserver search:.#\n\t%1", max_size=60))
def test_no_host_file_is_refused_and_all_of_them_give_a_writable_one(text: str) -> None:
    conf = for_sandbox(text)
    assert parse(render(conf))[:3] == conf[:3]
    assert 1 <= len(conf.nameservers) <= 3


@given(confs, st.sampled_from(INJECTIONS))
def test_injected_text_never_reaches_the_file(conf: ResolvConf, injection: str) -> None:
    for evil in (
        conf._replace(nameservers=("1.1.1.1" + injection,)),
        conf._replace(nameservers=("fe80::1%eth0" + injection,)),
        conf._replace(search=("a.example" + injection,)),
        conf._replace(options=("rotate" + injection,)),
    ):
        with pytest.raises(InvalidSpec):
            render(evil)


@given(st.text())
def test_a_note_stays_one_comment(note: str) -> None:
    file = render(ResolvConf(("9.9.9.9",), notes=(note + "\nnameserver 6.6.6.6",)))
    assert parse(file).nameservers == ("9.9.9.9",)
    assert file.count("\n") == 2


@pytest.mark.parametrize("validate", VALIDATORS)
@given(text=st.text())
def test_a_validator_accepts_its_own_answer_or_raises_invalid_spec(
    validate: Validator, text: str
) -> None:
    try:
        said = validate(text)
        assert validate(said) == said
        assert not set(said) & set(" \t#;")
    except InvalidSpec as error:
        said = f"{error}{error.hint}"
    assert said.isprintable()


@pytest.mark.parametrize("validate", VALIDATORS)
@pytest.mark.parametrize("injection", INJECTIONS)
@pytest.mark.parametrize("word", ["1.1.1.1", "fe80::1%eth0", "a.example", "ndots:2", ".", ""])
def test_a_separator_anywhere_is_refused(validate: Validator, injection: str, word: str) -> None:
    for text in (word + injection, injection + word):
        with pytest.raises(InvalidSpec):
            validate(text)


@pytest.mark.parametrize(
    "text", ["dns.google", "8.8.8.8:53", "8.8.8", "[::1]", "fe80::1%", "", "1"]
)
def test_a_nameserver_is_an_address(text: str) -> None:
    with pytest.raises(InvalidSpec, match="an IP address is wanted"):
        for_sandbox(HOST, dns=[text])


@pytest.mark.parametrize("text", ["", "..", "a..b", "-a", "a-", "a" * 64, "a." * 127 + "a", "é.fr"])
def test_a_search_domain_is_a_dns_name(text: str) -> None:
    with pytest.raises(InvalidSpec, match="invalid search domain"):
        for_sandbox(HOST, search=[text])


@pytest.mark.parametrize("text", ["_tcp.a_b.example", "a." * 126 + "a", "a" * 63, "example.com."])
def test_a_search_domain_may_be_long_or_underscored(text: str) -> None:
    assert for_sandbox(HOST, search=[text]).search == (text,)


@pytest.mark.parametrize("text", ["", ":2", "ndots:", "ndots:1:2", "a=b", "x" * 64, "-a"])
def test_an_option_is_a_name_with_perhaps_a_value(text: str) -> None:
    with pytest.raises(InvalidSpec, match="name:value is wanted"):
        for_sandbox(HOST, options=[text])


def test_the_hosts_file_is_inherited_less_what_the_sandbox_cannot_reach() -> None:
    conf = for_sandbox(HOST)
    assert conf[:4] == (
        ("10.0.0.53",),
        ("corp.example", "lab.example"),
        ("ndots:2", "timeout:3", "rotate"),
        False,
    )
    assert conf.notes == ("left out, not reachable from here: 127.0.0.53 2620:fe::fe",)
    assert for_sandbox(HOST, ipv6=True).nameservers == ("10.0.0.53", "2620:fe::fe")


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"dns": ["9.9.9.9"]}, (("9.9.9.9",), ("corp.example", "lab.example"), 3)),
        ({"search": ["a.example"]}, (("10.0.0.53",), ("a.example",), 3)),
        ({"options": ["rotate"]}, (("10.0.0.53",), ("corp.example", "lab.example"), 1)),
    ],
)
def test_what_is_given_overrides_its_own_part_only(
    given: dict[str, list[str]], parts: tuple[tuple[str, ...], tuple[str, ...], int]
) -> None:
    conf = for_sandbox(
        HOST,
        dns=given.get("dns", ()),
        search=given.get("search", ()),
        options=given.get("options", ()),
    )
    assert (conf.nameservers, conf.search, len(conf.options)) == parts


@pytest.mark.parametrize(
    "unreachable",
    [
        *("127.0.0.53", "127.1.2.3", "0.0.0.0", "::", "::1", "::ffff:127.0.0.1"),
        *("fe80::1", "fe80::1%eth0", "2001:db8::1%eth0"),
    ],
)
@pytest.mark.parametrize("ipv6", [False, True])
def test_an_address_that_means_the_host_itself_or_its_link_is_not_inherited(
    unreachable: str, ipv6: bool
) -> None:
    text = f"nameserver {unreachable}\nnameserver 9.9.9.9\n"
    assert for_sandbox(text, ipv6=ipv6).nameservers == ("9.9.9.9",)


def test_a_clouds_link_local_resolver_is_inherited() -> None:
    """169.254/16 is routed by the clouds that put their resolver there."""
    assert for_sandbox("nameserver 169.254.169.253\n").nameservers == ("169.254.169.253",)


@pytest.mark.parametrize("asked", ["127.0.0.1", "::1", "fe80::1%eth0", "2620:fe::fe"])
def test_an_address_given_is_kept_wherever_it_leads(asked: str) -> None:
    conf = for_sandbox(HOST, dns=[asked])
    assert conf[:1] + conf[3:] == ((asked,), False, ())


@pytest.mark.parametrize("text", ["", "nameserver 127.0.0.53\n", "nameserver what\n"])
def test_a_fallback_is_never_silent(text: str) -> None:
    conf = for_sandbox(text)
    assert conf.fallback
    assert conf.nameservers == ("8.8.8.8", "8.8.4.4")
    assert "# FALLBACK: the host names no nameserver" in render(conf)
    assert for_sandbox(text, ipv6=True).nameservers == (*conf.nameservers, "2001:4860:4860::8888")


def test_an_internal_network_inherits_no_nameserver_and_gets_no_fallback() -> None:
    conf = for_sandbox(HOST, internal=True)
    assert (conf.nameservers, conf.fallback) == ((), False)
    assert "# internal network" in render(conf)
    assert "nameserver " not in render(conf).replace("nameservers", "")
    assert for_sandbox(HOST, dns=["10.9.9.9"], internal=True).nameservers == ("10.9.9.9",)


def test_at_most_three_nameservers_are_written_and_the_rest_told() -> None:
    conf = for_sandbox("".join(f"nameserver 10.0.0.{n}\n" for n in (1, 2, 2, 3, 4, 5)))
    assert conf.nameservers == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert "# left out, only 3 are ever asked: 10.0.0.4 10.0.0.5\n" in render(conf)


def test_a_leading_dot_is_stripped_and_repetitions_are_dropped_in_order() -> None:
    conf = for_sandbox(HOST, search=[".example.com", "b.example", "Example.com", "."])
    assert conf.search == ("example.com", "b.example")


def test_a_lone_dot_means_no_search_at_all() -> None:
    conf = for_sandbox(HOST, search=["."])
    assert conf.search == ()
    assert "search" not in render(conf)


def test_of_an_option_given_twice_the_last_counts() -> None:
    assert for_sandbox("", options=["ndots:1", "rotate", "ndots:3"]).options == (
        "ndots:3",
        "rotate",
    )


@pytest.mark.parametrize("bad", ["ndots:x", "ndots", "ndots:-1", "ndots:1.5"])
def test_an_ndots_that_is_no_number_is_dropped_and_told(bad: str) -> None:
    conf = for_sandbox("", options=["ndots:4", bad])
    assert conf.options == ("ndots:4",)
    assert f"# left out, ndots is a number: {bad}\n" in render(conf)
    assert for_sandbox(f"options {bad} rotate\n").options == ("rotate",)


@pytest.mark.parametrize(
    ("text", "stub"),
    [
        ("nameserver 127.0.0.53\noptions edns0 trust-ad\n", True),
        ("nameserver 127.0.0.53\nnameserver 127.0.0.54\n", True),
        ("nameserver 127.0.0.53\nnameserver 10.0.0.1\n", False),
        ("nameserver 127.0.0.1\n", False),
        ("search a.example\n", False),
    ],
)
def test_only_systemds_stub_counts_as_stub(text: str, stub: bool) -> None:
    assert only_stub(parse(text)) is stub


def test_the_file_reads_as_people_write_it() -> None:
    conf = for_sandbox(HOST, dns=["9.9.9.9", "1.1.1.1"])
    assert render(conf) == (
        "nameserver 9.9.9.9\n"
        "nameserver 1.1.1.1\n"
        "search corp.example lab.example\n"
        "options ndots:2 timeout:3 rotate\n"
    )


# -- where netkit serves the names of containers

SERVED = ["10.88.0.1", "fd00:88::1"]


def test_where_netkit_serves_names_it_is_asked_and_the_file_tells_whom_it_asks() -> None:
    assert render(for_sandbox(HOST, served_at=SERVED)) == (
        "# netkit serves containers' names; about others it asks "
        "10.0.0.53 127.0.0.53 2620:fe::fe\n"
        "nameserver 10.88.0.1\n"
        "nameserver fd00:88::1\n"
        "search corp.example lab.example\n"
        "options timeout:3 rotate ndots:0\n"
    )


@pytest.mark.parametrize(
    ("given", "internal", "asked"),
    [
        ((), False, "10.0.0.53 127.0.0.53 2620:fe::fe"),
        (("9.9.9.9",), False, "9.9.9.9"),
        ((), True, "nobody"),
        (("9.9.9.9",), True, "nobody"),  # it would have to be asked from the host
    ],
)
def test_it_asks_whom_was_given_or_the_hosts_and_from_an_internal_network_nobody(
    given: tuple[str, ...], internal: bool, asked: str
) -> None:
    conf = for_sandbox(HOST, dns=given, internal=internal, served_at=SERVED)
    assert conf.nameservers == tuple(SERVED)
    assert conf.notes == (f"netkit serves containers' names; about others it asks {asked}",)


@pytest.mark.parametrize("text", ["", "nameserver 127.0.0.1\n"])
def test_nobody_is_made_up_where_netkit_is_asked(text: str) -> None:
    """The host's own loopback is within netkit's reach; and a host without servers has none."""
    assert not for_sandbox(text, served_at=SERVED).fallback


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ((), "ndots:0"),
        (("ndots:3",), "ndots:3"),
        (("rotate",), "ndots:0"),
        (("ndots:x",), "ndots:0"),
    ],
)
def test_short_names_are_looked_up_as_they_are_unless_ndots_is_given(
    options: tuple[str, ...], wanted: str
) -> None:
    """What the host has is about its own names."""
    found = for_sandbox(HOST, options=options, served_at=SERVED).options
    assert [each for each in found if each.startswith("ndots")] == [wanted]


def test_of_many_places_three_are_written() -> None:
    conf = for_sandbox(HOST, served_at=[f"10.88.{n}.1" for n in range(5)])
    assert conf.nameservers == ("10.88.0.1", "10.88.1.1", "10.88.2.1")
    assert len(conf.notes) == 1  # nothing is missed: each knows what the others do


@pytest.mark.parametrize(
    ("text", "fallback"),
    [("nameserver 127.0.0.1\n", True), ("nameserver 9.9.9.9\n", False), ("# FALLBACK:\n", True)],
)
def test_a_file_tells_whether_nobody_chose_its_servers(text: str, fallback: bool) -> None:
    assert resolvconf.is_fallback(render(for_sandbox(text))) is fallback
