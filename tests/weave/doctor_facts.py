"""Facts about a healthy host, to be changed where a test is about what is wrong."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from weave_net.doctor.facts import (
    AllocationFacts,
    ClockFacts,
    CniFacts,
    ConnectionFacts,
    DaemonFacts,
    DirectoryFacts,
    DockerFacts,
    Facts,
    FileFacts,
    FirewallFacts,
    InterfaceFacts,
    KernelFacts,
    NameFacts,
    NetworkFacts,
    PackageFacts,
    PathFacts,
    RouterFacts,
    Wanted,
)
from weave_net.doctor.findings import Verdict
from weave_net.doctor.packet_filter import Ruleset

if TYPE_CHECKING:
    from collections.abc import Iterable

    from weave_net.doctor.findings import Finding

PEER = "192.0.2.2"

WANTED = Wanted(port=6783, mtu=1376, range=IPv4Network("10.32.0.0/12"), http_port=6784)

CONNECTION = ConnectionFacts(
    address=f"{PEER}:6783", state="established", peer="02::2", nickname="b", overlay="vxlan", mtu=1376
)
ROUTER = RouterFacts(port=6783, encryption=False, connections=(CONNECTION,), targets=1, tap="weave-tap", vxlan=True)
ALLOCATION = AllocationFacts(range="10.32.0.0/12", size=1 << 20)
NAMES = NameFacts(domain="weave.local.", listening=("10.32.0.1:53",), upstream=("192.0.2.53",))
DAEMON = DaemonFacts(
    version="3.0",
    own_version="3.0",
    pid=7,
    router=ROUTER,
    allocation=ALLOCATION,
    names=NAMES,
    exposed=("10.32.0.1/12",),
)
NO_DAEMON = DaemonFacts(own_version="3.0")
ETH0 = InterfaceFacts(name="eth0", kind="", mtu=1500, up=True, driver="virtio_net", addresses=("192.0.2.1/24",))
BRIDGE = InterfaceFacts(name="weave", kind="bridge", mtu=1376, up=True, addresses=("10.32.0.1/12",))
NETWORK = NetworkFacts(
    bridge="weave",
    interfaces={"eth0": ETH0, "weave": BRIDGE},
    routes=(IPv4Network("192.0.2.0/24"),),
    paths={PEER: PathFacts(interface="eth0", mtu=1500), "": PathFacts(interface="eth0", mtu=1500)},
    forwarding=True,
)
KERNEL = KernelFacts(
    release="6.12",
    devices=dict.fromkeys(("bridge", "veth", "TAP", "VXLAN"), ""),
    features={"tap_segmentation": "TCP and UDP", "udp_gro": "on", "udp_segment": "on"},
)
FIREWALL = FirewallFacts(ruleset=Ruleset({}), peers=(IPv4Address(PEER),))
FILES = FileFacts(state=DirectoryFacts(path=Path("/var/lib/weave")), run=DirectoryFacts(path=Path("/run/weave")))
CNI = CniFacts(
    plugin_dir=Path("/opt/cni/bin"),
    configuration_dir=Path("/etc/cni/net.d"),
    plugins={"weave-net": "", "weave-ipam": ""},
    configurations=("10-weave.conflist", "87-podman.conflist"),
    ours=("10-weave.conflist",),
)
HEALTHY = Facts(
    wanted=WANTED,
    daemon=DAEMON,
    kernel=KERNEL,
    network=NETWORK,
    firewall=FIREWALL,
    sockets=(),
    files=FILES,
    cni=CNI,
    docker=DockerFacts(sockets={"/run/docker/plugins/weave.sock": True}),
    clock=ClockFacts(now=1_800_000_000, synchronised=True),
    packages=PackageFacts(checked=13),
)


def with_connection(**changes: object) -> DaemonFacts:
    """The daemon with its one connection changed."""
    return replace(DAEMON, router=with_router(connections=(replace(CONNECTION, **changes),)))  # type: ignore[arg-type]


def with_router(**changes: object) -> RouterFacts:
    """The router, changed."""
    return replace(ROUTER, **changes)  # type: ignore[arg-type]


def with_interface(name: str, **changes: object) -> NetworkFacts:
    """The network with one interface changed or added."""
    before = NETWORK.interfaces.get(name, InterfaceFacts(name=name, kind="", mtu=1500, up=True))
    return replace(NETWORK, interfaces={**NETWORK.interfaces, name: replace(before, **changes)})  # type: ignore[arg-type]


def unwell(findings: Iterable[Finding]) -> list[Finding]:
    """Those that are not `ok`."""
    return [finding for finding in findings if finding.verdict is not Verdict.OK]


def only(findings: Iterable[Finding], verdict: Verdict) -> Finding:
    """The one that is not well, which must be of this kind and have advice if it is a problem."""
    (finding,) = unwell(findings)
    assert finding.verdict is verdict, finding
    assert finding.advice or verdict is not Verdict.PROBLEM
    return finding
