"""Bad input from the network and from the operator: a clear line, and nothing else suffers."""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from lab.inside import call_inside
from lab.network import CommandFailed, wait_until
from lab.reports import connections, counter, established
from weave_router.wire.envelope import Envelope, Tag
from weave_router.wire.features import Features
from weave_router.wire.peer_name import PeerName
from weave_router.wire.session import Event, FeaturesReceived, KeyAgreed, Session

if TYPE_CHECKING:
    from pathlib import Path

    from lab.network import Container, Host, Lab


def pair(lab: Lab, *launch: str) -> tuple[Host, Host, list[Container]]:
    """Two hosts that talk, a container on each, and a third machine beside them."""
    a, b = lab.host("A"), lab.host("B")
    lab.segment({a: "192.0.2.1/24", b: "192.0.2.2/24"})
    a.weave("launch", "--name", "::1", *launch)
    b.weave("launch", "--name", "::2", *launch, "192.0.2.1")
    wait_until(lambda: established(a) == established(b) == 1, 15, "the connection")
    containers = [a.container("one", "10.2.1.1/24"), b.container("two", "10.2.1.2/24")]
    wait_until(lambda: containers[0].reaches("10.2.1.2"), 5, "a ping")
    return a, b, containers


def trio_of_hosts(lab: Lab) -> tuple[Host, Host, Host]:
    """Three hosts on one segment, 192.0.2.1 to .3, nothing launched."""
    hosts = a, b, c = lab.host("A"), lab.host("B"), lab.host("C")
    lab.segment({host: f"192.0.2.{number}/24" for number, host in enumerate(hosts, 1)})
    return a, b, c


def lines(host: Host, text: str) -> list[str]:
    return [line for line in host.log(10_000).splitlines() if text in line]


def info(host: Host, address: str) -> str:
    """What the status says of a target."""
    return next((row["Info"] for row in connections(host) if row["Address"] == address), "")


def test_wrong_password_and_none(lab: Lab, tmp_path: Path) -> None:
    a, b, c = trio_of_hosts(lab)
    for name, text in (("right", "correct horse"), ("wrong", "battery staple")):
        (tmp_path / name).write_text(text)
    a.weave("launch", "--password-file", str(tmp_path / "right"))
    b.weave("launch", "--password-file", str(tmp_path / "wrong"), "192.0.2.1")
    c.weave("launch", "192.0.2.1")
    wait_until(lambda: "password" in info(b, "192.0.2.1:6783"), 10, "a reason at B")
    wait_until(lambda: "password" in info(c, "192.0.2.1:6783"), 10, "a reason at C")
    assert lines(a, "passwords differ") or lines(a, "same password")
    assert lines(a, "no password, but one is set here")
    assert established(a) == 0


def test_same_name_twice_and_connection_to_self(lab: Lab) -> None:
    a, b, _ = trio_of_hosts(lab)
    a.weave("launch", "--name", "::1")
    b.weave("launch", "--name", "::1", "192.0.2.1")
    wait_until(lambda: "has our name" in info(b, "192.0.2.1:6783"), 10, "a reason at B")
    a.weave("connect", "192.0.2.1")
    wait_until(lambda: "ourselves" in info(a, "192.0.2.1:6783"), 10, "a reason at A")
    time.sleep(4)
    assert len(lines(b, "has our name")) == 1, "a name collision is not tried again"
    assert len(lines(a, "leads to ourselves")) <= 2


def test_other_protocol_version_and_garbage_on_tcp(lab: Lab) -> None:
    a, _, containers = pair(lab)
    garbage = [
        b"weave\x01\x01",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"weave\x02\x02\x07",
        b"weave\x02\x02\x00" + struct.pack(">I", 2**32 - 1),
        b"weave\x02\x02\x00" + struct.pack(">I", 5) + b"\xf8\xff\xff\xff\xff",
        # features: a map of 2^40 entries
        b"weave\x02\x02\x00" + struct.pack(">I", 26)
        + bytes.fromhex("0eff81040102ff8200010c010c00000eff8200fa0100000000000161"[:52]),
        os.urandom(5000),
    ]  # fmt: skip

    def send_all() -> None:
        for data in garbage:
            with socket.create_connection(("192.0.2.1", 6783), timeout=5) as client:
                client.sendall(data)
                client.settimeout(5)
                while True:
                    try:
                        if not client.recv(4096):
                            break
                    except (TimeoutError, ConnectionResetError):
                        break

    call_inside(lab.hosts[1].path, send_all)
    assert lines(a, "speaks protocol versions 1..1")
    assert lines(a, "does not speak Weave's protocol")
    assert established(a) == 1
    assert containers[0].reaches("10.2.1.2")


