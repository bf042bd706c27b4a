"""The way of a client's frames into its session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fractions import Fraction

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from streamgen.core import Clock, Frame
from streamgen.rtc.pacing import Decimator
from streamgen.rtc.scaling import Scaler
from streamgen.session import Session

VIDEO_TIME_BASE = Fraction(1, 90000)
"""Of RTP video timestamps."""


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """A frame as it came, with the identity that it keeps."""

    id: int
    arrived: float
    """Seconds on the session's clock."""
    pts: int
    time_base: Fraction
    picture: av.VideoFrame


class Intake:
    """Drains the client's track at once, whatever happens behind: aiortc's own queue of decoded frames has no bound.

        track -> rate -> [ newest ] -> scale (in a thread) -> session

    At most one frame waits to be scaled; a newer one displaces it.
    """

    def __init__(self, track: MediaStreamTrack, session: Session, clock: Clock) -> None:
        self._track = track
        self._session = session
        self._clock = clock
        self._decimator = Decimator()
        self._scaler = Scaler()
        self._newest: Arrival | None = None
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Until the track ends, or until cancelled."""
        tasks = [asyncio.create_task(work, name="intake") for work in (self._drain(), self._scale_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._newest is not None:
                self._session.give_up("closed")

    async def _drain(self) -> None:
        recv: Callable[[], Awaitable[object]] = self._track.recv
        while True:
            try:
                picture = await recv()
            except MediaStreamError:
                return
            if isinstance(picture, av.VideoFrame):
                self._sort(self._arrival(picture))

    def _arrival(self, picture: av.VideoFrame) -> Arrival:
        arrived = self._clock.now()
        frame_id = self._session.came_in()
        if picture.pts is None or not picture.time_base:
            return Arrival(frame_id, arrived, round(arrived / VIDEO_TIME_BASE), VIDEO_TIME_BASE, picture)
        return Arrival(frame_id, arrived, picture.pts, Fraction(picture.time_base), picture)

    def _sort(self, arrival: Arrival) -> None:
        if self._session.state == "paused":
            self._session.give_up("paused")
        elif self._session.state == "queued":
            self._session.give_up("queued")
        elif not self._decimator.take(float(arrival.pts * arrival.time_base), self._session.running.fps):
            self._session.give_up("rate")
        else:
            if self._newest is not None:
                self._session.give_up("burst")
            self._newest = arrival
            self._news.set()

    async def _scale_all(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            arrival, self._newest = self._newest, None
            if arrival is None:
                continue
            try:
                frame = await self._scaled(arrival)
            except av.FFmpegError:
                self._session.give_up("error")
                continue
            except BaseException as error:
                self._session.give_up("closed" if isinstance(error, asyncio.CancelledError) else "error")
                raise
            self._session.put(frame)

    async def _scaled(self, arrival: Arrival) -> Frame:
        picture = arrival.picture
        self._session.source_is((picture.width, picture.height))
        params = self._session.running
        sizes = params.width, params.height, params.fit == "contain"
        pixels = await asyncio.get_running_loop().run_in_executor(None, self._scaler, picture, *sizes)
        deadline = arrival.arrived + params.slo_ms / 1000
        return Frame(arrival.id, arrival.pts, arrival.time_base, arrival.arrived, deadline, pixels)
