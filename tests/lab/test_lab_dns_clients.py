"""The clients that containers have ask the name server as `weave dns-args` says: dig, glibc, musl, busybox.

Client, server and upstream server are in namespaces of their own:

    client, bare ── bridge of A ── A's daemon ── link ── upstream
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import name_server_stub
from lab.network import Container, Lab, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lab.namespace import Namespace
    from lab.network import Host

pytestmark = pytest.mark.root

NETNS_SETTINGS = Path("/etc/netns")
"""What lies here in a folder with a namespace's name, `ip netns exec` lays over the same file in /etc."""
MANY = 100
"""Addresses of one name: more than fit into a datagram."""
FAST_S = 1.0
"""Clients that are told to try again, or not answered, take 5 s."""
NO_SUCH_NAME = 2
"""Exit status of getent and of resolve.c."""

OUTSIDE = {
    "www.example": {"203.0.113.7", "2001:db8:113::7"},
    "alias.example": {"203.0.113.7", "2001:db8:113::7"},
    "four.example": {"203.0.113.4"},
    "six.example": {"2001:db8:113::6"},
}
ABSENT = ("nothing", "nothing.weave.local", "nothing.example", "prod.weave.local", "weave.local")
"""The last two have no addresses, although there are names below them."""


@contextmanager
def resolver_settings(namespace: Namespace, text: str) -> Iterator[Path]:
    """Give a namespace a resolv.conf; the file, which may be written anew."""
    folder = NETNS_SETTINGS / namespace.name
    folder.mkdir(parents=True)
    try:
        file = folder / "resolv.conf"
        file.write_text(text)
        yield file
    finally:
        shutil.rmtree(folder)
        with suppress(OSError):  # others' settings
            NETNS_SETTINGS.rmdir()


