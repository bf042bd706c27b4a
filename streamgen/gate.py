"""What every HTTP request passes before the routes: origin, token, size. And the one form that errors have."""

from __future__ import annotations

import asyncio
import hmac
import json
from collections.abc import Callable, Collection, Mapping
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 128 * 1024
BODY_TIMEOUT_S = 10.0

API, WHIP, WHEP = "/api/", "/whip", "/whep/"

UPLOADS = "/api/jobs"
"""POSTs to it carry a file: its route takes the body as it comes, and bounds it."""

_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, If-Match",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = "Location, Link, ETag, Accept-Patch, Retry-After"


def error_response(
    status: int, code: str, message: str, field: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """{"error": {"code", "message"[, "field"]}}."""
    error = {"code": code, "message": message}
    if field is not None:
        error["field"] = field
    text = json.dumps({"error": error})  # in ASCII: what a client sent may be no valid Unicode
    return Response(text, status, dict(headers or {}), "application/json")


class Gate:
    """ASGI middleware. The API, WHIP and WHEP ask for the token and take browsers only from allowed origins."""

    def __init__(
        self, app: ASGIApp, token: str | None, allowed_origins: Collection[str], is_link: Callable[[str], bool]
    ) -> None:
        """`is_link` tells of what follows /whep/ whether it is a secret of its own, for which no token is asked."""
        self._app = app
        self._is_link = is_link
        self._token = None if token is None else token.encode()
        self._allowed = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _Answer(send, scope["path"], self._shared_with(headers))
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["method"] == "POST" and scope["path"] == UPLOADS:
            await self._app(scope, receive, answer)
            return
        if refusal is None:
            body = await _read_body(headers, receive)
            if isinstance(body, bytes):
                await self._app(scope, _Replay(body, receive), answer)
                return
            refusal = body
        await refusal(scope, receive, answer)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that goes no further; None where it may."""
        path: str = scope["path"]
        if not _guarded(path):
            return None
        origin = headers.get("origin")
        if origin is not None and not self._may_use(origin, headers):
            return error_response(403, "bad_origin", "this page's origin is not allowed; see --allow-origin")
        if scope["method"] == "OPTIONS":
            # Never asks for the token: browsers send none here.
            if path.startswith(API):
                return Response(status_code=204, headers=_PREFLIGHT)
            return Response(status_code=200, headers={**_PREFLIGHT, "Accept-Post": "application/sdp"})
        if not self._has_token(headers) and not (path.startswith(WHEP) and self._is_link(path.removeprefix(WHEP))):
            message = "this service asks for a token: send Authorization: Bearer TOKEN"
            return error_response(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
        return None

    def _may_use(self, origin: str, headers: Headers) -> bool:
        try:
            own = urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
        except ValueError:  # no URL
            return False
        return own or origin.lower() in self._allowed

    def _shared_with(self, headers: Headers) -> str | None:
        """The other origin that may read the answer."""
        origin = headers.get("origin")
        return origin if origin is not None and origin.lower() in self._allowed else None

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token)


def _guarded(path: str) -> bool:
    return path.startswith((API, WHEP, f"{WHIP}/")) or path == WHIP


class _Answer:
    """Sends an answer, with the headers that all answers have."""

    def __init__(self, send: Send, path: str, shared_with: str | None) -> None:
        self._send = send
        self._cache = "no-store" if _guarded(path) else "no-cache"
        self._shared_with = shared_with

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Cache-Control", self._cache)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
            headers.add_vary_header("Origin")
            if self._shared_with is not None:
                headers["Access-Control-Allow-Origin"] = self._shared_with
                headers["Access-Control-Expose-Headers"] = _EXPOSED
        await self._send(message)


class _Replay:
    """Gives the body that was read, then what comes after it."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read_body(headers: Headers, receive: Receive) -> bytes | Response:
    """The whole body, or the answer to one that is too large or too slow."""
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced[:12]) > MAX_BODY_BYTES:
        return _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > MAX_BODY_BYTES:
                    return _too_large()
                if not message.get("more_body", False):  # also where the client has gone
                    return bytes(body)
    except TimeoutError:
        return error_response(408, "too_slow", f"the request took over {BODY_TIMEOUT_S:g} s", headers=_CLOSE)


def _too_large() -> Response:
    return error_response(413, "too_large", f"the request is larger than {MAX_BODY_BYTES // 1024} KB", headers=_CLOSE)


_CLOSE = {"Connection": "close"}
