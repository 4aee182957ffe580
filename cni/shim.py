"""What an installed plugin runs: a byte pipe to netkitd or, where none answers, the call itself.

    exec(type(__loader__)("shim", "…/cni/shim.py").get_code("shim"))     # see cni.install

Shapes   `paths` are the directories netkit and what it needs are found in; -IS knows none of them.
         The call is the file's own name, the environment, and standard input
Units    seconds, bytes
Errors   a CNI error object on standard output and exit code 1, whatever happens
Source   CNI SPEC.md, section 2. Startup is what there is to save: `os` costs 0.9 ms, an interpreter
         that tidies up at exit as much; hence `posix`, which is inside the interpreter, and _exit

A daemon that dies in the midst of a call leaves an intent whose maker is dead, which the first
thing done in process undoes: so the call is made again. If it died with all done but not said,
the attachment is on record: DEL, CHECK, GC and STATUS may be made twice, and a second ADD knows
its own first by NETKIT_CALL, which names this process.
"""

import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

_RUN_DIR = b"/run/netkit"  # netkit.engine's
_INPUT_S = 10  # for a runtime to say all it has to say
_CALL_S = 180  # for netkitd; what it waits for itself is bounded by less
VERSIONS = (b"0.1.0", b"0.2.0", b"0.3.0", b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")


def main(paths: "list[str]") -> "NoReturn":
    kind = sys.argv[0].rpartition("/")[2]
    call = dict(posix.environ)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_closed()
    if kind == "dhcp" and sys.argv[1:]:  # `dhcp daemon`, as unit files in the field start it
        sys.path[:0] = paths
        from cni import dhcp

        dhcp.main()
    wanted = False  # a daemon
    try:
        wire: dict[str, Any] = {}
        load = type(globals()["__loader__"])  # a file's: reads what was compiled, if it was
        exec(load("wire", f"{paths[0]}/netkit/wire.py").get_code("wire"), wire)
        stdin = _input(wire["MAX_STDIN"]) if b"CNI_COMMAND" in call else b""
        answer = None
        if call.get(b"CNI_COMMAND") == b"VERSION":
            answer = 0, _versions(stdin)
        elif call.get(b"NETKIT_DAEMON") != b"no":
            import time  # inside the interpreter

            call[b"NETKIT_CALL"] = b"%d.%d" % (posix.getpid(), time.monotonic_ns())
            wanted, answer = _ask(wire, kind, call, stdin)
        if answer is None:
            sys.path[:0] = paths
            answer = _serve(kind, call, stdin)
    except _Refused as refused:
        answer = 1, _error(*refused.args)
    except BaseException as error:  # a machine without memory, an installation with a hole
        answer = 1, _error(999, f"{type(error).__name__}: {error}", "see `netkit cni install`")
    code, text = answer
    try:
        while text:
            text = text[posix.write(1, text) :]
    except OSError:  # nobody listens
        code = code or 1
    if wanted:
        _start(paths, call)
    posix._exit(code)


def _versions(stdin: bytes) -> bytes:
    """The answer to VERSION, as cni.spec has it: podman asks before every call, so it is not worth
    an import.
    """
    said = stdin.partition(b'"cniVersion"')[2].partition(b'"')[2].partition(b'"')[0]
    if not said and stdin.lstrip()[:1] == b"{":
        said = VERSIONS[0]  # a configuration without one
    version = said if said in VERSIONS else VERSIONS[-1]
    listed = b'", "'.join(VERSIONS)
    return b'{"cniVersion": "%s", "supportedVersions": ["%s"]}\n' % (version, listed)


class _Refused(Exception):
    """A code, a message and details, for the runtime."""


def _open_closed() -> None:
    """Or the next file to be opened would be standard output, and get the answer."""
    while (fd := posix.open("/dev/null", posix.O_RDWR)) < 3:
        posix.set_inheritable(fd, True)
    posix.close(fd)


def _input(most: int) -> bytes:
    """All of standard input, if it ends in time and before it is too much."""
    import _signal  # type: ignore[import-not-found]  # inside the interpreter; `signal` is not

    def expired(*_: object) -> "NoReturn":
        raise _Refused(5, f"standard input does not end within {_INPUT_S} s", "")

    _signal.signal(_signal.SIGALRM, expired)
    _signal.alarm(_INPUT_S)
    try:
        found = b""
        while chunk := posix.read(0, 1 << 16):
            found += chunk
            if len(found) > most:
                raise _Refused(6, f"the configuration is longer than {most} bytes", "")
    except OSError as error:  # a directory, say
        raise _Refused(5, f"standard input cannot be read: {error}", "") from None
    finally:
        _signal.alarm(0)
    return found


def _ask(
    wire: "Mapping[str, Any]", kind: str, call: "Mapping[bytes, bytes]", stdin: bytes
) -> "tuple[bool, tuple[int, bytes] | None]":
    """Whether there should be a daemon and is none; what the one there is answers, if it does."""
    import _socket

    path = call.get(b"NETKIT_RUN_DIR", _RUN_DIR) + b"/" + wire["SOCKET"].encode()
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0)
    sock.settimeout(_CALL_S)
    try:
        sock.connect(path)
    except FileNotFoundError:
        return True, None
    except ConnectionRefusedError:
        return True, None
    except OSError:  # not for us, or it has more to do than it can
        return False, None
    data = b""
    try:
        sock.sendall(wire["request"](kind.encode("utf-8", "surrogateescape"), call, stdin))
        while need := wire["missing"](data):
            if not (chunk := sock.recv(max(need, 1 << 16))):
                return False, None
            data += chunk
        return False, wire["parse_answer"](wire["body"](data))
    except TimeoutError:
        # it may be at it still: not to be begun a second time beside it
        raise _Refused(11, f"netkitd does not answer within {_CALL_S} s", "") from None
    except (OSError, ValueError):  # it died, or talks like none of this version
        return False, None
    finally:
        sock.close()


