"""What can go wrong between us and a container engine; each text is a sentence for the operator.

EngineError
 ├── EngineAddressError     the address of an engine names no Unix socket
 ├── ContainerUnknown       no engine of this host knows the container, or more than one container is meant
 └── EngineUnavailable      an engine does not answer, may not be asked, or says what makes no sense
      └── EngineAbsent      there is no such engine here: no socket, or nobody listens on it
"""

from __future__ import annotations


class EngineError(Exception):
    """Whatever the engines' clients raise on purpose."""


class EngineAddressError(EngineError):
    """An address that is no Unix socket of this host."""


class ContainerUnknown(EngineError):  # noqa: N818 - says what the container is
    """No engine knows the container, or the text means several."""


class EngineUnavailable(EngineError):  # noqa: N818 - a state of the engine
    """No useful answer could be had from an engine."""


class EngineAbsent(EngineUnavailable):
    """Nobody listens on the socket."""
