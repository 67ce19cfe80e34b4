"""Heartbeats of the fast datapath: frames that take the very way of the containers' frames (packet(7)).

They are sent at the VXLAN device and received at the bridge, because the bridge takes them from the device before a
socket there would see them, unless it saw every other frame, too.
"""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack

import trio

from weave_router.host.netlink import explained

ETHERTYPE = 0x88B5
"""IEEE 802 "local experimental 1"."""
MAX_FRAMES = 64
"""Frames handed out at once, so that a container that floods us with them does not hold the event loop."""
_FRAME_BYTES = 65536 + 14


_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 1 << 20
"""The heartbeats of several hundred neighbours that happen to come at once."""


class PacketHeartbeats:
    """`doors.HeartbeatSocket` by AF_PACKET, in the calling thread's namespace; HostError if a device is missing."""

    def __init__(self, device: str, bridge: str) -> None:
        with ExitStack() as undo:
            self._sender = undo.enter_context(_open(device, 0))  # protocol 0: nothing is queued here
            self._receiver = undo.enter_context(_open(bridge, ETHERTYPE))
            undo.pop_all()
        self._closed = False

    def send(self, frame: bytes) -> bool:
        """Send a complete frame into the VXLAN device; False if the kernel refuses it."""
        if self._closed:
            return False
        try:
            self._sender.send(frame)
        except OSError:
            return False
        return True

    async def wait(self) -> None:
        """Wait until something has come."""
        if self._closed:  # the descriptor may live on for some milliseconds
            raise trio.ClosedResourceError("the socket for heartbeats is closed")
        await trio.lowlevel.wait_readable(self._receiver)

    def receive(self) -> list[bytes]:
        """What has come for the bridge's own MAC, at most MAX_FRAMES."""
        frames: list[bytes] = []
        for _ in range(0 if self._closed else MAX_FRAMES):
            try:
                frame, (_, _, kind, *_) = self._receiver.recvfrom(_FRAME_BYTES)
            except OSError:  # nothing more, or the bridge went down
                break
            if kind == socket.PACKET_HOST:
                frames.append(frame)
        return frames

    def close(self) -> None:
        """Close both sockets; a task that waits gets trio.ClosedResourceError."""
        if self._closed:
            return
        self._closed = True
        trio.lowlevel.notify_closing(self._receiver)
        # The kernel takes 8 to 16 ms for each.
        threading.Thread(target=_close, args=(self._sender, self._receiver), name="close packet socket").start()


def _open(interface: str, protocol: int) -> socket.socket:
    with explained(f"open a socket for heartbeats at {interface}"), ExitStack() as undo:
        # With a protocol given here it would hear every interface until it is bound.
        opened = undo.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0))
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
        opened.bind((interface, protocol))
        undo.pop_all()
    return opened


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        each.close()
