"""What passes over the daemon's socket for CNI calls, both ways.

    call  = length (4 bytes, big endian) ‖ environment, `NAME=VALUE` separated by zero bytes ‖ length ‖ standard input
    frame = kind (1 byte) ‖ length (4 bytes) ‖ payload

The descriptor of the container's namespace, if the caller could open one, comes with the first byte of a call
(SCM_RIGHTS). The daemon answers with frames: `X` asks the caller to run a delegated plugin (payload: a call), which it
answers with a frame `D` (exit status, one byte, and standard output); `R` is the end (exit status and what to print).
The executables (`executable.py`) speak this without importing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BYTES = 4 << 20
"""Of a part; the largest known configuration is GC's with some thousand attachments."""

RESULT = b"R"
EXECUTE = b"X"
DONE = b"D"

LENGTH_BYTES = 4


class WireError(Exception):
    """What came over the socket is no call or frame."""


def length(data: bytes) -> int:
    """Read a length. Raises `WireError` if it is too large."""
    number = int.from_bytes(data, "big")
    if number > MAX_BYTES:
        raise WireError(f"{number} bytes are more than the {MAX_BYTES} allowed")
    return number


def encode_call(environment: Mapping[str, str], standard_input: bytes) -> bytes:
    """A call as bytes."""
    lines = b"\0".join(f"{name}={value}".encode(errors="surrogateescape") for name, value in environment.items())
    return _counted(lines) + _counted(standard_input)


def decode_environment(data: bytes) -> dict[str, str]:
    """The first part of a call."""
    entries = (entry.partition(b"=") for entry in data.split(b"\0") if entry)
    return {name.decode(errors="surrogateescape"): value.decode(errors="surrogateescape") for name, _, value in entries}


def encode_frame(kind: bytes, payload: bytes) -> bytes:
    """A frame as bytes."""
    return kind + _counted(payload)


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(LENGTH_BYTES, "big") + data
