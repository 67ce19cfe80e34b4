"""Where container engines of this host listen: Unix sockets with the HTTP API of Docker, which Podman offers, too."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from weave_docker.engine_errors import EngineAbsent, EngineAddressError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

_SCHEME = "unix://"


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine by its socket; whether it is there is another question."""

    socket: Path

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "Podman" if "podman" in self.socket.name else "Docker"

    def __str__(self) -> str:
        return f"{self.name} ({self.socket})"

    def check(self, limit_s: float) -> None:
        """Connect once without a request: the kernel's error tells more than what an HTTP client makes of it.

        `limit_s` 0: wait for nothing, as an event loop must not. Raises `EngineAbsent` and `EngineUnavailable`.
        """
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(limit_s)
            try:
                probe.connect(str(self.socket))
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
                raise EngineAbsent(f"nobody listens on {self.socket}") from error
            except PermissionError as error:
                raise EngineUnavailable(f"permission denied on {self.socket}; try it as root") from error
            except (TimeoutError, BlockingIOError) as error:
                raise EngineUnavailable(f"{self} takes no connection; is it overloaded or stopped?") from error
            except OSError as error:
                raise EngineUnavailable(f"{self.socket} cannot be opened: {error.strerror or error}") from error


DOCKER = Engine(Path("/var/run/docker.sock"))
PODMAN = Engine(Path("/run/podman/podman.sock"))


def parse_engines(text: str) -> tuple[Engine, ...]:
    """Read `--docker-api`: `unix:///path` or `/path`, several separated by commas; an empty text means no engine.

    Raises `EngineAddressError`.
    """
    return tuple(_parse(part) for part in text.split(",")) if text else ()


def default_engines(docker_host: str | None) -> tuple[Engine, ...]:
    """Docker and Podman where they usually are; `docker_host` ($DOCKER_HOST) may lead to another Docker.

    One that leads to another machine is ignored: the containers there are none of ours. Raises `EngineAddressError`.
    """
    docker = _parse(docker_host) if (docker_host or "").startswith(_SCHEME) else DOCKER
    return (docker, PODMAN)


def joined(engines: Iterable[Engine]) -> str:
    """The engines as `parse_engines` reads them."""
    return ",".join(f"{_SCHEME}{engine.socket}" for engine in engines)


def _parse(text: str | None) -> Engine:
    plain = (text or "").strip()
    path = plain.removeprefix(_SCHEME)
    if not path.startswith("/") or "\0" in path:
        raise EngineAddressError(
            f"{plain!r} is no address of an engine on this host; it is a Unix socket such as {_SCHEME}{DOCKER.socket}"
        )
    return Engine(Path(path))
