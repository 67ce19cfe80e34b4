"""Running an engine's own program, with a time limit and without a word to the terminal."""

from __future__ import annotations

import subprocess

from weave_docker.engine_errors import EngineUnavailable

PROGRAM_LIMIT_S = 10.0


def run_program(command: list[str]) -> tuple[int, str, str]:
    """Exit status, standard output, and the last line of standard error. Raises `EngineUnavailable`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=PROGRAM_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineUnavailable(f"'{command[0]}' does not end within {PROGRAM_LIMIT_S:.0f} s") from error
    except OSError as error:
        raise EngineUnavailable(f"'{command[0]}' cannot be run: {error.strerror}") from error
    complaint = done.stderr.decode(errors="replace").strip().splitlines()
    return done.returncode, done.stdout.decode(errors="replace"), complaint[-1][:300] if complaint else ""
