"""A stream that is open: frames go out by themselves, results come back, parameters change while it runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Self

import numpy as np
from aiortc import MediaStreamTrack
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from streamgen.client.api import Answer, Api
from streamgen.client.control import Control
from streamgen.client.events import Closing, Event, StateChanged, Stats
from streamgen.client.mailbox import Mailbox
from streamgen.client.peer import Peer
from streamgen.client.sources import Pixels, Source, SourceTrack
from streamgen.errors import ConnectError, ServiceError, StreamgenError

logger = logging.getLogger(__name__)

EVENTS_KEPT = 64


@dataclass(frozen=True, slots=True)
class Frame:
    """One result."""

    pixels: Pixels
    """(H, W, 3) RGB, uint8."""
    pts: int
    """Media timestamp in units of `time_base`, from 0 at the first frame received."""
    time_base: Fraction
    """Seconds."""
    received: float
    """When it had been decoded, on `time.monotonic` (s)."""

    @property
    def media_time(self) -> float:
        """Media timestamp in seconds."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class Options:
    """How a client treats its session; nothing of this is the service's business."""

    buffer: int = 1
    """Results kept for a reader that is slow; the newest win."""
    tail_s: float = 2.0
    """`frames` ends when the source has ended and no result came for this long."""
    connect_timeout_s: float = 15.0
    update_timeout_s: float = 15.0
    ice_servers: Sequence[str] = ()
    on_event: Callable[[Event], None] | None = None


