"""A small sandbox runner for labs, tests and learning: run, exec, stop, rm. Not a container engine.

Shapes   no images: the host's root file system, or a directory; a container is a sandbox record
         with a process. It is named in /run/netns, so `ip netns` sees it
Errors   Docker's sentences where it has them; exit codes 125 (netkit's), 126, 127 (the command's)
Source   docker run(1)

In the foreground the caller supervises, and dies with its container or takes it along: the record's
maker is the caller, so a killed caller leaves an intent, which whoever comes next undoes. Detached,
a daemon supervises; should it be killed, the container lives on, and `gc` buries it when it ends.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address

import msgspec
from msgspec.structs import replace

from netkit import model, namefiles, naming, recovery, sandboxes, specs, steps, targets
from netkit.addresses import Address
from netkit.changes import maker_lives
from netkit.engine import Engine
from netkit.errors import Conflict, InvalidSpec, NetkitError, NotFound
from netkit.kernel import netns, process
from netkit.model import SandboxRecord
from netkit.portspec import PortSpec
from netkit.specs import NameFiles, Request

_STOP_TIMEOUT_S = 10.0
_KILL_TIMEOUT_S = 5.0
_SHARED = ("container:", "service:")


class RunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What `run` asks for."""

    command: tuple[str, ...]
    name: str | None = None
    networks: tuple[str, ...] = (model.DEFAULT_NETWORK,)
    request: Request = Request()
    requests: Mapping[str, Request] = {}  # by network, where it is not `request` or an empty one
    files: NameFiles = NameFiles()
    expose: tuple[PortSpec, ...] = ()
    publish_all: bool = False
    sysctls: Mapping[str, str] = {}  # of the namespace; an interface's are in its request
    rootfs: str | None = None
    workdir: str | None = None
    env: Mapping[str, str] = {}
    labels: Mapping[str, str] = {}
    interactive: bool = False
    tty: bool = False
    auto_remove: bool = False

    def __post_init__(self) -> None:
        if self.name is not None:
            naming.validate_name("container", self.name)
        if not self.command:
            raise InvalidSpec("no command given", hint="netkit run [OPTIONS] -- COMMAND [ARG...]")
        if self.rootfs is not None and not os.path.isdir(self.rootfs):
            raise InvalidSpec(
                f"invalid rootfs {self.rootfs!r:.80}: not a directory",
                hint="name the directory that is to be '/' inside",
            )
        specs.validate_labels(self.labels)
        _validate_process(self.command, self.env, self.workdir)
        if len(set(self.networks)) < len(self.networks):
            raise InvalidSpec("a network is named twice", hint="name each --net once")
        for mode in self.networks:
            self._check(mode)

    def _check(self, mode: str) -> None:
        """Docker's rules for what goes with --net host, none and container:NAME."""
        shared = mode.startswith(_SHARED)
        if not shared and mode not in model.BUILT_IN:
            naming.validate_name("network", mode)
            return
        if len(self.networks) > 1:
            raise InvalidSpec(f"conflicting options: --net {mode} cannot be combined with others")
        kind = "container type" if shared else mode
        asked = self.requests.get(mode, self.request)
        conflicts = {
            "port publishing": bool(asked.ports or self.publish_all),
            "--ip": bool(asked.addresses),
            "mac-address": asked.mac is not None,
            "interface name": asked.ifname is not None,
            "interface settings": asked.is_special,
            "network-scoped alias": bool(asked.aliases),
            "links": bool(asked.links),
            "sysctl": bool(self.sysctls) and mode != "none",
        }
        if shared:
            conflicts |= {
                "port exposing": bool(self.expose),
                "hostname": self.files.hostname is not None,
                "dns": bool(self.files.servers or self.files.search or self.files.options),
                "custom host-to-IP mapping": bool(self.files.extra_hosts),
            }
        for what, given in conflicts.items():
            if given:
                raise InvalidSpec(f"conflicting options: {what} and the {kind} network mode")


def _validate_process(argv: tuple[str, ...], env: Mapping[str, str], workdir: str | None) -> None:
    """Refuse what no program can be given, while nothing has been made for it yet."""
    for what, text in (
        *(("argument", word) for word in argv),
        *(("environment variable", f"{key}={value}") for key, value in env.items()),
        ("working directory", workdir or ""),
    ):
        try:
            encoded = os.fsencode(text)
        except UnicodeEncodeError:
            encoded = b"\0"
        if b"\0" in encoded:
            raise InvalidSpec(
                f"invalid {what} {text!r:.80}: no program can be given that",
                hint="it must be text, without NUL characters",
            )
    if workdir is not None and not workdir.startswith("/"):
        raise InvalidSpec(
            f"invalid working directory {workdir!r:.80}: not an absolute path",
            hint="it is a path inside, such as /srv",
        )


