"""The command line's way to a container: which engine of this host knows it, and what it says about it.

Engines with a socket are asked first, all of them; programs (`podman`, `ctr`) only if none of them knows it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from weave_docker import engine_containerd, engine_podman
from weave_docker.engine_documents import (
    Container,
    is_container_name,
    read_container,
    read_endpoints,
    read_json,
    refusal,
)
from weave_docker.engine_errors import ContainerUnknown, EngineAbsent, EngineError, EngineUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from weave_docker.engine_sockets import Engine

CONNECT_LIMIT_S = 2.0
ANSWER_LIMIT_S = 5.0
MAX_ANSWER_BYTES = 8 << 20

_NOT_FOUND = 404
_OK = 200


class Program(NamedTuple):
    """An engine that is asked by running a program."""

    name: str
    is_here: Callable[[], bool]
    """Whether it seems to be in use on this host."""
    find: Callable[[str], Container | None]
    """Raises `EngineError`."""


_PODMAN = Program(engine_podman.NAME, engine_podman.is_here, engine_podman.find)
_CONTAINERD = Program(engine_containerd.NAME, engine_containerd.is_here, engine_containerd.find)


def find_container(text: str, engines: Sequence[Engine]) -> Container:
    """The container of this name or id; the beginning of an id will do.

    Where several engines know one, the one that runs is meant. Raises `ContainerUnknown`, with the places that were
    looked at and what went wrong there.
    """
    if not is_container_name(text):
        raise ContainerUnknown(f"{text!r} cannot be the name or the id of a container")
    asked: list[Engine] = []
    problems: list[str] = []
    found: list[Container] = []
    for engine in engines:
        try:
            container = ask(engine, text)
        except EngineAbsent:
            continue
        except EngineError as error:
            problems.append(str(error))
            continue
        asked.append(engine)
        if container is not None:
            found.append(container)
    places = [str(engine) for engine in asked]
    if not found:
        programs = [_CONTAINERD] if any(engine.name == "Podman" for engine in asked) else [_PODMAN, _CONTAINERD]
        found = _ask_programs(programs, text, places, problems)
    running = [container for container in found if container.running] or found
    if len({container.id for container in running}) > 1:
        both = " and ".join(f"{container.engine} ({container.id[:12]})" for container in running)
        raise ContainerUnknown(f"{both} both have a container {text}; name it by its id")
    if not running:
        where = f"not known to {', '.join(places)}" if places else "no container engine answers on this host"
        raise ContainerUnknown(f"there is no container {text}: {'; '.join([*problems, where])}")
    return running[0]


def _ask_programs(programs: list[Program], text: str, places: list[str], problems: list[str]) -> list[Container]:
    for program in programs:
        if not program.is_here():
            continue
        try:
            container = program.find(text)
        except EngineError as error:
            problems.append(str(error))
            continue
        places.append(program.name)
        if container is not None:
            return [container]
    return []


def ask(engine: Engine, text: str) -> Container | None:
    """Ask one engine; None if it knows no such container. Raises `EngineError`."""
    status, body = _get(engine, f"/containers/{text}/json")
    if status == _NOT_FOUND:
        return None
    return read_container(_answer(engine, status, body), engine, engine.name)


def containers_of_endpoints(engine: Engine) -> dict[str, str]:
    """Ids of the containers that run, by the ids of their endpoints on networks. Raises `EngineError`."""
    status, body = _get(engine, "/containers/json")
    return read_endpoints(_answer(engine, status, body), engine)


def _get(engine: Engine, path: str) -> tuple[int, bytes]:
    import httpx  # here, since commands that name no container can do without

    engine.check(CONNECT_LIMIT_S)
    end = time.monotonic() + ANSWER_LIMIT_S
    body = bytearray()
    try:
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(engine.socket), verify=False),
            timeout=httpx.Timeout(ANSWER_LIMIT_S, connect=CONNECT_LIMIT_S),
            trust_env=False,
        ) as client:
            with client.stream("GET", f"http://engine{path}", headers={"Accept-Encoding": "identity"}) as response:
                for piece in response.iter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER_BYTES:
                        raise EngineUnavailable(f"{engine} answers with more than {MAX_ANSWER_BYTES} bytes")
                    if time.monotonic() > end:
                        raise _slow(engine)
    except httpx.TimeoutException as error:
        raise _slow(engine) from error
    except httpx.HTTPError as error:
        raise EngineUnavailable(f"{engine} broke off: {error or type(error).__name__}") from error
    return response.status_code, bytes(body)


def _answer(engine: Engine, status: int, body: bytes) -> Any:
    if status != _OK:  # also where the beginning of an id fits several
        raise EngineUnavailable(f"{engine} answers with an error: {refusal(status, body)}")
    return read_json(body, engine)


def _slow(engine: Engine) -> EngineUnavailable:
    return EngineUnavailable(f"{engine} does not answer within {ANSWER_LIMIT_S:.0f} s")
