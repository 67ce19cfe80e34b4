"""The rare part of the CNI executables, installed beside them: delegated plugins, and what is done without a daemon.

Uses nothing but the standard library, since it runs outside of the daemon's environment.
"""

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TRY_AGAIN, INVALID_ENVIRONMENT, INVALID_CONFIG, UNDECODABLE, INTERNAL = 11, 4, 7, 6, 999
IO_FAILURE = 5
INCOMPATIBLE, NOT_AVAILABLE, LIMITED_CONNECTIVITY = 1, 50, 51
SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
DELEGATE_LIMIT_S = 50
MAX_PRINTED_BYTES = 1 << 20
"""Of a plugin's answer."""
DEVICES = Path("/sys/class/net")

_PLUGIN_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,128}")
_HOST_INTERFACE = re.compile(r"vethwe[0-9a-f]{8}")
_RTM_DELLINK, _IFLA_IFNAME, _NLM_F_REQUEST, _NLM_F_ACK = 17, 3, 1, 4


def run_delegate(payload: bytes) -> bytes:
    """Run the plugin that the daemon names; exit status (one byte) and what it printed."""
    size = int.from_bytes(payload[:4], "big")
    lines = (line.partition(b"=") for line in payload[4 : 4 + size].split(b"\0") if line)
    environment = {os.fsdecode(name): os.fsdecode(value) for name, _, value in lines}
    plugin = environment.pop("WEAVE_CNI_DELEGATE")
    environment.pop("WEAVE_CNI_PLUGIN", None)
    status, printed = delegate(plugin, environment, payload[8 + size :])
    return bytes([min(status & 0xFF, 255)]) + printed


def delegate(plugin: str, environment: "dict[str, str]", config: bytes) -> "tuple[int, bytes]":
    """Run another plugin, found in CNI_PATH."""
    program = None
    if _PLUGIN_NAME.fullmatch(plugin) and plugin != "weave-net":  # which would call itself without end
        places = (Path(directory) / plugin for directory in environment.get("CNI_PATH", "").split(":") if directory)
        program = next(filter(_is_program, places), None)
    if program is None:
        text = f"failed to find plugin {plugin!r} in path [{environment.get('CNI_PATH')}]"
        return 1, error_object(INVALID_CONFIG, text)
    try:
        with tempfile.TemporaryFile() as standard_input:
            standard_input.write(config)
            standard_input.seek(0)
            with subprocess.Popen(
                [str(program)],
                stdin=standard_input,
                stdout=subprocess.PIPE,
                env={**os.environ, **environment, "WEAVE_CNI_DELEGATED": "1"},
                start_new_session=True,
            ) as process:
                return _collect(plugin, process)
    except OSError as error:
        return 1, error_object(INTERNAL, f"plugin {plugin} cannot be run: {error}")


def _collect(plugin: str, process: "subprocess.Popen[bytes]") -> "tuple[int, bytes]":
    """What a plugin prints, within limits of time and size; one beyond them is killed."""
    assert process.stdout is not None  # noqa: S101 - a pipe was asked for
    deadline, printed = time.monotonic() + DELEGATE_LIMIT_S, bytearray()
    while len(printed) <= MAX_PRINTED_BYTES:
        ready, _, _ = select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            _kill(process)
            return 1, error_object(INTERNAL, f"plugin {plugin} did not end within {DELEGATE_LIMIT_S} s")
        part = os.read(process.stdout.fileno(), 1 << 16)
        if not part:
            status = _wait(process, deadline)
            return (1 if status is None or status < 0 else status), bytes(printed)
        printed += part
    _kill(process)
    return 1, error_object(INTERNAL, f"plugin {plugin} printed more than {MAX_PRINTED_BYTES} bytes")


def _is_program(place: Path) -> bool:
    try:
        return place.is_file()
    except OSError:  # a name too long, a directory that may not be entered
        return False


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a plugin with all that it started, lest they change the container after we said that it failed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _wait(process: "subprocess.Popen[bytes]", deadline: float) -> "int | None":
    """The exit status; None if it had to be killed, although its output had ended."""
    try:
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _kill(process)
        return None


def unreadable(error: OSError) -> int:
    """Standard input cannot be read; the exit status."""
    return fail(IO_FAILURE, f"the configuration on standard input cannot be read: {error.strerror}", SUPPORTED[-1])


def called_itself(plugin: str) -> int:
    """One of ours was asked to give addresses to another one, under whatever name; the exit status."""
    return fail(INVALID_CONFIG, f"{plugin} cannot give addresses to another plugin of weave", SUPPORTED[-1])


