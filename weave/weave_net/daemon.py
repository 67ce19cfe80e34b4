"""The daemon: store, identity, host, router, attachments and HTTP API, wired together under trio.

Two nurseries, one inside the other, give the order of stopping: the front (signals, API) ends first, so that nobody
asks a router that is going down; then the router; then host and store are closed. An error in any part ends all.

    store ── host ── router nursery ── front nursery ── ready … stop

The process around it is `daemon_process`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import httpx
import trio

from weave_cni.server import CniServer
from weave_dns.weavedns import WeaveDns
from weave_docker import names as docker_names
from weave_docker import plugin as docker_plugin
from weave_docker.engine_sockets import DOCKER
from weave_docker.plugin.errors import PluginError
from weave_ipam.service import Ipam
from weave_net.api import Api
from weave_net.api_access import Access
from weave_net.attachments import Attachments
from weave_net.container_addresses import ContainerAddresses
from weave_net.container_names import ContainerNames
from weave_net.devices import DeviceNames, remember_devices
from weave_net.engines import Engines
from weave_net.errors import DaemonError, SettingsError, leaves
from weave_net.exposures import Exposures
from weave_net.host_facts import is_behind_container_bridge, read_uptime
from weave_net.http_server import GRACE_S, bind_tcp_socket, bind_unix_socket, serve_http
from weave_net.identity import establish_name
from weave_net.logging_setup import reopen_log_file
from weave_net.sqlite_store import open_store
from weave_net.targets import StoredTargets
from weave_net.version import program_version
from weave_net.wiring import Router, Wiring, production_wiring
from weave_router.wire.peer_name import format_peer_name

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from weave_docker.engine_sockets import Engine
    from weave_net.host_facts import HostFacts
    from weave_net.settings import DaemonSettings, HttpAddress
    from weave_router.doors import Host, Store

SWITCH_INTERVAL_S = 0.0001
"""Longest time for which a thread keeps the interpreter: Python's 5 ms would hold up packets while a thread works."""
DOCKER_AGAIN_S = 10.0
"""After Docker's network driver could not be offered."""

_log = logging.getLogger(__name__)


async def run_daemon(
    settings: DaemonSettings,
    *,
    ready: Callable[[], None],
    stopping: Callable[[], None] = lambda: None,
    wiring: Wiring | None = None,
) -> None:
    """Run until SIGTERM, SIGINT or `POST /stop`. The caller holds the lock of the run directory.

    `ready` is called once everything serves, `stopping` when an orderly stop begins. Raises `WeaveError` and
    `RouterError` for what the operator can repair, in exception groups where nurseries made these.
    """
    wiring = wiring or production_wiring()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.ExitStack() as sockets:
        # Bound before anything is changed on the host: a busy address is the most frequent reason not to start.
        listeners = _bind(settings, sockets)
        cni_socket = _bind_unix(settings.directories.cni_socket, sockets)
        async with open_store(settings.directories.database) as store:
            facts = wiring.read_facts(settings.bridge)
            name = await establish_name(store, settings.name, facts, settings.directories.state)
            targets = StoredTargets(store)
            peers = await targets.begin(settings.peers, resume=settings.resume)
            await remember_devices(store, DeviceNames(settings.bridge, settings.tap, settings.vxlan))
            async with wiring.open_host() as host:
                router = wiring.make_router(
                    settings.router_settings(name), host=host, targets=peers, on_targets_changed=targets.changed
                )
                ipam = await _open_ipam(settings, router, store, facts)
                weave_dns = await _open_dns(settings, router, host, store)
                names = ContainerNames(weave_dns.names if weave_dns is not None else None)
                exposures = Exposures(
                    host,
                    store,
                    bridge=settings.bridge,
                    mac=format_peer_name(name),
                    addresses=ContainerAddresses(ipam, container=False),
                    names=names if weave_dns is not None else None,
                )
                attachments = Attachments(
                    host,
                    store,
                    bridge=settings.bridge,
                    mtu=settings.mtu,
                    namespace_identity=wiring.namespace_identity,
                    addresses=ContainerAddresses(ipam),
                    names=names,
                    gateway=exposures.gateway,
                    boot=wiring.boot_id(),
                )
                _log.info("weave %s starts as %s(%s)", program_version(), format_peer_name(name), settings.nickname)
                life = _Life(
                    settings, router, ipam, weave_dns, attachments, exposures, listeners, cni_socket, ready, stopping
                )
                await life.run()
    _log.info("stopped")


