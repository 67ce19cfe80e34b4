"""`make demo`: three hosts form a mesh and their containers talk, on this one machine, in less than a minute.

    A ───────── B ───────── C        A and C have no way to each other but through B's router
    │           │           │
    10.2.1.1    10.2.1.2    10.2.1.3   containers

Each host is a network namespace that runs the real daemon. Nothing outside them is touched, and everything is
removed at the end, also after Ctrl-C.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

# `make demo` runs this file by its path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.network import WEAVE, Container, Host, Interrupted, Lab, LabError, wait_until

MESH_TIMEOUT_S = 30
THROUGHPUT_S = 3
LOG_LINES = 15


class Demo:
    """The demo on an empty lab."""

    def __init__(self, lab: Lab, console: Console) -> None:
        self.lab = lab
        self.console = console
        self.hosts: list[Host] = []
        self.containers: dict[str, tuple[Container, str]] = {}
        """Container and its address, by host."""

    def run(self) -> None:
        """All steps, in order."""
        began = time.monotonic()
        self.lay_cables()
        self.launch()
        self.wait_for_mesh()
        self.attach()
        self.ping()
        self.show_connections()
        self.measure()
        self.console.print(f"\n[bold green]Everything works.[/] It took {time.monotonic() - began:.0f} s.")

    def lay_cables(self) -> None:
        """Three hosts in a line."""
        self.step(
            "Three hosts in a line, each a network namespace. A and C are on different subnets, B forwards nothing."
        )
        a, b, c = self.hosts = [self.lab.host(label) for label in "ABC"]
        self.lab.link(a, "192.0.2.1/30", b, "192.0.2.2/30")
        self.lab.link(b, "192.0.2.5/30", c, "192.0.2.6/30")
        self.console.print("  A 192.0.2.1 ──── 192.0.2.2 B 192.0.2.5 ──── 192.0.2.6 C")
        if a.reaches("192.0.2.6", timeout_s=0.3):
            raise LabError("A reaches C without weave: this machine forwards between the namespaces")

    def launch(self) -> None:
        """One router on each host; A and C are told B's address, B nothing."""
        self.step("Start a router on each. A and C know B's address; that is all the configuration there is.")
        a, b, c = self.hosts
        self.weave(b, "launch", "--name", "::2", "--nickname", "B")
        self.weave(a, "launch", "--name", "::1", "--nickname", "A", "192.0.2.2")
        self.weave(c, "launch", "--name", "::3", "--nickname", "C", "192.0.2.5")

    def wait_for_mesh(self) -> None:
        """Until every host knows all three and its connections are established."""
        self.step("The routers find each other.")
        began = time.monotonic()
        wait_until(
            lambda: all(sees_mesh(host, len(self.hosts)) for host in self.hosts),
            MESH_TIMEOUT_S,
            "all hosts to see three peers and established connections",
        )
        self.console.print(f"  Each of the three knows all three, {time.monotonic() - began:.1f} s later.")

    def attach(self) -> None:
        """A container on each host."""
        self.step("A container on each host (here a bare network namespace), all in one subnet.")
        for number, host in enumerate(self.hosts, 1):
            address = f"10.2.1.{number}"
            self.show(host, "attach", "--netns", f"/run/netns/web{number}", f"{address}/24")
            self.containers[host.label] = host.container(f"web{number}", f"{address}/24"), address

    def ping(self) -> None:
        """Every container pings every other one."""
        self.step("Every container pings every other one.")
        table = Table("from", "to", "round trip", "way", box=None, padding=(0, 2))
        for label, (container, address) in self.containers.items():
            for other, (_, target) in self.containers.items():
                if other != label:
                    wait_until(lambda c=container, t=target: c.reaches(t), 10, f"{target} to answer {address}")  # type: ignore[misc]
                    rtt = container.ping(target, count=3)
                    relayed = {label, other} == {"A", "C"}
                    way = "relayed by B: two hops" if relayed else "direct"
                    table.add_row(f"{label} {address}", f"{other} {target}", f"{rtt:.2f} ms", way)
        self.console.print(table)

    def show_connections(self) -> None:
        """What the operator sees."""
        self.step("What `weave status connections` says. A and C also try to reach each other directly, in vain here.")
        for host in self.hosts:
            self.console.print(self.weave(host, "status", "connections").rstrip(), markup=False, highlight=False)

    def measure(self) -> None:
        """TCP throughput over one hop and over two."""
        self.step(f"TCP between containers, {THROUGHPUT_S} s each.")
        if shutil.which("iperf3") is None:
            raise LabError("iperf3 is missing: install it with `.ci/packages lab`")
        for sender, receiver, way in [("A", "B", "one hop "), ("A", "C", "two hops")]:
            rate = throughput(self.containers[sender][0], *self.containers[receiver])
            self.console.print(f"  {sender} → {receiver}  {way}  [bold]{rate / 1e9:.2f} Gbit/s[/]", highlight=False)

    def step(self, text: str) -> None:
        """Announce a step."""
        self.console.print(f"\n[bold]{text}[/]", highlight=False)

    def show(self, host: Host, *command: str) -> None:
        """Show a command as one would type it on that host."""
        prompt = f"  [cyan]{host.label}#[/] "
        self.console.print(prompt + f"weave {shlex.join(command)}", highlight=False, soft_wrap=True)

    def weave(self, host: Host, *command: str) -> str:
        """Run a command of weave on a host, and show it."""
        self.show(host, *command)
        return host.weave(*command)


def sees_mesh(host: Host, count: int) -> bool:
    """Whether a host knows that many peers, and each of them as connected with all its neighbours."""
    peers = json.loads(host.weave("report"))["Router"]["Peers"]
    links = [[link["Established"] for link in peer["Connections"]] for peer in peers]
    return len(peers) == count and all(links) and all(all(established) for established in links)


def throughput(sender: Container, receiver: Container, address: str) -> float:
    """TCP throughput between two containers in bit/s."""
    server = receiver.popen("iperf3", "--server", "--one-off")
    try:
        wait_until(
            lambda: "iperf3" in receiver.run("ss", "-Hltnp", "sport = :5201"), 5, f"iperf3 to listen on {address}"
        )
        text = sender.run("iperf3", "--client", address, "--time", str(THROUGHPUT_S), "--json", timeout_s=30)
    finally:
        server.kill()
        server.wait()
    return float(json.loads(text)["end"]["sum_received"]["bits_per_second"])


def main() -> int:
    """Run the demo; 0 if everything worked."""
    console = Console(soft_wrap=True)
    complaints = Console(stderr=True, soft_wrap=True)
    if not WEAVE.exists():
        complaints.print(f"{WEAVE} does not exist: run `make demo`, which sets it up", highlight=False)
        return 1
    try:
        with Lab() as lab:
            try:
                Demo(lab, console).run()
            except (LabError, KeyError, ValueError) as error:
                complaints.print(f"\n[bold red]The demo failed:[/] {error!s}", highlight=False)
                for host in lab.hosts:
                    complaints.print(f"\nEnd of the log of {host.label}:", highlight=False)
                    complaints.print(host.log(LOG_LINES), markup=False, highlight=False)
                return 1
    except Interrupted as interrupt:
        complaints.print("\nInterrupted; everything is removed.")
        return 128 + interrupt.number
    except LabError as error:
        complaints.print(f"{error!s}", highlight=False, markup=False)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
