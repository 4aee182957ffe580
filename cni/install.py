"""The plugins' executables: written into a CNI bin dir, and taken away again.

Shapes   each is a file of its own, a few lines that name this interpreter and this installation. No
         links: what another installer writes through one of them (`cp` does) would replace them all
Errors   Conflict for files of others, all of them named, before anything is written; KernelRefused
Source   the names of containernetworking/plugins 1.9; execve(2) for what a shebang can hold

With force a file of somebody else's is kept beside ours, and uninstall puts it back.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from cni import shim
from cni.marker import MARKER, is_ours
from netkit.errors import Conflict, InvalidSpec, KernelRefused

BIN_DIR = "/opt/cni/bin"
NAMES = (
    *("bridge", "ptp", "macvlan", "ipvlan", "vlan", "host-device", "loopback", "dummy", "tap"),
    *("host-local", "static", "dhcp"),
    *("portmap", "firewall", "tuning", "bandwidth", "sbr", "vrf"),
    "netkit",
)
SAVED = ".before-netkit"  # what a file of somebody else's is called meanwhile
UNIT_DIR = "/etc/systemd/system"
UNITS = ("netkitd.socket", "netkitd.service")
_NEEDED = ("netkit", "cni", "ipam", "msgspec", "pyroute2", "netaddr", "iptc")
_SHEBANG_BYTES = 127  # of the first line: all that Linux before 5.1 reads
_UNIT_MARKER = b"docs/daemon.md"

Line = str  # what was done, as one would type it


def install(bin_dir: str = BIN_DIR, *, force: bool = False, dry: bool = False) -> list[Line]:
    """Write the executables; all of them, or none where one would take another's place.

    What is there already as it should be is left alone. *dry*: only say what would be done.
    """
    text = executable()
    foreign = [name for name in NAMES if _is_foreign(f"{bin_dir}/{name}")]
    directories = [name for name in foreign if Path(bin_dir, name).is_dir()]
    if directories or (foreign and not force):
        raise Conflict(
            f"cannot install into {bin_dir}: not netkit's: {', '.join(directories or foreign)}",
            hint="remove the directory"
            if directories
            else f"--force keeps them as NAME{SAVED}, and uninstall puts them back",
        )
    lines = []
    with _translated(f"cannot install into {bin_dir}"):
        if not dry:
            os.makedirs(bin_dir, mode=0o755, exist_ok=True)
        for name in NAMES:
            path = f"{bin_dir}/{name}"
            if name in foreign:
                lines.append(f"ln -f {path} {path}{SAVED}")
                if not dry:
                    _save(path)
            if not _holds(path, text):
                lines.append(f"install -m 755 netkit {path}")
                if not dry:
                    _write(path, text, 0o755)
    return lines


def uninstall(bin_dir: str = BIN_DIR, *, dry: bool = False) -> list[Line]:
    """Remove the executables that are ours, and put back what was there before them."""
    lines = []
    with _translated(f"cannot uninstall from {bin_dir}"):
        for name in NAMES:
            path = f"{bin_dir}/{name}"
            if os.path.islink(path) or not is_ours(path):
                continue
            if os.path.lexists(path + SAVED):
                lines.append(f"mv {path}{SAVED} {path}")
                if not dry:
                    os.rename(path + SAVED, path)
            else:
                lines.append(f"rm {path}")
                if not dry:
                    os.unlink(path)
    return lines


def install_units(unit_dir: str = UNIT_DIR, *, dry: bool = False) -> list[Line]:
    """Write systemd's units for netkitd, for the netkitd of this installation."""
    lines = []
    with _translated(f"cannot install into {unit_dir}"):
        texts = {f"{unit_dir}/{name}": _unit(name) for name in UNITS}
        foreign = [path for path in texts if os.path.lexists(path) and not _is_our_unit(path)]
        if foreign:
            raise Conflict(f"not netkit's: {', '.join(foreign)}", hint="remove them first")
        for path, text in texts.items():
            if not _holds(path, text):
                lines.append(f"install -m 644 {os.path.basename(path)} {path}")
                if not dry:
                    _write(path, text, 0o644)
    return lines


