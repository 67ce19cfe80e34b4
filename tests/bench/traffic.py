"""Traffic between two containers: runs `load.c` at both ends and returns what the receiving end counted."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.network import Container, LabError
from lab.shell import run

SOURCE = Path(__file__).with_name("load.c")
PORT = 5001
WARMUP_S = 0.3
"""From the first byte until counting begins."""
UDP_MARGIN_S = 0.3
"""How much longer than the receiver counts a UDP sender sends, since its first datagrams may wait for ARP."""
TCP_MARGIN_S = 4.0
"""The same for TCP, whose sender ends when the receiver has gone; a lost SYN is sent again after 1 s and 3 s."""
TIME_LIMIT_S = 30.0
"""More than any role of `load` takes, which ends by itself."""


@dataclass(frozen=True)
class End:
    """A container and the address at which the other one reaches it."""

    container: Container
    address: str


@dataclass(frozen=True)
class TcpResult:
    """What arrived over TCP."""

    bits_per_s: float
    busy_s_per_gigabyte: float
    """Time that all processors of the machine worked, per 10⁹ bytes."""


@dataclass(frozen=True)
class UdpResult:
    """Datagrams that arrived, and that were sent, per second."""

    received_per_s: float
    sent_per_s: float


@dataclass(frozen=True)
class RoundTripResult:
    """Round trips of one byte over TCP in microseconds: median and 99th percentile."""

    p50_us: float
    p99_us: float


class Traffic:
    """The traffic generator, compiled into a directory. LabError if that, or a transfer, does not work."""

    def __init__(self, directory: Path, seconds: float) -> None:
        self.seconds = seconds
        """How long each measurement counts, after `WARMUP_S`."""
        self._program = str(directory / "load")
        run("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", self._program, str(SOURCE), timeout_s=60)

    def tcp(self, sender: End, receiver: End, streams: int) -> TcpResult:
        """As much TCP as goes."""
        send_s = WARMUP_S + self.seconds + TCP_MARGIN_S
        received, _ = self._transfer(
            receiver, ("tcp-receive", PORT, streams, WARMUP_S, self.seconds),
            sender, ("tcp-send", receiver.address, PORT, streams, send_s),
        )  # fmt: skip
        if received["bytes"] == 0:
            raise LabError(f"no byte of TCP arrived at {receiver.container} in {self.seconds:g} s")
        return TcpResult(
            bits_per_s=received["bytes"] * 8 / received["seconds"],
            busy_s_per_gigabyte=received["busy_seconds"] / received["bytes"] * 1e9,
        )

    def udp(self, sender: End, receiver: End, payload_bytes: int) -> UdpResult:
        """More datagrams than arrive, from one socket."""
        send_s = WARMUP_S + self.seconds + UDP_MARGIN_S
        received, sent = self._transfer(
            receiver, ("udp-receive", PORT, WARMUP_S, self.seconds),
            sender, ("udp-send", receiver.address, PORT, payload_bytes, send_s),
        )  # fmt: skip
        return UdpResult(received["packets"] / received["seconds"], sent["packets"] / sent["seconds"])

    def round_trip(self, client: End, server: End) -> RoundTripResult:
        """One byte to and fro, back to back."""
        _, result = self._transfer(
            server, ("echo", PORT),
            client, ("round-trip", server.address, PORT, WARMUP_S, self.seconds),
        )  # fmt: skip
        return RoundTripResult(result["p50_us"], result["p99_us"])

    def _transfer(
        self, passive: End, passive_role: tuple[object, ...], active: End, active_role: tuple[object, ...]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Start the passive side, then the active one; what each says in the end."""
        server = self._start(passive, passive_role)
        try:
            if (first := _read_line(server)) != "ready":
                raise LabError(f"{passive_role[0]} at {passive.container} failed: {first}")
            client = self._start(active, active_role)
            try:
                return _result(server, passive_role, passive), _result(client, active_role, active)
            finally:
                _end(client)
        finally:
            _end(server)

    def _start(self, end: End, role: tuple[object, ...]) -> subprocess.Popen[str]:
        return end.container.popen(self._program, *map(str, role))


def _read_line(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip() if process.stdout is not None else ""


def _result(process: subprocess.Popen[str], role: tuple[object, ...], end: End) -> dict[str, float]:
    try:
        output, _ = process.communicate(timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{role[0]} at {end.container} did not end in {TIME_LIMIT_S:g} s") from error
    if process.returncode != 0:
        raise LabError(f"{role[0]} at {end.container} failed: {output.strip()}")
    result: dict[str, float] = json.loads(output)
    return result


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
