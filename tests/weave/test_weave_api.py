"""The HTTP API of a whole daemon of fakes: over its Unix socket, and over TCP as strangers see it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
import trio

from weave.http_asker import JSON, WEB, Asker, free_port, on_socket, on_tcp, on_writable_tcp
from weave_net.api_access import host_of
from weave_net.api_messages import MAX_BODY_BYTES
from weave_net.errors import StoreError
from weave_net.settings import HttpAddress
from weave_net.testing.daemons import running_daemon
from weave_net.version import program_version
from weave_router.errors import HostError

if TYPE_CHECKING:
    from pathlib import Path


# Looking


@on_socket
async def test_status_views_as_text(ask: Asker) -> None:
    for view, begin in (
        ("", "        Version: "),
        ("/connections", "-> 10.0.0.2:6783"),
        ("/peers", "02:00:00:00:00:01(h1)\n"),
    ):
        answer = await ask("GET", f"/status{view}")
        assert answer.status == 200
        assert answer.body.startswith(begin)
        assert answer.headers["content-type"].startswith("text/plain")
    assert (await ask("GET", "/status/targets")).body == ""


@on_socket
async def test_status_views_as_json(ask: Asker) -> None:
    assert (await ask("GET", "/status", headers=JSON)).json["Router"]["PeerCount"] == 2
    assert (await ask("GET", "/status/connections", headers=JSON)).json[0]["State"] == "established"
    assert (await ask("GET", "/status/peers", headers=JSON)).json[0]["NickName"] == "h1"
    assert (await ask("GET", "/status/targets", headers=JSON)).json == []


@on_socket
async def test_report(ask: Asker) -> None:
    answer = await ask("GET", "/report")
    assert answer.headers["content-type"] == "application/json"
    assert answer.body.startswith('{\n    "Ready": true,\n')
    assert answer.json["Version"] == program_version()
    assert (await ask("GET", "/report?format=.Router.Name")).body == "02:00:00:00:00:01\n"
    answer = await ask("GET", "/report?format=.Nonsense")
    assert (answer.status, "there is no 'Nonsense'" in answer.body) == (400, True)


@on_socket
async def test_metrics(ask: Asker) -> None:
    answer = await ask("GET", "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'weave_connections{encryption="yes",state="established",type="sleeve"} 2.0' in answer.body


@on_socket
async def test_health(ask: Asker) -> None:
    assert (await ask("GET", "/healthz")).body == "ok\n"
    assert (await ask("GET", "/readyz")).body == "ready\n"
    assert (await ask("HEAD", "/healthz")).body == ""


# Errors


@on_socket
async def test_unknown_paths_and_methods(ask: Asker) -> None:
    for path in ("/", "/nonsense", "/status/nonsense", "/status/", "/report/x", "/attachment/a", "/attachment/a/b/c"):
        assert (await ask("GET", path)).status == 404, path
    for method, path in (("POST", "/status"), ("GET", "/connect"), ("PUT", "/forget"), ("POST", "/attachment/a/b")):
        answer = await ask(method, path)
        assert answer.status == 405, path
        assert answer.headers["allow"]


@on_socket
async def test_errors_are_plain_text_or_json(ask: Asker) -> None:
    answer = await ask("POST", "/connect?peer=:")
    assert answer.status == 400
    assert answer.headers["content-type"].startswith("text/plain")
    assert (await ask("POST", "/connect?peer=:", headers=JSON)).json == {"error": answer.body.strip()}
    assert (await ask("GET", "/nonsense", headers=JSON)).json == {"error": "Not Found"}


@on_socket
async def test_failing_request_is_answered_and_logged_and_the_next_one_works(ask: Asker) -> None:
    ask.daemon.router.status_error = RuntimeError("a bug")
    for _ in range(3):
        answer = await ask("GET", "/status")
        assert (answer.status, answer.body) == (500, "the daemon failed at this request; its log tells why\n")
    ask.daemon.router.status_error = None
    assert (await ask("GET", "/status")).status == 200


@on_socket
async def test_garbage_does_not_close_the_api(ask: Asker) -> None:
    for data in (
        b"\0\0\0\0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"GET /%ff%fe HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 100,
        # HTTP/2 with a path that is no ASCII: Hypercorn's own code fails at it.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000") + h2_request(b"/\xff"),
    ):
        await ask.send(data)
        assert (await ask("GET", "/healthz")).status == 200, data[:40]


def h2_request(path: bytes) -> bytes:
    headers = b"\x82\x86\x41\x01a" + b"\x44" + bytes([len(path)]) + path
    return len(headers).to_bytes(3) + b"\x01\x05" + (1).to_bytes(4) + headers


@on_socket
async def test_long_bodies_are_refused(ask: Asker) -> None:
    just_right = "peer=h2&pad=" + "x" * (MAX_BODY_BYTES - 12)
    assert (await ask("POST", "/connect", just_right)).status == 200
    answer = await ask("POST", "/connect", just_right + "x")
    assert answer.status == 413
    assert (await ask("POST", "/connect", "&".join(["peer=a"] * 20_000))).status == 400


# Peers


@on_socket
async def test_connect_and_forget(ask: Asker) -> None:
    def targets() -> tuple[str, ...]:
        return ask.daemon.router.targets

    answer = await ask("POST", "/connect", urlencode([("peer", "h2"), ("peer", "h3:99")]))
    assert (answer.status, answer.body) == (200, "")
    assert (await ask("POST", "/connect")).status == 200
    assert targets() == ("h2", "h3:99")
    assert (await ask("POST", "/connect?peer=h4")).status == 200
    assert targets() == ("h2", "h3:99", "h4")
    assert (await ask("POST", "/forget", "peer=h2&peer=unknown")).status == 200
    assert (await ask("GET", "/status/targets")).body == "h3:99\nh4\n"
    assert (await ask("POST", "/connect", "peer=h5&replace=true")).status == 200
    assert targets() == ("h5",)
    assert (await ask("POST", "/connect", "replace=1")).status == 200
    assert targets() == ()


@on_socket
async def test_bad_peers_change_nothing(ask: Asker) -> None:
    for body in ("peer=h2&peer=:", "peer=h2&peer=nowhere.invalid", "peer=h2&replace=perhaps", b"peer=\xff"):
        answer = await ask("POST", "/connect", body)
        assert answer.status == 400, body
        assert answer.body.strip()
    assert ask.daemon.router.targets == ()


# Attachments


@on_socket
async def test_life_of_an_attachment(ask: Asker) -> None:
    body = json.dumps({"netns": WEB, "addresses": ["10.2.1.5/24", "10.2.1.6/24"], "owner": "cni"})
    made = await ask("PUT", "/attachment/web/ethwe", body)
    assert made.status == 200
    assert (made.json["addresses"], made.json["mtu"]) == (["10.2.1.5/24", "10.2.1.6/24"], 1376)
    known = made.json
    assert known.pop("given") == ["10.2.1.5/24", "10.2.1.6/24"], "what answers the wishes of this request"
    assert known.pop("bridge") == {"name": "weave", "mac": "00:00:00:00:00:01", "mtu": 1376}
    assert (await ask("GET", "/attachment/web/ethwe")).json == known
    assert (await ask("GET", "/attachment")).json == [known]
    removed = await ask("DELETE", "/attachment/web/ethwe?address=10.2.1.5")
    assert (removed.status, removed.json) == (200, {"removed": ["10.2.1.5/24"]})
    assert (await ask("DELETE", "/attachment/web/ethwe")).json == {"removed": ["10.2.1.6/24"]}
    assert (await ask("DELETE", "/attachment/web/ethwe")).json == {"removed": []}
    assert (await ask("GET", "/attachment/web/ethwe")).status == 404
    assert (await ask("GET", "/attachment")).json == []


@on_socket
async def test_bad_attachments(ask: Asker) -> None:
    good = {"netns": WEB, "addresses": ["10.2.1.5/24"]}
    for status, path, body in (
        (400, "/attachment/web/ethwe", "no json"),
        (400, "/attachment/web/ethwe", "[" * 100_000),
        (400, "/attachment/web/ethwe", json.dumps({**good, "netns": "/none"})),
        (400, "/attachment/web/ethwe", json.dumps({**good, "addresses": ["10.2.1.5"]})),
        (400, "/attachment/web/waytoolonginterface", json.dumps(good)),
        (400, "/attachment/we%20b/ethwe", json.dumps(good)),
        (404, "/attachment/we%2fb/ethwe", json.dumps(good)),
    ):
        answer = await ask("PUT", path, body)
        assert answer.status == status, (path, body[:50], answer)
    assert (await ask("DELETE", "/attachment/web/ethwe?address=x")).status == 400
    assert (await ask("GET", "/attachment")).json == []


@on_socket
async def test_errors_of_the_host_reach_the_caller(ask: Asker) -> None:
    body = json.dumps({"netns": WEB, "addresses": ["10.2.1.5/24"]})
    ask.daemon.fakes.host.fail_next("attach", HostError("no memory for another veth"))
    answer = await ask("PUT", "/attachment/web/ethwe", body, JSON)
    assert (answer.status, answer.json) == (500, {"error": "no memory for another veth"})
    ask.daemon.fakes.host.namespaces["/run/netns/db"] = ask.daemon.fakes.host.add_namespace("/tmp/db")
    assert (await ask("PUT", "/attachment/web/ethwe", body)).status == 200
    conflict = json.dumps({"netns": "/run/netns/db", "addresses": []})
    assert (await ask("PUT", "/attachment/web/ethwe", conflict)).status == 409


@on_socket
async def test_state_that_cannot_be_written_is_told(ask: Asker) -> None:

    async def fail(_: object) -> None:
        raise StoreError("disk full")

    ask.daemon.router._on_targets_changed = fail
    answer = await ask("POST", "/connect", "peer=h2")
    assert (answer.status, answer.body) == (500, "disk full\n")


# Stopping


@on_socket
async def test_stop(ask: Asker) -> None:
    answer = await ask("POST", "/stop")
    assert (answer.status, answer.body) == (202, "stopping\n")
    with trio.fail_after(5):
        await ask.daemon.ended.wait()


# TCP


@on_tcp
async def test_tcp_reads(ask: Asker) -> None:
    for path in ("/status", "/status/peers", "/report", "/metrics", "/healthz", "/readyz"):
        assert (await ask("GET", path)).status == 200, path


@on_tcp
async def test_tcp_changes_nothing(ask: Asker) -> None:
    for method, path in (
        ("POST", "/connect?peer=h2"),
        ("POST", "/forget"),
        ("POST", "/stop"),
        ("PUT", "/attachment/web/ethwe"),
        ("DELETE", "/attachment/web/ethwe"),
        ("POST", "/status"),
        ("POST", "/nonsense"),
    ):
        answer = await ask(method, path)
        assert (answer.status, answer.body) == (
            403,
            "read-only: use the Unix socket, or launch with --http-writable\n",
        ), path
    for path in ("/attachment", "/attachment/web/ethwe"):
        assert (await ask("GET", path)).status == 403, path
    assert (await ask("GET", "/connect")).status == 405
    assert (await ask("GET", "/nonsense")).status == 404
    assert ask.daemon.router.targets == ()
    assert not ask.daemon.ended.is_set()


@on_tcp
async def test_tcp_refuses_foreign_names(ask: Asker) -> None:
    port = ask.daemon.settings.http_address.port  # type: ignore[union-attr]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "10.0.0.1", "", "[::2]"):
        answer = await ask("GET", "/report", headers={"Host": host})
        assert answer.status == 403, host
        assert "Name" not in answer.body
    for host in ("localhost", f"LOCALHOST:{port}", "127.0.0.1:1", "[::1]:80"):
        assert (await ask("GET", "/report", headers={"Host": host})).status == 200, host
    assert (await ask("GET", "/report", headers={"Host": "evil.example", **JSON})).json["error"]


@on_tcp
async def test_tcp_without_host_header(ask: Asker) -> None:
    assert b" 403 " in (await ask.send(b"GET /status HTTP/1.0\r\n\r\n")).splitlines()[0]


@on_tcp
async def test_tcp_refuses_web_pages(ask: Asker) -> None:
    assert (await ask("GET", "/status", headers={"Origin": "http://evil.example"})).status == 403
    assert (await ask("GET", "/status", headers={"Origin": "null"})).status == 403
    assert (await ask("GET", "/status", headers={"Origin": "http://localhost:3000"})).status == 200


@on_writable_tcp
async def test_writable_tcp(ask: Asker) -> None:
    assert (await ask("POST", "/connect", "peer=h2")).status == 200
    assert ask.daemon.router.targets == ("h2",)
    assert (await ask("POST", "/forget", "peer=h2", {"Origin": "http://evil.example"})).status == 403
    for method, path in (("POST", "/stop"), ("PUT", "/attachment/web/ethwe"), ("GET", "/attachment")):
        answer = await ask(method, path)
        assert (answer.status, answer.body) == (403, "this is possible on the Unix socket only\n")


def test_wildcard_address_may_be_named_by_any_address(tmp_path: Path) -> None:
    async def main() -> None:
        address = HttpAddress("0.0.0.0", free_port())
        async with running_daemon(tmp_path, http_address=address) as daemon:
            ask = Asker(daemon, tcp=True)
            for host, status in (("10.1.2.3:99", 200), ("[fd00::1]", 200), ("evil.example", 403), ("0x7f.1", 403)):
                assert (await ask("GET", "/healthz", headers={"Host": host})).status == status, host

    trio.run(main)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("localhost:80.evil.example", "localhost:80.evil.example"),
        ("", ""),
    ],
)
def test_host_names(text: str, host: str) -> None:
    assert host_of(text) == host
