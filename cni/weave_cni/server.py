"""The daemon's end of CNI calls: a Unix socket on which the executables ask, and the records that they left meanwhile.

Each connection is one call, answered by `Operations`. Who goes away before the answer to an ADD is out gets it taken
back. Calls that came while no daemon ran (only DEL) lie as files in `cni-pending/` and are done before the first
connection is accepted; their callers wrote the file first and then tried the socket again, so none is missed.
"""

from __future__ import annotations

import array
import fcntl
import json
import logging
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from weave_cni.daemon_api import DaemonApi
from weave_cni.errors import CniError, Code
from weave_cni.operations import UNDO_LIMIT_S, Call, Operations
from weave_cni.pending import PENDING, record_name
from weave_cni.request import Request, parse_request, version_of
from weave_cni.versions import NEWEST
from weave_cni.wire import (
    DONE,
    EXECUTE,
    LENGTH_BYTES,
    MAX_BYTES,
    RESULT,
    WireError,
    decode_environment,
    encode_call,
    encode_frame,
    length,
)

if TYPE_CHECKING:
    import httpx

CALL_LIMIT_S = 60.0
"""Runtimes give up earlier; delegated plugins may take long."""

RECEIVE_LIMIT_S = 5.0
SEND_LIMIT_S = 2.0
MAX_TOLD_BYTES = 500
"""Of what a plugin prints that is no JSON."""

ACCEPT_AGAIN_S = 0.1
_MAX_PENDING_BYTES = 2 * (MAX_BYTES + LENGTH_BYTES)
_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000
"""ioctl_ns(2)"""

_log = logging.getLogger(__name__)


