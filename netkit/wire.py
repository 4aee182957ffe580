"""netkitd's wire: one frame there, one frame back, on a Unix stream socket.

Shapes   a frame is four bytes of length, big-endian, and a body. Asked: the plugin's name and the
         variables, each NAME=VALUE, each ended by a NUL; one NUL more; what came on standard input.
         Answered: one byte, the exit status, and what to print. An empty answer: "not mine", do it
         yourself
Units    bytes
Errors   ValueError for a frame that is too long or no request

Both ends use it, and one of them (cni.shim) counts microseconds: it imports nothing, not even
`__future__`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SOCKET = "netkitd.sock"  # in the run directory
MAX_STDIN = 1 << 20
MAX_BODY = MAX_STDIN + (1 << 18)  # the with more in its environment a caller does it himself
_LENGTH = 4


def frame(body: bytes) -> bytes:
    if len(body) > MAX_BODY:
        raise ValueError(f"a frame of {len(body)} bytes, of which {MAX_BODY} are the most")
    return len(body).to_bytes(_LENGTH, "big") + body


def missing(data: bytes | bytearray) -> int:
    """How many bytes there are to come before *data* is a frame, as far as it tells by now."""
    if len(data) < _LENGTH:
        return _LENGTH - len(data)
    length = int.from_bytes(data[:_LENGTH], "big")
    if length > MAX_BODY:
        raise ValueError(f"a frame of {length} bytes, of which {MAX_BODY} are the most")
    if len(data) > _LENGTH + length:
        raise ValueError(f"{len(data) - _LENGTH - length} bytes after the frame")
    return _LENGTH + length - len(data)


def body(data: bytes | bytearray) -> bytes:
    """The body of a frame that misses nothing."""
    return bytes(data[_LENGTH:])


def request(kind: bytes, environ: "Mapping[bytes, bytes]", stdin: bytes) -> bytes:
    """The frame that asks for a call of plugin *kind*."""
    words = [kind, *(b"=".join(pair) for pair in environ.items()), b""]
    return frame(b"\0".join(words) + b"\0" + stdin)


def parse_request(body: bytes) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """What a request's body asks for: the plugin's name, its variables, its standard input."""
    head, end, stdin = body.partition(b"\0\0")
    kind, *words = head.split(b"\0")
    pairs = [word.partition(b"=") for word in words]
    if not end or not kind or not all(sign for _, sign, _ in pairs):
        raise ValueError("no request")
    return kind, {name: value for name, _, value in pairs}, stdin


def answer(code: int, text: bytes) -> bytes:
    """The frame that ends a call; *code* is 0 to 255."""
    return frame(bytes((code,)) + text)


NOT_MINE = frame(b"")


def parse_answer(body: bytes) -> tuple[int, bytes] | None:
    """Exit status, and what to print; None: it is for the caller to do."""
    return (body[0], body[1:]) if body else None
