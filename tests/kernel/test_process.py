"""A command in namespaces, real ones: each script is a Python with its own netns and mounts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[2]
PRELUDE = """
import os, shutil, signal, sys, time
from netkit.errors import *
from netkit.kernel import mounts
from netkit.kernel.process import *

# a shell's background job, as the test run may be, ignores them, and so would our commands
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

def run(*argv, **options):
    with signals_held():
        return supervise(spawn(Command(argv, **options)))

def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return path

def read(path):
    with open(path) as file:
        return file.read()

def until(condition):
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError

def has_only_stdio(pid):  # in the end: a program that starts has its libraries open for a moment
    until(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"])
    return True

def daemon(*argv, **options):
    def work(ready):
        with signals_held():
            child = spawn(Command(argv, log="/run/log", **options))
            ready(f"{os.getpid()} {child.pid} {child.start_time}")
            write("/run/code", str(supervise(child)))
    return map(int, detach(work).split())

def exit_code():
    until(lambda: os.path.exists("/run/code") and read("/run/code"))
    return read("/run/code")

def rootfs():
    os.makedirs("/run/root/bin")
    shutil.copy(shutil.which("busybox"), "/run/root/bin/busybox")
    for name in ("sh", "cat", "ls", "hostname", "sleep", "wc"):
        os.symlink("busybox", f"/run/root/bin/{name}")
    return "/run/root"
"""
needs_busybox = pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")
# /etc as a file system of our own, so that a test may do to it what it likes
OWN_ETC = "mount -t tmpfs tmpfs /etc && mkdir /etc/dir && echo kept > /etc/dir/kept"
# /run/netns/box holds a netns with an interface `inner`
BOX = (
    "mkdir /run/netns && touch /run/netns/box && "
    "unshare --net=/run/netns/box ip link add inner type veth peer name other"
)


def start(script: str, setup: str = ":", stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
    shell = f'mount -t tmpfs tmpfs /run && {setup} && exec "$0" -Buc "$1"'
    unshare = ["unshare", "-nmu", "--propagation=private", "sh", "-ec", shell]
    return subprocess.Popen(
        [*unshare, sys.executable, PRELUDE + dedent(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"},
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )


def finish(process: subprocess.Popen[str]) -> str:
    with process:
        try:
            out, err = process.communicate(timeout=15)
        finally:
            process.kill()
    assert process.returncode == 0, f"{out}\n{err}"
    return out


def output(script: str, setup: str = ":") -> str:
    return finish(start(script, setup))


def eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


# -- exit codes and failures ---------------------------------------------------------------------


def test_a_child_whose_end_another_thread_was_told_of_is_reaped() -> None:
    """It ends between two looks; the kernel tells a thread that does not hold signals."""
    script = """
    import threading
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    with signals_held():
        child = spawn(Command(("true",)))
        until(lambda: open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[0] == "Z")
        look, busy = type(child).poll, [None]
        type(child).poll = lambda self: busy.pop() if busy else look(self)
        print(supervise(child), flush=True)
    os._exit(0)
    """
    assert output(script) == "0\n"


@pytest.mark.parametrize(
    ("command", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_exit_code_is_the_shells(command: str, code: int) -> None:
    assert output(f"print(run('sh', '-c', {command!r}), spawn(Command(('true',))).wait())") == (
        f"{code} 0\n"
    )


@pytest.mark.parametrize(
    ("command", "error", "code"),
    [
        ("nonesuch", "CommandNotFound", 127),
        ("/bin/nonesuch", "CommandNotFound", 127),
        ("/run/script", "CommandNotFound", 127),  # its interpreter is missing
        ("/run/data", "CommandNotExecutable", 126),
        ("/run/garbage", "CommandNotExecutable", 126),
        ("/run", "CommandNotExecutable", 126),
    ],
)
def test_a_command_that_cannot_run_is_refused_by_spawn(command: str, error: str, code: int) -> None:
    script = f"""
        write("/run/data", "x")
        os.chmod(write("/run/garbage", "x"), 0o755)
        os.chmod(write("/run/script", "#!/nonesuch\\n"), 0o755)
        try:
            spawn(Command(({command!r},)))
        except NetkitError as refused:
            print(type(refused).__name__, refused.exit_code)
        try:
            os.wait()
        except ChildProcessError:
            print("no zombie")
    """
    assert output(script) == f"{error} {code}\nno zombie\n"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("Command(())", "InvalidSpec: cannot run an empty command"),
        ("Command(('a\\0b',))", "InvalidSpec: cannot run 'a.*NUL"),
        ("Command(('true',), tty=True)", "InvalidSpec: the input device is not a TTY"),
        ("Command(('true',), netns='/run/gone')", "NotFound: nsenter --net=/run/gone: No such"),
        ("Command(('true',), netns='/run/fifo')", "KernelRefused: nsenter --net=/run/fifo: Inv"),
        ("Command(('true',), netns='/proc/self/ns/uts')", "KernelRefused: .*Invalid argument"),
        ("Command(('true',), workdir='/run/gone')", "NotFound: chdir /run/gone: No such file"),
        ("Command(('true',), rootfs='/run/gone')", "NotFound: mount --rbind /run/gone"),
        ("Command(('true',), binds=(('/run/gone', '/etc/hosts'),))", "NotFound: mount --bind"),
        ("Command(('true',), hostname='x' * 65)", "KernelRefused: sethostname x+: Invalid"),
        ("Command(('true',), log='/run/link')", "KernelRefused: cannot open log /run/link: Too"),
        ("Command(('true',), log='/run/gone/log')", "KernelRefused: cannot open log /run/gone"),
    ],
)
def test_a_refusal_says_which_step_and_why(command: str, answer: str) -> None:
    script = f"""
        os.mkfifo("/run/fifo")
        os.symlink("victim", "/run/link")
        try:
            spawn({command})
        except NetkitError as refused:
            print(f"{{type(refused).__name__}}: {{refused}}")
    """
    assert re.match(answer, output(script))


def test_the_command_gets_a_clean_process() -> None:
    """No fds but 0, 1, 2; no signal blocked, none ignored that its caller did not ignore."""
    script = """
        os.dup2(1, 50, inheritable=True)
        with signals_held():
            child = spawn(Command(("sleep", "60"), netns="/run/netns/box"))
            print(has_only_stdio(child.pid))
            status = dict(line.split(":\\t") for line in open(f"/proc/{child.pid}/status"))
            own = dict(line.split(":\\t") for line in open("/proc/self/status"))
            # Python ignores SIGPIPE and SIGXFSZ for itself; the command is to have them back
            inherited = int(own["SigIgn"], 16) & ~(1 << 12 | 1 << 24)
            print(int(status["SigBlk"], 16), int(status["SigIgn"], 16) & ~inherited)
            os.kill(child.pid, signal.SIGKILL)
            print(child.wait())
    """
    assert output(script, BOX) == "True\n0 0\n137\n"


def test_a_caller_without_stdio_still_runs_commands() -> None:
    script = """
        for fd in range(3):
            os.close(fd)
        os._exit(run("sh", "-c", "echo lost && echo lost >&2 && exit 5") != 5)
    """
    output(script)


def test_env_and_workdir_are_the_commands() -> None:
    script = """
        run("sh", "-c", "pwd; echo $A-$HOME", env={"A": "b"}, workdir="/usr")
        run("pwd")
    """
    assert output(script) == f"/usr\nb-\n{os.getcwd()}\n"


def test_nothing_is_imported_in_the_child() -> None:
    """It would be read from the sandbox's files."""
    script = """
        parent = os.getpid()
        def audit(event, args):
            if event == "import" and os.getpid() != parent:
                os.write(1, f"{args[0]}\\n".encode())
        sys.addaudithook(audit)
        run("true", hostname="x", netns="/run/netns/box",
            binds=((write("/run/f", ""), "/etc/nonesuch"),))
        try:
            spawn(Command(("nonesuch",), hostname="x"))
        except CommandNotFound:
            print("done")
    """
    assert output(script, BOX) == "done\n"


# -- namespaces ----------------------------------------------------------------------------------


def test_hostname_and_domainname_are_its_own() -> None:
    script = """
        before = os.uname().nodename
        run("sh", "-c", "hostname; cat /proc/sys/kernel/domainname",
            hostname="c1", domainname="lab")
        print(os.uname().nodename == before)
    """
    assert output(script) == "c1\nlab\nTrue\n"


def test_sys_shows_the_netns_and_keeps_the_cgroups() -> None:
    script = """
        cgroups = sorted(os.listdir("/sys/fs/cgroup"))
        run("sh", "-c", "ls /sys/class/net; ls -A /sys/fs/cgroup > /run/cgroups",
            netns="/run/netns/box")
        print(sorted(read("/run/cgroups").split()) == cgroups)
        print("inner" in os.listdir("/sys/class/net"))
    """
    assert output(script, BOX).split() == ["inner", "lo", "other", "True", "False"]


def test_a_bind_is_seen_by_the_command_alone() -> None:
    """Also where the host's mounts are shared, as systemd leaves them."""
    script = """
        before = read("/etc/hosts"), read("/proc/self/mountinfo")
        run("sh", "-c", "cat /etc/hosts; echo grown >> /etc/hosts",
            binds=((write("/run/ours", "ours\\n"), "/etc/hosts"),), netns="/run/netns/box")
        print(before == (read("/etc/hosts"), read("/proc/self/mountinfo")), read("/run/ours"))
    """
    setup = f"{OWN_ETC} && echo theirs > /etc/hosts && {BOX} && mount --make-rshared /"
    assert output(script, setup) == "ours\nTrue ours\ngrown\n\n"


@pytest.mark.parametrize(
    "resolv_conf",
    [
        "echo theirs > /run/r && ln -s ../run/r /etc/resolv.conf",
        "echo theirs > /run/r && ln -s /run/r /etc/resolv.conf",
        "ln -s ../run/nowhere/r /etc/resolv.conf",
        ":",
    ],
    ids=["symlink", "absolute symlink", "dangling symlink", "missing"],
)
def test_a_file_shows_at_its_target_whatever_the_host_has_there(resolv_conf: str) -> None:
    script = """
        before = sorted(os.listdir("/etc"))
        run("sh", "-c", "cat /etc/resolv.conf /etc/dir/kept /etc/link; stat -c %a /etc",
            binds=((write("/run/ours", "ours\\n"), "/etc/resolv.conf"),))
        print(sorted(os.listdir("/etc")) == before, os.path.isfile("/etc/resolv.conf"))
    """
    has_one = "theirs" in resolv_conf
    setup = f"{OWN_ETC} && chmod 755 /etc && ln -s dir/kept /etc/link && {resolv_conf}"
    assert output(script, setup) == f"ours\nkept\nkept\n755\nTrue {has_one}\n"


def test_a_deleted_netns_is_not_kept_alive_by_a_commands_mounts() -> None:
    script = """
        binds = ((write("/run/f", ""), "/etc/dir/kept"),)
        child = spawn(Command(("sleep", "60"), binds=binds))
        held = lambda: "/run/netns/box" in read(f"/proc/{child.pid}/mountinfo")
        print(held())
        mounts.umount("/run/netns/box")
        print(held())
        os.kill(child.pid, 9)
    """
    setup = f"{OWN_ETC} && mount --make-rshared / && {BOX}"
    assert output(script, setup) == "True\nFalse\n"


# -- a root of its own ---------------------------------------------------------------------------


@needs_busybox
def test_rootfs_is_all_there_is() -> None:
    script = """
        root = rootfs()
        write("/run/secret", "")
        run("sh", "-c", "pwd; ls /; ls /run /run/secret; echo x > /dev/null && echo null",
            rootfs=root)
        run("sh", "-c", "ls /sys/class/net; cat /etc/hosts /etc/resolv.conf; hostname",
            rootfs=root, netns="/run/netns/box", hostname="c1", workdir="/bin",
            binds=((write("/run/h", "h\\n"), "/etc/hosts"),
                   (write("/run/r", "r\\n"), "/etc/resolv.conf")))
        print(os.path.getsize(root + "/etc/hosts"), os.path.ismount(root))
    """
    process = start(script, BOX, stderr=subprocess.STDOUT)
    assert finish(process) == (
        "/\nbin\ndev\nproc\nsys\nls: /run: No such file or directory\n"
        "ls: /run/secret: No such file or directory\nnull\n"
        "inner\nlo\nother\nh\nr\nc1\n0 False\n"
    )


@needs_busybox
def test_the_old_root_is_let_go() -> None:
    script = """
        root = rootfs()
        loop = "while read a b c d point rest; do echo $point; done < /proc/self/mountinfo"
        run("sh", "-c", loop, rootfs=root)
    """
    points = set(output(script).split())
    assert "/" in points
    assert "/run" not in points


@needs_busybox
def test_the_command_is_looked_up_inside_the_root_in_its_own_path() -> None:
    script = """
        root = rootfs()
        os.mkdir(root + "/opt")
        os.rename(root + "/bin/hostname", root + "/opt/only-here")
        os.symlink("/bin/busybox", root + "/opt/wc")
        print(run("wc", "-c", "/dev/null", rootfs=root, env={"PATH": "/nowhere:/opt"}))
        for name in ("python3", "cat"):
            try:
                spawn(Command((name,), rootfs=root, env={"PATH": "/usr/bin:/opt"}))
            except CommandNotFound as missing:
                print(missing)
    """
    assert output(script) == (
        "0 /dev/null\n0\n"
        "cannot run python3: command not found in PATH=/usr/bin:/opt\n"
        "cannot run cat: command not found in PATH=/usr/bin:/opt\n"
    )


@needs_busybox
@pytest.mark.parametrize(
    "trap",
    [
        "mkdir {root}/etc; ln -s /run/host/canary {root}/etc/hosts",
        "mkdir {root}/etc; ln -s ../../../../run/host/canary {root}/etc/hosts",
        "mkdir {root}/etc; ln -s /run/host/missing {root}/etc/hosts",
        "mkdir {root}/etc; ln -s ../../host/missing {root}/etc/hosts",
        "mkdir {root}/etc; ln -s /proc/self/root/run/host/canary {root}/etc/hosts",
        "ln -s /run/host {root}/etc",
        "ln -s ../host {root}/etc",
        "mkdir -p {root}/run/host; ln -s /run/host {root}/etc",
    ],
)
def test_no_symlink_in_a_rootfs_leads_out_of_it(trap: str) -> None:
    """S34: whatever the tree's owner prepared, host files are neither mounted over nor made."""
    script = f"""
        rootfs()
        write("/run/host/canary", "canary")
        write("/run/host/hosts", "canary")
        os.system({trap.format(root="/run/root")!r})
        before = read("/proc/self/mountinfo")
        try:
            run("sh", "-c", "echo grown >> /etc/hosts; exit 0", rootfs="/run/root",
                binds=((write("/run/ours", ""), "/etc/hosts"),))
        except NetkitError:
            pass
        print(*sorted(os.listdir("/run/host")), read("/run/host/canary"), read("/run/host/hosts"))
        print(before == read("/proc/self/mountinfo"))
    """
    assert output(script) == "canary hosts canary canary\nTrue\n"


@needs_busybox
def test_a_dangling_resolv_conf_in_a_rootfs_is_covered() -> None:
    """As debootstrap leaves it."""
    script = """
        root = rootfs()
        write(root + "/etc/kept", "kept\\n")
        os.symlink("../run/systemd/resolve/stub-resolv.conf", root + "/etc/resolv.conf")
        run("cat", "/etc/resolv.conf", "/etc/kept", rootfs=root,
            binds=((write("/run/ours", "ours\\n"), "/etc/resolv.conf"),))
        print(os.path.islink(root + "/etc/resolv.conf"))
    """
    assert output(script) == "ours\nkept\nTrue\n"


# -- the foreground ------------------------------------------------------------------------------

PATIENT = "trap 'echo got; exit 9' {0}; echo ready; while :; do sleep 0.02; done"


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_a_signal_is_passed_on(name: str) -> None:
    process = start(f"print(run('sh', '-c', {PATIENT.format(name)!r}))")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[f"SIG{name}"])
    assert finish(process) == "got\n9\n"


