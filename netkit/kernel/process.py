"""A process: one command in namespaces, started, looked after, stopped.

A sandbox runner for labs, not a container engine: no images, no pid or user namespace, no seccomp.

Shapes   a process is (pid, start time): netkit.kernel.pids
Units    exit codes as in a shell, 128 + signal for a killed one
Errors   CommandNotFound (127), CommandNotExecutable (126), InvalidSpec, NotFound, KernelRefused
Source   man 8 ip-netns (exec), man 1 nsenter, Docker's `run -i -t -d` and its signal proxy
Needs    Linux 5.9 (close_range) and a single-threaded caller: it forks. Between fork and exec
         nothing is imported, for the import would read the sandbox's files
"""

from __future__ import annotations

import errno
import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import NamedTuple, NoReturn

from netkit.errors import InvalidSpec, KernelRefused, NetkitError, NotFound
from netkit.kernel import mounts
from netkit.kernel.pids import Process as Process
from netkit.kernel.pids import alive as alive
from netkit.kernel.pids import me as me
from netkit.kernel.pids import start_time

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED_ON = {
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
}  # fmt: skip
_WATCHED = _PASSED_ON | {signal.SIGCHLD}
_LOOK_S = 0.5
_REPORT = 3  # the fd on which a child tells why it failed
_PR_SET_PDEATHSIG = 1


class CommandNotFound(NotFound):
    """No such program inside the root."""

    exit_code = 127


class CommandNotExecutable(InvalidSpec):
    """The program is there, but may not or cannot run."""

    exit_code = 126


class Command(NamedTuple):
    """What to run and where; paths on the host are absolute where the caller will detach."""

    argv: tuple[str, ...]
    netns: str | None = None  # path to join; None: stay
    hostname: str | None = None  # a new UTS namespace with that name; None: stay
    domainname: str | None = None
    binds: tuple[tuple[str, str], ...] = ()  # (path on the host, path inside)
    rootfs: str | None = None  # the directory that becomes "/"
    inside: Process | None = None  # whose net, mount and UTS namespaces and root to join
    env: Mapping[str, str] | None = None  # None: ours
    workdir: str | None = None
    log: str | None = None  # file for stdout and stderr; None: foreground, they are inherited
    interactive: bool = False  # keep stdin; else it is /dev/null
    tty: bool = False  # foreground: our terminal is required; with a log: a new one


