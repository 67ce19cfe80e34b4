"""What a container runtime runs as `weave-net` or `weave-ipam`: hands the call to the daemon and prints its answer.

Installed as a file of its own (see `install`). It starts in half the time as long as it imports nothing beyond the
interpreter's core; whatever is rare is in weave-cni-offline.py beside it, which is `offline`.
"""

import sys

import _socket
import posix

RUN_DIRECTORY_KEY = b'"weaveRunDir"'
DEFAULT_RUN_DIRECTORY = b"/run/weave"
LIMIT_S = 70
LIMITS_S = {b"STATUS": 2, b"DEL": 25}
"""Runtimes ask for the status every few seconds; a deletion can be left to the next daemon."""
WITH_NAMESPACE = (b"ADD", b"CHECK")
ABOUT = """CNI plugin {} of Weave Net
CNI protocol versions supported: 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0
"""
VERSION = '{"cniVersion":"1.1.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}\n'


def read_all(descriptor: int) -> bytes:
    """Everything until the end."""
    parts = []
    while part := posix.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def write_all(descriptor: int, data: bytes) -> None:
    """Everything, in as many steps as it takes."""
    while data:
        data = data[posix.write(descriptor, data) :]


def run_directory(config: bytes) -> bytes:
    """From the configuration, since engines clear the environment."""
    place = config.find(RUN_DIRECTORY_KEY)
    if place < 0:
        return posix.environ.get(b"WEAVE_RUN_DIR") or DEFAULT_RUN_DIRECTORY
    rest = config[place + len(RUN_DIRECTORY_KEY) :].lstrip().removeprefix(b":").lstrip()
    text, quote, _ = rest.removeprefix(b'"').partition(b'"')
    return text if quote and text.startswith(b"/") and b"\\" not in text else DEFAULT_RUN_DIRECTORY


def counted(data: bytes) -> bytes:
    """With its length before it."""
    return len(data).to_bytes(4, "big") + data


def receive(connection: "_socket.socket", size: int) -> bytes:
    """Exactly so many bytes. Raises ConnectionError."""
    parts = []
    while size > 0:
        part = connection.recv(size if size < 65536 else 65536)
        if not part:
            raise ConnectionError("the daemon broke off")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def offline() -> "dict[str, object]":
    """The rare part, as a namespace."""
    path = sys.argv[0].rpartition("/")[0] + "/weave-cni-offline.py"
    names: dict[str, object] = {"__name__": "weave_cni_offline"}
    descriptor = posix.open(path, posix.O_RDONLY)
    exec(compile(read_all(descriptor), path, "exec"), names)  # noqa: S102 - our own file, beside this one
    return names


def ask(run: bytes, plugin: bytes, config: bytes) -> int:
    """One call; its exit status. Raises OSError if no daemon takes it."""
    command = posix.environ.get(b"CNI_COMMAND", b"")
    lines = [name + b"=" + value for name, value in posix.environ.items() if name.startswith(b"CNI_")]
    call = counted(b"\0".join([b"WEAVE_CNI_PLUGIN=" + plugin, *lines])) + counted(config)
    ancillary = []
    if command in WITH_NAMESPACE:
        try:
            namespace = posix.open(posix.environ.get(b"CNI_NETNS", b""), posix.O_RDONLY | posix.O_CLOEXEC)
            ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, namespace.to_bytes(4, sys.byteorder))]
        except OSError:
            pass  # the daemon says what it thinks of that
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.settimeout(LIMITS_S.get(command, LIMIT_S))
    connection.connect(run + b"/cni.sock")
    sent = connection.sendmsg([call], ancillary)
    if sent < len(call):  # sending nothing is an error too once the daemon has answered and closed
        connection.sendall(call[sent:])
    while True:
        kind = receive(connection, 1)
        payload = receive(connection, int.from_bytes(receive(connection, 4), "big"))
        if kind == b"R":
            write_all(1, payload[1:])
            return payload[0]
        connection.sendall(b"D" + counted(offline()["run_delegate"](payload)))  # type: ignore[operator]


def main() -> int:
    """The exit status."""
    plugin = sys.argv[0].rpartition("/")[2]
    command = posix.environ.get(b"CNI_COMMAND")
    if command is None:
        write_all(2, ABOUT.format(plugin).encode())
        return 0
    if command == b"VERSION":
        write_all(1, VERSION.encode())
        return 0
    if b"WEAVE_CNI_DELEGATED" in posix.environ:
        return offline()["called_itself"](plugin)  # type: ignore[operator, no-any-return]
    try:
        config = read_all(0)
    except OSError as error:
        return offline()["unreadable"](error)  # type: ignore[operator, no-any-return]
    run = run_directory(config)
    try:
        return ask(run, plugin.encode(), config)
    except OSError as error:
        return offline()["without_daemon"](plugin, run, config, error, ask)  # type: ignore[operator, no-any-return]


if __name__ == "__main__":
    posix._exit(main())
