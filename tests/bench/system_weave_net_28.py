"""Weave Net 2.8's sleeve; WEAVER names its binary."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from bench.system import (
    CONTAINER_ADDRESSES,
    CONTAINER_MTU_BYTES,
    UNDERLAY_ADDRESSES,
    Bed,
    System,
    lacks,
    pair,
)
from bench.traffic import End
from interop.weave_net_28 import WeaveNet28
from lab.network import wait_until

if TYPE_CHECKING:
    from lab.network import Lab

CONNECT_TIMEOUT_S = 20


class WeaveNet28Sleeve(System):
    """Two hosts, not encrypted."""

    name = "weave28"
    title = "Weave Net 2.8"
    password: ClassVar[str] = ""

    def absent(self) -> str | None:
        """It needs the binary, and the binary needs iptables."""
        if not os.environ.get("WEAVER"):
            return "WEAVER does not name its binary"
        return lacks(os.environ["WEAVER"]) or lacks("iptables")

    def build(self, lab: Lab) -> Bed:
        """Launch a daemon on both hosts."""
        left, right, wire = pair(lab, self.name)
        daemons = WeaveNet28(lab, left, "00:00:00:00:00:01"), WeaveNet28(lab, right, "00:00:00:00:00:02")
        daemons[0].launch(password=self.password)
        daemons[1].launch(UNDERLAY_ADDRESSES[0], password=self.password)
        ends = []
        for daemon, address in zip(daemons, CONTAINER_ADDRESSES, strict=True):
            wait_until(daemon.established, CONNECT_TIMEOUT_S, f"the connection of {daemon.host.label}")
            ends.append(End(daemon.container("web", f"{address}/24", CONTAINER_MTU_BYTES), address))
        return Bed(ends[0], ends[1], (wire,))


class EncryptedWeaveNet28Sleeve(WeaveNet28Sleeve):
    """Two hosts with a password."""

    name = "weave28-encrypted"
    title = "Weave Net 2.8, encrypted"
    password = "correct horse battery staple"
