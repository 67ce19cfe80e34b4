"""The HTTP API of address allocation, beside what Weave Net 2.8 answered (ipam.md section 15)."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import trio

from vector_files import load
from weave.http_asker import JSON, Answer, Asker, on_socket, on_tcp, on_writable_tcp, with_daemon
from weave_net.testing.daemons import running_daemon

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _pytest.mark import ParameterSet

    from weave_ipam.service import Ipam

SETTINGS: dict[str, dict[str, str]] = {
    "one_peer_quorum_one": {"ipalloc_default_subnet": "10.32.1.0/24"},
    "one_elector_of_three": {"ipalloc_init": "consensus=3"},
    "observer_alone": {"ipalloc_init": "observer"},
    "ipam_disabled": {"ipalloc_range": ""},
}
"""The recorded sequences that need no second peer, and the settings of the daemon that they were recorded with."""

NO_QUORUM = "no quorum: 1 of 2 peers that must agree on the start are known\n"
LEFT = "this peer has handed its addresses over and is about to stop\n"
OFF = "address allocation is off (--ipalloc-range is empty)\n"

REST = "a released address rests for a while: the next one is given out"
TIMEOUT = "a request that waits ends in time (here: timeout=0.3), and says why"
OUR_STATUS = "the status page has its own version line and knows no other protocol"
OUR_REPORT = "a report is JSON without asking, and 'format' a path (cli.md section 2)"

VERSIONS = "a version is raised once for all that happens between two messages"

DEVIATIONS: dict[tuple[str, int], tuple[str, int, str | None]] = {
    ("one_peer_quorum_one", 43): ("HEAD is GET without a body, here as elsewhere in the API", 200, ""),
    ("one_peer_quorum_one", 44): ("405 has a text", 405, "Method Not Allowed\n"),
    ("one_peer_quorum_one", 45): ("other text", 404, "Not Found\n"),
    ("one_peer_quorum_one", 46): ("405 has a text", 405, "Method Not Allowed\n"),
    ("one_peer_quorum_one", 47): ("405 has a text", 405, "Method Not Allowed\n"),
    ("one_peer_quorum_one", 48): (REST, 200, "10.32.1.4/24"),
    ("one_peer_quorum_one", 49): (REST, 200, "10.32.1.5/24"),
    ("one_peer_quorum_one", 55): (VERSIONS, 200, None),
    ("one_peer_quorum_one", 56): (OUR_REPORT, 200, None),
    ("one_peer_quorum_one", 57): ("the value ends with a line feed", 200, "10.32.0.0/12\n"),
    ("one_peer_quorum_one", 58): (VERSIONS, 200, None),
    ("one_peer_quorum_one", 59): ("the path is wrong, not the daemon", 400, None),
    ("one_peer_quorum_one", 60): (OUR_REPORT, 400, None),
    ("one_peer_quorum_one", 62): ("nothing is answered 'cancelled'", 503, LEFT),
    ("one_peer_quorum_one", 63): ("nothing is answered 'cancelled'", 503, LEFT),
    ("one_peer_quorum_one", 65): ("without an heir the space stays where it is", 200, None),
    ("one_elector_of_three", 0): (OUR_STATUS, 200, None),
    ("one_elector_of_three", 1): (TIMEOUT, 503, NO_QUORUM),
    ("one_elector_of_three", 2): (OUR_STATUS, 200, None),
    ("one_elector_of_three", 6): (TIMEOUT, 503, NO_QUORUM),
    ("one_elector_of_three", 7): ("who was refused in time waits no more", 200, None),
    ("one_elector_of_three", 8): (TIMEOUT, 503, NO_QUORUM),
    ("observer_alone", 0): (
        TIMEOUT,
        503,
        "no ring yet: waiting for a peer that has one (this peer is an observer)\n",
    ),
    ("observer_alone", 1): (OUR_STATUS, 200, None),
    ("ipam_disabled", 0): ("the text says why", 404, OFF),
    ("ipam_disabled", 1): ("the text says why", 404, OFF),
    ("ipam_disabled", 2): ("the text says why", 404, OFF),
    ("ipam_disabled", 3): (OUR_STATUS, 200, None),
    ("ipam_disabled", 4): ("the view does not exist, and nothing failed", 404, OFF),
}
"""Where the answer differs on purpose: the reason, status and text; None where only the status is compared."""


def ipam_of(ask: Asker) -> Ipam:
    """The allocator of the daemon that is asked."""
    ipam = ask.daemon.router.routes_listeners[0].__self__  # type: ignore[attr-defined]
    assert type(ipam).__name__ == "Ipam"
    return ipam  # type: ignore[no-any-return]


# Beside 2.8


def recorded_cases() -> list[ParameterSet]:
    return [
        pytest.param(
            section,
            number,
            id=f"{section}-{number}-{case['method']}-{case['path']}",
        )
        for section in SETTINGS
        for number, case in enumerate(load("ipam/http")[section])
    ]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Answer]]:
    """What our daemon answers to the recorded requests, each sequence asked of a daemon of its own."""

    async def replay(section: str) -> list[Answer]:
        async with running_daemon(tmp_path_factory.mktemp("host"), None, **SETTINGS[section]) as daemon:
            return [await repeat(Asker(daemon), case) for case in load("ipam/http")[section]]

    return {section: trio.run(replay, section) for section in SETTINGS}


def without_additions(report: dict[str, Any]) -> dict[str, Any]:
    """The allocator's report without what 2.8 does not have."""
    return {key: value for key, value in report.items() if key not in ("WaitingFor", "Conflicts")}


