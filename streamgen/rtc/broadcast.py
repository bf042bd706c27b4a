"""The way of a session's results to everybody who takes them: its own client, and whoever watches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from fractions import Fraction

import av

from streamgen.colours import ToYuv
from streamgen.core import Clock, Frame
from streamgen.encoders import live_encoder
from streamgen.rtc.encoding import Encoded, Encoding, Seat
from streamgen.rtc.pacing import Pacer, Timeline
from streamgen.session import Session

REPEAT_S = 0.5
"""Where no result comes for so long, who has just begun to watch gets the last one again."""

DELAY_WEIGHT = 0.1


class Broadcast:
    """Encodes each result once for each codec, and shows it when it is due, with its source frame's media timestamp.

        session -> YUV -> [ encoding of H264 ] -> when due -> seats
                          [ encoding of VP8  ]             -> seats

    Nobody need take it: results that nobody sees are dropped as "unwatched".
    """

    def __init__(self, session: Session, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._pacer = Pacer()
        self._to_yuv = ToYuv()
        self._encodings: dict[str, Encoding] = {}
        self._timeline = Timeline()
        self._last: tuple[Frame, float] | None = None
        self.delay = 0.0
        """By how much later than they came frames are shown, smoothed (s)."""

    def seat(self, codec: str) -> Seat | None:
        """A place for one more viewer of a codec, by its MIME type; None for a codec that cannot be encoded."""
        self._prune()
        encoding = self._encodings.get(codec.lower())
        if encoding is None:
            session = self._session
            encoder = live_encoder(codec, lambda: session.running.fps, lambda: session.params.max_kbps * 1000)
            if encoder is None:
                return None
            encoding = self._encodings[codec.lower()] = Encoding(encoder, self._clock)
        return encoding.seat()

    @property
    def shown(self) -> bool:
        """Whether there has been a result: who begins to watch sees something."""
        return self._last is not None

    @property
    def viewers(self) -> int:
        """Seats that are taken."""
        return sum(len(encoding.seats) for encoding in self._encodings.values())

    async def run(self) -> None:
        """Until the session is over, or cancelled; ends all seats then."""
        try:
            while await self._show_next():
                pass
        finally:
            for encoding in self._encodings.values():
                encoding.close()

    async def _show_next(self) -> bool:
        """Shows the oldest result, unless it is taken back before; False once there will be none."""
        try:
            async with asyncio.timeout(REPEAT_S):
                finished = await self._session.finished()
        except TimeoutError:
            await self._repeat()
            return True
        if finished is None:
            return False
        due = self._pacer.schedule(finished.frame.media_time, finished.at, self._session.latest(finished))
        watched = [encoding for encoding in self._encodings.values() if encoding.taken]
        if watched and self._session.too_late(finished):
            self._session.discard(finished, "late")
            return True
        encoded = await self._encoded(finished.frame, finished.frame.media_fraction, watched) if watched else []
        wait = due - self._clock.now()
        if wait > 0:
            await asyncio.sleep(wait)
        if not watched:
            self._session.discard(finished, "unwatched")
            self._shown(finished.frame)
        elif self._session.hand_over(finished):
            _give(watched, encoded)
            self._shown(finished.frame)
        else:
            for encoding in watched:
                encoding.withhold()
        self._prune()
        return True

    def _shown(self, frame: Frame) -> None:
        now = self._clock.now()
        late = now - frame.arrived
        self.delay = late if self._last is None else self.delay + DELAY_WEIGHT * (late - self.delay)
        self._last = frame, now

    def _prune(self) -> None:
        """Forgets encodings that nobody takes."""
        self._encodings = {codec: encoding for codec, encoding in self._encodings.items() if encoding.seats}

    async def _repeat(self) -> None:
        """The last result once more, for those who could not show it; its timestamp goes on with the time."""
        waiting = [encoding for encoding in self._encodings.values() if encoding.waited_for]
        if self._last is None or not waiting:
            return
        frame, shown = self._last
        time = frame.media_fraction + Fraction(self._clock.now() - shown)
        _give(waiting, await self._encoded(frame, time, waiting))

    async def _encoded(self, frame: Frame, time: Fraction, encodings: Sequence[Encoding]) -> list[Encoded]:
        """The frame by each of them, at `time` (s); in a thread, and ahead of when it is due."""
        pts = round(self._timeline.place(time, Fraction(1, 1000)) / frame.time_base)
        keys = [encoding.begin() for encoding in encodings]
        return await asyncio.get_running_loop().run_in_executor(None, self._encode, frame, pts, encodings, keys)

    def _encode(self, frame: Frame, pts: int, encodings: Sequence[Encoding], keys: Sequence[bool]) -> list[Encoded]:
        rgb = av.VideoFrame.from_numpy_buffer(frame.pixels, format="rgb24")
        picture = self._to_yuv(rgb)
        picture.pts = pts
        picture.time_base = frame.time_base
        return [encoding.encode(picture, key) for encoding, key in zip(encodings, keys, strict=True)]


def _give(encodings: Sequence[Encoding], encoded: Sequence[Encoded]) -> None:
    for encoding, picture in zip(encodings, encoded, strict=True):
        encoding.give(picture)
