"""The command line's side of the HTTP API: one request at a time over the Unix socket, with deadlines."""

from __future__ import annotations

import json
import socket
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from weave_net.errors import ApiError, ClientError, DaemonUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType, TracebackType

    import httpx

    from weave_net.directories import Directories

CONNECT_LIMIT_S = 2.0
ANSWER_LIMIT_S = 30.0
"""The longest request is an attachment, which the daemon gives up after 20 s."""

QUICK_LIMIT_S = 3.0
"""For questions whose only purpose is to find out whether the daemon answers."""

_NOT_YET = 503
_NOT_FOUND = 404
_UNUSED_BY_HTTPX = ("httpx._main", "trio", "anyio", "h2", "rich", "pygments")


class DaemonClient:
    """A client of one daemon; a context manager.

    Every request may raise `DaemonUnavailable`, `ApiError` with the daemon's own text, and `ClientError`.
    """

    def __init__(self, directories: Directories, *, answer_limit_s: float = ANSWER_LIMIT_S) -> None:
        self._httpx = _import_httpx()
        self._socket = directories.socket
        self._answer_limit_s = answer_limit_s
        self._client = self._httpx.Client(
            transport=self._httpx.HTTPTransport(uds=str(self._socket), verify=False),
            base_url="http://localhost",
            timeout=self._httpx.Timeout(answer_limit_s, connect=CONNECT_LIMIT_S),
            trust_env=False,
        )

    def __enter__(self) -> DaemonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def text(self, path: str, parameters: Mapping[str, str] | None = None) -> str:
        """GET a text."""
        return self._request("GET", path, params=dict(parameters or {})).text

    def document(self, path: str) -> str:
        """GET a JSON document, as the daemon wrote it."""
        return self._request("GET", path, headers={"Accept": "application/json"}).text

    def post(self, path: str, form: Mapping[str, str | Sequence[str]] | None = None) -> str:
        """POST form values; a list is sent as a repeated value."""
        values = {name: value if isinstance(value, str) else list(value) for name, value in (form or {}).items()}
        return self._request("POST", path, data=values).text

    def attachments(self) -> list[dict[str, Any]]:
        """All attachments, as the daemon describes them."""
        listed: list[dict[str, Any]] = self._request("GET", "/attachment").json()
        return listed

    def prime(self) -> None:
        """Wait, for as long as it takes, until addresses can be allocated."""
        while True:
            try:
                self._request("GET", "/ring", timeout=None)
            except ApiError as error:
                if error.status == _NOT_YET:
                    continue
                raise
            return

    def remove_peer(self, peer: str, *, also: Sequence[str] = (), force: bool = False) -> str:
        """Take over what a peer owned that is gone, as others are `also`; what the daemon says."""
        parameters = {"also": list(also), **({"force": "true"} if force else {})}
        return self._request("DELETE", f"/peer/{_segment(peer, slash=True)}", params=parameters).text

    def leave(self) -> str | None:
        """Hand this peer's addresses over; who got them."""
        heir: str | None = self._request("DELETE", "/peer").headers.get("Weave-Heir")
        return None if heir is None else unquote(heir)

    def put_attachment(self, attachment_id: str, interface: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Make an attachment; the daemon's description of it."""
        answer = self._request("PUT", _attachment_path(attachment_id, interface), content=json.dumps(body))
        attachment: dict[str, Any] = answer.json()
        return attachment

    def delete_attachment(self, attachment_id: str, interface: str, addresses: Sequence[str]) -> list[str]:
        """Remove addresses or all of the attachment; what was removed."""
        path = _attachment_path(attachment_id, interface)
        removed: list[str] = self._request("DELETE", path, params={"address": list(addresses)}).json()["removed"]
        return removed

    def add_name(self, container: str, address: str, fqdn: str) -> None:
        """Give a container's address a name."""
        self._request("PUT", _name_path(container, address), data={"fqdn": fqdn, "strict": "true"})

    def remove_names(self, container: str, address: str | None, fqdn: str | None) -> None:
        """Remove a container's names, those of one address or one of them only."""
        self._request("DELETE", _name_path(container, address), params={} if fqdn is None else {"fqdn": fqdn})

    def remove_own_names(self) -> None:
        """Remove all names of this host; there are none where names are off."""
        try:
            self._request("DELETE", "/name")
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise

    def look_up(self, name: str) -> str:
        """The addresses of a name, one per line."""
        return self._request("GET", f"/lookup/{_segment(name, slash=True)}").text

    def exposed(self) -> dict[str, Any]:
        """What the bridge has: `mac`, `addresses` (`address/len`), and what was `exposed`."""
        answer: dict[str, Any] = self._request("GET", "/expose").json()
        return answer

    def expose(self, body: Mapping[str, Any]) -> list[str]:
        """Give the bridge addresses; those, as `address/len`."""
        given: list[str] = self._request("PUT", "/expose", content=json.dumps(body)).json()["given"]
        return given

    def hide(self, addresses: Sequence[str]) -> list[str]:
        """Take addresses from the bridge, or those of the default subnet; what was removed."""
        answer = self._request("DELETE", "/expose", params={"address": list(addresses)})
        removed: list[str] = answer.json()["removed"]
        return removed

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        self._check_socket()
        library = self._httpx
        try:
            response: httpx.Response = self._client.request(method, path, **arguments)
        except library.TimeoutException as error:
            raise self._silent(self._answer_limit_s) from error
        except library.HTTPError as error:
            raise ClientError(f"the daemon broke off the connection on {self._socket}: {error}") from error
        if response.is_error:
            raise ApiError(response.status_code, response.text.strip() or f"HTTP status {response.status_code}")
        return response

    def _check_socket(self) -> None:
        """Connect once without a request: the error of the kernel tells more than what httpx makes of it."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(CONNECT_LIMIT_S)
            try:
                probe.connect(str(self._socket))
            except PermissionError as error:
                raise DaemonUnavailable(f"permission denied on {self._socket}; try it as root") from error
            except TimeoutError as error:
                raise self._silent(CONNECT_LIMIT_S) from error
            except OSError as error:
                raise DaemonUnavailable(
                    f"weave is not running (no daemon answers on {self._socket}); start it with 'weave launch'"
                ) from error

    def _silent(self, limit_s: float) -> DaemonUnavailable:
        return DaemonUnavailable(
            f"weave does not answer on {self._socket} within {limit_s:.0f} s; its log may tell why"
        )


def _attachment_path(attachment_id: str, interface: str) -> str:
    return f"/attachment/{_segment(attachment_id)}/{_segment(interface)}"


def _name_path(container: str, address: str | None) -> str:
    return f"/name/{_segment(container)}" + ("" if address is None else f"/{address}")


def _segment(text: str, *, slash: bool = False) -> str:
    """A part of a path; dots alone would be left out on the way, and lead to what is above. Raises `ClientError`.

    `slash`: whether the path takes a part with a slash in it.
    """
    if "/" in text and not slash:
        raise ClientError(f"{text!r} cannot be a name: it has a slash")
    return quote(text, safe="") if text.strip(".") else "%2E" * len(text)


def _import_httpx() -> ModuleType:
    """Import httpx without what it offers beyond a blocking HTTP/1.1 client, which takes half of a command's time."""
    hidden = [name for name in _UNUSED_BY_HTTPX if name not in sys.modules]
    # None makes an import fail, which httpx and httpcore allow for: all of these are optional to them.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import httpcore  # noqa: F401 - httpx would import it later, when nothing is hidden any more
        import httpx
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    return httpx
