"""Lines out of a stream of bytes, whatever the pieces in which it comes; a line that is too long is left out."""

from __future__ import annotations

MAX_LINE_BYTES = 1 << 20
"""An event carries all labels of its container."""


class Lines:
    """Takes pieces, gives complete lines."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        self._limit = limit
        self._begun = bytearray()
        self._skipping = False
        self.skipped = 0
        """Lines that were too long."""

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that end in this piece, without line feed and spaces around them; empty ones are left out."""
        lines = []
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._add(end)
            if not self._skipping and (line := bytes(self._begun).strip(b" \t\r\x1e")):
                lines.append(line)
            self._begun.clear()
            self._skipping = False
        self._add(rest)
        return lines

    def _add(self, piece: bytes) -> None:
        if self._skipping:
            return
        if len(self._begun) + len(piece) > self._limit:
            self._skipping = True
            self.skipped += 1
            self._begun.clear()
        else:
            self._begun += piece
