"""What a kubelet says to containerd: pods and their containers, over the container runtime interface (CRI v1).

    client = CriClient(host)
    pod = client.run_pod("web", port_mappings=[{"container_port": 80, "host_port": 8080}])
    web = client.start_container(pod, "web")
    client.stop_pod(pod); client.remove_pod(pod)

gRPC by hand: a call is one HTTP/2 request with a length before the message. Messages are nested tables of field
numbers, of which only those are here that the lab needs.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from lab.containerd_engine import CRI_NAMESPACE, SOCKET, running_tasks
from lab.engine_container import EngineContainer
from lab.engine_image import IMAGE
from lab.shell import LabError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lab.engine_host import EngineHost

LIMIT_S = 45.0
STRING, NUMBER, STRINGS = "string", "number", "strings"
"""Kinds of fields: text, integer or truth value, map of text to text; a table is a message."""
Table = dict[str, tuple[int, Any]]

_METADATA: Table = {"name": (1, STRING), "uid": (2, STRING), "namespace": (3, STRING), "attempt": (4, NUMBER)}
_PORT: Table = {
    "protocol": (1, NUMBER),
    "container_port": (2, NUMBER),
    "host_port": (3, NUMBER),
    "host_ip": (4, STRING),
}
_POD_CONFIG: Table = {
    "metadata": (1, _METADATA),
    "hostname": (2, STRING),
    "log_directory": (3, STRING),
    "dns_config": (4, {"servers": (1, STRING), "searches": (2, STRING)}),
    "port_mappings": (5, _PORT),
    "labels": (6, STRINGS),
    "annotations": (7, STRINGS),
    "linux": (8, {"cgroup_parent": (1, STRING)}),
}
_CONTAINER_CONFIG: Table = {
    "metadata": (1, {"name": (1, STRING), "attempt": (2, NUMBER)}),
    "image": (2, {"image": (1, STRING)}),
    "command": (3, STRING),
    "args": (4, STRING),
    "log_path": (11, STRING),
}
_POD: Table = {"pod_sandbox_id": (1, STRING)}
_CONTAINER: Table = {"container_id": (1, STRING)}
_CONDITION: Table = {"type": (1, STRING), "status": (2, NUMBER), "reason": (3, STRING), "message": (4, STRING)}
_POD_STATUS: Table = {
    "status": (
        1,
        {
            "id": (1, STRING),
            "state": (3, NUMBER),
            "network": (5, {"ip": (1, STRING), "additional_ips": (2, {"ip": (1, STRING)})}),
        },
    )
}
METHODS: dict[str, tuple[Table, Table]] = {
    "RunPodSandbox": ({"config": (1, _POD_CONFIG)}, _POD),
    "StopPodSandbox": (_POD, {}),
    "RemovePodSandbox": (_POD, {}),
    "PodSandboxStatus": ({**_POD, "verbose": (2, NUMBER)}, _POD_STATUS),
    "Status": ({"verbose": (1, NUMBER)}, {"status": (1, {"conditions": (1, _CONDITION)})}),
    "CreateContainer": (
        {"pod_sandbox_id": (1, STRING), "config": (2, _CONTAINER_CONFIG), "sandbox_config": (3, _POD_CONFIG)},
        _CONTAINER,
    ),
    "StartContainer": (_CONTAINER, {}),
    "StopContainer": ({"container_id": (1, STRING), "timeout": (2, NUMBER)}, {}),
    "RemoveContainer": (_CONTAINER, {}),
}
"""Request and answer of each method."""

_VARINT, _LENGTH, _FIXED64, _FIXED32 = 0, 2, 1, 5


class CriError(LabError):
    """containerd refused a call; its text is in the message."""


@dataclass(frozen=True)
class Pod:
    """A running sandbox."""

    id: str
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.config["metadata"]["name"])


class CriClient:
    """Calls containerd's CRI service on a host; a context manager."""

    def __init__(self, host: EngineHost) -> None:
        self.host = host
        transport = httpx.HTTPTransport(uds=str(host.path_of(SOCKET)), http1=False, http2=True)
        self._client = httpx.Client(transport=transport, timeout=LIMIT_S, trust_env=False)

    def __enter__(self) -> CriClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, request: Mapping[str, Any]) -> dict[str, list[Any]]:
        """One call; each field of the answer is a list of what was sent. Raises `CriError`."""
        request_table, answer_table = METHODS[method]
        message = encode(request_table, request)
        try:
            answer = self._client.post(
                f"http://containerd/runtime.v1.RuntimeService/{method}",
                content=struct.pack("!BI", 0, len(message)) + message,
                headers={"content-type": "application/grpc", "te": "trailers"},
            )
        except httpx.HTTPError as error:
            raise CriError(f"{method}: {type(error).__name__}: {error}") from error
        # A refusal is nothing but headers; a success has its status behind the message, where httpx does not look.
        if answer.status_code != 200 or answer.headers.get("grpc-status", "0") != "0" or len(answer.content) < 5:
            raise CriError(f"{method}: {answer.headers.get('grpc-message', answer.status_code)}")
        return decode(answer_table, answer.content[5:])

    def conditions(self) -> dict[str, bool]:
        """RuntimeReady and NetworkReady."""
        (status,) = self.call("Status", {})["status"]
        return {row["type"][0]: bool(row.get("status", [0])[0]) for row in status["conditions"]}

    def run_pod(
        self,
        name: str,
        *,
        namespace: str = "default",
        port_mappings: Sequence[Mapping[str, Any]] = (),
        annotations: Mapping[str, str] | None = None,
        dns: Mapping[str, Sequence[str]] | None = None,
    ) -> Pod:
        """Make a pod's sandbox with its network."""
        config: dict[str, Any] = {
            "metadata": {"name": name, "uid": str(uuid.uuid4()), "namespace": namespace, "attempt": 0},
            "hostname": name,
            "log_directory": f"/run/lab/pods/{name}",
            "port_mappings": list(port_mappings),
            "annotations": annotations or {},
            "linux": {},
            **({"dns_config": dns} if dns else {}),
        }
        return Pod(self.call("RunPodSandbox", {"config": config})["pod_sandbox_id"][0], config)

    def pod_address(self, pod: Pod) -> str:
        """The pod's address as the kubelet gets to know it."""
        (status,) = self.call("PodSandboxStatus", {"pod_sandbox_id": pod.id})["status"]
        return str(status["network"][0]["ip"][0])

    def start_container(self, pod: Pod, name: str, *command: str) -> CriContainer:
        """Start a container of the lab's image in a pod."""
        config = {
            "metadata": {"name": name, "attempt": 0},
            "image": {"image": IMAGE},
            "command": list(command),
            "log_path": f"{name}.log",
        }
        request = {"pod_sandbox_id": pod.id, "config": config, "sandbox_config": pod.config}
        container = CriContainer(self.host, self.call("CreateContainer", request)["container_id"][0])
        self.call("StartContainer", {"container_id": container.name})
        return container

    def stop_pod(self, pod: Pod) -> None:
        """Stop a pod's containers and take its network away; may be repeated."""
        self.call("StopPodSandbox", {"pod_sandbox_id": pod.id})

    def remove_pod(self, pod: Pod) -> None:
        """Remove what is left of a pod; stops it first if need be."""
        self.call("RemovePodSandbox", {"pod_sandbox_id": pod.id})


