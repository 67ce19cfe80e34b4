"""The daemon's CNI socket and callers that are stuck, die, lie, or send what nobody should."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from cni_plugin.hostile_caller import Answer, GoneError, Hostile, with_daemon
from weave_cni.server import CniServer
from weave_net.attachment import host_interface_name
from weave_net.testing.wirings import FakeWiring

pytestmark = pytest.mark.root

HOST_LOCAL = {"ipam": {"type": "host-local"}}


def test_life(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        result = (await hostile.ask("ADD")).result
        await hostile.ask("CHECK", {"prevResult": result})
        assert (await hostile.ask("DEL")).status == 0
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


# An ADD that fails leaves nothing, whatever it fails at


@pytest.mark.parametrize(
    "config",
    [
        {"dns": {"domain": "\ud800"}},
        {"runtimeConfig": {"dns": {"servers": ["\ud800"]}}},
        {"runtimeConfig": {"aliases": ["\ud800"]}},
        {"prevResult": {"interfaces": [{"name": "\ud800"}]}},
        {"prevResult": {"ips": [{"address": 167772161}]}},
        {"prevResult": {"ips": [{"address": True}]}},
        {"prevResult": {"ip4": {"ip": "10.0.0.1/8", "routes": 5}}},
        {"prevResult": {"ip4": {"ip": "10.0.0.1/8", "routes": ["x"]}}},
        {"prevResult": {"ip4": {"ip": 5}}},
        {"mac": "x", "runtimeConfig": {"mac": "\ud800"}},
        {"bridge": "\ud800"},
        {"ipam": {"routes": [{"dst": "10.0.0.0/8", "gw": 5}]}},
        {"ipam": {"routes": [{"dst": "10.0.0.0/8", "\ud800": 5}]}},
    ],
    ids=str,
)
def test_configuration_that_makes_no_sense_leaves_nothing(tmp_path: Path, netns: str, config: dict[str, Any]) -> None:
    """Either it is served, or refused with a code that is not "fault of ours" and without a trace."""

    async def check(hostile: Hostile) -> None:
        answer = await hostile.ask("ADD", config)
        if answer.status:
            assert answer.code != 999, answer.document
            await hostile.check_nothing_left()
        assert (await hostile.ask("DEL")).status == 0
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns, dns=True)


def test_error_in_a_version_that_is_no_text(tmp_path: Path, netns: str) -> None:
    """A lone surrogate cannot be printed; the caller is answered all the same."""

    async def check(hostile: Hostile) -> None:
        assert (await hostile.ask("ADD", {"cniVersion": "\ud800"})).code in (1, 6)
        assert (await hostile.ask("STATUS", {"ipam": {"subnet": "\ud800"}})).code in {6, 7}

    with_daemon(check, tmp_path, netns)


def test_interface_name_that_is_no_utf8(tmp_path: Path, netns: str) -> None:
    """It is refused as bad input, not as a fault of the daemon."""

    async def check(hostile: Hostile) -> None:
        assert (await hostile.ask("ADD", CNI_IFNAME="eth\udcff")).code == 4
        assert (await hostile.ask("DEL", CNI_IFNAME="eth\udcff")).code == 4

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("interface", ["eth0+x", "-eth0", "net@1", "ä", "…"])
def test_interface_that_could_not_be_added_can_be_deleted(tmp_path: Path, netns: str, interface: str) -> None:
    """The runtime deletes after an ADD that failed, and does not give up until that succeeds."""

    async def check(hostile: Hostile) -> None:
        added = await hostile.ask("ADD", CNI_IFNAME=interface)
        assert (await hostile.ask("DEL", CNI_IFNAME=interface)).status == 0, added
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


def test_namespace_path_that_is_no_utf8(tmp_path: Path, netns: str) -> None:
    """One odd path must not keep everybody from listing attachments, which GC and `weave ps` do."""

    async def check(hostile: Hostile) -> None:
        answer = await hostile.ask("ADD", CNI_NETNS=f"{netns}\udcff")
        assert answer.status == 0 or answer.code != 999
        assert len(await hostile.attachments()) == (not answer.status)
        assert (await hostile.ask("GC", {"cni.dev/valid-attachments": []})).status == 0
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


def test_check_with_a_previous_result_that_makes_no_sense(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        result = (await hostile.ask("ADD")).result
        indices: list[object] = [[], {}, "2", -1, 2.0]
        for index in indices:
            ips = [{"address": "10.9.9.9/8", "interface": index}]
            answer = await hostile.ask("CHECK", {"prevResult": {**result, "ips": ips}})
            assert answer.status == 0 or answer.code != 999, index
        addresses: list[object] = [5, "x", "\ud800", [], "01:00:00:00:00:00"]
        for mac in addresses:
            interfaces = [*result["interfaces"][:2], {**result["interfaces"][2], "mac": mac}]
            answer = await hostile.ask("CHECK", {"prevResult": {**result, "interfaces": interfaces}})
            assert answer.status == 0 or answer.code in {6, 7, 102}, mac

    with_daemon(check, tmp_path, netns)


# Other plugins


async def delegated_add(hostile: Hostile) -> Any:
    caller = hostile.call("ADD", HOST_LOCAL)
    asked = await caller.delegation()
    assert (asked.plugin, asked.command) == ("host-local", "ADD")
    return caller


def test_delegated_plugin_that_fails_is_told_to_delete(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        for printed in (b"", b"no JSON", b"[" * 100_000, b"[]", b'{"ips": [{"address": 5}]}', b'{"ips": []}'):
            caller = await delegated_add(hostile)
            await caller.done(printed)
            assert (await caller.delegation()).command == "DEL", printed[:20]
            await caller.done()
            answer = await caller.answer()
            assert answer.code != 999, (printed[:20], answer)
            assert "host-local" in answer.document["msg"]
            await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("gateway", [5, "x", [], {}, "fe80::1%eth0", "\ud800"])
def test_gateway_of_another_plugin_that_is_none(tmp_path: Path, netns: str, gateway: object) -> None:
    async def check(hostile: Hostile) -> None:
        for routes in ([], [{"dst": "0.0.0.0/0"}]):
            caller = await delegated_add(hostile)
            await caller.done({"ips": [{"address": "10.99.0.2/24", "gateway": gateway}], "routes": routes})
            frame = await caller.next()
            if not hasattr(frame, "status"):
                await caller.done()
                frame = await caller.answer()
            if frame.status:
                assert frame.code != 999
                await hostile.check_nothing_left()
            assert (await hostile.ask("DEL")).status == 0

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("order", [1, -1])
def test_gateways_of_both_families(tmp_path: Path, netns: str, order: int) -> None:
    """Routes without a gateway go by that of their family, and the result tells both (as the Go library does it)."""

    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        ips = [
            {"address": "10.99.0.2/24", "gateway": "10.99.0.1"},
            {"address": "fd00:99::2/64", "gateway": "fd00:99::1"},
        ][::order]
        await caller.done({"ips": ips, "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]})
        result = (await caller.answer()).result
        via = {route["dst"]: route.get("gw") for route in result["routes"]}
        assert (via["0.0.0.0/0"], via["::/0"]) == ("10.99.0.1", "fd00:99::1")
        told = {entry["address"]: entry.get("gateway") for entry in result["ips"]}
        assert told == {"10.99.0.2/24": "10.99.0.1", "fd00:99::2/64": "fd00:99::1"}

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("command", ["DEL", "GC", "STATUS"])
def test_output_of_commands_that_have_none_does_not_matter(tmp_path: Path, netns: str, command: str) -> None:
    """The Go library does not look at it; a container whose address is free must not stay for ever."""

    async def check(hostile: Hostile) -> None:
        config = {**HOST_LOCAL, "cni.dev/valid-attachments": []}
        caller = hostile.call(command, config)
        assert (await caller.delegation()).command == command
        await caller.done(b"deleted\n")
        assert (await caller.answer()).status == 0

    with_daemon(check, tmp_path, netns)


def test_plugin_that_crashed_is_not_told_of_as_bad_json(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        caller = hostile.call("DEL", HOST_LOCAL)
        await caller.delegation()
        await caller.done(b"panic: out of luck", status=2)
        answer = await caller.answer()
        assert answer.code != 6
        assert "failed" in answer.document["msg"]
        assert "panic: out of luck" in answer.document["msg"] + answer.document.get("details", "")

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("command", ["ADD", "DEL", "GC", "STATUS"])
def test_plugin_that_would_call_itself(tmp_path: Path, netns: str, command: str) -> None:
    """`ipam.type` by mistake: each call would begin another one, without an end."""

    async def check(hostile: Hostile) -> None:
        answer = await hostile.ask(command, {"ipam": {"type": "weave-net"}, "cni.dev/valid-attachments": []})
        if command in ("ADD", "STATUS"):
            assert answer.code == 7
            assert "ipam" in answer.document["msg"]
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("plugin", ["../../bin/sh", "/bin/sh", "..", "a\0LD_PRELOAD=x", "a=b", "\ud800", "x" * 300])
def test_names_that_no_plugin_has(tmp_path: Path, netns: str, plugin: str) -> None:
    """They are refused where they are read, before anything is made, and never reach the caller's environment."""

    async def check(hostile: Hostile) -> None:
        for command in ("ADD", "STATUS"):
            assert (await hostile.ask(command, {"ipam": {"type": plugin}})).code in (6, 7)
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


