"""The track on which a session's results go back to its client."""

from __future__ import annotations

import asyncio

import av
from aiortc.mediastreams import MediaStreamError, VideoStreamTrack

from streamgen.colours import ToYuv
from streamgen.core import Clock, Frame
from streamgen.rtc.pacing import Pacer
from streamgen.session import Session


class OutputTrack(VideoStreamTrack):
    """Gives each result when it is due, with its source frame's media timestamp."""

    def __init__(self, session: Session, clock: Clock) -> None:
        super().__init__()
        self._session = session
        self._clock = clock
        self._pacer = Pacer()
        self._to_yuv = ToYuv()

    async def recv(self) -> av.VideoFrame:
        """The next result, YUV 4:2:0 (see colours.py). Raises MediaStreamError once the session is over."""
        while True:
            finished = await self._session.finished()
            if finished is None:
                self.stop()
                raise MediaStreamError
            due = self._pacer.schedule(finished.frame.media_time, finished.at)
            picture = await asyncio.get_running_loop().run_in_executor(None, self._picture, finished.frame)
            wait = due - self._clock.now()
            if wait > 0:
                await asyncio.sleep(wait)
            if self._session.hand_over(finished):
                return picture

    def _picture(self, frame: Frame) -> av.VideoFrame:
        picture = self._to_yuv(av.VideoFrame.from_ndarray(frame.pixels, format="rgb24"))
        picture.pts = frame.pts
        picture.time_base = frame.time_base
        return picture