def _serve(kind: str, call: "Mapping[bytes, bytes]", stdin: bytes) -> "tuple[int, bytes]":
    import gc  # inside the interpreter

    gc.disable()  # the process ends before there is much to collect
    # msgspec prefers it to typing, which has all it wants: a tenth of what there is to import
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    from os import fsdecode

    from cni import delegate

    environ = {fsdecode(k): fsdecode(v) for k, v in call.items()}
    if kind in delegate.IN_PROCESS:  # which can do without an engine, half of what there is to load
        import json

        status, said = delegate.handle(kind, environ, stdin)
        return status, b"" if said is None else json.dumps(said).encode() + b"\n"
    from cni import plugin

    return plugin.handle(kind, environ, stdin, last=True)


def _error(code: int, message: str, details: str) -> bytes:
    """An error object, without json: it must do where nothing can be imported any more."""

    def plain(text: str) -> str:
        return "".join(c if " " <= c <= "~" and c not in '"\\' else "?" for c in text[:500])

    return (
        f'{{"cniVersion": "1.1.0", "code": {code}, "msg": "{plain(message)}", '
        f'"details": "{plain(details)}"}}\n'
    ).encode()


def _start(paths: "list[str]", call: "Mapping[bytes, bytes]") -> None:
    """Start a daemon for the calls to come, unless there is one, or this is not the host."""
    import os

    try:
        from netkit import background, config

        if call.get(b"NETKIT_DAEMON") != b"yes" and not background.is_host():
            return  # it would keep a namespace alive that is not meant to stay
        if config.load().config.daemon:
            run_dir = os.fsdecode(call.get(b"NETKIT_RUN_DIR", _RUN_DIR))
            background.start(paths, os.environ, run_dir)
    except Exception:  # it is a convenience
        return


if __name__ == "__main__":
    main(globals()["paths"])