class CriContainer(EngineContainer):
    """A container of a pod; its name is its id."""

    def find_pid(self) -> int:
        """Its first process, from `ctr task ls`."""
        return running_tasks(self.host, CRI_NAMESPACE).get(self.name, 0)


def encode(table: Table, message: Mapping[str, Any]) -> bytes:
    """A message in protobuf's form; a list is a repeated field. KeyError for a field that the table lacks."""
    parts = []
    for name, value in message.items():
        number, kind = table[name]
        if kind == STRINGS:
            entries = [_field(1, key.encode()) + _field(2, text.encode()) for key, text in value.items()]
            parts += [_field(number, entry) for entry in entries]
            continue
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if kind == NUMBER:
                parts.append(_varint(number << 3 | _VARINT) + _varint(int(item)))
            else:
                parts.append(_field(number, item.encode() if kind == STRING else encode(kind, item)))
    return b"".join(parts)


def decode(table: Table, data: bytes) -> dict[str, list[Any]]:
    """The known fields of a message, each a list in the order of arrival. ValueError if it is none."""
    by_number = {number: (name, kind) for name, (number, kind) in table.items()}
    found: dict[str, list[Any]] = {}
    for number, value in _fields(data):
        if number not in by_number:
            continue
        name, kind = by_number[number]
        if isinstance(kind, dict) and isinstance(value, bytes):
            value = decode(kind, value)
        elif kind == STRING and isinstance(value, bytes):
            value = value.decode()
        found.setdefault(name, []).append(value)
    return found


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while position < len(data):
        key = varint()
        number, form = key >> 3, key & 7
        if form == _VARINT:
            yield number, varint()
            continue
        sizes = {_FIXED64: 8, _FIXED32: 4}
        if form != _LENGTH and form not in sizes:
            raise ValueError(f"form {form} of field {number} is unknown")
        size = varint() if form == _LENGTH else sizes[form]
        yield number, data[position : position + size]
        position += size
