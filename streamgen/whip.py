"""The standard ways in and out: WHIP (RFC 9725) to publish a stream, WHEP (draft-ietf-wish-whep) to watch one.

POST /whip            offer -> 201 answer; its Location takes PATCH (ICE) and DELETE
POST /whep/{stream}   the same for a viewer; {stream} is a session's id, or the name it was published under
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import Response

from streamgen.core import Params
from streamgen.errors import ParamsError
from streamgen.gate import error_response
from streamgen.turn import IceServer

SDP = "application/sdp"
FRAGMENT = "application/trickle-ice-sdpfrag"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,20}")  # shorter than the ids and secrets that are made here


class IceSession(Protocol):
    """What PATCH changes: the ICE side of a connection."""

    @property
    def tag(self) -> str:
        """Tells this generation of ICE from those before and after; an ETag without its quotes."""
        ...

    async def patch(self, fragment: str) -> str | None:
        """Takes trickled candidates; or restarts ICE, and gives the fragment that answers.

        Raises OfferError for what is no fragment, IceRestartError where a restart does not come about.
        """
        ...


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection that was just answered."""

    id: str
    """Of the session or the viewer; only who opened it knows it."""
    sdp: str
    """The answer."""
    ice: IceSession


class Streams(Protocol):
    """What these routes need of the service."""

    async def publish(self, sdp: str, params: Mapping[str, object], name: str, client: str = "") -> Connected:
        """Opens a session, or goes on with the one of this name that lost its connection.

        Raises OfferError, ParamsError, BusyError, NameTakenError.
        """
        ...

    async def watch(self, stream: str, sdp: str) -> Connected:
        """Raises SessionNotFoundError, NotLiveError, BusyError, OfferError."""
        ...

    def ice(self, connection_id: str) -> IceSession:
        """Of a session or a viewer. Raises SessionNotFoundError."""
        ...

    async def close(self, session_id: str, reason: str) -> None:
        """Raises SessionNotFoundError."""
        ...

    async def stop_watching(self, viewer_id: str) -> None:
        """Raises SessionNotFoundError."""
        ...

    def ice_servers_for(self, connection_id: str) -> Sequence[IceServer]:
        """For a client's use, with credentials where they want any."""
        ...


def add_whip(app: FastAPI, streams: Streams) -> None:
    """Adds the routes."""
    sdp_body = {"requestBody": {"content": {SDP: {"schema": {"type": "string"}}}, "required": True}}

    @app.post("/whip", status_code=201, openapi_extra=sdp_body, response_class=Response)
    async def publish(request: Request) -> Response:
        """Publishes a stream. Query: `name`, under which it can be watched, and session parameters."""
        query = dict(request.query_params)
        name = query.pop("name", "")
        if name and not is_name(name):
            raise ParamsError("name", "takes up to 20 letters, digits, - and _")
        sdp = await _body(request, SDP)
        if isinstance(sdp, Response):
            return sdp
        connected = await streams.publish(sdp, params_of(query), name, client_of(request))
        return _created(request, f"/whip/{connected.id}", connected, streams)

    @app.post("/whep/{stream}", status_code=201, openapi_extra=sdp_body, response_class=Response)
    async def watch(stream: str, request: Request) -> Response:
        """Watches a session. 409 with Retry-After where it has no picture now."""
        sdp = await _body(request, SDP)
        if isinstance(sdp, Response):
            return sdp
        connected = await streams.watch(stream, sdp)
        return _created(request, f"/whep/{connected.id}", connected, streams)

    @app.patch("/whip/{connection_id}", response_class=Response)
    @app.patch("/whep/{connection_id}", response_class=Response)
    async def patch(connection_id: str, request: Request) -> Response:
        """Trickles candidates, or restarts ICE."""
        return await _patch(streams.ice(connection_id), request)

    @app.delete("/whip/{session_id}", response_class=Response)
    async def stop_publishing(session_id: str) -> Response:
        """Ends the session."""
        await streams.close(session_id, "closed by its publisher")
        return Response(status_code=200)

    @app.delete("/whep/{viewer_id}", response_class=Response)
    async def stop_watching(viewer_id: str) -> Response:
        """Ends the watching."""
        await streams.stop_watching(viewer_id)
        return Response(status_code=200)


def client_of(request: Request) -> str:
    """Whose a request is: its network address, as far as it is known."""
    return request.client.host if request.client is not None else ""


def is_name(text: str) -> bool:
    """Whether a publisher can choose it as the name of a stream."""
    return _NAME.fullmatch(text) is not None


def params_of(query: Mapping[str, str]) -> dict[str, object]:
    """Session parameters from the text of a query; what is none of them is left out. Raises ParamsError."""
    found: dict[str, object] = {}
    for field in fields(Params):
        text = query.get(field.name)
        if text is not None:
            found[field.name] = _value(field.name, text, type(field.default))
    return found


def _value(name: str, text: str, kind: type) -> object:
    if kind is bool:
        if text not in ("true", "false"):
            raise ParamsError(name, "must be true or false")
        return text == "true"
    if kind is str:
        return text
    try:
        return kind(text)
    except ValueError:
        raise ParamsError(name, f"must be a number, not {text[:40]!r}") from None


async def _body(request: Request, kind: str) -> str | Response:
    """The body as text, or the answer to one of another kind."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != kind:
        accepts = {"Accept-Post" if kind == SDP else "Accept-Patch": kind}
        return error_response(415, "wrong_type", f"send {kind}", headers=accepts)
    try:
        return (await request.body()).decode()
    except UnicodeDecodeError:
        return error_response(400, "bad_offer", "the body is not UTF-8")


def _created(request: Request, path: str, connected: Connected, streams: Streams) -> Response:
    answer = Response(connected.sdp, 201, media_type=SDP)
    answer.headers["Content-Type"] = SDP  # without a charset, which the type does not have
    answer.headers["Location"] = request.scope.get("root_path", "") + path
    answer.headers["ETag"] = f'"{connected.ice.tag}"'
    answer.headers["Accept-Patch"] = FRAGMENT
    for link in links(streams.ice_servers_for(connected.id)):
        answer.headers.append("Link", link)
    return answer


def links(servers: Iterable[IceServer]) -> list[str]:
    """Values of Link headers (RFC 9725, section 4.6)."""
    found = []
    for server in servers:
        link = f'<{server.urls}>; rel="ice-server"'
        if server.username is not None:
            link += f'; username="{server.username}"; credential="{server.credential}"; credential-type="password"'
        found.append(link)
    return found


async def _patch(ice: IceSession, request: Request) -> Response:
    fragment = await _body(request, FRAGMENT)
    if isinstance(fragment, Response):
        return fragment
    wanted = request.headers.get("if-match")
    if wanted is None:
        return error_response(428, "precondition_required", "send If-Match with the ETag of the ICE session, or *")
    tags = [tag.strip() for tag in wanted.split(",")]
    if "*" not in tags and f'"{ice.tag}"' not in tags:
        return error_response(412, "precondition_failed", "If-Match names another ICE session than the present one")
    answer = await ice.patch(fragment)
    if answer is None:
        return Response(status_code=204)
    restarted = Response(answer, 200)
    restarted.headers["Content-Type"] = FRAGMENT
    restarted.headers["ETag"] = f'"{ice.tag}"'
    return restarted
