"""Reading requests and writing answers of the HTTP API: bodies, form values, errors as text or JSON."""

from __future__ import annotations

import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response

from weave_dns.errors import DnsError, TooMany
from weave_ipam.errors import AddressInUse, IpamError, RemovalRefused, Unserved
from weave_net.errors import AttachmentConflict, AttachmentError, DaemonError, JsonPathError, SettingsError, StoreError
from weave_router.errors import HostError, TargetError

if TYPE_CHECKING:
    from starlette.requests import Request

MAX_BODY_BYTES = 1 << 20
"""The largest request has some hundred peers in it."""

MAX_FORM_VALUES = 10_000

STATUS_OF_ERRORS: dict[type[Exception], int] = {
    TargetError: 400,
    SettingsError: 400,
    JsonPathError: 400,
    AttachmentConflict: 409,
    AttachmentError: 400,
    HostError: 500,
    StoreError: 500,
    DaemonError: 503,
    Unserved: 503,
    RemovalRefused: 409,
    AddressInUse: 409,
    IpamError: 400,
    TooMany: 503,
    DnsError: 400,
}
"""Errors with a text for the caller; all others are faults of ours, logged with a traceback."""

_TRUTH = {
    "true": True,
    "1": True,
    "t": True,
    "yes": True,
    "false": False,
    "0": False,
    "f": False,
    "no": False,
    "": False,
}


class JsonResponse(Response):
    """A JSON body with an indent of 4, as in 2.8, and a final line feed for the terminal."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Encode the document."""
        return (json.dumps(content, indent=4, ensure_ascii=False) + "\n").encode()


def wants_json(request: Request) -> bool:
    """Whether the client asked for `application/json`."""
    return any("application/json" in value.lower() for value in request.headers.getlist("accept"))


async def read_body(request: Request) -> bytes:
    """The body, up to `MAX_BODY_BYTES`. Raises HTTPException 413 for more."""
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise HTTPException(413, f"the body is longer than {MAX_BODY_BYTES} bytes")
    return bytes(body)


async def read_json(request: Request) -> Any:
    """The body as JSON. Raises HTTPException 400."""
    try:
        return json.loads(await read_body(request))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON: {error}") from error


async def read_form(request: Request) -> dict[str, list[str]]:
    """The values of query and body by name, each in the order given. Raises HTTPException 400."""
    # Whatever its Content-Type says: 2.8's callers (curl -d, Go's PostForm, hand-made requests) differ in it.
    try:
        pairs = [
            *parse_qsl(request.url.query, keep_blank_values=True, max_num_fields=MAX_FORM_VALUES),
            *parse_qsl((await read_body(request)).decode(), keep_blank_values=True, max_num_fields=MAX_FORM_VALUES),
        ]
    except ValueError as error:
        raise HTTPException(400, f"the form values cannot be read: {error}") from error
    form: dict[str, list[str]] = {}
    for name, value in pairs:
        form.setdefault(name, []).append(value)
    return form


def truth_value(form: dict[str, list[str]], name: str) -> bool:
    """A truth value of a form, False when absent. Raises HTTPException 400 for other texts."""
    text = form.get(name, ["false"])[-1]
    try:
        return _TRUTH[text.lower()]
    except KeyError:
        raise HTTPException(400, f"{name}={text!r} is neither true nor false") from None


def error_response(request: Request, status: int, text: str, headers: dict[str, str] | None = None) -> Response:
    """An error as plain text, or as `{"error": …}` for a client that asked for JSON."""
    if wants_json(request):
        return JsonResponse({"error": text}, status_code=status, headers=headers)
    return PlainTextResponse(f"{text}\n", status_code=status, headers=headers)
