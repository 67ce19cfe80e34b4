"""Messages to systemd's service manager (sd_notify), where one started us."""

from __future__ import annotations

import os
import socket


def notify_service_manager(state: str) -> bool:
    """Send one state, such as `READY=1`; False where nobody asked for it or it could not be sent.

    A lost message must not end the daemon: systemd's own timeouts deal with it.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # systemd's way to write an abstract socket
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.sendto(state.encode(), address)
    except OSError:
        return False
    return True
