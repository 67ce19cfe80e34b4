"""Looks at the program's own needs: its packages, and the clock."""

from __future__ import annotations

import ctypes
import importlib.metadata
import re
import subprocess
import sys
import time

from weave_net.doctor.facts import ClockFacts, PackageFacts

DISTRIBUTION = "weave-net"
NATIVE = {
    "numpy": "numpy",
    "cryptography": "cryptography.hazmat.bindings._rust",
    "pynacl": "nacl.bindings",
    "python-pytun": "pytun",
}
"""Packages with compiled parts, and the module whose import shows that these fit this machine."""
IMPORT_LIMIT_S = 5.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TIMEX_BYTES = 256
"""More than sizeof(struct timex)."""
_TIME_ERROR = 5  # linux/timex.h: the clock is not synchronised


def probe_packages() -> PackageFacts:
    """Whether the required packages are installed, and the compiled ones can be loaded by a fresh interpreter."""
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return PackageFacts(troubles={DISTRIBUTION: "it is not installed for this Python"})
    names = [match[0] for text in requirements if (match := _NAME.match(text)) and "extra ==" not in text]
    troubles = {}
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            troubles[name] = "it is not installed"
    for name, module in NATIVE.items():
        if name not in troubles and (why := _import_trouble(module)):
            troubles[name] = why
    return PackageFacts(troubles=troubles, checked=len(names))


def _import_trouble(module: str) -> str:
    if module in sys.modules:
        return ""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", f"import {module}"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=IMPORT_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return f"loading it takes longer than {IMPORT_LIMIT_S:g} s"
    if done.returncode < 0:
        return f"loading it ends the interpreter (signal {-done.returncode})"
    return (done.stderr.strip().splitlines() or ["it cannot be loaded"])[-1] if done.returncode else ""


def probe_clock() -> ClockFacts:
    """The time, and what adjtimex(2) says of it; nothing is changed."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # modes = 0: a question
    state = ctypes.CDLL(None).adjtimex(buffer)
    return ClockFacts(now=time.time(), synchronised=None if state < 0 else state != _TIME_ERROR)