def test_idle_connections_do_not_shut_out_a_peer(lab: Lab) -> None:
    a, b, c = trio_of_hosts(lab)
    a.weave("launch", "--name", "::1")
    idle = call_inside(c.path, lambda: [socket.create_connection(("192.0.2.1", 6783), timeout=5) for _ in range(200)])
    began = time.monotonic()
    b.weave("launch", "--name", "::2", "192.0.2.1")
    wait_until(lambda: established(b) == 1, 5, "the real peer")
    assert time.monotonic() - began < 5 + 2  # the launch itself takes a moment
    for client in idle:
        client.close()
    assert len(lines(a, "unfinished handshakes")) == 1, "logged once"


def test_garbage_on_udp(lab: Lab) -> None:
    a, _, containers = pair(lab)
    name = bytes.fromhex("000000000002")
    us = bytes.fromhex("000000000001")
    zeros = bytes(14)
    bad = [
        b"", b"\0", os.urandom(5), os.urandom(1400), os.urandom(60000),
        name, name + b"\1", name + name + us + b"\xff\xff" + b"x",  # frame longer than its packet
        name + name + us + b"\0\x05hello", name + name + us + b"\0\0",
        name + os.urandom(6) + us + b"\0\x16" + os.urandom(22),  # unknown source peer
        name + name + us + b"\0\x16" + zeros + os.urandom(8),  # heartbeat of another connection
        name + us + us + b"\0\x16" + zeros + bytes(8),
        name + name + us + b"\x27\x10" + os.urandom(10000),  # a frame larger than any MTU
    ] * 20  # fmt: skip

    def send_all() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for packet in bad:
                client.sendto(packet, ("192.0.2.1", 6783))

    before = len(a.log(10_000).splitlines())
    call_inside(lab.hosts[1].path, send_all)
    wait_until(lambda: counter(a, "drop_unknown_sender") >= 20, 5, "drops to be counted")
    assert counter(a, "drop_bad_packet") >= 20
    assert len(a.log(10_000).splitlines()) - before <= 4, "bad packets are counted, not logged one by one"
    assert established(a) == 1
    assert containers[0].reaches("10.2.1.2")
    assert containers[1].reaches("10.2.1.1")


