"""The name servers under test. Each has a host of its own, and a container that reaches it over that host's bridge."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from bench.dns_load import NameServer
from bench.system import BRIDGE, add_bridge, add_container, add_port, lacks
from interop.weave_net_28 import WeaveNet28
from lab.network import LabError
from weave_net.client import DaemonClient
from weave_net.directories import Directories

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lab.network import Host, Lab

DOMAIN = "weave.local"
SERVER = "10.2.1.9"
CLIENT = "10.2.1.1/24"
EXTERNAL = "weave:extern"
"""The container of names that belong to none."""


class DnsSystem(ABC):
    """A name server under test."""

    name: ClassVar[str]
    title: ClassVar[str]

    def absent(self) -> str | None:
        """Why it cannot be measured on this machine; None if it can."""
        return None

    @abstractmethod
    def build(self, lab: Lab, names: Mapping[str, str]) -> NameServer:
        """Bring it up, knowing these names. LabError if that fails."""


class WeaveDns(DnsSystem):
    """This project's."""

    name = "weave"
    title = "weave"

    def build(self, lab: Lab, names: Mapping[str, str]) -> NameServer:
        """Launch a daemon that limits no client, and expose the host."""
        host = lab.host(self.name)
        host.weave("launch", "--name", "::1", "--dns-rate-limit", "0")
        host.weave("expose", f"{SERVER}/24")
        with DaemonClient(Directories(host.state_dir, host.run_dir)) as client:
            for name, address in names.items():
                client.add_name(EXTERNAL, address, name)
        if (pid := host.pid) is None:
            raise LabError(f"the daemon ended:\n{host.log()}")
        return NameServer(host.container("client", CLIENT), SERVER, pid)


class Dnsmasq(DnsSystem):
    """What many hosts have: in C, one thread."""

    name = "dnsmasq"
    title = "dnsmasq"

    def absent(self) -> str | None:
        """It needs the program."""
        return lacks("dnsmasq")

    def build(self, lab: Lab, names: Mapping[str, str]) -> NameServer:
        """Start it with a file of hosts."""
        host = lab.host(self.name)
        add_bridge(host)
        host.ip("addr", "add", f"{SERVER}/24", "dev", BRIDGE)
        client = add_container(lab, host, CLIENT)
        add_port(host, "web")
        hosts = lab.directory / "dnsmasq-hosts"
        hosts.write_text("".join(f"{address} {name}\n" for name, address in names.items()))
        hosts.chmod(0o644)
        server = host.popen(
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file=",
            "--user=root", "--group=root", f"--addn-hosts={hosts}", f"--local=/{DOMAIN}/", f"--listen-address={SERVER}",
            "--bind-interfaces",
        )  # fmt: skip
        return NameServer(client, SERVER, server.pid)


class WeaveNet28Dns(DnsSystem):
    """Weave Net 2.8's; WEAVER names its binary."""

    name = "weave28"
    title = "Weave Net 2.8"

    def absent(self) -> str | None:
        """It needs the binary, and the binary needs iptables."""
        if not os.environ.get("WEAVER"):
            return "WEAVER does not name its binary"
        return lacks(os.environ["WEAVER"]) or lacks("iptables")

    def build(self, lab: Lab, names: Mapping[str, str]) -> NameServer:
        """Launch a daemon whose name server has the bridge's address."""
        host = lab.host(self.name)
        # It binds at its start and never again, before it has made the bridge.
        host.ip("addr", "add", f"{SERVER}/32", "dev", "lo")
        daemon = WeaveNet28(lab, host, "00:00:00:00:00:01")
        # Options may follow its own ones in place of peers; the last one of a name counts.
        daemon.launch("--no-dns=false", f"--dns-listen-address={SERVER}:53", f"--dns-domain={DOMAIN}.")
        client = daemon.container("client", CLIENT)
        host.ip("addr", "add", f"{SERVER}/24", "dev", "weave")
        api = f"http://127.0.0.1:6784/name/{EXTERNAL}"
        requests = [f'url = "{api}/{address}"\nrequest = PUT\ndata = "fqdn={name}"' for name, address in names.items()]
        host.run("curl", "-sSf", "--config", "-", stdin="\nnext\nfail\n".join(requests))
        return NameServer(client, SERVER, _running(host, Path(os.environ["WEAVER"])))


def _running(host: Host, program: Path) -> int:
    """The number of the process on the host that runs a program."""
    for pid in host.pids():
        with suppress(OSError):
            if Path(f"/proc/{pid}/exe").samefile(program):
                return pid
    raise LabError(f"{program} does not run on {host.label}")


SYSTEMS: tuple[DnsSystem, ...] = (WeaveDns(), Dnsmasq(), WeaveNet28Dns())
"""In the order of the table."""
