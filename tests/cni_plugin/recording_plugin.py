"""A CNI plugin that notes how it was called, and answers what a test wants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from cni_plugin.cni_runtime import Json

_SCRIPT = """#!/bin/sh
call={directory}/calls/$(date +%s%N)-$CNI_COMMAND
cat > $call.stdin
env > $call.env
if [ -e {directory}/$CNI_COMMAND ]; then
    cat {directory}/$CNI_COMMAND
    exit $(cat {directory}/$CNI_COMMAND.status)
fi
"""


@dataclass(frozen=True)
class RecordedCall:
    """One call."""

    plugin: str
    moment: int
    """Nanoseconds since 1970."""
    command: str
    variables: dict[str, str]
    config: Json


class RecordingPlugin:
    """An executable in a directory; what it is not told to answer it answers with success and nothing."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._directory = directory / f".{name}"
        (self._directory / "calls").mkdir(parents=True)
        path = directory / name
        path.write_text(_SCRIPT.format(directory=self._directory))
        path.chmod(0o755)

    def answer(self, command: str, document: Json | str, status: int = 0) -> None:
        """What it prints from now on."""
        text = document if isinstance(document, str) else json.dumps(document)
        (self._directory / f"{command}.status").write_text(str(status))
        (self._directory / command).write_text(text)

    def fail(self, command: str, code: int, message: str) -> None:
        """Let a command fail from now on."""
        self.answer(command, {"cniVersion": "1.0.0", "code": code, "msg": message}, 1)

    def calls(self, command: str | None = None) -> list[RecordedCall]:
        """What it was called for, in order."""
        calls = []
        for path in sorted((self._directory / "calls").glob("*.env")):
            moment, _, name = path.stem.partition("-")
            lines = (line.partition("=") for line in path.read_text().splitlines())
            variables = {key: value for key, separator, value in lines if separator}
            config = json.loads(path.with_suffix(".stdin").read_text() or "{}")
            calls.append(RecordedCall(self.name, int(moment), name, variables, config))
        return [call for call in calls if command in (None, call.command)]
