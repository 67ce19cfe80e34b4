"""`SAMPLE_STATUS`: what a router in the middle of a small network tells, with a connection in every state."""

from __future__ import annotations

from weave_router.status import ConnectionStatus, MacStatus, PeerLinkStatus, PeerStatus, RouterStatus

H1, H2, H3, H4 = (f"02:00:00:00:00:0{number}" for number in (1, 2, 3, 4))

SAMPLE_STATUS = RouterStatus(
    name=H1,
    nickname="h1",
    uid=0xF000_0000_0000_0001,
    port=6783,
    encryption=True,
    discovery=True,
    targets=("10.0.0.2", "h3.example:7000", "10.0.0.9"),
    trusted_subnets=("10.0.0.0/24", "10.0.1.0/24"),
    connections=(
        ConnectionStatus(
            address="10.0.0.2:6783",
            outbound=True,
            state="established",
            peer=H2,
            nickname="h2",
            overlay="sleeve",
            encrypted=True,
            cipher="nacl",
            mtu=1414,
        ),
        ConnectionStatus(
            address="10.0.0.3:41234",
            outbound=False,
            state="established",
            peer=H3,
            nickname="h3",
            overlay="sleeve",
            encrypted=True,
            cipher="aes-256-gcm",
            mtu=1410,
            attrs={"rtt": "0.3ms", "epoch": "2"},
        ),
        ConnectionStatus(
            address="10.0.0.4:6783",
            outbound=True,
            state="pending",
            peer=H4,
            nickname="h4",
            info="no UDP packet has arrived; is port 6783 open?",
        ),
        ConnectionStatus(address="10.0.0.5:6783", outbound=True, state="connecting"),
        ConnectionStatus(address="10.0.0.6:6783", outbound=True, state="retrying", info="connection refused"),
        ConnectionStatus(
            address="10.0.0.9:6783",
            outbound=True,
            state="failed",
            info="password differs",
            retry_in=90.0,
        ),
    ),
    peers=(
        PeerStatus(
            H1,
            "h1",
            0xF000_0000_0000_0001,
            17,
            4,
            (
                PeerLinkStatus(H2, "h2", "10.0.0.2:6783", outbound=True, established=True),
                PeerLinkStatus(H4, "h4", "10.0.0.4:6783", outbound=True, established=False),
            ),
        ),
        PeerStatus(
            H2, "h2", 2, None, 9, (PeerLinkStatus(H1, "h1", "10.0.0.1:50000", outbound=False, established=True),)
        ),
    ),
    unicast_routes=((H1, "00:00:00:00:00:00"), (H2, H2), (H3, H2)),
    broadcast_routes=((H1, (H2,)), (H2, ())),
    termination_count=3,
    interface="weave-tap (via virtio TAP)",
    macs=(MacStatus("7a:00:00:00:00:01", H2, "h2", 2.5),),
    counters={"frames_captured": 12, "drop_no_route": 3, "drop_replay": 1, "bytes_sent_total": 99},
    overlay_diagnostics={"sleeve": {"gso": "on", "gro": "off: kernel too old"}},
)
