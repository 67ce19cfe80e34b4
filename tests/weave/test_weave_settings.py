"""Settings: their way to the daemon, and the texts that become settings."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from weave_dns.settings import DnsSettings, ListenAddress
from weave_net.directories import Directories
from weave_net.errors import LaunchError, SettingsError
from weave_net.settings import (
    DaemonSettings,
    HttpAddress,
    check_bridge_name,
    check_peers,
    choose_password,
    parse_http_address,
    parse_subnets,
)


def full_settings(directory: Path) -> DaemonSettings:
    return DaemonSettings(
        directories=Directories(directory / "state", directory / "run"),
        name=7,
        nickname="höst",
        password="s3cret",
        trusted_subnets=(ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        peers=("h1", "h2:99"),
        dns_domain="Example.test",
        dns_listen_address="[fd00::1]:5353",
        dns_ttl=30,
        dns_fallback_timeout="1500ms",
        resolv_conf="/run/resolv.conf",
        dns_clients="192.168.1.7/24, fd00::/8",
        dns_rate_limit=0,
        http_address=HttpAddress("::1", 99),
        log_level="debug",
        log_file=directory / "log",
    )


def test_settings_survive_the_way_to_the_daemon(tmp_path: Path) -> None:
    for settings in (full_settings(tmp_path), DaemonSettings()):
        assert DaemonSettings.from_json(settings.to_json()) == settings


def test_password_shows_in_no_representation(tmp_path: Path) -> None:
    settings = full_settings(tmp_path)
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.router_settings(1))
    assert settings.router_settings(1).password == b"s3cret"


def test_router_settings(tmp_path: Path) -> None:
    router = full_settings(tmp_path).router_settings(9)
    assert (router.name, router.nickname, router.mtu, router.bridge) == (9, "höst", 1376, "weave")
    assert DaemonSettings().router_settings(9).password is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        ("127.0.0.1:80", HttpAddress("127.0.0.1", 80)),
        ("127.0.0.1", HttpAddress("127.0.0.1", 6784)),
        (":80", HttpAddress("127.0.0.1", 80)),
        ("localhost", HttpAddress("localhost", 6784)),
        ("[::1]:80", HttpAddress("::1", 80)),
        ("[::1]", HttpAddress("::1", 6784)),
        ("::1", HttpAddress("::1", 6784)),
    ],
)
def test_http_addresses(text: str, address: HttpAddress | None) -> None:
    assert parse_http_address(text, 6784) == address


@pytest.mark.parametrize("text", ["/run/sock", "h:", "h:0", "h:65536", "h:x", "[::1", "[::1]80", "h:²"])
def test_bad_http_addresses(text: str) -> None:
    with pytest.raises(SettingsError, match="--http-addr"):
        parse_http_address(text, 6784)


def test_http_addresses_are_written_as_they_are_read() -> None:
    for text in ("127.0.0.1:80", "[::1]:80"):
        assert str(parse_http_address(text, 1)) == text


def test_peers_are_checked_and_kept_as_typed() -> None:
    assert check_peers(["h2", "10.0.0.1:99", "h2"]) == ("h2", "10.0.0.1:99")
    for text in ("", "h 2", "h2:", "h2:0", "h2:99999", "a,b", "/tmp/x"):
        with pytest.raises(SettingsError):
            check_peers([text])


def test_subnets() -> None:
    assert parse_subnets("") == ()
    assert parse_subnets("10.1.2.3/8, fd00::/8,") == (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
    with pytest.raises(SettingsError, match="--trusted-subnets"):
        parse_subnets("10.0.0.0/33")


@pytest.mark.parametrize("name", ["", ".", "a/b", "a b", "a" * 16, "ü" * 8, "a:b"])
def test_bad_bridge_names(name: str) -> None:
    with pytest.raises(SettingsError, match="--weave-bridge"):
        check_bridge_name(name)


def test_choice_of_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" with blanks \n")
    assert choose_password(None, None, None) is None
    assert choose_password(None, None, "") is None
    assert choose_password(None, None, "env") == "env"
    assert choose_password("flag", None, "env") == "flag"
    assert choose_password("", None, "env") is None
    assert choose_password(None, file, "env") == " with blanks "
    with pytest.raises(SettingsError, match="contradict"):
        choose_password("flag", file, None)


def test_bad_password_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        choose_password(None, tmp_path / "none", None)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        choose_password(None, tmp_path / "empty", None)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="UTF-8"):
        choose_password(None, tmp_path / "binary", None)


def test_directories_are_made(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "a" / "state", tmp_path / "b" / "run")
    directories.prepare()
    assert directories.state.stat().st_mode & 0o777 == 0o700
    assert directories.run.is_dir()
    directories.prepare()


@pytest.mark.parametrize(("kind", "flag"), [("state", "--state-dir"), ("run", "--run-dir")])
def test_directory_that_cannot_be_made(tmp_path: Path, kind: str, flag: str) -> None:
    (tmp_path / "file").write_text("")
    paths = {"state": tmp_path / "state", "run": tmp_path / "run", kind: tmp_path / "file" / "x"}
    with pytest.raises(LaunchError, match=f"{kind} directory .* cannot be made: Not a directory.*{flag}"):
        Directories(paths["state"], paths["run"]).prepare()


def test_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchError, match="File exists"):
        Directories(tmp_path / "file", tmp_path / "run").prepare()


def test_socket_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="too long for a Unix socket"):
        Directories(tmp_path / "state", tmp_path / ("x" * 100)).prepare()


# Names


def test_name_server_by_default() -> None:
    assert DaemonSettings().dns_settings() == DnsSettings(
        domain="weave.local.",
        listen=None,
        ttl=1,
        fallback_timeout=5.0,
        resolv_conf=Path("/etc/resolv.conf"),
        clients=(),
        rate=10_000,
    )


def test_name_server_as_the_operator_wants_it(tmp_path: Path) -> None:
    assert full_settings(tmp_path).dns_settings() == DnsSettings(
        domain="Example.test.",
        listen=ListenAddress(ip_address("fd00::1"), 5353),
        ttl=30,
        fallback_timeout=1.5,
        resolv_conf=Path("/run/resolv.conf"),
        clients=(ip_network("192.168.1.0/24"), ip_network("fd00::/8")),
        rate=0,
    )


def test_name_server_that_is_off(tmp_path: Path) -> None:
    assert replace(full_settings(tmp_path), dns=False).dns_settings() is None
    assert replace(full_settings(tmp_path), dns=False, dns_domain="a b").dns_settings() is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.32.0.1", "10.32.0.1:53"),
        ("10.32.0.1:5353", "10.32.0.1:5353"),
        (":5353", "0.0.0.0:5353"),
        ("0.0.0.0", "0.0.0.0:53"),
        ("fd00::1", "[fd00::1]:53"),
        ("[fd00::1]", "[fd00::1]:53"),
        ("[fd00::1]:99", "[fd00::1]:99"),
        ("::", "[::]:53"),
    ],
)
def test_listening_addresses_of_the_name_server(text: str, address: str) -> None:
    naming = DaemonSettings(dns_listen_address=text).dns_settings()
    assert naming
    assert str(naming.listen) == address


@pytest.mark.parametrize(
    ("field", "text"),
    [
        *(
            ("dns_listen_address", text)
            for text in ("x", "10.1:53", "10.32.0.1:", "10.32.0.1:0", "10.32.0.1:65536", "10.32.0.1:x", "10.32.0.1:²")
        ),
        *(
            ("dns_listen_address", text)
            for text in ("[fd00::1", "[fd00::1]53", "[fd00::1]x", "localhost", "10.32.0.1/24")
        ),
        *(("dns_domain", text) for text in ("", ".", "a..b", "a b", "ü.local", "x" * 64, "x." * 130)),
        *(("dns_fallback_timeout", text) for text in ("", "x", "0", "-1s", "5h", "nan", "inf", "61s", "1e9", "5 s x")),
        *(("dns_clients", text) for text in ("x", "10.0.0.0/33", "10.0.0.0/8;fd00::/8", "localhost")),
    ],
)
def test_bad_settings_of_the_name_server(field: str, text: str) -> None:
    flag = f"--{field.replace('_', '-')}"
    changes: dict[str, Any] = {field: text}
    with pytest.raises(SettingsError, match=flag) as caught:
        replace(DaemonSettings(), **changes).dns_settings()
    assert "\n" not in str(caught.value)
