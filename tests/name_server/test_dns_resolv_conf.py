"""The host's name servers: what the file says, that changes are noticed, and that a bad file does no harm."""

from __future__ import annotations

import logging
import os
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from weave_dns.resolv_conf import LOOK_S, MOST_SERVERS, ResolvConf, parse_resolv_conf

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def texts(servers: tuple[object, ...]) -> list[str]:
    return [str(server) for server in servers]


def parsed(text: str) -> list[str]:
    return texts(parse_resolv_conf(text))


def on_mock_clock(check: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await check()

    trio.run(main, clock=MockClock())


def later(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, MockClock)
    clock.jump(seconds)


# What the file says


def test_servers_are_taken_in_order() -> None:
    assert parsed("nameserver 10.0.0.2\nnameserver 2001:db8::1\nnameserver 10.0.0.1\n") == [
        "10.0.0.2",
        "2001:db8::1",
        "10.0.0.1",
    ]


def test_spaces_tabs_comments_and_line_ends() -> None:
    text = "# nameserver 1.1.1.1\n; nameserver 1.1.1.2\n \tnameserver\t \t10.0.0.1 # ours\r\nnameserver 10.0.0.2;x\n"
    assert parsed(text) == ["10.0.0.1", "10.0.0.2"]


def test_other_lines_do_no_harm() -> None:
    """An option of 8 characters, `trust-ad`, ends Weave Net 2.8 (dns.md section 14)."""
    text = "domain x\nsearch a b c\noptions trust-ad timeout:x ndots: edns0\nsortlist 1.2.3.4\nnameserver 10.0.0.1\n"
    assert parsed(text) == ["10.0.0.1"]


@pytest.mark.parametrize(
    "line",
    [
        "nameserver",
        "nameserver ",
        "nameserver example.com",
        "nameserver 10.0.0.256",
        "nameserver 10.0.0.1:53",
        "nameserver #10.0.0.1",
        "nameservers 10.0.0.1",
        "NAMESERVER 10.0.0.1",
        "nameserver 0.0.0.0",
        "nameserver ::",
        "nameserver 224.0.0.251",
        "nameserver ff02::fb",
        "nameserver 255.255.255.255",
        "nameserver fe80::1",
        "nameserver \x00",
    ],
)
def test_what_is_no_usable_server_is_passed_over(line: str) -> None:
    assert parsed(f"{line}\nnameserver 10.0.0.9") == ["10.0.0.9"]


def test_interface_is_kept_where_it_is_needed() -> None:
    assert parsed("nameserver fe80::1%eth0\nnameserver 2001:db8::1%eth0") == ["fe80::1%eth0", "2001:db8::1"]


def test_each_server_once_however_it_is_written() -> None:
    assert parsed(
        "nameserver 10.0.0.1\nnameserver ::ffff:10.0.0.1\nnameserver 2001:DB8::0:1\nnameserver 2001:db8::1"
    ) == [
        "10.0.0.1",
        "2001:db8::1",
    ]


def test_number_of_servers_is_limited() -> None:
    assert len(parse_resolv_conf("".join(f"nameserver 10.0.0.{n}\n" for n in range(1, 100)))) == MOST_SERVERS


@given(st.lists(st.sampled_from(["nameserver", " ", "\t", "\n", "10.0.0.1", "fe80::1", "%", "#", ";"]) | st.text()))
def test_no_text_raises(parts: list[str]) -> None:
    servers = parse_resolv_conf("".join(parts))
    assert len(set(servers)) == len(servers) <= MOST_SERVERS


# The file and its changes


def test_changes_are_noticed_after_a_while(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 10.0.0.1\n")
        conf = ResolvConf(path)
        assert (conf.current, conf.status) == ((), "")
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.1"]
        path.write_text("nameserver 10.0.0.22\n")
        later(LOOK_S - 0.1)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.1"]
        later(0.2)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.22"]
        assert texts(conf.current) == ["10.0.0.22"]

    on_mock_clock(check)


def test_file_put_in_its_place_is_noticed_with_equal_size_and_time(tmp_path: Path) -> None:
    async def check() -> None:
        path, new = tmp_path / "resolv.conf", tmp_path / "new"
        path.write_text("nameserver 10.0.0.1\n")
        new.write_text("nameserver 10.0.0.2\n")
        for each in (path, new):
            os.utime(each, (1, 1))
        conf = ResolvConf(path)
        await conf.servers(trio.current_time())
        new.replace(path)
        later(LOOK_S)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.2"]

    on_mock_clock(check)


def test_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 10.0.0.1\n")
        os.utime(path, (1, 1))
        conf = ResolvConf(path)
        await conf.servers(trio.current_time())
        path.write_text("nameserver 10.0.0.2\n")  # same size, same inode
        os.utime(path, (1, 1))
        later(LOOK_S)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.1"]

    on_mock_clock(check)


def test_own_addresses_are_left_out_at_each_call(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 172.17.0.1\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\n")
        own = {ip_address("172.17.0.1"), ip_address("fe80::1")}
        conf = ResolvConf(path, own=lambda: own)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.1"]
        own.add(ip_address("10.0.0.1"))
        assert await conf.servers(trio.current_time()) == ()
        assert "names only this name server itself" in conf.status
        own.clear()
        assert texts(await conf.servers(trio.current_time())) == ["172.17.0.1", "10.0.0.1", "fe80::1%eth0"]
        assert conf.status == ""

    on_mock_clock(check)


def test_unreadable_file_leaves_the_last_known_and_is_logged_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 10.0.0.1\n")
        conf = ResolvConf(path)
        await conf.servers(trio.current_time())
        path.unlink()
        for _ in range(11):
            later(LOOK_S)
            assert texts(await conf.servers(trio.current_time())) == ["10.0.0.1"]
        assert conf.status == f"{path} cannot be read: No such file or directory; the servers known before stay in use"
        assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [conf.status]
        path.write_text("nameserver 10.0.0.2\n")
        later(LOOK_S)
        assert texts(await conf.servers(trio.current_time())) == ["10.0.0.2"]
        assert conf.status == ""

    on_mock_clock(check)


def test_file_that_never_was_there(tmp_path: Path) -> None:
    async def check() -> None:
        conf = ResolvConf(tmp_path / "resolv.conf")
        assert await conf.servers(trio.current_time()) == ()
        assert conf.status.endswith("cannot be read: No such file or directory")

    on_mock_clock(check)


@pytest.mark.parametrize("what", ["fifo", "directory"])
def test_what_is_no_file_holds_nothing_up(what: str, tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        if what == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
        conf = ResolvConf(path)
        assert await conf.servers(trio.current_time()) == ()
        assert "cannot be read: it is no regular file" in conf.status

    on_mock_clock(check)


def test_bytes_that_are_no_text_and_a_file_without_end(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_bytes(b"\xff\xfe\nnameserver 10.0.0.1\n" + b"#" * 10_000_000 + b"\nnameserver 10.0.0.2\n")
        assert texts(await ResolvConf(path).servers(trio.current_time())) == ["10.0.0.1"]

    on_mock_clock(check)


def test_file_without_servers_says_so(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("search example.com\n")
        conf = ResolvConf(path)
        assert await conf.servers(trio.current_time()) == ()
        assert conf.status == f"{path} names no name server: add a nameserver line"

    on_mock_clock(check)


def test_all_who_ask_first_wait_for_the_first_look(tmp_path: Path) -> None:
    async def check() -> None:
        path = tmp_path / "resolv.conf"
        path.write_text("nameserver 10.0.0.1\n")
        conf = ResolvConf(path)
        seen: list[list[str]] = []

        async def ask() -> None:
            seen.append(texts(await conf.servers(trio.current_time())))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
        assert seen == [["10.0.0.1"]] * 5

    on_mock_clock(check)
