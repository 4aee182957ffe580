"""hosts, hostname and resolv.conf inside: of `run`, of named namespaces, of running processes.

Rows F1-F7 and F9-F11 of features.md; of networks with names, resolv.conf's part of G1 and G9. Each
is read from inside, as the C library would.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from msgspec.structs import replace

from netkit import live, namefiles
from netkit.dns import hosts, resolvconf
from netkit.engine import Engine
from netkit.errors import Conflict
from netkit.model import DEFAULT_NETWORK
from netkit.specs import NameFiles, NetworkSpec, Request
from netkit.updates import NetworkUpdate
from scenarios.lab import Host, netkit, run, until
from tests.faces import ok

KINDS = ("run", "named", "process")
MADE = ("run", "named")  # a process's own files are left alone unless it is given some
HOSTS_OWN = "nameserver 9.9.9.9\nsearch corp.test\noptions ndots:2\n"
Read = Callable[[str], str]


@pytest.fixture
def net(host: Host) -> Iterator[Host]:
    """A network, and a host whose resolv.conf is known."""
    netkit("network create --subnet 172.25.0.0/24 net")
    netkit("network create --subnet 172.26.0.0/24 two")
    before = _text("/etc/resolv.conf")
    host_file("resolv.conf", HOSTS_OWN)
    yield host
    host_file("resolv.conf", before)


def host_file(name: str, text: str) -> None:
    """Replace a file in the sandbox's own /etc."""
    with open(f"/etc/{name}.new", "w") as file:
        file.write(text)
    os.replace(f"/etc/{name}.new", f"/etc/{name}")


def _text(path: str) -> str:
    with open(path) as file:
        return file.read()


@contextmanager
def sandbox(kind: str, options: str = "", net: str = "net") -> Iterator[Read]:
    """A container, namespace or process called "box"; what a file is from inside."""
    if kind == "named":
        netkit(f"connect --net {net} --name box {options}")
        yield lambda path: run(f"ip netns exec box cat {path}")
        netkit("rm box")
        return
    if kind == "run":
        netkit(f"run -d --net {net} --name box {options} -- sleep 60")
        pid = netkit("inspect -f '{{.State.Pid}}' box").strip()
        yield lambda path: _inside(pid, f"cat {path}")
        netkit("rm -f box")
        return
    with process("--mount") as number:
        netkit(f"connect --net {net} {options} pid:{number}")
        yield lambda path: _inside(str(number), f"cat {path}")
        netkit(f"disconnect --net {net} pid:{number}")


@contextmanager
def process(*namespaces: str) -> Iterator[int]:
    """Somebody's process with a network namespace of its own, and *namespaces*; its pid."""
    command = ["unshare", "--net", *namespaces, "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()  # it is where it belongs now
        try:
            yield child.pid
        finally:
            child.kill()


def _inside(pid: str, line: str) -> str:
    return run(f"nsenter --target {pid} --mount {line}")


# -- resolv.conf


@pytest.mark.parametrize("kind", MADE)
def test_f1_f10_the_hosts_own_servers_are_asked_when_nothing_is_given(net: Host, kind: str) -> None:
    with sandbox(kind) as read:
        assert read("/etc/resolv.conf") == HOSTS_OWN


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (
            "--dns 114.114.114.114 --dns 8.8.8.8",
            "nameserver 114.114.114.114\nnameserver 8.8.8.8\nsearch corp.test\noptions ndots:2\n",
        ),
        (
            "--dns 1.1.1.1 --dns-search .example.com --dns-search a.test --dns-opt timeout:1",
            "nameserver 1.1.1.1\nsearch example.com a.test\noptions timeout:1\n",
        ),
        ("--dns-search .", "nameserver 9.9.9.9\noptions ndots:2\n"),
    ],
)
def test_f2_f3_what_is_given_takes_the_place_of_the_hosts(
    net: Host, kind: str, options: str, wanted: str
) -> None:
    """Each part by itself; a leading dot of a search domain is dropped."""
    with sandbox(kind, options) as read:
        assert read("/etc/resolv.conf") == wanted
    assert _text("/etc/resolv.conf") == HOSTS_OWN


