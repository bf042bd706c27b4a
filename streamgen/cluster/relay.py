"""Passes requests on to nodes, for clients that cannot be led there: pages, and those whom a firewall keeps out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from streamgen.cluster.messages import CLIENT_HEADER, KEY_HEADER, Report
from streamgen.errors import BusyError
from streamgen.whip import client_of

CONNECT_S, EXCHANGE_S = 2.0, 60.0
"""A node is reached within the first, or is not there; and within the second there is some progress (s). The answer to
a video file comes when the file was looked into."""

MOST_AT_ONCE = 256
"""Requests that are passed on; more wait."""

RETRY_GONE_S = 1

ASKED = ("accept", "authorization", "content-length", "content-type", "if-match", "range")
ANSWERED = (
    *("accept-patch", "accept-post", "accept-ranges", "content-disposition", "content-length", "content-range"),
    *("content-type", "etag", "last-modified", "link", "location", "retry-after", "www-authenticate"),
)
"""Headers that go through, to and fro. Of the origin the gateway has judged already."""


class UnreachableError(BusyError):
    """The node did not answer."""


class Relay:
    """One connection pool to all nodes. `transport` replaces HTTP in tests."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(EXCHANGE_S, connect=CONNECT_S),
            limits=httpx.Limits(max_connections=MOST_AT_ONCE),
            transport=transport,
            trust_env=False,  # nodes are near; a proxy of the environment leads elsewhere
        )

    async def pass_on(self, request: Request, node: Report, *, large: bool = False) -> Response:
        """The node's answer to the request; what is `large` passes as it comes. Raises UnreachableError."""
        headers = {name: request.headers[name] for name in ASKED if name in request.headers}
        headers |= {KEY_HEADER: node.key, CLIENT_HEADER: client_of(request), "accept-encoding": "identity"}
        outgoing = self._http.build_request(
            request.method,
            target(node.url, request),
            headers=headers,
            content=request.stream() if large and request.method == "POST" else await request.body(),
        )
        try:
            answer = await self._http.send(outgoing, stream=large)
        except httpx.TransportError:
            raise UnreachableError("the machine that is to answer cannot be reached; try again", RETRY_GONE_S) from None
        passed = {name: answer.headers[name] for name in ANSWERED if name in answer.headers and name != "link"}
        response = (
            StreamingResponse(_body(answer), answer.status_code, passed)
            if large
            else Response(answer.content, answer.status_code, passed)
        )
        for link in answer.headers.get_list("link"):
            response.headers.append("link", link)
        return response

    async def close(self) -> None:
        """Gives the connections back."""
        await self._http.aclose()


def target(base: str, request: Request) -> str:
    """The URL of a request at another base."""
    query = request.scope["query_string"].decode("latin-1")
    return f"{base}{quote(request.scope['path'])}{query and '?'}{query}"


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for block in answer.aiter_raw():
            yield block
    finally:
        await answer.aclose()
