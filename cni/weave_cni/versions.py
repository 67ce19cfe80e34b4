"""Versions of the CNI specification: which are spoken, and how they compare."""

from __future__ import annotations

from weave_cni.errors import CniError, Code

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST = SUPPORTED[-1]
UNNAMED = "0.1.0"
"""What a configuration without `cniVersion` means (specification 0.2.0)."""

CHECK_SINCE = "0.4.0"
STATUS_AND_GC_SINCE = "1.1.0"


def at_least(version: str, other: str) -> bool:
    """Whether one supported version is another one or newer."""
    return SUPPORTED.index(version) >= SUPPORTED.index(other)


def require_supported(version: str) -> None:
    """Raises `CniError` that names both sides."""
    if version not in SUPPORTED:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f'config is "{version}", plugin supports {list(SUPPORTED)}',
        )
