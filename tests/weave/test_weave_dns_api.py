"""The HTTP API of names, beside what Weave Net 2.8 answered (dns.md section 12).

What differs on purpose:

- Addresses of IPv6 are held as they are; 2.8 makes 0.0.0.0 of them.
- Names compare without letter case, also in DELETE. Adding an own name in a second spelling changes nothing.
- DELETE takes `fqdn` in the body too.
- A text that is no host name is answered 204 without effect; with `strict=true` it is 400 and the reason, and so is a
  name outside of the domain.
- `/dns-address` and `/dns-address-port` are 503 and the reason while there is no address to listen at.
- `/lookup/{name}` is ours.
- Where names are off, all paths are 404 with a text that says so, `/status/dns` too.
- Errors have a text; JSON is indented and of its own content type.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dns.rdatatype
import pytest
import trio
import trio.testing

from name_server.stub_server import Received, StubServer, answers, nothing_there, silent
from vector_files import load
from weave.http_asker import JSON, Answer, Asker, free_port, on_socket, on_tcp, on_writable_tcp, with_daemon
from weave_dns.forwarder import Forwarder
from weave_dns.settings import ListenAddress
from weave_net.testing.daemons import running_daemon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from _pytest.mark import ParameterSet

OFF = "names are off (--no-dns)\n"
IPV6 = "an IPv6 address is held as it is"
LETTER_CASE = "letter case means nothing, so the name is gone"
OUR_STATUS = "the status page has its own version line and knows no other protocol"
NO_TEMPLATES = "'format' is a path (cli.md section 2)"
SAYS_WHY = "the text says why"

DEVIATIONS: dict[tuple[str, int], tuple[str, int, str | None]] = {
    ("one_peer", 3): ("405 has a text", 405, "ask for it with 'Accept: application/json'\n"),
    ("one_peer", 13): (IPV6, 200, None),
    ("one_peer", 14): (IPV6, 200, None),
    ("one_peer", 16): (LETTER_CASE, 200, None),
    ("one_peer", 18): (IPV6, 200, None),
    ("one_peer", 23): (OUR_STATUS, 200, None),
    ("one_peer", 26): (NO_TEMPLATES, 400, None),
    **{("dns_disabled", number): (SAYS_WHY, 404, OFF) for number in range(5)},
}
"""Where the answer differs on purpose: the reason, status and text; None where only the status is compared."""


# Beside 2.8


def recorded_cases() -> list[ParameterSet]:
    return [
        pytest.param(section, number, id=f"{section}-{number}-{case['method']}-{case['path']}")
        for section in ("one_peer", "dns_disabled")
        for number, case in enumerate(load("dns/http")[section])
    ]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Answer]]:
    """What our daemon answers to the recorded requests; the port is written as 53, which only root can have."""
    directory, port = tmp_path_factory.mktemp("host"), free_port()
    (directory / "resolv.conf").write_text("nameserver 10.99.0.41\n")
    settings: dict[str, dict[str, Any]] = {
        "one_peer": {
            "dns_listen_address": f"127.0.0.1:{port}",
            "resolv_conf": str(directory / "resolv.conf"),
            "ipalloc_range": "",
        },
        "dns_disabled": {"dns": False},
    }

    async def replay(section: str) -> list[Answer]:
        async with running_daemon(tmp_path_factory.mktemp("host"), None, **settings[section]) as daemon:
            ask, found = Asker(daemon), []
            for case in load("dns/http")[section]:
                headers = dict(header.split(": ") for header in case.get("headers", ()))
                answer = await ask(case["method"], case["path"], case.get("form_body"), headers)
                body = answer.body.replace(f"127.0.0.1:{port}", "127.0.0.1:53")
                found.append(Answer(answer.status, body, answer.headers))
            return found

    return {section: trio.run(replay, section) for section in settings}


@pytest.mark.parametrize(("section", "number"), recorded_cases())
def test_recorded_request(replayed: dict[str, list[Answer]], section: str, number: int) -> None:
    case, answer = load("dns/http")[section][number], replayed[section][number]
    reason, status, body = DEVIATIONS.get((section, number), ("as recorded", case["status"], case["body"]))
    assert (answer.status, reason) == (status, reason), answer.body
    if body is not None:
        assert answer.body == body
    if (section, number) not in DEVIATIONS and case["content_type"] and not body.startswith(("[", "null")):
        assert answer.headers["content-type"] == case["content_type"]


def test_deviations_deviate(replayed: dict[str, list[Answer]]) -> None:
    """A deviation that is none any more must go from the list."""
    for (section, number), _ in DEVIATIONS.items():
        case, answer = load("dns/http")[section][number], replayed[section][number]
        assert (answer.status, answer.body) != (case["status"], case["body"]), (section, number)


def test_recorded_lists_differ_in_the_ipv6_address_only(replayed: dict[str, list[Answer]]) -> None:
    recorded, got = load("dns/http")["one_peer"], replayed["one_peer"]
    assert json.loads(recorded[13]["body"].replace("0.0.0.0", "::1")) == got[13].json
    for number, gone in ((14, None), (16, "foo "), (18, None)):
        wanted = recorded[number]["body"].replace("0.0.0.0", "::1    ")
        lines = [line for line in wanted.splitlines() if gone is None or not line.startswith(gone)]
        assert got[number].body.splitlines() == lines


def test_recorded_status_block(replayed: dict[str, list[Answer]]) -> None:
    """The lines of names are 2.8's, letter by letter; ours come behind them."""
    block = load("dns/http")["one_peer"][23]["body"].partition("        Service: dns\n")[2]
    ours = replayed["one_peer"][23].body.partition("        Service: dns\n")[2]
    assert ours == f"{block}      Listening: 127.0.0.1:53\n"