def uninstall_units(unit_dir: str = UNIT_DIR, *, dry: bool = False) -> list[Line]:
    lines = []
    with _translated(f"cannot uninstall from {unit_dir}"):
        for path in (f"{unit_dir}/{name}" for name in UNITS):
            if _is_our_unit(path):
                lines.append(f"rm {path}")
                if not dry:
                    os.unlink(path)
    return lines


def executable(python: str = "", paths: Sequence[str] = ()) -> bytes:
    """The text of all of them: *paths*, the first of which holds netkit, else this installation's.

    -I and -S keep the environment, the directory and site-packages out of it: they cost time, and
    who may set them would run as root.
    """
    # the interpreter itself: by a virtual environment's link to it, it looks for that first
    python = python or (sys.executable and os.path.realpath(sys.executable))
    paths = list(paths) or _paths()
    if not python or any(c in python for c in "'\\\n") or not "".join(paths).isprintable():
        raise InvalidSpec(
            f"cannot write a program that runs {python!r}", hint="move it to a plainer path"
        )
    first = f"#!{python} -IS\n"
    if " " in python or len(os.fsencode(first)) > _SHEBANG_BYTES:
        # to the shell the first word is `:`, to Python all of it is a string
        first = f"#!/bin/sh\n''':'\nexec '{python}' -IS \"$0\" \"$@\"\n'''\n"
    return (
        os.fsencode(first)
        + MARKER
        + f"""paths = {paths}
try:
    code = type(__loader__)("shim", {_shim(paths[0])!r}).get_code("shim")
except OSError:
    print('{{"cniVersion": "1.1.0", "code": 999, "msg": "netkit has been removed", "details": ""}}')
    raise SystemExit(1)
exec(code)
""".encode()
    )


def _paths() -> list[str]:
    """The directories what plugins need is imported from, netkit's own first."""
    specs = filter(None, map(find_spec, _NEEDED))
    found = [os.path.dirname(each) for s in specs for each in s.submodule_search_locations or ()]
    return list(dict.fromkeys(map(os.path.abspath, found)))


def _shim(path: str) -> str:
    return f"{path}/cni/{os.path.basename(shim.__file__)}"


def _unit(name: str) -> bytes:
    import netkit

    text = Path(netkit.__path__[0], "systemd", name).read_text()
    program = Path(sys.executable).with_name("netkitd")
    start = f'"{program}"' if program.exists() else f'"{sys.executable}" -I -m netkit.daemon'
    return text.replace("ExecStart=netkitd", f"ExecStart={start}").encode()


# -- files


def _is_foreign(path: str) -> bool:
    return os.path.lexists(path) and (os.path.islink(path) or not is_ours(path))


def _is_our_unit(path: str) -> bool:
    with suppress(OSError):
        return not os.path.islink(path) and _UNIT_MARKER in Path(path).read_bytes()
    return False


def _holds(path: str, text: bytes) -> bool:
    with suppress(OSError):
        found = os.lstat(path)
        return stat.S_ISREG(found.st_mode) and Path(path).read_bytes() == text
    return False


def _save(path: str) -> None:
    """Give it a second name: there is no moment without a plugin of its first."""
    _rename_new(path + SAVED, lambda new: os.link(path, new, follow_symlinks=False))


def _write(path: str, text: bytes, mode: int) -> None:
    """A whole file, or none: somebody may execute it at any time."""

    def write(new: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(new, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)  # whatever the umask
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    _rename_new(path, write)


def _rename_new(path: str, make: Callable[[str], object]) -> None:
    directory, name = os.path.split(path)
    new = f"{directory}/.{name}.netkit-new"
    with suppress(FileNotFoundError):
        os.unlink(new)  # of one that was killed
    try:
        make(new)
        os.rename(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        raise KernelRefused(f"{what}: {error.strerror}{where}") from error
