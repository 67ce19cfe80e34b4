"""Announcements: frames that tell a network where an address lives now.

Whoever knew the address at another MAC corrects its table at once instead of losing packets until the entry
ages.
"""

from __future__ import annotations

import socket
import struct
import threading
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

_BROADCAST = b"\xff" * 6
_ALL_NODES = IPv6Address("ff02::1")
_ALL_NODES_MAC = bytes.fromhex("333300000001")
_ETHERTYPE_ARP = 0x0806
_ETHERTYPE_IPV6 = 0x86DD
_ARP_REQUEST = 1
_ICMPV6 = 58
_NEIGHBOUR_ADVERTISEMENT = 136
_OVERRIDE = 0x20000000
_TARGET_LINK_LAYER_ADDRESS = 2


def announcement(mac: bytes, address: IPv4Interface | IPv6Interface) -> bytes:
    """The frame that announces `address` at `mac`: gratuitous ARP or unsolicited neighbour advertisement."""
    if isinstance(address, IPv4Interface):
        return _gratuitous_arp(mac, address.ip)
    return _neighbour_advertisement(mac, address.ip)


def open_packet_socket(interface: str) -> socket.socket:
    """A socket that sends frames through `interface` of the calling thread's namespace and receives none.

    It stays bound to that namespace, so another thread may send with it.
    """
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        sender.bind((interface, 0))  # protocol 0: no frame is ever queued here
    except OSError:
        sender.close()
        raise
    return sender


def close_packet_socket(sender: socket.socket) -> None:
    """Close the socket without waiting for it: the kernel takes 8 to 16 ms, longer than all else in an attach."""
    threading.Thread(target=sender.close, name="close packet socket").start()


def _gratuitous_arp(mac: bytes, ip: IPv4Address) -> bytes:
    # A request, not a reply: RFC 5227 section 3 found that more implementations heed it.
    ethernet = _BROADCAST + mac + struct.pack("!H", _ETHERTYPE_ARP)
    header = struct.pack("!HHBBH", 1, 0x0800, 6, 4, _ARP_REQUEST)
    return ethernet + header + mac + ip.packed + bytes(6) + ip.packed


def _neighbour_advertisement(mac: bytes, ip: IPv6Address) -> bytes:
    option = struct.pack("!BB6s", _TARGET_LINK_LAYER_ADDRESS, 1, mac)
    rest = struct.pack("!I", _OVERRIDE) + ip.packed + option
    length = 4 + len(rest)
    pseudo_header = ip.packed + _ALL_NODES.packed + struct.pack("!II", length, _ICMPV6)
    checksum = _internet_checksum(pseudo_header + struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, 0) + rest)
    icmp = struct.pack("!BBH", _NEIGHBOUR_ADVERTISEMENT, 0, checksum) + rest
    # Hop limit 255 proves to the receiver that the packet comes from its own link (RFC 4861 section 7.1.2).
    ipv6 = struct.pack("!IHBB", 6 << 28, length, _ICMPV6, 255) + ip.packed + _ALL_NODES.packed
    return _ALL_NODES_MAC + mac + struct.pack("!H", _ETHERTYPE_IPV6) + ipv6 + icmp


def _internet_checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(total) ^ 0xFFFF