# Adding and removing


async def entries(ask: Asker) -> list[tuple[str, str, str]]:
    """Living names: container, address, name."""
    found = (await ask("GET", "/name", headers=JSON)).json or []
    return [(entry["ContainerID"], entry["Addr"], entry["Hostname"]) for entry in found if not entry["Tombstone"]]


async def add(ask: Asker, container: str, address: str, name: str, *, strict: bool = True) -> Answer:
    body = f"fqdn={quote(name)}" + ("&strict=true" if strict else "")
    return await ask("PUT", f"/name/{container}/{address}", body)


@on_socket
async def test_second_spelling_changes_nothing(ask: Asker) -> None:
    await add(ask, "c1", "10.32.1.1", "Web.weave.local")
    before = (await ask("GET", "/name", headers=JSON)).json
    for name in ("web.weave.local", "WEB.Weave.Local.", "Web.weave.local"):
        assert (await add(ask, "c1", "10.32.1.1", name)).status == 204
        assert (await ask("GET", "/name", headers=JSON)).json == before


@on_socket
async def test_name_that_comes_back_keeps_its_first_spelling(ask: Asker) -> None:
    await add(ask, "c1", "10.32.1.1", "Web.weave.local")
    await ask("DELETE", "/name/c1")
    assert await entries(ask) == []
    await add(ask, "c1", "10.32.1.1", "web.weave.local")
    (entry,) = (await ask("GET", "/name", headers=JSON)).json
    assert (entry["Hostname"], entry["Version"], entry["Tombstone"]) == ("Web.weave.local.", 2, 0)


@on_socket
async def test_same_name_of_several(ask: Asker) -> None:
    for container, address in (("c1", "10.32.1.1"), ("c1", "10.32.1.2"), ("c2", "10.32.1.1"), ("c2", "fd00::1")):
        await add(ask, container, address, "web.weave.local")
    assert len(await entries(ask)) == 4
    assert (await ask("GET", "/lookup/web")).body.split() == ["10.32.1.1", "10.32.1.2", "fd00::1"]