def test_a_signal_between_spawn_and_supervise_is_not_lost() -> None:
    script = """
        with signals_held():
            child = spawn(Command(("sleep", "60")))
            os.kill(os.getpid(), signal.SIGTERM)
            print(supervise(child))
    """
    assert output(script) == "143\n"


def test_a_signal_that_came_too_late_for_the_command_does_not_hit_us() -> None:
    script = """
        with signals_held():
            child = spawn(Command(("true",)))
            until(lambda: not alive(child.pid, child.start_time))
            os.kill(os.getpid(), signal.SIGTERM)
            code = supervise(child)
        print(code)
    """
    assert output(script) == "0\n"


def test_signals_that_are_not_ours_to_pass_on_change_nothing() -> None:
    process = start("print(run('sh', '-c', 'echo ready; sleep 0.3; exit 4'))")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for signum in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG):
        process.send_signal(signum)
    assert finish(process) == "4\n"


def test_an_inherited_ignored_sigchld_does_not_hang_us() -> None:
    script = """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print(run("sh", "-c", "exit 3"))
    """
    assert output(script) == "3\n"


def test_a_child_that_ended_before_supervise_is_reaped() -> None:
    script = """
        child = spawn(Command(("true",)))
        until(lambda: not alive(child.pid, child.start_time))
        print(supervise(child))
        try:
            os.wait()
        except ChildProcessError:
            print("no zombie")
    """
    assert output(script) == "0\nno zombie\n"


