"""A stream that is open: frames go out by themselves, results come back, parameters change while it runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from aiortc import RTCPeerConnection

from streamgen.client.api import Answer, Api
from streamgen.client.control import Control
from streamgen.client.events import Closing, Event, Moved, Moving, Quality, Queue, StateChanged, Stats
from streamgen.client.mailbox import Mailbox
from streamgen.client.options import Options
from streamgen.client.patience import Patience
from streamgen.client.peer import Peer
from streamgen.client.results import Frame, Results
from streamgen.client.sources import Source, SourceTrack
from streamgen.errors import ConnectError, ServiceError, StreamgenError

logger = logging.getLogger(__name__)

EVENTS_KEPT = 64

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 2.0
"""Between attempts to connect again."""

FINAL = frozenset({400, 401, 403, 413, 415, 422})
"""Answers to an offer that asking again does not change."""

NOT_ADMITTED = frozenset({"connecting", "queued", "reconnecting"})
"""States in which the session may still have a place in the queue."""


class Session:
    """Made by `Client.open`; use it as a context manager or call `close`.

    Results are taken off the connection at once, always: who reads `frames` slowly gets the newest, never a backlog.

        connecting -> open <-> reconnecting      any of them -> closed
                        |  no room yet: queue_position tells how many come first
                        |  source ends: frames() ends after the tail
                        |  service ends it, or the network for too long: frames() raises

    A session that is lost with the machine that had it, or is asked to leave it, is opened anew with its parameters, at
    the address at which it was opened first: then it has another id, and the event Moved says so.
    """

    def __init__(
        self,
        api: Api,
        peer: Peer,
        source: Source,
        track: SourceTrack,
        params: Mapping[str, object],
        answer: Answer,
        options: Options,
    ) -> None:
        self.id = answer.id
        """On the service."""
        self.params: dict[str, object] = dict(answer.params)
        """As the service confirmed them. Of width and height only those that were asked for are sure to stay."""
        self.state = answer.state
        track.hold(answer.state == "queued")  # its frames would be dropped
        self.stats: Stats | None = None
        self.quality: Quality | None = None
        """What the service said last about how the session runs; None while it has said nothing."""
        self.queue_position: int | None = None
        """Place in the queue, 1 is the next; None once the session was admitted, or before the service tells."""
        self._asked = dict(params)
        """At first or by updates: what another session is asked for, and no more."""
        self._paused = False
        self._elsewhere = False
        """Whether it is to leave the service that has it, as that wants."""
        self._api = api
        self._peer = peer
        self._source = source
        self._track = track
        self._options = options
        self._control = Control(peer.channel, self._take_event, self._take_stats)
        self._results = Results(answer.frame_size, options.buffer, options.tail_s)
        self._events: Mailbox[Event] = Mailbox(EVENTS_KEPT)
        self._error: StreamgenError | Exception | None = None
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
            session = cls(api, peer, source, track, params, answer, options)
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
        self._results.take(await peer.accept(sdp))
        try:
            await peer.connected(self._options.connect_timeout_s)
        except BaseException:
            await self._results.leave()
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
    def received(self) -> int:
        """Results that came."""
        return self._results.received

    @property
    def frame_size(self) -> tuple[int, int]:
        """(width, height) of the newest result in pixels. It follows the shape of the source where width or height was
        not asked for, so that it may change with the first frame and when a camera is turned."""
        return self._results.frame_size

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
        async for frame in self._results.frames():
            yield frame
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
        self._asked |= params
        self.params |= params
        return frame

    async def pause(self) -> None:
        """The service takes no frames until `resume`. Raises ConnectError on a closed session."""
        self._control.send("pause")
        self._paused = True

    async def resume(self) -> None:
        """Goes on after `pause`. Raises ConnectError on a closed session."""
        self._control.send("resume")
        self._paused = False

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

    def _take_event(self, event: Event) -> None:
        if self._elsewhere and isinstance(event, Closing):
            return  # it is being left anyway
        match event:
            case StateChanged(state):
                self._enter(state)
            case Queue(position):
                self.queue_position = position
            case Quality():
                self.quality = event
            case Moving(reason):
                self._move(reason)
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
        self._results.end_soon()

    def _lost(self, error: ConnectError) -> None:
        """The connection is gone without a word: another is made, for as long as the options say."""
        if self._closing is not None or self._reconnecting is not None:
            return
        if self._options.reconnect_s <= 0:
            self._end(error)
            return
        self._begin_reconnect(error.message, error)

    def _move(self, reason: str) -> None:
        """The service wants to be rid of the session: another takes its place, for which this one stays until then."""
        if self._closing is None and self._reconnecting is None and self._options.reconnect_s > 0:
            self._elsewhere = True
            words = f"the service could not keep the session ({reason}), and none took it"
            self._begin_reconnect(reason, ServiceError(words, reason="moving"))

    def _begin_reconnect(self, why: str, otherwise: StreamgenError) -> None:
        self.state = "reconnecting"
        self._events.put(StateChanged(self.state))
        self._control.hold()
        self._reconnecting = asyncio.create_task(self._reconnect(why, otherwise), name=f"streamgen reconnect {self.id}")

    async def _reconnect(self, why: str, otherwise: StreamgenError) -> None:
        """Until there is a connection again; `otherwise` is the error where none comes about in time."""
        loop = asyncio.get_running_loop()
        deadline, wait = loop.time() + self._options.reconnect_s, FIRST_WAIT_S
        while not await self._connected_again(why):
            if loop.time() + wait > deadline:
                self._end(otherwise)
                return
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_S)
        self._reconnecting = None

    async def _connected_again(self, why: str) -> bool:
        """One attempt; False where another is worth it."""
        if not self._elsewhere:
            await self._disconnect()
        peer = _peer(self._api, self._track, self._options)
        try:
            answer = await self._ask_again(await peer.offer())
        except (ConnectError, ServiceError) as error:
            await _to_the_end(peer.close())
            return self._gives_up(error)
        except BaseException:
            await _to_the_end(peer.close())
            raise
        before, self._peer = self._peer, peer
        try:
            await self._disconnect(before)
            self._take_up(answer, why)
            await self._connect(peer, answer.sdp)
            self._control.go_on()
            if self._paused:
                self._control.send("pause")
        except ConnectError:
            return False
        return True

    async def _ask_again(self, sdp: str) -> Answer:
        """For the session that was, or another in its place. Raises ConnectError, ServiceError."""
        if not self._elsewhere:
            try:
                return await self._api.resume(self.id, sdp)
            except ServiceError as refused:
                if refused.status != httpx.codes.NOT_FOUND:
                    raise
        return await self._api.create(sdp, self._asked)

    def _gives_up(self, error: ConnectError | ServiceError) -> bool:
        """Whether no further attempt can help: the service refuses, and not for want of room."""
        final = isinstance(error, ServiceError) and (error.status or 0) in FINAL
        if final:
            self._end(error)
        return final

    def _take_up(self, answer: Answer, why: str) -> None:
        """The session that goes on from now: the one of before, or another."""
        moved, self.id, self._elsewhere = answer.id != self.id, answer.id, False
        self._control.use(self._peer.channel)
        if moved:
            self.params, self.stats, self.quality = dict(answer.params), None, None
            self._take_event(Moved(why))
        self._enter(answer.state)

    async def _disconnect(self, peer: Peer | None = None) -> None:
        """Ends a connection, and takes its last results."""
        await _to_the_end((peer or self._peer).close())
        await self._results.all_taken()

    def _end(self, error: Exception | None) -> None:
        """Starts the end, once; the first reason stays."""
        if self._closing is not None:
            return
        self._error = error
        gone = isinstance(error, ConnectError | ServiceError)
        self._control.fail(error if isinstance(error, StreamgenError) else ConnectError("the session was closed"))
        self._results.forget_the_end()
        self._enter("closed")
        self._closing = asyncio.create_task(self._close(known_to_service=not gone), name=f"streamgen close {self.id}")

    async def _close(self, known_to_service: bool) -> None:
        if self._reconnecting is not None and self._reconnecting is not asyncio.current_task():
            self._reconnecting.cancel()
            await asyncio.wait([self._reconnecting])
        await _release(self._api, self._peer, self.id if known_to_service else None)
        await _give_back(self._track, self._source)
        await self._results.leave()
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
