"""The executables come and go, and nobody else's file with them."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import conflist, install, plugin
from cni.delegate import IN_PROCESS
from cni.marker import MARKER, is_ours
from netkit.errors import Conflict, InvalidSpec, KernelRefused
from scenarios.lab import Host, netkit

_BOUND_S = 10.0
_FOREIGN = b"\x7fELF not netkit's"


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    return tmp_path / "cni" / "bin"


def names(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


def test_every_plugin_type_has_an_executable_and_every_executable_a_type(bin_dir: Path) -> None:
    install.install(str(bin_dir))
    assert names(bin_dir) == sorted(install.NAMES)
    types = {*plugin.INTERFACES, *plugin.CHAINED, *plugin.WHOLE, *IN_PROCESS}
    assert {*install.NAMES} == types


def test_they_can_be_executed_by_all_and_written_by_their_owner(bin_dir: Path, umask: None) -> None:
    install.install(str(bin_dir))
    assert {stat.S_IMODE(each.stat().st_mode) for each in bin_dir.iterdir()} == {0o755}
    assert {each.stat().st_nlink for each in bin_dir.iterdir()} == {1}


@pytest.fixture(params=[0o077, 0o000], ids=["umask 077", "umask 000"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def test_installed_twice_nothing_is_written_twice(bin_dir: Path) -> None:
    assert len(install.install(str(bin_dir))) == len(install.NAMES)
    before = {each.name: each.stat().st_ino for each in bin_dir.iterdir()}
    assert install.install(str(bin_dir)) == []
    assert {each.name: each.stat().st_ino for each in bin_dir.iterdir()} == before


def test_an_older_installation_is_replaced_each_file_in_one_go(bin_dir: Path) -> None:
    """Whoever has the old one open goes on with it."""
    install.install(str(bin_dir))
    old = b"#!/usr/bin/python2 -IS\n" + MARKER
    (bin_dir / "bridge").write_bytes(old)
    with (bin_dir / "bridge").open("rb") as running:
        assert install.install(str(bin_dir)) == [f"install -m 755 netkit {bin_dir}/bridge"]
        assert running.read() == old
    assert b"python2" not in (bin_dir / "bridge").read_bytes()
    assert names(bin_dir) == sorted(install.NAMES)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "link to ours"])
def test_where_files_of_others_are_nothing_is_written(bin_dir: Path, kind: str) -> None:
    bin_dir.mkdir(parents=True)
    (bin_dir / "ours").write_bytes(MARKER)
    for name in ("portmap", "tuning"):
        if kind == "file":
            (bin_dir / name).write_bytes(_FOREIGN)
        else:
            target = {"link": "/bin/true", "dangling link": "nowhere", "link to ours": "ours"}
            (bin_dir / name).symlink_to(target[kind])
    before = names(bin_dir)
    with pytest.raises(Conflict, match=r"not netkit's: portmap, tuning$") as refused:
        install.install(str(bin_dir))
    assert "--force" in str(refused.value.hint)
    assert names(bin_dir) == before


def test_forced_what_was_there_is_kept_and_comes_back(bin_dir: Path) -> None:
    bin_dir.mkdir(parents=True)
    (bin_dir / "bridge").write_bytes(_FOREIGN)
    (bin_dir / "bridge").chmod(0o711)
    (bin_dir / "vlan").symlink_to("../elsewhere/vlan")
    (bin_dir / "flannel").write_bytes(_FOREIGN)
    install.install(str(bin_dir), force=True)
    assert is_ours(f"{bin_dir}/bridge")
    assert is_ours(f"{bin_dir}/vlan")
    assert (bin_dir / "bridge.before-netkit").read_bytes() == _FOREIGN
    install.install(str(bin_dir), force=True)
    install.uninstall(str(bin_dir))
    assert names(bin_dir) == ["bridge", "flannel", "vlan"]
    assert (bin_dir / "bridge").read_bytes() == _FOREIGN
    assert stat.S_IMODE((bin_dir / "bridge").stat().st_mode) == 0o711
    assert os.readlink(bin_dir / "vlan") == "../elsewhere/vlan"


def test_forced_once_more_the_newest_of_others_is_what_comes_back(bin_dir: Path) -> None:
    bin_dir.mkdir(parents=True)
    for version in (b"1", b"2"):
        (bin_dir / "bridge").unlink(missing_ok=True)
        (bin_dir / "bridge").write_bytes(_FOREIGN + version)
        install.install(str(bin_dir), force=True)
    install.uninstall(str(bin_dir))
    assert (bin_dir / "bridge").read_bytes() == _FOREIGN + b"2"


def test_a_directory_is_not_replaced_even_if_forced(bin_dir: Path) -> None:
    (bin_dir / "bridge").mkdir(parents=True)
    with pytest.raises(Conflict, match=r"not netkit's: bridge$"):
        install.install(str(bin_dir), force=True)
    assert names(bin_dir) == ["bridge"]


def test_uninstall_takes_ours_only(bin_dir: Path) -> None:
    install.install(str(bin_dir))
    (bin_dir / "bridge").unlink()
    (bin_dir / "bridge").write_bytes(_FOREIGN)  # somebody has installed another since
    (bin_dir / "mine").write_bytes(MARKER)  # of no name that we give
    (bin_dir / "ptp").unlink()
    (bin_dir / "ptp").symlink_to("mine")
    install.uninstall(str(bin_dir))
    assert names(bin_dir) == ["bridge", "mine", "ptp"]
    assert install.uninstall(str(bin_dir)) == []
    assert install.uninstall(f"{bin_dir}/nowhere") == []


def test_a_dry_run_says_it_all_and_does_nothing(bin_dir: Path) -> None:
    dry = install.install(str(bin_dir), dry=True)
    assert not bin_dir.exists()
    assert dry == install.install(str(bin_dir))
    dry = install.uninstall(str(bin_dir), dry=True)
    assert names(bin_dir) == sorted(install.NAMES)
    assert dry == install.uninstall(str(bin_dir))
    assert names(bin_dir) == []


def test_what_a_full_disk_interrupts_leaves_nothing_half_written(
    bin_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install.install(str(bin_dir))
    (bin_dir / "bridge").write_bytes(MARKER + b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KernelRefused, match=r"cannot install into .*: No space left on device"):
        install.install(str(bin_dir))
    assert (bin_dir / "bridge").read_bytes() == MARKER + b"old"
    assert names(bin_dir) == sorted(install.NAMES)


# -- what is written


def run_version(program: Path) -> object:
    done = subprocess.run(
        [program],
        env={"CNI_COMMAND": "VERSION", "NETKIT_DAEMON": "no", "PYTHONHOME": "/nowhere"},
        input=b"{}",
        capture_output=True,
        timeout=_BOUND_S,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["supportedVersions"]


@pytest.mark.parametrize("place", ["plain", "with a blank", "long" * 40])
def test_an_interpreter_a_shebang_cannot_name_is_started_by_a_shell(
    tmp_path: Path, host: Host, place: str
) -> None:
    """A blank would end its path, and Linux before 5.1 reads 127 bytes."""
    directory = tmp_path / place
    directory.mkdir()
    python = directory / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    program = tmp_path / "host-local"
    program.write_bytes(install.executable(str(python)))
    program.chmod(0o755)
    assert program.read_bytes().startswith(b"#!/bin/sh\n") == (place != "plain")
    assert is_ours(str(program))
    assert "1.1.0" in str(run_version(program))


def test_a_path_that_would_end_the_text_it_is_put_in_is_refused() -> None:
    for path in ("/opt/it's/python", "/opt/a\nb/python", "/opt/a\\b/python"):
        with pytest.raises(InvalidSpec):
            install.executable(path)


def test_an_installation_at_an_odd_place_is_found(tmp_path: Path) -> None:
    """What is quoted is quoted as Python does."""
    text = install.executable(paths=['/opt/it\'s/a "place"/ünïcode'])
    compile(text.split(b"\n", 1)[1], "plugin", "exec")


def test_a_copy_of_one_works_as_the_type_it_is_called(tmp_path: Path, host: Host) -> None:
    """Daemon sets copy plugins from an image's directory to the host's."""
    install.install(str(tmp_path / "bin"))
    (tmp_path / "host-local").write_bytes((tmp_path / "bin" / "netkit").read_bytes())
    (tmp_path / "host-local").chmod(0o755)
    assert "1.1.0" in str(run_version(tmp_path / "host-local"))


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "empty", "late"])
def test_what_is_not_ours_is_never_taken_for_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bridge"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)  # and is not waited for
    elif kind == "empty":
        path.touch()
    elif kind == "late":
        path.write_bytes(b"\0" * 4096 + MARKER)  # such as this file's text in an archive
    assert not is_ours(str(path))


# -- systemd


def test_units_name_this_installation_and_come_and_go(tmp_path: Path) -> None:
    install.install_units(str(tmp_path))
    assert names(tmp_path) == ["netkitd.service", "netkitd.socket"]
    service = (tmp_path / "netkitd.service").read_text()
    (start,) = [line for line in service.splitlines() if line.startswith("ExecStart=")]
    assert start.startswith('ExecStart="/')
    assert "ListenStream=/run/netkit/netkitd.sock\n" in (tmp_path / "netkitd.socket").read_text()
    assert install.install_units(str(tmp_path)) == []
    assert len(install.uninstall_units(str(tmp_path))) == 2
    assert names(tmp_path) == []


def test_units_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "netkitd.service").write_text("[Service]\n")
    with pytest.raises(Conflict, match=r"netkitd\.service"):
        install.install_units(str(tmp_path))
    assert install.uninstall_units(str(tmp_path)) == []
    assert names(tmp_path) == ["netkitd.service"]


def test_the_service_has_no_mounts_of_its_own() -> None:
    """In another mount namespace it would serve nobody."""
    import netkit as package

    service = Path(package.__path__[0], "systemd", "netkitd.service").read_text()
    settings = [line for line in service.splitlines() if line and not line.startswith("#")]
    private = ("Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "Temporary")
    assert not [line for line in settings if line.startswith(private)]


# -- the command


def test_the_command_installs_and_uninstalls(host: Host, bin_dir: Path) -> None:
    said = netkit(f"cni install --bin-dir {bin_dir} --dry-run")
    assert len(said.splitlines()) == len(install.NAMES)
    assert not bin_dir.exists()
    netkit(f"cni install --bin-dir {bin_dir}")
    assert names(bin_dir) == sorted(install.NAMES)
    netkit(f"cni uninstall --bin-dir {bin_dir}")
    assert names(bin_dir) == []
    (bin_dir / "bridge").write_bytes(_FOREIGN)
    assert "not netkit's: bridge" in netkit(f"cni install --bin-dir {bin_dir}", code=1)


@pytest.mark.parametrize("sort", ["reference", "netkit"])
@pytest.mark.parametrize(
    "subnets", ["", "--subnet fd00:1::/64", "--subnet 10.1.0.0/24 --subnet fd00::/64"]
)
def test_a_printed_configuration_is_one(host: Host, sort: str, subnets: str) -> None:
    found = conflist.parse(netkit(f"cni conflist --name web --type {sort} {subnets}"))
    assert found.name == "web"
    types = [each["type"] for each in found.plugins]
    assert types == (
        ["netkit"] if sort == "netkit" else ["bridge", "portmap", "firewall", "tuning"]
    )
    assert "portMappings" in found.capabilities
    assert {*types} <= {*install.NAMES}


@pytest.mark.parametrize("wrong", ["--subnet 10.1.0.1/24", "--subnet x", "--name a/b"])
def test_a_configuration_that_would_not_work_is_not_printed(host: Host, wrong: str) -> None:
    assert "Error: " in netkit(f"cni conflist {wrong}", code=1)