class Child(NamedTuple):
    pid: int
    start_time: int
    held: int | None = None  # its terminal's other side, or the pipe that keeps its stdin open
    log: int | None = None  # where the terminal's output goes

    def poll(self) -> int | None:
        """The exit code, or None while it runs; to be asked no more once it answered."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return _exit_code(status) if pid else None

    def wait(self) -> int:
        return _exit_code(os.waitpid(self.pid, 0)[1])


def spawn(command: Command) -> Child:
    """Start *command*; it runs its own program when this returns."""
    _check(command)
    for fd in range(3):  # with one of them closed, a pipe would take its place
        _open_if_closed(fd)
    mounts.load()
    streams = _open_streams(command)
    receive, report = os.pipe()
    parent = os.getpid()
    if (pid := os.fork()) == 0:
        _become(command, streams, report, parent)
    os.close(report)
    for fd in streams.childs:
        os.close(fd)
    failure = _read_all(receive)
    if not failure:
        return Child(pid, start_time(pid) or 0, streams.held, streams.log)
    os.waitpid(pid, 0)
    for kept in (streams.held, streams.log):
        if kept is not None:
            os.close(kept)
    raise _unpack(failure)


@contextmanager
def signals_held() -> Iterator[None]:
    """Keep the signals that supervise passes on pending: from before spawn to after the cleanup."""
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:  # inherited: nothing to reap, no signal
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def supervise(child: Child) -> int:
    """Pass signals on to *child*, log its terminal, reap it; returns its exit code."""
    with signals_held():
        copied = _copy_terminal(child)
        while (code := child.poll()) is None:
            # where there are other threads, one of them may be told of the child, and forget it
            info = signal.sigtimedwait(_WATCHED, _LOOK_S)
            if info is None:
                continue
            # what the terminal sends (si_code > 0) the child gets as well, being in the same group;
            # but a hangup goes to the session's leader only, and that may be us
            if info.si_signo != signal.SIGCHLD and (
                info.si_code <= 0 or info.si_signo == signal.SIGHUP
            ):
                os.kill(child.pid, info.si_signo)
        copied()
        while signal.sigtimedwait(_PASSED_ON, 0):  # was meant for the child
            pass
    return code


def detach(work: Callable[[Callable[[str], None]], object]) -> str:
    """Run *work* in a daemon and return the line it passes to its argument, or raise its error.

    It starts with fds 0, 1, 2 on /dev/null and no others, so it must open its own store.
    """
    receive, report = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.setsid()
            if os.fork() == 0:
                _serve(work, report)
        finally:
            os._exit(0)
    os.close(report)
    os.waitpid(pid, 0)
    answer = _read_all(receive)
    if answer.startswith(b"+"):
        return os.fsdecode(answer[1:])
    raise _unpack(answer) if answer else NetkitError("the supervisor died before it was ready")


def run_in(
    where: Process | str,
    argv: tuple[str, ...],
    *,
    env: Mapping[str, str] | None = None,
    workdir: str | None = None,
    interactive: bool = True,
    tty: bool = False,
) -> int:
    """Run *argv* where a process lives, or in the netns at a path as `ip netns exec` does."""
    if isinstance(where, str):
        place = Command(argv, netns=where, binds=_netns_files(where), workdir=workdir)
    else:
        place = Command(argv, inside=where, workdir=workdir or "/")
    with signals_held():
        return supervise(spawn(place._replace(env=env, interactive=interactive, tty=tty)))


def residents(*netns: str) -> list[Process]:
    """The processes that live in the network namespaces at these paths. It looks at all there are;
    a path that leads nowhere is an OSError.
    """
    found = []
    here = {(place.st_dev, place.st_ino) for place in map(os.stat, netns)}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with suppress(OSError):
            place = os.stat(f"/proc/{pid}/ns/net")
            if (place.st_dev, place.st_ino) in here:
                found.append(Process(pid, start_time(pid) or 0))
    return found


def kill(pid: int, start_time: int, signum: int, timeout_s: float) -> bool:
    """Send *signum* to that very process and wait for its end; whether it is gone."""
    import select

    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not alive(pid, start_time):  # asked after the pidfd was opened: now it cannot be reused
            return True
        signal.pidfd_send_signal(process, signum)
        ended = select.poll()
        ended.register(process, select.POLLIN)
        return bool(ended.poll(timeout_s * 1000))
    except ProcessLookupError:
        return True
    except PermissionError as error:
        raise KernelRefused(f"kill -{int(signum)} {pid}: {error.strerror}") from error
    finally:
        os.close(process)


# -- the child, between fork and exec ------------------------------------------------------------


class _Streams(NamedTuple):
    stdin: int | None = None
    output: int | None = None
    terminal: int | None = None
    held: int | None = None
    log: int | None = None

    @property
    def childs(self) -> set[int]:
        """What the parent closes once the child has it."""
        return {fd for fd in (self.stdin, self.output, self.terminal) if fd is not None}


def _become(command: Command, streams: _Streams, report: int, parent: int) -> NoReturn:
    """Turn the forked child into *command*; never returns, whatever happens."""
    try:
        if streams.terminal is not None:
            os.login_tty(streams.terminal)  # a session of its own: its ^C is not ours
        for fd, number in ((streams.stdin, 0), (streams.output, 1), (streams.output, 2)):
            if fd is not None:
                os.dup2(fd, number)
        _enter(command)
        if command.workdir or command.rootfs:
            with _step(f"chdir {command.workdir or '/'}"):
                os.chdir(command.workdir or "/")
        if command.log is None:  # kill -9 of netkit leaves nothing on the terminal
            mounts.libc("prctl", _PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(128 + signal.SIGKILL)
        os.dup2(report, _REPORT, inheritable=False)
        report = _REPORT
        os.closerange(_REPORT + 1, 0x7FFFFFFF)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by Python, and exec would keep it
            signal.signal(ignored, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        _exec(command.argv, os.environ if command.env is None else command.env)
    except BaseException as error:  # spawn raises it
        os.write(report, _pack(error))
    finally:
        os._exit(126)


def _enter(command: Command) -> None:
    if command.inside is not None:
        _join(command.inside)
    if command.netns is not None:
        with _step(f"nsenter --net={command.netns}"):
            mounts.join(command.netns, mounts.CLONE_NEWNET)
    remount = command.netns is not None or command.rootfs is not None or bool(command.binds)
    rename = command.hostname is not None or command.domainname is not None
    with _step("unshare"):
        mounts.unshare(remount * mounts.CLONE_NEWNS | rename * mounts.CLONE_NEWUTS)
    if remount:
        _remount(command)
    for call, name in (("sethostname", command.hostname), ("setdomainname", command.domainname)):
        if name is not None:
            with _step(f"{call} {name}"):
                mounts.libc(call, os.fsencode(name), len(os.fsencode(name)))


def _remount(command: Command) -> None:
    with _step("mount --make-rslave /"):
        # not private: `ip netns delete` on the host must also unmount the copy we got, or the netns
        # would live as long as this command
        mounts.mount(None, "/", None, mounts.MS_SLAVE | mounts.MS_REC)
        root = os.open("/", os.O_PATH)
    if command.rootfs is not None:
        with _step(f"mount --rbind {command.rootfs}"):
            root = mounts.new_root(command.rootfs)
    if command.netns is not None:
        with _step("mount -t sysfs sysfs /sys"):
            mounts.show_netns_in_sys(root)
    for source, target in command.binds:
        with _step(f"mount --bind {source} {target}"):
            mounts.bind(source, root, target, create=command.rootfs is not None)
    if command.rootfs is not None:
        with _step(f"pivot_root {command.rootfs}"):
            mounts.pivot(root)


def _join(process: Process) -> None:
    with _step(f"nsenter --target {process.pid} --net --mount --uts --root"):
        pidfd = os.pidfd_open(process.pid)
        root = os.open(f"/proc/{process.pid}/root", os.O_PATH)
        if not alive(*process):
            raise ProcessLookupError(errno.ESRCH, "the process has ended")
        kinds = mounts.CLONE_NEWNET | mounts.CLONE_NEWNS | mounts.CLONE_NEWUTS
        mounts.setns(pidfd, kinds)
        os.fchdir(root)
        os.chroot(".")


def _exec(argv: tuple[str, ...], env: Mapping[str, str]) -> NoReturn:
    """Look argv[0] up in the root we are in now, in the command's own PATH."""
    name, path = argv[0], env.get("PATH", DEFAULT_PATH)
    refusal: OSError | None = None
    for file in [name] if "/" in name else [f"{d or '.'}/{name}" for d in path.split(":")]:
        try:
            os.execve(file, argv, env)
        except (FileNotFoundError, NotADirectoryError):
            if os.path.isfile(file):
                raise CommandNotFound(
                    f"cannot run {file}: its interpreter or loader is missing",
                    hint="copy it, and the libraries it needs, into the root file system",
                ) from None
        except OSError as error:
            if "/" in name or os.path.exists(file):  # else it is PATH's directory that is closed
                refusal = refusal or error
    if refusal:
        raise CommandNotExecutable(f"cannot run {name}: {refusal.strerror}") from refusal
    where = "" if "/" in name else f" in PATH={path}"
    raise CommandNotFound(
        f"cannot run {name}: command not found{where}",
        hint="install it in the command's root file system, or give its full path there",
    )