@dataclass(frozen=True)
class World:
    """A host with a name server, its containers, and what is beyond."""

    host: Host
    client: Container
    """Its resolver has what `weave dns-args` prints: name server and domain."""
    bare: Container
    """Its resolver has the name server only."""
    server: str
    host_settings: Path
    """The host's own resolv.conf."""
    names: dict[str, set[str]]
    """Addresses by single label."""
    resolve: str
    """resolve.c with musl."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    resolve = tmp_path_factory.mktemp("musl") / "resolve"
    source = Path(__file__).with_name("resolve.c")
    subprocess.run(["musl-gcc", "-static", "-Wall", "-Werror", "-o", resolve, source], check=True)
    with Lab() as lab, ExitStack() as settings:
        a, upstream = lab.host("A"), lab.host("upstream")
        link = lab.link(a, "192.0.2.1/24", upstream, "192.0.2.2/24")
        for end, address in zip(link.ends, ("2001:db8::1/64", "2001:db8::2/64"), strict=True):
            end.host.ip("addr", "add", address, "dev", end.interface, "nodad")
        upstream.popen(sys.executable, name_server_stub.__file__, "192.0.2.2", "2001:db8::2")
        wait_until(lambda: "[2001:db8::2]:53" in upstream.run("ss", "-Hltn"), 10, "the upstream server")
        own = settings.enter_context(resolver_settings(a, "nameserver 192.0.2.2\noptions trust-ad edns0\n"))
        a.weave("launch", "--ipalloc-init", "consensus=1")
        a.weave("expose", "net:default", "fd00:2::1/64", "-h", "host.weave.local")
        arguments = dict(word.removeprefix("--").split("=") for word in a.weave("dns-args").split())
        lines = {"dns": f"nameserver {arguments['dns']}\n", "dns-search": f"search {arguments['dns-search']}\n"}

        def container(label: str, *words: str) -> set[str]:
            made = lab.add(Container(lab.name(f"A-{label}"), label))
            return set(a.weave("attach", "--netns", str(made.path), "-h", f"{label}.weave.local", *words).split())

        names = {
            "web": container("web"),
            "six": container("six", "fd00:2::6/64"),
            "both": container("both", "net:default", "fd00:2::46/64"),
            "db.prod": container("db.prod"),
            "many": {f"10.99.0.{number}" for number in range(1, MANY + 1)},
        }
        a.weave("dns-add", *names["many"], "-h", "many.weave.local")
        client, bare = a.container("client", "net:default", "fd00:2::c/64"), a.container("bare")
        settings.enter_context(resolver_settings(client, lines["dns"] + lines["dns-search"]))
        settings.enter_context(resolver_settings(bare, lines["dns"]))
        yield World(a, client, bare, arguments["dns"], own, names, str(resolve))


@dataclass(frozen=True)
class Reply:
    """What dig makes of an answer."""

    text: str
    status: str
    flags: set[str]
    transport: str
    answers: list[list[str]]
    """Fields of each record."""
    authority: list[list[str]]

    @property
    def data(self) -> set[str]:
        """Of the records of the answer."""
        return {fields[4] for fields in self.answers}


def dig(container: Container, *words: str) -> Reply:
    """Ask; each try has 5 s, as dig wants it, and there must be need for one only."""
    begin = time.monotonic()
    text = container.run("dig", "+tries=1", *words)
    took = time.monotonic() - begin
    print(f"dig {' '.join(words)}: {took * 1000:.0f} ms")
    assert took < FAST_S, text

    def records(section: str) -> list[list[str]]:
        found = re.search(rf"^;; {section} SECTION:\n(.*?)^$", text, re.MULTILINE | re.DOTALL)
        return [] if found is None else [line.split(maxsplit=4) for line in found[1].splitlines()]

    def found(pattern: str) -> str:
        match = re.search(pattern, text)
        assert match is not None, text
        return match[1]

    flags = set(found(r"flags: ([a-z ]*);").split())
    transport = found(r"SERVER: .* \((UDP|TCP)\)")
    return Reply(text, found(r"status: (\w+)"), flags, transport, records("ANSWER"), records("AUTHORITY"))


@pytest.mark.parametrize("options", [(), ("+tcp",), ("+noedns",), ("+tcp", "+noedns"), ("+bufsize=4096", "+dnssec")])
def test_dig_finds_names(world: World, options: tuple[str, ...]) -> None:
    for name, addresses in world.names.items():
        for kind, version in (("A", 4), ("AAAA", 6)):
            reply = dig(world.client, f"{name}.weave.local", kind, *options)
            wanted = {address for address in addresses if ip_address(address).version == version}
            assert (reply.status, reply.data) == ("NOERROR", wanted)
            assert {"qr", "aa", "rd", "ra"} == reply.flags
            assert reply.transport == "TCP" if "+tcp" in options or len(wanted) == MANY else "UDP"
            assert ("OPT PSEUDOSECTION" in reply.text) == ("+noedns" not in options)
            assert {fields[0] for fields in reply.answers} <= {f"{name}.weave.local."}
            assert {fields[1] for fields in reply.answers} <= {"1"}
            if not wanted:  # so that the answer may be kept
                assert [fields[3] for fields in reply.authority] == ["SOA"]


def test_dig_finds_names_by_any_spelling_and_place(world: World) -> None:
    (address,) = world.names["web"]
    assert dig(world.client, "WEB.Weave.LOCAL").answers == [["WEB.Weave.LOCAL.", "1", "IN", "A", address]]
    assert dig(world.client, "+search", "web").answers == [["web.weave.local.", "1", "IN", "A", address]]
    assert dig(world.bare, "web").answers == [["web.", "1", "IN", "A", address]]
    assert dig(world.client, "@fd00:2::1", "web.weave.local").data == {address}
    assert dig(world.client, "host.weave.local").data == {world.server}


def test_dig_resolves_backwards(world: World) -> None:
    for name in ("web", "six", "both"):
        for address in world.names[name]:
            reply = dig(world.client, "-x", address)
            assert (reply.status, reply.data) == ("NOERROR", {f"{name}.weave.local."})
    assert dig(world.client, "-x", "203.0.113.7").data == {"www.example."}
    assert dig(world.client, "-x", "10.99.1.1").status == "NXDOMAIN"
    assert dig(world.client, "-x", "2001:db8:113::9").status == "NXDOMAIN"


def test_dig_gets_the_domain_and_what_is_not_in_it(world: World) -> None:
    soa = dig(world.client, "weave.local", "SOA")
    assert soa.answers == [
        ["weave.local.", "1", "IN", "SOA", "weave.local. hostmaster.weave.local. 1 3600 600 86400 1"]
    ]
    for name in ("nothing.weave.local", "nothing.web.weave.local"):
        reply = dig(world.client, name)
        assert (reply.status, [fields[3] for fields in reply.authority]) == ("NXDOMAIN", ["SOA"])
    assert dig(world.client, "prod.weave.local").status == "NOERROR"
    assert dig(world.client, "weave.local", "A").status == "NOERROR"
    assert dig(world.client, "web.weave.local", "MX").status == "NOERROR"


def test_dig_gets_long_answers_by_tcp(world: World) -> None:
    for name, addresses in (
        ("many.weave.local", world.names["many"]),
        ("long.example", {f"203.0.113.{number}" for number in range(1, name_server_stub.LONG + 1)}),
    ):
        for options in ((), ("+noedns",)):
            reply = dig(world.client, name, *options)
            assert "Truncated, retrying in TCP mode" in reply.text
            assert (reply.transport, reply.data) == ("TCP", addresses)
            cut = dig(world.client, name, "+ignore", *options)
            print(f"{len(cut.data)} of {len(addresses)} addresses fit into a datagram")
            assert "tc" in cut.flags
            assert cut.data < addresses
    first, second = (dig(world.client, "many.weave.local", "+tcp").answers for _ in range(2))
    assert first != second, "the order is to be a random one"


def test_dig_gets_outside_names(world: World) -> None:
    for name, addresses in OUTSIDE.items():
        for options in ((), ("+tcp",), ("+noedns",)):
            found = dig(world.client, name, "A", *options).data | dig(world.client, name, "AAAA", *options).data
            assert found - {"www.example."} == addresses
    absent = dig(world.client, "nothing.example")
    assert (absent.status, [fields[3] for fields in absent.authority]) == ("NXDOMAIN", ["SOA"])
    broken = dig(world.client, "broken.example")
    assert broken.status == "SERVFAIL"


def test_dig_is_told_what_cannot_be(world: World) -> None:
    assert dig(world.client, "+edns=1", "+noednsnegotiation", "web.weave.local").status == "BADVERS"
    assert dig(world.client, "CH", "TXT", "version.bind").status == "REFUSED"
    assert dig(world.client, "+opcode=status", "web.weave.local").status == "NOTIMP"
    assert "Transfer failed" in world.client.run("dig", "+tries=1", "AXFR", "weave.local")
    both = world.client.run("dig", "+tcp", "+keepopen", "+short", "web.weave.local", "four.example")
    assert set(both.split()) == {*world.names["web"], "203.0.113.4"}


def timed(container: Container, *words: str, fast: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a client; one that takes long has been left waiting by the server."""
    begin = time.monotonic()
    done = container.attempt(*words)
    took = time.monotonic() - begin
    print(f"{' '.join(words)}: status {done.returncode}, {took * 1000:.0f} ms")
    if fast:
        assert took < FAST_S, done.stdout + done.stderr
    return done