@pytest.mark.parametrize("kind", MADE)
def test_f4_loopback_servers_of_the_host_are_left_out(net: Host, kind: str) -> None:
    """Inside, 127.0.0.1 is somebody else; the file says what became of it."""
    host_file("resolv.conf", "nameserver 127.0.0.1\nnameserver 9.9.9.9\nnameserver ::1\n")
    with sandbox(kind) as read:
        said = read("/etc/resolv.conf")
    assert resolvconf.parse(said).nameservers == ("9.9.9.9",)
    assert "127.0.0.1" in said.splitlines()[0]
    host_file("resolv.conf", "nameserver 127.0.0.1\n")
    with sandbox(kind) as read:
        said = read("/etc/resolv.conf")
    assert resolvconf.parse(said).nameservers == ("8.8.8.8", "8.8.4.4")
    assert "FALLBACK" in said
    with sandbox(kind, "--dns 127.0.0.1") as read:  # whoever asks for it gets it
        assert resolvconf.parse(read("/etc/resolv.conf")).nameservers == ("127.0.0.1",)


def test_f4_behind_resolveds_stub_its_real_servers_are_asked(net: Host) -> None:
    host_file("resolv.conf", "nameserver 127.0.0.53\noptions edns0\n")
    os.makedirs("/run/systemd/resolve", exist_ok=True)
    with open("/run/systemd/resolve/resolv.conf", "w") as file:
        file.write("nameserver 192.0.2.53\n")
    try:
        with sandbox("named") as read:
            assert read("/etc/resolv.conf") == "nameserver 192.0.2.53\n"
    finally:
        os.unlink("/run/systemd/resolve/resolv.conf")


