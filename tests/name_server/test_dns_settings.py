"""What the operator can write, and what it means."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from weave_dns.errors import SettingsError
from weave_dns.settings import (
    DnsSettings,
    ListenAddress,
    parse_clients,
    parse_domain,
    parse_duration,
    parse_listen_address,
)


def test_defaults_are_those_of_weave_net() -> None:
    """dns.md sections 6 and 16."""
    settings = DnsSettings()
    assert (settings.domain, settings.ttl, settings.fallback_timeout) == ("weave.local.", 1, 5.0)
    assert settings.resolv_conf == Path("/etc/resolv.conf")
    assert (settings.listen, settings.clients) == (None, ())


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("weave.local", "weave.local."),
        ("weave.local.", "weave.local."),
        ("Weave.Local", "Weave.Local."),
        ("local", "local."),
        ("a_b.x-y.z0", "a_b.x-y.z0."),
        ("a" * 63, "a" * 63 + "."),
    ],
)
def test_domain_gets_its_final_dot(text: str, domain: str) -> None:
    assert parse_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a/b",
        "a\n",
        "münchen",
        "*.local",
        "a" * 64,
        ".".join(["a" * 49] * 6),
        "a\0b",
    ],
)
def test_domain_that_is_none_is_refused_with_the_name_of_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match="--dns-domain"):
        parse_domain(text)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.32.0.1", "10.32.0.1", 53),
        ("10.32.0.1:5353", "10.32.0.1", 5353),
        ("0.0.0.0:53", "0.0.0.0", 53),
        (":53", "0.0.0.0", 53),
        (":1", "0.0.0.0", 1),
        ("127.0.0.1:65535", "127.0.0.1", 65535),
        ("::1", "::1", 53),
        ("fd00::1:53", "fd00::1:53", 53),
        ("[::1]", "::1", 53),
        ("[::1]:5353", "::1", 5353),
        ("::", "::", 53),
    ],
)
def test_listen_address(text: str, host: str, port: int) -> None:
    assert parse_listen_address(text) == ListenAddress(ip_address(host), port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "localhost:53",
        "10.32.0.1:",
        "10.32.0.1:0",
        "10.32.0.1:65536",
        "10.32.0.1:-1",
        "10.32.0.1:+5",
        "10.32.0.1: 53",
        "10.32.0.1:5_3",
        "10.32.0.1:dns",
        "10.32.0.1/24",
        "10.32.0",
        "[::1",
        "[::1]53",
        "[::1]x",
        "[]:53",
        "[::1]:0",
        "::1]:53",
        "1.2.3.4:53:53",
    ],
)
def test_listen_address_that_is_none_is_refused_with_the_name_of_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match="--dns-listen-address"):
        parse_listen_address(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_listen_address_is_read_as_it_is_shown(host: object, port: int) -> None:
    address = ListenAddress(ip_address(str(host)), port)
    assert parse_listen_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("5s", 5),
        ("0.5", 0.5),
        ("500ms", 0.5),
        ("1m", 60),
        ("0.5m", 30),
        ("60", 60),
        ("100ms", 0.1),
        ("0.1s", 0.1),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "ms", "0", "0s", "-5s", "61", "2m", "99ms", "5h", "5 minutes", "nan", "inf", "infs", "1e400", "5ss"],
)
def test_duration_that_is_none_or_out_of_bounds_is_refused_with_the_name_of_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match="--dns-fallback-timeout"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", ()),
        ("192.0.2.0/24", ("192.0.2.0/24",)),
        ("192.0.2.7/24, fd00::1/8", ("192.0.2.0/24", "fd00::/8")),
        ("192.0.2.7", ("192.0.2.7/32",)),
        ("0.0.0.0/0,::/0,", ("0.0.0.0/0", "::/0")),
    ],
)
def test_clients(text: str, networks: tuple[str, ...]) -> None:
    assert parse_clients(text) == tuple(map(ip_network, networks))


@pytest.mark.parametrize("text", ["x", "192.0.2.0/33", "192.0.2.0/24 10.0.0.0/8", "192.0.2.0/24;10.0.0.0/8", "a,b"])
def test_clients_that_are_none_are_refused_with_the_name_of_the_option(text: str) -> None:
    with pytest.raises(SettingsError, match="--dns-clients"):
        parse_clients(text)


@given(st.text(max_size=30))
def test_whatever_is_written_the_error_is_one_for_the_operator(text: str) -> None:
    for parse in (parse_domain, parse_listen_address, parse_duration, parse_clients):
        try:
            parse(text)
        except SettingsError as error:
            assert str(error).startswith("--dns-")