def known(world: World) -> dict[str, set[str]]:
    """Names as clients with the domain in their search list may write them, with their addresses."""
    own = {label: addresses for label, addresses in world.names.items() if label != "many"}
    return {**own, **{f"{label}.weave.local": addresses for label, addresses in own.items()}, **OUTSIDE}


@pytest.mark.parametrize(
    "options", ["", "edns0 trust-ad", "use-vc", "single-request", "single-request-reopen rotate", "ndots:5"]
)
def test_glibc(world: World, options: str) -> None:
    def getent(database: str, name: str) -> tuple[int, set[str]]:
        done = timed(world.client, "env", f"RES_OPTIONS={options}", "getent", database, name)
        return done.returncode, {line.split()[0] for line in done.stdout.splitlines()}

    for name, addresses in known(world).items():
        four = {address for address in addresses if ip_address(address).version == 4}
        six = addresses - four
        assert getent("ahosts", name) == (0, addresses)
        assert getent("ahostsv4", name) == ((0, four) if four else (NO_SUCH_NAME, set()))
        # getent asks for IPv4 addresses in the form of IPv6 where there are no others.
        assert getent("ahostsv6", name) == (0, six or {f"::ffff:{address}" for address in four})
        assert getent("hosts", name) == (0, six or four)
    for name in ABSENT:
        for database in ("ahosts", "ahostsv4", "ahostsv6", "hosts"):
            assert getent(database, name) == (NO_SUCH_NAME, set())
    assert getent("ahostsv4", "many") == (0, world.names["many"])
    assert getent("ahostsv4", "long.example") == (0, {f"203.0.113.{n}" for n in range(1, name_server_stub.LONG + 1)})


def test_glibc_knows_the_full_name(world: World) -> None:
    for name in ("web", "six", "both", "WEB.weave.local"):
        full = f"{name.lower().removesuffix('.weave.local')}.weave.local"
        assert timed(world.client, "getent", "ahosts", name).stdout.splitlines()[0].split()[2].lower() == full
    for name in ("web", "six", "both"):
        for address in world.names[name]:
            assert timed(world.client, "getent", "hosts", address).stdout.split() == [address, f"{name}.weave.local"]
    assert timed(world.client, "getent", "hosts", "203.0.113.7").stdout.split() == ["203.0.113.7", "www.example"]
    assert timed(world.client, "getent", "hosts", "10.99.1.1").returncode == NO_SUCH_NAME