@pytest.mark.parametrize("kind", KINDS)
def test_f11_what_the_c_library_would_not_use_is_left_out(net: Host, kind: str) -> None:
    """A fourth server, a second of the same, a domain twice, an ndots that is no number."""
    servers = "".join(f" --dns 192.0.2.{n}" for n in (1, 2, 2, 3, 4))
    search = " --dns-search a.test --dns-search A.test --dns-search b.test"
    with sandbox(kind, f"{servers}{search} --dns-opt ndots:x --dns-opt rotate") as read:
        conf = resolvconf.parse(read("/etc/resolv.conf"))
    assert conf.nameservers == ("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert (conf.search, conf.options) == (("a.test", "b.test"), ("rotate",))


@pytest.mark.parametrize("kind", MADE)
def test_b21_an_internal_network_asks_nobody_outside(net: Host, kind: str) -> None:
    netkit("network create --internal --subnet 172.27.0.0/24 inner")
    with sandbox(kind, net="inner") as read:
        assert resolvconf.parse(read("/etc/resolv.conf")).nameservers == ()


# -- hostname and hosts


@pytest.mark.parametrize("kind", KINDS)
def test_f5_a_hostname_is_known_inside_and_nowhere_else(net: Host, kind: str) -> None:
    before = _text("/etc/hosts")
    netkit("connect --net net --name neighbour")
    with sandbox(kind, "-h web1 --domainname example.test") as read:
        assert read("/etc/hostname") == "web1.example.test\n"
        assert "172.25.0.3\tweb1.example.test web1\n" in read("/etc/hosts")
        assert "127.0.0.1\tlocalhost\n" in read("/etc/hosts")
        assert "web1" not in run("ip netns exec neighbour cat /etc/hosts")
        assert "web1" not in netkit("ps")
    assert _text("/etc/hosts") == before


def test_f5_run_sets_the_name_the_kernel_tells_too(net: Host) -> None:
    shown = "hostname; dnsdomainname; getent hosts web1; echo $HOSTNAME"
    said = netkit(f"run --rm --net net -h web1 --domainname d.test -- sh -c '{shown}'")
    assert said.split() == ["web1", "d.test", "172.25.0.2", "web1.d.test", "web1", "web1"]
    assert run("hostname").strip() != "web1"


@pytest.mark.parametrize("kind", MADE)
def test_f5_without_a_hostname_there_is_still_a_name_for_its_address(net: Host, kind: str) -> None:
    """The namespace's own; of a container, as in Docker, the short id."""
    with sandbox(kind) as read:
        assert f"172.25.0.2\t{_own_name(kind)}\n" in read("/etc/hosts")


def _own_name(kind: str) -> str:
    return "box" if kind == "named" else netkit("ps -q").strip()


@pytest.mark.parametrize("kind", KINDS)
def test_f6_extra_hosts_are_in_the_file(net: Host, kind: str) -> None:
    extra = "--add-host db:172.25.9.9 --add-host=up:host-gateway --add-host dockerhub=52.1.157.61"
    with sandbox(kind, extra) as read:
        lines = read("/etc/hosts").splitlines()
    for line in ("172.25.9.9\tdb", "172.25.0.1\tup", "52.1.157.61\tdockerhub"):
        assert lines.count(line) == 1


@pytest.mark.parametrize("kind", ["run", "named"])
def test_each_network_has_its_line_for_as_long_as_it_is_connected(net: Host, kind: str) -> None:
    with sandbox(kind, "-h web1") as read:
        before = read("/etc/hosts")
        netkit("connect --net two box")
        assert read("/etc/hosts") == before + "172.26.0.2\tweb1\n"
        netkit("disconnect --net two box")
        assert read("/etc/hosts") == before


def test_f2_f5_f6_with_the_hosts_network_its_files_are_the_hosts_but_for_what_is_given(
    net: Host,
) -> None:
    assert netkit("run --rm --net host -- cat /etc/resolv.conf") == HOSTS_OWN
    assert netkit("run --rm --net host -- cat /etc/hosts") == _text("/etc/hosts")
    said = netkit("run --rm --net host --add-host db:172.25.9.9 -- cat /etc/hosts")
    assert said == hosts.add(_text("/etc/hosts"), "172.25.9.9", ("db",))


# -- where the files live, and whose they are


def test_f7_the_three_files_are_mounted_and_edits_live_as_long_as_the_run(net: Host) -> None:
    before = {name: _text(f"/etc/{name}") for name in ("hosts", "resolv.conf", "hostname")}
    edit = "for f in hosts hostname resolv.conf; do echo '# edited' >> /etc/$f; done; mount"
    said = netkit(f'run --net net --name box -h web1 -- sh -c "{edit}; cat /etc/hosts"')
    for name in before:
        assert f" on /etc/{name} type " in said
    assert "# edited" in said
    assert {name: _text(f"/etc/{name}") for name in before} == before
    netkit("rm box")
    assert "# edited" not in netkit("run --rm --net net --name box -- cat /etc/hosts")


def test_f7_a_rootfs_gets_the_files_and_keeps_its_own(net: Host, tmp_path: object) -> None:
    root = str(tmp_path)
    for name in ("bin", "lib", "lib64", "usr", "etc"):
        os.mkdir(f"{root}/{name}")
    with open(f"{root}/etc/hosts", "w") as file:
        file.write("own\n")
    run(f"cp /usr/bin/busybox {root}/bin/busybox")
    said = netkit(
        f"run --rm --net net --rootfs {root} -h web1 --dns 1.1.1.1 -- /bin/busybox "
        "cat /etc/hosts /etc/hostname /etc/resolv.conf"
    )
    assert "172.25.0.2\tweb1\n" in said
    assert said.endswith("web1\nnameserver 1.1.1.1\nsearch corp.test\noptions ndots:2\n")
    assert _text(f"{root}/etc/hosts") == "own\n"


def test_f7_a_process_gets_them_for_as_long_as_it_is_connected(net: Host) -> None:
    """In its own mount namespace only; what it had before is there again afterwards."""
    before = _text("/etc/hosts")
    with process("--mount") as pid:
        mounted = _inside(str(pid), "cat /proc/self/mounts")
        netkit(f"connect --net net -h web1 --dns 1.1.1.1 pid:{pid}")
        assert "web1" in _inside(str(pid), "cat /etc/hosts")
        assert _text("/etc/hosts") == before
        netkit(f"disconnect --net net pid:{pid}")
        assert _inside(str(pid), "cat /etc/hosts") == before
        assert _inside(str(pid), "cat /etc/resolv.conf") == HOSTS_OWN
        assert _inside(str(pid), "cat /proc/self/mounts") == mounted
    assert os.listdir(os.environ["NETKIT_RUN_DIR"]) == ["lock"]


def test_f7_a_process_with_the_hosts_files_is_refused_files_of_its_own(net: Host) -> None:
    """It would change the host's; without any it is connected."""
    with process() as pid:
        said = netkit(f"connect --net net --dns 1.1.1.1 pid:{pid}", code=1)
        assert "our own mount namespace" in said
        assert _text("/etc/resolv.conf") == HOSTS_OWN
        assert "eth0" not in run("ip link", place=f"/proc/{pid}/ns/net")
        netkit(f"connect --net net pid:{pid}")
        netkit(f"disconnect --net net pid:{pid}")


def test_f7_what_was_mounted_in_a_process_that_died_is_cleaned_up(net: Host) -> None:
    with process("--mount") as pid:
        netkit(f"connect --net net -h web1 pid:{pid}")
    assert until(lambda: "veth" not in run("ip -o link"))
    assert f"pid-{pid}" in netkit("gc").split()
    assert os.listdir(os.environ["NETKIT_RUN_DIR"]) == ["lock"]


@pytest.mark.parametrize("kind", MADE)
def test_f9_what_a_user_wrote_inside_is_never_overwritten(net: Host, kind: str) -> None:
    """Neither by connecting to another network, nor when a line of ours is taken out again."""
    with sandbox(kind) as read:
        path = "/etc/netns/box" if kind == "named" else _directory()
        with open(f"{path}/resolv.conf", "w") as file:
            file.write("nameserver 203.0.113.1 # mine\n")
        with open(f"{path}/hosts", "a") as file:
            file.write("203.0.113.7 mine\n203.0.113.8 unfinished")
        netkit("connect --net two box")
        assert read("/etc/resolv.conf") == "nameserver 203.0.113.1 # mine\n"
        assert f"172.26.0.2\t{_own_name(kind)}\n" in read("/etc/hosts")
        netkit("disconnect --net two box")
        assert read("/etc/resolv.conf") == "nameserver 203.0.113.1 # mine\n"
        assert read("/etc/hosts").endswith("203.0.113.7 mine\n203.0.113.8 unfinished")
        assert "172.26.0.2" not in read("/etc/hosts")


def _directory() -> str:
    (id,) = netkit("ps -q --no-trunc").split()
    return f"{os.environ['NETKIT_RUN_DIR']}/{id}"


def test_f9_f10_a_file_that_was_there_before_is_the_users(net: Host) -> None:
    """It is used as it is, and stays when the namespace goes."""
    os.makedirs("/etc/netns/box")
    with open("/etc/netns/box/resolv.conf", "w") as file:
        file.write("nameserver 203.0.113.1\n")
    with sandbox("named") as read:
        assert read("/etc/resolv.conf") == "nameserver 203.0.113.1\n"
        assert "box" in read("/etc/hosts")
    assert os.listdir("/etc/netns/box") == ["resolv.conf"]
    assert _text("/etc/netns/box/resolv.conf") == "nameserver 203.0.113.1\n"


def test_f10_netkit_exec_and_ip_netns_exec_show_the_same_files(net: Host) -> None:
    with sandbox("named", "-h web1 --dns 1.1.1.1") as read:
        for name in ("hosts", "hostname", "resolv.conf"):
            assert netkit(f"exec box -- cat /etc/{name}") == read(f"/etc/{name}")
            assert _text(f"/etc/netns/box/{name}") == read(f"/etc/{name}")
    assert not os.path.exists("/etc/netns/box")


def test_f10_a_namespace_somebody_else_made_keeps_its_files(net: Host) -> None:
    run("ip netns add theirs")
    said = netkit("connect --net net --dns 1.1.1.1 theirs", code=1)
    assert "write them to /etc/netns/theirs" in said
    netkit("connect --net net theirs")
    assert run("ip netns exec theirs cat /etc/resolv.conf") == HOSTS_OWN
    netkit("disconnect --net net theirs")
    assert not os.path.exists("/etc/netns/theirs")


def test_a_container_that_has_its_files_is_given_no_others_later(net: Host) -> None:
    with sandbox("named"):
        said = netkit("connect --net two --dns 1.1.1.1 box", code=1)
        assert "are made already" in said


# -- on networks with names

ASKS_HOSTS = "# netkit serves containers' names; about others it asks 9.9.9.9\n"
BOX = "/etc/netns/box/resolv.conf"


@pytest.fixture
def engine(net: Host) -> Engine:
    """Four networks with names, n1 to n4, beside the two without."""
    engine = net.engine()
    for number in range(1, 5):
        subnets = (IPv4Network(f"172.27.{number}.0/24"),)
        engine.create_network(NetworkSpec(f"n{number}", subnets=subnets, names=True))
    return engine


def asked(text: str) -> str:
    """The file that names these servers, of who is on networks with names; "" of nobody."""
    servers = "".join(f"nameserver 172.27.{number}.1\n" for number in text)
    return f"{ASKS_HOSTS}{servers}search corp.test\noptions ndots:0\n" if text else HOSTS_OWN


@pytest.mark.parametrize("kind", MADE)
def test_g1_where_names_are_served_the_gateway_is_asked(engine: Engine, kind: str) -> None:
    """From the first moment; the host's ndots, which is about its own names, counts for nothing."""
    with sandbox(kind, net="n1") as read:
        assert read("/etc/resolv.conf") == asked("1")


def test_g1_a_process_that_is_given_files_asks_the_gateway_too(engine: Engine) -> None:
    with sandbox("process", "-h web1", net="n1") as read:
        assert read("/etc/resolv.conf") == asked("1")


def test_a_container_on_several_asks_the_first_three_from_the_start(engine: Engine) -> None:
    several = "--net n2 --net two --net n1 --net n3 --net n4"
    said = netkit(f"run --rm {several} -- cat /etc/resolv.conf")
    assert resolvconf.parse(said).nameservers == ("172.27.2.1", "172.27.1.1", "172.27.3.1")


@pytest.mark.parametrize("kind", ["run", "process"])
def test_a_running_one_is_told_in_place_as_its_networks_change(engine: Engine, kind: str) -> None:
    """The file is mounted inside: another inode would never be seen there."""
    with sandbox(kind, "-h web1", net="net") as read:
        assert read("/etc/resolv.conf") == HOSTS_OWN
        (box,) = engine.sandboxes()
        engine.connect("n1", box.id)
        assert read("/etc/resolv.conf") == asked("1")
        engine.disconnect("n1", box.id)
        assert read("/etc/resolv.conf") == HOSTS_OWN


def test_the_file_follows_each_network_that_comes_and_goes(engine: Engine) -> None:
    """The one whose gateway is asked may go, too."""
    engine.connect("n1", name="box")
    steps = ["+two 1", "+n2 12", "+n3 123", "+n4 123", "-n1 234", "-two 234", "-n3 24", "-n2 4"]
    steps += ["+net 4", "-n4 ", "+n1 1"]
    for step in steps:
        change, _, wanted = step.partition(" ")
        (engine.connect if change[0] == "+" else engine.disconnect)(change[1:], "box")
        assert _text(BOX) == asked(wanted), step


def test_a_dry_run_shows_the_file_and_leaves_it(engine: Engine) -> None:
    engine.connect("net", name="box")
    with engine.dry_run() as lines:
        engine.connect("n1", "box")
    assert f"cat > {BOX} <<'END'\n{asked('1')}END" in lines
    assert _text(BOX) == HOSTS_OWN


def test_a_refused_connect_leaves_the_file_as_it_was(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.connect("net", name="box")

    def refuse(record: object) -> None:
        assert _text(BOX) == asked("1")
        raise Conflict("no")

    monkeypatch.setattr(engine.changes, "_commit", refuse)
    with pytest.raises(Conflict, match="no"):
        engine.connect("n1", "box")
    assert _text(BOX) == HOSTS_OWN


@pytest.mark.parametrize("edit", ["nameserver 203.0.113.1 # mine\n", HOSTS_OWN + "# mine", ""])
def test_f9_an_edited_file_is_left_alone_whatever_comes_and_goes(engine: Engine, edit: str) -> None:
    engine.connect("net", name="box")
    with open(BOX, "w") as file:
        file.write(edit)
    engine.connect("n1", "box")
    engine.connect("two", "box")
    engine.disconnect("net", "box")
    engine.disconnect("n1", "box")
    assert _text(BOX) == edit
    (shown,) = json.loads(ok("inspect", "box"))
    assert (shown["ResolvConfPath"], shown["ResolvConfEdited"]) == (BOX, True)


def test_f9_what_is_edited_between_two_changes_stays(engine: Engine) -> None:
    engine.connect("n1", name="box")
    engine.connect("n2", "box")
    with open(BOX, "a") as file:
        file.write("# mine\n")
    engine.disconnect("n1", "box")
    assert _text(BOX) == asked("12") + "# mine\n"
    (shown,) = json.loads(ok("inspect", "box"))
    assert shown["ResolvConfEdited"] is True


def test_f9_a_file_that_is_as_it_was_again_is_netkits_again(engine: Engine) -> None:
    engine.connect("n1", name="box")
    for text in ("# mine\n", asked("1")):
        with open(BOX, "w") as file:
            file.write(text)
    engine.connect("n2", "box")
    assert _text(BOX) == asked("12")


def test_what_is_given_is_asked_by_netkit_and_is_not_in_the_file(engine: Engine) -> None:
    files = NameFiles(servers=("192.0.2.53",), search=("a.test",), options=("ndots:3",))
    engine.connect("n1", name="box", files=files)
    told = ASKS_HOSTS.replace("9.9.9.9", "192.0.2.53")
    wanted = f"{told}nameserver 172.27.1.1\nsearch a.test\noptions ndots:3\n"
    assert _text(BOX) == wanted
    engine.connect("net", "box")
    engine.disconnect("n1", "box")  # nobody else is there to ask them
    assert _text(BOX) == "nameserver 192.0.2.53\nsearch a.test\noptions ndots:3\n"


def test_on_the_default_network_what_is_given_is_in_the_file_as_well(engine: Engine) -> None:
    """The founding notes: `cat /etc/resolv.conf` shows those of daemon.json; names come first."""
    default = replace(engine.network("n1"), name=DEFAULT_NETWORK)
    given = NameFiles(servers=("192.0.2.53", "192.0.2.54"))
    text = namefiles.resolv_conf(given, [namefiles.Place(default, (4,))])
    told = ASKS_HOSTS.replace("9.9.9.9", "192.0.2.53 192.0.2.54")
    listed = "nameserver 172.27.1.1\nnameserver 192.0.2.53\nnameserver 192.0.2.54\n"
    assert text == f"{told}{listed}search corp.test\noptions ndots:0\n"


def test_a_networks_own_servers_are_told(engine: Engine) -> None:
    subnets = (IPv4Network("172.28.0.0/24"),)
    engine.create_network(NetworkSpec("with", subnets=subnets, servers=("192.0.2.9",), names=True))
    engine.connect("with", name="box")
    assert "about others it asks 192.0.2.9\n" in _text(BOX)
    change = NetworkUpdate(servers=("192.0.2.10",), no_servers=("192.0.2.9",))
    with engine.dry_run() as lines:
        live.update_network(engine, "with", change)
    assert "about others it asks 192.0.2.10\n" in "\n".join(lines)
    live.update_network(engine, "with", change)
    assert "about others it asks 192.0.2.10\n" in _text(BOX)


def test_b21_from_internal_networks_nobody_is_asked_about_others(engine: Engine) -> None:
    subnets = (IPv4Network("172.28.0.0/24"),)
    engine.create_network(NetworkSpec("inner", subnets=subnets, internal=True, names=True))
    engine.connect("inner", name="box")
    assert "about others it asks nobody\nnameserver 172.28.0.1\n" in _text(BOX)
    engine.connect("net", "box")  # which leads out
    assert "about others it asks 9.9.9.9\nnameserver 172.28.0.1\n" in _text(BOX)


@pytest.mark.parametrize(
    ("wanted", "server"),
    [
        ({}, "172.28.0.1"),  # of both, the one most C libraries are sure to reach
        ({"addressless": True}, None),
        ({"addresses": (ip_address("fd00:28::9"),)}, "172.28.0.1"),
    ],
)
def test_it_is_asked_at_an_address_the_sandbox_can_reach(
    engine: Engine, wanted: dict[str, object], server: str | None
) -> None:
    subnets = (IPv4Network("172.28.0.0/24"), IPv6Network("fd00:28::/64"))
    engine.create_network(NetworkSpec("both", subnets=subnets, ipv6=True, names=True))
    engine.connect("net", name="box")
    engine.connect("both", "box", Request(**wanted))  # type: ignore[arg-type]
    expected = ("9.9.9.9",) if server is None else (server,)
    assert resolvconf.parse(_text(BOX)).nameservers == expected


def test_of_a_network_of_ipv6_alone_the_gateway_is_asked_by_that(engine: Engine) -> None:
    subnets = (IPv6Network("fd00:28::/64"),)
    spec = NetworkSpec("six", subnets=subnets, ipv4=False, ipv6=True, names=True)
    engine.create_network(spec)
    engine.connect("six", name="box")
    assert resolvconf.parse(_text(BOX)).nameservers == ("fd00:28::1",)
