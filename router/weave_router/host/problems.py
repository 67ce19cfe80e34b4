"""What can be wrong with a request to the host, and the sentence that tells the operator.

One place for the real host and for the recorder in `weave_router.testing`, so that both refuse the same
things in the same words.
"""

from __future__ import annotations

from weave_router.errors import HostError

_WITHOUT_FASTDP = "or start the router with --no-fastdp to do without the fast datapath"


class NamespaceMissingError(HostError):
    """A path leads to no network namespace (any more)."""


class VethElsewhereError(HostError):
    """The host side of a veth exists already, and its other end is in another namespace."""


class InterfaceExistsError(HostError):
    """An interface that was to be new is there already."""


class NoNftError(HostError):
    """The program nft is missing."""


def not_a_bridge(name: str, kind: str) -> HostError:
    """The weave bridge's name is in use."""
    what = f"a {kind} device" if kind else "a device"
    return HostError(
        f"{name} exists on this host and is {what}, no bridge; run `weave reset` to remove what an earlier "
        "Weave Net left behind, or choose another name with --weave-bridge"
    )


def no_bridge(name: str) -> HostError:
    """The bridge is not there."""
    return HostError(f"there is no bridge {name} on this host; restart the router with `weave stop` and `weave launch`")


def no_device(name: str) -> HostError:
    """A device that was to become a port is not there."""
    return HostError(f"there is no network device {name} on this host; it may just have been removed")


def port_of_other_bridge(device: str, bridge: str) -> HostError:
    """The device belongs to somebody else's bridge."""
    return HostError(
        f"{device} is a port of another bridge and cannot join {bridge}; "
        f"take it off that bridge with `ip link set {device} nomaster` and try again"
    )


def no_namespace(path: str) -> NamespaceMissingError:
    """The container has ended, or the path is mistyped."""
    return NamespaceMissingError(f"there is no network namespace {path}; the container may have stopped")


def not_a_namespace(path: str) -> NamespaceMissingError:
    """The path leads to an ordinary file or to a namespace of another kind."""
    return NamespaceMissingError(
        f"{path} is no network namespace; give a path such as /run/netns/NAME or /proc/PID/ns/net"
    )


def namespace_vanished(path: str) -> NamespaceMissingError:
    """The container died half way."""
    return NamespaceMissingError(f"the network namespace {path} disappeared while it was being attached")


def own_namespace(path: str) -> HostError:
    """Attaching the host to itself would bridge its own traffic."""
    return HostError(
        f"{path} is the network namespace of the host (or of the router itself) and cannot be attached; "
        "containers need a namespace of their own, so start them without host networking"
    )


def interface_taken(interface: str, namespace: str) -> HostError:
    """The container has an interface of that name, and it is not ours."""
    return HostError(
        f"{namespace} already has an interface {interface} that does not lead to this weave network; "
        "remove it or choose another interface name"
    )


def interface_exists(interface: str, namespace: str) -> InterfaceExistsError:
    """The container has an interface of that name, whoever's, and a new one was asked for."""
    return InterfaceExistsError(f"{namespace} already has an interface {interface}; it cannot be added again")


def interface_renamed(interface: str, namespace: str) -> HostError:
    """Our veth ends in the right namespace under a wrong name."""
    return HostError(
        f"{namespace} is attached already, but its interface is no longer called {interface}; "
        "rename it back, or run `weave detach` and attach it again"
    )


def veth_elsewhere(host_interface: str, namespace: str) -> VethElsewhereError:
    """Two namespaces claim the same attachment."""
    return VethElsewhereError(
        f"{host_interface}, the interface for {namespace}, still leads into another namespace of the same "
        "id; run `weave detach` for that one first, or give this one an id of its own with --id"
    )


def no_vxlan_support() -> HostError:
    """The kernel was built without VXLAN, or its module is not there."""
    return HostError(
        "this kernel has no VXLAN: load its module with `modprobe vxlan` (some distributions have it in a package "
        f"of extra kernel modules), {_WITHOUT_FASTDP}"
    )


def not_a_vxlan(name: str, kind: str) -> HostError:
    """The VXLAN device's name is in use."""
    what = f"a {kind} device" if kind else "a device"
    return HostError(
        f"{name} exists on this host and is {what}, no VXLAN; run `weave reset` to remove what an earlier Weave Net "
        f"left behind, remove it with `ip link del {name}`, {_WITHOUT_FASTDP}"
    )


def vxlan_in_use(port: int, vni: int) -> HostError:
    """Another VXLAN device has our VNI, or another program the UDP port."""
    return HostError(
        f"UDP port {port}, or VXLAN network {vni} at this port, is in use on this host; find out by whom with "
        f"`ip -d link show type vxlan` and `ss -lnup sport = :{port}` (by an earlier Weave Net: run `weave reset`), "
        "or choose another port with --port"
    )


def not_a_port(device: str, bridge: str) -> HostError:
    """The device has left the bridge."""
    return HostError(
        f"{device} is no port of the bridge {bridge} any more; restart the router with `weave stop` and `weave launch`"
    )


def not_a_station(mac: bytes) -> HostError:
    """What was to become a forwarding entry is no address of a single station."""
    return HostError(f"'{mac.hex(':')}' is no MAC address of a single station: there is no forwarding entry for it")


def no_nft() -> NoNftError:
    """The firewall cannot be set."""
    return NoNftError(
        "the fast datapath needs the program nft, which keeps strangers out, and it is not installed: install the "
        f"package nftables, {_WITHOUT_FASTDP}"
    )


def nft_refused(text: str) -> HostError:
    """The program nft failed."""
    return HostError(
        f"cannot set the firewall rules of the fast datapath, nft says: {text}; the router must be root, and the "
        f"kernel needs the module nf_tables (`modprobe nf_tables`). Put that right, {_WITHOUT_FASTDP}"
    )


def no_nft_to_masquerade() -> NoNftError:
    """Addresses of exposed subnets cannot be translated."""
    return NoNftError(
        "containers and the outside do not reach each other through this host, since the program nft, which sets the "
        "address translation of exposed subnets, is not installed: install the package nftables"
    )


def masquerade_refused(text: str) -> HostError:
    """The program nft failed over the address translation."""
    return HostError(
        "containers and the outside may not reach each other through this host: cannot set the address translation of "
        f"exposed subnets, nft says: {text}; the router must be root, and the kernel needs the modules nf_tables, "
        "nft_chain_nat and nft_masq (`modprobe nft_masq`, Linux 5.2)"
    )


def no_iptables(program: str) -> HostError:
    """There is a FORWARD chain, and nobody to add to it."""
    return HostError(
        f"the chain FORWARD of this host's firewall may drop packets of containers, and {program}, which would add our "
        f"rules to it, is not installed: install the package iptables, or let pass what comes from and goes to the "
        "bridge by hand"
    )


def forward_refused(program: str, text: str) -> HostError:
    """A program of iptables failed over our rules."""
    return HostError(
        "the chain FORWARD of this host's firewall may drop packets of containers: cannot keep our rules in it, "
        f"{program} says: {text}; see `{program} -S FORWARD`, and let pass what comes from and goes to the bridge"
    )


def program_hangs(program: str, seconds: float) -> HostError:
    """A program was ended after its time limit."""
    return HostError(
        f"{program} did not finish within {seconds:g} seconds; another program may be busy with the firewall, "
        "see `ps -C nft,iptables,firewalld`"
    )
