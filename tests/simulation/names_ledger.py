"""Which names every host's containers were told that they have: what no table may contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulation.invariant import InvariantBroken

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_dns.entries import Identity


class Call(NamedTuple):
    """A request that was sent: its number, and what it is about."""

    number: int
    identities: tuple[Identity, ...]


def in_order(identities: Iterable[Identity]) -> list[Identity]:
    """Sorted, so that nothing depends on the order of a set."""
    return sorted(identities, key=lambda i: (i.hostname, i.origin, i.container, i.address.version, int(i.address)))


class _Stage(NamedTuple):
    call: int
    alive: bool


class NameLedger:
    """For each name of each host how it was last answered to be, then what was asked since and not answered.

    A name that was never asked for is dead.
    """

    def __init__(self) -> None:
        self.revision = 0
        """Grows with every change."""
        self._hosts: dict[int, dict[Identity, list[_Stage]]] = {}

    def asked(self, host: int, identities: Iterable[Identity], *, alive: bool) -> Call:
        """A host is asked to make names alive, or dead."""
        self.revision += 1
        call = Call(self.revision, tuple(identities))
        for identity in call.identities:
            stages = self._of(host).setdefault(identity, [_Stage(0, False)])
            stages.append(_Stage(call.number, alive))
        return call

    def answered(self, host: int, call: Call) -> None:
        """It was done: from now on a crash changes nothing in it."""
        self.revision += 1
        for identity in call.identities:
            stages = self._of(host)[identity]
            self._of(host)[identity] = [stage for stage in stages if stage.call >= call.number]

    def restarted(self, host: int, alive: set[Identity]) -> None:
        """A host has read its store, and these are the names that it has. Raises `InvariantBroken`."""
        self.check(host, alive, when="after its restart ")
        self.revision += 1
        self._hosts[host] = {identity: [_Stage(0, True)] for identity in in_order(alive)}

    def check(self, host: int, alive: set[Identity], *, when: str = "") -> None:
        """Whether these may be a host's living names. Raises `InvariantBroken`."""
        known = self._of(host)
        for identity in in_order(alive | set(known)):
            if (identity in alive) not in self._possible(known.get(identity, ())):
                what = "has" if identity in alive else "does not have"
                raise InvariantBroken(f"{when}host {host} {what} the name {_text(identity)}")

    def lost(self, host: int) -> None:
        """All containers of a host have ended, and nobody has stored what they had."""
        self.revision += 1
        self._hosts.pop(host, None)

    def possibly_alive(self, host: int) -> list[Identity]:
        """Names of a host that may be alive."""
        return [identity for identity, stages in self._of(host).items() if True in self._possible(stages)]

    def dead(self, host: int) -> list[Identity]:
        """Names that were removed from a host in its present life."""
        return [identity for identity, stages in self._of(host).items() if True not in self._possible(stages)]

    def open(self, host: int) -> list[Identity]:
        """Names of a host of which nobody knows how they are, for want of an answer."""
        return [identity for identity, stages in self._of(host).items() if len(self._possible(stages)) > 1]

    def living(self, host: int) -> set[Identity]:
        """Names that a host must have; nothing is open."""
        return {identity for identity, stages in self._of(host).items() if stages[-1].alive}

    def _of(self, host: int) -> dict[Identity, list[_Stage]]:
        return self._hosts.setdefault(host, {})

    @staticmethod
    def _possible(stages: Iterable[_Stage]) -> set[bool]:
        return {stage.alive for stage in stages} or {False}


def _text(identity: Identity) -> str:
    return f"{identity.hostname} of {identity.container} at {identity.address}"