async def repeat(ask: Asker, case: dict[str, Any]) -> Answer:
    path = case["path"]
    if "no_answer_within_s" in case:
        path += ("&" if "?" in path else "?") + "timeout=0.3"
    headers = dict(header.split(": ") for header in case.get("headers", ()))
    return await ask(case["method"], path, case.get("form_body"), headers)


@pytest.mark.parametrize(("section", "number"), recorded_cases())
def test_recorded_request(answers: dict[str, list[Answer]], section: str, number: int) -> None:
    case, answer = load("ipam/http")[section][number], answers[section][number]
    reason, status, body = DEVIATIONS.get((section, number), ("as recorded", case.get("status"), case.get("body")))
    assert (answer.status, reason) == (status, reason), answer.body
    if body is None:
        return
    if case["path"] == "/report":  # only this part was kept of the recording
        assert without_additions(answer.json["IPAM"]) == json.loads(body)["IPAM"]
    elif body.startswith(("{", "[")):
        assert answer.json == json.loads(body)
    else:
        assert answer.body == body
    if case.get("content_type") and status == case["status"]:
        assert answer.headers["content-type"].split(";")[0] == case["content_type"].split(";")[0]


def test_deviations_deviate(answers: dict[str, list[Answer]]) -> None:
    """A deviation that is none any more must go from the list."""
    for (section, number), _ in DEVIATIONS.items():
        case, answer = load("ipam/http")[section][number], answers[section][number]
        assert (answer.status, answer.body) != (case.get("status"), case.get("body")), (section, number)


def test_report_of_a_daemon_that_waits(answers: dict[str, list[Answer]]) -> None:
    """As 2.8's but for the requests that ended in time; the patient claim waits on."""
    report = without_additions(answers["one_elector_of_three"][7].json)
    recorded = json.loads(load("ipam/http")["one_elector_of_three"][7]["body"])
    assert report == {**recorded, "PendingClaims": recorded["PendingClaims"][:1], "PendingAllocates": None}


@pytest.mark.parametrize("section", SETTINGS)
def test_status_block(answers: dict[str, list[Answer]], section: str) -> None:
    """The lines of the allocator are 2.8's, letter by letter, once the requests wait as long as 2.8's did."""
    for case, answer in zip(load("ipam/http")[section], answers[section], strict=True):
        if case["path"] != "/status":
            continue
        without_names = answer.body.partition("\n        Service: dns")[0]  # which were off when these were recorded
        wanted, got = case["body"].partition("Service: ipam"), without_names.partition("Service: ipam")
        if "priming" in wanted[2]:  # nobody waits any more
            wanted = (*wanted[:2], wanted[2].replace("priming", "idle"))
        assert got[1:] == wanted[1:]


# How long a request waits

waiting = partial(with_daemon, ipalloc_init="consensus=3")
"""A daemon that cannot give out anything, since the others are missing."""