def test_replayed_and_reordered_packets(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("correct horse battery staple")
    a, b, containers = pair(lab, "--password-file", str(tmp_path / "password"))
    capture = tmp_path / "capture"
    dump = a.popen("tcpdump", "-ni", "any", "-U", "--direction=in", "-w", str(capture), "udp port 6783")
    wait_until(capture.exists, 5, "tcpdump")
    containers[1].run("ping", "-c5", "-i0.2", "10.2.1.1")
    wait_until(lambda: capture.stat().st_size > 700, 5, "captured packets")
    dump.terminate()
    dump.wait(5)
    text = a.run("tcpdump", "-r", str(capture), "-xx", "-n")
    payloads = []
    for block in re.split(r"\n(?=\S)", text.strip()):
        data = bytes.fromhex("".join(re.findall(r"0x[0-9a-f]+:\s+((?:[0-9a-f]{2,4} ?)+)", block)).replace(" ", ""))
        start = data.find(bytes.fromhex("000000000002"), 36)
        if start > 0:
            payloads.append(data[start:])
    assert len(payloads) >= 5

    def replay() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for packet in reversed(payloads):
                client.sendto(packet, ("192.0.2.1", 6783))
                client.sendto(packet[:-1], ("192.0.2.1", 6783))
                client.sendto(packet[:-1] + bytes((packet[-1] ^ 1,)), ("192.0.2.1", 6783))

    received = counter(a, "frames_received")
    call_inside(b.path, replay)
    wait_until(lambda: counter(a, "drop_replayed") >= len(payloads), 5, "replays to be dropped")
    assert counter(a, "drop_bad_packet") >= 2 * len(payloads)
    assert counter(a, "frames_received") - received < len(payloads)
    assert containers[0].reaches("10.2.1.2")


def test_gob_with_absurd_lengths_from_a_member(lab: Lab) -> None:
    """A peer that shook hands properly and then sends gossip that makes no sense."""
    a, _, containers = pair(lab)

    def misbehave() -> bytes:
        session = Session(outbound=True, password=None, private_key=bytes(32))
        features = Features(
            name=PeerName(99), nickname="mallory\n\x1b[31m", uid=99, connection_half=1, overlays=("sleeve",)
        )
        with socket.create_connection(("192.0.2.1", 6783), timeout=5) as client:
            client.sendall(session.hello())
            events: list[Event] = []
            while not any(isinstance(event, FeaturesReceived) for event in events):
                events = session.receive(client.recv(65536))
                if KeyAgreed() in events:
                    client.sendall(session.send_features(features.to_map()))
            absurd = [
                Envelope(Tag.GOSSIP, "topology", PeerName(99), bytes.fromhex("fc7fffffff00")).encode(),
                Envelope(Tag.GOSSIP, "topology", PeerName(99), os.urandom(300)).encode(),
                Envelope(Tag.UNICAST, "topology", PeerName(99), b"x", PeerName(1)).encode(),
                bytes((7, 200, 1)), bytes((7,)), bytes((1,)), bytes((250,)), b"",
                *(Envelope(Tag.GOSSIP, f"channel{n}", PeerName(99), b"x").encode() for n in range(100)),
            ]  # fmt: skip
            for message in absurd * 3:
                client.sendall(session.send(message))
            client.sendall(session.send(bytes((4,)) + os.urandom(50)))  # a broken envelope ends the connection
            client.settimeout(5)
            last = b"x"
            while last:
                try:
                    last = client.recv(65536)
                except ConnectionResetError:
                    break
            return b"closed"

    assert call_inside(lab.hosts[1].path, misbehave) == b"closed"
    assert 1 <= len(lines(a, "Dropped gossip")) <= 4
    assert "\x1b" not in a.log(10_000)
    assert established(a) == 1
    assert containers[0].reaches("10.2.1.2")


def test_launch_refusals(lab: Lab, tmp_path: Path) -> None:
    host, other = lab.host("A"), lab.host("B")
    host.weave("launch")
    with pytest.raises(CommandFailed, match="already running") as twice:
        host.weave("launch")
    assert twice.value.status == 1

    blocker = call_inside(other.path, lambda: socket.create_server(("0.0.0.0", 6783)))
    with pytest.raises(CommandFailed, match="6783") as busy:
        other.weave("launch")
    assert busy.value.status == 1
    assert "--port" in busy.value.output
    blocker.close()

    (tmp_path / "file").write_text("")
    for option in ("--state-dir", "--run-dir"):
        with pytest.raises(CommandFailed) as unwritable:
            other.weave("launch", option, str(tmp_path / "file" / "below"))
        assert unwritable.value.status == 1
        assert str(tmp_path / "file") in unwritable.value.output
        assert "Traceback" not in unwritable.value.output
    with pytest.raises(CommandFailed, match="neither an IPv4 address nor a host name"):
        other.weave("launch", "no/such:6783")
    other.weave("launch")  # and after all that it starts


def test_launch_without_root(lab: Lab) -> None:
    host = lab.host("A")
    # Somebody who may read this checkout, wherever it is, but nothing else.
    nobody = ("--reuid=65534", "--regid=65534", "--clear-groups")
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    done = host.attempt("setpriv", *nobody, *reading, *host.weave_command("launch"))
    assert done.returncode == 1
    assert "root" in done.stderr
    assert "Traceback" not in done.stderr
