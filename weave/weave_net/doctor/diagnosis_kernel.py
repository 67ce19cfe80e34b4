"""What the kernel offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weave_net.doctor.findings import note, ok, problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from weave_net.doctor.facts import KernelFacts
    from weave_net.doctor.findings import Finding

MODULES = {"bridge": "bridge", "veth": "veth", "TAP": "tun", "VXLAN": "vxlan"}
"""Kernel modules by kind of device."""
_MORE = {
    "VXLAN": "; or launch with --no-fastdp to do without it",
    "TAP": "; if the daemon runs in a container: --privileged, or --device /dev/net/tun",
}
_PACKAGE = "some distributions have it in a package of extra kernel modules, such as linux-modules-extra"


def diagnose_kernel(kernel: KernelFacts) -> Iterator[Finding]:
    """Devices, packet filter, and what makes it fast."""
    missing = {kind: why for kind, why in kernel.devices.items() if why}
    for kind, why in missing.items():
        module = MODULES.get(kind, kind.lower())
        more = _MORE.get(kind, "")
        yield problem(
            "kernel devices",
            f"this kernel ({kernel.release}) makes no {kind} device: {why}",
            f"'modprobe {module}' ({_PACKAGE}){more}",
        )
    if not missing:
        yield ok("kernel devices", f"{_and(list(kernel.devices))} devices can be made (kernel {kernel.release})")
    if kernel.isolated_ports and "bridge" not in missing:
        yield problem(
            "kernel bridge",
            f"ports of a bridge cannot be isolated: {kernel.isolated_ports}",
            "broadcasts would loop beside the fast datapath: use kernel 4.18 or later, or launch with --no-fastdp",
        )
    yield from _packet_filter(kernel)
    slow = list(_slow(kernel.features))
    if slow:
        yield note(
            "kernel speed", "; ".join(slow), "a later kernel makes sleeve faster: all of it is there from 6.2 on"
        )
    elif kernel.features:
        yield ok("kernel speed", "segmentation offload works for TCP and UDP")


def _packet_filter(kernel: KernelFacts) -> Iterator[Finding]:
    if kernel.nft:
        yield problem(
            "nftables",
            f"rules cannot be set: {kernel.nft}",
            "install the package nftables and 'modprobe nf_tables'; or launch with --no-fastdp, "
            "since without rules strangers could send packets into the network",
        )
    elif kernel.nft_nat:
        yield problem(
            "nftables",
            f"addresses cannot be translated: {kernel.nft_nat}",
            "'modprobe nft_masq' and 'modprobe nft_chain_nat': without them containers reach nothing outside by way of "
            "this host ('weave expose', gateways)",
        )
    else:
        yield ok("nftables", "rules can be set, with address translation")


def _slow(features: Mapping[str, str]) -> Iterator[str]:
    tap = features.get("tap_segmentation", "")
    if tap and tap != "TCP and UDP":
        yield f"large packets of containers: {tap}"
    for name, what in (("udp_segment", "sending many datagrams at once"), ("udp_gro", "receiving many at once")):
        state = features.get(name, "on")
        if state != "on":
            yield f"{what}: {state}"


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
