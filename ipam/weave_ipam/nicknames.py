"""What the owners of addresses are called, for people: also of those that have gone. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from weave_router.wire.peer_name import PeerName

MAX_NICKNAMES = 4096
_LISTED = 3


class Nicknames:
    """`present`: the nickname of a peer that the topology knows, which is newer than what gossip told."""

    def __init__(
        self, ourselves: PeerName, own: str, present: Callable[[PeerName], str | None], stored: Mapping[PeerName, str]
    ) -> None:
        self.names: dict[PeerName, str] = {**stored, ourselves: own}
        """As peers tell each other."""
        self._ourselves = ourselves
        self._present = present

    def learn(self, names: Mapping[PeerName, str]) -> None:
        """Another peer's; ours stays, and so does everything when there are too many."""
        if len(self.names) + len(names) <= MAX_NICKNAMES:
            own = self.names[self._ourselves]
            self.names.update(names)
            self.names[self._ourselves] = own

    def keep(self, is_needed: Callable[[PeerName], bool]) -> None:
        """Forget the others, ourselves aside."""
        for peer in [peer for peer in self.names if peer != self._ourselves and not is_needed(peer)]:
            del self.names[peer]

    def __call__(self, peer: PeerName) -> str:
        """A peer's nickname, empty where nobody told it."""
        return self._present(peer) or self.names.get(peer, "")

    def label(self, peer: PeerName) -> str:
        """Name and nickname."""
        return f"{format_peer_name(peer)}({self(peer)})"

    def labels(self, peers: Sequence[PeerName]) -> str:
        """The first few, and how many more."""
        rest = f" and {len(peers) - _LISTED} more" if len(peers) > _LISTED else ""
        return ", ".join(map(self.label, peers[:_LISTED])) + rest

    def find(self, text: str, peers: Iterable[PeerName]) -> list[PeerName]:
        """Those among some peers that have this nickname or name."""
        return [peer for peer in peers if text in (self(peer), format_peer_name(peer))]
