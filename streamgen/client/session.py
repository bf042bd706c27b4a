"""A stream that is open: frames go out by themselves, results come back, parameters change while it runs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Any, Self

import httpx
from aiortc import MediaStreamTrack, RTCPeerConnection
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError
from av.video.frame import VideoFrame

from streamgen.client.api import Answer, Api
from streamgen.client.control import Control
from streamgen.client.events import Closing, Event, Quality, Queue, StateChanged, Stats
from streamgen.client.mailbox import Mailbox
from streamgen.client.patience import Patience
from streamgen.client.peer import Peer
from streamgen.client.sources import Pixels, Source, SourceTrack
from streamgen.colours import ToRgb
from streamgen.errors import ConnectError, ServiceError, StreamgenError

logger = logging.getLogger(__name__)

EVENTS_KEPT = 64

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 2.0
"""Between attempts to connect again."""

NOT_ADMITTED = frozenset({"connecting", "queued", "reconnecting"})
"""States in which the session may still have a place in the queue."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One result."""

    pixels: Pixels
    """(H, W, 3) RGB, uint8, as it came: under load the service may make its pictures smaller, and larger again."""
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
    """Until the media connection is up, in each attempt. A session that waits for room has one: it may wait for long.
    """
    patience_s: float = 0.0
    """How long to ask again where the service refuses for want of room."""
    chance: Callable[[], float] = random.random
    """Numbers in 0..1 that spread out when to ask again."""
    update_timeout_s: float = 15.0
    reconnect_s: float = 20.0
    """How long a lost connection is tried to be made anew before the session counts as lost; 0 for not at all."""
    ice_servers: Sequence[str] = ()
    codec: str = ""
    """The only one to be offered; all where empty."""
    on_event: Callable[[Event], None] | None = None