@pytest.mark.parametrize("place", ["query", "body"])
@pytest.mark.parametrize("spelling", ["web.weave.local", "WEB.weave.LOCAL."])
def test_delete_of_one_name(place: str, spelling: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        for path in ("/name/c1/10.32.1.1", "/name/c1", "/name"):
            for name in ("Web.weave.local", "db.weave.local"):
                await add(ask, "c1", "10.32.1.1", name)
            where = (f"{path}?fqdn={spelling}", None) if place == "query" else (path, f"fqdn={spelling}")
            answer = await ask("DELETE", *where)
            assert (answer.status, answer.body, answer.headers["weave-removed"]) == (204, "", "1")
            assert [name for _, _, name in await entries(ask)] == ["db.weave.local."]

    check(tmp_path)


@on_socket
async def test_delete_removes_what_is_meant_and_no_more(ask: Asker) -> None:
    everything = [
        ("c1", "10.32.1.1", "a.weave.local."),
        ("c1", "10.32.1.2", "a.weave.local."),
        ("c2", "10.32.1.1", "a.weave.local."),
        ("c1", "10.32.1.1", "b.weave.local."),
    ]
    for path, gone in (
        ("/name/c1/10.32.1.1?fqdn=a.weave.local", [0]),
        ("/name/c1/10.32.1.1", [0, 3]),
        ("/name/c1?fqdn=a.weave.local", [0, 1]),
        ("/name/c1", [0, 1, 3]),
        ("/name?fqdn=a.weave.local", [0, 1, 2]),
        ("/name", [0, 1, 2, 3]),
        ("/name/c3", []),
        ("/name/c1/10.32.1.3", []),
        ("/name/c1?fqdn=c.weave.local", []),
        ("/name?fqdn=%20", []),
    ):
        for entry in everything:
            await add(ask, *entry)
        assert (await ask("DELETE", path)).headers["weave-removed"] == str(len(gone)), path
        left = [entry for number, entry in enumerate(everything) if number not in gone]
        assert sorted(await entries(ask)) == sorted(left), path


@on_socket
async def test_addresses_of_ipv6(ask: Asker) -> None:
    for text in ("2001:DB8:0::1", "2001:db8::1"):  # one address in two spellings
        assert (await add(ask, "c1", text, "six.weave.local")).status == 204
    assert await entries(ask) == [("c1", "2001:db8::1", "six.weave.local.")]
    assert (await ask("GET", "/lookup/six")).body == "2001:db8::1\n"
    assert (await ask("DELETE", "/name/c1/2001:db8:0:0::1")).headers["weave-removed"] == "1"


@pytest.mark.parametrize(
    "text", ["x", "10.32.1", "10.32.1.1.1", "010.32.1.1", "10.32.1.1%2F24", "%20", "1", ":::", "::g"]
)
def test_bad_address(text: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        for method in ("PUT", "DELETE"):
            answer = await ask(method, f"/name/c1/{text}?fqdn=web.weave.local")
            assert answer.status in (400, 404), answer.body
            assert "nvalid IP Address" in answer.body or "%2F" in text
        assert await entries(ask) == []

    check(tmp_path)


@on_socket
async def test_address_of_one_link_is_refused(ask: Asker) -> None:
    """The zone means something on this host only, and is lost on the way to others: they would tell of another name."""
    answer = await add(ask, "c1", "fe80::1%25eth0", "web.weave.local")
    assert (answer.status, await entries(ask)) == (400, [])


BAD_NAMES = [
    ("", "is no host name"),
    (".", "is no host name"),
    ("..", "is no host name"),
    ("a..weave.local", "is no host name: labels have 1 to 63 characters"),
    (".weave.local", "is no host name"),
    ("a b.weave.local", "use letters, digits, hyphens and dots"),
    ("a\nb.weave.local", "use letters, digits, hyphens and dots"),
    ("a\0b.weave.local", "use letters, digits, hyphens and dots"),
    ("*.weave.local", "use letters, digits, hyphens and dots"),
    ("münchen.weave.local", "use letters, digits, hyphens and dots"),
    ("名.weave.local", "use letters, digits, hyphens and dots"),
    (f"{'x' * 64}.weave.local", "labels have 1 to 63 characters"),
    (f"xx.{'x.' * 120}weave.local", "the whole name at most 253"),
    ("x" * 100_000, "is no host name"),
    ("web.example.com", "web.example.com is outside of the domain weave.local."),
    ("web", "web is outside of the domain weave.local."),
    ("web.myweave.local", "is outside of the domain weave.local."),
    ("local", "is outside of the domain weave.local."),
]


@pytest.mark.parametrize(("name", "text"), BAD_NAMES, ids=[ascii(name)[:30] for name, _ in BAD_NAMES])
def test_bad_name(name: str, text: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        strict = await add(ask, "c1", "10.32.1.1", name)
        assert (strict.status, text in strict.body) == (400, True), strict.body
        assert len(strict.body) < 400
        assert strict.body.count("\n") == 1
        assert (await add(ask, "c1", "10.32.1.1", name, strict=False)).status == 204
        assert await entries(ask) == []
        assert (await ask("DELETE", f"/name/c1?fqdn={quote(name or 'x')[:5000]}")).status == 204

    check(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "weave.local",
        "Weave.Local.",
        f"{'x' * 63}.weave.local",
        f"{'x.' * 120}x.weave.local",
        "_srv.my-web.9.weave.local",
    ],
)
def test_good_name(name: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        assert (await add(ask, "c1", "10.32.1.1", name)).status == 204
        assert await entries(ask) == [("c1", "10.32.1.1", f"{name.removesuffix('.')}.")]
        assert (await ask("GET", f"/lookup/{name}")).body == "10.32.1.1\n"

    check(tmp_path)


@on_socket
async def test_truth_values(ask: Asker) -> None:
    for text, status in (("true", 400), ("1", 400), ("false", 204), ("0", 204), ("", 204)):
        assert (await ask("PUT", f"/name/c1/10.32.1.1?fqdn=foo.other&strict={text}")).status == status
    answer = await ask("PUT", "/name/c1/10.32.1.1?fqdn=foo.other&strict=perhaps")
    assert (answer.status, answer.body) == (400, "strict='perhaps' is neither true nor false\n")
    assert (await ask("PUT", "/name/c1/10.32.1.1?fqdn=foo.weave.local&check-alive=true")).status == 204
    assert len(await entries(ask)) == 1


@on_socket
async def test_container_that_no_peer_would_take(ask: Asker) -> None:
    """Other peers leave out entries whose container has more than 1024 bytes, so the name would exist here only."""
    answer = await add(ask, "c" * 1025, "10.32.1.1", "web.weave.local")
    assert (answer.status, await entries(ask)) == (400, [])


def test_no_room_for_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_dns.table.MAX_ENTRIES", 2)
    monkeypatch.setattr("weave_dns.registry.MAX_ENTRIES", 2)

    @on_socket
    async def check(ask: Asker) -> None:
        for number in range(2):
            assert (await add(ask, "c1", f"10.32.1.{number}", "web.weave.local")).status == 204
        for strict in (True, False):
            answer = await add(ask, "c1", "10.32.1.9", "web.weave.local", strict=strict)
            assert (answer.status, "this peer knows 2 names already" in answer.body) == (503, True)
        assert (await add(ask, "c1", "10.32.1.0", "web.weave.local")).status == 204, "that one is there"

    check(tmp_path)


def test_names_outlive_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        async with running_daemon(tmp_path) as daemon:
            await add(Asker(daemon), "weave:extern", "10.32.1.1", "printer.weave.local")
            await add(Asker(daemon), "weave:extern", "10.32.1.2", "old.weave.local")
            await Asker(daemon)("DELETE", "/name/weave:extern/10.32.1.2")
        async with running_daemon(tmp_path) as daemon:
            assert await entries(Asker(daemon)) == [("weave:extern", "10.32.1.1", "printer.weave.local.")]
            assert (await Asker(daemon)("GET", "/lookup/printer")).body == "10.32.1.1\n"

    trio.run(main)


# Domain and addresses


@partial(with_daemon, dns_domain="Example.TEST")
async def test_other_domain(ask: Asker) -> None:
    assert (await ask("GET", "/domain")).body == "Example.TEST."
    assert (await add(ask, "c1", "10.32.1.1", "web.Example.TEST")).status == 204
    answer = await add(ask, "c1", "10.32.1.1", "web.weave.local")
    assert (answer.status, "outside of the domain Example.TEST." in answer.body) == (400, True)
    assert (await ask("GET", "/lookup/web")).body == "10.32.1.1\n"
    assert (await ask("GET", "/status/dns")).body.startswith("web          10.32.1.1 ")


WAITING = "no address to listen at: the bridge has none; 'weave expose' gives it one"


@on_socket
async def test_no_address_to_listen_at(ask: Asker) -> None:
    for path in ("/dns-address", "/dns-address-port"):
        answer = await ask("GET", path)
        assert (answer.status, answer.body) == (503, f"{WAITING}\n")
        assert (await ask("GET", path, headers=JSON)).json == {"error": WAITING}
    assert (await ask("GET", "/domain")).status == 200
    status = (await ask("GET", "/status")).body
    assert f"      Listening: none\n        Trouble: {WAITING}\n" in status
    assert (await ask("GET", "/report?format=.DNS.Address")).body == "\n"


def test_address_that_this_host_does_not_have(tmp_path: Path) -> None:
    @partial(with_daemon, dns_listen_address="192.0.2.77:53")
    async def check(ask: Asker) -> None:
        answer = await ask("GET", "/dns-address")
        text = "cannot listen at 192.0.2.77:53: Cannot assign requested address"
        assert (answer.status, answer.body) == (503, f"{text}\n")
        assert f"Trouble: {text}\n" in (await ask("GET", "/status")).body

    check(tmp_path)


def test_addresses_of_the_bridge_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("weave_dns.server.ListenAddress", lambda host: ListenAddress(host, port))

    @partial(with_daemon, dns_listen_address=f"127.0.0.9:{port}")
    async def check(ask: Asker) -> None:
        async def told() -> tuple[str, ...]:
            await trio.testing.wait_all_tasks_blocked(0.02)
            answers = [(await ask("GET", path)).body for path in ("/dns-address", "/dns-address-port")]
            return (*answers, (await ask("GET", "/report?format=.DNS.Address")).body.strip())

        assert await told() == ("127.0.0.9", f"127.0.0.9:{port}", f"127.0.0.9:{port}")
        ask.daemon.fakes.host.set_bridge_addresses("weave", [ip_interface("127.0.0.5/8")])
        assert await told() == ("127.0.0.5", f"127.0.0.5:{port}", f"127.0.0.5:{port}")
        assert f"Listening: 127.0.0.5:{port}, 127.0.0.9:{port}\n" in (await ask("GET", "/status")).body
        ask.daemon.fakes.host.set_bridge_addresses("weave", [ip_interface("::1/128")])
        assert await told() == ("::1", f"[::1]:{port}", f"[::1]:{port}")
        ask.daemon.fakes.host.set_bridge_addresses("weave", [])
        assert (await told())[0] == "127.0.0.9"

    check(tmp_path)


@pytest.mark.parametrize("exists", [True, False])
def test_resolv_conf_is_told_before_anybody_asked(tmp_path: Path, exists: bool) -> None:
    """`weave status` after `weave launch` must not say that there are no servers, nor keep silent about a bad file."""
    path = tmp_path / "resolv.conf"
    if exists:
        path.write_text("nameserver 192.0.2.53\nnameserver 2001:db8::53\n")

    @partial(with_daemon, resolv_conf=str(path))
    async def check(ask: Asker) -> None:
        status = (await ask("GET", "/status")).body
        if exists:
            assert "       Upstream: 192.0.2.53, 2001:db8::53\n" in status
        else:
            assert "       Upstream: none\n" in status
            assert str(path) in status

    check(tmp_path)


# Looking up


@on_socket
async def test_look_up_of_own_names(ask: Asker) -> None:
    for address in ("10.32.1.2", "10.32.1.1", "fd00::1"):
        await add(ask, "c1", address, "Web.weave.local")
    await add(ask, "c2", "10.32.1.1", "web.weave.local")
    for name in ("web", "WEB", "web.", "web.weave.local", "Web.Weave.LOCAL."):
        answer = await ask("GET", f"/lookup/{name}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert sorted(answer.body.splitlines()) == ["10.32.1.1", "10.32.1.2", "fd00::1"], "each once"


@on_socket
async def test_look_up_of_what_is_not_there(ask: Asker) -> None:
    await add(ask, "c1", "10.32.1.1", "a.b.weave.local")
    for name in ("nobody", "nobody.weave.local", "b.weave.local", "b", "weave.local"):
        answer = await ask("GET", f"/lookup/{name}")
        assert (answer.status, answer.body) == (404, f"there is no address of {name}\n")
    assert (await ask("GET", "/lookup/nobody", headers=JSON)).json == {"error": "there is no address of nobody"}


def with_upstream(resolv_conf: str) -> Callable[..., Callable[[Path], None]]:
    """Make a test of a coroutine: the daemon's host has this list of name servers."""

    def decorate(check: Callable[[Asker], Awaitable[None]]) -> Callable[[Path], None]:
        def run(tmp_path: Path) -> None:
            (tmp_path / "resolv.conf").write_text(resolv_conf)
            with_daemon(check, resolv_conf=str(tmp_path / "resolv.conf"))(tmp_path)

        return run

    return decorate


@pytest.mark.parametrize("name", ["", ".", "..", "a b", "a/b", "a?b", "a%b", "ä", "\0", "x" * 64, "x." * 130, "a..b"])
def test_look_up_of_what_is_no_name(name: str, tmp_path: Path) -> None:
    @on_socket
    async def check(ask: Asker) -> None:
        answer = await ask("GET", f"/lookup/{quote(name, safe='')}")
        assert (answer.status, "is no host name" in answer.body) == (400, True), answer.body

    check(tmp_path)


def test_look_up_of_outside_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = "real.example.com."
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")

    async def behave(received: Received) -> None:
        question = received.query.question[0]
        alias = f"{question.name.to_text()} 60 IN CNAME {real}"
        if question.name.to_text() == "nothing.example.com.":
            await nothing_there(received)
        elif question.rdtype == dns.rdatatype.A:
            await answers(alias, f"{real} 60 IN A 192.0.2.7", f"{real} 60 IN A 192.0.2.8")(received)
        else:
            await answers(alias, f"{real} 60 IN AAAA 2001:db8::7")(received)

    async def main() -> None:
        stub = StubServer()
        stub.behave = behave
        monkeypatch.setattr("weave_dns.weavedns.Forwarder", partial(Forwarder, port=stub.port))
        changes: dict[str, Any] = {"resolv_conf": str(tmp_path / "resolv.conf"), "dns_fallback_timeout": "300ms"}
        async with trio.open_nursery() as nursery, running_daemon(tmp_path, **changes) as daemon:
            nursery.start_soon(stub.run)
            ask = Asker(daemon)
            answer = await ask("GET", "/lookup/WWW.example.com")
            assert (answer.status, answer.body) == (200, "192.0.2.7\n192.0.2.8\n2001:db8::7\n")
            answer = await ask("GET", "/lookup/nothing.example.com")
            assert (answer.status, answer.body) == (404, "there is no address of nothing.example.com\n")
            assert "Upstream: 127.0.0.1\n" in (await ask("GET", "/status")).body
            assert (await ask("GET", "/report?format=.DNS.Counters.upstream_answered")).body == "4\n"
            stub.behave = silent
            answer = await ask("GET", "/lookup/slow.example.com")
            assert answer.status == 503
            assert answer.body.startswith(
                "slow.example.com. A: no upstream name server answered within 0.3 s: 127.0.0.1"
            )
            nursery.cancel_scope.cancel()

    trio.run(main)


@with_upstream("")
async def test_look_up_without_an_upstream_server(ask: Asker) -> None:
    answer = await ask("GET", "/lookup/www.example.com")
    assert (answer.status, answer.body) == (
        503,
        "www.example.com. A: this host has no upstream name server: add one to its resolv.conf\n",
    )


# Rights, and the service that is off

READING = ("/domain", "/dns-address", "/dns-address-port", "/lookup/web", "/status/dns")
CHANGING = (
    ("PUT", "/name/c1/10.32.1.1?fqdn=x.weave.local"),
    ("DELETE", "/name/c1/10.32.1.1"),
    ("DELETE", "/name/c1"),
    ("DELETE", "/name"),
)


@on_socket
async def test_methods(ask: Asker) -> None:
    for method, path in (
        ("POST", "/name"),
        ("PUT", "/name"),
        ("PUT", "/name/c1"),
        ("GET", "/name/c1"),
        ("GET", "/name/c1/10.32.1.1"),
        ("POST", "/lookup/web"),
        ("DELETE", "/domain"),
    ):
        assert (await ask(method, path)).status == 405, (method, path)


def at_an_address(with_listener: Callable[..., Any]) -> Callable[..., Any]:
    """The same with an address to listen at."""
    return partial(with_listener, dns_listen_address=f"127.0.0.1:{free_port()}")


@at_an_address(on_tcp)
async def test_tcp_reads_only(ask: Asker) -> None:
    await add(replace(ask, tcp=False), "c1", "10.32.1.1", "web.weave.local")
    for path in READING:
        assert (await ask("GET", path)).status == 200, path
    assert len(await entries(ask)) == 1
    for method, path in CHANGING:
        answer = await ask(method, path)
        assert (answer.status, answer.body.startswith("read-only: ")) == (403, True)
    assert len(await entries(ask)) == 1


@at_an_address(on_writable_tcp)
async def test_writable_tcp(ask: Asker) -> None:
    for method, path in CHANGING:
        assert (await ask(method, path)).status == 204
    assert await entries(ask) == []


@partial(with_daemon, dns=False)
async def test_names_that_are_off(ask: Asker) -> None:
    for method, path in (*(("GET", path) for path in (*READING, "/name")), *CHANGING):
        answer = await ask(method, path)
        assert (answer.status, answer.body) == (404, OFF), (method, path)
        assert (await ask(method, path, headers=JSON)).json == {"error": OFF.strip()}
    assert "dns" not in (await ask("GET", "/status")).body
    assert "DNS" not in (await ask("GET", "/report")).json
    assert "weave_dns" not in (await ask("GET", "/metrics")).body