ON_A_TERMINAL = """
    import pty
    pid, master = pty.fork()
    if pid == 0:
        os._exit(run('sh', '-c', {command!r}, interactive=True, tty=True))
    seen = b""
    while b"ready" not in seen:
        seen += os.read(master, 1024)
    {act}
    try:
        while data := os.read(master, 1024):
            seen += data
    except OSError:
        pass
    print(seen.decode().count("got"), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(seen.decode())
"""


def test_control_c_reaches_the_command_once() -> None:
    command = (
        "trap 'echo got' INT; tty; echo ready; for i in 1 2 3 4 5 6; do sleep 0.1; done; exit 6"
    )
    out = output(ON_A_TERMINAL.format(command=command, act="os.write(master, b'\\x03')"))
    assert out.startswith("1 6\n")
    assert "/dev/pts/" in out


def test_what_the_terminal_sends_is_not_passed_on() -> None:
    """The kernel chose who gets it: not a command in a process group of its own."""
    code = "import os, time; os.setpgid(0, 0); print('ready', flush=True); time.sleep(0.5)"
    script = ON_A_TERMINAL.format(command="", act="os.write(master, b'\\x03')")
    own_group = f"run(sys.executable, '-c', {code!r}, interactive=True, tty=True)"
    out = output(script.replace("run('sh', '-c', '', interactive=True, tty=True)", own_group))
    assert out.startswith("0 0\n")


