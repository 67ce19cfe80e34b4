"""The daemon's client of one engine, under trio: look-ups, and the stream of events.

Paths carry no version, so that each engine speaks its newest (Docker 29 takes nothing below 1.44, Podman 4.3 nothing
above 1.41); the fields that we read are the same in all of them.
"""

from __future__ import annotations

import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import trio

from weave_docker.engine_documents import (
    Container,
    Event,
    Network,
    is_container_name,
    read_container,
    read_event,
    read_json,
    read_network,
    read_networks,
    read_running,
    refusal,
)
from weave_docker.engine_errors import EngineAbsent, EngineError, EngineUnavailable
from weave_docker.engine_lines import Lines

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from weave_docker.engine_sockets import Engine

CONNECT_LIMIT_S = 2.0
ANSWER_LIMIT_S = 5.0
"""For a complete answer; an engine under load takes its time for an inspect."""
MAX_ANSWER_BYTES = 32 << 20
"""A list of containers has all their labels in it."""
LARGE_ANSWER_BYTES = 32 << 10
"""Larger ones are decoded in a thread: the event loop must not stand still."""

LOOK_AGAIN_S = 10.0
"""How often an engine is looked for that is not there."""
FIRST_PAUSE_S = 1.0
MAX_PAUSE_S = 30.0
"""Pauses between attempts double from the first to the longest."""
STEADY_S = 60.0
"""A stream that lived for so long begins with the first pause again."""
QUIET_S = 1.0
"""Podman sends not even the head of its answer before the first event: after so long the stream counts as begun."""

_EVENTS = {"filters": json.dumps({"type": ["container", "network"]})}
_OK = 200
_NOT_FOUND = 404

_log = logging.getLogger(__name__)


class EngineClient:
    """Asks one engine. Look-ups raise `EngineAbsent` where there is none, and `EngineUnavailable`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def container(self, text: str) -> Container | None:
        """A container by id, name or beginning of its id; None if the engine knows none."""
        if not is_container_name(text):
            return None
        document = await self._get(f"/containers/{text}/json")
        return None if document is None else read_container(document, self.engine, self.engine.name)

    async def running(self) -> dict[str, bool]:
        """All containers by id, and whether they run."""
        return read_running(await self._get("/containers/json", all="true"), self.engine)

    async def network(self, text: str) -> Network | None:
        """A network by id or name; None if the engine knows none."""
        if not is_container_name(text):
            return None
        document = await self._get(f"/networks/{text}")
        return None if document is None else read_network(document)

    async def networks(self) -> list[Network]:
        """All networks, without their endpoints."""
        return read_networks(await self._get("/networks"), self.engine)

    async def watch(self, send: trio.MemorySendChannel[Event]) -> None:
        """Hand over events until cancelled: first and after each loss of the stream `connected`, then what happens.

        Never raises: an engine that is not there is looked for, one that fails is tried again.
        """
        pause, complained, here = FIRST_PAUSE_S, False, False
        while True:
            began = trio.current_time()
            try:
                await self._follow(send)
                reason = "it ended the stream of events"
            except EngineAbsent:
                if here:
                    _log.info("%s is gone; it is looked for", self.engine)
                    pause = FIRST_PAUSE_S  # it may just be starting anew
                complained, here = False, False
                await trio.sleep(pause)
                pause = min(2 * pause, LOOK_AGAIN_S)
                continue
            except EngineError as error:
                reason = str(error)
            here = True
            if trio.current_time() - began >= STEADY_S:
                pause, complained = FIRST_PAUSE_S, False
            if not complained:
                _log.warning("events of %s are lost, which is tried again: %s", self.engine, reason)
                complained = True
            await trio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    async def _follow(self, send: trio.MemorySendChannel[Event]) -> None:
        """One stream of events to its end."""
        failure: httpx.HTTPError | EngineUnavailable | None = None
        async with trio.open_nursery() as nursery:
            begun = False

            async def begin() -> None:
                nonlocal begun
                if not begun:
                    begun = True
                    await send.send(Event("connected"))

            async def begin_after_silence() -> None:
                await trio.sleep(QUIET_S)
                await begin()

            nursery.start_soon(begin_after_silence)
            try:
                async with (
                    self._client(httpx.Timeout(CONNECT_LIMIT_S, read=None)) as client,
                    client.stream("GET", "/events", params=_EVENTS) as response,
                ):
                    _check_status(self.engine, response.status_code, b"")
                    await begin()
                    await self._hand_over(response, send)
            except (httpx.HTTPError, EngineUnavailable) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if isinstance(failure, httpx.HTTPError):
            raise self._broken(failure) from failure
        if failure is not None:
            raise failure

    async def _hand_over(self, response: httpx.Response, send: trio.MemorySendChannel[Event]) -> None:
        lines = Lines()
        strange = 0
        async with _pieces(response) as pieces:
            async for piece in pieces:
                for line in lines.feed(piece):
                    try:
                        event = read_event(line)
                    except ValueError:
                        strange += 1
                        if strange == 1:
                            _log.warning("%s sends events that cannot be read: %r", self.engine, line[:80])
                        continue
                    if event is not None:
                        await send.send(event)

    async def _get(self, path: str, **parameters: str) -> Any:
        """An answer's document; None if there is no such thing."""
        body = bytearray()
        try:
            with trio.fail_after(ANSWER_LIMIT_S):
                async with self._client(ANSWER_LIMIT_S) as client, client.stream("GET", path, params=parameters) as got:
                    async with _pieces(got) as pieces:
                        async for piece in pieces:
                            body += piece
                            if len(body) > MAX_ANSWER_BYTES:
                                raise EngineUnavailable(
                                    f"{self.engine} answers with more than {MAX_ANSWER_BYTES} bytes"
                                )
                    status = got.status_code
        except (trio.TooSlowError, httpx.TimeoutException) as error:
            raise EngineUnavailable(f"{self.engine} does not answer within {ANSWER_LIMIT_S:.0f} s") from error
        except httpx.HTTPError as error:
            raise self._broken(error) from error
        if status == _NOT_FOUND:
            return None
        _check_status(self.engine, status, bytes(body))
        if len(body) > LARGE_ANSWER_BYTES:
            return await trio.to_thread.run_sync(read_json, bytes(body), self.engine)
        return read_json(bytes(body), self.engine)

    def _broken(self, error: httpx.HTTPError) -> EngineUnavailable:
        """What went wrong with a connection; raises `EngineAbsent` and the like where there was none."""
        if isinstance(error, httpx.ConnectError):
            self.engine.check(0)
        return EngineUnavailable(f"{self.engine} broke off: {error or type(error).__name__}")

    def _client(self, limit: float | httpx.Timeout) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(self.engine.socket), verify=False),
            base_url="http://engine",
            headers={"Accept-Encoding": "identity", "Accept": "application/json"},
            timeout=limit,
            trust_env=False,
        )


@asynccontextmanager
async def _pieces(response: httpx.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes, and a proper end when it is not read to its own.

    httpx's generators stand in one another, and closing the outermost leaves the others to the garbage collector; being
    cancelled inside the innermost ends them all.
    """
    pieces = response.aiter_raw()
    try:
        yield pieces
    finally:
        with trio.CancelScope(shield=True) as scope:
            scope.cancel()
            async for _ in pieces:
                pass


def _check_status(engine: Engine, status: int, body: bytes) -> None:
    if status != _OK:
        raise EngineUnavailable(f"{engine} answers with an error: {refusal(status, body)}")