def test_glibc_without_search_list(world: World) -> None:
    for label in ("web", "six", "both"):
        for name in (label, f"{label}.weave.local"):
            done = timed(world.bare, "getent", "ahosts", name)
            assert {line.split()[0] for line in done.stdout.splitlines()} == world.names[label]
    assert timed(world.bare, "getent", "ahosts", "nothing").returncode == NO_SUCH_NAME


def test_musl(world: World) -> None:
    def resolve(container: Container, *words: str) -> tuple[int, set[str]]:
        done = timed(container, world.resolve, *words)
        return done.returncode, set(done.stdout.split())

    for name, addresses in known(world).items():
        if name != "db.prod":  # with a dot in it musl looks for it at the root only
            assert resolve(world.client, name) == (0, addresses)
    for name in ("web", "six", "both", "web.weave.local"):
        assert resolve(world.bare, name) == (0, world.names[name.partition(".")[0]])
    for name in ABSENT:
        assert resolve(world.client, name) == (NO_SUCH_NAME, set())
    for name in ("web", "six", "both"):
        for address in world.names[name]:
            assert resolve(world.client, "-r", address) == (0, {f"{name}.weave.local"})
    assert resolve(world.client, "-r", "203.0.113.7") == (0, {"www.example"})
    assert resolve(world.client, "-r", "10.99.1.1")[0] == NO_SUCH_NAME


@pytest.mark.parametrize("name", ["many", "long.example"])
def test_musl_takes_of_many_addresses_what_it_can(world: World, name: str) -> None:
    """Up to 1.2.3 musl knows no TCP and takes what fits into 512 bytes; later ones have room for 48 addresses."""
    found = set(timed(world.client, world.resolve, name).stdout.split())
    print(f"{len(found)} addresses")
    assert len(found) >= 25
    assert found <= {*world.names["many"], *(f"203.0.113.{n}" for n in range(1, name_server_stub.LONG + 1))}


def test_busybox(world: World) -> None:
    for name, addresses in known(world).items():
        if name == "db.prod":  # as musl
            continue
        done = timed(world.client, "busybox", "nslookup", name)
        found = set(re.findall(r"^Address: ([0-9a-f.:]+)$", done.stdout, re.MULTILINE))
        assert (done.returncode, found) == (0, addresses), done.stdout
    for name in ("nothing", "nothing.weave.local", "nothing.example"):
        done = timed(world.client, "busybox", "nslookup", name)
        assert (done.returncode, "NXDOMAIN" in done.stdout + done.stderr) == (1, True)
    for name in ("web", "six", "both"):
        for address in world.names[name]:
            assert f"name = {name}.weave.local" in timed(world.client, "busybox", "nslookup", address).stdout
        for word in (name, f"{name}.weave.local"):
            done = timed(world.client, "busybox", "ping", "-c", "1", "-W", "2", word, fast=False)
            assert done.returncode == 0, done.stdout + done.stderr
    assert timed(world.client, "busybox", "ping", "-c", "1", "nothing").returncode == 1


def test_changed_settings_of_the_host_count_within_seconds(world: World) -> None:
    """A dead server before a living one costs a second, then nothing; servers may have IPv6 addresses."""
    before = world.host_settings.read_text()
    world.host_settings.write_text("nameserver 192.0.2.77\nnameserver 2001:db8::2\n")
    times: list[float] = []

    def resolves() -> None:
        begin = time.monotonic()
        reply = timed(world.client, "dig", "+tries=1", f"x{len(times)}.example", fast=False)
        times.append(time.monotonic() - begin)
        assert "status: NXDOMAIN" in reply.stdout

    def adopted() -> bool:
        resolves()
        return "2001:db8::2" in world.host.weave("status")

    try:
        begin = time.monotonic()
        wait_until(adopted, 10, "the other servers")
        print(f"the change is noticed after {time.monotonic() - begin:.1f} s")
        for _ in range(3):
            resolves()
        print(f"with a dead server: {', '.join(f'{taken:.2f} s' for taken in times)}")
        assert max(times) < 2, "the next server is to be asked as well after a second"
        assert times[-1] < 0.5, "the server that answers is to be asked first from then on"
    finally:
        world.host_settings.write_text(before)