class _Life:
    """From the start of the router to its end."""

    def __init__(
        self,
        settings: DaemonSettings,
        router: Router,
        ipam: Ipam | None,
        weave_dns: WeaveDns | None,
        attachments: Attachments,
        exposures: Exposures,
        listeners: list[tuple[socket.socket, Access]],
        cni_socket: socket.socket,
        ready: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._router = router
        self._ipam = ipam
        self._dns = weave_dns
        self._attachments = attachments
        self._exposures = exposures
        self._listeners = listeners
        self._cni_socket = cni_socket
        self._ready = ready
        self._announce_stop = stopping
        self._stop = trio.Event()
        self._serving = 0
        self._served = trio.Event()

    async def run(self) -> None:
        """Start everything, wait for the end, stop everything in order."""
        async with trio.open_nursery() as router_nursery:
            async with trio.open_nursery() as front:
                # Signals first, so that a start that takes long can be broken off too.
                await front.start(self._watch_signals)
                front.start_soon(self._end, front.cancel_scope)
                if self._ipam is not None:
                    await router_nursery.start(self._ipam.run)
                if self._dns is not None:
                    await router_nursery.start(self._dns.run)
                await router_nursery.start(self._run_router)
                await self._attachments.adopt()
                front.start_soon(self._attachments.run)
                await self._exposures.adopt()
                front.start_soon(self._exposures.run)
                await self._open_api(front)
                self._ready()
            await self._router.farewell()
            router_nursery.cancel_scope.cancel()

    def _request_stop(self, reason: str = "asked to") -> None:
        if not self._stop.is_set():
            _log.info("stopping: %s", reason)
            self._stop.set()
            self._announce_stop()

    async def _run_router(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self._router.run(task_status=task_status)
        raise DaemonError("the router ended although nobody asked it to")

    async def _open_api(self, front: trio.Nursery) -> None:
        engines = Engines(self._settings.engines, self._attachments)
        api = Api(
            self._router,
            self._ipam,
            self._dns,
            self._attachments,
            self._exposures,
            version=program_version(),
            stop=self._request_stop,
            stopping=self._stop.is_set,
            is_dead=engines.is_dead,
        )
        front.start_soon(engines.run)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(api.application(Access.LOCAL, None), raise_app_exceptions=False),
            base_url="http://localhost",
            timeout=None,  # noqa: S113 - each request ends by itself
        )
        if self._settings.plugin_socket is not None:
            engines_of_docker = tuple(engine for engine in self._settings.engines if engine.name == DOCKER.name)
            front.start_soon(self._serve_docker, self._settings.plugin_socket, engines_of_docker, client)
            for engine in engines_of_docker:
                driver = self._settings.plugin_socket.stem
                front.start_soon(partial(docker_names.run, engine, client, driver=driver))
        cni = CniServer(client, self._cni_socket, self._settings.directories.run)
        await front.start(cni.run)
        for sock, access in self._listeners:
            address = None if access is Access.LOCAL else self._settings.http_address
            self._serving += 1
            await front.start(self._serve, api, sock, access, address)

    async def _serve_docker(self, socket_path: Path, engines: tuple[Engine, ...], client: httpx.AsyncClient) -> None:
        """Docker's network driver; whatever happens to it, the network goes on without it."""
        state = self._settings.directories.docker_state
        settings = docker_plugin.PluginSettings(socket=socket_path, state_file=state, engines=engines)
        said = ""
        while True:
            try:
                await docker_plugin.serve(settings, client, partial(serve_http, stop=trio.sleep_forever))
            except* PluginError as errors:
                text = "; ".join(map(str, leaves(errors)))
                if text != said:
                    _log.error("Docker's network driver is off, and tried again now and then: %s", text)
                said = text
            await trio.sleep(DOCKER_AGAIN_S)

    async def _serve(
        self,
        api: Api,
        sock: socket.socket,
        access: Access,
        address: HttpAddress | None,
        *,
        task_status: trio.TaskStatus[None],
    ) -> None:
        await serve_http(api.application(access, address), sock, stop=self._stop.wait, task_status=task_status)
        self._serving -= 1
        if not self._serving:
            self._served.set()

    async def _end(self, front: trio.CancelScope) -> None:
        """After a request to stop: let the API finish what it does, then end the front, also one that is starting."""
        await self._stop.wait()
        if self._serving:
            with trio.move_on_after(GRACE_S * 2):
                await self._served.wait()
        front.cancel()

    async def _watch_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP and self._settings.log_file is not None:
                    reopen_log_file(self._settings.log_file)
                else:  # without a log file of ours, SIGHUP tells that the terminal is gone
                    self._request_stop(signal.Signals(number).name)


def _bind(settings: DaemonSettings, sockets: contextlib.ExitStack) -> list[tuple[socket.socket, Access]]:
    listeners = [(_bind_unix(settings.directories.socket, sockets), Access.LOCAL)]
    if settings.http_address is not None:
        tcp = sockets.enter_context(bind_tcp_socket(settings.http_address))
        listeners.append((tcp, Access.CONTROL if settings.http_writable else Access.READ))
    return listeners


def _bind_unix(path: Path, sockets: contextlib.ExitStack) -> socket.socket:
    sock = sockets.enter_context(bind_unix_socket(path))
    sockets.callback(path.unlink, missing_ok=True)
    return sock


async def _open_ipam(settings: DaemonSettings, router: Router, store: Store, facts: HostFacts) -> Ipam | None:
    """Address allocation, joined to the router's gossip. Raises `SettingsError`."""
    allocation = settings.ipam_settings()
    if allocation is None:
        return None
    clash = next((route for route in facts.routes if route.overlaps(allocation.network)), None)
    if clash is not None:
        text = f"the range {allocation.network} overlaps the route {clash} of this host"
        if not settings.ipalloc_range_given:
            raise SettingsError(f"{text}; give another one with --ipalloc-range, the same on all hosts")
        _log.warning("%s: containers cannot reach what is behind that route, or the other way round", text)
    ipam = Ipam(allocation, router.mesh, store, random=random.SystemRandom(), clock=time.time, uptime=read_uptime)
    await ipam.begin()
    router.on_routes_changed(ipam.routes_changed)
    return ipam


async def _open_dns(settings: DaemonSettings, router: Router, host: Host, store: Store) -> WeaveDns | None:
    """Names, joined to the router's gossip. Raises `SettingsError`."""
    naming, allocation = settings.dns_settings(), settings.ipam_settings()
    if naming is None:
        return None
    weave_dns = WeaveDns(
        naming,
        router.mesh,
        store,
        watch=lambda: host.watch_addresses(settings.bridge),
        networks=() if allocation is None else (allocation.network,),
        nearby=is_behind_container_bridge,
        random=random.SystemRandom(),
        clock=time.time,
    )
    await weave_dns.names.begin()
    router.on_routes_changed(weave_dns.names.routes_changed)
    return weave_dns
