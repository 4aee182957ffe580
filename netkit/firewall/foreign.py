"""Other tools' firewalls: whose chain would drop what a network forwards, and the way past it.

    found = obstacles()
    add("br0", found)           # what comes from and goes to br0 passes those that can be passed
    check("br0", found)         # sentences: what is missing, and what nobody but its owner can do
    delete("br0", found)

Shapes   a packet is dropped if one of the chains at a hook says so, whoever made it and whatever
         the others say: so an ACCEPT of ours counts for nothing in Docker's chain, and must stand
         in there. It opens nothing, for our own chains are asked as well. firewalld has zones:
         an interface is in one, and in the zone `trusted` it is let pass
Errors   ForeignError, with what iptables said
Source   Docker's `Packet filtering and firewalls` (DOCKER-USER is the users'), nft(8), iptables(8),
         firewall-cmd(1)
"""

from __future__ import annotations

import errno
import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from netkit.firewall import Obstacle, libnftables

_TIMEOUT_S = 5
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"
_FAMILIES = {"ip": "iptables", "ip6": "ip6tables"}
_CHAIN = re.compile(
    r"^\tchain (?P<name>\S+) \{(?:\n\t\ttype \w+ hook (?P<hook>\w+) .*policy (?P<policy>\w+))?",
    re.MULTILINE,
)
_TABLE = re.compile(r"^table (\w+) (\S+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_REJECTS_AT_THE_END = "firewalld"  # its policy is accept, and its last rule is not
_ZONES, _ZONE = "firewall-cmd", "trusted"  # unless a Passage says another
_ABSENT = {_ZONES: (1, 2)}  # exit codes: not in that zone, in none


class ForeignError(OSError):
    """Another tool's chain could not be read or written."""


def obstacles(backend: str = "nftables") -> list[Obstacle]:
    """Whose chains drop what is forwarded, as things are; one listing of chains, not of rules.

    Our own back end *iptables* is in the same chain as others' legacy rules, and before them.
    """
    found = _in_nftables(libnftables.run("list chains"))
    return found if backend == "iptables" else found + _in_legacy()


def _in_nftables(listing: str) -> list[Obstacle]:
    found = []
    for family, table, body in _TABLE.findall(listing):
        if table == "netkit" or family not in ("ip", "ip6", "inet"):
            continue
        chains = {chain["name"]: chain for chain in _CHAIN.finditer(body)}
        for name, chain in chains.items():
            drops = chain["policy"] == "drop" or table == _REJECTS_AT_THE_END
            if chain["hook"] == "forward" and drops:
                found.append(_obstacle(family, table, name, set(chains), "nft"))
    return found


def _in_legacy() -> list[Obstacle]:
    found = []
    for family, name in _FAMILIES.items():
        if not _has_legacy(family):
            continue
        listing = _run(f"{name}-legacy", "-S")
        chains = set(re.findall(r"^-N (\S+)$", listing, re.MULTILINE)) | {"FORWARD"}
        if re.search(r"^-P FORWARD DROP$", listing, re.MULTILINE):
            found.append(_obstacle(family, "filter", "FORWARD", chains, "legacy"))
    return found


def _has_legacy(family: str) -> bool:
    """Whether there is a table to be looked at: to list one that is not would make it."""
    try:
        with open(f"/proc/thread-self/net/{family}_tables_names") as file:
            found = "filter" in file.read().split()
    except FileNotFoundError:
        return False
    # without the program whoever made it did so by other means, and we cannot look
    return found and shutil.which(f"{_FAMILIES[family]}-legacy", path=_PATH) is not None


def _obstacle(family: str, table: str, chain: str, chains: set[str], kind: str) -> Obstacle:
    """One of iptables' own can be passed, if its program is there; of others we know too little."""
    if table == _REJECTS_AT_THE_END:
        program, into = _ZONES, _ZONE
        ours = shutil.which(_ZONES, path=_PATH) is not None
    else:
        program = f"{_FAMILIES.get(family, '')}-{kind}"
        ours = table == "filter" and chain == "FORWARD"
        ours = ours and shutil.which(program, path=_PATH) is not None
        into = "DOCKER-USER" if "DOCKER-USER" in chains else chain
    return Obstacle(
        program=program if ours else "",
        family=family,
        table=table,
        chain=chain,
        into=into if ours else None,
    )


def add(link: str, found: Sequence[Obstacle]) -> None:
    """Let pass what comes from and goes to *link*; nothing stays of it if that fails."""
    done: list[tuple[str, ...]] = []
    try:
        for program, *rule in _rules(link, found):
            if not _there(program, rule):
                _run(program, *_words(program, "-I", rule))
                done.append((program, *rule))
    except BaseException:
        for program, *rule in done:
            _run(program, *_words(program, "-D", rule))
        raise


def delete(link: str, found: Sequence[Obstacle]) -> None:
    """Take it back; what is gone already, with its chain or without, is success."""
    for program, *rule in _rules(link, found):
        if _there(program, rule, mine=True):
            _run(program, *_words(program, "-D", rule))


def check(link: str, found: Sequence[Obstacle]) -> list[str]:
    """What is missing, as the lines an operator would type; then the chains we cannot pass."""
    missing = [
        _line(program, "-I", rule)
        for program, *rule in _rules(link, found)
        if not _there(program, rule)
    ]
    return missing + [warning(link, each) for each in found if each.into is None]


def lines(link: str, found: Sequence[Obstacle], verb: str = "add") -> list[str]:
    """What `add` (or `delete`) runs, as the lines an operator would type."""
    how = {"add": "-I", "delete": "-D"}[verb]
    return [_line(program, how, rule) for program, *rule in _rules(link, found)]


def warning(link: str, obstacle: Obstacle) -> str:
    """What an operator has to know of a chain that only its owner can open."""
    return f"{obstacle} drops what is forwarded from and to {link}: let it pass there" + (
        ", for instance: firewall-cmd --zone=trusted --add-interface=" + link
    ) * (obstacle.table == _REJECTS_AT_THE_END)


# -- an admin's chain, which is asked first about all that is forwarded


def hearers(chain: str, *, make: bool = False) -> list[str]:
    """The programs in whose table *chain* is; if there are none, those that would *make* it."""
    nft = {
        f"{_FAMILIES[family]}-nft"
        for family, table, body in _TABLE.findall(libnftables.run("list chains"))
        if table == "filter" and family in _FAMILIES and f"\tchain {chain} {{" in body
    }
    legacy = {
        f"{name}-legacy"
        for family, name in _FAMILIES.items()
        if _has_legacy(family) and f"-N {chain}\n" in _run(f"{name}-legacy", "-S")
    }
    own = {name for name in _FAMILIES.values() if shutil.which(name, path=_PATH)}
    return sorted(nft | legacy or (own if make else set()))


def hear(chain: str, programs: Sequence[str]) -> None:
    """Ask it; it is made where it is not there."""
    done = []
    try:
        for program in programs:
            done.append(program)
            with suppress(ForeignError):  # it is there
                _run(program, "-N", chain)
            if not _asks(program, chain):
                _run(program, "-I", *_asking(chain))
    except BaseException:
        unhear(chain, done)
        raise


def unhear(chain: str, programs: Sequence[str]) -> None:
    """Ask it no more; it goes if it is empty."""
    for program in programs:
        if _asks(program, chain):
            _run(program, "-D", *_asking(chain))
        with suppress(ForeignError):
            _run(program, "-X", chain)


def unheard(chain: str, programs: Sequence[str]) -> list[str]:
    """What is missing, as the lines an operator would type."""
    return asking(chain, [program for program in programs if not _asks(program, chain)])


def asking(chain: str, programs: Sequence[str], how: str = "-I") -> list[str]:
    return [_line(program, how, _asking(chain)) for program in programs]


def _asks(program: str, chain: str) -> bool:
    try:
        return _there(program, _asking(chain))
    except ForeignError as error:
        if error.errno == errno.EINVAL:  # of a chain that is gone iptables-legacy knows nothing
            return False
        raise


def _asking(chain: str) -> tuple[str, ...]:
    return ("FORWARD", "-m", "comment", "--comment", _comment("admin", chain), "-j", chain)


def _rules(link: str, found: Sequence[Obstacle]) -> list[tuple[str, ...]]:
    """Program, chain and words of each accept; of a zone, the interface it is to have."""
    zones = dict.fromkeys(
        (_ZONES, each.into, link)
        for each in found
        if each.into is not None and each.program == _ZONES
    )
    return [*zones] + [
        (each.program, each.into, side, link, "-m", "comment", "--comment", _comment(side, link),
         "-j", "ACCEPT")
        for each in found
        if each.into is not None and each.program != _ZONES
        for side in ("-i", "-o")
    ]  # fmt: skip


def _comment(side: str, link: str) -> str:
    return "nk:" + hashlib.sha256(f"accept {side} {link}".encode()).hexdigest()[:32]


def _line(program: str, how: str, rule: Sequence[str]) -> str:
    wait = () if program == _ZONES else ("-w",)
    return " ".join((program, *wait, *_words(program, how, rule)))


def _words(program: str, how: str, rule: Sequence[str]) -> Sequence[str]:
    """The words that add ("-I"), delete or look for an accept."""
    if program != _ZONES:
        return (how, *rule)
    zone, link = rule
    verb = {"-I": "add", "-D": "remove", "-C": "query"}[how]
    return ("-q", f"--zone={zone}", f"--{verb}-interface={link}")


def _there(program: str, rule: Sequence[str], *, mine: bool = False) -> bool:
    """Whether it is; an interface that somebody has put into a zone of his choice is as well,
    unless it is to be *mine*.
    """
    words = _words(program, "-C", rule)
    if program == _ZONES and not mine:
        words = (f"--get-zone-of-interface={rule[-1]}",)
    try:
        _run(program, *words)
    except ForeignError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def _run(program: str, *words: str) -> str:
    """Run iptables on the filter table, or firewalld's client; ENOENT: there is no such thing."""
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise ForeignError(errno.ENOEXEC, f"{program} is not installed any more")
    wait = () if program == _ZONES else ("-w", str(_TIMEOUT_S))
    command = [path, *wait, *words]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={},
            timeout=2 * _TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        text = f"{program} did not answer in {2 * _TIMEOUT_S} s"
        raise ForeignError(errno.ETIMEDOUT, text) from None
    if done.returncode:
        text = done.stderr.strip().partition("\n")[0] or f"{program}: exit code {done.returncode}"
        absent = done.returncode in _ABSENT.get(program, (1,))  # iptables: no such rule, or chain
        raise ForeignError(errno.ENOENT if absent else errno.EINVAL, text)
    return done.stdout
