"""The router's errors.

RouterError
 ├── ProtocolError        a peer sent something that its protocol forbids
 │    ├── GobError        bytes that are no valid gob (wire.gob)
 │    ├── HandshakeError  the opening exchange failed (wire.session)
 │    └── PacketError     a datagram that cannot be read (sleeve)
 ├── ConnectionRefused    a well-formed connection that we must not keep (control.mesh)
 ├── TargetError          a peer address from the user that makes no sense
 └── HostError            the host cannot be set up as asked (host, dataplane)
"""


class RouterError(Exception):
    """Whatever this component raises on purpose."""


class ProtocolError(RouterError):
    """The remote broke the protocol; the connection or the datagram ends, nothing else."""


class TargetError(RouterError):
    """A peer address given by the user cannot be used; the text says why."""


class HostError(RouterError):
    """The host cannot be set up as asked; the text says what to do about it."""