def run(engine: Engine, spec: RunSpec) -> int:
    """Run in the foreground; returns the command's exit code."""
    with process.signals_held():
        sandbox = _make(engine, spec)
        code = None
        try:
            child = process.spawn(_command(engine, sandbox, spec, log=None))
            sandbox = replace(sandbox, pid=child.pid, start_time=child.start_time)
            engine.update_sandbox(sandbox)
            engine.note("start", sandbox)
            steps.point("running")
            code = process.supervise(child)
        finally:
            if code is None:
                engine.delete_sandbox(sandbox)  # it never ran
            else:
                _finish(engine, sandbox, code)
    return code


def run_detached(open_engine: Callable[[], Engine], spec: RunSpec) -> str:
    """Run under a daemon of its own; returns the container's id as soon as the command runs."""

    def work(report: Callable[[str], None]) -> None:
        engine = open_engine()
        sandbox = _make(engine, spec)
        try:
            command = _command(engine, sandbox, spec, log=_log_of(sandbox))
            with process.signals_held():
                child = process.spawn(command)
        except NetkitError:
            engine.delete_sandbox(sandbox)
            raise
        # from here on the container lives for itself: our death is not its end
        sandbox = replace(
            sandbox,
            pid=child.pid,
            start_time=child.start_time,
            supervisor=sandbox.maker,
            maker=None,
        )
        engine.update_sandbox(sandbox)
        engine.note("start", sandbox)
        report(sandbox.id)
        engine.close()  # nothing is held open for as long as the container runs
        code = process.supervise(child)
        engine = open_engine()
        _finish(engine, sandbox, code)

    return process.detach(work)


def lines(engine: Engine, spec: RunSpec) -> list[str]:
    """What run would do, as the lines an operator would type; the last one runs the command."""
    with engine.dry_run() as planned:
        sandbox = _make(engine, spec)
        command = _command(engine, sandbox, spec, log=None)
    return [*planned, _line(command)]


def _line(command: process.Command) -> str:
    """The command as a line: namespaces by unshare(1) and ip-netns(8), files by mount(8)."""
    inside = [f"mount --bind {source} {target}" for source, target in command.binds]
    if command.hostname is not None:
        inside.append(f"hostname {command.hostname}")
    run = 'exec "$@"'
    if command.rootfs is not None:
        inside = [f"mount --bind {s} {command.rootfs}{t}" for s, t in command.binds]
        run = f'exec chroot {shlex.quote(command.rootfs)} "$@"'
    script = "; ".join([*inside, run])
    enter = f"nsenter --net={command.netns} " if command.netns else ""
    uts = " --uts" if command.hostname is not None else ""
    return f"{enter}unshare --mount{uts} sh -c {shlex.quote(script)} sh {shlex.join(command.argv)}"


def _make(engine: Engine, spec: RunSpec) -> SandboxRecord:
    """The sandbox on record, made, and connected to all its networks."""
    with engine.tentative_default():
        sandbox, shared = _propose(engine, spec)
        sandbox = engine.create_sandbox(sandbox, _plan(engine, sandbox, shared, spec))
        try:
            if spec.networks[0] in model.BUILT_IN:
                engine.record_endpoint(spec.networks[0], sandbox)
            elif shared is None:
                for network, request in requests(engine, spec):
                    engine.connect(network, sandbox.id, request)
        except BaseException:
            engine.delete_sandbox(sandbox)
            raise
    engine.renew(sandbox.id)  # an endpoint may have less of its network than that has
    return engine.store.get(SandboxRecord, sandbox.id)


def requests(engine: Engine, spec: RunSpec) -> list[tuple[str, Request]]:
    """What to ask of each network: an address of the first, the ports of the one that leads out.

    Ports that name a network are published there.
    """
    ports = spec.request.ports
    if spec.publish_all:
        ports += spec.expose
    for port in ports:
        if port.network is not None and port.network not in spec.networks:
            raise InvalidSpec(
                f"cannot publish port {port.port} on network '{port.network}': "
                "the container is not to be connected to it",
                hint=f"add --net {port.network}",
            )
    out = _way_out(engine, spec) or spec.networks[0]  # if there is none the engine says why not
    asked = []
    for i, network in enumerate(spec.networks):
        request = spec.requests.get(network) or (spec.request if i == 0 else Request())
        own = request.ports if network in spec.requests else ()
        others = tuple(port for port in ports if (port.network or out) == network)
        asked.append((network, replace(request, ports=own + others)))
    return asked


