"""Our rules at the top of the chain FORWARD of iptables, where there is one.

Docker lets that chain drop what no rule accepts, and no accept elsewhere overrides a drop. Bridged frames pass it too
where bridge-nf-call-iptables is 1. This is the only chain of others that is changed; our rules bear a comment. Where
FORWARD leads to DOCKER-USER, which Docker keeps at the top for others, they are there.

iptables exists twice: over nf_tables, and the legacy one with tables of its own. Each table is only touched if it is
there already, and is changed in one transaction.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from weave_router.host import problems
from weave_router.host.firewall_programs import is_installed, run_program

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network

COMMENT = "weave-net"
LOST_AGAIN_S = 1.0
"""What others removed is put back at most once in this time."""
MOVE_AGAIN_S = 10.0
"""Our rules are moved back to the top at most once in this time: others may want to be there as much."""

_FORWARD, _DOCKER_USER = "FORWARD", "DOCKER-USER"
_MARK = ("-m", "comment", "--comment", COMMENT)
_LOCK_WAIT_S = "5"
_ATTEMPTS = 3
_COMPLAINT_LENGTH = 200

Rule = tuple[str, ...]
"""The words of a rule, without those that name its chain."""


@dataclass(frozen=True, slots=True)
class FilterTable:
    """One of the four tables `filter`."""

    program: str
    """`iptables` or `ip6tables`."""
    legacy: bool

    @property
    def version(self) -> int:
        """Of IP."""
        return 4 if self.program == "iptables" else 6

    def exists(self) -> bool:
        """Whether the namespace of the calling thread has it."""
        if self.legacy:
            return "filter" in _names_of_legacy_tables(self.program)
        family = "ip" if self.version == 4 else "ip6"
        try:
            return run_program("nft", "list", "chain", family, "filter", _FORWARD).returncode == 0
        except FileNotFoundError:
            return False

    def list(self) -> tuple[list[str], list[str]]:
        """The rules of FORWARD and of DOCKER-USER, after their policy; what does not exist is empty."""
        done = self._run("", "-w", _LOCK_WAIT_S, "-S", _FORWARD)
        if done.returncode != 0:
            raise problems.forward_refused(done.args[0], _complaint(done))
        other = self._run("", "-w", _LOCK_WAIT_S, "-S", _DOCKER_USER)
        return done.stdout.splitlines(), other.stdout.splitlines() if other.returncode == 0 else []

    def change(self, commands: Iterable[str]) -> str:
        """Carry out commands, all or none; returns a complaint, empty if it went well."""
        script = "\n".join(("*filter", *commands, "COMMIT", ""))
        done = self._run("-restore", "--noflush", "-w", _LOCK_WAIT_S, text=script)
        return "" if done.returncode == 0 else _complaint(done)

    def _run(self, suffix: str, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return run_program(f"{self._flavour()}{suffix}", *arguments, text=text)

    def _flavour(self) -> str:
        """The program that works on this table; plain `iptables` may be either."""
        wanted = f"{self.program}-{'legacy' if self.legacy else 'nft'}"
        if is_installed(wanted):
            return wanted
        if is_installed(self.program):
            told = run_program(self.program, "--version")
            if ("nf_tables" in told.stdout) != self.legacy:
                return self.program
        raise problems.no_iptables(wanted)


TABLES = tuple(FilterTable(program, legacy) for program in ("iptables", "ip6tables") for legacy in (False, True))


class ForwardRules:
    """Our rules in one table. Calls block while programs run, and must not overlap."""

    def __init__(self, table: FilterTable) -> None:
        self._table = table
        self._wanted: tuple[Rule, ...] | None = None
        """What was wanted last time; None if that failed."""
        self._repaired = float("-inf")

    def set(self, bridge: str, subnets: Iterable[Network], now: float) -> float:
        """Keep the rules for a bridge and its exposed subnets at the top.

        Returns when to look again without a reason from outside, infinity for never: what others do over and over
        again is mended only now and then. `now` in seconds.
        """
        if not self._table.exists():
            self._wanted = None
            return float("inf")
        wanted = tuple(_rules(bridge, (net for net in subnets if net.version == self._table.version)))
        before, self._wanted = self._wanted, None
        for attempt in range(_ATTEMPTS):
            chains = self._table.list()
            rules = () if self._is_left_alone(chains[0]) else wanted
            commands, lost = _commands(chains, rules)
            if not commands:
                break
            if before == wanted and attempt == 0:
                due = self._repaired + (LOST_AGAIN_S if lost else MOVE_AGAIN_S)
                if now < due:
                    self._wanted = wanted
                    return due
                self._repaired = now
            refused = self._table.change(commands)
            if not refused:
                break
            if attempt == _ATTEMPTS - 1:  # before that, somebody may have changed the chain under our hands
                raise problems.forward_refused(self._table.program, refused)
        self._wanted = wanted
        return float("inf")

    def remove(self) -> bool:
        """Remove our rules; False if there were none."""
        self._wanted = None
        if not self._table.exists():
            return False
        commands, _ = _commands(self._table.list(), ())
        if not commands:
            return False
        if refused := self._table.change(commands):
            raise problems.forward_refused(self._table.program, refused)
        return True

    def _is_left_alone(self, forward: Iterable[str]) -> bool:
        # What IPv6 tables others have is mostly empty; there is nothing to do for us in these.
        return self._table.version == 6 and f"-P {_FORWARD} DROP" not in forward


def legacy_tables_exist() -> bool:
    """Whether the namespace of the calling thread has a table of legacy iptables, whose changes nobody tells."""
    return any(table.legacy and table.exists() for table in TABLES)


def _names_of_legacy_tables(program: str) -> list[str]:
    prefix = "ip" if program == "iptables" else "ip6"
    try:
        return Path(f"/proc/thread-self/net/{prefix}_tables_names").read_text().split()
    except OSError:
        return []


def _rules(bridge: str, subnets: Iterable[Network]) -> Iterable[Rule]:
    accept = ("-j", "ACCEPT")
    yield ("-i", bridge, "-o", bridge, *_MARK, *accept)
    yield ("-i", bridge, "!", "-o", bridge, *_MARK, *accept)
    yield ("-o", bridge, *_MARK, "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", *accept)
    for subnet in dict.fromkeys(subnets):
        yield ("-d", str(subnet), "-o", bridge, *_MARK, *accept)


def _commands(chains: tuple[list[str], list[str]], wanted: tuple[Rule, ...]) -> tuple[list[str], bool]:
    """What brings the rules, and no others of ours, to the top; and whether some are not there at all."""
    forward, docker_user = (_parse(lines) for lines in chains)
    place, there, elsewhere = _FORWARD, forward, docker_user
    if ("-j", _DOCKER_USER) in (rule for rule, _ in forward):
        place, there, elsewhere = _DOCKER_USER, docker_user, forward
    top = [sorted(rule) for rule, _ in there[: len(wanted)]]  # iptables has an order of its own for a rule's words
    ours = [sorted(rule) for rule, _ in there if _is_ours(rule)]
    if top == ours == [sorted(rule) for rule in wanted] and not any(_is_ours(rule) for rule, _ in elsewhere):
        return [], False
    commands = [line.replace("-A ", "-D ", 1) for rule, line in (*forward, *docker_user) if _is_ours(rule)]
    commands += (f"-I {place} {number} {' '.join(rule)}" for number, rule in enumerate(wanted, 1))
    return commands, not all(sorted(rule) in ours for rule in wanted)


def _parse(lines: Iterable[str]) -> list[tuple[Rule, str]]:
    """The rules that `-S` lists, each with its line."""
    parsed = []
    for line in lines:
        if line.startswith("-A "):
            try:
                words = shlex.split(line)
            except ValueError:
                words = line.split()
            parsed.append((tuple(words[2:]), line))
    return parsed


def _is_ours(rule: Rule) -> bool:
    return any(pair == ("--comment", COMMENT) for pair in pairwise(rule))


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    told = " ".join(line.strip() for line in done.stderr.splitlines() if not line.startswith("#"))  # that are warnings
    return told.strip()[:_COMPLAINT_LENGTH] or f"exit status {done.returncode}"
