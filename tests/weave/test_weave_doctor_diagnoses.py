"""Each diagnosis is silent on a healthy host, and says what is wrong and what to do about it on others."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Any

import pytest

from weave.doctor_facts import (
    ALLOCATION,
    CNI,
    CONNECTION,
    DAEMON,
    ETH0,
    FILES,
    HEALTHY,
    KERNEL,
    NAMES,
    NETWORK,
    NO_DAEMON,
    WANTED,
    only,
    unwell,
    with_connection,
    with_interface,
    with_router,
)
from weave_net.doctor.diagnosis_clock import diagnose_clock
from weave_net.doctor.diagnosis_connections import diagnose_connections
from weave_net.doctor.diagnosis_daemon import diagnose_daemon
from weave_net.doctor.diagnosis_engines import diagnose_cni, diagnose_docker
from weave_net.doctor.diagnosis_files import diagnose_files
from weave_net.doctor.diagnosis_kernel import diagnose_kernel
from weave_net.doctor.diagnosis_mtu import diagnose_mtu
from weave_net.doctor.diagnosis_network import diagnose_network
from weave_net.doctor.diagnosis_packages import diagnose_packages
from weave_net.doctor.diagnosis_ports import diagnose_name_port, diagnose_ports
from weave_net.doctor.diagnosis_services import diagnose_allocation, diagnose_names
from weave_net.doctor.examination import examine
from weave_net.doctor.facts import (
    ClockFacts,
    DaemonFacts,
    DockerFacts,
    FileFacts,
    KernelFacts,
    NetworkFacts,
    PackageFacts,
    PathFacts,
    SocketFacts,
    Unknown,
)
from weave_net.doctor.findings import Finding, Verdict
from weave_router.control.mesh import ConnectionRefused
from weave_router.vxlan.link import LOST_S, VxlanLink
from weave_router.vxlan.messages import Hearing, Hello, Number, encode_hello
from weave_router.wire.peer_name import PeerName
from weave_router.wire.session import HandshakeError

if TYPE_CHECKING:
    from collections.abc import Callable

NOTE, PROBLEM = Verdict.NOTE, Verdict.PROBLEM


def changed(facts: Any, **changes: Any) -> Any:
    return replace(facts, **changes)


def test_a_healthy_host_has_nothing_but_good_findings() -> None:
    assert unwell(examine(HEALTHY)) == []


def test_without_a_daemon_the_host_is_examined_and_that_is_said() -> None:
    found = examine(changed(HEALTHY, daemon=NO_DAEMON))
    finding = only(found, NOTE)
    assert finding.check == "daemon"
    assert "does not run" in finding.text
    assert "weave launch" in finding.advice
    assert {"kernel devices", "firewall", "mtu", "ports"} <= {each.check for each in found}
    assert not {"connections", "addresses", "names"} & {each.check for each in found}


@pytest.mark.parametrize(
    "part", ["daemon", "kernel", "network", "firewall", "sockets", "files", "cni", "docker", "clock", "packages"]
)
def test_what_is_not_known_is_said_and_no_problem(part: str) -> None:
    found = unwell(examine(changed(HEALTHY, **{part: Unknown("it took longer than 5 s")})))
    assert found
    assert {finding.verdict for finding in found} == {NOTE}
    assert "not checked: it took longer than 5 s" in found[0].text


def test_a_diagnosis_that_fails_does_not_take_the_others_along() -> None:
    found = unwell(examine(changed(HEALTHY, clock=ClockFacts(now="noon", synchronised=True))))  # type: ignore[arg-type]
    assert [finding.check for finding in found] == ["clock"]
    assert "not checked" in found[0].text


# Daemon, files, packages, clock


@pytest.mark.parametrize(
    ("changes", "verdict", "text", "advice"),
    [
        ({"router": None, "trouble": "no answer"}, PROBLEM, "does not answer: no answer", "log"),
        ({"version": "2.9"}, NOTE, "version 2.9", "restart"),
        ({"same_network": False}, NOTE, "another network namespace", "ip netns exec"),
    ],
)
def test_daemon(changes: dict[str, Any], verdict: Verdict, text: str, advice: str) -> None:
    assert unwell(diagnose_daemon(DAEMON)) == []
    finding = only(diagnose_daemon(changed(DAEMON, **changes)), verdict)
    assert text in finding.text
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("which", "changes", "verdict", "text"),
    [
        ("state", {"kind_ok": False}, PROBLEM, "/var/lib/weave is no directory"),
        ("state", {"writable": False}, PROBLEM, "cannot be written"),
        ("run", {"writable": False}, PROBLEM, "/run/weave cannot be written"),
        ("run", {"others_write": True}, PROBLEM, "others than its owner may write"),
        ("state", {"others_read": True}, NOTE, "may look into"),
        ("state", {"free_bytes": 5 << 20}, PROBLEM, "only 5 MiB"),
    ],
)
def test_directories(which: str, changes: dict[str, Any], verdict: Verdict, text: str) -> None:
    facts: FileFacts = changed(FILES, **{which: changed(getattr(FILES, which), **changes)})
    assert text in only(diagnose_files(facts), verdict).text


def test_directories_that_launch_will_make_or_that_anybody_may_see_are_fine() -> None:
    run = changed(FILES.run, others_read=True)
    assert unwell(diagnose_files(changed(FILES, state=changed(FILES.state, exists=False), run=run))) == []


def test_state_file_and_socket() -> None:
    assert "damaged" in only(diagnose_files(changed(FILES, database_trouble="it is damaged")), PROBLEM).text
    finding = only(diagnose_files(changed(FILES, socket_open_to_others=True)), PROBLEM)
    assert "chmod 600 /run/weave/weave.sock" in finding.advice


def test_packages() -> None:
    assert unwell(diagnose_packages(PackageFacts(checked=2))) == []
    finding = only(diagnose_packages(PackageFacts(troubles={"numpy": "no libblas"}, checked=2)), PROBLEM)
    assert "numpy cannot be used: no libblas" in finding.text


@pytest.mark.parametrize(
    ("now", "synchronised", "verdict"),
    [(0, True, PROBLEM), (9e9, True, PROBLEM), (1.8e9, False, NOTE), (1.8e9, True, None), (1.8e9, None, None)],
)
def test_clock(now: float, synchronised: bool | None, verdict: Verdict | None) -> None:
    found = diagnose_clock(ClockFacts(now=now, synchronised=synchronised))
    if verdict is None:
        assert unwell(found) == []
    else:
        assert "clock" in only(found, verdict).check


# Kernel


@pytest.mark.parametrize(
    ("changes", "verdict", "text", "advice"),
    [
        ({"devices": {"VXLAN": "not there"}}, PROBLEM, "no VXLAN device: not there", "--no-fastdp"),
        ({"devices": {"TAP": "not there"}}, PROBLEM, "no TAP device", "modprobe tun"),
        ({"devices": {"TAP": "not there"}}, PROBLEM, "no TAP device", "--device /dev/net/tun"),
        ({"devices": {"bridge": "no"}, "isolated_ports": "no"}, PROBLEM, "no bridge device", "modprobe bridge"),
        ({"isolated_ports": "not known"}, PROBLEM, "cannot be isolated", "4.18"),
        ({"nft": "not installed"}, PROBLEM, "not installed", "install the package nftables"),
        ({"nft": "not installed", "nft_nat": "not installed"}, PROBLEM, "not installed", "nftables"),
        ({"nft_nat": "no such file"}, PROBLEM, "cannot be translated", "nft_masq"),
        ({"features": {"tap_segmentation": "TCP (old)"}}, NOTE, "TCP (old)", "6.2"),
        ({"features": {"udp_gro": "off (no)"}}, NOTE, "off (no)", "6.2"),
    ],
)
def test_kernel(changes: dict[str, Any], verdict: Verdict, text: str, advice: str) -> None:
    assert unwell(diagnose_kernel(KERNEL)) == []
    facts: KernelFacts = changed(KERNEL, **changes)
    finding = only(diagnose_kernel(facts), verdict)
    assert text in finding.text
    assert advice in finding.advice


# Ports


def socket(protocol: str = "UDP", port: int = 6783, **more: Any) -> SocketFacts:
    return SocketFacts(protocol=protocol, address=more.pop("address", "0.0.0.0"), port=port, **more)


@pytest.mark.parametrize(
    ("taken", "text", "advice"),
    [
        (socket("TCP", owner="weaver (pid 5)"), "weaver (pid 5) has it", "--port"),
        (socket("UDP"), "another program has it", "--port"),
        (socket("UDP", 6784, kernel=True), "the kernel, for a VXLAN device", "ip -d link"),
        (socket("TCP", 6784, address="127.0.0.1"), "for status and metrics", "--http-addr"),
    ],
)
def test_taken_ports(taken: SocketFacts, text: str, advice: str) -> None:
    finding = only(diagnose_ports(WANTED, [taken], daemon_runs=False, own_vxlan=False), PROBLEM)
    assert text in finding.text
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("others", "runs", "own_vxlan"),
    [
        ([], False, False),
        ([socket("UDP", 6785), socket("TCP", 22)], False, False),
        ([socket("UDP", 6784, kernel=True)], False, True),
        ([socket("TCP"), socket("UDP")], True, False),
    ],
)
def test_ports_that_are_free_or_our_own(others: list[SocketFacts], runs: bool, own_vxlan: bool) -> None:
    assert unwell(diagnose_ports(WANTED, others, daemon_runs=runs, own_vxlan=own_vxlan)) == []


def test_port_53_of_the_bridge() -> None:
    everywhere = socket("UDP", 53, owner="dnsmasq (pid 9)")
    assert "dnsmasq (pid 9)" in only(diagnose_name_port([everywhere], []), NOTE).text
    elsewhere = socket("UDP", 53, address="127.0.0.53")
    assert list(diagnose_name_port([elsewhere], ["10.32.0.1"])) == []
    assert only(diagnose_name_port([elsewhere], ["127.0.0.53"]), NOTE)


# The host's network


@pytest.mark.parametrize(
    ("network", "daemon", "verdict", "text", "advice"),
    [
        (changed(NETWORK, interfaces={"eth0": ETH0}), DAEMON, PROBLEM, "no bridge weave", "weave launch"),
        (with_interface("weave", kind="openvswitch"), DAEMON, PROBLEM, "of kind openvswitch", "weave reset"),
        (with_interface("weave", kind=""), NO_DAEMON, PROBLEM, "another device", "--weave-bridge"),
        (with_interface("weave", up=False), DAEMON, PROBLEM, "is down", "ip link set weave up"),
        (with_interface("vethwe1", kind="veth", master="weave", mtu=1400), DAEMON, NOTE, "vethwe1", "attach"),
        (changed(NETWORK, routes=(IPv4Network("10.40.0.0/16"),)), DAEMON, PROBLEM, "10.40.0.0/16", "--ipalloc-range"),
        (changed(NETWORK, forwarding=False), DAEMON, NOTE, "leads nobody", "sysctl -w net.ipv4.ip_forward=1"),
        (changed(NETWORK, forwarding=False), changed(DAEMON, gateways=2), PROBLEM, "2 containers", "ip_forward=1"),
        (
            with_interface("eth0", driver="vmxnet3", offloads={"tx-udp_tnl-segmentation": True}),
            DAEMON,
            PROBLEM,
            "eth0 (vmxnet3)",
            "ethtool -K eth0",
        ),
    ],
)
def test_network(network: NetworkFacts, daemon: DaemonFacts, verdict: Verdict, text: str, advice: str) -> None:
    finding = only(diagnose_network(network, WANTED, daemon), verdict)
    assert text in finding.text
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("network", "daemon"),
    [
        (NETWORK, DAEMON),
        (changed(NETWORK, interfaces={"eth0": ETH0}), NO_DAEMON),
        (changed(NETWORK, interfaces={"eth0": ETH0}), changed(DAEMON, same_network=False)),
        (changed(NETWORK, forwarding=False), changed(DAEMON, exposed=())),
        (changed(NETWORK, strict_source_check=("eth0",)), DAEMON),
        (changed(NETWORK, strict_source_check=("eth0",)), with_connection(state="pending")),
        (with_interface("eth0", driver="vmxnet3", offloads={"tx-udp_tnl-segmentation": False}), DAEMON),
        (with_interface("eth0", driver="virtio_net", offloads={"tx-udp_tnl-segmentation": True}), DAEMON),
    ],
)
def test_network_that_is_fine(network: NetworkFacts, daemon: DaemonFacts) -> None:
    assert unwell(diagnose_network(network, WANTED, daemon)) == []


def test_overlap_is_of_no_concern_without_allocation() -> None:
    network = changed(NETWORK, routes=(IPv4Network("10.40.0.0/16"),))
    assert unwell(diagnose_network(network, changed(WANTED, range=None), DAEMON)) == []


def test_strict_source_checks_with_two_ways_out_while_a_peer_is_not_heard() -> None:
    network = changed(with_interface("eth1", addresses=("198.51.100.1/24",)), strict_source_check=("eth0", "eth1"))
    finding = only(diagnose_network(network, WANTED, with_connection(state="pending", mtu=None)), PROBLEM)
    assert finding.check == "rp_filter"
    assert "nothing arrives from b" in finding.text
    assert "rp_filter=2" in finding.advice
    assert unwell(diagnose_network(network, WANTED, DAEMON)) == []


# MTU


def test_the_largest_mtu_that_all_pairs_carry_is_named() -> None:
    connections = (
        CONNECTION,
        changed(CONNECTION, nickname="c", overlay="sleeve", mtu=1338),
        changed(CONNECTION, nickname="d", overlay="sleeve", mtu=1300),
        changed(CONNECTION, nickname="e", overlay="sleeve", mtu=1414),
    )
    daemon = changed(DAEMON, router=with_router(connections=connections))
    finding = only(diagnose_mtu(NETWORK, WANTED, daemon), PROBLEM)
    assert "c (1338), d (1300)" in finding.text
    assert "1300 bytes are the most" in finding.text
    assert "--mtu 1300" in finding.advice


@pytest.mark.parametrize("mtu", [1376, 1414, 65535])
def test_connections_that_carry_the_mtu(mtu: int) -> None:
    assert unwell(diagnose_mtu(NETWORK, WANTED, with_connection(mtu=mtu, overlay="sleeve"))) == []


@pytest.mark.parametrize(("mtu", "silent"), [(1400, False), (1437, False), (1450, False), (1462, True), (9000, True)])
def test_without_a_connection_the_interface_is_judged(mtu: int, silent: bool) -> None:
    network = changed(NETWORK, paths={"": PathFacts(interface="eth0", mtu=mtu)})
    found = diagnose_mtu(network, WANTED, NO_DAEMON)
    if silent:
        assert unwell(found) == []
    else:
        assert f"eth0 has an MTU of {mtu} bytes" in only(found, NOTE).text


def test_a_host_without_a_way_out_has_no_mtu() -> None:
    assert list(diagnose_mtu(changed(NETWORK, paths={}), WANTED, NO_DAEMON)) == []


# Connections


def diagnose(**changes: Any) -> list[Finding]:
    router = with_connection(**changes).router
    assert router is not None
    return list(diagnose_connections(router))


def test_no_connection_at_all() -> None:
    finding = only(diagnose_connections(with_router(connections=())), NOTE)
    assert "knows no other" in finding.text
    assert "weave connect" in finding.advice


def test_no_udp_packet() -> None:
    finding = only(diagnose(state="pending", overlay="none", reason="no UDP packet from the peer yet"), PROBLEM)
    assert "no UDP packet from the peer yet" in finding.text
    assert "UDP port 6783" in finding.advice
    assert "192.0.2.2" in finding.advice


def test_packets_of_the_peer_do_not_arrive_although_ours_do() -> None:
    finding = only(diagnose(confirmed=False), PROBLEM)
    assert "does not arrive here" in finding.text
    assert "UDP port 6783 pass from 192.0.2.2 to this host" in finding.advice


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("no answer to the TCP connection attempt", "TCP port 6783 open"),
        ("cannot connect: Connection refused", "no router listens"),
        ("cannot connect: No route to host", "ip route get"),
        ("cannot connect: Network is unreachable", "ip route get"),
        (str(HandshakeError("the passwords differ: the peer's first message does not decrypt")), "same password"),
        (str(HandshakeError("the peer has a password, but none is set here")), "same password"),
        (str(ConnectionRefused("another peer has our name 02::1: give one of the two another --name")), "--name"),
        (str(ConnectionRefused("the limit of 3 connections is reached")), "--conn-limit"),
        ("cannot resolve 'db': Name or service not known", "weave connect"),
        ("the remote does not speak Weave's protocol", "TCP port 6783"),
        ("something new", "weave status connections"),
        ("", "weave status connections"),
    ],
)
@pytest.mark.parametrize("state", ["failed", "retrying"])
def test_missing_connections(state: str, reason: str, advice: str) -> None:
    finding = only(diagnose(state=state, reason=reason, nickname="", peer=""), PROBLEM)
    assert reason in finding.text
    assert advice in finding.advice
    assert "192.0.2.2:6783" in finding.check


def test_a_target_without_port_gets_advice_about_the_networks_port() -> None:
    assert "TCP port 6783" in only(diagnose(address="db", state="failed", reason="timed out"), PROBLEM).advice


def test_this_host_itself_among_the_targets_is_no_problem() -> None:
    refusal = str(ConnectionRefused("this address leads to ourselves", final=True))
    assert unwell(diagnose(state="failed", reason=refusal)) == []


def test_a_connection_that_is_being_made() -> None:
    assert "at this moment" in only(diagnose(state="connecting"), NOTE).text


def test_sleeve_because_of_encryption_is_fine() -> None:
    found = diagnose(overlay="sleeve", encrypted=True)
    assert unwell(found) == []
    assert any("since it encrypts" in finding.text for finding in found)


def test_sleeve_because_this_host_was_told_so() -> None:
    found = diagnose_connections(with_router(vxlan=False, connections=(changed(CONNECTION, overlay="sleeve"),)))
    assert "--no-fastdp" in only(found, NOTE).text


def test_sleeve_because_of_trouble_here() -> None:
    connections = (changed(CONNECTION, overlay="sleeve"),)
    found = diagnose_connections(with_router(vxlan=False, vxlan_trouble="no nft", connections=connections))
    assert "no nft" in only(found, PROBLEM).text


def test_sleeve_because_of_the_peer() -> None:
    assert "the peer offers no VXLAN" in only(diagnose(overlay="sleeve"), NOTE).text


def link(*, their_mtu: int = 1376) -> VxlanLink:
    link = VxlanLink(PeerName(1), PeerName(2), token=b"12345678", mtu=1376, now=0.0)
    link.control(Number.HELLO, encode_hello(Hello(b"abcdefgh", their_mtu)), 0.0)
    return link


def hears(link: VxlanLink, small: bool, full: bool, theirs: Hearing, now: float) -> VxlanLink:
    for heard, is_full in ((small, False), (full, True)):
        if heard:
            link.heartbeat(link.token, full=is_full, now=now)
    link.control(Number.HEARING, bytes((theirs,)), now)
    return link


LATER = LOST_S + 1
ALL = Hearing.SMALL | Hearing.FULL


@pytest.mark.parametrize(
    ("make", "verdict", "advice"),
    [
        (lambda: link(their_mtu=1400), PROBLEM, "same --mtu"),
        (lambda: hears(link(), False, False, ALL, LATER), PROBLEM, "UDP port 6784 pass from 192.0.2.2 to this host"),
        (
            lambda: hears(link(), True, True, Hearing.NONE, LATER),
            PROBLEM,
            "UDP port 6784 pass from this host to 192.0.2.2",
        ),
        (lambda: hears(link(), True, False, ALL, LATER), PROBLEM, "smaller --mtu"),
        (lambda: hears(link(), True, True, ALL, LATER), NOTE, "some seconds"),
    ],
    ids=["mtu-differs", "hears-nothing", "not-heard", "too-small", "trying"],
)
def test_every_reason_of_the_router_for_sleeve_gets_advice(
    make: Callable[[], VxlanLink], verdict: Verdict, advice: str
) -> None:
    reason = make().trouble(LATER)
    assert reason
    finding = only(diagnose(overlay="sleeve", reason=reason), verdict)
    assert reason in finding.text
    assert advice in finding.advice


def test_a_reason_that_nobody_knows_is_passed_on() -> None:
    assert "the moon" in only(diagnose(overlay="sleeve", reason="the moon is full"), PROBLEM).text


# Addresses and names


@pytest.mark.parametrize(
    ("changes", "verdict", "text", "advice"),
    [
        ({"quorum": 3, "known": 1}, PROBLEM, "3 hosts must agree", "--ipalloc-init"),
        ({"waiting_for": ("web waits for space",)}, PROBLEM, "web waits for space", "weave rmpeer"),
        ({"conflicts": (("02::3(c)", "ranges overlap"),)}, PROBLEM, "ranges overlap", "weave reset"),
        ({"unreachable": (("c", 1 << 18),)}, NOTE, "25 % of all", "weave rmpeer c"),
    ],
)
def test_allocation(changes: dict[str, Any], verdict: Verdict, text: str, advice: str) -> None:
    finding = only(diagnose_allocation(changed(ALLOCATION, **changes)), verdict)
    assert text in finding.text
    assert advice in finding.advice


def test_allocation_that_works_or_is_off() -> None:
    assert unwell([*diagnose_allocation(ALLOCATION), *diagnose_allocation(None)]) == []


@pytest.mark.parametrize(
    ("changes", "exposed", "verdict", "text", "advice"),
    [
        (
            {"listening": (), "troubles": ("cannot listen at 10.32.0.1:53: Address already in use",)},
            True,
            PROBLEM,
            "already in use",
            "dnsmasq",
        ),
        (
            {"listening": (), "troubles": ("cannot listen at 10.32.0.1:53: Permission denied",)},
            True,
            PROBLEM,
            "Permission denied",
            "NET_BIND_SERVICE",
        ),
        (
            {"troubles": ("cannot listen at 192.0.2.7:53: Cannot assign requested address",)},
            True,
            PROBLEM,
            "Cannot assign",
            "has no such address",
        ),
        ({"troubles": ("cannot listen at 10.32.0.1:53: Too many open files",)}, True, PROBLEM, "Too many", "log"),
        ({"listening": (), "troubles": ("waiting for an address",)}, False, NOTE, "no address", "weave expose"),
        ({"listening": ()}, True, PROBLEM, "listens nowhere", "--dns-listen-address"),
        ({"troubles": ("/etc/resolv.conf cannot be read",)}, True, PROBLEM, "cannot be read", "--resolv-conf"),
    ],
)
def test_names(changes: dict[str, Any], exposed: bool, verdict: Verdict, text: str, advice: str) -> None:
    finding = only(diagnose_names(changed(NAMES, **changes), exposed=exposed), verdict)
    assert text in finding.text
    assert advice in finding.advice


def test_names_that_work_or_are_off() -> None:
    assert unwell([*diagnose_names(NAMES, exposed=True), *diagnose_names(None, exposed=True)]) == []


# Container engines


@pytest.mark.parametrize(
    ("changes", "verdict", "text", "advice"),
    [
        (
            {"plugins": {"weave-net": "", "weave-ipam": None}},
            PROBLEM,
            "/opt/cni/bin/weave-ipam is missing",
            "setup-cni",
        ),
        ({"plugins": {"weave-net": "Exec format error"}}, PROBLEM, "Exec format error", "setup-cni"),
        ({"ours": ()}, NOTE, "no configuration", "setup-cni"),
        ({"configurations": ("05-x.conf", "10-weave.conflist")}, NOTE, "05-x.conf", "rename"),
    ],
)
def test_cni(changes: dict[str, Any], verdict: Verdict, text: str, advice: str) -> None:
    assert unwell(diagnose_cni(CNI)) == []
    finding = only(diagnose_cni(changed(CNI, **changes)), verdict)
    assert text in finding.text
    assert advice in finding.advice


def test_cni_that_was_never_set_up() -> None:
    plugins = {"weave-net": None, "weave-ipam": None}
    assert unwell(diagnose_cni(changed(CNI, plugins=plugins, ours=()))) == []


def test_docker() -> None:
    assert unwell(diagnose_docker(DockerFacts())) == []
    assert unwell(diagnose_docker(DockerFacts(sockets={"/run/docker/plugins/weave.sock": True}))) == []
    finding = only(diagnose_docker(DockerFacts(sockets={"/run/docker/plugins/weave.sock": False})), PROBLEM)
    assert "rm /run/docker/plugins/weave.sock" in finding.advice
