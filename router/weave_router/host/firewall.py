"""Who may send VXLAN packets to this host: the nftables table `inet weave`, through the program nft.

VXLAN packets are believed as they come, whoever sends them, so only established peers are let in. The table is
made in one transaction, in place of what an earlier daemon left; later only its sets change. No rule of others
is touched, and none of ours overrules a drop of theirs.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import trio

from weave_router.host import problems, requests
from weave_router.host.heartbeat_socket import ETHERTYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

P = ParamSpec("P")
R = TypeVar("R")

NFT_TIMEOUT_S = 10.0

_TABLE = "inet weave"
_HEARTBEATS, _DATA = "vxlan_peers", "vxlan_data"
_INNER_ETHERTYPE = "@th,224,16"
"""Behind 8 bytes of UDP, 8 of VXLAN and the two inner MAC addresses."""
_REMOVE = f"add table {_TABLE}\ndelete table {_TABLE}\n"
"""Adding first, since there is no other way to delete a table that may not exist before nft 1.0.7."""
_ELEMENTS = re.compile(r"elements = \{([^}]*)\}")
_PLACE = re.compile(r"^/dev/stdin:\S+ (Error: )?")
_SYSTEM_PATHS = "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the rules let in."""

    port: int
    heartbeats: frozenset[IPv4Address]
    data: frozenset[IPv4Address]


class Firewall:
    """The table. Calls are made one after the other, each with a program of its own, in the caller's namespace."""

    def __init__(self) -> None:
        self._made: Allowed | None = None
        """What our table lets in, as far as we know."""
        self._turn = trio.Lock()

    async def allow(self, wanted: Allowed) -> None:
        """`doors.Host.allow_vxlan`."""
        requests.check_port(wanted.port)
        async with self._turn:
            made, self._made = self._made, None
            await _in_thread(_allow, made, wanted)
            self._made = wanted

    async def allowed(self) -> frozenset[IPv4Address]:
        """`doors.Host.vxlan_allowed`."""
        async with self._turn:
            return await _in_thread(_allowed)

    async def remove(self) -> None:
        """Remove our table, if there is one."""
        async with self._turn:
            self._made = None
            with suppress(problems.NoNftError):  # without nft there is no table
                await _in_thread(_require_nft, _REMOVE)


async def _in_thread(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call a function that may take up to NFT_TIMEOUT_S; it is waited for also when cancelled.

    Not in a thread of trio's pool: one that was born in another network namespace would run nft there.
    """
    await trio.lowlevel.checkpoint_if_cancelled()
    outcome: Future[R] = Future()
    done = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def work() -> None:
        try:
            outcome.set_result(function(*args, **kwargs))
        except BaseException as error:
            outcome.set_exception(error)
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(done.set)

    threading.Thread(target=work, name="nft", daemon=True).start()
    with trio.CancelScope(shield=True):
        await done.wait()
    return outcome.result()


def _allow(made: Allowed | None, wanted: Allowed) -> None:
    if made is None or made.port != wanted.port or not _change(made, wanted):
        _require_nft(_table(wanted))


def _change(made: Allowed, wanted: Allowed) -> bool:
    """Change the elements of the sets; False if somebody has removed some that were to go, or the table."""
    lines = [f"list chain {_TABLE} vxlan"]
    for name, old, new in (
        (_HEARTBEATS, made.heartbeats, wanted.heartbeats),
        (_DATA, made.data, wanted.data),
    ):
        if old - new:
            lines.append(f"delete element {_TABLE} {name} {_braced(old - new)}")
        if new:
            # All of them: those that are there are no error, and those that somebody removed come back.
            lines.append(f"add element {_TABLE} {name} {_braced(new)}")
    done = _nft("\n".join(lines) + "\n")
    if done.returncode != 0 and not _is_missing(done):
        raise problems.nft_refused(_complaint(done))
    return done.returncode == 0


def _allowed() -> frozenset[IPv4Address]:
    done = _nft(f"list set {_TABLE} {_DATA}\n")
    if done.returncode != 0:
        if _is_missing(done):
            return frozenset()
        raise problems.nft_refused(_complaint(done))
    elements = _ELEMENTS.search(done.stdout)
    return frozenset(map(IPv4Address, re.findall(r"[0-9.]+", elements[1]))) if elements else frozenset()


def _table(wanted: Allowed) -> str:
    return f"""{_REMOVE}table {_TABLE} {{
    set {_HEARTBEATS} {{ type ipv4_addr; {_initial(wanted.heartbeats)} }}
    set {_DATA} {{ type ipv4_addr; {_initial(wanted.data)} }}
    chain input {{
        type filter hook input priority filter; policy accept;
        udp dport {wanted.port} jump vxlan
    }}
    chain vxlan {{
        ip saddr @{_DATA} accept
        ip saddr @{_HEARTBEATS} {_INNER_ETHERTYPE} {ETHERTYPE:#x} accept
        counter drop
    }}
}}
"""


def _initial(addresses: frozenset[IPv4Address]) -> str:
    return f"elements = {_braced(addresses)};" if addresses else ""


def _braced(addresses: Iterable[IPv4Address]) -> str:
    return "{ " + ", ".join(str(address) for address in sorted(addresses)) + " }"


def _require_nft(script: str) -> None:
    done = _nft(script)
    if done.returncode != 0:
        raise problems.nft_refused(_complaint(done))


def _nft(script: str) -> subprocess.CompletedProcess[str]:
    """Run nft; HostError if it is missing or hangs."""
    environment = {"PATH": f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATHS}", "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["nft", "-f", "-"],
            input=script,
            capture_output=True,
            text=True,
            check=False,
            timeout=NFT_TIMEOUT_S,
            env=environment,
        )
    except FileNotFoundError as error:
        raise problems.no_nft() from error
    except subprocess.TimeoutExpired as error:
        raise problems.nft_hangs(NFT_TIMEOUT_S) from error
    except OSError as error:
        raise problems.nft_refused(error.strerror or str(error)) from error


def _is_missing(done: subprocess.CompletedProcess[str]) -> bool:
    return "No such file or directory" in done.stderr


def _complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The first line, less the place in our script; what follows repeats the script."""
    first = done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}"
    return _PLACE.sub("", first)