@waiting
async def test_what_cannot_be_served_ends_in_time(ask: Asker) -> None:
    for method, path in (("POST", "/ip/c1"), ("POST", "/ip/c1/10.32.2.0/24"), ("PUT", "/ip/c1/10.32.2.1/24")):
        begin = trio.current_time()
        answer = await ask(method, path, "timeout=0.2")
        assert (answer.status, answer.body) == (503, NO_QUORUM)
        assert 0.2 <= trio.current_time() - begin < 2
    begin = trio.current_time()
    assert (await ask("GET", "/ring?timeout=0.2s")).status == 503
    assert (await ask("POST", "/ip/c1?timeout=0")).status == 503
    assert trio.current_time() - begin < 2
    answer = await ask("POST", "/ip/c1?timeout=0", headers=JSON)
    assert answer.json == {"error": NO_QUORUM.strip()}
    assert (await ask("GET", "/report?format=.IPAM.PendingAllocates")).body == "null\n"


@on_socket
async def test_what_can_be_served_needs_no_time(ask: Asker) -> None:
    assert (await ask("POST", "/ip/c1?timeout=0")).body == "10.32.0.1/12"
    assert (await ask("GET", "/ring?timeout=0")).status == 200


@pytest.mark.parametrize(
    "text", ["x", "-1", "3601", "nan", "inf", "1e400", "1m", "10ss", "s", "0x1", "%00", "1%202", "1%2C5"]
)
def test_bad_timeout(text: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        for method, path in (("POST", "/ip/c1"), ("PUT", "/ip/c1/10.32.0.1/12"), ("GET", "/ring")):
            answer = await ask(method, f"{path}?timeout={text}")
            assert (answer.status, "is no number of seconds from 0 to 3600" in answer.body) == (400, True)
        assert (await ask("GET", "/ip")).json == {"owned": None}

    check(tmp_path)


@on_socket
async def test_space_that_is_used_up(ask: Asker) -> None:
    for name in ("a", "b"):
        assert (await ask("POST", f"/ip/{name}/10.32.2.0/30")).status == 200
    answer = await ask("POST", "/ip/c/10.32.2.0/30?timeout=0.1")
    assert (answer.status, answer.body) == (503, "all addresses of 10.32.2.0/30 are in use\n")
    async with trio.open_nursery() as nursery:  # one that waits gets what is released
        answers: list[Answer] = []

        async def wait() -> None:
            answers.append(await ask("POST", "/ip/c/10.32.2.0/30"))

        nursery.start_soon(wait)
        await until(lambda: bool(ipam_of(ask).status().pending_allocations))
        assert "Status: waiting for IP(s) to become available\n" in (await ask("GET", "/status")).body
        assert (await ask("DELETE", "/ip/a")).status == 204
    assert [(answer.status, answer.body) for answer in answers] == [(200, "10.32.2.1/30")]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - the allocator tells nobody of its requests
            await trio.sleep(0.01)


@pytest.mark.parametrize(
    "request_line",
    ["POST /ip/c1", "POST /ip/c1/10.32.2.0/24", "PUT /ip/c1/10.32.2.1/24", "GET /ring"],
)
def test_client_that_goes_away_leaves_nothing(request_line: str, tmp_path: Path) -> None:
    @waiting
    async def check(ask: Asker) -> None:
        ipam = ipam_of(ask)
        for _ in range(3):
            with ask.connected() as sock:
                sock.sendall(f"{request_line}?timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await until(lambda: bool(ipam._allocator.pending))
            await until(lambda: not ipam._allocator.pending and not ipam._waiting)
        assert (await ask("GET", "/ip")).json == {"owned": None}
        assert (await ask("GET", "/healthz")).status == 200

    check(tmp_path)


def test_waiting_clients_do_not_hold_up_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path, ipalloc_init="consensus=3") as daemon:
            ask = Asker(daemon)
            with ask.connected() as prime, ask.connected() as allocation:
                prime.sendall(b"GET /ring HTTP/1.1\r\nHost: x\r\n\r\n")
                allocation.sendall(b"POST /ip/c1?timeout=60 HTTP/1.1\r\nHost: x\r\n\r\n")
                await until(lambda: len(ipam_of(ask)._allocator.pending) == 2)
                begin = trio.current_time()
                assert (await ask("POST", "/stop")).status == 202
                await daemon.ended.wait()
                assert trio.current_time() - begin < 4

    trio.run(main)


# Rights

OF_ALLOCATION = (
    ("POST", "/ip/c1"),
    ("POST", "/ip/c1/10.32.2.0/24"),
    ("PUT", "/ip/c1/10.32.2.9/24"),
    ("DELETE", "/ip/c1/10.32.2.9"),
    ("DELETE", "/ip/c1"),
    ("DELETE", "/peer/h2"),
)
READING = ("/ip", "/ip/c1", "/ip/c1/10.32.2.0/24", "/ipinfo/defaultsubnet", "/ipinfo/tracker", "/status/ipam")


@on_tcp
async def test_tcp_reads_only(ask: Asker) -> None:
    for path in READING:
        assert (await ask("GET", path)).status == 200
    for method, path in (*OF_ALLOCATION, ("DELETE", "/peer")):
        answer = await ask(method, path)
        assert (answer.status, answer.body.startswith(("read-only: ", "this is possible on"))) == (403, True)
    assert (await ask("GET", "/ip")).json == {"owned": None}


@on_tcp
async def test_reading_begins_no_election(ask: Asker) -> None:
    """To begin a ring cannot be undone, and any web page can make its visitor's browser GET something."""
    await ask("GET", "/ring?timeout=0.2")
    assert (await ask("GET", "/status/ipam")).body == ""


@on_writable_tcp
async def test_writable_tcp_leaves_only_the_departure_out(ask: Asker) -> None:
    for (method, path), status in zip(OF_ALLOCATION, (200, 200, 204, 204, 204, 200), strict=True):
        assert (await ask(method, path)).status == status, (method, path)
    assert (await ask("GET", "/ring")).status == 200
    answer = await ask("DELETE", "/peer")
    assert (answer.status, answer.body) == (403, "this is possible on the Unix socket only\n")
    assert "about to stop" not in (await ask("POST", "/ip/c1")).body


@on_socket
async def test_departure_on_the_socket(ask: Asker) -> None:
    await ask("POST", "/ip/c1")
    answer = await ask("DELETE", "/peer")
    assert (answer.status, answer.body, "weave-heir" in answer.headers) == (204, "", False)


# Bad input


@pytest.mark.parametrize(
    ("method", "path", "text"),
    [
        ("POST", "/ip/c/foo/24", "invalid CIDR address: foo/24"),
        ("POST", "/ip/c/10.32.2.0/x", "invalid CIDR address: 10.32.2.0/x"),
        ("POST", "/ip/c/10.32.2.0/-1", "invalid CIDR address: 10.32.2.0/-1"),
        ("POST", "/ip/c/10.32.2/24", "invalid CIDR address: 10.32.2/24"),
        ("POST", "/ip/c/10.32.02.0/24", "invalid CIDR address: 10.32.02.0/24"),
        ("POST", "/ip/c/10.32.2.0/%20", "invalid CIDR address: 10.32.2.0/ "),
        ("POST", "/ip/c/10.32.2.0/%00", "invalid CIDR address: 10.32.2.0/\0"),
        ("POST", "/ip/c/10.32.2.0/99999999999999999999", "invalid CIDR address: 10.32.2.0/99999999999999999999"),
        ("GET", "/ip/c/foo/24", "invalid CIDR address: foo/24"),
        ("GET", "/ip/c/10.32.2.1/24", "invalid subnet - bits after network prefix are not all zero: 10.32.2.1/24"),
        ("GET", "/ip/c/10.32.2.0/32", "invalid subnet - smaller than minimum size 4: 10.32.2.0/32"),
        ("GET", "/ip/c/fd00::/64", "invalid Non-IPv4 address not supported: fd00::/64"),
        ("POST", "/ip/c/::ffff:10.32.0.0/112", "invalid Non-IPv4 address not supported: ::ffff:10.32.0.0/112"),
        ("POST", "/ip/c/10.64.0.0/12", "range 10.64.0.0/12 out of bounds: 10.32.0.0/12"),
        ("PUT", "/ip/c/foo/24", "invalid CIDR address: foo/24"),
        ("PUT", "/ip/c/10.32.0.1/33", "invalid CIDR address: 10.32.0.1/33"),
        ("PUT", "/ip/c/fd00::1/64", "invalid Non-IPv4 address not supported: "),
        ("PUT", "/ip/c/fe80::1%25eth0/64", "invalid Non-IPv4 address not supported: "),
        ("DELETE", "/ip/c/foo", "invalid IP Address: foo"),
        ("DELETE", "/ip/c/10.32.0.1%2F24", None),
        ("DELETE", "/ip/c/fd00::1", "Unable to free: Free: address fd00::1 not found for c"),
        ("DELETE", "/ip/c/fe80::1%25eth0", "Unable to free: Free: address fe80::1%eth0 not found for c"),
        ("DELETE", "/ip/c", "Delete: no addresses for c"),
        ("POST", "/ip/c?check-alive=maybe", "check-alive='maybe' is neither true nor false"),
        ("PUT", "/ip/c/10.32.0.1/12?noErrorOnUnknown=2", "noErrorOnUnknown='2' is neither true nor false"),
        ("DELETE", "/peer/h2?force=x", "force='x' is neither true nor false"),
        ("POST", "/ip/c/10.32.2.0/255.255.255.0", "invalid CIDR address: 10.32.2.0/255.255.255.0"),
        ("PUT", "/ip/c/10.32.2.1/0.0.0.255", "invalid CIDR address: 10.32.2.1/0.0.0.255"),
    ],
)
def test_bad_input(method: str, path: str, text: str | None, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        answer = await ask(method, path)
        if text is None:  # an encoded slash separates like any other
            assert answer.status in (404, 405)
        else:
            assert answer.status == 400, answer
            assert answer.body.startswith(text)
            assert answer.body.endswith("\n")
            assert (await ask(method, path, headers=JSON)).json == {"error": answer.body[:-1]}
        assert (await ask("GET", "/ip")).json == {"owned": None}

    check(tmp_path)


@on_socket
async def test_body_that_is_no_form(ask: Asker) -> None:
    for body in (b"\xff\xfe", b"timeout=%zz", b"a&" * 20_000):
        answer = await ask("POST", "/ip/c1", body)
        assert (answer.status, (await ask("GET", "/ip")).json) == (400, {"owned": None}), body[:20]


HOSTILE = [
    "x" * 8000,
    "ü-☃-𝄞",
    "a b",
    "a\nb: c\r\n",
    "a\0b",
    "..",
    "%2e%2e",
    "<b>",
    "' OR 1=1; --",
    "10.32.0.77",
    "weave:expose",
    "\x1b[31mred",
]


@on_socket
async def test_hostile_identifiers(ask: Asker) -> None:
    """Whatever the name, it is kept as it is or refused, and never the daemon's fault."""
    for number, name in enumerate(HOSTILE):
        path = f"/ip/{quote(name, safe='')}"
        answer = await ask("POST", path)
        assert answer.status == 200, (name, answer)
        assert (await ask("GET", path)).body == answer.body
        owned = {entry["containerid"]: entry["addrs"] for entry in (await ask("GET", "/ip")).json["owned"]}
        assert owned == {name: [answer.body]}, number
        assert (await ask("DELETE", f"{path}/{answer.body.partition('/')[0]}")).status == 204
        assert (await ask("DELETE", path)).body == f"Delete: no addresses for {name}\n"


@on_socket
async def test_identifiers_that_are_no_text(ask: Asker) -> None:
    for path in ("/ip/", "/ip//", "/ip///", "/ip//10.32.0.0/12", "/peer/"):
        for method in ("GET", "POST", "DELETE", "PUT"):
            assert (await ask(method, path)).status in (404, 405), (method, path)
    for path in ("/ip/%ff", "/ip/%ed%a0%80", "/ip/%", "/ip/%zz", "/ip/a%2fb"):
        assert (await ask("POST", path)).status in (200, 400, 404, 405), path
    assert (await ask("POST", f"/ip/{'x' * 100_000}")).status in (400, 414, 431)
    raw = await ask.send(b"POST /ip/\xff\xfe\x00 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert raw[:12] in (b"", b"HTTP/1.1 400", b"HTTP/1.1 404", b"HTTP/1.1 200")
    assert (await ask("GET", "/healthz")).status == 200
    assert (await ask("GET", "/ip")).status == 200


def test_hostile_identifiers_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        # What was allocated to be exposed, and then was not, is free again: see `Exposures.adopt`.
        names = [name for name in HOSTILE if name != "weave:expose"]
        async with running_daemon(tmp_path) as daemon:
            answers = {name: (await Asker(daemon)("POST", f"/ip/{quote(name, safe='')}")).body for name in names}
        assert len(set(answers.values())) == len(names)
        async with running_daemon(tmp_path) as daemon:
            for name, address in answers.items():
                assert (await Asker(daemon)("GET", f"/ip/{quote(name, safe='')}")).body == address

    trio.run(main)


# Order, and what is recorded


@on_socket
async def test_lists_are_sorted(ask: Asker) -> None:
    for name in ("c", "a", "b"):
        await ask("POST", f"/ip/{name}")
    assert (await ask("GET", "/ip")).json["owned"] == [
        {"containerid": "a", "addrs": ["10.32.0.2/12"]},
        {"containerid": "b", "addrs": ["10.32.0.3/12"]},
        {"containerid": "c", "addrs": ["10.32.0.1/12"]},
    ]


@on_socket
async def test_peers_are_taken_over_only_when_gone(ask: Asker) -> None:
    await ask("GET", "/ring")
    for text in ("h1", "00:00:00:00:00:01", "zz", "x" * 3000, "%F0%9F%92%A5"):
        answer = await ask("DELETE", f"/peer/{text}?force=true")
        assert (answer.status, answer.body[:22]) == (200, "0 IPs taken over from ")


async def peer_that_lives(ask: Asker) -> None:
    ipam_of(ask)._directory.is_known = lambda name: True  # type: ignore[method-assign]
    path = "/peer/00:00:00:00:00:02"
    answer = await ask("DELETE", path)
    assert answer.status == 409
    assert answer.body.startswith("00:00:00:00:00:02() can be reached; if it runs, its containers would share their")
    assert (await ask("DELETE", path, headers=JSON)).json == {"error": answer.body.strip()}
    assert (await ask("DELETE", path, "force=false")).status == 409
    answer = await ask("DELETE", path, "force=true")
    assert (answer.status, answer.body) == (200, "524288 IPs taken over from 00:00:00:00:00:02\n")
    assert (await ask("DELETE", path)).body == "0 IPs taken over from 00:00:00:00:00:02\n"


test_peer_that_lives_is_taken_over_by_force_only = with_daemon(peer_that_lives, ipalloc_init="seed=::1,::2")


def test_too_many_requests_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_ipam.allocator.MAX_PENDING", 3)

    @waiting
    async def check(ask: Asker) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(ask, "POST", f"/ip/c{number}", "timeout=1")
            await until(lambda: len(ipam_of(ask)._allocator.pending) == 3)
            begin = trio.current_time()
            answer = await ask("POST", "/ip/c9")
            assert (answer.status, answer.body) == (503, "3 requests for addresses are waiting already\n")
            assert trio.current_time() - begin < 1
        assert (await ask("POST", "/ip/c9?timeout=0")).body == NO_QUORUM

    check(tmp_path)


@on_socket
async def test_many_at_once_get_different_addresses(ask: Asker) -> None:
    answers: list[Answer] = []

    async def allocate(number: int) -> None:
        answers.append(await ask("POST", f"/ip/c{number}"))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(allocate, number % 25)
    assert {answer.status for answer in answers} == {200}
    assert sorted(answer.body for answer in answers) == sorted([f"10.32.0.{n}/12" for n in range(1, 26)] * 2)


def test_addresses_are_logged_nowhere_by_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request of the usual kind leaves no warning behind."""
    caplog.set_level(logging.WARNING)

    @on_socket
    async def check(ask: Asker) -> None:
        await ask("POST", "/ip/c1")
        await ask("PUT", "/ip/c2/10.32.0.1/12")
        await ask("DELETE", "/ip/c1")

    check(tmp_path)
    assert not caplog.records
