"""What can be wrong with a request to the host, and the sentence that tells the operator.

One place for the real host and for the recorder in `weave_router.testing`, so that both refuse the same
things in the same words.
"""

from __future__ import annotations

from weave_router.errors import HostError


class NamespaceMissingError(HostError):
    """A path leads to no network namespace (any more)."""


class VethElsewhereError(HostError):
    """The host side of a veth exists already, and its other end is in another namespace."""


def not_a_bridge(name: str, kind: str) -> HostError:
    """The weave bridge's name is in use."""
    what = f"a {kind} device" if kind else "a device"
    return HostError(
        f"{name} exists on this host and is {what}, no bridge; run `weave reset` to remove what an earlier "
        "Weave Net left behind, or choose another name with --weave-bridge"
    )


def no_bridge(name: str) -> HostError:
    """The bridge is not there."""
    return HostError(f"there is no bridge {name} on this host; start the router with `weave launch`")


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