class Session:
    """Made by `Client.open`; use it as a context manager or call `close`.

    Results are taken off the connection at once, always: who reads `frames` slowly gets the newest, never a backlog.

        connecting -> open --------------> closed
                        |  source ends: frames() ends after the tail
                        |  service or network ends it: frames() raises
    """

    def __init__(
        self, api: Api, peer: Peer, source: Source, track: SourceTrack, answer: Answer, options: Options
    ) -> None:
        self.id = answer.id
        self.params: dict[str, object] = dict(answer.params)
        self.frame_size = answer.frame_size
        self.state = answer.state
        self.stats: Stats | None = None
        self.received = 0
        self._api = api
        self._peer = peer
        self._source = source
        self._track = track
        self._options = options
        self._control = Control(peer.channel, self._take_event, self._take_stats)
        self._results: Mailbox[tuple[VideoFrame, float]] = Mailbox(options.buffer)
        self._events: Mailbox[Event] = Mailbox(EVENTS_KEPT)
        self._reformatter = VideoReformatter()  # kept: building one for every frame costs five times the conversion
        self._error: StreamgenError | Exception | None = None
        self._tail: asyncio.TimerHandle | None = None
        self._drain: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, api: Api, source: Source, params: Mapping[str, object], options: Options) -> Session:
        """An open session. Raises ConnectError, ServiceError; `source` is closed then."""
        track = SourceTrack(source)
        peer = Peer(track, options.ice_servers, loopback=api.on_loopback)
        answer: Answer | None = None
        try:
            answer = await api.create(await peer.offer(), params)
            session = cls(api, peer, source, track, answer, options)
            await session._start(answer.sdp)
        except BaseException:
            await _release(api, peer, source, answer.id if answer else None)
            raise
        return session

    async def _start(self, sdp: str) -> None:
        results = await self._peer.accept(sdp)
        self._drain = asyncio.create_task(self._take_results(results), name=f"streamgen results {self.id}")
        try:
            await self._peer.connected(self._options.connect_timeout_s)
        except BaseException:
            self._drain.cancel()
            await asyncio.wait([self._drain])
            raise
        self._track.on("ended", self._source_ended)
        if self._track.readyState == "ended":
            self._source_ended()
        self._peer.watch(self._end)

    @property
    def sent(self) -> int:
        """Frames handed to the encoder."""
        return self._track.sent

    @property
    def skipped(self) -> int:
        """Results that came while the reader of `frames` was busy, and that newer ones have replaced."""
        return self._results.skipped

    @property
    def closed(self) -> bool:
        """Whether the session has ended, or is ending, for whatever reason."""
        return self._closing is not None

    async def frames(self) -> AsyncIterator[Frame]:
        """Results as they come, until the session is closed or the source has ended.

        Raises ServiceError where the service ended the session (with its reason), ConnectError where the connection
        was lost, and whatever the source raised.
        """
        while (item := await self._results.take()) is not None:
            picture, received = item
            yield Frame(self._pixels(picture), picture.pts or 0, picture.time_base or VIDEO_TIME_BASE, received)
        if self._error is not None:
            raise self._error

    async def events(self) -> AsyncIterator[Event]:
        """What the service says about the session, from its start until it is closed; the last 64 are kept."""
        while (event := await self._events.take()) is not None:
            yield event

    async def update(self, **params: object) -> int:
        """Changes parameters without a cut; the id of the frame from which they hold.

        Raises ServiceError with the service's message where it refuses them, ConnectError where no answer comes.
        """
        frame = await self._control.update(params, self._options.update_timeout_s)
        self.params |= params
        return frame

    async def pause(self) -> None:
        """The service takes no frames until `resume`. Raises ConnectError on a closed session."""
        self._control.send("pause")

    async def resume(self) -> None:
        """Goes on after `pause`. Raises ConnectError on a closed session."""
        self._control.send("resume")

    async def reset(self) -> None:
        """Forgets the stream's past; parameters stay. Raises ConnectError on a closed session."""
        self._control.send("reset")

    async def fetch_stats(self) -> Stats:
        """Statistics up to now, by HTTP. Raises ConnectError, ServiceError."""
        self.stats = await self._api.stats(self.id)
        return self.stats

    async def close(self) -> None:
        """Ends the session and gives everything back; may be called more than once."""
        self._end(None)
        if self._closing is not None:
            await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _take_results(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                picture = await track.recv()
            except MediaStreamError:
                return
            if isinstance(picture, VideoFrame):
                self.received += 1
                self._results.put((picture, time.monotonic()))
                if self._tail is not None:
                    self._source_ended()

    def _pixels(self, picture: VideoFrame) -> Pixels:
        pixels = self._reformatter.reformat(picture, format="rgb24").to_ndarray()
        return np.asarray(pixels, dtype=np.uint8)

    def _take_event(self, event: Event) -> None:
        match event:
            case StateChanged(state):
                self.state = state
            case Closing(reason):
                self._end(ServiceError(f"the service closed the session: {reason}", reason="closing"))
        self._events.put(event)
        if self._options.on_event is not None:
            try:
                self._options.on_event(event)
            except Exception:  # the user's code; the session goes on
                logger.exception("on_event failed at %r", event)

    def _take_stats(self, stats: Stats) -> None:
        self.stats = stats

    def _source_ended(self) -> None:
        """The source gave its last frame: `frames` ends when results have stopped coming."""
        if self._track.error is not None:
            self._end(self._track.error)
            return
        if self._tail is not None:
            self._tail.cancel()
        self._tail = asyncio.get_running_loop().call_later(self._options.tail_s, self._results.close)

    def _end(self, error: Exception | None) -> None:
        """Starts the end, once; the first reason stays."""
        if self._closing is not None:
            return
        self._error = error
        gone = isinstance(error, ConnectError | ServiceError)
        self._control.fail(error if isinstance(error, StreamgenError) else ConnectError("the session was closed"))
        if self._tail is not None:
            self._tail.cancel()
        self.state = "closed"
        self._closing = asyncio.create_task(self._close(known_to_service=not gone), name=f"streamgen close {self.id}")

    async def _close(self, known_to_service: bool) -> None:
        await _release(self._api, self._peer, self._source, self.id if known_to_service else None)
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        self._results.close()
        self._events.close()


async def _release(api: Api, peer: Peer, source: Source, session: str | None) -> None:
    """Tells the service (where `session` is an id), ends the connection, closes the source."""
    try:
        if session is not None:
            await api.delete(session)
    except (ConnectError, ServiceError) as error:
        logger.debug("session %s could not be ended by request: %s", session, error)
    finally:
        await peer.close()
        await source.close()
