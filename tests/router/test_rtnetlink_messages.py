"""Messages about devices, addresses and routes: what the kernel is sent, what is read, and that no bytes confuse it.

Expected requests are what pyroute2 0.9.5 sends for the same calls, recorded, less their numbers.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vector_files import load
from weave_router.doors import ContainerRoute
from weave_router.host import rtnetlink_messages as rtnetlink
from weave_router.host.rtnetlink_messages import (
    AddressNotice,
    BridgePort,
    DeviceRoute,
    Link,
    LinkNotice,
    MessageError,
    Refusal,
    VxlanDevice,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from weave_router.host.rtnetlink_messages import Request

RECORDED: dict[str, Any] = load("rtnetlink")
PARSERS: tuple[Callable[[bytes], object], ...] = (
    rtnetlink.parse_link,
    rtnetlink.parse_traffic,
    rtnetlink.parse_address,
    rtnetlink.parse_route,
    rtnetlink.parse_namespace_number,
)


def recorded(case: str) -> bytes:
    return bytes.fromhex(RECORDED[case])


def all_recorded() -> list[bytes]:
    values = [[value] if isinstance(value, str) else value for key, value in RECORDED.items() if key != "description"]
    return [bytes.fromhex(text) for texts in values for text in texts]


def route(destination: str, gateway: str | None = None, **options: int) -> ContainerRoute:
    return ContainerRoute(ip_network(destination), None if gateway is None else ip_address(gateway), **options)


REQUESTS: dict[str, tuple[Request, str]] = {
    "veth": (
        rtnetlink.add_veth("v2", "v3", namespace=6, mtu=1376, mac="7a:00:00:00:00:01"),
        "7c000000 10000506 00000000 00000000 00000000 00000000 07000300 76320000 08000400 60050000 4c001200 09000100 "
        "76657468 00000000 3c000200 38000100 00000000 00000000 00000000 00000000 07000300 76330000 08000400 60050000 "
        "08001c00 06000000 0a000100 7a000000 00010000",
    ),
    "veth, both ends here": (
        rtnetlink.add_veth("v0", "v1", namespace=None, mtu=1376, mac=None),
        "68000000 10000506 00000000 00000000 00000000 00000000 07000300 76300000 08000400 60050000 38001200 09000100 "
        "76657468 00000000 28000200 24000100 00000000 00000000 00000000 00000000 07000300 76310000 08000400 60050000",
    ),
    "up": (rtnetlink.set_up(4), "20000000 10000500 00000000 04000000 01000000 01000000"),
    "mtu": (rtnetlink.set_mtu(4, 1400), "28000000 10000500 00000000 04000000 00000000 00000000 08000400 78050000"),
    "superframes": (
        rtnetlink.set_superframe_limit(4, 60000),
        "28000000 10000500 00000000 04000000 00000000 00000000 08002900 60ea0000",
    ),
    "mac": (
        rtnetlink.set_mac(4, "7a:00:00:00:00:02"),
        "2c000000 10000500 00000000 04000000 00000000 00000000 0a000100 7a000000 00020000",
    ),
    "master": (
        rtnetlink.set_master(4, 2),
        "28000000 10000500 00000000 04000000 00000000 00000000 08000a00 02000000",
    ),
    "removal": (rtnetlink.remove_link(4), "20000000 11000500 00000000 04000000 00000000 00000000"),
    "namespace": (rtnetlink.get_namespace_number(9), "1c000000 5a000100 00000000 08000300 09000000"),
    "address": (
        rtnetlink.add_address(3, ip_interface("10.2.1.5/24")),
        "30000000 14000506 02180000 03000000 08000100 0a020105 08000200 0a020105 08000400 0a0201ff",
    ),
    "address without a broadcast address": (
        rtnetlink.add_address(3, ip_interface("10.2.2.6/31")),
        "28000000 14000506 021f0000 03000000 08000100 0a020206 08000200 0a020206",
    ),
    "IPv6 address": (
        rtnetlink.add_address(3, ip_interface("fd00::5/64")),
        "34000000 14000506 0a400000 03000000 14000100 fd000000 00000000 00000000 00000005 08000800 02000000",
    ),
    "removal of an address": (
        rtnetlink.remove_address(3, ip_interface("10.2.2.6/31")),
        "28000000 15000500 021f0000 03000000 08000100 0a020206 08000200 0a020206",
    ),
    "removal of an IPv6 address": (
        rtnetlink.remove_address(3, ip_interface("fd00::5/64")),
        "2c000000 15000500 0a400000 03000000 14000100 fd000000 00000000 00000000 00000005",
    ),
    "route to the link": (
        rtnetlink.add_route(3, route("10.9.0.0/16")),
        "2c000000 18000506 02100000 fe04fd01 00000000 08000400 03000000 08000100 0a090000",
    ),
    "default route": (
        rtnetlink.add_route(3, route("0.0.0.0/0", "10.2.1.1")),
        "2c000000 18000506 02000000 fe040001 00000000 08000400 03000000 08000500 0a020101",
    ),
    "IPv6 route": (
        rtnetlink.add_route(3, route("fd02::/64", "fd00::1")),
        "4c000000 18000506 0a400000 fe040001 00000000 08000400 03000000 14000100 fd020000 00000000 00000000 00000000 "
        "14000500 fd000000 00000000 00000000 00000001",
    ),
    "route with everything": (
        rtnetlink.add_route(3, route("10.7.0.0/16", "10.2.1.1", mtu=1300, advmss=1200, priority=5, table=100, scope=0)),
        "58000000 18000506 02100000 64040001 00000000 08000400 03000000 08000100 0a070000 08000500 0a020101 08000600 "
        "05000000 08000f00 64000000 14000800 08000200 14050000 08000800 b0040000",
    ),
    "route of a table beyond an octet, all zero": (
        rtnetlink.add_route(3, route("10.6.0.0/16", mtu=0, priority=0, table=1000)),
        "48000000 18000506 02100000 fe04fd01 00000000 08000400 03000000 08000100 0a060000 08000600 00000000 08000f00 "
        "e8030000 0c000800 08000200 00000000",
    ),
    "route of an IPv6 priority of 0": (
        rtnetlink.add_route(3, route("fd03::/64", priority=0)),
        "40000000 18000506 0a400000 fe04fd01 00000000 08000400 03000000 14000100 fd030000 00000000 00000000 00000000 "
        "08000600 00040000",
    ),
    "removal of a route": (
        rtnetlink.remove_route(3, route("10.8.0.0/16", "10.2.1.1")),
        "34000000 19000500 02100000 fe000000 00000000 08000400 03000000 08000100 0a080000 08000500 0a020101",
    ),
    "removal of a route to the link": (
        rtnetlink.remove_route(3, route("10.9.0.0/16")),
        "2c000000 19000500 02100000 fe00fd00 00000000 08000400 03000000 08000100 0a090000",
    ),
}


@pytest.mark.parametrize("case", REQUESTS)
def test_request_is_what_pyroute2_sends(case: str) -> None:
    request, expected = REQUESTS[case]
    message = request.numbered(0x01020304)
    assert message[8:16] == struct.pack("=II", 0x01020304, 0)
    assert (message[:8] + message[16:]).hex(" ", 4) == expected


def test_port_is_set_as_iproute2_does_it() -> None:
    """`ip link set v0 type bridge_slave hairpin on isolated off learning on`, with IFLA_INFO_SLAVE_KIND."""
    request = rtnetlink.set_port(4, hairpin=True, isolated=False, learning=True)
    data = "1c000500 05000400 01000000 05002100 00000000 05000800 01000000"
    assert request.body.hex(" ", 4) == (
        f"00000000 04000000 00000000 00000000 2c001200 0b000400 62726964 67650000 {data}"
    )
    assert rtnetlink.set_port(4, hairpin=None, isolated=True, learning=None).body.endswith(
        bytes.fromhex("0c000500 05002100 01000000")
    )


def test_lists_are_asked_for_by_device() -> None:
    """As strict checking has it (Linux 4.20): whatever is not asked for is zero."""
    assert rtnetlink.list_addresses(3).body.hex(" ", 4) == "00000000 03000000"
    assert rtnetlink.list_routes(3, 4).body.hex(" ", 4) == "02000000 00000000 00000000 08000400 03000000"
    assert rtnetlink.list_routes(3, 6).body[0] == 10
    assert rtnetlink.list_links().body.hex(" ", 4) == "00000000 00000000 00000000 00000000 08001d00 08000000"
    assert {rtnetlink.list_links().flags, rtnetlink.list_addresses(3).flags, rtnetlink.list_routes(3, 4).flags} == {
        0x301
    }


def test_device_is_asked_for_by_name() -> None:
    assert rtnetlink.get_link("lo").numbered(7).hex(" ", 4) == (
        "30000000 12000100 07000000 00000000 00000000 00000000 00000000 00000000 07000300 6c6f0000 08001d00 08000000"
    )


def test_veth_is_read() -> None:
    assert rtnetlink.parse_link(recorded("device vethwe00000001")) == Link(
        index=3,
        name="vethwe00000001",
        kind="veth",
        mac="7a:00:00:00:00:02",
        mtu=1376,
        up=True,
        master=2,
        port=BridgePort(forwarding=False, hairpin=True, isolated=True),
        peer_index=2,
        peer_namespace=0,
        vxlan=None,
    )


def test_bridge_and_loopback_are_read() -> None:
    assert rtnetlink.parse_link(recorded("device weave")) == Link(
        2, "weave", "bridge", "7a:00:00:00:00:01", 1376, True, None, None, None, None, None
    )
    assert rtnetlink.parse_link(recorded("device lo")) == Link(
        1, "lo", "", "00:00:00:00:00:00", 65536, True, None, None, None, None, None
    )


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("vx", VxlanDevice(6784, 6784, IPv4Address("192.0.2.1"), learning=False, fragmentable=False, plain=True)),
        ("vx2", VxlanDevice(5, 4789, IPv4Address("192.0.2.1"), learning=True, fragmentable=True, plain=False)),
        ("vx3", VxlanDevice(0, 4790, None, learning=False, fragmentable=True, plain=False)),
    ],
    ids=["ours", "with a group", "with metadata from outside"],
)
def test_vxlan_device_is_read(case: str, expected: VxlanDevice) -> None:
    assert rtnetlink.parse_link(recorded(f"device {case}")).vxlan == expected


def test_name_that_is_no_text_is_read() -> None:
    body = recorded("device lo").replace(b"lo\0", b"\xe9\n\0", 1)
    assert rtnetlink.parse_link(body).name == "\\xe9\n"


def test_counters_are_read() -> None:
    counters = struct.pack("=4Q", 3, 4, 500, 600) + bytes(160)
    body = recorded("device lo")[:16] + struct.pack("=HH", 4 + len(counters), 23) + counters
    assert rtnetlink.parse_traffic(body) == (500, 600)
    assert rtnetlink.parse_traffic(recorded("device lo")) == (0, 0)


def test_addresses_are_read() -> None:
    found = [rtnetlink.parse_address(bytes.fromhex(text)) for text in RECORDED["addresses"]]
    assert [known and (known.device, str(known.address)) for known in found] == [
        (7, "10.2.1.5/24"),
        (7, "10.3.0.1/32"),  # not the other side of this point-to-point address
        (7, "fd00::6/64"),
        (7, "fe80::a08f:3aff:fe81:7cf7/64"),
    ]


def test_routes_are_read() -> None:
    found = [rtnetlink.parse_route(bytes.fromhex(text)) for text in RECORDED["routes IPv4"]]
    assert found[:3] == [
        DeviceRoute(7, 1000, ip_network("10.8.0.0/16"), IPv4Address("10.2.1.1")),
        DeviceRoute(7, 254, ip_network("0.0.0.0/0"), IPv4Address("10.2.1.1")),
        DeviceRoute(7, 254, ip_network("10.2.1.0/24"), None),
    ]
    assert found[4:6] == [None, None], "by several ways, and nowhere"
    found = [rtnetlink.parse_route(bytes.fromhex(text)) for text in RECORDED["routes IPv6"]]
    assert found[1] == DeviceRoute(7, 254, ip_network("fd02::/64"), ip_address("fd00::1"))


def test_namespace_numbers_are_read() -> None:
    assert rtnetlink.parse_namespace_number(recorded("namespace with a number")) == 0
    assert rtnetlink.parse_namespace_number(recorded("namespace without a number")) is None


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("acknowledgement", Refusal(0, "Success")),
        ("no such device", Refusal(19, "No such device")),
        ("refusal of a list", Refusal(19, "No such device")),
        ("refusal of a route", Refusal(101, "Network is unreachable (Nexthop has invalid gateway)")),
        ("refusal that repeats the request", Refusal(101, "Network is unreachable")),
        (
            "refusal that repeats the request and explains",
            Refusal(101, "Network is unreachable (Nexthop has invalid gateway)"),
        ),
    ],
)
def test_refusals_are_read(case: str, expected: Refusal) -> None:
    (message,) = rtnetlink.parse(recorded(case))
    assert rtnetlink.parse_refusal(message) == expected


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("a bridge that comes", [LinkNotice(2, "weave", gone=False)]),
        ("an address that comes", [AddressNotice(2)]),
        ("an address that goes", [AddressNotice(2)]),
        ("an IPv6 address that comes", [AddressNotice(2)]),
        (
            "a port that leaves",
            [
                LinkNotice(3, "vethwe00000001", gone=False),
                None,
                None,
                LinkNotice(3, "vethwe00000001", gone=False),
                LinkNotice(2, "weave", gone=False),
                LinkNotice(2, "weave", gone=False),
            ],
        ),
        ("a bridge that goes", [LinkNotice(2, "elsewhere", gone=True)]),
    ],
)
def test_notices_are_read(case: str, expected: list[object]) -> None:
    datagrams = [bytes.fromhex(text) for text in RECORDED[f"notices of {case}"]]
    assert [rtnetlink.parse_notice(message) for data in datagrams for message in rtnetlink.parse(data)] == expected


def test_rename_tells_the_new_name() -> None:
    (message,) = rtnetlink.parse(bytes.fromhex(RECORDED["notices of a bridge that is renamed"][-1]))
    assert rtnetlink.parse_notice(message) == LinkNotice(2, "elsewhere", gone=False)


def test_attribute_beyond_the_message_is_refused() -> None:
    body = bytes.fromhex(RECORDED["addresses"][0])
    with pytest.raises(MessageError, match="attribute's length"):
        rtnetlink.parse_address(body[:8] + struct.pack("=HH", 200, 1) + body[12:])


@pytest.mark.parametrize("code", [5, -4096, -(1 << 31)])
def test_error_code_that_is_none_is_refused(code: int) -> None:
    message = rtnetlink.Message(rtnetlink.NLMSG_ERROR, 0, 1, struct.pack("=i", code) + bytes(16))
    with pytest.raises(MessageError, match="error code"):
        rtnetlink.parse_refusal(message)


def read_all(data: bytes) -> None:
    """Read bytes as all that they may be."""
    for parser in PARSERS:
        with suppress(MessageError):
            parser(data)
    with suppress(MessageError):
        for message in rtnetlink.parse(data):
            for kind in (message.kind, rtnetlink.RTM_NEWLINK, rtnetlink.RTM_NEWADDR):
                with suppress(MessageError):
                    rtnetlink.parse_notice(message._replace(kind=kind))
            for kind in (rtnetlink.NLMSG_ERROR, rtnetlink.NLMSG_DONE):
                with suppress(MessageError):
                    rtnetlink.parse_refusal(message._replace(kind=kind))


@given(st.binary(max_size=300))
def test_any_bytes_cause_no_other_error(data: bytes) -> None:
    read_all(data)


@given(st.data())
def test_damaged_messages_cause_no_other_error(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from(all_recorded())))
    for _ in range(data.draw(st.integers(0, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read_all(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@pytest.mark.parametrize("data", all_recorded())
def test_message_that_is_cut_off_is_not_taken_for_another(data: bytes) -> None:
    if data in [bytes.fromhex(text) for key, texts in RECORDED.items() if key.startswith("notices") for text in texts]:
        for length in range(1, len(data)):
            with pytest.raises(MessageError):
                list(rtnetlink.parse(data[:length]))
    else:
        read_all(data)