def _way_out(engine: Engine, spec: RunSpec) -> str | None:
    """The network the default route will go through: the first by name that is not internal."""
    if spec.networks[0] in model.BUILT_IN or spec.networks[0].startswith(_SHARED):
        return None
    nets = [_network(engine, name) for name in spec.networks]
    ways = [net.name for net in nets if not net.internal]
    return min(ways, default=None)


def _network(engine: Engine, name: str) -> model.NetworkRecord:
    return engine.default_network() if name == model.DEFAULT_NETWORK else engine.network(name)


def _propose(engine: Engine, spec: RunSpec) -> tuple[SandboxRecord, SandboxRecord | None]:
    """The record, and the container whose network it shares."""
    shared = _shared(engine, spec)
    if spec.name is not None:
        recovery.recover(engine.changes)  # it may be the name of one whose maker was killed
        sandboxes.refuse_taken(engine.changes, spec.name)
    name = spec.name or sandboxes.free_name(engine.changes)
    if shared is not None:
        path = shared.netns
    else:
        path = None if spec.networks == ("host",) else netns.named(name)
    sandbox = sandboxes.proposal(engine.changes, "container", name, path, spec.files)
    files = sandbox.files
    if shared is not None:
        files = shared.files
    elif files.hostname is None and path is not None:
        files = replace(files, hostname=sandbox.id[:12])
    return (
        replace(
            sandbox,
            files=files,
            directory=shared.directory if shared else sandbox.directory,
            shares=shared.id if shared else None,
            # a record is UTF-8; what is run is spec.command, byte for byte
            command=tuple(os.fsencode(word).decode(errors="replace") for word in spec.command),
            labels=dict(spec.labels),
            sysctls=dict(spec.sysctls),
            exposed=tuple(f"{port.port}/{port.protocol}" for port in spec.expose),
            auto_remove=spec.auto_remove,
        ),
        shared,
    )


def _shared(engine: Engine, spec: RunSpec) -> SandboxRecord | None:
    _, colon, name = spec.networks[0].partition(":")
    if not colon:
        return None
    if not name:
        raise InvalidSpec(
            f"invalid network mode '{spec.networks[0]}': no container is named",
            hint="write container:NAME",
        )
    shared = engine.sandbox(name)
    if shared.sort == "container" and not is_running(shared):
        raise Conflict(f"cannot join network of a non running container: {name}")
    return shared


def _plan(
    engine: Engine, sandbox: SandboxRecord, shared: SandboxRecord | None, spec: RunSpec
) -> steps.Plan:
    log = steps.File(path=_log_of(sandbox), content="")
    if shared is not None:
        return (steps.Directory(path=os.path.dirname(log.path)), log)
    assert sandbox.directory is not None
    out = _way_out(engine, spec)
    nets = [_network(engine, name) for name in spec.networks]
    made = namefiles.plan(
        sandbox.directory,
        sandbox.files,
        [namefiles.Place(net, net.versions) for net in nets],
        on_host=sandbox.netns is None,
        host_gateway=_host_gateway(engine, out),
    )
    own: steps.Plan = ()
    if sandbox.netns is not None:
        own = (
            steps.Netns(name=sandbox.name),
            steps.LinkUp(dev="lo", at=sandbox.netns, fresh=True),
            # of lo, for that is there as soon as the namespace is, and goes with it
            *(
                steps.Sysctl(key=key, value=value, dev="lo", at=sandbox.netns, needed=True)
                for key, value in spec.sysctls.items()
            ),
        )
    return (*own, *made, log)


def _host_gateway(engine: Engine, out: str | None) -> Address | None:
    if out is None:
        return IPv4Address("127.0.0.1")
    net = engine.network(out)
    return net.gateway(4) or net.gateway(6)


def _log_of(sandbox: SandboxRecord) -> str:
    # beside the name files, in a directory of its own where those are another's
    assert sandbox.directory is not None
    return f"{os.path.dirname(sandbox.directory)}/{sandbox.id}/log"


def _command(
    engine: Engine, sandbox: SandboxRecord, spec: RunSpec, *, log: str | None
) -> process.Command:
    assert sandbox.directory is not None
    env = {**os.environ, **spec.env}
    if sandbox.files.hostname is not None:
        env.setdefault("HOSTNAME", sandbox.files.hostname)
        env["HOSTNAME"] = spec.env.get("HOSTNAME", sandbox.files.hostname)
    return process.Command(
        argv=spec.command,
        netns=sandbox.netns,
        hostname=sandbox.files.hostname,
        domainname=sandbox.files.domainname,
        binds=_binds(engine, sandbox),
        rootfs=os.path.abspath(spec.rootfs) if spec.rootfs else None,
        workdir=spec.workdir,
        env=env,
        log=log,
        interactive=spec.interactive,
        tty=spec.tty,
    )


