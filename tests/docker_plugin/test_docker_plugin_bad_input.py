"""Requests that no engine sends: an answer in any case, and a log that stays readable."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from docker_plugin.engine import RunningPlugin, new_id, running_plugin, with_plugin
from weave_docker.plugin.messages import MAX_BODY_BYTES

if TYPE_CHECKING:
    from pathlib import Path

WITH_FIELDS = [
    "NetworkDriver.CreateNetwork",
    "NetworkDriver.DeleteNetwork",
    "NetworkDriver.CreateEndpoint",
    "NetworkDriver.EndpointOperInfo",
    "NetworkDriver.DeleteEndpoint",
    "NetworkDriver.Join",
    "NetworkDriver.Leave",
    "NetworkDriver.ProgramExternalConnectivity",
    "IpamDriver.RequestAddress",
    "IpamDriver.ReleaseAddress",
]


@with_plugin
async def test_bodies_that_are_no_request(plugin: RunningPlugin) -> None:
    for method in [*WITH_FIELDS, "IpamDriver.RequestPool"]:
        for body in (b"{", b"[]", b'"text"', b"\xff", b"[" * 100_000):
            answer = await plugin.post(method, body)
            assert answer.status_code == 400
            assert answer.json()["Err"]


@pytest.mark.parametrize("body", [None, b"", b"null", b"{}"])
def test_missing_fields_are_named(tmp_path: Path, body: bytes | None) -> None:
    @with_plugin
    async def check(plugin: RunningPlugin) -> None:
        for method in WITH_FIELDS:
            answer = await plugin.post(method, body)
            assert answer.status_code == 400, method
            assert "missing" in answer.json()["Err"] or "is no " in answer.json()["Err"]

    check(tmp_path)


@with_plugin
async def test_fields_of_wrong_kinds(plugin: RunningPlugin) -> None:
    ids = {"NetworkID": "n1", "EndpointID": "e1"}
    for method, values in (
        ("NetworkDriver.Join", {**ids, "EndpointID": "../../stop"}),
        ("NetworkDriver.Join", {**ids, "EndpointID": "a b"}),
        ("NetworkDriver.Join", {**ids, "EndpointID": "x" * 300}),
        ("NetworkDriver.Leave", {**ids, "EndpointID": 7}),
        ("NetworkDriver.CreateEndpoint", {**ids, "Interface": []}),
        ("NetworkDriver.CreateEndpoint", {**ids, "Interface": {"Address": "10.40.0.5/99"}}),
        ("NetworkDriver.CreateEndpoint", {**ids, "Interface": {"MacAddress": ["02"]}}),
        ("NetworkDriver.CreateNetwork", {**ids, "Options": "none"}),
        ("NetworkDriver.CreateNetwork", {**ids, "Options": {"com.docker.network.generic": 5}}),
        ("NetworkDriver.CreateNetwork", {**ids, "Options": {"com.docker.network.internal": "yes"}}),
        ("NetworkDriver.CreateNetwork", {**ids, "IPv4Data": [5]}),
        ("IpamDriver.RequestPool", {"Pool": "10.40.0.0/16", "V6": "no"}),
        ("IpamDriver.RequestAddress", {"PoolID": "weave-10.40.0.0-16", "Address": "ten"}),
        ("IpamDriver.RequestAddress", {"PoolID": "weave-10.40.0.0-16", "Options": {"RequestAddressType": 1}}),
        ("IpamDriver.RequestAddress", {"PoolID": "weave-10.40.0.0"}),
        ("IpamDriver.RequestAddress", {"PoolID": "weave-10.40.0.0-16-10.50.0.0-24"}),
        ("IpamDriver.RequestAddress", {"PoolID": "bridge-10.40.0.0-16"}),
        ("IpamDriver.RequestAddress", {"PoolID": "weave-fd00::-64", "Options": {}}),
    ):
        answer = await plugin.request("POST", f"/{method}", json=values)
        assert answer.status_code == 400, (method, values, answer.text)
        assert len(answer.json()["Err"]) < 300
    assert plugin.daemon.attachments == {}
    assert plugin.daemon.held == {}


@with_plugin
async def test_huge_body_is_cut_short(plugin: RunningPlugin) -> None:
    for size in (MAX_BODY_BYTES + 1, 64 * MAX_BODY_BYTES):
        stream = await trio.open_unix_socket(plugin.socket)
        async with stream:
            head = f"POST /NetworkDriver.Join HTTP/1.1\r\nHost: plugin\r\nContent-Length: {size}\r\n\r\n"
            await stream.send_all(head.encode())
            sent = 0
            try:
                while sent < size:
                    await stream.send_all(b" " * min(1 << 16, size - sent))
                    sent += 1 << 16
            except trio.BrokenResourceError:
                pass  # the plugin had read enough
            assert sent < 4 * MAX_BODY_BYTES
            answer = b""
            while b"longer than" not in answer:
                piece = await stream.receive_some()
                assert piece, answer
                answer += piece
        assert answer.startswith(b"HTTP/1.1 400")
    await plugin.call("Plugin.Activate")


@with_plugin
async def test_methods_that_do_not_exist(plugin: RunningPlugin) -> None:
    for path in ("/NetworkDriver.Teleport", "/IpamDriver.", "/", "/a/b", "/NetworkDriver.Join/", "/" + "x" * 5000):
        assert (await plugin.request("POST", path, content=b"{}")).status_code == 404, path
    assert (await plugin.request("GET", "/Plugin.Activate")).status_code == 405


@with_plugin
async def test_methods_without_content(plugin: RunningPlugin) -> None:
    for method in ("DiscoverNew", "DiscoverDelete", "FreeNetwork"):
        assert await plugin.call(f"NetworkDriver.{method}", {"NetworkID": new_id(), "DiscoveryType": 1}) == {}
    echoed = await plugin.call("NetworkDriver.AllocateNetwork", {"NetworkID": new_id(), "Options": {"a": "b"}})
    assert echoed == {"Options": {"a": "b"}}


@with_plugin
async def test_answers_have_the_engines_media_type(plugin: RunningPlugin) -> None:
    answer = await plugin.post("Plugin.Activate", None)
    assert answer.headers["content-type"] == "application/vnd.docker.plugins.v1.2+json"


@with_plugin
async def test_noise_that_is_no_http(plugin: RunningPlugin) -> None:
    for noise in (b"\0" * 100, b"GET", b"POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01" * 50):
        stream = await trio.open_unix_socket(plugin.socket)
        async with stream:
            await stream.send_all(noise)
            await stream.send_eof()
            with trio.fail_after(20):
                while await stream.receive_some():
                    pass
    await plugin.call("Plugin.Activate")


def test_complaints_are_limited(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with running_plugin(tmp_path) as plugin:
            for _ in range(20):
                await plugin.post("NetworkDriver.Join", b"{")
                await plugin.post("NetworkDriver.Teleport", b"{")
            await plugin.post("NetworkDriver.Leave", b"{")

    with caplog.at_level(logging.WARNING, "weave_docker"):
        trio.run(main)
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("weave_docker")]
    assert len(lines) == 2
    assert lines[0].startswith("NetworkDriver.Join: the body is no JSON")


def test_fault_of_ours_is_answered_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("weave_docker.plugin.network_driver.NetworkDriver.leave", fail)

    async def main() -> None:
        async with running_plugin(tmp_path) as plugin:
            answer = await plugin.request("POST", "/NetworkDriver.Leave", json={})
            assert answer.status_code == 500
            assert "log tells why" in answer.json()["Err"]
            await plugin.call("Plugin.Activate")

    trio.run(main)
    assert "ZeroDivisionError" in caplog.text
