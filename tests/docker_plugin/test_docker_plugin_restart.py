"""Restarts, crashes between any two steps, and lost or damaged state: the engine repeats nothing of what was said."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio

from docker_plugin.engine import EngineError, RunningPlugin, new_id, running_plugin, with_plugin
from docker_plugin.fake_weave_daemon import FakeWeaveDaemon

if TYPE_CHECKING:
    from pathlib import Path

SUBNET = "10.40.0.0/16"


@with_plugin
async def test_restart_with_living_containers(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1", options={"works.weave.multicast": "true"})
    container = await plugin.run(network)
    before = plugin.state
    await plugin.restart()
    assert plugin.state == before
    assert (await plugin.join(network, container.endpoint)) == container.joined  # options included
    assert (await plugin.run(network)).address == "10.40.0.3/16"
    await plugin.rm(container)
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16", "10.40.0.3/16"]


@with_plugin
async def test_endpoints_are_forgotten_after_a_reboot(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    container = await plugin.run(network)
    plugin.daemon.attachments.clear()
    await plugin.restart()
    assert plugin.state["endpoints"] == {}
    await plugin.rm(container)  # the engine tidies up as well
    assert plugin.daemon.held == {}


@with_plugin
async def test_addresses_that_the_allocator_lost_are_claimed_again(plugin: RunningPlugin) -> None:
    container = await plugin.run(await plugin.network_create(subnet=SUBNET))
    plugin.daemon.held.clear()
    await plugin.restart()
    assert plugin.daemon.docker_addresses() == [container.address]


@with_plugin
async def test_addresses_of_others_are_left(plugin: RunningPlugin) -> None:
    plugin.daemon.held = {"docker:weave-10.40.0.0-16:endpoint-x": ["10.40.0.9/16"], "cni:a:b:c": ["10.40.0.8/16"]}
    await plugin.restart()
    assert plugin.daemon.held == {"cni:a:b:c": ["10.40.0.8/16"]}


def test_crash_at_any_step_of_a_container_heals(tmp_path: Path) -> None:
    """The plugin dies before or after each request to the daemon; the engine then does what it does after an error."""

    async def scenario(path: Path, victim: int, *, answer: bool) -> bool:
        daemon = FakeWeaveDaemon()
        done = False
        async with running_plugin(path, daemon) as plugin:
            network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1")
            seen = len(daemon.requests)

            async def die(line: str) -> None:
                nonlocal done
                if len(daemon.requests) - seen == victim:
                    done = True
                    if answer:
                        daemon.hanging = (line,)
                        nursery.start_soon(kill_soon)
                    else:
                        daemon.before = None
                        plugin.scope.cancel()
                        await trio.sleep_forever()

            async def kill_soon() -> None:
                await trio.testing.wait_all_tasks_blocked(0.05)
                await plugin.kill()

            async with trio.open_nursery() as nursery:
                daemon.before = die
                try:
                    container = await plugin.run(network)
                    await plugin.rm(container)
                except (httpx.HTTPError, EngineError):
                    pass
            daemon.before, daemon.hanging = None, ()
            if done:
                await plugin.restart()
            for endpoint in list(daemon.attachments):  # the engine's roll-back
                await plugin.call("NetworkDriver.DeleteEndpoint", {"NetworkID": network.id, "EndpointID": endpoint})
            fresh = await plugin.run(network)
            await plugin.rm(fresh)
            await plugin.network_rm(network)
            assert daemon.held == {}, victim
            assert daemon.attachments == {}, victim
            assert plugin.state == {"version": 1, "networks": {}, "endpoints": {}, "pools": {}, "addresses": {}}
        return done

    for answer in (False, True):
        victim = 1
        while trio.run(_with_options(scenario, tmp_path / f"{answer}{victim}", victim, answer=answer)):
            victim += 1
        assert victim > 4  # allocate, attach, detach, release


def test_crash_while_an_address_is_released_does_not_keep_it(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = FakeWeaveDaemon()
        async with running_plugin(tmp_path, daemon) as plugin:
            network = await plugin.network_create(subnet=SUBNET)
            container = await plugin.run(network)

            async def die(line: str) -> None:
                if line.startswith("DELETE /ip"):
                    plugin.scope.cancel()
                    await trio.sleep_forever()

            daemon.before = die
            with pytest.raises(httpx.HTTPError):
                await plugin.rm(container)
            daemon.before = None
            await plugin.restart()
            assert daemon.held == {}
            assert plugin.state["addresses"] == {}

    trio.run(main)


def _with_options(call: Any, *arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        return await call(*arguments, **options)

    return main


def test_endpoint_that_is_never_joined_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running_plugin(tmp_path) as plugin:
            network = await plugin.network_create(subnet=SUBNET)
            late, lost = new_id(), new_id()  # in this order they are looked at
            for endpoint in (lost, late):
                await plugin.create_endpoint(network, endpoint, await plugin.request_address(network))
            joined = await plugin.run(network)
            await plugin.kill()
            monkeypatch.setattr("weave_docker.plugin.service.JOIN_WAIT_S", 0.5)
            await plugin.restart()
            await plugin.join(network, late)  # the engine had gone on trying
            with trio.fail_after(20):
                while lost in plugin.state["endpoints"]:  # noqa: ASYNC110 - a file tells no one
                    await trio.sleep(0.02)
            assert set(plugin.daemon.attachments) == {late, joined.endpoint}
            assert set(plugin.state["endpoints"]) == {late, joined.endpoint}

    trio.run(main)


# State that is lost


@with_plugin
async def test_lost_state_costs_options_but_no_address(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET, gateway="10.40.0.1", options={"works.weave.multicast": "true"})
    container = await plugin.run(network)
    await plugin.kill()
    plugin.state_file.unlink()
    await plugin.restart()
    assert plugin.daemon.docker_addresses() == ["10.40.0.1/16", "10.40.0.2/16"]  # both are in use
    other = await plugin.run(network)
    assert other.address == "10.40.0.3/16"
    assert other.joined["StaticRoutes"] == []
    assert plugin.daemon.attachments[other.endpoint]["claim"] is False
    with pytest.raises(EngineError, match="in use on this host"):
        await plugin.run(network, ip="10.40.0.1")
    for one in (container, other):
        await plugin.rm(one)
    await plugin.network_rm(network)
    assert plugin.daemon.held == {}
    assert plugin.daemon.attachments == {}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"version": 2}',
        b'{"version": 1, "networks": {"n": {"colour": 1}}, "endpoints": {}, "pools": {}, "addresses": {}}',
        b"[" * 100_000,
    ],
)
def test_damaged_state_is_put_aside(tmp_path: Path, text: bytes) -> None:
    @with_plugin
    async def check(plugin: RunningPlugin) -> None:
        container = await plugin.run(await plugin.network_create(subnet=SUBNET))
        await plugin.kill()
        plugin.state_file.write_bytes(text)
        await plugin.restart()
        assert plugin.daemon.docker_addresses() == [container.address]
        assert plugin.state_file.with_name("docker.json.damaged").read_bytes() == text
        await plugin.rm(container)
        assert plugin.daemon.held == {}

    check(tmp_path)


def test_recovery_that_fails_is_not_taken_for_done(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = FakeWeaveDaemon(held={"docker:weave-10.40.0.0-16:endpoint-x": ["10.40.0.9/16"]})
        daemon.errors["GET /ip"] = (503, "not yet")
        with pytest.raises(ExceptionGroup) as caught:
            async with running_plugin(tmp_path, daemon):
                pass
        assert caught.group_contains(Exception, match="not yet")
        daemon.errors.clear()
        async with running_plugin(tmp_path, daemon) as plugin:
            assert plugin.daemon.docker_addresses() == ["10.40.0.9/16"]
            assert plugin.state["addresses"].keys() == {"10.40.0.9"}

    trio.run(main)


@with_plugin
async def test_state_that_cannot_be_written_refuses_and_gives_the_address_back(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    plugin.state_file.with_name("docker.json.new").mkdir()
    with pytest.raises(EngineError, match="cannot be written"):
        await plugin.run(network)
    assert plugin.daemon.held == {}
    plugin.state_file.with_name("docker.json.new").rmdir()
    assert (await plugin.run(network)).address == "10.40.0.1/16"


@with_plugin
async def test_every_answer_is_stored_before_it_is_given(plugin: RunningPlugin) -> None:
    network = await plugin.network_create(subnet=SUBNET)
    address = await plugin.request_address(network)
    assert address.partition("/")[0] in json.loads(plugin.state_file.read_text())["addresses"]
    assert network.id in plugin.state["networks"]
    assert plugin.state["pools"] == {"weave-10.40.0.0-16": 1}