class CniServer:
    """Serves CNI calls on a bound Unix socket until cancelled. `api`: a client of the daemon's own HTTP API."""

    def __init__(self, api: httpx.AsyncClient, sock: socket.socket, run_directory: Path) -> None:
        self._operations = Operations(DaemonApi(api))
        self._socket = sock
        self._pending = run_directory / PENDING

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve; started once calls are accepted and what was pending is done."""
        self._socket.listen(socket.SOMAXCONN)
        listener = trio.socket.from_stdlib_socket(self._socket)
        await self._do_pending()
        task_status.started()
        complained = False
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    connection, _ = await listener.accept()
                except OSError as error:
                    if not complained:
                        _log.warning("CNI calls cannot be accepted, and are tried again: %s", error.strerror)
                    complained = True
                    await trio.sleep(ACCEPT_AGAIN_S)
                    continue
                complained = False
                nursery.start_soon(self._serve, connection)

    async def _serve(self, connection: trio.socket.SocketType) -> None:
        caller = _Caller(connection)
        try:
            with trio.move_on_after(CALL_LIMIT_S) as limit:
                await self._answer(caller)
            if limit.cancelled_caught:
                whom = f", waiting for the plugin {caller.given_up}" if caller.given_up else ""
                text = f"the call was not finished within {CALL_LIMIT_S:.0f} s{whom}; try again"
                await caller.answer(1, error_text(CniError(Code.TRY_AGAIN, text), NEWEST))
        except (WireError, OSError, trio.BrokenResourceError) as error:
            _log.debug("a CNI call broke off: %s", error)
        except Exception:
            _log.exception("a CNI call failed")
        finally:
            caller.close()

    async def _answer(self, caller: _Caller) -> None:
        with trio.move_on_after(RECEIVE_LIMIT_S) as limit:
            environment, standard_input = await caller.receive_call()
        if limit.cancelled_caught:
            raise WireError(f"it was not there within {RECEIVE_LIMIT_S:.0f} s")
        status, printed, call = 0, b"", None
        try:
            request = parse_request(environment, standard_input)
            caller.require()  # what it asked for while we were stopped, it has left a record of, or will ask again
            if request.command == "ADD":
                await self._do_earlier(request)
            call = await self._call(caller, request)
            try:
                printed = _encoded(await self._operations.serve(call))
            except BaseException:
                await self._undo(call)
                raise
        except CniError as error:
            status, printed = 1, error_text(error, version_of(standard_input))
        except (OSError, WireError):
            raise
        except Exception:
            _log.exception("%s of a CNI plugin failed", environment.get("CNI_COMMAND"))
            fault = CniError(Code.INTERNAL, "the daemon failed at this call; its log tells why")
            status, printed = 1, error_text(fault, version_of(standard_input))
        try:
            await caller.answer(status, printed)
        except BaseException:
            if call is not None and status == 0:
                _log.info("%s: its runtime went away", call.request.container)
                await self._undo(call)
            raise

    async def _undo(self, call: Call) -> None:
        """Take back what an ADD has made so far."""
        if call.request.command == "ADD":
            with trio.move_on_after(UNDO_LIMIT_S, shield=True) as limit:
                try:
                    await self._operations.undo(call)
                except CniError as error:
                    _log.warning("%s cannot be taken back: %s", call.request.container, error.message)
            if limit.cancelled_caught:
                _log.warning("%s was not taken back within %.0f s", call.request.container, UNDO_LIMIT_S)

    async def _call(self, caller: _Caller, request: Request) -> Call:
        """Raises `CniError` for a namespace that is none, or the host's own."""

        async def delegate(plugin: str, command: str) -> Any:
            return await caller.execute(plugin, command, request)

        if request.command not in ("ADD", "CHECK") or request.plugin == "weave-ipam":
            return Call(request, delegate)
        if caller.namespace is None:
            raise CniError(Code.INVALID_NAMESPACE, f"failed to open netns {request.netns!r}: there is none")
        there = os.fstat(caller.namespace)
        own = os.stat("/proc/self/ns/net")  # noqa: PTH116 - no disk is asked
        if (there.st_dev, there.st_ino) == (own.st_dev, own.st_ino):
            raise CniError(
                Code.INVALID_NAMESPACE, "the container's network namespace is the host's: it cannot be attached"
            )
        if not _is_network_namespace(caller.namespace):
            raise CniError(Code.INVALID_NAMESPACE, f"{request.netns} is no network namespace")
        return Call(request, delegate, None if _leads_to(request.netns, there) else caller.namespace)

    async def _do_pending(self) -> None:
        """Finish the deletions that were asked for while no daemon ran."""
        if self._pending.is_dir():
            for record in sorted(self._pending.iterdir()):
                if not record.name.startswith("."):  # one that is being written: its caller will find the socket
                    await self._finish(record)

    async def _do_earlier(self, request: Request) -> None:
        """Before an ADD: the deletion of the same name that came when we did not answer, or that failed.

        Later it would delete what is added now. Raises `CniError` if it fails again.
        """
        names = (request.plugin, request.network, request.container, request.interface)
        record = self._pending / record_name(*names)
        try:
            await self._do_record(record)
        except FileNotFoundError:
            return
        except (WireError, OSError) as error:
            _log.warning("the CNI call in %s cannot be finished: %s", record, error)
        record.unlink(missing_ok=True)

    async def _finish(self, record: Path) -> None:
        """Do one; it is kept for later if it may succeed then."""
        try:
            await self._do_record(record)
        except FileNotFoundError:
            return
        except (CniError, WireError, OSError) as error:
            _log.warning("the CNI call in %s cannot be finished: %s", record, error)
            if isinstance(error, CniError) and error.code in (Code.TRY_AGAIN, Code.HOST_REFUSED, Code.INTERNAL):
                return
        except Exception:  # one record must not keep the daemon from starting
            _log.exception("the CNI call in %s failed and is given up", record)
        with suppress(OSError):
            record.unlink()  # noqa: ASYNC240 - in memory

    async def _do_record(self, record: Path) -> None:
        data = _read_record(record)
        size = length(data[:LENGTH_BYTES])
        environment = decode_environment(data[LENGTH_BYTES : LENGTH_BYTES + size])
        rest = data[LENGTH_BYTES + size :]
        standard_input = rest[LENGTH_BYTES : LENGTH_BYTES + length(rest[:LENGTH_BYTES])]

        async def delegate(plugin: str, command: str) -> Any:
            return None  # its own call was made when this one could not be

        if environment.get("CNI_COMMAND") != "DEL":
            raise WireError("it is no DEL")
        await self._operations.serve(Call(parse_request(environment, standard_input), delegate))


