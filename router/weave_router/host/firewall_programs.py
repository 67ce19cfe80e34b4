"""Running nft and iptables, in the network namespace of the calling thread."""

from __future__ import annotations

import os
import shutil
import subprocess

from weave_router.host import problems

TIMEOUT_S = 10.0
_SYSTEM_PATHS = "/usr/sbin:/sbin"


def run_program(*command: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises FileNotFoundError if it is not there, HostError if it hangs."""
    try:
        return subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TIMEOUT_S,
            env={"PATH": _path(), "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise
    except subprocess.TimeoutExpired as error:
        raise problems.program_hangs(command[0], TIMEOUT_S) from error
    except OSError as error:
        return subprocess.CompletedProcess(command, 126, "", error.strerror or str(error))


def is_installed(program: str) -> bool:
    """Whether there is such a program."""
    return shutil.which(program, path=_path()) is not None


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATHS}"
