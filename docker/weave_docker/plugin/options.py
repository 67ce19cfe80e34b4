"""The options of `docker network create` that this driver knows.

Options of other drivers are ignored, since tools set them on every network; a misspelt one of ours is refused.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from weave_docker.plugin.errors import BadRequest, Refused

if TYPE_CHECKING:
    from weave_docker.plugin.messages import Message

MULTICAST = "works.weave.multicast"
GATEWAY = "weave.gateway"
DNS = "weave.dns"
MTU = "com.docker.network.driver.mtu"
OUR_PREFIXES = ("weave.", "works.weave.")
VALID = f"{MULTICAST}[=true|false], {GATEWAY}=bridge|none, {DNS}=true|false and {MTU}=BYTES"

GENERIC = "com.docker.network.generic"
"""Under this key the engine puts what the user gave with --opt."""
INTERNAL = "com.docker.network.internal"
ENABLE_IPV6 = "com.docker.network.enable_ipv6"

MIN_MTU, MAX_MTU = 576, 65535
"""Those of the daemon."""

_TRUTH = {"true": True, "1": True, "t": True, "": True, "false": False, "0": False, "f": False}


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """What a Docker network is to be like; the defaults are also those of a network of which nothing is known."""

    multicast: bool = False
    """Whether containers get a route for multicast to their interface."""
    mtu: int | None = None
    """Bytes; None takes the weave network's."""
    internal: bool = False
    """No way out: neither through the weave bridge nor through docker_gwbridge."""
    gateway_bridge: bool = False
    """Whether the weave bridge of the host is the default gateway."""
    dns: bool = True
    """Whether the containers' names are registered, by those who watch the engine's events."""

    def to_json(self) -> dict[str, Any]:
        """What is stored."""
        return asdict(self)


def read_options(options: Message) -> NetworkOptions:
    """The options of CreateNetwork. Raises `BadRequest`, and `Refused` with a text for the user."""
    generic = options.object(GENERIC).values
    for name in generic:
        if name.startswith(OUR_PREFIXES) and name not in (MULTICAST, GATEWAY, DNS):
            raise Refused(f"there is no option {name[:80]}; there are {VALID}")
    network = NetworkOptions(
        multicast=_truth(generic, MULTICAST, default=False),
        mtu=_mtu(generic),
        internal=options.flag(INTERNAL),
        gateway_bridge=_gateway(generic),
        dns=_truth(generic, DNS, default=True),
    )
    if network.internal and network.gateway_bridge:
        raise Refused(f"--internal and {GATEWAY}=bridge contradict each other: leave one of them out")
    return network


def _text(generic: dict[str, Any], name: str) -> str:
    value = generic[name]
    if not isinstance(value, str):
        raise BadRequest(f"the option {name} is no text")
    return value


def _truth(generic: dict[str, Any], name: str, *, default: bool) -> bool:
    if name not in generic:
        return default
    text = _text(generic, name)
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise Refused(f"{name}={text[:80]!r} is neither true nor false") from None


def _gateway(generic: dict[str, Any]) -> bool:
    text = _text(generic, GATEWAY) if GATEWAY in generic else "none"
    if text not in ("bridge", "none"):
        raise Refused(f"{GATEWAY}={text[:80]!r} is neither 'bridge' nor 'none'")
    return text == "bridge"


def _mtu(generic: dict[str, Any]) -> int | None:
    if MTU not in generic:
        return None
    text = _text(generic, MTU)
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and MIN_MTU <= int(text) <= MAX_MTU):
        raise Refused(f"{MTU}={text[:80]!r} is no number of bytes from {MIN_MTU} to {MAX_MTU}")
    return int(text)
