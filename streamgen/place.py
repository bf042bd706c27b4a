"""What one session takes of the service: its stream, its client's connection, and those who watch."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from streamgen.core import Clock
from streamgen.errors import BusyError, NotLiveError, SessionNotFoundError
from streamgen.rtc.broadcast import Broadcast
from streamgen.rtc.connection import Connection
from streamgen.rtc.control import Outgoing
from streamgen.rtc.offer import Offer
from streamgen.rtc.peer import Peer
from streamgen.rtc.sound import Sound
from streamgen.rtc.viewer import Viewer
from streamgen.session import Session
from streamgen.wire import Closing, Moving

logger = logging.getLogger(__name__)

RETRY_NOT_LIVE_S = 2
RETRY_CROWDED_S = 10

MOVE_S = 10.0
"""A client that was asked to go elsewhere, and is still here after this time, is closed (s)."""


class Terms(Protocol):
    """What a place grants."""

    @property
    def idle_timeout_s(self) -> float:
        """A client that sends no frame for this long, and has not paused, is taken for gone."""
        ...

    @property
    def grace_s(self) -> float:
        """A client whose connection was lost may come back for this long."""
        ...

    @property
    def max_viewers(self) -> int:
        """Who may watch at once, beside the client itself."""
        ...

    def new_id(self) -> str:
        """An id that nobody can guess."""
        ...


class Place:
    """Holds a session from its first offer to its end, which `run` brings about: nothing is left after it.

    offered -> [ connected <-> away, for at most the grace time ] -> ended
    """

    def __init__(
        self, session: Session, outgoing: Outgoing, clock: Clock, connect: Callable[[], Connection], terms: Terms
    ) -> None:
        """`connect` makes a connection that is to be negotiated."""
        self.session = session
        self.stream = terms.new_id()
        """What it can be watched under, by whoever was told."""
        self.viewers: dict[str, Viewer] = {}
        self._outgoing = outgoing
        self._clock = clock
        self._connect = connect
        self._terms = terms
        self._broadcast = Broadcast(session, clock)
        self._sound = Sound(lambda: self._broadcast.delay, clock)
        self._peer: Peer | None = None
        self._replaced = asyncio.Event()
        self._answering = 0
        self._leaving: asyncio.TimerHandle | None = None
        """Once its client was asked to go elsewhere."""
        self._viewing: set[asyncio.Task[None]] = set()

    @property
    def awaited(self) -> bool:
        """Whether its client is away, and has not begun to come back."""
        return self.session.state == "away" and self.connection.gone.is_set()

    @property
    def connection(self) -> Connection:
        """The client's."""
        assert self._peer is not None, "a place is used once its client's first offer is answered"
        return self._peer.connection

    async def answer(self, offer: Offer) -> str:
        """The answer to the client's offer: its first, or one with which it comes back.

        Raises OfferError, and SessionNotFoundError where the session has ended.

        A connection that it had before is closed once the new one is answered.
        """
        self._check_open()
        peer = Peer(
            self.session,
            self._broadcast,
            self._sound,
            self._outgoing,
            self._connect(),
            self._clock,
            idle_timeout_s=self._terms.idle_timeout_s,
        )
        sdp = await peer.answer(offer)
        if self.session.ended.is_set():  # meanwhile: `run` knows nothing of this peer
            await peer.connection.close()
            raise SessionNotFoundError("the session has ended")
        before, self._peer = self._peer, peer
        if before is not None:
            self._outgoing.hold()
            self.session.disconnected()
            self._replaced.set()
            await before.connection.close()
        return sdp

    async def watch(self, offer: Offer) -> tuple[str, Viewer, str]:
        """A new viewer's id, itself, and the answer to its offer. Raises OfferError, NotLiveError, BusyError."""
        self._check_open()
        if not self._broadcast.shown:
            raise NotLiveError("this session has no picture yet, or none at the moment", RETRY_NOT_LIVE_S)
        if len(self.viewers) + self._answering >= self._terms.max_viewers:
            raise BusyError(f"{self._terms.max_viewers} watch this session already", RETRY_CROWDED_S)
        viewer = Viewer(self._broadcast, self._sound, self._connect())
        self._answering += 1
        try:
            sdp = await viewer.answer(offer)
        finally:
            self._answering -= 1
        if self.session.ended.is_set():  # meanwhile, as above
            await viewer.connection.close()
            raise SessionNotFoundError("the session has ended")
        viewer_id = self._terms.new_id()
        task = asyncio.create_task(self._serve(viewer_id, viewer), name="viewer")
        self._viewing.add(task)
        task.add_done_callback(self._viewing.discard)
        self.viewers[viewer_id] = viewer
        return viewer_id, viewer, sdp

    def stop_watching(self, viewer_id: str) -> None:
        """The viewer is gone from now on; its connection is closed soon."""
        self.viewers.pop(viewer_id).connection.end("the viewer left")

    @property
    def moving(self) -> bool:
        """Whether its client was asked to go elsewhere."""
        return self._leaving is not None

    def move(self, reason: str) -> None:
        """Its client is asked to open its session elsewhere. One that cannot be asked is closed, to come by itself."""
        if self.moving:
            return
        loop = asyncio.get_running_loop()
        self._leaving = loop.call_later(MOVE_S, self.session.end, reason)
        if self._outgoing.is_open:
            self._outgoing(Moving(reason))
        else:
            self.session.end(reason)

    async def run(self) -> None:
        """Until the session has ended. Frees everything."""
        session = self.session
        broadcast = asyncio.create_task(self._broadcast.run(), name="broadcast")
        broadcast.add_done_callback(self._broadcast_done)
        try:
            while not session.ended.is_set():
                await self._until_something_changes()
            self._outgoing(Closing(session.end_reason))
        finally:
            for viewer in self.viewers.values():
                viewer.connection.end("the session has ended")
            if self._leaving is not None:
                self._leaving.cancel()
            try:
                if self._peer is not None:
                    await self._peer.close()
            finally:
                session.close()
                await asyncio.gather(broadcast, *self._viewing, return_exceptions=True)

    async def _until_something_changes(self) -> None:
        peer = self._peer
        assert peer is not None, "a place runs once its client's first offer is answered"
        self._replaced.clear()
        await first_of(self.session.ended.wait(), peer.connection.gone.wait(), self._replaced.wait())
        if self._peer is not peer or not peer.connection.gone.is_set():
            return
        if not peer.connection.lost and self.session.state != "away":
            self.session.end(peer.connection.reason)
            return
        self.session.disconnected()
        self._outgoing.hold()
        await peer.connection.close()
        waits = self.session.ended.wait(), self._replaced.wait()
        if not await first_of(*waits, timeout_s=self._terms.grace_s):
            self.session.end("the connection was lost, and the client did not come back")

    def _check_open(self) -> None:
        if self.session.ended.is_set():
            raise SessionNotFoundError("the session has ended")

    async def _serve(self, viewer_id: str, viewer: Viewer) -> None:
        try:
            await viewer.run()
        finally:
            self.viewers.pop(viewer_id, None)

    def _broadcast_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the broadcast failed", exc_info=error)  # our own bug: it costs this session only
            self.session.end("internal error")


async def first_of(*waits: Coroutine[Any, Any, object], timeout_s: float | None = None) -> bool:
    """Waits for the first to end, and cancels the others; False where none did in time."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for task in tasks:
            task.cancel()
