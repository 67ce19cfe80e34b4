"""What goes wrong with a CNI call, with the code under which the runtime is told (CNI specification 1.1.0, "Error")."""

from __future__ import annotations

from enum import IntEnum


class Code(IntEnum):
    """0 to 99 are the specification's, those from 100 on ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    UNDECODABLE = 6
    INVALID_CONFIG = 7
    INVALID_NAMESPACE = 8
    """A constant of the Go library; it is not in the specification's table."""
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    """ADD cannot be served now."""
    LIMITED_CONNECTIVITY = 51
    """Nor may those that are there reach others."""
    TAKEN = 100
    """The interface or an address is somebody else's."""
    HOST_REFUSED = 101
    """The kernel or a program of the host refused."""
    CHECK_FAILED = 102
    """Something is not as ADD left it."""
    INTERNAL = 999
    """A fault of ours; the daemon's log has more."""


class CniError(Exception):
    """Ends a call with an error object on standard output."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = int(code)
        self.message = message
        self.details = details
