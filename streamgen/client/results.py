"""What comes back of a session: taken off its connections at once, always, and kept for a reader who may be slow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from fractions import Fraction

from aiortc import MediaStreamTrack
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError
from av.video.frame import VideoFrame

from streamgen.client.mailbox import Mailbox
from streamgen.client.sources import Pixels
from streamgen.colours import ToRgb


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


class Results:
    """Those of one session, over one connection after the other."""

    def __init__(self, frame_size: tuple[int, int], buffer: int, tail_s: float) -> None:
        """See Options for `buffer` and `tail_s`."""
        self.frame_size = frame_size
        """(width, height) of the newest in pixels."""
        self.received = 0
        self._tail_s = tail_s
        self._pictures: Mailbox[tuple[VideoFrame, float]] = Mailbox(buffer)
        self._to_rgb = ToRgb()
        self._drain: asyncio.Task[None] | None = None
        self._tail: asyncio.TimerHandle | None = None

    @property
    def skipped(self) -> int:
        """Those that newer ones have replaced before they were read."""
        return self._pictures.skipped

    def take(self, track: MediaStreamTrack) -> None:
        """From now on those of `track` come, until it ends."""
        self._drain = asyncio.create_task(self._take(track), name="streamgen results")

    async def all_taken(self) -> None:
        """Waits for the end of the track that was taken last."""
        if self._drain is not None:
            await asyncio.wait([self._drain])

    async def leave(self) -> None:
        """What the track may still give is not wanted."""
        if self._drain is not None:
            self._drain.cancel()
            await asyncio.wait([self._drain])

    def end_soon(self) -> None:
        """No more are expected: `frames` ends when none came for the tail's time."""
        if self._tail is not None:
            self._tail.cancel()
        self._tail = asyncio.get_running_loop().call_later(self._tail_s, self._pictures.close)

    def forget_the_end(self) -> None:
        """The end that may be under way is somebody else's to make."""
        if self._tail is not None:
            self._tail.cancel()

    def close(self) -> None:
        """No more come; those that are here can still be read."""
        self._pictures.close()

    async def frames(self) -> AsyncIterator[Frame]:
        """As they come, until the end."""
        while (item := await self._pictures.take()) is not None:
            picture, received = item
            yield Frame(self._to_rgb(picture), picture.pts or 0, picture.time_base or VIDEO_TIME_BASE, received)

    async def _take(self, track: MediaStreamTrack) -> None:
        while True:
            try:
                picture = await track.recv()
            except MediaStreamError:
                return
            if isinstance(picture, VideoFrame):
                self.received += 1
                self.frame_size = picture.width, picture.height
                self._pictures.put((picture, time.monotonic()))
                if self._tail is not None:
                    self.end_soon()
