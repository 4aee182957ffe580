"""The wire to netkitd: what is framed arrives, in whatever pieces, and nothing else is a frame."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netkit import wire

_WORD = st.binary(max_size=30).filter(lambda word: b"\0" not in word)
_NAME = _WORD.filter(lambda word: word and b"=" not in word)


@given(kind=_NAME, environ=st.dictionaries(_NAME, _WORD, max_size=5), stdin=st.binary())
def test_a_request_arrives_as_it_was_sent(
    kind: bytes, environ: dict[bytes, bytes], stdin: bytes
) -> None:
    data = wire.request(kind, environ, stdin)
    assert wire.missing(data) == 0
    assert wire.parse_request(wire.body(data)) == (kind, environ, stdin)


@given(code=st.integers(0, 255), text=st.binary())
def test_an_answer_arrives_as_it_was_sent(code: int, text: bytes) -> None:
    assert wire.parse_answer(wire.body(wire.answer(code, text))) == (code, text)


def test_not_mine_is_no_answer() -> None:
    assert wire.parse_answer(wire.body(wire.NOT_MINE)) is None


def test_a_reader_is_never_told_to_read_beyond_the_frame() -> None:
    """Which is what lets it wait for as many bytes as it is told."""
    data = wire.answer(0, b"x" * 300)
    for length in range(len(data)):
        missing = wire.missing(data[:length])
        assert 0 < missing <= len(data) - length
        assert length < 4 or missing == len(data) - length


@pytest.mark.parametrize(
    "data",
    [
        pytest.param((wire.MAX_BODY + 1).to_bytes(4, "big"), id="too long"),
        pytest.param(b"\xff\xff\xff\xff", id="4 GiB"),
        pytest.param(wire.answer(0, b"x") + b"y", id="more than a frame"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
    ],
)
def test_what_can_be_no_frame_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ValueError, match="frame"):
        wire.missing(data)


def test_a_frame_beyond_the_bound_is_not_made() -> None:
    with pytest.raises(ValueError, match=str(wire.MAX_BODY)):
        wire.request(b"bridge", {}, b"x" * wire.MAX_BODY)


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\0\0", b"bridge", b"bridge\0", b"\0A=B\0\0", b"bridge\0A\0\0", b"\0\0x"]
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="no request"):
        wire.parse_request(body)
