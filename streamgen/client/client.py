"""The way in: a service, and the streams that are opened on it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import httpx

from streamgen.client.api import Api
from streamgen.client.events import Event
from streamgen.client.options import Options
from streamgen.client.session import Session
from streamgen.client.sources import SourceLike, open_source

DEFAULT_FPS = 16.0


class Client:
    """A streamgen service at `url`.

        async with Client("http://127.0.0.1:8000") as client:
            session = await client.open("cat.mp4", prompt="a pencil drawing", looped=True)
            async for frame in session.frames():
                show(frame.pixels)

    `token` is the service's bearer token where it asks for one; `ice_servers` are STUN or TURN URLs for networks that
    need them; `timeout_s` bounds every HTTP request; `transport` replaces HTTP in tests, and `chance` the random
    numbers in 0..1 that spread out when to ask again. Raises ConnectError where `url` is no http or https address.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        ice_servers: Sequence[str] = (),
        timeout_s: float = 15.0,
        transport: httpx.AsyncBaseTransport | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api = Api(url, token, timeout_s, transport)
        self._ice_servers = tuple(ice_servers)
        self._chance = chance
        self._sessions: set[Session] = set()

    async def open(
        self,
        source: SourceLike,
        *,
        fps: float | None = None,
        looped: bool = False,
        buffer: int = 1,
        tail_s: float = 2.0,
        connect_timeout_s: float = 15.0,
        reconnect_s: float = 20.0,
        patience_s: float = 0.0,
        codec: str = "",
        on_event: Callable[[Event], None] | None = None,
        **params: object,
    ) -> Session:
        """A session that streams `source` through the service, up and running.

        source: path or URL of a video (again and again where `looped`), an iterable or async iterable of uint8 arrays
            (H, W, 3) in RGB, asked for at `fps` (16 where not given), or a video track of aiortc.
        buffer: results kept for a slow reader; the newest win.
        tail_s: `frames` ends when the source has ended and no result came for this long.
        reconnect_s: a lost connection is tried to be made anew for this long; the session goes on where it was.
        patience_s: a service that has no room (503) is asked again for this long, whenever its Retry-After says, and
            once more at the end. One that has room in its queue takes the session at once: then `queue_position` tells
            its place, and what the source gives meanwhile is dropped.
        codec: "h264" or "vp8" where only that is to be used.
        params: of the session: prompt, negative_prompt, steps, noise, seed, width, height, fit, slo_ms, late, vae,
            keep, priority, max_kbps, stamp. Without width and height the results have the shape of the source; with one
            of them the other follows. Where both are given, fit says whether the source covers them ("cover") or stays
            whole ("contain"). keep names what may not be lowered under load, as "steps,size" (of steps, fps, size,
            vae); priority "batch" has no deadlines and fills what is idle.

        Raises MediaFileError for a file that is no video, ServiceError where the service refuses, ConnectError where
        it cannot be reached or the media connection does not come up.
        """
        if fps is not None:
            params["fps"] = fps
        options = Options(
            buffer=buffer,
            tail_s=tail_s,
            connect_timeout_s=connect_timeout_s,
            reconnect_s=reconnect_s,
            patience_s=patience_s,
            chance=self._chance,
            codec=codec,
            ice_servers=self._ice_servers,
            on_event=on_event,
        )
        opened = await open_source(source, fps or DEFAULT_FPS, looped)
        session = await Session.connect(self._api, opened, params, options)
        self._sessions = {known for known in self._sessions if not known.closed} | {session}
        return session

    async def close(self) -> None:
        """Ends every session, then the HTTP connections; may be called more than once."""
        while self._sessions:
            await self._sessions.pop().close()
        await self._api.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
