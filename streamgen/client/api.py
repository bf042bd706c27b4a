"""The service's HTTP interface, as far as a streaming client needs it; every failure is one clear line."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from streamgen.client.events import Stats
from streamgen.errors import ConnectError, ServiceError

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

NODE_CONNECT_S = 3.0
"""A machine to which the service leads takes a connection within this time, or is not there."""

NODE_GONE, NODE_TRIES, RETRY_NODE_S = "node_gone", 3, 1.0
"""For a session the service is asked so often, at this distance (s): it knows soon who is gone."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service says to an offer that it takes."""

    id: str
    sdp: str
    state: str
    params: dict[str, object]
    frame_size: tuple[int, int]
    """(width, height) of the result in pixels, until the first frame tells the source's shape; see Session."""


class Api:
    """Requests to the service at `url` (http or https, maybe with a path prefix). Raises ConnectError for a bad URL.

    A fleet of services answers 307 with the address of the machine that is to answer. A request goes on to it, once,
    with all that it has, the token too: only to where the answer to this very request leads, and never from https to
    http.
    """

    def __init__(
        self, url: str, token: str | None, timeout_s: float, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._url = _checked(url)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=timeout_s,
            transport=transport,
            trust_env=not self.on_loopback,  # a proxy of the environment cannot reach this machine's loopback
        )

    @property
    def on_loopback(self) -> bool:
        """Whether the service is on this machine."""
        return self._url.host in LOOPBACK

    async def create(self, sdp: str, params: Mapping[str, object]) -> Answer:
        """Offers `sdp`. Raises ConnectError, ServiceError."""
        offer = {"sdp": sdp, "type": "offer", "params": dict(params)}
        for _ in range(NODE_TRIES - 1):
            try:
                return self._answer(await self._request("POST", "/api/sessions", offer))
            except ServiceError as error:
                if error.reason != NODE_GONE:
                    raise
            await asyncio.sleep(RETRY_NODE_S)
        return self._answer(await self._request("POST", "/api/sessions", offer))

    async def resume(self, session: str, sdp: str) -> Answer:
        """Offers another connection for a session. Raises ConnectError, ServiceError (404 where it has ended)."""
        return self._answer(await self._request("POST", f"/api/sessions/{session}", {"sdp": sdp, "type": "offer"}))

    def _answer(self, body: Any) -> Answer:
        try:
            width, height = body["frame_size"]
            return Answer(str(body["id"]), str(body["sdp"]), body["state"], body["params"], (width, height))
        except (KeyError, ValueError, TypeError) as error:
            raise self._no_streamgen(error) from None

    async def stats(self, session: str) -> Stats:
        """Statistics up to now. Raises ConnectError, ServiceError."""
        body = await self._request("GET", f"/api/sessions/{session}")
        try:
            return Stats.parse(body["stats"])
        except (KeyError, TypeError) as error:
            raise self._no_streamgen(error) from None

    async def delete(self, session: str) -> None:
        """Raises ConnectError, ServiceError."""
        await self._request("DELETE", f"/api/sessions/{session}")

    async def close(self) -> None:
        """Gives the HTTP connections back."""
        await self._http.aclose()

    async def _request(self, method: str, path: str, body: object = None) -> Any:
        """JSON of the answer, None where it has no content."""
        return self._json(await self._send(method, path, body))

    async def _send(self, method: str, path: str, body: object = None) -> httpx.Response:
        """The answer, of whatever machine it is."""
        with self._reported():
            response = await self._http.request(method, path, json=body)
        node = self._node(response)
        if node is None:
            return response
        timeout = httpx.Timeout(self._timeout_s, connect=min(self._timeout_s, NODE_CONNECT_S))
        with self._reported(node):
            return await self._http.request(method, node, json=body, timeout=timeout)

    def _node(self, response: httpx.Response) -> httpx.URL | None:
        """Where a request is to be made, if not here. Raises ConnectError where that would show what https hides."""
        location = response.headers.get("Location", "")
        if response.status_code != httpx.codes.TEMPORARY_REDIRECT or not location.startswith(("http://", "https://")):
            return None
        node = _checked(location)
        if (self._url.scheme, node.scheme) == ("https", "http"):
            raise ConnectError(f"{self._url} leads to {node.host} by http, which would show what https hides")
        return node

    def _json(self, response: httpx.Response) -> Any:
        if not response.is_success:
            raise refusal(response)
        if response.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise self._no_streamgen(error) from None

    @contextlib.contextmanager
    def _reported(self, node: httpx.URL | None = None) -> Iterator[None]:
        """What goes wrong with a request in here is a ConnectError. With one to a `node` it is a ServiceError, as where
        there is no room: whoever asks again is led to another."""
        try:
            yield
        except httpx.TransportError as error:
            if node is None:
                raise self._unreached(error) from None
            why = f"the machine that the service leads to, {node.host}, cannot be reached: {_why(error)}"
            raise ServiceError(why, httpx.codes.SERVICE_UNAVAILABLE, RETRY_NODE_S, NODE_GONE) from None
        except httpx.HTTPError as error:
            raise self._unreached(error) from None

    def _unreached(self, error: httpx.HTTPError) -> ConnectError:
        if isinstance(error, httpx.TimeoutException):
            return ConnectError(f"{self._url} did not answer within {self._timeout_s:g} s")
        if isinstance(error, httpx.ConnectError):
            return ConnectError(f"cannot reach {self._url}: {_why(error)}; is the service running there?")
        return ConnectError(f"the request to {self._url} failed: {_why(error)}")

    def _no_streamgen(self, error: Exception) -> ConnectError:
        return ConnectError(f"{self._url} does not answer like a streamgen service ({type(error).__name__}: {error})")


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConnectError(f"{url!r} is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConnectError(f"{url!r} is no http:// or https:// address")
    return parsed


def _why(error: Exception) -> str:
    """The innermost cause's own words in one line: HTTP libraries wrap the system's error several times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    if isinstance(cause, ConnectionError) and cause.errno:
        return os.strerror(cause.errno).lower()  # asyncio's own text names the address once more
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or type(cause).__name__
    return text.splitlines()[0]


def refusal(response: httpx.Response) -> ServiceError:
    """What the service said where it did not do what it was asked; the body must have been read."""
    message, reason = f"the service answered {response.status_code} {response.reason_phrase}".strip(), ""
    try:
        error = response.json()["error"]
        message, reason = str(error["message"]), str(error["code"])
    except (ValueError, KeyError, TypeError):
        pass  # not the service's own answer (a proxy's, say): the status has to do
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message += " (pass the service's token: Client(url, token=...))"
    retry_after = response.headers.get("Retry-After", "")
    seconds = float(retry_after) if retry_after.isdigit() else None
    if seconds is not None:
        message += f" (retry after {seconds:g} s)"
    return ServiceError(message, response.status_code, seconds, reason)
