"""The import order: a file imports only from what stands above it.

Edit ORDER when a file is made; a file that stands nowhere fails the test and says so.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("ipam", "netkit", "cni")

# Read it downwards. Names on one line do not import each other; `*` stands for files not named
# elsewhere, which do not import each other either: a new driver needs no line of its own.
ORDER = """
    ipam/errors.py
    ipam/pool.py
    ipam/space.py
    ipam/leases.py
    ipam/execution.py
    ipam/allocator.py ipam/external.py
    ipam/__init__.py

    netkit/errors.py
    netkit/naming.py netkit/addresses.py netkit/attributes.py
    netkit/dns/__init__.py netkit/dhcp/__init__.py
    netkit/dns/resolvconf.py netkit/dns/hosts.py netkit/dns/message.py
    netkit/dns/loop.py
    netkit/dns/local.py netkit/dns/connection.py
    netkit/dns/upstream.py
    netkit/routes.py netkit/sysctls.py netkit/access.py
    netkit/portspec.py
    netkit/specs.py
    netkit/model.py
    netkit/config.py
    netkit/background.py
    netkit/ports.py
    netkit/dns/server.py
    netkit/dhcp/message.py
    netkit/dhcp/client.py
    netkit/firewall/__init__.py
    netkit/firewall/libnftables.py netkit/firewall/detection.py netkit/firewall/nfnetlink.py
    netkit/firewall/elements.py netkit/firewall/structure.py netkit/firewall/tables.py
    netkit/firewall/iptables.py
    netkit/firewall/*.py
    netkit/kernel/mounts.py
    netkit/kernel/netns.py netkit/kernel/pids.py
    netkit/kernel/process.py
    netkit/kernel/cgroups.py
    netkit/kernel/sysctl.py netkit/kernel/sockets.py netkit/kernel/features.py
    netkit/kernel/program.py netkit/kernel/announce.py netkit/kernel/devices.py
    netkit/kernel/tuntap.py netkit/kernel/inotify.py netkit/kernel/linkwatch.py
    netkit/kernel/carrier.py netkit/kernel/pathwatch.py
    netkit/kernel/rtnl.py netkit/kernel/together.py
    netkit/kernel/kinds.py netkit/kernel/shaping.py
    netkit/kernel/netlink.py netkit/kernel/conntrack.py netkit/kernel/privilege.py
    netkit/kernel/proxy.py
    netkit/kernel/daemons.py netkit/kernel/dhcp.py
    netkit/dhcp/book.py
    netkit/dhcp/keeper.py netkit/dhcp/calls.py
    netkit/kernel/lab.py
    netkit/kernel/__init__.py
    netkit/steps/base.py
    netkit/steps/devices.py netkit/steps/physical.py netkit/steps/programs.py
    netkit/steps/links.py
    netkit/steps/routes.py netkit/steps/host.py netkit/steps/files.py
    netkit/steps/pairs.py netkit/steps/proxies.py netkit/steps/filters.py netkit/steps/shaping.py
    netkit/steps/resolver.py
    netkit/steps/__init__.py
    netkit/namefiles.py
    netkit/drivers/__init__.py
    netkit/drivers/access.py
    netkit/drivers/routing.py
    netkit/drivers/devices.py
    netkit/drivers/vlans.py
    netkit/drivers/*.py
    netkit/names.py
    netkit/namesakes.py
    netkit/store.py
    netkit/journal.py
    netkit/events.py
    netkit/nameservice.py
    netkit/nameserver.py
    netkit/allocation.py
    netkit/policies.py netkit/gateway.py netkit/renewal.py
    netkit/changes.py
    netkit/engines.py
    netkit/sharing.py
    netkit/attaching.py
    netkit/targets.py
    netkit/networks.py netkit/sandboxes.py netkit/upgrade.py
    netkit/recovery.py
    netkit/extras.py netkit/hostnames.py
    netkit/alterations.py
    netkit/publications.py netkit/updates.py netkit/enforcement.py
    netkit/endpoints.py
    netkit/links.py netkit/grants.py netkit/switching.py netkit/repair.py
    netkit/engine.py
    netkit/live.py
    netkit/permissions.py
    netkit/containers.py netkit/following.py netkit/watch.py
    netkit/views.py
    netkit/api.py
    netkit/__init__.py
    netkit/wire.py

    cni/spec.py cni/marker.py
    cni/ipam_plugin.py
    cni/delegate.py
    cni/call.py
    cni/masters.py cni/moves.py cni/conditions.py
    cni/*.py
    cni/plugin.py
    cni/shim.py
    cni/install.py
    cni/conflist.py
    cni/chain.py
    cni/cache.py
    cni/runtime.py cni/sample.py
    cni/__init__.py

    netkit/daemon.py

    netkit/cli/template.py netkit/cli/filters.py netkit/cli/progress.py
    netkit/cli/names.py
    netkit/cli/common.py
    netkit/cli/endpoint.py netkit/cli/attachments.py netkit/cli/runtime.py
    netkit/cli/*.py
    netkit/cli/__init__.py
    netkit/cli/__main__.py netkit/__main__.py
"""

# A package whose load() picks one of its own modules by name, and so imports it inside a function.
LOADERS = {
    "netkit/firewall/__init__.py": "netkit/firewall/*.py",
    "netkit/drivers/__init__.py": "netkit/drivers/*.py",
}

# What only these files may import, at any level.
ONLY = {
    "pyroute2": "netkit/kernel/kinds.py",
    "netaddr": "netkit/addresses.py",
    "iptc": "netkit/firewall/iptables_worker.py",
    "ctypes": "netkit/kernel/*.py netkit/firewall/libnftables.py "
    "netkit/firewall/iptables_worker.py",
}

# Importing the left loads none of the right: each costs more than the call it would serve.
LIGHT = ("netkit", "ipam", "netkit.cli")
HEAVY = ("pyroute2", "netaddr", "sqlite3")


def test_a_file_imports_only_from_what_stands_above_it() -> None:
    files = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    assert set(PACKAGES) == {path.partition("/")[0] for path in files}
    assert not (found := breaches(files)), "\n" + "\n".join(found)


@pytest.mark.parametrize("module", LIGHT)
def test_importing_is_free_of_heavy_modules(module: str) -> None:
    script = f"import sys, {module}; print(*sorted({set(HEAVY)} & set(sys.modules)))"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "\n", "")


@pytest.mark.parametrize(
    ("path", "source", "breach"),
    [
        ("netkit/model.py", "import netkit.engine", "netkit/engine.py, which stands below"),
        ("netkit/model.py", "from netkit import engine", "netkit/engine.py, which stands below"),
        ("netkit/model.py", "from netkit.engine import Engine", "netkit/engine.py"),
        ("netkit/model.py", "from . import engine", "netkit/engine.py"),
        ("netkit/model.py", "def f():\n    import netkit.engine", "model.py:2 imports netkit/eng"),
        ("netkit/model.py", "import importlib\nimportlib.import_module('netkit.engine')", "engine"),
        ("netkit/model.py", "import netkit", "netkit/__init__.py"),
        ("netkit/engine.py", "import cni.spec", "cni/spec.py, which stands below"),
        ("ipam/pool.py", "from netkit.errors import NetkitError", "netkit/errors.py"),
        ("netkit/drivers/host.py", "import netkit.drivers.veth", "veth.py, which stands beside it"),
        ("netkit/kernel/conntrack.py", "from pyroute2.netlink import nfnetlink", "pyroute2"),
        ("netkit/kernel/__init__.py", "def f():\n    import iptc", "iptc, which only"),
        ("netkit/engine.py", "import ctypes.util", "ctypes.util, which only"),
        ("netkit/drivers/__init__.py", "from netkit.drivers import veth", "netkit/drivers/veth.py"),
        ("netkit/novel.py", "", "netkit/novel.py has no place: give it a line of ORDER"),
    ],
)
def test_a_breach_is_found(path: str, source: str, breach: str) -> None:
    (found,) = breaches(SMALL_TREE | {path: source})
    assert breach in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("netkit/engine.py", "import netkit.model, json, os.path"),
        ("netkit/engine.py", "from netkit import model"),
        ("netkit/daemon.py", "def f():\n    from cni import spec"),
        ("netkit/drivers/host.py", "from netkit.drivers import Driver"),
        ("netkit/drivers/__init__.py", "def load():\n    from netkit.drivers import veth"),
        (
            "netkit/model.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import netkit.engine",
        ),
        ("netkit/kernel/kinds.py", "import pyroute2, ctypes"),
        ("netkit/drivers/macvlan.py", ""),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert breaches(SMALL_TREE | {path: source}) == []


SMALL_TREE = dict.fromkeys(
    [
        "ipam/pool.py",
        "netkit/errors.py",
        "netkit/model.py",
        "netkit/kernel/netlink.py",
        "netkit/drivers/__init__.py",
        "netkit/drivers/host.py",
        "netkit/drivers/veth.py",
        "netkit/engine.py",
        "netkit/__init__.py",
        "cni/spec.py",
        "netkit/daemon.py",
    ],
    "",
)


def breaches(files: Mapping[str, str]) -> list[str]:
    """Every sentence to be said about *files*, sources by path."""
    return [
        breach
        for path, source in sorted(files.items())
        for breach in (_breaches(path, source, files) if _place(path) else [_placeless(path)])
    ]


def _placeless(path: str) -> str:
    return f"{path} has no place: give it a line of ORDER in tests/test_layering.py"


def _breaches(path: str, source: str, files: Mapping[str, str]) -> Iterator[str]:
    for line, indented, module in _imports(path, ast.parse(source, path)):
        target = _file_of(module, files)
        if allowed := ONLY.get(module.partition(".")[0]):
            if not _listed(path, allowed):
                yield f"{path}:{line} imports {module}, which only {allowed} may"
        elif not target or target == path or _place(target) < _place(path):
            continue
        elif not (indented and _listed(target, LOADERS.get(path, ""))):
            where = "beside" if _place(target) == _place(path) else "below"
            yield f"{path}:{line} imports {target}, which stands {where} it"


def _place(path: str) -> int:
    """The number of *path*'s line in ORDER, a line that names it before one with `*`; 0: none."""
    lines = list(enumerate(ORDER.splitlines(), 1))
    named = [number for number, line in lines if path in line.split()]
    globbed = [number for number, line in lines if _listed(path, line)]
    return (named + globbed + [0])[0]


def _listed(path: str, patterns: str) -> bool:
    """Whether one of *patterns* fits; a `*` does not cross a `/`."""
    depth = path.count("/")
    return any(p.count("/") == depth and fnmatch(path, p) for p in patterns.split())


def _file_of(module: str, files: Mapping[str, str]) -> str | None:
    """The file that importing *module* is about: the longest leading part of it that is one."""
    prefixes = list(accumulate(module.split("."), "{}/{}".format))
    candidates = (p + end for p in reversed(prefixes) for end in (".py", "/__init__.py"))
    return next((path for path in candidates if path in files), None)


def _imports(path: str, tree: ast.AST) -> Iterator[tuple[int, bool, str]]:
    """Line, whether indented, and dotted name of each import but those under TYPE_CHECKING."""
    package = path.split("/")[:-1]
    todo = [tree]
    while todo:
        node = todo.pop()
        match node:
            case ast.If(test=ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                todo += node.orelse
                continue
            case ast.Import():
                for alias in node.names:
                    yield node.lineno, node.col_offset > 0, alias.name
            case ast.ImportFrom():
                base = package[: len(package) - node.level + 1] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                for alias in node.names:
                    yield node.lineno, node.col_offset > 0, f"{module}.{alias.name}"
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name("import_module"),
                args=[ast.Constant(str(name)), *_],
            ):
                yield node.lineno, node.col_offset > 0, name
        todo += ast.iter_child_nodes(node)