def without_daemon(
    plugin: str, run: bytes, config: bytes, error: OSError, ask: "Callable[[bytes, bytes, bytes], int]"
) -> int:
    """What becomes of a call that no daemon takes; the exit status."""
    command = os.environ.get("CNI_COMMAND", "")
    socket_path = f"{os.fsdecode(run)}/cni.sock"
    text = f"no answer from the weave daemon on {socket_path} ({error.strerror or error}); start it with 'weave launch'"
    try:
        read = json.loads(config)
        version = read.get("cniVersion", "0.1.0")
    except (ValueError, AttributeError, RecursionError):
        return fail(UNDECODABLE, "the configuration is no JSON object", "1.1.0")
    objection = _objection(command, read, version)
    if objection is not None:
        return fail(*objection, str(version))
    if command == "DEL":
        # A daemon that hangs is not asked twice; it finds the record when it has been restarted.
        return _delete_later(plugin, run, config, read, None if isinstance(error, TimeoutError) else ask)
    if command == "STATUS":
        connected = any(_HOST_INTERFACE.fullmatch(device.name) for device in DEVICES.iterdir())
        return fail(LIMITED_CONNECTIVITY if connected else NOT_AVAILABLE, text, version)
    return fail(TRY_AGAIN, text, version)


def _objection(command: str, config: "dict[str, Any]", version: object) -> "tuple[int, str] | None":
    """The checks that need no daemon, so that a wrong call is not tried again for ever."""
    required = {"GC": [], "STATUS": [], "DEL": ["CNI_CONTAINERID", "CNI_IFNAME"]}.get(
        command, ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"]
    )
    if command not in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        return INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {command}"
    missing = [name for name in (*required, "CNI_PATH") if not os.environ.get(name)]
    if missing:
        return INVALID_ENVIRONMENT, f"required env variables [{','.join(missing)}] missing"
    if version not in SUPPORTED:
        return INCOMPATIBLE, f'incompatible CNI versions: config is "{version}", plugin supports {list(SUPPORTED)}'
    if not config.get("name"):
        return INVALID_CONFIG, "missing network name"
    return None


def _delete_later(
    plugin: str, run: bytes, config: bytes, read: "dict[str, Any]", ask: "Callable[[bytes, bytes, bytes], int] | None"
) -> int:
    """Leave a record for the next daemon, and remove now what needs none: the interface, a delegated address."""
    directory = Path(os.fsdecode(run)) / "cni-pending"
    try:
        record = _write_record(plugin, directory, config, read)
    except OSError as error:
        text = (
            f"no weave daemon takes the call, and it cannot be left for the next one in {directory}: {error.strerror}"
        )
        return fail(IO_FAILURE, text, str(read.get("cniVersion")))
    with contextlib.suppress(OSError):
        if ask is not None:
            status = ask(run, plugin.encode(), config)  # a daemon that started meanwhile may have missed the record
            record.unlink(missing_ok=True)
            return status
    if plugin == "weave-net":
        attachment = f"{os.environ.get('CNI_CONTAINERID')}/{os.environ.get('CNI_IFNAME')}"
        remove_link("vethwe" + hashlib.sha256(attachment.encode(errors="surrogateescape")).hexdigest()[:8])
        ipam = _get(read, "ipam")
        kind = _get(ipam, "type") if isinstance(ipam, dict) else None
        if isinstance(kind, str) and kind not in ("", "weave-ipam", "weave-net") and _PLUGIN_NAME.fullmatch(kind):
            status, printed = delegate(kind, dict(os.environ), config)
            if status:
                sys.stdout.buffer.write(printed)
                sys.stdout.flush()
                return status
    return 0


def _write_record(plugin: str, directory: Path, config: bytes, read: "dict[str, Any]") -> Path:
    """One for each interface, however often the runtime asks."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f"{name}={value}" for name, value in os.environ.items() if name.startswith("CNI_")]
    environment = os.fsencode("\0".join([f"WEAVE_CNI_PLUGIN={plugin}", *lines]))
    names = (plugin, str(read.get("name")), os.environ.get("CNI_CONTAINERID", ""), os.environ.get("CNI_IFNAME", ""))
    record = directory / hashlib.sha256("\0".join(names).encode(errors="surrogatepass")).hexdigest()[:32]
    unfinished = directory / f".{record.name}-{os.getpid()}"
    unfinished.write_bytes(_counted(environment) + _counted(config))
    unfinished.rename(record)
    return record


def _get(mapping: "dict[str, Any]", name: str) -> object:
    """The value under a key in any letter case."""
    return next((value for key, value in mapping.items() if key.lower() == name), None)


def remove_link(name: str) -> None:
    """Delete a network device, as `ip link del` does; none of that name is no error (rtnetlink(7))."""
    attribute = name.encode() + b"\0"
    padding = b"\0" * (-len(attribute) % 4)
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HH", 4 + len(attribute), _IFLA_IFNAME) + attribute
    message = struct.pack("=IHHII", 16 + len(body + padding), _RTM_DELLINK, _NLM_F_REQUEST | _NLM_F_ACK, 1, 0)
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
        netlink.settimeout(5)
        netlink.send(message + body + padding)
        netlink.recv(4096)


def error_object(code: int, text: str, version: str = "1.1.0") -> bytes:
    """As the specification has it."""
    return (json.dumps({"cniVersion": version, "code": code, "msg": text}) + "\n").encode()


def fail(code: int, text: str, version: str) -> int:
    """Print an error object; the exit status."""
    sys.stdout.buffer.write(error_object(code, text, version))
    sys.stdout.flush()
    return 1


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data
