"""The real packet I/O: a TAP with virtio-net headers and one UDP socket with segmentation offload.

Both descriptors are in one epoll, so that a single task can wait for either. Kernel features are probed when opened;
where one is missing the slower way is taken and `diagnostics` says so.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytun
import trio

from weave_router.dataplane.captured import ROOM, SLOT_BYTES, CapturedBurst, slots_of
from weave_router.dataplane.memory import keep_freed_memory
from weave_router.dataplane.packet_io import Datagrams
from weave_router.errors import HostError
from weave_router.frames.joining import Superframe
from weave_router.frames.segmentation import PLAIN_VNET_HEADER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from weave_router.dataplane.packet_io import PacketRun
    from weave_router.sleeve.link import Address

MAX_BURST = 64
"""Groups of datagrams per burst."""
RECEIVE_BYTES = 128 << 10
"""A burst ends when it has reached this size."""
CAPTURE_SLOTS = 64
"""A burst is 64 small frames, or two superframes and a few of them: larger ones fill the processor's caches."""
SOCKET_BUFFER_BYTES = 8 << 20
_READ_BYTES = 65536 + 64

# linux/if_tun.h
_TUNSETOFFLOAD = 0x400454D0
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6, _TUN_F_TSO_ECN, _TUN_F_USO4, _TUN_F_USO6 = 1, 2, 4, 8, 0x20, 0x40
# linux/udp.h, linux/in.h, asm-generic/socket.h
_UDP_SEGMENT, _UDP_GRO = 103, 104
_IP_MTU_DISCOVER, _IP_PMTUDISC_DONT, _IP_PMTUDISC_DO, _IP_MTU = 10, 0, 2, 14
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class KernelIO:
    """Packet I/O through the kernel. The TAP exists while this object is open."""

    def __init__(self, tap: str | None, listen: Address) -> None:
        """Open the TAP (none for a router without a data plane of its own) and bind the UDP socket.

        Raises `HostError`.
        """
        self._features = {"memory_kept": "on" if keep_freed_memory() else "off (no mallopt in the C library)"}
        self._errors: Counter[str] = Counter()
        self._tap = self._tap_fd = None
        self.joins_udp = False
        self._udp = self._open_udp(listen)
        try:
            if tap is not None:
                self._tap = self._open_tap(tap)
                self._tap_fd = self._tap.fileno()
        except BaseException:
            self._udp.close()
            raise
        self.interface = f"{tap} (via virtio TAP)" if tap else ""
        self._epoll = select.epoll()
        self._epoll.register(self._udp.fileno(), select.EPOLLIN)
        if self._tap_fd is not None:
            self._epoll.register(self._tap_fd, select.EPOLLIN)
        self._df: bool | None = None
        self._received = np.zeros(RECEIVE_BYTES + 2 * _READ_BYTES, np.uint8)
        self._captured = np.zeros(CAPTURE_SLOTS * SLOT_BYTES + _READ_BYTES, np.uint8)
        view = self._captured.data
        begins = range(ROOM, CAPTURE_SLOTS * SLOT_BYTES, SLOT_BYTES)
        self._rooms = [[view[begin : begin + _READ_BYTES]] for begin in begins]

    # --- opening ----------------------------------------------------------------------------------------------------

    def _open_tap(self, name: str) -> pytun.TunTapDevice:
        try:
            device = pytun.TunTapDevice(name=name, flags=pytun.IFF_TAP | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR)
        except (OSError, pytun.Error) as error:
            raise HostError(_tap_problem(name, error)) from error
        os.set_blocking(device.fileno(), False)
        offloads = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6 | _TUN_F_TSO_ECN
        for flags, state in (
            (offloads | _TUN_F_USO4 | _TUN_F_USO6, "TCP and UDP"),
            (offloads, "TCP (the kernel is older than 6.2: no UDP)"),
            (0, "off (refused by the kernel)"),
        ):
            try:
                fcntl.ioctl(device.fileno(), _TUNSETOFFLOAD, flags)
            except OSError:
                continue
            self._features["tap_segmentation"] = state
            self.joins_udp = bool(flags & _TUN_F_USO4)
            break
        return device

    def _open_udp(self, listen: Address) -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            udp.setblocking(False)
            udp.bind(listen)
        except OSError as error:
            udp.close()
            raise HostError(f"cannot listen on UDP {listen[0]}:{listen[1]}: {error.strerror}") from error
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                udp.setsockopt(socket.SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
            except OSError:
                udp.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_BYTES)
        for option, feature, value in ((_UDP_GRO, "udp_gro", 1), (_UDP_SEGMENT, "udp_segment", 0)):
            try:
                udp.setsockopt(socket.SOL_UDP, option, value)
            except OSError as error:
                self._features[feature] = f"off ({error.strerror})"
            else:
                self._features[feature] = "on"
        self._segment = self._features["udp_segment"] == "on"
        return udp

    # --- bursts -----------------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Return when there may be something to capture or to receive."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())

    def poll(self, seconds: float) -> bool:
        """Whether there is something to capture or to receive; looks again and again for so long."""
        ready = self._epoll.poll
        if ready(0, 1):
            return True
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            os.sched_yield()  # whom we wait for may need this processor
            if ready(0, 1):
                return True
        return False

    def capture(self) -> CapturedBurst:
        """A burst of frames from the bridge."""
        slots: list[int] = []
        lengths: list[int] = []
        fd = self._tap_fd
        if fd is not None:
            read, rooms = os.readv, self._rooms
            slot = 0
            try:
                while slot < len(rooms):
                    length = read(fd, rooms[slot])
                    slots.append(slot)
                    lengths.append(length)
                    slot += slots_of(length)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno == errno.EBADFD:
                    raise HostError(f"device {self.interface.split()[0]} has been removed by somebody else") from error
                self._errors["drop_tap_error"] += 1
        return CapturedBurst(self._captured, slots, lengths)

    def inject(self, frames: Sequence[bytes | Superframe]) -> int:
        """Hand frames to the bridge; returns how many writes the kernel refused."""
        fd = self._tap_fd
        if fd is None:
            return len(frames)
        refused = 0
        write = os.writev
        for frame in frames:
            try:
                if isinstance(frame, Superframe):
                    write(fd, (frame.vnet_header, frame.headers, frame.payload.data))
                else:
                    write(fd, (PLAIN_VNET_HEADER, frame))
            except OSError:
                refused += 1
        return refused

    def receive(self) -> list[Datagrams]:
        """A burst of datagrams."""
        burst: list[Datagrams] = []
        buffer, view = self._received, self._received.data
        receive = self._udp.recvmsg_into
        place = 0
        latest: Datagrams | None = None
        try:
            while place <= RECEIVE_BYTES and len(burst) < MAX_BURST:
                length, control, _, source = receive([view[place : place + _READ_BYTES]], 64)
                size = length
                for level, kind, data in control:
                    if level == socket.SOL_UDP and kind == _UDP_GRO:
                        (size,) = struct.unpack("i", data[:4])
                if length == 0:
                    continue
                if latest and latest.size == size and latest.source == source and latest.total == len(latest.buffer):
                    start = place - latest.total
                    latest.total += length
                else:
                    start = place
                    latest = Datagrams(buffer[:0], size, length, source)
                    burst.append(latest)
                place = start + -(-latest.total // size) * size
                latest.buffer = buffer[start:place]
        except BlockingIOError:
            pass
        except OSError:
            self._errors["receive_errors"] += 1
        return burst

    def send(self, runs: Sequence[PacketRun], remote: Address, *, df: bool) -> bool:
        """Send datagrams in order. False where one was too large for the path."""
        if df is not self._df:
            self._udp.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO if df else _IP_PMTUDISC_DONT)
            self._df = df
        carried = True
        for run in runs:
            if run.count == 1 or not self._segment:
                carried &= self._send_each(run.packets(), remote)
            else:
                carried &= self._send_run(run, remote)
        return carried

    def _send_run(self, run: PacketRun, remote: Address) -> bool:
        control = [(socket.SOL_UDP, _UDP_SEGMENT, struct.pack("H", run.size))]
        try:
            self._udp.sendmsg(run.parts, control, 0, remote)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.EMSGSIZE, errno.EIO):
                # Larger than the path (let each be fragmented or refused), or the device cannot checksum segments.
                return self._send_each(run.packets(), remote)
            self._count_loss(error, run.count)
        return True

    def _send_each(self, packets: Sequence[bytes | memoryview], remote: Address) -> bool:
        carried = True
        for packet in packets:
            try:
                self._udp.sendto(packet, remote)
            except OSError as error:
                if error.errno == errno.EMSGSIZE:
                    carried = False
                    self._errors["drop_larger_than_path"] += 1
                else:
                    self._count_loss(error, 1)
        return carried

    def _count_loss(self, error: OSError, packets: int) -> None:
        cause = errno.errorcode.get(error.errno or 0, "unknown").lower()
        self._errors[f"drop_send_{cause}"] += packets

    def path_mtu(self, remote: Address) -> int | None:
        """Bytes of an IP packet that the path to `remote` carries, as far as the kernel knows."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(remote)
                return probe.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            except OSError:
                return None

    def diagnostics(self) -> Mapping[str, str]:
        """Which kernel features are on, and why others are off."""
        return dict(self._features)

    def take_errors(self) -> Mapping[str, int]:
        """Counts of lost packets by cause since the last call."""
        errors, self._errors = self._errors, Counter()
        return errors

    def close(self) -> None:
        """Close the descriptors; the TAP disappears."""
        self._epoll.close()
        self._udp.close()
        if self._tap is not None:
            self._tap.close()


def _tap_problem(name: str, error: Exception) -> str:
    number = error.args[0] if error.args else None
    if number == errno.EBUSY:
        return f"device {name} is in use by another process: is another router running on this host?"
    if number == errno.EPERM:
        return "creating a TAP device needs root (CAP_NET_ADMIN)"
    if number == errno.ENOENT:
        return "/dev/net/tun is missing: load the module tun (modprobe tun), or give a container --device /dev/net/tun"
    return f"cannot create TAP device {name}: {error}"