# Callers that are stuck or die


def test_stuck_caller_does_not_hold_up_the_stop(tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delegated ADD is not answered, nor is the DEL that takes it back."""

    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        with trio.fail_after(10):
            await hostile.daemon.call(lambda client: client.post("/stop"))
            await hostile.daemon.ended.wait()
        caller.close()

    with_daemon(check, tmp_path, netns)


def test_stuck_caller_is_given_up(tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left after the time limit, although the caller still has its end open."""
    monkeypatch.setattr("weave_cni.server.CALL_LIMIT_S", 0.3)

    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        await hostile.wait_until_nothing_left()
        caller.close()

    with_daemon(check, tmp_path, netns)


def test_call_that_takes_too_long_is_answered(tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that just ends would be taken for a daemon that is not there ("start it with 'weave launch'")."""
    monkeypatch.setattr("weave_cni.server.CALL_LIMIT_S", 0.3)

    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        frame: Any = await caller.next()
        if not hasattr(frame, "status"):
            await caller.done()
            frame = await caller.answer()
        assert frame.code == 11
        await hostile.check_nothing_left()

    with_daemon(check, tmp_path, netns)


def test_stuck_caller_that_reads_nothing(tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even the last word fits into the socket: the connection is closed all the same."""
    monkeypatch.setattr("weave_cni.server.CALL_LIMIT_S", 0.3)

    async def check(hostile: Hostile) -> None:
        config = {**HOST_LOCAL, "dns": {"search": ["x" * 1000] * 1000}}
        caller = await trio.to_thread.run_sync(hostile.call, "STATUS", config)
        await trio.sleep(4)
        with pytest.raises(OSError, match="Broken pipe"):
            await caller.done()

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("when", ["before the answer", "while the plugin runs", "half an answer"])
def test_caller_that_dies_in_a_delegated_add(tmp_path: Path, netns: str, when: str) -> None:
    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        if when == "half an answer":
            await caller._send(b"D\0\0\0\x20{")
        if when == "before the answer":
            await caller.done({"ips": [{"address": "10.99.0.2/24"}]})
        caller.close()
        await hostile.wait_until_nothing_left()

    with_daemon(check, tmp_path, netns)


def test_caller_that_sends_too_much_leaves_nothing(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        caller = await delegated_add(hostile)
        with suppress(OSError):
            await caller._send(b"D" + (5 << 20).to_bytes(4, "big") + bytes(5 << 20))
        with suppress(GoneError):
            frame = await caller.next()
            assert not isinstance(frame, Answer) or frame.status
        await hostile.wait_until_nothing_left()

    with_daemon(check, tmp_path, netns)


def test_late_end_of_a_dead_call_leaves_its_successor_alone(
    tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime gave up on an ADD, deleted, and added again: what the first call takes back is not the second's."""

    async def check(hostile: Hostile) -> None:
        # The name server does not listen in this daemon of fakes, for which an ADD waits a moment.
        first = hostile.call("ADD")
        with trio.fail_after(5):
            while not await hostile.attachments():  # noqa: ASYNC110
                await trio.sleep(0.01)
        first.close()
        assert (await hostile.ask("DEL")).status == 0
        assert (await hostile.ask("ADD", {"dns": {"nameservers": ["10.0.0.1"]}})).status == 0
        await trio.sleep(3)
        assert [known["id"] for known in await hostile.attachments()] == ["web"]
        assert len(hostile.links) == 1

    monkeypatch.setattr("weave_cni.operations.NAME_SERVER_WAIT_S", 2.0)
    with_daemon(check, tmp_path, netns, dns=True)


def test_daemon_that_stops_in_the_middle_of_an_add_leaves_nothing(tmp_path: Path, netns: str) -> None:
    """Whoever has not been told of an interface does not have one, also at the next start."""

    async def check(hostile: Hostile) -> None:
        # The name server does not listen in this daemon of fakes, for which an ADD waits a moment: all are under way.
        callers = {
            f"c{number}": hostile.call("ADD", CNI_CONTAINERID=f"c{number}", CNI_IFNAME=f"eth{number}")
            for number in range(8)
        }
        await trio.sleep(0.1)
        await hostile.daemon.call(lambda client: client.post("/stop"))
        told = set()
        for container, caller in callers.items():
            with suppress(GoneError):
                if (await caller.answer()).status == 0:
                    told.add(host_interface_name(container, f"eth{container[1:]}"))
        await hostile.daemon.ended.wait()
        assert hostile.links == told

    with_daemon(check, tmp_path, netns, dns=True)


@pytest.mark.parametrize("delay_s", [0, 0.003, 0.01, 0.03, 0.06])
@pytest.mark.parametrize("plugin", ["weave-net", "weave-ipam"])
def test_next_daemon_knows_what_callers_of_the_last_were_told(
    tmp_path: Path, netns: str, plugin: str, delay_s: float
) -> None:
    fakes, told = FakeWiring(), set()

    def names(number: int) -> dict[str, str]:
        return {"WEAVE_CNI_PLUGIN": plugin, "CNI_CONTAINERID": f"c{number}", "CNI_IFNAME": f"eth{number}"}

    async def stop(hostile: Hostile) -> None:
        callers = {number: hostile.call("ADD", None, **names(number)) for number in range(12)}
        await trio.sleep(delay_s)
        await hostile.daemon.call(lambda client: client.post("/stop"))
        for number, caller in callers.items():
            with suppress(GoneError):
                if (await caller.answer()).status == 0:
                    told.add(number)
        await hostile.daemon.ended.wait()

    async def check(hostile: Hostile) -> None:
        owners = {f"c{number}" if plugin == "weave-net" else f"cni:weave:c{number}:eth{number}" for number in told}
        assert (await hostile.owned()).keys() == owners
        assert {known["id"] for known in await hostile.attachments()} == (owners if plugin == "weave-net" else set())
        assert len(hostile.links) == (len(told) if plugin == "weave-net" else 0)
        for number in told:
            assert (await hostile.ask("DEL", None, **names(number))).status == 0
        await hostile.check_nothing_left()

    with_daemon(stop, tmp_path, netns, fakes)
    with_daemon(check, tmp_path, netns, fakes)


@pytest.mark.parametrize(
    "data", [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x09", b"\0\0\0\0\0\0\0\0", b"\0\0\0\x04\xff=\xfe\0\0\0\0\0"]
)
def test_garbage_is_no_call(tmp_path: Path, netns: str, data: bytes) -> None:
    async def check(hostile: Hostile) -> None:
        descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for _ in range(20):
            hostile.send(data).close()
        assert (await hostile.ask("VERSION")).status == 0
        with trio.fail_after(5):
            while len(os.listdir("/proc/self/fd")) > descriptors:  # noqa: ASYNC110, PTH208
                await trio.sleep(0.05)

    with_daemon(check, tmp_path, netns)


def test_many_descriptors(tmp_path: Path, netns: str) -> None:
    """One is expected; what else comes is closed, however many there are and whenever they come."""
    import socket

    async def check(hostile: Hostile) -> None:
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for count in (2, 5, 200):
            for first in (b"", b"\0\0\0\x10"):
                with socket.socket(socket.AF_UNIX) as sock, Path(netns).open("rb") as namespace:  # noqa: ASYNC230
                    sock.connect(str(hostile.path))
                    if first:
                        sock.sendall(first)
                        await trio.sleep(0.05)
                    socket.send_fds(sock, [b"\0"], [namespace.fileno()] * count)
                    await trio.sleep(0.05)
        await trio.sleep(0.2)
        assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208

    with_daemon(check, tmp_path, netns)


def test_many_callers_that_say_nothing(tmp_path: Path, netns: str) -> None:
    async def check(hostile: Hostile) -> None:
        silent = [hostile.send(b"", "DEL") for _ in range(400)]
        with trio.fail_after(10):
            assert (await hostile.ask("ADD")).status == 0
        for caller in silent:
            caller.close()

    with_daemon(check, tmp_path, netns)


# Calls about the same container


@pytest.mark.parametrize("config", [{}, {"ipam": {"subnet": "nonsense"}}, {"cniVersion": "9.9"}], ids=str)
def test_second_address_that_is_refused_leaves_the_first(tmp_path: Path, netns: str, config: dict[str, Any]) -> None:
    """What an ADD that fails takes back is its own only."""

    async def check(hostile: Hostile) -> None:
        foreign = {"WEAVE_CNI_PLUGIN": "weave-ipam"}
        assert (await hostile.ask("ADD", None, **foreign)).status == 0
        before = await hostile.owned()
        assert (await hostile.ask("ADD", config, **foreign)).status == 1
        assert before == await hostile.owned() != {}

    with_daemon(check, tmp_path, netns)


@pytest.mark.parametrize("plugin", ["weave-net", "weave-ipam"])
def test_second_add_at_the_same_time_leaves_the_first(tmp_path: Path, netns: str, plugin: str) -> None:
    async def check(hostile: Hostile) -> None:
        for number in range(5):
            names = {"WEAVE_CNI_PLUGIN": plugin, "CNI_CONTAINERID": f"c{number}", "CNI_IFNAME": f"eth{number}"}
            callers = [hostile.call("ADD", None, **names) for _ in range(3)]
            answers = [await caller.answer() for caller in callers]
            good = [answer for answer in answers if answer.status == 0]
            assert len(good) == 1
            assert [good[0].result["ips"][0]["address"]] in (await hostile.owned()).values()

    with_daemon(check, tmp_path, netns)


class Canceller(trio.abc.Instrument):
    """Cancels a call at its n-th step, which is where daemons stop and time limits end."""

    def __init__(self) -> None:
        self.steps = 0
        self.finished = False
        self.scope: trio.CancelScope | None = None
        self.task: trio.lowlevel.Task | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task and self.scope is not None:
            self.steps -= 1
            if self.steps == 0:
                self.scope.cancel()


@pytest.mark.parametrize("kind", ["weave-net", "with names", "weave-ipam", "several addresses", "delegated"])
def test_whenever_an_add_is_cancelled_nothing_is_left(
    tmp_path: Path, netns: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Either the caller is told of success, or there is nothing, and a second ADD succeeds."""
    canceller = Canceller()
    answer = CniServer._answer

    async def cancelled_answer(server: CniServer, caller: Any) -> None:
        if not canceller.steps:
            await answer(server, caller)
            return
        with trio.CancelScope() as scope:
            canceller.scope, canceller.task = scope, trio.lowlevel.current_task()
            await answer(server, caller)
        canceller.finished = not scope.cancel_called
        canceller.scope, canceller.steps = None, 0

    configs: dict[str, dict[str, Any]] = {
        "weave-net": {},
        "with names": {"runtimeConfig": {"aliases": ["a", "b"]}, "dns": {"nameservers": ["10.0.0.1"]}},
        "weave-ipam": {},
        "several addresses": {"runtimeConfig": {"ips": ["10.32.0.77", "10.32.0.78", "10.32.0.79"]}},
        "delegated": HOST_LOCAL,
    }
    config = configs[kind]
    plugin = "weave-ipam" if kind in ("weave-ipam", "several addresses") else "weave-net"

    async def attempt(hostile: Hostile) -> bool:
        caller = hostile.call("ADD", config, WEAVE_CNI_PLUGIN=plugin)
        leased = False
        with suppress(GoneError):
            while not isinstance(frame := await caller.next(), Answer):
                leased = frame.command == "ADD"
                await caller.done({"ips": [{"address": "10.99.0.2/24"}]} if leased else b"")
            return frame.status == 0
        return False

    async def check(hostile: Hostile) -> None:
        trio.lowlevel.add_instrument(canceller)
        for step in range(1, 200):
            canceller.steps = step
            told = await attempt(hostile)
            with trio.fail_after(5):
                while canceller.steps:  # noqa: ASYNC110 - answered before the daemon is done
                    await trio.sleep(0.01)
            if not told:
                await hostile.check_nothing_left()
                assert await attempt(hostile), step
            assert (await hostile.ask("DEL", WEAVE_CNI_PLUGIN=plugin)).status == 0
            await hostile.check_nothing_left()
            if canceller.finished:
                assert step > 3
                return
        raise AssertionError("it never ended")

    monkeypatch.setattr(CniServer, "_answer", cancelled_answer)
    with_daemon(check, tmp_path, netns, dns=kind == "with names")
