"""All systems under test, in the order of the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.system_kernel import KernelVxlan, NoOverlay
from bench.system_tinc import Tinc
from bench.system_weave import EncryptedSleeve, FastDatapath, RelayedSleeve, Sleeve
from bench.system_weave_net_28 import EncryptedWeaveNet28Sleeve, WeaveNet28Sleeve
from bench.system_wireguard import WireguardGo

if TYPE_CHECKING:
    from bench.system import System

SYSTEMS: tuple[System, ...] = (
    NoOverlay(),
    KernelVxlan(),
    FastDatapath(),
    Sleeve(),
    EncryptedSleeve(),
    RelayedSleeve(),
    WeaveNet28Sleeve(),
    EncryptedWeaveNet28Sleeve(),
    Tinc(),
    WireguardGo(),
)
