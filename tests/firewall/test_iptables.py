"""The iptables back end alone: its worker processes, its lock, and its manners among others."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Address
from typing import Any

import pytest

from netkit.firewall import Isolate, Masquerade, Publish, Rule, Siblings, iptables
from netkit.firewall.iptables import Iptables, IptablesError, IptcMissing
from scenarios.lab import Host, legacy_rules, run, until, without_iptables
from tests.fakes import refused
from tests.firewall.test_contract import ALL, NET, NET6, WEB

PORT = Publish(None, 8080, WEB, 80, "tcp")
# what others have: rules before and after where ours go, chains, and policies
OTHERS = (
    "iptables-legacy -P FORWARD DROP",
    "iptables-legacy -N THEIRS",
    "iptables-legacy -A THEIRS -s 192.0.2.7 -m comment --comment 'their own' -j DROP",
    "iptables-legacy -A FORWARD -j THEIRS",
    "iptables-legacy -A FORWARD -i eth7 -m conntrack --ctstate NEW -j ACCEPT",
    "iptables-legacy -t nat -A PREROUTING -p tcp --dport 99 -j REDIRECT --to-ports 98",
    "iptables-legacy -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
    "iptables-legacy -t mangle -A POSTROUTING -j MARK --set-mark 7",
    "ip6tables-legacy -t raw -P PREROUTING DROP",
    "ip6tables-legacy -A FORWARD -s 2001:db8::/32 -j REJECT",
)


@pytest.fixture
def firewall(host: Host) -> Iterator[Iptables]:
    if reason := without_iptables():
        pytest.skip(reason)
    yield Iptables()
    iptables.forget()


def pid(version: int = 4) -> int:
    return iptables._workers()[version].pid


# -- what it makes


def test_the_lines_and_the_script_are_what_an_operator_can_run(firewall: Iptables) -> None:
    firewall.open()
    empty = legacy_rules()
    firewall.add(ALL)
    ours = legacy_rules()
    assert ours.count("-A") > empty.count("-A") + len(ALL)
    firewall.delete(ALL)
    assert legacy_rules() == empty
    firewall.close()
    run(firewall.script())
    assert legacy_rules() == empty
    assert firewall.is_open()
    run(*firewall.lines(ALL))
    assert legacy_rules() == ours
    assert firewall.check(ALL) == []
    run(*firewall.lines(ALL, "delete"))
    assert legacy_rules() == empty
    run(firewall.unscript())
    assert legacy_rules() == ""


def test_comments_say_whose_it_is_and_hold_nobodys_name(firewall: Iptables) -> None:
    for line in firewall.lines(ALL):
        assert re.search(r"-m comment --comment nk:[0-9a-f]{32} -j ", line), line


def test_what_it_cannot_do_is_refused_by_name_and_nothing_is_done(firewall: Iptables) -> None:
    firewall.open()
    before = legacy_rules()
    for rule, sentence in (
        (Masquerade("veth+"), r"'veth\+' means another thing to iptables.* nftables"),
        (Isolate("!br0"), "'!br0' means another thing"),
        (Isolate("br0 -j ACCEPT"), "means another thing"),
        (Publish(None, 80, WEB, 80, "udplite"), "no ports of 'udplite'.*use nftables"),
    ):
        with pytest.raises(IptablesError, match=sentence):
            firewall.add([PORT, rule])
    assert legacy_rules() == before


# -- among others


def test_others_keep_their_rules_their_order_and_their_policies(firewall: Iptables) -> None:
    run(*OTHERS)
    before = legacy_rules()
    assert before.count("-A") == 7
    firewall.open()
    firewall.add(ALL)
    theirs = [line for line in legacy_rules().splitlines() if "nk:" not in line]
    assert [line for line in theirs if ":NETKIT-" not in line] == before.splitlines()
    firewall.delete(ALL)
    firewall.close()
    assert legacy_rules() == before


def test_on_a_host_without_rules_none_are_left(firewall: Iptables) -> None:
    assert legacy_rules() == ""
    firewall.open()
    firewall.add(ALL)
    firewall.close()
    assert legacy_rules() == ""
    firewall.close()


def test_no_table_is_made_but_those_with_rules_of_ours(firewall: Iptables) -> None:
    firewall.open()
    firewall.add(ALL)
    for names in ("ip_tables_names", "ip6_tables_names"):
        assert sorted(run(f"cat /proc/self/net/{names}").split()) == ["filter", "nat", "raw"]


def test_filters_come_before_others_rules_and_translations_after(firewall: Iptables) -> None:
    run(*OTHERS)
    firewall.open()
    assert "NETKIT-FORWARD" in run("iptables-legacy -S FORWARD 1")
    assert "NETKIT-RAW" in run("iptables-legacy -t raw -S PREROUTING 1")
    assert "NETKIT-PUBLISH" in run("iptables-legacy -t nat -S PREROUTING 2")
    assert "NETKIT-POST" in run("iptables-legacy -t nat -S POSTROUTING 2")


def test_the_operators_own_chain_is_kept_on_close_and_found_again(firewall: Iptables) -> None:
    firewall.open()
    firewall.add(ALL)
    run("iptables-legacy -A NETKIT-ADMIN -s 192.0.2.1 -j DROP")
    firewall.close()
    kept = ":NETKIT-ADMIN -\n-A NETKIT-ADMIN -s 192.0.2.1/32 -j DROP\n"
    assert legacy_rules() == kept
    assert not firewall.is_open()
    firewall.open()
    assert firewall.is_open()
    assert "192.0.2.1" in run("iptables-legacy -S NETKIT-ADMIN")
    run("iptables-legacy -F NETKIT-ADMIN")
    firewall.close()
    assert legacy_rules() == ""


def test_a_jump_somebody_deleted_is_missed_and_comes_back(firewall: Iptables) -> None:
    firewall.open()
    whole = legacy_rules()
    run("iptables-legacy -D FORWARD 1")
    assert not firewall.is_open()
    firewall.open()
    assert legacy_rules() == whole


def test_to_look_makes_no_table(firewall: Iptables) -> None:
    assert not firewall.is_open()
    assert firewall.check([PORT])
    firewall.delete([PORT])
    firewall.close()
    assert run("cat /proc/self/net/ip_tables_names /proc/self/net/ip6_tables_names") in (
        "",
        "nat\n",
    )


# -- all or nothing


def test_if_the_other_ip_version_refuses_nothing_stays(
    firewall: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 is committed when the kernel says no to IPv6: it is put back."""
    firewall.open()
    firewall.add([PORT])
    before = legacy_rules()
    real = iptables._ask
    committed: list[int] = []

    def failing(requests: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
        if "commit" in requests.get(6, {}) and not committed.count(6):
            committed.append(6)
            raise IptablesError(errno.ENOMEM, "can't commit: Cannot allocate memory")
        if "commit" in requests.get(4, {}):
            committed.append(4)
        return real(requests)

    rules: list[Rule] = [PORT, Isolate("br0", (NET, NET6)), Siblings(NET)]
    monkeypatch.setattr(iptables, "_ask", failing)
    with refused(errno.ENOMEM):
        firewall.add(rules)
    assert committed[:2] == [4, 6]
    assert legacy_rules() == before
    firewall.add(rules)
    committed.clear()
    with refused(errno.ENOMEM):
        firewall.delete(rules)
    assert committed[:2] == [4, 6]
    assert firewall.check(rules) == []


def test_threads_and_processes_do_not_lose_each_others_rules(firewall: Iptables) -> None:
    """Each writes whole tables: without the lock one would overwrite the other."""
    firewall.open()

    def publish(first: int) -> None:
        for port in range(first, first + 10):
            Iptables().add([Publish(None, port, WEB, 80, "tcp")])
        iptables.forget()

    script = (
        "from ipaddress import IPv4Address\n"
        "from netkit.firewall import Publish\n"
        "from netkit.firewall.iptables import Iptables\n"
        "for port in range(3000, 3010):\n"
        "    Iptables().add([Publish(None, port, IPv4Address('10.88.0.2'), 80, 'tcp')])\n"
    )
    threads = [threading.Thread(target=publish, args=(1000 * n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    done = subprocess.run([sys.executable, "-c", script], timeout=30, cwd=_root(), env=_env())
    for thread in threads:
        thread.join()
    assert done.returncode == 0
    ports = [Publish(None, 1000 * n + i, WEB, 80, "tcp") for n in (1, 2, 3) for i in range(10)]
    assert firewall.check(ports) == []


# -- the worker


def test_a_worker_that_hangs_is_killed_in_time(
    firewall: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (usual_s := iptables._WORKER_TIMEOUT_S + iptables._LOCK_TIMEOUT_S) <= 10
    firewall.open()  # in any time it takes
    before, hanging = legacy_rules(), pid()
    os.kill(hanging, signal.SIGSTOP)
    monkeypatch.setattr(iptables, "_WORKER_TIMEOUT_S", 0.3)
    begin = time.monotonic()
    with pytest.raises(IptablesError, match="worker of iptables-legacy did not answer in"):
        firewall.add([PORT])
    assert time.monotonic() - begin < usual_s
    assert not os.path.exists(f"/proc/{hanging}")
    monkeypatch.undo()
    assert legacy_rules() == before
    firewall.add([PORT])
    assert firewall.check([PORT]) == []


def test_a_worker_that_was_killed_is_replaced(firewall: Iptables) -> None:
    firewall.open()
    dead = pid()
    os.kill(dead, signal.SIGKILL)
    firewall.add([PORT])
    assert firewall.check([PORT]) == []
    assert pid() != dead


def test_a_worker_that_dies_at_work_is_an_error_and_no_half_rule(
    firewall: Iptables, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall.open()
    before = legacy_rules()
    iptables.forget()
    path = f"{host.base}/worker.py"
    with open(path, "w") as file:
        file.write("input()\n")
    with monkeypatch.context() as patch:
        patch.setattr(iptables, "_WORKER", path)
        with pytest.raises(IptablesError, match="worker of iptables-legacy died"):
            firewall.add([PORT])
    assert legacy_rules() == before
    firewall.add([PORT])


def test_a_worker_dies_with_its_netkit(firewall: Iptables) -> None:
    """Even one that hangs, and even if netkit is killed."""
    script = (
        "import os, signal\n"
        "from netkit.firewall import iptables\n"
        "iptables.Iptables().open()\n"
        "pids = [worker.pid for worker in iptables._workers().values()]\n"
        "for pid in pids:\n"
        "    os.kill(pid, signal.SIGSTOP)\n"
        "print(*pids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE, text=True, timeout=30, cwd=_root(), env=_env(),
    )  # fmt: skip
    pids = done.stdout.split()
    assert len(pids) == 2
    assert until(lambda: not any(_runs(pid) for pid in pids))


def test_a_worker_inherits_nothing(firewall: Iptables) -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        firewall.is_open()
        fds = os.listdir(f"/proc/{pid()}/fd")
        assert sorted(map(int, fds))[:3] == [0, 1, 2]
        found = {os.readlink(f"/proc/{pid()}/fd/{fd}") for fd in fds}
        assert {each for each in found if not each.startswith("socket:")} == {"/dev/null"}
        with open(f"/proc/{pid()}/environ") as file:
            assert file.read() == ""
        assert os.getpgid(pid()) == pid()  # a ^C is not for it
        assert os.getsid(pid()) == os.getsid(0)  # netkitd knows it for its own by that
    finally:
        os.close(leak)


def test_each_namespace_has_workers_of_its_own(firewall: Iptables, host: Host) -> None:
    firewall.open()
    first = pid()
    with Host() as other:
        assert other is not host
        assert not firewall.is_open()
        assert pid() != first
    assert not _runs(str(first))  # forgotten with the other host, which ends all of this thread
    assert firewall.is_open()


def test_without_python_iptables_it_says_what_to_install(
    firewall: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(IptcMissing, match="python-iptables is not installed") as caught:
        firewall.open()
    assert "[iptables]" in (caught.value.hint or "")


# -- the lock


def test_while_another_program_holds_the_lock_it_is_refused_in_time(
    firewall: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall.open()
    before = legacy_rules()
    monkeypatch.setattr(iptables, "_LOCK_TIMEOUT_S", 0.2)
    with open(iptables.LOCK) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        calls: list[Callable[[], None]] = [
            lambda: firewall.add([PORT]),
            lambda: firewall.delete([PORT]),
            firewall.open,
            firewall.close,
        ]
        for call in calls:
            with pytest.raises(
                IptablesError, match=r"/run/xtables.lock was held by .*\d+"
            ) as caught:
                call()
            assert caught.value.errno == errno.EBUSY
    assert legacy_rules() == before
    firewall.add([PORT])


def test_it_waits_for_one_who_holds_the_lock_for_a_moment(firewall: Iptables) -> None:
    firewall.open()
    lock = open(iptables.LOCK)  # noqa: SIM115
    fcntl.flock(lock, fcntl.LOCK_EX)
    timer = threading.Timer(0.1, lock.close)
    timer.start()
    firewall.add([PORT])
    timer.join()
    assert firewall.check([PORT]) == []


def test_it_holds_the_lock_while_it_works(
    firewall: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, held = iptables._ask, []

    def watched(requests: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
        with open(iptables.LOCK) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(True)
            else:
                held.append(False)
        return real(requests)

    monkeypatch.setattr(iptables, "_ask", watched)
    firewall.open()
    firewall.add([PORT])
    firewall.delete([PORT])
    firewall.close()
    assert len(held) > 8
    assert all(held)


# -- growth


def test_a_hundred_ports_are_a_hundred_rules_and_a_range_is_one(firewall: Iptables) -> None:
    firewall.open()
    empty = legacy_rules().count("-A")
    ports = [Publish(None, port, WEB, 80, "tcp") for port in range(1000, 1100)]
    firewall.add(ports)
    assert legacy_rules().count("-A") == empty + 100
    firewall.add([Publish(IPv4Address("192.0.2.1"), 2000, WEB, 3000, "tcp", 100)])
    assert legacy_rules().count("-A") == empty + 101
    firewall.delete(ports[1:])
    assert firewall.check([ports[0]]) == []


def _runs(pid: str) -> bool:
    """Whether a process is there and no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _root() -> str:
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{_root()}:{os.environ.get('PYTHONPATH', '')}"}
