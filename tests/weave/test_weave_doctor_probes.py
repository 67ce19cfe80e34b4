"""The probes look and leave nothing behind; whatever they meet, they come back in time."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from weave_net.devices import KEY
from weave_net.directories import Directories
from weave_net.doctor import ethtool, gather, probe_files, probe_firewall, probe_program
from weave_net.doctor.facts import DaemonFacts, FirewallFacts, KernelFacts, Unknown, Wanted
from weave_net.doctor.probe_daemon import probe_daemon
from weave_net.doctor.probe_kernel import probe_kernel
from weave_net.doctor.probe_network import probe_network
from weave_net.doctor.probe_sockets import probe_sockets
from weave_net.doctor.report_facts import read_allocation, read_names, read_router
from weave_net.instance_lock import InstanceLock
from weave_net.report import full_report
from weave_net.status_views import Snapshot
from weave_net.systemd_unit import executable
from weave_net.testing.statuses import H2, SAMPLE_STATUS
from weave_router.status import PeerLinkStatus, PeerStatus

if TYPE_CHECKING:
    from pathlib import Path

    from weave_router.status import RouterStatus

WANTED = Wanted(port=6783, mtu=1376, range=None, http_port=6784)


def report(router: RouterStatus = SAMPLE_STATUS) -> dict[str, Any]:
    snapshot = Snapshot(router=router, ipam=None, dns=None, now=datetime(2026, 1, 1, tzinfo=UTC), version="3")
    document: dict[str, Any] = json.loads(json.dumps(full_report(snapshot)))
    return document


# The report


def test_the_daemons_report_is_understood() -> None:
    facts = read_router(report())
    assert (facts.port, facts.encryption, facts.tap, facts.targets, facts.vxlan) == (6783, True, "weave-tap", 3, False)
    states = {connection.address: connection.state for connection in facts.connections}
    assert states["10.0.0.4:6783"] == "pending"
    first, *_, last = facts.connections
    assert (first.label, first.host, first.overlay) == ("h2", "10.0.0.2", "sleeve")
    assert (first.encrypted, first.mtu) == (True, 1414)
    assert (last.label, last.reason) == ("10.0.0.9:6783", "password differs")


def test_who_does_not_confirm_a_connection() -> None:
    unsure = PeerLinkStatus(SAMPLE_STATUS.name, "h1", "10.0.0.1:6783", outbound=False, established=False)
    peers = (PeerStatus(H2, "h2", 2, None, 9, (unsure,)),)
    facts = read_router(report(replace(SAMPLE_STATUS, peers=peers)))
    assert [c.nickname for c in facts.connections if not c.confirmed] == ["h2"]


def test_kernel_path_and_its_trouble() -> None:
    on = replace(SAMPLE_STATUS, overlay_diagnostics={"vxlan": {"Device": "weave-vxlan", "Peers": []}})
    assert read_router(report(on)).vxlan
    off = replace(SAMPLE_STATUS, overlay_diagnostics={"vxlan": {"Trouble": "no nft"}})
    assert read_router(report(off)).vxlan_trouble == "no nft"


def test_services_that_are_off_or_tell_of_trouble() -> None:
    assert read_allocation(report()) is None
    assert read_names(report()) is None
    ipam = {
        "Range": "10.32.0.0/12",
        "RangeNumIPs": 4,
        "Paxos": {"Elector": True, "KnownNodes": 1, "Quorum": 2},
        "Entries": [
            {"Size": 2, "Peer": H2, "Nickname": "h2", "IsKnownPeer": False},
            {"Size": 1, "Peer": H2, "Nickname": "h2", "IsKnownPeer": False},
            {"Size": 1, "Peer": "x", "Nickname": "h3", "IsKnownPeer": True},
        ],
        "WaitingFor": ["space"],
        "Conflicts": [{"Peer": "x", "Reason": "y"}],
    }
    facts = read_allocation({"IPAM": ipam})
    assert facts is not None
    assert (facts.quorum, facts.known, facts.unreachable) == (2, 1, (("h2", 3),))
    assert (facts.waiting_for, facts.conflicts) == (("space",), (("x", "y"),))
    names = read_names({"DNS": {"Domain": "weave.local.", "Listening": ["a"], "Upstream": None, "Troubles": ["t"]}})
    assert names is not None
    assert (names.listening, names.upstream, names.troubles) == (("a",), (), ("t",))


def test_a_report_with_nothing_in_it() -> None:
    assert read_router({}).connections == ()


# The daemon


def test_no_daemon(tmp_path: Path) -> None:
    facts = probe_daemon(Directories(tmp_path / "state", tmp_path / "run"))
    assert (facts.pid, facts.router, facts.trouble) == (None, None, "")
    assert not list(tmp_path.iterdir())


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "state", tmp_path / "run")
    directories.prepare()
    with InstanceLock(directories.pid_file):
        facts = probe_daemon(directories)
    assert facts.pid == os.getpid()
    assert facts.router is None
    assert "no daemon answers" in facts.trouble


# Files


def test_directories(tmp_path: Path) -> None:
    directories = Directories(tmp_path / "state", tmp_path / "run")
    facts = probe_files.probe_files(directories, daemon_runs=False)
    assert not facts.state.exists
    assert not facts.run.exists
    directories.prepare()
    facts = probe_files.probe_files(directories, daemon_runs=False)
    assert (facts.state.exists, facts.state.writable, facts.state.others_read) == (True, True, False)
    assert facts.run.free_bytes > 0
    directories.run.chmod(0o777)
    assert probe_files.probe_files(directories, daemon_runs=False).run.others_write
    directories.run.chmod(0o1777)
    assert not probe_files.probe_files(directories, daemon_runs=False).run.others_write, "as /tmp is"
    (tmp_path / "file").touch()
    facts = probe_files.probe_files(Directories(tmp_path / "file", tmp_path / "file" / "run"), daemon_runs=False)
    assert not facts.state.kind_ok
    assert not facts.run.kind_ok


def test_the_daemons_socket_is_for_root(tmp_path: Path) -> None:
    directories = Directories(tmp_path, tmp_path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(directories.socket))
        for mode, is_open in ((0o600, False), (0o644, False), (0o620, True), (0o602, True)):
            directories.socket.chmod(mode)
            assert probe_files.probe_files(directories, daemon_runs=True).socket_open_to_others is is_open


def test_the_state_file(tmp_path: Path) -> None:
    directories = Directories(tmp_path, tmp_path)
    assert probe_files.stored_bridge(directories.database) == "weave"
    assert not directories.database.exists()
    connection = sqlite3.connect(directories.database)
    connection.execute("CREATE TABLE entries (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
    connection.execute("INSERT INTO entries VALUES (?, ?)", (KEY, '{"bridge": "w2", "tap": "t", "vxlan": "v"}'))
    connection.commit()
    connection.close()
    assert probe_files.probe_files(directories, daemon_runs=False).database_trouble == ""
    assert probe_files.stored_bridge(directories.database) == "w2"
    directories.database.write_bytes(b"not a database, but long enough to be read as the header of one" * 9)
    assert "cannot be read" in probe_files.probe_files(directories, daemon_runs=False).database_trouble
    assert probe_files.probe_files(directories, daemon_runs=True).database_trouble == "", "the daemon has it open"
    assert probe_files.stored_bridge(directories.database) == "weave"


def cni(tmp_path: Path) -> tuple[Path, Path, dict[str, str]]:
    plugins, configurations = tmp_path / "bin", tmp_path / "net.d"
    plugins.mkdir()
    configurations.mkdir()
    return plugins, configurations, {"WEAVE_CNI_PLUGIN_DIR": str(plugins), "WEAVE_CNI_CONF_DIR": str(configurations)}


def program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_cni_that_was_not_set_up(tmp_path: Path) -> None:
    _, _, environment = cni(tmp_path)
    facts = probe_files.probe_cni(environment)
    assert set(facts.plugins.values()) == {None}
    assert facts.configurations == ()
    facts = probe_files.probe_cni({"WEAVE_CNI_CONF_DIR": str(tmp_path / "none"), "WEAVE_CNI_PLUGIN_DIR": str(tmp_path)})
    assert facts.configurations == ()


def test_cni_plugins_are_asked_for_their_versions(tmp_path: Path) -> None:
    plugins, _, environment = cni(tmp_path)
    answer = 'printf \'{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}\''
    program(plugins / "weave-net", f'[ "$CNI_COMMAND" = VERSION ] && {answer}')
    program(plugins / "weave-ipam", "echo 'No module named weave_cni' >&2; exit 1")
    facts = probe_files.probe_cni(environment)
    assert facts.plugins["weave-net"] == ""
    assert "No module named weave_cni" in (facts.plugins["weave-ipam"] or "")
    (plugins / "weave-net").write_text("#!/nonexistent/python\n")
    (plugins / "weave-ipam").unlink()
    (plugins / "weave-ipam").symlink_to("/nonexistent")
    facts = probe_files.probe_cni(environment)
    assert facts.plugins["weave-net"] == "No such file or directory"
    assert facts.plugins["weave-ipam"] == "No such file or directory"


def test_a_cni_plugin_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins, _, environment = cni(tmp_path)
    monkeypatch.setattr(probe_files, "PLUGIN_LIMIT_S", 0.2)
    program(plugins / "weave-net", "exec sleep 5")
    assert "within 0.2 s" in (probe_files.probe_cni(environment).plugins["weave-net"] or "")


def test_cni_configurations_in_the_order_of_runtimes(tmp_path: Path) -> None:
    _, configurations, environment = cni(tmp_path)
    (configurations / "20-weave.conflist").write_text('{"name": "weave", "plugins": [{"type": "weave-net"}]}')
    (configurations / "10-other.conf").write_text('{"name": "x", "type": "bridge"}')
    mixed = '{"plugins": [{"type": "bridge", "ipam": {"type": "weave-ipam"}}]}'
    (configurations / "30-mixed.conflist").write_text(mixed)
    (configurations / "40-broken.json").write_text("{")
    (configurations / "50-list.json").write_text("[]")
    (configurations / "README").write_text("weave-net")
    facts = probe_files.probe_cni(environment)
    assert facts.configurations[:2] == ("10-other.conf", "20-weave.conflist")
    assert "README" not in facts.configurations
    assert facts.ours == ("20-weave.conflist", "30-mixed.conflist")


def test_docker_sockets(tmp_path: Path) -> None:
    assert probe_files.probe_docker(tmp_path).sockets == {}
    path = tmp_path / "weave.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert probe_files.probe_docker(tmp_path).sockets == {str(path): True}
    assert probe_files.probe_docker(tmp_path).sockets == {str(path): False}


# Sockets


def test_sockets_and_their_owners() -> None:
    with socket.socket() as listening, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as datagrams:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        datagrams.bind(("::1", 0))
        ports = frozenset({listening.getsockname()[1], datagrams.getsockname()[1]})
        found = {(each.protocol, each.address, each.port): each for each in probe_sockets(ports)}
        stream = found.pop(("TCP", "127.0.0.1", listening.getsockname()[1]))
        datagram = found.pop(("UDP", "::1", datagrams.getsockname()[1]))
    assert f"(pid {os.getpid()})" in stream.owner
    assert f"(pid {os.getpid()})" in datagram.owner
    assert not stream.kernel


def test_a_connection_that_happens_to_have_the_port_is_no_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert probe_sockets(frozenset({client.getsockname()[1]})) == ()


def test_a_socket_of_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "self/net").mkdir(parents=True)
    line = "  1: 00000000:1A80 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0 0"
    (tmp_path / "self/net/udp").write_text(f"  sl local_address ...\n{line}\n")
    (found,) = probe_sockets(frozenset({6784}), tmp_path)
    assert (found.protocol, found.address, found.kernel, found.owner) == ("UDP", "0.0.0.0", True, "")


# The program


def test_packages_are_all_there() -> None:
    facts = probe_program.probe_packages()
    assert facts.troubles == {}
    assert facts.checked > 10


def test_a_package_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["click>=8", "no-such-thing>=1", 'x; extra == "dev"'])
    monkeypatch.setattr(probe_program, "NATIVE", {"click": "no_such_module"})
    facts = probe_program.probe_packages()
    assert facts.troubles["no-such-thing"] == "it is not installed"
    assert "No module named 'no_such_module'" in facts.troubles["click"]
    assert facts.checked == 2


def test_the_clock_is_read() -> None:
    facts = probe_program.probe_clock()
    assert abs(facts.now - time.time()) < 60
    assert facts.synchronised in (True, False, None)


# Gathering


def test_a_probe_that_fails_or_hangs_makes_its_part_unknown() -> None:
    def fail() -> int:
        raise RuntimeError("no such luck")

    assert gather.Probe(fail, 5).result() == Unknown("RuntimeError: no such luck")
    end = threading.Event()
    begin = time.monotonic()
    assert gather.Probe(end.wait, 0.1).result() == Unknown("it took longer than 0.1 s")
    assert time.monotonic() - begin < 3
    end.set()
    assert gather.Probe(lambda: 5, 5).result() == 5


def test_time_limits_add_up_to_less_than_ten_seconds() -> None:
    assert gather.DAEMON_LIMIT_S + gather.HOST_LIMIT_S < 9


def test_everything_is_gathered_without_a_daemon(tmp_path: Path) -> None:
    facts = gather.gather(Directories(tmp_path / "state", tmp_path / "run"), WANTED)
    assert isinstance(facts.daemon, DaemonFacts)
    for part in ("network", "sockets", "files", "cni", "docker", "clock", "packages"):
        assert not isinstance(getattr(facts, part), Unknown), part
    assert facts.wanted == WANTED
    assert not list(tmp_path.iterdir())


# With root


@pytest.mark.root
def test_the_kernel_is_tried_and_nothing_stays() -> None:
    def everything() -> tuple[list[str], str]:
        rules = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True).stdout
        return sorted(name for _, name in socket.if_nameindex()), rules

    before, found = everything(), gather.Probe(probe_kernel, 20).result()
    assert isinstance(found, KernelFacts)
    assert set(found.devices.values()) == {""}
    assert (found.isolated_ports, found.nft, found.nft_nat) == ("", "", "")
    assert found.features["udp_segment"] == "on"
    assert everything() == before


@pytest.mark.root
def test_without_nft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weave_net.doctor.probe_kernel._PATH", "/nonexistent")
    found = gather.Probe(probe_kernel, 20).result()
    assert isinstance(found, KernelFacts)
    assert "not installed" in found.nft
    monkeypatch.setattr(probe_firewall, "_PATH", "/nonexistent")
    assert isinstance(probe_firewall.probe_firewall([]), Unknown)


@pytest.mark.root
def test_rules_are_listed() -> None:
    found = probe_firewall.probe_firewall(["192.0.2.1", "192.0.2.1", "db.example"])
    assert isinstance(found, FirewallFacts)
    assert [str(peer) for peer in found.peers] == ["192.0.2.1"]


@pytest.mark.root
def test_rules_that_take_too_long_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "nft", "exec /bin/sleep 5")
    monkeypatch.setattr(probe_firewall, "_PATH", str(tmp_path))
    monkeypatch.setattr(probe_firewall, "LIMIT_S", 0.2)
    found = probe_firewall.probe_firewall([])
    assert found == Unknown("'nft -j list tables' did not finish within 0.2 s: there are too many rules")


@pytest.mark.root
def test_features_of_an_interface_are_those_that_ethtool_shows() -> None:
    text = subprocess.run(["ethtool", "-k", "lo"], capture_output=True, text=True, check=True).stdout
    shown = dict(line.strip().split(": ", 1) for line in text.splitlines() if ": " in line)
    ours = ethtool.features("lo")
    common = ours.keys() & shown.keys()
    assert "tx-udp_tnl-segmentation" in common
    assert len(common) > 20
    assert {name for name in common if ours[name] is not shown[name].startswith("on")} == set()
    assert ethtool.features("nonexistent0") == {}
    assert ethtool.driver("lo") == ""


def test_the_network_of_this_machine() -> None:
    facts = probe_network("weave", "", ["127.0.0.1"])
    assert facts.interfaces["lo"].up
    assert facts.paths["127.0.0.1"].interface == "lo"
    assert 0 <= facts.interfaces["lo"].mtu - facts.paths["127.0.0.1"].mtu < 2, "an IP packet has 65535 bytes at most"


@pytest.mark.root
def test_without_rights_what_cannot_be_looked_at_is_said(tmp_path: Path) -> None:
    environment = {**os.environ, "WEAVE_RUN_DIR": str(tmp_path / "run"), "WEAVE_STATE_DIR": str(tmp_path / "state")}
    command = ("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", str(executable()))
    done = subprocess.run(
        [*command, "doctor", "--json"], env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    assert done.stderr == ""
    found = {finding["check"]: finding for finding in json.loads(done.stdout)}
    for check in ("kernel", "firewall"):
        assert "try it as root" in found[check]["text"]
        assert found[check]["verdict"] == "note"
