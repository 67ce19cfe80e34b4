"""Where the executables leave calls that no daemon takes: a folder of the run directory, a file for each interface."""

import hashlib

PENDING = "cni-pending"


def record_name(plugin: str, network: str, container: str, interface: str) -> str:
    """Of the file, as `offline` makes it: however often a runtime asks, there is one."""
    return hashlib.sha256("\0".join((plugin, network, container, interface)).encode()).hexdigest()[:32]