def _binds(engine: Engine, sandbox: SandboxRecord) -> tuple[tuple[str, str], ...]:
    assert sandbox.directory is not None
    shared = engine.store.by_id(SandboxRecord, sandbox.shares) if sandbox.shares else None
    if shared is not None and shared.sort == "named":
        return namefiles.binds(f"{namefiles.NETNS_ETC}/{shared.name}", shared.files)
    if shared is not None and not (shared.sort == "container" or shared.files.given):
        return ()
    return namefiles.binds(sandbox.directory, sandbox.files)


def _finish(engine: Engine, sandbox: SandboxRecord, code: int) -> None:
    """The command has ended: give back its network, and its record if nobody is to read it."""
    engine.note("die", replace(sandbox, exit_code=code))
    current = engine.store.by_id(SandboxRecord, sandbox.id)
    if current is None:
        return  # `rm -f` was here
    if current.auto_remove:
        engine.delete_sandbox(current)
        return
    engine.update_sandbox(replace(current, exit_code=code, finished=time.time()))
    engine.empty_sandbox(current)


# -- what can be done with a container


def is_running(sandbox: SandboxRecord) -> bool:
    """Whether its command runs; namespaces without a command of ours do until they are gone."""
    if sandbox.sort != "container":
        return sandbox.finished is None
    return sandbox.pid > 0 and process.alive(sandbox.pid, sandbox.start_time)


def execute(
    engine: Engine,
    name: str,
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    interactive: bool = False,
    tty: bool = False,
) -> int:
    """Run a command where a container lives; returns its exit code."""
    _validate_process(argv, env or {}, workdir)
    found = targets.resolve(engine.store, name)
    if isinstance(found, targets.Target):
        where: process.Process | str = found.path
    elif found.sort != "container" and is_running(found) and targets.is_there(found):
        assert found.netns is not None
        where = found.netns
    elif found.sort == "container" and is_running(found):
        where = process.Process(found.pid, found.start_time)
    else:
        raise Conflict(f"container {found.name} is not running")
    if isinstance(found, SandboxRecord):
        with suppress(NetkitError):  # who looks up names inside asks whom the host asks by now
            engine.renew(found.id)
    full = {**os.environ, **env} if env else None
    return process.run_in(where, argv, env=full, workdir=workdir, interactive=interactive, tty=tty)


def stop(
    engine: Engine,
    name: str,
    *,
    timeout_s: float = _STOP_TIMEOUT_S,
    signum: int = signal.SIGTERM,
) -> None:
    """Ask a container's command to end, by *signum*; end it after *timeout_s*."""
    sandbox = engine.sandbox(name)
    if sandbox.sort != "container" or not is_running(sandbox):
        return
    if not process.kill(sandbox.pid, sandbox.start_time, signum, timeout_s):
        process.kill(sandbox.pid, sandbox.start_time, signal.SIGKILL, _KILL_TIMEOUT_S)
    _await_supervisor(engine, sandbox)
    engine.gc()


def _await_supervisor(engine: Engine, sandbox: SandboxRecord) -> None:
    """Let whoever watches the container finish with it: it knows the exit code, we do not."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while sandbox.supervisor and maker_lives(sandbox.supervisor) and time.monotonic() < deadline:
        time.sleep(0.01)
        found = engine.store.by_id(SandboxRecord, sandbox.id)
        if found is None or (found.finished is not None and found.maker is None):
            return


def remove(engine: Engine, name: str, *, force: bool = False) -> None:
    """Forget a container, and undo whatever it still has; with *force* kill it first."""
    sandbox = engine.store.find(SandboxRecord, name)
    if sandbox is None and (known := targets.of_origin(engine.store, name)):
        sandbox = known[0]
    if sandbox is None:
        raise NotFound(f"no such container: {name}", hint="`netkit ps -a` lists them")
    if sandbox.sort == "container" and is_running(sandbox):
        if not force:
            raise Conflict(
                f"cannot remove container {sandbox.name}: it is running",
                hint="stop it first, or use rm -f",
            )
        engine.changes.act(
            f"kill -KILL {sandbox.pid}",
            lambda: process.kill(sandbox.pid, sandbox.start_time, signal.SIGKILL, _KILL_TIMEOUT_S),
        )
        if not engine.changes.dry:
            _await_supervisor(engine, sandbox)
    engine.delete_sandbox(sandbox)


def log(engine: Engine, name: str) -> str:
    """The path of what a detached container printed."""
    sandbox = engine.sandbox(name)
    if sandbox.sort != "container":
        raise Conflict(f"{sandbox.name} has no log: netkit did not run it")
    return _log_of(sandbox)