@contextmanager
def _step(line: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NotFound(f"{line}: {error.strerror} ({error.filename})") from error
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        hint = "run it as root, or in the user namespace that owns the sandbox"
        raise KernelRefused(
            f"{line}: {error.strerror}{where}", hint=hint if error.errno == errno.EPERM else None
        ) from error


# -- the parent's side ---------------------------------------------------------------------------


def _check(command: Command) -> None:
    if not command.argv or not command.argv[0]:
        raise InvalidSpec("cannot run an empty command", hint="name a program after `--`")
    if any("\0" in word for word in command.argv):
        raise InvalidSpec(f"cannot run {command.argv[0]!r}: an argument contains a NUL byte")
    if command.tty and command.log is None and not os.isatty(0):
        raise InvalidSpec("the input device is not a TTY", hint="leave out --tty (-t)")


def _open_streams(command: Command) -> _Streams:
    if command.log is None:
        return _Streams(stdin=None if command.interactive else os.open(os.devnull, os.O_RDONLY))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        log = os.open(command.log, flags, 0o600)
    except OSError as error:
        raise KernelRefused(f"cannot open log {command.log}: {error.strerror}") from error
    if command.tty:
        master, slave = os.openpty()
        return _Streams(terminal=slave, held=master, log=log)
    if command.interactive:
        stdin, held = os.pipe()
        return _Streams(stdin=stdin, output=log, held=held)
    return _Streams(stdin=os.open(os.devnull, os.O_RDONLY), output=log)


def _copy_terminal(child: Child) -> Callable[[], None]:
    """Start copying to the log; call the result when the child has ended."""
    held, log = child.held, child.log
    if held is None or log is None:
        return lambda: None if held is None else os.close(held)
    import threading

    def copy() -> None:
        with suppress(OSError):  # EIO: nobody has the other side open any more
            while data := os.read(held, 65536):
                with suppress(OSError):  # a full disk must not block the command
                    os.write(log, data)
        os.close(held)
        os.close(log)

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return lambda: thread.join(1)  # a grandchild may keep the terminal for ever


def _serve(work: Callable[[Callable[[str], None]], object], report: int) -> NoReturn:
    """The daemon's life: inherited fds closed, *work* done, its failure reported."""
    told = False

    def tell(answer: bytes) -> None:
        nonlocal told
        if not told:
            os.write(_REPORT, answer)
            os.close(_REPORT)
        told = True

    try:
        os.dup2(report, _REPORT, inheritable=False)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
        os.closerange(_REPORT + 1, 0x7FFFFFFF)
        gc.freeze()  # the caller's garbage must not close fds that now are others
        work(lambda line: tell(b"+" + os.fsencode(line)))
    except BaseException as error:  # detach raises it
        tell(_pack(error))
        os._exit(1)
    finally:
        os._exit(0)


def _netns_files(netns: str) -> tuple[tuple[str, str], ...]:
    """What `ip netns exec NAME` binds: every entry of /etc/netns/NAME over its namesake in /etc."""
    parent, name = os.path.split(netns)
    if parent not in ("/run/netns", "/var/run/netns"):
        return ()
    own = f"/etc/netns/{name}"
    with suppress(FileNotFoundError):
        return tuple((f"{own}/{file}", f"/etc/{file}") for file in sorted(os.listdir(own)))
    return ()


def _pack(error: BaseException) -> bytes:
    hint = getattr(error, "hint", None) or ""
    return os.fsencode("\0".join((type(error).__name__, str(error), hint)))


def _unpack(text: bytes) -> NetkitError:
    name, message, hint = os.fsdecode(text).split("\0")
    kinds: list[type[NetkitError]] = [NetkitError]
    for kind in kinds:
        if kind.__name__ == name:
            return kind(message, hint=hint or None)
        kinds += kind.__subclasses__()
    return NetkitError(f"{name}: {message}", hint=hint or None)


def _read_all(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


def _open_if_closed(fd: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free one, hence *fd*


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
