"""The nftables table `inet weave`, through the program nft.

Several parts share it. Each makes and removes its own chains and sets only; with the last part the table goes.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from weave_router.host import problems
from weave_router.host.firewall_programs import run_program

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from weave_router.errors import HostError

TABLE = "inet weave"
LIST = f"list table {TABLE}\n"
"""The whole table: nft 1.0.6 lists only the last of several chains."""

_REMOVE = f"add table {TABLE}\ndelete table {TABLE}\n"
"""Adding first, since there is no other way to delete a table that may not exist before nft 1.0.7."""
_OBJECT = re.compile(r"^\t(?:chain|set) (\S+) \{", re.MULTILINE)
_CHAIN = re.compile(r"^\tchain (\S+) \{.*?^\t\}\n", re.MULTILINE | re.DOTALL)
_COUNTS = re.compile(r" packets \d+ bytes \d+")
_PLACE = re.compile(r"^/dev/stdin:\S+ (Error: )?")


def nft(script: str) -> subprocess.CompletedProcess[str]:
    """Run nft; NoNftError if it is missing, HostError if it hangs."""
    try:
        return run_program("nft", "-f", "-", text=script)
    except FileNotFoundError as error:
        raise problems.no_nft() from error


def is_missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether nft failed since something that the script names does not exist."""
    return "No such file or directory" in done.stderr


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The first line, less the place in our script; what follows repeats the script."""
    first = done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}"
    return _PLACE.sub("", first)


def chains(listed: str, names: frozenset[str]) -> str:
    """Chains of the table as `LIST` printed them, less the counts; what is missing is left out."""
    return _COUNTS.sub("", "".join(match[0] for match in _CHAIN.finditer(listed) if match[1] in names))


def remove_part(
    script: str, objects: frozenset[str], others: frozenset[str], refused: Callable[[str], HostError]
) -> bool:
    """Remove a part by its script, or the whole table if there is nothing of the others in it; False if it is gone."""
    listed = nft(LIST)
    if listed.returncode != 0:
        if is_missing(listed):
            return False
        raise refused(complaint(listed))
    found = set(_OBJECT.findall(listed.stdout))
    if found & others and not found & objects:
        return False
    done = nft(script if found & others else _REMOVE)
    if done.returncode != 0:
        raise refused(complaint(done))
    return True


def remove_table() -> bool:
    """Remove the table with all parts; False if there is none."""
    with suppress(problems.NoNftError):  # without nft there is no table
        return remove_part(_REMOVE, frozenset(), frozenset(), problems.masquerade_refused)
    return False