class Session:
    """Made by `Client.open`; use it as a context manager or call `close`.

    Results are taken off the connection at once, always: who reads `frames` slowly gets the newest, never a backlog.

        connecting -> open <-> reconnecting      any of them -> closed
                        |  no room yet: queue_position tells how many come first
                        |  source ends: frames() ends after the tail
                        |  service ends it, or the network for too long: frames() raises
    """

    def __init__(
        self, api: Api, peer: Peer, source: Source, track: SourceTrack, answer: Answer, options: Options
    ) -> None:
        self.id = answer.id
        self.params: dict[str, object] = dict(answer.params)
        """As the service confirmed them. Of width and height only those that were asked for are sure to stay."""
        self.frame_size = answer.frame_size
        """(width, height) of the newest result in pixels. It follows the shape of the source where width or height was
        not asked for, so that it may change with the first frame and when a camera is turned."""
        self.state = answer.state
        track.hold(answer.state == "queued")  # its frames would be dropped
        self.stats: Stats | None = None
        self.quality: Quality | None = None
        """What the service said last about how the session runs; None while it has said nothing."""
        self.queue_position: int | None = None
        """Place in the queue, 1 is the next; None once the session was admitted, or before the service tells."""
        self.received = 0
        self._api = api
        self._peer = peer
        self._source = source
        self._track = track
        self._options = options
        self._control = Control(peer.channel, self._take_event, self._take_stats)
        self._results: Mailbox[tuple[VideoFrame, float]] = Mailbox(options.buffer)
        self._events: Mailbox[Event] = Mailbox(EVENTS_KEPT)
        self._to_rgb = ToRgb()
        self._error: StreamgenError | Exception | None = None
        self._tail: asyncio.TimerHandle | None = None
        self._drain: asyncio.Task[None] | None = None
        self._reconnecting: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, api: Api, source: Source, params: Mapping[str, object], options: Options) -> Session:
        """An open session. Raises ConnectError, ServiceError; `source` is closed then."""
        loop = asyncio.get_running_loop()
        patience = Patience(options.patience_s, loop.time(), options.chance)
        track = SourceTrack(source)
        try:
            while True:
                try:
                    return await cls._attempt(api, source, track, params, options)
                except ServiceError as refusal:
                    wait_s = patience.wait_s(refusal, loop.time())
                    if wait_s is None:
                        raise
                await asyncio.sleep(wait_s)
        except BaseException:
            await _give_back(track, source)
            raise

    @classmethod
    async def _attempt(
        cls, api: Api, source: Source, track: SourceTrack, params: Mapping[str, object], options: Options
    ) -> Session:
        """Over a connection of its own: addresses of an offer that was refused grow stale while one waits."""
        peer = _peer(api, track, options)
        answer: Answer | None = None
        try:
            answer = await api.create(await peer.offer(), params)
            session = cls(api, peer, source, track, answer, options)
            await session._start(answer.sdp)
        except BaseException:
            await _to_the_end(_release(api, peer, answer.id if answer else None))
            raise
        return session

    async def _start(self, sdp: str) -> None:
        await self._connect(self._peer, sdp)
        self._track.on("ended", self._source_ended)
        if self._track.readyState == "ended":
            self._source_ended()

    async def _connect(self, peer: Peer, sdp: str) -> None:
        """Takes the answer, and waits until the connection is up. Raises ConnectError; then only `peer` is left."""
        results = await peer.accept(sdp)
        self._drain = asyncio.create_task(self._take_results(results), name=f"streamgen results {self.id}")
        try:
            await peer.connected(self._options.connect_timeout_s)
        except BaseException:
            self._drain.cancel()
            await asyncio.wait([self._drain])
            raise
        peer.watch(self._lost)

    @property
    def sent(self) -> int:
        """Frames handed to the encoder."""
        return self._track.sent

    @property
    def rtc(self) -> RTCPeerConnection:
        """The connection in use, for its statistics; another after a reconnect."""
        return self._peer.rtc

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
            yield Frame(self._to_rgb(picture), picture.pts or 0, picture.time_base or VIDEO_TIME_BASE, received)
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
                self.frame_size = picture.width, picture.height
                self._results.put((picture, time.monotonic()))
                if self._tail is not None:
                    self._source_ended()

    def _take_event(self, event: Event) -> None:
        match event:
            case StateChanged(state):
                self._enter(state)
            case Queue(position):
                self.queue_position = position
            case Quality():
                self.quality = event
            case Closing(reason):
                self._end(ServiceError(f"the service closed the session: {reason}", reason="closing"))
        self._events.put(event)
        if self._options.on_event is not None:
            try:
                self._options.on_event(event)
            except Exception:  # the user's code; the session goes on
                logger.exception("on_event failed at %r", event)

    def _enter(self, state: str) -> None:
        self.state = state
        self._track.hold(state == "queued")
        if state not in NOT_ADMITTED:
            self.queue_position = None

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

    def _lost(self, error: ConnectError) -> None:
        """The connection is gone without a word: another is made, for as long as the options say."""
        if self._closing is not None or self._reconnecting is not None:
            return
        if self._options.reconnect_s <= 0:
            self._end(error)
            return
        self.state = "reconnecting"
        self._events.put(StateChanged(self.state))
        self._reconnecting = asyncio.create_task(self._reconnect(error), name=f"streamgen reconnect {self.id}")

    async def _reconnect(self, lost: ConnectError) -> None:
        loop = asyncio.get_running_loop()
        deadline, wait = loop.time() + self._options.reconnect_s, FIRST_WAIT_S
        while not await self._connected_again():
            if loop.time() + wait > deadline:
                self._end(lost)
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        self._reconnecting = None

    async def _connected_again(self) -> bool:
        """One attempt; False where another is worth it."""
        await self._peer.close()
        if self._drain is not None:
            await asyncio.wait([self._drain])
        peer = self._peer = _peer(self._api, self._track, self._options)
        try:
            answer = await self._api.resume(self.id, await peer.offer())
            self._control.use(peer.channel)
            self._enter(answer.state)
            await self._connect(peer, answer.sdp)
        except ServiceError as refused:
            if refused.status == httpx.codes.NOT_FOUND:
                self._end(ConnectError("the connection was lost, and the service has closed the session meanwhile"))
                return True
            return False
        except ConnectError:
            return False
        return True

    def _end(self, error: Exception | None) -> None:
        """Starts the end, once; the first reason stays."""
        if self._closing is not None:
            return
        self._error = error
        gone = isinstance(error, ConnectError | ServiceError)
        self._control.fail(error if isinstance(error, StreamgenError) else ConnectError("the session was closed"))
        if self._tail is not None:
            self._tail.cancel()
        self._enter("closed")
        self._closing = asyncio.create_task(self._close(known_to_service=not gone), name=f"streamgen close {self.id}")

    async def _close(self, known_to_service: bool) -> None:
        if self._reconnecting is not None and self._reconnecting is not asyncio.current_task():
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        await _release(self._api, self._peer, self.id if known_to_service else None)
        await _give_back(self._track, self._source)
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])
        self._results.close()
        self._events.close()


def _peer(api: Api, track: SourceTrack, options: Options) -> Peer:
    return Peer(track.lend(), options.ice_servers, options.codec, loopback=api.on_loopback)


async def _release(api: Api, peer: Peer, session: str | None) -> None:
    """Tells the service (where `session` is an id), and ends the connection."""
    try:
        if session is not None:
            await api.delete(session)
    except (ConnectError, ServiceError) as error:
        logger.debug("session %s could not be ended by request: %s", session, error)
    finally:
        await peer.close()


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`, which is done to its end even where the waiting is cancelled."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _give_back(track: SourceTrack, source: Source) -> None:
    await track.forget()
    await source.close()