def test_a_hangup_ends_the_command() -> None:
    """Also when netkit is the session's leader and alone gets the signal."""
    script = ON_A_TERMINAL.format(command="echo ready; exec sleep 60", act="os.close(master)")
    assert output(script).startswith("0 129\n")


def test_kill_9_of_netkit_takes_the_foreground_command_along() -> None:
    process = start("print(spawn(Command(('sleep', '60'))), flush=True); time.sleep(60)")
    assert process.stdout is not None
    pid = int(re.findall(r"pid=(\d+)", process.stdout.readline())[0])
    with process:
        assert not gone(pid)
        process.kill()
        process.wait(5)
        ended = eventually(lambda: gone(pid))
        if not ended:
            os.kill(pid, signal.SIGKILL)
    assert ended


def gone(pid: int) -> bool:
    """Dead, or a zombie that whoever is init here has yet to notice."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- detached ------------------------------------------------------------------------------------


def test_detach_returns_at_once_with_the_daemons_line() -> None:
    script = """
        os.dup2(1, 50, inheritable=True)
        write("/run/log", "earlier\\n")
        supervisor, pid, started = daemon("sh", "-c", "echo out; echo err >&2; exec sleep 60")
        print(os.getsid(supervisor) != os.getsid(0), os.getsid(pid) == os.getsid(supervisor))
        print(has_only_stdio(supervisor), has_only_stdio(pid))
        try:
            os.wait()
        except ChildProcessError:
            print("no zombie")
        until(lambda: read("/run/log") == "earlier\\nout\\nerr\\n")
        print(kill(pid, started, signal.SIGTERM, 5))
        print(exit_code())
    """
    assert output(script) == "True True\nTrue True\nno zombie\nTrue\n143\n"


@pytest.mark.parametrize(
    ("work", "answer"),
    [
        (
            "spawn(Command(('nonesuch',)))",
            "CommandNotFound cannot run nonesuch: .* install it in the .*",
        ),
        ("(_ for _ in ()).throw(Conflict('no', hint='yes'))", "Conflict no yes"),
        ("1 / 0", "NetkitError ZeroDivisionError: division by zero None"),
        ("os._exit(0)", "NetkitError the supervisor died before it was ready None"),
        ("os.kill(os.getpid(), 9)", "NetkitError the supervisor died before it was ready None"),
    ],
)
def test_detach_fails_with_the_daemons_error(work: str, answer: str) -> None:
    script = f"""
        try:
            detach(lambda ready: {work})
        except NetkitError as error:
            print(type(error).__name__, error, error.hint)
    """
    assert re.fullmatch(answer + "\n", output(script))


def test_a_detached_command_outlives_kill_9_of_its_supervisor() -> None:
    script = """
        supervisor, pid, started = daemon("sleep", "60")
        os.kill(supervisor, 9)
        until(lambda: not os.path.exists(f"/proc/{supervisor}/fd/0"))
        time.sleep(0.1)
        print(alive(pid, started), kill(pid, started, signal.SIGKILL, 5))
    """
    assert output(script) == "True True\n"


@pytest.mark.parametrize(
    ("options", "stays"), [("", False), ("interactive=True", True), ("tty=True", True)]
)
def test_stdin_of_a_detached_command(options: str, stays: bool) -> None:
    """-d reads an end of file; -di and -dit wait for what may come, so a shell stays."""
    script = f"""
        supervisor, pid, started = daemon("sh", {options})
        time.sleep(0.2)
        print(alive(pid, started), kill(pid, started, signal.SIGKILL, 5), exit_code())
    """
    assert output(script) == f"{stays} True {137 if stays else 0}\n"


def test_a_detached_terminal_is_the_commands_own_and_ends_in_the_log() -> None:
    script = """
        inside = "tty; echo hello > /dev/tty; head -c 300000 /dev/zero | tr '\\\\0' x; echo end"
        supervisor, pid, started = daemon("sh", "-c", inside, tty=True, interactive=True)
        code, log = exit_code(), read("/run/log")
        print(log.count("x"), log[:9], "hello" in log, "end" in log, code)
    """
    assert output(script) == "300000 /dev/pts/ True True 0\n"


def test_the_log_is_private_and_complete_when_the_exit_code_is_known() -> None:
    script = """
        write_now = os.write
        os.write = lambda fd, data: (time.sleep(0.2), write_now(fd, data))[1]
        daemon("sh", "-c", "echo end", tty=True)
        print(exit_code(), oct(os.stat("/run/log").st_mode), read("/run/log"), end="")
    """
    assert output(script) == "0 0o100600 end\n"


def test_a_grandchild_that_keeps_the_terminal_does_not_keep_the_supervisor() -> None:
    script = """
        daemon("sh", "-c", "trap '' HUP; sleep 60 & echo $!", tty=True)
        print(exit_code())
        os.kill(int(read("/run/log")), signal.SIGKILL)
    """
    assert output(script) == "0\n"


# -- who is it -----------------------------------------------------------------------------------


def test_kill_never_hits_a_process_with_another_start_time() -> None:
    script = """
        child = spawn(Command(("sleep", "60")))
        print(alive(child.pid, child.start_time), alive(child.pid, child.start_time - 1))
        print(kill(child.pid, child.start_time - 1, signal.SIGKILL, 1), child.poll())
        print(kill(child.pid, child.start_time, signal.SIGKILL, 5), child.wait())
        print(kill(child.pid, child.start_time, signal.SIGKILL, 5))
        print(alive(child.pid, child.start_time))
    """
    assert output(script) == "True False\nTrue None\nTrue 137\nTrue\nFalse\n"


def test_kill_says_when_the_process_does_not_end_in_time() -> None:
    script = """
        loop = "trap '' TERM; while :; do sleep 0.02; done"
        child = spawn(Command(("sh", "-c", loop)))
        term = 1 << signal.SIGTERM - 1
        until(lambda: int(read(f"/proc/{child.pid}/status").split("SigIgn:")[1][:17], 16) & term)
        before = time.monotonic()
        print(kill(child.pid, child.start_time, signal.SIGTERM, 0.2), time.monotonic() - before < 9)
        kill(child.pid, child.start_time, signal.SIGKILL, 5)
    """
    assert output(script) == "False True\n"


def test_a_zombie_is_not_alive_and_a_name_cannot_fool_us() -> None:
    script = """
        os.symlink(shutil.which("sleep"), "/run/a) Z 1 (")
        child = spawn(Command(("/run/a) Z 1 (", "60")))
        print(alive(child.pid, child.start_time))
        os.kill(child.pid, 9)
        until(lambda: ") Z " in read(f"/proc/{child.pid}/stat").rpartition("(")[2])
        print(alive(child.pid, child.start_time))
    """
    assert output(script) == "True\nFalse\n"


# -- exec ----------------------------------------------------------------------------------------


@needs_busybox
def test_run_in_a_process_sees_what_it_sees() -> None:
    script = """
        child = spawn(Command(("sleep", "60"), rootfs=rootfs(), netns="/run/netns/box",
                              hostname="c1", binds=((write("/run/h", "h\\n"), "/etc/hosts"),)))
        inside = Process(child.pid, child.start_time)
        look = "hostname; pwd; cat /etc/hosts; ls / /sys/class/net; exit 3"
        print(run_in(inside, ("sh", "-c", look)))
        print(run_in(inside, ("sh", "-c", "pwd; echo $A"), workdir="/bin", env={"A": "b"}))
        try:
            run_in(Process(child.pid, child.start_time - 1), ("ls",))
        except NotFound as error:
            print("NotFound")
        try:
            run_in(inside, ("python3",))
        except CommandNotFound as error:
            print(error.exit_code)
        os.kill(child.pid, 9)
    """
    assert output(script, BOX) == (
        "c1\n/\nh\n/:\nbin\ndev\netc\nproc\nsys\n\n/sys/class/net:\ninner\nlo\nother\n3\n"
        "/bin\nb\n0\nNotFound\n127\n"
    )


def test_run_in_keeps_a_chroot() -> None:
    script = """
        os.makedirs("/run/jail")
        if (pid := os.fork()) == 0:
            os.chroot("/run/jail")
            time.sleep(60)
            os._exit(0)
        time.sleep(0.1)
        started = int(read(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
        try:
            run_in(Process(pid, started), ("sh", "-c", "true"))
        except CommandNotFound:
            print("jailed")
        os.kill(pid, 9)
    """
    assert output(script) == "jailed\n"


def test_run_in_a_netns_path_is_ip_netns_exec() -> None:
    script = """
        print(run_in("/run/netns/box", ("sh", "-c",
            "ls /sys/class/net; cat /etc/resolv.conf /etc/nsswitch /etc/conf.d/file; exit 3")))
        print(*sorted(os.listdir("/etc")))
        print(run_in("/proc/self/ns/net", ("cat", "/etc/resolv.conf")))
    """
    setup = (
        f"{BOX} && {OWN_ETC} && mkdir -p /etc/netns/box/conf.d && echo theirs > /etc/resolv.conf"
        " && cd /etc/netns/box && echo ours > resolv.conf && echo new > nsswitch"
        " && echo d > conf.d/file"
    )
    assert output(script, setup) == (
        "inner\nlo\nother\nours\nnew\nd\n3\ndir netns resolv.conf\ntheirs\n0\n"
    )


def test_run_in_passes_signals_on() -> None:
    process = start(
        f"print(run_in('/run/netns/box', ('sh', '-c', {PATIENT.format('TERM')!r})))", BOX
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert finish(process) == "got\n9\n"
