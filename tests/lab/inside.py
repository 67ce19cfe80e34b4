"""Calling Python inside another network namespace."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000


def call_inside(namespace: Path, function: Callable[[], T]) -> T:
    """Call a function in a thread that lives in a network namespace; sockets it opens stay there.

    The thread does nothing else and ends: no other work may come to run in the foreign namespace.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            results.append(function())
        except BaseException as error:
            errors.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