def _read_record(record: Path) -> bytes:
    """What an executable left. Raises `WireError` for what is no such file, and OSError."""
    descriptor = os.open(record, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_PENDING_BYTES:
            raise WireError("it is no record of a call")
        return file.read(_MAX_PENDING_BYTES)


def error_text(error: CniError, version: str) -> bytes:
    """An error object as the runtime reads it."""
    told = {"cniVersion": version, "code": error.code, "msg": error.message}
    return _encoded(told | ({"details": error.details} if error.details else {}))


def _encoded(value: Any) -> bytes:
    return b"" if value is None else (json.dumps(value, ensure_ascii=False) + "\n").encode(errors="surrogateescape")


def read_plugin(plugin: str, command: str, status: int, printed: bytes) -> Any:
    """What another plugin answered; only the result of ADD counts. Raises `CniError` with what it says."""
    if status == 0 and command != "ADD":
        return None
    try:
        value = json.loads(printed)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if status == 0:
            raise CniError(Code.UNDECODABLE, f"{plugin} printed no JSON: {error}") from error
        value = {"msg": f"exit status {status}", "details": printed[:MAX_TOLD_BYTES].decode(errors="replace")}
    if status == 0:
        return value
    told = value if isinstance(value, dict) else {}
    code, message = told.get("code"), told.get("msg")
    raise CniError(
        code if type(code) is int else Code.INTERNAL,
        f"plugin {plugin} failed ({command.lower()}): {message or 'no reason given'}",
        str(told.get("details") or ""),
    )


def _is_network_namespace(descriptor: int) -> bool:
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False  # a file of an ordinary file system


def _leads_to(path: str, there: os.stat_result) -> bool:
    """Whether the daemon sees the same at this path as the caller."""
    try:
        seen = Path(path).stat()
    except (OSError, ValueError):
        return False
    return (seen.st_dev, seen.st_ino) == (there.st_dev, there.st_ino)


class _Caller:
    """The executable at the other end of a connection."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._owed = 0
        """Answers of plugins that are still to come."""
        self.namespace: int | None = None
        """Descriptor of the container's namespace."""
        self.given_up = ""
        """The first plugin that was waited for in vain."""

    async def receive_call(self) -> tuple[dict[str, str], bytes]:
        """Environment and standard input."""
        await self._receive_first()
        environment = decode_environment(await self._receive(length(await self._receive(LENGTH_BYTES))))
        return environment, await self._receive(length(await self._receive(LENGTH_BYTES)))

    async def execute(self, plugin: str, command: str, request: Request) -> Any:
        """Have the caller run another plugin; its result. Raises `CniError` with what that says."""
        environment = {**request.environment, "CNI_COMMAND": command, "WEAVE_CNI_DELEGATE": plugin}
        config = dict(request.config)
        if command == "ADD":
            config.pop("prevResult", None)
        await self._send(encode_frame(EXECUTE, encode_call(environment, json.dumps(config).encode())))
        self._owed += 1
        try:
            while self._owed:  # that of a plugin that was given up comes first
                answer = await self._receive_answer()
                self._owed -= 1
        except trio.Cancelled:
            self.given_up = self.given_up or plugin
            raise
        return read_plugin(plugin, command, answer[0], answer[1:])

    def require(self) -> None:
        """Raises OSError if the caller is gone. To be called when it has nothing to say."""
        if self._socket.is_readable():
            raise BrokenPipeError("the caller is gone")

    async def answer(self, status: int, printed: bytes) -> None:
        """The end. Raises OSError if the caller is gone."""
        self.require()
        await self._send(encode_frame(RESULT, bytes([status]) + printed))

    def close(self) -> None:
        """Close the connection and the namespace."""
        self._socket.close()
        if self.namespace is not None:
            os.close(self.namespace)
            self.namespace = None

    async def _receive_first(self) -> None:
        descriptors = array.array("i")
        data, ancillary, _, _ = await self._socket.recvmsg(65536, socket.CMSG_SPACE(4 * descriptors.itemsize))
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(payload[: len(payload) - len(payload) % descriptors.itemsize])
        for number, descriptor in enumerate(descriptors):
            if number:
                os.close(descriptor)
            else:
                os.set_inheritable(descriptor, False)
                self.namespace = descriptor
        if not data:
            raise WireError("the caller said nothing")
        self._buffer += data

    async def _receive_answer(self) -> bytes:
        """Of a plugin: exit status and what it printed."""
        head = await self._receive(1 + LENGTH_BYTES, keep=True)
        if head[:1] != DONE:
            raise WireError("the caller did not run the delegated plugin")
        size = length(head[1:])
        if not size:
            raise WireError("the caller says nothing of the delegated plugin")
        return (await self._receive(len(head) + size))[len(head) :]

    async def _receive(self, size: int, *, keep: bool = False) -> bytes:
        """The next bytes; `keep` leaves them to be read again. Whoever is cancelled meanwhile has taken none."""
        while len(self._buffer) < size:
            data = await self._socket.recv(1 << 16)
            if not data:
                raise WireError("the caller went away")
            self._buffer += data
        data = bytes(self._buffer[:size])
        if not keep:
            del self._buffer[:size]
        return data

    async def _send(self, data: bytes) -> None:
        """Whole, since half a frame would be the end of all understanding; or WireError."""
        view = memoryview(data)
        with trio.move_on_after(SEND_LIMIT_S, shield=True) as limit:
            while view:
                view = view[await self._socket.send(view) :]
        if limit.cancelled_caught:
            raise WireError("the caller does not read what it is sent")
