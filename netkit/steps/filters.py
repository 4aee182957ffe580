"""What the firewall is asked for: tables, rules, and a way past other tools' chains.

Shapes   a step says what, and the back end at hand carries it out: so a plan holds whichever that
         is, and prints as the lines of the one that will do it (`line`), or else as nft's
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from netkit import firewall
from netkit.addresses import Address
from netkit.errors import Conflict, Drift
from netkit.firewall import Obstacle, Publish, Rule
from netkit.kernel import Kernel
from netkit.steps.base import Step
from netkit.steps.host import forwards


class _Held(Step, frozen=True, kw_only=True):
    """Rules in force from add to delete, in one transaction."""

    @property
    def held(self) -> Sequence[Rule]:
        return ()

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.add(self.held)

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.delete(self.held)

    def check(self, kernel: Kernel) -> None:
        if missing := kernel.firewall.check(self.held):
            raise Drift("the firewall lacks: " + "; ".join(missing))

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        return (Again(rules=tuple(r for r in self.held if kernel.firewall.check([r]))),)

    def line(self, back_end: firewall.Firewall) -> str:
        return _text(back_end, back_end.lines(self.held))

    def undo_line(self, back_end: firewall.Firewall) -> str:
        return _text(back_end, back_end.lines(self.held, "delete"))

    def undo(self) -> str:
        return self.undo_line(_nftables())

    def __str__(self) -> str:
        return self.line(_nftables())


class Tables(Step, frozen=True, kw_only=True):
    """What all firewall rules stand on."""

    def prepare(self, kernel: Kernel) -> Step | None:
        if not kernel.firewall.script():
            return None  # the back end `none` has no tables
        if kernel.firewall.is_open():
            raise Conflict(
                "the firewall already holds netkit's tables, made from another state directory",
                hint="use that state directory, or remove its networks first "
                "(if it is lost: nft delete table inet netkit; nft delete table bridge netkit)",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.open()

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.close()

    def check(self, kernel: Kernel) -> None:
        if not kernel.firewall.is_open():
            raise Drift("netkit's firewall tables are gone")
        if altered := kernel.firewall.altered():
            raise Drift(f"somebody has changed netkit's own rules in {', '.join(altered)}")

    def line(self, back_end: firewall.Firewall) -> str:
        return _script(back_end)

    def undo_line(self, back_end: firewall.Firewall) -> str:
        return back_end.unscript()

    def undo(self) -> str:
        return self.undo_line(_nftables())

    def __str__(self) -> str:
        return self.line(_nftables())


class Rules(_Held, frozen=True, kw_only=True):
    """Firewall rules, in one transaction.

    Conntrack keeps a flow on its old path for as long as packets come, so a client would go on
    talking to a published port's former owner, or to nobody. Hence such flows are forgotten: those
    of UDP when a port comes (a TCP client notices by itself), all when it goes; or, if its owner
    goes as a whole (`leaving`), those of UDP: to look takes 10 ms.
    """

    rules: tuple[firewall.Rule, ...]
    leaving: bool = False

    def add(self, kernel: Kernel) -> None:
        super().add(kernel)
        try:
            if udp := self._published_of("udp"):
                kernel.forget_flows(*udp)
        except BaseException:
            super().delete(kernel)
            raise

    def delete(self, kernel: Kernel) -> None:
        super().delete(kernel)
        published = self._published_of("udp") if self.leaving else self._published
        if published:
            kernel.forget_flows(*published)

    @property
    def held(self) -> Sequence[Rule]:
        return self.rules

    @property
    def _published(self) -> Sequence[Publish]:
        return [rule for rule in self.rules if isinstance(rule, Publish)]

    def _published_of(self, protocol: str) -> Sequence[Publish]:
        return [rule for rule in self._published if rule.protocol == protocol]

    def line(self, back_end: firewall.Firewall) -> str:
        flows = [
            f"conntrack -D{' -f ipv6' * (rule.address.version == 6)} -p udp --dport {port} "
            "2>/dev/null || true"
            for rule in self._published_of("udp")
            for port in range(rule.host_port, rule.host_port + rule.count)
        ]
        return "\n".join([super().line(back_end), *flows])


class Exchange(Step, frozen=True, kw_only=True):
    """Rules that live endpoints have held give way to others, in one transaction.

    It is never on record for long: the endpoints' own steps say what they hold from then on.
    """

    gone: tuple[firewall.Rule, ...] = ()
    added: tuple[firewall.Rule, ...] = ()

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.exchange(self.gone, self.added)

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.exchange(self.added, self.gone)

    def line(self, back_end: firewall.Firewall) -> str:
        return _exchanged(back_end, self.gone, self.added)

    def undo_line(self, back_end: firewall.Firewall) -> str:
        return _exchanged(back_end, self.added, self.gone)

    def undo(self) -> str:
        return self.undo_line(_nftables())

    def __str__(self) -> str:
        return self.line(_nftables())


class Forget(Step, frozen=True, kw_only=True):
    """What these addresses may reach for the sake of a name that once led there, they no longer
    may: neither they nor who has them next.
    """

    addresses: tuple[Address, ...]

    def add(self, kernel: Kernel) -> None:
        kernel.firewall.forget(self.addresses)

    def delete(self, kernel: Kernel) -> None:
        kernel.firewall.forget(self.addresses)

    def __str__(self) -> str:
        return ""


class Again(Rules, frozen=True, kw_only=True):
    """Rules of which something is missing, or leads elsewhere: never on record."""

    def add(self, kernel: Kernel) -> None:
        try:
            super().add(kernel)
        except FileExistsError:
            kernel.firewall.delete(self.rules)
            super().add(kernel)


class Standby(Step, frozen=True, kw_only=True):
    """Rules of ports that lead to another interface of the same container, for when that goes."""

    rules: tuple[firewall.Rule, ...]

    def __str__(self) -> str:
        return ""


class NoTransit(_Held, frozen=True, kw_only=True):
    """A host that forwarded nothing before us forwards nothing that is not ours."""

    version: int = 4

    @property
    def held(self) -> Sequence[Rule]:
        return (firewall.NoTransit(self.version),)

    def prepare(self, kernel: Kernel) -> Step | None:
        return None if forwards(kernel, self.version) else self


class Passage(Step, frozen=True, kw_only=True):
    """Other tools' chains, which drop what they do not know, let pass what *dev* forwards.

    `obstacles` are those there were when it was looked; `check` tells of those that came later,
    and what an operator then adds, as told, goes with the rest, unless these are `only` some.
    `zone` is that of firewalld which *dev* is put into.
    """

    dev: str
    obstacles: tuple[Obstacle, ...] = ()
    only: bool = False
    zone: str = "trusted"

    def prepare(self, kernel: Kernel) -> Step:
        return self.through(kernel.obstacles())

    def add(self, kernel: Kernel) -> None:
        if self.obstacles:
            kernel.open_passage(self.dev, self.obstacles)

    def delete(self, kernel: Kernel) -> None:
        later = () if self.only else self.through(kernel.obstacles()).obstacles
        if known := dict.fromkeys([*self.obstacles, *later]):
            kernel.close_passage(self.dev, tuple(known))

    def check(self, kernel: Kernel) -> None:
        found = self.through(kernel.obstacles()).obstacles
        if found and (missing := kernel.blocked(self.dev, found)):
            raise Drift(
                f"what {self.dev} forwards is dropped by another tool's firewall: "
                + "; ".join(missing)
            )

    def through(self, found: Iterable[Obstacle]) -> Passage:
        """The same, past those that were *found* now."""
        ways = (replace(each, into=self.zone) if each.has_zones else each for each in found)
        return Passage(dev=self.dev, obstacles=tuple(ways), zone=self.zone)

    def mending(self, kernel: Kernel) -> Sequence[Step]:
        found = (each for each in self.through(kernel.obstacles()).obstacles if each.into)
        left = tuple(each for each in found if kernel.blocked(self.dev, (each,)))
        return (replace(self, obstacles=left),)

    def but(self, known: Iterable[Obstacle]) -> Passage:
        """That part of it which leads past others than the *known* ones."""
        others = tuple(each for each in self.obstacles if each not in known)
        return Passage(dev=self.dev, obstacles=others, only=True, zone=self.zone)

    @property
    def warnings(self) -> Sequence[str]:
        """What only the owner of a chain can mend."""
        from netkit.firewall import foreign  # lazily: few have another firewall

        return [foreign.warning(self.dev, each) for each in self.obstacles if each.into is None]

    def undo(self) -> str:
        from netkit.firewall import foreign  # lazily: few have another firewall

        return "\n".join(foreign.lines(self.dev, self.obstacles, "delete"))

    def __str__(self) -> str:
        from netkit.firewall import foreign  # lazily: few have another firewall

        return "\n".join(foreign.lines(self.dev, self.obstacles))


class Hear(Step, frozen=True, kw_only=True):
    """A chain of iptables' that is an admin's own is asked first about all that is forwarded.

    It is made, with `make`, if it is not there, and stays for as long as it has rules.
    """

    chain: str
    make: bool = False
    programs: tuple[str, ...] = ()

    def prepare(self, kernel: Kernel) -> Step | None:
        programs = tuple(kernel.hearers(self.chain, make=self.make))
        return replace(self, programs=programs) if programs else None

    def add(self, kernel: Kernel) -> None:
        kernel.hear(self.chain, self.programs)

    def delete(self, kernel: Kernel) -> None:
        kernel.hear(self.chain, self.programs, on=False)

    def check(self, kernel: Kernel) -> None:
        if missing := kernel.unheard(self.chain, self.programs):
            raise Drift(f"chain {self.chain} is not asked any more: {'; '.join(missing)}")

    def undo(self) -> str:
        from netkit.firewall import foreign  # lazily: few have another firewall

        return "\n".join(foreign.asking(self.chain, self.programs, "-D"))

    def __str__(self) -> str:
        from netkit.firewall import foreign  # lazily: few have another firewall

        return "\n".join(foreign.asking(self.chain, self.programs))


class BackEnd(Step, frozen=True, kw_only=True):
    """A whole back end beside the one at hand: its tables, and rules in them."""

    name: str
    rules: tuple[Rule, ...] = ()

    def prepare(self, kernel: Kernel) -> Step:
        back_end = firewall.load(self.name)
        if back_end.script() and back_end.is_open():
            raise Conflict(
                f"{self.name} already holds netkit's tables, made from another state directory",
                hint="use that state directory, or remove its networks first",
            )
        return self

    def add(self, kernel: Kernel) -> None:
        firewall.load(self.name).open(self.rules)

    def delete(self, kernel: Kernel) -> None:
        firewall.load(self.name).close()

    def undo(self) -> str:
        return firewall.load(self.name).unscript()

    def __str__(self) -> str:
        back_end = firewall.load(self.name)
        return "\n".join([_script(back_end), _text(back_end, back_end.lines(self.rules))])


def held(plan: Iterable[Step]) -> list[Rule]:
    """All rules that a plan has in force."""
    return [rule for step in plan if isinstance(step, _Held) for rule in step.held]


def _exchanged(back_end: firewall.Firewall, gone: Sequence[Rule], added: Sequence[Rule]) -> str:
    """The lines of what one has and the other has not."""
    old, new = (
        dict.fromkeys(line for rule in rules for line in back_end.lines([rule]))
        for rules in (gone, added)
    )
    deleted = [
        line
        for rule in gone
        for put, line in zip(back_end.lines([rule]), back_end.lines([rule], "delete"), strict=True)
        if put not in new
    ]
    return _text(back_end, [*deleted, *(line for line in new if line not in old)])


def _nftables() -> firewall.Firewall:
    return firewall.load("nftables")


def _script(back_end: firewall.Firewall) -> str:
    """What opens a back end; nft reads it as a file, of others it is lines of the shell."""
    text = back_end.script()
    return f"nft -f - <<'END'\n{text}END" if text.startswith("table ") else text


def _text(back_end: firewall.Firewall, lines: Sequence[str]) -> str:
    if not back_end.script().startswith("table "):
        return "\n".join(lines)
    if len(lines) == 1:
        return f"nft {shlex.quote(lines[0])}"
    return "nft -f - <<'END'\n" + "".join(f"{line}\n" for line in lines) + "END"
